# SPDX-License-Identifier: GPL-2.0-or-later
"""What decided a verdict, and the smallest sets of signals without which a copy would have passed.

Pure, and made of the record alone: the verdict's own contributions and thresholds, weighed again by the
function that `decide` uses, so that each answer is exact. Whatever forces an action must be absent from any
way to pass; of the rest those sets are given from which nothing can be left out, the smallest first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Final

from gateway.mail.types import ON_ITS_WAY
from gateway.policy.decide import SCORE, weigh

if TYPE_CHECKING:
    from collections.abc import Collection

    from gateway.mail.types import Action, Outcome, Thresholds, Verdict

WAYS: Final = 5  # sets that are given
_TRIES: Final = 20_000  # sets that are weighed
_CLASSIFIER: Final = "CLASSIFIER"
_WORD = re.compile(r"(.+?) ([+-]\d+\.\d\d)(?:, |$)")
_PROBABILITY = re.compile(r"probability (\d\.\d{4})(?:: )?")


@dataclass(frozen=True, slots=True)
class Way:
    """Signals without which the copy would have passed, none of which can be left out."""

    without: tuple[str, ...]  # most points first
    score: float  # what is left


@dataclass(frozen=True, slots=True)
class Answer:
    """Why the copies of these recipients were stopped, and what would have let them pass."""

    recipients: tuple[str, ...]
    action: Action
    thresholds: Thresholds
    forced: tuple[str, ...]  # signals that decide by themselves
    by_score: bool  # the score alone would have stopped it as well
    ways: tuple[Way, ...]


@dataclass(frozen=True, slots=True)
class Words:
    """The classifier's part: its probability, and what weighed for spam (positive) and for ham."""

    probability: float
    words: tuple[tuple[str, float], ...]


def answers(verdict: Verdict, lifted: Collection[str] = ()) -> tuple[Answer, ...]:
    """One answer for each group of stopped recipients that have the same outcome and thresholds.

    `lifted` is what a release had answered (`Evidence.release`).
    """
    groups: dict[tuple[Action, Thresholds], list[Outcome]] = {}
    for outcome in verdict.outcomes:
        if outcome.action not in ON_ITS_WAY:
            groups.setdefault((outcome.action, outcome.thresholds), []).append(outcome)
    case = _Case(verdict, answered=SCORE in lifted)
    return tuple(
        Answer(
            tuple(o.recipient for o in outcomes),
            action,
            limits,
            case.forced,
            not case.answered and verdict.score >= limits.quarantine,
            case.ways(limits),
        )
        for (action, limits), outcomes in groups.items()
    )


def words(verdict: Verdict) -> Words | None:
    """The words behind the classifier's part as the record has them; None if it said nothing."""
    for contribution in verdict.contributions:
        if contribution.name == _CLASSIFIER and contribution.answered:
            found = _PROBABILITY.search(contribution.text)
            if found:
                rest = contribution.text[found.end() :]
                return Words(float(found[1]), tuple((w[1], float(w[2])) for w in _WORD.finditer(rest)))
    return None


class _Case:
    """One verdict, weighed again without some of its signals."""

    def __init__(self, verdict: Verdict, *, answered: bool) -> None:
        self.answered = answered
        self._contributions = verdict.contributions
        points: dict[str, float] = {}
        for one in verdict.contributions:
            points[one.name] = round(points.get(one.name, 0.0) + one.points, 3)
        stops = dict.fromkeys(
            c.name for c in verdict.contributions if c.decides is not None and c.decides not in ON_ITS_WAY
        )
        self.forced = tuple(stops)
        helpful = [name for name, given in points.items() if given > 0 and name not in stops]
        self._points = points
        self._rest = sorted(helpful, key=lambda name: (-points[name], name))

    def ways(self, limits: Thresholds) -> tuple[Way, ...]:
        """The smallest sets, those with the most points first among equals."""
        found: list[frozenset[str]] = []
        tries = 0
        for size in range(len(self._rest) + 1):
            for chosen in combinations(self._rest, size):
                tries += 1
                if tries > _TRIES or len(found) >= WAYS:
                    return tuple(self._way(one, limits) for one in found)
                more = frozenset(chosen)
                if not any(one <= more for one in found) and self._passes(more, limits):
                    found.append(more)
            if found and not size:
                break  # what forces it is all there is to it
        return tuple(self._way(one, limits) for one in found)

    def _without(self, more: Collection[str], limits: Thresholds) -> tuple[float, Action]:
        left = [c for c in self._contributions if c.name not in self.forced and c.name not in more]
        score, _, outcomes, _ = weigh(left, [("", limits)], answered=self.answered)
        return score, outcomes[0].action

    def _passes(self, more: Collection[str], limits: Thresholds) -> bool:
        return self._without(more, limits)[1] in ON_ITS_WAY

    def _way(self, more: Collection[str], limits: Thresholds) -> Way:
        names = (*self.forced, *sorted(more, key=lambda name: (-self._points[name], name)))
        return Way(names, self._without(more, limits)[0])
