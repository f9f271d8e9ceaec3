# SPDX-License-Identifier: GPL-2.0-or-later
"""Outbound mail signed through both doors: what Postfix and the smart host send on verifies.

A real Postfix asks the gateway over its submission listener; the smart host gets the same mail from
a network of ours. Both verify by our own check, and by dkimpy.
"""

from __future__ import annotations

import contextlib
import re
import smtplib
import time
from typing import TYPE_CHECKING, Any, Self

import dkim
import pytest

from contrib.lab.dns import DnsStub
from contrib.lab.gateway import Gateway
from contrib.lab.postfix import Postfix
from contrib.lab.process import free_port
from contrib.lab.sink import Sink
from gateway.auth.arc import check_arc
from gateway.auth.dkim import check_dkim, read_signatures
from gateway.auth.settings import AuthSettings
from gateway.auth.sign import generate_key, key_record, read_private_key
from gateway.auth.signature import Material
from gateway.dns import DnsSettings, Lookup, Resolver
from gateway.mail.headers import split

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gateway.mail.types import Dkim

pytestmark = pytest.mark.server("postfix")

CLIENT = "NAME=mail.example.net ADDR=203.0.113.7"
STRANGER = "NAME=[UNAVAILABLE] ADDR=192.0.2.99"
HEAD = b"To:bob@example.org\r\nSubject:   odd   spaces  \r\n\tfolded\r\nMessage-ID: <%s@example.com>\r\n"
BODIES = {
    "plain": b"Text.\r\n",
    "empty": b"",
    "dots": b".\r\n..\r\n.dot\r\n",
    "trailing": b"Text. \t \r\n  leading  \r\n\r\n\r\n",
    "eight-bit": b"Gr\xfc\xdfe \xe2\x82\xac\r\n",
    "long-lines": b"x" * 900 + b" y" * 20 + b"\r\n",
    "several-chunks": b"A line of text that comes again and again.\r\n" * 4_000,
}


class Site:
    """One gateway with both doors open, Postfix before one of them, and a sink behind both."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o755)
        self.directory = directory
        kinds: dict[str, Any] = {"r1": "rsa", "e1": "ed25519"}
        self.keys = {selector: self._key(selector, kind) for selector, kind in kinds.items()}
        self.zone = {
            f"{selector}._domainkey.example.com": {"TXT": [record]} for selector, record in self.keys.items()
        }
        self.dns = DnsStub(self.zone)
        self.sink = Sink()
        self.milter = f"inet:127.0.0.1:{free_port()}"
        self.postfix = Postfix(
            directory / "postfix",
            milter=self.milter,
            relay_to=self.sink.address,
            domains=("example.org",),
            submission=True,
        )
        self.gateway = Gateway(directory / "gateway", self.settings())

    def _key(self, selector: str, kind: Any) -> str:
        file = self.directory / f"{selector}.pem"
        file.write_bytes(generate_key(kind))
        file.chmod(0o600)
        return key_record(read_private_key(file.read_bytes()))

    def settings(self) -> dict[str, Any]:
        return {
            "hostname": "mx.example.com",
            "domains": ["example.org"],
            "relay_networks": ["203.0.113.0/24"],
            "next_hop": f"smtp:{self.sink.address}",
            "grace": 5,
            "milter": {"listen": [self.milter], "workers": 1},
            "smarthost": {
                "listen": [f"127.0.0.1:{free_port()}"],
                "workers": 1,
                "xclient_networks": ["127.0.0.1/32"],
            },
            "dns": {"nameservers": [self.dns.nameserver], "timeout": 2, "attempts": 1},
            "antivirus": {"enabled": False},
            "policy": {"weights": {"CLASSIFIER": 0}, "actions": {"ATTACHMENT_EXECUTABLE": "strip"}},
            "signing": {
                "seal_domain": "example.com",
                "keys": [
                    {
                        "domain": "example.com",
                        "selector": selector,
                        "key_file": f"{self.directory}/{selector}.pem",
                    }
                    for selector in self.keys
                ],
            },
            "http": {"listen": ""},
            "store": {"database": f"sqlite:///{self.directory}/gateway/mailwarden.db"},
            "log": {"format": "json"},
        }

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for server in (self.dns, self.sink, self.gateway, self.postfix):
                stack.enter_context(server)
            self._running = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def send(
        self, door: str, name: str, raw: bytes, client: str = CLIENT, sender: str = "alice@example.com"
    ) -> bytes:
        """Send a message; what arrives behind the door."""
        port = self.postfix.submission_port if door == "postfix" else self.gateway.smarthosts[0][1]
        if door == "postfix" and client != CLIENT:
            port = self.postfix.port
        with smtplib.SMTP("127.0.0.1", int(port), timeout=60) as session:
            session.ehlo("peer.example.org")
            assert session.docmd("XCLIENT", client)[0] == 220
            session.ehlo("mail.example.net")
            assert session.docmd("MAIL", f"FROM:<{sender}>")[0] == 250
            assert session.docmd("RCPT", "TO:<bob@example.org>")[0] == 250
            assert session.docmd("DATA")[0] == 354
            session.send(re.sub(rb"(\A|\r\n)\.", rb"\1..", raw) + b".\r\n")
            code, said = session.getreply()
            assert code == 250, said
        wanted = b"Message-ID: <%s@example.com>" % name.encode()
        found = self.sink.wait_for(1, 40, lambda one: wanted in one.data)
        self.sink.clear()
        return found[0].data

    def lookup(self) -> Lookup:
        settings = DnsSettings(nameservers=(self.dns.nameserver,), timeout=2, attempts=1, cache_size=0)
        return Lookup(Resolver(settings), time.monotonic() + 10)

    def results(self, raw: bytes) -> tuple[Dkim, ...]:
        """What our own check says."""
        material = material_of(raw)
        signatures = read_signatures(material, AuthSettings())
        return check_dkim(material, signatures, self.lookup(), AuthSettings())

    def dkimpy(self, raw: bytes, index: int) -> bool:
        """What dkimpy says of one signature."""

        def ask(name: bytes, **_: object) -> bytes:
            return str(self.zone[name.decode().rstrip(".")]["TXT"][0]).encode()

        return bool(dkim.DKIM(raw).verify(index, dnsfunc=ask))


def material_of(raw: bytes) -> Material:
    section = split(raw)
    return Material(section.fields, raw, section.body_start)


@pytest.fixture(scope="module")
def site(lab: Path) -> Iterator[Site]:
    with Site(lab / "signing") as made:
        yield made


def message(name: str, author: bytes = b"alice@example.com") -> bytes:
    return b"From:  Alice <%s>\r\n" % author + HEAD % name.encode() + b"\r\n" + BODIES.get(name, b"Text.\r\n")


@pytest.mark.parametrize("name", BODIES)
def test_what_leaves_verifies(site: Site, name: str) -> None:
    """Both signatures, through both doors, which sign the same."""
    signed: dict[str, set[tuple[str, str]]] = {}
    for door in ("postfix", "smarthost"):
        arrived = site.send(door, name, message(name))
        found = site.results(arrived)
        assert [(one.result, one.selector, one.covers_all) for one in found] == [
            ("pass", "e1", True),
            ("pass", "r1", True),
        ]
        assert [site.dkimpy(arrived, index) for index in (0, 1)] == [True, True]
        tags = [material_of(arrived).tags(index) for index in material_of(arrived).indexes("dkim-signature")]
        signed[door] = {(one["h"].decode(), one["bh"].decode()) for one in tags}
        assert not any("l" in one for one in tags)
    if name != "empty":  # Postfix adds what is missing there, and it is signed as well
        hashes = {door: {bh for _, bh in found} for door, found in signed.items()}
        assert hashes["postfix"] == hashes["smarthost"]


@pytest.mark.parametrize("door", ["postfix", "smarthost"])
@pytest.mark.parametrize("client", [CLIENT, STRANGER])
def test_what_is_signed_is_what_was_left_of_it(site: Site, door: str, client: str) -> None:
    """An attachment is cut out first; the signature, or the seal, is over what is delivered."""
    fields = b'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="b"\r\n\r\n'
    part = b'\r\n--b\r\nContent-Type: application/octet-stream; name="a.exe"\r\n\r\nnothing\r\n'
    raw = message("strip").replace(b"\r\n\r\nText.", b"\r\n" + fields + b"--b\r\n\r\nText." + part + b"--b--")
    arrived = site.send(door, "strip", raw, client)
    assert b"nothing" not in arrived
    assert b"* a.exe (application/octet-stream, 7 B): a program\r\n" in arrived
    if client == CLIENT:
        assert [(one.result, one.covers_all) for one in site.results(arrived)] == [("pass", True)] * 2
        assert [site.dkimpy(arrived, index) for index in (0, 1)] == [True, True]
    else:
        chain = check_arc(material_of(arrived), site.lookup(), AuthSettings())
        assert (chain.result, chain.sealers) == ("pass", ("example.com",))


def test_an_addition_behind_us_breaks_it(site: Site) -> None:
    """What is signed is the message as it arrives, and each field that readers see once more."""
    arrived = site.send("postfix", "plain", message("plain"))
    for added in (b"From: eve@example.net\r\n", b"Subject: other\r\n", b"Reply-To: eve@example.net\r\n"):
        assert {one.result for one in site.results(added + arrived)} == {"fail"}


@pytest.mark.parametrize("door", ["postfix", "smarthost"])
def test_a_foreign_author_stays_unsigned(site: Site, door: str) -> None:
    arrived = site.send(door, "foreign", message("foreign", b"carol@example.net"))
    assert b"DKIM-Signature" not in arrived


@pytest.mark.parametrize("door", ["postfix", "smarthost"])
def test_inbound_mail_is_sealed_and_not_signed(site: Site, door: str) -> None:
    """Mail of strangers, even under our own name, gets no signature; the ARC set verifies on arrival."""
    arrived = site.send(door, "inbound", message("inbound"), STRANGER, "eve@example.net")
    assert b"DKIM-Signature" not in arrived
    chain = check_arc(material_of(arrived), site.lookup(), AuthSettings())
    assert (chain.result, chain.sealers) == ("pass", ("example.com",))
    assert chain.results.startswith("mx.example.com; spf=none smtp.mailfrom=eve@example.net;")

    def ask(name: bytes, **_: object) -> bytes:
        return str(site.zone[name.decode().rstrip(".")]["TXT"][0]).encode()

    assert dkim.arc_verify(arrived, dnsfunc=ask)[0] == b"pass"
