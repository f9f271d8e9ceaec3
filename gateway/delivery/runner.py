# SPDX-License-Identifier: GPL-2.0-or-later
"""A delivery agent: empties the queue until it is told to stop.

Reads what next hops answer, through the relay client. It claims what is due, brings it to the lane
of its next hop, and settles what became of it; the database is asked in threads. Better twice than
never: what was sent and not settled before we died is sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from gateway.delivery import bounce
from gateway.delivery.bounce import Report
from gateway.delivery.client import RelayTimeouts
from gateway.delivery.lane import Done, Job, Lane, Means, Room
from gateway.delivery.process import is_alive, is_dead, this_process
from gateway.delivery.receipts import Receipts, others, remove
from gateway.delivery.relay import RecipientResult
from gateway.delivery.routes import parse_route
from gateway.delivery.schedule import Clock, retry_after
from gateway.delivery.ways import Target, Ways
from gateway.mail.domains import domain_of
from gateway.mail.headers import printable
from gateway.store.database import StoreError
from gateway.store.deliveries import Ended
from gateway.store.queue import SUSPECT, Owner
from gateway.store.queued import Notice, Outcome, State
from gateway.tls.wish import wish_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gateway.delivery.routes import Route, Routes
    from gateway.delivery.settings import QueueSettings
    from gateway.log import Log
    from gateway.store.queue import Queue
    from gateway.store.queued import Claim, Entry, Facts, Outgoing, Recipient

P = ParamSpec("P")
T = TypeVar("T")

_TIMEOUTS = RelayTimeouts()
_CLAIM = 100  # recipients claimed at a time
_UNSETTLED = 10  # outcomes not settled, which a crash would double, above which nothing new is begun
_GATHER = 0.03  # seconds in which outcomes, or new mail, come together for one transaction
_PLENTY = 8  # outcomes that wait for no more
_SETTLE = 300  # outcomes settled at a time
_LOOK = 0.5  # seconds between two looks for what agents died with
_AGAIN = 1.0  # seconds until the store is tried again after it failed
_LOST = "delivered; the answer was lost with the agent that had it"
_NO_ROUTE = RecipientResult("deferred", 451, "4.3.5", "no next hop is configured")


@dataclass(frozen=True, slots=True)
class Courier:
    """All that a delivery agent is given."""

    settings: QueueSettings
    queue: Queue
    routes: Routes
    hostname: str
    log: Log = field(repr=False)
    timeouts: RelayTimeouts = _TIMEOUTS
    ways: Ways = field(default_factory=Ways)
    receipts: Path | None = None  # the folder in which agents note what they delivered
    wake: int = -1  # descriptor that has something to read when there is new work
    grace: float = 30.0
    count: Callable[[str], None] = lambda _what: None
    clock: Clock = field(default_factory=Clock)


async def serve(courier: Courier, stop: asyncio.Event) -> None:
    """Deliver until `stop` is set, then finish what is under way."""
    with ThreadPoolExecutor(3, "queue") as pool:
        await Runner(courier, pool).run(stop)


class Runner:
    """The agent of one process."""

    def __init__(self, courier: Courier, pool: ThreadPoolExecutor) -> None:
        self._courier = courier
        self._queue = courier.queue
        self._settings = courier.settings
        self._log = courier.log
        self._pool = pool
        self._lanes: dict[Target, Lane] = {}
        self._active = 0  # recipients claimed and not yet reported on
        self._held: set[int] = set()  # those claimed and not yet settled
        self._doubtful = False  # whether a claim may have happened of which we never heard
        self._suspect: set[int] = set()  # those of them with which agents have died
        self._look_again = 0.0  # when to look for such
        self._outcomes: list[Outcome] = []
        self._notices: list[Notice] = []
        self._news = asyncio.Event()  # new mail, or room for some
        self._ended = asyncio.Event()  # a job has ended
        self._settling = asyncio.Event()  # there are outcomes
        self._plenty = asyncio.Event()  # as many as are worth a transaction
        self._writing = asyncio.Lock()  # one settles at a time
        self._settled = asyncio.Event()  # some of them have been written
        self._owner = Owner("", "")
        self._receipts = Receipts(None, "", "")
        self._means = Means(
            settings=courier.settings,
            timeouts=courier.timeouts,
            hostname=courier.hostname,
            ways=courier.ways,
            room=Room(courier.settings.memory_limit),
            read=self._read,
            report=self._report,
            begin=self._begin,
            may_open=lambda: (
                sum(lane.connections for lane in self._lanes.values()) < self._settings.connections
            ),
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Deliver until `stop` is set, then finish what is under way."""
        await self._enter(stop)
        loop = asyncio.get_running_loop()
        if self._courier.wake >= 0:
            loop.add_reader(self._courier.wake, self._woken)
        tasks = [
            loop.create_task(work) for work in (self._feed(), self._settle_forever(), self._keep_alive())
        ]
        stopped = loop.create_task(stop.wait())
        try:
            await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()  # a fault of ours: let the supervisor start us anew
        finally:
            stopped.cancel()
            if self._courier.wake >= 0:
                loop.remove_reader(self._courier.wake)
            tasks[0].cancel()
            await asyncio.wait([tasks[0]])
            await self._drain()
            for task in tasks[1:]:
                task.cancel()
            await asyncio.wait(tasks[1:])

    async def _ask(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a method of the queue in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, partial(work, *args, **kwargs))

    async def _read(self, facts: Facts) -> bytes:
        return await self._ask(self._queue.message, facts)

    async def _begin(self, job: Job) -> None:
        while len(self._outcomes) > _UNSETTLED:
            self._settled.clear()
            await self._settled.wait()
        self._receipts.note("begun", job.recipients)

    # ---------------------------------------------------------------- life

    async def _enter(self, stop: asyncio.Event) -> None:
        while True:
            try:
                if not self._owner.name:
                    self._owner = await self._ask(self._queue.enter, this_process(), self._settings.lease)
                    self._receipts = Receipts(self._courier.receipts, self._owner.name, self._owner.process)
                await self._recover()
            except StoreError as error:
                self._log.error("queue cannot be used", error=printable(str(error), 200))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_AGAIN):
                        await stop.wait()
                if stop.is_set():
                    raise
            else:
                return

    async def _recover(self) -> None:
        """Queue again what processes had on lease that are gone."""
        owners = await self._ask(self._queue.owners)
        await self._settle_for_others({owner.name for owner in owners})
        dead = [owner.name for owner in owners if is_dead(owner.process)]
        freed, held = await self._ask(
            self._queue.recover, dead, lambda count: retry_after(count, self._settings)
        )
        if freed or held:
            self._log.warning("taken over from a dead process", recipients=freed, held=held)
            self._news.set()

    async def _settle_for_others(self, owners: set[str]) -> None:
        """Settle what agents of this machine had delivered when they died."""
        folder = self._courier.receipts
        for left in await self._ask(others, folder, self._owner.name):
            if is_alive(left.process):
                continue
            dead, known = is_dead(left.process), left.owner in owners
            done = [Outcome(n, item, State.DELIVERED, _LOST) for n, item in left.delivered.items()]
            if known and done:
                lost = await self._ask(self._queue.settle, Owner(left.owner, left.process), done)
                self._log.info("settled for a dead process", recipients=len(done) - len(lost))
            if known and dead:
                await self._ask(self._queue.leave, left.owner, left.begun)
            if dead or not known:
                await self._ask(remove, folder, left.owner)

    async def _keep_alive(self) -> None:
        """Renew our leases, take over those of the dead, tell of delays, and tidy up."""
        while True:
            await asyncio.sleep(self._settings.lease / 3)
            try:
                await self._ask(self._queue.renew, self._owner, self._settings.lease)
                await self._recover()
                await self._tidy()
            except StoreError as error:
                self._log.error("queue cannot be used", error=printable(str(error), 200))

    async def _tidy(self) -> None:
        now, settings = self._courier.clock.now(), self._settings
        longest = max(settings.retry_first, settings.retry_longest) * 1.5
        dropped = await self._ask(self._queue.tidy, now, longest, now - settings.undeliverable)
        if dropped:
            self._log.warning("undeliverable mail dropped", recipients=dropped)
        if settings.delay_notice:
            for entry in await self._ask(self._queue.late, now - settings.delay_notice):
                if self._courier.clock.age(entry.facts.created) >= settings.delay_notice:
                    await self._warn(entry)

    async def _drain(self) -> None:
        for lane in self._lanes.values():
            for job in lane.stop():
                self._put_back(job)
        seconds = max(1.0, self._courier.grace - 2.0)
        await asyncio.gather(*(lane.finish(seconds) for lane in self._lanes.values()))
        with contextlib.suppress(StoreError):
            while self._outcomes:
                await self._settle()
            await self._ask(self._queue.leave, self._owner.name)
            self._receipts.close()

    # ---------------------------------------------------------------- from the queue to the lanes

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._courier.wake, 65_536)
        self._news.set()

    async def _feed(self) -> None:
        """Claim what is due for as long as there is room."""
        clock = asyncio.get_running_loop().time
        told = False  # whether there is new mail
        while True:
            self._news.clear()
            self._ended.clear()
            next_claim = clock() + _GATHER
            if await self._claim(told=told):
                told = False
                continue
            waiting = [asyncio.ensure_future(event.wait()) for event in (self._news, self._ended)]
            try:
                await asyncio.wait(
                    waiting if self._crowded or self._suspect else waiting[:1],
                    timeout=self._settings.poll,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                await asyncio.sleep(next_claim - clock())
                told = self._news.is_set()
            finally:
                for future in waiting:
                    future.cancel()

    @property
    def _crowded(self) -> bool:
        return self._active >= 2 * self._settings.connections or any(
            lane.full for lane in self._lanes.values()
        )

    async def _claim(self, *, told: bool) -> bool:
        """Claim once; whether there may be more. `told`: there is new mail."""
        most = min(_CLAIM, 2 * self._settings.connections - self._active)
        if most <= 0:
            return False
        for key, lane in list(self._lanes.items()):
            if lane.empty:
                del self._lanes[key]
        besides = {lane.name for lane in self._lanes.values() if lane.full}
        now = self._courier.clock.now()
        try:
            if self._doubtful:
                await self._ask(self._queue.give_back, self._owner.name, set(self._held))
                self._doubtful = False
            claims = await self._ask(self._queue.claim, self._owner, now, most, besides, sure=told)
            if not self._suspect and time.monotonic() > self._look_again:
                # What agents have died with goes alone: it may be what killed them, or have stood beside it.
                alone = await self._ask(self._queue.claim, self._owner, now, 1, besides, suspect=True)
                self._look_again = time.monotonic() + (0.0 if alone else _LOOK)
                claims += alone
        except StoreError as error:
            self._doubtful = True
            self._log.error("nothing can be claimed", error=printable(str(error), 200))
            await asyncio.sleep(_AGAIN)
            return False
        taken = sum(len(claim.recipients) for claim in claims)
        self._active += taken
        for claim in claims:
            self._held |= {r.number for r in claim.recipients}
            self._suspect |= {r.number for r in claim.recipients if r.deaths >= SUSPECT}
            self._dispatch(claim)
        return taken >= most or (taken > 0 and bool(besides))

    def _dispatch(self, claim: Claim) -> None:
        """Bring the recipients of one message to their next hops."""
        groups: dict[Target | None, list[Recipient]] = {}
        for recipient in claim.recipients:
            route = self._route(recipient)
            target = None
            if route is not None:
                domain, wish = domain_of(recipient.address), wish_of(claim.facts.options)
                target = self._courier.ways.target(route, domain, wish)
            groups.setdefault(target, []).append(recipient)
        for target, people in groups.items():
            job = Job(claim.facts, tuple(people), claim.message)
            if target is None:
                self._report(Done(job, "", claim.message or b"", {r.address: _NO_ROUTE for r in people}))
                continue
            if target not in self._lanes:
                self._lanes[target] = Lane(target, self._means)
            self._lanes[target].add(job)

    def _route(self, recipient: Recipient) -> Route | None:
        if "@" not in recipient.address and recipient.hop:  # <postmaster>, which the door has routed
            return parse_route(recipient.hop)
        return self._courier.routes.route(recipient.address)

    # ---------------------------------------------------------------- from the lanes to the queue

    def _put_back(self, job: Job) -> None:
        """Nothing was done about this job: as if it had never been claimed."""
        self._outcomes += [
            Outcome(r.number, r.item, State.QUEUED, r.reply, r.next_attempt, r.attempts, r.hop)
            for r in job.recipients
        ]

    def _report(self, done: Done) -> None:
        """Turn a job's end into outcomes, and notices where the sender is to be told."""
        told: dict[bounce.Action, list[Report]] = {}
        delivered = [r for r in done.job.recipients if done.results[r.address].status == "delivered"]
        self._receipts.note("delivered", delivered)  # before anything else: until then a kill doubles it
        for recipient in done.job.recipients:
            self._active -= 1
            self._suspect.discard(recipient.number)
            outcome, report = self._outcome(recipient, done)
            self._outcomes.append(outcome)
            if report is not None:
                action: bounce.Action = "failed" if outcome.state is State.FAILED else _success(done)
                told.setdefault(action, []).append(report)
            self._tell(done, recipient, outcome)
        for action, reports in told.items():
            facts = done.job.facts
            self._notices.append(
                Notice(
                    self._notice(facts, done.message, reports, action),
                    tuple(report.recipient.number for report in reports),
                )
            )
            self._courier.count("notice")
            self._log.info("sender told", of=action, id=facts.id, notice=self._notices[-1].message.id)
        self._ended.set()
        self._settling.set()
        if len(self._outcomes) >= _PLENTY:
            self._plenty.set()

    def _outcome(self, recipient: Recipient, done: Done) -> tuple[Outcome, Report | None]:
        """What is written about one recipient, and what its sender is told, if anything."""
        settings, facts = self._settings, done.job.facts
        result = done.results[recipient.address]
        attempts = recipient.attempts + done.tried

        def becomes(state: State, reply: str = str(result), again: float = 0.0, ended: str = "") -> Outcome:
            known = (recipient.number, recipient.item, state, reply, again, attempts)
            return Outcome(*known, done.hop, done.server, done.tls, ended)

        if done.damaged:
            return becomes(State.HELD, f"held: {done.damaged}"), None
        if result.status == "delivered":
            # Who asked to be told of success is told by us where nobody behind us will (RFC 3461 §5.2.2).
            ours = facts.may_bounce and not done.dsn and bounce.wanted(recipient, _success(done))
            return becomes(State.DELIVERED), Report(
                recipient, str(result), server=done.server
            ) if ours else None
        clock = self._courier.clock
        left = (facts.expires - facts.created) - clock.age(facts.created)
        if result.status == "deferred" and left > 0:
            wait = retry_after(attempts, settings) if done.tried else done.wait
            return becomes(State.QUEUED, again=clock.now() + min(wait, max(left, 1.0))), None
        if not facts.may_bounce:
            return becomes(State.UNDELIVERABLE), None
        if not bounce.wanted(recipient, "failed"):
            return becomes(State.FAILED), None
        expired = result.status == "deferred"
        ended = Ended.EXPIRED if expired else Ended.BOUNCED
        return becomes(State.FAILED, ended=ended), Report(recipient, str(result), expired, done.server)

    def _notice(self, facts: Facts, message: bytes, reports: list[Report], action: bounce.Action) -> Outgoing:
        own = self._courier
        hop = str(own.routes.route(facts.sender) or "")
        return bounce.notice(
            facts, message, reports, action, hostname=own.hostname, hop=hop, now=own.clock.now()
        )

    async def _warn(self, entry: Entry) -> None:
        """Tell the sender of waiting mail about it."""
        late = [
            Report(r, r.reply, server=r.server)
            for r in entry.recipients
            if r.state is State.QUEUED and r.reply and bounce.wanted(r, "delayed")
        ]
        if not late:
            return
        message = await self._read(entry.facts)
        notice = self._notice(entry.facts, message, late, "delayed")
        if await self._ask(self._queue.warn, entry.facts.id, notice):
            self._log.info("sender told of a delay", id=entry.facts.id)
            self._news.set()

    def _tell(self, done: Done, recipient: Recipient, outcome: Outcome) -> None:
        if not done.tried and outcome.state is State.QUEUED:
            return  # the same answer as for the message that was tried
        word = "deferred" if outcome.state is State.QUEUED else outcome.state.value
        self._courier.count(word)
        say = self._log.info if outcome.state in (State.QUEUED, State.DELIVERED) else self._log.warning
        say(
            word,
            id=recipient.item,
            recipient=recipient.address,
            hop=done.server or done.hop,
            attempts=outcome.attempts,
            seconds=round(self._courier.clock.now() - done.job.facts.created, 3),
            answer=printable(outcome.reply, 300),
        )

    # ---------------------------------------------------------------- settling

    async def _settle_forever(self) -> None:
        while True:
            await self._settling.wait()
            if self._receipts.kept:  # a kill loses nothing meanwhile
                # Not `wait_for`: before Python 3.12 that forgets who was cancelled as its wait came true.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_GATHER):
                        await self._plenty.wait()
            self._settling.clear()
            self._plenty.clear()
            while self._outcomes:
                try:
                    await self._settle()
                except StoreError as error:
                    # Delivered and not settled is delivered twice, so we do not give up.
                    self._log.error("outcomes cannot be written", error=printable(str(error), 200))
                    await asyncio.sleep(_AGAIN)
                else:
                    if len(self._outcomes) < _PLENTY:
                        break
            if self._outcomes:
                self._settling.set()

    async def _settle(self) -> None:
        """Write what is there; keep it if that fails."""
        async with self._writing:
            await self._write()

    async def _write(self) -> None:
        outcomes = self._outcomes[:_SETTLE]
        numbers = {one.number for one in outcomes}
        notices = [one for one in self._notices if numbers.intersection(one.about)]
        more = {number for notice in notices for number in notice.about} - numbers
        outcomes += [one for one in self._outcomes[_SETTLE:] if one.number in more]
        lost = await self._ask(self._queue.settle, self._owner, outcomes, notices)
        settled = {one.number for one in outcomes}
        self._receipts.settled(settled)
        self._held -= settled
        self._outcomes = [one for one in self._outcomes if one.number not in settled]
        self._notices = [one for one in self._notices if one not in notices]
        self._settled.set()
        if notices:
            self._news.set()
        if lost:
            self._log.warning("another process had taken over; mail may arrive twice", recipients=len(lost))


def _success(done: Done) -> bounce.Action:
    """What a delivery is to its sender: LMTP brings mail into a mailbox, SMTP further on."""
    return "delivered" if done.hop.startswith("lmtp:") else "relayed"
