# SPDX-License-Identifier: GPL-2.0-or-later
"""TLS-RPT (RFC 8460): the record by which a domain asks for reports about TLS towards it.

Reads hostile text: TXT records, of which the resolver has bounded the size; linear. No network.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Sequence

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}\Z")
_VALUE: Final = re.compile(r"[\x21-\x3a\x3c\x3e-\x7e]+\Z")
_BEGIN: Final = re.compile(rb"v=TLSRPTv1[ \t]*(?:;|\Z)")
_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_URI: Final = re.compile(r"[\x21-\x2b\x2d-\x3a\x3c-\x7e]{1,1000}\Z")  # no comma, no semicolon
_MOST: Final = 20  # addresses that are looked at


class RecordError(Exception):
    """A record that is not valid; the text says why."""


def record_of(values: Sequence[bytes]) -> tuple[str, ...]:
    """The addresses in the one record among the TXT `values` of _smtp._tls; () if none wants reports."""
    ours = [value for value in values if _BEGIN.match(value)]
    if len(ours) != 1:  # RFC 8460 §3
        return ()
    try:
        return read_record(ours[0].decode("ascii"))
    except (RecordError, UnicodeDecodeError):
        return ()


def read_record(text: str) -> tuple[str, ...]:
    """The addresses of a record, "mailto:" and "https:" alone. Raises RecordError.

    A URI of another scheme makes the record none, as one that is no URI does.
    """
    fields = [one.strip(" \t") for one in text.split(";")]
    if len(fields) > 1 and not fields[-1]:
        fields.pop()
    if fields[0] != "v=TLSRPTv1":
        raise RecordError("does not begin with v=TLSRPTv1")
    found: list[str] = []
    for field in fields[1:]:
        name, equals, value = field.partition("=")
        name, value = name.rstrip(" \t"), value.lstrip(" \t")
        if not equals or not _NAME.match(name):
            raise RecordError(f"not a field: {field[:40]!r}")
        if name == "rua":
            found += [_uri(one.strip(" \t")) for one in value.split(",")]
        elif not _VALUE.match(value):
            raise RecordError(f"bad value of {name}")
    if not found:
        raise RecordError("no rua")
    return tuple(dict.fromkeys(found))[:_MOST]


def _uri(text: str) -> str:
    if not _URI.match(text) or _ESCAPE.search(text):
        raise RecordError(f"not a URI: {text[:80]!r}")
    try:
        parts = urlsplit(text)
        sound = (parts.scheme == "mailto" and parts.path) or (parts.scheme == "https" and parts.hostname)
        _ = parts.port
    except ValueError:
        sound = False
    if not sound:
        raise RecordError(f"not a mailto or https URI: {text[:80]!r}")
    return text
