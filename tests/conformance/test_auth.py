# SPDX-License-Identifier: GPL-2.0-or-later
"""Every row of the public suites passes, or is a deviation with a reason."""

from __future__ import annotations

import pytest

from tests.conformance.auth_suites import DEVIATIONS, SUITES
from tests.shared import SHARED


@pytest.mark.skipif(SHARED is None, reason="the suites are no part of the project")
@pytest.mark.parametrize("name", SUITES)
def test_suite(name: str) -> None:
    assert SHARED is not None
    outcomes = list(SUITES[name](SHARED / "conformance"))
    assert outcomes
    assert not [one for one in outcomes if not one.passed and one.case not in DEVIATIONS]
    assert not [one.case for one in outcomes if one.passed and one.case in DEVIATIONS]
