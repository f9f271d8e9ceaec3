# SPDX-License-Identifier: GPL-2.0-or-later
"""What an agent has begun and delivered and not yet settled, where killing it takes nothing away.

A next hop's 250 and the commit that settles it are milliseconds apart, or seconds where the database
is slow, and a kill in between sends the message twice. So the agent appends a line to a file of its
own first, which costs some microseconds: what was written outlives a process, though not a power
cut, which needs no promise here. Whoever takes over from a dead agent of this machine settles what
its file says. Begun is noted as well, so that a message is blamed for an agent's death only if it was
under way. Without the file mail is only doubled more often.

Reads files of our own; a line that a power cut has spoiled fails its checksum and says nothing.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from gateway.store.queued import Recipient

_LONGEST: Final = 262_144  # octets after which a file is written anew, with what is still open
_MOST: Final = 16_777_216  # octets of a file that are read
Kind = Literal["begun", "delivered"]
_LETTER: Final[dict[Kind, str]] = {"begun": "b", "delivered": "d"}


@dataclass(slots=True)
class Left:
    """What the file of one owner of leases says: recipients by number, with the ids of their messages."""

    owner: str
    process: str
    begun: dict[int, str] = field(default_factory=dict)
    delivered: dict[int, str] = field(default_factory=dict)


class Receipts:
    """The file of one agent. Nothing here raises; without a folder nothing is noted."""

    def __init__(self, folder: Path | None, owner: str, process: str) -> None:
        self._path = folder / owner if folder else None
        self._head = _line("o", process)
        self._open: dict[int, bytes] = {}  # what is not settled: its lines
        self._size = 0
        self._file = -1
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._anew()

    @property
    def kept(self) -> bool:
        """Whether there is a file."""
        return self._file >= 0

    def note(self, kind: Kind, recipients: Sequence[Recipient]) -> None:
        """Note that these recipients' message is about to be sent, or was taken by the next hop."""
        if self._file < 0 or not recipients:
            return
        lines = []
        for one in recipients:
            line = _line(_LETTER[kind], f"{one.number} {one.item}")
            self._open[one.number] = line
            lines.append(line)
        self._append(b"".join(lines))

    def settled(self, numbers: Iterable[int]) -> None:
        """The database knows of these."""
        for number in numbers:
            self._open.pop(number, None)
        if self._file < 0 or self._size <= len(self._head) or (self._open and self._size < _LONGEST):
            return
        with contextlib.suppress(OSError):
            if self._open:
                self._anew()
            else:
                os.ftruncate(self._file, len(self._head))
                self._size = len(self._head)

    def close(self) -> None:
        """Nothing is open any more."""
        if self._file >= 0 and self._path is not None:
            os.close(self._file)
            self._file = -1
            self._path.unlink(missing_ok=True)

    def _append(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self._size += os.write(self._file, data)

    def _anew(self) -> None:
        """Write the file again with what is open; a kill meanwhile leaves the old one."""
        assert self._path is not None
        fresh = self._path.with_suffix(".new")
        file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            size = os.write(file, self._head + b"".join(self._open.values()))
            fresh.rename(self._path)
        except OSError:
            os.close(file)
            raise
        if self._file >= 0:
            os.close(self._file)
        self._file, self._size = file, size


def others(folder: Path | None, owner: str) -> list[Left]:
    """What agents other than `owner` have noted in `folder`; the living among them, too."""
    try:
        found = sorted(folder.iterdir()) if folder else []
    except OSError:
        return []
    read = [_read(path) for path in found if not path.suffix and path.name != owner]
    return [left for left in read if left is not None]


def remove(folder: Path | None, owner: str) -> None:
    """All that `owner` has left is settled."""
    if folder is not None:
        for path in (folder / owner, folder / f"{owner}.new"):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _read(path: Path) -> Left | None:
    try:
        with path.open("rb") as file:
            data = file.read(_MOST)
    except OSError:
        return None
    left = Left(path.name, "")
    for line in data.split(b"\n"):
        text, _, sum_ = line.rpartition(b" ")
        if sum_ != b"%08x" % zlib.crc32(text):
            continue
        kind, _, rest = text.decode("utf-8", "replace").partition(" ")
        number, _, item = rest.partition(" ")
        if kind == "o":
            left.process = rest
        elif number.isdecimal() and kind in _LETTER.values():
            (left.begun if kind == "b" else left.delivered)[int(number)] = item
    return left


def _line(kind: str, text: str) -> bytes:
    whole = f"{kind} {text}".encode()
    return whole + b" %08x\n" % zlib.crc32(whole)
