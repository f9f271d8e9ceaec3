# SPDX-License-Identifier: GPL-2.0-or-later
"""DKIM signatures of our own (RFC 6376, 8463), for mail that leaves.

Reads messages of our users, and private keys from files that the operator names. Signing runs in
`cryptography`: a message of 10 KB and an RSA-2048 key take dkimpy 11 ms, and half a millisecond so.

Every field that a reader sees is signed once more than it occurs, so that none can be added.
The body is signed to its end: there is no `l=`. A signature is made of the message as it goes out.
"""

from __future__ import annotations

import base64
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256

from gateway.auth.signature import BadSignatureError, Material, header_hash, key_name, read_domain
from gateway.mail.domains import normal
from gateway.mail.types import HeaderField
from gateway.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

NAME: Final = "DKIM-Signature"
_WIDTH: Final = 72
_MAX_FILE: Final = 65_536  # octets of a key file that are read
_OVERSIGNED: Final = (
    "from",
    "sender",
    "reply-to",
    "to",
    "cc",
    "subject",
    "date",
    "message-id",
    "mime-version",
    "content-type",
    "content-transfer-encoding",
)
_SIGNED: Final = (  # as often as they occur
    "in-reply-to",
    "references",
    "list-id",
    "list-help",
    "list-post",
    "list-owner",
    "list-archive",
    "list-subscribe",
    "list-unsubscribe",
    "list-unsubscribe-post",
)


class KeySettings(Settings, frozen=True):
    """A key that signs the mail of a domain and of the domains below it."""

    # The domain, d= of its signatures; the author domain of a message must be it or lie below it.
    domain: str
    # The selector, s=: the public key stands at SELECTOR._domainkey.DOMAIN.
    selector: str
    # File with the private key, RSA or Ed25519, in PEM; nobody but owner and group may read it.
    key_file: str

    def __post_init__(self) -> None:
        for value, tag in ((self.domain, "d"), (self.selector, "s")):
            try:
                read_domain(value.encode(), tag)
            except BadSignatureError as error:
                raise ValueError(str(error)) from None


class SignSettings(Settings, frozen=True):
    """Signatures of our own: DKIM on outbound mail, and, if wanted, ARC seals on inbound mail."""

    # Seconds after which a DKIM signature expires; 0: never.
    expire: Annotated[int, msgspec.Meta(ge=0, le=31_536_000)] = 0
    # Domain whose RSA key seals inbound mail that goes on (ARC, RFC 8617); "" seals nothing. Our own results
    # are sealed octet for octet; nothing behind us should seal again by dkimpy, which loses quotes.
    seal_domain: str = ""
    # Keys; an outbound message gets a signature of every key whose domain fits its author best.
    keys: tuple[KeySettings, ...] = ()

    def __post_init__(self) -> None:
        seen: set[tuple[str, str]] = set()
        for key in self.keys:
            name = (normal(key.domain), normal(key.selector))
            if name in seen:
                raise ValueError(f"two keys at {key_name(key.selector, key.domain)}")
            seen.add(name)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key that is ready to sign."""

    domain: str
    selector: str
    private: RSAPrivateKey | Ed25519PrivateKey

    @property
    def algorithm(self) -> str:
        """Its name in `a=`."""
        return "rsa-sha256" if isinstance(self.private, RSAPrivateKey) else "ed25519-sha256"


def read_private_key(pem: bytes) -> RSAPrivateKey | Ed25519PrivateKey:
    """Read a private key in PEM; ValueError if it is none or too weak (RFC 8301 §3.2)."""
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(f"unusable private key: {error}") from None
    if isinstance(key, RSAPrivateKey) and not 1024 <= key.key_size <= 8192:
        raise ValueError(f"RSA key of {key.key_size} bits")
    if not isinstance(key, RSAPrivateKey | Ed25519PrivateKey):
        raise ValueError("private key is neither RSA nor Ed25519")  # noqa: TRY004 - a value of the operator's
    return key


def load_keys(settings: SignSettings) -> tuple[SigningKey, ...]:
    """Read all keys; OSError or ValueError, with the file's name, if one must not be used."""
    keys = []
    for one in settings.keys:
        try:
            private = read_private_key(_read_file(Path(one.key_file)))
        except ValueError as error:
            raise ValueError(f"{one.key_file}: {error}") from None
        domain, selector = (read_domain(text.encode(), "") for text in (one.domain, one.selector))
        keys.append(SigningKey(domain, selector, private))
    return tuple(keys)


def _read_file(path: Path) -> bytes:
    """Read a key file; ValueError if others than owner and group may read or change it."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_mode & (stat.S_IROTH | stat.S_IWOTH):
            raise ValueError("everybody on this machine can read or change this private key: chmod o= it")
        return file.read(_MAX_FILE)


def generate_key(kind: Literal["rsa", "ed25519"] = "rsa", bits: int = 2048) -> bytes:
    """Make a private key, in PEM."""
    key = Ed25519PrivateKey.generate() if kind == "ed25519" else generate_private_key(65_537, bits)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def key_record(key: RSAPrivateKey | Ed25519PrivateKey) -> str:
    """The TXT record to publish (RFC 6376 §3.6.1, RFC 8463 §4)."""
    if isinstance(key, Ed25519PrivateKey):
        kind, public = "ed25519", key.public_key().public_bytes_raw()
    else:
        kind = "rsa"
        public = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    return f"v=DKIM1; k={kind}; p={base64.b64encode(public).decode()}"


def keys_for(author_domain: str, keys: Iterable[SigningKey]) -> tuple[SigningKey, ...]:
    """The keys of the longest domain that is the author domain or lies above it."""
    name = author_domain.lower()
    fitting = [key for key in keys if name == key.domain or name.endswith("." + key.domain)]
    longest = max((len(key.domain) for key in fitting), default=0)
    return tuple(key for key in fitting if len(key.domain) == longest)


def sign(material: Material, key: SigningKey, *, now: float | None = None, expire: int = 0) -> str:
    """The value of a DKIM-Signature field, ready for an `Edit` that inserts it on top.

    ValueError if the message has no From field: such a signature would be worth nothing.
    """
    if not material.count("from"):
        raise ValueError("a message without From is not signed")
    clock = int(time.time() if now is None else now)
    names = [name for name in _OVERSIGNED for _ in range(material.count(name) + 1)]
    names += [name for name in _SIGNED for _ in range(material.count(name))]
    tags = [
        "v=1",
        f"a={key.algorithm}",
        "c=relaxed/relaxed",
        f"d={key.domain}",
        f"s={key.selector}",
        f"t={clock}",
        *([f"x={clock + expire}"] if expire else []),
        f"h={fold_list(names)}",
        f"bh={base64.b64encode(material.body_hash('relaxed')).decode()}",
    ]
    unsigned = _fold([*tags, "b="])
    field = HeaderField(NAME, f"{NAME}: {unsigned}".encode("ascii"))
    digest = header_hash(material, names, field, "relaxed")
    return unsigned + fold_base64(sign_digest(key, digest))


def sign_digest(key: SigningKey, digest: bytes) -> bytes:
    """Sign a SHA-256 digest; Ed25519 signs the digest as a message (RFC 8463 §3)."""
    if isinstance(key.private, Ed25519PrivateKey):
        return key.private.sign(digest)
    return key.private.sign(digest, PKCS1v15(), Prehashed(SHA256()))


def fold_list(names: Sequence[str]) -> str:
    """A colon list on lines of bearable length (RFC 6376 §2.10)."""
    lines = [""]
    for name in names:
        if len(lines[-1]) + len(name) >= _WIDTH:
            lines.append("")
        lines[-1] += name + ":"
    return "\n\t ".join(lines)[:-1]


def fold_base64(value: bytes) -> str:
    """Base64 on lines of bearable length, beginning with a fold."""
    text = base64.b64encode(value).decode("ascii")
    return "".join("\n\t " + text[start : start + _WIDTH] for start in range(0, len(text), _WIDTH))


def _fold(tags: list[str]) -> str:
    lines = [tags[0]]
    for tag in tags[1:]:
        if len(lines[-1].rpartition("\n")[2]) + len(tag.partition("\n")[0]) >= _WIDTH:
            lines.append(tag)
        else:
            lines[-1] += "; " + tag
    return ";\n\t".join(lines)
