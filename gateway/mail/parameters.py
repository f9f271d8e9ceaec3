# SPDX-License-Identifier: GPL-2.0-or-later
"""Structured fields with parameters: Content-Type, Content-Disposition, Content-Transfer-Encoding.

Reads hostile bytes; linear. There are two readers. `strict` accepts what every client reads alike,
and is all that ordinary mail ever needs. What it refuses goes to `loose`, which collects what
known clients make of it: comments taken out or left in, quotes and backslashes honoured or not,
the first or the last of two values, RFC 2231 honoured or not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from gateway.mail.charsets import decode, decode_extended, decode_words

MAX_PARAMETERS = 2_000
MAX_VALUE = 20_000  # octets of a structured field that are read
MAX_CANDIDATES = 16

_HEAD = re.compile(rb"[ \t]*+([A-Za-z0-9!#$&^_.+-]++(?:/[A-Za-z0-9!#$&^_.+-]++)?)[ \t]*+")
# Unquoted values are wider than RFC 2045 tokens: "=", "?", "/" and ":" stand there in real mail.
_PARAMETER = re.compile(
    rb";[ \t]*+(?:([A-Za-z0-9!#$%&+^_`{|}~.*-]++)="
    rb'(?:"((?:[^"\\\r\n\0]|\\[^\r\n\0])*+)"|([^\s;"()\\,\x00-\x1f\x7f]++))[ \t]*+)?+'
)
_ESCAPE = re.compile(rb"\\(.)")
_SECTION = re.compile(rb"([^*]+)\*(?:(\d{1,4})(\*?))?\Z")


@dataclass(frozen=True, slots=True)
class Structured:
    """A field with parameters, read in the one way there is.

    `head` is lower case. `parameters` are plain ones by lower-case name. `extended` holds those
    of RFC 2231, decoded; `odd` names parameters that are given twice, have holes in their
    sections, or are escaped, so that clients differ on them.
    """

    head: str
    parameters: dict[str, str]
    extended: dict[str, str]
    odd: frozenset[str] = frozenset()


def unfold(value: bytes) -> bytes:
    """Take the line breaks out of a field value (RFC 5322 §2.2.3)."""
    if b"\n" in value:
        value = value.replace(b"\r\n", b"").replace(b"\n", b"")
    return value


def strict(value: bytes) -> Structured | None:
    """Read an unfolded value that every client reads alike; None for anything else."""
    found = _HEAD.match(value)
    if found is None or len(value) > MAX_VALUE:
        return None
    head = found[1].decode("ascii").lower()
    position, end = found.end(), len(value)
    if position == end:
        return Structured(head, {}, {})
    plain: dict[str, str] = {}
    sections: list[tuple[bytes, bytes]] = []
    odd: set[str] = set()
    count = 0
    while position < end:
        found = _PARAMETER.match(value, position)
        count += 1
        if found is None or count > MAX_PARAMETERS:
            return None
        position = found.end()
        if found[1] is None:
            continue
        name = found[1].lower()
        content = found[2] if found[3] is None else found[3]
        if b"*" in name:
            sections.append((name, content))
            continue
        key = name.decode("ascii")
        if b"\\" in content:
            odd.add(key)
            content = _ESCAPE.sub(rb"\1", content)
        text = decode(content)
        if plain.setdefault(key, text) != text:
            odd.add(key)
    extended = _join(sections, odd) if sections else {}
    return Structured(head, plain, extended, frozenset(odd))


def _join(sections: list[tuple[bytes, bytes]], odd: set[str]) -> dict[str, str]:
    """Put the sections of RFC 2231 parameters together, in the order of their numbers."""
    found: dict[str, dict[int, tuple[bool, bytes]]] = {}
    single: dict[str, str] = {}
    for name, content in sections:
        match = _SECTION.match(name)
        if match is None:
            odd.add(name.partition(b"*")[0].decode("ascii"))
            continue
        key = match[1].decode("ascii")
        if match[2] is None:
            if key in single or content.count(b"'") < 2:
                odd.add(key)
            single.setdefault(key, decode_extended(content))
            continue
        numbered = found.setdefault(key, {})
        number = int(match[2])
        if number != len(numbered) or key in single:
            odd.add(key)
        numbered.setdefault(number, (bool(match[3]), content))
    for key, numbered in found.items():
        if 0 not in numbered:
            odd.add(key)
        if key not in single:
            single[key] = _assemble([numbered[n] for n in sorted(numbered)])
    return single


def _assemble(sections: list[tuple[bool, bytes]]) -> str:
    charset = b""
    data = b""
    for index, (encoded, content) in enumerate(sections):
        piece = content
        if encoded:
            if index == 0 and piece.count(b"'") >= 2:
                charset, _, piece = piece.split(b"'", 2)
            piece = unquote_to_bytes(piece)
        data += piece
    return decode(data, charset.decode("latin-1"))


# ---------------------------------------------------------------- what clients differ on

_COMMENT = re.compile(rb"\([^()]*+\)")
_KEY_VALUE = rb"%s[^=;\"]{0,40}+=[ \t]*+([^\r\n]{1,2000}+)"
_QUOTED = re.compile(rb'"((?:[^"\\]|\\.)*+)"?')
_PLAIN = re.compile(rb"[^;\s]+")


def without_comments(value: bytes) -> bytes:
    """Take comments out, nested ones too, without minding quotes; at most eight levels."""
    for _ in range(8):
        value, count = _COMMENT.subn(b"", value)
        if not count:
            break
    return value


def loose(value: bytes, key: bytes) -> tuple[str, ...]:
    """All values that a known client may read for the parameter `key`, at most MAX_CANDIDATES."""
    value = unfold(value[:MAX_VALUE])
    seen: dict[str, None] = {}
    pattern = re.compile(_KEY_VALUE % re.escape(key), re.IGNORECASE)
    views = dict.fromkeys(
        (value, without_comments(value), value.replace(b"\\", b""), value.replace(b'"', b""), _decoded(value))
    )
    tried: set[bytes] = set()
    joined = b""
    for view in views:
        position = 0
        for _ in range(MAX_CANDIDATES):
            found = pattern.search(view, position)
            if found is None:
                break
            position = found.start(1)
            first = _collect(found[1], seen, tried)
            if b"*" in found[0][: position - found.start()]:
                joined += first
                seen.setdefault(decode_extended(joined))
    names = list(seen)
    return tuple(n for n in names if n)[:MAX_CANDIDATES]


def _decoded(value: bytes) -> bytes:
    text = decode(value)
    return decode_words(text).encode("utf-8", "replace") if "=?" in text else value


def _collect(rest: bytes, seen: dict[str, None], tried: set[bytes]) -> bytes:
    """Add the readings of a parameter value that starts `rest`, but for those tried; return the commonest."""
    readings: list[bytes] = []
    quoted = _QUOTED.match(rest)
    if quoted:
        readings += (_ESCAPE.sub(rb"\1", quoted[1]), quoted[1], rest[1:].partition(b'"')[0])
    plain = _PLAIN.match(rest)
    if plain:
        readings += (plain[0], plain[0].strip(b"\"'"))
    until = rest.partition(b";")[0].strip()
    readings += (until, until.strip(b"\"'"), until.strip(b"\"'<>[](),"), without_comments(until).strip())
    whole = rest.strip()
    if b";" in whole:
        readings += (whole.strip(b"\"'"), _ESCAPE.sub(rb"\1", whole))
    for reading in readings:
        if reading in tried:
            continue
        tried.add(reading)
        text = decode(reading)
        seen.setdefault(text)
        if "=?" in text:
            seen.setdefault(decode_words(text))
        if "'" in text or "%" in text:
            seen.setdefault(decode_extended(reading))
    return readings[0]
