# SPDX-License-Identifier: GPL-2.0-or-later
"""What DKIM and ARC signatures share: tag lists, key records, canonical bytes, verification.

Reads hostile bytes: header fields, bodies and key records. No I/O.

dkimpy parses the tag lists. Replaced, because a signature on a 10 KB message cost 1.6 ms of
processor time in dkimpy 1.1.8, and 0.2 ms so:
- bodies and fields are canonicalised once for all signatures, without regular expressions, and
  bodies are hashed once, whatever their `l=` say;
- only signed header fields are canonicalised, found by a table instead of a search for each name;
- RSA and Ed25519 run in `cryptography`, behind limits on record, modulus and exponent (one hostile
  key took dkimpy 14 s), and read keys are kept;
- the value of `b=` is cut out by splitting; dkimpy's expression is quadratic in white space;
- CRLF alone ends a line of a body, whereas dkimpy takes a bare LF for one.

All signatures of a message, ARC's among them, share a `Material`, and with it three bounds. Header
fields: `_MAX_HASHED` octets are hashed. Bodies: each octet is canonicalised once for "simple" and
once for "relaxed" and hashed once for each, and a further `l=` costs `_STEP` octets more. Keys:
`_MAX_WORK`, in verifications with an RSA key of 2048 bits.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key
from dkim.util import InvalidTagValueList, parse_tag_value

from gateway.mail.domains import to_ascii

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.dns import Answer, Lookup
    from gateway.mail.types import HeaderField

MAX_FIELD: Final = 16_384  # octets of a signature field
_MAX_TAGS: Final = 64
_MAX_RECORD: Final = 4_096  # octets of a key record; an 8192-bit key has 1,420
_MAX_BITS: Final = 8_192
_MAX_EXPONENT: Final = 1 << 33
_MAX_HASHED: Final = 1 << 20  # octets of header fields; eight signatures of a long header hash 200,000
_MAX_WORK: Final = 300  # 51 ARC signatures and 8 of DKIM need 59 with keys of 2048 bits
_WORK_ED25519: Final = 5
_STEP: Final = 1 << 16  # octets of a body between two states of its hash that are kept
_DOMAIN: Final = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_-]{0,62})(?:\.[a-z0-9_](?:[a-z0-9_-]{0,62}))*\Z"
)
# The y of the points of small order on Curve25519 (RFC 8032 §5.1.3), for which anybody can sign: one
# signature in eight, or each, fits whatever the message. An empty record, base64 of zeros, is among them.
_PRIME: Final = (1 << 255) - 19
_ORDER_8: Final = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_SMALL_ORDER: Final = frozenset({0, 1, _ORDER_8, _PRIME - _ORDER_8, _PRIME - 1, _PRIME, _PRIME + 1})
_WHITE: Final = b" \t\r\n"
_PREHASHED: Final = Prehashed(SHA256())
_PADDING: Final = PKCS1v15()
Canon = Literal["simple", "relaxed"]


class BadSignatureError(Exception):
    """A signature or key that cannot be used; the message says why (permerror)."""


class PolicyError(BadSignatureError):
    """A signature of a kind that we do not accept: sha1, or a weak key."""


class UnknownKeyError(BadSignatureError):
    """The key could not be fetched now (temperror)."""


def read_tags(value: bytes) -> dict[str, bytes]:
    """Read a tag list (RFC 6376 §3.2); BadSignatureError if it is none."""
    if len(value) > MAX_FIELD or value.count(b";") > _MAX_TAGS:
        raise BadSignatureError("tag list too long")
    try:
        tags: dict[bytes, bytes] = parse_tag_value(value)
        return {name.decode("ascii"): content for name, content in tags.items()}
    except (InvalidTagValueList, UnicodeDecodeError, IndexError) as error:
        raise BadSignatureError(f"malformed tag list: {type(error).__name__}") from None


def unwrap(value: bytes) -> bytes:
    """Take all white space out of a value (base64 and colon lists may be folded)."""
    return b"".join(value.split())


def read_base64(value: bytes, tag: str) -> bytes:
    """Decode folded base64; BadSignatureError names the tag."""
    try:
        return base64.b64decode(unwrap(value), validate=True)
    except (binascii.Error, ValueError):
        raise BadSignatureError(f"{tag}= is not base64") from None


def read_number(value: bytes, tag: str, digits: int = 12) -> int:
    """Read a decimal number of at most `digits` digits."""
    if not value.isdigit() or len(value) > digits:
        raise BadSignatureError(f"{tag}= is not a number")
    return int(value)


def read_domain(value: bytes, tag: str) -> str:
    """Read a domain or selector in lower case; U-labels become A-labels (RFC 8616)."""
    try:
        text = value.decode("utf-8").lower()
    except UnicodeError:
        text = ""
    if not text.isascii():
        text = to_ascii(text) or ""
    if len(text) > 253 or not _DOMAIN.match(text):
        raise BadSignatureError(f"{tag}= is not a domain name")
    return text


# ---------------------------------------------------------------- keys


@dataclass(frozen=True, slots=True)
class Key:
    """A key record (RFC 6376 §3.6.1)."""

    public: RSAPublicKey | Ed25519PublicKey
    bits: int
    hashes: frozenset[bytes]  # empty: all
    services: frozenset[bytes]
    testing: bool  # t=y
    strict: bool  # t=s

    @property
    def work(self) -> float:
        """What a verification costs: 1 is RSA with 2048 bits and the usual exponent."""
        if isinstance(self.public, Ed25519PublicKey):
            return _WORK_ED25519
        return (self.bits / 2048) ** 2 * self.public.public_numbers().e.bit_length() / 17


def _colon_list(value: bytes) -> frozenset[bytes]:
    return frozenset(unwrap(value).lower().split(b":"))


@lru_cache(maxsize=4096)
def read_key(record: bytes) -> Key:
    """Read a key record; BadSignatureError if it is none, or revoked, or beyond the limits."""
    if len(record) > _MAX_RECORD:
        raise BadSignatureError("key record too long")
    tags = read_tags(record)
    if "v" in tags and (tags["v"] != b"DKIM1" or next(iter(tags)) != "v"):
        raise BadSignatureError("bad version of key record")
    if "p" not in tags:
        raise BadSignatureError("key record without p=")
    kind = unwrap(tags.get("k", b"rsa")).lower()
    if kind not in (b"rsa", b"ed25519"):
        raise BadSignatureError("unknown key type")
    data = read_base64(tags["p"], "p")
    if not data:
        raise BadSignatureError("key revoked")
    public, bits = _read_ed25519(data) if kind == b"ed25519" else _read_rsa(data)
    flags = _colon_list(tags.get("t", b""))
    return Key(
        public=public,
        bits=bits,
        hashes=_colon_list(tags["h"]) if "h" in tags else frozenset(),
        services=_colon_list(tags.get("s", b"*")),
        testing=b"y" in flags,
        strict=b"s" in flags,
    )


def _read_ed25519(data: bytes) -> tuple[Ed25519PublicKey, int]:
    if int.from_bytes(data, "little") & ((1 << 255) - 1) in _SMALL_ORDER:
        raise BadSignatureError("Ed25519 key of small order, for which anybody can sign")
    try:
        return Ed25519PublicKey.from_public_bytes(data), 256
    except ValueError:
        raise BadSignatureError("malformed Ed25519 key") from None


def _read_rsa(data: bytes) -> tuple[RSAPublicKey, int]:
    try:
        public = load_der_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise BadSignatureError("malformed RSA key") from None
    if not isinstance(public, RSAPublicKey):
        raise BadSignatureError("not an RSA key")
    if public.key_size > _MAX_BITS or public.public_numbers().e > _MAX_EXPONENT:
        raise BadSignatureError("RSA key beyond limits")
    return public, public.key_size


def fetch_key(lookup: Lookup, selector: str, domain: str) -> Key:
    """Fetch the key of a selector; UnknownKeyError if the DNS fails, else BadSignatureError."""
    answer: Answer[bytes] = lookup.txt(key_name(selector, domain))
    if answer.status == "temperror":
        raise UnknownKeyError(answer.reason)
    if not answer:
        raise BadSignatureError("no key for signature")
    problem: BadSignatureError | None = None
    for record in answer.values[:3]:  # more than one is undefined (RFC 6376 §3.6.2.2)
        try:
            return read_key(record)
        except BadSignatureError as error:
            problem = problem or error
    raise BadSignatureError(str(problem))


def key_name(selector: str, domain: str) -> str:
    """Where the key is."""
    return f"{selector}._domainkey.{domain}"


def verify(material: Material, key: Key, algorithm: str, digest: bytes, signature: bytes) -> bool:
    """Verify a signature over a SHA-256 digest.

    BadSignatureError if key and algorithm differ, PolicyError if the message's signatures cost too much.
    """
    rsa = algorithm == "rsa-sha256" and isinstance(key.public, RSAPublicKey)
    if not rsa and not (algorithm == "ed25519-sha256" and isinstance(key.public, Ed25519PublicKey)):
        raise BadSignatureError("key type does not fit the algorithm")
    material.spend_work(key.work)
    try:
        if isinstance(key.public, RSAPublicKey):
            key.public.verify(signature, digest, _PADDING, _PREHASHED)
        else:
            key.public.verify(signature, digest)
    except InvalidSignature:
        return False
    return True


# ---------------------------------------------------------------- canonical bytes


class Material:
    """A message as signatures see it: canonical fields and body hashes, each made once, within bounds.

    `trusted`: the message is ours to sign, and its header is hashed whatever its size.
    """

    def __init__(
        self, fields: Sequence[HeaderField], raw: bytes, body_start: int, *, trusted: bool = False
    ) -> None:
        self.fields = fields
        self.trusted = trusted
        self.hashed = 0  # octets of header fields
        self.body_hashed = 0  # octets of bodies
        self.work = 0.0  # see `Key.work`
        self._raw = raw
        self._body_start = body_start
        self._canonical: dict[tuple[int, Canon], bytes] = {}
        self._bodies: dict[Canon, _Body] = {}
        self._tags: dict[int, dict[str, bytes]] = {}
        self._index: dict[str, list[int]] = {}
        for index, field in enumerate(fields):
            self._index.setdefault(field.name.lower(), []).append(index)

    @property
    def body(self) -> bytes:
        """The body as it was received."""
        return self._raw[self._body_start :]

    def count(self, name: str) -> int:
        """How many fields have this lower-case name."""
        return len(self._index.get(name, ()))

    def indexes(self, name: str) -> Sequence[int]:
        """The positions of the fields with this lower-case name."""
        return self._index.get(name, ())

    def tags(self, index: int) -> dict[str, bytes]:
        """The tag list of the field at a position; BadSignatureError if it is none."""
        found = self._tags.get(index)
        if found is None:
            found = self._tags[index] = read_tags(self.fields[index].value)
        return found

    def spend_work(self, work: float) -> None:
        """Count a verification; PolicyError if there were too many."""
        if self.work + work > _MAX_WORK:
            raise PolicyError("the keys of this message's signatures cost too much")
        self.work += work

    def spend_octets(self, octets: int) -> None:
        """Count octets of header fields that are hashed; PolicyError if there were too many."""
        if self.hashed + octets > _MAX_HASHED and not self.trusted:
            raise PolicyError("the signatures cover too much header")
        self.hashed += octets

    def body_hash(self, canon: Canon, length: int | None = None) -> bytes:
        """The SHA-256 of the first `length` octets of the body; BadSignatureError if it is shorter."""
        body = self._bodies.get(canon)
        if body is None:
            made = relaxed_body if canon == "relaxed" else simple_body
            body = self._bodies[canon] = _Body(made(self.body))
        before = body.hashed
        try:
            return body.digest(length)
        finally:
            self.body_hashed += body.hashed - before

    def signed(self, names: Sequence[str], canon: Canon) -> list[bytes]:
        """The canonical fields that a list of lower-case names selects, from the bottom up (§5.4.2).

        PolicyError if the signatures of this message cover too much.
        """
        taken: dict[str, int] = {}
        chosen = []
        for name in names:
            indexes = self._index.get(name, ())
            used = taken.get(name, 0)
            if used < len(indexes):
                taken[name] = used + 1
                chosen.append(indexes[-1 - used])
        self.spend_octets(sum(len(self.fields[index].raw) for index in chosen))
        return [self.canonical(index, canon) for index in chosen]

    def canonical(self, index: int, canon: Canon) -> bytes:
        """The canonical form of the field at a position, with its final CRLF."""
        found = self._canonical.get((index, canon))
        if found is None:
            found = self._canonical[index, canon] = canonical_field(self.fields[index], canon)
        return found


class _Body:
    """A canonical body, and the states of its hash at every `_STEP` octets as far as it was hashed."""

    def __init__(self, octets: bytes) -> None:
        self.octets = memoryview(octets)
        self.hashed = 0
        self._states = [hashlib.sha256()]
        self._digests: dict[int, bytes] = {}

    def digest(self, length: int | None) -> bytes:
        """The SHA-256 of the first `length` octets; BadSignatureError if there are fewer."""
        size = len(self.octets) if length is None else length
        if size > len(self.octets):
            raise BadSignatureError("l= is longer than the body")
        found = self._digests.get(size)
        if found is None:
            found = self._digests[size] = self._digest(size)
        return found

    def _digest(self, size: int) -> bytes:
        steps, rest = divmod(size, _STEP)
        while len(self._states) <= steps:
            state = self._states[-1].copy()
            self._update(state, (len(self._states) - 1) * _STEP, _STEP)
            self._states.append(state)
        state = self._states[steps].copy()
        self._update(state, steps * _STEP, rest)
        return state.digest()

    def _update(self, state: hashlib._Hash, start: int, octets: int) -> None:
        state.update(self.octets[start : start + octets])
        self.hashed += octets


def canonical_field(field: HeaderField, canon: Canon, value: bytes | None = None) -> bytes:
    """A field in canonical form (§3.4.1, §3.4.2), with its final CRLF; `value` replaces the field's own."""
    name, _, own = field.raw.partition(b":")
    content = own if value is None else value
    if canon == "relaxed":
        name = name.rstrip(_WHITE).lower()
        content = content.replace(b"\r\n", b"").replace(b"\n", b"")
        content = _single_spaces(content).strip(_WHITE)
    return b"%b:%b\r\n" % (name, content)


def without_signature(value: bytes) -> bytes:
    """The value of a signature field with that of `b=` deleted (§3.7)."""
    parts = value.split(b";")
    for index, part in enumerate(parts):
        name, equals, _ = part.partition(b"=")
        if equals and name.strip(_WHITE) == b"b":
            parts[index] = name + equals
    return b";".join(parts)


def header_hash(material: Material, names: Sequence[str], field: HeaderField, canon: Canon) -> bytes:
    """The SHA-256 over the selected fields and the signature field itself (§3.7).

    PolicyError if the signatures of this message cover too much.
    """
    pieces = material.signed(names, canon)
    pieces.append(canonical_field(field, canon, without_signature(field.value))[:-2])
    return hashlib.sha256(b"".join(pieces)).digest()


def _single_spaces(text: bytes) -> bytes:
    """Every run of spaces and tabs as one space."""
    if b"\t" in text:
        text = text.replace(b"\t", b" ")
    while b"  " in text:  # each turn halves every run of spaces
        text = text.replace(b"  ", b" ")
    return text


def _trim_lines(body: bytes) -> bytes:
    """Take the empty lines off the end; the last line keeps its CRLF."""
    text = body.rstrip(b"\r\n")
    tail = body[len(text) :]
    # Stray CR and LF are text: empty lines begin behind the last of them.
    start = max(
        tail.rfind(b"\n\n") + 2 if b"\n\n" in tail else 0,
        tail.rfind(b"\r\r") + 1 if b"\r\r" in tail else 0,
        1 if tail.startswith(b"\n") else 0,
    )
    if tail.endswith(b"\r"):
        start = len(tail)
    text += tail[:start]
    return text + b"\r\n" if text else b""


def simple_body(body: bytes) -> bytes:
    """The "simple" canonical body (§3.4.3); an empty one is CRLF."""
    return _trim_lines(body) or b"\r\n"


def relaxed_body(body: bytes) -> bytes:
    """The "relaxed" canonical body (§3.4.4)."""
    body = _single_spaces(body)
    if b" \r\n" in body:
        body = body.replace(b" \r\n", b"\r\n")
    if body.endswith(b" "):
        body = body[:-1]
    return _trim_lines(body)
