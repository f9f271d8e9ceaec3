# SPDX-License-Identifier: GPL-2.0-or-later
"""A test virus behind more of something than is looked at: found, or the message held, and never passed over.

Whoever bounds what is read has to say that something was left. All are made at run time; `crowds`
goes by the bounds of the readers, with a count below and above each.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.evasions import (
    ENCODING,
    MIXED,
    NAMED,
    TEXT,
    TOP,
    TYPE,
    attached,
    base64_lines,
    mixed,
    uuencoded,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

PLAIN = b"Content-Type: text/plain\r\n"
FIELD = b'Content-Type: multipart/mixed; boundary="bound"\r\n'
SHORT = b"--x%d\r\nContent-Type: text/plain\r\n\r\nx\r\n"
DECOY = b"UEsDBBQA" + b"x" * 50 + b" %d\r\n\r\n."


def crowds(payload: bytes) -> Iterator[tuple[str, bytes]]:
    """Each crowd once, with a name."""
    body = base64_lines(payload)
    part = attached(body)
    yield from _files(payload)
    for count in (3, 4, 5, 20):
        yield from _fields(count, body, part)
    for octets in (190_000, 210_000, 900_000):
        yield from _padding(octets, body, part)
    for count in (400, 600, 3_000):
        yield from _delimiters(count, part)
    for count in (17, 250, 2_100):
        yield from _parameters(count, body, part)


def _files(payload: bytes) -> Iterator[tuple[str, bytes]]:
    """Files that stand in text, behind many others."""
    code = b"begin 644 e.com\r\n" + uuencoded(payload) + b"`\r\nend\r\n"
    other = b"begin 644 a.txt\r\n" + uuencoded(b"x" * 20) + b"`\r\nend\r\n"
    shifted = bytes((octet + 42) & 255 for octet in payload)
    hidden = re.sub(rb"[\0\n\r=]", lambda found: b"=" + bytes(((found[0][0] + 64) & 255,)), shifted)
    yenc = b"=ybegin line=128 size=1 name=%s\r\n%s\r\n=yend size=1\r\n"
    for name, text in {
        "uuencoded files": other * 150 + code,
        "words that begin none": b"begin 644 a\r\nhello world\r\n" * 300 + code,
        "yEnc files": (yenc % (b"a", b"zzz")) * 150 + yenc % (b"e.com", hidden),
    }.items():
        yield name, TOP + b"\r\n" + text
        yield f"{name} in a part", mixed(TEXT, PLAIN + b"\r\n" + text)
        yield f"{name} in base64", mixed(TEXT, PLAIN + ENCODING + b"base64\r\n\r\n" + base64_lines(text))


def _fields(count: int, body: bytes, part: bytes) -> Iterator[tuple[str, bytes]]:
    """Fields that are given many times, and mean another thing once."""
    texts = b"".join(b"Content-Type: text/plain; x=%d\r\n" % n for n in range(count))
    others = b"".join(b"Content-Type: multipart/mixed; boundary=o%d\r\n" % n for n in range(count))
    identities = b"".join(ENCODING + (b"7bit", b"8bit", b"binary")[n % 3] + b"\r\n" for n in range(count))
    encoded = ENCODING + b"base64\r\n"
    yield f"{count} texts, then a multipart", mixed(TEXT, part, kind=texts + FIELD)
    yield f"a multipart, then {count} texts", mixed(TEXT, part, kind=FIELD + texts)
    yield f"{count} boundaries, then the one", mixed(TEXT, part, kind=others + FIELD)
    yield f"the boundary, then {count} others", mixed(TEXT, part, kind=FIELD + others)
    yield f"{count} encodings, then base64", mixed(TEXT, TYPE + identities + encoded + NAMED + b"\r\n" + body)
    yield f"base64, then {count} encodings", mixed(TEXT, TYPE + encoded + identities + NAMED + b"\r\n" + body)
    yield (
        f"{count} texts, then a message",
        TOP + texts + b"Content-Type: message/rfc822\r\n\r\n" + mixed(TEXT, part),
    )


def _padding(octets: int, body: bytes, part: bytes) -> Iterator[tuple[str, bytes]]:
    """Header sections of which more than the first octets have to be read."""
    padding = (b"X-Pad: " + b"y" * 900 + b"\r\n") * (octets // 909)
    parts = b"\r\n--bound\r\n" + TEXT + b"--bound\r\n" + part + b"--bound--\r\n"
    for name in (b" Content-Type", b"Content-Type\0", b"Content_Type", b"\vContent-Type", b"Content-Type"):
        field = name + b': multipart/mixed; boundary="bound"\r\n'
        encoded = name.replace(b"Type", b"Transfer-Encoding") + b": base64\r\n"
        yield f"{octets} octets, then {name!r}", TOP + padding + field + parts
        yield (
            f"{octets} octets, then the encoding {name!r}",
            mixed(TEXT, padding + TYPE + encoded + NAMED + b"\r\n" + body),
        )
        for odd in (b"X: \0\r\n", b"X: y\r", b"junk\r\n"):
            yield f"{octets} octets, then {odd!r} and {name!r}", TOP + padding + odd + field + parts


def _delimiters(count: int, part: bytes) -> Iterator[tuple[str, bytes]]:
    """Lines that are almost delimiters, and delimiters of nothing."""
    start, end = TOP + MIXED + b"\r\n--bound\r\n" + PLAIN + b"\r\n", b"--bound--\r\n"
    within = b"x --bound\r\n" * count
    yield f"{count} within lines, then behind CR", start + within + b"x\r--bound\r\n" + part + end
    yield f"{count} within lines, then behind a space", start + within + b" --bound\r\n" + part + end
    yield f"{count} longer ones", start + b"--boundx\r\n" * count + b"--bound\v\r\n" + part + end
    yield f"{count} closing ones", TOP + MIXED + b"\r\n" + end * count + b"--bound\r\n" + part + end
    shorts = b"".join(SHORT % n for n in range(count))
    other = shorts + b"--o\r\n" + part + b"--o--\r\n"
    yield f"{count} that nothing declares", TOP + MIXED + b"\r\n" + other
    yield f"{count} in text", TOP + b"\r\n" + other
    yield f"{count} before the parts", mixed(TEXT, before=other)
    yield f"{count} behind the parts", mixed(TEXT) + other


def _parameters(count: int, body: bytes, part: bytes) -> Iterator[tuple[str, bytes]]:
    """Parameters, comments, folds, and what looks like a file and is none."""
    head = b"Content-Type: multipart/mixed"
    others = b"".join(b"; boundary=o%d" % n for n in range(count))
    unknown = b"".join(b"; p%d=x" % n for n in range(count))
    comment = b"(" * count + b")" * count
    for name, kind in {
        "boundaries, then the one": head + others + b"; boundary=bound\r\n",
        "boundaries behind the one": head + b"; boundary=bound" + others + b"\r\n",
        "parameters, then the boundary": head + unknown + b"; boundary =bound\r\n",
        "comments": b"Content-Type: " + comment + b"multipart/mixed; boundary=bound\r\n",
        "white lines": head + b";\r\n" + b" \r\n" * count + b" boundary=bound\r\n",
    }.items():
        yield f"{count} {name}", mixed(TEXT, part, kind=kind)
    yield f"{count} comments before the encoding", mixed(TEXT, attached(body, comment + b"base64"))
    yield f"{count} empty lines before the fields", mixed(TEXT, b"\r\n" * count + part)
    decoys = b"".join(DECOY % n for n in range(count)) + b"\r\n" + body
    yield f"{count} decoys", TOP + b"\r\n" + decoys
    odd = TYPE + b"X-Content-Transfer-Encoding: base64\r\n" + NAMED + b"\r\n"
    yield f"{count} decoys in a part", mixed(TEXT, odd + decoys)
    yield (
        f"{min(count, 60)} messages",
        TOP + b"Content-Type: message/rfc822\r\n\r\n" * min(count, 60) + mixed(TEXT, part),
    )
