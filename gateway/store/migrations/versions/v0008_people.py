# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may review, and their logins."""

from __future__ import annotations

from alembic import op

from gateway.store import schema

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add the tables."""
    for table in (schema.people, schema.logins):
        table.create(op.get_bind())
