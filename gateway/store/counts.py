# SPDX-License-Identifier: GPL-2.0-or-later
"""Equal results counted by day and domain, for reports to those domains.

Keeps text of strangers, which whoever counts has bounded. Counts are added up in memory and written by one
thread every few seconds, so that a result costs a look into a dict and never waits for the disk; a
power cut loses the last seconds of counts. A database that stays away costs counts beyond a bound, which
the log tells, and never mail.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from sqlalchemy import Connection, Table, select

from gateway.store.database import Database, StoreError, upsert
from gateway.store.encoding import from_json, to_json

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)
T = TypeVar("T")

DAY: Final = 86_400  # seconds
INTERVAL: Final = 5.0  # seconds between two writes
PENDING: Final = 20_000  # different results that one process keeps unwritten

_Key = tuple[int, str, T]


class Counts(Generic[T]):
    """The counts of one process that are not written yet. Its thread starts with the first."""

    def __init__(
        self,
        database: Database,
        table: Table,
        what: str,
        *,
        notes: Table | None = None,
        interval: float = INTERVAL,
        limit: int = PENDING,
    ) -> None:
        self.dropped = 0
        self._database = database
        self._table = table
        self._notes = notes
        self._what = what
        self._interval = interval
        self._limit = limit
        self._counts: dict[_Key[T], int] = {}
        self._texts: dict[tuple[int, str], str] = {}
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, day: int, domain: str, value: T, note: str = "") -> None:
        """Count one `value` of `domain`, and keep the latest `note`. Never waits for the database."""
        key = (day, domain, value)
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_forever, name=self._what, daemon=True)
                self._thread.start()
            if key not in self._counts and len(self._counts) >= self._limit:
                self.dropped += 1
                return
            self._counts[key] = self._counts.get(key, 0) + 1
            self._texts[day, domain] = note

    def flush(self) -> bool:
        """Write what was counted until now. False if the database did not take it; it is kept then."""
        with self._writing:
            with self._lock:
                counts, self._counts = self._counts, {}
                texts, self._texts = self._texts, {}
            if not counts:
                return True
            try:
                rows = _rows(counts)
                self._database.write(lambda connection: self._write(connection, rows, texts), durable=False)
            except StoreError as error:
                log.warning("%s cannot be written: %s", self._what, error)
                self._put_back(counts, texts)
                return False
            return True

    def close(self) -> None:
        """End the thread and write the rest."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(self._interval + 10)
        if not self.flush() or self.dropped:
            log.error("%s lost: %d", self._what, self.dropped + sum(self._counts.values()))

    def _put_back(self, counts: dict[_Key[T], int], texts: dict[tuple[int, str], str]) -> None:
        with self._lock:
            for key, count in counts.items():
                if key in self._counts or len(self._counts) < self._limit:
                    self._counts[key] = self._counts.get(key, 0) + count
                else:
                    self.dropped += count
            self._texts = {**texts, **self._texts}

    def _write_forever(self) -> None:
        while not self._stop.wait(self._interval):
            self.flush()

    def _write(
        self, connection: Connection, rows: list[dict[str, object]], texts: Mapping[tuple[int, str], str]
    ) -> None:
        adding = upsert(connection, self._table)
        counted = {"count": self._table.c.count + adding.excluded.count}
        connection.execute(
            adding.on_conflict_do_update(index_elements=list(self._table.primary_key), set_=counted), rows
        )
        if self._notes is None:
            return
        adding = upsert(connection, self._notes)
        connection.execute(
            adding.on_conflict_do_update(
                index_elements=list(self._notes.primary_key), set_={"record": adding.excluded.record}
            ),
            [{"day": day, "domain": domain, "record": text} for (day, domain), text in sorted(texts.items())],
        )


def _rows(counts: Mapping[_Key[T], int]) -> list[dict[str, object]]:
    """Rows in an order that all nodes share, so that they never wait for each other in a circle."""
    rows: list[dict[str, object]] = []
    for (day, domain, value), count in counts.items():
        data = to_json(value)
        digest = hashlib.sha256(data.encode()).hexdigest()
        rows.append({"day": day, "domain": domain, "hash": digest, "data": data, "count": count})
    return sorted(rows, key=lambda row: (row["day"], row["domain"], row["hash"]))


def counted(
    database: Database, table: Table, kind: type[T], day: int, domain: str, limit: int
) -> list[tuple[T, int]]:
    """The results of a day and how often each was seen, most often first. Raises StoreError."""
    statement = (
        select(table.c.data, table.c.count)
        .where(table.c.day == day, table.c.domain == domain)
        .order_by(table.c.count.desc(), table.c.hash)
        .limit(limit)
    )
    found = database.read(lambda connection: connection.execute(statement).all())
    try:
        return [(from_json(data, kind), int(count)) for data, count in found]
    except ValueError as error:
        raise StoreError(f"a result about {domain} cannot be read: {error}") from error
