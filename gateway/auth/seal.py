# SPDX-License-Identifier: GPL-2.0-or-later
"""ARC sets of our own (RFC 8617 §5.1), for mail that is forwarded. Off unless keys are configured.

Reads hostile bytes: the message and the chain in it, which has been validated before. No I/O.
"""

from __future__ import annotations

import base64
import hashlib
import time
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from gateway.auth.arc import FIELDS, seal_pieces
from gateway.auth.sign import SigningKey, fold_list, sign_digest
from gateway.auth.signature import BadSignatureError, Material, canonical_field, header_hash
from gateway.mail.types import HeaderField

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.mail.types import Arc

_LIMIT: Final = 50  # instances (§4.2.1)
_SIGNED: Final = (
    "from",
    "sender",
    "reply-to",
    "to",
    "cc",
    "subject",
    "date",
    "message-id",
    "in-reply-to",
    "references",
    "mime-version",
    "content-type",
    "content-transfer-encoding",
    "content-disposition",
    "content-base",
    "content-location",
    "list-id",
    "list-unsubscribe",
    "list-unsubscribe-post",
    "dkim-signature",
)


def seal(
    material: Material,
    chain: Arc,
    results: str,
    key: SigningKey,
    *,
    now: float | None = None,
    names: Sequence[str] = (),
) -> tuple[tuple[str, str], ...]:
    """The names and values of a new ARC set, topmost first; each is inserted on top, the last one first.

    `results` is the value of our Authentication-Results field, `chain` what `check_arc` said of the
    message as it is, `names` the fields to sign if not the usual ones. () if no set may be added: the
    chain has failed before, is full, or could not be checked. ValueError if the key is not RSA,
    the only kind that ARC knows.
    """
    if not isinstance(key.private, RSAPrivateKey):
        raise ValueError("ARC knows RSA keys only")  # noqa: TRY004 - a value of the operator's
    instance = material.count(FIELDS[0]) + 1
    if chain.result in ("temperror", "permerror") or instance > _LIMIT:
        return ()
    try:
        before = seal_pieces(material, _LIMIT)
    except BadSignatureError:
        before = []
    if before is None:
        return ()
    if chain.result == "fail":
        before = []  # a failed chain is sealed without what came before (§5.1.2)
    clock = int(time.time() if now is None else now)
    common = {"a": key.algorithm, "d": key.domain, "i": str(instance), "s": key.selector, "t": str(clock)}
    result_field = _field("ARC-Authentication-Results", f"i={instance}; {results}")
    signed = list(names) or [name for name in _SIGNED for _ in range(material.count(name))]
    message_tags = common | {
        "bh": base64.b64encode(material.body_hash("relaxed")).decode("ascii"),
        "c": "relaxed/relaxed",
        "h": fold_list(signed),
    }
    message_field = _field("ARC-Message-Signature", _tags(message_tags))
    digest = header_hash(material, signed, message_field, "relaxed")
    message_field = _field("ARC-Message-Signature", _tags(message_tags, sign_digest(key, digest)))
    seal_tags = common | {"cv": chain.result}
    seal_field = _field("ARC-Seal", _tags(seal_tags))
    own = [canonical_field(field, "relaxed") for field in (result_field, message_field)]
    own.append(canonical_field(seal_field, "relaxed")[:-2])
    digest = hashlib.sha256(b"".join((*before, *own))).digest()
    return (
        ("ARC-Seal", _tags(seal_tags, sign_digest(key, digest))),
        ("ARC-Message-Signature", _value(message_field)),
        ("ARC-Authentication-Results", _value(result_field)),
    )


def _field(name: str, value: str) -> HeaderField:
    return HeaderField(name, f"{name}: {value}".replace("\n", "\r\n").encode("ascii"))


def _value(field: HeaderField) -> str:
    return field.value.decode("ascii").replace("\r\n", "\n")[1:]


def _tags(tags: dict[str, str], signature: bytes | None = None) -> str:
    """A tag list in alphabetical order, one tag on a line, none folded: the form of the public test suite."""
    content = tags | {"b": base64.b64encode(signature or b"").decode("ascii")}
    # Folded with a space, not a tab: dkimpy finds a field by " i=1;" and raises if there is none.
    return ";\n ".join(f"{name}={content[name]}" for name in sorted(content))
