"""What repositories hold, by variant, and when the Hub's model tree was last read."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "variants",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("format", sa.Text, primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("variant", sa.Text, nullable=False),
        sa.Column("variant_key", sa.Text, nullable=False),
        sa.Column("bits", sa.Float),
        sa.Column("size", sa.BigInteger),
        sa.Column("files", sa.Text, nullable=False),
        sa.Column("method", sa.Text, nullable=False),
        sa.Column("branch", sa.Text, nullable=False),
        sa.Column("revision_commit", sa.Text),
        sa.Column("checked_at", sa.Float, nullable=False),
    )
    op.create_table(
        "model_trees",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("checked_at", sa.Float, nullable=False),
    )


def downgrade() -> None:
    # A catalogue is restored from the backup made before its upgrade, not walked back.
    raise RuntimeError("restore mdl.db.backup-* instead")
