# SPDX-License-Identifier: GPL-2.0-or-later
"""What to look for among held messages, as SQL that stays quick with a million of them.

Takes hostile text as parameters only. One narrow table knows all that is asked for: it is read in the order
of the answer, newest first, so that a page is full early, and to its end within a second; texts are compared
with columns that were folded to one case when the message was held. Where an index knows that only some
thousands can match, those are looked up instead.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import Boolean, ColumnElement, and_, false, func, or_, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from gateway.mail.domains import spellings
from gateway.store import schema

if TYPE_CHECKING:
    from sqlalchemy import Connection, Select

    from gateway.store.reach import Reach
    from gateway.store.states import State


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What to look for. Texts match any part, in any case; an empty one matches everything."""

    sender: str = ""
    recipient: str = ""
    domain: str = ""  # of the sender or of a recipient, whole; A-labels or U-labels find both
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
_FEW = 20_000  # items that are looked up one by one rather than found by reading all


class _Part(FunctionElement[bool]):
    """Whether the first text contains the second: octets are compared, which is faster than LIKE."""

    type = Boolean()
    inherit_cache = True
    name = "part"


@compiles(_Part, "sqlite")
def _instr(element: _Part, compiler: Any, **options: Any) -> str:
    return f"instr({compiler.process(element.clauses, **options)}) > 0"


@compiles(_Part, "postgresql")
def _strpos(element: _Part, compiler: Any, **options: Any) -> str:
    return f"strpos({compiler.process(element.clauses, **options)}) > 0"


def newest(connection: Connection, wanted: Search) -> list[str]:
    """The ids of the items that match, newest first, from `offset` on, `limit` at most."""
    key = schema.quarantine_words.c.item
    chosen = matching(connection, wanted, key).order_by(key.desc())
    return list(connection.execute(chosen.limit(wanted.limit).offset(wanted.offset)).scalars())


def matching(connection: Connection, wanted: Search, *columns: ColumnElement[Any]) -> Select[Any]:
    """`columns` of `quarantine_words` for the items that match, in no order.

    The answer depends on how many items there are of each kind at this moment: of those that are few (of
    a person, a domain, a reason, a state) each is looked up, else all are read.
    """
    words, names, table = schema.quarantine_words, schema.quarantine_reasons, schema.quarantine
    where: list[ColumnElement[bool]] = []
    if any("\0" in getattr(wanted, name) for name in _FREE):
        # Some databases would end the text there, and find everything; others take none.
        wanted = replace(wanted, sender="", recipient="", domain="", subject="")
        wanted = replace(wanted, reason="", before="", after="")
        where.append(false())
    kinds: list[tuple[ColumnElement[str], ColumnElement[bool]]] = []
    if wanted.within is not None and not wanted.within.everything:
        reach = schema.quarantine_reach
        kinds.append((reach.c.item, reach.c.key.in_(wanted.within.keys())))
    if wanted.reason:
        kinds.append((names.c.item, names.c.name == spelling(wanted.reason)))
    alike: list[ColumnElement[bool]] = [
        select(item).where(condition, item == words.c.item).exists() for item, condition in kinds
    ]
    if wanted.state is not None:
        states = wanted.state if isinstance(wanted.state, tuple) else (wanted.state,)
        kinds.append((table.c.id, table.c.state.in_(states)))
        alike.append(words.c.state.in_(states))
    fewest = _fewest(connection, kinds)
    if fewest >= 0:
        item, condition = kinds[fewest]
        alike[fewest] = and_(words.c.item.in_(select(item).where(condition)), alike[fewest])
    return select(*columns).select_from(words).where(*where, *_plain(wanted), *alike)


def _fewest(connection: Connection, kinds: list[tuple[ColumnElement[str], ColumnElement[bool]]]) -> int:
    """Which of these kinds has the fewest items, if that are few; else -1."""
    found, fewest = -1, _FEW
    for number, (item, condition) in enumerate(kinds):
        some = select(item).where(condition).limit(fewest).subquery()
        count = connection.execute(select(func.count()).select_from(some)).scalar_one()
        if count < fewest:
            found, fewest = number, count
    return found


def spelling(reason: str) -> str:
    """A reason as it is stored: signals in capitals, "score" and what stands behind a colon not."""
    if reason.lower() == "score":
        return "score"
    name, colon, rest = reason.partition(":")
    return name.upper() + colon + rest.lower()


def folded(text: str) -> str:
    """A text as it is compared: in one case."""
    return text.casefold()


def _plain(wanted: Search) -> list[ColumnElement[bool]]:
    """Conditions on what `quarantine_words` has, but for the state; the cheapest first."""
    words = schema.quarantine_words
    bounds: tuple[tuple[Any, Any, Any], ...] = (
        (words.c.item, operator.lt, wanted.before or None),
        (words.c.item, operator.gt, wanted.after or None),
        (words.c.held_at, operator.ge, wanted.since),
        (words.c.held_at, operator.lt, wanted.until),
        (words.c.score, operator.ge, wanted.score_from),
        (words.c.score, operator.lt, wanted.score_below),
        (words.c.size, operator.ge, wanted.larger),
        (words.c.size, operator.le, wanted.smaller),
    )
    found = [compare(column, bound) for column, compare, bound in bounds if bound is not None]
    parts = (
        (words.c.sender, wanted.sender),
        (words.c.people, wanted.recipient),
        (words.c.subject, wanted.subject),
    )
    found += [_Part(column, folded(text)) for column, text in parts if text]
    if wanted.domain:
        found.append(or_(*(_of_domain(people, wanted.domain) for people in (words.c.sender, words.c.people))))
    return found


def _of_domain(people: ColumnElement[str], domain: str) -> ColumnElement[bool]:
    """Whether one of the addresses, one a line, is of this domain, however it is spelled there."""
    ends = dict.fromkeys("@" + folded(one) for one in spellings(domain.lstrip("@")))
    return or_(*(and_(_Part(people, one), _Part(people.concat("\n"), f"{one}\n")) for one in ends))
