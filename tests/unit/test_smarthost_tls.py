# SPDX-License-Identifier: GPL-2.0-or-later
"""The smart-host door: STARTTLS, XCLIENT and XFORWARD, outbound TLS policy, and stopping."""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING

import pytest
import uvloop
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from contrib.lab.certificates import Authority
from gateway.tls.inbound import server_context
from gateway.tls.outbound import OutboundTlsRule
from tests.hop import OFFERED, Hop, running
from tests.smarthost_lab import SENT, Bench, Raw, door, play, secure

if TYPE_CHECKING:
    import ssl
    from pathlib import Path


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    pair = Authority(tmp_path_factory.mktemp("tls")).issue("localhost")
    return server_context(str(pair.certificate), str(pair.key))


def test_starttls_and_its_facts(context: ssl.SSLContext) -> None:
    async def scene(client: Raw, _hop: Hop, bench: Bench) -> None:
        assert "250-STARTTLS\r\n" in await client.ask("EHLO before")
        assert (await client.ask("STARTTLS x")).startswith("501")
        await client.ask("MAIL FROM:<a@b>")
        assert (await client.ask("STARTTLS")).startswith("220")
        await secure(client)
        assert (await client.ask("MAIL FROM:<a@b>")).startswith("503")
        assert "STARTTLS" not in await client.ask("EHLO after")
        assert (await client.ask("RCPT TO:<u@example.com>")).startswith("503")
        assert (await client.ask("STARTTLS")).startswith("503")
        await client.envelope()
        assert (await client.message(SENT)).startswith("250")
        session = bench.mails[0].session
        assert session.helo == "c.example.net"
        assert session.tls
        assert (session.tls.version, session.tls.bits >= 128, session.tls.client_verified) == (
            "TLSv1.3",
            True,
            False,
        )

    hop, _ = play(scene, tls=context)
    assert b"(using TLSv1.3 with cipher TLS_" in hop.taken[0].message
    assert b"with ESMTPS id" in hop.taken[0].message


@pytest.mark.parametrize(
    "injected",
    [
        b"NOOP\r\n",
        b"EHLO evil\r\nMAIL FROM:<evil@example.com>\r\nRCPT TO:<u@example.com>\r\nDATA\r\n",
        b"EHLO",
        b"\r\n",
    ],
)
def test_commands_injected_behind_starttls_are_not_obeyed(injected: bytes, context: ssl.SSLContext) -> None:
    async def scene(client: Raw, _hop: Hop, _bench: Bench) -> None:
        await client.ask("EHLO c")
        client.send(b"STARTTLS\r\n" + injected)
        assert (await client.reply()).startswith("220")
        await secure(client)
        assert (await client.ask("MAIL FROM:<a@b>")).startswith("503")
        assert (await client.ask("NOOP")).startswith("250")
        assert (await client.ask("EHLO again")).startswith("250-gw")

    hop, _ = play(scene, tls=context)
    assert not hop.commands


def test_old_tls_is_refused(context: ssl.SSLContext) -> None:
    async def scene(client: Raw, _hop: Hop, _bench: Bench) -> None:
        await client.ask("EHLO c")
        await client.ask("STARTTLS")
        client.send(b"\x16\x03\x01\x00\x05hello" + b"MAIL FROM:<a@b>\r\n")
        assert "250" not in (await client.rest())

    play(scene, tls=context)


def test_a_client_certificate_is_known(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server, known = authority.issue("localhost"), authority.issue("client.example.net", client=True)
    asking = server_context(
        str(server.certificate), str(server.key), client_ca_file=str(authority.certificate)
    )

    async def scene(client: Raw, _hop: Hop, bench: Bench) -> None:
        await client.ask("EHLO c")
        await client.ask("STARTTLS")
        await client.writer.start_tls(authority.client_context(known), server_hostname="localhost")
        client.reader._transport = client.writer.transport  # type: ignore[attr-defined]  # Python 3.11 forgets it
        await client.envelope()
        assert (await client.message(SENT)).startswith("250")
        tls = bench.mails[0].session.tls
        assert tls
        assert (tls.client_verified, tls.client_subject, len(tls.client_fingerprint)) == (
            True,
            "client.example.net",
            64,
        )

    play(scene, tls=asking)


def test_outbound_policy_belongs_to_the_transaction(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    context = authority.server_context(authority.issue("localhost"))
    ca = str(authority.certificate)
    rules = (
        OutboundTlsRule(domains=("example.com",), level="verify", match="localhost", ca_file=ca),
        OutboundTlsRule(domains=("example.org",), level="verify", match="other.example.net", ca_file=ca),
    )

    async def scene(client: Raw, _hop: Hop, _bench: Bench) -> None:
        await client.envelope("u@example.com")
        assert (await client.ask("RCPT TO:<u@example.org>")).startswith("452 4.5.3")
        assert (await client.message(SENT)).startswith("250")
        await client.ask("MAIL FROM:<a@b>")
        assert (await client.ask("RCPT TO:<u@example.org>")).startswith("451 4.7.5")

    hop, _ = play(scene, Hop(context=context), tls_rules=rules)
    assert [bool(t.tls) for t in hop.taken] == [True]


@pytest.mark.parametrize("level", ["encrypt", "verify"])
def test_what_must_be_encrypted_is_never_sent_in_clear(level: str) -> None:
    rules = (OutboundTlsRule(level=level),)  # type: ignore[arg-type]  # from the table

    async def scene(client: Raw, _hop: Hop, _bench: Bench) -> None:
        await client.ask("EHLO c")
        await client.ask("MAIL FROM:<a@b>")
        assert (await client.ask("RCPT TO:<u@example.com>")).startswith("451 4.7.4")

    hop, _ = play(scene, Hop(offered=OFFERED), tls_rules=rules)
    assert not any(c.startswith((b"MAIL", b"RCPT")) for c in hop.commands)


# ---------------------------------------------------------------- XCLIENT, XFORWARD


def test_listed_peers_speak_for_others() -> None:
    async def scene(client: Raw, _hop: Hop, bench: Bench) -> None:
        greeting = await client.ask("EHLO proxy")
        assert "XCLIENT NAME ADDR" in greeting
        assert "XFORWARD NAME ADDR" in greeting
        assert (
            await client.ask("XFORWARD NAME=mx.example.net ADDR=198.51.100.9 HELO=h.example.net")
        ).startswith("250")
        assert (await client.ask("MAIL FROM:<a@b>")).startswith("250")
        assert (await client.ask("XFORWARD NAME=x")).startswith("503")
        assert (await client.ask("XCLIENT NAME=x")).startswith("503")
        assert (await client.ask("RCPT TO:<u@example.net>")).startswith(
            "250"
        )  # the peer's right, not the client's
        assert (await client.message(SENT)).startswith("250")
        await client.ask("MAIL FROM:<a@b>")
        await client.ask("RCPT TO:<u@example.com>")
        assert (await client.message(SENT)).startswith("250")
        assert (await client.ask("XCLIENT ADDR=IPV6:2001:db8::9 NAME=[UNAVAILABLE] LOGIN=carol")).startswith(
            "220"
        )
        assert (await client.ask("MAIL FROM:<a@b>")).startswith("503")
        await client.envelope("u@example.net")
        assert (await client.message(SENT)).startswith("250")
        await client.ask("XCLIENT LOGIN=[UNAVAILABLE]")
        await client.ask("EHLO c")
        await client.ask("MAIL FROM:<a@b>")
        assert (await client.ask("RCPT TO:<u@example.net>")).startswith("554 5.7.1")
        sessions = [m.session for m in bench.mails]
        assert [(s.client_ip, s.client_name, s.helo, s.login) for s in sessions] == [
            ("198.51.100.9", "mx.example.net", "h.example.net", ""),
            ("127.0.0.1", "", "proxy", ""),
            ("2001:db8::9", "", "c.example.net", "carol"),
        ]

    nets = ("127.0.0.0/8",)
    play(scene, xclient_networks=nets, xforward_networks=nets, relay_networks=nets)


# ---------------------------------------------------------------- stopping


def test_stop_finishes_what_is_on_its_way_and_dismisses_the_idle() -> None:
    bench = Bench(judging=lambda _mail: time.sleep(0.4))

    async def go() -> None:
        async with running(Hop()) as hop:
            opened = door(bench, hop)
            port = await opened.__aenter__()
            async with Raw.connected(port) as idle, Raw.connected(port) as busy:
                await idle.ask("EHLO c")
                await busy.envelope()
                await busy.ask("DATA")
                busy.send(SENT)
                while not bench.mails:  # noqa: ASYNC110  # a thread appends to it
                    await asyncio.sleep(0.01)
                closing = asyncio.create_task(opened.__aexit__(None, None, None))
                assert await idle.rest() == "421 4.3.2 Service is closing, try again later\r\n"
                replies = (await busy.rest()).splitlines()
                assert [r[:3] for r in replies] == ["250", "421"]
                await closing
            assert len(hop.taken) == 1
            with pytest.raises(OSError, match=r"Connect call failed|refused"):
                await asyncio.open_connection("127.0.0.1", port)

    uvloop.run(go())


def test_a_client_that_goes_away_leaves_nothing_behind() -> None:
    async def scene(client: Raw, _hop: Hop, _bench: Bench) -> None:
        await client.envelope()
        await client.ask("DATA")
        client.send(b"Subject: x\r\n\r\nhalf a mess")
        await client.writer.drain()
        client.writer.transport.abort()
        await asyncio.sleep(0.1)

    hop, bench = play(scene)
    assert not hop.taken
    assert not bench.mails
    assert b"DATA" not in hop.commands


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    pair = Authority(tmp_path).issue("gw.example.com")
    good, missing = str(pair.certificate), str(tmp_path / "missing.pem")
    for certificate, key, ca in ((missing, "", ""), (good, missing, ""), (good, str(pair.key), missing)):
        with pytest.raises(FileNotFoundError, match=r"missing\.pem"):
            server_context(certificate, key, client_ca_file=ca)


def test_what_is_wrong_with_a_certificate_or_key_is_said(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    one, two = authority.issue("one.example.com"), authority.issue("two.example.com")
    junk, locked = tmp_path / "junk.pem", tmp_path / "locked.pem"
    junk.write_text("junk\n")
    sealed = BestAvailableEncryption(b"secret")
    key = load_pem_private_key(one.key.read_bytes(), None)
    locked.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, sealed))
    good = one.certificate
    for certificate, private, said in (
        (good, "", f"{good} has no private key in PEM; set key"),
        (good, junk, f"{junk} has no private key in PEM"),
        (junk, one.key, f"{junk} has no certificate in PEM"),
        (good, two.key, f"{two.key} is not the key of {good}"),
        (good, locked, f"{locked} is encrypted"),
    ):
        with pytest.raises(OSError, match=re.escape(said)):
            server_context(str(certificate), str(private))
