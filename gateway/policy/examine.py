# SPDX-License-Identifier: GPL-2.0-or-later
"""What can be seen in a message and in the evidence about it, as named signals.

Reads values made of hostile bytes; no network, no files. Observes only: what a signal is worth
stands in `rules/signals.toml`. The order of the signals is fixed, so that records compare.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gateway.mail.headers import printable
from gateway.mail.types import Content, Direction, Evidence, Mail, Signal
from gateway.policy import attachments, authorship, links, sender, strip, unpacked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.mail.types import Listing
    from gateway.policy.attachments import Sight
    from gateway.policy.rules import Policy

# Split, so that this file and mail about it do not trip a filter.
GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*" + "GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
_WORDS_SHOWN = 8


class Spam(NamedTuple):
    """The classifier's answer: probability, and the features that weighed most, signed."""

    probability: float
    reasons: tuple[tuple[str, float], ...]


def examine(
    mail: Mail, content: Content, evidence: Evidence, spam: Spam | None, policy: Policy
) -> tuple[Signal, ...]:
    """Return all signals of one message. `spam` is None where no model could answer."""
    signals = [*_test_strings(mail, content), *_scanners(evidence), classified(spam)]
    if mail.session.direction is Direction.INBOUND:
        signals += sender.examine(mail, content, evidence, policy.forwarders)
    signals += authorship.examine(mail, content, evidence, policy.authors, policy.forwarders)
    signals += _lists(evidence)
    signals += _structure(mail, content)
    urls = content.urls + evidence.unpacked.links if evidence.unpacked else content.urls
    signals += links.examine(urls, policy.links, policy.authors.own)
    signals += _attached(content, evidence, policy)
    signals += (Signal(name, f"“{printable(text, 80)}”") for name, text in policy.patterns.matches(content))
    return tuple(signals)


def seen_in(content: Content, evidence: Evidence, policy: Policy) -> Iterator[Sight]:
    """What is to be seen in attachments, by name and type, and once they are opened."""
    yield from attachments.sights(content, policy.attachments)
    yield from unpacked.sights(evidence.unpacked, policy.attachments)


def _attached(content: Content, evidence: Evidence, policy: Policy) -> Iterator[Signal]:
    """Give each signal of attachments once, with the first that shows it."""
    found = tuple(seen_in(content, evidence, policy))
    first: dict[str, Signal] = {}
    for sight in found:
        first.setdefault(sight.signal.name, sight.signal)
    yield from first.values()
    yield from strip.doubts(content, found)


def _test_strings(mail: Mail, content: Content) -> Iterator[Signal]:
    if GTUBE.encode() in mail.raw or any(GTUBE in t.text for t in content.texts):
        yield Signal("GTUBE", "the test string for spam filters")


def _scanners(evidence: Evidence) -> Iterator[Signal]:
    scan = evidence.antivirus
    if scan.status == "infected":
        yield Signal("VIRUS", scan.name)
    elif scan.status == "limit":
        yield Signal("VIRUS_LIMIT", printable(scan.detail, 200))
    elif scan.status == "encrypted":
        yield Signal("VIRUS_ENCRYPTED", printable(scan.detail, 200))
    elif scan.status == "error":
        yield Signal("VIRUS", printable(scan.detail, 200), state="error")
    if scan.stale:
        yield Signal("VIRUS_STALE", printable(scan.engine, 200))
    check = evidence.spamd
    if check.status == "ok":
        yield Signal("SPAMASSASSIN", " ".join(check.symbols)[:500], value=check.score)
    elif check.status == "error":
        yield Signal("SPAMASSASSIN", printable(check.detail, 200), state="error")


def _lists(evidence: Evidence) -> Iterator[Signal]:
    """Give for each DNS list its weightiest listing, then who did not answer."""
    weightiest: dict[str, Listing] = {}
    silent = []
    for listing in evidence.lists:
        if listing.status == "error":
            silent.append(f"{listing.zone} {listing.reason}".rstrip())
        elif listing.zone not in weightiest or abs(listing.weight) > abs(weightiest[listing.zone].weight):
            weightiest[listing.zone] = listing
    for zone, listing in weightiest.items():
        text = f"{zone} lists {listing.item} ({listing.asked}) as {', '.join(listing.codes)}"
        yield Signal("DNSBL", printable(f"{text}: {listing.weight:+g}", 300), listing.weight)
    if silent:
        yield Signal("DNSBL_ERROR", printable(", ".join(silent), 300), state="error")


def classified(spam: Spam | None) -> Signal:
    """Return what the classifier says, as a signal."""
    if spam is None:
        return Signal("CLASSIFIER", "no model could answer", state="error")
    words = ", ".join(f"{printable(word, 40)} {weight:+.2f}" for word, weight in spam.reasons[:_WORDS_SHOWN])
    return Signal(
        "CLASSIFIER",
        f"probability {spam.probability:.4f}" + (f": {words}" if words else ""),
        spam.probability,
    )


def _structure(mail: Mail, content: Content) -> Iterator[Signal]:
    for name, found in (
        ("MIME_AMBIGUOUS", content.ambiguities),
        ("MIME_LIMIT", content.limits),
        ("MIME_DEFECT", content.defects),
    ):
        if found:
            yield Signal(name, printable(", ".join(found), 300))
    present = {f.name.lower() for f in content.fields}
    for field, name in (
        ("date", "DATE_MISSING"),
        ("message-id", "MESSAGE_ID_MISSING"),
        ("subject", "SUBJECT_MISSING"),
    ):
        if field not in present:
            yield Signal(name)
    if not mail.envelope.mail_from and len(mail.envelope.recipients) > 1:
        yield Signal("NULL_SENDER_SEVERAL", f"{len(mail.envelope.recipients)} recipients")
    if not content.attachments and not any(t.text.strip() for t in content.texts):
        yield Signal("EMPTY")
    hidden = sum(len(t.hidden) for t in content.texts)
    if hidden > 200:
        yield Signal("HIDDEN_TEXT", f"{hidden} characters")
