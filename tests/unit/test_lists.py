# SPDX-License-Identifier: GPL-2.0-or-later
"""Lists in the DNS: what is asked, what an answer means, and that no failure is a listing."""

from __future__ import annotations

import base64
import hashlib
import time
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contrib.lab.dns import DnsStub
from gateway.dns import DnsSettings, Resolver
from gateway.lists import Lists, ListSettings, ZoneSettings, _points
from gateway.mail.types import (
    Attachment,
    Content,
    Direction,
    Envelope,
    Evidence,
    HeaderField,
    Listing,
    Mail,
    Session,
    Url,
)
from gateway.policy.examine import _lists
from gateway.store.encoding import from_json, to_json

if TYPE_CHECKING:
    from collections.abc import Iterator

ALL: Final = ("client", "helo", "sender", "from", "dkim", "url", "hash")
FILE = Attachment(
    ("x",), "", "", 4, "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", 1, b"test"
)


@pytest.fixture(scope="module")
def stub() -> Iterator[DnsStub]:
    with DnsStub({}) as served:
        yield served


def lists(stub: DnsStub, *zones: ZoneSettings, **more: Any) -> Lists:
    resolver = Resolver(DnsSettings(nameservers=(stub.nameserver,), timeout=5, attempts=1, cache_size=0))
    return Lists(ListSettings(zones=zones, **more), resolver, (".example.com",))


def ask(
    found: Lists,
    *,
    urls: tuple[str, ...] = (),
    ip: str = "192.0.2.1",
    outbound: bool = False,
    relayed: bool = False,
) -> tuple[Listing, ...]:
    direction = Direction.OUTBOUND if outbound else Direction.INBOUND
    signature = HeaderField("DKIM-Signature", b"DKIM-Signature: v=1; a=x;\r\n d=sign.example; s=d")
    content = Content(
        fields=(signature,),
        body_start=0,
        from_addresses=(("", "a@news.shop.example"),),
        urls=tuple(map(Url, urls)),
        attachments=(FILE,),
    )
    session = Session(client_ip=ip, helo="mail.helo.example", direction=direction)
    mail = Mail("0" * 16, session, Envelope("b@bounce.sender.example", ()), b"")
    return found.ask(mail, content, time.monotonic() + 5, relayed=relayed)


def asked(stub: DnsStub, zone: ZoneSettings, **more: Any) -> list[str]:
    stub.queries.clear()
    ask(lists(stub, zone, max_names=more.pop("max_names", 30)), **more)
    return sorted(name.removesuffix(f".{zone.zone}") for name, _, _ in stub.queries)


def test_what_is_asked(stub: DnsStub) -> None:
    sha1 = "a94a8fe5ccb19ba61c4c0873d391e987982fbbd3"
    whole = ["1.2.0.192", sha1, "helo.example", "sender.example", "shop.example", "sign.example"]
    every = ZoneSettings(zone="l.example", ask=ALL, hash="sha1")
    assert asked(stub, every) == sorted(whole)
    hosts = ZoneSettings(zone="l.example", ask=("helo", "sender", "from"), names="host")
    assert asked(stub, hosts) == ["bounce.sender.example", "mail.helo.example", "news.shop.example"]
    assert asked(stub, every, relayed=True) == sorted(
        [sha1, "sender.example", "shop.example", "sign.example"]
    )
    assert asked(stub, every, outbound=True) == [sha1]
    [label] = asked(stub, ZoneSettings(zone="l.example", ask=("hash",)))
    assert base64.b32decode(label.upper() + "====") == hashlib.sha256(b"test").digest()
    assert asked(stub, ZoneSettings(zone="l.example", ask=("hash",), hash="md5")) == [
        "098f6bcd4621d373cade4e832627b4f6"
    ]


@pytest.mark.parametrize(
    "ip", ["", "unknown", "10.1.2.3", "127.0.0.1", "::1", "fe80::1", "fd00::1", "172.20.0.1"]
)
def test_private_clients_are_nobodys_business(stub: DnsStub, ip: str) -> None:
    assert asked(stub, ZoneSettings(zone="l.example", ask=("client",)), ip=ip) == []


def test_links(stub: DnsStub) -> None:
    zone = ZoneSettings(zone="l.example", ask=("url",))
    urls = (
        "https://a.shop.example/",
        "http://b.shop.example",
        "https://www.example.com/",  # ours
        "http://0xc0000202/",
        "http://10.0.0.1/",
        "https://r.example/?u=https%3A%2F%2Finner.goal.example%2F",
        "https://xn--mnchen-3ya.example/",
        "https://bücher.example/",
        "https://localhost/",
        "mailto:a@other.example",
        "https://" + "a" * 70 + ".example/",
    )
    expected = [
        "2.2.0.192",
        "goal.example",
        "r.example",
        "shop.example",
        "xn--bcher-kva.example",
        "xn--mnchen-3ya.example",
    ]
    assert asked(stub, zone, urls=urls) == expected
    many = tuple(f"https://h{n}.example/" for n in range(500))
    assert len(asked(stub, zone, urls=many, max_names=7)) == 7


@pytest.mark.parametrize(
    ("records", "codes", "expected"),
    [
        (["127.0.0.2"], {}, ("listed", 1.5)),
        (["127.0.0.2", "127.0.0.9"], {}, ("listed", 1.5)),
        (["127.0.0.2"], {"127.0.0.2": 4.0}, ("listed", 4.0)),
        (["127.0.0.3"], {"127.0.0.2": 4.0}, None),
        (["127.0.0.5"], {"127.0.0.4-7": 3.0}, ("listed", 3.0)),
        (["127.0.1.5"], {"127.0.0.4-7": 3.0}, None),
        (["127.0.0.2", "127.0.0.5"], {"127.0.0.2": 1.0, "127.0.0.4-7": 3.0}, ("listed", 3.0)),
        (["127.0.0.10"], {"&2": 1.0, "&8": 3.0, "&16": 9.0}, ("listed", 4.0)),
        (["127.0.0.2"], {"127.0.0.2": -2.0}, ("listed", -2.0)),
        (["127.255.255.252"], {}, ("error", 0.0)),
        (["127.255.255.254"], {"127.255.255.254": 5.0}, ("error", 0.0)),
        (["127.0.0.1"], {}, ("error", 0.0)),
        (["203.0.113.1"], {}, ("error", 0.0)),
        (["127.0.0.2", "203.0.113.1"], {}, ("error", 0.0)),
        ([], {}, None),
    ],
)
def test_meaning(
    stub: DnsStub, records: list[str], codes: dict[str, float], expected: tuple[str, float] | None
) -> None:
    stub.replace({"1.2.0.192.l.example": {"A": records}} if records else {})
    zone = ZoneSettings(zone="l.example", ask=("client",), weight=1.5, codes=codes)
    found = ask(lists(stub, zone))
    assert [(one.status, one.weight) for one in found] == ([expected] if expected else [])


@pytest.mark.parametrize("failure", ["SERVFAIL", "REFUSED", "TIMEOUT"])
def test_failures_are_errors_once_for_each_zone(stub: DnsStub, failure: str) -> None:
    stub.replace(
        {f"h{n}.example.l.example": failure for n in range(3)}
        | {"h1.example.m.example": {"A": ["127.0.0.2"]}}
    )
    zones = [ZoneSettings(zone=zone, ask=("url",)) for zone in ("l.example", "m.example")]
    found = ask(lists(stub, *zones, timeout=1.0), urls=tuple(f"http://h{n}.example" for n in range(3)))
    assert [(one.zone, one.status) for one in found] == [("l.example", "error"), ("m.example", "listed")]


def test_the_deadline_holds(stub: DnsStub) -> None:
    stub.replace({"1.2.0.192.l.example": "TIMEOUT"})
    started = time.monotonic()
    [one] = ask(lists(stub, ZoneSettings(zone="l.example", ask=("client",)), timeout=0.2))
    assert one.status == "error"
    assert time.monotonic() - started < 4, "less than a question may take"


def test_signals_weigh_each_zone_once() -> None:
    listings = (
        Listing("a.example", "url", "x.example", ("127.0.0.2",), 1.0),
        Listing("a.example", "url", "y.example", ("127.0.0.4",), 3.0),
        Listing("b.example", "client", "192.0.2.1", ("127.0.0.2",), 0.0),
        Listing("c.example", "client", "192.0.2.1", status="error", reason="timed out"),
    )
    found = [(s.name, s.value, s.state) for s in _lists(Evidence(lists=listings))]
    assert found == [("DNSBL", 3.0, "hit"), ("DNSBL", 0.0, "hit"), ("DNSBL_ERROR", 1.0, "error")]
    text = [s.text for s in _lists(Evidence(lists=listings))]
    assert text[0] == "a.example lists y.example (url) as 127.0.0.4: +3"
    assert text[2] == "c.example timed out"
    assert from_json(to_json(Evidence(lists=listings)), Evidence) == Evidence(lists=listings)
    assert from_json("{}", Evidence) == Evidence()  # what was written before there were lists


@pytest.mark.parametrize("code", ["127.0.0.x", "128.0.0.1", "127.0.0.2-", "&", "", "127.0.0.0/24"])
def test_codes_are_checked(code: str) -> None:
    with pytest.raises(ValueError, match="not a return code"):
        ZoneSettings(zone="l.example", ask=("client",), codes={code: 1.0})


@pytest.mark.parametrize("zone", ["example", "a..example", "x" * 64 + ".example"])
def test_zones_are_checked(zone: str) -> None:
    with pytest.raises(ValueError, match="not a zone"):
        ZoneSettings(zone=zone, ask=("client",))


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255))
def test_ranges(start: int, end: int, number: int) -> None:
    zone = ZoneSettings(zone="l.example", ask=("client",), codes={f"127.0.0.{start}-{end}": 2.0})
    assert _points(zone, f"127.0.0.{number}") == (2.0 if start <= number <= end else None)


@given(st.lists(st.text(max_size=60), max_size=4), st.text(max_size=40), st.binary(max_size=60))
def test_hostile_names_never_raise(urls: list[str], helo: str, signature: bytes) -> None:
    resolver = Resolver(DnsSettings(nameservers=("192.0.2.1",)))
    content = Content(
        fields=(HeaderField("DKIM-Signature", b"DKIM-Signature:" + signature),),
        body_start=0,
        from_addresses=(("", helo),),
        urls=tuple(Url(f"http://{url}") for url in urls),
    )
    mail = Mail("0" * 16, Session(client_ip=helo, helo=helo), Envelope(f"a@{helo}", ()), b"")
    found = Lists(ListSettings(zones=(ZoneSettings(zone="l.example", ask=ALL),)), resolver)
    for one in found.ask(mail, content, 0.0):  # the deadline has passed: nothing is sent
        assert one.status == "error"
