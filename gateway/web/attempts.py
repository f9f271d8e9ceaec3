# SPDX-License-Identifier: GPL-2.0-or-later
"""Wrong passwords, counted: by the address that tried and by the login that was tried.

Keys are hostile; as many are kept as is said, the oldest go. In memory: one process takes all logins, and who
restarts it has other ways.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import Final

WINDOW: Final = 900.0  # seconds in which attempts are counted
_KEYS: Final = 10_000


class Attempts:
    """How often something failed under a key, in the last `WINDOW` seconds. Thread-safe."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._failed: OrderedDict[str, list[float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait(self, *keys: str) -> float:
        """Seconds until all these keys may try again; 0.0 if they may now."""
        now = time.monotonic()
        with self._lock:
            return max((self._left(key, now) for key in keys), default=0.0)

    def failed(self, *keys: str) -> None:
        """Note a failure under each key."""
        now = time.monotonic()
        with self._lock:
            for key in keys:
                recent = [one for one in self._failed.pop(key, ()) if one > now - WINDOW]
                self._failed[key] = [*recent[-self._most :], now]
            while len(self._failed) > _KEYS:
                self._failed.popitem(last=False)

    def succeeded(self, *keys: str) -> None:
        """Take back the newest failure under each key: it was none. What failed before still counts."""
        with self._lock:
            for key in keys:
                if rest := self._failed.pop(key, [])[:-1]:
                    self._failed[key] = rest

    def _left(self, key: str, now: float) -> float:
        recent = [one for one in self._failed.get(key, ()) if one > now - WINDOW]
        return recent[-self._most] + WINDOW - now if len(recent) >= self._most else 0.0
