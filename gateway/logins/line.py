# SPDX-License-Identifier: GPL-2.0-or-later
"""A connection to an LDAP directory, for libldap: TLS here, its octets through a pair of sockets.

Debian's libldap, whose TLS is GnuTLS's, spins for ever in a handshake with a server that says nothing,
whatever time it is given. So TLS is Python's, as everywhere else; and since all goes through here, all of it
is over when its time is, or when a directory says too much. Reads octets of a server that the administrator
named, which are hostile until TLS has verified it: the answer to StartTLS, of bounded length.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCK = 16_384
_MOST = 1 << 20  # octets that a directory may say
_LONGEST = 4_096  # octets of its answer to StartTLS
# The request for StartTLS (RFC 4511 §4.14.1), as message 1.
_START_TLS = bytes.fromhex("301d02010177188016") + b"1.3.6.1.4.1.1466.20037"


@contextlib.contextmanager
def line(
    where: str | tuple[str, int], tls: ssl.SSLContext | None, end: float, *, start_tls: bool
) -> Iterator[int]:
    """The descriptor to speak LDAP by, until `end` of the monotonic clock. Its user closes it.

    `where` is a path, or host and port. Raises OSError and ValueError.
    """
    with contextlib.ExitStack() as stack:
        far = stack.enter_context(_connected(where, end))
        if tls is not None and not isinstance(where, str):
            if start_tls:
                _ask_for_tls(far)
            far.settimeout(_left(end))
            far = stack.enter_context(tls.wrap_socket(far, server_hostname=where[0]))
        near, given = socket.socketpair()
        stack.enter_context(near)
        pump = threading.Thread(target=_pump, args=(near, far, end), name="ldap", daemon=True)
        pump.start()
        try:
            yield given.detach()
        finally:
            with contextlib.suppress(OSError):
                near.shutdown(socket.SHUT_RDWR)
            pump.join()


def _left(end: float) -> float:
    return max(0.01, end - time.monotonic())


def _connected(where: str | tuple[str, int], end: float) -> socket.socket:
    if not isinstance(where, str):
        return socket.create_connection(where, _left(end))
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        found.settimeout(_left(end))
        found.connect(where)
    except OSError:
        found.close()
        raise
    return found


def _pump(near: socket.socket, far: socket.socket, end: float) -> None:
    """Carry octets both ways until one side closes, or time or room is used up."""
    said = 0
    with contextlib.suppress(OSError), near:
        while said < _MOST and time.monotonic() < end:
            ready, _, _ = select.select([near, far], [], [], _left(end))
            far.settimeout(_left(end))
            if near in ready:
                data = near.recv(_BLOCK)
                if not data:
                    return
                far.sendall(data)
            if far in ready:
                data = far.recv(_BLOCK)
                while data and isinstance(far, ssl.SSLSocket) and far.pending() and len(data) < _MOST:
                    data += far.recv(_BLOCK)
                if not data:
                    return
                said += len(data)
                near.settimeout(_left(end))
                near.sendall(data)


def _ask_for_tls(far: socket.socket) -> None:
    """Send StartTLS and read the answer, and not an octet more. Raises OSError, ValueError."""
    far.sendall(_START_TLS)
    message = _element(far)
    # LDAPMessage: its number, then [APPLICATION 24] with a resultCode in front (RFC 4511 §4.1.1, §4.12).
    start = 2 + message[1] if message[:1] == b"\x02" and len(message) > 1 else len(message)
    answer = message[start:]
    wide = 1 + (answer[1] & 0x7F) if answer[1:2] > b"\x80" else 1
    if answer[:1] != b"\x78" or answer[1 + wide : 4 + wide] != b"\x0a\x01\x00":
        raise ValueError("the directory offers no StartTLS")


def _element(far: socket.socket) -> bytes:
    """The contents of one SEQUENCE of bounded length."""
    tag, size = _exactly(far, 2)
    if size & 0x80:
        if not 0x81 <= size <= 0x84:
            raise ValueError("the directory does not speak LDAP")
        size = int.from_bytes(_exactly(far, size & 0x7F), "big")
    if tag != 0x30 or size > _LONGEST:
        raise ValueError("the directory does not speak LDAP")
    return _exactly(far, size)


def _exactly(far: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        more = far.recv(size - len(found))
        if not more:
            raise ConnectionError("the directory closed the connection")
        found += more
    return found
