# SPDX-License-Identifier: GPL-2.0-or-later
"""clamd and spamd: the real ones, and every way in which they fail. No failure reads as clean."""

from __future__ import annotations

import base64
import io
import itertools
import signal
import socket
import statistics
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from contrib.lab import faults
from contrib.lab.clamd import EICAR, TEST_VIRUS
from contrib.lab.clamd import Clamd as ClamdServer
from contrib.lab.faults import CLAMD_FAULTS, CLEAN, SPAMD_FAULTS, BlackHole, FakeClamd, FakeSpamd, Fault
from contrib.lab.process import wait_for
from contrib.lab.spamd import GTUBE
from contrib.lab.spamd import Spamd as SpamdServer
from gateway.scanners.address import parse_address
from gateway.scanners.clamd import Clamd, ClamdSettings
from gateway.scanners.spamd import Spamd, SpamdSettings

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.mail.types import Scan, SpamCheck

HEAD = (
    b"Return-Path: <alice@example.com>\r\nReceived: from a by b; Mon, 3 Nov 2025 10:00:00 +0000\r\n"
    b"From: alice@example.com\r\nTo: bob@example.org\r\nSubject: figures\r\n"
    b"Date: Mon, 3 Nov 2025 10:00:00 +0000\r\nMessage-ID: <1@example.com>\r\nMIME-Version: 1.0\r\n"
)
PLAIN = HEAD + b"\r\nHello Bob,\r\nhere they are.\r\n" + b"1 2 3 4 5 6 7 8 9\r\n" * 500
TIMEOUT = 0.4  # for servers that hang; others have time, for a machine that is busy
PATIENT = 10.0
PROMPT = 8.0  # seconds within which nobody has waited for all of the latter


def scan(*parts: bytes, addresses: tuple[str, ...], seconds: float = 20.0, **settings: float) -> Scan:
    scanner = Clamd(ClamdSettings(addresses=addresses, **settings))  # type: ignore[arg-type]  # numbers all
    return scanner.scan(parts, time.monotonic() + seconds)


def check(message: bytes, address: str, **settings: float) -> SpamCheck:
    client = Spamd(SpamdSettings(enabled=True, addresses=(address,), **settings))  # type: ignore[arg-type]  # numbers
    return client.check(message, time.monotonic() + 20)


def attached(data: bytes) -> bytes:
    body = base64.encodebytes(data).replace(b"\n", b"\r\n")
    return (
        HEAD + b'Content-Type: application/octet-stream; name="a.bin"\r\n'
        b"Content-Transfer-Encoding: base64\r\n\r\n" + body
    )


def zipped(data: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside.com", data)
    return packed.getvalue()


# ---------------------------------------------------------------- the real clamd


@pytest.mark.server("clamd")
@pytest.mark.parametrize("kind", ["unix", "tcp"])
@pytest.mark.parametrize(
    ("parts", "status", "name"),
    [
        ((PLAIN,), "clean", ""),
        ((PLAIN, HEAD), "clean", ""),
        ((HEAD + b"\r\n" + EICAR + b"\r\n",), "infected", "Eicar-Test-Signature.UNOFFICIAL"),
        ((attached(EICAR),), "infected", "Eicar-Test-Signature.UNOFFICIAL"),
        ((attached(zipped(EICAR)),), "infected", "Eicar-Test-Signature.UNOFFICIAL"),
        ((PLAIN + TEST_VIRUS,), "infected", "Mailwarden.Test.Signature.UNOFFICIAL"),
        ((PLAIN, HEAD, EICAR), "infected", "Eicar-Test-Signature.UNOFFICIAL"),
        ((EICAR, PLAIN, HEAD), "infected", "Eicar-Test-Signature.UNOFFICIAL"),
        ((PLAIN, b"x" * 3_000_000, TEST_VIRUS), "infected", "Mailwarden.Test.Signature.UNOFFICIAL"),
        ((b"x" * 3_000_000,), "clean", ""),
    ],
    ids=lambda value: "-".join(str(len(part)) for part in value) if isinstance(value, tuple) else None,
)
def test_scan(clamd: ClamdServer, kind: str, parts: tuple[bytes, ...], status: str, name: str) -> None:
    result = scan(*parts, addresses=(clamd.addresses[kind == "tcp"],))
    assert (result.status, result.name) == (status, name)
    assert result.engine.startswith("ClamAV ")


@pytest.mark.server("clamd")
def test_size_limits(clamd: ClamdServer, lab: Path) -> None:
    result = scan(EICAR, b"x" * 2000, addresses=clamd.addresses, max_size=1000)
    assert (result.status, result.name) == ("infected", "Eicar-Test-Signature.UNOFFICIAL")
    assert scan(PLAIN, b"x" * 20_000, addresses=clamd.addresses, max_size=19_000).status == "limit"
    with ClamdServer(lab / "small", options={"StreamMaxLength": "1M", "MaxScanSize": "512K"}) as small:
        for address in small.addresses:
            # a TCP reset may overtake clamd's words
            assert scan(b"x" * 5_000_000, addresses=(address,)).status in ("limit", "error")
            assert scan(PLAIN, b"x" * 5_000_000, PLAIN + b"1", addresses=(address,)).status in (
                "limit",
                "error",
            )
            inside = scan(attached(zipped(b"x" * 900_000)), addresses=(address,))
            assert (inside.status, inside.detail.partition(".UNOFFICIAL")[0]) == (
                "limit",
                "Heuristics.Limits.Exceeded.MaxScanSize",
            )


@pytest.mark.server("clamd")
def test_many_at_once(clamd: ClamdServer) -> None:
    scanner = Clamd(ClamdSettings(addresses=clamd.addresses, cache_size=4))
    messages = [PLAIN + (TEST_VIRUS if number % 3 == 0 else str(number).encode()) for number in range(60)]
    with ThreadPoolExecutor(8) as pool:
        results = pool.map(lambda message: scanner.scan([message], time.monotonic() + 20), messages)
    expected = ["infected" if number % 3 == 0 else "clean" for number in range(60)]
    assert [result.status for result in results] == expected


@pytest.mark.server("clamd")
def test_frozen_stopped_and_back(lab: Path) -> None:
    server = ClamdServer(lab / "back")
    settings = ClamdSettings(addresses=server.addresses[:1], timeout=TIMEOUT, rest=0.1)
    scanner = Clamd(settings)

    def status() -> str:
        return scanner.scan([PLAIN], time.monotonic() + 5).status

    assert status() == "error"
    with server:
        assert server.process
        wait_for(lambda: status() == "clean", 30, "a good answer")
        server.process.send_signal(signal.SIGSTOP)
        begin = time.monotonic()
        assert [status() for _ in range(4)] == ["error"] * 4
        assert time.monotonic() - begin < PROMPT
        server.process.send_signal(signal.SIGCONT)
        wait_for(lambda: status() == "clean", 30, "a good answer")
    assert status() == "error"
    with server:
        wait_for(lambda: status() == "clean", 30, "a good answer")


# ---------------------------------------------------------------- a clamd that fails

_NAMED = {
    "line break in the name": "Evil?X-Injected: yes",
    "terminal codes in the name": "?[2JEvil?",
    "name of 10 KB": "Evil" * 50,
    "no name": "unnamed",
}
_LIMITS = ("size limit after the stream", "time limit", "scan size limit")


def patience(fault: Fault) -> float:
    """The time-out with which a server that fails so is asked."""
    return TIMEOUT if fault.hang or fault.drip else PATIENT


@pytest.mark.parametrize("kind", ["unix", "tcp"])
@pytest.mark.parametrize("fault", CLAMD_FAULTS)
def test_clamd_fault(fault: str, kind: str, tmp_path: Path) -> None:
    with FakeClamd(CLAMD_FAULTS[fault], tmp_path / "s" if kind == "unix" else None) as server:
        begin = time.monotonic()
        result = scan(PLAIN, addresses=(server.address,), timeout=patience(CLAMD_FAULTS[fault]))
        assert time.monotonic() - begin < PROMPT
    if fault in _NAMED:
        assert (result.status, result.name) == ("infected", _NAMED[fault])
    elif fault == "size limit in the stream":
        assert result.status in ("limit", "error")
    elif fault == "encrypted":
        assert result.status == "encrypted"
    else:
        assert result.status == ("limit" if fault in _LIMITS else "error")
    assert result.detail
    assert (result.name + result.detail + result.engine).isprintable()


@pytest.mark.parametrize("fault", CLAMD_FAULTS)
def test_clamd_fault_in_a_session(fault: str, tmp_path: Path) -> None:
    with FakeClamd(CLAMD_FAULTS[fault], tmp_path / "s") as server:
        result = scan(PLAIN, HEAD, addresses=(server.address,), timeout=patience(CLAMD_FAULTS[fault]))
    # The second part got no answer, so nothing but a size limit, which ends a session, is an answer.
    assert result.status in ("limit", "error")


def test_the_fake_clamd_can_say_clean() -> None:
    with FakeClamd(CLEAN) as server:
        assert scan(PLAIN, addresses=(server.address,)).status == "clean"
        assert scan(PLAIN, HEAD, b"x" * 600_000, addresses=(server.address,)).status == "clean"


def test_the_deadline_of_the_message_counts() -> None:
    with FakeClamd(CLAMD_FAULTS["hangs after the stream"]) as server:
        begin = time.monotonic()
        assert scan(PLAIN, addresses=(server.address,), seconds=0.2, timeout=PATIENT).status == "error"
        assert time.monotonic() - begin < PROMPT


def test_a_port_that_never_answers() -> None:
    with BlackHole() as hole:
        begin = time.monotonic()
        result = scan(PLAIN, addresses=(hole.address,), connect_timeout=0.3, timeout=PATIENT)
        assert result.status == "error"
        assert time.monotonic() - begin < PROMPT


@pytest.mark.parametrize(
    "fault", ["closes at once", "hangs after the stream", "out of memory", "half an answer"]
)
def test_the_next_address_is_asked(fault: str) -> None:
    with FakeClamd(CLAMD_FAULTS[fault]) as broken, FakeClamd(CLEAN) as sound:
        addresses = ("unix:/nonexistent/clamd.ctl", broken.address, sound.address)
        assert scan(PLAIN, addresses=addresses, timeout=PATIENT / 2).status == "clean"


def test_no_other_address_is_asked_after_an_answer() -> None:
    found = Fault(answer=b"stream: Evil FOUND\0")
    with FakeClamd(found) as first, FakeClamd(CLEAN) as second:
        assert scan(PLAIN, addresses=(first.address, second.address)).status == "infected"
        assert second.connections == 0


def test_a_dead_address_is_left_alone() -> None:
    with FakeClamd(CLAMD_FAULTS["closes at once"]) as server:
        scanner = Clamd(ClamdSettings(addresses=(server.address,), rest=60))
        results = [scanner.scan([PLAIN], time.monotonic() + 5) for _ in range(20)]
        assert {result.status for result in results} == {"error"}
        assert server.connections == 1 + 3  # the version, and three scans
        assert "left alone" in results[-1].detail


def test_no_message_waits_for_a_clamd_that_hangs() -> None:
    """Once three have waited, a thread asks whether it is back, and the others are answered at once."""
    with FakeClamd(CLAMD_FAULTS["hangs after the stream"]) as server:
        settings = ClamdSettings(addresses=(server.address,), rest=0.1, timeout=0.3, connect_timeout=0.2)
        scanner = Clamd(settings)
        for _ in range(3):
            assert scanner.scan([PLAIN], time.monotonic() + 5).status == "error"
        end = time.monotonic() + 2
        took = []
        while time.monotonic() < end:
            begin = time.monotonic()
            assert "left alone" in scanner.scan([PLAIN], time.monotonic() + 5).detail
            took.append(time.monotonic() - begin)
            time.sleep(0.002)
        assert statistics.median(took) < 0.2, "less than any that asks has to wait"
        rests = (time.monotonic() - end + 2) / 0.1
        assert 5 <= server.connections <= 5 + rests  # it was asked, and no more than once in each rest
        server.fault = CLEAN
        wait_for(
            lambda: scanner.scan([PLAIN], time.monotonic() + 5).status == "clean", 30, "clamd to be back"
        )


def test_the_next_address_serves_while_the_first_hangs() -> None:
    """Messages wait for the first address three times, and then no more."""
    hangs = CLAMD_FAULTS["hangs after the stream"]
    with FakeClamd(hangs) as first, FakeClamd(CLEAN) as second:
        settings = ClamdSettings(addresses=(first.address, second.address), timeout=2.0, rest=60)
        scanner = Clamd(settings)
        begin = time.monotonic()
        results = [scanner.scan([PLAIN], time.monotonic() + 5) for _ in range(200)]
        assert {result.status for result in results} == {"clean"}
        assert time.monotonic() - begin < 60, "as long as sixty would take that waited"


@pytest.mark.server("clamd")
def test_a_reload_of_signatures_causes_no_failure(lab: Path) -> None:
    """clamd loads its signatures anew while four threads scan: each message gets its right answer."""
    over = threading.Event()
    with ClamdServer(lab / "reload") as server:
        scanner = Clamd(ClamdSettings(addresses=server.addresses[:1], version_interval=0.05, cache_size=3))

        def scan_on(number: int) -> list[Scan]:
            wrong: list[Scan] = []
            for count in itertools.count():
                infected = count % 3 == 0
                message = PLAIN + b"%d %d" % (number, count) + (TEST_VIRUS if infected else b"")
                result = scanner.scan([message], time.monotonic() + 30)
                wrong += [result] if result.status != ("infected" if infected else "clean") else []
                if over.wait(0.005):
                    return wrong
            return wrong

        with ThreadPoolExecutor(4) as pool:
            scans = [pool.submit(scan_on, number) for number in range(4)]
            for _ in range(6):
                with socket.create_connection(("127.0.0.1", server.port)) as stream:
                    stream.sendall(b"nRELOAD\n")
                    assert stream.recv(99) == b"RELOADING\n"
                time.sleep(0.1)
            over.set()
            assert [one.result() for one in scans] == [[]] * 4


@pytest.mark.server("clamd")
def test_a_clamd_killed_under_load_costs_nothing(lab: Path, clamd: ClamdServer) -> None:
    """The second address answers what the first one was asked when it died."""
    first = ClamdServer(lab / "killed")
    with first:
        assert first.process
        settings = ClamdSettings(addresses=(first.addresses[0], clamd.addresses[0]), timeout=20, rest=60)
        scanner = Clamd(settings)
        messages = [PLAIN + (TEST_VIRUS if n % 3 == 0 else str(n).encode()) for n in range(300)]
        with ThreadPoolExecutor(8) as pool:
            results = []
            for number, result in enumerate(
                pool.map(lambda message: scanner.scan([message], time.monotonic() + 20), messages)
            ):
                results.append(result)
                if number == 40:
                    first.process.kill()
        assert [r.status for r in results] == ["infected" if n % 3 == 0 else "clean" for n in range(300)]


def test_new_signatures_end_what_is_remembered() -> None:
    """What was clean by yesterday's signatures is scanned again by today's."""
    with FakeClamd(CLEAN) as server:
        settings = ClamdSettings(addresses=(server.address,), cache_size=9, version_interval=0.2)
        scanner = Clamd(settings)
        assert scanner.scan([PLAIN], time.monotonic() + 5).status == "clean"
        server.fault = Fault(answer=b"stream: Evil FOUND\0")
        assert scanner.scan([PLAIN], time.monotonic() + 5).status == "clean"  # from memory
        server.version = b"ClamAV 1.4.6/27501/Sun Nov 22 09:00:00 2026"
        time.sleep(0.3)
        assert scanner.scan([PLAIN], time.monotonic() + 5).status == "infected"


def test_a_message_clamd_cannot_scan_does_not_open_the_breaker() -> None:
    with FakeClamd(CLAMD_FAULTS["out of memory"]) as server:
        scanner = Clamd(ClamdSettings(addresses=(server.address,), rest=60))
        for _ in range(5):
            assert scanner.scan([PLAIN], time.monotonic() + 5).status == "error"
        server.fault = CLEAN
        assert scanner.scan([PLAIN], time.monotonic() + 5).status == "clean"


def test_results_are_remembered_by_digest_and_version() -> None:
    with FakeClamd(CLEAN) as server:
        scanner = Clamd(ClamdSettings(addresses=(server.address,), cache_size=2, version_interval=60))
        for message in (b"a", b"a", b"b", b"a", b"c", b"b"):  # b is the oldest when c comes
            assert scanner.scan([message], time.monotonic() + 5).status == "clean"
        assert server.connections == 1 + 4 + 2  # the version; a, b, c, b; the version at each that was known
        server.fault = Fault(answer=b"stream: Evil FOUND\0")
        assert scanner.scan([b"b"], time.monotonic() + 5).status == "clean"
        assert scanner.scan([b"b", b"c"], time.monotonic() + 5).status == "error"  # not one by one


def test_what_is_remembered_counts_only_while_the_server_says_the_same() -> None:
    with FakeClamd(CLEAN) as server:
        scanner = Clamd(ClamdSettings(addresses=(server.address,), cache_size=2, version_interval=60))
        assert scanner.scan([PLAIN], time.monotonic() + 5).status == "clean"
        server.version = b"ClamAV 1.4.6/27501/Sun Nov 22 09:00:00 2026"
        server.fault = Fault(answer=b"stream: Evil FOUND\0")
        assert scanner.scan([PLAIN], time.monotonic() + 5).status == "infected"  # well within the interval
    assert scanner.scan([PLAIN], time.monotonic() + 5).status == "error"


def test_a_server_without_a_version_scans_too() -> None:
    class Terse(FakeClamd):
        def serve(self, stream: socket.socket) -> None:
            if stream.recv(9, socket.MSG_PEEK) == b"nVERSION\n":
                stream.sendall(b"UNKNOWN COMMAND ERROR\n")
            else:
                super().serve(stream)

    with Terse(CLEAN) as server:
        scanner = Clamd(ClamdSettings(addresses=(server.address,), cache_size=9))
        results = [scanner.scan([PLAIN], time.monotonic() + 5) for _ in range(2)]
        assert [(result.status, result.engine) for result in results] == [("clean", "")] * 2
        assert server.connections == 3  # nothing is remembered without a version


def test_failures_are_not_remembered() -> None:
    with FakeClamd(CLAMD_FAULTS["out of memory"]) as server:
        scanner = Clamd(ClamdSettings(addresses=(server.address,), cache_size=9))
        assert scanner.scan([PLAIN], time.monotonic() + 5).status == "error"
        server.fault = CLEAN
        assert scanner.scan([PLAIN], time.monotonic() + 5).status == "clean"


# ---------------------------------------------------------------- spamd


@pytest.mark.server("spamd")
def test_check(spamd: SpamdServer) -> None:
    ham = check(PLAIN, spamd.address)
    assert (ham.status, ham.score, ham.required, ham.symbols) == ("ok", 0.0, 5.0, ())
    spam = check(PLAIN + b"\r\nCheap pills\r\n", spamd.address)
    assert (spam.score, spam.symbols) == (4.5, ("LAB_PILLS",))
    test = check(PLAIN + b"\r\n" + GTUBE.encode() + b"\r\n", spamd.address)
    assert test.score == 1000.0
    assert test.symbols == ("GTUBE",)


@pytest.mark.server("spamd")
def test_check_on_a_unix_socket(lab: Path) -> None:
    with SpamdServer(lab / "spamd-unix", unix=True) as server:
        assert check(PLAIN + b"cheap pills", server.address).score == 4.5


@pytest.mark.server("spamd")
def test_a_long_message_is_cut(spamd: SpamdServer) -> None:
    result = check(PLAIN + b"x\r\n" * 100_000 + b"cheap pills", spamd.address, max_size=len(PLAIN))
    assert (result.status, result.symbols) == ("ok", ())
    assert "first" in result.detail


@pytest.mark.parametrize("kind", ["unix", "tcp"])
@pytest.mark.parametrize("fault", SPAMD_FAULTS)
def test_spamd_fault(fault: str, kind: str, tmp_path: Path) -> None:
    with FakeSpamd(SPAMD_FAULTS[fault], tmp_path / "s" if kind == "unix" else None) as server:
        begin = time.monotonic()
        result = check(PLAIN, server.address, timeout=patience(SPAMD_FAULTS[fault]))
        assert time.monotonic() - begin < PROMPT
    assert result.status == "error"
    assert result.detail
    assert result.detail.isprintable()


def test_the_fake_spamd_can_answer() -> None:
    with FakeSpamd(Fault(answer=faults._GOOD)) as server:
        result = check(PLAIN, server.address)
        assert (result.status, result.score, result.symbols) == ("ok", 7.5, ("A_B", "C"))


def test_no_message_waits_for_a_spamd_that_hangs() -> None:
    class Answering(FakeSpamd):
        def answer(self, stream: socket.socket) -> None:
            stream.sendall(b"SPAMD/1.5 0 PONG\r\n")

    with FakeSpamd(SPAMD_FAULTS["hangs after the message"]) as server:
        settings = SpamdSettings(
            enabled=True, addresses=(server.address,), rest=0.05, timeout=0.3, connect_timeout=0.2
        )
        client = Spamd(settings)
        details = [client.check(PLAIN, time.monotonic() + 5).detail for _ in range(6)]
        assert ["left alone" in detail for detail in details] == [False] * 3 + [True] * 3
        server.answer = Answering.answer.__get__(server)  # type: ignore[method-assign]  # it is well again
        wait_for(lambda: "left alone" not in client.check(PLAIN, time.monotonic() + 5).detail, 30, "a probe")


@pytest.mark.server("spamd")
def test_spamd_answers_a_probe(spamd: SpamdServer) -> None:
    client = Spamd(SpamdSettings(enabled=True, addresses=(spamd.address,)))
    assert client._answers(parse_address(spamd.address))
    assert not client._answers(parse_address("127.0.0.1:1"))


def test_the_next_spamd_is_asked() -> None:
    with FakeSpamd(SPAMD_FAULTS["hangs at once"]) as broken, FakeSpamd(Fault(answer=faults._GOOD)) as sound:
        addresses = ("127.0.0.1:1", broken.address, sound.address)
        client = Spamd(SpamdSettings(enabled=True, addresses=addresses, timeout=PATIENT / 2))
        assert client.check(PLAIN, time.monotonic() + 20).status == "ok"
