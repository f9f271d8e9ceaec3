# SPDX-License-Identifier: GPL-2.0-or-later
"""DANE for SMTP (RFC 7672): which TLSA records are usable, and whether a server's certificates match.

Reads hostile bytes: TLSA records, and certificates, which OpenSSL has read before. No network.

What is matched is octets as they were sent, so the public key is cut out of the certificate here:
libraries would write it anew, and what is not written canonically would never match. A path to a
DANE-TA anchor is verified by `cryptography`, since Python's ssl can only be given anchors before
the handshake, and a digest of one is none.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from ssl import SSLObject

_TA, _EE = 2, 3
_FULL, _SHA256, _SHA512 = 0, 1, 2
_LENGTH = {_SHA256: 32, _SHA512: 64}
_MOST = 32  # records of one host that are looked at
_CHAIN = 16  # certificates of one server that are looked at


class DaneError(Exception):
    """The server's certificates match no TLSA record; the text says what is wrong."""


@dataclass(frozen=True, slots=True, order=True)
class Tlsa:
    """A usable TLSA record: DANE-TA or DANE-EE, of a certificate or a key, whole or its digest."""

    usage: int
    selector: int
    matching: int
    data: bytes

    def __str__(self) -> str:
        return f"{self.usage} {self.selector} {self.matching} {self.data.hex()}"

    def fits(self, certificate: bytes) -> bool:
        """Whether this record is about a certificate (DER). Raises ValueError for what is none."""
        data = public_key(certificate) if self.selector else certificate
        if self.matching == _FULL:
            return data == self.data
        return _hashed(self.matching, data) == self.data


def _hashed(matching: int, data: bytes) -> bytes:
    return (hashlib.sha256(data) if matching == _SHA256 else hashlib.sha512(data)).digest()


def usable(records: Iterable[tuple[int, int, int, bytes]]) -> tuple[Tlsa, ...]:
    """The records that may authenticate an SMTP server, sorted; () if none of them can.

    PKIX-TA and PKIX-EE are not (RFC 7672 §3.1.3). Of several digests of a usage and selector only the
    strongest counts (RFC 7671 §9).
    """
    found = {Tlsa(*record) for record in records if _is_usable(*record)}
    strongest = {
        (one.usage, one.selector): max(
            other.matching for other in found if (other.usage, other.selector) == (one.usage, one.selector)
        )
        for one in found
    }
    kept = (one for one in found if one.matching in (_FULL, strongest[one.usage, one.selector]))
    return tuple(sorted(kept)[:_MOST])


def _is_usable(usage: int, selector: int, matching: int, data: bytes) -> bool:
    if usage not in (_TA, _EE) or selector not in (0, 1):
        return False
    if matching != _FULL:
        return _LENGTH.get(matching) == len(data)
    try:
        if selector:
            return _element(data, 0, 0x30)[1] == len(data)
        return bool(public_key(data))
    except ValueError:
        return False


def verify(records: Sequence[Tlsa], chain: Sequence[bytes], names: Sequence[str]) -> None:
    """Check the certificates that a server sent, its own first (DER). Raises DaneError.

    With DANE-EE neither names nor dates matter (RFC 7672 §3.1.1); with DANE-TA the certificate must
    be valid, lead to the anchor, and carry one of `names` (§3.2.2).
    """
    if not chain:
        raise DaneError("the server sent no certificate")
    try:
        if any(one.fits(chain[0]) for one in records if one.usage == _EE):
            return
        anchors = list(_anchors(records, chain[1:_CHAIN]))
    except ValueError as error:
        raise DaneError(f"a certificate that cannot be read: {error}") from None
    if not anchors:
        raise DaneError("the certificate matches no TLSA record")
    _verify_path(anchors, chain[:_CHAIN], names)


def _anchors(records: Sequence[Tlsa], issuers: Sequence[bytes]) -> Iterator[bytes]:
    """The certificates that a DANE-TA record names."""
    for one in records:
        if one.usage != _TA:
            continue
        if one.selector == 0 and one.matching == _FULL:
            yield one.data  # need not be sent (RFC 7671 §5.2)
            continue
        yield from (certificate for certificate in issuers if one.fits(certificate))


def _verify_path(anchors: Sequence[bytes], chain: Sequence[bytes], names: Sequence[str]) -> None:
    from cryptography import x509  # noqa: PLC0415  # 20 ms, and few servers have DANE-TA
    from cryptography.x509 import verification  # noqa: PLC0415  # as above

    problem = "no name to look for"
    try:
        leaf, *others = [x509.load_der_x509_certificate(one) for one in chain]
        store = verification.Store([x509.load_der_x509_certificate(one) for one in dict.fromkeys(anchors)])
        policy = _path_policy(verification).store(store).time(datetime.now(UTC))
    except ValueError as error:
        raise DaneError(f"a certificate that cannot be read: {str(error)[:100]}") from None
    for name in names:
        try:
            policy.build_server_verifier(x509.DNSName(name)).verify(leaf, others)
        except (verification.VerificationError, ValueError) as error:
            problem = str(error)[:200]
        else:
            return
    raise DaneError(f"no valid path to the anchor in the TLSA record: {problem}")


def _path_policy(verification: Any) -> Any:
    """The rules for a path: those of RFC 5280, since a private authority need not follow the web's."""
    from cryptography import x509  # noqa: PLC0415  # as above

    authority = verification.ExtensionPolicy.permit_all().require_present(
        x509.BasicConstraints, verification.Criticality.AGNOSTIC, None
    )
    server = verification.ExtensionPolicy.permit_all().require_present(
        x509.SubjectAlternativeName, verification.Criticality.AGNOSTIC, None
    )
    return verification.PolicyBuilder().extension_policies(ee_policy=server, ca_policy=authority)


def chain_of(connection: SSLObject) -> list[bytes]:
    """The certificates that the server sent, its own first (DER), none of them verified."""
    # Public since Python 3.13; before that only the object within has it.
    inner: Any = connection if hasattr(connection, "get_unverified_chain") else getattr(connection, "_sslobj")  # noqa: B009  # typeshed does not know it
    found = inner.get_unverified_chain() or ()
    return [one if isinstance(one, bytes) else one.public_bytes(2) for one in found]  # 2: ENCODING_DER


def public_key(certificate: bytes) -> bytes:
    """The SubjectPublicKeyInfo of a certificate (DER), as it stands there. Raises ValueError."""
    start, _ = _element(certificate, 0, 0x30)
    start, end = _element(certificate, start, 0x30)
    if certificate[start : start + 1] == b"\xa0":  # version
        start = _element(certificate, start, 0xA0)[1]
    start = _element(certificate, start, 0x02)[1]  # serial number
    for _ in ("signature", "issuer", "validity", "subject"):
        start = _element(certificate, start, 0x30)[1]
    stop = _element(certificate, start, 0x30)[1]
    if stop > end:
        raise ValueError("not a certificate")
    return certificate[start:stop]


def _element(data: bytes, start: int, tag: int) -> tuple[int, int]:
    """Where the contents of the DER element at `start` begin and end. Raises ValueError."""
    if len(data) < start + 2 or data[start] != tag:
        raise ValueError("not a certificate")
    size, begin = data[start + 1], start + 2
    if size & 0x80:
        count = size & 0x7F
        if not 1 <= count <= 4 or len(data) < begin + count:
            raise ValueError("not a certificate")
        size, begin = int.from_bytes(data[begin : begin + count], "big"), begin + count
    if begin + size > len(data):
        raise ValueError("not a certificate")
    return begin, begin + size
