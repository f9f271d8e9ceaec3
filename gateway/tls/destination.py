# SPDX-License-Identifier: GPL-2.0-or-later
"""A recipient domain as a whole: its MX hosts, and what each of them must offer, and why.

For those who want to see it, and for those who deliver by themselves (`postfix_policy`). Asks the DNS
and web servers through `Demands`; at most `_MOST` hosts of a domain.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from gateway.mail.domains import to_ascii
from gateway.tls.outbound import OutboundTlsRule, rule_for
from gateway.tls.policies import NOTHING, Found

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.tls.demands import Demands
    from gateway.tls.outbound import TlsPolicy

_DNS_SECONDS: Final = 10.0
_MOST: Final = 20


@dataclass(frozen=True, slots=True)
class Exchanger:
    """An MX host and what holds for mail through it."""

    preference: int
    host: str
    policy: TlsPolicy


@dataclass(frozen=True, slots=True)
class Destination:
    """What there is to know. `secure` says that the MX records were validated.

    `status` is "implicit" where the domain is its own mail exchanger, "null" where it takes no mail.
    """

    domain: str
    status: Literal["mx", "implicit", "host", "null", "nxdomain", "temperror"]
    secure: bool = False
    exchangers: tuple[Exchanger, ...] = ()
    sts: Found = NOTHING
    rule: OutboundTlsRule | None = None  # of the administrator about the whole domain


def look(demands: Demands, domain: str, *, port: int = 25, mx: bool = True) -> Destination:
    """Find out all about a domain; without `mx` it is a host.

    May take a minute. Raises what the store raises.
    """
    name = to_ascii(domain)
    if name is None:
        return Destination(domain, "nxdomain")
    rule = rule_for("", name, demands.rules)
    sts = demands.policies.find(name) if demands.policies else NOTHING
    if not mx:
        policy = demands.policy(name, name, port=port, mx_secure=False)
        return Destination(name, "host", False, (Exchanger(0, name, policy),), sts, rule)
    answer = demands.resolver.query(name, "MX", time.monotonic() + _DNS_SECONDS)
    if answer.status in ("temperror", "nxdomain"):
        return Destination(name, answer.status, sts=sts, rule=rule)
    hosts = sorted(answer.values)[:_MOST] or [(0, name)]
    if hosts[0][1] == ".":
        return Destination(name, "null", answer.secure, sts=sts, rule=rule)
    found = tuple(
        Exchanger(at, host, demands.policy(name, host, port=port, mx_secure=answer.secure))
        for at, host in hosts
    )
    return Destination(name, "mx" if answer else "implicit", answer.secure, found, sts, rule)


def postfix_policy(found: Destination) -> str | None:
    """The destination as Postfix's smtp_tls_policy_maps writes it; None: nothing special is asked.

    Postfix looks for TLSA records itself, so that DANE is left to it (RFC 8461 §2: DANE first), and only
    what it may do without them is said here. Needs `smtp_dns_support_level = dnssec` there.
    """
    if found.rule is not None and found.rule.level != "dane":
        return _in_table(found.rule)
    policies = [one.policy for one in found.exchangers]
    asked = [one for one in policies if one.source == "dane"]
    proving = [one for one in asked if one.tlsa or one.failure == "dnssec-invalid"]
    sts = found.sts.policy
    enforced = sts is not None and sts.mode == "enforce"
    if found.secure and proving and (enforced or len(proving) == len(policies)):
        return "dane-only"
    if sts is not None and enforced:
        names = (host.removeprefix("*") for host in sts.mx)  # ".example.com" there is any name below it
        return f"secure match={':'.join(names)} servername=hostname"
    return "dane" if asked else None


def postfix_table(domain: str, rules: Sequence[OutboundTlsRule]) -> str | None:
    """The row about a whole domain in the same words, None where it leaves that to the domain."""
    rule = rule_for("", to_ascii(domain) or domain, rules)
    return None if rule is None or rule.level == "dane" else _in_table(rule)


def _in_table(rule: OutboundTlsRule) -> str:
    if rule.level in ("none", "may", "encrypt", "dane-only"):
        return rule.level
    words = [f"secure match={rule.match}" if rule.match else "verify match=hostname"]
    if rule.ca_file:
        words.append(f"tafile={rule.ca_file}")
    return " ".join([*words, f"protocols=>={rule.minimum_version}"])
