# SPDX-License-Identifier: GPL-2.0-or-later
"""What parent and child say to each other: a length, JSON, and raw octets behind it.

The parent reads hostile bytes here: a child that a hostile archive has taken over answers what it
likes. Lengths are bounded, the JSON is decoded into typed values, and what does not fit is a
`FrameError`, after which the child is killed.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import msgspec

from gateway.mail.types import Unpacked
from gateway.scanners.unpack.budget import Limits

if TYPE_CHECKING:
    from collections.abc import Sequence

HEAD = struct.Struct("!II")  # octets of the JSON, and of what follows it
MAX_JSON = 8_000_000
MAX_RAW = 1_000_000_000


class FrameError(Exception):
    """The other side does not keep to the protocol."""


class Request(msgspec.Struct, frozen=True):
    """Attachments to open, each as (index, name, octets); their contents follow in this order."""

    limits: Limits
    passwords: tuple[str, ...]
    items: tuple[tuple[int, str, int], ...]


class Answer(msgspec.Struct, frozen=True):
    """What was found. The parts for the virus scanner follow, `parts` octets each."""

    unpacked: Unpacked
    parts: tuple[int, ...] = ()
    text: str = ""  # of documents


_requests = msgspec.json.Decoder(Request)
_answers = msgspec.json.Decoder(Answer)


def head(value: Request | Answer, sizes: Sequence[int]) -> bytes:
    """The first octets of a frame: lengths and JSON."""
    text = msgspec.json.encode(value)
    return HEAD.pack(len(text), sum(sizes)) + text


def lengths(data: bytes, most_raw: int) -> tuple[int, int]:
    """Read the lengths that start a frame."""
    text, raw = HEAD.unpack(data)
    if text > MAX_JSON or raw > most_raw:
        raise FrameError(f"a frame of {text} and {raw} octets")
    return text, raw


def request(text: bytes) -> Request:
    """Decode what the parent asks."""
    return _requests.decode(text)


def answer(text: bytes, raw: bytes) -> tuple[Unpacked, tuple[bytes, ...], str]:
    """Decode what a child answers, and cut the parts out."""
    try:
        value = _answers.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise FrameError(f"an answer that is none: {error}") from error
    if min(value.parts, default=0) < 0 or sum(value.parts) != len(raw):
        raise FrameError("an answer whose parts do not add up")
    parts, start = [], 0
    for size in value.parts:
        parts.append(raw[start : start + size])
        start += size
    return value.unpacked, tuple(parts), value.text
