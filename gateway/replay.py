# SPDX-License-Identifier: GPL-2.0-or-later
"""Recorded messages judged again: what another policy would have made of the same signals.

Takes hostile text (addresses, subjects) from the journal; what an example keeps is printable. Pure:
no store, no network. Replayed is what `decide` does: weights, actions, thresholds, also those of
recipients, and what a release lifted. The signals are those of the record. Looking at a message again
(patterns, attachments, links, names, another model) would need its text, which the journal does not
keep; so a signal that the policy no longer has weighs nothing, and a new one is never seen. Both are
told, never guessed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

from gateway import __version__
from gateway.mail.headers import printable
from gateway.mail.types import ON_ITS_WAY, Action, Mail
from gateway.policy.decide import STRIPPED, decide
from gateway.store.states import State

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.mail.types import Outcome, Thresholds, Verdict
    from gateway.policy.rules import Policy
    from gateway.store.held import Item
    from gateway.store.journal import Record

Label = Literal["ham", "spam", ""]

FAILURE = "FAILURE"  # the reason of a message that could not be judged, see `pipeline.py`
THRESHOLDS = "thresholds"  # why a verdict changes where no signal is weighed otherwise
EXAMPLES = 5  # kept of each change
_SHOWN = 60  # characters of an example's texts
_SEVERITY = {action: severity for severity, action in enumerate(Action)}


class Change(StrEnum):
    """What changes for a recipient's copy of a message, worst first."""

    REJECTED = "newly rejected"
    DEFERRED = "newly deferred"
    HELD = "newly held"
    PASSED = "newly passed"
    TAGGED = "newly tagged"
    STRIPPED = "newly stripped"
    UNTAGGED = "no longer tagged"
    UNSTRIPPED = "no longer stripped"


@dataclass(frozen=True, slots=True)
class Example:
    """A message whose verdict changes. All texts are printable."""

    id: str
    received: float
    sender: str
    recipient: str  # the first whose copy changes
    subject: str
    old: Action
    new: Action
    old_score: float
    new_score: float
    label: Label
    because: tuple[str, ...]

    @property
    def rank(self) -> tuple[bool, int, float, str]:
        """Ascending from the worst: against a reviewer's word, then by severity and points."""
        stopped = self.new not in ON_ITS_WAY
        against = (self.label == "ham" and stopped) or (self.label == "spam" and not stopped)
        steps = (_SEVERITY[self.new] - _SEVERITY[self.old]) * (1 if stopped else -1)
        return not against, -steps, -abs(self.new_score - self.old_score), self.id


@dataclass(slots=True)
class Tally:
    """What a replay found, of a fixed size however many records there are. Goes to JSON and back."""

    records: int = 0
    identical: int = 0  # of all that `decide` gives, only the versions may differ
    rescored: int = 0  # the same happens for all recipients, for other points or another reason
    changed: int = 0  # something else happens for a recipient
    unjudged: int = 0  # deferred by a failure of ours, without signals
    unreadable: int = 0
    textless: int = 0  # without the text that another model would read
    copies: dict[str, dict[str, int]] = field(default_factory=dict)  # old action -> new -> recipients
    changes: dict[str, int] = field(default_factory=dict)  # messages by change
    causes: dict[str, dict[str, int]] = field(default_factory=dict)  # signal -> change -> messages
    known: dict[str, dict[str, int]] = field(default_factory=dict)  # label -> what became of them -> messages
    gone: dict[str, int] = field(default_factory=dict)  # signals without a weight -> messages
    policies: dict[str, int] = field(default_factory=dict)  # hash that judged them -> messages
    examples: dict[str, list[Example]] = field(default_factory=dict)  # by change, worst first

    def add(self, record: Record, policy: Policy, label: Label = "") -> None:
        """Judge `record` again by `policy` and count what changes."""
        self.compare(record, lambda: judge_again(record, policy), label)

    def add_shadow(self, record: Record, name: str, label: Label = "") -> None:
        """Count what the shadow `name` made of `record`, if it saw it."""
        shaded = next((one for one in record.shaded if one.name == name), None)
        if shaded is None:
            return
        if shaded.error:
            self.records += 1
            self.unjudged += 1
            return
        self.compare(record, lambda: (shaded.verdict or record.verdict, ()), label)

    def compare(
        self, record: Record, again: Callable[[], tuple[Verdict, tuple[str, ...]]], label: Label = ""
    ) -> None:
        """Count how the verdict that `again` gives differs; with it come signals that weigh nothing."""
        old = record.verdict
        if any(outcome.action is Action.LEARN for outcome in old.outcomes):
            return  # a report for the classifier, which no policy judged
        self.records += 1
        if old.reason == FAILURE and not old.contributions:
            self.unjudged += 1
            return
        if len(old.outcomes) != len(record.envelope.recipients):
            self.unreadable += 1
            return
        _count(self.policies, old.versions.policy)
        new, gone = again()
        for name in gone:
            _count(self.gone, name)
        changes: dict[Change, tuple[Outcome, Outcome]] = {}
        for before, after in zip(old.outcomes, new.outcomes, strict=True):
            _count(self.copies.setdefault(before.action, {}), after.action)
            if change := change_of(before.action, after.action):
                changes.setdefault(change, (before, after))
        if label:
            self._compare_with(label, old, new)
        if changes:
            self.changed += 1
            self._note(record, label, new, changes)
        elif identical(old, new):
            self.identical += 1
        else:
            self.rescored += 1

    def merge(self, other: Tally) -> None:
        """Add what another one counted."""
        for name in ("records", "identical", "rescored", "changed", "unjudged", "unreadable", "textless"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("changes", "gone", "policies"):
            setattr(self, name, dict(Counter(getattr(self, name)) + Counter(getattr(other, name))))
        for name in ("copies", "causes", "known"):
            mine = getattr(self, name)
            for key, counts in getattr(other, name).items():
                mine[key] = dict(Counter(mine.get(key, {})) + Counter(counts))
        for change, examples in other.examples.items():
            both = [*self.examples.get(change, ()), *examples]
            self.examples[change] = sorted(both, key=lambda e: e.rank)[:EXAMPLES]

    def _note(
        self, record: Record, label: Label, new: Verdict, changes: dict[Change, tuple[Outcome, Outcome]]
    ) -> None:
        for change, (before, after) in changes.items():
            causes = causes_of(record.verdict, new, before, after)
            _count(self.changes, change)
            for cause in causes:
                _count(self.causes.setdefault(cause, {}), change)
            example = Example(
                id=record.id,
                received=record.received,
                sender=printable(record.envelope.mail_from, _SHOWN),
                recipient=printable(after.recipient, _SHOWN),
                subject=printable(record.subject, _SHOWN),
                old=before.action,
                new=after.action,
                old_score=before.score,
                new_score=after.score,
                label=label,
                because=causes[:EXAMPLES],
            )
            worst = self.examples.setdefault(change, [])
            worst.append(example)
            worst.sort(key=lambda e: e.rank)
            del worst[EXAMPLES:]

    def _compare_with(self, label: Label, old: Verdict, new: Verdict) -> None:
        counts = self.known.setdefault(label, {"messages": 0, "stopped before": 0, "stopped after": 0})
        counts["messages"] += 1
        counts["stopped before"] += _stopped(old)
        counts["stopped after"] += _stopped(new)


def judge_again(record: Record, policy: Policy) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict on a record's signals by `policy`, and the names of those that it has no weight for."""
    known = tuple(s for s in record.signals if s.name in policy.weights)
    gone = tuple(dict.fromkeys(s.name for s in record.signals if s.name not in policy.weights))
    mail = Mail(record.id, record.session, record.envelope, b"", record.received, record.queue_id)
    lifted = record.evidence.release.lifted if record.evidence.release else ()
    versions = replace(record.verdict.versions, program=__version__, policy=policy.hash)
    return decide(known, mail, policy, versions, lifted), gone


def identical(old: Verdict, new: Verdict) -> bool:
    """Whether all that `decide` gives is equal, down to each contribution's text.

    The versions say who judged and not what was decided; edits and cuts are not made by `decide`.
    """
    return replace(new, edits=old.edits, cuts=old.cuts, versions=old.versions) == old


def change_of(old: Action, new: Action) -> Change | None:
    """What becomes of a copy otherwise than before; None if it is the same."""
    if old is new:
        return None
    if new in ON_ITS_WAY and old not in ON_ITS_WAY:
        return Change.PASSED
    if old is Action.STRIP and new in (Action.RELAY, Action.TAG):
        return Change.UNSTRIPPED
    return {
        Action.REJECT: Change.REJECTED,
        Action.DEFER: Change.DEFERRED,
        Action.QUARANTINE: Change.HELD,
        Action.TAG: Change.TAGGED,
        Action.STRIP: Change.STRIPPED,
        Action.RELAY: Change.UNTAGGED,
    }[new]


def causes_of(old: Verdict, new: Verdict, before: Outcome, after: Outcome) -> tuple[str, ...]:
    """Why one recipient's outcome changes: signals weighed otherwise, most points first, or "thresholds".

    Whichever of the two makes no difference here is left out.
    """
    weighed, weighs = _weighed(old), _weighed(new)
    nothing = (0.0, frozenset[Action | None]())

    def moved(name: str) -> float:
        return abs(weighs.get(name, nothing)[0] - weighed.get(name, nothing)[0])

    names = [n for n in {**weighed, **weighs} if weighed.get(n) != weighs.get(n)]
    names.sort(key=lambda n: (-moved(n), n))
    if before.thresholds == after.thresholds:
        return tuple(names)
    decides = {n: d for n, (_, d) in weighed.items()} != {n: d for n, (_, d) in weighs.items()}
    by_signals = decides or _level(before.score, before.thresholds) != _level(after.score, before.thresholds)
    by_thresholds = _level(after.score, before.thresholds) != _level(after.score, after.thresholds)
    return (*(names if by_signals or not by_thresholds else ()), *((THRESHOLDS,) if by_thresholds else ()))


def label_of(item: Item) -> Label:
    """What a reviewer said of a held message: released to its own recipient, or deleted.

    To delete the original of what was delivered without an attachment says nothing about it.
    """
    for recipient in item.recipients:
        if recipient.state is State.RELEASED and recipient.delivered_to.lower() == recipient.address.lower():
            return "ham"
    return "spam" if item.state is State.DELETED and STRIPPED not in item.reasons else ""


def _weighed(verdict: Verdict) -> dict[str, tuple[float, frozenset[Action | None]]]:
    """By name the points, and what it decides; patterns and signatures may come more than once."""
    found: dict[str, tuple[float, frozenset[Action | None]]] = {}
    for c in verdict.contributions:
        points, decides = found.get(c.name, (0.0, frozenset()))
        found[c.name] = (round(points + c.points, 3), decides | {c.decides})
    return found


def _level(score: float, thresholds: Thresholds) -> int:
    """How many of the thresholds a score reaches."""
    return sum(score >= points for points in (thresholds.tag, thresholds.quarantine, thresholds.reject))


def _stopped(verdict: Verdict) -> bool:
    return any(o.action not in ON_ITS_WAY for o in verdict.outcomes)


def _count(counts: dict[str, int], key: str) -> None:
    counts[key] = counts.get(key, 0) + 1
