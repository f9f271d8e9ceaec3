# SPDX-License-Identifier: GPL-2.0-or-later
"""One trial: a gateway under load, something that goes wrong, and what came of each message."""

from __future__ import annotations

import re
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from contrib.lab.dns import DnsStub
from contrib.lab.gateway import Gateway, to_toml
from contrib.lab.process import free_port
from contrib.lab.sink import Sink
from contrib.torture.sender import DOMAIN, Senders
from gateway.config import load
from gateway.store.database import open_database
from gateway.store.queue import Queue
from gateway.store.queued import DONE, Filter

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

_ID = re.compile(rb"\r\nSubject: (m\d{7})\r\n")
_PATIENCE = 120.0  # seconds in which something must arrive, or the queue be empty
_BACKLOG = 500  # messages on their way above which clients wait
PEOPLE = 2  # recipients of each message


@dataclass(frozen=True, slots=True)
class Count:
    """What came of one trial. `doubled` counts arrivals of a message beyond the first for a recipient."""

    kind: str
    events: int  # kills, or other things that went wrong
    sent: int
    taken: int
    arrived: int
    lost: int  # recipients of messages that were taken, who got none and are not in the queue
    doubled: int
    broken: int  # arrived, but not as it was sent
    left: int  # recipients still in the queue at the end
    attempts: int
    seconds: float

    @property
    def good(self) -> bool:
        """Whether nothing happened that must not."""
        return not (self.lost or self.broken or self.left) and self.doubled <= self.events


@dataclass(frozen=True, slots=True)
class Stage:
    """What a trial has at hand."""

    directory: Path
    wanted: argparse.Namespace
    dns: DnsStub
    sink: Sink

    def settings(self, database: str = "", **changes: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration of a gateway: all of it but the virus scanner; `changes` are to its tables."""
        built: dict[str, Any] = {
            "hostname": "mx.example.org",
            "domains": [DOMAIN],
            "next_hop": f"smtp:{self.sink.address}",
            "grace": 10,
            "smarthost": {"listen": [f"127.0.0.1:{free_port()}"], "workers": 2},
            "queue": {
                "retry_first": 1.0,
                "retry_longest": 3.0,
                "pause_longest": 1.0,
                "lease": 6.0,
                "poll": 0.5,
            },
            "dns": {"nameservers": [self.dns.nameserver]},
            "antivirus": {"enabled": False},
            "policy": {"thresholds": {"tag": 998, "quarantine": 999, "reject": 1000}},
            "store": {"database": database or f"sqlite:///{self.directory}/store/mailwarden.db"},
            "http": {"listen": ""},
        }
        for table, values in changes.items():
            built[table] = {**built[table], **values}
        return built

    def senders(self, gateway: Gateway, first: int = 0) -> Senders:
        """Clients of a gateway; they begin with the message of this number."""
        (address,) = gateway.smarthosts
        assert not isinstance(address, str)
        wanted = self.wanted

        def enough() -> bool:
            return len(built.heard.taken) - len(self.sink.transactions) > _BACKLOG

        built = Senders(address[1], wanted.sessions, wanted.rate, people=PEOPLE, first=first, enough=enough)
        return built


def staged(
    kind: str, directory: Path, wanted: argparse.Namespace, act: Callable[[Stage, ExitStack], Result]
) -> Count:
    """Let `act` play in a directory of its own, and say what came of it."""
    directory.mkdir(mode=0o755)
    began = time.monotonic()
    with ExitStack() as stack:
        dns = stack.enter_context(DnsStub({}))
        sink = stack.enter_context(Sink())
        done = act(Stage(directory, wanted, dns, sink), stack)
        sink.rules.clear()
        left = drained(done.gateway, sink)
        return count(kind, done, sink, left, time.monotonic() - began)


@dataclass(frozen=True, slots=True)
class Result:
    """The clients of a trial, how much went wrong, and a gateway that must empty the queue."""

    gateway: Gateway
    senders: Sequence[Senders]
    events: int


def started(
    stage: Stage, stack: ExitStack, name: str, settings: Mapping[str, Any], environment: Mapping[str, str]
) -> Gateway:
    """A gateway that runs until the trial ends."""
    gateway = Gateway(stage.directory / name, to_toml(settings), environment=environment)
    stack.callback(lambda: gateway.process and gateway.stop())
    return gateway.start()


def drained(gateway: Gateway, sink: Sink) -> list[str]:
    """Wait until the queue is empty, for as long as something arrives; the recipients that are left in it."""
    arrived, since = 0, time.monotonic()
    while True:
        database = open_database(load(gateway.file).store)
        try:
            entries = Queue(database).search(Filter(limit=1_000_000))
        finally:
            database.close()
        now = time.monotonic()
        if len(sink.transactions) > arrived:
            arrived, since = len(sink.transactions), now
        if not entries or now - since > _PATIENCE:
            return [one.address for entry in entries for one in entry.recipients if one.state not in DONE]
        time.sleep(1.0)


def count(kind: str, done: Result, sink: Sink, left: list[str], seconds: float) -> Count:
    """Bring together what clients heard and what arrived."""
    arrived: Counter[str] = Counter()
    broken = 0
    for transaction in sink.transactions:
        name = name_of(transaction.data)
        if not transaction.mail_from:
            continue  # a notice
        broken += not transaction.data.endswith(f"end of {name}\r\n".encode())
        arrived.update(transaction.recipients)
    heard = [senders.heard for senders in done.senders]
    taken = {name for one in heard for name in one.taken}
    copies = {name: [arrived[address] for address in addresses(name)] for name in taken}
    expected = {address for name in taken for address in addresses(name)}
    return Count(
        kind=kind,
        events=done.events,
        sent=sum(len(one.sent) for one in heard),
        taken=len(taken),
        arrived=len(arrived),
        lost=len(expected.difference(arrived, left)),
        doubled=sum(max(max(numbers) - 1, 0) for numbers in copies.values()),
        broken=broken,
        left=len(left),
        attempts=sum(one.attempts for one in heard),
        seconds=round(seconds, 1),
    )


def name_of(message: bytes) -> str:
    """The id that the sender gave a message, "?" if there is none."""
    found = _ID.search(message)
    return found[1].decode() if found else "?"


def addresses(name: str) -> list[str]:
    """The recipients of the message of this id."""
    return [f"{name}+{person}@{DOMAIN}" for person in range(PEOPLE)]
