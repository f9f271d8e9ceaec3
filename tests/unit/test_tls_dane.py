# SPDX-License-Identifier: GPL-2.0-or-later
"""DANE: which TLSA records are usable, and what matches a server's certificates."""

from __future__ import annotations

import hashlib
import ssl
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from contrib.lab.certificates import Authority
from gateway.tls.dane import DaneError, Tlsa, public_key, usable, verify

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from contrib.lab.certificates import Pair

NAME = "mx.example.com"
Record = tuple[int, int, int, bytes]


class World:
    """An authority, a good server, an expired one, and one of a stranger."""

    def __init__(self, directory: Path) -> None:
        authority = Authority(directory / "ca")
        self.good = authority.issue(NAME, names=["*.pool.example.com"])
        self.expired = authority.issue("old.example.com", days=-1)
        stranger = Authority(directory / "stranger", "Stranger")
        self.strange = stranger.issue(NAME)
        self.authority = ssl.PEM_cert_to_DER_cert(authority.certificate.read_text())
        self.stranger = ssl.PEM_cert_to_DER_cert(stranger.certificate.read_text())

    def chain(self, pair: Pair) -> list[bytes]:
        return [pair.der, self.stranger if pair is self.strange else self.authority]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("dane"))


def record(usage: int, selector: int, matching: int, certificate: bytes) -> Record:
    data = public_key(certificate) if selector else certificate
    digest = {0: data, 1: hashlib.sha256(data).digest(), 2: hashlib.sha512(data).digest()}
    return usage, selector, matching, digest[matching]


def accepted(records: Sequence[Record], chain: Sequence[bytes], *names: str) -> bool:
    found = usable(records)
    assert found
    try:
        verify(found, chain, names or (NAME,))
    except DaneError:
        return False
    return True


def test_the_key_is_cut_out_as_it_stands(world: World) -> None:
    loaded = x509.load_der_x509_certificate(world.good.der).public_key()
    assert public_key(world.good.der) == loaded.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("matching", [0, 1, 2])
def test_end_entity(world: World, selector: int, matching: int) -> None:
    ours = record(3, selector, matching, world.good.der)
    assert accepted([ours], [world.good.der])
    assert accepted([ours], [world.good.der], "another.example.net")  # RFC 7672 §3.1.1: no names
    assert not accepted([ours], [world.strange.der])
    assert not accepted([ours], [world.strange.der, world.good.der])
    theirs = record(3, selector, matching, world.expired.der)
    assert accepted([theirs], [world.expired.der])  # and no dates
    assert accepted([theirs, ours], [world.good.der])


@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("matching", [0, 1, 2])
def test_trust_anchor(world: World, selector: int, matching: int) -> None:
    anchor = record(2, selector, matching, world.authority)
    chain = world.chain(world.good)
    assert accepted([anchor], chain)
    assert accepted([anchor], chain, "other.example.net", NAME)
    assert accepted([anchor], chain, "a.pool.example.com")
    assert not accepted([anchor], chain, "a.b.pool.example.com")
    assert not accepted([anchor], chain, "other.example.net")
    assert not accepted([anchor], world.chain(world.expired), "old.example.com")
    assert not accepted([anchor], world.chain(world.strange))
    assert not accepted([anchor], [world.strange.der, world.authority])  # the anchor did not sign it
    # Only an anchor that is in the DNS as a whole need not be sent.
    assert accepted([anchor], [world.good.der]) == ((selector, matching) == (0, 0))


def test_an_anchor_is_not_matched_by_the_server_itself(world: World) -> None:
    assert not accepted([record(2, 0, 1, world.good.der)], [world.good.der])
    assert not accepted([record(3, 0, 1, world.authority)], world.chain(world.good))


@pytest.mark.parametrize(
    "one",
    [
        (0, 0, 1, bytes(32)),
        (1, 1, 1, bytes(32)),
        (4, 1, 1, bytes(32)),
        (255, 1, 1, bytes(32)),
        (3, 2, 1, bytes(32)),
        (3, 1, 3, bytes(32)),
        (3, 1, 1, bytes(31)),
        (3, 1, 1, b""),
        (3, 1, 2, bytes(32)),
        (3, 0, 0, b""),
        (3, 0, 0, b"\x30\x03abc"),
        (3, 1, 0, b"\x30\x84\xff\xff\xff\xff"),
        (2, 0, 0, b"\x30\x80"),
    ],
)
def test_what_is_not_usable(one: Record) -> None:
    assert usable([one]) == ()
    good = (3, 1, 1, b"\1" * 32)
    assert usable([one, good]) == (Tlsa(*good),)


def test_only_the_strongest_digest_counts(world: World) -> None:
    weak, strong = record(3, 1, 1, world.good.der), record(3, 1, 2, world.strange.der)
    assert not accepted([weak, strong], [world.good.der])  # RFC 7671 §9
    assert accepted([weak, strong], [world.strange.der])
    whole = record(3, 1, 0, world.good.der)
    assert accepted([whole, strong], [world.good.der])
    other = record(3, 0, 1, world.good.der)  # another selector
    assert accepted([other, strong], [world.good.der])


def test_the_number_of_records_is_bounded() -> None:
    assert len(usable((3, 1, 1, bytes([n]) * 32) for n in range(200))) == 32


def test_no_certificate_at_all(world: World) -> None:
    assert not accepted([record(3, 1, 1, world.good.der)], [])


@given(st.binary(max_size=300))
def test_no_certificate_is_a_surprise(data: bytes) -> None:
    records = usable([(3, 1, 1, bytes(32)), (2, 1, 1, bytes(32)), (3, 1, 0, data), (2, 0, 0, data)])
    try:
        verify(records, [data, data], (NAME,))
    except DaneError:
        return
    assert any(one.data == data for one in records)
