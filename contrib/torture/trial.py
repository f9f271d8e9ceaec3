# SPDX-License-Identifier: GPL-2.0-or-later
"""One trial: a gateway under load, something that goes wrong, and what came of each message."""

from __future__ import annotations

import re
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from contrib.lab.dns import DnsStub
from contrib.lab.gateway import Gateway, to_toml
from contrib.lab.process import free_port
from contrib.lab.sink import Sink
from contrib.torture.sender import DOMAIN, Senders
from gateway.config import load
from gateway.store import schema
from gateway.store.database import open_database
from gateway.store.queued import DONE, State

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from sqlalchemy import Connection

_ID = re.compile(rb"\r\nSubject: (m\d{7})\r\n")
_QUEUE_ID = re.compile(rb"\tby \S+ with \S+ id (\S+)")
_FINAL = re.compile(rb"Final-Recipient: rfc822; (\S+)")
_QUEUED = frozenset((str(State.QUEUED), str(State.LEASED)))
_NAMED = 20  # of those who are lost, how many are named
_PATIENCE = 120.0  # seconds in which something must arrive, or the queue be empty
_BACKLOG = 500  # messages on their way above which clients wait
PEOPLE = 2  # recipients of each message


@dataclass(frozen=True, slots=True)
class Count:
    """What came of one trial: each recipient of a message that was taken, at exactly one place.

    A copy that arrives beyond the first one for its recipient is a double, even where one transaction
    brought it again to two of them.
    """

    kind: str
    events: int  # kills, or other things that went wrong
    sent: int  # messages that clients began with
    taken: int  # of them, answered with 250
    unanswered: int  # of them, tried until their client gave up
    expected: int  # recipients of those, and from here on recipients are counted
    arrived: int
    waiting: int  # in the queue at the end
    held: int  # in the queue, held as what killed agents
    quarantined: int
    undeliverable: int
    returned: int  # their sender was told that they failed
    lost: int  # nowhere
    doubled: int  # copies beyond the first
    handed_twice: int  # of those, because the client heard no 250 and tried again (RFC 1047)
    broken: int  # arrived, but not as it was sent
    attempts: int
    seconds: float

    @property
    def good(self) -> bool:
        """Whether nothing happened that must not."""
        elsewhere = self.waiting + self.held + self.quarantined + self.undeliverable + self.returned
        bad = self.lost or self.broken or elsewhere or self.unanswered
        return not bad and self.doubled <= self.events


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
                "receipts": str(self.directory / "receipts"),
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


def drained(gateway: Gateway, sink: Sink) -> dict[str, str]:
    """Wait until the queue is empty, for as long as something arrives; who is left, and as what."""
    arrived, since = 0, time.monotonic()
    while True:
        database = open_database(load(gateway.file).store)
        try:
            left = database.read(_left)
        finally:
            database.close()
        now = time.monotonic()
        if len(sink.transactions) > arrived:
            arrived, since = len(sink.transactions), now
        if not _QUEUED.intersection(left.values()) or now - since > _PATIENCE:
            return left
        time.sleep(0.3)


def _left(connection: Connection) -> dict[str, str]:
    """Every recipient in the database who has got nothing yet, and where it is."""
    people, held = schema.queue_recipients, schema.quarantine_recipients
    found = connection.execute(select(people.c.address, people.c.state).where(people.c.state.not_in(DONE)))
    left = {row.address: str(row.state) for row in found}
    return dict.fromkeys(connection.execute(select(held.c.address)).scalars(), "quarantined") | left


def count(kind: str, done: Result, sink: Sink, left: Mapping[str, str], seconds: float) -> Count:
    """Bring together what clients heard, what arrived, and what is left: each recipient by name."""
    arrived: Counter[str] = Counter()
    handed: dict[str, set[str]] = {}  # under which ids of the queue
    returned: set[str] = set()
    broken = 0
    for transaction in list(sink.transactions):
        if not transaction.mail_from:
            returned |= _returned(transaction.data)
            continue
        name = name_of(transaction.data)
        broken += not transaction.data.endswith(f"end of {name}\r\n".encode())
        arrived.update(transaction.recipients)
        found = _QUEUE_ID.search(transaction.data)
        for address in transaction.recipients:
            handed.setdefault(address, set()).add(found[1].decode() if found else "?")
    heard = [senders.heard for senders in done.senders]
    expected = {address for one in heard for name in one.taken for address in addresses(name)}
    missing = expected.difference(arrived)
    lost = missing.difference(left, returned)
    for address in sorted(lost)[:_NAMED]:
        print(f"  lost: {address}", flush=True)

    def are(*states: str) -> int:
        return sum(left.get(address) in states for address in missing)

    return Count(
        kind=kind,
        events=done.events,
        sent=sum(len(one.sent) for one in heard),
        taken=sum(len(one.taken) for one in heard),
        unanswered=sum(len(one.sent.difference(one.taken, one.refused)) for one in heard),
        expected=len(expected),
        arrived=len(expected.intersection(arrived)),
        waiting=are(*_QUEUED),
        held=are(State.HELD),
        quarantined=are("quarantined"),
        undeliverable=are(State.UNDELIVERABLE),
        returned=len(missing.intersection(returned).difference(left)),
        lost=len(lost),
        doubled=arrived.total() - len(arrived),
        handed_twice=sum(len(ids) - 1 for ids in handed.values()),
        broken=broken,
        attempts=sum(one.attempts for one in heard),
        seconds=round(seconds, 1),
    )


def _returned(notice: bytes) -> set[str]:
    """The recipients that a notice says have failed."""
    return {
        found[1].decode()
        for part in notice.split(b"\r\n\r\n")
        if b"\r\nAction: failed\r\n" in part and (found := _FINAL.search(part))
    }


def name_of(message: bytes) -> str:
    """The id that the sender gave a message, "?" if there is none."""
    found = _ID.search(message)
    return found[1].decode() if found else "?"


def addresses(name: str) -> list[str]:
    """The recipients of the message of this id."""
    return [f"{name}+{person}@{DOMAIN}" for person in range(PEOPLE)]
