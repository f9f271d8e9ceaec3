# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden quarantine`: look through held messages; the group of all commands about them.

Shows hostile messages: nothing is rendered, opened or fetched; every text passes `output`. Raw bytes
go to a file or pipe only.
"""

from __future__ import annotations

import re
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.decisions import answer, delete, deny, request
from gateway.cli.exports import export_held, import_held
from gateway.cli.filters import filters, plain_filters, wanted
from gateway.cli.helditem import listing, print_fields, print_item
from gateway.cli.heldmail import opened, saved_filter
from gateway.cli.learn import learn_held
from gateway.cli.main import EX_DATAERR, EX_NOINPUT, EX_USAGE, Context, Failure, config_option, json_option
from gateway.cli.output import console, facts, moment, octets, print_json, safe, table
from gateway.cli.person import operator
from gateway.cli.releases import approve, release, undo
from gateway.cli.rescan import rescan
from gateway.mail.headers import printable
from gateway.mail.shown import content_dict
from gateway.mail.types import ID_PATTERN
from gateway.store.filters import Filters
from gateway.store.held import as_dict
from gateway.store.states import OPEN, State

if TYPE_CHECKING:
    from gateway.store.audit import Event

COUNTED = 10_000  # how far `list` counts what matches
STATES = ["open", *(state.value for state in State), "all"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@config_option
def quarantine() -> None:
    """Review held messages.

    \b
    Examples:
      mailwarden quarantine list --since 2d --recipient example.com
      mailwarden quarantine show 1M80JFSJGNG4SMAS
      mailwarden quarantine release 1M80JFSJGNG4SMAS
      mailwarden quarantine release 1M80JFSJGNG4SMAS --to postmaster@example.com
      mailwarden quarantine delete 1M80JFSJGNG4SMAS
    """


for _command in (
    release,
    approve,
    undo,
    request,
    deny,
    answer,
    delete,
    rescan,
    learn_held,
    export_held,
    import_held,
):
    quarantine.add_command(_command)


@quarantine.command("list")
@filters
@click.option(
    "--state", type=click.Choice(STATES), default="open", show_default=True, help="Only in this state."
)
@click.option(
    "--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="So many of the newest."
)
@click.option("--offset", type=click.IntRange(0), default=0, help="Leave out so many of the newest.")
@json_option
@click.option("--quiet", "-q", is_flag=True, help="Print the ids only.")
@click.pass_obj
def list_items(
    context: Context,
    /,
    *,
    state: str,
    saved: str | None,
    limit: int,
    offset: int,
    as_json: bool,
    quiet: bool,
    **chosen: Any,
) -> None:
    """List messages, newest first.

    \b
    Examples:
      mailwarden quarantine list --reason DMARC_QUARANTINE --since 2026-01-31
      mailwarden quarantine list --domain example.net --score 8..12 --size ..100k
      mailwarden quarantine list --state all --limit 500 --json
      mailwarden quarantine list --state requested --quiet
    """
    states = OPEN if state == "open" else None if state == "all" else State(state)
    with opened(context) as held:
        search = wanted(chosen, saved_filter(held, saved), states, limit, offset)
        items = held.search(search)
        plain = not (as_json or quiet)
        full = len(items) == limit or offset
        total = held.count(search, COUNTED) if plain and full else len(items)
    if as_json:
        print_json([as_dict(item) for item in items])
    elif quiet:
        for item in items:
            click.echo(item.id)
    elif not items:
        console().print("Nothing is held that matches." if state == "open" else "Nothing matches.")
    else:
        out = console()
        out.print(listing(items, out.width))
        if total > len(items):
            some = f"{total} or more" if total == COUNTED else f"{total}"
            out.print(f"{len(items)} of {some}; see --limit and --offset")


@quarantine.command()
@click.argument("id")
@click.option("--raw", is_flag=True, help="Write the message exactly as received; never to a terminal.")
@click.option("--headers", is_flag=True, help="Print the header fields only.")
@json_option
@click.pass_obj
def show(context: Context, /, id: str, *, raw: bool, headers: bool, as_json: bool) -> None:  # noqa: A002  # the argument
    """Show one message: why it is held, its header fields, the start of its text, its attachments.

    Nothing in the message is rendered, opened or fetched.

    \b
    Examples:
      mailwarden quarantine show 1M80JFSJGNG4SMAS
      mailwarden quarantine show 1M80JFSJGNG4SMAS --raw > message.eml
    """
    if raw + headers + as_json > 1:
        raise Failure("one of --raw, --headers and --json", EX_USAGE)
    if raw and sys.stdout.isatty():
        raise Failure("a held message is not written to a terminal; add: > message.eml", EX_USAGE)
    item_id = id.upper()
    with opened(context) as held:
        item = held.find(item_id)
        if item is None:
            raise Failure(f"no such message: {printable(id, 40)}", EX_NOINPUT)
        gone = not item.content
        message = b"" if gone else held.raw(item_id)
        judgements = held.judgements(item_id)
        history = held.history(item_id)
    if raw or headers:
        if gone:
            raise Failure(f"{item.id} is {item.state}; its content is gone", EX_DATAERR)
        if raw:
            sys.stdout.buffer.write(message)
        else:
            print_fields(message)
        return
    from gateway.mail.mime import parse  # noqa: PLC0415  # the other commands do without it

    content = None if gone else parse(message)
    events = [[moment(e.time), e.who, e.action, e.why] for e in history]
    if as_json:
        print_json({**as_dict(item), "content": content_dict(content), "history": events})
    else:
        print_item(item, content, message, events, judgements)


@quarantine.command()
@json_option
@click.pass_obj
def stats(context: Context, *, as_json: bool) -> None:
    """Say how much is held, for what, and from whom.

    \b
    Example:
      mailwarden quarantine stats
    """
    with opened(context) as held:
        found = held.decisions.figures()
    if as_json:
        print_json(asdict(found))
        return
    out = console()
    out.print(facts([(state, found.states.get(state, 0)) for state in State if found.states.get(state)]))
    out.print(facts([("Open", octets(found.octets)), ("Oldest", moment(found.oldest))]))
    for title, counts in (("Reasons", found.reasons), ("Senders", found.senders)):
        if counts:
            out.print()
            rows = [(f"<{name}>" if title == "Senders" else name, str(n)) for name, n in counts.items()]
            out.print(table((title, "Messages>"), rows))


# ---------------------------------------------------------------- saved filters


@quarantine.group("filter")
def filter_group() -> None:
    """Searches under a name, for `list --filter NAME` and for work on many.

    \b
    Examples:
      mailwarden quarantine filter save newsletters --reason score --score ..9 --since 7d
      mailwarden quarantine list --filter newsletters
      mailwarden quarantine delete --all-matching --filter newsletters
    """


@filter_group.command("save")
@click.argument("name")
@plain_filters
@click.pass_obj
def save_filter(context: Context, /, name: str, **options: str | None) -> None:
    """Keep the filters given as options under NAME. Times such as 2d are counted when it is used."""
    kept = {key: value for key, value in options.items() if value is not None}
    if not kept:
        raise Failure("say what it filters, such as --sender or --reason", EX_USAGE)
    with opened(context) as held:
        Filters(held.database).save(name, kept, operator())


@filter_group.command("list")
@json_option
@click.pass_obj
def list_filters(context: Context, *, as_json: bool) -> None:
    """List the saved filters."""
    with opened(context) as held:
        found = Filters(held.database).all()
    if as_json:
        print_json(found)
        return
    rows = [
        (name, " ".join(f"--{key} {value}" for key, value in kept.items())) for name, kept in found.items()
    ]
    console().print(table(("Name!", "Filters"), rows) if rows else "No filter is saved.")


@filter_group.command("remove")
@click.argument("name")
@click.pass_obj
def remove_filter(context: Context, name: str) -> None:
    """Forget the filter NAME."""
    with opened(context) as held:
        if not Filters(held.database).remove(name):
            raise Failure(f"no filter is called {printable(name, 40)}", EX_NOINPUT)


# ---------------------------------------------------------------- audit


@quarantine.group("audit")
def audit_group() -> None:
    """Who did what to which message, when and why: a chain that shows what was changed.

    \b
    Examples:
      mailwarden quarantine audit list 1M80JFSJGNG4SMAS
      mailwarden quarantine audit verify
    """


@audit_group.command("list")
@click.argument("id", required=False)
@click.option(
    "--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="So many of the newest."
)
@json_option
@click.pass_obj
def list_audit(context: Context, /, id: str | None, *, limit: int, as_json: bool) -> None:  # noqa: A002  # the argument
    """List what happened, to the message ID or last of all."""
    if id is not None and not ID_PATTERN.fullmatch(id.upper()):
        raise Failure(f"no such message: {printable(id, 40)}", EX_NOINPUT)
    with opened(context) as held:
        events: list[Event] = held.history(id.upper()) if id else held.latest(limit)
    if as_json:
        print_json([asdict(event) for event in events])
        return
    rows = [(str(e.number), moment(e.time), e.item, e.who, e.action, e.why) for e in events]
    console().print(table(("Number>", "When!", "Message!", "Who", "What!", "Why"), rows))


def _noted(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[int, str] | None:
    """Number and hash of a row."""
    if value is None:
        return None
    found = re.fullmatch(r"\s*([1-9][0-9]{0,17})\s+([0-9a-f]{64})\s*", value, re.ASCII)
    if found is None:
        raise click.BadParameter("write the number and the hash as verify printed them")
    return int(found[1]), found[2]


@audit_group.command("verify")
@click.option(
    "--known", metavar="'NUMBER HASH'", callback=_noted, help="What an earlier verify printed, and you noted."
)
@json_option
@click.pass_obj
def verify_audit(context: Context, *, known: tuple[int, str] | None, as_json: bool) -> None:
    """Check that no row of the audit was changed, removed or added. Exit status 1 if one was.

    Note the number and the hash that it prints, on another machine: given to --known, they prove later that
    the chain up to there is still the same, and was not made anew by who can write to the database.

    \b
    Examples:
      mailwarden quarantine audit verify
      mailwarden quarantine audit verify --known "4711 5feceb66ffc8...2f2b"
    """
    with opened(context) as held:
        broken, head = held.verify_audit(known), held.audit_head()
        unknown = held.unaudited() if broken is None else []
    whole = broken is None and not unknown
    if as_json:
        print_json({"whole": whole, "broken_at": broken, "head": head, "items_without_audit": unknown})
    elif whole:
        console().print(safe(f"The audit is whole: {head or 'it is empty'}"))
    elif broken is not None:
        console(stderr=True).print(f"Row {broken} of the audit was changed or removed.")
    else:
        console(stderr=True).print(safe(f"The audit does not know {', '.join(unknown)}: rows were removed."))
    if not whole:
        sys.exit(1)
