# SPDX-License-Identifier: GPL-2.0-or-later
"""Mail domains as settings, envelopes and header fields name them: one spelling, and matching against lists.

Reads domains of strangers; bounded by the 255 octets of a domain name. No I/O.

Names are mapped as UTS 46 has it (non-transitional) and encoded by IDNA2008 (RFC 5891). Python's codec is
IDNA2003, which takes "faß.de" for "fass.de": another domain, with another owner. What is to be
proved goes through `to_ascii`, which knows no name that the two read differently; what is only
compared goes through `normal`.
"""

from __future__ import annotations

import re
from functools import lru_cache

import idna

_LONGEST = 255  # RFC 5321 §4.5.3.1.2
# Letters of any script, so that a name may be written as U-labels.
_LABEL = r"(?!-)[\w-]{1,63}(?<!-)"
_PATTERN = re.compile(rf"\.?{_LABEL}(?:\.{_LABEL})*")
# What mapping may leave of a label in ASCII: U+2100 becomes "a/c", and would end a host.
_PLAIN = re.compile(r"[a-z0-9_-]*(?:\.[a-z0-9_-]*)*")


def check_pattern(text: str) -> None:
    """Raise ValueError unless `text` names a domain in a setting: "example.com", or ".example.com"."""
    if len(text) > _LONGEST or not _PATTERN.fullmatch(text):
        raise ValueError(f'"{text}" is no domain; write "example.com", or ".example.com" for all below it')


def domain_of(address: str) -> str:
    """The domain of `address` in its one spelling, "" if there is none (null sender, bare name)."""
    local, at, domain = address.rpartition("@")
    return normal(domain) if at and local else ""


def to_ascii(domain: str) -> str | None:
    """The name in the DNS: lower case, no final dot, A-labels; None if there is none for certain.

    None as well where IDNA2003, by which some clients still go, makes another name of it (sharp s,
    final sigma, joiners): whoever owns the one could pass for the other.
    """
    name = domain.removesuffix(".")
    if not name.isascii():
        name = _encoded(name) if len(readings(name)) == 1 else ""
    valid = 0 < len(name) <= 253 and all(0 < len(label) < 64 for label in name.split("."))
    return name.lower() if valid else None


def normal(domain: str) -> str:
    """`domain` in lower case, as A-labels and without a final dot, so that its spellings compare equal.

    What cannot be a domain name comes back in lower case: it equals no configured domain.
    """
    name = _without_root(domain.lower())
    # IDNA has more than one full stop, so that a final one may come of it.
    return name if name.isascii() else _without_root(_encoded(name) or name)


def spellings(domain: str) -> tuple[str, ...]:
    """How addresses may write `domain`: as it is here, as A-labels, and as U-labels; for searches of text."""
    name = normal(domain)
    return tuple(dict.fromkeys((domain, name, ".".join(_label(one) for one in name.split(".")))))


def _label(label: str) -> str:
    """An A-label as U-label; any other, and one that is none, as it is."""
    try:
        return idna.ulabel(label) if label.startswith("xn--") else label
    except UnicodeError:  # IDNAError is one
        return label


def _without_root(name: str) -> str:
    """`name` without its final dot; two of them are no name's end, and stay."""
    return name if name.endswith("..") else name.removesuffix(".")


def readings(domain: str) -> tuple[str, ...]:
    """All names that programs take a domain for, that of IDNA2008 first; () if none takes it for one."""
    return tuple(dict.fromkeys(name for name in (_encoded(domain), _encoded_2003(domain)) if name))


@lru_cache(maxsize=4096)
def _encoded(domain: str) -> str:
    """`domain` by IDNA2008, "" if it has no name. Labels in ASCII stay: "_dmarc" is no host name."""
    if len(domain) > _LONGEST:
        return ""
    try:
        mapped = idna.uts46_remap(domain, std3_rules=False, transitional=False)
        labels = [x if x.isascii() else idna.alabel(x).decode("ascii") for x in mapped.split(".")]
    except UnicodeError:  # IDNAError is one
        return ""
    return _plain(".".join(labels))


@lru_cache(maxsize=4096)
def _encoded_2003(domain: str) -> str:
    if len(domain) > _LONGEST:  # the codec is quadratic in the length of a label
        return ""
    try:
        return _plain(domain.encode("idna").decode("ascii"))
    except UnicodeError:
        return ""


def _plain(name: str) -> str:
    """`name` in lower case, "" if it has anything in it that no host name has."""
    lowered = name.lower()
    return lowered if _PLAIN.fullmatch(lowered) else ""


def matches(domain: str, patterns: tuple[str, ...]) -> bool:
    """Whether `domain` is one of `patterns`, or below one that starts with a dot (".example.com")."""
    exact, below = _table(patterns)
    wanted = normal(domain)
    return wanted in exact or any(wanted.endswith(parent) for parent in below)


@lru_cache(maxsize=256)
def _table(patterns: tuple[str, ...]) -> tuple[frozenset[str], tuple[str, ...]]:
    exact = frozenset(normal(p) for p in patterns if not p.startswith("."))
    return exact, tuple("." + normal(p[1:]) for p in patterns if p.startswith("."))
