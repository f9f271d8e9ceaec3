# SPDX-License-Identifier: GPL-2.0-or-later
"""TNEF: every name and file that Outlook may show, and what a hostile stream costs."""

from __future__ import annotations

import base64
import struct
import time

from hypothesis import example, given
from hypothesis import strategies as st

from contrib.lab.clamd import EICAR
from gateway.mail import tnef
from gateway.mail.mime import parse
from gateway.scanners.unpack.walk import Walker
from tests.bombs import zipped

RENDERED = (2, 0x00069002, bytes(14))
MESSAGE = bytes.fromhex("0703020000000000c000000000000046")  # the interface of a message


def stream(*attributes: tuple[int, int, bytes]) -> bytes:
    pieces = (struct.pack("<BII", level, a, len(v)) + v + b"\0\0" for level, a, v in attributes)
    return tnef.SIGNATURE + b"\1\0" + b"".join(pieces)


def title(name: bytes) -> tuple[int, int, bytes]:
    return 2, 0x00018010, name + b"\0"


def content(data: bytes) -> tuple[int, int, bytes]:
    return 2, 0x0006800F, data


def variable(kind: int, number: int, *values: bytes) -> bytes:
    padded = (struct.pack("<I", len(v)) + v + bytes(-len(v) % 4) for v in values)
    return struct.pack("<HHI", kind, number, len(values)) + b"".join(padded)


def properties(*each: bytes) -> tuple[int, int, bytes]:
    return 2, 0x00069005, struct.pack("<I", len(each)) + b"".join(each)


LONG_NAME = variable(0x1F, 0x3707, "invoice.pdf.exe\0".encode("utf-16-le"))
BEFORE = (
    struct.pack("<HHI", 3, 0x3705, 1),
    struct.pack("<HH16sIII", 3, 0x8001, bytes(16), 0, 7, 9),
    struct.pack("<HH16sII8sI", 3, 0x8002, bytes(16), 1, 6, b"a\0b\0\0\0", 9),
    struct.pack("<HHQ", 0x40, 0x3007, 5),
    struct.pack("<HHI", 0x1003, 0x6001, 2) + bytes(8),
    variable(0x1102, 0x6002, b"x", b"yz"),
)


def test_a_file_and_its_short_name() -> None:
    made = stream((1, 0x00089006, b"\0\0\1\0"), RENDERED, title(b"a.zip"), content(b"abc"))
    assert tnef.read(made) == ([(("a.zip",), b"abc")], True)
    assert tnef.read(b"none") == ([], False)


def test_more_names_than_are_kept_are_said() -> None:
    names = [title(b"a%d.txt" % number) for number in range(tnef.MAX_NAMES)]
    [(kept, _)], whole = tnef.read(stream(RENDERED, *names, names[0], content(b"abc")))
    assert (len(kept), whole) == (tnef.MAX_NAMES, True)
    made = stream(RENDERED, *names, title(b"a.exe"), content(b"abc"))
    assert not tnef.read(made).whole
    assert "broken" in [f.kind for f in Walker().walk([(0, "winmail.dat", made)]).findings]


def test_the_long_name_behind_other_properties() -> None:
    made = stream(RENDERED, title(b"INVOIC~1.PDF"), content(b"x"), properties(*BEFORE, LONG_NAME))
    assert tnef.read(made) == ([(("INVOIC~1.PDF", "invoice.pdf.exe"), b"x")], True)


def test_contents_among_the_properties() -> None:
    inner = stream(RENDERED, title(b"deep.exe"), content(EICAR))
    held = variable(0x0D, 0x3701, MESSAGE + inner)
    assert tnef.read(stream(RENDERED, properties(LONG_NAME, held))).files == [(("invoice.pdf.exe",), inner)]
    plain = stream(RENDERED, content(b"one"), properties(variable(0x102, 0x3701, b"two")))
    assert tnef.read(plain).files == [((), b"one"), ((), b"two")]


def test_a_message_within_is_read_from_mail_and_from_archives() -> None:
    inner = stream(RENDERED, title(b"deep.exe"), content(EICAR))
    made = stream(RENDERED, properties(LONG_NAME, variable(0x0D, 0x3701, MESSAGE + inner)))
    mail = b"Content-Type: application/ms-tnef\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    read = parse(mail + base64.encodebytes(made))
    assert [a.names for a in read.attachments] == [(), ("invoice.pdf.exe",), ("deep.exe",)]
    assert EICAR in read.readings
    walker = Walker()
    found = walker.walk([(0, "a.zip", zipped([("winmail.dat", made)]))])
    assert [m.name for m in found.members] == ["winmail.dat", "invoice.pdf.exe", "deep.exe"]
    assert EICAR in walker.parts


def test_streams_in_one_another_are_bounded() -> None:
    made = b"x"
    for _ in range(3_000):
        made = stream(content(made))
    mail = b"Content-Type: application/ms-tnef\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    assert parse(mail + base64.encodebytes(made)).limits == ("depth",)
    assert [f.kind for f in Walker().walk([(0, "winmail.dat", made)]).findings] == ["limit"]


def test_what_ends_in_the_middle_is_said() -> None:
    made = stream(RENDERED, title(b"a"), content(b"abc"))
    for cut in (made[:-4], stream(properties(LONG_NAME[:-6]))):
        assert not tnef.read(cut).whole
        assert [f.kind for f in Walker().walk([(0, "winmail.dat", cut)]).findings][:1] == ["broken"]


@given(st.binary(max_size=300))
@example(struct.pack("<I", 0xFFFFFFFF) + struct.pack("<HHI", 0x1003, 1, 0xFFFFFFFF))
@example(struct.pack("<I", 0xFFFFFFFF) + struct.pack("<HHI", 0x1002, 1, 0) * 30)
def test_any_properties(data: bytes) -> None:
    tnef.read(stream((2, 0x00069005, data)))
    tnef.read(tnef.SIGNATURE + b"\1\0" + data)


def test_many_properties_and_files_take_little_time() -> None:
    begin = time.process_time()
    tnef.read(stream(*[properties(*[struct.pack("<HHI", 0x1002, 1, 0)] * 2_000)] * 500))
    tnef.read(stream(*[content(b"x")] * 200_000))
    assert time.process_time() - begin < 2
