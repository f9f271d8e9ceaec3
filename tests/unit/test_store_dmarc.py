# SPDX-License-Identifier: GPL-2.0-or-later
"""Counts of DMARC results: nothing counted twice or lost in silence, and a report claimed by one."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select

from gateway.config import Config
from gateway.housekeeper import tidy
from gateway.reports.sending import Sending, once
from gateway.reports.settings import ReportSettings
from gateway.store import reported, schema
from gateway.store.counts import DAY, Counts
from gateway.store.database import Database, StoreError
from gateway.store.dmarc import Observation, Observations, observations, prune, summaries
from gateway.store.reported import LEASE
from tests.stored import execute

SEEN = Observation(
    "192.0.2.1",
    "example.net",
    "example.net",
    "",
    "reject",
    "reject",
    dkim=False,
    spf=True,
    signatures=(("a.example", "s", "pass"), ("ü.example", "", "fail")),
)
DOMAIN = "example.net"


def counts(database: Database, day: int = 1) -> dict[Observation, int]:
    return dict(observations(database, day, DOMAIN, 1_000))


def test_equal_results_are_added_up(database: Database) -> None:
    other = replace(SEEN, source_ip="192.0.2.2")
    for _ in range(2):  # two processes, one after the other
        store = Observations(database)
        for _ in range(3):
            store.add(1, DOMAIN, "first", SEEN)
        store.add(1, DOMAIN, "second", other)
        store.add(2, DOMAIN, "third", SEEN)
        assert store.flush()
        assert store.flush()  # nothing is written twice
        store.close()
    assert counts(database) == {SEEN: 6, other: 2}
    assert observations(database, 1, DOMAIN, 1) == [(SEEN, 6)]
    first, second = summaries(database)
    assert (first.day, first.domain, first.record, first.count, first.rows, first.state) == (
        1,
        DOMAIN,
        "second",
        8,
        2,
        "due",
    )
    assert (second.day, second.count) == (2, 2)
    assert summaries(database, day=2) == [second]
    assert summaries(database, domain="example.org") == []


def test_the_thread_writes(database: Database) -> None:
    store = Observations(database, interval=0.05)
    store.add(1, DOMAIN, "r", SEEN)
    deadline = time.monotonic() + 10
    while not summaries(database):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    store.close()


def test_many_threads(database: Database) -> None:
    store = Observations(database, interval=0.01)

    def count() -> None:
        for number in range(500):
            store.add(1, DOMAIN, "r", replace(SEEN, source_ip=f"192.0.2.{number % 5}"))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.close()
    assert sorted(counts(database).values()) == [400] * 5


def broken(*_: Any, **__: Any) -> None:
    raise StoreError("away")


def test_counts_outlive_a_database_that_is_away(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Observations(database, interval=60, limit=2)
    store.add(1, DOMAIN, "r", SEEN)
    with monkeypatch.context() as patched:
        patched.setattr(Counts, "_write", broken)
        assert not store.flush()
        store.add(1, DOMAIN, "r", SEEN)
        store.add(1, DOMAIN, "r", replace(SEEN, source_ip="192.0.2.2"))
        store.add(1, DOMAIN, "r", replace(SEEN, source_ip="192.0.2.3"))  # beyond the limit
        assert not store.flush()
    assert store.flush()
    assert counts(database) == {SEEN: 2, replace(SEEN, source_ip="192.0.2.2"): 1}
    assert store.dropped == 1
    store.close()


def test_what_is_lost_at_the_end_is_told(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = Observations(database, interval=60)
    for _ in range(3):
        store.add(1, DOMAIN, "r", SEEN)
    monkeypatch.setattr(Counts, "_write", broken)
    store.close()
    assert "results of DMARC lost: 3" in caplog.text


def test_a_row_that_cannot_be_read_is_an_error(database: Database) -> None:
    store = Observations(database)
    store.add(1, DOMAIN, "r", SEEN)
    store.close()
    execute(database, schema.dmarc_observations.update().values(data="{"))
    with pytest.raises(StoreError):
        observations(database, 1, DOMAIN, 10)


# ---------------------------------------------------------------- claims


def test_a_report_has_one_sender(database: Database) -> None:
    results: list[set[str] | None] = []
    start = threading.Barrier(4)

    def race() -> None:
        start.wait()
        results.append(reported.claim(database, schema.dmarc_reports, 1, DOMAIN))

    threads = [threading.Thread(target=race) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results, key=str) == [None, None, None, set()]


def test_outcomes_are_kept(database: Database) -> None:
    assert reported.claim(database, schema.dmarc_reports, 1, DOMAIN) == set()
    reported.settle(
        database,
        schema.dmarc_reports,
        1,
        DOMAIN,
        {
            "a@x.example": ("sent", "250"),
            "b@x.example": ("deferred", "4\n51"),
            "c@x.example": ("refused", ""),
        },
        done=False,
    )
    assert reported.claim(database, schema.dmarc_reports, 1, DOMAIN) == {"a@x.example", "c@x.example"}
    reported.settle(database, schema.dmarc_reports, 1, DOMAIN, {"b@x.example": ("sent", "250")}, done=True)
    assert reported.claim(database, schema.dmarc_reports, 1, DOMAIN) is None
    assert reported.claim(database, schema.dmarc_reports, 1, "example.org") == set()
    assert reported.claim(database, schema.dmarc_reports, 2, DOMAIN) == set()


def test_a_sender_that_died_is_replaced(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reported.claim(database, schema.dmarc_reports, 1, DOMAIN) == set()
    now = time.time() + LEASE - 60
    monkeypatch.setattr(time, "time", lambda: now)
    assert reported.claim(database, schema.dmarc_reports, 1, DOMAIN) is None
    now += 120
    assert reported.claim(database, schema.dmarc_reports, 1, DOMAIN) == set()


def test_retention(database: Database) -> None:
    today = int(time.time()) // DAY
    store = Observations(database)
    for day in (today, today - 3, today - 4):
        store.add(day, DOMAIN, "r", SEEN)
    store.close()
    for day in (today - 3, today - 4):
        reported.claim(database, schema.dmarc_reports, day, DOMAIN)
    tidy(Config(report=ReportSettings(days=3)), database)
    assert [one.day for one in summaries(database)] == [today - 3, today]
    assert prune(database, today + 1) == 5
    assert summaries(database) == []


def test_counting_is_cheap(database: Database) -> None:
    store = Observations(database, interval=60)
    store.add(1, DOMAIN, "r", SEEN)
    start = time.thread_time()
    for _ in range(2_000):
        store.add(1, DOMAIN, "r", SEEN)
    assert (time.thread_time() - start) / 2_000 < 0.000_1
    store.close()


@pytest.mark.parametrize("status", ["sent", "refused", "deferred", "skipped"])
def test_what_concerns_no_destination_is_no_outcome_of_one(database: Database, status: Any) -> None:
    """The report itself has the row without an address: nothing else may settle that."""
    store = Observations(database)
    store.add(1, DOMAIN, "r", SEEN)
    store.close()
    (summary,) = summaries(database)
    sent = once(database, schema.dmarc_reports, summary, lambda _settled: [Sending("", status, "why")])
    assert sent == [Sending("", status, "why")]
    rows = database.read(lambda connection: connection.execute(select(schema.dmarc_reports)).all())
    assert [(row.destination, row.state) for row in rows] == [("", "due" if status == "deferred" else "done")]
