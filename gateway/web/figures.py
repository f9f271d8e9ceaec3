# SPDX-License-Identifier: GPL-2.0-or-later
"""The figures of the last days, for the page, its live counters and the API; each person's own reach."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from starlette.responses import JSONResponse, Response

from gateway.store import statistics
from gateway.store.search import Search
from gateway.store.states import OPEN, State
from gateway.web.plot import plot

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.store.decisions import Figures
    from gateway.store.people import Person
    from gateway.store.quarantine import Quarantine
    from gateway.store.reach import Reach
    from gateway.store.statistics import Day
    from gateway.web.site import Visit

T = TypeVar("T")
DAYS: Final = 14
_FRESH: Final = 15.0  # seconds for which what waits is shown again
_FRESH_DAYS: Final = 60.0  # and the figures of all days, for which all is read
UPTO: Final = 10_000  # what waits is counted that far
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
        self._told = _Kept(self._count, _FRESH_DAYS)
        self._waiting = _Kept(self._count_waiting, _FRESH)

    def of(self, person: Person) -> Told:
        """What this person may know."""
        return self._told.of(person.reach)

    def waiting(self, person: Person) -> dict[str, int]:
        """How much is open, and how much of it is asked for; `UPTO` for more."""
        return self._waiting.of(person.reach)

    def _count(self, reach: Reach) -> Told:
        database, last = self._quarantine.database, int(time.time()) // statistics.DAY
        first = last - DAYS + 1
        states, held = statistics.held(database, reach, first, last)
        return Told(
            states,
            held,
            statistics.judged(database, first, last) if reach.everything else [],
            self._quarantine.decisions.figures() if reach.everything else None,
        )

    def _count_waiting(self, reach: Reach) -> dict[str, int]:
        wanted = {
            "open": Search(within=reach, state=OPEN),
            "requested": Search(within=reach, state=State.REQUESTED),
        }
        return {name: self._quarantine.count(search, UPTO) for name, search in wanted.items()}


class _Kept(Generic[T]):
    """What was counted for a reach, for some seconds; one counts at a time."""

    def __init__(self, count: Callable[[Reach], T], seconds: float) -> None:
        self._count = count
        self._seconds = seconds
        self._lock = threading.Lock()
        self._known: dict[Reach, tuple[float, T]] = {}

    def of(self, reach: Reach) -> T:
        """What is known, counted anew if that is too old."""
        with self._lock:
            found = self._known.get(reach)
            if found is None or time.monotonic() - found[0] > self._seconds:
                made = self._count(reach)
                if len(self._known) >= _MOST:
                    self._known.clear()
                found = self._known[reach] = (time.monotonic(), made)
            return found[1]


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
    return JSONResponse(shown(visit.site.counts.waiting(visit.person), visit.say))


def shown(waiting: Mapping[str, int], say: Callable[[str], str]) -> dict[str, str]:
    """What waits, as people read it."""
    return {name: say(f"{n} or more") if n >= UPTO else str(n) for name, n in waiting.items()}
