"""The catalogue's tables, for Alembic and for PostgreSQL.

Queries are written once as SQL with named parameters and run on sqlite3 and on SQLAlchemy alike
(see `mdl.store.database`); this module is imported only to create or upgrade a database.

Conventions: a `key` is a repository name in lower case; times are seconds since 1970 (UTC);
truth values are 0 and 1. No column ever holds a token.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

# Where rows came from, and which edition: importing it again replaces these rows alone.
sources = Table(
    "sources",
    metadata,
    Column("name", Text, primary_key=True),
    Column("version", Text, nullable=False),
    Column("origin", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("licence", Text, nullable=False),
    Column("imported_at", Float, nullable=False),
    Column("rows", Integer, nullable=False),
)

# What the Hub last said of a repository. `renamed_to` is set on the old name of a renamed one.
repositories = Table(
    "repositories",
    metadata,
    Column("key", Text, primary_key=True),
    Column("repo_id", Text, nullable=False),
    Column("renamed_to", Text),
    Column("state", Text, nullable=False),
    Column("gated", Text),
    Column("format", Text),
    Column("base_model", Text),
    Column("revision_commit", Text),
    Column("licence", Text),
    Column("checked_at", Float, nullable=False),
)

# To load the name `key` in `format`, take `repo_id`, whose weights are `weights`.
mirrors = Table(
    "mirrors",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("key", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("format", Text, nullable=False),
    Column("repo_id", Text, nullable=False),
    Column("repo_key", Text, nullable=False),
    Column("weights", Text, nullable=False),
    Column("variant", Text, nullable=False),
    Column("rank", Integer, nullable=False),
    Column("relation", Text, nullable=False),
    Column("source", Text, ForeignKey("sources.name"), nullable=False),
    Column("status", Text),
    Column("status_reason", Text),
    Column("checked_at", Float),
    Column("runtimes", Text),
    UniqueConstraint("key", "format", "repo_key", "variant", "source", name="one_row_a_claim"),
    Index("mirrors_by_repository", "repo_key", "weights"),
)

# Mirrors that must not be used, each with its replacement and the reason.
bad_mirrors = Table(
    "bad_mirrors",
    metadata,
    Column("key", Text, primary_key=True),
    Column("repo_id", Text, nullable=False),
    Column("replacement", Text, nullable=False),
    Column("replacement_format", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("source", Text, ForeignKey("sources.name"), nullable=False),
)

# What a token (by its keyed fingerprint) may read.
access = Table(
    "access",
    metadata,
    Column("key", Text, primary_key=True),
    Column("fingerprint", Text, primary_key=True),
    Column("state", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("checked_at", Float, nullable=False),
)

# 4-bit checkpoints that mdl wrote itself: upstream repository and commit -> folder.
local_mirrors = Table(
    "local_mirrors",
    metadata,
    Column("path", Text, primary_key=True),
    Column("key", Text, nullable=False),
    Column("repo_id", Text, nullable=False),
    Column("revision_commit", Text, nullable=False),
    Column("format", Text, nullable=False),
    Column("settings", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Index("local_mirrors_by_name", "key", "revision_commit"),
)

resolution_log = Table(
    "resolution_log",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("requested", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("format", Text, nullable=False),
    Column("repo_id", Text, nullable=False),
    Column("revision_commit", Text),
    Column("substituted", Integer, nullable=False),
    Column("rule", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("source_version", Text),
    Index("resolution_log_by_name", "key", "at"),
)

# What a repository's files are, by format and variant, the default variant first. `files` is JSON:
# [[path, size], …], empty where the whole repository is the variant.
variants = Table(
    "variants",
    metadata,
    Column("key", Text, primary_key=True),
    Column("format", Text, primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("variant", Text, nullable=False),
    Column("variant_key", Text, nullable=False),
    Column("bits", Float),
    Column("size", BigInteger),
    Column("files", Text, nullable=False),
    Column("method", Text, nullable=False),
    Column("branch", Text, nullable=False),
    Column("revision_commit", Text),
    Column("checked_at", Float, nullable=False),
)

# When the Hub's model tree of a name was last read into `mirrors`.
model_trees = Table(
    "model_trees",
    metadata,
    Column("key", Text, primary_key=True),
    Column("checked_at", Float, nullable=False),
)
