"""What several rooms' tests share: a real broker and names of their own on it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator

import aio_pika
import pytest

from dev.broker import broker

ROUTES = ("default", "otp", "bulk")
GATEWAYS = ("gw1", "gw2")
"""The names that tests give to routes and gateways; `prefix` sweeps exactly these afterwards."""


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
    later = [f"later.{seconds}" for seconds in (5, 60, 900)]
    queues = [f"send.{route}" for route in ROUTES] + [f"gateway.{gateway}" for gateway in GATEWAYS]
    connection = await aio_pika.connect(amqp_url)
    async with connection, connection.channel() as channel:
        for queue in (*queues, *later, "returned", "dead"):
            await channel.queue_delete(f"{name}.{queue}")
        for exchange in ("requests", "events", *later, "returned", "dead"):
            await channel.exchange_delete(f"{name}.{exchange}")
