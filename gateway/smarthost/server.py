# SPDX-License-Identifier: GPL-2.0-or-later
"""A worker of the smart host: accepts on shared sockets, counts clients, drains when told to.

Runs in a process forked by the supervisor, which has bound the sockets; threads and the event
loop begin here. Client addresses are the only thing read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from gateway.delivery.verify import Verifier
from gateway.gather import WAITING
from gateway.mail.networks import inside
from gateway.mail.types import Reply
from gateway.smarthost.session import Conversation
from gateway.tls.inbound import server_context

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Iterable, Iterator, Sequence
    from concurrent.futures import Executor

    from gateway.smarthost.settings import Door, SmarthostSettings

_BACKLOG = 1024
_ACCEPT = 8  # connections one worker takes at a time, so that its siblings get theirs
_BUSY = Reply(421, "4.3.2", "Too many connections, try again later")
_GREEDY = Reply(421, "4.7.0", "Too many connections from your address, try again later")
_ROOM = Reply(421, "4.4.2", "Idle while connections run short, closing")
_CLOSING = Reply(421, "4.3.2", "Service is closing, try again later")
_SOFT = 5.0  # seconds for which a stopping worker takes further messages from clients it has
_IDLE = 1.0  # seconds without a command after which a client may have to make room


class Worker:
    """What the sessions of one worker share: counts, the thread pool, and whether to stop."""

    def __init__(self, door: Door, pool: Executor, tls_context: ssl.SSLContext | None) -> None:
        self.door = door
        self.pool = pool
        self.tls_context = tls_context
        self.loop = asyncio.get_running_loop()
        self.closing = False  # whether clients are sent away between messages
        self.buffered = 0  # octets of messages in memory
        self.sessions: set[Conversation] = set()
        self.empty = asyncio.Event()  # set when the last session has ended
        self._clients: Counter[str] = Counter()
        settings = door.settings
        self.verifier = (
            Verifier(door.hostname, door.tls_rules, settings.relay, settings.verify_seconds)
            if door.submit is not None and settings.verify_recipients
            else None
        )

    def welcome(self, session: Conversation) -> Reply | None:
        """Count a client in; the refusal if it may not stay.

        Where connections run out, whoever has been idle longest makes room: a thousand slow
        clients do not keep a quick one out.
        """
        settings = self.door.settings
        self.sessions.add(session)
        self._clients[session.client] += 1
        self.door.count("connections")
        if self.closing:
            return _CLOSING
        if len(self.sessions) > settings.connection_limit and not _dismiss_idlest(self.sessions):
            return _BUSY
        listed = (*self.door.relay_networks, *settings.xclient_networks, *settings.xforward_networks)
        greedy = self._clients[session.client] > settings.client_connection_limit
        if not greedy or inside(session.peer, listed):
            return None
        siblings = [other for other in self.sessions if other.client == session.client]
        return None if _dismiss_idlest(siblings) else _GREEDY

    def left(self, session: Conversation) -> None:
        """Count a client out."""
        if session in self.sessions:
            self.sessions.remove(session)
            self._clients[session.client] -= 1
            if not self._clients[session.client]:
                del self._clients[session.client]
        if not self.sessions:
            self.empty.set()

    @property
    def full(self) -> bool:
        """Whether no more messages fit into memory."""
        return self.buffered > self.door.settings.memory_limit

    def patience(self) -> float:
        """Seconds that a client gets for its next command; few when connections run short."""
        settings = self.door.settings
        crowded = len(self.sessions) * 5 > settings.connection_limit * 4
        return settings.command_timeout / 10 if crowded else settings.command_timeout


def _dismiss_idlest(sessions: Iterable[Conversation]) -> bool:
    """Send away who has waited longest to say something; whether there was anybody."""
    before = asyncio.get_running_loop().time() - _IDLE
    idle = [session for session in sessions if session.idle_since < before]
    if not idle:
        return False
    min(idle, key=lambda session: session.idle_since).dismiss(_ROOM)
    return True


def tls_context(settings: SmarthostSettings) -> ssl.SSLContext | None:
    """The context for STARTTLS, None without a certificate. Raises OSError and ssl.SSLError.

    Called before privileges are dropped, and once for all workers: they share its ticket keys.
    """
    if not settings.certificate:
        return None
    return server_context(
        settings.certificate,
        settings.key,
        client_ca_file=settings.client_ca_file,
        minimum_version=settings.minimum_version,
    )


async def serve(
    listen_sockets: Sequence[socket.socket],
    door: Door,
    stop: asyncio.Event,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Serve clients on `listen_sockets` until `stop` is set, then drain.

    Drained means: no new clients, 421 to those that are idle, and `door.grace` seconds for the
    others; who is not done then hears nothing and tries again.
    """
    # aiosmtpd writes what clients send into its log at level INFO.
    logging.getLogger("mail.log").setLevel(logging.WARNING)
    loop = asyncio.get_running_loop()
    with _pool(WAITING * door.settings.threads) as pool:
        worker = Worker(door, pool, tls)
        servers = []
        for sock in listen_sockets:
            # `backlog` is also how many connections asyncio accepts in one go.
            servers.append(await loop.create_server(lambda: Conversation(worker), sock=sock, backlog=_ACCEPT))
            sock.listen(_BACKLOG)
        await stop.wait()
        for server in servers:
            server.close()
        await _drain(worker)
        if worker.verifier is not None:
            await worker.verifier.close()


async def _drain(worker: Worker) -> None:
    """Let the clients finish what they have begun, for as long as the grace allows.

    A reload drains too, so a client in the middle of its work does not notice: it goes on for a
    few seconds, then hears 421 between two messages. Who is idle hears it at once.
    """
    now, grace = worker.loop.time, worker.door.grace
    soft, hard = now() + min(_SOFT, grace / 2), now() + grace
    while worker.sessions and now() < hard:
        worker.closing = now() >= soft
        for session in tuple(worker.sessions):
            if session.idle_for(now()) > (_IDLE if not session.in_transaction else _SOFT):
                session.dismiss(_CLOSING)
        worker.empty.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(worker.empty.wait(), 0.2)
    for session in tuple(worker.sessions):
        session.hang_up()


@contextlib.contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(threads, thread_name_prefix="judge")
    try:
        yield pool
    finally:
        # A judgement that hangs must not keep a stopped worker alive.
        pool.shutdown(wait=False, cancel_futures=True)
