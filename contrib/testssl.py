# SPDX-License-Identifier: GPL-2.0-or-later
"""Let testssl.sh look at the smart host's TLS: with STARTTLS as on port 25, and at once as on 465.

    python -m contrib.testssl

Prints all that it finds at "low" or above; the exit status is 1 if there is something. The certificate is
of the lab's own authority, which testssl.sh is told to trust; the DNS is not asked. Takes some minutes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrib.figures import write_figures
from contrib.lab.certificates import Authority
from contrib.lab.gateway import Gateway
from contrib.lab.process import free_port, program
from gateway.logins.hashes import new

if TYPE_CHECKING:
    from collections.abc import Sequence

FOUND = ("LOW", "MEDIUM", "HIGH", "CRITICAL")
_MINUTES = 15


def main() -> int:
    """Start a gateway and have it examined."""
    tool = program("testssl") or program("testssl.sh")
    if not tool:
        print("there is no testssl here; Debian's package is testssl.sh", file=sys.stderr)
        return 69
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="mailwarden-testssl-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        authority = Authority(directory / "ca")
        pair = authority.issue("localhost", days=90, crl="http://crl.example.org/lab.crl")
        clear, implicit = free_port(), free_port()
        (directory / "users").write_text(f"user:{new(b'password', bytes(16))}\n")
        config = {
            "hostname": "localhost",
            "domains": ["example.com"],
            "next_hop": "smtp:127.0.0.1:9",
            "grace": 3,
            "smarthost": {
                "listen": [f"127.0.0.1:{clear}"],
                "submissions": [f"127.0.0.1:{implicit}"],
                "certificate": str(pair.certificate),
                "key": str(pair.key),
                "workers": 1,
            },
            "login": {"users": f"file:{directory}/users"},
            "antivirus": {"enabled": False},
            "classifier": {"enabled": False},
            "http": {"listen": ""},
            "store": {"database": f"sqlite:///{directory}/mailwarden.db"},
        }
        with Gateway(directory, config):
            for how, port, options in (
                ("starttls", clear, ("--starttls", "smtp")),
                ("implicit", implicit, ()),
            ):
                rows = examine(tool, port, authority.certificate, directory / f"{how}.json", options)
                worse = [row for row in rows if row["severity"] in FOUND]
                figures[f"testssl_{how}_rows"] = len(rows)
                figures[f"testssl_{how}_found"] = len(worse)
                print(f"{how}: {len(rows)} rows, {len(worse)} at low or above")
                for row in worse:
                    print(f"    {row['severity']} {row['id']}: {row['finding']}")
    print(f"Written to {write_figures('testssl', figures)}.")
    # A run that was broken off has hardly any rows.
    return 0 if all(n > 50 if key.endswith("rows") else not n for key, n in figures.items()) else 1


def examine(tool: str, port: int, ca: Path, out: Path, options: Sequence[str]) -> list[dict[str, str]]:
    """What testssl.sh says of one port."""
    command = [
        tool,
        "--quiet",
        "--color",
        "0",
        "--nodns",
        "none",
        "--add-ca",
        str(ca),
        "--jsonfile",
        str(out),
    ]
    subprocess.run(
        [*command, *options, f"localhost:{port}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
        timeout=60 * _MINUTES,
    )
    rows: list[dict[str, str]] = json.loads(out.read_text())
    return rows


if __name__ == "__main__":
    sys.exit(main())
