# SPDX-License-Identifier: GPL-2.0-or-later
"""What people decide about held messages: requests, denials, answers, and what is ordered and not done yet.

Takes hostile text (a request's words); it is made printable. Each decision is a transition of
`states.py` and a row of the audit, in one transaction. A message leaves only when each reason that it
is held for is answered, by somebody who may. A release or a deletion waits in `quarantine_orders` until it is
due, and can be undone until then; whoever sends a release claims it first, so that it is sent once.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, and_, delete, func, insert, or_, select, update

from gateway.mail.headers import printable
from gateway.mail.types import ID_PATTERN, new_id
from gateway.store import audit, held, schema
from gateway.store.states import (
    MALWARE,
    OPEN,
    Actor,
    Event,
    Role,
    State,
    of_item,
    refusal,
    releases_alone,
    unanswerable,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import ColumnElement, Select

    from gateway.store.database import Database

_MANY = 20  # groups that the figures name
_NEWEST = 10_000  # messages whose senders are counted


class RefusedError(Exception):
    """What was asked for must not happen; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Order:
    """A release that is to be sent: copies of one item, to one place, in one form; or a deletion."""

    item: str
    batch: str
    recipients: tuple[str, ...]
    due: float
    who: str
    to: str = ""  # in place of the recipients
    wrapped: bool = False
    aloud: bool = False  # malware was spoken of


@dataclass(frozen=True, slots=True)
class Figures:
    """How much is held, by what; groups are the largest ones, largest first."""

    states: dict[str, int]
    octets: int  # of all whose content is there
    oldest: float  # of these, in seconds since 1970; 0.0 if there is none
    reasons: dict[str, int]
    senders: dict[str, int]  # of the newest ten thousand


class Decisions:
    """Decisions about the quarantine of one database. Thread-safe; raises StoreError and RefusedError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -------------------------------------------------------------- asking and denying

    def request(
        self,
        item: str,
        recipients: Sequence[str] | None,
        who: Actor,
        *,
        why: str = "",
        also: Callable[[Connection], object] | None = None,
    ) -> tuple[str, ...]:
        """Ask for copies to be released; which. A copy that was denied is not asked for again.

        `also` is done in the same transaction, first; what it raises undoes all.
        """
        return self._happen(item, recipients, Event.REQUEST, who, why, also)

    def withdraw(
        self, item: str, recipients: Sequence[str] | None, who: Actor, *, why: str = ""
    ) -> tuple[str, ...]:
        """Take a request back; whose copies it was for."""
        return self._happen(item, recipients, Event.WITHDRAW, who, why)

    def deny(
        self, item: str, recipients: Sequence[str] | None, who: Actor, *, why: str = ""
    ) -> tuple[str, ...]:
        """Say no to a request, or before there is one; to whose copies."""
        return self._happen(item, recipients, Event.DENY, who, why)

    def answer(
        self, item: str, reasons: Sequence[str], who: Actor, *, why: str = "", aloud: bool = False
    ) -> tuple[str, ...]:
        """Answer some of the reasons that an item is held for; which of them were open."""
        _allowed(Event.RELEASE, who)

        def work(connection: Connection) -> tuple[str, ...]:
            if not held.lock(connection, item):
                raise RefusedError(_absent(connection, item))
            chosen = [name for name in _open_reasons(connection, item) if name in reasons]
            _answer(connection, item, chosen, who, why, aloud=aloud)
            return tuple(chosen)

        return self._database.write(work)

    # -------------------------------------------------------------- releasing

    def schedule(
        self,
        item: str,
        recipients: Sequence[str] | None,
        who: Actor,
        *,
        due: float,
        batch: str = "",
        to: str = "",
        wrapped: bool = False,
        aloud: bool = False,
        why: str = "",
        approve: bool = False,
        also: Callable[[Connection], object] | None = None,
    ) -> Order:
        """Release copies at the time `due`, and answer with that all reasons that `who` may answer.

        `approve` takes only what was requested. Raises RefusedError if a reason stays open, or nothing
        can be released. `also` is done in the same transaction, first; what it raises undoes all.
        """
        event = Event.APPROVE if approve else Event.RELEASE
        _allowed(event, who)
        batch = batch or new_id()

        def work(connection: Connection) -> Order:
            now = time.time()
            if also is not None:
                also(connection)
            people = held.lock(connection, item)
            asked = held.positions(people, recipients)
            moved = held.move(connection, item, asked, event, who, now)
            if not moved:
                raise RefusedError(_absent(connection, item, asked))
            left = _open_reasons(connection, item)
            if not left and who.role is Role.USER:
                _own(connection, item, who)
            _answer(connection, item, left, who, why, aloud=aloud)
            rest = {"batch": batch, "due": due, "who": printable(who.name, 100), "send_to": to}
            rows = [
                {
                    "item": item,
                    "position": n,
                    "was": was,
                    "wrapped": int(wrapped),
                    "aloud": int(aloud),
                    **rest,
                }
                for n, was in moved.items()
            ]
            connection.execute(insert(schema.quarantine_orders), rows)
            chosen = tuple(people[n] for n in moved)
            told = "; ".join(
                filter(None, (f"to {to}" if to else "", "as an attachment" if wrapped else "", why))
            )
            audit.append(connection, item, who.name, event, held.listed(chosen, told))
            return Order(item, batch, chosen, due, who.name, to, wrapped, aloud)

        return self._database.write(work)

    def discard(self, item: str, who: Actor, *, due: float, batch: str = "", why: str = "") -> Order:
        """Delete what has not gone out at the time `due`; a release that waits is stopped at once.

        Raises RefusedError where there is nothing to delete, or it is being released right now.
        """
        _allowed(Event.DISCARD, who)
        batch, orders = batch or new_id(), schema.quarantine_orders

        def work(connection: Connection) -> Order:
            now = time.time()
            if not held.free(connection, [item], now, *OPEN):
                raise RefusedError(_absent(connection, item))
            people = held.lock(connection, item)
            moved = held.move(connection, item, range(len(people)), Event.DISCARD, who, now)
            if not moved:
                raise RefusedError(_absent(connection, item))
            stopped = orders.c.item == item
            before = connection.execute(select(orders.c.position, orders.c.was).where(stopped)).all()
            if before:
                connection.execute(delete(orders).where(stopped))
                _reopen(connection, item)
            was = moved | {row.position: row.was for row in before}
            order = {"batch": batch, "due": due, "who": printable(who.name, 100), "send_to": ""}
            rows = [
                {"item": item, "position": n, "was": was[n], "wrapped": 0, "aloud": 0, **order} for n in moved
            ]
            connection.execute(insert(orders), rows)
            chosen = tuple(people[n] for n in moved)
            audit.append(connection, item, who.name, Event.DISCARD, held.listed(chosen, why))
            return Order(item, batch, chosen, due, who.name)

        return self._database.write(work)

    def undo(self, who: Actor, *, batch: str = "", item: str = "") -> list[str]:
        """Take back what was released or deleted and is not done yet, of a batch or an item; which items."""
        _allowed(Event.UNDO, who)
        orders = schema.quarantine_orders
        if not ID_PATTERN.fullmatch(batch or item):
            return []

        def work(connection: Connection) -> list[str]:
            now = time.time()
            which = orders.c.batch == batch if batch else orders.c.item == item
            rows = connection.execute(select(orders).where(which).order_by(orders.c.item)).all()
            undone: dict[str, list[str]] = {}
            released: set[str] = set()
            for row in rows:
                people = held.lock(connection, row.item)
                moved = held.move(connection, row.item, [row.position], Event.UNDO, who, now)
                if not moved:
                    continue
                if State.SCHEDULED in moved.values():
                    released.add(row.item)
                if row.was == State.REQUESTED:
                    held.move(connection, row.item, [row.position], Event.REQUEST, who, now)
                elif row.was == State.DENIED:
                    held.move(connection, row.item, [row.position], Event.DENY, who, now)
                mine = and_(orders.c.item == row.item, orders.c.position == row.position)
                connection.execute(delete(orders).where(mine))
                undone.setdefault(row.item, []).append(people[row.position])
            for one, names in undone.items():
                if one in released:
                    _reopen(connection, one)
                audit.append(connection, one, who.name, Event.UNDO, held.listed(names))
            return list(undone)

        return self._database.write(work)

    def due(self, before: float, limit: int = 100) -> list[Order]:
        """Releases whose time is before `before` and that nobody is sending, the longest waiting first."""
        rows = schema.quarantine_recipients
        free = or_(
            rows.c.state == State.SCHEDULED,
            and_(rows.c.state == State.RELEASING, rows.c.lease_until < time.time()),
        )
        return self._due(before, limit, free)

    def doomed(self, before: float, limit: int = 100) -> list[Order]:
        """Deletions whose time is before `before`, the longest waiting first."""
        return self._due(before, limit, schema.quarantine_recipients.c.state == State.DELETING)

    def _due(self, before: float, limit: int, which: ColumnElement[bool]) -> list[Order]:
        orders, rows = schema.quarantine_orders, schema.quarantine_recipients
        chosen = (
            select(orders)
            .join(rows, and_(rows.c.item == orders.c.item, rows.c.position == orders.c.position))
            .where(orders.c.due < before, which)
            .order_by(orders.c.due, orders.c.item, orders.c.position)
            .limit(limit)
        )
        return self._database.read(lambda connection: _orders(connection, chosen))

    def orders(self, *, batch: str = "", item: str = "") -> list[Order]:
        """The releases and deletions of a batch, or of an item, that are not done."""
        orders = schema.quarantine_orders
        which = orders.c.batch == batch if batch else orders.c.item == item
        chosen = select(orders).where(which).order_by(orders.c.item, orders.c.position)
        return self._database.read(lambda connection: _orders(connection, chosen))

    # -------------------------------------------------------------- re-scans

    def convict(self, item: str, reason: str, who: str, why: str) -> bool:
        """Add a reason to hold an item for, open anew if it was answered; whether it was not open before."""

        def work(connection: Connection) -> bool:
            table = schema.quarantine_reasons
            if not held.lock(connection, item) or reason in _open_reasons(connection, item):
                return False
            mine = and_(table.c.item == item, table.c.name == reason)
            again = connection.execute(
                update(table).where(mine).values(answered=0.0, answered_by="", answer="")
            )
            if not again.rowcount:
                connection.execute(insert(table).values(item=item, name=reason))
            audit.append(connection, item, who, "convicted", f"{reason}: {why}")
            return True

        return self._database.write(work)

    # -------------------------------------------------------------- figures

    def figures(self) -> Figures:
        """Count what is held."""
        table, names = schema.quarantine, schema.quarantine_reasons
        is_open = table.c.state.in_(OPEN)
        states = select(table.c.state, func.count()).group_by(table.c.state)
        count = func.count().label("count")
        reasons = select(names.c.name, count).group_by(names.c.name).order_by(count.desc()).limit(_MANY)
        newest = select(table.c.sender).where(is_open).order_by(table.c.id.desc()).limit(_NEWEST).subquery()
        sender = newest.c.sender
        senders = select(sender, count).group_by(sender).order_by(count.desc()).limit(_MANY)
        whole = select(func.sum(table.c.size), func.min(table.c.held_at)).where(table.c.content == 1)

        def work(connection: Connection) -> Figures:
            octets, oldest = connection.execute(whole).one()
            return Figures(
                {row[0]: row[1] for row in connection.execute(states)},
                int(octets or 0),
                float(oldest or 0.0),
                {row[0]: row[1] for row in connection.execute(reasons)},
                {row[0]: row[1] for row in connection.execute(senders)},
            )

        return self._database.read(work)

    # -------------------------------------------------------------- inside

    def _happen(
        self,
        item: str,
        recipients: Sequence[str] | None,
        event: Event,
        who: Actor,
        why: str,
        also: Callable[[Connection], object] | None = None,
    ) -> tuple[str, ...]:
        _allowed(event, who)

        def work(connection: Connection) -> tuple[str, ...]:
            if also is not None:
                also(connection)
            people = held.lock(connection, item)
            asked = held.positions(people, recipients)
            moved = held.move(connection, item, asked, event, who, time.time())
            if not moved:
                raise RefusedError(_absent(connection, item, asked))
            chosen = tuple(people[n] for n in moved)
            audit.append(connection, item, who.name, event, held.listed(chosen, why))
            return chosen

        return self._database.write(work)


def _allowed(event: Event, who: Actor) -> None:
    if why := refusal(event, who):
        raise RefusedError(why)


def _absent(connection: Connection, item: str, asked: Sequence[int] = ()) -> str:
    """Why nothing happens to an item, or to the copies that it was `asked` for."""
    table, rows = schema.quarantine, schema.quarantine_recipients
    these = select(rows.c.state).where(rows.c.item == item, rows.c.position.in_(asked))
    state = of_item(State(one) for one in connection.execute(these).scalars())
    if state is None:
        state = connection.execute(select(table.c.state).where(table.c.id == item)).scalar()
    return {
        None: "no such message is held",
        State.SCHEDULED: "it is released already and about to be sent",
        State.RELEASING: "it is being released already",
        State.RELEASED: "it was released already",
        State.DELETING: "it is being deleted already",
        State.DELETED: "it was deleted",
        State.EXPIRED: "it has expired",
        State.REQUESTED: "it is requested already, or not held for that recipient",
        State.DENIED: "a reviewer has denied it",
    }.get(state, "it is not held for that recipient, or nothing was requested")


def _open_reasons(connection: Connection, item: str) -> list[str]:
    reasons = held.reasons_by_item(connection, [item]).get(item, {})
    return [name for name, answered in reasons.items() if not answered]


def _own(connection: Connection, item: str, who: Actor) -> None:
    """Raise RefusedError unless a user may answer what others have answered for copies of theirs."""
    if not releases_alone(held.reasons_by_item(connection, [item]).get(item, ()), (), who):
        raise RefusedError("a reviewer must answer what it is held for")


def _answer(
    connection: Connection, item: str, reasons: Sequence[str], who: Actor, why: str, *, aloud: bool
) -> None:
    """Answer reasons, or raise RefusedError for those that `who` may not answer."""
    if not reasons:
        return
    if left := unanswerable(reasons, who, aloud=aloud):
        if MALWARE.isdisjoint(left):
            raise RefusedError(f"a reviewer must answer what it is held for: {', '.join(left)}")
        raise RefusedError(
            f"an infected message ({', '.join(left)}) is released only by an administrator, "
            "and only where that is asked for"
        )
    table = schema.quarantine_reasons
    values = {"answered": time.time(), "answered_by": printable(who.name, 100), "answer": printable(why, 500)}
    connection.execute(update(table).where(table.c.item == item, table.c.name.in_(reasons)).values(**values))
    audit.append(connection, item, who.name, "answered", ", ".join(reasons))


def _reopen(connection: Connection, item: str) -> None:
    """What was answered for a release is open again with it."""
    table = schema.quarantine_reasons
    values = {"answered": 0.0, "answered_by": "", "answer": ""}
    connection.execute(update(table).where(table.c.item == item).values(**values))


def _orders(connection: Connection, chosen: Select[Any]) -> list[Order]:
    """Rows as orders: copies that go to one place in one form are one."""
    found: dict[tuple[Any, ...], list[int]] = {}
    for row in connection.execute(chosen):
        key = (row.item, row.batch, row.due, row.who, row.send_to, bool(row.wrapped), bool(row.aloud))
        found.setdefault(key, []).append(row.position)
    exact = schema.quarantine_envelopes
    made = []
    for key, at in found.items():
        item, batch, due, who, to, wrapped, aloud = key
        text = connection.execute(select(exact.c.held).where(exact.c.item == item)).scalar()
        people: tuple[str, ...] = held.decode(text, tuple[str, ...]) if text is not None else ()
        names = tuple(people[n] for n in at if n < len(people))
        made.append(Order(item, batch, names, due, who, to, wrapped, aloud))
    return made
