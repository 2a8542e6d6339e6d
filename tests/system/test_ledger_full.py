"""The ledger cannot store: the disk is full, or another process keeps its file locked. Nothing lies; all goes on."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import sqlite3
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import pytest

from dev.trial import Trial, trial

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]
Trouble = Callable[[Trial], AbstractAsyncContextManager[None]]

REFUSED = 'ejoin_callbacks_total{gateway="gw1",status="503",type="-"}'
FAILURES = "ejoin_ledger_failures_total"
MANY = [f"r{n}" for n in range(30)]


async def call_back(play: Trial, word: str) -> int:
    """One push that nobody knows and that takes up room."""
    door = f"{play.web}/callback/gw1/trial-token"
    return (await play.http.post(door, json={"type": word, "fill": "x" * 12_000})).status_code


async def metric(play: Trial, name: str) -> float:
    told = (await play.http.get(f"{play.web}/metrics")).text
    found = re.search(rf"^{re.escape(name)} (\S+)$", told, re.MULTILINE)
    return float(found[1]) if found else 0.0


async def ask(play: Trial, *ids: str) -> None:
    for sms_id in ids:
        to = f"+49151{zlib.crc32(sms_id.encode()) % 10**9:09d}"
        await play.ask("send.default", {"id": sms_id, "to": to, "text": "Your code is 123456."})


@contextlib.asynccontextmanager
async def full_disk(play: Trial) -> AsyncIterator[None]:
    """The ledger's file may not grow, and there is no room left in it; nor does the outbox make some by being told."""
    assert play.process is not None
    play.process.send_signal(signal.SIGUSR1)
    refused_in_a_row = 0
    async with asyncio.timeout(30):
        while refused_in_a_row < 5:
            refused_in_a_row = refused_in_a_row + 1 if await call_back(play, "fill") != 200 else 0
            await asyncio.sleep(0.05 * refused_in_a_row)
    yield
    play.process.send_signal(signal.SIGUSR2)


@contextlib.asynccontextmanager
async def locked(play: Trial) -> AsyncIterator[None]:
    """Another process writes into the ledger's file and does not come to an end."""
    with contextlib.closing(sqlite3.connect(play.config["store"]["path"], isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@pytest.mark.parametrize("trouble", [full_disk, locked])
async def test_what_cannot_be_stored_is_refused_and_told_as_such(trouble: Trouble, amqp_url: str) -> None:
    async with trial(amqp_url, radio_s=0.05) as play:
        await play.begin_life()
        await play.ready()
        await ask(play, "before")
        assert await play.until(play.all_final)
        async with trouble(play):
            before = await metric(play, REFUSED), await metric(play, FAILURES)
            assert await call_back(play, "refused") == 503
            assert await metric(play, REFUSED) == before[0] + 1
            assert await metric(play, FAILURES) > before[1]
            await ask(play, *MANY)
            for _ in range(10):
                await asyncio.sleep(0.3)
                told = await play.http.get(f"{play.web}/readyz")
                assert (told.status_code, told.json()["missing"]) == (503, ["ledger"])
            begun = {row["id"] for row in play.rows()}
            assert begun < play.expected, "there was room for all of them"
            taken = {row["to"] for row in await play.record() if row["kind"] == "handed_over"}
            assert taken <= {row["recipient"] for row in play.rows()}
        await play.ready()
        assert await call_back(play, "taken") == 200
        assert await play.until(play.all_final)
        verdict = await play.verdict()
        assert verdict.holds, f"{verdict}\n{play.last_words()}"
        words = {event["data"]["type"] for event in play.told if event["type"] == "gateway.unrecognised.v1"}
        assert "taken" in words
        assert "refused" not in words
        assert not [event for event in play.told if event["type"] == "gateway.down.v1"]


async def test_a_locked_file_does_not_stop_what_needs_no_ledger(amqp_url: str) -> None:
    async with trial(amqp_url) as play:
        await play.begin_life()
        await play.ready()
        async with locked(play):
            storing = asyncio.create_task(call_back(play, "waits"))
            await asyncio.sleep(0.3)
            assert (await play.http.get(f"{play.web}/healthz")).status_code == 200
            assert not storing.done(), "it was not waited for"
        assert await storing == 200
