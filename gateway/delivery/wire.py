# SPDX-License-Identifier: GPL-2.0-or-later
"""The connection to a next hop: replies in, bytes out, with back-pressure.

Reads hostile bytes, through `protocol`, which bounds them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.delivery.change import Change
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
        self._change = Change()
        self._now = asyncio.get_running_loop().time

    def data_received(self, data: bytes) -> None:
        try:
            if self.error is None:
                self.reader.feed(data)
        except ProtocolError as error:
            self.error = error
        self._change.tell()

    def eof_received(self) -> bool:
        self.lost = True
        self._change.tell()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        del exc  # how it ended makes no difference
        self.lost = True
        self._change.tell()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._change.tell()

    async def reply(self, seconds: float) -> HopReply:
        """The next reply. Raises ProtocolError, ConnectionError or TimeoutError."""
        until = self._now() + seconds
        while (found := self.reader.next()) is None:
            if self.error is not None:
                raise self.error
            if self.lost:
                raise ConnectionError("connection lost")
            await self._change.wait(until)
        return found

    async def writable(self, seconds: float) -> None:
        """Wait until more may be written. Raises ConnectionError or TimeoutError."""
        until = self._now() + seconds
        while self._paused and not self.lost:
            await self._change.wait(until)
        if self.lost:
            raise ConnectionError("connection lost")
