# SPDX-License-Identifier: GPL-2.0-or-later
"""Two nodes that teach one site through PostgreSQL: one writes at a time, both come to the same model."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from contrib.lab.postgresql import Postgresql
from contrib.lab.process import wait_for
from gateway.classifier.settings import ClassifierSettings
from gateway.classifier.site import SiteFile
from gateway.learning import Labelled, Learner
from gateway.store.database import StoreError, StoreSettings, open_database
from gateway.store.samples import REPORT, Samples, SampleState
from tests.teaching import mail, message

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = str(Path(__file__).resolve().parents[2])
NODE = """
import sys; sys.path.insert(0, sys.argv[4]); from pathlib import Path
from gateway.classifier.settings import ClassifierSettings
from gateway.learning import Learner
from gateway.store.database import StoreSettings, open_database
from gateway.store.samples import REPORT, Samples
from tests.teaching import mail
database = open_database(StoreSettings(database=sys.argv[1]))
one = Learner(Samples(database), ClassifierSettings(), None, Path(sys.argv[2]) / "site.npy")
for number in range(6):
    one.learn(mail(1, first=int(sys.argv[3]) + number))
    one.receive(mail(1, first=int(sys.argv[3]) + 100 + number, origin=REPORT, source=sys.argv[3]))
    one.take_in()
"""


@pytest.fixture(scope="module")
def url(lab: Path) -> Iterator[str]:
    if not Postgresql.available():
        pytest.skip("postgresql or psycopg is not installed")
    with Postgresql(lab / "learning-postgresql") as server:
        yield server.url


def node(url: str, directory: Path) -> Learner:
    directory.mkdir(exist_ok=True)
    samples = Samples(open_database(StoreSettings(database=url)))
    return Learner(samples, ClassifierSettings(), None, directory / "site.npy")


def test_one_node_writes_at_a_time(url: str) -> None:
    samples = Samples(open_database(StoreSettings(database=url)))
    writers, most, errors = [0], [0], []
    counting = threading.Lock()

    def work(who: str) -> None:
        try:
            for _ in range(25):
                while not samples.claim_writing(who, 60, "test_writer"):
                    pass
                with counting:
                    writers[0] += 1
                    most[0] = max(most[0], writers[0])
                time.sleep(0.001)
                with counting:
                    writers[0] -= 1
                samples.end_writing(who, "test_writer")
        except StoreError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=work, args=(f"{n}:1",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    samples.database.close()
    assert (most[0], errors) == (1, [])


def test_two_nodes_come_to_the_same_model(url: str, tmp_path: Path) -> None:
    first, second = node(url, tmp_path / "a"), node(url, tmp_path / "b")
    running = [
        subprocess.Popen([sys.executable, "-c", NODE, url, str(one.path.parent), str(start), ROOT])
        for one, start in ((first, 1_000), (second, 2_000))
    ]
    assert [process.wait(120) for process in running] == [0, 0]
    for one in (first, second):
        one.catch_up()
    assert (first.live().ham, first.live().spam) == (24, 24)
    assert np.array_equal(first.live()._state, second.live()._state)
    assert sum(1 for _ in first.samples.read(SampleState.WAITING)) == 0
    # What one node is told, the other knows soon: it looks every 0.4 s, and its workers every 0.25 s.
    reader = SiteFile(second.path)
    first.learn(mail(1, first=5_000))
    wait_for(second.behind, 20, "the other node")  # about half a second where nothing else runs
    second.catch_up()
    wait_for(lambda: (model := reader.current()) is not None and model.ham == 25, 20, "its workers")
    # What one node takes back, neither knows any more.
    assert first.forget(message(5_000, spam=True))
    second.catch_up()
    assert np.array_equal(first.live()._state, second.live()._state)
    assert not second.previous.exists()
    # A report is taken in once, whichever node is first.
    first.receive([Labelled(message(7_000, spam=True), True, REPORT, "bob@example.net")])
    outcomes = [one.take_in() for one in (second, first)]
    assert [outcome.learned if outcome else 0 for outcome in outcomes] == [1, 0]
    for one in (first, second):
        one.samples.database.close()
