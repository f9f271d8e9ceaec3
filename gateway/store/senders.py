# SPDX-License-Identifier: GPL-2.0-or-later
"""Senders that reviewers block or allow: one table for all nodes, in force within a second.

Reads hostile addresses, as keys of a dictionary only. A pattern is an address, a domain, or ".domain"
for all below it; the most specific one rules. Each change is in the audit. What a rule means for a
message is policy: here nothing is proven about who really sent it.
"""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from sqlalchemy import Connection, delete, func, insert, select

from gateway.mail.headers import printable
from gateway.mail.senderrule import SenderRule
from gateway.store import audit, schema
from gateway.store.database import StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.store.database import Database

Rule = Literal["block", "allow"]

_FRESH = 1.0  # seconds for which what was read is taken to be so
_LABEL = r"[^\s@.<>()\x00-\x20\x7f]{1,63}"
_PATTERN = re.compile(
    rf"(?:[^\s<>@\x00-\x20\x7f]{{1,64}}@{_LABEL}(?:\.{_LABEL})*|\.?{_LABEL}(?:\.{_LABEL})+)"
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One row, for people."""

    pattern: str
    rule: Rule
    who: str
    changed: float
    why: str


class Senders:
    """The rules of one database. Thread-safe; raises StoreError."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._rules: dict[str, Rule] | None = None
        self._version: tuple[int, float] = (-1, 0.0)
        self._read = float("-inf")

    def all(self) -> list[Entry]:
        """All rules, by pattern."""
        table = schema.senders
        rows = self._database.read(lambda c: c.execute(select(table).order_by(table.c.pattern)).all())
        return [Entry(row.pattern, cast("Rule", row.rule), row.who, row.changed, row.why) for row in rows]

    def put(self, pattern: str, rule: Rule, who: str, *, why: str = "", item: str = "") -> str:
        """Block or allow a sender, in place of an earlier rule; returns the pattern as it is kept.

        `item` is the held message that was the occasion.
        """
        name = normal(pattern)
        values = {
            "rule": rule,
            "who": printable(who, 100),
            "changed": time.time(),
            "why": printable(why, 500),
        }

        def work(connection: Connection) -> None:
            connection.execute(delete(schema.senders).where(schema.senders.c.pattern == name))
            connection.execute(insert(schema.senders).values(pattern=name, **values))
            word = "blocked" if rule == "block" else "allowed"
            audit.append(connection, item, who, f"sender {word}", f"{name} {why}".rstrip())

        self._database.write(work)
        return name

    def remove(self, pattern: str, who: str) -> bool:
        """Forget a rule; whether there was one."""
        name = normal(pattern)

        def work(connection: Connection) -> bool:
            gone = connection.execute(delete(schema.senders).where(schema.senders.c.pattern == name)).rowcount
            if gone:
                audit.append(connection, "", who, "sender removed", name)
            return bool(gone)

        return self._database.write(work)

    def lookup(self, mail_from: str, authors: Sequence[str]) -> tuple[SenderRule, ...]:
        """What is ruled about the envelope sender and the authors of a message; cheap to ask.

        Where the store does not answer, what was known last counts; if nothing was, that is the rule "error".
        """
        try:
            rules = self._current()
        except StoreError as error:
            return (SenderRule("", "error", "envelope", printable(str(error), 200)),)
        if not rules:
            return ()
        found = []
        asked: list[tuple[str, Literal["envelope", "author"]]] = [(mail_from, "envelope")]
        asked += [(author, "author") for author in authors]
        for address, where in asked:
            pattern = next((p for p in patterns(address) if p in rules), None)
            if pattern is not None:
                found.append(SenderRule(pattern, rules[pattern], where))
        return tuple(dict.fromkeys(found))

    def _current(self) -> dict[str, Rule]:
        """The rules, read anew when they have changed and the last look was a while ago."""
        with self._lock:
            if self._rules is not None and time.monotonic() - self._read < _FRESH:
                return self._rules
            table = schema.senders
            asked = select(func.count(), func.coalesce(func.max(table.c.changed), 0.0))
            try:
                count, changed = self._database.read(lambda c: c.execute(asked).one())
                if self._rules is None or (count, changed) != self._version:
                    self._rules = {entry.pattern: entry.rule for entry in self.all()}
                    self._version = (count, changed)
            except StoreError:
                if self._rules is None:
                    raise
            self._read = time.monotonic()
            return self._rules


def normal(pattern: str) -> str:
    """A pattern as it is kept: lower case, a domain without "@". Raises StoreError for what is none."""
    name = pattern.strip().lower().removeprefix("@")
    if len(name) > 320 or not _PATTERN.fullmatch(name) or not name.isprintable():
        raise StoreError(f"no sender: {printable(pattern, 60)}; write an address, a domain, or .domain")
    return name


def of_message(sender: str) -> str:
    """The pattern for the sender that a message chose: an address, never a domain. Raises StoreError."""
    name = normal(sender)
    if "@" not in name:
        raise StoreError(
            f"its sender is no address: {printable(sender, 60)}; a rule about it names what it means"
        )
    return name


def patterns(address: str) -> list[str]:
    """What may rule about an address, the most specific first; bounded."""
    name = address.lower()
    if not name or len(name) > 320:
        return []
    domain = name.rpartition("@")[2].rstrip(".")
    labels = domain.split(".")
    return [name, domain, *("." + ".".join(labels[n:]) for n in range(1, min(len(labels), 40)))]
