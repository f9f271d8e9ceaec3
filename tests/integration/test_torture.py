# SPDX-License-Identifier: GPL-2.0-or-later
"""A little of `make torture`: what was answered with 250 arrives, whatever fails meanwhile."""

from __future__ import annotations

import random
import time

import pytest

from contrib.lab.postgresql import Postgresql
from contrib.lab.process import free_port
from contrib.torture.__main__ import arguments, run
from contrib.torture.power import Event, File
from contrib.torture.sender import Senders

WRITE, TRUNCATE, SYNC, REMOVE = range(4)


@pytest.mark.slow
@pytest.mark.server("gcc")
@pytest.mark.parametrize("trial", ["sqlite", "postgresql", "power", "nodes"])
def test_nothing_is_lost(trial: str) -> None:
    if trial in ("postgresql", "nodes") and not Postgresql.available():
        pytest.skip("PostgreSQL or its driver is not installed")
    wanted = arguments(["--kills", "5", "--cuts", "15", "--pause", "0.5", "--rate", "30", "--seed", "1"])
    (count,) = run([trial], wanted)
    assert count.taken > 10, count
    # How many arrive twice hangs on how many were on their way at a kill: `make torture` counts those.
    assert (count.lost, count.broken, count.arrived) == (0, 0, count.expected), count


def test_clients_give_up_a_gateway_that_is_gone() -> None:
    with pytest.raises(ZeroDivisionError), Senders(free_port(), 2) as senders:
        1 / 0  # noqa: B018  # whatever ends a trial
    assert len(senders.heard.sent) <= 2
    with Senders(free_port(), 2) as senders:
        while len(senders.heard.sent) < 2:
            time.sleep(0.01)
        senders.stop(0.1)
    assert not senders.heard.taken
    assert not senders.heard.refused
    assert not any(thread.is_alive() for thread in senders._threads)


def event(kind: int, offset: int = 0, data: bytes = b"") -> Event:
    return Event(0.0, kind, "x", offset, data)


def after(file: File, survives: float, chance: random.Random) -> bytes | None:
    found = file.after_cut(chance, survives)
    return None if found is None else bytes(found)


def test_only_what_was_synced_survives() -> None:
    chance = random.Random(1)
    file = File()
    file.later += [event(WRITE, 0, b"abc")]
    assert after(file, 0.0, chance) is None
    assert after(file, 1.0, chance) == b"abc"
    file.sync()
    file.later += [event(WRITE, 1, b"XYZ"), event(TRUNCATE, 2)]
    assert after(file, 0.0, chance) == b"abc"
    assert after(file, 1.0, chance) == b"aX"
    assert {after(file, 0.5, chance) for _ in range(100)} == {b"abc", b"aXYZ", b"ab", b"aX"}


def test_a_removal_that_is_not_synced_may_come_back() -> None:
    chance = random.Random(1)
    file = File(bytearray(b"old"))
    file.later += [event(REMOVE), event(WRITE, 0, b"new one")]
    assert {after(file, 0.5, chance) for _ in range(100)} == {b"old", None, b"new one"}
    file.sync_removals()
    assert after(file, 0.0, chance) is None
    assert after(file, 1.0, chance) == b"new one"
