# SPDX-License-Identifier: GPL-2.0-or-later
"""The Authentication-Results field (RFC 8601): ours is written here, forged ones are found here.

Reads hostile bytes: fields of that name in received messages. No I/O.

authres is not used: version 1.2.0 lets CR and LF through when it writes, and refuses fields that
large providers send when it reads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.mail.charsets import decode_words
from gateway.mail.headers import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gateway.mail.types import Arc, Dkim, Dmarc, Evidence, HeaderField, Iprev, Mail, Spf

NAME: Final = "Authentication-Results"
_TOKEN: Final = re.compile(r"[!#$%&'*+.0-9A-Z^_`a-z{|}~-]+\Z")  # RFC 2045 §5.1, without tspecials
_ADDRESS: Final = re.compile(r"(?:[!#$%&'*+.0-9A-Z^_`a-z{|}~/-]{1,64})?@[0-9A-Za-z._-]{1,253}\Z")
_WIDTH: Final = 76
_MAX_COMMENT_DEPTH: Final = 20
_MAX_VALUE: Final = 8_192  # octets that are read
_MAX_EXAMINED: Final = 50  # fields of one message
_FLAT_COMMENT: Final = re.compile(r"\([^()]*+\)")
_NOT_SHOWN: Final = bytes(code for code in range(256) if not 33 <= code <= 126 or code in b'"\\()')
_COMMENT: Final = re.compile(r"(?:[^()\\]|\\.)*+([()]?)", re.DOTALL)
_LEXEME: Final = re.compile(r'[^"();]+|"(?:[^"\\]|\\.)*+"|[();]', re.DOTALL)
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_WORD: Final = r"([A-Za-z][A-Za-z0-9_-]*)"
_METHOD: Final = re.compile(rf"\s*{_WORD}\s*(?:/\s*\d+\s*)?=\s*{_WORD}")
_PROPERTY: Final = re.compile(
    rf'\s+{_WORD}\s*(?:\.\s*{_WORD}\s*)?=\s*("(?:[^"\\]|\\.)*+"|[^\s;"]+)', re.DOTALL
)


def authentication_results(authserv_id: str, evidence: Evidence, mail: Mail) -> str:
    """The value of our field, ready for an `Edit`: ASCII, lines folded with LF and a tab.

    One result for each check, in fixed order; "none" if nothing was checked.
    """
    results = [words for one in evidence.spf for words in _spf(one, mail)]
    results += [_dkim(one) for one in evidence.dkim]
    if evidence.dmarc:
        results.append(_dmarc(evidence.dmarc))
    if evidence.arc:
        results.append(_arc(evidence.arc))
    if evidence.iprev:
        results.append(_iprev(evidence.iprev, mail))
    if mail.session.login:
        results.append(["auth=pass", f"smtp.auth={quoted(mail.session.login)}"])
    lines = [_fold(words) for words in results] or ["none"]
    return ";\n\t".join((quoted(authserv_id), *lines))


def quoted(text: str) -> str:
    """A value that holds nothing but itself: a token, an address, or a quoted string (RFC 8601 §2.2)."""
    safe = printable(text, 255, ascii_only=True)
    if _TOKEN.match(safe) or _ADDRESS.match(safe):
        return safe
    return '"' + safe.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _fold(words: list[str]) -> str:
    lines = [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + len(word) >= _WIDTH:
            lines.append(word)
        else:
            lines[-1] += " " + word
    return "\n\t ".join(lines)


def _reason(text: str) -> list[str]:
    return [f"reason={quoted(printable(text, 100))}"] if text else []


def _spf(one: Spf, mail: Mail) -> Iterator[list[str]]:
    reason = _reason(one.reason if one.result in ("temperror", "permerror", "policy") else "")
    if one.identity == "helo":
        if one.result != "none" or not mail.envelope.mail_from:
            yield [f"spf={one.result}", *reason, f"smtp.helo={quoted(one.domain)}"]
    elif mail.envelope.mail_from:  # of the null sender, HELO tells it all
        yield [f"spf={one.result}", *reason, f"smtp.mailfrom={quoted(mail.envelope.mail_from)}"]


def _dkim(one: Dkim) -> list[str]:
    words = [f"dkim={one.result}", *_reason(one.reason)]
    # header.b tells signatures of one domain apart (RFC 6008)
    properties = {
        "d": one.domain,
        "i": one.identity,
        "s": one.selector,
        "a": one.algorithm,
        "b": one.signature,
    }
    return words + [f"header.{name}={quoted(value)}" for name, value in properties.items() if value]


def _dmarc(one: Dmarc) -> list[str]:
    policy = [f"(p={one.policy})"] if one.policy else []
    domain = [f"header.from={quoted(one.domain)}"] if one.domain else []
    shown = _reason(one.reason if one.result in ("temperror", "permerror") else "")
    return [f"dmarc={one.result}", *policy, *shown, *domain]


def _arc(one: Arc) -> list[str]:
    sealer = [f"header.d={quoted(one.sealers[0])}"] if one.sealers and one.result == "pass" else []
    return [f"arc={one.result}", *_reason(one.reason), *sealer]


def _iprev(one: Iprev, mail: Mail) -> list[str]:
    return [f"iprev={one.result}", f"policy.iprev={quoted(mail.session.client_ip)}"]


# ---------------------------------------------------------------- forged ones


def forged(fields: Sequence[HeaderField], authserv_id: str) -> tuple[int, ...]:
    """Which Authentication-Results fields claim to be ours, counted from 1 among those of this name.

    A field whose authserv-id cannot be read for certain counts if some reader may take it for
    ours (RFC 8601 §5). To delete them, begin with the highest.
    """
    named = [field for field in fields if field.name.lower() == NAME.lower()]
    ours = _normal(authserv_id)
    return tuple(
        number
        for number, field in enumerate(named, 1)
        if (_claims if number <= _MAX_EXAMINED and len(field.value) <= _MAX_VALUE else _mentions)(
            field.value, ours
        )
    )


def _mentions(value: bytes, ours: str) -> bool:
    """Tell whether our name occurs anywhere: enough to delete what is too long or too much to examine."""
    text = value.decode("utf-8", "replace")
    bare = _FLAT_COMMENT.sub("", text)
    return "=?" in text or ours in _shown(text) or ours in _shown(bare)


def _claims(value: bytes, ours: str) -> bool:
    text = value.decode("utf-8", "replace")
    plain = ""
    try:
        plain = next(_segments(text))
    except ValueError:
        pass
    else:
        words = plain.split()
        if words and len(words) <= 2 and _is_id(words[0]) and (len(words) == 1 or words[1].isdigit()):
            return _normal(words[0].strip('"')) == ours
    # Not the grammar: look for our name where a lenient reader would.
    return any(ours in _squeezed(reading) for reading in (text, plain, _decoded(text)))


def _is_id(word: str) -> bool:
    return bool(
        _TOKEN.match(word) or (len(word) > 2 and word[0] == word[-1] == '"' and _TOKEN.match(word[1:-1]))
    )


def _normal(text: str) -> str:
    return text.lower().rstrip(".")


def _decoded(text: str) -> str:
    return decode_words(" ".join(text.split())) if "=?" in text else ""


def _squeezed(text: str) -> str:
    """What stands before the first result, without anything that is not shown."""
    head = text.partition(";")[0] if "=?" in text else re.split("[;=]", text, maxsplit=1)[0]
    return _shown(head)


def _shown(text: str) -> str:
    """The printable ASCII of a text, without quotes, backslashes and parentheses, in lower case."""
    return text.encode("utf-8", "replace").translate(None, _NOT_SHOWN).decode("ascii").lower()


# ---------------------------------------------------------------- reading


@dataclass(frozen=True, slots=True)
class Result:
    """One result of an Authentication-Results field; properties as ("smtp.mailfrom", value)."""

    method: str
    result: str
    reason: str = ""
    properties: tuple[tuple[str, str], ...] = ()

    def get(self, name: str) -> str:
        """The first property of this name, "" if there is none."""
        return next((value for key, value in self.properties if key == name), "")


def read_results(value: bytes, *, tolerant: bool = False) -> tuple[str, tuple[Result, ...]]:
    """Read a field's value (RFC 8601 §2.2) into authserv-id and results; ValueError if it is malformed.

    `tolerant` leaves out malformed results, and properties without a type ("action=none"), which
    large providers write.
    """
    if len(value) > _MAX_VALUE:
        raise ValueError("too long")
    segments = list(_segments(value.decode("utf-8", "replace")))
    words = segments[0].split()
    if not words or len(words) > 2 or not _is_id(words[0]) or (len(words) == 2 and not words[1].isdigit()):
        raise ValueError("no authserv-id")
    rest = segments[1:]
    if len(rest) > 1 and not rest[-1].strip():
        rest.pop()  # a final semicolon is common
    if not rest:
        raise ValueError("no result")
    if len(rest) == 1 and rest[0].strip().lower() == "none":
        rest = []
    read = [_read_one(segment, tolerant=tolerant) for segment in rest]
    return _normal(words[0].strip('"')), tuple(one for one in read if one is not None)


def _read_one(segment: str, *, tolerant: bool) -> Result | None:
    """One result; what is malformed is None if `tolerant`, else ValueError."""
    try:
        return _result(segment, tolerant=tolerant)
    except ValueError:
        if tolerant:
            return None
        raise


def _result(segment: str, *, tolerant: bool) -> Result:
    method = _METHOD.match(segment)
    if method is None:
        raise ValueError("no method")
    reason, properties, position = "", [], method.end()
    while found := _PROPERTY.match(segment, position):
        position = found.end()
        content = _ESCAPE.sub(r"\1", found[3][1:-1]) if found[3].endswith('"') else found[3]
        if found[2]:
            properties.append((f"{found[1]}.{found[2]}".lower(), content))
        elif found[1].lower() == "reason" and not properties and not reason:
            reason = content
        elif not tolerant:
            raise ValueError("property without type")
    if segment[position:].strip():
        raise ValueError("malformed property")
    return Result(method[1].lower(), method[2].lower(), reason, tuple(properties))


def _segments(text: str) -> Iterator[str]:
    """The parts between semicolons, comments taken for spaces (RFC 5322 §3.2.2).

    ValueError if a comment or a quoted string is not closed.
    """
    piece: list[str] = []
    depth = position = 0
    while position < len(text):
        found = (_COMMENT if depth else _LEXEME).match(text, position)
        if found is None:
            break  # a quoted string without end
        position = found.end()
        lexeme = found[found.lastindex or 0]
        if depth:
            if lexeme not in ("(", ")") or depth > _MAX_COMMENT_DEPTH:
                break  # a comment without end, or a silly one
            depth += 1 if lexeme == "(" else -1
            if not depth:
                piece.append(" ")
        elif lexeme == "(":
            depth = 1
        elif lexeme == ")":
            break
        elif lexeme == ";":
            yield "".join(piece)
            piece.clear()
        else:
            piece.append(lexeme)
    else:
        if not depth:
            yield "".join(piece)
            return
    raise ValueError("comment or quoted string not closed")
