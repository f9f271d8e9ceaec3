# SPDX-License-Identifier: GPL-2.0-or-later
"""The model of a site in several processes: readers see whole versions, writers take turns."""

import subprocess
import sys
import time
from pathlib import Path

from contrib.evaluate.workers import longest
from gateway.learning import Learner
from gateway.store.database import StoreSettings
from gateway.store.samples import SampleState
from tests.teaching import mail, states

READER = """
import sys, time; from pathlib import Path
from gateway.classifier.site import SiteFile
file, end, last = SiteFile(Path(sys.argv[1])), time.monotonic() + 60, -1
print("ready", flush=True)
while last < int(sys.argv[2]) and time.monotonic() < end:
    model = file.current()
    if model is not None and model.ham != last:
        last = model.ham
        print(last, model.spam, time.time(), file.problem, flush=True)
    time.sleep(0.01)
"""


def test_readers_in_other_processes_see_whole_versions_soon(learner: Learner) -> None:
    """Each version has as much ham as spam, so a torn one would show."""
    rounds = 8
    words = [sys.executable, "-c", READER, str(learner.path), str(2 * rounds)]
    readers = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
    saved: dict[int, float] = {}
    for number in range(rounds):
        learner.learn(mail(2, first=10 * number))
        saved[2 * (number + 1)] = time.time()
        time.sleep(0.1)
    delays = []
    for reader in readers:
        said, _ = reader.communicate(timeout=90)
        lines = [line.split() for line in said.splitlines()]
        assert lines[-1][0] == str(2 * rounds)
        for ham, spam, when, *problem in lines:
            assert ham == spam
            assert not problem
            delays.append(float(when) - saved[int(ham)])
    assert sorted(delays)[len(delays) // 2] < 1.0


WRITER = """
import sys; sys.path.insert(0, sys.argv[4]); from pathlib import Path
from gateway.classifier.settings import ClassifierSettings
from gateway.learning import Learner
from gateway.store.database import StoreSettings, open_database
from gateway.store.samples import Samples
from tests.teaching import mail
samples = Samples(open_database(StoreSettings(database=sys.argv[3])))
one = Learner(samples, ClassifierSettings(), None, Path(sys.argv[1]) / "site.npy")
for number in range(8):
    one.learn(mail(1, first=int(sys.argv[2]) + number))
"""


def test_writers_of_several_processes_take_turns(
    tmp_path: Path, store_settings: StoreSettings, learner: Learner
) -> None:
    root = str(Path(__file__).resolve().parents[2])
    running = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(start), store_settings.database, root]
        )
        for start in (1_000, 2_000)
    ]
    assert [process.wait(60) for process in running] == [0, 0]
    assert (learner.live().ham, learner.live().spam) == (16, 16)
    assert states(learner) == {SampleState.LEARNED: 32}


def test_one_node_writes_at_a_time(learner: Learner) -> None:
    samples = learner.samples
    assert samples.claim_writing("a:1", 60)
    assert not samples.claim_writing("b:2", 60)
    samples.end_writing("b:2")
    assert not samples.claim_writing("b:2", 60)
    samples.end_writing("a:1")
    assert samples.claim_writing("b:2", -1)
    assert samples.claim_writing("a:1", 60)  # the other's time is over


def test_every_worker_has_what_was_taught_within_a_second(learner: Learner) -> None:
    learner.learn(mail(20))
    for first in (100, 200, 300, 400):  # once it must be seen: a busy machine may keep a worker from looking
        whole, after = longest(learner, mail(2, first=first), times=3)
        assert after <= whole
        if after < 1:
            break
    assert after < 1  # about a quarter, since workers look four times a second
    assert learner.live().ham + learner.live().spam >= 43
