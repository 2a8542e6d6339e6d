"""Three runs against the real process that prove the main promises; the last line is one JSON object.

``flow``: every request ends in exactly one final event and is on air once, and memory does not grow. ``pace``: no SIM
is over its limit in any window, and nearly all that the limit allows is used. ``kill``: a SIGKILL in the middle
repeats nothing and loses nothing. The simulator's record is the oracle; the events and the ledger must agree with it.

    python dev/proof.py [flow|pace|kill ...] [--small]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sqlite3
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from math import floor
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).parent.parent))

from dev.stage import FINAL, Stage, heed_sigterm, stage

PATIENCE_S = 300.0
RATE_PER_MIN, BURST = 20, 2


class Tally:
    """Counts the final events per request, as any consumer would: by CloudEvents type and subject."""

    def __init__(self) -> None:
        self.final: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.reasons: dict[str, str] = {}
        self._seen: set[str] = set()

    def note(self, event: dict[str, Any]) -> None:
        """Take one event; the same event id again is the repeat that at-least-once allows."""
        kind = event["type"].removesuffix(".v1")
        if kind not in FINAL or event["id"] in self._seen:
            return
        self._seen.add(event["id"])
        self.kinds[kind] += 1
        if "corrects" not in event["data"]:
            self.final[event["subject"]] += 1
        if kind == "sms.unknown":
            self.reasons[event["subject"]] = event["data"]["reason"]

    async def until(self, count: int, patience_s: float = PATIENCE_S) -> None:
        """Wait until so many requests have a final event, while there is any progress."""
        seen, since = -1, time.monotonic()
        while len(self.final) < count:
            if len(self.final) != seen:
                seen, since = len(self.final), time.monotonic()
            if time.monotonic() - since > patience_s:
                return
            await asyncio.sleep(0.2)


def requests(count: int, *, first: int = 0) -> list[dict[str, Any]]:
    """Different one-segment texts to different numbers."""
    return [
        {"id": f"r{n}", "to": f"+49151{n:08d}", "text": f"Your code is {n:06d}. It is valid for 5 minutes."}
        for n in range(first, first + count)
    ]


def say(words: str) -> None:
    """Progress goes to standard error; standard output is for the result."""
    print(words, file=sys.stderr, flush=True)


def unhurried(settings: dict[str, Any]) -> None:
    """No rate limit, and POSTs as fast as answers come: what is measured is the bridge."""
    settings["limits"] = {"segments_per_min": None}
    for gateway in settings["gateways"]:
        gateway |= {"posts_per_s": None, "max_queued": 4}


async def flow(*, small: bool, amqp_url: str | None = None) -> dict[str, Any]:
    """Requests over two gateways of 32 ports, unlimited rate, radio time 0.02 s."""
    count, early = (1_000, 500) if small else (10_000, 2_000)
    async with stage(gateways=2, ports=32, radio_s=0.02, config=unhurried, amqp_url=amqp_url) as play:
        await play.start_bridge()
        tally = Tally()
        await play.watch(tally.note, "sms.#")
        publishing = asyncio.create_task(play.publish_all("send.default", requests(count)))
        await tally.until(early)
        rss = [play.rss_mb()]
        say(f"flow: {len(tally.final)} of {count} final")
        await publishing
        await tally.until(count)
        rss.append(play.rss_mb())
        record = await play.record()
        await play.end_bridge()
        on_air = Counter(row["to"] for row in record if row["kind"] == "on_air")
        return {
            "requests": count,
            "final": sum(times == 1 for times in tally.final.values()),
            "on_air_once": sum(times == 1 for times in on_air.values()),
            "ledger_agrees": _ledger_states(play) == {k.removeprefix("sms."): n for k, n in tally.kinds.items()},
            "rss_mb": rss,
        }


async def pace(*, small: bool, amqp_url: str | None = None) -> dict[str, Any]:
    """64 ports at 20 segments a minute (burst 2), one-segment texts, one minute.

    ``allowed`` is what the limit lets a SIM hand over from its first hand-over to the end of the minute, in whole
    segments, summed over all SIMs.
    """
    run_s = 12.0 if small else 60.0

    def paced(settings: dict[str, Any]) -> None:
        settings["limits"] = {"segments_per_min": RATE_PER_MIN, "burst": BURST}

    async with stage(gateways=2, ports=32, radio_s=0.2, config=paced, amqp_url=amqp_url) as play:
        await play.start_bridge()
        filled_s = BURST / RATE_PER_MIN * 60  # buckets are empty after a start
        await asyncio.sleep(filled_s)
        enough = int(64 * (BURST + RATE_PER_MIN * run_s / 60) * 1.2)
        began = time.time()
        await play.publish_all("send.default", requests(enough))
        say(f"pace: {enough} requests wait, {run_s:g} s")
        await asyncio.sleep(max(0.0, began + run_s - time.time()))
        record = [row for row in await play.record() if row["kind"] == "handed_over" and row["at"] <= began + run_s]
        await play.end_bridge()
    by_sim: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for row in record:
        by_sim[row["iccid"]].append((row["at"], row["segments"]))
    allowed = sum(floor(BURST + RATE_PER_MIN / 60 * (began + run_s - rows[0][0])) for rows in by_sim.values())
    return {
        "allowed": allowed,
        "handed_over": sum(segments for rows in by_sim.values() for _, segments in rows),
        "windows_exceeded": sum(windows_exceeded(rows, RATE_PER_MIN / 60, BURST) for rows in by_sim.values()),
    }


def windows_exceeded(rows: list[tuple[float, int]], rate_per_s: float, burst: int) -> int:
    """How many windows of one SIM hold more than max(burst, largest) + rate x W segments; every window is looked at."""
    capacity = max(burst, *(segments for _, segments in rows))
    exceeded = 0
    for i, (start, _) in enumerate(rows):
        held = 0
        for at, segments in rows[i:]:
            held += segments
            exceeded += held > capacity + rate_per_s * (at - start) + 1e-6
    return exceeded


async def kill(*, small: bool, amqp_url: str | None = None) -> dict[str, Any]:
    """SIGKILL in the middle of the requests, restart after 2 s, doubts end after 10 s."""
    count = 300 if small else 1_000

    def doubtful(settings: dict[str, Any]) -> None:
        unhurried(settings)
        settings["timing"] = {"doubt_s": 10, "report_margin_s": 5}
        settings["policy"] = {"timeout_s": 5}

    async with stage(gateways=2, ports=32, radio_s=0.1, config=doubtful, amqp_url=amqp_url) as play:
        await play.start_bridge()
        tally = Tally()
        await play.watch(tally.note, "sms.#")
        publishing = asyncio.create_task(play.publish_all("send.default", requests(count)))
        await tally.until(count // 3)
        await play.end_bridge(signal.SIGKILL)
        say(f"kill: killed with {len(tally.final)} of {count} final")
        begun = _begun(play)
        await publishing
        await asyncio.sleep(2)
        await play.start_bridge()
        await tally.until(count, patience_s=60)
        record = await play.record()
        await play.end_bridge()
    closed_door = _reports_to_a_closed_door(record)
    numbers = {body["id"]: body["to"] for body in requests(count)}
    on_air = Counter(row["to"] for row in record if row["kind"] == "on_air")
    unknown = {key: numbers[key] for key in tally.reasons}
    return {
        "requests": count,
        "final": sum(times == 1 for times in tally.final.values()),
        "on_air_twice": sum(times > 1 for times in on_air.values()),
        "unknown_begun": sum(key in begun for key in unknown),
        "unknown_report_lost": sum(key not in begun and to in closed_door for key, to in unknown.items()),
        "unknown_unexplained": sum(key not in begun and to not in closed_door for key, to in unknown.items()),
    }


def _reports_to_a_closed_door(record: Iterable[Mapping[str, Any]]) -> set[str]:
    """Recipients whose status report the simulator sent to nobody."""
    recipients = {(row["gateway"], row["tid"]): row["to"] for row in record if row["kind"] == "handed_over"}
    callbacks = (row for row in record if row["kind"] == "callback" and row["type"] == "status-report")
    lost = [row for row in callbacks if row["http_status"] != httpx.codes.OK]
    return {
        recipients[row["gateway"], tid]
        for row in lost
        for tid in row.get("tids", ())
        if (row["gateway"], tid) in recipients
    }


def _ledger_states(play: Stage) -> dict[str, int]:
    return dict(_query(play, "SELECT state, count(*) FROM sms GROUP BY state"))


def _begun(play: Stage) -> set[str]:
    """Ids of what was begun and not concluded."""
    return {key for (key,) in _query(play, "SELECT id FROM sms WHERE state = 'submitting'")}


def _query(play: Stage, statement: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(f"file:{play.config['store']['path']}?mode=ro", uri=True)
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


RUNS: dict[str, Callable[..., Any]] = {"flow": flow, "pace": pace, "kill": kill}


def holds(name: str, told: Mapping[str, Any]) -> bool:
    """Whether a run showed what it is there to show."""
    match name:
        case "flow":
            whole = told["requests"] == told["final"] == told["on_air_once"]
            return bool(whole and told["ledger_agrees"] and told["rss_mb"][1] <= 1.2 * told["rss_mb"][0])
        case "pace":
            return bool(told["windows_exceeded"] == 0 and told["handed_over"] >= 0.97 * told["allowed"])
        case _:
            return told["final"] == told["requests"] and not told["on_air_twice"] and not told["unknown_unexplained"]


async def main() -> int:
    """Run what was asked for; exit code 1 where a promise does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", nargs="*", metavar="run", help=f"any of {', '.join(RUNS)}; all where none is named")
    parser.add_argument("--small", action="store_true", help="a slice of each, as the tests run it")
    chosen = parser.parse_args()
    heed_sigterm()
    if unknown := set(chosen.runs) - set(RUNS):
        parser.error(f"there is no run {', '.join(sorted(unknown))}")
    result = {}
    for name in chosen.runs or RUNS:
        say(f"{name}: starting")
        result[name] = await RUNS[name](small=chosen.small)
        say(f"{name}: {'holds' if holds(name, result[name]) else 'DOES NOT HOLD'}")
    print(json.dumps(result))
    return 0 if all(holds(name, told) for name, told in result.items()) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
