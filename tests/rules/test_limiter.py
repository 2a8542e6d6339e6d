"""The bucket of a SIM: when it may send, and that no window at the device ever holds more than promised."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.rules.limiter import Bucket, Pace

SLOW = Pace(0.1, 2)  # the default: 6 a minute, 2 at once


def full(pace=SLOW, at=0.0):
    return Bucket(pace, float(pace.burst), at)


def test_a_new_bucket_starts_empty_and_fills_up_to_burst():
    bucket = Bucket(SLOW, 0.0, 100.0)
    assert [bucket.level(now) for now in (100, 105, 110, 120, 9_999)] == [0, 0.5, 1, 2, 2]
    assert [bucket.wait(1, now) for now in (100, 105, 110, 9_999)] == [10, 5, 0, 0]
    assert bucket.wait(2, 100) == 20


def test_a_known_debt_is_paid_first():
    assert Bucket(SLOW, -3.0, 0.0).wait(1, 0.0) == 40


def test_a_clock_that_steps_back_credits_nothing():
    assert Bucket(SLOW, 1.0, 100.0).level(50.0) == 1


def test_what_is_open_takes_up_space_until_its_end():
    bucket = full()
    bucket.spend(1, 10.0)
    assert bucket.level(25.0) == 1
    assert bucket.wait(1, 25.0) == 0  # a second one may go along
    assert bucket.wait(2, 25.0) == 10
    bucket.settle(25.0)
    assert bucket.level(25.0) == 1
    assert bucket.level(30.0) == 1.5


def test_time_is_credited_meanwhile_as_far_as_there_is_space():
    bucket = Bucket(SLOW, 1.0, 0.0)
    bucket.spend(1, 0.0)
    assert [bucket.level(now) for now in (5, 10, 15)] == [0.5, 1, 1]
    bucket.settle(5.0)
    assert bucket.level(10.0) == 1


def test_a_gap_lies_between_a_hand_over_and_the_next_whatever_the_bucket_holds():
    for pace in (Pace(1.0, 5, 4.0), Pace(None, 5, 4.0)):
        bucket = Bucket(pace, 5.0, 0.0)
        assert bucket.wait(1, 1.0) == 3, "nobody knows when the last one ended, in an earlier life"
        bucket.spend(1, 10.0)
        assert bucket.wait(1, 12.0) == 4, "while it is open, as if it ended now"
        bucket.settle(13.0)
        assert [bucket.wait(1, now) for now in (13.0, 16.0, 17.0)] == [4, 1, 0]


def test_the_gap_of_a_card_that_turns_out_to_be_another_counts_from_the_later_of_both():
    bucket, other = Bucket(Pace(None, 5, 4.0), 5.0, 0.0), Bucket(Pace(None, 5, 4.0), 5.0, 0.0)
    other.spend(1, 10.0)
    other.settle(12.0)
    bucket.absorb(other, 13.0)
    assert bucket.wait(1, 13.0) == 3


def test_two_open_hand_overs_hold_it_until_both_are_settled():
    bucket = full()
    bucket.spend(1, 0.0)
    bucket.spend(1, 0.0)
    bucket.settle(10.0)
    assert bucket.level(20.0) == 0
    bucket.settle(20.0)
    assert bucket.level(30.0) == 1


def test_a_message_beyond_burst_needs_a_full_bucket_and_is_owed_back():
    bucket = Bucket(SLOW, 1.0, 0.0)
    assert bucket.wait(7, 0.0) == 10
    bucket.spend(7, 10.0)
    bucket.settle(10.0)
    assert bucket.level(10.0) == -5
    assert bucket.wait(1, 10.0) == 60


def test_a_refund_undoes_a_spend():
    bucket = full()
    bucket.spend(2, 0.0)
    bucket.refund(2, 5.0)
    assert bucket.level(5.0) == 2


def test_a_refund_of_one_leaves_the_other_open():
    bucket = full()
    bucket.spend(1, 0.0)
    bucket.spend(1, 0.0)
    bucket.refund(1, 5.0)
    assert bucket.level(15.0) == 1
    bucket.settle(15.0)
    assert bucket.level(25.0) == 2


def test_unlimited_never_waits_and_never_owes():
    bucket = Bucket(Pace(None, 2), 0.0, 0.0)
    bucket.spend(1_000, 0.0)
    assert bucket.wait(1_000, 0.0) == 0
    bucket.settle(0.0)
    assert bucket.level(0.0) == 2


def test_the_moment_it_names_is_late_enough_in_floating_point():
    bucket = Bucket(Pace(1 / 3, 1), 0.0, 1_000_000.1)
    at = 1_000_000.1 + bucket.wait(1, 1_000_000.1)
    assert bucket.wait(1, at) == 0


def test_another_pace_keeps_what_was_earned_as_far_as_it_holds():
    bucket = full(Pace(0.1, 10))
    bucket.change_pace(Pace(1.0, 3), 5.0)
    assert bucket.level(5.0) == 3
    bucket.spend(3, 5.0)
    bucket.change_pace(Pace(0.5, 3), 5.0)
    assert bucket.level(9.0) == 0
    bucket.settle(9.0)
    assert bucket.wait(2, 9.0) == 4
    bucket.change_pace(Pace(1.0, 2), 9.0)
    assert bucket.wait(2, 9.0) == 2


def test_two_buckets_of_one_card_become_the_poorer_one():
    rich, poor = full(), Bucket(SLOW, -1.0, 0.0)
    rich.absorb(poor, 10.0)
    assert rich.level(10.0) == 0


@pytest.mark.parametrize(("end", "level"), [("settle", -1), ("refund", 1)])
def test_what_is_open_in_a_bucket_holds_its_heir(end, level):
    heir, old = full(), full()
    old.spend(2, 0.0)
    old.spend(1, 0.0)
    heir.absorb(old, 0.0)
    old.settle(10.0)
    assert heir.level(20.0) == -1
    old.settle(20.0) if end == "settle" else old.refund(2, 20.0)
    assert heir.level(20.0) == level
    assert heir.level(30.0) == level + 1


def test_a_bucket_has_a_readable_face():
    bucket = full()
    bucket.spend(1, 0.0)
    assert repr(bucket) == "<Bucket 1.00 of 2 at 0.00, 1 open>"


@dataclass
class Send:
    """One message: what it costs, when it comes, how long its POST is open, and where in it the device takes it."""

    gap: float
    cost: int
    open_s: float
    taken: float
    refused: bool


SENDS = st.builds(
    Send,
    gap=st.one_of(st.just(0.0), st.floats(0, 60)),
    cost=st.integers(1, 6),
    open_s=st.one_of(st.just(0.0), st.floats(0, 20)),
    taken=st.sampled_from([0.0, 1.0, 0.5]),
    refused=st.booleans(),
)


def hand_over(bucket: Bucket, sends: list[Send]) -> list[tuple[float, int]]:
    """Each message as early as the bucket allows, alone or overlapping: when the device took how much."""
    taken: list[tuple[float, int]] = []
    ends: list[tuple[float, int, bool]] = []
    now = 1_000.0

    def advance(to: float) -> float:
        while ends and ends[0][0] <= to:
            at, cost, refused = heapq.heappop(ends)
            bucket.refund(cost, at) if refused else bucket.settle(at)
        return to

    for send in sends:
        now = advance(now + send.gap)
        while (wait := bucket.wait(send.cost, now)) > 0:
            now = advance(min(now + wait, ends[0][0]) if ends else now + wait)
        bucket.spend(send.cost, now)
        heapq.heappush(ends, (now + send.open_s, send.cost, send.refused))
        if not send.refused:
            taken.append((now + send.open_s * send.taken, send.cost))
    return sorted(taken)


@settings(max_examples=300, deadline=None)
@given(
    rate=st.floats(0.01, 50),
    burst=st.integers(1, 4),
    level=st.floats(-5, 4),
    sends=st.lists(SENDS, min_size=2, max_size=25),
)
def test_no_window_at_the_device_holds_more_than_promised(rate, burst, level, sends):
    bucket = Bucket(Pace(rate, burst), min(level, burst), 1_000.0)
    taken = hand_over(bucket, sends)
    for first, (start, _) in enumerate(taken):
        total = largest = 0
        for end, cost in taken[first:]:
            total, largest = total + cost, max(largest, cost)
            assert total <= max(burst, largest) + rate * (end - start) + 1e-3


@settings(deadline=None)
@given(rate=st.floats(0.01, 50), burst=st.integers(1, 4), costs=st.lists(st.integers(1, 6), min_size=1))
def test_while_work_waits_nothing_is_wasted(rate, burst, costs):
    bucket = Bucket(Pace(rate, burst), float(burst), 0.0)
    taken = hand_over(bucket, [Send(gap=0.0, cost=cost, open_s=0.0, taken=0.0, refused=False) for cost in costs])
    lasted = taken[-1][0] - 1_000.0
    assert sum(costs) >= rate * lasted - 1e-3
