# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the parts of a multipart body are (RFC 2046 §5.1), and signs of parts and files elsewhere.

Reads hostile bytes; linear. Works on offsets into one buffer and copies nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

Span = tuple[int, int]

MAX_SNIFFED = 8
_CONTROLS = bytes(range(33))
_BREAK = re.compile(rb"[\r\n]")
_LOOKED_AT = 500  # lines on which a hidden delimiter is looked for


@dataclass(frozen=True, slots=True)
class Parts:
    """Where the delimiters of one boundary cut a body.

    `closed` tells that the closing delimiter was found, `odd` that there are lines which some
    clients take for a delimiter and others not, `field` that one of these goes on with a content
    field, and `more` that there were more parts than allowed.
    """

    spans: tuple[Span, ...]
    preamble: Span
    epilogue: Span
    closed: bool
    odd: bool
    field: bool
    more: bool


def cut(raw: bytes, start: int, end: int, boundary: bytes, limit: int, *, lenient: bool = False) -> Parts:
    """Cut `raw[start:end]` at the delimiter lines of `boundary`, into at most `limit` parts.

    Before a boundary stands nothing on the line, and behind it only white space. Where `lenient`,
    controls, spaces and a bare CR may stand before it, and anything behind it (RFC 2046 §5.1.1
    can be read so).
    """
    spans: list[Span] = []
    preamble: Span = (start, end)
    begin = -1
    odd = field = closed = more = False
    for position, after in _delimiters(raw, start, end, b"--" + boundary):
        if position < begin:
            continue
        if position > start and raw[position - 1] != 10:
            odd = True
            if not lenient:
                continue
        line_end = raw.find(b"\n", after, end)
        if line_end < 0:
            line_end = end
        rest = raw[after : min(line_end, after + 1_000)]
        closing = rest.startswith(b"--")
        padding = rest[2:] if closing else rest
        if padding not in (b"\r", b""):
            odd = True  # white space by RFC 2046 §5.1.1, but to ClamAV no delimiter in any case
        if padding.strip(b" \t\r"):
            odd = True
            field = field or b"ontent-" in padding[:60].lower()
            if not lenient:
                continue
        stop = _before_line_end(raw, start, position)
        if begin < 0:
            preamble = (start, stop)
        else:
            spans.append((begin, max(begin, stop)))
        begin = min(line_end + 1, end)
        if closing:
            closed = True
            break
        if len(spans) >= limit:
            more = True
            break
    epilogue = (end, end)
    if begin >= 0 and closed:
        epilogue = (begin, end)
    elif begin >= 0 and not more:
        spans.append((begin, end))
    return Parts(tuple(spans), preamble, epilogue, closed, odd, field, more)


def _delimiters(raw: bytes, start: int, end: int, needle: bytes) -> Iterator[Span]:
    """Where a line starts with `needle`, for some reader or for all, and where the needle ends.

    Places within a line are passed over; where there are many, only line feeds are gone by.
    """
    missed = 0
    position = _find(raw, needle, start, end)
    while position >= 0:
        after = position + len(needle)
        if _starts_line(raw, start, position):
            yield position, after
        else:
            missed += 1
            if missed > _LOOKED_AT:
                break
            line_break = _BREAK.search(raw, after, end)
            after = line_break.start() if line_break else end
        position = _find(raw, needle, after, end)
    while position >= 0:
        position = raw.find(b"\n" + needle, position, end)
        if position >= 0:
            position += 1 + len(needle)
            yield position - len(needle), position


def _find(raw: bytes, needle: bytes, start: int, end: int) -> int:
    """Find a needle that starts with "-": one octet is found many times faster, and base64 has none."""
    dash = raw.find(b"-", start, end)
    return raw.find(needle, dash, end) if dash >= 0 else -1


def _starts_line(raw: bytes, start: int, position: int) -> bool:
    """Whether only controls and spaces stand before `position` since a line break, bare CR included."""
    if position == start or raw[position - 1] in b"\r\n":
        return True
    if raw[position - 1] > 32:
        return False
    lead = raw[max(start, position - 40) : position]
    return not lead[lead.rfind(b"\n") + 1 :].rpartition(b"\r")[2].strip(_CONTROLS)


def _before_line_end(raw: bytes, start: int, position: int) -> int:
    if position > start and raw[position - 1] == 10:
        position -= 1
        if position > start and raw[position - 1] == 13:
            position -= 1
    return position


# A delimiter is a line with "--" that a header field follows.
_DELIMITER = re.compile(
    rb"--([^\r\n]{1,250}+)(?:\r?\n|\r)[\x00-\x20:]*+(?:content|mime|x-)[!-9;-~]{2,60}+[ \t]*+:", re.IGNORECASE
)


def sniff_boundaries(raw: bytes, start: int, end: int) -> list[bytes]:
    """Boundaries that the body itself shows, whatever its header says; at most MAX_SNIFFED."""
    found: dict[bytes, None] = {}
    position = raw.find(b"--", start, end)
    while position >= 0:
        if position == start or raw[position - 1] in b"\r\n":
            match = _DELIMITER.match(raw, position, end)
            if match:
                found.setdefault(match[1].strip(b" \t"))
                if len(found) >= MAX_SNIFFED:
                    break
        line_end = raw.find(b"\n", position, end)
        if line_end < 0:
            break
        position = raw.find(b"--", line_end, end)
    return list(found)


# The base64 of what archives, programs and documents start with.
_ENCODED_MAGIC = (
    b"UEsD", b"TVqQ", b"TVpQ", b"TVoA", b"JVBE", b"0M8R", b"UmFy", b"N3q8", b"H4sI", b"Qlpo", b"/Td6",
    b"WDVP", b"TVND", b"e1xy", b"TAAA", b"eJ8+", b"f0VM",
)  # fmt: skip
_ENCODED_LINES = re.compile(rb"[A-Za-z0-9+/][A-Za-z0-9+/=\s]*+")


def sniff_base64(data: bytes, most: int = MAX_SNIFFED) -> list[Span]:
    """Where base64 of a file starts a line in `data`, though nothing declares it; at most `most` places."""
    found: list[Span] = []
    for magic in _ENCODED_MAGIC:
        position = data.find(magic)
        while position >= 0 and len(found) < most:
            if position == 0 or data[position - 1] in b"\r\n \t\"',:;=>":
                match = _ENCODED_LINES.match(data, position)
                if match and match.end() - position > 40:
                    found.append(match.span())
                    position = match.end()
            position = data.find(magic, position + 1)
    return found


# What archives, programs and documents start with, quoted-printable.
_QUOTED_MAGIC = (
    b"PK=03=04",
    b"=50=4B=03=04",
    b"=50=4b=03=04",
    b"MZ=90",
    b"=4D=5A=90",
    b"=D0=CF=11=E0",
    b"=58=35=4F=21",
)


def sniff_quoted(data: bytes) -> list[int]:
    """Where quoted-printable of a file starts in `data`, though nothing declares it."""
    if b"=" not in data:
        return []
    return [at for at in (data.find(magic) for magic in _QUOTED_MAGIC) if at >= 0]
