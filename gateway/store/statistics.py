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


def held(database: Database, reach: Reach, first: int, last: int) -> tuple[dict[str, int], list[Day]]:
    """All that is or was held, by its state now: as a whole, and of each day by when it came.

    Everything is read once. Raises StoreError.
    """
    words = schema.quarantine_words
    day = _day(database, words.c.held_at)

    def work(connection: Connection) -> Sequence[Any]:
        chosen = matching(connection, Search(within=reach), day, words.c.state, func.count())
        return connection.execute(chosen.group_by(day, words.c.state)).all()

    rows = database.search(work)
    states: dict[str, int] = {}
    for _, state, count in rows:
        states[state] = states.get(state, 0) + count
    return states, _days(rows, first, last)


def judged(database: Database, first: int, last: int) -> list[Day]:
    """What was decided about all mail on each day; raises StoreError."""
    journal = schema.journal
    day = _day(database, journal.c.received)
    chosen = (
        select(day, journal.c.action, func.count())
        .where(journal.c.received >= first * DAY, journal.c.received < (last + 1) * DAY)
        .group_by(day, journal.c.action)
    )
    return _days(database.search(lambda c: c.execute(chosen).all()), first, last)


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
