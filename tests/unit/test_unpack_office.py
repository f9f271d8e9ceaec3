# SPDX-License-Identifier: GPL-2.0-or-later
"""Compound files: which names the attachments of a message of Outlook have; and files in notebooks."""

from __future__ import annotations

import io
import struct
import zlib

import pytest

from contrib.lab.clamd import EICAR
from gateway.scanners.unpack import office
from gateway.scanners.unpack.walk import Walker


class Compound:
    """As much of a compound file as is asked for."""

    def __init__(self, streams: dict[tuple[str, ...], bytes]) -> None:
        self.streams = streams

    def listdir(self) -> list[list[str]]:
        return [list(path) for path in self.streams]

    def openstream(self, path: list[str]) -> io.BytesIO:
        return io.BytesIO(self.streams[tuple(path)])


def attached(streams: dict[tuple[str, ...], bytes]) -> list[tuple[str, bytes | None]]:
    document = Compound(streams)
    return [(f.name, f.data) for f in office._streams(document, document.listdir()) if not f.kind]


def test_names_belong_to_their_own_attachment() -> None:
    """One in an attached message stands in a storage of the same name."""
    outer, inner = (
        ("__attach_version1.0_#00000000",),
        ("__substg1.0_3701000D", "__attach_version1.0_#00000000"),
    )
    assert attached(
        {
            (*outer, "__substg1.0_3707001F"): "run.vbs".encode("utf-16-le"),
            (*outer, "__substg1.0_37010102"): b"one",
            (*outer, *inner, "__substg1.0_3707001F"): "notes.txt".encode("utf-16-le"),
            (*outer, *inner, "__substg1.0_37010102"): b"two",
        }
    ) == [("run.vbs", b"one"), ("notes.txt", b"two")]


def test_names_of_eight_bits_and_short_ones() -> None:
    path = ("__attach_version1.0_#00000000",)
    assert attached(
        {
            (*path, "__substg1.0_3704001E"): b"RUN~1.TXT\0",
            (*path, "__substg1.0_3707001E"): b"run.txt.vbs",
            (*path, "__substg1.0_37010102"): b"x",
        }
    ) == [("RUN~1.TXT", b"x"), ("run.txt.vbs", b"")]
    assert attached({(*path, "__substg1.0_37010102"): b"x"}) == [("", b"x")]


def note(*files: bytes) -> bytes:
    """A notebook, as far as files in it are concerned."""
    head = bytes.fromhex("e4525c7b8cd8a74daeb15378d02996d3") + bytes(500)
    return head + b"".join(
        office._NOTE_FILE + struct.pack("<QIQ", len(f), 0, 0) + f + bytes(9) for f in files
    )


def test_files_in_a_notebook_are_looked_at_and_pictures_are_not() -> None:
    walker = Walker()
    found = walker.walk([(0, "a.one", note(b"\x89PNG\r\n\x1a\n" + bytes(90), b"MZ", EICAR))])
    assert [f.kind for f in found.findings] == ["object"]
    assert [m.detected_type for m in found.members] == ["application/x-dosexec", ""]
    assert list(walker.parts) == [b"MZ", EICAR]
    assert Walker().walk([(0, "a.one", note(b"\x89PNG\r\n\x1a\n"))]).findings == ()
    lying = note(EICAR).replace(struct.pack("<Q", len(EICAR)), b"\xff" * 8)
    assert len(Walker().walk([(0, "a.one", lying)]).members) == 1
    assert [f.kind for f in Walker().walk([(0, "a.one", note(*[b"x"] * 2_100))]).findings][-1] == "limit"


def test_what_office_packs_in_a_web_archive() -> None:
    for start in (0x32, 0x22A, 0x80):
        head = b"ActiveMime".ljust(0x1E, b"\0") + (start - 46).to_bytes(2, "little")
        packed = (head if start == 0x80 else b"ActiveMime").ljust(start, b"\0") + zlib.compress(b"MZ program")
        assert [found.data for found in office.active_mime(packed)] == [b"MZ program"]
        assert [found.data for found in office.active_mime(packed[:-2])] == [b"MZ program"]
    assert [found.kind for found in office.active_mime(b"ActiveMime")] == ["broken"]
    bomb = b"ActiveMime".ljust(0x32, b"\0") + zlib.compress(bytes(office.MAX_RTF + 1))
    assert next(office.active_mime(bomb)).kind == "limit"


@pytest.mark.parametrize(
    ("field", "kinds"),
    [
        (rb"{\*\fldinst {\rtlch\fcs1 \af0 \ltrch DDEAUTO c:\\windows cmd }}", ["dde"]),
        (rb"{\*\fldinst{ DD}{E cmd }}", ["dde"]),
        (rb'{\*\fldinst INCLUDETEXT "https://example.net/a"}', ["external"]),
        (rb'{\*\fldinst INCLUDEPICTURE "cid:a"}', []),
        (rb'{\*\fldinst HYPERLINK "https://example.net/dde"}', []),
    ],
)
def test_fields_of_rtf(field: bytes, kinds: list[str]) -> None:
    assert [found.kind for found in office.rtf(rb"{\rtf1{\field" + field + b"}}")] == kinds
