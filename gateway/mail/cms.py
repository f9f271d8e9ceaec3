# SPDX-License-Identifier: GPL-2.0-or-later
"""S/MIME messages that are signed or compressed, but not encrypted (RFC 5652, RFC 3274), and what is in them.

Reads hostile bytes, BER or DER, also in PEM; linear, bounded, and never an exception. Clients show what is
in them as the message. Only the octets are wanted: no signature is looked at, so that no library for
ASN.1 is needed.
"""

from __future__ import annotations

import re
import zlib

from gateway.mail.charsets import lenient_base64

MAX_INFLATED = 20_000_000

_PEM = re.compile(rb"\s*+-----BEGIN (?:PKCS ?#?7|CMS)(?: SIGNED DATA)?-----[ \t]*+\r?\n([A-Za-z0-9+/=\s]*+)")
_COMPRESSED_DATA = b"\x06\x0b\x2a\x86\x48\x86\xf7\x0d\x01\x09\x10\x01\x09"
_SIGNED_DATA = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02"
_DATA = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01"
_MAX_CHUNKS = 100_000


def content(data: bytes) -> bytes:
    """What is signed (RFC 5652 §5.1) or compressed (RFC 3274 §1.1), b"" if there is none.

    Of what is compressed there is one octet more than `MAX_INFLATED` if there is more than that.
    """
    if pem := _PEM.match(data):
        data = lenient_base64(pem[1])
    compressed = data.find(_COMPRESSED_DATA, 0, 40)
    outer = compressed if compressed >= 0 else data.find(_SIGNED_DATA, 0, 40)
    inner = data.find(_DATA, outer, outer + 400) if outer >= 0 else -1
    if inner < 0:
        return b""
    octets = _octets(data, inner + len(_DATA))
    return octets if compressed < 0 else _inflated(octets)


def _inflated(data: bytes) -> bytes:
    try:
        return zlib.decompressobj(-15).decompress(
            data[2:], MAX_INFLATED + 1
        )  # a wrong checksum hides nothing
    except zlib.error:
        return b""


def _octets(data: bytes, position: int) -> bytes:
    """Join the octet strings that stand from `position` on."""
    chunks = []
    for _ in range(_MAX_CHUNKS):
        if position + 2 > len(data):
            break
        tag, length = data[position], data[position + 1]
        position += 2
        if length > 0x84:
            break
        if length > 0x80:
            octets = length & 0x7F
            length = int.from_bytes(data[position : position + octets], "big")
            position += octets
        elif length == 0x80:
            length = 0
            if tag not in (0xA0, 0x24):
                break
        if tag == 0x04:
            chunks.append(data[position : position + length])
            position += length
        elif tag not in (0xA0, 0x24):  # the explicit tag, or an octet string in pieces
            break
    return b"".join(chunks)
