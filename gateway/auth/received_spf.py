# SPDX-License-Identifier: GPL-2.0-or-later
"""The Received-SPF field (RFC 7208 §9.1), for programs behind us that read no Authentication-Results.

Writes text of strangers, envelope sender and HELO name, as printable ASCII in quoted strings. No I/O.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from gateway.auth.upstream import RELAYED
from gateway.mail.headers import printable

if TYPE_CHECKING:
    from gateway.mail.types import Evidence, Mail, Spf

NAME: Final = "Received-SPF"
_DOT_ATOM: Final = re.compile(r"[0-9A-Za-z!#$%&'*+/=?^_`{|}~-]+(?:\.[0-9A-Za-z!#$%&'*+/=?^_`{|}~-]+)*\Z")
_WHY: Final = {
    "pass": "may send for it",
    "fail": "must not send for it",
    "softfail": "probably should not send for it",
    "neutral": "is not spoken of",
    "none": "is not spoken of, there is no policy",
    "temperror": "could not be checked now",
    "permerror": "could not be checked, the policy is broken",
}


def received_spf(receiver: str, evidence: Evidence, mail: Mail) -> str:
    """The value of our field, ready for an `Edit`; "" if we made no check of our own that it could state."""
    for spf in evidence.spf:
        if spf.identity == "mailfrom" and spf.result in _WHY and spf.reason != RELAYED:
            return "\n\t".join(_lines(receiver, spf, mail))
    return ""


def _lines(receiver: str, spf: Spf, mail: Mail) -> list[str]:
    sender = mail.envelope.mail_from
    pairs = {
        "receiver": receiver,
        "identity": "mailfrom" if sender else "helo",  # the null sender is checked by HELO (§2.4)
        "client-ip": mail.session.client_ip,
        "envelope-from": sender,
        "helo": mail.session.helo,
    }
    return [f"{spf.result} (the client {_WHY[spf.result]})"] + [
        f"{name}={_value(text)}{';' if name != 'helo' else ''}" for name, text in pairs.items()
    ]


def _value(text: str) -> str:
    safe = printable(text, 320, ascii_only=True)
    if _DOT_ATOM.match(safe):
        return safe
    return '"' + safe.replace("\\", "\\\\").replace('"', '\\"') + '"'
