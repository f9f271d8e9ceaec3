# SPDX-License-Identifier: GPL-2.0-or-later
"""The parent's side: children that are started late, asked within a deadline, and replaced.

Hands hostile bytes to children and reads their answers, which are as hostile. A child that
crashes, hangs, says nonsense or runs into a limit of the system costs the message it was asked
about an "error", and is replaced; nobody else notices. Children are started by `subprocess`,
which is safe in a process with threads, as os.fork is not. As many threads as there are children
wait for them, made with the first archive: other questions never queue behind a slow one.
"""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from gateway.mail import magic
from gateway.mail.edits import remainder
from gateway.mail.headers import printable
from gateway.mail.types import Attachment, Content, Cut, Finding, Unpacked
from gateway.scanners.unpack import frames
from gateway.scanners.unpack.kinds import wanted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.scanners.unpack.settings import UnpackSettings

_WORD = re.compile(r"[^\s\"'“”„«»<>()\[\]{}]{3,40}")
_CUE = re.compile(
    r"(?:pass|kenn|parol|contrase|senha|code|pwd|\bpw|mot de|wachtw|heslo|has[lł]o)", re.IGNORECASE
)
_TEXT = 20_000  # characters in which passwords are looked for


class Answer(NamedTuple):
    """What was found, members that the virus scanner is to see as files of their own, words of documents."""

    unpacked: Unpacked
    parts: tuple[bytes, ...] = ()
    text: str = ""
    late: bool = False  # the child was not done in time


class Unpacker:
    """The children of one process. Safe for threads; nothing is started before the first archive."""

    def __init__(self, settings: UnpackSettings) -> None:
        self._settings = settings
        self._threads = ThreadPoolExecutor(settings.children, "unpack")
        self._lock = threading.Lock()
        self._idle: list[_Child] = []
        self._all: set[_Child] = set()
        self._closed = False

    def submit(self, content: Content, deadline: float) -> Future[tuple[Answer, float]] | None:
        """Ask about the attachments of a message, None if there is nothing to open.

        The future gives the answer and the milliseconds it took; it never raises. `deadline` is on
        `time.monotonic()`.
        """
        items = [(number, a) for number, a in enumerate(content.attachments) if wanted(a)]
        if not items:
            return None
        if sum(a.size for _, a in items) > self._settings.input:
            finding = Finding("limit", "", f"input: more than {self._settings.input} octets")
            done: Future[tuple[Answer, float]] = Future()
            done.set_result((Answer(Unpacked("ok", findings=(finding,))), 0.0))
            return done
        named = [(number, a.names[0] if a.names else "", a.data) for number, a in items]
        words = passwords(content, self._settings.passwords)
        return self._threads.submit(self._ask, named, words, deadline)

    def close(self) -> None:
        """End all children, also those that are at work."""
        with self._lock:
            self._closed = True
            children = list(self._all)
        for child in children:
            child.kill()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _ask(
        self, items: list[tuple[int, str, bytes]], words: tuple[str, ...], deadline: float
    ) -> tuple[Answer, float]:
        started = time.monotonic()
        request = frames.Request(
            self._settings.limits(),
            words,
            tuple((number, printable(name, 255), len(data)) for number, name, data in items),
        )
        until = min(deadline, started + self._settings.timeout)
        try:
            answer = self._exchange(request, [data for *_, data in items], until)
        except (OSError, frames.FrameError, EOFError) as error:
            text = f"{type(error).__name__}: {error}"
            answer = Answer(
                Unpacked("error", detail=printable(text, 200)), late=isinstance(error, TimeoutError)
            )
        return answer, round((time.monotonic() - started) * 1000, 2)

    def _exchange(self, request: frames.Request, contents: Sequence[bytes], until: float) -> Answer:
        """Ask a child, and once more if it had ended before it heard the question."""
        while True:
            child = self._take()
            answer = None
            try:
                answer = child.ask(request, contents, until, self._settings.parts)
            except _Stale:
                continue
            finally:
                self._give_back(child, good=answer is not None)
            return answer

    def _take(self) -> _Child:
        with self._lock:
            if self._closed:
                raise EOFError("the worker ends")
            if self._idle:
                return self._idle.pop()
            child = _Child(self._settings)
            self._all.add(child)
            return child

    def _give_back(self, child: _Child, *, good: bool) -> None:
        with self._lock:
            if good and not self._closed and child.asked < self._settings.requests:
                self._idle.append(child)
                return
            self._all.discard(child)
        child.kill()


class _Stale(Exception):  # noqa: N818  # no error: the child had been idle, and was gone
    """The child was gone before the question."""


class _Child:
    """One child process and the pipes to it."""

    def __init__(self, settings: UnpackSettings) -> None:
        self.asked = 0
        command = [sys.executable, "-I", "-m", "gateway.scanners.unpack.child"]
        command += [str(settings.memory), str(settings.idle)]
        self._process = subprocess.Popen(  # noqa: S603  # our own interpreter and module
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8", "LIBARCHIVE": "libarchive.so.13"},
            start_new_session=True,  # a terminal's interrupt is for the parent to handle
        )
        assert self._process.stdin and self._process.stdout  # noqa: PT018  # both are pipes
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._to, False)
        os.set_blocking(self._from, False)

    def ask(self, request: frames.Request, contents: Sequence[bytes], until: float, most: int) -> Answer:
        """Send a question and read the answer. Raises OSError, EOFError, FrameError, `_Stale`."""
        used, self.asked = self.asked, self.asked + 1
        head = frames.head(request, [size for *_, size in request.items])
        try:
            for piece in (head, *contents):
                self._send(piece, until)
            start = self._receive(frames.HEAD.size, until)
        except (BrokenPipeError, EOFError):
            status = self._status()  # its pipes are closed a moment before it has one
            if used and status == 0:
                raise _Stale from None
            raise EOFError(f"the child ended with status {status}") from None
        size, rest = frames.lengths(start, most)
        try:
            text, raw = self._receive(size, until), self._receive(rest, until)
        except EOFError:
            raise EOFError(f"the child ended with status {self._status()}") from None
        return Answer(*frames.answer(text, raw))

    def kill(self) -> None:
        """End the child, whatever it does, and let go of it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()

    def _status(self) -> int:
        try:
            return self._process.wait(1)
        except subprocess.TimeoutExpired:
            return 0

    def _send(self, data: bytes, until: float) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._to, view) :]
            except BlockingIOError:
                _wait(self._to, select.POLLOUT, until)

    def _receive(self, count: int, until: float) -> bytes:
        pieces, missing = [], count
        while missing:
            try:
                piece = os.read(self._from, min(missing, 1 << 20))
            except BlockingIOError:
                _wait(self._from, select.POLLIN, until)
                continue
            if not piece:
                raise EOFError
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)


def _wait(number: int, event: int, until: float) -> None:
    left = until - time.monotonic()
    poll = select.poll()
    poll.register(number, event)
    if left <= 0 or not poll.poll(left * 1000):
        raise TimeoutError("no answer in time")


def without_unopened(raw: bytes, content: Content, first: int) -> tuple[bytes, ...]:
    """What may be scanned of a message in which a bound was hit at attachment `first` (-1: at all of them).

    The message without what was not opened to its end, if that can be cut out, and each other file in it.
    """
    closed = {n for n, a in enumerate(content.attachments) if n >= first and wanted(a)}
    rest = [a.data for n, a in enumerate(content.attachments) if n not in closed]
    rest += (r for r in content.readings if not wanted(Attachment((), "", magic.detect(r), len(r), "", 1, r)))
    spans = {content.attachments[n].part for n in closed}
    if content.certain and None not in spans:
        rest.insert(0, remainder(raw, 0, [Cut(*span, "") for span in spans if span]))
    return tuple(data for data in rest if data)


def passwords(content: Content, most: int) -> tuple[str, ...]:
    """Choose words of a message that may be passwords: those near a word for it come first."""
    if not most:
        return ()
    near: dict[str, None] = {}
    other: dict[str, None] = {}
    for text in (content.subject, *(t.text for t in content.texts)):
        words = [word.rstrip(".,;!?") for word in _WORD.findall(text[:_TEXT])]
        cues = [number for number, word in enumerate(words) if _CUE.search(word)]
        for number in cues:
            near.update(dict.fromkeys(words[number + 1 : number + 7]))
            near.setdefault(words[number].rpartition(":")[2])
        other.update(dict.fromkeys(word for word in words if any(c.isdigit() for c in word)))
        other.update(dict.fromkeys(words[:most]))
    found = (word for word in near | other if len(word) > 2 and word.isprintable())
    return tuple(word for word, _ in zip(found, range(most), strict=False))
