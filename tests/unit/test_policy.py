# SPDX-License-Identifier: GPL-2.0-or-later
"""Policy: from signals to a verdict, and from `rules/` and settings to a policy that can be trusted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.data import data_dir
from gateway.mail.types import Action, Envelope, Mail, Session, Signal, Thresholds, Verdict, Versions
from gateway.policy import rules
from gateway.policy.attachments import AttachmentRules
from gateway.policy.authorship import Authors
from gateway.policy.decide import SCORE, decide, reasons
from gateway.policy.links import LinkRules
from gateway.policy.lookalikes import Lookalikes
from gateway.policy.patterns import Patterns
from gateway.policy.rules import Policy, PolicySettings, Weight
from gateway.policy.strip import Note

VERSIONS = Versions("1", "policy", "model")
USUAL = Thresholds(5.0, 8.0, 15.0)
STRICT = Thresholds(1.0, 2.0, 3.0)
LENIENT = Thresholds(50.0, 60.0, 70.0)
BOB, STRICT_ONE, LENIENT_ONE = "bob@example.com", "sue@strict.example.com", "lou@lenient.example.com"


def weight(points: float = 0.0, action: str = "", on_error: str = "") -> Weight:
    """A weight as `rules.load` makes it."""
    return Weight(
        description="for a test",
        curve=((-1000.0, -1000.0 * points), (1000.0, 1000.0 * points)),
        action=Action(action) if action else None,
        on_error=Action(on_error) if on_error else None,
    )


POLICY = Policy(
    hash="0" * 12,
    weights={
        "POINT": weight(1.0),
        "GOOD": weight(-2.0),
        "TAGS": weight(0.0, "tag"),
        "HOLDS": weight(0.0, "quarantine"),
        "DEFERS": weight(0.0, "defer"),
        "REJECTS": weight(4.0, "reject"),
        "IGNORED": weight(1.0),
        "TAGGED_ON_ERROR": weight(100.0, on_error="tag"),
        "HELD_ON_ERROR": weight(100.0, "reject", "quarantine"),
        "DEFERRED_ON_ERROR": weight(100.0, "reject", "defer"),
    },
    thresholds=USUAL,
    recipients={"strict.example.com": STRICT, "lenient.example.com": LENIENT},
    patterns=Patterns(()),
    attachments=AttachmentRules(
        order=(),
        extensions={},
        types={},
        declared={},
        documents=frozenset(),
        running=frozenset(),
        programs=frozenset(),
        binary=frozenset(),
    ),
    links=LinkRules(),
    authors=Authors(own=Lookalikes()),
    note=Note(text="{parts} {id}", part="{name}: {why}", more="{count}", unnamed="?", other="no", why={}),
    spam_headers="all",
    subject_tag="",
)


def verdict_of(
    signals: list[Signal], recipients: tuple[str, ...] = (BOB,), lifted: tuple[str, ...] = ()
) -> Verdict:
    """What POLICY makes of these signals."""
    mail = Mail("0" * 16, Session(), Envelope("alice@example.net", recipients), b"")
    return decide(signals, mail, POLICY, VERSIONS, lifted)


def hit(name: str, value: float = 1.0) -> Signal:
    return Signal(name, "seen", value)


def error(name: str) -> Signal:
    return Signal(name, "no answer", state="error")


# ---------------------------------------------------------------- decide


@pytest.mark.parametrize(
    ("score", "action"),
    [
        (-100.0, "relay"),
        (0.0, "relay"),
        (4.999, "relay"),
        (5.0, "tag"),
        (7.999, "tag"),
        (8.0, "quarantine"),
        (14.999, "quarantine"),
        (15.0, "reject"),
        (1000.0, "reject"),
    ],
)
def test_thresholds(score: float, action: str) -> None:
    """A threshold belongs to the severer side."""
    verdict = verdict_of([hit("POINT", score)])
    assert verdict.action.value == action
    assert verdict.score == score
    assert verdict.reason == SCORE


@pytest.mark.parametrize(
    ("signals", "action", "reason"),
    [
        ([], "relay", SCORE),
        ([hit("TAGS")], "tag", "TAGS"),
        ([hit("HOLDS")], "quarantine", "HOLDS"),
        ([hit("DEFERS")], "defer", "DEFERS"),
        ([hit("REJECTS")], "reject", "REJECTS"),
        # The severest of several; of equals the first.
        ([hit("TAGS"), hit("HOLDS")], "quarantine", "HOLDS"),
        ([hit("REJECTS"), hit("DEFERS")], "reject", "REJECTS"),
        ([hit("HELD_ON_ERROR"), hit("REJECTS")], "reject", "HELD_ON_ERROR"),
        # A signal that decides is not outweighed by good ones, and its points count as well.
        ([hit("HOLDS"), hit("GOOD", 1000.0)], "quarantine", "HOLDS"),
        ([hit("REJECTS"), hit("POINT", 1.0)], "reject", "REJECTS"),
        # The score may be severer than what a signal forces.
        ([hit("TAGS"), hit("POINT", 9.0)], "quarantine", SCORE),
        ([hit("HOLDS"), hit("POINT", 15.0)], "reject", SCORE),
        # A question without an answer acts as on_error says, and brings no points.
        ([error("IGNORED")], "relay", SCORE),
        ([error("TAGGED_ON_ERROR")], "tag", "TAGGED_ON_ERROR"),
        ([error("HELD_ON_ERROR")], "quarantine", "HELD_ON_ERROR"),
        ([error("DEFERRED_ON_ERROR")], "defer", "DEFERRED_ON_ERROR"),
        ([error("DEFERRED_ON_ERROR"), hit("GOOD", 1000.0)], "defer", "DEFERRED_ON_ERROR"),
        ([error("DEFERRED_ON_ERROR"), hit("REJECTS")], "reject", "REJECTS"),
    ],
)
def test_forced(signals: list[Signal], action: str, reason: str) -> None:
    """Signals that decide by themselves, and questions that were not answered."""
    verdict = verdict_of(signals)
    assert (verdict.action.value, verdict.reason) == (action, reason)
    assert [c.name for c in verdict.contributions] == [s.name for s in signals]
    assert all(
        c.points == 0.0 for c, s in zip(verdict.contributions, signals, strict=True) if s.state == "error"
    )


@pytest.mark.parametrize(
    ("score", "recipients", "actions", "action"),
    [
        (1.5, (BOB, STRICT_ONE), ("relay", "tag"), "tag"),
        (2.5, (BOB, STRICT_ONE), ("relay", "quarantine"), "relay"),
        (6.0, (BOB, STRICT_ONE), ("tag", "quarantine"), "tag"),  # rejected for one: held
        (9.0, (BOB, STRICT_ONE), ("quarantine", "quarantine"), "quarantine"),
        (9.0, (LENIENT_ONE, BOB, STRICT_ONE), ("relay", "quarantine", "quarantine"), "relay"),
        (20.0, (LENIENT_ONE, BOB), ("relay", "quarantine"), "relay"),
        (20.0, (BOB, STRICT_ONE), ("reject", "reject"), "reject"),
        (20.0, (BOB, BOB), ("reject", "reject"), "reject"),
    ],
)
def test_recipients_differ(
    score: float, recipients: tuple[str, ...], actions: tuple[str, ...], action: str
) -> None:
    """One reply serves all recipients, and nobody's copy is lost for it."""
    verdict = verdict_of([hit("POINT", score)], recipients)
    assert tuple(o.action.value for o in verdict.outcomes) == actions
    assert tuple(o.recipient for o in verdict.outcomes) == recipients
    assert verdict.action.value == action


def test_deferred_for_one_is_deferred_for_all() -> None:
    verdict = verdict_of([error("DEFERRED_ON_ERROR"), hit("POINT", 2.5)], (LENIENT_ONE, STRICT_ONE))
    assert {o.action for o in verdict.outcomes} == {Action.DEFER}
    # Rejected for one, deferred for the other: who is deferred comes again.
    verdict = verdict_of([error("DEFERRED_ON_ERROR"), hit("POINT", 3.5)], (LENIENT_ONE, STRICT_ONE))
    assert {o.action for o in verdict.outcomes} == {verdict.action} == {Action.DEFER}


def test_no_recipient_is_never_clean() -> None:
    assert verdict_of([], ()).action is Action.DEFER


def test_lifted() -> None:
    """What a reviewer has answered has no weight any more; anything else has."""
    verdict = verdict_of([hit("HOLDS"), hit("POINT", 9.0)], lifted=("HOLDS", SCORE))
    assert verdict.action is Action.TAG  # it still scores, and is marked for that
    assert verdict_of([hit("HOLDS")], lifted=("HOLDS",)).action is Action.RELAY
    assert verdict_of([hit("HOLDS"), hit("POINT", 9.0)], lifted=("HOLDS",)).action is Action.QUARANTINE
    assert verdict_of([hit("HOLDS"), hit("POINT", 9.0)], lifted=(SCORE,)).action is Action.QUARANTINE
    assert verdict_of([hit("HOLDS"), hit("REJECTS")], lifted=("HOLDS", SCORE)).action is Action.REJECT
    assert verdict_of([hit("POINT", 20.0)], lifted=(SCORE,)).action is Action.TAG


def test_lifted_question() -> None:
    """A message held because nobody could answer is not held again for that; it is deferred still."""
    assert verdict_of([error("HELD_ON_ERROR")], lifted=("HELD_ON_ERROR:error",)).action is Action.RELAY
    assert (
        verdict_of([error("DEFERRED_ON_ERROR")], lifted=("DEFERRED_ON_ERROR:error",)).action is Action.DEFER
    )


def test_an_unanswered_question_lifts_no_answer() -> None:
    """Held unscanned and released: an infection found on the way back still counts."""
    assert verdict_of([hit("HOLDS")], lifted=("HOLDS:error",)).action is Action.QUARANTINE
    assert verdict_of([error("HELD_ON_ERROR")], lifted=("HELD_ON_ERROR",)).action is Action.QUARANTINE


def test_reasons() -> None:
    """All that a release must lift."""
    assert reasons(verdict_of([hit("HOLDS")])) == ("HOLDS",)
    assert reasons(verdict_of([hit("HOLDS"), hit("HOLDS"), hit("TAGS")])) == ("HOLDS",)
    assert reasons(verdict_of([hit("HOLDS"), hit("POINT", 9.0)])) == ("HOLDS", SCORE)
    assert reasons(verdict_of([hit("POINT", 2.5)], (BOB, STRICT_ONE))) == (SCORE,)
    assert reasons(verdict_of([error("HELD_ON_ERROR")])) == ("HELD_ON_ERROR:error",)
    assert reasons(verdict_of([hit("TAGS")])) == ()


names = st.sampled_from(sorted(POLICY.weights))
any_signals = st.lists(
    st.builds(
        Signal,
        name=names,
        text=st.just("x"),
        value=st.floats(-5, 5),
        state=st.sampled_from(("hit", "error")),
    ),
    max_size=8,
)
any_recipients = st.lists(st.sampled_from((BOB, STRICT_ONE, LENIENT_ONE)), min_size=1, max_size=4).map(tuple)


@given(any_signals, any_recipients)
def test_verdicts_hold_together(signals: list[Signal], recipients: tuple[str, ...]) -> None:
    """Every recipient has one outcome, and the action says what these allow."""
    verdict = verdict_of(signals, recipients)
    assert tuple(o.recipient for o in verdict.outcomes) == recipients
    actions = {o.action for o in verdict.outcomes}
    if Action.REJECT in actions or Action.DEFER in actions:
        assert actions == {verdict.action}
    elif Action.TAG in actions:
        assert verdict.action is Action.TAG
    elif Action.RELAY in actions:
        assert verdict.action is Action.RELAY
    else:
        assert verdict.action is Action.QUARANTINE
    # What is held can be released: its reasons are known, and lifting them lets it go.
    if verdict.held and len(recipients) == 1:
        again = verdict_of(signals, recipients, reasons(verdict))
        assert again.held == ()


@given(any_signals, any_recipients, names)
def test_an_error_never_helps(signals: list[Signal], recipients: tuple[str, ...], name: str) -> None:
    """A question without an answer may make things severer, never milder than if it was not asked."""
    severity = {action: n for n, action in enumerate((Action.RELAY, Action.TAG, Action.QUARANTINE))}
    before = verdict_of(signals, recipients)
    after = verdict_of([*signals, error(name)], recipients)
    assert after.score == before.score
    for old, new in zip(before.outcomes, after.outcomes, strict=True):
        if new.action not in (Action.DEFER, Action.REJECT) and old.action not in (
            Action.DEFER,
            Action.REJECT,
        ):
            assert severity[new.action] >= severity[old.action]
        elif new.action in severity:
            # A rejection for all may become a hold only where another copy goes on.
            assert old.action in severity


# ---------------------------------------------------------------- weights


@pytest.mark.parametrize(
    ("value", "points"),
    [(-1.0, -2.0), (0.0, -2.0), (0.25, -0.5), (0.5, 1.0), (0.75, 5.0), (1.0, 9.0), (2.0, 9.0)],
)
def test_curve(value: float, points: float) -> None:
    """Straight lines between the corners, flat outside."""
    curve = Weight("", ((0.0, -2.0), (0.5, 1.0), (1.0, 9.0)), None, None)
    assert curve.points(value) == points
    assert Weight("", (), None, None).points(value) == 0.0


def test_thresholds_for() -> None:
    """An address goes before its domain, in any case; a domain is not its subdomains."""
    settings = PolicySettings(
        recipients=(
            rules.RecipientPolicy(recipients=("Example.COM", "@other.example"), tag=1.0),
            rules.RecipientPolicy(recipients=("Bob@example.com",), tag=2.0),
            rules.RecipientPolicy(recipients=("other.example",), tag=3.0),
        )
    )
    policy = rules.load(data_dir("rules"), settings)
    assert policy.thresholds_for("alice@EXAMPLE.com").tag == 1.0
    assert policy.thresholds_for("BOB@example.com").tag == 2.0
    assert policy.thresholds_for("x@other.example").tag == 3.0  # of several the last
    assert policy.thresholds_for("x@sub.example.com") == policy.thresholds
    assert policy.thresholds_for("postmaster") == policy.thresholds
