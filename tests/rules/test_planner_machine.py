"""The planner against anything that may happen, in any order: what it may never do and never leave undone."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from bridge.models import Delivery
from bridge.rules.health import Fleet, GatewayPlan
from bridge.rules.limiter import Pace
from bridge.rules.lines import Assignment, Waiting
from bridge.rules.planner import Planner
from bridge.rules.routing import Route, Routing
from tests.rules.room import delivery_of, request_of, row

PACES = st.builds(Pace, st.sampled_from([None, 0.1, 0.5, 2.0]), st.integers(1, 3), st.sampled_from([0.0, 0.0, 4.0]))
PLANS = st.builds(
    GatewayPlan,
    st.dictionaries(st.integers(1, 3), PACES, min_size=1, max_size=3),
    max_queued=st.integers(1, 3),
    batch=st.integers(1, 4),
    post_interval_s=st.sampled_from([0.0, 0.5, 3.0]),
)
CARDS = ("c1", "c2", "c3", "c4")
LANES = ("send.all", "send.some", "gateway.g1")


@dataclass(eq=False)
class HandOver:
    """One assignment, as the device may have seen it: somewhere between ``begun`` and ``ended``."""

    assignment: Assignment
    begun: float
    ended: float = math.inf
    refunded: bool = False


class Room(RuleBasedStateMachine):
    """Everything the loops may do, with a plan after each step."""

    max_segments = 1

    @initialize(first=PLANS, second=PLANS, some=st.integers(1, 3), failures=st.booleans())
    def furnish(self, first, second, some, failures):
        self.now = 1_000.0
        self.failures = failures
        self.plans = {"g1": first, "g2": second}
        self.fleet = Fleet(self.plans, self.now)
        places = [(port.gateway, port.number) for port in self.fleet.ports()]
        routes = [Route("all", tuple(places)), Route("some", tuple(places[:some]))]
        self.routing = Routing(self.fleet, routes)
        self.planner = Planner(self.fleet, self.routing)
        self.here: dict[Waiting, Delivery] = {}
        self.names = 0
        self.open: dict[str, list[HandOver]] = {}
        self.unreported: list[HandOver] = []
        self.handed_over: dict[str, list[HandOver]] = defaultdict(list)
        self.started: dict[str, float] = {}
        self.served: dict[object, int] = {}
        self.wake_at = math.inf
        self.vain = 0

    # --- what may happen ---------------------------------------------------------------------------------------------

    @rule(
        lane=st.sampled_from(LANES),
        segments=st.integers(1, 6),
        tried=st.lists(st.sampled_from(CARDS), max_size=2, unique=True),
        sim=st.none() | st.none() | st.sampled_from(CARDS),
        port=st.none() | st.none() | st.sampled_from(["1", "1-3", "2.01"]),
        validity=st.sampled_from([5.0, 30.0, 500.0]),
    )
    def offer(self, lane, segments, tried, sim, port, validity):
        numbers = self.plans["g1"].ports
        if lane != "gateway.g1" or (port == "1" and 1 not in numbers) or (port == "2.01" and 2 not in numbers):
            port = None
        if port == "1-3" and len(numbers) < 3:
            port = None
        self.names += 1
        request = request_of(
            self.names,
            lane,
            segments=min(segments, self.max_segments),
            tried=tuple(tried) * self.failures,
            sim=sim,
            ports=port,
        )
        delivery = delivery_of(self.names)
        answer = self.planner.offer(request, delivery, now=self.now, expires_at=self.now + validity, hold_s=60.0)
        assert answer is None
        waiting = self.planner._index[(request.key, request.attempt, request.fingerprint)]
        self.here[waiting] = delivery
        self.step()

    @precondition(lambda self: self.here)
    @rule(data=st.data())
    def offer_again(self, data):
        waiting = data.draw(st.sampled_from(list(self.here)))
        newer = delivery_of("newer")
        older = self.planner.offer(waiting.request, newer, now=self.now, expires_at=self.now + 1, hold_s=1.0)
        assert older is self.here[waiting]
        self.here[waiting] = newer
        self.step()

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.5, 1.0, 5.0, 10.0, 40.0]))
    def wait(self, seconds):
        self.vain = 0
        until = self.now + seconds
        while self.wake_at <= until:
            self.now = max(self.now, self.wake_at)
            self.step()
        if until > self.now:
            self.now = until
            self.step(quiet=True)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), taken=st.booleans())
    def end_post(self, data, taken):
        gateway = data.draw(st.sampled_from(sorted(self.open)))
        for hand_over in self.open.pop(gateway):
            hand_over.ended = self.now
            if not taken and hand_over in self.unreported:
                hand_over.refunded = True
                self.planner.refund(hand_over.assignment, self.now)
                self.unreported.remove(hand_over)
        self.planner.posted(gateway, self.now)
        self.step()

    @precondition(lambda self: self.unreported)
    @rule(data=st.data())
    def report(self, data):
        hand_over = data.draw(st.sampled_from(self.unreported))
        self.unreported.remove(hand_over)
        self.planner.reported(hand_over.assignment.gateway, hand_over.assignment.port)
        self.step()

    @rule(data=st.data(), st_=st.sampled_from([3, 3, 3, 3, 0, 2, None]), slot=st.sampled_from(["", ".01", ".02"]))
    def status(self, data, st_, slot):
        port = data.draw(st.sampled_from(sorted(self.fleet.ports(), key=lambda p: (p.gateway, p.number))))
        card = data.draw(st.sampled_from(["", *CARDS]))
        if any(other.sim == card for other in self.fleet.ports() if other is not port):
            card = ""  # a card lies in one port only
        told = row(f"{port.number}{slot}", st_, iccid="" if st_ == 0 else card)
        self.fleet.note_status(port.gateway, told, self.now)
        self.step()

    @rule(data=st.data(), whole=st.booleans())
    def trouble(self, data, whole):
        port = data.draw(st.sampled_from(sorted(self.fleet.ports(), key=lambda p: (p.gateway, p.number))))
        if whole:
            self.fleet.pause_gateway(port.gateway, self.now)
        else:
            self.fleet.pause_port(port.gateway, port.number, self.now)
        self.step()

    @rule(gateway=st.sampled_from(["g1", "g2"]))
    def success(self, gateway):
        self.fleet.note_success(gateway, min(self.plans[gateway].ports))
        self.step()

    @rule(lane=st.sampled_from([*LANES, None]))
    def drain(self, lane):
        drained = self.planner.drain(lane)
        assert [w.number for w in drained] == sorted(w.number for w in self.here if lane in (None, w.wish.lane))
        for waiting in drained:
            del self.here[waiting]
        self.step()

    # --- what must hold ----------------------------------------------------------------------------------------------

    def step(self, *, quiet: bool = False):
        """Plan, and look at what comes out. ``quiet``: nothing happened, and ``wake_at`` has not come."""
        woken = self.now == self.wake_at
        plan = self.planner.plan(self.now)
        left = [a.waiting for batch in plan.batches for a in batch.assignments] + [*plan.expired, *plan.overdue]
        assert not (quiet and left), "something could have happened before wake_at"
        assert len(left) == len(set(left))
        assert all(w.expires_at <= self.now for w in plan.expired)
        assert all(w.expires_at > self.now for w in left if w not in plan.expired)
        assert all(w.give_back_at <= self.now for w in plan.overdue)
        if woken and not left:
            self.check_that_it_does_not_wake_in_vain()
        if left:
            self.vain = 0
        for batch in plan.batches:
            self.check_batch(batch)
        for waiting in left:
            assert waiting.delivery is self.here.pop(waiting)
        assert all(w.ends_at > self.now for w in self.here)
        self.wake_at = math.inf if plan.wake_at is None else plan.wake_at
        assert self.wake_at > self.now
        assert repr(self.planner).startswith(f"<Planner {len(self.here)} waiting, ")
        assert {lane: self.planner.waiting_of(lane) for lane in LANES} == {
            lane: sum(w.wish.lane == lane for w in self.here) for lane in LANES
        }
        self.check_that_nobody_is_left_out(plan)
        self.check_windows()

    def check_that_it_does_not_wake_in_vain(self):
        """But once per line, where another batch has made its gateway busy meanwhile.

        Left aside: SIMs that failed some of the line, and cards that were moved while their POST was open.
        """
        open_ones = [hand_over.assignment for post in self.open.values() for hand_over in post]
        moved = any(self.fleet.port(a.gateway, a.port).sim != a.sim for a in open_ones)
        if self.failures or moved or self.max_segments > 1:
            return
        self.vain += 1
        assert self.open
        assert self.vain <= len({w.wish for w in self.here})

    def check_batch(self, batch):
        plan = self.plans[batch.gateway]
        assert batch.gateway not in self.open
        assert 1 <= len(batch.assignments) <= plan.batch
        assert self.now >= self.started.get(batch.gateway, -math.inf) + plan.post_interval_s - 1e-6
        self.started[batch.gateway] = self.now
        self.open[batch.gateway] = []
        assert self.planner.in_flight_of(batch.gateway) == len(batch.assignments)
        for a in batch.assignments:
            port = self.fleet.port(a.gateway, a.port)
            assert (a.gateway, a.slot, a.sim) == (batch.gateway, port.slot, port.sim)
            assert self.fleet.usable(port, self.now)
            assert port in self.routing.candidates(a.waiting.request)
            hand_over = HandOver(a, self.now)
            self.open[batch.gateway].append(hand_over)
            self.unreported.append(hand_over)
            self.handed_over[a.sim].append(hand_over)
            group = a.waiting.wish, frozenset(a.waiting.request.tried)
            if self.max_segments == 1:
                assert self.served.get(group, 0) < a.waiting.number, "not in the order in which they came"
                self.served[group] = a.waiting.number
        for number, port in self.fleet.gateways[batch.gateway].ports.items():
            there = [h for h in self.unreported if (h.assignment.gateway, h.assignment.port) == (batch.gateway, number)]
            assert port.queued == len(there) <= plan.max_queued

    def has_place(self, gateway, plan):
        """Whether another task could have been put into a batch for this gateway."""
        for batch in plan.batches:
            if batch.gateway == gateway:
                return len(batch.assignments) < self.plans[gateway].batch
        free_at = self.started.get(gateway, -math.inf) + self.plans[gateway].post_interval_s
        return gateway not in self.open and free_at <= self.now

    def check_that_nobody_is_left_out(self, plan):
        """Whoever waits has no port that could take it now."""
        for waiting in self.here:
            for port in self.routing.candidates(waiting.request):
                ready = self.fleet.can_send(port, self.now) and port.bucket.wait(1, self.now) == 0
                assert not (ready and self.has_place(port.gateway, plan))

    def check_windows(self):
        """Promise 3, at the device: wherever in its POST each was handed over."""
        for sim, all_of_it in self.handed_over.items():
            if any(other != all_of_it[0].assignment.port for other in (h.assignment.port for h in all_of_it)):
                continue  # a card that has moved to another pace is promised both, not either
            a = all_of_it[0].assignment
            rate, burst, gap_s = self.plans[a.gateway].ports[a.port]
            if len({h.assignment.gateway for h in all_of_it}) > 1:
                continue
            for earlier, later in pairwise(all_of_it):
                assert not gap_s or later.begun >= earlier.ended + gap_s - 1e-3, sim
            if rate is None:
                continue
            kept = [h for h in all_of_it if not h.refunded]
            for first, start in enumerate(kept):
                total = largest = 0
                for end in kept[first:]:
                    cost = end.assignment.waiting.cost
                    total, largest = total + cost, max(largest, cost)
                    window = max(0.0, end.begun - start.ended)
                    assert total <= max(burst, largest) + rate * window + 1e-3, sim


class RoomOfLongMessages(Room):
    """The same with messages of up to six segments, and so with bookings."""

    max_segments = 6

    def check_that_nobody_is_left_out(self, plan):
        """Whoever has booked leaves as soon as its port can take it and its gateway has a place."""
        for port, booking in self.planner._bookings.items():
            assert booking.waiting in self.here
            assert booking.waiting.place is port
            cost = booking.waiting.cost
            assert cost > 1
            ready = self.fleet.can_send(port, self.now) and port.bucket.wait(cost, self.now) == 0
            assert not (ready and self.has_place(port.gateway, plan))


TestRoom = Room.TestCase
TestRoom.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestRoomOfLongMessages = RoomOfLongMessages.TestCase
TestRoomOfLongMessages.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
