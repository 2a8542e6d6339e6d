"""What a patient producer and a patient consumer do: publish until it is confirmed, read until the end.

Both build their connection anew whenever it is lost or silent, and work directly with the broker: the network that
misbehaves is the bridge's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import aio_pika
import aiormq.exceptions
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from dev.chaos.judge import Asked
from dev.chaos.plan import APP_ID, to_bytes

LOST = (aio_pika.exceptions.AMQPError, aiormq.exceptions.AMQPError, OSError, TimeoutError, RuntimeError)
"""What a connection ends with when the broker is killed, paused or short of memory."""

CONFIRM_WITHIN_S = 5.0
RETRY_S = 0.5
QUIET_LOOKS = 3
"""What was delivered and not read yet is no longer counted as left: one look is not enough."""


class Producer:
    """Publishes requests, confirmed, again and again until they are."""

    def __init__(self, url: str, prefix: str) -> None:
        self._url = url
        self._exchange_name = f"{prefix}.requests"
        self._opening = asyncio.Lock()
        self._connection: aio_pika.abc.AbstractConnection | None = None
        self._exchange: aio_pika.abc.AbstractExchange | None = None

    async def publish(self, asked: Asked) -> None:
        """Return when the broker has confirmed it; notes when it was tried first and confirmed."""
        ask = asked.ask
        asked.published_at = time.time()
        body: Mapping[str, Any] | bytes = ask.body
        if ask.not_before_s is not None and not isinstance(body, bytes):
            moment = datetime.fromtimestamp(asked.published_at, UTC) + timedelta(seconds=ask.not_before_s)
            body = {**body, "not_before": moment.isoformat()}
        message = aio_pika.Message(
            to_bytes(body),
            app_id=APP_ID,
            message_id=ask.key,
            timestamp=asked.published_at,
            content_type="application/json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        )
        while asked.confirmed_at is None:
            exchange = None
            try:
                async with asyncio.timeout(CONFIRM_WITHIN_S):
                    exchange = await self._open()
                    await exchange.publish(message, ask.routing_key)
                asked.confirmed_at = time.time()
            except Exception as error:
                if not isinstance(error, LOST) and type(error) is not Exception:  # aiormq raises it bare, too
                    raise
                await self._drop(exchange)
            except asyncio.CancelledError:  # aiormq cancels what waits on a connection that is lost
                if (task := asyncio.current_task()) is None or task.cancelling():
                    raise
                await self._drop(exchange)

    async def _open(self) -> aio_pika.abc.AbstractExchange:
        async with self._opening:
            if self._exchange is None:
                self._connection = await aio_pika.connect(self._url, timeout=CONFIRM_WITHIN_S)
                channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
                self._exchange = await channel.get_exchange(self._exchange_name, ensure=False)
            return self._exchange

    async def _drop(self, exchange: aio_pika.abc.AbstractExchange | None) -> None:
        """Forget a connection that did not confirm; the first to notice does it for all."""
        if exchange is self._exchange:
            await self.close()
        await asyncio.sleep(RETRY_S)

    async def close(self) -> None:
        """Close what is open."""
        connection, self._connection, self._exchange = self._connection, None, None
        await _close(connection)


class Listener:
    """Reads all events from a durable queue of its own and acknowledges them."""

    def __init__(self, url: str, prefix: str, on_event: Callable[[float, dict[str, Any]], None]) -> None:
        self._url = url
        self._exchange = f"{prefix}.events"
        self.queue = f"{prefix}.told"
        self._on_event = on_event

    async def declare(self) -> None:
        """Bind the queue; the events of later are kept whoever is there."""
        async with channel_of(self._url) as channel:
            queue = await channel.declare_queue(self.queue, durable=True, arguments={"x-queue-type": "quorum"})
            await queue.bind(self._exchange, "#")

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            with contextlib.suppress(*LOST):
                async with channel_of(self._url) as channel:
                    await channel.set_qos(prefetch_count=500)
                    await (await channel.get_queue(self.queue, ensure=False)).consume(self._read)
                    while not channel.is_closed:  # noqa: ASYNC110 - a poll sees every way to lose it
                        await asyncio.sleep(RETRY_S)
            await asyncio.sleep(RETRY_S)

    async def emptied(self, channel: AbstractChannel) -> None:
        """Wait until all that was told so far has been read."""
        quiet = 0
        while quiet < QUIET_LOOKS:
            await asyncio.sleep(RETRY_S)
            left = (await channel.declare_queue(self.queue, passive=True)).declaration_result.message_count
            quiet = 0 if left else quiet + 1

    async def _read(self, message: AbstractIncomingMessage) -> None:
        self._on_event(time.time(), json.loads(message.body))
        with contextlib.suppress(*LOST):
            await message.ack()


@contextlib.asynccontextmanager
async def channel_of(url: str) -> AsyncIterator[AbstractChannel]:
    """A channel on a connection of its own, which goes with it."""
    connection = await aio_pika.connect(f"{url}?heartbeat=5", timeout=CONFIRM_WITHIN_S)
    try:
        yield await connection.channel()
    finally:
        await _close(connection)


async def _close(connection: aio_pika.abc.AbstractConnection | None) -> None:
    if connection is not None:
        with contextlib.suppress(*LOST):
            async with asyncio.timeout(1.0):
                await connection.close()
