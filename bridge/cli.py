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
from typing import Annotated, Any, NoReturn
from urllib.parse import unquote, urlsplit

import aio_pika
import aio_pika.exceptions
import typer
import yaml
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from bridge import logs, operating, settings
from bridge.amqp import topology as topology_room
from bridge.amqp.letters import Letter, LetterBox
from bridge.amqp.topology import Topology
from bridge.errors import BridgeError, BrokerUnavailable, LetterUnknown, SettingsInvalid
from bridge.models import stamp
from bridge.settings import AmqpSettings
from bridge.terminal import (
    EXIT_FAILED,
    EXIT_WRONG,
    ConfigOption,
    JsonOption,
    PrefixOption,
    Result,
    UrlOption,
    at_box,
    broker_of,
    explained,
    load_settings,
    new_console,
    new_table,
    print_json,
    printable,
    run_here,
)

APP_ID = "ejoin-bridge"
"""The AMQP ``app_id`` of what ``send`` publishes: a key is unique per app_id (design 1.2)."""

CONNECT_TIMEOUT_S = 10.0
FINAL = {"sms.sent.v1", "sms.failed.v1", "sms.expired.v1", "sms.rejected.v1", "sms.unknown.v1"}
COLOURS = {"sent": "green", "delivered": "green", "received": "cyan", "submitted": "blue", "up": "green"}
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

for name, group in {"ports": operating.ports, "gateways": operating.gateways, "tasks": operating.tasks}.items():
    app.add_typer(group, name=name)


IdsArgument = Annotated[list[str] | None, typer.Argument(metavar="ID...", help="As `dead list` shows them.")]
ReasonOption = Annotated[str | None, typer.Option("--reason", help="All letters with this reason.")]


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
    checked = load_settings(config)
    from bridge import app as daemon  # noqa: PLC0415 - it knows everyone; the other commands start without it

    raise typer.Exit(run_here(daemon.run(checked)))


@app.command()
def check(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Check the configuration; print it as it is in force, secrets masked, and what follows from it."""
    try:
        checked = load_settings(config)
    except SettingsInvalid as error:
        if as_json:
            print_json({"mistakes": str(error).splitlines()})
            raise typer.Exit(EXIT_WRONG) from error
        raise
    effective, derived = settings.effective(checked), settings.derived(checked)
    if as_json:
        print_json({"effective": effective, "derived": derived})
        return
    console = new_console()
    console.print(Text(yaml.safe_dump(effective, sort_keys=False, allow_unicode=True)), soft_wrap=True)
    _print_derived(console, derived)


@app.command()
def topology(
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="A RabbitMQ definitions file.")] = False,
    declare: Annotated[bool, typer.Option("--declare", help="Declare it at the broker.")] = False,
) -> None:
    """Print the exchanges, queues and bindings, and the permissions each kind of user needs."""
    checked = load_settings(config)
    wanted = Topology(
        prefix=checked.amqp.prefix,
        routes=tuple(route.name for route in checked.routes),
        gateways=tuple(gateway.name for gateway in checked.gateways),
    )
    if declare:
        run_here(_declare(checked.amqp, wanted))
    if as_json:
        print_json(topology_room.definitions(wanted))
        return
    _print_topology(new_console(), wanted)
    if declare:
        new_console().print("Declared.")


@ledger.command("check")
def check_ledger(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Verify the ledger's file and what its rows promise; exit code 1 where something is broken. Reads only."""
    from bridge.store import upkeep  # noqa: PLC0415 - the other commands start without it

    report = dataclasses.asdict(upkeep.check(load_settings(config).store.path, time.time()))
    if as_json:
        print_json(report)
    else:
        _print_report(new_console(), report)
    raise typer.Exit(EXIT_FAILED if report["violations"] else 0)


@ledger.command("backup")
def back_up_ledger(
    target: Annotated[Path, typer.Argument(help="The file to make.")],
    config: ConfigOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file where it is there already.")] = False,
) -> None:
    """Copy the ledger as it is now into a new file, while the bridge runs. To restore: put it at store.path."""
    from bridge.store import upkeep  # noqa: PLC0415 - the other commands start without it

    size = upkeep.copy_ledger(load_settings(config).store.path, target, force=force)
    new_console().print(Text(f"{target}: {size:,} bytes, complete and readable."))


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
        await serve(options, print_json, stopping)

    run_here(until_told())


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
    raise typer.Exit(
        run_here(_send(broker_of(config, amqp_url, prefix), key, message, wait=wait, show=_shower(as_json)))
    )


@app.command()
def events(
    config: ConfigOption = None,
    amqp_url: UrlOption = None,
    prefix: PrefixOption = None,
    pattern: Annotated[str, typer.Option("--filter", help="A binding key: sms.#, sms.received.#, #.gw1.3.")] = "#",
    as_json: JsonOption = False,
) -> None:
    """Print events as they come, until Ctrl-C; what came before is not told."""
    run_here(_watch(broker_of(config, amqp_url, prefix), pattern, _shower(as_json)), interrupted=0)


@app.command()
def cancel(
    request_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="The id of one request.")] = None,
    parent: Annotated[str | None, typer.Option(help="All SMS of the list with this id instead.")] = None,
    metadata: Annotated[
        str | None, typer.Option(help="All that carry this pair, as name=value, and have a timestamp, instead.")
    ] = None,
    app_id: Annotated[str, typer.Option(help="Whose requests: the AMQP app_id they were published with.")] = APP_ID,
    config: ConfigOption = None,
    amqp_url: UrlOption = None,
    prefix: PrefixOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let requests that are not handed over yet end as sms.rejected (cancelled); exit code 1 where it is too late."""
    if sum(one is not None for one in (request_id, parent, metadata)) != 1:
        raise SettingsInvalid("name one of ID, --parent and --metadata")
    name, equals, value = (metadata or "").partition("=")
    if metadata is not None and not (name and equals):
        raise SettingsInvalid(f"--metadata {metadata!r} is no pair (write name=value)")
    pair = {name: value} if name else None
    asked = {"command": "cancel", "app_id": app_id, "id": request_id, "parent": parent, "metadata": pair}
    operating.operate(broker_of(config, amqp_url, prefix), "bridge", asked, as_json)


@dead.command("list")
def list_letters(
    config: ConfigOption = None, amqp_url: UrlOption = None, prefix: PrefixOption = None, as_json: JsonOption = False
) -> None:
    """List the dead letters, oldest first; they stay where they are."""

    async def read(box: LetterBox) -> list[Letter]:
        return await _read(box, with_body=lambda _: False)

    found = run_here(at_box(broker_of(config, amqp_url, prefix), read))
    if as_json:
        print_json({"letters": [_as_row(letter) for letter in found]})
    else:
        _print_letters(new_console(), found)


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

    (letter,) = run_here(at_box(broker_of(config, amqp_url, prefix), read))
    told = _as_row(letter) | {"headers": _plain(letter.headers), "body": _body(letter.body)}
    if as_json:
        print_json(told)
        return
    table = new_table("member", "value")
    for name, value in told.items():
        table.add_row(name, Text(printable("" if value is None else str(value))))
    new_console().print(table)


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

    amqp = broker_of(config, amqp_url, prefix)
    if not yes:  # no letter is in hand while somebody thinks, and only what was counted goes
        ids = run_here(at_box(amqp, count))
        if not ids or not typer.confirm(f"Delete {len(ids)} letters for good?"):
            new_console().print("Nothing was deleted.")
            return
    new_console().print(f"{run_here(at_box(amqp, drop))} letters were deleted.")


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
    console = new_console()

    async def replay(box: LetterBox) -> bool:
        refused = False
        letters = await _chosen(box, ids, reason=reason)
        if not letters and not as_json:
            console.print(Text(f"There is no dead letter with the reason {reason}."))
        for letter in letters:
            told = await _replay(box, letter)
            refused = refused or told["outcome"] != "done"
            if as_json:
                print_json(told)
            else:
                console.print(Text(printable(f"{letter.letter_id}: {told['outcome']}: {told['detail']}")))
        return refused

    raise typer.Exit(EXIT_FAILED if run_here(at_box(broker_of(config, amqp_url, prefix), replay)) else 0)


for command in (operating.sims, operating.inbox, operating.ussd):
    app.command()(command)


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
    async with explained(amqp):
        for url in others:
            with contextlib.suppress(OSError, aio_pika.exceptions.AMQPError):
                connection = await aio_pika.connect(url, timeout=CONNECT_TIMEOUT_S)
                break
        else:
            connection = await aio_pika.connect(last, timeout=CONNECT_TIMEOUT_S)
        async with connection:
            yield connection


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


def _shower(as_json: bool) -> Callable[[dict[str, Any]], None]:
    console = new_console()
    return print_json if as_json else lambda told: console.print(_line(told))


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
    line.append("  ".join(printable(str(word)) for word in words if word))
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


def _print_derived(console: Console, derived: Mapping[str, Any]) -> None:
    gateways = new_table("gateway", "ports", "segments/min", "prefetch", "is told to call back")
    for name, one in derived["gateways"].items():
        rate, url = _rate(one["segments_per_min"]), one["callback_url"]
        gateways.add_row(name, str(one["ports"]), rate, str(one["prefetch_pinned"]), url)
    routes = new_table("route", "ports", "segments/min", "prefetch")
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
    table = new_table("id", "reason", "since", "routing key", "app_id", "request", "detail")
    for letter in letters:
        dead_at = None if letter.dead_at is None else datetime.fromtimestamp(letter.dead_at).astimezone()
        since = "?" if dead_at is None else f"{dead_at:%Y-%m-%d %H:%M:%S}"
        told = (letter.letter_id, letter.reason, since, letter.routing_key, letter.app_id, letter.request_id or "?")
        table.add_row(*(Text(printable(word)) for word in (*told, letter.detail)))
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
        table = new_table(heading, "rows")
        for name, count in counts.items():
            table.add_row(name, f"{count:,}")
        console.print()
        console.print(table)
    late = f"{report['overdue']:,}, the oldest for {report['overdue_s']:,.0f} s" if report["overdue"] else "nothing"
    console.print(f"\nPast its deadline: {late}.")
    for one in report["violations"]:
        console.print(Text(printable(f"{one['row']}: {one['rule']}: {one['sentence']}"), style="red"))
    console.print(f"Broken rules: {len(report['violations']) or 'none'}.")


def _print_topology(console: Console, wanted: Topology) -> None:
    exchanges = new_table("exchange", "type", "arguments")
    for exchange in wanted.exchanges:
        exchanges.add_row(exchange.name, exchange.type, _arguments(exchange.arguments))
    queues = new_table("queue", "arguments")
    for queue in wanted.queues:
        queues.add_row(queue.name, _arguments(queue.arguments))
    bindings = new_table("from exchange", "to queue", "routing key")
    for binding in wanted.bindings:
        bindings.add_row(binding.exchange, binding.queue, binding.routing_key)
    users = new_table("user", "configure", "write", "read")
    for name, allowed in topology_room.permissions(wanted).items():
        users.add_row(Text(name), *(Text(pattern) for pattern in allowed))
    for table in (exchanges, queues, bindings, users):
        console.print(table)
        console.print()


def _arguments(arguments: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in arguments.items())


def _rate(segments_per_min: float | None) -> str:
    return "unlimited" if segments_per_min is None else f"{segments_per_min:g}"
