# SPDX-License-Identifier: GPL-2.0-or-later
"""What a next hop must offer before mail is sent to it: one decision, and where it comes from.

The first of these that speaks decides: the administrator's table, DANE, MTA-STS (RFC 8461 §2: it never
overrides DANE), what the message itself asks (RFC 8689), what the host offered before. Asks the DNS and
web servers; raises only what the store raises, and then nothing may be sent.

    demands = Demands(settings, rules, resolver, policies, memory)
    policy = demands.policy(domain, host, port=25, routed=True, mx_secure=answer.secure)
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, Protocol

from gateway.tls.lookup import dane
from gateway.tls.outbound import TlsPolicy, policy_for, rule_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.dns import Resolver
    from gateway.tls.mta_sts import Policy
    from gateway.tls.outbound import OutboundTlsRule
    from gateway.tls.policies import Found, Policies
    from gateway.tls.settings import TlsSettings
    from gateway.tls.wish import Wish

_DNS_SECONDS: Final = 15.0
Security = Literal["", "clear", "encrypted", "verified"]


class Memory(Protocol):
    """What hosts offered before."""

    def security(self, host: str) -> Security:
        """The best of the last weeks, "" if the host is not known."""


@dataclass(frozen=True, slots=True)
class Demands:
    """Who decides. `policies` is None without MTA-STS, `memory` without a store."""

    settings: TlsSettings
    resolver: Resolver
    policies: Policies | None = None
    memory: Memory | None = None

    @property
    def rules(self) -> Sequence[OutboundTlsRule]:
        """The administrator's table."""
        return self.settings.outbound

    def policy(
        self,
        domain: str,
        host: str,
        *,
        port: int = 25,
        routed: bool = True,
        mx_secure: bool = False,
        wish: Wish = "",
    ) -> TlsPolicy:
        """What holds for mail to `domain` through `host`.

        `routed` says that MX records named the host, `mx_secure` that their answer was validated. A
        host that the administrator names is subject to the table alone, where that does not say "dane".
        May take half a minute.
        """
        rule = rule_for(host, domain, self.rules)
        mine = policy_for(host, domain, self.rules)
        automatic = routed if rule is None else rule.level in ("dane", "dane-only")
        if not host or (not automatic and wish != "requiretls"):
            return mine
        if rule is not None and not automatic:
            return _required(mine, trusted=True)
        found = self.policies.find(domain) if routed and self.policies and automatic else None
        # RFC 8689 §5: the message's wish goes over what its recipient's domain asks, not over our table.
        wanted = automatic and (wish != "no" or mine.level == "dane")
        asked = self._dane(domain, host, port, rule) if wanted else None
        if asked is None and mine.level == "dane":
            asked = replace(mine, domain=domain)
        policy = found.policy if found and wanted else None
        allowed = policy is None or policy.allows(host)
        if asked is not None and asked.level == "encrypt" and policy is not None and allowed:
            asked = None  # records that say nothing, so that MTA-STS may say more
            decided = self._by_sts(domain, host, found)
            if not decided.mandatory:
                decided = replace(decided, level="encrypt")
        elif asked is not None:
            decided = asked
            if policy is not None and policy.mode == "enforce" and not (mx_secure or allowed):
                decided = _not_allowed(host, domain, "dane", policy)
        else:
            decided = self._by_sts(domain, host, found if wanted else None)
        if wish != "requiretls":
            return decided
        enforced = policy is not None and policy.mode == "enforce" and allowed
        return _required(decided, trusted=not routed or mx_secure or enforced)

    def _dane(self, domain: str, host: str, port: int, rule: OutboundTlsRule | None) -> TlsPolicy | None:
        """What DANE demands of the host, None where it has no TLSA records."""
        if rule is None and not self.settings.dane:
            return None
        found = dane(self.resolver, host, port, time.monotonic() + _DNS_SECONDS)
        if found.status == "none":
            return None
        base = TlsPolicy("dane", found.base or host, names=(host, domain), source="dane", domain=domain)
        if found.status == "error":
            return replace(base, refusal=f"DNSSEC: cannot find out {found.reason}", failure="dnssec-invalid")
        if found.status == "usable":
            return replace(base, tlsa=found.records)
        if rule is not None and rule.level == "dane-only":
            return replace(base, refusal="none of its TLSA records is usable", failure="tlsa-invalid")
        return replace(base, level="encrypt", failure="tlsa-invalid")  # RFC 7672 §2.2

    def _by_sts(self, domain: str, host: str, found: Found | None) -> TlsPolicy:
        """What MTA-STS demands of the host, or the little that remains."""
        loose = self._by_memory(domain, host)
        if found is None:
            return loose
        if found.policy is None:
            return replace(loose, failure=found.failure)
        strict, told = found.policy.mode == "enforce", found.policy.told()
        if not found.policy.allows(host):
            if strict:
                return _not_allowed(host, domain, "mta-sts", found.policy)
            return replace(loose, source="mta-sts", domain=domain, failure="validation-failure", told=told)
        if strict:
            return TlsPolicy("verify", host, source="mta-sts", domain=domain, told=told)
        return TlsPolicy("may", host, source="mta-sts", domain=domain, probe=True, told=told)

    def _by_memory(self, domain: str, host: str) -> TlsPolicy:
        """TLS where it is offered, or as good as it was before."""
        plain = TlsPolicy(match=host, domain=domain)
        if self.settings.downgrade == "ignore" or self.memory is None:
            return plain
        before = self.memory.security(host)
        if self.settings.downgrade == "report":
            return replace(plain, probe=before != "encrypted")
        if before in ("encrypted", "verified"):
            level: Literal["verify", "encrypt"] = "verify" if before == "verified" else "encrypt"
            return replace(plain, level=level, source="memory")
        return replace(plain, probe=True)


def _not_allowed(host: str, domain: str, source: Literal["dane", "mta-sts"], policy: Policy) -> TlsPolicy:
    return TlsPolicy(
        "verify",
        host,
        source=source,
        domain=domain,
        refusal=f"it is no MX that the MTA-STS policy of {domain} allows",
        failure="validation-failure",
        told=policy.told(),
    )


def _required(policy: TlsPolicy, *, trusted: bool) -> TlsPolicy:
    """The policy for a message with REQUIRETLS (RFC 8689 §4.2.1): a name to be trusted, and verified.

    That the next hop offers REQUIRETLS itself is seen when the message is sent (`delivery/client.py`).
    """
    if not trusted:
        return replace(
            policy,
            level="verify",
            source="requiretls",
            refusal="REQUIRETLS: neither DNSSEC nor MTA-STS vouches for the name of this MX",
            failure="",
        )
    if policy.level in ("dane", "verify"):
        return policy
    return replace(policy, level="verify", source="requiretls", probe=False)
