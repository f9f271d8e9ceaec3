# SPDX-License-Identifier: GPL-2.0-or-later
"""What a held message is, and the statements that its states are made of.

Takes hostile text; every column that is searched or shown is made printable and bounded here, and
all SQL is parameterised. `quarantine.py` and
`decisions.py` say when each statement runs, and in which transaction.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, RowMapping, and_, delete, insert, select, update

from gateway.mail.headers import printable
from gateway.store import schema
from gateway.store.database import StoreError
from gateway.store.encoding import from_json, to_json
from gateway.store.journal import message_id
from gateway.store.reach import keys_of
from gateway.store.search import folded
from gateway.store.states import GONE, OPEN, Event, State, after, of_item, sources

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Insert

    from gateway.mail.types import Content, Envelope, Evidence, Mail, Session, Signal, Verdict, Versions
    from gateway.store.states import Actor


# Built once: most of a statement's cost is building it.
_ITEM = insert(schema.quarantine)
_EXACT = insert(schema.quarantine_envelopes)
_RECIPIENT = insert(schema.quarantine_recipients)
_JUDGEMENT = insert(schema.quarantine_judgements)
_REASON = insert(schema.quarantine_reasons)
_WORDS = insert(schema.quarantine_words)
_REACH = insert(schema.quarantine_reach)
_STAMPS = 8  # of an item: so many nodes may have other signatures, rules or models at a time
_MANY = 1_000  # items read at once: a database takes only so many parameters

DELIVERED_WITHOUT = "delivered without what was stripped"  # the note of a recipient who has a copy


@dataclass(frozen=True, slots=True)
class HeldRecipient:
    """One recipient of a held message. `delivered_to` differs where it was redirected."""

    address: str
    state: State
    changed: float
    delivered_to: str = ""
    note: str = ""  # the last failure, or what was delivered already


@dataclass(frozen=True, slots=True)
class Item:
    """A held message without its bytes. Texts are printable; times are seconds since 1970."""

    id: str
    queue_id: str
    received: float
    held_at: float
    client_ip: str
    helo: str
    sender: str
    subject: str
    message_id: str
    size: int
    sha256: str
    score: float
    reason: str
    state: State
    changed: float
    content: bool  # whether the message is still there
    judged_by: str  # stamps of what looked at it, the last first: signatures, policy and model
    reasons: tuple[str, ...]
    answered: tuple[str, ...]  # those of the reasons that somebody answered
    recipients: tuple[HeldRecipient, ...]


@dataclass(frozen=True, slots=True)
class Judgement:
    """Why an item was held (the first), or what a later scan said."""

    time: float
    evidence: Evidence
    signals: tuple[Signal, ...]
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Original:
    """What a release delivers: exact envelope and bytes."""

    session: Session
    envelope: Envelope
    raw: bytes


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to deliver an item to these recipients, for this claimant alone, until then."""

    item: str
    lease: str
    recipients: tuple[str, ...]
    until: float


def rows_of(
    mail: Mail,
    content: Content | None,
    judgement: Judgement,
    people: Sequence[str],
    reasons: Sequence[str],
) -> list[tuple[Insert, Any]]:
    """All that is inserted for one item, but for its bytes. `people` are the held recipients."""
    now, verdict = judgement.time, judgement.verdict
    item = {
        "id": mail.id,
        "queue_id": printable(mail.queue_id, 64),
        "received": mail.received,
        "held_at": now,
        "client_ip": printable(mail.session.client_ip, 64),
        "helo": printable(mail.session.helo, 255),
        "sender": printable(mail.envelope.mail_from, 320),
        "subject": printable(content.subject, 300) if content else "",
        "message_id": message_id(content),
        "size": len(mail.raw),
        "sha256": hashlib.sha256(mail.raw).hexdigest(),
        "score": verdict.score,
        "reason": printable(verdict.reason, 128),
        "state": State.HELD,
        "changed": now,
        "content": 1,
        "judged_by": stamp(judgement),
    }
    exact = {
        "item": mail.id,
        "session": to_json(mail.session),
        "envelope": to_json(mail.envelope),
        "held": to_json(people),
    }
    free = {"lease": "", "lease_until": 0.0, "delivered_to": ""}
    addresses, stripped = [printable(one, 320) for one in people], set(verdict.stripped)
    recipients = [
        {"item": mail.id, "position": n, "address": address, "state": State.HELD, "changed": now}
        | {"note": DELIVERED_WITHOUT if people[n] in stripped else ""}
        for n, address in enumerate(addresses)
    ]
    names = [{"item": mail.id, "name": name} for name in dict.fromkeys(printable(r, 128) for r in reasons)]
    found: list[tuple[Insert, Any]] = [
        (_ITEM, item),
        (_EXACT, exact),
        (_RECIPIENT, [{**recipient, **free} for recipient in recipients]),
        (_JUDGEMENT, judgement_row(mail.id, 0, judgement)),
        (_WORDS, _words(item, recipients)),
        (_REACH, [{"key": key, "item": mail.id} for key in keys_of(addresses)]),
    ]
    return [*found, (_REASON, names)] if names else found


def judgement_row(item: str, number: int, judgement: Judgement) -> dict[str, Any]:
    """A verdict with all that led to it; number 0 is what the item was held for."""
    return {
        "item": item,
        "number": number,
        "time": judgement.time,
        "evidence": to_json(judgement.evidence),
        "signals": to_json(judgement.signals),
        "verdict": to_json(judgement.verdict),
    }


def _words(item: Mapping[str, Any], recipients: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What an item is searched by."""
    return {
        "item": item["id"],
        "held_at": item["held_at"],
        "score": item["score"],
        "size": item["size"],
        "sender": folded(item["sender"]),
        "people": folded("\n".join(row["address"] for row in recipients)),
        "subject": folded(item["subject"]),
        "state": item["state"],
    }


def decode(text: str, kind: Any) -> Any:
    """Decode a JSON column into `kind`. Raises StoreError."""
    try:
        return from_json(text, kind)
    except ValueError as error:
        raise StoreError(f"a held message's record cannot be read: {error}") from error


def bytes_of(connection: Connection, item: str) -> bytes:
    """The message, unpacked to no more than its size and proven by its SHA-256."""
    table, packed = schema.quarantine, schema.quarantine_bytes
    row = connection.execute(
        select(table.c.size, table.c.sha256, packed.c.data)
        .join(packed, packed.c.item == table.c.id)
        .where(table.c.id == item)
    ).first()
    if row is None:
        raise StoreError(f"{item} holds no message any more")
    try:
        raw = zlib.decompressobj().decompress(row.data, row.size + 1)
    except (zlib.error, TypeError) as error:
        raise StoreError(f"{item} is damaged: {error}") from error
    if hashlib.sha256(raw).hexdigest() != row.sha256:
        raise StoreError(f"{item} is damaged: its SHA-256 differs")
    return raw


def stamp(judgement: Judgement) -> str:
    """What judged: when all of it is as it was, judging again says nothing new."""
    return stamp_of(judgement.verdict.versions, judgement.evidence.antivirus.engine)


def stamp_of(versions: Versions, engine: str) -> str:
    """The same for what judges now; `engine` is the virus scanner's version with its signatures."""
    return printable(f"{versions.policy} {versions.model} {engine}", 300)


def stamps(judged_by: str) -> tuple[str, ...]:
    """All that an item was judged by lately, the last first."""
    return tuple(judged_by.split("\n"))


def stamped(judged_by: str, stamp: str) -> str:
    """The same with one more."""
    return "\n".join(dict.fromkeys((stamp, *stamps(judged_by)[: _STAMPS - 1])))


def lock(connection: Connection, item: str, *, gone_too: bool = False) -> tuple[str, ...]:
    """Lock the item against other writers and return its held recipients, exactly as received."""
    table, exact = schema.quarantine, schema.quarantine_envelopes
    state = connection.execute(select(table.c.state).where(table.c.id == item).with_for_update()).scalar()
    if state is None or (state not in OPEN and not gone_too):
        return ()
    held = connection.execute(select(exact.c.held).where(exact.c.item == item)).scalar()
    return decode(held, tuple[str, ...]) if held is not None else ()


def positions(people: Sequence[str], only: Sequence[str] | None) -> list[int]:
    """Where those of `people` stand that are named, in any case; all of them for None."""
    if only is None:
        return list(range(len(people)))
    names = {name.lower() for name in only}
    return [n for n, address in enumerate(people) if address.lower() in names]


def leased(connection: Connection, claim: Claim, people: Sequence[str]) -> set[str]:
    """The recipients, among the `people` of the item, that a claim still leases."""
    table = schema.quarantine_recipients
    mine = select(table.c.position).where(
        table.c.item == claim.item, table.c.lease == claim.lease, table.c.state == State.RELEASING
    )
    return {people[position] for position in connection.execute(mine).scalars()}


def move(
    connection: Connection, item: str, chosen: Sequence[int], event: Event, who: Actor, now: float
) -> dict[int, State]:
    """Let `who` do `event` to those of the `chosen` copies where it may be; which, and where they were."""
    rows = schema.quarantine_recipients
    mine = and_(rows.c.item == item, rows.c.position.in_(chosen), rows.c.state.in_(sources(event, who)))
    found = connection.execute(select(rows.c.position, rows.c.state).where(mine).order_by(rows.c.position))
    moved = {row.position: State(row.state) for row in found}
    for state in set(moved.values()):
        these = [position for position, was in moved.items() if was is state]
        connection.execute(
            update(rows)
            .where(rows.c.item == item, rows.c.position.in_(these))
            .values(state=after(event, state, who), changed=now)
        )
    if moved:
        settle_item(connection, item, now)
    return moved


def settle_item(connection: Connection, item: str, now: float) -> None:
    """The item's state follows from its recipients'."""
    rows, table = schema.quarantine_recipients, schema.quarantine
    found = connection.execute(select(rows.c.state).where(rows.c.item == item)).scalars()
    state = of_item(State(one) for one in found)
    if state is not None and state not in GONE:
        connection.execute(
            update(table)
            .where(table.c.id == item, table.c.state.not_in(GONE))
            .values(state=state, changed=now)
        )
        words = schema.quarantine_words
        connection.execute(
            update(words).where(words.c.item == item, words.c.state.not_in(GONE)).values(state=state)
        )


def free(connection: Connection, items: Sequence[str], now: float, *states: State) -> list[str]:
    """Those of `items` in one of `states` that nobody is releasing. Locks them."""
    table, rows = schema.quarantine, schema.quarantine_recipients
    wanted = select(table.c.id).where(table.c.id.in_(items), table.c.state.in_(states))
    found = list(connection.execute(wanted.with_for_update()).scalars())
    leased = select(rows.c.item).where(
        rows.c.item.in_(found), rows.c.state == State.RELEASING, rows.c.lease_until >= now
    )
    busy = set(connection.execute(leased).scalars())
    return [item for item in found if item not in busy]


def remove(connection: Connection, items: Sequence[str], state: State, now: float) -> None:
    """Delete all content of `items`. Those fully released stay "released"."""
    for rows in (
        schema.quarantine_bytes,
        schema.quarantine_envelopes,
        schema.quarantine_judgements,
        schema.release_tokens,
        schema.quarantine_orders,
    ):
        connection.execute(delete(rows).where(rows.c.item.in_(items)))
    people, table = schema.quarantine_recipients, schema.quarantine
    connection.execute(
        update(people)
        .where(people.c.item.in_(items), people.c.state.in_(OPEN))
        .values(state=state, changed=now, lease="", lease_until=0.0)
    )
    blank = {"subject": "", "message_id": "", "helo": "", "client_ip": "", "changed": now, "content": 0}
    connection.execute(update(table).where(table.c.id.in_(items)).values(**blank))
    words = schema.quarantine_words
    connection.execute(update(words).where(words.c.item.in_(items)).values(subject=""))
    for rows, key in ((table, table.c.id), (words, words.c.item)):
        open_ones = key.is_not(None) if state is State.DELETED else rows.c.state != State.RELEASED
        connection.execute(update(rows).where(key.in_(items), open_ones).values(state=state))


def drop(connection: Connection, items: Sequence[str]) -> int:
    """Delete all that is left of `items`, but for the audit; how many there were."""
    table, people, reach = schema.quarantine, schema.quarantine_recipients, schema.quarantine_reach
    addresses = connection.execute(select(people.c.address).where(people.c.item.in_(items))).scalars()
    keys = keys_of(addresses)
    for start in range(0, len(keys), _MANY):
        some = reach.c.key.in_(keys[start : start + _MANY])
        connection.execute(delete(reach).where(some, reach.c.item.in_(items)))
    for rows in (people, schema.quarantine_reasons, schema.quarantine_words):
        connection.execute(delete(rows).where(rows.c.item.in_(items)))
    return connection.execute(delete(table).where(table.c.id.in_(items))).rowcount


def items(connection: Connection, ids: Sequence[str]) -> list[Item]:
    """Those of `ids` that are or were held, in no order."""
    table = schema.quarantine
    found: list[Item] = []
    for start in range(0, len(ids), _MANY):
        some = ids[start : start + _MANY]
        reasons, recipients = reasons_by_item(connection, some), recipients_by_item(connection, some)
        rows = connection.execute(select(table).where(table.c.id.in_(some))).mappings()
        found += [item_of(row, reasons, recipients) for row in rows]
    return found


def reasons_by_item(connection: Connection, items: Sequence[str]) -> dict[str, dict[str, bool]]:
    """The reasons each item is held for, and whether each is answered."""
    table = schema.quarantine_reasons
    found: dict[str, dict[str, bool]] = {}
    for row in connection.execute(select(table).where(table.c.item.in_(items)).order_by(table.c.name)):
        found.setdefault(row.item, {})[row.name] = bool(row.answered)
    return found


def recipients_by_item(connection: Connection, items: Sequence[str]) -> dict[str, list[HeldRecipient]]:
    """The recipients of each item, in envelope order."""
    table = schema.quarantine_recipients
    found: dict[str, list[HeldRecipient]] = {}
    statement = select(table).where(table.c.item.in_(items)).order_by(table.c.item, table.c.position)
    for row in connection.execute(statement):
        one = HeldRecipient(row.address, State(row.state), row.changed, row.delivered_to, row.note)
        found.setdefault(row.item, []).append(one)
    return found


def item_of(
    row: RowMapping, reasons: Mapping[str, Mapping[str, bool]], recipients: Mapping[str, list[HeldRecipient]]
) -> Item:
    """An item from its row."""
    values = dict(row)
    item = values["id"]
    values["state"] = State(values["state"])
    values["content"] = bool(values["content"])
    names = reasons.get(item, {})
    return Item(
        **values,
        reasons=tuple(names),
        answered=tuple(name for name, answered in names.items() if answered),
        recipients=tuple(recipients.get(item, ())),
    )


def listed(people: Sequence[str], why: str = "") -> str:
    """Recipients and a reason as the audit has them."""
    return ", ".join(people) + (f" ({why})" if why else "")


def as_dict(item: Item) -> dict[str, Any]:
    """An item as plain values for JSON."""
    return {
        "id": item.id,
        "queue_id": item.queue_id,
        "state": item.state.value,
        "received": item.received,
        "held_at": item.held_at,
        "changed": item.changed,
        "client_ip": item.client_ip,
        "helo": item.helo,
        "sender": item.sender,
        "subject": item.subject,
        "message_id": item.message_id,
        "size": item.size,
        "sha256": item.sha256,
        "score": item.score,
        "reason": item.reason,
        "reasons": list(item.reasons),
        "answered": list(item.answered),
        "recipients": [
            {"address": r.address, "state": r.state.value, "delivered_to": r.delivered_to, "note": r.note}
            for r in item.recipients
        ],
    }
