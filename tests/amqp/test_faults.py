"""A broker that starves, hangs, dies or takes a consumer away: what the session promises holds through all of it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import aio_pika
import pytest

from bridge.amqp import wire
from bridge.amqp.topology import Topology
from bridge.errors import BrokerUnavailable
from bridge.flows.relay import Relay
from bridge.models import Clock, Publication
from dev.broker import BrokerNode
from tests.flows.world import world as flows

LARGE = b"x" * 128 * 1024
"""A publication that no socket's buffer holds many of."""


@pytest.fixture
def amqp_url(broken_node: BrokerNode) -> str:
    """Every session of these tests is with the node that they break."""
    return broken_node.url


def request(number: int, body: bytes = b"{}") -> Publication:
    return Publication("requests", "send.otp", body, message_id=f"r{number}")


def sessions_built(metrics) -> float:
    return metrics.sessions_total._value.get()


async def order(give, *words, **named):
    """Give the node an order, beside the loop."""
    return await asyncio.to_thread(give, *words, **named)


async def lies_ready(url: str, topology: Topology, queue: str) -> int:
    connection = await aio_pika.connect(url)
    async with connection, connection.channel() as channel:
        declared = await channel.declare_queue(topology.name(queue), passive=True)
        return declared.declaration_result.message_count or 0


class TestMemoryAlarm:
    @pytest.fixture
    async def starving(self, broken_node):
        """Turns the alarm on; it is off again afterwards."""

        async def starving():
            await order(broken_node.alarm, raised=True)

        yield starving
        await order(broken_node.alarm, raised=False)

    async def test_every_publish_ends_at_its_deadline_however_large(self, sessions, metrics, starving, broken_node):
        session = await sessions.start(publish_timeout_s=0.5, in_flight=50)
        await session.publish(request(0))
        await starving()
        async with asyncio.timeout(10):
            waves = [session.publish_many([request(n, LARGE) for n in range(100)]) for _ in range(3)]
            answers = [answer for wave in await asyncio.gather(*waves) for answer in wave]
        assert {type(answer) for answer in answers} == {BrokerUnavailable}
        await order(broken_node.alarm, raised=False)
        async with asyncio.timeout(20):
            while await session.publish_many([request(1)]) != [None]:
                pass
        assert sessions_built(metrics) == 1, "no connection was given up for it"

    async def test_reading_and_settling_go_on(self, sessions, metrics, topology, amqp_url, starving, until):
        session = await sessions.start(publish_timeout_s=0.5)
        await session.publish_many([request(number) for number in range(20)])
        await starving()
        with pytest.raises(BrokerUnavailable):
            await session.publish(request(99))  # from here on, the broker hears nothing more on that connection
        taken = []
        session.consume("send.otp", 5, lambda delivery: (taken.append(delivery), delivery.ack()))
        await until(lambda: len(taken) == 20)
        await session.stop_consuming("send.otp")
        assert await lies_ready(amqp_url, topology, "send.otp") == 0
        assert sessions_built(metrics) == 1

    async def test_events_stay_in_the_outbox_and_leave_after_it(
        self, sessions, metrics, prefix, amqp_url, starving, broken_node, tmp_path: Path, until
    ):
        session = await sessions.start(publish_timeout_s=0.5)
        connection = await aio_pika.connect(amqp_url)
        async with connection, connection.channel() as channel, flows(tmp_path) as flow:
            heard: set[str] = set()

            async def hear(told: aio_pika.abc.AbstractIncomingMessage) -> None:
                heard.add(str(told.message_id))

            queue = await channel.declare_queue(exclusive=True)
            await queue.bind(f"{prefix}.events", "sms.#")
            await queue.consume(hear, no_ack=True)
            events = [Publication("events", "sms.sent.otp.gw1.3", b"{}", message_id=f"e{n}") for n in range(300)]
            await starving()
            await flow.ledger.write(lambda tx: tx.publish(events, flow.wall))
            clock = Clock(time.time, time.monotonic)
            relay = Relay(flow.ledger, session.publish_many, metrics, clock, pause=1000, resume=500)
            assert not await relay.drain()
            assert not heard
            await order(broken_node.alarm, raised=False)
            running = asyncio.create_task(relay.run())
            await until(lambda: len(heard) == len(events))
            await until(lambda: metrics.outbox_pending._value.get() == 0)
            running.cancel()


class TestHangingNode:
    async def test_silence_longer_than_the_heartbeat_ends_the_session_and_its_return_begins_one(
        self, sessions, metrics, broken_node, until, monkeypatch
    ):
        monkeypatch.setattr(wire, "CLOSE_WITHIN_S", 0.2)
        session = await sessions.start(heartbeat_s=1, publish_timeout_s=0.5)
        taken = []
        session.consume("send.otp", 5, taken.append)
        await session.publish_many([request(number) for number in range(3)])
        await until(lambda: len(taken) == 3)
        await order(broken_node.pause)
        try:
            with pytest.raises(BrokerUnavailable):
                await session.publish(request(3))
            await until(lambda: not session.connected)
        finally:
            await order(broken_node.resume)
        await until(lambda: session.connected and session.describe()["reading"])
        await until(lambda: len({delivery.message_id for delivery in taken[3:]}) >= 3)
        for delivery in taken:
            delivery.ack()  # of those that the broker took back with the dead connection, this settles nothing
        await session.publish(request(4))
        await until(lambda: taken[-1].message_id == "r4")
        taken[-1].ack()
        assert sessions_built(metrics) >= 2


class TestKilledNode:
    async def test_everything_that_was_confirmed_is_there_after_the_crash(
        self, sessions, metrics, broken_node, until, monkeypatch
    ):
        session = await sessions.start(publish_timeout_s=2)
        assert await session.publish_many([request(number) for number in range(200)]) == [None] * 200
        held = []
        session.consume("send.otp", 10, held.append)
        await until(lambda: len(held) == 10)
        await order(broken_node.kill)
        with pytest.raises(BrokerUnavailable):
            await session.publish(request(999))
        for delivery in held[:5]:
            delivery.ack()  # too late: the broker never hears of it
        taken = set()
        session.consume("send.otp", 50, lambda delivery: (taken.add(delivery.message_id), delivery.ack()))
        await order(broken_node.restart)
        async with asyncio.timeout(30):
            await session.wait_connected()
        await until(lambda: taken >= {f"r{number}" for number in range(200)})
        await session.publish(request(1000))
        await until(lambda: "r1000" in taken)
        assert sessions_built(metrics) == 2


class TestConsumerTimeout:
    @pytest.fixture
    async def impatient(self, broken_node):
        """A broker that waits half a second for a settlement, in place of half an hour."""
        settings = {"consumer_timeout": 500, "channel_tick_interval": 200}
        for name, value in settings.items():
            await order(broken_node.ctl, "eval", f"application:set_env(rabbit, {name}, {value}).")
        yield
        for name, value in {"consumer_timeout": 1_800_000, "channel_tick_interval": 60_000}.items():
            await order(broken_node.ctl, "eval", f"application:set_env(rabbit, {name}, {value}).")

    async def test_a_delivery_that_is_held_too_long_comes_again_over_a_new_session(
        self, sessions, metrics, impatient, until, capsys
    ):
        session = await sessions.start()
        taken = []
        session.consume("send.otp", 5, taken.append)
        await session.publish(request(0))
        await until(lambda: len(taken) == 2)
        taken[0].ack()  # of the first channel, which is gone: nothing is settled by it
        taken[1].ack()
        await session.publish(request(1))
        await until(lambda: taken[-1].message_id == "r1")
        taken[-1].ack()
        assert [delivery.delivery_count for delivery in taken] == [0, 1, 0]
        assert "PRECONDITION_FAILED" in capsys.readouterr().out


class TestDeliveryLimit:
    async def test_what_is_given_back_too_often_is_returned_with_the_reason_and_told_as_rejected(
        self, sessions, topology, broken_node, tmp_path: Path, until
    ):
        policy = f"limit-{topology.prefix}"
        pattern = f"^{topology.prefix}[.]send[.]otp$"
        await order(broken_node.ctl, "set_policy", policy, pattern, '{"delivery-limit":2}', "--apply-to", "queues")
        session = await sessions.start()
        body = b'{"id": "often", "to": "+4915112345678", "text": "hi"}'
        await session.publish(Publication("requests", "send.otp", body, app_id="shop"))
        given_back = []
        session.consume("send.otp", 5, lambda delivery: (given_back.append(delivery), delivery.give_back()))
        async with flows(tmp_path) as flow:
            returned = []
            session.consume(
                "returned", 5, lambda delivery: (returned.append(delivery), flow.outbound.returned(delivery))
            )
            await until(lambda: returned)
            await flow.settle()
            (event,) = await flow.told()
            (dead,) = flow.published
        assert len(given_back) == 3
        assert returned[0].headers["x-death"][0]["reason"] == "delivery_limit"
        assert (event["type"], event["subject"]) == ("sms.rejected.v1", "often")
        assert event["data"]["reason"] == "delivery_limit"
        assert (dead.exchange, dead.headers["x-reason"], dead.body) == ("dead", "delivery_limit", body)
        await order(broken_node.ctl, "clear_policy", policy)
