# SPDX-License-Identifier: GPL-2.0-or-later
"""Links that were used, and digests that were sent.

The table, the column and the index as it is came with the fifth version, but not with its first programs.
"""

from __future__ import annotations

from alembic import op

from gateway.store import schema
from gateway.store.migrations.columns import add_columns

revision = "0009"
down_revision = "0008"


_MEND = "quarantine_content"


def upgrade() -> None:
    """Add the tables, and what early databases do not have."""
    connection = op.get_bind()
    for table in (schema.senders, schema.spent_tokens, schema.digests):
        table.create(connection, checkfirst=True)
    add_columns(connection, schema.quarantine, "judged_by")
    connection.exec_driver_sql(f"DROP INDEX IF EXISTS {_MEND}")
    next(index for index in schema.quarantine.indexes if index.name == _MEND).create(connection)
