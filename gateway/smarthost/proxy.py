# SPDX-License-Identifier: GPL-2.0-or-later
"""The PROXY protocol, versions 1 and 2: for whom a listed proxy opened this connection.

Reads bytes from peers that the administrator has listed as proxies, and from nobody else. From them a
header must come, so that no client behind a proxy can be taken for it; exactly its octets are
taken from the socket, since TLS may begin behind it. Its length is bounded, and its time is the caller's.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

_V1 = re.compile(rb"PROXY (TCP4|TCP6) ([0-9A-Fa-f:.]{2,45}) ([0-9A-Fa-f:.]{2,45}) ([0-9]{1,5}) ([0-9]{1,5})")
_UNKNOWN = re.compile(rb"PROXY UNKNOWN( [!-~ ]*)?")
_LONGEST_V1 = 107  # octets, CRLF included
_SHORTEST_V1 = len(b"PROXY UNKNOWN\r\n")
_V2 = b"\r\n\r\n\x00\r\nQUIT\n"
_LONGEST_V2 = 2_048  # octets behind the first 16: addresses, and what else proxies have to tell
_ADDRESSES = {0x1: 4, 0x2: 16}  # families with an address of the client, and its octets


class ProxyError(Exception):
    """No header, or none that could be understood; the text says what is wrong."""


async def client_of(connection: socket.socket) -> str | None:
    """The client's IP address, None where the proxy speaks for itself. Raises ProxyError, OSError.

    `connection` does not block, and nothing was read from it yet.
    """
    start = await _exactly(connection, _SHORTEST_V1)
    if start.startswith(_V2):
        rest = start[len(_V2) :] + await _exactly(connection, 16 - len(start))
        (length,) = struct.unpack("!H", rest[2:])
        if length > _LONGEST_V2:
            raise ProxyError(f"a header of {length} octets")
        return version_2(rest[0], rest[1], await _exactly(connection, length))
    if not start.startswith(b"PROXY "):
        raise ProxyError("no header")
    line = bytearray(start)
    while not line.endswith(b"\n"):
        if len(line) >= _LONGEST_V1:
            raise ProxyError("a line without an end")
        line += await _exactly(connection, 1)
    return version_1(bytes(line))


def version_1(line: bytes) -> str | None:
    """What a line of version 1 says, its CRLF included. Raises ProxyError."""
    if not line.endswith(b"\r\n"):
        raise ProxyError("a line that does not end in CRLF")
    if _UNKNOWN.fullmatch(line[:-2]):
        return None
    found = _V1.fullmatch(line[:-2])
    if found is None or max(int(found[4]), int(found[5])) > 65_535:
        raise ProxyError("a line that is none of version 1")
    kind = ipaddress.IPv4Address if found[1] == b"TCP4" else ipaddress.IPv6Address
    try:
        kind(found[3].decode())
        return str(kind(found[2].decode()))
    except ValueError:
        raise ProxyError("an address that is none") from None


def version_2(command: int, family: int, data: bytes) -> str | None:
    """What a header of version 2 says, `data` being all behind its length. Raises ProxyError."""
    if command == 0x20:  # LOCAL: the proxy's own connection
        return None
    if command != 0x21:
        raise ProxyError(f"version and command {command:#x}")
    size = _ADDRESSES.get(family >> 4)
    if family & 0x0F not in (0, 1) or (family >> 4) > 0x3:
        raise ProxyError(f"address family and protocol {family:#x}")
    if size is None or not family & 0x0F:  # AF_UNSPEC and AF_UNIX, which have no address for us
        return None
    if len(data) < 2 * size + 4:
        raise ProxyError("a header that is too short for its addresses")
    return str(ipaddress.ip_address(data[:size]))


async def _exactly(connection: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    found = b""
    while len(found) < size:
        more = await loop.sock_recv(connection, size - len(found))
        if not more:
            raise ProxyError("gone within the header")
        found += more
    return found
