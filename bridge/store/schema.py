"""The ledger's tables, as SQLAlchemy knows them (design 3.7).

The schema's history is in ``migrations``; this is its newest form. Moments are unix seconds (REAL), json columns hold
text. ``sms`` has one row per SMS; the unique index over (gateway, tid) covers open rows only, because task ids wrap.
"""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    text,
)

metadata = MetaData()

OPEN_STATES = text("state IN ('submitting', 'in_doubt', 'submitted')")
WAITING_STATES = text("state IN ('submitting', 'in_doubt', 'submitted', 'handed_back')")
REPORTABLE_STATES = text("state IN ('submitting', 'in_doubt', 'submitted', 'sent', 'failed', 'unknown')")
UNTOLD = text("state = 'unknown' OR (state = 'sent' AND code IS NULL)")

sms = Table(
    "sms",
    metadata,
    Column("app_id", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("state", Text, nullable=False),
    Column("state_at", Float, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("tried", Text),
    Column("sequence", Integer, nullable=False),
    Column("request", Text),
    Column("route", Text),
    Column("parent", Text),
    Column("recipient", Text, nullable=False),
    Column("segments", Integer, nullable=False),
    Column("encoding", Text),
    Column("expires_at", Float),
    Column("deadline_at", Float),
    Column("gateway", Text),
    Column("port", Integer),
    Column("slot", Integer),
    Column("sim", Text),
    Column("tid", Integer),
    Column("begun_at", Float),
    Column("owner", Text),
    Column("epoch", Integer, nullable=False),
    Column("code", Integer),
    Column("reason", Text),
    Column("certain", Boolean),
    Column("detail", Text),
    Column("event_id", Text),
    Column("event_type", Text),
    Column("event_at", Float),
    Column("report", Integer, comment="code of the delivery report that matched this SMS"),
    Column("begun_n", Integer, comment="number of this hand-over among its gateway's"),
    Index("sms_tid", "gateway", "tid", unique=True, sqlite_where=OPEN_STATES),
    Index("sms_task", "gateway", "tid", sqlite_where=text("tid IS NOT NULL")),
    Index("sms_deadline", "deadline_at", sqlite_where=WAITING_STATES),
    Index("sms_recipient", text("substr(recipient, -7)"), "sim", sqlite_where=REPORTABLE_STATES),
    Index("sms_untold", "gateway", "begun_n", sqlite_where=UNTOLD),
    Index("sms_age", "state_at"),
    sqlite_with_rowid=False,
)

past_attempt = Table(
    "past_attempt",
    metadata,
    Column("app_id", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("gateway", Text, nullable=False),
    Column("port", Integer),
    Column("slot", Integer),
    Column("sim", Text),
    Column("tid", Integer, nullable=False),
    Column("recipient", Text, nullable=False),
    Column("code", Integer),
    Column("reason", Text),
    Column("ended_at", Float, nullable=False),
    Index("past_attempt_tid", "gateway", "tid"),
    Index("past_attempt_age", "ended_at"),
    sqlite_with_rowid=False,
)

outbox = Table(
    "outbox",
    metadata,
    Column("n", Integer, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("exchange", Text, nullable=False),
    Column("routing_key", Text, nullable=False),
    Column("properties", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("outbox_at", "at"),  # small, so that counting all rows is cheap
    sqlite_autoincrement=True,  # the relay reads "after n": a number must never come again
)

received = Table(
    "received",
    metadata,
    Column("key", Text, primary_key=True),
    Column("at", Float, nullable=False),
    Column("told", Integer, nullable=False, comment="how often this key was told; above 1 it was a possible repeat"),
    Column("gateway", Text, nullable=False),
    Column("body", LargeBinary, nullable=False, comment="hash of the callback it came in"),
    Column("sim", Text, nullable=False),
    Column("sender", Text, nullable=False),
    Column("content", LargeBinary, nullable=False, comment="hash of the text"),
    Column("device_at", Float),
    Column("port", Integer),
    Column("seen", Text, nullable=False, server_default="{}", comment="how often each way brought it: {push: 1}"),
    Index("received_body", "gateway", "body"),
    Index("received_content", "content", "sender"),
    Index("received_age", "at"),
    sqlite_with_rowid=False,
)

orphan = Table(
    "orphan",
    metadata,
    Column("n", Integer, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("gateway", Text, nullable=False),
    Column("port", Integer),
    Column("sim", Text, nullable=False),
    Column("recipient", Text, nullable=False),
    Column("code", Integer),
    Column("device_at", Float),
    Column("event_id", Text, nullable=False, comment="of the event that tells of it where no SMS fits in the end"),
)

statistics = Table(
    "statistics",
    metadata,
    Column("gateway", Text, primary_key=True),
    Column("port", Integer, primary_key=True),
    Column("sim", Text, nullable=False),
    Column("ssrc", Text, nullable=False, comment="the start of the device that the counters belong to"),
    Column("ok", Integer, nullable=False, comment="what the device's counters must show by now"),
    Column("failed", Integer, nullable=False),
    Column("since", Integer, nullable=False, comment="the hand-overs up to this number are not in the account"),
    Column("foreign_at", Float, comment="when another submitter was last seen on it"),
    sqlite_with_rowid=False,
)

closed_account = Table(
    "closed_account",
    metadata,
    Column("gateway", Text, primary_key=True),
    Column("port", Integer, primary_key=True),
    Column("since", Integer, primary_key=True, comment="the hand-overs after this number are in the account"),
    Column("until", Integer, nullable=False, comment="up to this one"),
    Column("ok", Integer, nullable=False, comment="what the counters showed of them and nobody has told so far"),
    Column("failed", Integer, nullable=False),
    sqlite_with_rowid=False,
)

budget = Table(
    "budget",
    metadata,
    Column("sim", Text, primary_key=True),
    Column("level", Float, nullable=False),
    Column("at", Float, nullable=False),
    Column("hour", Integer, nullable=False),
    Column("day", Integer, nullable=False),
    Column("month", Integer, nullable=False),
    sqlite_with_rowid=False,
)

tombstone = Table(
    "tombstone",
    metadata,
    Column("n", Integer, primary_key=True, autoincrement=True),
    Column("app_id", Text),
    Column("id", Text),
    Column("parent", Text),
    Column("meta_key", Text),
    Column("meta_value", Text),
    Column("at", Float, nullable=False),
    Column("until", Float, nullable=False),
    Index("tombstone_id", "app_id", "id"),
    Index("tombstone_parent", "app_id", "parent"),
    Index("tombstone_metadata", "app_id", "meta_key", "meta_value"),
    Index("tombstone_age", "until"),
)

gateway = Table(
    "gateway",
    metadata,
    Column("name", Text, primary_key=True),
    Column("next_tid", Integer, nullable=False),
    Column("ssrc", Text),
    Column("seq", Integer),
    Column("boot", Integer, nullable=False, comment="restarts of the device that we have seen"),
    Column("next_sms", Integer),
    Column("owner", Text),
    Column("epoch", Integer, nullable=False),
    Column("begun", Integer, nullable=False, server_default="0", comment="hand-overs to this gateway so far"),
    sqlite_with_rowid=False,
)

meta = Table(
    "meta",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
    sqlite_with_rowid=False,
)
