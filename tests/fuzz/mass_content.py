# SPDX-License-Identifier: GPL-2.0-or-later
"""Many runs of each reader of content: `python -m tests.fuzz.mass_content [RUNS] [TARGET ...]`.

The properties are those of `test_mime_fuzz.py` and `test_unpack_fuzz.py`, without hypothesis between them
and the readers, so that some hundred thousand runs take minutes. The random numbers are those of
`mass.SEED`, so that a failure comes again. "archives" is what is read in Python, "children" what libarchive
reads, in one child that opens one after the other as it does behind a door; the shared data, where it is,
gives it archives of more kinds to start from.
"""

from __future__ import annotations

import atexit
import functools
import os
import sys
import zlib
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from typing import TYPE_CHECKING, Any

from gateway.scanners.unpack.pool import Unpacker
from gateway.scanners.unpack.settings import UnpackSettings
from tests import evasions, packages
from tests.fuzz import mass, test_mime_fuzz, test_unpack_fuzz
from tests.shared import SHARED

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from hypothesis.strategies import SearchStrategy

RUNS = 500_000
BUSY, SLOW = 0.3, 1.0  # seconds of processor time for one message, one archive
_SPOILERS = evasions.words("spoilers")


def _choices(strategy: SearchStrategy[Any]) -> list[Any]:
    """The pieces of a `sampled_from`."""
    elements: list[Any] = list(strategy.elements)  # type: ignore[attr-defined]  # of its subclass
    return elements


_MIME, _MARKUP = _choices(test_mime_fuzz.PIECES), _choices(test_mime_fuzz.MARKUP)
_FIELDS = _choices(test_mime_fuzz.FIELD_PIECES)
_NAMES = ("a.zip", "a.doc", "a.pdf", "", "a.gz")
_NOTE = bytes.fromhex("e716e3bd65261145a4c48d4d0b7a9eac")
_SMALL = 4_000  # octets of a seed, so that most of it is structure
_DOCUMENTS = (
    packages.tnef(b"a.exe", b"MZ" + bytes(60)),
    packages.openpgp(b"a.exe", b"MZ" + bytes(60)),
    packages.packed_cms(packages.ENTITY),
    b"ActiveMime" + bytes(40) + zlib.compress(bytes(99)),
    bytes.fromhex("e4525c7b8cd8a74daeb15378d02996d3")
    + bytes(50)
    + _NOTE
    + b"\x08"
    + bytes(19)
    + b"MZ"
    + bytes(60),
    b"{\\rtf1{\\field{\\*\\fldinst DDEAUTO c:}}}",
)
_CARRIERS = tuple(
    (kind, data)
    for kind, data in (
        (b"application/ms-tnef", packages.tnef(b"a.exe", b"MZ" + bytes(60))),
        (b"application/applefile", b"\0\5\x16\0" + bytes(21) + b"\1\0\0\0\1\0\0\0\x26\0\0\0\2MZ"),
        (b"application/x-macbinary", b"\0\5a.exe" + bytes(79) + b"\2" + bytes(41) + b"MZ"),
        (
            b"application/pkcs7-mime",
            bytes.fromhex(
                "3080 0609 2a864886f70d010702 a080 3080 0201 01 3100 3080"
                "0609 2a864886f70d010701 a080 2480 0404 4d5a0000 0000 0000 0000 0000"
            ),
        ),
        (b"text/calendar", b"BEGIN:VCALENDAR\r\nATTACH;ENCODING=BASE64;VALUE=BINARY:UEsDBBQAAAAIAAAA\r\n"),
        (b"message/rfc822", evasions.mixed(evasions.TEXT)),
    )
)


def message(rng: random.Random) -> tuple[list[bytes]]:
    """Pieces of messages in a row, or a valid message that was damaged in some places."""
    chosen = rng.random()
    if chosen < 0.1:
        kind, data = rng.choice(_CARRIERS)
        body = evasions.base64_lines(damaged(rng, data))
        return (
            [evasions.mixed(evasions.TEXT, evasions.attached(body, kind=b"Content-Type: " + kind + b"\r\n"))],
        )
    if chosen < 0.7:  # a whole message costs four times as much
        return (
            [
                piece if rng.random() < 0.8 else rng.randbytes(4)
                for piece in rng.choices(_MIME, k=rng.randrange(60))
            ],
        )
    raw = evasions.valid(rng, evasions.ZIP)
    for _ in range(rng.randrange(5)):
        start = rng.randrange(len(raw) + 1)
        end = min(len(raw), start + rng.choice((0, 0, 1, 4, 40)))
        raw = raw[:start] + rng.choice((*_SPOILERS, *_MIME, raw[start:end] * 2)) + raw[end:]
    return ([raw],)


def spoils(rng: random.Random) -> tuple[list[tuple[int, bytes]]]:
    """One spoiler at one place of the structure around a file."""
    return (
        [
            (
                rng.randrange(len(test_mime_fuzz.HEADER), len(test_mime_fuzz.INFECTED) + 1),
                rng.choice(_SPOILERS),
            )
        ],
    )


def markup(rng: random.Random) -> tuple[str]:
    """HTML, more or less."""
    pieces = rng.choices(_MARKUP, k=rng.randrange(60))
    return ("".join(piece if rng.random() < 0.9 else chr(rng.randrange(0xD7FF)) for piece in pieces),)


def field(rng: random.Random) -> tuple[bytes]:
    """Parameters of a field, more or less."""
    pieces = rng.choices(_FIELDS, k=rng.randrange(30))
    return (b"".join(piece if rng.random() < 0.9 else rng.randbytes(3) for piece in pieces),)


def damaged(rng: random.Random, seed: bytes) -> bytes:
    """A file that was damaged in some places."""
    data = bytearray(seed)
    for _ in range(rng.randrange(1, 7)):
        at, length = rng.randrange(len(data) + 1), rng.randrange(1, 60)
        data[at : at + rng.choice((0, 1, 4, length))] = rng.choice(
            (
                rng.randbytes(1),
                b"\xff" * 4,
                bytes(4),
                b"PK\3\4",
                b"PK\5\6",
                data[at : at + length],
                rng.randbytes(length),
            )
        )
    return bytes(data)


def archive(rng: random.Random) -> tuple[bytes, str]:
    """An archive or document that was damaged in some places."""
    return damaged(rng, rng.choice((*test_unpack_fuzz.SEEDS, *_DOCUMENTS))), rng.choice(_NAMES)


@functools.cache
def _natives() -> tuple[bytes, ...]:
    """Small archives of the kinds that libarchive reads."""
    own = [data for data in packages.packages().values() if len(data) <= _SMALL]
    folder = SHARED / "conformance/archives-libarchive/bin" if SHARED else None
    files = sorted(folder.iterdir()) if folder and folder.is_dir() else []
    return (*own, *(file.read_bytes() for file in files if file.stat().st_size <= _SMALL))


@functools.cache
def _unpacker() -> Unpacker:
    """The way to the child, which is ended with this process."""
    made = Unpacker(UnpackSettings(children=1, processor=1.0, depth=test_unpack_fuzz.LIMITS.depth))
    atexit.register(made.close)
    return made


def native(rng: random.Random) -> tuple[Unpacker, bytes]:
    """The way to the child, and an archive that was damaged in some places."""
    return _unpacker(), damaged(rng, rng.choice(_natives()))


TARGETS: dict[str, tuple[Any, Callable[[random.Random], tuple[Any, ...]], float]] = {
    "MIME": (test_mime_fuzz.test_never_raises, message, BUSY),
    "spoiled MIME": (test_mime_fuzz.test_a_spoiled_structure_hides_nothing, spoils, BUSY),
    "HTML": (test_mime_fuzz.test_any_markup_is_read, markup, mass.LIMIT),
    "names": (test_mime_fuzz.test_any_name_is_read, field, mass.LIMIT),
    "archives": (test_unpack_fuzz.test_any_archive_is_answered, archive, SLOW),
    "children": (test_unpack_fuzz.test_a_child_outlives_any_archive, native, SLOW),
}


def target(name: str, runs: int) -> str:
    """Run one target; what came of it."""
    prop, make, limit = TARGETS[name]
    return mass.run(partial(prop.hypothesis.inner_test), make, runs, limit)


def main(arguments: list[str]) -> int:
    """Run the targets named, or all, one on each processor; 1 if one of them failed."""
    runs = int(arguments[0]) if arguments else RUNS
    failed = False
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        going = {pool.submit(target, name, runs): name for name in arguments[1:] or TARGETS}
        for done in as_completed(going):
            report = done.result()
            failed |= report.startswith("FAILED")
            print(f"{going[done]:16} {report}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
