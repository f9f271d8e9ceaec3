# SPDX-License-Identifier: GPL-2.0-or-later
"""The housekeeper's threads: one that fails is no silence."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING

from gateway import housekeeper
from gateway.log import LogSettings, open_log

if TYPE_CHECKING:
    import pytest


def test_a_failed_thread_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else releases, digests or learning would stop for good, and nobody would know."""
    said = io.StringIO()
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(sys, "stderr", said)

    def work(number: int) -> None:
        raise ValueError(number)

    housekeeper._begin(open_log(LogSettings()), "releases", work, 7).join(5)
    assert ended == [1]
    [line] = said.getvalue().splitlines()
    assert "at=releases" in line
    assert "ValueError(7)" in line
