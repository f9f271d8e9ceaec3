# SPDX-License-Identifier: GPL-2.0-or-later
"""What can be seen in who claims to have written a message.

Reads header fields of strangers; no network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.mail.headers import printable
from gateway.mail.types import Content, Signal

if TYPE_CHECKING:
    from collections.abc import Iterator


def examine(content: Content) -> Iterator[Signal]:
    """Compare what the From fields show with what they say."""
    if content.from_fields > 1:
        yield Signal("FROM_SEVERAL", f"{content.from_fields} fields")
    if not any(address for _, address in content.from_addresses):
        yield Signal("FROM_MISSING")
    for display, address in content.from_addresses:
        shown = _address_in(display)
        if shown and shown.lower() != address.lower():
            yield Signal("FROM_NAME_ADDRESS", printable(f"shows {shown}, sent as {address}", 300))
            break


def _address_in(display: str) -> str:
    """Return the address that a display name shows, or ""."""
    if "@" not in display:
        return ""
    word = next((w for w in display.replace("<", " ").replace(">", " ").split() if "@" in w), "")
    word = word.strip("\"'()[],;:")
    local, _, domain = word.rpartition("@")
    return word if local and "." in domain else ""
