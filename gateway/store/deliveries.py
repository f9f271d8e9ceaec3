# SPDX-License-Identifier: GPL-2.0-or-later
"""How it ended for each recipient of what was sent on: the last words of the queue, kept for `trace`.

Holds replies of next hops, printable and bounded. A row is written in the transaction that takes a message
out of the queue; where there is no queue, by the journal, with its batches. Rows stay as long as the
journal's records of the same messages.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from sqlalchemy import BindParameter, Connection, bindparam, case, delete, insert, select

from gateway.mail.headers import printable
from gateway.mail.types import new_id
from gateway.store import schema

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gateway.store.database import Database
    from gateway.store.retention import Keeping

_PAGE = 1_000
_DAY = 86_400.0


class Ended(StrEnum):
    """How it ended for a recipient."""

    DELIVERED = "delivered"  # the next hop took it
    BOUNCED = "bounced"  # refused for good; its sender was told
    EXPIRED = "expired"  # tried until its time was over; its sender was told
    FAILED = "failed"  # refused for good, and nobody was told
    DELETED = "deleted"  # taken out of the queue by an operator
    DROPPED = "dropped"  # stayed undeliverable for too long
    REFUSED = "refused"  # without a queue: refused, which its client was told


@dataclass(frozen=True, slots=True)
class Delivery:
    """One recipient's end. `tls` is the session's, such as "TLSv1.3 verified", "" in clear."""

    item: str
    address: str
    ended: Ended
    hop: str
    server: str
    tls: str
    reply: str
    attempts: int
    changed: float


_table, _rows = schema.deliveries, schema.queue_recipients
_ITEMS: BindParameter[Any] = bindparam("items", expanding=True)
_COLUMNS = ("item", "address", "ended", "hop", "server", "tls", "reply", "attempts", "changed")
_WORD = case((_rows.c.ended != "", _rows.c.ended), else_=_rows.c.state)
# Built once: most of a statement's cost is building it.
_KEEP = insert(_table).from_select(
    _COLUMNS,
    select(*(_WORD if name == "ended" else _rows.c[name] for name in _COLUMNS))
    .where(_rows.c.item.in_(_ITEMS))
    .order_by(_rows.c.number),
)
_INSERT = insert(_table)


def keep(connection: Connection, items: Sequence[str]) -> None:
    """Write down how it ended for all recipients of queued messages that are settled."""
    connection.execute(_KEEP, {"items": list(items)})


def add(connection: Connection, ends: Sequence[Delivery]) -> None:
    """Write down what became of recipients that were in no queue."""
    rows = [
        {
            "item": one.item,
            "address": one.address,
            "ended": one.ended,
            "hop": printable(one.hop, 255),
            "server": printable(one.server, 255),
            "tls": one.tls,
            "reply": printable(one.reply, 500),
            "attempts": one.attempts,
            "changed": one.changed,
        }
        for one in ends
    ]
    connection.execute(_INSERT, rows)


def known(database: Database, items: Iterable[str]) -> dict[str, list[Delivery]]:
    """What became of the recipients of these messages, in envelope order, by the messages' ids."""
    wanted = list(items)
    found: dict[str, list[Delivery]] = {}
    for start in range(0, len(wanted), _PAGE):
        chosen = select(_table).where(_table.c.item.in_(wanted[start : start + _PAGE]))
        rows = database.read(lambda c, chosen=chosen: c.execute(chosen.order_by(_table.c.number)).all())  # type: ignore[misc]  # bound now
        for row in rows:
            values = {name: getattr(row, name) for name in _COLUMNS}
            found.setdefault(row.item, []).append(Delivery(**values | {"ended": Ended(row.ended)}))
    return found


def prune(database: Database, keeping: Keeping, now: float) -> int:
    """Remove what is over by the days of its recipient, unless the journal has the message; how many."""
    told = schema.journal
    recorded = select(told.c.id).where(told.c.id == _table.c.item).exists()
    after, count = 0, 0
    while True:
        # Ids begin with the time at which a message came in.
        old = _table.c.item < new_id(now - keeping.shortest * _DAY)
        page = select(_table.c.number, _table.c.item, _table.c.address).where(old, _table.c.number > after)
        if keeping.rows:
            page = page.where(~recorded)
        chosen = page.order_by(_table.c.number).limit(_PAGE)
        rows = database.read(lambda c, chosen=chosen: c.execute(chosen).all())  # type: ignore[misc]  # bound now
        over = [row.number for row in rows if row.item < new_id(now - keeping.days([row.address]) * _DAY)]
        if over:
            gone = delete(_table).where(_table.c.number.in_(over))
            count += database.write(lambda c, gone=gone: c.execute(gone).rowcount, durable=False)  # type: ignore[misc]  # as above
        if len(rows) < _PAGE:
            return count
        after = rows[-1].number
