# SPDX-License-Identifier: GPL-2.0-or-later
"""A private PostgreSQL server on a free port of the loopback, with one empty database."""

from __future__ import annotations

import importlib.util
import os
import pwd
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from contrib.lab.process import Server, free_port, listens

if TYPE_CHECKING:
    from collections.abc import Sequence

_USER = "postgres"  # the server refuses to run as root


class Postgresql(Server):
    """The server, with its data in `directory`. Syncs as an installed one does."""

    name = "postgresql"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.port = free_port()
        self._data = self.directory / "data"
        if os.geteuid() == 0:
            account = pwd.getpwnam(_USER)
            os.chown(self.directory, account.pw_uid, account.pw_gid)
        self._run(
            "initdb",
            "--pgdata",
            str(self._data),
            "--username",
            _USER,
            "--auth",
            "trust",
            "--encoding",
            "UTF8",
        )

    @staticmethod
    def available() -> bool:
        """Whether both the server and the driver are installed."""
        return _program("initdb") is not None and importlib.util.find_spec("psycopg") is not None

    @property
    def url(self) -> str:
        """The database as the configuration names it."""
        return f"postgresql://{_USER}@127.0.0.1:{self.port}/postgres"

    def command(self) -> Sequence[str]:
        return [
            *_as_user(),
            str(_program("postgres")),
            *("-D", str(self._data), "-p", str(self.port), "-k", str(self.directory)),
            *("-c", "listen_addresses=127.0.0.1", "-c", "max_connections=200"),
        ]

    def is_up(self) -> bool:
        if not listens(("127.0.0.1", self.port)):
            return False
        asked = [*_as_user(), str(_program("pg_isready")), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(asked, check=False).returncode == 0

    def _run(self, name: str, *arguments: str) -> None:
        subprocess.run(
            [*_as_user(), str(_program(name)), *arguments],
            cwd=self.directory,
            capture_output=True,
            check=True,
        )


def _as_user() -> list[str]:
    return ["setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--init-groups"] if os.geteuid() == 0 else []


def _program(name: str) -> Path | None:
    """Find a program where Debian puts it: one folder for each version."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    return found[-1] if found else None
