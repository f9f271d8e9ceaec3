# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of DMARC reports report: settings, observations, a report of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gateway.auth.dmarc import read_record
from gateway.reports.aggregate import Report
from gateway.reports.heading import Heading
from gateway.reports.settings import ReportSettings
from gateway.store.dmarc import Observation

if TYPE_CHECKING:
    from gateway.reports.aggregate import Format

RECORD = "v=DMARC1; p=reject; sp=quarantine; adkim=s; pct=40; fo=1:d; rua=mailto:rua@example.net"
SETTINGS = ReportSettings(enabled=True, email="dmarc@example.org", envelope_sender="bounces@example.org")
SEEN = Observation(
    source_ip="192.0.2.7",
    header_from="news.example.net",
    envelope_from="example.net",
    envelope_to="example.com",
    policy="quarantine",
    disposition="none",
    dkim=True,
    spf=False,
    signatures=(("example.net", "s1", "pass"), ("example.org", "x", "permerror")),
    spf_domain="example.net",
    spf_result="softfail",
)
FAILED = replace(SEEN, disposition="quarantine", dkim=False, reason="local_policy", envelope_to="")
FORMATS: list[Format] = ["rfc7489", "rfc9990"]


def report(*rows: tuple[Observation, int], record: str = RECORD, **changes: Any) -> Report:
    read = read_record(record, any_order=True)
    assert read
    about = Heading(
        domain="example.net",
        day=20_000,
        submitter="mx.example.org",
        organization="Example & Söhne",
        email="dmarc@example.org",
        contact="https://example.org/?a=1&b=2",
    )
    return Report(replace(about, **changes), read, "psl", rows or ((SEEN, 3), (FAILED, 1)))
