"""The broker as the rest of the bridge sees it: publish, consume, and whether it is there.

A session stands on one Link at a time. Where that is lost, a new one is built whole, after a back-off with jitter: a
client that mends half a session resumes in half states. Wishes (which queues to read) outlive every link, and work
in hand is not tied to one.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import structlog
from yarl import URL

from bridge.amqp import topology as topologies
from bridge.amqp import wire
from bridge.amqp.link import Link, Wish, explain
from bridge.amqp.publisher import Publisher
from bridge.amqp.topology import Topology
from bridge.amqp.wire import BROKEN
from bridge.errors import BrokerUnavailable, TopologyMismatch
from bridge.metrics import Metrics
from bridge.models import Delivery, Publication
from bridge.settings import AmqpSettings

log = structlog.get_logger()

BACK_OFF_S = (0.5, 5.0)
STEADY_S = 30.0  # a link that stood this long was a good one: after it, the back-off begins anew


class Session:
    """The session with the broker; `run` keeps it standing."""

    def __init__(self, settings: AmqpSettings, topology: Topology, metrics: Metrics) -> None:
        self._settings = settings
        self._topology = topology
        self._metrics = metrics
        self._wishes: dict[str, Wish] = {}
        self._unheard: set[str] = set()
        self._link: Link | None = None
        self._up = asyncio.Event()
        self._trouble = "not connected yet"
        self._stood = False
        self._running: asyncio.Task[Any] | None = None
        self._closing = asyncio.Event()
        self._ended = asyncio.Event()
        self._ended.set()

    @property
    def connected(self) -> bool:
        """Whether a link stands."""
        return self._up.is_set()

    async def wait_connected(self) -> None:
        """Wait until a link stands."""
        await self._up.wait()

    def describe(self) -> dict[str, Any]:
        """What /readyz tells: the trouble, if any, what is being read, and which queues another bridge reads."""
        link = self._link if self.connected else None
        return {
            "connected": self.connected,
            "trouble": None if self.connected else self._trouble,
            "reading": link.reading if link else [],
            "read_by_another": link.taken if link else [],
        }

    # --- its life ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep a link standing until cancelled or closed; a broker out of reach is waited for.

        Raises TopologyMismatch where the first declaring finds queues or exchanges that differ, and whatever a
        consumer's `on_delivery` raised: both need a person.
        """
        self._ended.clear()
        self._running = asyncio.current_task()
        now = asyncio.get_running_loop().time
        wait_s = BACK_OFF_S[0]
        try:
            while not self._closing.is_set():
                began = now()
                await self._try_each_url()
                await self._pause(random.uniform(0.5, 1.0) * wait_s)  # noqa: S311  - jitter is no secret
                wait_s = BACK_OFF_S[0] if now() - began > STEADY_S else min(2 * wait_s, BACK_OFF_S[1])
        except asyncio.CancelledError:
            if not self._closing.is_set():
                raise
        finally:
            self._ended.set()

    async def close(self) -> None:
        """End `run`, after what is settled already has been written; nothing where it has ended."""
        self._closing.set()
        if self.connected and self._link is not None:
            self._link.leave()
        elif self._running is not None:
            self._running.cancel()  # whatever it waits for has no farewell to take
        await self._ended.wait()

    async def _pause(self, wait_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._closing.wait()

    async def _try_each_url(self) -> None:
        """Stand on the first URL that takes us, until that is lost."""
        for url in self._settings.urls:
            self._link = Link(self._settings, self._topology, self._metrics, self._wishes)
            try:
                reason = await self._link.stand(url, self._unheard, partial(self._on_standing, url))
            except TopologyMismatch as error:
                if not self._stood:
                    raise
                reason = str(error)
            except (*BROKEN, TimeoutError) as error:
                reason = explain(error)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                reason = "the connection broke while it was being made"  # aiormq says so by a CancelledError
            finally:
                stood = self._up.is_set()
                self._up.clear()
                self._link = None
                self._metrics.broker_connected.set(0)
            self._tell(reason, url, stood)
            if stood or self._closing.is_set():
                return

    def _on_standing(self, url: str) -> None:
        self._up.set()
        self._stood = True
        self._trouble = ""
        self._metrics.broker_connected.set(1)
        self._metrics.sessions_total.inc()
        log.info("broker.connected", host=_host(url))

    def _tell(self, reason: str, url: str, stood: bool) -> None:
        """Log a change, not each attempt."""
        if self._closing.is_set():
            log.info("broker.left", host=_host(url))
        elif stood:
            log.warning("broker.lost", host=_host(url), reason=reason)
        elif reason != self._trouble:
            log.warning("broker.unreachable", host=_host(url), reason=reason)
        self._trouble = reason

    # --- publishing -------------------------------------------------------------------------------------------------

    async def publish(self, publication: Publication) -> None:
        """Publish and wait for the confirm, within `publish_timeout_s` in all.

        Raises BrokerUnavailable where the broker is not known to have it, Unroutable where no queue takes it, and
        ValueError where AMQP has no form for it. An event that nobody listens to counts as told.
        """
        (failure,) = await self.publish_many([publication])
        if failure is not None:
            raise failure

    async def publish_many(self, publications: Sequence[Publication]) -> list[Exception | None]:
        """Publish many at once: per publication None, or what `publish` would raise. One deadline for all."""
        now = asyncio.get_running_loop().time
        deadline = now() + self._settings.publish_timeout_s
        publisher = await self._wait_publisher()
        if publisher is None:
            self._metrics.publish_failures_total.labels("disconnected").inc(len(publications))
            return [BrokerUnavailable(f"no connection to the broker: {self._trouble}") for _ in publications]
        return await publisher.publish_many(publications, deadline - now())

    async def _wait_publisher(self) -> Publisher | None:
        if not self.connected and not self._closing.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.publish_timeout_s):
                    await self._up.wait()
        return self._link.publisher if self.connected and self._link else None

    # --- consuming --------------------------------------------------------------------------------------------------

    def consume(self, queue: str, prefetch: int, on_delivery: Callable[[Delivery], None]) -> None:
        """Read a queue (`send.otp`, `gateway.gw1`, `returned`, `command.gw1`) from now on, whatever the session loses.

        Each delivery is handed to `on_delivery` at once; it must not block and must not raise. Called again with
        another prefetch, it opens the consumer anew. A command is settled before it is handed over (design 1.1).
        """
        commands = self._topology.command_queues
        if queue not in (*self._topology.request_queues, "returned", *commands):
            raise ValueError(f"{queue!r} is no queue of this bridge")
        self._wishes[queue] = Wish(prefetch, on_delivery, at_most_once=queue in commands)
        if self._link is not None:
            self._link.wishes_changed()

    async def stop_consuming(self, queue: str) -> None:
        """Read it no more; returns when the broker will send nothing further. Receipts in hand stay good."""
        self._wishes.pop(queue, None)
        if self.connected and self._link is not None:
            await self._link.stop_consuming(queue)


def _host(url: str) -> str:
    """Where it goes, without the password."""
    parts = URL(url)
    return f"{parts.host}:{parts.port}" if parts.port else str(parts.host)


async def declare(settings: AmqpSettings, topology: Topology) -> None:
    """Declare the topology over a connection of its own, at the first broker that takes us.

    Raises TopologyMismatch, or BrokerUnavailable.
    """
    trouble = ""
    for url in settings.urls:
        try:
            async with wire.connection(url, "declares", heartbeat_s=settings.heartbeat_s) as connection:
                await topologies.declare(connection, topology)
                return
        except (*BROKEN, TimeoutError) as error:
            trouble = explain(error)
    raise BrokerUnavailable(f"the topology could not be declared: {trouble}")
