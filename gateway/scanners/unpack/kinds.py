# SPDX-License-Identifier: GPL-2.0-or-later
"""Which attachments are archives or documents, by content and by name.

Looks at hostile bytes for marks only. Standard library only, and cheap: this is all that ordinary
mail pays, since no child process is started where nothing here says yes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.mail.names import extensions

if TYPE_CHECKING:
    from gateway.mail.types import Attachment

TAIL = 66_000  # a zip file's end record and the longest comment
ZIP_START, ZIP_END = b"PK", b"PK\x05\x06"

ZIP, OLE, PDF, RTF = "application/zip", "application/x-ole-storage", "application/pdf", "application/rtf"
TNEF, MESSAGE, LZMA_ALONE = "application/ms-tnef", "message/rfc822", "application/x-lzma"
STREAMS = frozenset(("application/gzip", "application/x-bzip2", "application/x-xz", LZMA_ALONE))
XML = frozenset(("text/xml", "image/svg+xml"))
PROGRAMS = frozenset(("application/x-dosexec", "application/x-elf"))

# libarchive's (formats, filters) by detected type
NATIVE: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "application/x-tar": (("tar",), ()),
    "application/x-7z-compressed": (("7zip",), ()),
    "application/vnd.rar": (("rar", "rar5"), ()),
    "application/vnd.ms-cab-compressed": (("cab",), ()),
    "application/x-iso9660-image": (("iso9660",), ()),
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
    "application/x-tar",
    "application/vnd.ms-cab-compressed",
    "application/x-iso9660-image",
}
# Formats that pack files, and that nothing here can open.
UNSUPPORTED = frozenset(
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
    }
)
# What a name says, where the content tells nothing; "" is a format without marks, or not known.
EXTENSIONS = {
    "tar": "application/x-tar",
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
    "iso": "application/x-iso9660-image",
    **dict.fromkeys(("zip", "zipx", "7z", "gz", "tgz", "bz2", "tbz", "tbz2", "xz", "txz", "cab", "rpm"), ""),
    **dict.fromkeys(("arj", "ace", "zoo", "lz", "lzo", "br", "sit", "sitx", "xar", "wim", "alz", "egg"), ""),
}
_ASKED = NATIVE.keys() | STREAMS | UNSUPPORTED | XML | PROGRAMS | {OLE, PDF, RTF}
_SAVED_AS_TEXT = frozenset(("doc", "dot", "xls", "xlt", "ppt", "xml", "mht", "mhtml"))


def wanted(attachment: Attachment) -> bool:
    """Whether an attachment is to be opened: it may pack files, or be a document."""
    data = attachment.data
    if not data:
        return False
    if attachment.detected_type in _ASKED or data.startswith(ZIP_START) or ZIP_END in data[-TAIL:]:
        return True
    for name in attachment.names:
        outermost = extensions(name)[:1]
        if outermost and (outermost[0] in EXTENSIONS or outermost[0] in _SAVED_AS_TEXT):
            return True
    return False
