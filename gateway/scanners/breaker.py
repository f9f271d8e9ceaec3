# SPDX-License-Identifier: GPL-2.0-or-later
"""A circuit breaker, so that a dead server costs one attempt now and then, not one per message.

Reads no input and does no I/O. Safe for threads.
"""

from __future__ import annotations

import threading
import time


class Breaker:
    """Opens after `limit` failures in a row; then lets one caller try every `rest` seconds."""

    def __init__(self, rest: float, limit: int = 3) -> None:
        self._rest = rest
        self._limit = limit
        self._failures = 0
        self._next = 0.0
        self._lock = threading.Lock()

    def ready(self) -> bool:
        """Whether the caller may try now. While open, a "yes" is given once per rest."""
        if self._failures < self._limit:
            return True
        with self._lock:
            now = time.monotonic()
            if now < self._next:
                return False
            self._next = now + self._rest
            return True

    def succeeded(self) -> None:
        """Close the breaker."""
        self._failures = 0

    def failed(self) -> None:
        """Count a failure."""
        with self._lock:
            self._failures += 1
            self._next = time.monotonic() + self._rest
