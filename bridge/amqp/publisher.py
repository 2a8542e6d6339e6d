"""Publishing: persistent, mandatory, confirmed, many in flight, each publication answered for by itself.

What AMQP or aiormq say of a publication becomes one of our own answers here: told, Unroutable or BrokerUnavailable.
An event that nobody listens to counts as told.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import aiormq.exceptions
import structlog
from aiormq.channel import Channel
from pamqp import commands

from bridge.amqp.topology import Topology
from bridge.amqp.wire import BROKEN
from bridge.amqp.writer import PENDING, Outcomes, Outgoing, Write, best_write
from bridge.errors import BridgeError, BrokerUnavailable, Unroutable
from bridge.metrics import Metrics
from bridge.models import Publication

log = structlog.get_logger()

CHUNK = 100  # written together; more gains nothing, and each cumulative confirm walks all that is outstanding
SHORT_BYTES = 255  # what AMQP allows a short string
COPIES_WITHIN_S = 2.0
SILENCES = {
    "timeout": "the broker did not confirm it in time",
    "disconnected": "the connection to the broker was lost before it confirmed",
}


def outgoing(publication: Publication, exchange: str, routing_key: str) -> Outgoing:
    """The message of a publication, for this exchange of the broker; ValueError where AMQP has no form for it."""
    message_id = publication.message_id or secrets.token_hex(16)  # without one aiormq cannot tell which was returned
    if len(message_id.encode()) > SHORT_BYTES:  # an event id holds the producer's app_id; the body has it whole
        message_id = hashlib.sha256(message_id.encode()).hexdigest()
    properties = commands.Basic.Properties(
        content_type=publication.content_type,
        headers={name: _exact(value) for name, value in publication.headers.items()} or None,
        delivery_mode=2,
        correlation_id=publication.correlation_id,
        reply_to=publication.reply_to,
        message_id=message_id,
        timestamp=None if publication.timestamp is None else datetime.fromtimestamp(publication.timestamp, UTC),
        app_id=publication.app_id,
    )
    return Outgoing(exchange, routing_key, publication.body, properties)


def _exact(value: Any) -> Any:
    """A header as it arrives: pamqp writes a float in 32 bits, which moves a moment by up to a minute.

    Rounded down, because what ends later than it may would be sent too late.
    """
    return math.floor(value) if isinstance(value, float) else value


class Publisher:
    """Publishes over one channel, with at most `in_flight` publications unconfirmed at any time.

    `lost` ends every wait: it is done when the session is torn down. `unheard` are the event types that were already
    logged as having no listener; it outlives this publisher.
    """

    def __init__(
        self,
        channel: Channel,
        topology: Topology,
        metrics: Metrics,
        *,
        in_flight: int,
        lost: asyncio.Future[Any],
        open_channel: Callable[[], Awaitable[Channel]],
        unheard: set[str],
        write: Write | None = None,
    ) -> None:
        self._channel = channel
        self._metrics = metrics
        self._in_flight = in_flight
        self._lost = lost
        self._open_channel = open_channel
        self._write = write or best_write()
        self._exchanges = {topology.logical(each.name): each.name for each in topology.exchanges}
        self._free = asyncio.Semaphore(in_flight)
        self._turn = asyncio.Lock()
        self._busy: set[str] = set()
        self._copies: Channel | None = None
        self._unheard = unheard

    async def publish_many(self, publications: Sequence[Publication], timeout_s: float) -> Outcomes:
        """Publish all; per publication None, or why it is not known to be stored (BrokerUnavailable, Unroutable).

        An event that nobody listens to counts as told. What cannot be published at all is answered by a ValueError.
        """
        outcomes: Outcomes = [PENDING] * len(publications)
        messages = {}
        for index, publication in enumerate(publications):
            try:
                messages[index] = self._outgoing(publication)
            except (ValueError, OverflowError, OSError) as error:
                outcomes[index] = ValueError(f"{publication.exchange} {publication.routing_key}: {error}")
        finished = await _within(timeout_s, self._publish(messages, outcomes), self._lost)
        silence = "disconnected" if finished or self._lost.done() else "timeout"
        outcomes = [self._judge(*pair, silence) for pair in zip(publications, outcomes, strict=True)]
        told = [each for each, outcome in zip(publications, outcomes, strict=True) if outcome is None]
        if copies := [each for each in told if each.copy_to]:
            await self._copy(copies)
        return outcomes

    def _outgoing(self, publication: Publication) -> Outgoing:
        exchange = self._exchanges.get(publication.exchange)
        if exchange is None:  # the broker would close the channel over it
            raise ValueError("there is no such exchange")
        return outgoing(publication, exchange, publication.routing_key)

    async def _publish(self, messages: Mapping[int, Outgoing], outcomes: Outcomes) -> None:
        chunks = list(self._chunks(messages))
        if len(chunks) == 1:
            await self._publish_chunk(chunks[0], messages, outcomes)
            return
        async with asyncio.TaskGroup() as writes:
            for chunk in chunks:
                writes.create_task(self._publish_chunk(chunk, messages, outcomes))

    async def _publish_chunk(self, chunk: list[int], messages: Mapping[int, Outgoing], outcomes: Outcomes) -> None:
        together = [messages[index] for index in chunk]
        answers: Outcomes = [PENDING] * len(chunk)
        async with self._room(len(chunk), set(filter(None, map(self._guarded_id, together)))):
            try:
                with contextlib.suppress(*BROKEN):
                    await self._write(self._channel, together, answers)
            finally:
                for index, answer in zip(chunk, answers, strict=True):
                    outcomes[index] = answer

    def _chunks(self, messages: Mapping[int, Outgoing]) -> Iterator[list[int]]:
        """Portions to be written together; no guarded id is twice in one."""
        size = min(CHUNK, self._in_flight)
        chunk: list[int] = []
        ids: set[str] = set()
        for index, message in messages.items():
            told = self._guarded_id(message)
            if len(chunk) == size or told in ids:
                yield chunk
                chunk, ids = [], set()
            chunk.append(index)
            if told is not None:
                ids.add(told)
        if chunk:
            yield chunk

    def _guarded_id(self, message: Outgoing) -> str | None:
        """The id that must not be in flight twice: aiormq finds what was returned by its id alone.

        Events are free of it: returned or not, they are told.
        """
        return None if message.exchange == self._exchanges["events"] else message.properties.message_id

    @contextlib.asynccontextmanager
    async def _room(self, count: int, ids: set[str]) -> AsyncIterator[None]:
        """Room for so many unconfirmed publications, or all there is where one of the ids is in flight already.

        First come, first served: two that each held half of what they need would wait for each other.
        """
        taken = 0
        held: set[str] = set()
        try:
            async with self._turn:
                wanted = count if self._busy.isdisjoint(ids) else self._in_flight
                while taken < wanted:
                    await self._free.acquire()
                    taken += 1
                held = ids
                self._busy |= held
            yield
        finally:
            self._busy -= held
            for _ in range(taken):
                self._free.release()

    def _judge(self, publication: Publication, outcome: Exception | None, silence: str) -> Exception | None:
        """What an outcome means to whoever published, counted."""
        kind = ".".join(publication.routing_key.split(".")[:2]) if publication.exchange == "events" else None
        returned = isinstance(outcome, aiormq.exceptions.PublishError)
        if outcome is None or (returned and kind):
            if kind:
                self._metrics.events_total.labels(kind).inc()
            if kind and returned:
                self._count_unheard(kind)
            return None
        failure: BridgeError
        if returned:
            reason = "unroutable"
            failure = Unroutable(f"{publication.exchange} has no queue for {publication.routing_key}")
        elif isinstance(outcome, aiormq.exceptions.DeliveryError):
            reason = "refused"
            failure = BrokerUnavailable("the broker refused it: a queue is full or without its quorum")
        elif outcome is PENDING or isinstance(outcome, BROKEN):
            reason = silence
            failure = BrokerUnavailable(SILENCES[silence])
        else:
            return outcome
        self._metrics.publish_failures_total.labels(reason).inc()
        return failure

    def _count_unheard(self, kind: str) -> None:
        self._metrics.events_unrouted_total.labels(kind).inc()
        if kind not in self._unheard:
            self._unheard.add(kind)
            log.warning("event.unheard", type=kind, hint="no queue is bound for it on the events exchange")

    async def _copy(self, publications: Sequence[Publication]) -> None:
        """Copy events to the queues that their producers named, once, on a channel that may fail alone."""
        answers: Outcomes = [PENDING] * len(publications)
        with contextlib.suppress(*BROKEN, TimeoutError):
            if self._copies is None or self._copies.is_closed:
                self._copies = await asyncio.wait_for(self._open_channel(), COPIES_WITHIN_S)
            messages = [outgoing(each, "", str(each.copy_to)) for each in publications]
            closed = self._copies.closing
            try:
                await _within(COPIES_WITHIN_S, self._write(self._copies, messages, answers), self._lost, closed)
            finally:
                closed.cancel()
        failed = len(answers) - answers.count(None)
        if failed:
            self._metrics.publish_failures_total.labels("copy").inc(failed)


async def _within(timeout_s: float, work: Coroutine[Any, Any, None], *stops: asyncio.Future[Any]) -> bool:
    """Do the work; cut it short after a time or when one of the stops is done. Whether it was finished.

    Neither is raised into the caller. aiormq ends what waits for it by CancelledError where a connection breaks: it
    must not look as if the caller itself were cancelled.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task, *stops}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finished = task.done()
    finally:
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled():
        task.result()
    return finished
