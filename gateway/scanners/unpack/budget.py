# SPDX-License-Identifier: GPL-2.0-or-later
"""What the unpacking of one message may cost, and the exceptions that end it early.

Reads no input. Every piece of output, every member and every level of nesting is charged here
before it is looked at, so that no format's walker can forget a bound.
"""

from __future__ import annotations

import io
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

RATIO_FROM = 8_000_000  # octets of one member from which its ratio is looked at


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds for one message. Each that is hit is a finding, and ends the unpacking."""

    bytes: int = 100_000_000  # octets unpacked, all members and depths together
    files: int = 5_000  # members, likewise
    depth: int = 12  # containers in one another
    ratio: int = 200  # octets of a large member for each octet it is packed in
    seconds: float = 2.0  # processor time
    parts: int = 25_000_000  # octets of members that are handed on to the virus scanner
    text: int = 20_000  # characters of documents that are read; what goes beyond is left out


class LimitHit(Exception):  # noqa: N818  # it is no error, but an answer
    """A bound was reached: what lies behind it is unknown. `name` is that of the bound."""

    def __init__(self, name: str, detail: str = "") -> None:
        super().__init__(name, detail)
        self.name = name
        self.detail = detail


class Broken(Exception):  # noqa: N818  # likewise
    """A container that cannot be read, or not to its end."""


class Budget:
    """What is left for one message."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._bytes = limits.bytes
        self._files = limits.files
        self._until = time.process_time() + limits.seconds

    def check_time(self) -> None:
        """Raise `LimitHit` when the processor time is used up."""
        if time.process_time() > self._until:
            raise LimitHit("time", f"{self.limits.seconds:g} s")

    def member(self) -> None:
        """Charge for one member."""
        self._files -= 1
        if self._files < 0:
            raise LimitHit("files", f"more than {self.limits.files} members")
        self.check_time()

    def declared(self, size: int, packed: int) -> None:
        """Refuse at once what says itself that it is too large."""
        if size > self._bytes:
            raise LimitHit("bytes", f"declares {size} octets")
        self._ratio(size, packed)

    def octets(self, count: int) -> None:
        """Charge for unpacked octets."""
        self._bytes -= count
        if self._bytes < 0:
            raise LimitHit("bytes", f"more than {self.limits.bytes} octets")
        self.check_time()

    def refund(self, octets: int) -> None:
        """Take back the charge for a member that had been seen; the time it took is gone."""
        self._files += 1
        self._bytes += octets

    def collect(self, blocks: Iterable[bytes | memoryview], packed: int) -> bytes:
        """Join the blocks of one member, which is `packed` octets in its container."""
        out = io.BytesIO()
        total = 0
        for block in blocks:
            total += len(block)
            self.octets(len(block))
            self._ratio(total, packed)
            out.write(block)
        return out.getvalue()

    def _ratio(self, size: int, packed: int) -> None:
        if size > RATIO_FROM and size > self.limits.ratio * max(1, packed):
            raise LimitHit("ratio", f"more than {self.limits.ratio} times its size")
