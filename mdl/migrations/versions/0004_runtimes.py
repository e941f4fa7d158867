"""What loads a mirror, where that is not all that loads its format."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("mirrors", sa.Column("runtimes", sa.Text))
    # The packaged rows are read again: the same edition names runtimes now.
    op.execute("UPDATE sources SET version = '0' WHERE name = 'packaged'")


def downgrade() -> None:
    # A catalogue is restored from the backup made before its upgrade, not walked back.
    raise RuntimeError("restore mdl.db.backup-* instead")
