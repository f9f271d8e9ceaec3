# SPDX-License-Identifier: GPL-2.0-or-later
"""From a route to the servers to try, in order, and what each of them must offer.

Reads answers of the DNS, which strangers compose: how many servers there may be is bounded, and a domain
whose mail exchanger we are ourselves is a loop and not a way (RFC 5321 §5.1). May wait for the DNS, so
`ways` asks in a thread.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from gateway.delivery.client import HopLost, Transaction
from gateway.delivery.logins import Login, login_for
from gateway.delivery.protocol import HopReply
from gateway.delivery.routes import NextHop, Route
from gateway.mail.domains import to_ascii
from gateway.mail.networks import address
from gateway.store.database import StoreError
from gateway.tls.outbound import TlsPolicy, policy_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from gateway.delivery.client import RelayTimeouts
    from gateway.delivery.watch import Watch
    from gateway.dns import Answer, Question, Resolver
    from gateway.tls.demands import Demands
    from gateway.tls.outbound import OutboundTlsRule
    from gateway.tls.wish import Wish

_MOST: Final = 10  # servers that are tried for one message
_MOST_HOSTS: Final = 20  # mail exchangers whose addresses are looked up
_DNS_SECONDS: Final = 20.0
_THREADS: Final = 32  # that wait for the DNS, and for policies
_DOWN_SECONDS: Final = 60.0  # for which a server that did not answer is tried after the others


class NoWay(HopLost):
    """There is no server to try. `reply` is for good (5xx) or for now (4xx)."""

    def __init__(self, code: int, enhanced: str, text: str) -> None:
        super().__init__(enhanced, text)
        self.reply = HopReply(code, enhanced, text[:400])


@dataclass(frozen=True, slots=True)
class Way:
    """A server to try, what it must offer, and who we are there."""

    server: NextHop
    tls: TlsPolicy
    login: Login | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """Where a message goes: a route, and the recipients' domain where that decides about TLS."""

    route: Route
    domain: str = ""
    wish: Wish = ""  # what the message asks of TLS

    def __str__(self) -> str:
        return str(self.route)


def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_THREADS, "ways")


@dataclass(frozen=True, slots=True)
class Ways:
    """What turns targets into servers, for one process. Threads share it.

    `names` and `ports` are those under which we ourselves take mail.
    """

    rules: Sequence[OutboundTlsRule] = ()
    resolver: Resolver | None = None
    logins: Mapping[str, Login] = field(default_factory=dict)
    names: frozenset[str] = frozenset()
    ports: frozenset[int] = frozenset()
    demands: Demands | None = None  # who finds out what servers must offer; without it `rules` alone
    watch: Watch | None = None  # who is told what TLS came to
    _pool: ThreadPoolExecutor = field(default_factory=_pool, compare=False, repr=False)
    _turns: Iterator[int] = field(default_factory=itertools.count, compare=False, repr=False)
    _down: dict[NextHop, float] = field(default_factory=dict, compare=False, repr=False)

    def target(self, route: Route, domain: str, wish: Wish = "") -> Target:
        """The target of mail to `domain`; mail with the same target may share a connection."""
        routed = any(hop.mx for tier in route.tiers for hop in tier)
        return Target(route, domain if routed or any(rule.domains for rule in self.rules) else "", wish)

    async def ways(self, target: Target) -> Sequence[Way]:
        """`find`, in a thread where the DNS is asked."""
        asks = any(rule.level in ("dane", "dane-only") for rule in self.rules)
        if asks or any(hop.mx for tier in target.route.tiers for hop in tier):
            return await asyncio.get_running_loop().run_in_executor(self._pool, self.find, target)
        return self.find(target)

    def find(self, target: Target) -> list[Way]:
        """The servers to try, in order: those that did not answer a moment ago come last.

        Raises NoWay if the DNS says that there is none, or says nothing. May take seconds.
        """
        turn = next(self._turns)
        found: list[Way] = []
        failed: NoWay | None = None
        for tier in target.route.tiers:
            at = turn % len(tier)
            for hop in tier[at:] + tier[:at]:
                try:
                    found += self._servers(hop, target)
                except NoWay as none:
                    if none.reply.status == "refused":
                        raise
                    failed = failed or none
        if not found:
            raise failed or NoWay(451, "4.3.5", "there is no next hop")
        now = time.monotonic()
        return sorted(found[:_MOST], key=lambda way: self._down.get(way.server, 0.0) > now)

    def close(self) -> None:
        """Write the notes that are still to be written. A lookup under way is left to end by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self.watch is not None:
            self.watch.close()

    def failed(self, server: NextHop) -> None:
        """It did not answer, or said that it does not want to."""
        if len(self._down) > 10_000:
            self._down.clear()
        self._down[server] = time.monotonic() + _DOWN_SECONDS

    async def open(self, way: Way, helo: str, timeouts: RelayTimeouts | None) -> Transaction:
        """A connection to one server. Raises HopLost, and remembers that."""
        try:
            made = await Transaction.open(way.server, way.tls, helo, timeouts, way.login)
        except HopLost as lost:
            self.failed(way.server)
            if self.watch is not None:
                self.watch.failed(way.server, way.tls, lost)
            raise
        if self.watch is not None:
            self.watch.opened(way.server, way.tls, made)
        return made

    def _servers(self, hop: NextHop, target: Target) -> list[Way]:
        if not hop.mx:
            return [self._way(hop, self._policy(hop, target))]
        servers, secure = self._exchangers(hop)
        policies: dict[str, TlsPolicy] = {}
        for server in servers:  # a host may have several addresses
            if server.host not in policies:
                policies[server.host] = self._policy(server, target, routed=True, secure=secure)
        return [self._way(server, policies[server.host]) for server in servers]

    def _policy(
        self, server: NextHop, target: Target, *, routed: bool = False, secure: bool = False
    ) -> TlsPolicy:
        """What the server must offer. Raises NoWay if the store does not answer."""
        if self.demands is None or not server.host:
            return policy_for(server.host, target.domain, self.rules)
        # RFC 8689 is about relaying; where LMTP delivers there is no further hop.
        wish = "" if server.protocol == "lmtp" else target.wish
        try:
            return self.demands.policy(
                target.domain, server.host, port=server.port, routed=routed, mx_secure=secure, wish=wish
            )
        except StoreError as error:
            raise NoWay(451, "4.3.0", f"its TLS policy cannot be found out now: {error}") from error

    def _way(self, server: NextHop, tls: TlsPolicy) -> Way:
        login = login_for(server, self.logins)
        if login is not None and server.host and tls.level in ("none", "may"):
            tls = replace(tls, level="verify", match=tls.match or server.host)  # a password is for one reader
        elif server.implicit and tls.level in ("none", "may"):
            tls = replace(tls, level="encrypt")
        return Way(server, tls, login)

    # ---------------------------------------------------------------- MX

    def _exchangers(self, hop: NextHop) -> tuple[list[NextHop], bool]:
        """The servers that the MX records of `hop` name, best first (RFC 5321 §5.1), and if validated."""
        if address(hop.host) is not None:
            if not _is_usable(hop.host):
                raise NoWay(550, "5.1.2", f"[{hop.host}] is the address of no host")
            if self._is_us(hop.host, hop.port, [hop.host]):
                raise NoWay(554, "5.4.6", f"mail for [{hop.host}] loops back to us: the address is ours")
            return [replace(hop, mx=False)], False
        name = to_ascii(hop.host)
        if name is None or self.resolver is None:
            raise NoWay(550, "5.1.2", f"{hop.host} is no domain that can be looked up")
        until = time.monotonic() + _DNS_SECONDS
        answer: Answer[tuple[int, str]] = self.resolver.query(name, "MX", until)
        if answer.status == "temperror":
            raise NoWay(451, "4.4.3", f"the MX records of {name} cannot be looked up: {answer.reason}")
        if answer.status == "nxdomain":
            raise NoWay(550, "5.1.2", f"the domain {name} does not exist")
        hosts = [(preference, host) for preference, host in answer.values if host != "."]
        if answer.values and not hosts:
            raise NoWay(556, "5.1.10", f"the domain {name} takes no mail (null MX)")  # RFC 7505 §4.2
        if not hosts:
            hosts = [(0, name)]  # the implicit MX
        random.shuffle(hosts)
        hosts = sorted(hosts, key=lambda one: one[0])[:_MOST_HOSTS]
        return self._reachable(name, hop.port, hosts, until), answer.secure

    def _reachable(
        self, name: str, port: int, hosts: Sequence[tuple[int, str]], until: float
    ) -> list[NextHop]:
        """The addresses of the hosts, without ourselves and whoever is no better than we are."""
        assert self.resolver is not None
        usable = [(preference, ascii_) for preference, host in hosts if (ascii_ := to_ascii(host))]
        questions: list[Question] = [(host, kind) for _, host in usable for kind in ("AAAA", "A")]
        answers = self.resolver.ask(questions, until)
        places: list[tuple[int, str, list[str]]] = []
        for preference, host in usable:
            both = answers[host, "AAAA"], answers[host, "A"]
            places.append((preference, host, [a for one in both for a in one.values if _is_usable(a)]))
        ours = [p for p, host, addresses in places if self._is_us(host, port, addresses)]
        found = []
        for preference, host, addresses in places:
            if not ours or preference < min(ours):
                random.shuffle(addresses)
                found += [NextHop("smtp", host, port, address=one) for one in addresses]
        if found:
            return found[:_MOST]
        unsure = [
            host
            for preference, host in usable
            if (not ours or preference < min(ours))
            and "temperror" in (answers[host, "AAAA"].status, answers[host, "A"].status)
        ]
        if unsure:
            raise NoWay(451, "4.4.3", f"the address of {unsure[0]} cannot be looked up")
        if ours:
            raise NoWay(554, "5.4.6", f"mail for {name} loops back to us: we are its best mail exchanger")
        raise NoWay(550, "5.4.4", f"no mail exchanger of {name} has an address")

    def _is_us(self, host: str, port: int, addresses: Sequence[str]) -> bool:
        return host in self.names or (port in self.ports and any(map(_is_local, addresses)))


async def opened(ways: Ways, target: Target, helo: str, timeouts: RelayTimeouts | None) -> Transaction:
    """A session with the first server that can be used. Raises HopLost, NoWay among them."""
    lost: HopLost | None = None
    for way in await ways.ways(target):
        try:
            return await ways.open(way, helo, timeouts)
        except HopLost as error:
            lost = error
    assert lost is not None
    raise lost


def _is_usable(text: str) -> bool:
    found = address(text)
    return found is not None and not (found.is_unspecified or found.is_multicast)


def _is_local(text: str) -> bool:
    """Whether it is an address of this machine."""
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((text, 9))  # sends nothing: the kernel says from which address it would
            return str(probe.getsockname()[0]) == text
    except OSError:
        return False
