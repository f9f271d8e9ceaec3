# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden backup`: a copy of the store while the service runs, whether it is whole, and the way back."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.database import opened
from gateway.cli.main import EX_DATAERR, EX_NOINPUT, Context, Failure, config_option, json_option
from gateway.cli.output import console, facts, octets, print_json, safe
from gateway.mail.headers import printable
from gateway.store.database import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

_file = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))


class _Named(click.Group):
    """`backup FILE` is `backup make FILE`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and self.get_command(ctx, args[0]) is None:
            args = ["make", *args]
        return super().resolve_command(ctx, args)


@click.group(cls=_Named, context_settings={"help_option_names": ["-h", "--help"]})
@config_option
def backup() -> None:
    """Copy the store while the service runs, and verify copies.

    FILE is a database of its own, in SQLite, wherever the store is. To go back to it with SQLite, stop the
    service, put it in the place that [store] database names (remove files there that end in -wal and -shm),
    and start it; with PostgreSQL, restore it into an empty database.

    \b
    Examples:
      mailwarden backup /var/backups/mailwarden.db
      mailwarden backup verify /var/backups/mailwarden.db
      mailwarden backup restore /var/backups/mailwarden.db
    """


@backup.command()
@_file
@json_option
@click.pass_obj
def make(context: Context, file: Path, *, as_json: bool) -> None:
    """Copy the store to FILE, which must not be there yet; mail goes on meanwhile.

    \b
    Example:
      mailwarden backup make /var/backups/mailwarden.db
    """
    from gateway.store import backup, transfer  # noqa: PLC0415  # help stays quick

    with opened(context.config) as database:
        if database.path is not None:
            size = backup.copy(database.path, file, _progress())
        else:
            size = transfer.copy(database, file, _progress())
    if as_json:
        print_json({"file": str(file), "octets": size})
    else:
        console().print(safe(f"{file}: {octets(size)}; to prove it: mailwarden backup verify {file}", 700))


@backup.command()
@_file
@json_option
@click.pass_obj
def verify(context: Context, file: Path, *, as_json: bool) -> None:
    """Read all of a copy: the file, the audit's chain, and each held message by its SHA-256.

    The exit status is 0 if it is whole, 65 if it is not, and 66 if there is no such file.

    \b
    Example:
      mailwarden backup verify /var/backups/mailwarden.db
    """
    from gateway.store.backup import verify as read_all  # noqa: PLC0415  # help stays quick

    del context
    _there(file)
    out = console(stderr=True)

    def told(count: int) -> None:
        if sys.stderr.isatty():
            out.print(f"{count} messages", end="\r")

    try:
        found = read_all(file, told)
    except StoreError as error:
        raise Failure(printable(str(error), 500), EX_DATAERR) from error
    if as_json:
        print_json(asdict(found))
    else:
        rows = [("Schema", found.version), ("Held messages", found.messages), ("Journal", found.records)]
        console().print(facts([*rows, ("Audit", f"{found.audit} rows")]))
        for problem in found.problems:
            out.print(safe(problem, 500))
        console().print("It is whole." if not found.problems else "It is NOT whole.")
    sys.exit(EX_DATAERR if found.problems else 0)


@backup.command()
@_file
@json_option
@click.pass_obj
def restore(context: Context, file: Path, *, as_json: bool) -> None:
    """Write all of a copy to the store, which must be empty: a new database, in PostgreSQL or SQLite.

    Stop the services of all nodes first. This is also the way from SQLite to PostgreSQL.

    \b
    Example:
      mailwarden backup restore /var/backups/mailwarden.db
    """
    from gateway.store import transfer  # noqa: PLC0415  # help stays quick

    _there(file)
    with opened(context.config) as database:
        try:
            rows = transfer.restore(file, database, _progress())
        except StoreError as error:
            raise Failure(printable(str(error), 500), EX_DATAERR) from error
    if as_json:
        print_json({"file": str(file), "rows": rows})
    else:
        console().print(f"{rows} rows are restored.")


def _there(file: Path) -> None:
    """End the program with EX_NOINPUT where there is no such file."""
    if not file.is_file():
        raise Failure(f"{printable(str(file), 500)}: no such file", EX_NOINPUT)


def _progress() -> Callable[[int, int], None] | None:
    if not sys.stderr.isatty():
        return None
    out = console(stderr=True)

    def told(left: int, total: int) -> None:
        out.print(f"{100 * (total - left) // max(total, 1)} %", end="\r")

    return told
