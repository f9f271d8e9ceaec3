# SPDX-License-Identifier: GPL-2.0-or-later
"""Sources of mail: every kind is read, in order, and nothing outside of them."""

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from gateway.classifier.corpus import MESSAGE_LIMIT, CorpusError, Sample, as_message, label, read, read_index

ONE = b"From: a@example.com\r\nSubject: one\r\n\r\nfirst\r\n"
TWO = b"From: b@example.com\r\nSubject: two\r\n\r\nsecond\r\n"


def raws(samples: Iterable[Sample]) -> list[bytes]:
    return [sample.raw for sample in samples]


def test_folder_is_read_in_order_without_links_and_hidden_files(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "2.eml").write_bytes(TWO)
    (tmp_path / "1.eml").write_bytes(ONE.replace(b"\r\n", b"\n"))
    (tmp_path / ".hidden").write_bytes(ONE)
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe")
    assert raws(read(tmp_path, spam=True)) == [ONE, TWO]
    assert all(sample.spam for sample in read(tmp_path, spam=True))


def test_maildir(tmp_path: Path) -> None:
    for name in ("cur", "new", "tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / "cur" / "1:2,S").write_bytes(ONE)
    (tmp_path / "new" / "2").write_bytes(TWO)
    (tmp_path / "tmp" / "3").write_bytes(b"half")
    assert raws(read(tmp_path)) == [ONE, TWO]


def test_mbox(tmp_path: Path) -> None:
    path = tmp_path / "mbox"
    quoted = b"From: c@example.com\n\nAt the start\n>From here\n>>From there\n\n"
    path.write_bytes(b"From a Mon\n" + ONE + b"\r\nFrom b Tue\n" + TWO + b"\nFrom c Wed\n" + quoted)
    found = raws(read(path))
    assert found[:2] == [ONE + b"\r\n", TWO + b"\r\n"]
    assert b"\r\nFrom here\r\n>From there\r\n" in found[2]
    assert len(found) == 3


def test_text_in_an_mbox_is_no_message(tmp_path: Path) -> None:
    path = tmp_path / "mbox"
    line = b"From a@example.com Thu Jan  1 00:00:00 1970\n"
    text = b"From: c@example.com\n\nHello\n\nFrom here on it is text\n\n"
    path.write_bytes(line + text + line + ONE)
    assert raws(read(path)) == [text.replace(b"\n", b"\r\n"), ONE]
    path.write_bytes(line + text)
    assert raws(read(path)) == [text.replace(b"\n", b"\r\n")]


def test_single_file_with_an_mbox_line(tmp_path: Path) -> None:
    path = tmp_path / "1"
    path.write_bytes(b"From a Mon Jan 1\n" + ONE)
    assert raws(read(path)) == [ONE]


def test_indexes(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "1").write_bytes(ONE)
    (tmp_path / "data" / "2").write_bytes(TWO)
    (tmp_path / "index").write_text("spam data/1\nham data/2\n")
    (tmp_path / "index.tsv").write_text("label\tpath\tlist\nham\tdata/1\tx y\nspam\tdata/2\t\n")
    (tmp_path / "texts.csv").write_text('label,text\nham,"a, ""quoted""\ntext"\nspam,buy\n')
    assert [(s.raw, s.spam) for s in read_index(tmp_path / "index")] == [(ONE, True), (TWO, False)]
    assert [(s.raw, s.spam) for s in read_index(tmp_path / "index.tsv")] == [(ONE, False), (TWO, True)]
    table = list(read_index(tmp_path / "texts.csv"))
    assert [s.spam for s in table] == [False, True]
    assert table[0].raw.endswith(b'\r\n\r\na, "quoted"\r\ntext')


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("index", "spam ../../../etc/passwd\n"),
        ("index", "ham 1\nmaybe 2\n"),
        ("index", "spam nothing\n"),
        ("index", "spam a\0b\n"),
        ("index", "spam loop\n"),
        ("t.csv", "a,b\n1,2\n"),
        ("t.csv", "label,text\nmaybe,x\n"),
    ],
)
def test_bad_indexes_are_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "1").write_bytes(ONE)
    (tmp_path / name).write_text(text)
    with pytest.raises(CorpusError):
        list(read_index(tmp_path / name))


def test_missing_source(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="No such file"):
        list(read(tmp_path / "none"))


def test_a_large_message_is_cut(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"Subject: x\r\n" + b"a" * (MESSAGE_LIMIT + 10))
    assert len(next(read(tmp_path / "big")).raw) <= MESSAGE_LIMIT + 10


def test_text_with_a_subject_becomes_a_message() -> None:
    raw = as_message(b"Subject: hello\nto : bob , see http : / / www . example . com / x")
    assert raw == b"Subject: hello\r\n\r\nto: bob, see http://www.example.com/x"
    assert as_message(ONE) == ONE


@pytest.mark.parametrize(("word", "spam"), [("SPAM", True), ("ham", False), ("0", False), ("x", None)])
def test_labels(word: str, spam: bool | None) -> None:
    assert label(word) is spam


def test_a_table_is_a_regular_file_and_a_maildir_no_links(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "t.csv")
    with pytest.raises(CorpusError, match="not a regular file"):
        list(read_index(tmp_path / "t.csv"))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "1").write_bytes(ONE)
    (tmp_path / "mail" / "new").mkdir(parents=True)
    (tmp_path / "mail" / "cur").symlink_to(tmp_path / "elsewhere")
    assert list(read(tmp_path / "mail")) == []
