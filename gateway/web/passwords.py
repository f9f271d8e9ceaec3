# SPDX-License-Identifier: GPL-2.0-or-later
"""Passwords of people known here: argon2id, by argon2-cffi (the extra "web").

Reads hostile text, bounded. A hash costs 64 MiB and some 50 ms, so few are made at a time; a login that
nobody has costs the same as a wrong password.
"""

from __future__ import annotations

import threading
from functools import cache
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError

SHORTEST: Final = 10
LONGEST: Final = 1_000

_HASHER = PasswordHasher()
_AT_A_TIME = threading.BoundedSemaphore(2)


def made(password: str) -> str:
    """The hash to keep. Raises ValueError for a password that is too short or too long."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise ValueError(f"a password has {SHORTEST} to {LONGEST} characters")
    with _AT_A_TIME:
        return _HASHER.hash(password)


def fits(password: str, kept: str) -> bool:
    """Whether a password belongs to a hash; never with "", in the time that a comparison takes."""
    if len(password) > LONGEST:
        return False
    with _AT_A_TIME:
        try:
            return _HASHER.verify(kept or _nobody(), password) and bool(kept)
        except (VerifyMismatchError, VerificationError, InvalidHashError):
            return False


@cache
def _nobody() -> str:
    return _HASHER.hash("a password that nobody has")
