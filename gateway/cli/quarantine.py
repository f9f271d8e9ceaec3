# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden quarantine`: look through held messages, release them, delete them.

Shows hostile messages: nothing is rendered, opened or fetched; every text passes `output`. Raw bytes
go to a file or pipe only. What cannot be done for one item is told and does not stop the others; the
exit status is then 1.
"""

from __future__ import annotations

import os
import pwd
import re
import sys
import time
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.learn import learn_held
from gateway.cli.main import EX_DATAERR, EX_NOINPUT, EX_UNAVAILABLE, EX_USAGE, Context, Failure, config_option
from gateway.cli.output import console, entries, facts, moment, octets, print_json, safe, table
from gateway.mail.headers import printable, split
from gateway.store.database import StoreError, open_database
from gateway.store.held import Item, Search, State
from gateway.store.quarantine import Quarantine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from gateway.delivery.release import Deliver, Released
    from gateway.mail.types import Content

BULK = 1_000  # items that one --all-matching takes
STATES = [*(state.value for state in State), "all"]
NARROW = 130  # columns of a terminal below which a row of the list takes two lines
TEXT_SHOWN = 2_000  # characters of text that `show` prints
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
        print_json([_as_dict(item) for item in items])
        return
    out = console()
    if not items:
        out.print("Nothing is held that matches." if state == "held" else "Nothing matches.")
        return
    out.print(_listing(items, out.width))
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
            _print_fields(message)
        return
    from gateway.mail.mime import parse  # noqa: PLC0415  # the other commands do without it

    content = None if gone else parse(message)
    events = [[moment(e.time), e.who, e.action, e.why] for e in history]
    if as_json:
        print_json({**_as_dict(item), "content": _content_dict(content), "history": events})
    else:
        _print_item(item, content, message, events)


@quarantine.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@filters
@click.option("--all-matching", is_flag=True, help="Release all held messages that the filters choose.")
@click.option("--to", default="", metavar="ADDRESS", help="Send it there, and not to its recipients.")
@click.option("--only", multiple=True, metavar="ADDRESS", help="Only to this recipient; may be repeated.")
@click.option("--infected", is_flag=True, help="Release even what the virus scanner convicted.")
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
    """
    from gateway.delivery.release import ReleaseError, release_item  # noqa: PLC0415  # asyncio, TLS

    with _opened(context) as held:
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
    _report(results, as_json=as_json)
    if failed:
        sys.exit(1)


@quarantine.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@filters
@click.option("--all-matching", is_flag=True, help="Delete all held messages that the filters choose.")
@click.option("--yes", is_flag=True, help="Do not ask before working on many.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def delete(
    context: Context, /, ids: tuple[str, ...], *, all_matching: bool, yes: bool, as_json: bool, **chosen: Any
) -> None:
    """Delete messages for good. An empty row and the audit stay.

    \b
    Examples:
      mailwarden quarantine delete 1M80JFSJGNG4SMAS
      mailwarden quarantine delete --all-matching --reason VIRUS --until 7d --yes
    """
    results = []
    with _opened(context) as held:
        for item in _choose(held, ids, _held(chosen), all_matching=all_matching, yes=yes):
            try:
                done = held.delete(item, operator())
            except StoreError as error:
                results.append({"id": item, "deleted": False, "error": str(error)})
            else:
                error_text = "" if done else "no such message, or it is gone or being released"
                results.append({"id": item, "deleted": done, "error": error_text})
    _report(results, as_json=as_json)
    if not all(result["deleted"] for result in results):
        sys.exit(1)


def operator() -> str:
    """Who is at the keyboard, for the audit: the login behind sudo, or the user."""
    try:
        name = os.environ.get("SUDO_USER") or pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = str(os.getuid())
    return f"cli:{printable(name, 60)}"


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
        out.print(_listing(items, out.width))
        click.confirm(f"{len(items)} messages. Go on?", abort=True, err=True)
    return [item.id for item in items]


# ---------------------------------------------------------------- printing


def _listing(items: list[Item], width: int) -> Any:
    if width < NARROW:
        return entries(
            (
                f"{item.id}  {moment(item.held_at)[:-3]}  {item.state}  {item.score:.1f}  "
                + (", ".join(item.reasons) or item.reason),
                f"<{item.sender}> to {_people(item)}: {item.subject}",
            )
            for item in items
        )
    rows = [
        (
            item.id,
            moment(item.held_at)[:-3],
            item.state.value,
            safe(f"<{item.sender}>", 48),
            safe(_people(item), 60),
            safe(", ".join(item.reasons) or item.reason, 60),
            f"{item.score:.1f}",
            safe(item.subject, 60),
        )
        for item in items
    ]
    return table(("Id!", "Held!", "State!", "Sender", "Recipients", "Reasons", "Score>", "Subject"), rows)


def _people(item: Item) -> str:
    shown = ", ".join(recipient.address for recipient in item.recipients[:3])
    more = len(item.recipients) - 3
    return f"{shown} and {more} more" if more > 0 else shown


def _print_item(item: Item, content: Content | None, message: bytes, events: Sequence[Sequence[str]]) -> None:
    out = console()
    out.print(
        facts(
            [
                ("Id", item.id + (f" (queue id {item.queue_id})" if item.queue_id else "")),
                ("State", item.state.value),
                ("Held", moment(item.held_at)),
                ("Reasons", ", ".join(item.reasons) or item.reason),
                ("Score", f"{item.score:.2f}"),
                ("Client", f"[{item.client_ip}] {item.helo}" if item.client_ip else item.helo),
                ("Sender", f"<{item.sender}>"),
                ("Size", octets(item.size)),
                ("SHA-256", item.sha256),
            ]
        )
    )
    people = [(r.address, r.state.value, r.delivered_to, r.note) for r in item.recipients]
    out.print()
    out.print(table(("Recipient", "State!", "Delivered to", "Last error"), people))
    if content is not None:
        out.print()
        out.print(safe("Header fields", style="bold"))
        _print_fields(message)
        _print_content(content)
    out.print()
    out.print(safe("History", style="bold"))
    out.print(table(("When!", "Who", "What!", "Why"), events))
    if content is not None:
        out.print(safe(f"mailwarden explain {item.id} says how it was judged."))


def _print_fields(message: bytes) -> None:
    out = console()
    for field in split(message).fields[:200]:
        value = printable(field.value[:4_000].decode("utf-8", "replace").strip(), 1_000)
        out.print(safe(f"{field.name}: {value}", 1_100), soft_wrap=True)


def _print_content(content: Content) -> None:
    out = console()
    for text in content.texts[:2]:
        out.print()
        out.print(safe(f"Text ({text.kind})", style="bold"))
        for line in text.text[:TEXT_SHOWN].splitlines()[:40]:
            out.print(safe(line, 500), soft_wrap=True)
        if len(text.text) > TEXT_SHOWN:
            out.print("...")
    if content.urls:
        links = [(safe(url.target, 200), safe(url.shown, 80)) for url in content.urls[:30]]
        out.print()
        out.print(table(("Link", "Shown as"), links))
    if content.attachments:
        parts = [
            (
                " / ".join(a.names) or "(no name)",
                a.declared_type,
                a.detected_type,
                octets(a.size),
                a.sha256,
            )
            for a in content.attachments[:50]
        ]
        out.print()
        out.print(table(("Attachment", "Declared", "Detected", "Size>", "SHA-256"), parts))
    broken = [*content.defects, *content.ambiguities, *content.limits]
    if broken:
        out.print()
        out.print(facts([("Broken", ", ".join(broken))]))


def _report(results: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json(results)
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


def _released_dict(done: Released) -> dict[str, Any]:
    return {
        "id": done.item,
        "delivered": dict(done.delivered),
        "failed": dict(done.failed),
        "doubtful": list(done.doubtful),
        "error": "",
    }


def _as_dict(item: Item) -> dict[str, Any]:
    return {
        "id": item.id,
        "queue_id": item.queue_id,
        "state": item.state.value,
        "received": item.received,
        "held_at": item.held_at,
        "changed": item.changed,
        "client_ip": item.client_ip,
        "helo": item.helo,
        "sender": item.sender,
        "subject": item.subject,
        "message_id": item.message_id,
        "size": item.size,
        "sha256": item.sha256,
        "score": item.score,
        "reason": item.reason,
        "reasons": list(item.reasons),
        "recipients": [
            {"address": r.address, "state": r.state.value, "delivered_to": r.delivered_to, "note": r.note}
            for r in item.recipients
        ],
    }


def _content_dict(content: Content | None) -> dict[str, Any] | None:
    if content is None:
        return None
    return {
        "fields": [
            [field.name, printable(field.value[:4_000].decode("utf-8", "replace").strip(), 1_000)]
            for field in content.fields[:200]
        ],
        "texts": [{"kind": text.kind, "text": text.text[:TEXT_SHOWN]} for text in content.texts],
        "urls": [{"target": url.target, "shown": url.shown} for url in content.urls],
        "attachments": [
            {
                "names": list(a.names),
                "declared_type": a.declared_type,
                "detected_type": a.detected_type,
                "size": a.size,
                "sha256": a.sha256,
            }
            for a in content.attachments
        ],
        "broken": [*content.defects, *content.ambiguities, *content.limits],
    }
