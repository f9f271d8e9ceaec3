# SPDX-License-Identifier: GPL-2.0-or-later
"""What the smart host's queue is made of."""

from __future__ import annotations

from alembic import op

from gateway.store import schema

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the tables."""
    for table in (schema.queue_messages, schema.queue_bytes, schema.queue_recipients, schema.queue_owners):
        table.create(op.get_bind())
