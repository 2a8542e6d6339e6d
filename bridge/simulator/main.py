"""Runs the simulator: builds the boxes, binds all addresses before anything is promised, serves until told to stop.

``serve`` is what the command line calls; ``running`` is the same for a test that wants it in its own event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette

from bridge.errors import SettingsInvalid
from bridge.simulator import deeds, server
from bridge.simulator.callbacks import Sender
from bridge.simulator.clock import clock_of
from bridge.simulator.device import Box
from bridge.simulator.options import SimulatorOptions, split_address
from bridge.simulator.record import Record

STARTED_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Simulator:
    """A running simulator: where it listens, what happened, and what can be done to it without HTTP."""

    options: SimulatorOptions
    control: str
    urls: dict[str, str]
    gateways: dict[str, deeds.Gateway]
    record: Record

    @property
    def addresses(self) -> dict[str, Any]:
        """All addresses, as the line that says that it is ready has them."""
        listed = [{"name": name, "url": url, "ports": self.options.ports} for name, url in self.urls.items()]
        return {"control": self.control, "gateways": listed}

    def do(self, kind: str, gateway: str, **more: Any) -> None:
        """What ``POST /do`` does. Raises ValueError where it cannot be read."""
        deeds.do(self.gateways, {"kind": kind, "gateway": gateway, **more})

    def rows(self, kind: str | None = None, *, after: int = 0) -> list[dict[str, Any]]:
        """The record, or the rows of one kind."""
        return [row for row in self.record.rows(after) if kind in (None, row["kind"])]


async def serve(options: SimulatorOptions, ready: Callable[[dict[str, Any]], None], stopping: asyncio.Event) -> None:
    """Run until ``stopping``; ``ready`` is called once, with all addresses, when they answer.

    Raises SettingsInvalid where an address cannot be had.
    """
    async with running(options) as simulator:
        ready(simulator.addresses)
        await stopping.wait()


@contextlib.asynccontextmanager
async def running(options: SimulatorOptions) -> AsyncIterator[Simulator]:
    """The simulator inside this event loop, answering on all its addresses until the context ends."""
    names = [f"gw{i}" for i in range(1, options.gateways + 1)]
    async with contextlib.AsyncExitStack() as stack:
        sockets = [stack.enter_context(_bind("listen", options.listen, i)) for i in range(options.gateways)]
        control = stack.enter_context(_bind("control", options.control, 0))
        simulator = build(options, dict(zip(names, map(_url, sockets), strict=True)), _url(control))
        for gateway in simulator.gateways.values():
            gateway.sender.start()
            stack.push_async_callback(gateway.sender.stop)
        faces = [server.gateway_app(g.box, options.username, options.password) for g in simulator.gateways.values()]
        told = server.control_app(simulator.gateways, simulator.record)
        for app, bound in zip([*faces, told], [*sockets, control], strict=True):
            await stack.enter_async_context(_serving(app, bound))
        yield simulator


def build(options: SimulatorOptions, urls: dict[str, str], control: str) -> Simulator:
    """The boxes of a simulator on the clock of the running event loop; nothing listens yet."""
    clock = clock_of(asyncio.get_running_loop(), unix=time.time())
    record, chance = Record(), random.Random(options.seed)
    gateways = {}
    for name in urls:
        sender = Sender(name, clock, record)
        ip = split_address(options.listen)[0]
        box = Box(
            name,
            options,
            clock=clock,
            record=record,
            chance=chance,
            post=sender.post,
            forget_posts=sender.forget,
            ip=ip,
        )
        gateways[name] = deeds.Gateway(box, sender)
    return Simulator(options, control, urls, gateways, record)


@contextlib.asynccontextmanager
async def _serving(app: Starlette, bound: socket.socket) -> AsyncIterator[None]:
    face = server.face_server(app)
    serving = asyncio.create_task(face.serve(sockets=[bound]))
    try:
        async with asyncio.timeout(STARTED_WITHIN_S):
            await face.listening.wait()
        yield
    finally:
        face.should_exit = True
        await serving


def _bind(switch: str, address: str, offset: int) -> socket.socket:
    """A socket on the address, its port ``offset`` further on (port 0 stays 0: any free one)."""
    host, first = split_address(address)
    number = first + offset if first else 0
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, number))
    except (OSError, OverflowError) as error:
        bound.close()
        raise SettingsInvalid(f"{switch}: {host}:{number} cannot be had ({error}); name another address") from error
    return bound


def _url(bound: socket.socket) -> str:
    host, number = bound.getsockname()[:2]
    return f"http://[{host}]:{number}" if ":" in host else f"http://{host}:{number}"
