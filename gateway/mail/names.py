# SPDX-License-Identifier: GPL-2.0-or-later
"""File names of attachments: every name that a known client may show or save.

Reads hostile bytes. Names are data: they are never a path of ours.
"""

from __future__ import annotations

import re
import unicodedata

from gateway.mail.charsets import decode_words
from gateway.mail.parameters import Structured, loose

MAX_NAMES = 16
MAX_NAME = 1_000

_TWO_LEADS = re.compile(r"[/\\]")
_INVISIBLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u180b-\u180f\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufe00-\ufe0f\ufeff\ufff9-\ufffb]"
)
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d|clock\$|conin\$|conout\$)(?:\.|\Z)", re.IGNORECASE)


def readings(
    disposition: Structured | None, content_type: Structured | None, raw_disposition: bytes, raw_type: bytes
) -> tuple[str, ...]:
    """All names of a part, best first; the raw values are read loosely where strict reading failed."""
    found: dict[str, None] = {}
    for field, key in (
        (disposition, "filename"),
        (content_type, "name"),
        (disposition, "name"),
        (content_type, "filename"),
    ):
        if field is None:
            continue
        for value in (field.extended.get(key), field.parameters.get(key)):
            if value:
                _add(found, value)
    for field, raw in ((disposition, raw_disposition), (content_type, raw_type)):
        if raw and (field is None or field.odd):
            for value in loose(raw, b"name"):
                _add(found, value)
    return tuple(found)[:MAX_NAMES]


def _add(found: dict[str, None], value: str) -> None:
    value = value[:MAX_NAME]
    if "=?" in value:
        found.setdefault(decode_words(value).strip())  # RFC 2047 §5 (3) forbids it, most clients read it
    found.setdefault(value.strip())
    if value[:1] == value[-1:] == "'":
        found.setdefault(value.strip("'"))
    if "\0" in value:
        found.setdefault(value.partition("\0")[0].strip())


def normal(name: str) -> str:
    """What a name becomes when a desktop saves it, in lower case: "a/b/x.ZIP . " is "x.zip".

    Directions, controls and invisible characters go, compatibility characters (full-width
    letters) become plain, paths, alternate streams ("x.exe:y") and trailing dots and spaces go.
    """
    name = unicodedata.normalize("NFKC", _INVISIBLE.sub("", name[:MAX_NAME]))
    name = _TWO_LEADS.split(name)[-1]
    stream = name.find(":", 2)
    if stream > 0:
        name = name[:stream]
    return name.rstrip(". ").lstrip().lower()


def extensions(name: str) -> tuple[str, ...]:
    """The last extensions of a name, outermost first and without dots: "a.pdf.exe" has exe, pdf."""
    pieces = normal(name).split(".")
    return tuple(piece.strip() for piece in reversed(pieces[1:][-3:]) if piece.strip())


def is_device(name: str) -> bool:
    """Whether Windows takes the name for a device (CON, NUL, COM1)."""
    return bool(_DEVICE.match(normal(name)))
