# SPDX-License-Identifier: GPL-2.0-or-later
"""The Public Suffix List, from the copy that the publicsuffixlist package carries. No network.

Reads domains of strangers; bounded by the length of a domain name.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from functools import lru_cache
from importlib import resources
from typing import Final

from publicsuffixlist import PublicSuffixList

from gateway.mail.domains import to_ascii

STALE: Final = 365  # days from which a newer list is worth an update
_VERSION: Final = re.compile(r"^// VERSION: (\S{1,40})", re.MULTILINE)


@lru_cache(maxsize=1)
def load() -> PublicSuffixList:
    """Read the list, once; call it before a fork, so that all processes share it."""
    return PublicSuffixList()


@lru_cache(maxsize=1)
def version() -> str:
    """The version of the list, a date and time such as "2026-01-31_08-15-00_UTC"; "" if it states none."""
    with (
        resources.files("publicsuffixlist").joinpath("public_suffix_list.dat").open(encoding="utf-8") as file
    ):
        found = _VERSION.search(file.read(2000))
    return found[1] if found else ""


def age(today: date | None = None) -> int | None:
    """How many days old the list is; None if it states no date."""
    try:
        made = date.fromisoformat(version()[:10])
    except ValueError:
        return None
    return ((today or datetime.now(UTC).date()) - made).days


def told() -> str:
    """The version and age of the list, in words."""
    days = age()
    return "of unknown age" if days is None else f"of {version()[:10]}, {days} days old"


@lru_cache(maxsize=8192)
def organizational(domain: str) -> str | None:
    """The organizational domain (RFC 7489 §3.2): one label more than the public suffix; None for a suffix."""
    name = to_ascii(domain)
    if name is None or name.startswith("."):
        return None
    found: str | None = load().privatesuffix(name)
    return found


@lru_cache(maxsize=8192)
def known(domain: str) -> str | None:
    """The organizational domain where the list itself has the suffix: "notes.txt" is none."""
    name = to_ascii(domain)
    if name is None or name.startswith("."):
        return None
    found: str | None = load().privatesuffix(name, accept_unknown=False)
    return found
