# SPDX-License-Identifier: GPL-2.0-or-later
"""The durable queue: what the smart host has accepted, until each recipient is settled.

`add` returns after a commit that is on disk; only then may a client hear 250. Delivery agents claim
what is due: a recipient is leased to one owner, and an owner lives as long as its row in
`queue_owners` is renewed, so that whatever a dead process held is queued again. Settling is
conditional on the lease, so each recipient is settled once. Settling is not synced where nothing
is lost by it: after a power cut a message may go out twice, never not at all (RFC 1047). On
PostgreSQL several nodes claim side by side (SKIP LOCKED).
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BindParameter,
    Connection,
    Integer,
    Select,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    true,
    update,
)

from gateway.mail.headers import printable
from gateway.store import audit, deliveries, queued, schema
from gateway.store.deliveries import Ended
from gateway.store.queued import DONE, Claim, DamagedError, Entry, Facts, Filter, State

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from gateway.store.database import Database
    from gateway.store.queued import Notice, Outcome, Outgoing

MOST_DEATHS = 10  # agents that died with a recipient on lease, after which it is held
SUSPECT = 3  # as many, after which it is leased alone, so that what kills agents is told from its neighbours
_BATCH = 500

_rows, _mails, _owners = schema.queue_recipients, schema.queue_messages, schema.queue_owners
_UPDATE = (
    update(_rows)
    .where(_rows.c.number == bindparam("of"))
    .values(
        state=bindparam("to_state"),
        reply=bindparam("to_reply"),
        next_attempt=bindparam("to_next"),
        attempts=bindparam("to_attempts"),
        hop=bindparam("to_hop"),
        server=bindparam("to_server"),
        tls=bindparam("to_tls"),
        ended=bindparam("to_ended"),
        changed=bindparam("at"),
        lease="",
        deaths=0,  # an agent has survived it
    )
)
_OURS = (
    select(_rows.c.number)
    .where(
        _rows.c.number.in_(bindparam("numbers", expanding=True)),
        _rows.c.state == State.LEASED,
        _rows.c.lease == bindparam("owner"),
    )
    .with_for_update()
)


def _claiming(*, suspect: bool, besides: bool) -> tuple[Select[Any], Any]:
    """The statements that look for what is due, and that lease it."""
    died = _rows.c.deaths >= SUSPECT if suspect else _rows.c.deaths < SUSPECT
    due = [_rows.c.state == State.QUEUED, _rows.c.next_attempt <= bindparam("due"), died]
    if besides:
        due.append(_rows.c.hop.not_in(bindparam("besides", expanding=True)))
    most: BindParameter[int] = bindparam("most", type_=Integer)
    chosen = select(_rows.c.number).where(*due).order_by(_rows.c.next_attempt).limit(most)
    take = (
        update(_rows)
        .where(_rows.c.number.in_(chosen.with_for_update(skip_locked=True)))
        .values(state=State.LEASED, lease=bindparam("owner"), changed=bindparam("at"))
        .returning(_rows)
    )
    return chosen, take


# Built once: most of a statement's cost is building it.
_CLAIMS = {
    (suspect, besides): _claiming(suspect=suspect, besides=besides)
    for suspect in (False, True)
    for besides in (False, True)
}
_STILL_OPEN = select(_rows.c.item).where(
    _rows.c.item.in_(bindparam("items", expanding=True)), _rows.c.state.not_in(DONE)
)


@dataclass(frozen=True, slots=True)
class Owner:
    """A delivery agent's right to hold leases. `process` names its process on its machine."""

    name: str
    process: str


@dataclass(frozen=True, slots=True)
class Changed:
    """The ids of the messages that a change reached, and of those that are being sent at this moment."""

    items: list[str]
    sending: list[str]


class Queue:
    """The queue in one database. Thread-safe; every method but reading may raise StoreError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # ---------------------------------------------------------------- in

    def add(self, messages: Sequence[Outgoing]) -> None:
        """Queue all of `messages`, or none; they are on disk when this returns."""
        octets = sum(len(one.packed or one.message) for one in messages)
        self._database.write(lambda connection: queued.put(connection, messages), mail=octets)

    # ---------------------------------------------------------------- owners of leases

    def enter(self, process: str, seconds: float) -> Owner:
        """Become an owner for `seconds`."""
        owner = Owner(secrets.token_hex(12), process)
        row = {"owner": owner.name, "process": process, "expires": time.time() + seconds}
        self._database.write(lambda c: c.execute(insert(_owners).values(row)), durable=False)
        return owner

    def renew(self, owner: Owner, seconds: float) -> None:
        """Stay an owner for another `seconds`, also if others have given us up meanwhile."""
        row = {"owner": owner.name, "process": owner.process, "expires": time.time() + seconds}

        def work(connection: Connection) -> None:
            changed = connection.execute(
                update(_owners).where(_owners.c.owner == owner.name).values(expires=row["expires"])
            )
            if not changed.rowcount:
                connection.execute(insert(_owners).values(row))

        self._database.write(work, durable=False)

    def leave(self, owner: str, begun: Collection[int] = ()) -> None:
        """End the ownership; what it still leases is queued again, but for what was `begun`."""
        leased = (_rows.c.state == State.LEASED) & (_rows.c.lease == owner)
        untouched = _rows.c.number.not_in(sorted(begun)) if begun else true()

        def work(connection: Connection) -> None:
            connection.execute(delete(_owners).where(_owners.c.owner == owner))
            connection.execute(update(_rows).where(leased, untouched).values(state=State.QUEUED, lease=""))

        self._database.write(work, durable=False)

    def give_back(self, owner: str, besides: Collection[int]) -> int:
        """Queue again what `owner` leases and does not know of: a claim whose answer was lost; how many."""
        stray = (_rows.c.state == State.LEASED) & (_rows.c.lease == owner)
        if besides:
            stray &= _rows.c.number.not_in(sorted(besides))
        change = update(_rows).where(stray).values(state=State.QUEUED, lease="")
        return self._database.write(lambda connection: connection.execute(change).rowcount, durable=False)

    def owners(self) -> list[Owner]:
        """All owners there are."""
        found = self._database.read(lambda c: c.execute(select(_owners)).all())
        return [Owner(row.owner, row.process) for row in found]

    def recover(
        self, dead: Collection[str] = (), pause: Callable[[int], float] = lambda _count: 0.0
    ) -> tuple[int, int]:
        """Queue again what owners held whose time is over, or that are known to be `dead`.

        Returns how many recipients were queued, and how many held because too many agents died
        while they had them on lease. What `SUSPECT` agents died with waits for the `pause` of one more
        attempt, in seconds, each time a longer one: many deaths in a row have another cause.
        """
        over = or_(_owners.c.expires < time.time(), _owners.c.owner.in_(list(dead)))
        orphaned = (_rows.c.state == State.LEASED) & _rows.c.lease.not_in(select(_owners.c.owner))

        def look(connection: Connection) -> bool:
            gone = connection.execute(select(_owners.c.owner).where(over).limit(1)).first()
            return (
                gone is not None
                or connection.execute(select(_rows.c.number).where(orphaned)).first() is not None
            )

        def work(connection: Connection) -> tuple[int, int]:
            connection.execute(delete(_owners).where(over))
            suspect = _rows.c.deaths >= MOST_DEATHS - 1
            note = f"held: {MOST_DEATHS} delivery agents died while they had it"
            held = connection.execute(
                update(_rows)
                .where(orphaned, suspect)
                .values(state=State.HELD, lease="", deaths=_rows.c.deaths + 1, reply=note)
            )
            now, freed = time.time(), 0
            counts = connection.execute(select(_rows.c.deaths).where(orphaned).distinct()).scalars().all()
            for deaths in counts:
                values = {"state": State.QUEUED, "lease": "", "deaths": deaths + 1}
                if deaths + 1 >= SUSPECT:
                    values["next_attempt"] = now + pause(deaths + 2 - SUSPECT)
                change = update(_rows).where(orphaned, _rows.c.deaths == deaths).values(values)
                freed += connection.execute(change).rowcount
            return freed, held.rowcount

        if not self._database.read(look):
            return 0, 0
        return self._database.write(work, durable=False)

    # ---------------------------------------------------------------- out

    def claim(
        self,
        owner: Owner,
        now: float,
        most: int,
        besides: Collection[str] = (),
        *,
        suspect: bool = False,
        sure: bool = False,
    ) -> list[Claim]:
        """Lease up to `most` due recipients whose next hop is not among `besides`, oldest first.

        Those are left out with which `SUSPECT` agents have died, or, if `suspect`, all others. Unless the
        caller is `sure` that something is due, that is looked up first, where nobody has to wait for it.
        """
        look, take = _CLAIMS[suspect, bool(besides)]
        wanted: dict[str, Any] = {"due": now, **({"besides": sorted(besides)} if besides else {})}
        if not sure and self._database.read(lambda c: c.execute(look, {**wanted, "most": 1}).first()) is None:
            return []
        values = {**wanted, "most": most, "owner": owner.name, "at": now}
        rows = self._database.write(lambda c: list(c.execute(take, values).all()), durable=False)
        return self._database.read(lambda connection: _claims(connection, rows)) if rows else []

    def settle(self, owner: Owner, outcomes: Sequence[Outcome], notices: Sequence[Notice] = ()) -> set[int]:
        """Write what became of leased recipients, and queue the notices about them, all or nothing.

        Returns the numbers that were not ours any more: another agent took them over. Synced if
        there are notices, or the loss of it would lose an answer for good.
        """
        now = time.time()
        by_number = {one.number: one for one in outcomes}

        def work(connection: Connection) -> set[int]:
            found = connection.execute(_OURS, {"numbers": list(by_number), "owner": owner.name})
            ours = set(found.scalars())
            changes = [_change(by_number[number], now) for number in sorted(ours)]
            if changes:
                connection.execute(_UPDATE, changes)
                _finish(connection, {by_number[n].item for n in ours if by_number[n].state in DONE})
            due = [notice.message for notice in notices if ours.intersection(notice.about)]
            if due:
                queued.put(connection, due)
            return set(by_number) - ours

        return self._database.write(work, durable=bool(notices))

    def message(self, facts: Facts) -> bytes:
        """The bytes of a message. Raises StoreError if they are damaged or gone."""
        return self._database.read(lambda connection: _message(connection, facts))

    # ---------------------------------------------------------------- delays

    def late(self, created_before: float, most: int = 50) -> list[Entry]:
        """Messages that still wait, and whose sender has not been told of the delay."""
        waiting = select(_rows.c.item).where(
            _rows.c.item == _mails.c.id, _rows.c.state == State.QUEUED, _rows.c.reply != ""
        )
        wanted = (
            select(_mails)
            .where(
                _mails.c.created < created_before,
                _mails.c.warned == 0.0,
                _mails.c.may_bounce == 1,
                waiting.exists(),
            )
            .limit(most)
        )
        return self._database.read(lambda c: _entries(c, [queued.facts_of(r) for r in c.execute(wanted)]))

    def warn(self, item: str, notice: Outgoing) -> bool:
        """Queue the notice of a delay, unless there was one already."""
        mark = update(_mails).where(_mails.c.id == item, _mails.c.warned == 0.0).values(warned=time.time())

        def work(connection: Connection) -> bool:
            if not connection.execute(mark).rowcount:
                return False
            queued.put(connection, [notice])
            return True

        return self._database.write(work)

    def tidy(self, now: float, longest: float, undeliverable_before: float) -> int:
        """Bring back what a clock set wrong has put off too far; drop what nobody was told of for long.

        `longest` is the most seconds that a retry may be away. Returns how many recipients were dropped.
        """
        lost = (_rows.c.state == State.QUEUED) & (_rows.c.next_attempt > now + longest)
        old = (_rows.c.state == State.UNDELIVERABLE) & (_rows.c.changed < undeliverable_before)

        def work(connection: Connection) -> int:
            connection.execute(update(_rows).where(lost).values(next_attempt=now))
            items = set(connection.execute(select(_rows.c.item).where(old).limit(_BATCH)).scalars())
            if not items:
                return 0
            dropped = connection.execute(
                update(_rows)
                .where(old, _rows.c.item.in_(items))
                .values(state=State.FAILED, ended=Ended.DROPPED, changed=now)
            )
            _finish(connection, items)
            return dropped.rowcount

        if not self._database.read(lambda c: c.execute(select(_rows.c.number).where(or_(lost, old))).first()):
            return 0
        return self._database.write(work, durable=False)

    # ---------------------------------------------------------------- for operators

    def search(self, wanted: Filter) -> list[Entry]:
        """Messages with a recipient that matches, oldest first, all their recipients with them."""
        found = (
            select(_mails)
            .where(_mails.c.id.in_(_matching(wanted)))
            .order_by(_mails.c.created)
            .limit(wanted.limit)
            .offset(wanted.offset)
        )
        return self._database.read(lambda c: _entries(c, [queued.facts_of(r) for r in c.execute(found)]))

    def count(self, wanted: Filter) -> int:
        """How many messages have a recipient that matches."""
        found = select(func.count()).select_from(_matching(wanted).subquery())
        return self._database.read(lambda c: c.execute(found).scalar()) or 0

    def size(self) -> dict[str, int]:
        """How many recipients are in each state."""
        counted = select(_rows.c.state, func.count()).group_by(_rows.c.state)
        found = self._database.read(lambda c: c.execute(counted).all())
        return {str(state): count for state, count in found}

    def find(self, item: str) -> Entry | None:
        """One message, None if there is none of this id."""
        wanted = select(_mails).where(_mails.c.id == item)
        found = self._database.read(lambda c: _entries(c, [queued.facts_of(r) for r in c.execute(wanted)]))
        return found[0] if found else None

    def flush(self, wanted: Filter) -> Changed:
        """Make what is queued and matches due at once."""
        return self._change(wanted, (State.QUEUED,), {"next_attempt": time.time()})

    def hold(self, wanted: Filter, who: str) -> Changed:
        """Keep what is queued and matches from being sent until it is released."""
        return self._change(wanted, (State.QUEUED,), {"state": State.HELD}, who, "queue hold")

    def release(self, wanted: Filter, who: str) -> Changed:
        """Queue again what is held or undeliverable and matches, due at once."""
        values = {"state": State.QUEUED, "next_attempt": time.time(), "deaths": 0}
        return self._change(wanted, (State.HELD, State.UNDELIVERABLE), values, who, "queue release")

    def delete(self, wanted: Filter, who: str) -> Changed:
        """Give up what matches and is not being sent, without a notice to anybody."""
        states = (State.QUEUED, State.HELD, State.UNDELIVERABLE)
        values = {"state": State.FAILED, "ended": Ended.DELETED}
        return self._change(wanted, states, values, who, "queue delete")

    def _change(
        self, wanted: Filter, states: Sequence[State], values: dict[str, Any], who: str = "", action: str = ""
    ) -> Changed:
        """Change the recipients that match and are in one of `states`; what is leased may be queued soon."""
        looked_at = (*states, State.LEASED) if State.QUEUED in states else states
        chosen = (
            select(_rows.c.number, _rows.c.item, _rows.c.state)
            .join(_mails, _mails.c.id == _rows.c.item)
            .where(*queued.conditions(wanted), _rows.c.state.in_(looked_at))
            .order_by(_rows.c.number)
            .with_for_update(of=_rows)
        )

        def work(connection: Connection) -> Changed:
            rows = connection.execute(chosen).all()
            found = [row for row in rows if row.state != State.LEASED]
            items = list(dict.fromkeys(row.item for row in found))
            for start in range(0, len(found), _BATCH):
                numbers = [row.number for row in found[start : start + _BATCH]]
                change = update(_rows).where(_rows.c.number.in_(numbers))
                connection.execute(change.values(**values, changed=time.time()))
            if values.get("state") in DONE:
                _finish(connection, set(items))
            for item in items if action else ():
                audit.append(connection, item, who, action)
            return Changed(items, list(dict.fromkeys(row.item for row in rows if row.state == State.LEASED)))

        return self._database.write(work)


# ---------------------------------------------------------------- parts of transactions


def _change(one: Outcome, now: float) -> dict[str, Any]:
    return {
        "of": one.number,
        "to_state": one.state,
        "to_reply": printable(one.reply, 500),
        "to_next": one.next_attempt,
        "to_attempts": one.attempts,
        "to_hop": one.hop,
        "to_server": printable(one.server, 255),
        "to_tls": one.tls,
        "to_ended": one.ended,
        "at": now,
    }


def _finish(connection: Connection, items: set[str]) -> None:
    """Remove those of `items` all of whose recipients are done."""
    batch = sorted(items)
    for start in range(0, len(batch), _BATCH):
        part = batch[start : start + _BATCH]
        open_ones = set(connection.execute(_STILL_OPEN, {"items": part}).scalars())
        done = [item for item in part if item not in open_ones]
        if done:
            deliveries.keep(connection, done)
            queued.remove(connection, done)


def _claims(connection: Connection, rows: Sequence[Any]) -> list[Claim]:
    by_item: dict[str, list[queued.Recipient]] = {}
    for row in rows:
        by_item.setdefault(row.item, []).append(queued.recipient_of(row))
    found = queued.messages(connection, by_item)
    return [
        Claim(found[item][0], tuple(sorted(people, key=lambda r: r.number)), found[item][1])
        for item, people in by_item.items()
        if item in found
    ]


def _message(connection: Connection, facts: Facts) -> bytes:
    table = schema.queue_bytes
    data = connection.execute(select(table.c.data).where(table.c.item == facts.id)).scalar()
    if data is None:
        raise DamagedError(f"{facts.id} has no bytes")
    return queued.unpack(data, facts.size, facts.id)


def _matching(wanted: Filter) -> Any:
    return (
        select(_mails.c.id)
        .join(_rows, _rows.c.item == _mails.c.id)
        .where(*queued.conditions(wanted))
        .distinct()
    )


def _entries(connection: Connection, facts: Sequence[Facts]) -> list[Entry]:
    people = queued.recipients(connection, [one.id for one in facts])
    return [Entry(one, tuple(people.get(one.id, ()))) for one in facts]
