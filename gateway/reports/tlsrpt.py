# SPDX-License-Identifier: GPL-2.0-or-later
"""The JSON of a TLS report (RFC 8460 §4.4), its name, and the mail that carries it (§5.3).

Writes text of strangers: host names, policies. All of it is printable, and json escapes the rest; into the
header section of the mail go names that are plain.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final

from gateway.mail.headers import printable
from gateway.store.counts import DAY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.store.tlsrpt import TlsResult

_LINE: Final = 76
_MESSAGE: Final = """\
From: <{email}>
To: <{to}>
Subject: Report Domain: {domain}
 Submitter: {submitter}
 Report-ID: <{id}>
Date: {date}
Message-ID: <{id}>
TLS-Report-Domain: {domain}
TLS-Report-Submitter: {submitter}
TLS-Required: No
Auto-Submitted: auto-generated
MIME-Version: 1.0
Content-Type: multipart/report; report-type="tlsrpt";
 boundary="{boundary}"

--{boundary}
Content-Type: text/plain; charset=us-ascii

This is an aggregate TLS report by {submitter} about mail to {domain},
{day} (UTC). The report is in the attached file.
The TLSRPT record of {domain} names this address for reports (rua).

--{boundary}
Content-Type: application/tlsrpt+gzip
Content-Transfer-Encoding: base64
Content-Disposition: attachment; filename="{filename}"

{data}

--{boundary}--
"""


@dataclass(frozen=True, slots=True)
class Report:
    """One report: what `submitter` saw of TLS towards `domain` on `day` (since 1970, UTC)."""

    domain: str
    day: int
    rows: Sequence[tuple[TlsResult, int]]
    submitter: str
    organization: str
    email: str
    contact: str = ""

    @property
    def id(self) -> str:
        """The Report-ID: the same whenever this report is made again."""
        text = f"tls\n{self.submitter}\n{self.domain}\n{self.day}"
        return f"{hashlib.sha256(text.encode()).hexdigest()[:20]}@{self.submitter}"

    @property
    def filename(self) -> str:
        """The name that RFC 8460 §5.1 prescribes. Both domains are plain: no slash, no space."""
        begin = self.day * DAY
        unique = self.id.partition("@")[0]
        return f"{self.submitter}!{self.domain}!{begin}!{begin + DAY - 1}!{unique}.json.gz"


def packed(report: Report) -> bytes:
    """The JSON in gzip, the same octets each time."""
    return gzip.compress(json.dumps(as_json(report), indent=1).encode("ascii"), mtime=0)


def as_json(report: Report) -> dict[str, Any]:
    """The report as RFC 8460 §4.4 has it."""
    groups: dict[tuple[str, tuple[str, ...]], list[tuple[TlsResult, int]]] = {}
    for result, count in report.rows:
        groups.setdefault((result.policy_type, result.policy), []).append((result, count))
    return {
        "organization-name": report.organization,
        "date-range": {"start-datetime": _moment(report.day * DAY), "end-datetime": _moment(_end(report))},
        "contact-info": report.contact or report.email,
        "report-id": report.id,
        "policies": [_policy(report.domain, rows) for rows in groups.values()],
    }


def _end(report: Report) -> int:
    return report.day * DAY + DAY - 1


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


def message(report: Report, data: bytes, to: str, *, now: float | None = None) -> bytes:
    """The mail with `data`, the packed report, to one address; CRLF line ends.

    It asks to be sent even where TLS is broken, since that is what it is about (RFC 8460 §3).
    """
    text = base64.b64encode(data).decode("ascii")
    return (
        _MESSAGE.format(
            email=report.email,
            to=to,
            domain=report.domain,
            submitter=report.submitter,
            id=report.id,
            date=formatdate(time.time() if now is None else now),
            boundary=f"=_{report.id.partition('@')[0]}",
            day=datetime.fromtimestamp(report.day * DAY, UTC).date().isoformat(),
            filename=report.filename,
            data="\n".join(text[start : start + _LINE] for start in range(0, len(text), _LINE)),
        )
        .replace("\n", "\r\n")
        .encode("ascii")
    )
