# SPDX-License-Identifier: GPL-2.0-or-later
"""What signs mail that goes on: over the message as it leaves, by the keys of its author, or not at all."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from gateway import assembly, config
from gateway.auth.arc import check_arc
from gateway.auth.dkim import check_dkim, read_signatures
from gateway.auth.outgoing import Signing, load, signed
from gateway.auth.settings import AuthSettings
from gateway.auth.sign import (
    KeySettings,
    SigningKey,
    SignSettings,
    generate_key,
    key_record,
    read_private_key,
)
from gateway.auth.signature import Material
from gateway.config import ConfigError
from gateway.dns import Answer
from gateway.mail import mime
from gateway.mail.edits import apply
from gateway.mail.headers import split
from gateway.mail.types import (
    Arc,
    Direction,
    Dkim,
    Edit,
    EditOp,
    Envelope,
    Evidence,
    Mail,
    Session,
)

if TYPE_CHECKING:
    from pathlib import Path

RSA = SigningKey("example.com", "rsa", read_private_key(generate_key()))
ED25519 = SigningKey("example.com", "ed", read_private_key(generate_key("ed25519")))
DEEPER = SigningKey("news.example.com", "ed", ED25519.private)
RECORDS = {f"{k.selector}._domainkey.{k.domain}": key_record(k.private) for k in (RSA, ED25519, DEEPER)}
FIELDS = b"To: bob@example.org\r\nSubject: hello\r\nX-Old: 1\r\nX-Old: 2\r\n"
EDITS = (
    Edit(EditOp.DELETE, "X-Old", index=1),
    Edit(EditOp.REPLACE, "Subject", "[x] hello"),
    Edit(EditOp.ADD, "Reply-To", "carol@example.com"),
    Edit(EditOp.INSERT, "X-Virus-Scanned", "Mailwarden at mx.example.com"),
)


class FakeLookup:
    """Knows the keys above."""

    def txt(self, name: str) -> Answer[bytes]:
        return Answer("ok", (RECORDS[name].encode(),))


def material_of(raw: bytes) -> Material:
    section = split(raw)
    return Material(section.fields, raw, section.body_start)


def leaves(
    author: bytes,
    keys: tuple[SigningKey, ...],
    *,
    direction: Direction = Direction.OUTBOUND,
    evidence: Evidence | None = None,
    sealer: SigningKey | None = None,
) -> bytes:
    """The message of `author` as it leaves."""
    raw = author + FIELDS + b"\r\nText.\r\n"
    mail = Mail("0" * 16, Session(direction=direction), Envelope("a@example.com", ("b@example.org",)), raw)
    signing = Signing(keys, sealer=sealer)
    edits = signed(mail, mime.parse(raw), evidence or Evidence(), EDITS, signing, "mx.example.com")
    assert edits[: len(EDITS)] == EDITS
    return apply(raw, edits)


def results(raw: bytes) -> tuple[Dkim, ...]:
    lookup: Any = FakeLookup()
    material = material_of(raw)
    return check_dkim(material, read_signatures(material, AuthSettings()), lookup, AuthSettings())


@pytest.mark.parametrize(
    ("author", "signers"),
    [
        (b"From: Alice <alice@example.com>\r\n", ["ed example.com", "rsa example.com"]),
        (b"From: alice@EXAMPLE.com\r\n", ["ed example.com", "rsa example.com"]),
        (b"From: alice@sub.example.com\r\n", ["ed example.com", "rsa example.com"]),
        (b"From: alice@news.example.com\r\n", ["ed news.example.com"]),
        (b"From: alice@example.net\r\n", []),
        (b"From: alice@notexample.com\r\n", []),
        (b"From: alice@example.com, bob@example.com\r\n", []),
        (b"From: alice@example.com\r\nFrom: bob@example.com\r\n", []),
        (b"From: team: alice@example.com;\r\n", []),
        (b"From: nobody\r\n", []),
        (b"", []),
    ],
)
def test_the_author_decides_who_signs(author: bytes, signers: list[str]) -> None:
    """And every signature passes over the message with all edits applied."""
    raw = leaves(author, (RSA, ED25519, DEEPER))
    found = results(raw)
    assert [f"{one.selector} {one.domain}" for one in found] == signers
    assert all(one.result == "pass" and one.covers_all for one in found)
    names = [field.name for field in split(raw).fields]
    assert names[: len(signers)] == ["DKIM-Signature"] * len(signers)
    assert b"[x] hello" in raw
    assert b"X-Old: 1" not in raw


def test_inbound_mail_is_not_signed() -> None:
    raw = leaves(b"From: alice@example.com\r\n", (RSA,), direction=Direction.INBOUND)
    assert not results(raw)


def test_a_header_section_beyond_our_limits_stays_unsigned() -> None:
    """What we do not read to its end we cannot sign as it is."""
    author = b"From: alice@example.com\r\n"
    assert results(leaves(author + b"X: y\r\n" * 4_900, (ED25519,)))
    assert not results(leaves(author + b"X: y\r\n" * 5_100, (ED25519,)))
    assert not results(leaves(author + b"X: " + b"y" * 1_000_001 + b"\r\n", (ED25519,)))


@pytest.mark.parametrize(("arc", "count"), [(Arc("none"), 3), (Arc("temperror"), 0), (None, 0)])
def test_inbound_mail_is_sealed_on_request(arc: Arc | None, count: int) -> None:
    raw = leaves(
        b"From: alice@example.com\r\n",
        (RSA,),
        direction=Direction.INBOUND,
        evidence=Evidence(arc=arc),
        sealer=RSA,
    )
    names = [field.name for field in split(raw).fields]
    assert names[:count] == ["ARC-Seal", "ARC-Message-Signature", "ARC-Authentication-Results"][:count]
    lookup: Any = FakeLookup()
    chain = check_arc(material_of(raw), lookup, AuthSettings())
    assert chain.result == ("pass" if count else "none")
    if count:
        assert chain.sealers == ("example.com",)
        assert chain.results.startswith("mx.example.com; arc=none")


# ---------------------------------------------------------------- keys


def key_file(directory: Path, kind: Any = "rsa", mode: int = 0o600) -> KeySettings:
    file = directory / f"{kind}.pem"
    file.write_bytes(generate_key(kind))
    file.chmod(mode)
    return KeySettings(domain="Example.com", selector=kind, key_file=str(file))


def test_keys_are_read_once_at_the_start(tmp_path: Path) -> None:
    settings = SignSettings(
        keys=(key_file(tmp_path), key_file(tmp_path, "ed25519", 0o640)), seal_domain="example.com"
    )
    signing = load(settings)
    assert [(k.domain, k.selector, k.algorithm) for k in signing.keys] == [
        ("example.com", "rsa", "rsa-sha256"),
        ("example.com", "ed25519", "ed25519-sha256"),
    ]
    assert signing.sealer is signing.keys[0]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("missing", "No such file"),
        ("everybody", "chmod o="),
        ("writable", "chmod o="),
        ("nonsense", "rsa.pem"),
        ("encrypted", "rsa.pem"),
        ("folder", "directory"),
        ("sealer", "no RSA key of example.net"),
        ("ed25519 sealer", "no RSA key of example.com"),
    ],
)
def test_a_key_that_must_not_be_used_stops_the_start(tmp_path: Path, wrong: str, words: str) -> None:
    one = key_file(tmp_path, "ed25519" if wrong.startswith("ed") else "rsa")
    file = tmp_path / "rsa.pem"
    seal_domain = {"sealer": "example.net", "ed25519 sealer": "example.com"}.get(wrong, "")
    match wrong:
        case "missing":
            file.unlink()
        case "everybody":
            file.chmod(0o644)
        case "writable":
            file.chmod(0o602)
        case "nonsense":
            file.write_text("-----BEGIN NONSENSE-----")
        case "encrypted":
            file.write_text(
                "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n"
            )
        case "folder":
            file.unlink()
            file.mkdir()
    settings = config.Config(signing=SignSettings(keys=(one,), seal_domain=seal_domain))
    with pytest.raises(ConfigError, match=words) as caught:
        assembly.load(settings)
    assert str(caught.value).startswith("signing: ")


def test_two_keys_in_one_place_are_a_mistake(tmp_path: Path) -> None:
    one = key_file(tmp_path)
    with pytest.raises(ValueError, match=r"rsa\._domainkey\.Example\.com"):
        SignSettings(keys=(one, one))


def test_the_cost_of_signing() -> None:
    """With an RSA key of 2048 bits and 10 KB: the private operation, and little else."""
    raw = (
        b"From: alice@example.com\r\n" + FIELDS + b"\r\n" + b"A line of text, and some words in it.\r\n" * 260
    )
    mail = Mail(
        "0" * 16, Session(direction=Direction.OUTBOUND), Envelope("a@example.com", ("b@example.org",)), raw
    )
    content = mime.parse(raw)
    times = []
    for _ in range(20):
        start = time.thread_time()
        signed(mail, content, Evidence(), EDITS, Signing((RSA,)), "mx.example.com")
        times.append(time.thread_time() - start)
    assert sorted(times)[5] < 0.0035
