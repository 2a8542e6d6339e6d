"""One thread that owns the ledger's connection, and the group commit.

Callers hand in plain functions over the connection; whatever has come together by the time the last commit is done
shares the next transaction, each function in a savepoint of its own. A caller gets its answer only after the commit,
so an answer means durable. Nothing here knows what the tables are about.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from bridge.errors import LedgerUnavailable

T = TypeVar("T")
MOST_PER_COMMIT = 64


@dataclass(slots=True)
class _Job:
    work: Callable[[Connection], Any]
    answer: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None


class Writer:
    """Runs functions over one connection, in order, many per commit.

    ``on_commit`` is told the seconds that each commit took (from its BEGIN), ``on_failure`` each time a commit was
    lost. Both are called in the writer's thread.
    """

    def __init__(self, engine: Engine, *, on_commit: Callable[[float], None], on_failure: Callable[[], None]) -> None:
        self._engine = engine
        self._on_commit = on_commit
        self._on_failure = on_failure
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._serve, name="ledger", daemon=True)
        self._closed = False
        self._thread.start()

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in a transaction and answer after its commit.

        Raises LedgerUnavailable where it could not be stored; what ``work`` itself raises is passed on, and only its
        own changes are undone.
        """
        if self._closed:
            raise LedgerUnavailable("the ledger is closed")
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._jobs.put(_Job(work, answer))
        result: T = await asyncio.shield(answer)  # a cancelled caller does not undo what is being stored
        return result

    async def close(self) -> None:
        """Commit what was handed in, then end the thread."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    def _serve(self) -> None:
        with self._engine.connect() as connection:
            while (job := self._jobs.get()) is not None:
                batch = [job]
                while len(batch) < MOST_PER_COMMIT and not self._jobs.empty():
                    following = self._jobs.get()
                    if following is None:
                        self._jobs.put(None)
                        break
                    batch.append(following)
                self._commit(connection, batch)

    def _commit(self, connection: Connection, batch: list[_Job]) -> None:
        began = time.perf_counter()
        try:
            with connection.begin():
                for job in batch:
                    self._one(connection, job)
        except (sqlite3.Error, SQLAlchemyError) as error:
            self._on_failure()
            for job in batch:
                job.error = LedgerUnavailable(f"the ledger cannot store: {error}")
        self._on_commit(time.perf_counter() - began)
        self._loop.call_soon_threadsafe(_answer, batch)

    def _one(self, connection: Connection, job: _Job) -> None:
        """One function in its savepoint; an error of the database itself ends the whole commit."""
        savepoint = connection.begin_nested()
        try:
            job.result = job.work(connection)
        except (sqlite3.OperationalError, SQLAlchemyError):
            raise
        except Exception as error:  # noqa: BLE001  the caller gets it; its neighbours in the commit do not
            savepoint.rollback()
            job.error = error
        else:
            savepoint.commit()


def _answer(batch: list[_Job]) -> None:
    for job in batch:
        if job.answer.done():
            continue
        if job.error is not None:
            job.answer.set_exception(job.error)
            job.answer.exception()  # a caller that was cancelled meanwhile never looks at it
        else:
            job.answer.set_result(job.result)
