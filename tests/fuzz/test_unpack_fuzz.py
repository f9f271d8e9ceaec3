# SPDX-License-Identifier: GPL-2.0-or-later
"""The walk through archives on mutated ones: always an answer, within bounds, and never an exception.

What only Python reads is fuzzed in this process. What libarchive reads goes to a child, since it
may crash, and a crash must be an error there. `MAILWARDEN_FUZZ` sets how many examples are tried.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import time
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.mail import magic
from gateway.mail.mime import parse
from gateway.mail.reasons import FINDINGS
from gateway.mail.types import Attachment
from gateway.scanners.unpack.budget import Limits
from gateway.scanners.unpack.pool import Unpacker
from gateway.scanners.unpack.settings import UnpackSettings
from gateway.scanners.unpack.walk import Walker
from tests import bombs
from tests.bombs import document, pdf, pdf_stream, tar_info, tarred, zipped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.mail.types import Unpacked

EXAMPLES = int(os.environ.get("MAILWARDEN_FUZZ", "200"))
fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
MAIL = parse(bombs.mail("a.tar", b""))
LIMITS = Limits(bytes=2_000_000, files=200, depth=6, seconds=1.0, parts=1_000_000)

FILES = [("a.txt", b"text" * 50), ("b/c.exe", b"MZ" + bytes(60)), ("d.gz", gzip.compress(b"x" * 99))]
TAR = tarred((tar_info(name), data) for name, data in FILES)
SEEDS = (
    zipped(FILES),
    zipped(FILES, zipfile.ZIP_STORED),
    zipped(FILES, zipfile.ZIP_BZIP2),
    zipped(FILES, zipfile.ZIP_LZMA),
    zipped([("in.zip", zipped(FILES)), ("m.eml", bombs.mail("a.zip", zipped(FILES)))]),
    zipped(FILES) + zipped(FILES),
    bombs.zip_overlapped(5),
    document({"word/_rels/a.rels": b'<Relationship Type="a/frame" TargetMode="External" Target="x"/>'}),
    gzip.compress(b"text" * 100),
    bz2.compress(b"text" * 100),
    lzma.compress(b"text" * 100),
    lzma.compress(b"text" * 100, lzma.FORMAT_ALONE),
    pdf(
        b"<< /S /Launch >>", pdf_stream(b"/JavaScript", b"/Type /ObjStm"), pdf_stream(b"MZ", b"/EmbeddedFile")
    ),
    b"{\\rtf1{\\object{\\*\\objdata 0105000002000000080000005061636b616765000000000000000000020000000102}}}",
    bytes.fromhex("d0cf11e0a1b11ae1") + bytes(16) + b"\x3e\0\x03\0\xfe\xff\x09\0\x06\0" + bytes(2000),
)


@st.composite
def mutated(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """A seed with some octets changed, cut out, doubled or moved."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 6))):
        if not data:
            break
        at = draw(st.integers(0, len(data) - 1))
        length = draw(st.integers(1, 60))
        match draw(st.integers(0, 4)):
            case 0:
                data[at] = draw(st.integers(0, 255))
            case 1:
                data[at : at + 4] = draw(
                    st.sampled_from((b"\xff" * 4, bytes(4), b"\0\0\0\x80", b"PK\3\4", b"PK\5\6"))
                )
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = data[at : at + length]
            case 4:
                data[at : at + length] = draw(st.binary(max_size=60))
    return bytes(data)


def check(result: Unpacked) -> None:
    assert {f.kind for f in result.findings} <= FINDINGS.keys()
    assert all(0 < m.depth <= LIMITS.depth and m.size >= 0 for m in result.members)


@fuzzed
@given(mutated(SEEDS), st.sampled_from(("a.zip", "a.doc", "a.pdf", "", "a.gz")))
def test_any_archive_is_answered(data: bytes, name: str) -> None:
    walker = Walker(LIMITS)
    begin = time.process_time()
    check(walker.walk([(0, name, data)]))
    assert time.process_time() - begin < LIMITS.seconds + 1
    assert sum(map(len, walker.parts)) <= LIMITS.parts


@fuzzed
@given(
    st.binary(max_size=300),
    st.sampled_from((b"PK\3\4", b"PK\5\6", b"%PDF-", b"\x1f\x8b\x08", b"{\\rt", b"BZh9")),
)
def test_any_octets_are_answered(data: bytes, head: bytes) -> None:
    check(Walker(LIMITS).walk([(0, "a.zip", head + data)]))


@pytest.fixture(scope="module")
def unpacker() -> Iterator[Unpacker]:
    made = Unpacker(UnpackSettings(children=1, processor=1.0, depth=LIMITS.depth))
    yield made
    made.close()


@fuzzed
@given(
    mutated(
        (
            TAR,
            gzip.compress(TAR),
            b"!<arch>\n" + b"a.txt/          0           0     0     644     4         `\ntext",
        )
    )
)
def test_a_child_outlives_any_archive(unpacker: Unpacker, data: bytes) -> None:
    file = Attachment(("a.tar",), "", magic.detect(data), len(data), "", 1, data)
    future = unpacker.submit(replace(MAIL, attachments=(file,)), time.monotonic() + 20)
    if future is None:
        return
    answer, taken = future.result()
    assert taken < 5000
    if answer.unpacked.status == "ok":
        check(answer.unpacked)
    else:
        # By a signal, or with 1, as libarchive ends where it finds no memory.
        assert "ended with status" in answer.unpacked.detail
