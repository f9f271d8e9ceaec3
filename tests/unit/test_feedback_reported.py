# SPDX-License-Identifier: GPL-2.0-or-later
"""Who counts as one reporter."""

import pytest

from gateway.feedback.reported import reporter
from gateway.mail.types import Session


@pytest.mark.parametrize(
    ("session", "who"),
    [
        (Session("192.0.2.10", login="alice"), "alice"),
        (Session("192.0.2.10"), "192.0.2.10"),
        (Session("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64"),
        (Session("2001:db8:1:2:ffff::1"), "2001:db8:1:2::/64"),  # no second voice, and no second limit
        (Session(), "local"),
    ],
)
def test_a_reporter_is_a_login_or_a_client(session: Session, who: str) -> None:
    assert reporter(session) == who
