# SPDX-License-Identifier: GPL-2.0-or-later
"""What the unpacking of archives and documents may cost, and whether it happens."""

from __future__ import annotations

from typing import Annotated

import msgspec

from gateway.scanners.unpack.budget import Limits
from gateway.settings import Positive, Seconds, Settings

_LIMITS = Limits()
Processor = Annotated[float, msgspec.Meta(gt=0, le=60)]


class UnpackSettings(Settings, frozen=True):
    """Archives, Office documents and PDF, opened in child processes; a bound hit is ARCHIVE_LIMIT."""

    # Whether they are opened at all.
    enabled: bool = True
    # Child processes of each worker; they are started when the first archive comes.
    children: Annotated[int, msgspec.Meta(ge=1, le=64)] = 2
    # Seconds without work after which a child ends.
    idle: Seconds = 60.0
    # Messages after which a child is replaced.
    requests: Positive = 500
    # Seconds of processor time for one message.
    processor: Processor = _LIMITS.seconds
    # Seconds for one message by the clock, waiting for a free child not counted.
    timeout: Seconds = 10.0
    # Octets of memory (address space) of a child.
    memory: Annotated[int, msgspec.Meta(ge=100_000_000, le=16_000_000_000)] = 268_435_456
    # Octets of attachments that are handed to a child for one message.
    input: Positive = 60_000_000
    # Octets unpacked, all members and depths together.
    bytes: Positive = _LIMITS.bytes
    # Members, likewise.
    files: Positive = _LIMITS.files
    # Archives in one another.
    depth: Annotated[int, msgspec.Meta(ge=1, le=50)] = _LIMITS.depth
    # Octets of a large member for each octet it is packed in.
    ratio: Positive = _LIMITS.ratio
    # Octets of members that the virus scanner may not see by itself, and is given.
    parts: Positive = _LIMITS.parts
    # Characters of the text of documents that the classifier may read; 0 for none.
    text: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = _LIMITS.text
    # Words of the message tried as passwords of encrypted zip files; 0 tries none.
    passwords: Annotated[int, msgspec.Meta(ge=0, le=200)] = 30

    def limits(self) -> Limits:
        """Return what a child takes."""
        return Limits(
            bytes=self.bytes,
            files=self.files,
            depth=self.depth,
            ratio=self.ratio,
            seconds=self.processor,
            parts=self.parts,
            text=self.text,
        )
