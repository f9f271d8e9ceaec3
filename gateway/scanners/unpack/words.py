# SPDX-License-Identifier: GPL-2.0-or-later
"""The words of documents: text and links of Office files and PDF, as far as they are cheap to have.

Reads hostile bytes in the child, each function linear and bounded in what it takes and gives. XML is
no tree here: tags are taken out, five entities and numbers are read, and a document type is nothing.
Of PDF the strings between BT and ET that are written in the letters they show (ISO 32000-1 §9.4.3) are
taken; fonts that number their glyphs in their own way would need their tables, and are left out, and
so is what is encrypted. Word's older format is left out: its text is in pieces by a table that lies.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_MARKUP = 1_000_000  # octets of one part that are read
MAX_LINK = 1_000

# The parts in which the text of a document stands: Word's, Excel's, PowerPoint's, and ODF's.
_TEXT_PART = re.compile(
    r"word/(?:document\d*|footnotes|endnotes|comments|header\d*|footer\d*|glossary/document)\.xml\Z"
    r"|xl/(?:sharedstrings|comments\d*)\.xml\Z"
    r"|ppt/(?:slides|notesslides)/[^/]+\.xml\Z|content\.xml\Z"
)
_BREAK = re.compile(
    r"</(?:[a-z]{1,10}:)?(?:p|h|si|is|tr)>|<(?:[a-z]{1,10}:)?(?:br|tab|line-break|cr)\b[^>]{0,200}>",
    re.IGNORECASE,
)
_TAG = re.compile(r"<!DOCTYPE[^>\[]{0,200}+\[[^\]]{0,500}+\]\s{0,9}+>|<[^>]*+(?:>|\Z)")
_ENTITY = re.compile(r"&(?:(amp|lt|gt|quot|apos)|#(\d{1,7})|#x([0-9A-Fa-f]{1,6}));")
_NAMED = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}
_HREF = re.compile(r"xlink:href\s*=\s*[\"']((?:https?|ftp):[^\"'<>\s]{1,1000})[\"']", re.IGNORECASE)

_OPERATOR = re.compile(
    rb"\(((?:[^()\\]|\\.|\((?:[^()\\]|\\.)*+\))*+)\)"  # a string, with brackets in pairs
    rb"|(\bTJ\b|\bTj\b|['\"])|(\bT[*dDm](?![A-Za-z])|\bET\b)|(-\d{3,5})",
    re.DOTALL,
)
_ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|(\r\n|.))", re.DOTALL)
_ESCAPED = {b"n": b" ", b"r": b" ", b"t": b" ", b"b": b"", b"f": b"", b"\n": b"", b"\r": b"", b"\r\n": b""}
_URI = re.compile(rb"/URI\s*+\(((?:[^()\\]|\\.|\((?:[^()\\]|\\.)*+\)){1,1000}+)\)", re.DOTALL)


def is_text(name: str) -> bool:
    """Whether the part of an OOXML or ODF document has its words."""
    return bool(_TEXT_PART.match(name))


def of_markup(data: bytes) -> str:
    """The words of a part."""
    text = _decoded(data)
    return _tidy(_entities(_TAG.sub("", _BREAK.sub("\n", text))))


def links(data: bytes) -> Iterator[str]:
    """The links that stand in an ODF document itself."""
    for found in _HREF.finditer(_decoded(data)):
        yield _entities(found[1])


def target(value: bytes) -> str:
    """A link as it stands in an attribute, "" if it goes nowhere outside."""
    text = _entities(value.decode("utf-8", "replace"))[:MAX_LINK].strip()
    return text if re.match(r"(?:https?|ftp|mailto|javascript|data):|www\.|//", text, re.IGNORECASE) else ""


def of_page(data: bytes) -> str:
    """The words that a content stream of a PDF shows, "" if it has none in plain letters."""
    if b"BT" not in data or b"T" not in data[data.find(b"BT") + 2 :]:
        return ""
    pieces: list[bytes] = []
    for found in _OPERATOR.finditer(data[:MAX_MARKUP]):
        if found[1] is not None:
            pieces.append(_string(found[1]))
        elif found[3]:
            pieces.append(b"\n")
        elif found[4] and pieces and int(found[4]) < -180:  # a gap as wide as a space
            pieces.append(b" ")
    text = _tidy(b"".join(pieces).decode("cp1252", "replace"))
    letters = sum(map(str.isalpha, text[:2_000]))
    readable = sum(c.isalnum() or c in " \n.,;:!?'\"()-/@%&$" for c in text[:2_000])
    return text if letters > 3 and readable * 10 > 8 * len(text[:2_000]) else ""


def of_annotations(data: bytes) -> Iterator[str]:
    """The links of a PDF (ISO 32000-1 §12.6.4.7)."""
    for found in _URI.finditer(data):
        link = target(_string(found[1]))
        if link:
            yield link


def _decoded(data: bytes) -> str:
    data = data[:MAX_MARKUP]
    wide = data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data[:4]
    return data.decode("utf-16" if wide else "utf-8", "replace")


def _entities(text: str) -> str:
    return _ENTITY.sub(_character, text) if "&" in text else text


def _character(found: re.Match[str]) -> str:
    if found[1]:
        return _NAMED[found[1]]
    number = int(found[2]) if found[2] else int(found[3], 16)
    return chr(number) if number < 0x110000 and not 0xD800 <= number < 0xE000 else "\ufffd"


def _string(data: bytes) -> bytes:
    if b"\\" not in data:
        return data
    return _ESCAPE.sub(lambda m: bytes((int(m[1], 8) & 255,)) if m[1] else _ESCAPED.get(m[2], m[2]), data)


def _tidy(text: str) -> str:
    text = text.replace("\0", "")
    lines = (" ".join(line.split()) for line in text.split("\n"))
    return "\n".join(line for line in lines if line)
