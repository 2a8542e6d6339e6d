"""Operators command gateways from a shell, over the broker."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from dev.stage import COMMAND, Stage, stage
from tests.contract import validate

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]


async def shell(play: Stage, *words: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of ``ejoin-bridge``."""
    place = ("--amqp-url", play.amqp_url, "--prefix", play.prefix)
    process = await asyncio.create_subprocess_exec(
        COMMAND, *words, *place, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_a_gateway_is_commanded_from_a_shell(amqp_url: str) -> None:
    simulate = ["--slots", "2", "--register-s", "0.2", "--dialect", "success=200"]
    async with stage(gateways=1, ports=2, radio_s=0.01, simulate=simulate, amqp_url=amqp_url) as play:
        await play.start_bridge()
        events: list[dict[str, Any]] = []
        await play.watch(events.append, "#")

        assert await shell(play, "ports", "switch", "gw1", "1.02") == (0, "1.02 of gw1 registered again\n", "")
        code, out, _ = await shell(play, "sims", "gw1", "--json")
        sims = json.loads(out)["result"]["sims"]
        assert (code, [(one["port"], one["state"]) for one in sims]) == (
            0,
            [("1.01", "idle"), ("1.02", "registered"), ("2.01", "registered"), ("2.02", "idle")],
        )
        code, out, _ = await shell(play, "ussd", "gw1", "1", "*100#")
        assert (code, out.startswith("*100# from port 1 of gw1: *100#: 49151")) == (0, True)
        await play.do(kind="receive_sms", gateway="gw1", port=1, sender="+4917", text="hallo")
        code, out, _ = await shell(play, "inbox", "gw1")
        assert code == 0 and "+4917" in out and out.endswith("gw1's inbox: 1 SMS\n")

        refused = await shell(play, "ports", "lock", "gw1", "9")
        assert refused == (1, "refused: the device answered 2 Invalid Port\n", "")
        assert await shell(play, "gateways", "reboot", "gw1") == (
            2,
            "",
            "reboot cannot be taken back (add --yes where you are sure)\n",
        )
        code, _, err = await shell(play, "gateways", "save", "gw9")
        assert code == 1 and "no bridge has a gateway 'gw9'" in err

        told = [event for event in events if event["type"].startswith("command.")]
        for event in told:
            validate(event)
        of_switch = [event["type"] for event in told if event["data"]["command"] == "switch"]
        assert of_switch == ["command.accepted.v1", "command.done.v1"]
        moved = [event["data"] for event in events if event["type"] == "port.changed.v1"]
        assert {"port": 1, "slot": 2, "state": "registered"}.items() <= moved[-1].items()
