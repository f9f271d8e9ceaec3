# SPDX-License-Identifier: GPL-2.0-or-later
"""`quarantine explain` and what it prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway.cli import output
from gateway.cli.explain import _what_was_asked
from gateway.mail.mime import parse
from gateway.mail.types import Evidence
from gateway.store.journal import Journal
from tests.stored import EVIDENCE, RAW, REPLY, SIGNALS, execute, hold, mail_for, verdict_for
from tests.terminal import BOB, CAROL, HOSTILE, Bench, terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with terminal(tmp_path, monkeypatch) as made:
        yield made


def test_explain_from_the_journal(bench: Bench) -> None:
    mail = mail_for(BOB, CAROL)
    journal = Journal(bench.database)
    verdict = verdict_for(mail, held=[CAROL])
    journal.record(mail, parse(RAW), EVIDENCE, SIGNALS, verdict, reply=REPLY, door="milter", seconds=0.0123)
    journal.close()
    done = bench.run("explain", mail.id.lower())
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0] == "TAG  score; Score 9.5 reaches 8"
    for text in (
        "queue id 4XYZabc", "milter, mx, inbound", "mx.example.net [203.0.113.5]", "TLSv1.3", "12.3 ms",
        "SPF mailfrom  fail", "covers only part", "p=quarantine", "Test.Name", "7.2 of 5.0",
        "-0.50  KNOWN", "X-Spam-Status", "250 2.0.0 Ok: accepted", "abc123", "base-1",
    ):  # fmt: skip
        assert text in done.stdout, text
    order = [
        done.stdout.index(name) for name in ("+3.00  DMARC_QUARANTINE", "+6.50  CLASSIFIER", "-0.50  KNOWN")
    ]
    assert order == sorted(order)
    whole = bench.json("explain", mail.id)
    assert whole["verdict"]["outcomes"][1]["action"] == "quarantine"
    assert whole["evidence"]["durations"] == {"spf": 1.5, "antivirus": 12.25}


def test_explain_from_the_quarantine_where_the_journal_has_nothing(bench: Bench) -> None:
    mail = hold(bench.quarantine)
    done = bench.run("explain", mail.id)
    assert done.exit_code == 0
    assert done.stdout.startswith("QUARANTINE  score")


def test_explain_says_what_would_have_let_it_pass(bench: Bench) -> None:
    mail = hold(bench.quarantine)
    shown = bench.run("explain", mail.id).stdout
    assert "What would have let it pass" in shown
    [answer] = bench.json("explain", mail.id)["pass"]
    assert answer["forced"] == ["DMARC_QUARANTINE"]
    assert [way["without"] for way in answer["ways"]] == [["DMARC_QUARANTINE"]]
    told = bench.run("explain", "--brief", mail.id).stdout
    assert "could not be proven to come from" in told
    assert told.count(".") == 2
    assert mail.id in told
    assert bench.run("explain", "--brief", "--json", mail.id).exit_code == 64
    assert "Passes without" in bench.run("show", mail.id).stdout


def test_explain_prints_nothing_hostile(bench: Bench) -> None:
    hostile = "\x1b[31m\u202e\r\nfake"
    mail = mail_for(f"{hostile}@example.com", sender=hostile, helo=hostile, raw=HOSTILE)
    hold(bench.quarantine, mail)
    for words in (("explain", mail.id), ("explain", mail.id, "--json")):
        assert all(line.isprintable() for line in bench.run(*words).stdout.split("\n"))


def test_a_record_that_is_damaged_is_an_error(bench: Bench) -> None:
    mail = hold(bench.quarantine)
    execute(bench.database, "UPDATE quarantine_judgements SET verdict = '{}'")
    assert bench.run("explain", mail.id).exit_code == 69


# ---------------------------------------------------------------- output


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1_500, "1.5 kB"), (2_500_000, "2.5 MB")]
)
def test_octets(count: int, text: str) -> None:
    assert output.octets(count) == text


@pytest.mark.parametrize("seconds", [0.0, -1.0, 1e300, float("nan"), float("inf")])
def test_a_moment_that_is_none(seconds: float) -> None:
    assert output.moment(seconds) == ""


def test_what_was_asked_tells_of_mail_without_signatures() -> None:
    asked = list(_what_was_asked(Evidence(durations={"dkim": 0.04, "arc": 0.01})))
    assert asked == [("DKIM", "none", "not signed", "0.0"), ("arc", "", "", "0.0")]
