"""The patrol: what an earlier life left, deadlines, a clock that is set, silent gateways."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bridge.ejoin.facts import DeviceStatus
from bridge.errors import GatewayNotReached, LedgerUnavailable
from bridge.flows import patrol
from bridge.models import State
from tests.flows.test_inquiry import doubt
from tests.flows.world import CONFIG, World
from tests.flows.world import world as world_with

TO = "+4915112345678"


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


class TestClock:
    @pytest.mark.parametrize("step", [3_600.0, -3_600.0])
    async def test_a_clock_that_is_set_brings_no_deadline_early_and_keeps_none_away(
        self, world: World, step: float
    ) -> None:
        await doubt(world)
        world.wall += step
        await world.passes(890)
        assert await world.kinds() == []
        await world.passes(20)
        assert await world.kinds() == ["sms.unknown"]

    async def test_what_was_stored_in_the_future_counts_as_now_after_a_start(self, world: World) -> None:
        await doubt(world)
        world.wall -= 3_600
        await world.patrol.take_over()
        sms = await world.sms()
        assert sms is not None and sms.state_at == world.wall and sms.deadline_at == world.wall + 900

    async def test_what_begins_right_after_the_step_keeps_its_deadline(self, world: World) -> None:
        world.wall += 3_600
        await doubt(world)
        await world.patrol._watch_clock()
        sms = await world.sms()
        assert sms is not None and sms.deadline_at == world.wall + 900


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
    await world.patrol.look("gw1")
    await world.patrol.look("gw1")
    assert await world.kinds() == ["gateway.status", "gateway.up", "gateway.status"]

    async def gone(*, callback_url: str | None, period_s: int) -> None:
        raise GatewayNotReached

    world.device.status = gone  # type: ignore[assignment,method-assign]
    await world.patrol.look("gw1")
    await world.patrol.look("gw1")
    assert (await world.kinds())[3:] == ["gateway.down"]
    assert world.patrol.silent() == ["gw1"]


async def test_a_gateway_is_not_down_because_the_ledger_cannot_store(world: World) -> None:
    await world.patrol.look("gw1")
    healthy = world.ledger.write

    async def refuse_once(_: object) -> None:
        world.ledger.write = healthy  # type: ignore[method-assign]
        raise LedgerUnavailable

    world.ledger.write = refuse_once  # type: ignore[assignment]
    assert not await world.patrol.look("gw1")
    assert "gateway.down" not in await world.kinds()
    assert world.patrol.silent() == []


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


@pytest.mark.parametrize(("callbacks", "told"), [("both", True), ("poll", False)])
async def test_a_device_is_told_where_to_report_and_how_often(tmp_path: Path, callbacks: str, told: bool) -> None:
    entry = CONFIG["gateways"][0] | {"status_period_s": 90, "callbacks": callbacks}
    async with world_with(tmp_path / "other", gateways=[entry]) as made:
        asked: list[tuple[str | None, int | None]] = []

        async def status(*, callback_url: str | None, period_s: int | None) -> DeviceStatus:
            asked.append((callback_url, period_s))
            return DeviceStatus(1, None, "", "", "", 3, 1, ())

        made.device.status = status  # type: ignore[method-assign]
        await made.patrol.look("gw1")
        assert asked == [("http://127.0.0.1:8080/callback/gw1/t", 90) if told else (None, None)]
