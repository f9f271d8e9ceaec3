# SPDX-License-Identifier: GPL-2.0-or-later
"""The message after DATA: where it ends, and whether its line ends are sound. No I/O.

Reads hostile bytes. Only CRLF "." CRLF ends a message (RFC 5321 §4.1.1.4). A bare CR, a bare LF
or a NUL condemns it, since another server may see an end there that we do not (SMTP smuggling):
it is read to its end, thrown away and never passed on. Linear in what is fed; memory is bounded
by the size limit.
"""

from __future__ import annotations

from typing import Literal

_END = b"\r\n.\r\n"


class DataReader:
    """Collects a message from chunks of any size.

    `fault` is "" while the message may be taken. `rest` is what came behind its end.
    """

    __slots__ = ("_data", "_limit", "_partial_cr", "fault", "rest", "size")

    def __init__(self, limit: int) -> None:
        self.fault: Literal["", "size", "line", "nul", "memory"] = ""
        self.rest = b""
        self.size = 0
        self._limit = limit
        # The CRLF that ended the DATA command also begins the first line.
        self._data = bytearray(b"\r\n")
        self._partial_cr = False

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
        return bytes(self._data.replace(b"\r\n.", b"\r\n"))[2:]

    def _inspect(self, chunk: bytes) -> None:
        """Count line ends; a CR at the end of a chunk waits for its LF in the next one."""
        self.size += len(chunk)
        if self.fault in ("line", "nul") or not chunk:  # the worst is known
            return
        pairs = chunk.count(b"\r\n")
        returns, feeds = chunk.count(b"\r"), chunk.count(b"\n")
        if self._partial_cr:
            returns += 1
            if chunk.startswith(b"\n"):
                pairs += 1
        self._partial_cr = chunk.endswith(b"\r")
        if feeds != pairs or returns != pairs + self._partial_cr:
            self.fault = "line"
        elif b"\0" in chunk:
            self.fault = "nul"
