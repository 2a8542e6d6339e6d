"""How the bridge logs: structlog to standard error, for people (console) or for collectors (json).

Everybody else calls ``structlog.get_logger()`` and names events ``noun.verb_past``: INFO is one line per SMS and
state. Lines of libraries (stdlib logging) take the same way out. No line ever holds the text of an SMS, a whole phone
number, a query string, a callback token or a password: what slips through in a value is cut out here.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from typing import Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

NUMBER_KEYS = ("to", "recipient", "sender", "receiver", "number")
"""Members of a line that hold phone numbers: masked even where the caller forgot."""

LIBRARY_LEVELS = {
    "httpx": logging.WARNING,  # INFO prints each URL, and a device's URL holds user and password
    "httpcore": logging.WARNING,
    "aio_pika": logging.WARNING,
    "aiormq": logging.CRITICAL + 1,  # off: it prints whole messages; the session tells every loss itself
    "alembic": logging.WARNING,
    "uvicorn": logging.WARNING,
    "uvicorn.access": logging.CRITICAL + 1,  # off: the callback's path holds its token
    "asyncio": logging.WARNING,
}

_ENCODE = json.JSONEncoder(ensure_ascii=False, default=str).encode  # json.dumps would build an encoder per line
_QUERY = re.compile(r"(/[^\s?'\"<>]*)\?[^\s'\"<>]+")
_CREDENTIALS = re.compile(r"(\w+://)[^\s/@'\"]+@")
_TOKEN = re.compile(r"(/callback/[^\s/?'\"]+)/[^\s/?'\"]+")


def configure(level: str, format: Literal["console", "json"]) -> None:  # noqa: A002 - the setting's name
    """Send our lines and those of the libraries to standard error, from ``level`` on.

    May be called again: the last call counts.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    ours: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        cut_secrets,
    ]
    structlog.configure(
        processors=[*ours, _renderer(format)],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, structlog.stdlib.ExtraAdder(allow=()), *ours],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _renderer(format)],
        )
    )
    logging.basicConfig(level=number, handlers=[handler], force=True)
    for name, least in LIBRARY_LEVELS.items():
        logging.getLogger(name).setLevel(max(number, least))


def _renderer(format: Literal["console", "json"]) -> Processor:  # noqa: A002 - the setting's name
    if format == "json":
        return structlog.processors.JSONRenderer(serializer=lambda line, **_: _ENCODE(line))
    return structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback, pad_event_to=24
    )


def cut_secrets(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """Mask phone numbers by their key; cut queries, URL credentials and callback tokens out of every text."""
    for key, value in line.items():
        if not isinstance(value, str):
            if isinstance(value, BaseException):
                line[key] = _without_secrets(str(value))
        elif key in NUMBER_KEYS:
            line[key] = mask(value)
        elif "/" in value:
            line[key] = _without_secrets(value)
    return line


def _without_secrets(text: str) -> str:
    text = _CREDENTIALS.sub(r"\1***@", _QUERY.sub(r"\1?***", text))
    return _TOKEN.sub(r"\1/***", text)


def mask(number: str) -> str:
    """``+49151*****78``: enough to find it again, too little to call it. Masking twice changes nothing."""
    shown = 6 if len(number) > 10 else 0
    return f"{number[:shown]}{'*' * (len(number) - shown - 2)}{number[-2:]}" if len(number) > 4 else "*" * len(number)
