# SPDX-License-Identifier: GPL-2.0-or-later
"""What can be seen in the checks of the sender: SPF, DKIM, DMARC, ARC and reverse DNS.

Reads results, with domains and records of strangers in them; no network. The texts say who signed,
what aligned, what the author domain publishes, and what is made of that here.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

from gateway.auth.dmarc import MalformedRecordError, read_record
from gateway.mail.headers import printable
from gateway.mail.types import Content, Dmarc, Evidence, Mail, Signal
from gateway.policy.forwarders import vouched

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.policy.forwarders import Forwarders

_TEXT: Final = 500
_MILDER: Final[dict[str, str]] = {"reject": "quarantine", "quarantine": "none", "none": "none"}
_SIGNALS: Final = {"reject": "DMARC_REJECT", "quarantine": "DMARC_QUARANTINE"}


def examine(mail: Mail, content: Content, evidence: Evidence, forwarders: Forwarders) -> Iterator[Signal]:
    """Give the signals of all checks, in fixed order."""
    yield from _ruled(evidence)
    yield from _spf(evidence)
    yield from _dkim(evidence)
    if evidence.dmarc is not None:
        if evidence.dmarc.result == "permerror":
            yield from _unclear(mail, content, evidence.dmarc)
        else:
            yield from _dmarc(mail, evidence, evidence.dmarc, forwarders)
    if evidence.arc is not None and evidence.arc.result == "fail":
        yield Signal("ARC_FAIL", printable(evidence.arc.reason, 200))
    if evidence.iprev is not None and evidence.iprev.result in ("fail", "permerror"):
        yield Signal("IPREV_FAIL", printable(evidence.iprev.name, 200) or "the client's address has no name")


def _ruled(evidence: Evidence) -> Iterator[Signal]:
    """What reviewers ruled. Anybody can write an allowed address, so an allowance must be proven."""
    spf = any(s.identity == "mailfrom" and s.result == "pass" for s in evidence.spf)
    dmarc = evidence.dmarc is not None and evidence.dmarc.result == "pass"
    for found in evidence.senders:
        if found.rule == "error":
            yield Signal("SENDER_BLOCKED", printable(found.reason, 200), state="error")
            continue
        text = printable(f"{found.pattern} ({found.matched})", 400)
        if found.rule == "block":
            yield Signal("SENDER_BLOCKED", text)
        elif dmarc if found.matched == "author" else spf:
            yield Signal("SENDER_ALLOWED", text)
        else:
            yield Signal("SENDER_ALLOWED_UNPROVED", text)


def _spf(evidence: Evidence) -> Iterator[Signal]:
    names = {
        "pass": "SPF_PASS",
        "fail": "SPF_FAIL",
        "softfail": "SPF_SOFTFAIL",
        "permerror": "SPF_PERMERROR",
        "temperror": "SPF_ERROR",
    }
    for spf in evidence.spf:
        # A HELO name is asked about as well, but only the envelope sender's answer weighs.
        if spf.identity == "mailfrom" and spf.result in names:
            name = names[spf.result]
            text = printable(f"{spf.domain} {spf.reason}".rstrip(), 300)
            yield Signal(name, text, state="error" if name == "SPF_ERROR" else "hit")


def _dkim(evidence: Evidence) -> Iterator[Signal]:
    passed = [d for d in evidence.dkim if d.result == "pass"]
    if passed:
        yield Signal("DKIM_PASS", printable(", ".join(d.domain for d in passed), 300))
        partial = [d for d in passed if not d.covers_all]
        if len(partial) == len(passed):
            yield Signal("DKIM_PARTIAL", printable(", ".join(d.domain for d in partial), 300))
    elif any(d.result == "temperror" for d in evidence.dkim):
        yield Signal("DKIM_ERROR", "DNS failed", state="error")
    elif evidence.dkim:
        first = evidence.dkim[0]
        yield Signal("DKIM_FAIL", printable(f"{first.domain} {first.result} {first.reason}".rstrip(), 300))


# ---------------------------------------------------------------- DMARC


def _dmarc(mail: Mail, evidence: Evidence, dmarc: Dmarc, forwarders: Forwarders) -> Iterator[Signal]:
    published = _published(dmarc)
    if dmarc.result == "pass":
        yield _signal("DMARC_PASS", published, f"aligned: {' and '.join(dmarc.aligned)}")
    elif dmarc.result == "temperror":
        yield _undecided(mail, evidence, dmarc, forwarders)
    elif dmarc.result == "fail":
        found = f"{published}; {_authenticated(evidence)}"
        by = vouched(mail, evidence, dmarc, forwarders)
        yield _signal("DMARC_FORWARDED", found, by) if by else _failed(mail, dmarc, found)


def _undecided(mail: Mail, evidence: Evidence, dmarc: Dmarc, forwarders: Forwarders) -> Signal:
    """The signal of a DNS that failed: that of the policy which might have to be enforced, if it is known."""
    known = f"{_published(dmarc)}; " if dmarc.policy else ""
    text = printable(f"{known}{dmarc.domain}: {dmarc.reason}", _TEXT)
    name = _failed(mail, dmarc, "").name
    if name not in _SIGNALS.values() or vouched(mail, evidence, dmarc, forwarders):
        name = "DMARC_ERROR"
    return Signal(name, text, state="error")


def _unclear(mail: Mail, content: Content, dmarc: Dmarc) -> Iterator[Signal]:
    """The signals of a broken record, or of a message without a single author: both never pass."""
    if dmarc.domain:
        yield _signal("DMARC_PERMERROR", f"the record of {dmarc.domain} cannot be read", dmarc.reason)
        return
    # No address at all is FROM_MISSING, and several fields are FROM_SEVERAL.
    if content.from_fields == 1 and content.from_addresses:
        yield _signal("DMARC_NO_AUTHOR", dmarc.reason)
    if dmarc.policy in _SIGNALS:
        yield _failed(mail, dmarc, dmarc.reason)


def _signal(name: str, *parts: str) -> Signal:
    return Signal(name, printable("; ".join(part for part in parts if part), _TEXT))


def _failed(mail: Mail, dmarc: Dmarc, found: str) -> Signal:
    """The signal of a failed policy, one step milder for mail that the domain exempts from it.

    t=y exempts all (RFC 9989 §4.7), as pct=0 does; pct exempts that share of messages (RFC 7489
    §6.6.4), drawn by our id, so that the same message gets the same again when it is weighed anew.
    """
    policy: str = dmarc.policy or "none"
    exempt = ""
    if policy != "none" and zlib.crc32(mail.id.encode()) % 100 >= dmarc.percent:
        policy = _MILDER[policy]
        exempt = (
            f"exempt by {'t=y or pct=0' if dmarc.percent == 0 else f'pct={dmarc.percent}'}: as p={policy}"
        )
    return _signal(_SIGNALS.get(policy, "DMARC_FAIL"), found, exempt)


def _published(dmarc: Dmarc) -> str:
    """What the author domain publishes, and which policy that makes."""
    try:
        record = read_record(dmarc.record, any_order=True)
    except MalformedRecordError:
        record = None
    if record is None:
        return f"{dmarc.domain} p={dmarc.policy or 'none'}"
    tags = [f"{name}={value}" for name in ("p", "sp", "np") if (value := getattr(record, name))]
    tags += [f"pct={record.percent}"] if record.percent < 100 else []
    tags += ["t=y"] if record.testing else []
    above = dmarc.organizational not in ("", dmarc.domain)
    here = f", which makes p={dmarc.policy} for {dmarc.domain}" if above else ""
    return f"{dmarc.organizational or dmarc.domain} publishes {' '.join(tags)}{here}"


def _authenticated(evidence: Evidence) -> str:
    """What passed, and did not align."""
    passed = [f"SPF for {s.domain}" for s in evidence.spf if s.identity == "mailfrom" and s.result == "pass"]
    passed += [f"DKIM by {d.domain}" for d in evidence.dkim if d.result == "pass" and d.covers_all][:3]
    partly = [f"DKIM by {d.domain} in part" for d in evidence.dkim if d.result == "pass" and not d.covers_all]
    found = ", ".join(passed + partly[:3])
    return f"nothing aligned, though there passed {found}" if found else "neither SPF nor DKIM passed"
