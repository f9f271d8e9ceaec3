# SPDX-License-Identifier: GPL-2.0-or-later
"""How soon every worker scores with what a site has just been taught: processes that look as workers do.

Reads labelled mail through the learner, and the model file it saves.
"""

from __future__ import annotations

import multiprocessing
import time
from typing import TYPE_CHECKING, Final

from gateway.classifier.site import SiteFile

if TYPE_CHECKING:
    from collections.abc import Iterable
    from multiprocessing.connection import Connection
    from pathlib import Path

    from gateway.learning import Labelled, Learner

WORKERS: Final = 4
_PATIENCE: Final = 60.0  # seconds


def longest(learner: Learner, messages: Iterable[Labelled], times: int) -> tuple[float, float]:
    """Teach messages one by one until `times` of them made a new model; give the longest seconds of these.

    From the call that teaches one until the last worker has the model: the gate, the store and the
    saved file are in it. Then the same from the end of that call. Raises RuntimeError if none comes.
    """
    context = multiprocessing.get_context("spawn")
    pipes, running = [], []
    for _ in range(WORKERS):
        mine, theirs = context.Pipe(duplex=False)
        worker = context.Process(target=_work, args=(learner.path, theirs), daemon=True)
        worker.start()
        pipes.append(mine)
        running.append(worker)
    try:
        now = learner.live().upto[0]
        for pipe in pipes:
            _until(pipe, now)
        whole, after = [0.0], [0.0]
        for message in messages:
            if len(whole) > times:
                break
            started = time.monotonic()
            learner.learn([message])
            ended = time.monotonic()
            before, now = now, learner.live().upto[0]
            if now != before:
                last = max(_until(pipe, now) for pipe in pipes)
                whole.append(last - started)
                after.append(max(last - ended, 0.0))
        return max(whole), max(after)
    finally:
        for worker in running:
            worker.terminate()
            worker.join()


def _until(pipe: Connection, number: int) -> float:
    """When a worker had the model that knows sample `number`, by the clock that all processes share."""
    while pipe.poll(_PATIENCE):
        upto, moment = pipe.recv()
        if upto == number:
            return float(moment)
    raise RuntimeError("a worker saw no new model")


def _work(path: Path, pipe: Connection) -> None:
    """Ask for the model as for each of many messages, and tell of every new one."""
    file, last = SiteFile(path), -1
    while True:
        model = file.current()
        if model is not None and model.upto[0] != last:
            last = model.upto[0]
            pipe.send((last, time.monotonic()))
        time.sleep(0.005)
