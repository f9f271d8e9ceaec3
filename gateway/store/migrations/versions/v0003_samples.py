# SPDX-License-Identifier: GPL-2.0-or-later
"""What the site's model learns from."""

from __future__ import annotations

from alembic import op

from gateway.store import schema

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the table."""
    schema.samples.create(op.get_bind())
