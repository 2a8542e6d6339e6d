"""The walk of a send request: each verdict, each mistake of a producer, each stop; settled exactly once in all."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bridge.errors import GatewayGarbled, GatewayNotReached, GatewaySilent, LedgerUnavailable
from bridge.models import State
from bridge.rules import intake
from tests.flows.world import PORTS, START, World
from tests.flows.world import world as make_world


async def test_a_request_is_begun_acknowledged_posted_and_told_as_submitted(world: World) -> None:
    settled = await world.accept({"delivery_report": True})
    assert (settled.acks, settled.given_back) == (1, 0)
    ((task,),) = world.device.posts
    assert (task.to, task.text, task.delivery_report, task.port.slot) == ("+4915112345678", "hi", True, 1)
    sms = await world.sms()
    assert sms is not None
    assert (sms.state, sms.gateway, sms.tid, sms.sim) == (State.SUBMITTED, "gw1", task.tid, f"sim{task.port.number}")
    (event,) = await world.told()
    assert event["type"] == "sms.submitted.v1" and event["data"]["tid"] == task.tid


async def test_a_request_that_gives_the_device_more_time_is_waited_for_longer(world: World) -> None:
    await world.accept({"timeout_s": 100})
    assert world.device.posts[0][0].timeout_s == 100
    sms = await world.sms()
    assert sms is not None and sms.deadline_at == START + 100 + 8 + 60


async def test_what_waits_for_a_gateway_leaves_in_one_post(world: World) -> None:
    deliveries = [world.delivery({"id": f"r{n}", "to": f"+49151{n:08d}"}) for n in range(5)]
    for delivery, _ in deliveries:
        world.outbound.accept(delivery)
    await world.settle()
    assert [len(tasks) for tasks in world.device.posts] == [5]
    assert {settled.acks for _, settled in deliveries} == {1}


VERDICTS = [
    pytest.param(0, State.SUBMITTED, None, id="taken"),
    pytest.param(5, State.HANDED_BACK, "requests", id="its SIM cannot: elsewhere"),
    pytest.param(7, State.HANDED_BACK, "later.5", id="the gateway cannot: later"),
    pytest.param(1, State.HANDED_BACK, "later.5", id="we may not: later"),
    pytest.param(13, State.HANDED_BACK, "requests", id="somebody holds that id: again"),
    pytest.param(8, State.FAILED, None, id="refused for good"),
    pytest.param(6, State.IN_DOUBT, None, id="timed out: in doubt"),
    pytest.param(None, State.IN_DOUBT, None, id="unreadable status"),
    pytest.param("gone", State.IN_DOUBT, None, id="no row"),
    pytest.param(GatewayNotReached(), State.HANDED_BACK, "later.5", id="never connected"),
    pytest.param(GatewaySilent(), State.IN_DOUBT, None, id="answer lost"),
    pytest.param(GatewayGarbled(), State.IN_DOUBT, None, id="answer garbled"),
]


@pytest.mark.parametrize(("answer", "state", "back_to"), VERDICTS)
async def test_each_answer_has_its_verdict_and_settles_once(
    world: World, answer: Any, state: State, back_to: str | None
) -> None:
    if isinstance(answer, Exception):
        world.device.failure = answer
    elif answer == "gone":
        world.device.gone.add("+4915112345678")
    else:
        world.device.codes["+4915112345678"] = answer
    settled = await world.accept()
    assert settled.times == settled.acks == 1
    sms = await world.sms()
    assert sms is not None and sms.state is state
    assert [one.exchange for one in await world.back()] == ([back_to] if back_to else [])
    queued = sum(port.queued for port in world.fleet.ports())
    assert queued == (1 if state is State.SUBMITTED else 0)


async def test_a_sim_that_failed_is_left_out_and_the_third_is_the_last(world: World) -> None:
    world.device.codes["+4915112345678"] = 5
    await world.accept()
    for attempt in (2, 3):
        back = (await world.back())[-1]
        assert back.headers["x-attempt"] == attempt
        await world.accept(back.body, headers=dict(back.headers), message_id=back.message_id)
    assert len({tasks[0].port.number for tasks in world.device.posts}) == 3
    assert len({tasks[0].tid for tasks in world.device.posts}) == 3
    assert (await world.kinds())[-1] == "sms.failed"
    assert (await world.told())[-1]["data"]["reason"] == "no_sim_left"


async def test_a_copy_that_every_sim_of_its_route_has_failed_is_not_kept_waiting(world: World) -> None:
    """It was handed back in the hope of another SIM: a report that comes before the first status knows no card."""
    world.device.codes["+4915112345678"] = 5
    await world.accept()
    (back,) = await world.back()
    tried = {"x-tried": json.dumps([f"sim{number}" for number in PORTS])}
    settled = await world.accept(back.body, headers={**back.headers, **tried}, message_id=back.message_id)
    assert settled.acks == 1
    (event,) = [told for told in await world.told() if told["type"] == "sms.failed.v1"]
    assert (event["data"]["reason"], event["data"]["certain"], event["data"]["attempt"]) == ("no_sim_left", True, 2)


async def test_but_a_port_that_was_never_heard_may_hold_another_card(world: World) -> None:
    world.fleet.port("gw1", 1).st = None
    settled = await world.accept(key="send.single", headers={"x-attempt": 2, "x-tried": '["sim1"]'})
    assert (settled.acks, await world.kinds()) == (0, [])


async def test_where_no_other_sim_is_the_first_failure_is_final(world: World) -> None:
    world.device.codes["+4915112345678"] = 5
    await world.accept(key="send.single")
    assert await world.kinds() == ["sms.failed"]


async def test_a_gateway_that_refuses_is_left_alone(world: World) -> None:
    world.device.failure = GatewayNotReached()
    await world.accept()
    await world.accept({"id": "b"})
    assert len(world.device.posts) == 1, "the second waits for the end of the pause"
    world.device.failure = None
    world.mono += 2.5
    await world.settle()
    assert len(world.device.posts) == 2


@pytest.mark.parametrize("failure", [GatewaySilent(), GatewayGarbled()])
async def test_a_gateway_that_loses_answers_does_not_drag_all_that_waits_into_doubt(
    world: World, failure: Exception
) -> None:
    world.device.failure = failure
    await world.accept()
    await world.accept({"id": "b"})
    assert len(world.device.posts) == 1


async def test_a_verdict_that_could_be_stored_only_after_the_deadline_still_counts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.flows.outbound.GIVE_BACK_PAUSE_S", 0.001)
    world.device.failure = GatewayNotReached()
    write, down, tried = world.ledger.write, [True], asyncio.Event()

    async def flaky(work: Any) -> Any:
        if down[0] and "conclude" in getattr(work, "__name__", ""):
            tried.set()
            raise LedgerUnavailable("disk full")
        return await write(work)

    monkeypatch.setattr(world.outbound._ledger, "write", flaky)
    delivery, _ = world.delivery()
    world.outbound.accept(delivery)
    world.outbound._plan()
    await tried.wait()
    port = next(port for port in world.fleet.ports() if port.queued)
    world.wall += 21
    await world.patrol._reap()
    port.queued = 2  # taken by others meanwhile
    down[0] = False
    await world.settle()
    sms = await world.sms()
    assert sms is not None and sms.state is State.HANDED_BACK
    assert port.queued == 2


async def test_a_copy_that_a_new_configuration_refuses_ends_its_sms(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.device.codes["+4915112345678"] = 7
    await world.accept({"text": "x" * 200})
    (back,) = await world.back()
    strict = {key: replace(rules, max_segments=1) for key, rules in world.outbound._intake.items()}
    monkeypatch.setattr(world.outbound, "_intake", strict)
    await world.accept(back.body, headers=dict(back.headers), message_id=back.message_id)
    sms = await world.sms()
    assert sms is not None and sms.state is State.REJECTED
    (event,) = await world.told()
    assert event["id"] == "shop:a/2/sms.rejected"


async def test_while_the_outbox_is_full_nothing_is_begun_and_what_expires_is_told(world: World) -> None:
    paused = [True]
    world.outbound._is_paused = lambda: paused[0]
    late = await world.accept({"validity_s": 10})
    world.mono += 11
    await world.settle()
    assert late.acks == 1 and await world.kinds() == ["sms.expired"]
    await world.accept({"id": "b"})
    assert world.device.posts == []
    paused[0] = False
    await world.settle()
    assert len(world.device.posts) == 1


async def test_a_repeat_is_acked_and_its_latest_event_told_again(world: World) -> None:
    await world.accept()
    settled = await world.accept()
    assert settled.acks == 1 and len(world.device.posts) == 1
    first, again = await world.told()
    assert again["id"] == first["id"]
    assert sum(port.queued for port in world.fleet.ports()) == 1


async def test_the_same_id_with_another_text_is_told_as_a_conflict(world: World) -> None:
    await world.accept()
    await world.accept({"text": "ho"})
    conflict = (await world.told())[-1]["data"]
    assert (conflict["reason"], conflict["field"], conflict["of_sms"]) == ("id_conflict", "id", False)
    assert len(world.device.posts) == 1


async def test_a_ledger_that_cannot_begin_gives_everything_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(_work: object) -> None:
        raise LedgerUnavailable("disk full")

    monkeypatch.setattr("bridge.flows.outbound.GIVE_BACK_PAUSE_S", 0.0)
    monkeypatch.setattr(world.outbound._ledger, "write", full)
    delivery, settled = world.delivery()
    world.outbound.accept(delivery)
    world.outbound._plan()
    for worker in list(world.outbound._workers):
        await worker
    assert (settled.acks, settled.given_back) == (0, 1)
    assert world.device.posts == []
    assert sum(port.queued for port in world.fleet.ports()) == 0


class TestBadInput:
    @pytest.mark.parametrize(
        ("body", "reason", "buried"),
        [
            pytest.param(b"{", "unreadable", True, id="malformed"),
            pytest.param(b'{"id": "a", "x": "\xff"}', "unreadable", True, id="not UTF-8"),
            pytest.param(b'{"id": "a", "text": "' + b"x" * 70_000 + b'"}', "too_large", True, id="too large"),
            pytest.param({"prio": 1}, "invalid", False, id="unknown field"),
            pytest.param({"to": []}, "invalid", False, id="nobody"),
            pytest.param({"to": [f"+49151{n:08d}" for n in range(1001)]}, "invalid", False, id="1,001 recipients"),
            pytest.param({"to": ["+4915112345678", "151"]}, "invalid", False, id="one bad number"),
            pytest.param({"text": "x" * 2000}, "invalid", False, id="too many segments"),
        ],
    )
    async def test_it_is_told_with_its_id_and_the_next_one_goes_through(
        self, world: World, body: Any, reason: str, buried: bool
    ) -> None:
        settled = await world.accept(body, message_id="a", correlation_id="c7")
        assert settled.times == settled.acks == 1
        (event,) = await world.told()
        assert (event["type"], event["subject"], event["data"]["reason"]) == ("sms.rejected.v1", "a", reason)
        assert event["data"]["detail"]
        dead = [one for one in world.published if one.exchange == "dead"]
        assert [one.headers["x-reason"] for one in dead] == ([reason] if buried else [])
        assert not dead or dead[0].message_id == event["id"]
        await world.accept({"id": "next"})
        assert len(world.device.posts) == 1

    @pytest.mark.parametrize("headers", [{"x-tried": "[" * 20_000}, {"traceparent": b"\xff"}, {"x-attempt": []}])
    async def test_odd_headers_stop_nothing(self, world: World, headers: dict[str, Any]) -> None:
        soon = datetime.fromtimestamp(START + 100, UTC).isoformat()
        assert (await world.accept({"not_before": soon}, headers=headers)).acks == 1
        (copy,) = world.published
        assert all(isinstance(value, str | int | float) for value in copy.headers.values())

    async def test_without_any_id_it_is_told_as_nobodys_and_kept(self, world: World) -> None:
        await world.accept(b'{"to": "+4915112345678", "text": "hi"}')
        (event,) = await world.told()
        assert event["id"].startswith("nokey/") and event["subject"] == "-"
        assert (event["data"]["reason"], event["data"]["of_sms"]) == ("missing_id", False)
        assert [one.message_id for one in world.published] == [event["id"]]

    async def test_while_the_broker_takes_no_dead_letter_it_is_given_back(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("bridge.flows.outbound.GIVE_BACK_PAUSE_S", 0.0)
        world.broker_down = True
        settled = await world.accept(b"{", message_id="a")
        assert (settled.acks, settled.given_back) == (0, 1)
        assert await world.told() == []


class TestAge:
    async def test_too_late_is_expired_and_never_posted(self, world: World) -> None:
        settled = await world.accept({"validity_s": 10}, timestamp=START - 20)
        assert settled.acks == 1
        (event,) = await world.told()
        assert event["type"] == "sms.expired.v1" and event["data"]["reason"] == "too_late"
        assert world.device.posts == []

    async def test_without_a_timestamp_it_counts_from_first_sight_however_often_it_is_given_back(
        self, world: World
    ) -> None:
        for number in (1, 2, 3):
            world.registered(number, st=0)
        for _ in range(2):
            assert (await world.accept({"validity_s": 100}, timestamp=None)).times == 0
            world.mono += 61
            world.wall += 61
            await world.settle()
        assert await world.kinds() == ["sms.expired"]

    @pytest.mark.parametrize("end", [-1e18, float("inf"), 1e18, "soon"])
    async def test_an_end_that_no_calendar_has_is_no_end(self, world: World, end: Any) -> None:
        await world.accept({"validity_s": 1}, timestamp=START - 5, headers={"x-expires-at": end})
        (event,) = await world.told()
        assert (event["type"], event["data"]["expires_at"]) == ("sms.expired.v1", "2023-11-14T22:13:16Z")

    async def test_it_expires_while_it_waits(self, world: World) -> None:
        for number in (1, 2, 3):
            world.registered(number, st=0)
        settled = await world.accept({"validity_s": 10})
        assert settled.times == 0
        world.mono += 11
        await world.settle()
        assert settled.acks == 1 and await world.kinds() == ["sms.expired"]

    async def test_what_waits_too_long_goes_back_to_the_broker(self, world: World) -> None:
        for number in (1, 2, 3):
            world.registered(number, st=0)
        settled = await world.accept()
        world.mono += 61
        await world.settle()
        assert (settled.acks, settled.given_back) == (0, 1)

    @pytest.mark.parametrize(
        ("wait_s", "tier"), [(3, "later.5"), (30, "later.5"), (100, "later.60"), (9_000, "later.900")]
    )
    async def test_not_before_waits_in_a_tier_with_its_age_fixed(self, world: World, wait_s: int, tier: str) -> None:
        moment = datetime.fromtimestamp(START + wait_s, UTC).isoformat()
        settled = await world.accept(
            {"not_before": moment, "validity_s": 60}, headers={"traceparent": "t", "x-death": []}
        )
        assert settled.acks == 1
        (copy,) = world.published
        assert (copy.exchange, copy.routing_key) == (tier, "send.otp")
        assert copy.headers == {"x-expires-at": START + wait_s + 60, "traceparent": "t"}


class TestLists:
    async def test_children_are_confirmed_before_the_parent_is_acked(self, world: World) -> None:
        numbers = [f"+49151{n:08d}" for n in range(250)]
        settled = await world.accept({"to": numbers})
        assert settled.acks == 1
        assert [one.message_id for one in world.published] == [f"a/{n}" for n in range(250)]
        assert await world.told() == []

    async def test_a_child_is_sent_like_any_other(self, world: World) -> None:
        await world.accept({"to": ["+4915112345678"], "metadata": {"k": "v"}})
        (child,) = world.published
        await world.accept(child.body, headers=dict(child.headers), message_id=child.message_id)
        (event,) = await world.told()
        assert (event["subject"], event["data"]["parent"], event["data"]["metadata"]) == ("a/0", "a", {"k": "v"})

    async def test_a_list_that_came_too_late_is_one_event(self, world: World) -> None:
        await world.accept({"to": ["+4915112345678"], "validity_s": 1}, timestamp=START - 5)
        assert await world.kinds() == ["sms.expired"]
        assert world.published == []


class TestReturned:
    async def take(self, world: World, body: Any = None, key: str = "send.otp", **more: Any) -> int:
        delivery, settled = world.delivery(body, key, **more)
        world.outbound.returned(delivery)
        await world.settle()
        return settled.acks

    async def test_unroutable_is_rejected_and_kept(self, world: World) -> None:
        assert await self.take(world, key="send.nowhere") == 1
        (event,) = await world.told()
        assert (event["type"], event["data"]["reason"]) == ("sms.rejected.v1", "unroutable")
        assert [one.headers["x-reason"] for one in world.published] == ["unroutable"]

    async def test_one_that_a_tier_could_not_bring_back_is_unroutable(self, world: World) -> None:
        death = [{"queue": "sms.later.5", "reason": "expired"}]
        assert await self.take(world, headers={"x-death": death}) == 1
        assert (await world.told())[0]["data"]["reason"] == "unroutable"

    async def test_expired_in_its_queue_is_expired(self, world: World) -> None:
        death = [{"queue": "sms.send.otp", "reason": "expired"}]
        assert await self.take(world, headers={"x-death": death}) == 1
        (event,) = await world.told()
        assert (event["type"], event["data"]["reason"]) == ("sms.expired.v1", "expired_in_queue")

    async def test_a_list_that_expired_in_its_queue_is_expired_as_well(self, world: World) -> None:
        death = [{"queue": "sms.send.otp", "reason": "expired"}]
        assert await self.take(world, {"to": ["+4915112345678"]}, headers={"x-death": death}) == 1
        assert await world.kinds() == ["sms.expired"]
        assert world.published == []

    async def test_an_unknown_gateway_is_unroutable_whatever_ports_it_names(self, world: World) -> None:
        assert await self.take(world, {"ports": "1"}, key="gateway.gw9") == 1
        assert (await world.told())[0]["data"]["reason"] == "unroutable"

    async def test_a_child_that_is_refused_is_told_under_its_own_id(self, world: World) -> None:
        assert await self.take(world, {"id": "a/0", "prio": 1}, headers={"x-parent": "a"}) == 1
        assert (await world.told())[0]["subject"] == "a/0"

    async def test_over_the_delivery_limit_is_rejected(self, world: World) -> None:
        death = [{"queue": "sms.send.otp", "reason": "delivery_limit"}]
        assert await self.take(world, headers={"x-death": death}) == 1
        assert (await world.told())[0]["data"]["reason"] == "delivery_limit"

    async def test_what_was_begun_meanwhile_is_only_a_repeat(self, world: World) -> None:
        await world.accept()
        assert await self.take(world, headers={"x-death": [{"queue": "sms.send.otp", "reason": "expired"}]}) == 1
        assert await world.kinds() == ["sms.submitted", "sms.submitted"]

    async def test_garbage_is_garbage_here_too(self, world: World) -> None:
        assert await self.take(world, b"{", message_id="m") == 1
        assert (await world.told())[0]["data"]["reason"] == "unreadable"


class TestLanes:
    async def test_a_route_that_can_send_is_consumed_and_one_that_cannot_holds_nothing(self, world: World) -> None:
        for lane in world.outbound._lanes:
            await world.outbound._tend(lane)
        assert set(world.consumed) == {"send.otp", "send.single", "gateway.gw1"}
        delivery, settled = world.delivery(key="send.single")
        world.registered(1, st=0)
        world.outbound.accept(delivery)
        for lane in world.outbound._lanes:
            await world.outbound._tend(lane)
        assert set(world.consumed) == {"send.otp", "gateway.gw1"}
        assert settled.given_back == 1
        world.registered(1)
        for lane in world.outbound._lanes:
            await world.outbound._tend(lane)
        assert "send.single" in world.consumed

    async def test_a_paused_route_is_looked_at_every_minute_so_that_what_expired_is_told(self, world: World) -> None:
        world.registered(1, st=0)
        lane = next(lane for lane in world.outbound._lanes if lane.queue == "send.single")
        seen = []
        for _ in range(4):
            await world.outbound._tend(lane)
            seen.append("send.single" in world.consumed)
            world.mono += 1
        assert seen == [True, False, False, False]
        world.mono += 60
        await world.outbound._tend(lane)
        assert "send.single" in world.consumed
        late = await world.accept({"validity_s": 1}, key="send.single", timestamp=START - 5)
        early = await world.accept({"id": "b"}, key="send.single")
        world.mono += 1
        await world.outbound._tend(lane)
        assert (late.acks, early.given_back) == (1, 1)
        assert await world.kinds() == ["sms.expired"]

    async def test_a_worker_that_dies_of_a_bug_ends_the_loop(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def bug(_answer: object, _tids: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr("bridge.ejoin.codes.of_answer", bug)
        await world.accept()
        with pytest.raises(ZeroDivisionError):
            await world.outbound.run()

    async def test_during_a_stop_no_lane_is_opened_and_nothing_is_begun(self, world: World) -> None:
        await world.outbound.stop(1.0)
        for lane in world.outbound._lanes:
            await world.outbound._tend(lane)
        assert world.consumed == {}
        delivery, _ = world.delivery()
        world.planner.offer(
            intake.read(delivery, world.outbound._rules_of(delivery), START),  # type: ignore[arg-type]
            delivery, now=world.mono, expires_at=world.mono + 9, hold_s=9,
        )  # fmt: skip
        await world.settle()
        assert world.device.posts == []

    async def test_a_stop_gives_back_what_was_not_begun(self, world: World) -> None:
        for number in (1, 2, 3):
            world.registered(number, st=0)
        settled = await world.accept()
        await world.outbound.stop(1.0)
        assert (settled.acks, settled.given_back) == (0, 1)
        late = await world.accept({"id": "b"})
        assert (late.acks, late.given_back) == (0, 1)


async def test_the_same_request_delivered_again_while_it_waits_acks_the_older(world: World) -> None:
    for number in (1, 2, 3):
        world.registered(number, st=0)
    older = await world.accept()
    newer = await world.accept()
    assert (older.acks, newer.times) == (1, 0)
    for number in (1, 2, 3):
        world.registered(number)
    await world.settle()
    assert (older.times, newer.acks) == (1, 1)
    assert len(world.device.posts) == 1


async def test_an_empty_port_is_no_other_sim(world: World) -> None:
    world.registered(3, st=0)
    world.device.codes["+4915112345678"] = 5
    await world.accept()
    (back,) = await world.back()
    world.mono += 5
    await world.accept(back.body, headers=dict(back.headers), message_id=back.message_id)
    assert await world.kinds() == ["sms.failed"]


async def test_it_has_not_failed_for_certain_where_an_earlier_attempt_may_be_on_air(world: World) -> None:
    world.device.codes["+4915112345678"] = 5
    await world.accept()
    (back,) = await world.back()
    more = {"x-tried": json.dumps([f"sim{number}" for number in PORTS]), "x-possible-duplicate": True}
    await world.accept(back.body, headers={**back.headers, **more}, message_id=back.message_id)
    assert (await world.told())[-1]["data"]["certain"] is False


async def test_a_request_may_leave_the_port_to_the_device_and_its_counters_then_prove_nothing(world: World) -> None:
    await world.inquiry.begin()
    await world.accept({"ports": "device"}, key="gateway.gw1")
    (task,) = world.device.posts[-1]
    assert task.port is None
    accounts = await world.ledger.write(lambda tx: tx.accounts("gw1"))
    assert {port: account.foreign_at for port, account in accounts.items()} == dict.fromkeys(PORTS, world.wall)


async def test_whom_the_staging_guard_does_not_name_is_refused_and_not_buried(tmp_path: Path) -> None:
    async with make_world(tmp_path / "guarded", policy={"only_to": ["+4915*"]}) as world:
        await world.accept({"to": "+441234567890"})
        (event,) = await world.told()
        assert (event["type"], event["data"]["reason"], event["data"]["field"]) == (
            "sms.rejected.v1",
            "not_allowed",
            "to",
        )
        assert (world.published, world.device.posts) == ([], [])
        await world.accept({"id": "next"})
        assert len(world.device.posts) == 1
