# SPDX-License-Identifier: GPL-2.0-or-later
"""Make the report about one domain and day, and bring it to those who asked for it.

Sends to addresses that strangers publish, after `destinations` has checked them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.auth.dmarc import MalformedRecordError, Method, Record, read_record
from gateway.auth.outgoing import signed_by_us
from gateway.dns import Lookup
from gateway.mail.types import Envelope
from gateway.reports.aggregate import Report, attached
from gateway.reports.destinations import Destination, destinations
from gateway.reports.heading import heading, mail
from gateway.reports.sending import NoReportError, Sending, once, outcome
from gateway.store import dmarc, schema

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.auth.outgoing import Signing
    from gateway.delivery.release import Deliver
    from gateway.dns import Resolver
    from gateway.reports.settings import ReportSettings
    from gateway.store.database import Database
    from gateway.store.reported import Summary

DNS_SECONDS: Final = 10.0  # for all questions about one report


@dataclass(frozen=True, slots=True)
class Reporter:
    """Who reports, and with what."""

    settings: ReportSettings
    submitter: str
    method: Method  # by which policy records are found
    resolver: Resolver
    deliver: Deliver
    signing: Signing


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
        about=heading(summary, settings, submitter),
        record=record_of(summary.record, method),
        method=method,
        rows=dmarc.observations(database, summary.day, summary.domain, settings.max_records),
    )


def send(database: Database, summary: Summary, reporter: Reporter) -> list[Sending] | None:
    """Send one report to all who want it; None if it is done or under way elsewhere.

    Raises StoreError. Whatever else happens is an outcome.
    """
    return once(
        database, schema.dmarc_reports, summary, lambda settled: _send(database, summary, reporter, settled)
    )


def _send(database: Database, summary: Summary, reporter: Reporter, settled: set[str]) -> list[Sending]:
    settings = reporter.settings
    report = make(database, summary, settings, reporter.submitter, reporter.method)
    lookup = Lookup(reporter.resolver, time.monotonic() + DNS_SECONDS)
    wanted = destinations(
        report.record.rua, report.about.domain, lookup, reporter.method, settings.max_destinations
    )
    packet, domain = attached(report, settings.format), settings.email.rpartition("@")[2]

    def signed(to: Sequence[str]) -> bytes:
        return signed_by_us(mail(report.about, packet, to), domain, reporter.signing)

    open_ones = [one for one in wanted if one.status == "good" and one.address.lower() not in settled]
    size = len(signed([one.address for one in open_ones])) if open_ones else 0
    outcomes = [_skipped(one, size) for one in wanted if one.status != "good" or _too_large(one, size)]
    addresses = tuple(one.address for one in open_ones if not _too_large(one, size))
    if addresses:
        results = reporter.deliver(Envelope(settings.envelope_sender, addresses), signed(addresses), "")
        outcomes += [outcome(address.lower(), results.get(address)) for address in addresses]
    return outcomes


def _too_large(one: Destination, size: int) -> bool:
    """RFC 7489 §6.2: the limit is about what is sent, encoded as it is."""
    return one.limit is not None and size > one.limit


def _skipped(one: Destination, size: int) -> Sending:
    if one.status == "unknown":
        return Sending(one.address.lower(), "deferred", one.reason)
    reason = one.reason if one.status == "refused" else f"{size} octets are more than it takes"
    return Sending(one.address.lower(), "skipped", reason)
