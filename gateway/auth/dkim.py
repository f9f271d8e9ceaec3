# SPDX-License-Identifier: GPL-2.0-or-later
"""DKIM signatures (RFC 6376, 8301, 8463).

Reads hostile bytes: signature fields, and key records of strangers. Asks the DNS through the
message's `Lookup`. The guards around dkimpy, and what replaces it where, are in `signature.py`.

Nothing here ends in a bare "pass" that an attacker can borrow: `covers_all` is False for `l=`
and for fields added beside the signed ones, sha1 and weak keys are "policy", and a signature
that does not cover From is "permerror" (§6.1.1).
"""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from gateway.auth.signature import (
    BadSignatureError,
    Canon,
    Key,
    Material,
    PolicyError,
    UnknownKeyError,
    fetch_key,
    header_hash,
    key_name,
    read_base64,
    read_domain,
    read_number,
    unwrap,
    verify,
)
from gateway.mail.headers import printable
from gateway.mail.types import AuthWord, Dkim, HeaderField

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.auth.settings import AuthSettings
    from gateway.dns import Lookup, Question

_SLOP: Final = 36_000  # seconds that a signer's clock may be fast; dkimpy grants as much
_ONCE: Final = (  # fields that occur once (RFC 5322 §3.6, RFC 2045), and that clients show or obey
    "from",
    "sender",
    "reply-to",
    "to",
    "cc",
    "date",
    "subject",
    "message-id",
    "mime-version",
    "content-type",
    "content-transfer-encoding",
)
_NAME: Final = re.compile(r"[!-9<-~]+\Z")


def check_dkim(
    material: Material, lookup: Lookup, settings: AuthSettings, now: float | None = None
) -> tuple[Dkim, ...]:
    """Verify the signatures of a message, topmost first, at most `settings.max_signatures`.

    `now` is the time in seconds since 1970 that `t=` and `x=` are compared with. Never raises.
    """
    clock = time.time() if now is None else now
    indexes = material.indexes("dkim-signature")
    results = [_check(material, index, lookup, settings, clock) for index in _first(indexes, settings)]
    if len(indexes) > settings.max_signatures:
        results.append(Dkim("policy", covers_all=False, reason=f"{len(indexes)} signatures, rest not read"))
    return tuple(results)


def key_questions(material: Material, settings: AuthSettings) -> list[Question]:
    """The DNS questions that `check_dkim` will ask, so that they can be asked at once."""
    found: list[Question] = []
    for index in _first(material.indexes("dkim-signature"), settings):
        try:
            tags = material.tags(index)
            found.append((key_name(read_domain(tags["s"], "s"), read_domain(tags["d"], "d")), "TXT"))
        except (BadSignatureError, KeyError):
            continue
    return found


def _first(indexes: Sequence[int], settings: AuthSettings) -> Sequence[int]:
    return indexes[: settings.max_signatures]


def _check(material: Material, index: int, lookup: Lookup, settings: AuthSettings, now: float) -> Dkim:
    tags: dict[str, bytes] = {}
    signature: _Signature | None = None
    result: AuthWord = "permerror"
    testing, reason = False, ""
    try:
        tags = material.tags(index)
        signature = _read(tags, now)
        key = fetch_key(lookup, signature.selector, signature.domain)
        testing = key.testing
        _check_key(key, signature, settings)
        result, reason = _verify(material, material.fields[index], signature, key)
    except PolicyError as error:
        result, reason = "policy", str(error)
    except UnknownKeyError as error:
        result, reason = "temperror", str(error)
    except BadSignatureError as error:
        reason = str(error)
    except Exception as error:  # noqa: BLE001 - whatever a hostile signature provokes, it is no pass
        result, reason = "permerror", type(error).__name__
    return Dkim(
        result=result,
        domain=signature.domain if signature else _shown(tags, "d"),
        selector=signature.selector if signature else _shown(tags, "s"),
        identity=_shown(tags, "i"),
        algorithm=_shown(tags, "a"),
        signature=printable(unwrap(tags.get("b", b""))[:8].decode("latin-1"), 8, ascii_only=True),
        covers_all=signature is not None and _covers_all(material, signature),
        testing=testing,
        reason=printable(reason),
    )


def _shown(tags: dict[str, bytes], name: str) -> str:
    return printable(unwrap(tags.get(name, b"")).decode("utf-8", "replace"), 253)


@dataclass(frozen=True, slots=True)
class _Signature:
    algorithm: str
    domain: str
    selector: str
    identity: str  # the domain of i=
    header_canon: Canon
    body_canon: Canon
    names: tuple[str, ...]
    body_hash: bytes
    value: bytes
    length: int | None


def _read(tags: dict[str, bytes], now: float) -> _Signature:
    """Check a signature's tags (§3.5, §6.1.1)."""
    missing = [name for name in ("v", "a", "b", "bh", "d", "h", "s") if not tags.get(name)]
    if missing:
        raise BadSignatureError(f"no {missing[0]}=")
    if tags["v"] != b"1":
        raise BadSignatureError("unknown version")
    domain = read_domain(tags["d"], "d")
    selector = read_domain(tags["s"], "s")
    algorithm = unwrap(tags["a"]).lower().decode("latin-1")
    if algorithm == "rsa-sha1":
        raise PolicyError("rsa-sha1 is not accepted")  # RFC 8301 §3.1
    if algorithm not in ("rsa-sha256", "ed25519-sha256"):
        raise BadSignatureError("unknown algorithm")
    names = tuple(unwrap(tags["h"]).decode("latin-1").lower().split(":"))
    if not all(map(_NAME.match, names)):
        raise BadSignatureError("h= is not a list of field names")
    if "from" not in names:
        raise BadSignatureError("From is not signed")
    methods = unwrap(tags.get("q", b"dns/txt")).lower().split(b":")
    if b"dns/txt" not in methods:
        raise BadSignatureError("unknown query method")
    header_canon, _, body_canon = unwrap(tags.get("c", b"simple/simple")).lower().partition(b"/")
    body_canon = body_canon or b"simple"
    if not {header_canon, body_canon} <= {b"simple", b"relaxed"}:
        raise BadSignatureError("unknown canonicalization")
    _check_times(tags, now)
    return _Signature(
        algorithm=algorithm,
        domain=domain,
        selector=selector,
        identity=_identity(tags, domain),
        header_canon=cast("Canon", header_canon.decode()),
        body_canon=cast("Canon", body_canon.decode()),
        names=names,
        body_hash=read_base64(tags["bh"], "bh"),
        value=read_base64(tags["b"], "b"),
        length=read_number(tags["l"], "l", 76) if "l" in tags else None,
    )


def _identity(tags: dict[str, bytes], domain: str) -> str:
    if "i" not in tags:
        return domain
    _, at, part = unwrap(tags["i"]).rpartition(b"@")
    identity = read_domain(part, "i")
    if not at or not (identity == domain or identity.endswith("." + domain)):
        raise BadSignatureError("i= is not below d=")
    return identity


def _check_times(tags: dict[str, bytes], now: float) -> None:
    signed = read_number(tags["t"], "t") if "t" in tags else None
    if signed is not None and signed > now + _SLOP:
        raise BadSignatureError("signed in the future")
    if "x" in tags:
        expires = read_number(tags["x"], "x")
        if signed is not None and expires < signed:
            raise BadSignatureError("expires before it was signed")
        if expires < now:
            raise BadSignatureError("signature expired")


def _check_key(key: Key, signature: _Signature, settings: AuthSettings) -> None:
    """Check what a key allows (§3.6.1, §6.1.2)."""
    if key.hashes and b"sha256" not in key.hashes:
        raise BadSignatureError("key does not allow sha256")
    if not key.services & {b"*", b"email"}:
        raise BadSignatureError("key is not for mail")
    if key.strict and signature.identity != signature.domain:
        raise BadSignatureError("key does not allow a subdomain in i=")
    if signature.algorithm == "rsa-sha256" and key.bits < settings.min_rsa_bits:
        raise PolicyError(f"key of {key.bits} bits is too weak")  # RFC 8301 §3.2


def _verify(material: Material, field: HeaderField, signature: _Signature, key: Key) -> tuple[AuthWord, str]:
    # The header goes first: a forged signature then costs no hash of the body.
    digest = header_hash(material, signature.names, field, signature.header_canon)
    if not verify(key, signature.algorithm, digest, signature.value):
        return "fail", "signature did not verify"
    if material.body_hash(signature.body_canon, signature.length) != signature.body_hash:
        return "fail", "body hash did not verify"
    return "pass", "" if signature.length is None else "l= leaves the end of the body unsigned"


def _covers_all(material: Material, signature: _Signature) -> bool:
    """Tell whether nothing that a reader sees can have been added beside what is signed (§8.2, §8.15)."""
    if signature.length is not None:
        return False
    signed = Counter(signature.names)
    return all(material.count(name) <= max(1, signed[name]) for name in _ONCE)
