# SPDX-License-Identifier: GPL-2.0-or-later
"""Edits: byte for byte what a milter's edits make of a message."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.results import NAME, forged
from gateway.mail.edits import apply, ordered
from gateway.mail.headers import split
from gateway.mail.types import Edit, EditOp

MAIL = (
    b"From: a@example.com\r\nX-A:1\r\nSubject:  two\r\n\tlines \r\nx-a: 2\r\nX-A: 3\r\n\r\nbody\r\nX-A: 4\r\n"
)


def insert(name: str, value: str) -> Edit:
    return Edit(EditOp.INSERT, name, value)


def add(name: str, value: str) -> Edit:
    return Edit(EditOp.ADD, name, value)


def delete(name: str, index: int) -> Edit:
    return Edit(EditOp.DELETE, name, index=index)


def replace(name: str, value: str, index: int) -> Edit:
    return Edit(EditOp.REPLACE, name, value, index)


CASES = {
    "nothing": ((), MAIL),
    "the last inserted stands topmost": (
        (insert("X-One", "1"), insert("X-Two", "2")),
        b"X-Two: 2\r\nX-One: 1\r\n" + MAIL,
    ),
    "added at the end of the header section, in order": (
        (add("X-One", "1"), add("X-Two", "2")),
        MAIL.replace(b"\r\n\r\n", b"\r\nX-One: 1\r\nX-Two: 2\r\n\r\n", 1),
    ),
    "indices are those of the original message": (
        (delete("X-A", 1), delete("X-A", 2), insert("X-A", "new")),
        b"X-A: new\r\n" + MAIL.replace(b"X-A:1\r\n", b"").replace(b"x-a: 2\r\n", b""),
    ),
    "replace keeps the place": ((replace("x-A", "two", 2),), MAIL.replace(b"x-a: 2", b"x-A: two")),
    "a folded field goes as a whole": (
        (delete("subject", 1),),
        MAIL.replace(b"Subject:  two\r\n\tlines \r\n", b""),
    ),
    "what is not there is not deleted": ((delete("X-A", 4), delete("X-B", 1)), MAIL),
    "replacing what is not there adds it": (
        (replace("X-B", "b", 3),),
        MAIL.replace(b"\r\n\r\n", b"\r\nX-B: b\r\n\r\n", 1),
    ),
    "a delete wins over a replace of the same field": (
        (delete("X-A", 3), replace("X-A", "x", 3)),
        MAIL.replace(b"X-A: 3\r\n", b""),
    ),
    "a folded value is written with CRLF": (
        (insert("X-F", "a\n\tb"),),
        b"X-F: a\r\n\tb\r\n" + MAIL,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_apply(name: str) -> None:
    edits, expected = CASES[name]
    assert apply(MAIL, edits) == expected


ODD = {
    "no header section": (b"\r\nbody\r\n", b"X-T: t\r\nX-E: e\r\n\r\nbody\r\n"),
    "no empty line": (b"A: 1\r\nnot a field\r\n", b"X-T: t\r\nA: 1\r\nX-E: e\r\n\r\nnot a field\r\n"),
    "a folded line first": (b" x\r\nA: 1\r\n\r\nb", b"X-T: t\r\nX-E: e\r\n\r\n x\r\nA: 1\r\n\r\nb"),
    "a folded name": (b"A\r\n : x\r\nB: 2\r\n", b"X-T: t\r\nX-E: e\r\n\r\nA\r\n : x\r\nB: 2\r\n"),
    "NUL in a name": (b"A: 1\r\nB\0: 2\r\n\r\nb", b"X-T: t\r\nA: 1\r\nX-E: e\r\n\r\nB\0: 2\r\n\r\nb"),
    "no body": (b"A: 1\r\n", b"X-T: t\r\nA: 1\r\nX-E: e\r\n"),
    "no final line end": (b"A: 1", b"X-T: t\r\nA: 1\r\nX-E: e\r\n"),
    "nothing": (b"", b"X-T: t\r\nX-E: e\r\n"),
    "mbox line": (
        b"From x Mon\r\nA: 1\r\n\r\nb",
        b"X-T: t\r\nX-Mailbox-Line: From x Mon\r\nA: 1\r\nX-E: e\r\n\r\nb",
    ),
    "bare line feeds": (b"A: 1\nB: 2\n\nb\n", b"X-T: t\r\nA: 1\nB: 2\nX-E: e\r\n\nb\n"),
    "8-bit and NUL stay": (b"A: \xff\0\r\n\r\n\xfe", b"X-T: t\r\nA: \xff\0\r\nX-E: e\r\n\r\n\xfe"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_messages(name: str) -> None:
    raw, expected = ODD[name]
    assert apply(raw, (insert("X-T", "t"), add("X-E", "e"))) == expected


def test_ordered_deletes_from_the_highest() -> None:
    edits = (insert("X-T", "t"), delete("A", 1), delete("B", 1), delete("A", 2), replace("A", "r", 3))
    assert ordered(edits) == (
        replace("A", "r", 3),
        delete("A", 2),
        delete("A", 1),
        delete("B", 1),
        insert("X-T", "t"),
    )


@given(st.binary(max_size=200), st.integers(1, 3))
def test_inserting_and_adding_keep_every_byte(raw: bytes, index: int) -> None:
    edited = apply(raw, (insert("X-T", "t"), add("X-E", "e"), delete("X-None", index)))
    end = split(raw).end
    separated = raw[:end] + b"\r\n" + raw[end:]  # a line end at the end, or an empty line
    assert edited.replace(b"X-T: t\r\n", b"", 1).replace(b"X-E: e\r\n", b"", 1) in (raw, separated)


@pytest.mark.parametrize("first", [b" ; dmarc=pass\r\n", b"\t\r\n", b"x\r\n"])
def test_without_edits_too_nothing_can_continue_a_field_of_ours(first: bytes) -> None:
    assert apply(first + MAIL, ()) == b"\r\n" + first + MAIL
    assert apply(MAIL, ()) is MAIL


def test_forged_results_behind_the_last_field_that_is_kept_are_removed() -> None:
    ours = b"Authentication-Results: MX.example.org; spf=pass\r\n"
    other = b"Authentication-Results: other.example; spf=pass\r\n"
    filler = b"X-Filler: 1\r\n" * 6_000
    raw = other + ours + filler + other + ours + b"Y: z\r\n" + ours + b"\r\n" + ours
    found = forged(split(raw).fields, "mx.example.org")
    assert found == (2, 4, 5)
    edits = tuple(Edit(EditOp.DELETE, NAME, index=index) for index in found)
    added = (Edit(EditOp.ADD, "Subject", "x"), Edit(EditOp.INSERT, "First", "y"))
    assert apply(raw, (*edits, *added)) == (
        b"First: y\r\n" + other + filler + other + b"Y: z\r\nSubject: x\r\n\r\n" + ours
    )


def test_forged_results_that_are_cut_are_removed() -> None:
    raw = b"Authentication-Results:" + b" " * 1_100_000 + b"mx.example.org; spf=pass\r\n\r\n"
    assert forged(split(raw).fields, "mx.example.org") == (1,)
