# SPDX-License-Identifier: GPL-2.0-or-later
"""TLS reports: what is counted, the JSON, and to whom it goes by mail and over HTTPS."""

from __future__ import annotations

import email
import email.policy
import gzip
import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from contrib.lab.certificates import Authority
from contrib.lab.dns import DnsStub
from contrib.lab.web import WebServer
from gateway.auth.outgoing import Signing
from gateway.delivery.relay import RecipientResult
from gateway.dns import DnsSettings, Resolver
from gateway.reports.heading import Heading, mail
from gateway.reports.settings import TlsReportSettings
from gateway.reports.tls_send import TlsReporter, send
from gateway.reports.tlsrpt import Report, as_json, attached, packed
from gateway.store.counts import DAY
from gateway.store.database import open_database
from gateway.store.tlsrpt import TlsResult, TlsResults, prune, result_of, results, summaries
from gateway.tls.dane import Tlsa
from gateway.tls.fetch import Web
from gateway.tls.mta_sts import Policy
from gateway.tls.outbound import TlsPolicy
from tests.stored import settings_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gateway.mail.types import Envelope
    from gateway.reports.sending import Sending

DOMAIN = "example.com"
EXPIRED, INVALID = "certificate-expired", "validation-failure"
STS = Policy("enforce", 86_400, ("mx.example.com", "*.example.net")).told()
RECORD = Tlsa(3, 1, 1, b"\xab" * 32)


@pytest.mark.parametrize(
    ("policy", "failure", "kind", "result"),
    [
        (TlsPolicy(), "", "no-policy-found", ""),
        (TlsPolicy(), "starttls-not-supported", "no-policy-found", "starttls-not-supported"),
        (TlsPolicy(failure="sts-policy-fetch-error"), "", "sts", "sts-policy-fetch-error"),
        (TlsPolicy("dane", source="dane", tlsa=(RECORD,)), "", "tlsa", ""),
        (TlsPolicy("encrypt", source="dane", failure="tlsa-invalid"), "", "tlsa", "tlsa-invalid"),
        (
            TlsPolicy("verify", source="mta-sts", told=STS),
            "certificate-expired",
            "sts",
            "certificate-expired",
        ),
        (
            TlsPolicy("may", source="mta-sts", told=STS, failure="validation-failure"),
            "",
            "sts",
            "validation-failure",
        ),
        (
            TlsPolicy("verify", source="memory"),
            "certificate-expired",
            "no-policy-found",
            "certificate-expired",
        ),
    ],
)
def test_what_a_connection_comes_to(policy: TlsPolicy, failure: str, kind: str, result: str) -> None:
    found = result_of(policy, failure, "mx.example.com", "192.0.2.1", "why")
    assert (found.policy_type, found.result) == (kind, result)
    assert found.mx_host == ("mx.example.com" if result else "")
    assert found.mx == (("mx.example.com", "*.example.net") if policy.told else ())
    assert found.policy == (policy.told or ((f"3 1 1 {'ab' * 32}",) if policy.tlsa else ()))


ROWS = [
    (TlsResult("sts", STS, ("mx.example.com", "*.example.net")), 5_326),
    (
        TlsResult(
            "sts",
            STS,
            ("mx.example.com", "*.example.net"),
            "certificate-expired",
            "mx.example.com",
            "192.0.2.1",
            'x"\x1b[31m\r\n',
        ),
        100,
    ),
    (TlsResult("tlsa", (str(RECORD),)), 3),
]
REPORT = Report(Heading(DOMAIN, 20_000, "example.org", "Example", "tls@example.org"), ROWS)


def test_the_json() -> None:
    told = json.loads(gzip.decompress(packed(REPORT)))
    assert told == as_json(REPORT)
    assert packed(REPORT) == packed(REPORT)
    assert told["organization-name"] == "Example"
    assert told["date-range"] == {
        "start-datetime": "2024-10-04T00:00:00Z",
        "end-datetime": "2024-10-04T23:59:59Z",
    }
    assert told["contact-info"] == "tls@example.org"
    sts, tlsa = told["policies"]
    assert sts["policy"] == {
        "policy-type": "sts",
        "policy-domain": DOMAIN,
        "policy-string": list(STS),
        "mx-host": ["mx.example.com", "*.example.net"],
    }
    assert sts["summary"] == {"total-successful-session-count": 5_326, "total-failure-session-count": 100}
    (detail,) = sts["failure-details"]
    assert detail["result-type"] == "certificate-expired"
    assert detail["receiving-ip"] == "192.0.2.1"
    assert "\x1b" not in detail["failure-reason-code"]
    assert tlsa["summary"]["total-successful-session-count"] == 3
    assert "failure-details" not in tlsa


def test_the_mail() -> None:
    raw = mail(REPORT.about, attached(REPORT), ["rua@example.com"], now=0)
    read = email.message_from_bytes(raw, policy=email.policy.default)
    assert read["TLS-Report-Domain"] == DOMAIN
    assert read["TLS-Report-Submitter"] == "example.org"
    assert read["TLS-Required"] == "No"
    assert read.get_content_type() == "multipart/report"
    assert read.get_param("report-type") == "tlsrpt"
    _, part = list(read.iter_parts())
    assert part.get_content_type() == "application/tlsrpt+gzip"
    assert part.get_filename() == REPORT.filename
    assert part.get_content() == packed(REPORT)
    assert REPORT.filename.startswith(f"example.org!example.com!{20_000 * DAY}!{20_000 * DAY + DAY - 1}!")
    assert all(len(line) < 998 for line in raw.split(b"\r\n"))


class Office:
    """Counts of yesterday, a zone, a web server, and a next hop that answers as it is told."""

    def __init__(self, directory: Path, stub: DnsStub, web: WebServer) -> None:
        self.stub, self.web = stub, web
        self.authority = Authority(directory / "ca")
        self.database = open_database(settings_for(directory))
        self.day = int(time.time()) // DAY - 1
        self.sent: list[tuple[Envelope, bytes]] = []
        self.answer = RecipientResult("delivered", 250, "2.0.0", "ok")
        counts = TlsResults(self.database)
        for result, count in ROWS:
            for _ in range(min(count, 7)):
                counts.add(self.day, DOMAIN, result)
        counts.close()

    def publish(self, *uris: str) -> None:
        self.stub.add("_smtp._tls.example.com", {"TXT": [f"v=TLSRPTv1; rua={','.join(uris)}"]})

    def serve(self, **values: Any) -> None:
        self.web.serve("reports.example.com", self.authority.issue("reports.example.com"), **values)

    def deliver(self, envelope: Envelope, raw: bytes, _: str) -> dict[str, RecipientResult]:
        self.sent.append((envelope, raw))
        return dict.fromkeys(envelope.recipients, self.answer)

    def send(self) -> list[Sending] | None:
        settings = DnsSettings(nameservers=(self.stub.nameserver,), timeout=5.0, attempts=1, cache_size=0)
        resolver = Resolver(settings)
        web = Web(
            resolver, self.web.port, str(self.authority.certificate), lambda address: address == "127.0.0.1"
        )
        reporter = TlsReporter(
            settings=TlsReportSettings(enabled=True, email="tls@example.org"),
            submitter="example.org",
            resolver=resolver,
            web=web,
            deliver=self.deliver,
            signing=Signing(),
        )
        (summary,) = summaries(self.database, day=self.day)
        return send(self.database, summary, reporter)


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    with DnsStub({"reports.example.com": {"A": ["127.0.0.1"]}}) as stub, WebServer() as web:
        made = Office(tmp_path, stub, web)
        yield made
        made.database.close()


def outcome(sent: list[Sending] | None) -> list[tuple[str, str]]:
    assert sent is not None
    return [(one.address, one.status) for one in sent]


def test_results_are_counted(office: Office) -> None:
    (summary,) = summaries(office.database)
    assert (summary.domain, summary.count, summary.rows, summary.state) == (DOMAIN, 17, 3, "due")
    assert dict(results(office.database, office.day, DOMAIN, 10)) == {
        row: min(count, 7) for row, count in ROWS
    }
    assert summaries(office.database, domain="example.net") == []
    assert prune(office.database, office.day) == 0
    assert prune(office.database, office.day + 1) == 3


def test_a_report_goes_to_all_who_want_it_once(office: Office) -> None:
    https = "https://reports.example.com/tls?a=b"
    office.publish("mailto:rua@example.net", https)
    office.web.serve(
        "reports.example.com", office.authority.issue("reports.example.com"), status="201 Created"
    )
    assert outcome(office.send()) == [("mailto:rua@example.net", "sent"), (https, "sent")]
    ((envelope, raw),) = office.sent
    assert (envelope.mail_from, envelope.recipients) == ("", ("rua@example.net",))
    assert b"TLS-Report-Domain: example.com" in raw
    (asked,) = office.web.requests
    assert asked.line == "POST /tls?a=b HTTP/1.1"
    assert b"Content-Type: application/tlsrpt+gzip" in asked.head
    assert json.loads(gzip.decompress(asked.body))["policies"]
    assert office.send() is None


@pytest.mark.parametrize(
    ("status", "said"), [("404 Not Found", "refused"), ("500 Oops", "deferred"), ("302 Found", "deferred")]
)
def test_a_web_server_that_does_not_take_it(office: Office, status: str, said: str) -> None:
    office.publish("https://reports.example.com/tls")
    office.serve(status=status)
    assert outcome(office.send()) == [("https://reports.example.com/tls", said)]
    assert (office.send() is None) == (said == "refused")


def test_what_fails_is_tried_again(office: Office, tmp_path: Path) -> None:
    office.stub.add("_smtp._tls.example.com", "SERVFAIL")
    assert outcome(office.send()) == [("", "deferred")]
    office.publish("mailto:a@example.net", "https://reports.example.com/")
    office.web.serve("reports.example.com", Authority(tmp_path / "other").issue("reports.example.com"))
    assert [status for _, status in outcome(office.send())] == ["sent", "deferred"]
    office.serve()
    assert outcome(office.send()) == [("https://reports.example.com/", "sent")]
    assert len(office.sent) == 1


@pytest.mark.parametrize(
    "uri", ["mailto:a@b@c", "mailto:%22x%22@example.net", "mailto:a%0d%0aBcc:x@example.net"]
)
def test_addresses_that_are_not_plain(office: Office, uri: str) -> None:
    office.publish(uri)
    assert outcome(office.send()) == [(uri, "skipped")]
    assert not office.sent


def test_nobody_asked(office: Office) -> None:
    assert outcome(office.send()) == [("", "skipped")]
    assert office.send() is None


def test_a_refusal_for_good(office: Office) -> None:
    office.publish("mailto:a@example.net")
    office.answer = replace(office.answer, status="refused", code=550)
    assert outcome(office.send()) == [("mailto:a@example.net", "refused")]
    assert office.send() is None


def test_a_name_that_is_no_plain_domain(office: Office) -> None:
    counts = TlsResults(office.database)
    counts.add(office.day, "a/b.example", ROWS[0][0])
    counts.close()
    wanted: list[Any] = summaries(office.database, domain="a/b.example")
    assert len(wanted) == 1
