# SPDX-License-Identifier: GPL-2.0-or-later
"""The options that choose held messages, and how a time is written on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from gateway.store import options

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.store.search import Search
    from gateway.store.states import State


class Moment(click.ParamType[float]):
    """A time: so long ago (90m, 12h, 2d, 1w), or an ISO date or time, local unless it says otherwise."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds since 1970."""
        if isinstance(value, float):
            return value
        try:
            return options.moment(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Span(click.ParamType[options.Span]):
    """From where to where: "8..15", "8..", "..3"; sizes may end in k, M or G."""

    name = "from..to"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float | None, float | None]:
        """Both ends, None for an open one."""
        if isinstance(value, tuple):
            return value[0], value[1]
        try:
            return options.span(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


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
    return options.search(chosen, saved, state, limit=limit, offset=offset)
