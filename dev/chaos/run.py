"""Chaos: the real process, a real broker and simulated gateways under the faults of a seed, and a ledger check.

Progress, the table and the stories of bad keys go to standard error; the last line of standard output is one JSON
object. Exit code 0 says that every promise was kept. ``docs/chaos.md`` says how to read it.

    python -m dev.chaos.run [--seed 1] [--minutes 3] [--keep]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import logging
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import jsonschema
from rich.console import Console
from rich.table import Table

from bridge.models import TIERS_S, State
from dev.chaos import judge, plan, scene
from dev.chaos.judge import Asked, Came, Happened, History, Told, Verdict
from dev.chaos.plan import Fault, Plan
from dev.chaos.scene import Scene
from dev.chaos.story import story
from dev.chaos.traffic import Listener, Producer, channel_of
from dev.stage import heed_sigterm
from tests.contract import validate

DRAIN_MOST_S = 200.0
"""More than any deadline of the configuration, and 60 s: what is not final by then is stuck."""

QUIET_S = 5.0
MEASURE_EVERY_S = 5.0
FIRST_MEASURE_S = 60.0
STORIES_MOST = 20
console = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 120)


class Run:
    """One run of a plan: does it, watches it, and keeps what is needed for the verdict."""

    def __init__(self, what: Plan, at: Scene) -> None:
        self.plan = what
        self.at = at
        self.asked = [Asked(ask) for ask in what.asks]
        self.came = [Came(arrival) for arrival in what.arrivals]
        self.told: list[Told] = []
        self.happened: list[Happened] = []
        self.measured: list[dict[str, float]] = []
        self.record: list[dict[str, Any]] = []
        self.dead: list[str] = []
        self.open_keys: set[str] = set()
        self.exit_code = 0
        self.drain_s = 0.0
        self._ended: set[str] = set()
        self._began = 0.0
        url, prefix = at.url, at.play.prefix
        self._producer = Producer(url, prefix)
        self._listener = Listener(url, prefix, self._note)

    @property
    def history(self) -> History:
        """All that is known by now."""
        return History(
            self.asked,
            self.came,
            tuple(self.told),
            self.record,
            self.dead,
            frozenset(self.open_keys),
            self.happened,
        )

    def _note(self, at: float, event: dict[str, Any]) -> None:
        try:
            validate(event)
            told = Told(at, event)
        except (jsonschema.ValidationError, ValueError) as error:
            told = Told(at, event, broken=str(error).partition("\n")[0])
        self.told.append(told)
        if told.final:
            self._ended.add(told.subject)

    # --- the run ----------------------------------------------------------------------------------------------------

    async def go(self) -> None:
        """Start, traffic and faults, drain, stop, and collect what is left."""
        await self.at.start_bridge()
        await self.at.ready()
        await self._listener.declare()
        self._began = time.monotonic()
        async with asyncio.TaskGroup() as beside:
            watching = [
                beside.create_task(work)
                for work in (self._listener.run(), self.at.guard(), self._measure(), self._show())
            ]
            async with asyncio.TaskGroup() as work:
                work.create_task(self._all(self.asked, lambda asked: asked.ask.at, self._producer.publish))
                work.create_task(self._all(self.came, lambda came: came.arrival.at, self._arrive))
                for track in plan.TRACKS:
                    work.create_task(self._fault([f for f in self.plan.faults if plan.KINDS[f.kind] == track]))
            await self._drain()
            self.exit_code = await self.at.end_bridge(signal.SIGTERM)
            await self._collect()
            for task in watching:
                task.cancel()
        await self._producer.close()

    async def _until(self, at: float) -> None:
        await asyncio.sleep(max(0.0, at - self._elapsed))

    @property
    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    async def _all(
        self, items: Sequence[Any], at: Callable[[Any], float], do: Callable[[Any], Coroutine[Any, Any, None]]
    ) -> None:
        """Do each at its moment, whether or not the one before is done."""
        async with asyncio.TaskGroup() as doing:
            for item in items:
                await self._until(at(item))
                doing.create_task(do(item))

    async def _arrive(self, came: Came) -> None:
        arrival = came.arrival
        came.at = time.time()
        await self.at.do(
            "receive_sms", gateway=arrival.gateway, port=arrival.port, sender=arrival.sender, text=arrival.text
        )

    async def _fault(self, faults: Sequence[Fault]) -> None:
        """The faults of one track, one after the other; what would reach into the drain is left out."""
        for fault in faults:
            await self._until(fault.at)
            if self._elapsed + fault.lasts_s > self.plan.traffic_s:
                return
            async with scene.make(self.at, fault, self.happened):
                await asyncio.sleep(fault.lasts_s)

    async def _drain(self) -> None:
        """Wait until everything has ended and the late reports are in, or nothing more can be waited for."""
        began = time.monotonic()
        while not judge.is_settled(self.history) and time.monotonic() < began + DRAIN_MOST_S:  # noqa: ASYNC110
            await asyncio.sleep(1.0)
        self.drain_s = time.monotonic() - began
        await asyncio.sleep(QUIET_S)
        await self._sample()

    async def _measure(self) -> None:
        await self._until(min(FIRST_MEASURE_S, self.plan.traffic_s / 2))
        while True:
            await self._sample()
            await asyncio.sleep(MEASURE_EVERY_S)

    async def _sample(self) -> None:
        if (measured := await self.at.measure()) is not None:
            self.measured.append(measured)

    async def _show(self) -> None:
        """A line on the terminal that is written anew each second; off it a line every ten."""
        live = sys.stderr.isatty()
        while True:
            now = [fault.kind for fault in self.happened if fault.ended is None]
            confirmed = [asked for asked in self.asked if asked.confirmed_at is not None]
            still = sum(sms.key not in self._ended for asked in confirmed for sms in asked.ask.sms)
            words = (
                f"{self._elapsed:5.0f} s of {self.plan.traffic_s:.0f}  confirmed {len(confirmed)}, "
                f"not final {still}, faults {len(self.happened)}: {', '.join(now) or '-'}"
            )
            print(f"\r{words:<118.118}" if live else words, end="" if live else "\n", file=sys.stderr, flush=True)
            await asyncio.sleep(1.0 if live else 10.0)

    # --- what is left -----------------------------------------------------------------------------------------------

    async def _collect(self) -> None:
        """The rest of the events, the record, the dead letters, and who is still held by a queue or the ledger."""
        async with channel_of(self.at.url) as channel:
            await self._listener.emptied(channel)
            prefix = self.at.play.prefix
            for letter in [letter async for letter in _left(channel, f"{prefix}.dead")]:
                self.dead += judge.key_of_dead(letter.message_id, _id_in(letter.body))
            queues = [f"send.{route}" for route in plan.ROUTES] + [f"gateway.{name}" for name in plan.GATEWAYS]
            for queue in (*queues, *(f"later.{tier}" for tier in TIERS_S), "returned"):
                async for left in _left(channel, f"{prefix}.{queue}"):
                    self.open_keys.add(_id_in(left.body) or left.message_id or "")
        ledger = sqlite3.connect(f"file:{self.at.play.config['store']['path']}?mode=ro", uri=True)
        with contextlib.closing(ledger):
            states = ledger.execute("SELECT id, state FROM sms").fetchall()
        self.open_keys |= {key for key, state in states if not State(state).final}
        self.record = await self.at.play.record()

    def log(self) -> list[dict[str, Any]]:
        """The bridge's log, line by line; what is no JSON is left out."""
        lines = []
        for line in self.at.play.log.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
        return lines


async def _left(channel: Any, name: str) -> AsyncIterator[Any]:
    """What a queue holds; it comes back when the channel closes."""
    queue = await channel.get_queue(name, ensure=False)
    while (message := await queue.get(fail=False)) is not None:
        yield message


def _id_in(body: bytes) -> str | None:
    with contextlib.suppress(ValueError, AttributeError):
        found = json.loads(body).get("id")
        return found if isinstance(found, str) else None
    return None


# --- what is shown ---------------------------------------------------------------------------------------------------


def summary(run: Run, verdict: Verdict) -> dict[str, Any]:
    """The JSON object of the last line."""
    first, last = (run.measured[0], run.measured[-1]) if run.measured else ({}, {})
    counted = ("lost", "duplicated", "stuck", "unknown", "unknown_provable", "unexpected")
    return {
        "seed": run.plan.seed,
        "requests": verdict.requests,
        **{name: len(getattr(verdict, name)) for name in counted},
        "recovered": verdict.recovered,
        "ended": dict(sorted(verdict.ended.items())),
        "received": sum(one.kind == "sms.received" for one in run.told),
        "delivery_reports": verdict.delivery_reports,
        "faults": dict(sorted(Counter(fault.kind for fault in run.happened).items())),
        **{name: [first.get(name), last.get(name)] for name in ("rss_mb", "tasks", "fds")},
        "deaths": len(run.at.deaths),
        "stopped_with": run.exit_code,
        "drain_s": round(run.drain_s, 1),
    }


def show(told: dict[str, Any], verdict: Verdict) -> None:
    """The short table."""
    table = Table(title=f"chaos, seed {told['seed']}: {'holds' if verdict.holds else 'DOES NOT HOLD'}")
    table.add_column("what")
    table.add_column("how many", justify="right")
    for name in ("requests", "lost", "duplicated", "stuck", "unexpected", "unknown_provable", "unknown", "recovered"):
        bad = name in {bad for bad, _ in verdict.bad}
        table.add_row(name, str(told[name]), style="bold red" if bad else None)
    table.add_section()
    for kind, count in told["ended"].items():
        table.add_row(kind, str(count))
    table.add_row("sms.received", str(told["received"]))
    reports = told["delivery_reports"]
    table.add_row("delivery reports matched / told", f"{reports['matched']} / {reports['told']}")
    table.add_section()
    table.add_row("faults", str(sum(told["faults"].values())))
    for name in ("rss_mb", "tasks", "fds"):
        table.add_row(f"{name}, first and last", " -> ".join(str(value) for value in told[name]))
    console.print(table)


def keep(run: Run, verdict: Verdict, folder: Path) -> None:
    """Put everything that explains the verdict into a folder."""
    for path in run.at.play.folder.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    _write(folder / "plan.json", [dataclasses.asdict(run.plan)])
    _write(folder / "asked.jsonl", [{**dataclasses.asdict(one.ask), **_moments(one)} for one in run.asked])
    _write(folder / "came.jsonl", [{**dataclasses.asdict(one.arrival), "came_at": one.at} for one in run.came])
    _write(folder / "events.jsonl", [dataclasses.asdict(one) for one in run.told])
    _write(folder / "record.jsonl", run.record)
    _write(folder / "faults.jsonl", [dataclasses.asdict(one) for one in run.happened])
    _write(folder / "deaths.jsonl", [{"at": at, "exit_code": code} for at, code in run.at.deaths])
    history, log = run.history, run.log()
    bad = [*verdict.bad, *(("unknown", finding) for finding in verdict.unknown)]
    lines = [line for name, one in bad for line in ["", f"{name}: {one.why}", *story(one.key, history, log)]]
    (folder / "stories.txt").write_text("\n".join(lines))


def _moments(asked: Asked) -> dict[str, float | None]:
    return {"published_at": asked.published_at, "confirmed_at": asked.confirmed_at}


def _write(path: Path, rows: Sequence[Any]) -> None:
    path.write_text("".join(json.dumps(row, default=repr) + "\n" for row in rows))


def tell_stories(run: Run, verdict: Verdict) -> None:
    """For each bad key its whole story in order of time."""
    history, log = run.history, run.log()
    for name, finding in verdict.bad[:STORIES_MOST]:
        print(f"\n{name}: {finding.why}", *story(finding.key, history, log), sep="\n", file=sys.stderr)
    if len(verdict.bad) > STORIES_MOST:
        print(f"\n... and {len(verdict.bad) - STORIES_MOST} more", file=sys.stderr)


async def chaos(seed: int, minutes: float, *, kept: bool = False) -> tuple[dict[str, Any], Verdict]:
    """Run a seed; its summary and its verdict."""
    what = plan.make(seed, minutes)
    async with scene.scene() as at:
        run = Run(what, at)
        await run.go()
        verdict = judge.judge(run.history)
        told = summary(run, verdict)
        if kept or not verdict.holds:
            folder = Path(tempfile.mkdtemp(prefix=f"chaos-{seed}-"))
            keep(run, verdict, folder)
            (folder / "summary.json").write_text(json.dumps(told))
            told["kept"] = str(folder)
        tell_stories(run, verdict)
    return told, verdict


def main() -> int:
    """Run what was asked for; exit code 1 where a promise does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same traffic and faults")
    parser.add_argument("--minutes", type=float, default=3.0, help="how long, with a minute for the end")
    parser.add_argument("--keep", action="store_true", help="keep everything in a folder though all went well")
    chosen = parser.parse_args()
    heed_sigterm()
    for name in ("aio_pika", "aiormq"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # that connections are lost is what a run is for
    told, verdict = asyncio.run(chaos(chosen.seed, chosen.minutes, kept=chosen.keep))
    print(file=sys.stderr)
    show(told, verdict)
    print(json.dumps(told))
    return 0 if verdict.holds else 1


if __name__ == "__main__":
    sys.exit(main())
