# SPDX-License-Identifier: GPL-2.0-or-later
"""Processes that die at any moment, and a node that dies for good."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from contrib.lab.postgresql import Postgresql
from contrib.lab.sink import Rule
from contrib.torture.trial import PEOPLE, Result, Stage, started

if TYPE_CHECKING:
    from contrib.lab.gateway import Gateway

_GATHER = 4  # such pauses in which the queue fills before a node dies
_RESTARTS = 5


def kills(stage: Stage, stack: ExitStack, *, postgresql: bool) -> Result:
    """Kill random processes of one gateway, the supervisor among them."""
    url = stack.enter_context(Postgresql(stage.directory / "postgresql")).url if postgresql else ""
    gateway = started(stage, stack, "gateway", stage.settings(url), {})
    with stage.senders(gateway) as senders:
        done = _torment(gateway, stage)
    return Result(gateway, [senders], done)


def _torment(gateway: Gateway, stage: Stage) -> int:
    """Kill until there were enough kills, or it took too long."""
    sink, wanted = stage.sink, stage.wanted
    chance = random.Random(wanted.seed)
    done = 0
    end = time.monotonic() + 60 * wanted.minutes
    while done < wanted.kills and time.monotonic() < end:
        time.sleep(chance.uniform(0.0, 2 * wanted.pause))
        # What is put off in the meantime has a history in the queue.
        sink.rules[:] = [Rule("body", "451 4.3.0 not now", times=chance.randrange(4))]
        victim = chance.choice(gateway.tree())
        with suppress(ProcessLookupError, ValueError):
            gateway.kill(victim, signal.SIGKILL)
            done += 1
        if gateway.process and victim == gateway.process.pid:
            gateway.process.wait()
            gateway.process = None
            gateway.start()
        if done % 100 == 0:
            print(f"  {done} kills, {len(sink.transactions)} arrived", flush=True)
    return done


def nodes(stage: Stage, stack: ExitStack) -> Result:
    """Two nodes on one PostgreSQL: one dies for good, with mail in the queue and on its way."""
    database = stack.enter_context(Postgresql(stage.directory / "postgresql"))
    place = stage.directory / "receipts"
    gather = _GATHER * stage.wanted.pause
    first, second = (
        # On a machine of its own a node's notes die with it.
        started(stage, stack, name, stage.settings(database.url, queue={"receipts": f"{place}/{name}"}), {})
        for name in ("first", "second")
    )
    with stage.senders(first) as to_first, stage.senders(second, first=5_000_000) as to_second:
        time.sleep(gather)
        slow = [Rule("body", "451 4.3.0 not now", times=60), Rule("body", delay=0.5)]
        stage.sink.rules[:] = slow
        time.sleep(gather)
        to_first.stop()
        for pid in first.tree():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert first.process
        first.process.wait()
        first.process = None
        stage.sink.rules.clear()
        time.sleep(gather)
    # What the dead node had sent and not settled comes again: ten recipients, and one message for each
    # connection.
    return Result(second, [to_first, to_second], 10 + 20 * PEOPLE)


def restarts(stage: Stage, stack: ExitStack) -> Result:
    """PostgreSQL crashes and comes back, again and again."""
    database = stack.enter_context(Postgresql(stage.directory / "postgresql"))
    gateway = started(stage, stack, "gateway", stage.settings(database.url), {})
    with stage.senders(gateway) as senders:
        for number in range(_RESTARTS):
            time.sleep(2.0)
            process = database.process
            assert process
            process.send_signal(signal.SIGQUIT if number % 2 else signal.SIGINT)  # at once, or orderly
            process.wait()
            time.sleep(1.0 + number)
            database.start()
        time.sleep(2.0)
    return Result(gateway, [senders], _RESTARTS * 10)
