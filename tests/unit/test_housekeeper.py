# SPDX-License-Identifier: GPL-2.0-or-later
"""Health: a store that can be read but not written to is no good store."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from gateway import housekeeper
from gateway.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gateway.store.database import Database

ROOM = SimpleNamespace(f_flag=0, f_bavail=housekeeper.LEAST_FREE, f_frsize=1)


@pytest.fixture
def server(database: Database) -> Iterator[housekeeper._Server]:
    metrics = Metrics(4)
    metrics.slot(0).set("alive", value=3)
    made = housekeeper._Server(("127.0.0.1", 0), None, metrics, database)  # type: ignore[arg-type]  # no metrics here
    yield made
    made.server_close()


@pytest.mark.parametrize(
    ("changed", "store"),
    [
        ({}, "ok"),
        ({"f_bavail": housekeeper.LEAST_FREE - 1}, "the disk is nearly full"),
        ({"f_flag": os.ST_RDONLY}, "the file system is read-only"),
    ],
)
def test_room(
    server: housekeeper._Server, monkeypatch: pytest.MonkeyPatch, changed: dict[str, int], store: str
) -> None:
    monkeypatch.setattr("os.statvfs", lambda _path: SimpleNamespace(**{**vars(ROOM), **changed}))
    well, state = server.health()
    assert state["store"].startswith(store)
    assert well == (store == "ok")


def test_no_file_system(server: housekeeper._Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_path: Path) -> None:
        raise OSError("gone")

    monkeypatch.setattr("os.statvfs", gone)
    assert server.health() == (False, {"workers": "3", "store": "gone"})
