# SPDX-License-Identifier: GPL-2.0-or-later
"""The connection to a next hop: replies in, bytes out, with back-pressure.

Reads hostile bytes, through `protocol`, which bounds them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.delivery.protocol import ProtocolError, ReplyReader

if TYPE_CHECKING:
    from gateway.delivery.protocol import HopReply


class Wire(asyncio.Protocol):
    """One connection. `lost` and `error` stay once they are set."""

    def __init__(self) -> None:
        self.reader = ReplyReader()
        self.lost = False
        self.error: ProtocolError | None = None
        self._paused = False
        self._changed = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        try:
            if self.error is None:
                self.reader.feed(data)
        except ProtocolError as error:
            self.error = error
        self._changed.set()

    def eof_received(self) -> bool:
        self.lost = True
        self._changed.set()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        del exc  # how it ended makes no difference
        self.lost = True
        self._changed.set()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._changed.set()

    async def reply(self) -> HopReply:
        """The next reply. Raises ProtocolError or ConnectionError."""
        while True:
            found = self.reader.next()
            if found is not None:
                return found
            if self.error is not None:
                raise self.error
            if self.lost:
                raise ConnectionError("connection lost")
            self._changed.clear()
            await self._changed.wait()

    async def writable(self) -> None:
        """Wait until more may be written. Raises ConnectionError."""
        while self._paused and not self.lost:
            self._changed.clear()
            await self._changed.wait()
        if self.lost:
            raise ConnectionError("connection lost")
