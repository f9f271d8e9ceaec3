# SPDX-License-Identifier: GPL-2.0-or-later
"""What an agent notes of deliveries: it outlives the agent, stays small, and is never believed if spoiled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.delivery.receipts import Receipts, others, remove
from gateway.store.queued import Recipient, State

if TYPE_CHECKING:
    from pathlib import Path

PROCESS = "boot pid:[1] 7 9"


def person(number: int, item: str = "1M80JFSJGNG4SMAS") -> Recipient:
    return Recipient(number, item, "u@example.com", (), "", State.LEASED, 0.0, 0, 0, 0.0, "")


def test_what_was_noted_is_read_by_others(tmp_path: Path) -> None:
    folder = tmp_path / "receipts"
    receipts = Receipts(folder, "aa", PROCESS)
    receipts.note("begun", [person(1), person(2), person(3)])
    receipts.note("delivered", [person(1), person(2, "other")])
    (left,) = others(folder, "bb")
    assert (left.owner, left.process) == ("aa", PROCESS)
    assert set(left.begun) == {1, 2, 3}
    assert left.delivered == {1: "1M80JFSJGNG4SMAS", 2: "other"}
    assert others(folder, "aa") == []
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "aa").stat().st_mode & 0o777 == 0o600


def test_the_file_is_emptied_when_all_is_settled_and_stays_small_while_not(tmp_path: Path) -> None:
    receipts = Receipts(tmp_path, "aa", PROCESS)
    receipts.note("begun", [person(0)])
    for number in range(1, 20_000):
        receipts.note("delivered", [person(number)])
        receipts.settled([number])
    assert (tmp_path / "aa").stat().st_size < 300_000
    (left,) = others(tmp_path, "bb")
    assert set(left.begun) == {0}
    assert left.process == PROCESS
    receipts.settled([0])
    (left,) = others(tmp_path, "bb")
    assert (left.begun, left.delivered, left.process) == ({}, {}, PROCESS)
    receipts.close()
    assert others(tmp_path, "bb") == []
    assert list(tmp_path.iterdir()) == []


def test_a_spoiled_line_says_nothing(tmp_path: Path) -> None:
    receipts = Receipts(tmp_path, "aa", PROCESS)
    receipts.note("delivered", [person(12), person(345)])
    path = tmp_path / "aa"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"d 12 ", b"d 13 ")[:-4] + b"\0\0\0\0\xff\n\nd 5\nd x y 00000000\n")
    (left,) = others(tmp_path, "bb")
    assert left.delivered == {}
    remove(tmp_path, "aa")
    assert others(tmp_path, "bb") == []


def test_without_a_folder_or_a_way_to_write_nothing_is_noted(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (None, tmp_path / "file"):
        receipts = Receipts(folder, "aa", PROCESS)
        receipts.note("delivered", [person(1)])
        receipts.settled([1])
        receipts.close()
        assert not receipts.kept
        assert others(folder, "bb") == []
