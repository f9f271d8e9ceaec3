# SPDX-License-Identifier: GPL-2.0-or-later
"""What to look for among held messages, as SQL that stays quick with a million of them.

Takes hostile text as parameters only. The narrowest table that knows what is asked for is read in the
order of the answer, newest first, so that a page is full early; texts are compared with columns that were
folded to one case when the message was held.
"""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, and_, false, func, literal, or_, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import Join

from gateway.mail.domains import normal
from gateway.store import schema

if TYPE_CHECKING:
    from sqlalchemy import Select

    from gateway.store.reach import Reach
    from gateway.store.states import State


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What to look for. Texts match any part, in any case; an empty one matches everything."""

    sender: str = ""
    recipient: str = ""
    domain: str = ""  # of the sender or of a recipient, whole
    subject: str = ""
    reason: str = ""  # a signal's name, or "score"
    state: State | tuple[State, ...] | None = None
    since: float | None = None  # by when it was held
    until: float | None = None
    score_from: float | None = None
    score_below: float | None = None
    larger: int | None = None  # octets, both bounds included
    smaller: int | None = None
    before: str = ""  # an id: older ones only, for reading page by page
    after: str = ""  # an id: newer ones only
    within: Reach | None = None  # held for somebody in it; what is found may still have to be looked at
    limit: int = 100
    offset: int = 0


_FREE = ("sender", "recipient", "domain", "subject", "reason", "before", "after")  # what people type
_PLAIN_JOIN = re.compile("(?<!CROSS) JOIN ")


class _InThisOrder(Join):
    """A join that SQLite reads from left to right: it knows nothing of how many rows there are."""

    inherit_cache = True


@compiles(_InThisOrder, "sqlite")
def _cross_join(element: Join, compiler: Any, **options: Any) -> str:
    return _PLAIN_JOIN.sub(" CROSS JOIN ", compiler.visit_join(element, **options))


def statement(wanted: Search, *columns: ColumnElement[Any]) -> Select[Any]:
    """The rows of the items that match, newest first; `columns` in place of all, and of no order."""
    table, words, names = schema.quarantine, schema.quarantine_words, schema.quarantine_reasons
    found: list[ColumnElement[bool]] = []
    if any("\0" in getattr(wanted, name) for name in _FREE):
        # SQLite would end the text there, and find everything; PostgreSQL takes none.
        wanted = replace(wanted, sender="", recipient="", domain="", subject="")
        wanted = replace(wanted, reason="", before="", after="")
        found.append(false())
    texts = _texts(wanted)
    source: Any = table
    key = table.c.id
    if wanted.reason:
        key = names.c.item
        found.append(names.c.name == spelling(wanted.reason))
        source = names
        if texts:
            source = _InThisOrder(source, words, words.c.item == key)
        source = _InThisOrder(source, table, table.c.id == key)
    elif texts:
        key = words.c.item
        source = _InThisOrder(words, table, table.c.id == key)
    found += texts
    if wanted.state is not None:
        states = wanted.state if isinstance(wanted.state, tuple) else (wanted.state,)
        found.append(table.c.state.in_(states))
    if wanted.before:
        found.append(key < wanted.before)
    if wanted.after:
        found.append(key > wanted.after)
    made = select(*(columns or (table,))).select_from(source).where(*found)
    return made if columns else made.order_by(key.desc())


def spelling(reason: str) -> str:
    """A reason as it is stored: signals in capitals, "score" and what stands behind a colon not."""
    if reason.lower() == "score":
        return "score"
    name, colon, rest = reason.partition(":")
    return name.upper() + colon + rest.lower()


def folded(text: str) -> str:
    """A text as it is compared: in one case."""
    return text.casefold()


def _texts(wanted: Search) -> list[ColumnElement[bool]]:
    """Conditions on what `quarantine_words` has."""
    words = schema.quarantine_words
    found: list[ColumnElement[bool]] = [
        column.contains(folded(text), autoescape=True)
        for column, text in (
            (words.c.sender, wanted.sender),
            (words.c.people, wanted.recipient),
            (words.c.subject, wanted.subject),
        )
        if text
    ]
    if wanted.within is not None and not wanted.within.everything:
        found.append(_within(wanted.within))
    if wanted.domain:
        ends = "@" + folded(wanted.domain.lstrip("@"))
        anybody = func.coalesce(words.c.people, "").concat("\n")
        found.append(
            or_(
                words.c.sender.endswith(ends, autoescape=True),
                anybody.contains(f"{ends}\n", autoescape=True),
            )
        )
    bounds: tuple[tuple[Any, Any, Any], ...] = (
        (words.c.held_at, operator.ge, wanted.since),
        (words.c.held_at, operator.lt, wanted.until),
        (words.c.score, operator.ge, wanted.score_from),
        (words.c.score, operator.lt, wanted.score_below),
        (words.c.size, operator.ge, wanted.larger),
        (words.c.size, operator.le, wanted.smaller),
    )
    return found + [compare(column, bound) for column, compare, bound in bounds if bound is not None]


def _within(reach: Reach) -> ColumnElement[bool]:
    """Whether one of the lines of `people` may be in reach; `Reach.covers` knows for certain."""
    people = schema.quarantine_words.c.people
    lines = literal("\n").concat(func.coalesce(people, "")).concat("\n")
    parts = [f"\n{folded(address)}\n" for address in reach.addresses]
    for domain in reach.domains:
        at = "" if domain.startswith(".") else "@"
        parts += [f"{at}{name}\n" for name in dict.fromkeys((folded(domain), _ascii(domain)))]
    # Nearly all rows are told apart by the first comparison, which copies nothing.
    found = [
        and_(people.contains(part.strip("\n"), autoescape=True), lines.contains(part, autoescape=True))
        for part in parts
    ]
    return or_(false(), *found)


def _ascii(domain: str) -> str:
    dot = "." if domain.startswith(".") else ""
    return dot + normal(domain.removeprefix("."))
