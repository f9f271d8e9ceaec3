# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose forwarded mail is not held to the DMARC policy of its author.

Forwarding breaks SPF, and mailing lists break DKIM. Three kinds of forwarders are excepted, all of
them named by the operator, and none without proof: by the network of the client, by a domain for
which SPF or DKIM passes, or by an intact ARC chain (RFC 8617) whose newest seal is a named sealer's,
leaves nothing to be changed behind it, and whose results say that the author was authenticated when
the message came to it.

Reads ARC-Authentication-Results, which the sealer wrote and its seal covers. No network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.auth import suffixes
from gateway.auth.dmarc import MalformedRecordError, read_record
from gateway.auth.results import read_results
from gateway.mail.domains import matches, normal
from gateway.mail.headers import printable
from gateway.mail.networks import inside
from gateway.settings import Settings

if TYPE_CHECKING:
    from gateway.auth.results import Result
    from gateway.mail.types import Dmarc, Evidence, Mail


class ForwarderSettings(Settings, frozen=True):
    """Forwarders whose mail is DMARC_FORWARDED where it fails DMARC; networks: auth.trusted_forwarders."""

    # Domains of forwarders, proved by SPF for the envelope sender or by DKIM; ".example.com": all below it.
    # Name only those that check mail before they forward it: they may send under any author.
    domains: tuple[str, ...] = ()
    # Domains of ARC sealers (d=), believed when they state that DMARC passed before they forwarded. Name only
    # those whose software keeps apart what senders write: dkimpy (ARC.sign) writes a quoted envelope
    # sender (smtp.mailfrom) without its quotes, so that a sender could state a result of his own.
    sealers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Forwarders:
    """The forwarders that a policy excepts."""

    networks: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    sealers: tuple[str, ...] = ()


NOBODY: Final = Forwarders()


def vouched(mail: Mail, evidence: Evidence, dmarc: Dmarc, forwarders: Forwarders) -> str:
    """Who vouches for a message that fails DMARC, in words; "" if nobody does."""
    if inside(mail.session.client_ip, forwarders.networks):
        return f"comes from a trusted forwarder, {mail.session.client_ip}"
    for spf in evidence.spf:
        if spf.identity == "mailfrom" and spf.result == "pass" and matches(spf.domain, forwarders.domains):
            return f"comes from a trusted forwarder, SPF pass for {spf.domain}"
    for dkim in evidence.dkim:
        if dkim.result == "pass" and dkim.covers_all and matches(dkim.domain, forwarders.domains):
            return f"comes from a trusted forwarder, DKIM pass by {dkim.domain}"
    arc = evidence.arc
    if (
        arc is None
        or arc.result != "pass"
        or not arc.covers_all
        or not dmarc.domain  # no author that a sealer could speak of
        or not arc.sealers
        or not matches(arc.sealers[0], forwarders.sealers)
    ):
        return ""
    stated = _statement(arc.results, dmarc)
    return f"{arc.sealers[0]} has sealed: {stated}" if stated else ""


def _statement(value: str, dmarc: Dmarc) -> str:
    """The result that authenticates the author in the results of a sealer, "" if there is none."""
    try:
        _, results = read_results(value.encode(), tolerant=True)
    except ValueError:
        return ""
    passed = [result for result in results if result.result == "pass"]
    judged = [result for result in results if result.method == "dmarc"]
    if len(judged) > 1 or any(map(_is_odd, passed)):
        return ""  # a sender may have stated one of them
    named = [normal(result.get("header.from")) for result in judged]
    if any(one.result in ("fail", "permerror") for one in judged) and set(named) <= {"", dmarc.domain}:
        return ""  # whatever else passed there, the sealer did not take it for the author's
    if any(one.result == "pass" for one in judged) and dmarc.domain in named:
        return f"dmarc=pass header.from={dmarc.domain}"
    strict = _strict(dmarc)
    for result in passed:
        domain = _authenticated(result)
        if domain and (domain == dmarc.domain or not strict.get(result.method, True)):
            site, author = suffixes.organizational(domain), suffixes.organizational(dmarc.domain)
            if domain == dmarc.domain or (site is not None and site == author):
                return printable(f"{result.method}=pass for {domain}", 300)
    return ""


def _is_odd(result: Result) -> bool:
    """Whether a result has a property twice, or a value that looks like another one."""
    names = [name for name, _ in result.properties]
    return len(set(names)) < len(names) or any(
        "=" in value for name, value in result.properties if name in ("header.from", "header.d", "header.i")
    )


def _authenticated(result: Result) -> str:
    """The domain that a result of SPF or DKIM speaks of."""
    if result.method == "spf":
        return normal(result.get("smtp.mailfrom").rpartition("@")[2])
    if result.method == "dkim":
        return normal(result.get("header.d") or result.get("header.i").rpartition("@")[2])
    return ""


def _strict(dmarc: Dmarc) -> dict[str, bool]:
    """Which methods must name the author domain itself (adkim=s, aspf=s)."""
    try:
        record = read_record(dmarc.record, any_order=True)
    except MalformedRecordError:
        record = None
    return {"dkim": record is None or record.adkim == "s", "spf": record is None or record.aspf == "s"}
