# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden review`: work through held messages on a full screen."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.filters import filters, wanted
from gateway.cli.heldmail import actor, opened, saved_filter
from gateway.cli.learn import learn_items, learning
from gateway.cli.main import EX_USAGE, Context, Failure, config_option
from gateway.cli.output import console, safe
from gateway.cli.releases import outfitted
from gateway.store.decisions import RefusedError
from gateway.store.states import WAITING

if TYPE_CHECKING:
    from gateway.cli.desk import Desk
    from gateway.store.quarantine import Quarantine

_LEAST_WINDOW = 3.0  # seconds to undo, whatever the settings say


@click.command()
@filters
@config_option
@click.pass_obj
def review(context: Context, /, saved: str | None, **chosen: Any) -> None:
    """Review held messages on a full screen: list, preview, and a key for each decision (? shows them).

    \b
    Examples:
      mailwarden review
      mailwarden review --since 2d --reason score
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Failure("this needs a terminal; see mailwarden quarantine list", EX_USAGE)
    from gateway.cli.desk import Desk  # noqa: PLC0415  # asyncio, TLS
    from gateway.cli.screen import Review  # noqa: PLC0415  # heavy

    with opened(context) as held:
        search = wanted(chosen, saved_filter(held, saved), WAITING)
        window = max(_LEAST_WINDOW, context.config.release.undo_seconds_bulk)

        def learn(item: str, spam: bool) -> str:
            return _learned(context, held, item, spam=spam)

        desk = Desk(held, outfitted(context), actor(context), window=window, learn=learn, wanted=search)
        Review(desk).run()
        _finish(desk)


def _finish(desk: Desk) -> None:
    """Wait for what was decided last, and do it; Ctrl-C takes it back."""
    out, count = console(), len(desk.pending)
    if seconds := max((one.due - time.time() for one in desk.pending), default=0.0):
        what = "1 decision is" if count == 1 else f"{count} decisions are"
        out.print(f"{what} carried out within {max(seconds, 1.0):.0f} s; Ctrl-C takes back what is not done.")
    try:
        while desk.pending:
            out.print(safe(desk.settle(desk.pending[0]), 400), soft_wrap=True)
            del desk.pending[0]
    except KeyboardInterrupt:
        undone = 0
        while desk.pending:
            with suppress(RefusedError):
                desk.undo()
                undone += 1
        held = "1 message is" if undone == 1 else f"{undone} messages are"
        raise Failure(f"undone: {held} held again", 130) from None


def _learned(context: Context, held: Quarantine, item: str, *, spam: bool) -> str:
    """Teach the classifier with one item, and say what came of it."""
    try:
        with learning(context) as learner:
            outcome = learn_items(learner, held, [item], spam=spam)
    except Failure as error:
        raise RefusedError(error.message) from error
    counts = outcome.told() if outcome else {}
    return f"{item} as {'spam' if spam else 'ham'}: " + ", ".join(f"{n} {what}" for what, n in counts.items())
