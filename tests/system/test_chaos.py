"""A slice of `make chaos`: three minutes of one seed against the real process, a real broker, the simulator."""

from __future__ import annotations

import pytest

from dev.chaos.run import chaos

pytestmark = [pytest.mark.system, pytest.mark.timeout(480)]


async def test_the_promises_hold_under_the_faults_of_a_seed() -> None:
    told, verdict = await chaos(seed=1, minutes=3)
    assert verdict.holds, told
    assert told["stopped_with"] == 0
