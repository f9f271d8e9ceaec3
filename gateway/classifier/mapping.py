# SPDX-License-Identifier: GPL-2.0-or-later
"""Arrays from files that somebody else may have written, as read-only memory maps.

Reads hostile files: regular ones only, of bounded size, not writable by everybody. Only the plain
.npy format is understood, without objects, so nothing in it is executed; its head must fit its
size. NumPy's own `load` is not used: it opens whatever it finds, a pipe or a pickle among it.
"""

from __future__ import annotations

import hashlib
import io
import math
import mmap
import os
import stat
import threading
import time
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray

_HEAD_LIMIT: Final = 1024  # octets
_LOOK: Final = 0.25  # seconds between two looks at a watched file


class ModelError(Exception):
    """A model is missing, damaged, foreign or unsafe; the text says which file and why."""


def read_array(path: Path, dtype: np.dtype[Any], limit: int, sha256: str = "") -> NDArray[Any]:
    """Map the array in `path`, of at most `limit` octets; compare its hash, if one is given.

    Raises `ModelError`. The array cannot be written to, and stays valid if the file is replaced.
    """
    handle = open_regular(path, limit)
    try:
        mapped = mmap.mmap(handle, 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: {error}") from error
    finally:
        os.close(handle)
    if sha256 and hashlib.sha256(mapped).hexdigest() != sha256:
        raise ModelError(f"{path}: its SHA-256 is not the one in the manifest")
    head = io.BytesIO(mapped[:_HEAD_LIMIT])
    try:
        if np.lib.format.read_magic(head) != (1, 0):
            raise ModelError(f"{path}: not an array of format 1.0")
        shape, fortran, found = np.lib.format.read_array_header_1_0(head)
        if found != dtype or fortran:
            raise ModelError(f"{path}: an array of {found}, not of {dtype}")
        if math.prod(shape) * dtype.itemsize != len(mapped) - head.tell():
            raise ModelError(f"{path}: its size is not what its head says")
        return np.frombuffer(mapped, dtype, offset=head.tell()).reshape(shape)
    except (ValueError, TypeError, SyntaxError, RecursionError, OverflowError) as error:
        raise ModelError(f"{path}: not an array: {error}") from error


def open_regular(path: Path, limit: int) -> int:
    """Open a regular file of at most `limit` octets that not everybody may write to."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error
    facts = os.fstat(handle)
    problem = ""
    if not stat.S_ISREG(facts.st_mode):
        problem = "not a regular file"
    elif facts.st_size > limit:
        problem = f"{facts.st_size} octets, more than {limit}"
    elif facts.st_mode & stat.S_IWOTH:
        problem = "everybody may write to it; remove that permission"
    if problem:
        os.close(handle)
        raise ModelError(f"{path}: {problem}")
    return handle


_T = TypeVar("_T")


class Watched(Generic[_T]):
    """The newest whole version of a file that others replace. Thread-safe, cheap to ask.

    With `first`, the version before is kept when the file goes; without, there is none then. A file
    that is broken leaves what was there before, and `problem` says why.
    """

    __slots__ = ("_first", "_found", "_identity", "_load", "_lock", "_looked", "path", "problem")

    def __init__(self, path: Path, load: Callable[[Path], _T], first: _T | None = None) -> None:
        self.path = path
        self.problem = ""
        self._load = load
        self._first = self._found = first
        self._identity: tuple[int, ...] | None = None if first is None else self._now()
        self._looked = -math.inf
        self._lock = threading.Lock()

    def current(self) -> _T | None:
        """Give what the file holds, looked at anew every quarter of a second; None if there is none."""
        now = time.monotonic()
        if now - self._looked >= _LOOK and self._lock.acquire(blocking=False):
            try:
                self._looked = now
                self._look()
            finally:
                self._lock.release()
        return self._found

    def _now(self) -> tuple[int, ...] | None:
        try:
            found = os.stat(self.path)  # noqa: PTH116  # asked four times a second; Path costs more
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _look(self) -> None:
        identity = self._now()
        if identity == self._identity:
            return
        self._identity = identity
        if identity is None:
            if self._first is None:
                self._found, self.problem = None, ""
            return
        try:
            self._found, self.problem = self._load(self.path), ""
        except ModelError as error:
            self.problem = str(error)


def array_bytes(array: NDArray[Any]) -> bytes:
    """Give an array as the octets of a .npy file."""
    data = io.BytesIO()
    np.lib.format.write_array(data, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return data.getvalue()


def give_to_owner(handle: int, directory: Path) -> None:
    """Let a file that root makes belong to the owner of its folder, lest it keep the service out."""
    if os.geteuid() == 0:
        owner = directory.stat()
        os.fchown(handle, owner.st_uid, owner.st_gid)


def replace(path: Path, data: bytes) -> None:
    """Replace a file whole, durably: a crash leaves the old one or the new one."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            give_to_owner(file.fileno(), path.parent)
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
