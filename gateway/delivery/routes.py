# SPDX-License-Identifier: GPL-2.0-or-later
"""Where mail goes next by the configuration, and for whom we relay at all.

A route is text: servers with "|" between those that take turns, and "," before those that are tried
where the ones before cannot be reached.

Reads recipients from hostile envelopes: whatever is not plainly `local@domain` with one of our
domains is refused to strangers, so that no older routing form (%-hack, source route, bang path,
quoted address) makes an open relay. Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from gateway.mail.domains import check_pattern, domain_of, matches, normal
from gateway.mail.headers import printable
from gateway.mail.networks import inside
from gateway.mail.types import Reply, Session
from gateway.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_DEFAULT_PORTS = {"smtp": 25, "smtps": 465, "lmtp": 24, "mx": 25}
# A local part that no relay gives a second meaning: no %, !, @, quotes, colons or slashes.
_PLAIN_LOCAL = re.compile(r"[^\x00-\x20\x7f%!@\":;,<>()\[\]\\]+")
_DOMAIN_NAME = re.compile(r"[^\x00-\x2c/:-@\[-^`{-\x7f.]+(\.[^\x00-\x2c/:-@\[-^`{-\x7f.]+)*")


class RouteSettings(Settings, frozen=True, kw_only=True):
    """One row of [[routes]]: the next hop of some recipient domains."""

    # Recipient domains; ".example.com" means all below it. An exact name goes before a dotted one.
    domains: tuple[str, ...]
    # "smtp:host:port", "smtps:host:port" (TLS at once), "lmtp:host:port", "lmtp:unix:/path", "mx" for the MX
    # records of the recipient's domain, or "mx:name" for those of a name; an IPv6 address stands in
    # brackets. Several take turns with "|" between them; what comes after "," is tried where all
    # before cannot be reached.
    next_hop: str

    def __post_init__(self) -> None:
        parse_route(self.next_hop)
        for text in self.domains:
            check_pattern(text)


@dataclass(frozen=True, slots=True)
class NextHop:
    """What takes mail from us: a server, over TCP (`host`, `port`) or a unix socket (`path`).

    With `mx` it is not a server yet, but what the MX records of `host` name; without a host, those of the
    recipient's domain. `address` is that of a host which was looked up; `implicit` is TLS without STARTTLS.
    """

    protocol: Literal["smtp", "lmtp"]
    host: str = ""
    port: int = 0
    path: str = ""
    mx: bool = False
    implicit: bool = False
    address: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"{self.protocol}:unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        if self.mx:
            return f"mx:{host}{f':{self.port}' if self.port != 25 else ''}" if host else "mx"
        return f"{'smtps' if self.implicit else self.protocol}:{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Route:
    """Where mail goes: those of the first tier take turns, those of the next one stand in for them."""

    tiers: tuple[tuple[NextHop, ...], ...]

    def __str__(self) -> str:
        return ", ".join("|".join(map(str, tier)) for tier in self.tiers)

    def towards(self, domain: str) -> Route:
        """The route for mail to `domain`: "mx" is about its MX records."""
        if not any(hop.mx and not hop.host for tier in self.tiers for hop in tier):
            return self
        # An address literal (RFC 5321 §4.1.3) is looked up nowhere.
        host = re.sub(r"^(?:IPv6:)", "", domain[1:-1], flags=re.IGNORECASE) if domain[:1] == "[" else domain

        def with_host(hop: NextHop) -> NextHop:
            return replace(hop, host=host) if hop.mx and not hop.host else hop

        return Route(tuple(tuple(map(with_host, tier)) for tier in self.tiers))


@dataclass(frozen=True, slots=True)
class Routes:
    """The table of next hops; made by `routes`."""

    exact: Mapping[str, Route]
    below: tuple[tuple[str, Route], ...]  # parent domain and route, longest parent first
    default: Route | None

    def route(self, recipient: str) -> Route | None:
        """The way of mail to `recipient`, None if there is none."""
        domain = domain_of(recipient)
        found = self.exact.get(domain)
        if found is None:
            found = next((one for parent, one in self.below if domain.endswith("." + parent)), self.default)
        return found.towards(domain) if found is not None else None


def routes(rows: Sequence[RouteSettings], default: str = "") -> Routes:
    """The table of `rows`, with the route `default` ("" for none) for all other domains.

    Raises ValueError if a next hop cannot be understood. Of two rows for a domain the first wins.
    """
    exact: dict[str, Route] = {}
    below: dict[str, Route] = {}
    for row in rows:
        way = parse_route(row.next_hop)
        for domain in row.domains:
            table = below if domain.startswith(".") else exact
            table.setdefault(normal(domain.removeprefix(".")), way)
    longest_first = tuple(sorted(below.items(), key=lambda item: (-len(item[0]), item[0])))
    return Routes(exact, longest_first, parse_route(default) if default else None)


def parse_route(text: str) -> Route:
    """The route written as `text`; raises ValueError with the forms that are possible."""
    tiers = tuple(tuple(parse_next_hop(one.strip()) for one in tier.split("|")) for tier in text.split(","))
    return Route(tiers)


def parse_next_hop(text: str) -> NextHop:
    """The next hop written as `text`; raises ValueError with the forms that are possible."""
    protocol, _, rest = text.partition(":")
    if protocol not in _DEFAULT_PORTS:
        forms = "smtp:host:port, smtps:host:port, lmtp:host:port, lmtp:unix:/path or mx"
        raise ValueError(f'next hop "{text}" is not {forms}')
    kind: Literal["smtp", "lmtp"] = "lmtp" if protocol == "lmtp" else "smtp"
    port = _DEFAULT_PORTS[protocol]
    if text == "mx":
        return NextHop(kind, port=port, mx=True)
    if rest.startswith("unix:/") and protocol in ("smtp", "lmtp"):
        return NextHop(kind, path=rest.removeprefix("unix:"))
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\x00-\x20\x7f:|,\[\]/@]+))(?::([0-9]{1,5}))?", rest)
    if found is None:
        raise ValueError(f'next hop "{text}" is not {protocol}:host:port or {kind}:unix:/path')
    port = int(found[3]) if found[3] else port
    if not 0 < port < 65_536:
        raise ValueError(f'next hop "{text}" has no port between 1 and 65535')
    host = found[1] or found[2]
    return NextHop(kind, host=host, port=port, mx=protocol == "mx", implicit=protocol == "smtps")


def relay_refusal(
    recipient: str, session: Session, domains: tuple[str, ...], relay_networks: tuple[str, ...]
) -> Reply | None:
    """The refusal to relay to `recipient` for this client, None if we relay.

    Everybody may send to `domains`; clients in `relay_networks` and those with a login may send
    to any domain. `<postmaster>` without a domain is ours (RFC 5321 §4.1.1.3). Source routes
    and quoted addresses inside a local part are refused to all.
    """
    refusal = Reply(554, "5.7.1", f"<{printable(recipient, 256, ascii_only=True)}>: Relay access denied")
    if recipient.lower() == "postmaster":
        return None
    local, at, domain = recipient.rpartition("@")
    if not at or not local or not domain or "@" in local:
        return refusal
    trusted = bool(session.login) or inside(session.client_ip, relay_networks)
    if trusted:
        literal = domain.startswith("[") and domain.endswith("]")
        return None if literal or _DOMAIN_NAME.fullmatch(domain) else refusal
    if not _PLAIN_LOCAL.fullmatch(local) or not _DOMAIN_NAME.fullmatch(domain):
        return refusal
    return None if matches(domain, domains) else refusal
