# SPDX-License-Identifier: GPL-2.0-or-later
"""A worker of the smart host: accepts on shared sockets, and drains when told to.

Runs in a process forked by the supervisor, which has bound the sockets; threads and the event
loop begin here. Client addresses are the only thing read.
"""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from gateway.gather import WAITING
from gateway.smarthost.replies import CLOSING
from gateway.smarthost.session import Conversation
from gateway.smarthost.worker import IDLE, Worker
from gateway.tls.inbound import server_tls

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Sequence

    from gateway.smarthost.settings import Door, Listener, SmarthostSettings
    from gateway.tls.inbound import InboundTlsRule, ServerTls

_BACKLOG = 1024
_SOFT = 5.0  # seconds for which a stopping worker takes further messages from clients it has
_NO_DESCRIPTORS = 0.5  # seconds for which nobody is accepted when that has failed


def own_tls(settings: SmarthostSettings, rules: tuple[InboundTlsRule, ...]) -> ServerTls | None:
    """What TLS is answered with, None without a certificate. Raises OSError and ssl.SSLError.

    Called before privileges are dropped, and once for all workers: they share its ticket keys.
    """
    if not settings.certificate:
        return None
    return server_tls(
        settings.certificate,
        settings.key,
        client_ca_file=settings.client_ca_file,
        minimum_version=settings.minimum_version,
        rules=rules,
    )


async def serve(
    listeners: Sequence[tuple[Listener, socket.socket]],
    door: Door,
    stop: asyncio.Event,
    tls: ServerTls | None = None,
    *,
    patient: Callable[[], bool] = lambda: False,
) -> None:
    """Serve clients on `listeners` until `stop` is set, then drain.

    Drained means: no new clients, 421 to those that are idle, and `door.grace` seconds for the
    others; who is not done then hears nothing and tries again. Where `patient` says that others serve
    in our place, clients keep their connection for most of that time.
    """
    with _pool(WAITING * door.settings.threads) as pool:
        worker = Worker(door, pool, tls)
        tasks: set[asyncio.Task[None]] = set()
        for _, bound in listeners:
            bound.setblocking(False)
            bound.listen(_BACKLOG)
        accepting = [
            asyncio.create_task(_accept(listener, bound, worker, tasks)) for listener, bound in listeners
        ]
        await stop.wait()
        for task in accepting:
            task.cancel()
        await asyncio.gather(*accepting, return_exceptions=True)
        for _, bound in listeners:
            bound.close()
        await _drain(worker, patient=patient())
        if worker.verifier is not None:
            await worker.verifier.close()
        if worker.guard is not None:
            worker.guard.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _accept(
    listener: Listener, bound: socket.socket, worker: Worker, tasks: set[asyncio.Task[None]]
) -> None:
    """Take clients, one at a time, so that the siblings of this worker get theirs."""
    while True:
        try:
            connection, where = await worker.loop.sock_accept(bound)
        except ConnectionError:
            continue  # the client has gone
        except OSError as error:
            worker.door.log.error("cannot accept", why=str(error.strerror))
            await asyncio.sleep(_NO_DESCRIPTORS)
            continue
        session = Conversation(worker, listener, str(where[0]))
        task = asyncio.create_task(session.run(connection))
        session.task = task
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        await asyncio.sleep(0)


async def _drain(worker: Worker, *, patient: bool) -> None:
    """Let the clients finish what they have begun, for as long as the grace allows.

    At a reload nobody notices for four fifths of that time; then clients hear 421 between two messages. When
    the service stops, that is so after a few seconds, and who is idle hears it at once.
    """
    now, grace = worker.loop.time, worker.door.grace
    soft = now() + (grace * 0.8 if patient else min(_SOFT, grace / 2))
    hard = now() + grace
    while worker.sessions and now() < hard:
        worker.closing = now() >= soft
        if patient and not worker.closing:
            await _left(worker)
            continue
        for session in tuple(worker.sessions):
            if now() - session.idle_since > (IDLE if not session.in_transaction else _SOFT):
                session.dismiss(CLOSING)
        await _left(worker)
    for session in tuple(worker.sessions):
        session.hang_up()


async def _left(worker: Worker) -> None:
    """Wait until the last session has ended, but not for long."""
    worker.empty.clear()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            await worker.empty.wait()


@contextlib.contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(threads, thread_name_prefix="judge")
    try:
        yield pool
    finally:
        # A judgement that hangs must not keep a stopped worker alive.
        pool.shutdown(wait=False, cancel_futures=True)
