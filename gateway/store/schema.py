# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables of the store; `migrations` brings an older schema forward.

Columns that people search hold printable, bounded text; what replay and release need is JSON
written by `encoding.py`. Message bytes are in a table of their own, so that listing a million held
messages never reads past them.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData()
_Number = BigInteger().with_variant(Integer, "sqlite")  # only INTEGER counts by itself in SQLite
_Id = String(32)

alembic_version = Table("alembic_version", metadata, Column("version_num", String(32), primary_key=True))

# From before alembic; still there for programs from then, which refuse what is later than they know.
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
    Column("shaded", Text, nullable=False, server_default=""),  # JSON, "" without shadows
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
    Column("judged_by", Text, nullable=False, server_default=""),  # stamps of what looked at it, by lines
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
    Column("state", String(16), nullable=False, server_default="held"),  # that of the item
    sqlite_with_rowid=False,
)

# Whose mail an item is: its recipients and their domains, as `reach.py` spells them, so that somebody
# with few messages finds them among a million.
quarantine_reach = Table(
    "quarantine_reach",
    metadata,
    Column("key", String(330), primary_key=True),
    Column("item", _Id, primary_key=True),
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

# Links and addresses of digests that were used, until they would have expired.
spent_tokens = Table(
    "spent_tokens",
    metadata,
    Column("mac", String(64), primary_key=True),
    Column("item", _Id, nullable=False),
    Column("used", Float, nullable=False),
    Column("expires", Float, nullable=False),
    Index("spent_tokens_expires", "expires"),
    sqlite_with_rowid=False,
)

# The last digest of each who got one: of which time of the schedule, and up to which item.
digests = Table(
    "digests",
    metadata,
    Column("address", String(320), primary_key=True),  # in one case
    Column("slot", Float, nullable=False),
    Column("lease_until", Float, nullable=False),
    Column("covered", _Id, nullable=False),
    Column("sent", Float, nullable=False),
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


def _counted(name: str) -> Table:
    """How often an equal result was seen on a day (days since 1970, UTC) of a domain."""
    return Table(
        name,
        metadata,
        Column("day", Integer, primary_key=True, autoincrement=False),
        Column("domain", String(255), primary_key=True),
        Column("hash", String(64), primary_key=True),  # of `data`
        Column("data", Text, nullable=False),  # JSON
        Column("count", BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )


def _reported(name: str, longest: int) -> Table:
    """What became of the report about a day, for each destination; "" stands for the report itself."""
    return Table(
        name,
        metadata,
        Column("day", Integer, primary_key=True, autoincrement=False),
        Column("domain", String(255), primary_key=True),
        Column("destination", String(longest), primary_key=True),
        Column("state", String(16), nullable=False),
        Column("changed", Float, nullable=False),
        Column("note", Text, nullable=False),
        sqlite_with_rowid=False,
    )


# Results of DMARC, under a policy domain.
dmarc_observations = _counted("dmarc_observations")
dmarc_reports = _reported("dmarc_reports", 320)

# The policy record that a domain had, as seen last on that day.
dmarc_policies = Table(
    "dmarc_policies",
    metadata,
    Column("day", Integer, primary_key=True, autoincrement=False),
    Column("domain", String(255), primary_key=True),
    Column("record", Text, nullable=False),
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
    Column("server", Text, nullable=False, server_default=""),  # which gave the reply
    Column("tls", Text, nullable=False, server_default=""),  # of the session with it, "" in clear
    Column("ended", String(16), nullable=False, server_default=""),  # how, in a word of `deliveries`
    Index("queue_recipients_item", "item"),
    Index("queue_recipients_due", "state", "next_attempt"),
)

# What became in the end of each recipient of what was sent on. As long there as the journal's records.
deliveries = Table(
    "deliveries",
    metadata,
    Column("number", _Number, primary_key=True),
    Column("item", _Id, nullable=False),
    Column("address", Text, nullable=False),
    Column("ended", String(16), nullable=False),
    Column("hop", Text, nullable=False),
    Column("server", Text, nullable=False),
    Column("tls", Text, nullable=False),
    Column("reply", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("changed", Float, nullable=False),
    Index("deliveries_item", "item"),
)

# Who may hold leases. An owner whose row has expired, or is gone, holds none.
queue_owners = Table(
    "queue_owners",
    metadata,
    Column("owner", String(32), primary_key=True),
    Column("process", Text, nullable=False),
    Column("expires", Float, nullable=False),
)

# MTA-STS policies of recipient domains (RFC 8461); times are seconds since 1970.
mta_sts = Table(
    "mta_sts",
    metadata,
    Column("domain", String(255), primary_key=True),
    Column("ident", String(32), nullable=False),
    Column("policy", Text, nullable=False),  # JSON
    Column("fetched", Float, nullable=False),
    Column("expires", Float, nullable=False),
    Column("used", Float, nullable=False),
    sqlite_with_rowid=False,
)

# The best TLS that a host of the last weeks offered: clear, encrypted or verified.
tls_hosts = Table(
    "tls_hosts",
    metadata,
    Column("host", String(255), primary_key=True),
    Column("security", String(16), nullable=False),
    Column("seen", Float, nullable=False),
    sqlite_with_rowid=False,
)

# Results of TLS, towards a domain.
tls_results = _counted("tls_results")
tls_reports = _reported("tls_reports", 1_024)

# Who may see and review held mail on the web page and by the API, beside the operators of this machine.
people = Table(
    "people",
    metadata,
    Column("name", String(254), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("addresses", Text, nullable=False),  # JSON
    Column("domains", Text, nullable=False),  # JSON
    Column("password", Text, nullable=False),  # argon2id; "" if none is known here
    Column("changed", Float, nullable=False),
    sqlite_with_rowid=False,
)

# Logins that last: sessions of browsers and tokens of programs, known by the SHA-256 of their secret.
logins = Table(
    "logins",
    metadata,
    Column("hash", String(64), primary_key=True),
    Column("person", String(254), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("note", Text, nullable=False),  # where it came from, or what it is for
    Column("made", Float, nullable=False),
    Column("used", Float, nullable=False),
    Column("expires", Float, nullable=False),
    Index("logins_person", "person"),
    sqlite_with_rowid=False,
)
