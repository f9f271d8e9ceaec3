# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden quarantine release`, `approve` and `undo`: deciding that held mail goes out, and sending it.

What was released waits out its undo window, here or with the service, whichever is there; then it is
sent by whoever claims it. What cannot be done for one item is told and does not stop the others.
"""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.heldmail import actor, choose, many, opened, report
from gateway.cli.learn import learn_items, learning
from gateway.cli.main import EX_DATAERR, Context, Failure, json_option, why_option
from gateway.cli.output import console, print_json, safe
from gateway.mail.types import ID_PATTERN, new_id
from gateway.store.database import StoreError
from gateway.store.states import WAITING, State

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.delivery.release import Released, Sender
    from gateway.learning import Outcome
    from gateway.store.decisions import Order
    from gateway.store.quarantine import Quarantine
    from gateway.store.states import Actor


undo_window = click.option(
    "--undo-window",
    "window",
    type=click.FloatRange(0, 3_600),
    metavar="SECONDS",
    help="Time in which it can be undone before it is done.",
)
no_wait = click.option("--no-wait", is_flag=True, help="Leave the rest to the service.")


def _how(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say how a release goes out."""
    for option in (
        click.option("--learn", is_flag=True, help="Teach the classifier that it is ham, too."),
        why_option,
        no_wait,
        undo_window,
        click.option("--infected", is_flag=True, help="Release malware as well; for administrators."),
        click.option("--attached", is_flag=True, help="As the attachment of a message of ours."),
        click.option("--only", multiple=True, metavar="ADDRESS", help="Only to this recipient; repeatable."),
        click.option("--to", default="", metavar="ADDRESS", help="Send it there, not to its recipients."),
    ):
        command = option(command)
    return command


@click.command()
@many("Release")
@_how
@click.pass_obj
def release(context: Context, /, **options: Any) -> None:
    """Deliver held messages exactly as they were received, once to each recipient.

    A release of many can be undone for some seconds before it is sent: by Ctrl-C, or from elsewhere
    by `quarantine undo`. The virus scanner is asked again first.

    \b
    Examples:
      mailwarden quarantine release 1M80JFSJGNG4SMAS 1M80JJNYHBMP1VQP
      mailwarden quarantine release 1M80JFSJGNG4SMAS --to postmaster@example.com --attached
      mailwarden quarantine release --all-matching --sender news@example.com --since 2d
      mailwarden quarantine release --learn 1M80JFSJGNG4SMAS
    """
    _release(context, WAITING, approve=False, **options)


@click.command()
@many("Approve")
@_how
@click.pass_obj
def approve(context: Context, /, **options: Any) -> None:
    """Release what was requested, and nothing else; the opposite of `deny`.

    \b
    Examples:
      mailwarden quarantine approve 1M80JFSJGNG4SMAS
      mailwarden quarantine approve --all-matching --recipient bob@example.com
    """
    _release(context, (State.REQUESTED,), approve=True, **options)


@click.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@json_option
@click.option("--quiet", "-q", is_flag=True, help="Print only what went wrong.")
@click.pass_obj
def undo(context: Context, ids: tuple[str, ...], *, as_json: bool, quiet: bool) -> None:
    """Take back releases that are not sent yet, and deletions that are not done.

    ID is a message, or the batch that `release` or `delete` names.

    \b
    Example:
      mailwarden quarantine undo 1M80JFSJGNG4SMAS
    """
    results = []
    with opened(context) as held:
        for one in dict.fromkeys(name.upper() for name in ids):
            found: list[str] = []
            if ID_PATTERN.fullmatch(one):
                who = actor(context)
                found = held.decisions.undo(who, batch=one) or held.decisions.undo(who, item=one)
            results += [{"id": item, "did": "is held again", "error": ""} for item in found]
            if not found:
                results.append({"id": one, "did": "", "error": "nothing of it waits to be sent or deleted"})
    report(results, as_json=as_json, quiet=quiet)
    if any(result["error"] for result in results):
        sys.exit(1)


# ---------------------------------------------------------------- deciding and sending


@dataclass(frozen=True)
class _Way:
    """How a release goes out, as the options of `_how` say."""

    to: str
    only: tuple[str, ...]
    infected: bool
    attached: bool
    window: float | None
    no_wait: bool
    why: str


def _release(
    context: Context,
    states: tuple[State, ...],
    *,
    approve: bool,
    ids: tuple[str, ...],
    all_matching: bool,
    learn: bool,
    yes: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    way = _Way(**{field.name: options.pop(field.name) for field in fields(_Way)})
    with opened(context) as held, learning(context) if learn else nullcontext() as learner:
        items = choose(held, ids, options, states, all_matching=all_matching, yes=yes)
        sender = outfitted(context)
        if sender is None:
            why = "no next hop is configured to release to; set release.next_hop or next_hop"
            raise Failure(why, EX_DATAERR)
        seconds = to_undo(context, way.window, len(items))
        batch, due = new_id(), time.time() + seconds
        orders, results = _schedule(held, items, way, actor(context), batch=batch, due=due, approve=approve)
        waits = bool(orders) and (seconds > 0 or way.no_wait)
        many = "1 message goes" if len(orders) == 1 else f"{len(orders)} messages go"
        if waits and not wait(context, held, batch, due, f"{many} out", leave=way.no_wait, quiet=quiet):
            results += [{**_NOTHING, "id": order.item, "scheduled": True} for order in orders]
        else:
            results += [_sent(held, sender, order) for order in orders]
        delivered = [str(result["id"]) for result in results if result["delivered"]]
        outcome = learn_items(learner, held, delivered, spam=False)
    _tell(results, batch, as_json=as_json, quiet=quiet, learned=outcome)
    if any(result["error"] or result["failed"] for result in results):
        sys.exit(1)


def _schedule(
    held: Quarantine, items: list[str], way: _Way, who: Actor, *, batch: str, due: float, approve: bool
) -> tuple[list[Order], list[dict[str, Any]]]:
    """Decide the releases; what is to be sent, and what went wrong."""
    from gateway.delivery.release import ReleaseError, schedule  # noqa: PLC0415  # asyncio, TLS

    orders: list[Order] = []
    wrong: list[dict[str, Any]] = []
    for item in items:
        try:
            made = schedule(
                held,
                item,
                who,
                due=due,
                batch=batch,
                to=way.to,
                only=way.only or None,
                infected=way.infected,
                wrapped=way.attached,
                why=way.why,
                approve=approve,
            )
        except (ReleaseError, StoreError) as error:
            wrong.append({**_NOTHING, "id": item, "error": str(error)})
        else:
            orders.append(made)
    return orders, wrong


_NOTHING: dict[str, Any] = {
    "id": "",
    "delivered": {},
    "failed": {},
    "doubtful": [],
    "error": "",
    "scheduled": False,
}


def outfitted(context: Context) -> Sender | None:
    """How the configuration says that releases go out; None if it does not."""
    from gateway.assembly import load_hop_logins, ways  # noqa: PLC0415  # only a release needs all of this
    from gateway.delivery.release import outfit  # noqa: PLC0415  # as above
    from gateway.delivery.routes import routes  # noqa: PLC0415  # as above

    config = context.config
    if not config.release.next_hop and not config.routes and not config.next_hop:
        return None
    table = routes(config.routes, config.next_hop)
    return outfit(
        config.release,
        table,
        ways(config, load_hop_logins(config)),
        config.name,
        config.antivirus,
        config.queue_lifetime,
    )


def to_undo(context: Context, window: float | None, count: int) -> float:
    """The seconds in which a decision about so many can be undone; `window` is what the command was told."""
    settings = context.config.release
    if window is not None:
        return window
    return settings.undo_seconds if count == 1 else settings.undo_seconds_bulk


def wait(
    context: Context, held: Quarantine, batch: str, due: float, what: str, *, leave: bool, quiet: bool
) -> bool:
    """Say `what` happens, and wait until the time to undo is over; whether we are to do it. Ctrl-C undoes."""
    out = console(stderr=True)
    seconds = max(0.0, due - time.time())
    if not quiet:
        out.print(f"{what} in {seconds:.0f} s; to undo: mailwarden quarantine undo {batch}")
    if leave:
        return False
    try:
        time.sleep(seconds)
    except KeyboardInterrupt:
        undone = held.decisions.undo(actor(context), batch=batch)
        raise Failure(f"undone: {len(undone)} messages are held again", 130) from None
    return True


def _sent(held: Quarantine, sender: Sender, order: Order) -> dict[str, Any]:
    """Send one order; what the service sent meanwhile is told from what the store knows."""
    from gateway.delivery.release import send  # noqa: PLC0415  # asyncio, TLS

    try:
        done = send(held, sender, order)
    except StoreError as error:
        return {**_NOTHING, "id": order.item, "error": str(error)}
    if done is not None:
        return _released(done)
    found = held.find(order.item)
    copies = {copy.address: copy for copy in found.recipients} if found else {}
    mine = [copies[name] for name in order.recipients if name in copies]
    delivered = {one.address: one.delivered_to for one in mine if one.state is State.RELEASED}
    failed = {one.address: one.note for one in mine if one.state in WAITING and one.note}
    unclear = "" if delivered or failed else "it was undone, or the service is sending it"
    return {**_NOTHING, "id": order.item, "delivered": delivered, "failed": failed, "error": unclear}


def _released(done: Released) -> dict[str, Any]:
    found = {"delivered": dict(done.delivered), "failed": dict(done.failed), "doubtful": list(done.doubtful)}
    return {**_NOTHING, "id": done.item, **found}


def _tell(
    results: Sequence[dict[str, Any]], batch: str, *, as_json: bool, quiet: bool, learned: Outcome | None
) -> None:
    if as_json:
        shown = [{**one, "batch": batch} if one["scheduled"] else one for one in results]
        print_json({"items": shown, "learning": learned.told()} if learned else shown)
        return
    out, errors = console(quiet=quiet), console(stderr=True)
    for result in results:
        name = result["id"]
        for recipient, target in result["delivered"].items():
            where = f"<{target}>" if recipient == target else f"<{target}> in place of <{recipient}>"
            out.print(safe(f"{name} released to {where}", 700), soft_wrap=True)
        for recipient in result["doubtful"]:
            errors.print(safe(f"{name} may reach <{recipient}> twice", 500), soft_wrap=True)
        for recipient, error in result["failed"].items():
            errors.print(safe(f"{name} not released to <{recipient}>: {error}", 900), soft_wrap=True)
        if result["scheduled"]:
            out.print(safe(f"{name} goes out unless it is undone"))
        if result["error"]:
            errors.print(safe(f"{name}: {result['error']}", 700), soft_wrap=True)
    if not results:
        out.print("Nothing matches.")
    if learned:
        out.print(safe("classifier: " + (", ".join(f"{n} {what}" for what, n in learned.told().items()))))
