# SPDX-License-Identifier: GPL-2.0-or-later
"""TLS that we use towards a next hop: none, may, encrypt or verify; the first matching row wins.

`may` encrypts where the next hop offers it and does not check who answers. `encrypt` never
sends in clear. `verify` also checks the certificate chain and the name, with OpenSSL. The
relay client keeps the promise; here is only what was promised. Reads CA files of the
administrator.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from gateway.mail.domains import check_pattern, matches
from gateway.settings import Settings
from gateway.tls.inbound import TlsVersion, tls_version

if TYPE_CHECKING:
    from collections.abc import Sequence

Level = Literal["none", "may", "encrypt", "verify"]


class OutboundTlsRule(Settings, frozen=True, kw_only=True):
    """One row of [[tls.outbound]]. A row without next hops and domains is about all mail."""

    # Hosts of next hops, as the route names them; ".example.com" means all below it. Empty: any.
    next_hops: tuple[str, ...] = ()
    # Recipient domains; ".example.com" means all below it. Empty: any.
    domains: tuple[str, ...] = ()
    # none: never TLS; may: if offered; encrypt: always; verify: always, and with a valid certificate.
    level: Level = "verify"
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
    """What holds for one delivery. `match` is never empty for `verify` over TCP."""

    level: Level = "may"
    match: str = ""
    ca_file: str = ""
    minimum_version: TlsVersion = "TLSv1.2"

    @property
    def mandatory(self) -> bool:
        """Whether a message may not be sent without TLS."""
        return self.level in ("encrypt", "verify")


def policy_for(host: str, domain: str, rules: Sequence[OutboundTlsRule]) -> TlsPolicy:
    """The policy for mail to `domain` through the next hop `host`; `may` if no row matches.

    A unix socket has no host (""): nothing leaves the machine there, and no TLS is spoken.
    """
    if not host:
        return TlsPolicy(level="none")
    for rule in rules:
        if rule.next_hops and not matches(host, rule.next_hops):
            continue
        if rule.domains and not matches(domain, rule.domains):
            continue
        return TlsPolicy(rule.level, rule.match or host, rule.ca_file, rule.minimum_version)
    return TlsPolicy(match=host)


def context_for(policy: TlsPolicy) -> ssl.SSLContext | None:
    """The context to speak TLS with under `policy`, None for `none`.

    Raises OSError or ssl.SSLError if the CA file cannot be used: then nothing may be sent.
    """
    if policy.level == "none":
        return None
    return _context(policy.level == "verify", policy.ca_file, policy.minimum_version)


@lru_cache(maxsize=64)
def _context(verify: bool, ca_file: str, minimum_version: TlsVersion) -> ssl.SSLContext:
    # Kept, because reading the system's CA certificates takes tens of milliseconds.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = tls_version(minimum_version)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca_file:
        context.load_verify_locations(ca_file)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return context
