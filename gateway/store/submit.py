# SPDX-License-Identifier: GPL-2.0-or-later
"""Group commit: many messages that wait at the same time reach the disk with one sync.

One thread takes all that has come while the last commit was under way, and commits it together. It waits
some milliseconds more where that has made groups larger: a message alone costs several times its share. A
group that cannot be written is tried message by message, so that one strange message costs no other.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING

from gateway.store.database import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.store.queue import Queue
    from gateway.store.queued import Outgoing

log = logging.getLogger(__name__)

MOST = 200  # messages of one group
MOST_OCTETS = 33_554_432
_PAUSE = 0.006  # seconds between two groups, where that makes them larger
_TRIES = 10  # pauses in vain, after which there are none
_PROBE = 20  # groups after which one is tried again


class _Pause:
    """Waits between two groups while further messages come meanwhile; a lone client is not kept waiting."""

    def __init__(self) -> None:
        self._next = 0.0
        self._groups = self._left = 0
        self._waited = False

    def before(self) -> None:
        """There is a message to be written."""
        seconds = self._next - time.monotonic()
        self._waited = seconds > 0 and (self._left > 0 or self._groups % _PROBE == 0)
        if self._waited:
            time.sleep(seconds)

    def after(self, size: int) -> None:
        """So many were written together."""
        if self._waited:
            self._left = _TRIES if size > 1 else max(0, self._left - 1)
        self._groups += 1
        self._next = time.monotonic() + _PAUSE


class Submitter:
    """Brings messages into the queue. Thread-safe; its thread starts with the first message."""

    def __init__(self, store: Queue, committed: Callable[[], None] = lambda: None) -> None:
        """`committed` is called, in our thread, after each commit: it must not block."""
        self._store = store
        self._committed = committed
        self._waiting: queue.SimpleQueue[tuple[Outgoing, Future[None]] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def submit(self, message: Outgoing) -> Future[None]:
        """Queue `message`. The future is done when it is on disk, or has failed with StoreError."""
        if self._thread is None:
            self._start()
        done: Future[None] = Future()
        self._waiting.put((message, done))
        return done

    def close(self, timeout: float = 10.0) -> None:
        """Write what waits and end the thread."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join(timeout)
            self._thread = None

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="submit", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        going, pause = True, _Pause()
        while going:
            entry = self._waiting.get()
            pause.before()
            group: list[tuple[Outgoing, Future[None]]] = []
            octets = 0
            while True:
                if entry is None:
                    going = False
                    break
                if entry[1].set_running_or_notify_cancel():  # else nobody waits for it any more
                    group.append(entry)
                    octets += len(entry[0].message)
                if len(group) >= MOST or octets >= MOST_OCTETS:
                    break
                try:
                    entry = self._waiting.get_nowait()
                except queue.Empty:
                    break
            if group:
                self._write(group)
                pause.after(len(group))

    def _write(self, group: list[tuple[Outgoing, Future[None]]]) -> None:
        try:
            self._store.add([message for message, _ in group])
        except Exception as error:  # noqa: BLE001  # whatever it is, whoever waits must hear of it
            if len(group) > 1:
                for one in group:
                    self._write([one])
                return
            log.warning("message not queued: %s", error)
            failure = error if isinstance(error, StoreError) else StoreError(type(error).__name__)
            group[0][1].set_exception(failure)
            return
        self._committed()
        for _, done in group:
            done.set_result(None)
