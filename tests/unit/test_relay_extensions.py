# SPDX-License-Identifier: GPL-2.0-or-later
"""What the relay client makes of a next hop's extensions: DSN, CHUNKING, SMTPUTF8, AUTH, TLS at once."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest
import uvloop

from contrib.lab.certificates import Authority
from gateway.delivery.client import HopLost, Transaction
from gateway.delivery.logins import Login
from gateway.delivery.protocol import chunk_blocks, declared
from gateway.tls.outbound import TlsPolicy
from tests.hop import OFFERED, Hop, running
from tests.smarthost_lab import FAST

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from gateway.delivery.protocol import HopReply

CLEAR = TlsPolicy("none")
MESSAGE = b"Subject: x\r\n\r\n.dot\r\n..two\r\n\xc3\xa9\r\n"
ASKED = {"a@x": ("NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;a@x"), "b@x": ()}
LOGIN = Login("gw", "s3cret word")
PLAIN = b"AUTH PLAIN " + base64.b64encode(b"\0gw\0s3cret word")


def play(hop: Hop, scene: Callable[[Transaction], Awaitable[None]], **opening: object) -> None:
    async def go() -> None:
        async with running(hop):
            tls = opening.get("tls", CLEAR)
            login = opening.get("login")
            session = await Transaction.open(hop.next_hop, tls, "gw.example.com", FAST, login)  # type: ignore[arg-type]  # from the tests' own keywords
            try:
                await scene(session)
            finally:
                await session.close()

    uvloop.run(go())


# ---------------------------------------------------------------- DSN


@pytest.mark.parametrize("pipelining", [True, False])
@pytest.mark.parametrize("offers", [True, False])
def test_dsn_parameters_go_to_who_offers_it(*, pipelining: bool, offers: bool) -> None:
    words = (*(["PIPELINING"] if pipelining else []), *(["DSN"] if offers else []))
    hop = Hop(offered=words)

    async def scene(session: Transaction) -> None:
        options = ("RET=HDRS", "ENVID=e+3D1", "SMTPUTF8x", "BODY=7BIT")
        first, answers = await session.envelope("s@x", tuple(ASKED), options, 0, ASKED)
        assert {first.status, *(one.status for one in answers.values())} == {"accepted"}

    play(hop, scene)
    said = [line for line in hop.commands if line[:4] in (b"MAIL", b"RCPT")]
    if offers:
        assert said == [
            b"MAIL FROM:<s@x> RET=HDRS ENVID=e+3D1",
            b"RCPT TO:<a@x> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;a@x",
            b"RCPT TO:<b@x>",
        ]
    else:
        assert said == [b"MAIL FROM:<s@x>", b"RCPT TO:<a@x>", b"RCPT TO:<b@x>"]


# ---------------------------------------------------------------- CHUNKING


@pytest.mark.parametrize(
    "message", [MESSAGE, b"", b"x", b"Subject: x\r\n\r\n.", b"y" * 997 + b"\r\n" + b"z\r\n" * 100_000]
)
def test_a_chunk_is_the_message_and_nothing_else(message: bytes) -> None:
    sent = b"".join(chunk_blocks(message, 1_000))
    line, _, data = sent.partition(b"\r\n")
    assert data == (message if message.endswith(b"\r\n") else message + b"\r\n")
    assert line == b"BDAT %d LAST" % len(data)


@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
def test_bdat_where_it_is_offered(protocol: str) -> None:
    hop = Hop(protocol=protocol, offered=(*OFFERED, "CHUNKING"))
    if protocol == "lmtp":
        hop.final = [b"250 2.0.0 yes\r\n", b"452 4.2.2 full\r\n"]
    found: dict[str, HopReply] = {}

    async def scene(session: Transaction) -> None:
        for _ in range(2):
            await session.envelope("s@x", ("a@x", "b@x"))
            found.update(found or await session.data(MESSAGE))

    play(hop, scene)
    assert not any(line.startswith(b"DATA") for line in hop.commands)
    assert hop.taken[0].message == MESSAGE
    statuses = [found[who].status for who in ("a@x", "b@x")]
    assert statuses == ["accepted", "deferred" if protocol == "lmtp" else "accepted"]


@pytest.mark.parametrize("reply", [b"451 4.3.0 later\r\n", b"554 5.7.1 no\r\n", None])
def test_bdat_refused_or_cut_off(reply: bytes | None) -> None:
    hop = Hop(offered=(*OFFERED, "CHUNKING"), final=[reply])
    found: dict[str, HopReply] = {}

    async def scene(session: Transaction) -> None:
        await session.envelope("s@x", ("a@x",))
        found.update(await session.data(MESSAGE))

    play(hop, scene)
    assert found["a@x"].status == ("refused" if reply and reply.startswith(b"5") else "deferred")


def test_a_bare_line_feed_is_sent_in_no_chunk_either() -> None:
    hop = Hop(offered=(*OFFERED, "CHUNKING"))

    async def scene(session: Transaction) -> None:
        await session.envelope("s@x", ("a@x",))
        (reply,) = (await session.data(b"a\n.\r\nb\r\n")).values()
        assert (reply.code, reply.enhanced) == (554, "5.6.0")

    play(hop, scene)
    assert not hop.taken


# ---------------------------------------------------------------- what a message is declared to be


@pytest.mark.parametrize(
    ("options", "offered", "message", "expected"),
    [
        ((), (), b"Subject: x\r\n\r\ny\r\n", ("BODY=7BIT",)),
        (("BODY=7BIT",), (), b"Subject: x\r\n\r\n\xe9\r\n", ("BODY=8BITMIME",)),
        (("SMTPUTF8",), ("SMTPUTF8",), b"Subject: x\r\n\r\ny\r\n", ("SMTPUTF8", "BODY=7BIT")),
        (("SMTPUTF8",), (), b"Subject: x\r\n\r\n\xc3\xa9\r\n", ("BODY=8BITMIME",)),
        (("SMTPUTF8",), (), b"Subject: \xc3\xa9\r\n\r\ny\r\n", ("SMTPUTF8", "BODY=8BITMIME")),
        (("RET=FULL", "BODY=8BITMIME"), (), b"x", ("RET=FULL", "BODY=7BIT")),
    ],
)
def test_declared(
    options: tuple[str, ...], offered: tuple[str, ...], message: bytes, expected: tuple[str, ...]
) -> None:
    assert declared(options, offered, message) == expected


# ---------------------------------------------------------------- AUTH and TLS at once


@pytest.fixture
def context(tmp_path: Path) -> ssl.SSLContext:
    authority = Authority(tmp_path)
    return authority.server_context(authority.issue("localhost", names=["127.0.0.1"]))


async def nothing(_session: Transaction) -> None:
    """Only open it."""


@pytest.mark.parametrize("implicit", [True, False])
def test_we_log_in_over_tls(context: ssl.SSLContext, *, implicit: bool) -> None:
    hop = Hop(
        offered=(*OFFERED, "AUTH PLAIN LOGIN"),
        answers={b"AUTH": b"235 2.7.0 ok\r\n"},
        context=context,
        implicit=implicit,
    )

    async def scene(session: Transaction) -> None:
        assert session.tls_version.startswith("TLSv1.")
        await session.envelope("s@x", ("a@x",))
        await session.data(MESSAGE)

    play(hop, scene, tls=TlsPolicy("encrypt"), login=LOGIN)
    assert PLAIN in hop.commands
    assert hop.commands.index(PLAIN) < hop.commands.index(b"RCPT TO:<a@x>")
    assert (b"STARTTLS" in hop.commands) != implicit
    assert len(hop.taken) == 1


def test_auth_login_where_there_is_no_plain(context: ssl.SSLContext) -> None:
    name, password = base64.b64encode(b"gw"), base64.b64encode(b"s3cret word")
    hop = Hop(
        offered=("AUTH LOGIN",),
        answers={
            b"AUTH LOGIN": b"334 VXNlcm5hbWU6\r\n",
            name: b"334 UGFzc3dvcmQ6\r\n",
            password: b"235 ok\r\n",
        },
        context=context,
    )
    play(hop, nothing, tls=TlsPolicy("encrypt"), login=LOGIN)
    assert hop.commands[-4:-1] == [b"AUTH LOGIN", name, password]


@pytest.mark.parametrize("level", ["none", "may"])
def test_a_password_is_never_sent_in_clear(level: str) -> None:
    hop = Hop(offered=("AUTH PLAIN LOGIN",))
    with pytest.raises(HopLost, match="not sent in clear"):
        play(hop, nothing, tls=TlsPolicy(level), login=LOGIN)  # type: ignore[arg-type]  # from the table
    assert not any(line.startswith(b"AUTH") for line in hop.commands)


@pytest.mark.parametrize(
    ("offered", "answer", "told"),
    [
        ("AUTH PLAIN", b"535 5.7.8 wrong: s3cret word\r\n", "refuses our login: 535 5.7.8"),
        ("AUTH PLAIN", b"334 \r\n", "refuses our login: 334"),
        ("AUTH GSSAPI", b"235 ok\r\n", "neither AUTH PLAIN nor LOGIN"),
        ("SIZE", b"235 ok\r\n", "neither AUTH PLAIN nor LOGIN"),
    ],
)
def test_a_login_that_fails_puts_off(context: ssl.SSLContext, offered: str, answer: bytes, told: str) -> None:
    hop = Hop(offered=(offered,), answers={b"AUTH": answer}, context=context)
    with pytest.raises(HopLost, match=told) as caught:
        play(hop, nothing, tls=TlsPolicy("encrypt"), login=LOGIN)
    assert caught.value.reply.status == "deferred"
    assert "s3cret" not in str(caught.value.reply)
    assert not any(line.startswith(b"MAIL") for line in hop.commands)
