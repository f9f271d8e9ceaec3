# SPDX-License-Identifier: GPL-2.0-or-later
"""A sample of the suites from outside, through both doors; `make conformance` sends all rows."""

from __future__ import annotations

import pytest

from tests.conformance.door_suites import SUITES, through_doors
from tests.shared import SHARED

WALK = "doors-dmarc-tree-walk"
OTHERS = tuple(name for name in SUITES if name != WALK)


@pytest.mark.skipif(SHARED is None, reason="the suites are no part of the project")
@pytest.mark.parametrize("names", [OTHERS, (WALK,)], ids=["psl", "walk"])
def test_suites(names: tuple[str, ...]) -> None:
    assert SHARED is not None
    outcomes = list(through_doors(SHARED / "conformance", names, every=10))
    assert len(outcomes) >= len(names)
    assert not [one for one in outcomes if not one.passed]
