"""A pytest plugin: no test is left out silently.

A skipped or expected-to-fail test makes the run fail. One exception: with AMQP_URL given the broker is somebody
else's, and a test that would stop it may step aside with a reason that names AMQP_URL; pytest prints it (`-rs`).
Loaded by `make test` as `-p dev.strict`.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

LEFT_OUT = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Start with nothing left out."""
    config.stash[LEFT_OUT] = []


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that would have passed with tests left out; where workers run them, their head sees it all."""
    reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return
    reports = [report for outcome in ("skipped", "xfailed", "xpassed") for report in reporter.stats.get(outcome, [])]
    left_out = session.config.stash[LEFT_OUT]
    left_out += [f"{report.nodeid}: {reason}" for report in reports if not is_excused(reason := reason_of(report))]
    if left_out and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Name what was left out."""
    for line in config.stash[LEFT_OUT]:
        terminalreporter.write_line(f"LEFT OUT {line}", red=True)


def reason_of(report: Any) -> str:
    """Why a test was left out, as it said itself."""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    return str(getattr(report, "wasxfail", "") or report.longrepr or "no reason given")


def is_excused(reason: str) -> bool:
    """Whether a test may step aside: its broker is not ours to stop."""
    return bool(os.environ.get("AMQP_URL")) and "AMQP_URL" in reason
