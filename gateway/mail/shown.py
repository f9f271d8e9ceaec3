# SPDX-License-Identifier: GPL-2.0-or-later
"""What people and programs are shown of a message: times, sizes, and its content as plain values.

Reads what the parser made of hostile bytes; all of it is bounded again here. Nothing is rendered.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from gateway.mail.headers import printable

if TYPE_CHECKING:
    from gateway.mail.types import Content

TEXT_SHOWN: Final = 2_000  # characters of each text
_MOST = 200  # header fields, links, attachments


def moment(seconds: float) -> str:
    """A time in the local zone, to the second."""
    if not 0 < seconds < 253_402_300_800:
        return ""
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def octets(count: int) -> str:
    """A size for people."""
    if count < 1_000:
        return f"{count} B"
    if count < 1_000_000:
        return f"{count / 1_000:.1f} kB"
    return f"{count / 1_000_000:.1f} MB"


def content_dict(content: Content | None, text: int = TEXT_SHOWN) -> dict[str, Any] | None:
    """What a message contains as plain values; of each text that many characters."""
    if content is None:
        return None
    return {
        "fields": [
            [field.name, printable(field.value[:4_000].decode("utf-8", "replace").strip(), 1_000)]
            for field in content.fields[:_MOST]
        ],
        "authors": [
            {"name": printable(name, 200), "address": printable(address, 320)}
            for name, address in content.from_addresses[:_MOST]
        ],
        "texts": [{"kind": one.kind, "text": one.text[:text]} for one in content.texts],
        "urls": [{"target": url.target, "shown": url.shown} for url in content.urls],
        "attachments": [
            {
                "names": list(a.names),
                "declared_type": a.declared_type,
                "detected_type": a.detected_type,
                "size": a.size,
                "sha256": a.sha256,
            }
            for a in content.attachments
        ],
        "broken": [*content.defects, *content.ambiguities, *content.limits],
    }
