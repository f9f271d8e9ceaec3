# SPDX-License-Identifier: GPL-2.0-or-later
"""The resolver against a DNS stub: every kind of answer and of failure, cache, limits, deadlines."""

from __future__ import annotations

import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Any

import dns.exception
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contrib.lab.dns import DnsStub
from gateway import dns as resolver_module
from gateway.dns import (
    Answer,
    DnsSettings,
    Kind,
    Lookup,
    Resolver,
    parse_server,
    read_answer,
)
from gateway.mail.networks import reverse_name

if TYPE_CHECKING:
    from collections.abc import Iterator

ZONE: dict[str, Any] = {
    "example.com": {
        "A": ["192.0.2.1", "192.0.2.2"],
        "AAAA": ["2001:db8::1"],
        "MX": ["10 MX.example.com.", "0 ."],
        "TXT": ["v=spf1 -all", ["split ", "string"]],
    },
    "long.example.com": {"TXT": ["x" * 3000]},
    "alias.example.com": {"CNAME": ["Example.com"]},
    "dangling.example.com": {"CNAME": ["nowhere.example.net"]},
    "loop.example.com": {"CNAME": ["loop.example.com"]},
    "odd$name.example.com": {"TXT": ["odd"]},
    "_25._tcp.mx.example.com": {"TLSA": ["3 1 1 " + "ab" * 32]},
    "1.2.0.192.in-addr.arpa": {"PTR": ["Mail.example.com."]},
    "broken.example.com": "SERVFAIL",
    "refused.example.com": "REFUSED",
    "silent.example.com": "TIMEOUT",
}


@pytest.fixture(scope="module")
def stub() -> Iterator[DnsStub]:
    with DnsStub(ZONE) as running:
        yield running


def resolver_at(*stubs: DnsStub, **settings: Any) -> Resolver:
    servers = tuple(stub.nameserver for stub in stubs)
    return Resolver(DnsSettings(nameservers=servers, **({"timeout": 5.0, "attempts": 1} | settings)))


def soon() -> float:
    return time.monotonic() + 20


@pytest.mark.parametrize(
    ("name", "kind", "status", "values"),
    [
        ("example.com", "A", "ok", ("192.0.2.1", "192.0.2.2")),
        ("EXAMPLE.com.", "AAAA", "ok", ("2001:db8::1",)),
        ("example.com", "MX", "ok", ((10, "mx.example.com"), (0, "."))),
        ("example.com", "TXT", "ok", (b"v=spf1 -all", b"split string")),
        ("long.example.com", "TXT", "ok", (b"x" * 3000,)),  # over TCP
        ("alias.example.com", "A", "ok", ("192.0.2.1", "192.0.2.2")),
        ("odd$name.example.com", "TXT", "ok", (b"odd",)),
        ("_25._tcp.mx.example.com", "TLSA", "ok", ((3, 1, 1, b"\xab" * 32),)),
        ("1.2.0.192.in-addr.arpa", "PTR", "ok", ("mail.example.com",)),
        ("_tcp.mx.example.com", "TXT", "nodata", ()),  # there are names below it
        ("example.com", "TLSA", "nodata", ()),
        ("nowhere.example.net", "A", "nxdomain", ()),
        ("dangling.example.com", "A", "nxdomain", ()),
        ("loop.example.com", "A", "temperror", ()),
        ("broken.example.com", "A", "temperror", ()),
        ("refused.example.com", "A", "temperror", ()),
        ("silent.example.com", "A", "temperror", ()),
        ("a..b", "A", "nxdomain", ()),
        ("x" * 64 + ".example.com", "A", "nxdomain", ()),
        (".".join(["label"] * 50), "A", "nxdomain", ()),
        ("", "A", "nxdomain", ()),
    ],
)
def test_answers(stub: DnsStub, name: str, kind: Kind, status: str, values: tuple[Any, ...]) -> None:
    timeout = 0.2 if ZONE.get(name) == "TIMEOUT" else 5.0
    answer = resolver_at(stub, timeout=timeout).query(name, kind, soon())
    assert (answer.status, answer.values) == (status, values)
    assert answer.status != "temperror" or answer.reason


def test_the_name_behind_aliases_is_told(stub: DnsStub) -> None:
    assert resolver_at(stub).query("alias.example.com", "A", soon()).name == "example.com"


def test_long_answers_come_over_tcp(stub: DnsStub) -> None:
    stub.queries.clear()
    resolver_at(stub).query("long.example.com", "TXT", soon())
    assert [transport for _, _, transport in stub.queries] == ["udp", "tcp"]


@pytest.mark.parametrize(
    "name", ["example.com", "nowhere.example.net", "_tcp.mx.example.com", "broken.example.com"]
)
def test_an_answer_is_asked_for_once(stub: DnsStub, name: str) -> None:
    resolver = resolver_at(stub)
    first = resolver.query(name, "TXT", soon())
    stub.queries.clear()
    assert resolver.query(name.upper(), "TXT", soon()) is first
    assert resolver.cached(name, "TXT") is first
    assert not stub.queries
    assert resolver.cached(name, "A") is None


@pytest.mark.parametrize(
    ("name", "ttl", "most", "kept_for"),
    [
        ("a.example", 300, 3600, 300),
        ("a.example", 9000, 3600, 3600),  # cache_max_ttl
        ("nowhere.example", 60, 3600, 60),  # the SOA's
        ("a.example", 0, 3600, 0),
    ],
)
def test_time_to_live(
    monkeypatch: pytest.MonkeyPatch, name: str, ttl: int, most: float, kept_for: float
) -> None:
    clock = [1000.0]
    with DnsStub({"a.example": {"A": ["192.0.2.1"]}}, ttl=ttl) as stub:
        resolver = resolver_at(stub, cache_max_ttl=most)
        monkeypatch.setattr("gateway.dns.time.monotonic", lambda: clock[0])
        resolver.query(name, "A", 1010.0)
        for age, kept in ((kept_for - 1, True), (kept_for + 1, False)):
            clock[0] = 1000.0 + age
            assert (resolver.cached(name, "A") is not None) == (kept and kept_for > 0)


def test_the_cache_is_bounded(stub: DnsStub) -> None:
    resolver = resolver_at(stub, cache_size=3)
    for number in range(5):
        resolver.query(f"n{number}.example.net", "A", soon())
    assert [resolver.cached(f"n{number}.example.net", "A") is not None for number in range(5)] == [
        False
    ] * 2 + [True] * 3
    nothing = resolver_at(stub, cache_size=0)
    nothing.query("example.com", "A", soon())
    assert nothing.cached("example.com", "A") is None


def test_the_next_server_is_asked(stub: DnsStub) -> None:
    with DnsStub({"example.com": "TIMEOUT", "alias.example.com": "SERVFAIL"}) as bad:
        resolver = resolver_at(bad, stub, timeout=1.0)
        assert resolver.query("example.com", "A", soon())
        assert resolver.query("alias.example.com", "A", soon())
        assert resolver_at(bad, timeout=0.2).query("example.com", "A", soon()).status == "temperror"


def test_no_server_at_all() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    resolver = Resolver(DnsSettings(nameservers=(f"127.0.0.1:{port}",), timeout=0.1))
    assert resolver.query("example.com", "A", soon()).status == "temperror"


def test_a_deadline_ends_the_wait_and_is_not_remembered(stub: DnsStub) -> None:
    resolver = resolver_at(stub, timeout=10.0)
    start = time.monotonic()
    assert resolver.query("silent.example.com", "A", start + 0.1).status == "temperror"
    assert time.monotonic() - start < 5, "half of what the settings allow"
    assert resolver.cached("silent.example.com", "A") is None
    assert resolver.query("example.com", "A", start).status == "temperror"  # none left at all


def test_prefetch_asks_all_at_once(stub: DnsStub) -> None:
    resolver = resolver_at(stub, timeout=3.0)
    lookup = Lookup(resolver, soon())
    start = time.monotonic()
    assert lookup.prefetch(
        [("silent.example.com", "A"), ("silent.example.com", "MX"), ("example.com", "TXT")]
    )
    assert time.monotonic() - start < 6.0, "one after the other they take so long"
    stub.queries.clear()
    assert lookup.txt("example.com")
    assert not lookup.prefetch([("example.com", "TXT"), ("..", "A")])
    assert not stub.queries


def test_questions_of_a_message_are_counted(stub: DnsStub) -> None:
    lookup = Lookup(resolver_at(stub, max_queries_per_message=2), soon())
    assert lookup.a("example.com")
    assert lookup.a("example.com")  # cached answers are free
    assert lookup.aaaa("example.com")
    refused = lookup.mx("example.com")
    assert (refused.status, refused.reason) == ("temperror", "too many DNS queries for one message")
    assert lookup.a("example.com")


def test_threads_share_a_resolver(stub: DnsStub) -> None:
    resolver = resolver_at(stub, cache_size=4)
    wrong: list[Answer[Any]] = []

    def work() -> None:
        for number in range(60):
            name = ("example.com", "alias.example.com", f"n{number % 7}.example.net")[number % 3]
            answer = resolver.query(name, "A", soon())
            if answer.status != ("nxdomain" if name.startswith("n") else "ok"):
                wrong.append(answer)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_validated_answers_count_from_loopback_only(stub: DnsStub) -> None:
    stub.authentic = True
    try:
        assert resolver_at(stub).query("example.com", "A", soon()).secure
    finally:
        stub.authentic = False
    assert not resolver_at(stub).query("example.com", "A", soon()).secure
    assert not read_answer(("example.com", "A"), reply(0x81A0), trusted=False)[0].secure
    assert read_answer(("example.com", "A"), reply(0x81A0), trusted=True)[0].secure


def reply(
    flags: int = 0x8180, records: bytes = b"", count: int = 0, question: bytes = b"\7example\3com\0"
) -> bytes:
    return struct.pack("!HHHHHH", 7, flags, 1, count, 0, 0) + question + b"\0\1\0\1" + records


@pytest.mark.parametrize("change", ["id", "question", "query"])
def test_answers_of_others_are_ignored(change: str) -> None:
    """A datagram that does not fit the question is not an answer (RFC 5452)."""
    record = b"\xc0\x0c\0\1\0\1\0\0\1\0\0\4\xc0\0\2\1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(5)

        def serve() -> None:
            query, client = server.recvfrom(4096)
            good = bytearray(reply(records=record, count=1))
            good[:2] = query[:2]
            forged = bytearray(good)
            forged[-4:] = b"\x0a\0\0\1"
            if change == "id":
                forged[0] ^= 1
            elif change == "question":
                forged[13] ^= 1
            else:
                forged[2] &= 0x7F
            server.sendto(forged, client)
            server.sendto(good, client)

        thread = threading.Thread(target=serve)
        thread.start()
        port = server.getsockname()[1]
        resolver = Resolver(DnsSettings(nameservers=(f"127.0.0.1:{port}",), timeout=2.0, attempts=1))
        answer = resolver.query("example.com", "A", soon())
        thread.join()
    assert answer.values == ("192.0.2.1",)


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        reply()[:11],
        reply(0x8182),
        reply(0x8185),
        reply(count=600),
        reply(records=b"\xc0\x0c\0\1", count=1),
        reply(records=b"\0" * 20_000, count=1),
        # 10,000 empty strings in one TXT record
        reply(records=b"\xc0\x0c\0\x10\0\1\0\0\1\0" + struct.pack("!H", 10_000) + b"\0" * 10_000, count=1),
    ],
)
def test_refused_answers(wire: bytes) -> None:
    with pytest.raises((ValueError, dns.exception.DNSException)):
        read_answer(("example.com", "A"), wire, trusted=True)


RECORDS = b"".join(
    b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 300, len(data)) + data
    for kind, data in (
        (16, b"\5hello"),
        (5, b"\1a\xc0\x0c"),
        (15, b"\0\1\xc0\x0c"),
        (1, b"\xc0\0\2\1"),
        (28, b"\x20" * 16),
        (52, b"\3\1\1abc"),
        (12, b"\xc0\x0c"),
    )
)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=6),
    st.integers(0, 200),
    st.sampled_from(["A", "AAAA", "TXT", "MX", "PTR", "TLSA", "CNAME"]),
)
def test_hostile_answers_are_values_or_known_errors(
    changes: list[tuple[int, int]], length: int, kind: Kind
) -> None:
    wire = bytearray(reply(records=RECORDS, count=7))
    for position, octet in changes:
        wire[position % len(wire)] = octet
    if length < 60:
        wire = wire[: len(wire) - length]
    try:
        answer, ttl = read_answer(("example.com", kind), bytes(wire), trusted=True)
    except (ValueError, dns.exception.DNSException):
        return
    assert answer.status in ("ok", "nodata", "nxdomain")
    assert ttl >= 0


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1", ("127.0.0.1", 53)),
        ("127.0.0.1:5353", ("127.0.0.1", 5353)),
        ("[::1]:53", ("::1", 53)),
        ("[::1]", ("::1", 53)),
        ("2001:db8::1", ("2001:db8::1", 53)),
    ],
)
def test_server_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_server(text) == address


@pytest.mark.parametrize(
    "text", ["", "localhost", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "[::1]53", "[::1", "1.2.3.4:a"]
)
def test_bad_server_addresses(text: str) -> None:
    with pytest.raises(ValueError, match="name server"):
        DnsSettings(nameservers=(text,))


def test_a_part_of_the_questions_can_be_kept() -> None:
    with DnsStub({}) as stub:
        lookup = Lookup(resolver_at(stub, max_queries_per_message=9), soon())
        others = lookup.sparing(2)
        for number in range(20):
            others.txt(f"n{number}.example")
        assert (lookup.asked, others.asked) == (7, 7)
        assert others.txt("one-more.example").reason == "too many DNS queries for one message"
        assert [lookup.txt(f"m{number}.example").status for number in range(3)] == ["nxdomain"] * 2 + [
            "temperror"
        ]
        assert Lookup(resolver_at(stub, max_queries_per_message=9), soon()).sparing(60)._limit == 6


def test_names_of_addresses() -> None:
    assert reverse_name("::ffff:192.0.2.1") == "1.2.0.192.in-addr.arpa"
    assert reverse_name("2001:db8::1").endswith(".8.b.d.0.1.0.0.2.ip6.arpa")


PLAIN = [
    reply(records=record, count=1)
    for record in (
        b"\xc0\x0c\0\1\0\1\0\0\1\0\0\4\xc0\0\2\1",
        b"\xc0\x0c\0\x10\0\1\0\0\1\0\0\x08\3abc\0\2de",
        b"\xc0\x0c\0\x1c\0\1\0\0\1\0\0\x10" + b"\x20" * 16,
        b"\xc0\x0c\0\x10\0\3\0\0\1\0\0\2\1a",
        b"\7example\3com\0\0\1\0\1\0\0\1\0\0\4\xc0\0\2\1",
    )
] + [
    struct.pack("!HHHHHH", 7, flags, 1, 0, 1, 0)
    + b"\7example\3com\0\0\1\0\1\xc0\x14\0\6\0\1\0\0\2\0\0\x1e\1a\xc0\x14\1b\xc0\x14"
    + struct.pack("!IIIII", 1, 2, 3, 4, minimum)
    for flags in (0x8180, 0x8183)
    for minimum in (60, 90_000)
]


@settings(deadline=None)
@given(
    st.sampled_from(PLAIN),
    st.lists(st.tuples(st.integers(12, 90), st.integers(0, 255)), max_size=3),
    st.sampled_from(["A", "AAAA", "TXT"]),
)
def test_the_short_cut_reads_what_dnspython_reads(
    wire: bytes, changes: list[tuple[int, int]], kind: Kind
) -> None:
    damaged = bytearray(wire)
    for position, octet in changes:
        if position >= 29:  # behind the question, which has been compared before
            damaged[29 + position % (len(wire) - 29)] = octet
    question = ("example.com", kind)
    try:
        plain = resolver_module._read_plain(question, bytes(damaged))
    except (IndexError, struct.error):
        return
    if plain is None:
        return
    try:
        status, values, name, ttl = resolver_module._read_any(question, bytes(damaged))
    except dns.exception.DNSException:
        return  # dnspython also reads what does not concern us
    assert (plain[0], plain[1], name) == (status, values, "example.com")
    assert plain[2] == ttl or ttl > 1 << 30 or ttl == 0
