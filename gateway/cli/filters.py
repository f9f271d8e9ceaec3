# SPDX-License-Identifier: GPL-2.0-or-later
"""The options that choose held messages, and how a time is written on the command line."""

from __future__ import annotations

import re
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from gateway.mail.headers import printable
from gateway.store.search import Search

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.store.states import State

_SPAN = re.compile(r"(\d{1,6})\s*([smhdw])", re.ASCII)
_RANGE = re.compile(r"(-?\d{1,9}(?:\.\d{1,3})?[kMG]?)?\.\.(-?\d{1,9}(?:\.\d{1,3})?[kMG]?)?", re.ASCII)
_UNITS = {"k": 1e3, "M": 1e6, "G": 1e9}
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


class Moment(click.ParamType[float]):
    """A time: so long ago (90m, 12h, 2d, 1w), or an ISO date or time, local unless it says otherwise."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds since 1970."""
        if isinstance(value, float):
            return value
        if found := _SPAN.fullmatch(value):
            return time.time() - int(found[1]) * _SECONDS[found[2]]
        try:
            return datetime.fromisoformat(value).timestamp()
        except (ValueError, OverflowError):
            self.fail(f"{printable(value, 40)!r} is no time; write 2d, 12h or 2026-01-31", param, ctx)


class Span(click.ParamType[tuple[float | None, float | None]]):
    """From where to where: "8..15", "8..", "..3"; sizes may end in k, M or G."""

    name = "from..to"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float | None, float | None]:
        """Both ends, None for an open one."""
        if isinstance(value, tuple):
            return value[0], value[1]
        found = _RANGE.fullmatch(value)
        if found is None or not (found[1] or found[2]):
            self.fail(f"{printable(value, 40)!r} is no range; write 8..15, 8.. or ..100k", param, ctx)
        low, high = (_number(text) if text else None for text in (found[1], found[2]))
        return low, high


def _number(text: str) -> float:
    return float(text.rstrip("kMG")) * _UNITS.get(text[-1], 1.0)


# name, type, help: what can be asked for, and what a saved filter keeps
OPTIONS: tuple[tuple[str, click.ParamType[Any], str], ...] = (
    ("sender", click.STRING, "Part of the envelope sender, in any case."),
    ("recipient", click.STRING, "Part of a recipient's address."),
    ("domain", click.STRING, "Domain of the sender or of a recipient."),
    ("subject", click.STRING, "Part of the subject."),
    ("reason", click.STRING, "Name of a signal it is held for, or score."),
    ("since", Moment(), "Held since: 2d, 12h, or a date."),
    ("until", Moment(), "Held before: 2d, 12h, or a date."),
    ("score", Span(), "Points: 8..15, 8.. or ..3, the end left out."),
    ("size", Span(), "Octets: 1M.., 10k..50k."),
)


def filters(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that choose items, for `list` and for work on many at once."""
    saved = click.option("--filter", "saved", metavar="NAME", help="As saved by `quarantine filter save`.")
    for option in reversed([click.option(f"--{name}", type=kind, help=text) for name, kind, text in OPTIONS]):
        command = option(command)
    return saved(command)


def plain_filters(command: Callable[..., Any]) -> Callable[..., Any]:
    """The same options, checked and kept as they were written, so that 2d stays two days."""

    def checked(kind: click.ParamType[Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
        def check(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
            if value is not None:
                kind.convert(value, param, ctx)
            return value

        return check

    for name, kind, text in reversed(OPTIONS):
        command = click.option(f"--{name}", callback=checked(kind), help=text)(command)
    return command


def wanted(
    chosen: dict[str, Any],
    saved: dict[str, str],
    state: State | tuple[State, ...] | None,
    limit: int = 100,
    offset: int = 0,
) -> Search:
    """The search that options ask for, on top of those of a saved filter."""
    kinds = {name: kind for name, kind, _ in OPTIONS}
    found = {name: kinds[name].convert(value, None, None) for name, value in saved.items() if name in kinds}
    found |= {name: value for name, value in chosen.items() if value is not None}
    score, size = found.pop("score", (None, None)), found.pop("size", (None, None))
    return Search(
        state=state,
        limit=limit,
        offset=offset,
        score_from=score[0],
        score_below=score[1],
        larger=None if size[0] is None else int(size[0]),
        smaller=None if size[1] is None else int(size[1]),
        **found,
    )
