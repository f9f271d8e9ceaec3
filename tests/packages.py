# SPDX-License-Identifier: GPL-2.0-or-later
"""A test virus in archives that programs read differently, or that are not what they seem: `packages`.

All are made at run time, by hand where a library would refuse. What any program may unpack must be found
by the virus scanner, or be told as damaged, ambiguous, encrypted, or not understood.
"""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib

from contrib.lab.clamd import EICAR
from tests import bombs
from tests.bombs import local, tar_info, tarred, zipped

NAME, CRC = b"eicar.com", zlib.crc32(EICAR)
ZIP = zipped([("eicar.com", EICAR)])
PLAIN = zipped([("a.txt", b"hello")])
GZIP, BZIP2, XZ = gzip.compress(EICAR), bz2.compress(EICAR), lzma.compress(EICAR)
TAR = tarred([(tar_info("eicar.com"), EICAR)])
_deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
PACKED = _deflate.compress(EICAR) + _deflate.flush()
SIZE, LENGTH = len(EICAR), len(PACKED)


def entry(
    *,
    name: bytes = NAME,
    packed: int = LENGTH,
    size: int = SIZE,
    crc: int = CRC,
    method: int = 8,
    flags: int = 0,
    extra: bytes = b"",
    disk: int = 0,
    version: int = 20,
    attributes: int = 0,
    offset: int = 0,
) -> bytes:
    """An entry of a central directory (APPNOTE 4.3.12)."""
    head = struct.pack(
        "<4sHHHHHHIIIHHHHHII",
        b"PK\x01\x02",
        version,
        20,
        flags,
        method,
        0,
        33,
        crc,
        packed,
        size,
        len(name),
        len(extra),
        0,
        disk,
        0,
        attributes,
        offset,
    )
    return head + name + extra


def end(count: int, size: int, offset: int, comment: bytes = b"", disk: int = 0) -> bytes:
    """An end record (4.3.16)."""
    return (
        struct.pack("<4sHHHHIIH", b"PK\x05\x06", disk, disk, count, count, size, offset, len(comment))
        + comment
    )


def joined(body: bytes, directory: bytes, comment: bytes = b"") -> bytes:
    return body + directory + end(1, len(directory), len(body), comment)


BODY = local(NAME, PACKED, SIZE, CRC)
GOOD = joined(BODY, entry())
STREAMED = local(NAME, b"", 0, 0, 8, 8) + PACKED
DESCRIPTOR = struct.pack("<4sIII", b"PK\x07\x08", CRC, LENGTH, SIZE)
WIDE = struct.pack("<HHQQQ", 1, 24, SIZE, LENGTH, 0)
NEVER = 0xFFFFFFFF


def packages() -> dict[str, bytes]:
    """The archives, by the name of the file and what is odd about it: "a.zip: two directories"."""
    return _behind() | _zips() | _flags() | _streams() | _tars() | _others()


def _behind() -> dict[str, bytes]:
    """A zip file behind what looks like something else, and before more than a comment."""
    starts = {
        "GIF": b"GIF89a" + bytes(60),
        "a program": b"MZ" + bytes(600),
        "PDF": b"%PDF-1.4\n" + bytes(60),
        "PNG": b"\x89PNG\r\n\x1a\n" + bytes(60),
        "JPEG": b"\xff\xd8\xff\xe0" + bytes(60),
        "rar": b"Rar!\x1a\x07\0" + bytes(60),
        "7z": b"7z\xbc\xaf\x27\x1c" + bytes(60),
        "gzip": gzip.compress(b"x"),
        "tar": tarred([(tar_info("x"), b"x")]),
        "text": b"Dear Bob,\n" * 50,
        "another zip": PLAIN,
    }
    made = {f"a.zip: behind {name}": start + GOOD for name, start in starts.items()}
    for name, tail in {
        "70,000 NUL": bytes(70_000),
        "200,000 letters": b"A" * 200_000,
        "text": b"more" * 20,
        "another zip": PLAIN,
    }.items():
        made[f"a.zip: before {name}"] = GOOD + tail
    return made


def _zips() -> dict[str, bytes]:
    """Directories, headers and names that do not fit."""
    directory = entry()
    wide = entry(packed=NEVER, size=NEVER, offset=NEVER, extra=WIDE)
    record = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, len(directory), len(BODY))
    zip64 = BODY + directory + record + struct.pack("<4sIQI", b"PK\x06\x07", 0, len(BODY) + len(directory), 1)
    first = local(b"a.txt", b"hi", 2, zlib.crc32(b"hi"), 0)
    listed = entry(name=b"a.txt", packed=2, size=2, crc=zlib.crc32(b"hi"), method=0)
    made = {
        "no end record": BODY + directory,
        "no directory": BODY,
        "half an end record": GOOD[:-4],
        "a comment that is not there": GOOD[:-2] + b"\xff\xff",
        "an end record in the comment": joined(BODY, directory, b"PK\x05\x06" + bytes(18)),
        "half an end record in the comment": joined(BODY, directory, b"xxPK\x05\x06"),
        "empty directory": BODY + end(0, 0, len(BODY)),
        "a member that is not listed": first + BODY + listed + end(1, len(listed), len(first) + len(BODY)),
        "another name in the directory": joined(BODY, entry(name=b"readme.txt")),
        "another name in the header": joined(local(b"readme.txt", PACKED, SIZE, CRC), directory),
        "no name": joined(local(b"", PACKED, SIZE, CRC), entry(name=b"")),
        "a folder's name": joined(local(NAME + b"/", PACKED, SIZE, CRC), entry(name=NAME + b"/")),
        "a long name": joined(local(b"a" * 60_000, PACKED, SIZE, CRC), entry(name=b"a" * 60_000)),
        "NUL in the name": joined(local(b"a\0" + NAME, PACKED, SIZE, CRC), entry(name=b"a\0" + NAME)),
        "a folder's attributes": joined(BODY, entry(attributes=0x10)),
        "another disk": BODY + entry(disk=1) + end(1, len(directory), len(BODY), disk=1),
        "a later version": joined(BODY, entry(version=99)),
        "a spanned archive's mark": b"PK00PK" + GOOD,
        "no size in the directory": joined(BODY, entry(packed=0, size=0)),
        "no size at all": joined(local(NAME, b"", 0, CRC) + PACKED, entry(packed=0, size=0)),
        "a size too large": joined(local(NAME, PACKED, 10**9, CRC), entry(size=10**9)),
        "a size too small": joined(local(NAME, PACKED, 3, CRC), entry(size=3)),
        "more packed than there is": joined(BODY, entry(packed=10**9)),
        "a wrong checksum": joined(local(NAME, PACKED, SIZE, 1), entry(crc=1)),
        "stored, says the directory": joined(BODY, entry(method=0)),
        "stored, says the header": joined(local(NAME, PACKED, SIZE, CRC, 0), directory),
        "streamed": joined(STREAMED + DESCRIPTOR, entry(flags=8)),
        "streamed, without a mark": joined(STREAMED + DESCRIPTOR[4:], entry(flags=8)),
        "streamed, and no directory": STREAMED + DESCRIPTOR,
        "streamed, with another size": joined(STREAMED + DESCRIPTOR[:4] + bytes(12), entry(flags=8)),
        "zip64": joined(BODY, wide),
        "zip64, end record": zip64 + end(0xFFFF, NEVER, NEVER),
        "zip64, end record of nothing": zip64 + end(0, 0, 0),
        "in stored zips": zipped([("a.zip", zipped([("b.zip", ZIP)], 0))], zipfile.ZIP_STORED),
        "bzip2": zipped([("eicar.com", EICAR)], zipfile.ZIP_BZIP2),
        "lzma": zipped([("eicar.com", EICAR)], zipfile.ZIP_LZMA),
    }
    for method in (6, 9, 93, 95, 98, 99, 0x808):
        made[f"method {method}"] = joined(local(NAME, PACKED, SIZE, CRC, method), entry(method=method))
    return {f"a.zip: {name}": data for name, data in made.items()}


def _flags() -> dict[str, bytes]:
    """Flags that say encrypted, patched or streamed, and lie."""
    made = {}
    for flags in (0x01, 0x08, 0x20, 0x40, 0x41, 0x2000):
        head = local(NAME, PACKED, SIZE, CRC, 8, flags)
        made[f"a.zip: flags {flags:x}"] = joined(head, entry(flags=flags))
        made[f"a.zip: flags {flags:x} in the directory"] = joined(BODY, entry(flags=flags))
        made[f"a.zip: flags {flags:x} in the header"] = joined(head, entry())
    return made


def _streams() -> dict[str, bytes]:
    hello = gzip.compress(b"hello")
    return {
        "a.gz: plain": GZIP,
        "a.gz: a picture's name in it": GZIP[:3]
        + b"\x1c"
        + GZIP[4:10]
        + b"\2\0xxa.png\0comment\0"
        + GZIP[10:],
        "a.gz: in two streams": gzip.compress(EICAR[:30]) + gzip.compress(EICAR[30:]),
        "a.gz: behind a stream and junk": hello + b"junk" + GZIP,
        "a.gz: before junk": GZIP + b"junk",
        "a.gz: wrong checksum": GZIP[:-8] + bytes(8),
        "a.gz: cut off": GZIP[:-8],
        "a.gz: reserved flags": GZIP[:3] + b"\xe0" + GZIP[4:],
        "a.gz: another method": GZIP[:2] + b"\x07" + GZIP[3:],
        "a.gz: three times": gzip.compress(gzip.compress(GZIP)),
        "a.txt: gzip": GZIP,
        "a.bz2: plain": BZIP2,
        "a.bz2: cut off": BZIP2[:-4],
        "a.xz: plain": XZ,
        "a.xz: cut off": XZ[:-10],
        "a.lzma: plain": lzma.compress(EICAR, lzma.FORMAT_ALONE),
        "a.bin: lzma": lzma.compress(EICAR, lzma.FORMAT_ALONE),
        "a.tgz: in two streams": gzip.compress(TAR[:600]) + gzip.compress(TAR[600:]),
        "a.tgz: behind another tar": hello[:0] + gzip.compress(tarred([(tar_info("a"), b"x")]) + TAR),
    }


def _tars() -> dict[str, bytes]:
    made = {
        "plain": TAR,
        "a second tar behind the end": tarred([(tar_info("a"), b"x")]) + TAR,
        "no end": TAR[:1024],
        "cut off": TAR[:560],
        "behind a block": b"x" * 512 + TAR,
        "behind the end": bytes(1024) + TAR,
        "wrong checksum": TAR[:148] + b"0000000\0" + TAR[156:],
        "a member like a picture": tarred([(tar_info("GIF89a.gif"), b"x"), (tar_info("eicar.com"), EICAR)]),
    }
    for name, records in {
        "another path": {"path": "eicar.com"},
        "another size": {"size": "5"},
        "no size": {"size": "0"},
        "another charset": {"hdrcharset": "BINARY", "path": "eicar.com"},
    }.items():
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            info = tar_info("readme.txt")
            info.size, info.pax_headers = SIZE, records
            tar.addfile(info, io.BytesIO(EICAR))
        made[f"pax, {name}"] = out.getvalue()
    for kind in "012347AGLSVXx":
        info = tar_info("eicar.com", kind.encode())
        info.size = SIZE
        made[f"type {kind}"] = info.tobuf(tarfile.USTAR_FORMAT) + EICAR.ljust(512, b"\0") + bytes(1024)
    return {f"a.tar: {name}": data for name, data in made.items()}


def _others() -> dict[str, bytes]:
    """Mail, Outlook's TNEF, and objects in documents."""
    return {
        "a.eml: plain": bombs.mail("eicar.com", EICAR),
        "a.zip: mail": zipped([("a.eml", bombs.mail("eicar.com", EICAR))]),
        "winmail.dat: plain": tnef(b"eicar.com", EICAR),
        "a.gpg: signed or packed": openpgp(b"eicar.com", EICAR),
        "a.asc: in armor": armored(openpgp(b"eicar.com", EICAR)),
        "a.asc: mail in armor": armored(openpgp(b"", ENTITY)),
        "a.zip: OpenPGP": zipped([("a.gpg", openpgp(b"eicar.com", EICAR))]),
        "smime.p7m: packed": packed_cms(ENTITY),
        "a.zip: S/MIME": zipped([("smime.p7m", packed_cms(ENTITY))]),
        "a.zip: mail by name": zipped([("a.eml", b"X-A: b\r\n" * 25 + ENTITY)]),
        "a.doc: a web archive behind PDF": b"%PDF-1.7\n1 0 obj\n<<>>\n" + b"MIME-Version: 1.0\r\n" + ENTITY,
        "a.mso: ActiveMime": b"ActiveMime" + bytes(40) + zlib.compress(EICAR),
        "a.zip: TNEF": zipped([("winmail.dat", tnef(b"a.zip", ZIP))]),
        "a.rtf: an object": b"{\\rtf1 {\\object\\objemb{\\*\\objdata " + EICAR.hex().encode() + b"}}}",
        "a.docx: an object": bombs.document({"word/embeddings/oleObject1.bin": EICAR}),
        "a.docx: a picture": bombs.document({"word/media/image1.png": EICAR}),
        "a.pdf: a file": bombs.pdf(bombs.pdf_stream(EICAR, b"/Type /EmbeddedFile")),
    }


ENTITY = (
    b"Content-Type: application/x; name=a\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    + base64.encodebytes(EICAR).replace(b"\n", b"\r\n")
)


def openpgp(name: bytes, data: bytes, algorithm: int = 1) -> bytes:
    """A file in a literal packet (RFC 9580 §5.9), compressed (§5.6)."""
    body = b"b" + bytes((len(name),)) + name + bytes(4) + data
    literal = b"\xcb\xff" + struct.pack(">I", len(body)) + body
    if algorithm == 3:
        packed = bz2.compress(literal)
    else:
        packing = zlib.compressobj(9, zlib.DEFLATED, -15 if algorithm == 1 else 15)
        packed = packing.compress(literal) + packing.flush()
    return b"\xa3" + bytes((algorithm,)) + packed  # of the old format, to the end


def armored(data: bytes) -> bytes:
    """An OpenPGP message in armor (§6.2), the checksum left out."""
    text = base64.encodebytes(data).replace(b"\n", b"\r\n")
    return b"-----BEGIN PGP MESSAGE-----\r\nComment: x\r\n\r\n" + text + b"-----END PGP MESSAGE-----\r\n"


def packed_cms(data: bytes) -> bytes:
    """CMS compressed data (RFC 3274), of indefinite length."""
    head = "3080 060b2a864886f70d0109100109 a080 3080 020100 300d 060b2a864886f70d0109100308"
    packed = zlib.compress(data)
    octets = b"\x04\x84" + struct.pack(">I", len(packed)) + packed
    return bytes.fromhex(head + "3080 06092a864886f70d010701 a080") + octets + bytes(10)


def tnef(name: bytes, data: bytes) -> bytes:
    """One attachment in a TNEF stream."""

    def attribute(level: int, number: int, value: bytes) -> bytes:
        head = struct.pack("<BII", level, number, len(value))
        return head + value + struct.pack("<H", sum(value) & 0xFFFF)

    return (
        b"\x78\x9f\x3e\x22\1\0"
        + attribute(1, 0x00089006, b"\0\0\1\0")
        + attribute(2, 0x00069002, bytes(14))
        + attribute(2, 0x00018010, name + b"\0")
        + attribute(2, 0x0006800F, data)
    )
