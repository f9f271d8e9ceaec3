# SPDX-License-Identifier: GPL-2.0-or-later
"""A filter that does what a message tells it to, for comparing two MTAs.

Run as a program: `obedient_filter.py ADDRESS`. Each X-Do field of a message holds one order as JSON:
["add", name, value], ["insert", index, name, value], ["change", index, name, value],
["drop", recipient], ["hold", reason], ["reply", code, enhanced, text], ["reject"], ["defer"],
["discard"]. Every accepted message gets a field that tells what the filter saw of it.
"""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any

import Milter


@Milter.header_leading_space
class Obedient(Milter.Base):  # type: ignore[misc]  # pymilter has no types
    def connect(self, name: str, family: int, address: Any) -> int:
        self.client = f"{name} {family} {address[0]}"
        return int(Milter.CONTINUE)

    def hello(self, name: str) -> int:
        self.helo = name
        return int(Milter.CONTINUE)

    def envfrom(self, *arguments: str) -> int:
        self.orders: list[list[Any]] = []
        self.seen = [self.client, self.helo, arguments[0]]
        return int(Milter.CONTINUE)

    def envrcpt(self, *arguments: str) -> int:
        if "unknown" in arguments[0]:
            self.setreply("550", "5.1.1", "No such user")
            return int(Milter.REJECT)
        self.seen.append(arguments[0])
        return int(Milter.CONTINUE)

    def header(self, name: str, value: str) -> int:
        if name == "X-Do":
            self.orders.append(json.loads(value))
        self.seen.append(f"{name}:{value}")
        return int(Milter.CONTINUE)

    def body(self, chunk: bytes) -> int:
        self.seen.append(chunk.decode("latin-1"))
        return int(Milter.CONTINUE)

    def eom(self) -> int:
        seen = "\n".join(self.seen).encode("utf-8", "surrogateescape")
        self.addheader("X-Seen", " " + hashlib.sha256(seen).hexdigest())
        answer = Milter.ACCEPT
        for kind, *rest in self.orders:
            if kind == "add":
                self.addheader(rest[0], rest[1])
            elif kind == "insert":
                self.addheader(rest[1], rest[2], rest[0])
            elif kind == "change":
                self.chgheader(rest[1], rest[0], rest[2] or None)
            elif kind == "drop":
                self.delrcpt(rest[0])
            elif kind == "hold":
                self.quarantine(rest[0])
            elif kind == "reply":
                self.setreply(*rest)
                answer = Milter.REJECT if rest[0][0] == "5" else Milter.TEMPFAIL
            else:
                answer = {"reject": Milter.REJECT, "defer": Milter.TEMPFAIL, "discard": Milter.DISCARD}[kind]
        return int(answer)


if __name__ == "__main__":
    Milter.factory = Obedient
    Milter.set_flags(Milter.CHGHDRS + Milter.ADDHDRS + Milter.DELRCPT + Milter.QUARANTINE)
    Milter.runmilter("obedient", sys.argv[1], 60)
