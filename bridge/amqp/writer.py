"""Writing messages to a channel that confirms, in two ways that keep one promise.

`write_together` puts all messages into one write, at a quarter of the cost of one write each (docs/decisions/0005).
It knows aiormq from inside, and nothing outside this file does; with a release of aiormq that it was not tried with,
`write_each` goes the documented way instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import lru_cache
from importlib.metadata import version
from typing import Any, NamedTuple

import aiormq.abc
from aiormq.channel import Channel
from pamqp import body, commands, frame, header

from bridge.errors import BrokerUnavailable

TRIED_WITH = "7.2."

PENDING = BrokerUnavailable()
"""What became of a message that the broker has not answered yet."""

Outcomes = list[Exception | None]


class Outgoing(NamedTuple):
    """One message as the broker sees it."""

    exchange: str
    routing_key: str
    body: bytes
    properties: commands.Basic.Properties


Write = Callable[[Channel, Sequence[Outgoing], Outcomes], Coroutine[Any, Any, None]]
"""Write messages and wait for their confirms. `outcomes` comes with PENDING for each and is corrected as the broker
answers, so that it is right even where the wait is cut short."""


async def write_each(channel: Channel, messages: Sequence[Outgoing], outcomes: Outcomes) -> None:
    """A Write that leaves everything to aiormq: a write and an asyncio.Task per message."""

    async def one(index: int, message: Outgoing) -> None:
        try:
            await channel.basic_publish(
                message.body,
                exchange=message.exchange,
                routing_key=message.routing_key,
                properties=message.properties,
                mandatory=True,
            )
            outcomes[index] = None
        except Exception as error:  # noqa: BLE001  - whatever it is, it is what became of this message
            outcomes[index] = error

    # Cut short, they go on without us: aiormq closes the channel where it returns a message that nobody waits for.
    tasks = {asyncio.create_task(one(index, message)) for index, message in enumerate(messages)}
    _unanswered.update(tasks)
    for task in tasks:
        task.add_done_callback(_unanswered.discard)
    await asyncio.wait(tasks)


_unanswered: set[asyncio.Task[None]] = set()


class Batch:
    """What the broker has said so far of messages that were written together."""

    def __init__(self, channel: Channel, outcomes: Outcomes) -> None:
        self._channel = channel
        self._outcomes = outcomes
        self._open = 0
        self._tags: dict[str, int] = {}
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def add(self, index: int, message_id: str) -> None:
        """The message was written next on the channel: tell aiormq where its answer goes."""
        self._channel.delivery_tag += 1
        tag = self._channel.delivery_tag
        self._channel.confirmations[tag] = Confirmation(self, index)  # type: ignore[assignment]
        self._channel.message_id_delivery_tag[message_id] = self._tags[message_id] = tag
        self._open += 1

    def answer(self, index: int, error: Exception | None) -> None:
        """The broker's answer to one message, even when nobody waits for it any more."""
        self._outcomes[index] = error
        self._open -= 1
        if self._open:
            return
        for message_id, tag in self._tags.items():
            if self._channel.message_id_delivery_tag.get(message_id) == tag:
                del self._channel.message_id_delivery_tag[message_id]
        if not self.done.done():
            self.done.set_result(None)


class Confirmation:
    """Stands where aiormq keeps a future per message, and does of a future what aiormq asks of it.

    One real future per batch makes it cheap. And a late answer to a message that nobody waits for any more has a
    place to go, where a cancelled future makes aiormq close the channel.
    """

    __slots__ = ("_batch", "_index")

    def __init__(self, batch: Batch, index: int) -> None:
        self._batch = batch
        self._index = index

    def done(self) -> bool:
        """Not yet: with its answer it leaves aiormq's table."""
        return False

    def set_result(self, _: object) -> None:
        """The broker has it."""
        self._batch.answer(self._index, None)

    def set_exception(self, error: Exception) -> None:
        """The broker returned or refused it."""
        self._batch.answer(self._index, error)


async def write_together(channel: Channel, messages: Sequence[Outgoing], outcomes: Outcomes) -> None:
    """A Write that puts all messages into one write and waits for one future."""
    frames, written = _marshal(channel, messages, outcomes)
    if not written:
        return
    batch = Batch(channel, outcomes)
    # This future only makes the writer wait for a slow socket before it takes the next batch; nobody awaits it.
    drained = asyncio.get_running_loop().create_future()
    async with channel.lock:
        # The broker counts tags in the order of writing: nothing may come between `put` and aiormq's table. Cut short
        # inside `put`, nothing was written and no tag is used up.
        await channel.write_queue.put(aiormq.abc.ChannelFrame(frames, should_close=False, drain_future=drained))
        for index in written:
            batch.add(index, str(messages[index].properties.message_id))
    await batch.done


def _marshal(channel: Channel, messages: Sequence[Outgoing], outcomes: Outcomes) -> tuple[bytes, list[int]]:
    """The frames of all messages that can be written, and their places; the others have their outcome already."""
    frames, written = [], []
    number, size = channel.number, channel.max_content_size
    for index, (exchange, routing_key, content, properties) in enumerate(messages):
        try:
            parts = [
                _publish_frame(exchange, routing_key, number),
                frame.marshal(header.ContentHeader(properties=properties, body_size=len(content)), number),
                *(
                    frame.marshal(body.ContentBody(content[start : start + size]), number)
                    for start in range(0, len(content), size)
                ),
            ]
        except Exception as error:  # noqa: BLE001  - what cannot be written must not hold up the others
            outcomes[index] = error
            continue
        frames.extend(parts)
        written.append(index)
    return b"".join(frames), written


@lru_cache(maxsize=4096)  # the keys of events are kinds times ports: the same few come again and again
def _publish_frame(exchange: str, routing_key: str, number: int) -> bytes:
    return frame.marshal(commands.Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=True), number)


def best_write() -> Write:
    """The cheaper way, where the installed aiormq is one that it was tried with."""
    return write_together if version("aiormq").startswith(TRIED_WITH) else write_each
