# SPDX-License-Identifier: GPL-2.0-or-later
"""Mail domains as settings and envelopes name them: one spelling, and matching against lists.

Reads domains from hostile envelopes; bounded by the 255 octets of a domain name. No I/O.
"""

from __future__ import annotations

import re
from functools import lru_cache

_LONGEST = 255  # RFC 5321 §4.5.3.1.2
# Letters of any script, so that a name may be written as U-labels.
_LABEL = r"(?!-)[\w-]{1,63}(?<!-)"
_PATTERN = re.compile(rf"\.?{_LABEL}(?:\.{_LABEL})*")


def check_pattern(text: str) -> None:
    """Raise ValueError unless `text` names a domain in a setting: "example.com", or ".example.com"."""
    if len(text) > _LONGEST or not _PATTERN.fullmatch(text):
        raise ValueError(f'"{text}" is no domain; write "example.com", or ".example.com" for all below it')


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
    exact, below = _table(patterns)
    wanted = normal(domain)
    return wanted in exact or any(wanted.endswith(parent) for parent in below)


@lru_cache(maxsize=256)
def _table(patterns: tuple[str, ...]) -> tuple[frozenset[str], tuple[str, ...]]:
    exact = frozenset(normal(p) for p in patterns if not p.startswith("."))
    return exact, tuple("." + normal(p[1:]) for p in patterns if p.startswith("."))
