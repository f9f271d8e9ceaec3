# SPDX-License-Identifier: GPL-2.0-or-later
"""What there is to report about a day, and which reports were sent, by domain and destination.

A report is claimed before it is sent and settled afterwards, so that two runs at once, or one after a
crash, do not send it twice to anybody. Keeps addresses of strangers, which were checked before.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from sqlalchemy import Connection, Table, and_, delete, func, insert, literal, select, update

from gateway.mail.headers import printable
from gateway.store.database import Database, upsert

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import ColumnElement

LEASE: Final = 3_600.0  # seconds after which a report that somebody began to send may be sent again
WHOLE: Final = ""  # the destination that stands for the report itself

State = Literal["sent", "refused", "deferred"]


@dataclass(frozen=True, slots=True)
class Summary:
    """What there is to report about one domain and day."""

    day: int
    domain: str
    count: int  # of messages, or connections
    rows: int  # of equal ones
    state: Literal["due", "sending", "done"]
    record: str  # the policy record that asks for it, where it is kept


def summaries(
    database: Database,
    seen: Table,
    reports: Table,
    *,
    records: Table | None = None,
    day: int | None = None,
    domain: str = "",
) -> list[Summary]:
    """What the counts in `seen` give reports about, oldest first; `day` and `domain` choose from it.

    Where there is a table of `records`, only what has one is reported. Raises StoreError.
    """

    def same(other: Table) -> ColumnElement[bool]:
        return and_(other.c.day == seen.c.day, other.c.domain == seen.c.domain)

    sources = seen.join(reports, same(reports) & (reports.c.destination == WHOLE), isouter=True)
    record: ColumnElement[str] = literal("")
    if records is not None:
        sources = sources.join(records, same(records))
        record = func.max(records.c.record)
    statement = (
        select(
            seen.c.day,
            seen.c.domain,
            func.sum(seen.c.count).label("total"),
            func.count().label("rows"),
            func.max(reports.c.state).label("state"),
            record.label("record"),
        )
        .select_from(sources)
        .group_by(seen.c.day, seen.c.domain)
        .order_by(seen.c.day, seen.c.domain)
    )
    if day is not None:
        statement = statement.where(seen.c.day == day)
    if domain:
        statement = statement.where(seen.c.domain == domain)
    found = database.read(lambda connection: connection.execute(statement).all())
    return [
        Summary(one.day, one.domain, int(one.total), one.rows, one.state or "due", one.record)
        for one in found
    ]


def prune(database: Database, tables: Sequence[Table], before: int) -> int:
    """Delete all about days before `before`. Returns how many rows. Raises StoreError."""

    def work(connection: Connection) -> int:
        return sum(connection.execute(delete(table).where(table.c.day < before)).rowcount for table in tables)

    return database.write(work, durable=False)


def claim(database: Database, table: Table, day: int, domain: str) -> set[str] | None:
    """Begin to send a report; None if it is done, or somebody else is at it.

    Returns the destinations that have it, or have refused it for good. Raises StoreError.
    """
    now = time.time()
    mine = (table.c.day == day) & (table.c.domain == domain)
    whole = mine & (table.c.destination == WHOLE)

    def work(connection: Connection) -> set[str] | None:
        found = connection.execute(select(table).where(whole).with_for_update()).one_or_none()
        if found is None:
            values = {"day": day, "domain": domain, "destination": WHOLE, "note": ""}
            connection.execute(insert(table).values(state="sending", changed=now, **values))
        elif found.state == "done" or (found.state == "sending" and now - found.changed < LEASE):
            return None
        else:
            connection.execute(update(table).where(whole).values(state="sending", changed=now))
        settled = select(table.c.destination).where(
            mine, table.c.destination != WHOLE, table.c.state.in_(("sent", "refused"))
        )
        return set(connection.execute(settled).scalars())

    return database.write(work)


def settle(
    database: Database,
    table: Table,
    day: int,
    domain: str,
    outcomes: Mapping[str, tuple[State, str]],
    *,
    done: bool,
) -> None:
    """Record what became of a claimed report at each destination, with a note of the next hop.

    With `done` it is never sent again; otherwise the next run tries what was deferred. Raises
    StoreError.
    """
    now = time.time()
    rows = [
        {"destination": destination, "state": state, "note": printable(note, 300)}
        for destination, (state, note) in sorted(outcomes.items())
    ]
    rows.append({"destination": WHOLE, "state": "done" if done else "due", "note": ""})

    def work(connection: Connection) -> None:
        adding = upsert(connection, table)
        changes = {name: adding.excluded[name] for name in ("state", "changed", "note")}
        connection.execute(
            adding.on_conflict_do_update(index_elements=list(table.primary_key), set_=changes),
            [{"day": day, "domain": domain, "changed": now, **row} for row in rows],
        )

    database.write(work)
