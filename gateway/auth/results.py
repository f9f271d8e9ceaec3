# SPDX-License-Identifier: GPL-2.0-or-later
"""The Authentication-Results field (RFC 8601): ours is written here, forged ones are found here.

Reads hostile bytes: fields of that name in received messages. No I/O.

authres is not used: version 1.2.0 lets CR and LF through when it writes, and refuses fields that
large providers send when it reads.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.mail.charsets import decode_words
from gateway.mail.headers import MAX_FIELD, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gateway.mail.types import Arc, Dkim, Dmarc, Evidence, HeaderField, Iprev, Mail, Spf

NAME: Final = "Authentication-Results"
_CUT: Final = MAX_FIELD - 100  # octets of a value from which it may go on where we do not read it
_TOKEN: Final = re.compile(r"[!#$%&'*+.0-9A-Z^_`a-z{|}~-]+\Z")  # RFC 2045 §5.1, without tspecials
_ADDRESS: Final = re.compile(r"(?:[!#$%&'*+.0-9A-Z^_`a-z{|}~/-]{1,64})?@[0-9A-Za-z._-]{1,253}\Z")
_TEMPTING: Final = re.compile(r"[^!#$%&'*+.,/:@0-9A-Z^_`a-z{|}~-]")  # ends a value out of its quotes
_HARMLESS: Final = str.maketrans('";\\()', "',/[]")  # as in a value, and a reason is only for people
_WIDTH: Final = 76
_MAX_COMMENT_DEPTH: Final = 20
MAX_VALUE: Final = 8_192  # octets that are read, and written: what we say can be believed behind us
_MAX_EXAMINED: Final = 32_768  # octets of all fields of a message in which `forged` looks closely
_MARK: Final = 16  # octets more that a mark of the grammar counts for, as it takes that much longer
_MAX_ID: Final = 255
_FLAT_COMMENT: Final = re.compile(r"\([^()]*+\)")
_NOT_SHOWN: Final = bytes(code for code in range(256) if not 33 <= code <= 126 or code in b'"\\()')
_COMMENT: Final = re.compile(r"(?:[^()\\]|\\.)*+([()]?)", re.DOTALL)
_LEXEME: Final = re.compile(r'[^"();]+|"(?:[^"\\]|\\.)*+"|[();]', re.DOTALL)
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_QUOTED_TOKEN: Final = re.compile(r'"[^"\\]+"\Z')
_DOTS: Final = {0x3002: "."}  # what IDNA takes for a dot (RFC 3490 §3.1); NFKC maps the others
_WORD: Final = r"([A-Za-z][A-Za-z0-9_-]*)"
_METHOD: Final = re.compile(rf"\s*{_WORD}\s*(?:/\s*\d+\s*)?=\s*{_WORD}")
_PROPERTY: Final = re.compile(
    rf'\s+{_WORD}\s*(?:\.\s*{_WORD}\s*)?=\s*("(?:[^"\\]|\\.)*+"|[^\s;"]+)', re.DOTALL
)


def authentication_results(authserv_id: str, evidence: Evidence, mail: Mail) -> str:
    """The value of our field, ready for an `Edit`: ASCII, lines folded with LF and a tab.

    One result for each check, in fixed order; "none" if nothing was checked.
    """
    lines = [_fold(words) for one in evidence.spf for words in _spf(one, mail)]
    rest = []
    if evidence.dmarc:
        rest.append(_dmarc(evidence.dmarc))
    if evidence.arc:
        rest.append(_arc(evidence.arc))
    if evidence.iprev:
        rest.append(_iprev(evidence.iprev, mail))
    if mail.session.login:
        rest.append(["auth=pass", f"smtp.auth={quoted(mail.session.login)}"])
    others = [_fold(words) for words in rest]
    name = quoted(authserv_id)
    left = MAX_VALUE - sum(map(_octets, (name, *lines, *others)))
    lines += (*_signatures(evidence.dkim, left), *others)
    return ";\n\t".join((name, *(lines or ["none"])))


def quoted(text: str) -> str:
    """A value that holds nothing but itself: a token, an address, or a quoted string (RFC 8601 §2.2)."""
    safe = printable(text, 255, ascii_only=True)
    if _TOKEN.match(safe) or _ADDRESS.match(safe):
        return safe
    return '"' + safe.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _stated(name: str, text: str) -> str:
    """A property whose value strangers choose, so that it is one even for who loses the quotes.

    authres, and so dkimpy where it seals behind us, writes a value with quotes in it without any around it.
    Of an address that would need them the domain is enough (RFC 8601 §2.7.2).
    """
    value = quoted(text)
    if not value.startswith('"'):
        return f"{name}={value}"
    domain = quoted("@" + text.rpartition("@")[2])
    short = name in ("smtp.mailfrom", "header.i") and "@" in text and _ADDRESS.match(domain)
    return f"{name}={domain if short else quoted(_TEMPTING.sub('?', value[1:-1]))}"


def _fold(words: list[str]) -> str:
    lines = [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + len(word) >= _WIDTH:
            lines.append(word)
        else:
            lines[-1] += " " + word
    return "\n\t ".join(lines)


def _reason(text: str) -> list[str]:
    return [f"reason={quoted(printable(text, 100).translate(_HARMLESS))}"] if text else []


def _spf(one: Spf, mail: Mail) -> Iterator[list[str]]:
    reason = _reason(one.reason if one.result in ("temperror", "permerror", "policy") else "")
    if one.identity == "helo":
        if one.result != "none" or not mail.envelope.mail_from:
            yield [f"spf={one.result}", *reason, _stated("smtp.helo", one.domain)]
    elif mail.envelope.mail_from:  # of the null sender, HELO tells it all
        yield [f"spf={one.result}", *reason, _stated("smtp.mailfrom", mail.envelope.mail_from)]


def _octets(line: str) -> int:
    """What a line takes in the field, with all its ends and what stands between it and the next."""
    return len(line) + line.count("\n") + len(";\r\n\t")


def _signatures(signatures: Sequence[Dkim], left: int) -> list[str]:
    """The results of DKIM in their order; of very many, those that pass and the topmost others."""
    written = [_fold(_dkim(one)) for one in signatures]
    shown = []
    for number in sorted(range(len(written)), key=lambda index: signatures[index].result != "pass"):
        left -= _octets(written[number])
        if left < 0:
            break
        shown.append(number)
    return [written[number] for number in sorted(shown)]


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
    return words + [_stated(f"header.{name}", value) for name, value in properties.items() if value]


def _dmarc(one: Dmarc) -> list[str]:
    policy = [f"(p={one.policy})"] if one.policy else []
    domain = [_stated("header.from", one.domain)] if one.domain else []
    shown = _reason(one.reason if one.result in ("temperror", "permerror") else "")
    return [f"dmarc={one.result}", *policy, *shown, *domain]


def _arc(one: Arc) -> list[str]:
    sealer = [_stated("header.d", one.sealers[0])] if one.sealers and one.result == "pass" else []
    return [f"arc={one.result}", *_reason(one.reason), *sealer]


def _iprev(one: Iprev, mail: Mail) -> list[str]:
    return [f"iprev={one.result}", _stated("policy.iprev", mail.session.client_ip)]


# ---------------------------------------------------------------- forged ones


def forged(fields: Sequence[HeaderField], authserv_id: str) -> tuple[int, ...]:
    """Which Authentication-Results fields claim to be ours, counted from 1 among those of this name.

    A field of the grammar (RFC 8601 §2.2) is whose its authserv-id says. Any other counts if our name
    occurs in it, however disguised, since some reader may take it for ours (§5). What is beyond
    `_MAX_EXAMINED` counts if our name could occur. To delete them, begin with the highest.
    """
    ours = _squeezed(authserv_id).rstrip(".")
    left = _MAX_EXAMINED
    found = []
    for number, field in enumerate((one for one in fields if one.name.lower() == NAME.lower()), 1):
        value = field.value
        left -= len(value) + _MARK * sum(map(value.count, (b";", b"(", b'"')))
        if _claims(value.decode("utf-8", "replace"), ours) if left >= 0 else _could_claim(value, ours):
            found.append(number)
    return tuple(found)


def _could_claim(value: bytes, ours: str) -> bool:
    """Tell whether our name could occur, at the cost of a few searches."""
    if len(value) >= _CUT or not value.isascii() or any(mark in value for mark in (b"(", b"\\", b"=?")):
        return True
    return ours.encode() in value.translate(None, _NOT_SHOWN).lower()


def _claims(text: str, ours: str) -> bool:
    try:
        segments = list(_segments(text))
    except ValueError:
        return _mentions(text, ours)
    name = _read_id(segments[0])
    if name is None:
        return not _is_without_id(segments, ours) and _mentions(text, ours)
    if _folded(name).rstrip(".") == ours:
        return True
    # Behind another's name, ours still counts where a result should stand.
    odd = (one for one in segments[1:] if one and not _METHOD.match(one))
    return _mentions(";".join(one if "=?" in one else one.partition("=")[0] for one in odd), ours)


def _read_id(segment: str) -> str | None:
    """The authserv-id that a field begins with, perhaps beyond ASCII (RFC 8616 §4); None if uncertain."""
    words = segment.split()
    if not words or len(words) > 2 or len(words[0]) > _MAX_ID or (len(words) == 2 and not words[1].isdigit()):
        return None
    word = words[0][1:-1] if _QUOTED_TOKEN.match(words[0]) else words[0]
    if word.isascii():
        return word if _TOKEN.match(word) else None
    return word if all(c.isalnum() or c in ".-" for c in _folded(word)) else None


def _is_without_id(segments: list[str], ours: str) -> bool:
    """Tell whether a field has results and no authserv-id, as a large provider writes it."""
    if len(segments) > 1 and not segments[-1].strip():
        segments = segments[:-1]
    try:
        read = [_result(segment, tolerant=True) for segment in segments]
    except ValueError:
        return False
    return all(ours not in (one.method, one.result) for one in read)


def _mentions(text: str, ours: str) -> bool:
    """Tell whether our name occurs in some reading: comments taken out or left in, words decoded."""
    readings = [text]
    if "=?" in text:
        readings.append(decode_words(" ".join(text.split())))
    if "\\" in text:
        readings += [_ESCAPE.sub("", one) for one in tuple(readings)]
    for reading in readings:
        rest = reading
        for _ in range(_MAX_COMMENT_DEPTH):
            if ours in _squeezed(rest):
                return True
            flat = _FLAT_COMMENT.sub("", rest)
            if flat == rest:
                break
            rest = flat
        else:  # comments in comments, beyond all sense
            return True
    return False


def _folded(text: str) -> str:
    """A text in compatible letters (NFKC) of lower case."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", text).translate(_DOTS).casefold()


def _squeezed(text: str) -> str:
    """What a text shows in ASCII, letter by letter folded, without spaces, quotes and parentheses."""
    if not text.isascii():
        text = text.translate({ord(letter): _folded(letter) for letter in set(text)})
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
    if len(value) > MAX_VALUE:
        raise ValueError("too long")
    segments = list(_segments(value.decode("utf-8", "replace")))
    name = _read_id(segments[0])
    if name is None:
        raise ValueError("no authserv-id")
    rest = segments[1:]
    if len(rest) > 1 and not rest[-1].strip():
        rest.pop()  # a final semicolon is common
    if not rest:
        raise ValueError("no result")
    if len(rest) == 1 and rest[0].strip().lower() == "none":
        rest = []
    read = [_read_one(segment, tolerant=tolerant) for segment in rest]
    # In what is believed, only ASCII has two cases: U+212A, too, is "k" in lower case.
    return (name.lower().rstrip(".") if name.isascii() else name), tuple(
        one for one in read if one is not None
    )


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
