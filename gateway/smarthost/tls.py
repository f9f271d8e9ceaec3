# SPDX-License-Identifier: GPL-2.0-or-later
"""What is known of a client's TLS session, as the judgement sees it.

Reads the client's certificate, which OpenSSL has parsed, and verified if it is there at all.
"""

from __future__ import annotations

import hashlib
from itertools import islice
from typing import TYPE_CHECKING, Any

from gateway.mail.headers import printable
from gateway.mail.types import Tls

if TYPE_CHECKING:
    import ssl

_NAMES = 50  # of a certificate that are looked at


def tls_facts(tls: ssl.SSLObject | None) -> Tls | None:
    """The facts of a TLS session, None without one."""
    if tls is None:
        return None
    cipher, _, bits = tls.cipher() or ("", "", 0)
    certificate = tls.getpeercert(binary_form=True)
    names = tls.getpeercert() or {}
    return Tls(
        version=tls.version() or "",
        cipher=cipher,
        bits=bits,
        client_subject=_common_name(names.get("subject", ())),
        client_issuer=_common_name(names.get("issuer", ())),
        # With CERT_OPTIONAL, a certificate that does not verify ends the handshake.
        client_verified=bool(names),
        client_names=_other_names(names.get("subjectAltName", ())),
        client_fingerprint=hashlib.sha256(certificate).hexdigest() if certificate else "",
    )


def _other_names(names: Any) -> tuple[str, ...]:
    """The names that a certificate has besides."""
    found = (value for kind, value in names if kind in ("DNS", "email"))
    return tuple(printable(value, 255) for value in islice(found, _NAMES))


def _common_name(name: Any) -> str:
    """The common name, which is what Postfix gives a milter in {cert_subject}."""
    for rdn in name:
        for key, value in rdn:
            if key == "commonName":
                return printable(value, 200)
    return ""
