"""Messages per second, CPU seconds per 10,000 messages and memory of the whole loop, beside the naive whole job.

Both run in turn on the same broker and the same simulated gateways, so that a slow minute of the machine hits both.
A run starts with the backlog published; rate and CPU are counted between the first and the last tenth of all events
(two per message), so that neither the start nor the last, half-filled report of a device counts.
Progress goes to standard error; the last line of standard output is one JSON object.

    python bench/run.py [--messages 5000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aio_pika

sys.path.insert(0, str(Path(__file__).parent.parent))

from dev.broker import broker, free_ports
from dev.proof import Tally, requests, unhurried
from dev.stage import Stage, spawn, stage

PORTS = 32
RADIO_S = 0.01
Figures = dict[str, float]


def say(words: str) -> None:
    """Progress, away from the result."""
    print(words, file=sys.stderr, flush=True)


class Meter:
    """Notes when each event arrived, and what the process had used when the first and the last tenth were through."""

    def __init__(self, messages: int) -> None:
        self._at: list[float] = []
        self._seen: set[str] = set()
        self._tally = Tally()
        self._messages = messages
        self._window = (2 * messages // 10, 2 * messages * 9 // 10)
        self._cpu_s: list[float] = []
        self.play: Stage | None = None

    def note(self, event: dict[str, Any]) -> None:
        """Take one event: each message has two, submitted and sent."""
        if event["id"] in self._seen:
            return
        self._seen.add(event["id"])
        self._tally.note(event)
        if len(self._at) in self._window and self.play is not None:
            self._cpu_s.append(self.play.cpu_s())
        self._at.append(time.monotonic())

    async def figures(self) -> Figures:
        """Wait until all is done; rate and CPU between the first and the last tenth of the events."""
        await self._tally.until(self._messages, patience_s=60)
        if len(self._tally.final) < self._messages or self.play is None:
            raise SystemExit(f"only {len(self._tally.final)} of {self._messages} messages came through")
        first, last = self._window
        messages = (last - first) / 2
        return {
            "rate": round(messages / (self._at[last] - self._at[first])),
            "cpu_s_per_10k": round((self._cpu_s[1] - self._cpu_s[0]) / messages * 10_000, 2),
            "rss_mb": self.play.rss_mb(),
        }


async def ours(url: str, count: int) -> Figures:
    """The bridge, as ``ejoin-bridge run``."""
    async with bench_stage(url) as play:
        await play.start_bridge()
        await play.end_bridge()  # the topology is there: the backlog can wait in the queue
        meter = Meter(count)
        await play.watch(meter.note, "sms.#")
        await play.publish_all("send.default", requests(count))
        return await measured(play, play.start_bridge, meter)


async def naive(url: str, count: int, prefetch: int) -> Figures:
    """The naive whole job of ``naive.py``."""
    async with bench_stage(url) as play:
        channel = await play.channel()
        kind = {"x-queue-type": "quorum"}
        queue = await channel.declare_queue(f"{play.prefix}.requests", durable=True, arguments={**kind})
        await channel.declare_exchange(f"{play.prefix}.events", "topic", durable=True)
        meter = Meter(count)
        await play.watch(meter.note, "sms.#")
        bodies = [json.dumps(body).encode() for body in requests(count)]
        mode = aio_pika.DeliveryMode.PERSISTENT
        for first in range(0, count, 200):
            chunk = (aio_pika.Message(body, delivery_mode=mode) for body in bodies[first : first + 200])
            await asyncio.gather(*(channel.default_exchange.publish(message, queue.name) for message in chunk))

        async def start() -> None:
            (port,) = free_ports(1)
            told = [url, play.prefix, port, prefetch, PORTS, play.folder / "naive.db"]
            urls = [gateway["url"] for gateway in play.config["gateways"]]
            script = Path(__file__).with_name("naive.py")
            play.process = await spawn(sys.executable, script, *map(str, told), *urls)

        figures = await measured(play, start, meter)
        await queue.delete(if_unused=False, if_empty=False)
        await channel.exchange_delete(f"{play.prefix}.events")
        return figures


async def measured(play: Stage, start: Callable[[], Awaitable[None]], meter: Meter) -> Figures:
    """Start it on the waiting backlog and measure until all is done."""
    await start()
    meter.play = play
    return await meter.figures()


@contextlib.asynccontextmanager
async def bench_stage(url: str) -> AsyncIterator[Stage]:
    """Two fresh gateways of 32 ports; nobody's limit is in the way."""

    def config(settings: dict[str, Any]) -> None:
        unhurried(settings)
        settings["logs"] = {"format": "json", "level": "info"}

    async with stage(gateways=2, ports=PORTS, radio_s=RADIO_S, config=config, amqp_url=url) as play:
        yield play


def summary(rounds: list[dict[str, Figures]]) -> dict[str, Any]:
    """Medians with their spread, and the ratios round by round (above 1: the bridge is better)."""
    names = list(rounds[0])
    told: dict[str, Any] = {
        name: {figure: statistics.median(one[name][figure] for one in rounds) for figure in rounds[0][name]}
        for name in names
    }
    best = max((name for name in names if name != "ours"), key=lambda name: told[name]["rate"])
    ratios = {
        "rate": sorted(round(one["ours"]["rate"] / one[best]["rate"], 2) for one in rounds),
        "cpu": sorted(round(one[best]["cpu_s_per_10k"] / one["ours"]["cpu_s_per_10k"], 2) for one in rounds),
    }
    return {"ours": told["ours"], "naive_whole": {**told[best], "variant": best}, "ratios": ratios}


def table(rounds: list[dict[str, Figures]]) -> str:
    """Each figure as its median [smallest .. largest]."""
    lines = [f"{'':24}{'messages/s':>24}{'CPU-s per 10,000':>24}{'RSS MB':>24}"]
    for name in rounds[0]:
        cells = []
        for figure in ("rate", "cpu_s_per_10k", "rss_mb"):
            values = [one[name][figure] for one in rounds]
            cells.append(f"{statistics.median(values):g} [{min(values):g} .. {max(values):g}]")
        lines.append(f"{name:24}" + "".join(f"{cell:>24}" for cell in cells))
    return "\n".join(lines)


async def main() -> None:
    """All variants in turn, round by round."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--messages", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=3)
    told = parser.parse_args()
    rounds: list[dict[str, Figures]] = []
    with broker() as url:
        for number in range(told.rounds):
            one = {
                "ours": await ours(url, told.messages),
                "naive, prefetch 10": await naive(url, told.messages, 10),
                "naive, prefetch 100": await naive(url, told.messages, 100),
            }
            rounds.append(one)
            say(f"round {number + 1} of {told.rounds}: {one}")
    print(table(rounds))
    print(json.dumps(summary(rounds)))


if __name__ == "__main__":
    asyncio.run(main())
