# SPDX-License-Identifier: GPL-2.0-or-later
"""What is kept, for how long and how much; and that what is deleted is gone from the disk."""

from __future__ import annotations

import time
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from sqlalchemy import select, update

from gateway import housekeeper
from gateway.classifier.stored import Sketch
from gateway.config import Config
from gateway.mail.types import new_id
from gateway.metrics import Metrics
from gateway.store import deliveries, retention, schema
from gateway.store.database import Database, RetentionRow, StoreSettings
from gateway.store.deliveries import Delivery, Ended
from gateway.store.journal import Filter, Journal
from gateway.store.retention import Keeping
from gateway.store.samples import Sample, Samples
from gateway.store.states import Actor, State
from tests.recorded import judged, mail_of, policy_of
from tests.stored import POSTGRESQL, claim, execute, hold, mail_for

if TYPE_CHECKING:
    from gateway.store.quarantine import Quarantine

DAY = 86_400.0
ROWS = (
    RetentionRow(domain="short.example", quarantine_days=5, journal_days=2),
    RetentionRow(domain=".long.example", quarantine_days=100),
)
SETTINGS = StoreSettings(quarantine_days=30, journal_days=30, retention=ROWS)


def held_days_ago(quarantine: Quarantine, days: float, *people: str) -> str:
    mail = hold(quarantine, mail_for(*people))
    moment = {"held_at": time.time() - days * DAY}
    for table, key in ((schema.quarantine, "id"), (schema.quarantine_words, "item")):
        execute(quarantine.database, update(table).where(table.c[key] == mail.id).values(**moment))
    return mail.id


def states(quarantine: Quarantine, *items: str) -> list[State]:
    found = quarantine.known(items)
    return [found[item].state for item in items]


def test_days_of_recipients() -> None:
    keeping = retention.of_bodies(SETTINGS)
    assert keeping.shortest == 5
    assert keeping.days(["a@short.example"]) == 5
    assert keeping.days(["a@SHORT.example", "b@example.com"]) == 30
    assert keeping.days(["a@short.example", "b@x.long.example"]) == 100
    assert keeping.days(["a@long.example"]) == 30  # not below it
    assert keeping.days(["nonsense", ""]) == 30
    assert keeping.days([]) == 30
    assert retention.of_evidence(SETTINGS).days(["b@x.long.example"]) == 30
    assert Keeping((), 7).shortest == 7


def test_domains_have_times_of_their_own(quarantine: Quarantine) -> None:
    short = held_days_ago(quarantine, 6, "a@short.example")
    both = held_days_ago(quarantine, 6, "a@short.example", "b@example.com")
    fresh = held_days_ago(quarantine, 4, "a@short.example")
    old = held_days_ago(quarantine, 31, "b@example.com")
    long = held_days_ago(quarantine, 99, "b@x.long.example")
    ancient = held_days_ago(quarantine, 101, "b@x.long.example")
    assert retention.expire(quarantine, retention.of_bodies(SETTINGS), time.time()) == 3
    gone, there = State.EXPIRED, State.HELD
    assert states(quarantine, short, both, fresh, old, long, ancient) == [
        gone,
        there,
        there,
        gone,
        there,
        gone,
    ]
    assert retention.expire(quarantine, retention.of_bodies(SETTINGS), time.time()) == 0


def test_many_pages(quarantine: Quarantine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_PAGE", 3)
    monkeypatch.setattr(retention, "BATCH", 2)
    for days in (6, 6, 6, 4, 50, 50, 7):
        held_days_ago(quarantine, days, "a@short.example" if days < 50 else "b@x.long.example")
    assert retention.expire(quarantine, retention.of_bodies(SETTINGS), time.time()) == 4


def test_the_journal_by_domain(database: Database) -> None:
    journal = Journal(database, flush_interval=0.01)
    policy = policy_of()
    now = time.time()
    for days, who in (
        (3, "a@short.example"),
        (1, "a@short.example"),
        (3, "b@example.com"),
        (31, "b@example.com"),
    ):
        journal.add(judged(mail_of(who, received=now - days * DAY), (), policy))
    assert journal.flush()
    assert retention.prune(database, journal, retention.of_evidence(SETTINGS), now) == 2
    left = sorted(round((now - one.received) / DAY) for one in journal.search(Filter()))
    assert left == [1, 3]
    journal.close()


@pytest.mark.parametrize("rows", [True, False])
def test_what_became_of_mail_goes_with_the_journal(
    database: Database, monkeypatch: pytest.MonkeyPatch, rows: bool
) -> None:
    monkeypatch.setattr(deliveries, "_PAGE", 2)
    journal, now = Journal(database, flush_interval=0.01), time.time()
    keeping = retention.of_evidence(SETTINGS) if rows else retention.Keeping((), 2)
    kept = judged(mail_of("b@example.com", "a@short.example", received=now - 3 * DAY), (), policy_of())
    journal.add(replace(kept, id=new_id(now - 3 * DAY)))
    assert journal.flush()
    (recorded,) = (one.id for one in journal.search(Filter()))
    for days, who in (
        (3, "a@short.example"),
        (1, "a@short.example"),
        (3, "b@example.com"),
        (31, "b@example.com"),
        (40, "b@example.com"),
    ):
        end(journal, new_id(now - days * DAY), who)
    end(journal, recorded, "a@short.example")
    assert journal.flush()
    if not rows:
        assert retention.prune(database, journal, keeping, now) == 1
    assert deliveries.prune(database, keeping, now) == (3 if rows else 5)
    assert bool(deliveries.known(database, [recorded])) is rows
    assert deliveries.prune(database, keeping, now) == 0
    journal.close()


def end(journal: Journal, item: str, who: str) -> None:
    """Write down a delivery."""
    journal.add(Delivery(item, who, Ended.DELIVERED, "lmtp:x", "x", "", "250 Ok", 1, time.time()))


def test_the_quota_takes_the_oldest(quarantine: Quarantine) -> None:
    items = [held_days_ago(quarantine, days, "b@example.com") for days in (1, 9, 5)]
    size = quarantine.known(items)[items[0]].size
    octets, gone = retention.make_room(quarantine, 0)
    assert (octets, gone) == (3 * size, 0)
    assert retention.make_room(quarantine, 2 * size) == (2 * size, 1)
    assert states(quarantine, *items) == [State.HELD, State.EXPIRED, State.HELD]
    assert quarantine.history(items[1])[-1].why == "over the quota"
    assert retention.make_room(quarantine, size - 1) == (0, 2)


def test_the_quota_leaves_what_is_being_released(quarantine: Quarantine) -> None:
    item = held_days_ago(quarantine, 9, "b@example.com")
    assert claim(quarantine, item) is not None
    assert retention.make_room(quarantine, 1)[1] == 0
    assert states(quarantine, item) == [State.RELEASING]


def test_the_quota_is_told_loudly(quarantine: Quarantine, store_settings: StoreSettings) -> None:
    for _ in range(3):
        hold(quarantine)
    metrics = Metrics(1)
    output = structlog.testing.CapturingLogger()
    log = structlog.wrap_logger(output, processors=[])
    config = Config(store=_with(store_settings, quota=1))
    assert housekeeper.bound(config, quarantine.database, metrics.slot(0), log) == 3
    assert metrics.total("quota_expired") == 3
    assert [call.method_name for call in output.calls] == ["error"]
    hold(quarantine)
    size = retention.make_room(quarantine, 0)[0]
    config = Config(store=_with(store_settings, quota=size))
    assert housekeeper.bound(config, quarantine.database, metrics.slot(0), log) == 0
    assert metrics.highest("held_octets") == size
    assert [call.method_name for call in output.calls] == ["error", "warning"]


def _with(settings: StoreSettings, **changes: Any) -> StoreSettings:
    return StoreSettings(**{"database": settings.database, **changes})


def test_samples_grow_old(database: Database) -> None:
    samples = Samples(database)
    now = time.time()
    one = Sample("ab" * 32, Sketch((1, 2, 3, 4), bytes(16)), True, "operator", "cli:eve", now, b"x")
    samples.add([replace(one, digest=f"{n:02}" * 32, time=now - n * DAY) for n in (1, 9, 12)])
    before = samples.generation()
    assert retention.forget_samples(samples, Keeping((), 0), now) == 0
    assert retention.forget_samples(samples, Keeping((), 20), now) == 0
    assert retention.forget_samples(samples, Keeping((), 8), now) == 2
    assert samples.generation() != before  # the model is made anew without them
    assert sum(samples.counts().values()) == 1


def test_samples_of_a_domain_have_days_of_their_own(database: Database) -> None:
    samples, now = Samples(database), time.time()
    one = Sample("ab" * 32, Sketch((1, 2, 3, 4), bytes(16)), True, "operator", "cli:eve", now, b"x")
    owners = ("", "example.com", "bob@example.com", "example.org", "dan@example.org")
    samples.add(
        [
            replace(one, digest=f"{n}{m:x}" * 32, time=now - days * DAY, owner=owner)
            for n, owner in enumerate(owners)
            for m, days in enumerate((1, 12))
        ]
    )
    settings = _with(
        StoreSettings(), retention=(RetentionRow(domain="example.com", samples_days=10),), samples_days=0
    )
    keeping = retention.of_samples(settings)
    assert retention.forget_samples(samples, keeping, now - 5 * DAY) == 0
    assert retention.forget_samples(samples, keeping, now) == 2
    rows = database.read(lambda c: c.execute(select(schema.samples.c.owner)).scalars().all())
    assert sorted(rows) == sorted([*owners, "", "example.org", "dan@example.org"])
    shorter = retention.of_samples(_with(StoreSettings(), retention=settings.retention, samples_days=2))
    assert retention.forget_samples(samples, shorter, now) == 3


@pytest.mark.skipif(bool(POSTGRESQL), reason="looks at files of SQLite")
@pytest.mark.parametrize("how", ["delete", "expire", "forget"])
def test_what_is_deleted_is_gone_from_the_disk(
    database: Database, quarantine: Quarantine, store_settings: StoreSettings, how: str
) -> None:
    """Neither the octets nor a word of it are in any file of the store."""
    secret = "Kwizzlebrook"
    raw = f"From: a@example.net\r\nSubject: {secret} subject\r\n\r\n{secret} text {'.' * 5_000}\r\n".encode()
    mail = hold(quarantine, mail_for(raw=raw, helo=f"{secret}.example"))
    kept = hold(quarantine)
    packed = zlib.compress(raw, 1)[20:60]

    def found(needle: bytes) -> bool:
        assert database.path is not None
        return any(needle in file.read_bytes() for file in database.path.parent.iterdir())

    assert found(packed)
    assert found(secret.encode())
    if how == "delete":
        assert quarantine.delete(mail.id, Actor("cli:eve"))
    else:
        past = update(schema.quarantine).where(schema.quarantine.c.id == mail.id).values(held_at=1.0)
        database.write(lambda c: c.execute(past))
        config = Config(store=_with(store_settings, quarantine_days=1, tombstone_days=1))
        assert housekeeper.tidy(config, database)[1] == 1
    if how == "forget":
        assert quarantine.forget(time.time() + 1) == 1
        database.purge()
    assert not found(packed)
    assert not found(secret.encode())
    assert quarantine.raw(kept.id)
    assert quarantine.verify_audit() is None


def test_expiry_while_others_read_and_release(quarantine: Quarantine) -> None:
    """Nobody crashes; whoever comes too late is told that it is gone."""
    from concurrent.futures import ThreadPoolExecutor

    from gateway.store.database import StoreError
    from gateway.store.decisions import RefusedError

    items = [held_days_ago(quarantine, 31, "b@example.com") for _ in range(30)]

    def look(item: str) -> str:
        try:
            quarantine.raw(item)
            quarantine.decisions.schedule(item, None, Actor("cli:eve"), due=0.0)
        except (StoreError, RefusedError) as error:
            return str(error)
        return "scheduled"

    with ThreadPoolExecutor(8) as pool:
        told = pool.map(look, items)
        done = pool.submit(lambda: retention.expire(quarantine, Keeping((), 30), time.time()))
        results = list(told)
        gone = done.result()
    assert len(results) == 30
    final = states(quarantine, *items)
    assert final.count(State.EXPIRED) == gone
    assert {*final} <= {State.EXPIRED, State.SCHEDULED}
    assert quarantine.verify_audit() is None
