"""Evidence: accounts of the SIMs' counters, delivery reports that wait, and which way has brought an incoming SMS."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "statistics",
        sa.Column("gateway", sa.Text(), nullable=False),
        sa.Column("port", sa.Integer(), nullable=False),
        sa.Column("sim", sa.Text(), nullable=False),
        sa.Column("ssrc", sa.Text(), nullable=False, comment="the start of the device that the counters belong to"),
        sa.Column("ok", sa.Integer(), nullable=False, comment="what the device's counters must show by now"),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column(
            "since",
            sa.Integer(),
            nullable=False,
            comment="the hand-overs up to this number are not in the account",
        ),
        sa.Column("foreign_at", sa.Float(), nullable=True, comment="when another submitter was last seen on it"),
        sa.PrimaryKeyConstraint("gateway", "port"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "closed_account",
        sa.Column("gateway", sa.Text(), nullable=False),
        sa.Column("port", sa.Integer(), nullable=False),
        sa.Column("since", sa.Integer(), nullable=False, comment="the hand-overs after this number are in the account"),
        sa.Column("until", sa.Integer(), nullable=False, comment="up to this one"),
        sa.Column(
            "ok",
            sa.Integer(),
            nullable=False,
            comment="what the counters showed of them and nobody has told so far",
        ),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("gateway", "port", "since"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "orphan",
        sa.Column("n", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("gateway", sa.Text(), nullable=False),
        sa.Column("port", sa.Integer(), nullable=True),
        sa.Column("sim", sa.Text(), nullable=False),
        sa.Column("recipient", sa.Text(), nullable=False),
        sa.Column("code", sa.Integer(), nullable=True),
        sa.Column("device_at", sa.Float(), nullable=True),
        sa.Column(
            "event_id",
            sa.Text(),
            nullable=False,
            comment="of the event that tells of it where no SMS fits in the end",
        ),
        sa.PrimaryKeyConstraint("n"),
    )
    op.add_column("received", sa.Column("port", sa.Integer(), nullable=True))
    op.add_column(
        "received",
        sa.Column(
            "seen",
            sa.Text(),
            nullable=False,
            server_default="{}",
            comment="how often each way brought it: {push: 1}",
        ),
    )
    op.execute("UPDATE received SET seen = json_object(CASE via WHEN 'report' THEN 'push' ELSE via END, told)")
    op.drop_column("received", "via")
    op.add_column(
        "sms",
        sa.Column("begun_n", sa.Integer(), nullable=True, comment="number of this hand-over among its gateway's"),
    )
    op.add_column(
        "gateway",
        sa.Column(
            "begun", sa.Integer(), nullable=False, server_default="0", comment="hand-overs to this gateway so far"
        ),
    )
    op.drop_index("sms_recipient", "sms")
    op.create_index(
        "sms_recipient",
        "sms",
        [sa.text("substr(recipient, -7)"), "sim"],
        unique=False,
        sqlite_where=sa.text("state IN ('submitting', 'in_doubt', 'submitted', 'sent', 'failed', 'unknown')"),
    )
    op.create_index(
        "sms_untold",
        "sms",
        ["gateway", "begun_n"],
        unique=False,
        sqlite_where=sa.text("state = 'unknown' OR (state = 'sent' AND code IS NULL)"),
    )
