# SPDX-License-Identifier: GPL-2.0-or-later
"""What EHLO offers to whom. No I/O; of the client only its address is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.mail.networks import inside
from gateway.smarthost.commands import DSN
from gateway.smarthost.sasl import MECHANISMS

if TYPE_CHECKING:
    from gateway.smarthost.settings import SmarthostSettings


def parameters(*, queued: bool, over_tls: bool, logins: bool) -> frozenset[str]:
    """The parameters of MAIL that not every client may use."""
    found = {"AUTH"} if logins and over_tls else set()
    if not queued:
        return frozenset(found)  # a next hop would have to be asked for the others before it is known
    return DSN | found | ({"REQUIRETLS"} if over_tls else set())  # RFC 8689 §2


def ehlo(
    hostname: str, settings: SmarthostSettings, peer: str, offered: frozenset[str], *, starttls: bool
) -> str:
    """The reply to EHLO, without its last CRLF; `offered` are the `parameters` of this client."""
    size = f"SIZE {settings.size_limit}"
    words = [hostname, "PIPELINING", size, "8BITMIME", "SMTPUTF8", "CHUNKING", "ENHANCEDSTATUSCODES"]
    if "RET" in offered:
        words.append("DSN")
    if "REQUIRETLS" in offered:
        words.append("REQUIRETLS")
    if starttls:
        words.append("STARTTLS")
    if "AUTH" in offered:
        words.append("AUTH " + " ".join(MECHANISMS))
    if inside(peer, settings.xclient_networks):
        words.append("XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT")
    if inside(peer, settings.xforward_networks):
        words.append("XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE")
    return "\r\n".join((*(f"250-{word}" for word in words), "250 HELP"))
