"""The topology as data, and each rule of the broker that the bridge leans on, tried on the broker."""

import asyncio
import re
import time

import aio_pika
import pytest
from aio_pika import Message
from aio_pika.abc import DeliveryMode

from bridge.amqp import session as sessions_room
from bridge.amqp.topology import Topology, definitions, permissions
from bridge.errors import BrokerUnavailable, TopologyMismatch
from bridge.models import Publication
from bridge.settings import AmqpSettings

# --- data -----------------------------------------------------------------------------------------------------------

SMS = Topology("sms", ("otp",), ("gw1",))


def test_the_names_are_those_of_the_contract():
    assert {exchange.name: exchange.type for exchange in SMS.exchanges} == {
        "sms.requests": "topic",
        "sms.events": "topic",
        "sms.returned": "fanout",
        "sms.dead": "fanout",
        "sms.commands": "topic",
        "sms.later.5": "fanout",
        "sms.later.60": "fanout",
        "sms.later.900": "fanout",
    }
    assert {queue.name for queue in SMS.queues} == {
        "sms.send.otp",
        "sms.gateway.gw1",
        "sms.returned",
        "sms.later.5",
        "sms.later.60",
        "sms.later.900",
        "sms.dead",
        "sms.command",
        "sms.command.gw1",
    }


def test_a_logical_name_and_the_brokers_name_lead_to_each_other():
    assert SMS.name("send.otp") == "sms.send.otp"
    assert SMS.logical("sms.send.otp") == "send.otp"
    assert SMS.logical("smsx.send.otp") is None
    assert SMS.logical("other") is None


@pytest.mark.parametrize(
    ("queue", "dead_letters_to"),
    [("sms.send.otp", "sms.returned"), ("sms.gateway.gw1", "sms.returned"), ("sms.returned", "sms.dead")],
)
def test_a_queue_that_is_consumed_never_drops(queue, dead_letters_to):
    arguments = {each.name: each.arguments for each in SMS.queues}[queue]
    assert arguments == {
        "x-queue-type": "quorum",
        "x-delivery-limit": 1_000_000,
        "x-dead-letter-exchange": dead_letters_to,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


def test_a_tier_hands_back_to_the_requests_and_the_dead_stay_two_weeks():
    arguments = {each.name: each.arguments for each in SMS.queues}
    assert arguments["sms.later.60"] == {
        "x-queue-type": "quorum",
        "x-message-ttl": 60_000,
        "x-dead-letter-exchange": "sms.requests",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }
    assert arguments["sms.dead"]["x-message-ttl"] == 14 * 24 * 3600 * 1000
    assert "x-dead-letter-exchange" not in arguments["sms.dead"]


def test_a_command_is_gone_after_a_minute_and_goes_nowhere():
    arguments = {each.name: each.arguments for each in SMS.queues}["sms.command"]
    assert arguments == {"x-queue-type": "classic", "x-message-ttl": 60_000}
    assert ("sms.commands", "sms.command", "bridge") in SMS.bindings


def allowed(pattern: str, name: str) -> bool:
    return re.search(pattern, name) is not None


def test_each_kind_of_user_may_do_what_it_needs_and_no_more():
    kinds = permissions(SMS)
    producer, careful = kinds["producer"], kinds["bridge (amqp.declare: false)"]
    assert allowed(producer.write, "sms.requests")
    assert not any(allowed(producer.write, name) for name in ("sms.events", "sms.requestsx", "xsms.requests"))
    assert not any(allowed(pattern, "sms.requests") for pattern in (producer.configure, producer.read))
    assert [each.name for each in SMS.exchanges if not allowed(careful.write, each.name)] == ["sms.commands"]
    assert allowed(careful.write, "amq.default")
    assert all(allowed(careful.read, f"sms.{queue}") for queue in ("send.otp", "gateway.gw1", "returned", "command"))
    assert not allowed(careful.read, "sms.dead")
    assert not allowed(careful.configure, "sms.requests")
    assert all(allowed(kinds["bridge"].configure, queue.name) for queue in SMS.queues)
    assert not allowed(kinds["bridge"].configure, "smsx.send.otp")
    operator = kinds["operator"]
    assert allowed(operator.write, "sms.commands") and allowed(operator.read, "sms.dead")
    assert not any(allowed(operator.write, name) for name in ("sms.requests", "sms.events", "sms.dead"))
    assert not any(allowed(operator.read, name) for name in ("sms.send.otp", "sms.returned", "sms.command"))


# --- on the broker --------------------------------------------------------------------------------------------------


@pytest.fixture
async def declared(amqp_url, topology):
    await sessions_room.declare(AmqpSettings(url=amqp_url), topology)
    return topology


async def take(world, name: str, count: int = 1) -> list[aio_pika.abc.AbstractIncomingMessage]:
    """The next messages of a queue, acknowledged."""
    queue = await world.get_queue(name)
    taken = []
    async with asyncio.timeout(10):
        while len(taken) < count:
            message = await queue.get(fail=False)
            if message is None:
                await asyncio.sleep(0.02)
            else:
                await message.ack()
                taken.append(message)
    return taken


async def put(world, exchange: str, routing_key: str, body: bytes = b"{}", **properties):
    message = Message(body, delivery_mode=DeliveryMode.PERSISTENT, **properties)
    await (await world.get_exchange(exchange, ensure=False)).publish(message, routing_key)


async def depth(world, name: str) -> int:
    return (await world.get_queue(name)).declaration_result.message_count


async def test_declaring_again_changes_nothing(declared, amqp_url):
    await sessions_room.declare(AmqpSettings(url=amqp_url), declared)


async def test_a_queue_with_other_arguments_is_refused_by_name_and_argument(declared, amqp_url, world):
    await world.queue_delete(f"{declared.prefix}.send.bulk")
    arguments = dict(next(q.arguments for q in declared.queues if q.name.endswith("send.bulk")))
    await world.declare_queue(
        f"{declared.prefix}.send.bulk", durable=True, arguments=arguments | {"x-delivery-limit": 20}
    )
    with pytest.raises(TopologyMismatch, match=rf"queue '{declared.prefix}.send.bulk' .*'x-delivery-limit'.*'20'"):
        await sessions_room.declare(AmqpSettings(url=amqp_url), declared)


async def test_an_exchange_of_another_kind_is_refused_by_name(amqp_url, topology, world):
    await world.declare_exchange(f"{topology.prefix}.events", "direct", durable=True)
    with pytest.raises(TopologyMismatch, match=rf"exchange '{topology.prefix}.events' exists with another 'type'"):
        await sessions_room.declare(AmqpSettings(url=amqp_url), topology)


async def test_a_broker_out_of_reach_is_said_without_the_password():
    with pytest.raises(BrokerUnavailable) as told:
        await sessions_room.declare(AmqpSettings(url="amqp://me:secret@127.0.0.1:1/"), SMS)
    assert "Connect call failed" in str(told.value)
    assert "secret" not in str(told.value)


async def test_the_definitions_file_makes_the_same_topology(amqp_url, topology, world):
    told = definitions(topology)
    for exchange in told["exchanges"]:
        await world.declare_exchange(
            exchange["name"], exchange["type"], durable=exchange["durable"], arguments=exchange["arguments"]
        )
    for queue in told["queues"]:
        await world.declare_queue(queue["name"], durable=queue["durable"], arguments=queue["arguments"])
    for binding in told["bindings"]:
        await (await world.get_queue(binding["destination"])).bind(binding["source"], binding["routing_key"])
    await sessions_room.declare(AmqpSettings(url=amqp_url), topology)
    await put(world, f"{topology.prefix}.requests", "send.otp")
    await put(world, f"{topology.prefix}.dead", "any")
    await take(world, f"{topology.prefix}.send.otp")
    await take(world, f"{topology.prefix}.dead")


async def test_a_tier_hands_back_under_the_same_key_with_all_properties_but_the_expiration(declared, world):
    await put(
        world,
        f"{declared.prefix}.later.1",
        "send.otp",
        b"body",
        message_id="m",
        app_id="shop",
        correlation_id="c",
        reply_to="r",
        timestamp=1_700_000_000,
        expiration=60,
        headers={"x-attempt": 2, "x-tried": ["a", "b"], "x-expires-at": 1.5},
    )
    began = time.monotonic()
    (back,) = await take(world, f"{declared.prefix}.send.otp")
    assert time.monotonic() - began > 0.5
    assert (back.body, back.routing_key, back.message_id, back.app_id) == (b"body", "send.otp", "m", "shop")
    assert (back.correlation_id, back.reply_to, back.timestamp.timestamp()) == ("c", "r", 1_700_000_000)
    assert {name: back.headers[name] for name in ("x-attempt", "x-tried", "x-expires-at")} == {
        "x-attempt": 2,
        "x-tried": ["a", "b"],
        "x-expires-at": 1.5,
    }
    assert back.expiration is None


async def test_a_removed_route_ends_in_returned_and_blocks_nobody_in_the_tier(declared, world):
    for number in range(40):
        await put(world, f"{declared.prefix}.later.1", "send.gone", b"%d" % number)
    await put(world, f"{declared.prefix}.later.1", "send.otp", b"good")
    (good,) = await take(world, f"{declared.prefix}.send.otp")
    assert good.body == b"good"
    returned = await take(world, f"{declared.prefix}.returned", 40)
    assert {message.routing_key for message in returned} == {"send.gone"}
    assert {declared.logical(message.headers["x-death"][0]["queue"]) for message in returned} == {"later.1"}


async def test_what_expires_in_a_send_queue_says_so_in_returned(declared, world):
    await put(world, f"{declared.prefix}.requests", "send.otp", b"late", expiration=0.05)
    (returned,) = await take(world, f"{declared.prefix}.returned")
    death = returned.headers["x-death"][0]
    assert (returned.body, returned.routing_key) == (b"late", "send.otp")
    assert (death["reason"], declared.logical(death["queue"])) == ("expired", "send.otp")


async def test_a_mistyped_route_is_confirmed_and_lies_in_returned_without_x_death(declared, world):
    await put(world, f"{declared.prefix}.requests", "send.opt", b"lost?")
    (returned,) = await take(world, f"{declared.prefix}.returned")
    assert (returned.body, returned.routing_key) == (b"lost?", "send.opt")
    assert "x-death" not in returned.headers


async def test_what_returned_gives_up_is_kept_among_the_dead(declared, world):
    await put(world, f"{declared.prefix}.requests", "send.opt", b"hopeless")
    queue = await world.get_queue(f"{declared.prefix}.returned")
    await (await queue.get()).reject(requeue=False)
    (dead,) = await take(world, f"{declared.prefix}.dead")
    assert dead.body == b"hopeless"


async def test_a_retired_route_gets_nothing_new_and_keeps_its_backlog(declared, amqp_url, world):
    await put(world, f"{declared.prefix}.requests", "send.bulk", b"old")
    retired = Topology(
        declared.prefix, ("otp",), ("gw1",), retired=("send.bulk", "gateway.never"), tiers_s=declared.tiers_s
    )
    await sessions_room.declare(AmqpSettings(url=amqp_url), retired)
    await put(world, f"{declared.prefix}.requests", "send.bulk", b"new")
    (returned,) = await take(world, f"{declared.prefix}.returned")
    assert returned.body == b"new"
    assert await depth(world, f"{declared.prefix}.send.bulk") == 1


async def test_given_back_deliveries_keep_their_place_at_the_front(sessions, topology, until):
    session = await sessions.start()
    await session.publish_many([Publication("requests", "send.otp", b"%d" % n) for n in range(6)])
    first, again = [], []
    session.consume("send.otp", 3, first.append)
    await until(lambda: len(first) == 3)
    await session.stop_consuming("send.otp")
    for delivery in (first[1], first[2], first[0]):
        delivery.give_back()
    session.consume("send.otp", 6, again.append)
    await until(lambda: len(again) == 6)
    assert [delivery.body for delivery in again] == [b"0", b"1", b"2", b"3", b"4", b"5"]
    assert [delivery.delivery_count for delivery in again] == [1, 1, 1, 0, 0, 0]
    for delivery in again:
        delivery.ack()


async def test_a_full_queue_refuses_and_the_publisher_is_told(sessions, topology, metrics, world):
    session = await sessions.start()
    full = await world.declare_queue(
        f"{topology.prefix}.full", exclusive=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"}
    )
    await full.bind(f"{topology.prefix}.events", "#")
    event = Publication("events", "sms.sent.otp.gw1.1", b"{}")
    results = [str(result) for result in await session.publish_many([event, event, event])]
    assert results[0] == "None"
    assert all("refused" in result for result in results[1:])
    assert metrics.publish_failures_total.labels("refused")._value.get() == 2
