"""The walk of a send request, from its delivery to the gateway's answer (design 3.1).

Deliveries come in by a plain call (``accept``, ``returned``); one loop asks the planner and begins batches; each batch
is handed over by a worker of its own, one per gateway. Nothing here knows a broker or a device: both are callables.
Every delivery is settled exactly once, on every branch.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import structlog

from bridge import logs
from bridge.ejoin import codes
from bridge.ejoin.facts import SmsTask, SubmitAnswer
from bridge.ejoin.ports import Port
from bridge.errors import (
    BrokerUnavailable,
    GatewayGarbled,
    GatewayNotReached,
    GatewaySilent,
    LedgerUnavailable,
    RequestInvalid,
    Unroutable,
)
from bridge.flows.changes import Changes
from bridge.flows.trial import Trial
from bridge.metrics import Metrics
from bridge.models import (
    BY_DEVICE,
    H_ATTEMPT,
    H_CORRECTS,
    H_DEAD_AT,
    H_DETAIL,
    H_DUPLICATE,
    H_EXPIRES_AT,
    H_MESSAGE_ID,
    H_PARENT,
    H_REASON,
    H_TRACEPARENT,
    H_TRIED,
    TIERS_S,
    Clock,
    Delivery,
    Key,
    Publication,
    Request,
    SendRequest,
    Sms,
    SmsRejected,
    State,
    publication_of,
    read_send_request,
    stamp,
    to_json,
)
from bridge.rules import intake, outcomes
from bridge.rules.health import Fleet
from bridge.rules.lines import Assignment, Waiting
from bridge.rules.planner import Batch, Planner
from bridge.rules.routing import Routing
from bridge.settings import Settings
from bridge.store.ledger import CANCELLED, Ledger, Transaction

log = structlog.get_logger()

CHILDREN_PER_CHUNK = 100
GIVE_BACK_PAUSE_S = 1.0
FIRST_SEEN_MOST = 10_000
LOOK_EVERY_S = 60.0
LOOK_S = 1.0
TICK_S = 1.0
SOONEST_S = 0.005
"""A loop that sleeps for less than a timer's resolution spins."""

Submit = Callable[[Sequence[SmsTask], Callable[[], bool]], Awaitable[SubmitAnswer]]
PublishMany = Callable[[Sequence[Publication]], Awaitable[Sequence[Exception | None]]]


class Consumers(Protocol):
    """What this flow asks of the edge that consumes queues (logical names: ``send.<route>``, ``gateway.<name>``)."""

    def consume(self, queue: str, prefetch: int, on_delivery: Callable[[Delivery], None]) -> None:
        """Deliver this queue from now on, through every rebuild of the session."""

    async def stop_consuming(self, queue: str) -> None:
        """Deliver no more of it; what is held can still be settled."""


@dataclass(slots=True)
class Lane:
    """One queue of requests, a route's or a gateway's pinned ones; its name is also their routing key."""

    queue: str
    prefetch: int
    route: str | None
    gateway: str | None
    consuming: bool = False
    look_at: float = 0.0
    look_ends_at: float | None = None


class Outbound:
    """Takes send requests and hands them over, paced, batched and exactly once."""

    def __init__(
        self,
        settings: Settings,
        *,
        fleet: Fleet,
        routing: Routing,
        planner: Planner,
        ledger: Ledger,
        submit: Mapping[str, Submit],
        publish: PublishMany,
        consumers: Consumers,
        changes: Changes,
        metrics: Metrics,
        clock: Clock,
        wake_relay: Callable[[], None],
        is_paused: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._fleet = fleet
        self._routing = routing
        self._planner = planner
        self._ledger = ledger
        self._submit = submit
        self._publish = publish
        self._consumers = consumers
        self._changes = changes
        self._metrics = metrics
        self._clock = clock
        self._wake_relay = wake_relay
        self._is_paused = is_paused
        self._news = asyncio.Event()
        self._workers: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._bug: BaseException | None = None
        self._first_seen: OrderedDict[tuple[Key, int, bytes], float] = OrderedDict()
        self.trial = Trial(
            ledger, spawn=self._spawn, be_alone=self._be_alone, read=_read_to_refuse, refuse=self._refuse_poison
        )
        self._lanes = [
            *(Lane(f"send.{r.name}", settings.prefetch_of(r.name), r.name, None) for r in settings.routes),
            *(Lane(f"gateway.{g.name}", settings.prefetch_pinned(g.name), None, g.name) for g in settings.gateways),
        ]
        self._terms = {
            name: outcomes.Terms(
                max_attempts=policy.max_attempts,
                timeout_s=policy.timeout_s,
                report_margin_s=settings.timing.report_margin_s,
                doubt_s=settings.timing.doubt_s,
                resend=policy.on_doubt == "resend",
            )
            for name in [None, *(r.name for r in settings.routes)]
            for policy in [settings.policy_of(name)]
        }
        self._intake = {lane.queue: _intake_of(settings, lane) for lane in self._lanes}

    def terms_of(self, route: str | None) -> outcomes.Terms:
        """The deadlines and retries of a route; a removed one has the general policy's."""
        return self._terms.get(route, self._terms[None])

    def wake(self) -> None:
        """Something that the planner looks at has changed."""
        self._news.set()

    # --- deliveries -------------------------------------------------------------------------------------------------

    def accept(self, delivery: Delivery) -> None:
        """Take one delivery of a request: offer it to the planner, or settle it otherwise. Returns at once."""
        if not self.trial.keeps(delivery, self._accept):
            self._accept(delivery)

    def _accept(self, delivery: Delivery) -> None:
        now = self._clock.wall()
        try:
            taken = intake.read(delivery, self._rules_of(delivery), now)
            if isinstance(taken, Request):
                self._offer(taken, delivery, now)
            elif taken.expires_at <= now:
                self._spawn(self._expire(_late(taken, delivery, now), delivery, "too_late"), delivery)
            else:
                self._spawn(self._expand(taken, delivery), delivery)
        except RequestInvalid as error:
            self._spawn(self._reject(delivery, error), delivery)

    def returned(self, delivery: Delivery) -> None:
        """Take one delivery of ``sms.returned``: unroutable, expired in its queue, or over the delivery limit."""
        if not self.trial.keeps(delivery, self._returned):
            self._returned(delivery)

    def _returned(self, delivery: Delivery) -> None:
        now = self._clock.wall()
        reason = _reason_of_return(delivery)
        try:
            taken = intake.read(delivery, self._rules_of(delivery), now)
        except RequestInvalid as error:
            self._spawn(self._reject(delivery, error), delivery)
            return
        if reason == "expired":
            self._spawn(self._expire(_late(taken, delivery, now), delivery, "expired_in_queue"), delivery)
        else:
            problem = RequestInvalid(reason, _RETURNED[reason].format(key=delivery.routing_key))
            row = row_of(taken, State.REJECTED, now) if isinstance(taken, Request) else None
            self._spawn(self._reject(delivery, problem, row), delivery)

    def rules_of(self, routing_key: str) -> intake.IntakeRules | None:
        """What the lane of this routing key allows; None where no route and no gateway is meant by it."""
        return self._intake.get(routing_key)

    def _rules_of(self, delivery: Delivery) -> intake.IntakeRules:
        """What the request's lane allows; a removed or mistyped one has the general policy's."""
        return self.rules_of(delivery.routing_key) or _intake_of(self._settings, None)

    def _offer(self, request: Request, delivery: Delivery, now: float) -> None:
        request = self._as_first_seen(request)
        if request.expires_at <= now:
            self._spawn(self._expire(_late(request, delivery, now), delivery, "too_late"), delivery)
            return
        not_before = request.body.not_before.timestamp() if request.body.not_before else now
        if not_before > now:
            self._spawn(self._postpone(request, delivery, not_before - now), delivery)
            return
        if self._stopping:
            delivery.give_back()
            return
        if self._routing.is_exhausted(request):
            self._spawn(self._fail(request, delivery), delivery)
            return
        mono = self._clock.mono()
        older = self._planner.offer(
            request,
            delivery,
            now=mono,
            expires_at=mono + request.expires_at - now,
            hold_s=self._settings.policy_of(request.route).hold_s,
        )
        if older == "later":
            self._spawn(self._postpone(request, delivery, TIERS_S[0]), delivery)
        elif older is not None:
            older.ack()
        self._news.set()

    def _as_first_seen(self, request: Request) -> Request:
        """Without a timestamp the age counts from first sight, however often it is given back and comes again."""
        known = self._first_seen.pop((request.key, request.attempt, request.fingerprint), request.expires_at)
        return request if known >= request.expires_at else replace(request, expires_at=known)

    def _give_back(self, waiting: Waiting) -> None:
        """Back to the broker, unchanged; the age that only we know is kept here meanwhile."""
        request = waiting.request
        if request.timestamp is None:
            self._first_seen[request.key, request.attempt, request.fingerprint] = request.expires_at
            if len(self._first_seen) > FIRST_SEEN_MOST:
                self._first_seen.popitem(last=False)
        waiting.delivery.give_back()

    def _spawn(self, work: Coroutine[Any, Any, None], *deliveries: Delivery) -> None:
        """Run on a worker of our own: the edge's would be cancelled with its channel. Failures give back, later."""
        task = asyncio.create_task(self._guard(work, deliveries))
        self._workers.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, worker: asyncio.Task[None]) -> None:
        """A worker that died of a bug ends the loop, and so the process: the next start settles what it held."""
        self._workers.discard(worker)
        if not worker.cancelled() and (bug := worker.exception()) is not None:
            self._bug = bug
            self._news.set()

    async def _guard(self, work: Coroutine[Any, Any, None], deliveries: Sequence[Delivery]) -> None:
        try:
            await work
        except (LedgerUnavailable, BrokerUnavailable, Unroutable) as error:
            log.warning("request.given_back", error=str(error), count=len(deliveries))
            if not self._stopping:
                await asyncio.sleep(GIVE_BACK_PAUSE_S)  # what failed just now would fail again at once
            for delivery in deliveries:
                delivery.give_back()

    async def _be_alone(self) -> None:
        """Return with nothing in hand but what the caller holds: give back what waits, let what is begun end."""
        for waiting in self._planner.drain():
            self._give_back(waiting)
        while others := self._workers - {asyncio.current_task()}:
            await asyncio.wait(others)

    async def _refuse_poison(self, delivery: Delivery, readable: bool) -> None:
        poison = RequestInvalid(
            "poison", "the bridge died each time it took this, the last time with nothing else in hand"
        )
        await self._reject(delivery, poison, readable=readable)

    async def _reject(
        self, delivery: Delivery, error: RequestInvalid, row: Sms | None = None, *, readable: bool = True
    ) -> None:
        """Refuse what breaks the contract; what has no readable key or place is kept in ``sms.dead`` too."""
        now = self._clock.wall()
        seen = delivery if readable else replace(delivery, body=b"")
        key = row.key if row else intake.key_of(seen)
        route, _ = intake.place_of(delivery.routing_key)
        detail = {"reason": error.reason, "field": error.field, "detail": str(error)}
        refused = row or (_unread(seen, key, route, now) if key else None)
        event_id = f"{refused.key}/{refused.attempt}/sms.rejected" if refused else _nokey(delivery.body)
        if refused is None or error.reason not in {"invalid", "not_allowed"}:
            await self._bury(delivery, error, event_id)
        outcome = "unreadable" if error.reason in {"unreadable", "too_large"} else "rejected"
        self._metrics.requests_total.labels(self._route_label(route), outcome).inc()
        if refused is None:
            nobody = SmsRejected(app_id=delivery.app_id or None, route=route, of_sms=False, **detail)
            event = publication_of(
                nobody,
                event_id=event_id,
                at=now,
                subject="-",
                route=route,
                correlation_id=delivery.correlation_id,
                copy_to=delivery.reply_to,
            )
            await self._ledger.write(lambda tx: tx.publish([event], now))
            log.info("sms.rejected", request_id=None, route=route, reason=error.reason, field=error.field)
        else:
            told = {name: value for name, value in detail.items() if value is not None}
            if await self._ledger.write(lambda tx: tx.refuse(refused, "sms.rejected", now, **told)):
                log.info(
                    "sms.rejected", request_id=str(refused.key), route=route, reason=error.reason, field=error.field
                )
        delivery.ack()
        self._wake_relay()

    async def _bury(self, delivery: Delivery, error: RequestInvalid, event_id: str) -> None:
        """Publish to ``sms.dead``, confirmed, under the id of the event that tells of it."""
        self._metrics.dead_lettered_total.labels(error.reason).inc()
        dead = Publication(
            "dead",
            delivery.routing_key,
            delivery.body,
            content_type="application/json",
            message_id=event_id,
            app_id=delivery.app_id or None,
            correlation_id=delivery.correlation_id,
            timestamp=delivery.timestamp,
            headers={
                H_REASON: error.reason,
                H_DETAIL: str(error)[:500],
                H_MESSAGE_ID: delivery.message_id or "",
                H_DEAD_AT: self._clock.wall(),
            },
        )
        await self._publish_all([dead])

    async def _expire(self, row: Sms, delivery: Delivery, reason: str) -> None:
        """End what came too late, through the gate; for a list, under its own id."""
        now = self._clock.wall()
        row = replace(row, reason=reason)
        ended = stamp(row.expires_at)
        if await self._ledger.write(lambda tx: tx.refuse(row, "sms.expired", now, reason=reason, expires_at=ended)):
            self._metrics.requests_total.labels(self._route_label(row.route), "expired").inc()
            log.info(
                "sms.expired", request_id=str(row.key), route=row.route, to=logs.mask(row.recipient), reason=reason
            )
        delivery.ack()
        self._wake_relay()

    async def _fail(self, request: Request, delivery: Delivery) -> None:
        """End a copy that was handed back in the hope of another SIM, where there is none (a start knows no cards)."""
        now = self._clock.wall()
        told: dict[str, Any] = {"reason": "no_sim_left", "certain": not request.possible_duplicate}
        row = replace(row_of(request, State.FAILED, now), **told)
        if await self._ledger.write(lambda tx: tx.refuse(row, "sms.failed", now, **told)):
            self._metrics.failed_total.labels("-", "-", "no_sim_left").inc()
            log.info("sms.failed", request_id=str(row.key), route=row.route, to=logs.mask(row.recipient), **told)
        delivery.ack()
        self._wake_relay()

    async def _expand(self, expansion: intake.Expansion, delivery: Delivery) -> None:
        """Publish the children of a list, then let go of it; a crash between repeats children, dropped by key.

        Of a list that was cancelled before, none is published; it ends under its own id.
        """
        if await self._ledger.write(partial(self._end_cancelled_list, expansion, delivery)):
            route, _ = intake.place_of(delivery.routing_key)
            self._metrics.requests_total.labels(self._route_label(route), "rejected").inc()
            log.info("sms.rejected", request_id=str(expansion.key), route=route, reason=CANCELLED)
            delivery.ack()
            self._wake_relay()
            return
        for first in range(0, len(expansion.children), CHILDREN_PER_CHUNK):
            await self._publish_all(expansion.children[first : first + CHILDREN_PER_CHUNK])
        delivery.ack()
        log.info("list.expanded", request_id=str(expansion.key), children=len(expansion.children))

    def _end_cancelled_list(self, expansion: intake.Expansion, delivery: Delivery, tx: Transaction) -> bool:
        """Refuse a list that a tombstone stands for; False where none does."""
        now = self._clock.wall()
        body = read_send_request(delivery.body)
        route, _ = intake.place_of(delivery.routing_key)
        row = _unread(delivery, expansion.key, route, now)
        asked = row.asked | {"meta": body.metadata or None}
        asked |= {} if delivery.timestamp is None else {"ts": delivery.timestamp}
        row = replace(row, reason=CANCELLED, request=to_json(asked))
        if not tx.is_cancelled(replace(row, parent=expansion.key.id)):
            return False
        tx.refuse(row, "sms.rejected", now, reason=CANCELLED)
        return True

    async def _postpone(self, request: Request, delivery: Delivery, wait_s: float) -> None:
        """Send what waits for itself to a tier, with its age fixed; it comes back under its own routing key."""
        tier = next((tier for tier in reversed(TIERS_S) if tier <= wait_s), TIERS_S[0])
        headers = {
            H_ATTEMPT: request.attempt if request.attempt > 1 else None,
            H_TRIED: to_json(request.tried) if request.tried else None,
            H_DUPLICATE: request.possible_duplicate or None,
            H_PARENT: request.parent,
            H_TRACEPARENT: request.traceparent,
            H_CORRECTS: request.corrects,
            H_EXPIRES_AT: request.expires_at,
        }
        copy = Publication(
            f"later.{tier}",
            delivery.routing_key,
            delivery.body,
            message_id=delivery.message_id,
            app_id=delivery.app_id or None,
            correlation_id=delivery.correlation_id,
            timestamp=delivery.timestamp,
            reply_to=delivery.reply_to,
            headers={name: value for name, value in headers.items() if value is not None},
        )
        await self._publish_all([copy])
        delivery.ack()

    async def _publish_all(self, publications: Sequence[Publication]) -> None:
        for error in await self._publish(publications):
            if error is not None:
                raise error

    # --- the loop ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Plan and hand over until cancelled."""
        while True:
            self._news.clear()
            if self._bug is not None:
                raise self._bug
            wake_at = self._plan()
            wait_s = TICK_S if wake_at is None else min(TICK_S, max(SOONEST_S, wake_at - self._clock.mono()))
            try:
                async with asyncio.timeout(wait_s):
                    await self._news.wait()
            except TimeoutError:
                pass

    def _plan(self) -> float | None:
        plan = self._planner.plan(self._clock.mono(), begin=not self._stopping and not self._is_paused())
        for waiting in plan.expired:
            row = row_of(waiting.request, State.EXPIRED, self._clock.wall())
            self._spawn(self._expire(row, waiting.delivery, "too_late"), waiting.delivery)
        for waiting in plan.overdue:
            self._give_back(waiting)
        for batch in plan.batches:
            self._spawn(self._hand_over(batch))
        return plan.wake_at

    async def _hand_over(self, batch: Batch) -> None:
        """Begin, acknowledge, POST, conclude: one batch of one gateway (steps 4 to 6).

        The gateway is free again with its answer: the next batch may begin while this one's verdicts are written.
        """
        started = self._clock.mono()
        verdicts: Mapping[int, codes.Verdict] = {}
        self._metrics.in_flight.labels(batch.gateway).inc(len(batch.assignments))
        try:
            begun = await self._begin(batch)
            if begun:
                verdicts = await self._post(batch.gateway, begun, started)
                self._learn(batch.gateway, begun, verdicts)
        finally:
            self._metrics.in_flight.labels(batch.gateway).dec(len(batch.assignments))
            self._planner.posted(batch.gateway, self._clock.mono())
            self._news.set()
        if begun:
            await self._conclude(batch.gateway, begun, verdicts)

    async def _begin(self, batch: Batch) -> list[tuple[Sms, Assignment]]:
        now = self._clock.wall()
        policy = self._settings.timing
        deadline = now + policy.submit_within_s + self._settings.post_timeout_of(batch.gateway)
        rows = [
            replace(
                row_of(a.waiting.request, State.SUBMITTING, now),
                deadline_at=deadline,
                gateway=batch.gateway,
                port=a.port,
                slot=a.slot or None,
                sim=a.sim,
                begun_at=now,
            )
            for a in batch.assignments
        ]
        buckets = {a.sim: self._fleet.port(a.gateway, a.port).bucket for a in batch.assignments}
        levels = {sim: (bucket.level(self._clock.mono()), now) for sim, bucket in buckets.items()}

        def begin(tx: Transaction) -> list[Sms | None]:
            begun = tx.begin(batch.gateway, rows, now)
            if any(a.waiting.request.body.ports == BY_DEVICE for a in batch.assignments):
                for port in self._fleet.gateways[batch.gateway].ports:  # whose counters will count it, nobody knows
                    tx.note_foreign(batch.gateway, port, now)
            tx.spend(levels)
            return begun

        try:
            admitted = await self._ledger.write(begin)
        except LedgerUnavailable as error:
            log.error("ledger.cannot_begin", gateway=batch.gateway, error=str(error))
            for assignment in batch.assignments:
                self._planner.refund(assignment, self._clock.mono())
                assignment.waiting.delivery.give_back()
            await asyncio.sleep(GIVE_BACK_PAUSE_S)
            return []
        for assignment, sms in zip(batch.assignments, admitted, strict=True):
            assignment.waiting.delivery.ack()
            self._count_accepted(assignment.waiting, sms)
            if sms is None or not sms.state.open:
                self._planner.refund(assignment, self._clock.mono())
        self._wake_relay()
        return [(sms, a) for sms, a in zip(admitted, batch.assignments, strict=True) if sms and sms.state.open]

    def _count_accepted(self, waiting: Waiting, sms: Sms | None) -> None:
        request = waiting.request
        outcome = "repeat" if sms is None else "accepted" if sms.state.open else "rejected"
        self._metrics.requests_total.labels(self._route_label(request.route), outcome).inc()
        if sms is None:
            log.info("request.repeated", request_id=str(request.key), route=request.route, attempt=request.attempt)
        elif not sms.state.open:
            log.info("sms.rejected", request_id=str(sms.key), route=sms.route, reason=sms.reason)

    async def _post(
        self, gateway: str, begun: Sequence[tuple[Sms, Assignment]], started: float
    ) -> Mapping[int, codes.Verdict]:
        """The POST, and the verdict of each task id; every way to lose the answer has one."""
        tasks = [self._task_of(sms, a.waiting.request.body) for sms, a in begun]
        tids = [task.tid for task in tasks]
        timing = self._settings.timing

        def in_time() -> bool:
            return not self._stopping and self._clock.mono() - started <= timing.submit_within_s

        try:
            answer = await self._submit[gateway](tasks, in_time)
        except GatewayNotReached as error:
            outcome, verdicts = "not_reached", _all(tids, codes.HandBack("later", "gateway", None, str(error)))
        except GatewaySilent as error:
            outcome, verdicts = "silent", _all(tids, codes.InDoubt(str(error)))
        except GatewayGarbled as error:
            outcome, verdicts = "garbled", _all(tids, codes.InDoubt(str(error)))
        else:
            outcome, verdicts = "answered", codes.of_answer(answer, tids)
        if outcome in {"silent", "garbled"}:
            # Or all that waits would follow into doubt, and blur what the SIMs' counters tell of these.
            self._fleet.pause_gateway(gateway, self._clock.mono(), least_s=self._settings.evidence_of(gateway))
        self._metrics.posts_total.labels(gateway, outcome).inc()
        self._metrics.tasks_per_post.observe(len(tasks))
        if outcome != "answered":
            log.warning("gateway.post_failed", gateway=gateway, outcome=outcome, tasks=len(tasks))
        return verdicts

    async def resubmit(self, gateway: str, rows: Sequence[Sms]) -> Mapping[int, codes.Verdict]:
        """Hand the same tasks over once more, under the same ids, and no verdict but the device's is drawn from it.

        Only for gateways that are known to refuse finished ids (``resubmit_within_s``). Raises as ``Gateway.submit``.
        """
        asked = [(sms, read_send_request(sms.asked["body"].encode())) for sms in rows]
        answer = await self._submit[gateway]([self._task_of(sms, body) for sms, body in asked], lambda: True)
        return codes.of_answer(answer, [sms.tid or 0 for sms in rows])

    def _task_of(self, sms: Sms, body: SendRequest) -> SmsTask:
        entry = self._settings.gateway(sms.gateway or "")
        assert sms.tid is not None
        assert sms.port is not None
        return SmsTask(
            tid=sms.tid,
            port=None if body.ports == BY_DEVICE else Port(sms.port, sms.slot or 0),
            to=sms.recipient,
            text=body.text,
            coding=1 if sms.encoding == "ucs2" else 2,
            flash=body.flash,
            smsc=body.smsc,
            timeout_s=body.timeout_s or self._settings.policy_of(sms.route).timeout_s,
            delivery_report=body.delivery_report,
            report_count=entry.task_report_count,
            report_period_s=entry.task_report_period_s,
        )

    async def _conclude(
        self, gateway: str, begun: Sequence[tuple[Sms, Assignment]], verdicts: Mapping[int, codes.Verdict]
    ) -> None:
        """Write the verdicts and what they make to be published in one transaction (step 6)."""
        now = self._clock.wall()
        ahead = {a.port: max(0, self._fleet.port(gateway, a.port).queued - 1) for _, a in begun}
        failed_sims = (one for one in begun if _blames_sim(verdicts[one[0].tid or 0]))
        elsewhere = {sms.key for sms, a in failed_sims if self._has_elsewhere(a.waiting.request, sms)}

        def conclude(tx: Transaction) -> list[tuple[Sms, outcomes.Outcome]]:
            pairs: list[tuple[Sms, outcomes.Outcome]] = []
            for sms, assignment in begun:
                row = tx.sms(sms.app_id, sms.id)
                if row is None or row.attempt != sms.attempt or sms.tid is None:
                    continue
                terms = self.terms_of(sms.route)
                if own_timeout_s := assignment.waiting.request.body.timeout_s:
                    terms = replace(terms, timeout_s=own_timeout_s)
                outcome = outcomes.answered(
                    row,
                    verdicts[sms.tid],
                    now,
                    terms,
                    ahead=ahead[assignment.port],
                    elsewhere=sms.key in elsewhere,
                )
                if outcome is not None:
                    pairs.append((row, outcome))
            tx.settle([outcome for _, outcome in pairs], now)
            return pairs

        pairs = await self._insist(conclude)
        self._changes.note(pairs, now)
        self._wake_relay()

    async def _insist(
        self, work: Callable[[Transaction], list[tuple[Sms, outcomes.Outcome]]]
    ) -> list[tuple[Sms, outcomes.Outcome]]:
        """Write a verdict even where the ledger fails for a while: it cannot be asked for again."""
        while True:
            try:
                return await self._ledger.write(work)
            except LedgerUnavailable as error:
                log.error("ledger.cannot_conclude", error=str(error))
                if self._stopping:
                    return []
                await asyncio.sleep(GIVE_BACK_PAUSE_S)

    def _learn(
        self, gateway: str, begun: Sequence[tuple[Sms, Assignment]], verdicts: Mapping[int, codes.Verdict]
    ) -> None:
        """What the verdicts say about the gateway, its ports and the budgets (design 2.1, How often)."""
        mono = self._clock.mono()
        refusals = [v for v in verdicts.values() if isinstance(v, codes.HandBack) and v.scope != "sim"]
        for sms, assignment in begun:
            verdict = verdicts[sms.tid or 0]
            if not isinstance(verdict, codes.HandBack):
                continue
            if verdict.scope == "sim":
                self._fleet.pause_port(gateway, assignment.port, mono)
            else:
                self._planner.refund_budget(assignment, mono)
        if refusals:
            worst = next((v for v in refusals if v.stop), refusals[0])
            self._fleet.pause_gateway(gateway, mono, stop=worst.stop)
            log.warning(
                "gateway.refused",
                gateway=gateway,
                code=worst.code,
                text=worst.text,
                tasks=len(refusals),
                stop=worst.stop,
            )
        elif any(isinstance(v, codes.Submitted | codes.Sent) for v in verdicts.values()):
            self._fleet.note_success(gateway)

    def has_elsewhere(self, sms: Sms) -> bool:
        """Whether another SIM is left for an SMS that its SIM failed; also asked for by late reports."""
        asked = sms.asked
        try:
            body = read_send_request(asked.get("body", "").encode())
        except RequestInvalid:
            return False
        route, gateway = intake.place_of(asked["rk"])
        request = Request(
            key=sms.key,
            body=body,
            raw=asked["body"],
            to=sms.recipient,
            routing_key=asked["rk"],
            fingerprint=sms.fingerprint,
            segments=sms.segments,
            encoding="ucs2" if sms.encoding == "ucs2" else "gsm7",
            expires_at=sms.expires_at or 0.0,
            route=route,
            gateway=gateway,
            tried=sms.tried,
        )
        return self._has_elsewhere(request, sms)

    def _has_elsewhere(self, request: Request, sms: Sms) -> bool:
        """The port that failed it is none, whatever card it seems to have by now: one that is pulled has no name."""
        tried = (*request.tried, sms.sim) if sms.sim else request.tried
        try:
            left = self._routing.candidates(replace(request, tried=tried))
        except RequestInvalid:
            return False
        return any((port.gateway, port.number) != (sms.gateway, sms.port) for port in left)

    # --- lanes: a route without capacity holds nothing ---------------------------------------------------------------

    async def watch_lanes(self) -> None:
        """Consume each queue while its ports can send within ``hold_s``; else hold nothing, and look every minute."""
        self._consumers.consume("returned", 100, self.returned)
        while True:
            for lane in self._lanes:
                await self._tend(lane)
            self._gauge()
            await asyncio.sleep(TICK_S)

    async def _tend(self, lane: Lane) -> None:
        if self._stopping:
            return
        mono = self._clock.mono()
        moment = self._planner.next_moment(lane.queue, mono)
        capable = moment is not None and moment <= mono + self._settings.policy_of(lane.route).hold_s
        looking = lane.look_ends_at is not None
        if capable and (looking or not lane.consuming):
            self._consume(lane)
            lane.look_ends_at = None
            self._mark(lane, paused=False)
        elif not capable and lane.consuming and mono >= (lane.look_ends_at or mono):
            await self._pause(lane)
            lane.look_at, lane.look_ends_at = mono + LOOK_EVERY_S, None
            if not looking:
                self._mark(lane, paused=True)
        elif not capable and not lane.consuming and mono >= lane.look_at:
            self._consume(lane)
            lane.look_ends_at = mono + LOOK_S

    def _consume(self, lane: Lane) -> None:
        self._consumers.consume(lane.queue, lane.prefetch, self.accept)
        lane.consuming = True

    async def _pause(self, lane: Lane) -> None:
        await self._consumers.stop_consuming(lane.queue)
        lane.consuming = False
        for waiting in self._planner.drain(lane.queue):
            self._give_back(waiting)
        for delivery in self.trial.drain(lane.queue):
            delivery.give_back()

    def _mark(self, lane: Lane, *, paused: bool) -> None:
        if lane.route:
            self._metrics.route_paused.labels(lane.route).set(paused)
        log.info("lane.paused" if paused else "lane.consuming", queue=lane.queue)

    def _gauge(self) -> None:
        pinned = 0
        for lane in self._lanes:
            if lane.route:
                self._metrics.waiting.labels(lane.route).set(self._planner.waiting_of(lane.queue))
            else:
                pinned += self._planner.waiting_of(lane.queue)
        self._metrics.waiting.labels("-").set(pinned)
        for port in self._fleet.ports():
            self._metrics.port_queued.labels(port.gateway, str(port.number)).set(port.queued)

    def _route_label(self, route: str | None) -> str:
        """A label of a closed set: a mistyped route must not grow the metrics."""
        return route if route in self._terms and route is not None else "-"

    # --- stop -------------------------------------------------------------------------------------------------------

    async def stop(self, grace_s: float) -> None:
        """Take no more, give back what was not begun, finish what is in flight within the grace."""
        self._stopping = True
        for lane in self._lanes:
            await self._consumers.stop_consuming(lane.queue)
        await self._consumers.stop_consuming("returned")
        for delivery in self.trial.drain():
            delivery.give_back()
        for waiting in self._planner.drain():
            waiting.delivery.give_back()
        if self._workers:
            await asyncio.wait(self._workers, timeout=grace_s)

    def __repr__(self) -> str:
        return f"<Outbound {self._planner!r}, {sum(lane.consuming for lane in self._lanes)} queues consumed>"


_RETURNED = {
    "unroutable": "no queue takes the routing key {key!r}: there is no such route or gateway",
    "delivery_limit": "delivered too often without an end",
    "expired": "expired in its queue",
}
"""Why a request was returned, and the sentence for people."""


def _reason_of_return(delivery: Delivery) -> str:
    """Why the broker returned it: the newest ``x-death`` of a request queue, else there was no queue at all."""
    deaths = delivery.headers.get("x-death")
    newest = deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict) else {}
    if ".later." in str(newest.get("queue", "")):
        return "unroutable"
    reason = str(newest.get("reason", "unroutable"))
    return reason if reason in _RETURNED else "unroutable"


def row_of(request: Request, state: State, now: float) -> Sms:
    """The ledger's row for a request that is about to be handed over or refused."""
    return Sms(
        app_id=request.key.app_id,
        id=request.key.id,
        fingerprint=request.fingerprint,
        state=state,
        state_at=now,
        attempt=request.attempt,
        tried=request.tried,
        request=request.stored(),
        route=request.route,
        parent=request.parent,
        recipient=request.to,
        segments=request.segments,
        encoding=request.encoding,
        expires_at=request.expires_at,
    )


def _late(taken: Request | intake.Expansion, delivery: Delivery, now: float) -> Sms:
    """The row of what came too late."""
    if isinstance(taken, Request):
        return row_of(taken, State.EXPIRED, now)
    route, _ = intake.place_of(delivery.routing_key)
    return replace(_unread(delivery, taken.key, route, now), state=State.EXPIRED, expires_at=taken.expires_at)


def _unread(delivery: Delivery, key: Key, route: str | None, now: float) -> Sms:
    """The row of a request that is refused for its content; where not even that can be read, the bytes stand for it."""
    try:
        fingerprint = read_send_request(delivery.body).fingerprint(delivery.routing_key)
    except RequestInvalid:
        fingerprint = hashlib.sha256(delivery.routing_key.encode() + b"\0" + delivery.body).digest()[:16]
    asked = {
        "cid": delivery.correlation_id,
        "reply_to": delivery.reply_to,
        "tp": delivery.headers.get(H_TRACEPARENT),
        "corrects": delivery.headers.get(H_CORRECTS),
    }
    request = to_json({name: value for name, value in asked.items() if isinstance(value, str)})
    attempt = intake.attempt_of(delivery.headers)
    return Sms(key.app_id, key.id, fingerprint, State.REJECTED, now, attempt, request=request, route=route)


def _read_to_refuse(delivery: Delivery) -> None:
    """All that a refusal reads of a body."""
    if key := intake.key_of(delivery):
        _unread(delivery, key, None, 0.0)


def _nokey(body: bytes) -> str:
    return f"nokey/{hashlib.sha256(body).hexdigest()[:32]}"


def _intake_of(settings: Settings, lane: Lane | None) -> intake.IntakeRules:
    policy = settings.policy_of(lane.route if lane else None)
    ports = settings.gateway(lane.gateway).port_numbers if lane and lane.gateway else ()
    only_to = None if policy.only_to is None else tuple(policy.only_to)
    return intake.IntakeRules(
        policy.max_age_s, policy.max_segments, policy.allow_short_codes, frozenset(ports), only_to
    )


def _blames_sim(verdict: codes.Verdict) -> bool:
    return isinstance(verdict, codes.HandBack) and verdict.scope == "sim"


def _all(tids: Sequence[int], verdict: codes.Verdict) -> dict[int, codes.Verdict]:
    return dict.fromkeys(tids, verdict)
