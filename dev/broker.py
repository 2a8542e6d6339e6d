"""A private RabbitMQ node for tests, demo, proof and bench: loopback only, free ports, everything in a temp folder.

Run as a command it starts one, prints one JSON line with its address, and stops it on SIGTERM, SIGINT or the end of
its standard input. Each line of that input is an order (`["kill"]`, `["restart"]`, `["ctl", "list_queues"]`) and gets
one JSON line as its answer. `node_broker` runs that command behind a pipe: when the caller ends, however it ends, the
pipe ends too and the command takes the node and its folder away. The node and its name server die with the command.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

READY_WITHIN_S = 90.0
STOP_WITHIN_S = 15.0
CTL_WITHIN_S = 30.0
ATTEMPTS = 3
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"

# The wrapper in /usr/sbin insists on root or the rabbitmq user; the script behind it does not.
SERVERS = ("/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server")
CTLS = ("/usr/lib/rabbitmq/bin/rabbitmqctl", "rabbitmqctl")
ON_LOOPBACK = "-kernel inet_dist_use_interface {127,0,0,1}"
GUARD = ("setpriv", "--pdeathsig", "KILL", "--")

HOW_TO_INSTALL = """RabbitMQ was not found. Run this line, then try again:
    sudo apt-get update && sudo apt-get install --yes --no-install-recommends rabbitmq-server
Or set AMQP_URL to a broker that may be used, such as amqp://guest:guest@127.0.0.1:5672/"""

MEMORY = "1GB"
CONFIG = f"""\
listeners.tcp.1 = 127.0.0.1:{{port}}
vm_memory_high_watermark.absolute = {MEMORY}
disk_free_limit.absolute = 50MB
raft.wal_max_size_bytes = 33554432
collect_statistics_interval = 60000
log.file.level = warning
"""


class BrokerMissing(Exception):
    """RabbitMQ is not installed or did not start; the message says what to run, or what RabbitMQ wrote."""


class PortTaken(Exception):
    """Somebody took a port between our finding it free and RabbitMQ's using it."""


class OrderFailed(Exception):
    """An order could not be carried out; the message has what RabbitMQ wrote about it."""


@contextlib.contextmanager
def broker() -> Iterator[str]:
    """The AMQP URL to work with: the broker of AMQP_URL where that is set, else a private one of ours."""
    if url := os.environ.get("AMQP_URL"):
        yield url
        return
    with private_broker() as url:
        yield url


@contextlib.contextmanager
def private_broker() -> Iterator[str]:
    """Run a private node and yield its AMQP URL; nothing is left of it, even where the caller is killed."""
    with node_broker() as node:
        yield node.url


@contextlib.contextmanager
def node_broker() -> Iterator[BrokerNode]:
    """Run a private node that may be broken on purpose; nothing is left of it, even where the caller is killed."""
    with subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a Ctrl-C reaches the caller alone, which stops us in its own order
    ) as command:
        assert command.stdin is not None
        try:
            yield BrokerNode(command)
        finally:
            command.stdin.close()
            command.wait()


class BrokerNode:
    """What may be done to a private node. Each order returns when it is done: call it from a thread beside a loop."""

    def __init__(self, command: subprocess.Popen[str]) -> None:
        self._command = command
        self.url: str = self._answer()["url"]

    def kill(self) -> None:
        """SIGKILL."""
        self._order("kill")

    def pause(self) -> None:
        """SIGSTOP: its sockets stay open and say nothing."""
        self._order("pause")

    def resume(self) -> None:
        """SIGCONT."""
        self._order("resume")

    def alarm(self, *, raised: bool) -> None:
        """Short of memory, or no longer: a broker that is reads nothing more from connections that publish."""
        self.ctl("set_vm_memory_high_watermark", "absolute", "1" if raised else MEMORY)

    def restart(self) -> None:
        """Start it again on the same data and ports, after a stop in good order where it still runs."""
        self._order("restart")

    def ctl(self, *words: str) -> str:
        """What `rabbitmqctl` says; raises OrderFailed where it refuses."""
        return str(self._order("ctl", *words).get("output", ""))

    def _order(self, *words: str) -> dict[str, Any]:
        assert self._command.stdin is not None
        self._command.stdin.write(json.dumps(words) + "\n")
        self._command.stdin.flush()
        answer = self._answer()
        if "error" in answer:
            raise OrderFailed(answer["error"])
        return answer

    def _answer(self) -> dict[str, Any]:
        assert self._command.stdout is not None
        line = self._command.stdout.readline()
        if not line:
            raise BrokerMissing("the private broker did not start, or ended; its reason stands above")
        answer: dict[str, Any] = json.loads(line)
        return answer


class Orders:
    """What comes by standard input, and the end: SIGTERM, SIGINT, SIGHUP or the end of that input."""

    def __init__(self) -> None:
        bell, ring = socket.socketpair()
        self._bell, self._bell_fd = bell, bell.fileno()
        self._unread = b""
        self._ended = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: ring.send(b"."))

    def ended(self, timeout_s: float | None) -> bool:
        """Wait up to `timeout_s`, or until something comes; True where the end was asked for."""
        readable, _, _ = select.select([self._bell_fd, 0], [], [], timeout_s)
        if 0 in readable:
            told = os.read(0, 4096)
            self._unread += told
            self._ended = self._ended or not told
        self._ended = self._ended or self._bell_fd in readable
        return self._ended

    def __iter__(self) -> Iterator[list[str]]:
        """Order by order, until the end."""
        while not self._ended:
            line, newline, rest = self._unread.partition(b"\n")
            if newline:
                self._unread = rest
                yield json.loads(line)
            else:
                self.ended(None)


class Node:
    """One RabbitMQ node and its name server (epmd), as two ordinary children that die with this process."""

    def __init__(self, folder: Path) -> None:
        server = next((found for name in SERVERS if (found := shutil.which(name))), None)
        epmd = shutil.which("epmd")
        if server is None or epmd is None:
            raise BrokerMissing(HOW_TO_INSTALL)
        self._folder = folder
        self._port, distribution_port, epmd_port = free_ports(3)
        self.url = f"amqp://guest:guest@127.0.0.1:{self._port}/"
        (folder / "rabbitmq.conf").write_text(CONFIG.format(port=self._port))
        (folder / "enabled_plugins").write_text("[].\n")
        (folder / "env.conf").touch()
        cookie = folder / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(16))
        cookie.chmod(0o400)
        self._environment = environment(folder, distribution_port, epmd_port)
        self._command = server
        self._name_server = self._spawn(epmd, "-port", str(epmd_port), "-address", "127.0.0.1")
        self._wait_for_name_server(epmd_port)  # without it Erlang would start one of its own, which nobody stops
        self.start()

    def start(self) -> None:
        """Start the node itself, on the data that it has."""
        self.server = self._spawn(self._command)

    def _spawn(self, *command: str) -> subprocess.Popen[bytes]:
        with (self._folder / "output.log").open("ab") as output:
            return subprocess.Popen(
                [*GUARD, *command],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def ctl(self, words: Sequence[str]) -> str:
        """What `rabbitmqctl` says; raises OrderFailed where it refuses or does not end."""
        command = next((found for name in CTLS if (found := shutil.which(name))), CTLS[-1])
        try:
            done = subprocess.run(
                [*GUARD, command, "--quiet", *words],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=CTL_WITHIN_S,
                check=True,
            )
        except subprocess.SubprocessError as error:
            told = str(getattr(error, "stderr", None) or getattr(error, "stdout", None) or "").strip()
            raise OrderFailed(f"rabbitmqctl {' '.join(words)}: {told[:500] or error}") from error
        return done.stdout

    def _wait_for_name_server(self, port: int) -> None:
        deadline = time.monotonic() + STOP_WITHIN_S
        while self._name_server.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return
            time.sleep(0.02)
        self._name_server.kill()
        self._name_server.wait()
        raise PortTaken(f"the Erlang name server did not start:\n{self._last_words()}")

    def answers(self) -> bool:
        """Whether the node speaks AMQP by now; raises BrokerMissing or PortTaken where it has ended instead."""
        if self.server.poll() is not None:
            told = self._last_words()
            reason = PortTaken if "eaddrinuse" in told else BrokerMissing
            raise reason(f"RabbitMQ ended with {self.server.returncode}:\n{told}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=5) as client:
            client.sendall(PROTOCOL_HEADER)
            return bool(client.recv(1))
        return False

    def _last_words(self) -> str:
        written = [path.read_text(errors="replace") for path in sorted(self._folder.glob("**/*.log"))]
        return "\n".join(written)[-4000:]

    def kill(self) -> None:
        """End the node as a crash would."""
        self.server.kill()
        self.server.wait()

    def stop(self) -> None:
        """Stop the node, then its name server."""
        end(self.server)
        end(self._name_server)


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop a process in good order; kill it where it does not stop in time."""
    process.terminate()
    process.send_signal(signal.SIGCONT)  # one that is paused would not hear of it
    try:
        process.wait(STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def environment(folder: Path, distribution_port: int, epmd_port: int) -> dict[str, str]:
    """Everything RabbitMQ would otherwise take from /etc, /var and the default ports."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "HOME": str(folder),
        "ERL_EPMD_PORT": str(epmd_port),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RUNNING_UNDER_SYSTEMD": "true",  # the script becomes the node instead of its parent
        "RABBITMQ_NODENAME": f"ejoin-{distribution_port}@localhost",
        "RABBITMQ_DIST_PORT": str(distribution_port),
        "RABBITMQ_CONF_ENV_FILE": str(folder / "env.conf"),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_MNESIA_DIR": str(folder / "data" / "node"),
        "RABBITMQ_FEATURE_FLAGS_FILE": str(folder / "data" / "feature_flags"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_PID_FILE": str(folder / "node.pid"),
        # Two schedulers, not bound to a core: several nodes share a small machine.
        "RABBITMQ_SCHEDULER_BIND_TYPE": "u",
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{ON_LOOPBACK} +S 2:2 +SDcpu 1:1 +SDio 2",
        "RABBITMQ_CTL_ERL_ARGS": ON_LOOPBACK,
    }


def free_ports(count: int) -> list[int]:
    """Different TCP ports that are free on the loopback interface right now."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def main() -> int:
    """Run one node until the end is asked for."""
    orders = Orders()
    with tempfile.TemporaryDirectory(prefix="ejoin-broker-", ignore_cleanup_errors=True) as folder:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                serve(Path(folder) / str(attempt), orders)
            except PortTaken as error:
                if attempt == ATTEMPTS:
                    print(error, file=sys.stderr)
                    return 1
            except BrokerMissing as error:
                print(error, file=sys.stderr)
                return 1
            else:
                return 0
    return 1


def serve(folder: Path, orders: Orders) -> None:
    """Start a node, say where it is, do what is ordered, stop it in the end."""
    folder.mkdir()
    node = Node(folder)
    try:
        if not is_ready(node, orders):
            return
        print(json.dumps({"url": node.url, "pid": node.server.pid, "folder": str(folder)}), flush=True)
        for words in orders:
            try:
                answer = carry_out(words, node, orders)
            except (OrderFailed, BrokerMissing, PortTaken) as error:
                answer = {"error": str(error)}
            print(json.dumps(answer), flush=True)
    finally:
        node.stop()


def carry_out(words: list[str], node: Node, orders: Orders) -> dict[str, Any]:
    """Do one order; what there is to say about it."""
    match words:
        case ["kill"]:
            node.kill()
        case ["pause"]:
            node.server.send_signal(signal.SIGSTOP)
            # The signal is only sent by then: a node that is busy may still confirm what comes meanwhile.
            os.waitid(os.P_PID, node.server.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        case ["resume"]:
            node.server.send_signal(signal.SIGCONT)
        case ["restart"]:
            end(node.server)
            node.start()
            is_ready(node, orders)
        case ["ctl", *told]:
            return {"output": node.ctl(told)}
        case _:
            raise OrderFailed(f"there is no order {' '.join(words)}")
    return {}


def is_ready(node: Node, orders: Orders) -> bool:
    """Wait until the node is ready; False where the end was asked for before that."""
    deadline = time.monotonic() + READY_WITHIN_S
    while not node.answers():
        if orders.ended(0.1):
            return False
        if time.monotonic() > deadline:
            raise BrokerMissing(f"RabbitMQ was not ready after {READY_WITHIN_S:.0f} s")
    return True


if __name__ == "__main__":
    sys.exit(main())
