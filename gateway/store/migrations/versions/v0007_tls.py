# SPDX-License-Identifier: GPL-2.0-or-later
"""What is known of TLS towards next hops."""

from __future__ import annotations

from alembic import op

from gateway.store import schema

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the tables."""
    for table in (schema.mta_sts, schema.tls_hosts, schema.tls_results, schema.tls_reports):
        table.create(op.get_bind())
