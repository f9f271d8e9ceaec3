# SPDX-License-Identifier: GPL-2.0-or-later
"""The quarantine commands and `explain`: what they print, what they do, how they end."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from gateway.cli import output
from gateway.cli.filters import Moment
from gateway.cli.person import operator
from gateway.cli.quarantine import quarantine
from gateway.delivery.relay import RecipientResult
from gateway.delivery.settings import ReleaseSettings
from gateway.store.database import StoreSettings
from gateway.store.search import Search
from gateway.store.states import Actor, State
from tests.stored import RAW, execute, hold, mail_for
from tests.terminal import BOB, CAROL, HOSTILE, Bench, terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with terminal(tmp_path, monkeypatch) as made:
        yield made


# ---------------------------------------------------------------- list and show


def test_list_is_a_table_and_newest_first(bench: Bench) -> None:
    first, second = hold(bench.quarantine), hold(bench.quarantine, mail_for(BOB, CAROL))
    done = bench.run("list")
    assert done.exit_code == 0
    header, *lines = done.stdout.splitlines()
    assert header.split() == ["Id", "Held", "State", "Sender", "Recipients", "Reasons", "Score", "Subject"]
    assert sorted((line.split()[0] for line in lines), reverse=True) == [line.split()[0] for line in lines]
    assert {line.split()[0] for line in lines} == {first.id, second.id}
    assert "A chance" in lines[0]


def test_list_fits_a_narrow_terminal(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two lines for each message, cut at the edge; the id is whole and first."""
    monkeypatch.setattr(output, "WIDE", 80)
    items = [
        hold(bench.quarantine),
        hold(bench.quarantine, mail_for(*(f"{n:060}@example.com" for n in "12"))),
    ]
    lines = bench.run("list").stdout.splitlines()
    assert len(lines) == 4
    assert max(map(len, lines)) <= 80
    assert {line.split()[0] for line in lines[::2]} == {item.id for item in items}
    assert any(line.endswith("\N{HORIZONTAL ELLIPSIS}") for line in lines[1::2])


def test_an_empty_list_says_so(bench: Bench) -> None:
    assert "Nothing is held" in bench.run("list").stdout
    assert bench.json("list") == []


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ((), 2),
        (("--sender", "ALICE"), 1),
        (("--recipient", "carol"), 1),
        (("--subject", "chance", "--reason", "VIRUS"), 1),
        (("--since", "1h"), 2),
        (("--until", "1h"), 0),
        (("--since", "2000-01-01", "--until", "2001-01-01T12:00"), 0),
        (("--state", "deleted"), 1),
        (("--state", "all"), 3),
        (("--state", "released"), 0),
        (("--limit", "1"), 1),
        (("--limit", "1", "--offset", "2"), 0),
    ],
)
def test_list_takes_filters(bench: Bench, options: tuple[str, ...], count: int) -> None:
    hold(bench.quarantine)
    hold(bench.quarantine, mail_for(CAROL, sender="eve@example.org"), reasons=["VIRUS"])
    bench.quarantine.delete(hold(bench.quarantine, mail_for(sender="old@example.org")).id, Actor("me"))
    assert len(bench.json("list", *options)) == count


def test_list_says_that_there_are_more(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(4):
        hold(bench.quarantine)
    assert "2 of 4;" in bench.run("list", "--limit", "2").stdout
    monkeypatch.setattr("gateway.cli.quarantine.COUNTED", 3)
    assert "2 of 3 or more;" in bench.run("list", "--limit", "2").stdout


@pytest.mark.parametrize("since", ["yesterday", "2x", "-1d", "1e9", "9999999d d", "\x1b[31m", ""])
def test_what_is_no_time_is_a_usage_error(bench: Bench, since: str) -> None:
    done = bench.run("list", "--since", since)
    assert done.exit_code == 64
    assert "is no time" in done.output
    assert "\x1b" not in done.output


def test_times_are_understood() -> None:
    convert = Moment().convert
    assert convert("2026-01-31T00:00:00+00:00", None, None) == 1769817600.0
    assert convert("1h", None, None) - convert("2d", None, None) == pytest.approx(47 * 3600, abs=5)
    assert convert("60m", None, None) == pytest.approx(convert("1h", None, None), abs=5)


def test_show_tells_all_without_rendering(bench: Bench) -> None:
    mail = hold(bench.quarantine, mail_for(BOB, CAROL, raw=HOSTILE))
    done = bench.run("show", mail.id.lower())
    assert done.exit_code == 0
    for text in (mail.id, "CLASSIFIER, score", BOB, CAROL, "eve@example.org", "[red]win[/red]", "a.png.exe",
                 "http://bad.example/", "held", "SHA-256"):  # fmt: skip
        assert text in done.stdout, text


@pytest.mark.parametrize("options", [(), ("--headers",), ("--json",)])
def test_nothing_hostile_reaches_the_terminal(bench: Bench, options: tuple[str, ...]) -> None:
    hostile = "\x1b[31m\x07\u202e\r\nfake"
    mail = hold(
        bench.quarantine,
        mail_for(f"{hostile}@example.com", raw=HOSTILE, sender=hostile, helo=hostile),
        reasons=[hostile],
    )
    for done in (bench.run("show", mail.id, *options), bench.run("list"), bench.run("list", "--json")):
        assert done.exit_code == 0
        assert all(line.isprintable() for line in done.stdout.split("\n"))


def test_show_raw_is_the_message_itself(bench: Bench) -> None:
    mail = hold(bench.quarantine, mail_for(raw=HOSTILE))
    assert bench.run("show", mail.id, "--raw").stdout_bytes == HOSTILE


def test_show_json_has_everything(bench: Bench) -> None:
    mail = hold(bench.quarantine, mail_for(raw=HOSTILE))
    shown = bench.json("show", mail.id)
    assert shown["id"] == mail.id
    assert shown["reasons"] == ["CLASSIFIER", "score"]
    assert shown["recipients"] == [{"address": BOB, "state": "held", "delivered_to": "", "note": ""}]
    assert [a["declared_type"] for a in shown["content"]["attachments"]] == ["image/png"]
    assert shown["history"][0][1:3] == ["mailwarden", "held"]


def test_show_of_what_is_gone(bench: Bench) -> None:
    mail = hold(bench.quarantine)
    bench.quarantine.delete(mail.id, Actor("me"))
    done = bench.run("show", mail.id)
    assert done.exit_code == 0
    assert "deleted" in done.stdout
    assert "A chance" not in done.stdout
    assert bench.run("show", mail.id, "--raw").exit_code == 65
    assert bench.json("show", mail.id)["content"] is None


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("show", "0" * 16), 66),
        (("show", "../../etc/passwd"), 66),
        (("show", "\x1b[31m"), 66),
        (("show",), 64),
        (("show", "X", "--raw", "--json"), 64),
        (("release",), 64),
        (("release", "X", "--all-matching"), 64),
        (("release", "X", "--sender", "alice"), 64),
        (("delete", "--sender", "alice"), 64),
        (("list", "--state", "odd"), 64),
        (("release", "0" * 16), 1),
        (("delete", "0" * 16), 1),
        (("explain", "0" * 16), 66),
        (("explain", "; DROP TABLE journal"), 66),
    ],
)
def test_exit_status(bench: Bench, words: tuple[str, ...], status: int) -> None:
    done = bench.run(*words)
    assert done.exit_code == status, done.output
    assert "\x1b" not in done.output


def test_a_store_that_cannot_be_opened(bench: Bench) -> None:
    bench.config.store = StoreSettings(database="sqlite:////dev/null/x.db")
    for words in (("list",), ("explain", "0" * 16)):
        assert bench.run(*words).exit_code == 69


# ---------------------------------------------------------------- release and delete


def test_release_delivers_and_tells(bench: Bench) -> None:
    mails = [hold(bench.quarantine, mail_for(BOB, CAROL)), hold(bench.quarantine)]
    done = bench.run("release", *(m.id for m in mails))
    assert done.exit_code == 0
    assert bench.sent == [((BOB, CAROL), RAW), ((BOB,), RAW)]
    assert done.stdout.count("released to") == 3
    history = bench.quarantine.history(mails[0].id)
    assert [e.action for e in history] == ["held", "answered", "scheduled", "claimed", "released", "released"]
    assert history[2].who == operator()


def test_release_to_another_address(bench: Bench) -> None:
    mail = hold(bench.quarantine)
    done = bench.run("release", mail.id, "--to", "postmaster@example.com")
    assert done.exit_code == 0
    assert bench.sent == [(("postmaster@example.com",), RAW)]
    assert "<postmaster@example.com> in place of <bob@example.com>" in done.stdout


def test_release_only_to_one(bench: Bench) -> None:
    mail = hold(bench.quarantine, mail_for(BOB, CAROL))
    assert bench.run("release", mail.id, "--only", CAROL).exit_code == 0
    assert bench.sent == [((CAROL,), RAW)]


def test_one_failure_does_not_stop_the_rest(bench: Bench) -> None:
    mail = hold(bench.quarantine)
    done = bench.run("release", "0" * 16, mail.id)
    assert done.exit_code == 1
    assert "no such message" in done.stderr
    assert bench.sent == [((BOB,), RAW)]


def test_a_failed_release_is_told(bench: Bench) -> None:
    mail = hold(bench.quarantine)
    bench.answer = RecipientResult("refused", 550, "5.1.1", "no such user")
    done = bench.run("release", mail.id)
    assert done.exit_code == 1
    assert "550 5.1.1 no such user" in done.stderr
    told = CliRunner().invoke(
        quarantine, ["release", mail.id, "--json"], obj=SimpleNamespace(config=bench.config)
    )
    assert json.loads(told.stdout)[0]["failed"] == {BOB: "550 5.1.1 no such user"}


def test_infected_mail_needs_a_word(bench: Bench) -> None:
    mail = hold(bench.quarantine, reasons=["VIRUS"])
    assert bench.run("release", mail.id).exit_code == 1
    assert not bench.sent
    assert bench.run("release", mail.id, "--infected").exit_code == 0


def test_release_without_a_next_hop_is_refused(bench: Bench) -> None:
    mail = hold(bench.quarantine)
    bench.config.next_hop = ""
    assert bench.run("release", mail.id).exit_code == 65
    assert bench.quarantine.find(mail.id).state is State.HELD  # type: ignore[union-attr]  # it is there


def test_release_back_into_postfix(bench: Bench) -> None:
    mail = hold(bench.quarantine)
    bench.config.release = ReleaseSettings(next_hop="smtp:127.0.0.1:10025")
    assert bench.run("release", mail.id).exit_code == 0
    [(_, message)] = bench.sent
    field, _, rest = message.partition(b"\r\n")
    assert field.startswith(b"X-Mailwarden-Release: ")
    assert rest == RAW
    assert bench.quarantine.check_token(field.partition(b":")[2].decode(), rest, [BOB]) is not None


def test_a_release_can_be_undone_while_it_waits(bench: Bench) -> None:
    mails = [hold(bench.quarantine) for _ in range(2)]
    done = bench.run("release", *(m.id for m in mails), "--undo-window", "60", "--no-wait")
    assert done.exit_code == 0
    assert not bench.sent
    batch = done.stderr.split()[-1]
    assert "2 messages go out in 60 s" in done.stderr
    assert [item["state"] for item in bench.json("list", "--state", "scheduled")] == ["scheduled"] * 2
    assert bench.run("release", mails[0].id).exit_code == 1  # it waits already
    assert bench.run("undo", batch).exit_code == 0
    assert bench.run("undo", batch).exit_code == 1
    assert bench.run("release", mails[0].id).exit_code == 0
    assert len(bench.sent) == 1


@pytest.mark.parametrize("verb", ["release", "delete"])
def test_many_wait_before_it_is_done(bench: Bench, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    bench.config.release = ReleaseSettings(undo_seconds_bulk=30.0)
    mails = [hold(bench.quarantine) for _ in range(2)]
    slept: list[float] = []

    def interrupted(seconds: float) -> None:
        slept.append(seconds)
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupted)
    done = bench.run(verb, *(m.id for m in mails))
    assert (done.exit_code, "2 messages are held again" in done.stderr) == (130, True)
    assert not bench.sent
    assert bench.quarantine.count(Search(state=State.HELD)) == 2
    assert slept[0] == pytest.approx(30.0, abs=1.0)


def test_what_is_not_due_is_not_sent(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.config.release = ReleaseSettings(undo_seconds_bulk=30.0)
    mails = [hold(bench.quarantine) for _ in range(2)]
    monkeypatch.setattr(time, "sleep", lambda _: None)
    # Time stands still in this test, so nothing is due yet.
    assert "undone, or the service is sending it" in bench.run("release", *(m.id for m in mails)).stderr
    assert not bench.sent


def test_requests_from_the_command_line(bench: Bench) -> None:
    mail, other = hold(bench.quarantine, mail_for(BOB, CAROL)), hold(bench.quarantine)
    assert bench.run("request", mail.id, "--only", BOB, "--why", "an invoice").exit_code == 0
    assert [item["id"] for item in bench.json("list", "--state", "requested")] == [mail.id]
    assert bench.run("approve", other.id).exit_code == 1
    assert bench.run("approve", "--all-matching", "--yes", "--recipient", "bob").exit_code == 0
    assert bench.sent == [((BOB,), RAW)]
    assert bench.run("deny", other.id, "--why", "phishing").exit_code == 0
    assert bench.run("request", other.id).exit_code == 1
    assert bench.json("list", "--state", "denied")[0]["id"] == other.id
    assert "phishing" in bench.run("audit", "list", other.id).stdout


def test_answers_from_the_command_line(bench: Bench) -> None:
    mail = hold(bench.quarantine, reasons=["VIRUS", "score"])
    assert bench.run("answer", mail.id, "virus").exit_code == 1
    assert bench.run("answer", mail.id, "virus", "--infected").exit_code == 0
    assert bench.run("answer", mail.id, "virus", "--infected").exit_code == 1
    assert bench.json("show", mail.id)["answered"] == ["VIRUS"]


def test_who_is_no_administrator_releases_no_malware(bench: Bench) -> None:
    mail = hold(bench.quarantine, reasons=["VIRUS"])
    bench.config.release = ReleaseSettings(administrators=("nobody-of-this-name",))
    done = bench.run("release", mail.id, "--infected")
    assert (done.exit_code, bench.sent) == (1, [])
    assert "administrator" in done.stderr


def test_saved_filters(bench: Bench) -> None:
    hold(bench.quarantine)
    kept = hold(bench.quarantine, mail_for(sender="news@example.org"))
    assert bench.run("filter", "save", "news", "--sender", "news@", "--since", "2d").exit_code == 0
    assert bench.json("filter", "list") == {"news": {"sender": "news@", "since": "2d"}}
    assert bench.run("list", "--filter", "news", "--quiet").stdout.split() == [kept.id]
    assert bench.run("list", "--filter", "news", "--sender", "alice", "--quiet").stdout.split() != [kept.id]
    assert bench.run("delete", "--all-matching", "--filter", "news", "--yes", "--quiet").stdout == ""
    assert bench.quarantine.find(kept.id).state is State.DELETED  # type: ignore[union-attr]  # it is there
    assert bench.run("list", "--filter", "old").exit_code == 66
    assert bench.run("filter", "save", "x", "--since", "yesterday").exit_code == 64
    assert bench.run("filter", "save", "x").exit_code == 64
    assert bench.run("filter", "remove", "news").exit_code == 0
    assert bench.run("filter", "remove", "news").exit_code == 66


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (("--score", "9.."), 1),
        (("--score", "..9"), 0),
        (("--score", "9..10", "--size", "..1k"), 1),
        (("--size", "1k.."), 0),
        (("--domain", "example.com"), 1),
    ],
)
def test_ranges(bench: Bench, options: tuple[str, ...], count: int) -> None:
    hold(bench.quarantine)
    assert len(bench.json("list", *options)) == count


@pytest.mark.parametrize("text", ["", "..", "8", "a..b", "1..2..3", "1e9..", "\x1b[31m"])
def test_what_is_no_range(bench: Bench, text: str) -> None:
    done = bench.run("list", "--score", text)
    assert done.exit_code == 64
    assert "\x1b" not in done.output


def test_quiet_prints_nothing_that_went_well(bench: Bench) -> None:
    mail = hold(bench.quarantine)
    assert bench.run("release", mail.id, "--quiet").output == ""
    assert "released already" in bench.run("release", mail.id, "--quiet").stderr


def test_stats(bench: Bench) -> None:
    hold(bench.quarantine, mail_for(sender="\x1b[31m@example.com"))
    shown = bench.run("stats").stdout
    assert "CLASSIFIER" in shown
    assert "\x1b" not in shown
    assert bench.json("stats")["states"] == {"held": 1}


def test_the_audit_is_verified(bench: Bench) -> None:
    mail = hold(bench.quarantine)
    done = bench.run("audit", "verify")
    assert done.exit_code == 0
    assert "The audit is whole: 1 " in done.stdout
    noted = done.stdout.rpartition("whole: ")[2].strip()
    assert bench.run("audit", "verify", "--known", noted).exit_code == 0
    assert "Row 1 " in bench.run("audit", "verify", "--known", "1 " + "0" * 64).stderr
    assert bench.run("audit", "verify", "--known", "1 \x1b[31m").exit_code == 64
    assert bench.json("audit", "list")[0]["action"] == "held"
    for statement in ("DROP TRIGGER audit_no_update", "UPDATE audit SET who = 'nobody'"):
        execute(bench.database, statement if bench.database.dialect == "sqlite" else "SELECT 1")
    if bench.database.dialect == "sqlite":
        assert "Row 1 " in bench.run("audit", "verify").stderr
        for statement in ("DROP TRIGGER audit_no_delete", "DELETE FROM audit", "DELETE FROM secrets"):
            execute(bench.database, statement)
        done = bench.run("audit", "verify")
        assert (done.exit_code, mail.id in done.stderr) == (1, True)


@pytest.mark.parametrize("command", ["release", "delete"])
def test_work_on_many_asks_first(bench: Bench, command: str) -> None:
    for _ in range(2):
        hold(bench.quarantine)
    kept = hold(bench.quarantine, mail_for(sender="eve@example.org"))
    words = (command, "--all-matching", "--sender", "alice")
    asked = bench.run(*words)
    assert asked.exit_code == 64
    assert "--yes" in asked.output
    assert bench.quarantine.count(Search(state=State.HELD)) == 3
    assert bench.run(*words, "--yes").exit_code == 0
    assert [item.id for item in bench.quarantine.search(Search(state=State.HELD))] == [kept.id]
    assert "Nothing matches" in bench.run(*words, "--yes").stdout


def test_delete(bench: Bench) -> None:
    mail = hold(bench.quarantine)
    assert bench.json("delete", mail.id) == [
        {"id": mail.id, "did": "deleted", "error": "", "scheduled": False, "deleted": True}
    ]
    assert bench.run("delete", mail.id).exit_code == 1
    assert bench.quarantine.history(mail.id)[-1].who == operator()


def test_a_deletion_can_be_undone_while_it_waits(bench: Bench) -> None:
    mails = [hold(bench.quarantine) for _ in range(2)]
    done = bench.run("delete", *(m.id for m in mails), "--undo-window", "60", "--no-wait", "--json")
    batch = json.loads(done.stdout)[0]["batch"]
    assert [(one["deleted"], one["scheduled"]) for one in json.loads(done.stdout)] == [(False, True)] * 2
    assert "2 messages are deleted in 60 s" in done.stderr
    assert done.stderr.split()[-1] == batch
    assert [item["state"] for item in bench.json("list", "--state", "deleting")] == ["deleting"] * 2
    assert bench.run("delete", mails[0].id).exit_code == 1  # it waits already
    assert bench.run("undo", mails[0].id).exit_code == 0
    assert "is held again" in bench.run("undo", batch).stdout
    assert bench.run("undo", batch).exit_code == 1
    assert [bench.quarantine.raw(mail.id) for mail in mails] == [RAW] * 2
    assert bench.run("delete", mails[0].id).exit_code == 0
    assert bench.run("show", mails[0].id, "--raw").exit_code == 65


def test_what_was_undone_meanwhile_is_not_deleted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.config.release = ReleaseSettings(undo_seconds_bulk=30.0)
    mails = [hold(bench.quarantine) for _ in range(2)]

    def undone(_seconds: float) -> None:
        bench.quarantine.decisions.undo(Actor("eve"), item=mails[0].id)
        execute(bench.database, "UPDATE quarantine_orders SET due = 0")

    monkeypatch.setattr(time, "sleep", undone)
    done = bench.run("delete", *(m.id for m in mails))
    assert (done.exit_code, done.stdout) == (1, f"{mails[1].id} deleted\n")
    assert done.stderr.splitlines()[-1] == f"{mails[0].id}: it was undone"


def test_help_has_examples(bench: Bench) -> None:
    for words in (("--help",), ("list", "--help"), ("show", "-h"), ("release", "-h"), ("delete", "-h")):
        done = bench.run(*words)
        assert done.exit_code == 0
        assert "Examples:" in done.output
