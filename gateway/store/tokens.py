# SPDX-License-Identifier: GPL-2.0-or-later
"""Release tokens: how a released message proves, on its way back in, that we released it.

Reads hostile text: anyone may put the field into a message. A token is an HMAC-SHA256 over one
purpose, the item, the SHA-256 of the message, its recipients and an expiry, under a random key that
never leaves the database; it is compared in constant time and is worth nothing for any other
message or recipient. The field is removed from every message that comes in.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_PURPOSE = "mailwarden release 1"
_TOKEN = re.compile(r"\s*([0-9A-HJKMNP-TV-Z]{16})\.([0-9a-f]{32})\.([A-Za-z0-9_-]{43})\s*", re.ASCII)
# What a mail server puts on top of a message that passes through it (RFC 5321 §4.4).
_TRACE = re.compile(
    rb"(?:(?:received|return-path|delivered-to|x-original-to):[^\n]*+\n(?:[ \t][^\n]*+\n)*+)*+", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Token:
    """A token as read from the field; nothing about it is proven yet."""

    item: str
    nonce: str
    mac: str


@dataclass(frozen=True, slots=True)
class Bond:
    """What a token is bound to. `sha256` is lower-case hex, `expires` seconds since 1970."""

    item: str
    nonce: str
    sha256: str
    recipients: tuple[str, ...]  # as `normal` makes them
    expires: float


def new_nonce() -> str:
    """128 random bits, as hex."""
    return os.urandom(16).hex()


def seal(key: bytes, bond: Bond) -> str:
    """Make the token for one release."""
    return f"{bond.item}.{bond.nonce}.{_mac(key, bond)}"


def parse(value: str) -> Token | None:
    """Read a token from a field value, or None if it is none. Linear, never raises."""
    found = _TOKEN.fullmatch(value[:200]) if len(value) <= 200 else None
    return Token(found[1], found[2], found[3]) if found else None


def proves(token: Token, key: bytes, bond: Bond) -> bool:
    """Whether `token` was sealed by us for exactly these facts. Constant time."""
    return hmac.compare_digest(_mac(key, bond), token.mac)


def same_message(raw: bytes, size: int, sha256: str) -> bool:
    """Whether `raw` is the message of this size and hash, but for trace fields put on top of it."""
    extra = len(raw) - size
    if extra < 0 or (extra and not _TRACE.fullmatch(raw, 0, extra)):
        return False
    return hmac.compare_digest(hashlib.sha256(memoryview(raw)[extra:]).hexdigest(), sha256)


def normal(recipients: Sequence[str]) -> tuple[str, ...]:
    """The recipients as a token binds them: case and order do not matter."""
    return tuple(sorted({recipient.lower() for recipient in recipients}))


def _mac(key: bytes, bond: Bond) -> str:
    facts = json.dumps([_PURPOSE, bond.item, bond.nonce, bond.sha256, bond.recipients, repr(bond.expires)])
    digest = hmac.digest(key, facts.encode(), "sha256")
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
