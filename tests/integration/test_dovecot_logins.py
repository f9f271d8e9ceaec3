# SPDX-License-Identifier: GPL-2.0-or-later
"""Logins that a real Dovecot answers for: its auth socket, and IMAP with TLS at once and by STARTTLS."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest

from contrib.lab.certificates import Authority
from contrib.lab.dovecot import PASSWORD, Dovecot
from gateway.logins.owners import LIMITS
from gateway.logins.settings import LoginSettings
from gateway.logins.sources import Answer, Credentials, load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.server("dovecot")


@pytest.fixture(scope="module")
def places(lab: Path) -> Iterator[tuple[dict[str, str], Path]]:
    directory = lab / "dovecot-logins"
    authority = Authority(lab / "dovecot-logins-ca")
    with Dovecot(directory, authority.issue("localhost"), "alice", "bob") as server:
        yield (
            {
                "socket": f"dovecot:{directory}/run/auth-client",
                "imaps": f"imaps:localhost:{server.port}",
                "starttls": f"imap:localhost:{server.clear}",
            },
            authority.certificate,
        )


@pytest.mark.parametrize("kind", ["socket", "imaps", "starttls"])
def test_dovecot_says_who_may_log_in(kind: str, places: tuple[dict[str, str], Path]) -> None:
    users, ca = places
    logins = load(LoginSettings(users=users[kind], ca_file=str(ca)), LIMITS)
    assert logins is not None
    check = logins.source.check
    assert check(Credentials("Alice", PASSWORD, "192.0.2.1")) == Answer("yes", "alice")
    assert check(Credentials("alice", "wrong", "192.0.2.1")).status == "no"
    assert check(Credentials("nobody", PASSWORD)).status == "no"


def test_an_imap_server_that_cannot_be_trusted_is_told_no_password(
    places: tuple[dict[str, str], Path], tmp_path: Path
) -> None:
    users, _ = places
    other = Authority(tmp_path).certificate
    for kind in ("imaps", "starttls"):
        logins = load(LoginSettings(users=users[kind], ca_file=str(other)), LIMITS)
        assert logins is not None
        with pytest.raises(ssl.SSLCertVerificationError):
            logins.source.check(Credentials("alice", PASSWORD))
