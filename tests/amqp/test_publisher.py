"""Publishing: what is told, what is not, and when that is known. Both ways of writing keep the same promises."""

import asyncio
import time

import pytest

from bridge.amqp import publisher, writer
from bridge.errors import BrokerUnavailable, Unroutable
from bridge.models import Publication


@pytest.fixture(params=[writer.write_together, writer.write_each], ids=["together", "each"], autouse=True)
def write(request, monkeypatch):
    """Every test here runs with both ways of writing."""
    monkeypatch.setattr(publisher, "best_write", lambda: request.param)


def event(number: int = 0, **more) -> Publication:
    return Publication("events", "sms.sent.otp.gw1.3", b'{"n": %d}' % number, message_id=f"e{number}", **more)


def failures(metrics, reason: str) -> float:
    return metrics.publish_failures_total.labels(reason)._value.get()


@pytest.fixture
async def listener(world, topology):
    """A queue that hears all events."""

    async def listen():
        queue = await world.declare_queue(f"{topology.prefix}.listener", exclusive=True)
        await queue.bind(f"{topology.prefix}.events", "sms.#")
        return queue

    return listen


async def next_of(queue):
    return await queue.get(timeout=5, no_ack=True)


async def test_a_publication_arrives_with_all_its_properties(sessions, listener):
    session = await sessions.start()
    queue = await listener()
    await session.publish(
        event(
            1,
            content_type="application/cloudevents+json",
            app_id="shop",
            correlation_id="c",
            timestamp=1_700_000_000.9,
            reply_to="r",
            headers={"x-attempt": 2, "x-tried": ["a"], "x-expires-at": 1_700_000_061.9},
        )
    )
    told = await next_of(queue)
    assert (told.body, told.routing_key, told.message_id) == (b'{"n": 1}', "sms.sent.otp.gw1.3", "e1")
    assert (told.content_type, told.app_id, told.correlation_id) == ("application/cloudevents+json", "shop", "c")
    assert (told.timestamp.timestamp(), told.reply_to, told.delivery_mode) == (1_700_000_000, "r", 2)
    assert told.headers == {"x-attempt": 2, "x-tried": ["a"], "x-expires-at": 1_700_000_061}


@pytest.mark.parametrize("size", [0, 1, 131_064, 131_065, 400_000])
async def test_a_body_of_any_size_arrives_whole(sessions, listener, size):
    session = await sessions.start()
    queue = await listener()
    body = bytes(number % 251 for number in range(size))
    await session.publish(Publication("events", "sms.received.-.gw1.3", body))
    assert (await next_of(queue)).body == body


async def test_many_are_told_in_order_and_bounded_in_flight(sessions, listener, metrics):
    session = await sessions.start(in_flight=7)
    queue = await listener()
    assert await session.publish_many([event(number) for number in range(100)]) == [None] * 100
    assert [(await next_of(queue)).message_id for _ in range(100)] == [f"e{number}" for number in range(100)]
    assert metrics.events_total.labels("sms.sent")._value.get() == 100


async def test_nothing_to_publish_is_nothing(sessions):
    session = await sessions.start()
    assert await session.publish_many([]) == []


async def test_many_publish_at_once(sessions, listener):
    session = await sessions.start(in_flight=10)
    queue = await listener()
    answers = await asyncio.gather(
        *(session.publish_many([event(10 * one + n) for n in range(10)]) for one in range(20)),
        *(session.publish(event(1_000 + one)) for one in range(50)),
    )
    assert answers[:20] == [[None] * 10] * 20
    told = {(await next_of(queue)).message_id for _ in range(250)}
    assert told == {f"e{number}" for number in [*range(200), *range(1_000, 1_050)]}


async def test_an_event_without_a_listener_counts_as_told_and_is_logged_once_per_type(sessions, metrics, capsys):
    session = await sessions.start()
    other = Publication("events", "port.changed.-.gw1.3", b"{}")
    assert await session.publish_many([event(1), event(2), other]) == [None, None, None]
    assert metrics.events_unrouted_total.labels("sms.sent")._value.get() == 2
    assert metrics.events_total.labels("sms.sent")._value.get() == 2
    assert metrics.events_unrouted_total.labels("port.changed")._value.get() == 1
    assert capsys.readouterr().out.count("event.unheard") == 2


async def test_anything_else_without_a_queue_is_an_error(sessions, metrics, world, topology):
    session = await sessions.start()
    await world.queue_delete(topology.name("dead"))
    with pytest.raises(Unroutable, match=r"dead has no queue for send\.otp"):
        await session.publish(Publication("dead", "send.otp", b"{}"))
    assert failures(metrics, "unroutable") == 1
    await session.publish(Publication("requests", "send.otp", b"{}"))


async def test_the_same_id_twice_in_flight_gets_two_answers(sessions, metrics, world, topology):
    """aiormq knows what was returned by its id alone: two in flight would answer for each other."""
    session = await sessions.start()
    await world.queue_delete(topology.name("dead"))
    twin = Publication("dead", "send.otp", b"{}", message_id="twin")
    good = Publication("requests", "send.otp", b"{}", message_id="twin")
    answers = await asyncio.gather(
        session.publish_many([twin, good, twin]), session.publish_many([good, twin]), session.publish_many([twin])
    )
    kinds = [[type(answer) for answer in each] for each in answers]
    nothing = type(None)
    assert kinds == [[Unroutable, nothing, Unroutable], [nothing, Unroutable], [Unroutable]]


async def test_what_amqp_has_no_form_for_holds_up_nobody(sessions, listener):
    session = await sessions.start()
    queue = await listener()
    results = await session.publish_many(
        [
            event(1),
            event(2, headers={"x": object()}),
            Publication("nowhere", "send.otp", b"{}"),
            event(3, timestamp=1e20),
            event(4, app_id="a" * 300),
            event(5),
        ]
    )
    assert [result is None for result in results] == [True, False, False, False, False, True]
    assert not any(isinstance(result, BrokerUnavailable | Unroutable) for result in results)
    assert [(await next_of(queue)).message_id for _ in range(2)] == ["e1", "e5"]


async def test_an_id_too_long_for_amqp_is_told_by_its_hash(sessions, listener):
    session = await sessions.start()
    queue = await listener()
    long = Publication("events", "sms.sent.otp.gw1.3", b"{}", message_id="ü" * 200)
    await session.publish_many([long, long])
    first, second = (await next_of(queue)).message_id, (await next_of(queue)).message_id
    assert first == second
    assert len(first) == 64


async def test_a_copy_goes_to_the_producers_own_queue(sessions, listener, world, metrics):
    session = await sessions.start()
    heard, own = await listener(), await world.declare_queue(exclusive=True)
    await session.publish(event(1, copy_to=own.name, correlation_id="c"))
    assert (await next_of(heard)).message_id == "e1"
    copy = await next_of(own)
    assert (copy.message_id, copy.correlation_id, copy.body) == ("e1", "c", b'{"n": 1}')
    assert failures(metrics, "copy") == 0


async def test_a_copy_that_nobody_takes_is_only_counted(sessions, listener, metrics):
    session = await sessions.start()
    heard = await listener()
    assert await session.publish_many([event(1, copy_to="gone"), event(2, copy_to="x" * 300), event(3)]) == [None] * 3
    assert [(await next_of(heard)).message_id for _ in range(3)] == ["e1", "e2", "e3"]
    assert failures(metrics, "copy") == 2
    assert metrics.sessions_total._value.get() == 1


async def test_a_broker_that_stays_silent_is_given_up_in_time_and_its_late_answer_harms_nothing(
    sessions, cable, metrics, until
):
    session = await sessions.start(url=cable.url, publish_timeout_s=0.3)
    await session.publish(event(0))
    cable.flows.clear()
    began = time.monotonic()
    results = await session.publish_many([event(1), Publication("requests", "send.otp", b"{}"), event(2)])
    assert 0.25 < time.monotonic() - began < 2
    assert all(isinstance(result, BrokerUnavailable) for result in results)
    assert failures(metrics, "timeout") == 3
    cable.flows.set()
    await session.publish(event(3))
    assert metrics.sessions_total._value.get() == 1
    assert session.connected


async def test_a_lost_connection_is_told_at_once(sessions, cable, metrics, until):
    session = await sessions.start(url=cable.url)
    cable.flows.clear()
    waiting = asyncio.create_task(session.publish_many([event(number) for number in range(150)]))
    await asyncio.sleep(0.1)
    cable.refuses = True
    cable.cut()
    async with asyncio.timeout(2):
        results = await waiting
    assert {str(result) for result in results} == {"the connection to the broker was lost before it confirmed"}
    assert failures(metrics, "disconnected") == 150


async def test_publishing_without_a_broker_ends_at_the_deadline(sessions, metrics):
    session = await sessions.start(url="amqp://guest:secret@127.0.0.1:1/", connected=False, publish_timeout_s=0.2)
    began = time.monotonic()
    with pytest.raises(BrokerUnavailable, match="no connection to the broker") as told:
        await session.publish(event(1))
    assert 0.15 < time.monotonic() - began < 1
    assert "secret" not in str(told.value)
    assert failures(metrics, "disconnected") == 1


async def test_a_caller_that_is_cancelled_leaves_room_for_others(sessions, cable):
    session = await sessions.start(url=cable.url, in_flight=5)
    cable.flows.clear()
    waiting = [asyncio.create_task(session.publish_many([event(n) for n in range(5)])) for _ in range(3)]
    await asyncio.sleep(0.05)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    assert all(task.cancelled() for task in waiting)
    cable.flows.set()
    async with asyncio.timeout(3):
        assert await session.publish_many([event(n) for n in range(10)]) == [None] * 10
