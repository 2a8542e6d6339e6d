"""Settling: once each, in order, merged, through one place."""

import asyncio
import random

import aio_pika
import pytest
from aiormq.abc import ChannelFrame
from pamqp.heartbeat import Heartbeat

from bridge.amqp.consumer import Settlement, Settler
from bridge.models import Publication

ACK, BACK = True, False


def due(settled: dict[int, bool | None]) -> list[Settlement]:
    """What is written when these deliveries have these verdicts (None: still in hand)."""
    settler = Settler(None)
    for tag in settled:
        settler.take(tag)
    marked = [tag for tag, verdict in settled.items() if verdict is not None]
    random.Random(1).shuffle(marked)
    for tag in marked:
        settler.settle(tag, ack=settled[tag])
    written = settler._due()
    assert settler.held == len(settled) - len(marked)
    assert settler._due() == []
    return written


@pytest.mark.parametrize(
    ("settled", "written"),
    [
        ({}, []),
        ({1: None}, []),
        ({1: ACK}, [(1, ACK, False)]),
        ({1: ACK, 2: ACK, 3: ACK}, [(3, ACK, True)]),
        ({1: ACK, 2: ACK, 3: None, 4: ACK, 5: ACK}, [(2, ACK, True), (4, ACK, False), (5, ACK, False)]),
        ({1: None, 2: ACK, 3: BACK}, [(2, ACK, False), (3, BACK, False)]),
        ({1: BACK, 2: BACK, 3: ACK, 4: None, 5: BACK}, [(2, BACK, True), (3, ACK, False), (5, BACK, False)]),
        ({7: ACK, 9: ACK}, [(9, ACK, True)]),
    ],
)
def test_runs_at_the_front_take_one_frame_and_nothing_waits_behind_a_slow_one(settled, written):
    assert due(settled) == written


async def test_a_delivery_is_settled_once(sessions, until):
    session = await sessions.start()
    await session.publish(Publication("requests", "send.otp", b"1"))
    taken = []
    session.consume("send.otp", 10, taken.append)
    await until(lambda: taken)
    taken[0].ack()
    with pytest.raises(AssertionError):
        taken[0].ack()
    await asyncio.sleep(0)
    with pytest.raises(AssertionError):
        taken[0].give_back()


async def test_a_delivery_tells_all_that_the_producer_wrote(sessions, until):
    session = await sessions.start()
    told = Publication(
        "requests",
        "gateway.gw1",
        b"body",
        message_id="m",
        app_id="shop",
        correlation_id="c",
        timestamp=1_700_000_000.0,
        reply_to="answers",
        headers={"x-attempt": 2, "x-tried": ["a"]},
    )
    await session.publish(told)
    taken = []
    session.consume("gateway.gw1", 10, taken.append)
    await until(lambda: taken)
    (one,) = taken
    assert (one.body, one.routing_key, one.queue) == (b"body", "gateway.gw1", "gateway.gw1")
    assert (one.message_id, one.app_id, one.correlation_id, one.reply_to) == ("m", "shop", "c", "answers")
    assert (one.timestamp, one.expiration_s, one.delivery_count) == (1_700_000_000.0, None, 0)
    assert one.headers == {"x-attempt": 2, "x-tried": ["a"]}
    one.ack()


async def test_stopping_leaves_the_receipts_in_hand_good(sessions, topology, world, until):
    session = await sessions.start()
    await session.publish_many([Publication("requests", "send.otp", b"%d" % n) for n in range(20)])
    taken = []
    session.consume("send.otp", 5, taken.append)
    await until(lambda: len(taken) == 5)
    await session.stop_consuming("send.otp")
    assert session.describe()["reading"] == []
    for delivery in taken:
        delivery.ack()
    await asyncio.sleep(0.1)
    assert len(taken) == 5
    assert await left(world, topology, "send.otp", 15)


async def test_another_prefetch_opens_the_consumer_anew(sessions, topology, world, until):
    session = await sessions.start()
    await session.publish_many([Publication("requests", "send.otp", b"%d" % n) for n in range(9)])
    taken = []
    session.consume("send.otp", 2, taken.append)
    await until(lambda: len(taken) == 2)
    session.consume("send.otp", 6, taken.append)
    await until(lambda: len(taken) == 8)
    for delivery in taken[:2]:
        delivery.ack()
    for delivery in taken[2:]:
        delivery.ack()
    await until(lambda: len(taken) == 9)
    taken[8].ack()
    assert sorted(int(delivery.body) for delivery in taken) == list(range(9))
    await sessions.stop(session)
    assert await left(world, topology, "send.otp", 0)


async def test_what_is_settled_before_a_close_reaches_the_broker(sessions, topology, world, until):
    session = await sessions.start()
    await session.publish_many([Publication("requests", "send.otp", b"%d" % n) for n in range(10)])
    taken = []
    session.consume("send.otp", 10, taken.append)
    await until(lambda: len(taken) == 10)
    for delivery in taken[:7]:
        delivery.ack()
    await sessions.stop(session)
    assert await left(world, topology, "send.otp", 3)


async def test_settling_in_any_order_with_a_full_write_queue_never_closes_the_channel(
    sessions, topology, metrics, world, until
):
    """Cumulative acks that overtake each other in aiormq's full write queue made the broker close the channel."""
    session = await sessions.start()
    count = 2_000
    await session.publish_many([Publication("requests", "send.otp", b"%d" % n) for n in range(count)])
    queue = session._link._reading.write_queue
    stuffing = [asyncio.create_task(stuff(queue)) for _ in range(2 * queue.maxsize)]
    chance = random.Random(7)
    held, settled = [], 0

    def settle_some(delivery):
        nonlocal settled
        held.append(delivery)
        if len(held) >= 200:
            chance.shuffle(held)
            for _ in range(150):
                held.pop().ack()
                settled += 1

    session.consume("send.otp", 500, settle_some)
    await until(lambda: settled + len(held) == count)
    assert len(queue._putters) > 0
    for delivery in held:
        delivery.ack()
    for one in stuffing:
        one.cancel()
    await sessions.stop(session)
    assert await left(world, topology, "send.otp", 0)
    assert metrics.sessions_total._value.get() == 1


async def stuff(queue: asyncio.Queue) -> None:
    """Keep a connection's write queue full, so that whoever writes waits among others for a place."""
    heartbeat = ChannelFrame.marshall(frames=[Heartbeat()], channel_number=0)
    while True:
        await queue.put(heartbeat)


async def left(world, topology, queue: str, count: int) -> bool:
    """Whether so many messages come to lie ready: what is settled last reaches a quorum queue after the close."""
    for _ in range(200):
        ready = (await world.get_queue(topology.name(queue))).declaration_result.message_count
        if ready == count:
            return True
        await asyncio.sleep(0.01)
    return False


async def test_a_command_that_arrives_while_its_reading_ends_is_taken(sessions, topology, world, until, monkeypatch):
    session = await sessions.start()
    exchange = await world.get_exchange(topology.name("commands"), ensure=False)
    taken = []
    session.consume("command", 1, taken.append)
    await until(lambda: session.describe()["reading"] == ["command"])
    consumer = session._link._consumers["command"]
    cancel = consumer.channel.basic_cancel

    async def cancel_late(consumer_tag):
        await exchange.publish(aio_pika.Message(b"{}"), "bridge")
        await until(lambda: consumer.received)
        return await cancel(consumer_tag)

    monkeypatch.setattr(consumer.channel, "basic_cancel", cancel_late)
    await session.stop_consuming("command")
    assert [one.body for one in taken] == [b"{}"]


async def test_a_command_is_settled_before_anybody_sees_it_and_never_comes_again(sessions, topology, world, until):
    session = await sessions.start()
    exchange = await world.get_exchange(topology.name("commands"), ensure=False)
    await exchange.publish(aio_pika.Message(b"first"), "bridge")
    taken = []
    session.consume("command", 1, taken.append)
    await until(lambda: taken)
    await exchange.publish(aio_pika.Message(b"second"), "bridge")
    await until(lambda: len(taken) == 2)  # though the first has no verdict
    taken[0].ack()
    taken[1].give_back()
    await sessions.stop(session)
    left = await world.get_queue(topology.name("command"))
    assert (left.declaration_result.message_count, [each.body for each in taken]) == (0, [b"first", b"second"])
