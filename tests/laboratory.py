# SPDX-License-Identifier: GPL-2.0-or-later
"""Gateways in all the configurations that the cases name, with what stands around them."""

from __future__ import annotations

import functools
import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar, Self

import msgspec

from contrib.lab.dns import DnsStub
from contrib.lab.faults import CLAMD_FAULTS, CLEAN, FakeClamd, FakeServer
from contrib.lab.gateway import Gateway as Served
from contrib.lab.gateway import to_toml
from contrib.lab.process import free_port
from contrib.lab.sink import Sink
from gateway import assembly, config
from gateway.log import LogSettings, open_log
from gateway.metrics import Metrics
from gateway.pipeline import Judgement, consider
from gateway.store.database import StoreSettings, open_database
from gateway.store.senders import Rule, Senders
from tests import case as cases

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

    from contrib.lab.certificates import Authority
    from contrib.lab.clamd import Clamd
    from contrib.lab.spamd import Spamd

AUTHSERV_ID = "mx.example.org"
STRICT = {"recipients": ["strict.example.com"], "tag": 1, "quarantine": 2, "reject": 50}
SEVERE = {"recipients": ["severe.example.com"], "tag": 1, "quarantine": 2, "reject": 3}
LENIENT = {
    "recipients": ["lenient.example.com", "carol@strict.example.com"],
    "tag": 40,
    "quarantine": 50,
    "reject": 60,
}
CHIEF = {"names": ["Carol Chief"], "addresses": ["carol@private.example.net"]}
ZONES = [
    {"zone": "bl.lists.example", "ask": ["client"], "codes": {"127.0.0.2": 2, "127.0.0.4-7": 4.5}},
    {
        "zone": "names.lists.example",
        "ask": ["helo", "sender", "from", "dkim", "url"],
        "codes": {"&2": 1, "&8": 3},
    },
    {"zone": "files.lists.example", "ask": ["hash"], "weight": 9},
    {"zone": "good.lists.example", "ask": ["client"], "weight": -3},
]
ON_ERROR = {"clamd-down": "defer", "clamd-down-hold": "quarantine", "clamd-down-ignore": "ignore"}
# Signals about links, authors, lists and files always tell what they saw.
TELLING = (
    "URL_",
    "FROM_N",
    "FROM_P",
    "FROM_L",
    "FROM_O",
    "REPLY_TO_",
    "DNSBL",
    "ATTACHMENT_",
    "ARCHIVE_",
    "STRIP_",
)
RULED: dict[str, Rule] = {
    "blocked.example": "block",
    "allowed.example": "allow",
    "pretended.example": "allow",
}
STRIPPED = (
    "ATTACHMENT_EXECUTABLE",
    "ARCHIVE_EXECUTABLE",
    "ARCHIVE_DOUBLE_EXTENSION",
    "ARCHIVE_ENCRYPTED",
    "ATTACHMENT_NAME_REVERSED",
)


# ---------------------------------------------------------------- configurations


class MarkedClamd(FakeServer):
    """A clamd whose fault stands in the message: "Subject: clamd: hang"."""

    FAULTS: ClassVar = {
        b"hang": CLAMD_FAULTS["hangs after the stream"],
        b"limit": CLAMD_FAULTS["time limit"],
        b"garbage": CLAMD_FAULTS["binary answer"],
        b"close": CLAMD_FAULTS["closes after the stream"],
        b"other": CLAMD_FAULTS["OK for another file"],
        b"encrypted": CLAMD_FAULTS["encrypted"],
        b"name": CLAMD_FAULTS["terminal codes in the name"],
    }

    def serve(self, stream: socket.socket) -> None:
        command = stream.recv(1)
        while command[-1:] not in (b"\n", b"\0"):
            if not (octet := stream.recv(1)):
                return
            command += octet
        if b"VERSION" in command:
            stream.sendall(b"ClamAV 1.4.6/27500/Sat Nov 21 09:00:00 2026\n")
            return
        received = b""
        while not received.endswith(b"\0\0\0\0"):
            data = stream.recv(65_536)
            if not data:
                return
            received += data
        found = re.search(rb"clamd: ([a-z]+)\r\n", received)
        self.fault = self.FAULTS[found[1]] if found else CLEAN  # a probe has no mark
        if b"IDSESSION" in command:
            stream.sendall(b"1: ")
        self.answer(stream)


class Lab:
    """The servers that all configurations share, and one gateway for each configuration."""

    def __init__(
        self, directory: Path, clamd: Clamd, authority: Authority, spamd: Callable[[], Spamd]
    ) -> None:
        self.directory = directory
        self._clamd = clamd
        self._spamd = spamd
        self._pair = authority.issue("mx.example.org")
        self.dns = DnsStub(cases.zone())
        self.sink = Sink()
        self.faulty = MarkedClamd(CLAMD_FAULTS["hangs after the stream"])
        self.old = FakeClamd(CLEAN)
        self.old.version = b"ClamAV 1.4.6/25700/Wed Jan  1 09:00:00 2020"
        self.closed = f"127.0.0.1:{free_port()}"
        self.doors: dict[str, Served] = {}
        self.direct: dict[str, assembly.Opened] = {}

    def __enter__(self) -> Self:
        self.directory.mkdir(mode=0o755)
        for server in (self.dns, self.sink, self.faulty, self.old):
            server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        for opened in self.direct.values():
            opened.close()
        with ThreadPoolExecutor(16) as pool:  # each takes seconds to drain
            statuses = list(pool.map(lambda served: served.stop(), self.doors.values()))
        for server in (self.old, self.faulty, self.sink, self.dns):
            server.__exit__()
        assert statuses == [0] * len(statuses), "a gateway did not end as it should"

    def settings(self, name: str) -> dict[str, Any]:
        """The configuration called `name`."""
        base: dict[str, Any] = {
            "hostname": AUTHSERV_ID,
            "domains": ["example.com", ".example.com"],
            "relay_networks": ["203.0.113.0/24"],
            "next_hop": f"smtp:127.0.0.1:{self.sink.port}",
            "deadline": 10,
            "grace": 5,
            "milter": {"listen": [f"inet:127.0.0.1:{free_port()}"], "workers": 1},
            "smarthost": {
                "listen": [f"127.0.0.1:{free_port()}"],
                "workers": 1,
                "xclient_networks": ["127.0.0.1/32"],
                "certificate": str(self._pair.certificate),
                "key": str(self._pair.key),
            },
            "dns": {"nameservers": [self.dns.nameserver], "timeout": 2, "attempts": 1},
            "antivirus": {"addresses": [self._clamd.addresses[0]]},
            # Signals whose value a new model moves are left out, so that scores can be stated.
            "policy": {
                "recipients": [STRICT, SEVERE, LENIENT],
                "weights": {"CLASSIFIER": 0},
                "forwarders": {"domains": ["forwarder.example"], "sealers": ["sealer.example"]},
                "impersonation": {"protected": [CHIEF]},
            },
            "tls": {
                "inbound": [
                    {"sender_domains": ["tls-required.example", ".tls-required.example"]},
                    {"client_networks": ["198.51.100.0/25"], "minimum_version": "TLSv1.3"},
                ]
            },
            "http": {"listen": ""},
            "store": {"database": f"sqlite:///{self.directory / name}/served.db"},
            "log": {"format": "json"},
        }
        return self._changed(base, name)

    def _changed(self, base: dict[str, Any], name: str) -> dict[str, Any]:
        policy: dict[str, Any] = base["policy"]
        match name:
            case "standard":
                pass
            case "strip":
                policy |= {"actions": dict.fromkeys(STRIPPED, "strip")}
            case "unpack-fails":
                base["unpack"] = {"timeout": 0.001}
            case "tagging":
                policy |= {"subject_tag": "[spam] ", "spam_headers": "tagged", "received_spf": True}
            case "shipped":
                policy.clear()
            case "clamd-down" | "clamd-down-hold" | "clamd-down-ignore":
                base["antivirus"] = {"addresses": [self.closed]}
                policy |= {
                    "on_error": {"VIRUS": {"hold": "quarantine", "ignore": "ignore"}.get(name[11:], "defer")}
                }
            case "clamd-faulty":
                base["antivirus"] = {"addresses": [self.faulty.address], "timeout": 2, "rest": 0.001}
            case "clamd-stale":
                base["antivirus"] = {"addresses": [self.old.address]}
            case "dnsbl":
                base["dnsbl"] = {"zones": ZONES}
            case "antivirus-off":
                base["antivirus"] = {"enabled": False}
            case "spamd":
                base["spamassassin"] = {"enabled": True, "addresses": [f"127.0.0.1:{self._spamd().port}"]}
            case "spamd-down":
                base["spamassassin"] = {"enabled": True, "addresses": [self.closed]}
                policy |= {"on_error": {"SPAMASSASSIN": "defer"}}
            case _:
                raise ValueError(f"no such configuration: {name}")
        return base

    def served(self, name: str) -> Served:
        """The gateway with this configuration, started when it is first asked for."""
        if name not in self.doors:
            settings = self.settings(name)
            _rule(settings["store"]["database"])
            self.doors[name] = Served(self.directory / name, settings).start()
        return self.doors[name]

    def opened(self, name: str) -> assembly.Opened:
        """The same configuration in this process."""
        if name not in self.direct:
            folder = self.directory / f"{name}-direct"
            folder.mkdir(exist_ok=True)
            path = folder / "mailwarden.toml"
            path.write_text(to_toml(self.settings(name)))
            settings = config.load(path)
            settings = msgspec.structs.replace(
                settings, store=StoreSettings(database=f"sqlite:///{folder}/direct.db")
            )
            _rule(settings.store.database)
            self.direct[name] = assembly.assemble(
                assembly.load(settings), Metrics(1).slot(0), open_log(LogSettings(level="error")), threads=12
            )
        return self.direct[name]

    @functools.cache  # noqa: B019  # one lab for a run
    def judged(self, case: cases.Case, raw: bytes) -> Judgement:
        """What `consider` makes of the message of `case`, given as `raw`."""
        return consider(case.mail(raw), self.opened(case.file.config).gateway)


def _rule(url: str) -> None:
    """Give a store what its reviewers ruled about senders."""
    database = open_database(StoreSettings(database=url))
    for pattern, rule in RULED.items():
        Senders(database).put(pattern, rule, "reviewer")
    database.close()
