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
    timeout = 0.2 if sender.endswith("@silent.example") else 5.0
    resolver = Resolver(DnsSettings(nameservers=(stub.nameserver,), timeout=timeout, attempts=1))
    session = Session(client_ip=ip, helo=helo)
    return check_spf(session, Envelope(sender, ()), Lookup(resolver, time.monotonic() + 20), **more)


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
        self.names: list[str] = []

    def query(self, name: str, kind: str) -> Answer[Any]:
        self.questions += 1
        self.names.append(name)
        if kind == "TXT":
            return Answer("ok", (self.record,))
        if kind == "MX":
            return Answer("ok", tuple((1, f"mx{number}.example") for number in range(10)))
        return Answer("ok" if self.addresses else "nxdomain", self.addresses)

    def txt(self, name: str) -> Answer[Any]:
        return self.query(name, "TXT")

    def ptr(self, _address: str) -> Answer[Any]:
        self.questions += 1
        return Answer("ok", tuple(f"host{number}.example" for number in range(200)))


HOSTILE = {
    "many terms": b"v=spf1" + b" ip4:10.1.2.3" * 900,
    "unknown modifiers": b"v=spf1 " + b" ".join(b"m%d=%%{l}" % number for number in range(1200)),
    "modifier of macros": b"v=spf1 m=" + b"%{L}" * 2_900,
    "modifiers of macros": b"v=spf1 " + b" ".join(b"m%d=" % n + b"%{S128r.-}" * 9 for n in range(120)),
    "explanation": b"v=spf1 exp=" + b"%{L}" * 125 + b".com ?all",
    "short terms": b"v=spf1" + b" a" * 5_900,
    "delimiters": b"v=spf1 "
    + b" ".join(b"exists:" + b"%%{l%d.-+,/_=}" % number * 30 + b".com" for number in range(1, 40)),
    "upper-case macros": b"v=spf1 " + b" ".join([b"exists:" + b"%{S}" * 120 + b".com"] * 23),
    "top label": b"v=spf1 " + b" ".join([b"exists:x." + b"a" * 490 + b"!"] * 23),
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


@pytest.mark.parametrize("local", ["x" * 200, "x." * 1_000, "%" * 2_000, "é" * 2_000])
@pytest.mark.parametrize("record", HOSTILE.values(), ids=HOSTILE)
def test_hostile_records_are_cheap(record: bytes, local: str) -> None:
    session = Session(client_ip="192.0.2.1", helo="x" * 2_000)
    envelope = Envelope(f"{local}@example.com", ())
    times = []
    for _ in range(3):
        lookup: Any = FakeLookup(record, ("10.0.0.1",) * 200)
        start = time.thread_time()
        result = check_spf(session, envelope, lookup)[0].result
        times.append(time.thread_time() - start)
        assert result in ("permerror", "neutral")
        assert lookup.questions <= 130  # ten terms, ten hosts each
    assert min(times) < 0.05


@pytest.mark.parametrize(
    ("client", "own", "mask", "result"),
    [
        ("192.0.2.77", "192.0.2.77", "", "pass"),
        ("192.0.2.77", "192.0.2.76", "", "fail"),
        ("192.0.2.77", "192.0.2.64", "/28", "pass"),
        ("192.0.2.77", "192.0.2.80", "/28", "fail"),
        ("192.0.2.77", "10.0.0.1", "/0", "pass"),
        ("2001:db8::77", "2001:db8::77", "", "pass"),
        ("2001:db8::77", "2001:db8:0:0:ffff::", "//64", "pass"),
        ("2001:db8::77", "2001:db8:0:1::77", "//64", "fail"),
        ("2001:db8::77", "::", "//0", "pass"),
    ],
)
def test_addresses_are_compared_by_their_first_bits(client: str, own: str, mask: str, result: str) -> None:
    lookup: Any = FakeLookup(f"v=spf1 a:x.example{mask} -all".encode(), (own,))
    assert check_spf(Session(client_ip=client), Envelope("a@e.example", ()), lookup)[0].result == result


@pytest.mark.parametrize(("addresses", "result"), [(20, "fail"), (21, "permerror")])
def test_addresses_are_limited(addresses: int, result: str) -> None:
    policy = b"v=spf1" + b" mx:x.example" * 10 + b" -all"  # ten names with ten hosts each
    lookup: Any = FakeLookup(policy, ("10.0.0.1",) * addresses)
    found = check_spf(Session(client_ip="192.0.2.1"), Envelope("a@e.example", ()), lookup)
    assert found[0].result == result


def asked(record: bytes, local: str) -> tuple[Spf, FakeLookup]:
    lookup = FakeLookup(record, ("10.0.0.1",))
    anything: Any = lookup
    session = Session(client_ip="192.0.2.1", helo="x")
    return check_spf(session, Envelope(f"{local}@example.com", ()), anything)[0], lookup


@pytest.mark.parametrize(
    ("record", "result"),
    [
        (b"v=spf1 m=%{p}%{l} ?all", "neutral"),
        (b"v=spf1 m=%%%_%- ?all", "neutral"),
        (b"v=spf1 m=%{x} ?all", "permerror"),
        (b"v=spf1 m=%{l0} ?all", "permerror"),
        (b"v=spf1 m=% ?all", "permerror"),
        (b"v=spf1 m=%{l} m=%{l} ?all", "permerror"),
    ],
)
def test_unknown_modifiers_are_checked_and_not_expanded(record: bytes, result: str) -> None:
    found, lookup = asked(record, "a")
    assert found.result == result
    assert lookup.questions == 2  # the record, for the check that it is one, and for pyspf


@pytest.mark.parametrize("local", ["a." * 1_000 + "b", "a" * 60 + "." + "b" * 60 + "." + "c" * 60])
def test_long_names_lose_labels_on_the_left(local: str) -> None:
    _, lookup = asked(b"v=spf1 exists:%{l}.%{l}.%{d} -all", local)
    full = f"{local}.{local}.example.com"
    name = lookup.names[-1]
    assert len(name) <= 253
    assert full.endswith("." + name)
    assert len(full.removesuffix("." + name).rpartition(".")[2]) + 1 + len(name) > 253  # not one too many


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("%{l1r-}.x.example", "a.x.example"),
        ("%{l2r+-}.x.example", "b.a.x.example"),
        ("%{L}.x.example", "a-b%2Bc_d.x.example"),
        ("%{lr=_+}.x.example", "d.c.a-b.x.example"),
        ("x.example.%{d1}", "x.example.com"),
        ("x.example%%%-%_.a-1.", "x.example%%20 .a-1"),
    ],
)
def test_macros(spec: str, name: str) -> None:
    assert asked(f"v=spf1 exists:{spec} -all".encode(), "a-b+c_d")[1].names[-1] == name


@pytest.mark.parametrize("spec", ["x", "x.123", "x.-a", "x.a-", "x.a_b", "%{d}x", "x..", "."])
def test_domains_need_a_top_label(spec: str) -> None:
    found, lookup = asked(f"v=spf1 exists:{spec} -all".encode(), "a")
    assert found.result == "permerror"
    assert lookup.questions == 2


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
