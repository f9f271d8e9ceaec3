# SPDX-License-Identifier: GPL-2.0-or-later
"""Every row of the public suites on MTA-STS and TLS-RPT passes."""

from __future__ import annotations

import pytest

from tests.conformance.tls_suites import SUITES
from tests.shared import SHARED


@pytest.mark.skipif(SHARED is None, reason="the suites are no part of the project")
@pytest.mark.parametrize("name", SUITES)
def test_suite(name: str) -> None:
    assert SHARED is not None
    outcomes = list(SUITES[name](SHARED / "conformance"))
    assert outcomes
    assert not [one for one in outcomes if not one.passed]
