# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages to send: real ones where a corpus lies beside the checkout, otherwise generated ones.

Reads hostile mail, and only cuts it into lines: CRLF line ends, no mbox separator, nothing else changed.
"""

from __future__ import annotations

import os
import random
import re
import tarfile
from email.utils import parseaddr
from pathlib import Path

from contrib.demo.cases import letter
from contrib.figures import ROOT

_WORDS = """\
the report about our new servers is ready and can be read before the meeting next week please
send your remarks to the team so that we may finish it in time thank you for your patience with
this project which has taken longer than expected because of many small changes"""
_ADDRESS = re.compile(r"[A-Za-z0-9._+-]{1,60}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+")


def messages(count: int, archive: Path | None = None) -> tuple[list[bytes], str]:
    """Return `count` messages, the same ones each time, and where they come from.

    `archive` is a tar file with a message in each file; by default the SpamAssassin corpus, if it is there.
    """
    if archive is not None:
        return _from_archive(archive, count), archive.name
    shared = Path(os.environ.get("MAILWARDEN_SHARED", ROOT.parent / "shared"))
    found = shared / "corpus" / "spamassassin.tar.xz"
    if found.is_file():
        return _from_archive(found, count), "the SpamAssassin public corpus"
    return [_generated(number) for number in range(count)], "generated messages (there is no corpus here)"


def sender_of(message: bytes) -> str:
    """Return the author's address, if it is a plain one, to be the envelope sender."""
    found = re.search(rb"(?im)^From:([^\r\n]{1,500})", message.partition(b"\r\n\r\n")[0])
    address = parseaddr(found[1].decode("latin-1"))[1] if found else ""
    return address if _ADDRESS.fullmatch(address) else "sender@example.net"


def _from_archive(archive: Path, count: int) -> list[bytes]:
    """Take messages evenly from all folders, in an order of the digests in their names."""
    with tarfile.open(archive) as opened:
        names = [member.name for member in opened if member.isfile() and "index" not in member.name]
    names.sort(key=lambda name: (name.rpartition(".")[2], name))
    chosen = set(names[:: max(1, len(names) // count)][:count])
    with tarfile.open(archive) as opened:
        files = [opened.extractfile(member) for member in opened if member.name in chosen]
        return [_over_smtp(file.read()) for file in files if file]


def _over_smtp(raw: bytes) -> bytes:
    """Return a stored message as it would come over SMTP."""
    if raw.startswith(b"From "):
        raw = raw.partition(b"\n")[2]
    # RFC 5321 §2.3.8: CR and LF only together; NUL is refused by every server
    lines = raw.replace(b"\0", b"").replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    # RFC 5321 §4.5.3.1.6: no line of more than 998 octets; Postfix would break it
    text = b"\r\n".join(line[at : at + 990] for line in lines for at in range(0, max(1, len(line)), 990))
    return text if text.endswith(b"\r\n") else text + b"\r\n"


def _generated(number: int) -> bytes:
    chance, words = random.Random(number), _WORDS.split()
    paragraphs = [
        " ".join(chance.choice(words) for _ in range(chance.randint(20, 90)))
        for _ in range(chance.randint(1, 12))
    ]
    text = "\n\n".join(paragraphs)
    html = "".join(
        f"<p>{p} <a href='https://www.example.com/{i}'>more</a></p>" for i, p in enumerate(paragraphs)
    )
    attachment = ("notes.pdf", b"%PDF-1.4\n" + chance.randbytes(20_000)) if number % 7 == 0 else None
    author = f"user{number}@example.net"
    return letter(author, f"Report {number}", text, attachment, html=html if number % 2 else "")
