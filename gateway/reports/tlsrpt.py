# SPDX-License-Identifier: GPL-2.0-or-later
"""The JSON of a TLS report (RFC 8460 §4.4), its name, and the mail that carries it (§5.3).

Writes text of strangers: host names, policies. All of it is printable, and json escapes the rest; into the
header section of the mail go names that are plain.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from gateway.mail.headers import printable
from gateway.reports.heading import Attached

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.reports.heading import Heading
    from gateway.store.tlsrpt import TlsResult

PACKED: Final = "application/tlsrpt+gzip"


@dataclass(frozen=True, slots=True)
class Report:
    """One report: what TLS towards a domain came to on a day, and how often."""

    about: Heading
    rows: Sequence[tuple[TlsResult, int]]

    @property
    def id(self) -> str:
        """The Report-ID, another one than that of a DMARC report."""
        return self.about.id("tls")

    @property
    def filename(self) -> str:
        """The name that RFC 8460 §5.1 prescribes. Both domains are plain: no slash, no space."""
        about, unique = self.about, self.id.partition("@")[0]
        return f"{about.submitter}!{about.domain}!{about.begin}!{about.end}!{unique}.json.gz"


def packed(report: Report) -> bytes:
    """The JSON in gzip, the same octets each time."""
    return gzip.compress(json.dumps(as_json(report), indent=1).encode("ascii"), mtime=0)


def attached(report: Report) -> Attached:
    """The report as the mail of RFC 8460 §5.3 carries it.

    It asks to be sent even where TLS is broken, since that is what it is about (§3).
    """
    domain, submitter = report.about.domain, report.about.submitter
    return Attached(
        id=report.id,
        filename=report.filename,
        data=packed(report),
        part=PACKED,
        whole='multipart/report; report-type="tlsrpt"',
        told=f"This is an aggregate TLS report by {submitter} about mail to {domain}",
        record="TLSRPT",
        fields=f"TLS-Report-Domain: {domain}\nTLS-Report-Submitter: {submitter}\nTLS-Required: No\n",
    )


def as_json(report: Report) -> dict[str, Any]:
    """The report as RFC 8460 §4.4 has it."""
    groups: dict[tuple[str, tuple[str, ...]], list[tuple[TlsResult, int]]] = {}
    for result, count in report.rows:
        groups.setdefault((result.policy_type, result.policy), []).append((result, count))
    about = report.about
    return {
        "organization-name": about.organization,
        "date-range": {"start-datetime": _moment(about.begin), "end-datetime": _moment(about.end)},
        "contact-info": about.contact or about.email,
        "report-id": report.id,
        "policies": [_policy(about.domain, rows) for rows in groups.values()],
    }


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _policy(domain: str, rows: Sequence[tuple[TlsResult, int]]) -> dict[str, Any]:
    first = rows[0][0]
    policy: dict[str, Any] = {"policy-type": first.policy_type, "policy-domain": domain}
    if first.policy:
        policy["policy-string"] = [printable(line, 500) for line in first.policy]
    if first.mx:
        policy["mx-host"] = [printable(line, 260) for line in first.mx]
    failed = [(result, count) for result, count in rows if result.result]
    told: dict[str, Any] = {
        "policy": policy,
        "summary": {
            "total-successful-session-count": sum(count for result, count in rows if not result.result),
            "total-failure-session-count": sum(count for _, count in failed),
        },
    }
    if failed:
        told["failure-details"] = [_failure(result, count) for result, count in failed]
    return told


def _failure(result: TlsResult, count: int) -> dict[str, Any]:
    told: dict[str, Any] = {"result-type": result.result, "failed-session-count": count}
    texts = {
        "receiving-mx-hostname": result.mx_host,
        "receiving-ip": result.address,
        "failure-reason-code": result.reason,
    }
    return told | {name: printable(text, 300) for name, text in texts.items() if text}
