# SPDX-License-Identifier: GPL-2.0-or-later
"""How Postfix's cleanup applies a filter's changes to a message (cleanup_milter.c, by behaviour).

* Postfix puts a Received field of its own first and does not show it. Insert positions count it;
  change and delete positions do not, but they do count what the filter inserted before.
* With SMFIP_HDR_LEADSPC nobody adds or removes the space after a colon.
* A change of a field that is not there adds it; an empty value deletes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

_OWN = b"Received: by mx.example.org"  # told from others by identity
_FIELD = re.compile(rb"[!-9;-~]+[ \t]*:")


class ProtocolError(Exception):
    """The filter broke the protocol in a way that Postfix would log a warning about."""


@dataclass(frozen=True, slots=True)
class Change:
    """One modification the filter asked for, as it came over the wire."""

    kind: Literal["add", "insert", "change", "delrcpt", "addrcpt", "body", "from", "quarantine"]
    name: str = ""
    value: bytes = b""
    index: int = 0


def split(raw: bytes) -> tuple[list[bytes], bytes | None]:
    """Cut a message into header fields (without final CRLF) and body, as Postfix does.

    The header section ends at the first line that is neither a field nor folded. The body is None
    where the message ends before. White space before a colon goes.
    """
    fields: list[bytes] = []
    at = 0
    while at < len(raw):
        end = raw.find(b"\r\n", at)
        end = len(raw) if end < 0 else end
        line = raw[at:end]
        if not line:
            return fields, raw[end + 2 :]
        if line[:1] in b" \t" and fields:
            fields[-1] += b"\r\n" + line
        elif _FIELD.match(line):
            name, _, value = line.partition(b":")
            fields.append(name.rstrip(b" \t") + b":" + value)
        else:
            return fields, raw[at:]  # Postfix inserts the blank line that is missing
        at = end + 2
    return fields, None


def changed(
    fields: Sequence[bytes], body: bytes | None, changes: Sequence[Change], *, leadspc: bool
) -> bytes:
    """Return the message that would be queued, without Postfix's own Received field."""
    result = [_OWN, *fields]
    for change in changes:
        if change.kind in ("add", "insert", "change"):
            _apply(result, change, b"" if leadspc else b" ")
    bodies = [change.value for change in changes if change.kind == "body"]
    kept = b"".join(item + b"\r\n" for item in result if item is not _OWN)
    if bodies:
        body = b"".join(bodies)
    return kept if body is None else kept + b"\r\n" + body


def _apply(fields: list[bytes], change: Change, space: bytes) -> None:
    """Apply one change of the header section. `fields` holds Postfix's own field too."""
    if re.search(rb"[\r\0]|\n(?![ \t])", change.value):
        raise ProtocolError(f"unsafe value for {change.name}: {change.value!r}")
    if not _FIELD.fullmatch(change.name.encode("utf-8", "surrogateescape") + b":"):
        raise ProtocolError(f"not a field name: {change.name!r}")
    new = change.name.encode() + b":" + space + change.value.replace(b"\n", b"\r\n")
    if change.kind == "add":
        fields.append(new)
        return
    if change.kind == "insert":
        fields.insert(change.index, new)
        return
    if change.index < 1:
        raise ProtocolError(f"change of field {change.name} number {change.index}")
    wanted = change.name.lower().encode()
    found = [
        position
        for position, item in enumerate(fields)
        if item is not _OWN and item.partition(b":")[0].lower() == wanted
    ]
    if change.index > len(found):
        if change.value:
            fields.append(new)
    elif change.value:
        fields[found[change.index - 1]] = new
    else:
        del fields[found[change.index - 1]]
