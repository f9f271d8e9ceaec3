# SPDX-License-Identifier: GPL-2.0-or-later
"""What can be seen in the attachments of a message: names, types, tricks with both, and pages.

Reads names and files made by strangers, each file at most to a bound; nothing is unpacked or run.
Every name that a client may show is looked at, and a file belongs to the first class that any of
its names, its content or its declared type puts it in.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec

from gateway.mail.charsets import BYTE_ORDER_MARKS, decode
from gateway.mail.headers import printable
from gateway.mail.names import extensions, is_device
from gateway.mail.types import Attachment, Content, Signal
from gateway.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAME_LIMIT = 150
_HTML_LIMIT = 300_000  # octets of a page that are looked at
_PAGES = 3_000_000  # octets of all pages together, likewise

_OVERRIDE = re.compile("[\u202d\u202e]")
_PADDED = re.compile(r"\.\w{1,5}[\s_\u00a0\u2000-\u200a\u3000\u2800]{8,}\.\s*\w+\s*\Z")
_STREAM = re.compile(r"::\$|:[^:/\\]{1,80}:\$|\.[A-Za-z]\w{0,9}:\w")
# Of a page in lower case. Plain words are searched first, and fast; each pattern is linear.
_HANDLERS = (
    "onload",
    "onerror",
    "onclick",
    "onbegin",
    "ontoggle",
    "onfocus",
    "onmouse",
    "onpageshow",
    "onanimation",
)
_HANDLER = re.compile(r"\bon[a-z]{3,20}\s*+=")
_PASSWORD = re.compile(r"<input\b[^<>]{0,500}?\btype\s*+=[\s\"']*+password")
_REFRESH = re.compile(r"http-equiv\s*+=[\s\"']*+refresh\b[^<>]{0,300}?url\s*+=")
_GOES = (
    "window.location",
    "document.location",
    "top.location",
    "location.href",
    "location.replace",
    "location.assign",
)
_MAKES = (
    "createobjecturl",
    "mssaveoropenblob",
    "mssaveblob",
    "new blob",
    ".download=",
    ".download =",
    '"download"',
)
# By word: a call may have white space before its bracket, or be written window["atob"](...).
_DECODES = re.compile(r"\b(?:atob|eval|unescape|decodeuricomponent)\b|fromcharcode|document\.write")
_RUN = re.compile(r"[a-z0-9+/=]++")
_ESCAPE = re.compile(r"\\x[0-9a-f]{2}|%[0-9a-f]{2}|&#\d{2,3};")
_TABLES = (("csv",), ("tsv",), ("slk",), ("dif",), ("prn",))
_DDE = re.compile(rb"\|[ \t]{0,9}'[^'\r\n]{1,500}+'!|\bDDE(?:AUTO)?\(", re.IGNORECASE)
_LONG_RUN, _MANY_ESCAPES = 2_000, 300


ClassName = Annotated[str, msgspec.Meta(pattern="^[a-z][a-z0-9_]{0,30}$")]
FAMILIES = ("ATTACHMENT", "ARCHIVE")  # what a class is called at the top, and in archives and documents


class OwnClass(Settings, frozen=True):
    """A kind of attachment of the site's own."""

    # Extensions, without the dot.
    extensions: tuple[str, ...] = ()
    # Types, by content.
    types: tuple[str, ...] = ()
    # Types, as declared, where no name has an extension.
    declared: tuple[str, ...] = ()


class AttachmentSettings(Settings, frozen=True):
    """What the site takes attachments for otherwise than `rules/attachments.toml` has it."""

    # Class of `rules/attachments.toml` by extension, "none" for none.
    extensions: dict[str, str] = msgspec.field(default_factory=dict)
    # Class by type, as detected or declared.
    types: dict[str, str] = msgspec.field(default_factory=dict)
    # Classes of your own: "cad" gives ATTACHMENT_CAD, and ARCHIVE_CAD for a file in an archive or document.
    # Both weigh nothing until [policy.weights] or [policy.actions] names them.
    classes: dict[ClassName, OwnClass] = msgspec.field(default_factory=dict)

    def signals(self) -> frozenset[str]:
        """The names of the signals that the site's own classes give."""
        return frozenset(f"{where}_{name.upper()}" for where in FAMILIES for name in self.classes)


class _Class(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    extensions: list[str]
    types: list[str]
    declared: list[str]


class _Names(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    documents: frozenset[str]
    running: frozenset[str]
    programs: frozenset[str]
    binary: frozenset[str]


class AttachmentFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `rules/attachments.toml` may have."""

    classes: dict[str, _Class]
    names: _Names


@dataclass(frozen=True, slots=True)
class AttachmentRules:
    """Classes by extension and type. `order` has the classes, the one that counts first."""

    order: tuple[str, ...]
    extensions: dict[str, str]
    types: dict[str, str]
    declared: dict[str, str]
    documents: frozenset[str]
    running: frozenset[str]
    programs: frozenset[str]
    binary: frozenset[str]

    def by_name(self, name: str) -> str:
        """The class that a file has by one of its names, "" for none."""
        found = extensions(name)
        return self.extensions.get(found[0], "") if found else ""

    def of(self, name: str, detected: str) -> str:
        """The class of a file by its name and content, the one that counts first; "" for none."""
        found = [kind for kind in (self.by_name(name), self.types.get(detected, "")) if kind]
        return min(found, key=self.order.index, default="")


def rules(file: AttachmentFile, settings: AttachmentSettings) -> AttachmentRules:
    """Lay the site's settings over the file. Raises ValueError for a class that there is not."""
    order = (*file.classes, *settings.classes)
    known = {*order, "none"}
    for table, given in (("extensions", settings.extensions), ("types", settings.types)):
        for key, name in given.items():
            if name not in known:
                raise ValueError(
                    f"[policy.attachments] {table}: {key}: no class {name!r}; there are {sorted(known)}"
                )
    by_extension: dict[str, str] = {}
    by_type: dict[str, str] = {}
    by_declared: dict[str, str] = {}
    # The site's own classes come first, but count last where a file belongs to several.
    entries: tuple[tuple[str, _Class | OwnClass], ...] = (*settings.classes.items(), *file.classes.items())
    for name, entry in entries:
        for table_of, keys in (
            (by_extension, entry.extensions),
            (by_type, entry.types),
            (by_declared, entry.declared),
        ):
            for key in keys:
                table_of.setdefault(key.lower().lstrip("."), name)
    own = {
        key.lower().lstrip("."): "" if name == "none" else name for key, name in settings.extensions.items()
    }
    own_types = {key.lower(): "" if name == "none" else name for key, name in settings.types.items()}
    return AttachmentRules(
        order=order,
        extensions=by_extension | own,
        types=by_type | own_types,
        declared=by_declared | own_types,
        documents=file.names.documents,
        running=file.names.running,
        programs=file.names.programs,
        binary=file.names.binary,
    )


class Sight(NamedTuple):
    """A signal, and which attachment shows it; -1 if that cannot be said."""

    signal: Signal
    attachment: int


def sights(content: Content, rules: AttachmentRules) -> Iterator[Sight]:
    """Give what each attachment shows, in their order. Pages beyond a bound show what others do."""
    left = _PAGES
    pages: dict[str, Signal] = {}
    for index, attachment in enumerate(content.attachments):
        found = list(_by_name_and_type(attachment, rules))
        if found and _is_page(attachment, rules):
            if left > 0:
                left -= max(1_000, min(attachment.size, _HTML_LIMIT))
                found += (seen := list(_page(attachment)))
                pages |= {signal.name: signal for signal in seen}
            else:
                found += pages.values()
        if any(extensions(name)[:1] in _TABLES for name in attachment.names):
            found += _table(attachment)
        for signal in found:
            yield Sight(signal, index)


def _by_name_and_type(attachment: Attachment, rules: AttachmentRules) -> Iterator[Signal]:
    names = attachment.names
    shown = printable(names[0], _NAME_LIMIT) if names else attachment.declared_type
    found: list[str] = []
    ended: set[str] = set()
    doubled = False
    for name in names:
        ends = extensions(name)
        if ends:
            ended.add(ends[0])
            found.append(rules.extensions.get(ends[0], ""))
        if found and found[-1] in rules.running and len(ends) > 1 and rules.documents.intersection(ends[1:]):
            yield Signal("ATTACHMENT_DOUBLE_EXTENSION", printable(name, _NAME_LIMIT))
            doubled = True
    if not ended:
        found.append(rules.declared.get(attachment.declared_type, ""))
    inside = rules.types.get(attachment.detected_type, "")
    if inside in rules.running and ended and not any(name in rules.running for name in found):
        # Also what no class knows: a program called "invoice.001" is renamed by its reader, on advice.
        yield Signal("ATTACHMENT_TYPE_MISMATCH", printable(f"{shown} is {attachment.detected_type}", 200))
    elif attachment.detected_type in rules.programs and ended & rules.binary:
        yield Signal("ATTACHMENT_TYPE_MISMATCH", printable(f"{shown} is {attachment.detected_type}", 200))
    elif inside:
        found.append(inside)
    if attachment.detected_type == "text/html" and ended & rules.binary:
        yield Signal("ATTACHMENT_HTML_DISGUISED", shown)
    kind = min((name for name in found if name), key=rules.order.index, default="")
    if kind and not (doubled and kind in rules.running):
        yield Signal(f"ATTACHMENT_{kind.upper()}", shown)
    if len(ended) > 1 and len({rules.extensions.get(end, "") for end in ended}) > 1:
        yield Signal("ATTACHMENT_NAME_ODD", printable("several names: " + ", ".join(names[:4]), 200))
    for name in names:
        yield from _tricks(name)


def _tricks(name: str) -> Iterator[Signal]:
    if _OVERRIDE.search(name):
        yield Signal("ATTACHMENT_NAME_REVERSED", printable(name, _NAME_LIMIT))
    if _PADDED.search(name[-300:]):
        yield Signal("ATTACHMENT_NAME_ODD", printable(f"spaces before the extension: {name}", 200))
    elif "\0" in name:
        yield Signal("ATTACHMENT_NAME_ODD", printable(f"NUL in the name: {name}", 200))
    elif ":" in name and _STREAM.search(name[-200:]):
        yield Signal("ATTACHMENT_NAME_ODD", printable(f"names a stream: {name}", 200))
    elif is_device(name):
        yield Signal("ATTACHMENT_NAME_ODD", printable(f"names a device: {name}", 200))


# ---------------------------------------------------------------- pages


def _is_page(attachment: Attachment, rules: AttachmentRules) -> bool:
    kinds = [rules.by_name(name) for name in attachment.names]
    kinds += [rules.types.get(attachment.detected_type, ""), rules.declared.get(attachment.declared_type, "")]
    return "html" in kinds


def _page(attachment: Attachment) -> Iterator[Signal]:
    """What an attached page does: asks for a password, makes a file, leads on, runs scripts."""
    data = attachment.data[:_HTML_LIMIT]
    wide = data[:2] in BYTE_ORDER_MARKS or b"\0" in data[:2]
    text = decode(data, "utf-16" if wide else "").lower()
    shown = printable(attachment.names[0], _NAME_LIMIT) if attachment.names else attachment.declared_type
    scripted = "<script" in text or "javascript:" in text
    scripted = scripted or (any(word in text for word in _HANDLERS) and _HANDLER.search(text) is not None)
    refreshes = "http-equiv" in text and _REFRESH.search(text) is not None
    if "<form" in text:  # SVG may carry HTML
        asks = "password" in text and _PASSWORD.search(text)
        yield Signal("ATTACHMENT_HTML_PASSWORD" if asks else "ATTACHMENT_HTML_FORM", shown)
    if attachment.detected_type == "image/svg+xml":
        if scripted:
            yield Signal("ATTACHMENT_SVG_SCRIPT", shown)
        return
    if scripted:
        yield Signal("ATTACHMENT_HTML_SCRIPT", shown)
        if any(word in text for word in _MAKES) or (_DECODES.search(text) and _packed(text)):
            yield Signal("ATTACHMENT_HTML_SMUGGLING", shown)
            return
    if refreshes or (scripted and any(word in text for word in _GOES)):
        yield Signal("ATTACHMENT_HTML_REDIRECT", shown)


def _table(attachment: Attachment) -> Iterator[Signal]:
    """A table as text with a formula that starts a program by DDE."""
    found = _DDE.search(attachment.data[:_HTML_LIMIT])
    if found:
        yield Signal("OFFICE_AUTORUN", printable(found[0].decode("latin-1"), 100))


def _packed(text: str) -> bool:
    """Whether a page carries something that only its script can read."""
    return (
        any(found.end() - found.start() >= _LONG_RUN for found in _RUN.finditer(text))
        or sum(1 for _ in _ESCAPE.finditer(text)) >= _MANY_ESCAPES
    )
