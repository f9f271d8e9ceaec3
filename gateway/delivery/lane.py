# SPDX-License-Identifier: GPL-2.0-or-later
"""One target, a route under the TLS policies of its servers: its waiting jobs, and the connections for them.

Reads hostile bytes only through the relay client. A connection is used for one message after the
other and closed when it has no work for a while. A next hop that cannot be reached is left alone
for a growing pause, and its jobs go back to the queue. What was not tried may be tried elsewhere or
later; once the message was sent, a lost answer means "later", and the message may arrive twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.delivery.client import HopLost, RelayTimeouts, Transaction
from gateway.delivery.protocol import declared
from gateway.delivery.relay import RecipientResult, result
from gateway.store.database import StoreError
from gateway.store.queued import DamagedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from gateway.delivery.protocol import HopReply
    from gateway.delivery.settings import QueueSettings
    from gateway.delivery.ways import Target, Ways
    from gateway.store.queued import Facts, Recipient


_FIRST = 4  # connections to a next hop before it has taken anything; one more for each message it takes


@dataclass(frozen=True, slots=True)
class Job:
    """Some recipients of one message for one next hop; `message` is None until it is read."""

    facts: Facts
    recipients: tuple[Recipient, ...]
    message: bytes | None


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a job. `damaged` says why the message could not even be read."""

    job: Job
    hop: str
    message: bytes
    results: Mapping[str, RecipientResult]
    tried: bool = True  # False: the next hop was not asked about this message
    wait: float = 0.0  # seconds until it may be asked, if it was not
    damaged: str = ""
    server: str = ""  # which took the message, or answered last
    tls: str = ""  # of the session with it
    dsn: bool = False  # whether it sends notices of its own


class Room:
    """Bounds the octets of messages in memory. One message always fits."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._changed = asyncio.Event()

    async def take(self, octets: int) -> None:
        """Wait until there is room for `octets`."""
        while self._used and self._used + octets > self._limit:
            self._changed.clear()
            await self._changed.wait()
        self._used += octets

    def give(self, octets: int) -> None:
        """Give back what was taken."""
        self._used -= octets
        self._changed.set()


@dataclass(frozen=True, slots=True)
class Means:
    """What all lanes share. `read` fetches a message's bytes, `report` is told of each job's end."""

    settings: QueueSettings
    timeouts: RelayTimeouts
    hostname: str
    ways: Ways
    room: Room
    read: Callable[[Facts], Awaitable[bytes]]
    report: Callable[[Done], None]
    may_open: Callable[[], bool]  # whether one more connection fits
    begin: Callable[[Job], Awaitable[None]]  # waits while too much that was sent is not settled


class Lane:
    """The way to one next hop."""

    def __init__(self, target: Target, means: Means) -> None:
        self.name = str(target)
        self.connections = 0
        self._target = target
        self._means = means
        self._jobs: asyncio.Queue[Job] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle = 0
        self._failures = 0  # connections in a row that came to nothing
        self._failure: HopReply | None = None
        self._pause_until = 0.0
        self._window = float(_FIRST)
        self._stopping = False

    # ---------------------------------------------------------------- for the runner

    @property
    def pause(self) -> float:
        """Seconds for which this next hop is left alone."""
        return max(0.0, self._pause_until - time.monotonic())

    @property
    def full(self) -> bool:
        """Whether no more jobs should be brought here now."""
        return self.pause > 0 or self._jobs.qsize() >= self._means.settings.concurrency

    @property
    def empty(self) -> bool:
        """Whether nobody works here and nothing waits."""
        return not self._tasks and self._jobs.empty() and not self.pause

    def add(self, job: Job) -> None:
        """Take a job."""
        self._jobs.put_nowait(job)
        self._open()

    def _open(self) -> None:
        """Open another connection if there is work for it."""
        most = min(self._means.settings.concurrency, int(self._window))
        wanted = self._jobs.qsize() > self._idle and self.connections < most
        if wanted and (not self.connections or self._means.may_open()):
            self.connections += 1
            task = asyncio.get_running_loop().create_task(self._work())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def stop(self) -> list[Job]:
        """Begin nothing new; the jobs that nobody has begun."""
        self._stopping = True
        left = []
        while not self._jobs.empty():
            left.append(self._jobs.get_nowait())
        return left

    async def finish(self, seconds: float) -> None:
        """Wait for what is under way, and break it off after `seconds`."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(set(self._tasks), timeout=seconds)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)

    # ---------------------------------------------------------------- one connection

    async def _work(self) -> None:
        session = _Session(self._target, self._means)
        try:
            while (job := await self._next(session)) is not None:
                try:
                    await self._serve(job, session)
                except Exception as error:  # noqa: BLE001  # a fault of ours costs a retry, and no mail
                    told = RecipientResult("deferred", 451, "4.3.0", f"failure here: {type(error).__name__}")
                    results = {r.address: told for r in job.recipients}
                    self._means.report(Done(job, self.name, job.message or b"", results))
                    await session.close()
        finally:
            self.connections -= 1  # before anything is waited for: the next job needs a new one
            await session.close()

    async def _next(self, session: _Session) -> Job | None:
        """The next job; None when this connection is not needed any more."""
        if self._jobs.empty():
            if self._stopping:
                return None
            self._idle += 1
            try:
                async with asyncio.timeout(self._means.settings.idle if session.open else 0.01):
                    return await self._jobs.get()
            except TimeoutError:
                pass
            finally:
                self._idle -= 1
        return None if self._jobs.empty() else self._jobs.get_nowait()

    async def _serve(self, job: Job, session: _Session) -> None:
        means, size = self._means, job.facts.size
        await means.begin(job)
        if self.pause and self._failure is not None:
            told = result(self._failure)
            results = {r.address: told for r in job.recipients}
            means.report(Done(job, self.name, job.message or b"", results, tried=False, wait=self.pause))
            return
        await means.room.take(size)
        try:
            try:
                message = job.message if job.message is not None else await means.read(job.facts)
            except StoreError as error:
                damaged = str(error) if isinstance(error, DamagedError) else ""
                told = RecipientResult("deferred", 451, "4.3.0", "the message cannot be read now")
                results = {r.address: told for r in job.recipients}
                means.report(Done(job, self.name, b"", results, tried=False, wait=10.0, damaged=damaged))
                return
            answers = await self._send(job, message, session)
            means.report(
                Done(
                    job,
                    self.name,
                    message,
                    answers,
                    server=session.server,
                    tls=session.tls,
                    dsn=session.sends_notices,
                )
            )
        finally:
            means.room.give(size)

    async def _send(self, job: Job, message: bytes, session: _Session) -> Mapping[str, RecipientResult]:
        addresses = {r.address: r.options for r in job.recipients}
        try:
            replies = await session.send(job.facts, addresses, message)
        except HopLost as lost:
            if lost.reply.status == "refused":  # there is no way, and there will be none
                await session.close()
                return dict.fromkeys(addresses, result(lost.reply))
            self._failures += 1
            self._window = max(1.0, self._window / 2)
            self._failure = lost.reply
            longest = self._means.settings.pause_longest
            self._pause_until = time.monotonic() + min(longest, 0.5 * 2.0 ** min(self._failures, 20))
            await session.close()
            return dict.fromkeys(addresses, result(lost.reply))
        self._failures, self._pause_until = 0, 0.0
        self._window = min(self._window + 1, self._means.settings.concurrency)
        self._open()
        return {address: result(replies[address]) for address in addresses}


_Asked = dict[str, tuple[str, ...]]  # recipients, and their parameters of RCPT


class _Session:
    """A connection that is opened when it is needed, and again when it went stale."""

    def __init__(self, target: Target, means: Means) -> None:
        self._target = target
        self._means = means
        self._transaction: Transaction | None = None
        self._sent = 0  # messages over this connection
        self._dirty = False  # whether the next hop may still know an envelope

    @property
    def open(self) -> bool:
        """Whether there is a connection."""
        return self._transaction is not None

    @property
    def server(self) -> str:
        """Who is at the other end."""
        return str(self._transaction.hop) if self._transaction else ""

    @property
    def tls(self) -> str:
        """The TLS of this connection, "" in clear."""
        return self._transaction.tls if self._transaction else ""

    @property
    def sends_notices(self) -> bool:
        """Whether the other end offers DSN."""
        return self._transaction is not None and "DSN" in self._transaction.extensions

    async def send(self, facts: Facts, asked: _Asked, message: bytes) -> dict[str, HopReply]:
        """Send one message; the final reply for each recipient. Raises HopLost if nothing was sent."""
        hop = self._transaction
        if hop is not None and not hop.lost and self._sent < self._means.settings.reuse:
            # A connection kept from the message before, of which the next hop may have had enough.
            with contextlib.suppress(HopLost):
                return await self._try(hop, facts, asked, message)
        await self.close()
        lost: HopLost | None = None
        ways = await self._means.ways.ways(self._target)
        for number, way in enumerate(ways, 1):
            try:
                hop = self._transaction = await self._means.ways.open(
                    way, self._means.hostname, self._means.timeouts
                )
                self._sent = 0
                return await self._try(hop, facts, asked, message, last=number == len(ways))
            except HopLost as error:
                lost = error
                self._means.ways.failed(way.server)
                await self.close()
        assert lost is not None
        raise lost

    async def _try(
        self,
        hop: Transaction,
        facts: Facts,
        asked: _Asked,
        message: bytes,
        *,
        last: bool = True,
    ) -> dict[str, HopReply]:
        """Send over this connection; one that takes no mail now is lost if there are others."""
        if self._dirty:
            await hop.reset()
        self._dirty = True
        self._sent += 1
        options = declared(facts.options, hop.extensions, message)
        first, answers = await hop.envelope(facts.sender, tuple(asked), options, len(message), asked, message)
        if first.status == "deferred" and not last:
            raise HopLost(first.enhanced, str(first))
        if first.status != "accepted":
            return dict.fromkeys(asked, first)
        if not hop.accepted:
            return answers
        final = await hop.data(message)
        if all(reply.status == "accepted" for reply in final.values()):
            self._dirty = False  # the next hop's transaction has ended with its 250
        return {recipient: final.get(recipient) or answers[recipient] for recipient in asked}

    async def close(self) -> None:
        """End the connection. Never raises."""
        transaction, self._transaction, self._dirty = self._transaction, None, False
        if transaction is not None:
            await transaction.close()
