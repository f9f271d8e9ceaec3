# SPDX-License-Identifier: GPL-2.0-or-later
"""PDF files: what they start, run or carry, and the words and links that are cheap to have.

Reads hostile bytes; linear. A PDF library would follow the document's own structure, which is
what a hostile one gets wrong on purpose, and decode pages and images, which say nothing here.
Names are unescaped ("/J#61vaScript", ISO 32000-1 §7.3.5), and object streams, where names hide
from a plain search (§7.5.7), are inflated within the budget; so are embedded files (§7.11.4).
"""

from __future__ import annotations

import base64
import re
import zlib
from typing import TYPE_CHECKING

from gateway.scanners.unpack import streams, words
from gateway.scanners.unpack.budget import Broken
from gateway.scanners.unpack.office import Found

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gateway.scanners.unpack.budget import Budget

_STREAM = re.compile(rb"stream\r?\n")
_ESCAPE = re.compile(rb"#([0-9A-Fa-f]{2})")
_FILTER = re.compile(
    rb"/(FlateDecode|Fl|ASCIIHexDecode|AHx|ASCII85Decode|A85|LZWDecode|LZW|Crypt|RunLengthDecode|RL)\b"
)
_FILE_NAME = re.compile(rb"/U?F\s*\(((?:[^()\\]|\\.){0,300})\)")
_DICTIONARY = 4_000  # octets before "stream" in which its dictionary is looked for
_MAX_STREAMS = 20_000
_MAX_PAGE, _MAX_WORDS = 500_000, 1_000_000  # octets of a stream in which words are looked for, and inflated
_TAIL = 4_000  # octets in which the trailer says that a file is encrypted
_NO_PAGE = re.compile(
    rb"/(?:Image|Length[123]|XRef|Metadata|XML|CIDToGIDMap|ObjStm|EmbeddedFile|N \d|FunctionType)\b"
)
_PATTERNS: tuple[tuple[str, re.Pattern[bytes]], ...] = (
    ("pdf-javascript", re.compile(rb"/(?:JavaScript|JS)\b")),
    ("pdf-launch", re.compile(rb"/Launch\b")),
    ("pdf-action", re.compile(rb"/(?:SubmitForm|ImportData|GoToR|GoToE|RichMedia|Rendition)\b")),
    ("pdf-embedded", re.compile(rb"/EmbeddedFiles?\b")),
    ("pdf-encrypted", re.compile(rb"/Encrypt\b")),
    ("pdf-xfa", re.compile(rb"/XFA\b")),
)


def look(data: bytes, budget: Budget, reads: Callable[[], bool] = bool) -> Iterator[Found]:
    """Yield the findings of a PDF file, each kind once, the files embedded in it, and its links.

    `reads` tells whether words are wanted.
    """
    seen: set[str] = set()
    encrypted = b"/Encrypt" in data[-_TAIL:] or b"/Encrypt" in data[:_TAIL]
    outside, position = [], 0
    names = (match[1] for match in _FILE_NAME.finditer(data))
    for count, start in enumerate(_STREAM.finditer(data)):
        if start.start() < position:
            continue
        outside.append(data[position : start.end()])
        end = data.find(b"endstream", start.end())
        end = end if end >= 0 else len(data)
        position = end + len(b"endstream")
        if count > _MAX_STREAMS:
            yield Found("limit", "files")
            break
        if not encrypted and end - start.end() <= _MAX_PAGE and reads():
            yield from _page(data, start, end)
        yield from _stream(data, start, end, names, budget, seen)
    outside.append(data[position:])
    yield from _names(b"".join(outside), seen)
    if "pdf-encrypted" not in seen:
        yield from (Found("link", link) for link in words.of_annotations(b"".join(outside)))


def _stream(
    data: bytes, start: re.Match[bytes], end: int, names: Iterator[bytes], budget: Budget, seen: set[str]
) -> Iterator[Found]:
    dictionary = data[max(0, start.start() - _DICTIONARY) : start.start()]
    dictionary = _unescaped(dictionary[dictionary.rfind(b" obj") + 1 :])
    objects, embedded = b"/ObjStm" in dictionary, b"/EmbeddedFile" in dictionary
    if not objects and not embedded:
        return
    budget.check_time()
    try:
        content = _decoded(data[start.end() : end], dictionary, budget)
    except Broken as error:
        # With encryption nothing here is readable, and that is said already.
        if "pdf-encrypted" not in seen and b"/Encrypt" not in data:
            yield Found("broken", f"PDF stream: {error}")
        return
    if objects:
        yield from _names(content, seen)
        yield from (Found("link", link) for link in words.of_annotations(content))
    else:
        yield Found("", name=next(names, b"").decode("latin-1"), data=content)


def _page(data: bytes, start: re.Match[bytes], end: int) -> Iterator[Found]:
    """Read the words of what may be a page; one that cannot be read has none."""
    dictionary = data[max(0, start.start() - _DICTIONARY) : start.start()]
    dictionary = dictionary[dictionary.rfind(b" obj") + 1 :]
    if _NO_PAGE.search(dictionary):
        return
    plain = data[start.end() : end]
    if b"/Filter" in dictionary:
        if not dictionary.count(b"FlateDecode") == dictionary.count(b"Decode") == 1:
            return
        try:
            plain = zlib.decompressobj().decompress(plain.lstrip(b"\r\n"), _MAX_WORDS)
        except zlib.error:
            return
    text = words.of_page(plain)
    if text:
        yield Found("text", text)


def _decoded(data: bytes, dictionary: bytes, budget: Budget) -> bytes:
    """Take off the filters of a stream, as far as they are harmless to take off."""
    for name in _FILTER.findall(dictionary):
        if name in (b"FlateDecode", b"Fl"):
            data = budget.collect(streams.inflate(data.lstrip(b"\r\n"), 15), len(data))
        elif name in (b"ASCIIHexDecode", b"AHx"):
            digits = re.sub(rb"[^0-9A-Fa-f]", b"", data.split(b">")[0])
            data = bytes.fromhex((digits + b"0" * (len(digits) & 1)).decode())
        elif name in (b"ASCII85Decode", b"A85"):
            try:
                data = base64.a85decode(data.split(b"~>")[0].removeprefix(b"<~"))
            except ValueError as error:
                raise Broken(str(error)) from error
        elif name == b"Crypt":
            continue
        else:
            raise Broken(f"filter {name.decode()} is not understood")
    return data


def _names(data: bytes, seen: set[str]) -> Iterator[Found]:
    text = _unescaped(data)
    for kind, pattern in _PATTERNS:
        if kind not in seen and (found := pattern.search(text)):
            seen.add(kind)
            yield Found(kind, found[0].decode("ascii"))
    if "pdf-open" not in seen and re.search(rb"/(?:OpenAction|AA)\b", text):
        seen.add("pdf-open")
        yield Found("pdf-open", "OpenAction")


def _unescaped(data: bytes) -> bytes:
    return _ESCAPE.sub(lambda m: bytes((int(m[1], 16),)), data) if b"#" in data else data
