# SPDX-License-Identifier: GPL-2.0-or-later
"""Releases under kill -9: twenty at once, twice, a process killed at any moment, and what arrived counted.

    python -m contrib.lab.releases --runs 500 [--postgresql]

Each run holds a message and lets four processes with five threads each release it, all of them twice; one
process is killed at a random moment. What a dead one left is carried out as the housekeeper does.
Exactly one delivery must be on record at the next hop, with the bytes of the original; a kill between the
next hop's 250 and the settling may make one more, which is counted as a double.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from contrib.lab.postgresql import Postgresql
from gateway.delivery.relay import RecipientResult
from gateway.delivery.release import Deliver, ReleaseError, Sender, release_item
from gateway.delivery.wrap import wrapper
from gateway.housekeeper import send_due
from gateway.log import LogSettings, open_log
from gateway.mail.mime import parse
from gateway.mail.types import (
    Action,
    Envelope,
    Evidence,
    Mail,
    Outcome,
    Session,
    Thresholds,
    Verdict,
    Versions,
    new_id,
)
from gateway.store.database import StoreError, StoreSettings, open_database
from gateway.store.quarantine import Quarantine
from gateway.store.states import OPEN, Actor, State

if TYPE_CHECKING:
    from collections.abc import Mapping

PROCESSES, THREADS, TIMES = 4, 5, 2
LEASE = 1.0  # seconds; short, so that a run does not wait for long
PEOPLE = ("bob@example.com", "carol@example.com")


@dataclass
class Outcomes:
    """What became of all runs. `wrong` must be 0, and `doubles` not above `kills`."""

    runs: int = 0
    kills: int = 0
    once: int = 0
    doubles: int = 0
    wrong: int = 0
    other_bytes: int = 0


def run(settings: StoreSettings, folder: Path, chance: random.Random) -> tuple[int, list[str]]:
    """One run; how many processes were killed, and the digest of each copy that arrived."""
    database = open_database(settings)
    quarantine = Quarantine(database, settings)
    raw = f"Subject: run\r\n\r\n{chance.random()}\r\n".encode()
    mail = Mail(new_id(), Session("192.0.2.1"), Envelope("a@example.net", PEOPLE), raw, time.time())
    limits = Thresholds(5.0, 8.0, 15.0)
    held = tuple(Outcome(one, Action.QUARANTINE, 9.0, limits) for one in PEOPLE)
    verdict = Verdict(mail.id, Action.QUARANTINE, held, 9.0, "score", "", (), (), Versions("0", "p", "m"))
    quarantine.hold(mail, verdict, Evidence(), (), content=parse(raw), reasons=("score",))
    database.close()
    arrived = folder / mail.id
    arrived.touch()
    children = [_child(settings, arrived, mail.id, n) for n in range(PROCESSES)]
    time.sleep(chance.uniform(0.0, 0.4))
    victim = chance.choice(children)
    os.kill(victim, signal.SIGKILL)
    killed = sum(os.WIFSIGNALED(os.waitpid(child, 0)[1]) for child in children)
    _finish(settings, arrived, mail.id)
    wanted = hashlib.sha256(raw).hexdigest()
    lines = arrived.read_text("ascii").split()
    return killed, ["same" if line == wanted else "other" for line in lines]


def _child(settings: StoreSettings, arrived: Path, item: str, number: int) -> int:
    """Fork a process whose threads all release the item."""
    pid = os.fork()
    if pid:
        return pid
    try:
        database = open_database(settings)
        quarantine = Quarantine(database, settings)
        sender = Sender(_deliver(arrived), wrapper("gw.example.com"))

        def attempt(_: int) -> None:
            for _ in range(TIMES):
                try:
                    release_item(quarantine, sender, item, Actor(f"cli:{number}"))
                except (ReleaseError, StoreError):
                    continue

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(attempt, range(THREADS)))
    finally:
        os._exit(0)


def _deliver(arrived: Path) -> Deliver:
    """A next hop: what it takes is on disk before it says 250."""

    def deliver(envelope: Envelope, raw: bytes, _token: str) -> Mapping[str, RecipientResult]:
        time.sleep(random.uniform(0.0, 0.03))
        record = os.open(arrived, os.O_WRONLY | os.O_APPEND)
        os.write(record, (hashlib.sha256(raw).hexdigest() + "\n").encode() * len(envelope.recipients))
        os.close(record)
        time.sleep(random.uniform(0.0, 0.03))
        return dict.fromkeys(envelope.recipients, RecipientResult("delivered", 250, "2.0.0", "Ok"))

    return deliver


def _finish(settings: StoreSettings, arrived: Path, item: str) -> None:
    """Carry out what is left, as the housekeeper does, and as a reviewer would once more."""
    database = open_database(settings)
    quarantine = Quarantine(database, settings)
    sender, log = Sender(_deliver(arrived), wrapper("gw.example.com")), open_log(LogSettings(level="error"))
    end = time.monotonic() + 30
    while time.monotonic() < end:
        send_due(quarantine, sender, log, head_start=0.0)
        found = quarantine.find(item)
        if found is None or found.state not in OPEN:
            break
        if found.state is State.HELD:  # killed before anything was decided
            release_item(quarantine, sender, item, Actor("cli:again"))
        time.sleep(0.05)
    assert quarantine.verify_audit() is None
    database.close()


def torture(settings: StoreSettings, folder: Path, runs: int, seed: int) -> Outcomes:
    """So many runs, counted."""
    chance, found = random.Random(seed), Outcomes()
    for _ in range(runs):
        killed, copies = run(settings, folder, chance)
        found.runs += 1
        found.kills += killed
        found.other_bytes += copies.count("other")
        if len(copies) == len(PEOPLE):
            found.once += 1
        elif len(copies) == 2 * len(PEOPLE) and killed:
            found.doubles += 1
        else:
            found.wrong += 1
    return found


def main() -> int:
    """Run, print, and say with the exit status whether all was well."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--database", default="", help="a PostgreSQL URL; without it SQLite in a new folder")
    parser.add_argument("--postgresql", action="store_true", help="a PostgreSQL server of our own")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mailwarden-releases-") as folder, ExitStack() as stack:
        Path(folder).chmod(0o755)
        url = options.database or f"sqlite:///{folder}/held.db"
        if options.postgresql:
            url = stack.enter_context(Postgresql(Path(folder) / "postgresql")).url
        settings = StoreSettings(database=url, lease_seconds=LEASE)
        found = torture(settings, Path(folder), options.runs, options.seed)
    print(json.dumps(asdict(found)))
    return int(bool(found.wrong or found.other_bytes or found.doubles > found.kills))


if __name__ == "__main__":
    sys.exit(main())
