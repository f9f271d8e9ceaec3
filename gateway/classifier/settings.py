# SPDX-License-Identifier: GPL-2.0-or-later
"""What an operator may set about the classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from gateway.settings import Settings

SITE_FILE = "site-model.npy"
OWN_FILE = "own-models.npy"  # beside it
PerDay = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]


class ClassifierSettings(Settings, frozen=True):
    """The trained spam classifier."""

    # Whether messages are classified at all.
    enabled: bool = True
    # Folder of the base model; "" takes the one that is shipped.
    model: str = ""
    # Whether a model that cannot be loaded stops the start; otherwise "unavailable" is recorded.
    required: bool = False
    # The model of what this site teaches: "on" keeps it beside the database, "off" uses none, and
    # an absolute path keeps it there.
    site: str = "on"
    # Whether domains or recipients have small models of their own, on top of the site's: "site" (none
    # has), "domain" or "recipient". They learn what the site's model gets wrong for them.
    per: Literal["site", "domain", "recipient"] = "site"
    # What is kept of mail that was learned: "features" (hashes only), or "bodies" as well (the
    # first 64 KiB, so that a later version of the program can learn them anew: `model relearn`).
    samples: Literal["features", "bodies"] = "features"
    # How many reports of one person or address are learned in a day; the rest is refused.
    reports_per_day: PerDay = 20
    # How many reviews of held mail by one person are learned in a day.
    reviews_per_day: PerDay = 100
    # How many reports and reviews of all people together are learned in a day.
    labels_per_day: PerDay = 1_000
    # Share of ham that a newly learned model may call spam before it is refused, in percent.
    false_positives: Annotated[float, msgspec.Meta(ge=0, le=100)] = 0.5

    def __post_init__(self) -> None:
        if self.site not in {"on", "off"} and not Path(self.site).is_absolute():
            raise ValueError("site is on, off, or an absolute path")

    def site_path(self, state: Path) -> Path | None:
        """Where the site model is, `state` being the folder of the database; None if it is off."""
        if self.site == "off":
            return None
        return state / SITE_FILE if self.site == "on" else Path(self.site)
