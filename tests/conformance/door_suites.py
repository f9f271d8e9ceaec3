# SPDX-License-Identifier: GPL-2.0-or-later
"""The suites on SPF, DKIM, ARC and DMARC again, from outside: sent through both doors of a real gateway.

Each row's zone goes to a DNS stub, its message through the milter door and through the smart host, and our
Authentication-Results are read back from what is passed on. They must be, word for word, what the
same checks say when they are called directly, in this process, on the same zone and message.

Rows that tell results instead of messages (DMARC) become messages that have these results: records
for SPF, and signatures with a key of ours. The clock is the real one, unlike in `auth_suites`.
"""

from __future__ import annotations

import contextlib
import json
import re
import smtplib
import tempfile
import time
import tomllib
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from contrib.lab import cleanup
from contrib.lab.dns import DnsStub
from contrib.lab.gateway import Gateway
from contrib.lab.milter_client import MilterClient, Peer
from contrib.lab.process import free_port
from contrib.lab.sink import Sink
from gateway.auth.gather import authenticate
from gateway.auth.results import NAME, authentication_results
from gateway.auth.settings import AuthSettings
from gateway.auth.sign import SigningKey, generate_key, key_record, read_private_key, sign
from gateway.data import data_dir
from gateway.dns import DnsSettings, Resolver
from gateway.mail.edits import field_bytes
from gateway.mail.headers import split
from gateway.mail.mime import parse
from gateway.mail.networks import address
from gateway.mail.types import Edit, EditOp, Envelope, Evidence, Mail, Session
from tests.conformance.auth_suites import Outcome, material_of, rows, spf_entry, txt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

ID = "mx.example.org"
RECIPIENT = "bob@example.com"
CLIENT = "192.0.2.10"
SENDER = "alice@sender.example"
PLAIN = b"From: Alice <alice@sender.example>\r\nTo: bob@example.com\r\nSubject: hello\r\n\r\nText.\r\n"
_DNS: dict[str, Any] = {"timeout": 1.0, "attempts": 1, "cache_size": 0}

# Rows whose HELO name or envelope sender is none in SMTP (RFC 5321 §4.1.2): the smart host must refuse them.
NOT_SMTP = frozenset({"toolonglabel", "emptylabel", "nolocalpart", "dorky-sentinel", "invalid-hello-macro"})


@dataclass(frozen=True, slots=True)
class Row:
    """One message to send, with the DNS that it is sent in."""

    case: str
    zone: Mapping[str, Any]
    raw: bytes = PLAIN
    ip: str = CLIENT
    helo: str = "mail.sender.example"
    sender: str = SENDER
    wanted: str = ""  # a result that the suite asks for

    def mail(self, raw: bytes) -> Mail:
        """The message as the pipeline gets it."""
        client = address(self.ip)
        session = Session(client_ip="" if client is None else str(client), helo=self.helo)
        return Mail("0" * 16, session, Envelope(self.sender, (RECIPIENT,)), raw, received=time.time())


class Doors:
    """A gateway with both doors open that lets everything through, its DNS and its next hop."""

    def __init__(
        self,
        directory: Path,
        auth: dict[str, Any],
        *,
        stub: DnsStub | None = None,
        dns: dict[str, Any] = _DNS,
    ) -> None:
        self.dns = stub or DnsStub({})
        self.sink = Sink()
        self.settings = AuthSettings(**auth)
        self.resolver = Resolver(DnsSettings(nameservers=(self.dns.nameserver,), **dns))
        signals = tomllib.loads((data_dir("rules") / "signals.toml").read_text())
        self.gateway = Gateway(
            directory,
            {
                "hostname": ID,
                "domains": ["example.com"],
                "next_hop": f"smtp:{self.sink.address}",
                "grace": 5,
                "milter": {"listen": [f"inet:127.0.0.1:{free_port()}"], "workers": 1},
                "smarthost": {
                    "listen": [f"127.0.0.1:{free_port()}"],
                    "workers": 1,
                    "xclient_networks": ["127.0.0.1/32"],
                },
                "dns": {"nameservers": [self.dns.nameserver], **dns},
                "auth": auth,
                "antivirus": {"enabled": False},
                "policy": {
                    "thresholds": {"tag": 900, "quarantine": 950, "reject": 1000},
                    "actions": {name: "none" for name, signal in signals.items() if "action" in signal},
                },
                "http": {"listen": ""},
                "store": {"database": f"sqlite:///{directory}/mailwarden.db"},
            },
        )

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for server in (self.dns, self.sink, self.gateway):
                stack.enter_context(server)
            self._running = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def direct(self, row: Row, raw: bytes) -> str:
        """What the checks say when they are called."""
        mail = row.mail(raw)
        found = authenticate(
            mail, parse(raw), self.resolver, self.settings, time.monotonic() + 20, hostname=ID
        )
        evidence = Evidence(found.spf, found.dkim, found.dmarc, found.arc, found.iprev)
        return _unfolded(authentication_results(ID, evidence, mail))

    def milter(self, row: Row) -> tuple[bytes, bytes]:
        """The message as Postfix shows it, and as the milter door leaves it."""
        shown = cleanup.changed(*cleanup.split(row.raw), [], leadspc=True)
        with MilterClient(self.gateway.milters[0]) as client:
            assert client.open(Peer.of(row.mail(b"").session)) is None
            outcome = client.send(row.sender, (RECIPIENT,), row.raw)
        if outcome.status != "accept":
            raise ValueError(outcome.reply)
        return shown, outcome.message

    def smarthost(self, row: Row) -> tuple[bytes, bytes]:
        """The message as the smart host gets it, and as it passes it on. ValueError if it is refused."""
        where = self.gateway.smarthosts[0]
        assert isinstance(where, tuple)
        self.sink.clear()
        sent = row.raw if row.raw.endswith(b"\r\n") else row.raw + b"\r\n"
        with smtplib.SMTP(*where, timeout=30) as client:
            client.command_encoding = "utf-8"
            client.ehlo("peer.example.org")
            ip = f"IPV6:{row.ip}" if ":" in row.ip else row.ip
            for command, code in (
                (f"XCLIENT ADDR={ip} NAME=[UNAVAILABLE]", 220),
                (f"EHLO {row.helo}", 250),
                (f"MAIL FROM:<{row.sender}>", 250),
                (f"RCPT TO:<{RECIPIENT}>", 250),
                ("DATA", 354),
            ):
                got, said = client.docmd(command)
                if got != code:
                    raise ValueError(f"{command}: {got} {said.decode()}")
            client.send(re.sub(rb"(\A|\r\n)\.", rb"\1..", sent) + b".\r\n")
            got, said = client.getreply()
            if got != 250:
                raise ValueError(f"{got} {said.decode()}")
        return sent, self.sink.wait_for(1)[0].data

    def compare(self, row: Row) -> Outcome:
        """Send a row through both doors."""
        self.dns.replace(row.zone)
        wrong = []
        doors: tuple[Callable[[Row], tuple[bytes, bytes]], ...] = (self.milter, self.smarthost)
        for door in doors:
            unlawful = door == self.smarthost and row.case.rpartition(":")[2] in NOT_SMTP
            try:
                seen, left = door(row)
                told = ours(left)
            except ValueError as error:
                if not unlawful or ": 501 " not in str(error):
                    wrong.append(f"{door.__name__}: {error}")
                continue
            if unlawful:
                wrong.append(f"{door.__name__}: not refused")
            expected = self.direct(row, seen)
            if told != expected:
                wrong.append(f"{door.__name__}: {told!r} instead of {expected!r}")
            if row.wanted and not re.search(rf"; {row.wanted}(?=[ ;]|\Z)", told):
                wrong.append(f"{door.__name__}: no {row.wanted}: {told!r}")
        return Outcome(row.case, not wrong, "; ".join(wrong))


def ours(message: bytes) -> str:
    """Our results, which stand above all others; ValueError if there are none."""
    for field in split(message).fields:
        if field.name == NAME:
            return _unfolded(field.value.decode())
    raise ValueError("no Authentication-Results")


def _unfolded(value: str) -> str:
    return " ".join(value.split())


# ---------------------------------------------------------------- rows


def _spf(root: Path, name: str) -> Iterator[Row]:
    for row in rows(root / "spf-openspf" / f"cases-{name}.jsonl"):
        zone = {owner: spf_entry(records) for owner, records in row["zone"].items()}
        yield Row(row["id"], zone, ip=row["ip"], helo=row["helo"], sender=row["mailfrom"] or "")


def _crlf(raw: bytes) -> bytes:
    return raw.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def _dkim(root: Path) -> Iterator[Row]:
    folder = root / "dkim-mail-dkim"
    zone = txt(json.loads((folder / "dns.json").read_text()))
    for row in rows(folder / "cases.jsonl"):
        yield Row(row["id"], zone, _crlf((folder / row["file"]).read_bytes()))
    folder = root / "dkim-verifier-ext"
    for row in rows(folder / "cases.jsonl"):
        records = json.loads((folder / row["dns"]).read_text()) if isinstance(row["dns"], str) else row["dns"]
        yield Row(row["id"], txt(records), _crlf((folder / row["file"]).read_bytes()))


def _arc(root: Path) -> Iterator[Row]:
    for row in rows(root / "arc-valimail" / "cases-validation.jsonl"):
        expected = row["cv"].lower() or "fail"
        yield Row(row["id"], txt(row["txt"]), _crlf(row["message"].encode()), wanted=f"arc={expected}")


KEY = read_private_key(generate_key("ed25519"))
_RECORDS = {"pass": "+all", "fail": "-all", "softfail": "~all", "neutral": "?all", "permerror": "bad"}


def _dmarc(root: Path, *, walk: bool) -> Iterator[Row]:
    for row in rows(root / "dmarc-mail-dmarc" / "cases-evaluation.jsonl"):
        if ("/bis-" in row["id"]) != walk:
            continue
        zone: dict[str, Any] = {name: {"TXT": [value]} for name, value in row["dns"].items()}
        domain = row["header_from"].lower()
        if row["from_domain_exists"]:
            zone[domain] = {"TXT": ["exists"]}
        scopes = {one["scope"]: one for one in row["spf"]}
        for one in scopes.values():
            _publish(zone, one["domain"].lower(), one["result"])
        raw = PLAIN.replace(b"alice@sender.example", f"alice@{row['header_from']}".encode())
        for one in row["dkim"]:
            raw = _signed(raw, one["domain"].lower(), one["result"])
            answer: Any = {"TXT": [key_record(KEY)]} if one["result"] != "temperror" else "SERVFAIL"
            zone[f"s1._domainkey.{one['domain'].lower()}"] = answer
        helo = scopes.get("helo", {"domain": "mail.sender.example"})["domain"]
        sender = f"alice@{scopes['mfrom']['domain']}" if "mfrom" in scopes else ""
        wanted = f"dmarc={row['expect_result']}"
        yield Row(row["id"], zone, raw, helo=helo, sender=sender, wanted=wanted)


def _publish(zone: dict[str, Any], domain: str, result: str) -> None:
    """Publish a policy that gives this result to everybody."""
    if result == "temperror":
        zone[domain] = "SERVFAIL"
    elif result != "none":
        zone[domain] = {"TXT": [f"v=spf1 {_RECORDS[result]}"]}


def _signed(raw: bytes, domain: str, result: str) -> bytes:
    """The message with a signature that passes, or does not."""
    value = sign(material_of(raw), SigningKey(domain, "s1", KEY))
    if result != "pass":
        value = value.replace("bh=", "bh=AAAA", 1)
    return field_bytes(Edit(EditOp.INSERT, "DKIM-Signature", value)) + raw


_ROWS: dict[str, tuple[Callable[[Path], Iterator[Row]], dict[str, Any]]] = {
    "doors-spf-rfc7208": (partial(_spf, name="rfc7208"), {}),
    "doors-spf-rfc4408": (partial(_spf, name="rfc4408"), {}),
    "doors-spf-pyspf": (partial(_spf, name="pyspf"), {}),
    "doors-dkim": (_dkim, {}),
    "doors-arc": (_arc, {}),
    "doors-dmarc-psl": (partial(_dmarc, walk=False), {}),
    "doors-dmarc-tree-walk": (partial(_dmarc, walk=True), {"dmarc_method": "tree-walk"}),
}


def through_doors(root: Path, names: Iterable[str], *, every: int = 1) -> Iterator[Outcome]:
    """Send the rows of suites with the same settings, or each so-many-th of them, through one gateway."""
    [auth] = {tuple(_ROWS[name][1].items()) for name in names}
    with (
        tempfile.TemporaryDirectory(prefix="mailwarden-doors-") as directory,
        Doors(Path(directory), dict(auth)) as doors,
    ):
        for name in names:
            for row in islice(_ROWS[name][0](root), 0, None, every):
                yield doors.compare(row)


SUITES: dict[str, Callable[[Path], Iterator[Outcome]]] = {
    name: partial(through_doors, names=(name,)) for name in _ROWS
}
