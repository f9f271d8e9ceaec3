# SPDX-License-Identifier: GPL-2.0-or-later
"""The client's side of SMTP (RFC 5321) and LMTP (RFC 2033) as bytes in, values out; no I/O.

Reads hostile bytes: what a next hop answers. A reply is bounded in line length, lines and
octets; its text is printable ASCII when it leaves this module. Writes commands, into which no
control character gets, and messages, which leave with exact dot-stuffing and never with a bare
CR or LF (the raw material of SMTP smuggling).
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence

LONGEST_LINE = 2048  # octets; RFC 5321 §4.5.3.1.5 has 512
MOST_LINES = 128
LONGEST_TEXT = 400  # characters of a reply that are kept

_ENHANCED = re.compile(r"([245]\.[0-9]{1,3}\.[0-9]{1,3})(?:\s+|$)")
_PRINTABLE = bytes(octet if 32 <= octet < 127 else 63 for octet in range(256))
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class ProtocolError(Exception):
    """The next hop broke the protocol, or we were asked to send what must not be sent."""


@dataclass(frozen=True, slots=True)
class HopReply:
    """A next hop's answer. `text` has no control characters and is at most LONGEST_TEXT long.

    `lines` are the texts of all lines, as bounded (EHLO's keywords).
    """

    code: int
    enhanced: str
    text: str
    lines: tuple[str, ...] = ()

    @property
    def status(self) -> Literal["accepted", "deferred", "refused"]:
        """What the code says; a code that has no place there says "later"."""
        if 200 <= self.code < 300:
            return "accepted"
        return "refused" if 500 <= self.code < 600 else "deferred"

    def __str__(self) -> str:
        return " ".join(part for part in (str(self.code), self.enhanced, self.text) if part)


class ReplyReader:
    """Turns received bytes into replies. Raises ProtocolError for what is not a reply."""

    __slots__ = ("_buffer", "_lines", "_ready", "_scanned")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._scanned = 0  # octets of the buffer known to hold no LF
        self._lines: list[bytes] = []
        self._ready: deque[HopReply] = deque()

    @property
    def pending(self) -> bool:
        """Whether anything was received that nobody has taken: a reply, or a part of one."""
        return bool(self._buffer or self._lines or self._ready)

    def feed(self, data: bytes) -> None:
        """Take what was received."""
        self._buffer += data
        while (end := self._buffer.find(b"\n", self._scanned)) >= 0:
            line = bytes(self._buffer[:end]).removesuffix(b"\r")
            del self._buffer[: end + 1]
            self._scanned = 0
            self._take(line)
        self._scanned = len(self._buffer)
        if self._scanned > LONGEST_LINE:
            raise ProtocolError("reply line too long")

    def next(self) -> HopReply | None:
        """The next complete reply, None if there is none yet."""
        return self._ready.popleft() if self._ready else None

    def _take(self, line: bytes) -> None:
        if len(line) > LONGEST_LINE:
            raise ProtocolError("reply line too long")
        code, mark = line[:3], line[3:4]
        if (
            not code.isdigit()
            or len(code) != 3
            or not b"200" <= code < b"600"
            or mark not in (b"", b" ", b"-")
        ):
            raise ProtocolError("garbage instead of a reply")
        if self._lines and self._lines[0][:3] != code:
            raise ProtocolError("reply lines with different codes")
        self._lines.append(line)
        if len(self._lines) > MOST_LINES:
            raise ProtocolError("reply of too many lines")
        if mark != b"-":
            if len(self._ready) >= MOST_LINES:
                raise ProtocolError("replies nobody asked for")
            self._ready.append(_reply(self._lines))
            self._lines = []


def _reply(lines: list[bytes]) -> HopReply:
    texts = [_printable(line[4:]) for line in lines]
    code = int(lines[0][:3])
    enhanced = ""
    shown = []
    for text in texts:
        found = _ENHANCED.match(text)
        # The class must be the code's own (RFC 2034 §4), or it is only text.
        if found and found[1][0] == str(code)[0]:
            enhanced = enhanced or found[1]
            text = text[found.end() :]  # noqa: PLW2901  # the rest of the same text
        shown.append(text)
    whole = " ".join(part for part in shown if part)[:LONGEST_TEXT]
    return HopReply(code, enhanced, whole, tuple(texts))


def _printable(data: bytes) -> str:
    """The bytes as printable ASCII; every other octet is "?"."""
    return data.translate(_PRINTABLE).decode("ascii").strip()


def extensions(reply: HopReply) -> dict[str, str]:
    """The keywords that EHLO or LHLO was answered with, upper case, and their parameters."""
    found = {}
    for line in reply.lines[1:]:
        keyword, _, parameters = line.partition(" ")
        found[keyword.upper()] = parameters.strip()
    return found


def command(verb: str, argument: str = "") -> bytes:
    """One command line. Raises ProtocolError if a control character would get into it."""
    line = f"{verb} {argument}" if argument else verb
    if _CONTROL.search(line):
        raise ProtocolError("control character in a command")
    try:
        return line.encode() + b"\r\n"
    except UnicodeEncodeError:
        raise ProtocolError("a command that is not UTF-8") from None


def declared(options: Sequence[str], offered: Container[str], message: bytes) -> tuple[str, ...]:
    """The parameters of MAIL that a message goes on with, of those that it came with.

    SMTPUTF8 falls away where the next hop has not got it and the header section does not need it
    (addresses are not looked at here); BODY says what the message is, not what it was said to be.
    """
    kept = [one for one in options if one != "SMTPUTF8" and not one.startswith("BODY=")]
    if "SMTPUTF8" in options:
        end = message.find(b"\r\n\r\n")
        if "SMTPUTF8" in offered or not message[: end if end >= 0 else len(message)].isascii():
            kept.append("SMTPUTF8")
    return (*kept, "BODY=7BIT" if message.isascii() else "BODY=8BITMIME")


def chunk_blocks(message: bytes, size: int = 131_072) -> Iterator[bytes]:
    """`message` as one BDAT command with LAST (RFC 3030 §2), in blocks of about `size` octets."""
    end = b"" if message.endswith(b"\r\n") else b"\r\n"
    yield b"BDAT %d LAST\r\n" % (len(message) + len(end)) + message[:size]
    for start in range(size, len(message), size):
        yield message[start : start + size]
    if end:
        yield end


def is_sound(message: bytes) -> bool:
    """Whether every CR and LF of `message` is part of a CRLF. Linear, and fast on 100 MB."""
    ends = message.count(b"\r\n")
    return message.count(b"\n") == ends and message.count(b"\r") == ends


def stuffed_blocks(message: bytes, size: int = 131_072) -> Iterator[bytes]:
    """`message`, which must be sound, as DATA carries it, in blocks of about `size` octets.

    Dots are doubled, a last line without CRLF gets one, and the end of data comes last
    (RFC 5321 §4.5.2). Blocks end where lines end, so that none of them hides a dot.
    """
    start = 0
    while start < len(message):
        end = message.find(b"\n", start + size) + 1 or len(message)
        block = message[start:end].replace(b"\r\n.", b"\r\n..")
        yield b"." + block if block.startswith(b".") else block
        start = end
    yield b".\r\n" if not message or message.endswith(b"\r\n") else b"\r\n.\r\n"
