"""The planner's stories: what leaves now, through which port, and when to look again."""

from __future__ import annotations

import heapq

import pytest

from bridge.errors import RequestInvalid
from bridge.rules.health import Fleet, GatewayPlan
from bridge.rules.limiter import Pace
from bridge.rules.planner import Planner
from bridge.rules.routing import Route, Routing
from tests.rules.room import SLOW, UNLIMITED, bring_up, delivery_of, fleet_of, request_of, row


class Room:
    """A planner over a fleet, in which route ``main`` has all ports unless said otherwise."""

    def __init__(self, fleet, *, capacity=None, **routes):
        every = tuple((port.gateway, port.number) for port in fleet.ports())
        self.fleet = fleet
        self.routing = Routing(fleet, [Route(name, ports) for name, ports in {"main": every, **routes}.items()])
        self.planner = Planner(fleet, self.routing, capacity=capacity)

    def offer(self, *names, now=0.0, expires_at=9_999.0, hold_s=60.0, **asked):
        for name in names:
            request = request_of(name, **asked)
            answer = self.planner.offer(request, delivery_of(name), now=now, expires_at=expires_at, hold_s=hold_s)
        return answer

    def plan(self, now=0.0):
        return self.planner.plan(now)

    def sent(self, now=0.0):
        """What leaves now, as ``name gateway/port``."""
        return [
            f"{a.waiting.request.key.id} {a.gateway}/{a.port}" for b in self.plan(now).batches for a in b.assignments
        ]

    def done(self, now, *gateways):
        """The POSTs end, and the devices report all that they have."""
        for name in gateways or self.fleet.gateways:
            self.planner.posted(name, now)
        for port in self.fleet.ports():
            for _ in range(port.queued):
                self.planner.reported(port.gateway, port.number)


def names(waiting):
    return [w.request.key.id for w in waiting]


# --- leaving ------------------------------------------------------------------------------------------------------


def test_nothing_waits_and_nothing_is_to_be_waited_for():
    room = Room(fleet_of(gw1=1))
    plan = room.plan()
    assert (plan.batches, plan.expired, plan.overdue, plan.wake_at) == ((), (), (), None)


def test_a_lone_one_leaves_at_once_with_its_card():
    room = Room(fleet_of(gw1=1))
    room.offer("a")
    assert repr(room.planner) == "<Planner 1 waiting, 0 in flight>"
    plan = room.plan()
    (batch,) = plan.batches
    (assignment,) = batch.assignments
    assert (batch.gateway, assignment.gateway, assignment.port) == ("gw1", "gw1", 1)
    assert (assignment.slot, assignment.sim) == (1, "gw1-1")
    assert assignment.waiting.delivery.body == b"a"
    assert plan.wake_at is None
    assert repr(room.planner) == "<Planner 0 waiting, 1 in flight>"
    assert (room.planner.in_flight_of("gw1"), room.planner.waiting_of("send.main")) == (1, 0)


def test_while_a_post_is_open_the_next_batch_gathers():
    room = Room(fleet_of(gw1=3))
    room.offer("a")
    assert room.sent() == ["a gw1/1"]
    room.offer("b", "c")
    assert room.sent(1.0) == []
    room.planner.posted("gw1", 2.0)
    assert room.sent(2.0) == ["b gw1/2", "c gw1/3"]


def test_a_batch_holds_so_many_and_a_post_follows_the_start_of_the_last_one():
    plan = GatewayPlan({1: UNLIMITED}, max_queued=9, batch=2, post_interval_s=0.5)
    room = Room(bring_up(Fleet({"gw1": plan}, 0.0), 0.0))
    room.offer(*"abcd")
    assert room.sent(10.0) == ["a gw1/1", "b gw1/1"]
    room.planner.posted("gw1", 10.2)
    planned = room.plan(10.2)
    assert (planned.batches, planned.wake_at) == ((), 10.5)
    assert room.sent(10.5) == ["c gw1/1", "d gw1/1"]


def test_a_port_holds_so_many_unreported_ones():
    room = Room(fleet_of(gw1=1))
    room.offer(*"abc")
    assert room.sent() == ["a gw1/1", "b gw1/1"]
    room.planner.posted("gw1", 1.0)
    assert room.sent(1.0) == []
    room.planner.reported("gw1", 1)
    assert room.sent(2.0) == ["c gw1/1"]


def test_what_the_device_still_has_from_before_the_start_counts():
    room = Room(fleet_of(gw1=1))
    room.planner.restore_queued("gw1", 1, 2)
    room.offer("a")
    assert room.sent() == []
    room.planner.reported("gw1", 1)
    assert room.sent() == ["a gw1/1"]
    for _ in range(3):
        room.planner.reported("gw1", 1)
    assert room.fleet.port("gw1", 1).queued == 0


def test_tasks_of_ports_that_are_not_configured_any_more_mean_nothing():
    room = Room(fleet_of(gw1=1))
    room.planner.restore_queued("gw1", 7, 2)
    room.planner.reported("gw7", 1)
    assert room.plan().wake_at is None


def test_the_least_spent_of_the_free_ports_sends():
    room = Room(fleet_of(gw1=2, gw2=2))
    room.offer("long", segments=3)
    assert room.sent() == ["long gw1/1"]
    room.done(1.0)
    room.offer(*"abcdef", now=1.0)
    ports = [port for _, port in (one.split() for one in room.sent(1.0))]
    assert sorted(ports) == ["gw1/2", "gw1/2", "gw2/1", "gw2/1", "gw2/2", "gw2/2"]


def test_where_none_is_free_the_earliest_one_names_the_moment():
    plan = GatewayPlan({1: Pace(0.1, 2), 2: Pace(0.5, 2)})
    room = Room(bring_up(Fleet({"gw1": plan}, 0.0), 0.0))
    room.offer("a")
    planned = room.plan(0.0)
    assert (planned.batches, planned.wake_at) == ((), 2.0)
    assert room.sent(2.0) == ["a gw1/2"]


def test_a_gateway_whose_post_is_open_names_no_moment():
    room = Room(fleet_of(SLOW, gw1=2, gw2=1))
    room.fleet.note_status("gw2", row("1.01", 2), 0.0)
    room.offer("a", "b", "c")
    plan = room.plan(10.0)
    assert (len(plan.batches[0].assignments), plan.wake_at) == (2, 60.0)
    room.planner.posted("gw1", 12.0)
    assert room.plan(12.0).wake_at == 20.0


def test_paused_ports_and_gateways_are_waited_for():
    room = Room(fleet_of(gw1=2))
    room.fleet.pause_port("gw1", 1, 0.0)
    room.offer("a")
    assert room.sent() == ["a gw1/2"]
    room.done(0.5)
    room.fleet.pause_gateway("gw1", 0.5)
    room.offer("b")
    assert room.plan(1.0).wake_at == 2.5
    room.fleet.note_success("gw1")
    assert room.sent(1.0) == ["b gw1/2"]


# --- receipts -----------------------------------------------------------------------------------------------------


def test_of_two_deliveries_of_the_same_request_the_newer_receipt_stays():
    room = Room(fleet_of(gw1=1))
    first, second = delivery_of("first"), delivery_of("second")
    offer = {"now": 0.0, "expires_at": 99.0, "hold_s": 60.0}
    assert room.planner.offer(request_of("a"), first, **offer) is None
    assert room.planner.offer(request_of("a"), second, **offer) is first
    (batch,) = room.plan().batches
    assert [a.waiting.delivery for a in batch.assignments] == [second]


def test_copies_that_differ_in_attempt_or_fingerprint_wait_apart():
    room = Room(fleet_of(gw1=2))
    assert room.offer("a") is None
    assert room.offer("a", attempt=2) is None
    assert room.offer("a", fingerprint=b"other") is None
    assert len(room.sent()) == 3


def test_what_no_configured_port_can_meet_is_refused():
    room = Room(fleet_of(gw1=1))
    with pytest.raises(RequestInvalid, match="has no port 2"):
        room.offer("a", lane="gateway.gw1", ports=2)
    assert repr(room.planner) == "<Planner 0 waiting, 0 in flight>"


def test_at_most_half_of_the_room_waits_for_one_card():
    room = Room(fleet_of(SLOW, gw1=2), capacity={"gateway.gw1": 4, "send.main": 4})
    pinned = {"lane": "gateway.gw1", "ports": 1}
    assert [room.offer(name, **pinned) for name in "abc"] == [None, None, "later"]
    assert room.offer("d", lane="gateway.gw1", sim="gw1-1") == "later"  # the same card by another name
    assert room.offer("e", lane="gateway.gw1", sim="gw1-2") is None
    assert room.offer("f", lane="gateway.gw1", ports="1-2") is None
    assert room.offer("g", lane="gateway.gw1") is None
    assert room.offer("h", sim="gw1-1") is None  # another lane has another room
    assert [room.offer(name, sim="nobody") for name in "ijk"] == [None, None, "later"]
    room.planner.drain("gateway.gw1")
    assert room.offer("c", **pinned) is None


def test_a_room_of_one_has_no_half():
    room = Room(fleet_of(gw1=2), capacity={"gateway.gw1": 1})
    assert room.offer("a", lane="gateway.gw1", ports=1) == "later"
    assert repr(room.planner) == "<Planner 0 waiting, 0 in flight>"
    assert wishes(room) == set()


def wishes(room):
    """What those narrow lines wish for that the planner keeps."""
    lines = (line for port in room.fleet.ports() for line in room.planner._lines.of(port))
    return {line.wish.sim or line.wish.ports for line in lines if line.wish.narrow}


# --- not leaving --------------------------------------------------------------------------------------------------


def test_what_is_too_late_expires_and_what_was_held_long_enough_is_given_back():
    room = Room(fleet_of(gw1=1, up=False))
    room.offer("held", hold_s=60.0)
    room.offer("late", expires_at=30.0)
    room.offer("both", expires_at=60.0)
    room.offer("now", expires_at=0.0)
    plan = room.plan(0.0)
    assert (names(plan.expired), plan.wake_at) == (["now"], 30.0)
    plan = room.plan(30.0)
    assert (names(plan.expired), names(plan.overdue), plan.wake_at) == (["late"], [], 60.0)
    plan = room.plan(60.0)
    assert (names(plan.expired), names(plan.overdue), plan.wake_at) == (["both"], ["held"], None)


def test_what_is_too_late_does_not_leave_even_where_a_port_is_free():
    room = Room(fleet_of(gw1=1))
    room.offer("a", expires_at=5.0)
    plan = room.plan(5.0)
    assert (plan.batches, names(plan.expired)) == ((), ["a"])


def test_an_emptied_line_is_not_woken_for():
    room = Room(fleet_of(SLOW, gw1=1))
    room.offer("a", expires_at=5.0)
    assert room.plan(0.0).wake_at == 5.0
    assert room.plan(5.0).wake_at is None


def test_a_drained_lane_is_given_back_oldest_first():
    room = Room(fleet_of(gw1=1, up=False), other=(("gw1", 1),))
    room.offer("a", "b")
    room.offer("c", lane="send.other")
    room.offer("d", tried=("A",))
    assert room.planner.waiting_of("send.main") == 3
    assert names(room.planner.drain("send.main")) == ["a", "b", "d"]
    assert names(room.planner.drain("send.main")) == []
    room.offer("e")
    assert names(room.planner.drain()) == ["c", "e"]
    assert room.plan().wake_at is None


def test_those_who_have_left_are_not_kept_in_mind():
    room = Room(fleet_of(gw1=1))
    for round_ in range(50):
        room.offer(*range(10), now=float(round_), hold_s=9_000.0)
        room.planner.drain()
    assert len(room.planner._ends) < 100
    room.offer("a", now=50.0, hold_s=10.0)
    room.fleet.note_status("gw1", row("1.01", 2), 50.0)
    assert room.plan(50.0).wake_at == 60.0


# --- turns --------------------------------------------------------------------------------------------------------


def test_first_come_first_served():
    room = Room(fleet_of(gw1=1))
    room.offer(*"abc")
    assert room.sent() == ["a gw1/1", "b gw1/1"]


def test_routes_that_share_a_card_take_turns():
    room = Room(fleet_of(Pace(1.0, 1), gw1=1), otp=(("gw1", 1),))
    room.offer("a", "b", "c", "d")
    room.offer("x", lane="send.otp")
    order = []
    for now in range(1, 6):
        order += room.sent(float(now))
        room.done(float(now))
        if now == 3:
            room.offer("y", lane="send.otp")
    assert order == ["a gw1/1", "x gw1/1", "b gw1/1", "y gw1/1", "c gw1/1"]


def test_a_route_that_had_nothing_to_send_gets_one_turn_for_it_and_no_more():
    room = Room(fleet_of(gw1=1), otp=(("gw1", 1),))
    room.offer("x", lane="send.otp")
    room.sent()
    for now in range(1, 4):
        room.done(float(now))
        room.offer("a", "b")
        room.sent(float(now))
    room.done(9.0)
    room.offer("c", "d")
    room.offer("y", "z", lane="send.otp")
    assert room.sent(9.0) == ["y gw1/1", "c gw1/1"]


def test_ever_new_wishes_do_not_keep_the_others_from_their_turn():
    room = Room(fleet_of(Pace(1.0, 1), gw1=1))
    room.offer(*"abcdefgh")
    same_port = [(ports, sim) for ports in ("1", "1.01", "1,1.01", "1.01,1", None) for sim in ("gw1-1", None)]
    order = []
    for now, (ports, sim) in enumerate(same_port[:-1], start=1):
        room.offer(f"pinned {now}", lane="gateway.gw1", ports=ports, sim=sim)
        order += room.sent(float(now))
        room.done(float(now))
    assert len(order) == 9
    assert len([one for one in order if "pinned" not in one]) >= 3


# --- SIMs that failed it ------------------------------------------------------------------------------------------


def test_a_sim_that_failed_it_is_passed_over_and_serves_the_others():
    room = Room(fleet_of(gw1=2))
    room.offer("a", tried=("gw1-1",))
    room.offer("b")
    assert room.sent() == ["a gw1/2", "b gw1/1"]


def test_one_whom_all_sims_have_failed_holds_nobody_up():
    room = Room(fleet_of(SLOW, gw1=2))
    room.offer("a", tried=("gw1-1", "gw1-2"))
    room.offer("b")
    room.offer("c", tried=("gw1-1",))
    plan = room.plan(0.0)
    assert (plan.batches, plan.wake_at) == ((), 10.0)
    assert room.sent(10.0) == ["b gw1/1", "c gw1/2"]
    room.done(10.0)
    assert room.plan(10.0).wake_at == 60.0


def test_the_moment_of_a_sim_that_failed_it_is_not_waited_for():
    plan = GatewayPlan({1: Pace(1.0, 2), 2: SLOW})
    room = Room(bring_up(Fleet({"gw1": plan}, 0.0), 0.0))
    room.offer("a", tried=("gw1-1",))
    assert room.plan(3.0).wake_at == 10.0


# --- messages too large for every bucket --------------------------------------------------------------------------


def test_a_large_one_books_the_port_that_is_ready_for_it_first_and_the_line_moves_on():
    plan = GatewayPlan({1: Pace(0.1, 2), 2: Pace(0.2, 2), 3: Pace(0.1, 2)})
    room = Room(bring_up(Fleet({"gw1": plan}, 0.0), 0.0), other=(("gw1", 2),))
    room.offer("large", segments=5)
    room.offer("small", "tiny")
    room.offer("else", lane="send.other")
    assert room.plan(0.0).wake_at == 10.0
    assert room.sent(10.0) == ["large gw1/2", "small gw1/1", "tiny gw1/3"]
    room.done(10.0)
    assert room.plan(10.0).wake_at == 30.0  # -3 at 10, 1 at 30
    assert room.sent(30.0) == ["else gw1/2"]


def test_a_large_one_that_finds_a_full_bucket_needs_no_booking():
    room = Room(fleet_of(SLOW, gw1=2))
    room.offer("large", segments=5)
    assert room.sent(20.0) == ["large gw1/1"]


def test_two_large_ones_book_two_ports_and_the_third_waits_its_turn():
    room = Room(fleet_of(SLOW, gw1=2))
    room.offer("a", "b", "c", segments=3)
    assert room.plan(0.0).wake_at == 20.0
    assert room.planner.waiting_of("send.main") == 3
    assert room.sent(20.0) == ["a gw1/1", "b gw1/2"]
    room.done(20.0)
    assert room.plan(20.0).wake_at == 50.0
    assert room.sent(50.0) == ["c gw1/1"]


@pytest.mark.parametrize(
    "trouble",
    [
        lambda fleet: fleet.note_status("gw1", row("1.01", 6), 1.0),
        lambda fleet: fleet.note_status("gw1", row("1.01", iccid="another"), 1.0),
        lambda fleet: fleet.pause_port("gw1", 1, 1.0),
        lambda fleet: fleet.pause_gateway("gw1", 1.0),
    ],
    ids=["registration lost", "card changed", "port paused", "gateway paused"],
)
def test_when_the_booked_port_falls_away_it_returns_to_the_front_and_books_another(trouble):
    plan = GatewayPlan({1: Pace(0.2, 2)})
    fleet = bring_up(Fleet({"gw1": plan, "gw2": GatewayPlan({1: SLOW})}, 0.0), 0.0)
    room = Room(fleet)
    room.offer("large", segments=5)
    room.plan(0.0)
    room.offer("small")
    trouble(fleet)
    room.plan(1.0)
    fleet.note_status("gw1", row("1.01", 6), 1.0)
    room.plan(1.0)
    assert room.sent(20.0) == ["large gw2/1"]


def test_a_large_one_that_waits_for_the_end_of_a_pause_lets_the_small_ones_by():
    plan = GatewayPlan({1: Pace(0.1, 2), 2: Pace(0.05, 2)})
    room = Room(bring_up(Fleet({"gw1": plan}, 0.0), 0.0))
    room.fleet.pause_port("gw1", 1, 20.0)
    room.offer("large", segments=5, now=20.0)
    room.offer("small", now=20.0)
    assert room.sent(20.0) == ["small gw1/2"]
    room.done(20.5)
    assert room.sent(22.0) == ["large gw1/1"]


def test_a_large_one_is_not_held_for_a_gateway_that_is_left_alone_for_long():
    room = Room(fleet_of(SLOW, gw1=1))
    room.fleet.pause_gateway("gw1", 0.0, stop=True)
    room.fleet.pause_gateway("gw1", 60.0, stop=True)
    room.offer("large", segments=5, now=60.0, hold_s=60.0)
    room.plan(60.0)
    assert names(room.plan(120.0).overdue) == ["large"]


def test_a_booking_does_not_outlive_the_card_that_it_was_made_for():
    room = Room(fleet_of(SLOW, gw1=1))
    room.offer("large", segments=5, tried=("failed it",))
    room.plan(0.0)
    room.fleet.note_status("gw1", row("1.01", iccid="failed it"), 1.0)
    assert room.sent(30.0) == []
    room.fleet.note_status("gw1", row("1.01", iccid="gw1-1"), 31.0)
    assert room.sent(31.0) == ["large gw1/1"]


def test_one_that_has_booked_waits_for_the_post_of_its_gateway_too():
    room = Room(fleet_of(SLOW, gw1=2))
    room.offer("large", segments=5)
    room.offer("small")
    assert room.plan(0.0).wake_at == 10.0
    assert room.sent(10.0) == ["small gw1/2"]
    assert room.plan(20.0).wake_at == 80.0
    room.planner.posted("gw1", 30.0)
    assert room.sent(30.0) == ["large gw1/1"]


def test_a_booked_port_that_is_full_is_kept_until_its_device_reports():
    room = Room(fleet_of(SLOW, gw1=1))
    room.offer("large", segments=5)
    room.plan(0.0)
    room.planner.restore_queued("gw1", 1, 2)
    assert room.sent(20.0) == []
    room.planner.reported("gw1", 1)
    assert room.sent(21.0) == ["large gw1/1"]


def test_one_that_has_booked_may_wait_for_its_port_beyond_the_usual_time():
    room = Room(fleet_of(Pace(0.1, 10), gw1=1))
    room.offer("large", segments=10, hold_s=60.0)
    room.plan(0.0)
    assert room.plan(60.0).overdue == ()
    assert room.sent(100.0) == ["large gw1/1"]


def test_but_not_for_ever():
    room = Room(fleet_of(SLOW, gw1=1))
    room.offer("large", segments=5, hold_s=60.0)
    assert room.plan(0.0).wake_at == 20.0
    room.planner.restore_queued("gw1", 1, 2)
    assert room.plan(20.0).wake_at == 80.0
    assert names(room.plan(80.0).overdue) == ["large"]
    room.planner.restore_queued("gw1", 1, 0)
    room.offer("small", now=80.0)
    assert room.sent(80.0) == ["small gw1/1"]


def test_one_that_has_booked_expires_and_drains_like_any_other_and_frees_its_port():
    room = Room(fleet_of(SLOW, gw1=2))
    room.offer("a", segments=5, expires_at=15.0)
    room.offer("b", segments=5)
    room.offer("c")
    assert room.plan(0.0).wake_at == 15.0
    plan = room.plan(15.0)
    assert names(plan.expired) == ["a"]
    assert [names(a.waiting for a in batch.assignments) for batch in plan.batches] == [["c"]]
    assert names(room.planner.drain()) == ["b"]
    room.offer("d")
    room.done(15.0)
    assert room.sent(15.0) == ["d gw1/2"]


def test_a_large_one_is_not_starved_by_small_ones_of_another_route():
    room = Room(fleet_of(SLOW, gw1=1), otp=(("gw1", 1),))
    room.offer("large", segments=2, hold_s=600.0)
    room.offer(*range(20), lane="send.otp", hold_s=600.0)
    order, now = [], 0.0
    while "large gw1/1" not in order:
        now += 10.0
        order += room.sent(now)
        room.done(now)
    assert now <= 30.0


# --- budgets ------------------------------------------------------------------------------------------------------


def test_nothing_is_credited_until_the_post_has_ended():
    room = Room(fleet_of(Pace(0.1, 1), gw1=1))
    room.offer("a", "b")
    assert room.sent(10.0) == ["a gw1/1"]
    room.planner.posted("gw1", 25.0)
    assert room.plan(25.0).wake_at == 35.0
    assert room.sent(35.0) == ["b gw1/1"]


def test_a_refund_gives_budget_and_place_back():
    room = Room(fleet_of(Pace(0.1, 1), gw1=1))
    room.offer("a", "b")
    ((batch,), now) = room.plan(10.0).batches, 11.0
    room.planner.refund(batch.assignments[0], now)
    assert room.planner.in_flight_of("gw1") == 0
    room.planner.posted("gw1", now)
    assert room.fleet.port("gw1", 1).queued == 0
    assert room.sent(now) == ["b gw1/1"]


def test_a_refund_after_the_post_gives_only_the_place_back():
    room = Room(fleet_of(Pace(0.1, 1), gw1=1))
    room.offer("a", "b")
    (batch,) = room.plan(10.0).batches
    room.planner.posted("gw1", 11.0)
    room.planner.refund(batch.assignments[0], 11.0)
    assert room.fleet.port("gw1", 1).queued == 0
    assert room.plan(11.0).wake_at == 21.0


def test_a_budget_can_be_given_back_while_the_place_is_told_by_somebody_else():
    room = Room(fleet_of(Pace(0.1, 1), gw1=1))
    room.offer("a", "b")
    ((batch,), now) = room.plan(10.0).batches, 11.0
    room.planner.refund_budget(batch.assignments[0], now)
    assert room.fleet.port("gw1", 1).queued == 1
    room.planner.posted("gw1", now)
    assert room.sent(now) == ["b gw1/1"]


def test_a_budget_of_a_card_that_is_known_by_its_place_only_can_be_given_back_too():
    room = Room(fleet_of(Pace(0.1, 1), gw1=1, up=False))
    room.fleet.note_status("gw1", row("1"), 0.0)
    room.offer("a", "b")
    (batch,) = room.plan(10.0).batches
    assert batch.assignments[0].sim == "gw1/1.0"
    room.planner.refund_budget(batch.assignments[0], 11.0)
    room.planner.posted("gw1", 11.0)
    assert room.sent(11.0) == ["b gw1/1"]


def test_a_plan_that_begins_nothing_still_lets_go_of_who_has_waited_too_long():
    room = Room(fleet_of(UNLIMITED, gw1=1))
    room.offer("a", expires_at=5.0)
    room.offer("b", expires_at=20.0)
    plan = room.planner.plan(6.0, begin=False)
    assert [waiting.request.key.id for waiting in plan.expired] == ["a"]
    assert (plan.batches, plan.wake_at) == ((), 20.0)
    assert room.sent(6.0) == ["b gw1/1"]
    assert room.planner.plan(7.0, begin=False).wake_at is None


def test_a_refund_reaches_the_card_where_it_lies_by_now():
    room = Room(fleet_of(Pace(0.1, 1), gw1=1, gw2=1))
    room.fleet.note_status("gw2", row("1.01", 0), 0.0)
    room.offer("a", "b")
    (batch,) = room.plan(10.0).batches
    room.fleet.note_status("gw1", row("1.01", 0), 10.0)
    room.fleet.note_status("gw2", row("1.01", iccid="gw1-1"), 10.0)
    assert room.sent(10.0) == []
    room.planner.refund(batch.assignments[0], 11.0)
    assert room.sent(11.0) == ["b gw2/1"]


def test_while_work_waits_every_card_sends_what_it_may():
    """16 cards at 20 a minute over two gateways that take 100 ms for a POST and 3 s until they report."""
    pace = Pace(1 / 3, 2)
    plan = GatewayPlan(dict.fromkeys(range(1, 9), pace), post_interval_s=0.5)
    room = Room(bring_up(Fleet({"gw1": plan, "gw2": plan}, 0.0), 0.0))
    room.offer(*range(600), expires_at=1e6, hold_s=1e6)
    coming, now, count = [], 0.0, 0
    while now < 90.0:
        planned = room.plan(now)
        for batch in planned.batches:
            heapq.heappush(coming, (now + 0.1, batch.gateway, 0))
            for assignment in batch.assignments:
                count += 1
                heapq.heappush(coming, (now + 3.0, batch.gateway, assignment.port))
        now = min([planned.wake_at, *(at for at, _, _ in coming)])
        while coming and coming[0][0] <= now:
            _, gateway, port = heapq.heappop(coming)
            room.planner.reported(gateway, port) if port else room.planner.posted(gateway, now)
    assert count >= 16 * (90 / 3 - 1)  # all that time has earned, but for the last one


# --- lines --------------------------------------------------------------------------------------------------------


def test_pinned_ones_leave_through_what_they_name():
    room = Room(fleet_of(gw1=3))
    room.offer("a", lane="gateway.gw1", ports="2-3")
    room.offer("b", lane="gateway.gw1", ports="3.01")
    room.offer("c", lane="gateway.gw1", sim="gw1-2")
    room.offer("d", lane="gateway.gw1")
    assert sorted(room.sent()) == ["a gw1/2", "b gw1/3", "c gw1/2", "d gw1/1"]
    assert wishes(room) == set()


def test_one_that_waits_for_a_card_follows_it():
    room = Room(fleet_of(gw1=2, gw2=1))
    room.fleet.note_status("gw1", row("1.01", 0), 0.0)
    room.offer("a", sim="gw1-1")
    assert room.sent() == []
    room.fleet.note_status("gw2", row("1.01", iccid="gw1-1"), 0.0)
    assert room.sent() == ["a gw2/1"]


def test_one_that_waits_for_a_slot_leaves_when_it_is_the_active_one():
    room = Room(fleet_of(gw1=1))
    room.offer("a", "b", "c", lane="gateway.gw1", ports="1.02")
    assert room.sent() == []
    room.fleet.note_status("gw1", row("1.02"), 0.0)
    assert room.sent() == ["a gw1/1", "b gw1/1"]
    room.done(1.0)
    room.fleet.note_status("gw1", row("1.01"), 1.0)
    assert room.sent(1.0) == []


def test_a_card_that_has_gone_is_not_woken_for():
    room = Room(fleet_of(SLOW, gw1=1))
    room.offer("a", sim="gw1-1")
    assert room.plan(0.0).wake_at == 10.0
    room.fleet.note_status("gw1", row("1.01", iccid="another"), 0.0)
    assert room.plan(0.0).wake_at == 60.0


# --- forecasts ----------------------------------------------------------------------------------------------------


def test_the_next_moment_of_a_lane_is_when_one_of_its_ports_could_send():
    plan = GatewayPlan({1: Pace(0.1, 2), 2: Pace(0.2, 2)})
    room = Room(bring_up(Fleet({"gw1": plan}, 0.0), 0.0), none=())
    moment = room.planner.next_moment
    assert moment("send.main", 0.0) == 5.0
    assert moment("gateway.gw1", 7.0) == 7.0
    assert moment("send.none", 0.0) is None
    assert moment("send.unknown", 0.0) is None
    room.fleet.pause_port("gw1", 2, 7.0)
    assert moment("send.main", 7.0) == 9.0
    room.fleet.pause_gateway("gw1", 7.0, stop=True)
    assert moment("send.main", 7.0) == 67.0
    for number in (1, 2):
        room.fleet.note_status("gw1", row(f"{number}.01", 2), 7.0)
    assert moment("send.main", 7.0) is None


def test_an_open_post_and_unreported_ones_do_not_count_in_a_forecast():
    room = Room(fleet_of(gw1=1))
    room.offer("a", "b", "c")
    assert len(room.sent()) == 2
    assert room.planner.next_moment("send.main", 0.0) == 0.0
