# SPDX-License-Identifier: GPL-2.0-or-later
"""Every case of `cases/` three times: judged directly, through the milter door, through the smart host.

All three must come to the same action, reply, recipients and score, and what is passed on must be,
octet for octet, the message with the edits applied. One gateway for each configuration serves all.
"""

from __future__ import annotations

import functools
import json
import random
import re
import smtplib
import ssl
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import msgspec
import pytest

from contrib.lab import cleanup
from contrib.lab.dns import DnsStub
from contrib.lab.faults import CLAMD_FAULTS, CLEAN, FakeClamd, FakeServer
from contrib.lab.gateway import Gateway as Served
from contrib.lab.gateway import to_toml
from contrib.lab.milter_client import MilterClient, Peer
from contrib.lab.process import free_port, wait_for
from contrib.lab.sink import Sink
from gateway import assembly, config
from gateway.log import LogSettings, open_log
from gateway.mail.edits import apply
from gateway.mail.headers import split
from gateway.mail.types import ON_ITS_WAY, Action, Direction, Verdict
from gateway.metrics import Metrics
from gateway.pipeline import Judgement, admit, consider
from gateway.policy.signals import NAMES
from gateway.reply import reply_to
from gateway.store.database import StoreSettings, open_database
from gateway.store.quarantine import Quarantine
from gateway.store.senders import Rule, Senders
from tests import case as cases

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from contrib.lab.certificates import Authority
    from contrib.lab.clamd import Clamd
    from contrib.lab.spamd import Spamd

pytestmark = pytest.mark.server("clamd")

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
ACTIONS = {"accept": "relay", "discard": "quarantine", "reject": "reject", "tempfail": "defer"}
_ID = re.compile(r"[0-9A-HJKMNP-TV-Z]{16}")
_KEPT = re.compile(rb"X-Quarantine-ID: <([0-9A-HJKMNP-TV-Z]{16})>\r\n")
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


class Result(NamedTuple):
    """What became of a message behind a door, comparable between doors."""

    action: str  # relay (which tag is too, for a client), quarantine, reject, defer
    reply: str  # code and enhanced code where the gateway has the last word, else ""
    relayed: tuple[str, ...]
    message: bytes  # as passed on, b"" if it was not


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
            command += stream.recv(1)
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
                base["antivirus"] = {"addresses": [self.faulty.address], "timeout": 1, "rest": 0.001}
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


@pytest.fixture(scope="module")
def laboratory(
    lab: Path, clamd: Clamd, authority: Authority, request: pytest.FixtureRequest
) -> Iterator[Lab]:
    with Lab(lab / "cases", clamd, authority, lambda: request.getfixturevalue("spamd")) as made:
        yield made


# ---------------------------------------------------------------- the doors


def direct(case: cases.Case, raw: bytes, laboratory: Lab) -> Result:
    """What must happen to the message `raw`, by the pipeline alone."""
    refusal = admit(case.session, case.envelope.mail_from, laboratory.opened(case.file.config).gateway)
    if refusal:
        return Result("reject" if refusal.code >= 500 else "defer", _codes(str(refusal)), (), b"")
    verdict = laboratory.judged(case, raw).verdict
    if verdict.action in ON_ITS_WAY:
        message = apply(raw, verdict.edits, verdict.cuts)
        return Result("relay", "", verdict.relayed, _without_id(message))
    return Result(verdict.action.value, _codes(str(reply_to(verdict))), (), b"")


def by_milter(case: cases.Case, laboratory: Lab) -> tuple[Result, str]:
    """Send the case as Postfix would; return the result, and what names it in the log."""
    [address] = laboratory.served(case.file.config).milters
    queue_id = f"4CASE{abs(hash(case.name)):X}"[:18]
    peer = Peer.of(case.session)
    with MilterClient(address) as client:
        refused = client.open(peer)
        assert refused is None
        envelope = case.envelope
        outcome = client.send(
            envelope.mail_from, envelope.recipients, case.raw, options=envelope.options, queue_id=queue_id
        )
    assert not outcome.broken
    assert not outcome.refused
    action = ACTIONS[outcome.status]
    reply = "" if action == "relay" else _codes(outcome.reply)
    if action != "relay":
        return Result(action, reply, (), b""), queue_id
    return Result(action, reply, outcome.recipients, _without_id(outcome.message)), queue_id


def by_smarthost(case: cases.Case, laboratory: Lab) -> tuple[Result, str]:
    """Send the case over SMTP; return the result, and our id from the reply."""
    [address] = laboratory.served(case.file.config).smarthosts
    assert isinstance(address, tuple)
    laboratory.sink.clear()
    with smtplib.SMTP(*address, timeout=30) as client:
        client.command_encoding = "utf-8"
        code, answer = _converse(client, case)
    said = f"{code} {answer.decode()}"
    found = _ID.search(said)
    item = found[0] if found else ""
    if code != 250:
        assert not laboratory.sink.transactions
        return Result("reject" if code >= 500 else "defer", _codes(said), (), b""), item
    if _decision(laboratory.served(case.file.config), "id", item)["action"] == "quarantine":
        assert not laboratory.sink.transactions
        return Result("quarantine", _codes(said), (), b""), item
    [passed_on] = laboratory.sink.wait_for(1)  # out of the queue
    assert passed_on.mail_from == case.envelope.mail_from
    message = _without_id(_without_received(passed_on.data, item))
    return Result("relay", "", passed_on.recipients, message), item


def _converse(client: smtplib.SMTP, case: cases.Case) -> tuple[int, bytes]:
    """The dialogue, up to the first refusal or the reply to the message."""
    session, envelope = case.session, case.envelope
    client.ehlo("peer.example.org")
    if session.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.minimum_version = context.maximum_version = {
            "TLSv1.2": ssl.TLSVersion.TLSv1_2,
            "TLSv1.3": ssl.TLSVersion.TLSv1_3,
        }[session.tls.version]
        client.starttls(context=context)
        client.ehlo("peer.example.org")
    ip = f"IPV6:{session.client_ip}" if ":" in session.client_ip else session.client_ip
    attributes = [f"ADDR={ip}", f"NAME={session.client_name or '[UNAVAILABLE]'}"]
    attributes += [f"LOGIN={session.login}"] if session.login else []
    assert client.docmd("XCLIENT", " ".join(attributes))[0] == 220
    assert client.docmd("EHLO", session.helo)[0] == 250
    answer = client.docmd("MAIL", " ".join((f"FROM:<{envelope.mail_from}>", *envelope.options)))
    for recipient in envelope.recipients:
        if answer[0] != 250:
            return answer
        answer = client.docmd("RCPT", f"TO:<{recipient}>")
    if answer[0] != 250:
        return answer
    assert client.docmd("DATA")[0] == 354
    assert case.raw.endswith(b"\r\n")
    client.send(re.sub(rb"(\A|\r\n)\.", rb"\1..", case.raw) + b".\r\n")
    return client.getreply()


def _without_received(message: bytes, item: str) -> bytes:
    """Take off our own Received field, which must be on top and bear our id."""
    section = split(message)
    first = section.fields[0]
    assert first.name == "Received"
    assert f"by {AUTHSERV_ID} with ".encode() in first.raw
    assert item.encode() in first.raw
    return message[section.spans[0][1] :]


def _without_id(message: bytes) -> bytes:
    """Put a fixed word for the id that a stripped message names, a new one each time it is sent."""
    found = _KEPT.search(message, 0, 2_000)
    return message.replace(found[1], b"0" * 16) if found else message


def _codes(reply: str) -> str:
    return " ".join(reply.split()[:2])


# ---------------------------------------------------------------- the tests


def ids(case: cases.Case) -> str:
    return case.name


every = pytest.mark.parametrize("case", cases.load(), ids=ids)


@every
def test_judged_directly(case: cases.Case, laboratory: Lab) -> None:
    """The pipeline says what the case expects."""
    expect = case.expect
    result = direct(case, case.raw, laboratory)
    assert result.action == ("relay" if expect.action in ON_ITS_WAY else expect.action.value)
    assert result.reply == expect.reply or (expect.action is Action.QUARANTINE and not expect.reply)
    assert result.relayed == case.relayed
    if expect.refused:
        assert expect.reply
        return
    content, evidence, signals, verdict, _ = laboratory.judged(case, case.raw)
    hits = {s.name for s in signals if s.state == "hit"}
    errors = {s.name for s in signals if s.state == "error"}
    assert verdict.action is expect.action
    assert verdict.reason == expect.reason
    assert verdict.held == case.held
    assert verdict.stripped == expect.stripped
    assert bool(verdict.cuts) == bool(expect.stripped)
    if expect.cuts is not None:
        assert len(verdict.cuts) == expect.cuts
    assert hits >= set(expect.signals), hits
    assert errors >= set(expect.errors), errors
    assert not (hits | errors) & set(expect.absent), hits | errors
    assert not [s.name for s in signals if not s.text and s.name.startswith(TELLING)]
    if expect.score is not None:
        assert verdict.score == expect.score
    for text in expect.text:
        assert any(text in part.text for part in content.texts)
    if expect.attachments is not None:
        assert tuple(a.names[0] if a.names else "" for a in content.attachments) == expect.attachments
    if verdict.relayed:
        _check_fields(case, result.message)
        _check_rest(case, result.message, verdict)
    else:
        assert not verdict.edits
    assert evidence.release is None


def _check_fields(case: cases.Case, message: bytes) -> None:
    expect = case.expect
    section = split(message)
    fields = [re.sub(rb"\r\n(?=[ \t])", b"", f.raw).decode("utf-8", "replace") for f in section.fields]
    fields = [re.sub(r"[ \t]+", " ", text).strip() for text in fields]
    names = {f.name.lower() for f in section.fields}
    for wanted in expect.header:
        assert wanted in fields
    assert not names & {name.lower() for name in expect.no_header}
    for text in expect.no_text:
        assert text.encode() not in message
    inbound = case.session.direction is Direction.INBOUND
    ours = [text for text in fields if text.startswith(f"Authentication-Results: {AUTHSERV_ID};")]
    assert ours == ([fields[0]] if inbound else [])  # one of ours, on top
    if expect.authentication_results:
        shown = re.sub(r"header\.b=\S+(?<!;)", "header.b=*", fields[0])
        assert shown == f"Authentication-Results: {expect.authentication_results}"


def _check_rest(case: cases.Case, message: bytes, verdict: Verdict) -> None:
    """All of the body that was not cut out is there, octet for octet and in order."""
    for text in case.expect.kept_text:
        assert text.encode() in message
    section = split(case.raw)
    start = section.end
    rest = message[split(message).end :]
    if not section.empty_line and start < len(case.raw):
        rest = rest.removeprefix(b"\r\n")  # which was missing
    for one in verdict.cuts:
        assert rest.startswith(case.raw[start : one.start])
        rest = rest[one.start - start :]
        note, end, rest = rest.partition(b"0" * 16)
        assert end
        assert b"\r\n* " in note
        start = one.end
        rest = rest.removeprefix(b"\r\n") if start == len(case.raw) else rest
    assert rest == case.raw[start:]


@every
def test_milter_door(case: cases.Case, laboratory: Lab) -> None:
    """The milter door does the same, for the message as Postfix rebuilds it."""
    rebuilt = cleanup.changed(*cleanup.split(case.raw), [], leadspc=True)
    result, queue_id = by_milter(case, laboratory)
    assert result == direct(case, rebuilt, laboratory)
    _check_record(case, rebuilt, laboratory, "queue_id", queue_id)


@every
def test_smarthost_door(case: cases.Case, laboratory: Lab) -> None:
    """The smart-host door does the same."""
    result, item = by_smarthost(case, laboratory)
    if case.file.smarthost:
        assert (result.reply, result.relayed) == (case.file.smarthost.reply, ())
        return
    assert result == direct(case, case.raw, laboratory)
    assert case.expect.refused or item
    _check_record(case, case.raw, laboratory, "id", item)


def _decisions(served: Served, key: str, value: str) -> list[dict[str, Any]]:
    """The lines of the log about the message whose `key` is `value`."""
    written = served.log.read_text().splitlines(keepends=True)
    lines = [json.loads(line) for line in written if line.startswith("{") and line.endswith("}\n")]
    return [line for line in lines if line.get("event") == "decision" and line.get(key) == value]


def _decision(served: Served, key: str, value: str) -> dict[str, Any]:
    wait_for(lambda: bool(_decisions(served, key, value)), 5, f"the log line of {value}")
    return _decisions(served, key, value)[-1]


def _check_record(case: cases.Case, raw: bytes, laboratory: Lab, key: str, value: str) -> None:
    """The log tells the same verdict, and what is held is there as it was received."""
    served = laboratory.served(case.file.config)

    if case.expect.refused:
        assert not _decisions(served, key, value)
        return
    line = _decision(served, key, value)
    verdict = laboratory.judged(case, raw).verdict
    assert (line["action"], line["reason"], line["score"]) == (
        verdict.action.value,
        verdict.reason,
        verdict.score,
    )
    database = open_database(config.load(served.file).store)
    try:
        quarantine = Quarantine(database)
        item = quarantine.find(line["id"])
        assert (item is not None) == bool(verdict.kept)
        if item is not None:
            assert {r.address for r in item.recipients} == set(verdict.kept)
            assert {r.address for r in item.recipients if r.note} == set(verdict.stripped)
            assert ("STRIPPED" in item.reasons) == bool(verdict.stripped)
            assert quarantine.raw(item.id) == raw
    finally:
        database.close()


@pytest.mark.parametrize("seed", range(3))
def test_broken_messages(laboratory: Lab, seed: int) -> None:
    """Damaged messages crash nothing, and both doors still agree about them."""
    choose = random.Random(seed)
    some = [c for c in cases.load() if c.file.config in ("standard", "tagging")]
    some = [c for c in some if len(c.raw) < 100_000 and not c.file.smarthost]
    for case in choose.sample(some, 30):
        damaged = cases.broken(case, choose)
        rebuilt = cleanup.changed(*cleanup.split(damaged.raw), [], leadspc=True)
        result, _ = by_milter(damaged, laboratory)
        assert result == direct(damaged, rebuilt, laboratory), damaged.raw
        result, _ = by_smarthost(damaged, laboratory)
        assert result == direct(damaged, damaged.raw, laboratory), damaged.raw


def test_there_are_enough_cases() -> None:
    """Cases do not get lost, and each signal of consequence has one."""
    assert len(cases.load()) >= 100
    covered = {name for case in cases.load() for name in (*case.expect.signals, *case.expect.errors)}
    covered |= {case.expect.reason for case in cases.load()}
    assert not NAMES - covered
