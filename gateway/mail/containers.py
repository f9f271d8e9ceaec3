# SPDX-License-Identifier: GPL-2.0-or-later
"""Files inside other bytes: uuencode, yEnc, BinHex 4.0, those of the Macintosh.

Reads hostile bytes; linear, with a bound on files, and never an exception. Each function returns
the (name, content) pairs it finds. These formats have no declared place in MIME: clients find
them in text by their first line, and so does this.
"""

from __future__ import annotations

import binascii
import re
import struct

MAX_FILES = 100  # of one piece of text; its reader says that a bound was hit
MAX_BEGINS = 1_000  # lines that may begin a uuencoded file
MAX_EXPANDED = 50_000_000  # octets that BinHex run lengths may expand to

_BEGIN = re.compile(
    rb"(?:^|(?<=\n))(?:begin(-base64)?[ \t]+[0-7]{3,4}[ \t]+([^\r\n]{1,400})\r?\n"
    # Some readers want no mode, or no name, and skip spaces; then a line of the code must follow.
    rb"|[ \t]{0,8}(?i:begin)(?:[ \t]++[0-9]{1,6}(?![^\s]))?+[ \t]*+([^\r\n]{0,400})\r?\n"
    rb"(?=([!-`][ -`]{4,86})[ \t]*\r?\n))"
)
_END = re.compile(rb"(?:^|(?<=\n))(?:end|====)[ \t]*(?:\r?\n|\Z)")
_YBEGIN = re.compile(
    rb"(?:^|(?<=\n))=ybegin (?:[^\r\n]{0,200}?name=([^\r\n]{0,400})|[^\r\n]{0,400})\r?\n"
    rb"(?:=ypart [^\r\n]*\r?\n)?"
)
_YEND = re.compile(rb"(?:^|(?<=\n))=yend\b")
_YENC = bytes((c - 42) & 255 for c in range(256))
_YENC_ESCAPED = [bytes(((c - 64) & 255,)) for c in range(256)]
_HQX = re.compile(rb"\(This file must be converted with BinHex[^\n]{0,40}\n\s*:([^:]*+):?")
_HQX_CHARS = b"!\"#$%&'()*+,-012345689@ABCDEFGHIJKLMNPQRSTUVXYZ[`abcdefhijklmpqr"
_BASE64_CHARS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_TO_BASE64 = bytes.maketrans(_HQX_CHARS, _BASE64_CHARS)
_NOT_HQX = bytes(c for c in range(256) if c not in _HQX_CHARS)

Files = list[tuple[bytes, bytes]]


def uudecode(data: bytes) -> Files:
    """Files between "begin MODE NAME" and "end", uuencoded or in base64 (POSIX)."""
    files: Files = []
    position = 0
    while len(files) < MAX_FILES and (begin := _BEGIN.search(data, position)):
        position = begin.end()
        if begin[4] and not 0 <= len(begin[4]) - 1 - ((begin[4][0] - 32 & 63) + 2) // 3 * 4 <= 2:
            continue  # the length that starts the line is another one: just the word "begin"
        end = _END.search(data, position)
        stop = end.start() if end else len(data)
        body = data[position:stop]
        name = (begin[2] or begin[3] or b"").strip()
        if begin[1]:
            try:
                files.append((name, binascii.a2b_base64(body)))
            except ValueError:
                files.append((name, body))
        else:
            files.append((name, _uu_lines(body)))
        position = end.end() if end else len(data)
    return files


def _uu_lines(body: bytes) -> bytes:
    pieces = []
    for line in body.split(b"\n"):
        text = line.rstrip(b"\r")
        if not text:
            continue
        length = (text[0] - 32) & 63  # of 0 the last line has; some go on behind it
        text = text[: 1 + (length + 2) // 3 * 4]
        try:
            pieces.append(binascii.a2b_uu(text))
        except ValueError:
            continue  # junk between the lines, as decoders skip it
    return b"".join(pieces)


def yenc(data: bytes) -> Files:
    """Files between "=ybegin" and "=yend"."""
    files: Files = []
    position = 0
    while len(files) < MAX_FILES and (begin := _YBEGIN.search(data, position)):
        end = _YEND.search(data, begin.end())
        stop = end.start() if end else len(data)
        first, *rest = data[begin.end() : stop].translate(None, b"\r\n").split(b"=")
        shifted = [_YENC_ESCAPED[piece[0]] + piece[1:] for piece in rest if piece]
        files.append(((begin[1] or b"").strip(), b"".join((first, *shifted)).translate(_YENC)))
        position = stop + 1
    return files


def binhex(data: bytes) -> Files:
    """The data fork of a BinHex 4.0 file (RFC 1741)."""
    found = _HQX.search(data)
    if found is None:
        return []
    text = found[1].translate(_TO_BASE64, _NOT_HQX)
    text = text[: len(text) & ~3]
    runs = binascii.a2b_base64(text).split(b"\x90")
    size = len(runs[0])
    out = [runs[0]]
    last = runs[0][-1:]
    for run in runs[1:]:
        count = run[0] if run else 0
        piece = last * (count - 1) if count else b"\x90"
        rest = run[1:]
        size += len(piece) + len(rest)
        if size > MAX_EXPANDED:
            break
        out += (piece, rest)
        last = rest[-1:] or (last if count else b"\x90")
    plain = b"".join(out)
    if not plain or len(plain) < plain[0] + 22:
        return []
    name_length = plain[0]
    (length,) = struct.unpack_from(">I", plain, name_length + 12)
    start = name_length + 22
    return [(plain[1 : 1 + name_length], plain[start : start + length])]


_APPLE_SINGLE = b"\x00\x05\x16\x00"
_DATA_FORK = 1
_MAX_ENTRIES = 100
_MAC_HEAD = 128


def apple(data: bytes) -> Files:
    """The data fork of a file in AppleSingle (RFC 1740), which Apple's clients take out."""
    if not data.startswith(_APPLE_SINGLE) or len(data) < 26:
        return []
    (count,) = struct.unpack_from(">H", data, 24)
    entries = (data[at : at + 12] for at in range(26, 26 + 12 * min(count, _MAX_ENTRIES), 12))
    found = [struct.unpack(">III", entry) for entry in entries if len(entry) == 12]
    return [(b"", data[start : start + size]) for number, start, size in found if number == _DATA_FORK]


def mac_binary(data: bytes) -> Files:
    """The data fork of a file in MacBinary, and its name: by declaration only, since it has no mark."""
    if len(data) <= _MAC_HEAD or data[0] or not 0 < data[1] < 64:
        return []
    (size,) = struct.unpack_from(">I", data, 83)
    return [(data[2 : 2 + data[1]], data[_MAC_HEAD : _MAC_HEAD + size])] if size else []
