# SPDX-License-Identifier: GPL-2.0-or-later
"""A sample of the suites from outside, through both doors; `make conformance` sends all rows."""

from __future__ import annotations

import pytest

from tests.conformance.door_suites import SUITES, through_doors
from tests.shared import SHARED


@pytest.mark.skipif(SHARED is None, reason="the suites are no part of the project")
@pytest.mark.parametrize("name", SUITES)
def test_suite(name: str) -> None:
    assert SHARED is not None
    outcomes = list(through_doors(SHARED / "conformance", name, every=10))
    assert outcomes
    assert not [one for one in outcomes if not one.passed]
