# SPDX-License-Identifier: GPL-2.0-or-later
"""What all workers remember of clients together, in memory that they share.

The supervisor makes it before it forks, and keeps it: it outlives workers and reloads, and is forgotten when
the service ends. Reads keys that strangers choose: addresses and logins. They are hashed with a secret, so
that nobody chooses with whom he is confused, and the size is fixed. One thread of each process may use it.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import time
import weakref
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from types import TracebackType

_WAYS: Final = 8  # entries that a key may be in
_TRIES: Final = 20
_PAUSE: Final = 0.0005  # seconds between them
_HALF: Final = 32_768  # counters; a key has one in each half of a row
_ROW: Final = 2 * _HALF


class Ledger:
    """Numbers by key, each until a time of the monotonic clock; what would be forgotten first makes room.

        with ledger:
            ledger.put(key, ledger.get(key, now) + 1, now + 60)

    No other process changes anything between the two. The lock is the kernel's, so that it goes with a
    process that is killed; one that holds it for ten milliseconds is not waited for, and at worst
    a number is written over.
    """

    def __init__(self, entries: int = 65_536) -> None:
        self._sets = max(1, entries // _WAYS)
        many = self._sets * _WAYS
        self._descriptor = os.memfd_create("mailwarden-ledger", os.MFD_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)
        os.ftruncate(self._descriptor, many * 24)
        whole = memoryview(mmap.mmap(self._descriptor, many * 24))
        self._marks = whole[: many * 8].cast("Q")
        self._values = whole[many * 8 : many * 16].cast("d")
        self._untils = whole[many * 16 :].cast("d")
        self._secret = os.urandom(16)

    def __enter__(self) -> Self:
        for _ in range(_TRIES):
            with contextlib.suppress(OSError):
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(_PAUSE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN)

    def get(self, key: str, now: float) -> float:
        """The number of `key`, 0 if there is none any more."""
        mark, start = self._place(key)
        for place in range(start, start + _WAYS):
            if self._marks[place] == mark:
                return self._values[place] if self._untils[place] > now else 0.0
        return 0.0

    def put(self, key: str, value: float, until: float) -> None:
        """Remember `value` for `key` until then."""
        mark, start = self._place(key)
        marks = self._marks[start : start + _WAYS].tolist()
        if mark in marks:
            place = start + marks.index(mark)
        else:
            untils = self._untils[start : start + _WAYS].tolist()
            place = start + untils.index(min(untils))
        self._marks[place], self._values[place], self._untils[place] = mark, value, until

    def drop(self, key: str) -> None:
        """Forget `key`."""
        mark, start = self._place(key)
        for place in range(start, start + _WAYS):
            if self._marks[place] == mark:
                self._marks[place], self._values[place], self._untils[place] = 0, 0.0, 0.0

    def _place(self, key: str) -> tuple[int, int]:
        mark = _mark(key, self._secret)
        return mark or 1, mark % self._sets * _WAYS


class Presence:
    """Who is here: counts by key, a row for each process, which alone writes it, so that nobody waits.

    A key has two counters that it may share with others, and what both say at least is its count.
    """

    def __init__(self, rows: int = 1) -> None:
        self._counts = memoryview(mmap.mmap(-1, rows * _ROW * 2)).cast("H")
        self._totals = memoryview(mmap.mmap(-1, rows * 4)).cast("I")
        self._secret = os.urandom(16)

    def enter(self, row: int, key: str) -> None:
        """Count `key` in, in this row."""
        for place in self._places(key):
            self._counts[row * _ROW + place] += 1
        self._totals[row] += 1

    def leave(self, row: int, key: str) -> None:
        """Count `key` out, which was counted in there."""
        for place in self._places(key):
            self._counts[row * _ROW + place] -= 1
        self._totals[row] -= 1

    def count(self, key: str) -> int:
        """How many are here, in all rows."""
        rows = [row for row, total in enumerate(self._totals.tolist()) if total]
        return min(sum(self._counts[row * _ROW + place] for row in rows) for place in self._places(key))

    def clear(self, row: int) -> None:
        """Forget what a process that has ended counted in."""
        if self._totals[row]:
            self._counts[row * _ROW : (row + 1) * _ROW] = memoryview(bytes(_ROW * 2)).cast("H")
            self._totals[row] = 0

    def _places(self, key: str) -> tuple[int, int]:
        mark = _mark(key, self._secret)
        return mark % _HALF, _HALF + (mark >> 32) % _HALF


def _mark(key: str, secret: bytes) -> int:
    octets = key.encode("utf-8", "backslashreplace")
    return int.from_bytes(blake2b(octets, digest_size=8, key=secret).digest(), "little")
