# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the parts of a multipart body are (RFC 2046 §5.1), and signs of parts and files elsewhere.

Reads hostile bytes; linear. Works on offsets into one buffer and copies nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

Span = tuple[int, int]

MAX_SNIFFED = 8


@dataclass(frozen=True, slots=True)
class Parts:
    """Where the delimiters of one boundary cut a body.

    `closed` tells that the closing delimiter was found, `odd` that there are lines which some
    clients take for a delimiter and others not, `more` that there were more parts than allowed.
    """

    spans: tuple[Span, ...]
    preamble: Span
    epilogue: Span
    closed: bool
    odd: bool
    more: bool


def cut(raw: bytes, start: int, end: int, boundary: bytes, limit: int, *, prefix: bool = False) -> Parts:
    """Cut `raw[start:end]` at the delimiter lines of `boundary`, into at most `limit` parts.

    With `prefix`, whatever follows the boundary on the line is padding, as RFC 2046 §5.1.1
    allows to read it; without, only white space may follow.
    """
    needle = b"--" + boundary
    length = len(needle)
    spans: list[Span] = []
    preamble: Span = (start, end)
    begin = -1
    odd = closed = more = False
    position = raw.find(needle, start, end)
    while position >= 0:
        after = position + length
        line_end = raw.find(b"\n", after, end)
        if line_end < 0:
            line_end = end
        if position > start and raw[position - 1] != 10:
            # A bare CR ends a line for some.
            odd = odd or raw[position - 1] == 13
            position = raw.find(needle, after, end)
            continue
        rest = raw[after : min(line_end, after + 1_000)]
        closing = rest.startswith(b"--")
        padding = rest[2:] if closing else rest
        if padding.strip(b" \t\r"):
            odd = True
            if not prefix:
                position = raw.find(needle, after, end)
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
        position = raw.find(needle, begin, end)
    epilogue = (end, end)
    if begin >= 0 and closed:
        epilogue = (begin, end)
    elif begin >= 0 and not more:
        spans.append((begin, end))
    return Parts(tuple(spans), preamble, epilogue, closed, odd, more)


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
    b"UEsDB", b"TVqQ", b"TVpQ", b"TVoA", b"JVBERi", b"0M8R4K", b"UmFyIRo", b"N3q8ry", b"H4sIA", b"QlpoO", b"/Td6WFo",
    b"WDVPIVAl", b"TVNDRg", b"e1xydG", b"TAAAAAEUAg", b"eJ8+I",
)  # fmt: skip
_ENCODED_LINES = re.compile(rb"[A-Za-z0-9+/][A-Za-z0-9+/=\s]*+")


def sniff_base64(data: bytes) -> list[Span]:
    """Where base64 of a file starts at a line's start in `data`, though nothing declares it."""
    found: list[Span] = []
    for magic in _ENCODED_MAGIC:
        position = data.find(magic)
        while position >= 0 and len(found) < MAX_SNIFFED:
            if position == 0 or data[position - 1] in b"\r\n \t\"',:;=>":
                match = _ENCODED_LINES.match(data, position)
                if match and match.end() - position > 40:
                    found.append(match.span())
                    position = match.end()
            position = data.find(magic, position + 1)
    return found
