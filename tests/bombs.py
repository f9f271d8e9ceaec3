# SPDX-License-Identifier: GPL-2.0-or-later
"""Archives and documents made to bring an unpacker down or to slip past it, built at run time."""

from __future__ import annotations

import bz2
import functools
import gzip
import io
import itertools
import lzma
import struct
import tarfile
import zipfile
import zlib
from email.message import EmailMessage
from typing import TYPE_CHECKING

from contrib.lab.clamd import EICAR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

RELATIONS = "application/vnd.openxmlformats-package.relationships+xml"
TYPES = '<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>'


def zipped(files: Iterable[tuple[str | zipfile.ZipInfo, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Pack files into a zip file."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method, compresslevel=9 if method == zipfile.ZIP_DEFLATED else None) as z:
        for name, data in files:
            z.writestr(name, data)
    return out.getvalue()


def tarred(members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """Pack members into a tar file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as t:
        for info, data in members:
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
    return out.getvalue()


def tar_info(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    """Describe one member."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@functools.cache
def _deflated_zeros(megabytes: int) -> tuple[bytes, int]:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    block, crc = bytes(1 << 20), 0
    pieces = []
    for _ in range(megabytes):
        pieces.append(compressor.compress(block))
        crc = zlib.crc32(block, crc)
    return b"".join((*pieces, compressor.flush())), crc


def raw_zip(
    entries: list[tuple[bytes, int, int, int, int]],
    body: bytes,
    count: int | None = None,
) -> bytes:
    """Write a zip file by hand: `entries` are (name, offset, packed, size, crc), `body` all before it."""
    directory = b"".join(
        struct.pack(
            "<4sHHHHHHIIIHHHHHII",
            b"PK\x01\x02",
            20,
            20,
            0,
            8,
            0,
            33,
            crc,
            packed,
            size,
            len(name),
            0,
            0,
            0,
            0,
            0,
            offset,
        )
        + name
        for name, offset, packed, size, crc in entries
    )
    number = (len(entries) if count is None else count) & 0xFFFF
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, number, number, len(directory), len(body), 0)
    return body + directory + end


def local(name: bytes, packed: bytes, size: int, crc: int, method: int = 8, flags: int = 0) -> bytes:
    """Write a local header with its content."""
    head = struct.pack(
        "<4sHHHHHIIIHH", b"PK\x03\x04", 20, flags, method, 0, 33, crc, len(packed), size, len(name), 0
    )
    return head + name + packed


def zip_gigabyte(declared: int | None = None) -> bytes:
    """Pack 1 GiB of zeros, declared as such or as something smaller."""
    packed, crc = _deflated_zeros(1024)
    size = 1 << 30 if declared is None else declared
    return raw_zip([(b"big", 0, len(packed), size, crc)], local(b"big", packed, size, crc))


def zip_overlapped(members: int = 1000) -> bytes:
    """Many members that share one kernel of 100 MB."""
    packed, crc = _deflated_zeros(100)
    body = local(b"kernel", packed, 100 << 20, crc)
    entries = [(b"f%d" % n, 0, len(packed), 100 << 20, crc) for n in range(members)]
    return raw_zip(entries, body)


def zip_quoted(members: int = 250) -> bytes:
    """Members that overlap by quoting the local headers of the next ones (a flat bomb without nesting)."""
    kernel, _ = _deflated_zeros(8)
    plain_size = 8 << 20
    pieces: list[bytes] = []
    entries = []
    tail = kernel
    size = plain_size
    for number in range(members, 0, -1):
        name = b"q%d" % number
        pieces.insert(
            0,
            local(name, b"", size, 0)[:14]
            + struct.pack("<III", 0, len(tail), size)
            + struct.pack("<HH", len(name), 0)
            + name,
        )
        quoted = pieces[0]
        entries.append((name, len(tail), size))
        tail = struct.pack("<BHH", 0, len(quoted), 0xFFFF ^ len(quoted)) + quoted + tail
        size += len(quoted)
    body = b"".join(pieces) + kernel
    offsets, position = {}, 0
    for piece, number in zip(pieces, range(1, members + 1), strict=True):
        offsets[b"q%d" % number] = position
        position += len(piece)
    return raw_zip([(n, offsets[n], p, s, 0) for n, p, s in entries], body)


def zip_nested(depth: int = 5, width: int = 16) -> bytes:
    """Zip files in zip files, each level so many times wider, as 42.zip."""
    packed, crc = _deflated_zeros(64)
    data = raw_zip([(b"0", 0, len(packed), 64 << 20, crc)], local(b"0", packed, 64 << 20, crc))
    for _ in range(depth):
        data = zipped([(f"{n}.zip", data) for n in range(width)])
    return data


def zip_chain(depth: int) -> bytes:
    """One zip file in another, so many times."""
    data = b"x"
    for number in range(depth):
        data = zipped([(f"{number}.zip", data)])
    return data


def zip_many(count: int = 20_000) -> bytes:
    return zipped((f"f{n}.txt", b"") for n in range(count))


def tgz_many(count: int = 50_000) -> bytes:
    return gzip.compress(tarred((tar_info(f"f{n}"), b"") for n in range(count)), 1)


def gz_bomb(times: int = 1, megabytes: int = 1024) -> bytes:
    """Zeros, compressed once or more."""
    packed, crc = _deflated_zeros(megabytes)
    size = megabytes << 20 & 0xFFFFFFFF
    data = b"\x1f\x8b\x08" + bytes(6) + b"\xff" + packed + struct.pack("<II", crc, size)
    for _ in range(times - 1):
        data = gzip.compress(data)
    return data


def bz2_bomb(megabytes: int = 60) -> bytes:
    compressor = bz2.BZ2Compressor(9)
    return b"".join(compressor.compress(bytes(1 << 20)) for _ in range(megabytes)) + compressor.flush()


def xz_bomb(megabytes: int = 90) -> bytes:
    compressor = lzma.LZMACompressor(preset=0)
    return b"".join(compressor.compress(bytes(1 << 20)) for _ in range(megabytes)) + compressor.flush()


def tar_negative() -> bytes:
    """A member whose size is negative in base 256."""
    block = bytearray(tarred([(tar_info("x"), b"")])[:512])
    block[124:136] = b"\xff" * 8 + struct.pack(">i", -512)
    return _checked(block) + bytes(1024)


def tar_sparse() -> bytes:
    """A sparse file of a terabyte."""
    info = tar_info("sparse")
    info.pax_headers = {
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
        "GNU.sparse.name": "sparse",
        "GNU.sparse.size": str(1 << 40),
        "GNU.sparse.numblocks": "1",
        "GNU.sparse.map": f"{(1 << 40) - 512},512",
    }
    return tarred([(info, bytes(512))])


def _checked(block: bytearray) -> bytes:
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def tar_escapes() -> bytes:
    return tarred(
        [
            (tar_info("../../../etc/cron.d/x"), b"x"),
            (tar_info("/etc/passwd"), b"x"),
            (tar_info("link", tarfile.SYMTYPE, "/etc"), b""),
            (tar_info("link/passwd"), b"x"),
            (tar_info("hard", tarfile.LNKTYPE, "../../etc/shadow"), b""),
            (tar_info("disk", tarfile.BLKTYPE), b""),
            (tar_info("fifo", tarfile.FIFOTYPE), b""),
            (tar_info("-rf; touch x `id`"), b"x"),
        ]
    )


def document(parts: dict[str, bytes], main: str = "word/document.xml") -> bytes:
    """An OOXML file."""
    return zipped([("[Content_Types].xml", TYPES.encode()), (main, b"<w:document/>"), *parts.items()])


def laughs() -> bytes:
    names = "abcdefghij"
    entities = "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in itertools.pairwise(names))
    text = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "lol">{entities}]><x>&j;</x>'
    return document({"word/settings.xml": text.encode()})


XXE = b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]>'


def pdf(*objects: bytes, head: bytes = b"%PDF-1.7\n") -> bytes:
    numbered = (b"%d 0 obj\n%s\nendobj\n" % (n, text) for n, text in enumerate(objects, 1))
    return head + b"".join(numbered) + b"trailer << /Root 1 0 R >>\n%%EOF\n"


def pdf_stream(content: bytes, extra: bytes = b"") -> bytes:
    packed = zlib.compress(content, 9)
    head = b"<< /Filter /FlateDecode /Length %d %s >>" % (len(packed), extra)
    return head + b"\nstream\n" + packed + b"\nendstream"


def encrypted_zip(password: bytes, plain: bytes) -> bytes:
    """Encrypt as PKZIP did (APPNOTE 6.1), which zipfile reads and does not write."""
    keys = [0x12345678, 0x23456789, 0x34567890]
    table = [_crc_step(n) for n in range(256)]

    def update(octet: int) -> None:
        keys[0] = (keys[0] >> 8) ^ table[(keys[0] ^ octet) & 255]
        keys[1] = ((keys[1] + (keys[0] & 255)) * 134775813 + 1) & 0xFFFFFFFF
        keys[2] = (keys[2] >> 8) ^ table[(keys[2] ^ (keys[1] >> 24)) & 255]

    for octet in password:
        update(octet)
    crc = zlib.crc32(plain)
    out = bytearray()
    for octet in bytes(11) + bytes((crc >> 24,)) + plain:
        key = keys[2] | 2
        out.append(octet ^ (((key * (key ^ 1)) >> 8) & 255))
        update(octet)
    packed = bytes(out)
    body = local(b"x.exe", packed, len(plain), crc, 0, 1)
    data = raw_zip([(b"x.exe", 0, len(packed), len(plain), crc)], body)
    directory = data.index(b"PK\x01\x02")
    return data[:directory] + data[directory:].replace(
        struct.pack("<HHHHHH", 20, 20, 0, 8, 0, 33), struct.pack("<HHHHHH", 20, 20, 1, 0, 0, 33)
    )


def _crc_step(number: int) -> int:
    for _ in range(8):
        number = (number >> 1) ^ (0xEDB88320 if number & 1 else 0)
    return number


HELD: dict[str, tuple[str, Callable[[], bytes]]] = {
    "1 GiB zip": ("a.zip", zip_gigabyte),
    "1 GiB zip, declared as 10 octets": ("a.zip", lambda: zip_gigabyte(10)),
    "overlapped zip, 100 GB": ("a.zip", zip_overlapped),
    "quoted overlap": ("a.zip", zip_quoted),
    "nested zip, 64 TB": ("a.zip", zip_nested),
    "20 zips in one another": ("a.zip", lambda: zip_chain(20)),
    "20,000 files": ("a.zip", zip_many),
    "50,000 files": ("a.tgz", tgz_many),
    "gzip, 1 GiB": ("a.gz", gz_bomb),
    "gzip three times": ("a.gz", lambda: gz_bomb(3)),
    "bzip2, 60 MB": ("a.bz2", bz2_bomb),
    "xz, 90 MB": ("a.xz", xz_bomb),
    "tar, negative size": ("a.tar", tar_negative),
    "tar, sparse terabyte": ("a.tar", tar_sparse),
    "tar, escapes": ("a.tar", tar_escapes),
    "zip, traversal": ("a.zip", lambda: zipped([("../../x", b"x"), ("C:\\Windows\\x", b"x")])),
    "billion laughs": ("a.docx", laughs),
    "docx with an external entity": ("a.docx", lambda: document({"word/a.xml": XXE + b"<x>&f;</x>"})),
    "svg with an external entity": (
        "a.svg",
        lambda: XXE + b'<svg xmlns="http://www.w3.org/2000/svg"><text>&f;</text></svg>',
    ),
    "PDF, inflating object stream": (
        "a.pdf",
        lambda: pdf(pdf_stream(bytes(200_000_000), b"/Type /ObjStm")),
    ),
}


def relations(kind: str, target: str) -> bytes:
    """A relationship of that type to something outside the document."""
    base = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    one = f'<Relationship Id="r" Type="{base}/{kind}" Target="{target}" TargetMode="External"/>'
    return f"<Relationships>{one}</Relationships>".encode()


# What the cases in `cases/` attach: {{base64 sample NAME}}
SAMPLES: dict[str, Callable[[], bytes]] = {
    "zip": lambda: zipped([("report.txt", b"Nothing to see.")]),
    "broken": lambda: zipped([("one.txt", b"1")]) + zipped([("two.txt", b"2")]),
    "chain": lambda: zip_chain(14),
    "scripts": lambda: zipped([("run.js", b"x"), ("menu.lnk", b"x")]),
    "classes": lambda: zipped([(n, b"x") for n in ("a.img", "b.one", "c.xlsm", "d.url", "e.html")]),
    "infected chain": lambda: zipped([("virus.com", EICAR), ("deep.zip", zip_chain(14))]),
    "infected bulk": lambda: zipped([("virus.com", EICAR), ("zeros", bytes(101_000_000))]),
    "encrypted": lambda: encrypted_zip(b"not in the message", b"secret"),
    "opened": lambda: encrypted_zip(b"sesame", b"secret"),
    "escape": lambda: zipped([("../../report.txt", b"x")]),
    "executable": lambda: zipped([("invoice.pdf.exe", b"x")]),
    "unreadable": lambda: b"\x60\xea" + bytes(60),
    "disk": lambda: bytes(32) + b"NXSB" + bytes(60),
    "streams": lambda: bz2.compress(b"Nothing here.\n") + bz2.compress(EICAR),
    "wide drawing": lambda: (
        "<svg xmlns='http://www.w3.org/2000/svg'><script>location.href=1</script></svg>".encode("utf-16")
    ),
    "lzma": lambda: zipped([("virus.txt", EICAR)], zipfile.ZIP_LZMA),
    "document": lambda: document({"word/_rels/a.xml.rels": relations("hyperlink", "https://example.net/")}),
    "linked": lambda: document({"word/_rels/a.xml.rels": relations("hyperlink", "http://192.0.2.7/login")}),
    "macro": lambda: document({"word/vbaProject.bin": b"x", "word/activeX/activeX1.bin": b"x"}),
    "autorun": lambda: document({"word/a.xml": b"<w:instrText>DDEAUTO c:/x</w:instrText>"}),
    "external": lambda: document(
        {"word/_rels/a.rels": relations("attachedTemplate", "https://example.net/")}
    ),
    "entity": laughs,
    "locked": lambda: zipped([("content.xml", b"<x/>"), ("META-INF/manifest.xml", b"<m:encryption-data/>")]),
    "launch": lambda: pdf(pdf_stream(b"<< /S /Launch /F (cmd.exe) >>", b"/Type /ObjStm")),
    "script": lambda: pdf(b"<< /S /JavaScript >>", b"<< /S /SubmitForm >>", b"<< /Type /EmbeddedFile >>"),
    "opens": lambda: pdf(b"<< /OpenAction << /S /JavaScript >> >>", b"<< /Encrypt 4 0 R >>"),
}


def mail(name: str, data: bytes, text: str = "See the attachment.") -> bytes:
    """A message with one attachment, as it comes over SMTP."""
    message = EmailMessage()
    message["From"] = "Alice <alice@example.com>"
    message["To"] = "bob@example.org"
    message["Subject"] = "A file"
    message["Date"] = "Sun, 22 Nov 2026 10:00:00 +0000"
    message["Message-ID"] = "<file@example.com>"
    message.set_content(text)
    message.add_attachment(data, maintype="application", subtype="octet-stream", filename=name)
    return message.as_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
