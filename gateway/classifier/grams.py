# SPDX-License-Identifier: GPL-2.0-or-later
"""Running text as overlapping grams of five octets, hashed: for what words do not catch.

Reads hostile text, already folded and bounded by `features`. Linear in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LENGTH: Final = 5
BITS: Final = 18
BUCKETS: Final = 1 << BITS
_FACTOR: Final = np.uint64(0x9E3779B97F4A7C15)


def hashed(text: str) -> NDArray[np.intp]:
    """Give the bucket of the gram at each place of a text, in UTF-8."""
    octets = np.frombuffer(text.encode("utf-8", "replace"), np.uint8).astype(np.uint64)
    count = len(octets) - LENGTH + 1
    if count < 1:
        return np.zeros(0, np.intp)
    found = octets[:count].copy()
    for place in range(1, LENGTH):
        found <<= np.uint64(8)
        found |= octets[place : place + count]
    return ((found * _FACTOR) >> np.uint64(64 - BITS)).astype(np.intp)


def distinct(places: NDArray[np.intp]) -> NDArray[np.intp]:
    """Give the distinct buckets, in order."""
    ordered = np.sort(places)
    return ordered[np.concatenate(([True], ordered[1:] != ordered[:-1]))] if len(ordered) else ordered


def example(text: str, places: NDArray[np.intp], bucket: int) -> str:
    """Give the first gram of the text that falls into a bucket, as text."""
    at = int(np.flatnonzero(places == bucket)[0])
    return text.encode("utf-8", "replace")[at : at + LENGTH].decode("utf-8", "replace")
