# SPDX-License-Identifier: GPL-2.0-or-later
"""The delivery agent: from the queue to scripted next hops, and what becomes of each recipient."""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from gateway.delivery.runner import Runner
from gateway.store.deliveries import known
from gateway.store.queued import Addressee, Filter, State
from gateway.tls.outbound import OutboundTlsRule
from tests.agency import MESSAGE, Agency, play, until
from tests.stored import execute

if TYPE_CHECKING:
    from gateway.store.database import Database


def test_what_needs_tls_comes_back_where_a_hop_has_none(database: Database) -> None:
    agency = Agency(database)
    agency.add(options=("REQUIRETLS",))
    agency.add(options=("TLS-REQUIRED=NO",))

    async def scene(agency: Agency) -> None:
        await until(lambda: len(agency.back.taken) == 1 and len(agency.hop.taken) == 1)

    play(agency, scene)
    (notice,) = agency.back.taken
    assert b"5.7.30" in notice.message
    (sent,) = agency.hop.taken
    assert b"TLS-REQUIRED" not in sent.mail.upper()


def test_one_message_to_two_next_hops(database: Database) -> None:
    agency = Agency(database)
    agency.add("u@example.com", "v@example.com", "w@example.org", options=("BODY=8BITMIME",))

    async def scene(lab: Agency) -> None:
        await until(lambda: not lab.states())

    play(agency, scene)
    (here,), (there,) = agency.hop.taken, agency.other.taken
    assert here.rcpts == [b"RCPT TO:<u@example.com>", b"RCPT TO:<v@example.com>"]
    assert there.rcpts == [b"RCPT TO:<w@example.org>"]
    assert here.message == there.message == MESSAGE
    assert agency.counted == ["delivered"] * 3


def test_new_mail_wakes_the_agent_at_once(database: Database) -> None:
    agency = Agency(database, poll=300)
    reading, writing = os.pipe2(os.O_NONBLOCK)

    async def go() -> None:
        async with agency.hops(), agency.agent(reading):
            await asyncio.sleep(0.3)
            agency.add()
            os.write(writing, b"+")
            await until(lambda: bool(agency.hop.taken))  # long before it looks by itself

    try:
        asyncio.run(go())
    finally:
        os.close(reading)
        os.close(writing)


def test_a_connection_serves_one_message_after_the_other(database: Database) -> None:
    agency = Agency(database, concurrency=2, idle=2)
    for _ in range(30):
        agency.add()

    async def scene(lab: Agency) -> None:
        await until(lambda: not lab.states())

    play(agency, scene)
    assert len(agency.hop.taken) == 30
    assert agency.hop.sessions <= 2


def test_each_recipient_is_settled_by_its_own_answer(database: Database) -> None:
    """250, 450 and 550 for one message: one delivery, one retry for that one alone, one notice."""
    agency = Agency(database, retry_first=500, retry_longest=500)  # it is tried again when we say so
    agency.hop.answers = {
        b"RCPT TO:<no@": b"550 5.1.1 unknown\r\n",
        b"RCPT TO:<later@": b"450 4.2.0 busy\r\n",
    }
    mail = agency.add("yes@example.com", "no@example.com", "later@example.com")

    async def scene(lab: Agency) -> None:
        await until(lambda: bool(lab.back.taken))
        del lab.hop.answers[b"RCPT TO:<later@"]
        assert lab.queue.flush(Filter()).items == [mail.id]
        await until(lambda: not lab.states())

    play(agency, scene)
    assert [taken.rcpts for taken in agency.hop.taken] == [
        [b"RCPT TO:<yes@example.com>"],
        [b"RCPT TO:<later@example.com>"],
    ]
    (notice,) = agency.back.taken
    assert notice.mail.startswith(b"MAIL FROM:<>")
    assert notice.rcpts == [b"RCPT TO:<alice@example.net>"]
    assert b"Final-Recipient: rfc822; no@example.com" in notice.message
    assert b"5.1.1 unknown" in notice.message
    assert b"later@" not in notice.message
    assert mail.id.encode() in notice.message
    ends = [(one.address, one.ended, one.attempts, one.server) for one in known(database, [mail.id])[mail.id]]
    server = str(agency.hop.next_hop)
    assert ends == [
        ("yes@example.com", "delivered", 1, server),
        ("no@example.com", "bounced", 1, server),
        ("later@example.com", "delivered", 2, server),
    ]


@pytest.mark.parametrize("changes", [{"sender": ""}, {"may_bounce": False}], ids=["null sender", "forged"])
def test_nobody_is_told_where_nobody_may_be(database: Database, changes: Any) -> None:
    agency = Agency(database)
    agency.hop.final = [b"554 5.6.0 no\r\n"]
    agency.add(**{"may_bounce": False, **changes})

    async def scene(lab: Agency) -> None:
        await until(lambda: lab.states() == [State.UNDELIVERABLE])

    play(agency, scene)
    assert not agency.back.taken
    assert agency.only().recipients[0].reply == "554 5.6.0 no"


@pytest.mark.parametrize(
    ("offered", "protocol", "changes", "action"),
    [
        ((), "smtp", {}, b"relayed"),
        ((), "lmtp", {}, b"delivered"),
        (("DSN",), "smtp", {}, b""),
        ((), "smtp", {"may_bounce": False}, b""),
    ],
)
def test_who_asks_for_a_report_of_success_gets_one_where_nobody_behind_sends_it(
    database: Database, offered: tuple[str, ...], protocol: str, changes: Any, action: bytes
) -> None:
    agency = Agency(database)
    agency.hop.offered, agency.hop.protocol = offered, protocol
    agency.hop.final = [b"250 2.1.5 kept\r\n", b"250 2.1.5 kept\r\n"]
    asking = Addressee("u@example.com", options=("NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;u@example.com"))
    agency.add(recipients=(asking, Addressee("v@example.com")), **changes, message=b"Subject: x\r\n\r\ny\r\n")

    async def scene(lab: Agency) -> None:
        await until(lambda: not lab.states())

    play(agency, scene)
    sent = agency.hop.taken[0].rcpts[0]
    assert (b"NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;u@example.com" in sent) == bool(offered)
    if not action:
        assert not agency.back.taken
        return
    (told,) = agency.back.taken
    assert told.mail.startswith(b"MAIL FROM:<>")
    assert told.message.count(b"\r\nAction: " + action + b"\r\nStatus: 2.") == 1
    assert told.message.count(b"Final-Recipient: ") == 1
    assert b"Remote-MTA: dns; [127.0.0.1]" in told.message


def test_a_notice_that_fails_is_not_reported(database: Database) -> None:
    """No loop: the notice stays as undeliverable mail, and there is only one of it."""
    agency = Agency(database)
    agency.hop.answers = agency.back.answers = {b"RCPT": b"550 5.1.1 unknown\r\n"}
    agency.add()

    async def scene(lab: Agency) -> None:
        await until(lambda: lab.states() == [State.UNDELIVERABLE])

    play(agency, scene)
    assert agency.only().facts.sender == ""
    assert agency.counted == ["failed", "notice", "undeliverable"]


def test_what_was_tried_too_long_goes_back(database: Database) -> None:
    agency = Agency(database)
    agency.hop.greeting = b"554 5.3.2 closed\r\n"
    agency.add(expires=time.time() + 0.6)

    async def scene(lab: Agency) -> None:
        await until(lambda: not lab.states())

    play(agency, scene)
    (notice,) = agency.back.taken
    assert b"Status: 4.4.7" in notice.message


def test_a_delay_is_told_once(database: Database) -> None:
    agency = Agency(database, delay_notice=1, lease=0.3)
    agency.hop.answers = {b"MAIL": b"451 4.3.2 later\r\n"}
    agency.add(created=time.time() - 3)

    async def scene(lab: Agency) -> None:
        await until(lambda: bool(lab.back.taken))
        await asyncio.sleep(0.4)

    play(agency, scene)
    (notice,) = agency.back.taken
    assert b"Action: delayed" in notice.message
    assert b"Will-Retry-Until" in notice.message
    assert agency.only().facts.warned


def test_a_dead_next_hop_is_left_alone_and_holds_up_nobody(database: Database) -> None:
    agency = Agency(database, pause_longest=60, retry_first=60, retry_longest=60)
    agency.hop.greeting = None
    for _ in range(50):
        agency.add()

    async def scene(lab: Agency) -> None:
        await until(lambda: lab.hop.sessions > 0)
        lab.add("w@example.org")
        await until(lambda: bool(lab.other.taken))

    play(agency, scene)
    assert agency.hop.sessions <= 2 * agency.settings.concurrency
    assert agency.states() == [State.QUEUED] * 50


def test_nothing_goes_in_clear_where_tls_is_demanded(database: Database) -> None:
    agency = Agency(database)
    agency.tls_rules = (OutboundTlsRule(domains=("example.com",), level="encrypt"),)
    agency.add()

    async def scene(lab: Agency) -> None:
        await until(lambda: "deferred" in lab.counted)

    play(agency, scene)
    assert not agency.hop.taken
    assert "TLS is required" in agency.only().recipients[0].reply
    assert not any(line.startswith(b"MAIL") for line in agency.hop.commands)


@pytest.mark.parametrize(
    "fault",
    [
        {"greeting": b""},
        {"greeting": b"\xff" * 5_000},
        {"answers": {b"EHLO": b""}},
        {"answers": {b"MAIL": b"250-\r\n" * 500}},
        {"answers": {b"DATA": b""}},
        {"answers": {b"DATA": None}},
        {"final": [b""]},
        {"final": [None]},
        {"final": [b"garbage\r\n"]},
        {"drop_after": 1},
    ],
    ids=str,
)
def test_a_next_hop_that_misbehaves_is_tried_again(database: Database, fault: dict[str, Any]) -> None:
    agency = Agency(database)
    for name, value in fault.items():
        setattr(agency.hop, name, value)
    agency.add()

    async def scene(lab: Agency) -> None:
        if "drop_after" not in fault:
            await until(lambda: "deferred" in lab.counted)
        lab.hop.greeting, lab.hop.answers = b"220 back\r\n", {}
        await until(lambda: not lab.states())

    play(agency, scene)
    assert agency.hop.taken[-1].message == MESSAGE
    assert not agency.back.taken


def test_postmaster_goes_where_the_door_said(database: Database) -> None:
    agency = Agency(database)

    async def scene(lab: Agency) -> None:
        lab.add(recipients=(Addressee("postmaster", str(lab.other.next_hop)),))
        await until(lambda: not lab.states())

    play(agency, scene)
    assert agency.other.taken[0].rcpts == [b"RCPT TO:<postmaster>"]


def test_no_route_waits_for_one(database: Database) -> None:
    agency = Agency(database)
    agency.add("u@nowhere.example")

    async def scene(lab: Agency) -> None:
        await until(lambda: "deferred" in lab.counted)

    play(agency, scene)
    assert "no next hop" in agency.only().recipients[0].reply


def test_damaged_bytes_are_held_for_a_look(database: Database) -> None:
    agency = Agency(database)
    agency.add()
    execute(database, "UPDATE queue_bytes SET data = 'x'")

    async def scene(lab: Agency) -> None:
        await until(lambda: lab.states() == [State.HELD])

    play(agency, scene)
    assert "damaged" in agency.only().recipients[0].reply


def test_no_end_is_missed_while_outcomes_gather(database: Database) -> None:
    """Told to end just as enough has come, or some turns of the loop later, settling ends."""

    async def go() -> None:
        agency = Agency(database)
        async with agency.hops():
            courier = agency.courier()
        with ThreadPoolExecutor(1) as pool:
            for turns in range(8):
                runner = Runner(courier, pool)
                runner._receipts = SimpleNamespace(kept=True)  # type: ignore[assignment]  # all that is asked
                runner._settling.set()
                task = asyncio.create_task(runner._settle_forever())
                await asyncio.sleep(0.001)
                runner._plenty.set()
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                done, _ = await asyncio.wait([task], timeout=30)
                assert done, turns

    asyncio.run(go())
