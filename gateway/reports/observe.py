# SPDX-License-Identifier: GPL-2.0-or-later
"""From a judged message to what a report tells of it.

Reads results about hostile messages: domains, selectors and addresses of strangers, cut to the
length of a domain name here. No network; well under 0.1 ms a message.

Not counted: mail whose author domain asks for no reports, messages that were deferred and come again,
and reports: those that pass DMARC, and all to and from our own addresses, so that two
sites never report about each other's reports for ever.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Final, Literal

from gateway.mail.domains import domain_of
from gateway.mail.headers import printable
from gateway.mail.networks import address
from gateway.mail.types import Action
from gateway.store.counts import DAY
from gateway.store.dmarc import Observation

if TYPE_CHECKING:
    from gateway.mail.types import Content, Dmarc, Evidence, Mail, Spf, Verdict
    from gateway.reports.settings import ReportSettings
    from gateway.store.dmarc import Observations

log = logging.getLogger(__name__)

Disposition = Literal["none", "quarantine", "reject"]
MAX_SIGNATURES: Final = 10  # of one message, those that matter first
_LONGEST: Final = 253
# What stands in a file name, a Subject and a question to the DNS: no other policy domain is reported to.
_DOMAIN: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_]([a-z0-9_-]{0,62}))*\Z")
_SEVERITY: Final = ("none", "quarantine", "reject")


def is_domain(text: str) -> bool:
    """Whether `text` is a domain name of letters, digits, hyphens and underscores, in lower case."""
    return len(text) <= _LONGEST and _DOMAIN.match(text) is not None


class Observer:
    """Counts judged messages. Thread-safe; `close` writes the rest."""

    __slots__ = ("_ours", "_store")

    def __init__(self, store: Observations, settings: ReportSettings) -> None:
        self._store = store
        self._ours = frozenset(a.lower() for a in (settings.email, settings.envelope_sender) if a)

    def observe(self, mail: Mail, content: Content, evidence: Evidence, verdict: Verdict) -> None:
        """Count one message. Never raises: it has been judged, and no count may change that."""
        dmarc = evidence.dmarc
        if dmarc is None or not dmarc.policy or not dmarc.record:
            return
        try:
            if self._counts(mail, content, dmarc, verdict):
                observation = observation_of(mail, evidence, dmarc, verdict)
                if observation is not None:
                    day = int(mail.received) // DAY
                    self._store.add(day, dmarc.organizational, dmarc.record, observation)
        except Exception:
            log.exception("the result of DMARC of %s was not counted", mail.id)

    def close(self) -> None:
        """Write what is counted."""
        self._store.close()

    def _counts(self, mail: Mail, content: Content, dmarc: Dmarc, verdict: Verdict) -> bool:
        if verdict.action is Action.DEFER or "rua" not in dmarc.record.lower():
            return False
        if not is_domain(dmarc.organizational):
            return False
        # A stranger's report is exempt only if it is one: the subject alone would hide forged mail.
        if dmarc.result == "pass" and content.subject[:14].lower() == "report domain:":
            return False
        if not self._ours:
            return True
        authors = {author.lower() for _, author in content.from_addresses}
        return authors.isdisjoint(self._ours) and not self._ours.issuperset(
            r.lower() for r in mail.envelope.recipients
        )


def observation_of(mail: Mail, evidence: Evidence, dmarc: Dmarc, verdict: Verdict) -> Observation | None:
    """What a report tells of a message; None if its client has no IP address."""
    client = address(mail.session.client_ip)
    if client is None:
        return None
    spf = next((one for one in evidence.spf if one.identity == "mailfrom"), None)
    sender = domain_of(mail.envelope.mail_from)
    to = {domain_of(recipient) for recipient in mail.envelope.recipients}
    done = disposition(verdict)
    return Observation(
        source_ip=str(client),
        header_from=_cut(dmarc.domain),
        envelope_from=_cut(sender),
        envelope_to=_cut(to.pop()) if len(to) == 1 else "",
        policy=dmarc.policy or "none",
        disposition=done,
        dkim="dkim" in dmarc.aligned,
        spf="spf" in dmarc.aligned,
        reason=_reason(dmarc, done, spf),
        signatures=_signatures(evidence, dmarc.domain),
        spf_domain=_cut(spf.domain) if spf else "",
        spf_scope="mfrom" if mail.envelope.mail_from else "helo",
        spf_result=spf.result if spf else "none",
    )


def disposition(verdict: Verdict) -> Disposition:
    """What DMARC led to, whatever else spoke against the message (RFC 7489 Appendix C)."""
    decided = {c.decides for c in verdict.contributions if c.decides and c.name.startswith("DMARC_")}
    if Action.REJECT in decided:
        # Where only some recipients' copies could be refused, they are held instead.
        return "reject" if verdict.action is Action.REJECT else "quarantine"
    return "quarantine" if Action.QUARANTINE in decided else "none"


def _reason(dmarc: Dmarc, done: Disposition, spf: Spf | None) -> str:
    """Why the disposition is not the published policy, "" if it is (RFC 7489 §7.2)."""
    if dmarc.result == "pass" or done == (dmarc.policy or "none"):
        return ""
    milder = _SEVERITY.index(done) < _SEVERITY.index(dmarc.policy or "none")
    if milder and spf is not None and spf.result == "policy":
        return "trusted_forwarder"
    return "sampled_out" if milder and dmarc.percent < 100 else "local_policy"


def _signatures(evidence: Evidence, author: str) -> tuple[tuple[str, str, str], ...]:
    """The signatures, in the order of RFC 9990: passed and of the author, passed, others."""
    found = sorted(
        (one for one in evidence.dkim if one.domain),
        key=lambda one: (one.result != "pass", one.domain.lower() != author),
    )
    return tuple(
        # RFC 8601 §2.7.1: a signature that verifies, and does not count here, is "policy".
        (
            _cut(one.domain),
            _cut(one.selector),
            "policy" if one.result == "pass" and not one.covers_all else one.result,
        )
        for one in found[:MAX_SIGNATURES]
    )


def _cut(text: str) -> str:
    return printable(text, _LONGEST)
