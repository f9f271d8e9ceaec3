# SPDX-License-Identifier: GPL-2.0-or-later
"""Which attachments are archives or documents, by content and by name.

Looks at hostile bytes for marks only. Standard library only, and cheap: this is all that ordinary
mail pays, since no child process is started where nothing here says yes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.mail.names import extensions
from gateway.scanners.unpack import disks

if TYPE_CHECKING:
    from gateway.mail.types import Attachment

TAIL = 66_000  # a zip file's end record and the longest comment
ZIP_START, ZIP_END = b"PK", b"PK\x05\x06"

ZIP, OLE, PDF, RTF = "application/zip", "application/x-ole-storage", "application/pdf", "application/rtf"
TAR, ISO, UDF = "application/x-tar", "application/x-iso9660-image", "application/x-udf-image"
NOTEBOOK, MSO = "application/onenote", "application/x-mso"
TNEF, MESSAGE, LZMA_ALONE = "application/ms-tnef", "message/rfc822", "application/x-lzma"
STREAMS = frozenset(("application/gzip", "application/x-bzip2", "application/x-xz", LZMA_ALONE))
XML = frozenset(("text/xml", "image/svg+xml"))
PROGRAMS = frozenset(("application/x-dosexec", "application/x-elf"))

# libarchive's (formats, filters) by detected type
NATIVE: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    TAR: (("tar",), ()),
    "application/x-7z-compressed": (("7zip",), ()),
    "application/vnd.rar": (("rar", "rar5"), ()),
    "application/vnd.ms-cab-compressed": (("cab",), ()),
    ISO: (("iso9660",), ()),
    "application/x-cpio": (("cpio",), ()),
    "application/x-lha": (("lha",), ()),
    "application/x-archive": (("ar",), ()),
    "application/x-rpm": (("cpio",), ("rpm", "gzip", "bzip2", "xz", "zstd", "lzma")),
    "application/x-compress": (("raw",), ("compress",)),
    "application/x-lz4": (("raw",), ("lz4",)),
    "application/zstd": (("raw",), ("zstd",)),
    "application/x-lzip": (("raw",), ("lzip",)),
}
# What clamd's own unpacker does not know, or not well: what stands in these is handed to it.
UNSEEN = frozenset(NATIVE) - {
    TAR,
    "application/vnd.ms-cab-compressed",
    ISO,
}
# Formats that pack files, and that nothing here can open.
UNSUPPORTED = disks.ALL | frozenset(
    {
        "application/x-arj",
        "application/x-zoo",
        "application/x-ace",
        "application/x-stuffit",
        "application/x-installshield",
        "application/x-xar",
        "application/x-ms-wim",
        "application/x-vhdx",
        "application/x-vhd",
        "application/x-qemu-disk",
        "application/x-vmdk",
        "application/x-squashfs",
        "application/x-cramfs",
        "application/x-romfs",
        "application/x-lzop",
        "application/x-lrzip",
        "application/x-rzip",
        "application/x-zpaq",
        "application/x-alz",
        "application/x-egg",
        UDF,
    }
)
PACKED = STREAMS | NATIVE.keys() | UNSUPPORTED | {OLE, TNEF, MESSAGE}
# What a name says, where the content tells nothing; "" is a format without marks, or not known.
EXTENSIONS = {
    "tar": TAR,
    "lzh": "application/x-lha",
    "lha": "application/x-lha",
    "lzma": LZMA_ALONE,
    "tlz": LZMA_ALONE,
    "lz4": "application/x-lz4",
    "zst": "application/zstd",
    "tzst": "application/zstd",
    "z": "application/x-compress",
    "rar": "application/vnd.rar",
    "cpio": "application/x-cpio",
    "iso": ISO,
    **dict.fromkeys(("zip", "zipx", "7z", "gz", "tgz", "bz2", "tbz", "tbz2", "xz", "txz", "cab", "rpm"), ""),
    **dict.fromkeys(("arj", "ace", "zoo", "lz", "lzo", "br", "sit", "sitx", "xar", "wim", "alz", "egg"), ""),
    **dict.fromkeys(("arc", "lrz", "rz", "zpaq", "pea", "sea", "cpt", "uha", "sqsh", "cramfs"), ""),
    # Images without a mark that is known: what mounts them sees more than is seen here.
    **dict.fromkeys(("dmg", "sparseimage", "vdi", "vhd", "vhdx", "vmdk", "qcow2"), ""),
}
# What is opened as a zip file by its name, whatever stands before that.
ZIP_NAMES = frozenset(
    ("zip", "zipx", "jar", "war", "apk", "xpi", "epub", "kmz", "docx", "xlsx", "pptx", "docm", "xlsm", "odt")
)
_TAR_AT, _ISO_AT, _SECTOR = 257, 32_768, 2_048
_ASKED = NATIVE.keys() | STREAMS | UNSUPPORTED | XML | PROGRAMS | {OLE, PDF, RTF, NOTEBOOK, MSO}
# What Office opens by its name, a web archive among them, whatever stands before that.
SAVED_AS_TEXT = frozenset(("doc", "dot", "xls", "xlt", "ppt", "pps", "xml", "mht", "mhtml"))


def beneath(data: bytes) -> tuple[str, ...]:
    """What a file is by marks further in, whatever its first octets say: those are a name, or free, there."""
    found = []
    if data.startswith(b"ustar", _TAR_AT):
        found.append(TAR)
    if len(data) > _ISO_AT:
        # The volume descriptors of ISO 9660, and those of UDF (ECMA-167, part 2), whose files may be others.
        marks = {data[at + 1 : at + 6] for at in range(_ISO_AT, _ISO_AT + 16 * _SECTOR, _SECTOR)}
        if b"CD001" in marks:
            found.append(ISO)
        if marks & {b"NSR02", b"NSR03"}:
            found.append(UDF)
    return (*found, *disks.kinds(data, optical=ISO in found or UDF in found))


def wanted(attachment: Attachment) -> bool:
    """Whether an attachment is to be opened: it may pack files, or be a document."""
    data = attachment.data
    if not data:
        return False
    if attachment.detected_type in _ASKED or data.startswith(ZIP_START) or ZIP_END in data[-TAIL:]:
        return True
    if beneath(data):
        return True
    for name in attachment.names:
        outermost = extensions(name)[:1]
        if outermost and (outermost[0] in EXTENSIONS or outermost[0] in SAVED_AS_TEXT):
            return True
    return False
