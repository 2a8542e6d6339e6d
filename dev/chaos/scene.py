"""The processes of a run, the proxies between them, and how each kind of fault is made.

``FAULTS`` has one entry per kind of the plan: what it does when it begins, and what it takes back when it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import yaml

from dev.broker import BrokerNode, node_broker
from dev.chaos.judge import Happened
from dev.chaos.plan import GATEWAYS, POLL_S, PORTS, ROUTES, Fault
from dev.chaos.proxy import Proxy
from dev.stage import Stage, spawn, stage

RADIO_S = 0.8
LIE_RATE = 0.02
START_WITHIN_S = 60.0
ANSWER_WITHIN_S = 2.0
ROOT = Path(__file__).parent.parent.parent


class Scene:
    """Everything that runs, and what can be done to it."""

    def __init__(self, play: Stage, node: BrokerNode, proxies: Proxies) -> None:
        self.play = play
        self.proxies = proxies
        self.url = node.url
        """The broker itself, without the proxy."""
        self.deaths: list[tuple[float, int]] = []
        """When the bridge ended though nobody had asked for it, and its exit code."""
        self._node = node
        self._ordering = asyncio.Lock()
        self._wanted = asyncio.Event()
        self._asking = asyncio.Lock()
        self._orders = 0
        self._clock_s = 0.0

    # --- the broker -------------------------------------------------------------------------------------------------

    async def broker(self, order: Callable[[BrokerNode], object]) -> None:
        """Do something to the node; one order at a time, beside the loop."""
        async with self._ordering:
            await asyncio.to_thread(order, self._node)

    # --- the bridge -------------------------------------------------------------------------------------------------

    async def start_bridge(self) -> None:
        """Start the real process under our clock."""
        path = self.play.folder / "config.yaml"
        path.write_text(yaml.safe_dump(dict(self.play.config)))
        with self.play.log.open("ab") as log:
            self.play.process = await spawn(
                sys.executable, "-m", "dev.chaos.victim", path,
                cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log,
            )  # fmt: skip
        self._wanted.set()
        if self._clock_s:
            await self.order(clock_s=self._clock_s)

    async def end_bridge(self, number: int) -> int:
        """End it with a signal, on purpose."""
        self._wanted.clear()
        return await self.play.end_bridge(number)

    def signal_bridge(self, number: int) -> None:
        """Send a signal to the process, where there is one."""
        if self.play.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.play.process.send_signal(number)

    async def guard(self) -> None:
        """Start the bridge again whenever it ends by itself, as whoever runs it would."""
        while True:
            await self._wanted.wait()
            process = self.play.process
            assert process is not None
            code = await process.wait()
            if not self._wanted.is_set() or self.play.process is not process:
                await asyncio.sleep(0.05)  # somebody ended it on purpose
                continue
            self.deaths.append((time.time(), code))
            await asyncio.sleep(1.0)
            if self._wanted.is_set() and self.play.process is process:
                await self.start_bridge()

    async def order(self, **order: Any) -> dict[str, Any] | None:
        """Tell the process something; its answer, None where it has none in time (it may be paused or gone)."""
        process = self.play.process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        async with self._asking:
            self._orders += 1
            answer: dict[str, Any] = {}
            with contextlib.suppress(OSError, TimeoutError):
                process.stdin.write(json.dumps({**order, "n": self._orders}).encode() + b"\n")
                async with asyncio.timeout(ANSWER_WITHIN_S):
                    while answer.get("n") != self._orders:  # an earlier one may be answered late
                        if not (line := await process.stdout.readline()):
                            return None
                        answer = json.loads(line)
                return answer
        return None

    async def set_clock(self, seconds: float) -> None:
        """Put the bridge's wall clock so far off, for this life and the next."""
        self._clock_s = seconds
        await self.order(clock_s=seconds)

    async def measure(self) -> dict[str, float] | None:
        """What the process holds: memory, descriptors, asyncio tasks; None while it does not do its work."""
        assert self.play.process is not None
        with contextlib.suppress(OSError, StopIteration):
            answer = await self.order() if await self._is_ready() else None
            if answer is not None:
                fds = len(os.listdir(f"/proc/{self.play.process.pid}/fd"))  # noqa: PTH208
                return {"rss_mb": self.play.rss_mb(), "fds": fds, "tasks": answer["asyncio_tasks"]}
        return None

    async def ready(self) -> None:
        """Wait until /readyz is green."""
        async with asyncio.timeout(START_WITHIN_S):
            while not await self._is_ready():  # noqa: ASYNC110 - another process is waited for
                await asyncio.sleep(0.2)

    async def _is_ready(self) -> bool:
        with contextlib.suppress(httpx.TransportError, TimeoutError):
            async with asyncio.timeout(ANSWER_WITHIN_S):
                return (await self.play.http.get(f"{self.play.web}/readyz")).status_code == httpx.codes.OK
        return False

    # --- the simulator ----------------------------------------------------------------------------------------------

    def signal_simulator(self, number: int) -> None:
        """Send a signal to the process of all gateways."""
        os.kill(self.play.simulator_pid, number)

    async def do(self, kind: str, **what: Any) -> None:
        """A deed of the simulator; one that is paused does it later."""
        await self.play.do(kind, **what)


class Proxies:
    """One for the broker, and per gateway one for each direction."""

    def __init__(self) -> None:
        self.broker = Proxy()
        self.device = {name: Proxy() for name in GATEWAYS}
        self.callback = {name: Proxy() for name in GATEWAYS}
        self._all = [self.broker, *self.device.values(), *self.callback.values()]

    async def open(self) -> None:
        """Listen with all of them."""
        for proxy in self._all:
            await proxy.open()

    async def close(self) -> None:
        """Close all of them."""
        for proxy in self._all:
            await proxy.close()

    def put_between(self, settings: dict[str, Any]) -> None:
        """Turn the addresses of a configuration into the proxies'."""
        self.broker.target = _address(settings["amqp"]["url"])
        settings["amqp"]["url"] = f"amqp://guest:guest@127.0.0.1:{self.broker.port}/"
        for gateway in settings["gateways"]:
            device, callback = self.device[gateway["name"]], self.callback[gateway["name"]]
            device.target = _address(gateway["url"])
            gateway["url"] = f"http://127.0.0.1:{device.port}"
            callback.target = _address(settings["web"]["public_url"])
            gateway["public_url"] = f"http://127.0.0.1:{callback.port}"


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def impatient(settings: dict[str, Any]) -> None:
    """The configuration of a run: deadlines so short that a run sees their end."""
    settings["amqp"] |= {"heartbeat_s": 5, "publish_timeout_s": 5.0}
    settings["timing"] = {
        "doubt_s": 20.0,
        "connect_timeout_s": 2.0,
        "post_timeout_s": 3.0,
        "submit_within_s": 2.0,
        "report_margin_s": 5.0,
    }
    settings["policy"] = {"timeout_s": 5, "hold_s": 20.0, "max_age_s": 600.0}
    settings["limits"] = {"segments_per_min": 60, "burst": 3}
    settings["routes"] = [{"name": name, "ports": ports} for name, ports in ROUTES.items()]
    for gateway in settings["gateways"]:
        gateway |= {"report_period_s": 1, "posts_per_s": 4.0, "poll_s": POLL_S}


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    """A node, a simulator and the proxies run; the bridge is configured but not started."""
    proxies = Proxies()
    await proxies.open()

    def config(settings: dict[str, Any]) -> None:
        impatient(settings)
        proxies.put_between(settings)

    more = ["--lie-rate", str(LIE_RATE), "--delivery-s", "1.5", "--register-s", "1"]
    with contextlib.ExitStack() as stack:
        node = await asyncio.to_thread(stack.enter_context, node_broker())
        try:
            async with stage(
                gateways=len(GATEWAYS), ports=PORTS, radio_s=RADIO_S, simulate=more, config=config, amqp_url=node.url
            ) as play:
                yield Scene(play, node, proxies)
        finally:
            await proxies.close()


# --- the faults ------------------------------------------------------------------------------------------------------

Making = Callable[[Scene, Mapping[str, Any]], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def make(at: Scene, fault: Fault, happened: list[Happened]) -> AsyncIterator[None]:
    """A fault for as long as the context lasts, noted with its moments."""
    noted = Happened(fault.kind, fault.what, time.time())
    happened.append(noted)
    try:
        async with FAULTS[fault.kind](at, fault.what):
            yield
    finally:
        noted.ended = time.time()


def _bridge_ended(number: int) -> Making:
    @asynccontextmanager
    async def end(at: Scene, _: Mapping[str, Any]) -> AsyncIterator[None]:
        await at.end_bridge(number)
        yield
        await at.start_bridge()

    return end


def _paused(send: Callable[[Scene, int], None]) -> Making:
    @asynccontextmanager
    async def pause(at: Scene, _: Mapping[str, Any]) -> AsyncIterator[None]:
        send(at, signal.SIGSTOP)
        try:
            yield
        finally:
            send(at, signal.SIGCONT)

    return pause


def _ordered(begin: Callable[[BrokerNode], object], end: Callable[[BrokerNode], object]) -> Making:
    @asynccontextmanager
    async def order(at: Scene, _: Mapping[str, Any]) -> AsyncIterator[None]:
        await at.broker(begin)
        try:
            yield
        finally:
            await at.broker(end)

    return order


@asynccontextmanager
async def _disk_full(at: Scene, _: Mapping[str, Any]) -> AsyncIterator[None]:
    await at.order(full=True)
    try:
        yield
    finally:
        await at.order(full=False)


@asynccontextmanager
async def _clock_step(at: Scene, what: Mapping[str, Any]) -> AsyncIterator[None]:
    await at.set_clock(what["step_s"])
    try:
        yield
    finally:
        await at.set_clock(0.0)


@asynccontextmanager
async def _sim_out(at: Scene, what: Mapping[str, Any]) -> AsyncIterator[None]:
    await at.do("remove_sim", **what)
    try:
        yield
    finally:
        await at.do("insert_sim", **what)


def _deed(kind: str, **more: Any) -> Making:
    @asynccontextmanager
    async def do(at: Scene, what: Mapping[str, Any]) -> AsyncIterator[None]:
        await at.do(kind, **more, **what)
        yield

    return do


def _network(where: str) -> dict[str, Making]:
    """The kinds that a proxy makes, for the one of the broker or those of one direction."""

    def of(at: Scene, what: Mapping[str, Any]) -> Proxy:
        found = getattr(at.proxies, where)
        proxy: Proxy = found if isinstance(found, Proxy) else found[what["gateway"]]
        return proxy

    @asynccontextmanager
    async def hole(at: Scene, what: Mapping[str, Any]) -> AsyncIterator[None]:
        of(at, what).hole = True
        try:
            yield
        finally:
            of(at, what).hole = False

    @asynccontextmanager
    async def delay(at: Scene, what: Mapping[str, Any]) -> AsyncIterator[None]:
        of(at, what).delay_s = what["delay_s"]
        try:
            yield
        finally:
            of(at, what).delay_s = 0.0

    @asynccontextmanager
    async def refuse(at: Scene, what: Mapping[str, Any]) -> AsyncIterator[None]:
        await of(at, what).refuse()
        of(at, what).reset()
        try:
            yield
        finally:
            await of(at, what).open()

    @asynccontextmanager
    async def reset(at: Scene, what: Mapping[str, Any]) -> AsyncIterator[None]:
        of(at, what).reset()
        yield

    @asynccontextmanager
    async def truncate(at: Scene, what: Mapping[str, Any]) -> AsyncIterator[None]:
        of(at, what).truncations += what["count"]
        yield

    makings = {"hole": hole, "delay": delay, "refuse": refuse, "reset": reset, "truncate": truncate}
    return {f"{where}_{name}": making for name, making in makings.items()}


FAULTS: dict[str, Making] = {
    "bridge_kill": _bridge_ended(signal.SIGKILL),
    "bridge_term": _bridge_ended(signal.SIGTERM),
    "bridge_pause": _paused(Scene.signal_bridge),
    "disk_full": _disk_full,
    "clock_step": _clock_step,
    "broker_kill": _ordered(BrokerNode.kill, BrokerNode.restart),
    "broker_pause": _ordered(BrokerNode.pause, BrokerNode.resume),
    "broker_alarm": _ordered(lambda node: node.alarm(raised=True), lambda node: node.alarm(raised=False)),
    "device_pause": _paused(Scene.signal_simulator),
    "device_reboot": _deed("reboot"),
    **{f"answer_{when}": _deed("lose_answer") for when in ("before", "after", "half", "silent")},
    "sim_out": _sim_out,
    "port_fails": _deed("fail_port"),
    "foreign_sms": _deed("foreign_sms"),
    "callback_drop": _deed("drop_callback"),
    "callback_late": _deed("late_callback"),
    "callback_double": _deed("double_callback"),
    **_network("broker"),
    **_network("device"),
    **_network("callback"),
}
"""What each kind of the plan does."""
