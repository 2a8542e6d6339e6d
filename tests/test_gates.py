"""The gates bite: a planted fault in a small project of its own makes each of them fail, and name it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dev import pure_rooms

ROOT = Path(__file__).parent.parent


def run_pytest(folder: Path, test: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The given test file, under the plugin of `make test`."""
    (folder / "test_it.py").write_text(test)
    command = [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", "-p", "dev.strict", str(folder)]
    command += options
    known = {name: value for name, value in os.environ.items() if name != "AMQP_URL"}
    return subprocess.run(
        command, cwd=ROOT, env=known | environment, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize("options", [[], ["--numprocesses", "2"]])
def test_tests_that_are_left_out_fail_the_run_and_are_named(tmp_path, options):
    ways = ['pytest.skip("no time")', 'pytest.xfail("known")', 'pytest.importorskip("no_such_module")']
    tests = [f"def test_lazy_{n}():\n    {way}\n" for n, way in enumerate(ways)]
    ran = run_pytest(tmp_path, "import pytest\n\n\n" + "\n\n".join(tests), *options)
    assert ran.returncode == 1
    named = {line.split("::")[1].split(":")[0] for line in ran.stdout.splitlines() if line.startswith("LEFT OUT")}
    assert named == {"test_lazy_0", "test_lazy_1", "test_lazy_2"}


def test_a_run_without_left_out_tests_passes(tmp_path):
    assert run_pytest(tmp_path, "def test_whole():\n    assert True\n").returncode == 0


def test_a_test_may_step_aside_for_a_broker_that_is_not_ours(tmp_path):
    test = 'import pytest\n\n\ndef test_kill():\n    pytest.skip("would stop the broker of AMQP_URL")\n'
    assert run_pytest(tmp_path, test, AMQP_URL="amqp://somewhere/").returncode == 0
    assert run_pytest(tmp_path, test).returncode == 1


MODULE = "def sign(n: int) -> int:\n    if n < 0:\n        return -1\n    return 1\n"
BOTH = "from bridge.rules.sign import sign\n\n\ndef test_both():\n    assert sign(-1) == -1\n    assert sign(1) == 1\n"
ONE = "from bridge.rules.sign import sign\n\n\ndef test_one():\n    assert sign(1) == 1\n"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of one pure module, as the gate expects to find it."""
    for folder in ("bridge/ejoin", "bridge/rules", "tests/ejoin", "tests/rules"):
        (tmp_path / folder).mkdir(parents=True)
    for package in ("bridge", "bridge/ejoin", "bridge/rules"):
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\npythonpath = ["."]\n')
    (tmp_path / "bridge/rules/sign.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_gate_opens_for_a_module_whole_with_its_own_test_file(project, capfd):
    (project / "tests/rules/test_sign.py").write_text(BOTH)
    assert pure_rooms.main(project) == 0
    assert "each branch taken by its own test file" in capfd.readouterr().out


def test_the_gate_names_the_module_whose_branches_its_own_test_file_leaves_out(project, capfd):
    (project / "tests/rules/test_sign.py").write_text(ONE)
    (project / "tests/rules/test_other.py").write_text(BOTH)
    assert pure_rooms.main(project) == 1
    assert "not whole with tests/rules/test_sign.py alone: bridge/rules/sign.py" in capfd.readouterr().out


def test_the_gate_stays_shut_when_a_test_fails(project):
    (project / "tests/rules/test_sign.py").write_text(BOTH.replace("== 1", "== 2"))
    assert pure_rooms.main(project) == 1


def test_the_gate_sees_a_module_that_no_test_imports(project, capfd):
    (project / "tests/rules/test_sign.py").write_text(BOTH)
    (project / "bridge/ejoin/lonely.py").write_text(MODULE)
    assert pure_rooms.main(project) == 1
    assert "bridge/ejoin/lonely.py" in capfd.readouterr().out
