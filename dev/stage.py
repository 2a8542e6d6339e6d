"""A stage for the real thing: a broker, simulated gateways and the bridge, each as its own process, in a temp folder.

The demo, the proof, the bench and the system tests play on it. Everything is reached as a user would reach it: AMQP,
the command line, HTTP. The processes die with this one, however it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import aio_pika
import httpx
import yaml

from dev.broker import broker, free_ports

COMMAND = Path(sys.executable).with_name("ejoin-bridge")
READY_WITHIN_S = 60.0
STOP_WITHIN_S = 60.0
PUBLISHES_AT_ONCE = 200
FINAL = frozenset({"sms.sent", "sms.failed", "sms.expired", "sms.rejected", "sms.unknown"})


def heed_sigterm() -> None:
    """Let SIGTERM end a command as Ctrl-C does: in order, with nothing left behind.

    Ctrl-C is heeded too where a shell began the command in its background, and so with SIGINT ignored.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


class StageBroken(Exception):
    """A process did not do what it should; the message has its last words."""


class Stage:
    """The running processes and the ways to talk to them. Made by ``stage``."""

    def __init__(self, folder: Path, amqp_url: str, config: Mapping[str, Any], simulator: Mapping[str, Any]) -> None:
        self.folder = folder
        self.amqp_url = amqp_url
        self.config = config
        self.simulator = simulator
        self.control: str = simulator["control"]
        self.web: str = config["web"]["public_url"]
        self.prefix: str = config["amqp"]["prefix"]
        self.process: asyncio.subprocess.Process | None = None
        self.simulator_pid = simulator["pid"]
        # No connection is used twice: one that a paused process lets go of meanwhile would fail what comes next.
        self.http = httpx.AsyncClient(timeout=30, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))
        self._connection: aio_pika.abc.AbstractConnection | None = None
        self._exchange: aio_pika.abc.AbstractExchange | None = None
        self._channel: aio_pika.abc.AbstractChannel | None = None
        self._watchers: list[aio_pika.abc.AbstractConnection] = []
        self._opening = asyncio.Lock()

    # --- the bridge -------------------------------------------------------------------------------------------------

    async def start_bridge(self, *, wait: bool = True) -> None:
        """Start ``ejoin-bridge run``; with ``wait`` until /readyz is green."""
        path = self.folder / "config.yaml"
        path.write_text(yaml.safe_dump(dict(self.config)))
        with self.log.open("ab") as output:
            self.process = await spawn(COMMAND, "run", "--config", path, stdout=output, stderr=output)
        if wait:
            await self.ready()

    async def ready(self) -> None:
        """Wait until /readyz is green."""
        give_up_at = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < give_up_at:
            if self.process is not None and self.process.returncode is not None:
                raise StageBroken(f"the bridge ended with {self.process.returncode}:\n{self.last_words()}")
            with contextlib.suppress(httpx.TransportError):
                if (await self.http.get(f"{self.web}/readyz")).status_code == httpx.codes.OK:
                    return
            await asyncio.sleep(0.1)
        raise StageBroken(f"the bridge was not ready in {READY_WITHIN_S:.0f} s:\n{self.last_words()}")

    async def end_bridge(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit code."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        async with asyncio.timeout(STOP_WITHIN_S):
            return await self.process.wait()

    @property
    def log(self) -> Path:
        """What the bridge has written."""
        return self.folder / "bridge.log"

    def last_words(self) -> str:
        """The end of the bridge's log."""
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""

    def rss_mb(self) -> float:
        """Resident memory of the bridge, in MB."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
        return round(int(kilobytes) / 1024, 1)

    def cpu_s(self) -> float:
        """CPU seconds, user and system, that the bridge has used so far."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    # --- the broker -------------------------------------------------------------------------------------------------

    async def channel(self) -> aio_pika.abc.AbstractChannel:
        """A channel of ours, with confirms and returns as errors."""
        async with self._opening:
            if self._connection is None:
                self._connection = await aio_pika.connect(self.amqp_url)
            if self._channel is None:
                self._channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
            return self._channel

    async def publish(self, key: str, body: Mapping[str, Any] | bytes, **properties: Any) -> None:
        """Publish one request, confirmed; a body in bytes goes as it is."""
        if self._exchange is None:
            self._exchange = await (await self.channel()).get_exchange(f"{self.prefix}.requests", ensure=False)
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        told = {"app_id": "stage", "timestamp": time.time(), "content_type": "application/json", **properties}
        message = aio_pika.Message(raw, delivery_mode=aio_pika.DeliveryMode.PERSISTENT, **told)
        await self._exchange.publish(message, key)

    async def publish_all(self, key: str, bodies: Iterable[Mapping[str, Any]]) -> None:
        """Publish many, some in flight at once."""
        limit = asyncio.Semaphore(PUBLISHES_AT_ONCE)

        async def one(body: Mapping[str, Any]) -> None:
            async with limit:
                await self.publish(key, body)

        await asyncio.gather(*(one(body) for body in bodies))

    async def watch(self, on_event: Callable[[dict[str, Any]], None], binding: str = "#") -> None:
        """Bind a queue of ours to the events and call back for each, until the stage closes."""
        connection = await aio_pika.connect(self.amqp_url)
        self._watchers.append(connection)
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=1000)
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(f"{self.prefix}.events", binding)

        async def read(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            on_event(json.loads(message.body))

        await queue.consume(read, no_ack=True)

    # --- the simulator ----------------------------------------------------------------------------------------------

    async def do(self, kind: str, **what: Any) -> None:
        """Make a simulated gateway do something (``/do``)."""
        (await self.http.post(f"{self.control}/do", json={"kind": kind, **what})).raise_for_status()

    async def record(self, after: int = 0) -> list[dict[str, Any]]:
        """What was handed over, went on air, was reported and called back, in order."""
        answer = await self.http.get(f"{self.control}/record", params={"after": after})
        return [json.loads(line) for line in answer.raise_for_status().text.splitlines() if line]

    async def close(self) -> None:
        """Close what we opened; the processes are ended by ``stage``."""
        for connection in [*self._watchers, *([self._connection] if self._connection else [])]:
            await connection.close()
        await self.http.aclose()


@contextlib.asynccontextmanager
async def stage(
    *,
    gateways: int = 2,
    ports: int = 8,
    radio_s: float = 0.2,
    simulate: Iterable[str] = (),
    config: Callable[[dict[str, Any]], None] = lambda _: None,
    amqp_url: str | None = None,
) -> AsyncIterator[Stage]:
    """Set the stage: broker and simulator run, the bridge is configured (``config`` may change it) but not started."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ejoin-stage-")))
        url = amqp_url
        if url is None:
            url = await asyncio.to_thread(stack.enter_context, broker())
        async with _simulator(gateways, ports, radio_s, simulate) as told:
            settings = _settings(url, told, ports)
            config(settings)
            settings["store"] = {"path": str(folder / "ledger.db"), **settings.get("store", {})}
            play = Stage(folder, url, settings, told)
            try:
                yield play
            finally:
                await _end(play.process)
                await _sweep(play)
                await play.close()


def _settings(url: str, simulator: Mapping[str, Any], ports: int) -> dict[str, Any]:
    (web,) = free_ports(1)
    return {
        "amqp": {"url": url, "prefix": f"stage-{uuid.uuid4().hex[:8]}"},
        "web": {"listen": f"127.0.0.1:{web}", "public_url": f"http://127.0.0.1:{web}"},
        "logs": {"format": "json"},
        "gateways": [
            {
                "name": one["name"],
                "url": one["url"],
                "username": "root",
                "password": "root",
                "callback_tokens": ["stage-token"],
                "ports": f"1-{ports}",
            }
            for one in simulator["gateways"]
        ],
        "routes": [{"name": "default", "ports": [one["name"] for one in simulator["gateways"]]}],
    }


@contextlib.asynccontextmanager
async def _simulator(gateways: int, ports: int, radio_s: float, more: Iterable[str]) -> AsyncIterator[dict[str, Any]]:
    arguments = {
        "--gateways": gateways,
        "--ports": ports,
        "--listen": "127.0.0.1:0",
        "--control": "127.0.0.1:0",
        "--radio-s": radio_s,
        "--seed": 1,
    }
    words = [str(word) for pair in arguments.items() for word in pair]
    process = await spawn(COMMAND, "simulate", *words, *more, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(READY_WITHIN_S):
            line = await process.stdout.readline()
        if not line:
            raise StageBroken("the simulator did not start; its reason stands above")
        yield {**json.loads(line), "pid": process.pid}
    finally:
        await _end(process)


async def spawn(*command: str | Path, **streams: Any) -> asyncio.subprocess.Process:
    """A child in a session of its own (Ctrl-C is ours to handle) that dies with us."""
    guard = [shutil.which("setpriv") or "setpriv", "--pdeathsig", "KILL", "--"]
    streams = {"stdin": asyncio.subprocess.DEVNULL, **streams}
    return await asyncio.create_subprocess_exec(
        *guard, *(str(word) for word in command), start_new_session=True, **streams
    )


async def _end(process: asyncio.subprocess.Process | None) -> None:
    if process is None or process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(STOP_WITHIN_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


async def _sweep(play: Stage) -> None:
    """A broker that is not ours gets its queues and exchanges back as they were."""
    if "AMQP_URL" not in os.environ:
        return
    names = [route["name"] for route in play.config["routes"]]
    queues = [f"send.{name}" for name in names] + [f"gateway.{g['name']}" for g in play.config["gateways"]]
    later = [f"later.{seconds}" for seconds in (5, 60, 900)]
    connection = await aio_pika.connect(play.amqp_url)
    async with connection, connection.channel() as channel:
        for queue in (*queues, *later, "returned", "dead", "command"):
            await channel.queue_delete(f"{play.prefix}.{queue}")
        for exchange in ("requests", "events", "commands", *later, "returned", "dead"):
            await channel.exchange_delete(f"{play.prefix}.{exchange}")
