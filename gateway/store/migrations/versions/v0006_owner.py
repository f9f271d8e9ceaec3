# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose mail a sample is."""

from __future__ import annotations

from alembic import op

from gateway.store import schema
from gateway.store.migrations.columns import add_columns

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the column and its index."""
    connection = op.get_bind()
    add_columns(connection, schema.samples, "owner")
    for index in schema.samples.indexes:
        index.create(connection, checkfirst=True)
