# SPDX-License-Identifier: GPL-2.0-or-later
"""Counts by day for plots: what was held, within somebody's reach, and what was decided about all mail.

Days are those of UTC, as numbers since 1970. Counting is bounded by the days that are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Integer, cast, func, select

from gateway.store import schema
from gateway.store.search import Search, matching

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import ColumnElement, Connection

    from gateway.store.database import Database
    from gateway.store.reach import Reach
    from gateway.store.states import State

DAY: Final = 86_400


@dataclass(frozen=True, slots=True)
class Day:
    """How often each word (a state, an action) was counted on a day."""

    day: int
    counts: dict[str, int]

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.counts.values())


def held(database: Database, reach: Reach, first: int, last: int) -> list[Day]:
    """What was held on each day, by its state now; raises StoreError."""
    words = schema.quarantine_words
    wanted = Search(within=reach, since=float(first * DAY), until=float((last + 1) * DAY))
    day = _day(database, words.c.held_at)

    def work(connection: Connection) -> Sequence[Any]:
        chosen = matching(connection, wanted, day, words.c.state, func.count())
        return connection.execute(chosen.group_by(day, words.c.state)).all()

    return _days(database.read(work), first, last)


def judged(database: Database, first: int, last: int) -> list[Day]:
    """What was decided about all mail on each day; raises StoreError."""
    journal = schema.journal
    day = _day(database, journal.c.received)
    chosen = (
        select(day, journal.c.action, func.count())
        .where(journal.c.received >= first * DAY, journal.c.received < (last + 1) * DAY)
        .group_by(day, journal.c.action)
    )
    return _days(database.read(lambda c: c.execute(chosen).all()), first, last)


def states(database: Database, reach: Reach, *among: State) -> dict[str, int]:
    """How many messages are in each state, or in each of those named."""
    state, wanted = schema.quarantine_words.c.state, Search(within=reach, state=among or None)

    def work(connection: Connection) -> dict[str, int]:
        chosen = matching(connection, wanted, state, func.count()).group_by(state)
        return {row[0]: row[1] for row in connection.execute(chosen)}

    return database.read(work)


def _day(database: Database, seconds: ColumnElement[float]) -> ColumnElement[int]:
    """The number of the day. PostgreSQL rounds where SQLite cuts off."""
    days = seconds / float(DAY)
    return cast(func.floor(days) if database.dialect == "postgresql" else days, Integer)


def _days(rows: Iterable[Any], first: int, last: int) -> list[Day]:
    found: dict[int, dict[str, int]] = {day: {} for day in range(first, last + 1)}
    for day, word, count in rows:
        if day in found:
            found[day][word] = count
    return [Day(day, counts) for day, counts in found.items()]
