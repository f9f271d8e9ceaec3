# SPDX-License-Identifier: GPL-2.0-or-later
"""The state machine of held mail: every transition is in the table, and nothing else happens."""

from __future__ import annotations

from itertools import product

import pytest

from gateway.store.states import (
    GONE,
    NEEDS,
    OPEN,
    OURSELVES,
    TRANSITIONS,
    Actor,
    Event,
    Role,
    State,
    after,
    of_item,
    refusal,
    sources,
    unanswerable,
)


def test_the_table_is_whole() -> None:
    assert set(TRANSITIONS) == set(NEEDS) == set(Event)
    reached = {to for steps in TRANSITIONS.values() for to in steps.values()}
    assert reached | {State.HELD} == set(State)


def test_nothing_comes_back_from_where_it_went() -> None:
    for event, state, role in product(Event, (State.RELEASED, *GONE), Role):
        assert after(event, state, Actor("x", role)) is None


def test_what_is_open_can_end() -> None:
    """From each open state some way leads out, and deletion and expiry always do."""
    for state in OPEN:
        assert after(Event.DELETE, state, OURSELVES) is State.DELETED
        assert after(Event.EXPIRE, state, OURSELVES) is State.EXPIRED
        out = {event for event in Event if state in sources(event, Actor("eve", Role.REVIEWER))}
        assert {Event.RELEASE, Event.CLAIM, Event.DELIVER, Event.UNDO} & out


def test_a_message_goes_out_only_through_a_claim() -> None:
    def ways(to: State) -> set[tuple[Event, State]]:
        return {(e, s) for e, s in product(Event, State) if after(e, s, OURSELVES) is to}

    assert ways(State.RELEASED) == {(Event.DELIVER, State.RELEASING)}
    assert ways(State.RELEASING) == {(Event.CLAIM, State.SCHEDULED), (Event.CLAIM, State.RELEASING)}


def test_what_a_reviewer_denied_only_a_reviewer_releases() -> None:
    for role, answers in product(Role, (frozenset[str](), frozenset({"score"}))):
        who = Actor("x", role, answers)
        ends = (State.DELETING, *GONE)
        ways = {event for event in Event if (to := after(event, State.DENIED, who)) and to not in ends}
        thinks = role in (Role.REVIEWER, Role.ADMINISTRATOR)
        assert ways == ({Event.RELEASE} if thinks else set())
        free = after(Event.RELEASE, State.HELD, who) is State.SCHEDULED
        assert free == (role >= Role.REVIEWER or bool(answers))


def test_what_may_not_be_done_leads_nowhere() -> None:
    for event, state, role in product(Event, State, Role):
        who = Actor("x", role)
        if refusal(event, who):
            assert after(event, state, who) is None
            assert sources(event, who) == ()


@pytest.mark.parametrize(
    ("copies", "item"),
    [
        ([State.RELEASED, State.HELD], State.HELD),
        ([State.RELEASED, State.DENIED], State.DENIED),
        ([State.HELD, State.REQUESTED], State.REQUESTED),
        ([State.SCHEDULED, State.RELEASING], State.RELEASING),
        ([State.RELEASED, State.RELEASED], State.RELEASED),
        ([State.RELEASED, State.DELETING], State.DELETING),
        ([], None),
    ],
)
def test_an_item_is_where_its_copies_are(copies: list[State], item: State | None) -> None:
    assert of_item(copies) is item


@pytest.mark.parametrize("event", Event)
def test_roles(event: Event) -> None:
    for role in Role:
        assert (refusal(event, Actor("x", role)) == "") == (role >= NEEDS[event])
    users = {one for one in Event if not refusal(one, Actor("bob", Role.USER))}
    assert users == {Event.REQUEST, Event.WITHDRAW}


def test_malware_needs_a_role_and_a_word() -> None:
    reasons = ("VIRUS", "score")
    for role, aloud in product((Role.REVIEWER, Role.ADMINISTRATOR, Role.OURSELVES), (False, True)):
        left = unanswerable(reasons, Actor("x", role), aloud=aloud)
        assert left == (() if role is Role.ADMINISTRATOR and aloud else ("VIRUS",))
    assert unanswerable(reasons, OURSELVES, aloud=True) == ("VIRUS",)


@pytest.mark.parametrize("aloud", [False, True])
def test_users_answer_what_the_settings_say_and_never_malware(aloud: bool) -> None:
    reasons = ("VIRUS", "score", "SPF_FAIL")
    for answers, left in (((), reasons), (reasons, ("VIRUS",)), (("score",), ("VIRUS", "SPF_FAIL"))):
        bob = Actor("bob", Role.USER, frozenset(answers))
        assert unanswerable(reasons, bob, aloud=aloud) == left
        assert (refusal(Event.RELEASE, bob) == "") == bool(answers)
        assert refusal(Event.DELETE, bob)
        assert refusal(Event.UNDO, bob)
