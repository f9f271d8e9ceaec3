# SPDX-License-Identifier: GPL-2.0-or-later
"""AUTH's exchange for PLAIN (RFC 4616) and LOGIN: from its lines to a name and a password. No I/O.

Reads hostile bytes: base64 of bounded length. Whatever is not exactly base64 of UTF-8 is refused.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

from gateway.smarthost.commands import CommandError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

MECHANISMS = ("PLAIN", "LOGIN")
LONGEST = 12_288  # octets of a line (RFC 4954 §4)


async def claimed(rest: str, ask: Callable[[str], Awaitable[bytes | None]]) -> tuple[str, str] | None:
    """The name and password that AUTH's argument and the client's answers give.

    `ask` sends a challenge, in clear here, and returns the line that comes, None where the session ends,
    and so does this. Raises CommandError.
    """
    words = rest.split(" ")
    mechanism = words[0].upper()
    if not mechanism or len(words) > 2:
        raise CommandError(501, "5.5.4", "Syntax: AUTH mechanism [initial-response]")
    if mechanism not in MECHANISMS:
        raise CommandError(504, "5.5.4", "Authentication mechanism is not supported")
    given = [_decoded(words[1].encode())] if len(words) == 2 else []
    challenges = ("",) if mechanism == "PLAIN" else ("Username:", "Password:")
    for challenge in challenges[len(given) :]:
        line = await ask(challenge)
        if line is None:
            return None
        if line == b"*":
            raise CommandError(501, "5.7.0", "Authentication cancelled")
        given.append(_decoded(line))
    return _plain(given[0]) if mechanism == "PLAIN" else (given[0], given[1])


def challenge(text: str) -> bytes:
    """The line that asks for the next answer, without its CRLF."""
    return b"334 " + base64.b64encode(text.encode())


def _decoded(text: bytes) -> str:
    if len(text) > LONGEST:
        raise CommandError(500, "5.5.6", "Authentication line too long")
    try:
        return base64.b64decode(b"" if text == b"=" else text, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise CommandError(501, "5.5.2", "Malformed authentication response") from None


def _plain(text: str) -> tuple[str, str]:
    """PLAIN's message. Who wants to act for another one is refused (RFC 4616 §2)."""
    parts = text.split("\0")
    if len(parts) != 3 or not parts[1] or not parts[2]:
        raise CommandError(501, "5.5.2", "Malformed authentication response")
    if parts[0] and parts[0].lower() != parts[1].lower():
        raise CommandError(535, "5.7.8", "Nobody may act for others here")
    return parts[1], parts[2]
