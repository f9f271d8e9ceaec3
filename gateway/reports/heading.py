# SPDX-License-Identifier: GPL-2.0-or-later
"""What DMARC and TLS reports have in common: who reports about which domain and day, and the mail around it.

Everything in the mail has been checked: addresses are plain, domains are letters, digits, hyphens and
underscores. No text of a stranger reaches its header section otherwise. It is signed with the keys
of outbound mail, since receivers want reports to pass DMARC themselves (RFC 9990).
"""

from __future__ import annotations

import base64
import hashlib
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import formatdate
from typing import TYPE_CHECKING, Final

from gateway.store.counts import DAY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.reports.settings import SenderSettings
    from gateway.store.reported import Summary

_LINE: Final = 76
_MAIL: Final = """\
From: <{email}>
To: {to}
Subject: Report Domain: {domain}
 Submitter: {submitter}
 Report-ID: <{id}>
Date: {date}
Message-ID: <{id}>
{fields}Auto-Submitted: auto-generated
MIME-Version: 1.0
Content-Type: {whole};
 boundary="{boundary}"

--{boundary}
Content-Type: text/plain; charset=us-ascii

{told},
{day} (UTC). The report is in the attached file.
The {record} record of {domain} names this address for reports (rua).

--{boundary}
Content-Type: {part}; name="{filename}"
Content-Transfer-Encoding: base64
Content-Disposition: attachment; filename="{filename}"

{data}

--{boundary}--
"""


@dataclass(frozen=True, slots=True)
class Heading:
    """What `submitter` reports is about `domain` and `day` (since 1970, UTC). Both domains are plain."""

    domain: str
    day: int
    submitter: str
    organization: str
    email: str
    contact: str = ""

    @property
    def begin(self) -> int:
        """The first second, since 1970."""
        return self.day * DAY

    @property
    def end(self) -> int:
        """The last second."""
        return self.begin + DAY - 1

    def id(self, kind: str = "") -> str:
        """The Report-ID: the same whenever this report is made again (RFC 9990)."""
        text = "\n".join(filter(None, (kind, self.submitter, self.domain, str(self.day))))
        return f"{hashlib.sha256(text.encode()).hexdigest()[:20]}@{self.submitter}"


@dataclass(frozen=True, slots=True)
class Attached:
    """A packed report as a mail carries it, and what the mail says of it beside."""

    id: str
    filename: str
    data: bytes
    part: str  # its media type
    whole: str  # that of the mail
    told: str  # what it is, in words
    record: str  # that asks for it
    fields: str = ""  # header fields of such mail, each with a LF


def heading(summary: Summary, settings: SenderSettings, submitter: str) -> Heading:
    """The heading of the report that `summary` is about."""
    return Heading(
        domain=summary.domain,
        day=summary.day,
        submitter=submitter,
        organization=settings.organization or submitter,
        email=settings.email,
        contact=settings.contact,
    )


def mail(about: Heading, attached: Attached, to: Sequence[str], *, now: float | None = None) -> bytes:
    """The mail that carries a report to the addresses `to`; CRLF line ends."""
    text = base64.b64encode(attached.data).decode("ascii")
    return (
        _MAIL.format(
            email=about.email,
            to=",\n ".join(f"<{address}>" for address in to),
            domain=about.domain,
            submitter=about.submitter,
            date=formatdate(time.time() if now is None else now),
            boundary=f"=_{attached.id.partition('@')[0]}",
            day=datetime.fromtimestamp(about.begin, UTC).date().isoformat(),
            data="\n".join(text[start : start + _LINE] for start in range(0, len(text), _LINE)),
            **{
                name: getattr(attached, name)
                for name in ("id", "filename", "part", "whole", "told", "record", "fields")
            },
        )
        .replace("\n", "\r\n")
        .encode("ascii")
    )
