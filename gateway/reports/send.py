# SPDX-License-Identifier: GPL-2.0-or-later
"""Make the report about one domain and day, and bring it to those who asked for it.

Sends to addresses that strangers publish, after `destinations` has checked them. A report is
claimed before it is sent and settled afterwards, so that two runs at once, or a run after a
crash, do not send it twice to anybody; what a next hop deferred goes out in the next run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from gateway.auth.dmarc import MalformedRecordError, Method, Record, read_record
from gateway.auth.outgoing import signed_by_us
from gateway.dns import Lookup
from gateway.mail.types import Envelope
from gateway.reports.aggregate import Report, packed
from gateway.reports.destinations import Destination, destinations
from gateway.reports.message import message
from gateway.store import dmarc, reported, schema

if TYPE_CHECKING:
    from gateway.auth.outgoing import Signing
    from gateway.delivery.relay import RecipientResult
    from gateway.dns import Resolver
    from gateway.reports.settings import ReportSettings
    from gateway.store.database import Database
    from gateway.store.dmarc import Summary

# Envelope, message, nothing: what became of each recipient, as `release.deliverer` makes it.
Deliver = Callable[[Envelope, bytes, str], Mapping[str, "RecipientResult"]]
DNS_SECONDS: Final = 10.0  # for all questions about one report

Status = Literal["sent", "refused", "deferred", "skipped"]


class NoReportError(Exception):
    """There is no report to make; the text says why."""


@dataclass(frozen=True, slots=True)
class Reporter:
    """Who reports, and with what."""

    settings: ReportSettings
    submitter: str
    method: Method  # by which policy records are found
    resolver: Resolver
    deliver: Deliver
    signing: Signing


@dataclass(frozen=True, slots=True)
class Sending:
    """What became of one report at one destination. "skipped" was never tried."""

    address: str
    status: Status
    note: str


def record_of(text: str, method: Method) -> Record:
    """Read a policy record as it was stored. Raises NoReportError if it asks for nothing."""
    try:
        record = read_record(text, any_order=method == "tree-walk")
    except MalformedRecordError as error:
        raise NoReportError(str(error)) from error
    if record is None or record.p is None:
        raise NoReportError("no policy")
    if not record.rua:
        raise NoReportError("no address for reports")
    return record


def make(
    database: Database, summary: Summary, settings: ReportSettings, submitter: str, method: Method
) -> Report:
    """Make the report that `summary` is about. Raises NoReportError and StoreError."""
    return Report(
        domain=summary.domain,
        day=summary.day,
        record=record_of(summary.record, method),
        method=method,
        rows=dmarc.observations(database, summary.day, summary.domain, settings.max_records),
        submitter=submitter,
        organization=settings.organization or submitter,
        email=settings.email,
        contact=settings.contact,
    )


def send(database: Database, summary: Summary, reporter: Reporter) -> list[Sending] | None:
    """Send one report to all who want it; None if it is done or under way elsewhere.

    Raises StoreError. Whatever else happens is an outcome.
    """
    settled = reported.claim(database, schema.dmarc_reports, summary.day, summary.domain)
    if settled is None:
        return None
    outcomes: list[Sending] = []
    try:
        outcomes = _send(database, summary, reporter, settled)
    except NoReportError as error:
        outcomes = [Sending("", "skipped", str(error))]
    finally:  # a claim that is not settled would keep others waiting
        results: dict[str, tuple[reported.State, str]] = {
            one.address: (one.status, one.note) for one in outcomes if one.status != "skipped"
        }
        done = bool(outcomes) and all(one.status != "deferred" for one in outcomes)
        reported.settle(database, schema.dmarc_reports, summary.day, summary.domain, results, done=done)
    return outcomes


def _send(database: Database, summary: Summary, reporter: Reporter, settled: set[str]) -> list[Sending]:
    settings = reporter.settings
    report = make(database, summary, settings, reporter.submitter, reporter.method)
    lookup = Lookup(reporter.resolver, time.monotonic() + DNS_SECONDS)
    wanted = destinations(
        report.record.rua, report.domain, lookup, reporter.method, settings.max_destinations
    )
    data = packed(report, settings.format)

    def mail(to: Sequence[str]) -> bytes:
        return signed_by_us(message(report, data, to), settings.email.rpartition("@")[2], reporter.signing)

    open_ones = [one for one in wanted if one.status == "good" and one.address.lower() not in settled]
    size = len(mail([one.address for one in open_ones])) if open_ones else 0
    outcomes = [_skipped(one, size) for one in wanted if one.status != "good" or _too_large(one, size)]
    addresses = tuple(one.address for one in open_ones if not _too_large(one, size))
    if addresses:
        results = reporter.deliver(Envelope(settings.envelope_sender, addresses), mail(addresses), "")
        outcomes += [_outcome(address, results.get(address)) for address in addresses]
    return outcomes or [Sending("", "skipped", "sent before")]


def _too_large(one: Destination, size: int) -> bool:
    """RFC 7489 §6.2: the limit is about what is sent, encoded as it is."""
    return one.limit is not None and size > one.limit


def _skipped(one: Destination, size: int) -> Sending:
    if one.status == "unknown":
        return Sending(one.address.lower(), "deferred", one.reason)
    reason = one.reason if one.status == "refused" else f"{size} octets are more than it takes"
    return Sending(one.address.lower(), "skipped", reason)


def _outcome(address: str, result: RecipientResult | None) -> Sending:
    if result is None:
        return Sending(address.lower(), "deferred", "no answer for this recipient")
    status: Status = "sent" if result.status == "delivered" else result.status
    return Sending(address.lower(), status, str(result))
