# SPDX-License-Identifier: GPL-2.0-or-later
"""The figures of the last days, for the page, its live counters and the API; each person's own reach."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from starlette.responses import JSONResponse, Response

from gateway.store import statistics
from gateway.store.states import OPEN, State
from gateway.web.plot import plot

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.store.decisions import Figures
    from gateway.store.people import Person
    from gateway.store.quarantine import Quarantine
    from gateway.store.reach import Reach
    from gateway.store.statistics import Day
    from gateway.web.site import Visit

T = TypeVar("T")
DAYS: Final = 14
_FRESH: Final = 15.0  # seconds for which what was counted is shown again
_MOST: Final = 200  # people whose figures are kept
_HELD: Final = tuple(str(state) for state in State)
_JUDGED: Final = ("relay", "tag", "strip", "learn", "quarantine", "defer", "reject")


@dataclass(frozen=True, slots=True)
class Told:
    """What is told to one person; what concerns all mail only to those who may see all."""

    states: dict[str, int]
    held: list[Day]
    judged: list[Day]
    whole: Figures | None


class Counts:
    """Figures by reach, counted once in a while, one at a time. Thread-safe; raises StoreError."""

    def __init__(self, quarantine: Quarantine) -> None:
        self._quarantine = quarantine
        self._lock = threading.Lock()
        self._told: dict[Reach, tuple[float, Told]] = {}
        self._waiting: dict[Reach, tuple[float, dict[str, int]]] = {}

    def of(self, person: Person) -> Told:
        """What this person may know."""
        return self._fresh(self._told, person.reach, self._count)

    def waiting(self, person: Person) -> dict[str, int]:
        """How much is open, and how much of it is asked for."""
        return self._fresh(self._waiting, person.reach, self._count_waiting)

    def _fresh(self, known: dict[Reach, tuple[float, T]], reach: Reach, count: Callable[[Reach], T]) -> T:
        with self._lock:
            found = known.get(reach)
            if found is None or time.monotonic() - found[0] > _FRESH:
                made = count(reach)
                if len(known) >= _MOST:
                    known.clear()
                found = known[reach] = (time.monotonic(), made)
            return found[1]

    def _count(self, reach: Reach) -> Told:
        database, last = self._quarantine.database, int(time.time()) // statistics.DAY
        first = last - DAYS + 1
        return Told(
            statistics.states(database, reach),
            statistics.held(database, reach, first, last),
            statistics.judged(database, first, last) if reach.everything else [],
            self._quarantine.decisions.figures() if reach.everything else None,
        )

    def _count_waiting(self, reach: Reach) -> dict[str, int]:
        found = statistics.states(self._quarantine.database, reach, *OPEN)
        return {"open": sum(found.values()), "requested": found.get(State.REQUESTED, 0)}


def page(visit: Visit) -> Response:
    """The statistics."""
    told = visit.site.counts.of(visit.person)
    return visit.page(
        "stats.html",
        states={state: told.states[state] for state in _HELD if told.states.get(state)},
        held=plot(told.held, _HELD),
        judged=plot(told.judged, _JUDGED) if told.judged else None,
        whole=told.whole,
    )


def live(visit: Visit) -> Response:
    """What waits, for the counters of a page that is open."""
    return JSONResponse(visit.site.counts.waiting(visit.person))
