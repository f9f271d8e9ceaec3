# SPDX-License-Identifier: GPL-2.0-or-later
"""`mailwarden quarantine export` and `import`: held messages as a file, and held again from one."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from gateway.cli.heldmail import actor, choose, many, opened, report
from gateway.cli.main import EX_DATAERR, EX_NOINPUT, EX_UNAVAILABLE, Context, Failure, json_option
from gateway.cli.output import progress
from gateway.mail.headers import printable
from gateway.store.database import StoreError
from gateway.store.states import OPEN


@click.command("export")
@many("Export")
@click.option(
    "--out", required=True, type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="A new file, tar.gz.",
)  # fmt: skip
@click.pass_obj
def export_held(
    context: Context,
    /,
    ids: tuple[str, ...],
    *,
    out: Path,
    all_matching: bool,
    yes: bool,
    as_json: bool,
    quiet: bool,
    **chosen: Any,
) -> None:
    """Write held messages to a file: the octets as received, and all that is known about them.

    \b
    Examples:
      mailwarden quarantine export 1M80JFSJGNG4SMAS --out case.tar.gz
      mailwarden quarantine export --all-matching --domain example.com --yes --out example.tar.gz
    """
    from gateway.store.archive import write  # noqa: PLC0415  # help stays quick

    with opened(context) as held:
        items = choose(held, ids, chosen, OPEN, all_matching=all_matching, yes=yes)
        try:
            descriptor = os.open(out, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                taken = list(progress(write(held, items, file), "Writing"))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise Failure(f"{out}: {error.strerror}", EX_UNAVAILABLE) from error
    results = [{"id": one.item, "did": one.did, "error": one.why} for one in taken]
    report(results, as_json=as_json, quiet=quiet)
    if any(one.why for one in taken):
        sys.exit(1)


@click.command("import")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@json_option
@click.option("--quiet", "-q", is_flag=True, help="Print only what went wrong.")
@click.pass_obj
def import_held(context: Context, file: Path, *, as_json: bool, quiet: bool) -> None:
    """Hold messages of an export again, for those whose copies waited for a decision.

    What is here already is left alone; nobody gets anything by it.

    \b
    Example:
      mailwarden quarantine import example.tar.gz
    """
    from gateway.store.archive import ArchiveError, hold_again, read  # noqa: PLC0415  # help stays quick

    results: list[dict[str, Any]] = []
    with opened(context) as held:
        try:
            with file.open("rb") as data:
                for facts, raw in progress(read(data), "Reading"):
                    try:
                        done = hold_again(held, facts, raw, actor(context).name)
                        results.append({"id": done.item, "did": done.did, "error": done.why})
                    except StoreError as error:
                        results.append({"id": facts.id, "did": "", "error": str(error)})
        except OSError as error:
            raise Failure(f"{file}: {error.strerror}", EX_NOINPUT) from error
        except ArchiveError as error:
            if results:
                report(results, as_json=as_json, quiet=quiet)
            raise Failure(f"{file}: {printable(str(error), 300)}", EX_DATAERR) from error
    if not results:
        raise Failure(f"{file}: there is no message in it", EX_DATAERR)
    report(results, as_json=as_json, quiet=quiet)
    if any(one["error"] for one in results):
        sys.exit(1)
