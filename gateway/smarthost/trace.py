# SPDX-License-Identifier: GPL-2.0-or-later
"""Our Received field, and the count of those that are there already. No I/O.

Reads hostile bytes: the header section, and the client's HELO, which goes into our field only
as printable ASCII without parentheses, so that it can begin no field, comment or clause.
"""

from __future__ import annotations

import re
from email.utils import formatdate
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.mail.types import Mail

_RECEIVED = re.compile(rb"\nreceived[ \t]*+:")  # with octets to begin with, it is searched for fast
_NOT_A_WORD = re.compile(r"[^!#-'*+\-./0-9:=?@A-\[\]^_`a-{}~|]")


def received_count(raw: bytes) -> int:
    """How many Received fields the header section of `raw` has."""
    end = raw.find(b"\r\n\r\n")
    return len(_RECEIVED.findall(b"\n" + (raw if end < 0 else raw[:end]).lower()))


def received_field(mail: Mail, hostname: str, *, extended: bool) -> bytes:
    """The field for `mail`, CRLF included (RFC 5321 §4.4, RFC 3848 and RFC 6531 §3.7.3 for `with`)."""
    session = mail.session
    client = f"[{_literal(session.client_ip)}]" if session.client_ip else "unknown"
    lines = [f"Received: from {_word(session.helo)} ({_word(session.client_name or 'unknown')} {client})"]
    if session.tls is not None:
        tls = session.tls
        lines.append(f"(using {_word(tls.version)} with cipher {_word(tls.cipher)} ({tls.bits} bits))")
    protocol = "UTF8SMTP" if "SMTPUTF8" in mail.envelope.options else "ESMTP" if extended else "SMTP"
    if extended:
        protocol += ("S" if session.tls else "") + ("A" if session.login else "")
    lines.append(f"by {_word(hostname)} with {protocol} id {mail.id}")
    recipients = mail.envelope.recipients
    if len(recipients) == 1 and recipients[0].isascii() and '"' not in recipients[0]:
        lines.append(f"for <{recipients[0]}>")
    lines[-1] += ";"
    lines.append(_date(int(mail.received)))
    return "\r\n\t".join(lines).encode("ascii") + b"\r\n"


@lru_cache(maxsize=64)
def _date(second: int) -> str:
    return formatdate(second, localtime=True)


def _literal(ip: str) -> str:
    return f"IPv6:{ip}" if ":" in ip else _word(ip)


def _word(text: str) -> str:
    return _NOT_A_WORD.sub("?", text)[:255] or "unknown"
