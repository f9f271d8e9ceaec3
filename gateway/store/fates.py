# SPDX-License-Identifier: GPL-2.0-or-later
"""What became of messages, as a condition on the journal: how a recipient's copy ended, or where it is.

The words are those that `trace` shows. What the queue, the deliveries and the quarantine know is looked up by
the message's id; what went on under another id is followed: a release through the queue, and what a next hop
refused so late that it is held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import ColumnElement, and_, false, func, or_, select

from gateway.mail.types import Action
from gateway.store import schema
from gateway.store.deliveries import Ended
from gateway.store.queued import State as Queued
from gateway.store.states import OPEN, UNDELIVERED, State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import FromClause

_IN_QUEUE: Final = {
    "queued": (Queued.QUEUED, Queued.LEASED, Queued.HELD),
    "undeliverable": (Queued.UNDELIVERABLE,),
    "delivered": (Queued.DELIVERED,),
}
_HELD: Final = {
    "held": OPEN,
    "released": (State.RELEASED,),
    "deleted": (State.DELETED,),
    "expired": (State.EXPIRED,),
}
WORDS: Final = tuple(dict.fromkeys([*(one.value for one in Ended), *_IN_QUEUE, *_HELD]))
_ID = 16  # characters of an id, which stands last in what a release into the queue is answered

_journal, _people, _items = schema.journal, schema.quarantine_recipients, schema.quarantine


def became(words: Sequence[str]) -> ColumnElement[bool]:
    """Whether one of `words` is what became of one of a message's copies."""
    here = _people.c.item == _journal.c.id
    states = [state for word in words for state in _HELD.get(word, ())]
    found: list[ColumnElement[bool]] = [_sent(words, _journal.c.id)]
    # A copy without its attachment went on; what became of the original is told beside that.
    held = and_(here, _people.c.state.in_(states), _journal.c.action != Action.STRIP)
    found.append(select(_people.c.item).where(held).exists())
    refused = (
        select(_items.c.received)
        .join(_people, _people.c.item == _items.c.id)
        .join(schema.quarantine_reasons, schema.quarantine_reasons.c.item == _items.c.id)
        .where(schema.quarantine_reasons.c.name == UNDELIVERED, _people.c.state.in_(states))
    )
    if states:
        found.append(_journal.c.received.in_(refused))
    other = func.substr(_people.c.note, func.length(_people.c.note) - (_ID - 1))
    gone_on = and_(here, _people.c.state == State.RELEASED, _people.c.note.contains("queued as "))
    through = select(_people.c.item).where(gone_on, _sent(words, other, _people.c.delivered_to))
    return or_(*found, through.exists())


def _sent(
    words: Sequence[str], item: ColumnElement[str], address: ColumnElement[str] | None = None
) -> ColumnElement[bool]:
    """Whether the queue or the deliveries say so of the message `item`, or of its copy for `address`."""
    queue, ends = schema.queue_recipients, schema.deliveries
    states = [state for word in words for state in _IN_QUEUE.get(word, ())]
    waiting: list[ColumnElement[bool]] = [queue.c.state.in_(states), queue.c.ended.in_(words)]
    if Ended.FAILED in words:
        waiting.append(and_(queue.c.state == Queued.FAILED, queue.c.ended == ""))

    def known(table: FromClause, *of: ColumnElement[bool]) -> ColumnElement[bool]:
        mine = table.c.address == address if address is not None else ~false()
        return select(table.c.item).where(table.c.item == item, mine, or_(*of)).exists()

    return or_(known(queue, *waiting), known(ends, ends.c.ended.in_(words)))
