# SPDX-License-Identifier: GPL-2.0-or-later
"""An agent of the delivery queue with scripted next hops."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

from gateway.delivery.routes import RouteSettings, routes
from gateway.delivery.runner import Courier, serve
from gateway.delivery.schedule import Clock
from gateway.delivery.settings import QueueSettings
from gateway.delivery.ways import Ways
from gateway.log import LogSettings, open_log
from gateway.mail.types import new_id
from gateway.store.queue import Queue
from gateway.store.queued import Addressee, Entry, Filter, Outgoing, State
from tests.hop import Hop, running
from tests.smarthost_lab import FAST

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from gateway.store.database import Database
    from gateway.tls.outbound import OutboundTlsRule

MESSAGE = b"From: a@example.net\r\nSubject: x\r\n\r\n.dot\r\n\xe9\r\n"
QUICK = {
    "retry_first": 0.1,
    "retry_longest": 0.2,
    "poll": 0.05,
    "lease": 0.6,
    "idle": 0.5,
    "pause_longest": 0.1,
}


class Agency:
    """One queue, and next hops: example.com goes to `hop`, example.org to `other`, else to `back`."""

    def __init__(self, database: Database, **settings: Any) -> None:
        self.database = database
        self.queue = Queue(database)
        self.settings = QueueSettings(**{**QUICK, **settings})
        self.hop, self.other, self.back = Hop(), Hop(), Hop()
        self.tls_rules: tuple[OutboundTlsRule, ...] = ()
        self.counted: list[str] = []
        self.clock = Clock()
        self.receipts: Path | None = None

    def add(self, *people: str, **changes: Any) -> Outgoing:
        now = time.time()
        values: dict[str, Any] = {
            "id": new_id(),
            "sender": "alice@example.net",
            "recipients": tuple(Addressee(one) for one in people or ("u@example.com",)),
            "message": MESSAGE,
            "created": now,
            "expires": now + 1_000,
        }
        mail = Outgoing(**{**values, **changes})
        self.queue.add([mail])
        return mail

    @contextlib.asynccontextmanager
    async def hops(self) -> AsyncIterator[None]:
        async with running(self.hop), running(self.other), running(self.back):
            yield

    def courier(self, wake: int = -1) -> Courier:
        rows = [
            RouteSettings(domains=("example.com",), next_hop=str(self.hop.next_hop)),
            RouteSettings(domains=("example.org",), next_hop=str(self.other.next_hop)),
            RouteSettings(domains=("example.net",), next_hop=str(self.back.next_hop)),
        ]
        return Courier(
            settings=self.settings,
            queue=self.queue,
            routes=routes(rows),
            hostname="gw.example.com",
            log=open_log(LogSettings(level="error")),
            timeouts=FAST,
            ways=Ways(rules=self.tls_rules),
            receipts=self.receipts,
            wake=wake,
            grace=3.0,
            count=self.counted.append,
            clock=self.clock,
        )

    @contextlib.asynccontextmanager
    async def agent(self, wake: int = -1) -> AsyncIterator[asyncio.Task[None]]:
        stop = asyncio.Event()
        task = asyncio.create_task(serve(self.courier(wake), stop))
        try:
            yield task
        finally:
            stop.set()
            await asyncio.wait_for(task, 30)

    def states(self) -> list[State]:
        return [r.state for entry in self.queue.search(Filter()) for r in entry.recipients]

    def only(self) -> Entry:
        (entry,) = self.queue.search(Filter())
        return entry


async def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # it looks at what others do
            await asyncio.sleep(0.01)


def play(agency: Agency, scene: Callable[[Agency], Awaitable[None]]) -> None:
    async def go() -> None:
        async with agency.hops(), agency.agent():
            await scene(agency)

    asyncio.run(go())
