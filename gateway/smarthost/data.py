# SPDX-License-Identifier: GPL-2.0-or-later
"""The message after DATA or in chunks: where it ends, and whether its line ends are sound. No I/O.

Reads hostile bytes. Only CRLF "." CRLF ends a message (RFC 5321 §4.1.1.4). A bare CR, a bare LF
or a NUL condemns it, since another server may see an end there that we do not (SMTP smuggling):
it is read to its end, thrown away and never passed on. The same holds for chunks (RFC 3030), since the
message may go on by DATA. Linear in what is fed; memory is bounded by the size limit.
"""

from __future__ import annotations

from typing import Literal

Fault = Literal["", "size", "line", "nul", "memory"]
_END = b"\r\n.\r\n"


class DataReader:
    """Collects a message from chunks of any size.

    `fault` is "" while the message may be taken. `rest` is what came behind its end.
    """

    __slots__ = ("_data", "_ends", "_limit", "fault", "rest", "size")

    def __init__(self, limit: int) -> None:
        self.fault: Fault = ""
        self.rest = b""
        self.size = 0
        self._limit = limit
        # The CRLF that ended the DATA command also begins the first line.
        self._data = bytearray(b"\r\n")
        self._ends = LineEnds()

    def feed(self, chunk: bytes) -> bool:
        """Take `chunk`; whether the end of the message has come."""
        before = len(self._data)
        self._data += chunk
        end = self._data.find(_END, max(0, before - len(_END) + 1))
        if end >= 0:
            taken = end + len(_END) - before
            self.rest = chunk[taken:]
            chunk = chunk[:taken]
            del self._data[end + 2 :]
        self._inspect(chunk)
        if self.size > self._limit and not self.fault:
            self.fault = "size"
        if self.fault and end < 0:
            del self._data[:-4]  # only what the search for the end needs
        return end >= 0

    @property
    def held(self) -> int:
        """Octets of the message in memory."""
        return len(self._data)

    def condemn(self) -> None:
        """There is no memory for it: read on to its end and throw it away."""
        self.fault = "memory"

    def message(self) -> bytes:
        """The message as it was before dot-stuffing, CRLF line ends (RFC 5321 §4.5.2)."""
        assert not self.fault
        # No two "CRLF ." overlap, so one pass takes one dot from each line that begins with one.
        return bytes(memoryview(self._data.replace(b"\r\n.", b"\r\n"))[2:])

    def _inspect(self, chunk: bytes) -> None:
        self.size += len(chunk)
        if self.fault not in ("line", "nul"):  # the worst is known
            self.fault = self._ends.fault_in(chunk) or self.fault


class ChunkReader:
    """Collects a message from chunks whose octets the client has counted (BDAT, RFC 3030).

    `fault` is "" while the message may be taken.
    """

    __slots__ = ("_data", "_ends", "_limit", "fault", "size")

    def __init__(self, limit: int) -> None:
        self.fault: Fault = ""
        self.size = 0
        self._limit = limit
        self._data = bytearray()
        self._ends = LineEnds()

    def feed(self, octets: bytes) -> None:
        """Take octets of a chunk."""
        self.size += len(octets)
        if self.fault:
            return
        self.fault = self._ends.fault_in(octets) or ("size" if self.size > self._limit else "")
        if self.fault:
            self._data.clear()
        else:
            self._data += octets

    def end(self) -> None:
        """The last octet has been fed."""
        if self._ends.partial:
            self.fault = self.fault or "line"

    @property
    def held(self) -> int:
        """Octets of the message in memory."""
        return len(self._data)

    def condemn(self) -> None:
        """There is no memory for it."""
        self.fault = self.fault or "memory"
        self._data.clear()

    def message(self) -> bytes:
        """The message; its last line gets the CRLF that it may lack here, and nowhere else."""
        assert not self.fault
        whole = bytes(self._data)
        return whole if not whole or whole.endswith(b"\r\n") else whole + b"\r\n"


class LineEnds:
    """Whether all CR and LF come as CRLF, in octets fed in any pieces."""

    __slots__ = ("partial",)

    def __init__(self) -> None:
        self.partial = False  # the last octet was CR, and waits for its LF

    def fault_in(self, octets: bytes) -> Fault:
        """What is wrong with the next octets, "" if nothing is."""
        if not octets:
            return ""
        pairs = octets.count(b"\r\n")
        returns, feeds = octets.count(b"\r"), octets.count(b"\n")
        if self.partial:
            returns += 1
            if octets.startswith(b"\n"):
                pairs += 1
        self.partial = octets.endswith(b"\r")
        if feeds != pairs or returns != pairs + self.partial:
            return "line"
        return "nul" if b"\0" in octets else ""
