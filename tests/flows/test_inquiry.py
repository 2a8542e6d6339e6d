"""The inquiry: doubts settled by evidence, SMS recovered from the inbox, delivery reports that wait."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bridge.ejoin.facts import DeliveryReport, InboxPage, ListedTask, PortStatus, ReceivedSms
from bridge.ejoin.ports import Port
from bridge.errors import GatewayGarbled, GatewayNotReached, GatewaySilent
from bridge.flows import inbound
from bridge.models import State
from tests.flows.test_inbound import report
from tests.flows.world import CONFIG, PORTS, World, world

TO = "+4915112345678"
GATEWAY = CONFIG["gateways"][0]


async def doubt(world: World, body: dict[str, Any] | None = None, key: str = "send.single", **more: Any) -> int:
    """One SMS on port 1 whose answer was lost; its task id."""
    world.device.failure = GatewaySilent()
    await world.accept(body, key=key, **more)
    world.device.failure = None
    return world.tid


def change_card(world: World, iccid: str) -> None:
    """Another card lies in port 1; its counters are the same."""
    for st, known_as in ((0, ""), (3, iccid)):
        world.fleet.note_status("gw1", PortStatus(Port(1, 1), st, iccid=known_as), world.mono)


async def rounds(world: World, seconds: int) -> int:
    """How often the gateway's counters are read in this time, looked at every second."""
    count = 0

    async def counting() -> None:
        nonlocal count
        count += 1

    world.device.while_counting = counting
    for _ in range(seconds):
        await world.passes(1)
    return count


async def report_lost(world: World, body: dict[str, Any] | None = None) -> int:
    """One SMS that port 1 took and whose report does not come; its task id."""
    await world.accept(body, key="send.single")
    world.device.counted[1] = (100, 10, 1)
    await world.passes(30 + 8 + 60 + 1)
    return world.tid


async def reason(world: World) -> str:
    events = await world.told()
    assert events[-1]["type"] == "sms.unknown.v1"
    told: str = events[-1]["data"]["reason"]
    return told


async def state(world: World, sms_id: str = "a") -> State:
    sms = await world.sms(sms_id)
    assert sms is not None
    return sms.state


class TestList:
    async def test_a_task_in_the_list_with_its_recipient_was_taken(self, world: World) -> None:
        tid = await doubt(world)
        world.device.listed[1] = (ListedTask(tid, TO),)
        await world.passes(16)
        assert await state(world) is State.SUBMITTED
        assert await world.kinds() == ["sms.submitted"]
        await world.push(report(tid))
        assert await world.kinds() == ["sms.submitted", "sms.sent"]

    async def test_another_recipient_under_that_id_proves_nothing(self, world: World) -> None:
        tid = await doubt(world)
        world.device.listed[1] = (ListedTask(tid, "+4915199999999"),)
        await world.passes(16)
        assert await state(world) is State.IN_DOUBT

    async def test_a_task_that_still_waits_in_the_device_is_not_given_up(self, world: World) -> None:
        tid = await doubt(world)
        world.device.listed[1] = (ListedTask(tid, TO),)
        await world.passes(901)
        sms = await world.sms()
        assert sms is not None and sms.state is State.SUBMITTED and (sms.deadline_at or 0) > world.wall

    async def test_an_answer_that_nobody_understands_says_what_it_can(self, world: World) -> None:
        await doubt(world)
        world.device.deaf = GatewayGarbled("gw1: there is no such page")
        await world.passes(901)
        assert await reason(world) == "answer_lost"


class TestDeadline:
    async def test_a_report_settles_it(self, world: World) -> None:
        await world.push(report(await doubt(world)))
        assert await world.kinds() == ["sms.sent"]

    async def test_without_evidence_it_is_unknown_at_the_deadline_and_never_sent_again(self, world: World) -> None:
        await doubt(world)
        await world.passes(899)
        assert await world.told() == []
        await world.passes(6)
        assert await reason(world) == "answer_lost"
        assert len(world.device.posts) == 1 and await world.back() == []

    async def test_late_evidence_corrects_the_unknown(self, world: World) -> None:
        tid = await doubt(world)
        await world.passes(901)
        await world.push(report(tid))
        unknown, sent = await world.told()
        assert sent["data"]["corrects"] == unknown["id"]

    async def test_a_report_that_stays_away_is_doubt_first_and_frees_the_port(self, world: World) -> None:
        await report_lost(world)
        sms = await world.sms()
        assert sms is not None and (sms.state, sms.reason) == (State.IN_DOUBT, "report_lost")
        assert world.fleet.port("gw1", 1).queued == 0
        await world.passes(901)
        assert await reason(world) == "report_lost"

    async def test_a_gateway_that_does_not_answer_is_given_as_much_time_again(self, world: World) -> None:
        await doubt(world)
        world.device.deaf = GatewayNotReached()
        await world.passes(901)
        assert await state(world) is State.IN_DOUBT
        await world.passes(890)
        assert await state(world) is State.IN_DOUBT
        await world.passes(20)
        assert await reason(world) == "answer_lost"

    async def test_what_a_gateway_had_that_is_not_configured_any_more_ends_at_its_deadline(self, world: World) -> None:
        await doubt(world)
        await world.ledger.write(lambda tx: tx.connection.exec_driver_sql("UPDATE sms SET gateway = 'gone'"))
        await world.passes(901)
        assert await reason(world) == "answer_lost"

    async def test_a_route_may_want_it_sent_again_and_every_event_says_so(self, tmp_path: Path) -> None:
        routes = [{"name": "single", "ports": ["gw1:1"], "on_doubt": "resend"}]
        async with world(tmp_path / "other", routes=routes) as made:
            await doubt(made)
            await made.passes(901)
            (back,) = await made.back()
            made.mono += 3  # so long the port is left alone
            await made.accept(back.body, key="send.single", headers=dict(back.headers), message_id="a")
            await made.push(report(made.tid))
            assert [event["data"]["possible_duplicate"] for event in await made.told()] == [True, True]


class TestCounters:
    """Evidence (3): the account is opened by the first round, before anything is handed over."""

    @pytest.fixture(autouse=True)
    async def _account(self, world: World) -> None:
        await world.inquiry.begin()

    async def test_what_is_not_counted_never_came_and_goes_back(self, world: World) -> None:
        await doubt(world)
        await world.passes(16)
        assert await state(world) is State.IN_DOUBT, "it may be on its way still: seen twice or not believed"
        await world.passes(16)
        assert await state(world) is State.HANDED_BACK
        (back,) = await world.back()
        assert back.headers["x-attempt"] == 2 and await world.told() == []

    async def test_a_device_that_tells_no_list_may_tell_its_counters(self, world: World) -> None:
        async def refuse(port: Port) -> tuple[ListedTask, ...]:
            raise GatewayGarbled(f"gw1: the gateway tells no tasks: 2 port {port}")

        world.device.tasks = refuse  # type: ignore[method-assign]
        await doubt(world)
        world.device.counted[1] = (101, 10, 0)
        await world.passes(16)
        assert await state(world) is State.SENT

    async def test_what_came_late_is_found_by_the_second_look(self, world: World) -> None:
        await doubt(world)
        await world.passes(16)
        world.device.counted[1] = (101, 10, 0)
        await world.passes(16)
        assert await world.kinds() == ["sms.sent"]

    async def test_counted_once_more_than_told_it_was_sent(self, world: World) -> None:
        await doubt(world)
        world.device.counted[1] = (101, 10, 0)
        await world.passes(16)
        (event,) = await world.told()
        assert (event["type"], event["data"]["evidence"]) == ("sms.sent.v1", "statistics")

    async def test_counted_as_failed_it_may_be_on_air_and_is_not_sent_again(self, world: World) -> None:
        await doubt(world)
        world.device.counted[1] = (100, 11, 0)
        await world.passes(16)
        (event,) = await world.told()
        assert event["type"] == "sms.failed.v1" and event["data"]["certain"] is False
        assert await world.back() == []

    async def test_waiting_in_the_device_it_was_taken(self, world: World) -> None:
        await doubt(world)
        world.device.counted[1] = (100, 10, 1)
        await world.passes(16)
        assert await world.kinds() == ["sms.submitted"]

    async def test_a_lost_report_is_read_from_the_counters(self, world: World) -> None:
        await report_lost(world)
        world.device.counted[1] = (101, 10, 0)
        await world.passes(16)
        assert await world.kinds() == ["sms.submitted", "sms.sent"]

    async def test_two_lost_reports_that_differ_settle_nobody(self, world: World) -> None:
        await world.accept({"id": "a"}, key="send.single")
        await world.accept({"id": "b", "to": "+4915100000001"}, key="send.single")
        world.device.counted[1] = (101, 11, 0)
        await world.passes(30 * 2 + 8 + 60 + 1)
        await world.passes(901)
        assert (await world.kinds())[2:] == ["sms.unknown", "sms.unknown"]

    async def test_results_that_were_told_are_not_counted_twice(self, world: World) -> None:
        await world.accept({"id": "a"}, key="send.single")
        await world.push(report(world.tid))
        world.device.counted[1] = (101, 10, 0)
        await doubt(world, {"id": "b"})
        await world.passes(16)
        await world.passes(16)
        assert await state(world, "b") is State.HANDED_BACK

    async def test_a_report_that_is_on_its_way_is_left_to_come(self, world: World) -> None:
        await world.accept(key="send.single")
        world.device.counted[1] = (101, 10, 0)
        await world.passes(60)
        assert await world.kinds() == ["sms.submitted"]

    async def test_what_an_earlier_life_handed_over_needs_no_deadline(self, world: World) -> None:
        await world.accept(key="send.single")
        world.device.counted[1] = (101, 10, 0)
        await world.inquiry.begin()
        assert await world.kinds() == ["sms.submitted", "sms.sent"]

    async def test_but_a_failure_among_it_is_left_to_its_report_which_may_allow_another_sim(self, world: World) -> None:
        await world.accept()
        sms = await world.sms()
        assert sms is not None and sms.port is not None
        world.device.counted[sms.port] = (100, 11, 0)
        await world.inquiry.begin()
        await world.push(report(world.tid, failed="5 SIM Unregistered"))
        assert await state(world) is State.HANDED_BACK

    async def test_a_device_that_began_anew_proves_nothing(self, world: World) -> None:
        await doubt(world)
        world.device.ssrc, world.device.counted[1] = "second", (100, 10, 0)
        for _ in range(3):
            await world.passes(16)
        assert await state(world) is State.IN_DOUBT

    async def test_nor_does_one_whose_counters_went_back(self, world: World) -> None:
        await doubt(world)
        world.device.counted[1] = (0, 0, 0)
        for _ in range(3):
            await world.passes(16)
        assert await state(world) is State.IN_DOUBT

    async def test_but_its_account_is_opened_anew_and_serves_the_next(self, world: World) -> None:
        await doubt(world)
        world.device.ssrc, world.device.counted[1] = "second", (0, 0, 0)
        for _ in range(4):
            await world.passes(16)
        await doubt(world, {"id": "b"})
        world.device.counted[1] = (1, 0, 0)
        await world.passes(16)
        assert (await state(world, "b"), await state(world)) == (State.SENT, State.IN_DOUBT)

    async def test_on_a_port_in_use_too_where_all_that_it_was_given_waits_there(self, world: World) -> None:
        world.device.ssrc, world.device.counted[1] = "second", (0, 0, 2)
        await world.accept({"id": "a"}, key="send.single")
        first = world.tid
        await world.accept({"id": "b"}, key="send.single")
        await world.passes(60)
        world.device.counted[1] = (2, 0, 0)
        await world.push(report(first))
        await world.passes(120)
        assert await state(world, "b") is State.SENT

    async def test_a_port_that_has_no_quiet_moment_is_given_one(self, world: World) -> None:
        await world.accept({"id": "a"}, key="send.single")
        first = world.tid
        world.device.ssrc, world.device.counted[1] = "second", (0, 0, 2)
        await world.passes(60)
        await world.accept({"id": "b"}, key="send.single")
        assert len(world.device.posts) == 1
        world.device.counted[1] = (1, 0, 0)
        await world.push(report(first))
        await world.passes(3)
        await world.settle()
        assert len(world.device.posts) == 2
        accounts = await world.ledger.write(lambda tx: tx.accounts("gw1"))
        assert accounts[1].ssrc == "second"

    async def test_it_does_not_wait_for_one_for_ever(self, world: World) -> None:
        await world.accept({"id": "a"}, key="send.single")
        world.device.ssrc, world.device.counted[1] = "second", (0, 0, 2)
        await world.passes(60)
        for _ in range(25):
            await world.passes(3)
        await world.accept({"id": "b"}, key="send.single")
        assert len(world.device.posts) == 2

    async def test_not_where_a_result_may_be_counted_that_nobody_told(self, world: World) -> None:
        world.device.ssrc, world.device.counted[1] = "second", (1, 0, 1)
        await world.accept({"id": "a"}, key="send.single")
        await world.accept({"id": "b"}, key="send.single")
        await world.passes(60)
        accounts = await world.ledger.write(lambda tx: tx.accounts("gw1"))
        assert accounts[1].ssrc == "first"

    async def test_its_gateway_is_given_nothing_new_until_they_have_settled_it_and_not_for_ever(
        self, world: World
    ) -> None:
        await doubt(world)
        world.device.counted[1] = (105, 10, 0)  # somebody else's: nothing will be settled here
        await world.passes(1)
        await world.passes(16)
        world.mono += 5
        await world.accept({"id": "b"}, key="send.single")
        assert len(world.device.posts) == 1
        for _ in range(5):
            await world.passes(10)
        await world.accept({"id": "c"}, key="send.single")
        assert len(world.device.posts) == 2

    async def test_a_process_that_was_paused_asks_before_it_hands_over(self, world: World) -> None:
        await doubt(world)
        await world.passes(1)
        world.mono += 20
        await world.accept({"id": "b"}, key="send.single")
        assert len(world.device.posts) == 1
        await world.passes(1)
        await world.settle()
        assert (await state(world), len(world.device.posts)) == (State.HANDED_BACK, 2)

    async def test_a_card_that_comes_in_is_asked_about_at_once(self, world: World) -> None:
        world.registered(1, st=0)
        await world.passes(60)
        world.registered(1)
        await world.passes(1)
        await doubt(world)
        world.device.counted[1] = (101, 10, 0)
        await world.passes(1)
        assert await state(world) is State.SENT

    async def test_a_port_in_use_is_let_idle_until_the_next_look(self, world: World) -> None:
        await report_lost(world, {"id": "a"})
        await world.accept({"id": "b"}, key="send.single")
        assert len(world.device.posts) == 1, "what b would come to could not be told from what a came to"
        world.device.counted[1] = (101, 10, 0)
        await world.passes(16)
        assert await state(world, "a") is State.SENT
        await world.settle()
        assert len(world.device.posts) == 2

    async def test_so_is_one_where_something_changed_while_the_device_was_asked(self, world: World) -> None:
        await world.accept({"id": "a"}, key="send.single")
        world.device.counted[1] = (102, 10, 0)

        async def another() -> None:
            world.device.while_counting = None
            await world.accept({"id": "b"}, key="send.single")
            await world.push(report(world.tid))

        world.device.while_counting = another
        await world.passes(30 + 8 + 60 + 1)
        assert (await state(world, "a"), await state(world, "b")) == (State.IN_DOUBT, State.SENT)
        await world.accept({"id": "c"}, key="send.single")
        assert len(world.device.posts) == 2
        await world.passes(15)
        assert await state(world, "a") is State.SENT

    async def test_a_task_that_somebody_removed_on_the_device_proves_nothing_about_another(self, world: World) -> None:
        """One was taken and dropped there, the other one was sent though its answer was lost: the sum is the same."""
        await report_lost(world, {"id": "a"})
        world.mono += 100
        await doubt(world, {"id": "b"})
        world.device.counted[1] = (101, 10, 0)
        for _ in range(3):
            await world.passes(17)
        assert (await state(world, "a"), await state(world, "b")) == (State.IN_DOUBT, State.IN_DOUBT)
        assert await world.back() == []

    async def test_another_submitter_on_the_sim_makes_them_worthless_for_a_day(self, world: World) -> None:
        await doubt(world)
        world.device.counted[1] = (103, 10, 0)
        for _ in range(3):
            await world.passes(20)
        await doubt(world, {"id": "b"})
        await world.passes(16)
        await world.passes(16)
        assert await state(world, "b") is State.IN_DOUBT
        await world.passes(86_400)
        await doubt(world, {"id": "c"})
        await world.passes(16)
        await world.passes(16)
        assert await state(world, "c") is State.HANDED_BACK

    async def test_so_does_one_that_the_device_tells_of(self, world: World) -> None:
        told = {"type": "sent-sms", "port": "1.01", "sms_tid": 5, "src_type": 2, "status": "0", "recver": "+491"}
        await world.push(told)
        await doubt(world)
        world.device.counted[1] = (101, 10, 0)
        await world.passes(16)
        assert await state(world) is State.IN_DOUBT

    async def test_a_card_that_was_away_is_not_asked_about_what_the_other_one_sent(self, world: World) -> None:
        change_card(world, "another")
        await doubt(world)
        await world.passes(1)
        change_card(world, "sim1")
        for _ in range(3):
            await world.passes(17)
        assert await state(world) is State.IN_DOUBT

    async def test_what_was_sent_while_an_account_is_opened_is_not_counted_later(self, tmp_path: Path) -> None:
        async with world(tmp_path / "other") as made:
            whole, asked = made.device.inbox, 0

            async def slow(*, start: int, count: int) -> InboxPage:
                """One is sent and told of after the counters were read."""
                nonlocal asked
                asked += 1
                if asked == 2:
                    await made.accept({"id": "b"}, key="send.single")
                    await made.push(report(made.tid))
                return await whole(start=start, count=count)

            made.device.inbox = slow  # type: ignore[method-assign]
            await made.inquiry.begin()
            await doubt(made)
            made.device.counted[1] = (101, 10, 0)
            await made.passes(16)
            assert await state(made) is State.IN_DOUBT

    async def test_an_account_on_a_busy_port_expects_nothing_that_was_counted_before(self, tmp_path: Path) -> None:
        """One waits, a later one overtook it and lost its report, a third lost its answer and was sent."""
        async with world(tmp_path / "other") as made:
            await made.accept({"id": "waits", "timeout_s": 300}, key="send.single")
            await made.accept({"id": "overtook", "timeout_s": 5}, key="send.single")
            made.device.counted[1] = (101, 10, 1)
            await made.passes(100)
            assert await state(made, "overtook") is State.IN_DOUBT
            made.mono += 60
            await doubt(made)
            made.device.counted[1] = (102, 10, 1)
            for _ in range(3):
                await made.passes(17)
            assert await state(made) is not State.HANDED_BACK

    async def test_another_submitter_is_remembered_though_there_is_no_account(self, tmp_path: Path) -> None:
        async with world(tmp_path / "other") as made:
            await made.push({"type": "sent-sms", "port": "1.01", "src_type": 2, "status": "0", "recver": "+491"})
            await made.inquiry.begin()
            await doubt(made)
            for _ in range(3):
                await made.passes(17)
            assert await state(made) is State.IN_DOUBT

    async def test_another_submitter_is_remembered_though_one_is_sent_again(self, tmp_path: Path) -> None:
        routes = [
            {"name": "single", "ports": ["gw1:1"]},
            {"name": "otp", "ports": ["gw1:1"], "on_doubt": "resend"},
        ]
        async with world(tmp_path / "other", routes=routes) as made:
            await made.inquiry.begin()
            await made.push({"type": "sent-sms", "port": "1.01", "src_type": 2, "status": "0", "recver": "+491"})
            await doubt(made, {"id": "again", "to": "+4915100000001"}, key="send.otp")
            await made.passes(901)
            assert await state(made, "again") is State.HANDED_BACK
            await made.passes(60)
            await doubt(made)
            for _ in range(3):
                await made.passes(17)
            assert await state(made) is State.IN_DOUBT

    async def test_what_changed_while_the_device_was_asked_is_asked_again(self, world: World) -> None:
        await doubt(world)

        async def another() -> None:
            world.device.while_counting = None
            await world.accept({"id": "b"}, key="send.single")

        world.device.while_counting = another
        world.device.counted[1] = (101, 10, 0)
        await world.passes(20)
        assert await state(world) is State.IN_DOUBT
        await world.push(report(world.tid))
        for _ in range(2):
            await world.passes(16)
        assert (await state(world), await state(world, "b")) == (State.HANDED_BACK, State.SENT)

    async def test_a_delivery_report_says_nothing_about_what_the_device_has_counted(self, world: World) -> None:
        """Delivered, and then told as timed out by the device: its counters say failed."""
        await world.accept({"id": "a", "delivery_report": True}, key="send.single")
        tid = world.tid
        await world.push({"type": "recv-sms", "sms": [[1, "1.01", int(world.wall), "1", TO, "0 14072322113832"]]})
        world.device.counted[1] = (100, 11, 0)
        await doubt(world, {"id": "b", "to": "+4915100000001"})
        await world.passes(16)
        await world.push(report(tid, failed="6 Timeout"))
        await world.passes(17)
        assert (await state(world, "a"), await state(world, "b")) == (State.SENT, State.HANDED_BACK)

    async def test_what_the_inbox_tells_costs_them_no_round(self, world: World) -> None:
        await world.accept({"id": "a", "delivery_report": True}, key="send.single")
        await doubt(world, {"id": "b", "to": "+4915100000001"})
        world.device.counted[1] = (101, 10, 0)
        world.device.came_in = [DeliveryReport(Port(1, 1), world.wall, TO, 0)]
        await world.passes(16)
        await world.passes(16)
        assert await world.kinds() == ["sms.submitted", "sms.sent", "sms.delivered"]
        assert await state(world, "b") is State.HANDED_BACK

    async def test_a_port_in_use_gives_a_doubt_more_time_than_its_deadline(self, world: World) -> None:
        await doubt(world)
        world.mono += 20  # so long the gateway is left alone after an answer was lost
        await world.accept({"id": "b"}, key="send.single")
        world.device.counted[1] = (100, 10, 1)
        await world.passes(901)
        assert await state(world) is State.IN_DOUBT
        await world.push(report(world.tid))
        world.device.counted[1] = (102, 10, 0)
        await world.passes(16)
        assert await state(world) is State.SENT

    async def test_they_correct_what_was_given_up(self, world: World) -> None:
        await doubt(world)
        world.device.listed[1] = ()
        world.device.counted = {}
        await world.passes(901)
        assert await state(world) is State.UNKNOWN
        world.device.counted = {1: (101, 10, 0)}
        await world.passes(60)
        unknown, sent = await world.told()
        assert (sent["type"], sent["data"]["corrects"]) == ("sms.sent.v1", unknown["id"])

    async def test_what_went_out_by_two_attempts_does_not_stand_in_for_a_lost_one(self, world: World) -> None:
        world.device.codes[TO] = 5
        await world.accept(key="send.otp")
        first, (back,) = world.tid, await world.back()
        world.device.codes.clear()
        await world.accept(back.body, headers=dict(back.headers), message_id="a")
        sms = await world.sms()
        assert sms is not None and (sms.state, sms.attempt) == (State.SUBMITTED, 2)
        await world.push(report(first))
        assert sms.port is not None
        world.device.counted[sms.port] = (101, 10, 0)
        await doubt(world, {"id": "b", "sim": sms.sim}, key="send.otp")
        await world.passes(16)
        assert await state(world, "b") is State.IN_DOUBT

    async def test_those_that_were_given_up_do_not_blur_the_next(self, world: World) -> None:
        for sms_id in ("a", "b"):
            await doubt(world, {"id": sms_id})
            world.mono += 20  # so long the gateway is left alone
        world.device.counted[1] = (101, 10, 0)
        await world.passes(901)
        await world.passes(901)
        assert await state(world, "a") is await state(world, "b") is State.UNKNOWN
        await world.passes(60)
        await doubt(world, {"id": "c"})
        await world.passes(16)
        await world.passes(16)
        assert await state(world, "c") is State.HANDED_BACK

    async def test_two_that_differ_are_told_apart_by_a_quiet_moment_between_them(self, world: World) -> None:
        await world.accept({"id": "a"}, key="send.single")
        world.device.counted[1] = (101, 10, 0)
        await world.passes(60)
        await world.accept({"id": "b", "to": "+4915100000001"}, key="send.single")
        world.device.counted[1] = (101, 11, 0)
        await world.passes(130)
        await world.passes(16)
        assert (await state(world, "a"), await state(world, "b")) == (State.SENT, State.FAILED)

    @pytest.mark.parametrize("then", ["began anew", "gone"])
    async def test_what_was_seen_at_a_quiet_moment_stays_true(self, world: World, then: str) -> None:
        await world.accept({"id": "a"}, key="send.single")
        world.device.counted[1] = (101, 10, 0)
        await world.passes(60)
        if then == "began anew":
            world.device.ssrc, world.device.counted[1] = "second", (0, 0, 0)
        else:
            world.device.deaf = GatewayNotReached()
        await world.passes(60)
        assert await state(world, "a") is State.SENT

    async def test_no_moment_is_quiet_where_it_cannot_be_told_who_was_counted(self, world: World) -> None:
        """The one in doubt was sent, the one before it is counted a moment later than it left the queue."""
        await world.accept({"id": "a"}, key="send.single")
        first = world.tid
        await doubt(world, {"id": "b"})
        world.device.counted[1] = (101, 10, 0)
        for _ in range(2):
            await world.passes(17)
        await world.push(report(first))
        world.device.counted[1] = (102, 10, 0)
        await world.passes(17)
        assert (await state(world, "a"), await state(world, "b")) == (State.SENT, State.SENT)

    async def test_what_was_told_meanwhile_is_taken_from_it(self, world: World) -> None:
        await world.accept({"id": "a"}, key="send.single")
        first = world.tid
        await world.accept({"id": "b", "to": "+4915100000001"}, key="send.single")
        world.device.counted[1] = (101, 11, 0)
        await world.passes(30)
        await world.push(report(first, failed="6 Timeout"))
        await world.passes(60)
        await world.passes(60)
        assert (await state(world, "a"), await state(world, "b")) == (State.FAILED, State.SENT)

    async def test_who_is_in_it_is_in_no_later_one_whatever_waits_in_the_device(self, world: World) -> None:
        await world.accept({"id": "a"}, key="send.single")
        await world.accept({"id": "b"}, key="send.single")
        for ssrc, counted in (("first", (101, 11, 0)), ("second", (0, 0, 2)), ("second", (2, 0, 0))):
            world.device.ssrc, world.device.counted[1] = ssrc, counted
            await world.inquiry.ask("gw1")
        await world.passes(130)
        assert (await state(world, "a"), await state(world, "b")) == (State.IN_DOUBT, State.IN_DOUBT)

    async def test_and_it_is_forgotten_with_the_last_of_them(self, world: World) -> None:
        await world.accept({"id": "a"}, key="send.single")
        world.device.counted[1] = (101, 10, 0)
        await world.passes(60)
        assert len(await world.ledger.write(lambda tx: tx.closed_accounts("gw1"))) == 1
        await world.push(report(world.tid))
        await world.passes(60)
        assert await world.ledger.write(lambda tx: tx.closed_accounts("gw1")) == []

    async def test_also_of_a_gateway_that_is_not_configured_any_more(self, world: World) -> None:
        await world.accept({"id": "a"}, key="send.single")
        world.device.counted[1] = (101, 10, 0)
        await world.passes(60)
        world.inquiry._devices = {}
        for _ in range(3):
            await world.passes(60)
        assert await state(world, "a") is State.SENT
        assert await world.ledger.write(lambda tx: tx.closed_accounts("gw1")) == []

    async def test_nor_is_anybody_asked_more_often_because_of_one(self, world: World) -> None:
        await doubt(world)
        world.device.counted = {}
        await world.passes(901)
        assert await state(world) is State.UNKNOWN
        world.device.counted[1] = (100, 10, 0)
        assert await rounds(world, seconds=120) == 2

    async def test_a_second_look_that_shows_nothing_is_not_repeated_at_once(self, world: World) -> None:
        await doubt(world)
        await world.passes(1)
        world.registered(1, st=2)
        assert await rounds(world, seconds=30) == 2

    @pytest.mark.parametrize("step", [3_600.0, -3_600.0])
    async def test_a_clock_that_is_set_breaks_no_account(self, world: World, step: float) -> None:
        world.wall += step
        await world.accept({"id": "a"}, key="send.single")
        await world.push(report(world.tid))
        world.device.counted[1] = (101, 10, 0)
        world.wall -= step
        await doubt(world, {"id": "b"})
        await world.passes(16)
        await world.passes(20)
        assert await state(world, "b") is State.HANDED_BACK

    async def test_of_the_old_interface_it_is_believed_no_sooner_than_its_call_is_over(self, tmp_path: Path) -> None:
        """Killed with the call under way: the kernel goes on sending it for as long as such a call may take."""
        async with world(tmp_path / "other", gateways=[GATEWAY | {"api_version": "1.0"}]) as made:
            await made.inquiry.begin()
            await doubt(made)
            for _ in range(2):
                await made.passes(17)
            assert await state(made) is State.IN_DOUBT
            for _ in range(2):
                await made.passes(17)
            assert await state(made) is State.HANDED_BACK

    async def test_a_neighbour_that_comes_and_goes_keeps_no_port_idle(self, world: World) -> None:
        world.device.ssrc, world.device.counted[1] = "second", (0, 0, 1)  # something is stuck in the device
        await world.passes(60)
        idle_s = 0
        for second in range(0, 600, 2):
            world.registered(2, st=1 if second % 50 < 4 else 3)
            await world.passes(2)
            idle_s += 2 * (not world.fleet.usable(world.fleet.port("gw1", 1), world.mono))
        assert idle_s < 100

    async def test_polling_may_be_switched_off(self, tmp_path: Path) -> None:
        async with world(tmp_path / "other", gateways=[GATEWAY | {"callbacks": "push"}]) as made:
            await made.inquiry.begin()
            await doubt(made)
            made.device.counted[1] = (101, 10, 0)
            await made.passes(16)
            assert await state(made) is State.IN_DOUBT


class TestMute:
    """A gateway that cannot reach the bridge (``callbacks: poll``)."""

    @pytest.fixture
    async def mute(self, tmp_path: Path) -> AsyncIterator[World]:
        async with world(tmp_path / "mute", gateways=[GATEWAY | {"callbacks": "poll"}]) as made:
            await made.inquiry.begin()
            yield made

    @pytest.mark.parametrize(("counted", "end"), [((101, 10, 0), State.SENT), ((100, 11, 0), State.FAILED)])
    async def test_its_counters_end_an_sms_long_before_its_reports_deadline(
        self, mute: World, counted: tuple[int, int, int], end: State
    ) -> None:
        await mute.accept({"id": "a"}, key="send.single")
        mute.device.counted[1] = (100, 10, 1)
        await mute.passes(6)
        assert await state(mute) is State.SUBMITTED
        mute.device.counted[1] = counted
        await mute.passes(6)
        assert await state(mute) is end
        assert (await mute.told())[-1]["data"]["evidence"] == "statistics"

    async def test_what_comes_in_is_read_from_its_inbox(self, mute: World) -> None:
        mute.device.came_in.append(incoming("hi", mute.wall))
        await mute.passes(61)
        assert await mute.kinds() == ["sms.received"]


async def test_ten_minutes_without_a_callback_lose_nothing(world: World) -> None:
    """Every SMS ends as the counters tell, every incoming one is read from the inbox."""
    await world.inquiry.begin()
    for minute in range(30):
        if minute < 10:
            number = {"id": f"m{minute}", "to": f"+49151000000{minute:02}"}
            await world.accept(number)
            world.device.came_in.append(incoming(f"in {minute}", world.wall))
        given = Counter(task.port.number for post in world.device.posts for task in post)
        world.device.counted = {port: (100 + given[port], 10, 0) for port in PORTS}
        await world.passes(60)
    ended = [await state(world, f"m{minute}") for minute in range(10)]
    assert ended == [State.SENT] * 10
    told = [event["data"]["text"] for event in await world.told() if event["type"] == "sms.received.v1"]
    assert told == [f"in {minute}" for minute in range(10)]


class TestSameTaskAgain:
    """``resubmit_within_s``: only for devices that are known to refuse finished ids."""

    @pytest.mark.parametrize(("code", "settled"), [(0, True), (13, True), (5, False), (7, False)])
    async def test_taken_now_or_known_already_it_has_it_once(self, tmp_path: Path, code: int, settled: bool) -> None:
        async with world(tmp_path / "other", gateways=[GATEWAY | {"resubmit_within_s": 120}]) as made:
            tid = await doubt(made)
            made.device.codes[TO] = code
            await made.passes(16)
            first, again = made.device.posts
            assert again == first and again[0].tid == tid
            assert await state(made) is (State.SUBMITTED if settled else State.IN_DOUBT)

    @pytest.mark.parametrize("so_late_it_could_arrive_after_that", [121, 119, 100])
    async def test_not_later_than_the_device_remembers(
        self, tmp_path: Path, so_late_it_could_arrive_after_that: float
    ) -> None:
        async with world(tmp_path / "other", gateways=[GATEWAY | {"resubmit_within_s": 120}]) as made:
            await doubt(made)
            await made.passes(so_late_it_could_arrive_after_that)
            assert len(made.device.posts) == 1

    async def test_its_absence_is_believed_only_when_seen_twice_after_the_last_time(self, tmp_path: Path) -> None:
        async with world(tmp_path / "other", gateways=[GATEWAY | {"resubmit_within_s": 50}]) as made:
            await made.inquiry.begin()
            await doubt(made)
            made.device.codes[TO] = 6
            await made.passes(1)
            await made.passes(16)
            assert (len(made.device.posts), await state(made)) == (3, State.IN_DOUBT)
            await made.passes(16)
            assert (len(made.device.posts), await state(made)) == (3, State.HANDED_BACK)

    async def test_not_without_being_asked_to(self, world: World) -> None:
        await doubt(world)
        await world.passes(16)
        assert len(world.device.posts) == 1


def incoming(text: str, at: float, port: int = 1) -> ReceivedSms:
    return ReceivedSms(Port(port, 1), at, TO, "+15551", text, via="inbox")


def pushed(*texts: tuple[str, float]) -> dict[str, Any]:
    rows = [[0, "1.01", int(at), TO, "+15551", _packed(text)] for text, at in texts]
    return {"type": "recv-sms", "sms_num": len(rows), "sms": rows}


def _packed(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


class TestInbox:
    async def texts(self, world: World) -> list[str]:
        return [event["data"]["text"] for event in await world.told() if event["type"] == "sms.received.v1"]

    async def test_what_no_push_told_is_read_from_the_inbox_once(self, world: World) -> None:
        world.device.came_in = [incoming("one", world.wall), incoming("two", world.wall)]
        await world.passes(60)
        await world.passes(60)
        assert await self.texts(world) == ["one", "two"]
        assert await world.ledger.write(lambda tx: tx.inbox_cursor("gw1")) == ("first", 3)

    async def test_what_was_pushed_is_not_told_again(self, world: World) -> None:
        await world.push(pushed(("one", world.wall)))
        world.device.came_in = [incoming("one", world.wall), incoming("two", world.wall)]
        await world.passes(60)
        assert await self.texts(world) == ["one", "two"]

    async def test_nor_is_a_push_that_comes_after_the_inbox_was_read_not_even_twice(self, world: World) -> None:
        world.device.came_in = [incoming("one", world.wall)]
        await world.passes(60)
        late = pushed(("one", world.wall - 60))
        await world.push(late)
        await world.push(late)
        assert await self.texts(world) == ["one"]

    async def test_two_that_are_alike_are_both_told_though_one_push_was_lost(self, world: World) -> None:
        await world.push(pushed(("yes", world.wall)))
        world.device.came_in = [incoming("yes", world.wall), incoming("yes", world.wall)]
        await world.passes(60)
        assert await self.texts(world) == ["yes", "yes"]
        assert len({event["id"] for event in await world.told()}) == len(await world.told())

    async def test_a_device_that_began_anew_numbers_them_anew_and_none_is_told_again(self, world: World) -> None:
        world.device.came_in = [incoming("one", world.wall)]
        await world.passes(60)
        world.device.ssrc = "second"
        world.device.came_in += [incoming("two", world.wall)]
        await world.passes(60)
        assert await self.texts(world) == ["one", "two"]
        assert await world.ledger.write(lambda tx: tx.inbox_cursor("gw1")) == ("second", 3)

    async def test_many_are_read_in_pages(self, world: World) -> None:
        world.device.came_in = [incoming(f"{n}", world.wall) for n in range(120)]
        await world.passes(60)
        assert await self.texts(world) == [f"{n}" for n in range(120)]

    async def test_a_device_that_does_not_say_where_to_go_on_is_not_read_twice(self, world: World) -> None:
        world.device.tells_next = False
        for text in ("one", "two"):
            world.device.came_in += [incoming(text, world.wall)]
            await world.passes(60)
        assert await self.texts(world) == ["one", "two"]

    async def test_one_that_does_not_name_its_start_is_not_believed(self, world: World) -> None:
        await world.inquiry.begin()
        world.device.ssrc = ""
        world.device.came_in = [incoming("one", world.wall)]
        await doubt(world)
        for _ in range(3):
            await world.passes(20)
        assert (await self.texts(world), await state(world)) == ([], State.IN_DOUBT)

    async def test_what_lay_there_before_the_first_look_is_not_told_however_much_it_is(self, world: World) -> None:
        world.device.came_in = [incoming(f"{n}", world.wall - 3e7) for n in range(120)] + [incoming("now", world.wall)]
        await world.passes(60)
        assert await self.texts(world) == ["now"]

    async def test_a_device_that_does_not_know_the_time_loses_none(self, world: World) -> None:
        long_ago, today = 1_000.0, world.wall
        world.device.came_in = [replace(incoming("now", long_ago), scts_at=today)]
        await world.passes(60)
        assert await self.texts(world) == ["now"]

    async def test_what_comes_later_is_told_however_wrong_the_devices_clock_is(self, world: World) -> None:
        await world.passes(60)
        world.device.came_in = [incoming("from 1970", 5.0)]
        await world.passes(60)
        assert await self.texts(world) == ["from 1970"]

    async def test_a_page_that_could_not_be_stored_is_read_again(self, world: World) -> None:
        world.device.came_in = [incoming("one", world.wall)]
        await world.ledger.write(lambda tx: tx.connection.exec_driver_sql("PRAGMA max_page_count = 1"))
        world.device.came_in += [incoming("x" * 900, world.wall, port) for port in range(1, 40)]
        await world.passes(60)
        await world.ledger.write(lambda tx: tx.connection.exec_driver_sql("PRAGMA max_page_count = 1073741823"))
        await world.passes(60)
        assert (await self.texts(world))[0] == "one" and len(await self.texts(world)) == 40


REPORTS = {"delivery_report": True}


class TestReportsThatWait:
    """A delivery report names no task: where the SMS it may be about is in doubt, it waits for that to be settled."""

    async def test_it_is_told_once_its_sms_is_settled(self, world: World) -> None:
        tid = await doubt(world, REPORTS)
        world.device.came_in = [DeliveryReport(Port(1, 1), world.wall + 3, TO, 0)]
        await world.passes(16)
        assert await world.told() == []
        await world.push(report(tid))
        await world.inbound.match_orphans()
        assert await world.kinds() == ["sms.sent", "sms.delivered"]

    async def test_it_is_told_as_unmatched_where_its_sms_never_went_out(self, world: World) -> None:
        await world.inquiry.begin()
        await doubt(world, REPORTS)
        world.device.came_in = [DeliveryReport(Port(1, 1), world.wall + 3, TO, 0)]
        for _ in range(3):
            await world.passes(16)
        await world.inbound.match_orphans()
        assert await state(world) is State.HANDED_BACK
        assert await world.kinds() == ["sms.report_unmatched"]

    async def test_many_that_wait_are_looked_at_in_turn(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(inbound, "ORPHANS_AT_ONCE", 2)
        tids = {}
        for n in range(3):
            to = f"+4915100000{n:03}"
            tids[n] = await doubt(world, {"id": f"{n}", "to": to, **REPORTS})
            world.mono += 60  # so long the gateway is left alone
            world.device.came_in += [DeliveryReport(Port(1, 1), world.wall + 3, to, 0)]
        await world.passes(16)
        await world.push(report(tids[2], number="+4915100000002"))
        await world.inbound.match_orphans()
        assert await world.kinds() == ["sms.sent"]
        await world.inbound.match_orphans()
        assert await world.kinds() == ["sms.sent", "sms.delivered"]

    async def given_up(self, world: World) -> None:
        await doubt(world, REPORTS)
        await world.passes(901)
        assert await state(world) is State.UNKNOWN

    async def test_it_may_be_about_one_that_was_given_up_and_is_not_told_of_another(self, world: World) -> None:
        await self.given_up(world)
        world.mono += 3  # so long the port is left alone
        await world.accept({"id": "b", **REPORTS}, key="send.single")
        world.device.came_in = [DeliveryReport(Port(1, 1), world.wall + 3, TO, 0)]
        await world.passes(60)
        assert (await world.told())[-1]["data"]["candidates"] == ["shop:a", "shop:b"]

    async def test_it_corrects_one_that_was_given_up(self, world: World) -> None:
        await self.given_up(world)
        world.device.came_in = [DeliveryReport(Port(1, 1), world.wall + 3, TO, 0)]
        await world.passes(60)
        unknown, sent, delivered = await world.told()
        assert (sent["data"]["corrects"], delivered["type"]) == (unknown["id"], "sms.delivered.v1")

    async def test_many_that_asked_for_none_do_not_hide_the_one_that_did(self, world: World) -> None:
        for n in range(21):
            await world.accept({"id": f"{n}"}, key="send.single")
            await world.push(report(world.tid))
        await world.accept({"id": "asked", **REPORTS}, key="send.single")
        world.device.came_in = [DeliveryReport(Port(1, 1), world.wall + 3, TO, 0)]
        await world.passes(60)
        assert (await world.kinds())[-1] == "sms.delivered"

    async def test_so_many_wait_and_no_more(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("bridge.flows.inbound.MOST_ORPHANS", 1)
        await doubt(world, REPORTS)
        world.device.came_in = [DeliveryReport(Port(1, 1), world.wall + n, TO, n) for n in (3, 4)]
        await world.passes(16)
        assert [event["data"]["code"] for event in await world.told()] == [4]
        assert await world.kinds() == ["sms.report_unmatched"]

    async def test_a_report_by_two_ways_is_told_once(self, world: World) -> None:
        await world.accept(REPORTS, key="send.single")
        await world.push(report(world.tid))
        await world.push({"type": "recv-sms", "sms": [[1, "1.01", int(world.wall), "1", TO, "0 14072322113832"]]})
        world.device.came_in = [DeliveryReport(Port(1, 1), world.wall, TO, 0, stamp="14072322113832")]
        await world.passes(60)
        assert await world.kinds() == ["sms.submitted", "sms.sent", "sms.delivered"]


async def test_a_device_that_began_anew_has_forgotten_its_tasks(world: World) -> None:
    """Their places on the ports are free at once, and their deadline need not be waited for."""
    await world.accept(key="send.single")
    status = await world.device.status(callback_url=None, period_s=60)
    await world.inbound.absorb_status("gw1", replace(status, seq=40))
    await world.inbound.absorb_status("gw1", replace(status, seq=1))
    sms = await world.sms()
    assert sms is not None and (sms.state, sms.reason) == (State.IN_DOUBT, "report_lost")
    assert world.fleet.port("gw1", 1).queued == 0
