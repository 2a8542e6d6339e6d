"""The group commit: one connection, one transaction at a time, everything that has come together in it.

Callers hand in plain functions over the connection; whatever has come together by the time the last commit is done
shares the next transaction, each function in a savepoint of its own. A caller gets its answer only after the commit,
so an answer means durable. The functions run on the event loop (they touch memory); the commit, which waits for the
disk, runs in a thread (docs/decisions/0003). Nothing here knows what the tables are about.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, RootTransaction
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from bridge.errors import LedgerUnavailable

T = TypeVar("T")
MOST_PER_COMMIT = 64
LOCKED_FOR_S, LOOK_AGAIN_S = 5.0, 0.02
"""How long another process may hold the file, and how often we look."""

PROBE_BYTES = 16_384


@dataclass(slots=True)
class _Job:
    work: Callable[[Connection], Any]
    answer: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None


class Writer:
    """Runs functions over one connection, in order, many per commit.

    ``on_commit`` is told the seconds that each transaction took, ``on_failure`` each time one was lost; ``failing``
    is true from then on until there is room again, whatever reads or deletes meanwhile.
    """

    def __init__(self, engine: Engine, *, on_commit: Callable[[float], None], on_failure: Callable[[], None]) -> None:
        self._connection = engine.connect()
        raw = self._connection.connection.driver_connection
        assert isinstance(raw, sqlite3.Connection)
        self._raw = raw
        raw.execute("PRAGMA busy_timeout = 0")  # SQLite would wait with the whole event loop in its hands
        self._on_commit = on_commit
        self._on_failure = on_failure
        self._jobs: asyncio.Queue[_Job | None] = asyncio.Queue()
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._serving = asyncio.create_task(self._serve(), name="ledger")
        self._closed = False
        self.failing = False

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in a transaction and answer after its commit.

        Raises LedgerUnavailable where it could not be stored; what ``work`` itself raises is passed on, and only its
        own changes are undone.
        """
        if self._closed:
            raise LedgerUnavailable("the ledger is closed")
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._jobs.put_nowait(_Job(work, answer))
        result: T = await asyncio.shield(answer)  # a cancelled caller does not undo what is being stored
        return result

    async def close(self) -> None:
        """Commit what was handed in, then let go of the connection."""
        if self._closed:
            return
        self._closed = True
        self._jobs.put_nowait(None)
        await self._serving
        self._connection.close()
        self._disk.shutdown()

    async def _serve(self) -> None:
        while (job := await self._jobs.get()) is not None:
            batch = [job]
            while len(batch) < MOST_PER_COMMIT and not self._jobs.empty():
                following = self._jobs.get_nowait()
                if following is None:
                    self._jobs.put_nowait(None)
                    break
                batch.append(following)
            await self._transact(batch)
            _answer(batch)

    async def _transact(self, batch: list[_Job]) -> None:
        began = time.perf_counter()
        if self.failing:
            await asyncio.get_running_loop().run_in_executor(self._disk, self._probe)
        try:
            with await self._begin() as transaction:
                for job in batch:
                    self._one(job)
                    await asyncio.sleep(0)  # the rest of the bridge gets its turn between two jobs
                await asyncio.get_running_loop().run_in_executor(self._disk, transaction.commit)
        except (sqlite3.Error, SQLAlchemyError) as error:
            self._undo()
            self.failing = True
            self._on_failure()
            for job in batch:
                job.error = LedgerUnavailable(f"the ledger cannot store: {error}")
        self._on_commit(time.perf_counter() - began)

    async def _begin(self) -> RootTransaction:
        """Begin; a file that another process holds is waited for, once: what failed before is not waited for again."""
        give_up_at = time.monotonic() + (0.0 if self.failing else LOCKED_FOR_S)
        while True:
            try:
                return self._connection.begin()
            except OperationalError as error:
                self._undo()
                if not _is_locked(error) or time.monotonic() >= give_up_at:
                    raise
            await asyncio.sleep(LOOK_AGAIN_S)

    def _probe(self) -> None:
        """Whether there is room for another row. Runs in the thread, while nothing else uses the connection."""
        try:
            self._raw.execute("BEGIN IMMEDIATE")
            self._raw.execute("INSERT INTO meta (name, value) VALUES ('probe', zeroblob(?))", (PROBE_BYTES,))
            self._raw.execute("DELETE FROM meta WHERE name = 'probe'")
            self._raw.execute("COMMIT")
        except sqlite3.Error:
            if self._raw.in_transaction:
                self._raw.execute("ROLLBACK")
        else:
            self.failing = False

    def _undo(self) -> None:
        """A commit that failed leaves its transaction open, in SQLAlchemy and in SQLite: end both."""
        if (left := self._connection.get_transaction()) is not None:
            left.close()
        if self._raw.in_transaction:
            self._raw.execute("ROLLBACK")

    def _one(self, job: _Job) -> None:
        """One function in its savepoint; an error of the database itself ends the whole transaction."""
        self._raw.execute("SAVEPOINT job")
        try:
            job.result = job.work(self._connection)
        except (sqlite3.OperationalError, SQLAlchemyError):
            raise
        except Exception as error:  # noqa: BLE001  the caller gets it; its neighbours in the commit do not
            self._raw.execute("ROLLBACK TO job")
            job.error = error
        self._raw.execute("RELEASE job")


def _is_locked(error: OperationalError) -> bool:
    code = getattr(error.orig, "sqlite_errorcode", 0)
    return bool(code & 0xFF == sqlite3.SQLITE_BUSY)


def _answer(batch: list[_Job]) -> None:
    for job in batch:
        if job.answer.done():
            continue
        if job.error is not None:
            job.answer.set_exception(job.error)
            job.answer.exception()  # a caller that was cancelled meanwhile never looks at it
        else:
            job.answer.set_result(job.result)
