# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of searches, of digests' links and of the figures of the web page, once more on a real PostgreSQL."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from contrib.lab.postgresql import Postgresql

pytestmark = pytest.mark.server
UNIT = Path(__file__).resolve().parents[1] / "unit"
# What has most of the statements that the two databases may read differently.
AGAIN = ("test_store_search.py", "test_store_grants.py", "test_web_figures.py")


@pytest.mark.skipif(not Postgresql.available(), reason="no PostgreSQL here")
def test_the_same_on_postgresql(lab: Path) -> None:
    with Postgresql(lab / "again-postgresql") as server:
        with psycopg.connect(server.url, autocommit=True) as connection:
            # Each test makes its tables anew; none is about what a power cut leaves.
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("SELECT pg_reload_conf()")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(UNIT / one for one in AGAIN)],
            env={**os.environ, "MAILWARDEN_TEST_DATABASE": server.url},
            cwd=UNIT.parents[1],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-5_000:]
    assert "100%" in done.stdout
