"""The dead letters, as people look at them: read without consuming, dropped, taken up again by the bridge (design 1.1).

All of ``sms.dead`` is taken in hand over one channel and given back with it, oldest first; a letter leaves the queue
only when it is dropped. Commands go to the bridge and their answers come back over a second channel.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote, urlsplit

import aiormq.abc
import aiormq.exceptions
from pamqp import commands

from bridge.amqp import wire
from bridge.amqp.wire import BROKEN, UNREADABLE
from bridge.errors import BrokerUnavailable, Unroutable
from bridge.models import (
    CHILD_ID_PATTERN,
    H_DEAD_AT,
    H_DETAIL,
    H_MESSAGE_ID,
    H_REASON,
    Command,
    Replay,
    salvage_id,
)
from bridge.settings import AmqpSettings

ANSWER_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Letter:
    """One letter of ``sms.dead``; ``tags`` has more than one where a crash put it there twice."""

    letter_id: str
    reason: str
    detail: str
    routing_key: str
    app_id: str
    request_id: str | None
    dead_at: float | None
    message_id: str | None = None
    correlation_id: str | None = None
    timestamp: float | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)
    body: bytes = b""
    size: int = 0
    tags: tuple[int, ...] = ()

    def replay(self) -> Replay:
        """The command to take it up again. Raises ValueError where the body is no text."""
        return Replay(
            reason=self.reason,
            routing_key=self.routing_key,
            body=self.body.decode(),
            app_id=self.app_id,
            message_id=self.message_id,
            correlation_id=self.correlation_id,
            timestamp=self.timestamp,
        )


class LetterBox:
    """The dead letters and the way to the bridge, while ``opened``."""

    def __init__(
        self, prefix: str, letters: aiormq.abc.AbstractChannel, calls: aiormq.abc.AbstractChannel, answers_to: str
    ) -> None:
        self._queue = f"{prefix}.dead"
        self._exchange = f"{prefix}.commands"
        self._letters = letters
        self._calls = calls
        self._answers_to = answers_to
        self._listening = False
        self._answers: dict[str, asyncio.Queue[dict[str, Any]]] = {}

    async def read(self, *, with_body: Callable[[Letter], bool], on_read: Callable[[int, int], None]) -> list[Letter]:
        """All letters, each once, oldest first, in hand until the box is closed.

        A body is kept only where it is wanted: all of them together may be large. ``on_read`` is told how many have
        been read, of how many.
        """
        found: dict[str, Letter] = {}
        count = 0
        while True:
            message = await self._letters.basic_get(self._queue)
            if message.delivery_tag is None:
                return list(found.values())
            count += 1
            on_read(count, count + (message.message_count or 0))
            letter = letter_of(message)
            if twin := found.get(letter.letter_id):
                found[letter.letter_id] = replace(twin, tags=(*twin.tags, *letter.tags))
            else:
                found[letter.letter_id] = letter if with_body(letter) else replace(letter, body=b"")

    async def drop(self, letter: Letter) -> None:
        """Take it, and its repeats, out of the queue for good."""
        for tag in letter.tags:
            await self._letters.basic_ack(tag)

    async def ask(
        self,
        command: Command,
        key: str = "bridge",
        *,
        done_within_s: float = ANSWER_WITHIN_S,
        on_accepted: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> dict[str, Any]:
        """The event that answers a command: ``command.done.v1`` or ``command.failed.v1``.

        ``key`` is the gateway that it concerns. Such a one is accepted first, and may take ``done_within_s`` then.
        Raises Unroutable where there is no queue for commands, BrokerUnavailable where no bridge answers in time. What
        no bridge has taken by then is gone; one that has taken it and hangs may carry it out later.
        """
        if not self._listening:
            await self._listen()
        name = str(uuid.uuid4())
        answers = self._answers[name] = asyncio.Queue()
        properties = commands.Basic.Properties(
            content_type="application/json",
            app_id="ejoin-bridge",
            message_id=name,
            correlation_id=name,
            reply_to=self._answers_to,
            expiration=str(int(ANSWER_WITHIN_S * 1000)),
        )
        try:
            await self._calls.basic_publish(
                command.model_dump_json(exclude_none=True).encode(),
                exchange=self._exchange,
                routing_key=key,
                properties=properties,
                mandatory=True,
            )
            async with asyncio.timeout(ANSWER_WITHIN_S) as patience:
                told = await answers.get()
                while told["type"] == "command.accepted.v1":
                    on_accepted(told)
                    patience.reschedule(asyncio.get_running_loop().time() + done_within_s)
                    told = await answers.get()
                return told
        except aiormq.exceptions.PublishError as error:
            cure = "start the bridge once" if key == "bridge" else f"no bridge has a gateway {key!r}"
            raise Unroutable(f"{self._exchange} has no queue for commands ({cure})") from error
        except TimeoutError as error:
            raise BrokerUnavailable(
                f"no bridge has answered within {ANSWER_WITHIN_S:g} s (is one running, and is its /readyz green?)"
            ) from error
        finally:
            del self._answers[name]

    async def _listen(self) -> None:
        await self._calls.queue_declare(self._answers_to, exclusive=True, auto_delete=True)
        await self._calls.basic_consume(self._answers_to, self._hear, no_ack=True)
        self._listening = True

    async def _hear(self, message: aiormq.abc.DeliveredMessage) -> None:
        answers = self._answers.get(message.header.properties.correlation_id or "")
        if answers is not None:
            answers.put_nowait(json.loads(message.body))


@asynccontextmanager
async def opened(settings: AmqpSettings) -> AsyncIterator[LetterBox]:
    """The letter box of the first broker that takes us; what was read and not dropped is given back at the end.

    Raises BrokerUnavailable, or one of aiormq's errors where the broker does not know the queue or refuses us.
    """
    async with AsyncExitStack() as stack:
        connection, url = await _connected(settings, stack)
        letters = await connection.channel(publisher_confirms=False)
        calls = await connection.channel(publisher_confirms=True, on_return_raises=True)
        user = unquote(urlsplit(url).username or "guest")
        try:
            yield LetterBox(settings.prefix, letters, calls, f"{user}.ejoin-bridge.{uuid.uuid4()}")
            await letters.close()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise BrokerUnavailable("the connection to the broker was lost") from None  # aiormq says so by this error


async def _connected(settings: AmqpSettings, stack: AsyncExitStack) -> tuple[aiormq.abc.AbstractConnection, str]:
    *others, last = settings.urls
    for url in others:
        with suppress(*BROKEN, TimeoutError):
            return await stack.enter_async_context(wire.connection(url, "letters")), url
    return await stack.enter_async_context(wire.connection(last, "letters")), last


def letter_of(message: aiormq.abc.DeliveredMessage) -> Letter:
    """What a message of ``sms.dead`` says; one that the broker itself has put there has its reason in ``x-death``."""
    told = message.header.properties
    headers = dict(told.headers or {})
    deaths = headers.get("x-death")
    death = deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict) else {}
    own_id = _text(headers.get(H_MESSAGE_ID))
    dead_at = headers.get(H_DEAD_AT)
    return Letter(
        letter_id=told.message_id or f"body/{hashlib.sha256(message.body).hexdigest()[:32]}",
        reason=_text(headers.get(H_REASON)) or _text(death.get("reason")) or "unknown",
        detail=_text(headers.get(H_DETAIL)) or _text(headers.get(UNREADABLE)) or "",
        routing_key=message.routing_key or "",
        app_id=told.app_id or "",
        request_id=salvage_id(message.body, CHILD_ID_PATTERN) or own_id,
        dead_at=float(dead_at) if isinstance(dead_at, int | float) else None,
        message_id=own_id,
        correlation_id=told.correlation_id,
        timestamp=told.timestamp.timestamp() if told.timestamp else None,
        headers=headers,
        body=message.body,
        size=len(message.body),
        tags=(message.delivery_tag or 0,),
    )


def _text(told: Any) -> str | None:
    return told if isinstance(told, str) and told else None
