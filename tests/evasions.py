# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages with a test virus in a structure that readers read differently, and valid ones in every spelling.

All are made at run time. `tricks` are single ideas, `spoiled` has something wrong at each place of a
message in turn, and `valid` are well-formed messages as some program somewhere may write them: what
the first two hide must be found or held, and the last must be found and not be marked.
"""

from __future__ import annotations

import base64
import binascii
import re
import tomllib
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING

from contrib.lab.clamd import EICAR
from tests.bombs import zipped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

_WORDS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())


def words(name: str) -> tuple[bytes, ...]:
    """A list of evasions.toml, as octets."""
    return tuple(word.encode("latin-1") for word in _WORDS[name])


BOUNDARIES = tuple((a.encode("latin-1"), b.encode("latin-1")) for a, b in _WORDS["boundaries"])
ZIP = zipped([("eicar.com", EICAR)])
TOP = (
    b"From: a@example.com\r\nTo: b@example.org\r\nSubject: x\r\nDate: Sun, 22 Nov 2026 10:00:00 +0000\r\n"
    b"Message-ID: <x@example.com>\r\nMIME-Version: 1.0\r\n"
)
MIXED = b'Content-Type: multipart/mixed; boundary="bound"\r\n'
TEXT = b"Content-Type: text/plain; charset=us-ascii\r\n\r\nhello\r\n"
TYPE = b'Content-Type: application/octet-stream; name="a.txt"\r\n'
NAMED = b'Content-Disposition: attachment; filename="a.txt"\r\n'
ENCODING = b"Content-Transfer-Encoding: "


def base64_lines(data: bytes, length: int = 76) -> bytes:
    text = base64.b64encode(data)
    return b"".join(text[at : at + length] + b"\r\n" for at in range(0, len(text), length))


def escaped(data: bytes) -> bytes:
    text = b"".join(b"=%02X" % octet for octet in data)
    return b"=\r\n".join(text[at : at + 72] for at in range(0, len(text), 72)) + b"\r\n"


def uuencoded(data: bytes) -> bytes:
    return b"".join(
        binascii.b2a_uu(data[at : at + 45]).replace(b"\n", b"\r\n") for at in range(0, len(data), 45)
    )


def attached(body: bytes, encoding: bytes = b"base64", kind: bytes = TYPE, named: bytes = NAMED) -> bytes:
    return kind + ENCODING + encoding + b"\r\n" + named + b"\r\n" + body


def mixed(
    *parts: bytes,
    kind: bytes = MIXED,
    boundary: bytes = b"bound",
    before: bytes = b"",
    end: bytes | None = None,
    top: bytes = TOP,
) -> bytes:
    inner = b"".join(b"--" + boundary + b"\r\n" + part for part in parts)
    return top + kind + b"\r\n" + before + inner + (b"--" + boundary + b"--\r\n" if end is None else end)


# ---------------------------------------------------------------- one thing wrong at each place

STRUCTURE = (
    MIXED + b"\r\n--bound\r\n" + TEXT + b"--bound\r\n" + TYPE + ENCODING + b"base64\r\n" + NAMED + b"\r\n"
)


def spoiled(payload: bytes) -> Iterator[tuple[str, bytes]]:
    """A message with each spoiler put in, put over, or an octet taken out, at each place in turn."""
    spoilers = words("spoilers")
    tail = base64_lines(payload) + b"--bound--\r\n"
    for at in range(len(STRUCTURE) + 1):
        first, rest = TOP + STRUCTURE[:at], STRUCTURE[at:] + tail
        yield f"without {at}", first + rest[1:]
        for spoiler in spoilers:
            yield f"{spoiler!r} at {at}", first + spoiler + rest
            yield f"{spoiler!r} over {at}", first + spoiler + rest[1:]


# ---------------------------------------------------------------- single ideas

LONG_TYPES = (
    b"multipart/mixed" + b"; x=y" * 300 + b"; boundary=bound",
    b'multipart/mixed; x="' + b"y" * 30_000 + b'"; boundary=bound',
    b"multipart/mixed" + b" " * 5_000 + b"; boundary=bound",
)
LONG_BOUNDARIES = (
    (b"b" * 70, b"b" * 70),
    (b"b" * 300, b"b" * 300),
    (b"b" * 2_049, b"b" * 2_049),
    (b"b" * 70, b"b" * 75),
    (b"b" * 75, b"b" * 70),
)


def tricks(payload: bytes) -> Iterator[tuple[str, bytes]]:
    """Each idea once, with a name."""
    body = base64_lines(payload)
    part = attached(body)
    whole = mixed(TEXT, part)
    for value in (*words("types"), *LONG_TYPES):
        yield f"type {value[:80]!r}", mixed(TEXT, part, kind=b"Content-Type: " + value + b"\r\n")
    for written, declared in (*BOUNDARIES, *LONG_BOUNDARIES):
        kind = b"Content-Type: multipart/mixed; boundary=" + declared + b"\r\n"
        yield (
            f"boundary {written[:30]!r} as {declared[:30]!r}",
            mixed(TEXT, part, kind=kind, boundary=written),
        )
    for value in words("other_types"):
        for name in (b"Content-Type", b"content-type ", b"Content_Type", b" Content-Type"):
            line = name + b": " + value + b"\r\n"
            yield f"type before {line!r}", mixed(TEXT, part, kind=line + MIXED)
            yield f"type behind {line!r}", mixed(TEXT, part, kind=MIXED + line)
            yield f"type on top {line!r}", line + whole
    for value in words("encodings"):
        yield f"encoding {value!r}", mixed(TEXT, attached(body, value))
        yield f"encoding of a single part {value!r}", TOP + attached(body, value)
    for name in words("names_of_encoding"):
        for value in words("other_encodings"):
            line = name + b": " + value + b"\r\n"
            yield f"encoding before {line!r}", mixed(TEXT, line + part)
            yield f"encoding behind {line!r}", mixed(TEXT, part.replace(NAMED, line + NAMED))
            yield f"encoding of the multipart {line!r}", mixed(TEXT, part, kind=MIXED + line)
    yield from _spellings(body, part)
    yield from _lines(whole)
    yield from _places(payload, part)
    yield from _bodies(payload)
    for first in (*words("first_fields"), b"Foo: " + b"x" * 5_000):
        yield f"first field {first[:30]!r}", first + b"\r\n" + MIXED + whole.partition(MIXED)[2]
        nested = b"Content-Type: message/rfc822\r\n\r\n" + first + b"\r\n" + whole
        yield (
            f"first field within {first[:30]!r}",
            mixed(TEXT, nested, kind=MIXED.replace(b"bound", b"outer", 1)),
        )
    for kind in words("messages"):
        head = b"Content-Type: " + kind + b"\r\n"
        yield f"message {kind!r}", mixed(TEXT, head + b"\r\n" + whole, boundary=b"o", kind=_mixed(b"o"))
        yield f"message at the top {kind!r}", TOP + head + b"\r\n" + whole
        for encoding, data in ((b"base64", base64_lines(whole)), (b"quoted-printable", escaped(whole))):
            yield f"message in {encoding!r} {kind!r}", TOP + head + ENCODING + encoding + b"\r\n\r\n" + data


def _mixed(boundary: bytes) -> bytes:
    return b'Content-Type: multipart/mixed; boundary="' + boundary + b'"\r\n'


def _spellings(body: bytes, part: bytes) -> Iterator[tuple[str, bytes]]:
    """Names of fields and delimiters as some readers take them, and others not."""
    parts = b"\r\n--bound\r\n" + TEXT + b"--bound\r\n" + part + b"--bound--\r\n"
    for name in words("spelt_types"):
        field = name + b' multipart/mixed; boundary="bound"\r\n'
        yield f"type spelt {name!r}", TOP + field + parts
        yield f"type spelt, on top {name!r}", field + TOP + parts
    for name in words("spelt_encodings"):
        field = name + b" base64\r\n"
        yield f"encoding spelt {name!r}", mixed(TEXT, TYPE + field + NAMED + b"\r\n" + body)
        yield f"encoding spelt, last {name!r}", mixed(TEXT, TYPE + NAMED + field + b"\r\n" + body)
        yield f"encoding of a single part spelt {name!r}", TOP + TYPE + field + NAMED + b"\r\n" + body
    start, first, end = TOP + MIXED + b"\r\n", b"--bound\r\n" + TEXT, b"--bound--\r\n"
    for line in words("delimiters"):
        yield f"delimiter {line!r}", start + first + line + b"\r\n" + part + end
        yield f"first delimiter {line!r}", start + line + b"\r\n" + part + end
        yield f"closing delimiter {line!r}", start + first + line + b"\r\n--bound\r\n" + part + end
        odd = line + b"\r\n"
        yield f"each delimiter {line!r}", start + odd + TEXT + odd + part + line + b"--\r\n"


def _lines(whole: bytes) -> Iterator[tuple[str, bytes]]:
    """Other line ends, other ends of header sections, other delimiters, and lines that are nothing."""
    head, _, rest = whole.partition(b"hello\r\n--bound")
    for value in (*words("tails"), b" " * 2_000):
        yield f"delimiter and {value[:20]!r}", head + b"hello\r\n--bound" + value + rest
    for value in words("leads"):
        yield f"delimiter behind {value!r}", head + b"hello\r\n" + value + b"--bound" + rest
    for value in words("breaks"):
        yield f"delimiter behind the break {value!r}", head + b"hello" + value + b"--bound" + rest
        yield f"delimiter before the break {value!r}", head + b"hello\r\n--bound" + value + rest[2:]
        fields, _, body = rest[2:].partition(b"\r\n\r\n")
        yield (
            f"fields with the break {value!r}",
            head + b"hello\r\n--bound" + (b"\r\n" + fields + b"\r\n\r\n").replace(b"\r\n", value) + body,
        )
    for value in words("separators"):
        yield f"end of a part's fields {value!r}", whole.replace(b'a.txt"\r\n\r\n', b'a.txt"' + value)
        yield f"end of the fields {value!r}", whole.replace(b'"\r\n\r\n--bound', b'"' + value + b"--bound", 1)
    for value in words("junk_lines"):
        yield f"line in a part {value!r}", whole.replace(ENCODING, value + b"\r\n" + ENCODING)
        yield f"line before a part's fields {value!r}", whole.replace(TYPE, value + b"\r\n" + TYPE)
        yield f"line before the type {value!r}", whole.replace(MIXED, value + b"\r\n" + MIXED)
        yield f"line on top {value!r}", value + b"\r\n" + whole
    for value in (b"\n", b"\r", b"\r\r\n", b"\n\r"):
        yield f"everywhere {value!r}", whole.replace(b"\r\n", value)


def _places(payload: bytes, part: bytes) -> Iterator[tuple[str, bytes]]:
    """Outside of the parts, and where delimiters of several multiparts meet."""
    end = b"--bound--\r\n"
    other = b"--other\r\n" + part + b"--other--\r\n"
    yield "no end", mixed(TEXT, part.rstrip(), end=b"")
    yield "end first", mixed(TEXT, part, before=end)
    yield "end between", mixed(TEXT + end, part)
    yield "behind the end, without delimiter", mixed(TEXT, end=end + b"\r\n" + part)
    yield "behind the end, on its line", mixed(TEXT, end=b"--bound--" + part)
    yield "behind the end, another multipart", mixed(TEXT, end=end + MIXED + b"\r\n--bound\r\n" + part + end)
    yield "before the first delimiter", mixed(TEXT, before=part)
    yield "parts before the first delimiter", mixed(TEXT, before=other)
    yield "parts behind the end", mixed(TEXT, end=end + other)
    yield "uuencode before", mixed(TEXT, before=b"begin 644 a\r\n" + uuencoded(payload) + b"`\r\nend\r\n")
    for inner, outer in permutations((b"bound", b"bound ", b"Bound", b"bound--", b"boun", b"boundx"), 2):
        start = _mixed(inner) + b"\r\n--" + inner + b"\r\n" + TEXT
        name, kind = f"{inner!r} in {outer!r}", _mixed(outer)
        yield f"nested {name}", mixed(start + b"--" + inner + b"\r\n" + part, kind=kind, boundary=outer)
        closed = start + b"--" + outer + b"--\r\n--" + inner + b"\r\n" + part
        yield f"nested, the outer closed {name}", mixed(closed, kind=kind, boundary=outer)
    lines = base64_lines(payload, 8)
    for line in (b"--outer--\r\n", b"--outer\r\n"):
        torn = attached(lines[:30] + line + lines[30:])
        inner = _mixed(b"inner") + b"\r\n--inner\r\n" + TEXT + b"--inner\r\n" + torn + b"--inner--\r\n"
        yield f"a file with {line!r} in it", mixed(inner, kind=_mixed(b"outer"), boundary=b"outer")
    parts = b"--bound\r\n" + TEXT + b"--bound\r\n" + part + end
    for encoding, data in (
        (b"base64", base64_lines(parts)),
        (b"quoted-printable", escaped(parts)),
        (b"x-uuencode", b"begin 644 x\r\n" + uuencoded(parts) + b"`\r\nend\r\n"),
    ):
        yield f"parts in {encoding!r}", TOP + MIXED + ENCODING + encoding + b"\r\n\r\n" + data
        yield f"parts in undeclared {encoding!r}", TOP + MIXED + b"\r\n" + data


def _bodies(payload: bytes) -> Iterator[tuple[str, bytes]]:
    """Encodings that decoders differ on, and stacked ones."""
    text = base64.b64encode(payload)
    pieces = {
        n: [base64.b64encode(payload[at : at + n]) for at in range(0, len(payload), n)] for n in (1, 2, 7, 10)
    }
    for name, body in {
        "without padding": text.rstrip(b"="),
        "padding in front": b"QQ==\r\n" + text,
        "padding within": text[:8] + b"==" + text[8:],
        "padding off": text[:9] + b"=" + text[9:],
        "octet by octet": b"\r\n".join(pieces[1]),
        "two octets": b"".join(pieces[2]),
        "seven octets": b"\r\n".join(pieces[7]),
        "ten octets": b"".join(pieces[10]),
        "one character a line": b"\r\n".join(text[at : at + 1] for at in range(len(text))),
        "five characters a line": b"\r\n".join(text[at : at + 5] for at in range(0, len(text), 5)),
        "junk": text[:8] + b"-" + text[8:],
        "junk everywhere": b"".join(text[at : at + 1] + b"!" for at in range(len(text))),
        "8-bit": b"\xa0".join(text[at : at + 4] for at in range(0, len(text), 4)),
        "NUL": b"\0".join(text[at : at + 4] for at in range(0, len(text), 4)),
        "bare CR": b"\r".join(text[at : at + 40] for at in range(0, len(text), 40)),
        "a line of text": b"abc\r\n" + text,
        "text behind": text + b"\r\n\r\nhello world, more.\r\n",
        "base64 again": base64.b64encode(text),
        "begin-base64": b"begin-base64 644 a.txt\r\n" + text + b"\r\n====",
        "quoted": b"\r\n".join(b"> " + text[at : at + 60] for at in range(0, len(text), 60)),
    }.items():
        yield f"base64: {name}", mixed(TEXT, attached(body + b"\r\n"))
        yield f"base64 of a single part: {name}", TOP + attached(body + b"\r\n")
    quoted = b"".join(b"=%02X" % octet for octet in payload)
    for name, body in {
        "lower case": quoted.lower(),
        "spaces behind =": quoted[:60] + b"= \t\r\n" + quoted[60:],
        "CR behind =": quoted[:60] + b"=\r" + quoted[60:],
        "broken escape": quoted[:30] + b"=ZZ" + quoted[30:],
        "two =": quoted[:30] + b"==" + quoted[30:],
        "break within": quoted[:31] + b"=\r\n" + quoted[31:],
        "NUL": quoted[:30] + b"\0" + quoted[30:],
    }.items():
        yield f"quoted-printable: {name}", mixed(TEXT, attached(body + b"\r\n", b"quoted-printable"))
    yield from _in_text(payload)


def _in_text(payload: bytes) -> Iterator[tuple[str, bytes]]:
    """Uuencode and yEnc, as they stand in text."""
    code = uuencoded(payload)
    for name, body in {
        "plain": b"begin 644 a.txt\r\n" + code + b"`\r\nend\r\n",
        "no end": b"begin 644 a.txt\r\n" + code,
        "no mode": b"begin a.txt\r\n" + code + b"`\r\nend\r\n",
        "no name": b"begin 644\r\n" + code + b"`\r\nend\r\n",
        "long mode": b"begin 100644 a.txt\r\n" + code + b"`\r\nend\r\n",
        "capitals": b"BEGIN 644 a.txt\r\n" + code + b"`\r\nEND\r\n",
        "behind a space": b" begin 644 a.txt\r\n" + code + b"`\r\nend\r\n",
        "an empty file first": b"begin 644 a\r\n`\r\nend\r\nbegin 644 b\r\n" + code + b"`\r\nend\r\n",
        "an end first": b"begin 644 a.txt\r\n`\r\n" + code + b"`\r\nend\r\n",
        "junk": b"begin 644 a.txt\r\nhello\r\n" + code + b"`\r\nend\r\n",
    }.items():
        yield f"uuencode: {name}", TOP + b"\r\n" + body
        yield f"uuencode in a part: {name}", mixed(TEXT, b"Content-Type: text/plain\r\n\r\n" + body)
        yield f"uuencode as encoding: {name}", mixed(TEXT, attached(body, b"x-uuencode"))
        yield (
            f"uuencode in base64: {name}",
            mixed(TEXT, attached(base64_lines(body), kind=b"Content-Type: text/plain\r\n")),
        )
    shifted = bytes((octet + 42) & 255 for octet in payload)
    hidden = re.sub(rb"[\0\n\r=]", lambda found: b"=" + bytes(((found[0][0] + 64) & 255,)), shifted)
    for named in (b" name=a.txt", b""):
        body = b"=ybegin line=128 size=%d%s\r\n%s\r\n=yend size=%d\r\n" % (
            len(payload),
            named,
            hidden,
            len(payload),
        )
        yield f"yEnc{named.decode()}", TOP + b"\r\n" + body


# ---------------------------------------------------------------- valid, in every spelling

_BOUNDARY = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789'()+_,-./:=?"
_FILES = (
    *(
        b"application/octet-stream",
        b"application/pdf",
        b"image/png",
        b"text/plain",
        b"text/csv",
        b"text/html",
    ),
    *(
        b"application/x-foo",
        b"audio/mpeg",
        b"text/calendar",
        b"font/ttf",
        b"chemical/x-pdb",
        b"application/json",
    ),
)
_KINDS = (b"mixed", b"mixed", b"alternative", b"related", b"report", b"signed", b"parallel")
_FILLERS = (
    b"hello\r\nworld\r\n",
    b"<p>hi</p>\r\n",
    b"GIF89a\x01\0;",
    b"",
    b"begin to think\r\n",
    b"-- \r\nsig\r\n",
    b"--x\r\n",
)


def valid(chance: Random, payload: bytes, depth: int = 0) -> bytes:
    """A well-formed message with the payload as a file somewhere in it."""
    fields = [
        _field(chance, b"From", b"a@example.com"),
        _field(chance, b"To", b"b@example.org"),
        _field(chance, b"Subject", chance.choice((b"x", b"=?utf-8?q?x?=", b"a\r\n b"))),
        _field(chance, b"MIME-Version", b"1.0"),
    ]
    if chance.random() < 0.4:
        fields.append(_field(chance, b"Received", b"from a by b;\r\n\tSun, 22 Nov 2026 10:00:00 +0000"))
    chance.shuffle(fields)
    body = (
        _multipart(chance, depth, payload) if chance.random() < 0.8 else _leaf(chance, payload, attached=True)
    )
    return b"".join(fields) + body


def _spelt(chance: Random, word: bytes) -> bytes:
    return chance.choice((word, word, word, word.lower(), word.upper(), word.swapcase()))


def _field(chance: Random, name: bytes, value: bytes) -> bytes:
    tail = b"" if name == b"Content-Transfer-Encoding" else chance.choice((b"", b"", b"", b" ", b";"))
    return (
        _spelt(chance, name)
        + b":"
        + chance.choice((b" ", b" ", b"", b"\t", b"\r\n "))
        + value
        + tail
        + b"\r\n"
    )


def _parameters(chance: Random, parameters: list[tuple[bytes, bytes]]) -> bytes:
    chance.shuffle(parameters)
    out = b""
    for name, value in parameters:
        quoted = not re.fullmatch(rb"[A-Za-z0-9._-]+", value) or chance.random() < 0.6
        out += b";" + chance.choice((b" ", b" ", b"\r\n ", b"\t", b"")) + _spelt(chance, name) + b"="
        out += b'"' + value + b'"' if quoted else value
    return out


def _leaf(chance: Random, data: bytes, *, attached: bool) -> bytes:
    encodings = (
        (b"base64", b"quoted-printable")
        if data.startswith(b"PK")
        else (b"base64", b"quoted-printable", b"8bit", b"7bit")
    )
    encoding = chance.choice(encodings)
    if encoding == b"base64":
        body = base64_lines(data, chance.choice((76, 76, 64, 60, 4, 8, 996))) + chance.choice((b"", b"\r\n"))
    else:
        body = escaped(data) if encoding == b"quoted-printable" else data + b"\r\n"
    kind = chance.choice(_FILES) if attached else chance.choice((b"text/plain", b"text/html"))
    parameters = [(b"charset", b"utf-8")] if kind.startswith(b"text") else []
    if attached and chance.random() < 0.6:
        parameters.append((b"name", chance.choice((b"a.txt", b"a b.txt", b"=?utf-8?q?a?="))))
    fields = [
        _field(chance, b"Content-Type", _spelt(chance, kind) + _parameters(chance, parameters)),
        _field(chance, b"Content-Transfer-Encoding", _spelt(chance, encoding)),
    ]
    if attached:
        disposition = _spelt(chance, chance.choice((b"attachment", b"inline")))
        fields.append(
            _field(
                chance, b"Content-Disposition", disposition + _parameters(chance, [(b"filename", b"a.txt")])
            )
        )
    if chance.random() < 0.3:
        fields.append(_field(chance, b"Content-Description", b"a file (x)"))
    chance.shuffle(fields)
    return b"".join(fields) + b"\r\n" + body


def _multipart(chance: Random, depth: int, payload: bytes | None) -> bytes:
    boundary = bytes(chance.choice(_BOUNDARY) for _ in range(chance.randint(8, 70)))
    parameters = [(b"boundary", boundary), *([(b"type", b"text/html")] if chance.random() < 0.3 else [])]
    kind = _spelt(chance, b"multipart/" + chance.choice(_KINDS))
    out = _field(chance, b"Content-Type", kind + _parameters(chance, parameters)) + b"\r\n"
    out += chance.choice((b"", b"", b"This is a multi-part message in MIME format.\r\n", b"before\r\n"))
    count = chance.randint(1, 4)
    place = chance.randrange(count)
    for number in range(count):
        out += b"--" + boundary + chance.choice((b"", b"", b"", b" ", b"\t")) + b"\r\n"
        out += _node(chance, depth + 1, payload if number == place else None) + b"\r\n"
    return out + b"--" + boundary + b"--" + chance.choice((b"\r\n", b"", b" \r\n", b"\r\nbehind\r\n"))


def _node(chance: Random, depth: int, payload: bytes | None) -> bytes:
    chosen = chance.random()
    if payload is None and (depth > 3 or chosen < 0.8):
        return _leaf(chance, chance.choice(_FILLERS), attached=chosen < 0.2)
    if payload is not None and (depth > 4 or chosen < 0.5):
        return _leaf(chance, payload, attached=True)
    if payload is not None and chosen > 0.85:
        return (
            _field(chance, b"Content-Type", b"message/rfc822") + b"\r\n" + valid(chance, payload, depth + 1)
        )
    return _multipart(chance, depth, payload)
