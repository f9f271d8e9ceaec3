# SPDX-License-Identifier: GPL-2.0-or-later
"""The walk through archives and documents, in this process: what is seen, and what stops it.

What crashes native code or takes its time is asked of a child, in test_unpack_pool.py.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from typing import TYPE_CHECKING

import msgspec
import pytest

from contrib.lab.clamd import EICAR
from gateway.mail.magic import detect
from gateway.mail.mime import parse
from gateway.mail.reasons import FINDINGS
from gateway.mail.types import Evidence, Finding, Member, Unpacked
from gateway.policy import unpacked as policy
from gateway.policy.signals import NAMES
from gateway.scanners.unpack import kinds, streams
from gateway.scanners.unpack.budget import Broken, Limits
from gateway.scanners.unpack.pool import passwords
from gateway.scanners.unpack.walk import Walker
from tests import bombs
from tests.bombs import document, encrypted_zip, local, pdf, pdf_stream, raw_zip, tar_info, tarred, zipped

if TYPE_CHECKING:
    from collections.abc import Callable

USUAL = Limits()
OLE_MARK = bytes.fromhex("d0cf11e0a1b11ae1")


def opened(
    data: bytes, name: str = "a.bin", limits: Limits = USUAL, words: tuple[str, ...] = ()
) -> tuple[Unpacked, list[bytes]]:
    walker = Walker(limits, words)
    result = walker.walk([(0, name, data)])
    assert {f.kind for f in result.findings} <= FINDINGS.keys()
    return result, list(walker.parts)


def kinds_of(data: bytes, name: str = "a.bin", limits: Limits = USUAL) -> list[str]:
    return [f.kind for f in opened(data, name, limits)[0].findings]


def names_of(data: bytes, name: str = "a.bin") -> list[str]:
    return [m.name for m in opened(data, name)[0].members]


# ---------------------------------------------------------------- ordinary archives

FILES = [("one.txt", b"one"), ("two/three.txt", b"three" * 1000)]
TAR = tarred((tar_info(name), data) for name, data in FILES)
GOOD = {
    "zip": zipped(FILES),
    "stored zip": zipped(FILES, zipfile.ZIP_STORED),
    "bzip2 zip": zipped(FILES, zipfile.ZIP_BZIP2),
    "lzma zip": zipped(FILES, zipfile.ZIP_LZMA),
    "zip behind other octets": b"x" * 5000 + zipped(FILES),
    "zip with a comment": zipped(FILES)[:-2] + b"\x07\0comment",
    "tar": TAR,
    "tar.gz": gzip.compress(TAR),
    "tar.bz2": bz2.compress(TAR),
    "tar.xz": lzma.compress(TAR),
    "tar.lzma": lzma.compress(TAR, lzma.FORMAT_ALONE),
    "tar.gz in two members": gzip.compress(TAR[:2000]) + gzip.compress(TAR[2000:]),
}


@pytest.mark.parametrize("kind", GOOD)
def test_members(kind: str) -> None:
    result, _ = opened(GOOD[kind], f"a.{kind}" if kind.startswith("tar") else "a.zip")
    assert [(m.name, m.size) for m in result.members][-2:] == [("one.txt", 3), ("two/three.txt", 5000)]
    assert result.findings == ()


def test_nested_members_are_named_once_with_their_depth() -> None:
    inner = gzip.compress(tarred([(tar_info("x.exe"), b"MZ" + bytes(100))]))
    result, _ = opened(zipped([("a.tgz", inner)]))
    assert [(m.name, m.depth, m.detected_type) for m in result.members] == [
        ("a.tgz", 1, "application/gzip"),
        ("a.tar", 2, "application/x-tar"),
        ("x.exe", 3, "application/x-dosexec"),
    ]


def test_mail_in_an_archive_is_read() -> None:
    result, parts = opened(zipped([("m.eml", bombs.mail("x.exe", b"MZ" + bytes(100)))]))
    assert [m.name for m in result.members] == ["m.eml", "x.exe"]
    assert parts == []


def test_streamed_zip() -> None:
    """Sizes stand behind the content, in a data descriptor (APPNOTE 4.3.9)."""

    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.data = b""

        def writable(self) -> bool:
            return True

        def write(self, data: object) -> int:
            self.data += bytes(data)  # type: ignore[call-overload]  # a buffer
            return len(bytes(data))  # type: ignore[call-overload]  # likewise

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in FILES:
            archive.writestr(name, data)
    assert names_of(pipe.data) == ["one.txt", "two/three.txt"]
    assert kinds_of(pipe.data) == []


def test_zip64() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive, archive.open("big.txt", "w", force_zip64=True) as member:
        member.write(b"x" * 100)
    assert kinds_of(out.getvalue()) == []
    assert names_of(out.getvalue()) == ["big.txt"]


def test_members_of_odd_formats_go_to_the_virus_scanner() -> None:
    """clamd has no unpacker for this method: it would see packed octets."""
    assert opened(zipped([("x", EICAR)], zipfile.ZIP_LZMA))[1] == [EICAR]
    assert opened(zipped([("x", EICAR)]))[1] == []


def test_many_like_members_are_counted_and_odd_ones_kept() -> None:
    files = [(f"{n}.txt", b"x") for n in range(400)] + [("last.exe", b"MZ")]
    result, _ = opened(zipped(files))
    assert result.count == 401
    assert len(result.members) < 150
    assert result.members[-1].name == "last.exe"


# ---------------------------------------------------------------- readings that differ

ONE, TWO = zipped([("one.txt", b"1")]), zipped([("two.exe", EICAR)])
_BODY = local(b"a.txt", b"x", 1, zlib.crc32(b"x"), 0)
_CRC = zlib.crc32(b"x")


def stored_zip(name: bytes, size: int = 1, crc: int = _CRC, count: int | None = None) -> bytes:
    data = raw_zip([(name, 0, 1, size, crc)], _BODY, count)
    return data.replace(struct.pack("<HHHH", 0, 8, 0, 33), struct.pack("<HHHH", 0, 0, 0, 33))


AMBIGUOUS = {
    "two zips": ONE + TWO,
    "two zips, the other way": TWO + ONE,
    "a member before the directory that it does not list": local(b"h.exe", EICAR, 68, zlib.crc32(EICAR), 0)
    + ONE,
    "another name in the local header": stored_zip(b"a.exe"),
    "another count": stored_zip(b"a.txt", count=3),
    "another size": stored_zip(b"a.txt", size=2),
    "a zip in the comment": ONE[:-2] + struct.pack("<H", len(TWO)) + TWO,
    "a member behind the end of a tar": TAR + tarred([(tar_info("x.exe"), b"MZ")]),
}


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_what_programs_read_differently(case: str) -> None:
    name = "a.tar" if "tar" in case else "a.zip"
    assert "ambiguous" in kinds_of(AMBIGUOUS[case], name)


@pytest.mark.parametrize("data", [ONE + TWO, TWO + ONE, AMBIGUOUS["a zip in the comment"]])
def test_all_readings_are_seen_and_scanned(data: bytes) -> None:
    result, parts = opened(data)
    assert {m.name for m in result.members} == {"one.txt", "two.exe"}
    assert EICAR in parts


def test_beyond_a_limit_small_files_are_scanned_and_archives_are_not() -> None:
    """The scanner would open these again, and spend seconds on what the limit stopped here."""
    result, parts = opened(zipped([("virus.com", EICAR), ("deep.zip", bombs.zip_chain(14))]))
    assert [f.kind for f in result.findings] == ["limit"]
    assert EICAR in parts
    assert not any(part.startswith(b"PK") for part in parts)


def test_a_zip_in_a_zip_is_no_second_directory() -> None:
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        assert kinds_of(zipped([("one.zip", ONE), ("two.zip", TWO)], method)) == []


def iso(*volume: bytes, start: bytes = b"") -> bytes:
    """The volume descriptors of an image, and nothing else."""
    return start.ljust(32_768, b"\0") + b"".join((b"\0" + mark).ljust(2_048, b"\0") for mark in volume)


# What a file is for those who go by its name, or look further in than its first octets.
BENEATH = {
    "a tar whose first member is named like a picture": (
        "a.tar",
        tarred([(tar_info("GIF89a.txt"), b"x"), (tar_info("x.exe"), b"MZ")]),
        "x.exe",
    ),
    "a zip behind gzip": ("a.zip", gzip.compress(b"x") + TWO, "two.exe"),
    "a zip behind a tar": ("a.zip", tarred([(tar_info("one.txt"), b"1")]) + TWO, "two.exe"),
}


@pytest.mark.parametrize("case", BENEATH)
def test_what_stands_beneath_the_first_octets_is_opened(case: str) -> None:
    name, data, member = BENEATH[case]
    assert member in names_of(data, name)


@pytest.mark.parametrize("start", [b"", b"GIF89a", b"PK\x03\x04"])
def test_the_files_of_udf_may_be_others_than_those_of_iso_9660(start: bytes) -> None:
    assert "unsupported" in kinds_of(iso(b"CD001", b"BEA01", b"NSR02", start=start), "a.iso")
    assert "unsupported" in kinds_of(iso(b"BEA01", b"NSR03", start=start), "a.img")


def test_a_zip_at_the_end_of_a_tar_is_a_member() -> None:
    assert kinds_of(tarred([(tar_info("one.zip"), ONE), (tar_info("two.zip"), TWO)]), "a.tar") == []


def test_raw_objects_of_rtf_are_scanned() -> None:
    _, parts = opened(b"{\\rtf1 {\\object\\objemb{\\*\\objdata " + EICAR.hex().encode() + b"}}}", "a.rtf")
    assert EICAR in parts


BROKEN = {
    "no directory": ONE[: ONE.index(b"PK\x01\x02")],
    "half": GOOD["stored zip"][:2000],
    "checksum": stored_zip(b"a.txt", crc=1),
    "local header": ONE.replace(b"PK\x03\x04", b"PK\x03\x05"),
    "gzip": gzip.compress(bytes(1000))[:-10],
    "gzip checksum": gzip.compress(b"x" * 100)[:-8] + bytes(8),
    "xz": lzma.compress(b"x" * 100)[:-20],
    "tar": TAR[:800],
    "7z": b"7z\xbc\xaf\x27\x1c" + bytes(300),
    "OLE": OLE_MARK + bytes(2000),
}


@pytest.mark.parametrize("case", BROKEN)
def test_damage_is_never_nothing(case: str) -> None:
    assert {"broken", "unsupported", "ambiguous"} & set(kinds_of(BROKEN[case], "a.zip")), case


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.arj", b"\x60\xea" + bytes(50)), ("a.zip", b"no zip file"), ("a.rar", b"x"), ("a.ace", b"x" * 90)],
)
def test_what_is_not_understood_is_said(name: str, data: bytes) -> None:
    assert {"unsupported", "broken"} & set(kinds_of(data, name))


# ---------------------------------------------------------------- encryption


def test_encrypted_members_are_seen() -> None:
    result, parts = opened(encrypted_zip(b"sesame", EICAR), "a.zip")
    assert [(m.name, m.encrypted) for m in result.members] == [("x.exe", True)]
    assert [f.kind for f in result.findings] == ["encrypted"]
    assert parts == []


def test_a_password_of_the_message_opens() -> None:
    data = encrypted_zip(b"sesame", EICAR)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.read("x.exe", b"sesame") == EICAR
    result, parts = opened(data, "a.zip", words=("wrong", "sesame"))
    assert [(f.kind, f.detail) for f in result.findings] == [("opened", "sesame")]
    assert parts == [EICAR]
    assert "encrypted" in [f.kind for f in opened(data, "a.zip", words=("wrong",))[0].findings]


def test_words_that_may_be_passwords() -> None:
    text = "Hello Bob, the invoice of May is attached. Your password is: Tr0ub4dor. Regards, Alice"
    content = parse(bombs.mail("a.zip", b"x", text))
    assert passwords(content, 10).index("Tr0ub4dor") < 5
    assert passwords(content, 0) == ()
    assert len(passwords(content, 3)) == 3


# ---------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("limits", "data", "said"),
    [
        (Limits(files=3), zipped((f"{n}", b"") for n in range(4)), "files"),
        (Limits(files=3), tarred((tar_info(f"{n}"), b"") for n in range(4)), "files"),
        (Limits(bytes=1000), zipped([("a", b"x" * 600), ("b", b"y" * 600)], zipfile.ZIP_STORED), "bytes"),
        (Limits(bytes=1000), gzip.compress(b"x" * 2000), "bytes"),
        (Limits(depth=2), bombs.zip_chain(3), "depth"),
        (Limits(seconds=-1), zipped(FILES), "time"),
        (Limits(ratio=5), gzip.compress(bytes(9_000_000)), "ratio"),
        (Limits(parts=60), zipped([("a", EICAR)], zipfile.ZIP_LZMA), "parts"),
    ],
    # archives bear the time, and a name must be the same in every process that collects
    ids=[
        "files of a zip",
        "files of a tar",
        "bytes of a zip",
        "bytes of gzip",
        "depth",
        "time",
        "ratio",
        "parts",
    ],
)
def test_limits(limits: Limits, data: bytes, said: str) -> None:
    result, _ = opened(data, "a", limits)
    assert [f.detail.partition(":")[0] for f in result.findings if f.kind == "limit"] == [said]


def test_names_that_lead_out_are_data() -> None:
    result, _ = opened(bombs.tar_escapes(), "a.tar")
    assert "escape" in [f.kind for f in result.findings]
    assert "../../../etc/cron.d/x" in [m.name for m in result.members]
    inside = tarred([(tar_info("a/b"), b"x"), (tar_info("a/c", tarfile.SYMTYPE, "../d"), b"")])
    assert kinds_of(inside, "a.tar") == []
    for target in ("/etc", "../../x"):
        out = tarred([(tar_info("a/c", tarfile.SYMTYPE, target), b"")])
        assert kinds_of(out, "a.tar") == ["escape"]


def test_a_link_in_a_zip_is_looked_at() -> None:
    info = zipfile.ZipInfo("link")
    info.create_system, info.external_attr = 3, 0o120777 << 16
    assert kinds_of(zipped([(info, b"/etc/passwd")])) == ["escape"]


# ---------------------------------------------------------------- streams


def test_streams_end_where_they_should() -> None:
    data = b"abc" * 100_000
    assert (
        b"".join(streams.gunzip(gzip.compress(data) + bytes(10) + gzip.compress(data) + bytes(9))) == data * 2
    )
    assert b"".join(streams.inflate(zlib.compress(data), 15)) == data
    for broken in (b"", gzip.compress(data)[:-9], b"\x1f\x8bxxxx", gzip.compress(data) + b"junk"):
        with pytest.raises(Broken):
            list(streams.gunzip(broken))
    with pytest.raises(Broken):
        list(streams.zip_lzma(b"\x09\x14\x05\x00\xff\0\0\0\0xxxx"))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_each_of_several_streams_is_scanned_by_itself(pack: Callable[[bytes], bytes]) -> None:
    _, parts = opened(pack(b"first") + pack(EICAR) + pack(b""), "a.bin")
    assert {b"first", EICAR} <= set(parts)
    assert (b"first" + EICAR in parts) == (pack is bz2.compress)  # clamd unpacks the others whole
    assert opened(pack(EICAR))[1] == []


def test_many_streams_are_shown_as_far_as_there_is_room() -> None:
    many = b"".join(gzip.compress(b"%d" % number) for number in range(300))
    result, parts = opened(many, "a.gz")
    assert (len(parts), result.findings) == (100, ())
    large = gzip.compress(bytes(9)) + gzip.compress(bytes(range(256)) * 8_000)
    assert opened(large, "a.gz", Limits(parts=1_000))[0].findings == ()


# ---------------------------------------------------------------- Office


def relation(kind: str, target: str, mode: str = ' TargetMode="External"') -> bytes:
    base = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    one = f'<Relationship Id="r" Type="{base}/{kind}" Target="{target}"{mode}/>'
    return f"<Relationships>{one}</Relationships>".encode()


RELS = "word/_rels/document.xml.rels"
DOCUMENTS = {
    "plain": ({}, set()),
    "link": ({RELS: relation("hyperlink", "https://example.com/")}, set()),
    "picture": ({RELS: relation("image", "media/a.png", "")}, set()),
    "template": ({RELS: relation("attachedTemplate", "https://example.com/a.dotm")}, {"external"}),
    "object": ({RELS: relation("oleObject", "mhtml:https://example.com/a")}, {"external"}),
    "own template": ({RELS: relation("attachedTemplate", "a.dotm", "")}, set()),
    "macro": ({"word/vbaProject.bin": b"not even OLE"}, {"macro"}),
    "sheet": ({"xl/macrosheets/sheet1.xml": b"<x/>"}, {"macro"}),
    "DDE": (
        {"word/footnotes.xml": b"<w:instrText>DDE</w:instrText><w:instrText>AUTO c:\\x</w:instrText>"},
        {"dde"},
    ),
    "page number": ({"word/footnotes.xml": b"<w:instrText>PAGE</w:instrText>"}, set()),
    "entities": ({"word/a.xml": bombs.XXE}, {"entity"}),
    "entities in UTF-16": ({"word/a.xml": bombs.XXE.decode().encode("utf-16")}, {"entity"}),
    "printer settings": ({"xl/printerSettings/printerSettings1.bin": b"\0\0"}, set()),
}


@pytest.mark.parametrize("case", DOCUMENTS)
def test_documents(case: str) -> None:
    parts, expected = DOCUMENTS[case]
    result, _ = opened(document(parts), "a.docx")
    assert {f.kind for f in result.findings} == expected
    assert result.members == ()


def test_odf() -> None:
    manifest = [("mimetype", b"application/vnd.oasis.opendocument.text"), ("content.xml", b"<x/>")]
    plain = zipped([*manifest, ("META-INF/manifest.xml", b"<m/>")])
    assert kinds_of(plain, "a.odt") == []
    locked = zipped([*manifest, ("META-INF/manifest.xml", b"<m:encryption-data/>")])
    assert kinds_of(locked, "a.odt") == ["office-encrypted"]
    assert kinds_of(
        zipped([*manifest, ("META-INF/manifest.xml", b""), ("Basic/Standard/Module1.xml", b"")])
    ) == ["macro"]


def test_a_program_in_a_document_is_a_member() -> None:
    result, _ = opened(document({"word/embeddings/x.bin": b"MZ" + bytes(80)}), "a.docx")
    assert [m.detected_type for m in result.members] == ["application/x-dosexec"]


def test_rtf() -> None:
    native = struct.pack("<IIIII", 0x501, 2, 8, 0, 0)
    assert kinds_of(b"{\\rtf1 plain}", "a.doc") == []
    objects = b"{\\rtf1{\\object\\objemb{\\*\\objdata " + native.hex().encode() + b"}}}"
    assert kinds_of(objects, "a.doc")[0] == "object"
    assert kinds_of(b"{\\rtf1{\\*\\template https://example.com/a}}") == ["external"]


def test_macros_saved_as_text() -> None:
    text = b'<?xml version="1.0"?><?mso-application?><w:binData>QWN0aXZlTWltZQ</w:binData>'
    assert set(kinds_of(text, "a.doc")) == {"macro", "macro-autorun"}


# ---------------------------------------------------------------- PDF

PDFS = {
    "plain": ([b"<< /Type /Catalog /OpenAction [3 0 R /Fit] >>"], {"pdf-open"}),
    "script": ([b"<< /S /JavaScript /JS (app.alert\\(1\\)) >>"], {"pdf-javascript"}),
    "escaped": ([b"<< /S /J#61vaScript >>"], {"pdf-javascript"}),
    "launch": ([b"<< /OpenAction << /S /Launch /F (cmd.exe) >> >>"], {"pdf-launch", "pdf-open"}),
    "form": ([b"<< /S /SubmitForm >>"], {"pdf-action"}),
    "encrypted": ([b"<< /Encrypt 5 0 R >>"], {"pdf-encrypted"}),
    "object stream": ([pdf_stream(b"<< /S /Launch >>", b"/Type /ObjStm")], {"pdf-launch"}),
    "a page that only speaks of it": ([pdf_stream(b"(/Launch /JavaScript) Tj")], set()),
    "damaged object stream": (
        [pdf_stream(b"<< /S /Launch >>", b"/Type /ObjStm").replace(b"\nx", b"\nX", 1)],
        None,
    ),
    "unknown filter": ([b"<< /Type /ObjStm /Filter /LZWDecode >>\nstream\nx\nendstream"], {"broken"}),
}


@pytest.mark.parametrize("case", PDFS)
def test_pdf(case: str) -> None:
    objects, expected = PDFS[case]
    found = set(kinds_of(pdf(*objects), "a.pdf"))
    assert found == expected if expected is not None else found


def test_a_file_in_a_pdf_is_a_member() -> None:
    data = pdf(
        b"<< /Type /Filespec /F (x.exe) /EF << /F 2 0 R >> >>",
        pdf_stream(b"MZ" + bytes(80), b"/Type /EmbeddedFile"),
    )
    result, _ = opened(data, "a.pdf")
    assert [(m.name, m.detected_type) for m in result.members] == [("x.exe", "application/x-dosexec")]


# ---------------------------------------------------------------- what is asked, and what is made of it


def test_ordinary_mail_is_not_asked_about() -> None:
    for name, data, asked in (
        ("a.txt", b"text", False),
        ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(100), False),
        ("a.png", zipped(FILES), True),
        ("a.jpg", b"\xff\xd8\xff" + bytes(100) + zipped(FILES), True),
        ("a.tar", b"text", True),
        ("a.pdf", b"%PDF-1.7", True),
        ("a.docx", document({}), True),
    ):
        [attachment] = parse(bombs.mail(name, data)).attachments
        assert kinds.wanted(attachment) == asked, (name, detect(data))


def test_every_finding_is_explained_and_weighed() -> None:
    assert set(policy.SIGNALS) | {"pdf-open"} == FINDINGS.keys()
    assert {*policy.SIGNALS.values(), "UNPACK", "PDF_AUTORUN"} <= NAMES


def test_evidence_goes_to_json_and_back() -> None:
    members = (Member("a\x1b\r\n\u202e", 1, "", 1), Member("b", 2, "text/html", 3, True, 4))
    unpacked = Unpacked("ok", members, (Finding("limit", "a", "b"),), 2, "x")
    evidence = Evidence(unpacked=unpacked)
    assert msgspec.json.decode(msgspec.json.encode(evidence), type=Evidence) == evidence
