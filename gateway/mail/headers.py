# SPDX-License-Identifier: GPL-2.0-or-later
"""Header sections: fields exactly as received, and hostile text made fit to print.

Reads hostile bytes; no network, no files. Python's `email` package is not used: it re-folds and
re-encodes fields, while signatures (RFC 6376) and edits need the bytes that were received.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

from gateway.mail.types import HeaderField

MAX_FIELDS = 5_000  # fields kept; more is a limit, and of the rest only those of `_NEEDED` are kept
MAX_FIELD = 1_000_000  # octets of one field that are read

# One field: a name of printable ASCII without colon, white space some clients allow before the
# colon, and lines folded with white space (RFC 5322 §2.2, §4.5). Possessive, so that it is linear.
_FIELD = re.compile(rb"([!-9;-~]++)[ \t]*+:[^\n]*+(?:\n[ \t][^\n]*+)*+")
# Behind MAX_FIELDS: what says who wrote and how to read, and what is ours to write, so that it can be
# removed. As many again; a section with more has a limit in any case.
_NEEDED = re.compile(
    rb"^(?:from|sender|reply-to|authentication-results|received-spf|content-[!-9;-~]++"
    rb"|x-(?:spam|virus|quarantine|mailwarden)-[!-9;-~]++)[ \t]*+:[^\n]*+(?:\n[ \t][^\n]*+)*+",
    re.IGNORECASE | re.MULTILINE,
)
_NO_FIELD = re.compile(rb"^(?![!-9;-~]++[ \t]*+:|[ \t])", re.MULTILINE)
# The separator line of an mbox; "From :" is the obsolete form of a field (RFC 5322 §4.5).
_ENVELOPE_LINE = re.compile(rb">?From (?![ \t]*+:)[^\n]*+\n")
# A From field as careless readers find it: behind what is no field, a byte order mark, control
# characters, or a CR alone. The lines of a folded field ("h=from:to") are none.
_LATE_FROM = re.compile(
    rb"(?:\A[^A-Za-z]{0,80}|[\r\n](?:[^A-Za-z \t\r\n][^A-Za-z\r\n]{0,16})?)from[\0-\x20\x7f-\xff]{0,16}:",
    re.IGNORECASE,
)
_BARE_CR_FROM = re.compile(rb"\r(?!\n)[^A-Za-z \t\r\n]{0,16}from[\0-\x20\x7f-\xff]{0,16}:", re.IGNORECASE)
_WHITE_LINE = re.compile(rb"\n[\0-\x09\x0b-\x20\x7f]*+\n")
_FIELD_LINE = re.compile(rb"^(?:[!-9;-~]++[ \t]*+:|[ \t])", re.MULTILINE)
_BLANK_LINES = re.compile(rb"(?:[\0-\x20\x7f]|\xef\xbb\xbf)*+")
_NOTHING_SHOWN = {0x09: " ", 0x0A: " ", 0x0D: " ", 0xA0: " ", 0x3000: " "}


def printable(text: str, limit: int = 200, *, ascii_only: bool = False) -> str:
    """Make hostile text safe for a log line, a header field or a terminal.

    Tabs and line breaks become a space; every other character that is not printable (controls,
    ESC, bidirectional overrides, zero-width characters, U+2028, unpaired surrogates, unassigned
    code points) becomes "?". With `ascii_only`, so does everything outside ASCII, as an `Edit`
    wants it. At most `limit` characters are returned; a cut is shown by "...".
    """
    cut = len(text) > limit
    if cut:
        text = text[: max(0, limit - 3)]
    if not text.isprintable():
        text = text.translate(_NOTHING_SHOWN)
        if not text.isprintable():
            text = "".join(c if c.isprintable() else "?" for c in text)
    if ascii_only and not text.isascii():
        text = text.encode("ascii", "replace").decode("ascii")
    return text + "..."[:limit] if cut else text


@dataclass(frozen=True, slots=True)
class HeaderSection:
    """Where the fields of a message are. Offsets count from the start of the bytes given.

    `start` is where the first field begins: behind an mbox "From " line, if there is one.
    `end` is where the fields end and `body_start` where the body begins: behind the empty line,
    or, where there is none, at the first line that is no header field, as Postfix has it.
    """

    fields: tuple[HeaderField, ...]
    spans: tuple[tuple[int, int], ...]  # of each field, its line end included
    start: int
    end: int
    body_start: int
    empty_line: bool  # an empty line ends the section
    truncated: bool = False  # more than MAX_FIELDS fields, or one longer than MAX_FIELD


def split(raw: bytes, start: int = 0, stop: int | None = None) -> HeaderSection:
    """Split `raw[start:stop]` into header fields and body. Linear, never raises.

    Lines end with CRLF or LF. A field's `raw` is as received, folding and all, without its
    final line end.
    """
    stop = len(raw) if stop is None else stop
    envelope = _ENVELOPE_LINE.match(raw, start, stop)
    position = first = envelope.end() if envelope else start
    fields: list[HeaderField] = []
    spans: list[tuple[int, int]] = []
    longest = 0
    match = _FIELD.match
    while (found := match(raw, position, stop)) and len(fields) < MAX_FIELDS:
        end = found.end()
        after = end + 1 if end < stop else end
        if after != end and raw[end - 1] == 13:
            end -= 1
        fields.append(HeaderField(found[1].decode("ascii"), raw[position : min(end, position + MAX_FIELD)]))
        spans.append((position, after))
        longest = max(longest, end - position)
        position = after
    if found is not None:
        position = _needed(raw, position, stop, fields, spans)
    body, empty = position, False
    if raw.startswith(b"\r\n", position, stop):
        body, empty = position + 2, True
    elif raw.startswith(b"\n", position, stop):
        body, empty = position + 1, True
    return HeaderSection(
        fields=tuple(fields),
        spans=tuple(spans),
        start=first,
        end=position,
        body_start=body,
        empty_line=empty,
        truncated=found is not None or longest > MAX_FIELD,
    )


def hides_from(raw: bytes, section: HeaderSection) -> bool:
    """Whether some readers find a From field that is none of `section.fields`.

    They go on to the next empty line where the section ends without one, pass over empty lines in front
    of all fields, and take a CR alone for the end of a line. What is longer than a field may be is not
    looked at, and is as if it had one if it ends.
    """
    head = raw[section.start : section.end]
    if b"\r" in head and _BARE_CR_FROM.search(head):
        return True
    if section.empty_line and section.fields:
        return False
    start = section.end if section.fields else _BLANK_LINES.match(raw, section.end).end()  # type: ignore[union-attr]  # matches everywhere
    ends = [end for end in (raw.find(b"\n\r\n", start), raw.find(b"\n\n", start)) if end >= 0]
    rest = raw[start : min(ends, default=len(raw))]
    if len(rest) > MAX_FIELD:
        return bool(ends)
    if not _LATE_FROM.search(rest.replace(b"\0", b"")):
        return False
    if ends or _WHITE_LINE.search(rest):
        return True
    # Without an empty line all is header to them, and nothing is shown; text may quote "from : somebody".
    lines = rest.rstrip().count(b"\n") + 1
    return b"from:" in rest.lower() and len(_FIELD_LINE.findall(rest)) >= lines - 1


def _needed(
    raw: bytes, start: int, stop: int, fields: list[HeaderField], spans: list[tuple[int, int]]
) -> int:
    """Add the fields of `_NEEDED` behind the last one that is kept; returns where the section ends."""
    past = _NO_FIELD.search(raw, start, stop)
    last = past.start() if past else stop
    for found in itertools.islice(_NEEDED.finditer(raw, start, last), MAX_FIELDS):
        first, end = found.span()
        after = min(end + 1, stop)
        name = raw[first : raw.index(b":", first)].rstrip(b" \t").decode("ascii")
        fields.append(HeaderField(name, raw[first : min(end, first + MAX_FIELD)].removesuffix(b"\r")))
        spans.append((first, after))
    return last
