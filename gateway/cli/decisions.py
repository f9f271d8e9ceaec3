# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden quarantine request`, `deny`, `answer` and `delete`: decisions that send nothing.

A deletion waits out its undo window, as a release does.
"""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.heldmail import actor, choose, many, opened, report
from gateway.cli.learn import learn_items, learning
from gateway.cli.main import json_option, why_option
from gateway.cli.output import console, print_json, safe
from gateway.cli.releases import no_wait, to_undo, undo_window, wait
from gateway.mail.types import new_id
from gateway.store.database import StoreError
from gateway.store.decisions import RefusedError
from gateway.store.states import OPEN, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gateway.cli.main import Context
    from gateway.store.decisions import Order
    from gateway.store.quarantine import Quarantine
    from gateway.store.states import Actor

_only = click.option("--only", multiple=True, metavar="ADDRESS", help="Only for this recipient; repeatable.")


@click.command()
@many("Request")
@why_option
@_only
@click.pass_obj
def request(
    context: Context,
    /,
    ids: tuple[str, ...],
    *,
    only: tuple[str, ...],
    why: str,
    all_matching: bool,
    yes: bool,
    as_json: bool,
    quiet: bool,
    **chosen: Any,
) -> None:
    """Ask for held messages to be released; a reviewer approves or denies that.

    \b
    Examples:
      mailwarden quarantine request 1M80JFSJGNG4SMAS --only bob@example.com --why "an invoice"
      mailwarden quarantine list --state requested
    """
    with opened(context) as held:
        items = choose(held, ids, chosen, (State.HELD,), all_matching=all_matching, yes=yes)
        who, ask = actor(context), held.decisions.request
        results = _each(items, lambda item: "requested for " + _names(ask(item, only or None, who, why=why)))
    _end(results, as_json=as_json, quiet=quiet)


@click.command()
@many("Deny")
@why_option
@_only
@click.pass_obj
def deny(
    context: Context,
    /,
    ids: tuple[str, ...],
    *,
    only: tuple[str, ...],
    why: str,
    all_matching: bool,
    yes: bool,
    as_json: bool,
    quiet: bool,
    **chosen: Any,
) -> None:
    """Say no to a request, or before there is one. The message stays until it expires.

    \b
    Examples:
      mailwarden quarantine deny 1M80JFSJGNG4SMAS --why "phishing"
      mailwarden quarantine deny --all-matching --domain example.net --yes
    """
    with opened(context) as held:
        states = (State.HELD, State.REQUESTED)
        items = choose(held, ids, chosen, states, all_matching=all_matching, yes=yes)
        who, say_no = actor(context), held.decisions.deny
        results = _each(items, lambda item: "denied for " + _names(say_no(item, only or None, who, why=why)))
    _end(results, as_json=as_json, quiet=quiet)


@click.command()
@click.argument("id")
@click.argument("reasons", nargs=-1, required=True, metavar="REASON...")
@why_option
@click.option("--infected", is_flag=True, help="Answer for malware as well; for administrators.")
@json_option
@click.option("--quiet", "-q", is_flag=True, help="Print only what went wrong.")
@click.pass_obj
def answer(
    context: Context,
    /,
    id: str,  # noqa: A002  # the argument
    reasons: tuple[str, ...],
    *,
    why: str,
    infected: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Answer some of the reasons that a message is held for; it leaves when all are answered.

    A release answers all that its releaser may answer, so this is for those that somebody else must.

    \b
    Example:
      mailwarden quarantine answer 1M80JFSJGNG4SMAS VIRUS --infected --why "a sample we asked for"
    """
    from gateway.store.search import spelling  # noqa: PLC0415  # help stays quick

    names = [spelling(reason) for reason in reasons]

    def work(item: str) -> str:
        done = held.decisions.answer(item, names, actor(context), why=why, aloud=infected)
        if not done:
            raise RefusedError("it is not held for that, or that is answered")
        return "answered: " + ", ".join(done)

    with opened(context) as held:
        results = _each([id.upper()], work)
    _end(results, as_json=as_json, quiet=quiet)


@click.command()
@many("Delete")
@why_option
@click.option("--learn", is_flag=True, help="Teach the classifier that they are spam, first.")
@no_wait
@undo_window
@click.pass_obj
def delete(
    context: Context,
    /,
    ids: tuple[str, ...],
    *,
    why: str,
    learn: bool,
    no_wait: bool,
    window: float | None,
    all_matching: bool,
    yes: bool,
    as_json: bool,
    quiet: bool,
    **chosen: Any,
) -> None:
    """Delete messages for good. An empty row and the audit stay.

    A deletion of many can be undone for some seconds: by Ctrl-C, or from elsewhere by `quarantine undo`. What
    was learned stays learned.

    \b
    Examples:
      mailwarden quarantine delete 1M80JFSJGNG4SMAS
      mailwarden quarantine delete --all-matching --reason VIRUS --until 7d --yes
      mailwarden quarantine delete --learn 1M80JFSJGNG4SMAS
    """
    with opened(context) as held, learning(context) if learn else nullcontext() as learner:
        items = choose(held, ids, chosen, OPEN, all_matching=all_matching, yes=yes)
        outcome = learn_items(learner, held, items, spam=True)
        doom = _Doom(held, actor(context), time.time() + to_undo(context, window, len(items)), why)
        results = {one["id"]: {**one, "scheduled": False} for one in _each(items, doom.order)}
        waits = bool(doom.orders) and (doom.due > time.time() or no_wait)
        if waits and not wait(context, held, doom.batch, doom.due, doom.told(), leave=no_wait, quiet=quiet):
            ordered = {"did": "is deleted unless it is undone", "scheduled": True, "batch": doom.batch}
            results |= {item: {**results[item], **ordered} for item in doom.orders}
        else:
            results |= {one["id"]: {**one, "scheduled": False} for one in _each(doom.orders, doom.do)}
    told = [{**one, "deleted": bool(one["did"]) and not one["scheduled"]} for one in results.values()]
    if as_json and outcome:
        print_json({"items": told, "learning": outcome.told()})
        sys.exit(1 if any(one["error"] for one in told) else 0)
    if outcome and not quiet:
        counts = ", ".join(f"{n} {what}" for what, n in outcome.told().items())
        console().print(safe(f"classifier: {counts}"))
    _end(told, as_json=as_json, quiet=quiet)


class _Doom:
    """Deletions that are ordered together, and what was ordered."""

    def __init__(self, held: Quarantine, who: Actor, due: float, why: str) -> None:
        self._held, self._who, self._why = held, who, why
        self.batch, self.due = new_id(), due
        self.orders: dict[str, Order] = {}

    def told(self) -> str:
        """What happens when the time to undo is over."""
        return f"{'1 message is' if len(self.orders) == 1 else f'{len(self.orders)} messages are'} deleted"

    def order(self, item: str) -> str:
        """Order one; what has gone out already is deleted at once."""
        made = self._held.discard(item, self._who, due=self.due, batch=self.batch, why=self._why)
        if made is not None:
            self.orders[item] = made
        return "deleted"

    def do(self, item: str) -> str:
        """Delete what was ordered, if nobody has undone it."""
        if not self._held.delete_due(self.orders[item]):
            found = self._held.find(item)
            if found is not None and found.state in OPEN:
                raise RefusedError("it was undone")
        return "deleted"


def _each(items: Iterable[str], work: Callable[[str], str]) -> list[dict[str, Any]]:
    """Do `work` on each item; what it says was done, or why not."""
    results = []
    for item in items:
        try:
            results.append({"id": item, "did": work(item), "error": ""})
        except (RefusedError, StoreError) as error:
            results.append({"id": item, "did": "", "error": str(error)})
    return results


def _end(results: list[dict[str, Any]], *, as_json: bool, quiet: bool) -> None:
    report(results, as_json=as_json, quiet=quiet)
    if any(result["error"] for result in results):
        sys.exit(1)


def _names(people: tuple[str, ...]) -> str:
    return ", ".join(f"<{one}>" for one in people)
