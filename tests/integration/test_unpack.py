# SPDX-License-Identifier: GPL-2.0-or-later
"""Bombs through the real milter door, beside ordinary mail, with a real clamd.

Each bomb is held, ordinary mail hardly notices, and no worker is lost.
"""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from contrib.lab.gateway import Gateway
from contrib.lab.milter_client import MilterClient
from contrib.lab.process import free_port
from tests import bombs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from contrib.lab.clamd import Clamd

pytestmark = pytest.mark.server("clamd")

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


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, clamd: Clamd) -> Iterator[Gateway]:
    directory: Path = tmp_path_factory.mktemp("unpack")
    config = {
        "hostname": "mx.example.org",
        "milter": {"listen": [f"inet:127.0.0.1:{free_port()}"], "workers": 2},
        "auth": {"spf": False, "dkim": False, "dmarc": False, "arc": False, "iprev": False},
        "antivirus": {"addresses": [clamd.addresses[0]]},
        "policy": {"weights": {"CLASSIFIER": 0}},
        "http": {"listen": ""},
        "store": {"database": f"sqlite:///{directory}/mailwarden.db"},
        "log": {"format": "json"},
    }
    with Gateway(directory, config) as gateway:
        workers = set(gateway.tree())  # no child is there before the first archive
        yield gateway
        assert workers <= set(gateway.tree())


def send(served: Gateway, raw: bytes) -> tuple[str, float]:
    """Send one message over a connection of its own; return what becomes of it, and the seconds."""
    begin = time.monotonic()
    with MilterClient(served.milters[0], timeout=60) as client:
        assert client.open() is None
        outcome = client.send("alice@example.com", ["bob@example.org"], raw)
    return outcome.status, time.monotonic() - begin


def test_bombs_beside_ordinary_mail(served: Gateway) -> None:
    made = {name: bombs.mail(bombs.HELD[name][0], bombs.HELD[name][1]()) for name in WORST}
    wanted = list(itertools.islice(itertools.cycle(made.items()), BOMBS))
    over = threading.Event()
    ordinary: list[float] = []

    def correspond() -> None:
        while not over.is_set():
            status, seconds = send(served, PLAIN)
            assert status == "accept"
            ordinary.append(seconds)
            time.sleep(0.05)

    with ThreadPoolExecutor(BOMBS + 4) as pool:
        writers = [pool.submit(correspond) for _ in range(4)]
        begin = time.monotonic()
        held = [(name, pool.submit(send, served, raw)) for name, raw in wanted]
        results = [(name, future.result()) for name, future in held]
        taken = time.monotonic() - begin
        over.set()
        for writer in writers:
            writer.result()
    ordinary.sort()
    slow = ordinary[-1 - len(ordinary) // 100]
    print(f"{BOMBS} bombs in {taken:.1f} s; {len(ordinary)} ordinary, 99 % of them within {slow:.2f} s")
    assert {(name, status) for name, (status, _) in results} == {(name, "discard") for name in WORST}
    assert slow < ORDINARY
    begin = time.monotonic()
    assert send(served, bombs.mail("a.zip", bombs.SAMPLES["zip"]()))[0] == "accept"
    assert time.monotonic() - begin < 2


@pytest.mark.parametrize("case", bombs.HELD)
def test_each_is_held(served: Gateway, case: str) -> None:
    name, make = bombs.HELD[case]
    status, _ = send(served, bombs.mail(name, make()))
    assert status in ("discard", "reject")  # clamd knows some bombs by name
    status, seconds = send(served, PLAIN)
    assert status == "accept"
    assert seconds < 2
