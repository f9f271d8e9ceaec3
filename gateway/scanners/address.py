# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a scanner listens, and a stream to it.

Reads the administrator's configuration only. A host may be a name; the system's resolver
has time limits of its own, so a literal address is the better choice.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Address:
    """A unix socket (`path`) or a TCP end point (`host` and `port`)."""

    path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read `unix:/path`, `host:port`, `inet:host:port` or `[2001:db8::1]:port`.

    Raises ValueError with the faulty text.
    """
    kind, _, rest = text.partition(":")
    if kind == "unix" or text.startswith("/"):
        path = rest if kind == "unix" else text
        if not path.startswith("/") or "\0" in path or len(path) > 107:  # sockaddr_un
            raise ValueError(f"not the path of a unix socket: {text!r}")
        return Address(path=path)
    host, _, port = (rest if kind == "inet" else text).rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65_536:
        raise ValueError(f"not an address (unix:/path or host:port): {text!r}")
    return Address(host=host, port=int(port))


def connect(address: Address, timeout: float) -> socket.socket:
    """Open a stream; raises OSError, TimeoutError among it, after `timeout` seconds."""
    if not address.path:
        stream = socket.create_connection((address.host, address.port), timeout=timeout)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return stream
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        stream.settimeout(timeout)
        stream.connect(address.path)
    except BaseException:
        stream.close()
        raise
    return stream
