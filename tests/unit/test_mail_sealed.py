# SPDX-License-Identifier: GPL-2.0-or-later
"""What is signed or compressed, but not encrypted: S/MIME and OpenPGP, and saved messages."""

from __future__ import annotations

import base64
import time

import pytest

from contrib.lab.clamd import EICAR
from gateway.mail import cms, openpgp, sealed
from gateway.mail.mime import parse
from tests import bombs
from tests.packages import ENTITY, armored, packed_cms
from tests.packages import openpgp as message


@pytest.mark.parametrize("algorithm", [1, 2, 3])
@pytest.mark.parametrize("name", ["a.gpg", "a.PGP"])
def test_a_file_in_openpgp(algorithm: int, name: str) -> None:
    [outer, inner] = parse(bombs.mail(name, message(b"b.exe", EICAR, algorithm))).attachments
    assert outer.names == (name,)
    assert (inner.names, inner.data) == (("b.exe",), EICAR)


def test_partial_lengths_and_a_stream_that_breaks_off() -> None:
    literal = b"\xcb\xe3b\0" + bytes(4) + b"ab" + b"\x03cde"  # eight octets, then three
    assert openpgp.read(literal) == ([(b"", b"abcde")], True)
    packed = message(b"b.exe", EICAR * 999, 2)
    [(name, content)] = openpgp.read(packed[:-3]).files
    assert name == b"b.exe"
    assert content.startswith(EICAR)


def test_openpgp_in_openpgp() -> None:
    files = openpgp.read(message(b"b.gpg", message(b"b.exe", EICAR))).files
    assert [name for name, _ in files] == [b"b.gpg", b"b.exe"]
    assert files[1][1] == EICAR


def test_armor_in_a_body() -> None:
    head = b"From: a@example.com\r\n\r\nSee below.\r\n\r\n"
    content = parse(head + armored(message(b"", EICAR)))
    assert [a.data for a in content.attachments] == [EICAR]
    assert EICAR in content.readings


def test_a_signed_entity_is_read_as_one() -> None:
    for raw in (armored(message(b"", ENTITY)), packed_cms(ENTITY)):
        content = parse(bombs.mail("a.asc", raw))
        assert EICAR in [a.data for a in content.attachments]
        assert not content.ambiguities


def test_what_is_encrypted_or_nothing_stays_closed() -> None:
    for data in (b"", b"text", b"\xff" * 9, b"\x85\1\0" + bytes(256), b"\xd2\xff" + bytes(99), b"\xa3\1junk"):
        assert openpgp.read(data) == ([], True)
    assert cms.content(b"0\x80" + bytes(60)) == b""
    assert sealed.in_file(b"\xcb\5b\0\0\0\0\0", ("a.txt",)) == ([], [], True)


def test_pem() -> None:
    text = b"-----BEGIN CMS-----\n" + base64.encodebytes(packed_cms(ENTITY)) + b"-----END CMS-----\n"
    assert cms.content(text) == ENTITY


def test_bounds_are_told() -> None:
    bomb = message(b"", bytes(openpgp.MAX_INFLATED + 99))
    assert parse(bombs.mail("a.gpg", bomb)).limits == ("decoded",)
    assert "decoded" in parse(bombs.mail("a.p7m", packed_cms(bytes(cms.MAX_INFLATED + 99)))).limits
    nested = message(b"", b"x")
    for _ in range(openpgp.MAX_DEPTH - 1):  # it is compressed once already
        nested = b"\xa3\0" + nested
    assert openpgp.read(nested).whole
    assert not openpgp.read(b"\xa3\0" + nested).whole
    assert not openpgp.read(b"\xcb\0" * 999).whole
    assert not openpgp.armored(armored(b"x") * 99).whole


@pytest.mark.parametrize(
    "raw",
    [
        openpgp.ARMOR * 200_000,
        (openpgp.ARMOR + b"\n" + b"a" * 99) * 50_000,
        openpgp.ARMOR + b"\na: b" * 900_000,
    ],
    ids=["marks", "marks and text", "fields"],
)
def test_linear(raw: bytes) -> None:
    started = time.process_time()
    openpgp.armored(raw)
    cms.content(raw)
    assert time.process_time() - started < 1
