# SPDX-License-Identifier: GPL-2.0-or-later
"""The smart-host door with a real client (swaks), a real next hop (Postfix's) and recorded dialogues."""

from __future__ import annotations

import asyncio
import smtplib
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from contrib.lab.certificates import Authority
from contrib.lab.postfix import Postfix
from contrib.lab.sink import Sink
from gateway.mail.types import Action
from gateway.smarthost.settings import SmarthostSettings
from gateway.tls.inbound import server_context
from gateway.tls.outbound import OutboundTlsRule
from tests.hop import Hop
from tests.smarthost_lab import FAST, MESSAGE, Bench, door

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.server("swaks")

# ---------------------------------------------------------------- swaks


async def swaks(port: int, *arguments: str) -> tuple[int, str]:
    """Run swaks against the door; its exit status and transcript."""
    process = await asyncio.create_subprocess_exec(
        "swaks",
        "--server",
        f"127.0.0.1:{port}",
        "--timeout",
        "10",
        *arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


def to_sink(sink: Sink) -> Hop:
    """The sink as the lab's next hop."""
    return Hop(protocol=sink.protocol, port=sink.port)


@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
def test_a_real_client_over_tls(protocol: Any, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("localhost")
    context = server_context(str(pair.certificate), str(pair.key))

    async def go() -> tuple[int, str]:
        async with door(Bench(), to_sink(sink), tls=context) as port:
            return await swaks(
                port,
                "--tls",
                "--from",
                "a@example.net",
                "--to",
                "u@example.com,v@example.com",
                "--body",
                ".\n..x",
            )

    with Sink(protocol) as sink:
        status, output = asyncio.run(go())
        assert status == 0, output
        assert "250 2.0.0 Ok: relayed" in output
        (taken,) = sink.wait_for(1)
    assert taken.recipients == ("u@example.com", "v@example.com")
    assert taken.mail_from == "a@example.net"
    assert b"with ESMTPS id" in taken.data
    assert b"\r\n\r\n.\r\n..x\r\n" in taken.data


def test_a_real_client_is_refused() -> None:
    async def go() -> list[tuple[int, str]]:
        bench = Bench(default=Action.REJECT)
        async with door(bench, to_sink(sink)) as port:
            return [
                await swaks(port, "--from", "a@example.net", "--to", "u@example.com"),
                await swaks(port, "--from", "a@example.net", "--to", "u@foreign.example"),
                await swaks(port, "--xclient", "ADDR=192.0.2.1", "--to", "u@example.com"),
                await swaks(port, "--pipeline", "--from", "a@example.net", "--to", "u@example.com"),
            ]

    with Sink() as sink:
        rejected, relay, xclient, pipelined = asyncio.run(go())
        assert not sink.transactions
    assert "554 5.7.1 Message rejected" in rejected[1]
    assert "554 5.7.1 <u@foreign.example>: Relay access denied" in relay[1]
    assert xclient[0] != 0
    assert "554 5.7.1 Message rejected" in pipelined[1]


def test_a_real_client_with_xclient() -> None:
    bench = Bench()
    settings = SmarthostSettings(relay=FAST, xclient_networks=("127.0.0.1/32",))

    async def go() -> tuple[int, str]:
        async with door(bench, to_sink(sink), settings=settings) as port:
            return await swaks(
                port,
                "--xclient",
                "ADDR=192.0.2.1 NAME=mx.example.net",
                "--from",
                "a@example.net",
                "--to",
                "u@example.com",
            )

    with Sink() as sink:
        status, output = asyncio.run(go())
        assert status == 0, output
    assert bench.mails[0].session.client_ip == "192.0.2.1"
    assert bench.mails[0].session.client_name == "mx.example.net"


# ---------------------------------------------------------------- Postfix on either side


@pytest.mark.server("postfix")
def test_behind_postfix_the_client_is_who_postfix_says(lab: Path, sink: Sink) -> None:
    """Postfix hands mail over as to a content filter; XFORWARD names the client it came from."""
    bench = Bench()
    settings = SmarthostSettings(relay=FAST, xforward_networks=("127.0.0.1/32",))

    def send(port: int) -> None:
        with smtplib.SMTP("127.0.0.1", port) as client:
            client.ehlo()
            client.docmd("XCLIENT", "ADDR=198.51.100.9 NAME=mx.example.net")
            client.ehlo("helo.example.net")
            client.sendmail("a@example.net", ["u@example.org", "v@example.org"], MESSAGE)

    async def go() -> None:
        async with door(bench, to_sink(sink), settings=settings) as port:
            parameters = {"smtp_send_xforward_command": "yes"}
            directory = lab / "postfix-before-smarthost"
            with Postfix(directory, relay_to=f"127.0.0.1:{port}", parameters=parameters) as postfix:
                await asyncio.to_thread(send, postfix.port)
                await asyncio.to_thread(sink.wait_for, 1, 40)

    asyncio.run(go())
    (mail,) = bench.mails
    session = mail.session
    assert (session.client_ip, session.client_name) == ("198.51.100.9", "mx.example.net")
    assert session.helo == "helo.example.net"
    assert mail.raw.endswith(MESSAGE)
    (taken,) = sink.transactions
    assert taken.recipients == ("u@example.org", "v@example.org")
    assert taken.data.endswith(mail.raw)


@pytest.mark.server("postfix")
def test_before_postfix_its_answers_are_ours(lab: Path, sink: Sink) -> None:
    access = "inline:{ {nobody@example.org = 550 5.1.1 no such user} }"
    parameters = {"smtpd_recipient_restrictions": f"check_recipient_access {access}, permit"}

    def send(port: int) -> dict[str, tuple[int, bytes]]:
        with smtplib.SMTP("127.0.0.1", port) as client:
            return client.sendmail("a@example.net", ["u@example.org", "nobody@example.org"], MESSAGE)

    async def go(postfix: Postfix) -> dict[str, tuple[int, bytes]]:
        async with door(Bench(), Hop(port=postfix.port), settings=SmarthostSettings()) as port:
            return await asyncio.to_thread(send, port)

    with Postfix(lab / "postfix-behind-smarthost", relay_to=sink.address, parameters=parameters) as postfix:
        refused = asyncio.run(go(postfix))
        (taken,) = sink.wait_for(1, 40)
    assert list(refused) == ["nobody@example.org"]
    code, text = refused["nobody@example.org"]
    assert (code, text.startswith(b"5.1.1 <nobody@example.org>: Recipient address rejected")) == (
        550,
        True,
    ), text
    assert taken.recipients == ("u@example.org",)
    assert taken.data.endswith(MESSAGE)


# ---------------------------------------------------------------- certificates that are wrong


@pytest.mark.parametrize(
    ("trusted", "name", "delivered"),
    [(True, "localhost", True), (True, "other.example.net", False), (False, "localhost", False)],
)
def test_verify_towards_a_real_sink(tmp_path: Path, trusted: bool, name: str, delivered: bool) -> None:
    good, bad = Authority(tmp_path / "good"), Authority(tmp_path / "bad", "Other CA")
    pair = good.issue("localhost")
    ca = good if trusted else bad
    rules = (OutboundTlsRule(level="verify", match=name, ca_file=str(ca.certificate)),)

    async def go() -> tuple[int, str]:
        async with door(Bench(), to_sink(sink), tls_rules=rules) as port:
            return await swaks(port, "--from", "a@example.net", "--to", "u@example.com")

    with Sink(tls=good.server_context(pair)) as sink:
        status, output = asyncio.run(go())
        taken = list(sink.transactions)
    assert (status == 0) is delivered, output
    assert [bool(t.tls) for t in taken] == ([True] if delivered else [])
    if not delivered:
        assert "451 4.7.5 The next hop cannot be used now" in output
