# SPDX-License-Identifier: GPL-2.0-or-later
"""A real clamd with a tiny signature database of its own, up in about a second.

It knows the EICAR test file and one test signature of ours. Both strings are put together at run
time, so that no scanner trips over this source.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from contrib.lab.process import Server, free_port, listens, program

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

EICAR = b"X5O!P%@AP[4" + b"\\PZX54(P^)7CC)7}" + b"$EICAR-STANDARD-" + b"ANTIVIRUS-TEST-FILE!" + b"$H+H*"
TEST_VIRUS = b"Mailwarden test signature " + b"4f1d7c62-9a0e-4f6b" + b"-8c35-2e7b9d1a6c40"

SIGNATURES: Mapping[str, tuple[str, bytes]] = {
    "Eicar-Test-Signature": ("0", EICAR),  # at the start of a file, as ClamAV's own
    "Mailwarden.Test.Signature": ("*", TEST_VIRUS),
}

_CONFIG = """\
LogTime yes
DatabaseDirectory {database}
LocalSocket {socket}
LocalSocketMode 666
FixStaleSocket yes
TCPSocket {port}
TCPAddr 127.0.0.1
TemporaryDirectory {temporary}
Foreground yes
MaxThreads 4
AlertExceedsMax yes
SelfCheck 3600
"""


class Clamd(Server):
    """clamd on `self.socket` (unix) and 127.0.0.1:`self.port`. `options` go into clamd.conf."""

    name = "clamd"

    def __init__(
        self,
        directory: Path,
        signatures: Mapping[str, tuple[str, bytes]] = SIGNATURES,
        options: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(directory)
        self.socket = self.directory / "clamd.sock"
        self.port = free_port()
        self.options = dict(options or {})
        database = self.directory / "database"
        temporary = self.directory / "temporary"
        database.mkdir(exist_ok=True)
        temporary.mkdir(exist_ok=True)
        lines = [f"{name}:0:{offset}:{text.hex()}\n" for name, (offset, text) in signatures.items()]
        (database / "test.ndb").write_text("".join(lines))
        self.config = self.directory / "clamd.conf"
        settings = _CONFIG.format(database=database, socket=self.socket, port=self.port, temporary=temporary)
        kept = [line for line in settings.splitlines() if line.split()[0] not in self.options]
        kept += [f"{key} {value}" for key, value in self.options.items()]
        self.config.write_text("\n".join(kept) + "\n")

    @property
    def addresses(self) -> tuple[str, str]:
        """The unix and the TCP address, as the gateway's settings write them."""
        return f"unix:{self.socket}", f"127.0.0.1:{self.port}"

    def command(self) -> Sequence[str]:
        return [program("clamd") or "clamd", f"--config-file={self.config}"]

    def environment(self) -> Mapping[str, str]:
        return {**os.environ, "LC_ALL": "C"}

    def is_up(self) -> bool:
        return listens(str(self.socket)) and listens(("127.0.0.1", self.port))
