"""The catalogue: sources, repositories, mirrors, access, local mirrors, the resolution log."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "sources",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("origin", sa.Text, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("licence", sa.Text, nullable=False),
        sa.Column("imported_at", sa.Float, nullable=False),
        sa.Column("rows", sa.Integer, nullable=False),
    )
    op.create_table(
        "repositories",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("repo_id", sa.Text, nullable=False),
        sa.Column("renamed_to", sa.Text),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("gated", sa.Text),
        sa.Column("format", sa.Text),
        sa.Column("base_model", sa.Text),
        sa.Column("revision_commit", sa.Text),
        sa.Column("licence", sa.Text),
        sa.Column("checked_at", sa.Float, nullable=False),
    )
    op.create_table(
        "mirrors",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("wish", sa.Text, nullable=False),
        sa.Column("repo_id", sa.Text, nullable=False),
        sa.Column("repo_key", sa.Text, nullable=False),
        sa.Column("format", sa.Text, nullable=False),
        sa.Column("variant", sa.Text, nullable=False),
        sa.Column("rank", sa.Integer, nullable=False),
        sa.Column("relation", sa.Text, nullable=False),
        sa.Column("source", sa.Text, sa.ForeignKey("sources.name"), nullable=False),
        sa.Column("status", sa.Text),
        sa.Column("status_reason", sa.Text),
        sa.Column("checked_at", sa.Float),
        sa.UniqueConstraint("key", "wish", "repo_key", "variant", "source", name="one_row_a_claim"),
    )
    op.create_index("mirrors_by_repository", "mirrors", ["repo_key", "format"])
    op.create_table(
        "bad_mirrors",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("repo_id", sa.Text, nullable=False),
        sa.Column("replacement", sa.Text, nullable=False),
        sa.Column("replacement_format", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("source", sa.Text, sa.ForeignKey("sources.name"), nullable=False),
    )
    op.create_table(
        "access",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("fingerprint", sa.Text, primary_key=True),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("checked_at", sa.Float, nullable=False),
    )
    op.create_table(
        "local_mirrors",
        sa.Column("path", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("repo_id", sa.Text, nullable=False),
        sa.Column("revision_commit", sa.Text, nullable=False),
        sa.Column("format", sa.Text, nullable=False),
        sa.Column("settings", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
    )
    op.create_index("local_mirrors_by_name", "local_mirrors", ["key", "revision_commit"])
    op.create_table(
        "resolution_log",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("purpose", sa.Text, nullable=False),
        sa.Column("requested", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("wish", sa.Text, nullable=False),
        sa.Column("repo_id", sa.Text, nullable=False),
        sa.Column("revision_commit", sa.Text),
        sa.Column("substituted", sa.Integer, nullable=False),
        sa.Column("rule", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("source_version", sa.Text),
    )
    op.create_index("resolution_log_by_name", "resolution_log", ["key", "at"])


def downgrade() -> None:
    # A catalogue is restored from the backup made before its upgrade, not walked back.
    raise RuntimeError("restore mdl.db.backup-* instead")
