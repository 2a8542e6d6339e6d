"""Which delivery kills the process: suspected, tried alone, refused (design 1.1, docs/decisions/0007).

A process that dies gives everything in its hand back, and the next one takes it again: one delivery that it cannot
survive would stop all others for ever. A high delivery count alone proves nothing, since a plain give-back raises it
too; so there are suspects only in a crash loop. A suspect is taken with nothing else in hand, under a mark in the
ledger. A mark that a start finds is the proof: its delivery is refused and never taken again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import structlog

from bridge.errors import LedgerUnavailable
from bridge.models import Delivery
from bridge.store.ledger import Ledger, Transaction

log = structlog.get_logger()

SUSPECT_FROM = 3
STEADY_S = 60.0
MARKS_MOST = 100  # one that never comes again keeps its mark: the oldest are forgotten
CLEAN_STOP, UNCLEAN_ENDS, MARKS = "clean_stop", "unclean_ends", "poison_marks"

Take = Callable[[Delivery], None]


class Spawn(Protocol):
    """Run something on a worker; where it fails, the deliveries are given back."""

    def __call__(self, work: Coroutine[Any, Any, None], *deliveries: Delivery) -> None:
        """Returns at once."""


def is_suspect(delivery_count: int, unclean_ends: int) -> bool:
    """Whether a delivery that was given back so often is to be tried, after so many unclean ends in a row."""
    return delivery_count >= SUSPECT_FROM and unclean_ends >= SUSPECT_FROM


def mark_of(delivery: Delivery) -> str:
    """What a delivery is known by across starts: its queue, its AMQP ids and its body, unread."""
    told = "\0".join((delivery.queue, delivery.app_id, delivery.message_id or "")).encode("utf-8", "surrogatepass")
    return hashlib.sha256(told + b"\0" + delivery.body).hexdigest()


class Trial:
    """Stands between the queues and whoever takes their deliveries; in ordinary times everything passes.

    ``be_alone`` returns when nothing else is in hand. ``read`` reads what a refusal would have to read, and may be
    what kills the process; ``refuse`` is told whether that went well.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        spawn: Spawn,
        be_alone: Callable[[], Awaitable[None]],
        read: Callable[[Delivery], object],
        refuse: Callable[[Delivery, bool], Awaitable[None]],
    ) -> None:
        self._ledger = ledger
        self._spawn = spawn
        self._be_alone = be_alone
        self._read = read
        self._refuse = refuse
        self._begun = False
        self._unclean_ends = 0
        self._guilty: dict[str, bool] = {}  # mark: whether it was read unharmed before it killed
        self._tried: dict[str, bool] = {}  # the one on trial, likewise; empty while there is none
        self._aside: list[tuple[Delivery, Take]] = []

    # --- starts and ends ---------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """The process is about to take deliveries: learn how the last one ended, and leave no clean end until `end`."""

        def begin(tx: Transaction) -> tuple[int, dict[str, bool]]:
            unclean = int(tx.meta(UNCLEAN_ENDS) or 0) + 1 if tx.meta(CLEAN_STOP) == "no" else 0
            tx.set_meta(UNCLEAN_ENDS, str(unclean))
            tx.set_meta(CLEAN_STOP, "no")
            marks = json.loads(tx.meta(MARKS) or "{}")
            return unclean, dict(list(marks.items())[-MARKS_MOST:])

        self._unclean_ends, self._guilty = await self._ledger.write(begin)
        self._begun = True
        if self._unclean_ends:
            log.warning("bridge.ended_uncleanly", times=self._unclean_ends, poison=len(self._guilty))

    async def run(self) -> None:
        """Once the process has lived long enough, the crash loop is over."""
        while self._unclean_ends:
            await asyncio.sleep(STEADY_S)
            try:
                await self._ledger.write(lambda tx: tx.set_meta(UNCLEAN_ENDS, "0"))
            except LedgerUnavailable:
                continue
            self._unclean_ends = 0

    async def end(self) -> None:
        """Everything is settled: this was a clean stop. Nothing where no delivery was ever taken."""
        if not self._begun:
            return
        told = json.dumps(self._guilty)  # whoever is still on trial did no harm

        def end(tx: Transaction) -> None:
            tx.set_meta(MARKS, told)
            tx.set_meta(CLEAN_STOP, "yes")

        await self._ledger.write(end)

    # --- deliveries ---------------------------------------------------------------------------------------------------

    def keeps(self, delivery: Delivery, take: Take) -> bool:
        """Whether a delivery must not be taken now: refused, tried alone (`take` is called later), or put aside."""
        mark = mark_of(delivery) if self._guilty else ""
        if mark in self._guilty:
            self._spawn(self._condemn(delivery, mark, was_read=self._guilty[mark]), delivery)
        elif self._tried:
            self._aside.append((delivery, take))
        elif self._suspects(delivery):
            mark = mark_of(delivery)
            self._tried = {mark: False}
            watched = replace(
                delivery,
                ack=partial(self._settle, delivery.ack),
                give_back=partial(self._settle, delivery.give_back),
            )
            self._spawn(self._try(watched, mark, take), watched)
        else:
            return False
        return True

    def _suspects(self, delivery: Delivery) -> bool:
        return is_suspect(delivery.delivery_count, self._unclean_ends)

    def drain(self, queue: str | None = None) -> list[Delivery]:
        """Take out what was put aside, of one queue or of all, to be given back."""
        drained = [delivery for delivery, _ in self._aside if queue in (None, delivery.queue)]
        self._aside = [one for one in self._aside if queue not in (None, one[0].queue)]
        return drained

    async def _try(self, delivery: Delivery, mark: str, take: Take) -> None:
        """Take it with nothing else in hand; what it does to the process is known to the next one."""
        await self._be_alone()
        log.warning("delivery.on_trial", queue=delivery.queue, delivery_count=delivery.delivery_count)
        await self._store_marks()
        self._read(delivery)
        self._tried[mark] = True
        await self._store_marks()
        take(delivery)

    def _settle(self, settle: Callable[[], None]) -> None:
        settle()
        self._spawn(self._acquit())

    async def _acquit(self) -> None:
        """It did no harm; go on with what was put aside."""
        self._tried = {}
        await self._drop_mark()
        # Suspects first: whoever is taken between two of them would only be given back again.
        aside = sorted(self._aside, key=lambda one: not self._suspects(one[0]))
        self._aside.clear()
        for delivery, take in aside:
            if not self.keeps(delivery, take):
                take(delivery)

    async def _condemn(self, delivery: Delivery, mark: str, *, was_read: bool) -> None:
        """Refuse what killed the process while nothing else was in hand."""
        log.error("delivery.poison", queue=delivery.queue, delivery_count=delivery.delivery_count)
        await self._refuse(delivery, was_read)
        self._guilty.pop(mark, None)
        await self._drop_mark()

    async def _drop_mark(self) -> None:
        try:
            await self._store_marks()
        except LedgerUnavailable as error:  # its delivery is settled: the mark is no more than a word too many
            log.warning("delivery.mark_kept", error=str(error))

    async def _store_marks(self) -> None:
        """What a next start is to refuse, durably."""
        told = json.dumps(self._guilty | self._tried)
        await self._ledger.write(lambda tx: tx.set_meta(MARKS, told))
