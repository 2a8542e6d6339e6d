"""A slice of `make chaos`: three minutes of one seed against the real process, a real broker, the simulator."""

from __future__ import annotations

import json

import pytest

from tests.system.conftest import Chaos

pytestmark = [pytest.mark.system, pytest.mark.timeout(480)]


def test_the_promises_hold_under_the_faults_of_a_seed(chaos: Chaos) -> None:
    told = chaos.process.communicate()[0]
    assert chaos.process.returncode == 0, f"{told}\n{chaos.progress.read_text()[-20_000:]}"
    summary = json.loads(told.splitlines()[-1])
    assert (summary["seed"], summary["stopped_with"]) == (1, 0)
