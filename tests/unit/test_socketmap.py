# SPDX-License-Identifier: GPL-2.0-or-later
"""The socketmap: its dialogue at all read sizes, its answers, and clients that do not behave."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contrib.lab.dns import DnsStub
from gateway.dns import DnsSettings, Resolver
from gateway.log import LogSettings, open_log
from gateway.socketmap import Answerer, serve
from gateway.store.database import StoreError
from gateway.tls.demands import Demands
from gateway.tls.mta_sts import Policy
from gateway.tls.outbound import OutboundTlsRule
from gateway.tls.policies import NOTHING, Found
from gateway.tls.settings import TlsSettings
from gateway.tls.socketmap import NextHop, QuestionError, Questions, netstring, next_hop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

GOOD = f"3 1 1 {'ab' * 32}"
ENFORCED = Found(Policy("enforce", 1_000, ("mx.example.com", "*.example.net")))


def questions(data: bytes, size: int) -> list[bytes]:
    reader, found = Questions(), []
    for start in range(0, len(data), size):
        reader.feed(data[start : start + size])
        while (one := reader.next()) is not None:
            found.append(one)
    return found


@pytest.mark.parametrize("size", [1, 2, 7, 1_000])
def test_questions_at_all_read_sizes(size: int) -> None:
    data = netstring("tls a.example") + netstring("") + netstring("tls b.example")
    assert questions(data, size) == [b"tls a.example", b"", b"tls b.example"]


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        b"5,",
        b":",
        b"-1:",
        b"05:hello,",
        b"5:hello;",
        b"1001:",
        b"9999999999",
        b"1 :a,",
        b"\x00",
        b"GET / HTTP/1.1",
    ],
)
def test_what_is_no_netstring(data: bytes) -> None:
    for size in (1, 1_000):
        with pytest.raises(QuestionError):
            questions(data, size)


@given(st.binary(max_size=200), st.integers(1, 20))
def test_no_bytes_are_a_surprise(data: bytes, size: int) -> None:
    with contextlib.suppress(QuestionError):
        for one in questions(data, size):
            next_hop(one)


@pytest.mark.parametrize(
    ("text", "hop"),
    [
        ("tls example.com", NextHop("example.com", False, 25)),
        ("tls example.com.", NextHop("example.com", False, 25)),
        ("tls example.com:submission", NextHop("example.com", False, 587)),
        ("tls [mx.example.com]:2525", NextHop("mx.example.com", True, 2525)),
        ("tls [192.0.2.1]", None),
        ("tls [2001:db8::1]:25", None),
        ("tls [ipv6:2001:db8::1]", None),
        ("tls 192.0.2.1", None),
        ("tls .example.com", None),
        ("tls ", None),
        ("tls", None),
        ("tls a b", None),
        ("tls [a", None),
    ],
)
def test_next_hops(text: str, hop: NextHop | None) -> None:
    assert next_hop(text.encode()) == hop


@dataclass
class Sts:
    """Policies that are known already."""

    found: Found = NOTHING
    fails: bool = False

    def find(self, _domain: str) -> Found:
        if self.fails:
            raise StoreError("no space")
        return self.found


ZONE: dict[str, Any] = {
    "example.com": {"MX": ["10 mx.example.com", "20 mx2.example.com"]},
    "mx.example.com": {"A": ["192.0.2.1"]},
    "mx2.example.com": {"A": ["192.0.2.2"]},
    "null.example.com": {"MX": ["0 ."]},
    "broken.example.com": "SERVFAIL",
}
BOTH = {f"_25._tcp.{mx}.example.com": {"TLSA": [GOOD]} for mx in ("mx", "mx2")}
ONE = {"_25._tcp.mx.example.com": {"TLSA": [GOOD]}}
LOST = {"_25._tcp.mx.example.com": {"TLSA": ["SERVFAIL"]}}
UNUSABLE = {f"_25._tcp.{mx}.example.com": {"TLSA": ["1" + GOOD[1:]]} for mx in ("mx", "mx2")}
SECURE = "OK secure match=mx.example.com:.example.net servername=hostname"


def answer(
    question: str,
    zone: dict[str, Any] | None = None,
    sts: Sts | None = None,
    *rules: OutboundTlsRule,
    insecure: str = "",
) -> str:
    with DnsStub(ZONE | (zone or {})) as stub:
        stub.authentic = True
        stub.insecure.update(filter(None, [insecure]))
        resolver = Resolver(DnsSettings(nameservers=(stub.nameserver,), timeout=5.0, attempts=1))
        demands = Demands(TlsSettings(outbound=rules), resolver, sts or Sts())  # type: ignore[arg-type]  # finds as it does
        answerer = Answerer(demands, open_log(LogSettings(level="error")))
        try:
            return asyncio.run(answerer.answer(question.encode()))
        finally:
            answerer._pool.shutdown()


@pytest.mark.parametrize(
    ("zone", "sts", "insecure", "said"),
    [
        ({}, Sts(), "", "NOTFOUND "),
        (BOTH, Sts(), "", "OK dane-only"),
        (ONE, Sts(), "", "OK dane"),
        (LOST, Sts(), "", "OK dane"),
        (UNUSABLE, Sts(), "", "OK dane"),
        (BOTH, Sts(), "example.com", "NOTFOUND "),
        ({}, Sts(ENFORCED), "", SECURE),
        (BOTH, Sts(ENFORCED), "", "OK dane-only"),  # DANE goes first
        (ONE, Sts(ENFORCED), "", "OK dane-only"),
        (LOST, Sts(ENFORCED), "", "OK dane-only"),  # Postfix will look again, and defer
        (UNUSABLE, Sts(ENFORCED), "", SECURE),
        (BOTH, Sts(ENFORCED), "example.com", SECURE),
        ({}, Sts(Found(Policy("testing", 9, ("x.example",)))), "", "NOTFOUND "),
        (ONE, Sts(Found(Policy("testing", 9, ("x.example",)))), "", "OK dane"),
        ({}, Sts(Found(failure="sts-policy-fetch-error")), "", "NOTFOUND "),
        ({}, Sts(fails=True), "", "TEMP the TLS policy cannot be found out now"),
    ],
)
def test_answers(zone: dict[str, Any], sts: Sts, insecure: str, said: str) -> None:
    assert answer("tls example.com", zone, sts, insecure=insecure) == said


def test_answers_about_the_dns() -> None:
    assert answer("tls broken.example.com") == "TEMP the MX records cannot be looked up"
    assert answer("tls null.example.com") == "NOTFOUND "
    assert answer("tls nowhere.example.net") == "NOTFOUND "
    assert answer("tls [mx.example.com]", ONE) == "OK dane"
    assert answer("tls [mx.example.com]:26", ONE) == "NOTFOUND "


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"level": "encrypt"}, "OK encrypt"),
        ({"level": "dane-only"}, "OK dane-only"),
        ({"level": "verify"}, "OK verify match=hostname protocols=>=TLSv1.2"),
        (
            {"match": "a.example", "ca_file": "/ca"},
            "OK secure match=a.example tafile=/ca protocols=>=TLSv1.2",
        ),
        ({"level": "dane"}, SECURE),
    ],
)
def test_the_table_goes_first(row: dict[str, Any], said: str) -> None:
    rule = OutboundTlsRule(domains=("example.com",), **row)
    assert answer("tls example.com", {}, Sts(ENFORCED), rule) == said


@contextlib.asynccontextmanager
async def running(answerer: Answerer) -> AsyncIterator[tuple[str, int]]:
    listening = socket.create_server(("127.0.0.1", 0))
    stop = asyncio.Event()
    task = asyncio.create_task(serve(listening, answerer, stop))
    await asyncio.sleep(0)
    try:
        yield listening.getsockname()
    finally:
        stop.set()
        await task


def test_clients_that_do_not_behave() -> None:
    async def go() -> None:
        resolver = Resolver(DnsSettings(nameservers=("127.0.0.1:9",), timeout=0.1, attempts=1))
        answerer = Answerer(Demands(TlsSettings(), resolver), open_log(LogSettings(level="error")))
        async with running(answerer) as where:
            for bad in (b"GET / HTTP/1.1\r\n\r\n", b"99999:", b"\xff" * 5_000):
                reader, writer = await asyncio.open_connection(*where)
                writer.write(bad)
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""  # closed, without an answer
                writer.close()
            _idle = await asyncio.open_connection(*where)
            reader, writer = await asyncio.open_connection(*where)
            writer.write(netstring("tls [192.0.2.1]") + netstring("tls example.com"))
            said = netstring("NOTFOUND ") + netstring("TEMP the MX records cannot be looked up")
            assert await reader.readexactly(len(said)) == said
            writer.close()
            _idle[1].close()

    asyncio.run(asyncio.wait_for(go(), 20))
