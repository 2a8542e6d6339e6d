"""What the commands of the shell share: the options that find the broker, the way to it, and how things are shown."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import aio_pika.exceptions
import typer
import uvloop
from rich.console import Console
from rich.table import Table

from bridge import logs, settings
from bridge.amqp import letters
from bridge.amqp.letters import LetterBox
from bridge.errors import BrokerUnavailable, SettingsInvalid
from bridge.settings import AmqpSettings, Settings

EXIT_FAILED, EXIT_WRONG, EXIT_INTERRUPTED = 1, 2, 130
Result = TypeVar("Result")
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
JsonOption = Annotated[bool, typer.Option("--json", help="For programs.")]


def load_settings(config: Path | None) -> Settings:
    """The configuration that is meant. Raises SettingsInvalid."""
    return settings.load(settings.find_config(config))


def broker_of(config: Path | None, amqp_url: str | None, prefix: str | None) -> AmqpSettings:
    """The broker that is meant, by its own URL or by the configuration. Raises SettingsInvalid."""
    if amqp_url is None and prefix is not None:
        raise SettingsInvalid("--prefix goes with --amqp-url only (a configuration has its own: amqp.prefix)")
    amqp = load_settings(config).amqp if amqp_url is None else settings.broker_at(amqp_url, prefix or "sms")
    logs.configure("critical", "console")  # what goes wrong is said in a sentence, once
    return amqp


def run_here(work: Coroutine[Any, Any, Result], *, interrupted: int = EXIT_INTERRUPTED) -> Result:
    """Do it to its end; Ctrl-C ends the command with this exit code."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return runner.run(work)
        except KeyboardInterrupt:
            raise typer.Exit(interrupted) from None


async def at_box(amqp: AmqpSettings, work: Callable[[LetterBox], Coroutine[Any, Any, Result]]) -> Result:
    """Do it with the way to the bridge and the dead letters open."""
    async with explained(amqp), letters.opened(amqp) as box:
        return await work(box)


@contextlib.asynccontextmanager
async def explained(amqp: AmqpSettings) -> AsyncIterator[None]:
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


def new_console() -> Console:
    """Wide where nobody looks at it: what a program reads is not to be wrapped."""
    return Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else 400)


def print_json(told: Mapping[str, Any]) -> None:
    """One object on a line of its own."""
    print(json.dumps(told), flush=True)  # noqa: T201 - for programs, as it is


def printable(text: str) -> str:
    """Strangers write these texts: none of them may steer the terminal."""
    return "".join(letter if letter.isprintable() else "\N{MIDDLE DOT}" for letter in text)


def new_table(*headings: str) -> Table:
    """A table for people, without lines."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table
