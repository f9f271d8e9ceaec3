# SPDX-License-Identifier: GPL-2.0-or-later
"""Content transfer encodings (RFC 2045 §6): one decoding where all agree, all of them where not.

Reads hostile bytes; every decoding is linear. `canonical` is the cheap path of ordinary mail: it
answers only where every decoder gives the same octets. `readings` gives what decoders known to be
in use make of the rest: stop or go on at padding, skip or stop at junk, decode line by line.
"""

from __future__ import annotations

import binascii
import re

from gateway.mail.charsets import lenient_base64
from gateway.mail.containers import uudecode

IDENTITY = frozenset(("7bit", "8bit", "binary"))
KNOWN = IDENTITY | {"base64", "quoted-printable"}
UUENCODE = frozenset(("x-uuencode", "x-uue", "x-uu", "uuencode", "uue"))

_BAD_ESCAPE = re.compile(rb"=(?![0-9A-Fa-f]{2}|\r?\n|\Z)")
_PADDED_BREAK = re.compile(rb"=[ \t]++(?=\r?\n|\Z)")
_TRAILING_SPACE = re.compile(rb"(?<![ \t\n=])[ \t]++(?=\r?\n)")
_LOWER_ESCAPE = re.compile(rb"=(?:[0-9A-F][a-f]|[a-f][0-9A-Fa-f])")
_NOT_ALLOWED = bytes(sorted(set(range(256)) - set(b"\t\r\n") - set(range(32, 127))))
_BASE64_CHARS = bytes(sorted(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"))
_NOT_BASE64 = bytes(c for c in range(256) if c not in _BASE64_CHARS)
_NOT_BASE64_NOR_PAD = _NOT_BASE64.replace(b"=", b"")
_FIRST_JUNK = re.compile(rb"[^A-Za-z0-9+/=\s]")
_PADDING = re.compile(rb"=+")
_EMPTY_LINE = re.compile(rb"\n[ \t]*\r?\n")
_WHOLE_LINE = re.compile(rb"[A-Za-z0-9+/]*+={0,2}\Z")
_UU_JUNK = re.compile(rb"\n(?!end[ \t]*\r?$|[`\r\n])[ \t]*+(?:[^ -`]|[ -`]*+[^ -`\r\n])", re.MULTILINE)
_PIECE = 262_144  # octets decoded at a time, where nobody else gets a turn
_MANY_READINGS, _MANY_QUOTED = 2_000_000, 1_000_000  # octets; larger data get only the commonest readings


def canonical(raw: bytes, start: int, end: int, encoding: str) -> bytes | None:
    """Decode `raw[start:end]` if all decoders agree on it; None if they may not."""
    if encoding == "base64":
        return _canonical_base64(raw, start, end)
    data = raw[start:end]
    if encoding == "quoted-printable":
        if _BAD_ESCAPE.search(data) or _PADDED_BREAK.search(data) or b"\0" in data:
            return None
        return binascii.a2b_qp(data)
    return data if encoding in IDENTITY else None


def _canonical_base64(raw: bytes, start: int, end: int) -> bytes | None:
    """Decode without a copy of what may be the largest part of a message."""
    if end - start > 2 * _PIECE and (pieces := _in_pieces(raw, start, end)) is not None:
        return pieces
    try:
        decoded = binascii.a2b_base64(memoryview(raw)[start:end])
    except ValueError:
        return None
    # Nothing was skipped, and nothing stands behind the padding, if the count of characters fits.
    breaks = raw.count(b"\n", start, end) + raw.count(b"\r", start, end)
    if end - start - breaks == (len(decoded) + 2) // 3 * 4:
        return decoded
    stripped = raw[start:end].translate(None, b" \t\r\n")
    if len(stripped) == (len(decoded) + 2) // 3 * 4:
        return decoded
    return None


def _in_pieces(raw: bytes, start: int, end: int) -> bytes | None:
    """Decode line by line, many at a time, so that other threads have their turn; None if that may differ.

    It does not where each piece is whole groups of four characters and line breaks alone.
    """
    view, found = memoryview(raw), []
    while start < end:
        cut = raw.rfind(b"\n", start, min(start + _PIECE, end)) + 1 if end - start > _PIECE else end
        if cut <= start:
            return None
        try:
            decoded = binascii.a2b_base64(view[start:cut])
        except ValueError:
            return None
        characters = cut - start - raw.count(b"\n", start, cut) - raw.count(b"\r", start, cut)
        whole = len(decoded) * 4 if cut < end else (len(decoded) + 2) // 3 * 12
        if characters * 3 != whole:
            return None
        found.append(decoded)
        start = cut
    return b"".join(found)


def base64_like(head: bytes) -> bool:
    """Whether most of `head`, which has no line breaks, may be base64."""
    return len(head.translate(None, _NOT_BASE64_NOR_PAD)) * 4 >= len(head) * 3


def unread(data: bytes, encoding: str) -> bool:
    """Whether `data` is too large for all its `readings`."""
    return len(data) > (_MANY_QUOTED if encoding == "quoted-printable" else _MANY_READINGS)


def cut_short(data: bytes, others: list[bytes]) -> bool:
    """Whether decoders differ on the last octet or two alone: base64 that ends within four characters."""
    return all(abs(len(o) - len(data)) <= 2 and (o.startswith(data) or data.startswith(o)) for o in others)


def readings(data: bytes, encoding: str) -> list[bytes]:
    """What decoders make of `data`, the commonest first, without doubles. Never empty."""
    if encoding == "base64":
        found = _base64_readings(data)
    elif encoding == "quoted-printable":
        found = _quoted_printable_readings(data)
    elif encoding in UUENCODE:
        found = [content for _, content in uudecode(data)] or uudecode_bare(data)
        if _UU_JUNK.search(data):
            found.append(data)  # then a decoder may skip a line, or stop at it
    else:
        found = [data]
    return list(dict.fromkeys(found)) or [data]


def uudecode_bare(data: bytes) -> list[bytes]:
    """Decode uuencoded lines that have no begin line."""
    return [content for _, content in uudecode(b"begin 644 -\n" + data.strip() + b"\nend\n") if content]


def _base64_readings(data: bytes) -> list[bytes]:
    found = [lenient_base64(data)]
    padded = data.translate(None, _NOT_BASE64_NOR_PAD)
    found.append(lenient_base64(padded.replace(b"=", b"")))  # padding is junk
    if unread(data, "base64"):
        return found
    chunks = _PADDING.split(padded)
    found.append(b"".join(lenient_base64(c) for c in chunks if c))  # each chunk by itself
    found += (lenient_base64(c) for c in chunks[1:4] if len(c) > 8)  # only what follows padding
    junk = _FIRST_JUNK.search(data)
    if junk:
        found.append(lenient_base64(data[: junk.start()]))
        if b"-" in data or b"_" in data:
            safe = data.replace(b"-", b"+").replace(b"_", b"/")
            found.append(lenient_base64(safe.translate(None, _NOT_BASE64)))
    lines = data.split(b"\n")
    whole = [line.strip() for line in lines]
    found.append(b"".join(lenient_base64(line) for line in whole if line))  # line by line
    found.append(lenient_base64(b"".join(line for line in whole if _WHOLE_LINE.match(line))))
    found.append(lenient_base64(b"".join(line[: len(line) & ~3] for line in whole)))
    empty = _EMPTY_LINE.search(data)
    if empty:
        found += (lenient_base64(data[empty.end() :]), lenient_base64(data[: empty.start()]))
    return found


def _quoted_printable_readings(data: bytes) -> list[bytes]:
    if unread(data, "quoted-printable"):
        return [binascii.a2b_qp(data)]
    joined = _PADDED_BREAK.sub(b"=", data)
    found = [binascii.a2b_qp(joined), binascii.a2b_qp(data)]
    allowed = joined.translate(None, _NOT_ALLOWED)
    if len(allowed) < len(joined):
        found.append(binascii.a2b_qp(allowed))  # a robust decoder may leave them out (RFC 2045 §6.7)
    if _BAD_ESCAPE.search(joined):
        found.append(binascii.a2b_qp(_BAD_ESCAPE.sub(b"", joined)))
        found.append(binascii.a2b_qp(re.sub(rb"=(?![0-9A-Fa-f]{2}|\r?\n)[^\r\n]?", b"", joined)))
        found.append(binascii.a2b_qp(re.sub(rb"=(?![0-9A-Fa-f]{2}|\r?\n)[^\r\n]{0,2}", b"", joined)))
    if _LOWER_ESCAPE.search(joined):
        found.append(binascii.a2b_qp(_LOWER_ESCAPE.sub(b"", joined)))  # RFC 2045 §6.7 (1): upper case only
    if _TRAILING_SPACE.search(joined):
        found.append(binascii.a2b_qp(_TRAILING_SPACE.sub(b"", joined)))  # RFC 2045 §6.7 (3)
    return found
