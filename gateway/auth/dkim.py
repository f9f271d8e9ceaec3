# SPDX-License-Identifier: GPL-2.0-or-later
"""DKIM signatures (RFC 6376, 8301, 8463).

Reads hostile bytes: signature fields, and key records of strangers. Asks the DNS through the
message's `Lookup`. The guards around dkimpy, and what replaces it where, are in `signature.py`.

Nothing here ends in a "pass" that an attacker can borrow: sha1, weak keys and fields added beside
the signed ones are "policy", a signature that does not cover From is "permerror" (§6.1.1), and
`l=`, which lets anybody append to the body, leaves "pass" without `covers_all`.
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
    from collections.abc import Iterable

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
    "content-type",
    "content-transfer-encoding",
)
_MAX_READ: Final = 64  # signature fields read at all
_MAX_NAMES: Final = 512  # in h=; the longest seen, oversigned, have 60
_NAME: Final = re.compile(r"[!-9<-~]+\Z")


@dataclass(frozen=True, slots=True)
class Signature:
    """A well-formed signature field."""

    field: HeaderField
    tags: dict[str, bytes]
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


def read_signatures(
    material: Material, settings: AuthSettings, now: float | None = None
) -> tuple[Signature | Dkim, ...]:
    """Read the signature fields of a message, topmost first; one that cannot pass is a result already.

    At most `settings.max_signatures` are well formed. `now` is the time in seconds since 1970 that
    `t=` and `x=` are compared with. Never raises.
    """
    clock = time.time() if now is None else now
    indexes = material.indexes("dkim-signature")
    found: list[Signature | Dkim] = []
    usable = 0
    for number, index in enumerate(indexes):
        if usable == settings.max_signatures or number == _MAX_READ:
            found.append(Dkim("policy", covers_all=False, reason=f"{len(indexes)} signatures, rest not read"))
            break
        one = _read_one(material, index, clock)
        usable += isinstance(one, Signature)
        found.append(one)
    return tuple(found)


def key_questions(signatures: Iterable[Signature | Dkim]) -> list[Question]:
    """The DNS questions that `check_dkim` will ask, so that they can be asked at once."""
    return [(key_name(one.selector, one.domain), "TXT") for one in signatures if isinstance(one, Signature)]


def check_dkim(
    material: Material, signatures: Iterable[Signature | Dkim], lookup: Lookup, settings: AuthSettings
) -> tuple[Dkim, ...]:
    """Verify what `read_signatures` found, in the same order. Never raises."""
    return tuple(
        _check(material, one, lookup, settings) if isinstance(one, Signature) else one for one in signatures
    )


def _read_one(material: Material, index: int, now: float) -> Signature | Dkim:
    tags: dict[str, bytes] = {}
    result: AuthWord = "permerror"
    try:
        tags = material.tags(index)
        return _read(material.fields[index], tags, now)
    except PolicyError as error:
        result, reason = "policy", str(error)
    except BadSignatureError as error:
        reason = str(error)
    except Exception as error:  # noqa: BLE001 - whatever a hostile signature provokes, it is no pass
        reason = type(error).__name__
    return _result(tags, result, reason, domain=_shown(tags, "d"), selector=_shown(tags, "s"))


def _check(material: Material, one: Signature, lookup: Lookup, settings: AuthSettings) -> Dkim:
    result: AuthWord = "permerror"
    testing, reason = False, ""
    try:
        key = fetch_key(lookup, one.selector, one.domain)
        testing = key.testing
        _check_key(key, one, settings)
        result, reason = _verify(material, one, key)
    except PolicyError as error:
        result, reason = "policy", str(error)
    except UnknownKeyError as error:
        result, reason = "temperror", str(error)
    except BadSignatureError as error:
        reason = str(error)
    except Exception as error:  # noqa: BLE001 - whatever a hostile signature provokes, it is no pass
        result, reason = "permerror", type(error).__name__
    covers_all = one.length is None and not added(material, one.names)
    return _result(
        one.tags,
        result,
        reason,
        domain=one.domain,
        selector=one.selector,
        covers_all=covers_all,
        testing=testing,
    )


def _result(
    tags: dict[str, bytes],
    result: AuthWord,
    reason: str,
    *,
    domain: str,
    selector: str,
    covers_all: bool = False,
    testing: bool = False,
) -> Dkim:
    return Dkim(
        result=result,
        domain=domain,
        selector=selector,
        identity=_shown(tags, "i"),
        algorithm=_shown(tags, "a"),
        signature=_shown(tags, "b")[:8],
        covers_all=covers_all,
        testing=testing,
        reason=printable(reason),
    )


def _shown(tags: dict[str, bytes], name: str) -> str:
    return printable(unwrap(tags.get(name, b"")).decode("utf-8", "replace"), 253)


def _read(field: HeaderField, tags: dict[str, bytes], now: float) -> Signature:
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
    names = tuple(unwrap(tags["h"]).decode("latin-1").lower().split(":", _MAX_NAMES))
    if len(names) > _MAX_NAMES:
        raise PolicyError("h= names too many fields")
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
    return Signature(
        field=field,
        tags=tags,
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


def _check_key(key: Key, signature: Signature, settings: AuthSettings) -> None:
    """Check what a key allows (§3.6.1, §6.1.2)."""
    if key.hashes and b"sha256" not in key.hashes:
        raise BadSignatureError("key does not allow sha256")
    if not key.services & {b"*", b"email"}:
        raise BadSignatureError("key is not for mail")
    if key.strict and signature.identity != signature.domain:
        raise BadSignatureError("key does not allow a subdomain in i=")
    if signature.algorithm == "rsa-sha256" and key.bits < settings.min_rsa_bits:
        raise PolicyError(f"key of {key.bits} bits is too weak")  # RFC 8301 §3.2


def _verify(material: Material, signature: Signature, key: Key) -> tuple[AuthWord, str]:
    # The header goes first: a forged signature then costs no hash of the body.
    digest = header_hash(material, signature.names, signature.field, signature.header_canon)
    if not verify(material, key, signature.algorithm, digest, signature.value):
        return "fail", "signature did not verify"
    if material.body_hash(signature.body_canon, signature.length) != signature.body_hash:
        return "fail", "body hash did not verify"
    beside = added(material, signature.names)
    if beside:
        return "policy", f"{beside} was added beside the signed one"
    return "pass", "" if signature.length is None else "l= leaves the end of the body unsigned"


def added(material: Material, names: Iterable[str]) -> str:
    """The name of a field that occurs more often than h= signs it, and should occur once (§8.15)."""
    signed = Counter(names)
    return next((name for name in _ONCE if 0 < signed[name] < material.count(name)), "")
