# SPDX-License-Identifier: GPL-2.0-or-later
"""Several processes on one quarantine, and processes that are killed at any moment.

Run as a program (`python -m tests.unit.test_store_processes ...`) it is one of those processes.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from typing import IO

import pytest

from gateway.store.database import Database, StoreSettings, open_database
from gateway.store.quarantine import Quarantine
from gateway.store.search import Search
from tests.stored import RAW, claim, hold, mail_for

BOB = "bob@example.com"


def start(settings: StoreSettings, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.unit.test_store_processes", settings.database, *words],
        stdout=subprocess.PIPE,
        text=True,
    )


def read(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout is not None
    return process.stdout


@pytest.mark.parametrize("round_", range(2))
def test_of_twenty_processes_one_releases(
    store_settings: StoreSettings, database: Database, round_: int
) -> None:
    quarantine = Quarantine(database)
    items = [hold(quarantine, mail_for(BOB, "carol@example.com")).id for _ in range(3)]
    with start(store_settings, "storm", "20", *items) as process:
        lines = read(process).read().splitlines()
    won = [line.split() for line in lines]
    assert len(won) == 60, round_
    for item in items:
        takers = [taken for name, taken in won if name == item and taken != "0"]
        assert takers == ["2"]
        told = [e.action for e in quarantine.history(item)]
        assert told == ["held", "answered", "scheduled", "claimed", "released", "released"]
    assert quarantine.verify_audit() is None


def test_twenty_processes_may_create_it_at_once(store_settings: StoreSettings) -> None:
    with start(store_settings, "storm", "20") as process:
        assert read(process).read() == ""
    assert process.returncode == 0
    database = open_database(store_settings)
    hold(Quarantine(database))
    database.close()


def test_what_a_killed_releaser_claimed_is_free_after_its_lease(
    store_settings: StoreSettings, database: Database
) -> None:
    quarantine = Quarantine(database)
    mail = hold(quarantine)
    with start(store_settings, "claim", mail.id, "4.0") as process:
        assert read(process).readline() == "claimed\n"
        process.send_signal(signal.SIGKILL)
    assert quarantine.claim(mail.id, None, "me") is None
    again, end = None, time.monotonic() + 30
    while again is None and time.monotonic() < end:
        time.sleep(0.1)
        again = quarantine.claim(mail.id, None, "me")
    assert again is not None
    assert again.recipients == (BOB,)
    assert quarantine.raw(mail.id) == RAW


def test_what_was_held_before_a_kill_is_there_after_it(
    store_settings: StoreSettings, database: Database
) -> None:
    quarantine = Quarantine(database)
    told: list[str] = []
    seed = random.Random(7)
    for _ in range(4):
        with start(store_settings, "hold") as process:
            told += [read(process).readline() for _ in range(seed.randint(1, 12))]
            time.sleep(seed.uniform(0.0, 0.01))
            process.send_signal(signal.SIGKILL)
            told += read(process).read().splitlines(keepends=True)
    ids = [line.strip() for line in told if line.endswith("\n")]
    assert len(ids) >= 4
    for item in ids:
        found = quarantine.find(item)
        assert found is not None
        assert quarantine.raw(item).endswith(item.encode())
    # Whatever else is there is whole: the kill came between the commit and the word about it.
    everything = quarantine.search(Search(limit=100_000))
    assert len(everything) - len(ids) <= 4
    for one in everything:
        assert len(one.recipients) == 1
        assert quarantine.judgements(one.id)
        assert quarantine.raw(one.id)
    assert quarantine.verify_audit() is None
    if database.dialect == "sqlite":
        check = database.read(lambda c: c.exec_driver_sql("PRAGMA integrity_check").scalar())
        assert check == "ok"


# ---------------------------------------------------------------- the other processes


def _storm(settings: StoreSettings, count: int, items: list[str]) -> None:
    """Fork `count` children that all try to release all items from the same moment on."""
    begin = time.time() + 0.3
    children = []
    for _ in range(count):
        child = os.fork()
        if child == 0:
            time.sleep(max(0.0, begin - time.time()))
            lines = _release_all(settings, items)
            os.write(1, "".join(lines).encode())
            os._exit(0)
        children.append(child)
    failed = [child for child in children if os.waitpid(child, 0)[1] != 0]
    sys.exit(1 if failed else 0)


def _release_all(settings: StoreSettings, items: list[str]) -> list[str]:
    quarantine = Quarantine(open_database(settings))
    lines = []
    for item in items:
        mine = claim(quarantine, item, who=f"cli:{os.getpid()}")
        if mine is not None:
            time.sleep(0.02)
            delivered = {recipient: recipient for recipient in mine.recipients}
            assert quarantine.settle(mine, who="me", delivered=delivered) == ()
        lines.append(f"{item} {len(mine.recipients) if mine else 0}\n")
    return lines


def _main(url: str, what: str, *words: str) -> None:
    settings = StoreSettings(database=url)
    if what == "storm":
        _storm(settings, int(words[0]), list(words[1:]))
    quarantine = Quarantine(open_database(settings))
    if what == "claim":
        assert claim(quarantine, words[0], who="dead", seconds=float(words[1])) is not None
        print("claimed", flush=True)
        time.sleep(60)
    while what == "hold":
        mail = mail_for()
        print(hold(quarantine, replace(mail, raw=RAW * 20 + mail.id.encode())).id, flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
