# SPDX-License-Identifier: GPL-2.0-or-later
"""The recorded SMTP dialogues: all of them, every time."""

from __future__ import annotations

import pytest

from tests.conformance.dialog_suites import dialogues
from tests.shared import SHARED


@pytest.mark.skipif(SHARED is None, reason="the suites are no part of the project")
def test_recorded_dialogues() -> None:
    assert SHARED is not None
    outcomes = list(dialogues(SHARED / "conformance"))
    assert len(outcomes) >= 18
    assert not [one for one in outcomes if not one.passed]
