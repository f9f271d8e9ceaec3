# SPDX-License-Identifier: GPL-2.0-or-later
"""What processes remember together: no count is lost, a dead one holds up nobody, all is bounded."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import time
from typing import TYPE_CHECKING

from gateway.ledger import Ledger, Presence

if TYPE_CHECKING:
    import pytest

FORK = multiprocessing.get_context("fork")


def test_a_number_lasts_until_its_time() -> None:
    ledger = Ledger()
    assert ledger.get("a", 0.0) == 0.0
    ledger.put("a", 3.0, 10.0)
    ledger.put("b", 4.0, 10.0)
    assert ledger.get("a", 9.9) == 3.0
    assert ledger.get("a", 10.0) == 0.0
    ledger.put("a", 5.0, 20.0)
    ledger.drop("b")
    assert (ledger.get("a", 11.0), ledger.get("b", 9.0)) == (5.0, 0.0)


def test_what_is_remembered_is_bounded_and_the_first_to_be_forgotten_makes_room() -> None:
    ledger = Ledger(80)
    ledger.put("late", 1.0, 1e9)
    for n in range(10_000):
        ledger.put(f"client {n}", 1.0, float(n))
    known = [n for n in range(10_000) if ledger.get(f"client {n}", -1.0)]
    assert 60 <= len(known) < 80
    assert min(known) > 9_000, "those with most time left"
    assert ledger.get("late", 0.0) == 1.0


def test_awkward_keys() -> None:
    ledger = Ledger()
    for key in ("", "\0", "\r\n", "ü" * 300, "\udc80"):
        ledger.put(key, 1.0, 1.0)
        assert ledger.get(key, 0.0) == 1.0


def add(ledger: Ledger, times: int) -> None:
    for _ in range(times):
        with ledger:
            ledger.put("n", ledger.get("n", 0.0) + 1, 1e9)


def test_no_count_is_lost_between_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    # Who is kept waiting for ten milliseconds goes on without the lock; on a busy machine that happens.
    monkeypatch.setattr("gateway.ledger._TRIES", 100_000)
    ledger = Ledger()
    workers = [FORK.Process(target=add, args=(ledger, 2_000)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert ledger.get("n", 0.0) == 8_000


def test_a_lock_of_a_dead_process_is_none_and_one_that_hangs_holds_up_nobody() -> None:
    ledger = Ledger()

    def hold() -> None:
        fcntl.lockf(ledger._descriptor, fcntl.LOCK_EX)
        ledger.put("held", 1.0, 1e9)
        time.sleep(60)

    process = FORK.Process(target=hold)
    process.start()
    while not ledger.get("held", 0.0):
        time.sleep(0.01)
    begin = time.monotonic()
    add(ledger, 1)
    assert 0.009 < time.monotonic() - begin < 20.0, "it waits, but not until the other one ends"
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join(10)
    fcntl.lockf(ledger._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    add(ledger, 1)
    assert ledger.get("n", 0.0) == 2.0


def test_who_is_here_is_nearly_exact_among_thousands() -> None:
    presence = Presence(4)
    for n in range(4_000):
        presence.enter(n % 4, f"client {n}")
    counts = [presence.count(f"client {n}") for n in range(4_000)]
    assert min(counts) == 1
    assert sum(count > 1 for count in counts) < 200, "two keys rarely share both counters"
    assert presence.count("nobody") <= 1
