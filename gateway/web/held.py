# SPDX-License-Identifier: GPL-2.0-or-later
"""Held mail as one person sees it, and what that person does with it; behind the pages and the API alike.

Reads hostile mail, by the bounded reader. Asks `may` first, and shows of a message only the copies within the
person's reach; what happens goes through the store's decisions. A release or a deletion is ordered and can be
undone; the housekeeper does it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from gateway.delivery.release import ReleaseError, schedule
from gateway.mail.mime import parse
from gateway.mail.types import ID_PATTERN, new_id
from gateway.store.database import StoreError
from gateway.store.decisions import RefusedError
from gateway.store.senders import Senders, of_message
from gateway.store.states import Role, State, of_item, releases_alone
from gateway.web.may import Act, acts, may

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gateway.mail.types import Content
    from gateway.store.audit import Event
    from gateway.store.decisions import Order
    from gateway.store.held import Item, Judgement
    from gateway.store.people import Person
    from gateway.store.quarantine import Quarantine
    from gateway.store.reach import Reach
    from gateway.store.search import Search
    from gateway.store.senders import Rule

Many = Literal["request", "release", "deny", "delete"]  # what is done to many at once

_ORDERED: Final = ("release", "delete")  # what is done when the time to undo is over
BULK: Final = 500  # messages that one decision about many takes


class AbsentError(Exception):
    """There is no such message, or it is none of this person's business: nobody is told which."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some messages, newest first, and the cursor of the next page, "" behind the last."""

    items: tuple[Item, ...]
    following: str


class HeldMail:
    """The quarantine, for one person. Raises AbsentError, RefusedError and StoreError."""

    def __init__(
        self,
        quarantine: Quarantine,
        person: Person,
        *,
        undo: float,
        learn: Callable[[Sequence[str], bool, str], Mapping[str, int]] | None,
        users: frozenset[str] = frozenset(),
    ) -> None:
        """`undo` are the seconds in which a release or a deletion can be taken back.

        `learn` takes ids, whether they are spam, and who says so, and counts what became of them; None
        if nothing is learned here. `users` are the reasons that recipients answer by themselves.
        """
        self._quarantine = quarantine
        self._person = person
        self._undo = undo
        self._learn = learn
        self._actor = replace(person.actor, answers=users if person.role is Role.USER else frozenset())

    # -------------------------------------------------------------- looking

    def page(self, wanted: Search) -> Page:
        """Messages that match, as far as the person may see them."""
        rows = self._quarantine.search(replace(wanted, within=self._person.reach, limit=wanted.limit + 1))
        more = len(rows) > wanted.limit
        rows = rows[: wanted.limit]
        seen = [one for row in rows if (one := self._seen(row)) is not None]
        states = _states(wanted)
        items = tuple(one for one in seen if states is None or one.state in states)
        return Page(items, rows[-1].id if more else "")

    def count(self, wanted: Search, upto: int = 10_000) -> int:
        """How many messages match, `upto` at most; some may be others' after all."""
        return self._quarantine.count(replace(wanted, within=self._person.reach), upto)

    def find(self, item: str) -> Item:
        """One message, with the copies that the person may see."""
        found = self._quarantine.find(item)
        seen = self._seen(found) if found is not None else None
        if seen is None:
            raise AbsentError
        return seen

    def known(self, ids: Sequence[str]) -> list[Item]:
        """Those of `ids` that the person may see, newest first."""
        found = self._quarantine.known([one for one in ids if ID_PATTERN.fullmatch(one)])
        seen = [one for row in found.values() if (one := self._seen(row)) is not None]
        return sorted(seen, key=lambda one: one.id, reverse=True)

    def may(self, item: str) -> frozenset[Act]:
        """What the person may do to a message, whatever its state."""
        found = acts(self._person, self._everybody(item))
        return found | {Act.RELEASE} if self._answers(item) else found

    def content(self, item: str) -> Content | None:
        """What a message contains, None once it is gone."""
        return parse(self._quarantine.raw(item)) if self.find(item).content else None

    def source(self, item: str) -> bytes:
        """The message as it was received."""
        self._allowed(item, Act.SOURCE)
        return self._quarantine.raw(item)

    def judgements(self, item: str) -> list[Judgement]:
        """Why it is held, with the outcomes of the copies that the person may see."""
        self.find(item)
        reach = self._person.reach
        return [_for(reach, one) for one in self._quarantine.judgements(item)]

    def history(self, item: str) -> list[Event]:
        """Who did what to it, oldest first; empty for who may not know."""
        self.find(item)
        return self._quarantine.history(item) if Act.HISTORY in self.may(item) else []

    # -------------------------------------------------------------- deciding

    def request(self, item: str, *, why: str = "") -> tuple[str, ...]:
        """Ask for the person's copies."""
        mine = self._allowed(item, Act.REQUEST)
        return self._quarantine.decisions.request(item, mine, self._actor, why=why)

    def withdraw(self, item: str, *, why: str = "") -> tuple[str, ...]:
        """Take that back."""
        mine = self._allowed(item, Act.WITHDRAW)
        return self._quarantine.decisions.withdraw(item, mine, self._actor, why=why)

    def deny(self, item: str, *, why: str = "") -> tuple[str, ...]:
        """Say no to a request, or before there is one."""
        mine = self._allowed(item, Act.DENY)
        return self._quarantine.decisions.deny(item, mine, self._actor, why=why)

    def release(
        self,
        item: str,
        *,
        why: str = "",
        to: str = "",
        wrapped: bool = False,
        infected: bool = False,
        approve: bool = False,
        batch: str = "",
    ) -> Order:
        """Let copies go, to their recipients or to one other address, when the time to undo is over."""
        act = Act.APPROVE if approve else Act.RELEASE
        mine = self._own(item) if act is Act.RELEASE and self._answers(item) else self._allowed(item, act)
        if infected:
            self._allowed(item, Act.INFECTED)
        if to or (wrapped and self._person.role is Role.USER):
            self._allowed(item, Act.ELSEWHERE)
        try:
            return schedule(
                self._quarantine,
                item,
                self._actor,
                due=time.time() + self._undo,
                batch=batch,
                to=to,
                only=mine,
                infected=infected,
                wrapped=wrapped,
                why=why,
                approve=approve,
            )
        except ReleaseError as error:
            raise RefusedError(str(error)) from error

    def undo(self, item: str) -> list[str]:
        """Take back a release that is not sent, or a deletion that is not done."""
        mine = self._allowed(item, Act.UNDO)
        orders = self._quarantine.decisions.orders(item=item)
        if mine is not None and any(set(order.recipients) - set(mine) for order in orders):
            raise RefusedError("it was decided for others as well")
        undone = self._quarantine.decisions.undo(self._actor, item=item)
        if not undone:
            raise RefusedError("nothing of it waits to be sent or deleted")
        return undone

    def undo_batch(self, batch: str) -> list[str]:
        """Take back all of one decision that this person made and that is not done."""
        orders = self._quarantine.decisions.orders(batch=batch)
        if not orders or any(order.who != self._actor.name for order in orders):
            raise AbsentError
        return self._quarantine.decisions.undo(self._actor, batch=batch)

    def delete(self, item: str, *, why: str = "", batch: str = "") -> Order | None:
        """Delete it for all its recipients when the time to undo is over; None if nothing can be undone."""
        self._allowed(item, Act.DELETE)
        due = time.time() + self._undo
        return self._quarantine.discard(item, self._actor, due=due, batch=batch, why=why)

    def learn(self, items: Sequence[str], *, spam: bool) -> Mapping[str, int]:
        """Teach the classifier; what became of them, counted."""
        for item in items:
            self._allowed(item, Act.LEARN)
            if not self.find(item).content:
                raise RefusedError("its content is gone")
        if self._learn is None:
            raise RefusedError("the site's model is switched off")
        return self._learn(items, spam, self._actor.name)

    def rule(self, item: str, rule: Rule, *, why: str = "") -> str:
        """Block or allow its envelope sender, for everybody; the pattern as it is kept."""
        self._allowed(item, Act.RULE)
        sender, who = self._sender(item), self._actor.name
        return Senders(self._quarantine.database).put(sender, rule, who, why=why, item=item)

    def unrule(self, item: str) -> None:
        """Forget what is ruled about its envelope sender."""
        self._allowed(item, Act.RULE)
        if not Senders(self._quarantine.database).remove(self._sender(item), self._actor.name):
            raise RefusedError("nothing is ruled about this very address")

    def ruled(self, item: str) -> str:
        """What is ruled about its envelope sender: "block", "allow" or none."""
        found = Senders(self._quarantine.database).lookup(self.find(item).sender, ())
        return found[0].rule if found else ""

    def each(self, items: Sequence[str], what: Many, why: str) -> Done:
        """Do the same to many; what cannot be done to one does not stop the others."""
        done: list[str] = []
        failed: list[tuple[str, str]] = []
        batch = new_id()
        for item in list(dict.fromkeys(items))[:BULK]:
            try:
                if what in _ORDERED:
                    (self.release if what == "release" else self.delete)(item, why=why, batch=batch)
                else:
                    (self.request if what == "request" else self.deny)(item, why=why)
            except AbsentError:
                failed.append((item, "no such message"))
            except RefusedError as error:
                failed.append((item, str(error)))
            else:
                done.append(item)
        return Done(tuple(done), tuple(failed), batch if what in _ORDERED and done else "")

    # -------------------------------------------------------------- inside

    def _everybody(self, item: str) -> tuple[str, ...]:
        found = self._quarantine.find(item)
        if found is None:
            raise AbsentError
        people = tuple(one.address for one in found.recipients)
        if not may(self._person, Act.SEE, people):
            raise AbsentError
        return people

    def _sender(self, item: str) -> str:
        """Its envelope sender, as what a rule is about."""
        try:
            return of_message(self.find(item).sender)
        except StoreError as error:
            raise RefusedError(str(error)) from error

    def _answers(self, item: str) -> bool:
        """Whether it is held only for reasons that its recipient, who this is, may answer."""
        found = self._quarantine.find(item)
        user = self._person.role is Role.USER
        return user and found is not None and releases_alone(found.reasons, found.answered, self._actor)

    def _own(self, item: str) -> list[str]:
        """A user's own copies."""
        return [one.address for one in self.find(item).recipients]

    def _allowed(self, item: str, act: Act) -> list[str] | None:
        """The recipients within reach (None: all), if the act is allowed."""
        people = self._everybody(item)
        if not may(self._person, act, people):
            raise RefusedError("this is not yours to decide")
        reach = self._person.reach
        return None if reach.everything else [address for address in people if reach.covers(address)]

    def _seen(self, item: Item) -> Item | None:
        """An item with what the person may know of it."""
        reach = self._person.reach
        mine = tuple(one for one in item.recipients if reach.covers(one.address))
        if not mine:
            return None
        state = item.state
        if len(mine) < len(item.recipients):
            state = of_item(one.state for one in mine) or state
        return replace(item, recipients=mine, state=state)


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a decision about many messages; `batch` undoes a release or a deletion."""

    done: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]
    batch: str


def _states(wanted: Search) -> tuple[State, ...] | None:
    if wanted.state is None:
        return None
    return wanted.state if isinstance(wanted.state, tuple) else (wanted.state,)


def _for(reach: Reach, one: Judgement) -> Judgement:
    """A judgement without the outcomes of others' copies."""
    outcomes = tuple(o for o in one.verdict.outcomes if reach.covers(o.recipient))
    return replace(one, verdict=replace(one.verdict, outcomes=outcomes))
