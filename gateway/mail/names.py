# SPDX-License-Identifier: GPL-2.0-or-later
"""File names of attachments: every name that a known client may show or save.

Reads hostile bytes. Names are data: they are never a path of ours.
"""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote

from gateway.mail.charsets import decode_words
from gateway.mail.parameters import Structured, loose

MAX_NAMES = 16
MAX_NAME = 1_000
_END = 200  # characters of a longer name that are kept of its end, where the extension is

_TWO_LEADS = re.compile(r"[/\\]")
_NO_NAME = re.compile(r"[<>|*?\"]")  # characters that Windows has in no name: clients leave them out
_INVISIBLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u180b-\u180f\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufe00-\ufe0f\ufeff\ufff9-\ufffb]"
)
_WHITE = re.compile(r"[\0- \x7f]")
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
    return some(tuple(found))


def some(names: tuple[str, ...]) -> tuple[str, ...]:
    """At most MAX_NAMES: readers take the first of several, or the last."""
    return names if len(names) <= MAX_NAMES else (*names[: MAX_NAMES - 1], names[-1])


def _add(found: dict[str, None], value: str) -> None:
    if "=?" in value:
        _add_cut(found, decode_words(value))  # RFC 2047 §5 (3) forbids it, most clients read it
        if (squeezed := _WHITE.sub("", value)) != value:  # within a word, too, where none may be
            _add_cut(found, decode_words(squeezed))
    _add_cut(found, value)
    if "\ufffd" in value:  # some readers leave out what is no character
        _add_cut(found, value.replace("\ufffd", ""))
    if value[:1] == value[-1:] == "'":
        _add_cut(found, value.strip("'"))
    for mark in "\0;":
        if mark in value:
            _add_cut(found, value.partition(mark)[0])
    if ":" in value[2:]:
        _add_cut(found, value.replace(":", "_"))
    if "%" in value:
        plain = unquote(unquote(value))
        _add_cut(found, plain)
        if "\0" in plain:
            _add_cut(found, plain.partition("\0")[0])


def _add_cut(found: dict[str, None], value: str) -> None:
    value = value.strip()
    found.setdefault(value if len(value) <= MAX_NAME else value[: MAX_NAME - _END] + value[-_END:])


def normal(name: str) -> str:
    """What a name becomes when a desktop saves it, in lower case: "a/b/x.ZIP . " is "x.zip".

    Directions, controls and invisible characters go, compatibility characters (full-width
    letters) become plain, paths, alternate streams ("x.exe:y"), what no name may have, and trailing
    dots and spaces go.
    """
    name = unicodedata.normalize("NFKC", _INVISIBLE.sub("", name[-MAX_NAME:]))
    name = _TWO_LEADS.split(_NO_NAME.sub("", name).rstrip("/\\ "))[-1]
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
