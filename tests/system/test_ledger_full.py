"""The ledger cannot store: the disk is full, or another process keeps its file locked. Nothing lies; all goes on."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import signal
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from dev.trial import Trial, trial

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]
FILL = "x" * 12_000


async def call_back(play: Trial, word: str) -> int:
    """One push that nobody knows and that takes up room."""
    door = f"{play.web}/callback/gw1/trial-token"
    return (await play.http.post(door, json={"type": word, "fill": FILL})).status_code


async def metric(play: Trial, line: str) -> float:
    told = (await play.http.get(f"{play.web}/metrics")).text
    found = re.search(rf"^{re.escape(line)} (\S+)$", told, re.MULTILINE)
    return float(found[1]) if found else 0.0


async def ask(play: Trial, *ids: str) -> None:
    for n, sms_id in enumerate(ids):
        to = f"+49151{abs(hash(sms_id)) % 10**6:06d}{n:02d}"
        await play.ask("send.default", {"id": sms_id, "to": to, "text": "Your code is 123456."})


@contextlib.asynccontextmanager
async def full_disk(play: Trial) -> AsyncIterator[None]:
    """The ledger's file may not grow, and what room there was in it is used up."""
    assert play.process is not None
    play.process.send_signal(signal.SIGUSR1)
    async with asyncio.timeout(30):
        for n in itertools.count():
            if await call_back(play, f"fill-{n}") == 503:
                break
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
async def test_what_cannot_be_stored_is_refused_and_told_as_such(trouble: ..., amqp_url: str) -> None:
    async with trial(amqp_url, radio_s=0.05) as play:
        await play.begin_life()
        await play.ready()
        await ask(play, "before")
        assert await play.until(play.all_final)
        handed_over = len(await play.record())
        async with trouble(play):
            refused = await metric(play, 'ejoin_callbacks_total{gateway="gw1",status="503",type="-"}')
            failures = await metric(play, "ejoin_ledger_failures_total")
            assert await call_back(play, "refused") == 503
            line = 'ejoin_callbacks_total{gateway="gw1",status="503",type="-"}'
            assert await metric(play, line) == refused + 1
            assert await metric(play, "ejoin_ledger_failures_total") > failures
            told = await play.http.get(f"{play.web}/readyz")
            assert (told.status_code, told.json()["missing"]) == (503, ["ledger"])
            await ask(play, "a", "b", "c")
            await asyncio.sleep(3.0)
            assert play.finals().keys() == {"before"}
            assert [row for row in (await play.record())[handed_over:] if row["kind"] == "handed_over"] == []
        async with asyncio.timeout(30):
            await play.ready()
        assert await call_back(play, "taken") == 200
        assert await play.until(play.all_final)
        verdict = await play.verdict()
        assert verdict.holds, f"{verdict}\n{play.last_words()}"
        words = Counter(event["data"]["type"] for event in play.told if event["type"] == "gateway.unrecognised.v1")
        assert (words["taken"], words["refused"]) == (1, 0)
        assert [event["type"] for event in play.told if event["type"].startswith("gateway.down")] == []


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
