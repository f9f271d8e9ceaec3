# SPDX-License-Identifier: GPL-2.0-or-later
"""Searches find the same, whether few items are looked up or all are read; what they read is kept true."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace as replace_settings
from sqlalchemy import func, select, text

from gateway.mail.domains import domain_of, normal
from gateway.store import journal, schema, search, statistics
from gateway.store import quarantine as quarantine_module
from gateway.store.database import TooSlowError
from gateway.store.quarantine import Quarantine
from gateway.store.reach import EVERYTHING, LONGEST, Reach, keys_of
from gateway.store.search import Search, folded
from gateway.store.states import OPEN, Actor, Role, State
from tests.stored import POSTGRESQL, RAW, claim, hold, mail_for, open_database, settings_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Connection, Select

    from gateway.store.database import StoreSettings
    from gateway.store.held import Item

ROSA = Actor("web:rosa", Role.ADMINISTRATOR)
PEOPLE = (
    ("bob@example.com",),
    ("Bob@Example.com", "carol@sub.example.com"),
    ("dora@example.org", "bob@example.com"),
    ("b_b%b@example.org",),
    ("ina@bücher.example.org",),
    ("ina@xn--bcher-kva.example.org",),
    ("ina@abücher.example.org", "ina@bücher.example.org.example.net"),
    ("postmaster",),
)
REACHES = (
    None,
    EVERYTHING,
    Reach(),
    Reach(("BOB@example.com",)),
    Reach(("bob@example.com",), ("example.org",)),
    Reach(domains=(".example.com",)),
    Reach(domains=("example.com", ".org")),
    Reach(domains=("bücher.example.org",)),
    Reach(("@example.com", ".com", "=bob@example.com")),
    Reach(("b%@example.org", "bob\0@example.com")),
)
TEXTS: tuple[dict[str, Any], ...] = (
    {},
    {"subject": "CHANCE 1"},
    {"subject": "%"},
    {"sender": "ALICE"},
    {"recipient": "b_b%"},
    {"domain": "example.com"},
    {"domain": "@EXAMPLE.net"},
    {"domain": "xample.com"},
    {"domain": "bücher.example.org"},
    {"domain": "BÜCHER.example.org."},
    {"domain": "@xn--Bcher-kva.example.org"},
    {"domain": "xn--b\0cher-kva.example.org"},
    {"domain": "xn--999999999.example.org"},
    {"score_from": 9.5, "larger": 1, "reason": "score"},
    {"reason": "newsletter"},
    {"reason": "none such"},
    {"sender": "alice\0"},
)


@pytest.fixture
def quarantine(tmp_path: Path) -> Iterator[Quarantine]:
    database = open_database(settings_for(tmp_path))
    yield Quarantine(database)
    database.close()


@pytest.fixture
def filled(quarantine: Quarantine) -> Quarantine:
    """Some items in several states."""
    for number, people in enumerate(PEOPLE * 2):
        raw = RAW.replace(b"A chance", b"A 100%% Chance %d" % number)
        sender = "eve@example.com" if number % 4 == 3 else "Alice@example.net"
        mail = mail_for(*people, raw=raw, sender=sender)
        hold(quarantine, mail, reasons=("NEWSLETTER",) if number % 3 else ("score", "NEWSLETTER"))
        if number % 5 == 1:
            quarantine.decisions.request(mail.id, None, ROSA)
        if number % 5 == 2:
            quarantine.delete(mail.id, ROSA)
    return quarantine


def agrees(item: Item, wanted: Search) -> bool:
    """Whether an item is what a search is for, told without SQL."""
    states = wanted.state if isinstance(wanted.state, tuple) else (wanted.state,)
    people = [one.address for one in item.recipients]
    domain = normal(wanted.domain.lstrip("@"))
    return (
        (wanted.state is None or item.state in states)
        and (wanted.within is None or any(wanted.within.covers(one) for one in people))
        and "\0" not in wanted.sender
        and folded(wanted.sender) in folded(item.sender)
        and folded(wanted.subject) in folded(item.subject)
        and any(folded(wanted.recipient) in folded(one) for one in people)
        and (not domain or any(domain_of(one) == domain for one in (item.sender, *people)))
        and (not wanted.reason or search.spelling(wanted.reason) in item.reasons)
    )


ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"
LONG = ENDLESS.replace("FROM n)", "FROM n WHERE x < 500000)")


def test_a_search_that_has_no_end_is_given_up(store_settings: StoreSettings) -> None:
    database = open_database(replace_settings(store_settings, search_seconds=0.05))
    for _ in range(2):
        with pytest.raises(TooSlowError, match=r"longer than 0\.05 s .*narrow it"):
            database.search(lambda connection: connection.execute(text(ENDLESS)).scalar())
    database.close()


def test_only_searches_have_so_little_time(store_settings: StoreSettings) -> None:
    database = open_database(replace_settings(store_settings, search_seconds=0.001))
    quarantine = Quarantine(database)
    with pytest.raises(TooSlowError):
        database.search(lambda connection: connection.execute(text(LONG)).scalar())
    for _ in range(3):  # on the connection that the search had
        assert database.read(lambda connection: connection.execute(text(LONG)).scalar()) == 500_000
    item = hold(quarantine).id
    assert quarantine.raw(item) == RAW
    database.close()


def test_what_people_search_by_has_an_end(filled: Quarantine, monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(connection: Connection, *_: object) -> Select[Any]:
        connection.execute(text(ENDLESS))
        raise AssertionError("it ended")

    monkeypatch.setattr(filled.database, "_seconds", 0.05)
    monkeypatch.setattr(quarantine_module, "newest", endless)
    monkeypatch.setattr(quarantine_module, "matching", endless)
    monkeypatch.setattr(statistics, "matching", endless)
    monkeypatch.setattr(journal, "_newest", lambda _wanted: text(ENDLESS))
    for look in (
        lambda: journal.Journal(filled.database).page(journal.Filter()),
        lambda: filled.search(Search(subject="x")),
        lambda: filled.count(Search(subject="x")),
        lambda: statistics.held(filled.database, EVERYTHING, 0, 1),
    ):
        with pytest.raises(TooSlowError):
            look()


@pytest.mark.parametrize("few", [0, 3, 20_000])
def test_each_way_finds_the_same(filled: Quarantine, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_FEW", few)
    everything = filled.search(Search())
    assert len(everything) == len(PEOPLE) * 2
    found_some = 0
    asked = [
        *itertools.product(REACHES, TEXTS, (OPEN,)),
        *itertools.product(REACHES, TEXTS[:2], (None, State.REQUESTED, State.DELETED)),
    ]
    for reach, texts, state in asked:
        wanted = Search(within=reach, state=state, **texts)
        expected = [item.id for item in everything if agrees(item, wanted)]
        found = [item.id for item in filled.search(wanted)]
        assert found == expected, wanted
        assert filled.count(wanted) == len(expected)
        assert [item.id for item in filled.search(replace(wanted, limit=2, offset=1))] == expected[1:3]
        if len(expected) > 1:
            older = replace(wanted, before=expected[0])
            assert [item.id for item in filled.search(older)] == expected[1:]
            assert filled.count(replace(wanted, after=expected[1])) == 1
        found_some += bool(expected)
    assert found_some > 50


@pytest.mark.parametrize("domain", ["bücher.example.org", "BÜCHER.example.org", "xn--bcher-kva.example.org"])
def test_a_domain_is_found_in_both_its_spellings(filled: Quarantine, domain: str) -> None:
    found = filled.search(Search(domain=domain))
    people = {one.address for item in found for one in item.recipients}
    assert people == {"ina@bücher.example.org", "ina@xn--bcher-kva.example.org"}
    from_there = hold(filled, mail_for(sender="ina@xn--bcher-kva.example.org"))
    assert from_there.id in [item.id for item in filled.search(Search(domain=domain))]


@pytest.mark.parametrize("reach", [one for one in REACHES if one])
@pytest.mark.parametrize("people", PEOPLE)
def test_whom_a_reach_covers_a_key_finds(reach: Reach, people: tuple[str, ...]) -> None:
    found = not set(reach.keys()).isdisjoint(keys_of(people))
    covered = any(reach.covers(one) for one in people)
    assert found == covered or reach.everything


def test_keys_are_bounded() -> None:
    deep = "bob@" + ".".join("abcdefghijkl")
    assert len(keys_of([deep])) == 10
    assert set(Reach(domains=(".b.c.d.e.f.g.h.i.j.k.l",)).keys()) <= set(keys_of([deep]))
    assert set(Reach(domains=(".l",)).keys()) <= set(keys_of([deep]))
    long = "ΐ" * 300 + "@example.com"
    assert max(map(len, keys_of([long]))) == LONGEST
    assert Reach((long,)).keys()[0] in keys_of([long])


def test_a_recipient_whose_key_is_cut_off_is_held(quarantine: Quarantine) -> None:
    long = "ΐ" * 300 + "@example.com"
    mail = hold(quarantine, mail_for(long))
    assert [item.id for item in quarantine.search(Search(within=Reach((long,))))] == [mail.id]


def states(quarantine: Quarantine) -> dict[str, str]:
    """The items' states by what searches read, which must be those of the items."""
    words, table = schema.quarantine_words, schema.quarantine
    read = quarantine.database.read
    found = {
        row.item: row.state for row in read(lambda c: c.execute(select(words.c.item, words.c.state)).all())
    }
    exact = {row.id: row.state for row in read(lambda c: c.execute(select(table.c.id, table.c.state)).all())}
    assert found == exact
    return found


def test_the_state_that_is_searched_is_that_of_the_item(quarantine: Quarantine) -> None:
    one, two, three = (hold(quarantine, mail_for("bob@example.com", "eve@example.org")).id for _ in range(3))
    decisions = quarantine.decisions
    decisions.request(one, ["bob@example.com"], ROSA)
    assert states(quarantine)[one] == "requested"
    decisions.deny(one, None, ROSA)
    assert states(quarantine)[one] == "denied"
    taken = claim(quarantine, two)
    assert taken is not None
    assert states(quarantine)[two] == "releasing"
    quarantine.settle(taken, who="cli:x", delivered={one: one for one in taken.recipients})
    assert states(quarantine)[two] == "released"
    assert quarantine.expire(time.time() + 1) == 3
    assert states(quarantine) == {one: "expired", two: "released", three: "expired"}
    assert statistics.held(quarantine.database, EVERYTHING, 0, 0)[0] == {"expired": 2, "released": 1}


def test_nothing_is_left_of_what_is_forgotten(filled: Quarantine) -> None:
    kept = hold(filled, mail_for("bob@example.com", "last@example.com")).id
    for item in filled.search(Search()):
        if item.id != kept:
            filled.delete(item.id, ROSA)
    assert filled.forget(time.time() + 1) == len(PEOPLE) * 2
    reach = schema.quarantine_reach
    left = filled.database.read(lambda c: c.execute(select(reach.c.key, reach.c.item)).all())
    assert {row.item for row in left} == {kept}
    assert {row.key for row in left} == set(keys_of(["bob@example.com", "last@example.com"]))
    assert filled.database.read(lambda c: c.execute(select(func.count(schema.quarantine.c.id))).scalar()) == 1


def test_more_items_than_a_database_takes_parameters(quarantine: Quarantine) -> None:
    mail = hold(quarantine)
    ids = [f"{n:016}" for n in range(70_000 if POSTGRESQL else 40_000)]
    assert list(quarantine.known([*ids, mail.id])) == [mail.id]
