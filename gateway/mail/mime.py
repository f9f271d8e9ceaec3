# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages read for judging: `parse` turns hostile bytes into a bounded `Content`.

Reads hostile bytes; no network, no files, nothing is run. Python's `email` package is not used
here: it answers with one reading where clients have several (it finds 45 % of the files that
public evasion suites hide), recurses as deep as a message nests, and is quadratic on some input.

The reading in which all known clients agree is taken first, and ordinary mail has no other. Where
a header section, a structured field, a delimiter or an encoding is not as the RFCs have it, each
further reading that a known client makes is queued and read after that one. If it brings a file
or text to light that the first reading does not have, that is kept too, and the reason is named
in `Content.ambiguities`. Depth, parts, octets and readings are bounded; a bound that is hit is
named in `Content.limits`. Every step is linear in the octets it reads.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, replace

from gateway.mail import containers, entity, headers, magic, openpgp, sealed, structure, transfer
from gateway.mail.addresses import mailboxes
from gateway.mail.charsets import decode, decode_words, lenient_base64
from gateway.mail.findings import NOT_WHOLE, READ_AS_TEXT, Findings, MimeLimits, known_file, textual
from gateway.mail.parameters import unfold
from gateway.mail.types import Content


@dataclass(frozen=True, slots=True)
class _Item:
    """Octets to be read as an entity. `reason` is "" in the first reading."""

    raw: bytes
    start: int
    end: int
    depth: int
    reason: str = ""
    default: str = "text/plain"
    media: entity.Media | None = None  # read a body without header section as this
    mend: bool = True
    outer: tuple[bytes, ...] = ()  # boundaries of the multiparts around
    part: structure.Span | None = None  # what is to be cut out of the raw message to be rid of it
    embedded: bool = False  # within a message in the message, which only goes as a whole


_MAX_CARRIED = 100  # files within a text that may have some
_BLANK = re.compile(rb"\s*+\Z")
_BOILERPLATE = re.compile(
    rb"\s*+(?:This is an? ?(?:multi-?part|cryptographically signed|OpenPGP/MIME|message in MIME|S/MIME)"
    rb"|This message is in MIME format|If you are reading this)[^<>]{0,400}\Z",
    re.IGNORECASE,
)
_BASE64_BODY = re.compile(rb"\s*+(?:[A-Za-z0-9+/]{4,200}+={0,2}+[ \t]*+\r?\n){2}")
# A line of base64, uuencode, or dashes in quoted-printable, where delimiters should stand.
_ENCODED_PARTS = re.compile(rb"\s*+(?:[A-Za-z0-9+/]{40,200}+={0,2}+[ \t]*+\r?\n|begin(?:-base64)? \d|=2[Dd])")
_MESSAGES = frozenset(("message/rfc822", "message/global", "message/news"))
_REPORTS = frozenset(("message/delivery-status", "message/disposition-notification", "text/rfc822-headers"))
_UNREADABLE = {"message/partial": "partial", "message/external-body": "external-body"}
_CARRIERS = frozenset(("text/calendar", "text/vcard", "image/svg+xml"))  # texts with files in base64 within
_QUOTED = entity.QUOTED
_ENCODED_HEAD = 1_000  # octets of a file by which it is known to be base64
_MAX_SNIFF = 2_000_000  # octets of a text part in which undeclared parts are looked for
_MAX_SCAN, _MAX_SCAN_TIMES = 64_000_000, 16  # octets searched for delimiters, likewise
_MAX_WORK, _MAX_WORK_TIMES = 2_000_000, 12  # octets of further readings: so many, and times the message


__all__ = ["MimeLimits", "parse"]


def parse(raw: bytes, limits: MimeLimits = MimeLimits()) -> Content:  # noqa: B008 - frozen, so it can be shared
    """Read a message. Never raises; see the module's own words for what is bounded and named."""
    reader = _Reader(raw, limits)
    reader.run()
    section, found = reader.section, reader.found
    subject = next((f for f in section.fields if f.name.lower() == "subject"), None)
    from_fields = [f for f in section.fields if f.name.lower() == "from"]
    return Content(
        fields=section.fields,
        body_start=section.body_start,
        subject=_unstructured(subject.value) if subject else "",
        from_addresses=mailboxes(from_fields),
        from_fields=len(from_fields),
        texts=tuple(found.texts),
        urls=tuple(found.urls),
        attachments=tuple(found.attachments),
        defects=tuple(found.defects),
        ambiguities=tuple(found.ambiguities),
        limits=tuple(found.hit),
        readings=tuple(found.readings.values()),
        certain=found.certain and not found.ambiguities and not found.hit,
    )


def _unstructured(value: bytes) -> str:
    """The readable text of an unstructured field."""
    return decode_words(decode(unfold(value[: headers.MAX_FIELD])).strip())


class _Reader:
    """The work of one `parse`: what is still to be read, and how much work that may be."""

    def __init__(self, raw: bytes, limits: MimeLimits) -> None:
        self.raw = raw
        self.limits = limits
        self.found = Findings(limits)
        self.section = headers.HeaderSection((), (), 0, 0, 0, empty_line=False)
        self._stack = [_Item(raw, 0, len(raw), 0, part=(0, len(raw)))]
        self._further: deque[_Item] = deque()
        self._tried = 0
        self._work = 0  # octets of further readings
        self._scanned = 0  # octets searched for delimiters, at all depths together
        self._parts = 0

    def run(self) -> None:
        """Read the first reading to its end, then each further one."""
        while self._stack or self._further:
            self._entity(self._stack.pop() if self._stack else self._further.popleft())
        if not self.found.plain or self.found.hit.keys() & NOT_WHOLE:
            # Another scanner may have taken another way, or is not shown the whole: it shall see what we saw.
            for leaf in self.found.leaves:
                self.found.keep(leaf)

    def _later(self, item: _Item) -> None:
        """Queue a further reading."""
        self._tried += 1
        self._work += item.end - item.start
        if self._tried > self.limits.readings or self._work > _MAX_WORK + _MAX_WORK_TIMES * len(self.raw):
            self.found.hit.setdefault("readings")
            return
        self.found.doubt()
        self._further.append(item)

    # ------------------------------------------------------------ entities

    def _entity(self, item: _Item) -> None:
        self._parts += 1
        if self._parts > self.limits.parts:
            self.found.hit.setdefault("parts")
            return
        if item.depth > self.limits.depth:
            self.found.hit.setdefault("depth")
            return
        if item.media is not None:
            self._body(item, entity.Entity(self.section, [item.media], ["7bit"]), item.media, item.start)
            return
        read = entity.read(item.raw, item.start, item.end, item.default, mend=item.mend)
        if item.depth == 0 and not item.reason:
            self.section = read.section
            if headers.hides_from(item.raw, read.section):
                self.found.ambiguities.setdefault("header-hidden-from")
        if read.section.truncated or (item.depth and len(read.section.fields) > self.limits.fields):
            self.found.hit.setdefault("fields")
        if not read.usual or (item.depth and not read.section.fields):
            self.found.plain = False  # to ClamAV a part without fields is no file
        if not read.plain:
            self.found.doubt()
            self.found.defects.update(dict.fromkeys(read.defects))
            self.found.ambiguities.update(dict.fromkeys(read.reasons))
        for reason, variant in read.variants:
            if self.found.spend(len(variant)):
                self._later(
                    _Item(
                        variant,
                        0,
                        len(variant),
                        item.depth,
                        reason,
                        item.default,
                        mend=False,
                        outer=item.outer,
                    )
                )
        for media in read.media:
            self._body(item, read, media, read.section.body_start)

    def _body(self, item: _Item, read: entity.Entity, media: entity.Media, start: int) -> None:
        if media.type.startswith("multipart/"):
            self._multipart(item, read, media, start)
        elif media.type in _MESSAGES:
            self._message(item, read, start)
        else:
            if media.type in _UNREADABLE:
                self.found.ambiguities.setdefault(_UNREADABLE[media.type])
            for boundary in media.boundaries:
                if structure.cut(item.raw, start, item.end, boundary, 1).spans:
                    self._later(
                        _Item(
                            item.raw,
                            start,
                            item.end,
                            item.depth,
                            "boundary-on-leaf",
                            media=entity.Media("multipart/mixed", "", (boundary,)),
                        )
                    )
            self._leaf(item, read, media, start)

    def _message(self, item: _Item, read: entity.Entity, start: int) -> None:
        raw, end = item.raw, item.end
        if read.encodings[0] in ("base64", "quoted-printable"):
            # RFC 2046 §5.2.1 forbids it, and clients differ on it.
            self.found.doubt()
            self.found.defects.setdefault("encoded-message")
            data = transfer.readings(raw[start:end], read.encodings[0])[0]
            if self.found.spend(len(data)):
                inner = _Item(data, 0, len(data), item.depth + 1, item.reason)
                self._stack.append(replace(inner, part=item.part, embedded=True))
        # ClamAV looks into messages within messages only if they start in ways it knows, and not into
        # what stands there as it is.
        self.found.plain = False
        inner = _Item(raw, start, end, item.depth + 1, item.reason, outer=item.outer)
        self._stack.append(replace(inner, part=item.part, embedded=True))

    def _multipart(self, item: _Item, read: entity.Entity, media: entity.Media, start: int) -> None:
        raw, end = item.raw, item.end
        best: structure.Parts | None = None
        default = "message/rfc822" if media.type == "multipart/digest" else "text/plain"
        used = b""
        for boundary in media.boundaries:
            self._scanned += end - start
            if self._scanned > _MAX_SCAN + _MAX_SCAN_TIMES * len(self.raw):
                self.found.hit.setdefault("depth")
                return
            parts = structure.cut(raw, start, end, boundary, self.limits.parts)
            if not parts.spans:
                continue
            if best is None:
                best, used = parts, boundary
            elif parts.spans != best.spans:
                self.found.ambiguities.setdefault("boundary-conflict")
                self._later(
                    _Item(
                        raw,
                        start,
                        end,
                        item.depth,
                        "boundary-conflict",
                        default,
                        entity.Media(media.type, "", (boundary,)),
                    )
                )
        if best is None and item.reason:
            used = media.boundaries[0] if media.boundaries else b"-"
            best = structure.cut(raw, start, end, used, self.limits.parts, lenient=True)
        if best is None or not best.spans:
            self._no_parts(item, read, media, start)
            return
        if any(b.startswith(used) or used.startswith(b) for b in item.outer) or not best.closed:
            self.found.doubt()
        if not best.closed:
            self.found.defects.setdefault("boundary-unclosed")
            if item.depth and raw.find(b"--" + used, end) >= 0:  # not all readers let an outer one end it
                whole = entity.Media(media.type, "", (used,))
                self._later(_Item(raw, start, len(raw), item.depth, "boundary-conflict", default, whole))
        if best.more:
            self.found.hit.setdefault("parts")
        if best.odd and not item.reason:
            self._odd_delimiters(item, start, used, best, default)
        self._encoded_multipart(item, read, media, start, found=True)
        outer = (*item.outer, used)
        for first, last in reversed(best.spans):
            # In place of an alternative a note would hide the others.
            part = (first, last) if media.type != "multipart/alternative" else None
            child = _Item(raw, first, last, item.depth + 1, item.reason, default, outer=outer)
            part = item.part if item.embedded else part
            self._stack.append(replace(child, part=part, embedded=item.embedded))
        self._outside(item, best.preamble)
        self._outside(item, best.epilogue)

    def _odd_delimiters(
        self,
        item: _Item,
        start: int,
        boundary: bytes,
        best: structure.Parts,
        default: str,
    ) -> None:
        """Read lines that only start with the boundary as delimiters, as RFC 2046 §5.1.1 allows."""
        self.found.doubt()
        parts = structure.cut(item.raw, start, item.end, boundary, self.limits.parts, lenient=True)
        if best.field:
            self.found.ambiguities.setdefault("delimiter-odd")
        if parts.spans != best.spans:
            for first, last in parts.spans:
                if (first, last) not in best.spans[: self.limits.readings]:
                    self._later(_Item(item.raw, first, last, item.depth + 1, "delimiter-odd", default))

    def _encoded_multipart(
        self, item: _Item, read: entity.Entity, media: entity.Media, start: int, *, found: bool
    ) -> None:
        """Decode a multipart body that has a transfer encoding, which RFC 2045 §6.4 forbids."""
        encoding = read.encodings[0]
        if encoding == "7bit":
            return
        self.found.doubt()
        self.found.defects.setdefault("encoded-multipart")
        body = item.raw[start : item.end]
        if _BASE64_BODY.match(body) is None and (encoding == "base64" or found):
            return  # delimiters in clear: decoded first, they would read the same
        data = transfer.readings(body, encoding)[0]
        if data != body and self.found.spend(len(data)):
            self._later(_Item(data, 0, len(data), item.depth + 1, "encoded-multipart", media=media))

    def _no_parts(self, item: _Item, read: entity.Entity, media: entity.Media, start: int) -> None:
        """Read a multipart in which its boundary does not occur."""
        raw, end = item.raw, item.end
        if _BLANK.match(raw, start, end):
            self.found.defects.setdefault("multipart-empty")
            return
        self.found.doubt()
        if not item.reason:
            self.found.defects.setdefault("multipart-without-parts")
        sniffed = structure.sniff_boundaries(raw, start, end)
        for boundary in sniffed:
            self._later(
                _Item(
                    raw,
                    start,
                    end,
                    item.depth,
                    "boundary-missing",
                    media=entity.Media("multipart/mixed", "", (boundary,)),
                )
            )
        if sniffed or read.encodings[0] != "7bit" or read.names or _ENCODED_PARTS.match(raw, start, end):
            self.found.ambiguities.setdefault("multipart-without-parts")
        self._encoded_multipart(item, read, media, start, found=False)
        self._leaf(item, read, entity.Media("text/plain", media.charset), start)

    def _outside(self, item: _Item, span: structure.Span) -> None:
        """Look at what stands before the first or behind the last delimiter."""
        raw = item.raw
        start, end = span
        if end - start < 4 or _BLANK.match(raw, start, end):
            return
        data = raw[start:end]
        if _BOILERPLATE.match(raw, start, end) is None:
            self.found.defects.setdefault("outside-parts")
            self.found.keep(data)
        self._undeclared(item, data, "content-outside-parts", known=False)

    # ------------------------------------------------------------ leaves

    def _leaf(self, item: _Item, read: entity.Entity, media: entity.Media, start: int) -> None:
        kind = media.type
        encoding = read.encodings[0]
        data = transfer.canonical(item.raw, start, item.end, encoding)
        if data is None:
            data = self._odd_encoding(item, kind, item.raw[start : item.end], encoding)
        elif not self.found.spend(len(data)):
            return
        if encoding in transfer.UUENCODE:
            self.found.doubt()
        if encoding != "base64" and (media.type not in READ_AS_TEXT or read.names):
            self._saved_file(item, data, start, encoding)
        for other in read.encodings[1:]:
            if self.found.spend(2 * (item.end - start)):
                for reading in transfer.readings(item.raw[start : item.end], other)[:2]:
                    self.found.further(reading, "encoding-conflict")
        as_text = READ_AS_TEXT.get(kind, "plain" if kind in _REPORTS else "")
        attached = read.disposition == "attachment" or not as_text or bool(read.names)
        if encoding == "base64" and not attached and magic.detect(data) not in ("", "text/html", "text/xml"):
            attached = True
        if item.reason:
            self._further_leaf(item, read, kind, data, attached=attached)
            return
        if attached:
            self.found.attach(read.names, kind, data, item.depth, item.part)
            self._within(item, sealed.in_file(data, read.names))
            self._encoded_twice(item, data)
        else:
            self.found.leaves.append(data)
            if openpgp.ARMOR in data:
                self._within(item, sealed.in_text(data))
        if as_text and read.disposition != "attachment":
            self.found.read_text(as_text, data, media.charset)
        if as_text or encoding != "base64":
            if encoding == "7bit" and _BASE64_BODY.match(data):
                self._sniff_encoded(data, "encoding-missing")
            self._undeclared(item, data, "undeclared-parts", known=read.plain)
        if magic.detect(data) in _CARRIERS:
            self._sniff_encoded(data, "", _MAX_CARRIED)

    def _saved_file(self, item: _Item, data: bytes, start: int, encoding: str) -> None:
        """Keep what clients may save of a file that is not in base64."""
        if not textual(data):
            # A file whose line ends went through the mail: a client on Unix saves it with LF.
            self.found.keep(data.replace(b"\r\n", b"\n"))
        if encoding not in transfer.IDENTITY:
            for reading in transfer.readings(item.raw[start : item.end], encoding)[1:]:
                self.found.further(reading, _malformed(encoding))

    def _within(self, item: _Item, inner: sealed.Inner) -> None:
        """Read what a part holds without declaring it."""
        if not inner.whole:
            self.found.hit.setdefault("decoded")
        self.found.files(inner.files, item.depth)
        for message in inner.messages:
            if self.found.spend(len(message)):
                self.found.plain = False
                within = _Item(message, 0, len(message), item.depth + 1, item.reason)
                self._stack.append(replace(within, part=item.part, embedded=True))

    def _encoded_twice(self, item: _Item, data: bytes) -> None:
        """Show scanners what a file that is itself base64 or uuencoded text decodes to."""
        head = data[:_ENCODED_HEAD].translate(None, b"\r\n\t")
        spaces = head.count(b" ") * 20
        if len(head) < 40 or len(data) > _MAX_SNIFF or not head.isascii():
            return
        if b"begin" in head or (b"\nbegin " in data and textual(data)):
            self.found.files(containers.uudecode(data), item.depth)
        elif spaces < len(head) and transfer.base64_like(head) and self.found.spend(2 * len(data)):
            for decoded in transfer.readings(data, "base64"):
                if known_file(decoded):
                    self.found.plain = False
                    self.found.keep(decoded)

    def _odd_encoding(self, item: _Item, kind: str, body: bytes, encoding: str) -> bytes:
        """Decode what decoders differ on. Text is only broken by that; a file may be hidden."""
        self.found.doubt()
        data, *others = transfer.readings(body, encoding)
        if not self.found.spend(len(body) * (1 + len(others))):
            return data
        reason = _malformed(encoding)
        if encoding == "base64" and not transfer.unread(body, encoding) and transfer.cut_short(data, others):
            self.found.defects.setdefault(reason)  # as in a bounce, which quotes so many octets of a message
            for other in others:
                self.found.keep(other)
            return data
        if encoding not in transfer.UUENCODE:
            self.found.defects.setdefault(reason)
            self._undeclared(item, body, reason, known=False)
        unsure = bool(others) or transfer.unread(body, encoding)
        if unsure and (kind not in READ_AS_TEXT or not textual(data)):
            self.found.ambiguities.setdefault(reason)
        for other in others:
            self.found.further(other, reason)
        return data

    def _further_leaf(
        self, item: _Item, read: entity.Entity, kind: str, data: bytes, *, attached: bool
    ) -> None:
        """Keep a leaf of a further reading if the first one does not have it."""
        fresh = self.found.fresh(read.names)
        if not data or (data in self.found.leaves and not fresh):
            return
        new = self.found.keep(data)
        if item.reason != _QUOTED and ((new and not textual(data)) or fresh):
            self.found.ambiguities.setdefault(item.reason)
            if attached:
                self.found.attach(read.names, kind, data, item.depth)

    # ------------------------------------------------------------ what nothing declares

    def _undeclared(self, item: _Item, data: bytes, reason: str, *, known: bool) -> None:
        """Look in text for files and parts that nothing declares, as some clients do.

        `known` tells that the header section says clearly that this is text; parts in it, as in a
        bounce that quotes a message, are then scanned, and are no ambiguity.
        """
        data = data[:_MAX_SNIFF]
        if b"begin" in data or b"BEGIN" in data:
            self.found.files(containers.uudecode(data), item.depth)
            if data.count(b"\nbegin ") > containers.MAX_BEGINS:
                self.found.hit.setdefault("attachments")  # ClamAV's time is quadratic in them
        if b"=ybegin " in data:
            self.found.files(containers.yenc(data), item.depth)
        if b"BinHex" in data:
            self.found.files(containers.binhex(data), item.depth)
        self._sniff_encoded(data, "" if known else reason)
        if b"\n--" in data or data.startswith(b"--"):
            for boundary in structure.sniff_boundaries(data, 0, len(data)):
                self._later(
                    _Item(
                        data,
                        0,
                        len(data),
                        item.depth + 1,
                        reason if not known else _QUOTED,
                        media=entity.Media("multipart/mixed", "", (boundary,)),
                    )
                )

    def _sniff_encoded(self, data: bytes, reason: str, most: int = structure.MAX_SNIFFED) -> None:
        spans = structure.sniff_base64(data, most)
        if len(spans) >= _MAX_CARRIED:
            self.found.hit.setdefault("attachments")
        encoded = [lenient_base64(data[first:last]) for first, last in spans]
        encoded += (
            transfer.readings(data[at:], "quoted-printable")[0] for at in structure.sniff_quoted(data)
        )
        for decoded in encoded:
            if known_file(decoded) and self.found.spend(len(decoded)) and self.found.keep(decoded) and reason:
                self.found.ambiguities.setdefault(reason)


def _malformed(encoding: str) -> str:
    return f"{'uuencode' if encoding in transfer.UUENCODE else encoding}-malformed"
