"""The gate of the pure rooms: every branch of each module is taken by the test file of its own name.

`bridge/ejoin/codes.py` is measured by `tests/ejoin/test_codes.py` (and `test_codes_*.py`) alone, not by whoever else
passes through it: that is what makes a module readable with its one test file beside it. Prints one line per module
that falls short; exits 1 then, or when a test fails.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import coverage

ROOMS = ("ejoin", "rules")


def main(root: Path) -> int:
    """Run the rooms' tests once, then look at each module with the eyes of its own test file."""
    os.chdir(root)
    with tempfile.TemporaryDirectory(prefix="ejoin-coverage-") as folder:
        data_file = Path(folder) / "coverage"
        command = [sys.executable, "-m", "pytest", "--no-header", "--cov-branch", "--cov-context=test"]
        command += ["--cov-report=", "-p", "no:cacheprovider"]
        command += [word for room in ROOMS for word in (f"--cov=bridge/{room}", f"tests/{room}")]
        if status := subprocess.run(
            command, check=False, env={**os.environ, "COVERAGE_FILE": str(data_file)}
        ).returncode:
            return status
        modules = sorted(path for room in ROOMS for path in Path("bridge", room).glob("*.py"))
        short = [line for module in modules if (line := what_is_missing(module, data_file))]
    print("\n".join(short) if short else f"{len(modules)} pure modules, each branch taken by its own test file")
    return 1 if short else 0


def what_is_missing(module: Path, data_file: Path) -> str | None:
    """One line about the lines and branches that the module's own tests do not take; None where there are none."""
    own_tests = rf"^tests/{module.parent.name}/test_{module.stem}(_\w+)?\.py::"
    measured = coverage.Coverage(data_file=str(data_file), branch=True)
    measured.load()
    report = io.StringIO()
    contexts = ["^$", own_tests]  # "^$" is what runs at import: definitions, tables, dataclasses
    if measured.report(include=[str(module)], contexts=contexts, show_missing=True, file=report) == 100.0:
        return None
    missing = next(line for line in report.getvalue().splitlines() if line.startswith(str(module)))
    return f"not whole with tests/{module.parent.name}/test_{module.stem}.py alone: {missing}"


if __name__ == "__main__":
    sys.exit(main(Path(__file__).parent.parent))
