# SPDX-License-Identifier: GPL-2.0-or-later
"""Cut the power at any moment: only what was synced survives, and what was not, at random.

`faults.c` keeps a record of every write and every sync of the database's files. From it the files are
made as a cut would leave them: after a cut only what a finished sync covers is certain; of the
writes behind it none survives, or any of them. Every message that was answered with 250 before the cut
must be in the queue then, whole, unless it had arrived. Some of these queues are given to a gateway,
which must deliver them without help.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import struct
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from contrib.lab.sink import Rule, Sink
from contrib.torture.disk import shim
from contrib.torture.trial import Result, Stage, addresses, name_of, started
from gateway.store.database import StoreSettings, open_database
from gateway.store.queue import Queue
from gateway.store.queued import Filter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack

_HEAD = struct.Struct("=QIIQQ")  # nanoseconds since 1970, kind, length of the path, offset, length
_WRITE, _TRUNCATE, _SYNC, _REMOVE = range(4)
_SERVED = 60  # of so many queues after a cut a gateway delivers one
_ROUND = 1.5  # seconds of load


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a file, after it had happened."""

    at: float
    kind: int
    path: str
    offset: int
    data: bytes  # of a truncation: nothing, and `offset` is the new size


@dataclass(slots=True)
class File:
    """A file as the disk has it, and what was done to it since its last sync."""

    synced: bytearray | None = None  # None: there is no such file
    later: list[Event] = field(default_factory=list)

    def sync(self) -> None:
        """All that was done is on disk."""
        self.synced = _applied(self.synced, self.later)
        self.later = []

    def sync_removals(self) -> None:
        """The folder was synced: what was removed stays so."""
        last = max((n for n, event in enumerate(self.later) if event.kind == _REMOVE), default=-1)
        if last >= 0:
            self.synced = None
            self.later = self.later[last + 1 :]

    def after_cut(self, chance: random.Random, survives: float) -> bytearray | None:
        """What is found after a cut, when each event that was not synced `survives` with this chance.

        Where a removal does not survive, the name still means the old file, and no new one is seen.
        """
        kept = []
        for event in self.later:
            if chance.random() < survives:
                kept.append(event)
            elif event.kind == _REMOVE:
                break
        return _applied(None if self.synced is None else bytearray(self.synced), kept)


def _applied(content: bytearray | None, events: list[Event]) -> bytearray | None:
    for event in events:
        if event.kind == _REMOVE:
            content = None
            continue
        if content is None:
            content = bytearray()
        if event.kind == _TRUNCATE:
            del content[event.offset :]
        end = event.offset + len(event.data)
        if len(content) < end:
            content += bytes(end - len(content))
        content[event.offset : end] = event.data
    return content


def events(record: Path) -> Iterator[Event]:
    """Read the record; a last entry that is not whole is left out."""
    with record.open("rb") as file:
        while len(head := file.read(_HEAD.size)) == _HEAD.size:
            at, kind, length, offset, size = _HEAD.unpack(head)
            path = file.read(length).decode()
            data = file.read(size if kind == _WRITE else 0)
            if kind == _WRITE and len(data) < size:
                return
            yield Event(at / 1e9, kind, path, size if kind == _TRUNCATE else offset, data)


def power(stage: Stage, stack: ExitStack) -> Result:
    """Load a gateway, then look at what `wanted.cuts` cuts would have left."""
    environment = shim(stage.directory)
    record = stage.directory / "record"
    environment |= {"MAILWARDEN_RECORD": str(record), "MAILWARDEN_RECORDED": str(stage.directory / "store")}
    gateway = started(stage, stack, "gateway", stage.settings(), environment)
    with stage.senders(gateway) as senders:
        for _ in range(min(8, 2 + stage.wanted.cuts // 10)):
            stage.sink.rules[:] = [Rule("body", "451 4.3.0 not now", times=20)]
            time.sleep(_ROUND)
    began = time.monotonic()
    taken = senders.heard.taken
    arrived: dict[str, float] = {}
    for transaction in stage.sink.transactions:
        for address in transaction.recipients:
            arrived.setdefault(address, transaction.at)
    lost: set[str] = set()
    for number, (at, store) in enumerate(_cuts(record, stage)):
        expected = {a for name, heard in taken.items() if heard < at for a in addresses(name)}
        expected -= {address for address, when in arrived.items() if when < at}
        missing = expected - _queued(store)
        if missing:
            print(f"  cut {number}: {len(missing)} of {len(expected)} recipients are not there", flush=True)
        lost |= missing
        if number % _SERVED == 0:
            lost |= _undelivered(stage, stack, store, expected - missing)
        shutil.rmtree(store)
    print(f"  {stage.wanted.cuts} cuts looked at in {time.monotonic() - began:.0f} s", flush=True)
    for address in lost:  # counted with those that never came
        name = address.partition("+")[0]
        stage.sink.transactions[:] = [t for t in stage.sink.transactions if name_of(t.data) != name]
    return Result(gateway, [senders], 0)


def _cuts(record: Path, stage: Stage) -> Iterator[tuple[float, Path]]:
    """The time of each cut, and a folder with the files as it would have left them."""
    chance = random.Random(stage.wanted.seed)
    count = sum(1 for _ in events(record))
    moments = set(chance.sample(range(count // 20, count), min(stage.wanted.cuts, count - count // 20)))
    folder = str(stage.directory / "store")
    files: dict[str, File] = {}
    for number, event in enumerate(events(record)):
        file = files.setdefault(event.path, File())
        if event.kind == _SYNC and event.path == folder:
            for one in files.values():
                one.sync_removals()
        elif event.kind == _SYNC:
            file.sync()
        else:
            file.later.append(event)
        if number in moments:
            store = stage.directory / f"cut{number}"
            store.mkdir(mode=0o700)
            survives = chance.choice((0.0, 0.0, 0.5, 1.0))
            for path, one in files.items():
                content = one.after_cut(chance, survives)
                if content is not None:
                    (store / Path(path).name).write_bytes(content)
            yield event.at, store


def _queued(store: Path) -> set[str]:
    """The recipients that wait in a queue; whole messages only. The database must be sound."""
    database = open_database(StoreSettings(database=f"sqlite:///{store}/mailwarden.db"))
    try:
        with sqlite3.connect(store / "mailwarden.db") as connection:
            assert connection.execute("PRAGMA quick_check").fetchall() == [("ok",)]
        queue = Queue(database)
        found = set()
        for entry in queue.search(Filter(limit=1_000_000)):
            message = queue.message(entry.facts)
            if message.endswith(f"end of {name_of(message)}\r\n".encode()):
                found |= {recipient.address for recipient in entry.recipients}
        return found
    finally:
        database.close()


def _undelivered(stage: Stage, stack: ExitStack, store: Path, expected: set[str]) -> set[str]:
    """Which of the expected recipients a gateway does not deliver to from the files of a cut."""
    served = store.with_name(f"{store.name}-served")
    shutil.copytree(store, served)
    os.chmod(served, 0o700)  # noqa: PTH101  # as it was
    with Sink() as sink:
        settings = replace(stage, directory=served, sink=sink).settings(f"sqlite:///{served}/mailwarden.db")
        gateway = started(stage, stack, served.name, settings, {})
        end = time.monotonic() + 30
        missing = expected
        while missing and time.monotonic() < end:
            time.sleep(0.2)
            missing = expected - {a for one in sink.transactions for a in one.recipients}
        gateway.stop()
    if missing:
        print(
            f"  {served.name}: {len(missing)} of {len(expected)} recipients are not delivered to", flush=True
        )
    return missing
