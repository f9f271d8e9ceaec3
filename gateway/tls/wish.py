# SPDX-License-Identifier: GPL-2.0-or-later
"""What a message itself asks of TLS (RFC 8689): REQUIRETLS, or the header field TLS-Required: No.

Reads hostile bytes: header sections; linear. Kept among the ESMTP options of a queued message: the field
under a name that no client can give, since MAIL takes no such parameter.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

Wish = Literal["", "requiretls", "no"]

REQUIRETLS: Final = "REQUIRETLS"
NOT_REQUIRED: Final = "TLS-REQUIRED=NO"
_ANY: Final = re.compile(rb"(?:\A|\r\n)TLS-Required[ \t]*:", re.IGNORECASE)
_NO: Final = re.compile(
    rb"(?:\A|\r\n)TLS-Required:[ \t]*(?:\r\n[ \t]+)?No[ \t]*(?=\r\n(?![ \t])|\Z)", re.IGNORECASE
)


def wish_of(options: Sequence[str]) -> Wish:
    """The wish among the options of a message."""
    if REQUIRETLS in options:
        return "requiretls"
    return "no" if NOT_REQUIRED in options else ""


def with_field(options: tuple[str, ...], message: bytes) -> tuple[str, ...]:
    """The options of `message`, and what its header section asks for; REQUIRETLS goes over that (§4.1)."""
    if REQUIRETLS in options:
        return options
    end = message.find(b"\r\n\r\n")
    head = message[: end if end >= 0 else len(message)]
    if b"tls-required" not in head.lower():
        return options
    once = len(_ANY.findall(head)) == 1  # several fields are none
    return (*options, NOT_REQUIRED) if once and _NO.search(head) else options
