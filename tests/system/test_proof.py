"""A slice of `make proof`: the real process, a real broker, the simulator."""

from __future__ import annotations

import pytest

from dev import proof

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]


@pytest.mark.parametrize("name", list(proof.RUNS))
async def test_the_promise_holds(name: str, amqp_url: str) -> None:
    told = await proof.RUNS[name](small=True, amqp_url=amqp_url)
    assert proof.holds(name, told), told


@pytest.mark.parametrize(
    ("rows", "exceeded"),
    [
        pytest.param([(0.0, 1), (0.0, 1), (3.0, 1)], 0, id="burst, then one each 3 s"),
        pytest.param([(0.0, 1), (0.0, 1), (2.9, 1)], 1, id="0.1 s too early"),
        pytest.param([(0.0, 1), (0.0, 1), (0.0, 1)], 1, id="three at once"),
        pytest.param([(0.0, 4), (12.0, 4)], 0, id="larger than the burst, owed back"),
        pytest.param([(0.0, 4), (6.0, 4)], 1, id="larger than the burst, not owed back"),
    ],
)
def test_the_judge_of_windows_sees_what_exceeds_them(rows: list[tuple[float, int]], exceeded: int) -> None:
    assert proof.windows_exceeded(rows, rate_per_s=1 / 3, burst=2) == exceeded
