# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden user`: who may review held mail on the web page and by its API.

Passwords are asked for, or read from standard input, and never taken from the command line, which others see.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from gateway.cli.database import opened
from gateway.cli.main import EX_DATAERR, EX_NOINPUT, EX_USAGE, Context, Failure, config_option, json_option
from gateway.cli.output import console, moment, print_json, safe, table
from gateway.cli.person import asked_password, operator
from gateway.mail.headers import printable
from gateway.store.database import StoreError
from gateway.store.people import ROLES, People, Person, checked

if TYPE_CHECKING:
    from collections.abc import Iterator

_DAY = 86_400.0


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@config_option
def user() -> None:
    """Say who may review held mail on the web page and by its API.

    A user sees the mail of their own addresses and asks for its release; a reviewer decides about mail for
    domains, or about all without domains; an administrator about all, malware included.

    \b
    Examples:
      mailwarden user add bob --address bob@example.com
      mailwarden user add carol --role reviewer --domain example.com
      mailwarden user token add carol --note "ticket system"
    """


@contextmanager
def _people(context: Context) -> Iterator[People]:
    with opened(context.config) as database:
        yield People(database)


@user.command()
@click.argument("name")
@click.option(
    "--role", type=click.Choice(list(ROLES)), default="user", show_default=True, help="What they may do."
)
@click.option("--address", "addresses", multiple=True, help="Whose mail is theirs; repeatable.")
@click.option("--domain", "domains", multiple=True, help="What a reviewer reviews; .example.com: all below.")
@click.option("--no-password", is_flag=True, help="They log in by their mail server, or by tokens only.")
@click.pass_obj
def add(
    context: Context,
    /,
    name: str,
    *,
    role: str,
    addresses: tuple[str, ...],
    domains: tuple[str, ...],
    no_password: bool,
) -> None:
    """Add somebody, or change who has that NAME; a password is asked for, or read from standard input.

    \b
    Examples:
      mailwarden user add bob --address bob@example.com --address sales@example.com
      mailwarden user add carol --role reviewer --domain example.com --domain .example.com
      mailwarden user add root --role administrator < password-file
    """
    person = Person(name.lower(), ROLES[role], addresses, domains)
    with _people(context) as people:
        try:
            checked(person)
        except StoreError as error:
            raise Failure(str(error), EX_DATAERR) from error
        known = people.find(name)
        if not no_password:
            person = replace(person, password=_password())
        people.put(person, operator())
    done = "changed; all logins were ended" if known else "added"
    console().print(safe(f"{person.name}: {done}"))


@user.command("list")
@json_option
@click.pass_obj
def list_people(context: Context, *, as_json: bool) -> None:
    """List who may review.

    \b
    Example:
      mailwarden user list
    """
    with _people(context) as people:
        found = people.all()
    if as_json:
        rows = [
            {
                "name": one.name,
                "role": one.role.name.lower(),
                "addresses": list(one.addresses),
                "domains": list(one.domains),
                "password": bool(one.password),
                "changed": one.changed,
            }
            for one in found
        ]
        print_json(rows)
        return
    shown = [
        (
            one.name,
            one.role.name.lower(),
            ", ".join(one.addresses),
            ", ".join(one.domains),
            "yes" if one.password else "",
            moment(one.changed),
        )
        for one in found
    ]
    columns = ("Name!", "Role!", "Addresses", "Domains", "Password", "Changed!")
    console().print(table(columns, shown) if shown else "Nobody may; see mailwarden user add.")


@user.command()
@click.argument("name")
@click.pass_obj
def remove(context: Context, name: str) -> None:
    """Forget NAME; logins and tokens end at once.

    \b
    Example:
      mailwarden user remove bob
    """
    with _people(context) as people:
        if not people.remove(name, operator()):
            raise _unknown(name)


@user.command()
@click.argument("name")
@click.pass_obj
def password(context: Context, name: str) -> None:
    """Set the password of NAME, asked for or read from standard input; sessions end.

    \b
    Example:
      mailwarden user password bob
    """
    with _people(context) as people:
        if people.find(name) is None:
            raise _unknown(name)
        people.set_password(name, _password(), operator())


@user.group()
def token() -> None:
    """Tokens for programs that use the API in somebody's name.

    \b
    Examples:
      mailwarden user token add carol --note "ticket system" --days 90
      mailwarden user token list carol
      mailwarden user token remove carol 1f0c9a2e
    """


@token.command("add")
@click.argument("name")
@click.option("--note", default="", help="What it is for.")
@click.option(
    "--days", type=click.IntRange(1, 3_650), default=365, show_default=True, help="How long it counts."
)
@click.pass_obj
def add_token(context: Context, name: str, *, note: str, days: int) -> None:
    """Make a token and print it; it is kept nowhere."""
    with _people(context) as people:
        person = people.find(name)
        if person is None:
            raise _unknown(name)
        click.echo(people.log_in(person.name, "token", seconds=days * _DAY, note=note))


@token.command("list")
@click.argument("name")
@json_option
@click.pass_obj
def list_tokens(context: Context, name: str, *, as_json: bool) -> None:
    """List tokens, by the start of their SHA-256."""
    with _people(context) as people:
        found = people.logins(name.lower(), "token")
    if as_json:
        rows = [
            {"id": one.hash[:8], "note": one.note, "made": one.made, "used": one.used, "expires": one.expires}
            for one in found
        ]
        print_json(rows)
        return
    shown = [
        (one.hash[:8], one.note, moment(one.made), moment(one.used), moment(one.expires)) for one in found
    ]
    console().print(table(("Id!", "Note", "Made!", "Used!", "Until!"), shown) if shown else "No token.")


@token.command("remove")
@click.argument("name")
@click.argument("id", metavar="ID")
@click.pass_obj
def remove_token(context: Context, name: str, id: str) -> None:  # noqa: A002  # the argument
    """End the token whose ID `list` shows."""
    if len(id) < 8:
        raise Failure("an id has eight characters; see mailwarden user token list", EX_USAGE)
    with _people(context) as people:
        if not people.log_out(name.lower(), "token", id.lower()):
            raise Failure(f"{printable(name, 60)} has no such token", EX_NOINPUT)


def _password() -> str:
    """The hash of a password that is asked for twice, or piped in."""
    from gateway.web import passwords  # noqa: PLC0415  # help stays quick

    try:
        return passwords.made(asked_password(confirm=True))
    except ValueError as error:
        raise Failure(str(error), EX_DATAERR) from error


def _unknown(name: str) -> Failure:
    return Failure(f"nobody is called {printable(name, 60)}; see mailwarden user list", EX_NOINPUT)
