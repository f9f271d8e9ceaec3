# SPDX-License-Identifier: GPL-2.0-or-later
"""What a file is by its content: the types that a mail policy cares about.

Reads hostile bytes, at most the first kilobytes of them; no library, no file. libmagic knows
thousands of types and has had its own holes; these are the ones that mail clients open, run or
unpack. "" means that the content tells nothing.
"""

from __future__ import annotations

import re

_HEAD = 4_096

# By first octets; the longer prefix stands first.
_PREFIXES: tuple[tuple[bytes, str], ...] = (
    (b"MZ", "application/x-dosexec"),
    (b"\x7fELF", "application/x-elf"),
    (b"\xca\xfe\xba\xbe", "application/java-vm"),
    (b"\xfe\xed\xfa\xce", "application/x-mach-binary"),
    (b"\xfe\xed\xfa\xcf", "application/x-mach-binary"),
    (b"\xce\xfa\xed\xfe", "application/x-mach-binary"),
    (b"\xcf\xfa\xed\xfe", "application/x-mach-binary"),
    (b"dex\n", "application/x-dex"),
    (b"#!", "text/x-script"),
    (b"L\0\0\0\x01\x14\x02\0\0\0\0\0\xc0\0\0\0\0\0\0F", "application/x-ms-shortcut"),
    (b"[InternetShortcut]", "application/x-mswinurl"),
    (b"ITSF", "application/vnd.ms-htmlhelp"),
    (b"\xe4\x52\x5c\x7b\x8c\xd8\xa7\x4d\xae\xb1\x53\x78\xd0\x29\x96\xd3", "application/onenote"),
    (b"PK\x03\x04", "application/zip"),
    (b"PK\x05\x06", "application/zip"),
    (b"PK\x07\x08", "application/zip"),
    (b"PK00PK", "application/zip"),
    (b"Rar!\x1a\x07", "application/vnd.rar"),
    (b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (b"\x1f\x8b", "application/gzip"),
    (b"BZh", "application/x-bzip2"),
    (b"\xfd7zXZ\0", "application/x-xz"),
    (b"\x28\xb5\x2f\xfd", "application/zstd"),
    (b"\x04\x22\x4d\x18", "application/x-lz4"),
    (b"\x02\x21\x4c\x18", "application/x-lz4"),
    (b"\x89LZO\0\r\n\x1a\n", "application/x-lzop"),
    (b"LRZI", "application/x-lrzip"),
    (b"RZIP", "application/x-rzip"),
    (b"zPQ", "application/x-zpaq"),
    (b"7kSt", "application/x-zpaq"),
    (b"ALZ\x01", "application/x-alz"),
    (b"EGGA", "application/x-egg"),
    (b"LZIP", "application/x-lzip"),
    (b"\x1f\x9d", "application/x-compress"),
    (b"]\0\0\x80\0", "application/x-lzma"),
    (b"]\0\0\0\x01", "application/x-lzma"),
    (b"MSCF", "application/vnd.ms-cab-compressed"),
    (b"ISc(", "application/x-installshield"),
    (b"\x60\xea", "application/x-arj"),
    (b"ZOO ", "application/x-zoo"),
    (b"**ACE**", "application/x-ace"),
    (b"SIT!", "application/x-stuffit"),
    (b"StuffIt", "application/x-stuffit"),
    (b"070701", "application/x-cpio"),
    (b"070702", "application/x-cpio"),
    (b"070707", "application/x-cpio"),
    (b"\xc7\x71", "application/x-cpio"),
    (b"!<arch>\n", "application/x-archive"),
    (b"\xed\xab\xee\xdb", "application/x-rpm"),
    (b"xar!", "application/x-xar"),
    (b"MSWIM\0\0\0", "application/x-ms-wim"),
    (b"vhdxfile", "application/x-vhdx"),
    (b"conectix", "application/x-vhd"),
    (b"QFI\xfb", "application/x-qemu-disk"),
    (b"KDMV", "application/x-vmdk"),
    (b"hsqs", "application/x-squashfs"),
    (b"sqsh", "application/x-squashfs"),
    (b"\x45\x3d\xcd\x28", "application/x-cramfs"),
    (b"\x28\xcd\x3d\x45", "application/x-cramfs"),
    (b"-rom1fs-", "application/x-romfs"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "application/x-ole-storage"),
    (b"{\\rt", "application/rtf"),
    (b"ActiveMime", "application/x-mso"),
    (b"ID;P", "application/x-sylk"),
    (b"%PDF-", "application/pdf"),
    (b"%!PS", "application/postscript"),
    (b"\xc5\xd0\xd3\xc6", "application/postscript"),
    (b"\x78\x9f\x3e\x22", "application/ms-tnef"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"\0\0\x01\0", "image/x-icon"),
    (b"\xd7\xcd\xc6\x9a", "image/wmf"),
    (b"FWS", "application/x-shockwave-flash"),
    (b"CWS", "application/x-shockwave-flash"),
    (b"ZWS", "application/x-shockwave-flash"),
    (b"ID3", "audio/mpeg"),
    (b"OggS", "audio/ogg"),
    (b"fLaC", "audio/flac"),
    (b"\x1aE\xdf\xa3", "video/x-matroska"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "video/x-ms-asf"),
    (b"SQLite format 3\0", "application/vnd.sqlite3"),
    (b"\0\x01\0\0Standard", "application/x-msaccess"),
    (b"-----BEGIN PGP MESSAGE", "application/pgp-encrypted"),
    (b"-----BEGIN PGP SIGNATURE", "application/pgp-signature"),
    (b"begin:vcard", "text/vcard"),
    (b"BEGIN:VCARD", "text/vcard"),
    (b"BEGIN:VCALENDAR", "text/calendar"),
)
_BY_FIRST: dict[int, list[tuple[bytes, str]]] = {}
for _prefix, _type in _PREFIXES:
    _BY_FIRST.setdefault(_prefix[0], []).append((_prefix, _type))
_AT: tuple[tuple[int, bytes, str], ...] = (
    (257, b"ustar", "application/x-tar"),
    (2, b"-lh", "application/x-lha"),
    (7, b"**ACE**", "application/x-ace"),
    (4, b"ftyp", "video/mp4"),
    (4, b"Standard Jet DB", "application/x-msaccess"),
    (4, b"Standard ACE DB", "application/x-msaccess"),
    (8, b"WEBP", "image/webp"),
    (8, b"WAVE", "audio/x-wav"),
    (8, b"AVI ", "video/x-msvideo"),
    (40, b" EMF", "image/emf"),
    (6, b"\0\0\0\0", "image/bmp"),
    (65, b"BinHex 4", "application/mac-binhex40"),
)
_MARKUP = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*+(?:<!--(?:[^-]|-(?!->)){0,2000}-->\s*+|<\?xml[^>]{0,200}>\s*+|<!DOCTYPE\s++)*+"
    rb"<?(svg|html|head|body|script|title|meta|table|iframe|job|package|hta:|component|div|form|img|a)[\s>:/]",
    re.IGNORECASE,
)
_SCRIPT = re.compile(
    rb"\A\s*+(?:@echo\b|powershell\b|WScript\.|On Error Resume|Set \w+ ?= ?CreateObject)", re.IGNORECASE
)
_MESSAGE = re.compile(
    rb"(?:>?From [^\n]{1,200}\n)?(?:[!-9;-~]{1,60}: [^\n]*+\n(?:[ \t][^\n]*+\n)*+){0,20}?"
    rb"(?:Received|Return-Path|MIME-Version|Message-ID|Delivered-To|Content-Type): [^\n]*+\n"
    rb"(?:[ \t][^\n]*+\n)*+[!-9;-~]{1,60}:",
    re.IGNORECASE,
)
_SVG = re.compile(rb"<svg[\s>]", re.IGNORECASE)
_MACRO_ZIP = (
    (b"word/", "wordprocessingml.document"),
    (b"xl/", "spreadsheetml.sheet"),
    (b"ppt/", "presentationml.presentation"),
)
_OFFICE = "application/vnd.openxmlformats-officedocument."
_ISO_AT = 32_769
_WIDE = (b"\xff\xfe", b"\xfe\xff", b"<\0", b"\0<")  # how markup in UTF-16 starts


# ClamAV takes for a message what starts so, and looks for other types first.
_MESSAGE_STARTS = (
    b"Received: ",
    b"Return-Path: ",
    b"From: ",
    b"To: ",
    b"Subject: ",
    b"Date: ",
    b"Message-ID: ",
    b"Message-Id: ",
    b"Delivered-To: ",
    b"Received-SPF: ",
)


def starts_message(data: bytes, start: int = 0) -> bool:
    """Whether every scanner knows by its first field that a message stands at `start`."""
    return data.startswith(_MESSAGE_STARTS, start)


def detect(data: bytes) -> str:
    """Name the type/subtype of `data` by its content, "" if that tells nothing."""
    if not data:
        return ""
    head = data[:_HEAD]
    for prefix, kind in _BY_FIRST.get(head[0], ()):
        if head.startswith(prefix):
            return _zip_kind(data, head) if kind == "application/zip" else kind
    for offset, mark, kind in _AT:
        if head.startswith(mark, offset) and (kind != "image/bmp" or head.startswith(b"BM")):
            return kind
    if data.startswith(b"CD001", _ISO_AT):
        return "application/x-iso9660-image"
    if data.startswith(b"BEA01", _ISO_AT):
        return "application/x-udf-image"
    if b"<" in head[:1024]:
        wide = head[:2] in _WIDE
        found = _MARKUP.match(head.translate(None, b"\0\xff\xfe") if wide else head)
        if found:
            word = found[1].lower()
            plain = found.string
            if word == b"svg" or (word not in (b"html", b"script") and _SVG.search(plain[:1024])):
                return "image/svg+xml"
            return {b"job": "text/x-wsf", b"package": "text/x-wsf", b"component": "text/x-sct"}.get(
                word, "text/html"
            )
        if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<?xml"):
            return "text/xml"
    if _SCRIPT.match(head):
        return "text/x-script"
    if b":" in head[:80] and _MESSAGE.match(head):
        return "message/rfc822"
    return _embedded(data, head)


def _zip_kind(data: bytes, head: bytes) -> str:
    """Tell Office documents and Java archives from other zip files by the names in them."""
    names = head if len(data) <= _HEAD else head + data[-_HEAD:]
    if b"[Content_Types].xml" in names or b"word/" in names or b"xl/" in names or b"ppt/" in names:
        for folder, kind in _MACRO_ZIP:
            if folder in names:
                return _OFFICE + kind
    if b"META-INF/MANIFEST.MF" in names:
        return "application/java-archive"
    if head.startswith(b"mimetype", 30):
        return head[38:100].split(b"PK")[0].decode("ascii", "replace")[:60]
    return "application/zip"


def _embedded(data: bytes, head: bytes) -> str:
    """Recognise what readers accept behind some other octets."""
    if b"%PDF-" in head[:1024]:
        return "application/pdf"
    tail = data[-66_000:] if len(data) > 66_000 else data
    if b"PK\x05\x06" in tail:
        return "application/zip"
    return ""
