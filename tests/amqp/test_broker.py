"""The private node that the other tests stand on."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from yarl import URL

from dev import broker as broker_room

CALLER = """
import sys
from dev.broker import node_broker
with node_broker() as node:
    {order}
    print(node.url, flush=True)
    sys.stdin.read()
"""


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def address_of(node: broker_room.BrokerNode) -> tuple[str, int]:
    url = URL(node.url)
    return str(url.host), int(url.port or 0)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize("order", ["pass", "node.pause()"])
def test_a_killed_caller_leaves_no_process_and_no_file(order):
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER.format(order=order)],
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


def test_a_node_can_be_broken_in_every_way_and_comes_back_with_what_it_had(broken_node):
    node = broken_node
    node.ctl("set_cluster_name", "kept")
    node.alarm(raised=True)
    assert "memory" in node.ctl("eval", "rabbit_alarm:get_alarms().")
    node.alarm(raised=False)
    assert "memory" not in node.ctl("eval", "rabbit_alarm:get_alarms().")
    node.kill()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address_of(node))
    node.restart()
    assert "kept" in node.ctl("cluster_status")
    node.pause()
    with socket.create_connection(address_of(node)) as client:
        client.sendall(broker_room.PROTOCOL_HEADER)
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(1)
        node.resume()
        client.settimeout(20)
        assert client.recv(1)


def test_an_order_that_rabbitmqctl_refuses_is_answered_with_its_words(broken_node):
    with pytest.raises(broker_room.OrderFailed, match=r"rabbitmqctl nonsense: .*not found"):
        broken_node.ctl("nonsense")


def test_a_missing_rabbitmq_is_answered_with_the_line_to_run(tmp_path, monkeypatch):
    monkeypatch.setattr(broker_room, "SERVERS", ("/nowhere/rabbitmq-server",))
    with pytest.raises(broker_room.BrokerMissing, match=r"sudo apt-get install .* rabbitmq-server"):
        broker_room.Node(tmp_path)


def test_a_broker_given_in_the_environment_is_used_as_it_is(monkeypatch):
    monkeypatch.setenv("AMQP_URL", "amqp://somebody@elsewhere/")
    with broker_room.broker() as url:
        assert url == "amqp://somebody@elsewhere/"
