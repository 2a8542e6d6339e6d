"""Chaos runs beside the other system tests: it mostly waits, and so do they. Its own test comes last and judges it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
CHAOS = "test_chaos.py"


@dataclass(frozen=True)
class Chaos:
    """`make chaos` with its defaults, under way; what it writes for people is in `progress`."""

    process: subprocess.Popen[str]
    progress: Path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name == CHAOS)


@pytest.fixture(scope="session", autouse=True)
def chaos(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chaos | None]:
    if not any(item.path.name == CHAOS for item in request.session.items):
        yield None
        return
    progress = tmp_path_factory.mktemp("chaos") / "progress.log"
    command = [shutil.which("setpriv") or "setpriv", "--pdeathsig", "TERM", "--", sys.executable, "-m", "dev.chaos.run"]
    with (
        progress.open("w") as output,
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=output, text=True) as process,
    ):
        yield Chaos(process, progress)
        process.terminate()
