# SPDX-License-Identifier: GPL-2.0-or-later
"""Users of the web page whose passwords a real Dovecot knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from contrib.lab.certificates import Authority
from contrib.lab.dovecot import PASSWORD, Dovecot
from gateway.web.settings import WebSettings
from tests.websites import Place

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.server("dovecot")


def test_a_user_logs_in_with_the_password_of_their_mailbox(lab: Path, tmp_path: Path) -> None:
    authority = Authority(lab / "dovecot-web-ca")
    with Dovecot(lab / "dovecot-web", authority.issue("localhost"), "erin@example.com") as server:
        settings = WebSettings(
            users=f"imaps:localhost:{server.port}",
            ca_file=str(authority.certificate),
            user_domains=("example.com",),
        )
        place = Place(tmp_path, settings)
        mine, other = place.hold("erin@example.com"), place.hold("bob@example.com")
        browser = place.browser()
        browser.log_in("Erin@example.com", "wrong", 403)
        browser.log_in("bob@example.com", PASSWORD, 403)
        browser.log_in("Erin@example.com", PASSWORD)
        page = browser.get("/held")
        assert mine.id in page
        assert other.id not in page
        browser.get("/account")
        browser.post("/account/password", 400, old=PASSWORD, new="another long one")
        place.close()
