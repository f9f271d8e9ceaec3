# SPDX-License-Identifier: GPL-2.0-or-later
"""What people decide about held mail: each decision is a transition, in the audit, and by who may."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

from gateway.housekeeper import delete_due
from gateway.log import LogSettings, open_log
from gateway.store import schema
from gateway.store.database import Database, StoreError
from gateway.store.decisions import Decisions, RefusedError
from gateway.store.filters import Filters
from gateway.store.search import Search
from gateway.store.states import OPEN, OURSELVES, Actor, Role, State
from tests.stored import RAW, claim, hold, mail_for

if TYPE_CHECKING:
    from gateway.store.quarantine import Quarantine

BOB, CAROL = "bob@example.com", "carol@example.com"
USER, REVIEWER, ADMIN = Actor("bob", Role.USER), Actor("eve"), Actor("root", Role.ADMINISTRATOR)


@pytest.fixture
def decisions(quarantine: Quarantine) -> Decisions:
    return quarantine.decisions


def states(quarantine: Quarantine, item: str) -> list[str]:
    found = quarantine.find(item)
    assert found is not None
    return [found.state.value, *(r.state.value for r in found.recipients)]


def told(quarantine: Quarantine, item: str) -> list[tuple[str, str, str]]:
    return [(e.who, e.action, e.why) for e in quarantine.history(item)][1:]


def test_a_request_and_its_denial(quarantine: Quarantine, decisions: Decisions) -> None:
    mail = hold(quarantine, mail_for(BOB, CAROL))
    assert decisions.request(mail.id, [BOB.upper()], USER, why="an invoice \x1b[31m") == (BOB,)
    assert states(quarantine, mail.id) == ["requested", "requested", "held"]
    with pytest.raises(RefusedError, match="role reviewer"):
        decisions.deny(mail.id, None, USER)
    assert decisions.deny(mail.id, [BOB], REVIEWER, why="phishing") == (BOB,)
    assert states(quarantine, mail.id) == ["held", "denied", "held"]
    with pytest.raises(RefusedError):
        decisions.request(mail.id, [BOB], USER)
    assert told(quarantine, mail.id) == [
        ("bob", "requested", f"{BOB} (an invoice ?[31m)"),
        ("eve", "denied", f"{BOB} (phishing)"),
    ]
    assert quarantine.verify_audit() is None


def test_a_request_can_be_withdrawn(quarantine: Quarantine, decisions: Decisions) -> None:
    mail = hold(quarantine)
    decisions.request(mail.id, None, USER)
    assert decisions.withdraw(mail.id, None, USER) == (BOB,)
    assert states(quarantine, mail.id) == ["held", "held"]


def test_approval_takes_what_was_requested_and_nothing_else(
    quarantine: Quarantine, decisions: Decisions
) -> None:
    mail = hold(quarantine, mail_for(BOB, CAROL))
    with pytest.raises(RefusedError, match="nothing was requested"):
        decisions.schedule(mail.id, None, REVIEWER, due=0.0, approve=True)
    decisions.request(mail.id, [CAROL], USER)
    order = decisions.schedule(mail.id, None, REVIEWER, due=0.0, approve=True)
    assert order.recipients == (CAROL,)
    assert states(quarantine, mail.id) == ["scheduled", "held", "scheduled"]


def test_users_release_nothing(quarantine: Quarantine, decisions: Decisions) -> None:
    mail = hold(quarantine)
    with pytest.raises(RefusedError, match="role"):
        decisions.schedule(mail.id, None, USER, due=0.0)
    with pytest.raises(RefusedError, match="role"):
        decisions.undo(USER, item=mail.id)
    with pytest.raises(RefusedError, match="role"):
        decisions.answer(mail.id, ["score"], USER)
    assert states(quarantine, mail.id) == ["held", "held"]
    assert told(quarantine, mail.id) == []


def test_a_release_is_claimed_only_when_it_is_due(quarantine: Quarantine, decisions: Decisions) -> None:
    mail = hold(quarantine)
    decisions.schedule(mail.id, None, REVIEWER, due=time.time() + 60)
    assert quarantine.claim(mail.id, None, "x") is None
    assert decisions.due(time.time()) == []
    assert decisions.undo(REVIEWER, item=mail.id) == [mail.id]
    order = decisions.schedule(mail.id, None, REVIEWER, due=time.time(), to="post@example.org", wrapped=True)
    assert decisions.due(time.time() + 1) == [order]
    claim = quarantine.claim(mail.id, None, "x")
    assert claim is not None
    assert decisions.due(time.time() + 1) == []
    assert quarantine.settle(claim, who="x", delivered={BOB: "post@example.org"}) == ()
    assert decisions.orders(item=mail.id) == []


def test_an_order_outlives_who_claimed_it(quarantine: Quarantine, decisions: Decisions) -> None:
    """A crash while sending leaves the order; when the lease is over it is due again."""
    mail = hold(quarantine)
    order = decisions.schedule(mail.id, None, REVIEWER, due=time.time())
    assert quarantine.claim(mail.id, None, "x", lease_seconds=0.01)
    time.sleep(0.02)
    assert decisions.due(time.time()) == [order]
    assert quarantine.claim(mail.id, None, "y")


def test_a_failed_delivery_is_held_again(quarantine: Quarantine, decisions: Decisions) -> None:
    mail = hold(quarantine)
    decisions.schedule(mail.id, None, REVIEWER, due=time.time())
    claim = quarantine.claim(mail.id, None, "x")
    assert claim
    quarantine.settle(claim, who="x", failed={BOB: "550 no"})
    assert states(quarantine, mail.id) == ["held", "held"]
    assert decisions.orders(item=mail.id) == []


@pytest.mark.parametrize("before", ["held", "requested", "denied"])
def test_undo_brings_back_what_was(quarantine: Quarantine, decisions: Decisions, before: str) -> None:
    mail = hold(quarantine)
    if before == "requested":
        decisions.request(mail.id, None, USER)
    elif before == "denied":
        decisions.deny(mail.id, None, REVIEWER)
    order = decisions.schedule(mail.id, None, REVIEWER, due=time.time() + 60)
    assert states(quarantine, mail.id) == ["scheduled", "scheduled"]
    assert decisions.undo(REVIEWER, batch=order.batch) == [mail.id]
    assert states(quarantine, mail.id) == [before, before]
    assert quarantine.find(mail.id).answered == ()  # type: ignore[union-attr]  # it is there
    assert decisions.undo(REVIEWER, batch=order.batch) == []
    assert quarantine.verify_audit() is None


def test_undo_of_a_batch_is_all_of_it(quarantine: Quarantine, decisions: Decisions) -> None:
    mails = [hold(quarantine) for _ in range(3)]
    for mail in mails:
        decisions.schedule(mail.id, None, REVIEWER, due=time.time() + 60, batch="0" * 16)
    assert sorted(decisions.undo(REVIEWER, batch="0" * 16)) == sorted(m.id for m in mails)


def test_each_reason_is_answered(quarantine: Quarantine, decisions: Decisions) -> None:
    mail = hold(quarantine, reasons=["VIRUS", "score", "MIME_AMBIGUOUS"])
    with pytest.raises(RefusedError, match="infected message"):
        decisions.schedule(mail.id, None, REVIEWER, due=0.0)
    with pytest.raises(RefusedError, match="infected"):
        decisions.schedule(mail.id, None, REVIEWER, due=0.0, aloud=True)
    with pytest.raises(RefusedError, match="infected"):
        decisions.schedule(mail.id, None, ADMIN, due=0.0)
    with pytest.raises(RefusedError, match="infected"):
        decisions.schedule(mail.id, None, OURSELVES, due=0.0, aloud=True)
    assert states(quarantine, mail.id) == ["held", "held"]
    assert told(quarantine, mail.id) == []  # what was refused left nothing
    assert decisions.answer(mail.id, ["VIRUS"], ADMIN, aloud=True, why="wanted") == ("VIRUS",)
    assert decisions.answer(mail.id, ["VIRUS"], ADMIN, aloud=True) == ()
    assert decisions.schedule(mail.id, None, REVIEWER, due=0.0)
    item = quarantine.find(mail.id)
    assert item is not None
    assert set(item.answered) == set(item.reasons)


def test_a_conviction_opens_a_reason_again(quarantine: Quarantine, decisions: Decisions) -> None:
    mail = hold(quarantine, reasons=["score"])
    assert decisions.convict(mail.id, "VIRUS", "x", "Test.Name")
    assert not decisions.convict(mail.id, "VIRUS", "x", "Test.Name")
    with pytest.raises(RefusedError):
        decisions.schedule(mail.id, None, REVIEWER, due=0.0)
    decisions.answer(mail.id, ["VIRUS"], ADMIN, aloud=True)
    assert decisions.convict(mail.id, "VIRUS", "x", "Test.Other")
    with pytest.raises(RefusedError):
        decisions.schedule(mail.id, None, REVIEWER, due=0.0)


@pytest.mark.parametrize("item", ["0" * 16, "", "' OR 1=1 --"])
def test_what_is_not_held(decisions: Decisions, item: str) -> None:
    for decide in (decisions.request, decisions.withdraw, decisions.deny):
        with pytest.raises(RefusedError, match="no such message"):
            decide(item, None, REVIEWER)
    with pytest.raises(RefusedError, match="no such message"):
        decisions.schedule(item, None, REVIEWER, due=0.0)
    assert decisions.undo(REVIEWER, item=item) == []
    assert not decisions.convict(item, "VIRUS", "x", "y")


def test_of_twenty_at_once_one_decides(quarantine: Quarantine, decisions: Decisions) -> None:
    mail = hold(quarantine)

    def attempt(n: int) -> int:
        try:
            decisions.schedule(mail.id, None, Actor(f"cli:{n}"), due=0.0)
        except RefusedError:
            return 0
        return 1

    with ThreadPoolExecutor(20) as pool:
        assert sum(pool.map(attempt, range(20))) == 1


def test_what_is_scheduled_goes_with_the_message(
    quarantine: Quarantine, decisions: Decisions, database: Database
) -> None:
    mail = hold(quarantine)
    decisions.schedule(mail.id, None, REVIEWER, due=0.0)
    assert quarantine.delete(mail.id, Actor("eve"))
    assert decisions.due(time.time()) == []
    rows = database.read(lambda c: c.execute(select(schema.quarantine_orders)).all())
    assert rows == []


def test_figures(quarantine: Quarantine, decisions: Decisions) -> None:
    first = hold(quarantine)
    hold(quarantine, mail_for(sender="eve@example.org"), reasons=["VIRUS"])
    quarantine.delete(hold(quarantine).id, Actor("x"))
    found = decisions.figures()
    assert found.states == {"held": 2, "deleted": 1}
    assert found.octets == 2 * len(RAW)
    assert found.oldest == quarantine.find(first.id).held_at  # type: ignore[union-attr]  # it is there
    assert found.reasons["VIRUS"] == 1
    assert found.senders == {"alice@example.net": 1, "eve@example.org": 1}


# ---------------------------------------------------------------- searches


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        (Search(domain="example.org"), 2),
        (Search(domain="@EXAMPLE.ORG"), 2),
        (Search(domain="xample.org"), 0),
        (Search(domain="example"), 0),
        (Search(domain="_xample.org"), 0),
        (Search(subject="ÜBER"), 1),
        (Search(subject="über", reason="VIRUS"), 1),
        (Search(subject="über", reason="score"), 0),
        (Search(score_from=9.5), 3),
        (Search(score_below=9.5), 0),
        (Search(score_from=9.0, score_below=10.0, state=OPEN), 3),
        (Search(larger=len(RAW) + 1), 1),
        (Search(smaller=len(RAW)), 2),
        (Search(state=(State.HELD, State.DELETED)), 3),
        (Search(state=State.SCHEDULED), 0),
    ],
)
def test_items_are_found_by(quarantine: Quarantine, wanted: Search, count: int) -> None:
    hold(quarantine)
    hold(quarantine, mail_for("bob@example.com", "dave@Example.ORG"))
    raw = RAW.replace(b"A chance", "Über uns".encode()) + b"x" * 50
    hold(quarantine, mail_for(sender="eve@example.org", raw=raw), reasons=["VIRUS"])
    assert quarantine.count(wanted) == count
    assert len(quarantine.search(wanted)) == count


def test_pages_by_id(quarantine: Quarantine) -> None:
    ids = []
    for _ in range(5):
        ids.append(hold(quarantine).id)
        time.sleep(0.002)
    page = [item.id for item in quarantine.search(Search(limit=2))]
    assert page == ids[:2:-1]
    assert [item.id for item in quarantine.search(Search(limit=2, before=page[-1]))] == ids[2:0:-1]
    assert quarantine.count(Search(after=ids[1])) == 3
    assert quarantine.count(Search(), upto=2) == 2


def test_saved_filters(database: Database) -> None:
    filters = Filters(database)
    filters.save("news", {"sender": "news@"}, "me")
    filters.save("news", {"sender": "letter@"}, "me")
    assert filters.all() == {"news": {"sender": "letter@"}}
    for bad in ("", "a b", "-x", "\x1b", "a" * 65):
        with pytest.raises(StoreError):
            filters.save(bad, {}, "me")
    assert filters.remove("news")
    assert not filters.remove("news")


def test_users_do_not_release_what_was_denied(quarantine: Quarantine, decisions: Decisions) -> None:
    """Whatever they may answer, and whoever asks for them: the store refuses it."""
    bob = Actor("web:bob", Role.USER, frozenset({"score", "CLASSIFIER"}))
    mail = hold(quarantine, mail_for(BOB, CAROL))
    decisions.deny(mail.id, [BOB], REVIEWER)
    with pytest.raises(RefusedError, match="denied"):
        decisions.schedule(mail.id, [BOB], bob, due=0.0)
    assert decisions.schedule(mail.id, None, bob, due=0.0).recipients == (CAROL,)
    assert states(quarantine, mail.id) == ["scheduled", "denied", "scheduled"]
    assert decisions.schedule(mail.id, [BOB], REVIEWER, due=0.0).recipients == (BOB,)


def test_users_delete_nothing(quarantine: Quarantine) -> None:
    mail = hold(quarantine)
    with pytest.raises(RefusedError, match="role"):
        quarantine.delete(mail.id, USER)
    with pytest.raises(RefusedError, match="role"):
        quarantine.discard(mail.id, USER, due=0.0)
    assert states(quarantine, mail.id) == ["held", "held"]


# ---------------------------------------------------------------- deletions that can be undone


@pytest.mark.parametrize("before", ["held", "requested", "denied", "scheduled"])
def test_a_deletion_waits_and_can_be_undone(
    quarantine: Quarantine, decisions: Decisions, before: str
) -> None:
    mail = hold(quarantine)
    if before == "requested":
        decisions.request(mail.id, None, USER)
    elif before == "denied":
        decisions.deny(mail.id, None, REVIEWER)
    elif before == "scheduled":
        decisions.schedule(mail.id, None, REVIEWER, due=0.0)
    order = quarantine.discard(mail.id, REVIEWER, due=time.time() + 60, why="junk")
    assert order is not None
    assert states(quarantine, mail.id) == ["deleting", "deleting"]
    assert told(quarantine, mail.id)[-1] == ("eve", "discarded", f"{BOB} (junk)")
    assert not quarantine.delete_due(order)
    assert decisions.due(time.time() + 120) == []
    assert decisions.doomed(time.time()) == []
    assert decisions.doomed(time.time() + 120) == [order]
    assert quarantine.claim(mail.id, None, "x") is None
    with pytest.raises(RefusedError, match="being deleted"):
        decisions.schedule(mail.id, None, REVIEWER, due=0.0)
    with pytest.raises(RefusedError, match="being deleted"):
        quarantine.discard(mail.id, REVIEWER, due=0.0)
    assert decisions.undo(REVIEWER, batch=order.batch) == [mail.id]
    after = "held" if before == "scheduled" else before  # its release is not taken up again
    assert states(quarantine, mail.id) == [after, after]
    assert quarantine.find(mail.id).answered == ()  # type: ignore[union-attr]  # it is there
    assert quarantine.raw(mail.id) == RAW
    assert not quarantine.delete_due(replace(order, due=0.0))
    assert decisions.undo(REVIEWER, item=mail.id) == []
    assert quarantine.verify_audit() is None


def test_what_was_answered_stays_so_when_a_deletion_is_undone(
    quarantine: Quarantine, decisions: Decisions
) -> None:
    mail = hold(quarantine, reasons=["VIRUS", "score"])
    decisions.answer(mail.id, ["VIRUS"], ADMIN, aloud=True)
    quarantine.discard(mail.id, REVIEWER, due=time.time() + 60)
    decisions.undo(REVIEWER, item=mail.id)
    assert quarantine.find(mail.id).answered == ("VIRUS",)  # type: ignore[union-attr]  # it is there


def test_a_deletion_is_done_once_when_it_is_due(quarantine: Quarantine, decisions: Decisions) -> None:
    mail = hold(quarantine)
    order = quarantine.discard(mail.id, REVIEWER, due=time.time())
    assert order is not None
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda _: quarantine.delete_due(order), range(8))) == 1
    assert states(quarantine, mail.id) == ["deleted", "deleted"]
    assert told(quarantine, mail.id)[-1] == ("eve", "deleted", "")
    assert decisions.undo(REVIEWER, batch=order.batch) == []
    with pytest.raises(StoreError):
        quarantine.raw(mail.id)
    with pytest.raises(RefusedError, match="was deleted"):
        quarantine.discard(mail.id, REVIEWER, due=0.0)


def test_an_order_does_another_deletion_no_harm(quarantine: Quarantine, decisions: Decisions) -> None:
    mail = hold(quarantine)
    first = quarantine.discard(mail.id, REVIEWER, due=time.time())
    assert first is not None
    decisions.undo(REVIEWER, item=mail.id)
    quarantine.discard(mail.id, REVIEWER, due=time.time() + 60)
    assert not quarantine.delete_due(first)
    assert states(quarantine, mail.id) == ["deleting", "deleting"]


def test_what_has_gone_out_is_deleted_at_once(quarantine: Quarantine, decisions: Decisions) -> None:
    mail, part = hold(quarantine), hold(quarantine, mail_for(BOB, CAROL))
    for item in (mail.id, part.id):
        taken = claim(quarantine, item, BOB)
        assert taken
        with pytest.raises(RefusedError, match="being released"):
            quarantine.discard(item, REVIEWER, due=0.0)
        quarantine.settle(taken, who="x", delivered={BOB: BOB})
    assert quarantine.discard(mail.id, REVIEWER, due=time.time() + 60) is None
    assert quarantine.find(mail.id).state is State.DELETED  # type: ignore[union-attr]  # it is there
    order = quarantine.discard(part.id, REVIEWER, due=time.time() + 60)
    assert order is not None
    assert order.recipients == (CAROL,)
    assert states(quarantine, part.id) == ["deleting", "released", "deleting"]
    decisions.undo(REVIEWER, item=part.id)
    assert states(quarantine, part.id) == ["held", "released", "held"]


def test_the_housekeeper_does_what_is_left_to_it(quarantine: Quarantine, decisions: Decisions) -> None:
    now, later = hold(quarantine), hold(quarantine)
    quarantine.discard(now.id, REVIEWER, due=time.time() - 10)
    quarantine.discard(later.id, REVIEWER, due=time.time() + 600)
    log = open_log(LogSettings(level="error"))
    assert delete_due(quarantine, log, head_start=60.0) == 0
    assert delete_due(quarantine, log) == 1
    assert delete_due(quarantine, log) == 0
    assert states(quarantine, now.id)[0] == "deleted"
    assert states(quarantine, later.id)[0] == "deleting"
    assert quarantine.expire(time.time() + 1) == 1  # its days are over before
    assert decisions.orders(item=later.id) == []
