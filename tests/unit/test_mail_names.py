# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of attachments in all readings, and what a desktop makes of them."""

from __future__ import annotations

import time

import pytest

from gateway.mail import entity, magic, names
from gateway.mail.mime import parse

NAMES = {
    "plain": (b'Content-Disposition: attachment; filename="a b.zip"', ["a b.zip"]),
    "token": (b"Content-Disposition: attachment; filename=a.zip", ["a.zip"]),
    "spaces without quotes": (b"Content-Disposition: attachment; filename=a b.zip", ["a", "a b.zip"]),
    "both fields": (
        b'Content-Type: image/png; name="a.png"\r\nContent-Disposition: attachment; filename="b.exe"',
        ["b.exe", "a.png"],
    ),
    "extended": (b"Content-Disposition: attachment; filename*=utf-8''%C3%A4.zip", ["ä.zip"]),
    "sections": (b"Content-Disposition: attachment; filename*0=a.; filename*1=zip", ["a.zip"]),
    "encoded sections": (
        b"Content-Disposition: attachment; filename*0*=utf-8''a%2e; filename*1=zip",
        ["a.zip"],
    ),
    "sections in disorder": (b"Content-Disposition: attachment; filename*1=zip; filename*0=a.", ["a.zip"]),
    "encoded word": (b'Content-Disposition: attachment; filename="=?utf-8?q?a=2Ezip?="', ["a.zip"]),
    "escaped": (b'Content-Disposition: attachment; filename="a\\".zip"', ['a".zip']),
    "single quotes": (b"Content-Disposition: attachment; filename='a.zip'", ["a.zip"]),
    "comment in the key": (b"Content-Disposition: attachment; file(x)name=a.zip", ["a.zip"]),
    "two values": (b"Content-Disposition: attachment; filename=a.txt; filename=b.exe", ["a.txt", "b.exe"]),
    "NUL": (b'Content-Disposition: attachment; filename="a.exe\0.txt"', ["a.exe"]),
    "semicolon": (b"Content-Disposition: attachment; filename=a;.zip", ["a;.zip"]),
    "8-bit": (b'Content-Disposition: attachment; filename="\xe4.zip"', ["ä.zip"]),
    "over two fields": (
        b"Content-Disposition: attachment; filename*1=zip\r\nContent-Type: a/b; filename*0=a.",
        ["a.zip"],
    ),
    "folded": (b'Content-Disposition: attachment;\r\n\tfilename="a.zip"', ["a.zip"]),
}


@pytest.mark.parametrize("name", NAMES)
def test_names(name: str) -> None:
    header, expected = NAMES[name]
    raw = header + b"\r\n\r\n"
    found = entity.read(raw, 0, len(raw)).names
    assert set(expected) <= set(found)
    assert len(found) <= names.MAX_NAMES


EXTENSIONS = {
    "a.zip": ("zip",),
    "invoice.pdf.exe": ("exe", "pdf"),
    "a.exe.": ("exe",),
    "a.exe . .": ("exe",),
    "a.exe:stream.txt": ("exe",),
    "C:\\x\\a.Exe": ("exe",),
    "../../a.sh": ("sh",),
    "gpj\u202eexe.scr": ("scr",),
    "a.e\u200bxe": ("exe",),
    "a.\uff45\uff58\uff45": ("exe",),
    "a.pdf           .exe": ("exe", "pdf"),
    "README": (),
    "": (),
}


@pytest.mark.parametrize("name", EXTENSIONS)
def test_extensions(name: str) -> None:
    assert names.extensions(name) == EXTENSIONS[name]


@pytest.mark.parametrize(
    ("name", "expected"), [("CON", True), ("nul.txt", True), ("com1.zip", True), ("console", False)]
)
def test_devices(name: str, expected: bool) -> None:
    assert names.is_device(name) is expected


TYPES = {
    "application/x-dosexec": b"MZ\x90\0\x03",
    "application/zip": b"PK\x03\x04\x14\0",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": (
        b"PK\x03\x04[Content_Types].xml word/document.xml"
    ),
    "application/java-archive": b"PK\x03\x04META-INF/MANIFEST.MF",
    "application/x-ole-storage": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
    "application/x-ms-shortcut": b"L\0\0\0\x01\x14\x02\0\0\0\0\0\xc0\0\0\0\0\0\0F",
    "application/onenote": b"\xe4\x52\x5c\x7b\x8c\xd8\xa7\x4d\xae\xb1\x53\x78\xd0\x29\x96\xd3",
    "application/pdf": b"junk\n%PDF-1.7",
    "application/x-iso9660-image": b"\0" * 32_769 + b"CD001",
    "application/x-tar": b"a" + b"\0" * 256 + b"ustar\x0000",
    "image/svg+xml": b"<?xml version='1.0'?><!-- x --><svg xmlns='a'><script/></svg>",
    "text/html": b"  <!DOCTYPE html><html>",
    "text/x-script": b"#!/bin/sh\n",
    "application/vnd.rar": b"Rar!\x1a\x07\x01\0",
    "image/png": b"\x89PNG\r\n\x1a\n",
    "image/bmp": b"BM\x36\0\0\0\0\0\0\0\x36",
    "application/rtf": b"{\\rtf1",
    "": b"BMW sells cars",
}


@pytest.mark.parametrize("kind", TYPES)
def test_types_by_content(kind: str) -> None:
    assert magic.detect(TYPES[kind]) == kind


def test_zip_behind_a_program_stub() -> None:
    assert magic.detect(b"x" * 5_000 + b"PK\x05\x06" + b"\0" * 18) == "application/zip"


def test_many_parameters_in_linear_time() -> None:
    raw = (
        b"Content-Disposition: attachment"
        + b"".join(b"; filename*%d=x" % i for i in range(20_000))
        + b"\r\n\r\n"
    )
    started = time.process_time()
    entity.read(raw, 0, len(raw))
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    "value",
    [
        b'filename="=?ut\xa0f-8?q?a=2Eexe?="',
        b'filename="=?u=tf-8?b?YS5leGU=?="',
        b'filename="=?utf -8?q?a=2Eexe?="',
        b'filename="=?utf-8?q?a=\t2Eexe?="',
        b'filename="=?\x1a?q?a=2Eexe?="',
        b"filename*=utf-8''a%2eexe\xff",
        b"file%name=x.txt; filename*=''a.exe)",
    ],
)
def test_what_readers_make_of_damaged_names(value: bytes) -> None:
    [attachment] = parse(b"Content-Disposition: attachment; " + value + b"\r\n\r\nx").attachments
    assert any(name.endswith(".exe") for name in attachment.names)
