# SPDX-License-Identifier: GPL-2.0-or-later
"""Office documents: macros, what runs by itself, what is fetched from elsewhere, what is embedded.

Reads hostile bytes through oletools and olefile, which are large, old and trusting, so it runs in
the child only. Of an OOXML file the zip walker hands over the parts one by one, already unpacked
within bounds; XML is searched and never parsed, so no entity is ever expanded and nothing fetched.
Each function yields `Found`: a finding, or a file that stands in the document.
"""

from __future__ import annotations

import io
import re
import warnings
import zlib
from typing import TYPE_CHECKING, NamedTuple

import olefile

from gateway.mail import magic
from gateway.scanners.unpack import words

with warnings.catch_warnings():  # oletools speaks to pyparsing in words of older days
    warnings.simplefilter("ignore", DeprecationWarning)
    from oletools import crypto, olevba, rtfobj
    from oletools.oleobj import OleNativeStream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_STREAMS = 2_000
MAX_RTF = 3_000_000  # octets of RTF that are parsed for objects; the parser of oletools is slow
_MAX_CODE = 1_000_000
PACKAGE = "application/vnd.openxmlformats-officedocument."


# Of an attachment in a message of Outlook ([MS-OXMSG]), by property and type: long, short, shown
_MSG_NAMES = {
    f"{number}{kind}": codec
    for number in ("3707", "3704", "3001")
    for kind, codec in (("001f", "utf-16-le"), ("001e", "latin-1"))
}


class Found(NamedTuple):
    """A finding ("" for none) with its detail, and an embedded file (None for none).

    "text" and "link" are no findings: their detail is a text that the document shows, or a link in it.
    """

    kind: str
    detail: str = ""
    name: str = ""
    data: bytes | None = None


# ---------------------------------------------------------------- OOXML and ODF, part by part

_ENTITY = re.compile(rb"<!(?:ENTITY|DOCTYPE)\b[^>]{0,200}", re.IGNORECASE)
_RELATION = re.compile(rb"<(?:[A-Za-z0-9_]{1,20}:)?Relationship\s[^>]{0,8000}>", re.IGNORECASE)
_EXTERNAL = re.compile(rb"TargetMode\s*=\s*[\"']\s*External", re.IGNORECASE)
_RELATION_TYPE = re.compile(rb"\sType\s*=\s*[\"'][^\"']{0,300}/([A-Za-z]{1,60})[\"']", re.IGNORECASE)
_TARGET = re.compile(rb"\sTarget\s*=\s*[\"']([^\"']{0,2000})[\"']", re.IGNORECASE)
# What is fetched when the document is opened, not when a reader follows it.
_FETCHED = frozenset(
    {
        b"attachedtemplate",
        b"oleobject",
        b"frame",
        b"externallink",
        b"externallinkpath",
        b"subdocument",
        b"package",
        b"control",
        b"activexcontrol",
        b"stylesheet",
        b"afchunk",
        b"vbaproject",
    }
)
# Of OOXML a VBA project or a sheet of Excel 4.0 macros; of ODF a Basic module or another script.
_MACRO_PART = re.compile(
    r"(?:.*/)?vbaproject[^/]*\.bin\Z|.*/macrosheets/|basic/(?:.*/)?(?!script-)[^/]*\.xml\Z|scripts/.*[^/]\Z"
)
_FIELD = re.compile(rb"<w:instrText[^>]{0,200}>([^<]{0,2000})", re.IGNORECASE)
_FIELD_SIMPLE = re.compile(rb"w:instr\s*=\s*[\"']\s*DDE", re.IGNORECASE)
_DDE_LINK = re.compile(rb"<(?:x:)?ddeLink\b", re.IGNORECASE)
_AUTO_NAME = re.compile(rb"<definedName[^>]{0,500}name\s*=\s*[\"']_xlnm\.Auto_(?:Open|Close)", re.IGNORECASE)


def is_document(names: list[str]) -> bool:
    """Whether a zip file with these members is an OOXML or ODF document."""
    low = {name.replace("\\", "/").lower() for name in names}
    return "[content_types].xml" in low or {"content.xml", "meta-inf/manifest.xml"} <= low


def part(name: str, data: bytes, reads: Callable[[], bool] = bool) -> Iterator[Found]:
    """Look at one part of an OOXML or ODF document; `reads` tells whether its words are wanted."""
    low = name.replace("\\", "/").lower().lstrip("/")
    leaf = low.rpartition("/")[2]
    if _MACRO_PART.match(low):
        yield Found("macro", name)
    elif leaf.startswith("activex") and leaf.endswith(".bin"):
        yield Found("object", name)
    if leaf.endswith((".xml", ".rels", ".vml")):
        yield from _markup(low, _plain(data))
    if words.is_text(low) and reads():
        yield Found("text", words.of_markup(data))
        yield from (Found("link", link) for link in words.links(data))


def entities(data: bytes) -> Iterator[Found]:
    """Look for a document type with declarations in any XML: entities grow, and fetch files."""
    found = _ENTITY.search(_plain(data))
    if found and (b"ENTITY" in found[0].upper() or b"[" in found[0]):
        yield Found("entity", found[0].decode("ascii", "replace"))


def _markup(name: str, data: bytes) -> Iterator[Found]:
    if (found := _ENTITY.search(data)) is not None:  # no Office program writes any
        yield Found("entity", found[0].decode("ascii", "replace"))
    if name.endswith(".rels"):
        for relation in _RELATION.findall(data):
            kind = _RELATION_TYPE.search(relation)
            if not _EXTERNAL.search(relation) or kind is None:
                continue
            target = _TARGET.search(relation)
            if kind[1].lower() in _FETCHED:
                where = target[1].decode("utf-8", "replace") if target else ""
                yield Found("external", f"{kind[1].decode()} {where}")
            elif target and (link := words.target(target[1])):
                yield Found("link", link)
    elif name == "meta-inf/manifest.xml" and b"encryption-data" in data:
        yield Found("office-encrypted", "ODF")
    elif name.startswith("word/"):
        code = b"".join(field.strip() for field in _FIELD.findall(data)).upper()
        if code.startswith(b"DDE") or b"DDEAUTO" in code or _FIELD_SIMPLE.search(data):
            yield Found("dde", name)
    elif name.startswith("xl/"):
        if _DDE_LINK.search(data):
            yield Found("dde", name)
        if _AUTO_NAME.search(data):
            yield Found("macro-autorun", "Auto_Open")


def _plain(data: bytes) -> bytes:
    """Make UTF-16 as good as ASCII for a search."""
    return data.replace(b"\0", b"") if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data[:8] else data


# ---------------------------------------------------------------- OLE


def ole(data: bytes, name: str) -> Iterator[Found]:
    """Look at a compound file: Word, Excel, PowerPoint up to 2003, Outlook, a VBA project."""
    try:
        with olefile.OleFileIO(io.BytesIO(data)) as document:
            streams = document.listdir(streams=True, storages=False)
            yield from _encrypted(document, streams)
            yield from _streams(document, streams[:MAX_STREAMS])
            if len(streams) > MAX_STREAMS:
                yield Found("limit", "files")
    except (OSError, ValueError, TypeError, IndexError, AttributeError, OverflowError) as error:
        yield Found("broken", str(error))
        return
    yield from _macros(data, name)


def _encrypted(document: olefile.OleFileIO, streams: list[list[str]]) -> Iterator[Found]:
    if any(path[-1] in ("EncryptedPackage", "EncryptionInfo") for path in streams):
        yield Found("office-encrypted", "OOXML")
    elif crypto.is_encrypted(document):
        yield Found("office-encrypted", "OLE")


def _streams(document: olefile.OleFileIO, streams: list[list[str]]) -> Iterator[Found]:
    names: dict[tuple[str, ...], list[str]] = {}
    for path in streams:
        codec = _MSG_NAMES.get(path[-1].lower().removeprefix("__substg1.0_"))
        if codec and len(path) > 1:
            text = document.openstream(path).read(1_000).decode(codec, "replace").split("\0", maxsplit=1)[0]
            names.setdefault(tuple(path[:-1]), []).append(text)
    for path in streams:
        leaf = path[-1].lower()
        if leaf == "equation native":
            yield Found("object", "Equation Native")
        content = _read(document, path)
        if leaf == "\x01ole10native":
            yield from _package(content)
        elif leaf.startswith("__substg1.0_37010102") and len(path) > 1:
            for number, name in enumerate(dict.fromkeys(names.get(tuple(path[:-1]), [""]))):
                yield Found("", name=name, data=b"" if number else content)
        elif leaf not in ("workbook", "book", "worddocument", "powerpoint document") and magic.detect(
            content
        ).startswith("application/"):
            yield Found("", name="/".join(path), data=content)


def _read(document: olefile.OleFileIO, path: list[str]) -> bytes:
    return bytes(document.openstream(path).read())


def _package(content: bytes) -> Iterator[Found]:
    try:
        native = OleNativeStream(content)
    except (ValueError, TypeError, IndexError, OSError, AttributeError):
        native = None
    if native is not None and native.is_link:
        yield Found("external", str(native.src_path or native.filename or ""))
    elif native is not None and native.data:
        yield Found("object", str(native.filename or ""))
        yield Found("", name=str(native.filename or ""), data=bytes(native.data))
    else:
        yield Found("object", "Ole10Native")
        yield Found("", name="Ole10Native", data=content[4:])


def _macros(data: bytes, name: str) -> Iterator[Found]:
    """Ask olevba for macros and for names that Office runs by itself."""
    try:
        parser = olevba.VBA_Parser(name or "document", data=data, disable_pcode=True)
    except olevba.OlevbaBaseException:
        return  # not one of Office's
    try:
        vba = bool(parser.detect_vba_macros())
        xlm = bool(parser.detect_xlm_macros())
        code = "\n".join(text for *_, text in parser.extract_macros() if isinstance(text, str)) if vba else ""
        code += "\n".join(str(line) for line in parser.xlm_macros) if xlm else ""
    except olevba.OlevbaBaseException as error:
        yield Found("macro", "unreadable")
        yield Found("broken", str(error))
        return
    finally:
        parser.close()
    if vba or xlm:
        yield Found("macro", "VBA" if vba else "Excel 4.0")
        auto = olevba.detect_autoexec(code[:_MAX_CODE])
        if auto or (vba and not code.strip()):
            yield Found("macro-autorun", ", ".join(word for word, _ in auto) or "code not readable")


# ---------------------------------------------------------------- RTF and XML of Office 2003

_ACTIVE_MIME = re.compile(rb"QWN0aXZlTWltZ")  # base64 of "ActiveMime", an OLE file with macros


_FIELD_OF_RTF = re.compile(rb"\\fldinst")
_CONTROL = re.compile(rb"\\[A-Za-z*]+-?\d* ?|[{}\s\"]")
_FIELD_HEAD = 400  # octets of a field that are looked at


def rtf(data: bytes) -> Iterator[Found]:
    """Look at RTF: embedded objects, those that update themselves, a template from elsewhere."""
    if b"\\*\\template" in data:
        where = data.partition(b"\\*\\template")[2][:200].split(b"}")[0]
        yield Found("external", f"template {where.decode('ascii', 'replace')}")
    for field, _ in zip(_FIELD_OF_RTF.finditer(data), range(MAX_STREAMS), strict=False):
        code = _CONTROL.sub(b"", data[field.end() : field.end() + _FIELD_HEAD]).upper()
        if code.startswith(b"DDE"):
            yield Found("dde", "RTF")
        elif code.startswith((b"INCLUDETEXTHTTP", b"INCLUDETEXTFILE:")):
            yield Found("external", "a text of RTF")
    if b"objautlink" in data or b"objupdate" in data:
        yield Found("object", "updates itself")
    if b"objdata" not in data and b"\\object" not in data:
        return
    yield Found("object", "RTF")
    if len(data) > MAX_RTF:
        yield Found("limit", "bytes")
        return
    parser = rtfobj.RtfObjParser(data)
    try:
        parser.parse()
    except (ValueError, TypeError, IndexError, AttributeError, AssertionError) as error:
        yield Found("broken", str(error))
    for item in parser.objects[:MAX_STREAMS]:
        if item.is_package:
            yield Found("", name=_decoded(item.filename), data=item.olepkgdata)
        elif item.oledata:
            yield Found("", name=_decoded(item.class_name), data=item.oledata)
        elif item.rawdata:
            yield Found("", data=item.rawdata)


def _decoded(name: object) -> str:
    return name.decode("latin-1").rstrip("\0") if isinstance(name, bytes) else str(name or "")


def saved_as_text(data: bytes) -> Iterator[Found]:
    """Look at a document saved as XML or as a web archive: macros stand in it as ActiveMime."""
    if _ACTIVE_MIME.search(data) or b"w:binData" in data or b"vbaProject.bin" in data:
        yield Found("macro", "ActiveMime")
        yield Found("macro-autorun", "code not readable")


def active_mime(data: bytes) -> Iterator[Found]:
    """Take out the compound file that Office packs so where it saves as a web archive or XML."""
    for start in (int.from_bytes(data[0x1E:0x20], "little") + 46, 0x32, 0x22A):
        try:
            plain = zlib.decompressobj(-15).decompress(data[start + 2 :], MAX_RTF + 1)
        except zlib.error:
            continue
        if len(plain) > MAX_RTF:
            yield Found("limit", "bytes")
        if plain:
            yield Found("", name="oledata", data=plain)
            return
    yield Found("broken", "ActiveMime")


# ---------------------------------------------------------------- notebooks

_NOTE_FILE = bytes.fromhex("e716e3bd65261145a4c48d4d0b7a9eac")  # [MS-ONESTORE] §2.6.13, FileDataStoreObject
_NOTE_HEAD = 36
_NOTE_KNOWN = 4_096  # octets by which a picture is known
_MEDIA = ("image/", "audio/", "video/")


def notebook(data: bytes) -> Iterator[Found]:
    """Look for files in a notebook, which a double click on a picture opens; the pictures are left out."""
    position = data.find(_NOTE_FILE)
    for _ in range(MAX_STREAMS):
        if position < 0:
            return
        start = position + _NOTE_HEAD
        length = int.from_bytes(data[position + 16 : position + 24], "little")
        if length and not magic.detect(data[start : start + min(length, _NOTE_KNOWN)]).startswith(_MEDIA):
            yield Found("object", "a file in a notebook")
            yield Found("", data=data[start : start + length])
        position = data.find(_NOTE_FILE, start)
    yield Found("limit", "files")
