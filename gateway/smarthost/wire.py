# SPDX-License-Identifier: GPL-2.0-or-later
"""The bytes of one client: lines and blocks in, replies out, TLS under them. It knows no SMTP.

Reads hostile bytes. What is read ahead is bounded, and a client that does not read what we write is
cut off. aiosmtpd is not used: it can begin TLS only as its very first octet or with STARTTLS, but not
behind a PROXY header, reads lines through a stream that nobody may look into, and starts and stops a
timer for every command.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, cast

from gateway.delivery.change import Change
from gateway.smarthost.replies import wire as written

if TYPE_CHECKING:
    import ssl

    from gateway.mail.types import Reply

AHEAD = 16_384  # octets read ahead of a command: RFC 4954 §4 wants lines of 12,288
BLOCK = 262_144  # octets of a message read at a time
_FLUSH = 10.0  # seconds in which a client takes the last of what we said


class LongLineError(Exception):
    """A line that does not end."""


class Wire(asyncio.BufferedProtocol):
    """One connection, with one reader at a time.

    `scratch` is where the loop puts what it receives, and serves all connections of a process.
    `idle_since` is the loop's time at which the client began to owe us something, else infinite.
    """

    def __init__(self, scratch: memoryview) -> None:
        self.transport: asyncio.Transport | None = None
        self.idle_since = math.inf
        self._scratch = scratch
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._room = AHEAD
        self._ended = False  # the client sends no more
        self._lost = False
        self._securing = False
        self._change = Change()
        self._stopped = False  # the transport does not read
        self._clogged = False  # the transport takes no more

    # ---------------------------------------------------------------- called by the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # what kind it is, is the loop's own business

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return self._scratch[: max(1, self._room - len(self._buffer))]

    def buffer_updated(self, nbytes: int) -> None:
        self._buffer += self._scratch[:nbytes]
        if len(self._buffer) >= self._room and self.transport is not None:
            self.transport.pause_reading()
            self._stopped = True
        self._change.tell()

    def eof_received(self) -> bool:
        # A client that closes its sending side still waits for its replies, but not over TLS.
        self._ended = True
        self._change.tell()
        return self.tls is None

    def connection_lost(self, exc: Exception | None) -> None:
        del exc  # how it ended makes no difference
        self._ended = self._lost = True
        self._change.tell()

    def pause_writing(self) -> None:
        self._clogged = True

    def resume_writing(self) -> None:
        self._clogged = False
        self._change.tell()

    # ---------------------------------------------------------------- reading

    @property
    def pending(self) -> bool:
        """Whether the client has sent more than was read."""
        return bool(self._buffer)

    async def line(self, seconds: float) -> bytes:
        """The next line with its LF. Raises TimeoutError, EOFError, LongLineError."""
        until = self._loop.time() + seconds
        self.idle_since = self._loop.time()
        seen = 0
        try:
            while (end := self._buffer.find(b"\n", seen)) < 0:
                seen = len(self._buffer)
                if seen >= AHEAD:
                    raise LongLineError
                await self._more(until, AHEAD)
        finally:
            self.idle_since = math.inf
        line = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        return line

    async def block(self, seconds: float, most: int = BLOCK) -> bytes:
        """What has come, at least one octet and at `most` so many. Raises TimeoutError, EOFError."""
        if not self._buffer:
            await self._more(self._loop.time() + seconds, BLOCK)
        found = bytes(self._buffer[:most])
        del self._buffer[:most]
        return found

    def put_back(self, data: bytes) -> None:
        """Let `data` be read again, before all else."""
        self._buffer[:0] = data

    async def _more(self, until: float, room: int) -> None:
        if self._ended:
            raise EOFError
        self._room = room
        if self._stopped and self.transport is not None:
            self._stopped = False
            self.transport.resume_reading()
        before = len(self._buffer)
        while len(self._buffer) == before and not self._ended:
            await self._change.wait(until)
        if len(self._buffer) == before:
            raise EOFError

    # ---------------------------------------------------------------- writing

    async def send(self, data: bytes, seconds: float) -> None:
        """Write `data`, and wait while the client does not read. Raises TimeoutError, ConnectionError."""
        if self.transport is None or self._lost or self.transport.is_closing():
            raise ConnectionResetError
        self.transport.write(data)
        until = self._loop.time() + seconds
        while self._clogged:
            await self._change.wait(until)
            if self._lost:
                raise ConnectionResetError

    def say_now(self, reply: Reply) -> None:
        """Say it without waiting, in a callback or where the connection may be lost."""
        if self.transport is not None and not self._securing and not self.transport.is_closing():
            self.transport.write(written(reply) + b"\r\n")

    def close(self) -> None:
        """Close once everything that was said is sent, or has not been taken for a while."""
        if self.transport is None or self._lost:
            return
        if self._securing:
            self.transport.abort()
            return
        if self.transport.get_write_buffer_size():
            self._loop.call_later(_FLUSH, self.transport.abort)
        self.transport.close()

    # ---------------------------------------------------------------- TLS

    @property
    def tls(self) -> ssl.SSLObject | None:
        """The TLS session, None in clear."""
        if self.transport is None:
            return None
        found: ssl.SSLObject | None = self.transport.get_extra_info("ssl_object")
        return found

    @property
    def over_tls(self) -> bool:
        """Whether there is one."""
        return self.tls is not None

    async def secure(self, context: ssl.SSLContext, seconds: float) -> None:
        """Begin TLS. What came in clear is dropped. Raises OSError if it does not come about."""
        assert self.transport is not None
        self._stopped = False
        self._securing = True
        self.idle_since = self._loop.time()
        try:
            # No octet can come between this line and the moment from which all go to TLS.
            self._buffer.clear()
            secured = await self._loop.start_tls(
                self.transport,
                self,
                context,
                server_side=True,
                ssl_handshake_timeout=seconds,
                ssl_shutdown_timeout=_FLUSH,
            )
        except BaseException:
            self._lost = True  # asyncio has closed it and does not tell
            raise
        finally:
            self.idle_since = math.inf
            self._securing = False
        if secured is None:
            raise ConnectionResetError
        self.transport = secured
