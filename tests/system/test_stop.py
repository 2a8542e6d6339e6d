"""Start and stop of the real process: under load, twice, in the middle of a start, and where something hangs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from dev.lives import Life, Plan
from dev.trial import Trial, trial

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]
COUNT = 120


async def publish_load(play: Trial) -> None:
    for n in range(COUNT):
        await play.ask("send.default", {"id": f"r{n}", "to": f"+49151{n:08d}", "text": "Your code is 123456."})


async def ended(life: Life) -> int:
    async with asyncio.timeout(30):
        return await life.wait()


async def live_on(play: Trial) -> None:
    """A life that brings everything to its end, and the judge's word on all of it."""
    await play.begin_life()
    await play.until(play.all_final, 60)
    verdict = await play.verdict()
    assert verdict.holds, f"{verdict}\n{play.last_words()}"


async def listening(play: Trial) -> dict[str, Any]:
    """Wait until /readyz is answered; what it says."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(httpx.TransportError):
                told: dict[str, Any] = (await play.http.get(f"{play.web}/readyz")).json()
                return told
            await asyncio.sleep(0.02)


async def call_back(play: Trial, n: int) -> int | None:
    """One push that nobody knows; the status of the answer, None where there was none."""
    try:
        answer = await play.http.post(f"{play.web}/callback/gw1/trial-token", json={"type": f"push-{n}"})
    except httpx.TransportError:
        return None
    return answer.status_code


async def calling_back(play: Trial, life: Life) -> list[int | None]:
    """Push after push for as long as the process lives."""
    answers: list[int | None] = []
    while life.returncode is None:
        answers.append(await call_back(play, len(answers)))
    return answers


async def test_a_stop_under_load_loses_repeats_and_refuses_nothing(amqp_url: str) -> None:
    async with trial(amqp_url, radio_s=0.1) as play:
        await publish_load(play)
        life = await play.begin_life()
        assert await play.until(lambda: len(play.finals()) >= COUNT // 4)
        life.terminate()
        answers = await calling_back(play, life)
        play.note_death()
        assert life.returncode == 0
        assert len(play.finals()) < COUNT, "there was no load any more"

        answered = answers.index(None) if None in answers else len(answers)
        assert set(answers[:answered]) == {200}
        assert set(answers[answered:]) <= {None}, "the door was shut and opened again"
        events = [json.loads(line)["event"] for line in play.log.read_text().splitlines()]
        assert events.index("broker.left") < events.index("web.stopped"), "the door was shut before the work was done"

        await live_on(play)
        told = [e["data"]["type"] for e in play.told if e["type"] == "gateway.unrecognised.v1"]
        assert {f"push-{n}" for n in range(answered)} <= set(told)


async def test_a_second_signal_ends_at_once_and_the_next_start_settles_the_rest(amqp_url: str) -> None:
    async with trial(amqp_url) as play:
        await publish_load(play)
        life = await play.begin_life(Plan(hangs_at="POST: answered"))
        assert await play.until(lambda: play.said("bridge.running") and play.rows() != [])
        life.terminate()
        assert await play.until(lambda: play.said("bridge.stopping"))
        life.terminate()
        assert await ended(life) == 1
        assert play.said("bridge.ended_at_once")
        play.note_death()
        await live_on(play)


async def test_a_stop_during_a_start_without_a_broker(amqp_url: str) -> None:
    async with trial(amqp_url) as play:
        there = play.config["amqp"]["url"]
        play.config["amqp"]["url"] = "amqp://guest:guest@127.0.0.1:1/"
        life = await play.begin_life()
        assert "broker" in (await listening(play))["missing"]
        life.terminate()
        assert await ended(life) == 0
        play.config["amqp"]["url"] = there


async def test_a_stop_while_another_bridge_holds_the_ledger(amqp_url: str) -> None:
    async with trial(amqp_url) as play:
        first = await play.begin_life()
        await play.ready()
        second = await play.begin_life()
        await asyncio.sleep(0.5)
        second.terminate()
        assert await ended(second) == 0
        first.terminate()
        assert await ended(first) == 0


async def test_a_stop_before_the_first_snapshot(amqp_url: str) -> None:
    async with silent_gateway(amqp_url) as play:
        life = await play.begin_life()
        assert await play.until(lambda: play.said("broker.connected"))
        assert "starting" in (await listening(play))["missing"]
        life.terminate()
        assert await ended(life) == 0


@contextlib.asynccontextmanager
async def silent_gateway(amqp_url: str) -> AsyncIterator[Trial]:
    """A gateway that takes connections and says nothing."""

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server, trial(amqp_url) as play:
        port = server.sockets[0].getsockname()[1]
        play.config["gateways"][0]["url"] = f"http://127.0.0.1:{port}"
        yield play


@pytest.mark.parametrize(
    ("hangs_at", "code"),
    [
        pytest.param("POST: answered", 0, id="a POST that never comes back"),
        pytest.param("publish sms.submitted: before", 0, id="a broker that never confirms"),
        pytest.param("commit Trial.end.end: before", 1, id="a step of the stop itself"),
    ],
)
async def test_what_hangs_does_not_keep_the_process_alive(hangs_at: str, code: int, amqp_url: str) -> None:
    def hurried(settings: dict[str, Any]) -> None:
        settings["timing"] |= {"submit_within_s": 0.5, "connect_timeout_s": 0.5, "post_timeout_s": 1}

    async with trial(amqp_url, config=hurried) as play:
        await play.ask("send.default", {"id": "plain", "to": "+4915100000001", "text": "Hello"})
        life = await play.begin_life(Plan(hangs_at=hangs_at, grace_s=0.5))
        await play.ready()
        assert await play.until(lambda: play.rows() != [])
        life.send_signal(signal.SIGTERM)
        assert await ended(life) == code
        play.note_death()
        await live_on(play)
