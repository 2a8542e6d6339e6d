"""What several rooms' tests share: a real broker and names of their own on it."""

from __future__ import annotations

import secrets
import signal
from collections.abc import AsyncIterator, Iterator

import aio_pika
import pytest

from bridge.amqp.topology import Topology
from bridge.models import TIERS_S
from dev.broker import broker

ROUTES = ("default", "otp", "bulk")
GATEWAYS = ("gw1", "gw2")
"""The names that tests give to routes and gateways: what `prefix` sweeps afterwards."""


def pytest_configure() -> None:
    """Ctrl-C reaches what tests start, though a shell ignores it for what it runs in its background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def amqp_url() -> Iterator[str]:
    """A real broker: the one of AMQP_URL, else a private node that ends with the session."""
    with broker() as url:
        yield url


@pytest.fixture
async def prefix(amqp_url: str) -> AsyncIterator[str]:
    """A name of this test alone for `amqp.prefix`; its queues and exchanges are deleted afterwards."""
    name = f"test-{secrets.token_hex(4)}"
    yield name
    topology = Topology(name, ROUTES, GATEWAYS, tiers_s=(1, *TIERS_S))
    connection = await aio_pika.connect(amqp_url)
    async with connection, connection.channel() as channel:
        for queue in topology.queues:
            await channel.queue_delete(queue.name)
        for exchange in topology.exchanges:
            await channel.exchange_delete(exchange.name)
