# SPDX-License-Identifier: GPL-2.0-or-later
"""Mail as people report it: what delivery added goes, and nearly identical messages are known.

Reads hostile messages, linear in their size. Never learned: test strings, and empty messages.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Final

import numpy as np

from gateway.classifier.features import key
from gateway.mail.headers import printable

if TYPE_CHECKING:
    from gateway.classifier.features import Features
    from gateway.mail.types import Content

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
_ADDRESS: Final = re.compile(rb"\[(?:IPv6:)?([0-9A-Fa-f.:]{2,45})\]")
_INSIDE: Final = tuple(
    map(
        ip_network,
        ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "::1", "fc00::/7"),
    )
)
_OWN: Final = 5  # trace fields at the top that may be those of our own servers
_TRACE: Final = 300  # octets of one that are read
KEPT: Final = 65_536  # octets of a message that are kept, where bodies are
_FEW: Final = 8  # words below which only identical messages are the same
_NEAR: Final = 26  # equal minima of 32 that make two messages the same
_LAST: Final = np.uint64(0x9E3779B97F4A7C15)
_FACTORS: Final = (np.arange(1, 33, dtype=np.uint64) * np.uint64(0xD1342543DE82EF95)) | np.uint64(1)


def refusal(raw: bytes, features: Features, content: Content) -> str:
    """Say why a message must not be learned; "" if it may be.

    Test strings are seen in what was received, and in subject, texts and files once they are decoded,
    in all readings; not in archives.
    """
    texts = (content.subject, *(text.text for text in content.texts))
    plain = (raw, *content.readings, *(text.encode("utf-8", "replace") for text in texts))
    if any(test in octets for octets in (*plain, *(a.data for a in content.attachments)) for test in _TESTS):
        return "a test string for filters"
    if not features.words and not features.running.strip():
        return "an empty message"
    return ""


def received(raw: bytes) -> tuple[bytes, bytes]:
    """Give who sent us a stored message, as `trace` says it, and the message without what was added since.

    What was added: by delivery, by filters, by mail stores. The model must not learn a verdict that a
    filter wrote, its own least of all. Who sent it is known only where a delivery agent's field comes
    first, since then our own server's trace fields come next; the last of them, the first that names a
    public address, is of the client.
    """
    end = re.search(rb"(\r?\n)\r?\n", raw)
    head, rest = (raw[: end.end(1)], raw[end.end(1) :]) if end else (raw, b"")
    fields = [found[0] for found in _FIELD.finditer(head) if found[0]]
    client = b""
    if fields and _DELIVERY.match(fields[0]):
        traces = [n for n, field in enumerate(fields) if field[:9].lower() == b"received:"][:_OWN]
        ours = next((k for k, n in enumerate(traces) if _is_public(fields[n])), 0)
        if traces:
            client = b" ".join(fields[traces[ours]].split()).partition(b" by ")[0][:_TRACE] + b"\r\n"
        gone = set(traces[: ours + 1])
        fields = [field for n, field in enumerate(fields) if n not in gone]
    return client, b"".join(field for field in fields if not _ADDED.match(field)) + rest


def as_received(raw: bytes) -> bytes:
    """Give a stored message without what was added since we saw it."""
    return received(raw)[1]


def pack_body(client: bytes, raw: bytes) -> bytes:
    """Pack who sent a message (a line, "" if nobody knows) and its start, to be looked at anew some day."""
    return zlib.compress(client + b"\0" + raw[:KEPT], 6)


def unpack_body(data: bytes) -> tuple[bytes, bytes]:
    """Give what was packed. Raises ValueError for anything else."""
    try:
        plain = zlib.decompressobj().decompress(data, KEPT + _TRACE + 100)
    except zlib.error as error:
        raise ValueError(f"not a body: {error}") from error
    client, separator, raw = plain.partition(b"\0")
    if not separator:
        raise ValueError("not a body")
    return client, raw


def trace(helo: str, name: str, address: str) -> bytes:
    """Say which client sent a message, as a mail server's trace field begins; "" if there was none."""
    if not address:
        return b""
    if ":" in address:
        address = f"IPv6:{address.removeprefix('IPv6:')}"
    line = f"Received: from {printable(helo, 100)} ({printable(name, 100) or 'unknown'} [{address}])"
    return line.encode("ascii", "replace")[:_TRACE] + b"\r\n"


def _is_public(field: bytes) -> bool:
    found = _ADDRESS.search(field.partition(b" by ")[0])
    try:
        address = ip_address(found[1].decode("ascii")) if found else None
    except ValueError:
        return False
    return address is not None and not any(address in network for network in _INSIDE)


@dataclass(frozen=True, slots=True)
class Sketch:
    """What tells nearly identical messages: 32 minima over the words, and four bands to find them by."""

    bands: tuple[int, int, int, int]
    minima: bytes

    def near(self, other: Sketch) -> bool:
        """Tell whether both are of nearly the same words (about five of six, or more)."""
        if len(self.minima) != len(other.minima):
            return False
        mine, theirs = (np.frombuffer(sketch.minima, "<u2") for sketch in (self, other))
        return int(np.count_nonzero(mine == theirs)) >= _NEAR


def sketch(features: Features, digest: str) -> Sketch:
    """Sketch the words of a message; one of few words is like none but itself, by its `digest`."""
    if features.words < _FEW:
        alone = bytes.fromhex(digest)
        return Sketch(_bands(alone + alone), alone + alone)
    keys = np.fromiter(map(key, features.text[: features.words]), np.uint64, features.words)
    mixed = (keys[:, None] * _FACTORS[None, :]) >> np.uint64(24)
    minima = ((mixed.min(axis=0) * _LAST) >> np.uint64(48)).astype("<u2").tobytes()
    return Sketch(_bands(minima), minima)


def _bands(minima: bytes) -> tuple[int, int, int, int]:
    first, second, third, fourth = (
        int.from_bytes(hashlib.blake2b(minima[start : start + 10], digest_size=6).digest(), "big")
        for start in (0, 16, 32, 48)
    )
    return first, second, third, fourth
