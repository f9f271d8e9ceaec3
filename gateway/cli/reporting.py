# SPDX-License-Identifier: GPL-2.0-or-later
"""What the commands that report to domains share: which days, by which way, and what is printed."""

from __future__ import annotations

import time
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from gateway.cli.main import EX_CONFIG, EX_UNAVAILABLE, EX_USAGE, Failure
from gateway.cli.output import console, print_json, table
from gateway.mail.headers import printable
from gateway.store.counts import DAY
from gateway.store.database import StoreError, open_database

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gateway.auth.outgoing import Signing
    from gateway.config import Config
    from gateway.reports.send import Deliver
    from gateway.reports.settings import SenderSettings
    from gateway.store.database import Database

_NUMBERS = ("messages", "connections", "records")


def chosen_day(day: datetime | None, out: Path | None, *, sending: bool) -> tuple[int | None, int]:
    """The number of the day that was asked for, None for all, and of today. Raises Failure."""
    if out and sending:
        raise Failure("one of --out and --send", EX_USAGE)
    number = int(day.replace(tzinfo=UTC).timestamp()) // DAY if day else None
    today = int(time.time()) // DAY
    if sending and number is not None and number >= today:
        raise Failure("only a day that is over (UTC) is reported", EX_USAGE)
    return number, today


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


def print_rows(rows: list[dict[str, Any]], counted: str, *, as_json: bool) -> None:
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


@contextmanager
def opened(config: Config) -> Iterator[Database]:
    """The configured database; its errors end the program with EX_UNAVAILABLE."""
    try:
        database = open_database(config.store)
        try:
            yield database
        finally:
            database.close()
    except StoreError as error:
        raise Failure(printable(str(error), 500), EX_UNAVAILABLE) from error
