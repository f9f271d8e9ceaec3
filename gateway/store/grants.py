# SPDX-License-Identifier: GPL-2.0-or-later
"""Grants: what a link or a reply address in a digest lets its holder do, once, until it expires.

Reads hostile text: anybody may send a token. A token is an HMAC-SHA256, cut to 120 bits, over purpose, deed,
person, item, copy and expiry, under a key that never leaves the database; it is compared in constant
time, and before that nothing is said about it. It is made of letters and digits of one case, so that it
stands in a URL and in the local part of an address (RFC 5321 §4.5.3.1.1). To look at one changes nothing, so
that what prefetches links does no harm; to use one is a row in `spent_tokens`, in the transaction that does
what it is for.
"""

from __future__ import annotations

import hmac
import json
import re
import time
from base64 import b32decode, b32encode
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, delete, insert, select

from gateway.store import schema
from gateway.store.keys import shared_key

if TYPE_CHECKING:
    from gateway.store.database import Database

_PURPOSE: Final = "mailwarden grant 1"
_DIGITS: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # those of ids
_HOUR: Final = 3_600
_MAC_OCTETS: Final = 15
_POSITIONS: Final = 32**3
_ABOUT_A_COPY = re.compile(r"([RS])([0-9A-HJKMNP-TV-Z]{16})([0-9A-HJKMNP-TV-Z]{3})([0-9A-HJKMNP-TV-Z]{5})")
_LOGIN = re.compile(r"(L)([0-9A-HJKMNP-TV-Z]{5})([A-Z2-7]{8,520})")
_MAC = re.compile(r"[0-9A-HJKMNP-TV-Z]{24}")
LONGEST: Final = 600  # characters of a token


class Deed(StrEnum):
    """What a grant is for."""

    RELEASE = "release"  # release one's own copy, or ask for it
    SPAM = "spam"  # say that it is spam
    LOGIN = "login"  # see all that is held for oneself


_CODES: Final = {Deed.RELEASE: "R", Deed.SPAM: "S", Deed.LOGIN: "L"}
_DEEDS: Final = {code: deed for deed, code in _CODES.items()}


class GrantError(Exception):
    """The token is worth nothing (any more); the text may be shown to whoever holds it."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token lets `who` do. `item` and `position` are "" and 0 for a login."""

    deed: Deed
    who: str  # an address, in lower case
    expires: float  # seconds since 1970, a whole hour
    item: str = ""
    position: int = 0  # of the copy among the item's recipients


class Grants:
    """The grants of one database. Thread-safe; raises StoreError and GrantError."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: bytes = b""

    def seal(self, grant: Grant) -> str:
        """The token for a grant; its expiry is rounded up to the hour. Nothing is written."""
        who, hour = grant.who.lower(), -int(-grant.expires // _HOUR)
        if not 0 <= grant.position < _POSITIONS:
            raise GrantError("too many recipients")
        if grant.deed is Deed.LOGIN:
            name = b32encode(who.encode()).decode().rstrip("=")
            return f"L{_digits(hour, 5)}{name}" + self._mac(grant.deed, who, "", 0, hour)
        text = f"{_CODES[grant.deed]}{grant.item}{_digits(grant.position, 3)}{_digits(hour, 5)}"
        return text + self._mac(grant.deed, who, grant.item, grant.position, hour)

    def look(self, token: str) -> Grant:
        """What a token is for, if it is ours, has not expired and was not used. Changes nothing."""
        grant, mac = self._read(token)
        if self._database.read(lambda c: _is_spent(c, mac)):
            raise GrantError("this was used already")
        return grant

    def spend(self, connection: Connection, token: str) -> Grant:
        """Use a token up, in the transaction that does what it is for."""
        grant, mac = self._read(token, connection)
        if _is_spent(connection, mac):
            raise GrantError("this was used already")
        row = {"mac": mac, "item": grant.item, "used": time.time(), "expires": grant.expires}
        connection.execute(insert(schema.spent_tokens).values(row))
        return grant

    def use(self, token: str) -> Grant:
        """Use a token up by itself."""
        return self._database.write(lambda connection: self.spend(connection, token))

    def prune(self) -> int:
        """Forget used tokens that have expired."""
        table = schema.spent_tokens
        old = delete(table).where(table.c.expires < time.time() - _HOUR)
        return self._database.write(lambda connection: connection.execute(old).rowcount, durable=False)

    # -------------------------------------------------------------- inside

    def _read(self, token: str, connection: Connection | None = None) -> tuple[Grant, str]:
        """The grant, proven, and its MAC. Linear in what is at most LONGEST characters."""
        text = token.strip().upper() if len(token) <= LONGEST else ""
        body, mac = text[:-24], text[-24:]
        about, login = _ABOUT_A_COPY.fullmatch(body), _LOGIN.fullmatch(body)
        if not text.isascii() or not _MAC.fullmatch(mac) or not (about or login):
            raise GrantError("this is no link of ours, or not all of it")
        if about:
            deed, item = _DEEDS[about[1]], about[2]
            position, hour = _number(about[3]), _number(about[4])

            def find(c: Connection) -> str:
                return _recipient(c, item, position)

            who = find(connection) if connection is not None else self._database.read(find)
        else:
            assert login is not None
            deed, item, position, hour = Deed.LOGIN, "", 0, _number(login[2])
            who = _name(login[3])
        if not hmac.compare_digest(self._mac(deed, who, item, position, hour), mac):
            raise GrantError("this is no link of ours, or not all of it")
        if hour * _HOUR <= time.time():
            raise GrantError("this has expired")
        return Grant(deed, who, hour * _HOUR, item, position), mac

    def _mac(self, deed: Deed, who: str, item: str, position: int, hour: int) -> str:
        self._known = self._known or shared_key(self._database, "grants")
        facts = json.dumps([_PURPOSE, deed.value, who, item, position, hour])
        digest = hmac.digest(self._known, facts.encode(), "sha256")[:_MAC_OCTETS]
        return _digits(int.from_bytes(digest, "big"), 24)


def _recipient(connection: Connection, item: str, position: int) -> str:
    table = schema.quarantine_recipients
    chosen = select(table.c.address).where(table.c.item == item, table.c.position == position)
    return str(connection.execute(chosen).scalar() or "").lower()


def _is_spent(connection: Connection, mac: str) -> bool:
    table = schema.spent_tokens
    return connection.execute(select(table.c.mac).where(table.c.mac == mac)).first() is not None


def _name(text: str) -> str:
    """An address out of base32, "" for what is none."""
    try:
        return b32decode(text + "=" * (-len(text) % 8)).decode()
    except ValueError:
        return ""


def _digits(number: int, count: int) -> str:
    return "".join(_DIGITS[(number >> 5 * place) & 31] for place in range(count - 1, -1, -1))


def _number(text: str) -> int:
    value = 0
    for character in text:
        value = value << 5 | _DIGITS.index(character)
    return value
