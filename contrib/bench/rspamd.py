# SPDX-License-Identifier: GPL-2.0-or-later
"""A private rspamd from the installed package: its configuration, with overrides of our own.

Processes and modules are as Debian has them: one proxy that hands messages to normal workers, and
all modules, whose DNS questions the given server answers.

`lean` leaves as little as it gets: proxy workers speak the milter protocol and scan by themselves
("self-scan"); what would ask the network beyond the given DNS server and clamd is off (RBL, fuzzy,
feeds), and so is all that needs Redis. What it is asked to do then is what Mailwarden does: DKIM,
SPF, DMARC, ARC, the antivirus scanner on the whole message, MIME, regular expressions.
"""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING

from contrib.lab.milter_client import MilterClient
from contrib.lab.process import Server, free_port, program

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_OFF = (
    *("rbl", "fuzzy_check", "asn", "url_redirector", "neural", "history_redis", "ratelimit", "greylist"),
    *("replies", "reputation", "mx_check", "bimi", "rspamd_update", "dcc", "p0f", "clickhouse", "elastic"),
)


class Rspamd(Server):
    """rspamd as a milter on 127.0.0.1:`self.port`, with `workers` processes."""

    name = "rspamd"
    start_seconds = 60.0

    def __init__(
        self, directory: Path, *, clamd: str, nameserver: str, workers: int, lean: bool = False
    ) -> None:
        super().__init__(directory)
        self.port = free_port()
        self.started_in = 0.0
        local = self.directory / "local.d"
        for folder in (local, self.directory / "db", self.directory / "run"):
            folder.mkdir(exist_ok=True)
        for folder in (self.directory, self.directory / "db", self.directory / "run"):
            shutil.chown(folder, "_rspamd", "_rspamd")
        scanner = free_port()
        files = {
            "worker-normal.inc": f'bind_socket = "127.0.0.1:{scanner}"; count = {workers};'
            if not lean
            else "enabled = false;",
            "worker-controller.inc": "enabled = false;",
            "worker-fuzzy.inc": "enabled = false;",
            "worker-proxy.inc": f"""
                bind_socket = "127.0.0.1:{self.port}";
                count = {workers if lean else 1};
                milter = yes;
                upstream "local" {{
                    default = yes;
                    {"self_scan = yes" if lean else f'hosts = "127.0.0.1:{scanner}"'};
                }}
            """,
            "options.inc": f"""
                dns {{ nameserver = ["{nameserver}"]; timeout = 3s; retransmits = 2; }}
                disable_monitoring = true;
                local_addrs = ["127.0.0.1/32"];
            """,
            "logging.inc": 'type = "console"; level = "warning";',
            "antivirus.conf": f"""
                clamav {{
                    type = "clamav"; symbol = "CLAM_VIRUS"; action = "reject";
                    scan_mime_parts = false; servers = "{clamd.removeprefix("unix:")}";
                }}
            """,
        }
        if lean:
            files["phishing.conf"] = "openphish_enabled = false; phishtank_enabled = false;"
            files |= {f"{module}.conf": "enabled = false;" for module in _OFF}
        for file, text in files.items():
            (local / file).write_text(text)

    def command(self) -> Sequence[str]:
        variables = {
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
            "--user=_rspamd",
            "--group=_rspamd",
        ]

    def start(self) -> Rspamd:
        begin = time.monotonic()
        super().start()
        self.started_in = time.monotonic() - begin
        return self

    def stop(self, seconds: float = 10.0) -> int | None:
        """Stop it, and remove the shared memory that it leaves."""
        status = super().stop(seconds)
        shutil.rmtree(self.directory / "db", ignore_errors=True)
        return status

    def is_up(self) -> bool:
        try:
            MilterClient(("127.0.0.1", self.port), timeout=5).close()
        except Exception:  # noqa: BLE001  # whatever it says, it is not up yet
            return False
        return True
