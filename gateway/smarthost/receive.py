# SPDX-License-Identifier: GPL-2.0-or-later
"""The octets of a message from the wire, within limits on time, rate and memory.

Reads hostile bytes, through `data`. What a client sends slower than the least rate makes it one that owes
us something, so that it makes room where connections run short.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from gateway.mail.types import Reply
from gateway.smarthost.data import ChunkReader, DataReader
from gateway.smarthost.replies import CHUNK_FAULTS, FAULTS
from gateway.smarthost.wire import BLOCK

if TYPE_CHECKING:
    from gateway.smarthost.wire import Wire
    from gateway.smarthost.worker import Worker

LINGER = 5.0  # seconds in which the rest of a condemned message is read and thrown away
_RATE_GRACE = 60.0  # seconds before the least data rate counts
_PAUSE = 4.0  # seconds more than other clients that one in the middle of its message may pause
_SLOW = Reply(421, "4.4.2", "Message comes too slowly, closing")


class Message:
    """The message of one session, while it comes. Its octets are counted in the worker's memory."""

    def __init__(self, wire: Wire, worker: Worker) -> None:
        self._wire = wire
        self._worker = worker
        self._settings = worker.door.settings
        self._counted = 0
        self._chunks: ChunkReader | None = None

    @property
    def begun(self) -> bool:
        """Whether some of it has come in chunks."""
        return self._chunks is not None

    def drop(self) -> None:
        """There is none any more."""
        self._worker.buffered -= self._counted
        self._counted = 0
        self._chunks = None

    def _count(self, reader: DataReader | ChunkReader) -> None:
        if self._worker.full and not reader.fault:
            reader.condemn()
        self._worker.buffered += reader.held - self._counted
        self._counted = reader.held

    async def by_data(self) -> bytes | Reply | None:
        """What comes behind 354 to its end: the message, or why it cannot be taken.

        None is a fault in line ends: it was told at once, and what came behind it read for a while, since an
        early close would lose the reply; now the caller must close. Raises TimeoutError, EOFError.
        """
        data, pace = DataReader(self._settings.size_limit), Pace(self._wire, self._worker)
        try:
            while True:
                chunk = await self._wire.block(self._settings.data_timeout)
                ended = data.feed(chunk)
                self._count(data)
                if data.fault in ("line", "nul"):
                    self._wire.say_now(FAULTS[data.fault])
                    if not ended:
                        await self._linger(data)
                    return None
                if ended:
                    break
                if pace.too_slow(len(chunk)):
                    return _SLOW
        finally:
            pace.done()
        # What came behind the end are the next commands (RFC 2920 §3.1).
        self._wire.put_back(data.rest)
        return FAULTS[data.fault] if data.fault else data.message()

    async def _linger(self, data: DataReader) -> None:
        until = time.monotonic() + LINGER
        with contextlib.suppress(TimeoutError, EOFError):
            while (left := until - time.monotonic()) > 0 and not data.feed(await self._wire.block(left)):
                pass

    async def by_chunk(self, size: int, *, last: bool) -> bytes | Reply | None:
        """The next chunk: the message with its `last` one, None before, or why it cannot be taken.

        All `size` octets are read whatever is wrong with them, so that none is ever a command (RFC 3030 §2).
        Raises TimeoutError, EOFError.
        """
        chunks = self._chunks = self._chunks or ChunkReader(self._settings.size_limit)
        await self._octets(size, chunks)
        if last:
            chunks.end()
        if chunks.fault:
            return CHUNK_FAULTS[chunks.fault]
        return chunks.message() if last else None

    async def discard(self, size: int) -> None:
        """Throw a chunk away. Raises TimeoutError, EOFError."""
        await self._octets(size, None)

    async def _octets(self, size: int, into: ChunkReader | None) -> None:
        pace = Pace(self._wire, self._worker)
        try:
            while size:
                octets = await self._wire.block(self._settings.data_timeout, min(size, BLOCK))
                size -= len(octets)
                if into is not None:
                    into.feed(octets)
                    self._count(into)
                if size and pace.too_slow(len(octets)):
                    raise TimeoutError
        finally:
            pace.done()


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
