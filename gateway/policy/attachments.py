# SPDX-License-Identifier: GPL-2.0-or-later
"""What can be seen in the attachments of a message: names, declared and detected types.

Reads names made by strangers; nothing is opened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.mail.headers import printable
from gateway.mail.types import Content, Signal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.policy.rules import Policy


def examine(content: Content, policy: Policy) -> Iterator[Signal]:
    """Give the first attachment that runs when opened."""
    for attachment in content.attachments:
        for name in attachment.names or ("",):
            stem, _, extension = name.lower().rstrip(". ").rpartition(".")
            inner = stem.rstrip(". ").rpartition(".")[2]
            if stem and extension in policy.executable_extensions:
                double = inner in policy.document_extensions
                yield Signal(
                    "ATTACHMENT_DOUBLE_EXTENSION" if double else "ATTACHMENT_EXECUTABLE", printable(name, 150)
                )
                return
        if attachment.detected_type in policy.executable_types:
            name = attachment.names[0] if attachment.names else attachment.declared_type
            yield Signal("ATTACHMENT_TYPE_MISMATCH", printable(f"{name} is {attachment.detected_type}", 200))
            return
