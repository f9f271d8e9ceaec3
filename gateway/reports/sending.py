# SPDX-License-Identifier: GPL-2.0-or-later
"""What became of a report at each destination, and that it is sent once.

A report is claimed before it is sent and settled afterwards, so that two runs at once, or a run after a
crash, do not send it twice to anybody; what was deferred goes out in the next run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gateway.store import reported

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Table

    from gateway.delivery.relay import RecipientResult
    from gateway.store.database import Database
    from gateway.store.reported import Summary


class NoReportError(Exception):
    """There is no report to make; the text says why."""


@dataclass(frozen=True, slots=True)
class Sending:
    """What became of one report at one destination. "skipped" was never tried."""

    address: str  # "" for the report itself
    status: Literal["sent", "refused", "deferred", "skipped"]
    note: str


def outcome(address: str, result: RecipientResult | None) -> Sending:
    """What the next hop's answer comes to; None is none."""
    if result is None:
        return Sending(address, "deferred", "no answer for this recipient")
    return Sending(address, "sent" if result.status == "delivered" else result.status, str(result))


def once(
    database: Database, table: Table, summary: Summary, send: Callable[[set[str]], list[Sending]]
) -> list[Sending] | None:
    """Let `send` try the destinations that are open; None if it is done, or under way elsewhere.

    `send` takes the destinations that are settled, and may raise NoReportError. Raises StoreError.
    Whatever else happens is an outcome.
    """
    settled = reported.claim(database, table, summary.day, summary.domain)
    if settled is None:
        return None
    outcomes: list[Sending] = []
    try:
        outcomes = send(settled) or [Sending("", "skipped", "sent before")]
    except NoReportError as error:
        outcomes = [Sending("", "skipped", str(error))]
    finally:  # a claim that is not settled would keep others waiting
        results: dict[str, tuple[reported.State, str]] = {
            one.address: (one.status, one.note) for one in outcomes if one.address and one.status != "skipped"
        }
        done = bool(outcomes) and all(one.status != "deferred" for one in outcomes)
        reported.settle(database, table, summary.day, summary.domain, results, done=done)
    return outcomes
