"""What operators ask of a gateway, asked of a simulated one over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from bridge.ejoin.facts import Envelope
from bridge.errors import GatewayGarbled, RequestInvalid
from bridge.flows import operations
from bridge.flows.operations import Done, Operations
from bridge.gateway import Gateway
from bridge.models import GATEWAY_COMMANDS, GatewayCommand, read_command
from bridge.rules.health import Fleet, GatewayPlan
from bridge.rules.limiter import Pace
from bridge.simulator.encode import Dialect
from bridge.simulator.main import running
from bridge.simulator.options import SimulatorOptions

OPTIONS: dict[str, Any] = {
    "gateways": 1,
    "ports": 2,
    "slots": 2,
    "listen": "127.0.0.1:0",
    "control": "127.0.0.1:0",
    "radio_s": 0.01,
    "register_s": 0.02,
}


@dataclass
class Desk:
    """A simulated gateway, and the operations that are tried on it."""

    operations: Operations
    fleet: Fleet
    control: str
    url: str

    async def ask(self, name: str, **members: Any) -> Done:
        command = read_command(httpx.Response(200, json={"command": name, **members}).content)
        assert isinstance(command, GatewayCommand)
        self.operations.check("gw1", command)
        return await self.operations.carry_out("gw1", command)

    async def refused(self, name: str, **members: Any) -> tuple[str, str]:
        with pytest.raises(RequestInvalid) as caught:
            await self.ask(name, **members)
        return caught.value.reason, str(caught.value)

    async def submit(self, *tids: int, port: str = "1") -> None:
        tasks = [{"tid": tid, "from": port, "to": f"+49{tid}", "sms": "hi"} for tid in tids]
        async with httpx.AsyncClient() as client:
            login = {"username": "root", "password": "root"}
            await client.post(f"{self.url}/goip_post_sms.html", params=login, json={"type": "send-sms", "tasks": tasks})

    async def receive(self, count: int = 1) -> None:
        deed = {"kind": "receive_sms", "gateway": "gw1", "port": 1, "sender": "+4917", "text": "one", "count": count}
        async with httpx.AsyncClient() as client:
            await client.post(f"{self.control}/do", json=deed)


async def desk_of(allowed: Any = GATEWAY_COMMANDS, **options: Any) -> AsyncIterator[Desk]:
    async with running(SimulatorOptions(**OPTIONS | options)) as simulator:
        url = simulator.urls["gw1"]
        client = Gateway(
            "gw1", url, "root", "root", dial="plus", charset="auto", api_version="1.1", credentials="both",
            envelope=Envelope("http://127.0.0.1:1/cb"), connect_timeout_s=5.0, post_timeout_s=5.0,
        )  # fmt: skip
        plan = GatewayPlan({1: Pace(1.0, 1), 2: Pace(1.0, 1)}, max_queued=2, batch=50, post_interval_s=0.0)
        fleet = Fleet({"gw1": plan}, 0.0)

        async def look(gateway: str) -> None:
            for status in (await client.status()).ports:
                fleet.note_status(gateway, status, 0.0)

        async def sleep(_: float) -> None:
            await asyncio.sleep(0.01)

        desk = Operations(
            devices={"gw1": client},
            fleet=fleet,
            look=look,
            allowed=allowed,
            sleep=sleep,
            callback_url=lambda name: f"http://127.0.0.1:1/callback/{name}/t",
        )
        yield Desk(desk, fleet, simulator.control, url)
        await client.close()


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async for made in desk_of():
        yield made


async def test_a_switch_is_done_when_the_other_card_is_registered(desk: Desk) -> None:
    assert (await desk.ask("switch", ports="1.02")).detail == "1.02 of gw1 registered again"
    assert (desk.fleet.port("gw1", 1).slot, desk.fleet.port("gw1", 2).slot) == (2, 1)
    await desk.ask("switch", ports="1.01-2.01")
    assert (desk.fleet.port("gw1", 1).slot, desk.fleet.port("gw1", 2).slot) == (1, 1)


async def test_one_that_does_not_register_in_time_says_so(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "REGISTERED_WITHIN_S", 10.0)
    await desk.ask("lock", ports="2")
    reason, detail = await desk.refused("switch", ports="1.01,2.01")
    assert (reason, detail) == ("not_in_time", "gw1 took it, and 2.01 had not registered after 10 s")


async def test_a_lock_takes_a_port_out_of_service_until_it_is_unlocked(desk: Desk) -> None:
    assert (await desk.ask("lock", ports="1A")).detail == "gw1 took lock for 1A"
    sims = (await desk.ask("sims", ports="1")).result or {}
    assert [(one["port"], one["state"]) for one in sims["sims"]] == [("1.01", "user_locked"), ("1.02", "idle")]
    await desk.ask("unlock", ports="all")
    await desk.ask("reset", ports="1")
    assert desk.fleet.port("gw1", 1).registered


async def test_settings_are_set_asked_kept_and_gone_with_a_reboot(desk: Desk) -> None:
    await desk.ask("set", values={"sim_number(0)": "4915", "Sms_url": "http://b/cb"})
    told = await desk.ask("get", names=["sim_number(0)", "ttl"])
    assert told.result == {"settings": {"sim_number(0)": "4915", "ttl": ""}}
    assert (await desk.ask("save")).detail == "gw1 took save"
    assert (await desk.ask("reboot", confirm=True)).detail == "gw1 took reboot"
    assert (await desk.ask("get", names=["sim_number(0)"])).result == {"settings": {"sim_number(0)": ""}}


async def test_tasks_are_listed_paused_resumed_and_removed_by_their_ids(desk: Desk) -> None:
    await desk.ask("lock", ports="1")
    await desk.ask("unlock", ports="1")
    await desk.submit(1, 2, 3)
    await desk.ask("lock", ports="1")
    await desk.submit(4, 5, port="2")
    assert (await desk.ask("pause_tasks", tids=[5, 99])).result == {
        "tasks": [{"tid": 5, "code": 0, "text": "OK"}, {"tid": 99, "code": 11, "text": "TID Expected"}]
    }
    waiting = (await desk.ask("tasks", port=2)).result or {}
    assert [(one["tid"], one["suspended"]) for one in waiting["tasks"] if one["tid"] == 5] == [(5, True)]
    assert (await desk.ask("resume_tasks", tids=[5])).detail == "resume: 1 of 1 tasks of gw1"
    assert (await desk.refused("remove_tasks", tids=[5]))[0] == "not_confirmed"
    assert (await desk.refused("remove_tasks", tids=[], confirm=True))[0] == "invalid"


async def test_what_the_device_has_counted(desk: Desk) -> None:
    told = (await desk.ask("sms_statistics", ports="1")).result or {}
    assert told["statistics"][0]["port"] == "1.01" and told["statistics"][0]["sent_ok"] == 0
    told = (await desk.ask("call_statistics")).result or {}
    assert [row["numbers"] for row in told["statistics"]] == [[0, None]] * 2


async def test_the_inbox_is_read_and_deleted_by_the_row(desk: Desk) -> None:
    await desk.receive(2)
    told = (await desk.ask("inbox")).result or {}
    assert [row["text"] for row in told["rows"]] == ["one", "one"] and told["next_sms"] == 3
    assert (await desk.refused("delete_inbox", start=1, count=1))[0] == "not_confirmed"
    assert (await desk.ask("delete_inbox", start=1, count=1, confirm=True)).detail == "gw1's inbox: 1 SMS deleted"
    assert len(((await desk.ask("inbox")).result or {})["rows"]) == 1


async def test_a_ussd_code_is_called_and_answered(desk: Desk) -> None:
    done = await desk.ask("ussd", port="1", code="*100#", timeout_s=5)
    assert done.result is not None and done.result["text"].startswith("*100#: 49151")
    first, second = await asyncio.gather(
        desk.ask("ussd", port="2", code="*1#"), desk.refused("ussd", port="2.01", code="*2#")
    )
    assert first.result and second == ("refused", "the device answered 4 Pending USSD")


@pytest.mark.parametrize(
    ("asked", "reason", "sentence"),
    [
        ({"name": "lock", "ports": "A1"}, "invalid", "ports: not a port: 'A1'"),
        ({"name": "ussd", "port": "x", "code": "1"}, "invalid", "port: not a port: 'x'"),
        ({"name": "set", "values": {"a": "1&b=2"}}, "invalid", "'a' cannot be written"),
        ({"name": "set", "values": {"a=b": "1"}}, "invalid", "'a=b' cannot be written"),
        ({"name": "reboot"}, "not_confirmed", 'add "confirm": true'),
        ({"name": "lock", "ports": "9"}, "refused", "the device answered 2 Invalid Port"),
    ],
)
async def test_what_cannot_be_done_says_why(desk: Desk, asked: dict[str, Any], reason: str, sentence: str) -> None:
    told = await desk.refused(asked.pop("name"), **asked)
    assert told[0] == reason and sentence in told[1]


async def test_a_probe_says_what_answers_and_how_far_its_clock_is_ahead(desk: Desk) -> None:
    told = (await desk.ask("probe")).result or {}
    assert (told["gateway"]["ports"], told["gateway"]["registered"], told["gateway"]["clock_ahead_s"]) == (2, 2, None)
    assert set(told["answered"].values()) == {"ok"}
    await desk.receive()
    assert abs(((await desk.ask("probe")).result or {})["gateway"]["clock_ahead_s"]) <= 1


async def test_a_question_that_is_refused_keeps_a_probe_from_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any, **__: Any) -> None:
        raise GatewayGarbled("gw1: the gateway tells no statistics: 15 Invalid CMD")

    monkeypatch.setattr(Gateway, "call_statistics", refuse)
    done = await desk.ask("probe")
    assert "not answered: call statistics (gw1: the gateway tells no statistics: 15 Invalid CMD)" in done.detail


async def test_a_set_up_is_proven_by_a_push_and_warns_of_another_master(desk: Desk) -> None:
    await desk.ask("set", values={"Sms_url": "http://other:secret@10.9.9.9/in"})
    asking = asyncio.create_task(desk.ask("setup"))
    while not asking.done():
        desk.operations.note_push("gw1")
        await asyncio.sleep(0.01)
    done = asking.result()
    assert "another master at 10.9.9.9" in done.detail and "secret" not in str(done)
    told = (await desk.ask("get", names=["sms_url"])).result
    assert told == {"settings": {"sms_url": "http://127.0.0.1:1/callback/gw1/***"}}


async def test_a_set_up_without_a_push_says_where_to_look(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "PUSHED_WITHIN_S", 0.05)
    desk.operations.note_push("gw1")
    reason, detail = await desk.refused("setup")
    assert reason == "no_push" and "can it reach web.public_url" in detail


async def test_a_box_without_settings_is_set_up_by_its_page_and_the_push_proves_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any, **__: Any) -> None:
        raise GatewayGarbled("gw1: HTTP 404, neither JSON nor a text forward")

    monkeypatch.setattr(Gateway, "get", refuse)
    monkeypatch.setattr(Gateway, "set", refuse)
    asking = asyncio.create_task(desk.ask("setup"))
    while not asking.done():
        desk.operations.note_push("gw1")
        await asyncio.sleep(0.01)
    assert asking.result().detail == "gw1 calls back; it does not let Sms_url be set: set it on its page"


async def test_a_port_that_the_bridge_does_not_have_is_not_waited_for() -> None:
    async for desk in desk_of(ports=3):
        assert (await desk.ask("reset", ports="3")).detail == "gw1 took reset for 3"


async def test_only_what_the_settings_allow_and_only_known_gateways() -> None:
    async for desk in desk_of(allowed=["lock"]):
        assert (await desk.refused("unlock", ports="1"))[0] == "not_allowed"
        with pytest.raises(RequestInvalid, match="no gateway 'gw9'"):
            desk.operations.check("gw9", GatewayCommand(command="lock"))


async def test_success_is_0_or_200() -> None:
    async for desk in desk_of(dialect=Dialect(success=200)):
        assert (await desk.ask("save")).detail == "gw1 took save"
        assert (await desk.ask("ussd", port="1", code="*100#")).result


async def test_a_gateway_that_is_not_there_did_nothing() -> None:
    async for desk in desk_of():
        lost = desk
    assert (await lost.refused("save"))[0] == "not_reached"
