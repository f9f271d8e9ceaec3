# SPDX-License-Identifier: GPL-2.0-or-later
"""When to try again, and what time it is when the clock is set. Pure but for the clock."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.delivery.settings import QueueSettings

_JUMP = 60.0  # seconds by which clocks may differ before one was set


def retry_after(attempts: int, settings: QueueSettings) -> float:
    """Seconds until the next attempt, after so many (at least one): doubling, with jitter."""
    pause = settings.retry_first * 2.0 ** min(attempts - 1, 30)
    spread = random.uniform(0.75, 1.25)  # noqa: S311  # jitter, not a secret
    return float(min(pause, settings.retry_longest) * spread)


class Clock:
    """The time of day, and the age of messages by a clock that nobody sets.

    The queue outlives processes, so its times are times of day. When the machine's clock leaps
    forward under a running process, what was queued before has not aged by that.
    """

    def __init__(
        self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall = wall
        self._steady = steady
        self._offset = wall() - steady()
        self._leaps: list[tuple[float, float]] = []  # time of day before it, seconds

    def now(self) -> float:
        """Seconds since 1970."""
        wall = self._wall()
        offset = wall - self._steady()
        leap = offset - self._offset
        if abs(leap) > _JUMP:
            self._leaps.append((wall - leap, leap))
        self._offset = offset
        return wall

    def age(self, created: float) -> float:
        """Seconds since `created`, a time of day of then."""
        now = self.now()
        leapt = sum(leap for before, leap in self._leaps if leap > 0 and created <= before)
        return now - created - leapt
