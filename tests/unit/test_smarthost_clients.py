# SPDX-License-Identifier: GPL-2.0-or-later
"""The smart-host door: who the client is, behind a proxy or with TLS at once, and how much it may do."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from contrib.lab.certificates import Authority
from gateway.ledger import Ledger, Presence
from gateway.mail.networks import network_of
from gateway.smarthost.limits import Crowd, Rates, RateSettings
from gateway.smarthost.proxy import ProxyError, version_1, version_2
from gateway.smarthost.settings import Listener, SmarthostSettings
from gateway.tls.inbound import server_context
from tests.hop import Hop, running
from tests.smarthost_lab import FAST, SENT, Bench, Raw, door

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator
    from pathlib import Path

V2 = b"\r\n\r\n\x00\r\nQUIT\n"


def header_2(client: str = "198.51.100.7", command: int = 0x21, extra: bytes = b"") -> bytes:
    """A header of version 2 for an IPv4 client."""
    body = bytes(int(n) for n in client.split(".")) + b"\xc0\x00\x02\x01" + struct.pack("!HH", 4711, 25)
    return V2 + bytes((command, 0x11)) + struct.pack("!H", len(body + extra)) + body + extra


# ---------------------------------------------------------------- PROXY headers as values


@pytest.mark.parametrize(
    ("line", "client"),
    [
        (b"PROXY TCP4 198.51.100.7 192.0.2.1 4711 25\r\n", "198.51.100.7"),
        (b"PROXY TCP6 2001:DB8::7 2001:db8::1 1 65535\r\n", "2001:db8::7"),
        (b"PROXY UNKNOWN\r\n", None),
        (b"PROXY UNKNOWN ffff:f::1 ffff:f::2 65535 65535\r\n", None),
    ],
)
def test_version_1(line: bytes, client: str | None) -> None:
    assert version_1(line) == client


@pytest.mark.parametrize(
    "line",
    [
        b"PROXY TCP4 198.51.100.7 192.0.2.1 4711 25\n",
        b"PROXY TCP4 198.51.100.7 192.0.2.1 4711 65536\r\n",
        b"PROXY TCP4 198.51.100.7 192.0.2.1 4711\r\n",
        b"PROXY TCP4 2001:db8::7 2001:db8::1 1 2\r\n",
        b"PROXY TCP6 198.51.100.7 192.0.2.1 1 2\r\n",
        b"PROXY TCP4 198.51.100.777 192.0.2.1 1 2\r\n",
        b"PROXY TCP4  198.51.100.7 192.0.2.1 1 2\r\n",
        b"PROXY UDP4 198.51.100.7 192.0.2.1 1 2\r\n",
        b"PROXY UNKNOWNX\r\n",
        b"PROXY UNKNOWN \r\r\n",
        b"proxy TCP4 198.51.100.7 192.0.2.1 1 2\r\n",
    ],
)
def test_lines_that_are_not_version_1(line: bytes) -> None:
    with pytest.raises(ProxyError):
        version_1(line)


def test_version_2() -> None:
    four = bytes((198, 51, 100, 7, 192, 0, 2, 1, 0, 1, 0, 2))
    six = bytes.fromhex("20010db8" + "00" * 11 + "07") + bytes(16) + bytes(4)
    assert version_2(0x21, 0x11, four + b"\x04\x00\x01x") == "198.51.100.7"
    assert version_2(0x21, 0x21, six) == "2001:db8::7"
    for command, family, data in (
        (0x20, 0, b""),
        (0x20, 0x11, four),
        (0x21, 0, b""),
        (0x21, 0x31, bytes(216)),
    ):
        assert version_2(command, family, data) is None, (command, family)
    for command, family, data in (
        (0x11, 0x11, four),
        (0x22, 0x11, four),
        (0x21, 0x12, four),
        (0x21, 0x41, four),
        (0x21, 0x11, four[:-1]),
        (0x21, 0x21, six[:-1]),
    ):
        with pytest.raises(ProxyError):
            version_2(command, family, data)


# ---------------------------------------------------------------- through the door


@contextlib.asynccontextmanager
async def opened(
    bench: Bench, *, tls: ssl.SSLContext | None = None, listener: Listener | None = None, **changes: object
) -> AsyncIterator[int]:
    settings = SmarthostSettings(relay=FAST, threads=2, **changes)  # type: ignore[arg-type]  # the tests' own
    named = listener or Listener("smarthost")
    async with running(Hop()) as hop, door(bench, hop, settings=settings, tls=tls, listener=named) as port:
        yield port


PROXIES: dict[str, Any] = {"proxy_networks": ("127.0.0.1/32",)}


@pytest.mark.parametrize(
    ("header", "client"),
    [
        (b"PROXY TCP4 198.51.100.7 192.0.2.1 4711 25\r\n", "198.51.100.7"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 1 2\r\n", "2001:db8::7"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
        (header_2(), "198.51.100.7"),
        (header_2(extra=b"\x04\x01\x00" + b"n" * 256), "198.51.100.7"),
        (header_2(command=0x20), "127.0.0.1"),
        (V2 + b"\x20\x00\x00\x00", "127.0.0.1"),
    ],
)
@pytest.mark.parametrize("pause", [False, True])
def test_behind_a_proxy_the_client_is_whom_it_names(header: bytes, client: str, pause: bool) -> None:
    bench = Bench()

    async def go() -> None:
        async with opened(bench, **PROXIES) as port, Raw.connected(port, greet=False) as raw:
            if pause:
                raw.send(header[:14])
                await asyncio.sleep(0.05)
                raw.send(header[14:])
            else:
                raw.send(header)
            assert (await raw.reply()).startswith("220")
            await raw.envelope()
            assert (await raw.message(SENT)).startswith("250")

    uvloop.run(go())
    assert bench.mails[0].session.client_ip == client


@pytest.mark.parametrize(
    "start",
    [
        b"EHLO client.example.net\r\n",
        b"PROXY TCP4 198.51.100.7\r\nEHLO c\r\n",
        b"PROXY " + b"x" * 200,
        V2 + b"\x21\x11\xff\xff" + b"x" * 5000,
        V2 + b"\x21\x11\x00\x04abcd",
        b"\r\n" * 20,
    ],
)
def test_a_proxy_without_a_header_is_not_served(start: bytes) -> None:
    async def go() -> str:
        async with opened(Bench(), **PROXIES) as port, Raw.connected(port, greet=False) as raw:
            raw.send(start)
            return await raw.rest()

    assert uvloop.run(go()) == ""


def test_a_proxy_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.smarthost.session._HEADER", 0.2)

    async def go() -> str:
        async with opened(Bench(), **PROXIES) as port, Raw.connected(port, greet=False) as raw:
            raw.send(V2[:6])
            return await raw.rest()

    assert uvloop.run(go()) == ""


@pytest.mark.parametrize("header", [b"PROXY TCP4 198.51.100.7 192.0.2.1 4711 25\r\n", header_2()])
def test_from_others_a_header_is_no_header(header: bytes) -> None:
    async def go() -> str:
        async with opened(Bench(), proxy_networks=("192.0.2.0/24",)) as port, Raw.connected(port) as raw:
            raw.send(header)
            return await raw.rest() if header.startswith(b"\r") else await raw.reply()

    assert uvloop.run(go()).startswith("500")


def test_tls_from_the_first_octet_also_behind_a_proxy(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("localhost")
    context = server_context(str(pair.certificate), str(pair.key))
    bench = Bench()
    listener = Listener("relay", implicit_tls=True)

    async def go() -> None:
        async with opened(bench, tls=context, listener=listener, **PROXIES) as port:
            async with Raw.connected(port, greet=False) as raw:
                raw.send(header_2())
                await raw.writer.drain()
                await raw.writer.start_tls(authority.client_context(), server_hostname="localhost")
                raw.reader._transport = raw.writer.transport  # type: ignore[attr-defined]  # Python 3.11 forgets it
                assert (await raw.reply()).startswith("220")
                assert "STARTTLS" not in await raw.ask("EHLO c")
                assert (await raw.ask("STARTTLS")).startswith("503")
                await raw.envelope()
                assert (await raw.message(SENT)).startswith("250")
            async with Raw.connected(port, greet=False) as raw:
                raw.send(header_2() + b"EHLO in.clear\r\n")
                assert not (await raw.rest()).startswith("2")

    uvloop.run(go())
    (mail,) = bench.mails
    assert (mail.session.client_ip, mail.session.listener) == ("198.51.100.7", "relay")
    assert mail.session.tls is not None


# ---------------------------------------------------------------- how much one may do


@pytest.mark.parametrize(
    ("ip", "network"),
    [
        ("192.0.2.77", "192.0.2.0/24"),
        ("::ffff:192.0.2.77", "192.0.2.0/24"),
        ("2001:db8:1:2::3", "2001:db8:1::/48"),
        ("2001:db8:1:2::/64", "2001:db8:1::/48"),
        ("", ""),
        ("x", ""),
    ],
)
def test_the_network_of_a_client(ip: str, network: str) -> None:
    assert network_of(ip) == network


def test_rates_by_client_and_network() -> None:
    rates = Rates(RateSettings(messages=60, network_factor=2), Ledger())
    taken = sum(rates.take("messages", "192.0.2.1", 0.0) for _ in range(100))
    assert taken == 60
    assert rates.take("messages", "192.0.2.1", 1.1), "one a second later"
    assert not rates.take("messages", "192.0.2.1", 1.1)
    taken = sum(rates.take("messages", f"192.0.2.{n}", 2.0) for n in range(2, 250))
    assert 55 <= taken <= 65, "the rest of the network's 120"
    assert rates.take("messages", "198.51.100.1", 2.0)
    assert all(rates.take("recipients", "192.0.2.1", 2.0) for _ in range(200))


def test_connections_of_clients_and_networks_are_counted_for_all_workers() -> None:
    presence = Presence(3)
    one, other = Crowd(presence, 1), Crowd(presence, 2)
    for n in range(100):
        one.enter(f"192.0.2.{n}")
    assert other.enter("192.0.2.1") == (2, 101)
    for n in range(100):
        one.leave(f"192.0.2.{n}")
    assert one.enter("192.0.2.1") == (2, 2)
    presence.clear(1)  # it has died
    assert other.enter("192.0.2.9") == (1, 2)
    other.leave("192.0.2.1")
    other.leave("192.0.2.9")
    assert not any(presence._counts)


def clients(*addresses: str) -> list[bytes]:
    return [f"PROXY TCP4 {one} 192.0.2.1 1 25\r\n".encode() for one in addresses]


async def greeting(port: int, header: bytes) -> str:
    async with Raw.connected(port, greet=False) as raw:
        raw.send(header)
        return await raw.reply()


def test_connections_that_come_too_fast_are_put_off() -> None:
    near, far = clients("198.51.100.7", "203.0.113.9")

    async def go() -> list[str]:
        rates = RateSettings(connections=3)
        async with opened(Bench(), rates=rates, **PROXIES) as port:
            return [await greeting(port, header) for header in (near, near, near, near, far)]

    answers = uvloop.run(go())
    assert [a[:3] for a in answers] == ["220", "220", "220", "421", "220"]
    assert "4.7.0" in answers[3]


def test_who_errs_too_often_is_not_let_in_for_a_while() -> None:
    near, far = clients("198.51.100.7", "203.0.113.9")

    async def go() -> list[str]:
        async with opened(Bench(), rates=RateSettings(errors=3), **PROXIES) as port:
            async with Raw.connected(port, greet=False) as raw:
                raw.send(near)
                await raw.reply()
                await raw.dialogue("X", "X", "X", "X")
            return [await greeting(port, header) for header in (near, far)]

    assert [a[:3] for a in uvloop.run(go())] == ["421", "220"]


def test_messages_and_recipients_have_a_rate() -> None:
    (near,) = clients("198.51.100.7")

    async def go(**rates: int) -> list[str]:
        opening = opened(Bench(), rates=RateSettings(**rates), **PROXIES)
        async with opening as port, Raw.connected(port, greet=False) as raw:
            raw.send(near)
            await raw.reply()
            await raw.envelope()
            replies = [await raw.message(SENT)]
            words = ("MAIL FROM:<a@b>", "RCPT TO:<u@example.com>", "RCPT TO:<v@example.com>")
            return [one[:9] for one in (*replies, *await raw.dialogue(*words))]

    assert uvloop.run(go(messages=1))[:2] == ["250 2.0.0", "451 4.7.1"]
    assert uvloop.run(go(recipients=2))[1:] == ["250 2.1.0", "250 2.0.0", "451 4.7.1"]


def test_a_network_has_a_limit_of_connections() -> None:
    async def go() -> list[str]:
        async with contextlib.AsyncExitStack() as stack:
            opening = opened(Bench(), network_connection_limit=2, **PROXIES)
            port = await stack.enter_async_context(opening)
            answers = []
            for header in clients("198.51.100.1", "198.51.100.2", "198.51.100.3", "203.0.113.1"):
                raw = await stack.enter_async_context(Raw.connected(port, greet=False))
                raw.send(header)
                answers.append(await raw.reply())
            return answers

    assert [a[:3] for a in uvloop.run(go())] == ["220", "220", "421", "220"]


# ---------------------------------------------------------------- slow ones, in every phase


async def nothing(_raw: Raw) -> None: ...


async def half_a_command(raw: Raw) -> None:
    assert (await raw.reply()).startswith("220")
    raw.send(b"EH")


async def half_a_message(raw: Raw) -> None:
    assert (await raw.reply()).startswith("220")
    await raw.envelope()
    assert (await raw.ask("DATA")).startswith("354")
    raw.send(b"S")


async def half_a_chunk(raw: Raw) -> None:
    assert (await raw.reply()).startswith("220")
    await raw.envelope()
    raw.send(b"BDAT 100000 LAST\r\nS")


async def half_a_handshake(raw: Raw) -> None:
    assert (await raw.reply()).startswith("220")
    await raw.ask("EHLO c")
    assert (await raw.ask("STARTTLS")).startswith("220")
    raw.send(b"\x16\x03\x01")


@pytest.mark.parametrize(
    ("phase", "settings"),
    [
        (nothing, {"proxy_networks": ("127.0.2.0/24",)}),
        (half_a_command, {}),
        (half_a_message, {}),
        (half_a_chunk, {}),
        (half_a_handshake, {}),
    ],
)
def test_slow_clients_make_room_in_every_phase(
    phase: Any, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.smarthost.worker.IDLE", 0.2)
    monkeypatch.setattr("gateway.smarthost.receive._PAUSE", 0.2)
    pair = Authority(tmp_path).issue("localhost")
    context = server_context(str(pair.certificate), str(pair.key))

    async def go() -> None:
        async with contextlib.AsyncExitStack() as stack:
            opening = opened(Bench(), tls=context, connection_limit=8, **settings)
            port = await stack.enter_async_context(opening)
            for n in range(8):
                raw = await stack.enter_async_context(
                    Raw.connected(port, greet=False, source=f"127.0.2.{n + 1}")
                )
                await phase(raw)
            await asyncio.sleep(0.6)
            raw = await stack.enter_async_context(Raw.connected(port))
            await raw.envelope()
            assert (await raw.message(SENT)).startswith("250")

    uvloop.run(go())


def test_slow_handshakes_make_room_and_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.smarthost.worker.IDLE", 0.2)
    authority = Authority(tmp_path)
    pair = authority.issue("localhost")
    context = server_context(str(pair.certificate), str(pair.key))
    listener = Listener("relay", implicit_tls=True)

    async def served(port: int) -> None:
        async with Raw.connected(port, greet=False) as raw:
            await raw.writer.start_tls(authority.client_context(), server_hostname="localhost")
            raw.reader._transport = raw.writer.transport  # type: ignore[attr-defined]  # Python 3.11 forgets it
            assert (await raw.reply()).startswith("220")
            await raw.envelope()
            assert (await raw.message(SENT)).startswith("250")

    async def go() -> None:
        async with contextlib.AsyncExitStack() as stack:
            opening = opened(Bench(), tls=context, listener=listener, connection_limit=8)
            port = await stack.enter_async_context(opening)
            for n in range(8):
                raw = await stack.enter_async_context(
                    Raw.connected(port, greet=False, source=f"127.0.2.{n + 1}")
                )
                raw.send((b"", b"\x16", b"\x16\x03\x01", b"EHLO c\r\n")[n % 4])
            await asyncio.sleep(0.6)
            for _ in range(12):
                await served(port)

    uvloop.run(go())
