"""The relay: publishes the outbox with confirms, many in flight, and forgets what was confirmed (design 3.1, step 7).

All events and hand-backs go this way, so a dead broker costs nothing but time. A row is told at least once, always
under the same event id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from bridge.errors import BridgeError, LedgerUnavailable
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
        self._told: list[int] = []
        self._turn = asyncio.Lock()
        self.paused = False

    def wake(self) -> None:
        """Something was put into the outbox."""
        self._news.set()

    async def run(self) -> None:
        """Publish until cancelled."""
        wait_s = RETRY_S[0]
        while True:
            self._news.clear()
            progress, left = await self._step()
            if progress:
                wait_s = RETRY_S[0]
            elif left:
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, RETRY_S[1])
            else:
                await self._idle()

    async def drain(self) -> bool:
        """Publish until the outbox is empty, for a stop; False where the broker takes nothing any more."""
        while True:
            progress, left = await self._step()
            if not progress:
                return not left

    async def _idle(self) -> None:
        try:
            async with asyncio.timeout(IDLE_S):
                await self._news.wait()
        except TimeoutError:
            await self._look()

    async def _step(self) -> tuple[bool, bool]:
        """Publish the oldest rows: (whether anything was confirmed, whether rows were left behind)."""
        async with self._turn:  # a stop drains beside the loop: no row is in two hands
            return await self._publish_oldest()

    async def _publish_oldest(self) -> tuple[bool, bool]:
        try:
            rows = await self._ledger.write(self._claim)
        except LedgerUnavailable:
            return False, True
        if not rows:
            return False, False
        errors = await self._publish([publication for _, publication in rows])
        self._told = [n for (n, _), error in zip(rows, errors, strict=True) if not isinstance(error, BridgeError)]
        self._complain(rows, errors)
        return bool(self._told), True

    def _claim(self, tx: Transaction) -> list[tuple[int, Publication]]:
        """Forget what was confirmed since the last claim, and read the next: one commit for both."""
        tx.drop_outbox(self._told)
        self._told = []
        self._measure(tx)
        return tx.read_outbox(0, CHUNK)

    async def _look(self) -> None:
        try:
            await self._ledger.write(self._measure)
        except LedgerUnavailable as error:
            log.warning("outbox.unreadable", error=str(error))

    def _measure(self, tx: Transaction) -> None:
        count, oldest = tx.outbox_facts()
        self._metrics.outbox_pending.set(count)
        self._metrics.outbox_age_seconds.set(0.0 if oldest is None else max(0.0, self._clock.wall() - oldest))
        if count > self._pause:
            self.paused = True
        elif count <= self._resume:
            self.paused = False

    def _complain(self, rows: Sequence[tuple[int, Publication]], errors: Sequence[Exception | None]) -> None:
        """What the broker did not confirm stays; what AMQP has no form for never goes, and must not block the rest."""
        failed = [(row[1], error) for row, error in zip(rows, errors, strict=True) if error is not None]
        for publication, error in failed:
            if not isinstance(error, BridgeError):
                log.error(
                    "outbox.dropped", key=publication.routing_key, message_id=publication.message_id, error=repr(error)
                )
        waiting = [(publication, error) for publication, error in failed if isinstance(error, BridgeError)]
        if waiting:
            publication, error = waiting[0]
            log.warning("outbox.not_confirmed", count=len(waiting), first=publication.routing_key, error=str(error))
