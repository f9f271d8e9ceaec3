# SPDX-License-Identifier: GPL-2.0-or-later
"""What a message asks of TLS: REQUIRETLS, and the field TLS-Required: No."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.tls.wish import NOT_REQUIRED, wish_of, with_field


@pytest.mark.parametrize(
    ("head", "asks"),
    [
        (b"TLS-Required: No", True),
        (b"tls-required:no", True),
        (b"Subject: x\r\nTLS-Required: \tNO \r\nTo: y", True),
        (b"TLS-Required:\r\n No", True),
        (b"TLS-Required: No\r\n continued", False),
        (b"TLS-Required: Nope", False),
        (b"TLS-Required: Yes", False),
        (b"X-TLS-Required: No", False),
        (b"TLS-Required: No\r\nTLS-Required: No", False),
        (b"TLS-Required: No\r\nTLS-Required : Yes", False),
        (b"Subject: x\r\n TLS-Required: No", False),
        (b"Subject: x", False),
        (b"", False),
    ],
)
def test_the_field(head: bytes, asks: bool) -> None:
    for message in (head + b"\r\n\r\nTLS-Required: No\r\n", head + b"\r\n\r\n"):
        assert with_field(("SMTPUTF8",), message) == (("SMTPUTF8", NOT_REQUIRED) if asks else ("SMTPUTF8",))


def test_requiretls_goes_over_the_field() -> None:
    options = with_field(("REQUIRETLS",), b"TLS-Required: No\r\n\r\n")
    assert wish_of(options) == "requiretls"
    assert wish_of((NOT_REQUIRED,)) == "no"
    assert wish_of(("SMTPUTF8", "BODY=8BITMIME")) == ""


@given(st.binary())
def test_no_message_is_a_surprise(message: bytes) -> None:
    with_field((), message)
