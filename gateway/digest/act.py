# SPDX-License-Identifier: GPL-2.0-or-later
"""What the holder of a grant wants is done: by the web page on POST, or by mail to a reply address.

Reads a token, from anybody. Whoever shows a link only looks (`Grants.look`), which changes nothing. The
deed and the use of its token are one transaction, so that of two at once one does it. A grant is for its
recipient's own copy and nothing else; what it takes a reviewer for is asked for, and malware is neither
released nor asked for.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gateway.feedback.held import is_test
from gateway.learning import Labelled
from gateway.policy.decide import UNANSWERED
from gateway.store import audit
from gateway.store.decisions import RefusedError
from gateway.store.grants import Deed, Grant, Grants
from gateway.store.samples import REPORT
from gateway.store.states import MALWARE, OPEN, Actor, Role, releases_alone

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from gateway.learning import Learner
    from gateway.store.held import Item
    from gateway.store.quarantine import Quarantine

Done = Literal["released", "requested", "reported"]


@dataclass(frozen=True, slots=True)
class Desk:
    """What deeds are done with. `users` are the reasons that recipients answer by themselves."""

    quarantine: Quarantine
    users: frozenset[str] = frozenset()
    undo_seconds: float = 0.0
    learner: Learner | None = None  # None: reports of spam are noted, and not learned


def act(desk: Desk, token: str, door: str) -> tuple[Grant, Done]:
    """Do what a token is for, once. Raises GrantError, RefusedError, StoreError; then nothing was done."""
    grants = Grants(desk.quarantine.database)
    grant = grants.look(token)
    if grant.deed is Deed.LOGIN:
        raise RefusedError("this link shows what is held; it does nothing by itself")
    item = desk.quarantine.find(grant.item)
    if item is None or not item.content or item.state not in OPEN:
        raise RefusedError("the message is there no more, or was released already")
    if MALWARE & {reason.removesuffix(UNANSWERED) for reason in item.reasons}:
        raise RefusedError("the message is infected, or could not be checked; ask the administrators")
    who = Actor(f"{door}:{grant.who}", Role.USER, desk.users)
    if grant.deed is Deed.SPAM:
        return grant, _report(desk, grants, grant, item, who, token)
    mine = [item.recipients[grant.position].address]

    def use(connection: Connection) -> None:
        grants.spend(connection, token)

    if releases_alone(item.reasons, item.answered, who):
        due = time.time() + desk.undo_seconds
        desk.quarantine.decisions.schedule(item.id, mine, who, due=due, why="by digest", also=use)
        return grant, "released"
    desk.quarantine.decisions.request(item.id, mine, who, why="by digest", also=use)
    return grant, "requested"


def _report(desk: Desk, grants: Grants, grant: Grant, item: Item, who: Actor, token: str) -> Done:
    """Take the word of a recipient that a held message is spam; it is learned like any user's report."""
    raw = desk.quarantine.raw(item.id)
    database = desk.quarantine.database

    def work(connection: Connection) -> None:
        grants.spend(connection, token)
        audit.append(connection, item.id, who.name, "reported", "as spam")

    database.write(work)
    if desk.learner is not None and not is_test(desk.quarantine, item.id):
        desk.learner.receive([Labelled(raw, True, REPORT, who.name, recipients=(grant.who,))])
    return "reported"
