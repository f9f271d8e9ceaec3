# SPDX-License-Identifier: GPL-2.0-or-later
"""People and logins in the store, whose mail they may see, and searches as people write them."""

from __future__ import annotations

import time

import pytest
from sqlalchemy import select

from gateway.store import options, schema
from gateway.store.database import Database, StoreError
from gateway.store.people import People, Person
from gateway.store.quarantine import Quarantine
from gateway.store.reach import EVERYTHING, Reach
from gateway.store.search import Search
from gateway.store.states import Role
from tests.stored import hold, mail_for

BOB = Person("bob", Role.USER, ("bob@example.com",))


@pytest.fixture
def people(database: Database) -> People:
    return People(database)


def test_people_are_kept_changed_and_forgotten(people: People, database: Database) -> None:
    people.put(BOB, "cli:root")
    assert people.find("BOB") == people.all()[0]
    secret = people.log_in("bob", "session", seconds=60)
    people.put(Person("bob", Role.REVIEWER, domains=("example.com",)), "cli:root")
    assert people.find("bob") is not None
    assert people.known(secret, "session") is None, "a change ends what somebody was logged in as"
    assert people.remove("bob", "cli:root")
    assert not people.remove("bob", "cli:root")
    assert people.find("bob") is None
    told = [(event.action, event.why) for event in Quarantine(database).latest(10)]
    assert told == [
        ("person removed", "bob"),
        ("person changed", "bob is reviewer"),
        ("person added", "bob is user"),
    ]


@pytest.mark.parametrize(
    "person",
    [
        Person("", Role.USER, ("a@example.com",)),
        Person("a b", Role.USER, ("a@example.com",)),
        Person("../etc", Role.USER, ("a@example.com",)),
        Person("a" * 255, Role.USER, ("a@example.com",)),
        Person("bob", Role.USER),
        Person("bob", Role.USER, ("bob",)),
        Person("bob", Role.USER, ("b\nob@example.com",)),
        Person("bob", Role.USER, ("bob@example.com",), ("example.com",)),
        Person("bob", Role.REVIEWER, (), ("*",)),
        Person("bob", Role.OURSELVES),
    ],
)
def test_nobody_else_is_kept(people: People, person: Person) -> None:
    with pytest.raises(StoreError):
        people.put(person, "cli:root")
    assert people.all() == []


def test_a_login_ends(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = people.log_in("bob", "session", seconds=600)
    now = time.time()
    assert people.known(secret, "session", idle=60) is not None
    assert people.known(secret, "token") is None, "a session is no token"
    assert people.known(secret[:-1], "session") is None
    monkeypatch.setattr(time, "time", lambda: now + 61.0)
    assert people.known(secret, "session", idle=60) is None
    used = people.known(secret, "session", idle=120)
    assert used is not None
    assert people.known(secret, "session", idle=60) is not None, "it was used just now"
    monkeypatch.setattr(time, "time", lambda: now + 601.0)
    assert people.known(secret, "session") is None


def test_logging_out(people: People) -> None:
    one, two = (people.log_in("bob", "session", seconds=60) for _ in "12")
    other = people.log_in("carol", "session", seconds=60)
    found = people.known(one, "session")
    assert found is not None
    assert people.log_out("bob", "session", found.hash) == 1
    assert people.known(one, "session") is None
    assert people.known(two, "session") is not None
    assert people.log_out("bob", "session") == 1
    assert people.known(two, "session") is None
    assert people.known(other, "session") is not None


def test_no_secret_is_kept_and_sessions_are_bounded(people: People, database: Database) -> None:
    secrets = [people.log_in("bob", "session", seconds=60, note="\x1b[31m") for _ in range(60)]
    rows = database.read(lambda c: c.execute(select(schema.logins)).all())
    assert len(rows) == 50
    assert not any(secret in str(row) for secret in secrets for row in rows)
    assert all("\x1b" not in row.note for row in rows)
    assert people.known(secrets[-1], "session")


@pytest.mark.parametrize(
    ("reach", "address", "covered"),
    [
        (EVERYTHING, "anybody@example.org", True),
        (Reach(), "bob@example.com", False),
        (Reach(("bob@example.com",)), "BOB@Example.com", True),
        (Reach(("bob@example.com",)), "xbob@example.com", False),
        (Reach(("bob@example.com",)), "bob@example.com.example.org", False),
        (Reach(domains=("example.com",)), "carol@EXAMPLE.com", True),
        (Reach(domains=("example.com",)), "carol@sub.example.com", False),
        (Reach(domains=(".example.com",)), "carol@sub.example.com", True),
        (Reach(domains=(".example.com",)), "carol@example.com", False),
        (Reach(domains=("example.com",)), '"x@example.com"@example.org', False),
        (Reach(domains=("example.com",)), "postmaster", False),
        (Reach(domains=("example.com",)), "", False),
    ],
)
def test_reach(reach: Reach, address: str, covered: bool) -> None:
    assert reach.covers(address) is covered


def test_a_search_stays_within_reach(database: Database) -> None:
    quarantine = Quarantine(database)
    ours = hold(quarantine, mail_for("bob@example.com", "carol@example.org"))
    hold(quarantine, mail_for("xbob@example.com"))
    hold(quarantine, mail_for("bob@example.com.example.net"))
    below = hold(quarantine, mail_for("dave@a.example.com"))
    percent = hold(quarantine, mail_for("b%b@example.edu"))

    def found(reach: Reach) -> set[str]:
        return {item.id for item in quarantine.search(Search(within=reach))}

    assert found(Reach(("Bob@example.com",))) == {ours.id}
    assert found(Reach()) == set()
    assert found(Reach(domains=("example.org",))) == {ours.id}
    assert found(Reach(domains=(".example.com",))) == {below.id}
    assert found(Reach(("%",))) == set()
    assert found(Reach(("b%b@example.edu",))) == {percent.id}
    assert len(found(EVERYTHING)) == 5
    assert len(found(Reach(("' OR 1=1 --@x",)))) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"since": "yesterday"},
        {"since": "9" * 400},
        {"score": "x..y"},
        {"score": ".."},
        {"size": "1T.."},
        {"sender": "x" * 321},
        {"until": "\x1b[31m"},
    ],
)
def test_a_wrong_search_says_what_to_write(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"write|longer") as caught:
        options.search({}, wrong, None)
    assert "\x1b" not in str(caught.value)


def test_what_was_saved_gives_way() -> None:
    made = options.search(
        {"sender": "a", "since": None}, {"sender": "b", "score": "8..15", "size": "1k.."}, None
    )
    assert (made.sender, made.score_from, made.score_below, made.larger) == ("a", 8.0, 15.0, 1_000)
