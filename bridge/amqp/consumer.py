"""Reading one queue, and settling what was read.

A delivery goes into the flow by a plain call, at once; its receipt works without the flow ever seeing a channel. All
settlements of a channel pass through one Settler, which alone writes them: cumulative acks that overtake each other
make the broker close the channel (docs/decisions/0005). No work runs inside aiormq's own asyncio.Tasks: a lost
connection cancels those.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import NamedTuple

import aiormq.abc

from bridge.amqp.wire import BROKEN, UNREADABLE
from bridge.models import Delivery

# RabbitMQ holds settlements back from a busy quorum queue, and forgets them with the channel: those deliveries come
# again. There is no answer to wait for, so a channel is left alone for a moment before it is closed.
SETTLED_S = 0.5


class Settlement(NamedTuple):
    """One answer to the broker: for one delivery, or for all up to it that have none yet."""

    tag: int
    ack: bool
    multiple: bool


class Settler:
    """The one place where the deliveries of a channel are settled: in order, merged, by one asyncio.Task."""

    def __init__(self, channel: aiormq.abc.AbstractChannel) -> None:
        self._channel = channel
        self._verdicts: dict[int, bool | None] = {}  # tag -> acked? In the broker's order; None: still in hand.
        self._marked: list[int] = []
        self._lost = False
        self._wrote_at = -SETTLED_S
        self._news = asyncio.Event()
        self._written = asyncio.Event()
        self._empty = asyncio.Event()
        self._written.set()
        self._empty.set()

    @property
    def held(self) -> int:
        """Deliveries without a verdict."""
        return len(self._verdicts) - len(self._marked)

    def take(self, tag: int) -> None:
        """A delivery came in; tags come in rising order."""
        self._verdicts[tag] = None
        self._empty.clear()

    def settle(self, tag: int, *, ack: bool) -> None:
        """Give a delivery its one verdict; forgotten where the channel is gone, for the broker has it back by then."""
        if self._lost:
            return
        assert self._verdicts.get(tag, ack) is None, f"delivery {tag} is settled already"
        self._verdicts[tag] = ack
        self._marked.append(tag)
        self._written.clear()
        self._news.set()

    async def written(self) -> None:
        """Wait until the broker may be taken to have every verdict given so far, or the channel is gone."""
        await self._written.wait()
        left_s = self._wrote_at + SETTLED_S - asyncio.get_running_loop().time()
        if left_s > 0 and not self._lost:
            await asyncio.sleep(left_s)

    async def empty(self) -> None:
        """Wait until every delivery is settled, or the channel is gone."""
        await self._empty.wait()

    async def run(self) -> None:
        """Write verdicts as they come, until the channel is gone."""
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                await self._write(self._due())
                self._wrote_at = asyncio.get_running_loop().time()
                if not self._marked:
                    self._written.set()
                if not self._verdicts:
                    self._empty.set()
        except BROKEN:
            return  # the session sees the loss on the channel itself
        finally:
            self.lose()

    def lose(self) -> None:
        """The channel is gone, and with it every delivery."""
        self._lost = True
        self._written.set()
        self._empty.set()

    async def _write(self, settlements: list[Settlement]) -> None:
        last = len(settlements) - 1
        for index, (tag, ack, multiple) in enumerate(settlements):
            # Waiting for the socket once per round holds the next round back, which so merges more.
            if ack:
                await self._channel.basic_ack(tag, multiple=multiple, wait=index == last)
            else:
                await self._channel.basic_nack(tag, multiple=multiple, requeue=True, wait=index == last)

    def _due(self) -> list[Settlement]:
        """What can be answered now, oldest first.

        A run of equal verdicts with nothing in hand before it takes one frame; every other verdict its own: waiting
        for the ones before it would starve the consumer behind one slow delivery.
        """
        front = list(itertools.takewhile(lambda verdict: verdict[1] is not None, self._verdicts.items()))
        due = []
        for ack, run in itertools.groupby(front, key=itemgetter(1)):
            tags = [tag for tag, _ in run]
            due.append(Settlement(tags[-1], bool(ack), multiple=len(tags) > 1))
        for tag, _ in front:
            del self._verdicts[tag]
        behind = [tag for tag in sorted(self._marked) if tag in self._verdicts]
        due += [Settlement(tag, bool(self._verdicts.pop(tag)), multiple=False) for tag in behind]
        self._marked.clear()
        return due


class Consumer:
    """One queue being read over a channel of its own.

    The channel outlives the reading: it stays until each of its deliveries is settled. ``at_most_once``, the broker
    takes each delivery for settled as it sends it: none ever comes again, and receipts do nothing.
    """

    def __init__(
        self,
        queue: str,
        prefetch: int,
        on_delivery: Callable[[Delivery], None],
        *,
        channel: aiormq.abc.AbstractChannel,
        on_bug: Callable[[Exception], None],
        at_most_once: bool = False,
    ) -> None:
        self.queue = queue
        self.at_most_once = at_most_once
        self.prefetch = prefetch
        self.channel = channel
        self.settler = Settler(channel)
        self.received = 0
        self.heard_at = asyncio.get_running_loop().time()
        self.started = False
        self.cancelled = False
        self.on_delivery = on_delivery
        self._on_bug = on_bug
        self._consumer_tag = ""
        self.settling = asyncio.create_task(self.settler.run(), name=f"settle {queue}")

    async def start(self, name: str) -> None:
        """Begin to read the queue of this name on the broker."""
        await self.channel.basic_qos(prefetch_count=self.prefetch)
        answer = await self.channel.basic_consume(name, self._receive, no_ack=self.at_most_once)
        self._consumer_tag = answer.consumer_tag or ""
        self.started = True

    async def stop(self) -> None:
        """Read no more; what still arrives is given back unseen, or taken where it would never come again."""
        self.cancelled = not self.at_most_once
        await self.channel.basic_cancel(self._consumer_tag)
        self.cancelled = True

    async def close(self) -> None:
        """Close the channel; the broker takes back what is not settled."""
        self.abandon()
        await self.channel.close()

    def abandon(self) -> None:
        """The channel is gone or about to go: settle nothing more."""
        self.settler.lose()
        self.settling.cancel()

    async def _receive(self, message: aiormq.abc.DeliveredMessage) -> None:
        tag = message.delivery_tag
        assert tag is not None
        self.received += 1
        self.heard_at = asyncio.get_running_loop().time()
        if not self.at_most_once:
            self.settler.take(tag)
        if self.cancelled:
            self._settle(tag, ack=False)
            return
        try:
            self.on_delivery(self._delivery(message, tag))
        except Exception as error:  # noqa: BLE001  - aiormq would only log it; a bug of a flow must be loud
            self._on_bug(error)

    def _settle(self, tag: int, *, ack: bool) -> None:
        if not self.at_most_once:
            self.settler.settle(tag, ack=ack)

    def _delivery(self, message: aiormq.abc.DeliveredMessage, tag: int) -> Delivery:
        told = message.header.properties
        headers = told.headers or {}
        count = headers.get("x-delivery-count", 0)
        expiration = told.expiration or ""
        return Delivery(
            message.body,
            message.routing_key or "",
            partial(self._settle, tag, ack=True),
            partial(self._settle, tag, ack=False),
            queue=self.queue,
            message_id=told.message_id,
            app_id=told.app_id or "",
            correlation_id=told.correlation_id,
            timestamp=told.timestamp.timestamp() if told.timestamp else None,
            expiration_s=int(expiration) / 1000 if expiration.isdecimal() else None,
            reply_to=told.reply_to,
            headers=headers,
            delivery_count=count if isinstance(count, int) else 0,
            unreadable=str(headers[UNREADABLE]) if UNREADABLE in headers else None,
        )
