# SPDX-License-Identifier: GPL-2.0-or-later
"""The smart-host door and its next hops: what is relayed, to whom, and what the client hears."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.delivery.protocol import stuffed_blocks
from gateway.mail.types import Action, Direction, Edit, EditOp, Mail, Reply
from tests.hop import Hop
from tests.smarthost_lab import MESSAGE, SENT, Bench, Raw, play
from tests.unit.test_relay_routes import OPEN_RELAY_FORMS


def test_a_message_goes_through_unchanged_below_our_field() -> None:
    async def scene(client: Raw, hop: Hop, bench: Bench) -> None:
        greeting = await client.ask("EHLO c.example.net")
        words = {line[4:].strip() for line in greeting.splitlines()}
        assert {"PIPELINING", "SIZE 52428800", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"} <= words
        assert not any(w.startswith(("AUTH", "STARTTLS", "XCLIENT", "DSN")) for w in words)
        await client.envelope("u@example.com", "v@example.com")
        reply = await client.message(SENT)
        assert reply == f"250 2.0.0 Ok: relayed (id {bench.mails[0].id})"
        await client.envelope("w@example.com")
        assert (await client.message(SENT)).startswith("250")
        assert await client.ask("QUIT") == "221 2.0.0 Bye"
        assert await client.rest() == ""
        assert hop.sessions == 1

    hop, bench = play(scene)
    assert [m.raw for m in bench.mails] == [MESSAGE, MESSAGE]
    mail = bench.mails[0]
    assert mail.envelope.mail_from == "a@example.net"
    assert mail.envelope.recipients == ("u@example.com", "v@example.com")
    assert (mail.session.client_ip, mail.session.helo, mail.session.tls) == (
        "127.0.0.1",
        "c.example.net",
        None,
    )
    assert (mail.session.listener, mail.session.direction) == ("smarthost", Direction.INBOUND)
    assert [(one.item, one.address, one.ended, one.reply) for one in bench.ends] == [
        (bench.mails[n].id, f"{who}@example.com", "delivered", "250 2.0.0 taken")
        for n, who in ((0, "u"), (0, "v"), (1, "w"))
    ]
    assert {(one.hop, one.server, one.tls) for one in bench.ends} == {(str(hop.next_hop),) * 2 + ("",)}
    assert len(hop.taken) == 2
    field, _, message = hop.taken[0].message.partition(b"\r\nFrom:")
    assert b"From:" + message == MESSAGE
    assert field.startswith(
        b"Received: from c.example.net (unknown [127.0.0.1])\r\n\tby gw.example.com with ESMTP id "
    )


def test_connections_and_refusals_are_counted() -> None:
    async def scene(client: Raw, _hop: Hop, bench: Bench) -> None:
        await client.ask("EHLO c.example.net")
        await client.ask("MAIL FROM:<a@example.net>")
        assert bench.counted == ["connections"]
        assert (await client.ask("RCPT TO:<u@elsewhere.example>")).startswith("554 5.7.1")
        assert bench.counted == ["connections", "refused"]

    play(scene)


def test_edits_stand_below_our_received_field() -> None:
    edits = (Edit(EditOp.INSERT, "X-One", "1"), Edit(EditOp.DELETE, "Subject"))

    async def scene(client: Raw, _hop: Hop, _bench: Bench) -> None:
        await client.envelope()
        await client.message(SENT)

    hop, _ = play(scene, bench=Bench(edits=edits))
    names = [
        line.split(b":")[0]
        for line in hop.taken[0].message.split(b"\r\n\r\n")[0].split(b"\r\n")
        if line[:1] != b"\t"
    ]
    assert names == [b"Received", b"X-One", b"From"]


def test_pipelining_is_exact() -> None:
    async def scene(client: Raw, _hop: Hop, _bench: Bench) -> None:
        await client.ask("EHLO c")
        group = b"MAIL FROM:<a@b>\r\nRCPT TO:<u@example.com>\r\nRCPT TO:<u@example.net>\r\nDATA\r\n"
        client.send(group)
        replies = [await client.reply() for _ in range(4)]
        assert [r[:3] for r in replies] == ["250", "250", "554", "354"]
        client.send(SENT + b"RSET\r\n" + group + b"")
        replies = [await client.reply() for _ in range(6)]
        assert [r[:3] for r in replies] == ["250", "250", "250", "250", "554", "354"]
        client.send(SENT + b"QUIT\r\n")
        assert [(await client.reply())[:3] for _ in range(2)] == ["250", "221"]

    hop, _ = play(scene)
    assert len(hop.taken) == 2


@pytest.mark.parametrize("size", [1, 700_000])
def test_chunk_by_chunk(size: int) -> None:
    message = b"Subject: x\r\n\r\n" + b"".join(b".%d\r\n" % n for n in range(size // 10 + 3))
    data = b"".join(stuffed_blocks(message))

    async def scene(client: Raw, _hop: Hop, _bench: Bench) -> None:
        await client.envelope()
        await client.ask("DATA")
        step = 1 if size == 1 else 1000
        for start in range(0, len(data), step):
            client.send(data[start : start + step])
            await client.writer.drain()
            await asyncio.sleep(0)
        assert (await client.reply()).startswith("250")

    hop, bench = play(scene, Hop(offered=("8BITMIME",)))
    assert bench.mails[0].raw == message
    assert hop.taken[0].message.endswith(message)


def test_helo_and_half_closed_clients() -> None:
    async def scene(client: Raw, _hop: Hop, _bench: Bench) -> None:
        await client.envelope(helo="HELO c")
        await client.ask("DATA")
        client.send(SENT + b"QUIT\r\n")
        client.writer.write_eof()
        assert [line[:3] for line in (await client.rest()).splitlines()] == ["250", "221"]

    hop, _ = play(scene)
    assert b"with SMTP id" in hop.taken[0].message


# ---------------------------------------------------------------- recipients and next hops


def test_the_next_hop_has_the_word_on_recipients() -> None:
    async def scene(client: Raw, _hop: Hop, _bench: Bench) -> None:
        await client.ask("EHLO c")
        await client.ask("MAIL FROM:<a@b>")
        assert await client.ask("RCPT TO:<no@example.com>") == "550 5.1.1 unknown ?[1muser"
        assert await client.ask("RCPT TO:<later@example.com>") == "450 4.2.0 busy"
        assert await client.ask("DATA") == "554 5.5.1 No valid recipients"
        assert await client.ask("RCPT TO:<u@example.com>") == "250 2.0.0 Ok"
        assert await client.ask("RCPT TO:<u@example.com>") == "250 2.1.5 Ok"
        assert (await client.message(SENT)).startswith("250")

    hop, bench = play(
        scene,
        Hop(
            answers={
                b"RCPT TO:<no@": b"550 5.1.1 unknown \x1b[1muser\r\n",
                b"RCPT TO:<later@": b"450 4.2.0 busy\r\n",
            }
        ),
    )
    assert hop.taken[0].rcpts == [b"RCPT TO:<u@example.com>"]
    assert bench.mails[0].envelope.recipients == ("u@example.com",)


def test_one_next_hop_for_one_transaction() -> None:
    other = Hop()

    async def scene(client: Raw, _hop: Hop, _bench: Bench) -> None:
        await client.envelope("u@example.com")
        assert (await client.ask("RCPT TO:<u@example.org>")).startswith("452 4.5.3")
        assert (await client.ask("RCPT TO:<v@example.com>")).startswith("250")
        assert (await client.message(SENT)).startswith("250")
        await client.envelope("u@example.org")
        assert (await client.message(SENT)).startswith("250")

    hop, _ = play(scene, other=other)
    assert [t.rcpts for t in hop.taken] == [[b"RCPT TO:<u@example.com>", b"RCPT TO:<v@example.com>"]]
    assert [t.rcpts for t in other.taken] == [[b"RCPT TO:<u@example.org>"]]


@pytest.mark.parametrize("recipient", [r for r in OPEN_RELAY_FORMS if r and "\0" not in r])
def test_no_open_relay(recipient: str) -> None:
    async def scene(client: Raw, _hop: Hop, _bench: Bench) -> None:
        await client.ask("EHLO c")
        await client.ask("MAIL FROM:<>")
        reply = await client.ask(f"RCPT TO:<{recipient}>")
        assert reply.startswith("501" if recipient == "user" or ">" in recipient else "554 5.7.1"), reply
        assert (await client.ask("DATA")).startswith("554")

    hop, _ = play(scene)
    assert not hop.commands


def test_postmaster_without_a_domain_is_ours() -> None:
    async def scene(client: Raw, _hop: Hop, _bench: Bench) -> None:
        await client.envelope("Postmaster")
        assert (await client.message(SENT)).startswith("250")

    hop, _ = play(scene)
    assert hop.taken[0].rcpts == [b"RCPT TO:<Postmaster>"]


def test_an_announced_size_leaves_room_for_our_fields() -> None:
    async def scene(client: Raw, _hop: Hop, _bench: Bench) -> None:
        await client.ask("EHLO c")
        await client.ask("MAIL FROM:<a@b> SIZE=1000 BODY=7BIT")
        await client.ask("RCPT TO:<u@example.com>")

    hop, _ = play(scene)
    assert b"MAIL FROM:<a@b> SIZE=5096 BODY=7BIT" in hop.commands


def test_listed_networks_relay_anywhere() -> None:
    async def scene(client: Raw, _hop: Hop, bench: Bench) -> None:
        await client.envelope("u@example.net")
        assert (await client.message(SENT)).startswith("250")
        assert bench.mails[0].session.direction is Direction.OUTBOUND

    play(scene, relay_networks=("127.0.0.0/8",))


def test_a_next_hop_that_is_down_puts_off_at_once_and_is_asked_once() -> None:
    async def scene(client: Raw, _hop: Hop, _bench: Bench) -> None:
        await client.ask("EHLO c")
        await client.ask("MAIL FROM:<a@b>")
        for name in "uvw":
            reply = await client.ask(f"RCPT TO:<{name}@example.com>")
            assert reply == "451 4.4.2 The next hop cannot be used now, try again later"

    hop, _ = play(scene, Hop(greeting=None))
    assert hop.sessions == 1


def test_what_the_house_does_not_admit() -> None:
    def refuse(session: object, sender: str | None, recipient: str | None) -> Reply | None:
        del session
        if sender == "bad@example.net":
            return Reply(530, "5.7.0", "Must issue a STARTTLS command first")
        return Reply(550, "5.7.1", "no") if recipient == "x@example.com" else None

    async def scene(client: Raw, _hop: Hop, _bench: Bench) -> None:
        await client.ask("EHLO c")
        assert (await client.ask("MAIL FROM:<bad@example.net>")).startswith("530 5.7.0")
        assert (await client.ask("RCPT TO:<u@example.com>")).startswith("503")
        assert (await client.ask("MAIL FROM:<a@b>")).startswith("250")
        assert (await client.ask("RCPT TO:<x@example.com>")).startswith("550 5.7.1")

    hop, _ = play(scene, bench=Bench(refuse=refuse))
    assert not hop.commands


# ---------------------------------------------------------------- verdicts


@pytest.mark.parametrize(
    ("action", "reply"),
    [(Action.QUARANTINE, "250 2.0.0"), (Action.DEFER, "451 4.7.1"), (Action.REJECT, "554 5.7.1")],
)
def test_what_is_not_relayed_never_reaches_the_hop(action: Action, reply: str) -> None:
    async def scene(client: Raw, _hop: Hop, bench: Bench) -> None:
        await client.envelope()
        assert (await client.message(SENT)).startswith(reply)
        bench.default = Action.RELAY
        await client.envelope("v@example.com")
        assert (await client.message(SENT)).startswith("250")

    hop, _ = play(scene, bench=Bench(default=action))
    assert [t.rcpts for t in hop.taken] == [[b"RCPT TO:<v@example.com>"]]
    assert hop.commands.count(b"DATA") == 1


def test_held_recipients_are_left_out() -> None:
    async def scene(client: Raw, _hop: Hop, _bench: Bench) -> None:
        await client.envelope("u@example.com", "spam@example.com", "v@example.com")
        assert (await client.message(SENT)).startswith("250 2.0.0 Ok: relayed")

    hop, _ = play(scene, bench=Bench(actions={"spam@example.com": Action.QUARANTINE}))
    assert [t.rcpts for t in hop.taken] == [[b"RCPT TO:<u@example.com>", b"RCPT TO:<v@example.com>"]]


def test_a_judgement_that_fails_or_hangs_puts_off() -> None:
    def crash(_mail: Mail) -> None:
        raise RuntimeError("\r\n250 ok")

    def hang(_mail: Mail) -> None:
        time.sleep(0.6)

    async def scene(client: Raw, _hop: Hop, bench: Bench) -> None:
        for judging in (crash, hang):
            bench.judging = judging
            await client.envelope()
            reply = await client.message(SENT)
            assert reply.startswith("451 4.3.0")

    hop, _ = play(scene, bench=Bench(), judge_timeout=0.3)
    assert not hop.taken


def test_too_many_hops_is_a_loop() -> None:
    async def scene(client: Raw, _hop: Hop, bench: Bench) -> None:
        await client.envelope()
        assert (await client.message(b"Received: x\r\n" * 50 + SENT)).startswith("250")
        await client.envelope()
        assert (await client.message(b"Received: x\r\n" * 51 + SENT)).startswith("554 5.4.6")
        assert len(bench.mails) == 1

    play(scene)


# ---------------------------------------------------------------- the next hop after DATA


@pytest.mark.parametrize(
    ("final", "reply"),
    [
        (b"554 5.6.0 no\x07thanks\r\n", "554 5.6.0 no?thanks (id "),
        (b"451 4.3.0 later\r\n", "451 4.3.0 later (id "),
        (b"421 4.3.2 bye\r\n", "451 4.4.2 The next hop cannot be used now, try again later (id "),
        (None, "451 4.4.2 "),
        (b"354 more\r\n", "451 4.5.0 "),
        (b"", "451 4.4.2 "),
    ],
)
def test_the_final_answer_is_the_next_hops(final: bytes | None, reply: str) -> None:
    async def scene(client: Raw, _hop: Hop, _bench: Bench) -> None:
        await client.envelope()
        assert (await client.message(SENT)).startswith(reply)
        await client.envelope()
        assert (await client.message(SENT)).startswith("250")

    hop, bench = play(scene, Hop(final=[final]))
    assert len(hop.taken) == 1
    assert not bench.held


def test_a_stale_hop_is_opened_once_more_before_data() -> None:
    async def scene(client: Raw, hop: Hop, _bench: Bench) -> None:
        await client.envelope("u@example.com", "v@example.com")
        await asyncio.sleep(0.05)
        assert (await client.message(SENT)).startswith("250")
        assert hop.sessions == 2

    hop, _ = play(scene, Hop(drop_after=2))
    assert [t.rcpts for t in hop.taken] == [[b"RCPT TO:<u@example.com>", b"RCPT TO:<v@example.com>"]]


@pytest.mark.parametrize("hold_fails", [False, True])
def test_lmtp_partial_failure_is_kept_or_put_off(hold_fails: bool) -> None:
    async def scene(client: Raw, _hop: Hop, _bench: Bench) -> None:
        await client.envelope("u@example.com", "full@example.com")
        assert (await client.message(SENT)).startswith("452 4.3.1" if hold_fails else "250")

    final: list[bytes | None] = [b"250 2.0.0 ok\r\n", b"552 5.2.2 full\r\n"]
    _, bench = play(scene, Hop(protocol="lmtp", final=final), Bench(hold_fails=hold_fails))
    assert bench.held == ([] if hold_fails else [(("full@example.com",), "552 5.2.2 full")])


def test_lmtp_failure_for_all_is_the_clients() -> None:
    async def scene(client: Raw, _hop: Hop, _bench: Bench) -> None:
        await client.envelope("u@example.com", "v@example.com")
        assert (await client.message(SENT)).startswith("451 4.3.0 later")

    final: list[bytes | None] = [b"552 5.2.2 full\r\n", b"451 4.3.0 later\r\n"]
    _, bench = play(scene, Hop(protocol="lmtp", final=final))
    assert not bench.held
