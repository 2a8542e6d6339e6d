"""The patrol: keeps everything moving when nobody tells (design 2.1).

It takes over what an earlier life left open, asks each gateway for its snapshot and subscribes to its pushes, reaps
every deadline, and prunes what is old. What is in doubt is the inquiry's business.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from bridge import logs
from bridge.ejoin.facts import DeviceStatus
from bridge.errors import BridgeError, LedgerUnavailable
from bridge.flows.changes import Changes
from bridge.metrics import Metrics
from bridge.models import Clock, GatewayDown, GatewayUp, Sms, State, publication_of, stamp
from bridge.rules import outcomes
from bridge.settings import KEY_HORIZON_S, Settings
from bridge.store.ledger import Ledger, Transaction

log = structlog.get_logger()

REAP_EVERY_S = 0.5
REAP_AT_ONCE = 500
STEP_S = 1.0
"""A clock that is off by more than this from one look to the next was set."""

SILENT_PERIODS = 2.5
"""A device that has not reported for so many of its periods is asked."""

RETRY_S = (1.0, 30.0)
PRUNE_EVERY_S = 10.0
PRUNE_AT_ONCE = 250
"""Rows of each kind in one slice: some milliseconds, in which the loop does nothing else."""


class Device(Protocol):
    """What the patrol asks of a gateway's client."""

    async def status(self, *, callback_url: str | None, period_s: int | None) -> DeviceStatus:
        """The whole box now; with a URL it also subscribes to the pushes.

        Raises GatewayNotReached, GatewaySilent, GatewayGarbled.
        """


@dataclass(slots=True)
class Liveness:
    """When a gateway was heard last (monotonic), and what we told of it."""

    heard_at: float = float("-inf")
    up: bool | None = None


class Patrol:
    """Keeps every non-final SMS moving towards its end, and every gateway's picture fresh."""

    def __init__(
        self,
        settings: Settings,
        *,
        devices: Mapping[str, Device],
        ledger: Ledger,
        absorb_status: Callable[[str, DeviceStatus], Awaitable[None]],
        restore_queued: Callable[[str, int, int], None],
        changes: Changes,
        metrics: Metrics,
        clock: Clock,
        terms_of: Callable[[str | None], outcomes.Terms],
        wake_relay: Callable[[], None],
        wake_planner: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._devices = devices
        self._ledger = ledger
        self._absorb_status = absorb_status
        self._restore_queued = restore_queued
        self._changes = changes
        self._metrics = metrics
        self._clock = clock
        self._terms_of = terms_of
        self._wake_relay = wake_relay
        self._wake_planner = wake_planner
        self._liveness = {name: Liveness() for name in devices}
        self._offset_s = clock.wall() - clock.mono()
        self._snapshots = {name: asyncio.Event() for name in devices}

    # --- start ------------------------------------------------------------------------------------------------------

    async def take_over(self) -> None:
        """After a start: whatever was being submitted is in doubt; what devices hold has its place on its port."""
        now = self._clock.wall()

        def take(tx: Transaction) -> tuple[list[tuple[Sms, outcomes.Outcome]], list[Sms]]:
            tx.deny_future(now)
            held = tx.open_sms()
            pairs = [
                (sms, outcome)
                for sms in held
                if sms.state is State.SUBMITTING
                and (outcome := outcomes.doubted(sms, outcomes.RESTART, now, self._terms_of(sms.route)))
            ]
            tx.settle([outcome for _, outcome in pairs], now)
            return pairs, [sms for sms in held if sms.state is State.SUBMITTED and sms.reason is None]

        pairs, submitted = await self._ledger.write(take)
        counts: dict[tuple[str, int], int] = defaultdict(int)
        for sms in submitted:
            if sms.gateway and sms.port:
                counts[sms.gateway, sms.port] += 1
        for (gateway, port), count in counts.items():
            self._restore_queued(gateway, port, count)
        if pairs or submitted:
            log.info("ledger.taken_over", in_doubt=len(pairs), submitted=len(submitted))

    async def first_snapshots(self, within_s: float) -> None:
        """Wait until each gateway has answered once, or the time is up."""
        waits = [asyncio.create_task(event.wait()) for event in self._snapshots.values()]
        _, pending = await asyncio.wait(waits, timeout=within_s)
        for task in pending:
            task.cancel()

    def silent(self) -> list[str]:
        """Gateways that have not answered so far, or have gone silent."""
        return [name for name, alive in self._liveness.items() if not alive.up]

    # --- gateways ---------------------------------------------------------------------------------------------------

    def heard(self, gateway: str) -> None:
        """A push came in: the gateway lives."""
        self._liveness[gateway].heard_at = self._clock.mono()

    async def watch(self, gateway: str) -> None:
        """Keep one gateway's picture fresh, until cancelled: subscribe, and ask again where its pushes stay away."""
        wait_s = RETRY_S[0]
        while True:
            silent_s = self._clock.mono() - self._liveness[gateway].heard_at
            entry = self._settings.gateway(gateway)
            period_s = entry.status_period_s if entry.pushes else entry.poll_s
            silent_after_s = SILENT_PERIODS * period_s if entry.pushes else period_s
            if self._liveness[gateway].up and silent_s < silent_after_s:
                await asyncio.sleep(period_s / 4)
                continue
            if await self.look(gateway):
                wait_s = RETRY_S[0]
            else:
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, RETRY_S[1])

    async def look(self, gateway: str) -> bool:
        """Take a fresh snapshot of a gateway into what we believe; whether it gave one."""
        entry = self._settings.gateway(gateway)
        url, period_s = (self._settings.callback_url(gateway), entry.status_period_s) if entry.pushes else (None, None)
        try:
            status = await self._devices[gateway].status(callback_url=url, period_s=period_s)
            await self._absorb_status(gateway, status)
        except LedgerUnavailable as error:
            log.error("ledger.unavailable", error=str(error))  # the gateway answered: nothing is to be told of it
            return False
        except BridgeError as error:
            await self._mark(gateway, up=False, reason=str(error))
            return False
        self.heard(gateway)
        await self._mark(gateway, up=True, version=status.version, ports=len(status.ports))
        self._snapshots[gateway].set()
        self._wake_planner()
        return True

    async def _mark(
        self, gateway: str, *, up: bool, reason: str = "", version: str | None = None, ports: int | None = None
    ) -> None:
        """Tell a change of liveness once; it is no promise, so a ledger that cannot store only delays it."""
        alive = self._liveness[gateway]
        if alive.up is up:
            return
        now = self._clock.wall()
        data = (
            GatewayUp(gateway=gateway, version=version, ports=ports)
            if up
            else GatewayDown(gateway=gateway, reason=reason)
        )
        event = publication_of(data, event_id=f"{gateway}/{data.kind}/{now:.3f}", at=now, gateway=gateway)
        try:
            await self._ledger.write(lambda tx: tx.publish([event], now))
        except LedgerUnavailable:
            return
        alive.up = up
        self._metrics.gateway_up.labels(gateway).set(up)
        log.info(data.kind, gateway=gateway, **({"version": version} if up else {"reason": reason}))
        self._wake_relay()

    # --- deadlines ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Reap deadlines until cancelled."""
        prune_at = self._clock.mono() + PRUNE_EVERY_S
        while True:
            try:
                await self._watch_clock()
                await self._reap()
                if self._clock.mono() >= prune_at:
                    more = await self._prune()
                    prune_at = self._clock.mono() + (0.0 if more else PRUNE_EVERY_S)
            except LedgerUnavailable as error:
                log.error("ledger.unavailable", error=str(error))
            await asyncio.sleep(REAP_EVERY_S)

    async def _watch_clock(self) -> None:
        """Where somebody sets the machine's clock, deadlines go with it: none comes early, none stays away."""
        now = self._clock.wall()
        offset_s = now - self._clock.mono()
        by = offset_s - self._offset_s
        if abs(by) > STEP_S:
            await self._ledger.write(lambda tx: tx.move_clock(by, now))
            log.warning("clock.set", by_s=round(by, 3))
        self._offset_s = offset_s

    async def _reap(self) -> None:
        """Whose deadline has passed: in doubt from now on; a copy that never came back: expired."""
        now = self._clock.wall()
        overdue = await self._ledger.write(lambda tx: tx.overdue(now, REAP_AT_ONCE))
        if not overdue:
            return
        held = [sms for sms in overdue if sms.state.open]

        def reap(tx: Transaction) -> list[tuple[Sms, outcomes.Outcome]]:
            return tx.decide(held, lambda sms, now: outcomes.overdue(sms, now, self._terms_of(sms.route)), now)

        self._changes.note(await self._ledger.write(reap), now)
        await self._expire([sms for sms in overdue if sms.state is State.HANDED_BACK])

    async def _expire(self, rows: list[Sms]) -> None:
        """A handed-back SMS whose copy did not come back: ended through the gate, as its next attempt would be."""
        now = self._clock.wall()
        copies = [replace(s.without_place(), state=State.EXPIRED, state_at=now, attempt=s.attempt + 1) for s in rows]

        def expire(tx: Transaction) -> list[Sms]:
            return [
                copy
                for copy in copies
                if tx.refuse(copy, "sms.expired", now, reason="too_late", expires_at=stamp(copy.expires_at))
            ]

        if not copies:
            return
        for sms in await self._ledger.write(expire):
            self._metrics.requests_total.labels(sms.route or "-", "expired").inc()
            log.info("sms.expired", request_id=str(sms.key), route=sms.route, to=logs.mask(sms.recipient))
        self._wake_relay()

    async def _prune(self) -> bool:
        """Forget one slice of what is old; whether more may be left.

        A final row is whole for ``full_rows_h``, then slim until its key's horizon; where that is nearer, never slim.
        """
        routes = [None, *(entry.name for entry in self._settings.routes)]
        horizon_s = KEY_HORIZON_S + max(self._settings.policy_of(route).max_age_s for route in routes)
        now = self._clock.wall()
        full_rows_s = self._settings.store.full_rows_h * 3600
        touched = await self._ledger.write(
            lambda tx: tx.prune(
                now,
                full_rows_s=full_rows_s,
                horizon_s=max(horizon_s, full_rows_s),
                received_s=self._settings.remembered_s,
                limit=PRUNE_AT_ONCE,
            )
        )
        if touched:
            log.debug("ledger.pruned", rows=touched)
        return touched == PRUNE_AT_ONCE
