# SPDX-License-Identifier: GPL-2.0-or-later
"""Counts by day for plots: what was held, within somebody's reach, and what was decided about all mail.

Days are those of UTC, as numbers since 1970. Counting is bounded by the days that are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Integer, cast, func, select

from gateway.store import schema
from gateway.store.search import Search, statement

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import ColumnElement, Select

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
    table = schema.quarantine
    wanted = Search(within=reach, since=float(first * DAY), until=float((last + 1) * DAY))
    day = _day(database, table.c.held_at)
    chosen = statement(wanted, day, table.c.state, func.count()).group_by(day, table.c.state)
    return _days(database, chosen, first, last)


def judged(database: Database, first: int, last: int) -> list[Day]:
    """What was decided about all mail on each day; raises StoreError."""
    journal = schema.journal
    day = _day(database, journal.c.received)
    chosen = (
        select(day, journal.c.action, func.count())
        .where(journal.c.received >= first * DAY, journal.c.received < (last + 1) * DAY)
        .group_by(day, journal.c.action)
    )
    return _days(database, chosen, first, last)


def states(database: Database, reach: Reach, *among: State) -> dict[str, int]:
    """How many messages are in each state, or in each of those named."""
    state = schema.quarantine.c.state
    chosen = statement(Search(within=reach, state=among or None), state, func.count()).group_by(state)
    return {row[0]: row[1] for row in database.read(lambda c: c.execute(chosen).all())}


def _day(database: Database, seconds: ColumnElement[float]) -> ColumnElement[int]:
    """The number of the day. PostgreSQL rounds where SQLite cuts off."""
    days = seconds / float(DAY)
    return cast(func.floor(days) if database.dialect == "postgresql" else days, Integer)


def _days(database: Database, chosen: Select[Any], first: int, last: int) -> list[Day]:
    rows: Iterable[Any] = database.read(lambda c: c.execute(chosen).all())
    found: dict[int, dict[str, int]] = {day: {} for day in range(first, last + 1)}
    for day, word, count in rows:
        if day in found:
            found[day][word] = count
    return [Day(day, counts) for day, counts in found.items()]
