"""A topology, sessions and a cable that can be cut, for the tests of the broker's edge."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import aio_pika
import pytest
from prometheus_client import CollectorRegistry
from yarl import URL

from bridge.amqp import link, session
from bridge.amqp.session import Session
from bridge.amqp.topology import Topology
from bridge.metrics import Metrics
from bridge.settings import AmqpSettings
from dev.broker import BrokerNode, node_broker

PATIENCE_S = 10.0


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    """Everything that is tried again is tried soon."""
    monkeypatch.setattr(session, "BACK_OFF_S", (0.02, 0.1))
    monkeypatch.setattr(link, "TAKEN_RETRY_S", 0.02)
    monkeypatch.setattr(link, "TAKEN_FOR_S", 0.1)


@pytest.fixture(scope="package")
def broken_node() -> Iterator[BrokerNode]:
    """A node that tests may kill, pause and starve, and leave running well."""
    if "AMQP_URL" in os.environ:
        pytest.skip("it would break the broker of AMQP_URL: without that, a node of its own is broken")
    with node_broker() as node:
        yield node


@pytest.fixture
def topology(prefix: str) -> Topology:
    return Topology(prefix, ("otp", "bulk"), ("gw1",), tiers_s=(1,))


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


@pytest.fixture
async def world(amqp_url: str) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
    """Somebody else's channel on the same broker."""
    connection = await aio_pika.connect(amqp_url)
    async with connection, connection.channel(on_return_raises=True) as channel:
        yield channel


class Running:
    """Sessions that run in the background of a test."""

    def __init__(self, amqp_url: str, topology: Topology, metrics: Metrics) -> None:
        self._defaults: dict[str, Any] = {"url": amqp_url, "prefix": topology.prefix}
        self._topology = topology
        self._metrics = metrics
        self.lives: dict[Session, asyncio.Task[None]] = {}

    async def start(
        self,
        *,
        connected: bool = True,
        topology: Topology | None = None,
        metrics: Metrics | None = None,
        **settings: Any,
    ) -> Session:
        one = Session(AmqpSettings(**(self._defaults | settings)), topology or self._topology, metrics or self._metrics)
        self.lives[one] = asyncio.create_task(one.run())
        if connected:
            async with asyncio.timeout(PATIENCE_S):
                await one.wait_connected()
        return one

    async def stop(self, one: Session) -> None:
        await one.close()
        await self.lives.pop(one)


@pytest.fixture
async def sessions(amqp_url: str, topology: Topology, metrics: Metrics) -> AsyncIterator[Running]:
    running = Running(amqp_url, topology, metrics)
    yield running
    for one in list(running.lives):
        await running.stop(one)


@pytest.fixture
def until() -> Callable[[Callable[[], Any]], Any]:
    """Wait until something is so, and return what it is."""

    async def until(is_so: Callable[[], Any]) -> Any:
        async with asyncio.timeout(PATIENCE_S):
            while not (found := is_so()):  # noqa: ASYNC110  - what is waited for has no event of its own
                await asyncio.sleep(0.01)
        return found

    return until


class Cable:
    """The way to the broker, which can be cut, blocked, and pulled out so that only our end notices."""

    def __init__(self, target: URL) -> None:
        self._target = target
        self._plugged: list[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = []
        self._pulled: list[asyncio.StreamWriter] = []
        self._pumps: set[asyncio.Task[None]] = set()
        self.flows = asyncio.Event()
        self.flows.set()
        self.refuses = False
        self.accepted = 0

    async def lay(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = str(self._target.with_port(self._server.sockets[0].getsockname()[1]))

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self.refuses:
            writer.transport.abort()
            return
        broker_reader, broker_writer = await asyncio.open_connection(self._target.host, self._target.port)
        self._plugged.append((writer, broker_writer))
        for source, sink in ((reader, broker_writer), (broker_reader, writer)):
            pump = asyncio.create_task(self._pump(source, sink))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while read := await source.read(65536):
                await self.flows.wait()
                sink.write(read)
                await sink.drain()
        if sink not in self._pulled:
            sink.close()

    def cut(self) -> None:
        self.pull()
        self.let_go()

    def pull(self) -> None:
        """Our end is gone; the broker has not noticed."""
        for ours, theirs in self._plugged:
            self._pulled.append(theirs)
            ours.transport.abort()
        self._plugged.clear()

    def let_go(self) -> None:
        """Now the broker notices too."""
        for theirs in self._pulled:
            theirs.transport.abort()
        self._pulled.clear()

    async def take_up(self) -> None:
        self._server.close()
        self.cut()
        for pump in list(self._pumps):
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)


@pytest.fixture
async def cable(amqp_url: str) -> AsyncIterator[Cable]:
    one = Cable(URL(amqp_url))
    await one.lay()
    yield one
    await one.take_up()
