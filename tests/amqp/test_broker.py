"""The private node that the other tests stand on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dev import broker as broker_room

CALLER = """
import sys
from dev.broker import private_broker
with private_broker() as url:
    print(url, flush=True)
    sys.stdin.read()
"""


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    except FileNotFoundError:
        return True


def test_a_killed_caller_leaves_no_process_and_no_file():
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER],
        cwd=Path(broker_room.__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with caller:
        assert caller.stdout.readline().startswith("amqp://guest:guest@127.0.0.1:")
        (command,) = children_of(caller.pid)
        node = children_of(command)
        folder = Path(f"/proc/{node[0]}/cwd").resolve()
        assert len(node) == 2
        assert folder.is_dir()

        os.kill(caller.pid, signal.SIGKILL)

        deadline = time.monotonic() + 20
        while not all(map(gone, [command, *node])) and time.monotonic() < deadline:
            time.sleep(0.05)
    assert all(map(gone, [command, *node]))
    assert not folder.exists()


def test_a_missing_rabbitmq_is_answered_with_the_line_to_run(tmp_path, monkeypatch):
    monkeypatch.setattr(broker_room, "SERVERS", ("/nowhere/rabbitmq-server",))
    with pytest.raises(broker_room.BrokerMissing, match=r"sudo apt-get install .* rabbitmq-server"):
        broker_room.Node(tmp_path)


def test_a_broker_given_in_the_environment_is_used_as_it_is(monkeypatch):
    monkeypatch.setenv("AMQP_URL", "amqp://somebody@elsewhere/")
    with broker_room.broker() as url:
        assert url == "amqp://somebody@elsewhere/"
