# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden quarantine`: look through held messages, release them, delete them.

Shows hostile messages: nothing is rendered, opened or fetched; every text passes `output`. Raw bytes
go to a file or pipe only. What cannot be done for one item is told and does not stop the others; the
exit status is then 1.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.filters import filters
from gateway.cli.helditem import as_dict, content_dict, listing, print_fields, print_item
from gateway.cli.learn import learn_held, learn_items, learning
from gateway.cli.main import EX_DATAERR, EX_NOINPUT, EX_UNAVAILABLE, EX_USAGE, Context, Failure, config_option
from gateway.cli.output import console, moment, print_json, safe
from gateway.cli.person import operator
from gateway.mail.headers import printable
from gateway.store.database import StoreError, open_database
from gateway.store.quarantine import Quarantine
from gateway.store.search import Search
from gateway.store.states import State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.delivery.release import Deliver, Released
    from gateway.learning import Outcome

BULK = 1_000  # items that one --all-matching takes
STATES = [*(state.value for state in State), "all"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@config_option
def quarantine() -> None:
    """Review held messages: list, show, release, delete.

    \b
    Examples:
      mailwarden quarantine list --since 2d --recipient example.com
      mailwarden quarantine show 1M80JFSJGNG4SMAS
      mailwarden quarantine release 1M80JFSJGNG4SMAS
      mailwarden quarantine release 1M80JFSJGNG4SMAS --to postmaster@example.com
      mailwarden quarantine delete 1M80JFSJGNG4SMAS
    """


quarantine.add_command(learn_held)


@quarantine.command("list")
@filters
@click.option("--state", type=click.Choice(STATES), default="held", show_default=True)
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
@click.option("--offset", type=click.IntRange(0), default=0, help="Leave out so many of the newest.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def list_items(context: Context, /, *, state: str, as_json: bool, **chosen: Any) -> None:
    """List messages, newest first.

    \b
    Examples:
      mailwarden quarantine list --reason DMARC_QUARANTINE --since 2026-01-31
      mailwarden quarantine list --state all --limit 500 --json
    """
    wanted = Search(state=None if state == "all" else State(state), **chosen)
    with _opened(context) as held:
        items = held.search(wanted)
        total = held.count(wanted) if len(items) == wanted.limit or wanted.offset else len(items)
    if as_json:
        print_json([as_dict(item) for item in items])
        return
    out = console()
    if not items:
        out.print("Nothing is held that matches." if state == "held" else "Nothing matches.")
        return
    out.print(listing(items, out.width))
    if total > len(items):
        out.print(f"{len(items)} of {total}; see --limit and --offset")


@quarantine.command()
@click.argument("id")
@click.option("--raw", is_flag=True, help="Write the message exactly as received; never to a terminal.")
@click.option("--headers", is_flag=True, help="Print the header fields only.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
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
    with _opened(context) as held:
        item = held.find(item_id)
        if item is None:
            raise Failure(f"no such message: {printable(id, 40)}", EX_NOINPUT)
        gone = item.state in {State.DELETED, State.EXPIRED}
        message = b"" if gone else held.raw(item_id)
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
        print_item(item, content, message, events)


@quarantine.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@filters
@click.option("--all-matching", is_flag=True, help="Release all held messages that the filters choose.")
@click.option("--to", default="", metavar="ADDRESS", help="Send it there, and not to its recipients.")
@click.option("--only", multiple=True, metavar="ADDRESS", help="Only to this recipient; may be repeated.")
@click.option("--infected", is_flag=True, help="Release even what the virus scanner convicted.")
@click.option("--learn", is_flag=True, help="Teach the classifier that it is ham, too.")
@click.option("--yes", is_flag=True, help="Do not ask before working on many.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def release(
    context: Context,
    /,
    ids: tuple[str, ...],
    *,
    all_matching: bool,
    to: str,
    only: tuple[str, ...],
    infected: bool,
    learn: bool,
    yes: bool,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Deliver held messages exactly as they were received, once to each recipient.

    \b
    Examples:
      mailwarden quarantine release 1M80JFSJGNG4SMAS 1M80JJNYHBMP1VQP
      mailwarden quarantine release 1M80JFSJGNG4SMAS --to postmaster@example.com
      mailwarden quarantine release --all-matching --sender news@example.com --since 2d
      mailwarden quarantine release --learn 1M80JFSJGNG4SMAS
    """
    from gateway.delivery.release import ReleaseError, release_item  # noqa: PLC0415  # asyncio, TLS

    with _opened(context) as held, learning(context) if learn else nullcontext() as learner:
        chosen_ids = _choose(held, ids, _held(chosen), all_matching=all_matching, yes=yes)
        deliver, results, failed = _deliverer(context), [], False
        for item in chosen_ids:
            try:
                done = release_item(
                    held, deliver, item, operator(), to=to, only=only or None, infected=infected
                )
            except (ReleaseError, StoreError) as error:
                results.append({"id": item, "delivered": {}, "failed": {}, "error": str(error)})
                failed = True
            else:
                results.append(_released_dict(done))
                failed = failed or bool(done.failed)
        released = [str(result["id"]) for result in results if result["delivered"]]
        outcome = learn_items(learner, held, released, spam=False)
    _report(results, as_json=as_json, learned=outcome)
    if failed:
        sys.exit(1)


@quarantine.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@filters
@click.option("--all-matching", is_flag=True, help="Delete all held messages that the filters choose.")
@click.option("--learn", is_flag=True, help="Teach the classifier that they are spam, first.")
@click.option("--yes", is_flag=True, help="Do not ask before working on many.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def delete(
    context: Context,
    /,
    ids: tuple[str, ...],
    *,
    all_matching: bool,
    learn: bool,
    yes: bool,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Delete messages for good. An empty row and the audit stay.

    \b
    Examples:
      mailwarden quarantine delete 1M80JFSJGNG4SMAS
      mailwarden quarantine delete --all-matching --reason VIRUS --until 7d --yes
      mailwarden quarantine delete --learn 1M80JFSJGNG4SMAS
    """
    results = []
    with _opened(context) as held, learning(context) if learn else nullcontext() as learner:
        chosen_ids = _choose(held, ids, _held(chosen), all_matching=all_matching, yes=yes)
        outcome = learn_items(learner, held, chosen_ids, spam=True)
        for item in chosen_ids:
            try:
                done = held.delete(item, operator())
            except StoreError as error:
                results.append({"id": item, "deleted": False, "error": str(error)})
            else:
                error_text = "" if done else "no such message, or it is gone or being released"
                results.append({"id": item, "deleted": done, "error": error_text})
    _report(results, as_json=as_json, learned=outcome)
    if not all(result["deleted"] for result in results):
        sys.exit(1)


# ---------------------------------------------------------------- opening and choosing


@contextmanager
def _opened(context: Context) -> Iterator[Quarantine]:
    """The quarantine of the configured database; its errors end the program with EX_UNAVAILABLE."""
    settings = context.config.store
    try:
        database = open_database(settings)
        try:
            yield Quarantine(database, settings)
        finally:
            database.close()
    except StoreError as error:
        raise Failure(printable(str(error), 500), EX_UNAVAILABLE) from error


def _deliverer(context: Context) -> Deliver:
    """How the configuration says that releases go out."""
    from gateway.delivery.release import deliverer  # noqa: PLC0415  # only a release needs asyncio and TLS
    from gateway.delivery.routes import parse_next_hop, routes  # noqa: PLC0415  # as above

    config = context.config
    table = routes(config.routes, config.next_hop)
    hop = parse_next_hop(config.release.next_hop) if config.release.next_hop else None
    if hop is None and not config.routes and not config.next_hop:
        raise Failure("no next hop is configured to release to; set release.next_hop or next_hop", EX_DATAERR)
    return deliverer(table, config.tls.outbound, config.name, hop)


def _held(chosen: dict[str, Any]) -> Search:
    return Search(state=State.HELD, limit=BULK, **chosen)


def _choose(
    held: Quarantine, ids: tuple[str, ...], wanted: Search, *, all_matching: bool, yes: bool
) -> list[str]:
    """The ids to work on: those named, or those that match once that was confirmed."""
    filtered = wanted != Search(state=wanted.state, limit=wanted.limit)
    if bool(ids) == all_matching or (filtered and not all_matching):
        raise Failure("name the messages, or choose them with filters and --all-matching", EX_USAGE)
    if ids:
        return list(dict.fromkeys(printable(one.upper(), 40) for one in ids))
    items = held.search(wanted)
    if items and not yes:
        if not sys.stdin.isatty():
            raise Failure(f"{len(items)} messages match; add --yes to go on", EX_USAGE)
        out = console(stderr=True)
        out.print(listing(items, out.width))
        click.confirm(f"{len(items)} messages. Go on?", abort=True, err=True)
    return [item.id for item in items]


# ---------------------------------------------------------------- printing


def _report(results: list[dict[str, Any]], *, as_json: bool, learned: Outcome | None) -> None:
    if as_json:
        print_json({"items": results, "learning": learned.told()} if learned else results)
        return
    out, errors = console(), console(stderr=True)
    for result in results:
        for recipient, target in result.get("delivered", {}).items():
            where = f"<{target}>" if recipient == target else f"<{target}> in place of <{recipient}>"
            out.print(safe(f"{result['id']} released to {where}", 700), soft_wrap=True)
        for recipient in result.get("doubtful", ()):
            errors.print(safe(f"{result['id']} may reach <{recipient}> twice", 500), soft_wrap=True)
        for recipient, error in result.get("failed", {}).items():
            errors.print(safe(f"{result['id']} not released to <{recipient}>: {error}", 900), soft_wrap=True)
        if result.get("deleted"):
            out.print(safe(f"{result['id']} deleted"))
        if result["error"]:
            errors.print(safe(f"{result['id']}: {result['error']}", 700), soft_wrap=True)
    if not results:
        out.print("Nothing matches.")
    if learned:
        out.print(safe("classifier: " + (", ".join(f"{n} {what}" for what, n in learned.told().items()))))


def _released_dict(done: Released) -> dict[str, Any]:
    return {
        "id": done.item,
        "delivered": dict(done.delivered),
        "failed": dict(done.failed),
        "doubtful": list(done.doubtful),
        "error": "",
    }
