# SPDX-License-Identifier: GPL-2.0-or-later
"""Outlook's TNEF (winmail.dat): the files in it, with every name that Outlook may show ([MS-OXTNEF]).

Reads hostile bytes; linear, bounded, and never an exception. An attachment has a short name and its
content in attributes of its own, and once more properties of MAPI, which Outlook prefers: a long name,
or a whole message, which is TNEF again. What several attributes or properties say is all kept. The
checksums are not looked at, since not all readers do.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from gateway.mail.charsets import decode

SIGNATURE = b"\x78\x9f\x3e\x22"
MAX_FILES = 100
MAX_NAMES = 8
MAX_PROPERTIES = 1_000  # of one attachment

_TITLE, _DATA, _RENDERED, _PROPERTIES = 0x00018010, 0x0006800F, 0x00069002, 0x00069005
_NAME_IDS = frozenset((0x3001, 0x3704, 0x3707, 0x370C))  # display, file, long file, transport name
_CONTENT_ID = 0x3701
_STRING8, _UNICODE, _OBJECT, _BINARY = 0x001E, 0x001F, 0x000D, 0x0102
_SIZES = {2: 4, 3: 4, 4: 4, 5: 8, 6: 8, 7: 8, 0xA: 4, 0xB: 4, 0x14: 8, 0x40: 8, 0x48: 16}  # by type, padded
_INTERFACE = 16  # octets before the content of an object: that of a message, or of a storage


class Found(NamedTuple):
    """Files as (names, content), and whether the stream could be read to its end."""

    files: list[tuple[tuple[str, ...], bytes]]
    whole: bool


class _Attachment:
    """What the attributes since the last attAttachRendData say."""

    def __init__(self) -> None:
        self.names: dict[str, None] = {}
        self.contents: dict[bytes, None] = {}
        self.whole = True

    def named(self, name: str) -> None:
        name = name.split("\0", maxsplit=1)[0].strip()
        if name and len(self.names) < MAX_NAMES:
            self.names.setdefault(name)
        elif name and name not in self.names:
            self.whole = False


def read(data: bytes) -> Found:
    """Read a TNEF stream; one that is none has no files, and is not whole."""
    if not data.startswith(SIGNATURE):
        return Found([], whole=False)
    attachments = [_Attachment()]
    position, end = 6, len(data)
    whole = True
    while position + 9 <= end and len(attachments) <= MAX_FILES:
        attribute, length = struct.unpack_from("<II", data, position + 1)
        value = data[position + 9 : position + 9 + length]
        position += length + 11
        whole = position <= end + 2
        if attribute == _RENDERED:
            attachments.append(_Attachment())
        elif attribute == _TITLE:
            attachments[-1].named(decode(value))
        elif attribute == _DATA:
            attachments[-1].contents.setdefault(value)
        elif attribute == _PROPERTIES:
            whole = _properties(value, attachments[-1]) and whole
    files = [(tuple(one.names), content) for one in attachments for content in one.contents if content]
    whole = whole and all(one.whole for one in attachments)
    return Found(files[:MAX_FILES], whole and max(len(files), len(attachments)) <= MAX_FILES)


def _properties(data: bytes, found: _Attachment) -> bool:
    """Read the MAPI properties of an attachment; False if they end in the middle."""
    try:
        (count,) = struct.unpack_from("<I", data)
        position = 4
        for _ in range(min(count, MAX_PROPERTIES)):
            kind, number = struct.unpack_from("<HH", data, position)
            position += 4
            if number >= 0x8000:
                position = _past_name(data, position)
            values, position = _values(data, position, kind)
            for value in values:
                _note(kind & 0xFFF, number, value, found)
    except (struct.error, ValueError):
        return False
    return bool(count <= MAX_PROPERTIES)


def _note(kind: int, number: int, value: bytes, found: _Attachment) -> None:
    if number in _NAME_IDS and kind in (_STRING8, _UNICODE):
        found.named(value.decode("utf-16-le", "replace") if kind == _UNICODE else decode(value))
    elif number == _CONTENT_ID and kind == _BINARY:
        found.contents.setdefault(value)
    elif number == _CONTENT_ID and kind == _OBJECT:
        found.contents.setdefault(value[_INTERFACE:])


def _past_name(data: bytes, position: int) -> int:
    """Pass over the name of a named property: a number, or a text."""
    kind, value = struct.unpack_from("<II", data, position + 16)
    return position + 24 + (_padded(value) if kind else 0)


def _values(data: bytes, position: int, kind: int) -> tuple[list[bytes], int]:
    """Give the values of one property, none of fixed size, and where the next one starts."""
    several, base = bool(kind & 0x1000), kind & 0xFFF
    count = 1
    if several or base in (_STRING8, _UNICODE, _OBJECT, _BINARY):
        (count,) = struct.unpack_from("<I", data, position)
        position += 4
    if base in _SIZES:
        return [], position + count * _SIZES[base]
    if base not in (_STRING8, _UNICODE, _OBJECT, _BINARY) or count > MAX_PROPERTIES:
        raise ValueError("a type that there is not")
    values = []
    for _ in range(count):
        (length,) = struct.unpack_from("<I", data, position)
        values.append(data[position + 4 : position + 4 + length])
        position += 4 + _padded(length)
        if position > len(data) + 3:
            raise ValueError("it ends in the middle")
    return values, position


def _padded(length: int) -> int:
    return (length + 3) & ~3
