# SPDX-License-Identifier: GPL-2.0-or-later
"""Senders that reviewers block or allow: what rules, how soon, and what it takes to be believed."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from gateway.cli.senders import senders as command
from gateway.mail.mime import parse
from gateway.mail.senderrule import SenderRule
from gateway.mail.types import Action, Dmarc, Envelope, Evidence, Mail, Session, Spf, Versions
from gateway.policy.decide import decide
from gateway.policy.examine import examine
from gateway.store.database import Database, StoreError
from gateway.store.quarantine import Quarantine
from gateway.store.senders import Senders, normal, of_message, patterns
from tests.recorded import policy_of
from tests.stored import execute, settings_for

if TYPE_CHECKING:
    from pathlib import Path


def test_the_most_specific_rules(database: Database) -> None:
    known = Senders(database)
    for pattern, rule in (
        (".example.net", "block"),
        ("news.example.net", "allow"),
        ("Eve@News.Example.NET", "block"),
    ):
        known.put(pattern, rule, "me")  # type: ignore[arg-type]  # both are rules
    for address, expected in (
        ("bob@example.net", None),
        ("bob@a.example.net", ("block", ".example.net")),
        ("bob@a.b.EXAMPLE.net", ("block", ".example.net")),
        ("bob@news.example.net", ("allow", "news.example.net")),
        ("eve@news.example.net", ("block", "eve@news.example.net")),
        ("", None),
        ("x" * 400 + "@a.example.net", None),
        ("\x1b[31m'; DROP TABLE senders; --", None),
    ):
        found = known.lookup(address, ())
        assert [(f.rule, f.pattern) for f in found] == ([expected] if expected else [])
    assert known.lookup("", ["a@news.example.net", "b@news.example.net"]) == (
        SenderRule("news.example.net", "allow", "author"),
    )


@pytest.mark.parametrize(
    "bad", ["@example.com", ".co.uk", ".example.com", "example.com", "", " ", '"a b"@c.example']
)
def test_a_sender_chooses_no_domain(bad: str) -> None:
    """Who is blocked at the press of a key wrote the sender: it must not be a rule about others."""
    with pytest.raises(StoreError, match=r"no (?:sender|address)"):
        of_message(bad)
    assert of_message("Eve@Example.NET") == "eve@example.net"


def test_changes_are_seen_soon_and_by_others(database: Database) -> None:
    mine, theirs = Senders(database), Senders(database)
    assert theirs.lookup("a@example.net", ()) == ()
    mine.put("example.net", "block", "me")
    mine.put("example.net", "allow", "me")
    end = time.monotonic() + 30
    while not theirs.lookup("a@example.net", ()) and time.monotonic() < end:
        time.sleep(0.05)
    assert [f.rule for f in theirs.lookup("a@example.net", ())] == ["allow"]
    assert mine.remove("example.net", "me")
    assert not mine.remove("example.net", "me")
    while theirs.lookup("a@example.net", ()) and time.monotonic() < end:
        time.sleep(0.05)
    assert theirs.lookup("a@example.net", ()) == ()


def test_changes_are_in_the_audit(database: Database) -> None:
    Senders(database).put("example.net", "block", "me", why="\x1b[31m spam", item="0" * 16)
    [event] = Quarantine(database).history("0" * 16)
    assert (event.who, event.action, event.why) == ("me", "sender blocked", "example.net ?[31m spam")


@pytest.mark.parametrize(
    "bad",
    ["", "com", "@", "a@", "@b", "a b@example.com", "a@b@c.org", "..", "a..b", "\x1b.com", "<a@b.org>",
     "x" * 400 + ".com", "*.example.com", "\u202ea.org"],
)  # fmt: skip
def test_what_is_no_sender(database: Database, bad: str) -> None:
    if bad == "*.example.com":  # a label may be anything else, and matches itself alone
        assert normal(bad) == bad
        return
    with pytest.raises(StoreError, match="no sender"):
        Senders(database).put(bad, "block", "me")


def test_patterns_are_bounded() -> None:
    assert patterns("a@b.example.com.") == ["a@b.example.com.", "b.example.com", ".example.com", ".com"]
    assert len(patterns("a@" + "x." * 150 + "com")) <= 42


def test_a_store_that_fails(database: Database) -> None:
    known, fresh = Senders(database), Senders(database)
    known.put("example.net", "block", "me")
    assert known.lookup("a@example.net", ())
    execute(database, "DROP TABLE senders")
    known._read = 0.0
    assert [f.rule for f in known.lookup("a@example.net", ())] == ["block"]  # what was known last
    assert [f.rule for f in fresh.lookup("a@example.net", ())] == ["error"]


# ---------------------------------------------------------------- policy


MAIL = Mail(
    "0" * 16,
    Session("192.0.2.1"),
    Envelope("a@example.net", ("b@example.com",)),
    b"From: a@example.net\r\nDate: x\r\nMessage-ID: <1@x>\r\nSubject: x\r\n\r\nHello\r\n",
)
_AUTHOR = SenderRule("example.net", "allow", "author")
_ENVELOPE = SenderRule("example.net", "allow", "envelope")
SPF, DMARC = (Spf("mailfrom", "example.net", "pass"),), Dmarc("pass", "example.net")


@pytest.mark.parametrize(
    ("rule", "evidence", "signal", "action"),
    [
        (SenderRule("example.net", "block", "author"), Evidence(), "SENDER_BLOCKED", Action.REJECT),
        (_AUTHOR, Evidence(), "SENDER_ALLOWED_UNPROVED", Action.RELAY),
        (_AUTHOR, Evidence(spf=SPF), "SENDER_ALLOWED_UNPROVED", Action.RELAY),
        (_AUTHOR, Evidence(dmarc=DMARC), "SENDER_ALLOWED", Action.RELAY),
        (_ENVELOPE, Evidence(spf=SPF), "SENDER_ALLOWED", Action.RELAY),
        (_ENVELOPE, Evidence(dmarc=DMARC), "SENDER_ALLOWED_UNPROVED", Action.RELAY),
        (SenderRule("", "error", "envelope", "locked"), Evidence(), "SENDER_BLOCKED", Action.RELAY),
    ],
)  # fmt: skip
def test_what_a_rule_means(rule: SenderRule, evidence: Evidence, signal: str, action: Action) -> None:
    policy = policy_of()
    signals = examine(MAIL, parse(MAIL.raw), replace(evidence, senders=(rule,)), None, policy)
    assert [s.name for s in signals if s.name.startswith("SENDER_")] == [signal]
    assert decide(signals, MAIL, policy, Versions("1", "p", "m")).action is action


# ---------------------------------------------------------------- command line


def test_commands(tmp_path: Path) -> None:
    context = SimpleNamespace(config=SimpleNamespace(store=settings_for(tmp_path)))

    def run(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(command, words, obj=context)
        return done.exit_code, done.output

    assert run("list") == (0, "There are none.\n")
    assert run("block", "example.net", "a@example.org", "--why", "spam")[0] == 0
    assert run("allow", "example.org")[0] == 0
    assert "a@example.org" in run("list")[1]
    assert '"rule": "allow"' in run("list", "--json")[1]
    assert run("remove", "example.org")[0] == 0
    assert run("remove", "example.org")[0] == 66
    assert run("block", "\x1b[31m")[0] == 65
