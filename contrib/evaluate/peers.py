# SPDX-License-Identifier: GPL-2.0-or-later
"""Other filters on the same mail: bogofilter as it learns, SpamAssassin and rspamd untrained.

None of them asks the network. They are the installed Debian packages, in private directories.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import time
from typing import TYPE_CHECKING

from contrib.lab.process import Server, free_port, listens, program
from contrib.lab.spamd import STOCK, Spamd
from gateway.scanners.spamd import Spamd as Client
from gateway.scanners.spamd import SpamdSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

_SECONDS = 60.0  # for one message


class Bogofilter:
    """bogofilter with its own defaults and an empty word list in `directory`."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._command = [program("bogofilter") or "bogofilter", "-C", "-d", str(directory)]
        self._empty = True

    def score(self, message: bytes) -> float:
        """Give its spamicity, 0 to 1; 0.52, what it says of unknown words, before it has learned."""
        if self._empty:
            return 0.52
        done = subprocess.run(
            [*self._command, "-T"], input=message, capture_output=True, check=False, timeout=_SECONDS
        )
        if done.returncode not in {0, 1, 2}:  # spam, ham, unsure
            raise RuntimeError(f"bogofilter: {done.stderr.decode('utf-8', 'replace')[:300]}")
        return float(done.stdout.split()[1])

    def learn(self, message: bytes, *, spam: bool) -> None:
        """Register a message."""
        subprocess.run([*self._command, "-s" if spam else "-n"], input=message, check=True, timeout=_SECONDS)
        self._empty = False


def spamassassin(directory: Path, messages: Sequence[bytes]) -> Iterator[float]:
    """Score with SpamAssassin as packaged, without network and without Bayes."""
    with _StockSpamd(directory, STOCK) as server:
        client = Client(SpamdSettings(enabled=True, addresses=(server.address,), timeout=_SECONDS))
        for message in messages:
            answer = client.check(message, time.monotonic() + _SECONDS)
            if answer.status != "ok":
                raise RuntimeError(f"spamd: {answer.detail}")
            yield answer.score


class _StockSpamd(Spamd):
    """spamd with the plugins and settings of the Debian package."""

    def command(self) -> Sequence[str]:
        stock = [part for part in super().command() if not part.startswith("--siteconfigpath=")]
        return [*stock, "--siteconfigpath=/etc/spamassassin", "--cf=use_bayes 0"]


def rspamd(directory: Path, messages: Sequence[bytes]) -> Iterator[float]:
    """Score with rspamd as packaged, without DNS, and without what needs the network."""
    with _RspamdScanner(directory) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=_SECONDS)
        for message in messages:
            connection.request("POST", "/checkv2", message)
            yield float(json.loads(connection.getresponse().read())["score"])
        connection.close()


_OFF = ("rbl", "fuzzy_check", "asn", "url_redirector", "neural", "antivirus", "mx_check", "dcc", "p0f")


class _RspamdScanner(Server):
    """One scanning process of rspamd on 127.0.0.1:`self.port`."""

    name = "rspamd"
    start_seconds = 60.0

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.port = free_port()
        local = self.directory / "local.d"
        for folder in (local, self.directory / "db", self.directory / "run"):
            folder.mkdir(exist_ok=True)
        if os.geteuid() == 0:
            for folder in (self.directory, self.directory / "db", self.directory / "run"):
                shutil.chown(folder, "_rspamd", "_rspamd")
        files = {
            "worker-normal.inc": f'bind_socket = "127.0.0.1:{self.port}"; count = 1;',
            "worker-controller.inc": "enabled = false;",
            "worker-fuzzy.inc": "enabled = false;",
            "worker-proxy.inc": "enabled = false;",
            "options.inc": 'dns { nameserver = ["127.0.0.1:9"]; timeout = 0.01s; retransmits = 1; }\n'
            "disable_monitoring = true;",
            "logging.inc": 'type = "console"; level = "error";',
            "phishing.conf": "openphish_enabled = false; phishtank_enabled = false;",
            **{f"{module}.conf": "enabled = false;" for module in _OFF},
        }
        for file, text in files.items():
            (local / file).write_text(text)

    def command(self) -> Sequence[str]:
        variables: Mapping[str, Path] = {
            "LOCAL_CONFDIR": self.directory,
            "DBDIR": self.directory / "db",
            "RUNDIR": self.directory / "run",
            "LOGDIR": self.directory,
        }
        return [
            program("rspamd") or "rspamd",
            "--no-fork",
            "--config=/etc/rspamd/rspamd.conf",
            *(f"--var={name}={value}" for name, value in variables.items()),
            *(("--user=_rspamd", "--group=_rspamd") if os.geteuid() == 0 else ()),
        ]

    def is_up(self) -> bool:
        return listens(("127.0.0.1", self.port))
