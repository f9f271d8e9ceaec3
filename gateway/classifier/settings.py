# SPDX-License-Identifier: GPL-2.0-or-later
"""What an operator may set about the classifier."""

from __future__ import annotations

from gateway.settings import Settings


class ClassifierSettings(Settings, frozen=True):
    """The trained spam classifier."""

    # Whether messages are classified at all.
    enabled: bool = True
    # Folder of the base model; "" takes the one that is shipped.
    model: str = ""
    # Whether a model that cannot be loaded stops the start; otherwise "unavailable" is recorded.
    required: bool = False
