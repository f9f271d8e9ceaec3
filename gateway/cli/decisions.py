# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden quarantine request`, `deny`, `answer` and `delete`: decisions that send nothing."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.heldmail import actor, choose, many, opened, report
from gateway.cli.learn import learn_items, learning
from gateway.cli.main import json_option, why_option
from gateway.cli.output import console, print_json, safe
from gateway.store.database import StoreError
from gateway.store.decisions import RefusedError
from gateway.store.states import OPEN, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gateway.cli.main import Context

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
@click.pass_obj
def delete(
    context: Context,
    /,
    ids: tuple[str, ...],
    *,
    why: str,
    learn: bool,
    all_matching: bool,
    yes: bool,
    as_json: bool,
    quiet: bool,
    **chosen: Any,
) -> None:
    """Delete messages for good. An empty row and the audit stay.

    \b
    Examples:
      mailwarden quarantine delete 1M80JFSJGNG4SMAS
      mailwarden quarantine delete --all-matching --reason VIRUS --until 7d --yes
      mailwarden quarantine delete --learn 1M80JFSJGNG4SMAS
    """
    who = actor(context)

    def work(item: str) -> str:
        if not held.delete(item, who, why=why):
            raise RefusedError("no such message, or it is gone or being released")
        return "deleted"

    with opened(context) as held, learning(context) if learn else nullcontext() as learner:
        items = choose(held, ids, chosen, OPEN, all_matching=all_matching, yes=yes)
        outcome = learn_items(learner, held, items, spam=True)
        results = [{**one, "deleted": bool(one["did"])} for one in _each(items, work)]
    if as_json and outcome:
        print_json({"items": results, "learning": outcome.told()})
    else:
        report(results, as_json=as_json, quiet=quiet)
        if outcome and not quiet:
            counts = ", ".join(f"{n} {what}" for what, n in outcome.told().items())
            console().print(safe(f"classifier: {counts}"))
    if any(result["error"] for result in results):
        sys.exit(1)


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
