# SPDX-License-Identifier: GPL-2.0-or-later
"""Validation of the Authenticated Received Chain (RFC 8617).

Reads hostile bytes: ARC fields, and key records of strangers. Asks the DNS through the message's
`Lookup`. Canonical forms and verification are DKIM's, see `signature.py`; dkimpy's own
`arc_verify` ignores its time-out, raises on folded instance tags and reads no Ed25519 key.

A valid chain only says who sealed what; whether a sealer is to be believed is policy. What a seal
says of the author is worth nothing for a message that could be changed after it was sealed: where
the newest signature leaves room for that (`l=`, a field of `_READ` that is there, not signed and not
harmless, one added beside a signed one), the chain passes without `covers_all`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from gateway.auth.dkim import added
from gateway.auth.results import MAX_VALUE
from gateway.auth.signature import (
    BadSignatureError,
    Canon,
    Key,
    Material,
    UnknownKeyError,
    canonical_field,
    fetch_key,
    header_hash,
    key_name,
    read_base64,
    read_domain,
    read_number,
    unwrap,
    verify,
    without_signature,
)
from gateway.mail.headers import printable
from gateway.mail.types import Arc, HeaderField

if TYPE_CHECKING:
    from gateway.auth.settings import AuthSettings
    from gateway.dns import Lookup, Question

FIELDS: Final = ("arc-seal", "arc-message-signature", "arc-authentication-results")
_SEAL, _MESSAGE, _RESULTS = FIELDS
_INSTANCE: Final = re.compile(rb"[ \t\r\n]*i[ \t\r\n]*=[ \t\r\n]*([0-9]{1,3})[ \t\r\n]*;(.*)\Z", re.DOTALL)
_ASKED_FIRST: Final = 10  # keys of seals, topmost first; few chains are longer
# What a reader is shown, how the body is read, and where answers and relative links go. Recipients are not
# among them: a large sealer signs neither To nor Cc. Nor is Sender: a reader who is shown one ("on behalf
# of") trusts less, and lists add it without any other change.
_READ: Final = (
    "from",
    "subject",
    "date",
    "reply-to",
    "content-type",
    "content-transfer-encoding",
    "content-disposition",
    "content-base",
    "content-location",
)
_AS_IT_IS: Final = frozenset({b"7bit", b"8bit", b"binary"})
_BASE64: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_NOT_QUOTED: Final = re.compile(rb"=(?![0-9A-F]{2}|[ \t]*\r?\n)|[^\t\r\n -~]")  # RFC 2045 §6.7
_CANON: Final[dict[bytes, Canon]] = {b"simple": "simple", b"relaxed": "relaxed"}


@dataclass(frozen=True, slots=True)
class _Set:
    """One ARC set."""

    instance: int
    results: HeaderField
    message: HeaderField
    message_tags: dict[str, bytes]
    seal: HeaderField
    seal_tags: dict[str, bytes]


def check_arc(material: Material, lookup: Lookup, settings: AuthSettings) -> Arc:
    """Validate the chain of a message (§5.2). Never raises."""
    sealers: tuple[str, ...] = ()
    newest = ""
    result: Literal["fail", "temperror"] = "fail"
    try:
        sets = _collect(material, settings.max_arc_sets)
        if not sets:
            return Arc("none")
        material.spend_octets(sum(len(f.raw) for s in sets for f in (s.results, s.message, s.seal)))
        sealers = tuple(read_domain(s.seal_tags.get("d", b""), "d") for s in reversed(sets))
        newest = _results_text(sets[-1].results)
        _check_states(sets)
        _check_message(material, sets[-1], lookup, settings)
        for one, digest in reversed(list(zip(sets, _seal_digests(sets), strict=True))):
            _check_seal(material, one, digest, lookup, settings)
    except UnknownKeyError as error:
        result, reason = "temperror", str(error)
    except BadSignatureError as error:
        reason = str(error)
    except Exception as error:  # noqa: BLE001 - whatever a hostile chain provokes, it is no pass
        reason = type(error).__name__
    else:
        open_to = _uncovered(material, sets[-1].message_tags)
        return Arc("pass", sealers, newest, open_to, covers_all=not open_to)
    return Arc(result, sealers, newest, printable(reason))


def arc_questions(material: Material, settings: AuthSettings) -> list[Question]:
    """The first DNS questions that `check_arc` will ask: the newest signature's, and of the newest seals."""
    found: list[Question] = []
    limit = min(settings.max_arc_sets, _ASKED_FIRST)
    for index in (*material.indexes(_MESSAGE)[:1], *material.indexes(_SEAL)[:limit]):
        try:
            tags = material.tags(index)
            found.append((key_name(read_domain(tags["s"], "s"), read_domain(tags["d"], "d")), "TXT"))
        except (BadSignatureError, KeyError):
            continue
    return found


def seal_pieces(material: Material, limit: int) -> list[bytes] | None:
    """The canonical fields of a complete chain, as the next seal signs them (§5.1.1).

    None if the chain has been sealed as failed, and no set may follow. BadSignatureError if its sets
    are incomplete.
    """
    sets = _collect(material, limit)
    if sets and sets[-1].seal_tags.get("cv", b"").lower() == b"fail":
        return None
    return [
        canonical_field(field, "relaxed") for one in sets for field in (one.results, one.message, one.seal)
    ]


def _results_text(field: HeaderField) -> str:
    """The value of ARC-Authentication-Results without its instance, on one line; "" if nobody would read it.

    A piece of it would be worse than nothing: what it leaves out may be the failure.
    """
    found = _INSTANCE.match(field.value)
    text = b" ".join((found[2] if found else b"").split()).decode("utf-8", "replace")
    return printable(text, MAX_VALUE) if len(text) <= MAX_VALUE else ""


def _collect(material: Material, limit: int) -> list[_Set]:
    """The sets in the order of their instances, which must be complete (§5.2 steps 1 and 3)."""
    seals, messages, results = (_by_instance(material, name, limit) for name in (_SEAL, _MESSAGE, _RESULTS))
    wanted = set(range(1, len(seals) + 1))
    if not set(seals) == set(messages) == set(results) == wanted:
        raise BadSignatureError("ARC sets are incomplete")
    return [
        _Set(
            instance=number,
            results=material.fields[results[number]],
            message=material.fields[messages[number]],
            message_tags=material.tags(messages[number]),
            seal=material.fields[seals[number]],
            seal_tags=material.tags(seals[number]),
        )
        for number in range(1, len(seals) + 1)
    ]


def _by_instance(material: Material, name: str, limit: int) -> dict[int, int]:
    """The positions of the fields of one name by their instance."""
    indexes = material.indexes(name)
    if len(indexes) > limit:
        raise BadSignatureError(f"{len(indexes)} ARC sets")
    found: dict[int, int] = {}
    for index in indexes:
        if name == _RESULTS:
            match = _INSTANCE.match(material.fields[index].value)
            number = int(match[1]) if match else 0
        else:
            number = read_number(material.tags(index).get("i", b""), "i", 3)
        if number in found or not 1 <= number <= limit:
            raise BadSignatureError("bad or repeated ARC instance")
        found[number] = index
    return found


def _check_states(sets: list[_Set]) -> None:
    """Check what each seal says of the chain before it (§5.2 step 2, 3)."""
    for one in sets:
        state = one.seal_tags.get("cv", b"").lower()
        if state == b"fail":
            raise BadSignatureError(f"seal {one.instance} reports a failed chain")
        if state != (b"none" if one.instance == 1 else b"pass"):
            raise BadSignatureError(f"seal {one.instance} states cv={printable(state.decode('latin-1'), 20)}")


def _require(tags: dict[str, bytes], names: tuple[str, ...], what: str) -> None:
    missing = [name for name in names if name not in tags]
    if missing:
        raise BadSignatureError(f"{what} without {missing[0]}=")


def _key(tags: dict[str, bytes], lookup: Lookup, settings: AuthSettings) -> tuple[Key, str]:
    algorithm = unwrap(tags["a"]).lower().decode("latin-1")
    if algorithm not in ("rsa-sha256", "ed25519-sha256"):
        raise BadSignatureError("unknown algorithm")
    key = fetch_key(lookup, read_domain(tags["s"], "s"), read_domain(tags["d"], "d"))
    if key.hashes and b"sha256" not in key.hashes:
        raise BadSignatureError("key does not allow sha256")
    if algorithm == "rsa-sha256" and key.bits < settings.min_rsa_bits:
        raise BadSignatureError(f"key of {key.bits} bits is too weak")
    return key, algorithm


def _check_message(material: Material, one: _Set, lookup: Lookup, settings: AuthSettings) -> None:
    """Verify the newest ARC-Message-Signature (§5.2 step 4)."""
    tags = one.message_tags
    _require(tags, ("a", "b", "bh", "d", "h", "s"), "ARC-Message-Signature")
    names = _signed_names(tags)
    if _SEAL in names:  # §4.1.2
        raise BadSignatureError("ARC-Message-Signature signs ARC-Seal")
    # Without c=, all sealers known to us mean "relaxed", though DKIM's default is "simple".
    header_canon, _, body_canon = unwrap(tags.get("c", b"relaxed/relaxed")).lower().partition(b"/")
    body_canon = body_canon or b"simple"
    if header_canon not in _CANON or body_canon not in _CANON:
        raise BadSignatureError("unknown canonicalization")
    if "t" in tags:
        read_number(tags["t"], "t")
    key, algorithm = _key(tags, lookup, settings)
    digest = header_hash(material, names, one.message, _CANON[header_canon])
    if not verify(material, key, algorithm, digest, read_base64(tags["b"], "b")):
        raise BadSignatureError("newest ARC-Message-Signature did not verify")
    length = read_number(tags["l"], "l", 76) if "l" in tags else None
    if material.body_hash(_CANON[body_canon], length) != read_base64(tags["bh"], "bh"):
        raise BadSignatureError("body hash of newest ARC-Message-Signature did not verify")


def _signed_names(tags: dict[str, bytes]) -> list[str]:
    return unwrap(tags["h"]).decode("latin-1").lower().split(":")


def _uncovered(material: Material, tags: dict[str, bytes]) -> str:
    """What a valid ARC-Message-Signature lets anybody change that a reader would see, "" for nothing."""
    names = _signed_names(tags)
    if "l" in tags:
        return "l= leaves the end of the body unsigned"
    for name in _READ:
        if name not in names and material.count(name) and not _is_harmless(material, name):
            return f"{name} is not signed"
    beside = added(material, names)
    return f"{beside} was added beside the signed one" if beside else ""


def _is_harmless(material: Material, name: str) -> bool:
    """Whether an unsigned field says only what the signed body shows by itself, or nothing.

    A large sealer never signs the transfer encoding. Whoever adds or changes one can only garble a text,
    unless that is in this encoding from end to end, and then it was sealed so.
    """
    if material.count(name) > 1:
        return False
    value = material.fields[material.indexes(name)[0]].value.strip().lower()
    if name == "content-disposition":
        return value == b"inline"
    if name != "content-transfer-encoding":
        return False
    if value == b"base64":
        letters = material.body.translate(None, b"\r\n")
        return not len(letters) % 4 and not letters.rstrip(b"=").translate(None, _BASE64)
    return value in _AS_IT_IS or (value == b"quoted-printable" and not _NOT_QUOTED.search(material.body))


def _seal_digests(sets: list[_Set]) -> list[bytes]:
    """What each seal signs: all sets up to its own, itself last and without b= (§5.1.1)."""
    hasher = hashlib.sha256()
    digests = []
    for one in sets:
        hasher.update(canonical_field(one.results, "relaxed"))
        hasher.update(canonical_field(one.message, "relaxed"))
        own = hasher.copy()
        own.update(canonical_field(one.seal, "relaxed", without_signature(one.seal.value))[:-2])
        digests.append(own.digest())
        hasher.update(canonical_field(one.seal, "relaxed"))
    return digests


def _check_seal(material: Material, one: _Set, digest: bytes, lookup: Lookup, settings: AuthSettings) -> None:
    """Verify a seal (§5.2 step 6)."""
    tags = one.seal_tags
    _require(tags, ("a", "b", "cv", "d", "s"), "ARC-Seal")
    if "h" in tags:
        raise BadSignatureError("ARC-Seal with h=")
    if "t" in tags:
        read_number(tags["t"], "t")
    key, algorithm = _key(tags, lookup, settings)
    if not verify(material, key, algorithm, digest, read_base64(tags["b"], "b")):
        raise BadSignatureError(f"seal {one.instance} did not verify")
