# SPDX-License-Identifier: GPL-2.0-or-later
"""The options that choose held messages, and how a time is written on the command line."""

from __future__ import annotations

import re
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from gateway.mail.headers import printable

if TYPE_CHECKING:
    from collections.abc import Callable

_SPAN = re.compile(r"(\d{1,6})\s*([smhdw])", re.ASCII)
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


def filters(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that choose items, for `list` and for work on many at once."""
    options = (
        click.option("--sender", default="", help="Part of the envelope sender, in any case."),
        click.option("--recipient", default="", help="Part of a recipient's address."),
        click.option("--subject", default="", help="Part of the subject."),
        click.option("--reason", default="", help="Name of a signal it is held for, or score."),
        click.option("--since", type=Moment(), help="Held since: 2d, 12h, or a date."),
        click.option("--until", type=Moment(), help="Held before: 2d, 12h, or a date."),
    )
    for option in reversed(options):
        command = option(command)
    return command
