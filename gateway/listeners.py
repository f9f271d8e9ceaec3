# SPDX-License-Identifier: GPL-2.0-or-later
"""The sockets of both doors, bound once by the supervisor and shared by its workers."""

from __future__ import annotations

import grp
import os
import socket
import stat
import time
from pathlib import Path

BACKLOG = 512
_RETRY_SECONDS = 8.0  # an old worker may hold the address for as long as it drains


class ListenError(Exception):
    """An address that cannot be listened on; the text says why and what to do."""


def bind(address: str, *, mode: int = 0o660, group: str = "") -> socket.socket:
    """Bind and listen on "unix:/path", "inet:host:port" or "host:port". Raises `ListenError`."""
    try:
        if address.startswith("unix:"):
            return _bind_unix(Path(address.removeprefix("unix:")), mode, group)
        return _bind_tcp(*split_host_port(address.removeprefix("inet:")))
    except (OSError, KeyError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ListenError(f"cannot listen on {address}: {reason}") from error


def split_host_port(text: str) -> tuple[str, int]:
    """Split "host:port" or "[IPv6]:port". Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f'"{text}" is not host:port')
    return host.strip("[]"), int(port)


def _bind_unix(path: Path, mode: int, group: str) -> socket.socket:
    if path.exists() or path.is_symlink():
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(None, "there is a file of that name, and it is no socket")
        if _answers(path):
            raise OSError(None, "another process listens there")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o777 & ~mode)
    try:
        listener.bind(str(path))
        if group:
            os.chown(path, -1, grp.getgrnam(group).gr_gid)
    except (OSError, KeyError):
        listener.close()
        raise
    finally:
        os.umask(before)
    return _listening(listener)


def _answers(path: Path) -> bool:
    """Whether somebody accepts on this socket; an orphan refuses and may be replaced."""
    end = time.monotonic() + _RETRY_SECONDS
    while True:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1)
            try:
                probe.connect(str(path))
            except OSError:
                return False
        if time.monotonic() > end:
            return True
        time.sleep(0.2)


def _bind_tcp(host: str, port: int) -> socket.socket:
    family, _, _, _, name = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Accepted sockets inherit it: without, libmilter's small packets wait for acknowledgements.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    end = time.monotonic() + _RETRY_SECONDS
    while True:
        try:
            listener.bind(name)
            return _listening(listener)
        except OSError as error:
            if error.errno != 98 or time.monotonic() > end:  # EADDRINUSE
                listener.close()
                raise
            time.sleep(0.2)


def _listening(listener: socket.socket) -> socket.socket:
    listener.listen(BACKLOG)
    # Several workers wait on it: one that loses the race must not block in accept.
    listener.setblocking(False)
    return listener
