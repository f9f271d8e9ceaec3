# SPDX-License-Identifier: GPL-2.0-or-later
"""The mail that carries a report (RFC 7489 §7.2.1.1).

Everything in it has been checked: addresses are plain, domains are letters, digits, hyphens and
underscores. No text of a stranger reaches its header section otherwise. It is signed with the keys
of outbound mail, since receivers want reports to pass DMARC themselves (RFC 9990).
"""

from __future__ import annotations

import base64
import time
from datetime import UTC, datetime
from email.utils import formatdate
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.reports.aggregate import Report

_LINE: Final = 76

_MESSAGE: Final = """\
From: <{email}>
To: {to}
Subject: Report Domain: {domain}
 Submitter: {submitter}
 Report-ID: <{id}>
Date: {date}
Message-ID: <{id}>
Auto-Submitted: auto-generated
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="{boundary}"

--{boundary}
Content-Type: text/plain; charset=us-ascii

This is a DMARC aggregate report by {submitter} about mail from {domain},
{day} (UTC). The report is in the attached file.
The policy record of {domain} names this address for reports (rua).

--{boundary}
Content-Type: application/gzip; name="{filename}"
Content-Transfer-Encoding: base64
Content-Disposition: attachment; filename="{filename}"

{data}

--{boundary}--
"""


def message(report: Report, data: bytes, to: Sequence[str], *, now: float | None = None) -> bytes:
    """The message with `data`, the packed report, to the addresses `to`; CRLF line ends."""
    text = base64.b64encode(data).decode("ascii")
    return (
        _MESSAGE.format(
            email=report.email,
            to=",\n ".join(f"<{address}>" for address in to),
            domain=report.domain,
            submitter=report.submitter,
            id=report.id,
            date=formatdate(time.time() if now is None else now),
            boundary=f"=_{report.id.partition('@')[0]}",
            day=datetime.fromtimestamp(report.begin, UTC).date().isoformat(),
            filename=report.filename,
            data="\n".join(text[start : start + _LINE] for start in range(0, len(text), _LINE)),
        )
        .replace("\n", "\r\n")
        .encode("ascii")
    )
