# SPDX-License-Identifier: GPL-2.0-or-later
"""Mailboxes of From, Reply-To, To and the like (RFC 5322 §3.4), as a client would show them.

Reads hostile bytes; one pass, bounded. Python's `email.utils` is not used: it is slow on hostile
fields, and answers one thing where clients see another (CVE-2023-27043).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gateway.mail.charsets import decode, decode_words

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.mail.types import HeaderField

MAX_ADDRESSES = 200
# Octets that are read, of one field and of all: what yields no address, such as empty quotes, costs as well.
MAX_FIELD = 50_000
MAX_PART = 1_000  # characters of a name or an address that are kept

_TOKEN = re.compile(
    r'"((?:[^"\\]|\\.)*+)"?|<([^<>]*+)>?|(\()|([,;])|(:)|(\s+)|([^\s"<>(),;:]+|.)',
    re.DOTALL,
)
_COMMENT_PIECE = re.compile(r"(?:[^()\\]|\\.)*+([()]?)", re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ROUTE = re.compile(r"@[^:]*+:")


def mailboxes(fields: Iterable[HeaderField]) -> tuple[tuple[str, str], ...]:
    """The (display name, address) pairs of all `fields`, in order; at most MAX_ADDRESSES.

    Groups are dissolved. A mailbox without address has "" there, its words as the name. Bytes
    outside ASCII are read as UTF-8 (RFC 6532) or Latin-1.
    """
    found: list[tuple[str, str]] = []
    left = MAX_FIELD
    for field in fields:
        value = field.value[:left]
        left -= len(value)
        text = decode(value.replace(b"\r\n", b"").replace(b"\n", b""))
        _read(text, found)
        if len(found) >= MAX_ADDRESSES or not left:
            break
    return tuple(found[:MAX_ADDRESSES])


def _read(text: str, found: list[tuple[str, str]]) -> None:
    words: list[str] = []
    address = comment = ""
    quoted = False
    position = 0
    while position < len(text) and len(found) < MAX_ADDRESSES:
        token = _TOKEN.match(text, position)
        if token is None:
            break
        position = token.end()
        if token[1] is not None:
            words.append(_ESCAPE.sub(r"\1", token[1]) if "\\" in token[1] else token[1])
            quoted = True
        elif token[2] is not None:
            address = address or _ROUTE.sub("", token[2], count=1).strip()
        elif token[3]:
            piece, position = _comment(text, position)
            comment = comment or piece
        elif token[4]:
            _finish(words, address, comment, quoted=quoted, found=found)
            words, address, comment, quoted = [], "", "", False
        elif token[5]:
            if "@" not in "".join(words):
                words, quoted = [], False  # the name of a group
        elif token[6]:
            words.append(" ")
        else:
            words.append(token[7])
    _finish(words, address, comment, quoted=quoted, found=found)


def _comment(text: str, position: int) -> tuple[str, int]:
    depth, start = 1, position
    while depth and position < len(text):
        piece = _COMMENT_PIECE.match(text, position)
        if piece is None or piece.end() == position:
            break
        position = piece.end()
        depth += {"(": 1, ")": -1}.get(piece[1], 0)
    return text[start : position - (0 if depth else 1)], position


def _finish(
    words: list[str], address: str, comment: str, *, quoted: bool, found: list[tuple[str, str]]
) -> None:
    phrase = "".join(words).strip()
    if not address and "@" in phrase and not quoted:
        address, phrase = "".join(phrase.split()), comment
    elif not address and "@" in phrase and phrase.rfind("@") > phrase.find(" "):
        address, phrase = phrase, comment  # "local part"@example.com
    if not phrase:
        phrase = comment if address else ""
    if address or phrase:
        found.append((" ".join(decode_words(phrase).split())[:MAX_PART], address[:MAX_PART]))
