# SPDX-License-Identifier: GPL-2.0-or-later
"""The author of a message, as DMARC wants it (RFC 7489 §6.6.1): one From field with one address.

Reads hostile bytes: From fields, written so that one program sees another author than the next.
No I/O; linear. Where programs may differ there is no author domain, so that nothing passes, and
`author_domains` names all that any of them may see, so that the strictest of their policies counts.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Final

from gateway.mail.addresses import MAX_FIELD
from gateway.mail.charsets import decode, decode_words
from gateway.mail.domains import readings, to_ascii
from gateway.mail.headers import MAX_FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gateway.mail.types import Content, HeaderField

_MAX_AUTHORS: Final = 5  # domains that anybody may take for an author's, and whose policy is asked for
_MAX_HOST: Final = 253
_MAX_ENCODED: Final = 10  # names beyond ASCII, which cost up to 0.4 ms each
_MAX_OCTETS: Final = 65_536  # of all From fields in which they are looked for
_HOST: Final = re.compile(
    r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*", re.IGNORECASE
)
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.IGNORECASE)
# A quote that is not closed goes to the end: looked for again at each quote within, it would cost squares.
_QUOTED: Final = re.compile(r'"(?:[^"\\]|\\.)*+("|\\?\Z)|\((?:[^()\\]|\\.)*+\)', re.DOTALL)
_ALONE: Final = re.compile(r"[^\s<>@]+@[^\s<>@\x00]+")
_BETWEEN: Final = frozenset("-._\u00b7\u0375\u05f3\u05f4\u30fb")  # RFC 5892 §2.6, §2.7
_MAX_NESTED: Final = 5  # comments in comments
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")
_INVISIBLE: Final = re.compile(r"[\x00-\x1f\x7f\\\"]")
# What stands behind "@" in any form, or "%" or in front of "!", by which mail was once routed.
_CLAIMED: Final = re.compile(
    r"[@%\uff20\ufe6b]\s{0,20}+([^\s\x00-\x1f\x7f<>()\\\",;@%!]++)|(?<![\w.-])([\w.-]++)!"
)
_NO_NAME: Final = re.compile(r"[^\w.\u00ad\u3002\uff0e\uff61\u200b-\u200d\u2060\ufeff-]+")


def author_domain(content: Content) -> tuple[str, str]:
    """The author domain, and "" or the reason why there is none of use."""
    fields = content.all("from")
    if len(content.fields) >= MAX_FIELDS:
        return "", "more header fields than are read"
    if content.from_fields != 1:
        return "", "no From field" if not content.from_fields else f"{content.from_fields} From fields"
    if any(len(field.value) > MAX_FIELD for field in fields):
        return "", "From is too long to be read"
    addresses = [address for _, address in content.from_addresses if address]
    if len(addresses) != 1 or len(content.from_addresses) != 1:
        return "", "From has no address" if not addresses else "From has several addresses"
    text = _text(fields[0])
    if _has_group(text):
        return "", "From has a group"
    if _is_ambiguous(text):
        return "", "From can be read in more than one way"
    written = addresses[0].rpartition("@")[2] if "@" in addresses[0] else ""
    domain = to_ascii(written)
    unsure = not written.isascii() and not (_is_plain(written) and _is_utf8(fields[0].value))
    if unsure or (domain is None and len(readings(written)) > 1):
        return "", "From has a domain that is read in more than one way"
    if domain is None or not _HOST.fullmatch(domain):
        return "", "From has no domain"
    return domain, ""


def author_domains(content: Content) -> tuple[str, ...]:
    """All domains that a program may take for an author's, each once, those of addresses first.

    The last is "" where there are more than are asked about, or may be more than were looked at.
    """
    found: dict[str, None] = {}
    fields = content.all("from")
    more = sum(len(field.value) for field in fields) > _MAX_OCTETS
    encoded = 0
    for domain in dict.fromkeys(one.strip(".-") for one in _claimed(content, fields)):
        encoded += not domain.isascii()
        if len(found) > _MAX_AUTHORS or encoded > _MAX_ENCODED:
            more = True
            break
        for name in (domain.lower(),) if domain.isascii() else readings(domain) or (domain,):
            if usable := _end(name) or (name if _LABEL.fullmatch(name) else ""):
                found[usable] = None
    more |= len(found) > _MAX_AUTHORS
    return (*tuple(found)[:_MAX_AUTHORS], "") if more else tuple(found)


def _claimed(content: Content, fields: Iterable[HeaderField]) -> Iterator[str]:
    for _, address in content.from_addresses:
        if "@" in address:
            yield address.rpartition("@")[2]
    left = _MAX_OCTETS
    for field in fields:
        value = field.value[:left]
        left -= len(value)
        text = decode(value.replace(b"\r\n", b"").replace(b"\n", b""))
        # Controls, quotes and backslashes end a name for one program, and are nothing to the next.
        for reading in dict.fromkeys((text, _INVISIBLE.sub("", text), decode_words(text))):
            for found in _CLAIMED.finditer(reading):
                for name in _NO_NAME.split(found[1] or found[2]):
                    if "." in name.strip("."):
                        yield name


def _end(name: str) -> str:
    """As much of the end of a name as has labels fit for a domain, two at least, or ""."""
    kept: list[str] = []
    left = _MAX_HOST
    for label in reversed([one.strip("-") for one in name.lower().split(".")]):
        left -= len(label) + 1
        if left < 0 or (label and not _LABEL.fullmatch(label)):
            break
        kept += [label] * bool(label)
    address = all(label.isdigit() for label in kept)
    return ".".join(reversed(kept)) if len(kept) > 1 and not address else ""


def _text(field: HeaderField) -> str:
    """The field's value as `mailboxes` reads it."""
    return decode(field.value[:MAX_FIELD].replace(b"\r\n", b"").replace(b"\n", b""))


def _has_group(text: str) -> bool:
    """Tell whether a From field has group syntax (RFC 6854), outside quotes and comments."""
    return any(mark in _QUOTED.sub("", text) for mark in ":;")


def _is_ambiguous(text: str) -> bool:
    """Whether readers may take different addresses from this From field.

    Quoted strings and comments aside, one mailbox is either a phrase and one address in angle
    brackets with nothing behind it, or one address alone without white space (RFC 5322 §3.4, and less
    than its §4.4 allows); controls, and backslashes outside of quotes, are in neither.
    """
    if _CONTROL.search(text):
        return True
    bare = _outside(text)
    if any(mark in bare for mark in '"()\\'):
        return True
    before, angle, rest = bare.partition("<")
    if not angle:
        return "<" in text or not _ALONE.fullmatch(bare)
    inside, closed, behind = rest.partition(">")
    address = inside.rpartition(":")[2]  # behind a source route (RFC 5322 §4.4)
    return not closed or ">" in before or bool(behind.strip()) or "<" in inside or address.count("@") != 1


def _outside(text: str) -> str:
    """What stands outside of comments, which become spaces, and of quoted strings, which become NUL."""
    for _ in range(_MAX_NESTED):
        shorter = _QUOTED.sub(_replaced, text)
        if shorter == text:
            break
        text = shorter
    return text.strip(" \t")


def _replaced(found: re.Match[str]) -> str:
    if found[0][0] == "(":
        return " "
    return "\0" if found[1] == '"' else '"'  # an open quote stays to be seen


def _is_plain(domain: str) -> bool:
    """Whether a domain as it is written has only letters, digits and what stands between them.

    Mapping drops invisible characters, and makes full stops of others that a reader takes for text.
    """
    return all(c in _BETWEEN or unicodedata.category(c)[0] in "LMN" for c in domain)


def _is_utf8(value: bytes) -> bool:
    """Whether letters outside ASCII are what RFC 6532 has; of others nobody knows which ones they are."""
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
