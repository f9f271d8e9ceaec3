# SPDX-License-Identifier: GPL-2.0-or-later
"""The messages that a report has attached, as they were received.

Reads hostile bytes: our own users send the report, strangers wrote what is in it. Bounded in depth, parts
and messages; linear; no network, no files. Taken are attached messages (message/rfc822, or a file of
that kind, in whatever encoding a mail client chose), and abuse reports (ARF, RFC 5965). What was
forwarded within the text is not taken: the header is lost, and the words are the forwarder's as well.
One reading is enough: nothing here is passed on, and what another client would see is not learned.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from gateway.mail import entity, headers, structure, transfer
from gateway.mail.headers import printable

if TYPE_CHECKING:
    from gateway.mail.entity import Entity, Media

MESSAGES: Final = 50  # taken of one report
_DEPTH: Final = 5
_PARTS: Final = 200
_ATTACHED: Final = ("message/rfc822", "message/global", "message/news")
_HEADER_ONLY: Final = ("text/rfc822-headers", "message/global-headers")
_SUFFIX: Final = ".eml"
# A file is taken for a message if its header has two of these.
_TELLING: Final = frozenset(("from", "to", "date", "subject", "message-id", "received", "return-path"))


@dataclass(slots=True)
class Found:
    """What a report has: messages, the Feedback-Type of an abuse report ("" if it is none), and why not."""

    messages: list[bytes] = field(default_factory=list)
    feedback: str = ""
    why: str = "no message is attached: it must be forwarded as an attachment"


def attached(raw: bytes) -> Found:
    """Find the messages that are attached to `raw`; never raises."""
    found = Found()
    waiting = [(0, len(raw), 0, "text/plain")]
    parts = 0
    while waiting and parts < _PARTS and len(found.messages) < MESSAGES:
        start, end, depth, default = waiting.pop()
        parts += 1
        read = entity.read(raw, start, end, default, mend=False)
        media = read.media[0]
        body = read.section.body_start
        if media.type.startswith("multipart/"):
            waiting += reversed(_within(raw, body, end, media, depth))
        elif depth:
            _take(found, read, media.type, raw[body:end])
    return found


def _within(raw: bytes, start: int, end: int, media: Media, depth: int) -> list[tuple[int, int, int, str]]:
    if depth >= _DEPTH or not media.boundaries:
        return []
    default = "message/rfc822" if media.type == "multipart/digest" else "text/plain"
    spans = structure.cut(raw, start, end, media.boundaries[0], _PARTS).spans
    return [(first, last, depth + 1, default) for first, last in spans]


def _take(found: Found, read: Entity, kind: str, body: bytes) -> None:
    """Take one part, if it is a message or says what kind of report this is."""
    if kind == "message/feedback-report":  # RFC 5965 §3
        found.feedback = _feedback_type(_decoded(body, read))
    elif kind in _ATTACHED:
        found.messages.append(_decoded(body, read))
    elif any(name.lower().endswith(_SUFFIX) for name in read.names):
        data = _decoded(body, read)
        if len(_TELLING & {one.name.lower() for one in headers.split(data).fields}) >= 2:
            found.messages.append(data)
    elif kind in _HEADER_ONLY:
        found.why = "only the header of a message is attached"


def _decoded(body: bytes, read: Entity) -> bytes:
    encoding = read.encodings[0]
    data = transfer.canonical(body, 0, len(body), encoding)
    return transfer.readings(body, encoding)[0] if data is None else data


def _feedback_type(data: bytes) -> str:
    for one in headers.split(data).fields:
        if one.name.lower() == "feedback-type":
            return printable(one.value.decode("ascii", "replace").strip().lower(), 40)
    return "none"
