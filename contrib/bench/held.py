# SPDX-License-Identifier: GPL-2.0-or-later
"""A quarantine of a million messages: how long people wait for lists, searches, and mail for expiry.

    python -m contrib.bench.held

Fills a database with made-up items (not timed), then times what `mailwarden quarantine` asks for, each
question cold in a process of its own connection, and the longest that holding a message took while
thousands expired. The figures go to build/bench-quarantine.json.
"""

from __future__ import annotations

import argparse
import base64
import random
import sys
import tempfile
import threading
import time
import zlib
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, insert

from contrib.figures import write_figures
from gateway.cli.output import console, table
from gateway.mail.mime import parse
from gateway.mail.types import (
    Action,
    Contribution,
    Dkim,
    Dmarc,
    Envelope,
    Evidence,
    Iprev,
    Mail,
    Outcome,
    Session,
    Signal,
    Spf,
    Thresholds,
    Verdict,
    Versions,
    new_id,
)
from gateway.store import audit, held, retention, schema
from gateway.store.database import StoreSettings, open_database
from gateway.store.held import Judgement
from gateway.store.quarantine import Quarantine
from gateway.store.search import Search
from gateway.store.states import OPEN, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Table

    from gateway.store.database import Database

    Rows = list[tuple[Table, list[dict[str, Any]]]]

BATCH = 10_000
REASONS = ("score", "DMARC_QUARANTINE", "ATTACHMENT_SCRIPT", "VIRUS_ENCRYPTED")
WORDS = ("invoice", "offer", "meeting", "parcel", "account", "update", "report", "photo", "order", "notice")
SPAN = 25 * 86_400.0  # over which the items were held
LIMITS = Thresholds(5.0, 8.0, 15.0)
FEW, SELDOM = (5, 50, 500), "seldom@example.com"  # the messages of somebody who has few of them, all old
SMALL, BRANCH = "small.example.org", "branch.example.org"
ONCE = "zyzzyva"  # in the subject of one of the oldest
EVIDENCE = Evidence(
    spf=(Spf("mailfrom", "example.net", "fail", "not listed"), Spf("helo", "mx.example.net", "none")),
    dkim=(Dkim("pass", "example.net", "s1", "@example.net", "rsa-sha256", "abcdefgh", covers_all=False),),
    dmarc=Dmarc("fail", "example.net", "example.net", "quarantine", 50, ("spf",), "v=DMARC1", "no"),
    iprev=Iprev("pass", "mx.example.net"),
    durations={"spf": 1.5, "antivirus": 12.25},
)
SIGNALS = (Signal("SPF_FAIL", "192.0.2.1"), Signal("CLASSIFIER", "words, of which there are some", 0.97))
PARTS = (Contribution("CLASSIFIER", 6.5, "words"), Contribution("SPF_FAIL", 2.0, "192.0.2.1"))


@cache
def bodies() -> tuple[str, ...]:
    """Bodies that do not compress well, of 0.3 to 60 KB, most of them short."""
    chance = random.Random(3)
    sizes = [int(300 * 200 ** (chance.random() ** 2)) for _ in range(256)]
    return tuple(
        base64.encodebytes(chance.randbytes(size * 3 // 4)).decode().replace("\n", "\r\n") for size in sizes
    )


def recipient(chance: random.Random, number: int) -> str:
    """Somebody. A domain and a person have little mail, all of it among the oldest."""
    if number in FEW:
        return SELDOM
    if number % 50 == 7 and number < 2_000:
        return f"p{chance.randrange(10)}@{SMALL}"
    if (share := chance.random()) < 0.9:
        return f"p{chance.randrange(5_000)}@example.com"
    return f"P{chance.randrange(500)}@example.org" if share < 0.98 else f"p{chance.randrange(20)}@{BRANCH}"


def message(chance: random.Random, number: int, moment: float) -> tuple[Mail, Verdict]:
    """A made-up message and its verdict."""
    sender = f"user{chance.randrange(20_000)}@host{chance.randrange(3_000)}.example.net"
    first = recipient(chance, number)
    more = tuple(f"p{chance.randrange(5_000)}@example.com" for _ in range(chance.choice((0, 0, 0, 1))))
    people = tuple(dict.fromkeys((first, *more)))
    subject = " ".join(chance.choices(WORDS, k=5)) + (f" {ONCE}" if number == 1 else f" {number}")
    raw = (
        f"Received: from mx.example.net by mx.example.com; Mon, 5 Jan 2026 10:00:00 +0000\r\n"
        f"From: <{sender}>\r\nTo: {first}\r\nSubject: {subject}\r\nMessage-ID: <{number}@example.net>\r\n"
        f"\r\n{chance.choice(bodies())}"
    ).encode()
    session = Session("192.0.2.1", helo="mx.example.net")
    mail = Mail(new_id(moment), session, Envelope(sender, people), raw, moment)
    score = round(chance.uniform(8.0, 14.9), 2)
    outcomes = tuple(Outcome(one, Action.QUARANTINE, score, LIMITS) for one in people)
    versions = Versions("0", "p", "m")
    verdict = Verdict(mail.id, Action.QUARANTINE, outcomes, score, "score", "", PARTS, (), versions)
    return mail, verdict


def fill(database: Database, count: int) -> None:
    """Hold `count` messages, many in each transaction: each row as `hold` writes it.

    Those of the third and later batches are the second's, with ids and times of their own.
    """
    chance = random.Random(1)
    start = time.time() - SPAN
    made: list[Rows] = []
    for first in range(0, count, BATCH):
        numbers = range(first, min(first + BATCH, count))
        if first < 2 * BATCH:
            made = [rows_of(chance, number, start + SPAN * number / count) for number in numbers]
            some = made
        else:
            some = [
                again(one, start + SPAN * number / count) for one, number in zip(made, numbers, strict=False)
            ]
        database.write(partial(write, items=some), durable=False)


def rows_of(chance: random.Random, number: int, moment: float) -> Rows:
    """All rows of a made-up item."""
    mail, verdict = message(chance, number, moment)
    reasons = chance.sample(REASONS, chance.choice((1, 1, 2)))
    head = parse(mail.raw.partition(b"\r\n\r\n")[0])
    judgement = Judgement(mail.received, EVIDENCE, SIGNALS, verdict)
    made = held.rows_of(mail, head, judgement, mail.envelope.recipients, reasons)
    found: Rows = [(statement.table, rows if isinstance(rows, list) else [rows]) for statement, rows in made]  # type: ignore[misc]  # our inserts are into tables
    return [*found, (schema.quarantine_bytes, [{"item": mail.id, "data": zlib.compress(mail.raw, 1)}])]


def again(made: Rows, moment: float) -> Rows:
    """The same item, held at another time."""
    item, times = new_id(moment), dict.fromkeys(("received", "held_at", "changed", "time"), moment)
    fresh = {"id": item, "item": item, **times}
    return [
        (where, [{name: fresh.get(name, row[name]) for name in row} for row in rows]) for where, rows in made
    ]


def write(connection: Connection, items: list[Rows]) -> None:
    """Insert all rows of some items, and what the audit has of them."""
    rows: dict[Any, list[dict[str, Any]]] = {}
    for item in items:
        for where, those in item:
            rows.setdefault(where, []).extend(those)
    ids = [row["id"] for row in rows[schema.quarantine]]
    audit.append_all(connection, ids, "mailwarden", "held")
    for where, values in rows.items():
        connection.execute(insert(where), values)


def questions(quarantine: Quarantine, some: str) -> Iterator[tuple[str, Callable[[], object]]]:
    """What people ask, the worst cases among it: what nothing matches is read to the end."""

    def page(**wanted: Any) -> Callable[[], object]:
        return lambda: quarantine.search(Search(limit=50, **{"state": OPEN, **wanted}))

    yield "first page", page()
    yield "first page, held only", page(state=State.HELD)
    yield "page 2,000 by offset", page(offset=100_000)
    yield "page in the middle by id", page(before=some)
    yield "a state that none has", page(state=State.REQUESTED)
    yield "part of a subject, many", page(subject="parcel")
    yield "part of a subject, one", page(subject=" 5000")
    yield "part of a subject, none", page(subject="no such words")
    yield "part of a sender, none", page(sender="nobody@")
    yield "a recipient", page(recipient="p4711@")
    yield "a domain", page(domain="host17.example.net")
    yield "a domain, none", page(domain="example.org")
    yield "a reason, many", page(reason="score")
    yield "a reason, none", page(reason="VIRUS")
    yield "score and size, none", page(score_from=14.95, larger=5_000)
    yield "the oldest day", page(until=time.time() - SPAN + 86_400)
    yield "all that is open, counted", lambda: quarantine.count(Search(state=OPEN))
    yield "a subject, counted", lambda: quarantine.count(Search(state=OPEN, subject="parcel"))
    yield (
        "show: item, bytes, verdicts, audit",
        lambda: (
            quarantine.find(some),
            quarantine.raw(some),
            quarantine.judgements(some),
            quarantine.history(some),
        ),
    )
    yield "figures", quarantine.decisions.figures


def expiry(quarantine: Quarantine, count: int) -> dict[str, float]:
    """Expire `count` of the oldest while other messages are held; how long those took."""
    chance, stop = random.Random(2), threading.Event()
    took: list[float] = []

    def holding() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            mail, verdict = message(chance, number, time.time())
            began = time.monotonic()
            quarantine.hold(mail, verdict, EVIDENCE, SIGNALS, content=parse(mail.raw), reasons=("score",))
            took.append(time.monotonic() - began)
            time.sleep(0.02)

    thread = threading.Thread(target=holding)
    thread.start()
    before = time.time() - SPAN + 5 * 86_400
    began, gone = time.monotonic(), 0
    while gone < count and (removed := retention.gently(quarantine.expire, before, retention.BATCH)):
        gone += removed
    seconds = time.monotonic() - began
    stop.set()
    thread.join()
    took.sort()
    return {
        "expired": gone,
        "expired a second": round(gone / seconds),
        "held meanwhile": len(took),
        "holding, median ms": round(median(took) * 1000, 1),
        "holding, 99th percentile ms": round(took[int(len(took) * 0.99)] * 1000, 1),
        "holding, longest ms": round(took[-1] * 1000, 1),
    }


def main() -> int:
    """Fill, ask, expire, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--expire", type=int, default=20_000)
    parser.add_argument("--database", default="", help="a database that is filled already, or to be kept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mailwarden-held-") as folder:
        settings = StoreSettings(database=options.database or f"sqlite:///{folder}/held.db")
        database = open_database(settings)
        quarantine = Quarantine(database, settings)
        if not quarantine.count(Search(), upto=1):
            fill(database, options.items)
        size = Path(database.path).stat().st_size if database.path else 0
        total = quarantine.count(Search())
        some = quarantine.search(Search(limit=1, offset=total // 2))[0].id
        found = {}
        for name, ask in questions(quarantine, some):
            began = time.monotonic()
            ask()
            found[name] = round(time.monotonic() - began, 3)
        expired = expiry(quarantine, options.expire)
        database.close()
    out = console()
    out.print(table(("Question", "Seconds>"), [(name, f"{seconds:.3f}") for name, seconds in found.items()]))
    out.print(table(("Expiry", "Figure>"), [(name, f"{figure:g}") for name, figure in expired.items()]))
    write_figures("bench-quarantine", {"items": total, "octets": size, "seconds": found, "expiry": expired})
    return 0


if __name__ == "__main__":
    sys.exit(main())
