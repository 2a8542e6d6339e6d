"""The public contract: what a producer may ask, what we remember of an SMS, and what we tell the world.

Pure data: no clock, no I/O. Requests are strict (an unknown field is refused by name), events are CloudEvents 1.0 in
structured JSON mode with one model per type. Event ids are formulas, so a repeat carries the same id. Exchanges have
logical names here (``requests``, ``events``, ``later.5``, ``dead``); the edge adds the configured prefix.
"""

from __future__ import annotations

import enum
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SerializeAsAny,
    ValidationError,
    field_validator,
    model_validator,
)

from bridge.errors import RequestInvalid

NAME_PATTERN = r"^[a-z0-9-]{1,40}$"
"""Names of routes and gateways: they stand in routing keys, queue names and metric labels."""

_NAME = re.compile(NAME_PATTERN)

ID_PATTERN = re.compile(r"[A-Za-z0-9._:-]{1,128}")
CHILD_ID_PATTERN = re.compile(r"[A-Za-z0-9._:/-]{1,160}")
MAX_BODY_BYTES = 64 * 1024
to_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
"""Compact JSON; one encoder for all, since json.dumps would build one for each call."""
BY_DEVICE = "device"
"""Instead of ports: the device chooses, and no SIM's limit holds for what it chooses (document 1.3.1.3, note 1)."""

MAX_RECIPIENTS = 1_000
MAX_METADATA = 16
MAX_RAW_BYTES = 16 * 1024
MAX_VALIDITY_S = 2**31 - 1
TIERS_S = (5, 60, 900)

H_ATTEMPT, H_TRIED, H_EXPIRES_AT, H_PARENT = "x-attempt", "x-tried", "x-expires-at", "x-parent"
H_TRACEPARENT = "traceparent"
H_DUPLICATE = "x-possible-duplicate"
H_REASON, H_DETAIL = "x-reason", "x-detail"
H_DEAD_AT, H_MESSAGE_ID = "x-dead-at", "x-message-id"
H_CORRECTS = "x-corrects"
"""On the copy of a replayed request: the id of the final event that its next one takes the place of."""


@dataclass(frozen=True, slots=True)
class Clock:
    """The two clocks that ``app.py`` hands out: unix seconds for what is told and stored, monotonic for pacing."""

    wall: Callable[[], float]
    mono: Callable[[], float]


class Key(NamedTuple):
    """The idempotency key of an SMS: the producer's AMQP ``app_id`` and the request's ``id``."""

    app_id: str
    id: str

    def __str__(self) -> str:
        return f"{self.app_id.replace('%', '%25').replace(':', '%3A')}:{self.id}"


# --- what a producer asks -------------------------------------------------------------------------------------------


class SendRequest(BaseModel):
    """The body of a send request (design 1.2)."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    id: str | None = Field(None, description="Idempotency key, with the AMQP app_id; or the AMQP message_id.")
    to: str | list[str] = Field(description="One number, or up to 1,000 different ones: E.164, +<country><number>.")
    text: str = Field(min_length=1, description="Any Unicode; encoding and segments are the bridge's business.")
    ports: int | float | str | None = Field(
        None, description="Only on gateway.<gateway>: 3, 3.01 or '1-4,7'; 'device' leaves the choice to the device."
    )
    spread: Literal["any", "each"] = Field("any", description="'each': one SMS from every named port.")
    sim: str | None = Field(None, min_length=1, description="The SIM that must send: its ICCID or own number.")
    expires_at: AwareDatetime | None = Field(None, description="Never sent after this moment.")
    validity_s: int | None = Field(
        None, gt=0, le=MAX_VALIDITY_S, description="Never sent later than this many seconds after timestamp."
    )
    not_before: AwareDatetime | None = Field(None, description="Never sent before this moment; 30 days ahead at most.")
    encoding: Literal["auto", "gsm7", "ucs2"] = "auto"
    flash: bool = False
    smsc: str = Field("", max_length=20, pattern=r"^\+?\d*$")
    timeout_s: int | None = Field(None, ge=5, le=600, description="How long the device waits for the network.")
    delivery_report: bool = False
    metadata: dict[str, str] = Field(default_factory=dict, max_length=MAX_METADATA)

    @field_validator("to")
    @classmethod
    def _some_and_different(cls, to: str | list[str]) -> str | list[str]:
        if isinstance(to, str):
            return to
        if not 1 <= len(to) <= MAX_RECIPIENTS:
            raise ValueError(f"name 1 to {MAX_RECIPIENTS} recipients, not {len(to)}")
        if len(set(to)) != len(to):
            raise ValueError("name each recipient once")
        return to

    def fingerprint(self, routing_key: str) -> bytes:
        """16 bytes that differ when a producer re-uses an id for another SMS (design 1.2, idempotency)."""
        told = {"to": self.to, "text": self.text, "key": routing_key, "ports": self.ports, "sim": self.sim}
        canonical = json.dumps(told, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).digest()[:16]


def read_send_request(body: bytes) -> SendRequest:
    """Read a body into a SendRequest.

    Raises RequestInvalid: ``too_large`` over 64 KiB, ``unreadable`` where it is no JSON, else ``invalid`` with the
    field's name and a sentence.
    """
    if len(body) > MAX_BODY_BYTES:
        raise RequestInvalid("too_large", f"the body has {len(body)} bytes; at most {MAX_BODY_BYTES} are taken")
    try:
        return SendRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        raise RequestInvalid("unreadable", f"the body is not JSON: {first['ctx']['error']}")
    name = str(first["loc"][0]) if first["loc"] else None
    message = (
        f"unknown field {name!r}" if first["type"] == "extra_forbidden" else f"{name or 'the body'}: {first['msg']}"
    )
    raise RequestInvalid("invalid", message, field=name)


def salvage_id(body: bytes, pattern: re.Pattern[str] = ID_PATTERN) -> str | None:
    """The ``id`` of a body that is no valid request, where one that matches can still be read; None where not."""
    try:
        told = json.loads(body[: 16 * MAX_BODY_BYTES])
    except (ValueError, RecursionError):
        return None
    value = told.get("id") if isinstance(told, dict) else None
    return value if isinstance(value, str) and pattern.fullmatch(value) else None


# --- what an operator asks --------------------------------------------------------------------------------------------


class Command(BaseModel):
    """What every command says: its name; its other members are its model's (design 1.1, ``sms.commands``)."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    command: str


class Replay(Command):
    """Take a dead letter up again: hand its request to the broker as a new attempt."""

    command: Literal["replay"] = "replay"
    reason: str = Field(description="The letter's x-reason.")
    routing_key: str = Field(description="The letter's routing key.")
    body: str = Field(description="The letter's body.")
    app_id: str = ""
    message_id: str | None = Field(None, description="The letter's x-message-id.")
    correlation_id: str | None = None
    timestamp: float | None = Field(None, description="Unix seconds.", allow_inf_nan=False)


class Cancel(Command):
    """Let what was asked until now and is not handed over yet end as ``sms.rejected`` (``cancelled``), design 1.2."""

    command: Literal["cancel"] = "cancel"
    app_id: str | None = Field(None, description="Whose requests; left out: those of who commands.")
    id: str | None = Field(None, min_length=1, max_length=160, description="One request.")
    parent: str | None = Field(None, min_length=1, max_length=128, description="All SMS of the list with this id.")
    metadata: dict[str, str] = Field(
        default_factory=dict, max_length=1, description="All whose metadata has this pair, and a timestamp."
    )

    @model_validator(mode="after")
    def _one_of(self) -> Cancel:
        if sum(map(bool, (self.id, self.parent, self.metadata))) != 1:
            raise ValueError("name one of id, parent and metadata")
        return self


class GatewayCommand(Command):
    """One that a gateway carries out: its routing key is the gateway's name."""


class _Confirmed(GatewayCommand):
    """One that loses something: it says so itself, or is refused."""

    confirm: bool = Field(default=False, description="Must be true: it cannot be taken back.")


class _Ports(GatewayCommand):
    ports: str = Field(min_length=1, max_length=1_000, description='"3", "1A,2.02", "1-4", "1.01-64.01", or "all".')


class Lock(_Ports):
    """Take ports out of service; without a slot the whole port."""

    command: Literal["lock"] = "lock"


class Unlock(_Ports):
    """Put locked ports back into service."""

    command: Literal["unlock"] = "unlock"


class Switch(_Ports):
    """Change to the named slot of each port; done when its card is registered."""

    command: Literal["switch"] = "switch"


class Reset(_Ports):
    """Start the radio modules of ports anew; done when their cards are registered again."""

    command: Literal["reset"] = "reset"


class Save(GatewayCommand):
    """Keep the device's settings beyond its next start."""

    command: Literal["save"] = "save"


class Reboot(_Confirmed):
    """Start the device anew: it forgets its tasks, and what it had in hand is in doubt."""

    command: Literal["reboot"] = "reboot"


class GetSettings(GatewayCommand):
    """Ask for the device's settings by their names."""

    command: Literal["get"] = "get"
    names: list[str] = Field(min_length=1, max_length=100)


class SetSettings(GatewayCommand):
    """Change settings of the device until its next start; ``save`` keeps them."""

    command: Literal["set"] = "set"
    values: dict[str, str] = Field(min_length=1, max_length=100)

    @field_validator("values")
    @classmethod
    def _as_written(cls, values: dict[str, str]) -> dict[str, str]:
        # They leave as name=value&name=value, without escapes: the device knows none.
        for name, value in values.items():
            if not re.fullmatch(r"[\w().-]+", name) or re.search(r"[&\r\n]", value):
                raise ValueError(f"{name[:40]!r} cannot be written: no & and no line break, and a name of letters")
        return values


class Probe(GatewayCommand):
    """Say how the gateway is reached, what it is, and which questions it answers."""

    command: Literal["probe"] = "probe"


class SetUp(GatewayCommand):
    """Tell the device where to call back, as far as its API can, and wait for a push as the proof."""

    command: Literal["setup"] = "setup"


class Sims(GatewayCommand):
    """The state of every card, also of those that are not in use."""

    command: Literal["sims"] = "sims"
    ports: str | None = None


class SmsStatistics(GatewayCommand):
    """What the device has counted of SMS."""

    command: Literal["sms_statistics"] = "sms_statistics"
    ports: str = "all"
    slots: str | None = Field(None, description='The cards in use, or "all".')
    span: Literal["hour", "two_hours", "day", "all"] = "all"


class CallStatistics(GatewayCommand):
    """What the device has counted of calls."""

    command: Literal["call_statistics"] = "call_statistics"
    ports: str = "all"
    slots: str | None = Field(None, description='The cards in use, or "all".')
    span: Literal["hour", "two_hours", "day", "all"] = "all"


class Inbox(GatewayCommand):
    """Read the device's inbox; what is in it stays there."""

    command: Literal["inbox"] = "inbox"
    start: int = Field(1, ge=1, description="The first id.")
    count: int = Field(50, ge=1, le=50, description="Rows.")


class DeleteInbox(_Confirmed):
    """Delete rows of the device's inbox; they are told in the answer."""

    command: Literal["delete_inbox"] = "delete_inbox"
    start: int = Field(ge=1, description="The first id.")
    count: int = Field(ge=1, le=50, description="Rows.")


class Tasks(GatewayCommand):
    """The SMS that wait in the device for a port."""

    command: Literal["tasks"] = "tasks"
    port: int = Field(ge=1, le=1024)


class _Tids(GatewayCommand):
    tids: list[int] = Field(min_length=1, max_length=1_000, description="Task ids; none would be all of them.")


class PauseTasks(_Tids):
    """Let tasks wait that the device has not begun."""

    command: Literal["pause_tasks"] = "pause_tasks"


class ResumeTasks(_Tids):
    """Let paused tasks go on."""

    command: Literal["resume_tasks"] = "resume_tasks"


class RemoveTasks(_Tids, _Confirmed):
    """Take tasks out of the device that it has not begun; their SMS are in doubt."""

    command: Literal["remove_tasks"] = "remove_tasks"


class Ussd(GatewayCommand):
    """Call a USSD code from a port, or choose from the menu that the last one opened."""

    command: Literal["ussd"] = "ussd"
    port: str = Field(description="3, 1A or 1.01.")
    code: str = Field(pattern=r"^[0-9*#+]{1,64}$", description="*100#, or a choice: 1.")
    timeout_s: int = Field(120, ge=1, le=600, description="How long the network may take.")
    retries: int = Field(0, ge=0, le=5, description="Tried again so often; a top-up could be paid twice.")


COMMANDS: dict[str, type[Command]] = {
    str(model.model_fields["command"].default): model
    for model in (
        Replay,
        Cancel,
        Lock,
        Unlock,
        Switch,
        Reset,
        Save,
        Reboot,
        Probe,
        SetUp,
        GetSettings,
        SetSettings,
        Sims,
        SmsStatistics,
        CallStatistics,
        Inbox,
        DeleteInbox,
        Tasks,
        PauseTasks,
        ResumeTasks,
        RemoveTasks,
        Ussd,
    )
}


GATEWAY_COMMANDS = tuple(name for name, model in COMMANDS.items() if issubclass(model, GatewayCommand))


def read_command(body: bytes) -> Command:
    """Read a body into the command that it names.

    Raises RequestInvalid: ``unreadable``, ``unknown_command``, or ``invalid`` with the member's name and a sentence.
    """
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        raise RequestInvalid("unreadable", "the command is not JSON") from None
    name = told.get("command") if isinstance(told, dict) else None
    model = COMMANDS.get(name) if isinstance(name, str) else None
    if model is None:
        known = ", ".join(sorted(COMMANDS))
        raise RequestInvalid("unknown_command", f"there is no command {str(name)[:80]!r} (there is: {known})")
    try:
        return model.model_validate(told)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
    field_name = ".".join(str(part) for part in first["loc"])
    told_of = f"{name}: {field_name}" if field_name else name
    raise RequestInvalid("invalid", f"{told_of}: {first['msg']}", field=field_name or None)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One AMQP delivery with its receipt; exactly one of ``ack`` and ``give_back`` is called, once.

    Moments are unix seconds, ``expiration_s`` a duration. Both receipts return at once: the edge settles in order,
    and forgets where the channel is gone. ``unreadable`` says why the AMQP properties could not be read (text that is
    not UTF-8, a timestamp past the year 9999); then there are none, and the body alone is as it was published.
    """

    body: bytes
    routing_key: str
    ack: Callable[[], None]
    give_back: Callable[[], None]
    queue: str = ""
    message_id: str | None = None
    app_id: str = ""
    correlation_id: str | None = None
    timestamp: float | None = None
    expiration_s: float | None = None
    reply_to: str | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)
    delivery_count: int = 0
    unreadable: str | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One SMS to send: one recipient, its age and place fixed, as every room after the reader sees it."""

    key: Key
    body: SendRequest
    raw: str
    to: str
    routing_key: str
    fingerprint: bytes
    segments: int
    encoding: Literal["gsm7", "ucs2"]
    expires_at: float
    route: str | None = None
    gateway: str | None = None
    attempt: int = 1
    tried: tuple[str, ...] = ()
    timestamp: float | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    traceparent: str | None = None
    parent: str | None = None
    possible_duplicate: bool = False
    corrects: str | None = None

    def stored(self) -> str:
        """The request as the ledger keeps it: enough to publish it again word for word."""
        told = {
            "body": self.raw,
            "rk": self.routing_key,
            "cid": self.correlation_id,
            "reply_to": self.reply_to,
            "ts": self.timestamp,
            "tp": self.traceparent,
            "meta": self.body.metadata or None,
            "dr": self.body.delivery_report or None,
            "pd": self.possible_duplicate or None,
            "corrects": self.corrects,
        }
        return to_json({k: v for k, v in told.items() if v is not None})


# --- what we remember of an SMS -------------------------------------------------------------------------------------


class State(enum.StrEnum):
    """The states of an SMS that the ledger knows (design 2.1); before ``begin`` it waits and the broker owns it."""

    SUBMITTING = "submitting"
    IN_DOUBT = "in_doubt"
    SUBMITTED = "submitted"
    HANDED_BACK = "handed_back"
    SENT = "sent"
    FAILED = "failed"
    EXPIRED = "expired"
    REJECTED = "rejected"
    UNKNOWN = "unknown"

    @property
    def final(self) -> bool:
        """Nothing follows but late evidence."""
        return self in FINAL

    @property
    def open(self) -> bool:
        """Its task id is taken: the device may still know it."""
        return self in OPEN


FINAL = frozenset({State.SENT, State.FAILED, State.EXPIRED, State.REJECTED, State.UNKNOWN})
OPEN = frozenset({State.SUBMITTING, State.IN_DOUBT, State.SUBMITTED})


@dataclass(frozen=True, slots=True)
class Sms:
    """One row of the ledger's ``sms`` table (design 3.7): an SMS, its attempt in hand, and the last event told."""

    app_id: str
    id: str
    fingerprint: bytes
    state: State
    state_at: float
    attempt: int = 1
    tried: tuple[str, ...] = ()
    sequence: int = 0
    request: str | None = None
    route: str | None = None
    parent: str | None = None
    recipient: str = ""
    segments: int = 0
    encoding: str | None = None
    expires_at: float | None = None
    deadline_at: float | None = None
    gateway: str | None = None
    port: int | None = None
    slot: int | None = None
    sim: str | None = None
    tid: int | None = None
    begun_at: float | None = None
    begun_n: int | None = None
    owner: str | None = None
    epoch: int = 0
    code: int | None = None
    reason: str | None = None
    certain: bool | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)
    event_id: str | None = None
    event_type: str | None = None
    event_at: float | None = None

    @property
    def key(self) -> Key:
        """The idempotency key."""
        return Key(self.app_id, self.id)

    @property
    def asked(self) -> dict[str, Any]:
        """The stored request (see Request.stored); empty for a slim row."""
        return json.loads(self.request) if self.request else {}

    def without_place(self) -> Sms:
        """The same as no device has it: what ends before its (next) hand-over."""
        return replace(
            self,
            gateway=None,
            port=None,
            slot=None,
            sim=None,
            tid=None,
            begun_at=None,
            begun_n=None,
            deadline_at=None,
        )

    def without_text(self) -> Sms:
        """The same with the text of the SMS blanked, as the ledger keeps final ones (design 3.7)."""
        asked = self.asked
        if "body" not in asked:
            return self
        asked.pop("body")
        return replace(self, request=to_json(asked))


# --- what we publish ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Publication:
    """One message to publish: persistent, confirmed, mandatory. ``exchange`` is a logical name."""

    exchange: str
    routing_key: str
    body: bytes
    content_type: str = "application/json"
    message_id: str | None = None
    app_id: str | None = None
    correlation_id: str | None = None
    timestamp: float | None = None
    reply_to: str | None = None
    copy_to: str | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)

    def properties(self) -> str:
        """All but exchange, routing key and body, as the outbox keeps it (JSON)."""
        told = {
            "ct": self.content_type,
            "mid": self.message_id,
            "app": self.app_id,
            "cid": self.correlation_id,
            "ts": self.timestamp,
            "reply": self.reply_to,
            "copy": self.copy_to,
            "h": dict(self.headers) or None,
        }
        return to_json({k: v for k, v in told.items() if v is not None})

    @classmethod
    def load(cls, exchange: str, routing_key: str, properties: str, body: bytes) -> Publication:
        """The inverse of ``properties``."""
        told = json.loads(properties)
        return cls(
            exchange,
            routing_key,
            body,
            content_type=told["ct"],
            message_id=told.get("mid"),
            app_id=told.get("app"),
            correlation_id=told.get("cid"),
            timestamp=told.get("ts"),
            reply_to=told.get("reply"),
            copy_to=told.get("copy"),
            headers=told.get("h", {}),
        )


class EventData(BaseModel):
    """What every event's ``data`` may carry; ``None`` members are left out on the wire."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ClassVar[str]
    """``<noun>.<verb>``; the CloudEvents type is ``<kind>.v1``."""


class SmsData(EventData):
    """What every event about one of our SMS carries."""

    app_id: str | None = None
    route: str | None = None
    to: str | None = None
    segments: int | None = None
    encoding: Literal["gsm7", "ucs2"] | None = None
    metadata: dict[str, str] | None = None
    parent: str | None = None
    attempt: int | None = None
    gateway: str | None = None
    port: int | None = None
    slot: int | None = None
    sim: str | None = None
    tid: int | None = None
    slim: bool | None = Field(None, description="Told again from a row whose details are no longer kept.")
    possible_duplicate: bool | None = Field(None, description="It may be on air twice; see on_doubt: resend.")


class SmsSubmitted(SmsData):
    """The device took the task."""

    kind: ClassVar[str] = "sms.submitted"


class SmsSent(SmsData):
    """The network took the SMS."""

    kind: ClassVar[str] = "sms.sent"
    sent_at: datetime | None = Field(None, description="By the device's clock.")
    corrects: str | None = Field(None, description="Id of the earlier final event that this one replaces.")
    evidence: Literal["statistics"] | None = Field(None, description="No report came: the SIM's counters settled it.")


class SmsFailed(SmsData):
    """The SMS is not going out."""

    kind: ClassVar[str] = "sms.failed"
    reason: str | None = Field(None, description="Ours: not_taken, not_sent, not_sure, no_sim_left.")
    code: int | None = Field(None, description="The device's code.")
    text: str | None = Field(None, description="The device's wording.")
    operator_code: int | None = None
    operator_text: str | None = None
    certain: bool | None = Field(None, description="False: the device gave up waiting, it may have gone on air.")
    corrects: str | None = None
    evidence: Literal["statistics"] | None = Field(None, description="No report came: the SIM's counters settled it.")


class SmsExpired(SmsData):
    """It is not on air and will not be: too late."""

    kind: ClassVar[str] = "sms.expired"
    reason: str | None = None
    expires_at: datetime | None = None
    corrects: str | None = None


class SmsRejected(SmsData):
    """It is not on air and will not be: unreadable, unroutable or refused, with the reason."""

    kind: ClassVar[str] = "sms.rejected"
    reason: str | None = None
    field: str | None = Field(None, description="The member of the request that is wrong.")
    detail: str | None = Field(None, description="A sentence for people.")
    of_sms: bool | None = Field(None, description="False: no final state of any SMS (id_conflict, missing_id, ...).")
    corrects: str | None = None


class SmsUnknown(SmsData):
    """The device's answer or report was lost and no evidence settled it."""

    kind: ClassVar[str] = "sms.unknown"
    reason: str | None = Field(None, description="answer_lost, report_lost or restart.")
    corrects: str | None = None


class SmsDelivered(SmsData):
    """A delivery report said that the handset has it."""

    kind: ClassVar[str] = "sms.delivered"
    code: int | None = None
    reported_at: datetime | None = None


class SmsUndelivered(SmsData):
    """A delivery report said anything else; the code space is the radio module's own."""

    kind: ClassVar[str] = "sms.undelivered"
    code: int | None = None
    reported_at: datetime | None = None


class SmsReceived(EventData):
    """An SMS came in."""

    kind: ClassVar[str] = "sms.received"
    gateway: str
    port: int | None = None
    slot: int | None = None
    sim_pool: str | None = Field(None, description="Where the card lies in a SIM pool; slot is the pool's then.")
    sim: str | None = Field(None, description="The card: its ICCID where known, else gateway/port.slot.")
    receiver: str | None = Field(None, description="The SIM's own number, where anybody knows it.")
    sender: str
    text: str
    smsc: str | None = None
    scts: str | None = Field(None, description="The network's own time stamp, as it came.")
    received_at: datetime | None = Field(None, description="By the device's clock.")
    via: Literal["push", "forward", "inbox"]
    possible_repeat: bool | None = None


class SmsReportUnmatched(EventData):
    """A delivery report that fits none of our SMS, or several."""

    kind: ClassVar[str] = "sms.report_unmatched"
    gateway: str
    port: int | None = None
    sim: str | None = None
    recipient: str
    code: int | None = None
    reported_at: datetime | None = None
    candidates: list[str] = Field(default_factory=list, description="Keys of the SMS that it could be about.")


class SmsObserved(EventData):
    """The device sent an SMS of another submitter: it used the SIM's budget."""

    kind: ClassVar[str] = "sms.observed"
    gateway: str
    port: int | None = None
    sim: str | None = None
    recipient: str
    code: int | None = None
    text: str | None = Field(None, description="The device's wording of the code; never the SMS's text.")
    submitter: str | None = None
    submitter_ip: str | None = None
    submitter_port: int | None = None
    tid: int | None = Field(None, description="The other submitter's.")
    smsc: str | None = None
    took_ms: int | None = None
    seq: int | None = Field(None, description="The device's.")
    sent_at: datetime | None = None


class Quota(BaseModel):
    """What the device counts of something, and how much of it allows (the document's ``n/m``)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    used: int
    allowed: int | Literal["unlimited"]


class PortUsage(BaseModel):
    """The device's own counts and caps of a card, where it tells them: in all, in this month, on this day."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    minutes_total: Quota | None = Field(None, description="Minutes of calls.")
    minutes_month: Quota | None = None
    minutes_day: Quota | None = None
    calls_total: Quota | None = Field(None, description="Numbers called.")
    calls_month: Quota | None = None
    calls_day: Quota | None = None
    talks_total: Quota | None = Field(None, description="Numbers talked with.")
    talks_month: Quota | None = None
    talks_day: Quota | None = None
    sms_total: Quota | None = Field(None, description="SMS sent.")
    sms_month: Quota | None = None
    sms_day: Quota | None = None
    data_total_mb: float | None = Field(None, description="Traffic.")
    data_day_mb: float | None = None
    data_24h_mb: float | None = None
    data_1h_mb: float | None = None
    data_last_mb: float | None = None
    data_last_url: str | None = None


class PortChanged(EventData):
    """A port's state or card changed."""

    kind: ClassVar[str] = "port.changed"
    gateway: str
    port: int
    slot: int | None = None
    state: str
    previous: str | None = None
    st: int | None = None
    sim: str | None = None
    iccid: str | None = None
    imsi: str | None = None
    imei: str | None = Field(None, description="Of the radio module.")
    number: str | None = None
    operator: str | None = None
    signal: int | None = None
    balance: float | None = None
    network: int | None = Field(None, description="The network's generation.")
    active: bool | None = Field(None, description="Whether it is the card in use of its port, in a gateway.status.")
    inserted: bool | None = None
    slot_active: bool | None = None
    led: bool | None = None
    sim_pool: str | None = None
    seq: int | None = Field(None, description="The device's.")
    usage: PortUsage | None = None


class GatewayUp(EventData):
    """The gateway answers (again)."""

    kind: ClassVar[str] = "gateway.up"
    gateway: str
    version: str | None = None
    ports: int | None = None


class GatewayDown(EventData):
    """The gateway cannot be reached or has gone silent."""

    kind: ClassVar[str] = "gateway.down"
    gateway: str
    reason: str


class GatewayRestarted(EventData):
    """The device's sequence began anew: it forgot its tasks."""

    kind: ClassVar[str] = "gateway.restarted"
    gateway: str
    seq: int
    previous_seq: int


class GatewayStatus(EventData):
    """The periodic snapshot of a gateway."""

    kind: ClassVar[str] = "gateway.status"
    gateway: str
    seq: int | None = None
    version: str | None = None
    mac: str | None = None
    ip: str | None = None
    expires_s: float | None = Field(None, description="The next one is due by then.")
    max_ports: int | None = None
    max_slots: int | None = None
    ports: list[PortChanged] = Field(default_factory=list)


class CommandAccepted(EventData):
    """A gateway was told to do something; what becomes of it follows."""

    kind: ClassVar[str] = "command.accepted"
    command: str
    gateway: str
    app_id: str | None = Field(None, description="Who commanded, by the AMQP app_id.")
    detail: str = Field(description="A sentence for people.")


class CommandDone(EventData):
    """A command was carried out."""

    kind: ClassVar[str] = "command.done"
    command: str
    gateway: str | None = None
    app_id: str | None = Field(None, description="Who commanded, by the AMQP app_id.")
    sms: str | None = Field(None, description="Key of the SMS that it concerned.")
    detail: str = Field(description="A sentence for people.")
    result: dict[str, JsonValue] | None = Field(None, description="What was asked for.")


class CommandFailed(EventData):
    """A command was not carried out; nothing has changed, but where its reason says that nobody knows."""

    kind: ClassVar[str] = "command.failed"
    command: str | None = Field(None, description="Left out where not even that could be read.")
    gateway: str | None = None
    app_id: str | None = Field(None, description="Who commanded, by the AMQP app_id.")
    sms: str | None = Field(None, description="Key of the SMS that it concerned.")
    reason: str
    detail: str = Field(description="A sentence for people, with the cure.")


class RawPush(EventData):
    """A push whose body is told as it came (at most 16 KiB)."""

    gateway: str
    content_type: str | None = None
    body: str = Field(description="UTF-8 where it is, else base64 (see base64).")
    base64: bool | None = None
    truncated: bool | None = None


class CallRecorded(RawPush):
    """A call detail record; no document shows one, so the body is told as it came (at most 16 KiB)."""

    kind: ClassVar[str] = "call.recorded"
    port: int | None = None


class GatewayUnrecognised(RawPush):
    """A push that nobody documents or that cannot be read: the body as it came (at most 16 KiB)."""

    kind: ClassVar[str] = "gateway.unrecognised"
    type: str | None = None
    reason: str | None = None


SMS_EVENTS: dict[str, type[SmsData]] = {
    model.kind: model
    for model in (
        SmsSubmitted,
        SmsSent,
        SmsFailed,
        SmsExpired,
        SmsRejected,
        SmsUnknown,
        SmsDelivered,
        SmsUndelivered,
    )
}

EVENT_TYPES: dict[str, type[EventData]] = SMS_EVENTS | {
    model.kind: model
    for model in (
        SmsReceived,
        SmsReportUnmatched,
        SmsObserved,
        PortChanged,
        GatewayUp,
        GatewayDown,
        GatewayRestarted,
        GatewayStatus,
        CommandAccepted,
        CommandDone,
        CommandFailed,
        CallRecorded,
        GatewayUnrecognised,
    )
}


class CloudEvent(BaseModel):
    """CloudEvents 1.0, JSON format; ``sequence`` (zero-padded, rises per SMS) and ``traceparent`` are extensions."""

    model_config = ConfigDict(frozen=True)

    specversion: Literal["1.0"] = "1.0"
    id: str
    source: str
    type: str
    subject: str | None = None
    time: datetime
    datacontenttype: Literal["application/json"] = "application/json"
    sequence: str | None = None
    traceparent: str | None = None
    data: SerializeAsAny[EventData]


def source_of(gateway: str | None, port: int | None, route: str | None = None) -> str:
    """The CloudEvents source: the port, else the gateway, else the route, else the bridge itself."""
    if gateway:
        return f"/gateways/{gateway}/ports/{port}" if port else f"/gateways/{gateway}"
    return f"/routes/{route}" if route else "/bridge"


def moment(at: float | None) -> datetime | None:
    """Unix seconds as the UTC datetime that events carry; None where there is none, or no calendar has it."""
    try:
        return None if at is None else datetime.fromtimestamp(at, UTC)
    except (OverflowError, ValueError, OSError):
        return None


def stamp(at: float | None) -> str | None:
    """The same as text, for details that the ledger keeps."""
    told = moment(at)
    return told.isoformat() if told else None


def publication_of(
    data: EventData,
    *,
    event_id: str,
    at: float,
    subject: str | None = None,
    gateway: str | None = None,
    port: int | None = None,
    route: str | None = None,
    sequence: int | None = None,
    correlation_id: str | None = None,
    copy_to: str | None = None,
    traceparent: str | None = None,
) -> Publication:
    """Wrap an event's data for ``events``; the routing key always has five words (design 1.3).

    A route that is no name (a mistyped routing key may hold anything) stays in the data: as a word it could be several,
    or make the key too long for the broker, and the event would never leave the outbox.
    """
    named = route if route and _NAME.fullmatch(route) else None
    event = CloudEvent(
        id=event_id,
        source=source_of(gateway, port, named),
        type=f"{data.kind}.v1",
        subject=subject or None,
        time=datetime.fromtimestamp(at, UTC),
        sequence=None if sequence is None else f"{sequence:010d}",
        traceparent=traceparent,
        data=data,
    )
    return Publication(
        "events",
        f"{data.kind}.{named or '-'}.{gateway or '-'}.{port or '-'}",
        event.model_dump_json(exclude_none=True).encode(),
        content_type="application/cloudevents+json",
        message_id=event_id,
        correlation_id=correlation_id,
        copy_to=copy_to,
        timestamp=at,
    )


def tell(
    sms: Sms, kind: str, at: float, *, changes: Mapping[str, Any] | None = None, **detail: Any
) -> tuple[Sms, Publication]:
    """The next event of this SMS: the SMS with ``changes`` and the event noted in it, and the event to publish.

    The text of a final one is blanked (design 3.7). After a replay the final event names the one it corrects.
    """
    if "corrects" in SMS_EVENTS[kind].model_fields and (corrects := sms.asked.get("corrects")):
        detail = {"corrects": corrects} | detail
    event_id = f"{sms.key}/{sms.attempt}/{kind}"
    told = replace(
        sms,
        **{
            **(changes or {}),
            "sequence": sms.sequence + 1,
            "event_id": event_id,
            "event_type": kind,
            "event_at": at,
            "detail": detail,
        },
    )
    publication = tell_again(told)
    assert publication is not None
    return told.without_text() if told.state.final else told, publication


def tell_again(sms: Sms) -> Publication | None:
    """The latest event of this SMS once more, under its own id; None where nothing was told yet."""
    if sms.event_type is None or sms.event_id is None or sms.event_at is None:
        return None
    asked = sms.asked
    slim = sms.request is None
    model = SMS_EVENTS[sms.event_type]
    data = model(
        app_id=sms.app_id or None,
        route=sms.route,
        to=sms.recipient or None,
        segments=sms.segments or None,
        encoding=sms.encoding,
        metadata=asked.get("meta"),
        parent=sms.parent,
        attempt=sms.attempt,
        gateway=sms.gateway,
        port=sms.port,
        slot=sms.slot,
        sim=sms.sim,
        tid=sms.tid,
        slim=slim or None,
        **{"possible_duplicate": asked.get("pd"), **sms.detail},
    )
    return publication_of(
        data,
        event_id=sms.event_id,
        at=sms.event_at,
        subject=sms.id,
        gateway=sms.gateway,
        port=sms.port,
        route=sms.route,
        sequence=sms.sequence,
        correlation_id=asked.get("cid"),
        copy_to=asked.get("reply_to"),
        traceparent=asked.get("tp"),
    )
