# SPDX-License-Identifier: GPL-2.0-or-later
"""Which files are disk images that nothing here can open, by the marks that systems mount them by.

Looks at hostile bytes at a few fixed places, whatever the name and the first octets say: the first
sectors of most file systems are free. Linear, and cheap enough for every attachment.
"""

from __future__ import annotations

_APPLE, _VHD = "application/x-apple-diskimage", "application/x-vhd"
_PARTITIONED = "application/x-raw-disk-image"

# (offset, mark, type); a negative offset counts from the end
_MARKS: tuple[tuple[int, bytes, str], ...] = (
    (-512, b"koly", _APPLE),  # UDIF
    (0, b"encrcdsa", _APPLE),  # encrypted
    (-8, b"cdsaencr", _APPLE),
    (0, b"sprs", _APPLE),
    (-512, b"conectix", _VHD),  # of a fixed size
    (-511, b"conectix", _VHD),
    (64, b"\x7f\x10\xda\xbe", "application/x-virtualbox-vdi"),
    (0, b"# Disk DescriptorFile", "application/x-vmdk"),
    (0, b"COWD", "application/x-vmdk"),
    (3, b"NTFS    ", "application/x-ntfs-image"),
    (3, b"EXFAT   ", "application/x-exfat-image"),
    (32, b"NXSB", "application/x-apfs-image"),
    (0, b"XFSB", "application/x-xfs-image"),
    (65_600, b"_BHRfS_M", "application/x-btrfs-image"),
    (1_024, b"\xe2\xe1\xf5\xe0", "application/x-erofs-image"),
    (1_024, b"\x10\x20\xf5\xf2", "application/x-f2fs-image"),
)
_PARTITION_MARKS = ((512, b"EFI PART"), (4_096, b"EFI PART"), (512, b"PM\0\0"))
_SECTORS = frozenset((512, 1024, 2048, 4096))
_EXT_AT, _HFS_AT = 1_024, 1_024


def file_system(data: bytes) -> str:
    """The type of a disk image by its own marks, "" if it has none."""
    for offset, mark, kind in _MARKS:
        at = offset if offset >= 0 else len(data) + offset
        if at >= 0 and data.startswith(mark, at):
            return kind
    if len(data) < 1_536:
        return ""
    if _fat(data):
        return "application/x-fat-image"
    if _ext(data):
        return "application/x-ext-image"
    return "application/x-hfs-image" if _hfs(data) else ""


def partitioned(data: bytes) -> bool:
    """Whether a partition table (MBR, GPT, Apple's) stands in front; that of a boot CD is a usual one."""
    if any(data.startswith(mark, at) for at, mark in _PARTITION_MARKS):
        return True
    if len(data) < 1_024 or data[510:512] != b"\x55\xaa":
        return False
    entries = [data[at : at + 16] for at in range(446, 510, 16)]
    return all(e[0] in (0, 0x80) for e in entries) and any(
        e[4] and int.from_bytes(e[8:12], "little") and int.from_bytes(e[12:16], "little") for e in entries
    )


def kinds(data: bytes, *, optical: bool) -> tuple[str, ...]:
    """All that `data` is; `optical` says that it is an image of a CD or DVD as well."""
    found = file_system(data)
    if not found and not optical and partitioned(data):
        found = _PARTITIONED
    return (found,) if found else ()


ALL = frozenset(
    {kind for *_, kind in _MARKS}
    | {_PARTITIONED, "application/x-fat-image", "application/x-ext-image", "application/x-hfs-image"}
)


def _number(data: bytes, at: int, size: int, order: str = "little") -> int:
    return int.from_bytes(data[at : at + size], "big" if order == "big" else "little")


def _fat(data: bytes) -> bool:
    """Whether the parameters of FAT are such as drivers mount; they ask for no other mark."""
    cluster = data[13]
    return (
        _number(data, 11, 2) in _SECTORS
        and cluster > 0
        and not cluster & (cluster - 1)
        and _number(data, 14, 2) > 0
        and data[16] in (1, 2)
        and data[21] >= 0xF0
    )


def _ext(data: bytes) -> bool:
    """Whether a superblock of ext2, ext3 or ext4 is there."""
    return (
        data.startswith(b"\x53\xef", _EXT_AT + 56)
        and _number(data, _EXT_AT, 4) > 0
        and _number(data, _EXT_AT + 4, 4) > 0
        and _number(data, _EXT_AT + 24, 4) <= 6
        and _number(data, _EXT_AT + 76, 4) <= 1
    )


def _hfs(data: bytes) -> bool:
    """Whether a volume header of HFS+, HFSX or HFS is there."""
    mark = data[_HFS_AT : _HFS_AT + 4]
    if mark in (b"H+\0\4", b"HX\0\5"):
        return True
    block = _number(data, _HFS_AT + 20, 4, "big")
    return mark[:2] == b"BD" and _number(data, _HFS_AT + 14, 2, "big") == 3 and block > 0 and not block % 512
