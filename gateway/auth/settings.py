# SPDX-License-Identifier: GPL-2.0-or-later
"""What an operator may set about sender authentication."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

import msgspec

from gateway.settings import Settings


class AuthSettings(Settings, frozen=True):
    """Which checks of the sender are made, and how."""

    # Check SPF (RFC 7208) for MAIL FROM and HELO.
    spf: bool = True
    # Check DKIM signatures (RFC 6376).
    dkim: bool = True
    # Evaluate DMARC; it needs spf or dkim.
    dmarc: bool = True
    # Validate ARC chains (RFC 8617).
    arc: bool = True
    # Confirm the client's reverse DNS (RFC 8601 section 3).
    iprev: bool = True
    # How the organizational domain is found: "psl" (RFC 7489, Public Suffix List) or "tree-walk" (RFC 9989).
    dmarc_method: Literal["psl", "tree-walk"] = "psl"
    # DKIM signatures looked at in one message, topmost first.
    max_signatures: Annotated[int, msgspec.Meta(ge=1, le=50)] = 8
    # ARC sets looked at; a longer chain fails. RFC 8617 allows 50.
    max_arc_sets: Annotated[int, msgspec.Meta(ge=1, le=50)] = 50
    # RSA keys with fewer bits never verify (RFC 8301).
    min_rsa_bits: Annotated[int, msgspec.Meta(ge=1024, le=8192)] = 1024
    # Networks of forwarders: SPF "fail" and "softfail" become "policy", failed DMARC is DMARC_FORWARDED.
    trusted_forwarders: tuple[str, ...] = ()
    # Networks of our own relays in front of us: SPF and reverse DNS are taken from their results.
    trusted_relays: tuple[str, ...] = ()
    # The authserv-ids of these relays; only their Authentication-Results are believed.
    trusted_authserv_ids: tuple[str, ...] = ()
    # Whether their results of DKIM are taken too, where they state any: for relays that change messages.
    relayed_dkim: bool = False
    # Seconds that all checks of one message may take together.
    timeout: Annotated[float, msgspec.Meta(gt=0, le=20)] = 15.0

    def __post_init__(self) -> None:
        for network in (*self.trusted_forwarders, *self.trusted_relays):
            ipaddress.ip_network(network)
