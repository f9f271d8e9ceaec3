# SPDX-License-Identifier: GPL-2.0-or-later
"""The Authentication-Results field (RFC 8601): ours is written here, forged ones are found here.

Reads hostile bytes: fields of that name in received messages. No I/O.

authres does not write it: version 1.2.0 lets CR and LF through in values.
"""

from __future__ import annotations

import re
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
    return tuple(number for number, field in enumerate(named, 1) if _claims(field.value, ours))


def _claims(value: bytes, ours: str) -> bool:
    text = value.decode("utf-8", "replace")
    plain = _without_comments(text)
    if plain is not None:
        words = plain.partition(";")[0].split()
        if words and len(words) <= 2 and _is_id(words[0]) and (len(words) == 1 or words[1].isdigit()):
            return _normal(words[0].strip('"')) == ours
    # Not the grammar: look for our name where a lenient reader would.
    return any(ours in _squeezed(reading) for reading in (text, plain or "", _decoded(text)))


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
    return "".join(c for c in head.lower() if "!" <= c <= "~" and c not in '"\\()')


def _without_comments(text: str) -> str | None:
    """The text with comments as spaces (RFC 5322 §3.2.2); None if they or quotes are not closed."""
    pieces = []
    depth = 0
    within = False  # a quoted string
    escaped = False
    for char in text:
        if escaped:
            escaped = False
            if not depth:
                return None  # a quoted pair has no place in an authserv-id of ours
        elif char == "\\" and (depth or within):
            escaped = True
        elif char == '"' and not depth:
            within = not within
            pieces.append(char)
        elif within:
            pieces.append(char)
        elif char == "(":
            depth += 1
            if depth > _MAX_COMMENT_DEPTH:
                return None
        elif char == ")" and depth:
            depth -= 1
            pieces.append(" ")
        elif char == ";" and not depth:
            return "".join(pieces)  # what follows is no part of the authserv-id
        elif not depth:
            pieces.append(char)
    return None if depth or within or escaped else "".join(pieces)
