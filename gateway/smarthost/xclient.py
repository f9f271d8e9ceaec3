# SPDX-License-Identifier: GPL-2.0-or-later
"""XCLIENT and XFORWARD: what a listed peer says about the client it speaks for. No I/O.

Reads attributes from peers that the administrator has listed; values are checked all the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from gateway.mail.networks import address, inside
from gateway.mail.types import Direction, Session, Tls
from gateway.smarthost.commands import CommandError

XCLIENT = frozenset(("NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN", "DESTADDR", "DESTPORT"))
XFORWARD = frozenset(("NAME", "ADDR", "PORT", "PROTO", "HELO", "IDENT", "SOURCE"))

_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-Fa-f]{2})*")
_UNKNOWN = ("[UNAVAILABLE]", "[TEMPUNAVAIL]")


@dataclass(frozen=True, slots=True)
class Client:
    """The client a peer speaks for; None is what the peer did not mention, "" what it does not know."""

    ip: str | None = None
    name: str | None = None
    helo: str | None = None
    login: str | None = None


def attributes(rest: str, known: frozenset[str]) -> Client:
    """The attributes of one XCLIENT or XFORWARD command. Raises CommandError."""
    found: dict[str, str] = {}
    for word in rest.split(" "):
        name, equals, value = word.partition("=")
        name = name.upper()
        if not equals or name not in known or name in found:
            raise CommandError(501, "5.5.4", "Bad attribute")
        found[name] = _value(value)
    if not found:
        raise CommandError(501, "5.5.4", "No attribute")
    ip = found.get("ADDR")
    return Client(
        ip=None if ip is None else _address(ip),
        name=found.get("NAME"),
        helo=found.get("HELO"),
        login=found.get("LOGIN"),
    )


def merged(old: Client, new: Client) -> Client:
    """`old` with all that `new` mentions: attributes may come in several commands."""
    return Client(
        ip=old.ip if new.ip is None else new.ip,
        name=old.name if new.name is None else new.name,
        helo=old.helo if new.helo is None else new.helo,
        login=old.login if new.login is None else new.login,
    )


@lru_cache(maxsize=512)
def session_of(
    peer: Client, known: Client, *, tls: Tls | None, listener: str, relay_networks: tuple[str, ...]
) -> Session:
    """The client as the judgement sees it: `peer`, and over it all that is `known` from a listed one."""
    client = merged(peer, known)
    outbound = bool(client.login) or inside(client.ip or "", relay_networks)
    return Session(
        client_ip=client.ip or "",
        client_name=client.name or "",
        helo=client.helo or "",
        tls=tls,
        login=client.login or "",
        listener=listener,
        direction=Direction.OUTBOUND if outbound else Direction.INBOUND,
    )


def _value(value: str) -> str:
    if value.upper() in _UNKNOWN:
        return ""
    if not _XTEXT.fullmatch(value) or len(value) > 768:
        raise CommandError(501, "5.5.4", "Bad attribute value")
    # RFC 3461 §4
    decoded = re.sub(r"\+([0-9A-Fa-f]{2})", lambda m: chr(int(m[1], 16)), value)
    if not decoded.isascii() or not decoded.isprintable() or len(decoded) > 255:
        raise CommandError(501, "5.5.4", "Bad attribute value")
    return decoded


def _address(text: str) -> str:
    if not text:
        return ""
    bare = text[5:] if text[:5].upper() == "IPV6:" else text
    found = address(bare)
    if found is None:
        raise CommandError(501, "5.5.4", "Bad client address")
    return str(found)
