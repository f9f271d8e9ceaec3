# SPDX-License-Identifier: GPL-2.0-or-later
"""What other policies would have made of a recorded message."""

from __future__ import annotations

from alembic import op

from gateway.store import schema
from gateway.store.migrations.columns import add_columns

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add the column."""
    add_columns(op.get_bind(), schema.journal, "shaded")
