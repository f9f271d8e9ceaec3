# SPDX-License-Identifier: GPL-2.0-or-later
"""What would have let a message pass: exact, smallest, and told in two sentences."""

from __future__ import annotations

import random
from itertools import chain, combinations
from typing import TYPE_CHECKING

import pytest

from gateway.data import data_dir
from gateway.mail.types import ON_ITS_WAY, Action, Contribution, Thresholds, Verdict, Versions
from gateway.policy.brief import brief, load
from gateway.policy.counterfactual import Answer, answers, words
from gateway.policy.decide import weigh
from gateway.policy.patterns import RuleError
from gateway.policy.signals import NAMES
from tests.recorded import policy_of, records

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

LIMITS = Thresholds(5.0, 8.0, 15.0)
WORDS = load(data_dir("rules"))


def verdict_of(contributions: Sequence[Contribution], *limits: Thresholds) -> Verdict:
    people = [(f"r{n}@example.com", limit) for n, limit in enumerate(limits or (LIMITS,))]
    score, forced, outcomes, action = weigh(contributions, people, answered=False)
    reason = forced.name if forced else "score"
    return Verdict(
        "0" * 16, action, outcomes, score, reason, "", tuple(contributions), (), Versions("1", "p", "m")
    )


def only(verdict: Verdict) -> Answer:
    [answer] = answers(verdict)
    return answer


def ways(verdict: Verdict) -> list[tuple[str, ...]]:
    return [way.without for way in only(verdict).ways]


def points(**given: float) -> list[Contribution]:
    return [Contribution(name, value) for name, value in given.items()]


def test_one_signal_too_many() -> None:
    verdict = verdict_of(points(A=6.5, B=3.0, C=-0.5))
    assert ways(verdict) == [("A",), ("B",)]
    assert [way.score for way in only(verdict).ways] == [2.5, 6.0]
    assert (only(verdict).forced, only(verdict).by_score) == ((), True)


def test_several_together() -> None:
    assert ways(verdict_of(points(A=4.0, B=4.0, C=4.0))) == [("A", "B"), ("A", "C"), ("B", "C")]


def test_exactly_at_the_threshold() -> None:
    """8.0 is held and 7.999 is not."""
    assert ways(verdict_of(points(A=8.0, B=0.001))) == [("A",)]
    assert ways(verdict_of(points(A=8.0, B=0.0))) == [("A",)]
    assert ways(verdict_of(points(A=7.999, B=0.001))) == [("A",), ("B",)]


def test_what_decides_by_itself() -> None:
    held = Contribution("VIRUS_LIMIT", 0.0, decides=Action.QUARANTINE)
    virus = Contribution("VIRUS", 0.0, decides=Action.REJECT)
    assert ways(verdict_of([held, *points(A=2.0)])) == [("VIRUS_LIMIT",)]
    assert ways(verdict_of([held, virus])) == [("VIRUS_LIMIT", "VIRUS")]
    assert ways(verdict_of([virus, *points(A=9.0, B=1.0)])) == [("VIRUS", "A")]
    deferred = verdict_of([Contribution("VIRUS", 0.0, decides=Action.DEFER, answered=False)])
    assert (only(deferred).action, ways(deferred)) == (Action.DEFER, [("VIRUS",)])
    tagged = verdict_of([Contribution("X", 0.0, decides=Action.TAG)])
    assert answers(tagged) == ()


def test_the_same_signal_twice_is_one() -> None:
    assert ways(verdict_of([*points(A=5.0), *points(A=4.0), *points(B=0.5)])) == [("A",)]


def test_recipients_with_other_thresholds() -> None:
    strict, lax = Thresholds(1.0, 2.0, 15.0), Thresholds(5.0, 50.0, 60.0)
    found = answers(verdict_of(points(A=6.0, B=3.0), strict, LIMITS, lax, strict))
    assert [(a.recipients, [w.without for w in a.ways]) for a in found] == [
        (("r0@example.com", "r3@example.com"), [("A", "B")]),
        (("r1@example.com",), [("A",), ("B",)]),
    ]


def test_a_threshold_that_stops_everything() -> None:
    answer = only(verdict_of(points(A=1.0), Thresholds(-9.0, -5.0, 15.0)))
    assert answer.ways == ()


def test_many_signals_are_bounded() -> None:
    verdict = verdict_of([Contribution(f"S{n}", 1.0) for n in range(60)])
    assert only(verdict).ways == () or all(len(w.without) >= 53 for w in only(verdict).ways)


def _subsets(names: Iterable[str]) -> Iterable[tuple[str, ...]]:
    names = list(names)
    return chain.from_iterable(combinations(names, n) for n in range(len(names) + 1))


def test_the_ways_are_those_that_trying_everything_finds() -> None:
    """Against all subsets: each way passes, nothing can be left out of it, and the smallest is among them."""
    chance = random.Random(7)
    for _ in range(150):
        made = [
            Contribution(
                f"S{n}",
                round(chance.uniform(-3, 6), 1),
                decides=chance.choice([None] * 8 + [Action.QUARANTINE, Action.TAG, Action.REJECT]),
            )
            for n in range(chance.randint(1, 7))
        ]
        verdict = verdict_of(made)

        def passes(without: Iterable[str], made: list[Contribution] = made) -> bool:
            gone = set(without)
            left = [c for c in made if c.name not in gone]
            return weigh(left, [("", LIMITS)], answered=False)[2][0].action in ON_ITS_WAY

        good = [frozenset(s) for s in _subsets(c.name for c in made) if passes(s)]
        for answer in answers(verdict):
            helpful = {c.name for c in made if c.points > 0 or c.decides not in (None, *ON_ITS_WAY)}
            smallest = min((len(s) for s in good if s <= helpful), default=None)
            found = [frozenset(w.without) for w in answer.ways]
            assert (len(found[0]) if found else None) == smallest
            for way in found:
                assert passes(way)
                assert not any(passes(way - {name}) for name in way)
            assert len(set(found)) == len(found)


def test_recorded_verdicts_come_out_as_recorded() -> None:
    """Weighing all contributions again gives the verdict's own outcomes, whatever the policy."""
    for record in records(
        300, policy_of(recipients=[{"recipients": ["example.org"], "tag": 1.0, "quarantine": 3.0}])
    ):
        verdict = record.verdict
        lifted = record.evidence.release.lifted if record.evidence.release else ()
        limits = [(o.recipient, o.thresholds) for o in verdict.outcomes]
        score, _, outcomes, action = weigh(verdict.contributions, limits, answered="score" in lifted)
        assert (score, outcomes, action) == (verdict.score, verdict.outcomes, verdict.action)
        stopped = {o.recipient for o in verdict.outcomes if o.action not in ON_ITS_WAY}
        assert {r for a in answers(verdict, lifted) for r in a.recipients} == stopped


# ---------------------------------------------------------------- the classifier's words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "probability 0.9971: word “free” +0.81, word “a, b” -0.20",
            [("word “free”", 0.81), ("word “a, b”", -0.2)],
        ),
        ("probability 0.5000", []),
        ("probability 0.9: odd", None),
        ("no model could answer", None),
    ],
)
def test_words(text: str, found: list[tuple[str, float]] | None) -> None:
    told = words(verdict_of([Contribution("CLASSIFIER", 6.0, text)]))
    assert (list(told.words) if told else None) == found


# ---------------------------------------------------------------- two sentences


def sentences(text: str) -> int:
    return text.count(". ") + text.endswith(".")


@pytest.mark.parametrize(
    ("contributions", "says"),
    [
        (points(CLASSIFIER=9.0), "held back because its text reads like spam. But for that"),
        (
            points(CLASSIFIER=4.0, SPF_FAIL=4.0, EMPTY=1.5, PDF_JAVASCRIPT=1.5, URL_IP=1.5),
            "reads like spam and it came from a server that its",
        ),
        ([Contribution("VIRUS", 0.0, decides=Action.QUARANTINE)], "carries malware. It is not released"),
        (
            [Contribution("VIRUS", 0.0, decides=Action.QUARANTINE, answered=False)],
            "could not be checked for malware. But for that",
        ),
        ([Contribution("VIRUS", 0.0, decides=Action.REJECT)], "refused because it carries malware"),
        ([Contribution("VIRUS", 0.0, decides=Action.DEFER, answered=False)], "put off because it could not"),
        (points(CLASSIFIER=5.5), "delivered and marked as possible spam because its text"),
        ([], "delivered because nothing"),
        (points(A=2.0, SPF=2.0, DKIM=2.0, URL=2.0, EMPTY=2.0, PDF=2.0), "refused|held back"),
    ],
)
def test_brief(contributions: list[Contribution], says: str) -> None:
    told = brief(WORDS, verdict_of(contributions))
    assert any(one in told for one in says.split("|"))
    assert sentences(told) == 2
    assert "{" not in told


def test_brief_for_one_recipient() -> None:
    verdict = verdict_of(points(CLASSIFIER=6.0), Thresholds(1.0, 2.0, 15.0), LIMITS)
    assert "held back" in brief(WORDS, verdict, recipient="r0@example.com")
    assert "marked" in brief(WORDS, verdict, recipient="r1@example.com")


def test_every_signal_has_a_phrase_of_its_own() -> None:
    odd = {name for name in NAMES if WORDS.phrase(name) == WORDS.phrases["*"]}
    assert odd <= {"DATE_MISSING", "MESSAGE_ID_MISSING", "SUBJECT_MISSING", "NULL_SENDER_SEVERAL"}


def test_words_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RuleError, match=r"words\.xx\.toml"):
        load(tmp_path, "xx")
    (tmp_path / "words.en.toml").write_text("[sentences]\n", "utf-8")
    with pytest.raises(RuleError):
        load(tmp_path)
