"""The session: lost and built anew, whole, without losing or doubling anybody's wish."""

import asyncio
import gc
import logging
import os
from collections import Counter
from pathlib import Path

import aio_pika
import pytest
from prometheus_client import CollectorRegistry

from bridge.amqp import consumer, link, wire
from bridge.amqp import session as session_room
from bridge.amqp.topology import Topology
from bridge.errors import TopologyMismatch
from bridge.metrics import Metrics
from bridge.models import Publication
from tests.flows.world import world as flows

LOSSES = int(os.environ.get("LOSSES", "100"))
"""How often a session is lost and built anew in search of leaks; `make losses` asks for a thousand."""


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    """Whether the last verdict arrives is no matter here."""
    monkeypatch.setattr(consumer, "SETTLED_S", 0.0)


def request(number: int = 0) -> Publication:
    return Publication("requests", "send.otp", b"%d" % number, message_id=f"r{number}")


async def publish_at_last(session, publication: Publication) -> None:
    """As the relay does: the session may just be building itself anew."""
    while await session.publish_many([publication]) != [None]:
        pass


def sessions_built(metrics) -> float:
    return metrics.sessions_total._value.get()


def restarts(metrics) -> float:
    return metrics.consumer_restarts_total._value.get()


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_it_says_how_it_stands(sessions, metrics, until):
    session = await sessions.start(url="amqp://guest:secret@127.0.0.1:1/", connected=False)
    await until(lambda: "127.0.0.1" in session.describe()["trouble"])
    assert "secret" not in str(session.describe())
    assert not session.connected
    assert metrics.broker_connected._value.get() == 0
    await session.close()  # it would go on trying, and both tell the same gauge
    other = await sessions.start()
    other.consume("send.otp", 5, lambda delivery: delivery.ack())
    await until(lambda: other.describe()["reading"])
    assert other.describe() == {"connected": True, "trouble": None, "reading": ["send.otp"], "read_by_another": []}
    assert metrics.broker_connected._value.get() == 1


async def test_a_list_of_urls_is_tried_in_turn(sessions, amqp_url):
    session = await sessions.start(url=["amqp://guest:guest@127.0.0.1:1/", amqp_url])
    await session.publish(request())


async def test_where_one_of_a_cluster_dies_the_next_one_is_taken(sessions, cable, amqp_url, metrics, until):
    session = await sessions.start(url=[cable.url, amqp_url])
    taken = []
    session.consume("send.otp", 5, taken.append)
    await until(lambda: session.describe()["reading"])
    cable.refuses = True
    cable.cut()
    await until(lambda: sessions_built(metrics) == 2)
    await session.publish(request())
    await until(lambda: taken)
    taken[0].ack()


async def test_one_of_a_cluster_that_hangs_is_not_waited_for(sessions, cable, amqp_url, monkeypatch):
    monkeypatch.setattr(wire, "CONNECT_WITHIN_S", 0.2)
    cable.flows.clear()
    session = await sessions.start(url=[cable.url, amqp_url])
    await session.publish(request())


async def test_a_broker_out_of_reach_is_logged_once_and_waited_for(sessions, cable, capsys, until):
    cable.refuses = True
    session = await sessions.start(url=cable.url, connected=False)
    await until(lambda: cable.accepted >= 4)
    cable.refuses = False
    async with asyncio.timeout(5):
        await session.wait_connected()
    told = capsys.readouterr().out
    assert (told.count("broker.unreachable"), told.count("broker.connected")) == (1, 1)


async def test_a_wrong_password_is_waited_for_like_any_trouble(sessions, amqp_url, until):
    session = await sessions.start(url=amqp_url.replace("guest:guest@", "guest:wrong@"), connected=False)
    await until(lambda: "ACCESS_REFUSED" in session.describe()["trouble"])


async def test_a_topology_that_differs_ends_the_first_start(sessions, topology, world):
    await world.declare_queue(topology.name("send.otp"), durable=True)
    session = await sessions.start(connected=False)
    with pytest.raises(TopologyMismatch, match=r"send\.otp.* exists with another"):
        await sessions.lives.pop(session)


async def test_a_topology_that_differs_later_is_told_and_waited_for(sessions, cable, topology, world, until):
    session = await sessions.start(url=cable.url)
    await world.queue_delete(topology.name("send.otp"))
    await world.declare_queue(topology.name("send.otp"), durable=True)
    cable.cut()
    await until(lambda: "exists with another" in (session.describe()["trouble"] or ""))
    await world.queue_delete(topology.name("send.otp"))
    await until(lambda: session.connected)


async def test_nothing_is_declared_where_that_is_not_wished(sessions, topology, world):
    session = await sessions.start(declare=False)
    assert session.connected
    with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):
        await world.declare_queue(topology.name("dead"), passive=True)


async def test_a_cut_connection_is_built_anew_and_reads_on(sessions, cable, metrics, until):
    session = await sessions.start(url=cable.url)
    taken = []
    session.consume("send.otp", 5, taken.append)
    await session.publish_many([request(number) for number in range(3)])
    await until(lambda: len(taken) == 3)
    cable.cut()
    await until(lambda: sessions_built(metrics) == 2)
    await session.publish(request(3))
    await until(lambda: len(taken) == 7)
    taken[0].ack()
    taken[1].give_back()
    assert [delivery.body for delivery in taken] == [b"0", b"1", b"2", b"0", b"1", b"2", b"3"]
    assert [delivery.delivery_count for delivery in taken] == [0, 0, 0, 1, 1, 1, 0]
    for delivery in taken[3:]:
        delivery.ack()
    assert metrics.broker_connected._value.get() == 1


async def test_a_cut_connection_cancels_no_work_in_hand(sessions, cable, metrics, tmp_path, until):
    session = await sessions.start(url=cable.url)
    async with flows(tmp_path) as flow:
        flow.device.gate.clear()
        session.consume("send.otp", 5, flow.outbound.accept)
        body = b'{"id": "a", "to": "+4915112345678", "text": "hi"}'
        await session.publish(Publication("requests", "send.otp", body, app_id="shop"))
        await until(lambda: flow.outbound._plan() is None and flow.device.posts)
        cable.cut()
        await until(lambda: sessions_built(metrics) == 2)
        flow.device.gate.set()
        await flow.settle()
        await until(lambda: session.describe()["reading"])
        await flow.settle()
        assert [len(tasks) for tasks in flow.device.posts] == [1]
        assert set(await flow.kinds()) == {"sms.submitted"}


async def test_what_is_tried_again_is_tried_ever_later_and_never_in_step_with_others(sessions, monkeypatch, until):
    waits: list[float] = []

    async def pause(session: session_room.Session, wait_s: float) -> None:
        waits.append(wait_s)
        if len(waits) == 8:
            await session._closing.wait()

    monkeypatch.setattr(session_room, "BACK_OFF_S", (1.0, 8.0))
    monkeypatch.setattr(session_room.Session, "_pause", pause)
    await sessions.start(url="amqp://guest:guest@127.0.0.1:1/", connected=False)
    await until(lambda: len(waits) == 8)
    most = [1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0, 8.0]
    assert all(longest / 2 <= wait_s <= longest for wait_s, longest in zip(waits, most, strict=True))
    assert len(set(waits[3:])) == 5


async def test_a_channel_that_the_broker_closes_ends_the_whole_session(sessions, metrics, until):
    session = await sessions.start()
    taken = []
    session.consume("send.otp", 5, taken.append)
    await until(lambda: session.describe()["reading"])
    await session._link._consumers["send.otp"].channel.basic_ack(99)
    await until(lambda: sessions_built(metrics) == 2)
    await session.publish(request())
    await until(lambda: taken)
    taken[0].ack()


async def test_a_deleted_queue_is_declared_again_and_read_again(sessions, metrics, topology, world, until):
    session = await sessions.start()
    taken = []
    session.consume("send.otp", 5, taken.append)
    await until(lambda: session.describe()["reading"])
    await world.queue_delete(topology.name("send.otp"))
    await until(lambda: sessions_built(metrics) == 2)
    await session.publish(request())
    await until(lambda: taken)
    taken[0].ack()
    assert restarts(metrics) >= 1


async def test_a_queue_that_somebody_deletes_and_makes_again_is_read_again(
    sessions, topology, world, monkeypatch, until
):
    """The broker keeps the consumer, tells nobody, and counts what it never sends as handed over."""
    monkeypatch.setattr(link, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(link, "REOPEN_AFTER_S", 0.3)
    session = await sessions.start()
    taken = []
    session.consume("send.otp", 5, taken.append)
    await until(lambda: session.describe()["reading"])
    (arguments,) = (queue.arguments for queue in topology.queues if queue.name == topology.name("send.otp"))
    await world.queue_delete(topology.name("send.otp"))
    again = await world.declare_queue(topology.name("send.otp"), durable=True, arguments=arguments)
    await again.bind(topology.name("requests"), "send.otp")
    await publish_at_last(session, request())
    await until(lambda: taken)
    taken[0].ack()


async def test_a_quiet_queue_is_opened_anew_at_times_but_one_in_hand_and_commands_are_not(
    sessions, metrics, monkeypatch, until
):
    everything = ["command", "send.bulk", "send.otp"]
    session = await sessions.start()
    taken = []
    session.consume("send.otp", 5, taken.append)
    session.consume("send.bulk", 5, taken.append)
    session.consume("command", 5, taken.append)
    await session.publish(request())
    await until(lambda: taken and session.describe()["reading"] == everything)
    commands, quiet, busy = (session._link._consumers[queue] for queue in everything)
    monkeypatch.setattr(link, "REOPEN_AFTER_S", 0.0)
    for one in (commands, quiet, busy):
        await session._link._reopen_if_quiet(one)
    await until(lambda: session.describe()["reading"] == everything)
    assert session._link._consumers["send.otp"] is busy
    assert session._link._consumers["command"] is commands
    assert session._link._consumers["send.bulk"] is not quiet
    taken[0].ack()
    assert (restarts(metrics), sessions_built(metrics)) == (0, 1)


async def test_a_consumer_that_the_broker_does_not_know_is_found_and_restarted(sessions, metrics, monkeypatch, until):
    monkeypatch.setattr(link, "LOOK_EVERY_S", 0.05)
    session = await sessions.start()
    taken = []
    session.consume("send.otp", 5, taken.append)
    await until(lambda: session.describe()["reading"])
    consumer = session._link._consumers["send.otp"]
    await consumer.channel.basic_cancel(consumer._consumer_tag)  # behind the session's back
    await publish_at_last(session, request())
    await until(lambda: taken)
    taken[0].ack()
    assert restarts(metrics) >= 1


async def test_a_consumer_that_hears_nothing_while_messages_lie_ready_is_restarted(
    sessions, metrics, monkeypatch, until
):
    monkeypatch.setattr(link, "LOOK_EVERY_S", 0.05)
    session = await sessions.start()
    taken = []
    session.consume("send.otp", 2, taken.append)
    await until(lambda: session.describe()["reading"])
    session._link._consumers["send.otp"].channel.consumers.clear()  # deliveries reach nobody
    await session.publish_many([request(number) for number in range(5)])
    await until(lambda: len(taken) == 2)
    assert restarts(metrics) == 1
    for delivery in taken:
        delivery.ack()


async def test_a_quiet_queue_and_a_full_hand_are_no_trouble(sessions, metrics, monkeypatch, until):
    monkeypatch.setattr(link, "LOOK_EVERY_S", 0.02)
    session = await sessions.start()
    taken = []
    session.consume("send.otp", 2, taken.append)
    session.consume("send.bulk", 2, taken.append)
    await session.publish_many([request(number) for number in range(5)])
    await until(lambda: len(taken) == 2)
    await asyncio.sleep(0.3)
    assert (restarts(metrics), sessions_built(metrics)) == (0, 1)


async def test_a_queue_that_another_bridge_reads_is_left_alone_until_it_lets_go(sessions, until):
    first, second = await sessions.start(), await sessions.start()
    ours, theirs = [], []
    first.consume("send.otp", 5, theirs.append)
    await until(lambda: first.describe()["reading"])
    second.consume("send.otp", 5, ours.append)
    second.consume("send.bulk", 5, ours.append)
    await until(lambda: second.describe()["read_by_another"] == ["send.otp"])
    assert second.describe()["reading"] == ["send.bulk"]
    await first.publish(request())
    await until(lambda: theirs)
    assert not ours
    await sessions.stop(first)
    await until(lambda: ours)
    assert second.describe()["read_by_another"] == []


async def test_our_own_dead_connection_is_waited_for_before_reading_again(sessions, cable, metrics, until):
    session = await sessions.start(url=cable.url)
    taken = []
    session.consume("send.otp", 5, taken.append)
    await session.publish(request())
    await until(lambda: taken)
    cable.pull()
    await until(lambda: session.describe()["read_by_another"] == ["send.otp"])
    assert len(taken) == 1
    cable.let_go()
    await until(lambda: len(taken) == 2)
    taken[1].ack()


async def test_a_wish_given_up_while_another_bridge_reads_is_forgotten(sessions, until):
    first, second = await sessions.start(), await sessions.start()
    first.consume("send.otp", 5, lambda delivery: delivery.ack())
    await until(lambda: first.describe()["reading"])
    second.consume("send.otp", 5, lambda delivery: delivery.ack())
    await until(lambda: second.describe()["read_by_another"])
    await second.stop_consuming("send.otp")
    assert second.describe()["read_by_another"] == []
    await sessions.stop(first)
    await asyncio.sleep(0.1)
    assert second.describe()["reading"] == []


async def test_a_wish_given_up_while_disconnected_stays_given_up(sessions, cable, metrics, until):
    session = await sessions.start(url=cable.url)
    session.consume("send.otp", 5, lambda delivery: delivery.ack())
    await until(lambda: session.describe()["reading"])
    cable.refuses = True
    cable.cut()
    await until(lambda: not session.connected)
    await session.stop_consuming("send.otp")
    cable.refuses = False
    await until(lambda: session.connected)
    await asyncio.sleep(0.1)
    assert session.describe()["reading"] == []


async def test_a_queue_of_nobodys_is_refused_by_name(sessions):
    session = await sessions.start()
    with pytest.raises(ValueError, match=r"send\.oops"):
        session.consume("send.oops", 5, lambda delivery: delivery.ack())


async def test_whoever_fails_over_a_delivery_ends_the_session_with_its_error(sessions):
    session = await sessions.start()

    def fail(_):
        raise LookupError("a bug")

    session.consume("send.otp", 5, fail)
    await session.publish(request())
    with pytest.raises(LookupError, match="a bug"):
        await asyncio.wait_for(sessions.lives.pop(session), 5)
    assert not session.connected


async def test_the_messages_of_a_retired_route_are_counted(sessions, metrics, topology, monkeypatch, until):
    monkeypatch.setattr(link, "LOOK_EVERY_S", 0.02)
    session = await sessions.start()
    await session.publish_many([request(number) for number in range(3)])
    await sessions.stop(session)
    later = Metrics(CollectorRegistry())
    without = Topology(
        topology.prefix, ("bulk",), ("gw1",), retired=("send.otp", "send.never"), tiers_s=topology.tiers_s
    )
    await sessions.start(topology=without, metrics=later)
    await until(lambda: later.orphaned_messages.labels("send.otp")._value.get() == 3)
    assert later.orphaned_messages.labels("send.never")._value.get() == 0
    assert sessions_built(later) == 1


async def test_it_can_be_cancelled_at_any_moment(sessions, amqp_url):
    for pause_s in (0, 0.001, 0.003, 0.01, 0.03):
        session = await sessions.start(connected=False)
        session.consume("send.otp", 5, lambda delivery: delivery.ack())
        await asyncio.sleep(pause_s)
        life = sessions.lives.pop(session)
        life.cancel()
        with pytest.raises(asyncio.CancelledError):
            await life
        await session.close()
        assert not session.connected


async def test_it_can_be_closed_while_the_broker_does_not_answer(sessions, cable, until):
    cable.flows.clear()
    session = await sessions.start(url=cable.url, connected=False)
    await until(lambda: cable.accepted)
    async with asyncio.timeout(1):
        await sessions.stop(session)
    await session.close()
    assert not session.connected


def live_objects() -> Counter[str]:
    """Everything alive of the bridge's own classes, by class."""
    gc.collect()
    kinds = Counter(map(type, gc.get_objects()))
    return Counter({str(kind): count for kind, count in kinds.items() if str(kind.__module__).startswith("bridge.")})


@pytest.mark.timeout(300)
async def test_losses_leave_no_task_no_object_and_no_descriptor(
    sessions, cable, metrics, topology, until, monkeypatch, caplog
):
    caplog.set_level(logging.CRITICAL, "aiormq")  # pytest would keep each loss, with all that its traceback holds
    monkeypatch.setattr(session_room, "BACK_OFF_S", (0.0, 0.0))
    monkeypatch.setattr(link, "TAKEN_RETRY_S", 0.005)
    session = await sessions.start(url=cable.url, topology=Topology(topology.prefix, ("otp",), (), tiers_s=()))
    session.consume("send.otp", 5, lambda delivery: delivery.ack())

    async def lose_and_recover(times: int) -> tuple[int, int, Counter[str]]:
        for _ in range(times):
            built = sessions_built(metrics)
            cable.cut()
            await until(lambda built=built: sessions_built(metrics) > built and session.describe()["reading"])
        await session.publish(request())
        await asyncio.sleep(0.1)
        return len(asyncio.all_tasks()), open_descriptors(), live_objects()

    before = await lose_and_recover(5)
    assert await lose_and_recover(LOSSES) == before
