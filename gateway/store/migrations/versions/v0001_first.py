# SPDX-License-Identifier: GPL-2.0-or-later
"""The first schema: journal, quarantine, release tokens and audit. Nothing is older."""

from __future__ import annotations

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Do nothing: this is where it begins."""
