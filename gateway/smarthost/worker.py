# SPDX-License-Identifier: GPL-2.0-or-later
"""What the sessions of one worker share: who is here, what they may do, memory, threads.

Client addresses are the only thing read. It knows sessions as guests that may be sent away.
"""

from __future__ import annotations

import asyncio
import resource
from typing import TYPE_CHECKING, Protocol

from gateway.delivery.verify import Verifier
from gateway.logins.guard import Guard
from gateway.mail.networks import inside, is_here
from gateway.mail.types import Reply
from gateway.smarthost.limits import Rates
from gateway.smarthost.replies import CLOSING
from gateway.smarthost.wire import BLOCK

if TYPE_CHECKING:
    from collections.abc import Iterable
    from concurrent.futures import Executor

    from gateway.smarthost.limits import What
    from gateway.smarthost.settings import Door
    from gateway.tls.inbound import ServerTls

IDLE = 1.0  # seconds of owing us something after which a client may have to make room
_BUSY = Reply(421, "4.3.2", "Too many connections, try again later")
_GREEDY = Reply(421, "4.7.0", "Too many connections from your address, try again later")
_FAST = Reply(421, "4.7.0", "Too many connections from your address in a short time, try again later")
_FAULTY = Reply(421, "4.7.0", "Too many errors from your address, try again later")
_ROOM = Reply(421, "4.4.2", "Idle while connections run short, closing")


class Guest(Protocol):
    """A session as its worker sees it."""

    peer: str  # the client's IP address
    client: str  # what counts as one client: the IPv4 address, the IPv6 /64

    @property
    def idle_since(self) -> float:
        """The loop's time at which it began to owe us something; infinite while it does not."""

    @property
    def in_transaction(self) -> bool:
        """Whether the client has given a sender, and its message is not answered yet."""

    def dismiss(self, reply: Reply) -> None:
        """Send it away."""

    def hang_up(self) -> None:
        """Close the connection."""


class Worker:
    """What the sessions of one worker share."""

    def __init__(self, door: Door, pool: Executor, tls: ServerTls | None) -> None:
        self.door = door
        self.pool = pool
        self.tls = tls
        self.loop = asyncio.get_running_loop()
        self.closing = False  # whether clients are sent away between messages
        self.buffered = 0  # octets of messages in memory
        self.sessions: set[Guest] = set()
        self.empty = asyncio.Event()  # set when the last session has ended
        self.scratch = memoryview(bytearray(BLOCK))
        self._crowd = door.crowd
        self._counted: dict[Guest, str] = {}
        self._limit = _places(door.settings.connection_limit)
        settings = door.settings
        self._rates = Rates(settings.rates, door.ledger)
        self._listed = (*door.relay_networks, *settings.xclient_networks, *settings.xforward_networks)
        self.guard = Guard(door.logins, door.log, door.ledger) if door.logins is not None else None
        self.verifier = (
            Verifier(door.hostname, door.ways, settings.relay, settings.verify_seconds)
            if door.submit is not None and settings.verify_recipients
            else None
        )

    def enter(self, session: Guest) -> Reply | None:
        """Count a connection in; the refusal if there is no room.

        Where connections run out, whoever has owed us something for longest makes room: a thousand slow
        clients do not keep a quick one out.
        """
        self.sessions.add(session)
        self.door.count("connections")
        if self.closing:
            return CLOSING
        crowded = len(self.sessions) > self._limit
        return _BUSY if crowded and not self._dismiss_idlest(self.sessions) else None

    def welcome(self, session: Guest) -> Reply | None:
        """Count a client in, once it is known who it is; the refusal if it may not stay."""
        settings = self.door.settings
        self._counted[session] = session.client
        own, around = self._crowd.enter(session.client)
        if inside(session.peer, self._listed):
            return None
        if own > settings.client_connection_limit:
            siblings = [one for one, client in self._counted.items() if client == session.client]
            if not self._dismiss_idlest(siblings):
                return _GREEDY
        elif around > settings.network_connection_limit and not is_here(session.peer):
            return _GREEDY
        now = self.loop.time()
        if is_here(session.peer):
            return None
        if self._rates.spent("errors", session.client, now):
            return _FAULTY
        return None if self._rates.take("connections", session.client, now) else _FAST

    def allows(self, what: What, session: Guest, login: str = "") -> bool:
        """Count one of `what` for a client, or for who has logged in; whether it is within the limits."""
        now = self.loop.time()
        if login:
            return self._rates.take(what, f"login {login}", now, network=False)
        if is_here(session.peer) or inside(session.peer, self._listed):
            return True
        return self._rates.take(what, session.client, now)

    def left(self, session: Guest) -> None:
        """Count a client out."""
        self.sessions.discard(session)
        client = self._counted.pop(session, None)
        if client is not None:
            self._crowd.leave(client)
        if not self.sessions:
            self.empty.set()

    @property
    def full(self) -> bool:
        """Whether no more messages fit into memory."""
        return self.buffered > self.door.settings.memory_limit

    def patience(self) -> float:
        """Seconds that a client gets for its next command; few when connections run short."""
        patience = self.door.settings.command_timeout
        return patience / 10 if len(self.sessions) * 5 > self._limit * 4 else patience

    def _dismiss_idlest(self, sessions: Iterable[Guest]) -> bool:
        """Send away who has owed us something for longest; whether there was anybody."""
        before = self.loop.time() - IDLE
        idle = [session for session in sessions if session.idle_since < before]
        if not idle:
            return False
        min(idle, key=lambda session: session.idle_since).dismiss(_ROOM)
        return True


def _places(limit: int) -> int:
    """How many clients there is room for: half of the files that may be open, at most.

    Else those who are slow could leave none to accept others with, and nobody would make room.
    """
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return limit if files == resource.RLIM_INFINITY else max(1, min(limit, files // 2))
