# SPDX-License-Identifier: GPL-2.0-or-later
"""What became of what was sent on."""

from __future__ import annotations

from alembic import op

from gateway.store import schema
from gateway.store.migrations.columns import add_columns

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Add the table, and what the queue knows of it."""
    connection = op.get_bind()
    schema.deliveries.create(connection, checkfirst=True)
    add_columns(connection, schema.queue_recipients, "server", "tls", "ended")
