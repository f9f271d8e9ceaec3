# SPDX-License-Identifier: GPL-2.0-or-later
"""Attachments cut out of a message: which may be, where they are, and the notes in their place.

Reads names made by strangers, which a note shows to readers: they come without paths, controls and
directions, and cannot start a line. Only where all readers find the same parts is anything cut; where
they may not, or an attachment is no part of its own, STRIP_UNSAFE says so and `decide` holds the message.
A message within the message goes as a whole, and so does an archive: what is left of a part would be
neither what was sent nor what was looked at.
"""

from __future__ import annotations

import binascii
import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from gateway.mail.headers import printable
from gateway.mail.types import Action, Cut, Edit, EditOp, Signal
from gateway.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from gateway.mail.types import Attachment, Content, Verdict
    from gateway.policy.attachments import Sight

UNSAFE = "STRIP_UNSAFE"
_FAMILIES = ("ATTACHMENT_", "ARCHIVE_", "OFFICE_", "PDF_", "XML_")
# Behind a limit other attachments were not looked at: to strip the first of them would let those pass.
_NEVER = ("ARCHIVE_LIMIT",)
_NAMES, _NAME = 10, 80  # names in a note, and characters of one
_PLACEHOLDER = re.compile(r"\{(\w*)\}")
_DASHES = re.compile(r"^--", re.MULTILINE)
_FIELDS = (
    ("Content-Type", "text/plain; charset=utf-8"),
    ("Content-Transfer-Encoding", "quoted-printable"),
    ("Content-Disposition", "inline"),
)


class StripSettings(Settings, frozen=True):
    """The note in place of an attachment that the action "strip" has taken out."""

    # Language of the note, one of those in `rules/notes.toml`: "en", "de", "es" or "fr", or of your own.
    language: str = "en"
    # A file with notes of your own, in the form of `rules/notes.toml`; "" for none.
    notes: str = ""


class Note(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one language of `rules/notes.toml` has. Words in braces are put in."""

    text: str  # {parts} {id} {gateway}
    part: str  # {name} {type} {size} {why}
    more: str  # {count}
    unnamed: str
    other: str  # why, where `why` does not know the signal
    why: dict[str, str]


def load(shipped: Path, settings: StripSettings, names: Iterable[str]) -> Note:
    """Read the note of the site's language; `names` are those of all signals. Raises ValueError."""
    notes = _read(shipped)
    if settings.notes:
        notes |= _read(Path(settings.notes))
    note = notes.get(settings.language)
    if note is None:
        raise ValueError(
            f"[policy.strip] language: no note in {settings.language!r}; there are {sorted(notes)}"
        )
    where = settings.notes or str(shipped)
    for key, text, known in (
        ("text", note.text, {"parts", "id", "gateway"}),
        ("part", note.part, {"name", "type", "size", "why"}),
        ("more", note.more, {"count"}),
    ):
        if odd := sorted(set(_PLACEHOLDER.findall(text)) - known):
            raise ValueError(f"{where}: [{settings.language}] {key}: no such word: {{{odd[0]}}}")
    if not {"parts", "id"} <= set(_PLACEHOLDER.findall(note.text)):
        raise ValueError(f"{where}: [{settings.language}] text: must have {{parts}} and {{id}}")
    if odd := sorted(set(note.why) - set(names)):
        raise ValueError(f"{where}: [{settings.language}.why] {odd[0]}: no such signal")
    return note


def _read(path: Path) -> dict[str, Note]:
    try:
        return msgspec.convert(tomllib.loads(path.read_text("utf-8")), dict[str, Note])
    except (OSError, ValueError, msgspec.ValidationError) as error:
        raise ValueError(f"{path}: {error}") from error


def may_strip(name: str) -> bool:
    """Whether a signal is about single attachments, so that they can be taken out for it."""
    return name.startswith(_FAMILIES) and name not in _NEVER


# ---------------------------------------------------------------- where


def doubts(content: Content, sights: Sequence[Sight]) -> Iterator[Signal]:
    """Say once why what `sights` show could not be cut out, if it could not."""
    found = [sight for sight in sights if may_strip(sight.signal.name) and sight.signal.state == "hit"]
    if not found:
        return
    if not content.certain:
        why = ", ".join((*content.ambiguities, *content.limits, *content.defects)) or "read in several ways"
        yield Signal(UNSAFE, printable(why, 300))
        return
    for sight in found:
        if _part(content, sight) is None:
            yield Signal(UNSAFE, printable(f"not a part of its own: {sight.signal.text}", 300))
            return


def _part(content: Content, sight: Sight) -> tuple[int, int] | None:
    if not 0 <= sight.attachment < len(content.attachments):
        return None
    return content.attachments[sight.attachment].part


def cut(
    raw: bytes, content: Content, sights: Iterable[Sight], verdict: Verdict, note: Note, gateway: str
) -> Verdict:
    """The verdict with what it takes out, if it strips.

    Raises ValueError where the verdict strips what cannot be cut out: it must not go on uncut.
    """
    if not verdict.stripped:
        return verdict
    wanted = {c.name for c in verdict.contributions if c.decides is Action.STRIP}
    places: dict[tuple[int, int], dict[int, list[str]]] = {}
    for sight in sights:
        if sight.signal.name in wanted and sight.signal.state == "hit":
            part = _part(content, sight)
            if part is None or not content.certain:
                raise ValueError("what is to be stripped cannot be cut out")
            places.setdefault(part, {}).setdefault(sight.attachment, []).append(sight.signal.name)
    if not places:
        raise ValueError("nothing is found that is to be stripped")
    found = []
    for part, shown in sorted(places.items()):
        reasons = [(content.attachments[i], tuple(dict.fromkeys(names))) for i, names in shown.items()]
        text = _note(reasons, note, verdict.id, gateway)
        parts = tuple(_told(one, names) for one, names in reasons[:_NAMES])
        if part == (0, len(raw)):  # the message is the attachment; `fields` changes its header section
            found.append(Cut(content.body_start, len(raw), f"{text}\n", parts))
        else:
            head = "".join(f"{name}: {value}\n" for name, value in _FIELDS)
            found.append(Cut(*part, f"{head}\n{text}", parts))
    return replace(verdict, cuts=tuple(found))


def fields(content: Content, verdict: Verdict) -> Iterator[Edit]:
    """The edits that make a message whose whole body was cut out say what it has now."""
    if not any(one.start == content.body_start for one in verdict.cuts):
        return
    names = [f.name.lower() for f in content.fields if f.name.lower().startswith("content-")]
    for name in dict.fromkeys(names):
        for index in range(names.count(name), 0, -1):
            yield Edit(EditOp.DELETE, name, index=index)
    if not content.all("MIME-Version"):
        yield Edit(EditOp.ADD, "MIME-Version", "1.0")
    for name, value in _FIELDS:
        yield Edit(EditOp.ADD, name, value)


# ---------------------------------------------------------------- the note


def _note(reasons: Sequence[tuple[Attachment, tuple[str, ...]]], note: Note, item: str, gateway: str) -> str:
    """The note about what was in one place, quoted-printable; no line of it starts with two dashes."""
    lines = [_line(one, names, note) for one, names in reasons[:_NAMES]]
    if len(reasons) > _NAMES:
        lines.append(_filled(note.more, count=str(len(reasons) - _NAMES)))
    text = _filled(note.text, parts="\n".join(lines), id=item, gateway=printable(gateway, 255)).strip()
    encoded = binascii.b2a_qp(text.encode("utf-8"), istext=True).decode("ascii")
    return _DASHES.sub("=2D-", encoded)


def _line(attachment: Attachment, names: tuple[str, ...], note: Note) -> str:
    why = dict.fromkeys(note.why.get(name, note.other) for name in names)
    return _filled(
        note.part,
        name=_shown(attachment) or note.unnamed,
        type=printable(attachment.detected_type or attachment.declared_type, 60, ascii_only=True),
        size=_size(attachment.size),
        why=", ".join(why),
    )


def _filled(template: str, **words: str) -> str:
    return _PLACEHOLDER.sub(lambda found: words[found[1]], template)


def _shown(attachment: Attachment) -> str:
    """The name that most clients show, without its path, and so that no client makes a link of it."""
    name = re.split(r"[/\\]", attachment.names[0])[-1] if attachment.names else ""
    return printable(name.replace("@", "_").replace(":", "_").strip(), _NAME)


def _size(octets: int) -> str:
    for unit in ("B", "KB", "MB"):
        if octets < 1_000:
            return f"{octets} {unit}"
        octets = round(octets / 1_000)
    return f"{octets} GB"


def _told(attachment: Attachment, names: tuple[str, ...]) -> str:
    """What was cut out, for the journal."""
    name = printable(attachment.names[0], 150) if attachment.names else "(no name)"
    kind = printable(attachment.detected_type or attachment.declared_type, 100)
    return f"{name}, {kind}, {attachment.size} octets, SHA-256 {attachment.sha256}: {', '.join(names)}"
