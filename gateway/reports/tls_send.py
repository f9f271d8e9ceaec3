# SPDX-License-Identifier: GPL-2.0-or-later
"""Make the TLS report about one domain and day, and bring it to those who asked for it (RFC 8460).

Sends to addresses that strangers publish: plain mail addresses, and https URIs, which `tls/fetch` reaches
with a verified certificate and at global addresses alone. What fails for now goes out in the next run.
A report never holds mail up, and mail that carries one is not counted.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from gateway.auth.outgoing import signed_by_us
from gateway.mail.types import Envelope
from gateway.reports.destinations import is_address
from gateway.reports.observe import is_domain
from gateway.reports.send import Sending
from gateway.reports.tlsrpt import Report, message, packed
from gateway.store import reported, schema, tlsrpt
from gateway.tls.fetch import FetchError
from gateway.tls.tlsrpt import record_of
from gateway.tls.wish import NOT_REQUIRED

if TYPE_CHECKING:
    from gateway.auth.outgoing import Signing
    from gateway.dns import Resolver
    from gateway.reports.send import Deliver
    from gateway.reports.settings import TlsReportSettings
    from gateway.store.database import Database
    from gateway.store.tlsrpt import Summary
    from gateway.tls.fetch import Web

_DNS_SECONDS: Final = 10.0
_POST_SECONDS: Final = 30.0
_KIND: Final = "application/tlsrpt+gzip"


@dataclass(frozen=True, slots=True)
class TlsReporter:
    """Who reports, and with what."""

    settings: TlsReportSettings
    submitter: str
    resolver: Resolver
    web: Web
    deliver: Deliver
    signing: Signing


def make(database: Database, summary: Summary, settings: TlsReportSettings, submitter: str) -> Report | None:
    """Make the report that `summary` is about; None about what is no plain domain. Raises StoreError."""
    if not is_domain(summary.domain):
        return None
    return Report(
        domain=summary.domain,
        day=summary.day,
        rows=tlsrpt.results(database, summary.day, summary.domain, settings.max_records),
        submitter=submitter,
        organization=settings.organization or submitter,
        email=settings.email,
        contact=settings.contact,
    )


def send(database: Database, summary: Summary, reporter: TlsReporter) -> list[Sending] | None:
    """Send one report to all who want it; None if it is done or under way elsewhere.

    Raises StoreError. Whatever else happens is an outcome.
    """
    table = schema.tls_reports
    settled = reported.claim(database, table, summary.day, summary.domain)
    if settled is None:
        return None
    outcomes: list[Sending] = []
    try:
        outcomes = _send(database, summary, reporter, settled)
    finally:  # a claim that is not settled would keep others waiting
        results: dict[str, tuple[reported.State, str]] = {
            one.address: (one.status, one.note) for one in outcomes if one.address and one.status != "skipped"
        }
        done = bool(outcomes) and all(one.status != "deferred" for one in outcomes)
        reported.settle(database, table, summary.day, summary.domain, results, done=done)
    return outcomes


def _send(database: Database, summary: Summary, reporter: TlsReporter, settled: set[str]) -> list[Sending]:
    report = make(database, summary, reporter.settings, reporter.submitter)
    if report is None:
        return [Sending("", "skipped", "not a plain domain")]
    answer = reporter.resolver.query(f"_smtp._tls.{report.domain}", "TXT", time.monotonic() + _DNS_SECONDS)
    if answer.status == "temperror":
        return [Sending("", "deferred", "no answer from the DNS")]
    wanted = record_of(answer.values)
    if not wanted:
        return [Sending("", "skipped", "asks for no reports")]
    data = packed(report)
    most = reporter.settings.max_destinations
    outcomes = [_one(uri, report, data, reporter) for uri in wanted[:most] if uri not in settled]
    return outcomes or [Sending("", "skipped", "sent before")]


def _one(uri: str, report: Report, data: bytes, reporter: TlsReporter) -> Sending:
    parts = urlsplit(uri)
    if parts.scheme == "https":
        return _post(uri, data, reporter.web)
    address = unquote(parts.path, errors="replace")
    if not is_address(address):
        return Sending(uri, "skipped", "not a plain mail address")
    settings = reporter.settings
    raw = signed_by_us(message(report, data, address), settings.email.rpartition("@")[2], reporter.signing)
    # It is about TLS that fails, so that it goes out all the same (RFC 8460 §3).
    envelope = Envelope(settings.envelope_sender, (address,), (NOT_REQUIRED,))
    result = reporter.deliver(envelope, raw, "").get(address)
    if result is None:
        return Sending(uri, "deferred", "no answer for this recipient")
    return Sending(uri, "sent" if result.status == "delivered" else result.status, str(result))


def _post(uri: str, data: bytes, web: Web) -> Sending:
    parts = urlsplit(uri)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        answer = web.post(
            parts.hostname or "", path, data, _KIND, seconds=_POST_SECONDS, port=parts.port or 0
        )
    except FetchError as error:
        return Sending(uri, "deferred", str(error))
    if 200 <= answer.status < 300:
        return Sending(uri, "sent", f"status {answer.status}")
    for_good = answer.status in (404, 405, 410, 413, 415)
    return Sending(uri, "refused" if for_good else "deferred", f"status {answer.status}")
