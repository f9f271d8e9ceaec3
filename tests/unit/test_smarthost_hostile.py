# SPDX-License-Identifier: GPL-2.0-or-later
"""The smart-host door against clients that send what they should not, or too much, or too slowly."""

from __future__ import annotations

import asyncio

import pytest

from gateway.smarthost.settings import SmarthostSettings
from tests.hop import Hop, running
from tests.smarthost_lab import FAST, SENT, Bench, Raw, door, play
from tests.unit.test_smarthost_parts import SMUGGLED_ENDS


@pytest.mark.parametrize("end", SMUGGLED_ENDS)
def test_smuggling(end: bytes) -> None:
    evil = (
        b"MAIL FROM:<evil@example.com>\r\nRCPT TO:<u@example.com>\r\nDATA\r\nSubject: evil\r\n\r\nx\r\n.\r\n"
    )

    async def scene(client: Raw, _hop: Hop, bench: Bench) -> None:
        await client.envelope()
        await client.ask("DATA")
        client.send(b"Subject: x\r\n\r\nbody" + end + evil + b"QUIT\r\n")
        replies = await client.rest()
        assert [line[:3] for line in replies.splitlines()] == ["521"], replies
        assert not bench.mails

    hop, _ = play(scene)
    assert not hop.taken


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /x HTTP/1.0\r\n\r\nMAIL FROM:<a@b>\r\n",
        b"EHLO c\nMAIL FROM:<a@b>\n",
        b"EHLO c\rMAIL FROM:<a@b>\r\n",
        b"EHLO c\r\r\n",
        b"x" * 200_000 + b"\r\n",
        b"EHLO c\r\nMAIL FROM:<a@b>\r\n",
    ],
)
def test_sessions_that_end_at_once(data: bytes) -> None:
    async def scene(client: Raw, _hop: Hop, _bench: Bench) -> None:
        client.send(data)
        replies = (await client.rest()).splitlines()
        assert len(replies) <= 1
        assert all(r.startswith(("500 5.5.2", "502 5.7.0", "554 5.5.0")) for r in replies)

    hop, _ = play(scene)
    assert not hop.commands


def test_early_talkers_are_sent_away() -> None:
    async def go() -> None:
        async with door(Bench(), None) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"EHLO c\r\nMAIL FROM:<a@b>\r\n")
            assert (await reader.read()).endswith(b"554 5.5.0 Commands sent before their time\r\n")
            writer.close()

    asyncio.run(go())


def test_a_message_sent_before_354_is_no_message() -> None:
    async def scene(client: Raw, _hop: Hop, bench: Bench) -> None:
        await client.envelope()
        client.send(b"DATA\r\n" + SENT)
        assert (await client.rest()).startswith("554 5.5.0")
        assert not bench.mails

    play(scene)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("", "500"),
        ("WHATISTHIS", "500"),
        ("HELO", "501"),
        ("EHLO a b", "501"),
        ("MAIL FROM:<a@b>", "503"),
        ("DATA", "503"),
        ("AUTH PLAIN AGEAYg==", "502"),
        ("BDAT 0 LAST", "503"),
        ("STARTTLS", "454"),
        ("RSET x", "501"),
        ("NOOP \x07", "500"),
        ("NOOP " + "x" * 3000, "500"),
        ("VRFY root", "252"),
        ("EXPN root", "502"),
        ("HELP", "214"),
        ("XCLIENT ADDR=192.0.2.1", "550"),
        ("XFORWARD ADDR=192.0.2.1", "550"),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 1 25", "500"),
    ],
)
def test_commands_out_of_place(command: str, code: str) -> None:
    async def scene(client: Raw, _hop: Hop, _bench: Bench) -> None:
        assert (await client.ask(command)).startswith(code)
        assert (await client.ask("EHLO c")).startswith("250")

    play(scene)


def test_order_of_commands() -> None:
    async def scene(client: Raw, _hop: Hop, _bench: Bench) -> None:
        await client.ask("EHLO c")
        codes = [
            (await client.ask(c))[:3]
            for c in (
                "RCPT TO:<u@example.com>",
                "DATA",
                "MAIL FROM:<a@b>",
                "MAIL FROM:<c@d>",
                "DATA x",
                "RSET",
                "RCPT TO:<u@example.com>",
                "MAIL FROM:<a@b> SIZE=99999999",
                "MAIL FROM:<ü@b>",
                "MAIL FROM:<ü@b> SMTPUTF8",
                "RCPT TO:<ü@example.com>",
                "EHLO again",
                "RCPT TO:<u@example.com>",
            )
        ]
        assert " ".join(codes) == "503 503 250 503 501 250 503 552 553 250 250 250 503"

    play(scene)


def test_smtputf8_needs_a_hop_that_speaks_it() -> None:
    async def scene(client: Raw, _hop: Hop, _bench: Bench) -> None:
        await client.ask("EHLO c")
        await client.ask("MAIL FROM:<a@b> SMTPUTF8")
        assert (await client.ask("RCPT TO:<ü@example.com>")).startswith("550 5.6.7")

    play(scene, Hop(offered=("8BITMIME",)))


# ---------------------------------------------------------------- limits


def test_errors_and_junk_have_an_end() -> None:
    async def errors(client: Raw, _hop: Hop, _bench: Bench) -> None:
        client.send(b"EHLO c\r\n")
        await client.reply()
        client.send(b"FOO\r\n" * 100)
        replies = (await client.rest()).splitlines()
        assert [r[:3] for r in replies] == ["500"] * 20 + ["421"]

    async def junk(client: Raw, _hop: Hop, _bench: Bench) -> None:
        client.send(b"NOOP\r\n" * 1000)
        replies = (await client.rest()).splitlines()
        assert [r[:3] for r in replies] == ["250"] * 100 + ["421"]

    async def harvest(client: Raw, _hop: Hop, _bench: Bench) -> None:
        await client.ask("EHLO c")
        await client.ask("MAIL FROM:<a@b>")
        client.send(b"".join(b"RCPT TO:<u%d@example.com>\r\n" % n for n in range(100)))
        replies = (await client.rest()).splitlines()
        assert [r[:3] for r in replies] == ["550"] * 20 + ["421"]

    async def tries(client: Raw, _hop: Hop, _bench: Bench) -> None:
        await client.ask("EHLO c")
        await client.ask("MAIL FROM:<a@b>")
        client.send(b"".join(b"RCPT TO:<u%d@example.com>\r\n" % n for n in range(100)))
        replies = (await client.rest()).splitlines()
        assert [r[:3] for r in replies] == ["450"] * 20 + ["421"]

    play(tries, Hop(answers={b"RCPT": b"450 4.2.0 later\r\n"}), recipient_limit=10)
    play(errors)
    play(junk)
    play(harvest, Hop(answers={b"RCPT": b"550 5.1.1 unknown\r\n"}))


def test_limits_on_recipients_and_size() -> None:
    async def scene(client: Raw, _hop: Hop, bench: Bench) -> None:
        await client.envelope("u@example.com", "v@example.com")
        assert (await client.ask("RCPT TO:<w@example.com>")).startswith("452 4.5.3")
        assert (await client.message(b"x" * 998 + b"\r\n" + b"y\r\n" * 1000 + b".\r\n")).startswith(
            "552 5.3.4"
        )
        await client.envelope()
        assert (await client.message(SENT)).startswith("250")
        assert len(bench.mails) == 1

    play(scene, recipient_limit=2, size_limit=1000)


def test_memory_is_bounded() -> None:
    async def scene(client: Raw, _hop: Hop, bench: Bench) -> None:
        await client.envelope()
        assert (await client.message(b"x" * 600_000 + b"\r\n.\r\n")).startswith("452 4.3.1")
        await client.envelope()
        assert (await client.message(SENT)).startswith("250")
        assert len(bench.mails) == 1

    play(scene, memory_limit=300_000)


def test_a_trickle_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.smarthost.receive._RATE_GRACE", 0.1)

    async def scene(client: Raw, _hop: Hop, _bench: Bench) -> None:
        await client.envelope()
        await client.ask("DATA")
        for _ in range(3):
            client.send(b"x")
            await asyncio.sleep(0.1)
        assert (await client.rest()).startswith("421 4.4.2 Message comes too slowly")

    hop, bench = play(scene, data_rate=1000)
    assert not hop.taken
    assert not bench.mails


def test_timeouts() -> None:
    async def slow_command(client: Raw, _hop: Hop, _bench: Bench) -> None:
        for _ in range(4):
            client.send(b"N")
            await asyncio.sleep(0.05)
        assert await client.rest() == "421 4.4.2 Timeout, closing\r\n"

    async def slow_data(client: Raw, _hop: Hop, _bench: Bench) -> None:
        await client.envelope()
        await client.ask("DATA")
        client.send(b"Subject: x\r\n")
        assert await client.rest() == "421 4.4.2 Timeout, closing\r\n"

    play(slow_command, command_timeout=0.3)
    hop, bench = play(slow_data, data_timeout=0.3)
    assert not hop.taken
    assert not bench.mails


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ({"client_connection_limit": 2}, "421 4.7.0 Too many connections from your address"),
        ({"connection_limit": 2}, "421 4.3.2 Too many connections"),
    ],
)
def test_connections_of_one_client_and_in_all(limits: dict[str, int], text: str) -> None:
    async def go() -> None:
        settings = SmarthostSettings(relay=FAST, **limits)  # type: ignore[arg-type]  # counts
        async with door(Bench(), None, settings=settings) as port:
            async with Raw.connected(port) as first, Raw.connected(port) as second:
                async with Raw.connected(port, greet=False) as third:
                    assert text in await third.rest()
                await asyncio.sleep(1.1)
                assert (await second.ask("NOOP")).startswith("250")
                async with Raw.connected(port) as fourth:  # the idle one makes room
                    assert (await fourth.ask("EHLO c")).startswith("250")
                    assert (await first.rest()).startswith("421 4.4.2 Idle")
                    assert (await second.ask("NOOP")).startswith("250")
            await served(port)

    asyncio.run(go())


async def served(port: int) -> None:
    """Come again until there is a place, which who has just left may have for a moment still."""
    while True:
        async with Raw.connected(port, greet=False) as client:
            if (await client.reply()).startswith("220"):
                return
        await asyncio.sleep(0.05)


def test_a_slow_crowd_does_not_keep_a_quick_client_out() -> None:
    hop = Hop()

    async def go() -> None:
        settings = SmarthostSettings(relay=FAST, connection_limit=200)
        async with (
            running(hop),
            door(Bench(), hop, relay_networks=("127.0.0.0/8",), settings=settings) as port,
        ):
            crowd = [await asyncio.open_connection("127.0.0.1", port) for _ in range(200)]
            for number, (_, writer) in enumerate(crowd):
                writer.write((b"", b"E", b"EHLO c\r\n", b"EHLO c\r\nMAIL FR")[number % 3])
            await asyncio.sleep(1.2)
            async with Raw.connected(port) as client:
                await client.envelope()
                assert (await client.message(SENT)).startswith("250")
            for _, writer in crowd:
                writer.close()

    asyncio.run(go())
    assert len(hop.taken) == 1
