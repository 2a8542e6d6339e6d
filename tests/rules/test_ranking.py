"""The ranking: by moment until it has come, then by preference; what worsens is found out, what betters is told."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.rules.ranking import Ranking


class Members(dict[str, tuple[float, int]]):
    """Moments and preferences by name."""

    def ranked(self, *names: str, now: float = 0.0) -> Ranking[str]:
        ranking = Ranking(lambda name, _: self[name])
        for name in names or self:
            ranking.add(name, now)
        return ranking


def test_nobody_comes_first_where_nobody_is():
    assert Members().ranked().first(0.0) == (None, math.inf)


def test_who_is_ready_comes_by_preference_and_else_who_is_ready_first():
    ranking = Members(a=(0, 2), b=(0, 1), c=(5, 0)).ranked()
    assert ranking.first(0.0) == ("b", 0.0)
    assert ranking.first(5.0) == ("c", 5.0)
    assert Members(a=(9, 0), b=(7, 1)).ranked().first(0.0) == ("b", 7.0)


def test_equals_come_in_the_order_in_which_they_were_added():
    assert Members(b=(0, 1), a=(0, 1)).ranked().first(0.0) == ("b", 0.0)


def test_a_member_without_a_moment_is_left_out_until_it_is_told_to_be_better():
    members = Members(a=(math.inf, 0))
    ranking = members.ranked()
    members["a"] = (0, 0)
    assert ranking.first(1.0) == (None, math.inf)
    ranking.add("a", 1.0)
    assert ranking.first(1.0) == ("a", 1.0)


def test_what_got_worse_is_found_out():
    members = Members(a=(0, 1), b=(0, 2), c=(3, 0), d=(4, 0))
    ranking = members.ranked()
    members["a"] = (0, 3)
    assert ranking.first(0.0) == ("b", 0.0)
    members["b"] = (9, 2)
    assert ranking.first(0.0) == ("a", 0.0)
    members["a"] = (math.inf, 3)
    assert ranking.first(0.0) == ("c", 3.0)
    members["c"] = (8, 0)
    assert ranking.first(0.0) == ("d", 4.0)
    members["d"] = (math.inf, 0)
    assert ranking.first(5.0) == ("c", 8.0)
    assert ranking.first(9.0) == ("c", 9.0)


def test_what_got_better_takes_its_place_once():
    members = Members(a=(9, 1), b=(5, 2))
    ranking = members.ranked()
    members["a"] = (1, 1)
    ranking.add("a", 0.0)
    ranking.add("a", 0.0)
    assert ranking.first(0.0) == ("a", 1.0)
    assert ranking.first(1.0) == ("a", 1.0)
    ranking.remove("a")
    assert ranking.first(9.0) == ("b", 9.0)


def test_news_that_is_none_changes_nothing():
    members = Members(a=(0, 1), b=(0, 1))
    ranking = members.ranked()
    ranking.add("a", 0.0)
    assert ranking.first(0.0) == ("a", 0.0)


def test_the_removed_do_not_come_and_need_not_be_there():
    ranking = Members(a=(0, 1), b=(4, 2), c=(6, 0)).ranked()
    for name in ("a", "b", "nobody"):
        ranking.remove(name)
    assert ranking.first(0.0) == ("c", 6.0)
    assert ranking.first(5.0) == ("c", 6.0)


def test_a_moment_that_is_missed_by_rounding_has_come():
    assert Members(a=(5.0 + 1e-9, 0)).ranked().first(5.0) == ("a", 5.0)


def test_who_improved_in_silence_is_believed_when_met():
    members = Members(a=(5, 0))
    ranking = members.ranked()
    members["a"] = (4, 0)
    assert ranking.first(0.0) == ("a", 5.0)


SEEN = st.tuples(st.integers(0, 20) | st.just(math.inf), st.integers(0, 5))
STEP = st.one_of(
    st.tuples(st.just("see"), st.sampled_from("abcdef"), SEEN),
    st.tuples(st.just("remove"), st.sampled_from("abcdef"), st.none()),
    st.tuples(st.just("wait"), st.none(), st.integers(0, 10)),
)


@settings(deadline=None)
@given(st.lists(STEP, max_size=60))
def test_it_agrees_with_looking_at_everybody(steps):
    members, here, now = Members(), set(), 0.0
    ranking = members.ranked()
    for kind, name, value in steps:
        if kind == "see":
            better = name not in here or value[0] < members[name][0] or value[1] < members[name][1]
            members[name] = value
            here.add(name)
            if better or value[0] < math.inf:
                ranking.add(name, now)
        elif kind == "remove":
            here.discard(name)
            ranking.remove(name)
        else:
            now += value
        ready = [members[name][1] for name in here if members[name][0] <= now]
        first, moment = ranking.first(now)
        if ready:
            assert first in here
            assert moment == now >= members[first][0]
            assert members[first][1] == min(ready)
        else:
            later = min((members[name][0] for name in here), default=math.inf)
            assert moment == later
            assert first is None or members[first][0] == later
