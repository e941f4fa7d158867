"""`wish` becomes `format`; a mirror's old `format`, what its weights are, becomes `weights`."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # RENAME COLUMN changes no row, and renames in indexes and constraints too.
    op.alter_column("mirrors", "format", new_column_name="weights")
    op.alter_column("mirrors", "wish", new_column_name="format")
    op.alter_column("resolution_log", "wish", new_column_name="format")


def downgrade() -> None:
    # A catalogue is restored from the backup made before its upgrade, not walked back.
    raise RuntimeError("restore mdl.db.backup-* instead")
