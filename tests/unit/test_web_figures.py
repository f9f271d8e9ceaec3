# SPDX-License-Identifier: GPL-2.0-or-later
"""The figures: counted by day and by reach, drawn as bars, and shown to each person their own."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest

from gateway.store import statistics
from gateway.store.journal import Journal
from gateway.store.reach import EVERYTHING, Reach
from gateway.store.states import Actor
from gateway.store.statistics import DAY, Day
from gateway.web.figures import UPTO, shown
from gateway.web.plot import HEIGHT, WIDTH, plot
from tests.stored import EVIDENCE, REPLY, SIGNALS, execute, verdict_for
from tests.websites import Place

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BOB, OTHER = "bob@example.com", "dan@example.org"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()


def test_days_are_counted_within_reach(place: Place) -> None:
    today = int(time.time()) // DAY
    old, new, other = place.hold(BOB), place.hold(BOB), place.hold(OTHER)
    late = (today - 1) * DAY - 0.25  # the last moment of the day before yesterday
    for table, key in (("quarantine", "id"), ("quarantine_words", "item")):
        execute(place.database, f"UPDATE {table} SET held_at = {late} WHERE {key} = '{old.id}'")
    place.quarantine.delete(new.id, Actor("cli:x"))

    def counted(reach: Reach) -> list[dict[str, int]]:
        return [day.counts for day in statistics.held(place.database, reach, today - 2, today)[1]]

    assert counted(Reach((BOB,))) == [{"held": 1}, {}, {"deleted": 1}]
    assert counted(Reach(domains=("example.org",))) == [{}, {}, {"held": 1}]
    assert counted(EVERYTHING) == [{"held": 1}, {}, {"deleted": 1, "held": 1}]
    assert counted(Reach()) == [{}, {}, {}]
    assert statistics.held(place.database, Reach((BOB,)), today, today)[0] == {"held": 1, "deleted": 1}
    assert other.id


def test_all_mail_is_counted_by_action(place: Place) -> None:
    mail = place.hold(BOB)
    journal = Journal(place.database)
    for held in ([], [BOB], [BOB]):
        journal.record(
            mail,
            None,
            EVIDENCE,
            SIGNALS,
            verdict_for(mail, held=held),
            reply=REPLY,
            door="milter",
            seconds=0.1,
        )
    journal.close()
    today = int(time.time()) // DAY
    assert statistics.judged(place.database, today, today) == [Day(today, {"tag": 1, "quarantine": 2})]


def test_bars_stack_within_the_plot() -> None:
    days = [Day(n, {"a": n, "b": 2 * n, "c": 0}) for n in range(5)]
    made = plot(days, ("b", "a", "c"))
    assert made.words == ("b", "a")
    assert made.most == 12
    assert len(made.bars) == 8
    assert all(0 <= bar.y <= HEIGHT and bar.y + bar.height <= HEIGHT + 0.1 for bar in made.bars)
    assert all(bar.x >= 0 and bar.x + bar.width <= WIDTH for bar in made.bars)
    assert min(bar.y for bar in made.bars) == 0
    assert made.rows[4] == ("1970-01-05", (8, 4), 12)
    assert plot([], ("a",)).bars == ()
    assert plot([Day(0, {})], ("a",)).most == 0


def test_the_page_shows_ones_own(place: Place) -> None:
    place.hold(BOB, sender="<script>@example.org")
    place.hold(OTHER)
    bob, anna = place.browser("bob").get("/statistics"), place.browser("anna").get("/statistics")
    assert re.search(r"<dt>held</dt><dd>1</dd>", bob)
    assert re.search(r"<dt>held</dt><dd>2</dd>", anna)
    assert '<rect class="b-held"' in bob
    assert "Senders" not in bob
    assert "Senders" in anna
    assert "<script>@" not in anna
    assert place.browser("rita").get("/statistics")


def test_live_counters(place: Place) -> None:
    mail = place.hold(BOB)
    place.quarantine.decisions.request(mail.id, None, place.people.all()[0].actor)
    rita = place.browser("rita")
    assert rita.client.get("/counts").json() == {"open": "1", "requested": "1"}
    assert 'data-count="requested">1<' in rita.get("/held")
    assert place.browser().client.get("/counts", follow_redirects=False).status_code == 303
    assert "setInterval" in rita.get("/static/live.js")


def test_what_is_counted_has_an_end() -> None:
    assert shown({"open": UPTO - 1, "requested": UPTO}, str) == {"open": "9999", "requested": "10000 or more"}
