# SPDX-License-Identifier: GPL-2.0-or-later
"""The octets of a message from the wire, within limits on time, rate and memory.

Reads hostile bytes, through `data`. What a client sends slower than the least rate makes it one that owes
us something, so that it makes room where connections run short.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gateway.mail.types import Reply
from gateway.smarthost.replies import FAULTS

if TYPE_CHECKING:
    from gateway.smarthost.data import DataReader
    from gateway.smarthost.wire import Wire
    from gateway.smarthost.worker import Worker

LINGER = 5.0  # seconds in which the rest of a condemned message is read and thrown away
_RATE_GRACE = 60.0  # seconds before the least data rate counts
_PAUSE = 4.0  # seconds more than other clients that one in the middle of its message may pause
_SLOW = Reply(421, "4.4.2", "Message comes too slowly, closing")


async def receive(wire: Wire, data: DataReader, worker: Worker) -> Reply | None:
    """Read the message behind 354 to its end; the refusal if it cannot be taken.

    A fault in line ends is said at once, and what comes behind it read for a while, since an early close
    would lose the reply; then, and after a 421, the caller must close. Raises TimeoutError, EOFError.
    """
    settings = worker.door.settings
    pace = Pace(wire, worker)
    told = 0.0
    try:
        while True:
            chunk = await wire.block(LINGER if told else settings.data_timeout)
            before = data.held
            ended = data.feed(chunk)
            worker.buffered += data.held - before
            if data.fault in ("line", "nul") and not told:
                wire.say_now(FAULTS[data.fault])
                told = time.monotonic()
            if ended or (told and time.monotonic() - told > LINGER):
                break
            if worker.full and not data.fault:
                data.condemn()
            if not told and pace.too_slow(len(chunk)):
                return _SLOW
    except (TimeoutError, EOFError):
        if not told:
            raise
    finally:
        pace.done()
    if told:
        return FAULTS[data.fault]
    # What came behind the end are the next commands (RFC 2920 §3.1).
    wire.put_back(data.rest)
    return FAULTS[data.fault] if data.fault else None


class Pace:
    """How fast a client sends what it has announced."""

    def __init__(self, wire: Wire, worker: Worker) -> None:
        self._wire = wire
        self._worker = worker
        self._started = worker.loop.time()
        self._size = 0
        wire.idle_since = self._started + _PAUSE

    def too_slow(self, octets: int) -> bool:
        """Count octets that have come; whether they come slower than the settings allow."""
        now, rate = self._worker.loop.time(), self._worker.door.settings.data_rate
        self._size += octets
        paid = self._started + self._size / rate if rate else now
        self._wire.idle_since = min(now, paid) + _PAUSE
        late = now - self._started - _RATE_GRACE
        return late > 0 and self._size < late * rate

    def done(self) -> None:
        """The client owes nothing more."""
        self._wire.idle_since = float("inf")
