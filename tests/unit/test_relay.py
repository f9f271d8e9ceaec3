# SPDX-License-Identifier: GPL-2.0-or-later
"""The relay client against next hops that answer well, badly, slowly and not at all."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

import pytest
import uvloop

from contrib.lab.certificates import Authority
from gateway.delivery.client import HopLost, RelayTimeouts, Transaction
from gateway.delivery.relay import RecipientResult, relay, relay_sync
from gateway.delivery.routes import NextHop
from gateway.tls.outbound import TlsPolicy
from tests.hop import OFFERED, Hop, running, straight

if TYPE_CHECKING:
    from pathlib import Path

CLEAR = TlsPolicy("none")
MESSAGE = b"Subject: x\r\n\r\n.dot\r\n..two\r\n\xc3\xa9\r\n"
WIDE = b"Subject: \xc3\xa9\r\n\r\nx\r\n"
FAST = RelayTimeouts(connect=2, greeting=0.5, command=0.5, data=0.5, end_of_data=1, quit=0.3)
PATIENT = RelayTimeouts(connect=20, greeting=20, command=20, data=20, end_of_data=20, quit=0.3)
SENDER = "a@example.com"


def send(
    hop: Hop,
    recipients: tuple[str, ...] = ("u@example.net",),
    message: bytes = MESSAGE,
    *,
    tls: TlsPolicy = CLEAR,
    sender: str = SENDER,
    options: tuple[str, ...] = (),
    timeouts: RelayTimeouts = PATIENT,
) -> dict[str, RecipientResult]:
    async def go() -> dict[str, RecipientResult]:
        async with running(hop):
            return await relay(
                *straight(hop.next_hop, tls),
                sender,
                recipients,
                message,
                helo="gw.example.com",
                options=options,
                timeouts=timeouts,
            )

    return uvloop.run(go())


def test_bytes_arrive_as_they_are() -> None:
    hop = Hop()
    result = send(hop, ("u@example.net", "v@example.net", "u@example.net"))
    assert {r: o.status for r, o in result.items()} == {
        "u@example.net": "delivered",
        "v@example.net": "delivered",
    }
    (taken,) = hop.taken
    assert taken.message == MESSAGE
    assert taken.mail == b"MAIL FROM:<a@example.com> SIZE=%d BODY=8BITMIME" % len(MESSAGE)
    assert taken.rcpts == [b"RCPT TO:<u@example.net>", b"RCPT TO:<v@example.net>"]
    assert hop.commands[-1] == b"QUIT"


@pytest.mark.parametrize("offered", [OFFERED, ("8BITMIME",)])
def test_each_recipient_has_its_own_answer(offered: tuple[str, ...]) -> None:
    hop = Hop(
        offered=offered,
        answers={
            b"RCPT TO:<no@": b"550 5.1.1 unknown\r\n",
            b"RCPT TO:<later@": b"450 4.2.0 busy\r\n",
        },
    )
    result = send(hop, ("no@x", "later@x", "yes@x"))
    assert {r: (o.status, o.code, o.enhanced) for r, o in result.items()} == {
        "no@x": ("refused", 550, "5.1.1"),
        "later@x": ("deferred", 450, "4.2.0"),
        "yes@x": ("delivered", 250, "2.0.0"),
    }
    assert [t.rcpts for t in hop.taken] == [[b"RCPT TO:<yes@x>"]]


def test_many_recipients_in_groups() -> None:
    hop = Hop(answers={b"RCPT TO:<u7@": b"550 no\r\n"})
    result = send(hop, tuple(f"u{n}@x" for n in range(350)))
    assert [r for r, o in result.items() if o.status != "delivered"] == ["u7@x"]
    assert len(hop.taken[0].rcpts) == 349


def test_lmtp_answers_per_recipient() -> None:
    hop = Hop(
        protocol="lmtp",
        final=[b"250 2.0.0 ok\r\n", b"552 5.2.2 full\r\n", b"451 4.3.0 later\r\n"],
    )
    result = send(hop, ("a@x", "b@x", "c@x"))
    assert [o.status for o in result.values()] == ["delivered", "refused", "deferred"]
    assert hop.commands[0] == b"LHLO gw.example.com"


def test_lmtp_over_a_unix_socket_that_breaks_after_the_first_answer(tmp_path: Path) -> None:
    hop = Hop(protocol="lmtp", final=[b"250 2.0.0 ok\r\n", None])
    path = str(tmp_path / "lmtp")

    async def go() -> dict[str, RecipientResult]:
        server = await asyncio.start_unix_server(hop.serve, path)
        try:
            return await relay(
                *straight(NextHop("lmtp", path=path), CLEAR),
                SENDER,
                ["a@x", "b@x"],
                MESSAGE,
                helo="gw",
                timeouts=FAST,
            )
        finally:
            server.close()

    result = uvloop.run(go())
    assert str(result["a@x"]) == "250 2.0.0 ok"
    assert result["b@x"].status == "deferred"


ENDLESS = b"250-again and again\r\n" * 20_000
BROKEN = {
    "closes at once": Hop(greeting=None),
    "says nothing": Hop(greeting=b""),
    "greets with garbage": Hop(greeting=b"SSH-2.0-OpenSSH\r\n"),
    "greets with 554": Hop(greeting=b"554 5.7.1 go away\r\n"),
    "greets without end": Hop(greeting=b"220-" + b"x" * 100_000),
    "hangs at EHLO": Hop(answers={b"EHLO": b""}),
    "closes at EHLO": Hop(answers={b"EHLO": None}),
    "never ends EHLO": Hop(answers={b"EHLO": ENDLESS}),
    "hangs at MAIL": Hop(answers={b"MAIL": b""}),
    "421 at MAIL": Hop(answers={b"MAIL": b"421 4.3.2 bye\r\n"}),
    "250 and a reply too many": Hop(offered=(), answers={b"MAIL": b"250 ok\r\n550 5.0.0 what\r\n"}),
    "hangs at RCPT": Hop(answers={b"RCPT": b""}),
    "closes at RCPT": Hop(answers={b"RCPT": None}),
    "hangs at DATA": Hop(answers={b"DATA": b""}),
    "closes at DATA": Hop(answers={b"DATA": None}),
    "250 for DATA": Hop(answers={b"DATA": b"250 ok\r\n"}),
    "451 for DATA": Hop(answers={b"DATA": b"451 4.3.0 no\r\n"}),
    "hangs at the end": Hop(final=[b""]),
    "closes at the end": Hop(final=[None]),
    "garbage at the end": Hop(final=[b"\xff\xfe\r\n"]),
    "354 at the end": Hop(final=[b"354 more\r\n"]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_next_hop_defers(name: str) -> None:
    (outcome,) = send(BROKEN[name], timeouts=FAST).values()
    assert outcome.status == "deferred"
    assert outcome.text.isascii()
    assert outcome.text.isprintable()
    assert len(outcome.text) <= 400


def test_nobody_listens() -> None:
    way = straight(NextHop("smtp", "127.0.0.1", 1), CLEAR)
    result = relay_sync(*way, SENDER, ["u@x"], MESSAGE, helo="gw")
    assert result["u@x"].status == "deferred"
    assert result["u@x"].enhanced == "4.4.1"


@pytest.mark.parametrize(
    ("offered", "message", "sender", "options", "recipients", "enhanced"),
    [
        (("8BITMIME",), MESSAGE, "ü@example.com", (), ("u@x",), "5.6.7"),
        (("8BITMIME",), WIDE, SENDER, ("SMTPUTF8",), ("u@x",), "5.6.7"),
        (OFFERED, MESSAGE, SENDER, (), ("ü@x",), "5.6.7"),
        ((), MESSAGE, SENDER, (), ("u@x",), "5.6.3"),
        (("SIZE 10", "8BITMIME"), MESSAGE, SENDER, (), ("u@x",), "5.3.4"),
        (OFFERED, b"a\nb\r\n", SENDER, (), ("u@x",), "5.6.0"),
        (OFFERED, MESSAGE, SENDER, (), ("u@x\r\nRCPT TO:<v@x>",), "5.1.3"),
        (OFFERED, MESSAGE, "a@x> SIZE=1\r\nRSET", (), ("u@x",), "5.1.3"),
    ],
)
def test_what_is_refused_before_it_is_sent(
    *,
    offered: tuple[str, ...],
    message: bytes,
    sender: str,
    options: tuple[str, ...],
    recipients: tuple[str, ...],
    enhanced: str,
) -> None:
    hop = Hop(offered=offered)
    (outcome,) = send(hop, recipients, message, sender=sender, options=options).values()
    assert (outcome.status, outcome.enhanced) == ("refused", enhanced)
    assert not hop.taken
    assert b"DATA" not in hop.commands


def test_smtputf8_is_passed_on() -> None:
    hop = Hop()
    assert send(hop, ("ü@x",), options=("SMTPUTF8",))["ü@x"].status == "delivered"
    assert hop.taken[0].mail.endswith(b" SMTPUTF8")
    assert hop.taken[0].rcpts == ["RCPT TO:<ü@x>".encode()]


def test_helo_where_ehlo_is_unknown() -> None:
    hop = Hop(answers={b"EHLO": b"502 5.5.1 what\r\n"})
    assert send(hop, message=b"Subject: x\r\n\r\nx\r\n")["u@example.net"].status == "delivered"
    assert hop.taken[0].mail == b"MAIL FROM:<a@example.com>"


def test_a_large_message_to_a_slow_reader() -> None:
    hop = Hop(offered=("SIZE 0", "8BITMIME"))
    message = b"Subject: x\r\n\r\n" + (b"." + b"x" * 70 + b"\r\n") * 60_000
    assert send(hop, message=message)["u@example.net"].status == "delivered"
    assert hop.taken[0].message == message


# ---------------------------------------------------------------- TLS


def server(authority: Authority) -> ssl.SSLContext:
    return authority.server_context(authority.issue("localhost", names=["127.0.0.1"]))


@pytest.mark.parametrize(
    ("level", "ca", "match", "status"),
    [
        ("none", False, "", "clear"),
        ("may", False, "", "tls"),
        ("encrypt", False, "anything.example.net", "tls"),
        ("verify", True, "localhost", "tls"),
        ("verify", True, "127.0.0.1", "tls"),
        ("verify", True, "mx.example.net", "deferred"),
        ("verify", False, "localhost", "deferred"),
    ],
)
def test_tls_levels(tmp_path: Path, level: str, ca: bool, match: str, status: str) -> None:
    authority = Authority(tmp_path)
    hop = Hop(context=server(authority))
    policy = TlsPolicy(level, match, str(authority.certificate) if ca else "")  # type: ignore[arg-type]  # from the table
    (outcome,) = send(hop, tls=policy).values()
    if status == "deferred":
        assert (outcome.status, outcome.enhanced) == ("deferred", "4.7.5")
        assert not any(c.startswith(b"MAIL") for c in hop.commands)
    else:
        assert outcome.status == "delivered"
        assert bool(hop.taken[0].tls) == (status == "tls")


@pytest.mark.parametrize(
    ("offered", "level", "parameter", "enhanced"),
    [
        (("REQUIRETLS",), "verify", True, ""),
        ((), "verify", False, "5.7.30"),
        (("REQUIRETLS",), "encrypt", False, "5.7.30"),  # nobody knows who that is
        (("REQUIRETLS",), "none", False, "5.7.30"),
    ],
)
def test_requiretls(
    tmp_path: Path, offered: tuple[str, ...], level: str, parameter: bool, enhanced: str
) -> None:
    authority = Authority(tmp_path)
    hop = Hop(context=server(authority), offered=(*OFFERED, *offered))
    policy = TlsPolicy(level, "localhost", str(authority.certificate))  # type: ignore[arg-type]  # from the table
    (outcome,) = send(hop, tls=policy, options=("REQUIRETLS",)).values()
    assert (outcome.status, outcome.enhanced) == (
        ("refused", enhanced) if enhanced else ("delivered", "2.0.0")
    )
    assert [one.mail.endswith(b" REQUIRETLS") for one in hop.taken] == [True] * parameter


def test_lmtp_is_the_end_of_the_way() -> None:
    hop = Hop("lmtp")
    (outcome,) = send(hop, options=("REQUIRETLS",)).values()
    assert outcome.status == "delivered"
    assert b"REQUIRETLS" not in hop.taken[0].mail


STRIPPED = {
    "not offered": Hop(),
    "refused": Hop(offered=("STARTTLS", "8BITMIME"), answers={b"STARTTLS": b"454 4.7.0 not now\r\n"}),
    "EHLO refused": Hop(answers={b"EHLO": b"502 5.5.1 what\r\n"}),
    "no handshake": Hop(offered=("STARTTLS", "8BITMIME"), answers={b"STARTTLS": b"220 go\r\n"}),
}


@pytest.mark.parametrize("level", ["may", "encrypt", "verify"])
@pytest.mark.parametrize("name", STRIPPED)
def test_a_downgrade_sends_nothing_in_clear(name: str, level: str) -> None:
    hop = Hop(**{f: getattr(STRIPPED[name], f) for f in ("offered", "answers")})
    policy = TlsPolicy(level, "localhost")  # type: ignore[arg-type]  # from the table
    plain = b"Subject: x\r\n\r\nx\r\n"
    (outcome,) = send(hop, tls=policy, message=plain, timeouts=FAST).values()
    assert outcome.status == ("delivered" if level == "may" else "deferred")
    if level != "may":
        assert not any(c.startswith((b"MAIL", b"HELO")) for c in hop.commands)
        assert outcome.enhanced.startswith("4.")


def test_answers_injected_before_the_handshake_are_not_believed() -> None:
    hop = Hop(
        offered=("STARTTLS", "8BITMIME"), answers={b"STARTTLS": b"220 go\r\n250-evil\r\n250 AUTH PLAIN\r\n"}
    )
    (outcome,) = send(hop, tls=TlsPolicy("encrypt", "localhost")).values()
    assert (outcome.status, outcome.enhanced) == ("deferred", "4.7.5")


def test_an_old_server_version_is_not_enough(tmp_path: Path) -> None:
    context = server(Authority(tmp_path))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    hop = Hop(context=context)
    (outcome,) = send(hop, tls=TlsPolicy("encrypt", "localhost", minimum_version="TLSv1.3")).values()
    assert outcome.status == "deferred"


# ---------------------------------------------------------------- a transaction held open


def test_a_transaction_is_used_again_after_reset() -> None:
    async def go() -> Hop:
        async with running(Hop(answers={b"RCPT TO:<no@": b"550 5.1.1 unknown\r\n"})) as hop:
            transaction = await Transaction.open(hop.next_hop, CLEAR, "gw.example.com", FAST)
            await transaction.mail(SENDER)
            assert (await transaction.rcpt("no@x")).status == "refused"
            assert (await transaction.rcpt("a@x")).status == "accepted"
            await transaction.reset()
            assert transaction.accepted == []
            await transaction.mail("")
            await transaction.rcpt("b@x")
            assert list(await transaction.data(MESSAGE)) == ["b@x"]
            await transaction.close()
            return hop

    hop = uvloop.run(go())
    assert [t.rcpts for t in hop.taken] == [[b"RCPT TO:<b@x>"]]
    assert hop.sessions == 1


def test_a_stale_transaction_says_so_before_anything_is_sent() -> None:
    async def go() -> None:
        async with running(Hop(drop_after=1)) as hop:
            transaction = await Transaction.open(hop.next_hop, CLEAR, "gw.example.com", FAST)
            await transaction.mail(SENDER)
            await transaction.rcpt("a@x")
            await asyncio.sleep(0.05)
            assert transaction.lost
            with pytest.raises(HopLost):
                await transaction.data(MESSAGE)

    uvloop.run(go())
