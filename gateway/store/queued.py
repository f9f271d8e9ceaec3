# SPDX-License-Identifier: GPL-2.0-or-later
"""What a queued message is: values, and the statements that read them. `queue.py` changes them.

Holds addresses from hostile envelopes and replies of next hops, exactly as the doors and the relay
client have checked them; whoever prints them makes them printable. All SQL is parameterised.

States of a recipient:
    queued -> leased (by one delivery agent) -> delivered | failed (the sender was told)
    leased -> queued (deferred; or its agent died)
    leased -> undeliverable (refused for good, and nobody may be told)
    queued -> held (by an operator, or because agents died of it) -> queued
A message is gone with its last recipient that is neither delivered nor failed.
"""

from __future__ import annotations

import contextlib
import zlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from sqlalchemy import BindParameter, ColumnElement, Connection, bindparam, delete, insert, select

from gateway.store import schema
from gateway.store.database import StoreError
from gateway.store.encoding import from_json, to_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

FAST_SIZE = 262_144  # octets up to which a message is read together with its claim


class DamagedError(StoreError):
    """The bytes of a message are not what was queued."""


class State(StrEnum):
    """Where a recipient of a queued message is."""

    QUEUED = "queued"
    LEASED = "leased"
    HELD = "held"
    UNDELIVERABLE = "undeliverable"
    DELIVERED = "delivered"
    FAILED = "failed"


DONE = (State.DELIVERED, State.FAILED)  # nothing more happens to these


@dataclass(frozen=True, slots=True)
class Addressee:
    """A recipient to be queued. `hop` is the next hop by the routes of now; options are RCPT's."""

    address: str
    hop: str = ""
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to be queued, as it is to be sent. Times are seconds since 1970."""

    id: str
    sender: str  # "" is the null sender
    recipients: tuple[Addressee, ...]
    message: bytes = field(repr=False)
    created: float
    expires: float
    options: tuple[str, ...] = ()  # of MAIL
    may_bounce: bool = True
    packed: bytes = field(default=b"", repr=False)  # `message` packed already, if there was a better time


@dataclass(frozen=True, slots=True)
class Facts:
    """A queued message without its bytes."""

    id: str
    created: float
    expires: float
    sender: str
    options: tuple[str, ...]
    may_bounce: bool
    warned: float
    size: int


@dataclass(frozen=True, slots=True)
class Recipient:
    """One recipient of a queued message, and what became of it so far."""

    number: int
    item: str
    address: str
    options: tuple[str, ...]
    hop: str
    state: State
    next_attempt: float
    attempts: int
    deaths: int
    changed: float
    reply: str
    server: str = ""
    tls: str = ""
    ended: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """A queued message with its recipients."""

    facts: Facts
    recipients: tuple[Recipient, ...]


@dataclass(frozen=True, slots=True)
class Claim:
    """Some recipients of one message, leased to one delivery agent."""

    facts: Facts
    recipients: tuple[Recipient, ...]
    message: bytes | None = field(default=None, repr=False)  # None: large, read it when its turn comes


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a leased recipient; QUEUED with `next_attempt` if it was deferred."""

    number: int
    item: str
    state: State
    reply: str = ""
    next_attempt: float = 0.0
    attempts: int = 0
    hop: str = ""
    server: str = ""  # which answered
    tls: str = ""  # of the session with it
    ended: str = ""  # a word of `deliveries.Ended`, if anything but that of the state


@dataclass(frozen=True, slots=True)
class Notice:
    """A message to queue with the outcomes of the recipients that it tells of."""

    message: Outgoing
    about: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What to look for. Texts match any part, in any case; an empty one matches everything."""

    ids: tuple[str, ...] = ()
    sender: str = ""
    recipient: str = ""
    hop: str = ""
    state: State | None = None
    since: float | None = None  # by when it was queued
    until: float | None = None
    limit: int = 100
    offset: int = 0


def pack(message: bytes) -> bytes:
    """The message as the database keeps it: with a checksum, and not made smaller, since it soon goes on."""
    return zlib.compress(message, 0)


def unpack(data: bytes, size: int, item: str) -> bytes:
    """The message again. Raises DamagedError if it is not what was packed."""
    reader = zlib.decompressobj()
    try:
        message = reader.decompress(data, size + 1)
    except (zlib.error, TypeError) as error:
        raise DamagedError(f"{item} is damaged: {error}") from error
    if len(message) != size or not reader.eof:
        raise DamagedError(f"{item} is damaged: its size differs")
    return message


# Built once: most of a statement's cost is building it.
_MESSAGE = insert(schema.queue_messages)
_BYTES = insert(schema.queue_bytes)
_RECIPIENT = insert(schema.queue_recipients)
_ITEMS: BindParameter[Any] = bindparam("items", expanding=True)
_REMOVE = [
    delete(column.table).where(column.in_(_ITEMS))
    for column in (schema.queue_recipients.c.item, schema.queue_bytes.c.item, schema.queue_messages.c.id)
]
_MESSAGES = (
    select(schema.queue_messages, schema.queue_bytes.c.data)
    .outerjoin(
        schema.queue_bytes,
        (schema.queue_bytes.c.item == schema.queue_messages.c.id)
        & (schema.queue_messages.c.size <= FAST_SIZE),
    )
    .where(schema.queue_messages.c.id.in_(_ITEMS))
)
_PEOPLE = (
    select(schema.queue_recipients)
    .where(schema.queue_recipients.c.item.in_(_ITEMS))
    .order_by(schema.queue_recipients.c.number)
)


def put(connection: Connection, messages: Sequence[Outgoing]) -> None:
    """Insert messages and their recipients, due at once."""
    facts, contents, recipients = [], [], []
    for one in messages:
        facts.append(
            {
                "id": one.id,
                "created": one.created,
                "expires": one.expires,
                "sender": one.sender,
                "options": to_json(one.options),
                "may_bounce": int(one.may_bounce),
                "warned": 0.0,
                "size": len(one.message),
            }
        )
        contents.append({"item": one.id, "data": one.packed or pack(one.message)})
        recipients += [
            {
                "item": one.id,
                "address": to.address,
                "options": to_json(to.options),
                "hop": to.hop,
                "state": State.QUEUED,
                "next_attempt": one.created,
                "attempts": 0,
                "deaths": 0,
                "lease": "",
                "changed": one.created,
                "reply": "",
                "server": "",
                "tls": "",
                "ended": "",
            }
            for to in one.recipients
        ]
    connection.execute(_MESSAGE, facts)
    connection.execute(_BYTES, contents)
    connection.execute(_RECIPIENT, recipients)


def remove(connection: Connection, items: Sequence[str]) -> None:
    """Delete messages with all that belongs to them."""
    for statement in _REMOVE:
        connection.execute(statement, {"items": list(items)})


def facts_of(row: Any) -> Facts:
    """A message's row as a value."""
    return Facts(
        id=row.id,
        created=row.created,
        expires=row.expires,
        sender=row.sender,
        options=from_json(row.options, tuple[str, ...]),
        may_bounce=bool(row.may_bounce),
        warned=row.warned,
        size=row.size,
    )


def recipient_of(row: Any) -> Recipient:
    """A recipient's row as a value."""
    return Recipient(
        number=row.number,
        item=row.item,
        address=row.address,
        options=from_json(row.options, tuple[str, ...]),
        hop=row.hop,
        state=State(row.state),
        next_attempt=row.next_attempt,
        attempts=row.attempts,
        deaths=row.deaths,
        changed=row.changed,
        reply=row.reply,
        server=row.server,
        tls=row.tls,
        ended=row.ended,
    )


def messages(connection: Connection, items: Iterable[str]) -> dict[str, tuple[Facts, bytes | None]]:
    """The messages of these ids that are there, with their bytes unless they are large or damaged."""
    found: dict[str, tuple[Facts, bytes | None]] = {}
    for row in connection.execute(_MESSAGES, {"items": list(items)}):
        facts = facts_of(row)
        message = None
        if row.data is not None:
            with contextlib.suppress(DamagedError):  # its own reading, later, says what is wrong
                message = unpack(row.data, facts.size, facts.id)
        found[facts.id] = facts, message
    return found


def recipients(connection: Connection, items: Sequence[str]) -> dict[str, list[Recipient]]:
    """The recipients of each message, in envelope order."""
    found: dict[str, list[Recipient]] = {}
    for row in connection.execute(_PEOPLE, {"items": list(items)}):
        found.setdefault(row.item, []).append(recipient_of(row))
    return found


def conditions(wanted: Filter) -> list[ColumnElement[bool]]:
    """`wanted` as SQL conditions on a recipient joined with its message; done ones match no filter."""
    message, table = schema.queue_messages, schema.queue_recipients
    found: list[ColumnElement[bool]] = []
    if wanted.ids:
        found.append(table.c.item.in_(wanted.ids))
    for column, part in (
        (message.c.sender, wanted.sender),
        (table.c.address, wanted.recipient),
        (table.c.hop, wanted.hop),
    ):
        if part:
            found.append(column.icontains(part, autoescape=True))
    if wanted.state is not None:
        found.append(table.c.state == wanted.state)
    else:
        found.append(table.c.state.not_in(DONE))
    if wanted.since is not None:
        found.append(message.c.created >= wanted.since)
    if wanted.until is not None:
        found.append(message.c.created < wanted.until)
    return found
