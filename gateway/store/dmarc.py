# SPDX-License-Identifier: GPL-2.0-or-later
"""What DMARC found, counted by day for aggregate reports, and which reports were sent.

Keeps hostile text: domains and selectors of strangers, which `reports/observe.py` has bounded.
Equal results are one row with a count. They are added up in memory and written by one thread every
few seconds, so that a message costs a look into a dict and never waits for the disk; a power cut
loses the last seconds of counts. A database that stays away costs counts beyond a bound, which the
log tells, and never mail. Days are numbers since 1970-01-01, UTC (RFC 7489 §7.2: a report covers a day).
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, update

from gateway.mail.headers import printable
from gateway.store import schema
from gateway.store.database import Database, StoreError, upsert
from gateway.store.encoding import from_json, to_json

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)

DAY: Final = 86_400  # seconds
INTERVAL: Final = 5.0  # seconds between two writes
PENDING: Final = 20_000  # different results that one process keeps unwritten
LEASE: Final = 3_600.0  # seconds after which a report that somebody began to send may be sent again

State = Literal["sent", "refused", "deferred"]
_WHOLE: Final = ""  # the destination that stands for the report itself


@dataclass(frozen=True, slots=True)
class Observation:
    """All of one message that a report tells. Equal ones are counted as one."""

    source_ip: str
    header_from: str  # author domain
    envelope_from: str  # domain of the envelope sender, "" for the null sender
    envelope_to: str  # domain of all recipients, "" if they have several
    policy: str  # that applies to the author domain: none, quarantine, reject
    disposition: str  # what DMARC led to here: the same words
    dkim: bool  # aligned and passed
    spf: bool
    reason: str = ""  # why the disposition is not the policy: a type of RFC 7489 Appendix C
    signatures: tuple[tuple[str, str, str], ...] = ()  # domain, selector, result
    spf_domain: str = ""
    spf_scope: str = "mfrom"  # or helo
    spf_result: str = "none"


@dataclass(frozen=True, slots=True)
class Summary:
    """What there is to report about one domain and day."""

    day: int
    domain: str  # where the policy record was found
    record: str
    messages: int
    rows: int
    state: Literal["due", "sending", "done"]


_Key = tuple[int, str, Observation]


class Observations:
    """The counts of one process that are not written yet. Its thread starts with the first."""

    def __init__(self, database: Database, *, interval: float = INTERVAL, limit: int = PENDING) -> None:
        self.dropped = 0
        self._database = database
        self._interval = interval
        self._limit = limit
        self._counts: dict[_Key, int] = {}
        self._records: dict[tuple[int, str], str] = {}
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, day: int, domain: str, record: str, observation: Observation) -> None:
        """Count one message under the policy `record` of `domain`. Never waits for the database."""
        key = (day, domain, observation)
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_forever, name="dmarc", daemon=True)
                self._thread.start()
            if key not in self._counts and len(self._counts) >= self._limit:
                self.dropped += 1
                return
            self._counts[key] = self._counts.get(key, 0) + 1
            self._records[day, domain] = record

    def flush(self) -> bool:
        """Write what was counted until now. False if the database did not take it; it is kept then."""
        with self._writing:
            with self._lock:
                counts, self._counts = self._counts, {}
                records, self._records = self._records, {}
            if not counts:
                return True
            try:
                rows = _rows(counts)
                self._database.write(lambda connection: _add(connection, rows, records), durable=False)
            except StoreError as error:
                log.warning("results of DMARC cannot be written: %s", error)
                self._put_back(counts, records)
                return False
            return True

    def close(self) -> None:
        """End the thread and write the rest."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(self._interval + 10)
        if not self.flush() or self.dropped:
            log.error("results of DMARC lost: %d", self.dropped + sum(self._counts.values()))

    def _put_back(self, counts: dict[_Key, int], records: dict[tuple[int, str], str]) -> None:
        with self._lock:
            for key, count in counts.items():
                if key in self._counts or len(self._counts) < self._limit:
                    self._counts[key] = self._counts.get(key, 0) + count
                else:
                    self.dropped += count
            self._records = {**records, **self._records}

    def _write_forever(self) -> None:
        while not self._stop.wait(self._interval):
            self.flush()


def _rows(counts: Mapping[_Key, int]) -> list[dict[str, object]]:
    """Rows in an order that all nodes share, so that they never wait for each other in a circle."""
    rows: list[dict[str, object]] = []
    for (day, domain, observation), count in counts.items():
        data = to_json(observation)
        digest = hashlib.sha256(data.encode()).hexdigest()
        rows.append({"day": day, "domain": domain, "hash": digest, "data": data, "count": count})
    return sorted(rows, key=lambda row: (row["day"], row["domain"], row["hash"]))


def _add(
    connection: Connection, rows: list[dict[str, object]], records: Mapping[tuple[int, str], str]
) -> None:
    table = schema.dmarc_observations
    adding = upsert(connection, table)
    counted = {"count": table.c.count + adding.excluded.count}
    connection.execute(
        adding.on_conflict_do_update(index_elements=list(table.primary_key), set_=counted), rows
    )
    table = schema.dmarc_policies
    adding = upsert(connection, table)
    connection.execute(
        adding.on_conflict_do_update(
            index_elements=list(table.primary_key), set_={"record": adding.excluded.record}
        ),
        [{"day": day, "domain": domain, "record": text} for (day, domain), text in sorted(records.items())],
    )


# ---------------------------------------------------------------- what there is to report


def summaries(database: Database, *, day: int | None = None, domain: str = "") -> list[Summary]:
    """The domains and days there is something to report about, oldest first. Raises StoreError."""
    seen, policies, reports = schema.dmarc_observations, schema.dmarc_policies, schema.dmarc_reports
    wanted: list[ColumnElement[bool]] = []
    if day is not None:
        wanted.append(seen.c.day == day)
    if domain:
        wanted.append(seen.c.domain == domain)
    statement = (
        select(
            seen.c.day,
            seen.c.domain,
            func.max(policies.c.record).label("record"),
            func.sum(seen.c.count).label("messages"),
            func.count().label("rows"),
            func.max(reports.c.state).label("state"),
        )
        .select_from(
            seen.join(policies, (policies.c.day == seen.c.day) & (policies.c.domain == seen.c.domain)).join(
                reports,
                (reports.c.day == seen.c.day)
                & (reports.c.domain == seen.c.domain)
                & (reports.c.destination == _WHOLE),
                isouter=True,
            )
        )
        .where(*wanted)
        .group_by(seen.c.day, seen.c.domain)
        .order_by(seen.c.day, seen.c.domain)
    )
    found = database.read(lambda connection: connection.execute(statement).all())
    return [
        Summary(row.day, row.domain, row.record, int(row.messages), row.rows, row.state or "due")
        for row in found
    ]


def observations(database: Database, day: int, domain: str, limit: int) -> list[tuple[Observation, int]]:
    """The results of a day and how often each was seen, most often first. Raises StoreError."""
    table = schema.dmarc_observations
    statement = (
        select(table.c.data, table.c.count)
        .where(table.c.day == day, table.c.domain == domain)
        .order_by(table.c.count.desc(), table.c.hash)
        .limit(limit)
    )
    found = database.read(lambda connection: connection.execute(statement).all())
    try:
        return [(from_json(data, Observation), int(count)) for data, count in found]
    except ValueError as error:
        raise StoreError(f"a result of DMARC of {domain} cannot be read: {error}") from error


# ---------------------------------------------------------------- what was sent


def claim(database: Database, day: int, domain: str) -> set[str] | None:
    """Begin to send a report; None if it is done, or somebody else is at it.

    Returns the destinations that have it, or have refused it for good. Raises StoreError.
    """
    table = schema.dmarc_reports
    now = time.time()
    mine = (table.c.day == day) & (table.c.domain == domain)
    whole = mine & (table.c.destination == _WHOLE)

    def work(connection: Connection) -> set[str] | None:
        found = connection.execute(select(table).where(whole).with_for_update()).one_or_none()
        if found is None:
            values = {"day": day, "domain": domain, "destination": _WHOLE, "note": ""}
            connection.execute(insert(table).values(state="sending", changed=now, **values))
        elif found.state == "done" or (found.state == "sending" and now - found.changed < LEASE):
            return None
        else:
            connection.execute(update(table).where(whole).values(state="sending", changed=now))
        settled = select(table.c.destination).where(
            mine, table.c.destination != _WHOLE, table.c.state.in_(("sent", "refused"))
        )
        return set(connection.execute(settled).scalars())

    return database.write(work)


def settle(
    database: Database, day: int, domain: str, outcomes: Mapping[str, tuple[State, str]], *, done: bool
) -> None:
    """Record what became of a claimed report at each destination, with a note of the next hop.

    With `done` it is never sent again; otherwise the next run tries what was deferred. Raises
    StoreError.
    """
    table = schema.dmarc_reports
    now = time.time()
    rows = [
        {"destination": destination, "state": state, "note": printable(note, 300)}
        for destination, (state, note) in sorted(outcomes.items())
    ]
    rows.append({"destination": _WHOLE, "state": "done" if done else "due", "note": ""})

    def work(connection: Connection) -> None:
        adding = upsert(connection, table)
        changes = {name: adding.excluded[name] for name in ("state", "changed", "note")}
        connection.execute(
            adding.on_conflict_do_update(index_elements=list(table.primary_key), set_=changes),
            [{"day": day, "domain": domain, "changed": now, **row} for row in rows],
        )

    database.write(work)


def prune(database: Database, before: int) -> int:
    """Delete all about days before `before`. Returns how many rows. Raises StoreError."""
    tables = (schema.dmarc_observations, schema.dmarc_policies, schema.dmarc_reports)

    def work(connection: Connection) -> int:
        return sum(connection.execute(delete(table).where(table.c.day < before)).rowcount for table in tables)

    return database.write(work, durable=False)
