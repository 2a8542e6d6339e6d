"""What a device can tell us and what we can ask of it, as plain frozen data.

A fact is what a device said, in our words and units; it is not yet a decision. Moments are unix seconds (float) as
the device's clock gave them, durations seconds unless the name says otherwise. No I/O, no clock, no codes' meaning
(see ``codes``), no JSON (see ``encode`` and ``decode``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from bridge.ejoin.ports import Port

Quota: TypeAlias = tuple[int, int | None]
"""A device's ``n/m``: used and allowed, where None allows any number."""


@dataclass(frozen=True, slots=True)
class SmsTask:
    """One send order: one recipient on one port (document 1.3.1.3; never several of either, see notes 2 and 3).

    Without a port the device chooses one (note 1).
    """

    tid: int
    port: Port | None
    to: str
    text: str
    coding: Literal[0, 1, 2] = 0
    flash: bool = False
    smsc: str = ""
    timeout_s: int = 30
    delivery_report: bool = False
    report_count: int = 1
    report_period_s: int = 5


@dataclass(frozen=True, slots=True)
class Envelope:
    """Where and how eagerly the device reports (document 1.3.1.3, the fields around ``tasks``); None: it is told
    nowhere.
    """

    callback_url: str | None
    report_count: int = 20
    report_period_s: int = 3
    sms_count: int = 10
    sms_period_s: int = 3


@dataclass(frozen=True, slots=True)
class TaskAck:
    """The answer to one task of a submit (1.3.1.4): ``code`` is None where the status had no readable number.

    ``final`` where it is also the last word about the task: the old interface answers when the SMS has left (1.2).
    """

    tid: int
    code: int | None
    text: str = ""
    final: bool = False


@dataclass(frozen=True, slots=True)
class SubmitAnswer:
    """The whole answer to a submit. ``code`` is the envelope's (200 is success), None where it was not there."""

    code: int | None
    reason: str
    acks: tuple[TaskAck, ...]


@dataclass(frozen=True, slots=True)
class ListedTask:
    """A task that still waits in the device (device API, list tasks)."""

    tid: int
    to: str
    suspended: bool = False


@dataclass(frozen=True, slots=True)
class SentRow:
    """One success detail (``sdr``) of a status report."""

    index: int
    number: str
    port: Port | None
    at: float | None


@dataclass(frozen=True, slots=True)
class FailedRow:
    """One failure detail (``fdr``): the device's cause, and the operator's where the network refused."""

    index: int
    number: str
    port: Port | None
    at: float | None
    code: int | None
    text: str = ""
    operator_code: int | None = None
    operator_text: str = ""


@dataclass(frozen=True, slots=True)
class SmsReport:
    """One entry of a status-report (1.3.2.3). Counters are cumulative per task; rows only those since the last."""

    tid: int
    sending: int
    sent: int
    failed: int
    unsent: int
    sent_rows: tuple[SentRow, ...] = ()
    failed_rows: tuple[FailedRow, ...] = ()


@dataclass(frozen=True, slots=True)
class ReceivedSms:
    """An incoming SMS, by JSON push, inbox or text forward (2, 4.3).

    ``at`` is the device's clock, ``scts`` the network's own text as it came (``yyMMddHHmmss`` and a zone in quarters
    of an hour), ``scts_at`` the same as unix seconds. ``iccid`` only where the device names the card.
    """

    port: Port | None
    at: float | None
    sender: str
    receiver: str
    text: str
    smsc: str = ""
    scts: str = ""
    scts_at: float | None = None
    iccid: str = ""
    via: Literal["push", "forward", "inbox"] = "push"


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    """The network's word about an SMS of ours (4.3 row kind 1): no task id, ``code`` 0 is delivered."""

    port: Port | None
    at: float | None
    recipient: str
    code: int | None
    smsc: str = ""
    stamp: str = ""
    iccid: str = ""


@dataclass(frozen=True, slots=True)
class InboxPage:
    """Part of the device's inbox (device API 2.6): SMS and delivery reports in the order of their ids.

    Ids hold for one ``ssrc``, which changes at every start of the device; ``next_sms`` is the id to ask for next
    (0: not told). ``unreadable`` says what of the page could not be read (empty: all could); it is not in ``rows``.
    """

    ssrc: str
    next_sms: int
    rows: tuple[ReceivedSms | DeliveryReport, ...]
    unreadable: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a command (4.5; device API 2.3, 2.10, 2.11): whether the device took it, and all that it says."""

    code: int | None
    reason: str
    told: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CallStatistics:
    """What the device has counted of calls for one card (device API 2.8); times in seconds, ``asr`` in percent."""

    port: Port
    calls: int
    alerted: int
    connected: int
    consecutive_failed: int
    numbers: Quota | None
    pdd: float | None
    acd: float | None
    asr: float | None
    minutes: int
    connected_s: int


@dataclass(frozen=True, slots=True)
class SimStatistics:
    """What the device has counted for one card (device API 2.7), in SMS, by its own word.

    ``sent`` is ``sent_ok`` and ``sent_failed`` together; ``unsent`` waits in the device, ``sending`` is on the radio.
    """

    port: Port
    received: int
    sent: int
    sent_ok: int
    sent_failed: int
    consecutive_failed: int
    unsent: int
    sending: int


@dataclass(frozen=True, slots=True)
class PortStatus:
    """The state of one port or card (4.1). ``st`` is the document's table; None where it could not be read.

    ``signal`` 0 to 31 (99 unknown), ``balance`` in the card's currency, ``network`` the generation (2 to 5). What is
    counted per card in all, in this month and on this day are the device's own ``n/m`` limits as (used, allowed),
    allowed None for unlimited: ``minutes`` of calls (``dur``), ``calls`` by numbers called (``mcn``), ``talks``
    (``mtn``) and ``sms`` (``smsctl``). Traffic (``dataflow``) is in MB.
    """

    port: Port
    st: int | None
    seq: int | None = None
    active: bool = True
    iccid: str = ""
    imsi: str = ""
    imei: str = ""
    number: str = ""
    operator: str = ""
    balance: float | None = None
    signal: int | None = None
    sim_pool: str = ""
    inserted: bool | None = None
    slot_active: bool | None = None
    led: bool | None = None
    network: int | None = None
    minutes_total: Quota | None = None
    minutes_month: Quota | None = None
    minutes_day: Quota | None = None
    calls_total: Quota | None = None
    calls_month: Quota | None = None
    calls_day: Quota | None = None
    talks_total: Quota | None = None
    talks_month: Quota | None = None
    talks_day: Quota | None = None
    sms_total: Quota | None = None
    sms_month: Quota | None = None
    sms_day: Quota | None = None
    data_total_mb: float | None = None
    data_day_mb: float | None = None
    data_24h_mb: float | None = None
    data_1h_mb: float | None = None
    data_last_mb: float | None = None
    data_last_url: str = ""


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """The periodic snapshot of the whole box (4.2), also the immediate answer to a status query.

    The next one is due in ``expires_s``; None where nobody has asked for any.
    """

    seq: int | None
    expires_s: float | None
    mac: str
    ip: str
    version: str
    max_ports: int | None
    max_slots: int | None
    ports: tuple[PortStatus, ...]


@dataclass(frozen=True, slots=True)
class SentSms:
    """A ``sent-sms`` push (4.4): the device handed an SMS to the network, whoever submitted it.

    ``source`` is the document's ``src_type`` (3 is HTTP, which we are), ``code`` 0 is sent, ``took_ms`` radio time.
    """

    port: Port | None
    tid: int | None
    code: int | None
    text: str
    recipient: str
    at: float | None
    source: int | None = None
    took_ms: int | None = None
    smsc: str = ""
    body: str = ""
    seq: int | None = None
    source_ip: str = ""
    source_port: int | None = None


@dataclass(frozen=True, slots=True)
class CallRecord:
    """A call detail record. The documents switch it on and show none, so only the port is read of it."""

    port: Port | None


@dataclass(frozen=True, slots=True)
class Unrecognised:
    """A push nobody documents, or one that could not be read: kept whole, never dropped. ``type`` may be empty."""

    type: str
    reason: str = ""


Fact: TypeAlias = (
    SmsReport | ReceivedSms | DeliveryReport | PortStatus | DeviceStatus | SentSms | CallRecord | Unrecognised
)
