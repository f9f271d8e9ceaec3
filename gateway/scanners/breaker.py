# SPDX-License-Identifier: GPL-2.0-or-later
"""A circuit breaker, so that a dead server costs no message its time: a thread asks when it is back.

Reads no input and does no I/O of its own. Safe for threads.
"""

from __future__ import annotations

import threading
from time import sleep
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_LEAST = 0.05  # seconds between two probes


class Breaker:
    """Opens after `limit` failures in a row; then `probe` is called every `rest` seconds until it says yes.

    While it is open nobody is let through. The first failure behind a good probe opens it again. `probe`
    is to be quick, and must not raise.
    """

    def __init__(self, rest: float, probe: Callable[[], bool], limit: int = 3) -> None:
        self._rest = max(rest, _LEAST)
        self._limit = limit
        self._probe = probe
        self._failures = 0
        self._probing = False
        self._lock = threading.Lock()

    def ready(self) -> bool:
        """Whether the caller may try now."""
        return self._failures < self._limit

    def succeeded(self) -> None:
        """Forget failures; what was under way when the breaker opened does not close it."""
        with self._lock:
            if not self._probing:
                self._failures = 0

    def failed(self) -> None:
        """Count a failure."""
        with self._lock:
            self._failures += 1
            if self._failures < self._limit or self._probing:
                return
            self._probing = True
        threading.Thread(target=self._watch, name="probe", daemon=True).start()

    def _watch(self) -> None:
        while True:
            sleep(self._rest)
            if self._probe():
                with self._lock:
                    self._failures = self._limit - 1
                    self._probing = False
                return
