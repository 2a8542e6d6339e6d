"""The flows on a real ledger, with callables at the wire: a list where the broker is, a script where the device is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from bridge.ejoin.facts import (
    DeliveryReport,
    DeviceStatus,
    InboxPage,
    ListedTask,
    PortStatus,
    ReceivedSms,
    Reply,
    SimStatistics,
    SmsTask,
    SubmitAnswer,
    TaskAck,
)
from bridge.ejoin.ports import Port
from bridge.errors import BrokerUnavailable, LedgerUnavailable
from bridge.flows.changes import Changes
from bridge.flows.inbound import Inbound, Known
from bridge.flows.inquiry import Inquiry
from bridge.flows.operations import Operations
from bridge.flows.outbound import Outbound
from bridge.flows.patrol import Patrol
from bridge.metrics import Metrics
from bridge.models import Clock, Delivery, Publication, Sms
from bridge.rules.health import Fleet, GatewayPlan
from bridge.rules.limiter import Pace
from bridge.rules.planner import Planner
from bridge.rules.routing import Route, Routing
from bridge.settings import Settings
from bridge.store.ledger import Ledger, Transaction

START = 1_700_000_000.0
PORTS = (1, 2, 3)


@dataclass
class Device:
    """A gateway by script: `codes` are the answers to the next tasks, `failure` replaces the whole answer.

    `counted` are its counters by port: (sent_ok, sent_failed, waiting); `came_in` its inbox since the start `ssrc`.
    `deaf` replaces every answer to a question.
    """

    codes: dict[str, int | None] = field(default_factory=dict)
    failure: Exception | None = None
    posts: list[list[SmsTask]] = field(default_factory=list)
    listed: dict[int, tuple[ListedTask, ...]] = field(default_factory=dict)
    asked: list[int] = field(default_factory=list)
    counted: dict[int, tuple[int, int, int]] = field(default_factory=lambda: dict.fromkeys(PORTS, (100, 10, 0)))
    ssrc: str = "first"
    came_in: list[ReceivedSms | DeliveryReport] = field(default_factory=list)
    tells_next: bool = True
    deaf: Exception | None = None
    while_counting: Callable[[], Awaitable[object]] | None = None
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    posting: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    async def submit(self, tasks: Sequence[SmsTask], in_time: Callable[[], bool]) -> SubmitAnswer:
        assert in_time()
        self.posts.append(list(tasks))
        self.posting.set()
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        acks = [TaskAck(task.tid, self.codes.get(task.to, 0), "text") for task in tasks if task.to not in self.gone]
        return SubmitAnswer(200, "OK", tuple(acks))

    gone: set[str] = field(default_factory=set)

    async def command(self, op: str, ports: str | None = None) -> Reply:
        """What an operator commands: noted, and taken."""
        self._answer()
        self.commanded.append((op, ports))
        return Reply(0, "OK", {"code": 0, "reason": "OK"})

    commanded: list[tuple[str, str | None]] = field(default_factory=list)

    async def tasks(self, port: Port) -> tuple[ListedTask, ...]:
        self._answer()
        self.asked.append(port.number)
        return self.listed.get(port.number, ())

    async def statistics(self) -> tuple[SimStatistics, ...]:
        self._answer()
        if self.while_counting is not None:
            await self.while_counting()
        return tuple(
            SimStatistics(Port(port, 1), 0, ok + failed, ok, failed, 0, waiting, 0)
            for port, (ok, failed, waiting) in self.counted.items()
        )

    async def inbox(self, *, start: int, count: int) -> InboxPage:
        self._answer()
        rows = tuple(self.came_in[start - 1 : start - 1 + count])
        return InboxPage(self.ssrc, start + len(rows) if self.tells_next else 0, rows)

    def _answer(self) -> None:
        if self.deaf is not None:
            raise self.deaf

    async def status(self, *, callback_url: str | None, period_s: int) -> DeviceStatus:
        return DeviceStatus(1, period_s, "mac", "ip", callback_url or "", 3, 1, ())


@dataclass
class Settled:
    """Counts what became of one delivery."""

    acks: int = 0
    given_back: int = 0

    @property
    def times(self) -> int:
        return self.acks + self.given_back


class World:
    """One gateway of three ports, two routes, unlimited; time stands until a test moves it."""

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self.wall, self.mono = START, 1_000.0
        self.ledger, self.settings = ledger, settings
        self.published: list[Publication] = []
        self.broker_down = False
        self.device = Device()
        self.consumed: dict[str, int] = {}
        self.metrics = Metrics(CollectorRegistry())
        clock = Clock(lambda: self.wall, lambda: self.mono)
        self.fleet = Fleet({"gw1": GatewayPlan({n: Pace(None, 2) for n in PORTS}, max_queued=2)}, self.mono)
        every = tuple(("gw1", n) for n in PORTS)
        routing = Routing(self.fleet, [Route("otp", every), Route("single", every[:1])])
        self.planner = Planner(self.fleet, routing)
        changes = Changes(self.metrics, self.planner.reported)
        self.outbound = Outbound(
            settings, fleet=self.fleet, routing=routing, planner=self.planner, ledger=ledger,
            submit={"gw1": self.device.submit}, publish=self._publish, consumers=self, changes=changes,
            metrics=self.metrics, clock=clock, wake_relay=lambda: None, is_paused=lambda: False,
        )  # fmt: skip
        self.inbound = Inbound(
            Known(self.fleet, 600.0, settings.remembered_s, self.outbound.terms_of, self.outbound.has_elsewhere),
            ledger=ledger, changes=changes, metrics=self.metrics, clock=clock, wake_planner=lambda: None,
            heard=lambda _: None, wake_relay=lambda: None,
        )  # fmt: skip
        self.patrol = Patrol(
            settings, devices={"gw1": self.device}, ledger=ledger, absorb_status=self.inbound.absorb_status,
            restore_queued=self.planner.restore_queued, changes=changes, metrics=self.metrics, clock=clock,
            terms_of=self.outbound.terms_of, wake_relay=lambda: None, wake_planner=lambda: None,
        )  # fmt: skip
        self.operations = Operations(
            devices={"gw1": self.device}, fleet=self.fleet, look=self.patrol.look,  # type: ignore[dict-item]
            allowed=settings.commands.allowed, callback_url=settings.callback_url,
        )  # fmt: skip
        self.inquiry = Inquiry(
            settings, devices={"gw1": self.device}, fleet=self.fleet, ledger=ledger,
            absorb_inbox=self.inbound.absorb_inbox, match_orphans=self.inbound.match_orphans,
            resubmit=self.outbound.resubmit, changes=changes, metrics=self.metrics, clock=clock,
            terms_of=self.outbound.terms_of, wake_relay=lambda: None,
        )  # fmt: skip
        for number in PORTS:
            self.registered(number)

    def registered(self, number: int, st: int = 3) -> None:
        self.fleet.note_status(
            "gw1", PortStatus(Port(number, 1), st, iccid=f"sim{number}", number=f"+1555{number}"), self.mono
        )

    async def _publish(self, publications: Sequence[Publication]) -> Sequence[Exception | None]:
        if self.broker_down:
            return [BrokerUnavailable() for _ in publications]
        self.published += publications
        return [None] * len(publications)

    def consume(self, queue: str, prefetch: int, on_delivery: Callable[[Delivery], None]) -> None:
        self.consumed[queue] = prefetch

    async def stop_consuming(self, queue: str) -> None:
        self.consumed.pop(queue, None)

    def delivery(self, body: Any = None, key: str = "send.otp", **more: Any) -> tuple[Delivery, Settled]:
        whole = {"id": "a", "to": "+4915112345678", "text": "hi"}
        told = body if isinstance(body, bytes) else whole | (body or {})
        settled = Settled()

        def ack() -> None:
            settled.acks += 1

        def give_back() -> None:
            settled.given_back += 1

        raw = told if isinstance(told, bytes) else json.dumps(told).encode()
        properties = {"app_id": "shop", "timestamp": self.wall} | more
        return Delivery(raw, key, ack, give_back, **properties), settled

    async def accept(self, body: Any = None, key: str = "send.otp", **more: Any) -> Settled:
        """Take one delivery and let everything that can happen now happen."""
        delivery, settled = self.delivery(body, key, **more)
        self.outbound.accept(delivery)
        await self.settle()
        return settled

    async def settle(self) -> None:
        """Plan, and wait until the workers are done."""
        while True:
            self.outbound._plan()
            if not self.outbound._workers:
                return
            await asyncio.wait(self.outbound._workers)

    async def push(self, body: dict[str, Any] | bytes, content_type: str = "application/json", **query: str) -> str:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.inbound.callback("gw1", raw, content_type, query)

    async def sms(self, sms_id: str = "a", app_id: str = "shop") -> Sms | None:
        return await self.ledger.write(lambda tx: tx.sms(app_id, sms_id))

    async def told(self) -> list[dict[str, Any]]:
        """The events in the outbox, oldest first."""
        rows = await self.ledger.write(lambda tx: tx.read_outbox(0, 1_000))
        return [json.loads(one.body) for _, one in rows if one.exchange == "events"]

    async def kinds(self) -> list[str]:
        return [event["type"].removesuffix(".v1") for event in await self.told()]

    async def back(self) -> list[Publication]:
        """The hand-backs in the outbox."""
        rows = await self.ledger.write(lambda tx: tx.read_outbox(0, 1_000))
        return [one for _, one in rows if one.exchange != "events"]

    async def passes(self, seconds: float) -> None:
        """Time goes by: the patrol reaps, and the gateway is asked when it is its turn."""
        self.wall, self.mono = self.wall + seconds, self.mono + seconds
        await self.patrol._watch_clock()
        await self.patrol._reap()
        for gateway in self.inquiry._due(await self.ledger.write(Transaction.doubts)):
            await self.inquiry.ask(gateway)

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """Meanwhile every write is undone and refused."""
        healthy = self.ledger.write

        async def refuse(work: Callable[[Transaction], Any]) -> None:
            def undo(tx: Transaction) -> None:
                work(tx)
                raise LedgerUnavailable

            await healthy(undo)

        self.ledger.write = refuse  # type: ignore[method-assign]
        yield
        self.ledger.write = healthy  # type: ignore[method-assign]

    @property
    def tid(self) -> int:
        return self.device.posts[-1][-1].tid


CONFIG: dict[str, Any] = {
    "gateways": [
        {"name": "gw1", "url": "http://127.0.0.1:1", "password": "x", "callback_tokens": ["t"], "ports": "1-3"}
    ],
    "routes": [{"name": "otp", "ports": ["gw1"]}, {"name": "single", "ports": ["gw1:1"]}],
}


@asynccontextmanager
async def world(folder: Path, **changed: Any) -> AsyncIterator[World]:
    folder.mkdir(exist_ok=True)  # noqa: ASYNC240
    ledger = await Ledger.open(folder / "ledger.db", ["gw1"], lock_wait_s=0)
    try:
        yield World(ledger, Settings(**CONFIG | changed))
    finally:
        await ledger.close()
