# SPDX-License-Identifier: GPL-2.0-or-later
"""The queue in the database: what is on disk, who may deliver it, and that each recipient is settled once."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select, update

from gateway.mail.types import new_id
from gateway.store import audit, schema, submit
from gateway.store.database import Database, StoreError
from gateway.store.queue import MOST_DEATHS, SUSPECT, Changed, Queue
from gateway.store.queued import (
    FAST_SIZE,
    Addressee,
    DamagedError,
    Filter,
    Notice,
    Outcome,
    Outgoing,
    State,
    pack,
    unpack,
)
from gateway.store.submit import Submitter
from tests.stored import execute

if TYPE_CHECKING:
    from gateway.store.queue import Owner
    from gateway.store.queued import Claim

MESSAGE = b"Subject: x\r\n\r\n.\r\n\xe9\r\n"
HOP, OTHER = "smtp:mx.example.com:25", "smtp:mx.example.org:25"


@pytest.fixture
def queue(database: Database) -> Queue:
    return Queue(database)


def outgoing(
    *people: str, hop: str = HOP, message: bytes = MESSAGE, may_bounce: bool = True, age: float = 0.0
) -> Outgoing:
    created = time.time() - age
    return Outgoing(
        id=new_id(),
        sender="alice@example.net",
        recipients=tuple(Addressee(one, hop, ("NOTIFY=FAILURE",)) for one in people or ("bob@example.com",)),
        message=message,
        created=created,
        expires=created + 1000,
        options=("SMTPUTF8", "BODY=8BITMIME"),
        may_bounce=may_bounce,
    )


def agent(queue: Queue, seconds: float = 60.0, process: str = "one") -> Owner:
    return queue.enter(process, seconds)


def claim(queue: Queue, owner: Owner, most: int = 100, besides: tuple[str, ...] = ()) -> list[Claim]:
    return queue.claim(owner, time.time(), most, besides)


def settled(claimed: Claim, state: State, **values: object) -> list[Outcome]:
    return [Outcome(r.number, r.item, state, **values) for r in claimed.recipients]  # type: ignore[arg-type]  # from the tests' own keywords


def rows(database: Database) -> list[int]:
    tables = (schema.queue_messages, schema.queue_bytes, schema.queue_recipients)
    return [
        database.read(lambda c, t=table: c.execute(select(func.count()).select_from(t)).scalar() or 0)  # type: ignore[misc]  # the default binds it
        for table in tables
    ]


# ---------------------------------------------------------------- one message


def test_what_is_claimed_is_what_was_added(queue: Queue) -> None:
    mail = outgoing("bob@example.com", "jürgen@example.com")
    queue.add([mail])
    (claimed,) = claim(queue, agent(queue))
    assert claimed.message == MESSAGE
    facts = claimed.facts
    assert (facts.id, facts.sender, facts.options) == (mail.id, mail.sender, mail.options)
    assert (facts.created, facts.expires, facts.may_bounce) == (mail.created, mail.expires, True)
    assert [(r.address, r.hop, r.options, r.state, r.attempts) for r in claimed.recipients] == [
        (one.address, HOP, ("NOTIFY=FAILURE",), State.LEASED, 0) for one in mail.recipients
    ]


def test_a_large_message_is_read_when_its_turn_comes(queue: Queue) -> None:
    mail = outgoing(message=b"x" * (FAST_SIZE + 1))
    queue.add([mail])
    (claimed,) = claim(queue, agent(queue))
    assert claimed.message is None
    assert queue.message(claimed.facts) == mail.message


def test_the_last_settled_recipient_takes_the_message_along(queue: Queue, database: Database) -> None:
    queue.add([outgoing("a@example.com", "b@example.com")])
    owner = agent(queue)
    (claimed,) = claim(queue, owner)
    first, second = settled(claimed, State.DELIVERED)
    assert queue.settle(owner, [first]) == set()
    entry = queue.find(claimed.facts.id)
    assert entry
    assert [r.state for r in entry.recipients] == [State.DELIVERED, State.LEASED]
    assert queue.settle(owner, [second]) == set()
    assert rows(database) == [0, 0, 0]


def test_a_deferred_recipient_comes_again_when_it_is_due(queue: Queue) -> None:
    queue.add([outgoing()])
    owner = agent(queue)
    (claimed,) = claim(queue, owner)
    later = time.time() + 100
    outcome = settled(claimed, State.QUEUED, reply="451 no\x1b[1m", next_attempt=later, attempts=1, hop=OTHER)
    queue.settle(owner, outcome)
    assert claim(queue, owner) == []
    (again,) = queue.claim(owner, later, 10)
    assert (again.recipients[0].attempts, again.recipients[0].hop) == (1, OTHER)
    assert again.recipients[0].reply == "451 no?[1m"


def test_a_notice_is_queued_with_the_failure_it_tells_of(queue: Queue) -> None:
    queue.add([outgoing()])
    owner = agent(queue)
    (claimed,) = claim(queue, owner)
    notice = outgoing("alice@example.net")
    failed = settled(claimed, State.FAILED)
    assert queue.settle(owner, failed, [Notice(notice, (failed[0].number,))]) == set()
    assert queue.find(claimed.facts.id) is None
    assert queue.find(notice.id)
    # the same again, by somebody whose lease is over: no second notice
    stale = outgoing("alice@example.net")
    assert queue.settle(owner, failed, [Notice(stale, (failed[0].number,))]) == {failed[0].number}
    assert queue.find(stale.id) is None


@pytest.mark.parametrize("damage", [b"", b"nonsense", pack(MESSAGE[:-1]), pack(MESSAGE)[:-3]])
def test_damaged_bytes_are_noticed(queue: Queue, database: Database, damage: bytes) -> None:
    queue.add([outgoing()])
    execute(database, update(schema.queue_bytes).values(data=damage))
    (claimed,) = claim(queue, agent(queue))
    assert claimed.message is None
    with pytest.raises(DamagedError, match="damaged"):
        queue.message(claimed.facts)


def test_a_bomb_is_unpacked_no_further_than_its_size() -> None:
    with pytest.raises(DamagedError):
        unpack(pack(b"\0" * 10_000_000), 1_000, "X")


# ---------------------------------------------------------------- leases


def test_nobody_else_gets_what_is_leased(queue: Queue) -> None:
    queue.add([outgoing()])
    first, second = agent(queue), agent(queue)
    (claimed,) = claim(queue, first)
    assert claim(queue, second) == []
    done = settled(claimed, State.DELIVERED)
    assert queue.settle(second, done) == {done[0].number}
    assert queue.settle(first, done) == set()
    assert queue.settle(first, done) == {done[0].number}


def test_what_a_dead_owner_held_is_queued_again(queue: Queue) -> None:
    queue.add([outgoing()])
    gone, heir = agent(queue, 0.01), agent(queue)
    (claimed,) = claim(queue, gone)
    time.sleep(0.02)
    assert queue.recover() == (1, 0)
    (again,) = claim(queue, heir)
    assert again.recipients[0].deaths == 1
    done = settled(claimed, State.DELIVERED)
    assert queue.settle(gone, done) == {done[0].number}, "the dead settles nothing"


def test_an_owner_known_to_be_dead_need_not_expire(queue: Queue) -> None:
    queue.add([outgoing()])
    owner, heir = agent(queue), agent(queue)
    claim(queue, owner)
    assert queue.recover() == (0, 0)
    assert {one.name for one in queue.owners()} == {owner.name, heir.name}
    assert queue.recover([owner.name]) == (1, 0)
    assert len(claim(queue, heir)) == 1


def test_a_living_owner_keeps_its_lease(queue: Queue) -> None:
    queue.add([outgoing()])
    owner = agent(queue, 0.05)
    claim(queue, owner)
    queue.renew(owner, 60)
    time.sleep(0.06)
    assert queue.recover() == (0, 0)


def test_who_leaves_gives_back(queue: Queue) -> None:
    queue.add([outgoing()])
    owner, heir = agent(queue), agent(queue)
    claim(queue, owner)
    queue.leave(owner.name)
    (claimed,) = claim(queue, heir)
    assert claimed.recipients[0].deaths == 0


def test_a_death_counts_only_until_an_agent_survives(queue: Queue) -> None:
    queue.add([outgoing()])
    for _ in range(SUSPECT - 1):
        claim(queue, agent(queue, 0.0))
        assert queue.recover() == (1, 0)
    owner = agent(queue)
    (claimed,) = claim(queue, owner)
    assert claimed.recipients[0].deaths == SUSPECT - 1
    queue.settle(owner, settled(claimed, State.QUEUED))
    (claimed,) = claim(queue, owner)
    assert claimed.recipients[0].deaths == 0


def test_what_many_agents_died_with_waits_longer_each_time(queue: Queue) -> None:
    queue.add([outgoing()])
    asked: list[int] = []

    def pause(count: int) -> float:
        asked.append(count)
        return 1_000.0 * count

    now = time.time()
    for _ in range(SUSPECT + 2):
        owner = agent(queue, 0.0)
        claims = queue.claim(owner, now + 1e6, 1) or queue.claim(owner, now + 1e6, 1, suspect=True)
        assert len(claims) == 1
        queue.recover(pause=pause)
    assert asked == [1, 2, 3]
    assert claim(queue, agent(queue)) == []
    (entry,) = queue.search(Filter())
    assert 2_900 < entry.recipients[0].next_attempt - now < 3_100


def test_what_kills_every_agent_is_held_and_nothing_else(queue: Queue) -> None:
    """Its neighbours, which were on lease each time as well, are told from it by going alone."""
    queue.add([outgoing("poison@example.com"), *(outgoing() for _ in range(30))])
    delivered = deaths = 0
    for _ in range(500):
        owner = agent(queue)
        claims = claim(queue, owner)
        claims += queue.claim(owner, time.time(), 1, suspect=True)
        assert sum(one.recipients[0].deaths >= SUSPECT for one in claims) <= 1
        if any(one.recipients[0].address.startswith("poison") for one in claims):
            deaths += 1
            freed, held = queue.recover([owner.name])
            assert freed + held == len(claims)
            continue
        for one in claims:
            delivered += 1
            queue.settle(owner, settled(one, State.DELIVERED))
        queue.leave(owner.name)
        if not claims:
            break
    assert (delivered, deaths) == (30, MOST_DEATHS)
    assert queue.size() == {"held": 1}
    (entry,) = queue.search(Filter())
    assert entry.recipients[0].address == "poison@example.com"
    assert "10 delivery agents died" in entry.recipients[0].reply


def test_agents_at_the_same_time_share_the_work(queue: Queue) -> None:
    mails = [outgoing() for _ in range(120)]
    queue.add(mails)
    got: list[str] = []
    lock = threading.Lock()

    def work(number: int) -> None:
        owner = agent(queue, process=str(number))
        while found := claim(queue, owner, most=7):
            with lock:
                got.extend(one.facts.id for one in found)
            queue.settle(owner, [o for one in found for o in settled(one, State.DELIVERED)])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert sorted(got) == sorted(mail.id for mail in mails)
    assert queue.size() == {}


# ---------------------------------------------------------------- order


def test_a_next_hop_that_is_full_keeps_nobody_else_waiting(queue: Queue) -> None:
    slow = [outgoing(age=10) for _ in range(5)]
    queue.add([*slow, outgoing("eve@example.org", hop=OTHER)])
    (claimed,) = claim(queue, agent(queue), most=3, besides=(HOP,))
    assert claimed.recipients[0].hop == OTHER


def test_who_has_waited_longest_comes_first(queue: Queue) -> None:
    young, old = outgoing(), outgoing(age=50)
    queue.add([young, old])
    assert [one.facts.id for one in claim(queue, agent(queue), most=1)] == [old.id]


def test_a_clock_set_back_puts_nothing_off_for_long(queue: Queue) -> None:
    queue.add([outgoing(age=-86_400)])
    owner = agent(queue)
    assert claim(queue, owner) == []
    queue.tidy(time.time(), 3_600, 0)
    assert len(claim(queue, owner)) == 1


# ---------------------------------------------------------------- delays and left-overs


def waiting(queue: Queue, mail: Outgoing, state: State = State.QUEUED) -> None:
    queue.add([mail])
    owner = agent(queue)
    (claimed,) = claim(queue, owner)
    queue.settle(owner, settled(claimed, state, reply="451 4.2.0 busy", next_attempt=time.time() + 99))


def test_a_delay_is_told_of_once(queue: Queue) -> None:
    late, silent, young = outgoing(age=500), outgoing(age=500, may_bounce=False), outgoing()
    for mail in (late, silent, young):
        waiting(queue, mail)
    (found,) = queue.late(time.time() - 100)
    assert found.facts.id == late.id
    assert queue.warn(late.id, outgoing("alice@example.net"))
    assert not queue.warn(late.id, outgoing("alice@example.net"))
    assert queue.late(time.time() - 100) == []
    assert queue.count(Filter()) == 4


def test_what_nobody_was_told_of_is_dropped_in_the_end(queue: Queue, database: Database) -> None:
    waiting(queue, outgoing(), State.UNDELIVERABLE)
    assert queue.tidy(time.time(), 3_600, time.time() - 60) == 0
    assert queue.tidy(time.time(), 3_600, time.time() + 60) == 1
    assert rows(database) == [0, 0, 0]


# ---------------------------------------------------------------- for operators


def test_filters(queue: Queue) -> None:
    one, two = outgoing("bob@example.com", age=100), outgoing("eve@example.org", hop=OTHER)
    queue.add([one, two])
    cases = {
        Filter(): [one.id, two.id],
        Filter(recipient="EVE@"): [two.id],
        Filter(sender="example.net", limit=1): [one.id],
        Filter(sender="example.net", limit=1, offset=1): [two.id],
        Filter(sender="%"): [],
        Filter(hop="mx.example.org"): [two.id],
        Filter(ids=(two.id,)): [two.id],
        Filter(state=State.HELD): [],
        Filter(since=time.time() - 50): [two.id],
        Filter(until=time.time() - 50): [one.id],
    }
    for wanted, ids in cases.items():
        assert [entry.facts.id for entry in queue.search(wanted)] == ids, wanted
    assert queue.count(Filter(sender="example.net", limit=1)) == 2


def test_hold_release_flush_delete(queue: Queue, database: Database) -> None:
    one, two = outgoing(), outgoing("eve@example.org")
    queue.add([one, two])
    owner = agent(queue)
    assert queue.hold(Filter(ids=(one.id,)), "cli:root") == Changed([one.id], [])
    (claimed,) = claim(queue, owner)
    assert claimed.facts.id == two.id
    everything = Filter()
    sent = Filter(ids=(two.id,))
    for change in (queue.hold(sent, "cli:root"), queue.delete(sent, "cli:root"), queue.flush(sent)):
        assert change == Changed([], [two.id]), "what is being sent stays"
    assert queue.release(sent, "cli:root") == Changed([], []), "and is not held"
    queue.settle(owner, settled(claimed, State.QUEUED, next_attempt=time.time() + 500))
    assert claim(queue, owner) == []
    assert queue.flush(everything) == Changed([two.id], [])
    assert queue.release(everything, "cli:root") == Changed([one.id], [])
    assert len(claim(queue, owner)) == 2
    queue.leave(owner.name)
    assert sorted(queue.delete(everything, "cli:root").items) == sorted([one.id, two.id])
    assert rows(database) == [0, 0, 0]
    events = database.read(lambda c: [e.action for e in audit.events(c, one.id)])
    assert events == ["queue hold", "queue release", "queue delete"]


# ---------------------------------------------------------------- group commit


class Recorder(Queue):
    """Counts commits, and fails on demand."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.groups: list[int] = []
        self.poison = ""
        self.gate = threading.Event()
        self.entered = threading.Event()

    def add(self, messages: object) -> None:
        assert isinstance(messages, list)
        self.entered.set()
        self.gate.wait(30)
        if any(one.sender == self.poison for one in messages):
            raise StoreError("disk full")
        self.groups.append(len(messages))
        super().add(messages)


def test_those_who_wait_together_are_committed_together(database: Database) -> None:
    store = Recorder(database)
    woken: list[int] = []
    submitter = Submitter(store, lambda: woken.append(1))
    futures = [submitter.submit(outgoing()) for _ in range(50)]
    store.gate.set()
    for future in futures:
        future.result(30)
    assert sum(store.groups) == 50
    assert len(store.groups) <= 3
    assert len(woken) == len(store.groups)
    assert Queue(database).count(Filter()) == 50
    submitter.close()


def test_one_that_cannot_be_written_costs_no_other(database: Database) -> None:
    store = Recorder(database)
    store.poison = "alice@example.net"
    submitter = Submitter(store)
    good = Outgoing(new_id(), "", (Addressee("bob@example.com"),), MESSAGE, 1.0, 2.0)
    futures = [submitter.submit(mail) for mail in (outgoing(), good, outgoing())]
    store.gate.set()
    assert [type(future.exception(30)) for future in futures] == [StoreError, type(None), StoreError]
    assert [entry.facts.id for entry in Queue(database).search(Filter())] == [good.id]
    submitter.close()


def test_who_has_gone_is_not_written(database: Database) -> None:
    store = Recorder(database)
    submitter = Submitter(store)
    first = submitter.submit(outgoing())
    assert store.entered.wait(30)  # with the first alone
    second = submitter.submit(outgoing())
    assert second.cancel()
    store.gate.set()
    first.result(30)
    submitter.close()
    assert Queue(database).count(Filter()) == 1


class Clock:
    """A clock that moves only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept = 0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += 1


def test_groups_are_waited_for_only_where_they_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(submit, "time", clock)
    pause = submit._Pause()

    def commit(groups: int, size: int) -> int:
        before = clock.slept
        for _ in range(groups):
            pause.before()
            pause.after(size)
        return clock.slept - before

    assert commit(100, 1) <= 5  # a lone client
    assert commit(100, 3) >= 80
    assert commit(200, 1) <= 20
    clock.now += 1.0
    assert commit(1, 1) == 0  # nobody waits after a time without mail
