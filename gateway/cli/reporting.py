# SPDX-License-Identifier: GPL-2.0-or-later
"""What the commands that report to domains share: options, days, by which way, and what is printed."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.database import opened
from gateway.cli.main import EX_CONFIG, EX_USAGE, Failure, json_option
from gateway.cli.output import console, print_json, table
from gateway.mail.domains import to_ascii
from gateway.store.counts import DAY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.auth.outgoing import Signing
    from gateway.config import Config
    from gateway.delivery.release import Deliver
    from gateway.reports.sending import Sending
    from gateway.reports.settings import SenderSettings
    from gateway.store.database import Database
    from gateway.store.reported import Summary

_NUMBERS = ("messages", "connections", "records")


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of reports: DMARC's, or those about TLS."""

    counted: str  # what is counted, in the words of the table
    summaries: Callable[..., list[Summary]]
    # One report as its file's name and content. Raises NoReportError.
    packed: Callable[[Config, Database, Summary], tuple[str, bytes]]
    # What sends them: for each, what became of it, or None if it is done elsewhere.
    sender: Callable[[Config, Database], Callable[[Database, Summary], list[Sending] | None]]


def options(whose: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options of a command that lists, writes or sends reports; `whose` domains are named."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in (
            json_option,
            click.option(
                "--send", "sending", is_flag=True, help="Send what was not sent yet, of days that are over."
            ),
            click.option(
                "--out",
                type=click.Path(file_okay=False, path_type=Path),
                help="Write the reports into this directory; nothing is sent or marked as sent.",
            ),
            click.option("--domain", default="", help=f"Only this {whose} domain."),
            click.option(
                "--day",
                type=click.DateTime(["%Y-%m-%d"]),
                help="Only this day (UTC); without it, all that are kept.",
            ),
        ):
            command = option(command)
        return command

    return decorate


def run(
    config: Config,
    kind: Kind,
    *,
    day: datetime | None,
    domain: str,
    out: Path | None,
    sending: bool,
    as_json: bool,
) -> None:
    """List, write or send reports. Raises Failure; ends with 1 if a destination could not be reached."""
    if out and sending:
        raise Failure("one of --out and --send", EX_USAGE)
    number = int(day.replace(tzinfo=UTC).timestamp()) // DAY if day else None
    today = int(time.time()) // DAY
    if sending and number is not None and number >= today:
        raise Failure("only a day that is over (UTC) is reported", EX_USAGE)
    with opened(config) as database:
        wanted = kind.summaries(database, day=number, domain=to_ascii(domain) or "" if domain else "")
        if out:
            rows = [_row(kind, one) | _written(config, kind, database, one, out) for one in wanted]
        elif sending:
            rows = _sent(config, kind, database, [one for one in wanted if one.day < today])
        else:
            rows = [_row(kind, one) | {"state": one.state if one.day < today else "today"} for one in wanted]
    _print(rows, kind.counted, as_json=as_json)
    if any(row.get("status") in ("deferred", "failed") for row in rows):
        sys.exit(1)


def _row(kind: Kind, summary: Summary) -> dict[str, Any]:
    return {
        "day": datetime.fromtimestamp(summary.day * DAY, UTC).date().isoformat(),
        "domain": summary.domain,
        kind.counted: summary.count,
        "records": summary.rows,
    }


def _written(config: Config, kind: Kind, database: Database, summary: Summary, out: Path) -> dict[str, Any]:
    """Write a report to a file of its own."""
    from gateway.reports.sending import NoReportError  # noqa: PLC0415  # a list needs none of it

    try:
        name, data = kind.packed(config, database, summary)
        out.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(data)
    except NoReportError as error:
        return {"status": "skipped", "note": str(error)}
    except OSError as error:
        return {"status": "failed", "note": f"{out}: {error.strerror}"}
    return {"file": str(out / name), "status": "written"}


def _sent(config: Config, kind: Kind, database: Database, wanted: Sequence[Summary]) -> list[dict[str, Any]]:
    """Send what is due; one row for each destination."""
    send = kind.sender(config, database)
    rows: list[dict[str, Any]] = []
    for summary in wanted:
        if summary.state == "done":
            continue
        row, outcomes = _row(kind, summary), send(database, summary)
        if outcomes is None:
            rows.append(row | {"status": "skipped", "note": "somebody else is sending it"})
            continue
        rows += [
            row | {"destination": one.address, "status": one.status, "note": one.note} for one in outcomes
        ]
    return rows


def posting(
    config: Config, settings: SenderSettings, section: str, database: Database
) -> tuple[Deliver, Signing]:
    """By which way reports go, and with which keys they are signed. Raises Failure."""
    from gateway.assembly import load_hop_logins, ways  # noqa: PLC0415  # only sending needs them
    from gateway.auth import outgoing  # noqa: PLC0415  # only sending needs keys
    from gateway.delivery.release import deliverer  # noqa: PLC0415  # only sending needs asyncio and TLS
    from gateway.delivery.routes import Routes, parse_route, routes  # noqa: PLC0415  # as above

    if not settings.email:
        raise Failure(f"set {section}.email: reports need an address that they come from", EX_CONFIG)
    ways_out = routes(config.routes, config.next_hop)
    if settings.next_hop:
        ways_out = Routes({}, (), parse_route(settings.next_hop))
    if not settings.next_hop and not config.routes and not config.next_hop:
        raise Failure(f"no next hop is configured to send to; set {section}.next_hop or next_hop", EX_CONFIG)
    try:
        signing = outgoing.load(config.signing)
    except (OSError, ValueError) as error:
        raise Failure(f"signing: {error}", EX_CONFIG) from error
    return deliverer(ways_out, ways(config, load_hop_logins(config), database), config.name), signing


def _print(rows: list[dict[str, Any]], counted: str, *, as_json: bool) -> None:
    """Print what is reported, or was; `counted` names what there is so many of."""
    if as_json:
        print_json(rows)
        return
    out = console()
    if not rows:
        out.print("There is nothing to report.")
        return
    names = ("day", "domain", counted, "records", "state", "destination", "status", "file", "note")
    shown = [name for name in names if any(name in row for row in rows)]
    heads = [name.capitalize() + (">" if name in _NUMBERS else "") for name in shown]
    out.print(table(heads, [[row.get(name, "") for name in shown] for row in rows]))
