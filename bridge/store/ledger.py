"""What the bridge remembers: verbs of our domain over one SQLite file (design 2.1, 3.7).

``Ledger.write`` runs a plain function over a ``Transaction`` and answers when it is durable; writers that come
together share a commit. The gate stands here, because nothing may end or begin an SMS except inside the transaction
that reads its row. Decisions about verdicts and reports are the callers': they hand in functions.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import random
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal, Protocol, TypeVar

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from bridge.errors import LedgerLocked
from bridge.models import Cancel, Key, Publication, Sms, SmsRejected, State, publication_of, tell, tell_again
from bridge.store import schema, upkeep
from bridge.store import statements as sql
from bridge.store.upkeep import MAX_TID
from bridge.store.writer import Writer

T = TypeVar("T")
FIRST_SEQ, OVERTAKEN = 2, 5
SLIMMED_TO = "slimmed_to"
CANCELLED = "cancelled"
"""The reason of what ends by a tombstone."""


class Outcome(Protocol):
    """What a decision about one SMS comes to: its new row, what to tell, and the attempt that ended."""

    @property
    def sms(self) -> Sms:
        """The row as it shall be."""

    @property
    def publications(self) -> Sequence[Publication]:
        """Events and hand-backs, in order."""

    @property
    def past(self) -> Sms | None:
        """The row as it was, where its attempt ended without ending the SMS."""

    @property
    def counted(self) -> Literal["ok", "failed", "lost"] | None:
        """What the SIM's account is to note."""


Settled = TypeVar("Settled", bound=Outcome)


@dataclass(frozen=True, slots=True)
class PastAttempt:
    """An attempt that was handed back: late reports are matched against it too (design 2.1)."""

    app_id: str
    id: str
    attempt: int
    recipient: str
    port: int | None
    slot: int | None
    sim: str | None


@dataclass(frozen=True, slots=True)
class KnownSms:
    """An incoming SMS (or a delivery report) with the same place, sender and text that was told before."""

    key: str
    told: int
    seen: Mapping[str, int]
    device_at: float | None


@dataclass(frozen=True, slots=True)
class Account:
    """What the counters of the SIM in a port must show, for hand-overs after number ``since`` (see rules.evidence).

    One without a ``ssrc`` is closed: it belongs to no start of the device, and proves nothing.
    """

    sim: str
    ssrc: str
    ok: int
    failed: int
    since: int
    foreign_at: float | None = None


@dataclass(frozen=True, slots=True)
class ClosedAccount:
    """What a SIM's counters showed of the hand-overs ``since + 1`` to ``until``, less what was told of them.

    A moment that is over: neither what is handed over later nor a new start of the device changes it.
    """

    port: int
    since: int
    until: int
    ok: int
    failed: int


@dataclass(frozen=True, slots=True)
class Orphan:
    """A delivery report that may be about an SMS in doubt: held until that is settled."""

    n: int
    gateway: str
    port: int | None
    sim: str
    recipient: str
    code: int | None
    device_at: float | None
    event_id: str


class Transaction:
    """The verbs inside one transaction; lives as long as the function that it is given to."""

    def __init__(self, connection: sa.Connection) -> None:
        self.connection = connection
        self._raw = _raw(connection)

    # --- an SMS -----------------------------------------------------------------------------------------------------

    def sms(self, app_id: str, sms_id: str) -> Sms | None:
        """The SMS of this key."""
        row = self._raw.execute(sql.SMS_BY_KEY, (app_id, sms_id)).fetchone()
        return sql.sms_of(row) if row else None

    def sms_of_task(self, gateway: str, tid: int) -> Sms | None:
        """The SMS whose attempt in hand has this task id at this gateway; the newest where ids have wrapped."""
        row = self._raw.execute(sql.SMS_BY_TID, (gateway, tid)).fetchone()
        return sql.sms_of(row) if row else None

    def past_of_task(self, gateway: str, tid: int) -> PastAttempt | None:
        """The handed-back attempt that had this task id."""
        row = self._raw.execute(sql.PAST_BY_TID, (gateway, tid)).fetchone()
        return PastAttempt(*row) if row else None

    def open_sms(self) -> list[Sms]:
        """All that a device may still hold: submitting, in doubt, submitted."""
        return [sql.sms_of(row) for row in self._raw.execute(sql.SMS_OPEN)]

    def open_at(self, gateway: str) -> list[Sms]:
        """All that this gateway may still hold."""
        return [sql.sms_of(row) for row in self._raw.execute(sql.SMS_OPEN_AT, (gateway,))]

    def untold_at(self, gateway: str, since: int) -> list[Sms]:
        """A gateway's hand-overs after this number that ended without its word: given up, or told by the network."""
        return [sql.sms_of(row) for row in self._raw.execute(sql.SMS_UNTOLD_SINCE, (gateway, since))]

    def doubts(self) -> dict[str, tuple[int, float]]:
        """Per gateway how many SMS are in doubt, and the earliest deadline among them."""
        return {gateway: (count, deadline_at) for gateway, count, deadline_at in self._raw.execute(sql.DOUBTS)}

    def overdue(self, now: float, limit: int) -> list[Sms]:
        """Those that are not in doubt and whose deadline has passed, the most overdue first."""
        return [sql.sms_of(row) for row in self._raw.execute(sql.SMS_OVERDUE, (now, limit))]

    def sent_to(self, recipient_tail: str, sim: str, since: float) -> list[Sms]:
        """All that may have gone out by this SIM, begun since then, to a number with these last 7 digits, oldest first,
        which asked for a delivery report and have none so far.
        """
        return [sql.sms_of(row) for row in self._raw.execute(sql.SMS_SENT_TO, (recipient_tail, sim, since))]

    def note_report(self, sms: Sms, code: int) -> None:
        """Remember that a delivery report matched this SMS."""
        self._raw.execute(sql.NOTE_REPORT, (code, sms.app_id, sms.id))

    def save(self, sms: Iterable[Sms]) -> None:
        """Write whole rows."""
        self._raw.executemany(sql.SAVE_SMS, [sql.row_of(one) for one in sms])

    def forget(self, key: Key) -> None:
        """Know nothing of this SMS any more."""
        self._raw.execute(sql.DROP_SMS, key)

    def settle(self, outcomes: Sequence[Outcome], now: float) -> None:
        """Write what decisions came to: rows, ended attempts and what is to be published, all or nothing."""
        self.save(outcome.sms for outcome in outcomes)
        past = [outcome.past for outcome in outcomes if outcome.past is not None]
        self._raw.executemany(
            sql.SAVE_PAST,
            [
                (p.app_id, p.id, p.attempt, p.gateway, p.port, p.slot, p.sim, p.tid, p.recipient, p.code, p.reason, now)
                for p in past
            ],
        )
        for outcome in outcomes:
            if outcome.counted is not None:
                of = outcome.sms
                for count in (sql.COUNT_RESULT, sql.COUNT_RESULT_THERE):
                    self._raw.execute(count[outcome.counted], (of.gateway, of.port, of.begun_n or 0))
        self.publish([publication for outcome in outcomes for publication in outcome.publications], now)

    def decide(
        self, rows: Iterable[Sms], decide: Callable[[Sms, float], Settled | None], now: float
    ) -> list[tuple[Sms, Settled]]:
        """Settle what ``decide`` makes of the rows as they are by now; those that have moved on are passed over."""
        pairs: list[tuple[Sms, Settled]] = []
        for seen in rows:
            row = self.sms(seen.app_id, seen.id)
            if row is None or row.attempt != seen.attempt or row.state is not seen.state:
                continue
            outcome = decide(row, now)
            if outcome is not None:
                pairs.append((row, outcome))
        self.settle([outcome for _, outcome in pairs], now)
        return pairs

    # --- the gate (design 2.1) --------------------------------------------------------------------------------------

    def begin(self, gateway: str, candidates: Sequence[Sms], now: float) -> list[Sms | None]:
        """Take over the SMS that are to be handed to this gateway now.

        Each candidate comes with state ``submitting``; the answer has, in the same order, the row as begun with its
        task id, the row as ``rejected`` where it was cancelled, or None where the gate found a repeat or a conflict
        (told again, or told as such).
        """
        some_cancelled = self._raw.execute(sql.ANY_TOMBSTONE).fetchone() is not None
        taken: dict[Key, Sms] = {}
        admitted: list[Sms | None] = []
        for candidate in candidates:
            twin = taken.get(candidate.key)
            if twin is not None and twin.fingerprint != candidate.fingerprint:
                self.publish([_conflict(candidate, now)], now)
            one = self._admit(candidate, now) if twin is None else None
            if one is not None and some_cancelled and self.is_cancelled(one):
                ended = replace(one.without_place(), state=State.REJECTED, reason=CANCELLED)
                one = self._end(ended, "sms.rejected", now, reason=CANCELLED)
            elif one is not None:
                taken[candidate.key] = one
            admitted.append(one)
        numbers = iter(self._take_numbers(gateway, len(taken)))
        answer = [replace(one, **next(numbers)) if one and one.state.open else one for one in admitted]
        begun = [one for one in answer if one and one.state.open]
        self.save(begun)
        self._raw.executemany(sql.CLOSE_ACCOUNT_OF_ANOTHER, [(gateway, one.port, one.sim) for one in begun if one.sim])
        return answer

    def refuse(
        self, candidate: Sms, kind: Literal["sms.expired", "sms.rejected", "sms.failed"], now: float, **detail: Any
    ) -> bool:
        """End an SMS that is not handed over now; False where the gate found a repeat or a conflict instead."""
        admitted = self._admit(candidate, now)
        if admitted is None:
            return False
        self._end(admitted, kind, now, **detail)
        return True

    def _end(self, sms: Sms, kind: str, now: float, **detail: Any) -> Sms:
        """End one that the gate has let pass, without a hand-over."""
        told, publication = tell(sms, kind, now, **detail)
        self.save([told])
        self.publish([publication], now)
        return told

    def cancel(self, cancel: Cancel, app_id: str, now: float, until: float) -> None:
        """Write a tombstone for what ``cancel`` names of this producer's, asked until now."""
        meta_key, meta_value = next(iter(cancel.metadata.items()), (None, None))
        self._raw.execute(sql.PUT_TOMBSTONE, (app_id, cancel.id, cancel.parent, meta_key, meta_value, now, until))

    def is_cancelled(self, sms: Sms) -> bool:
        """Whether a tombstone stands for this SMS.

        By its metadata only where its ``timestamp`` says that it was asked before: others may carry the same later.
        """
        asked = sms.asked
        asked_at = asked.get("ts", 0.0)
        looks: list[tuple[str, tuple[Any, ...]]] = [(sql.CANCELLED_BY_ID, (sms.app_id, asked_at, sms.id))]
        if sms.parent is not None:
            looks.append((sql.CANCELLED_BY_PARENT, (sms.app_id, asked_at, sms.parent)))
        if "ts" in asked:
            pairs = (asked.get("meta") or {}).items()
            looks += [(sql.CANCELLED_BY_METADATA, (sms.app_id, asked_at, *pair)) for pair in pairs]
        return any(self._raw.execute(*look).fetchone() for look in looks)

    def _admit(self, candidate: Sms, now: float) -> Sms | None:
        row = self.sms(candidate.app_id, candidate.id)
        if row is None:
            return candidate
        if row.fingerprint != candidate.fingerprint:
            self.publish([_conflict(candidate, now)], now)
            return None
        if row.state is State.HANDED_BACK and candidate.attempt == row.attempt + 1:
            return replace(candidate, sequence=row.sequence, tried=tuple(dict.fromkeys(row.tried + candidate.tried)))
        if again := tell_again(row):
            self.publish([again], now)
        return None

    def _take_numbers(self, gateway: str, count: int) -> list[dict[str, Any]]:
        """The next task ids of a gateway (int32, wrapping, never one that an open row holds), and the numbers of these
        hand-overs, which only rise.
        """
        if count == 0:
            return []
        first, begun = self._raw.execute(sql.NEXT_TID, (gateway,)).fetchone()
        tids: list[int] = []
        while len(tids) < count:
            last = min(first + count - len(tids) - 1, MAX_TID)
            held = {tid for (tid,) in self._raw.execute(sql.OPEN_TIDS, (gateway, first, last))}
            tids += [tid for tid in range(first, last + 1) if tid not in held]
            first = last + 1 if last < MAX_TID else 1
        self._raw.execute(sql.SET_NEXT_TID, (first, begun + count, gateway))
        return [{"tid": tid, "begun_n": n} for n, tid in enumerate(tids, begun + 1)]

    def spend(self, levels: Mapping[str, tuple[float, float]]) -> None:
        """Note what is left in the SIMs' buckets: {sim: (level in segments, unix seconds)}."""
        self._raw.executemany(sql.SPEND, [(sim, level, at) for sim, (level, at) in levels.items()])

    def debts(self) -> dict[str, tuple[float, float]]:
        """What SIMs owed for messages longer than their burst: {sim: (level below zero, unix seconds of that)}."""
        return {sim: (level, at) for sim, level, at in self._raw.execute(sql.DEBTS)}

    # --- outbox -----------------------------------------------------------------------------------------------------

    def publish(self, publications: Sequence[Publication], now: float) -> None:
        """Put into the outbox; the relay tells it."""
        self._raw.executemany(
            sql.PUT_OUTBOX, [(now, p.exchange, p.routing_key, p.properties(), p.body) for p in publications]
        )

    def read_outbox(self, after: int, limit: int) -> list[tuple[int, Publication]]:
        """The oldest rows with a number above ``after``."""
        return [(n, Publication.load(*told)) for n, *told in self._raw.execute(sql.READ_OUTBOX, (after, limit))]

    def drop_outbox(self, numbers: Iterable[int]) -> None:
        """Forget what the broker has confirmed."""
        self._raw.executemany(sql.DROP_OUTBOX, [(n,) for n in numbers])

    def outbox_facts(self) -> tuple[int, float | None]:
        """How many rows wait to be published, and since when the oldest does."""
        count, oldest = self._raw.execute(sql.COUNT_OUTBOX).fetchone()
        return count, oldest

    # --- incoming SMS -----------------------------------------------------------------------------------------------

    def is_body_known(self, gateway: str, body_hash: bytes, since: float) -> bool:
        """Whether the very same body came from this gateway since then."""
        return self._raw.execute(sql.IS_BODY_KNOWN, (gateway, body_hash, since)).fetchone() is not None

    def same_content(self, *, content: bytes, sender: str, sim: str, gateway: str, port: int | None) -> list[KnownSms]:
        """What was told with this sender and text, of this card or from this port, oldest first."""
        rows = self._raw.execute(sql.SAME_CONTENT, (content, sender, sim, gateway, port))
        return [KnownSms(key, told, json.loads(seen), device_at) for key, told, seen, device_at in rows]

    def note_received(
        self, key: str, now: float, *, told: int, seen: Mapping[str, int], gateway: str, port: int | None, body: bytes,
        sim: str, sender: str, content: bytes, device_at: float | None,
    ) -> None:  # fmt: skip
        """Remember an incoming SMS or report by its dedupe key; an empty ``body`` leaves the hash that is known."""
        self._raw.execute(
            sql.SAVE_RECEIVED,
            (key, now, told, gateway, port, body, json.dumps(seen), sim, sender, content, device_at),
        )

    def inbox_cursor(self, gateway: str) -> tuple[str | None, int]:
        """Where reading the device's inbox goes on: (its start, first id that was not read); None: never read."""
        ssrc, next_sms = self._raw.execute(sql.INBOX_CURSOR, (gateway,)).fetchone()
        return ssrc, next_sms or 1

    def set_inbox_cursor(self, gateway: str, ssrc: str, next_sms: int) -> None:
        """Everything before ``next_sms`` has been read, of the inbox since this start of the device."""
        self._raw.execute(sql.SET_INBOX_CURSOR, (ssrc, next_sms, gateway))

    # --- evidence ---------------------------------------------------------------------------------------------------

    def accounts(self, gateway: str) -> dict[int, Account]:
        """The accounts of the SIMs in a gateway's ports."""
        return {port: Account(*told) for port, *told in self._raw.execute(sql.ACCOUNTS, (gateway,))}

    def begun(self, gateway: str) -> int:
        """How many hand-overs to this gateway were begun so far."""
        count: int = self._raw.execute(sql.BEGUN, (gateway,)).fetchone()[0]
        return count

    def open_account(self, gateway: str, port: int, account: Account) -> None:
        """Begin a port's account anew."""
        self._raw.execute(
            sql.OPEN_ACCOUNT,
            (gateway, port, account.sim, account.ssrc, account.ok, account.failed, account.since, account.foreign_at),
        )

    def closed_accounts(self, gateway: str) -> list[ClosedAccount]:
        """Those of a gateway that are not settled yet."""
        return [ClosedAccount(*row) for row in self._raw.execute(sql.CLOSED_ACCOUNTS, (gateway,))]

    def close_account(self, gateway: str, closed: ClosedAccount) -> None:
        """Put aside what a port's account comes to; `open_account` begins the next."""
        told = (gateway, closed.port, closed.since, closed.until, closed.ok, closed.failed)
        self._raw.execute(sql.CLOSE_ACCOUNT, told)

    def drop_closed_account(self, gateway: str, closed: ClosedAccount) -> None:
        """It has nothing more to say."""
        self._raw.execute(sql.DROP_CLOSED_ACCOUNT, (gateway, closed.port, closed.since))

    def note_foreign(self, gateway: str, port: int, now: float) -> None:
        """Somebody else sends with this port's SIM: its counters prove nothing for a while."""
        self._raw.execute(sql.NOTE_FOREIGN, (gateway, port, now))

    def hold_orphan(self, orphan: Orphan, now: float) -> None:
        """Keep a delivery report until the SMS that it may be about is settled."""
        self._raw.execute(
            sql.HOLD_ORPHAN,
            (
                now, orphan.gateway, orphan.port, orphan.sim, orphan.recipient, orphan.code, orphan.device_at,
                orphan.event_id,
            ),
        )  # fmt: skip

    def orphans(self, after: int, limit: int) -> list[Orphan]:
        """The oldest delivery reports that wait, of those with a number above ``after``."""
        return [Orphan(*row) for row in self._raw.execute(sql.ORPHANS, (after, limit))]

    def count_orphans(self) -> int:
        """How many delivery reports wait."""
        count: int = self._raw.execute(sql.COUNT_ORPHANS).fetchone()[0]
        return count

    def drop_orphan(self, n: int) -> None:
        """It waits no longer."""
        self._raw.execute(sql.DROP_ORPHAN, (n,))

    def move_clock(self, by: float, now: float) -> None:
        """The machine's clock was set to ``now``: stored moments of open SMS go with it, but the newest, told by it."""
        self._raw.execute(sql.MOVE_DEADLINES, {"by": by, "now": now})

    def deny_future(self, now: float) -> None:
        """A stored moment in the future counts as now (design 3.7)."""
        self._raw.execute(sql.NO_FUTURE, {"now": now})

    # --- gateways, meta, age ----------------------------------------------------------------------------------------

    def boot_of(self, gateway: str, seq: int) -> tuple[int, int | None]:
        """Note the device's sequence number: (restarts seen so far, previous number where this one began anew).

        A number that is only a little lower has been overtaken on its way.
        """
        table = schema.gateway
        row = self.connection.execute(sa.select(table.c.seq, table.c.boot).where(table.c.name == gateway)).one()
        restarted = row.seq is not None and (seq <= FIRST_SEQ < row.seq or seq < row.seq - OVERTAKEN)
        boot = row.boot + restarted
        if row.seq is not None and seq < row.seq and not restarted:
            return boot, None
        self.connection.execute(sa.update(table).where(table.c.name == gateway).values(seq=seq, boot=boot))
        return boot, row.seq if restarted else None

    def boots(self) -> dict[str, int]:
        """Restarts seen so far, per gateway."""
        rows = self.connection.execute(sa.select(schema.gateway.c.name, schema.gateway.c.boot))
        return {name: boot for name, boot in rows}  # noqa: C416  dict() cannot read typed rows

    def meta(self, name: str) -> str | None:
        """A remembered word about the ledger itself."""
        return self.connection.scalar(sa.select(schema.meta.c.value).where(schema.meta.c.name == name))

    def set_meta(self, name: str, value: str) -> None:
        """Remember a word about the ledger itself."""
        self.connection.execute(
            sa.text("INSERT OR REPLACE INTO meta (name, value) VALUES (:n, :v)"), {"n": name, "v": value}
        )

    def prune(self, now: float, *, full_rows_s: float, horizon_s: float, received_s: float, limit: int) -> int:
        """Forget and slim what is old enough, at most ``limit`` rows of each kind; the most that any kind took."""
        forgotten = (
            self._raw.execute(statement, (now - age_s, limit)).rowcount
            for statement, age_s in (
                (sql.FORGET_SMS, horizon_s),
                (sql.FORGET_PAST, full_rows_s),
                (sql.FORGET_RECEIVED, received_s),
                (sql.FORGET_TOMBSTONES, 0.0),
            )
        )
        return max(*forgotten, self._slim(now - horizon_s, now - full_rows_s, limit))

    def _slim(self, since: float, until: float, limit: int) -> int:
        """Slim the oldest final rows of that time.

        How far earlier slices came is remembered: to look again at all that is slim already would hold the loop.
        """
        since = max(since, float(self.meta(SLIMMED_TO) or 0))
        moments = [at for (at,) in self._raw.execute(sql.SLIM_SMS, (since, until, limit)).fetchall()]
        if moments:
            self.set_meta(SLIMMED_TO, str(max(moments)))
        return len(moments)

    def count_states(self) -> dict[str, int]:
        """How many SMS are in each state."""
        counts = sa.select(schema.sms.c.state, sa.func.count()).group_by(schema.sms.c.state)
        return {state: count for state, count in self.connection.execute(counts)}  # noqa: C416


class Ledger:
    """One SQLite file, its lock, its writer."""

    def __init__(self, engine: sa.Engine, writer: Writer, lock: IO[str]) -> None:
        self._engine = engine
        self._writer = writer
        self._lock = lock

    @classmethod
    async def open(
        cls,
        path: Path,
        gateways: Sequence[str],
        *,
        lock_wait_s: float,
        on_commit: Callable[[float], None] = lambda _: None,
        on_failure: Callable[[], None] = lambda: None,
    ) -> Ledger:
        """Lock, migrate (after a backup) and open the ledger at ``path``, creating it where it is new.

        Raises LedgerLocked when another process keeps the lock longer than ``lock_wait_s``, LedgerUnusable when the
        file cannot be opened, is damaged or of a future version.
        """
        lock = await _lock(path, lock_wait_s)
        preparing = asyncio.ensure_future(asyncio.to_thread(_prepare, path, gateways))
        try:
            engine = await asyncio.shield(preparing)
        except BaseException:
            await asyncio.gather(preparing, return_exceptions=True)  # its thread goes on: nobody may migrate beside it
            lock.close()
            raise
        return cls(engine, Writer(engine, on_commit=on_commit, on_failure=on_failure), lock)

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Run ``work`` in a transaction; the answer means that it is durable. Raises LedgerUnavailable."""
        return await self._writer.run(lambda connection: work(Transaction(connection)))

    @property
    def failing(self) -> bool:
        """Whether the last transaction could not be stored."""
        return self._writer.failing

    async def close(self) -> None:
        """Commit what was handed in, close the file, release the lock."""
        await self._writer.close()
        await asyncio.to_thread(self._engine.dispose)
        self._lock.close()


def _conflict(candidate: Sms, now: float) -> Publication:
    """Same key, other fingerprint: told, and no state of any SMS (design 1.2)."""
    data = SmsRejected(
        app_id=candidate.app_id or None,
        route=candidate.route,
        reason="id_conflict",
        field="id",
        detail="this id was already used for another SMS (other recipient, text, routing key, ports or sim)",
        of_sms=False,
        to=candidate.recipient or None,
        metadata=candidate.asked.get("meta"),
    )
    return publication_of(
        data,
        event_id=f"conflict/{candidate.key}/{candidate.fingerprint.hex()}",
        at=now,
        subject=candidate.id,
        route=candidate.route,
        correlation_id=candidate.asked.get("cid"),
        copy_to=candidate.asked.get("reply_to"),
        traceparent=candidate.asked.get("tp"),
    )


async def _lock(path: Path, wait_s: float) -> IO[str]:
    """Take the lock beside the ledger, waiting for a predecessor that is still stopping."""
    try:
        file = await asyncio.to_thread(Path(f"{path}.lock").open, "w")
    except OSError as error:
        raise upkeep.unusable(path, error) from error
    give_up_at = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() >= give_up_at:
                file.close()
                raise LedgerLocked(
                    f"another bridge holds {path}.lock; stop it, or give this one its own store.path "
                    f"(waited {wait_s:g} s: store.lock_wait_s)"
                ) from None
            await asyncio.sleep(0.1)
        else:
            return file


def _prepare(path: Path, gateways: Sequence[str]) -> sa.Engine:
    """Connect, check, back up, migrate, and give each new gateway a random first task id."""
    engine = sa.create_engine(
        f"sqlite:///{path}",
        poolclass=sa.StaticPool,
        connect_args={"check_same_thread": False},
        hide_parameters=True,  # its errors are logged: they must not hold numbers and texts
    )
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    try:
        _migrate(engine, path)
        with engine.begin() as connection:
            for name in gateways:
                connection.execute(
                    sa.text("INSERT OR IGNORE INTO gateway (name, next_tid, boot, epoch) VALUES (:name, :tid, 0, 0)"),
                    {"name": name, "tid": random.randint(1, MAX_TID)},  # noqa: S311  unlikely, not secret
                )
    except (sqlite3.Error, SQLAlchemyError) as error:
        engine.dispose()
        told = error.orig if isinstance(error, DBAPIError) and error.orig else error
        raise upkeep.unusable(path, told) from error
    except BaseException:
        engine.dispose()
        raise
    return engine


def _on_connect(raw: sqlite3.Connection, _record: object) -> None:
    raw.isolation_level = None  # we say BEGIN ourselves: sqlite3's own opening of transactions breaks savepoints
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=4000", "cache_size=-16000"):
        raw.execute(f"PRAGMA {pragma}")


def _migrate(engine: sa.Engine, path: Path) -> None:
    """Refuse what is damaged or of the future, and bring the rest to the newest schema, after a copy of it."""
    newest, _ = upkeep.revisions()
    with engine.begin() as connection:
        upkeep.refuse_damage(path, _raw(connection))
        present = MigrationContext.configure(connection).get_current_revision()
    if present == newest:
        return
    if present is not None:
        upkeep.refuse_future(path, present)
        with engine.connect() as connection:
            upkeep.back_up(_raw(connection), path.with_name(f"{path.name}.before-{newest}"))
    config = Config()
    config.set_main_option("script_location", str(upkeep.MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _raw(connection: sa.Connection) -> sqlite3.Connection:
    raw = connection.connection.driver_connection
    assert isinstance(raw, sqlite3.Connection)
    return raw
