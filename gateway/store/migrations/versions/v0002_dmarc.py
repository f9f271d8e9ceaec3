# SPDX-License-Identifier: GPL-2.0-or-later
"""What aggregate reports are made of."""

from __future__ import annotations

from alembic import op

from gateway.store import schema

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the tables."""
    for table in (schema.dmarc_observations, schema.dmarc_policies, schema.dmarc_reports):
        table.create(op.get_bind())
