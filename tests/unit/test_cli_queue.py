# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden queue`: a change of what a delivery agent is just sending."""

from __future__ import annotations

import json
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

import gateway.cli.queue
from gateway.mail.types import new_id
from gateway.store.database import open_database
from gateway.store.queue import Queue
from gateway.store.queued import Addressee, Claim, Filter, Outcome, Outgoing, State
from tests.stored import settings_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result


class Bench:
    """A queue with a delivery agent, and the command run against them."""

    def __init__(self, directory: Path) -> None:
        settings = settings_for(directory)
        self.database = open_database(settings)
        self.queue = Queue(self.database)
        self.agent = self.queue.enter("one", 600)
        self.config = SimpleNamespace(store=settings)

    def add(self, address: str) -> str:
        """Queue a message; its id."""
        now = time.time()
        people = (Addressee(address, "smtp:mx.example.com:25"),)
        message = Outgoing(new_id(), "a@example.net", people, b"Subject: x\r\n\r\nx\r\n", now, now + 600)
        self.queue.add([message])
        return message.id

    def claim(self) -> list[Claim]:
        """Lease all that is due."""
        return self.queue.claim(self.agent, time.time(), 100)

    def settle(self, claim: Claim, state: State) -> None:
        outcomes = [
            Outcome(one.number, one.item, state, "451 later", time.time() + 600) for one in claim.recipients
        ]
        self.queue.settle(self.agent, outcomes)

    def run(self, *words: str) -> Result:
        return CliRunner().invoke(gateway.cli.queue.queue, words, obj=SimpleNamespace(config=self.config))

    def json(self, *words: str, status: int = 0) -> Any:
        done = self.run(*words, "--json")
        assert done.exit_code == status, done.output
        return json.loads(done.stdout)

    def states(self) -> dict[str, State]:
        return {one.facts.id: one.recipients[0].state for one in self.queue.search(Filter())}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.database.close()


@pytest.mark.parametrize(("verb", "left"), [("hold", State.HELD), ("delete", None)])
def test_what_is_put_off_while_it_is_waited_for_is_changed(
    bench: Bench, verb: str, left: State | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attempt ends only after the command has met it; what comes in meanwhile is not meant."""
    item = bench.add("bob@example.com")
    (sent,) = bench.claim()
    met = threading.Event()
    later: list[str] = []

    def nap(_seconds: float) -> None:
        if not met.is_set():
            met.set()
            later.append(bench.add("carol@example.com"))
            bench.settle(sent, State.QUEUED)

    monkeypatch.setattr(gateway.cli.queue, "nap", nap)
    words = ("--all", "--yes") if verb == "delete" else ("--all",)
    assert bench.json(verb, *words) == {"changed": [item], "unchanged": []}
    assert met.is_set()
    assert bench.states() == {**({item: left} if left else {}), later[0]: State.QUEUED}


def test_what_arrives_while_it_is_waited_for_is_no_failure(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    item, other = bench.add("bob@example.com"), bench.add("carol@example.com")
    claims = {one.facts.id: one for one in bench.claim()}
    bench.settle(claims[other], State.QUEUED)
    monkeypatch.setattr(
        gateway.cli.queue, "nap", lambda _seconds: bench.settle(claims[item], State.DELIVERED)
    )
    assert bench.json("hold", "--all") == {"changed": [other], "unchanged": []}
    assert bench.states() == {other: State.HELD}


def test_what_is_being_sent_all_the_time_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    item = bench.add("bob@example.com")
    bench.claim()
    passed = iter(range(1_000))
    monkeypatch.setattr(gateway.cli.queue, "now", lambda: float(next(passed)))
    monkeypatch.setattr(gateway.cli.queue, "nap", lambda _seconds: None)
    assert bench.json("hold", "--sender", "a@example.net", status=1) == {"changed": [], "unchanged": [item]}
    done = bench.run("delete", item)
    assert (done.exit_code, done.stderr) == (1, f"{item}: is being sent at this moment\n")
    assert bench.run("release", item).stderr == f"{item}: not in the queue, or not in a state for this\n"
    assert bench.run("flush", item).stderr == f"{item}: is being sent at this moment\n"
    assert bench.states() == {item: State.LEASED}
