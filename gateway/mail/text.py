# SPDX-License-Identifier: GPL-2.0-or-later
"""Links in plain text.

Reads hostile text; linear: each pattern is anchored on a literal and takes its characters once.
"""

from __future__ import annotations

import re

MAX_URLS = 5_000
_SCHEME = re.compile(r"(?:https?|ftp)\Z", re.IGNORECASE)
_TARGET = re.compile(r"[^\s<>\"'\x00-\x1f\x7f\u2028\u2029]{1,2000}")
_TRAILING = ".,;:!?*'\")]}>"


def urls(text: str, limit: int = MAX_URLS) -> list[str]:
    """The links in `text` (http, https, ftp, and names that start with www), at most `limit`."""
    found: dict[str, None] = {}
    position = text.find("://")
    while position >= 0 and len(found) < limit:
        scheme = _SCHEME.search(text[max(0, position - 5) : position])
        rest = _TARGET.match(text, position + 3) if scheme else None
        if scheme and rest:
            found.setdefault(scheme[0] + "://" + _without_trailing(rest[0]))
        position = text.find("://", rest.end() if rest else position + 3)
    for mark in ("www.", "WWW.", "Www."):
        position = text.find(mark)
        while position >= 0 and len(found) < limit:
            rest = _TARGET.match(text, position)
            if rest and (
                position == 0 or not (text[position - 1].isalnum() or text[position - 1] in "/.@-_=")
            ):
                found.setdefault(_without_trailing(rest[0]))
            position = text.find(mark, rest.end() if rest else position + 4)
    return list(found)


def _without_trailing(target: str) -> str:
    """Leave off the punctuation of the sentence, but not the bracket that the link opened."""
    short = target.rstrip(_TRAILING)
    if short.count("(") > short.count(")") and target[len(short) : len(short) + 1] == ")":
        short += ")"
    return short
