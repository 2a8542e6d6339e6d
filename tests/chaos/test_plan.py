"""What a seed stands for: the same every time, with everything in it that can be asked and can go wrong."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise

import pytest

from bridge.errors import RequestInvalid
from bridge.models import Delivery
from bridge.rules import intake
from dev.chaos import plan, scene
from dev.chaos.plan import Ask, Fault


def read(ask: Ask) -> intake.Expansion | object:
    """What the bridge makes of the body of a request."""
    ports = frozenset(range(1, plan.PORTS + 1)) if ask.routing_key.startswith("gateway") else frozenset[int]()
    delivery = Delivery(plan.to_bytes(ask.body), ask.routing_key, lambda: None, lambda: None, message_id=ask.key)
    return intake.read(delivery, intake.IntakeRules(600.0, 10, allow_short_codes=False, ports=ports), 1_000.0)


def test_the_same_seed_gives_the_same_plan_and_another_seed_another():
    assert plan.make(7, 3) == plan.make(7, 3)
    assert plan.make(7, 3) != plan.make(8, 3)


def test_three_minutes_have_all_kinds_of_requests_and_nearly_all_kinds_of_faults():
    made = plan.make(1, 3)
    assert {ask.kind for ask in made.asks} == {
        *("single", "pinned", "long", "short_lived", "not_before", "repeat", "list", "each"),
        *("conflict", "unroutable", "bad"),
    }
    assert 8 <= sum(len(ask.sms) for ask in made.asks) / made.traffic_s <= 10
    assert any("delivery_report" in ask.body for ask in made.asks)
    assert {(one.gateway, one.port) for one in plan.make(1, 10).arrivals} == {
        (gateway, port) for gateway in plan.GATEWAYS for port in range(1, plan.PORTS + 1)
    }
    assert {fault.kind for fault in plan.make(1, 10).faults} == set(plan.KINDS)
    assert len({fault.kind for fault in made.faults}) >= 20


def test_the_scene_can_make_every_kind_of_fault():
    assert set(plan.KINDS) <= set(scene.FAULTS)


@pytest.mark.parametrize("track", list(plan.TRACKS))
def test_faults_of_one_track_never_overlap_and_end_before_the_drain(track: str):
    made = plan.make(3, 20)
    faults = [fault for fault in made.faults if plan.KINDS[fault.kind] == track]
    assert all(one.at + one.lasts_s < other.at for one, other in pairwise(faults))
    assert faults[-1].at + faults[-1].lasts_s < made.traffic_s


def test_a_gateway_reboots_at_most_once_in_three_minutes():
    reboots = [fault.at for fault in plan.make(3, 20).faults if fault.kind == "device_reboot"]
    assert len(reboots) > 1
    assert all(later - earlier >= plan.REBOOT_EVERY_S for earlier, later in pairwise(reboots))


def test_every_key_is_asked_for_once_or_repeated_on_purpose():
    made = plan.make(1, 10)
    times = Counter(ask.key for ask in made.asks if ask.kind not in {"repeat", "conflict"})
    assert set(times.values()) == {1}
    assert {ask.key for ask in made.asks if ask.kind in {"repeat", "conflict"}} <= set(times)
    recipients = Counter((sms.to, sms.port) for ask in made.asks if ask.kind != "repeat" for sms in ask.sms)
    assert set(recipients.values()) == {1}


def test_requests_are_what_the_plan_says_of_them():
    for ask in plan.make(1, 3).asks:
        if ask.kind == "bad":
            with pytest.raises(RequestInvalid):
                read(ask)
        elif ask.kind in {"list", "each"}:
            expansion = read(ask)
            assert isinstance(expansion, intake.Expansion)
            assert [child.message_id for child in expansion.children] == [sms.key for sms in ask.sms]
        else:
            read(ask)
            assert json.loads(plan.to_bytes(ask.body))["text"].startswith(f"[{ask.key}]")


def test_a_fault_says_all_that_is_needed_to_make_it():
    faults: list[Fault] = list(plan.make(2, 20).faults)
    assert {frozenset(fault.what) for fault in faults if fault.kind == "sim_out"} == {frozenset({"gateway", "port"})}
    assert all(fault.what["delay_s"] > 0 for fault in faults if fault.kind.endswith("_delay"))
