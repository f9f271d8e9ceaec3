# SPDX-License-Identifier: GPL-2.0-or-later
"""Cases as data: one TOML file each in `cases/`, read into messages, envelopes and expectations.

Words in double braces stand for bytes that a text file cannot hold or that trip a scanner:

    {{eicar}} {{virus}} {{gtube}}       test strings, put together when a case is read
    {{hex 00ff}}  {{repeat 40 text ab}}  octets; the same again and again
    {{base64 eicar}}  {{zip eicar}}      one made of another, in any nesting: {{base64 zip eicar}}
    {{base64 sample macro}}              an archive or document of tests/bombs.py
    {{nested 90}}                        a body of that many multiparts, one inside the other

Line ends are CRLF in the message, whatever the file has.
"""

from __future__ import annotations

import base64
import copy
import functools
import io
import ipaddress
import re
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import dkim
import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from contrib.lab.clamd import EICAR, TEST_VIRUS
from gateway.mail.types import ON_ITS_WAY, Action, Direction, Envelope, Mail, Session, Tls, new_id
from gateway.policy.examine import GTUBE
from gateway.settings import Settings
from tests.bombs import SAMPLES

if TYPE_CHECKING:
    import random

CASES = Path(__file__).parent / "cases"
_BRACES = re.compile(rb"\{\{([^{}]+)\}\}")


class SessionOf(Settings, frozen=True):
    """The client. A good name for its address stands in the zone that all cases share."""

    client_ip: str = "192.0.2.10"
    client_name: str = "mail.example.net"
    helo: str = "mail.example.net"
    tls: Literal["", "TLSv1.2", "TLSv1.3"] = ""
    login: str = ""
    listener: str = ""
    outbound: bool = False


class EnvelopeOf(Settings, frozen=True):
    """MAIL FROM and RCPT TO."""

    mail_from: str = "alice@example.net"
    recipients: tuple[str, ...] = ("bob@example.com",)
    options: tuple[str, ...] = ()


class Sign(Settings, frozen=True):
    """A DKIM signature that the message gets before it is sent. The key is published in the zone."""

    domain: str
    selector: str = "s1"
    algorithm: Literal["rsa-sha256", "ed25519-sha256"] = "rsa-sha256"
    canonicalization: str = "relaxed/relaxed"
    headers: tuple[str, ...] = ("from", "to", "subject", "date", "message-id")
    length: bool = False  # with l=
    expires: int = 0  # x=, seconds from now
    publish: Literal["key", "testing", "other", "none"] = "key"  # what the zone has under the selector


class Seal(Settings, frozen=True):
    """An ARC set (RFC 8617) that the message gets after its signatures. The key is published in the zone."""

    domain: str
    results: str  # what ARC-Authentication-Results says, behind the sealer's name
    headers: tuple[str, ...] = ("from", "to", "subject", "date", "message-id")


class Expect(Settings, frozen=True):
    """What must happen. Left out: not looked at; but `relayed` follows from `action`."""

    action: Action
    reason: str = "score"
    reply: str = ""  # code and enhanced code; "" where the next hop has the last word
    relayed: tuple[str, ...] | None = None
    held: tuple[str, ...] = ()
    refused: bool = False  # before DATA, so that nothing is judged
    signals: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()  # signals in the state "error"
    absent: tuple[str, ...] = ()  # signals that must not be there
    score: float | None = None
    header: tuple[str, ...] = ()  # unfolded fields that must be in what is passed on
    no_header: tuple[str, ...] = ()  # names that must not
    no_text: tuple[str, ...] = ()  # what must not be anywhere in what is passed on
    kept_text: tuple[str, ...] = ()  # what must
    stripped: tuple[str, ...] = ()  # recipients who get it with something cut out, and whose original is kept
    cuts: int | None = None
    authentication_results: str = ""  # unfolded, the exact value of the topmost field
    text: tuple[str, ...] = ()  # what the parts that are read as text must contain
    attachments: tuple[str, ...] | None = None  # first names of the attachments


class Smarthost(Settings, frozen=True):
    """Where SMTP itself gives the smart host another answer than Postfix gives for the milter."""

    reply: str  # code and enhanced code
    why: str


class CaseFile(Settings, frozen=True):
    """What a file in `cases/` may have."""

    description: str
    expect: Expect
    message: str
    config: str = "standard"
    session: SessionOf = SessionOf()
    envelope: EnvelopeOf = EnvelopeOf()
    dns: dict[str, Any] = msgspec.field(default_factory=dict)
    sign: tuple[Sign, ...] = ()
    seal: tuple[Seal, ...] = ()  # the oldest first
    alter: tuple[tuple[str, str], ...] = ()  # replaced once each, after signing and sealing
    smarthost: Smarthost | None = None


class Case:
    """One case, with the bytes of its message."""

    def __init__(self, name: str, file: CaseFile) -> None:
        self.name = name
        self.file = file
        self.expect = file.expect
        raw = expand(file.message.encode())
        for sign in reversed(file.sign):
            raw = signed(raw, sign)
        for seal in file.seal:
            raw = sealed(raw, seal)
        for old, new in file.alter:
            before, after = expand(old.encode()), expand(new.encode())
            assert raw.count(before) >= 1, f"{name}: nothing to alter: {old!r}"
            raw = raw.replace(before, after, 1)
        self.raw = raw

    def __repr__(self) -> str:
        return f"Case({self.name})"

    @property
    def session(self) -> Session:
        """The session as the pipeline takes it."""
        of = self.file.session
        return Session(
            client_ip=of.client_ip,
            client_name=of.client_name,
            helo=of.helo,
            tls=Tls(of.tls, "TLS_AES_256_GCM_SHA384", 256) if of.tls else None,
            login=of.login,
            listener=of.listener,
            direction=Direction.OUTBOUND if of.outbound else Direction.INBOUND,
        )

    @property
    def envelope(self) -> Envelope:
        """The envelope as the pipeline takes it."""
        of = self.file.envelope
        return Envelope(of.mail_from, of.recipients, of.options)

    def mail(self, raw: bytes | None = None) -> Mail:
        """A new `Mail` of this case; `raw` takes the place of its message."""
        return Mail(
            new_id(), self.session, self.envelope, self.raw if raw is None else raw, received=time.time()
        )

    @property
    def relayed(self) -> tuple[str, ...]:
        """The recipients that must get the message."""
        if self.expect.relayed is not None:
            return self.expect.relayed
        goes_on = self.expect.action in ON_ITS_WAY
        return tuple(r for r in self.envelope.recipients if goes_on and r not in self.expect.held)

    @property
    def held(self) -> tuple[str, ...]:
        """The recipients for whom it must be in the quarantine."""
        whole = self.expect.action is Action.QUARANTINE and not self.expect.held
        return self.envelope.recipients if whole else self.expect.held


@functools.cache
def load() -> tuple[Case, ...]:
    """All cases, in order of name."""
    return tuple(_read(path) for path in sorted(CASES.glob("*.toml")))


def _read(path: Path) -> Case:
    try:
        return Case(path.stem, msgspec.toml.decode(path.read_bytes(), type=CaseFile))
    except (msgspec.DecodeError, ValueError) as error:
        raise ValueError(f"{path.name}: {error}") from error


@functools.cache
def zone() -> dict[str, Any]:
    """One zone for all cases. A name that two of them set differently is a mistake."""
    names: dict[str, Any] = {
        "mail.example.net": {"A": ["192.0.2.10"], "AAAA": ["2001:db8::10"]},
        "10.2.0.192.in-addr.arpa": {"PTR": ["mail.example.net"]},
        ipaddress.ip_address("2001:db8::10").reverse_pointer: {"PTR": ["mail.example.net"]},
        "example.net": {
            "TXT": ["v=spf1 ip4:192.0.2.10 ip6:2001:db8::10 -all"],
            "MX": ["10 mail.example.net"],
        },
    }
    for case in load():
        added = {name.lower(): entry for name, entry in case.file.dns.items()}
        for sign in case.file.sign:
            if sign.publish != "none":
                added[f"{sign.selector}._domainkey.{sign.domain}"] = {"TXT": [_published(sign)]}
        for seal in case.file.seal:
            added[f"arc._domainkey.{seal.domain}"] = {"TXT": [_published(Sign(seal.domain))]}
        for name, entry in added.items():
            if names.setdefault(name, entry) != entry:
                raise ValueError(f"{case.name}: another case says otherwise about {name}")
    return names


# ---------------------------------------------------------------- bytes


def expand(text: bytes) -> bytes:
    """Put in CRLF, and what the words in braces stand for."""
    text = text.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    return _BRACES.sub(lambda found: _made(found[1].decode()), text)


def _made(words: str) -> bytes:
    function, _, rest = words.strip().partition(" ")
    match function:
        case "eicar":
            return EICAR
        case "virus":
            return TEST_VIRUS
        case "gtube":
            return GTUBE.encode()
        case "text":
            return rest.replace("\\n", "\r\n").replace("\\t", "\t").encode()
        case "hex":
            return bytes.fromhex(rest)
        case "repeat":
            count, _, what = rest.partition(" ")
            return _made(what) * int(count)
        case "base64":
            return base64.encodebytes(_made(rest)).replace(b"\n", b"\r\n").removesuffix(b"\r\n")
        case "zip":
            return _zip(_made(rest))
        case "sample":
            return SAMPLES[rest]()
        case "nested":
            return _nested(int(rest))
    raise ValueError(f"no such expansion: {words}")


def _zip(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("readme.txt"), data)
    return buffer.getvalue()


def _nested(depth: int) -> bytes:
    """The body of a multipart with the boundary "n0", and in it so many more."""
    start = [
        f'--n{n}\r\nContent-Type: multipart/mixed; boundary="n{n + 1}"\r\n\r\n' for n in range(depth - 1)
    ]
    text = f"--n{depth - 1}\r\nContent-Type: text/plain\r\n\r\nAt the bottom.\r\n"
    end = [f"--n{n}--\r\n" for n in range(depth - 1, -1, -1)]
    return "".join([*start, text, *end]).encode()


# ---------------------------------------------------------------- damage

FRAGMENTS = (
    *(
        b"\r\n",
        b" ",
        b"\t",
        b"\r\n ",
        b"\r\n\t\r\n",
        b":",
        b";",
        b"(",
        b'"',
        b"<",
        b"@",
        b"\xff",
        b"\xf0\x9f",
        b"--",
    ),
    *(b"=?utf-8?q?", b"=?utf-8?b?", b"?=", b"boundary=", b"\xe2\x80\xae", b"xn--", b"<a href=", b"http://["),
    *(
        b"Content-Type: ",
        b"From: ",
        b"Subject: ",
        b"X-Spam-Flag: \xff",
        b"DKIM-Signature: ",
        b"ARC-Seal: i=1;",
    ),
    b"\r\nAuthentication-Results: mx.example.org",
)


def broken(case: Case, choose: random.Random) -> Case:
    """The case with its message damaged in a few places, line ends kept sound."""
    raw = bytearray(case.raw)
    for _ in range(choose.randint(1, 6)):
        place = choose.randrange(len(raw) + 1)
        match choose.randrange(4):
            case 0:
                raw[place:place] = choose.choice(FRAGMENTS)
            case 1:
                del raw[place : place + choose.randint(1, 30)]
            case 2:
                start = choose.randrange(len(raw) + 1)
                raw[place:place] = raw[start : start + choose.randint(1, 200)]
            case _:
                raw[place : place + 1] = bytes((choose.randrange(1, 256),))
    copied = copy.copy(case)
    copied.name = f"{case.name}-{choose.randrange(10**9)}"
    copied.raw = re.sub(rb"\r\n|[\r\n]", b"\r\n", bytes(raw)) + b"\r\n"
    return copied


# ---------------------------------------------------------------- signatures


class _Signer(dkim.DKIM):  # type: ignore[misc]  # dkimpy has no types
    """dkimpy's signer, that can also say when a signature expires."""

    expires = 0

    def gen_header(self, fields: list[tuple[bytes, bytes]], *rest: Any, **more: Any) -> bytes:
        if self.expires:
            now = int(time.time())
            then = now + self.expires
            fields = [(k, str(min(now, then) - 60).encode() if k == b"t" else v) for k, v in fields]
            fields.insert(-1, (b"x", str(then).encode()))
        made: bytes = super().gen_header(fields, *rest, **more)
        return made


@functools.cache
def _keys(which: str) -> tuple[bytes, bytes, bytes, bytes]:
    """An RSA and an Ed25519 key, made anew in each run: private and public, in the forms of DKIM."""
    del which
    key = rsa.generate_private_key(65537, 2048)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    small = ed25519.Ed25519PrivateKey.generate()
    return (
        private,
        base64.b64encode(public),
        base64.b64encode(small.private_bytes_raw()),
        base64.b64encode(small.public_key().public_bytes_raw()),
    )


def signed(raw: bytes, sign: Sign) -> bytes:
    """The message with a DKIM signature on top."""
    rsa_key, _, small_key, _ = _keys("key")
    signer = _Signer(raw)
    signer.expires = sign.expires
    field = signer.sign(
        sign.selector.encode(),
        sign.domain.encode(),
        rsa_key if sign.algorithm.startswith("rsa") else small_key,
        signature_algorithm=sign.algorithm.encode(),
        canonicalize=tuple(word.encode() for word in sign.canonicalization.split("/")),
        include_headers=[name.encode() for name in sign.headers],
        length=sign.length,
    )
    return bytes(field) + raw


def sealed(raw: bytes, seal: Seal) -> bytes:
    """The message with an ARC set on top. dkimpy takes the results from a field, which does not stay."""
    name = seal.domain.encode()
    stated = b"Authentication-Results: %b; %b\r\n" % (name, seal.results.encode())
    names = [header.encode() for header in seal.headers]
    fields = dkim.ARC(stated + raw).sign(b"arc", name, _keys("key")[0], name, include_headers=names)
    assert len(fields) == 3
    return b"".join(fields) + raw


def _published(sign: Sign) -> str:
    """The key record, or that of another key."""
    _, rsa_key, _, small_key = _keys("other" if sign.publish == "other" else "key")
    flags = "t=y; " if sign.publish == "testing" else ""
    if sign.algorithm.startswith("rsa"):
        return f"v=DKIM1; k=rsa; {flags}p={rsa_key.decode()}"
    return f"v=DKIM1; k=ed25519; {flags}p={small_key.decode()}"
