# SPDX-License-Identifier: GPL-2.0-or-later
"""DKIM signing and ARC sealing: our signatures pass our own check and dkimpy's, and forbid additions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dkim
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.auth.arc import check_arc
from gateway.auth.dkim import check_dkim, read_signatures
from gateway.auth.seal import seal
from gateway.auth.settings import AuthSettings
from gateway.auth.sign import (
    KeySettings,
    SigningKey,
    SignSettings,
    generate_key,
    key_record,
    keys_for,
    load_keys,
    read_private_key,
    sign,
)
from gateway.auth.signature import Material
from gateway.dns import Answer
from gateway.mail import headers
from gateway.mail.edits import apply
from gateway.mail.types import Arc, Dkim, Edit, EditOp

if TYPE_CHECKING:
    from pathlib import Path

MAIL = (
    b"Received: from a by b\r\nFrom: Alice <alice@example.com>\r\nTo: bob@example.org\r\n"
    b"Subject: two  words\r\n\tfolded\r\nList-Id: <x.example.com>\r\n\r\nHello,  world \r\n\r\n"
)
KEYS = {
    "rsa": SigningKey("example.com", "sel", read_private_key(generate_key())),
    "ed25519": SigningKey("example.com", "sel", read_private_key(generate_key("ed25519"))),
}


def material_of(mail: bytes) -> Material:
    section = headers.split(mail)
    return Material(section.fields, mail, section.body_start)


def signed(kind: str, mail: bytes = MAIL, **options: Any) -> bytes:
    value = sign(material_of(mail), KEYS[kind], **options)
    return apply(mail, (Edit(EditOp.INSERT, "DKIM-Signature", value),))


class FakeLookup:
    def __init__(self, record: str) -> None:
        self.record = record

    def txt(self, _name: str) -> Answer[bytes]:
        return Answer("ok", (self.record.encode(),))


def verify(mail: bytes, kind: str) -> tuple[Dkim, ...]:
    material = material_of(mail)
    lookup: Any = FakeLookup(key_record(KEYS[kind].private))
    return check_dkim(material, read_signatures(material, AuthSettings()), lookup, AuthSettings())


@pytest.mark.parametrize("kind", KEYS)
def test_our_signatures_pass(kind: str) -> None:
    mail = signed(kind)
    (found,) = verify(mail, kind)
    assert (found.result, found.domain, found.selector, found.covers_all) == (
        "pass",
        "example.com",
        "sel",
        True,
    )
    record = key_record(KEYS[kind].private).encode()
    assert dkim.verify(mail, dnsfunc=lambda *_, **__: record)
    assert max(map(len, mail.partition(b"\r\nReceived")[0].split(b"\r\n"))) <= 100
    assert "l" not in material_of(mail).tags(0)


@pytest.mark.parametrize("name", [b"From", b"Subject", b"To", b"Cc", b"Reply-To", b"Date", b"Content-Type"])
def test_nothing_can_be_added(name: bytes) -> None:
    mail = signed("ed25519")
    assert verify(name + b": x\r\n" + mail, "ed25519")[0].result == "fail"
    assert verify(mail.replace(b"Subject:", name + b": x\r\nSubject:", 1), "ed25519")[0].result == "fail"
    assert verify(mail + b"more\r\n", "ed25519")[0].result == "fail"


def test_two_signatures_and_expiry() -> None:
    mail = signed("rsa", signed("ed25519"))
    assert [one.result for one in verify(mail, "rsa")] == ["pass", "permerror"]  # one key each
    assert verify(signed("rsa", now=1_000_000_000, expire=60), "rsa")[0].reason == "signature expired"


def test_no_author_no_signature() -> None:
    with pytest.raises(ValueError, match="From"):
        sign(material_of(b"Subject: x\r\n\r\n"), KEYS["rsa"])


def test_keys_are_chosen_by_domain() -> None:
    keys = [
        SigningKey(domain, "s", KEYS["ed25519"].private) for domain in ("example.com", "mail.example.com")
    ]
    assert keys_for("a.mail.example.com", keys) == (keys[1],)
    assert keys_for("EXAMPLE.com", keys) == (keys[0],)
    assert keys_for("badexample.com", keys) == ()


def test_key_files(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(generate_key("ed25519"))
    file.chmod(0o600)
    one = KeySettings(domain="Example.com", selector="s1", key_file=str(file))
    assert load_keys(SignSettings(keys=(one,)))[0].algorithm == "ed25519-sha256"
    file.write_text("nonsense")
    with pytest.raises(ValueError, match=r"key\.pem"):
        load_keys(SignSettings(keys=(one,)))
    with pytest.raises(ValueError, match="s= is not"):
        KeySettings(domain="example.com", selector="a b", key_file="x")


TEXTS = st.text(alphabet="a \t:;=\u00e9", max_size=20)


@settings(max_examples=50, deadline=None)
@given(st.lists(TEXTS, max_size=4), st.lists(st.sampled_from(["", " ", "x", "\t x", ".", "x  "]), max_size=6))
def test_any_message_can_be_signed(subjects: list[str], lines: list[str]) -> None:
    mail = "From: a@example.com\r\n" + "".join(f"Subject:{one}\r\n" for one in subjects)
    raw = (mail + "\r\n" + "".join(line + "\r\n" for line in lines)).encode()
    assert verify(signed("ed25519", raw), "ed25519")[0].result == "pass"


def check_chain(mail: bytes, kind: str = "rsa") -> Arc:
    lookup: Any = FakeLookup(key_record(KEYS[kind].private))
    return check_arc(material_of(mail), lookup, AuthSettings())


def sealed(mail: bytes, *, chain: Arc | None = None) -> bytes:
    fields = seal(material_of(mail), chain or check_chain(mail), "mx.example.com;\n\tspf=pass", KEYS["rsa"])
    return apply(mail, tuple(Edit(EditOp.INSERT, name, value) for name, value in reversed(fields)))


def test_our_seals_pass() -> None:
    mail = MAIL
    for count in range(1, 4):
        mail = sealed(mail)
        found = check_chain(mail)
        assert (found.result, len(found.sealers)) == ("pass", count)
        assert found.results == "mx.example.com; spf=pass"
    assert (
        dkim.arc_verify(mail, dnsfunc=lambda *_, **__: key_record(KEYS["rsa"].private).encode())[0] == b"pass"
    )


def test_a_broken_chain_is_sealed_as_failed_once() -> None:
    mail = sealed(MAIL).replace(b"two  words", b"other words")
    assert check_chain(mail).result == "fail"
    failed = sealed(mail)
    assert b"cv=fail" in failed
    assert check_chain(failed).result == "fail"
    assert sealed(failed) == failed
    assert sealed(MAIL, chain=Arc("temperror")) == MAIL


def test_a_chain_that_is_full_is_sealed_no_more() -> None:
    sets = "".join(
        f"ARC-Seal: i={i}; a=rsa-sha256; cv={'pass' if i > 1 else 'none'}; d=example.com; s=s; b=eA==\r\n"
        f"ARC-Message-Signature: i={i}; a=rsa-sha256; d=example.com; s=s; h=from; bh=eA==; b=eA==\r\n"
        f"ARC-Authentication-Results: i={i}; mx.example.com; none\r\n"
        for i in range(50, 0, -1)
    ).encode()
    last = sets[sets.index(b"ARC-Seal: i=49;") :]
    assert b"i=50;" in sealed(last + MAIL, chain=Arc("pass"))
    assert sealed(sets + MAIL, chain=Arc("pass")) == sets + MAIL


def test_a_failed_chain_is_sealed_without_what_came_before() -> None:
    """RFC 8617 §5.1.2: the seal covers its own set, whatever the sets before hold."""
    one = sealed(MAIL)
    other = one.replace(b"cv=none", b"cv=pass")
    assert other != one
    for chain, same in ((Arc("fail"), True), (Arc("pass"), False)):
        made = [seal(material_of(m), chain, "x; none", KEYS["rsa"], now=5) for m in (one, other)]
        assert (made[0] == made[1]) is same


def test_seals_need_an_rsa_key() -> None:
    with pytest.raises(ValueError, match="RSA"):
        seal(material_of(MAIL), Arc("none"), "x; none", KEYS["ed25519"])
