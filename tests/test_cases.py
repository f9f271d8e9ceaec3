# SPDX-License-Identifier: GPL-2.0-or-later
"""Every case of `cases/` three times: judged directly, through the milter door, through the smart host.

All three must come to the same action, reply, recipients and score, and what is passed on must be,
octet for octet, the message with the edits applied. One gateway for each configuration serves all.
"""

from __future__ import annotations

import random
import re
import smtplib
import ssl
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from contrib.lab import cleanup
from contrib.lab.milter_client import MilterClient, Peer
from contrib.lab.process import wait_for
from gateway import config
from gateway.mail.edits import apply
from gateway.mail.headers import split
from gateway.mail.types import ON_ITS_WAY, Action, Direction, Verdict
from gateway.pipeline import admit
from gateway.policy.signals import NAMES
from gateway.reply import reply_to
from gateway.store.database import open_database
from gateway.store.quarantine import Quarantine
from tests import case as cases
from tests.laboratory import AUTHSERV_ID, TELLING, Lab

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from contrib.lab.certificates import Authority
    from contrib.lab.clamd import Clamd
    from contrib.lab.gateway import Gateway as Served

pytestmark = pytest.mark.server("clamd")
ACTIONS = {"accept": "relay", "discard": "quarantine", "reject": "reject", "tempfail": "defer"}
_ID = re.compile(r"[0-9A-HJKMNP-TV-Z]{16}")
_KEPT = re.compile(rb"X-Quarantine-ID: <([0-9A-HJKMNP-TV-Z]{16})>\r\n")


class Result(NamedTuple):
    """What became of a message behind a door, comparable between doors."""

    action: str  # relay (which tag is too, for a client), quarantine, reject, defer
    reply: str  # code and enhanced code where the gateway has the last word, else ""
    relayed: tuple[str, ...]
    message: bytes  # as passed on, b"" if it was not


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
    return [line for line in served.events("decision") if line.get(key) == value]


def _decision(served: Served, key: str, value: str) -> dict[str, Any]:
    wait_for(lambda: bool(_decisions(served, key, value)), 30, f"the log line of {value}")
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
