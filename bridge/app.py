"""The only file that knows everyone: build the graph, start, stop, signals, watchdog (design 3.6).

Start in order, stop in reverse with a stopwatch. The loops run in one TaskGroup, so a loop that dies stops the
process instead of leaving it half alive; the next start settles whatever was in hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

import structlog
from prometheus_client import CollectorRegistry

from bridge import logs
from bridge.amqp.session import Session
from bridge.amqp.topology import Topology
from bridge.ejoin.facts import Envelope, SmsTask, SubmitAnswer
from bridge.errors import BridgeError, LedgerLocked
from bridge.flows.changes import Changes
from bridge.flows.commands import Commands
from bridge.flows.inbound import Inbound, Known
from bridge.flows.inquiry import Inquiry
from bridge.flows.operations import Operations
from bridge.flows.outbound import Outbound
from bridge.flows.patrol import Patrol
from bridge.flows.relay import Relay
from bridge.gateway import Gateway
from bridge.metrics import Metrics
from bridge.models import Clock
from bridge.rules.health import Fleet, GatewayPlan
from bridge.rules.limiter import Pace
from bridge.rules.planner import Planner
from bridge.rules.routing import Route, Routing
from bridge.settings import (
    GRACE_CLOSE_S,
    GRACE_CONSUMERS_S,
    GRACE_RELAY_S,
    GRACE_WEB_S,
    GatewaySettings,
    Settings,
)
from bridge.store.ledger import Ledger, Transaction
from bridge.web import Web

log = structlog.get_logger()

Done = TypeVar("Done")

EXIT_FAILED, EXIT_LOCKED = 1, 3
FIRST_SNAPSHOTS_S = 10.0
DECLARED = "declared"
REAL_CLOCK = Clock(time.time, time.monotonic)


class Bridge:
    """Everything wired together; ``serve`` is its life."""

    def __init__(
        self, settings: Settings, ledger: Ledger, metrics: Metrics, clock: Clock, *, retired: tuple[str, ...] = ()
    ) -> None:
        self.settings = settings
        self.ledger = ledger
        self.metrics = metrics
        self.clock = clock
        self.fleet = Fleet({entry.name: _plan_of(settings, entry) for entry in settings.gateways}, clock.mono())
        routes = [Route(entry.name, tuple(settings.route_ports(entry.name))) for entry in settings.routes]
        routing = Routing(self.fleet, routes)
        self.planner = Planner(self.fleet, routing, capacity=_capacity_of(settings))
        self.gateways = {entry.name: _client_of(settings, entry) for entry in settings.gateways}
        topology = Topology(
            prefix=settings.amqp.prefix,
            routes=tuple(entry.name for entry in settings.routes),
            gateways=tuple(entry.name for entry in settings.gateways),
            retired=retired,
        )
        self._command_queues = topology.command_queues
        self.session = Session(settings.amqp, topology, metrics)
        self.relay = Relay(
            ledger,
            self.session.publish_many,
            metrics,
            clock,
            pause=settings.store.outbox_pause,
            resume=settings.store.outbox_resume,
        )
        self.changes = Changes(metrics, self._left_device)
        self.outbound = Outbound(
            settings,
            fleet=self.fleet,
            routing=routing,
            planner=self.planner,
            ledger=ledger,
            submit={name: _submitter(client) for name, client in self.gateways.items()},
            publish=self.session.publish_many,
            consumers=self.session,
            changes=self.changes,
            metrics=metrics,
            clock=clock,
            wake_relay=self.relay.wake,
            is_paused=lambda: self.relay.paused,
        )
        self.inbound = Inbound(
            Known(
                self.fleet,
                settings.timing.repeat_window_s,
                settings.remembered_s,
                self.outbound.terms_of,
                self.outbound.has_elsewhere,
            ),
            ledger=ledger,
            changes=self.changes,
            metrics=metrics,
            clock=clock,
            wake_planner=self.outbound.wake,
            heard=self._heard,
            wake_relay=self.relay.wake,
        )
        self.patrol = Patrol(
            settings,
            devices=self.gateways,
            ledger=ledger,
            absorb_status=self.inbound.absorb_status,
            restore_queued=self.planner.restore_queued,
            changes=self.changes,
            metrics=metrics,
            clock=clock,
            terms_of=self.outbound.terms_of,
            wake_relay=self.relay.wake,
            wake_planner=self.outbound.wake,
        )
        self.operations = Operations(
            devices=self.gateways,
            fleet=self.fleet,
            look=self.patrol.look,
            allowed=settings.commands.allowed,
            callback_url=settings.callback_url,
        )
        self.commands = Commands(
            ledger=ledger,
            publish=self.session.publish_many,
            rules_of=self.outbound.rules_of,
            operations=self.operations,
            clock=clock,
            wake_relay=self.relay.wake,
        )
        self.inquiry = Inquiry(
            settings,
            devices=self.gateways,
            fleet=self.fleet,
            ledger=ledger,
            absorb_inbox=self.inbound.absorb_inbox,
            match_orphans=self.inbound.match_orphans,
            resubmit=self.outbound.resubmit,
            changes=self.changes,
            metrics=metrics,
            clock=clock,
            terms_of=self.outbound.terms_of,
            wake_relay=self.relay.wake,
        )
        self.web = Web(
            settings.web.listen,
            gateways={entry.name: entry.tokens for entry in settings.gateways},
            on_callback=self.inbound.callback,
            ready=self.ready,
            metrics=metrics,
        )
        self._stage = "starting"

    def ready(self) -> dict[str, Any]:
        """Whether the bridge can do its work, and what is missing."""
        missing = [] if self._stage == "running" else [self._stage]
        if not self.session.connected:
            missing.append("broker")
        if self.ledger.failing:
            missing.append("ledger")
        if self.relay.paused:
            missing.append("outbox")
        silent = self.patrol.silent()
        if silent and len(silent) == len(self.gateways):
            missing.append("gateways")
        return {
            "ready": not missing,
            "missing": missing,
            "silent_gateways": silent,
            "broker": self.session.describe(),
            "fleet": repr(self.fleet),
            "planner": repr(self.planner),
        }

    async def serve(self, stopping: asyncio.Event) -> None:
        """Start in order, run until ``stopping``, stop in reverse; a loop that dies ends it with its error."""
        await self.patrol.take_over()
        await self._restore_budgets()
        await self.web.start()
        try:
            async with asyncio.TaskGroup() as loops:
                running = [loops.create_task(work, name=name) for name, work in self._loops().items()]
                await self._start(loops, running, stopping)
                await stopping.wait()
                await self._stop()
                await self.session.close()
                for task in running:
                    task.cancel()
        finally:
            await self.session.close()
            for client in self.gateways.values():
                await client.close()
            await self.web.stop(GRACE_WEB_S)

    def _loops(self) -> dict[str, Any]:
        watches = {f"watch {name}": self.patrol.watch(name) for name in self.gateways}
        return {"session": self.session.run(), "relay": self.relay.run(), **watches}

    async def _start(
        self, loops: asyncio.TaskGroup, running: list[asyncio.Task[None]], stopping: asyncio.Event
    ) -> None:
        """The broker, the gateways' first words, then the consumers; a stop meanwhile is not waited for."""
        if not await _unless(stopping, self._first_words()):
            return
        self._stage = "running"
        await self.outbound.trial.begin()
        for name, work in {
            "outbound": self.outbound.run(),
            "trial": self.outbound.trial.run(),
            "lanes": self.outbound.watch_lanes(),
            "patrol": self.patrol.run(),
            "inquiry": self.inquiry.run(),
        }.items():
            running.append(loops.create_task(work, name=name))
        for queue in self._command_queues:
            self.session.consume(queue, 1, self.commands.accept)
        log.info("bridge.running", fleet=repr(self.fleet), web=self.web.address)

    async def _first_words(self) -> bool:
        await self.session.wait_connected()
        await self.patrol.first_snapshots(FIRST_SNAPSHOTS_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_SNAPSHOTS_S):
                await self.inquiry.begin()
        return True

    async def _stop(self) -> None:
        """Not ready; consumers; what is in flight; the outbox. The web goes on until the very end."""
        self._stage = "stopping"
        log.info("bridge.stopping", planner=repr(self.planner))
        await asyncio.gather(*(self.session.stop_consuming(queue) for queue in self._command_queues))
        await self.outbound.stop(GRACE_CONSUMERS_S + self.settings.grace_in_flight_s)
        try:
            async with asyncio.timeout(GRACE_RELAY_S):
                await self.commands.finish()
                await self.relay.drain()
        except TimeoutError:
            log.warning("outbox.not_drained")
        await self.outbound.trial.end()

    async def _restore_budgets(self) -> None:
        """Buckets start empty after a restart; what a long message owes is still owed (promise 3)."""
        debts = await self.ledger.write(Transaction.debts)
        paces = [pace.rate_per_s for gateway in self.fleet.gateways.values() for pace in gateway.plan.ports.values()]
        slowest = min((rate for rate in paces if rate is not None), default=math.inf)
        for sim, (level, at) in debts.items():
            paid = slowest * max(0.0, self.clock.wall() - at)  # the card may be in any port: the slowest is safe
            self.fleet.restore_debt(sim, min(0.0, level + paid), self.clock.mono())

    def _left_device(self, gateway: str, port: int) -> None:
        self.planner.reported(gateway, port)
        self.outbound.wake()

    def _heard(self, gateway: str) -> None:
        self.patrol.heard(gateway)
        self.operations.note_push(gateway)


async def run(settings: Settings, *, clock: Clock = REAL_CLOCK) -> int:
    """Run the daemon until SIGTERM or SIGINT; the exit code (0 clean, 1 failed, 3 the ledger is locked).

    A second signal ends the process at once; the next start settles the rest.
    """
    logs.configure(settings.logs.level, settings.logs.format)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, partial(_on_signal, stopping, settings.grace_s()))
    metrics = Metrics(CollectorRegistry())
    metrics.start_at_zero({g.name: list(g.port_numbers) for g in settings.gateways}, [r.name for r in settings.routes])
    try:
        await _serve(settings, metrics, clock, stopping)
    except LedgerLocked as error:
        log.error("ledger.locked", error=str(error))
        return EXIT_LOCKED
    except BridgeError as error:
        log.error("bridge.failed", error=str(error))
        return EXIT_FAILED
    log.info("bridge.stopped")
    return 0


async def _serve(settings: Settings, metrics: Metrics, clock: Clock, stopping: asyncio.Event) -> None:
    ledger = await _unless(
        stopping,
        Ledger.open(
            settings.store.path,
            [entry.name for entry in settings.gateways],
            lock_wait_s=settings.store.lock_wait_s,
            on_commit=metrics.ledger_commit_seconds.observe,
            on_failure=metrics.ledger_failures_total.inc,
        ),
    )
    if ledger is None:
        return
    try:
        retired = await ledger.write(partial(_retire, settings))
        await Bridge(settings, ledger, metrics, clock, retired=retired).serve(stopping)
    except BaseExceptionGroup as group:
        expected, others = group.split(BridgeError)
        if expected is None or others is not None:
            raise
        raise expected.exceptions[0] from group  # one sentence for the operator, not a tree of tasks
    finally:
        await ledger.close()


async def _unless(stopping: asyncio.Event, work: Coroutine[Any, Any, Done]) -> Done | None:
    """What the work came to; None where a stop is asked for before that: it is given up, and its end waited for."""
    stop, doing = asyncio.create_task(stopping.wait()), asyncio.create_task(work)
    try:
        await asyncio.wait({stop, doing}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
    finally:
        stop.cancel()
        doing.cancel()
        await asyncio.wait({doing})
    return None


def _retire(settings: Settings, tx: Transaction) -> tuple[str, ...]:
    """The queues that an earlier configuration declared and this one does not (design 1.1)."""
    current = set(_capacity_of(settings))
    declared = set(json.loads(tx.meta(DECLARED) or "[]")) | current
    tx.set_meta(DECLARED, json.dumps(sorted(declared)))
    return tuple(sorted(declared - current))


def _on_signal(stopping: asyncio.Event, grace_s: float) -> None:
    if stopping.is_set():
        log.warning("bridge.ended_at_once")
        os._exit(EXIT_FAILED)
    stopping.set()
    watchdog = threading.Timer(grace_s + GRACE_CLOSE_S, os._exit, args=(EXIT_FAILED,))
    watchdog.daemon = True
    watchdog.start()


def _submitter(client: Gateway) -> Callable[[Sequence[SmsTask], Callable[[], bool]], Awaitable[SubmitAnswer]]:
    def submit(tasks: Sequence[SmsTask], in_time: Callable[[], bool]) -> Awaitable[SubmitAnswer]:
        return client.submit(tasks, ready=in_time)

    return submit


def _plan_of(settings: Settings, entry: GatewaySettings) -> GatewayPlan:
    limits = {number: settings.limits_of(entry.name, number) for number in entry.port_numbers}
    return GatewayPlan(
        {
            n: Pace(None if one.segments_per_min is None else one.segments_per_min / 60, one.burst, one.min_gap_s)
            for n, one in limits.items()
        },
        # Where no report comes, the counters tell one SMS of a port from the next only while there is no other.
        max_queued=entry.max_queued if entry.pushes else 1,
        batch=1 if entry.api_version == "1.0" else entry.batch,
        post_interval_s=0.0 if entry.posts_per_s is None else 1 / entry.posts_per_s,
    )


def _capacity_of(settings: Settings) -> dict[str, int]:
    """The size of each lane's waiting room: what its consumer may hold."""
    routes = {f"send.{entry.name}": settings.prefetch_of(entry.name) for entry in settings.routes}
    return routes | {f"gateway.{entry.name}": settings.prefetch_pinned(entry.name) for entry in settings.gateways}


def _client_of(settings: Settings, entry: GatewaySettings) -> Gateway:
    return Gateway(
        entry.name,
        entry.url,
        entry.username,
        entry.password.get_secret_value(),
        dial=entry.dial,
        charset=entry.charset,
        api_version=entry.api_version,
        credentials=entry.credentials,
        envelope=Envelope(
            settings.callback_url(entry.name) if entry.pushes else None,
            report_count=entry.report_count,
            report_period_s=entry.report_period_s,
            sms_count=entry.sms_count,
            sms_period_s=entry.sms_period_s,
        ),
        connect_timeout_s=settings.timing.connect_timeout_s,
        post_timeout_s=settings.post_timeout_of(entry.name),
    )
