# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden shadow`: what policies and models beside the live one make of mail; one of them made live.

Prints text that strangers wrote, through `output`. Promotion replaces the configuration file in one step
and keeps the one before; nothing else of the machine is changed, and what runs goes on as it is until it
is told.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from gateway.cli.filters import Moment
from gateway.cli.main import (
    EX_CONFIG,
    EX_NOINPUT,
    EX_UNAVAILABLE,
    EX_USAGE,
    Context,
    Failure,
    config_option,
    json_option,
)
from gateway.cli.output import console, print_json, table
from gateway.cli.person import operator
from gateway.mail.headers import printable
from gateway.store.database import StoreError

if TYPE_CHECKING:
    from gateway.config import Config
    from gateway.shadow import ShadowSettings

_COVERED = ("policy", "classifier", "shadow")  # what a shadow tries, and what promoting it may change


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@config_option
def shadow() -> None:
    """Try rules, thresholds or a model on live mail, without anything coming of it.

    Each [[shadow]] names a whole configuration; its [policy] and [classifier] judge beside the live ones, and
    the journal keeps what they would have done.

    \b
    Examples:
      mailwarden shadow list
      mailwarden shadow report strict --since 2d
      mailwarden shadow promote strict
    """


@shadow.command("list")
@json_option
@click.pass_obj
def list_shadows(context: Context, *, as_json: bool) -> None:
    """List the shadows, and what they try.

    \b
    Example:
      mailwarden shadow list
    """
    from gateway import assembly  # noqa: PLC0415  # help stays quick
    from gateway.config import ConfigError  # noqa: PLC0415  # as above

    try:
        found = assembly.shadows(context.config)
    except ConfigError as error:
        raise Failure(str(error), EX_CONFIG) from error
    rows = [
        {
            "name": one.name,
            "file": row.file,
            "policy": one.policy.hash,
            "model": one.versions[1],
            "looks": one.looks,
        }
        for one, row in zip(found, context.config.shadow, strict=True)
    ]
    if as_json:
        print_json(rows)
        return
    cells = [
        (r["name"], r["file"], r["policy"], r["model"] or "the live one", "yes" if r["looks"] else "no")
        for r in rows
    ]
    heads = ("Name", "File", "Policy!", "Model", "Looks again!")
    console().print(table(heads, cells) if cells else "There are none: see [[shadow]].")


@shadow.command()
@click.argument("name")
@click.option(
    "--since", type=Moment(), default="7d", show_default=True, help="Received since: 7d, 12h, a date."
)
@click.option("--until", type=Moment(), help="Received before: 2d, 12h, or a date.")
@click.option("--limit", type=click.IntRange(1), default=1_000_000, help="Only so many of the newest.")
@json_option
@click.pass_obj
def report(
    context: Context, name: str, *, since: float, until: float | None, limit: int, as_json: bool
) -> None:
    """Say what the shadow NAME would have done otherwise, in the form of `mailwarden replay`.

    The exit status is 0 if the same would have happened to every message, and 1 if not.

    \b
    Examples:
      mailwarden shadow report strict --since 2d
      mailwarden shadow report strict --json
    """
    from gateway.cli.replay import Plan, replayed, show  # noqa: PLC0415  # help stays quick
    from gateway.store.journal import Filter  # noqa: PLC0415  # as above

    try:
        plan = Plan(context.config.store, None, Filter(since=since, until=until), shadow=name)
        tally = replayed(plan, limit, min(2, os.cpu_count() or 1))
    except StoreError as error:
        raise Failure(printable(str(error), 500), EX_UNAVAILABLE) from error
    if not tally.records:
        raise Failure(
            f"no message of that time was judged by a shadow called {printable(name, 40)}", EX_NOINPUT
        )
    notes = [f"{tally.unjudged} messages made it fail"] if tally.unjudged else []
    if as_json:
        print_json({"shadow": name, **msgspec.to_builtins(tally), "notes": notes})
    else:
        show(tally, f"of the shadow {name}", notes)
    sys.exit(1 if tally.changed else 0)


@shadow.command()
@click.argument("name")
@click.option("--all", "anything", is_flag=True, help="Also where more than policy and model differs.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def promote(context: Context, name: str, *, anything: bool, yes: bool) -> None:
    """Make the configuration of the shadow NAME the live one; the file before is kept beside it.

    What runs goes on with the old one until `mailwarden serve` is told to reload (SIGHUP).

    \b
    Example:
      mailwarden shadow promote strict && systemctl reload mailwarden
    """
    from gateway import assembly  # noqa: PLC0415  # help stays quick
    from gateway.config import ConfigError, load  # noqa: PLC0415  # as above

    row = _named(context, name)
    try:
        other = load(Path(row.file))
        assembly.load(other, path=Path(row.file))
    except ConfigError as error:
        raise Failure(str(error), EX_CONFIG) from error
    if row.rules:
        raise Failure(
            "it has rules of its own (rules = ...), which no configuration names: install them", EX_USAGE
        )
    if (rest := differences(context.config, other)) and not anything:
        raise Failure(f"more than policy and model differs: {', '.join(rest)}; add --all to go on", EX_USAGE)
    if not yes:
        click.confirm(f"{context.path} becomes {row.file}. Go on?", abort=True, err=True)
    kept = context.path.with_name(f"{context.path.name}.before-{name}-{time.strftime('%Y%m%d%H%M%S')}")
    try:
        _replace(context.path, Path(row.file).read_bytes(), kept)
    except OSError as error:
        raise Failure(f"{context.path}: {error.strerror}", EX_UNAVAILABLE) from error
    _note(context.config, name, row.file)
    console().print(f"{context.path} is now what {row.file} was; before: {kept}")
    console().print("Reload the service (SIGHUP) to use it.")


def differences(live: Config, other: Config) -> list[str]:
    """The settings, but for those that a shadow tries, in which two configurations differ."""
    names = [field.name for field in msgspec.structs.fields(type(live))]
    return [name for name in names if name not in _COVERED and getattr(live, name) != getattr(other, name)]


def _named(context: Context, name: str) -> ShadowSettings:
    row = next((one for one in context.config.shadow if one.name == name), None)
    if row is None:
        raise Failure(f"no shadow is called {printable(name, 40)}; see mailwarden shadow list", EX_NOINPUT)
    return row


def _replace(path: Path, data: bytes, kept: Path) -> None:
    """Put `data` in place of a file in one step, with the same owner and mode; the old one goes to `kept`."""
    there = path.stat()
    os.link(path, kept)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(descriptor, there.st_mode & 0o777)
            if os.geteuid() == 0:
                os.fchown(descriptor, there.st_uid, there.st_gid)
            os.fsync(descriptor)
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise


def _note(config: Config, name: str, file: str) -> None:
    """Write it down in the audit; a store that is not there takes nothing back."""
    from gateway.store import audit  # noqa: PLC0415  # help stays quick
    from gateway.store.database import open_database  # noqa: PLC0415  # as above

    try:
        with closing(open_database(config.store)) as database:
            database.write(lambda c: audit.append(c, "", operator(), "promoted", f"{name} {file}"))
    except StoreError as error:
        console(stderr=True).print(f"not in the audit: {printable(str(error), 200)}")
