# SPDX-License-Identifier: GPL-2.0-or-later
"""Where mail goes next, and for whom we relay at all.

Reads recipients from hostile envelopes: whatever is not plainly `local@domain` with one of our
domains is refused to strangers, so that no older routing form (%-hack, source route, bang path,
quoted address) makes an open relay. Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gateway.mail.domains import check_pattern, domain_of, matches, normal
from gateway.mail.headers import printable
from gateway.mail.networks import inside
from gateway.mail.types import Reply, Session
from gateway.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_DEFAULT_PORTS = {"smtp": 25, "lmtp": 24}
# A local part that no relay gives a second meaning: no %, !, @, quotes, colons or slashes.
_PLAIN_LOCAL = re.compile(r"[^\x00-\x20\x7f%!@\":;,<>()\[\]\\]+")
_DOMAIN_NAME = re.compile(r"[^\x00-\x2c/:-@\[-^`{-\x7f.]+(\.[^\x00-\x2c/:-@\[-^`{-\x7f.]+)*")


class RouteSettings(Settings, frozen=True, kw_only=True):
    """One row of [[routes]]: the next hop of some recipient domains."""

    # Recipient domains; ".example.com" means all below it. An exact name goes before a dotted one.
    domains: tuple[str, ...]
    # "smtp:host:port", "lmtp:host:port" or "lmtp:unix:/path"; an IPv6 address stands in brackets.
    next_hop: str

    def __post_init__(self) -> None:
        parse_next_hop(self.next_hop)
        for text in self.domains:
            check_pattern(text)


@dataclass(frozen=True, slots=True)
class NextHop:
    """A server that takes mail from us: over TCP (`host`, `port`), or a unix socket (`path`)."""

    protocol: Literal["smtp", "lmtp"]
    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"{self.protocol}:unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.protocol}:{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Routes:
    """The table of next hops; made by `routes`."""

    exact: Mapping[str, NextHop]
    below: tuple[tuple[str, NextHop], ...]  # parent domain and hop, longest parent first
    default: NextHop | None

    def route(self, recipient: str) -> NextHop | None:
        """The next hop of `recipient`, None if there is none."""
        domain = domain_of(recipient)
        found = self.exact.get(domain)
        if found is not None:
            return found
        for parent, hop in self.below:
            if domain.endswith("." + parent):
                return hop
        return self.default


def routes(rows: Sequence[RouteSettings], default: str = "") -> Routes:
    """The table of `rows`, with the next hop `default` ("" for none) for all other domains.

    Raises ValueError if a next hop cannot be understood. Of two rows for a domain the first wins.
    """
    exact: dict[str, NextHop] = {}
    below: dict[str, NextHop] = {}
    for row in rows:
        hop = parse_next_hop(row.next_hop)
        for domain in row.domains:
            table = below if domain.startswith(".") else exact
            table.setdefault(normal(domain.removeprefix(".")), hop)
    longest_first = tuple(sorted(below.items(), key=lambda item: (-len(item[0]), item[0])))
    return Routes(exact, longest_first, parse_next_hop(default) if default else None)


def parse_next_hop(text: str) -> NextHop:
    """The next hop written as `text`; raises ValueError with the forms that are possible."""
    protocol, _, rest = text.partition(":")
    kind: Literal["smtp", "lmtp"]
    if protocol == "smtp":
        kind = "smtp"
    elif protocol == "lmtp":
        kind = "lmtp"
    else:
        raise ValueError(f'next hop "{text}" is not smtp:host:port, lmtp:host:port or lmtp:unix:/path')
    if rest.startswith("unix:/"):
        return NextHop(kind, path=rest.removeprefix("unix:"))
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9_.-]+))(?::([0-9]{1,5}))?", rest)
    if found is None:
        raise ValueError(f'next hop "{text}" is not {kind}:host:port or {kind}:unix:/path')
    port = int(found[3]) if found[3] else _DEFAULT_PORTS[kind]
    if not 0 < port < 65_536:
        raise ValueError(f'next hop "{text}" has no port between 1 and 65535')
    return NextHop(kind, host=found[1] or found[2], port=port)


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
