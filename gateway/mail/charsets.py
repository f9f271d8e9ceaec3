# SPDX-License-Identifier: GPL-2.0-or-later
"""Bytes to text by the charset a message names, and encoded words (RFC 2047, RFC 2231).

Reads hostile bytes; linear and bounded. A label of theirs never reaches Python's codec registry:
it knows `zlib_codec`, `rot13` and `idna` (quadratic, CVE-2022-45061) too. Labels go through the
list below; an unknown one is read as UTF-8 if the bytes are that, and as Latin-1 if not.
"""

from __future__ import annotations

import binascii
import codecs
import re
from urllib.parse import unquote_to_bytes

MAX_WORDS = 1_000  # encoded words read in one field
_LABEL = 40

_CODECS = {
    "ascii": "ascii",
    "usascii": "ascii",
    "ansix341968": "ascii",
    "utf8": "utf-8",
    "unicode11utf8": "utf-8",
    "utf7": "utf-7",
    "unicode11utf7": "utf-7",
    "utf16": "utf-16",
    "utf16le": "utf-16-le",
    "utf16be": "utf-16-be",
    "ucs2": "utf-16",
    "unicode": "utf-16",
    "utf32": "utf-32",
    "utf32le": "utf-32-le",
    "utf32be": "utf-32-be",
    "latin1": "latin-1",
    "l1": "latin-1",
    "koi8r": "koi8-r",
    "koi8u": "koi8-u",
    "koi8": "koi8-r",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "gb18030": "gb18030",
    "cp936": "gb18030",
    "csgb2312": "gb18030",
    "hzgb2312": "hz",
    "hz": "hz",
    "big5": "big5hkscs",
    "big5hkscs": "big5hkscs",
    "cp950": "cp950",
    "shiftjis": "cp932",
    "xsjis": "cp932",
    "sjis": "cp932",
    "cp932": "cp932",
    "windows31j": "cp932",
    "eucjp": "euc_jp",
    "iso2022jp": "iso2022_jp_ext",
    "iso2022kr": "iso2022_kr",
    "euckr": "cp949",
    "ksc56011987": "cp949",
    "ksc5601": "cp949",
    "cp949": "cp949",
    "windows949": "cp949",
    "tis620": "cp874",
    "iso885911": "cp874",
    "windows874": "cp874",
    "macintosh": "mac-roman",
    "macroman": "mac-roman",
    "maccyrillic": "mac-cyrillic",
    "xmaccyrillic": "mac-cyrillic",
}
_CODECS |= {f"iso8859{n}": f"iso8859-{n}" for n in range(1, 17) if n not in (11, 12)}
_CODECS |= {f"iso8859{n}{e}": f"iso8859-{n}" for n in (6, 8) for e in "ei"}
_CODECS |= {f"{p}{n}": f"cp{n}" for n in range(1250, 1259) for p in ("windows", "cp", "xcp", "win")}
_CODECS |= {f"{p}{n}": f"cp{n}" for n in (437, 850, 852, 855, 857, 858, 862, 866) for p in ("ibm", "cp")}
# ASCII bytes mean something else in these.
_STATEFUL = frozenset(
    (
        *("utf-7", "hz", "iso2022_jp_ext", "iso2022_kr"),
        *(f"utf-{n}{e}" for n in (16, 32) for e in ("", "-le", "-be")),
    )
)
BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff")  # of UTF-16
_NOT_LABEL = re.compile(r"[^a-z0-9]+")

# RFC 2047 §2: no spaces within. Lenient about "?" and spaces inside B and Q text, as clients are.
# A label with odd characters is unknown to all, and the word read nevertheless.
_WORD = re.compile(r"=\?([^?]{0,60})\?([bBqQ])\?([^?]*+)\?=")
_Q_ESCAPE = re.compile(rb"=([0-9A-Fa-f]{2})")


def preload() -> None:
    """Load every codec now, for a process that will open no file later."""
    for name in (*_CODECS.values(), "utf-8", "latin-1"):
        codecs.lookup(name)


def codec_of(label: str) -> str:
    """Python's name for a charset label of theirs, or "" where the label is not on the list."""
    return _CODECS.get(_NOT_LABEL.sub("", label[:_LABEL].lower()), "")


def decode(data: bytes, label: str = "") -> str:
    """Decode `data`, which is labelled `label`. Never raises; what cannot be read is U+FFFD."""
    codec = codec_of(label) if label else ""
    if codec not in _STATEFUL and data.isascii():
        return data.decode("ascii")
    if codec == "utf-16" and data[:2] not in BYTE_ORDER_MARKS:
        # No byte order mark: by where the zeros stand, else big-endian (RFC 2781 §4.3).
        codec = "utf-16-le" if data[1:400:2].count(0) > data[:400:2].count(0) else "utf-16-be"
    if codec and codec != "ascii":
        return data.decode(codec, "replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _word_bytes(encoding: str, text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    if encoding in "bB":
        return lenient_base64(data)
    data = data.replace(b"_", b" ")
    return _Q_ESCAPE.sub(lambda m: bytes((int(m[1], 16),)), data) if b"=" in data else data


_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_NOT_BASE64 = bytes(c for c in range(256) if c not in _BASE64)


def lenient_base64(data: bytes) -> bytes:
    """Decode base64 whose padding is wrong or missing; junk is skipped."""
    try:
        return binascii.a2b_base64(data)
    except ValueError:
        kept = data.translate(None, _NOT_BASE64)
        kept = kept[: len(kept) - 1] if len(kept) % 4 == 1 else kept
        return binascii.a2b_base64(kept + b"=" * (-len(kept) % 4))


def decode_words(text: str) -> str:
    """Decode the encoded words of an unfolded field value (RFC 2047 §6.2).

    White space between two of them is dropped, and neighbours of one charset are joined before
    they are decoded, since many senders cut characters in two. Words behind the first
    `MAX_WORDS` stay as they are.
    """
    if "=?" not in text:
        return text
    pieces: list[str] = []
    pending, charset = b"", ""
    position = 0
    for count, found in enumerate(_WORD.finditer(text)):
        if count >= MAX_WORDS:
            break
        between = text[position : found.start()]
        label = found[1].partition("*")[0].lower()  # RFC 2231 §5: charset*language
        if pending and (label != charset or not (between.isspace() or not between)):
            pieces.append(decode(pending, charset))
            pending = b""
        if between and not (position and between.isspace()):
            pieces.append(between)
        pending += _word_bytes(found[2], found[3])
        charset = label
        position = found.end()
    if pending:
        pieces.append(decode(pending, charset))
    pieces.append(text[position:])
    return "".join(pieces)


def decode_extended(value: bytes) -> str:
    """Decode an extended parameter value, charset'language'percent-encoded (RFC 2231 §4)."""
    charset, mark, rest = value.partition(b"'")
    if mark:
        _, mark, rest = rest.partition(b"'")
    if not mark:
        charset, rest = b"", value
    return decode(unquote_to_bytes(rest), charset.decode("latin-1"))
