# SPDX-License-Identifier: GPL-2.0-or-later
"""Bombs through both doors of a real gateway: held, within time and memory, and ordinary mail goes on.

Data, not tests: a suite is a function of a folder, which this one has no use for, as in `content_suites`.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import smtplib
import sqlite3
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from contrib.lab.clamd import Clamd
from contrib.lab.gateway import Gateway
from contrib.lab.milter_client import MilterClient
from contrib.lab.process import free_port, program
from contrib.lab.sink import Sink
from tests import bombs
from tests.conformance.auth_suites import Outcome
from tests.conformance.content_suites import MEGABYTES, SECONDS, SkippedError
from tests.fuzz.test_mime_fuzz import HOSTILE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NEVER = 1_000.0  # seconds of ordinary mail that was not accepted
BOMBS, ORDINARY = 40, 5.0  # so many at once; seconds that ordinary mail may take
PLAIN = (
    b"From: Alice <alice@example.com>\r\nTo: bob@example.org\r\nSubject: Lunch\r\n"
    b"Date: Sun, 22 Nov 2026 10:00:00 +0000\r\nMessage-ID: <lunch@example.com>\r\n\r\nToday at noon?\r\n"
)
# What they cost is bounded by our limits; the others cost nothing.
WORST = (
    "1 GiB zip, declared as 10 octets",
    "gzip, 1 GiB",
    "gzip three times",
    "50,000 files",
    "20,000 files",
)
STRUCTURES = (
    "20,000 multiparts in one another",
    "100,000 messages in one another",
    "100,000 parts",
    "a field of 4 MB",
    "50,000 encoded words",
)


@contextlib.contextmanager
def serving(directory: Path, clamd: Clamd) -> Iterator[Gateway]:
    """A gateway that holds for content alone, with both doors open, and a server behind it."""
    config = {
        "hostname": "mx.example.org",
        "domains": ["example.org"],
        "milter": {"listen": [f"inet:127.0.0.1:{free_port()}"], "workers": 2},
        "smarthost": {"listen": [f"127.0.0.1:{free_port()}"], "workers": 2},
        "auth": {"spf": False, "dkim": False, "dmarc": False, "arc": False, "iprev": False},
        "antivirus": {"addresses": [clamd.addresses[0]]},
        "policy": {"weights": {"CLASSIFIER": 0}},
        "http": {"listen": ""},
        "store": {"database": f"sqlite:///{directory}/mailwarden.db"},
        "log": {"format": "json"},
    }
    with Sink() as sink, Gateway(directory, config | {"next_hop": f"smtp:{sink.address}"}) as gateway:
        yield gateway


def submit(gateway: Gateway, raw: bytes) -> tuple[str, float]:
    """Send one message to the smart host: "accept" is what it tells the client of a held one, too."""
    begin = time.monotonic()
    address = gateway.smarthosts[0]
    assert isinstance(address, tuple)
    with smtplib.SMTP(*address, timeout=60) as client:
        client.ehlo()
        client.mail("alice@example.com")
        client.rcpt("bob@example.org")
        code, _ = client.data(raw)
    return {2: "accept", 5: "reject"}.get(code // 100, "tempfail"), time.monotonic() - begin


def send(gateway: Gateway, raw: bytes) -> tuple[str, float]:
    """Send one message over a connection of its own; return what becomes of it, and the seconds."""
    begin = time.monotonic()
    with MilterClient(gateway.milters[0], timeout=60) as client:
        assert client.open() is None
        outcome = client.send("alice@example.com", ["bob@example.org"], raw)
    return outcome.status, time.monotonic() - begin


def at_once(gateway: Gateway) -> tuple[list[tuple[str, str]], list[float], float]:
    """Send bombs over many connections beside ordinary mail.

    Return what became of each bomb, the seconds of each ordinary message, and of all the bombs.
    """
    made = {name: bombs.mail(bombs.HELD[name][0], bombs.HELD[name][1]()) for name in WORST}
    over = threading.Event()
    ordinary: list[float] = []

    def correspond() -> None:
        while not over.is_set():
            status, seconds = send(gateway, PLAIN)
            ordinary.append(seconds if status == "accept" else NEVER)
            time.sleep(0.05)

    with ThreadPoolExecutor(BOMBS + 4) as pool:
        writers = [pool.submit(correspond) for _ in range(4)]
        begin = time.monotonic()
        sent = [
            (name, pool.submit(send, gateway, raw))
            for name, raw in itertools.islice(itertools.cycle(made.items()), BOMBS)
        ]
        results = [(name, future.result()[0]) for name, future in sent]
        taken = time.monotonic() - begin
        over.set()
        for writer in writers:
            writer.result()
    return results, sorted(ordinary), taken


def bombs_one_by_one(_: Path) -> Iterator[Outcome]:
    """Send each bomb by itself, a good message after it, then many bombs at once."""
    if program("clamd") is None:
        raise SkippedError("clamd is not installed")
    workers: set[int] = set()
    with tempfile.TemporaryDirectory(prefix="mailwarden-bombs-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # clamd drops its rights
        with Clamd(directory / "clamd") as clamd, serving(directory / "gateway", clamd) as gateway:
            for case, (file, make) in bombs.HELD.items():
                yield _one(gateway, case, bombs.mail(file, make()))
                workers.update(gateway.workers())
            for case in STRUCTURES:
                yield _one(gateway, case, HOSTILE[case]())
                yield _one(gateway, f"{case}, smart host", HOSTILE[case](), submit)
            results, ordinary, taken = at_once(gateway)
            slow = ordinary[-1 - len(ordinary) // 100]
            held = all(status == "discard" for _, status in results)
            detail = f"{taken:.1f} s; of {len(ordinary)} ordinary messages 99 % within {slow:.2f} s"
            yield Outcome(f"{BOMBS} bombs at once", held and slow < ORDINARY, detail)
            lost = workers - set(gateway.workers())
            yield Outcome("workers", not lost, f"{len(lost)} of {len(workers)} lost")


def _one(
    gateway: Gateway, case: str, raw: bytes, by: Callable[[Gateway, bytes], tuple[str, float]] = send
) -> Outcome:
    held_before = _held(gateway)
    pids = gateway.tree()
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # proc(5): forget the peak
    before = gateway.cpu()
    status, taken = by(gateway, raw)
    used = gateway.cpu() - before
    peak = max(map(_peak, gateway.tree()))
    held = status == "reject" or _held(gateway) == held_before + 1  # clamd knows some bombs by name
    after, seconds = by(gateway, PLAIN)
    good = after == "accept" and seconds < SECONDS
    detail = (
        f"{status}, {used:.1f} s, {peak:.0f} MB, {taken:.1f} s by the clock, then {after} in {seconds:.1f} s"
    )
    return Outcome(case, held and good and used <= SECONDS and peak <= MEGABYTES, detail)


def _held(gateway: Gateway) -> int:
    """How many messages the quarantine has."""
    with contextlib.closing(sqlite3.connect(gateway.directory / "mailwarden.db")) as database:
        count: int = database.execute("SELECT COUNT(*) FROM quarantine").fetchone()[0]
    return count


def _peak(pid: int) -> float:
    """Megabytes of memory that a process had at most."""
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


SUITES: dict[str, Callable[[Path], Iterator[Outcome]]] = {"bombs": bombs_one_by_one}
