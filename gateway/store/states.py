# SPDX-License-Identifier: GPL-2.0-or-later
"""The state machine of a held message: what may happen to it, who may do that, and what it needs.

Pure: no store, no clock. Each recipient's copy has a state of its own; the item's state follows from
those of its copies. `decisions.py` and `quarantine.py` do what this module allows, in one transaction with
the row of the audit that tells of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping


class State(StrEnum):
    """Where a held message, or the copy of one recipient, is."""

    HELD = "held"
    REQUESTED = "requested"  # its recipient asks for it
    DENIED = "denied"  # a reviewer said no; it stays until it expires, or a reviewer thinks otherwise
    SCHEDULED = "scheduled"  # released, and not yet sent: the undo window
    RELEASING = "releasing"  # leased by one releaser
    DELETING = "deleting"  # to be deleted, and still there: the undo window
    RELEASED = "released"
    DELETED = "deleted"
    EXPIRED = "expired"


class Event(StrEnum):
    """What happens to a copy. The value is the word in the audit."""

    REQUEST = "requested"
    WITHDRAW = "withdrawn"
    DENY = "denied"
    RELEASE = "scheduled"
    APPROVE = "approved"
    UNDO = "undone"
    DISCARD = "discarded"
    CLAIM = "claimed"
    DELIVER = "released"
    FAIL = "failed"
    DELETE = "deleted"
    EXPIRE = "expired"


class Role(IntEnum):
    """What somebody may do; each may do what those before it may."""

    USER = 1  # with mail of their own
    REVIEWER = 2
    ADMINISTRATOR = 3
    OURSELVES = 4  # the program, for what time or a setting asks for


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does something, as the audit names them ("cli:alice"), and in which role."""

    name: str
    role: Role = Role.REVIEWER
    # The reasons that a user may answer for a copy of their own; a user with none asks a reviewer.
    answers: frozenset[str] = frozenset()


OURSELVES: Final = Actor("mailwarden", Role.OURSELVES)

WAITING: Final = (State.HELD, State.REQUESTED, State.DENIED)  # for somebody's decision
OPEN: Final = (*WAITING, State.SCHEDULED, State.RELEASING, State.DELETING)
GONE: Final = (State.DELETED, State.EXPIRED)

_ANY = dict.fromkeys
TRANSITIONS: Final[Mapping[Event, Mapping[State, State]]] = {
    Event.REQUEST: {State.HELD: State.REQUESTED},
    Event.WITHDRAW: {State.REQUESTED: State.HELD},
    Event.DENY: _ANY((State.HELD, State.REQUESTED), State.DENIED),
    Event.RELEASE: _ANY(WAITING, State.SCHEDULED),
    Event.APPROVE: {State.REQUESTED: State.SCHEDULED},
    Event.UNDO: _ANY((State.SCHEDULED, State.DELETING), State.HELD),
    # These two from RELEASING only when the lease of the one who had it is over.
    Event.DISCARD: _ANY((*WAITING, State.SCHEDULED, State.RELEASING), State.DELETING),
    Event.CLAIM: _ANY((State.SCHEDULED, State.RELEASING), State.RELEASING),
    Event.DELIVER: {State.RELEASING: State.RELEASED},
    Event.FAIL: {State.RELEASING: State.HELD},
    Event.DELETE: _ANY(OPEN, State.DELETED),
    Event.EXPIRE: _ANY(OPEN, State.EXPIRED),
}

# The least role for each event.
NEEDS: Final[Mapping[Event, Role]] = {
    Event.REQUEST: Role.USER,
    Event.WITHDRAW: Role.USER,
    Event.DENY: Role.REVIEWER,
    Event.RELEASE: Role.REVIEWER,
    Event.APPROVE: Role.REVIEWER,
    Event.DISCARD: Role.REVIEWER,
    Event.UNDO: Role.REVIEWER,
    Event.CLAIM: Role.REVIEWER,
    Event.DELIVER: Role.REVIEWER,
    Event.FAIL: Role.REVIEWER,
    Event.DELETE: Role.REVIEWER,
    Event.EXPIRE: Role.OURSELVES,
}

UNDELIVERED: Final = "UNDELIVERED"  # the reason to hold what a next hop refused too late to tell the client

# Reasons that only an administrator answers, and only where it is said aloud.
MALWARE: Final = frozenset({"VIRUS"})

# The item's state is the first of these that one of its copies has.
_FIRST = (
    State.RELEASING,
    State.SCHEDULED,
    State.DELETING,
    State.REQUESTED,
    State.HELD,
    State.DENIED,
    State.RELEASED,
    State.DELETED,
    State.EXPIRED,
)


def after(event: Event, state: State, who: Actor) -> State | None:
    """The state that `event`, done by `who`, leads to from `state`; None where it must not happen.

    What a reviewer has denied goes out only if a reviewer thinks otherwise, whatever users may answer and
    the program finds.
    """
    thinks = who.role in (Role.REVIEWER, Role.ADMINISTRATOR)
    denied = state is State.DENIED and event is Event.RELEASE and not thinks
    return None if denied or refusal(event, who) else TRANSITIONS[event].get(state)


def sources(event: Event, who: Actor) -> tuple[State, ...]:
    """The states from which `who` may let `event` happen."""
    return tuple(state for state in State if after(event, state, who) is not None)


def of_item(copies: Iterable[State]) -> State | None:
    """The item's state by those of its copies; None if it has none."""
    found = set(copies)
    return next((state for state in _FIRST if state in found), None)


def refusal(event: Event, actor: Actor) -> str:
    """Why `actor` may not do this, or ""."""
    if actor.role >= NEEDS[event] or (event is Event.RELEASE and actor.answers):
        return ""
    return f"{actor.name} may not do this: it takes the role {NEEDS[event].name.lower()}"


def releases_alone(reasons: Collection[str], answered: Collection[str], who: Actor) -> bool:
    """Whether `who` may release what is held for `reasons`, some of them answered, without anybody else.

    A release answers all reasons of its item, also that of another's copy by somebody who decides about that
    copy alone. So where none is open, all of them count again.
    """
    left = set(reasons) - set(answered) or set(reasons)
    return bool(left) and not refusal(Event.RELEASE, who) and not unanswerable(left, who, aloud=False)


def unanswerable(reasons: Collection[str], actor: Actor, *, aloud: bool) -> tuple[str, ...]:
    """Those of `reasons` that `actor` may not answer; `aloud` is whether malware was spoken of."""
    if actor.role is Role.USER:
        return tuple(reason for reason in reasons if reason in MALWARE or reason not in actor.answers)
    if aloud and actor.role >= Role.ADMINISTRATOR and actor.role is not Role.OURSELVES:
        return ()
    return tuple(reason for reason in reasons if reason in MALWARE)
