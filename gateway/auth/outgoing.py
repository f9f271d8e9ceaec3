# SPDX-License-Identifier: GPL-2.0-or-later
"""Signatures of ours on mail that goes on: DKIM on outbound mail, an ARC set on inbound mail.

Reads hostile bytes: messages of users, and of strangers where they are sealed. No I/O.

Both are made last and stand on top, over the message as it leaves with all other edits applied. What
is put above them later, such as a Received field, they do not sign.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from gateway.auth import sign
from gateway.auth.author import author_domain
from gateway.auth.results import authentication_results
from gateway.auth.seal import seal
from gateway.auth.signature import Material
from gateway.mail.domains import normal
from gateway.mail.edits import apply
from gateway.mail.headers import MAX_FIELD, split
from gateway.mail.types import Direction, Edit, EditOp

if TYPE_CHECKING:
    from gateway.mail.types import Content, Cut, Evidence, Mail


@dataclass(frozen=True, slots=True)
class Signing:
    """What signs."""

    keys: tuple[sign.SigningKey, ...] = ()
    expire: int = 0
    sealer: sign.SigningKey | None = None  # None: nothing is sealed


def load(settings: sign.SignSettings) -> Signing:
    """Read all keys; OSError or ValueError if one must not be used, or none can seal."""
    keys = sign.load_keys(settings)
    sealer = None
    if settings.seal_domain:
        wanted = normal(settings.seal_domain)
        fitting = [k for k in keys if k.domain == wanted and isinstance(k.private, RSAPrivateKey)]
        if not fitting:
            raise ValueError(f"seal_domain: there is no RSA key of {wanted} among the keys")
        sealer = fitting[0]
    return Signing(keys, settings.expire, sealer)


def signed(
    mail: Mail,
    content: Content,
    evidence: Evidence,
    edits: tuple[Edit, ...],
    signing: Signing,
    authserv_id: str,
    cuts: tuple[Cut, ...] = (),
) -> tuple[Edit, ...]:
    """The edits of a message that goes on, with those that sign it added; it is signed with `cuts` made.

    Outbound mail is signed by the keys of its author domain; mail without exactly one author, or
    of a domain without a key, stays unsigned. `authserv_id` is ours, in what a seal states.
    """
    if mail.session.direction is Direction.OUTBOUND:
        keys = sign.keys_for(author_domain(content)[0], signing.keys)
        material = _leaving(mail, edits, cuts) if keys else None
        if material is None:
            return edits
        values = [sign.sign(material, key, expire=signing.expire) for key in keys]
        return edits + tuple(Edit(EditOp.INSERT, sign.NAME, value) for value in values)
    if signing.sealer is None or evidence.arc is None:
        return edits
    material = _leaving(mail, edits, cuts)
    if material is None:
        return edits
    results = authentication_results(authserv_id, evidence, mail)
    fields = seal(material, evidence.arc, results, signing.sealer)
    return edits + tuple(Edit(EditOp.INSERT, name, value) for name, value in reversed(fields))


def signed_by_us(raw: bytes, domain: str, signing: Signing) -> bytes:
    """A message of our own with a signature of each key of `domain` on top; as it was if there is none."""
    section = split(raw)
    material = Material(section.fields, raw, section.body_start)
    keys = sign.keys_for(domain, signing.keys)
    values = [sign.sign(material, key, expire=signing.expire) for key in keys]
    return apply(raw, tuple(Edit(EditOp.INSERT, sign.NAME, value) for value in values))


def _leaving(mail: Mail, edits: tuple[Edit, ...], cuts: tuple[Cut, ...]) -> Material | None:
    """The message as it leaves; None if its header section is beyond what we read, and so sign."""
    raw = apply(mail.raw, edits, cuts)
    section = split(raw)
    if section.truncated or any(len(field.raw) >= MAX_FIELD for field in section.fields):
        return None
    return Material(section.fields, raw, section.body_start, trusted=True)
