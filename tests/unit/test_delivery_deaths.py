# SPDX-License-Identifier: GPL-2.0-or-later
"""Agents of the delivery queue that are stopped, die, or outlive a leap of the clock."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from gateway.delivery.process import is_alive, is_dead, this_process
from gateway.delivery.receipts import Receipts
from gateway.delivery.schedule import Clock, retry_after
from gateway.delivery.settings import QueueSettings
from gateway.store.database import StoreError
from gateway.store.queue import Queue
from gateway.store.queued import Filter
from tests.agency import Agency, play, until
from tests.stored import execute

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gateway.store.database import Database


def test_stopping_finishes_what_is_under_way_and_gives_back_the_rest(database: Database) -> None:
    agency = Agency(database, concurrency=1)
    agency.hop.answers = {b"RSET": b"250 ok\r\n"}
    for _ in range(20):
        agency.add()

    async def go() -> None:
        async with agency.hops(), agency.agent():
            await until(lambda: bool(agency.hop.taken))

    asyncio.run(go())
    assert agency.queue.size().get("queued", 0) == 20 - len(agency.hop.taken)
    assert agency.queue.owners() == []


@contextlib.contextmanager
def mortal() -> Iterator[str]:
    """A process, as agents call it, that is killed at the end."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    place = this_process().rsplit(" ", 2)[0]
    began = subprocess.run(
        [sys.executable, "-c", f"from gateway.delivery import process; print(process._began({child.pid}))"],
        capture_output=True,
        check=True,
        text=True,
    ).stdout.strip()
    name = f"{place} {child.pid} {began}"
    assert is_alive(name)
    try:
        yield name
    finally:
        child.kill()
        child.wait()
    assert not is_alive(name)
    assert is_dead(name)


def test_what_a_killed_process_held_is_delivered_by_the_next(database: Database) -> None:
    agency = Agency(database, lease=60)
    with mortal() as name:
        owner = agency.queue.enter(name, 60)
        agency.add()
        assert len(agency.queue.claim(owner, time.time(), 10)) == 1

    async def scene(lab: Agency) -> None:
        await until(lambda: not lab.states())

    play(agency, scene)
    assert len(agency.hop.taken) == 1


def test_a_claim_whose_answer_was_lost_is_taken_back(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database has leased mail to us and then gone away before we knew."""
    agency = Agency(database, lease=60)
    for _ in range(3):
        agency.add()
    claim, failures = Queue.claim, [1]

    def lost(self: Queue, *args: Any, **kwargs: Any) -> Any:
        claims = claim(self, *args, **kwargs)
        if claims and failures:
            failures.clear()
            raise StoreError("the connection was lost")
        return claims

    monkeypatch.setattr(Queue, "claim", lost)

    async def scene(lab: Agency) -> None:
        await until(lambda: not lab.states())

    play(agency, scene)
    assert len(agency.hop.taken) == 3


def test_what_a_killed_process_delivered_is_not_sent_again(database: Database, tmp_path: Path) -> None:
    agency = Agency(database, lease=60)
    agency.receipts = tmp_path / "receipts"
    with mortal() as name:
        owner = agency.queue.enter(name, 60)
        for one in ("delivered", "begun", "waiting"):
            agency.add(f"{one}@example.com")
        claims = agency.queue.claim(owner, time.time(), 10)
        receipts = Receipts(agency.receipts, owner.name, owner.process)
        (taken,), (begun,), _ = (claim.recipients for claim in claims)
        receipts.note("begun", [taken, begun])
        receipts.note("delivered", [taken])
    found: dict[str, int] = {}
    agency.hop.answers = {b"MAIL": b""}

    def counted() -> bool:
        """Looked at together: as soon as one is deferred, its deaths are forgotten."""
        entries = agency.queue.search(Filter())
        found.update({r.address: r.deaths for entry in entries for r in entry.recipients})
        return agency.hop.sessions > 0 and len(entries) == 2

    async def scene(lab: Agency) -> None:
        await until(counted)
        del found["delivered@example.com"]
        lab.hop.answers = {}
        await until(lambda: not lab.states())

    play(agency, scene)
    assert {name.partition("@")[0]: deaths for name, deaths in found.items()} == {"begun": 1, "waiting": 0}
    assert sorted(one.rcpts for one in agency.hop.taken) == [
        [b"RCPT TO:<begun@example.com>"],
        [b"RCPT TO:<waiting@example.com>"],
    ]
    assert list(agency.receipts.iterdir()) == []


def test_what_agents_have_died_with_goes_one_by_one_and_soon(database: Database) -> None:
    agency = Agency(database, poll=30)
    for _ in range(12):
        agency.add()
    execute(database, "UPDATE queue_recipients SET deaths = 3")

    async def scene(lab: Agency) -> None:
        await until(lambda: not lab.states())

    play(agency, scene)
    assert len(agency.hop.taken) == 12


@pytest.mark.parametrize("name", ["", "x", "elsewhere pid:[1] 1 2", " 1 2"])
def test_who_cannot_be_known_is_not_called_dead(name: str) -> None:
    assert not is_dead(name)
    assert not is_dead(this_process())


# ---------------------------------------------------------------- time


def test_pauses_double_up_to_the_longest() -> None:
    settings = QueueSettings(retry_first=60, retry_longest=3_600)
    for attempts, middle in ((1, 60), (2, 120), (5, 960), (8, 3_600), (500, 3_600)):
        pauses = [retry_after(attempts, settings) for _ in range(50)]
        assert all(0.75 * middle <= pause <= 1.25 * middle for pause in pauses)
        assert len(set(pauses)) > 1, "no jitter"


def test_a_leap_of_the_clock_ages_nothing() -> None:
    wall, steady = [1_000_000.0], [50.0]
    clock = Clock(lambda: wall[0], lambda: steady[0])
    created = clock.now()
    wall[0] += 10
    steady[0] += 10
    assert clock.age(created) == pytest.approx(10)
    wall[0] += 315_360_000.0  # ten years
    assert clock.age(created) == pytest.approx(10)
    later = clock.now()
    wall[0] += 5
    steady[0] += 5
    assert clock.age(later) == pytest.approx(5)
    wall[0] -= 3_600
    assert clock.age(created) <= 15
