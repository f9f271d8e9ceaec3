# SPDX-License-Identifier: GPL-2.0-or-later
"""Single compressed streams by the standard library: gzip, bzip2, xz and lzma.

Reads hostile bytes. `gzip.open` and its kin have no bound on output and raise in the middle of
the last block; here output comes in blocks that the caller charges, several streams behind one
another are read as the tools read them, with an empty block between them, and what follows the last
one is told.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from typing import TYPE_CHECKING, Protocol

from gateway.scanners.unpack.budget import Broken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BLOCK = 1 << 18  # octets of output at a time
CHUNK = 1 << 16  # octets of input at a time, so that no library copies the rest again and again
XZ_MEMORY = 96 << 20  # octets a dictionary may take; `xz -9` takes 65 MiB
_MAX_STREAMS = 10_000


class _Decompressor(Protocol):
    """What the three libraries have in common, after `_Inflate` has bent zlib's to it."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Inflate:
    """zlib's decompressor with the interface of the other two."""

    def __init__(self, wbits: int) -> None:
        self._inner = zlib.decompressobj(wbits)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail or data, max_length)


def gunzip(data: bytes) -> Iterator[bytes]:
    """Unpack gzip (RFC 1952). Raises `Broken` after what could be read."""
    return _streams(data, b"\x1f\x8b", lambda: _Inflate(31))


def inflate(data: bytes, wbits: int = -15) -> Iterator[bytes]:
    """Unpack one deflate stream (RFC 1951), or zlib's (RFC 1950) with `wbits` 15."""
    return _streams(data, b"", lambda: _Inflate(wbits))


def bunzip2(data: bytes) -> Iterator[bytes]:
    """Unpack bzip2."""
    return _streams(data, b"BZh", bz2.BZ2Decompressor)


def unxz(data: bytes) -> Iterator[bytes]:
    """Unpack xz."""
    return _streams(data, b"\xfd7zXZ\0", lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, XZ_MEMORY))


def unlzma(data: bytes) -> Iterator[bytes]:
    """Unpack the older .lzma."""
    return _streams(data, b"", lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, XZ_MEMORY))


def zip_lzma(data: bytes) -> Iterator[bytes]:
    """Unpack method 14 of a zip file (APPNOTE 5.8.8): a header of its own, then raw LZMA."""
    size = int.from_bytes(data[2:4], "little")
    if size != 5 or len(data) < 9 or data[4] >= 225:
        raise Broken("an LZMA header that is none")
    properties = data[4]
    filters = {
        "id": lzma.FILTER_LZMA1,
        "lc": properties % 9,
        "lp": properties // 9 % 5,
        "pb": properties // 45,
        "dict_size": min(int.from_bytes(data[5:9], "little"), XZ_MEMORY),
    }
    # The end mark is optional (APPNOTE 4.4.4, bit 1), so the end of the data ends it as well.
    return _streams(
        data[9:], b"", lambda: lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[filters]), open_end=True
    )


def _streams(
    data: bytes, mark: bytes, make: Callable[[], _Decompressor], *, open_end: bool = False
) -> Iterator[bytes]:
    """Read one stream after the other, as long as `mark` starts another one."""
    position = 0
    try:
        for _ in range(_MAX_STREAMS):
            decompressor = make()
            while not decompressor.eof:
                chunk = data[position : position + CHUNK]
                position += len(chunk)
                if not chunk:
                    if open_end:
                        return
                    raise Broken("ends in the middle")
                yield from _drained(decompressor, chunk)
            position -= len(decompressor.unused_data)
            while data.startswith(b"\0", position):  # tapes are padded, and the tools skip it
                position += 1
            if mark and position < len(data) and not data.startswith(mark, position):
                raise Broken("other octets stand behind the end")  # some tools skip them, some look for more
            if not mark or position >= len(data):
                return
            yield b""
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as error:
        raise Broken(str(error)[:200]) from error
    raise Broken("too many streams")


def _drained(decompressor: _Decompressor, chunk: bytes) -> Iterator[bytes]:
    """Give all output that one chunk of input makes, block by block."""
    block = decompressor.decompress(chunk, BLOCK)
    while block:
        yield block
        if decompressor.eof or (decompressor.needs_input and len(block) < BLOCK):
            return
        block = decompressor.decompress(b"", BLOCK)
