# SPDX-License-Identifier: GPL-2.0-or-later
"""An empty database for a test, and what works on it.

It is SQLite in the test's own directory, or the PostgreSQL that MAILWARDEN_TEST_DATABASE names. A test
that asks for `store_settings` as well gets those the database was opened with: to make settings anew
would empty the schema of PostgreSQL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway.store.database import Database, StoreSettings, open_database
from gateway.store.quarantine import Quarantine
from tests.stored import settings_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gateway.learning import Learner


@pytest.fixture
def store_settings(tmp_path: Path) -> StoreSettings:
    """Settings of an empty database of its own."""
    return settings_for(tmp_path)


@pytest.fixture
def database(store_settings: StoreSettings) -> Iterator[Database]:
    """The empty database, open."""
    opened = open_database(store_settings)
    yield opened
    opened.close()


@pytest.fixture
def quarantine(database: Database) -> Quarantine:
    """The quarantine in that database."""
    return Quarantine(database)


@pytest.fixture
def learner(tmp_path: Path, database: Database) -> Learner:
    """Who teaches the model of a site that has no base."""
    from gateway.classifier.settings import ClassifierSettings
    from gateway.learning import Learner
    from gateway.store.samples import Samples

    return Learner(Samples(database), ClassifierSettings(), None, tmp_path / "site.npy")
