# SPDX-License-Identifier: GPL-2.0-or-later
"""clamd's answers: only the exact "OK" is clean. And the pieces around them."""

from __future__ import annotations

import string
import sys
import threading
import time

import msgspec
import pytest
from clamd import ClamdError
from hypothesis import example, given
from hypothesis import strategies as st

from contrib.lab.faults import CLEAN, FakeClamd
from contrib.lab.process import wait_for
from gateway.mail.types import Scan
from gateway.scanners import clamd
from gateway.scanners.address import Address, parse_address
from gateway.scanners.breaker import Breaker
from gateway.scanners.clamd import Clamd, ClamdSettings

ANSWERS = {
    "stream: OK": ("clean", ""),
    "stream: Eicar-Test-Signature FOUND": ("infected", "Eicar-Test-Signature"),
    "stream: Eicar(44d88612fea8a8f36de82e1278abb02f:68) FOUND": (
        "infected",
        "Eicar(44d88612fea8a8f36de82e1278abb02f:68)",
    ),
    "stream: Heuristics.Limits.Exceeded.MaxFileSize FOUND": ("limit", ""),
    "stream: Heuristics.Limits.Other FOUND": ("limit", ""),
    "stream: Heuristics.Encrypted.Zip FOUND": ("encrypted", ""),
    "stream: Heuristics.Encrypted FOUND": ("infected", "Heuristics.Encrypted"),
    "stream: Heuristics.Phishing.Email FOUND": ("infected", "Heuristics.Phishing.Email"),
    "stream: A B FOUND": ("infected", "A B"),
    "stream: OK FOUND": ("infected", "OK"),
    "stream:  FOUND": ("infected", "unnamed"),
    "stream: \x00\x1b[2J\r\nX: y FOUND": ("infected", "?[2J?X: y"),
    "INSTREAM size limit exceeded. ERROR": ("limit", ""),
    "stream: Can't allocate memory ERROR": ("error", ""),
    "stream: ok": ("error", ""),
    "stream: OK ": ("error", ""),
    " stream: OK": ("error", ""),
    "stream: OK\n": ("error", ""),
    "stream: x OK": ("error", ""),
    "1: stream: OK": ("error", ""),
    "OK": ("error", ""),
    "FOUND": ("error", ""),
    "stream: FOUND": ("error", ""),
    "": ("error", ""),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_answer(answer: str) -> None:
    result = clamd._classify(answer, "engine")
    assert (result.status, result.name) == ANSWERS[answer]


@given(st.text() | st.text(alphabet="stream: OKFOUND\n1\0"))
@example("stream: OK")
@example("stream: " + "x" * 10_000 + " FOUND")
def test_only_ok_is_clean_and_names_are_safe(answer: str) -> None:
    result = clamd._classify(answer, "")
    assert (result.status == "clean") == (answer == "stream: OK")
    assert len(result.name) <= 200
    assert set(result.name + result.detail) <= set(string.printable) - set("\t\n\r\v\f")


@given(st.lists(st.text(alphabet="0123: streamOK", max_size=14), max_size=4), st.integers(2, 4))
@example(["2: stream: OK", "1: stream: OK"], 2)
def test_session_answers(answers: list[str], count: int) -> None:
    try:
        ordered = clamd._in_order(answers, count)
    except ClamdError:
        return
    assert len(ordered) == count
    assert {f"{number}: {text}" for number, text in enumerate(ordered, 1)} == set(answers)


@pytest.mark.parametrize(
    "answers",
    [
        ["1: stream: OK"],
        ["1: stream: OK", "1: stream: OK"],
        ["1: stream: OK", "3: stream: OK"],
        ["stream: OK", "2: stream: OK"],
        ["0: stream: OK", "1: stream: OK"],
        ["01: stream: OK", "2: stream: OK"],
    ],
)
def test_missing_or_doubled_session_answers_are_errors(answers: list[str]) -> None:
    with pytest.raises(ClamdError):
        clamd._in_order(answers, 2)


def test_size_limit_ends_a_session_and_keeps_what_was_found() -> None:
    answers = ["1: stream: Evil FOUND", "2: INSTREAM size limit exceeded. ERROR"]
    results = [clamd._classify(answer, "") for answer in clamd._in_order(answers, 3)]
    assert [result.status for result in results] == ["infected", "limit"]


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (("clean", "clean"), "clean"),
        (("clean", "limit"), "limit"),
        (("limit", "error"), "error"),
        (("clean", "error", "infected", "limit"), "infected"),
    ],
)
def test_the_worst_part_decides(statuses: tuple[str, ...], expected: str) -> None:
    assert clamd._worst([Scan(status) for status in statuses]).status == expected  # type: ignore[arg-type]


@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=3), st.integers(1, 50))
def test_frames_carry_the_parts(parts: list[bytes], chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clamd, "CHUNK", chunk)
        sent = b"".join(clamd._frames(parts))
    if len(parts) > 1:
        sent = sent.removeprefix(b"zIDSESSION\0")
    for part in parts:
        assert sent.startswith(b"zINSTREAM\0")
        sent = sent[10:]
        received = b""
        while size := int.from_bytes(sent[:4], "big"):
            received += sent[4 : 4 + size]
            sent = sent[4 + size :]
        assert received == part
        sent = sent[4:]
    assert sent == b""


def test_off_and_nothing_to_scan() -> None:
    deadline = time.monotonic() + 1
    assert Clamd(ClamdSettings(enabled=False)).scan([b"x"], deadline).status == "off"
    assert Clamd(ClamdSettings()).scan([], deadline).status == "error"
    assert Clamd(ClamdSettings()).scan([b""], deadline).status == "error"


def test_too_large_is_never_clean_even_without_a_server() -> None:
    scanner = Clamd(ClamdSettings(max_size=10))
    assert scanner.scan([b"x" * 11], time.monotonic() + 1).status == "limit"


def test_a_deadline_gone_by_is_an_error() -> None:
    result = Clamd(ClamdSettings()).scan([b"x"], time.monotonic() - 1)
    assert result.status == "error"
    assert "timed out" in result.detail


def test_pkg_resources_is_only_withheld_for_a_moment() -> None:
    assert sys.modules.get("pkg_resources", "absent") is not None


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:/run/clamd.ctl", Address(path="/run/clamd.ctl")),
        ("/run/clamd.ctl", Address(path="/run/clamd.ctl")),
        ("127.0.0.1:3310", Address(host="127.0.0.1", port=3310)),
        ("inet:scanner.example.org:3310", Address(host="scanner.example.org", port=3310)),
        ("[2001:db8::1]:3310", Address(host="2001:db8::1", port=3310)),
    ],
)
def test_address(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unix:",
        "unix:relative",
        "host",
        "host:",
        ":3310",
        "host:0",
        "host:65536",
        "host:²",
        "/" + "x" * 108,
    ],
)
def test_bad_address_stops_the_configuration(text: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"addresses": [text]}, ClamdSettings)


def test_no_address_only_while_disabled() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"addresses": []}, ClamdSettings)
    assert not msgspec.convert({"addresses": [], "enabled": False}, ClamdSettings).enabled


def test_breaker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is let through before a probe was good, and one thread asks for all."""
    answers, asked = [False, False, True, True], threading.Semaphore(0)
    step = threading.Semaphore(0)

    def probe() -> bool:
        asked.release()
        return answers.pop(0)

    monkeypatch.setattr("gateway.scanners.breaker.sleep", lambda _seconds: step.acquire())
    breaker = Breaker(rest=5, probe=probe, limit=2)
    breaker.failed()
    assert breaker.ready()
    for _ in range(5):
        breaker.failed()
        assert not breaker.ready()
    breaker.succeeded()  # one that was under way
    for _ in range(2):
        step.release()
        assert asked.acquire(timeout=30)
        assert not breaker.ready()
    step.release()
    assert asked.acquire(timeout=30)
    wait_for(breaker.ready, 30, "the breaker to close")
    breaker.failed()  # the first one behind a good probe
    assert not breaker.ready()
    step.release()
    wait_for(breaker.ready, 30, "the breaker to close again")
    breaker.succeeded()
    breaker.failed()
    assert breaker.ready()
    assert answers == []


ENGINES = {
    "ClamAV 1.4.6/27500/Sat Nov 21 09:00:00 2026": 1_795_251_600.0,
    "ClamAV 1.4.6/25700/Wed Jan  1 09:00:00 2020": 1_577_869_200.0,
    "ClamAV 1.4.6": 0.0,
    "ClamAV 1.4.6/27500/Sat Foo 21 09:00:00 2026": 0.0,
    "ClamAV 1.4.6/27500/Sat Nov 99 09:00:00 2026": 0.0,
    "": 0.0,
}


@pytest.mark.parametrize("engine", ENGINES)
def test_age_of_signatures(engine: str) -> None:
    made = clamd.signatures_made(engine)
    assert made == ENGINES[engine]
    scanner = Clamd(ClamdSettings(max_age_days=7))
    assert not scanner.is_stale(engine, made + 7 * 86_400)
    assert scanner.is_stale(engine, made + 7 * 86_400 + 1) == bool(made)


@given(st.text(alphabet="/0123456789 :JanWed", max_size=60))
def test_age_of_any_answer(text: str) -> None:
    assert clamd.signatures_made(text) >= 0.0


def test_stale_signatures_are_told_with_each_answer() -> None:
    with FakeClamd(CLEAN) as server:
        server.version = b"ClamAV 1.4.6/25700/Wed Jan  1 09:00:00 2020"
        scanner = Clamd(ClamdSettings(addresses=(server.address,), max_size=10, cache_size=5))
        deadline = time.monotonic() + 30
        assert scanner.scan([b"x"], deadline) == Scan("clean", engine=server.version.decode(), stale=True)
        assert scanner.scan([b"x"], deadline).stale  # from memory
        assert scanner.scan([b"x", b"y" * 11], deadline).stale
        assert scanner.versions(deadline) == {server.address: server.version.decode()}
    assert Clamd(ClamdSettings(addresses=(server.address,))).versions(deadline) == {server.address: ""}
