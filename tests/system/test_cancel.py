"""A request that waits for its moment is cancelled from the shell: the real bridge, the real command line."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest

from dev.stage import stage
from tests.system.test_replay import WITHIN_S, Events
from tests.test_cli import finished

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]


async def test_what_waits_for_its_moment_is_cancelled_and_its_neighbour_leaves(amqp_url):
    async with stage(gateways=1, ports=2, amqp_url=amqp_url) as play:
        events = Events()
        await play.start_bridge()
        await play.watch(events.note)
        soon = (datetime.now(UTC) + timedelta(seconds=2)).isoformat()
        waiting = {"to": "+491511234567", "text": "at last", "not_before": soon}
        await play.publish("send.default", {"id": "wrong"} | waiting)
        await play.publish("send.default", {"id": "right"} | waiting)

        where = ("--amqp-url", play.amqp_url, "--prefix", play.prefix, "--app-id", "stage", "--json")
        async with asyncio.timeout(WITHIN_S):
            code, out, _ = await finished("cancel", "wrong", *where)
        assert (code, json.loads(out)["outcome"]) == (0, "done")
        assert (await events.first("sms.rejected", "wrong"))["data"]["reason"] == "cancelled"
        await events.first("sms.sent", "right")

        code, out, _ = await finished("cancel", "right", *where)
        assert (code, json.loads(out)["reason"]) == (1, "too_late")
        told = [event["type"] for event in events.all if event.get("subject") == "wrong"]
        assert told == ["sms.rejected.v1"]
