# SPDX-License-Identifier: GPL-2.0-or-later
"""Grants: good for one deed of one person about one copy, once, until they expire; and for nothing else."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.digest.settings import MOST_BEFORE_TOKEN
from gateway.store.grants import LONGEST, Deed, Grant, GrantError, Grants
from gateway.store.quarantine import Quarantine
from tests.stored import hold, mail_for

if TYPE_CHECKING:
    from gateway.store.database import Database

BOB, CAROL = "bob@example.com", "carol@example.com"
DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


@pytest.fixture
def grant(database: Database) -> Grant:
    mail = hold(Quarantine(database), mail_for(BOB, CAROL))
    return Grant(Deed.RELEASE, CAROL, time.time() + 7_200, mail.id, 1)


def test_a_token_says_what_it_is_for_as_often_as_it_is_looked_at(database: Database, grant: Grant) -> None:
    grants = Grants(database)
    token = grants.seal(grant)
    for _ in range(3):  # a scanner that opens links
        found = grants.look(token)
    assert (found.deed, found.who, found.item, found.position) == (Deed.RELEASE, CAROL, grant.item, 1)
    assert grant.expires <= found.expires < grant.expires + 3_600


def test_a_token_stands_in_an_address_of_any_case(database: Database, grant: Grant) -> None:
    token = Grants(database).seal(grant)
    assert len(token) + MOST_BEFORE_TOKEN + len("+") <= 64  # RFC 5321 §4.5.3.1.1
    assert Grants(database).look(token.lower()).who == CAROL
    assert Grants(database).look(f" {token}\n").who == CAROL


def test_a_token_is_used_once(database: Database, grant: Grant) -> None:
    grants = Grants(database)
    token = grants.seal(grant)
    assert grants.use(token).item == grant.item
    for again in (grants.use, grants.look, Grants(database).use):
        with pytest.raises(GrantError, match="used"):
            again(token)
        with pytest.raises(GrantError, match="used"):
            again(token.lower())


def test_of_twenty_uses_at_once_one_works(database: Database, grant: Grant) -> None:
    token = Grants(database).seal(grant)

    def use(_: int) -> bool:
        try:
            Grants(database).use(token)
        except GrantError:
            return False
        return True

    with ThreadPoolExecutor(20) as pool:
        assert sum(pool.map(use, range(20))) == 1


def test_what_undoes_the_deed_undoes_the_use(database: Database, grant: Grant) -> None:
    grants = Grants(database)
    token = grants.seal(grant)

    def work(connection: object) -> None:
        grants.spend(connection, token)  # type: ignore[arg-type]
        raise RuntimeError("the deed failed")

    with pytest.raises(RuntimeError):
        database.write(work)
    assert grants.use(token).who == CAROL


def test_it_expires(database: Database, grant: Grant, monkeypatch: pytest.MonkeyPatch) -> None:
    token = Grants(database).seal(grant)
    later = time.time() + 3 * 3_600
    monkeypatch.setattr("gateway.store.grants.time.time", lambda: later)
    for do in (Grants(database).look, Grants(database).use):
        with pytest.raises(GrantError, match="expired"):
            do(token)


def test_any_other_character_makes_it_worthless(database: Database, grant: Grant) -> None:
    grants = Grants(database)
    token = grants.seal(grant)
    for place, character in enumerate(token):
        other = DIGITS[(DIGITS.find(character) + 1) % 32]
        with pytest.raises(GrantError, match="no link of ours"):
            grants.look(token[:place] + other + token[place + 1 :])


@pytest.mark.parametrize(
    "change",
    [{"deed": Deed.SPAM}, {"position": 0}, {"item": "0" * 16}, {"expires": time.time() + 99_999}],
)
def test_facts_of_another_grant_do_not_fit(
    database: Database, grant: Grant, change: dict[str, object]
) -> None:
    """Somebody who has one token writes the facts of another one before its MAC."""
    grants = Grants(database)
    mine, other = grants.seal(grant), grants.seal(replace(grant, **change))  # type: ignore[arg-type]
    with pytest.raises(GrantError, match="no link of ours"):
        grants.look(other[:-24] + mine[-24:])


def test_the_token_of_another_database_is_worthless(database: Database, grant: Grant) -> None:
    token = Grants(database).seal(grant)
    other = Grants(database)
    other._known = b"x" * 32
    with pytest.raises(GrantError):
        other.look(token)


def test_a_login_names_its_person(database: Database) -> None:
    grants = Grants(database)
    token = grants.seal(Grant(Deed.LOGIN, "Bob@Example.com", time.time() + 60))
    assert grants.use(token).who == BOB
    other = grants.seal(Grant(Deed.LOGIN, CAROL, time.time() + 60))
    with pytest.raises(GrantError):
        grants.look(other[:-24] + token[-24:])


def test_what_has_expired_is_forgotten_and_stays_worthless(
    database: Database, grant: Grant, monkeypatch: pytest.MonkeyPatch
) -> None:
    grants = Grants(database)
    token = grants.seal(grant)
    grants.use(token)
    assert grants.prune() == 0
    later = time.time() + 5 * 3_600
    monkeypatch.setattr("gateway.store.grants.time.time", lambda: later)
    assert grants.prune() == 1
    with pytest.raises(GrantError, match="expired"):
        grants.use(token)


@given(text=st.one_of(st.text(max_size=700), st.text(alphabet=DIGITS + "RSL", min_size=40, max_size=80)))
def test_other_text_is_refused(text: str) -> None:
    class Untouched:
        def read(self, _work: object) -> str:
            return ""

    grants = Grants(Untouched())  # type: ignore[arg-type]
    grants._known = b"k" * 32
    with pytest.raises(GrantError):
        grants.look(text)


def test_long_text_costs_nothing(database: Database) -> None:
    began = time.process_time()
    with pytest.raises(GrantError):
        Grants(database).look("R" * 10_000_000)
    assert time.process_time() - began < 0.5
    assert LONGEST < 1_000
