# SPDX-License-Identifier: GPL-2.0-or-later
"""Other policies and models beside the live one: what they would have made of each message.

Reads what the live judgement has read; asks nobody. A shadow looks again only where its rules see
otherwise than the live ones, and scores again only where it has a model of its own; else it weighs the
same signals, which costs some microseconds. Whatever goes wrong in one is a text in the record, and never
the message's concern. A verdict that is the live one again is recorded as "same".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import msgspec

from gateway import __version__
from gateway.classifier.stored import trace
from gateway.mail.headers import printable
from gateway.mail.shaded import Shaded
from gateway.mail.types import Versions
from gateway.policy.decide import decide
from gateway.policy.examine import Spam, examine
from gateway.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.classifier.model import Classifier
    from gateway.mail.types import Content, Evidence, Mail, Signal, Verdict
    from gateway.policy.rules import Policy


Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,30}\Z")]


class ShadowSettings(Settings, frozen=True):
    """A configuration whose policy and model are tried on live mail, and only recorded."""

    # Name, for `mailwarden shadow report`.
    name: Name
    # A whole configuration, as for `mailwarden replay --config`: of it [policy], [classifier], domains and
    # trusted_forwarders count here.
    file: str
    # A directory in place of the shipped rules/; "" takes those.
    rules: str = ""


@dataclass(frozen=True, slots=True)
class Shadow:
    """A policy beside the live one. `looks`: its rules see otherwise; `classifier`: a model of its own."""

    name: str
    policy: Policy
    looks: bool
    classifier: Classifier | None = None

    @property
    def versions(self) -> tuple[str, str]:
        """Hash of the policy, and version of the model, "" if that is the live one."""
        return self.policy.hash, self.classifier.version if self.classifier else ""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the live judgement saw. `words` is the content as the classifier read it."""

    mail: Mail
    content: Content
    words: Content
    evidence: Evidence
    spam: Spam | None
    signals: tuple[Signal, ...]
    verdict: Verdict  # as it was decided, before anything was cut or edited


def shade(shadows: Sequence[Shadow], seen: Seen) -> tuple[Shaded, ...]:
    """What each of the shadows makes of a message; never raises."""
    return tuple(_shade(shadow, seen) for shadow in shadows)


def _shade(shadow: Shadow, seen: Seen) -> Shaded:
    try:
        verdict = _verdict(shadow, seen)
    except Exception as error:  # noqa: BLE001  # whatever it is, the message must not hear of it
        return Shaded(shadow.name, None, printable(repr(error), 200))
    same = replace(verdict, versions=seen.verdict.versions) == seen.verdict
    return Shaded(shadow.name, None if same else verdict, "", *shadow.versions)


def _verdict(shadow: Shadow, seen: Seen) -> Verdict:
    policy, evidence = shadow.policy, seen.evidence
    spam = seen.spam if shadow.classifier is None else _scored(shadow.classifier, seen)
    signals = seen.signals
    if shadow.looks or spam is not seen.spam:
        signals = examine(seen.mail, seen.content, evidence, spam, policy)
    known = tuple(signal for signal in signals if signal.name in policy.weights)
    lifted = evidence.release.lifted if evidence.release else ()
    model = shadow.classifier.version if shadow.classifier else seen.verdict.versions.model
    return decide(known, seen.mail, policy, Versions(__version__, policy.hash, model), lifted)


def _scored(classifier: Classifier, seen: Seen) -> Spam | None:
    session = seen.mail.session
    client = trace(session.helo, session.client_name, session.client_ip)
    score = classifier.score(seen.mail.raw, seen.words, client, seen.mail.envelope.recipients)
    return None if score is None else Spam(score.cautious, score.reasons)
