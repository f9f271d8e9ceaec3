# SPDX-License-Identifier: GPL-2.0-or-later
"""Forward-confirmed reverse DNS of the client (RFC 8601 §3).

Reads hostile text: names that the owner of an address publishes. Asks the DNS through the
message's `Lookup`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.mail.headers import printable
from gateway.mail.networks import address
from gateway.mail.types import Iprev, Session

if TYPE_CHECKING:
    from gateway.dns import Lookup

_MAX_NAMES: Final = 5  # PTR records that are followed
_MAX_ADDRESSES: Final = 100  # of each that are compared


def check_iprev(session: Session, lookup: Lookup) -> Iprev | None:
    """Confirm the client's name; None where there is no client address. Never raises.

    A name that the MTA has confirmed is taken as it is, without asking again.
    """
    client = address(session.client_ip)
    if client is None:
        return None
    if session.client_name:
        return Iprev("pass", printable(session.client_name, 253))
    reverse = lookup.ptr(str(client))
    if reverse.status == "temperror":
        return Iprev("temperror")
    if not reverse:
        return Iprev("permerror")  # RFC 8601 §2.7.3: no PTR record
    forward = lookup.a if client.version == 4 else lookup.aaaa
    failed = False
    for name in reverse.values[:_MAX_NAMES]:
        answer = forward(name)
        failed |= answer.status == "temperror"
        if any(address(value) == client for value in answer.values[:_MAX_ADDRESSES]):
            return Iprev("pass", printable(name, 253))
    return Iprev("temperror" if failed else "fail", printable(reverse.values[0], 253))
