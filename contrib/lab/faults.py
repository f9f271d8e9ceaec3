# SPDX-License-Identifier: GPL-2.0-or-later
"""Servers that fail: a fake clamd, a fake spamd, and a port that never answers.

A fault says how far the server goes (connect, in the stream, after it), what it answers then, and
whether it hangs up, hangs, drips or never stops.
"""

from __future__ import annotations

import abc
import contextlib
import socket
import struct
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Literal, Self

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Fault:
    """What a fake server does."""

    stage: Literal["connect", "stream", "answer"] = "answer"
    answer: bytes = b""
    hang: bool = False  # instead of hanging up
    drip: float = 0.0  # seconds between two octets of the answer
    endless: bool = False  # repeat the answer until the client hangs up


CLEAN = Fault(answer=b"stream: OK\0")

CLAMD_FAULTS = {
    "hangs at once": Fault("connect", hang=True),
    "hangs in the stream": Fault("stream", hang=True),
    "hangs after the stream": Fault(hang=True),
    "closes at once": Fault("connect"),
    "closes in the stream": Fault("stream"),
    "closes after the stream": Fault(),
    "half an answer": Fault(answer=b"stream: O"),
    "OK without its end": Fault(answer=b"stream: OK"),
    "OK without its end, hangs": Fault(answer=b"stream: OK", hang=True),
    "OK in drips": Fault(answer=b"stream: OK\0", drip=0.5),
    "OK after other words": Fault(answer=b"stream: all is well OK\0"),
    "OK for another file": Fault(answer=b"/var/mail/root: OK\0"),
    "OK twice": Fault(answer=b"stream: OK\0stream: OK\0"),
    "OK and more": Fault(answer=b"stream: OK\0stream: "),
    "OK in a session that is none": Fault(answer=b"1: stream: OK\0"),
    "OK with line end": Fault(answer=b"stream: OK\r\n\0"),
    "OK in lower case": Fault(answer=b"stream: ok\0"),
    "empty answer": Fault(answer=b"\0"),
    "binary answer": Fault(answer=bytes(range(1, 256)) + b"\0"),
    "unknown command": Fault(answer=b"UNKNOWN COMMAND\0"),
    "size limit in the stream": Fault("stream", b"INSTREAM size limit exceeded. ERROR\0"),
    "size limit after the stream": Fault(answer=b"INSTREAM size limit exceeded. ERROR\0"),
    "out of memory": Fault(answer=b"stream: Can't allocate memory ERROR\0"),
    "out of memory, no path": Fault(answer=b"Can't allocate memory ERROR\0"),
    "cannot open file": Fault(answer=b"stream: Can't create temporary file ERROR\0"),
    "time limit": Fault(answer=b"stream: Heuristics.Limits.Exceeded.MaxScanTime FOUND\0"),
    "scan size limit": Fault(answer=b"stream: Heuristics.Limits.Exceeded.MaxScanSize FOUND\0"),
    "encrypted": Fault(answer=b"stream: Heuristics.Encrypted.Zip FOUND\0"),
    "line break in the name": Fault(answer=b"stream: Evil\r\nX-Injected: yes FOUND\0"),
    "terminal codes in the name": Fault(answer=b"stream: \x1b[2JEvil\x07\xff FOUND\0"),
    "name of 10 KB": Fault(answer=b"stream: " + b"Evil" * 2_560 + b" FOUND\0"),
    "no name": Fault(answer=b"stream:  FOUND\0"),
    "endless answer": Fault(answer=b"stream: Evil " * 1000, endless=True),
}

_GOOD = b"SPAMD/1.1 0 EX_OK\r\nContent-length: 5\r\nSpam: True ; 7.5 / 5.0\r\n\r\nA_B,C"

SPAMD_FAULTS = {
    "hangs at once": Fault("connect", hang=True),
    "hangs after the message": Fault(hang=True),
    "closes at once": Fault("connect"),
    "closes after the message": Fault(),
    "half an answer": Fault(answer=_GOOD[:30]),
    "half the symbols": Fault(answer=_GOOD[:-2]),
    "more than announced": Fault(answer=_GOOD + b",MORE"),
    "in drips": Fault(answer=_GOOD, drip=0.5),
    "temporary failure": Fault(answer=b"SPAMD/1.0 75 EX_TEMPFAIL\r\n\r\n"),
    "bad header": Fault(answer=b"SPAMD/1.0 76 Bad header line: (Content-Length mismatch)\r\n"),
    "no Spam field": Fault(answer=_GOOD.replace(b"Spam: True ; 7.5 / 5.0\r\n", b"")),
    "two Spam fields": Fault(answer=_GOOD.replace(b"Spam:", b"Spam: False ; 0.0 / 5.0\r\nSpam:")),
    "score nan": Fault(answer=_GOOD.replace(b"7.5", b"nan")),
    "score inf": Fault(answer=_GOOD.replace(b"7.5", b"inf")),
    "score of 400 digits": Fault(answer=_GOOD.replace(b"7.5", b"9" * 400)),
    "not spamd": Fault(answer=b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "binary answer": Fault(answer=bytes(range(256))),
    "endless answer": Fault(answer=_GOOD * 100, endless=True),
}


class FakeServer(abc.ABC):
    """Answers each connection in a thread of its own, on TCP or on a unix path."""

    def __init__(self, fault: Fault, path: Path | None = None) -> None:
        self.fault = fault
        self.connections = 0
        self._stopping = threading.Event()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX if path else socket.AF_INET, socket.SOCK_STREAM)
        self._listener.bind(str(path) if path else ("127.0.0.1", 0))
        self.address = f"unix:{path}" if path else f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._listener.listen(64)
        threading.Thread(target=self._accept, name="fake", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for stream in self._open:
                with contextlib.suppress(OSError):
                    stream.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                stream, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                self._open.add(stream)
            threading.Thread(target=self._serve, args=(stream,), daemon=True).start()

    def _serve(self, stream: socket.socket) -> None:
        try:
            with contextlib.suppress(OSError, EOFError, struct.error), stream:
                self.serve(stream)
        finally:
            with self._lock:
                self._open.discard(stream)

    @abc.abstractmethod
    def serve(self, stream: socket.socket) -> None:
        """Read what the client sends, then `answer`."""

    def answer(self, stream: socket.socket) -> None:
        """Do what the fault says at its stage."""
        fault = self.fault
        while not self._stopping.is_set():
            if fault.drip:
                for octet in fault.answer:
                    stream.sendall(bytes((octet,)))
                    self._stopping.wait(fault.drip)
            else:
                stream.sendall(fault.answer)
            if not fault.endless:
                break
        if fault.hang:
            self._stopping.wait()


class FakeClamd(FakeServer):
    """Speaks enough of clamd's protocol to reach the fault; answers VERSION unless it fails earlier."""

    version = b"ClamAV 1.4.6/27500/Sat Nov 21 09:00:00 2026"

    def serve(self, stream: socket.socket) -> None:
        if self.fault.stage == "connect":
            self.answer(stream)
            return
        with stream.makefile("rb") as reader:
            command = _command(reader.read(1), reader)
            if command == b"VERSION":
                stream.sendall(self.version + b"\n")
                return
            number = 0
            session = command == b"IDSESSION"
            while command != b"END":
                if session:
                    number += 1
                    command = _command(reader.read(1), reader)
                if self.fault.stage == "stream":
                    reader.read(4)
                    break
                while size := struct.unpack("!I", reader.read(4))[0]:
                    reader.read(size)
                if not session:
                    break
                if self.fault is CLEAN:
                    stream.sendall(b"%d: " % number + self.fault.answer)
                    continue
                stream.sendall(b"%d: " % number)
                break
            self.answer(stream)


def _command(prefix: bytes, reader: BinaryIO) -> bytes:
    """Read one command with its terminator: "z" and NUL, or "n" and LF."""
    end = b"\0" if prefix == b"z" else b"\n"
    command = b""
    while not command.endswith(end):
        octet = reader.read(1)
        if not octet:
            raise EOFError
        command += octet
    return command[:-1]


class FakeSpamd(FakeServer):
    """Reads a request to its end, then fails."""

    def serve(self, stream: socket.socket) -> None:
        if self.fault.stage != "connect":
            while stream.recv(65_536):
                pass
        self.answer(stream)


class BlackHole:
    """A port whose queue of connections is full: a further one is never answered."""

    def __init__(self) -> None:
        self._listener = socket.socket()
        self._waiting: list[socket.socket] = []

    def __enter__(self) -> Self:
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(0)
        self.port: int = self._listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        for _ in range(8):
            waiting = socket.socket()
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", self.port))
            self._waiting.append(waiting)
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (*self._waiting, self._listener):
            stream.close()
