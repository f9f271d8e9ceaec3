# SPDX-License-Identifier: GPL-2.0-or-later
"""Disk images, known by the marks that systems mount them by, and held; archives that have no mark."""

from __future__ import annotations

import struct

import pytest

from gateway.mail.magic import detect
from gateway.mail.types import Attachment
from gateway.scanners.unpack import disks, kinds
from gateway.scanners.unpack.walk import Walker


def patched(*marks: tuple[int, bytes], size: int = 70_000) -> bytes:
    """An image of zeros with marks; a negative offset counts from the end."""
    data = bytearray(size)
    for offset, mark in marks:
        at = offset % size
        data[at : at + len(mark)] = mark
    return bytes(data)


FAT = (11, struct.pack("<HBHB", 512, 4, 1, 2)), (21, b"\xf8")
EXT = (1_024, struct.pack("<II", 64, 1_024)), (1_080, b"\x53\xef")
MBR = (446, bytes((0x80, 0, 0, 0, 6, 0, 0, 0)) + struct.pack("<II", 63, 999)), (510, b"\x55\xaa")
IMAGES = {
    "FAT without a word": patched(*FAT),
    "NTFS": patched((3, b"NTFS    ")),
    "exFAT": patched((3, b"EXFAT   ")),
    "ext4": patched(*EXT),
    "HFS+": patched((1_024, b"H+\0\4")),
    "HFSX": patched((1_024, b"HX\0\5")),
    "HFS": patched((1_024, b"BD"), (1_038, b"\0\3"), (1_044, b"\0\0\x10\0")),
    "APFS": patched((32, b"NXSB")),
    "Btrfs": patched((65_600, b"_BHRfS_M")),
    "EROFS": patched((1_024, b"\xe2\xe1\xf5\xe0")),
    "F2FS": patched((1_024, b"\x10\x20\xf5\xf2")),
    "squashfs": patched((0, b"hsqs")),
    "cramfs": patched((0, b"\x45\x3d\xcd\x28")),
    "romfs": patched((0, b"-rom1fs-")),
    "lzop": patched((0, b"\x89LZO\0\r\n\x1a\n")),
    "lrzip": patched((0, b"LRZI")),
    "VDI": patched((64, b"\x7f\x10\xda\xbe")),
    "VHD of a fixed size": patched((-512, b"conectix")),
    "UDIF": patched((-512, b"koly")),
    "a partition table": patched(*MBR),
    "a GUID partition table": patched((512, b"EFI PART")),
    "Apple's partition map": patched((512, b"PM\0\0")),
    "FAT before ISO 9660": patched(*FAT, (32_769, b"CD001")),
    "a VMDK of two files": b"# Disk DescriptorFile\nversion=1\n",
}
NONE = {
    "zeros": bytes(70_000),
    "short": b"\xeb\x3c\x90",
    "text": b"The \x53\xef disk. " * 5_000,
    "a boot CD": patched(*MBR, (32_769, b"CD001")),
    "no sector has 513 octets": patched((11, struct.pack("<HBHB", 513, 4, 1, 2)), (21, b"\xf8")),
    "an empty partition table": patched((510, b"\x55\xaa")),
    "a superblock of no blocks": patched((1_080, b"\x53\xef")),
}


@pytest.mark.parametrize("case", IMAGES)
def test_images_are_held_under_any_name(case: str) -> None:
    data = IMAGES[case]
    found = Walker().walk([(0, "picture.dat", data)]).findings
    assert "unsupported" in [f.kind for f in found]
    assert kinds.wanted(Attachment(("picture.dat",), "", detect(data), len(data), "", 1, data))


@pytest.mark.parametrize("case", NONE)
def test_other_files_are_none(case: str) -> None:
    assert not disks.ALL.intersection(kinds.beneath(NONE[case]))


@pytest.mark.parametrize("name", ["a.dmg", "a.vdi", "a.vhd", "a.vmdk", "a.sparseimage", "a.arc", "a.lrz"])
def test_a_name_alone_is_enough(name: str) -> None:
    found = Walker().walk([(0, name, b"no mark at all")]).findings
    assert [f.kind for f in found] == ["unsupported"]


def old_tar(*files: tuple[bytes, bytes]) -> bytes:
    """A tar file from before POSIX, which no mark tells."""
    out = b""
    for name, data in files:
        head = bytearray(512)
        head[: len(name)] = name
        head[100:108], head[124:136], head[136:148] = b"0000644\0", b"%011o\0" % len(data), b"0" * 11 + b"\0"
        head[148:156] = b" " * 8
        head[148:156] = b"%06o\0 " % sum(head)
        out += bytes(head) + data.ljust(-(-len(data) // 512) * 512, b"\0")
    return out + bytes(1_024)


def test_a_tar_without_a_mark_goes_by_its_name() -> None:
    data = old_tar((b"GIF89a.txt", b"x"), (b"evil.exe", b"MZ"))
    assert detect(data) == "image/gif"
    assert [m.name for m in Walker().walk([(0, "photos.tar", data)]).members] == ["GIF89a.txt", "evil.exe"]
    assert Walker().walk([(0, "photo.gif", data)]).members == ()


def test_a_cabinet_behind_other_octets_is_looked_for() -> None:
    found = Walker().walk([(0, "a.cab", b"GIF89a" + b"MSCF\0\0\0\0" + bytes(99))]).findings
    assert [f.kind for f in found] == ["broken"]


def both(number: int, size: int = 4) -> bytes:
    """A number in either order of octets, as ISO 9660 has it."""
    return number.to_bytes(size, "little") + number.to_bytes(size, "big")


def record(name: bytes, sector: int, size: int, flags: int = 0) -> bytes:
    body = b"\0" + both(sector) + both(size) + bytes(7) + bytes((flags, 0, 0)) + both(1, 2)
    body += bytes((len(name),)) + name + bytes(not len(name) % 2)
    return bytes((len(body) + 1,)) + body


def optical(plain: tuple[bytes, bytes], joliet: tuple[bytes, bytes]) -> bytes:
    """An image of ISO 9660 with one file in its plain tree, and another one in Joliet's."""
    sectors = [b""] * 16
    for kind, escape, root, table in ((1, b"", 19, 23), (2, b"%/E", 20, 24)):
        volume = bytearray(2_048)
        volume[:7] = bytes((kind,)) + b"CD001\1"
        volume[80:88], volume[88:91] = both(27), escape.ljust(3, b"\0")
        volume[120:124], volume[124:128], volume[128:132] = both(1, 2), both(1, 2), both(2_048, 2)
        volume[132:140], volume[140:144] = both(10), table.to_bytes(4, "little")
        volume[148:152] = (table + 2).to_bytes(4, "big")
        volume[156:190] = record(b"\0", root, 2_048, 2)
        volume[881] = 1
        sectors.append(bytes(volume))
    sectors.append(b"\xffCD001\1")
    for number, (name, data) in enumerate((plain, joliet)):
        here = record(b"\0", 19 + number, 2_048, 2) + record(b"\1", 19 + number, 2_048, 2)
        sectors.append(here + record(name, 21 + number, len(data)))
    sectors += [plain[1], joliet[1], b"", b"", b"", b""]
    return b"".join(sector.ljust(2_048, b"\0") for sector in sectors)


def test_each_tree_of_an_optical_image_is_seen_and_counted_once() -> None:
    wide = "evil.exe".encode("utf-16-be")
    image = optical((b"GOOD.TXT;1", b"good"), (wide, b"MZ evil"))
    walker = Walker()
    found = walker.walk([(0, "a.iso", image)])
    assert sorted(m.name for m in found.members) == ["GOOD.TXT", "evil.exe"]
    assert found.findings == ()
    same = optical((b"EVIL.EXE;1", b"MZ evil"), (wide, b"MZ evil"))
    assert len(Walker().walk([(0, "a.iso", same)]).members) == 1
    other = optical((b"GOOD.TXT;1", b"MZ evil"), (wide, b"MZ evil"))
    assert len(Walker().walk([(0, "a.iso", other)]).members) == 2
