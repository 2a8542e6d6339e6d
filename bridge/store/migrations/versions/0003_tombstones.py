"""Tombstones are looked up by what they name: at every hand-over, while there are any."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_index("tombstone_id", "tombstone", ["app_id", "id"])
    op.create_index("tombstone_parent", "tombstone", ["app_id", "parent"])
    op.create_index("tombstone_metadata", "tombstone", ["app_id", "meta_key", "meta_value"])
    op.create_index("tombstone_age", "tombstone", ["until"])
