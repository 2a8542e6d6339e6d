"""The half of the command line that has gateways carry things out (design 1.5)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from bridge.amqp.letters import LetterBox
from bridge.errors import RequestInvalid, SettingsInvalid
from bridge.models import read_command
from bridge.settings import AmqpSettings
from bridge.terminal import (
    EXIT_FAILED,
    ConfigOption,
    JsonOption,
    PrefixOption,
    UrlOption,
    at_box,
    broker_of,
    load_settings,
    new_console,
    new_table,
    print_json,
    printable,
    run_here,
)

COLUMNS = {
    "sims": ("port", "state", "iccid", "number", "operator", "balance", "signal"),
    "rows": ("port", "at", "sender", "receiver", "text", "recipient", "code"),
}
"""What people look for in the longest tables; programs get all of it."""

SLOWEST_COMMAND_S = 210.0
"""A card may need three minutes to register, and the gateway as long as a POST may take to answer."""

ports = typer.Typer(help="Command ports of a gateway: 3, 1A,2.02, 1-4, 1.01-64.01, all.")

gateways = typer.Typer(help="Command gateways, and ask them what they have counted.")

tasks = typer.Typer(help="Look after what waits in a gateway, by task ids.")

GatewayArgument = Annotated[str, typer.Argument(metavar="GATEWAY", help="Its name in the configuration.")]
PortsArgument = Annotated[str, typer.Argument(metavar="PORTS", help="3, 1A,2.02, 1-4, 1.01-64.01, or all.")]
TidsArgument = Annotated[list[int], typer.Argument(metavar="TID...", help="Task ids, as events name them.")]
YesOption = Annotated[bool, typer.Option("--yes", help="It cannot be taken back: say so.")]
PortsOption = Annotated[str, typer.Option("--ports", help="Some ports.")]
SlotsOption = Annotated[str | None, typer.Option(help='Some slots, or "all"; else the cards in use.')]
SpanOption = Annotated[str, typer.Option(help="hour, two_hours, day, or all since its start.")]


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
        operate(broker_of(config, amqp_url, prefix), gateway, {"command": name, "ports": notation}, as_json)


for _name, _sentence in {
    "lock": "Take ports out of service.",
    "unlock": "Put locked ports back into service.",
    "switch": "Change to another card, named by its slot: 1.02; done when it is registered.",
    "reset": "Start radio modules anew; done when their cards are registered again.",
}.items():
    _port_command(_name, _sentence)


def sims(
    gateway: GatewayArgument,
    notation: Annotated[str | None, typer.Option("--ports", help="Some ports.")] = None,
    config: ConfigOption = None,
    amqp_url: UrlOption = None,
    prefix: PrefixOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show every card of a gateway, also those that are not in use."""
    operate(broker_of(config, amqp_url, prefix), gateway, {"command": "sims", "ports": notation}, as_json)


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
    operate(broker_of(config, amqp_url, prefix), gateway, asked | ({"confirm": yes} if delete else {}), as_json)


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
    operate(broker_of(config, amqp_url, prefix), gateway, asked, as_json)


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
    operate(broker_of(config, amqp_url, prefix), gateway, {"command": "tasks", "port": port}, as_json)


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
    operate(broker_of(config, amqp_url, prefix), gateway, {"command": "pause_tasks", "tids": tids}, as_json)


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
    operate(broker_of(config, amqp_url, prefix), gateway, {"command": "resume_tasks", "tids": tids}, as_json)


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
    operate(broker_of(config, amqp_url, prefix), gateway, asked, as_json)


@gateways.command("save")
def save_settings(
    gateway: GatewayArgument,
    config: ConfigOption = None,
    amqp_url: UrlOption = None,
    prefix: PrefixOption = None,
    as_json: JsonOption = False,
) -> None:
    """Keep the device's settings beyond its next start."""
    operate(broker_of(config, amqp_url, prefix), gateway, {"command": "save"}, as_json)


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
    operate(broker_of(config, amqp_url, prefix), gateway, {"command": "reboot", "confirm": yes}, as_json)


@gateways.command("probe")
def probe(
    gateway: GatewayArgument,
    config: ConfigOption = None,
    amqp_url: UrlOption = None,
    prefix: PrefixOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how a gateway is reached, what it is, and which questions it answers."""
    operate(broker_of(config, amqp_url, prefix), gateway, {"command": "probe"}, as_json)


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
        new_console().print(Text(f"URL: {_told_url(config, gateway, amqp_url)}"))
    operate(broker_of(config, amqp_url, prefix), gateway, {"command": "setup"}, as_json)


def _told_url(config: Path | None, gateway: str, amqp_url: str | None) -> str:
    """What the device is told; the secret in it goes over no broker, so only who has the configuration sees it."""
    if amqp_url is not None:
        return f"<public_url>/callback/{gateway}/<token>"
    try:
        return load_settings(config).callback_url(gateway)
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
    operate(broker_of(config, amqp_url, prefix), gateway, {"command": "get", "names": names}, as_json)


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
    operate(broker_of(config, amqp_url, prefix), gateway, {"command": "set", "values": pairs}, as_json)


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
    operate(broker_of(config, amqp_url, prefix), gateway, asked, as_json)


def operate(amqp: AmqpSettings, key: str, asked: Mapping[str, Any], as_json: bool) -> None:
    """Have it done by the gateway of that name, or by the ``bridge``; say what became of it, exit code 1 where not."""
    told = {name: value for name, value in asked.items() if value is not None}
    try:
        command = read_command(json.dumps(told).encode())
    except RequestInvalid as error:
        raise SettingsInvalid(str(error)) from error
    if told.get("confirm") is False:
        raise SettingsInvalid(f"{command.command} cannot be taken back (add --yes where you are sure)")
    console, aside = new_console(), Console(stderr=True)

    def accepted(event: Mapping[str, Any]) -> None:
        if aside.is_terminal and not as_json:
            aside.print(Text(printable(event["data"]["detail"])), style="dim")

    async def ask(box: LetterBox) -> dict[str, Any]:
        return await box.ask(command, key, done_within_s=_patience_s(told), on_accepted=accepted)

    event = run_here(at_box(amqp, ask))
    data, done = event["data"], event["type"] == "command.done.v1"
    if as_json:
        print_json({"outcome": "done" if done else "failed", **data})
    else:
        for name, rows in (data.get("result") or {}).items():
            if rows and isinstance(rows, list) and isinstance(rows[0], str):
                for line in (f"{name}:", *(f"- {row}" for row in rows)):
                    console.print(Text(printable(line)))
            elif isinstance(rows, list):
                _print_rows(console, rows, COLUMNS.get(name))
            elif isinstance(rows, dict):
                _print_rows(console, [{"name": name, "value": value} for name, value in rows.items()])
        style = "" if done else "red"
        console.print(Text(printable(data["detail"] if done else f"{data['reason']}: {data['detail']}"), style=style))
    raise typer.Exit(0 if done else EXIT_FAILED)


def _patience_s(asked: Mapping[str, Any]) -> float:
    """How long it may take once it is accepted: what the network needs, and a margin."""
    return float(asked.get("timeout_s", 0)) * (1 + int(asked.get("retries", 0))) + SLOWEST_COMMAND_S


def _print_rows(console: Console, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """Rows that may lack members, under the names of all, or of those that people look for."""
    names = columns or list(dict.fromkeys(name for row in rows for name in row))
    if rows:
        table = new_table(*names)
        for row in rows:
            table.add_row(*(Text(printable(_cell(name, row.get(name)))) for name in names))
        console.print(table)


def _cell(name: str, value: Any) -> str:
    if name == "at" and value is not None:
        return f"{datetime.fromtimestamp(value).astimezone():%Y-%m-%d %H:%M:%S}"
    if isinstance(value, list) and len(value) == 2:  # a device's n/m
        return f"{value[0]}/{'unlimited' if value[1] is None else value[1]}"
    return "" if value is None else str(value)
