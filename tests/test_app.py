"""The start can be given up: what is awaited with an eye on the stop."""

from __future__ import annotations

import asyncio

import pytest

from bridge.app import _unless
from bridge.errors import LedgerUnavailable


async def test_what_breaks_during_a_start_is_raised() -> None:
    async def work() -> None:
        raise LedgerUnavailable("disk full")

    with pytest.raises(LedgerUnavailable):
        await _unless(asyncio.Event(), work())


async def test_a_stop_gives_it_up_and_waits_for_its_end() -> None:
    ended = []

    async def work() -> None:
        try:
            stopping.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("work")

    stopping = asyncio.Event()
    assert await _unless(stopping, work()) is None
    assert ended == ["work"]
