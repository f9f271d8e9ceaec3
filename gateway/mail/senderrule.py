# SPDX-License-Identifier: GPL-2.0-or-later
"""What reviewers ruled about a sender, as evidence about a message."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class SenderRule:
    """What reviewers ruled about a sender; "error" if that could not be read."""

    pattern: str  # an address, a domain, or ".domain"
    rule: Literal["block", "allow", "error"]
    matched: Literal["envelope", "author"]
    reason: str = ""
