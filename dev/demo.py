"""The whole thing on this machine: a broker, two simulated gateways of 8 ports, the bridge, and real requests.

Shows each SMS from request to final event and delivery report, an incoming SMS, a port that loses its SIM and gets it
back, a table per port, and the lines to try next. On a terminal it stays up until Ctrl-C; else it ends by itself.
Nothing is left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from dev.broker import BrokerMissing
from dev.stage import FINAL, Stage, StageBroken, stage

console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
STYLES = {
    "sms.submitted": "cyan",
    "sms.sent": "green",
    "sms.delivered": "bold green",
    "sms.received": "bold magenta",
    "sms.rejected": "yellow",
    "sms.expired": "yellow",
    "sms.failed": "red",
    "sms.unknown": "red",
}
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    *(
        ("send.otp", {"id": f"login-{n}", "to": f"+4915550000{n:02d}", "text": f"Your code is {n:06d}"})
        for n in range(1, 5)
    ),
    *(
        ("send.default", {"id": f"order-{n}", "to": f"+4915551000{n:02d}", "text": f"Order {n} is on its way"})
        for n in range(1, 5)
    ),
    ("send.default", {"id": "long-1", "to": "+491555200001", "text": "A long text takes several segments. " * 6}),
    ("send.default", {"id": "list-1", "to": ["+491555300001", "+491555300002"], "text": "To both of you: hello"}),
    ("gateway.gw2", {"id": "pinned-1", "to": "+491555400001", "text": "From port 5 and no other", "ports": "5"}),
    ("send.default", {"id": "typo-1", "to": "0155 500 001", "text": "This number is refused, and says why"}),
    ("send.defualt", {"id": "lost-1", "to": "+491555600001", "text": "There is no such route"}),
]
SMS_EXPECTED = len(REQUESTS) + 1  # the list has two children and no state of its own


class Show:
    """Prints what happens, as it happens, and knows what is still awaited."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.final: set[str] = set()
        self.delivered: set[str] = set()
        self.received = 0
        self.states: dict[str, list[str]] = defaultdict(list)

    def line(self, what: str, words: str, style: str = "") -> None:
        """One line with its time."""
        console.print(f"[dim]{time.monotonic() - self.began:6.2f} s[/]  [{style or 'default'}]{what:<15}[/] {words}")

    def event(self, event: dict[str, Any]) -> None:
        """One event from ``sms.events``."""
        kind, data = event["type"].removesuffix(".v1"), event["data"]
        where = f"{data.get('gateway', '-')}/{data.get('port', '-')}"
        match kind:
            case "sms.received":
                self.received += 1
                self.line(kind, f"{where:<7} from {data['sender']}: {data['text']}", STYLES[kind])
            case "port.changed":
                self.states[where].append(data["state"])
                if "previous" in data:
                    self.line(kind, f"{where:<7} {data['previous']} -> {data['state']}", "blue")
            case _ if kind.startswith("sms."):
                self._sms(kind, event, where)
            case _:
                pass

    def _sms(self, kind: str, event: dict[str, Any], where: str) -> None:
        data, subject = event["data"], event["subject"]
        if kind in FINAL:
            self.final.add(subject)
        if kind == "sms.delivered":
            self.delivered.add(subject)
        told = [f"{where:<7} {subject:<10} to {data.get('to', '-')}"]
        if data.get("segments", 1) > 1:
            told.append(f"({data['segments']} segments)")
        if "reason" in data:
            told.append(f"{data['reason']}: {data.get('detail') or data.get('text') or ''}")
        self.line(kind, " ".join(told), STYLES.get(kind, "default"))


async def play(show: Show) -> None:
    """The whole play; leaves the stage as it found it."""

    def config(settings: dict[str, Any]) -> None:
        settings["amqp"]["prefix"] = "sms" if "AMQP_URL" not in os.environ else settings["amqp"]["prefix"]
        settings["limits"] = {"segments_per_min": 60, "burst": 2}
        settings["routes"] = [{"name": "default", "ports": ["gw1", "gw2"]}, {"name": "otp", "ports": ["gw1:1-4"]}]

    console.print("Starting a broker, two simulated gateways of 8 ports and the bridge ...")
    more = ["--delivery-s", "0.8", "--register-s", "1"]
    async with stage(gateways=2, ports=8, radio_s=0.3, simulate=more, config=config) as play:
        await play.start_bridge()
        console.print("\n[bold]Requests in, events out[/] (limit: 60 segments a minute per SIM)")
        await play.watch(show.event)
        show.began = time.monotonic()
        for key, body in REQUESTS:
            show.line("request", f"{key:<15} {body['id']:<10} to {body['to']}")
            delivery = {"delivery_report": True, "metadata": {"demo": "yes"}} if body["id"] != "typo-1" else {}
            await play.publish(key, body | delivery)
        await until(lambda: len(show.final) >= SMS_EXPECTED and len(show.delivered) >= SMS_EXPECTED - 2)

        console.print("\n[bold]An SMS comes in[/]")
        await play.do("receive_sms", gateway="gw1", port=2, sender="+491555700001", text="STOP, please")
        await until(lambda: show.received >= 1)

        console.print("\n[bold]A port loses its SIM and gets it back[/]")
        await play.do("remove_sim", gateway="gw1", port=3)
        await until(lambda: "no_sim" in show.states["gw1/3"])
        await play.do("insert_sim", gateway="gw1", port=3)
        await until(lambda: show.states["gw1/3"][-1:] == ["registered"])

        console.print()
        console.print(await ports_table(play, time.monotonic() - show.began))
        say_what_next(play)
        if sys.stdout.isatty():
            console.print("\n[bold]All of it stays up until Ctrl-C.[/]")
            await asyncio.Event().wait()


async def until(true: Any, patience_s: float = 60.0) -> None:
    """Wait for something that the events will tell."""
    async with asyncio.timeout(patience_s):
        while not true():  # noqa: ASYNC110  what is awaited is many things, told by one stream
            await asyncio.sleep(0.05)


async def ports_table(play: Stage, elapsed_s: float) -> Table:
    """What /metrics says of each port."""
    ports: dict[tuple[str, int], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for name, labels, value in await samples(play):
        if labels.get("port", "-").isdigit():
            ports[labels["gateway"], int(labels["port"])][name] += value
    table = Table("gateway", "port", "state", "sent", "failed", "waiting", "SMS a minute", title="Ports, from /metrics")
    for (gateway, port), told in sorted(ports.items()):
        sent = told["ejoin_sent_total"]
        state = "registered" if told["ejoin_port_state"] == 3 else f"st {told['ejoin_port_state']:g}"
        cells = (sent, told["ejoin_failed_total"], told["ejoin_port_queued"], sent / elapsed_s * 60)
        table.add_row(gateway, str(port), state, *(f"{cell:.0f}" for cell in cells))
    return table


async def samples(play: Stage) -> Iterator[tuple[str, dict[str, str], float]]:
    """All samples of the bridge's /metrics."""
    text = (await play.http.get(f"{play.web}/metrics")).text
    return ((s.name, s.labels, s.value) for family in text_string_to_metric_families(text) for s in family.samples)


def say_what_next(play: Stage) -> None:
    """The lines that a newcomer would like to try."""
    command = Path(sys.executable).with_name("ejoin-bridge")
    config = play.folder / "config.yaml"
    console.print("\n[bold]Try next[/] (in another terminal, while this one runs)")
    for line in (
        f"{_short(command)} send --config {config} --to +491555800001 --text 'Hello from me' --wait",
        f"{_short(command)} events --config {config}",
        f"{_short(command)} check --config {config}",
        f"curl {play.web}/metrics",
        f"curl {play.web}/readyz",
        f"curl '{play.control}/record?after=0'   # what the simulated devices really did",
    ):
        console.print(f"  {line}", soft_wrap=True)


def _short(path: Path) -> str:
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


async def main() -> int:
    """Play until the end, Ctrl-C or SIGTERM."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        await play(Show())
    except asyncio.CancelledError:
        console.print("\nEnding; nothing is left behind.")
    except (BrokerMissing, StageBroken) as error:
        console.print(str(error), style="red", markup=False)
        return 1
    except (TimeoutError, httpx.HTTPError) as error:
        console.print(f"The demo did not see what it waited for: {error!r}", style="red", markup=False)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
