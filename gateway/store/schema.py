# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables of the store, and how an older schema is brought forward.

Columns that people search hold printable, bounded text; what replay and release need is JSON
written by `encoding.py`. Message bytes are in a table of their own, so that listing a million held
messages never reads past them.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    func,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.schema import CreateColumn

if TYPE_CHECKING:
    from collections.abc import Callable

VERSION = 6

metadata = MetaData()
_Number = BigInteger().with_variant(Integer, "sqlite")  # only INTEGER counts by itself in SQLite
_Id = String(32)

schema_version = Table(
    "schema_version",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("applied", Float, nullable=False),
)

secrets = Table(
    "secrets",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)

journal = Table(
    "journal",
    metadata,
    Column("number", _Number, primary_key=True),
    Column("id", _Id, nullable=False),
    Column("queue_id", Text, nullable=False),
    Column("received", Float, nullable=False),
    Column("door", Text, nullable=False),
    Column("client_ip", Text, nullable=False),
    Column("helo", Text, nullable=False),
    Column("sender", Text, nullable=False),
    Column("recipients", Text, nullable=False),  # one a line, for searching; exact in `envelope`
    Column("subject", Text, nullable=False),
    Column("message_id", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("action", String(16), nullable=False),
    Column("score", Float, nullable=False),
    Column("reason", Text, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("session", Text, nullable=False),
    Column("envelope", Text, nullable=False),
    Column("evidence", Text, nullable=False),
    Column("signals", Text, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("reply", Text, nullable=False),
    Index("journal_id", "id"),
    Index("journal_received", "received"),
)

quarantine = Table(
    "quarantine",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("queue_id", Text, nullable=False),
    Column("received", Float, nullable=False),
    Column("held_at", Float, nullable=False),
    Column("client_ip", Text, nullable=False),
    Column("helo", Text, nullable=False),
    Column("sender", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("message_id", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("score", Float, nullable=False),
    Column("reason", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("changed", Float, nullable=False),
    Column("content", Integer, nullable=False, server_default="1"),  # 1 while the message is there
    Column("judged_by", Text, nullable=False, server_default=""),  # what looked at it last
    Index("quarantine_state", "state", "id"),
    Index("quarantine_content", "content", "held_at", "size"),
    Index("quarantine_changed", "content", "changed"),
)

# What people search by, small and in one place, so that a million of them are read within a second.
# Texts are folded to one case. Gone with the message.
quarantine_words = Table(
    "quarantine_words",
    metadata,
    Column("item", _Id, primary_key=True),
    Column("held_at", Float, nullable=False),
    Column("score", Float, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sender", Text, nullable=False),
    Column("people", Text, nullable=False),  # one a line
    Column("subject", Text, nullable=False),
    sqlite_with_rowid=False,
)

# The exact session, envelope and held recipients, as JSON; gone with the message.
quarantine_envelopes = Table(
    "quarantine_envelopes",
    metadata,
    Column("item", _Id, primary_key=True),
    Column("session", Text, nullable=False),
    Column("envelope", Text, nullable=False),
    Column("held", Text, nullable=False),
)

quarantine_recipients = Table(
    "quarantine_recipients",
    metadata,
    Column("item", _Id, primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),  # in quarantine_envelopes.held
    Column("address", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("lease", String(32), nullable=False),
    Column("lease_until", Float, nullable=False),
    Column("changed", Float, nullable=False),
    Column("delivered_to", Text, nullable=False),
    Column("note", Text, nullable=False),
    sqlite_with_rowid=False,
)

quarantine_reasons = Table(
    "quarantine_reasons",
    metadata,
    Column("item", _Id, primary_key=True),
    Column("name", String(128), primary_key=True),
    Column("answered", Float, nullable=False, server_default="0"),  # when; 0 while it is open
    Column("answered_by", Text, nullable=False, server_default=""),
    Column("answer", Text, nullable=False, server_default=""),
    Index("quarantine_reasons_name", "name", "item"),
    sqlite_with_rowid=False,
)

# A copy that was released, until it is delivered: when it goes out, where to, and in which form.
quarantine_orders = Table(
    "quarantine_orders",
    metadata,
    Column("item", _Id, primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("batch", _Id, nullable=False),
    Column("due", Float, nullable=False),
    Column("who", Text, nullable=False),
    Column("send_to", Text, nullable=False),
    Column("wrapped", Integer, nullable=False),
    Column("aloud", Integer, nullable=False),  # malware was spoken of
    Column("was", String(16), nullable=False),  # the state before
    Index("quarantine_orders_due", "due"),
    Index("quarantine_orders_batch", "batch"),
    sqlite_with_rowid=False,
)

# Searches by name, as options of the command line.
quarantine_filters = Table(
    "quarantine_filters",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("who", Text, nullable=False),
    Column("changed", Float, nullable=False),
    Column("options", Text, nullable=False),  # JSON
    sqlite_with_rowid=False,
)

# Senders that reviewers block or allow: an address, a domain, or ".domain" for all below it.
senders = Table(
    "senders",
    metadata,
    Column("pattern", String(320), primary_key=True),
    Column("rule", String(16), nullable=False),
    Column("who", Text, nullable=False),
    Column("changed", Float, nullable=False),
    Column("why", Text, nullable=False),
    sqlite_with_rowid=False,
)

# Number 0 is the verdict it was held for; a re-scan adds the next.
quarantine_judgements = Table(
    "quarantine_judgements",
    metadata,
    Column("item", _Id, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("time", Float, nullable=False),
    Column("evidence", Text, nullable=False),
    Column("signals", Text, nullable=False),
    Column("verdict", Text, nullable=False),
)

quarantine_bytes = Table(
    "quarantine_bytes",
    metadata,
    Column("item", _Id, primary_key=True),
    Column("data", LargeBinary, nullable=False),  # zlib
)

release_tokens = Table(
    "release_tokens",
    metadata,
    Column("nonce", String(32), primary_key=True),
    Column("item", _Id, nullable=False),
    Column("recipients", Text, nullable=False),  # JSON
    Column("expires", Float, nullable=False),
    Column("sha256", String(64), nullable=False, server_default=""),  # of what is sent
    Column("size", BigInteger, nullable=False, server_default="0"),
    Index("release_tokens_item", "item"),
)

audit = Table(
    "audit",
    metadata,
    Column("number", _Number, primary_key=True, autoincrement=False),
    Column("time", Float, nullable=False),
    Column("item", _Id, nullable=False),
    Column("who", Text, nullable=False),
    Column("action", String(32), nullable=False),
    Column("why", Text, nullable=False),
    Column("hash", String(64), nullable=False),
    Index("audit_item", "item"),
)

# How often an equal result of DMARC was seen on a day (days since 1970, UTC) under a policy domain.
dmarc_observations = Table(
    "dmarc_observations",
    metadata,
    Column("day", Integer, primary_key=True, autoincrement=False),
    Column("domain", String(255), primary_key=True),
    Column("hash", String(64), primary_key=True),  # of `data`
    Column("data", Text, nullable=False),  # JSON
    Column("count", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# The policy record that a domain had, as seen last on that day.
dmarc_policies = Table(
    "dmarc_policies",
    metadata,
    Column("day", Integer, primary_key=True, autoincrement=False),
    Column("domain", String(255), primary_key=True),
    Column("record", Text, nullable=False),
    sqlite_with_rowid=False,
)

# What became of the report about a day, for each destination; "" stands for the report itself.
dmarc_reports = Table(
    "dmarc_reports",
    metadata,
    Column("day", Integer, primary_key=True, autoincrement=False),
    Column("domain", String(255), primary_key=True),
    Column("destination", String(320), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("changed", Float, nullable=False),
    Column("note", Text, nullable=False),
    sqlite_with_rowid=False,
)

# Labelled mail that the site's model is made of, in this order.
samples = Table(
    "samples",
    metadata,
    Column("number", _Number, primary_key=True),
    Column("digest", String(64), nullable=False),
    *(Column(f"near{n}", BigInteger, nullable=False) for n in range(4)),
    Column("minima", LargeBinary, nullable=False),
    Column("spam", Integer, nullable=False),
    Column("origin", String(16), nullable=False),
    Column("source", Text, nullable=False),
    Column("time", Float, nullable=False),
    Column("state", String(16), nullable=False),
    Column("features", LargeBinary, nullable=False),  # zlib
    Column("body", LargeBinary, nullable=False),  # zlib; empty unless the settings want bodies kept
    # Domain or recipient whose mail it is, "" if nobody's own model learns it.
    Column("owner", Text, nullable=False, server_default=""),
    Index("samples_digest", "digest"),
    *(Index(f"samples_near{n}", f"near{n}") for n in range(4)),
    Index("samples_source", "source", "time"),
    Index("samples_owner", "owner", "state", "number"),
    Index("samples_state", "state", "number"),
)

# A message on its way out, as it is to be sent. `sender` and `options` are exact; `may_bounce` says
# whether its sender may be told of a failure, `warned` when it was told of a delay.
queue_messages = Table(
    "queue_messages",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("created", Float, nullable=False),
    Column("expires", Float, nullable=False),
    Column("sender", Text, nullable=False),
    Column("options", Text, nullable=False),  # JSON
    Column("may_bounce", Integer, nullable=False),
    Column("warned", Float, nullable=False),
    Column("size", BigInteger, nullable=False),
    Index("queue_messages_created", "created"),
)

queue_bytes = Table(
    "queue_bytes",
    metadata,
    Column("item", _Id, primary_key=True),
    Column("data", LargeBinary, nullable=False),  # zlib
)

queue_recipients = Table(
    "queue_recipients",
    metadata,
    Column("number", _Number, primary_key=True),
    Column("item", _Id, nullable=False),
    Column("address", Text, nullable=False),
    Column("options", Text, nullable=False),  # JSON
    Column("hop", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("next_attempt", Float, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("deaths", Integer, nullable=False),  # how often its lease ended with its owner
    Column("lease", String(32), nullable=False),
    Column("changed", Float, nullable=False),
    Column("reply", Text, nullable=False),
    Index("queue_recipients_item", "item"),
    Index("queue_recipients_due", "state", "next_attempt"),
)

# Who may hold leases. An owner whose row has expired, or is gone, holds none.
queue_owners = Table(
    "queue_owners",
    metadata,
    Column("owner", String(32), primary_key=True),
    Column("process", Text, nullable=False),
    Column("expires", Float, nullable=False),
)

_SQLITE_APPEND_ONLY = (
    (
        "CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit "
        "BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END"
    ),
    (
        "CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit "
        "BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END"
    ),
)
_POSTGRESQL_APPEND_ONLY = (
    (
        "CREATE FUNCTION audit_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the audit is append-only'; END $$"
    ),
    (
        "CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit "
        "FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only()"
    ),
)


def _add_dmarc(connection: Connection) -> None:
    """Add what aggregate reports are made of."""
    for table in (dmarc_observations, dmarc_policies, dmarc_reports):
        table.create(connection)


def _add_samples(connection: Connection) -> None:
    """Add what the site's model learns from."""
    samples.create(connection)


def _add_queue(connection: Connection) -> None:
    """Add what the smart host's queue is made of."""
    for table in (queue_messages, queue_bytes, queue_recipients, queue_owners):
        table.create(connection)


def _add_review(connection: Connection) -> None:
    """Add what reviews are made of, and fill it from what is held."""
    for table in (quarantine_words, quarantine_orders, quarantine_filters, senders):
        table.create(connection)
    for table, names in (
        (quarantine, ("content", "judged_by")),
        (quarantine_reasons, ("answered", "answered_by", "answer")),
        (release_tokens, ("sha256", "size")),
    ):
        known = {column["name"] for column in inspect(connection).get_columns(table.name)}
        for name in names:
            if name not in known:
                column = CreateColumn(table.c[name]).compile(dialect=connection.dialect)
                connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {column}")
    connection.exec_driver_sql("DROP INDEX IF EXISTS quarantine_held_at")
    for index in quarantine.indexes:
        index.create(connection, checkfirst=True)
    q, words, people, issued = quarantine, quarantine_words, quarantine_recipients, release_tokens
    there = select(quarantine_bytes.c.item).where(quarantine_bytes.c.item == q.c.id).exists()
    connection.execute(update(q).where(~there).values(content=0))
    listed = (
        select(func.aggregate_strings(func.lower(people.c.address), "\n"))
        .where(people.c.item == q.c.id)
        .scalar_subquery()
    )
    texts = (func.lower(q.c.sender), func.coalesce(listed, ""), func.lower(q.c.subject))
    columns = [c.name for c in words.c]
    known_texts = select(q.c.id, q.c.held_at, q.c.score, q.c.size, *texts)
    connection.execute(insert(words).from_select(columns, known_texts))
    for name in ("sha256", "size"):
        of_item = select(q.c[name]).where(q.c.id == issued.c.item).scalar_subquery()
        value = func.coalesce(of_item, issued.c[name])
        connection.execute(update(issued).values({name: value}))


def _add_owner(connection: Connection) -> None:
    """Add whose mail a sample is."""
    if "owner" not in {column["name"] for column in inspect(connection).get_columns(samples.name)}:
        column = CreateColumn(samples.c.owner).compile(dialect=connection.dialect)
        connection.exec_driver_sql(f"ALTER TABLE {samples.name} ADD COLUMN {column}")
    for index in samples.indexes:
        index.create(connection, checkfirst=True)


# From version n to n + 1, each within the transaction that opens the database.
MIGRATIONS: dict[int, Callable[[Connection], None]] = {
    1: _add_dmarc,
    2: _add_samples,
    3: _add_queue,
    4: _add_review,
    5: _add_owner,
}


class NewerSchemaError(Exception):
    """The database was written by a later program than this one."""


def prepare(connection: Connection) -> None:
    """Create the tables, or bring an older schema forward, within the caller's transaction."""
    postgresql = connection.dialect.name == "postgresql"
    if postgresql:  # two nodes starting at once
        connection.execute(text("SELECT pg_advisory_xact_lock(6245190)"))
    if not inspect(connection).has_table(schema_version.name):
        metadata.create_all(connection, checkfirst=False)
        for statement in _POSTGRESQL_APPEND_ONLY if postgresql else _SQLITE_APPEND_ONLY:
            connection.exec_driver_sql(statement)
        connection.execute(insert(schema_version).values(version=VERSION, applied=time.time()))
        return
    found = connection.execute(select(func.max(schema_version.c.version))).scalar() or 0
    if found > VERSION:
        raise NewerSchemaError(f"schema version {found}, this program knows up to {VERSION}")
    for version in range(found, VERSION):
        MIGRATIONS[version](connection)
        connection.execute(insert(schema_version).values(version=version + 1, applied=time.time()))
