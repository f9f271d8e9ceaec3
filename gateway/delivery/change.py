# SPDX-License-Identifier: GPL-2.0-or-later
"""What a connection's one task waits for: that something has changed. Reads nothing.

`asyncio.timeout` around an `asyncio.Event` costs several times as much, for each command of a dialogue.
"""

from __future__ import annotations

import asyncio


class Change:
    """Wakes the task that waits; whoever is woken looks what has changed."""

    __slots__ = ("_loop", "_waiter")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None

    def tell(self) -> None:
        """Something has changed."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, until: float) -> None:
        """Wait until something changes, to `until` by the loop's clock. Raises TimeoutError."""
        waiter = self._waiter = self._loop.create_future()
        timer = self._loop.call_at(until, _expire, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None


def _expire(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError())
