# SPDX-License-Identifier: GPL-2.0-or-later
"""What a next hop must offer: the table, DANE, MTA-STS, the message's wish, and what was there before."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

from contrib.lab.certificates import Authority
from contrib.lab.dns import DnsStub
from contrib.lab.web import WebServer
from gateway.dns import DnsSettings, Resolver
from gateway.store.hosts import Hosts, StsPolicies, prune
from gateway.tls.demands import Demands
from gateway.tls.fetch import FetchError, Web
from gateway.tls.outbound import OutboundTlsRule, policy_for
from gateway.tls.policies import InMemory, Policies
from gateway.tls.settings import TlsSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gateway.store.database import Database
    from gateway.tls.demands import Security

POLICY = b"version: STSv1\nmode: %s\nmx: mx.example.com\nmx: *.pool.example.com\nmax_age: %d\n"
DIGEST = "ab" * 32
ADDRESS = {"A": ["192.0.2.1"]}


@dataclass
class Remembered:
    """What hosts offered before."""

    hosts: dict[str, Security] = field(default_factory=dict)

    def security(self, host: str) -> Security:
        return self.hosts.get(host, "")


class World:
    """A zone, a web server, and those who ask them."""

    def __init__(self, stub: DnsStub, web: WebServer, authority: Authority) -> None:
        self.stub, self.web, self.authority = stub, web, authority
        self.cache = InMemory()
        self.memory = Remembered()
        self.now = time.time()
        self.renew()

    def renew(self) -> None:
        """Forget what a process remembers, not what is stored."""
        self.resolver = Resolver(
            DnsSettings(nameservers=(self.stub.nameserver,), timeout=1.5, attempts=1, cache_size=0)
        )
        self.reach = Web(
            self.resolver,
            self.web.port,
            str(self.authority.certificate),
            lambda address: address == "127.0.0.1",
        )
        self.policies = Policies(self.resolver, self.reach, self.cache, lambda: self.now)

    def publish(self, mode: str = "enforce", *, age: int = 86_400, ident: str = "1") -> None:
        self.stub.add("_mta-sts.example.com", {"TXT": [f"v=STSv1; id={ident};"]})
        self.stub.add("mta-sts.example.com", {"A": ["127.0.0.1"]})
        pair = self.authority.issue("mta-sts.example.com")
        self.web.serve("mta-sts.example.com", pair, POLICY % (mode.encode(), age))

    def demands(self, **settings: Any) -> Demands:
        return Demands(TlsSettings(**settings), self.resolver, self.policies, self.memory)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def world(authority: Authority) -> Iterator[World]:
    with DnsStub({"mx.example.com": ADDRESS, "other.example.net": ADDRESS}) as stub, WebServer() as web:
        stub.authentic = True
        yield World(stub, web, authority)


# ---------------------------------------------------------------- DANE

GOOD = f"3 1 1 {DIGEST}"


@pytest.mark.parametrize(
    ("zone", "insecure", "level", "base"),
    [
        ({}, [], "may", ""),
        ({"_25._tcp.mx.example.com": {"TLSA": [GOOD]}}, [], "dane", "mx.example.com"),
        ({"_25._tcp.mx.example.com": {"TLSA": [f"1 1 1 {DIGEST}"]}}, [], "encrypt", "mx.example.com"),
        ({"_25._tcp.mx.example.com": {"TLSA": [f"1 1 1 {DIGEST}", GOOD]}}, [], "dane", "mx.example.com"),
        ({"_25._tcp.mx.example.com": {"TLSA": ["SERVFAIL"]}}, [], "refusal", ""),
        ({"_25._tcp.mx.example.com": {"TLSA": ["TIMEOUT"]}}, [], "refusal", ""),
        ({"_26._tcp.mx.example.com": {"TLSA": [GOOD]}}, [], "may", ""),
        # Not signed: neither is looked at.
        ({"_25._tcp.mx.example.com": {"TLSA": [GOOD]}}, ["example.com"], "may", ""),
        ({"_25._tcp.mx.example.com": {"TLSA": ["SERVFAIL"]}}, ["example.com"], "may", ""),
        # Records that are there and not signed, below a signed host.
        ({"_25._tcp.mx.example.com": {"TLSA": [GOOD]}}, ["_tcp.mx.example.com"], "may", ""),
        ({"mx.example.com": "SERVFAIL"}, [], "refusal", ""),
        ({"mx.example.com": {"A": ["SERVFAIL"], "AAAA": ["2001:db8::1"]}}, [], "may", ""),
        ({"mx.example.com": "NXDOMAIN"}, [], "may", ""),
        # Aliases: behind them first, then in front of them (RFC 7672 §2.2.3).
        (
            {
                "mx.example.com": {"CNAME": ["real.example.net"]},
                "real.example.net": ADDRESS,
                "_25._tcp.real.example.net": {"TLSA": [GOOD]},
                "_25._tcp.mx.example.com": {"TLSA": [f"3 0 1 {DIGEST}"]},
            },
            [],
            "dane",
            "real.example.net",
        ),
        (
            {
                "mx.example.com": {"CNAME": ["real.example.net"]},
                "real.example.net": ADDRESS,
                "_25._tcp.mx.example.com": {"TLSA": [GOOD]},
            },
            [],
            "dane",
            "mx.example.com",
        ),
        (
            {
                "mx.example.com": {"CNAME": ["real.example.net"]},
                "real.example.net": ADDRESS,
                "_25._tcp.real.example.net": {"TLSA": [f"3 0 1 {DIGEST}"]},
                "_25._tcp.mx.example.com": {"TLSA": [GOOD]},
            },
            ["example.net"],
            "dane",
            "mx.example.com",
        ),
        # The TLSA records are an alias themselves.
        (
            {
                "_25._tcp.mx.example.com": {"CNAME": ["_dane.example.net"]},
                "_dane.example.net": {"TLSA": [GOOD]},
            },
            [],
            "dane",
            "mx.example.com",
        ),
    ],
)
def test_dane(world: World, zone: dict[str, Any], insecure: list[str], level: str, base: str) -> None:
    for name, entry in zone.items():
        world.stub.add(name, entry)
    world.stub.insecure.update(insecure)
    found = world.demands(downgrade="ignore").policy("example.com", "mx.example.com", mx_secure=True)
    assert ("refusal" if found.refusal else found.level) == level
    if base:
        assert (found.match, found.source) == (base, "dane")
    assert [str(one) for one in found.tlsa] == ([GOOD] if level == "dane" else [])
    assert found.mandatory == (level != "may")


def test_a_resolver_elsewhere_is_not_believed(world: World) -> None:
    world.stub.authentic = False
    world.stub.add("_25._tcp.mx.example.com", {"TLSA": [GOOD]})
    assert world.demands().policy("example.com", "mx.example.com").level == "may"
    assert not [one for one in world.stub.queries if one[1] == "TLSA"]


# ---------------------------------------------------------------- MTA-STS


@pytest.mark.parametrize(
    ("mode", "host", "level", "refused", "probe"),
    [
        ("enforce", "mx.example.com", "verify", False, False),
        ("enforce", "a.pool.example.com", "verify", False, False),
        ("enforce", "other.example.net", "verify", True, False),
        ("testing", "mx.example.com", "may", False, True),
        ("testing", "other.example.net", "may", False, False),
        ("none", "mx.example.com", "may", False, False),
        ("none", "other.example.net", "may", False, False),
    ],
)
def test_mta_sts(world: World, mode: str, host: str, level: str, refused: bool, probe: bool) -> None:
    world.publish(mode)
    found = world.demands(downgrade="ignore").policy("example.com", host)
    assert (found.level, bool(found.refusal), found.probe) == (level, refused, probe)
    assert found.match == host
    assert found.failure == ("validation-failure" if host.endswith("net") and mode != "none" else "")


@pytest.mark.parametrize("record", ["v=STSv1; id=2;", "v=STSv1", None, "SERVFAIL"])
@pytest.mark.parametrize("reachable", [True, False])
def test_a_policy_once_seen_binds(world: World, record: str | None, reachable: bool) -> None:
    world.publish(age=600)
    assert world.policies.find("example.com").policy
    name = "_mta-sts.example.com"
    world.stub.add(name, {"TXT": [record]} if record else "NXDOMAIN")
    if not reachable:
        world.web.forget("mta-sts.example.com")
    world.renew()
    assert world.demands().policy("example.com", "mx.example.com").level == "verify"
    world.now += 601
    world.renew()
    stays = record == "v=STSv1; id=2;" and reachable
    assert (world.demands().policy("example.com", "mx.example.com").level == "verify") == stays


def test_a_new_id_brings_the_new_policy(world: World) -> None:
    world.publish()
    world.policies.find("example.com")
    world.publish("none", ident="2")
    assert world.policies.find("example.com").policy  # for a moment
    world.renew()
    assert world.policies.find("example.com").policy is None
    world.publish()  # the old id again
    world.renew()
    assert world.policies.find("example.com").policy


@pytest.mark.parametrize(
    ("values", "failure"),
    [
        ({"status": "404 Not Found"}, "sts-policy-fetch-error"),
        ({"status": "301 Moved", "fields": ("Location: /other",)}, "sts-policy-fetch-error"),
        ({"kind": "text/html"}, "sts-policy-fetch-error"),
        ({"body": b"garbage"}, "sts-policy-invalid"),
        ({"body": POLICY % (b"doubt", 1)}, "sts-policy-invalid"),
        ({"body": b"x: y\n" * 20_000}, "sts-policy-fetch-error"),
        ({"fields": ("Content-Length: 131193",)}, "sts-policy-fetch-error"),
        ({"raw": b""}, "sts-policy-fetch-error"),
        ({"raw": b"garbage\r\n\r\n"}, "sts-policy-fetch-error"),
        ({"raw": b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 5_000}, "sts-policy-fetch-error"),
        ({"raw": b"HTTP/1.1 100 Continue\r\n\r\n" * 9}, "sts-policy-fetch-error"),
        (
            {"raw": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"},
            "sts-policy-fetch-error",
        ),
    ],
)
def test_files_that_are_no_policy(world: World, values: dict[str, Any], failure: str) -> None:
    world.publish()
    pair = world.authority.issue("mta-sts.example.com")
    world.web.serve("mta-sts.example.com", pair, **({"body": POLICY % (b"enforce", 1_000)} | values))
    found = world.policies.find("example.com")
    assert (found.policy, found.failure) == (None, failure)
    decided = world.demands(downgrade="ignore").policy("example.com", "mx.example.com")
    assert (decided.level, decided.failure) == ("may", failure)
    world.policies._recent.clear()
    asked = len(world.web.requests)
    assert world.policies.find("example.com").failure == failure
    assert len(world.web.requests) == asked  # not again so soon


@pytest.mark.parametrize("days", [1, -1])
def test_the_web_server_is_verified(world: World, tmp_path: Path, days: int) -> None:
    world.publish()
    wrong = Authority(tmp_path) if days > 0 else world.authority
    world.web.serve(
        "mta-sts.example.com", wrong.issue("mta-sts.example.com", days=days), POLICY % (b"enforce", 9)
    )
    assert world.policies.find("example.com").failure == "sts-webpki-invalid"
    world.renew()
    world.web.serve("mta-sts.example.com", world.authority.issue("example.com"), POLICY % (b"enforce", 9))
    assert world.policies.find("example.com").failure == "sts-webpki-invalid"


def test_a_web_server_that_trickles_is_left(world: World) -> None:
    world.publish()
    pair = world.authority.issue("mta-sts.example.com")
    world.web.serve("mta-sts.example.com", pair, POLICY % (b"enforce", 9), pause=0.05)
    begun = time.monotonic()
    with pytest.raises(FetchError, match="timed out"):
        world.reach.get("mta-sts.example.com", "/", limit=1_000, seconds=0.5)
    assert time.monotonic() - begun < 8, "all of it takes longer than that"


def test_our_own_network_is_not_asked(world: World) -> None:
    world.publish()
    world.reach = Web(world.resolver, world.web.port, str(world.authority.certificate))
    with pytest.raises(FetchError, match="no global address"):
        world.reach.get("mta-sts.example.com", "/", limit=1_000, seconds=2)
    assert not world.web.requests


def expires(world: World) -> float:
    kept = world.cache.find("example.com")
    assert kept
    return kept.expires


def test_policies_are_refreshed_ahead(world: World) -> None:
    world.publish(age=600)
    world.policies.find("example.com")
    assert world.policies.refresh() == 0
    world.now += 301
    assert world.policies.refresh() == 1
    assert expires(world) == world.now + 600
    world.web.forget("mta-sts.example.com")
    world.now += 301
    assert world.policies.refresh() == 0
    assert expires(world) == world.now + 299  # kept on failure


# ---------------------------------------------------------------- together


def test_dane_goes_before_mta_sts(world: World) -> None:
    world.publish()
    world.stub.add("_25._tcp.mx.example.com", {"TLSA": [GOOD]})
    assert world.demands().policy("example.com", "mx.example.com", mx_secure=True).level == "dane"
    assert world.demands(mta_sts=False).policy("example.com", "mx.example.com").level == "dane"
    assert world.demands(dane=False).policy("example.com", "mx.example.com").level == "verify"
    # Records that say nothing leave it to MTA-STS.
    world.stub.add("_25._tcp.mx.example.com", {"TLSA": [f"1 1 1 {DIGEST}"]})
    assert world.demands().policy("example.com", "mx.example.com").level == "verify"
    world.stub.add("_25._tcp.mx.example.com", "SERVFAIL")
    assert world.demands().policy("example.com", "mx.example.com").refusal


@pytest.mark.parametrize(("secure", "refused"), [(True, False), (False, True)])
def test_an_mx_that_nothing_vouches_for(world: World, secure: bool, refused: bool) -> None:
    world.publish()
    world.stub.add("_25._tcp.other.example.net", {"TLSA": [GOOD]})
    found = world.demands().policy("example.com", "other.example.net", mx_secure=secure)
    assert (found.source, bool(found.refusal)) == ("dane", refused)


RULES = (
    OutboundTlsRule(domains=("table.example.com",), level="none"),
    OutboundTlsRule(domains=("only.example.com",), level="dane-only"),
    OutboundTlsRule(next_hops=("hop.example.net",), level="dane"),
)


@pytest.mark.parametrize(
    ("domain", "host", "routed", "level", "source"),
    [
        ("table.example.com", "mx.example.com", True, "none", "table"),
        ("example.com", "other.example.net", False, "may", ""),
        ("example.com", "", False, "none", ""),
        ("only.example.com", "other.example.net", True, "refusal", "table"),
        ("only.example.com", "hop.example.net", True, "dane", "dane"),
        ("only.example.com", "unusable.example.net", True, "refusal", "dane"),
        ("example.com", "hop.example.net", False, "dane", "dane"),
        ("example.com", "hop.example.net", True, "dane", "dane"),
        ("example.com", "192.0.2.1", True, "verify", "mta-sts"),
    ],
)
def test_the_table_goes_first(
    world: World, domain: str, host: str, routed: bool, level: str, source: str
) -> None:
    world.publish()
    world.stub.add("hop.example.net", ADDRESS)
    world.stub.add("_25._tcp.hop.example.net", {"TLSA": [GOOD]})
    world.stub.add("unusable.example.net", ADDRESS)
    world.stub.add("_25._tcp.unusable.example.net", {"TLSA": [f"1 1 1 {DIGEST}"]})
    found = world.demands(outbound=RULES, dane=True).policy(domain, host, routed=routed, mx_secure=True)
    if host == "192.0.2.1":
        assert found.refusal
        return
    assert ("refusal" if found.refusal else found.level, found.source) == (level, source)
    # Whoever does not ask never sends where DANE is wanted and not known.
    blind = policy_for(host, domain, RULES)
    assert bool(blind.refusal) == (domain == "only.example.com")


@pytest.mark.parametrize("dane", [True, False])
@pytest.mark.parametrize("sts", ["enforce", "testing", ""])
@pytest.mark.parametrize("secure", [True, False])
def test_requiretls(world: World, dane: bool, sts: str, secure: bool) -> None:
    if sts:
        world.publish(sts)
    if dane:
        world.stub.add("_25._tcp.mx.example.com", {"TLSA": [GOOD]})
    found = world.demands().policy("example.com", "mx.example.com", mx_secure=secure, wish="requiretls")
    vouched = secure or sts == "enforce"
    assert found.level == ("dane" if dane and vouched else "verify")
    assert bool(found.refusal) == (not vouched)


def test_requiretls_through_a_hop_that_the_administrator_names(world: World) -> None:
    rules = (OutboundTlsRule(domains=("example.com",), level="encrypt", match="relay.example.net"),)
    found = world.demands(outbound=rules).policy("example.com", "mx", routed=False, wish="requiretls")
    assert (found.level, found.match, found.refusal) == (
        "verify",
        "relay.example.net",
        "",
    )
    found = world.demands().policy("example.com", "mx", routed=False, wish="requiretls")
    assert (found.level, found.match, found.refusal) == ("verify", "mx", "")


def test_tls_required_no(world: World) -> None:
    world.publish()
    world.stub.add("_25._tcp.mx.example.com", {"TLSA": [GOOD]})
    found = world.demands(downgrade="ignore").policy("example.com", "mx.example.com", wish="no")
    assert (found.level, found.refusal) == ("may", "")
    rules = (OutboundTlsRule(domains=("example.com",), level="dane-only"),)
    found = world.demands(outbound=rules).policy("example.com", "mx.example.com", wish="no")
    assert found.level == "dane"


@pytest.mark.parametrize(
    ("downgrade", "before", "level", "probe"),
    [
        ("report", "", "may", True),
        ("report", "encrypted", "may", False),
        ("report", "verified", "may", True),
        ("defer", "", "may", True),
        ("defer", "clear", "may", True),
        ("defer", "encrypted", "encrypt", False),
        ("defer", "verified", "verify", False),
        ("ignore", "verified", "may", False),
    ],
)
def test_memory(world: World, downgrade: str, before: Security, level: str, probe: bool) -> None:
    world.memory.hosts["mx.example.com"] = before
    found = world.demands(downgrade=downgrade).policy("example.com", "mx.example.com")
    assert (found.level, found.probe) == (level, probe)


# ---------------------------------------------------------------- the store


def test_policies_are_stored(world: World, database: Database) -> None:
    world.publish()
    cache = StsPolicies(database)
    policies = Policies(world.resolver, world.reach, cache, lambda: world.now)
    assert policies.find("example.com").policy
    (kept,) = cache.due(world.now + 1, world.now - 1)
    assert cache.find("example.com") == kept
    cache.keep(replace(kept, ident="7"))
    assert cache.find("example.com") == replace(kept, ident="7")
    assert cache.find("example.net") is None
    assert prune(database, 30, now=world.now) == 0
    assert prune(database, 30, now=kept.expires + 1) == 1


def test_hosts_are_remembered_by_their_best(database: Database) -> None:
    hosts = Hosts(database, 2)
    now, day = time.time(), 86_400
    assert hosts.security("mx.example.com") == ""
    assert hosts.saw("MX.example.com", "clear", now=now) == ""
    assert hosts.saw("mx.example.com", "verified", now=now) == ""
    assert hosts.security("mx.example.com") == "verified"
    assert hosts.saw("mx.example.com", "encrypted", now=now + day) == "verified"
    assert hosts.saw("mx.example.com", "encrypted", now=now + 3 * day) == ""  # too long ago
    assert hosts.saw("mx.example.com", "clear", now=now + 3 * day) == "encrypted"
    assert hosts.forget("mx.example.com")
    assert not hosts.forget("mx.example.com")
    assert hosts.saw("mx.example.com", "clear", now=now) == ""
    assert prune(database, 2, now=now + 3 * day) == 1
