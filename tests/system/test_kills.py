"""A slice of `make kills`, and its judge: what it must not let pass."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dev import kills
from dev.trial import Evidence, judge


@pytest.mark.system
@pytest.mark.timeout(240)
async def test_eight_deaths_at_random_moments_break_nothing(amqp_url: str) -> None:
    told = await kills.kill_often(8, seed=1, amqp_url=amqp_url)
    assert kills.holds(told), told


@pytest.mark.system
async def test_a_run_that_is_ended_leaves_nothing(amqp_url: str, tmp_path: Path) -> None:
    environment = {**os.environ, "AMQP_URL": amqp_url, "TMPDIR": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    run = await asyncio.create_subprocess_exec(
        "sh",
        "-c",
        'trap "" INT; exec "$@"',  # as a shell does for what it begins in its background
        "sh",
        sys.executable,
        kills.__file__,
        env=environment,
        stderr=asyncio.subprocess.PIPE,
        stdin=asyncio.subprocess.DEVNULL,
    )
    async with asyncio.timeout(60):
        while not list(tmp_path.glob("ejoin-trial-*/bridge.log")):  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.05)
    run.terminate()
    await run.communicate()
    assert (run.returncode, os.listdir(tmp_path)) == (-signal.SIGINT, [])  # noqa: PTH208


def event(kind: str, event_id: str = "e", subject: str = "a", **data: Any) -> dict[str, Any]:
    return {"type": f"sms.{kind}.v1", "id": event_id, "subject": subject, "data": data}


def on_radio(kind: str, tid: int, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "to": "+1", "tid": tid, "segments": 1, "result": "sent", **more}


SENT = {"id": "a", "state": "sent", "event_id": "e"}
FAILED = on_radio("reported", 1, result="failed", reason="5 SIM Unregistered")
NOT_SURE = on_radio("reported", 1, result="failed", reason="6 Timeout")


@pytest.mark.parametrize(
    ("kind", "told", "record", "row"),
    [
        pytest.param("lost", [event("submitted")], [], SENT, id="no final event"),
        pytest.param("unexpected", [event("sent"), event("failed", "f")], [], SENT, id="two final events"),
        pytest.param("unexpected", [event("sent"), event("sent", "x", "b")], [], SENT, id="of nobody's request"),
        pytest.param("duplicated", [event("sent")], [on_radio("on_air", 1)] * 2, SENT, id="twice on air"),
        pytest.param(
            "duplicated",
            [event("sent")],
            [on_radio("handed_over", 1), on_radio("handed_over", 2)],
            SENT,
            id="handed over again while the first was open",
        ),
        pytest.param(
            "duplicated",
            [event("sent")],
            [on_radio("handed_over", 1), NOT_SURE, on_radio("handed_over", 2)],
            SENT,
            id="handed over again though the failure was no proof",
        ),
        pytest.param("wrong", [event("sent")], [], {**SENT, "state": "submitted"}, id="the ledger is not at its end"),
        pytest.param("wrong", [event("sent")], [], {**SENT, "event_id": "f"}, id="its last event was not told"),
        pytest.param(
            "wrong", [event("unknown")], [], {**SENT, "state": "unknown"}, id="unknown though no device had it"
        ),
    ],
)
def test_the_judge_sees_it(
    kind: str, told: list[dict[str, Any]], record: list[dict[str, Any]], row: Mapping[str, Any]
) -> None:
    found = judge(Evidence(frozenset({"a"}), told, record, [row], frozenset()))
    assert not found.holds
    assert getattr(found, kind) != []


def test_the_judge_lets_repeats_and_proven_second_hand_overs_pass() -> None:
    record = [on_radio("handed_over", 1), FAILED, on_radio("handed_over", 2), on_radio("on_air", 2)]
    again = [event("sent"), event("sent"), event("delivered", "d")]
    assert judge(Evidence(frozenset({"a"}), again, record, [SENT], frozenset())).holds
