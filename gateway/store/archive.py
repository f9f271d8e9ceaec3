# SPDX-License-Identifier: GPL-2.0-or-later
"""Held messages as a file: written for keeping or for another machine, and held again from it.

A tar archive with two members for each message, `ID.json` (session, envelope, verdicts, reasons, history)
and `ID.eml` (the octets as received). Reading is of a hostile file: members are read in order and by size
limits, no name is ever a path, nothing is unpacked to disk, and each message must have the SHA-256 that
stands beside it. What is held again is held for those whose copies waited for a decision; nobody gets
anything by it.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import time
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Final

import msgspec

from gateway.mail.mime import parse
from gateway.mail.types import ID_PATTERN, Envelope, Evidence, Mail, Session, Signal, Verdict
from gateway.store.audit import Event
from gateway.store.encoding import from_json, to_json
from gateway.store.held import Judgement
from gateway.store.states import WAITING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gateway.store.quarantine import Quarantine

FORMAT: Final = 1
MOST_FACTS: Final = 16 << 20  # octets of what stands beside a message
MOST_MESSAGE: Final = 1 << 30


class ArchiveError(Exception):
    """The file is not what was written, or not all of it."""


class Judged(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A verdict, with what led to it."""

    time: float
    evidence: Evidence
    signals: tuple[Signal, ...]
    verdict: Verdict


class Exported(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What stands beside a message."""

    format: int
    id: str
    received: float
    queue_id: str
    size: int
    sha256: str
    state: str
    session: Session
    envelope: Envelope
    waiting: tuple[str, ...]  # recipients whose copies wait for a decision
    reasons: tuple[str, ...]
    judgements: tuple[Judged, ...]
    history: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of one message of the file."""

    item: str
    did: str  # "held", or ""
    why: str = ""


def write(quarantine: Quarantine, items: Iterable[str], file: IO[bytes]) -> Iterator[Taken]:
    """Write messages to a file; one after the other is told. Raises StoreError and OSError."""
    with tarfile.open(fileobj=file, mode="w|gz") as tar:
        for item in items:
            found = quarantine.find(item)
            if found is None or not found.content:
                yield Taken(item, "", "its content is gone")
                continue
            original = quarantine.original(item)
            facts = Exported(
                format=FORMAT,
                id=item,
                received=found.received,
                queue_id=found.queue_id,
                size=found.size,
                sha256=found.sha256,
                state=found.state.value,
                session=original.session,
                envelope=original.envelope,
                waiting=tuple(copy.address for copy in found.recipients if copy.state in WAITING),
                reasons=found.reasons,
                judgements=tuple(
                    Judged(j.time, j.evidence, j.signals, j.verdict) for j in quarantine.judgements(item)
                ),
                history=tuple(quarantine.history(item)),
            )
            _add(tar, f"{item}.json", to_json(facts).encode(), found.held_at)
            _add(tar, f"{item}.eml", original.raw, found.held_at)
            yield Taken(item, "written")


def read(file: IO[bytes]) -> Iterator[tuple[Exported, bytes]]:
    """Read what `write` wrote. Raises ArchiveError."""
    facts: Exported | None = None
    try:
        with tarfile.open(fileobj=file, mode="r|*") as tar:
            for member in tar:
                name, dot, kind = member.name.rpartition(".")
                if not (member.isreg() and dot and ID_PATTERN.fullmatch(name)):
                    raise ArchiveError("a member that is neither a message nor what belongs to one")
                if member.size > (MOST_FACTS if kind == "json" else MOST_MESSAGE):
                    raise ArchiveError(f"{name}: larger than any message")
                data = _content(tar, member)
                if kind == "json":
                    facts = _facts(name, data)
                elif kind == "eml" and facts is not None and facts.id == name:
                    if hashlib.sha256(data).hexdigest() != facts.sha256 or len(data) != facts.size:
                        raise ArchiveError(f"{name}: its SHA-256 differs")
                    yield facts, data
                    facts = None
                else:
                    raise ArchiveError(f"{name}: a message without what belongs to it")
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise ArchiveError(f"not an export of ours, or cut off: {error}") from error


def hold_again(quarantine: Quarantine, facts: Exported, raw: bytes, who: str) -> Taken:
    """Hold a message of a file for those whose copies waited, under its id. Raises StoreError."""
    known = quarantine.find(facts.id)
    if known is not None:
        return Taken(facts.id, "", f"it is here already, and {known.state.value}")
    waiting = {one.lower() for one in facts.waiting}
    people = {one for one in facts.envelope.recipients if one.lower() in waiting}
    if not people or not facts.judgements:
        return Taken(facts.id, "", "nobody waits for it: it was released, deleted or expired")
    first, *later = facts.judgements
    outcomes = tuple(o for o in first.verdict.outcomes if o.recipient in people)
    verdict = replace(first.verdict, outcomes=outcomes)
    if not verdict.kept:
        return Taken(facts.id, "", "it was not held by its verdict")
    mail = Mail(facts.id, facts.session, facts.envelope, raw, facts.received, facts.queue_id)
    quarantine.hold(mail, verdict, first.evidence, first.signals, content=parse(raw), reasons=facts.reasons)
    for judgement in later:
        again = Judgement(judgement.time, judgement.evidence, judgement.signals, judgement.verdict)
        quarantine.judged_again(facts.id, again)
    quarantine.note(facts.id, who, "imported", f"held elsewhere until {time.strftime('%Y-%m-%d')}")
    return Taken(facts.id, "held")


def _add(tar: tarfile.TarFile, name: str, data: bytes, moment: float) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = len(data), int(moment), 0o600
    tar.addfile(member, io.BytesIO(data))


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    data = file.read(member.size + 1) if file is not None else b""
    if len(data) != member.size:
        raise ArchiveError("cut off")
    return data


def _facts(name: str, data: bytes) -> Exported:
    try:
        facts: Exported = from_json(data.decode(), Exported)
    except ValueError as error:
        raise ArchiveError(f"{name}: {error}") from error
    if facts.format != FORMAT or facts.id != name:
        raise ArchiveError(f"{name}: of another format, or of another message")
    return facts
