# SPDX-License-Identifier: GPL-2.0-or-later
"""Mail as people report it: what delivery added goes, and nearly identical messages are known.

Reads hostile messages, linear in their size. Never learned: test strings, and empty messages.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import numpy as np

from gateway.classifier.features import key

if TYPE_CHECKING:
    from gateway.classifier.features import Features

# Split, so that this file and mail about it do not trip a filter.
_TESTS: Final = (
    b"XJS*C4JDBQADN1.NSBN3*2IDNEN*" + b"GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X",
    b"EICAR-STANDARD-" + b"ANTIVIRUS-TEST-FILE",
    b"WDVPIVAlQEFQWzRcUFpYNTQoUF4pN0ND" + b"KTd9JEVJQ0FS",  # EICAR in base64
)
_ADDED: Final = re.compile(
    rb"(?i)^(?:return-path|delivered-to|x-original-to|x-spam-[^:]*|x-virus-[^:]*|x-mailwarden[^:]*"
    rb"|authentication-results|received-spf|x-rspamd-[^:]*|x-gmail-labels|status|x-status|x-keywords|x-uid):"
)
_DELIVERY: Final = re.compile(rb"(?i)^(?:return-path|delivered-to|x-original-to):")
_FIELD: Final = re.compile(rb"[^\r\n]*(?:\r?\n[ \t][^\r\n]*)*(?:\r?\n|\Z)")
_FEW: Final = 8  # words below which only identical messages are the same
_PRIMES: Final = np.array([2654435761, 2246822519, 3266489917, 668265263], np.uint64)


def refusal(raw: bytes, features: Features) -> str:
    """Say why a message must not be learned; "" if it may be."""
    if any(test in raw for test in _TESTS):
        return "a test string for filters"
    if not features.words and not features.running.strip():
        return "an empty message"
    return ""


def as_received(raw: bytes) -> bytes:
    """Take away what was added after we saw the message: by delivery, by filters, by mail stores.

    The model must not learn a verdict that a filter wrote, its own least of all.
    """
    end = re.search(rb"\r?\n\r?\n", raw)
    head, rest = (raw[: end.start() + 1], raw[end.start() + 1 :]) if end else (raw, b"")
    if head.endswith(b"\r"):
        head, rest = head[:-1], b"\r" + rest
    fields = [found[0] for found in _FIELD.finditer(head) if found[0]]
    if fields and _DELIVERY.match(fields[0]):  # a delivery agent's; our own server's trace comes next
        first = next((n for n, field in enumerate(fields) if field[:9].lower() == b"received:"), None)
        if first is not None:
            del fields[first]
    kept = [field for field in fields if not _ADDED.match(field)]
    text = b"".join(kept)
    return text + (rest if not text.endswith(b"\n") else rest.removeprefix(b"\r").removeprefix(b"\n"))


def sketch(features: Features, digest: str) -> tuple[int, int, int, int]:
    """Give four minima over the words; nearly the same words give nearly always three the same."""
    if features.words < _FEW:
        value = int(digest[:12], 16)
        return value, value + 1, value + 2, value + 3
    keys = np.fromiter(map(key, features.text[: features.words]), np.uint64, features.words)
    mixed = (keys[:, None] ^ (keys[:, None] >> np.uint64(15))) * _PRIMES[None, :]
    minima = ((mixed ^ (mixed >> np.uint64(29))) & np.uint64(0xFFFFFFFFFF)).min(axis=0)
    return int(minima[0]), int(minima[1]), int(minima[2]), int(minima[3])
