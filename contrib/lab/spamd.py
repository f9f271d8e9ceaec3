# SPDX-License-Identifier: GPL-2.0-or-later
"""A real spamd: local tests only, a rule file of its own, nothing of the system's configuration.

The rules are few, so that it starts in a second or two: GTUBE as SpamAssassin ships it, and some
of ours. `rules=STOCK` takes all of the package's rules instead.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from contrib.lab.process import Server, free_port, program

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*" + "GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
STOCK = Path("/usr/share/spamassassin")

_RULES = """\
body GTUBE /XJS\\*C4JDBQADN1\\.NSBN3\\*2IDNEN\\*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL\\*C\\.34X/
score GTUBE 1000
body LAB_PILLS /cheap pills/i
score LAB_PILLS 4.5
header LAB_SHOUT Subject =~ /^[A-Z !]{12,}$/
score LAB_SHOUT 1.25
body LAB_NEWSLETTER /unsubscribe/i
score LAB_NEWSLETTER -0.5
"""

_PREFERENCES = """\
use_bayes 0
skip_rbl_checks 1
dns_available no
required_score 5.0
util_rb_tld com net org example
"""

_PLUGINS = ("Check",)
_STOCK_PLUGINS = (
    *("Check", "BodyEval", "HTMLEval", "HTTPSMismatch", "HeaderEval", "MIMEEval", "MIMEHeader"),
    *("RelayEval", "ReplaceTags", "URIDetail", "URIEval", "WLBLEval", "VBounce", "FreeMail"),
)


class Spamd(Server):
    """spamd on 127.0.0.1:`self.port`, and on `self.socket` (unix) if `unix` is set."""

    name = "spamd"

    def __init__(self, directory: Path, rules: Path | None = None, *, unix: bool = False) -> None:
        super().__init__(directory)
        self.port = free_port()
        self.socket = self.directory / "spamd.sock" if unix else None
        self.site = self.directory / "site"
        self.rules = rules or self.directory / "rules"
        self.site.mkdir(exist_ok=True)
        (self.site / "local.cf").write_text(_PREFERENCES)
        plugins = _PLUGINS if rules is None else _STOCK_PLUGINS
        (self.site / "lab.pre").write_text(
            "".join(f"loadplugin Mail::SpamAssassin::Plugin::{plugin}\n" for plugin in plugins)
        )
        if rules is None:
            self.rules.mkdir(exist_ok=True)
            (self.rules / "10_lab.cf").write_text(_RULES)

    @property
    def address(self) -> str:
        """The address as the gateway's settings write it."""
        return f"unix:{self.socket}" if self.socket else f"127.0.0.1:{self.port}"

    def command(self) -> Sequence[str]:
        where = (
            [f"--socketpath={self.socket}", "--socketmode=0666"]
            if self.socket
            else ["--listen=127.0.0.1", f"--port={self.port}"]
        )
        return [
            program("spamd") or "spamd",
            *where,
            "--local",
            "--nouser-config",
            "--max-children=2",
            "--min-children=1",
            f"--configpath={self.rules}",
            f"--siteconfigpath={self.site}",
            f"--helper-home-dir={self.directory}",
            f"--pidfile={self.directory / 'spamd.pid'}",
            "--syslog=stderr",
            *(["--username=nobody"] if os.geteuid() == 0 else []),
        ]

    def environment(self) -> Mapping[str, str]:
        return {**os.environ, "LC_ALL": "C", "HOME": str(self.directory)}

    def is_up(self) -> bool:
        # It listens before it has read its rules, so only a PONG counts.
        family, where = (
            (socket.AF_UNIX, str(self.socket)) if self.socket else (socket.AF_INET, ("127.0.0.1", self.port))
        )
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.settimeout(5)
            try:
                probe.connect(where)
                probe.sendall(b"PING SPAMC/1.2\r\n\r\n")
                return b"PONG" in probe.recv(100)
            except OSError:
                return False
