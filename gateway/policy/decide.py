# SPDX-License-Identifier: GPL-2.0-or-later
"""From signals to a verdict: weights, thresholds, per-recipient policy. Pure: replay calls it too."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gateway.mail.types import ON_ITS_WAY, Action, Contribution, Outcome, Signal, Verdict, Versions
from gateway.policy.strip import UNSAFE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gateway.mail.types import Mail, Thresholds
    from gateway.policy.rules import Policy

SCORE = "score"  # the reason of a verdict that no signal forced
STRIPPED = "STRIPPED"  # a reason for which a message is kept: it went on without some of its attachments
UNANSWERED = ":error"  # behind a signal's name: held because its question had no answer
_SEVERITY = {action: severity for severity, action in enumerate(Action)}


def decide(
    signals: Iterable[Signal], mail: Mail, policy: Policy, versions: Versions, lifted: Iterable[str] = ()
) -> Verdict:
    """Weigh `signals` and say what happens to `mail`, recipient by recipient.

    `lifted` names signals that a reviewer has answered by a release: they are listed without
    weight. A failed question ("error") acts as `on_error` says and never as a good answer; what
    was held for it and released is not held for it again.
    """
    answered = frozenset(lifted)
    contributions = tuple(_weigh(signal, policy, answered) for signal in signals)
    if any(c.name == UNSAFE for c in contributions):
        # What cannot be cut out may not go on.
        contributions = tuple(
            replace(c, decides=Action.QUARANTINE) if c.decides is Action.STRIP else c for c in contributions
        )
    limits = [(recipient, policy.thresholds_for(recipient)) for recipient in mail.envelope.recipients]
    score, forced, outcomes, action = weigh(contributions, limits, answered=SCORE in answered)
    decisive = forced is not None and (
        forced.decides is action or any(o.action is forced.decides for o in outcomes)
    )
    return Verdict(
        id=mail.id,
        action=action,
        outcomes=outcomes,
        score=score,
        reason=forced.name if decisive and forced else SCORE,
        reason_text=forced.text if decisive and forced else "",
        contributions=contributions,
        edits=(),
        versions=versions,
    )


def weigh(
    contributions: Sequence[Contribution], limits: Iterable[tuple[str, Thresholds]], *, answered: bool
) -> tuple[float, Contribution | None, tuple[Outcome, ...], Action]:
    """The score, what forces an action, the outcomes, and the action that the client is told.

    `limits` are the recipients with their thresholds; `answered` says that a release answered the score.
    """
    score = round(sum(c.points for c in contributions), 3)
    forced = max((c for c in contributions if c.decides), key=lambda c: _SEVERITY[c.decides], default=None)  # type: ignore[index]  # filtered
    outcomes = tuple(
        _outcome(recipient, score, thresholds, forced, answered=answered) for recipient, thresholds in limits
    )
    return score, forced, *_settle(outcomes)


def _weigh(signal: Signal, policy: Policy, answered: frozenset[str]) -> Contribution:
    weight = policy.weights[signal.name]
    if signal.state == "error":
        # Whoever was held for want of an answer and released must not be held for it again.
        held_before = weight.on_error is Action.QUARANTINE and signal.name + UNANSWERED in answered
        decides = None if held_before else weight.on_error
        return Contribution(signal.name, 0.0, f"not answered: {signal.text}", decides, answered=False)
    if signal.name in answered:
        return Contribution(signal.name, 0.0, f"answered by release: {signal.text}")
    return Contribution(signal.name, round(weight.points(signal.value), 3), signal.text, weight.action)


def _outcome(
    recipient: str, score: float, thresholds: Thresholds, forced: Contribution | None, *, answered: bool
) -> Outcome:
    """Take the more severe of what the score asks for and what a signal forces."""
    action = Action.RELAY
    if score >= thresholds.tag:
        action = Action.TAG
    # A message that was held for its score and released goes on whatever its score is now.
    if not answered:
        if score >= thresholds.quarantine:
            action = Action.QUARANTINE
        if score >= thresholds.reject:
            action = Action.REJECT
    if forced and forced.decides and _SEVERITY[forced.decides] > _SEVERITY[action]:
        action = forced.decides
    return Outcome(recipient, action, score, thresholds)


def _settle(outcomes: tuple[Outcome, ...]) -> tuple[tuple[Outcome, ...], Action]:
    """Make outcomes that one reply after DATA can express.

    Deferring defers for all. A rejection for some recipients only cannot be said to the client,
    so their copies are held instead: nothing is lost, and the others get their mail.
    """
    actions = {o.action for o in outcomes}
    if actions == {Action.REJECT}:
        return outcomes, Action.REJECT
    if Action.DEFER in actions or not actions:
        return tuple(
            Outcome(o.recipient, Action.DEFER, o.score, o.thresholds) for o in outcomes
        ), Action.DEFER
    outcomes = tuple(
        Outcome(o.recipient, Action.QUARANTINE, o.score, o.thresholds) if o.action is Action.REJECT else o
        for o in outcomes
    )
    going = [o.action for o in outcomes if o.action in ON_ITS_WAY]
    return outcomes, max(going, key=lambda action: _SEVERITY[action], default=Action.QUARANTINE)


def reasons(verdict: Verdict) -> tuple[str, ...]:
    """All that a message is kept for: each signal that forces it, and "score" if that suffices."""
    forcing = [
        c.name if c.answered else c.name + UNANSWERED
        for c in verdict.contributions
        if c.decides in (Action.STRIP, Action.QUARANTINE, Action.REJECT)
    ]
    if any(o.score >= o.thresholds.quarantine for o in verdict.outcomes):
        forcing.append(SCORE)
    if verdict.stripped:
        forcing.append(STRIPPED)
    return tuple(dict.fromkeys(forcing))
