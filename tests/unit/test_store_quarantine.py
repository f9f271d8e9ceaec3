# SPDX-License-Identifier: GPL-2.0-or-later
"""The quarantine: held durably, found again, released once, deleted for good, all of it on record."""

from __future__ import annotations

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import delete, insert, select, update

from gateway.mail.types import Evidence
from gateway.store import audit, schema
from gateway.store.database import Database, StoreError
from gateway.store.search import Search
from gateway.store.states import Actor, State
from tests.stored import (
    EVIDENCE,
    POSTGRESQL,
    RAW,
    SIGNALS,
    claim,
    execute,
    hold,
    mail_for,
    verdict_for,
)

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection

    from gateway.store.held import Claim
    from gateway.store.quarantine import Quarantine

BOB, CAROL, DAVE = "bob@example.com", "carol@example.com", "dave@example.com"
ME = "cli:me"


def claimed(quarantine: Quarantine, item: str, *recipients: str, seconds: float = 60.0) -> Claim:
    taken = claim(quarantine, item, *recipients, who=ME, seconds=seconds)
    assert taken is not None
    return taken


def states(quarantine: Quarantine, item: str) -> tuple[str, dict[str, str]]:
    found = quarantine.find(item)
    assert found is not None
    return found.state.value, {r.address: r.state.value for r in found.recipients}


# ---------------------------------------------------------------- holding


@pytest.mark.parametrize(
    "raw",
    [RAW, b"", b"\x00\xff" * 1000, b"no header at all", RAW.replace(b"\r\n", b"\n"), RAW + b"a" * 3_000_000],
    ids=["plain", "empty", "binary", "no header", "bare LF", "long"],
)
def test_bytes_come_back_as_they_were(quarantine: Quarantine, raw: bytes) -> None:
    mail = hold(quarantine, mail_for(raw=raw))
    assert quarantine.raw(mail.id) == raw
    original = quarantine.original(mail.id)
    assert (original.session, original.envelope, original.raw) == (mail.session, mail.envelope, raw)


def test_what_is_known_about_an_item(quarantine: Quarantine) -> None:
    before = time.time()
    mail = hold(quarantine, mail_for(BOB, CAROL))
    item = quarantine.find(mail.id)
    assert item is not None
    assert (item.queue_id, item.client_ip, item.helo) == ("4XYZabc", "203.0.113.5", "mx.example.net")
    assert (item.sender, item.subject, item.message_id) == (
        "alice@example.net",
        "A chance",
        "<1@example.net>",
    )
    assert (item.size, item.sha256) == (len(RAW), hashlib.sha256(RAW).hexdigest())
    assert (item.score, item.reason, item.reasons) == (9.5, "score", ("CLASSIFIER", "score"))
    assert item.state is State.HELD
    assert before <= item.held_at <= time.time()
    assert item.received == mail.received
    [judgement] = quarantine.judgements(mail.id)
    assert (judgement.evidence, judgement.signals) == (EVIDENCE, SIGNALS)
    assert judgement.verdict == verdict_for(mail)


def test_only_held_recipients_are_kept(quarantine: Quarantine) -> None:
    mail = hold(quarantine, mail_for(BOB, CAROL, DAVE, CAROL), held=[CAROL, DAVE])
    assert states(quarantine, mail.id) == ("held", {CAROL: "held", DAVE: "held"})
    assert claimed(quarantine, mail.id).recipients == (CAROL, DAVE)


def test_holding_twice_is_holding_once(quarantine: Quarantine) -> None:
    mail = hold(quarantine)
    hold(quarantine, mail)
    assert quarantine.count(Search()) == 1
    assert [e.action for e in quarantine.history(mail.id)] == ["held"]


def test_another_message_under_a_known_id_is_refused(quarantine: Quarantine) -> None:
    mail = hold(quarantine)
    with pytest.raises(StoreError):
        hold(quarantine, replace(mail, raw=b"other"))
    assert quarantine.raw(mail.id) == RAW


@pytest.mark.parametrize("bad", ["", "../../etc/passwd", "-rf", "a;id", "A" * 10_000, "0" * 15 + "\0"])
def test_foreign_ids_are_refused(quarantine: Quarantine, bad: str) -> None:
    with pytest.raises(StoreError):
        hold(quarantine, replace(mail_for(), id=bad))
    assert quarantine.find(bad) is None
    assert quarantine.delete(bad, Actor(ME)) is False
    assert quarantine.claim(bad, None, ME) is None
    with pytest.raises(StoreError):
        quarantine.raw(bad)


def test_a_message_held_for_nobody_is_refused(quarantine: Quarantine) -> None:
    with pytest.raises(StoreError):
        hold(quarantine, held=[])


def test_hostile_text_does_not_stop_a_message_from_being_held(quarantine: Quarantine) -> None:
    hostile = "\x1b[2J\x00\r\nX: y\u202e\udcff'; DROP TABLE quarantine; --"
    people = (hostile + "@example.com", "caf\udce9@example.com")
    mail = hold(quarantine, mail_for(*people, sender=hostile, helo=hostile), reasons=[hostile, "a" * 5000])
    item = quarantine.find(mail.id)
    assert item is not None
    shown = [item.sender, item.helo, item.subject, *item.reasons, *(r.address for r in item.recipients)]
    assert all(text.isprintable() for text in shown)
    assert max(map(len, shown)) <= 320
    claim = claimed(quarantine, mail.id)
    assert claim.recipients == people
    assert (
        quarantine.settle(claim, who=hostile, delivered={people[0]: people[0]}, failed={people[1]: hostile})
        == ()
    )
    assert [r.state for r in quarantine.find(mail.id).recipients] == ["released", "held"]  # type: ignore[union-attr]  # it is there
    assert quarantine.verify_audit() is None


def test_evidence_of_any_message_is_kept(quarantine: Quarantine) -> None:
    mail = mail_for()
    quarantine.hold(mail, verdict_for(mail), Evidence(), (), content=None, reasons=())
    [judgement] = quarantine.judgements(mail.id)
    assert judgement.evidence == Evidence()
    assert quarantine.find(mail.id).reasons == ()  # type: ignore[union-attr]  # it is there


def test_damage_is_found(quarantine: Quarantine, database: Database) -> None:
    mail, other = hold(quarantine), hold(quarantine, mail_for(raw=RAW + b"more"))
    table = schema.quarantine_bytes
    swapped = database.read(
        lambda c: c.execute(select(table.c.data).where(table.c.item == other.id)).scalar()
    )
    for data in (swapped, b"rubbish", b""):
        execute(database, update(table).where(table.c.item == mail.id).values(data=data))
        with pytest.raises(StoreError, match="damaged"):
            quarantine.raw(mail.id)


def test_unpacking_is_bounded(quarantine: Quarantine, database: Database) -> None:
    import zlib

    mail = hold(quarantine)
    bomb = zlib.compress(b"0" * 50_000_000)
    database.write(lambda c: c.execute(update(schema.quarantine_bytes).values(data=bomb)))
    started = time.process_time()
    with pytest.raises(StoreError, match="damaged"):
        quarantine.raw(mail.id)
    assert time.process_time() - started < 0.05


def test_many_recipients_cost_no_more_each_than_few(quarantine: Quarantine) -> None:
    mail = mail_for(*(f"p{number}@example.com" for number in range(10_000)))
    started = time.process_time()
    hold(quarantine, mail)
    assert time.process_time() - started < 3, "a recipient is looked up among all others"


# ---------------------------------------------------------------- looking


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, [2, 1, 0]),
        ({"sender": "ALICE@"}, [2, 0]),
        ({"sender": "a%e"}, []),
        ({"sender": "alice@example.ne_"}, []),
        ({"sender": "' OR 1=1 --"}, []),
        ({"recipient": "carol"}, [1]),
        ({"recipient": "example.com"}, [2, 1, 0]),
        ({"subject": "CHANCE"}, [2, 0]),
        ({"reason": "score"}, [2, 0]),
        ({"reason": "dmarc_quarantine"}, [1]),
        ({"reason": "SCO"}, []),
        ({"state": State.HELD}, [1, 0]),
        ({"state": State.DELETED}, [2]),
        ({"since": 0.0}, [2, 1, 0]),
        ({"since": 9e12}, []),
        ({"until": 9e12, "reason": "score", "sender": "alice"}, [2, 0]),
        ({"limit": 1, "offset": 1}, [1]),
    ],
)
def test_items_are_found_by(quarantine: Quarantine, wanted: dict[str, Any], expected: list[int]) -> None:
    other = RAW.replace(b"A chance", b"An offer")
    mails = [
        hold(quarantine),
        hold(
            quarantine,
            mail_for(BOB, CAROL, sender="eve@example.org", raw=other),
            reasons=["DMARC_QUARANTINE"],
        ),
        hold(quarantine),
    ]
    order = sorted(range(3), key=lambda n: mails[n].id)
    assert quarantine.delete(mails[2].id, Actor(ME))
    if "subject" in wanted:  # a deleted message has none any more
        expected = [n for n in expected if n != 2]
    found = [item.id for item in quarantine.search(Search(**wanted))]
    if order == [0, 1, 2]:  # ids made within one millisecond have no order
        assert found == [mails[n].id for n in expected]
    else:
        assert len(found) == len(expected)
    if "limit" not in wanted:
        assert quarantine.count(Search(**wanted)) == len(expected)


# ---------------------------------------------------------------- releasing


def test_the_way_of_a_release(quarantine: Quarantine) -> None:
    mail = hold(quarantine, mail_for(BOB, CAROL, DAVE))
    claim = claimed(quarantine, mail.id, BOB.upper(), CAROL)
    assert claim.recipients == (BOB, CAROL)
    assert states(quarantine, mail.id) == ("releasing", {BOB: "releasing", CAROL: "releasing", DAVE: "held"})
    assert quarantine.settle(claim, who=ME, delivered={BOB: BOB}, failed={CAROL: "451 later"}) == ()
    assert states(quarantine, mail.id) == ("held", {BOB: "released", CAROL: "held", DAVE: "held"})
    again = claimed(quarantine, mail.id)
    assert again.recipients == (CAROL, DAVE)
    quarantine.settle(
        again, who=ME, delivered={CAROL: "postmaster@example.com", DAVE: "postmaster@example.com"}
    )
    assert states(quarantine, mail.id) == ("released", {BOB: "released", CAROL: "released", DAVE: "released"})
    item = quarantine.find(mail.id)
    assert item is not None
    assert [r.delivered_to for r in item.recipients] == [
        BOB,
        "postmaster@example.com",
        "postmaster@example.com",
    ]
    assert quarantine.claim(mail.id, None, ME) is None
    told = [e.action for e in quarantine.history(mail.id)]
    first = ["held", "answered", "scheduled", "claimed", "released", "failed"]
    assert told == [*first, "scheduled", "claimed", "released", "released"]


def test_a_failure_is_noted(quarantine: Quarantine) -> None:
    mail = hold(quarantine)
    quarantine.settle(claimed(quarantine, mail.id), who=ME, failed={BOB: "550 5.1.1 \x1b[31mno such user"})
    [recipient] = quarantine.find(mail.id).recipients  # type: ignore[union-attr]  # it is there
    assert recipient.note == "550 5.1.1 ?[31mno such user"


def test_nobody_else_gets_a_live_lease(quarantine: Quarantine) -> None:
    mail = hold(quarantine, mail_for(BOB, CAROL))
    claimed(quarantine, mail.id, BOB)
    assert quarantine.claim(mail.id, [BOB], "other") is None
    assert claimed(quarantine, mail.id).recipients == (CAROL,)
    assert quarantine.claim(mail.id, None, "other") is None


def test_an_expired_lease_is_taken_over_and_its_owner_is_told(quarantine: Quarantine) -> None:
    mail = hold(quarantine)
    first = claimed(quarantine, mail.id, seconds=0.01)
    time.sleep(0.02)
    second = claimed(quarantine, mail.id)
    assert quarantine.settle(first, who=ME, delivered={BOB: BOB}) == (BOB,)
    assert states(quarantine, mail.id) == ("releasing", {BOB: "releasing"})
    assert quarantine.settle(second, who=ME, delivered={BOB: BOB}) == ()
    assert states(quarantine, mail.id) == ("released", {BOB: "released"})
    assert [e.action for e in quarantine.history(mail.id)][-2:] == ["released late", "released"]


def test_an_expired_lease_that_nobody_took_still_settles(quarantine: Quarantine) -> None:
    mail = hold(quarantine)
    claim = claimed(quarantine, mail.id, seconds=0.01)
    time.sleep(0.02)
    assert quarantine.settle(claim, who=ME, delivered={BOB: BOB}) == ()
    assert states(quarantine, mail.id) == ("released", {BOB: "released"})


@pytest.mark.parametrize("recipients", [["nobody@example.com"], [], ["' OR '1'='1"]])
def test_only_held_recipients_can_be_claimed(quarantine: Quarantine, recipients: list[str]) -> None:
    mail = hold(quarantine)
    quarantine.decisions.schedule(mail.id, None, Actor(ME), due=time.time())
    assert quarantine.claim(mail.id, recipients, ME) is None
    assert states(quarantine, mail.id) == ("scheduled", {BOB: "scheduled"})


def test_what_nobody_released_cannot_be_claimed(quarantine: Quarantine) -> None:
    mail = hold(quarantine)
    assert quarantine.claim(mail.id, None, ME) is None
    assert states(quarantine, mail.id) == ("held", {BOB: "held"})


def test_of_twenty_threads_one_wins(quarantine: Quarantine) -> None:
    mail = hold(quarantine, mail_for(BOB, CAROL))
    quarantine.decisions.schedule(mail.id, None, Actor(ME), due=time.time())
    with ThreadPoolExecutor(20) as pool:
        claims = list(pool.map(lambda n: quarantine.claim(mail.id, None, f"cli:{n}"), range(20)))
    assert sum(claim is not None for claim in claims) == 1


# ---------------------------------------------------------------- removing


def test_deleting_leaves_an_empty_row(quarantine: Quarantine) -> None:
    mail = hold(quarantine, mail_for(BOB, CAROL))
    quarantine.settle(claimed(quarantine, mail.id, BOB), who=ME, delivered={BOB: BOB})
    assert quarantine.delete(mail.id, Actor(ME), why="asked to")
    assert states(quarantine, mail.id) == ("deleted", {BOB: "released", CAROL: "deleted"})
    item = quarantine.find(mail.id)
    assert item is not None
    assert (item.subject, item.message_id, item.helo, item.client_ip) == ("", "", "", "")
    assert quarantine.judgements(mail.id) == []
    for ask in (quarantine.raw, quarantine.original):
        with pytest.raises(StoreError, match="no message any more"):
            ask(mail.id)
    assert quarantine.delete(mail.id, Actor(ME)) is False
    assert quarantine.claim(mail.id, None, ME) is None
    assert [(e.who, e.action, e.why) for e in quarantine.history(mail.id)][-1] == (ME, "deleted", "asked to")


@pytest.mark.skipif(bool(POSTGRESQL), reason="looks into SQLite's files")
@pytest.mark.parametrize("way", ["delete", "expire"])
def test_deleted_bytes_are_gone_from_the_disk(
    quarantine: Quarantine, database: Database, tmp_path: Path, way: str
) -> None:
    secret = os.urandom(40_000)  # does not compress, so it lies there as it is
    mail = hold(quarantine, mail_for(raw=RAW + secret))
    for _ in range(3):
        hold(quarantine)
    probe = secret[20_000:20_100]

    def on_disk() -> bool:
        return any(probe in file.read_bytes() for file in (tmp_path / "store").iterdir())

    assert on_disk()
    if way == "delete":
        quarantine.delete(mail.id, Actor(ME))
    else:
        assert quarantine.expire(time.time() + 1) == 4
        database.purge()
    assert not on_disk()


def test_what_is_being_released_is_not_removed(quarantine: Quarantine) -> None:
    mail = hold(quarantine)
    claim = claimed(quarantine, mail.id)
    assert quarantine.delete(mail.id, Actor(ME)) is False
    assert quarantine.expire(time.time() + 1) == 0
    assert quarantine.raw(mail.id) == RAW
    quarantine.settle(claim, who=ME, delivered={BOB: BOB})
    assert quarantine.expire(time.time() + 1) == 1


def test_what_was_claimed_by_the_dead_can_be_removed(quarantine: Quarantine) -> None:
    mail = hold(quarantine)
    claimed(quarantine, mail.id, seconds=-1.0)
    assert quarantine.delete(mail.id, Actor(ME)) is True


def test_expiry_goes_in_batches_and_spares_the_young(quarantine: Quarantine, database: Database) -> None:
    mails = [hold(quarantine) for _ in range(5)]
    for n, mail in enumerate(mails):
        aged = update(schema.quarantine).where(schema.quarantine.c.id == mail.id).values(held_at=1000.0 + n)
        execute(database, aged)
    quarantine.settle(claimed(quarantine, mails[0].id), who=ME, delivered={BOB: BOB})
    assert [quarantine.expire(1004.0, batch=3) for _ in range(3)] == [3, 1, 0]
    assert states(quarantine, mails[0].id) == ("released", {BOB: "released"})
    assert states(quarantine, mails[1].id) == ("expired", {BOB: "expired"})
    assert states(quarantine, mails[4].id) == ("held", {BOB: "held"})
    assert quarantine.forget(time.time() + 1, batch=3) == 3
    assert quarantine.forget(time.time() + 1) == 1
    assert [item.id for item in quarantine.search(Search())] == [mails[4].id]
    assert quarantine.verify_audit() is None


# ---------------------------------------------------------------- audit


def test_the_audit_refuses_changes(quarantine: Quarantine, database: Database) -> None:
    hold(quarantine)
    for statement in (update(schema.audit).values(who="nobody"), delete(schema.audit)):
        with pytest.raises(StoreError, match="append-only"):
            execute(database, statement)
    assert quarantine.verify_audit() is None


def _drop_guard(database: Database) -> None:
    if database.dialect == "sqlite":
        statements = ["DROP TRIGGER audit_no_update", "DROP TRIGGER audit_no_delete"]
    else:
        statements = ["DROP TRIGGER audit_append_only ON audit"]
    for statement in statements:
        execute(database, statement)


@pytest.mark.parametrize(
    ("tamper", "first"),
    [
        (update(schema.audit).where(schema.audit.c.number == 2).values(who="nobody"), 2),
        (update(schema.audit).where(schema.audit.c.number == 2).values(time=1.0), 2),
        (update(schema.audit).where(schema.audit.c.number == 2).values(item="0" * 16), 2),
        (update(schema.audit).where(schema.audit.c.number == 2).values(hash="0" * 64), 2),
        (delete(schema.audit).where(schema.audit.c.number == 1), 1),
        (delete(schema.audit).where(schema.audit.c.number == 2), 2),
        (delete(schema.audit).where(schema.audit.c.number == 4), 4),
        (delete(schema.audit), 1),
        (
            insert(schema.audit).values(
                number=5, time=1.0, item="0" * 16, who="x", action="held", why="", hash="0" * 64
            ),
            5,
        ),
        (
            insert(schema.audit).values(
                number=-(2**62), time=1.0, item="0" * 16, who="x", action="held", why="", hash="0" * 64
            ),
            1,
        ),
    ],
)
def test_tampering_with_the_audit_is_found(
    quarantine: Quarantine, database: Database, tamper: Any, first: int
) -> None:
    for _ in range(4):
        hold(quarantine)
    assert quarantine.verify_audit() is None
    _drop_guard(database)
    database.write(lambda c: c.execute(tamper))
    assert quarantine.verify_audit() == first


def test_an_audit_made_anew_is_found_by_what_was_noted(quarantine: Quarantine, database: Database) -> None:
    """Who can write to the database can write a chain that fits; none with a hash that was noted."""
    for _ in range(4):
        hold(quarantine)
    number, _, digest = quarantine.audit_head().partition(" ")
    noted = (int(number), digest)
    hold(quarantine)
    assert quarantine.verify_audit(noted) is None
    _drop_guard(database)
    rows = database.read(lambda c: c.execute(select(schema.audit).order_by(schema.audit.c.number)).all())

    def anew(connection: Connection) -> None:
        connection.execute(delete(schema.audit))
        connection.execute(delete(schema.secrets).where(schema.secrets.c.name == "audit-head"))
        for row in rows:
            audit.append(connection, row.item, "cli:eve", row.action, row.why)

    database.write(anew)
    assert quarantine.verify_audit() is None
    assert quarantine.verify_audit(noted) == noted[0]
    head = quarantine.audit_head().split()
    assert quarantine.verify_audit((int(head[0]) + 1, head[1])) == int(head[0]) + 1


def test_an_empty_audit_is_whole(quarantine: Quarantine) -> None:
    assert quarantine.verify_audit() is None
