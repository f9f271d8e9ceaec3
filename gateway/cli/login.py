# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden login`: hashes of passwords for the submission listeners, and whether one is right."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import click

from gateway.cli.main import EX_CONFIG, EX_DATAERR, EX_TEMPFAIL, Context, Failure, config_option, json_option
from gateway.cli.output import print_json
from gateway.cli.person import asked_password

if TYPE_CHECKING:
    from gateway.logins.sources import Answer

EX_NOPERM = 77


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@config_option
def login() -> None:
    """Make hashes of passwords, and try logins.

    Passwords are asked for, or read from standard input; they are never arguments.

    \b
    Examples:
      mailwarden login hash alice@example.com >>/etc/mailwarden/users
      mailwarden login test alice@example.com --sender sales@example.com
    """


@login.command("hash")
@click.argument("name")
def make_hash(*, name: str) -> None:
    """Ask for a password, and print the line of NAME for a file of logins.

    The service reads the file again on HUP.
    """
    from gateway.logins.hashes import LONGEST, new  # noqa: PLC0415  # only this command pays

    if ":" in name or not name.strip() or not name.isprintable() or name.startswith("#"):
        raise Failure(f"a name cannot be {name!r} in this file", EX_DATAERR)
    password = asked_password(confirm=True).encode()
    if not password or len(password) > LONGEST:
        raise Failure(f"a password has from 1 to {LONGEST} octets", EX_DATAERR)
    click.echo(f"{name}:{new(password, os.urandom(16))}")


@login.command("test")
@click.argument("name")
@click.option("--sender", help="Say as well whether NAME may send from this address.")
@json_option
@click.pass_obj
def try_login(context: Context, *, name: str, sender: str | None, as_json: bool) -> None:
    """Ask for the password of NAME, and say whether the configured check takes it.

    The exit status is 0 if it does, 77 if not, 75 if that could not be found out.
    """
    from gateway.logins import sources  # noqa: PLC0415  # only this command pays

    config = context.config
    try:
        logins = sources.load(config.login, config.limits.limits())
    except (OSError, ValueError) as error:
        raise Failure(f"login: {error}", EX_CONFIG) from error
    if logins is None:
        raise Failure("nobody can log in: set users in [login]", EX_CONFIG)
    claim = sources.Credentials(name, asked_password(confirm=False))
    begun = time.monotonic()
    try:
        answer: Answer = logins.source.check(claim)
    except Exception as error:  # whatever a server does, its text may repeat what it was sent
        raise Failure(f"{config.login.users}: {type(error).__name__}", EX_TEMPFAIL) from error
    owns = None if sender is None else logins.owners.owns(answer.login or name, sender, answer.addresses)
    took = round(time.monotonic() - begun, 3)
    if as_json:
        facts = {"status": answer.status, "login": answer.login, "addresses": list(answer.addresses)}
        print_json({**facts, "owns": owns, "seconds": took})
    else:
        click.echo(f"{answer.status} {answer.login or answer.why}".rstrip())
        if sender is not None:
            click.echo(f"{'may' if owns else 'may not'} send from {sender}")
    if answer.status == "later":
        raise Failure(answer.why or "it could not be checked", EX_TEMPFAIL)
    if answer.status == "no" or owns is False:
        raise click.exceptions.Exit(EX_NOPERM)
