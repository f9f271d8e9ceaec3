# SPDX-License-Identifier: GPL-2.0-or-later
"""One record for each judged message: enough to explain the verdict, and to judge again.

Takes hostile text (addresses, HELO, subject); what is searched and shown is made printable, what
replay needs is exact JSON. No message content is kept beyond subject and Message-ID. Records are
queued and written in batches by one thread, so that a message never waits for the disk; a power cut
may lose the last half second. A queue that stays full costs records, counted in `dropped`, never mail.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, RowMapping, Select, delete, func, insert, select

from gateway.mail.headers import printable
from gateway.mail.shaded import Shaded
from gateway.mail.types import (
    Action,
    Content,
    Envelope,
    Evidence,
    Mail,
    Reply,
    Session,
    Signal,
    Verdict,
)
from gateway.store import deliveries, fates, schema
from gateway.store.database import Database, StoreError
from gateway.store.deliveries import Delivery
from gateway.store.encoding import from_json, to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)

QUEUE = 2_000  # records waiting
PATIENCE = 0.1  # seconds a message waits for room in a full queue
RETRY_SECONDS = 1.0  # between tries to write a batch
TRIES = 30  # of one batch, before it is given up


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept of one message. Times in seconds since 1970, `seconds` what judging took."""

    id: str
    queue_id: str
    received: float
    door: str
    session: Session
    envelope: Envelope
    subject: str
    message_id: str
    size: int
    seconds: float
    evidence: Evidence
    signals: tuple[Signal, ...]
    verdict: Verdict
    reply: Reply
    shaded: tuple[Shaded, ...] = ()  # what other policies would have made of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What to list. Texts match any part, in any case; an empty one matches everything."""

    sender: str = ""
    recipient: str = ""
    subject: str = ""
    reason: str = ""
    client: str = ""  # the client's address, or its start if it ends in "." or ":"
    message_id: str = ""
    queue_id: str = ""  # exact
    action: Action | None = None
    became: tuple[str, ...] = ()  # any of these words of `fates` of any of its copies
    since: float | None = None
    until: float | None = None
    limit: int = 100
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Span:
    """Records from `first` to `last`, by the journal's numbers; `count` of them match."""

    first: int
    last: int
    count: int


def record_of(
    mail: Mail,
    content: Content | None,
    evidence: Evidence,
    signals: Sequence[Signal],
    verdict: Verdict,
    *,
    reply: Reply,
    door: str,
    seconds: float,
    shaded: tuple[Shaded, ...] = (),
) -> Record:
    """Make the record of a judged message. `content` is None where it could not be parsed."""
    return Record(
        id=mail.id,
        queue_id=mail.queue_id,
        received=mail.received,
        door=door,
        session=mail.session,
        envelope=mail.envelope,
        subject=printable(content.subject, 300) if content else "",
        message_id=message_id(content),
        size=len(mail.raw),
        seconds=seconds,
        evidence=evidence,
        signals=tuple(signals),
        verdict=verdict,
        reply=reply,
        shaded=shaded,
    )


def message_id(content: Content | None) -> str:
    """The first Message-ID field, printable and bounded."""
    if content is None:
        return ""
    for field in content.fields:
        if field.name.lower() == "message-id":
            return printable(field.value[:1_000].decode("utf-8", "replace").strip(), 300)
    return ""


class Journal:
    """The journal of one process. Its thread starts with the first record."""

    def __init__(
        self,
        database: Database,
        *,
        flush_interval: float = 0.5,
        batch: int = 200,
        lost: Callable[[int], None] | None = None,
    ) -> None:
        """`lost` is told, from any thread, of each number of records that could not be kept."""
        self.dropped = 0
        self.written = 0
        self._database = database
        self._lost = lost
        self._interval = flush_interval
        self._batch = batch
        # Besides records: how mail that was relayed ended; an event to set once all before it is written;
        # None to stop.
        self._queue: queue.Queue[Record | Delivery | threading.Event | None] = queue.Queue(QUEUE)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closing = False

    def record(
        self,
        mail: Mail,
        content: Content | None,
        evidence: Evidence,
        signals: Sequence[Signal],
        verdict: Verdict,
        *,
        reply: Reply,
        door: str,
        seconds: float,
        shaded: tuple[Shaded, ...] = (),
    ) -> None:
        """Queue one record. Waits at most `PATIENCE`; never raises."""
        facts: dict[str, Any] = {"reply": reply, "door": door, "seconds": seconds, "shaded": shaded}
        self.add(record_of(mail, content, evidence, signals, verdict, **facts))

    def add(self, record: Record | Delivery) -> None:
        """Queue a record that is made already, or what became of a recipient's copy."""
        if self._thread is None:
            self._start()
        try:
            self._queue.put(record, timeout=PATIENCE)
        except queue.Full:
            self._drop(1)
            name = record.id if isinstance(record, Record) else record.item
            log.warning("journal is behind: record of %s lost, %d so far", name, self.dropped)

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until all that was queued before is written. False if that took too long."""
        if self._thread is None:
            return True
        done = threading.Event()
        deadline = time.monotonic() + timeout
        try:
            self._queue.put(done, timeout=timeout)
        except queue.Full:
            return False
        return done.wait(max(0.0, deadline - time.monotonic()))

    def close(self, timeout: float = 10.0) -> None:
        """Write what is queued and end the thread."""
        if self._thread is None:
            return
        if not self.flush(timeout):
            log.error("journal closed with records unwritten")
        self._closing = True
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(None)
        self._thread.join(timeout)
        self._thread, self._closing = None, False  # a record after this starts it again

    # -------------------------------------------------------------- reading

    def find(self, id: str) -> Record | None:  # noqa: A002  # the record's own name for it
        """The newest record of a message, by our id. Raises StoreError."""
        journal = schema.journal
        statement = select(journal).where(journal.c.id == id).order_by(journal.c.number.desc()).limit(1)
        rows = self._select(statement)
        return rows[0] if rows else None

    def search(self, wanted: Filter) -> list[Record]:
        """Records that match, newest first. Raises StoreError."""
        return self._select(_newest(wanted))

    def span(self, wanted: Filter) -> Span | None:
        """Where the newest `wanted.limit` records that match stand; None if there are none."""
        number = schema.journal.c.number
        matching = select(number).where(*_conditions(wanted))
        last = matching.order_by(number.desc()).limit(wanted.limit).subquery()
        statement = select(func.min(last.c.number), func.max(last.c.number), func.count())
        low, high, count = self._database.read(lambda connection: connection.execute(statement).one())
        return Span(low, high, count) if count else None

    def between(self, first: int, last: int, wanted: Filter) -> tuple[list[Record], int]:
        """Records that match with these numbers, oldest first, and how many cannot be read."""
        number = schema.journal.c.number
        statement = select(schema.journal).where(number.between(first, last), *_conditions(wanted))
        rows = self._database.read(
            lambda connection: connection.execute(statement.order_by(number)).mappings().all()
        )
        return _readable(rows)

    def page(self, wanted: Filter) -> tuple[list[Record], int]:
        """Records that match, newest first, and how many of them cannot be read. Raises StoreError."""
        return _readable(self._database.search(lambda c: c.execute(_newest(wanted)).mappings().all()))

    def prune(self, older_than: float, batch: int = 1_000) -> int:
        """Delete records received before `older_than`, at most `batch`. Returns how many."""
        journal = schema.journal
        old = select(journal.c.number).where(journal.c.received < older_than).limit(batch)

        def work(connection: Connection) -> int:
            return connection.execute(delete(journal).where(journal.c.number.in_(old))).rowcount

        return self._database.write(work, durable=False)

    def remove(self, numbers: Sequence[int]) -> int:
        """Delete records by their numbers, a thousand at most. Returns how many."""
        gone = delete(schema.journal).where(schema.journal.c.number.in_(numbers))
        return self._database.write(lambda connection: connection.execute(gone).rowcount, durable=False)

    def _select(self, statement: Select[Any]) -> list[Record]:
        rows = self._database.read(lambda connection: connection.execute(statement).mappings().all())
        return [_from_row(row) for row in rows]

    # -------------------------------------------------------------- writing

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_forever, name="journal", daemon=True)
                self._thread.start()

    def _write_forever(self) -> None:
        going = True
        while going:
            batch: list[Record | Delivery] = []
            waiting: list[threading.Event] = []
            due = time.monotonic() + self._interval
            entry = self._queue.get()
            while True:
                if isinstance(entry, Record | Delivery):
                    batch.append(entry)
                elif entry is None:
                    going = False
                else:
                    waiting.append(entry)
                hurried = bool(waiting) or not going
                try:
                    if len(batch) >= self._batch:
                        break
                    left = 0.0 if hurried else due - time.monotonic()
                    entry = self._queue.get(timeout=left) if left > 0 else self._queue.get_nowait()
                except queue.Empty:
                    break
            if batch:
                self._write(batch)
            for event in waiting:
                event.set()

    def _write(self, batch: list[Record | Delivery]) -> None:
        records = [one for one in batch if isinstance(one, Record)]
        rows = [row for record in records if (row := self._row(record)) is not None]
        ends = [one for one in batch if isinstance(one, Delivery)]

        def work(connection: Connection) -> None:
            if rows:
                connection.execute(insert(schema.journal), rows)
            if ends:
                deliveries.add(connection, ends)

        for attempt in range(1, TRIES + 1):
            try:
                if rows or ends:
                    self._database.write(work, durable=False)
            except StoreError as error:
                log.warning("journal cannot be written (try %d): %s", attempt, error)
                if self._closing:
                    break
                time.sleep(RETRY_SECONDS)
            else:
                self.written += len(rows)
                return
        self._drop(len(rows))
        log.error("journal lost %d records", len(rows))

    def _drop(self, count: int) -> None:
        with self._lock:
            self.dropped += count
        if self._lost is not None:
            self._lost(count)

    def _row(self, record: Record) -> dict[str, object] | None:
        try:
            return _to_row(record)
        except (TypeError, ValueError) as error:  # one strange record must not cost its batch
            self._drop(1)
            log.error("journal cannot keep %s: %s", record.id, error)  # hostile text in a trace
            return None


def _to_row(record: Record) -> dict[str, object]:
    session, verdict = record.session, record.verdict
    return {
        "id": record.id,
        "queue_id": printable(record.queue_id, 64),
        "received": record.received,
        "door": record.door,
        "client_ip": printable(session.client_ip, 64),
        "helo": printable(session.helo, 255),
        "sender": printable(record.envelope.mail_from, 320),
        "recipients": "\n".join([printable(r, 320) for r in record.envelope.recipients[:1_000]]),
        "subject": record.subject,
        "message_id": record.message_id,
        "size": record.size,
        "action": verdict.action.value,
        "score": verdict.score,
        "reason": printable(verdict.reason, 128),
        "seconds": record.seconds,
        "session": to_json(session),
        "envelope": to_json(record.envelope),
        "evidence": to_json(record.evidence),
        "signals": to_json(record.signals),
        "verdict": to_json(verdict),
        "reply": to_json(record.reply),
        "shaded": to_json(record.shaded) if record.shaded else "",
    }


def _from_row(row: RowMapping) -> Record:
    try:
        return Record(
            id=row["id"],
            queue_id=row["queue_id"],
            received=row["received"],
            door=row["door"],
            session=from_json(row["session"], Session),
            envelope=from_json(row["envelope"], Envelope),
            subject=row["subject"],
            message_id=row["message_id"],
            size=row["size"],
            seconds=row["seconds"],
            evidence=from_json(row["evidence"], Evidence),
            signals=from_json(row["signals"], tuple[Signal, ...]),
            verdict=from_json(row["verdict"], Verdict),
            reply=from_json(row["reply"], Reply),
            shaded=from_json(row["shaded"], tuple[Shaded, ...]) if row["shaded"] else (),
        )
    except ValueError as error:
        raise StoreError(f"the record of {row['id']} cannot be read: {error}") from error


def _readable(rows: Sequence[RowMapping]) -> tuple[list[Record], int]:
    """The records of those rows that can be read, and how many cannot: one must not hide the others."""
    found = []
    for row in rows:
        with contextlib.suppress(StoreError):
            found.append(_from_row(row))
    return found, len(rows) - len(found)


def _newest(wanted: Filter) -> Select[Any]:
    journal = schema.journal
    statement = select(journal).where(*_conditions(wanted)).order_by(journal.c.number.desc())
    return statement.limit(wanted.limit).offset(wanted.offset)


def _conditions(wanted: Filter) -> list[ColumnElement[bool]]:
    journal = schema.journal
    found: list[ColumnElement[bool]] = []
    for column, text in (
        (journal.c.sender, wanted.sender),
        (journal.c.recipients, wanted.recipient),
        (journal.c.subject, wanted.subject),
        (journal.c.message_id, wanted.message_id),
    ):
        if text:
            found.append(column.icontains(text, autoescape=True))
    if wanted.client.endswith((".", ":")):
        found.append(journal.c.client_ip.istartswith(wanted.client, autoescape=True))
    elif wanted.client:
        found.append(journal.c.client_ip == wanted.client.lower())
    if wanted.queue_id:
        found.append(journal.c.queue_id == wanted.queue_id)
    if wanted.reason:
        found.append(func.lower(journal.c.reason) == wanted.reason.lower())
    if wanted.action is not None:
        found.append(journal.c.action == wanted.action.value)
    if wanted.became:
        found.append(fates.became(wanted.became))
    if wanted.since is not None:
        found.append(journal.c.received >= wanted.since)
    if wanted.until is not None:
        found.append(journal.c.received < wanted.until)
    return found
