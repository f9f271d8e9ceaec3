# SPDX-License-Identifier: GPL-2.0-or-later
"""Our own names and passwords at next hops, from a file that only we may read.

Reads a file of the administrator. A password is shown nowhere: not in a value's repr, not in an error.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gateway.delivery.routes import NextHop

_LARGEST: Final = 1_048_576
_LONGEST: Final = 500  # octets of a name and of a password


@dataclass(frozen=True, slots=True)
class Login:
    """A name and its password at a next hop."""

    name: str
    password: str = field(repr=False)


def read_logins(path: Path) -> Mapping[str, Login]:
    """Read the logins by "host:port", or "host" for all ports of it, in lower case.

    A line is `host[:port] name password`; the password reaches to the end of the line. Raises ValueError
    with the line, and OSError; both without a password.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise ValueError(f"{path} is not a regular file")
        if about.st_mode & (stat.S_IRWXO | stat.S_IWGRP):
            mode = stat.S_IMODE(about.st_mode)
            raise ValueError(f"{path} has passwords and mode {mode:04o}: chmod 0600 (or 0640) {path}")
        data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise ValueError(f"{path} is larger than {_LARGEST} octets")
    found: dict[str, Login] = {}
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        words = line.split(None, 2)
        if len(words) != 3:
            raise ValueError(f"{path}, line {number}: not `host[:port] name password`")
        host, name, password = words
        if any(c < " " or c in {"\x7f", "\ufffd"} for c in name + password) or any(
            len(word.encode()) > _LONGEST for word in (name, password)
        ):
            raise ValueError(f"{path}, line {number}: a name or password that cannot be sent")
        if found.setdefault(host.lower(), login := Login(name, password)) is not login:
            raise ValueError(f"{path}, line {number}: a second login for {host}")
    return found


def login_for(hop: NextHop, logins: Mapping[str, Login]) -> Login | None:
    """The login at a server."""
    host = f"[{hop.host}]" if ":" in hop.host else hop.host.lower()
    return logins.get(f"{host}:{hop.port}") or logins.get(host)
