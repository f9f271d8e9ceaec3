# SPDX-License-Identifier: GPL-2.0-or-later
"""The story of a message, for both doors: read this first.

`judge` turns a received message into a verdict and keeps what the verdict promises before
anybody is told; `admit` is its cheap sibling before DATA. Both are called from threads.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from gateway import __version__, log
from gateway.auth.outgoing import Signing, signed
from gateway.classifier.stored import trace
from gateway.feedback.reported import reporter
from gateway.gather import gather
from gateway.mail.headers import printable
from gateway.mail.mime import parse
from gateway.mail.types import Action, Evidence, Mail, Outcome, Text, Thresholds, Verdict, Versions, new_id
from gateway.policy.annotate import annotate
from gateway.policy.decide import decide, reasons
from gateway.policy.examine import Spam, examine, seen_in
from gateway.policy.strip import cut
from gateway.reply import failure, reply_to, storage_failure
from gateway.shadow import Seen, shade
from gateway.store.database import StoreError
from gateway.store.states import UNDELIVERED
from gateway.tls.inbound import check

if TYPE_CHECKING:
    from gateway.classifier.model import Classifier
    from gateway.digest.answers import Inbox
    from gateway.gather import Sources
    from gateway.log import Log
    from gateway.mail.mime import MimeLimits
    from gateway.mail.shaded import Shaded
    from gateway.mail.types import Content, Reply, Session, Signal
    from gateway.metrics import Counters
    from gateway.policy.rules import Policy
    from gateway.reports.observe import Observer
    from gateway.shadow import Shadow
    from gateway.store.journal import Journal
    from gateway.store.quarantine import Quarantine
    from gateway.tls.inbound import InboundTlsRule

FEW_WORDS = 200  # characters of its own up to which a message is read by its documents


@dataclass(frozen=True, slots=True)
class Gateway:
    """What judging needs, built once in each process."""

    authserv_id: str
    deadline: float  # seconds for all evidence about one message
    limits: MimeLimits
    sources: Sources
    classifier: Classifier | None  # None: no model could be loaded
    policy: Policy
    tls_rules: tuple[InboundTlsRule, ...]
    signing: Signing
    quarantine: Quarantine | None  # None: nothing is kept (`mailwarden scan`)
    journal: Journal | None
    counters: Counters
    log: Log
    observer: Observer | None = None  # None: no DMARC reports
    shadows: tuple[Shadow, ...] = ()
    reports: Inbox | None = None  # None: no address takes reports about mail, or answers to digests


class Judgement(NamedTuple):
    """A verdict with all that led to it."""

    content: Content
    evidence: Evidence
    signals: tuple[Signal, ...]
    verdict: Verdict
    shaded: tuple[Shaded, ...] = ()  # what shadows make of it


# ---------------------------------------------------------------- the story


def judge(mail: Mail, gateway: Gateway, door: str) -> Verdict:
    """Judge one message and keep our promises about it before anyone replies."""
    started = time.monotonic()
    reported = gateway.reports.among(mail) if gateway.reports else ()
    judgement = report(mail, reported, gateway) if reported else consider(mail, gateway)
    keep(mail, judgement, gateway, door, time.monotonic() - started)
    return judgement.verdict


def consider(mail: Mail, gateway: Gateway) -> Judgement:
    """Look at one message from all sides, and promise nothing yet."""
    content = parse(mail.raw, gateway.limits)
    evidence, words = gather(mail, content, gateway.sources, time.monotonic() + gateway.deadline)
    words_too = with_documents(content, evidence, words)
    spam = classify(mail, words_too, gateway)
    signals = examine(mail, content, evidence, spam, gateway.policy)
    lifted = evidence.release.lifted if evidence.release else ()
    verdict = decide(signals, mail, gateway.policy, versions(gateway), lifted)
    shaded = shade(gateway.shadows, Seen(mail, content, words_too, evidence, spam, signals, verdict))
    seen = seen_in(content, evidence, gateway.policy)
    verdict = cut(mail.raw, content, seen, verdict, gateway.policy.note, gateway.authserv_id)
    edits = annotate(mail, content, evidence, verdict, gateway.policy, gateway.authserv_id)
    if verdict.relayed:
        edits = signed(mail, content, evidence, edits, gateway.signing, gateway.authserv_id, verdict.cuts)
    return Judgement(content, evidence, signals, replace(verdict, edits=edits), shaded)


def keep(mail: Mail, judgement: Judgement, gateway: Gateway, door: str, seconds: float) -> None:
    """Keep what is held or stripped, durably and as it came, and write the journal's record."""
    content, evidence, signals, verdict, shaded = judgement
    _count_failures(evidence, signals, gateway.counters)
    if verdict.kept and gateway.quarantine is not None:
        gateway.quarantine.hold(mail, verdict, evidence, signals, content=content, reasons=reasons(verdict))
        gateway.counters.add("held")
    if gateway.observer is not None:
        gateway.observer.observe(mail, content, evidence, verdict)
    if gateway.journal is not None:  # last: what fails before it is recorded as a failure
        reply = reply_to(verdict)
        gateway.journal.record(
            mail,
            content,
            evidence,
            signals,
            verdict,
            reply=reply,
            door=door,
            seconds=seconds,
            shaded=shaded,
        )


def judge_safely(mail: Mail, gateway: Gateway, door: str) -> tuple[Verdict, Reply]:
    """Judge, and turn a failure of our own into a temporary one: the only place that does."""
    started = time.monotonic()
    try:
        with gateway.sources.slots:
            verdict = judge(mail, gateway, door)
        reply = reply_to(verdict)
    except Exception as error:  # whatever it is, the client hears "later" and never "clean"
        storage = isinstance(error, StoreError)
        gateway.counters.add("failures", "storage" if storage else "crash")
        told = printable(str(error) if storage else repr(error), 300)
        # A store that fails is the operator's to mend; a traceback is for defects of ours.
        gateway.log.error(
            "judging failed", id=mail.id, door=door, error=told, exc_info=None if storage else error
        )
        verdict = _failed(mail, gateway, error)
        reply = storage_failure(mail.id) if storage else failure(mail.id)
        _record_failure(mail, verdict, reply, gateway, door, time.monotonic() - started)
    seconds = time.monotonic() - started
    gateway.counters.judged(door, verdict.action.value, len(mail.raw), seconds)
    log.decision(gateway.log, door, mail, verdict, reply, seconds)
    return verdict, reply


def admit(session: Session, mail_from: str | None, gateway: Gateway) -> Reply | None:
    """Say no before DATA, cheaply and without the network; None lets the command through."""
    return check(session, mail_from, gateway.tls_rules)


# ---------------------------------------------------------------- what it is told with


def report(mail: Mail, reported: tuple[str, ...], gateway: Gateway) -> Judgement:
    """Take a report or an answer to a digest; a message that goes to others as well is judged for those.

    Nothing is taken of a message that is refused or deferred for them: it comes again, or it does not.
    """
    assert gateway.reports is not None
    others = tuple(r for r in mail.envelope.recipients if r not in reported)
    if others:
        judgement = consider(replace(mail, envelope=replace(mail.envelope, recipients=others)), gateway)
        if judgement.verdict.action in (Action.REJECT, Action.DEFER):
            return _for_all(mail, judgement)
    taken = gateway.reports.take(mail, reported)
    about = {"messages": taken.waiting, "why": taken.why}
    gateway.log.info("report", id=mail.id, by=reporter(mail.session), to=" ".join(reported), **about)
    if not others:
        action = Action.LEARN if taken.useful else Action.REJECT
        text = f"{taken.waiting} messages to be learned" + (f": {taken.why}" if taken.why else "")
        verdict = _plain(mail, action, taken.reason, text, gateway)
        return Judgement(parse(mail.raw, gateway.limits), Evidence(), (), verdict)
    return _for_all(mail, judgement, Action.LEARN)


def hold_undelivered(
    mail: Mail, verdict: Verdict, recipients: tuple[str, ...], why: str, gateway: Gateway
) -> None:
    """Hold a message for recipients whose next hop refused it after it had taken it for others.

    It gets an id of its own: under the message's id it may be held for others already. Raises
    `StoreError`, and the caller then says neither yes nor no to the client.
    """
    if gateway.quarantine is None:
        raise StoreError("there is no quarantine here")
    copy = replace(mail, id=new_id(), envelope=replace(mail.envelope, recipients=recipients))
    outcomes = tuple(
        replace(o, action=Action.QUARANTINE) for o in verdict.outcomes if o.recipient in recipients
    )
    held = replace(
        verdict, id=copy.id, action=Action.QUARANTINE, outcomes=outcomes, reason=UNDELIVERED, reason_text=why
    )
    gateway.quarantine.hold(copy, held, Evidence(), (), content=None, reasons=(UNDELIVERED,))
    gateway.counters.add("held")


def with_documents(content: Content, evidence: Evidence, words: str) -> Content:
    """Let attached documents speak where the message itself says next to nothing.

    The classifier learned from bodies of messages: a report or an invoice beside a letter is other
    language, and would only blur what it knows.
    """
    own = sum(len(text.text) for text in content.texts)
    if evidence.unpacked is None or not words or own > FEW_WORDS:
        return content
    texts = (*content.texts, Text("plain", words))
    return replace(content, texts=texts, urls=content.urls + evidence.unpacked.links)


def classify(mail: Mail, content: Content, gateway: Gateway) -> Spam | None:
    """Ask the classifier; a model that is missing or fails is "unavailable", which is not 0."""
    if gateway.classifier is None:
        return None
    session = mail.session
    client = trace(session.helo, session.client_name, session.client_ip)
    score = gateway.classifier.score(mail.raw, content, client, mail.envelope.recipients)
    return None if score is None else Spam(score.cautious, score.reasons)


def versions(gateway: Gateway) -> Versions:
    """What judges now."""
    model = gateway.classifier.version if gateway.classifier else "none"
    return Versions(program=__version__, policy=gateway.policy.hash, model=model)


def _for_all(mail: Mail, judgement: Judgement, action: Action | None = None) -> Judgement:
    """Give a verdict about some recipients to all: the rest gets `action`, or what the verdict says."""
    verdict = judgement.verdict
    known = {outcome.recipient: outcome for outcome in verdict.outcomes}
    model = replace(verdict.outcomes[0], action=action or verdict.action)
    outcomes = tuple(known.get(r) or replace(model, recipient=r) for r in mail.envelope.recipients)
    return judgement._replace(verdict=replace(verdict, outcomes=outcomes))


def _failed(mail: Mail, gateway: Gateway, error: Exception) -> Verdict:
    """Return the verdict of a message that could not be judged: deferred, for all recipients."""
    return _plain(mail, Action.DEFER, "FAILURE", printable(type(error).__name__, 80), gateway)


def _plain(mail: Mail, action: Action, reason: str, text: str, gateway: Gateway) -> Verdict:
    """Return a verdict that no signal led to, the same for all recipients."""
    thresholds: Thresholds = gateway.policy.thresholds
    return Verdict(
        id=mail.id,
        action=action,
        outcomes=tuple(Outcome(r, action, 0.0, thresholds) for r in mail.envelope.recipients),
        score=0.0,
        reason=reason,
        reason_text=text,
        contributions=(),
        edits=(),
        versions=versions(gateway),
    )


def _record_failure(
    mail: Mail, verdict: Verdict, reply: Reply, gateway: Gateway, door: str, seconds: float
) -> None:
    """Let `explain` know of a message that was not judged; here nothing may fail any more."""
    with contextlib.suppress(Exception):
        if gateway.journal is not None:
            gateway.journal.record(
                mail, None, Evidence(), (), verdict, reply=reply, door=door, seconds=seconds
            )


_FAILURES = {
    "VIRUS": "antivirus",
    "SPAMASSASSIN": "spamassassin",
    "UNPACK": "unpack",
    "CLASSIFIER": "classifier",
}


def _count_failures(evidence: Evidence, signals: tuple[Signal, ...], counters: Counters) -> None:
    for signal in signals:
        if signal.state == "error":
            counters.add("failures", _FAILURES.get(signal.name, "dns"))
    if evidence.antivirus.status == "limit":
        counters.add("failures", "antivirus_limit")
