# SPDX-License-Identifier: GPL-2.0-or-later
"""What an operator may set about TLS as policy, in both directions."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from gateway.settings import Settings
from gateway.tls.inbound import InboundTlsRule
from gateway.tls.outbound import OutboundTlsRule

Days = Annotated[int, msgspec.Meta(ge=1, le=365)]


class TlsSettings(Settings, frozen=True):
    """TLS as policy."""

    # What clients must bring, in both doors; every row that applies must be met.
    inbound: tuple[InboundTlsRule, ...] = ()
    # What next hops must offer, smart host only; the first row that applies rules. Without one, mail
    # that MX records route goes as its domain asks (below), and all other mail by "may".
    outbound: tuple[OutboundTlsRule, ...] = ()
    # Obey TLSA records of MX hosts (DANE, RFC 7672). Needs a validating resolver on loopback.
    dane: bool = True
    # Obey MTA-STS policies of recipient domains (RFC 8461). Fetches files from their web servers.
    mta_sts: bool = True
    # What to do where an MX host had a valid certificate, or TLS at all, in the last weeks and has not now:
    # "defer" its mail, "report" it in the log and the metrics, or "ignore" it and remember nothing.
    downgrade: Literal["defer", "report", "ignore"] = "report"
    # Days for which what a host offered is remembered.
    memory_days: Days = 30
    # Where Postfix may ask for the same policies: "unix:/run/mailwarden/tls.sock" or "inet:127.0.0.1:8461";
    # () answers nobody.
    socketmap: tuple[str, ...] = ()
    # Permissions and group of unix sockets for that, as in [milter].
    socket_mode: Annotated[str, msgspec.Meta(pattern="^0[0-7]{3}$")] = "0660"
    socket_group: str = ""
