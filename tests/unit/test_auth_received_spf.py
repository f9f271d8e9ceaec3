# SPDX-License-Identifier: GPL-2.0-or-later
"""The Received-SPF field: RFC 7208's grammar whatever the client says, and nothing that we did not check."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.received_spf import received_spf
from gateway.auth.upstream import RELAYED
from gateway.mail.types import Edit, EditOp, Envelope, Evidence, Mail, Session, Spf

_ATOM = r"[!#$%&'*+\-/0-9=?A-Z^_`a-z{|}~]+"
_PAIR = rf"[a-z-]+=(?:{_ATOM}(?:\.{_ATOM})*|\"(?:[ !#-\[\]-~]|\\[\"\\])*\")"
_FIELD = re.compile(rf"[a-z]+ \([a-z ,]+\)\s+{_PAIR}(?:;\s+{_PAIR})*\Z")


def field(
    spf: Spf, *, sender: str = "alice@example.net", helo: str = "mail.example.net", ip: str = "192.0.2.1"
) -> str:
    mail = Mail("0" * 16, Session(client_ip=ip, helo=helo), Envelope(sender, ("b@example.org",)), b"")
    return received_spf("mx.example.org", Evidence(spf=(spf, Spf("helo", helo, "fail"))), mail)


@pytest.mark.parametrize("word", ["pass", "fail", "softfail", "neutral", "none", "temperror", "permerror"])
def test_each_result(word: str) -> None:
    value = field(Spf("mailfrom", "example.net", word))  # type: ignore[arg-type]  # one of them
    assert _FIELD.match(value)
    assert value.startswith(f"{word} (")
    assert 'envelope-from="alice@example.net"' in value


def test_the_null_sender_is_checked_by_helo() -> None:
    value = field(Spf("mailfrom", "mail.example.net", "pass"), sender="", ip="2001:db8::1")
    assert _FIELD.match(value)
    assert 'identity=helo;\n\tclient-ip="2001:db8::1";\n\tenvelope-from="";' in value


def test_nothing_is_stated_that_was_not_checked() -> None:
    assert not field(Spf("mailfrom", "example.net", "pass", RELAYED))
    assert not field(Spf("mailfrom", "example.net", "policy"))
    assert not field(Spf("helo", "example.net", "pass"))


@given(sender=st.text(max_size=400), helo=st.text(max_size=400))
def test_hostile_names_stay_in_their_place(sender: str, helo: str) -> None:
    value = field(Spf("mailfrom", "example.net", "fail"), sender=sender, helo=helo)
    Edit(EditOp.INSERT, "Received-SPF", value)
    assert _FIELD.match(value)
    assert value.count("\n") == 5
