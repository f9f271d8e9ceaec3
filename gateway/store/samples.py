# SPDX-License-Identifier: GPL-2.0-or-later
"""Labelled mail that the site's model is made of: the labels people gave, with what the model reads.

Holds features of hostile mail, and its first octets where the settings want bodies kept. The model
file is only a fold over these rows, so that any node can make it anew: those up to `spread_upto` with
ham and spam spread, later ones in the order of their numbers; `generation` changes with the former.
Near-identical messages are found by four bands of a sketch, and told by the sketch.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from gateway.classifier.stored import Sketch
from gateway.mail.headers import printable
from gateway.store import schema

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from sqlalchemy import RowMapping

    from gateway.store.database import Database

_PAGE = 500
_SOURCE = 200  # characters kept of a source
_OWNER = 320  # and of an owner
_GENERATION = "site_generation"
_SPREAD = "site_generation_upto"
_WRITER = "site_writer"


# Where labels come from, and whose count more; those that are not named count 0.
OPERATOR, REVIEW, REPORT, FOLDER = "operator", "review", "report", "folder"
RANK: Final = {OPERATOR: 2, REVIEW: 1}


class SampleState(StrEnum):
    """What became of a labelled message."""

    WAITING = "waiting"  # received, and not looked at yet
    LEARNED = "learned"
    ASIDE = "aside"  # never learned: new models are measured with it
    DOUBTED = "doubted"  # a stranger's, against what the model knows; learned if another says the same
    REFUSED = "refused"  # the model that had learned it was worse
    SUPERSEDED = "superseded"  # somebody said the opposite later, or took it back


@dataclass(frozen=True, slots=True)
class Sample:
    """A labelled message. `features` is what `gateway.classifier.site.Seen` packs."""

    digest: str  # SHA-256 of the message, hex
    sketch: Sketch
    spam: bool
    origin: str
    source: str  # who said so; bounded, printable
    time: float
    features: bytes
    body: bytes = b""
    owner: str = ""  # domain or recipient whose own model learns it, too
    state: SampleState = SampleState.LEARNED
    number: int = 0  # given by the store


def overrules(label: Sample, earlier: Sample) -> bool:
    """Whether a label replaces an earlier one that says the opposite of the same mail.

    It does if its origin counts more; the operator's and the reviewers' newest words count. A
    reporter replaces nobody's label but his own.
    """
    mine, theirs = RANK.get(label.origin, 0), RANK.get(earlier.origin, 0)
    if mine == theirs:
        return mine > 0 or label.source == earlier.source
    return mine > theirs


class Fresh:
    """The samples of a batch, and how to find a copy of one among them."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self._by_band: dict[int, list[Sample]] = {}

    def add(self, sample: Sample) -> None:
        """Add one."""
        self.samples.append(sample)
        for band in sample.sketch.bands:
            self._by_band.setdefault(band, []).append(sample)

    def alike(self, sample: Sample) -> list[Sample]:
        """Those that are this message, or nearly."""
        found: dict[int, Sample] = {}
        for band in sample.sketch.bands:
            for other in self._by_band.get(band, ()):
                if other.sketch.near(sample.sketch):
                    found[id(other)] = other
        return [one for one in found.values() if one in self.samples]


class Samples:
    """The labelled mail in one database. Thread-safe; all methods raise StoreError."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def add(
        self, samples: Sequence[Sample], note: tuple[str, str] | None = None, *, anew: bool = False
    ) -> None:
        """Keep samples, in this order, and with them a name (of 32 characters at most) and its text.

        With `anew` the generation changes: models are made anew of all, not of these on top.
        """
        rows = [_row(sample) for sample in samples]

        def work(connection: Connection) -> None:
            for row in rows:
                connection.execute(insert(schema.samples), row)
            if note:
                _note(connection, note[0], note[1].encode())
            if anew:
                _turn(connection)

        if rows or note:
            self.database.write(work)

    def alike(self, digest: str, sketch: Sketch) -> list[Sample]:
        """The valid samples that are this message, or nearly; newest first, fifty at most."""
        table = schema.samples
        columns = (table.c.near0, table.c.near1, table.c.near2, table.c.near3)
        close = or_(
            table.c.digest == digest,
            *(column == one for column, one in zip(columns, sketch.bands, strict=True)),
        )
        statement = select(table).where(
            close, table.c.state.not_in((SampleState.SUPERSEDED, SampleState.WAITING))
        )
        statement = statement.order_by(table.c.number.desc()).limit(50)
        rows = self.database.read(lambda connection: connection.execute(statement).mappings().all())
        return [one for one in map(_sample, rows) if one.digest == digest or one.sketch.near(sketch)]

    def read(
        self,
        state: SampleState,
        after: int = 0,
        upto: int | None = None,
        without: Collection[int] = frozenset(),
    ) -> Iterator[Sample]:
        """Give samples in the order of their numbers, those `after` one and `upto` one."""
        table = schema.samples
        while True:
            statement = select(table).where(table.c.state == state, table.c.number > after)
            if upto is not None:
                statement = statement.where(table.c.number <= upto)
            statement = statement.order_by(table.c.number).limit(_PAGE)
            rows = self.database.read(lambda c, s=statement: c.execute(s).mappings().all())  # type: ignore[misc]  # bound now
            yield from (_sample(row) for row in rows if row["number"] not in without)
            if len(rows) < _PAGE:
                return
            after = rows[-1]["number"]

    def newest_aside(self, count: int) -> list[Sample]:
        """Give the newest samples that were never learned."""
        table = schema.samples
        statement = select(table).where(table.c.state == SampleState.ASIDE)
        statement = statement.order_by(table.c.number.desc()).limit(count)
        rows = self.database.read(lambda connection: connection.execute(statement).mappings().all())
        return [_sample(row) for row in rows]

    def last(self) -> int:
        """The number of the last learned sample."""
        table = schema.samples
        statement = select(func.max(table.c.number)).where(table.c.state == SampleState.LEARNED)
        return int(self.database.read(lambda connection: connection.execute(statement).scalar()) or 0)

    def any_waiting(self) -> bool:
        """Whether samples wait to be learned; cheap to ask."""
        table = schema.samples
        statement = select(table.c.number).where(table.c.state == SampleState.WAITING).limit(1)
        return self.database.read(lambda connection: connection.execute(statement).first()) is not None

    def discard(self, numbers: Sequence[int]) -> None:
        """Remove samples that no model was made of."""
        table = schema.samples

        def work(connection: Connection) -> None:
            for start in range(0, len(numbers), _PAGE):
                chosen = table.c.number.in_(numbers[start : start + _PAGE])
                connection.execute(delete(table).where(chosen, table.c.state == SampleState.WAITING))

        self.database.write(work)

    def since(self, moment: float, source: str = "", *, but: str = "") -> int:
        """How many samples came since a moment: from a source, or from all origins but one."""
        table = schema.samples
        chosen = table.c.source == printable(source, _SOURCE) if source else table.c.origin != but
        statement = select(func.count()).where(chosen, table.c.time >= moment)
        return int(self.database.read(lambda connection: connection.execute(statement).scalar_one()))

    def counts(self) -> dict[tuple[str, bool], int]:
        """How many samples there are of each state and label."""
        table = schema.samples
        statement = select(table.c.state, table.c.spam, func.count()).group_by(table.c.state, table.c.spam)
        rows = self.database.read(lambda connection: connection.execute(statement).all())
        return {(state, bool(spam)): count for state, spam, count in rows}

    def set_state(self, numbers: Sequence[int], state: SampleState, *, anew: bool = True) -> int:
        """Change the state of samples, and with it the generation if `anew`; how many there were."""
        table = schema.samples

        def work(connection: Connection) -> int:
            changed = 0
            for start in range(0, len(numbers), _PAGE):
                chosen = table.c.number.in_(numbers[start : start + _PAGE])
                changed += connection.execute(
                    update(table).where(chosen, table.c.state != state).values(state=state)
                ).rowcount
            if changed and anew:
                _turn(connection)
            return changed

        return self.database.write(work) if numbers else 0

    def set_aside_after(self, number: int) -> int:
        """Refuse all that was learned after sample `number`; how many it was."""
        table = schema.samples
        later = (table.c.number > number, table.c.state == SampleState.LEARNED)

        def work(connection: Connection) -> int:
            changed = connection.execute(
                update(table).where(*later).values(state=SampleState.REFUSED)
            ).rowcount
            _turn(connection)
            return changed

        return self.database.write(work)

    def learn_aside(self, keep: int, most: int) -> int:
        """Have all but the newest `keep` samples learned that were kept aside, if those are `most` or more.

        How many they were.
        """
        table = schema.samples
        aside = select(table.c.number).where(table.c.state == SampleState.ASIDE)
        aside = aside.order_by(table.c.number.desc()).offset(keep)
        older = self.database.read(lambda connection: connection.execute(aside).scalars().all())
        return self.set_state(older, SampleState.LEARNED) if len(older) >= most else 0

    def owners(self, least: int, most: int) -> list[str]:
        """The owners of `least` learned samples or more, at most so many, those with most samples first."""
        table, count = schema.samples, func.count()
        learned = (table.c.state == SampleState.LEARNED, table.c.owner != "")
        statement = select(table.c.owner).where(*learned).group_by(table.c.owner).having(count >= least)
        statement = statement.order_by(count.desc(), table.c.owner).limit(most)
        return list(self.database.read(lambda connection: connection.execute(statement).scalars().all()))

    def of_owner(self, owner: str, most: int) -> list[Sample]:
        """The newest learned samples of an owner, oldest first."""
        table = schema.samples
        statement = select(table).where(table.c.state == SampleState.LEARNED, table.c.owner == owner)
        statement = statement.order_by(table.c.number.desc()).limit(most)
        rows = self.database.read(lambda connection: connection.execute(statement).mappings().all())
        return [_sample(row) for row in reversed(rows)]

    def of_source(self, source: str) -> list[int]:
        """The numbers of all samples of a source."""
        table = schema.samples
        statement = select(table.c.number).where(table.c.source == printable(source, _SOURCE))
        return list(self.database.read(lambda connection: connection.execute(statement).scalars().all()))

    def refresh(self, number: int, features: bytes) -> None:
        """Replace the features of a sample; the generation is left to the caller."""
        table = schema.samples
        statement = update(table).where(table.c.number == number).values(features=features)
        self.database.write(lambda connection: connection.execute(statement), durable=False)

    def drop_bodies(self) -> int:
        """Remove the bodies that were kept, and leave the features; how many there were."""
        table = schema.samples
        statement = update(table).where(table.c.body != b"").values(body=b"")
        count = self.database.write(lambda connection: connection.execute(statement).rowcount)
        self.database.purge()
        return count

    def remove(self, numbers: Sequence[int]) -> None:
        """Remove samples for good."""
        table = schema.samples

        def work(connection: Connection) -> None:
            for start in range(0, len(numbers), _PAGE):
                chosen = table.c.number.in_(numbers[start : start + _PAGE])
                connection.execute(delete(table).where(chosen))
            _turn(connection)

        self.database.write(work)
        self.database.purge()

    def noted(self, name: str) -> str:
        """The text of a name, "" if there is none."""
        table = schema.secrets
        statement = select(table.c.value).where(table.c.name == name)
        found = self.database.read(lambda connection: connection.execute(statement).scalar())
        return bytes(found).decode() if found else ""

    def claim_writing(self, who: str, seconds: float, what: str = _WRITER) -> bool:
        """Become the only writer of all nodes for so long, if nobody else is; or the only one at `what`."""
        table, now = schema.secrets, time.time()

        def work(connection: Connection) -> bool:
            found = connection.execute(
                select(table.c.value).where(table.c.name == what).with_for_update()
            ).scalar()
            holder, _, until = (found or b"").decode("ascii", "replace").rpartition(" ")
            if holder not in {"", who} and float(until) > now:
                return False
            claim = f"{who} {now + seconds:.0f}".encode()
            if found is not None:
                _note(connection, what, claim)
                return True
            try:  # not `_note`: it would replace the claim of whoever came first since we looked
                with connection.begin_nested():
                    connection.execute(insert(table).values(name=what, value=claim))
            except IntegrityError:
                return False
            return True

        return self.database.write(work, durable=False)

    def end_writing(self, who: str, what: str = _WRITER) -> None:
        """Let others write, if `who` is still the writer."""
        table = schema.secrets
        mine = (table.c.name == what, table.c.value.in_(self._claims(who, what)))
        self.database.write(lambda connection: connection.execute(delete(table).where(*mine)), durable=False)

    def _claims(self, who: str, what: str) -> list[bytes]:
        table = schema.secrets
        statement = select(table.c.value).where(table.c.name == what)
        found = self.database.read(lambda connection: connection.execute(statement).scalars().all())
        return [bytes(value) for value in found if bytes(value).startswith(who.encode() + b" ")]

    def generation(self) -> int:
        """A number that changes whenever the model must be made anew."""
        table = schema.secrets
        statement = select(table.c.value).where(table.c.name == _GENERATION)
        return int(self.database.read(lambda connection: connection.execute(statement).scalar()) or 0)

    def spread_upto(self) -> int:
        """The number of the last learned sample when the generation changed: those up to it are spread."""
        return int(self.noted(_SPREAD) or 0)


def _turn(connection: Connection) -> None:
    table = schema.secrets
    found = connection.execute(select(table.c.value).where(table.c.name == _GENERATION)).scalar()
    _note(connection, _GENERATION, str(int(found or 0) + 1).encode())
    table = schema.samples
    last = connection.execute(select(func.max(table.c.number)).where(table.c.state == SampleState.LEARNED))
    _note(connection, _SPREAD, str(last.scalar() or 0).encode())


def _note(connection: Connection, name: str, value: bytes) -> None:
    table = schema.secrets
    if not connection.execute(update(table).where(table.c.name == name).values(value=value)).rowcount:
        connection.execute(insert(table).values(name=name, value=value))


def _row(sample: Sample) -> dict[str, object]:
    return {
        "digest": sample.digest,
        **{f"near{n}": value for n, value in enumerate(sample.sketch.bands)},
        "minima": sample.sketch.minima,
        "spam": int(sample.spam),
        "origin": printable(sample.origin, 16),
        "source": printable(sample.source, _SOURCE),
        "time": sample.time or time.time(),
        "state": sample.state,
        "features": sample.features,
        "body": sample.body,
        "owner": printable(sample.owner, _OWNER),
    }


def _sample(value: Mapping[str, Any] | RowMapping) -> Sample:
    return Sample(
        digest=value["digest"],
        sketch=Sketch(
            (value["near0"], value["near1"], value["near2"], value["near3"]), bytes(value["minima"])
        ),
        spam=bool(value["spam"]),
        origin=value["origin"],
        source=value["source"],
        time=value["time"],
        features=bytes(value["features"]),
        body=bytes(value["body"]),
        owner=value["owner"],
        state=SampleState(value["state"]),
        number=value["number"],
    )
