# SPDX-License-Identifier: GPL-2.0-or-later
"""A held message as the attachment of a message of ours, for whom it should not open by itself.

Carries hostile bytes, octet for octet: as message/rfc822 where RFC 2046 §5.2.1 allows it, and otherwise
(NUL, bare CR or LF, lines too long for SMTP) as a file in base64. Text of ours names its SHA-256 and our
id, and nothing that stands in it.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from email.utils import formatdate
from typing import TYPE_CHECKING

from gateway.mail.headers import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_UNSENDABLE = re.compile(rb"\0|\r(?!\n)|(?<!\r)\n|[^\r\n]{999,}")
_ADDRESS = re.compile(r"[!-;=?-~]{1,320}", re.ASCII)  # what a To field of ours may show


def wrapper(hostname: str) -> Callable[[str, bytes, Sequence[str]], bytes]:
    """Make the function that wraps a message for its recipients; `hostname` is who sends it."""

    def wrap(item: str, raw: bytes, recipients: Sequence[str]) -> bytes:
        boundary = f"=_{os.urandom(15).hex()}"
        shown = [one for one in recipients if _ADDRESS.fullmatch(one)]
        to = ", ".join(shown[:50]) or "undisclosed-recipients:;"
        text = (
            f"The attached message was held in quarantine as {item} and released to you.\r\n"
            "It is attached so that it does not open by itself; treat it with care.\r\n"
            f"SHA-256 of the original: {hashlib.sha256(raw).hexdigest()}\r\n"
        )
        head = (
            f"From: Mail quarantine <postmaster@{hostname}>\r\n"
            f"To: {to}\r\n"
            f"Subject: Released from quarantine: {item}\r\n"
            f"Date: {formatdate(localtime=True)}\r\n"
            f"Message-ID: <{item}.{os.urandom(8).hex()}@{hostname}>\r\n"
            "Auto-Submitted: auto-generated\r\n"
            "MIME-Version: 1.0\r\n"
            f'Content-Type: multipart/mixed; boundary="{boundary}"\r\n\r\n'
            f"--{boundary}\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n{text}\r\n"
            f"--{boundary}\r\n"
        )
        return _ascii(head) + _part(item, raw) + f"\r\n--{boundary}--\r\n".encode("ascii")

    return wrap


def _ascii(head: str) -> bytes:
    lines = [printable(line, 998) for line in head.split("\r\n")]
    return "\r\n".join(lines).encode("ascii", "replace")


def _part(item: str, raw: bytes) -> bytes:
    name = f'filename="{item}.eml"'
    if _UNSENDABLE.search(raw) or not raw:
        head = (
            f"Content-Type: application/octet-stream\r\nContent-Disposition: attachment; {name}\r\n"
            "Content-Transfer-Encoding: base64\r\n\r\n"
        )
        return head.encode("ascii") + base64.encodebytes(raw).replace(b"\n", b"\r\n")
    coding = "7bit" if raw.isascii() else "8bit"
    head = (
        f"Content-Type: message/rfc822\r\nContent-Disposition: attachment; {name}\r\n"
        f"Content-Transfer-Encoding: {coding}\r\n\r\n"
    )
    return head.encode("ascii") + raw
