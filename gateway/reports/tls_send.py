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
from gateway.reports.heading import heading, mail
from gateway.reports.observe import is_domain
from gateway.reports.send import DNS_SECONDS
from gateway.reports.sending import NoReportError, Sending, once, outcome
from gateway.reports.tlsrpt import PACKED, Report, attached
from gateway.store import schema, tlsrpt
from gateway.tls.fetch import FetchError
from gateway.tls.tlsrpt import record_of
from gateway.tls.wish import NOT_REQUIRED

if TYPE_CHECKING:
    from gateway.auth.outgoing import Signing
    from gateway.delivery.release import Deliver
    from gateway.dns import Resolver
    from gateway.reports.heading import Attached, Heading
    from gateway.reports.settings import TlsReportSettings
    from gateway.store.database import Database
    from gateway.store.reported import Summary
    from gateway.tls.fetch import Web

_POST_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class TlsReporter:
    """Who reports, and with what."""

    settings: TlsReportSettings
    submitter: str
    resolver: Resolver
    web: Web
    deliver: Deliver
    signing: Signing


def make(database: Database, summary: Summary, settings: TlsReportSettings, submitter: str) -> Report:
    """Make the report that `summary` is about. Raises NoReportError and StoreError."""
    if not is_domain(summary.domain):
        raise NoReportError("not a plain domain")
    rows = tlsrpt.results(database, summary.day, summary.domain, settings.max_records)
    return Report(heading(summary, settings, submitter), rows)


def send(database: Database, summary: Summary, reporter: TlsReporter) -> list[Sending] | None:
    """Send one report to all who want it; None if it is done or under way elsewhere.

    Raises StoreError. Whatever else happens is an outcome.
    """
    return once(
        database, schema.tls_reports, summary, lambda settled: _send(database, summary, reporter, settled)
    )


def _send(database: Database, summary: Summary, reporter: TlsReporter, settled: set[str]) -> list[Sending]:
    report = make(database, summary, reporter.settings, reporter.submitter)
    name = f"_smtp._tls.{summary.domain}"
    answer = reporter.resolver.query(name, "TXT", time.monotonic() + DNS_SECONDS)
    if answer.status == "temperror":
        return [Sending("", "deferred", "no answer from the DNS")]
    wanted = record_of(answer.values)
    if not wanted:
        raise NoReportError("asks for no reports")
    packet = attached(report)
    most = reporter.settings.max_destinations
    return [_one(uri, report.about, packet, reporter) for uri in wanted[:most] if uri not in settled]


def _one(uri: str, about: Heading, packet: Attached, reporter: TlsReporter) -> Sending:
    parts = urlsplit(uri)
    if parts.scheme == "https":
        return _post(uri, packet.data, reporter.web)
    address = unquote(parts.path, errors="replace")
    if not is_address(address):
        return Sending(uri, "skipped", "not a plain mail address")
    settings = reporter.settings
    raw = signed_by_us(mail(about, packet, [address]), settings.email.rpartition("@")[2], reporter.signing)
    # It is about TLS that fails, so that it goes out all the same (RFC 8460 §3).
    envelope = Envelope(settings.envelope_sender, (address,), (NOT_REQUIRED,))
    return outcome(uri, reporter.deliver(envelope, raw, "").get(address))


def _post(uri: str, data: bytes, web: Web) -> Sending:
    parts = urlsplit(uri)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        answer = web.post(
            parts.hostname or "", path, data, PACKED, seconds=_POST_SECONDS, port=parts.port or 0
        )
    except FetchError as error:
        return Sending(uri, "deferred", str(error))
    if 200 <= answer.status < 300:
        return Sending(uri, "sent", f"status {answer.status}")
    for_good = answer.status in (404, 405, 410, 413, 415)
    return Sending(uri, "refused" if for_good else "deferred", f"status {answer.status}")
