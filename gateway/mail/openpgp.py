# SPDX-License-Identifier: GPL-2.0-or-later
"""Files in OpenPGP messages that are signed or compressed, but not encrypted (RFC 9580).

Reads hostile bytes; linear, with bounds on packets, nesting and octets, and never an exception. No key
is needed to read these, and no signature is looked at: a library for OpenPGP would ask for both.
"""

from __future__ import annotations

import bz2
import re
import zlib
from typing import NamedTuple

from gateway.mail.charsets import lenient_base64

ARMOR = b"-----BEGIN PGP MESSAGE-----"
MAX_MESSAGES = 10  # in armor, of one text
MAX_PACKETS = 200
MAX_DEPTH = 8  # of compression in compression
MAX_INFLATED = 20_000_000
_CHUNK = 4_096  # octets of input at a time, so that what comes before some damage is kept

_ARMORED = re.compile(
    re.escape(ARMOR) + rb"[ \t]*+\r?\n(?:[A-Za-z]{1,40}: [^\n]*+\n)*+[ \t]*+\r?\n?"
    rb"((?:[A-Za-z0-9+/]++={0,2}+[ \t]*+\r?\n?)*+)"
)
_SIGNATURE, _ONE_PASS, _COMPRESSED, _LITERAL = 2, 4, 8, 11
_STARTS = frozenset((_SIGNATURE, _ONE_PASS, _COMPRESSED, _LITERAL))
_NESTED = frozenset(
    (0x90, 0x91, 0xA1, 0xA2, 0xA3, 0xC4, 0xC8, 0xCB)
)  # octets that a message in one starts with
_ENCRYPTED = frozenset((1, 3, 9, 18, 20))


class Found(NamedTuple):
    """Files as (name, content), and whether all that is not encrypted was read."""

    files: list[tuple[bytes, bytes]]
    whole: bool


def armored(text: bytes) -> Found:
    """Read the messages in armor (§6.2) within a text."""
    files: list[tuple[bytes, bytes]] = []
    whole = text.count(ARMOR) <= MAX_MESSAGES
    for found, _ in zip(_ARMORED.finditer(text), range(MAX_MESSAGES), strict=False):
        inner = read(lenient_base64(found[1]))
        files += inner.files
        whole = whole and inner.whole
    return Found(files, whole)


def starts(data: bytes) -> bool:
    """Whether a message may stand here as it is: its first packet is one that such messages start with."""
    return bool(data) and data[0] >= 0x80 and _tag(data[0]) in _STARTS


def read(data: bytes) -> Found:
    """Read the packets of a message; what is none has no files."""
    reader = _Reader()
    reader.packets(data, 0)
    return Found(reader.files, reader.whole)


class _Reader:
    """What is left of the bounds, and what was found."""

    def __init__(self) -> None:
        self.files: list[tuple[bytes, bytes]] = []
        self.whole = True
        self._packets = MAX_PACKETS
        self._left = MAX_INFLATED

    def packets(self, data: bytes, depth: int) -> None:
        position = 0
        while position < len(data):
            self._packets -= 1
            if self._packets < 0 or depth > MAX_DEPTH:
                self.whole = False
                return
            if data[position] < 0x80:
                return
            tag = _tag(data[position])
            body, position = _body(data, position)
            if tag in _ENCRYPTED:
                return
            if tag == _LITERAL and len(body) > 5:
                start = 2 + body[1]
                content = body[start + 4 :]
                self.files.append((body[2:start], content))
                if content[:1] and content[0] in _NESTED:
                    self.packets(content, depth + 1)
            elif tag == _COMPRESSED and body:
                self.packets(self._inflated(body[0], body[1:]), depth + 1)

    def _inflated(self, algorithm: int, data: bytes) -> bytes:
        """Decompress (§9.4); what is damaged gives what stands before that."""
        if algorithm not in (1, 2, 3):
            return data if algorithm == 0 else b""
        data = (
            data[2:] if algorithm == 2 else data
        )  # without zlib's header, so that no wrong checksum hides anything
        plain: list[bytes] = []
        decompressor = bz2.BZ2Decompressor() if algorithm == 3 else zlib.decompressobj(-15)
        try:
            for start in range(0, len(data), _CHUNK):
                block = decompressor.decompress(data[start : start + _CHUNK], self._left + 1)
                plain.append(block)
                self._left -= len(block)
                if self._left < 0:
                    self.whole, self._left = False, 0
                    break
        except (zlib.error, OSError, ValueError, EOFError):
            pass  # so do programs: what stands before that is given
        return b"".join(plain)


def _tag(octet: int) -> int:
    return octet & 0x3F if octet & 0x40 else octet >> 2 & 0x0F


def _body(data: bytes, position: int) -> tuple[bytes, int]:
    """Give the body of a packet (§4.2), as much of it as there is, and where the next one starts."""
    octet = data[position]
    position += 1
    if not octet & 0x40:
        if octet & 3 == 3:
            return data[position:], len(data)
        size = 1 << (octet & 3)
        start = position + size
        end = start + int.from_bytes(data[position:start], "big")
        return data[start:end], end
    pieces = []
    while position < len(data):
        first = data[position]
        if first < 192:
            length, start = first, position + 1
        elif first < 224:
            length, start = (
                (first - 192 << 8) + int.from_bytes(data[position + 1 : position + 2]) + 192,
                position + 2,
            )
        elif first < 255:
            length, start = 1 << (first & 0x1F), position + 1
        else:
            length, start = int.from_bytes(data[position + 1 : position + 5], "big"), position + 5
        pieces.append(data[start : start + length])
        position = start + length
        if not 224 <= first < 255:
            break
    return b"".join(pieces), position
