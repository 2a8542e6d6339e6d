"""The bridge as its users meet it: bad input over a real broker, a stop, a second one, the demo."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from dev.proof import Tally, requests, unhurried
from dev.stage import Stage, stage
from tests.contract import validate
from tests.system.plain_amqp import publish_without_properties

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]
ROOT = Path(__file__).parent.parent.parent

GOOD = {"to": "+491511234567", "text": "hi"}


class Seen:
    """All events, each held against the contract, and those of one subject."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.broken: list[str] = []

    def note(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        try:
            validate(event)
        except (jsonschema.ValidationError, ValueError) as error:
            self.broken.append(f"{event}: {error}")

    def of(self, subject: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event.get("subject") == subject]

    def kinds(self, subject: str) -> list[str]:
        return [event["type"].removesuffix(".v1") for event in self.of(subject)]

    async def until(self, true: Any, patience_s: float = 30.0) -> None:
        try:
            async with asyncio.timeout(patience_s):
                while not true():  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        except TimeoutError:
            told = "\n".join(f"{event.get('subject')}: {event['type']}" for event in self.events)
            pytest.fail(f"not seen in {patience_s:g} s; seen:\n{told}")
        assert self.broken == []


async def dead_letters(play: Stage) -> Counter[str]:
    """What lies in `sms.dead`, by reason; the letters stay there."""
    reasons: Counter[str] = Counter()
    queue = await (await play.channel()).get_queue(f"{play.prefix}.dead", ensure=False)
    letters = []
    while (letter := await queue.get(fail=False)) is not None:
        letters.append(letter)
        reasons[str(letter.headers["x-reason"])] += 1
    for letter in letters:
        await letter.nack(requeue=True)
    return reasons


async def test_bad_input_is_told_kept_and_stops_nothing(amqp_url: str) -> None:
    async with stage(gateways=1, ports=4, radio_s=0.01, config=unhurried, amqp_url=amqp_url) as play:
        await play.start_bridge()
        seen = Seen()
        await play.watch(seen.note, "sms.#")
        many = [f"+49151{n:08d}" for n in range(1_001)]
        bad: dict[str, tuple[bytes | dict[str, Any], dict[str, Any]]] = {
            "malformed": (b'{"id": "malformed", ', {"message_id": "malformed"}),
            "latin": (b'{"text": "\xfc"}', {"message_id": "latin"}),
            "large": (b'{"id": "large", "text": "' + b"x" * 70_000 + b'"}', {}),
            "unknown-field": ({**GOOD, "id": "unknown-field", "prio": 9}, {}),
            "nobody": ({**GOOD, "id": "nobody", "to": ""}, {}),
            "too-many": ({**GOOD, "id": "too-many", "to": many}, {}),
            "one-bad": ({**GOOD, "id": "one-bad", "to": [many[0], "0151"]}, {}),
            "long": ({**GOOD, "id": "long", "text": "x" * 2_000}, {}),
            "late": ({**GOOD, "id": "late", "validity_s": 5}, {"timestamp": time.time() - 60}),
        }
        for body, properties in bad.values():
            await play.publish("send.default", body, **properties)
        await play.publish("send.nowhere", {**GOOD, "id": "no-route"})
        await play.publish("gateway.gw9", {**GOOD, "id": "no-gateway"})
        await publish_without_properties(
            play.amqp_url, f"{play.prefix}.requests", "send.default", json.dumps(GOOD).encode()
        )
        await play.publish("send.default", {**GOOD, "id": "fine"})
        await seen.until(lambda: "sms.sent" in seen.kinds("fine"))
        await play.publish("send.default", {**GOOD, "id": "fine", "text": "another"})
        subjects = [*bad, "no-route", "no-gateway", "-"]
        await seen.until(lambda: all(seen.of(subject) for subject in subjects) and len(seen.of("fine")) == 3)

        told = {subject: seen.of(subject)[0]["data"] for subject in subjects}
        reasons = {subject: data["reason"] for subject, data in told.items()}
        assert reasons == {
            "malformed": "unreadable",
            "latin": "unreadable",
            "large": "too_large",
            "unknown-field": "invalid",
            "nobody": "invalid",
            "too-many": "invalid",
            "one-bad": "invalid",
            "long": "invalid",
            "late": "too_late",
            "no-route": "unroutable",
            "no-gateway": "unroutable",
            "-": "missing_id",
        }
        fields = {subject: data.get("field") for subject, data in told.items() if data["reason"] == "invalid"}
        assert fields == {"unknown-field": "prio", "nobody": "to", "too-many": "to", "one-bad": "to", "long": "text"}
        assert seen.kinds("late") == ["sms.expired"]
        assert seen.of("fine")[2]["data"]["reason"] == "id_conflict"
        assert await dead_letters(play) == {"unreadable": 2, "too_large": 1, "unroutable": 2, "missing_id": 1}
        on_air = [row["to"] for row in await play.record() if row["kind"] == "on_air"]
        assert on_air == [GOOD["to"]]


BOXES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "the old interface, which is told no address": ({"api_version": "1.0", "poll_s": 1}, ["header=three"]),
    "login in the body, texts in base64": ({"credentials": "body", "charset": "base64"}, ["ports=letters", "st=words"]),
    "login in the query, firmware 8": ({"credentials": "query", "charset": "utf8"}, ["pushes=v3", "numbers=text"]),
}


@pytest.mark.parametrize(("entry", "dialect"), BOXES.values(), ids=BOXES)
async def test_whatever_the_box_speaks_it_is_sent_and_told(
    amqp_url: str, entry: dict[str, Any], dialect: list[str]
) -> None:
    def config(settings: dict[str, Any]) -> None:
        unhurried(settings)
        settings["gateways"][0] |= entry

    simulate = [word for switch in dialect for word in ("--dialect", switch)]
    async with stage(gateways=1, ports=2, radio_s=0.01, simulate=simulate, config=config, amqp_url=amqp_url) as play:
        await play.start_bridge()
        seen = Seen()
        await play.watch(seen.note, "sms.#")
        await play.publish("send.default", {**GOOD, "id": "a", "text": "Grüße \U0001f600"})
        await seen.until(lambda: "sms.sent" in seen.kinds("a"))
        (on_air,) = [row for row in await play.record() if row["kind"] == "on_air"]
        assert on_air["text"] == "Grüße \U0001f600"
        await play.do(kind="receive_sms", gateway="gw1", port=1, sender="+4917", text="na\n\nja")
        await seen.until(lambda: seen.of("+4917"))
        assert seen.of("+4917")[0]["data"]["text"] == "na\n\nja"


async def test_a_port_may_be_left_to_the_device(amqp_url: str) -> None:
    async with stage(gateways=1, ports=2, radio_s=0.01, config=unhurried, amqp_url=amqp_url) as play:
        await play.start_bridge()
        seen = Seen()
        await play.watch(seen.note, "sms.#")
        await play.publish("gateway.gw1", {**GOOD, "id": "a", "ports": "device"})
        await seen.until(lambda: "sms.sent" in seen.kinds("a"))


async def test_a_box_that_cannot_reach_us_is_asked_for_everything(amqp_url: str) -> None:
    def config(settings: dict[str, Any]) -> None:
        unhurried(settings)
        settings["gateways"][0] |= {"callbacks": "poll", "poll_s": 1, "public_url": "http://192.0.2.1:9"}

    async with stage(gateways=1, ports=2, radio_s=0.01, config=config, amqp_url=amqp_url) as play:
        await play.start_bridge()
        seen = Seen()
        await play.watch(seen.note, "#")
        for n in range(4):
            await play.publish("send.default", {**GOOD, "id": f"a{n}", "to": f"+4915112345{n:02}"})
        await play.do(kind="receive_sms", gateway="gw1", port=1, sender="+4917", text="ja")
        await seen.until(lambda: all("sms.sent" in seen.kinds(f"a{n}") for n in range(4)) and seen.of("+4917"))
        assert seen.of("+4917")[0]["data"]["via"] == "inbox"
        assert [row for row in await play.record() if row["kind"] == "callback"] == []
        await play.do(kind="remove_sim", gateway="gw1", port=2)
        await seen.until(
            lambda: any(one["type"] == "port.changed.v1" and one["data"]["state"] == "no_sim" for one in seen.events)
        )


async def test_callbacks_are_answered_as_the_contract_says(amqp_url: str) -> None:
    async with stage(gateways=1, ports=4, config=unhurried, amqp_url=amqp_url) as play:
        await play.start_bridge()
        seen = Seen()
        await play.watch(seen.note, "#")
        door = f"{play.web}/callback/gw1/stage-token"
        answers = [
            await play.http.post(f"{play.web}/callback/gw1/wrong", content=b"{}"),
            await play.http.post(f"{play.web}/callback/gw9/stage-token", content=b"{}"),
            await play.http.post(door, content=b"x" * (1024 * 1024 + 1)),
            await play.http.post(door, content=b"not JSON"),
            await play.http.post(door, json={"type": "nobody-documents-this"}),
        ]
        assert [answer.status_code for answer in answers] == [403, 404, 413, 200, 200]
        kind = "gateway.unrecognised.v1"
        await seen.until(lambda: sum(event["type"] == kind for event in seen.events) == 2)


async def test_a_stop_under_load_loses_and_repeats_nothing(amqp_url: str) -> None:
    count = 600
    async with stage(gateways=2, ports=8, radio_s=0.02, config=unhurried, amqp_url=amqp_url) as play:
        await play.start_bridge()
        tally = Tally()
        await play.watch(tally.note, "sms.#")
        await play.publish_all("send.default", requests(count))
        await tally.until(count // 4)
        assert await play.end_bridge(signal.SIGTERM) == 0
        await play.start_bridge()
        await tally.until(count, patience_s=30)
        on_air = Counter(row["to"] for row in await play.record() if row["kind"] == "on_air")
        assert (len(on_air), max(on_air.values())) == (count, 1)
        assert len(tally.final) == count


async def test_a_second_bridge_on_the_same_ledger_ends_with_the_sentence(amqp_url: str) -> None:
    def impatient(settings: dict[str, Any]) -> None:
        settings["store"] = {"lock_wait_s": 0.2}

    async with stage(gateways=1, ports=2, config=impatient, amqp_url=amqp_url) as play:
        await play.start_bridge()
        first = play.process
        await play.start_bridge(wait=False)
        assert play.process is not None
        assert await play.process.wait() == 3
        assert "store.path" in play.last_words()
        play.process = first


async def test_the_bridge_is_ready_without_a_broker_only_when_it_comes(amqp_url: str) -> None:
    async with stage(gateways=1, ports=2, amqp_url=amqp_url) as play:
        url = dict(play.config["amqp"])
        play.config["amqp"]["url"] = "amqp://guest:guest@127.0.0.1:1/"
        await play.start_bridge(wait=False)
        seen: httpx.Response | None = None
        async with asyncio.timeout(30):
            while seen is None:
                try:
                    seen = await play.http.get(f"{play.web}/readyz")
                except httpx.TransportError:
                    await asyncio.sleep(0.1)
        assert seen.status_code == 503 and "broker" in seen.json()["missing"]
        assert (await play.http.get(f"{play.web}/healthz")).status_code == 200
        assert await play.end_bridge() == 0
        play.config["amqp"].update(url)


async def test_a_removed_route_keeps_its_backlog_and_takes_nothing_new(amqp_url: str) -> None:
    def two_routes(settings: dict[str, Any]) -> None:
        settings["routes"] = [{"name": name, "ports": ["gw1"]} for name in ("default", "old")]

    async with stage(gateways=1, ports=2, config=two_routes, amqp_url=amqp_url) as play:
        await play.start_bridge()
        seen = Seen()
        await play.watch(seen.note, "sms.#")
        await play.end_bridge()
        await play.publish("send.old", {**GOOD, "id": "kept"})
        play.config["routes"].pop()
        await play.start_bridge()
        await play.publish("send.old", {**GOOD, "id": "new"})
        await seen.until(lambda: seen.kinds("new") == ["sms.rejected"])
        assert seen.of("new")[0]["data"]["reason"] == "unroutable"
        queue = await (await play.channel()).declare_queue(f"{play.prefix}.send.old", passive=True)
        assert queue.declaration_result.message_count == 1
        await queue.delete(if_unused=False, if_empty=False)


async def test_no_log_line_holds_a_text_a_number_or_a_secret(amqp_url: str) -> None:
    async with stage(gateways=1, ports=2, radio_s=0.01, config=unhurried, amqp_url=amqp_url) as play:
        await play.start_bridge()
        seen = Seen()
        await play.watch(seen.note, "sms.#")
        await play.publish("send.default", {"id": "a", "to": "+491511234567", "text": "the secret word"})
        await play.publish("send.default", {"id": "b", "to": "00491511234567", "text": "the secret word"})
        await seen.until(lambda: "sms.sent" in seen.kinds("a") and seen.of("b"))
        await play.end_bridge()
        log = play.log.read_text()
        lines = [json.loads(line) for line in log.splitlines()]
        assert [line["event"] for line in lines if line.get("request_id") == "stage:a"] == ["sms.submitted", "sms.sent"]
        for word in ("secret word", "+491511234567", "491511234567", "stage-token", "password"):
            assert word not in log


@pytest.mark.timeout(170)
async def test_the_demo_ends_by_itself_and_leaves_nothing(amqp_url: str, tmp_path: Path) -> None:
    environment = {**os.environ, "AMQP_URL": amqp_url, "TMPDIR": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    demo = await asyncio.create_subprocess_exec(
        sys.executable, ROOT / "dev/demo.py", env=environment, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT, stdin=asyncio.subprocess.DEVNULL, cwd=ROOT,
    )  # fmt: skip
    output = (await demo.communicate())[0].decode()
    assert demo.returncode == 0, output
    for word in (
        "sms.submitted",
        "sms.sent",
        "sms.delivered",
        "sms.received",
        "no_sim -> ",
        "SMS a minute",
        "/metrics",
    ):
        assert word in output, output
    assert os.listdir(tmp_path) == []  # noqa: PTH208
