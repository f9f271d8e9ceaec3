# SPDX-License-Identifier: GPL-2.0-or-later
"""What can be seen in archives and documents, as named signals.

Reads what a child process found in hostile files: names made by strangers, and nothing else of
them. What runs when opened is told by the same table as for attachments that are not packed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.mail.headers import printable
from gateway.mail.names import extensions
from gateway.mail.types import Member, Signal, Unpacked
from gateway.policy.attachments import Sight

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.policy.attachments import AttachmentRules

# The signal for each kind of finding; `gateway/mail/reasons.py` says what the kinds mean.
SIGNALS = {
    "ambiguous": "ARCHIVE_BROKEN",
    "broken": "ARCHIVE_BROKEN",
    "encrypted": "ARCHIVE_ENCRYPTED",
    "opened": "ARCHIVE_OPENED",
    "escape": "ARCHIVE_ESCAPE",
    "limit": "ARCHIVE_LIMIT",
    "unsupported": "ARCHIVE_UNREADABLE",
    "dde": "OFFICE_AUTORUN",
    "entity": "XML_ENTITY",
    "external": "OFFICE_EXTERNAL",
    "macro": "OFFICE_MACRO",
    "macro-autorun": "OFFICE_AUTORUN",
    "object": "OFFICE_OBJECT",
    "office-encrypted": "OFFICE_ENCRYPTED",
    "pdf-action": "PDF_ACTION",
    "pdf-embedded": "PDF_EMBEDDED",
    "pdf-encrypted": "PDF_ENCRYPTED",
    "pdf-javascript": "PDF_JAVASCRIPT",
    "pdf-launch": "PDF_LAUNCH",
    "pdf-xfa": "PDF_ACTION",
}


def sights(unpacked: Unpacked | None, rules: AttachmentRules) -> Iterator[Sight]:
    """Give what each attachment shows once it is opened, findings first."""
    if unpacked is None:
        return
    if unpacked.status == "error":
        yield Sight(Signal("UNPACK", printable(unpacked.detail, 200), state="error"), -1)
    opens = {(f.attachment, f.where) for f in unpacked.findings if f.kind == "pdf-open"}
    for finding in unpacked.findings:
        name = SIGNALS.get(finding.kind)
        # A script of a PDF is a stronger sign when it starts by itself.
        if name == "PDF_JAVASCRIPT" and (finding.attachment, finding.where) in opens:
            name = "PDF_AUTORUN"
        if name is not None:
            text = ": ".join(filter(None, (finding.where, finding.detail)))
            yield Sight(Signal(name, printable(text, 300)), finding.attachment)
    for member in unpacked.members:
        for signal in _member(member, rules):
            yield Sight(signal, member.attachment)


def _member(member: Member, rules: AttachmentRules) -> Iterator[Signal]:
    kind = rules.of(member.name, member.detected_type)
    if not kind:
        return
    yield Signal(f"ARCHIVE_{kind.upper()}", printable(member.name, 150))
    if kind in rules.running and rules.documents.intersection(extensions(member.name)[1:]):
        yield Signal("ARCHIVE_DOUBLE_EXTENSION", printable(member.name, 150))
