# SPDX-License-Identifier: GPL-2.0-or-later
"""Passwords of people known here, as Argon2id hashes.

Reads hostile text, bounded. A hash costs 64 MiB and some 50 ms, so few are made at a time; a login that
nobody has costs the same as a wrong password.
"""

from __future__ import annotations

import os
import threading
from functools import cache
from typing import Final

from gateway.logins import hashes

SHORTEST: Final = 10
LONGEST: Final = hashes.LONGEST  # octets

_AT_A_TIME = threading.BoundedSemaphore(2)


def made(password: str) -> str:
    """The hash to keep. Raises ValueError for a password that is too short or too long."""
    octets = password.encode("utf-8", "surrogatepass")
    if len(password) < SHORTEST or len(octets) > LONGEST or b"\0" in octets:
        raise ValueError(f"a password has {SHORTEST} characters or more, and {LONGEST} octets at most")
    with _AT_A_TIME:
        return hashes.new(octets, os.urandom(16))


def fits(password: str, kept: str) -> bool:
    """Whether a password belongs to a hash; never with "", in the time that a comparison takes."""
    with _AT_A_TIME:
        return hashes.is_right(password.encode("utf-8", "replace"), kept or _nobody()) and bool(kept)


@cache
def _nobody() -> str:
    return hashes.new(os.urandom(16), os.urandom(16))
