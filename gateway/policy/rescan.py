# SPDX-License-Identifier: GPL-2.0-or-later
"""What the site wants of held mail when signatures, rules or model have changed."""

from __future__ import annotations

from typing import Literal

from gateway.settings import Settings


class RescanSettings(Settings, frozen=True):
    """Held mail that is judged again when signatures, rules or model have changed."""

    # Judge held mail again by itself when any of these changes; `quarantine rescan` does it on demand.
    enabled: bool = True
    # What becomes of a message that would pass by now: "record" only notes it, "release" releases it.
    clean: Literal["record", "release"] = "record"
    # What becomes of one in which malware is found by now: "record" holds it for that, too, "delete" deletes.
    infected: Literal["record", "delete"] = "record"
