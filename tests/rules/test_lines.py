"""The planner's furniture: who waits in which order, and which port can take a message first."""

from __future__ import annotations

import math

import pytest

from bridge.ejoin.ports import Port
from bridge.rules.health import Fleet, GatewayPlan
from bridge.rules.limiter import Pace
from bridge.rules.lines import Assignment, Board, Line, Lines, Outlet, Waiting
from bridge.rules.routing import Route, Routing, Wish
from tests.rules.room import SLOW, bring_up, delivery_of, fleet_of, request_of, row

WISH = Wish("send.main")


def waiting_of(number, *, segments=1, tried=(), hold_s=60.0, expires_at=500.0):
    request = request_of(number, segments=segments, tried=tried)
    return Waiting(request, delivery_of(), WISH, number, 100.0, hold_s, expires_at)


class Furniture:
    """Outlets and a line over all ports of a fleet."""

    def __init__(self, fleet):
        self.fleet = fleet
        self.outlets = {name: Outlet(belief) for name, belief in fleet.gateways.items()}
        self.booked = {}
        self.line = Line(WISH, 0, self.outlets, self.booked)
        for port in fleet.ports():
            self.line.add(port, 0.0)

    def first(self, cost=1, now=0.0):
        port, moment = self.line.board(cost, now).first(now)
        return port and f"{port.gateway}/{port.number}", moment


def test_a_request_waits_until_it_expires_or_was_held_long_enough():
    waiting = waiting_of(1)
    assert (waiting.give_back_at, waiting.ends_at, waiting.cost) == (160.0, 160.0, 1)
    assert waiting_of(1, expires_at=120.0).ends_at == 120.0
    assert waiting.same == (waiting.request.key, 1, b"same")


# --- ports in order -----------------------------------------------------------------------------------------------


def test_the_least_spent_port_of_those_that_can_send_comes_first():
    room = Furniture(fleet_of(gw1=2, gw2=2))
    for (gateway, number), spent in {("gw1", 1): 3, ("gw1", 2): 2, ("gw2", 1): 1, ("gw2", 2): 4}.items():
        room.fleet.port(gateway, number).spent = spent
    assert room.first() == ("gw2/1", 0.0)
    room.fleet.port("gw2", 1).spent = 5
    assert room.first() == ("gw1/2", 0.0)


def test_where_no_port_can_send_the_one_that_is_free_earliest_comes_first():
    plan = GatewayPlan({1: Pace(0.1, 2), 2: Pace(0.5, 4)})
    room = Furniture(bring_up(Fleet({"gw1": plan}, 0.0), 0.0))
    assert room.first(1) == ("gw1/2", 2.0)
    assert room.first(2) == ("gw1/2", 4.0)
    assert room.first(9) == ("gw1/2", 8.0)
    room.fleet.port("gw1", 2).pause.begin(1.0)
    room.fleet.port("gw1", 2).pause.begin(3.0)
    room.fleet.port("gw1", 2).pause.begin(7.0)
    assert room.first(1, 9.0) == ("gw1/1", 10.0)
    assert room.first(9, 9.0) == ("gw1/2", 15.0)


@pytest.mark.parametrize("why", ["not registered", "full", "booked"])
def test_a_port_that_only_news_can_free_is_left_out_until_they_come(why):
    room = Furniture(fleet_of(gw1=1))
    port = room.fleet.port("gw1", 1)
    if why == "not registered":
        port.st = 2
    elif why == "full":
        port.queued = 2
    else:
        room.booked[port] = "somebody"
    assert room.first() == (None, math.inf)
    port.st, port.queued = 3, 0
    room.booked.clear()
    assert room.first() == (None, math.inf)
    room.line.add(port, 0.0)
    assert room.first() == ("gw1/1", 0.0)


def test_a_gateway_with_an_open_post_takes_all_of_its_ports_out():
    room = Furniture(fleet_of(gw1=2, gw2=1))
    room.outlets["gw1"].busy = True
    assert room.first() == ("gw2/1", 0.0)
    room.outlets["gw2"].busy = True
    assert room.first() == (None, math.inf)
    room.outlets["gw1"].busy = False
    room.outlets["gw1"].free_at = 3.0
    room.line.reopen("gw1", 1.0)
    room.line.reopen("gw1", 1.0)
    assert room.first(now=1.0) == ("gw1/1", 3.0)
    assert room.first(now=3.0) == ("gw1/1", 3.0)


def test_a_full_batch_takes_no_more_and_a_paused_gateway_names_its_moment():
    plan = GatewayPlan({1: SLOW}, batch=2)
    outlet = Outlet(Fleet({"gw1": plan}, 0.0).gateways["gw1"])
    assert outlet.moment() == -math.inf
    outlet.belief.pause.begin(5.0)
    outlet.free_at = 6.0
    assert outlet.moment() == 7.0
    outlet.batch += [Assignment(waiting_of(n), "gw1", 1, 1, "") for n in range(2)]
    assert outlet.moment() == math.inf


def test_a_gateway_that_the_line_does_not_use_may_reopen():
    room = Furniture(fleet_of(gw1=1, gw2=1))
    board = Board(1, room.outlets, room.booked)
    board.reopen("gw2", 0.0)
    assert board.first(0.0) == (None, math.inf)


def test_a_port_that_meets_the_wish_no_longer_is_out_on_every_board():
    room = Furniture(fleet_of(gw1=2))
    assert (room.first(1), room.first(3)) == (("gw1/1", 0.0), ("gw1/1", 0.0))
    room.line.remove(room.fleet.port("gw1", 1))
    assert (room.first(1), room.first(3)) == (("gw1/2", 0.0), ("gw1/2", 0.0))
    assert list(room.line.ports) == [room.fleet.port("gw1", 2)]


def test_news_of_a_port_reach_every_board():
    room = Furniture(fleet_of(gw1=1, up=False))
    assert (room.first(1)[0], room.first(3)[0]) == (None, None)
    room.fleet.note_status("gw1", row(), 0.0)
    room.line.add(room.fleet.port("gw1", 1), 0.0)
    assert (room.first(1)[0], room.first(3)[0]) == ("gw1/1", "gw1/1")


# --- requests in order --------------------------------------------------------------------------------------------


def test_whoever_has_waited_longest_comes_first_across_the_groups():
    line = Line(WISH, 0, {}, {})
    for number, tried in ((1, ()), (2, ("A",)), (3, ()), (4, ("B", "A")), (5, ("A", "B"))):
        line.enter(waiting_of(number, tried=tried))
    order = []
    while (group := line.first()) is not None:
        order.append((group.head.number, sorted(group.tried)))
        group.head.place = None
        line.leave(group)
    assert order == [(1, []), (2, ["A"]), (3, []), (4, ["A", "B"]), (5, ["A", "B"])]
    assert line.size == 0


def test_one_that_comes_back_stands_where_it_stood():
    line = Line(WISH, 0, {}, {})
    first, second = waiting_of(1), waiting_of(2)
    line.enter(first)
    line.enter(second)
    group = line.first()
    first.place = None
    line.leave(group)
    assert line.first().head is second
    line.enter(first)
    assert line.first().head is first
    assert (line.size, group.size) == (2, 2)


def test_one_that_leaves_from_the_middle_is_passed_over():
    line = Line(WISH, 0, {}, {})
    all_of_them = [waiting_of(n) for n in (1, 2, 3)]
    for waiting in all_of_them:
        line.enter(waiting)
    group = line.first()
    for waiting in all_of_them[:2]:
        waiting.place = None
        line.leave(group)
    assert line.first().head is all_of_them[2]


def test_a_stuck_group_lets_the_others_by_until_it_is_unstuck():
    line = Line(WISH, 0, {}, {})
    line.enter(waiting_of(1))
    line.enter(waiting_of(2, tried=("A",)))
    group = line.first()
    group.stuck = True
    assert line.first().head.number == 2
    line.unstick(group)
    assert line.first() is group


# --- all lines ----------------------------------------------------------------------------------------------------


@pytest.fixture
def fleet():
    return fleet_of(gw1=2)


@pytest.fixture
def lines(fleet):
    routing = Routing(fleet, [Route("main", (("gw1", 1), ("gw1", 2)))])
    return Lines(routing, {name: Outlet(belief) for name, belief in fleet.gateways.items()}, {})


def test_equal_wishes_stand_in_one_line_which_knows_its_ports(fleet, lines):
    line = lines.get(WISH, 7, 0.0)
    assert lines.get(Wish("send.main"), 9, 0.0) is line
    assert (line.turn, list(line.ports)) == (6, list(fleet.ports()))
    card = lines.get(Wish("send.main", sim="gw1-2"), 7, 0.0)
    assert list(lines.of(fleet.port("gw1", 1))) == [line]
    assert list(lines.of(fleet.port("gw1", 2))) == [line, card]


def test_a_card_that_moves_takes_those_who_wish_for_it_along(fleet, lines):
    everybody, card = lines.get(WISH, 0, 0.0), lines.get(Wish("send.main", sim="gw1-1"), 0, 0.0)
    one, two = fleet.ports()
    fleet.note_status("gw1", row("1.01", 0), 0.0)
    fleet.note_status("gw1", row("2.01", iccid="gw1-1"), 0.0)
    assert (lines.sort_in(one, 0.0), lines.sort_in(two, 0.0)) == ([card], [card])
    assert (list(card.ports), list(everybody.ports)) == ([two], [one, two])
    assert (list(lines.of(one)), list(lines.of(two))) == ([everybody], [everybody, card])
    assert lines.sort_in(one, 0.0) == []


def test_an_empty_line_of_a_narrow_wish_goes_and_one_of_a_whole_lane_stays(fleet, lines):
    everybody, card = lines.get(WISH, 0, 0.0), lines.get(Wish("send.main", sim="gw1-1"), 0, 0.0)
    card.enter(waiting_of(1))
    for line in (everybody, card):
        lines.drop_empty(line)
    assert lines.get(card.wish, 0, 0.0) is card
    card.leave(card.first())
    for line in (everybody, card):
        lines.drop_empty(line)
    assert lines.get(WISH, 0, 0.0) is everybody
    assert list(lines.of(fleet.port("gw1", 1))) == [everybody]
    assert lines.get(card.wish, 0, 0.0) is not card


def test_a_line_is_crowded_when_its_one_card_takes_more_than_half_of_the_room(lines):
    wishes = {
        "lane": WISH,
        "card": Wish("send.main", sim="gw1-1"),
        "same card": Wish("send.main", (Port(1),)),
        "other lane": Wish("gateway.gw1", sim="gw1-1"),
        "two": Wish("gateway.gw1", (Port(1), Port(2))),
    }
    by_name = {name: lines.get(wish, 0, 0.0) for name, wish in wishes.items()}
    for number, name in enumerate(["lane", "card", "same card", "same card", "other lane", "two"]):
        by_name[name].enter(waiting_of(number))
    sizes = {name: [room for room in range(1, 12) if lines.crowded(line, room)] for name, line in by_name.items()}
    assert {name: max(rooms, default=0) for name, rooms in sizes.items()} == {
        "lane": 0,
        "card": 7,  # it would be the fourth, and four are more than half of seven
        "same card": 7,
        "other lane": 3,
        "two": 0,
    }
