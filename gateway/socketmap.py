# SPDX-License-Identifier: GPL-2.0-or-later
"""TLS policies for Postfix: a worker that answers `smtp_tls_policy_maps = socketmap:...`.

Reads questions of whoever reaches its address, which should be the local Postfix alone: bounded in size,
number and time. The protocol is in `tls/socketmap`; here are sockets and threads. What cannot be found
out is answered "TEMP", so that Postfix defers, and never "there is none".
"""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from gateway.mail.headers import printable
from gateway.store.database import StoreError
from gateway.tls.destination import look, postfix_policy, postfix_table
from gateway.tls.socketmap import LONGEST, QuestionError, Questions, netstring, next_hop

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from gateway.log import Log
    from gateway.tls.demands import Demands

_THREADS: Final = 32
_CLIENTS: Final = 1_000
_IDLE: Final = 600.0  # seconds; Postfix closes after ten
_PATIENCE: Final = 90.0  # seconds for an answer; Postfix waits for a hundred


class Answerer:
    """Answers the questions of all connections of a worker."""

    def __init__(self, demands: Demands, log: Log, count: Callable[[str], None] = lambda _what: None) -> None:
        self._demands = demands
        self._log = log
        self._count = count
        self._pool = ThreadPoolExecutor(_THREADS, "policy")
        self._clients: set[asyncio.Task[None]] = set()

    async def answer(self, question: bytes) -> str:
        """The answer to one question: "OK policy", "NOTFOUND " or "TEMP why"."""
        hop = next_hop(question)
        if hop is None:
            return "NOTFOUND "
        if mine := postfix_table(hop.domain, self._demands.rules):
            return f"OK {mine}"
        loop, shown = asyncio.get_running_loop(), printable(hop.domain, 253)
        try:
            async with asyncio.timeout(_PATIENCE):
                found = await loop.run_in_executor(
                    self._pool, lambda: look(self._demands, hop.domain, port=hop.port, mx=not hop.literal)
                )
        except (StoreError, TimeoutError) as error:
            self._log.error("no TLS policy", domain=shown, error=printable(str(error), 200))
            return "TEMP the TLS policy cannot be found out now"
        except Exception as error:  # noqa: BLE001  # a fault of ours defers mail, and sends none in clear
            self._log.error("no TLS policy", domain=shown, error=type(error).__name__)
            return "TEMP failure here"
        if found.status == "temperror":
            return "TEMP the MX records cannot be looked up"
        policy = postfix_policy(found)
        return f"OK {policy}" if policy else "NOTFOUND "

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, question by question."""
        task = asyncio.current_task()
        if task is not None:
            self._clients.add(task)
        try:
            if len(self._clients) <= _CLIENTS:
                await self._converse(reader, writer)
        except (OSError, TimeoutError, QuestionError, asyncio.CancelledError):
            pass
        finally:
            if task is not None:
                self._clients.discard(task)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        questions = Questions()
        while True:
            async with asyncio.timeout(_IDLE):
                data = await reader.read(LONGEST)
            if not data:
                return
            questions.feed(data)
            while (question := questions.next()) is not None:
                said = await self.answer(question)
                self._count(said.partition(" ")[0].lower())
                writer.write(netstring(said))
                async with asyncio.timeout(_IDLE):
                    await writer.drain()

    async def close(self) -> None:
        """End all connections. A lookup that is under way is left to end by itself."""
        for task in tuple(self._clients):
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        self._pool.shutdown(wait=False, cancel_futures=True)


async def serve(bound: socket.socket, answerer: Answerer, stop: asyncio.Event) -> None:
    """Answer on a socket that is bound already until `stop` is set."""
    start = asyncio.start_unix_server if bound.family.name == "AF_UNIX" else asyncio.start_server
    server = await start(answerer.serve, sock=bound, limit=2 * LONGEST)
    try:
        await stop.wait()
    finally:
        server.close()
        with contextlib.suppress(asyncio.CancelledError):
            await answerer.close()
