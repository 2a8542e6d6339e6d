"""The real process with two handles on it: a wall clock that can be stepped, and a ledger whose file can be full.

Runs ``bridge.app.run`` as ``ejoin-bridge run`` does. Each line of standard input is an order in JSON, each is answered
by one line: ``{"clock_s": 60}`` puts the wall clock so far off the real one, ``{"full": true}`` lets the ledger's file
grow no more, ``{}`` only asks. The answer repeats the order's ``n`` and says how many asyncio tasks there are.

    python -m dev.chaos.victim config.yaml
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from bridge import app, settings
from bridge.errors import LedgerUnavailable
from bridge.models import Clock
from bridge.store.ledger import Ledger, Transaction

NO_LIMIT = 2**30
RETRY_S = 0.02


class Offset:
    """How far the wall clock is off."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def wall(self) -> float:
        """Unix seconds, as the bridge is to believe them."""
        return time.time() + self.seconds


class Watched(Ledger):
    """The ledger, known to the orders from the moment on that it is open."""

    opened: Watched | None = None

    @classmethod
    async def open(cls, *args: Any, **more: Any) -> Watched:
        """As Ledger.open."""
        ledger = await super().open(*args, **more)
        assert isinstance(ledger, Watched)
        Watched.opened = ledger
        return ledger


def limit_pages(tx: Transaction, *, full: bool) -> None:
    """Let the file grow no more, or again; what a page already has room for can still be stored."""
    pages = tx.connection.exec_driver_sql("PRAGMA page_count").scalar() if full else NO_LIMIT
    tx.connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")


async def insist(ledger: Ledger, work: Callable[[Transaction], None]) -> None:
    """Do it again until it is done: it shares its transaction with others, which a full disk makes fail."""
    while True:
        with contextlib.suppress(LedgerUnavailable):
            return await ledger.write(work)
        await asyncio.sleep(RETRY_S)


async def take_orders(offset: Offset) -> None:
    """Carry out each order and answer it, until standard input ends."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for line in reader:
        order = json.loads(line)
        offset.seconds = order.get("clock_s", offset.seconds)
        if "full" in order and Watched.opened is not None:
            await insist(Watched.opened, partial(limit_pages, full=order["full"]))
        print(json.dumps({"n": order.get("n"), "asyncio_tasks": len(asyncio.all_tasks())}), flush=True)


async def main(path: Path) -> int:
    """Run the bridge; its exit code."""
    offset = Offset()
    app.Ledger = Watched  # type: ignore[attr-defined]
    orders = asyncio.create_task(take_orders(offset))
    try:
        return await app.run(settings.load(path), clock=Clock(offset.wall, time.monotonic))
    finally:
        orders.cancel()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(main(Path(sys.argv[1]))))
