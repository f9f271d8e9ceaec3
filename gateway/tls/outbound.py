# SPDX-License-Identifier: GPL-2.0-or-later
"""TLS that we use towards a next hop: the administrator's table, and what holds for one delivery.

`may` encrypts where the next hop offers it and does not check who answers. `encrypt` never
sends in clear. `verify` also checks the certificate chain and the name, with OpenSSL, and `dane`
what TLSA records say of it. Where the table is silent or says so, `demands` finds out what the
destination itself asks for. The relay client keeps the promise; here is only what was promised. Reads
CA files of the administrator.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from gateway.mail.domains import check_pattern, matches
from gateway.settings import Settings
from gateway.tls.dane import DaneError, Tlsa, chain_of, verify
from gateway.tls.inbound import TlsVersion, tls_version

if TYPE_CHECKING:
    from collections.abc import Sequence

Level = Literal["none", "may", "encrypt", "dane", "verify"]
Source = Literal["", "table", "dane", "mta-sts", "requiretls", "memory"]
# What a delivery that failed for TLS counts as in a report (RFC 8460 §4.3).
Failure = Literal[
    "",
    "starttls-not-supported",
    "certificate-host-mismatch",
    "certificate-expired",
    "certificate-not-trusted",
    "validation-failure",
    "tlsa-invalid",
    "dnssec-invalid",
    "dane-required",
    "sts-policy-fetch-error",
    "sts-policy-invalid",
    "sts-webpki-invalid",
]
_EXPIRED, _HOST = (9, 10), (62, 63, 64)  # of OpenSSL's X509_V_ERR_*
_TRUST = (2, 18, 19, 20, 21, 24, 26, 27, 28)


class OutboundTlsRule(Settings, frozen=True, kw_only=True):
    """One row of [[tls.outbound]]. A row without next hops and domains is about all mail."""

    # Hosts of next hops, as the route or the MX record names them; ".example.com" means all below it.
    # Empty: any.
    next_hops: tuple[str, ...] = ()
    # Recipient domains; ".example.com" means all below it. Empty: any.
    domains: tuple[str, ...] = ()
    # none: never TLS; may: if offered; encrypt: always; verify: always, and with a valid certificate;
    # dane: what the destination asks for by DANE or MTA-STS, else may; dane-only: nothing without DANE.
    level: Literal["none", "may", "encrypt", "verify", "dane", "dane-only"] = "verify"
    # The name that the certificate must carry. Empty: the next hop's host.
    match: str = ""
    # File of trusted CA certificates for verify. Empty: those of the system.
    ca_file: str = ""
    # The oldest TLS version that will do.
    minimum_version: TlsVersion = "TLSv1.2"

    def __post_init__(self) -> None:
        for text in self.domains:
            check_pattern(text)


@dataclass(frozen=True, slots=True)
class TlsPolicy:
    """What holds for one delivery. `match` is never empty for `verify` over TCP; it goes into SNI as well."""

    level: Level = "may"
    match: str = ""
    ca_file: str = ""
    minimum_version: TlsVersion = "TLSv1.2"
    names: tuple[str, ...] = ()  # besides `match`, of which a certificate under a DANE-TA anchor may have one
    tlsa: tuple[Tlsa, ...] = ()  # for `dane`, one at least
    source: Source = ""
    refusal: str = ""  # why nothing may be sent to this host now, whatever it offers
    failure: Failure = ""  # what the refusal counts as, or what was wrong with the policy itself
    domain: str = ""  # whose mail it is about, where that is what the policy was asked for
    told: tuple[str, ...] = ()  # the MTA-STS policy, as reports tell it
    probe: bool = False  # see whether the certificate is valid, where that is not demanded

    @property
    def mandatory(self) -> bool:
        """Whether a message may not be sent without TLS."""
        return self.level in ("encrypt", "dane", "verify") or bool(self.refusal)

    @property
    def verified(self) -> bool:
        """Whether a TLS session under this policy is with a server that proved who it is."""
        return self.probe or self.level in ("dane", "verify")

    def ladder(self) -> tuple[TlsPolicy, ...]:
        """The policies to try one after the other, each in a new connection, when TLS itself fails.

        Opportunistic TLS that fails is given up for that session (RFC 7435 §3).
        """
        steps = [self]
        if self.probe:
            steps.append(replace(self, probe=False))
        if not self.mandatory and self.level != "none":
            steps.append(TlsPolicy(level="none"))
        return tuple(steps)


class PeerError(Exception):
    """The server is not who it should be. `failure` is what that counts as."""

    def __init__(self, text: str, failure: Failure) -> None:
        super().__init__(text)
        self.failure: Failure = failure


def rule_for(host: str, domain: str, rules: Sequence[OutboundTlsRule]) -> OutboundTlsRule | None:
    """The first row about mail to `domain` through the next hop `host`, None without one."""
    for rule in rules:
        if rule.next_hops and not matches(host, rule.next_hops):
            continue
        if rule.domains and not matches(domain, rule.domains):
            continue
        return rule
    return None


def policy_for(host: str, domain: str, rules: Sequence[OutboundTlsRule]) -> TlsPolicy:
    """The policy of the table for mail to `domain` through the next hop `host`; `may` if no row matches.

    A unix socket has no host (""): nothing leaves the machine there, and no TLS is spoken. Where the
    row says `dane` the caller has to ask `demands`; this one asks nobody, so that it says `may` for
    it, and `dane-only` sends nothing.
    """
    if not host:
        return TlsPolicy(level="none")
    rule = rule_for(host, domain, rules)
    if rule is None or rule.level == "dane":
        return TlsPolicy(match=host)
    if rule.level == "dane-only":
        return TlsPolicy(
            "dane", host, source="table", refusal="DANE is required here", failure="dane-required"
        )
    return TlsPolicy(rule.level, rule.match or host, rule.ca_file, rule.minimum_version, source="table")


def context_for(policy: TlsPolicy) -> ssl.SSLContext | None:
    """The context to speak TLS with under `policy`, None for `none`.

    Raises OSError or ssl.SSLError if the CA file cannot be used: then nothing may be sent.
    """
    if policy.level == "none":
        return None
    # RFC 8461 §4.1: only a DNS-ID counts. Elsewhere OpenSSL looks at the common name if there is none.
    common_name = policy.source != "mta-sts"
    checked = policy.level != "dane" and policy.verified
    return _context(checked, policy.ca_file, policy.minimum_version, common_name)


@lru_cache(maxsize=64)
def _context(checked: bool, ca_file: str, minimum_version: TlsVersion, common_name: bool) -> ssl.SSLContext:
    # Kept, because reading the system's CA certificates takes tens of milliseconds.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = tls_version(minimum_version)
    context.hostname_checks_common_name = common_name
    if not checked:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca_file:
        context.load_verify_locations(ca_file)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return context


def confirm(policy: TlsPolicy, connection: ssl.SSLObject) -> None:
    """Check after the handshake what OpenSSL has not: TLSA records. Raises PeerError."""
    if policy.level != "dane":
        return
    try:
        verify(policy.tlsa, chain_of(connection), tuple(dict.fromkeys((policy.match, *policy.names))))
    except DaneError as error:
        raise PeerError(f"DANE: {error}", "validation-failure") from None


def failure_of(error: ssl.SSLCertVerificationError) -> Failure:
    """What a certificate that OpenSSL refused counts as in a report."""
    if error.verify_code in _EXPIRED:
        return "certificate-expired"
    if error.verify_code in _HOST:
        return "certificate-host-mismatch"
    return "certificate-not-trusted" if error.verify_code in _TRUST else "validation-failure"
