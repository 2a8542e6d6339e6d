"""The walls stand where the design says: imports, pure rooms, the walks' names in README, nothing of one machine."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bridge import settings

ROOT = Path(__file__).parent.parent
PURE = [
    ROOT / "bridge/models.py",
    ROOT / "bridge/errors.py",
    *ROOT.glob("bridge/ejoin/*.py"),
    *ROOT.glob("bridge/rules/*.py"),
]
TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")[
    :-1
]


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """The project's own contracts, on the package in that folder."""
    command = [Path(sys.executable).parent / "lint-imports", "--no-logo", "--no-cache"]
    plain = {**os.environ, "NO_COLOR": "1", "COLUMNS": "200"}
    return subprocess.run(command, cwd=folder, env=plain, capture_output=True, text=True, check=False, timeout=60)


def test_the_import_contracts_hold():
    ran = lint_imports(ROOT)
    assert (ran.returncode, "0 broken" in ran.stdout) == (0, True), ran.stdout


PLANTED = [
    ("bridge/rules/limiter.py", "import time", "bridge.rules.limiter -> time"),
    ("bridge/ejoin/codes.py", "import asyncio", "bridge.ejoin.codes -> asyncio"),
    ("bridge/models.py", "import sqlite3", "bridge.models -> sqlite3"),
    ("bridge/ejoin/ports.py", "import pydantic", "bridge.ejoin.ports -> pydantic"),
    ("bridge/errors.py", "import bridge.app", "bridge.errors -> bridge.app"),
    ("bridge/store/ledger.py", "import bridge.rules.limiter", "bridge.store.ledger -> bridge.rules.limiter"),
    ("bridge/flows/outbound.py", "import bridge.gateway", "bridge.flows.outbound -> bridge.gateway"),
    ("bridge/helpers.py", "", "helpers"),
]
"""File, line, and how the contracts name it; the last is a new module that nobody gave a layer."""


def test_each_planted_violation_breaks_a_contract_and_is_named(tmp_path):
    shutil.copytree(ROOT / "bridge", tmp_path / "bridge", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for file, line, _ in PLANTED:
        with (tmp_path / file).open("a") as module:
            module.write(f"\n{line}\n")
    ran = lint_imports(tmp_path)
    assert ran.returncode == 1
    assert "3 broken" in ran.stdout, ran.stdout
    assert [name for _, _, name in PLANTED if not re.search(rf"{re.escape(name)}\b", ran.stdout)] == [], ran.stdout


@pytest.mark.parametrize("module", PURE, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_pure_module_asks_a_clock_or_opens_a_file(module):
    calls = [node.func for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.Call)]
    names = {call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "") for call in calls}
    assert not names & {
        "now",
        "utcnow",
        "today",
        "open",
        "__import__",
        "import_module",
        "eval",
        "exec",
        "print",
        "input",
    }


def test_the_example_configuration_is_valid(monkeypatch):
    for name in [name for name in os.environ if name.startswith(settings.ENV_PREFIX)]:
        monkeypatch.delenv(name)
    loaded = settings.load(ROOT / "config.example.yaml")
    assert loaded.gateways
    assert loaded.routes


# --- README: "| 3.1.4 | what happens | `bridge/store/ledger.py:Ledger.begin` |" -------------------------------------


def steps_of_the_walks() -> dict[str, list[tuple[str, str]]]:
    """Step -> (file, name) of each place that README's table names for it."""
    rows = re.findall(r"^\| (3\.[123]\.\d+) \|(.*)$", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    return {step: re.findall(r"`(bridge/[\w/]+\.py):([\w.]+)`", row) for step, row in rows}


def test_readme_names_a_place_for_each_step_of_both_walks_and_each_kind_of_evidence():
    steps = steps_of_the_walks()
    assert [step for step in steps if step.startswith("3.1.")] == [f"3.1.{n}" for n in range(1, 8)]
    callbacks = [step for step in steps if step.startswith("3.2.")]
    assert callbacks == [f"3.2.{n}" for n in range(1, len(callbacks) + 1)]
    assert len(callbacks) >= 4
    assert [step for step in steps if step.startswith("3.3.")] == [f"3.3.{n}" for n in range(1, 5)]
    assert [step for step, places in steps.items() if not places] == []


def test_each_place_that_readme_names_can_be_imported():
    for places in steps_of_the_walks().values():
        for file, name in places:
            found = importlib.import_module(file.removesuffix(".py").replace("/", "."))
            for part in name.split("."):
                found = getattr(found, part)
            assert callable(found), f"{file}:{name}"


# --- nothing of one machine -------------------------------------------------------------------------------------------

HOSTS = [
    "pypi" + ".org",
    "python" + "hosted.org",
    "registry.npm" + "js.org",
    "ghcr" + ".io",
    "docker" + ".io",
    "quay" + ".io",
]
SOURCES = ["index" + "-url", "--find" + "-links", "--trusted" + "-host", "deb." + "debian.org", "goproxy" + "="]


@pytest.mark.parametrize("name", TRACKED)
def test_no_file_says_where_packages_come_from(name):
    text = (ROOT / name).read_bytes().decode(errors="replace").lower() if (ROOT / name).is_file() else ""
    assert [word for word in HOSTS + SOURCES if word in text] == []


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock", "requirements-build.lock"])
def test_the_locks_hold_versions_and_hashes_and_no_addresses(name):
    text = (ROOT / name).read_text()
    assert "://" not in text
    pinned = re.findall(r"^[a-zA-Z0-9]\S*==\S+.*\\$", text, flags=re.MULTILINE)
    assert pinned
    assert len(pinned) == len(re.findall(r"^[a-zA-Z0-9]", text, flags=re.MULTILINE))
    assert len(re.findall(r"--hash=sha256:[0-9a-f]{64}", text)) >= len(pinned)


def test_the_locks_agree_with_each_other():
    def pins(name: str) -> dict[str, str]:
        return dict(re.findall(r"^([a-zA-Z0-9][^=\s]*)==(\S+)", (ROOT / name).read_text(), flags=re.MULTILINE))

    dev = pins("requirements-dev.lock")
    for name in ("requirements.lock", "requirements-build.lock"):
        assert {
            package: (pin, dev.get(package)) for package, pin in pins(name).items() if dev.get(package) != pin
        } == {}
