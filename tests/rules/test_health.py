"""Beliefs: what a status changes, whose budget a card carries along, and how long trouble is left alone."""

from __future__ import annotations

import math

import pytest

from bridge.rules.health import Fleet, GatewayPlan, Pause, PortChange
from bridge.rules.limiter import Pace
from tests.rules.room import SLOW, fleet_of, row

QUICK = Pace(1.0, 10)


def told(fleet, *rows, gateway="gw1", now=0.0):
    return [fleet.note_status(gateway, one, now) for one in rows]


# --- what a status changes ----------------------------------------------------------------------------------------


def test_a_fleet_has_a_readable_face():
    fleet = fleet_of(gw1=8, gw2=8, up=False)
    assert repr(fleet) == "<Fleet 2 gateways, 0/16 ports up>"
    told(fleet, row("1.01"), row("2.01"), row("3.01", 2))
    assert repr(fleet) == "<Fleet 2 gateways, 2/16 ports up>"


def test_a_port_is_known_by_its_place_until_its_card_is_told():
    fleet = fleet_of(gw1=1, up=False)
    assert fleet.port("gw1", 1).sim == "gw1/1.0"
    assert told(fleet, row("1.02", 2)) == [
        PortChange("gw1", 1, st=2, slot=2, sim="gw1/1.2", was_st=None, was_slot=0, was_sim="gw1/1.0")
    ]
    assert told(fleet, row("1.02", 3, iccid="8949")) == [
        PortChange("gw1", 1, st=3, slot=2, sim="8949", was_st=2, was_slot=2, was_sim="gw1/1.2")
    ]


def test_the_same_again_is_no_change_but_what_it_tells_is_believed():
    fleet = fleet_of(gw1=1)
    rows = [
        row("1.01", iccid="gw1-1", signal=20, balance=1.5, operator="26201", number="+4915"),
        row("1.01", iccid="gw1-1"),
        row("1"),
        row("1.01", None),
    ]
    assert told(fleet, *rows) == [None] * 4
    port = fleet.port("gw1", 1)
    assert (port.st, port.slot, port.sim) == (3, 1, "gw1-1")
    assert (port.signal, port.balance, port.operator, port.own_number) == (20, 1.5, "26201", "+4915")


def test_rows_about_other_ports_and_inactive_cards_say_nothing():
    fleet = fleet_of(gw1=1)
    assert told(fleet, row("2.01"), row("1.02", 0, active=False)) == [None, None]
    assert fleet.port("gw1", 1).st == 3


@pytest.mark.parametrize("gone", [row("1.01", 0), row("1.02", None)], ids=["pulled out", "switched"])
def test_a_card_that_is_gone_takes_what_was_known_of_it_along(gone):
    fleet = fleet_of(gw1=1)
    told(fleet, row("1.01", iccid="gw1-1", signal=20, balance=1.5, operator="26201", number="+4915"), gone)
    port = fleet.port("gw1", 1)
    assert port.sim == f"gw1/1.{gone.port.slot}"
    assert (port.st, port.signal, port.balance, port.operator, port.own_number) == (gone.st, None, None, "", "")
    assert not port.registered


def test_a_card_is_found_by_its_iccid_and_its_own_number():
    fleet = fleet_of(gw1=2)
    told(fleet, row("1.01", iccid="gw1-1", number="+49 151 1"))
    port = fleet.port("gw1", 1)
    assert [fleet.find_card(name) for name in ("gw1-1", "+491511", "00491511", "gw1-2", "none")] == [
        port,
        port,
        port,
        fleet.port("gw1", 2),
        None,
    ]


def test_a_card_that_moves_is_found_where_it_was_told_last():
    fleet = fleet_of(gw1=2)
    one, two = fleet.port("gw1", 1), fleet.port("gw1", 2)
    fleet.take_news()
    told(fleet, row("2.01", iccid="gw1-1"))
    assert fleet.find_card("gw1-1") is two
    assert fleet.take_news() == {one: True, two: True}
    told(fleet, row("1.01", 0))
    assert fleet.find_card("gw1-1") is two
    assert fleet.find_card("gw1-2") is None


def test_a_port_that_is_not_configured_is_not_found():
    fleet = fleet_of(gw1=1)
    assert fleet.find_port("gw1", 1) is fleet.port("gw1", 1)
    assert (fleet.find_port("gw1", 2), fleet.find_port("gw2", 1)) == (None, None)


# --- news for the planner -----------------------------------------------------------------------------------------


def test_news_are_the_ports_that_changed_and_whether_a_card_moved():
    fleet = fleet_of(gw1=4)
    assert set(fleet.take_news()) == set(fleet.ports())
    assert fleet.take_news() == {}
    told(fleet, row("1.01", 6), row("2.01", iccid="other"), row("3.01", number="+4917"), row("4.01", signal=9))
    told(fleet, row("2.01", 2))
    assert {port.number: moved for port, moved in fleet.take_news().items()} == {1: False, 2: True, 3: True}


def test_a_pause_and_its_end_by_success_are_news():
    fleet = fleet_of(gw1=2, gw2=1)
    fleet.take_news()
    fleet.pause_port("gw1", 1, 0.0)
    fleet.pause_gateway("gw2", 0.0)
    assert fleet.take_news() == {fleet.port("gw1", 1): False, fleet.port("gw2", 1): False}
    fleet.note_success("gw1", 1)
    fleet.note_success("gw2", 1)
    assert fleet.take_news() == {fleet.port("gw1", 1): False, fleet.port("gw2", 1): False}
    fleet.note_success("gw1", 1)
    fleet.note_success("gw2")
    assert fleet.take_news() == {}


# --- who may be used ----------------------------------------------------------------------------------------------


def test_a_port_can_send_while_it_is_registered_well_and_its_device_takes_tasks():
    fleet = fleet_of(gw1=1)
    port = fleet.port("gw1", 1)
    assert fleet.can_send(port, 0.0)
    port.queued = 2
    assert not fleet.can_send(port, 0.0)
    assert fleet.usable(port, 0.0)
    port.queued = 1
    told(fleet, row("1.01", 2))
    assert not fleet.can_send(port, 0.0)
    told(fleet, row("1.01", 3))
    assert fleet.pause_port("gw1", 1, 0.0) == 2.0
    assert (fleet.can_send(port, 1.9), fleet.can_send(port, 2.0)) == (False, True)
    assert fleet.pause_gateway("gw1", 10.0) == 12.0
    assert (fleet.can_send(port, 11.9), fleet.can_send(port, 12.0)) == (False, True)


def test_a_port_that_says_it_is_well_is_tried_again_at_once_and_paused_longer_if_it_fails_again():
    fleet = fleet_of(gw1=1)
    fleet.take_news()
    fleet.pause_port("gw1", 1, 0.0)
    fleet.take_news()
    told(fleet, row("1.01", None), now=1.0)
    assert fleet.can_send(fleet.port("gw1", 1), 1.0)
    assert fleet.take_news() == {fleet.port("gw1", 1): False}
    assert fleet.pause_port("gw1", 1, 1.0) == 5.0


def test_a_status_does_not_end_the_pause_of_a_gateway():
    fleet = fleet_of(gw1=1)
    fleet.pause_gateway("gw1", 0.0, stop=True)
    told(fleet, row("1.01"), now=1.0)
    assert not fleet.usable(fleet.port("gw1", 1), 59.9)


def test_pauses_double_to_a_minute():
    pause, now, lengths = Pause(), 0.0, []
    for _ in range(7):
        lengths.append(pause.begin(now) - now)
        now = pause.until
    assert lengths == [2, 4, 8, 16, 32, 60, 60]


def test_pauses_of_a_gateway_that_refused_us_double_to_a_quarter_of_an_hour():
    pause, now, lengths = Pause(), 0.0, []
    for _ in range(6):
        lengths.append(pause.begin(now, stop=True) - now)
        now = pause.until
    assert lengths == [60, 120, 240, 480, 900, 900]
    assert pause.begin(now) - now == 60


def test_a_pause_may_have_to_be_longer_than_usual():
    pause, now, lengths = Pause(), 0.0, []
    for least_s in (0.0, 20.0, 20.0, 90.0):
        lengths.append(pause.begin(now, least_s=least_s) - now)
        now = pause.until
    assert lengths == [2, 20, 40, 90]


def test_a_gateway_may_be_held_without_having_failed():
    fleet = fleet_of(gw1=1)
    fleet.hold_gateway("gw1", 30.0)
    fleet.note_success("gw1")
    assert not fleet.usable(fleet.port("gw1", 1), 29.9) and fleet.usable(fleet.port("gw1", 1), 30.0)
    assert fleet.pause_gateway("gw1", 30.0) == 32.0, "its next trouble begins with a short pause"


def test_whoever_holds_it_may_let_go_but_not_of_its_own_pause():
    fleet = fleet_of(gw1=1)
    fleet.hold_gateway("gw1", 30.0)
    fleet.hold_gateway("gw1", 0.0)
    assert fleet.usable(fleet.port("gw1", 1), 0.0)
    fleet.pause_gateway("gw1", 0.0)
    fleet.hold_gateway("gw1", 0.0)
    assert not fleet.usable(fleet.port("gw1", 1), 0.0)


def test_so_may_a_port():
    fleet = fleet_of(gw1=2)
    fleet.hold_port("gw1", 1, 30.0)
    assert not fleet.usable(fleet.port("gw1", 1), 29.9) and fleet.usable(fleet.port("gw1", 2), 0.0)


def test_failures_during_a_pause_are_of_the_same_trouble_unless_it_is_worse():
    pause = Pause()
    assert [pause.begin(0.0), pause.begin(0.0), pause.begin(1.0)] == [2, 2, 2]
    assert pause.begin(1.0, stop=True) == 61
    assert [pause.begin(2.0, stop=True), pause.begin(2.0)] == [61, 61]


def test_a_success_begins_anew():
    pause = Pause()
    assert not pause.reset()
    pause.begin(0.0)
    pause.begin(2.0)
    assert pause.reset()
    assert pause.until == -math.inf
    assert pause.begin(3.0) == 5


# --- whose budget it is -------------------------------------------------------------------------------------------


def test_budgets_start_empty_and_fill_from_the_start():
    fleet = fleet_of(SLOW, now=100.0, gw1=1, up=False)
    assert fleet.port("gw1", 1).bucket.level(115.0) == 1.5


def test_a_card_takes_its_budget_along_when_it_moves():
    fleet = Fleet({"gw1": GatewayPlan({1: QUICK, 2: Pace(2.0, 4)})}, 0.0)
    told(fleet, row("1.01", iccid="A"), row("2.01", iccid="B"))
    one, two = fleet.port("gw1", 1), fleet.port("gw1", 2)
    one.bucket.spend(8, 10.0)
    one.bucket.settle(10.0)
    spent = one.bucket
    told(fleet, row("1.01", 0), now=10.0)
    assert one.bucket is not spent
    assert one.bucket.level(11.0) == 1  # of whatever card comes next, from nothing
    told(fleet, row("2.01", iccid="A"), now=10.0)
    assert two.bucket is spent
    assert (two.bucket.level(10.0), two.bucket.level(11.0), two.bucket.level(99.0)) == (2, 4, 4)


def test_the_budget_of_a_place_becomes_the_cards_when_the_card_is_told():
    fleet = fleet_of(QUICK, gw1=1, up=False)
    told(fleet, row("1.01"))
    bucket = fleet.port("gw1", 1).bucket
    told(fleet, row("1.01", iccid="A"), now=5.0)
    assert fleet.port("gw1", 1).bucket is bucket
    assert bucket.level(5.0) == 5
    told(fleet, row("1.01", 0), now=5.0)
    assert fleet.port("gw1", 1).bucket is not bucket


def test_a_card_that_becomes_known_and_has_a_budget_keeps_the_poorer_one():
    fleet = fleet_of(QUICK, gw1=2)
    one, two = fleet.port("gw1", 1), fleet.port("gw1", 2)
    known = one.bucket
    told(fleet, row("1.01", 0), now=4.0)
    told(fleet, row("2.01", 0), now=4.0)
    told(fleet, row("2.01", 2), now=5.0)
    told(fleet, row("2.01", 3, iccid="gw1-1"), now=5.0)
    assert two.bucket is known
    assert known.level(5.0) == 1  # the place was used since 4.0, and nobody knows that it was not by this card


def test_a_slot_that_is_switched_has_a_budget_of_its_own():
    fleet = fleet_of(QUICK, gw1=1, up=False)
    port = fleet.port("gw1", 1)
    told(fleet, row("1.01"))
    first = port.bucket
    told(fleet, row("1.02"), now=5.0)
    assert port.bucket.level(5.0) == 0
    told(fleet, row("1.01"), now=6.0)
    assert port.bucket is first


def test_a_debt_is_restored_and_a_credit_is_not():
    fleet = fleet_of(SLOW, gw1=2, up=False)
    fleet.restore_debt("gw1/1.0", -3.0, 0.0)
    fleet.restore_debt("A", -4.0, 0.0)
    fleet.restore_debt("B", 2.0, 0.0)
    told(fleet, row("2.01", iccid="A"), now=1.0)
    assert fleet.port("gw1", 1).bucket.level(10.0) == -2
    assert fleet.port("gw1", 2).bucket.level(1.0) == -4
    assert fleet.port("gw1", 2).bucket.level(11.0) == -3
    told(fleet, row("2.01", iccid="B"), now=11.0)
    assert fleet.port("gw1", 2).bucket.level(11.0) == 0
