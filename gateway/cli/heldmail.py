# SPDX-License-Identifier: GPL-2.0-or-later
"""What the commands about held mail share: opening the quarantine, who works on it, choosing from it."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from gateway.cli import database
from gateway.cli.filters import filters, wanted
from gateway.cli.helditem import listing
from gateway.cli.main import EX_NOINPUT, EX_USAGE, Context, Failure, json_option
from gateway.cli.output import console, print_json, safe
from gateway.cli.person import operator
from gateway.mail.headers import printable
from gateway.store.filters import Filters
from gateway.store.quarantine import Quarantine
from gateway.store.states import Actor, Role

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from gateway.store.states import State

BULK = 1_000  # items that one --all-matching takes
PREVIEW = 20  # of them that are shown before


@contextmanager
def opened(context: Context) -> Iterator[Quarantine]:
    """The quarantine of the configured database; its errors end the program with EX_UNAVAILABLE."""
    with database.opened(context.config) as store:
        yield Quarantine(store, context.config.store)


def actor(context: Context) -> Actor:
    """Who is at the keyboard. Whoever can open the database reviews; some may release malware."""
    name = operator()
    trusted = name.removeprefix("cli:") in context.config.release.administrators
    return Actor(name, Role.ADMINISTRATOR if trusted else Role.REVIEWER)


def many(verb: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The arguments and options of a command that works on named messages, or on all that match."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in (
            json_option,
            click.option("--quiet", "-q", is_flag=True, help="Print only what went wrong."),
            click.option("--yes", is_flag=True, help="Do not ask before working on many."),
            click.option("--all-matching", is_flag=True, help=f"{verb} all that the filters choose."),
        ):
            command = option(command)
        return click.argument("ids", nargs=-1, metavar="[ID]...")(filters(command))

    return decorate


def choose(
    held: Quarantine,
    ids: Sequence[str],
    chosen: dict[str, Any],
    states: tuple[State, ...],
    *,
    all_matching: bool,
    yes: bool,
) -> list[str]:
    """The ids to work on: those named, or those that match once that was confirmed."""
    saved = chosen.pop("saved", None)
    filtered = saved is not None or any(value is not None for value in chosen.values())
    if bool(ids) == all_matching or (filtered and not all_matching):
        raise Failure("name the messages, or choose them with filters and --all-matching", EX_USAGE)
    if ids:
        return list(dict.fromkeys(printable(one.upper(), 40) for one in ids))
    search = wanted(chosen, saved_filter(held, saved), states, BULK)
    items = held.search(search)
    total = held.count(search) if len(items) == BULK else len(items)
    if items and not yes:
        if not sys.stdin.isatty():
            raise Failure(f"{total} messages match; add --yes to go on", EX_USAGE)
        out = console(stderr=True)
        out.print(listing(items[:PREVIEW], out.width))
        if total > PREVIEW:
            out.print(f"... and {total - PREVIEW} more")
        some = f"the newest {len(items)} of {total}" if total > len(items) else f"{total}"
        click.confirm(f"{some} messages. Go on?", abort=True, err=True)
    return [item.id for item in items]


def saved_filter(held: Quarantine, name: str | None) -> dict[str, str]:
    """The options that were saved under a name; none for None."""
    if name is None:
        return {}
    found = Filters(held.database).all().get(name)
    if found is None:
        raise Failure(
            f"no filter is called {printable(name, 40)}; see mailwarden quarantine filter list", EX_NOINPUT
        )
    return found


def report(results: list[dict[str, Any]], *, as_json: bool, quiet: bool = False) -> None:
    """Print what became of each item: `did` is a sentence about what was done, `error` why not."""
    if as_json:
        print_json(results)
        return
    out, errors = console(), console(stderr=True)
    for result in results:
        if result["error"]:
            errors.print(safe(f"{result['id']}: {result['error']}", 700), soft_wrap=True)
        elif not quiet:
            out.print(safe(f"{result['id']} {result['did']}", 700), soft_wrap=True)
    if not results and not quiet:
        out.print("Nothing matches.")
