# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages and files that a part holds without declaring it: saved mail, S/MIME and OpenPGP.

Reads hostile bytes; linear, bounded, and never an exception. What is encrypted stays closed: this is
about what is merely signed or compressed, and looks as closed as that to who does not look into it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from gateway.mail import cms, magic, openpgp
from gateway.mail.findings import textual
from gateway.mail.names import extensions

_MESSAGE_NAMES = frozenset(("eml", "emlx", "mht", "mhtml"))
_OPENPGP_NAMES = frozenset(("gpg", "pgp", "asc", "sig"))
_COUNT = re.compile(rb"\A[0-9]{1,12}[ \t]*+\r?\n")  # of octets, before a message that Apple Mail saved
_ENTITY = re.compile(
    rb"(?:[!-9;-~]{1,60}: [^\n]*+\n(?:[ \t][^\n]*+\n)*+){0,20}?Content-[A-Za-z-]{1,40}:", re.IGNORECASE
)


class Inner(NamedTuple):
    """Messages to be read as such, files as (name, content), and whether a bound was not hit."""

    messages: list[bytes]
    files: list[tuple[bytes, bytes]]
    whole: bool = True


def in_file(data: bytes, names: tuple[str, ...]) -> Inner:
    """What an attached file holds; clients go by the name or by the content."""
    signed = cms.content(data)  # whatever it is called (RFC 8551 §3.9)
    if signed:
        return Inner([signed], [], len(signed) <= cms.MAX_INFLATED)
    endings = {ending for name in names for ending in extensions(name)[:1]}
    if openpgp.ARMOR in data:
        return in_text(data)
    if endings & _OPENPGP_NAMES and openpgp.starts(data):
        return _opened(openpgp.read(data))
    if magic.detect(data) == "message/rfc822":
        return Inner([data], [])
    if endings & _MESSAGE_NAMES and textual(data):
        return Inner([_COUNT.sub(b"", data, count=1)], [])  # whatever stands first
    return Inner([], [])


def in_text(data: bytes) -> Inner:
    """What stands in a text in armor."""
    return _opened(openpgp.armored(data))


def _opened(found: openpgp.Found) -> Inner:
    """What was signed is often a MIME entity (RFC 3156), and else a file."""
    messages = [content for _, content in found.files if _ENTITY.match(content)]
    return Inner(messages, found.files, found.whole)
