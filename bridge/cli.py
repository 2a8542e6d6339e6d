"""The command line: reads its arguments, calls the rooms that do the work, shows what came of it.

``run``, ``check``, ``topology``, ``simulate`` and ``ledger`` act here; all others go through the broker, so they work
from anywhere that reaches it. Tables for people, ``--json`` for programs. A mistake of the operator is a sentence on
standard error: exit code 2 where arguments or settings are wrong, 1 where something could not be done.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import json
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar
from urllib.parse import unquote, urlsplit

import aio_pika
import aio_pika.exceptions
import typer
import uvloop
import yaml
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from bridge import logs, settings
from bridge.amqp import letters as letters_room
from bridge.amqp import topology as topology_room
from bridge.amqp.letters import Letter, LetterBox
from bridge.amqp.topology import Topology
from bridge.errors import BridgeError, BrokerUnavailable, LetterUnknown, RequestInvalid, SettingsInvalid
from bridge.models import read_command, stamp
from bridge.settings import AmqpSettings, Settings

APP_ID = "ejoin-bridge"
"""The AMQP ``app_id`` of what ``send`` publishes: a key is unique per app_id (design 1.2)."""

COLUMNS = {
    "sims": ("port", "state", "iccid", "number", "operator", "balance", "signal"),
    "rows": ("port", "at", "sender", "receiver", "text", "recipient", "code"),
}
"""What people look for in the longest tables; programs get all of it."""

CONNECT_TIMEOUT_S = 10.0
SLOWEST_COMMAND_S = 210.0
"""A card may need three minutes to register, and the gateway as long as a POST may take to answer."""

EXIT_FAILED, EXIT_WRONG, EXIT_INTERRUPTED = 1, 2, 130
FINAL = {"sms.sent.v1", "sms.failed.v1", "sms.expired.v1", "sms.rejected.v1", "sms.unknown.v1"}
COLOURS = {"sent": "green", "delivered": "green", "received": "cyan", "submitted": "blue", "up": "green"}
Result = TypeVar("Result")
BAD = {"failed", "expired", "rejected", "unknown", "undelivered", "down", "unrecognised", "report_unmatched"}

app = typer.Typer(
    name=APP_ID,
    help="RabbitMQ in, SMS out through Ejoin GSM gateways, everything they call back as typed events.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ledger = typer.Typer(help="Look after the ledger's file (store.path), here and beside a running bridge.")
app.add_typer(ledger, name="ledger")

dead = typer.Typer(help="Look after the dead letters: what could not be read or placed. They are kept for 14 days.")
app.add_typer(dead, name="dead")

ports = typer.Typer(help="Command ports of a gateway: 3, 1A,2.02, 1-4, 1.01-64.01, all.")
app.add_typer(ports, name="ports")

gateways = typer.Typer(help="Command gateways, and ask them what they have counted.")
app.add_typer(gateways, name="gateways")

tasks = typer.Typer(help="Look after what waits in a gateway, by task ids.")
app.add_typer(tasks, name="tasks")

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Configuration file. Default: $EJOIN_CONFIG, else ./config.yaml."),
]
UrlOption = Annotated[
    str | None, typer.Option("--amqp-url", help="The broker, where there is no configuration file at hand.")
]
PrefixOption = Annotated[
    str | None, typer.Option("--prefix", help="With --amqp-url: first word of exchanges and queues. Default: sms.")
]
IdsArgument = Annotated[list[str] | None, typer.Argument(metavar="ID...", help="As `dead list` shows them.")]
ReasonOption = Annotated[str | None, typer.Option("--reason", help="All letters with this reason.")]
JsonOption = Annotated[bool, typer.Option("--json", help="For programs.")]
GatewayArgument = Annotated[str, typer.Argument(metavar="GATEWAY", help="Its name in the configuration.")]
PortsArgument = Annotated[str, typer.Argument(metavar="PORTS", help="3, 1A,2.02, 1-4, 1.01-64.01, or all.")]
TidsArgument = Annotated[list[int], typer.Argument(metavar="TID...", help="Task ids, as events name them.")]
YesOption = Annotated[bool, typer.Option("--yes", help="It cannot be taken back: say so.")]
PortsOption = Annotated[str, typer.Option("--ports", help="Some ports.")]
SlotsOption = Annotated[str | None, typer.Option(help='Some slots, or "all"; else the cards in use.')]
SpanOption = Annotated[str, typer.Option(help="hour, two_hours, day, or all since its start.")]


def main() -> None:
    """Run the command line; what is raised for the operator becomes a sentence and an exit code."""
    try:
        app()
    except SettingsInvalid as error:
        _give_up(str(error), EXIT_WRONG)
    except BridgeError as error:
        _give_up(str(error), EXIT_FAILED)


def _give_up(sentences: str, code: int) -> NoReturn:
    print(sentences, file=sys.stderr)  # noqa: T201 - as it is: rich would wrap it and read its brackets
    sys.exit(code)


# --- what acts here --------------------------------------------------------------------------------------------------


@app.command()
def run(config: ConfigOption = None) -> None:
    """Run the bridge until SIGTERM or Ctrl-C."""
    checked = _load(config)
    from bridge import app as daemon  # noqa: PLC0415 - it knows everyone; the other commands start without it

    raise typer.Exit(_run(daemon.run(checked)))


@app.command()
def check(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Check the configuration; print it as it is in force, secrets masked, and what follows from it."""
    try:
        checked = _load(config)
    except SettingsInvalid as error:
        if as_json:
            _print_json({"mistakes": str(error).splitlines()})
            raise typer.Exit(EXIT_WRONG) from error
        raise
    effective, derived = settings.effective(checked), settings.derived(checked)
    if as_json:
        _print_json({"effective": effective, "derived": derived})
        return
    console = _console()
    console.print(Text(yaml.safe_dump(effective, sort_keys=False, allow_unicode=True)), soft_wrap=True)
    _print_derived(console, derived)


@app.command()
def topology(
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="A RabbitMQ definitions file.")] = False,
    declare: Annotated[bool, typer.Option("--declare", help="Declare it at the broker.")] = False,
) -> None:
    """Print the exchanges, queues and bindings, and the permissions each kind of user needs."""
    checked = _load(config)
    wanted = Topology(
        prefix=checked.amqp.prefix,
        routes=tuple(route.name for route in checked.routes),
        gateways=tuple(gateway.name for gateway in checked.gateways),
    )
    if declare:
        _run(_declare(checked.amqp, wanted))
    if as_json:
        _print_json(topology_room.definitions(wanted))
        return
    _print_topology(_console(), wanted)
    if declare:
        _console().print("Declared.")


@ledger.command("check")
def check_ledger(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Verify the ledger's file and what its rows promise; exit code 1 where something is broken. Reads only."""
    from bridge.store import upkeep  # noqa: PLC0415 - the other commands start without it

    report = dataclasses.asdict(upkeep.check(_load(config).store.path, time.time()))
    if as_json:
        _print_json(report)
    else:
        _print_report(_console(), report)
    raise typer.Exit(EXIT_FAILED if report["violations"] else 0)


@ledger.command("backup")
def back_up_ledger(
    target: Annotated[Path, typer.Argument(help="The file to make.")],
    config: ConfigOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file where it is there already.")] = False,
) -> None:
    """Copy the ledger as it is now into a new file, while the bridge runs. To restore: put it at store.path."""
    from bridge.store import upkeep  # noqa: PLC0415 - the other commands start without it

    size = upkeep.copy_ledger(_load(config).store.path, target, force=force)
    _console().print(Text(f"{target}: {size:,} bytes, complete and readable."))


@app.command()
def simulate(
    gateways: Annotated[int, typer.Option(help="Gateways; gateway i listens on the port of --listen + i - 1.")] = 2,
    ports: Annotated[int, typer.Option(help="Ports of each.")] = 8,
    slots: Annotated[int, typer.Option(help="Cards of each port; the first is in use.")] = 1,
    listen: Annotated[str, typer.Option(help="Address of the first gateway; port 0 takes free ones.")] = (
        "127.0.0.1:9001"
    ),
    control: Annotated[str, typer.Option(help="Address of GET /record and POST /do.")] = "127.0.0.1:9100",
    radio_s: Annotated[float, typer.Option(help="Time on air of one segment.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Of the random numbers.")] = 1,
    username: Annotated[str, typer.Option(help="Of the gateways' HTTP API.")] = "root",
    password: Annotated[str, typer.Option(help="Of the gateways' HTTP API.")] = "root",  # noqa: S107 - the devices' own
    remember_tids: Annotated[bool, typer.Option("--remember-tids", help="Refuse finished task ids too.")] = False,
    failure_rate: Annotated[float, typer.Option(help="Share of sends that the network refuses.")] = 0.0,
    lie_rate: Annotated[float, typer.Option(help="Share of sends on air that are told as failed.")] = 0.0,
    delivery_s: Annotated[float, typer.Option(help="From on air to the delivery report.")] = 1.0,
    register_s: Annotated[float, typer.Option(help="From inserting a SIM to registered.")] = 2.0,
    sent_sms: Annotated[bool, typer.Option("--sent-sms", help="Push sent-sms for every send.")] = False,
    multiply: Annotated[
        bool, typer.Option("--multiply", help="Every named port sends to every recipient; else they share them out.")
    ] = False,
    day_cap: Annotated[int | None, typer.Option(help="SMS that a card may send, as the device counts.")] = None,
    dialect: Annotated[
        list[str] | None, typer.Option(help="How they write, name=value (ports=letters); give it several times.")
    ] = None,
    max_tasks: Annotated[int, typer.Option(help="Live tasks that a gateway takes.")] = 10_000,
    min_period_s: Annotated[float, typer.Option(help="Shortest period of dev-status.")] = 60.0,
) -> None:
    """Run simulated gateways; one JSON line with all addresses says that they are ready."""
    from bridge.simulator.encode import Dialect  # noqa: PLC0415 - the other commands start without it
    from bridge.simulator.main import serve  # noqa: PLC0415
    from bridge.simulator.options import SimulatorOptions  # noqa: PLC0415

    options = SimulatorOptions(
        gateways=gateways,
        ports=ports,
        slots=slots,
        listen=listen,
        control=control,
        radio_s=radio_s,
        seed=seed,
        username=username,
        password=password,
        remember_tids=remember_tids,
        failure_rate=failure_rate,
        lie_rate=lie_rate,
        delivery_s=delivery_s,
        register_s=register_s,
        sent_sms=sent_sms,
        multiply=multiply,
        day_cap=day_cap,
        dialect=Dialect.of(dialect or ()),
        max_tasks=max_tasks,
        min_period_s=min_period_s,
    )
    logs.configure("warning", "console")

    async def until_told() -> None:
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        await serve(options, _print_json, stopping)

    _run(until_told())


# --- what goes through the broker ------------------------------------------------------------------------------------


@app.command()
def send(
    to: Annotated[str, typer.Option(help="The recipient: +<country><number>.")],
    text: Annotated[str, typer.Option(help="The text.")],
    route: Annotated[str | None, typer.Option(help="The route to take. Default: default.")] = None,
    gateway: Annotated[str | None, typer.Option(help="Pin the SMS to this gateway instead.")] = None,
    request_id: Annotated[str | None, typer.Option("--id", help="Idempotency key. Default: a new one.")] = None,
    config: ConfigOption = None,
    amqp_url: UrlOption = None,
    prefix: PrefixOption = None,
    wait: Annotated[bool, typer.Option("--wait", help="Print this SMS's events until the final one.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Publish one send request; with --wait, exit code 0 says that it was sent."""
    if route is not None and gateway is not None:
        raise SettingsInvalid("--route and --gateway exclude each other (name one of them)")
    key = f"send.{route or 'default'}" if gateway is None else f"gateway.{gateway}"
    message = aio_pika.Message(
        json.dumps({"to": to, "text": text}).encode(),
        content_type="application/json",
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        message_id=request_id or str(uuid.uuid4()),
        app_id=APP_ID,
        timestamp=time.time(),
    )
    raise typer.Exit(_run(_send(_broker(config, amqp_url, prefix), key, message, wait=wait, show=_shower(as_json))))


@app.command()
def events(
    config: ConfigOption = None,
    amqp_url: UrlOption = None,
    prefix: PrefixOption = None,
    pattern: Annotated[str, typer.Option("--filter", help="A binding key: sms.#, sms.received.#, #.gw1.3.")] = "#",
    as_json: JsonOption = False,
) -> None:
    """Print events as they come, until Ctrl-C; what came before is not told."""
    _run(_watch(_broker(config, amqp_url, prefix), pattern, _shower(as_json)), interrupted=0)


@dead.command("list")
def list_letters(
    config: ConfigOption = None, amqp_url: UrlOption = None, prefix: PrefixOption = None, as_json: JsonOption = False
) -> None:
    """List the dead letters, oldest first; they stay where they are."""

    async def read(box: LetterBox) -> list[Letter]:
        return await _read(box, with_body=lambda _: False)

    found = _run(_at_box(_broker(config, amqp_url, prefix), read))
    if as_json:
        _print_json({"letters": [_as_row(letter) for letter in found]})
    else:
        _print_letters(_console(), found)


@dead.command("show")
def show_letter(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="As `dead list` shows it.")],
    config: ConfigOption = None,
    amqp_url: UrlOption = None,
    prefix: PrefixOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show everything of one dead letter: it may hold numbers and texts."""

    async def read(box: LetterBox) -> list[Letter]:
        return await _chosen(box, [letter_id], reason=None)

    (letter,) = _run(_at_box(_broker(config, amqp_url, prefix), read))
    told = _as_row(letter) | {"headers": _plain(letter.headers), "body": _body(letter.body)}
    if as_json:
        _print_json(told)
        return
    table = _table("member", "value")
    for name, value in told.items():
        table.add_row(name, Text(_printable("" if value is None else str(value))))
    _console().print(table)


@dead.command("drop")
def drop_letters(
    ids: IdsArgument = None,
    reason: ReasonOption = None,
    everything: Annotated[bool, typer.Option("--all", help="All letters.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask first.")] = False,
    config: ConfigOption = None,
    amqp_url: UrlOption = None,
    prefix: PrefixOption = None,
) -> None:
    """Delete dead letters for good."""
    if bool(ids) == bool(everything or reason):
        raise SettingsInvalid("name the letters by their ids, or by --reason, or say --all")
    if not yes and not sys.stdin.isatty():
        raise SettingsInvalid("dead drop asks before it deletes: say --yes where nobody can answer")

    async def count(box: LetterBox) -> list[str]:
        return [letter.letter_id for letter in await _chosen(box, ids, reason=reason)]

    async def drop(box: LetterBox) -> int:
        letters = await _chosen(box, ids, reason=reason)
        for letter in letters:
            await box.drop(letter)
        return len(letters)

    amqp = _broker(config, amqp_url, prefix)
    if not yes:  # no letter is in hand while somebody thinks, and only what was counted goes
        ids = _run(_at_box(amqp, count))
        if not ids or not typer.confirm(f"Delete {len(ids)} letters for good?"):
            _console().print("Nothing was deleted.")
            return
    _console().print(f"{_run(_at_box(amqp, drop))} letters were deleted.")


@dead.command("replay")
def replay_letters(
    ids: IdsArgument = None,
    reason: ReasonOption = None,
    config: ConfigOption = None,
    amqp_url: UrlOption = None,
    prefix: PrefixOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have the bridge take dead letters up again, under their own ids; exit code 1 where it refused one."""
    if bool(ids) == bool(reason):
        raise SettingsInvalid("name the letters by their ids, or by --reason")
    console = _console()

    async def replay(box: LetterBox) -> bool:
        refused = False
        letters = await _chosen(box, ids, reason=reason)
        if not letters and not as_json:
            console.print(Text(f"There is no dead letter with the reason {reason}."))
        for letter in letters:
            told = await _replay(box, letter)
            refused = refused or told["outcome"] != "done"
            if as_json:
                _print_json(told)
            else:
                console.print(Text(_printable(f"{letter.letter_id}: {told['outcome']}: {told['detail']}")))
        return refused

    raise typer.Exit(EXIT_FAILED if _run(_at_box(_broker(config, amqp_url, prefix), replay)) else 0)


async def _replay(box: LetterBox, letter: Letter) -> dict[str, Any]:
    """What the bridge says to one letter; only after its yes the letter leaves the queue."""
    try:
        command = letter.replay()
    except ValueError:
        detail = "its body is no text: ask anew with a mended request and a new id, then drop the letter"
        return {"id": letter.letter_id, "outcome": "refused", "reason": "unreadable", "detail": detail}
    event = await box.ask(command)
    if event["type"] == "command.done.v1":
        await box.drop(letter)
        return {"id": letter.letter_id, "outcome": "done", "detail": event["data"]["detail"]}
    told = event["data"]
    return {"id": letter.letter_id, "outcome": "refused", "reason": told["reason"], "detail": told["detail"]}


# --- what a gateway carries out --------------------------------------------------------------------------------------


def _port_command(name: str, sentence: str) -> None:
    """One of the commands that are about ports and nothing else."""

    @ports.command(name, help=sentence)
    def command(
        gateway: GatewayArgument,
        notation: PortsArgument,
        config: ConfigOption = None,
        amqp_url: UrlOption = None,
        prefix: PrefixOption = None,
        as_json: JsonOption = False,
    ) -> None:
        _operate(_broker(config, amqp_url, prefix), gateway, {"command": name, "ports": notation}, as_json)


for _name, _sentence in {
    "lock": "Take ports out of service.",
    "unlock": "Put locked ports back into service.",
    "switch": "Change to another card, named by its slot: 1.02; done when it is registered.",
    "reset": "Start radio modules anew; done when their cards are registered again.",
}.items():
    _port_command(_name, _sentence)


@app.command()
def sims(
    gateway: GatewayArgument,
    notation: Annotated[str | None, typer.Option("--ports", help="Some ports.")] = None,
    config: ConfigOption = None,
    amqp_url: UrlOption = None,
    prefix: PrefixOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show every card of a gateway, also those that are not in use."""
    _operate(_broker(config, amqp_url, prefix), gateway, {"command": "sims", "ports": notation}, as_json)


@app.command()
def inbox(
    gateway: GatewayArgument,
    start: Annotated[int, typer.Option(help="The first id.")] = 1,
    count: Annotated[int, typer.Option(help="Rows, 50 at most.")] = 50,
    delete: Annotated[bool, typer.Option("--delete", help="Delete these rows; they are shown once more.")] = False,
    yes: YesOption = False,
    config: ConfigOption = None,
    amqp_url: UrlOption = None,
    prefix: PrefixOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what lies in a gateway's inbox: numbers and texts."""
    asked = {"command": "delete_inbox" if delete else "inbox", "start": start, "count": count}
    _operate(_broker(config, amqp_url, prefix), gateway, asked | ({"confirm": yes} if delete else {}), as_json)


@app.command()
def ussd(
    gateway: GatewayArgument,
    port: Annotated[str, typer.Argument(metavar="PORT", help="3, 1A or 1.01.")],
    code: Annotated[str, typer.Argument(metavar="CODE", help="*100#, or a choice from the last menu: 1.")],
    timeout_s: Annotated[int, typer.Option(help="How long the network may take.")] = 120,
    retries: Annotated[int, typer.Option(help="A top-up could be paid twice.")] = 0,
    config: ConfigOption = None,
    amqp_url: UrlOption = None,
    prefix: PrefixOption = None,
    as_json: JsonOption = False,
) -> None:
    """Call a USSD code from a port and show the network's answer."""
    asked = {"command": "ussd", "port": port, "code": code, "timeout_s": timeout_s, "retries": retries}
    _operate(_broker(config, amqp_url, prefix), gateway, asked, as_json)


@tasks.command("list")
def list_tasks(
    gateway: GatewayArgument,
    port: Annotated[int, typer.Argument(metavar="PORT")],
    config: ConfigOption = None,
    amqp_url: UrlOption = None,
    prefix: PrefixOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what waits in the gateway for a port."""
    _operate(_broker(config, amqp_url, prefix), gateway, {"command": "tasks", "port": port}, as_json)


@tasks.command("pause")
def pause_tasks(
    gateway: GatewayArgument,
    tids: TidsArgument,
    config: ConfigOption = None,
    amqp_url: UrlOption = None,
    prefix: PrefixOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let tasks wait that the gateway has not begun."""
    _operate(_broker(config, amqp_url, prefix), gateway, {"command": "pause_tasks", "tids": tids}, as_json)


@tasks.command("resume")
def resume_tasks(
    gateway: GatewayArgument,
    tids: TidsArgument,
    config: ConfigOption = None,
    amqp_url: UrlOption = None,
    prefix: PrefixOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let paused tasks go on."""
    _operate(_broker(config, amqp_url, prefix), gateway, {"command": "resume_tasks", "tids": tids}, as_json)


@tasks.command("remove")
def remove_tasks(
    gateway: GatewayArgument,
    tids: TidsArgument,
    yes: YesOption = False,
    config: ConfigOption = None,
    amqp_url: UrlOption = None,
    prefix: PrefixOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take tasks out of the gateway that it has not begun; their SMS are in doubt then."""
    asked = {"command": "remove_tasks", "tids": tids, "confirm": yes}
    _operate(_broker(config, amqp_url, prefix), gateway, asked, as_json)


@gateways.command("save")
def save_settings(
    gateway: GatewayArgument,
    config: ConfigOption = None,
    amqp_url: UrlOption = None,
    prefix: PrefixOption = None,
    as_json: JsonOption = False,
) -> None:
    """Keep the device's settings beyond its next start."""
    _operate(_broker(config, amqp_url, prefix), gateway, {"command": "save"}, as_json)


@gateways.command("reboot")
def reboot(
    gateway: GatewayArgument,
    yes: YesOption = False,
    config: ConfigOption = None,
    amqp_url: UrlOption = None,
    prefix: PrefixOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start the device anew: it forgets its tasks, and what it had in hand is in doubt."""
    _operate(_broker(config, amqp_url, prefix), gateway, {"command": "reboot", "confirm": yes}, as_json)


@gateways.command("probe")
def probe(
    gateway: GatewayArgument,
    config: ConfigOption = None,
    amqp_url: UrlOption = None,
    prefix: PrefixOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how a gateway is reached, what it is, and which questions it answers."""
    _operate(_broker(config, amqp_url, prefix), gateway, {"command": "probe"}, as_json)


@gateways.command("setup")
def set_up(
    gateway: GatewayArgument,
    config: ConfigOption = None,
    amqp_url: UrlOption = None,
    prefix: PrefixOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell a gateway where to call back, wait for a push as the proof, and show what its page must have."""
    if not as_json:
        _console().print(Text(f"URL: {_told_url(config, gateway, amqp_url)}"))
    _operate(_broker(config, amqp_url, prefix), gateway, {"command": "setup"}, as_json)


def _told_url(config: Path | None, gateway: str, amqp_url: str | None) -> str:
    """What the device is told; the secret in it goes over no broker, so only who has the configuration sees it."""
    if amqp_url is not None:
        return f"<public_url>/callback/{gateway}/<token>"
    try:
        return _load(config).callback_url(gateway)
    except KeyError:
        raise SettingsInvalid(f"no gateway {gateway!r} is configured") from None


@gateways.command("get")
def get_settings(
    gateway: GatewayArgument,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="sw_ver, sms_url, sim_number(0).")],
    config: ConfigOption = None,
    amqp_url: UrlOption = None,
    prefix: PrefixOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show settings of the device."""
    _operate(_broker(config, amqp_url, prefix), gateway, {"command": "get", "names": names}, as_json)


@gateways.command("set")
def set_settings(
    gateway: GatewayArgument,
    values: Annotated[list[str], typer.Argument(metavar="NAME=VALUE...")],
    config: ConfigOption = None,
    amqp_url: UrlOption = None,
    prefix: PrefixOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change settings of the device until its next start; `gateways save` keeps them."""
    pairs = dict(one.partition("=")[::2] for one in values)
    _operate(_broker(config, amqp_url, prefix), gateway, {"command": "set", "values": pairs}, as_json)


@gateways.command("statistics")
def statistics(
    gateway: GatewayArgument,
    calls: Annotated[bool, typer.Option("--calls", help="Of calls instead of SMS.")] = False,
    notation: PortsOption = "all",
    slots: SlotsOption = None,
    span: SpanOption = "all",
    config: ConfigOption = None,
    amqp_url: UrlOption = None,
    prefix: PrefixOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what the device has counted, card by card."""
    name = "call_statistics" if calls else "sms_statistics"
    asked = {"command": name, "ports": notation, "slots": slots, "span": span}
    _operate(_broker(config, amqp_url, prefix), gateway, asked, as_json)


def _operate(amqp: AmqpSettings, gateway: str, asked: Mapping[str, Any], as_json: bool) -> None:
    """Have a gateway do it, say what became of it; exit code 1 where it was not done."""
    told = {name: value for name, value in asked.items() if value is not None}
    try:
        command = read_command(json.dumps(told).encode())
    except RequestInvalid as error:
        raise SettingsInvalid(str(error)) from error
    if told.get("confirm") is False:
        raise SettingsInvalid(f"{command.command} cannot be taken back (add --yes where you are sure)")
    console, aside = _console(), Console(stderr=True)

    def accepted(event: Mapping[str, Any]) -> None:
        if aside.is_terminal and not as_json:
            aside.print(Text(_printable(event["data"]["detail"])), style="dim")

    async def ask(box: LetterBox) -> dict[str, Any]:
        return await box.ask(command, gateway, done_within_s=_patience_s(told), on_accepted=accepted)

    event = _run(_at_box(amqp, ask))
    data, done = event["data"], event["type"] == "command.done.v1"
    if as_json:
        _print_json({"outcome": "done" if done else "failed", **data})
    else:
        for name, rows in (data.get("result") or {}).items():
            if rows and isinstance(rows, list) and isinstance(rows[0], str):
                for line in (f"{name}:", *(f"- {row}" for row in rows)):
                    console.print(Text(_printable(line)))
            elif isinstance(rows, list):
                _print_rows(console, rows, COLUMNS.get(name))
            elif isinstance(rows, dict):
                _print_rows(console, [{"name": name, "value": value} for name, value in rows.items()])
        style = "" if done else "red"
        console.print(Text(_printable(data["detail"] if done else f"{data['reason']}: {data['detail']}"), style=style))
    raise typer.Exit(0 if done else EXIT_FAILED)


def _patience_s(asked: Mapping[str, Any]) -> float:
    """How long it may take once it is accepted: what the network needs, and a margin."""
    return float(asked.get("timeout_s", 0)) * (1 + int(asked.get("retries", 0))) + SLOWEST_COMMAND_S


def _print_rows(console: Console, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """Rows that may lack members, under the names of all, or of those that people look for."""
    names = columns or list(dict.fromkeys(name for row in rows for name in row))
    if rows:
        table = _table(*names)
        for row in rows:
            table.add_row(*(Text(_printable(_cell(name, row.get(name)))) for name in names))
        console.print(table)


def _cell(name: str, value: Any) -> str:
    if name == "at" and value is not None:
        return f"{datetime.fromtimestamp(value).astimezone():%Y-%m-%d %H:%M:%S}"
    if isinstance(value, list) and len(value) == 2:  # a device's n/m
        return f"{value[0]}/{'unlimited' if value[1] is None else value[1]}"
    return "" if value is None else str(value)


async def _at_box(amqp: AmqpSettings, work: Callable[[LetterBox], Coroutine[Any, Any, Result]]) -> Result:
    async with _explained(amqp), letters_room.opened(amqp) as box:
        return await work(box)


async def _chosen(box: LetterBox, ids: Sequence[str] | None, *, reason: str | None) -> list[Letter]:
    """The letters that are meant, whole: those with these ids, else those with this reason, else all."""

    def meant(letter: Letter) -> bool:
        return letter.letter_id in ids if ids else reason in {None, letter.reason}

    found = [letter for letter in await _read(box, with_body=meant) if meant(letter)]
    if missing := [one for one in ids or [] if one not in {letter.letter_id for letter in found}]:
        raise LetterUnknown(f"there is no dead letter {', '.join(missing)} (see: ejoin-bridge dead list)")
    return found


async def _read(box: LetterBox, *, with_body: Callable[[Letter], bool]) -> list[Letter]:
    """All letters; how far it is stands on standard error, where somebody looks at it."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("letters")
        return await box.read(
            with_body=with_body, on_read=lambda count, of: progress.update(bar, completed=count, total=of)
        )


async def _send(
    amqp: AmqpSettings, key: str, message: aio_pika.Message, *, wait: bool, show: Callable[[dict[str, Any]], None]
) -> int:
    async with _connected(amqp) as connection:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        news: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        if wait:
            await _listen(amqp, channel, "sms.#", news.put_nowait)
        exchange = await channel.get_exchange(f"{amqp.prefix}.requests")
        await exchange.publish(message, key, mandatory=True, timeout=amqp.publish_timeout_s)
        show({"id": message.message_id, "app_id": message.app_id, "routing_key": key})
        if not wait:
            return 0
        return await _or_closed(connection, _until_final(news, message.message_id, show))


async def _until_final(
    news: asyncio.Queue[dict[str, Any]], request_id: str | None, show: Callable[[dict[str, Any]], None]
) -> int:
    while True:
        event = await news.get()
        if event.get("subject") == request_id and event.get("data", {}).get("app_id") == APP_ID:
            show(event)
            if event.get("type") in FINAL:
                return 0 if event["type"] == "sms.sent.v1" else EXIT_FAILED


async def _watch(amqp: AmqpSettings, pattern: str, show: Callable[[dict[str, Any]], None]) -> None:
    async with _connected(amqp) as connection:
        await _listen(amqp, await connection.channel(), pattern, show)
        await _or_closed(connection, asyncio.Event().wait())


async def _listen(
    amqp: AmqpSettings, channel: AbstractChannel, pattern: str, show: Callable[[dict[str, Any]], None]
) -> None:
    """Bind a queue of our own to the events; it goes with the connection.

    Its name begins with the user's, which is what the permissions of a listener allow.
    """
    user = unquote(urlsplit(amqp.urls[0]).username or "guest")
    queue = await channel.declare_queue(f"{user}.{APP_ID}.{uuid.uuid4()}", exclusive=True, auto_delete=True)
    await queue.bind(f"{amqp.prefix}.events", pattern)

    async def read(message: AbstractIncomingMessage) -> None:
        try:
            event = json.loads(message.body)
        except ValueError:
            event = None
        if isinstance(event, dict):
            show(event)

    await queue.consume(read, no_ack=True)


async def _declare(amqp: AmqpSettings, wanted: Topology) -> None:
    async with _connected(amqp) as connection:
        assert connection.transport is not None
        await topology_room.declare(connection.transport.connection, wanted)


@contextlib.asynccontextmanager
async def _connected(amqp: AmqpSettings) -> AsyncIterator[AbstractConnection]:
    """A connection to the first broker that answers. Raises BrokerUnavailable with a sentence."""
    *others, last = amqp.urls
    async with _explained(amqp):
        for url in others:
            with contextlib.suppress(OSError, aio_pika.exceptions.AMQPError):
                connection = await aio_pika.connect(url, timeout=CONNECT_TIMEOUT_S)
                break
        else:
            connection = await aio_pika.connect(last, timeout=CONNECT_TIMEOUT_S)
        async with connection:
            yield connection


@contextlib.asynccontextmanager
async def _explained(amqp: AmqpSettings) -> AsyncIterator[None]:
    """What goes wrong at the broker, as a sentence."""
    where = ", ".join(settings.masked(url) for url in amqp.urls)
    try:
        yield
    except aio_pika.exceptions.ChannelNotFoundEntity as error:
        cure = "start the bridge once, or run: ejoin-bridge topology --declare"
        raise BrokerUnavailable(f"{where} does not know it yet: {error} ({cure})") from error
    except (aio_pika.exceptions.AuthenticationError, aio_pika.exceptions.ProbableAuthenticationError) as error:
        raise BrokerUnavailable(f"{where} refuses user or password (see amqp.url)") from error
    except (OSError, aio_pika.exceptions.AMQPError) as error:
        reason = str(error) or "no answer in time"
        raise BrokerUnavailable(f"{where}: {reason} (is the broker running, and is amqp.url right?)") from error


async def _or_closed(connection: AbstractConnection, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of ``work``; raises BrokerUnavailable where the connection is lost before it is there."""
    doing = asyncio.ensure_future(work)
    closed = asyncio.ensure_future(connection.closed())
    try:
        await asyncio.wait({doing, closed}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
    finally:
        doing.cancel()
        closed.cancel()
    raise BrokerUnavailable("the connection to the broker was lost")


# --- reading and showing ---------------------------------------------------------------------------------------------


def _load(config: Path | None) -> Settings:
    return settings.load(settings.find_config(config))


def _broker(config: Path | None, amqp_url: str | None, prefix: str | None) -> AmqpSettings:
    if amqp_url is None and prefix is not None:
        raise SettingsInvalid("--prefix goes with --amqp-url only (a configuration has its own: amqp.prefix)")
    amqp = _load(config).amqp if amqp_url is None else settings.broker_at(amqp_url, prefix or "sms")
    logs.configure("critical", "console")  # what goes wrong is said in a sentence, once
    return amqp


def _run(work: Coroutine[Any, Any, Result], *, interrupted: int = EXIT_INTERRUPTED) -> Result:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return runner.run(work)
        except KeyboardInterrupt:
            raise typer.Exit(interrupted) from None


def _console() -> Console:
    """Wide where nobody looks at it: what a program reads is not to be wrapped."""
    return Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else 400)


def _print_json(told: Mapping[str, Any]) -> None:
    print(json.dumps(told), flush=True)  # noqa: T201 - for programs, as it is


def _shower(as_json: bool) -> Callable[[dict[str, Any]], None]:
    console = _console()
    return _print_json if as_json else lambda told: console.print(_line(told))


def _line(told: Mapping[str, Any]) -> Text:
    """An event, or the note that a request was published, on one line for people."""
    if "routing_key" in told:
        return Text(f"{datetime.now().astimezone():%H:%M:%S} published      {told['id']}  {told['routing_key']}")
    data = told.get("data") or {}
    kind = str(told.get("type", "?")).removesuffix(".v1")
    verb = kind.rpartition(".")[2]
    line = Text(f"{_clock(told.get('time'))} ")
    line.append(f"{kind:<22}", style="red" if verb in BAD else COLOURS.get(verb, "default"))
    place = ".".join(str(data[name]) for name in ("gateway", "port") if data.get(name) is not None)
    words = [place or data.get("route"), _numbers(data), told.get("subject"), *_details(data)]
    line.append("  ".join(_printable(str(word)) for word in words if word))
    return line


def _clock(moment: Any) -> str:
    try:
        return f"{datetime.fromisoformat(str(moment)).astimezone():%H:%M:%S}"
    except ValueError:
        return "--:--:--"


def _numbers(data: Mapping[str, Any]) -> str:
    sender, to = data.get("sender"), data.get("to") or data.get("receiver") or data.get("recipient")
    return f"{sender} > {to or '?'}" if sender else str(to or "")


def _details(data: Mapping[str, Any]) -> list[str]:
    told = ("state", "reason", "detail", "code", "text", "operator_code", "operator_text", "segments")
    ports = data.get("ports")
    listed = [f"{len(ports)} ports"] if isinstance(ports, list) else []
    return listed + [f"{name}={data[name]}" for name in told if data.get(name) is not None]


def _printable(text: str) -> str:
    """Strangers write these texts: none of them may steer the terminal."""
    return "".join(letter if letter.isprintable() else "\N{MIDDLE DOT}" for letter in text)


def _print_derived(console: Console, derived: Mapping[str, Any]) -> None:
    gateways = _table("gateway", "ports", "segments/min", "prefetch", "is told to call back")
    for name, one in derived["gateways"].items():
        rate, url = _rate(one["segments_per_min"]), one["callback_url"]
        gateways.add_row(name, str(one["ports"]), rate, str(one["prefetch_pinned"]), url)
    routes = _table("route", "ports", "segments/min", "prefetch")
    for name, one in derived["routes"].items():
        routes.add_row(name, str(one["ports"]), _rate(one["segments_per_min"]), str(one["prefetch"]))
    for table in (gateways, routes):
        console.print(table)
        console.print()
    console.print(f"{derived['ports']} ports, {_rate(derived['segments_per_min'])} segments a minute together.")
    need = derived["ledger_bytes"]
    disk = "cannot be told: a rate is unlimited" if need is None else f"at most {need / 1e9:.1f} GB"
    console.print(f"Disk that the ledger needs: {disk}.")
    console.print(f"A stop takes at most {derived['grace_s']:g} s.")


def _as_row(letter: Letter) -> dict[str, Any]:
    """A letter without what it holds of people: its body and its headers."""
    return {
        "id": letter.letter_id,
        "reason": letter.reason,
        "since": stamp(letter.dead_at),
        "routing_key": letter.routing_key,
        "app_id": letter.app_id,
        "request_id": letter.request_id,
        "correlation_id": letter.correlation_id,
        "timestamp": stamp(letter.timestamp),
        "bytes": letter.size,
        "copies": len(letter.tags),
        "detail": letter.detail,
    }


def _print_letters(console: Console, letters: Sequence[Letter]) -> None:
    table = _table("id", "reason", "since", "routing key", "app_id", "request", "detail")
    for letter in letters:
        dead_at = None if letter.dead_at is None else datetime.fromtimestamp(letter.dead_at).astimezone()
        since = "?" if dead_at is None else f"{dead_at:%Y-%m-%d %H:%M:%S}"
        told = (letter.letter_id, letter.reason, since, letter.routing_key, letter.app_id, letter.request_id or "?")
        table.add_row(*(Text(_printable(word)) for word in (*told, letter.detail)))
    if letters:
        console.print(table)
    console.print(f"{len(letters) or 'No'} dead letters; each is kept for 14 days.")


def _body(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return f"base64:{base64.b64encode(body).decode()}"


def _plain(told: Any) -> Any:
    """AMQP headers as JSON has them."""
    if isinstance(told, Mapping):
        return {str(name): _plain(value) for name, value in told.items()}
    if isinstance(told, list):
        return [_plain(one) for one in told]
    return told if told is None or isinstance(told, bool | int | float | str) else str(told)


def _print_report(console: Console, report: Mapping[str, Any]) -> None:
    console.print(Text(f"{report['path']}: schema {report['schema']}, {report['bytes']:,} bytes."))
    for heading, counts in (("table", report["rows"]), ("state", report["states"])):
        table = _table(heading, "rows")
        for name, count in counts.items():
            table.add_row(name, f"{count:,}")
        console.print()
        console.print(table)
    late = f"{report['overdue']:,}, the oldest for {report['overdue_s']:,.0f} s" if report["overdue"] else "nothing"
    console.print(f"\nPast its deadline: {late}.")
    for one in report["violations"]:
        console.print(Text(_printable(f"{one['row']}: {one['rule']}: {one['sentence']}"), style="red"))
    console.print(f"Broken rules: {len(report['violations']) or 'none'}.")


def _print_topology(console: Console, wanted: Topology) -> None:
    exchanges = _table("exchange", "type", "arguments")
    for exchange in wanted.exchanges:
        exchanges.add_row(exchange.name, exchange.type, _arguments(exchange.arguments))
    queues = _table("queue", "arguments")
    for queue in wanted.queues:
        queues.add_row(queue.name, _arguments(queue.arguments))
    bindings = _table("from exchange", "to queue", "routing key")
    for binding in wanted.bindings:
        bindings.add_row(binding.exchange, binding.queue, binding.routing_key)
    users = _table("user", "configure", "write", "read")
    for name, allowed in topology_room.permissions(wanted).items():
        users.add_row(Text(name), *(Text(pattern) for pattern in allowed))
    for table in (exchanges, queues, bindings, users):
        console.print(table)
        console.print()


def _arguments(arguments: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in arguments.items())


def _rate(segments_per_min: float | None) -> str:
    return "unlimited" if segments_per_min is None else f"{segments_per_min:g}"


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table
