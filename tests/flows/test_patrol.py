"""The patrol: what an earlier life left, doubts settled by evidence, deadlines, silent gateways."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bridge.ejoin.facts import ListedTask
from bridge.errors import GatewayNotReached, GatewaySilent
from bridge.flows import patrol
from bridge.models import State
from tests.flows.test_inbound import report
from tests.flows.world import World
from tests.flows.world import world as world_with

TO = "+4915112345678"


async def doubt(world: World) -> int:
    """One SMS whose answer was lost; its task id."""
    world.device.failure = GatewaySilent()
    await world.accept(key="send.single")
    world.device.failure = None
    return world.tid


class TestDoubt:
    async def test_a_task_in_the_list_with_its_recipient_was_taken(self, world: World) -> None:
        tid = await doubt(world)
        world.device.listed[1] = (ListedTask(tid, TO),)
        await world.patrol._ask_about_doubts()
        sms = await world.sms()
        assert sms is not None and sms.state is State.SUBMITTED
        assert await world.kinds() == ["sms.submitted"]
        await world.push(report(tid))
        assert await world.kinds() == ["sms.submitted", "sms.sent"]

    async def test_another_recipient_under_that_id_proves_nothing(self, world: World) -> None:
        tid = await doubt(world)
        world.device.listed[1] = (ListedTask(tid, "+4915199999999"),)
        await world.patrol._ask_about_doubts()
        sms = await world.sms()
        assert sms is not None and sms.state is State.IN_DOUBT

    async def test_a_report_settles_it(self, world: World) -> None:
        await world.push(report(await doubt(world)))
        assert await world.kinds() == ["sms.sent"]

    async def test_without_evidence_it_is_unknown_at_the_deadline_and_never_sent_again(self, world: World) -> None:
        await doubt(world)
        world.wall += 899
        await world.patrol._reap()
        assert await world.told() == []
        world.wall += 2
        await world.patrol._reap()
        (event,) = await world.told()
        assert (event["type"], event["data"]["reason"]) == ("sms.unknown.v1", "answer_lost")
        assert len(world.device.posts) == 1 and await world.back() == []

    async def test_late_evidence_corrects_the_unknown(self, world: World) -> None:
        tid = await doubt(world)
        world.wall += 901
        await world.patrol._reap()
        await world.push(report(tid))
        unknown, sent = await world.told()
        assert sent["data"]["corrects"] == unknown["id"]

    async def test_a_report_that_stays_away_is_doubt_first_and_frees_the_port(self, world: World) -> None:
        await world.accept(key="send.single")
        world.wall += 30 + 8 + 60 + 1
        await world.patrol._reap()
        sms = await world.sms()
        assert sms is not None and (sms.state, sms.reason) == (State.IN_DOUBT, "report_lost")
        assert world.fleet.port("gw1", 1).queued == 0
        world.wall += 901
        await world.patrol._reap()
        assert (await world.told())[-1]["data"]["reason"] == "report_lost"

    async def test_a_task_that_still_waits_in_the_device_is_not_given_up(self, world: World) -> None:
        tid = await doubt(world)
        world.device.listed[1] = (ListedTask(tid, TO),)
        await world.patrol._ask_about_doubts()
        world.wall += 901
        await world.patrol._reap()
        sms = await world.sms()
        assert sms is not None and sms.state is State.SUBMITTED and (sms.deadline_at or 0) > world.wall

    async def test_a_gateway_that_does_not_answer_settles_nothing(self, world: World) -> None:
        await doubt(world)

        async def silent(_port: object) -> tuple[ListedTask, ...]:
            raise GatewayNotReached

        world.device.tasks = silent  # type: ignore[method-assign]
        await world.patrol._ask_about_doubts()
        sms = await world.sms()
        assert sms is not None and sms.state is State.IN_DOUBT


class TestTakeOver:
    async def test_what_was_being_submitted_is_in_doubt_and_what_devices_hold_has_its_place(self, world: World) -> None:
        await world.accept({"id": "held"}, key="send.single")
        begun = await world.sms("held")
        assert begun is not None
        crashed = replace(begun, id="crashed", state=State.SUBMITTING, tid=1)
        await world.ledger.write(lambda tx: tx.save([crashed]))
        world.fleet.port("gw1", 1).queued = 0
        await world.patrol.take_over()
        found = await world.sms("crashed")
        assert found is not None and (found.state, found.reason) == (State.IN_DOUBT, "restart")
        assert found.deadline_at == world.wall + 900
        assert world.fleet.port("gw1", 1).queued == 1


async def test_a_copy_that_never_came_back_is_ended_by_the_gate(world: World) -> None:
    world.device.codes[TO] = 7
    await world.accept({"validity_s": 60})
    (back,) = await world.back()
    world.wall += 60 + 3_600 + 1
    await world.patrol._reap()
    assert await world.kinds() == ["sms.expired"]
    await world.accept(back.body, headers=dict(back.headers), message_id=back.message_id)
    assert len({event["id"] for event in await world.told()}) == 1, "the copy is a repeat"


async def test_liveness_is_told_once_per_change(world: World) -> None:
    await world.patrol._ask_status("gw1")
    await world.patrol._ask_status("gw1")
    assert await world.kinds() == ["gateway.status", "gateway.up", "gateway.status"]

    async def gone(*, callback_url: str | None, period_s: int) -> None:
        raise GatewayNotReached

    world.device.status = gone  # type: ignore[assignment,method-assign]
    await world.patrol._ask_status("gw1")
    await world.patrol._ask_status("gw1")
    assert (await world.kinds())[3:] == ["gateway.down"]
    assert world.patrol.silent() == ["gw1"]


async def test_keys_are_forgotten_after_their_horizon(world: World) -> None:
    await world.accept({"validity_s": 1}, timestamp=world.wall - 5)
    world.wall += 71 * 3600
    await world.patrol._prune()
    assert await world.sms() is not None
    world.wall += 2 * 3600
    await world.patrol._prune()
    assert await world.sms() is None


async def test_a_final_row_is_whole_then_slim_then_none(tmp_path: Path) -> None:
    async with world_with(tmp_path, store={"full_rows_h": 24}) as made:
        await made.accept({"validity_s": 1}, timestamp=made.wall - 5)
        states = []
        for hours in (23, 2, 46, 2):  # 23, 25, 71 and 73 h after the final state
            made.wall += hours * 3600
            await made.patrol._prune()
            row = await made.sms()
            states.append(None if row is None else "slim" if row.request is None else "whole")
        assert states == ["whole", "slim", "slim", None]


async def test_details_that_shall_outlive_the_key_do(tmp_path: Path) -> None:
    async with world_with(tmp_path, store={"full_rows_h": 168}) as made:
        await made.accept({"validity_s": 1}, timestamp=made.wall - 5)
        made.wall += 167 * 3600
        await made.patrol._prune()
        row = await made.sms()
        assert row is not None and row.request is not None
        made.wall += 2 * 3600
        await made.patrol._prune()
        assert await made.sms() is None


async def test_a_full_slice_is_followed_by_the_next_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patrol, "PRUNE_AT_ONCE", 2)
    for n in range(3):
        await world.accept({"id": f"r{n}", "validity_s": 1}, timestamp=world.wall - 5)
    world.wall += 73 * 3600
    assert [await world.patrol._prune() for _ in range(2)] == [True, False]
