# SPDX-License-Identifier: GPL-2.0-or-later
"""Run the public conformance suites; print a table, write build/conformance.json.

    python -m contrib.conformance [SUITE ...]

Those called "doors-..." send the same rows through both doors of a real gateway. The suites' data is
no part of the project: it is looked for where tests/shared.py says. The exit status is 1 if a row
fails that is not listed as a deviation, or one that is listed passes.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from tests.conformance import auth_suites, bomb_suites, content_suites, dialog_suites, door_suites, tls_suites
from tests.conformance.auth_suites import DEVIATIONS
from tests.conformance.content_suites import SkippedError
from tests.shared import SHARED

SUITES = (
    auth_suites.SUITES
    | dialog_suites.SUITES
    | door_suites.SUITES
    | content_suites.SUITES
    | bomb_suites.SUITES
    | tls_suites.SUITES
)


def main(names: list[str]) -> int:
    """Run the suites named, all if there are none."""
    if SHARED is None:
        print("no conformance data here", file=sys.stderr)
        return 2
    if unknown := set(names) - set(SUITES):
        print(f"no such suite: {', '.join(sorted(unknown))}; there are {', '.join(SUITES)}", file=sys.stderr)
        return 64
    figures: dict[str, list[int]] = {}
    wrong = 0
    for name in names or SUITES:
        # From outside, results are compared with our own, so that there is nothing to deviate from.
        listed = DEVIATIONS if name in auth_suites.SUITES else {}
        start = time.monotonic()
        try:
            outcomes = list(SUITES[name](SHARED / "conformance"))
        except SkippedError as why:
            print(f"{name:24} skipped: {why}")
            continue
        passed = sum(outcome.passed for outcome in outcomes)
        figures[name] = [passed, len(outcomes)]
        print(f"{name:24} {passed:5} of {len(outcomes):5} {time.monotonic() - start:8.1f} s")
        if name in content_suites.MEASURED:
            for outcome in outcomes:
                print(f"    {outcome.case}: {outcome.detail}"[:300])
        for outcome in outcomes:
            reason = listed.get(outcome.case)
            if outcome.passed == (reason is None):
                continue
            wrong += 1
            print(f"    {outcome.case}: {outcome.detail}")
        for outcome in outcomes:
            if not outcome.passed and outcome.case in listed:
                print(f"    deviation {outcome.case}: {listed[outcome.case]}")
    path = Path("build/conformance.json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(figures, indent=1) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
