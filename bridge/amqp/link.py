"""Everything of a broker session that is built together and torn down together.

Two connections (publishing and reading: a broker short of memory reads nothing more from publishers, and that must
not stop the reading of requests), the publisher, and one consumer per queue that is wished for. Whatever breaks ends
the whole link; nothing in here mends anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any, NamedTuple

import aiormq
import aiormq.exceptions
import structlog
from aiormq.channel import Channel

from bridge.amqp import topology as topologies
from bridge.amqp import wire
from bridge.amqp.consumer import Consumer
from bridge.amqp.publisher import Publisher
from bridge.amqp.topology import Topology
from bridge.amqp.wire import BROKEN
from bridge.metrics import Metrics
from bridge.models import Delivery
from bridge.settings import AmqpSettings

log = structlog.get_logger()

ANSWER_WITHIN_S = 10.0
LAST_WORDS_S = 2.0  # for verdicts that are on their way when the session is closed
LOOK_EVERY_S = 10.0
# A queue that is deleted and made again within a moment keeps our consumer, and RabbitMQ 3.10 counts its messages as
# handed to it that it never sends. From outside that looks like a quiet queue: so a quiet one is opened anew at times.
REOPEN_AFTER_S = 60.0
TAKEN_RETRY_S = 0.25
TAKEN_FOR_S = 1.0  # a shorter while it may be our own last consumer, which the broker has not let go of yet


class Wish(NamedTuple):
    """How far ahead a queue is to be read, and who takes what was read."""

    prefetch: int
    on_delivery: Callable[[Delivery], None]
    at_most_once: bool = False


class Link:
    """One session with the broker, from connecting to the first loss.

    `lost` is done with the reason when it is over, or with the error of whoever took a delivery and failed: that is a
    bug, and it is to end the process.
    """

    def __init__(
        self, settings: AmqpSettings, topology: Topology, metrics: Metrics, wishes: Mapping[str, Wish]
    ) -> None:
        self._settings = settings
        self._topology = topology
        self._metrics = metrics
        self._wishes = wishes
        self._wishes_changed = asyncio.Event()
        self._changing = asyncio.Lock()
        self._consumers: dict[str, Consumer] = {}
        self._draining: set[Consumer] = set()
        self._stuck: dict[Consumer, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._taken_since: dict[str, float] = {}
        self._warned: set[str] = set()
        self._leaving: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.lost.add_done_callback(asyncio.Future.exception)  # read once, so that nobody need wait for it
        self.publisher: Publisher | None = None

    @property
    def reading(self) -> list[str]:
        """The queues that are being read."""
        return sorted(queue for queue, consumer in self._consumers.items() if consumer.started)

    @property
    def taken(self) -> list[str]:
        """The queues that somebody else reads."""
        return sorted(self._warned)

    async def stand(self, url: str, unheard: set[str], on_standing: Callable[[], None]) -> str:
        """Build it and keep it until it is lost; the reason.

        Raises TopologyMismatch, or one of BROKEN or TimeoutError where it cannot be built.
        """
        async with AsyncExitStack() as stack:
            heartbeat_s = self._settings.heartbeat_s
            publishing = await stack.enter_async_context(wire.connection(url, "publishes", heartbeat_s=heartbeat_s))
            self._reading = await stack.enter_async_context(wire.connection(url, "reads", heartbeat_s=heartbeat_s))
            stack.push_async_callback(self._tear_down)
            for connection in (publishing, self._reading):
                connection.closing.add_done_callback(partial(self._on_closed, "the connection"))
            if self._settings.declare:
                await topologies.declare(publishing, self._topology)
            async with asyncio.timeout(ANSWER_WITHIN_S):
                await self._open_channels(publishing, unheard)
            on_standing()
            self._spawn(self._keep_consumers())
            self._spawn(self._look_after_consumers())
            await _first_of(self.lost, self._leaving)
            return self.lost.result() if self.lost.done() else "closed by us"

    async def _open_channels(self, publishing: aiormq.Connection, unheard: set[str]) -> None:
        channel = await _confirming(publishing)
        channel.closing.add_done_callback(partial(self._on_closed, "the publishing channel"))
        self._looking = await self._reading.channel(publisher_confirms=False)
        self._looking.closing.add_done_callback(partial(self._on_closed, "the channel that looks after consumers"))
        self.publisher = Publisher(
            channel,
            self._topology,
            self._metrics,
            in_flight=self._settings.in_flight,
            lost=self.lost,
            open_channel=partial(_confirming, publishing),
            unheard=unheard,
        )

    # --- the end ----------------------------------------------------------------------------------------------------

    def lose(self, reason: str) -> None:
        """It is over; the first reason counts."""
        if not self.lost.done():
            self.lost.set_result(reason)

    def leave(self) -> None:
        """End it in good order: what is settled already is written first."""
        if not self._leaving.done():
            self._leaving.set_result(None)

    def _on_closed(self, what: str, closed: asyncio.Future[Any]) -> None:
        error = None if closed.cancelled() else closed.exception()
        self.lose(f"{what} was closed: {explain(error) if error else 'no reason given'}")

    def _on_bug(self, error: BaseException) -> None:
        if not self.lost.done():
            self.lost.set_exception(error)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something that lives no longer than the link; whatever breaks in it ends the link.

        aiormq cancels what waits for it where a connection breaks: a caller's own asyncio.Task must never wait for it.
        """
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            self.lose("the connection broke while the broker was asked")
        elif isinstance(error := task.exception(), TimeoutError):
            self.lose("the broker does not answer")
        elif isinstance(error, BROKEN):
            self.lose(explain(error))
        elif error is not None:
            self._on_bug(error)

    async def _tear_down(self) -> None:
        consumers = [*self._consumers.values(), *self._draining]
        if not self.lost.done():
            for consumer in consumers:
                consumer.cancelled = True
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS_S):
                    await asyncio.gather(*(consumer.settler.written() for consumer in consumers))
        self.lose("closed")
        for consumer in consumers:
            consumer.abandon()
        for task in (tasks := set(self._tasks)):
            task.cancel()
        if waits := tasks | {consumer.settling for consumer in consumers}:
            await asyncio.wait(waits)

    # --- consumers --------------------------------------------------------------------------------------------------

    def wishes_changed(self) -> None:
        """Look at the wishes again."""
        self._wishes_changed.set()

    async def stop_consuming(self, queue: str) -> None:
        """Cancel the consumer now; its channel stays until its deliveries are settled. The wish is gone already."""
        stopping = self._spawn(self._stop(queue))
        await _first_of(stopping, self.lost)

    async def _keep_consumers(self) -> None:
        while True:
            self._wishes_changed.clear()
            for queue in list(self._wishes):
                await self._fulfil(queue)
            with suppress(TimeoutError):
                async with asyncio.timeout(TAKEN_RETRY_S if self._taken_since else None):
                    await self._wishes_changed.wait()

    async def _fulfil(self, queue: str) -> None:
        """Read the queue as it is wished for, unless somebody else reads it."""
        async with self._changing, asyncio.timeout(ANSWER_WITHIN_S):
            wish, consumer = self._wishes.get(queue), self._consumers.get(queue)
            if wish is None or (consumer and (consumer.prefetch, consumer.on_delivery) == wish[:2]):
                return
            if consumer is not None:
                await self._retire(consumer)
            if await self._is_taken(queue):
                return
            channel = await self._reading.channel(publisher_confirms=False)
            consumer = Consumer(
                queue,
                wish.prefetch,
                wish.on_delivery,
                channel=channel,
                on_bug=self._on_bug,
                at_most_once=wish.at_most_once,
            )
            self._consumers[queue] = consumer
            channel.closing.add_done_callback(partial(self._on_consumer_closed, consumer))
            channel.on_consumer_cancel_callbacks.add(partial(self._on_consumer_cancelled, consumer))
            await consumer.start(self._topology.name(queue))

    async def _is_taken(self, queue: str) -> bool:
        """Whether somebody else reads this queue; it may be our own last session, until the broker has noticed."""
        if any(consumer.queue == queue for consumer in self._draining):
            return False  # the broker counts a cancelled consumer until its last delivery is settled
        answer = await self._looking.queue_declare(self._topology.name(queue), passive=True)
        if not answer.consumer_count:
            self._forget_taken(queue)
            return False
        now = asyncio.get_running_loop().time()
        if now - self._taken_since.setdefault(queue, now) >= TAKEN_FOR_S and queue not in self._warned:
            self._warned.add(queue)
            log.warning("queue.taken", queue=queue, hint="another bridge reads it; waiting until it no longer does")
        return True

    def _forget_taken(self, queue: str) -> None:
        self._taken_since.pop(queue, None)
        self._warned.discard(queue)

    async def _stop(self, queue: str) -> None:
        async with self._changing, asyncio.timeout(ANSWER_WITHIN_S):
            if queue not in self._wishes:
                self._forget_taken(queue)
                if (consumer := self._consumers.get(queue)) is not None:
                    await self._retire(consumer)

    async def _retire(self, consumer: Consumer) -> None:
        self._draining.add(consumer)
        del self._consumers[consumer.queue]
        await consumer.stop()
        self._spawn(self._drain(consumer))

    async def _drain(self, consumer: Consumer) -> None:
        await consumer.settler.empty()
        await consumer.settler.written()
        self._draining.discard(consumer)
        if not self.lost.done():
            await consumer.close()

    def _is_ours(self, consumer: Consumer) -> bool:
        return consumer in self._draining or self._consumers.get(consumer.queue) is consumer

    def _on_consumer_closed(self, consumer: Consumer, closed: asyncio.Future[Any]) -> None:
        if self._is_ours(consumer):
            self._on_closed(f"the channel that reads {consumer.queue}", closed)

    def _on_consumer_cancelled(self, consumer: Consumer, _: object) -> None:
        if not consumer.cancelled:
            self._lose_consumer(f"the broker cancelled the consumer of {consumer.queue}")

    # --- looking after them -----------------------------------------------------------------------------------------

    async def _look_after_consumers(self) -> None:
        """Compare what the broker says of each queue with what arrives: a consumer may be dead without a word."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            for consumer in list(self._consumers.values()):
                async with asyncio.timeout(ANSWER_WITHIN_S):
                    answer = await self._looking.queue_declare(self._topology.name(consumer.queue), passive=True)
                if consumer.started and self._consumers.get(consumer.queue) is consumer:
                    self._compare(consumer, answer.consumer_count or 0, answer.message_count or 0)
                    await self._reopen_if_quiet(consumer)
            for queue in self._topology.retired:
                async with asyncio.timeout(ANSWER_WITHIN_S):
                    self._metrics.orphaned_messages.labels(queue).set(await self._count(queue))

    def _compare(self, consumer: Consumer, consumers: int, ready: int) -> None:
        if not consumers:
            self._lose_consumer(f"the broker knows no consumer of {consumer.queue}")
        idle = ready > 0 and consumer.settler.held < consumer.prefetch
        if idle and self._stuck.get(consumer) == consumer.received:
            self._lose_consumer(f"{ready} messages lie ready in {consumer.queue} and none arrives")
        self._stuck.pop(consumer, None)
        if idle:
            self._stuck[consumer] = consumer.received

    async def _reopen_if_quiet(self, consumer: Consumer) -> None:
        if consumer.at_most_once:
            return  # what arrives while it is cancelled would be lost
        quiet_s = asyncio.get_running_loop().time() - consumer.heard_at
        if quiet_s < REOPEN_AFTER_S or consumer.settler.held:
            return
        async with self._changing, asyncio.timeout(ANSWER_WITHIN_S):
            if self._consumers.get(consumer.queue) is consumer:
                await self._retire(consumer)
        self.wishes_changed()

    def _lose_consumer(self, reason: str) -> None:
        self._metrics.consumer_restarts_total.inc()
        self.lose(reason)

    async def _count(self, queue: str) -> int:
        """The messages in a queue; 0 where it is gone, which closes the channel that asked."""
        channel = await self._reading.channel(publisher_confirms=False)
        try:
            answer = await channel.queue_declare(self._topology.name(queue), passive=True)
        except aiormq.exceptions.ChannelNotFoundEntity:
            return 0
        await channel.close()
        return answer.message_count or 0


async def _first_of(*futures: asyncio.Future[Any]) -> None:
    """Wait for the first of them, and raise nothing of what it ends with."""
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


async def _confirming(connection: aiormq.Connection) -> Channel:
    channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
    assert isinstance(channel, Channel)
    return channel


def explain(error: BaseException) -> str:
    """What broke, for people; never the URL, which holds the password."""
    kind, text = type(error).__name__, str(error)
    if isinstance(error, aiormq.exceptions.ChannelAccessRefused):
        text += " (`ejoin-bridge topology` prints the permissions that the user needs)"
    return f"{kind}: {text}" if text else kind
