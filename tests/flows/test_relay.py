"""The relay: what was confirmed goes, what was not stays, and nothing blocks the rest."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest

from bridge.errors import BrokerUnavailable
from bridge.flows.relay import Relay
from bridge.models import Clock, Publication
from tests.flows.world import World


class Broker:
    """Confirms what it is told to, and keeps it."""

    def __init__(self) -> None:
        self.kept: list[str] = []
        self.errors: dict[str, Exception] = {}
        self.asked = asyncio.Event()

    async def publish_many(self, publications: Sequence[Publication]) -> list[Exception | None]:
        self.asked.set()
        self.kept += [one.routing_key for one in publications if one.routing_key not in self.errors]
        return [self.errors.get(one.routing_key) for one in publications]


def relay_of(world: World, broker: Broker, *, pause: int = 100, resume: int = 50) -> Relay:
    clock = Clock(lambda: world.wall, time.monotonic)
    return Relay(world.ledger, broker.publish_many, world.metrics, clock, pause=pause, resume=resume)


async def put(world: World, *keys: str) -> None:
    publications = [Publication("events", key, b"{}") for key in keys]
    await world.ledger.write(lambda tx: tx.publish(publications, world.wall))


async def left(world: World) -> list[str]:
    rows = await world.ledger.write(lambda tx: tx.read_outbox(0, 100))
    return [publication.routing_key for _, publication in rows]


async def test_what_was_confirmed_goes_and_what_was_not_is_told_again(world: World) -> None:
    broker = Broker()
    relay = relay_of(world, broker)
    broker.errors["b"] = BrokerUnavailable()
    await put(world, "a", "b", "c")
    assert not await relay.drain()
    assert (await left(world), sorted(broker.kept)) == (["b"], ["a", "c"])
    broker.errors.clear()
    assert await relay.drain()
    assert (await left(world), broker.kept[-1]) == ([], "b")


async def test_what_amqp_has_no_form_for_does_not_block_the_rest(world: World) -> None:
    broker = Broker()
    broker.errors["odd"] = ValueError("no form")
    await put(world, "odd", "fine")
    assert await relay_of(world, broker).drain()
    assert (await left(world), broker.kept) == ([], ["fine"])


async def test_it_wakes_for_news_and_goes_on_after_a_broker_that_was_away(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.flows.relay.RETRY_S", (0.001, 0.001))
    broker = Broker()
    broker.errors["a"] = BrokerUnavailable()
    relay = relay_of(world, broker)
    running = asyncio.create_task(relay.run())
    await put(world, "a")
    relay.wake()
    await broker.asked.wait()
    broker.errors.clear()
    broker.asked.clear()
    await broker.asked.wait()
    running.cancel()
    assert broker.kept == ["a"]


async def test_above_its_limit_no_hand_over_is_begun_until_it_has_shrunk_and_the_log_says_so_before(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    broker = Broker()
    relay = relay_of(world, broker, pause=3, resume=1)
    broker.errors = dict.fromkeys("abcd", BrokerUnavailable())
    await put(world, *"ab")
    await relay.drain()
    assert not relay.paused and "outbox.filling" in capsys.readouterr().out
    await put(world, *"cd")
    relay._measure_at = 0.0
    await relay.drain()
    assert relay.paused and "outbox.full" in capsys.readouterr().out
    broker.errors.clear()
    await relay.drain()
    assert not relay.paused and "outbox.drained" in capsys.readouterr().out


async def test_what_one_queue_refuses_holds_up_nothing_else(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.flows.relay.CHUNK", 3)
    broker = Broker()
    broker.errors["full"] = BrokerUnavailable()
    await put(world, *["full"] * 7, "fine")
    relay = relay_of(world, broker)
    running = asyncio.create_task(relay.run())
    while "fine" not in broker.kept:
        broker.asked.clear()
        await broker.asked.wait()
    running.cancel()
    assert await left(world) == ["full"] * 7 + ["fine"] or await left(world) == ["full"] * 7


async def test_one_stuck_row_is_counted_as_one(world: World) -> None:
    broker = Broker()
    broker.errors["full"] = BrokerUnavailable()
    relay = relay_of(world, broker, pause=100)
    await put(world, "full")
    for _ in range(120):
        await put(world, "fine")
        await relay.drain()
    assert not relay.paused
    assert await world.ledger.write(lambda tx: tx.outbox_facts()[0]) == 1


async def test_what_was_told_is_forgotten_even_where_the_ledger_failed_meanwhile(world: World) -> None:
    broker = Broker()
    relay = relay_of(world, broker)
    await put(world, "a")
    assert await relay._step()
    with world.full_disk():
        assert not await relay._step()
    assert not await relay._step()
    assert (await left(world), broker.kept) == ([], ["a"])
