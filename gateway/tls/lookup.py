# SPDX-License-Identifier: GPL-2.0-or-later
"""What DNSSEC says of an SMTP server: its TLSA records (RFC 7672 §2.2).

Reads answers of the resolver, which believes in validation only of a resolver on loopback: without one
nothing is secure here, and there is no DANE.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gateway.mail.domains import to_ascii
from gateway.mail.networks import address
from gateway.tls.dane import Tlsa, usable

if TYPE_CHECKING:
    from gateway.dns import Answer, Resolver


@dataclass(frozen=True, slots=True)
class Dane:
    """What there is: "none", records that are "usable" or "unusable", or an "error": nobody can tell.

    `base` is the name below which the records were found (RFC 7672 §2.2.3).
    """

    status: Literal["none", "usable", "unusable", "error"]
    base: str = ""
    records: tuple[Tlsa, ...] = ()
    reason: str = ""


def dane(resolver: Resolver, host: str, port: int, deadline: float) -> Dane:
    """Find the TLSA records of `host`. Never raises.

    After "error" nothing may be sent to the host: a lookup that fails is what an attacker makes of
    records that would stop him (RFC 7672 §2.1.1).
    """
    name = to_ascii(host)
    if name is None or address(host) is not None:
        return Dane("none")
    found = resolver.ask([(name, "A"), (name, "AAAA")], deadline).values()
    there = [answer for answer in found if answer]
    if not there:
        failed = [answer for answer in found if answer.status == "temperror"]
        return Dane("error", reason=f"the address of {name}: {failed[0].reason}") if failed else Dane("none")
    for base in _bases(resolver, name, there, deadline):
        answer = resolver.query(f"_{port}._tcp.{base}", "TLSA", deadline)
        if answer.status == "temperror":
            return Dane("error", base, reason=f"the TLSA records of {base}: {answer.reason}")
        if answer and answer.secure:
            records = usable(answer.values)
            return Dane("usable" if records else "unusable", base, records)
    return Dane("none")


def _bases(resolver: Resolver, name: str, there: list[Answer[str]], deadline: float) -> tuple[str, ...]:
    """The names to look below: that behind a secure alias first, then the host's own."""
    secure = [answer for answer in there if answer.secure]
    if secure:
        return tuple(dict.fromkeys((secure[0].name or name, name)))
    if all((answer.name or name) == name for answer in there):
        return ()
    # An alias in a signed zone that leads to an unsigned one (RFC 7672 §2.2.2).
    alias = resolver.query(name, "CNAME", deadline)
    return (name,) if alias and alias.secure else ()
