# SPDX-License-Identifier: GPL-2.0-or-later
"""Searches as people write them, on a command line, in a form or a query: names, times, ranges.

Reads text of strangers; bounded, and a wrong one is a ValueError that says what to write.
"""

from __future__ import annotations

import re
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from gateway.mail.headers import printable
from gateway.store.search import Search

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.store.states import State

Span = tuple[float | None, float | None]

_AGO = re.compile(r"(\d{1,6})\s*([smhdw])", re.ASCII)
_RANGE = re.compile(r"(-?\d{1,9}(?:\.\d{1,3})?[kMG]?)?\.\.(-?\d{1,9}(?:\.\d{1,3})?[kMG]?)?", re.ASCII)
_UNITS = {"k": 1e3, "M": 1e6, "G": 1e9}
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_LONGEST = 320


def text(value: str) -> str:
    """A part of an address or a subject, bounded."""
    if len(value) > _LONGEST:
        raise ValueError(f"longer than {_LONGEST} characters")
    if "\0" in value:  # ends a pattern in SQLite
        raise ValueError("write it without NUL")
    return value


def moment(value: str) -> float:
    """A time in seconds since 1970: so long ago (90m, 12h, 2d, 1w), or an ISO date or time."""
    if found := _AGO.fullmatch(value):
        return time.time() - int(found[1]) * _SECONDS[found[2]]
    try:
        return datetime.fromisoformat(value).timestamp()
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{printable(value, 40)!r} is no time; write 2d, 12h or 2026-01-31") from error


def span(value: str) -> Span:
    """Both ends of "8..15", "8.." or "..100k", None for an open one."""
    found = _RANGE.fullmatch(value)
    if found is None or not (found[1] or found[2]):
        raise ValueError(f"{printable(value, 40)!r} is no range; write 8..15, 8.. or ..100k")
    low, high = (_number(one) if one else None for one in (found[1], found[2]))
    return low, high


def _number(value: str) -> float:
    return float(value.rstrip("kMG")) * _UNITS.get(value[-1], 1.0)


# What can be asked for, and how each is read.
READERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "sender": text,
    "recipient": text,
    "domain": text,
    "subject": text,
    "reason": text,
    "since": moment,
    "until": moment,
    "score": span,
    "size": span,
}


def search(
    read: Mapping[str, Any],
    saved: Mapping[str, str],
    state: State | tuple[State, ...] | None,
    **rest: Any,
) -> Search:
    """The search that options ask for: those that are `read` already, on top of those that were `saved`."""
    found = {name: READERS[name](value) for name, value in saved.items() if name in READERS}
    found |= {name: value for name, value in read.items() if value is not None}
    score, size = found.pop("score", (None, None)), found.pop("size", (None, None))
    return Search(
        state=state,
        score_from=score[0],
        score_below=score[1],
        larger=None if size[0] is None else int(size[0]),
        smaller=None if size[1] is None else int(size[1]),
        **found,
        **rest,
    )
