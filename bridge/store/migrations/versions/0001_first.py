"""The first form of the ledger."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "budget",
        sa.Column("sim", sa.Text(), nullable=False),
        sa.Column("level", sa.Float(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("hour", sa.Integer(), nullable=False),
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("month", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("sim"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "gateway",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("next_tid", sa.Integer(), nullable=False),
        sa.Column("ssrc", sa.Text(), nullable=True),
        sa.Column("seq", sa.Integer(), nullable=True),
        sa.Column("boot", sa.Integer(), nullable=False, comment="restarts of the device that we have seen"),
        sa.Column("next_sms", sa.Integer(), nullable=True),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "meta",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "outbox",
        sa.Column("n", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("exchange", sa.Text(), nullable=False),
        sa.Column("routing_key", sa.Text(), nullable=False),
        sa.Column("properties", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("n"),
        sqlite_autoincrement=True,
    )
    op.create_index("outbox_at", "outbox", ["at"], unique=False)
    op.create_table(
        "past_attempt",
        sa.Column("app_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("gateway", sa.Text(), nullable=False),
        sa.Column("port", sa.Integer(), nullable=True),
        sa.Column("slot", sa.Integer(), nullable=True),
        sa.Column("sim", sa.Text(), nullable=True),
        sa.Column("tid", sa.Integer(), nullable=False),
        sa.Column("recipient", sa.Text(), nullable=False),
        sa.Column("code", sa.Integer(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("ended_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("app_id", "id", "attempt"),
        sqlite_with_rowid=False,
    )
    op.create_index("past_attempt_age", "past_attempt", ["ended_at"], unique=False)
    op.create_index("past_attempt_tid", "past_attempt", ["gateway", "tid"], unique=False)
    op.create_table(
        "received",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column(
            "told",
            sa.Integer(),
            nullable=False,
            comment="how often this key was told; above 1 it was a possible repeat",
        ),
        sa.Column("gateway", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False, comment="hash of the callback it came in"),
        sa.Column("via", sa.Text(), nullable=False),
        sa.Column("sim", sa.Text(), nullable=False),
        sa.Column("sender", sa.Text(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False, comment="hash of the text"),
        sa.Column("device_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("key"),
        sqlite_with_rowid=False,
    )
    op.create_index("received_age", "received", ["at"], unique=False)
    op.create_index("received_body", "received", ["gateway", "body"], unique=False)
    op.create_index("received_content", "received", ["content", "sender"], unique=False)
    op.create_table(
        "sms",
        sa.Column("app_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("state_at", sa.Float(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("tried", sa.Text(), nullable=True),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("request", sa.Text(), nullable=True),
        sa.Column("route", sa.Text(), nullable=True),
        sa.Column("parent", sa.Text(), nullable=True),
        sa.Column("recipient", sa.Text(), nullable=False),
        sa.Column("segments", sa.Integer(), nullable=False),
        sa.Column("encoding", sa.Text(), nullable=True),
        sa.Column("expires_at", sa.Float(), nullable=True),
        sa.Column("deadline_at", sa.Float(), nullable=True),
        sa.Column("gateway", sa.Text(), nullable=True),
        sa.Column("port", sa.Integer(), nullable=True),
        sa.Column("slot", sa.Integer(), nullable=True),
        sa.Column("sim", sa.Text(), nullable=True),
        sa.Column("tid", sa.Integer(), nullable=True),
        sa.Column("begun_at", sa.Float(), nullable=True),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("code", sa.Integer(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("certain", sa.Boolean(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("event_id", sa.Text(), nullable=True),
        sa.Column("event_type", sa.Text(), nullable=True),
        sa.Column("event_at", sa.Float(), nullable=True),
        sa.Column("report", sa.Integer(), nullable=True, comment="code of the delivery report that matched this SMS"),
        sa.PrimaryKeyConstraint("app_id", "id"),
        sqlite_with_rowid=False,
    )
    op.create_index("sms_age", "sms", ["state_at"], unique=False)
    op.create_index(
        "sms_deadline",
        "sms",
        ["deadline_at"],
        unique=False,
        sqlite_where=sa.text("state IN ('submitting', 'in_doubt', 'submitted', 'handed_back')"),
    )
    op.create_index(
        "sms_recipient",
        "sms",
        [sa.text("substr(recipient, -7)"), "sim"],
        unique=False,
        sqlite_where=sa.text("state IN ('submitted', 'sent')"),
    )
    op.create_index("sms_task", "sms", ["gateway", "tid"], unique=False, sqlite_where=sa.text("tid IS NOT NULL"))
    op.create_index(
        "sms_tid",
        "sms",
        ["gateway", "tid"],
        unique=True,
        sqlite_where=sa.text("state IN ('submitting', 'in_doubt', 'submitted')"),
    )
    op.create_table(
        "tombstone",
        sa.Column("n", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("app_id", sa.Text(), nullable=True),
        sa.Column("id", sa.Text(), nullable=True),
        sa.Column("parent", sa.Text(), nullable=True),
        sa.Column("meta_key", sa.Text(), nullable=True),
        sa.Column("meta_value", sa.Text(), nullable=True),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("until", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("n"),
    )
