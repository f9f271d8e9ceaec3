# SPDX-License-Identifier: GPL-2.0-or-later
"""The child process: reads requests on its standard input, answers on its standard output.

Reads hostile bytes, and may crash, hang or run out of memory over them: its parent takes that for
an error and starts another one. It can open no file and no socket (no descriptor beyond its own
is left to it), start no program, write no octet to a disk, and use so much memory and processor
time. It ends when it has been idle for a while, and when its parent is gone.
"""

from __future__ import annotations

import gc
import os
import resource
import select
import signal
import sys

from gateway.mail import charsets
from gateway.scanners.unpack import frames
from gateway.scanners.unpack.walk import Walker

_GRACE = 0.3  # seconds of processor time between the orderly end and the other one
_NICE = 5  # ordinary mail goes first


def main(arguments: list[str]) -> int:
    """Serve until idle; `arguments` are octets of memory and seconds of idleness."""
    memory, idle = int(arguments[0]), float(arguments[1])
    source, sink = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):  # what a library prints must not reach the protocol
        os.dup2(null, number)
    os.close(null)
    charsets.preload()
    gc.freeze()  # what the libraries keep is not looked through after each message
    _confine(memory, max(source, sink) + 1)
    with os.fdopen(source, "rb") as requests, os.fdopen(sink, "wb", buffering=0) as answers:
        while select.select([requests], [], [], idle)[0]:
            start = requests.read(frames.HEAD.size)
            if len(start) < frames.HEAD.size:
                return 0
            size, _ = frames.lengths(start, frames.MAX_RAW)
            request = frames.request(requests.read(size))
            contents = [requests.read(length) for _, _, length in request.items]
            answer, parts = serve(request, contents)
            for piece in (frames.head(answer, answer.parts), *parts):
                _write(answers.fileno(), piece)
            del request, contents, answer, parts
            gc.collect()
    return 0


def serve(request: frames.Request, contents: list[bytes]) -> tuple[frames.Answer, list[bytes]]:
    """Answer one request; past its processor time the process is ended by SIGPROF."""
    signal.setitimer(signal.ITIMER_PROF, request.limits.seconds + _GRACE)
    walker = Walker(request.limits, request.passwords)
    items = zip(request.items, contents, strict=True)
    unpacked = walker.walk((index, name, data) for (index, name, _), data in items)
    signal.setitimer(signal.ITIMER_PROF, 0)
    parts = list(walker.parts)
    return frames.Answer(unpacked, tuple(map(len, parts)), walker.text), parts


def _confine(memory: int, files: int) -> None:
    os.nice(_NICE)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for what, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_NOFILE, files),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        resource.setrlimit(what, (most, most))


def _write(number: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(number, view) :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
