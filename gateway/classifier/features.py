# SPDX-License-Identifier: GPL-2.0-or-later
"""Features of a parsed message, the same for training and for serving.

Reads hostile text, already decoded and bounded by `gateway.mail.mime`; bounds it again, and every
pattern here is linear in what it reads. No network, no files.

A feature is a short string in a group, hashed to 32 bits as CRC-32 of "group:string". Two kinds:
*text* (words of subject and body) and *shape* (addresses, links, proportions), because a text in
a language the model has not learned must be judged by its shape alone. What only one collection
of mail or one mailing list knows (list fields, threading, trace fields, dates, subject tags)
is left out on purpose.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Final
from zlib import crc32

from gateway.mail.headers import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gateway.mail.types import Content, Url

FEATURE_VERSION: Final = 3
SHAPE_WEIGHT: Final = 1.5  # of a shape feature in the norm and the sum, where a text feature has 1

NO_LINK: Final = "url:count 0"

TEXT_LIMIT: Final = 12_000  # characters of body text that are read
RUNNING_LIMIT: Final = 3_000  # characters of body text whose grams are read
SUBJECT_LIMIT: Final = 300
URL_LIMIT: Final = 40
_PART_LIMIT: Final = 8
_NAME_WORDS: Final = 10

_WORD = re.compile(r"[^\W_]{2,24}")
_LINK_OR_ADDRESS = re.compile(r"(?<!\S)[^\s@]*?(?:@|://)\S*+|\bwww\.\S*+")
_SUBJECT_TAGS = re.compile(r"^\s*+(?:(?:re|fwd?|aw|sv|wg)\s?(?:\[\d{1,3}\])?:\s*+|\[[^\]]{1,40}\]\s*+)+")
_INVISIBLE = dict.fromkeys([0xAD, 0x34F, 0x61C, *range(0x200B, 0x2010), *range(0x2060, 0x2065), 0xFEFF])
_DIGITS = str.maketrans("123456789", "000000000")
_HOST = re.compile(r"^[a-z][a-z0-9+.-]{0,20}:/{2,}([^/?#\s]{1,300})", re.IGNORECASE)
_BARE_HOST = re.compile(r"^[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63}){1,6}(?=[/:?#\s]|$)", re.IGNORECASE)
_IP_HOST = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}")
_SHOWN_HOST = re.compile(r"(?:https?://|www\.)([a-z0-9.-]{3,100})", re.IGNORECASE)
_ADDRESS = re.compile(r"[^\s<>,;\"()]{1,64}@[^\s<>,;\"()]{1,255}")
_JOINED = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")  # words written together, LikeThis
_AMOUNT = re.compile(r"[$€£]\s?\d[\d.,]{0,9}|\d[\d.,]{0,5}\s?%")
_AMOUNTS: Final = 20
_ID_DOMAIN = re.compile(rb"@([^>\s]{1,100})")


@dataclass(frozen=True, slots=True)
class Features:
    """What a message shows: distinct strings, each with its group in front.

    The first `words` of `text` are the distinct words of body and subject. `running` is the author's
    name and the start of subject and body as running text, for grams.
    """

    text: tuple[str, ...]
    shape: tuple[str, ...]
    words: int
    running: str


def key(feature: str) -> int:
    """Hash a feature to 32 bits."""
    return crc32(feature.encode("utf-8", "surrogatepass"))


def extract(content: Content) -> Features:
    """Read the features of a message. Never fails: missing parts give fewer features."""
    body = _body(content)
    subject = _SUBJECT_TAGS.sub("", _clean(content.subject[:SUBJECT_LIMIT]))
    in_subject = _WORD.findall(subject)
    clean = _LINK_OR_ADDRESS.sub(" ", _clean(body))
    words = dict.fromkeys(_WORD.findall(clean))
    words.update(dict.fromkeys(in_subject))
    name = _name(content)
    in_name = _WORD.findall(name)[:_NAME_WORDS]
    text = [f"w:{word}" for word in words]
    # What a name says is read beside the subject; it is no word of the text, which must say enough by itself.
    text += dict.fromkeys(f"w:{word}" for word in in_name if word not in words)
    text += _amounts(content.subject[:SUBJECT_LIMIT], body)
    text += dict.fromkeys(f"s:{word}" for word in (*in_subject, *in_name))
    text += dict.fromkeys(f"s:{a} {b}" for a, b in pairwise(in_subject))
    sender = _sender(content)
    shape = dict.fromkeys(_subject_shape(content.subject))
    if hidden := sum(len(part.hidden) for part in content.texts):
        shape[f"body:hidden {_bin(hidden)}"] = None
    shape.update(dict.fromkeys(_text_shape(body, words)))
    shape.update(dict.fromkeys(_from_shape(content, sender)))
    shape.update(dict.fromkeys(_address_shape(content, sender, in_subject)))
    shape.update(dict.fromkeys(_url_shape(content.urls, sender.rpartition("@")[2])))
    author = [" ", *name.split(), "\n"] if name else []
    running = " ".join([*author, " ", *subject.split(), "\n", *clean[:RUNNING_LIMIT].split(), " "])
    return Features(tuple(text), tuple(shape), len(words), running)


def _body(content: Content) -> str:
    """Join the readable texts, up to the limit."""
    room = TEXT_LIMIT
    parts = []
    for text in content.texts[:_PART_LIMIT]:
        if room <= 0:
            break
        parts.append(text.text[:room])
        room -= len(parts[-1])
    return "\n".join(parts)


def _clean(text: str) -> str:
    """Fold to what a reader sees: compatibility forms, case, invisible characters, digits."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text.translate(_INVISIBLE))
    return text.lower().translate(_DIGITS)


def _bin(count: float) -> int:
    """Logarithmic bin: 0, 1, 2–3, 4–7, ..."""
    return int(count).bit_length()


def _sender(content: Content) -> str:
    return content.from_addresses[0][1].lower()[:320] if content.from_addresses else ""


def _name(content: Content) -> str:
    """Give the author's name, words parted that are written together."""
    return _clean(_JOINED.sub(" ", content.from_addresses[0][0][:200])) if content.from_addresses else ""


def _amounts(subject: str, body: str) -> Iterable[str]:
    """Give sums of money and percentages, their digits as 0."""
    found = islice(_AMOUNT.finditer(f"{subject}\n{body}"), 5 * _AMOUNTS)
    amounts = dict.fromkeys("w:" + "".join(one[0].split()).translate(_DIGITS) for one in found)
    return list(amounts)[:_AMOUNTS]


def _subject_shape(subject: str) -> Iterator[str]:
    subject = subject[:SUBJECT_LIMIT]
    yield f"subject:length {_bin(len(subject))}"
    for sign in "!?$%*":
        if sign in subject:
            yield f"subject:{sign}"
    letters = [c for c in subject if c.isalpha()]
    if len(letters) > 5 and sum(c.isupper() for c in letters) > len(letters) * 0.6:
        yield "subject:capitals"
    if re.search(r"\d{4,}\s*$", subject):
        yield "subject:number at end"
    if re.search(r" {6,}\S", subject):
        yield "subject:gap"


def _text_shape(body: str, words: Iterable[str]) -> Iterator[str]:
    """Describe proportions. Short and empty texts look alike: that one is short says little."""
    yield f"body:length {max(_bin(len(body)), 7) if body.strip() else 7}"
    for sign in "!?$%":
        count = min(_bin(body.count(sign)), 5)
        if count or len(body) > 200:
            yield f"body:{sign} {count}"
    yield f"body:words {max(_bin(sum(map(len, words))), 6)}"
    sample = body[:2000]
    upper = sum(map(str.isupper, sample))
    if upper:
        yield f"body:capitals {min(10 * upper // len(sample), 6)}"


def _from_shape(content: Content, sender: str) -> Iterator[str]:
    if not content.from_addresses:
        return
    name = content.from_addresses[0][0][:200]
    local, _, domain = sender.rpartition("@")
    yield from (f"from:domain {part}" for part in _parents(domain))
    yield from (f"from:local {word}" for word in _WORD.findall(local.translate(_DIGITS))[:5])
    in_name = _WORD.findall(_name(content))
    yield from (f"from:name {word}" for word in in_name[:_NAME_WORDS])
    yield f"from:name words {min(len(name.split()), 4)}"
    yield f"from:name in local {any(word in local for word in in_name if len(word) > 2)}"
    if "@" in name:
        yield "from:name has address"
    digits = sum(map(str.isdigit, local))
    if digits:
        yield f"from:local digits {_bin(digits)}"
    yield f"from:local length {min(_bin(len(local)), 6)}"
    if name.isupper():
        yield "from:name capitals"


def _parents(host: str) -> list[str]:
    """Give the host's domains from the top: com, example.com, www.example.com (at most four)."""
    labels = host.strip(".").split(".")[-4:]
    return [".".join(labels[start:]) for start in range(len(labels))]


def _address_shape(content: Content, sender: str, in_subject: list[str]) -> Iterator[str]:
    found: dict[str, list[str]] = {"to": [], "reply-to": []}
    for field in content.fields:
        addresses = found.get(field.name.lower())
        if addresses is not None and len(addresses) < 20:
            value = field.value[:4000].decode("utf-8", "replace").lower()
            addresses += _ADDRESS.findall(value) or ["none"]
    if not content.from_addresses:
        return  # text without a header says nothing about addresses
    yield f"message-id:{_id_domain(content, sender.rpartition('@')[2])}"
    to, reply = found["to"], found["reply-to"]
    yield f"to:count {min(_bin(len(to)), 4)}"
    if to == ["none"]:
        yield "to:no address"
    if sender in to:
        yield "to:equals from"
    if any(address.partition("@")[0].translate(_DIGITS) in in_subject for address in to[:5]):
        yield "to:named in subject"
    if reply:
        same = reply[0].rpartition("@")[2] == sender.rpartition("@")[2]
        yield "reply-to:" + (
            "equals from" if reply[0] == sender else "same domain" if same else "other domain"
        )


def _id_domain(content: Content, domain: str) -> str:
    """Say whose name stands in the Message-ID: programs of the sender's own site write that site's."""
    fields = content.all("message-id")
    if not fields:
        return "none"
    found = _ID_DOMAIN.search(fields[0].value[:1000])
    host = found[1].decode("utf-8", "replace").lower().rstrip(".") if found else ""
    if "." not in host:
        return "no name" if host else "no domain"
    return "site of sender" if _site(host) == _site(domain) else "other site"


def _site(host: str) -> str:
    """Guess the registered domain: two labels, three under short second levels such as co.uk."""
    labels = host.split(".")
    three = len(labels) > 2 and len(labels[-1]) == 2 and len(labels[-2]) <= 3
    return ".".join(labels[-3 if three else -2 :])


def _url_shape(urls: tuple[Url, ...], from_domain: str) -> Iterator[str]:
    distinct = list(dict.fromkeys(urls))
    yield f"url:count {min(_bin(len(distinct)), 6)}"
    sites = set()
    for url in distinct[:URL_LIMIT]:
        target = url.target[:600]
        match = _HOST.match(target)
        authority = match.group(1) if match else ""
        bare = None if match else _BARE_HOST.match(target)
        if bare:
            authority = bare.group()
        if not authority:
            continue
        rest = target[match.end(1) :] if match else target[len(authority) :]
        if "@" in authority:
            yield "url:login"
        host, _, port = authority.lower().rpartition("@")[2].partition(":")
        if port and port not in {"80", "443"}:
            yield "url:port"
        host = host.rstrip(".")
        if _IP_HOST.fullmatch(host):
            yield "url:address for host"
        else:
            site = _site(host)
            sites.add(site)
            yield from (f"url:host {part}" for part in _parents(host.removeprefix("www.")))
            if from_domain and site == _site(from_domain):
                yield "url:site of sender"
            shown = _SHOWN_HOST.search(url.shown[:300])
            if shown and _site(shown.group(1).lower().rstrip(".")) != site:
                yield "url:shows another site"
            if any(map(str.isdigit, site)):
                yield "url:digits in site"
            yield f"url:site length {_bin(len(site))}"
        if "%" in authority:
            yield "url:escaped host"
        yield f"url:length {_bin(len(target))}"
        yield f"url:path depth {min(rest.count('/'), 5)}"
        if "?" in rest:
            yield "url:query"
        yield from (f"url:path {word}" for word in _WORD.findall(rest.lower().translate(_DIGITS))[:8])
    yield f"url:sites {min(_bin(len(sites)), 5)}"


def readable(feature: str) -> str:
    """Say a feature so that a person understands it; hostile characters are replaced."""
    group, _, rest = feature.partition(":")
    text = printable(rest, 80)
    if group == "w":
        return f"word “{text}”"
    if group == "s":
        return f"subject “{text}”"
    return f"{group} {text}"
