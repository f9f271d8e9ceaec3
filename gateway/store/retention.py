# SPDX-License-Identifier: GPL-2.0-or-later
"""How long what is kept stays, by class and by domain of the recipients, and how much of it there may be.

Classes are the bodies of held mail, the evidence in the journal, and the features of labelled mail.
Addresses of strangers are compared with the settings, and never matched as patterns. What is for several
domains stays as long as any of them wants it. Work is done in batches, with pauses in which mail is
served; what is removed is overwritten, and gone from the write-ahead log when `Database.purge` has run.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, ParamSpec

from sqlalchemy import and_, func, or_, select

from gateway.mail.domains import domain_of, matches
from gateway.store import schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from gateway.store.database import Database, RetentionRow, StoreSettings
    from gateway.store.journal import Journal
    from gateway.store.quarantine import Quarantine
    from gateway.store.samples import Samples

P = ParamSpec("P")
_DAY: Final = 86_400.0
_PAGE: Final = 1_000
BATCH: Final = 50


@dataclass(frozen=True, slots=True)
class Keeping:
    """Days for a class: those of the first row that names a recipient's domain, or `otherwise`."""

    rows: tuple[tuple[str, int], ...]  # domain and days
    otherwise: int

    @property
    def shortest(self) -> int:
        """The least days of any."""
        return min((self.otherwise, *(days for _, days in self.rows)))

    def days(self, recipients: Iterable[str]) -> int:
        """The days for a message to `recipients`: the most of any of them."""
        found = [self._of(one) for one in recipients]
        return max(found, default=self.otherwise)

    def _of(self, recipient: str) -> int:
        domain = domain_of(recipient)
        named = (days for pattern, days in self.rows if domain and matches(domain, (pattern,)))
        return next(named, self.otherwise)


def of_bodies(settings: StoreSettings) -> Keeping:
    """How long held messages stay."""
    return _keeping(((row, row.quarantine_days) for row in settings.retention), settings.quarantine_days)


def of_evidence(settings: StoreSettings) -> Keeping:
    """How long records of the journal stay."""
    return _keeping(((row, row.journal_days) for row in settings.retention), settings.journal_days)


def of_samples(settings: StoreSettings) -> Keeping:
    """How long labelled mail stays; 0 days are for ever."""
    return _keeping(((row, row.samples_days) for row in settings.retention), settings.samples_days)


def _keeping(rows: Iterable[tuple[RetentionRow, int | None]], otherwise: int) -> Keeping:
    return Keeping(tuple((row.domain, days) for row, days in rows if days is not None), otherwise)


def expire(quarantine: Quarantine, keeping: Keeping, now: float) -> int:
    """Remove held messages whose time is over; how many. Raises StoreError."""
    count = 0
    if not keeping.rows:
        while removed := gently(quarantine.expire, now - keeping.otherwise * _DAY, BATCH):
            count += removed
        return count
    over: list[str] = []
    for item, held_at, people in _held(quarantine.database, now - keeping.shortest * _DAY):
        if held_at < now - keeping.days(people.split("\n")) * _DAY:
            over.append(item)
        if len(over) >= BATCH:
            count += gently(quarantine.expire_these, over)
            over = []
    return count + gently(quarantine.expire_these, over)


def prune(database: Database, journal: Journal, keeping: Keeping, now: float) -> int:
    """Remove records of the journal whose time is over; how many. Raises StoreError."""
    count = 0
    if not keeping.rows:
        while removed := journal.prune(now - keeping.otherwise * _DAY):
            count += removed
        return count
    table = schema.journal
    after = 0
    columns = (table.c.number, table.c.received, table.c.recipients)
    while True:
        old = and_(table.c.received < now - keeping.shortest * _DAY, table.c.number > after)
        page = select(*columns).where(old).order_by(table.c.number).limit(_PAGE)
        rows = database.read(lambda c, page=page: c.execute(page).all())  # type: ignore[misc]  # bound now
        over = [
            row.number for row in rows if row.received < now - keeping.days(row.recipients.split("\n")) * _DAY
        ]
        if over:
            count += journal.remove(over)
        if len(rows) < _PAGE:
            return count
        after = rows[-1].number


def make_room(quarantine: Quarantine, quota: int) -> tuple[int, int]:
    """Remove the oldest held messages until the rest has `quota` octets at most (0: any).

    Returns the octets there are now, as they were received, and how many were removed.
    """
    octets, gone = _octets(quarantine.database), 0
    while quota and octets > quota:
        oldest = []
        for item, size in _oldest(quarantine.database):
            oldest.append(item)
            octets -= size
            if octets <= quota:
                break
        removed = gently(partial(quarantine.expire_these, why="over the quota"), oldest)
        gone += removed
        if not removed:
            break  # all of them are being released right now
        octets = _octets(quarantine.database)
    return octets, gone


def forget_samples(samples: Samples, keeping: Keeping, now: float) -> int:
    """Remove labelled mail whose days are over (0: they never are), once a day; how many."""
    table, database = schema.samples, samples.database
    if not keeping.otherwise and not keeping.rows:
        return 0
    first = select(table.c.owner, func.min(table.c.time).label("time")).group_by(table.c.owner)
    oldest = {row.owner: row.time for row in database.read(lambda c: c.execute(first).all())}
    ends = {owner: now - days * _DAY for owner in oldest if (days := keeping.days([_mailbox(owner)]))}
    if not any(oldest[owner] < end - _DAY for owner, end in ends.items()):
        return 0
    numbers: list[int] = []
    for owner, end in ends.items():
        old = select(table.c.number).where(table.c.owner == owner, table.c.time < end)
        numbers += database.read(lambda c, old=old: c.execute(old).scalars().all())  # type: ignore[misc]  # bound now
    samples.remove(numbers)
    return len(numbers)


def _mailbox(owner: str) -> str:
    """Some address of an owner: a domain, a recipient, or "" for nobody."""
    return owner if "@" in owner else f"*@{owner}"


def gently(work: Callable[P, int], *what: P.args, **how: P.kwargs) -> int:
    """Remove something, and leave as much time to others as it took: holding a message does not wait."""
    began = time.monotonic()
    count = work(*what, **how)
    if count:
        time.sleep(min(time.monotonic() - began, 1.0))
    return count


def _held(database: Database, older_than: float) -> Iterator[tuple[str, float, str]]:
    """Held messages from before, oldest first: id, when, and recipients, one a line."""
    table, words = schema.quarantine, schema.quarantine_words
    last = (0.0, "")
    while True:
        newer = or_(table.c.held_at > last[0], and_(table.c.held_at == last[0], table.c.id > last[1]))
        page = (
            select(table.c.id, table.c.held_at, words.c.people)
            .join(words, words.c.item == table.c.id)
            .where(table.c.content == 1, table.c.held_at < older_than, table.c.held_at >= last[0], newer)
            .order_by(table.c.held_at, table.c.id)
            .limit(_PAGE)
        )
        rows = database.read(lambda c, page=page: c.execute(page).all())  # type: ignore[misc]  # bound now
        for row in rows:
            yield row.id, row.held_at, row.people
        if len(rows) < _PAGE:
            return
        last = (rows[-1].held_at, rows[-1].id)


def _octets(database: Database) -> int:
    table = schema.quarantine
    whole = select(func.sum(table.c.size)).where(table.c.content == 1)
    return int(database.read(lambda c: c.execute(whole).scalar()) or 0)


def _oldest(database: Database) -> list[tuple[str, int]]:
    table = schema.quarantine
    page = select(table.c.id, table.c.size).where(table.c.content == 1).order_by(table.c.held_at).limit(BATCH)
    return [(row.id, row.size) for row in database.read(lambda c: c.execute(page).all())]
