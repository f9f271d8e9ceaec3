# SPDX-License-Identifier: GPL-2.0-or-later
"""SPF: identities, policy, limits and hostile records. The public suites are run elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contrib.lab.dns import DnsStub
from gateway.auth.spf import check_spf
from gateway.dns import Answer, DnsSettings, Lookup, Resolver
from gateway.mail.types import Envelope, Session, Spf

if TYPE_CHECKING:
    from collections.abc import Iterator

ZONE: dict[str, Any] = {
    "example.com": {"TXT": ["v=spf1 ip4:192.0.2.0/28 exp=why.example.com -all"]},
    "why.example.com": {"TXT": ["%{i} may not"]},
    "soft.example": {"TXT": ["v=spf1 ~all"]},
    "mail.example.net": {"A": ["192.0.2.1"], "TXT": ["v=spf1 a -all"]},
    "broken.example": "SERVFAIL",
    "inner.example": {"TXT": ["v=spf1 include:broken.example -all"]},
    "silent.example": "TIMEOUT",
    "eight.example": {"TXT": [b"v=spf1 a:\xff.example -all"]},
    "six.example": {"TXT": ["v=spf1 ip6:2001:db8::/32 -all"]},
    "quoted.example": {"TXT": ["v=spf1 exists:%{l}.%{d}.x.example -all"]},
    "a@b.quoted.example.x.example": {"A": ["127.0.0.2"]},
    "huge.example": {"TXT": ["v=spf1" + " ip4:10.0.0.1" * 1200]},
}


@pytest.fixture(scope="module")
def stub() -> Iterator[DnsStub]:
    with DnsStub(ZONE) as running:
        yield running


def check(
    stub: DnsStub, sender: str, *, ip: str = "192.0.2.1", helo: str = "mail.example.net", **more: Any
) -> tuple[Spf, ...]:
    resolver = Resolver(DnsSettings(nameservers=(stub.nameserver,), timeout=0.1, attempts=1))
    session = Session(client_ip=ip, helo=helo)
    return check_spf(session, Envelope(sender, ()), Lookup(resolver, time.monotonic() + 5), **more)


@pytest.mark.parametrize(
    ("sender", "options", "expected"),
    [
        ("a@example.com", {}, ["example.com pass", "mail.example.net pass"]),
        ("a@EXAMPLE.com", {"ip": "::ffff:192.0.2.1"}, ["example.com pass", "mail.example.net pass"]),
        ("a@example.com", {"ip": "198.51.100.1"}, ["example.com fail", "mail.example.net fail"]),
        ("a@six.example", {"ip": "2001:db8::9", "helo": "six.example"}, ["six.example pass"] * 2),
        ("", {}, ["mail.example.net pass", "mail.example.net pass"]),
        ("a@none.example", {"helo": "[192.0.2.1]"}, ["none.example none", "[192.0.2.1] none"]),
        ("a@none.example", {"helo": "localhost"}, ["none.example none", "localhost none"]),
        ("a@b@example.com", {"helo": "x"}, ["example.com pass", "x none"]),  # the last "@" counts
        ("a@example.com@none.example", {"helo": "x"}, ["none.example none", "x none"]),
        ("@example.com", {"helo": "x"}, ["example.com pass", "x none"]),
        ("a@" + "x." * 200 + "com", {"helo": "x"}, ["x." * 126 + "... none", "x none"]),
        ("a@broken.example", {"helo": "x"}, ["broken.example temperror", "x none"]),
        ("a@inner.example", {"helo": "x"}, ["inner.example temperror", "x none"]),
        ("a@silent.example", {"helo": "x"}, ["silent.example temperror", "x none"]),
        ("a@eight.example", {"helo": "x"}, ["eight.example permerror", "x none"]),
        ("a@huge.example", {"helo": "x"}, ["huge.example permerror", "x none"]),
    ],
)
def test_results(stub: DnsStub, sender: str, options: dict[str, str], expected: list[str]) -> None:
    found = check(stub, sender, **options)
    assert [one.identity for one in found] == ["mailfrom", "helo"]
    assert [f"{one.domain} {one.result}" for one in found] == expected


@pytest.mark.parametrize("ip", ["", "unknown", "1.2.3", "::g"])
def test_without_a_client_address_nothing_is_checked(stub: DnsStub, ip: str) -> None:
    assert check(stub, "a@example.com", ip=ip) == ()


def test_explanations_are_not_asked_for(stub: DnsStub) -> None:
    stub.queries.clear()
    assert check(stub, "a@example.com", ip="198.51.100.1")[0].result == "fail"
    assert "why.example.com" not in {name for name, _, _ in stub.queries}


def test_a_trusted_forwarder_turns_failure_into_policy(stub: DnsStub) -> None:
    trusted: dict[str, Any] = {"trusted_forwarders": ("198.51.100.0/24",)}
    assert check(stub, "a@example.com", ip="198.51.100.1", **trusted)[0].result == "policy"
    assert check(stub, "a@soft.example", ip="198.51.100.1", **trusted)[0].result == "policy"
    assert check(stub, "a@broken.example", ip="198.51.100.1", **trusted)[0].result == "temperror"
    assert check(stub, "a@example.com", ip="203.0.113.1", **trusted)[0].result == "fail"
    assert check(stub, "a@example.com", **trusted)[0].result == "pass"


class FakeLookup:
    """Answers every TXT question with one policy, and counts."""

    def __init__(self, record: bytes, addresses: tuple[str, ...] = ()) -> None:
        self.record = record
        self.addresses = addresses
        self.questions = 0

    def query(self, _name: str, kind: str) -> Answer[Any]:
        self.questions += 1
        if kind == "TXT":
            return Answer("ok", (self.record,))
        if kind == "MX":
            return Answer("ok", tuple((1, f"mx{number}.example") for number in range(10)))
        return Answer("ok" if self.addresses else "nxdomain", self.addresses)

    def txt(self, name: str) -> Answer[Any]:
        return self.query(name, "TXT")

    def ptr(self, _address: str) -> Answer[Any]:
        return Answer("ok", tuple(f"host{number}.example" for number in range(200)))


HOSTILE = {
    "many terms": b"v=spf1" + b" ip4:10.1.2.3" * 900,
    "unknown modifiers": b"v=spf1 " + b" ".join(b"m%d=%%{l}" % number for number in range(1200)),
    "macros": b"v=spf1 " + b" ".join([b"exists:" + b"%{l}." * 80 + b"com"] * 28),
    "macro without end": b"v=spf1 a:" + b"a." * 240 + b"%{",
    "dots": b"v=spf1 a:" + b"." * 500 + b"%{d}",
    "digits": b"v=spf1 a/" + b"1" * 11_000,
    "slashes": b"v=spf1 a:x.com" + b"/1" * 5_000,
    "colons": b"v=spf1 ip6:" + b"1:" * 5_000,
    "mx": b"v=spf1" + b"".join(b" mx:h%d.example" % number for number in range(10)),
    "ptr": b"v=spf1 ptr:%{p}.example",
    "redirect to itself": b"v=spf1 redirect=example.com",
    "include of itself": b"v=spf1 include:other.example",
}


@pytest.mark.parametrize("record", HOSTILE.values(), ids=HOSTILE)
def test_hostile_records_are_cheap(record: bytes) -> None:
    session = Session(client_ip="192.0.2.1", helo="x")
    envelope = Envelope("x" * 200 + "@example.com", ())
    times = []
    for _ in range(3):
        lookup: Any = FakeLookup(record, ("10.0.0.1",) * 200)
        start = time.thread_time()
        result = check_spf(session, envelope, lookup)[0].result
        times.append(time.thread_time() - start)
        assert result in ("permerror", "neutral")
        assert lookup.questions <= 130  # ten terms, ten hosts each
    assert min(times) < 0.05


TERMS = st.lists(
    st.one_of(
        st.sampled_from(
            ["a", "mx", "ptr", "all", "-all", "include:", "exists:", "redirect=", "exp=", "ip4:", "ip6:"]
        ),
        st.text(alphabet="abp%{}dlsivhr0123456789.:/=+-~?_ ", max_size=24),
    ),
    max_size=12,
)


@settings(deadline=None)
@given(TERMS, st.text(max_size=20))
def test_any_record_gives_a_result(terms: list[str], local: str) -> None:
    record = ("v=spf1 " + " ".join(terms)).encode()
    lookup: Any = FakeLookup(record)
    found = check_spf(
        Session(client_ip="192.0.2.1", helo="h.example"), Envelope(f"{local}@example.com", ()), lookup
    )
    assert found[0].result in ("pass", "fail", "softfail", "neutral", "none", "permerror")
    assert lookup.questions <= 300
    assert found[0].reason.isprintable()
