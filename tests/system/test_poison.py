"""A request that kills the process: found, refused and told, and its neighbours are sent."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dev import stage as stages
from dev.proof import unhurried
from dev.stage import Stage, stage
from tests.system.test_bridge import GOOD, Seen, dead_letters

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

MORTAL = f"""\
#!{sys.executable}
import os
from bridge import cli
from bridge.rules import intake

read = intake.read


def deadly(delivery, rules, now):
    if b'"poison"' in delivery.body:
        os._exit(9)
    return read(delivery, rules, now)


intake.read = deadly
cli.main()
"""


def gentle(settings: dict[str, Any]) -> None:
    """Buckets are empty after a start: for a second everything is in hand and nothing has left."""
    unhurried(settings)
    settings["limits"] = {"segments_per_min": 60, "burst": 2}


async def live_until(play: Stage, seen: Seen, subject: str, starts: int) -> list[int]:
    """Start the bridge again whenever it dies, until something is told of that subject; how the starts ended."""
    ends = []
    for _ in range(starts):
        await play.start_bridge(wait=False)
        assert play.process is not None
        died = asyncio.create_task(play.process.wait())
        while not died.done() and not seen.of(subject):  # noqa: ASYNC110  - an end and an event, whichever is first
            await asyncio.sleep(0.05)
        if seen.of(subject):
            died.cancel()
            return ends
        ends.append(died.result())
    pytest.fail(f"nothing is told of {subject} after these ends: {ends}\n{play.last_words()}")


async def test_a_request_that_kills_the_process_is_refused_and_its_neighbours_are_sent_once(
    amqp_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stage(gateways=1, ports=4, radio_s=0.01, config=gentle, amqp_url=amqp_url) as play:
        await play.start_bridge()
        await play.end_bridge()
        seen = Seen()
        await play.watch(seen.note, "sms.#")
        before, after = [f"before{n}" for n in range(4)], [f"after{n}" for n in range(6)]
        for n, name in enumerate([*before, "poison", *after]):
            await play.publish("send.default", {**GOOD, "id": name, "to": f"+4915100{n:06d}"})
        mortal = tmp_path / "mortal-bridge"
        mortal.write_text(MORTAL)
        mortal.chmod(0o755)
        monkeypatch.setattr(stages, "COMMAND", mortal)

        assert await live_until(play, seen, "poison", starts=10) == [9, 9, 9, 9]

        # Those before it left on its last start, alone each; the reports about them found nobody at home.
        await seen.until(lambda: all("sms.submitted" in seen.kinds(name) for name in before))
        await seen.until(lambda: all("sms.sent" in seen.kinds(name) for name in after))
        assert await play.end_bridge() == 0
        (event,) = seen.of("poison")
        assert (event["type"], event["data"]["reason"]) == ("sms.rejected.v1", "poison")
        assert await dead_letters(play) == {"poison": 1}
        on_air = Counter(row["to"] for row in await play.record() if row["kind"] == "on_air")
        assert (len(on_air), set(on_air.values())) == (len(before) + len(after), {1})
