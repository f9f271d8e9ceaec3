# SPDX-License-Identifier: GPL-2.0-or-later
"""What the reading of one message has found so far, within its bounds.

Holds hostile bytes, decoded. `mime.py` walks through a message and notes here what it meets; each
bound that is hit is named, and a file is hashed once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.mail import containers, html, magic, text, tnef
from gateway.mail.charsets import BYTE_ORDER_MARKS, decode
from gateway.mail.types import Attachment, Text, Url

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class MimeLimits:
    """Bounds of one message. Each that is hit is named in `Content.limits`."""

    depth: int = 64  # nesting of multiparts and messages
    parts: int = 2_000  # parts read, in all readings together
    fields: int = 1_000  # header fields of one part
    text: int = 1_000_000  # characters of text kept, and of one HTML part read
    urls: int = 1_000
    attachments: int = 1_000
    decoded: int = 300_000_000  # octets decoded, in all readings together
    readings: int = 64  # further readings that are tried


# Limits of which scanners are shown what was read, and not the whole: there is too much for them as well.
NOT_WHOLE = frozenset(("parts", "attachments"))
READ_AS_TEXT = {
    "text/plain": "plain",
    "text/html": "html",
    "text/enriched": "html",
    "text/x-amp-html": "html",
    "application/xhtml+xml": "html",
}
_TEXT_TYPES = ("", "text/html", "text/xml", "text/vcard", "text/calendar", "message/rfc822")
_BINHEX_TYPES = ("application/mac-binhex40", "application/binhex", "application/x-binhex40")
_MAC_TYPES = ("application/macbinary", "application/x-macbinary")
_BINARY = bytes(sorted(set(range(32)) - set(b"\t\n\r\f\x1b") | {127}))


def textual(data: bytes) -> bool:
    """Whether `data` is but text: no file type a policy cares about, hardly a control character."""
    if magic.detect(data) not in _TEXT_TYPES:
        return False
    head = data[:100_000]
    return (len(head) - len(head.translate(None, _BINARY))) * 50 <= len(head)


def known_file(data: bytes) -> bool:
    """Whether what was decoded on a guess is a file, and not noise."""
    return bool(magic.detect(data)) or data.startswith(b"X5O!P%")


@dataclass(slots=True)
class Findings:
    """The notes of one `parse`. `plain` says that every reader reads the message alike.

    `certain` says less: that they find the parts at the same places, whatever is in them.
    `leaves` are the decoded parts of the first reading, `names` the file names in it. `readings`
    are, by SHA-256, what a content scanner must see besides the message as it is.
    """

    limits: MimeLimits
    texts: list[Text] = field(default_factory=list)
    urls: dict[Url, None] = field(default_factory=dict)
    attachments: list[Attachment] = field(default_factory=list)
    defects: dict[str, None] = field(default_factory=dict)
    ambiguities: dict[str, None] = field(default_factory=dict)
    hit: dict[str, None] = field(default_factory=dict)
    readings: dict[bytes, bytes] = field(default_factory=dict)
    leaves: list[bytes] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    plain: bool = True
    certain: bool = True
    _decoded: int = 0
    _characters: int = 0

    def doubt(self) -> None:
        """Note that readers may find other parts, or at other places."""
        self.plain = self.certain = False

    def keep(self, data: bytes) -> bool:
        """Keep `data` for the content scanners; False if it is kept already, or cannot be."""
        digest = hashlib.sha256(data).digest()
        if digest in self.readings:
            return False
        if len(self.readings) >= self.limits.readings + self.limits.attachments:
            self.hit.setdefault("readings")
            return False
        self.readings[digest] = data
        return True

    def spend(self, octets: int) -> bool:
        """Whether `octets` more may be decoded."""
        self._decoded += octets
        if self._decoded > self.limits.decoded:
            self.hit.setdefault("decoded")
            return False
        return True

    def further(self, data: bytes, reason: str) -> None:
        """Note what another reading makes of a leaf: an ambiguity if it is a file, not only text."""
        if not data or data in self.leaves:
            return
        self.doubt()
        if self.keep(data) and not textual(data):
            self.ambiguities.setdefault(reason)

    def fresh(self, names: tuple[str, ...]) -> bool:
        """Whether one of `names` does not stand in the first reading."""
        return not self.names.issuperset(names)

    def attach(
        self,
        names: tuple[str, ...],
        kind: str,
        data: bytes,
        depth: int,
        part: tuple[int, int] | None = None,
    ) -> None:
        """Note an attachment, and the files that stand in it by TNEF or BinHex.

        `part` is what is to be cut out to be rid of it.
        """
        if len(self.attachments) >= self.limits.attachments:
            self.hit.setdefault("attachments")
            return
        self.names.update(names)
        self.leaves.append(data)
        detected = magic.detect(data)
        digest = hashlib.sha256(data).hexdigest()
        found = Attachment(names, kind, detected, len(data), digest, max(1, depth), data, part)
        self.attachments.append(found)
        if detected == "application/ms-tnef":
            self.files(tnef.read(data).files, max(1, depth) + 1, part)
        elif kind in _BINHEX_TYPES:
            self.files(containers.binhex(data), depth, part)
        elif kind in _MAC_TYPES:
            self.files(containers.mac_binary(data), depth, part)
        self.files(containers.apple(data), max(1, depth) + 1, part)

    def files(
        self,
        files: Sequence[tuple[bytes | tuple[str, ...], bytes]],
        depth: int,
        part: tuple[int, int] | None = None,
    ) -> None:
        """Attach files that stand inside other bytes, each with its name or names."""
        if files and depth > self.limits.depth:
            self.hit.setdefault("depth")
            return
        if len(files) >= containers.MAX_FILES:
            self.hit.setdefault("attachments")
        for name, content in files:
            if content and self.spend(len(content)):
                self.plain = False
                names = name if isinstance(name, tuple) else (decode(name),) if name else ()
                self.attach(names, "application/octet-stream", content, depth, part)

    def read_text(self, kind: str, data: bytes, charset: str) -> None:
        """Note the text of a part, "plain" or "html", and its links."""
        left = self.limits.text - self._characters
        if data[:2] in BYTE_ORDER_MARKS and not charset.lower().startswith("utf-32"):
            charset = "utf-16"  # the mark has the last word (Encoding standard); no other text starts so
        words = decode(data[: left * 4], charset)
        if len(data) > left * 4 or len(words) > left:
            self.hit.setdefault("text")
            words = words[:left]
        self._characters += len(words)
        if not words:
            return
        if kind == "html":
            page = html.read(words)
            words = page.text
            self.urls.update(dict.fromkeys(page.urls))
            self.texts.append(Text("html", words, page.hidden))
        else:
            self.texts.append(Text("plain", words))
        for target in text.urls(words):
            self.urls.setdefault(Url(target))
        if len(self.urls) > self.limits.urls:
            self.hit.setdefault("urls")
            self.urls = dict.fromkeys(list(self.urls)[: self.limits.urls])
