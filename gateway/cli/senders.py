# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden senders`: whom reviewers block or allow."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from gateway.cli.database import opened
from gateway.cli.main import EX_DATAERR, EX_NOINPUT, Context, Failure, config_option, json_option, why_option
from gateway.cli.output import console, moment, print_json, table
from gateway.cli.person import operator
from gateway.mail.headers import printable
from gateway.store.database import StoreError
from gateway.store.senders import Rule, Senders, normal

if TYPE_CHECKING:
    from collections.abc import Iterator

_senders = click.argument("patterns", nargs=-1, required=True, metavar="SENDER...")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@config_option
def senders() -> None:
    """Block or allow senders, on all nodes and without a restart.

    A sender is an address, a domain, or ".domain" for all below it; of several that fit the most specific
    rules. Mail of a blocked sender is rejected (the signal SENDER_BLOCKED). That of an allowed one
    gets points off (SENDER_ALLOWED), if SPF or DMARC proves that it is theirs; malware is never let in.

    \b
    Examples:
      mailwarden senders block news@example.net --why "asked them to stop"
      mailwarden senders allow example.org
      mailwarden senders list
      mailwarden senders remove example.org
    """


@senders.command("list")
@json_option
@click.pass_obj
def list_senders(context: Context, *, as_json: bool) -> None:
    """List the rules."""
    with _opened(context) as known:
        found = known.all()
    if as_json:
        print_json([asdict(entry) for entry in found])
        return
    rows = [(e.pattern, e.rule, moment(e.changed), e.who, e.why) for e in found]
    console().print(table(("Sender", "Rule!", "Since!", "Who", "Why"), rows) if rows else "There are none.")


@senders.command()
@_senders
@why_option
@click.pass_obj
def block(context: Context, patterns: tuple[str, ...], why: str) -> None:
    """Reject mail from SENDER."""
    _put(context, patterns, "block", why)


@senders.command()
@_senders
@why_option
@click.pass_obj
def allow(context: Context, patterns: tuple[str, ...], why: str) -> None:
    """Take points off mail from SENDER that is proven to be theirs."""
    _put(context, patterns, "allow", why)


@senders.command()
@_senders
@click.pass_obj
def remove(context: Context, patterns: tuple[str, ...]) -> None:
    """Forget the rules about SENDER."""
    with _opened(context) as known:
        unknown = [pattern for pattern in _checked(patterns) if not known.remove(pattern, operator())]
    if unknown:
        raise Failure(f"there is no rule about {printable(', '.join(unknown), 200)}", EX_NOINPUT)


def _put(context: Context, patterns: tuple[str, ...], rule: Rule, why: str) -> None:
    with _opened(context) as known:
        for pattern in _checked(patterns):
            known.put(pattern, rule, operator(), why=why)


def _checked(patterns: tuple[str, ...]) -> list[str]:
    try:
        return [normal(pattern) for pattern in patterns]
    except StoreError as error:
        raise Failure(str(error), EX_DATAERR) from error


@contextmanager
def _opened(context: Context) -> Iterator[Senders]:
    with opened(context.config) as database:
        yield Senders(database)
