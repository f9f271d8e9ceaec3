# SPDX-License-Identifier: GPL-2.0-or-later
"""What an operator may set about the reports that go to domains."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from gateway.delivery.routes import parse_route
from gateway.reports.destinations import is_address
from gateway.settings import Settings
from gateway.store.database import Days


class SenderSettings(Settings, frozen=True):
    """Who reports, and how; the same for both kinds of reports."""

    # Who reports; "" takes the domain of `email`, or our host name.
    organization: str = ""
    # Address that the reports come from, needed to send. Its domain is the submitter in Subject and
    # file name, and should have a key in [signing], since receivers check reports as well.
    email: str = ""
    # How else to reach us, such as the address of a web page; "" leaves it out.
    contact: str = ""
    # Envelope sender of reports. "" is the null sender: no bounces, and so no reports about bounces.
    envelope_sender: str = ""
    # "smtp:host:port" takes all reports; "" takes the route of each destination, and next_hop.
    next_hop: str = ""
    # Days that counts and the record of sent reports are kept.
    days: Days = 14
    # Destinations of one report (rua=), in the order they are published; the RFCs ask for 2 or more.
    max_destinations: Annotated[int, msgspec.Meta(ge=2, le=20)] = 5
    # Records in one report, most frequent first; the rest is left out.
    max_records: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 10_000

    def __post_init__(self) -> None:
        for address in (self.email, self.envelope_sender):
            if address and not is_address(address):
                raise ValueError(f"not a mail address: {address!r}")
        if self.next_hop:
            parse_route(self.next_hop)

    def submitter(self, hostname: str) -> str:
        """The domain that reports."""
        return self.email.rpartition("@")[2].lower() or hostname.lower()


class ReportSettings(SenderSettings, frozen=True):
    """DMARC aggregate reports (RFC 7489, RFC 9990) to the domains that ask for them."""

    # Count the results of DMARC; `mailwarden dmarc report --send`, once a day, sends the reports.
    enabled: bool = False
    # Form of the XML: "rfc7489", which every consumer reads, or "rfc9990".
    format: Literal["rfc7489", "rfc9990"] = "rfc7489"


class TlsReportSettings(SenderSettings, frozen=True):
    """TLS reports (RFC 8460) to the domains that ask for them."""

    # Count what TLS towards MX hosts came to; `mailwarden tls report --send`, once a day, sends the reports.
    enabled: bool = False
