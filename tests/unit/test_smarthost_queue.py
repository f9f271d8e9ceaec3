# SPDX-License-Identifier: GPL-2.0-or-later
"""The smart-host door with its queue: what is on disk when the client hears 250, and what is asked before."""

from __future__ import annotations

import asyncio
import contextlib
import time
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

from contrib.lab.certificates import Authority
from gateway.delivery.verify import Verifier
from gateway.delivery.ways import Ways
from gateway.mail.types import Action, Contribution, Edit, EditOp, Mail, Reply, Verdict
from gateway.smarthost.intake import may_bounce
from gateway.store.database import StoreError
from gateway.tls.inbound import server_context
from tests.hop import Hop, running
from tests.smarthost_lab import FAST, MESSAGE, SENT, Bench, Raw, play, secure
from tests.stored import mail_for, verdict_for

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.store.queued import Outgoing


@dataclass
class Shelf:
    """Stands for the queue: keeps what it is given, or fails."""

    fails: bool = False
    waits: float = 0.0
    taken: list[Outgoing] = field(default_factory=list)

    def submit(self, mail: Outgoing) -> Future[None]:
        done: Future[None] = Future()

        def finish() -> None:
            if self.fails:
                done.set_exception(StoreError("disk full"))
                return
            self.taken.append(mail)
            done.set_result(None)

        if self.waits:
            asyncio.get_running_loop().call_later(self.waits, finish)
        else:
            finish()
        return done


def queued(scene: Any, shelf: Shelf | None = None, **changes: Any) -> tuple[Hop, Bench, Shelf]:
    shelf = shelf or Shelf()
    hop, bench = play(scene, submit=shelf.submit, **changes)
    return hop, bench, shelf


@pytest.mark.parametrize(("field", "option"), [(b"No", "TLS-REQUIRED=NO"), (b"Yes", "")])
def test_what_the_header_section_asks_of_tls_is_queued(field: bytes, option: str) -> None:
    async def scene(client: Raw, _hop: Hop, _bench: Bench) -> None:
        await client.envelope("u@example.com")
        await client.message(b"TLS-Required: " + field + b"\r\n" + SENT)

    _, _, shelf = queued(scene, verify_recipients=False)
    assert (option in shelf.taken[0].options) == bool(option)


def test_a_message_is_queued_as_it_is_to_be_sent() -> None:
    async def scene(client: Raw, _hop: Hop, bench: Bench) -> None:
        await client.envelope("u@example.com", "v@example.org")
        assert await client.message(SENT) == f"250 2.0.0 Ok: accepted (id {bench.mails[0].id})"

    bench = Bench(edits=(Edit(EditOp.INSERT, "X-One", "1"),))
    hop, bench, shelf = queued(scene, bench=bench, other=Hop(), verify_recipients=False)
    (mail,) = shelf.taken
    assert mail.id == bench.mails[0].id
    assert mail.sender == "a@example.net"
    assert [one.address for one in mail.recipients] == ["u@example.com", "v@example.org"]
    assert len({one.hop for one in mail.recipients}) == 2, "two next hops in one transaction"
    assert mail.message.startswith(b"Received: from c.example.net ")
    assert mail.message.endswith(b"\r\nX-One: 1\r\n" + MESSAGE)
    assert abs(mail.created - time.time()) < 30
    assert mail.expires - mail.created == 432_000
    assert not hop.commands, "the next hop is not needed"


def test_what_the_sender_asked_for_goes_with_the_message(tmp_path: Path) -> None:
    pair = Authority(tmp_path).issue("localhost")
    context = server_context(str(pair.certificate), str(pair.key))

    async def scene(client: Raw, _hop: Hop, _bench: Bench) -> None:
        greeting = await client.ask("EHLO c")
        assert "250-DSN" in greeting
        assert "REQUIRETLS" not in greeting, "in clear there is no such promise"
        assert (await client.ask("MAIL FROM:<a@b> REQUIRETLS")).startswith("555")
        await client.ask("STARTTLS")
        await secure(client)
        assert "250-REQUIRETLS" in await client.ask("EHLO c")
        assert (await client.ask("MAIL FROM:<a@b> RET=HDRS ENVID=x+2B REQUIRETLS")).startswith("250")
        assert (await client.ask("RCPT TO:<u@example.com> NOTIFY=SUCCESS")).startswith("250")
        assert (await client.ask("RCPT TO:<v@example.com> ORCPT=rfc822;w@example.com")).startswith("250")
        assert (await client.message(SENT)).startswith("250")

    _, _, shelf = queued(scene, tls=context, verify_recipients=False)
    (mail,) = shelf.taken
    assert mail.options == ("RET=HDRS", "ENVID=x+2B", "REQUIRETLS")
    assert [one.options for one in mail.recipients] == [("NOTIFY=SUCCESS",), ("ORCPT=rfc822;w@example.com",)]


def test_no_250_before_the_commit() -> None:
    async def scene(client: Raw, _hop: Hop, _bench: Bench) -> None:
        await client.envelope()
        await client.ask("DATA")
        client.send(SENT)
        with pytest.raises(TimeoutError):
            await client.reply(0.3)

    shelf = Shelf(waits=0.6)
    with contextlib.suppress(ConnectionError):
        queued(scene, shelf, verify_recipients=False)


def test_what_is_not_on_disk_is_not_promised() -> None:
    async def scene(client: Raw, _hop: Hop, _bench: Bench) -> None:
        await client.envelope()
        assert (await client.message(SENT)).startswith("452 4.3.1")
        shelf.fails = False
        await client.envelope()
        assert (await client.message(SENT)).startswith("250")

    shelf = Shelf(fails=True)
    queued(scene, shelf, verify_recipients=False)
    assert len(shelf.taken) == 1


def test_mail_for_which_the_disk_has_no_room_is_put_off_before_it_is_sent() -> None:
    async def scene(client: Raw, _hop: Hop, bench: Bench) -> None:
        assert (await client.ask("EHLO c.example.net")).startswith("250")
        assert (await client.ask("MAIL FROM:<a@example.net> SIZE=2000")).startswith("452 4.3.1")
        assert bench.counted == ["connections", "refused"]
        await client.envelope()
        assert (await client.message(SENT)).startswith("250")

    _, _, shelf = queued(scene, verify_recipients=False, room=lambda octets: octets < 2000)
    assert len(shelf.taken) == 1


@pytest.mark.parametrize("networks", [("127.0.0.0/8",), ("192.0.2.0/24",), ()])
def test_unjudged_networks_are_relayed_as_they_are(networks: tuple[str, ...]) -> None:
    """Who may say so is the connection and XCLIENT; XFORWARD, which anybody could be in, is not asked."""

    async def scene(client: Raw, _hop: Hop, _bench: Bench) -> None:
        for line in ("EHLO c.example.net", "XFORWARD ADDR=192.0.2.1", "MAIL FROM:<a@example.net>"):
            assert (await client.ask(line)).startswith("250")
        assert (await client.ask("RCPT TO:<u@example.com>")).startswith("250")
        assert (await client.message(SENT)).startswith("250 2.0.0 Ok: accepted (id ")

    bench = Bench(edits=(Edit(EditOp.INSERT, "X-One", "1"),))
    changes: dict[str, Any] = {"unjudged_networks": networks, "xforward_networks": ("127.0.0.0/8",)}
    _, bench, shelf = queued(scene, bench=bench, verify_recipients=False, **changes)
    (mail,) = shelf.taken
    assert len(bench.mails) == (networks != ("127.0.0.0/8",))
    assert (b"X-One" in mail.message) == bool(bench.mails)
    assert mail.message.startswith(b"Received: from c.example.net ")
    assert mail.may_bounce


def test_a_next_hop_that_is_down_costs_no_client_anything() -> None:
    async def scene(client: Raw, _hop: Hop, _bench: Bench) -> None:
        await client.envelope("u@example.com", "v@example.com")
        assert (await client.message(SENT)).startswith("250")

    hop, _, shelf = queued(scene, hop=Hop(greeting=None))
    assert len(shelf.taken) == 1
    assert hop.sessions == 1, "asked once, and then not for a while"


def test_only_those_that_are_relayed_are_queued() -> None:
    async def scene(client: Raw, _hop: Hop, _bench: Bench) -> None:
        await client.envelope("u@example.com", "held@example.com")
        assert (await client.message(SENT)).startswith("250")

    bench = Bench(actions={"held@example.com": Action.QUARANTINE})
    _, _, shelf = queued(scene, bench=bench, verify_recipients=False)
    assert [one.address for one in shelf.taken[0].recipients] == ["u@example.com"]


@pytest.mark.parametrize(
    ("action", "reply"),
    [(Action.QUARANTINE, "250 2.0.0"), (Action.DEFER, "451 4.7.1"), (Action.REJECT, "554 5.7.1")],
)
def test_what_is_not_relayed_is_not_queued(action: Action, reply: str) -> None:
    async def scene(client: Raw, _hop: Hop, _bench: Bench) -> None:
        await client.envelope()
        assert (await client.message(SENT)).startswith(reply)

    _, _, shelf = queued(scene, bench=Bench(default=action), verify_recipients=False)
    assert not shelf.taken


# ---------------------------------------------------------------- recipients


def test_unknown_recipients_are_refused_and_remembered() -> None:
    async def scene(client: Raw, _hop: Hop, _bench: Bench) -> None:
        for _ in range(3):
            await client.ask("EHLO c")
            await client.ask("MAIL FROM:<a@example.net>")
            assert await client.ask("RCPT TO:<no@example.com>") == "550 5.1.1 unknown"
            assert (await client.ask("RCPT TO:<later@example.com>")).startswith("250")
            assert (await client.ask("RCPT TO:<u@example.com>")).startswith("250")

    answers: dict[bytes, bytes | None] = {
        b"RCPT TO:<no@": b"550 5.1.1 unknown\r\n",
        b"RCPT TO:<later@": b"450 4.2.0 busy\r\n",
    }
    hop, _, _ = queued(scene, hop=Hop(answers=answers))
    asked = [line for line in hop.commands if line.startswith(b"RCPT")]
    assert asked.count(b"RCPT TO:<no@example.com>") == 1
    assert asked.count(b"RCPT TO:<u@example.com>") == 1
    assert asked.count(b"RCPT TO:<later@example.com>") == 3, "a 4xx is no answer"
    assert b"DATA" not in hop.commands
    assert {line for line in hop.commands if line.startswith(b"MAIL")} == {b"MAIL FROM:<> BODY=8BITMIME"}
    assert hop.sessions == 1


def test_recipients_of_others_are_not_asked_for() -> None:
    async def scene(client: Raw, _hop: Hop, _bench: Bench) -> None:
        await client.envelope("u@example.net")
        assert (await client.message(SENT)).startswith("250")

    hop, _, shelf = queued(scene, relay_networks=("127.0.0.0/8",))
    assert not hop.commands
    assert len(shelf.taken) == 1


@pytest.mark.parametrize(
    "hop",
    [
        Hop(greeting=b"554 no\r\n"),
        Hop(answers={b"MAIL": b"550 5.7.1 no null sender here\r\n"}),
        Hop(answers={b"RCPT": None}),
        Hop(answers={b"RCPT": b"garbage\r\n"}),
        Hop(answers={b"RCPT": b""}),
    ],
    ids=["greeting", "mail", "closes", "garbage", "hangs"],
)
def test_only_a_refusal_of_the_recipient_refuses(hop: Hop) -> None:
    async def go() -> None:
        async with running(hop):
            verifier = Verifier("gw.example.com", Ways(), FAST, 60)
            assert await verifier.refusal("u@example.com", hop.route) is None
            await verifier.close()

    asyncio.run(go())


def test_a_stale_connection_is_opened_anew() -> None:
    hop = Hop(answers={b"RCPT TO:<no@": b"550 5.1.1 unknown\r\n"})

    async def go() -> None:
        verifier = Verifier("gw.example.com", Ways(), FAST, 60)
        async with running(hop):
            assert await verifier.refusal("u@example.com", hop.route) is None
            hop.drop_after = 1
            assert await verifier.refusal("v@example.com", hop.route) is None
            refused = await verifier.refusal("no@example.com", hop.route)
            assert refused is not None
            assert refused.code == 550
        await verifier.close()

    asyncio.run(go())


# ---------------------------------------------------------------- who may be told


@pytest.mark.parametrize(
    ("sender", "signal", "told"),
    [
        ("alice@example.net", "CLASSIFIER", True),
        ("", "CLASSIFIER", False),
        ("alice@example.net", "SPF_FAIL", False),
        ("alice@example.net", "DMARC_FAIL", False),
        ("alice@example.net", "DMARC_QUARANTINE", False),
        ("alice@example.net", "VIRUS", False),
        ("alice@example.net", "VIRUS_LIMIT", False),
    ],
)
def test_who_may_be_told_of_a_failure(sender: str, signal: str, told: bool) -> None:
    mail: Mail = mail_for(sender=sender)
    verdict: Verdict = replace(verdict_for(mail), contributions=(Contribution(signal, 1.0),))
    assert may_bounce(mail, verdict) is told


def test_every_signal_named_there_exists() -> None:
    from gateway.data import data_dir
    from gateway.smarthost.intake import _NOT_BOUNCED

    text = (data_dir("rules") / "signals.toml").read_text("utf-8")
    assert all(f"[{name}]" in text for name in _NOT_BOUNCED)


def test_admission_still_comes_first() -> None:
    async def scene(client: Raw, _hop: Hop, _bench: Bench) -> None:
        await client.ask("EHLO c")
        await client.ask("MAIL FROM:<a@example.net>")
        assert (await client.ask("RCPT TO:<u@example.com>")).startswith("550 5.7.1")

    bench = Bench(refuse=lambda _s, _f, recipient: Reply(550, "5.7.1", "no") if recipient else None)
    hop, _, _ = queued(scene, bench=bench)
    assert not hop.commands
