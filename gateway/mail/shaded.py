# SPDX-License-Identifier: GPL-2.0-or-later
"""What another policy would have made of a message, as the journal keeps it."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.mail.types import Verdict  # noqa: TC001  # msgspec reads the types of what the journal keeps


@dataclass(frozen=True, slots=True)
class Shaded:
    """The verdict of one shadow; None where it is the live one again, or `error` says why there is none."""

    name: str
    verdict: Verdict | None
    error: str = ""
    policy: str = ""  # hash of what judged
    model: str = ""  # "" if the live model did
