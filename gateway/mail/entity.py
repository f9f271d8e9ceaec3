# SPDX-License-Identifier: GPL-2.0-or-later
"""What one entity (a message or a part) says about itself: type, boundary, encoding, names.

Reads hostile bytes; linear. Where fields are doubled, hidden or malformed, all that known clients
make of them is collected, and the reason is named.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from gateway.mail import headers, names
from gateway.mail.parameters import MAX_VALUE, Structured, loose, strict, unfold, without_comments
from gateway.mail.transfer import IDENTITY, KNOWN, UUENCODE

_CONTENT_FIELD = re.compile(rb"content[^a-z\n]{0,40}(?:t(?:ype|ransfer)|disp)")
_EXACT = ("content-type", "content-transfer-encoding", "content-disposition")
_QUOTING_NAMES = ("dkim-signature", "arc-message-signature", "domainkey-signature", "x-google-dkim-signature")
_ODD_ENCODING = re.compile(rb"64|quoted|print|uu|yenc|hex|gzip|qp|base", re.IGNORECASE)
_PLAIN_ENCODING = re.compile(
    rb"\s*+(?:[78][ _-]?bits?|binary|none|plain|text|us-?ascii|ascii|unicode|(?:iso-|windows-|utf-)[\w-]+)?"
    rb"\s*+;?\s*+\Z",
    re.IGNORECASE,
)
_TOKEN = re.compile(rb"[ \t]*+([A-Za-z0-9-]+)[ \t]*+\Z")
_WHITE_LINE = re.compile(rb"(?:^|(?<=\n))[ \t\v\f\0]*+\r?\n")
_EMPTY_LINE = re.compile(rb"(?:^|(?<=\n))\r?\n")
_LINE = re.compile(rb"\r\n|\n|\r")
_JUNK = re.compile(rb"[\x00-\x20:\"]*+(?=content)", re.IGNORECASE)
_FIELD = re.compile(rb"[!-9;-~]+[ \t]*:|[ \t]")
_TYPE_LIKE = re.compile(rb"([a-z0-9.+_-]{1,100})/([a-z0-9.+_-]{1,100})")
_LATE = re.compile(rb"\s*+content-[!-9;-~]{2,40}+[ \t]*+:", re.IGNORECASE)
_QUOTED_FIELD = re.compile(
    rb"(?:\A|(?<=\n))content-(?:type|transfer-encoding|disposition)[ \t]*+:", re.IGNORECASE
)
_QUOTED_WITHIN = 1_000  # octets of a body
QUOTED = "quoted-parts"  # parts in what is clearly text: scanned, but no ambiguity
_SQUEEZED = bytes(range(33)) + b'"\\'
# What every reader of MIME knows. ClamAV does not look into parts of other kinds, or not decoded.
_USUAL_MULTIPARTS = frozenset(("mixed", "alternative", "related", "report"))
_USUAL_LENGTH = 900  # octets of a field
_USUAL_DISPOSITIONS = frozenset(("", "inline", "attachment"))
_HEADER_MAX = 200_000  # octets of a header section that are read in further ways


@dataclass(frozen=True, slots=True)
class Media:
    """A type, lower case, with its charset and the boundaries a multipart may have, best first."""

    type: str
    charset: str = ""
    boundaries: tuple[bytes, ...] = ()
    report: str = ""  # type parameter, of multipart/related and the like


@dataclass(slots=True)
class Entity:
    """All readings of one header section. `reasons` are ambiguities by themselves.

    `media` and `encodings` are never empty, the commonest reading first. `variants` are the
    entity rewritten as clients read it that mend its header section in another way. `plain`
    tells that every reader gets the same from it, `usual` that ClamAV does so, too.
    """

    section: headers.HeaderSection
    media: list[Media] = field(default_factory=list)
    encodings: list[str] = field(default_factory=list)
    disposition: str = ""
    names: tuple[str, ...] = ()
    reasons: list[str] = field(default_factory=list)
    defects: list[str] = field(default_factory=list)
    variants: list[tuple[str, bytes]] = field(default_factory=list)
    plain: bool = True
    usual: bool = True


def read(raw: bytes, start: int, end: int, default: str = "text/plain", *, mend: bool = True) -> Entity:
    """Read the header section at `raw[start:end]`. `mend` asks for variants. Never raises."""
    section = headers.split(raw, start, end)
    entity = Entity(section)
    types: list[bytes] = []
    encodings: list[bytes] = []
    dispositions: list[bytes] = []
    exact = 0
    for item in section.fields:
        name = item.name
        if name[0] not in "cC":
            continue
        lower = name.lower()
        if lower not in _EXACT:
            continue
        exact += 1
        value = unfold(item.value)
        if value.endswith(b";") or b"\\" in value or len(value) > _USUAL_LENGTH:
            entity.usual = False  # ClamAV loses the whole body over that
        if len(value) > MAX_VALUE:
            entity.reasons.append("field-too-long")
        (types if lower == _EXACT[0] else encodings if lower == _EXACT[1] else dispositions).append(value)
        if item.raw[len(name) : len(name) + 1] != b":":
            entity.reasons.append("header-space-colon")
    if mend:
        _doubt_header(raw, start, end, exact, entity)
    if types or encodings or dispositions:
        _read_types(types, default, entity)
        _read_encodings(encodings, entity)
        _read_names(dispositions, types, entity)
    else:
        entity.media.append(Media(default))
        entity.encodings.append("7bit")
    if entity.reasons or entity.defects or any(reason != QUOTED for reason, _ in entity.variants):
        entity.plain = False
    return entity


# ---------------------------------------------------------------- the header section itself


def _doubt_header(raw: bytes, start: int, end: int, exact: int, entity: Entity) -> None:
    """Look for what readers of header sections differ on; add reasons and variants."""
    section = entity.section
    block = raw[start : min(section.end, start + _HEADER_MAX)]
    lower = block.lower()
    doubts: list[str] = []
    if len(_CONTENT_FIELD.findall(lower)) != exact and _hidden_fields(lower, start, section):
        doubts.append("header-hidden-field")
    if block.count(b"\r") != block.count(b"\r\n"):
        if lower.find(b"content") >= 0:
            doubts.append("header-bare-cr")
        else:
            entity.defects.append("header-bare-cr")
    if b"\0" in block:
        doubts.append("header-nul")
    if not section.empty_line and section.body_start < end:
        white = _EMPTY_LINE.search(raw, section.end, min(end, section.end + _HEADER_MAX))
        skipped = raw[section.end : white.start() if white else min(end, section.end + 2_000)]
        if exact or _CONTENT_FIELD.search(skipped.lower()):
            doubts.append("header-junk")
        else:
            entity.defects.append("header-junk")
    if exact and block.count(b"\n") > block.count(b"\r\n") > 0:
        doubts.append("header-bare-lf")
    if not section.fields and section.empty_line and _LATE.match(raw, section.body_start, end):
        # Some skip empty lines before the first field.
        entity.reasons.append("header-late")
        entity.variants.append(("header-late", raw[section.body_start : end].lstrip()))
    elif not exact:
        # Some go on reading fields behind the empty line, where none has said what the body is.
        body = raw[section.body_start : min(end, section.body_start + _QUOTED_WITHIN)]
        late = _QUOTED_FIELD.search(body)
        if late:
            entity.variants.append((QUOTED, raw[section.body_start + late.start() : end]))
    if doubts:
        entity.reasons += doubts
        entity.variants += ((doubts[0], variant) for variant in _variants(raw, start, end))
    elif exact and _WHITE_LINE.search(block):
        # A folded line of white space alone (RFC 5322 §4.2) ends the section for some.
        entity.variants += (("header-white-line", variant) for variant in _variants(raw, start, end))


def _hidden_fields(lower: bytes, start: int, section: headers.HeaderSection) -> bool:
    """Whether a line looks like a content field to someone, but is none in our reading."""
    spans = {first: index for index, (first, _) in enumerate(section.spans)}
    for found in _CONTENT_FIELD.finditer(lower):
        line = max(lower.rfind(b"\n", 0, found.start()), lower.rfind(b"\r", 0, found.start())) + 1
        lead = lower[line : found.start()]
        if any(97 <= c <= 122 for c in lead):
            continue  # words stand before it
        index = spans.get(start + line)
        if index is not None and section.fields[index].name.lower() in _EXACT:
            continue
        if index is None:
            owner = _owner(start + line, section)
            if owner in _QUOTING_NAMES or owner.startswith(("x-", "arc-", "authentication-")):
                continue
        return True
    return False


def _owner(offset: int, section: headers.HeaderSection) -> str:
    for (first, after), item in zip(section.spans, section.fields, strict=True):
        if first <= offset < after:
            return item.name.lower()
    return ""


def _variants(raw: bytes, start: int, end: int) -> list[bytes]:
    """Rewrite the header section as lenient readers see it, the body as it is."""
    found: dict[bytes, None] = {}
    reach = min(end, start + _HEADER_MAX)
    for ends in (_EMPTY_LINE, _WHITE_LINE):
        # The first line may be white, and is then no end.
        first = raw.find(b"\n", start, reach) + 1 or start
        stop = ends.search(raw, first, reach)
        if stop is None:
            continue
        for breaks in (_LINE, re.compile(rb"\r?\n")):
            lines: list[bytes] = []
            for line in breaks.split(raw[start : stop.start()].replace(b"\0", b"")):
                bare = _JUNK.sub(b"", line, count=1) if _JUNK.match(line) else line
                if _FIELD.match(bare) and bare.strip():
                    lines.append(bare)
            found.setdefault(b"\r\n".join(lines) + b"\r\n\r\n" + raw[stop.end() : end])
    return list(found)


def _some(values: list[bytes]) -> list[bytes]:
    """Of a field that is doubled readers take the first, or the last."""
    return values if len(values) <= 4 else [*values[:3], values[-1]]


# ---------------------------------------------------------------- Content-Type


def _read_types(values: list[bytes], default: str, entity: Entity) -> None:
    distinct = list(dict.fromkeys(v.strip() for v in values))
    if len(values) > 1:
        entity.defects.append("content-type-doubled")
    for value in _some(distinct):
        parsed = strict(value)
        media = _strict_media(parsed, value, entity) if parsed else _loose_media(value, default, entity)
        if media not in entity.media:
            entity.media.append(media)
    if len({(m.type, m.boundaries) for m in entity.media}) > 1 and any(
        m.type.startswith(("multipart/", "message/")) for m in entity.media
    ):
        entity.reasons.append("content-type-conflict")
    if not entity.media:
        entity.media.append(Media(default))


def _strict_media(parsed: Structured, value: bytes, entity: Entity) -> Media:
    kind = parsed.head
    if "/" not in kind:
        if "multi" in kind or "message" in kind or "boundary" in parsed.parameters:
            return _loose_media(value, kind, entity)
        entity.defects.append("content-type-malformed")
        kind = "text/plain"
    charset = parsed.parameters.get("charset", "") or parsed.extended.get("charset", "")
    plain = parsed.parameters.get("boundary")
    group, _, sort = kind.partition("/")
    if (group == "multipart" and sort not in _USUAL_MULTIPARTS) or (group == "message" and sort != "rfc822"):
        entity.usual = False
    if group != "multipart":
        return Media(kind, charset, (plain[:250].encode("utf-8"),) if plain else ())
    extended = parsed.extended.get("boundary")
    if extended is not None or "boundary" in parsed.odd or not plain:
        entity.reasons.append(
            "boundary-encoded"
            if extended is not None
            else "boundary-conflict"
            if plain
            else "boundary-malformed"
        )
        first = [b for b in (extended, plain) if b]
        return Media(kind, charset, _boundaries(dict.fromkeys((*first, *loose(value, b"boundary")))))
    boundary = plain.encode("utf-8")
    if "(" in plain:
        entity.usual = False  # quoted, it starts no comment, but for ClamAV
    if len(boundary) > 250 or plain != plain.strip() or not plain.isprintable() or not plain.isascii():
        entity.reasons.append("boundary-malformed")
        return Media(kind, charset, _boundaries(dict.fromkeys((plain, *loose(value, b"boundary")))))
    return Media(kind, charset, (boundary,), parsed.parameters.get("type", ""))


def _loose_media(value: bytes, default: str, entity: Entity) -> Media:
    """Read a Content-Type that clients read in several ways, in the way that finds most."""
    lower = value.lower()
    squeezed = without_comments(lower).translate(None, _SQUEEZED)
    charset = next(iter(loose(value, b"charset")), "") if b"charset" in lower else ""
    found = _TYPE_LIKE.match(squeezed) or _TYPE_LIKE.search(squeezed)
    kind = f"{found[1].decode()}/{found[2].decode()}" if found else default
    if b"ulti" in squeezed or b"bound" in squeezed or b"?=" in squeezed:
        entity.reasons.append("content-type-malformed")
        if not kind.startswith("multipart/"):
            kind = "multipart/mixed"
        return Media(kind, charset, _boundaries(dict.fromkeys(loose(value, b"boundary"))))
    if kind.startswith("message/"):
        entity.reasons.append("content-type-malformed")
    else:
        entity.defects.append("content-type-malformed")
    return Media(kind, charset)


def _boundaries(readings: dict[str, None]) -> tuple[bytes, ...]:
    found: dict[bytes, None] = {}
    for reading in readings:
        boundary = reading[:250].encode("utf-8", "replace")
        found.setdefault(boundary)
        found.setdefault(boundary.strip())
        if not reading.isascii():
            found.setdefault(reading[:250].encode("latin-1", "replace"))
    found.pop(b"", None)
    return tuple(found)


# ---------------------------------------------------------------- Content-Transfer-Encoding


def _read_encodings(values: list[bytes], entity: Entity) -> None:
    if not values:
        entity.encodings.append("7bit")
        return
    found: dict[str, None] = {}
    for value in _some(values):
        token = _TOKEN.match(value)
        name = token[1].decode("ascii").lower() if token else ""
        if name in KNOWN or name in UUENCODE:
            found.setdefault("7bit" if name in IDENTITY else name)
        elif _PLAIN_ENCODING.match(value):
            entity.defects.append("encoding-unknown")
            found.setdefault("7bit")
        else:
            entity.reasons.append("encoding-malformed" if _ODD_ENCODING.search(value) else "encoding-unknown")
            for guess in _guesses(value.lower()):
                found.setdefault(guess)
    entity.encodings += found
    if len(values) > 1:
        entity.defects.append("encoding-doubled")
        if len(found) > 1:
            entity.reasons.append("encoding-conflict")


def _guesses(value: bytes) -> list[str]:
    """The encodings that a malformed value may mean, by what stands first in it."""
    places = [
        (value.find(mark), name)
        for mark, name in (
            (b"64", "base64"),
            (b"base", "base64"),
            (b"print", "quoted-printable"),
            (b"quot", "quoted-printable"),
            (b"qp", "quoted-printable"),
            (b"uu", "x-uuencode"),
        )
    ]
    named = dict.fromkeys(name for place, name in sorted(places) if place >= 0)
    return [*named, *(n for n in ("7bit", "base64", "quoted-printable") if n not in named)]


# ---------------------------------------------------------------- names


def _read_names(dispositions: list[bytes], types: list[bytes], entity: Entity) -> None:
    found: dict[str, None] = {}
    odd = False
    if len(dispositions) > 1:
        entity.defects.append("disposition-doubled")
    dispositions, types = _some(dispositions), _some(types)
    for index in range(max(len(dispositions), len(types))):
        disposition = dispositions[index] if index < len(dispositions) else b""
        kind = types[index] if index < len(types) else b""
        parsed = strict(disposition) if disposition else None
        if disposition and not entity.disposition:
            entity.disposition = (
                parsed.head if parsed else "attachment" if b"attach" in disposition.lower() else "inline"
            )
            if parsed is None or parsed.head not in _USUAL_DISPOSITIONS:
                entity.usual = False
        if b"=" not in disposition and b"=" not in kind:
            continue
        parsed_type = strict(kind) if kind else None
        for name in names.readings(parsed, parsed_type, disposition, kind):
            found.setdefault(name)
        odd = odd or bool((parsed and parsed.odd) or (parsed_type and parsed_type.odd))
    if odd and len(dispositions) + len(types) > 1:
        # The sections of one name may be spread over the fields.
        joined = strict(b"x" + b"".join(b";" + value.partition(b";")[2] for value in (*dispositions, *types)))
        found.update(dict.fromkeys(v for v in joined.extended.values() if v) if joined else ())
    entity.names = names.some(tuple(found))
