# SPDX-License-Identifier: GPL-2.0-or-later
"""Zip files in every reading: by each central directory, and by the local headers from the start.

Reads hostile bytes; linear, and bounded by the budget. `zipfile` of the standard library is not
used: it knows the last directory only, believes its sizes and names, unpacks what overlaps, and
stops at the first damage, while other programs (and the recipient's) show what it does not see.
A member that stands in one reading only, or with other names or sizes there, is an ambiguity.

Terms are those of APPNOTE 6.3.10: local header (4.3.7), central directory (4.3.12), end record
(4.3.16), zip64 (4.3.14).
"""

from __future__ import annotations

import re
import stat
import struct
import zlib
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from gateway.scanners.unpack import streams
from gateway.scanners.unpack.budget import Broken

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.scanners.unpack.budget import Budget

_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
_END = struct.Struct("<4sHHHHIIH")
_END64 = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR = struct.Struct("<4sIQI")
_LOCAL_MARK, _CENTRAL_MARK, _END_MARK = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_DESCRIPTOR_MARK = b"PK\x07\x08"
_MANY = 0xFFFFFFFF
_TAIL = 66_000  # an end record and the longest comment
_ENCRYPTED, _STREAMED, _MASKED, _UTF8 = 1, 8, 0x2000, 0x800
STORED, DEFLATED, BZIP2, LZMA = 0, 8, 12, 14
KNOWN_TO_CLAMD = frozenset((STORED, DEFLATED, 9, BZIP2))
_CODECS = {DEFLATED: streams.inflate, BZIP2: streams.bunzip2, LZMA: streams.zip_lzma}
OWN = frozenset((STORED, *_CODECS))  # methods that are unpacked here


@dataclass(frozen=True, slots=True)
class Member:
    """One member of one reading. `names` are all names it has there, the directory's first."""

    names: tuple[str, ...]
    offset: int  # of the local header
    data: int  # of the content
    packed: int
    size: int
    crc: int
    flags: int
    method: int
    mode: int = 0
    listed: bool = True  # stands in the central directory

    @property
    def encrypted(self) -> bool:
        return bool(self.flags & (_ENCRYPTED | _MASKED))

    @property
    def link(self) -> bool:
        return stat.S_ISLNK(self.mode)


@dataclass(slots=True)
class Reading:
    """All that can be seen in a zip file without unpacking it."""

    members: list[Member] = field(default_factory=list)
    broken: dict[str, None] = field(default_factory=dict)
    ambiguous: dict[str, None] = field(default_factory=dict)
    wide: bool = False  # zip64 says where members are and how large


def read(data: bytes, budget: Budget) -> Reading:
    """List the members of all readings, each local header once."""
    reading = Reading()
    directories = _directories(data, budget)
    seen: dict[int, Member] = {}
    for number, directory in enumerate(directories):
        for member in directory.members:
            known = seen.get(member.offset)
            if known is None:
                seen[member.offset] = member
            elif known.names != member.names or known.packed != member.packed:
                reading.ambiguous.setdefault("several members share their content")
                reading.members.append(member)
        reading.broken.update(directory.broken)
        reading.ambiguous.update(directory.ambiguous)
        reading.wide = reading.wide or directory.wide
        if number and directory.members:
            reading.ambiguous.setdefault("there are several directories")
    if not directories:
        reading.broken.setdefault("no central directory")
    _overlaps(seen, reading)
    for member in _walk(data, seen, budget):
        if member.offset not in seen:
            seen[member.offset] = member
            if directories:
                reading.ambiguous.setdefault("a member does not stand in the directory")
    reading.members += seen.values()
    return reading


def content(data: bytes, member: Member, budget: Budget) -> bytes:
    """Unpack one member. Raises `Broken`, or `LimitHit` of the budget."""
    packed = data[member.data : member.data + member.packed]
    budget.declared(member.size, member.packed)
    if member.method == STORED:
        budget.octets(len(packed))
        plain = packed
    elif member.method in _CODECS:
        plain = budget.collect(_CODECS[member.method](packed), len(packed))
    else:
        raise Broken(f"compression method {member.method} is not understood")
    if member.packed > len(packed):
        raise Broken("ends in the middle")
    if len(plain) != member.size:
        raise Broken(f"declares {member.size} octets and has {len(plain)}")
    if zlib.crc32(plain) != member.crc:
        raise Broken("the checksum is wrong")
    return plain


# ---------------------------------------------------------------- central directories


def _directories(data: bytes, budget: Budget) -> list[Reading]:
    """Read the directory of each end record that a reader may take, the usual one first."""
    tail = max(0, len(data) - _TAIL)
    ends = [found.start() for found in re.finditer(_END_MARK, memoryview(data)[tail:])]
    directories: list[Reading] = []
    inside: list[tuple[int, int]] = []
    for end in reversed([tail + e for e in ends][-64:]):
        # An end record within a member is that member's own business.
        if any(start <= end < stop for start, stop in inside) or end + _END.size > len(data):
            continue
        for start, shift, count, whole in _starts(data, end):
            directory = _directory(data, start, end, shift, budget)
            directory.wide = directory.wide or data.startswith(b"PK\x06\x07", end - _LOCATOR.size)
            if not directory.members and count:
                directory.broken.setdefault("the end record leads to no directory")
            elif whole and count != len(directory.members) & 0xFFFF:
                directory.ambiguous.setdefault("the end record counts other members than there are")
            if directory.members or not directories:
                directories.append(directory)
            inside += [(m.data, m.data + m.packed) for m in directory.members]
    return directories


def _starts(data: bytes, end: int) -> Iterator[tuple[int, int, int, bool]]:
    """Where the directory of an end record starts: counted back from it, and as it says itself."""
    _, _, _, _, count, size, offset, _ = _END.unpack_from(data, end)
    locator = end - _LOCATOR.size
    stop = end
    if locator >= 0 and data.startswith(b"PK\x06\x07", locator):
        _, _, place, _ = _LOCATOR.unpack_from(data, locator)
        for at in (locator - _END64.size, place):
            if 0 <= at <= len(data) - _END64.size and data.startswith(b"PK\x06\x06", at):
                _, _, _, _, _, _, _, count64, size64, offset64 = _END64.unpack_from(data, at)
                # Readers differ on zip64 when the end record has values of its own (CVE-2025-8291).
                if _wants_zip64(count, size, offset):
                    count, size, offset, stop = count64 & 0xFFFF, size64, offset64, at
                break
    counted = stop - size
    if counted < 0 or not data.startswith(_CENTRAL_MARK, counted):
        if offset < len(data):
            yield offset, 0, count, True
        return
    yield counted, counted - offset, count, True
    if counted != offset and data.startswith(_CENTRAL_MARK, offset):
        yield offset, 0, count, False


def _wants_zip64(count: int, size: int, offset: int) -> bool:
    """Whether the end record refers to zip64."""
    return count == 0xFFFF or _MANY in (size, offset)


def _directory(data: bytes, start: int, end: int, shift: int, budget: Budget) -> Reading:
    """Read the entries from `start` on, and the local header of each."""
    reading = Reading()
    position = start
    while position + _CENTRAL.size <= end and data.startswith(_CENTRAL_MARK, position):
        budget.member()
        values = _CENTRAL.unpack_from(data, position)
        name_length, extra_length, comment_length = values[10:13]
        name = data[position + 46 : position + 46 + name_length]
        extra = data[position + 46 + name_length : position + 46 + name_length + extra_length]
        position += 46 + name_length + extra_length + comment_length
        packed, size, offset = values[8], values[9], values[16]
        if _MANY in (packed, size, offset):
            size, packed, offset = _wide(extra, size, packed, offset)
            reading.wide = True
        _member(data, offset + shift, name, extra, (*values[:8], packed, size, *values[10:]), reading)
    return reading


def _member(
    data: bytes, offset: int, name: bytes, extra: bytes, values: tuple[int, ...], reading: Reading
) -> None:
    """Compare an entry with the local header it leads to, and note the member."""
    flags, method, crc, packed, size, mode = values[3], values[4], values[7], values[8], values[9], values[15]
    names = [_text(name, flags), *_unicode_path(extra)]
    if not 0 <= offset <= len(data) - _LOCAL.size or not data.startswith(_LOCAL_MARK, offset):
        reading.broken.setdefault("an entry leads to no local header")
        if not 0 <= offset <= len(data) - _LOCAL.size:
            return
    local = _LOCAL.unpack_from(data, offset)
    start = offset + _LOCAL.size + local[9] + local[10]
    local_name = _text(data[offset + 30 : offset + 30 + local[9]], local[2])
    if local_name not in names:
        if _plain(local_name) != _plain(names[0]) and local_name.isascii() and names[0].isascii():
            reading.ambiguous.setdefault("a member has another name in its local header")
        names.append(local_name)
    if local[3] != method and not (flags | local[2]) & _ENCRYPTED:
        reading.ambiguous.setdefault("a member has another method in its local header")
    sizes = (local[7] not in (packed, _MANY)) or (local[8] not in (size, _MANY))
    if sizes and not local[2] & _STREAMED:
        reading.ambiguous.setdefault("a member has another size in its local header")
    member = Member(tuple(names), offset, start, packed, size, crc, flags | local[2], method, mode >> 16)
    reading.members.append(member)


def _overlaps(members: dict[int, Member], reading: Reading) -> None:
    ordered = sorted(members.values(), key=lambda m: m.offset)
    for one, two in pairwise(ordered):
        if one.data + one.packed > two.offset and one.packed:
            reading.ambiguous.setdefault("members overlap")
            return


# ---------------------------------------------------------------- local headers


def _walk(data: bytes, known: dict[int, Member], budget: Budget) -> Iterator[Member]:
    """Go from local header to local header, as programs do that read a stream.

    Directories on the way are passed over, so that what follows an end record is found too.
    """
    position = data.find(_LOCAL_MARK, 0, 16)
    if position < 0 and known:
        position = min(known)
    while 0 <= position <= len(data) - _LOCAL.size:
        member = known.get(position)
        if member is None:
            budget.member()
            member = _local(data, position)
        if member is None:
            return
        yield member
        position = _next(data, member.data + member.packed)


def _next(data: bytes, position: int) -> int:
    """Return where the next local header stands behind a member, -1 for nowhere."""
    if data.startswith(_DESCRIPTOR_MARK, position):
        position += 4
    for step in (0, 12, 20):  # data descriptors (4.3.9), short and long, with their mark or without
        if data.startswith(_LOCAL_MARK, position + step):
            return position + step
        if data.startswith((_CENTRAL_MARK, b"PK\x06\x08"), position + step):
            end = data.find(_END_MARK, position + step)
            return data.find(_LOCAL_MARK, end) if end >= 0 else -1
    return -1


def _local(data: bytes, offset: int) -> Member | None:
    """Read a local header on its own; a streamed member ends where its compression ends."""
    _, _, flags, method, _, _, crc, packed, size, name_length, extra_length = _LOCAL.unpack_from(data, offset)
    name = data[offset + 30 : offset + 30 + name_length]
    extra = data[offset + 30 + name_length : offset + 30 + name_length + extra_length]
    start = offset + 30 + name_length + extra_length
    if start > len(data):
        return None
    if _MANY in (packed, size):
        size, packed, _ = _wide(extra, size, packed, 0)
    if flags & _STREAMED and not packed:
        mark = data.find(_DESCRIPTOR_MARK, start)
        stop = mark if mark >= 0 else len(data)
        packed = stop - start
        if mark >= 0 and mark + 16 <= len(data):
            crc, _, size = struct.unpack_from("<III", data, mark + 4)
    names = (_text(name, flags), *_unicode_path(extra))
    return Member(names, offset, start, packed, size, crc, flags, method, listed=False)


# ---------------------------------------------------------------- fields


def _extras(extra: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        yield kind, extra[position + 4 : position + 4 + length]
        position += 4 + length


def _wide(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Take from the zip64 field (4.5.3) what does not fit into 32 bits."""
    for kind, value in _extras(extra):
        if kind == 1:
            numbers = iter(struct.unpack_from(f"<{min(3, len(value) // 8)}Q", value))
            size = next(numbers, size) if size == _MANY else size
            packed = next(numbers, packed) if packed == _MANY else packed
            offset = next(numbers, offset) if offset == _MANY else offset
    return size, packed, offset


def _unicode_path(extra: bytes) -> Iterator[str]:
    """Give the name that Info-ZIP's field (4.6.9) has instead."""
    for kind, value in _extras(extra):
        if kind == 0x7075 and len(value) > 5:
            yield value[5:].decode("utf-8", "replace")


def _text(name: bytes, flags: int) -> str:
    if flags & _UTF8:
        return name.decode("utf-8", "replace")
    try:
        return name.decode("utf-8")  # what most programs write, whatever the flag says
    except UnicodeDecodeError:
        return name.decode("cp437")


def _plain(name: str) -> str:
    return name.replace("\\", "/").lstrip("./").lower()
