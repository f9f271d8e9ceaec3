# SPDX-License-Identifier: GPL-2.0-or-later
"""Children that open archives: bombs stop at their limits, and a child that fails costs one message."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contrib.lab.clamd import EICAR
from contrib.lab.process import wait_for
from gateway.mail.mime import parse
from gateway.mail.types import Unpacked
from gateway.policy.unpacked import SIGNALS
from gateway.scanners.unpack import frames
from gateway.scanners.unpack.pool import Answer, Unpacker, without_unopened
from gateway.scanners.unpack.settings import UnpackSettings
from tests import bombs
from tests.shared import SHARED

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS, MEGABYTES = 2.0, 256  # of the processor, of memory
PROMPT = 8.0  # seconds by the clock of a busy machine, within which nobody has waited for the time-out
HOLDS = {"ARCHIVE_BROKEN", "ARCHIVE_ESCAPE", "ARCHIVE_LIMIT", "XML_ENTITY", "ARCHIVE_UNREADABLE"}
GOOD = bombs.zipped([("a.txt", b"good")])
SUITES = (SHARED or Path()) / "conformance"


@pytest.fixture
def unpacker() -> Iterator[Unpacker]:
    made = Unpacker(UnpackSettings(children=1))
    yield made
    made.close()


def ask(unpacker: Unpacker, data: bytes, name: str = "a.zip", seconds: float = 30) -> Answer:
    future = unpacker.submit(parse(bombs.mail(name, data)), time.monotonic() + seconds)
    assert future is not None
    return future.result()[0]


def serves(unpacker: Unpacker) -> bool:
    answer = ask(unpacker, GOOD)
    return answer.unpacked.status == "ok" and answer.unpacked.count == 1


def child_of(unpacker: Unpacker) -> int:
    [child] = unpacker._all
    return child._process.pid


def status(pid: int, key: str) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{key}:"))


def has_ended(pid: int) -> bool:
    """Whether a child has ended, be it that we have not asked how."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def processor(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ---------------------------------------------------------------- bombs


@pytest.mark.parametrize("case", bombs.HELD)
def test_bombs_are_held(unpacker: Unpacker, case: str) -> None:
    name, make = bombs.HELD[case]
    data = make()
    assert serves(unpacker)
    pid, before = child_of(unpacker), processor(child_of(unpacker))
    answer = ask(unpacker, data, name)
    assert answer.unpacked.status == "ok", answer.unpacked.detail
    assert {SIGNALS.get(f.kind) for f in answer.unpacked.findings} & HOLDS
    assert processor(pid) - before < SECONDS
    assert status(pid, "VmHWM") < MEGABYTES * 1024
    assert serves(unpacker)
    assert child_of(unpacker) == pid  # and it is the same child


def archives() -> list[Path]:
    folders = (SUITES / "archives-libarchive" / "bin", SUITES / "archives-python" / "data")
    return [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]


@pytest.mark.skipif(SHARED is None, reason="the public suites are not here")
def test_reproducers_of_archive_libraries(unpacker: Unpacker) -> None:
    """None hangs, none takes what it should not, and where a child crashes that is an error."""
    failed = []
    for path in archives():
        content = parse(bombs.mail(path.name, path.read_bytes()))
        future = unpacker.submit(content, time.monotonic() + 30)
        if future is None:
            continue
        answer = future.result()[0]
        if answer.unpacked.status == "error":
            failed.append(path.name)
        assert not answer.late, path.name
        assert all(status(child._process.pid, "VmHWM") < MEGABYTES * 1024 for child in unpacker._idle)
    assert len(failed) < 10, failed
    assert serves(unpacker)


# ---------------------------------------------------------------- a child that fails


def replace_child(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Let the next children run `code` instead of theirs."""
    start = subprocess.Popen

    def other(_command: list[str], **keywords: Any) -> Any:
        return start([sys.executable, "-I", "-c", code], **keywords)

    monkeypatch.setattr(subprocess, "Popen", other)


CHILDREN = {
    "ends": "",
    "ends with an error": "raise SystemExit(3)",
    "crashes": "import os; os.abort()",
    "hangs": "import time; time.sleep(60)",
    "hangs in the middle": "import os, time; os.write(1, b'\\0\\0\\0\\x20'); time.sleep(60)",
    "answers too much": "import os, time; os.write(1, b'\\xff' * 8); time.sleep(60)",
    "answers nonsense": (
        "import os, time; os.write(1, bytes.fromhex('0000000400000000') + b'true'); time.sleep(60)"
    ),
    "answers other parts": (
        "import os, struct, time;"
        't = b\'{"unpacked": {"status": "ok"}, "parts": [5, -2]}\';'
        "os.write(1, struct.pack('!II', len(t), 4) + t + b'xxxx'); time.sleep(60)"
    ),
    "answers no UTF-8": (
        'import os, struct, time; t = b\'{"unpacked": "\\xff"}\';'
        "os.write(1, struct.pack('!II', len(t), 0) + t); time.sleep(60)"
    ),
    "breaks off": "import os, struct; os.write(1, struct.pack('!II', 100, 0) + b'{')",
}


@pytest.mark.parametrize("case", CHILDREN)
def test_a_child_that_fails_is_an_error_and_replaced(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    unpacker = Unpacker(UnpackSettings(children=1, timeout=1.0))
    try:
        with monkeypatch.context() as patched:
            replace_child(patched, CHILDREN[case])
            begin = time.monotonic()
            answer = ask(unpacker, GOOD)
            assert time.monotonic() - begin < PROMPT
        assert answer.unpacked.status == "error"
        assert answer.unpacked.detail
        assert answer.parts == ()
        assert not unpacker._all
        slow = Unpacker(UnpackSettings(children=1))
        assert serves(slow)
        slow.close()
    finally:
        unpacker.close()


def test_a_child_killed_at_work(unpacker: Unpacker) -> None:
    assert serves(unpacker)
    os.kill(child_of(unpacker), signal.SIGKILL)
    time.sleep(0.2)
    assert ask(unpacker, GOOD).unpacked.status == "error"
    assert serves(unpacker)


def test_the_deadline_of_the_message_counts() -> None:
    unpacker = Unpacker(UnpackSettings(children=1))
    try:
        answer = ask(unpacker, GOOD, seconds=-1)
        assert answer.unpacked.status == "error"
        assert "in time" in answer.unpacked.detail
    finally:
        unpacker.close()


def test_processor_time_is_bounded() -> None:
    """Nothing in C can stay longer: the system ends the process."""
    unpacker = Unpacker(UnpackSettings(children=1, processor=0.001))
    try:
        begin = time.monotonic()
        answer = ask(unpacker, bombs.zip_many(4_900))
        assert time.monotonic() - begin < PROMPT
        assert [f.detail.partition(":")[0] for f in answer.unpacked.findings] == ["time"]
    finally:
        unpacker.close()


def test_an_idle_child_ends_and_another_takes_over() -> None:
    unpacker = Unpacker(UnpackSettings(children=1, idle=0.2))
    try:
        assert ask(unpacker, GOOD).unpacked.status == "ok"
        first = child_of(unpacker)
        wait_for(lambda: has_ended(first), 30, "the end of an idle child")
        assert ask(unpacker, GOOD).unpacked.status == "ok"
        assert child_of(unpacker) != first
        assert not Path(f"/proc/{first}").exists()
    finally:
        unpacker.close()


def test_a_child_is_replaced_after_so_many_messages() -> None:
    unpacker = Unpacker(UnpackSettings(children=1, requests=2))
    try:
        seen = set()
        for _ in range(4):
            assert ask(unpacker, GOOD).unpacked.status == "ok"
            seen |= {child._process.pid for child in unpacker._all}
        assert len(seen) == 2
    finally:
        unpacker.close()


def test_a_child_has_nothing_but_its_pipes(unpacker: Unpacker) -> None:
    assert serves(unpacker)
    pid = child_of(unpacker)
    links = [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    assert sorted(link.partition(":")[0] for link in links) == ["/dev/null"] * 3 + ["pipe"] * 2
    limits = Path(f"/proc/{pid}/limits").read_text()
    hard = {line[:26].strip(): line[47:68].strip() for line in limits.splitlines()[1:]}
    assert hard["Max open files"] == "5"
    assert hard["Max file size"] == hard["Max processes"] == hard["Max core file size"] == "0"
    assert int(hard["Max address space"]) == UnpackSettings().memory


def test_children_end_with_their_parent(unpacker: Unpacker) -> None:
    assert serves(unpacker)
    pid = child_of(unpacker)
    unpacker.close()
    assert not Path(f"/proc/{pid}").exists()
    assert ask_closed(unpacker)


def ask_closed(unpacker: Unpacker) -> bool:
    with pytest.raises(RuntimeError):
        ask(unpacker, GOOD)
    return True


# ---------------------------------------------------------------- cost and order


def test_nothing_is_started_for_ordinary_mail(unpacker: Unpacker) -> None:
    before = set(threading.enumerate())
    assert unpacker.submit(parse(bombs.mail("a.txt", b"text")), 0) is None
    assert set(threading.enumerate()) <= before
    assert not unpacker._all


def test_too_much_is_a_limit_at_once() -> None:
    unpacker = Unpacker(UnpackSettings(input=100))
    answer = ask(unpacker, GOOD)
    assert [f.kind for f in answer.unpacked.findings] == ["limit"]
    assert not unpacker._all
    unpacker.close()


def test_what_was_not_opened_is_cut_out_for_the_scanner() -> None:
    """Everything else of the message is left, and other files once more by themselves."""
    raw = bombs.mail("first.zip", bombs.SAMPLES["zip"]())
    part = raw[raw.index(b"\r\n--") + 2 : raw.rindex(b"\r\n--") + 2]
    boundary = part.partition(b"\r\n")[0]
    extra = [
        b'\r\nContent-Type: application/octet-stream; name="%s"\r\n\r\nPK\x03\x04' % n
        for n in (b"a.zip", b"b")
    ]
    raw = raw.replace(
        boundary + b"--", boundary + extra[0] + b"\r\n" + boundary + extra[1] + b"\r\n" + boundary + b"--"
    )
    content = parse(raw)
    assert [a.names[0] for a in content.attachments] == ["first.zip", "a.zip", "b"]
    shown = without_unopened(raw, content, 1)
    assert shown[0] == raw.replace(extra[0][2:], b"").replace(extra[1][2:], b"")
    assert content.attachments[0].data in shown
    assert b"PK\x03\x04" not in shown
    assert content.attachments[0].data not in without_unopened(raw, content, -1)
    unsure = without_unopened(raw, replace(content, certain=False), 1)
    assert content.attachments[0].data in unsure
    assert not any(b"first.zip" in data for data in unsure)


def test_several_at_once() -> None:
    """Each gets its own answer, and there are no more children than set."""
    unpacker = Unpacker(UnpackSettings(children=2))
    try:
        data = [bombs.zipped([(f"{n}.txt", bytes(n * 1000))]) for n in range(40)]
        contents = [parse(bombs.mail("a.zip", one)) for one in data]
        futures = [unpacker.submit(content, time.monotonic() + 30) for content in contents]
        for number, future in enumerate(futures):
            assert future is not None
            [member] = future.result()[0].unpacked.members
            assert (member.name, member.size) == (f"{number}.txt", number * 1000)
        assert len(unpacker._all) <= 2
    finally:
        unpacker.close()


def test_the_right_attachment_is_named(unpacker: Unpacker) -> None:
    raw = bombs.mail("a.txt", b"text").replace(b"a.txt", b"x.txt")
    inner = bombs.mail("in.zip", bombs.zipped([("x", EICAR)]))
    boundary = raw.rpartition(b"--\r\n")[0].rpartition(b"\r\n--")[2]
    part = inner.partition(b"\r\nContent-Type: application")[2].partition(b"\r\n--")[0]
    raw = raw.replace(
        b"--" + boundary + b"--",
        b"--%s\r\nContent-Type: application%s\r\n--%s--" % (boundary, part, boundary),
    )
    content = parse(raw)
    assert [a.names for a in content.attachments] == [("x.txt",), ("in.zip",)]
    future = unpacker.submit(content, time.monotonic() + 30)
    assert future is not None
    assert [m.attachment for m in future.result()[0].unpacked.members] == [1]


# ---------------------------------------------------------------- frames


@given(st.binary(max_size=200), st.binary(max_size=50))
def test_any_answer_is_checked(text: bytes, raw: bytes) -> None:
    try:
        unpacked, parts, _ = frames.answer(text, raw)
    except frames.FrameError:
        return
    assert isinstance(unpacked, Unpacked)
    assert b"".join(parts) == raw


def test_an_answer_is_typed() -> None:
    good = {"unpacked": {"status": "ok", "members": [], "count": 1}, "parts": [1, 2]}
    unpacked, parts, _ = frames.answer(json.dumps(good).encode(), b"abc")
    assert unpacked == Unpacked("ok", count=1)
    assert parts == (b"a", b"bc")
    for wrong in (
        {"unpacked": {"status": "fine"}},
        {"unpacked": {"status": "ok", "members": [{"name": 1}]}},
        {"unpacked": {"status": "ok"}, "parts": [4]},
        {"unpacked": {"status": "ok"}, "parts": [4, -1]},
    ):
        with pytest.raises(frames.FrameError):
            frames.answer(json.dumps(wrong).encode(), b"abc")
    with pytest.raises(frames.FrameError):
        frames.lengths(struct.pack("!II", 10, 11), 10)


def test_settings_are_bounded() -> None:
    for wrong in ({"children": 0}, {"memory": 1}, {"depth": 1000}, {"passwords": -1}, {"bites": 1}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(wrong, UnpackSettings)
