"""A slice of `make chaos`: three minutes of one seed against the real process, a real broker, the simulator."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(480)]
ROOT = Path(__file__).parent.parent.parent


def test_the_promises_hold_under_the_faults_of_a_seed() -> None:
    dies_with_us = [shutil.which("setpriv") or "setpriv", "--pdeathsig", "TERM", "--"]
    run = subprocess.run(
        [*dies_with_us, sys.executable, "-m", "dev.chaos.run"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr[-20_000:]}"
    summary = json.loads(run.stdout.splitlines()[-1])
    assert (summary["seed"], summary["stopped_with"]) == (1, 0)
