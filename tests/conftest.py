# SPDX-License-Identifier: GPL-2.0-or-later
"""Servers for tests, one of each for a whole run.

A test marked `server` names the programs it needs: `@pytest.mark.server("clamd", "postfix")`. Where
one is missing the test is skipped, but in CI (CI=true) that is a failure: there, nothing may go
untested in silence.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from contrib.lab.certificates import Authority
from contrib.lab.clamd import Clamd
from contrib.lab.process import program
from contrib.lab.sink import Sink
from contrib.lab.spamd import Spamd

if TYPE_CHECKING:
    from collections.abc import Iterator

_DAY = 86_400
_MONTH = 30 * _DAY
_LATE = 20.0  # seconds before midnight (UTC) in which no test begins
_DATED = re.compile(r"(PK\\x03\\x04|\\x1f\\x8b\\x08).{50}")  # an archive that was made for the test

# How fast examples are made or read says how busy the machine is, and nothing about us. They are the same in
# each run: what only chance finds is looked for by tests/fuzz/mass.py, where it stops nobody else.
settings.register_profile(
    "house", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("house")

NEEDS_ROOT = {"postfix", "dovecot"}


def need(*programs: str) -> None:
    """Skip the test, or fail it in CI, unless all `programs` can be run."""
    for name in programs:
        missing = f"{name} is not installed" if program(name) is None else ""
        if not missing and name in NEEDS_ROOT and os.geteuid() != 0:
            missing = f"{name} needs root"
        if missing and os.environ.get("CI") == "true":
            pytest.fail(missing, pytrace=False)
        if missing:
            pytest.skip(missing)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a name that tells the time: processes that share the tests would not have the same ones."""
    for item in items:
        near = (abs(int(number) - time.time()) < _MONTH for number in re.findall(r"\d{10}", item.name))
        if any(near) or _DATED.search(item.name):
            raise pytest.UsageError(f"give the parameters of {item.nodeid[:200]} names of their own (ids=)")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Check what the marker `server` names, before any fixture starts something; begin no test at midnight.

    What is counted by days would be counted on another day than the test looks at.
    """
    for marker in item.iter_markers("server"):
        need(*marker.args)
    left = _DAY - time.time() % _DAY
    if left < _LATE:
        time.sleep(left)


@pytest.fixture(scope="session")
def lab() -> Iterator[Path]:
    """A directory that the users of servers can reach, unlike pytest's own."""
    directory = Path(tempfile.mkdtemp(prefix="mailwarden-lab-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def clamd(lab: Path) -> Iterator[Clamd]:
    """A real clamd that knows EICAR and a test signature of ours."""
    need("clamd")
    with Clamd(lab / "clamd") as server:
        yield server


@pytest.fixture(scope="session")
def spamd(lab: Path) -> Iterator[Spamd]:
    """A real spamd with a few rules."""
    need("spamd")
    with Spamd(lab / "spamd") as server:
        yield server


@pytest.fixture(scope="session")
def authority(lab: Path) -> Authority:
    """A certification authority for certificates of servers and clients."""
    return Authority(lab / "certificates")


@pytest.fixture
def sink() -> Iterator[Sink]:
    """An SMTP server that keeps what it gets."""
    with Sink() as server:
        yield server
