"""Which delivery kills the process: in ordinary times none, in a crash loop the one that dies alone."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from bridge.errors import LedgerUnavailable
from bridge.flows import outbound, trial
from bridge.flows.trial import is_suspect
from bridge.rules import intake
from tests.flows.world import World

OFTEN = 3
POISON = {"id": "poison", "text": "poison"}


@pytest.mark.parametrize(
    ("delivery_count", "unclean_ends", "suspect"),
    [(0, 0, False), (1_000, 0, False), (1_000, 2, False), (2, 1_000, False), (3, 3, True), (9, 9, True)],
)
def test_only_a_crash_loop_makes_suspects_of_what_comes_again_and_again(delivery_count, unclean_ends, suspect):
    assert is_suspect(delivery_count, unclean_ends) == suspect


async def died(world: World, times: int = 1) -> World:
    """The process after so many more ends without a farewell, on the same ledger."""
    if not world.outbound.trial._begun:
        await world.outbound.trial.begin()
    for _ in range(times):
        world = World(world.ledger, world.settings)
        await world.outbound.trial.begin()
    return world


async def meta(world: World, name: str) -> str | None:
    return await world.ledger.write(lambda tx: tx.meta(name))


async def marks(world: World) -> dict[str, bool]:
    return json.loads(await meta(world, trial.MARKS) or "{}")


async def comes(world: World, body: Any = None, count: int = OFTEN, key: str = "send.otp", **more: Any) -> Any:
    return await world.accept(body, key, queue=key, delivery_count=count, **more)


def no_port(world: World) -> None:
    for number in (1, 2, 3):
        world.registered(number, st=0)


class TestHowItEnded:
    async def test_ends_without_a_farewell_are_counted_in_a_row(self, world: World) -> None:
        again = await died(world, 3)
        assert await meta(again, trial.UNCLEAN_ENDS) == "3"
        await again.outbound.trial.end()
        assert (await died(World(world.ledger, world.settings), 1)).outbound.trial._unclean_ends == 1

    async def test_a_first_start_and_one_after_a_clean_stop_begin_at_none(self, world: World) -> None:
        for _ in range(2):
            world = World(world.ledger, world.settings)
            await world.outbound.trial.begin()
            assert world.outbound.trial._unclean_ends == 0
            await world.outbound.trial.end()

    async def test_a_start_that_took_no_delivery_changes_nothing(self, world: World) -> None:
        again = await died(world, 2)
        await World(world.ledger, world.settings).outbound.trial.end()
        assert (await died(again)).outbound.trial._unclean_ends == 3

    async def test_a_minute_of_life_ends_the_loop(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        again = await died(world, 5)
        write, refused = world.ledger.write, []

        async def full_at_first(work: Any) -> Any:
            if not refused:
                refused.append(work)
                raise LedgerUnavailable
            return await write(work)

        monkeypatch.setattr(trial, "STEADY_S", 0.0)
        monkeypatch.setattr(again.ledger, "write", full_at_first)
        await again.outbound.trial.run()
        assert refused and await meta(again, trial.UNCLEAN_ENDS) == "0"
        assert (await comes(again)).acks == 1
        assert (await died(again)).outbound.trial._unclean_ends == 1


class TestInOrdinaryTimes:
    async def test_what_was_given_back_often_is_taken_like_any_other(self, world: World) -> None:
        await died(world, 0)
        no_port(world)
        await world.accept({"id": "b"})
        await comes(world, count=1_000)
        assert repr(world.planner).startswith("<Planner 2 waiting")

    async def test_after_a_crash_loop_what_came_seldom_is_too(self, world: World) -> None:
        again = await died(world, 3)
        no_port(again)
        await again.accept({"id": "b"})
        await comes(again, count=2)
        assert repr(again.planner).startswith("<Planner 2 waiting")
        assert await marks(again) == {}


class TestOnTrial:
    async def test_it_is_taken_with_nothing_else_in_hand_under_a_mark(self, world: World) -> None:
        again = await died(world, 3)
        again.device.gate.clear()
        posting, _ = again.delivery({"id": "posting"})
        again.outbound.accept(posting)
        again.outbound._plan()
        await again.device.posting.wait()
        no_port(again)
        waiting, given_back = again.delivery({"id": "waiting", "to": "+4915100000001"})
        again.outbound.accept(waiting)
        suspect, settled = again.delivery(POISON, queue="send.otp", delivery_count=OFTEN)
        again.outbound.accept(suspect)
        later, aside = again.delivery({"id": "later"})
        again.outbound.accept(later)
        await asyncio.sleep(0)
        assert given_back.given_back == 1
        assert await marks(again) == {}, "another one is still being posted"
        again.device.gate.set()
        await again.settle()
        assert list((await marks(again)).values()) == [True]
        assert (settled.times, aside.times) == (0, 0)
        assert [waiting.request.key.id for waiting in again.planner.drain()] == ["poison"]

    async def test_once_it_is_settled_its_mark_is_gone_and_the_others_follow(self, world: World) -> None:
        again = await died(world, 3)
        deliveries = [
            again.delivery({"id": f"r{n}"}, queue="send.otp", delivery_count=OFTEN * (n % 2)) for n in range(5)
        ]
        for delivery, _ in deliveries:
            again.outbound.accept(delivery)
        await again.settle()
        assert {settled.acks for _, settled in deliveries} == {1}
        assert await marks(again) == {}
        assert sorted(task.to for tasks in again.device.posts for task in tasks) == ["+4915112345678"] * 5

    async def test_one_that_is_given_back_did_no_harm(self, world: World) -> None:
        again = await died(world, 3)
        no_port(again)
        settled = await comes(again, POISON)
        again.mono += 61
        await again.settle()
        assert (settled.given_back, await marks(again)) == (1, {})
        assert (await comes(again, {"id": "b"}, count=0)).times == 0, "it waits like any other"

    async def test_where_the_mark_cannot_be_stored_it_is_given_back(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        again = await died(world, 3)

        async def full(_work: object) -> None:
            raise LedgerUnavailable("disk full")

        monkeypatch.setattr("bridge.flows.outbound.GIVE_BACK_PAUSE_S", 0.0)
        with monkeypatch.context() as broken:
            broken.setattr(again.ledger, "write", full)
            settled = await comes(again, POISON)
        assert (settled.acks, settled.given_back) == (0, 1)
        assert (await comes(again, {"id": "b"})).acks == 1

    async def test_a_stop_gives_everything_back_and_clears_the_name(self, world: World) -> None:
        again = await died(world, 3)
        no_port(again)
        suspect, later = await comes(again, POISON), await comes(again, {"id": "b"})
        await again.outbound.stop(1.0)
        await again.outbound.trial.end()
        assert (suspect.given_back, later.given_back) == (1, 1)
        assert await marks(again) == {}

    async def test_a_route_that_pauses_holds_nothing_aside(self, world: World) -> None:
        again = await died(world, 3)
        lane = next(lane for lane in again.outbound._lanes if lane.queue == "send.single")
        await again.outbound._tend(lane)
        no_port(again)
        suspect, later = await comes(again, POISON), await comes(again, {"id": "b"}, key="send.single")
        await again.outbound._tend(lane)
        assert (suspect.times, later.given_back) == (0, 1)


class TestPoison:
    async def condemned(self, world: World) -> World:
        """The process that comes after one that died with the poison alone in its hand."""
        again = await died(world, 3)
        no_port(again)
        assert (await comes(again, POISON)).times == 0
        return await died(again)

    async def test_what_died_alone_is_refused_kept_and_told_and_its_neighbours_go_through(self, world: World) -> None:
        again = await self.condemned(world)
        before = await comes(again, {"id": "a"})
        poison = await comes(again, POISON, correlation_id="c7")
        after = await comes(again, {"id": "b"})
        assert [settled.acks for settled in (before, poison, after)] == [1, 1, 1]
        events = [event for event in await again.told() if event["subject"] == "poison"]
        assert [(event["type"], event["data"]["reason"]) for event in events] == [("sms.rejected.v1", "poison")]
        (dead,) = again.published
        assert (dead.exchange, dead.headers["x-reason"], dead.message_id) == ("dead", "poison", events[0]["id"])
        assert json.loads(dead.body)["text"] == "poison"
        assert sorted(task.text for tasks in again.device.posts for task in tasks) == ["hi", "hi"]
        assert await marks(again) == {}

    async def test_another_one_with_the_same_text_is_another_one(self, world: World) -> None:
        again = await self.condemned(world)
        assert (await comes(again, POISON, count=0, app_id="bank")).acks == 1
        assert again.published == []

    async def test_it_is_refused_whatever_came_between(self, world: World) -> None:
        again = await self.condemned(world)
        await again.outbound.trial.end()
        again = await died(World(world.ledger, world.settings), 0)
        assert (await comes(again, POISON)).acks == 1
        assert [one.headers["x-reason"] for one in again.published] == ["poison"]

    async def test_while_the_broker_takes_no_dead_letter_it_is_given_back_and_stays_condemned(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("bridge.flows.outbound.GIVE_BACK_PAUSE_S", 0.0)
        again = await self.condemned(world)
        again.broker_down = True
        assert (await comes(again, POISON)).given_back == 1
        again.broker_down = False
        assert (await comes(again, POISON)).acks == 1
        assert await again.kinds() == ["sms.rejected"]

    async def test_a_body_that_cannot_survive_being_read_is_never_read_again(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        again = await died(world, 3)
        salvage, read = intake.salvage_id, outbound.read_send_request

        def survives(body: bytes) -> bytes:
            if b"poison" in body:
                raise SystemError("as if the process died")
            return body

        monkeypatch.setattr(intake, "salvage_id", lambda body, pattern: salvage(survives(body), pattern))
        monkeypatch.setattr(outbound, "read_send_request", lambda body: read(survives(body)))
        await comes(again, POISON, message_id="p1")
        with pytest.raises(SystemError):
            await again.outbound.run()
        again = await died(again)
        assert (await comes(again, POISON, message_id="p1")).acks == 1
        (event,) = await again.told()
        assert (event["subject"], event["data"]["reason"]) == ("p1", "poison")
        assert b"poison" in again.published[0].body

    async def test_two_poisons_are_found_one_after_the_other(self, world: World) -> None:
        again = await self.condemned(world)
        no_port(again)
        await comes(again, {"id": "second"})
        again = await died(again)
        for body in (POISON, {"id": "second"}):
            assert (await comes(again, body)).acks == 1
        assert await again.kinds() == ["sms.rejected", "sms.rejected"]

    async def test_marks_of_what_never_comes_again_do_not_pile_up(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(trial, "MARKS_MOST", 2)
        again = await died(world, 3)
        for number in range(4):
            no_port(again)
            await comes(again, {"id": f"r{number}"})
            again = await died(again)
        assert (await comes(again, {"id": "r0"})).acks == 1
        assert again.published == [], "it is tried once more"
        assert (await comes(again, {"id": "r3"})).acks == 1
        assert [one.headers["x-reason"] for one in again.published] == ["poison"]

    async def test_a_returned_one_can_be_poison_too(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        again = await died(world, 3)
        burying = asyncio.Event()

        async def never_ends(*_: Any) -> None:
            burying.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(again.outbound, "_bury", never_ends)
        delivery, _ = again.delivery(POISON, queue="returned", delivery_count=OFTEN)
        again.outbound.returned(delivery)
        await burying.wait()
        again = await died(again)
        delivery, settled = again.delivery(POISON, queue="returned", delivery_count=OFTEN)
        again.outbound.returned(delivery)
        await again.settle()
        assert settled.acks == 1
        assert [event["data"]["reason"] for event in await again.told()] == ["poison"]
