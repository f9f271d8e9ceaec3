# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden queue`: look at the mail that waits for its next hop, and decide about it.

Shows addresses from hostile envelopes and replies of next hops; every text passes `output`. Mail that
a delivery agent is sending at this moment is left to it; a command that is to change it waits some seconds.
"""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from time import monotonic as now
from time import sleep as nap
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.database import opened
from gateway.cli.filters import Moment
from gateway.cli.main import EX_NOINPUT, EX_USAGE, Context, Failure, config_option, json_option
from gateway.cli.output import console, facts, moment, octets, print_json, safe, table
from gateway.cli.person import operator
from gateway.mail.headers import printable, split
from gateway.store.queue import Changed, Queue
from gateway.store.queued import DONE, Entry, Filter, Recipient, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 5.0  # seconds that what is being sent is waited for
STATES = [state.value for state in State if state not in DONE]


def filters(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that choose messages."""
    options = (
        click.option("--sender", default="", help="Part of the envelope sender, in any case."),
        click.option("--recipient", default="", help="Part of a recipient's address, such as @example.com."),
        click.option("--hop", default="", help="Part of the next hop, such as mail.example.com."),
        click.option("--state", type=click.Choice(STATES), help="Only recipients in this state."),
        click.option("--since", type=Moment(), help="Queued since: 2d, 12h, or a date."),
        click.option("--until", type=Moment(), help="Queued before: 2d, 12h, or a date."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def chosen(command: Callable[..., Any]) -> Callable[..., Any]:
    """The arguments of commands that change something: ids, or filters, or all."""
    command = json_option(command)
    command = click.option("--all", "everything", is_flag=True, help="All messages.")(command)
    return click.argument("ids", nargs=-1, metavar="[ID]...")(filters(command))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@config_option
def queue() -> None:
    """Look after the smart host's queue: list, show, flush, hold, release, delete.

    \b
    Examples:
      mailwarden queue list --hop mail.example.com
      mailwarden queue show 1M80JFSJGNG4SMAS
      mailwarden queue flush --recipient @example.com
      mailwarden queue delete 1M80JFSJGNG4SMAS
    """


@queue.command("list")
@filters
@click.option(
    "--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="So many at most."
)
@click.option("--offset", type=click.IntRange(0), default=0, help="Leave out so many of the oldest.")
@json_option
@click.pass_obj
def list_messages(context: Context, /, *, as_json: bool, **wanted: Any) -> None:
    """List messages, oldest first.

    \b
    Examples:
      mailwarden queue list --state undeliverable
      mailwarden queue list --sender example.net --since 1d --json
    """
    filtered = _filter(wanted)
    with _opened(context) as queue:
        found = queue.search(filtered)
        full = len(found) == filtered.limit or filtered.offset > 0
        total = queue.count(filtered) if full else len(found)
    if as_json:
        print_json([_as_dict(entry) for entry in found])
        return
    out = console()
    if not found:
        out.print("The queue is empty." if filtered == Filter(limit=filtered.limit) else "Nothing matches.")
        return
    out.print(
        table(
            ("Id!", "Queued!", "Size>", "Sender", "Recipient", "State!", "Tries>", "Next!", "Last answer"),
            _rows(found),
        )
    )
    if total > len(found):
        out.print(f"{len(found)} of {total} messages; see --limit and --offset")


@queue.command()
@click.argument("id")
@click.option("--raw", is_flag=True, help="Write the message as it is sent; never to a terminal.")
@json_option
@click.pass_obj
def show(context: Context, /, id: str, *, raw: bool, as_json: bool) -> None:  # noqa: A002  # the argument
    """Show one message: its envelope, its recipients with the last answers, its header fields.

    \b
    Examples:
      mailwarden queue show 1M80JFSJGNG4SMAS
      mailwarden queue show 1M80JFSJGNG4SMAS --raw > message.eml
    """
    if raw and sys.stdout.isatty():
        raise Failure("a message is not written to a terminal; add: > message.eml", EX_USAGE)
    with _opened(context) as queue:
        entry = queue.find(id.upper())
        if entry is None:
            raise Failure(f"no such message is queued: {printable(id, 40)}", EX_NOINPUT)
        message = queue.message(entry.facts)
    if raw:
        sys.stdout.buffer.write(message)
    elif as_json:
        print_json(_as_dict(entry))
    else:
        _print(entry, message)


@queue.command()
@chosen
@click.pass_obj
def flush(context: Context, /, **given: Any) -> None:
    """Try again at once what waits for its next attempt.

    \b
    Examples:
      mailwarden queue flush --all
      mailwarden queue flush --hop mail.example.com
    """
    # What is being tried now would only be tried again and again.
    _change(context, given, "due now", lambda queue, wanted: queue.flush(wanted), patience=0.0)


@queue.command()
@chosen
@click.pass_obj
def hold(context: Context, /, **given: Any) -> None:
    """Keep messages from being sent until they are released; they do not expire.

    What is being sent at this moment is waited for, up to five seconds, and held if put off.

    \b
    Examples:
      mailwarden queue hold --sender news@example.com
    """
    _change(context, given, "held", lambda queue, wanted: queue.hold(wanted, operator()))


@queue.command()
@chosen
@click.pass_obj
def release(context: Context, /, **given: Any) -> None:
    """Send what is held, and try once more what was undeliverable.

    \b
    Examples:
      mailwarden queue release 1M80JFSJGNG4SMAS
      mailwarden queue release --state undeliverable --since 1d
    """
    _change(context, given, "released", lambda queue, wanted: queue.release(wanted, operator()))


@queue.command()
@chosen
@click.option("--yes", is_flag=True, help="Do not ask before deleting many.")
@click.pass_obj
def delete(context: Context, /, *, yes: bool, **given: Any) -> None:
    """Delete messages for good; nobody is told.

    What is being sent at this moment is waited for, up to five seconds, and deleted if put off.

    \b
    Examples:
      mailwarden queue delete 1M80JFSJGNG4SMAS
      mailwarden queue delete --sender worm@example.net --yes
    """
    if not given["ids"] and not yes:
        with _opened(context) as queue:
            count = queue.count(_chosen(given))
        if not sys.stdin.isatty():
            raise Failure(f"{count} messages match; add --yes to go on", EX_USAGE)
        click.confirm(f"{count} messages. Go on?", abort=True, err=True)
    _change(context, given, "deleted", lambda queue, wanted: queue.delete(wanted, operator()))


# ---------------------------------------------------------------- opening and choosing


@contextmanager
def _opened(context: Context) -> Iterator[Queue]:
    """The queue in the configured database; its errors end the program with EX_UNAVAILABLE."""
    with opened(context.config) as database:
        yield Queue(database)


def _filter(wanted: dict[str, Any], ids: tuple[str, ...] = ()) -> Filter:
    state = wanted.pop("state")
    return Filter(ids=ids, state=State(state) if state else None, **wanted)


def _chosen(given: dict[str, Any]) -> Filter:
    """What a change is about: ids or filters must choose, or --all."""
    wanted = {k: v for k, v in given.items() if k not in ("ids", "everything", "as_json")}
    ids = tuple(dict.fromkeys(printable(one.upper(), 40) for one in given["ids"]))
    filtered = any(value not in ("", None) for value in wanted.values())
    if not ids and not filtered and not given["everything"]:
        raise Failure("name messages by id, choose them with filters, or say --all", EX_USAGE)
    return _filter(wanted, ids)


def _change(
    context: Context,
    given: dict[str, Any],
    done: str,
    work: Callable[[Queue, Filter], Changed],
    *,
    patience: float = PATIENCE,
) -> None:
    wanted = _chosen(given)
    with _opened(context) as queue:
        reached, sending = _patiently(queue, wanted, work, patience)
    missing = sending + [one for one in wanted.ids if one not in reached and one not in sending]
    if given["as_json"]:
        print_json({"changed": reached, "unchanged": missing})
    else:
        out, errors = console(), console(stderr=True)
        for item in reached:
            out.print(safe(f"{item} {done}"))
        for item in sending:
            errors.print(safe(f"{item}: is being sent at this moment"))
        for item in missing[len(sending) :]:
            errors.print(safe(f"{item}: not in the queue, or not in a state for this"))
        if not reached and not missing:
            out.print("Nothing matches.")
    if missing:
        sys.exit(1)


def _patiently(
    queue: Queue, wanted: Filter, work: Callable[[Queue, Filter], Changed], patience: float
) -> tuple[list[str], list[str]]:
    """What a change reached, and what was still being sent after `patience` seconds."""
    until = now() + patience
    change = work(queue, wanted)
    reached, begun = dict.fromkeys(change.items), change.sending
    while change.sending and now() < until:
        nap(0.05)
        change = work(queue, replace(wanted, ids=tuple(begun)))
        reached |= dict.fromkeys(change.items)
    return list(reached), change.sending


# ---------------------------------------------------------------- printing


def _rows(entries: list[Entry]) -> Iterator[tuple[object, ...]]:
    """One row for each open recipient; what belongs to the message stands in the first."""
    for entry in entries:
        mail = entry.facts
        first: tuple[object, ...] = (
            mail.id,
            moment(mail.created)[:-3],
            octets(mail.size),
            safe(f"<{mail.sender}>", 48),
        )
        for recipient in [r for r in entry.recipients if r.state not in DONE][:20]:
            yield (*first, safe(recipient.address, 48), *_progress(recipient), safe(recipient.reply, 80))
            first = ("", "", "", "")


def _progress(recipient: Recipient) -> tuple[str, int, str]:
    waits = recipient.state is State.QUEUED
    if not waits:
        return recipient.state.value, recipient.attempts, ""
    away = recipient.next_attempt - time.time()
    return recipient.state.value, recipient.attempts, "now" if away <= 0 else _span(away)


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3_600:.1f} h"


def _print(entry: Entry, message: bytes) -> None:
    out, mail = console(), entry.facts
    out.print(
        facts(
            [
                ("Id", mail.id),
                ("Queued", moment(mail.created)),
                ("Expires", moment(mail.expires)),
                ("Sender", f"<{mail.sender}>"),
                ("Is told of failures", "yes" if mail.may_bounce else "no"),
                ("Told of the delay", moment(mail.warned)),
                ("Options", " ".join(mail.options)),
                ("Size", octets(mail.size)),
            ]
        )
    )
    rows = [(safe(r.address, 80), *_progress(r), r.hop, safe(r.reply, 200)) for r in entry.recipients[:1_000]]
    out.print()
    out.print(table(("Recipient", "State!", "Tries>", "Next!", "Next hop", "Last answer"), rows))
    out.print()
    out.print(safe("Header fields", style="bold"))
    for field in split(message).fields[:100]:
        value = printable(field.value[:4_000].decode("utf-8", "replace").strip(), 1_000)
        out.print(safe(f"{field.name}: {value}", 1_100), soft_wrap=True)


def _as_dict(entry: Entry) -> dict[str, Any]:
    mail = entry.facts
    return {
        "id": mail.id,
        "created": mail.created,
        "expires": mail.expires,
        "sender": printable(mail.sender, 320),
        "options": list(mail.options),
        "may_bounce": mail.may_bounce,
        "warned": mail.warned,
        "size": mail.size,
        "recipients": [
            {
                "address": printable(r.address, 320),
                "state": r.state.value,
                "hop": r.hop,
                "attempts": r.attempts,
                "next_attempt": r.next_attempt,
                "changed": r.changed,
                "reply": r.reply,
            }
            for r in entry.recipients
        ],
    }
