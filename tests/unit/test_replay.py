# SPDX-License-Identifier: GPL-2.0-or-later
"""Replay: identical where nothing changed, and every difference told where something did."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import update

from gateway.cli import replay as command
from gateway.cli.main import Context
from gateway.data import data_dir
from gateway.mail.types import Action, Evidence, Signal, Thresholds
from gateway.replay import Change, Tally, change_of, identical, judge_again, label_of
from gateway.store import schema
from gateway.store.database import Database, StoreError, open_database
from gateway.store.encoding import from_json, to_json
from gateway.store.journal import Filter, Journal, Record
from gateway.store.quarantine import Quarantine
from gateway.store.states import Actor
from tests.recorded import PEOPLE, fill, hold_record, judged, mail_of, policy_of, records
from tests.stored import claim, execute, settings_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

POLICY = policy_of()
FREE = replace(POLICY, thresholds=Thresholds(900, 901, 902))  # lets everything pass that no signal stops
HAM, TAGGED, SPAM, FORGED = (
    (Signal("SPF_PASS"),),
    (Signal("SPF_FAIL", "203.0.113.5"), Signal("HIDDEN_TEXT", value=0.0), Signal("IPREV_FAIL", value=4.0)),
    (Signal("CLASSIFIER", "words", 1.0), Signal("SPAMASSASSIN", value=20.0)),
    (Signal("DMARC_REJECT", "p=reject"),),
)


class Bench:
    """A configuration file, its journal, and the command run against them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.settings = settings_for(directory)
        self.database: Database = open_database(self.settings)
        self.journal = Journal(self.database, flush_interval=0.05)
        self.quarantine = Quarantine(self.database)
        self.file = self.config("live")

    def config(self, name: str, text: str = "") -> Path:
        file = self.directory / f"{name}.toml"
        file.write_text(f'[store]\ndatabase = "{self.settings.database}"\n{text}', "utf-8")
        return file

    def run(self, *words: object) -> Result:
        return CliRunner().invoke(command.replay, [str(w) for w in words], obj=Context(self.file, given=True))

    def json(self, *words: object, status: int) -> Any:
        done = self.run(*words, "--json")
        assert done.exit_code == status, done.output
        return json.loads(done.stdout)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.journal.close()
    made.database.close()


def tally_of(*made: Record, policy: Any = POLICY, label: Any = "") -> Tally:
    tally = Tally()
    for record in made:
        tally.add(record, policy, label)
    return tally


# ---------------------------------------------------------------- pure


def test_what_comes_back_from_the_journal_is_judged_the_same(bench: Bench) -> None:
    policy = policy_of(
        weights={"SPF_FAIL": 4.25},
        actions={"URL_IP": "quarantine"},
        recipients=[{"recipients": ["carol@example.com", "example.org"], "tag": 1.0, "reject": 12.0}],
    )
    made = list(records(300, policy))
    fill(bench.journal, made)
    found, unreadable = bench.journal.between(1, 10_000, Filter())
    assert (len(found), unreadable) == (300, 0)
    for record, original in zip(found, made, strict=True):
        assert record == original
        verdict, gone = judge_again(record, policy)
        assert verdict == original.verdict
        assert gone == ()


@pytest.mark.parametrize(
    ("old", "new", "change"),
    [
        ("relay", "quarantine", Change.HELD),
        ("tag", "quarantine", Change.HELD),
        ("reject", "quarantine", Change.HELD),
        ("quarantine", "reject", Change.REJECTED),
        ("tag", "defer", Change.DEFERRED),
        ("quarantine", "relay", Change.PASSED),
        ("reject", "tag", Change.PASSED),
        ("relay", "tag", Change.TAGGED),
        ("tag", "relay", Change.UNTAGGED),
        ("tag", "tag", None),
        ("tag", "strip", Change.STRIPPED),
        ("strip", "tag", Change.UNSTRIPPED),
        ("strip", "quarantine", Change.HELD),
        ("quarantine", "strip", Change.PASSED),
    ],
)
def test_changes_have_names(old: str, new: str, change: Change | None) -> None:
    assert change_of(Action(old), Action(new)) is change


@pytest.mark.parametrize(
    "change",
    [
        {"score": 1.5},
        {"reason": "VIRUS"},
        {"reason_text": "x"},
        {"action": Action.REJECT},
        {"outcomes": ()},
        {"contributions": ()},
        {"id": "other"},
    ],
)
def test_identical_looks_at_everything(change: dict[str, Any]) -> None:
    verdict = judged(mail_of(), TAGGED, POLICY).verdict
    assert identical(verdict, verdict)
    assert identical(verdict, replace(verdict, edits=(), versions=replace(verdict.versions, policy="new")))
    assert not identical(verdict, replace(verdict, **change))


def test_each_kind_of_change_is_counted_with_its_cause() -> None:
    made = [judged(mail_of(), signals, POLICY) for signals in (HAM, SPAM, FORGED)]
    tally = tally_of(*made, policy=policy_of(weights={"SPF_PASS": 9.0}, actions={"DMARC_REJECT": "tag"}))
    assert (tally.records, tally.identical, tally.rescored, tally.changed) == (3, 1, 0, 2)
    assert tally.changes == {"newly held": 1, "newly passed": 1}
    assert tally.causes == {"SPF_PASS": {"newly held": 1}, "DMARC_REJECT": {"newly passed": 1}}
    assert tally.copies["relay"] == {"quarantine": 1}
    assert tally.copies["reject"] == {"tag": 1} | (
        {"reject": 1} if made[1].verdict.action == "reject" else {}
    )


def test_points_that_change_no_outcome_are_no_change() -> None:
    tally = tally_of(judged(mail_of(), HAM, POLICY), policy=policy_of(weights={"SPF_PASS": -0.5}))
    assert (tally.identical, tally.rescored, tally.changed) == (0, 1, 0)


def test_thresholds_are_the_cause_where_no_weight_is() -> None:
    made = judged(mail_of(*PEOPLE), SPAM, POLICY)
    tally = tally_of(made, policy=FREE)
    assert tally.causes == {"thresholds": {"newly passed": 1}}
    assert tally.copies == {made.verdict.outcomes[0].action: {"relay": 4}}
    (example,) = tally.examples["newly passed"]
    assert (example.because, example.recipient, example.new) == (("thresholds",), PEOPLE[0], Action.RELAY)


@pytest.mark.parametrize(
    ("weights", "reject", "causes"),
    [
        ({"SPF_PASS": 6.0}, 15.0, ("SPF_PASS",)),
        ({"SPF_PASS": 6.0}, 14.0, ("SPF_PASS",)),
        ({"SPF_PASS": 6.0}, 6.0, ("SPF_PASS", "thresholds")),
        ({"SPF_PASS": -0.25}, -8.0, ("thresholds",)),
    ],
)
def test_thresholds_are_a_cause_only_where_they_matter(
    weights: dict[str, float], reject: float, causes: tuple[str, ...]
) -> None:
    kind = Thresholds(min(5.0, reject), min(8.0, reject), reject)
    tried = replace(policy_of(weights=weights), thresholds=kind)
    made = judged(mail_of(), HAM, POLICY)
    ((change, (example,)),) = tally_of(made, policy=tried).examples.items()
    assert (example.because, tally_of(made, policy=tried).causes) == (
        causes,
        {c: {change: 1} for c in causes},
    )


def test_a_change_for_one_recipient_alone_is_seen() -> None:
    made = judged(mail_of("bob@example.com", "carol@example.com"), SPAM, POLICY)
    tally = tally_of(made, policy=replace(POLICY, recipients={"carol@example.com": FREE.thresholds}))
    assert tally.changed == 1
    assert tally.changes["newly passed"] == 1
    assert tally.examples["newly passed"][0].recipient == "carol@example.com"


def test_signals_that_are_gone_are_told_and_weigh_nothing() -> None:
    made = judged(mail_of(), (*SPAM, Signal("SPF_FAIL"), Signal("SPF_FAIL")), POLICY)
    weights = {name: weight for name, weight in POLICY.weights.items() if name != "SPF_FAIL"}
    verdict, gone = judge_again(made, replace(POLICY, weights=weights))
    assert gone == ("SPF_FAIL",)
    assert verdict.score == judged(mail_of(), SPAM, POLICY).verdict.score
    assert tally_of(made, policy=replace(POLICY, weights=weights)).gone == {"SPF_FAIL": 1}


def test_what_was_released_stays_lifted() -> None:
    made = judged(mail_of(), SPAM, POLICY, lifted=("score", "CLASSIFIER"))
    assert judge_again(made, POLICY)[0] == made.verdict
    assert tally_of(made, policy=policy_of(weights={"SPAMASSASSIN": 2.0})).changed == 0


def test_a_strip_is_tried_on_what_was_held() -> None:
    """What could not have been cut out is held by the new policy, too."""
    program, unsafe = Signal("ATTACHMENT_EXECUTABLE"), Signal("STRIP_UNSAFE")
    stripping = policy_of(actions={"ATTACHMENT_EXECUTABLE": "strip"})
    tally = Tally()
    for signals in ((program,), (program, unsafe), (unsafe,)):
        tally.add(judged(mail_of(*PEOPLE[:2]), signals, POLICY), stripping)
    assert tally.copies == {"quarantine": {"strip": 2, "quarantine": 2}, "relay": {"relay": 2}}
    assert tally.changes == {"newly passed": 1}
    back = Tally()
    back.add(judged(mail_of(), (program,), stripping), stripping)
    assert (back.identical, back.changed) == (1, 0)


def test_failures_are_not_judged_again() -> None:
    made = judged(mail_of(), (), POLICY)
    failed = replace(
        made, evidence=Evidence(), verdict=replace(made.verdict, reason="FAILURE", action=Action.DEFER)
    )
    tally = tally_of(failed, policy=POLICY)
    assert (tally.unjudged, tally.identical, tally.changed) == (1, 0, 0)


def test_a_record_that_contradicts_itself_is_unreadable() -> None:
    made = judged(mail_of(*PEOPLE), SPAM, POLICY)
    tally = tally_of(replace(made, verdict=replace(made.verdict, outcomes=made.verdict.outcomes[:1])))
    assert (tally.unreadable, tally.changed) == (1, 0)


def test_the_worst_examples_come_first_and_are_few() -> None:
    tally = tally_of(*(judged(mail_of(), SPAM, POLICY) for _ in range(20)), policy=FREE, label="ham")
    other = tally_of(judged(mail_of(), SPAM, POLICY), policy=FREE, label="spam")
    tally.merge(other)
    assert tally.changes == {"newly passed": 21}
    assert [e.label for e in tally.examples["newly passed"]] == ["spam", "ham", "ham", "ham", "ham"]
    stopped = tally.known["ham"]
    assert stopped == {"messages": 20, "stopped before": 20, "stopped after": 0}


def test_tallies_add_up_and_go_to_json() -> None:
    stricter = policy_of(weights={"SPF_FAIL": 8.0, "URL_IP": 8.0})
    made = list(records(200, POLICY))
    parts = [tally_of(*made[n::3], policy=stricter) for n in range(3)]
    total = Tally()
    for part in parts:
        total.merge(from_json(to_json(part), Tally))
    whole = tally_of(*made, policy=stricter)
    assert total.changed > 0
    assert total == whole


def test_hostile_text_in_examples_is_printable() -> None:
    mail = mail_of("b\x1b[31m\udce9@example.com")
    mail = replace(mail, envelope=replace(mail.envelope, mail_from="\r\n\x1b]0;x\x07@example.net"))
    made = replace(judged(mail, SPAM, POLICY), subject="\x1b[2J\u202e")
    (example,) = tally_of(made, policy=FREE).examples["newly passed"]
    assert all(text.isprintable() for text in (example.sender, example.recipient, example.subject))


# ---------------------------------------------------------------- what a reviewer said


def test_labels_come_from_the_quarantine(bench: Bench) -> None:
    made = [judged(mail_of(), FORGED, policy_of(actions={"DMARC_REJECT": "quarantine"})) for _ in range(4)]
    for record in made:
        hold_record(bench.quarantine, record)
    for record, to in ((made[0], PEOPLE[0].upper()), (made[1], "postmaster@example.com")):
        taken = claim(bench.quarantine, record.id)
        assert taken
        bench.quarantine.settle(taken, who="me", delivered={PEOPLE[0]: to})
    bench.quarantine.delete(made[0].id, Actor("me"))
    bench.quarantine.delete(made[2].id, Actor("me"))
    known = bench.quarantine.known([record.id for record in made] + ["0" * 16])
    assert [label_of(known[record.id]) for record in made] == ["ham", "", "spam", ""]
    assert len(known) == 4
    assert bench.quarantine.known([]) == {}
    fill(bench.journal, made)
    told = bench.json(status=1)
    assert told["known"] == {
        "ham": {"messages": 1, "stopped before": 1, "stopped after": 1},
        "spam": {"messages": 1, "stopped before": 1, "stopped after": 1},
    }
    assert told["changes"] == {"newly rejected": 4}
    assert told["examples"]["newly rejected"][0]["label"] == "ham"
    assert "released (ham)" in bench.run().stdout


def test_the_original_of_a_stripped_message_may_be_deleted(bench: Bench) -> None:
    """That says nothing about the message, which has been delivered."""
    stripping = policy_of(actions={"ATTACHMENT_EXECUTABLE": "strip"})
    record = judged(mail_of(), (Signal("ATTACHMENT_EXECUTABLE"),), stripping)
    hold_record(bench.quarantine, record)
    bench.quarantine.delete(record.id, Actor("me"))
    found = bench.quarantine.find(record.id)
    assert found
    assert label_of(found) == ""


# ---------------------------------------------------------------- the command


def test_two_thousand_verdicts_are_identical(bench: Bench) -> None:
    fill(bench.journal, records(2_000, POLICY))
    told = bench.json("--jobs", 2, status=0)
    assert told["records"] == told["identical"] == 2_000
    assert told["policies"] == {told["policy"]: 2_000}
    assert told["notes"] == []
    done = bench.run("--jobs", 1)
    assert "2000 of 2000" in done.stdout
    assert "Nothing changes." in done.stdout
    changed = ("--set-weight", "SPF_FAIL=8", "--set-threshold", "tag=4", "--set-weight", "VIRUS=0")
    alone, shared = (bench.json(*changed, "--jobs", jobs, status=1) for jobs in (1, 2))
    assert alone == shared
    assert alone["changed"] == 2_000 - alone["identical"] - alone["rescored"] > 0
    assert sum(n for row in alone["copies"].values() for n in row.values()) >= 2_000


def test_a_new_configuration_is_tried_on_the_old_journal(bench: Bench) -> None:
    fill(bench.journal, [judged(mail_of(), SPAM, POLICY), judged(mail_of(), HAM, POLICY)])
    new = bench.directory / "new.toml"  # without [store]: the journal is the live one's
    new.write_text(
        'domains = ["example.com"]\n[policy.weights]\nSPF_PASS = 9.0\n[policy.links]\n'
        'shorteners = ["s.example"]\n'
    )
    told = bench.json("--config", new, status=1)
    assert told["changes"] == {"newly held": 1}
    assert told["notes"][0].endswith(": domains, policy.links")
    assert len(told["notes"]) == 1
    done = bench.run("-c", new)
    for text in ("SPF_PASS", "Newly held: the worst", "<alice@example.net>", "not replayed"):
        assert text in done.stdout, text


def test_new_and_lost_patterns_are_told(bench: Bench, tmp_path: Path) -> None:
    patterns = tmp_path / "patterns"
    patterns.mkdir()
    rule = 'where = "text"\npattern = "x"\nmust_match = ["x"]\nmust_not_match = ["y"]\n'
    (patterns / "own.toml").write_text(f"[OWN_NEW]\n{rule}")
    made = judged(mail_of(), HAM, POLICY)
    fill(bench.journal, [replace(made, signals=(*made.signals, Signal("OWN_GONE")))])
    new = bench.config("new", f'[policy]\npatterns_dir = "{patterns}"\nweights = {{OWN_NEW = 1.0}}\n')
    notes = bench.json("--config", new, status=0)["notes"]
    assert "not replayed, since it changes what is seen: policy.patterns_dir" in notes
    assert "not replayed, since no record has it: OWN_NEW" in notes
    assert "OWN_GONE weighs nothing any more, and 1 messages have it" in notes


def test_records_of_an_older_policy_are_told(bench: Bench) -> None:
    older = policy_of(weights={"SPF_PASS": -3.0})
    fill(bench.journal, [judged(mail_of(), HAM, older)])
    told = bench.json(status=0)
    assert (told["rescored"], told["policies"]) == (1, {older.hash: 1})
    assert told["notes"] == [f"1 message was not judged by the policy of today, but by {older.hash}"]


def test_what_is_chosen(bench: Bench) -> None:
    now = mail_of().received
    made = [judged(mail_of(received=now - days * 86_400), HAM, POLICY) for days in (20, 10, 5, 1)]
    fill(bench.journal, made)
    for words, count in (
        ((), 2),
        (("--since", "30d"), 4),
        (("--since", "30d", "--until", "7d"), 2),
        (("--since", "30d", "--limit", 3), 3),
        (("--since", "1h"), 0),
    ):
        assert bench.json(*words, status=0)["records"] == count, words
    assert "no records" in bench.run("--since", "1h").stdout


def test_a_broken_record_stops_nobody(bench: Bench) -> None:
    made = [judged(mail_of(), HAM, POLICY) for _ in range(3)]
    fill(bench.journal, made)
    table = schema.journal
    execute(bench.database, update(table).where(table.c.id == made[1].id).values(signals='[{"name": NaN'))
    told = bench.json(status=0)
    assert (told["records"], told["identical"], told["unreadable"]) == (2, 2, 1)
    assert told["notes"] == ["1 records cannot be read"]


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (("--set-weight", "SPF_FIAL=1"), 78, "did you mean SPF_FAIL"),
        (("--set-weight", "SPF_FAIL"), 64, "is not NAME=POINTS"),
        (("--set-weight", "SPF_FAIL=nan"), 64, "--set-weight"),
        (("--set-weight", "SPF_FAIL=1e9"), 64, "--set-weight"),
        (("--set-threshold", "hold=1"), 64, "hold"),
        (("--set-threshold", "tag=50"), 78, "must ascend"),
        (("--since", "yesterday"), 64, "is no time"),
        (("--config", "missing.toml"), 78, "no such file"),
    ],
)
def test_mistakes_are_told(bench: Bench, words: tuple[str, ...], status: int, text: str) -> None:
    done = bench.run(*words)
    assert (done.exit_code, text in done.output) == (status, True), done.output


@pytest.mark.parametrize(("jobs", "ends", "status"), [(1, False, 69), (2, False, 69), (2, True, 70)])
def test_what_fails_in_a_process_is_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, jobs: int, ends: bool, status: int
) -> None:
    fill(bench.journal, records(1_100, POLICY))

    def known(*_: object) -> NoReturn:
        if ends:
            os._exit(1)
        raise StoreError("the disk is gone\x1b")

    monkeypatch.setattr(Quarantine, "known", known)
    done = bench.run("--jobs", jobs)
    assert (done.exit_code, "\x1b" in done.output) == (status, False)
    assert ("a process ended" if ends else "the disk is gone") in done.output


def test_without_a_live_configuration_the_new_one_serves(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = bench.directory / "absent.toml"
    monkeypatch.setattr(command, "DEFAULT", absent)
    fill(bench.journal, [judged(mail_of(), HAM, POLICY)])
    words = ["--config", str(bench.config("new", "[policy.weights]\nSPF_PASS = 20.0\n"))]
    done = CliRunner().invoke(command.replay, words, obj=Context(absent))
    assert done.exit_code == 1
    assert "newly rejected" in done.stdout


# ---------------------------------------------------------------- other rules, another model


def test_rules_of_another_directory(bench: Bench, tmp_path: Path) -> None:
    fill(bench.journal, [judged(mail_of(), SPAM, POLICY)])
    rules = tmp_path / "rules"
    shutil.copytree(data_dir("rules"), rules)
    assert bench.json("--rules", rules, status=0)["identical"] == 1
    path = rules / "policy.toml"
    text = re.sub(r"(?m)^(tag|quarantine|reject) = .*$", r"\1 = 900.0", path.read_text("utf-8"))
    path.write_text(text, "utf-8")
    assert bench.json("--rules", rules, status=1)["changes"] == {"newly passed": 1}


def test_short_names_of_weights_and_thresholds(bench: Bench) -> None:
    fill(bench.journal, [judged(mail_of(), SPAM, POLICY)])
    high = ("--threshold", "quarantine=900", "--threshold", "reject=901", "--threshold", "tag=899")
    assert bench.json(*high, status=1)["changes"] == {"newly passed": 1}
    assert bench.json("--weight", "CLASSIFIER=0", "--weight", "SPAMASSASSIN=0", status=1)["changed"] == 1


def test_a_model_is_tried_on_what_is_held(bench: Bench) -> None:
    holds = replace(POLICY, thresholds=replace(POLICY.thresholds, reject=900.0))
    held, gone = judged(mail_of(), SPAM, holds), judged(mail_of(), SPAM, holds)
    fill(bench.journal, [held, gone])
    hold_record(bench.quarantine, held)
    assert bench.json("--threshold", "reject=900", status=0)["identical"] == 2
    more = ("--threshold", "reject=900", "--weight", "SPAMASSASSIN=0")
    found = bench.json("--model", data_dir("models") / "base", *more, status=1)
    assert (found["records"], found["textless"]) == (1, 1)
    assert any("without a text" in note for note in found["notes"])


def test_what_is_no_model_is_refused(bench: Bench, tmp_path: Path) -> None:
    fill(bench.journal, [judged(mail_of(), SPAM, POLICY)])
    (tmp_path / "empty").mkdir()
    assert bench.run("--model", tmp_path / "empty").exit_code == 78
    assert bench.run("--rules", tmp_path / "empty").exit_code == 78
