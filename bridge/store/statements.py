"""The ledger's hot statements: hand-written SQL over the same connection (design 3.7).

Few and prepared: sqlite3 keeps each compiled. Rows travel as tuples in the order of COLUMNS; everything colder goes
through SQLAlchemy in ``ledger``.
"""

from __future__ import annotations

import json
from typing import Any

from bridge.models import Sms, State, to_json

COLUMNS = (
    "app_id", "id", "fingerprint", "state", "state_at", "attempt", "tried", "sequence", "request", "route", "parent",
    "recipient", "segments", "encoding", "expires_at", "deadline_at", "gateway", "port", "slot", "sim", "tid",
    "begun_at", "begun_n", "owner", "epoch", "code", "reason", "certain", "detail", "event_id", "event_type",
    "event_at",
)  # fmt: skip
_NAMES = ", ".join(COLUMNS)
_MARKS = ", ".join("?" * len(COLUMNS))

SAVE_SMS = f"INSERT INTO sms ({_NAMES}) VALUES ({_MARKS}) ON CONFLICT (app_id, id) DO UPDATE SET " + ", ".join(
    f"{name} = excluded.{name}" for name in COLUMNS[2:]
)
SMS_BY_KEY = f"SELECT {_NAMES} FROM sms WHERE app_id = ? AND id = ?"
SMS_BY_TID = f"SELECT {_NAMES} FROM sms WHERE gateway = ? AND tid = ? ORDER BY state_at DESC LIMIT 1"
SMS_OVERDUE = (
    f"SELECT {_NAMES} FROM sms WHERE deadline_at <= ? AND reason IS NULL "
    "AND state IN ('submitting', 'in_doubt', 'submitted', 'handed_back') ORDER BY deadline_at LIMIT ?"
)
DOUBTS = (
    "SELECT gateway, count(*), min(deadline_at) FROM sms "
    "WHERE state IN ('submitting', 'in_doubt', 'submitted') AND reason IS NOT NULL GROUP BY gateway"
)
SMS_OPEN = f"SELECT {_NAMES} FROM sms WHERE state IN ('submitting', 'in_doubt', 'submitted')"
SMS_SENT_TO = (
    f"SELECT {_NAMES} FROM sms WHERE substr(recipient, -7) = ? AND sim = ? "
    "AND state IN ('submitting', 'in_doubt', 'submitted', 'sent', 'failed', 'unknown') "
    "AND NOT (state = 'failed' AND certain) AND report IS NULL AND begun_at >= ? AND json_extract(request, '$.dr') "
    "ORDER BY begun_at LIMIT 20"
)
SMS_OPEN_AT = f"SELECT {_NAMES} FROM sms WHERE gateway = ? AND state IN ('submitting', 'in_doubt', 'submitted')"
SMS_UNTOLD_SINCE = (
    f"SELECT {_NAMES} FROM sms WHERE gateway = ? AND begun_n > ? "
    "AND (state = 'unknown' OR (state = 'sent' AND code IS NULL))"
)
MOVE_DEADLINES = (
    "UPDATE sms SET deadline_at = deadline_at + :by, state_at = state_at + :by, begun_at = begun_at + :by "
    "WHERE state IN ('submitting', 'in_doubt', 'submitted') AND NOT state_at BETWEEN :now - 1 AND :now"
)
NO_FUTURE = (
    "UPDATE sms SET deadline_at = deadline_at - (state_at - :now), begun_at = min(begun_at, :now), state_at = :now "
    "WHERE state IN ('submitting', 'in_doubt', 'submitted') AND state_at > :now"
)
DROP_SMS = "DELETE FROM sms WHERE app_id = ? AND id = ?"
NOTE_REPORT = "UPDATE sms SET report = ? WHERE app_id = ? AND id = ?"

PAST_BY_TID = (
    "SELECT app_id, id, attempt, recipient, port, slot, sim FROM past_attempt WHERE gateway = ? AND tid = ? "
    "ORDER BY ended_at DESC LIMIT 1"
)
SAVE_PAST = (
    "INSERT OR REPLACE INTO past_attempt "
    "(app_id, id, attempt, gateway, port, slot, sim, tid, recipient, code, reason, ended_at) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)

PUT_OUTBOX = "INSERT INTO outbox (at, exchange, routing_key, properties, body) VALUES (?, ?, ?, ?, ?)"
READ_OUTBOX = "SELECT n, exchange, routing_key, properties, body FROM outbox WHERE n > ? ORDER BY n LIMIT ?"
DROP_OUTBOX = "DELETE FROM outbox WHERE n = ?"
COUNT_OUTBOX = "SELECT count(at), min(at) FROM outbox"

SPEND = (
    "INSERT INTO budget (sim, level, at, hour, day, month) VALUES (?, ?, ?, 0, 0, 0) "
    "ON CONFLICT (sim) DO UPDATE SET level = excluded.level, at = excluded.at"
)
DEBTS = "SELECT sim, level, at FROM budget WHERE level < 0"

NEXT_TID = "SELECT next_tid, begun FROM gateway WHERE name = ?"
SET_NEXT_TID = "UPDATE gateway SET next_tid = ?, begun = ? WHERE name = ?"
BEGUN = "SELECT begun FROM gateway WHERE name = ?"
OPEN_TIDS = (
    "SELECT tid FROM sms WHERE gateway = ? AND tid BETWEEN ? AND ? AND state IN ('submitting', 'in_doubt', 'submitted')"
)

IS_BODY_KNOWN = "SELECT 1 FROM received WHERE gateway = ? AND body = ? AND at > ? LIMIT 1"
SAME_CONTENT = (
    "SELECT key, told, seen, device_at FROM received WHERE content = ? AND sender = ? "
    "AND (sim = ? OR (gateway = ? AND port = ?)) ORDER BY at"
)
SAVE_RECEIVED = (
    "INSERT INTO received (key, at, told, gateway, port, body, seen, sim, sender, content, device_at) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET at = excluded.at, told = excluded.told, "
    "body = CASE excluded.body WHEN x'' THEN body ELSE excluded.body END, seen = excluded.seen"
)

ACCOUNTS = "SELECT port, sim, ssrc, ok, failed, since, foreign_at FROM statistics WHERE gateway = ?"
OPEN_ACCOUNT = (
    "INSERT OR REPLACE INTO statistics (gateway, port, sim, ssrc, ok, failed, since, foreign_at) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
COUNT_RESULT = {
    "ok": "UPDATE statistics SET ok = ok + 1 WHERE gateway = ? AND port = ? AND since < ?",
    "failed": "UPDATE statistics SET failed = failed + 1 WHERE gateway = ? AND port = ? AND since < ?",
    "lost": "UPDATE statistics SET ssrc = '' WHERE gateway = ? AND port = ? AND since < ?",
}
_CLOSED_AROUND = "WHERE gateway = ? AND port = ? AND ? BETWEEN since + 1 AND until"
COUNT_RESULT_THERE = {
    "ok": f"UPDATE closed_account SET ok = ok - 1 {_CLOSED_AROUND}",
    "failed": f"UPDATE closed_account SET failed = failed - 1 {_CLOSED_AROUND}",
    "lost": f"DELETE FROM closed_account {_CLOSED_AROUND}",
}
CLOSED_ACCOUNTS = "SELECT port, since, until, ok, failed FROM closed_account WHERE gateway = ?"
CLOSE_ACCOUNT = "INSERT INTO closed_account (gateway, port, since, until, ok, failed) VALUES (?, ?, ?, ?, ?, ?)"
DROP_CLOSED_ACCOUNT = "DELETE FROM closed_account WHERE gateway = ? AND port = ? AND since = ?"
_NO_ACCOUNT = "INSERT INTO statistics (gateway, port, sim, ssrc, ok, failed, since, foreign_at) VALUES "
CLOSE_ACCOUNT_OF_ANOTHER = (
    f"{_NO_ACCOUNT} (?, ?, ?, '', 0, 0, 0, NULL) "
    "ON CONFLICT DO UPDATE SET sim = excluded.sim, ssrc = '' WHERE sim <> excluded.sim"
)
NOTE_FOREIGN = f"{_NO_ACCOUNT} (?, ?, '', '', 0, 0, 0, ?) ON CONFLICT DO UPDATE SET foreign_at = excluded.foreign_at"

INBOX_CURSOR = "SELECT ssrc, next_sms FROM gateway WHERE name = ?"
SET_INBOX_CURSOR = "UPDATE gateway SET ssrc = ?, next_sms = ? WHERE name = ?"

HOLD_ORPHAN = (
    "INSERT INTO orphan (at, gateway, port, sim, recipient, code, device_at, event_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
ORPHANS = (
    "SELECT n, gateway, port, sim, recipient, code, device_at, event_id FROM orphan WHERE n > ? ORDER BY n LIMIT ?"
)
COUNT_ORPHANS = "SELECT count(*) FROM orphan"
DROP_ORPHAN = "DELETE FROM orphan WHERE n = ?"


_FINAL = "('sent', 'failed', 'expired', 'rejected', 'unknown')"
SLIM_SMS = (
    "UPDATE sms SET request = NULL, tried = NULL, detail = NULL, code = NULL, reason = NULL, gateway = NULL, "
    "port = NULL, slot = NULL, sim = NULL, tid = NULL, recipient = '' WHERE (app_id, id) IN "
    f"(SELECT app_id, id FROM sms WHERE state_at >= ? AND state_at < ? AND request IS NOT NULL AND state IN {_FINAL} "
    "ORDER BY state_at LIMIT ?) RETURNING state_at"
)
FORGET_SMS = (
    "DELETE FROM sms WHERE (app_id, id) IN "
    f"(SELECT app_id, id FROM sms WHERE state_at < ? AND state IN {_FINAL} LIMIT ?)"
)
FORGET_PAST = (
    "DELETE FROM past_attempt WHERE (app_id, id, attempt) IN "
    "(SELECT app_id, id, attempt FROM past_attempt AS past WHERE ended_at < ? AND NOT EXISTS "
    "(SELECT 1 FROM sms WHERE sms.app_id = past.app_id AND sms.id = past.id AND sms.state = 'handed_back') LIMIT ?)"
)
PUT_TOMBSTONE = (
    "INSERT INTO tombstone (app_id, id, parent, meta_key, meta_value, at, until) VALUES (?, ?, ?, ?, ?, ?, ?)"
)
ANY_TOMBSTONE = "SELECT 1 FROM tombstone LIMIT 1"
_CANCELLED = "SELECT 1 FROM tombstone WHERE app_id = ? AND at >= ? AND "
CANCELLED_BY_ID = f"{_CANCELLED} id = ? LIMIT 1"
CANCELLED_BY_PARENT = f"{_CANCELLED} parent = ? LIMIT 1"
CANCELLED_BY_METADATA = f"{_CANCELLED} meta_key = ? AND meta_value = ? LIMIT 1"
FORGET_TOMBSTONES = "DELETE FROM tombstone WHERE n IN (SELECT n FROM tombstone WHERE until < ? LIMIT ?)"
FORGET_RECEIVED = "DELETE FROM received WHERE key IN (SELECT key FROM received WHERE at < ? LIMIT ?)"


def row_of(sms: Sms) -> tuple[Any, ...]:
    """The tuple that SAVE_SMS takes."""
    return (
        sms.app_id, sms.id, sms.fingerprint, sms.state.value, sms.state_at, sms.attempt,
        to_json(sms.tried) if sms.tried else None, sms.sequence, sms.request, sms.route, sms.parent, sms.recipient,
        sms.segments, sms.encoding, sms.expires_at, sms.deadline_at, sms.gateway, sms.port, sms.slot, sms.sim, sms.tid,
        sms.begun_at, sms.begun_n, sms.owner, sms.epoch, sms.code, sms.reason, sms.certain,
        to_json(sms.detail) if sms.detail else None, sms.event_id, sms.event_type, sms.event_at,
    )  # fmt: skip


def sms_of(row: tuple[Any, ...]) -> Sms:
    """The inverse of ``row_of``, for rows selected in the order of COLUMNS."""
    told = dict(zip(COLUMNS, row, strict=True))
    told["state"] = State(told["state"])
    told["tried"] = tuple(json.loads(told["tried"])) if told["tried"] else ()
    told["detail"] = json.loads(told["detail"]) if told["detail"] else {}
    told["certain"] = None if told["certain"] is None else bool(told["certain"])
    return Sms(**told)
