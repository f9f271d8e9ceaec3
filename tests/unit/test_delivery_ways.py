# SPDX-License-Identifier: GPL-2.0-or-later
"""From a route to servers: MX records, several next hops, loops, and who we are at each."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from contrib.lab.dns import DnsStub
from gateway.delivery.client import HopLost
from gateway.delivery.logins import Login, login_for, read_logins
from gateway.delivery.routes import NextHop, Route, RouteSettings, parse_route, routes
from gateway.delivery.ways import NoWay, Target, Ways, opened
from gateway.dns import DnsSettings, Resolver
from gateway.tls.outbound import OutboundTlsRule
from tests.hop import Hop, running
from tests.smarthost_lab import FAST

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ZONE: dict[str, Any] = {
    "example.com": {"MX": ["20 backup.example.com", "10 one.example.com", "10 two.example.com"]},
    "one.example.com": {"A": ["203.0.113.1"], "AAAA": ["2001:db8::1"]},
    "two.example.com": {"A": ["203.0.113.2", "203.0.113.22"]},
    "backup.example.com": {"A": ["203.0.113.3"]},
    "plain.example.net": {"A": ["203.0.113.9"]},
    "alias.example.net": {"CNAME": ["plain.example.net"]},
    "null.example.net": {"MX": ["0 ."], "A": ["203.0.113.4"]},
    "mixed.example.net": {"MX": ["0 .", "10 one.example.com"]},
    "gone.example.net": {"MX": ["10 nowhere.example.net"]},
    "unsure.example.net": {"MX": ["10 broken.example.net"]},
    "broken.example.net": "SERVFAIL",
    "half.example.net": {"MX": ["10 broken.example.net", "20 one.example.com"]},
    "loop.example.net": {"MX": ["10 gw.example.com", "20 one.example.com"]},
    "second.example.net": {"MX": ["10 one.example.com", "20 gw.example.com", "30 two.example.com"]},
    "better-unsure.example.net": {"MX": ["10 broken.example.net", "20 gw.example.com"]},
    "worse-unsure.example.net": {"MX": ["10 gw.example.com", "20 broken.example.net"]},
    "equal.example.net": {"MX": ["10 one.example.com", "10 gw.example.com"]},
    "own-address.example.net": {"MX": ["10 other-name.example.com"]},
    "other-name.example.com": {"A": ["127.0.0.1"]},
    "gw.example.com": {"A": ["203.0.113.99"]},
    "nonsense.example.net": {"MX": ["10 any.example.net", "10 many.example.net"]},
    "any.example.net": {"A": ["0.0.0.0", "224.0.0.1"]},
    "many.example.net": {"A": ["203.0.113.7"]},
    "empty.example.net": {"TXT": ["nothing for mail"]},
    "crowd.example.net": {"MX": [f"{n} h{n}.example.net" for n in range(1, 60)]},
} | {f"h{n}.example.net": {"A": [f"203.0.113.{n}"]} for n in range(1, 60)}
DEFAULT = routes([], "mx")


@pytest.fixture(scope="module")
def resolver() -> Iterator[Resolver]:
    with DnsStub(ZONE) as stub:
        yield Resolver(DnsSettings(nameservers=(stub.nameserver,), timeout=1.0))


def ways(resolver: Resolver, **changes: Any) -> Ways:
    values = {"names": frozenset({"gw.example.com"}), "ports": frozenset({25}), **changes}
    return Ways(resolver=resolver, **values)


def target(domain: str, table: Any = DEFAULT) -> Target:
    route = table.route(f"u@{domain}")
    assert route is not None
    return Target(route, domain)


def found(resolver: Resolver, domain: str, **changes: Any) -> list[tuple[str, str]]:
    return [(w.server.host, w.server.address) for w in ways(resolver, **changes).find(target(domain))]


# ---------------------------------------------------------------- MX


def test_the_best_preference_first_and_equal_ones_in_any_order(resolver: Resolver) -> None:
    first: Counter[str] = Counter()
    for _ in range(60):
        hosts = found(resolver, "example.com")
        assert hosts[-1] == ("backup.example.com", "203.0.113.3")
        assert {host for host, _ in hosts[:-1]} == {"one.example.com", "two.example.com"}
        assert {a for _, a in hosts} == {
            "203.0.113.1",
            "2001:db8::1",
            "203.0.113.2",
            "203.0.113.22",
            "203.0.113.3",
        }
        first[hosts[0][0]] += 1
    assert set(first) == {"one.example.com", "two.example.com"}


@pytest.mark.parametrize(
    ("domain", "addresses"),
    [
        ("plain.example.net", ["203.0.113.9"]),
        ("alias.example.net", ["203.0.113.9"]),
        ("mixed.example.net", ["203.0.113.1", "2001:db8::1"]),
        ("half.example.net", ["203.0.113.1", "2001:db8::1"]),
        ("second.example.net", ["203.0.113.1", "2001:db8::1"]),
        ("nonsense.example.net", ["203.0.113.7"]),
        ("[203.0.113.200]", [""]),
        ("[IPv6:2001:db8::200]", [""]),
    ],
)
def test_which_servers_there_are(resolver: Resolver, domain: str, addresses: list[str]) -> None:
    assert sorted(address for _, address in found(resolver, domain)) == sorted(addresses)


@pytest.mark.parametrize(
    ("domain", "code", "enhanced"),
    [
        ("null.example.net", 556, "5.1.10"),
        ("missing.example.net", 550, "5.1.2"),
        ("gone.example.net", 550, "5.4.4"),
        ("empty.example.net", 550, "5.4.4"),
        ("loop.example.net", 554, "5.4.6"),
        ("equal.example.net", 554, "5.4.6"),
        ("own-address.example.net", 554, "5.4.6"),
        ("[127.0.0.1]", 554, "5.4.6"),
        ("[IPv6:::ffff:127.0.0.1]", 554, "5.4.6"),
        ("[0.0.0.0]", 550, "5.1.2"),
        ("[IPv6:ff02::1]", 550, "5.1.2"),
        ("broken.example.net", 451, "4.4.3"),
        ("better-unsure.example.net", 451, "4.4.3"),
        ("worse-unsure.example.net", 554, "5.4.6"),
        ("unsure.example.net", 451, "4.4.3"),
        ("not a domain", 550, "5.1.2"),
    ],
)
def test_where_there_is_no_server(resolver: Resolver, domain: str, code: int, enhanced: str) -> None:
    with pytest.raises(NoWay) as caught:
        found(resolver, domain)
    reply = caught.value.reply
    assert (reply.code, reply.enhanced) == (code, enhanced)
    assert reply.text.isascii()


def test_another_server_on_our_machine_is_not_us(resolver: Resolver) -> None:
    assert found(resolver, "own-address.example.net", ports=frozenset({10_024})) == [
        ("other-name.example.com", "127.0.0.1")
    ]
    assert found(resolver, "[127.0.0.1]", ports=frozenset({10_024})) == [("127.0.0.1", "")]


def test_the_number_of_servers_is_bounded(resolver: Resolver) -> None:
    assert [host for host, _ in found(resolver, "crowd.example.net")] == [
        f"h{n}.example.net" for n in range(1, 11)
    ]


def test_an_address_literal_is_the_server() -> None:
    route = DEFAULT.route("u@[IPv6:2001:db8::200]")
    assert str(route) == "mx:[2001:db8::200]"
    [way] = Ways().find(Target(parse_route(str(route))))
    assert (way.server.host, way.server.port, way.server.mx) == ("2001:db8::200", 25, False)


# ---------------------------------------------------------------- several next hops


@pytest.mark.parametrize(
    "text",
    [
        "smtp:a:25|smtp:b:26, smtp:c:25",
        "mx",
        "mx:example.com",
        "mx:example.com:2525",
        "mx, smtp:c:25",
        "smtps:mail.example.com:465",
        "lmtp:unix:/run/lmtp, lmtp:[2001:db8::1]:24",
    ],
)
def test_routes_read_what_they_write(text: str) -> None:
    assert str(parse_route(text)) == text
    assert RouteSettings(domains=("example.com",), next_hop=text).next_hop == text


@pytest.mark.parametrize("text", ["", ",", "smtp:a:25,", "smtp:a:25||smtp:b:25", "mx:a b", "smtps:unix:/x"])
def test_what_is_no_route(text: str) -> None:
    with pytest.raises(ValueError, match="next hop"):
        parse_route(text)


def test_they_take_turns_and_stand_in() -> None:
    three = Ways()
    way = Target(parse_route("smtp:a:25|smtp:b:25, smtp:c:25"))
    orders = [[w.server.host for w in three.find(way)] for _ in range(4)]
    assert orders == [["a", "b", "c"], ["b", "a", "c"]] * 2
    three.failed(NextHop("smtp", "a", 25))
    assert [[w.server.host for w in three.find(way)] for _ in range(2)] == [["b", "c", "a"]] * 2


def test_who_stands_in_where_the_dns_fails_but_not_where_there_is_no_mail(resolver: Resolver) -> None:
    table = routes([], "mx, smtp:c:25")
    [way] = ways(resolver).find(target("broken.example.net", table))
    assert way.server.host == "c"
    with pytest.raises(NoWay, match="takes no mail"):
        ways(resolver).find(target("null.example.net", table))


def test_mail_to_one_target_shares_connections_where_tls_is_the_same() -> None:
    fixed, routed = parse_route("smtp:a:25"), parse_route("mx:example.com")
    by_domain = Ways(rules=(OutboundTlsRule(domains=("example.com",)),))
    assert Ways().target(fixed, "example.com") == Ways().target(fixed, "example.org")
    assert by_domain.target(fixed, "example.com") != by_domain.target(fixed, "example.org")
    assert Ways().target(routed, "example.com") != Ways().target(routed, "example.org")


def test_the_next_server_is_asked_where_one_does_not_answer() -> None:
    good = Hop()

    async def go() -> None:
        async with running(good):
            route = Route(((NextHop("smtp", "127.0.0.1", 1),), (good.next_hop,)))
            both = Ways()
            for _ in range(2):
                session = await opened(both, Target(route), "gw.example.com", FAST)
                assert session.hop == good.next_hop
                await session.close()
            assert both.find(Target(route))[0].server == good.next_hop, "the dead one comes last"
            nowhere = Target(Route(((NextHop("smtp", "127.0.0.1", 1),),)))
            with pytest.raises(HopLost, match="cannot connect"):
                await opened(both, nowhere, "gw.example.com", FAST)

    asyncio.run(go())


def test_finding_does_not_wait_longer_than_the_resolver(resolver: Resolver) -> None:
    began = time.monotonic()
    with pytest.raises(NoWay):
        found(resolver, "unsure.example.net")
    assert time.monotonic() - began < 5


# ---------------------------------------------------------------- logins


def logins_file(tmp_path: Path, text: str, mode: int = 0o600) -> Path:
    path = tmp_path / "logins"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_logins_by_host_and_port(tmp_path: Path) -> None:
    read = read_logins(
        logins_file(
            tmp_path,
            "# ours\n\nMail.example.com gw s3cret with spaces\nmail.example.com:587 other x\n"
            "[2001:db8::1] six y\n",
            0o640,
        )
    )
    hop = NextHop("smtp", "mail.example.com", 25)
    assert login_for(hop, read) == Login("gw", "s3cret with spaces")
    assert login_for(NextHop("smtp", "mail.example.com", 587), read) == Login("other", "x")
    assert login_for(NextHop("smtp", "2001:db8::1", 25), read) == Login("six", "y")
    assert login_for(NextHop("smtp", "example.com", 25), read) is None
    assert "s3cret" not in repr(read)


@pytest.mark.parametrize(
    ("text", "mode", "match"),
    [
        ("a b c\n", 0o644, "chmod"),
        ("a b c\n", 0o620, "chmod"),
        ("a b c\na b\n", 0o600, "line 2"),
        ("a b c\na b d\n", 0o600, "line 2: a second login"),
        ("a b c\x01d\n", 0o600, "line 1"),
        (f"a b {'c' * 600}\n", 0o600, "line 1"),
    ],
)
def test_logins_that_are_not_taken(tmp_path: Path, text: str, mode: int, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        read_logins(logins_file(tmp_path, text, mode))


def test_a_login_asks_for_a_verified_server_where_the_table_does_not_say() -> None:
    logins = {"a": Login("gw", "x")}
    rules = (OutboundTlsRule(next_hops=("b",), level="encrypt"),)
    table = Ways(rules=rules, logins={**logins, "b": Login("gw", "y")})
    levels = {
        w.server.host: w.tls.level for w in table.find(Target(parse_route("smtp:a:25, smtp:b:25, smtp:c:25")))
    }
    assert levels == {"a": "verify", "b": "encrypt", "c": "may"}
    [implicit] = Ways().find(Target(parse_route("smtps:c")))
    assert (implicit.tls.level, implicit.server.port) == ("encrypt", 465)
