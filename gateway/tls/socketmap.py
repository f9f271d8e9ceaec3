# SPDX-License-Identifier: GPL-2.0-or-later
"""The dialogue of a socketmap, as Postfix has it (socketmap_table(5)), about TLS policies; without I/O.

Reads bytes of whoever reaches the socket: netstrings, bounded before they are kept. A question is the
name of the map, which makes no difference, and a next hop as Postfix writes it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from gateway.mail.networks import address

LONGEST: Final = 1_000  # octets of a question; a domain name has 253
_HEAD: Final = re.compile(rb"(0|[1-9][0-9]{0,8}):")
_NEXT_HOP: Final = re.compile(r"(?:\[([^\[\]\s]{1,253})\]|([^\[\]:\s]{1,253}))(?::([A-Za-z0-9-]{1,32}))?\Z")


class QuestionError(Exception):
    """Bytes that are no netstring, or too many; there is no way to go on."""


@dataclass(frozen=True, slots=True)
class NextHop:
    """What is asked about: a domain, or with `literal` a host that has no MX records looked up."""

    domain: str
    literal: bool
    port: int


class Questions:
    """Bytes in, questions out."""

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> None:
        """Take bytes as they come, LONGEST or fewer."""
        self._data += data

    def next(self) -> bytes | None:
        """The next whole question, None if it has not arrived. Raises QuestionError."""
        head = _HEAD.match(self._data)
        if head is None:
            if len(self._data) > 9 or b":" in self._data or self._data.lstrip(b"0123456789"):
                raise QuestionError("not a netstring")
            return None
        size, begin = int(head[1]), head.end()
        if size > LONGEST:
            raise QuestionError(f"a question of {size} octets")
        if len(self._data) <= begin + size:
            return None
        if self._data[begin + size : begin + size + 1] != b",":
            raise QuestionError("not a netstring")
        question, self._data = self._data[begin : begin + size], self._data[begin + size + 1 :]
        return question


def netstring(text: str) -> bytes:
    """An answer as it is sent; it has ASCII alone."""
    data = text.encode("ascii", "replace")
    return b"%d:%b," % (len(data), data)


def next_hop(question: bytes) -> NextHop | None:
    """The next hop that is asked about, None for what can have no policy: an address, a parent domain."""
    try:
        text = question.decode("utf-8").partition(" ")[2]
    except UnicodeDecodeError:
        return None
    found = _NEXT_HOP.match(text)
    if found is None:
        return None
    name = (found[1] or found[2]).removesuffix(".")
    if not name or name.startswith(".") or address(name.removeprefix("ipv6:")) is not None:
        return None
    ports = {"": 25, "smtp": 25, "submission": 587, "smtps": 465, "submissions": 465}
    port = found[3] or ""
    number = int(port) if port.isdecimal() and len(port) < 6 else ports.get(port, 25)
    return NextHop(name, bool(found[1]), number)
