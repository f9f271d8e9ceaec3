# SPDX-License-Identifier: GPL-2.0-or-later
"""Compound files: which names the attachments of a message of Outlook have; and files in notebooks."""

from __future__ import annotations

import io
import struct

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
