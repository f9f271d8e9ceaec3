# SPDX-License-Identifier: GPL-2.0-or-later
"""What libarchive reads: tar, 7z, rar, cab, iso, cpio, lha, ar, and some filters.

Hands hostile bytes to C code, so it runs in the child only. libarchive-c's bindings are used, its
`memory_reader` is not: that switches on either one format or all of them, and "all" has `mtree`,
which opens the files a hostile listing names, and filters that start programs. Formats are named
one by one here; nothing is ever extracted to a path. Where the library is missing, these formats
are reported as not understood.
"""

from __future__ import annotations

import ctypes
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from gateway.scanners.unpack.budget import Broken
from gateway.scanners.unpack.kinds import NATIVE, ZIP

if TYPE_CHECKING:
    from collections.abc import Iterator

os.environ.setdefault("LIBARCHIVE", "libarchive.so.13")  # else it is looked for by starting ldconfig and gcc
ffi: Any
try:
    import libarchive.ffi as _library
    from libarchive.exception import ArchiveError

    ffi = _library
except (ImportError, OSError, TypeError, AttributeError):
    ffi = None

    class ArchiveError(Exception):  # type: ignore[no-redef]  # never raised then
        """Stands in for the library's."""


BLOCK = 1 << 18
_DEVICES = (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK)


class Entry(NamedTuple):
    """One member as libarchive gives it. `blocks` must be read before the next entry is asked for."""

    name: str
    size: int  # declared, -1 if it is not
    directory: bool
    special: str  # "device", "link", "" for a file
    target: str  # of a link
    encrypted: bool
    blocks: Iterator[bytes | memoryview]


# Trees of names that an image of ISO 9660 may have, each with files of its own: Windows shows Joliet's, or
# the plain one, other systems Rock Ridge's.
TREES = ("iso9660:!rockridge", "iso9660:!joliet", "iso9660:!joliet,iso9660:!rockridge")


def entries(data: bytes, kind: str, password: str = "", options: str = "") -> Iterator[Entry]:
    """Give the members one by one; raises `Broken` where the archive cannot be read on."""
    formats, filters = NATIVE[kind] if kind != ZIP else (("zip",), ())
    with _opened(data, formats, filters, password, options) as archive:
        while True:
            entry = ffi.entry_new()
            try:
                try:
                    if ffi.read_next_header2(archive, entry) == ffi.ARCHIVE_EOF:
                        return
                except ArchiveError as error:
                    if _encrypted_headers(archive):
                        yield Entry("", -1, False, "", "", True, iter(()))
                        return
                    raise Broken(_said(error)) from error
                yield _entry(archive, entry)
            finally:
                ffi.entry_free(entry)


def position(data: bytes, kind: str) -> int:
    """Return how far libarchive reads `data` until it takes it to be at its end."""
    formats, filters = NATIVE[kind]
    with _opened(data, formats, filters, "") as archive:
        entry = ffi.entry_new()
        try:
            while ffi.read_next_header2(archive, entry) != ffi.ARCHIVE_EOF:
                pass
            return int(ffi.filter_bytes(archive, -1))
        except ArchiveError:
            return len(data)
        finally:
            ffi.entry_free(entry)


@contextmanager
def _opened(
    data: bytes, formats: tuple[str, ...], filters: tuple[str, ...], password: str, options: str = ""
) -> Iterator[Any]:
    if ffi is None:
        raise Broken("libarchive is not installed")
    archive = ffi.read_new()
    try:
        try:
            for name in filters:
                ffi.get_read_filter_function(name)(archive)
            for name in formats:
                ffi.get_read_format_function(name)(archive)
            if options:
                _set_options(archive, options.encode())
            if password:
                ffi.read_add_passphrase(archive, password.encode())
            ffi.read_open_memory(archive, data, len(data))
        except (ArchiveError, ValueError) as error:
            raise Broken(_said(error)) from error
        yield archive
    finally:
        ffi.read_free(archive)


def _entry(archive: Any, entry: Any) -> Entry:
    mode = ffi.entry_filetype(entry)
    link = ffi.entry_symlink(entry) or ffi.entry_hardlink(entry) or b""
    special = "device" if mode in _DEVICES else "link" if mode == stat.S_IFLNK or link else ""
    return Entry(
        name=_name(entry),
        size=ffi.entry_size(entry) if ffi.entry_size_is_set(entry) else -1,
        directory=mode == stat.S_IFDIR,
        special=special,
        target=link.decode("utf-8", "replace"),
        encrypted=bool(_is_encrypted(entry)),
        blocks=_blocks(archive),
    )


def _name(entry: Any) -> str:
    raw = ffi.entry_pathname(entry)
    if raw is not None:
        return str(raw.decode("utf-8", "surrogateescape").encode("utf-8", "replace").decode())
    return str(ffi.entry_pathname_w(entry) or "")


def _blocks(archive: Any) -> Iterator[bytes | memoryview]:
    buffer = ctypes.create_string_buffer(BLOCK)
    view = memoryview(buffer)
    while True:
        try:
            count = ffi.read_data(archive, buffer, BLOCK)
        except ArchiveError as error:
            raise Broken(_said(error)) from error
        if count <= 0:
            return
        yield view[:count]


def _said(error: Exception) -> str:
    return str(getattr(error, "msg", None) or error)[:200]


if ffi is not None:
    _is_encrypted = ffi.ffi("entry_is_encrypted", [ffi.c_archive_entry_p], ctypes.c_int)
    _set_options = ffi.ffi("read_set_options", [ffi.c_archive_p, ctypes.c_char_p], ctypes.c_int)
    _has_encrypted = ffi.ffi("read_has_encrypted_entries", [ffi.c_archive_p], ctypes.c_int)


def _encrypted_headers(archive: Any) -> bool:
    """Whether even the names are encrypted."""
    return bool(_has_encrypted(archive) > 0)
