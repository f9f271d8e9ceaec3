# SPDX-License-Identifier: GPL-2.0-or-later
"""Who did what to which held message, when and why: append-only, each row chained to the last.

A row's hash covers the row and the hash before it, and the newest hash is kept apart, so that a row
changed, removed or cut off the end is found by `verify`. The database itself refuses to update or
delete rows. `why` may quote hostile text (a next hop's reply); it is made printable here.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Connection, bindparam, insert, select, update

from gateway.mail.headers import printable
from gateway.store import schema

if TYPE_CHECKING:
    from collections.abc import Sequence

_HEAD = "audit-head"
_START = "0" * 64
_PAGE = 1_000

# Built once: most of a statement's cost is building it.
_READ_HEAD = (
    select(schema.secrets.c.value).where(schema.secrets.c.name == bindparam("head", _HEAD)).with_for_update()
)
_WRITE_HEAD = (
    update(schema.secrets)
    .where(schema.secrets.c.name == bindparam("head", _HEAD))
    .values(value=bindparam("text"))
)
_INSERT = insert(schema.audit)


@dataclass(frozen=True, slots=True)
class Event:
    """One row of the audit. `time` is in seconds since 1970."""

    number: int
    time: float
    item: str
    who: str
    action: str
    why: str


def append(connection: Connection, item: str, who: str, action: str, why: str = "") -> None:
    """Add a row, in the transaction that does what it tells of."""
    append_all(connection, [item], who, action, why)


def append_all(connection: Connection, items: Sequence[str], who: str, action: str, why: str = "") -> None:
    """Add a row for each of `items`, to which the same happened."""
    if not items:
        return
    found = connection.execute(_READ_HEAD).scalar()
    if found is None:
        number, previous = 0, _START
        connection.execute(insert(schema.secrets), {"name": _HEAD, "value": b""})
    else:
        text, _, previous = found.decode().partition(" ")
        number = int(text)
    rows = []
    for item in items:
        number += 1
        row = Event(number, time.time(), item, printable(who, 100), action, printable(why, 500))
        previous = _hash(row, previous)
        rows.append({**asdict(row), "hash": previous})
    connection.execute(_INSERT, rows)
    connection.execute(_WRITE_HEAD, {"text": f"{number} {previous}".encode()})


def events(connection: Connection, item: str) -> list[Event]:
    """What happened to one item, oldest first."""
    audit = schema.audit
    rows = connection.execute(select(audit).where(audit.c.item == item).order_by(audit.c.number))
    return [_event(row._mapping) for row in rows]  # noqa: SLF001  # SQLAlchemy's public name for it


def latest(connection: Connection, limit: int) -> list[Event]:
    """What happened last, newest first."""
    audit = schema.audit
    rows = connection.execute(select(audit).order_by(audit.c.number.desc()).limit(limit))
    return [_event(row._mapping) for row in rows]  # noqa: SLF001  # as above


def head(connection: Connection) -> str:
    """Number and hash of the newest row, "" if there is none."""
    found = connection.execute(_READ_HEAD).scalar()
    return found.decode() if found else ""


def verify(connection: Connection, known: tuple[int, str] | None = None) -> int | None:
    """Check the whole chain. Returns None, or the number of the first row that does not fit.

    `known` is the number of a row and its hash, as `head` told them once: who writes to the database can make
    a whole chain anew, but not one in which that row has that hash.
    """
    audit = schema.audit
    previous, expected = _START, 1
    page = select(audit).where(audit.c.number > bindparam("after")).order_by(audit.c.number).limit(_PAGE)
    after = 0
    if connection.execute(select(audit.c.number).where(audit.c.number < 1).limit(1)).first() is not None:
        return 1  # somebody put rows in front
    while rows := connection.execute(page, {"after": after}).all():
        for row in rows:
            event = _event(row._mapping)  # noqa: SLF001  # as above
            if event.number != expected or row.hash != _hash(event, previous):
                return expected
            if known is not None and known[0] == event.number and known[1] != row.hash:
                return expected
            previous, expected, after = row.hash, expected + 1, event.number
    if known is not None and known[0] >= expected:
        return expected
    head = connection.execute(_READ_HEAD).scalar()
    if head is None:
        return None if expected == 1 else expected
    return None if head.decode() == f"{expected - 1} {previous}" else expected


def _event(row: object) -> Event:
    return Event(*(row[name] for name in ("number", "time", "item", "who", "action", "why")))  # type: ignore[index]  # a RowMapping


def _hash(event: Event, previous: str) -> str:
    fields = [previous, event.number, repr(event.time), event.item, event.who, event.action, event.why]
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()
