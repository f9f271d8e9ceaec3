# SPDX-License-Identifier: GPL-2.0-or-later
"""Public evasion suites at the level of the reader: the hidden file is read, or the message marked.

Whether a scanner then knows the file, and what stands in archives, other tests ask. Each case is
read with CRLF, as it comes over SMTP, and with LF.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gateway.mail.mime import parse
from gateway.mail.names import extensions
from tests.shared import SHARED

if TYPE_CHECKING:
    from gateway.mail.types import Content

pytestmark = pytest.mark.skipif(SHARED is None, reason="the public suites are not here")

SUITES = (SHARED or Path()) / "conformance"
MARK = b"EICAR-STANDARD-ANTIVIRUS-TEST-FILE"
# What is for archives and for content rules: the reader's share is to hand the file over as it is.
ARCHIVES = re.compile(r"zip-depth|zip-password|x-|two-zips|zip-|eml-in-zip|svg-script|gtube")


def rows(suite: str) -> list[dict[str, Any]]:
    path = SUITES / suite / "cases.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def read(suite: str, row: dict[str, Any], line_end: bytes) -> Content:
    raw = (SUITES / suite / row["file"]).read_bytes()
    return parse(re.sub(rb"\r?\n", line_end, raw))


def has_mark(data: bytes) -> bool:
    if MARK in data:
        return True
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return any(MARK in archive.read(name) for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError):
        return False


def shown(content: Content) -> bool:
    texts = (t.text.encode() for t in content.texts)
    return any(map(has_mark, (*content.readings, *(a.data for a in content.attachments), *texts)))


BROKEN = rows("mime-is-broken")
CONTENTS = [r for r in BROKEN if r["kind"] == "hide-content"]
NAMES = [r for r in BROKEN if r["kind"] == "hide-filename"]


@pytest.mark.parametrize("line_end", [b"\r\n", b"\n"], ids=["crlf", "lf"])
def test_hidden_contents(line_end: bytes) -> None:
    missed = []
    seen = 0
    for row in CONTENTS:
        content = read("mime-is-broken", row, line_end)
        found = shown(content)
        seen += found
        if not (found or content.ambiguities or content.limits):
            missed.append(row["id"])
    assert missed == []
    assert seen >= 340  # and most are not only marked, but found


@pytest.mark.parametrize("line_end", [b"\r\n", b"\n"], ids=["crlf", "lf"])
def test_hidden_names(line_end: bytes) -> None:
    missed = []
    for row in NAMES:
        content = read("mime-is-broken", row, line_end)
        ending = "png" if row["id"].endswith(".png") else "zip"
        names = [name for a in content.attachments for name in a.names]
        if not (any(ending in extensions(n)[:1] for n in names) or content.ambiguities or content.limits):
            missed.append((row["id"], names))
    assert missed == []


def test_valid_mail_is_not_marked() -> None:
    marked = {}
    for row in BROKEN:
        if row["validity"] >= 2:
            content = read("mime-is-broken", row, b"\r\n")
            if content.ambiguities or content.limits:
                marked[row["id"]] = content.ambiguities
    assert marked == {}


def test_nested() -> None:
    missed = []
    for row in rows("eicar-nested"):
        content = read("eicar-nested", row, b"\r\n")
        if ARCHIVES.match(row["id"]):
            assert content.attachments or content.texts, row["id"]
        elif not (shown(content) or content.ambiguities or content.limits):
            missed.append(row["id"])
    assert missed == []
