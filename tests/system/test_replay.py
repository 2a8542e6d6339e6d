"""A mistyped route, from its rejection to its SMS: the real bridge, the real command line."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from dev.stage import Stage, stage
from tests.contract import validate
from tests.test_cli import finished

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]
WITHIN_S = 30


class Events:
    """Every event, and a wait for one."""

    def __init__(self) -> None:
        self.all: list[dict[str, Any]] = []
        self._news = asyncio.Event()

    def note(self, event: dict[str, Any]) -> None:
        validate(event)
        self.all.append(event)
        self._news.set()

    async def first(self, kind: str, subject: str | None = None) -> dict[str, Any]:
        async with asyncio.timeout(WITHIN_S):
            while True:
                self._news.clear()
                for event in self.all:
                    if event["type"] == f"{kind}.v1" and subject in {None, event.get("subject")}:
                        return event
                await self._news.wait()


async def dead(play: Stage, *arguments: str) -> tuple[int, str]:
    code, out, _ = await finished("dead", *arguments, "--amqp-url", play.amqp_url, "--prefix", play.prefix)
    return code, out


async def test_a_mistyped_route_is_mended_and_its_letter_replayed(amqp_url):
    async with stage(gateways=1, ports=2, amqp_url=amqp_url) as play:
        events = Events()
        await play.start_bridge()
        await play.watch(events.note)
        await play.publish("send.typo", {"id": "lost", "to": "+491511234567", "text": "found again"})
        rejected = await events.first("sms.rejected", "lost")

        code, out = await dead(play, "list", "--json")
        (letter,) = json.loads(out)["letters"]
        assert (code, letter["id"], letter["reason"]) == (0, rejected["id"], "unroutable")

        code, out = await dead(play, "replay", letter["id"])
        assert (code, "there is still no route and no gateway for 'send.typo'" in out) == (1, True)
        assert (await events.first("command.failed"))["data"]["reason"] == "unroutable"

        assert await play.end_bridge() == 0
        play.config["routes"].append({"name": "typo", "ports": ["gw1"]})
        await play.start_bridge()
        code, out = await dead(play, "replay", "--reason", "unroutable", "--json")
        assert (code, json.loads(out)["outcome"]) == (0, "done")
        sent = await events.first("sms.sent", "lost")
        assert (sent["data"]["attempt"], sent["data"]["corrects"]) == (2, rejected["id"])
        assert [row["text"] for row in await play.record() if row["kind"] == "on_air"] == ["found again"]

        assert (await dead(play, "list"))[1].startswith("No dead letters")
        code, out, _ = await finished("ledger", "check", "--config", str(play.folder / "config.yaml"))
        assert (code, out.splitlines()[-1]) == (0, "Broken rules: none.")
        assert await play.end_bridge() == 0
