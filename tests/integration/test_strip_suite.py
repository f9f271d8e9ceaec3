# SPDX-License-Identifier: GPL-2.0-or-later
"""Public evasion files, stripped: what goes on has nothing left in it that a scanner finds.

Of each file either all attachments are cut out, or it says that it cannot be cut and is held.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gateway.mail.edits import apply
from gateway.mail.mime import parse
from gateway.mail.types import Cut
from gateway.scanners.clamd import Clamd, ClamdSettings
from tests.shared import SHARED

if TYPE_CHECKING:
    from contrib.lab.clamd import Clamd as ClamdServer

pytestmark = pytest.mark.server("clamd")
DATA = (SHARED or Path()) / "conformance" / "mime-is-broken" / "data"
NOTE = "Content-Type: text/plain\n\nnote"


def cut(raw: bytes) -> bytes | None:
    """The message without its attachments, None if it is held."""
    content = parse(raw)
    spans = {attachment.part for attachment in content.attachments}
    if not content.certain or None in spans:
        return None
    if (0, len(raw)) in spans:
        spans = {(content.body_start, len(raw))}
    return apply(raw, (), tuple(Cut(*span, NOTE) for span in sorted(filter(None, spans))))


@pytest.mark.skipif(not DATA.is_dir(), reason="the public files are not here")
def test_nothing_is_left_in_what_goes_on(clamd: ClamdServer) -> None:
    scanner = Clamd(ClamdSettings(addresses=clamd.addresses[:1]))
    found: Counter[str] = Counter()
    infected = 0
    for path in sorted(p for p in DATA.rglob("*") if p.is_file()):
        raw = re.sub(rb"(?<!\r)\n", b"\r\n", path.read_bytes())
        if not parse(raw).attachments:
            continue
        left = cut(raw)
        if left is None:
            found["held"] += 1
            continue
        before, after = (scanner.scan((one,), time.monotonic() + 20).status for one in (raw, left))
        infected += before == "infected"
        found[after] += 1
        assert after == "clean", path
    assert infected > 30  # the suite is what it is taken for
    assert found["held"] > 200
