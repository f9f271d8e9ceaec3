# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden trace`: what is found, what is said to have become of it, and how it is printed."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import update

from gateway.cli.trace import trace
from gateway.delivery.routes import RouteSettings
from gateway.mail.types import Action, Mail, Session, Signal, new_id
from gateway.pipeline import hold_undelivered
from gateway.store import schema
from gateway.store.database import open_database
from gateway.store.deliveries import Delivery, Ended
from gateway.store.fates import WORDS
from gateway.store.journal import Journal, Record
from gateway.store.quarantine import Quarantine
from gateway.store.queue import Queue
from gateway.store.queued import Addressee, Outcome, Outgoing
from gateway.store.queued import Filter as QueueFilter
from gateway.store.queued import State as QueueState
from gateway.store.states import Actor
from tests.recorded import fill, hold_record, judged, mail_of, policy_of
from tests.stored import claim, execute, settings_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gateway.policy.rules import Policy

POLICY = policy_of(
    weights={"SPF_FAIL": 9.0},
    recipients=[{"recipients": ["lenient@example.com"], "tag": 90, "quarantine": 91, "reject": 92}],
)
STRIPPING = policy_of(actions={"ATTACHMENT_EXECUTABLE": "strip"})
BOB, LENIENT = "bob@example.com", "lenient@example.com"
HAM, HELD, FORGED, ASKED = (
    (Signal("SPF_PASS"),),
    (Signal("SPF_FAIL"),),
    (Signal("DMARC_REJECT", "p=reject"),),
    (Signal("VIRUS", "timed out", state="error"),),
)


class Bench:
    """A journal, a quarantine, and the command run against them."""

    def __init__(self, directory: Path) -> None:
        settings = settings_for(directory)
        self.database = open_database(settings)
        self.journal = Journal(self.database, flush_interval=0.05)
        self.quarantine = Quarantine(self.database)
        route = RouteSettings(domains=("example.com",), next_hop="lmtp:unix:/run/lmtp")
        self.config = SimpleNamespace(store=settings, routes=(route,), next_hop="smtp:192.0.2.1:25")

    def add(
        self, *signals: Signal, to: tuple[str, ...] = (BOB,), policy: Policy = POLICY, **changes: Any
    ) -> Record:
        """Keep and record a message as the pipeline does. `changes` are the record's."""
        record = replace(judged(mail_of(*to), signals, policy), **changes)
        if record.verdict.kept:
            hold_record(self.quarantine, record)
        fill(self.journal, [record])
        return record

    def run(self, *words: str) -> Result:
        return CliRunner().invoke(trace, words, obj=SimpleNamespace(config=self.config))

    def json(self, *words: str) -> Any:
        done = self.run(*words, "--json")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    def states(self, *words: str) -> list[list[str]]:
        """Of each message found, the state of each copy."""
        return [[copy["state"] for copy in found["copies"]] for found in self.json(*words)]

    def became(self) -> dict[str, set[str]]:
        """The ids that are found by each word; others find nothing."""
        found = {word: {one["id"] for one in self.json("--became", word)} for word in WORDS}
        return {word: ids for word, ids in found.items() if ids}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.journal.close()
    made.database.close()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), [3, 2, 1, 0]),
        (("--sender", "ALICE@"), [3, 2, 1]),
        (("--recipient", "lenient"), [1]),
        (("--subject", "second"), [1]),
        (("--message-id", "<2@EXAMPLE"), [2]),
        (("--message-id", "%"), []),
        (("--client", "203.0.113.5"), [3, 2]),
        (("--client", "203.0.113."), [3, 2, 1]),
        (("--client", "203.0.113.50"), [1]),
        (("--client", "203.0.113"), []),
        (("--client", "2001:DB8::1"), [0]),
        (("--client", "2001:db8:"), [0]),
        (("--queue-id", "4QUEUE"), [2]),
        (("--queue-id", "4QUE"), []),
        (("--action", "reject"), [3]),
        (("--reason", "dmarc_reject"), [3]),
        (("--action", "relay", "--sender", "dave"), [0]),
        (("--since", "1h"), [3, 2, 1]),
        (("--until", "1h"), [0]),
        (("--limit", "2"), [3, 2]),
        (("--limit", "2", "--offset", "3"), [0]),
    ],
)
def test_messages_are_found_by(bench: Bench, words: tuple[str, ...], expected: list[int]) -> None:
    old = mail_of().received - 86_400
    made = [
        bench.add(*HAM, session=Session("2001:db8::1"), received=old),
        bench.add(*HAM, to=(LENIENT,), session=Session("203.0.113.50"), subject="the second"),
        bench.add(*HAM, message_id="<2@example.net>", queue_id="4QUEUE"),
        bench.add(*FORGED),
    ]
    execute(
        bench.database,
        update(schema.journal).where(schema.journal.c.id == made[0].id).values(sender="dave@x"),
    )
    assert [found["id"] for found in bench.json(*words)] == [made[n].id for n in expected]


def test_what_became_of_each_copy(bench: Bench) -> None:
    bench.add(*HAM)
    bench.add(*FORGED)
    bench.add(*ASKED)
    both = bench.add(*HELD, to=(BOB, LENIENT))
    assert both.verdict.action is Action.RELAY
    assert bench.states() == [["held", "relayed"], ["deferred"], ["rejected"], ["relayed"]]
    found = bench.json("--recipient", LENIENT)[0]
    assert [copy["item"] for copy in found["copies"]] == [both.id, ""]
    assert found["copies"][1]["to"] == "Postfix"
    taken = claim(bench.quarantine, both.id, who="cli:carol")
    assert taken
    assert bench.states("--recipient", LENIENT) == [["releasing", "relayed"]]
    assert bench.became() == {"held": {both.id}}
    bench.quarantine.settle(taken, who="cli:carol", delivered={BOB: "post@example.com"})
    found = bench.json("--recipient", LENIENT)[0]
    assert [found["copies"][0][key] for key in ("state", "to")] == ["released", "post@example.com"]
    assert bench.became() == {"released": {both.id}}
    told = [event["action"] for event in found["history"]]
    assert told == ["held", "answered", "scheduled", "claimed", "released"]
    done = bench.run("--recipient", LENIENT)
    for text in ("released", "post@example.com", "cli:carol", both.id, "relay: score", "explain"):
        assert text in done.stdout, text


def test_what_was_stripped_and_where_the_original_is(bench: Bench) -> None:
    program = Signal("ATTACHMENT_EXECUTABLE", "setup.exe")
    made = bench.add(program, policy=STRIPPING)
    assert made.verdict.action is Action.STRIP
    found = bench.json("--action", "strip")[0]["copies"][0]
    assert [found[key] for key in ("state", "item", "note")] == ["stripped", made.id, "the original is held"]
    assert bench.became() == {}
    taken = claim(bench.quarantine, made.id, who="cli:carol")
    assert taken
    bench.quarantine.settle(taken, who="cli:carol", delivered={BOB: BOB})
    [found] = bench.json()[0]["copies"]
    assert [found[key] for key in ("state", "note", "to")] == ["stripped", "the original is released", BOB]
    bench.quarantine.delete(made.id, Actor("me"))
    assert bench.quarantine.forget(mail_of().received + 10) == 1
    [found] = bench.json()[0]["copies"]
    assert (found["state"], "does not know the original" in found["note"]) == ("stripped", True)


def test_what_is_gone_is_said_to_be(bench: Bench) -> None:
    kept, deleted, expired = (bench.add(*HELD, subject=name) for name in ("kept", "deleted", "expired"))
    bench.quarantine.delete(deleted.id, Actor("me"))
    table = schema.quarantine
    execute(bench.database, update(table).where(table.c.id == expired.id).values(held_at=1.0))
    assert bench.quarantine.expire(2.0) == 1
    assert bench.states() == [["expired"], ["deleted"], ["held"]]
    assert bench.became() == {"held": {kept.id}, "deleted": {deleted.id}, "expired": {expired.id}}
    assert bench.states("--became", "held", "--became", "expired") == [["expired"], ["held"]]
    bench.quarantine.delete(kept.id, Actor("me"))
    assert bench.quarantine.forget(mail_of().received + 10) == 3
    assert bench.states() == [["forgotten"]] * 3


def test_a_failed_release_is_told(bench: Bench) -> None:
    made = bench.add(*HELD)
    taken = claim(bench.quarantine, made.id, who="me")
    assert taken
    bench.quarantine.settle(taken, who="me", failed={BOB: "451 4.3.0 later"})
    (copy,) = bench.json()[0]["copies"]
    assert (copy["state"], copy["note"]) == ("held", "451 4.3.0 later")


def test_the_smart_host_names_next_hops_and_what_they_refused(bench: Bench) -> None:
    made = bench.add(*HAM, to=(BOB, LENIENT, "erin@example.org"), door="smarthost")
    other = bench.add(*HAM, door="smarthost")
    mail = Mail(made.id, made.session, made.envelope, b"\r\n", made.received)
    gateway: Any = SimpleNamespace(quarantine=bench.quarantine, counters=SimpleNamespace(add=lambda *_: None))
    hold_undelivered(mail, made.verdict, (LENIENT,), "552 5.2.2 full", gateway)
    second, first = bench.json()
    assert [(c["state"], c["to"]) for c in first["copies"]] == [
        ("relayed", "lmtp:unix:/run/lmtp"), ("held", ""), ("relayed", "smtp:192.0.2.1:25"),
    ]  # fmt: skip
    late = first["copies"][1]
    assert late["item"] not in ("", made.id)
    assert late["note"] == "the next hop refused it"
    assert [event["why"] for event in first["history"]] == ["UNDELIVERED"]
    assert (second["id"], second["copies"][0]["state"]) == (other.id, "relayed")
    assert bench.became() == {"held": {made.id}}
    bench.quarantine.delete(late["item"], Actor("me"))
    assert bench.became() == {"deleted": {made.id}}


def test_what_is_in_the_queue_is_said_to_be(bench: Bench) -> None:
    people = ("bob@example.com", "carol@example.com", "dave@example.org", "eve@example.org")
    record = bench.add(*HAM, to=people, door="smarthost")
    queue, hop = Queue(bench.database), "smtp:192.0.2.9:25"
    to = tuple(Addressee(address, hop) for address in people)
    queue.add([Outgoing(record.id, "a@example.net", to, b"x\r\n", 0.0, 9e9)])
    assert bench.states() == [["queued"] * 4]
    owner = queue.enter("p", 60)
    (claim,) = queue.claim(owner, 1.0, 10)
    fates = (QueueState.QUEUED, QueueState.UNDELIVERABLE, QueueState.DELIVERED, QueueState.FAILED)
    queue.settle(
        owner,
        [
            Outcome(r.number, r.item, fate, "450 4.2.0 later", 9e9, 1, hop)
            for r, fate in zip(claim.recipients, fates, strict=True)
        ],
    )
    assert bench.states() == [["queued", "undeliverable", "delivered", "failed"]]
    bench.add(*HAM, door="smarthost")
    words = ("queued", "undeliverable", "delivered", "failed")
    assert bench.became() == {key: {record.id} for key in words}
    assert bench.json("--became", "bounced", "--became", "deleted") == []
    first = bench.json("--became", "queued")[0]["copies"][0]
    assert (first["to"], first["note"]) == (hop, "450 4.2.0 later")
    assert "450 4.2.0 later" in bench.run("--became", "queued").stdout
    queue.release(QueueFilter(state=QueueState.UNDELIVERABLE), "me")
    queue.hold(QueueFilter(recipient="bob@"), "me")
    assert bench.states("--became", "queued") == [["held in the queue", "queued", "delivered", "failed"]]


def test_how_it_ended_is_told_when_the_queue_has_forgotten_it(bench: Bench) -> None:
    people = ("bob@example.com", "carol@example.com", "dave@example.org", "eve@example.org")
    record = bench.add(*HAM, to=people, door="smarthost")
    bench.add(*HAM, door="smarthost")
    queue, hop = Queue(bench.database), "smtp:mx.example.com:25"
    to = tuple(Addressee(address, hop) for address in people)
    queue.add([Outgoing(record.id, "a@example.net", to, b"x\r\n", 0.0, 9e9)])
    owner = queue.enter("p", 60)
    (claim,) = queue.claim(owner, 1.0, 10)
    server, tls, no = "192.0.2.9:25", "TLSv1.3 verified", "550 5.1.1 no such user"
    fates = (
        (QueueState.DELIVERED, "250 2.0.0 Ok", ""),
        (QueueState.FAILED, no, Ended.BOUNCED),
        (QueueState.FAILED, "450 4.2.0 later", Ended.EXPIRED),
        (QueueState.UNDELIVERABLE, no, ""),
    )
    queue.settle(
        owner,
        [
            Outcome(r.number, r.item, state, reply, 0.0, 3, hop, server, tls, ended)
            for r, (state, reply, ended) in zip(claim.recipients, fates, strict=True)
        ],
    )
    wanted = ("--message-id", record.message_id, "--recipient", "carol")
    told = [[copy["state"] for copy in bench.json(*wanted)[0]["copies"]]]
    words = {"delivered", "bounced", "expired", "undeliverable"}
    assert bench.became() == {key: {record.id} for key in words}
    queue.delete(QueueFilter(state=QueueState.UNDELIVERABLE), "me")
    assert queue.find(record.id) is None
    assert bench.became() == {key: {record.id} for key in words - {"undeliverable"} | {"deleted"}}
    (found,) = bench.json(*wanted)
    told.append([copy["state"] for copy in found["copies"]])
    assert told == [
        ["delivered", "bounced", "expired", "undeliverable"],
        ["delivered", "bounced", "expired", "deleted"],
    ]
    keys = ("to", "server", "tls", "note", "attempts")
    assert [found["copies"][0][key] for key in keys] == [hop, server, tls, "250 2.0.0 Ok", 3]
    assert 0 < time.time() - found["copies"][0]["changed"] < 60
    shown = bench.run(*wanted).stdout
    for text in (no, server, tls, "3 attempts", "bounced"):
        assert text in " ".join(shown.split()), shown
    assert bench.states() == [["relayed"], ["delivered", "bounced", "expired", "deleted"]]


def test_a_release_is_followed_through_the_queue(bench: Bench) -> None:
    made = bench.add(*HELD)
    taken = claim(bench.quarantine, made.id, who="cli:carol")
    assert taken
    going = Outgoing(new_id(), "a@example.net", (Addressee("post@example.com"),), b"x\r\n", 0.0, 9e9)
    said = {BOB: f"250 2.0.0 queued as {going.id}"}
    bench.quarantine.settle(
        taken, who="cli:carol", delivered={BOB: "post@example.com"}, outgoing=[going], replies=said
    )
    assert bench.states() == [["released, queued"]]
    assert bench.became() == {key: {made.id} for key in ("released", "queued")}
    queue = Queue(bench.database)
    owner = queue.enter("p", 60)
    (work,) = queue.claim(owner, 1.0, 10)
    done = Outcome(
        work.recipients[0].number, going.id, QueueState.DELIVERED, "250 2.0.0 taken", 0.0, 1, "hop"
    )
    queue.settle(owner, [done])
    assert bench.became() == {key: {made.id} for key in ("released", "delivered")}
    (copy,) = bench.json()[0]["copies"]
    keys = ("state", "to", "note", "queued")
    assert [copy[key] for key in keys] == [
        "released, delivered",
        "post@example.com",
        "250 2.0.0 taken",
        going.id,
    ]


def test_a_hop_that_names_another_message_shows_nothing_of_it(bench: Bench) -> None:
    other = Outgoing(new_id(), "a@example.net", (Addressee("eve@example.org"),), b"x\r\n", 0.0, 9e9)
    Queue(bench.database).add([other])
    made = bench.add(*HELD)
    taken = claim(bench.quarantine, made.id, who="cli:carol")
    assert taken
    said = f"250 2.0.0 Ok: queued as {other.id}"
    bench.quarantine.settle(taken, who="cli:carol", delivered={BOB: BOB}, replies={BOB: said})
    (copy,) = bench.json()[0]["copies"]
    assert (copy["state"], copy["note"]) == ("released", said)
    assert bench.became() == {"released": {made.id}}


def test_what_was_relayed_without_a_queue_has_its_end(bench: Bench) -> None:
    record = bench.add(*HAM, to=(BOB, "dave@example.org"), door="smarthost")
    for address, ended in ((BOB, Ended.DELIVERED), ("dave@example.org", Ended.REFUSED)):
        end = Delivery(record.id, address, ended, "lmtp:x", "x", "", "250\x1b[2J \nOk", 1, time.time())
        bench.journal.add(end)
    assert bench.journal.flush()
    assert bench.states() == [["delivered", "refused"]]
    assert bench.became() == {key: {record.id} for key in ("delivered", "refused")}
    assert "\x1b" not in bench.run().stdout
    assert "in clear" in bench.run().stdout


def test_postfix_is_named_with_its_queue_id(bench: Bench) -> None:
    bench.add(*HAM, queue_id="4QUEUE")
    (copy,) = bench.json()[0]["copies"]
    assert (copy["to"], copy["note"]) == ("Postfix", "queue id 4QUEUE")


def test_a_message_that_came_back_names_what_it_was(bench: Bench) -> None:
    made = bench.add(*HELD)
    back = judged(mail_of(), HELD, POLICY, lifted=("score",))
    assert back.evidence.release
    fill(
        bench.journal,
        [
            replace(
                back, evidence=replace(back.evidence, release=replace(back.evidence.release, item=made.id))
            )
        ],
    )
    assert [found["released_from"] for found in bench.json()] == [made.id, ""]
    assert f"release={made.id}" in bench.json()[0]["evidence"]


def test_pages(bench: Bench) -> None:
    made = [bench.add(*HAM) for _ in range(5)]
    done = bench.run("--limit", "2")
    assert re.findall(r"^[0-9A-Z]{16}\b", done.stdout, re.MULTILINE) == [made[4].id, made[3].id]
    assert "--offset 2" in done.stderr
    done = bench.run("--limit", "2", "--offset", "3")
    assert re.findall(r"^[0-9A-Z]{16}\b", done.stdout, re.MULTILINE) == [made[1].id, made[0].id]
    assert done.stderr == ""
    assert "Nothing matches." in bench.run("--offset", "5").stdout


def test_a_broken_record_hides_no_other(bench: Bench) -> None:
    made = [bench.add(*HAM) for _ in range(3)]
    table = schema.journal
    execute(bench.database, update(table).where(table.c.id == made[1].id).values(evidence="{"))
    done = bench.run("--limit", "3")
    assert done.exit_code == 0
    assert made[0].id in done.stdout
    assert made[2].id in done.stdout
    assert "1 records cannot be read" in done.stderr


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_nothing_hostile_reaches_the_terminal(bench: Bench, words: tuple[str, ...]) -> None:
    hostile = "\x1b[31m[red]\x07\u202e\r\nfake\udce9"
    mail = mail_of(f"{hostile}@example.com", BOB)
    mail = replace(
        mail, envelope=replace(mail.envelope, mail_from=hostile), session=Session(hostile, hostile, hostile)
    )
    record = replace(judged(mail, HELD, POLICY), queue_id=hostile)
    hold_record(bench.quarantine, record)
    fill(bench.journal, [record])
    for count in (1, 2):
        done = bench.run(*words)
        assert (done.exit_code, count) == (0, count), done.output
        assert all(line.isprintable() for line in done.output.split("\n"))
        assert "held" in done.stdout
        bench.add(*HAM)


@pytest.mark.parametrize(
    "words", [("--since", "yesterday"), ("--action", "hold"), ("--limit", "0"), ("--became", "lost")]
)
def test_mistakes_are_usage_errors(bench: Bench, words: tuple[str, ...]) -> None:
    assert bench.run(*words).exit_code == 64
