"""What operators ask of the bridge, one command at a time (design 1.1 and 1.3: ``sms.commands``).

A command was settled before it comes here: it is carried out at most once, and what became of it is told as
``command.done`` or ``command.failed``, written in the same transaction as what it changed. The copy of that event at
the command's ``reply_to`` is the answer. A command is a model in ``models.COMMANDS`` and a deed in ``_deeds``.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from bridge.errors import LedgerUnavailable, RequestInvalid
from bridge.flows.operations import Operations
from bridge.models import (
    H_EXPIRES_AT,
    H_PARENT,
    H_TRACEPARENT,
    Cancel,
    Clock,
    Command,
    CommandAccepted,
    CommandDone,
    CommandFailed,
    Delivery,
    EventData,
    GatewayCommand,
    Key,
    Publication,
    Replay,
    Request,
    Sms,
    State,
    publication_of,
    read_command,
    stamp,
)
from bridge.rules import intake, outcomes
from bridge.store.ledger import Ledger, Transaction

log = structlog.get_logger()

REPLAYABLE = ("unroutable", "delivery_limit", "poison")
"""Reasons of letters in ``sms.dead`` whose request is whole: what failed was its way."""

FINISH_WITHIN_S = 3.0
"""What a stop leaves to commands: a gateway may need minutes for one."""

PublishMany = Callable[[Sequence[Publication]], Awaitable[Sequence[Exception | None]]]


@dataclass(slots=True)
class Answer:
    """Says what became of one command, as the event that its sender gets a copy of."""

    delivery: Delivery
    command: str | None = None
    gateway: str | None = None
    sms: Key | None = field(default=None, init=False)

    def accepted(self, detail: str, at: float) -> Publication:
        """A gateway is told to carry it out."""
        assert self.command is not None
        assert self.gateway is not None
        told = CommandAccepted(
            command=self.command, gateway=self.gateway, app_id=self.delivery.app_id or None, detail=detail
        )
        return self._told(told, at)

    def done(self, detail: str, at: float, result: dict[str, Any] | None = None) -> Publication:
        """It was carried out."""
        assert self.command is not None
        return self._told(CommandDone(command=self.command, **self._about(), detail=detail, result=result), at)

    def failed(self, reason: str, detail: str, at: float) -> Publication:
        """It was not, and nothing has changed."""
        return self._told(CommandFailed(command=self.command, **self._about(), reason=reason, detail=detail), at)

    @property
    def key(self) -> str | None:
        """The SMS that it concerned, as events and logs name it."""
        return str(self.sms) if self.sms else None

    def _about(self) -> dict[str, Any]:
        return {"app_id": self.delivery.app_id or None, "gateway": self.gateway, "sms": self.key}

    def _told(self, data: EventData, at: float) -> Publication:
        asked = self.delivery
        told = f"{asked.app_id}\0{asked.message_id or asked.correlation_id}\0".encode()
        command = hashlib.sha256(told + asked.body).hexdigest()[:32]
        return publication_of(
            data,
            event_id=f"command/{command}/{data.kind}",
            at=at,
            correlation_id=asked.correlation_id,
            copy_to=asked.reply_to,
            gateway=self.gateway,
        )


class Commands:
    """Carries commands out. ``rules_of`` is what a routing key's lane allows, None where there is no such lane."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        publish: PublishMany,
        rules_of: Callable[[str], intake.IntakeRules | None],
        operations: Operations,
        clock: Clock,
        wake_relay: Callable[[], None],
    ) -> None:
        self._operations = operations
        self._ledger = ledger
        self._publish = publish
        self._rules_of = rules_of
        self._clock = clock
        self._wake_relay = wake_relay
        self._workers: set[asyncio.Task[None]] = set()
        self._deeds: dict[type[Command], Callable[[Any, Answer], Awaitable[None]]] = {
            Replay: self._replay,
            Cancel: self._cancel,
        }

    def accept(self, delivery: Delivery) -> None:
        """Take one command, settled already. Returns at once."""
        worker = asyncio.create_task(self._obey(delivery))
        self._workers.add(worker)
        worker.add_done_callback(self._workers.discard)

    async def finish(self) -> None:
        """Wait a moment for what was begun; what a gateway still does is told as not known to be done."""
        if self._workers:
            _, late = await asyncio.wait(self._workers, timeout=FINISH_WITHIN_S)
            for worker in late:
                worker.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _obey(self, delivery: Delivery) -> None:
        answer = Answer(delivery)
        try:
            command = read_command(delivery.body)
            answer.command = command.command
            if isinstance(command, GatewayCommand):
                await self._operate(command, answer)
            else:
                await self._deeds[type(command)](command, answer)
        except RequestInvalid as error:
            await self._refuse(answer, error.reason, str(error))
        except LedgerUnavailable as error:
            await self._refuse(answer, "ledger", f"{error} (ask again once /readyz is green)")
        except asyncio.CancelledError:
            await self._refuse(answer, "stopped", _STOPPED)
        except Exception as error:  # one command that breaks must not end the bridge, nor be silent
            log.exception("command.broke", command=answer.command)
            await self._refuse(answer, "broken", f"the bridge made a mistake: {error!r} (its log has more)")
        else:
            log.info(
                "command.done",
                command=answer.command,
                gateway=answer.gateway,
                request_id=answer.key,
                app_id=delivery.app_id,
            )
        self._wake_relay()

    async def _refuse(self, answer: Answer, reason: str, detail: str) -> None:
        log.warning(
            "command.failed", command=answer.command, gateway=answer.gateway, request_id=answer.key, reason=reason
        )
        now = self._clock.wall()
        event = answer.failed(reason, detail, now)
        try:
            await self._ledger.write(lambda tx: tx.publish([event], now))
        except LedgerUnavailable:
            await self._publish([event])  # without a promise, as it changed nothing

    # --- gateways ---------------------------------------------------------------------------------------------------

    async def _operate(self, command: GatewayCommand, answer: Answer) -> None:
        """Say that it is begun, have the gateway do it, say what became of it. Raises RequestInvalid."""
        gateway = answer.delivery.routing_key
        self._operations.check(gateway, command)
        answer.gateway = gateway
        await self._publish_later(answer.accepted(f"{gateway} is told: {command.command}", self._clock.wall()))
        done = await self._operations.carry_out(gateway, command)
        await self._publish_later(answer.done(done.detail, self._clock.wall(), done.result))

    async def _publish_later(self, event: Publication) -> None:
        now = self._clock.wall()
        await self._ledger.write(lambda tx: tx.publish([event], now))
        self._wake_relay()

    # --- cancel -----------------------------------------------------------------------------------------------------

    async def _cancel(self, cancel: Cancel, answer: Answer) -> None:
        """Remember what is cancelled; who is reached by it is told then. Raises RequestInvalid (``too_late``)."""
        now = self._clock.wall()
        app_id = answer.delivery.app_id if cancel.app_id is None else cancel.app_id
        if cancel.id is not None:
            answer.sms = Key(app_id, cancel.id)

        def write(tx: Transaction) -> None:
            row = tx.sms(app_id, cancel.id) if cancel.id is not None else None
            if row is not None and row.state is not State.HANDED_BACK:
                raise RequestInvalid("too_late", _TOO_LATE.format(key=row.key, state=row.state))
            tx.cancel(cancel, app_id, now, now + intake.FARTHEST_END_S)
            tx.publish([answer.done(_CANCELLED, now)], now)

        await self._ledger.write(write)

    # --- replay -----------------------------------------------------------------------------------------------------

    async def _replay(self, letter: Replay, answer: Answer) -> None:
        """Hand a rejected request back to the broker as its next attempt; for a list, publish it once more.

        Raises RequestInvalid where the letter cannot be taken up, with what to do instead.
        """
        now = self._clock.wall()
        if letter.reason not in REPLAYABLE:
            raise RequestInvalid("not_replayable", _NOT_REPLAYABLE.format(reason=letter.reason))
        rules = self._rules_of(letter.routing_key)
        if rules is None:
            raise RequestInvalid("unroutable", _STILL_UNROUTABLE.format(key=letter.routing_key))
        key = intake.key_of(_delivery_of(letter, None))
        if key is None:
            raise RequestInvalid("missing_id", _NOT_REPLAYABLE.format(reason="missing_id"))
        answer.sms = key

        def replay(tx: Transaction) -> None:
            row = _rejected(tx, key)
            delivery = _delivery_of(letter, row)
            taken = intake.read(delivery, rules, now)
            if taken.expires_at <= now:
                raise RequestInvalid("too_old", _TOO_OLD.format(key=key, since=stamp(taken.expires_at)))
            if isinstance(taken, Request):
                if taken.fingerprint != row.fingerprint:
                    raise RequestInvalid("id_conflict", _ANOTHER.format(key=key))
                tx.settle([outcomes.replayed(row, taken, now)], now)
            else:
                tx.forget(key)  # an accepted list has no state of its own; its children have
                tx.publish([_list_again(delivery, taken)], now)
            tx.publish([answer.done(f"{key} goes to {letter.routing_key} again", now)], now)

        await self._ledger.write(replay)


_TOO_LATE = "{key} is {state} already: nothing can be called back from a device"
_CANCELLED = (
    "what was asked before and is not handed over yet is not going out: "
    "each SMS is told as sms.rejected (cancelled) when it is its turn"
)
_STOPPED = "the bridge was stopped meanwhile (nobody knows whether it was done: look before you ask again)"
_NOT_REPLAYABLE = (
    "a letter with the reason {reason} cannot be replayed, for the request itself is wrong: "
    "ask anew with a mended request and a new id, then drop the letter"
)
_STILL_UNROUTABLE = (
    "there is still no route and no gateway for {key!r}, it would only come back: "
    "configure one and start the bridge anew, or ask anew with another routing key and a new id"
)
_TOO_OLD = "{key} is too old, its time was up at {since}: ask anew with a new id, then drop the letter"
_ANOTHER = "the id of {key} stands for another SMS by now: ask anew with a new id, then drop the letter"
_FORGOTTEN = (
    "the ledger knows nothing of {key} any more: its time is over, or it is a list that was taken up again before. "
    "Look for its events first; only where it was not, ask anew with a new id; then drop the letter"
)
_NOT_REJECTED = "{key} is not rejected any more, it is {state}: drop the letter"


def _rejected(tx: Transaction, key: Key) -> Sms:
    row = tx.sms(key.app_id, key.id)
    if row is None:
        raise RequestInvalid("forgotten", _FORGOTTEN.format(key=key))
    if row.state is not State.REJECTED:
        raise RequestInvalid("not_rejected", _NOT_REJECTED.format(key=key, state=row.state))
    return row


def _delivery_of(letter: Replay, row: Sms | None) -> Delivery:
    """The letter as its request would be delivered; what it does not carry, the ledger has kept."""
    asked = row.asked if row else {}
    headers = {
        H_PARENT: row.parent if row else "",  # without its row, a letter may be a child's
        H_EXPIRES_AT: row.expires_at if row else None,
        H_TRACEPARENT: asked.get("tp"),
    }
    return Delivery(
        letter.body.encode("utf-8", "surrogatepass"),
        letter.routing_key,
        ack=lambda: None,
        give_back=lambda: None,
        message_id=letter.message_id or None,
        app_id=letter.app_id,
        correlation_id=letter.correlation_id or asked.get("cid"),
        timestamp=letter.timestamp if letter.timestamp is not None else asked.get("ts"),
        reply_to=asked.get("reply_to"),
        headers={name: value for name, value in headers.items() if value is not None},
    )


def _list_again(delivery: Delivery, expansion: intake.Expansion) -> Publication:
    traceparent = delivery.headers.get(H_TRACEPARENT)
    return Publication(
        "requests",
        delivery.routing_key,
        delivery.body,
        message_id=delivery.message_id,
        app_id=delivery.app_id or None,
        correlation_id=delivery.correlation_id,
        timestamp=delivery.timestamp,
        reply_to=delivery.reply_to,
        headers={H_EXPIRES_AT: expansion.expires_at} | ({H_TRACEPARENT: traceparent} if traceparent else {}),
    )
