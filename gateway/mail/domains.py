# SPDX-License-Identifier: GPL-2.0-or-later
"""Mail domains as settings and envelopes name them: one spelling, and matching against lists.

Reads domains from hostile envelopes; bounded by the 255 octets of a domain name. No I/O.
"""

from __future__ import annotations

_LONGEST = 255  # RFC 5321 §4.5.3.1.2


def domain_of(address: str) -> str:
    """The domain of `address` in its one spelling, "" if there is none (null sender, bare name)."""
    local, at, domain = address.rpartition("@")
    return normal(domain) if at and local else ""


def normal(domain: str) -> str:
    """`domain` in lower case and as A-labels, so that two spellings of it compare equal.

    What cannot be a domain name comes back in lower case: it equals no configured domain.
    """
    lowered = domain.lower()
    if lowered.isascii() or len(lowered) > _LONGEST:
        return lowered
    try:
        return lowered.encode("idna").decode("ascii")
    except UnicodeError:
        return lowered


def matches(domain: str, patterns: tuple[str, ...]) -> bool:
    """Whether `domain` is one of `patterns`, or below one that starts with a dot (".example.com")."""
    wanted = normal(domain)
    for pattern in patterns:
        spelt = normal(pattern.removeprefix("."))
        if wanted == spelt and not pattern.startswith("."):
            return True
        if pattern.startswith(".") and wanted.endswith("." + spelt):
            return True
    return False
