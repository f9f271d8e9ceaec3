# SPDX-License-Identifier: GPL-2.0-or-later
"""Postfix asks the gateway: real `smtpd`, `cleanup` and `qmgr`, a real clamd, and a sink behind them."""

from __future__ import annotations

import contextlib
import re
import smtplib
import sqlite3
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import dkim
import pytest

from contrib.lab.clamd import EICAR
from contrib.lab.faults import CLAMD_FAULTS, FakeClamd
from contrib.lab.gateway import to_toml as as_toml
from contrib.lab.process import free_port, program, wait_for
from contrib.lab.sink import Sink
from gateway.mail.headers import split
from gateway.policy.examine import GTUBE
from tests import case as cases
from tests.postfix_site import SENDER, Site, message, transact

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator
    from pathlib import Path

    from contrib.lab.certificates import Authority
    from contrib.lab.clamd import Clamd

pytestmark = pytest.mark.server("postfix", "clamd", "swaks")

# Points for the second threshold of strict.example.com, below the first of the others.
DOUBTFUL = b"I recorded you with your webcam. Pay in bitcoin.\r\n"


@pytest.fixture(scope="module")
def site(lab: Path, clamd: Clamd, authority: Authority) -> Iterator[Site]:
    with Site(lab / "site", clamd, authority) as made:
        yield made


# ---------------------------------------------------------------- ordinary mail


def test_ordinary_mail(site: Site) -> None:
    """Our fields on top, then Postfix's, and the message behind them to the octet."""
    raw = message("ordinary", b" leading space\r\n.dot\r\n\xe4\xf6\xfc\r\n\r\n")
    assert site.send(raw)[0] == 250
    [arrived] = site.arrived("ordinary")
    assert arrived.mail_from == SENDER
    assert arrived.recipients == ("bob@example.com",)
    names = [f.name for f in split(arrived.data).fields]
    assert names[0] == "Authentication-Results"
    assert arrived.data.startswith(
        b"Authentication-Results: mx.example.org;\r\n\tspf=pass smtp.mailfrom=alice@example.net;\r\n"
    )
    added = names[: names.index("From")]
    assert sorted(added) == sorted(
        [
            "Authentication-Results",
            "X-Spam-Flag",
            "X-Spam-Score",
            "X-Spam-Status",
            "X-Virus-Scanned",
            "Received",
        ]
    )
    assert arrived.data.endswith(raw)


def test_swaks(site: Site) -> None:
    """The tool that people test their servers with."""
    done = subprocess.run(
        [
            *("swaks", "--server", f"127.0.0.1:{site.postfix.port}", "--from", SENDER),
            *("--to", "bob@example.com", "--helo", "mail.example.net", "--h-Subject", "from swaks"),
            *("--add-header", "Message-ID: <swaks@example.net>", "--body", "Text.", "--suppress-data"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    [arrived] = site.arrived("swaks")
    assert b"\r\nSubject: from swaks\r\n" in arrived.data


@pytest.mark.parametrize("canonicalization", ["simple/simple", "relaxed/relaxed"])
def test_signature_still_verifies(site: Site, canonicalization: str) -> None:
    """A DKIM signature that verified before verifies after, forged fields of ours removed around it."""
    name = f"signed-{canonicalization[:6]}"
    sign = cases.Sign(domain="dkim-simple.example", canonicalization=canonicalization)
    forged = b"Authentication-Results: mx.example.org; dkim=pass header.d=bank.example\r\nX-Spam-Flag: NO\r\n"
    raw = forged + cases.signed(message(name, sender="alice@dkim-simple.example"), sign)
    record = cases.zone()["s1._domainkey.dkim-simple.example"]["TXT"][0].encode()

    def verifies(data: bytes) -> bool:
        return bool(dkim.verify(data, dnsfunc=lambda *_args, **_kw: record))

    assert verifies(raw)
    assert site.send(raw)[0] == 250
    [arrived] = site.arrived(name)
    assert verifies(arrived.data)
    assert b"dkim=pass header.d=dkim-simple.example" in arrived.data
    assert b"bank.example" not in arrived.data
    assert arrived.data.count(b"X-Spam-Flag:") == 1


def test_local_submission(site: Site) -> None:
    """Mail of this machine comes through sendmail(1), without a client."""
    subprocess.run(
        [
            *(program("sendmail") or "sendmail", "-C", str(site.postfix.config)),
            *("-f", SENDER, "bob@example.com"),
        ],
        input=message("local").replace(b"\r\n", b"\n"),
        check=True,
        timeout=60,
        env={"MAIL_CONFIG": str(site.postfix.config), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    [arrived] = site.arrived("local")
    assert b"X-Virus-Scanned: Mailwarden at mx.example.org\r\n" in arrived.data


def test_submission_listener(site: Site) -> None:
    """What comes in by the listener named ORIGINATING is our users' own: no results, no spam fields."""
    assert site.send(message("submitted"), "carol@example.com", submission=True)[0] == 250
    [arrived] = site.arrived("submitted")
    names = {f.name for f in split(arrived.data).fields}
    assert "X-Virus-Scanned" in names
    assert not names & {"Authentication-Results", "X-Spam-Flag", "X-Spam-Status"}


# ---------------------------------------------------------------- verdicts


@pytest.mark.parametrize(
    ("name", "body", "reply"),
    [("gtube", GTUBE.encode(), "5.7.1"), ("eicar", EICAR, "5.7.1")],
)
def test_rejected(site: Site, name: str, body: bytes, reply: str) -> None:
    """The client hears it in the session, and nothing is queued."""
    fields = b"MIME-Version: 1.0\r\nContent-Type: text/plain\r\n"
    code, text = site.send(message(name, body + b"\r\n", fields))
    assert 550 <= code <= 554
    assert re.match(rf"{reply} Message rejected.* \(id [0-9A-Z]{{16}}\)", text)
    assert site.arrivals(name) == 0


def test_held_and_released(site: Site) -> None:
    """250 for the sender, a row for the reviewer, and the message itself after the release: once."""
    raw = message("held", DOUBTFUL)
    code, _ = site.send(raw, "dave@strict.example.com")
    assert code == 250
    assert site.arrivals("held") == 0
    [item] = site.held("held")
    assert [r["address"] for r in item["recipients"]] == ["dave@strict.example.com"]
    site.command("quarantine", "release", item["id"])
    [arrived] = site.arrived("held")
    assert arrived.mail_from == SENDER
    assert arrived.recipients == ("dave@strict.example.com",)
    assert arrived.data.endswith(raw)
    assert b"X-Mailwarden-Release" not in arrived.data
    assert site.arrivals("held") == 1
    assert site.held("held") == []
    site.command("quarantine", "release", item["id"], status=1)
    assert site.arrivals("held") == 1


def test_release_token_serves_its_message_only(site: Site) -> None:
    """The token of a release, seen by its recipient's server, frees no other message."""
    raw = message("stolen", DOUBTFUL)
    assert site.send(raw, "dave@strict.example.com")[0] == 250
    [item] = site.held("stolen")
    tokens: list[bytes] = []
    with Sink() as spy:
        other = site.settings(release={"next_hop": f"smtp:{spy.address}"})
        site.gateway.file.write_text(as_toml(other))  # for the command alone: no HUP
        site.command("quarantine", "release", item["id"])
        site.gateway.file.write_text(as_toml(site.settings()))
        [seen] = spy.wait_for(1)
        tokens.append(seen.data.partition(b"\r\n")[0])
    assert tokens[0].startswith(b"X-Mailwarden-Release: ")
    assert site.send(tokens[0] + b"\r\n" + message("stolen-2", DOUBTFUL), "dave@strict.example.com")[0] == 250
    assert site.arrivals("stolen-2") == 0
    assert len(site.held("stolen-2")) == 1
    # For its own message and recipient it is good.
    assert site.send(tokens[0] + b"\r\n" + raw, "dave@strict.example.com")[0] == 250
    site.arrived("stolen")


def test_recipients_part_ways(site: Site) -> None:
    """Held for one, delivered to the other two, in one transaction."""
    raw = message("mixed", DOUBTFUL)
    people = ("bob@example.com", "dave@strict.example.com", "carol@example.com")
    assert site.send(raw, *people)[0] == 250
    arrived = site.arrived("mixed")
    site.postfix.wait_empty()
    assert sorted(r for one in arrived for r in one.recipients) == ["bob@example.com", "carol@example.com"]
    assert all(one.data.endswith(raw) for one in arrived)
    [item] = site.held("mixed")
    assert [r["address"] for r in item["recipients"]] == ["dave@strict.example.com"]


# ---------------------------------------------------------------- attachments cut out

PROGRAM = b'Content-Type: application/octet-stream; name="setup.exe"\r\n\r\nnot really a program'


def _with_program(name: str, text: bytes = b"Text.") -> bytes:
    fields = b'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="b"\r\n'
    return message(
        name, b"--b\r\n\r\n" + text + b"\r\n--b\r\n" + PROGRAM + b"\r\n--b--\r\nBehind.\r\n", fields
    )


@pytest.mark.parametrize(
    "text",
    [
        b"Text.",
        b".\r\n..\r\n.dot\r\n",
        b"Gr\xfc\xdfe \xe2\x82\xac \t \r\n\r\n",
        b"A line of text that comes again and again.\r\n" * 5_000,
        b"x" * 65_400 + b"\r\n" + b"y" * 3_000 + b"\r\n" + b"z" * 70_000,
        b"long " * 190 + b"\r\n" + b"e" * 996,
    ],
    ids=["plain", "dots", "eight-bit", "several-packets", "too-long-lines", "long-lines"],
)
def test_stripped_and_released(site: Site, text: bytes, request: pytest.FixtureRequest) -> None:
    """A note in place of the program, the rest to the octet; the whole message once it is released."""
    name = f"strip-{request.node.callspec.id}"
    raw = _with_program(name, text)
    assert site.send(raw)[0] == 250
    [arrived] = site.arrived(name)
    [item] = site.held(name)
    assert f"\r\nX-Quarantine-ID: <{item['id']}>\r\n".encode() in arrived.data
    assert item["reasons"] == ["ATTACHMENT_EXECUTABLE", "STRIPPED"]
    head, tail = raw.split(PROGRAM)
    body = _rejoined(arrived.data)
    assert body.startswith(head + b"Content-Type: text/plain; charset=utf-8\r\n")
    assert body.endswith(item["id"].encode() + tail)
    assert PROGRAM not in arrived.data
    site.sink.clear()
    site.command("quarantine", "release", item["id"])
    [released] = site.arrived(name)
    assert _rejoined(released.data) == raw
    assert released.recipients == ("bob@example.com",)
    assert site.arrivals(name) == 1


def _rejoined(data: bytes) -> bytes:
    """Our own message, with the lines whole that Postfix's client has broken (smtp_line_length_limit)."""
    return data[data.index(b"From:  Alice") :].replace(b"\r\n ", b"")


def test_stripped_for_one_and_held_for_another(site: Site) -> None:
    """One item has both; what is released to the one who was held is whole."""
    raw = _with_program("strip-mixed", DOUBTFUL)
    assert site.send(raw, "bob@example.com", "dave@strict.example.com")[0] == 250
    [arrived] = site.arrived("strip-mixed")
    assert arrived.recipients == ("bob@example.com",)
    assert PROGRAM not in arrived.data
    [item] = site.held("strip-mixed")
    notes = {r["address"]: r["note"] for r in item["recipients"]}
    assert notes == {
        "bob@example.com": "delivered without what was stripped",
        "dave@strict.example.com": "",
    }
    site.command("quarantine", "release", item["id"], "--only", "dave@strict.example.com")
    both = site.arrived("strip-mixed", 2)
    assert both[1].recipients == ("dave@strict.example.com",)
    assert both[1].data.endswith(raw)
    assert site.arrivals("strip-mixed") == 2


def test_nothing_is_stripped_that_is_not_kept(site: Site) -> None:
    """Where the quarantine cannot be written, the sender tries again, and nothing is delivered."""
    database = site.directory / "gateway" / "mailwarden.db"
    with sqlite3.connect(database) as connection:
        connection.execute("ALTER TABLE quarantine_bytes RENAME TO elsewhere")
    try:
        code, _ = site.send(_with_program("strip-unkept"))
    finally:
        with sqlite3.connect(database) as connection:
            connection.execute("ALTER TABLE elsewhere RENAME TO quarantine_bytes")
    assert code == 452
    assert site.arrivals("strip-unkept") == 0


# ---------------------------------------------------------------- TLS, by Postfix's macros


def test_tls_required(site: Site) -> None:
    """A sender domain for which TLS is required: refused in clear, taken with STARTTLS."""
    sender = "alice@tls-required.example"
    code, text = site.send(message("tls-clear"), sender=sender)
    assert (code, text.split()[0]) == (530, "5.7.0")
    with smtplib.SMTP("127.0.0.1", site.postfix.port, timeout=60) as client:
        client.starttls(context=_context(site))
        client.ehlo("mail.example.net")
        assert transact(client, message("tls-encrypted"), ("bob@example.com",), sender)[0] == 250
    site.arrived("tls-encrypted")


def test_client_certificate_required(site: Site) -> None:
    """A partner whose certificate must be its own."""
    sender = "alice@partner.example"
    for name, expected in (("", 550), ("other.example", 550), ("partner.example", 250)):
        context = _context(site)
        if name:
            pair = site.authority.issue(name, client=True)
            context.load_cert_chain(pair.certificate, pair.key)
        with smtplib.SMTP("127.0.0.1", site.postfix.port, timeout=60) as client:
            client.starttls(context=context)
            client.ehlo("mail.example.net")
            code, text = transact(client, message(f"partner-{expected}"), ("bob@example.com",), sender)
        assert code == expected, (name, text)
        assert expected == 250 or text.startswith("5.7.10 ")


def _context(site: Site) -> ssl.SSLContext:
    context = site.authority.client_context()
    context.check_hostname = False  # we connect by address
    return context


# ---------------------------------------------------------------- failures


def test_clamd_down(site: Site) -> None:
    """Without an answer of the scanner the sender tries again later; afterwards the mail gets through."""
    with site.configured(antivirus={"addresses": [f"127.0.0.1:{free_port()}"]}):
        code, text = site.send(message("clamd-down"))
        assert (code, text.split()[0]) == (451, "4.7.1")
    assert site.arrivals("clamd-down") == 0
    assert site.send(message("clamd-down"))[0] == 250
    site.arrived("clamd-down")


def test_worker_killed_between_commands(site: Site) -> None:
    """A filter that dies in a session costs a temporary failure; the next try succeeds."""
    with site.client() as client:
        assert client.docmd("MAIL", f"FROM:<{SENDER}>")[0] == 250
        assert client.docmd("RCPT", "TO:<bob@example.com>")[0] == 250
        _kill_workers(site)
        code, _ = client.docmd("DATA")
        if code == 354:
            client.send(message("killed-idle") + b".\r\n")
            code, _ = client.getreply()
        assert 400 <= code < 500
    _await_workers(site)
    assert site.arrivals("killed-idle") == 0
    assert site.send(message("killed-idle"))[0] == 250
    assert len(site.arrived("killed-idle")) == 1


def test_worker_killed_while_judging(site: Site) -> None:
    """The same while the message is being scanned."""
    with (
        FakeClamd(CLAMD_FAULTS["hangs after the stream"]) as hanging,
        site.configured(antivirus={"addresses": [hanging.address]}),
    ):
        replies: list[tuple[int, str]] = []
        sender = threading.Thread(target=lambda: replies.append(site.send(message("killed-busy"))))
        before = hanging.connections
        sender.start()
        wait_for(lambda: hanging.connections >= before + 2, 30, "the scan")
        _kill_workers(site)
        sender.join(60)
        assert [400 <= code < 500 for code, _ in replies] == [True]
        _await_workers(site)
    assert site.arrivals("killed-busy") == 0
    assert site.send(message("killed-busy"))[0] == 250
    assert len(site.arrived("killed-busy")) == 1


def _kill_workers(site: Site) -> None:
    for pid in site.gateway.workers():
        with contextlib.suppress(
            ProcessLookupError, ValueError
        ):  # one drained from a reload before may end by itself
            site.gateway.kill(pid)


def _await_workers(site: Site) -> None:
    wait_for(lambda: len(site.gateway.workers()) >= 3, 30, "new workers")
    wait_for(site.gateway.is_up, 30, "the milter door")


# ---------------------------------------------------------------- reload


def test_reload_under_load(site: Site) -> None:
    """New workers take over while messages pass: every one gets its 250, and arrives once."""
    count, sessions = 15, 4
    replies: dict[str, int] = {}
    failures: list[str] = []

    def talk(session: int) -> None:
        try:
            with site.client() as client:
                for number in range(count):
                    name = f"load-{session}-{number}"
                    code, text = transact(client, message(name), ("bob@example.com",))
                    replies[name] = code
                    if code != 250:
                        failures.append(f"{name}: {code} {text}")
                    time.sleep(0.05)
        except OSError as error:
            failures.append(f"session {session}: {error!r}")

    talkers = [threading.Thread(target=talk, args=(session,)) for session in range(sessions)]
    for talker in talkers:
        talker.start()
    for _ in range(2):
        time.sleep(0.3)
        site.reload(as_toml(site.settings()))
    for talker in talkers:
        talker.join(120)
    assert failures == []
    assert len(replies) == count * sessions
    site.postfix.wait_empty()
    arrived = [m for t in site.sink.transactions for m in re.findall(rb"Message-ID: <(load-[^@]+)@", t.data)]
    assert sorted(name.decode() for name in arrived) == sorted(replies)


def test_bad_configuration_is_refused(site: Site) -> None:
    """A typing error on HUP changes nothing, and the log names file and line."""
    wait_for(lambda: len(site.gateway.workers()) == 3, 40, "the workers of reloads before to go")
    before = set(site.gateway.workers())
    text = as_toml(site.settings())
    line = text.splitlines().index("[antivirus]") + 2
    event = site.reload(
        text.replace("[antivirus]\n", "[antivirus]\nadresses = []\n"),
        "configuration refused, the old one stays",
    )
    site.gateway.file.write_text(text)
    assert event["error"].strip('"').startswith(f"{site.gateway.file}:{line}: unknown key adresses")
    assert "did you mean addresses?" in event["error"]
    assert set(site.gateway.workers()) == before
    assert site.send(message("after-bad-reload"))[0] == 250
    site.arrived("after-bad-reload")
