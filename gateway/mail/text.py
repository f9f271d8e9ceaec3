# SPDX-License-Identifier: GPL-2.0-or-later
"""Links in plain text.

Reads hostile text; linear: each pattern is anchored on a literal and takes its characters once.
"""

from __future__ import annotations

import re

MAX_URLS = 1_000
MAX_TARGET = 2_000

_URL = re.compile(
    r"\b(?:https?|ftp)://[^\s<>\"'\x00-\x1f\x7f\u2028\u2029]{1,2000}|\bwww\.[a-z0-9-][^\s<>\"'\x00-\x1f]{1,2000}",
    re.IGNORECASE,
)
_TRAILING = ".,;:!?*'\")]}>"


def urls(text: str, limit: int = MAX_URLS) -> list[str]:
    """The links in `text`, in order, without doubles, at most `limit`."""
    if "://" not in text and "www." not in text.lower():
        return []
    found: dict[str, None] = {}
    for match in _URL.finditer(text):
        target = match[0].rstrip(_TRAILING)
        if target.count("(") > target.count(")") and match[0][len(target) : len(target) + 1] == ")":
            target += ")"
        found.setdefault(target)
        if len(found) >= limit:
            break
    return list(found)
