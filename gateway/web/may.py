# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may do what to which held message: one pure table, asked by every page and every call of the API.

What somebody may not see does not exist for them: the answer is "no such message", never "forbidden".
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

from gateway.store.states import Role

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from gateway.store.people import Person


class Act(StrEnum):
    """What can be done. The value is its name in the API."""

    SEE = "see"
    REQUEST = "request"
    WITHDRAW = "withdraw"
    RELEASE = "release"
    APPROVE = "approve"
    DENY = "deny"
    UNDO = "undo"
    EXPLAIN = "explain"  # in full, with names of signals and points
    LEARN = "learn"
    SOURCE = "source"  # the message as it was received
    HISTORY = "history"  # who did what to it
    DELETE = "delete"
    RULE = "rule"  # block or allow its sender, for everybody
    INFECTED = "infected"  # release malware
    ELSEWHERE = "elsewhere"  # release it to another address


class Share(StrEnum):
    """How much of a message must be within somebody's reach."""

    ANY = "any"  # a copy
    ALL = "all"  # each copy
    EVERYTHING = "everything"  # all mail there is


# The least role for each act, and the share that it takes.
TABLE: Final[Mapping[Act, tuple[Role, Share]]] = {
    Act.SEE: (Role.USER, Share.ANY),
    Act.REQUEST: (Role.USER, Share.ANY),
    Act.WITHDRAW: (Role.USER, Share.ANY),
    Act.RELEASE: (Role.REVIEWER, Share.ANY),
    Act.APPROVE: (Role.REVIEWER, Share.ANY),
    Act.DENY: (Role.REVIEWER, Share.ANY),
    Act.UNDO: (Role.REVIEWER, Share.ANY),
    Act.EXPLAIN: (Role.REVIEWER, Share.ANY),
    Act.LEARN: (Role.REVIEWER, Share.ANY),
    # Header fields and history may name those who got a copy.
    Act.SOURCE: (Role.REVIEWER, Share.ALL),
    Act.HISTORY: (Role.REVIEWER, Share.ALL),
    Act.DELETE: (Role.REVIEWER, Share.ALL),
    Act.RULE: (Role.REVIEWER, Share.EVERYTHING),
    Act.INFECTED: (Role.ADMINISTRATOR, Share.EVERYTHING),
    Act.ELSEWHERE: (Role.REVIEWER, Share.EVERYTHING),
}


def may(person: Person, act: Act, recipients: Collection[str]) -> bool:
    """Whether `person` may do this to a message held for these recipients."""
    role, share = TABLE[act]
    if person.role < role or not recipients:
        return False
    reach = person.reach
    if share is Share.EVERYTHING:
        return reach.everything
    covered = [reach.covers(recipient) for recipient in recipients]
    return all(covered) if share is Share.ALL else any(covered)


def acts(person: Person, recipients: Collection[str]) -> frozenset[Act]:
    """All that `person` may do to it."""
    return frozenset(act for act in Act if may(person, act, recipients))
