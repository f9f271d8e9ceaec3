# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden digest`: what recipients of held mail are told, and when they were.

Prints text that strangers wrote, through `output`; `preview` prints what `render` made safe, without tokens.
"""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from gateway.cli.database import opened
from gateway.cli.main import EX_CONFIG, EX_DATAERR, EX_NOINPUT, Context, Failure, config_option, json_option
from gateway.cli.output import console, moment, print_json, table
from gateway.mail.headers import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.digest.send import Post
    from gateway.store.quarantine import Quarantine


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@config_option
def digest() -> None:
    """Tell recipients what is held for them, and what they can do about it.

    The service sends digests at the times that [digest] names; this is for looking, and for sending now.

    \b
    Examples:
      mailwarden digest preview --recipient bob@example.com
      mailwarden digest send --dry-run
      mailwarden digest send --recipient bob@example.com
      mailwarden digest show
    """


_recipient = click.option("--recipient", "only", multiple=True, metavar="ADDRESS", help="Only to this one.")


@digest.command()
@_recipient
@click.option("--dry-run", "dry", is_flag=True, help="Send nothing; say who would be told of how many.")
@json_option
@click.pass_obj
def send(context: Context, only: tuple[str, ...], *, dry: bool, as_json: bool) -> None:
    """Send digests now to all who have mail that they were not told of.

    The exit status is 1 if one could not be sent; the next run sends it.

    \b
    Examples:
      mailwarden digest send --dry-run
      mailwarden digest send --recipient bob@example.com --json
    """
    from gateway.digest.send import send_all  # noqa: PLC0415  # help stays quick

    with _opened(context) as (held, post):
        if not dry and not post.settings.email:
            raise Failure("digests need an address to come from: [digest] email", EX_CONFIG)
        found = list(send_all(held, post, time.time(), only=only, dry=dry))
    if as_json:
        print_json([asdict(one) for one in found])
    else:
        rows = [(one.address, one.about, one.count, one.status, one.note) for one in found]
        heads = ("Address", "About", "Messages>", "Status!", "")
        console().print(table(heads, rows) if rows else "Nobody has anything new.")
    sys.exit(int(any(one.status == "deferred" for one in found)))


@digest.command()
@click.option("--recipient", required=True, metavar="ADDRESS", help="Whose digest.")
@click.option("--language", default="", metavar="CODE", help="In this language: en, id.")
@click.option("--html", "as_html", is_flag=True, help="Print the HTML.")
@json_option
@click.pass_obj
def preview(context: Context, recipient: str, language: str, *, as_html: bool, as_json: bool) -> None:
    """Print the digest that a recipient would get of what is held now. Links in it have no token.

    \b
    Examples:
      mailwarden digest preview --recipient bob@example.com --language id
      mailwarden digest preview --recipient bob@example.com --html > digest.html
    """
    from gateway.data import data_dir  # noqa: PLC0415  # help stays quick
    from gateway.digest import compose, render, words  # noqa: PLC0415  # as above
    from gateway.policy.patterns import RuleError  # noqa: PLC0415  # as above
    from gateway.store.digests import Digests  # noqa: PLC0415  # as above

    with _opened(context) as (held, post):
        try:
            chosen = (
                words.load(data_dir("rules"), language, post.settings.words_dir)
                if language
                else post.language(recipient)
            )
        except RuleError as error:
            raise Failure(printable(str(error), 300), EX_DATAERR) from error
        wanted = recipient.lower()
        items = [(i, n) for i, address, n in Digests(held.database).waiting("") if address.lower() == wanted]
        made = compose.for_recipient(
            held,
            wanted,
            items[::-1][:1_000],
            chosen,
            post.settings,
            now=time.time(),
            users=post.users,
            sealing=False,
        )
    if made is None:
        raise Failure(f"nothing is held for {printable(recipient, 100)}", EX_NOINPUT)
    if as_json:
        print_json(asdict(made))
    else:
        sys.stdout.write(render.html_of(made, chosen) if as_html else render.text_of(made, chosen))


@digest.command()
@_recipient
@json_option
@click.pass_obj
def show(context: Context, only: tuple[str, ...], *, as_json: bool) -> None:
    """Say who was told when, and up to which message.

    \b
    Example:
      mailwarden digest show --recipient bob@example.com
    """
    from gateway.store.digests import Digests  # noqa: PLC0415  # help stays quick

    with _opened(context) as (held, _):
        wanted = {one.lower() for one in only}
        found = [t for t in Digests(held.database).all().values() if not wanted or t.address in wanted]
    if as_json:
        print_json([asdict(one) for one in found])
        return
    rows = [(one.address, moment(one.sent) or "nothing to tell", one.covered) for one in found]
    console().print(table(("Address", "Sent!", "Up to!"), rows) if rows else "Nobody was told anything.")


@contextmanager
def _opened(context: Context) -> Iterator[tuple[Quarantine, Post]]:
    """The quarantine, and what digests are sent with."""
    from gateway import assembly  # noqa: PLC0415  # help stays quick
    from gateway.config import ConfigError  # noqa: PLC0415  # as above
    from gateway.store.quarantine import Quarantine  # noqa: PLC0415  # as above

    try:
        post = assembly.post(context.config)
    except ConfigError as error:
        raise Failure(str(error), EX_CONFIG) from error
    with opened(context.config) as database:
        yield Quarantine(database, context.config.store), post
