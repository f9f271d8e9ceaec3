# SPDX-License-Identifier: GPL-2.0-or-later
"""Edits and cuts applied to a message: the only place where bytes of ours are written into one.

Reads hostile bytes (the message) and edits of our own, whose names and values `Edit` has
checked: no CR, no NUL, no line break but a folded one, so nothing can be injected here. A cut puts
a text of ours in place of a stretch of the body.

The result is what Postfix makes of the same edits sent by a milter, so both doors agree:

- REPLACE and DELETE name the fields by their place in the message as it was received; no edit
  shifts what another one counts. A field that is not there cannot be deleted; replacing it adds
  the new one at the end of the header section, as Postfix does.
- Each INSERT goes to the very top, in the order given: the last one inserted stands topmost.
- ADD goes to the end of the header section, in the order given.
- Where a line that is no field ends the header section, an empty line is put in front of it: a
  folded line would else continue a field of ours, and further lines be fields to some readers.
- The "From " line of an mbox becomes X-Mailbox-Line: below a field of ours it would end the section.

Everything else stays byte for byte as it was received.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gateway.mail.headers import split
from gateway.mail.types import Edit, EditOp

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.mail.types import Cut

# A header section with fields alone, and an empty line behind it, as `split` would find it.
# With (?>...*): before Python 3.11.5 what follows (?:...)*+ may begin in an attempt that failed (gh-106052).
_ORDINARY = re.compile(rb"(?>(?:[!-9;-~]++[ \t]*+:[^\n]*+(?>(?:\n[ \t][^\n]*+)*)\n)*)\r?+\n")


def field_bytes(edit: Edit) -> bytes:
    """The field that `edit` writes: name, colon, space, value, CRLF; folded lines end with CRLF."""
    value = edit.value.replace("\n", "\r\n")
    return f"{edit.name}: {value}\r\n".encode("ascii")


def ordered(edits: Iterable[Edit]) -> tuple[Edit, ...]:
    """The order in which a milter must send `edits` so that their counts stay those of the original.

    Replacements first, then deletions from the highest index down, then additions, then
    insertions in the order given: an MTA applies each edit at once, so a deletion would move
    the fields behind it, and an insertion all fields of its name.
    """
    edits = tuple(edits)
    replaced = [e for e in edits if e.op is EditOp.REPLACE]
    deleted = sorted((e for e in edits if e.op is EditOp.DELETE), key=lambda e: -e.index)
    added = [e for e in edits if e.op is EditOp.ADD]
    inserted = [e for e in edits if e.op is EditOp.INSERT]
    return (*replaced, *deleted, *added, *inserted)


def remainder(raw: bytes, start: int, cuts: Iterable[Cut]) -> bytes:
    """What stands from `start` on, with `cuts` made. Raises ValueError if one is not within, or overlaps."""
    pieces: list[bytes] = []
    for cut in sorted(cuts, key=lambda c: c.start):
        if cut.start < start or cut.end > len(raw):
            raise ValueError("a cut outside of the body, or in another one")
        pieces += (raw[start : cut.start], cut.text.replace("\n", "\r\n").encode("ascii"))
        start = cut.end
    return b"".join((*pieces, raw[start:]))


def apply(raw: bytes, edits: tuple[Edit, ...], cuts: tuple[Cut, ...] = ()) -> bytes:
    """The message `raw` with `edits` and `cuts` applied, see the module's own words.

    Raises ValueError for cuts that are not within the body, or overlap; nothing else.
    """
    if not (edits or cuts) and _ORDINARY.match(raw):
        return raw
    section = split(raw)
    unended = not section.empty_line and section.end < len(raw)
    if not (edits or cuts or unended or section.start):
        return raw
    places: dict[tuple[str, int], int] = {}
    counts: dict[str, int] = {}
    for position, field in enumerate(section.fields):
        name = field.name.lower()
        counts[name] = counts.get(name, 0) + 1
        places[name, counts[name]] = position
    changed: dict[int, bytes] = {}
    top: list[bytes] = []
    end: list[bytes] = []
    for edit in ordered(edits):
        place = places.get((edit.name.lower(), edit.index))
        if edit.op is EditOp.INSERT:
            top.insert(0, field_bytes(edit))
        elif edit.op is EditOp.ADD or (edit.op is EditOp.REPLACE and place is None):
            end.append(field_bytes(edit))
        elif place is not None:
            changed[place] = b"" if edit.op is EditOp.DELETE else field_bytes(edit)
    pieces = [*top, b"X-Mailbox-Line: " if section.start else b"", raw[: section.start]]
    position = section.start
    for place in sorted(changed):
        first, after = section.spans[place]
        pieces += (raw[position:first], changed[place])
        position = after
    pieces.append(raw[position : section.end])
    if end and section.end and raw[section.end - 1] != 10:
        pieces.append(b"\r\n")  # the message ended inside its last field
    pieces += end
    if unended:
        pieces.append(b"\r\n")
    pieces.append(remainder(raw, section.end, cuts) if cuts else raw[section.end :])
    return b"".join(pieces)
