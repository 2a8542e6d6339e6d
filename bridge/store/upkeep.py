"""Looking after the ledger's file: whether it is whole and keeps its invariants, and a copy of it (design 1.5, 3.7).

Nothing here writes to a ledger. What is wrong with a file becomes one sentence with its cure; a row that breaks an
invariant is named by its key, never by a number or a text. The verbs of the running bridge are in ``ledger``.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory

from bridge.errors import LedgerUnusable
from bridge.models import FINAL, OPEN, State

MAX_TID = 2**31 - 1
MIGRATIONS = Path(__file__).parent / "migrations"


# --- the invariants -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Invariant:
    """A rule that every row of the ledger keeps; ``broken`` is a query for the names of those that do not."""

    rule: str
    sentence: str
    broken: str


def _words(*words: str) -> str:
    return "(" + ", ".join(f"'{word}'" for word in sorted(words)) + ")"


_OPEN, _FINAL = _words(*OPEN), _words(*FINAL)
_ASKED = "CASE WHEN json_valid(request) THEN request ELSE '{}' END"
_SMS = "SELECT 'sms ' || app_id || ':' || id FROM sms WHERE"
_OUTBOX = "SELECT 'outbox ' || n FROM outbox WHERE"

INVARIANTS = (
    Invariant("state", "an SMS has a state that the bridge knows", f"{_SMS} state NOT IN {_words(*State)}"),
    Invariant(
        "placed",
        "an SMS that a device may hold has gateway, port, task id and deadline",
        f"{_SMS} state IN {_OPEN} AND (gateway IS NULL OR port IS NULL OR tid IS NULL OR deadline_at IS NULL)",
    ),
    Invariant(
        "own_tid",
        "no two SMS that a device may hold have the same task id at the same gateway",
        f"{_SMS} state IN {_OPEN} AND (gateway, tid) IN "
        f"(SELECT gateway, tid FROM sms WHERE state IN {_OPEN} GROUP BY gateway, tid HAVING count(*) > 1)",
    ),
    Invariant(
        "deadline",
        "an SMS that is not final has a deadline",
        f"{_SMS} state NOT IN {_FINAL} AND deadline_at IS NULL",
    ),
    Invariant(
        "whole",
        "an SMS that is not final holds its request, to be handed back word for word",
        f"{_SMS} state NOT IN {_FINAL} AND (json_extract({_ASKED}, '$.body') IS NULL "
        f"OR json_extract({_ASKED}, '$.rk') IS NULL)",
    ),
    Invariant(
        "told",
        "a final SMS has its event",
        f"{_SMS} state IN {_FINAL} AND (event_id IS NULL OR event_type IS NULL OR event_at IS NULL)",
    ),
    Invariant(
        "no_text",
        "a final SMS holds no text",
        f"{_SMS} state IN {_FINAL} AND json_extract({_ASKED}, '$.body') IS NOT NULL",
    ),
    Invariant(
        "past",
        "an SMS that was handed back keeps the attempt that ended, for late reports",
        f"{_SMS} state = 'handed_back' AND tid IS NOT NULL AND NOT EXISTS (SELECT 1 FROM past_attempt AS past "
        "WHERE past.app_id = sms.app_id AND past.id = sms.id AND past.attempt = sms.attempt)",
    ),
    Invariant("tid", f"a task id is 1 to {MAX_TID}", f"{_SMS} tid NOT BETWEEN 1 AND {MAX_TID}"),
    Invariant(
        "past_tid",
        f"a task id is 1 to {MAX_TID}",
        "SELECT 'past_attempt ' || app_id || ':' || id || '/' || attempt FROM past_attempt "
        f"WHERE tid NOT BETWEEN 1 AND {MAX_TID}",
    ),
    Invariant(
        "next_tid",
        f"a gateway's next task id is 1 to {MAX_TID}",
        f"SELECT 'gateway ' || name FROM gateway WHERE next_tid NOT BETWEEN 1 AND {MAX_TID}",
    ),
    Invariant(
        "outbox",
        "what is to be published has readable properties and a place to go",
        f"{_OUTBOX} exchange = '' OR json_extract(CASE WHEN json_valid(properties) THEN properties ELSE '{{}}' END, "
        "'$.ct') IS NULL",
    ),
    Invariant(
        "outbox_event",
        "an event that is to be published is JSON",
        f"{_OUTBOX} exchange = 'events' AND NOT json_valid(CAST(body AS TEXT))",
    ),
    Invariant(
        "account",
        "a SIM's account holds no number below zero",
        "SELECT 'statistics ' || gateway || '/' || port FROM statistics WHERE ok < 0 OR failed < 0 OR since < 0",
    ),
    Invariant(
        "closed_account",
        "a closed account does not end before it begins",
        "SELECT 'closed_account ' || gateway || '/' || port || '/' || since FROM closed_account "
        "WHERE since < 0 OR until < since",
    ),
    Invariant(
        "begun",
        "no hand-over has a number that its gateway has not given yet",
        f"{_SMS} EXISTS (SELECT 1 FROM gateway WHERE name = sms.gateway AND begun < sms.begun_n)",
    ),
    Invariant(
        "orphan",
        "a delivery report that waits has the event that tells of it in the end",
        "SELECT 'orphan ' || n FROM orphan WHERE event_id = ''",
    ),
    Invariant(
        "received",
        "what came in was told, and by which ways it came can be read",
        "SELECT 'received ' || substr(hex(body), 1, 12) FROM received WHERE told < 1 OR NOT json_valid(seen)",
    ),
)
"""Add one here and `ledger check` holds it."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One row that breaks one rule."""

    row: str
    rule: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Report:
    """What a check of a ledger found."""

    path: str
    schema: str
    rows: dict[str, int]
    bytes: int
    states: dict[str, int]
    overdue: int
    overdue_s: float
    violations: tuple[Violation, ...]


def check(path: Path, now: float) -> Report:
    """Look through a ledger, beside a running bridge too.

    Raises LedgerUnusable where there is none, where it is damaged, or where its schema is not this version's.
    """
    with _explained(path), closing(open_to_read(path)) as raw:
        refuse_damage(path, raw, whole=True)
        schema = _schema_of(path, raw)
        tables = [name for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        late, oldest = raw.execute(
            f"SELECT count(*), min(deadline_at) FROM sms WHERE state NOT IN {_FINAL} AND deadline_at <= ?",
            (now,),
        ).fetchone()
        return Report(
            path=str(path),
            schema=schema,
            rows={name: raw.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tables},
            bytes=sum(file.stat().st_size for file in (path, Path(f"{path}-wal")) if file.exists()),
            states=dict(raw.execute("SELECT state, count(*) FROM sms GROUP BY state ORDER BY state")),
            overdue=late,
            overdue_s=0.0 if oldest is None else now - oldest,
            violations=tuple(
                Violation(row, one.rule, one.sentence) for one in INVARIANTS for (row,) in raw.execute(one.broken)
            ),
        )


# --- the file -------------------------------------------------------------------------------------------------------


def open_to_read(path: Path) -> sqlite3.Connection:
    """A connection that cannot write, and leaves nothing beside the file.

    A ledger without a write-ahead log has no bridge at work: it is read as it lies there, because SQLite would make
    that log even for a reader, under the reader's user, and a bridge of another user could not start on it.
    """
    if not path.is_file():
        raise LedgerUnusable(f"there is no ledger {path} (see store.path; the bridge makes it at its first start)")
    how = "mode=ro" if Path(f"{path}-wal").exists() else "mode=ro&immutable=1"
    return sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True)


def refuse_damage(path: Path, raw: sqlite3.Connection, *, whole: bool = False) -> None:
    """Raise LedgerUnusable where SQLite finds its file damaged; with ``whole``, indexes are compared as well."""
    (found,) = raw.execute(f"PRAGMA {'integrity' if whole else 'quick'}_check(1)").fetchone()
    if found != "ok":
        raise _damaged(path, " ".join(found.split()))


def back_up(raw: sqlite3.Connection, target: Path) -> None:
    """A consistent copy of what this connection reads, while others write; it is whole or not there at all."""
    partial = target.with_name(f"{target.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(partial)) as copy:
            raw.backup(copy)
        with closing(open_to_read(partial)) as copy:
            refuse_damage(partial, copy)
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def copy_ledger(path: Path, target: Path, *, force: bool) -> int:
    """Back a ledger up into a new file; its size in bytes. Raises LedgerUnusable with the cure."""
    if target.is_dir():
        raise LedgerUnusable(f"{target} is a folder: name a file")
    if target.exists() and path.exists() and target.samefile(path):
        raise LedgerUnusable(f"{target} is the ledger itself: name another file")
    if target.exists() and not force:
        raise LedgerUnusable(f"{target} is there already: name another file, or replace it with --force")
    with _explained(path), closing(open_to_read(path)) as raw:
        refuse_damage(path, raw)
        _schema_of(path, raw)
        try:
            back_up(raw, target)
        except OSError as error:
            raise LedgerUnusable(f"{target} cannot be written: {error.strerror} (see the folder's owner)") from error
        except sqlite3.OperationalError as error:
            raise LedgerUnusable(f"{target} cannot be written: {error} (see its folder and its disk)") from error
    return target.stat().st_size


@cache
def revisions() -> tuple[str, frozenset[str]]:
    """The schema that this version works with, and all that it can migrate from (that one included)."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    scripts = ScriptDirectory.from_config(config)
    newest = scripts.get_current_head()
    assert newest is not None
    return newest, frozenset(script.revision for script in scripts.walk_revisions())


def _schema_of(path: Path, raw: sqlite3.Connection) -> str:
    newest, _ = revisions()
    versioned = raw.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone()
    row = raw.execute("SELECT version_num FROM alembic_version").fetchone() if versioned else None
    if row is None:
        raise LedgerUnusable(f"{path} is no ledger of the bridge (see store.path)")
    schema: str = row[0]
    refuse_future(path, schema)
    if schema != newest:
        raise LedgerUnusable(
            f"the ledger {path} is of an older version (its schema is {schema}, this one works with {newest}): "
            "start the bridge once, it keeps a copy and migrates it"
        )
    return schema


def refuse_future(path: Path, schema: str) -> None:
    """Raise LedgerUnusable for a schema that this version has never heard of."""
    newest, known = revisions()
    if schema not in known:
        raise LedgerUnusable(
            f"the ledger {path} was written by a newer version (its schema is {schema}, this one knows {newest}): "
            "install that version again, or put the backup from before its migration in place"
        )


# --- what is wrong, and the cure ------------------------------------------------------------------------------------

_READABLE = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_AUTH})
_DISK = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR})
_TAKEN = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


def unusable(path: Path, error: BaseException) -> LedgerUnusable:
    """What SQLite or the file system says of a ledger, as a sentence with the cure."""
    if isinstance(error, OSError):
        return LedgerUnusable(
            f"the ledger {path} cannot be opened: {error.strerror}: {error.filename} (see store.path: its folder must "
            "be there, and writable for the bridge's user)"
        )
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    if code in _READABLE:
        return LedgerUnusable(
            f"the ledger {path} cannot be opened: {error} (see store.path: its folder must be there, and file and "
            "folder writable for the bridge's user)"
        )
    if code in _DISK:
        return LedgerUnusable(f"the disk of {path} takes or gives nothing more: {error} (make room, or mend the disk)")
    if code in _TAKEN:
        return LedgerUnusable(f"another program holds {path}: {error} (end it; the bridge must be alone on its ledger)")
    return _damaged(path, str(error))


def _damaged(path: Path, what: str) -> LedgerUnusable:
    return LedgerUnusable(
        f"the ledger {path} is damaged: {what}. Put a backup in its place ({path}.before-*, or one of `ejoin-bridge "
        f"ledger backup`), or move it away to start an empty one (SMS in flight are then forgotten); move {path}-wal "
        f"and {path}-shm away with it"
    )


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise unusable(path, error) from error
