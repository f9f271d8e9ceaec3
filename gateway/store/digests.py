# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose digest is due, and up to which held message they were told: one row for each address.

Addresses come from envelopes, and are parameters only. A digest is claimed for a while and then settled,
so that two nodes, or a run after a crash, tell nobody twice; what was not settled is told the next time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, insert, select, update

from gateway.store import queued, schema
from gateway.store.states import State

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gateway.store.database import Database
    from gateway.store.queued import Outgoing

_PAGE: Final = 2_000
LEASE: Final = 600.0
SHOWN: Final = (State.HELD, State.REQUESTED)


@dataclass(frozen=True, slots=True)
class Told:
    """What an address was told last. Times in seconds since 1970; `covered` is the newest item."""

    address: str
    slot: float
    covered: str
    sent: float


class Digests:
    """The digests of one database. Thread-safe; raises StoreError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def waiting(self, after: str) -> Iterator[tuple[str, str, int]]:
        """Item, address and position of each copy that waits, of items newer than `after`; oldest first."""
        table = schema.quarantine_recipients
        columns = (table.c.item, table.c.address, table.c.position)
        item, position = after, 1 << 30
        while True:
            newer = (table.c.item > item) | ((table.c.item == item) & (table.c.position > position))
            page = (
                select(*columns)
                .where(table.c.item >= item, newer, table.c.state.in_(SHOWN))
                .order_by(table.c.item, table.c.position)
                .limit(_PAGE)
            )
            rows = self._database.read(lambda c, page=page: c.execute(page).all())  # type: ignore[misc]  # bound now
            for row in rows:
                yield row.item, row.address, row.position
            if len(rows) < _PAGE:
                return
            item, position = rows[-1].item, rows[-1].position

    def all(self) -> dict[str, Told]:
        """What each address was told last."""
        table = schema.digests
        rows = self._database.read(lambda c: c.execute(select(table).order_by(table.c.address)).all())
        return {row.address: Told(row.address, row.slot, row.covered, row.sent) for row in rows}

    def claim(self, address: str, slot: float) -> Told | None:
        """Take the digest of an address for the time `slot` of the schedule; None if it is told or taken."""
        table = schema.digests

        def work(connection: Connection) -> Told | None:
            now = time.time()
            mine = table.c.address == address
            row = connection.execute(select(table).where(mine).with_for_update()).first()
            if row is None:
                new = {
                    "address": address,
                    "slot": 0.0,
                    "covered": "",
                    "sent": 0.0,
                    "lease_until": now + LEASE,
                }
                connection.execute(insert(table).values(new))
                return Told(address, 0.0, "", 0.0)
            if row.slot >= slot or row.lease_until > now:
                return None
            connection.execute(update(table).where(mine).values(lease_until=now + LEASE))
            return Told(address, row.slot, row.covered, row.sent)

        return self._database.write(work)

    def settle(
        self, address: str, slot: float, covered: str, outgoing: Sequence[Outgoing] = (), *, sent: bool = True
    ) -> None:
        """Note that an address was told; what is `outgoing` is queued in the same transaction."""
        table = schema.digests
        values = {"slot": slot, "lease_until": 0.0, "covered": covered}
        if sent:
            values["sent"] = time.time()

        def work(connection: Connection) -> None:
            if outgoing:
                queued.put(connection, outgoing)
            connection.execute(update(table).where(table.c.address == address).values(**values))

        self._database.write(work)

    def give_back(self, address: str, pause: float) -> None:
        """Let an address be told later, since it could not be now."""
        table = schema.digests
        later = update(table).where(table.c.address == address).values(lease_until=time.time() + pause)
        self._database.write(lambda connection: connection.execute(later), durable=False)
