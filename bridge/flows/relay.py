"""The relay: publishes the outbox with confirms, many in flight, and forgets what was confirmed (design 3.1, step 7).

All events and hand-backs go this way, so a dead broker costs nothing but time. A row is told at least once, always
under the same event id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from bridge.errors import LedgerUnavailable
from bridge.metrics import Metrics
from bridge.models import Clock, Publication
from bridge.store.ledger import Ledger, Transaction

log = structlog.get_logger()

CHUNK = 500
IDLE_S = 1.0
RETRY_S = (0.2, 5.0)

PublishMany = Callable[[Sequence[Publication]], Awaitable[Sequence[Exception | None]]]


class Relay:
    """Empties the outbox as fast as the broker confirms.

    ``publish`` takes many publications and answers for each with None or what went wrong. Above ``pause`` rows
    ``paused`` turns true, below ``resume`` false again: no new hand-over is begun meanwhile.
    """

    def __init__(
        self, ledger: Ledger, publish: PublishMany, metrics: Metrics, clock: Clock, *, pause: int, resume: int
    ) -> None:
        self._ledger = ledger
        self._publish = publish
        self._metrics = metrics
        self._clock = clock
        self._pause = pause
        self._resume = resume
        self._news = asyncio.Event()
        self._turn = asyncio.Lock()
        self._told: list[int] = []
        self._after = 0
        self._refused = 0
        self._retry_at = 0.0
        self._retry_s = RETRY_S[0]
        self._measure_at = 0.0
        self._last_count = 0
        self.paused = False

    def wake(self) -> None:
        """Something was put into the outbox."""
        self._news.set()

    async def run(self) -> None:
        """Publish until cancelled."""
        while True:
            self._news.clear()
            if not await self._step():
                await self._rest()

    async def drain(self) -> bool:
        """Publish what is in the outbox once, for a stop; False where something was not taken."""
        self._begin_anew()
        while await self._step():
            pass
        return not self._refused

    async def _rest(self) -> None:
        """Wait for news, or until it is time to try again what was refused."""
        left_s = self._retry_at - self._clock.mono() if self._refused else IDLE_S
        try:
            async with asyncio.timeout(max(0.0, min(left_s, IDLE_S))):
                await self._news.wait()
        except TimeoutError:
            pass
        if self._refused and self._clock.mono() >= self._retry_at:
            self._begin_anew()

    def _begin_anew(self) -> None:
        self._after = self._refused = 0

    async def _step(self) -> bool:
        """Publish the next rows; False where there is none, or where the broker took none of them.

        What one queue refuses is walked past, so that it holds up nothing else, and tried again later.
        """
        async with self._turn:  # a stop drains beside the loop: no row is in two hands
            try:
                rows = await self._ledger.write(self._claim)
            except LedgerUnavailable as error:
                log.warning("outbox.unreadable", error=str(error))
                return False
            self._told = []
            if not rows:
                return False
            errors = await self._publish([publication for _, publication in rows])
            self._told = [n for (n, _), error in zip(rows, errors, strict=True) if not _may_come_again(error)]
            self._after = rows[-1][0]
            self._note_refused(len(rows) - len(self._told))
            self._complain(rows, errors)
            return bool(self._told)

    def _note_refused(self, count: int) -> None:
        if not count:
            self._retry_s = RETRY_S[0]
            return
        if not self._refused:
            self._retry_at = self._clock.mono() + self._retry_s
            self._retry_s = min(self._retry_s * 2, RETRY_S[1])
        self._refused += count

    def _claim(self, tx: Transaction) -> list[tuple[int, Publication]]:
        """Forget what was confirmed since the last claim, and read the next: one commit for both."""
        tx.drop_outbox(self._told)
        rows = tx.read_outbox(self._after, CHUNK)
        if not rows or self._clock.mono() >= self._measure_at:
            self._measure(tx)
        return rows

    def _measure(self, tx: Transaction) -> None:
        self._measure_at = self._clock.mono() + IDLE_S
        count, oldest = tx.outbox_facts()
        self._metrics.outbox_pending.set(count)
        self._metrics.outbox_age_seconds.set(0.0 if oldest is None else max(0.0, self._clock.wall() - oldest))
        if count > self._pause and not self.paused:
            self.paused = True
            log.error("outbox.full", rows=count, hint="no hand-over is begun until the broker has taken most of them")
        elif count <= self._resume and self.paused:
            self.paused = False
            log.info("outbox.drained", rows=count)
        elif count > self._resume > self._last_count:
            log.warning("outbox.filling", rows=count, full=self._pause)
        self._last_count = count

    def _complain(self, rows: Sequence[tuple[int, Publication]], errors: Sequence[Exception | None]) -> None:
        """What the broker did not confirm stays; what AMQP has no form for never goes, and must not block the rest."""
        failed = [(row[1], error) for row, error in zip(rows, errors, strict=True) if error is not None]
        for publication, error in failed:
            if not _may_come_again(error):
                log.error(
                    "outbox.dropped", key=publication.routing_key, message_id=publication.message_id, error=repr(error)
                )
        waiting = [(publication, error) for publication, error in failed if _may_come_again(error)]
        if waiting:
            publication, error = waiting[0]
            log.warning("outbox.not_confirmed", count=len(waiting), first=publication.routing_key, error=str(error))


def _may_come_again(error: Exception | None) -> bool:
    """Whether a publication stays: all but what was confirmed, and what AMQP has no form for."""
    return error is not None and not isinstance(error, ValueError | TypeError)
