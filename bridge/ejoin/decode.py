"""Reads what devices say: pushes into facts, answers into what they answer.

Liberal by design: devices, firmwares and documents disagree about types, spellings and notations. Whatever part of a
push can be read becomes its fact; a part that cannot becomes one ``Unrecognised`` beside them, so that the push is
kept. The only exception is GatewayGarbled, for a body that is no push at all. Work is linear in the body's size.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeAlias
from urllib.parse import parse_qsl

from bridge.ejoin import ports
from bridge.ejoin.codes import SUCCESS
from bridge.ejoin.facts import (
    CallRecord,
    CallStatistics,
    DeliveryReport,
    DeviceStatus,
    Fact,
    FailedRow,
    InboxPage,
    ListedTask,
    PortStatus,
    Quota,
    ReceivedSms,
    Reply,
    SentRow,
    SentSms,
    SimStatistics,
    SmsReport,
    SubmitAnswer,
    TaskAck,
    Unrecognised,
)
from bridge.ejoin.ports import Port
from bridge.errors import GatewayGarbled

MAX_DEPTH = 32
"""Deeper nesting is no push of any device."""

MAX_NUMBER = 64
"""Characters of the longest number that is read as one."""

LEAST_EXPIRES_MS = 10_000
"""A period of status reports is milliseconds from here on: as seconds it would be hours."""

Members: TypeAlias = dict[str, Any]

_NOT_BRACKETS = re.compile(r"[^\[\]{}]+")
_CODE_AND_TEXT = re.compile(r"(-?[0-9]{1,18})(?:[\s:,;-]+(.*))?", re.DOTALL)
_QUOTA = re.compile(r"([0-9]{1,9})\s*/\s*(-?[0-9]{1,9})")
_SCTS = re.compile(r"([0-9]{2})([0-9]{2})([0-9]{2})([0-9]{2})([0-9]{2})([0-9]{2})([0-9A-Fa-f])([0-9])")
_HEADER = re.compile(
    r"(?:[0-9]{1,3}\r?\n)?((?:(?:Sender|Receiver|SMSC|SCTS)[ \t]*:[^\r\n]*(?:\r?\n|\Z)){3,4})(?:\r?\n|\Z)",
    re.IGNORECASE,
)
_QUOTED_PORT = re.compile(r'"([^"]*)"(.*)')
_ICCID = re.compile(r"89[0-9]{16,18}[0-9Ff]?")
_INTEGER = re.compile(r"\s*([+-]?[0-9]{1,19})\s*")
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_NOT_IN_NUMBERS = re.compile(r"[\s+()-]")
_MAX_INTEGER = 2**63
_MAX_MOMENT = 253_402_300_800.0
"""The year 10000: later moments are no dates, in any library."""

_CHARSETS = {
    "utf-8": "utf-8",
    "utf8": "utf-8",
    "ascii": "utf-8",
    "us-ascii": "utf-8",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "gb18030": "gb18030",
    "big5": "big5",
    "iso-8859-1": "cp1252",
    "latin1": "cp1252",
    "windows-1252": "cp1252",
    "ucs2": "utf-16-be",
    "utf-16": "utf-16",
}
"""The charsets a device may name. Anything else is read as UTF-8, the document's default."""


def decode_push(body: bytes, content_type: str, query: Mapping[str, str]) -> list[Fact]:
    """Every fact of one push, in its order; whatever of it cannot be read is one Unrecognised, for the whole body.

    Raises GatewayGarbled, and nothing else, for a body that is neither JSON nor a text forward.
    """
    asked = {name.lstrip("?").strip().lower(): value for name, value in query.items()}
    kind = content_type.lower()
    if "x-www-form-urlencoded" in kind:
        asked |= _form(body)
    if "json" not in kind and (forwarded := _forwarded(body, kind, asked)):
        return [forwarded]
    if "octet-stream" in kind:
        # The type of a text forward. Never read as JSON: its text is a stranger's, who could forge any push in it.
        raise GatewayGarbled("neither a header block nor a sender: no text forward")
    told = _parse(body)
    pushes = told if isinstance(told, list) else [told]
    facts = [fact for push in pushes for fact in _decode_one(push)]
    unreadable = [fact for fact in facts if isinstance(fact, Unrecognised)]
    if len(unreadable) <= 1:
        return facts
    return [fact for fact in facts if not isinstance(fact, Unrecognised)] + unreadable[:1]


def decode_answer(body: bytes) -> SubmitAnswer:
    """The answer to a submit (1.3.1.4). Rows without a readable task id are left out: nobody can be meant."""
    told = _parse_object(body)
    acks = []
    for row in _rows(_first(told, "status", "results", "result", "tasks")):
        tid = _int(row.get("tid")) if isinstance(row, dict) else None
        if tid is not None:
            code, text = _code_and_text(_first(row, "status", "code"))
            acks.append(TaskAck(tid, code, text or _word(row.get("reason"))))
    return SubmitAnswer(_code_and_text(told.get("code"))[0], _reason(told), tuple(acks))


def decode_legacy_answer(body: bytes, tid: int) -> SubmitAnswer:
    """The answer of the old interface, which comes when the SMS has left: a code in JSON, or nothing but "OK".

    Raises GatewayGarbled where it is neither.
    """
    try:
        told = _parse_object(body)
    except GatewayGarbled:
        if not re.search(rb"\bOK\b", body, re.IGNORECASE):
            raise
        told = {"code": 0, "reason": "OK"}
    code, text = _code_and_text(_first(told, "code", "status"))
    ack = TaskAck(tid, 0 if code in SUCCESS else code, text or _reason(told), final=True)
    return SubmitAnswer(200, "OK", (ack,))


def decode_tasks(body: bytes) -> tuple[ListedTask, ...]:
    """The waiting tasks in one answer to a task list. Raises GatewayGarbled where the device refused to tell."""
    told = _parse_object(body)
    listed = _first(told, "tasks", "task")
    code = _code_and_text(told.get("code"))[0]
    if (code is not None and code not in SUCCESS) or not isinstance(listed, list | dict):
        raise GatewayGarbled(f"the gateway lists no tasks: {code} {_reason(told)}".rstrip())
    tasks = []
    for row in _rows(listed):
        tid = _int(row.get("tid")) if isinstance(row, dict) else None
        if tid is not None:
            tasks.append(ListedTask(tid, _word(row.get("to")), suspended=_int(row.get("state")) == 1))
    return tuple(tasks)


def decode_status(body: bytes) -> DeviceStatus:
    """The snapshot that answers a status query. Raises GatewayGarbled where the device tells none."""
    told = _parse_object(body)
    if not isinstance(told.get("status"), list | dict):
        raise GatewayGarbled(f"the gateway tells no status: {_word(told.get('code'))} {_reason(told)}".rstrip())
    return _device_status(told)[0]


def decode_reply(body: bytes) -> Reply:
    """The answer to a command. Raises GatewayGarbled where it is no JSON object."""
    told = _parse_object(body)
    code, text = _code_and_text(_first(told, "code", "status"))
    return Reply(code, _reason(told) or text, told)


def decode_call_statistics(body: bytes) -> tuple[CallStatistics, ...]:
    """The call counters of every card in one answer; what cannot be read is 0, or None where it is no count.

    Raises GatewayGarbled where the device refused to tell.
    """
    _, listed = _granted(body, "stats", "statistics")
    return tuple(
        CallStatistics(
            port if port.slot else Port(port.number, max(_count(row, "slot", 0), 0)),
            calls=_count(row, "calls", 0),
            alerted=_count(row, "alerted", 0),
            connected=_count(row, "connected", 0),
            consecutive_failed=_count(row, "con_failed", 0),
            numbers=_quota(row.get("nc")),
            pdd=_float(row.get("pdd")),
            acd=_float(row.get("acd")),
            asr=_float(row.get("asr")),
            minutes=_count(row, "tcd", 0),
            connected_s=_count(row, "act_tcd", 0),
        )
        for row in listed
        if isinstance(row, dict) and (port := _port(row.get("port"))) is not None
    )


def decode_statistics(body: bytes) -> tuple[SimStatistics, ...]:
    """The counters of every card in one answer to a statistics query.

    A card is left out where its port or a counter that tells how sends ended cannot be read: a missing one taken for
    0 would prove that nothing was sent. Raises GatewayGarbled where the device refused to tell.
    """
    _, listed = _granted(body, "stats", "statistics")
    rows = (_sim_statistics(row) for row in listed if isinstance(row, dict))
    return tuple(row for row in rows if row is not None)


def decode_inbox(body: bytes) -> InboxPage:
    """One page of the inbox, its rows as in a recv-sms; one that cannot be read is told in ``unreadable``.

    Raises GatewayGarbled where the device refused to tell.
    """
    told, listed = _granted(body, "data", "inbox")
    rows, unreadable = _sms_rows(listed, via="inbox")
    return InboxPage(_word(told.get("ssrc")), _count(told, "next_sms", 0), tuple(rows), unreadable)


def _granted(body: bytes, name: str, what: str) -> tuple[Members, list[Any]]:
    """An answer and its rows under ``name``; none are as good as an empty list where the device says success."""
    told = _parse_object(body)
    code, listed = _code_and_text(told.get("code"))[0], told.get(name)
    if code not in SUCCESS and (code is not None or not isinstance(listed, list | dict)):
        raise GatewayGarbled(f"the gateway tells no {what}: {code} {_reason(told)}".rstrip())
    return told, _rows(listed)


def _sim_statistics(row: Members) -> SimStatistics | None:
    port = _port(row.get("port"))
    ok, failed = _int(row.get("sent_ok")), _int(row.get("sent_failed"))
    unsent, sending = _int(row.get("unsent")), _int(row.get("sending"))
    if port is None or ok is None or failed is None or unsent is None or sending is None:
        return None
    return SimStatistics(
        port if port.slot else Port(port.number, max(_count(row, "slot", 0), 0)),
        received=_count(row, "received", 0),
        sent=_count(row, "sent", ok + failed),
        sent_ok=ok,
        sent_failed=failed,
        consecutive_failed=_count(row, "con_failed", 0),
        unsent=unsent,
        sending=sending,
    )


# --- pushes ---------------------------------------------------------------------------------------------------------


def _decode_one(push: Any) -> Iterator[Fact]:
    if not isinstance(push, dict):
        yield Unrecognised("", "not an object")
        return
    kind = _word(push.get("type"))
    decoder = DECODERS.get(kind.lower()) or (_decode_call_record if "cdr" in kind.lower() else None)
    if decoder is None:
        yield Unrecognised(kind, "unknown type" if kind else "no type")
        return
    facts, unreadable = decoder(push)
    yield from facts
    if unreadable:
        yield Unrecognised(kind, unreadable)


Decoded: TypeAlias = tuple[list[Fact], str]
"""The facts of a push, and what of it could not be read (empty: all could)."""


def _decode_status_report(push: Members) -> Decoded:
    facts: list[Fact] = []
    unreadable = ""
    for entry in _rows(push.get("rpts")):
        report, bad = _report(entry[0] if isinstance(entry, list) and len(entry) == 1 else entry)
        if report is not None:
            facts.append(report)
        unreadable = unreadable or bad
    return facts, unreadable or _absent(push, "rpts")


def _absent(push: Members, name: str) -> str:
    """What to say where the rows are no list at all; an empty list is nothing new, and no complaint."""
    return "" if isinstance(push.get(name), list | dict) else f"no {name}"


def _report(entry: Any) -> tuple[SmsReport | None, str]:
    tid = _int(entry.get("tid")) if isinstance(entry, dict) else None
    if tid is None:
        return None, "a report without a readable tid"
    sent_rows, failed_rows = _rows(entry.get("sdr")), _rows(entry.get("fdr"))
    sent = tuple(_sent_row(cells) for row in sent_rows if (cells := _cells(row)) is not None)
    failed = tuple(_failed_row(cells) for row in failed_rows if (cells := _cells(row)) is not None)
    report = SmsReport(
        tid,
        _count(entry, "sending", 0),
        _count(entry, "sent", len(sent)),
        _count(entry, "failed", len(failed)),
        _count(entry, "unsent", 0),
        sent,
        failed,
    )
    complete = len(sent) == len(sent_rows) and len(failed) == len(failed_rows)
    return report, "" if complete else "a detail row that cannot be read"


DETAIL_CELLS = (
    ("index", "idx"),
    ("number", "num", "to"),
    ("port", "sms_sending_port"),
    ("ts", "time", "timestamp", "sms_send_timestamp"),
    ("progress_reason", "code", "reason"),
    ("operator_reason", "carrier_reason", "gsm_cause"),
)
"""The cells of a detail row (1.3.2.3) in their order, by the names under which later documents draw it as an object."""


def _cells(row: Any) -> list[Any] | None:
    """The cells of a detail row: a list, a line with commas, or an object; None where it is none of them."""
    if isinstance(row, list) and len(row) == 1 and isinstance(row[0], dict | list):
        row = row[0]  # drawn so in one document
    cells: list[Any] | None = row if isinstance(row, list) else None
    if isinstance(row, str):
        cells = [cell.strip() for cell in row.split(",", len(DETAIL_CELLS) - 1)]
    elif isinstance(row, dict):
        cells = _named_cells(row)
    if cells is None or len(cells) < 2:
        return None
    if len(cells) > 4 and _ICCID.fullmatch(_word(cells[3])):  # a central manager names its box, and the card
        return [*cells[:2], _word(cells[2]).partition(".")[2], *cells[4:]]
    return cells


def _named_cells(row: Members) -> list[Any] | None:
    """The cells of an object; the newest firmware counts recipients from 1 and names the slot apart from the port."""
    if not any(name in row for name in DETAIL_CELLS[1]):
        return None
    cells = [_first(row, *names) for names in DETAIL_CELLS]
    if cells[0] is None and (place := _int(row.get("seq"))) is not None:
        cells[0] = max(place - 1, 0)
    return [*cells[:2], _placed(row, cells[2]), *cells[3:]]


def _placed(row: Members, port: Any) -> Any:
    """A port cell, with the slot that stands in a member of its own."""
    slot = _int(row.get("slot"))
    return port if slot is None or slot < 1 or _int(port) is None else f"{_int(port)}.{slot:02d}"


def _sent_row(row: list[Any]) -> SentRow:
    index, number, port, at = (*row, None, None)[:4]
    return SentRow(_int(index) or 0, _word(number), _port(port), _moment(at))


def _failed_row(row: list[Any]) -> FailedRow:
    index, number, port, at, reason, operator = (*row, None, None, None, None)[:6]
    code, text = _code_and_text(reason)
    operator_code, operator_text = _code_and_text(operator)
    return FailedRow(
        _int(index) or 0, _word(number), _port(port), _moment(at), code, text, operator_code, operator_text
    )


def _decode_recv_sms(push: Members) -> Decoded:
    rows, unreadable = _sms_rows(_rows(push.get("sms")), via="push")
    return [*rows], unreadable or _absent(push, "sms")


def _sms_rows(rows: list[Any], *, via: Literal["push", "inbox"]) -> tuple[list[ReceivedSms | DeliveryReport], str]:
    """The rows that can be read, and what to say of the others (empty: there are none)."""
    readable: list[ReceivedSms | DeliveryReport] = []
    unreadable = ""
    for row in rows:
        kind = _int(row[0]) if isinstance(row, list) and len(row) >= 6 else None
        fact = _received_object(row, via) if isinstance(row, dict) and "sms" in row else None
        if fact is not None:
            readable.append(fact)
        elif kind == 0:
            readable.append(_received(row, via))
        elif kind == 1:
            readable.append(_delivery_report(row))
        else:
            unreadable = "a row that is neither an SMS nor a delivery report"
    return readable, unreadable


def _received(row: list[Any], via: Literal["push", "inbox"]) -> ReceivedSms:
    _, port, at, sender, receiver, content = row[:6]
    return _with_headers(
        _content(content), port=_port(port), at=_moment(at), sender=_word(sender), receiver=_word(receiver), via=via
    )


def _delivery_report(row: list[Any]) -> DeliveryReport:
    _, port, at, smsc, recipient, content = row[:6]
    code, stamp = _code_and_text(content)
    if code is None:
        code, stamp = _code_and_text(_content(content))
    return DeliveryReport(_port(port), _moment(at), _word(recipient), code, _word(smsc), stamp)


def _decode_port_status(push: Members) -> Decoded:
    status = _port_status(push)
    return ([], "no readable port") if status is None else ([status], "")


def _decode_dev_status(push: Members) -> Decoded:
    status, complete = _device_status(push)
    return [status], "" if complete else "a row without a readable port"


def _device_status(told: Members) -> tuple[DeviceStatus, bool]:
    rows = _rows(told.get("status"))
    statuses = [_port_status(row) for row in rows if isinstance(row, dict)]
    readable = tuple(status for status in statuses if status is not None)
    status = DeviceStatus(
        _int(told.get("seq")),
        _expires_s(told.get("expires")),
        _word(told.get("mac")),
        _word(told.get("ip")),
        _word(told.get("ver")),
        _int(_first(told, "max-ports", "max-port")),
        _int(_first(told, "max-slots", "max-slot")),
        readable,
    )
    return status, len(readable) == len(rows)


def _expires_s(value: Any) -> float | None:
    """The period of the snapshots: seconds, or in the document's own sample milliseconds; -1 where nobody asked."""
    told = _float(value)
    if told is None or told <= 0:
        return None
    return told / 1000 if told >= LEAST_EXPIRES_MS else told


QUOTAS = {
    "minutes_total": "tot_dur",
    "minutes_month": "mon_dur",
    "minutes_day": "day_dur",
    "calls_total": "mcn_tot",
    "calls_month": "mcn_mon",
    "calls_day": "mcn_day",
    "talks_total": "mtn_tot",
    "talks_month": "mtn_mon",
    "talks_day": "mtn_day",
    "sms_total": "smsctl_tot",
    "sms_month": "smsctl_mon",
    "sms_day": "smsctl_day",
}
"""The ``n/m`` members of a port status (4.1), by the names of PortStatus."""

VOLUMES_MB = {
    "data_total_mb": "dataflow_tot",
    "data_day_mb": "dataflow_day",
    "data_24h_mb": "dataflow_24hours",
    "data_1h_mb": "dataflow_1hour",
    "data_last_mb": "dataflow_last",
}


def _port_status(row: Members) -> PortStatus | None:
    port = _port(row.get("port"))
    if port is None:
        return None
    counted: dict[str, Any] = {name: _quota(row[key]) for name, key in QUOTAS.items() if key in row}
    counted |= {name: _float(row[key]) for name, key in VOLUMES_MB.items() if key in row}
    return PortStatus(
        port,
        _code_and_text(_first(row, "st", "status"))[0],
        seq=_int(row.get("seq")),
        active=_code_and_text(row.get("active"))[0] != 0,
        iccid=_word(row.get("iccid")),
        imsi=_word(row.get("imsi")),
        imei=_word(row.get("imei")),
        number=_word(row.get("sn")),
        operator=_word(row.get("opr")),
        balance=_float(row.get("bal")),
        signal=_int(row.get("sig")),
        sim_pool=_word(row.get("sim")),
        inserted=_switch(row.get("inserted")),
        slot_active=_switch(row.get("slot_active")),
        led=_switch(row.get("led")),
        network=_int(row.get("network")),
        data_last_url=_word(row.get("dataflow_url")),
        **counted,
    )


def _decode_sent_sms(push: Members) -> Decoded:
    code, text = _code_and_text(push.get("status"))
    tid, recipient = _int(_first(push, "sms_tid", "tid")), _word(_first(push, "recver", "receiver"))
    if tid is None and "time" in push:
        tid = _int(push.get("sms_time"))  # the table's name for what the sample calls sms_tid
    if tid is None and not recipient:
        return [], "neither a task id nor a recipient"
    encoded = _word(push.get("charset")).lower() == "base64"
    sent = SentSms(
        _port(push.get("port")),
        tid,
        code,
        text,
        recipient,
        _moment(_first(push, "time", "sms_time")),
        source=_int(push.get("src_type")),
        took_ms=_int(push.get("dur")),
        smsc=_word(push.get("smc")),
        body=_content(push.get("data")) if encoded else _text(push.get("data")),
        seq=_int(push.get("seq")),
        source_ip=_word(push.get("src_ip")),
        source_port=_int(push.get("src_port")) or None,
    )
    return [sent], ""


def _decode_call_record(push: Members) -> Decoded:
    return [CallRecord(_port(push.get("port")))], ""


def _decode_sent_status(push: Members) -> Decoded:
    """The newest firmware's report: what the document calls ``rpts``, its rows objects."""
    return _decode_status_report({"rpts": push.get("statuses")})


def _decode_received(push: Members) -> Decoded:
    """The newest firmware's incoming SMS: one object each, which names the card."""
    facts: list[Fact] = []
    unreadable = _absent(push, "smses")
    for row in _rows(push.get("smses")):
        fact = _received_object(row, "push") if isinstance(row, dict) else None
        if fact is None:
            unreadable = "a row that is neither an SMS nor a delivery report"
        else:
            facts.append(fact)
    return facts, unreadable


def _received_object(row: Members, via: Literal["push", "inbox"]) -> ReceivedSms | DeliveryReport | None:
    content, at, iccid = _content(row.get("sms")), _moment(row.get("ts")), _word(row.get("iccid"))
    port, sender, receiver = _port(_placed(row, row.get("port"))), _word(row.get("from")), _word(row.get("to"))
    if not _switch(row.get("is_report")):
        return _with_headers(content, port=port, at=at, sender=sender, receiver=receiver, iccid=iccid, via=via)
    code, stamp = _code_and_text(content)
    return None if code is None else DeliveryReport(port, at, receiver, code, sender, stamp, iccid)


DECODERS: dict[str, Callable[[Members], Decoded]] = {
    "status-report": _decode_status_report,
    "recv-sms": _decode_recv_sms,
    "port-status": _decode_port_status,
    "dev-status": _decode_dev_status,
    "sent-sms": _decode_sent_sms,
    "reve-sms": _decode_sent_sms,  # the document's own slip in 4.4
    "cdr": _decode_call_record,
    "sms-sent-status": _decode_sent_status,
    "received-sms": _decode_received,
}
"""One decoder per type of push; whatever is not here is Unrecognised."""


# --- incoming text --------------------------------------------------------------------------------------------------


def _form(body: bytes) -> dict[str, str]:
    """The fields of a form: some devices put there what others append to the address."""
    try:
        fields = parse_qsl(body.decode("utf-8", "replace").strip("\0\r\n"), max_num_fields=64)
    except ValueError:
        return {}
    return {name.lstrip("?").strip().lower(): value for name, value in fields}


def _forwarded(body: bytes, kind: str, asked: Mapping[str, str]) -> ReceivedSms | None:
    """The SMS of a text forward (document 2.1), None where the body is not one."""
    sender = _asked_number(asked.get("sender"))
    if "content" in asked and sender:
        text = asked["content"]
    else:
        charset = asked.get("charset") or kind.partition("charset=")[2]
        text = body.decode(_CHARSETS.get(charset.strip(' "').lower(), "utf-8"), "replace").removeprefix("\ufeff")
        if not sender and not _split_headers(text)[0]:
            return None
    return _with_headers(
        _text(text),
        port=_port(asked.get("port")),
        at=None,
        sender=sender,
        receiver=_asked_number(asked.get("receiver")),
        iccid=_word(asked.get("iccid")),
        via="forward",
    )


def _asked_number(value: str | None) -> str:
    """A number from a query: a plus that the device did not percent-encode arrives as a blank."""
    if value and value.startswith(" ") and value.strip().isdigit():
        return f"+{value.strip()}"
    return _word(value)


def _with_headers(
    content: str,
    *,
    port: Port | None,
    at: float | None,
    sender: str,
    receiver: str,
    iccid: str = "",
    via: Literal["push", "forward", "inbox"],
) -> ReceivedSms:
    """An incoming SMS whose content may begin with the device's header block of three or four lines."""
    headers, text = _split_headers(content)
    if headers and sender and not _same_party(headers.get("sender", ""), sender):
        # Somebody wrote a header block into a text of theirs: it is text.
        headers, text = {}, content
    header_port, header_receiver = _receiver(headers.get("receiver", ""))
    scts = headers.get("scts", "")
    return ReceivedSms(
        port or header_port,
        at,
        sender or headers.get("sender", ""),
        receiver or header_receiver,
        text,
        smsc=headers.get("smsc", ""),
        scts=scts,
        scts_at=_scts_at(scts),
        iccid=iccid,
        via=via,
    )


def _split_headers(content: str) -> tuple[dict[str, str], str]:
    """The header block, names in lower case, and the text after it; no headers where the block is not whole."""
    match = _HEADER.match(content)
    if match is None:
        return {}, content
    pairs = (line.partition(":") for line in match[1].splitlines())
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    if not {"smsc", "scts"} <= headers.keys():
        return {}, content
    return headers, content[match.end() :]


def _same_party(one: str, other: str) -> bool:
    """Whether two notations can mean the same sender: with or without plus, country code or blanks."""
    first, second = _NOT_IN_NUMBERS.sub("", one).lower(), _NOT_IN_NUMBERS.sub("", other).lower()
    return first.endswith(second) or second.endswith(first)


def _receiver(value: str) -> tuple[Port | None, str]:
    """Port and number of a Receiver line: ``"61.01" <number>``, ``1.04``, or the number alone."""
    if quoted := _QUOTED_PORT.fullmatch(value):
        return _port(quoted[1]), quoted[2].strip(" \t<>")
    port = _port(value) if "." in value else None
    return port, "" if port else value


def _scts_at(scts: str) -> float | None:
    """The unix seconds of a network time stamp: ``yyMMddHHmmss`` and its zone in quarters of an hour.

    The zone is two semi-octets; the top bit of the first one is the sign, so ``A8`` is -28 quarters.
    """
    match = _SCTS.fullmatch(scts)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    tens = int(match[7], 16)
    quarters = (tens & 7) * 10 + int(match[8])
    try:
        local = datetime(2000 + year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None
    offset = timedelta(minutes=15 * quarters)
    return (local + offset if tens & 8 else local - offset).timestamp()


# --- cells ----------------------------------------------------------------------------------------------------------


def _parse(body: bytes) -> Any:
    """The JSON in a body, names in lower case. Raises GatewayGarbled."""
    text = body.decode("utf-8", "replace").strip("\ufeff\0 \t\r\n")
    if not text:
        raise GatewayGarbled("an empty body")
    _check_depth(text)
    try:
        return json.loads(text, object_pairs_hook=_lower_names, parse_constant=_nothing)
    except ValueError:
        raise GatewayGarbled("neither JSON nor a text forward") from None


def _parse_object(body: bytes) -> Members:
    told = _parse(body)
    if not isinstance(told, dict):
        raise GatewayGarbled("the answer is no JSON object")
    return told


def _check_depth(text: str) -> None:
    """Raise GatewayGarbled for nesting deeper than any device's, found by counting brackets instead of parsing.

    Each round takes away the innermost pairs; what is left after 32 rounds was deeper, or is no JSON anyway.
    """
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    outside_strings = "".join(text.replace("\\\\", "").replace('\\"', "").split('"')[::2])
    brackets = _NOT_BRACKETS.sub("", outside_strings).replace("{", "[").replace("}", "]")
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace("[]", "")
    if brackets:
        raise GatewayGarbled(f"nested deeper than {MAX_DEPTH}, or brackets that do not match")


def _lower_names(pairs: list[tuple[str, Any]]) -> Members:
    return {name.strip().lower(): value for name, value in pairs}


def _nothing(_constant: str) -> None:
    """NaN and the infinities are no values of a device."""


def _first(told: Members, *names: str) -> Any:
    """The first member that is there: documents spell several of them in two ways."""
    for name in names:
        if name in told:
            return told[name]
    return None


def _rows(value: Any) -> list[Any]:
    """The rows of a list; a single row may stand there by itself."""
    if isinstance(value, dict) or _is_line(value):
        return [value]
    if not isinstance(value, list):
        return []
    # No single row holds a list or an object, so a list that does is a list of rows, whatever else is in it. Nor does
    # one consist of lines with commas in them.
    holds_rows = any(isinstance(cell, list | dict) for cell in value) or all(_is_line(cell) for cell in value)
    return value if not value or holds_rows else [value]


def _is_line(cell: Any) -> bool:
    return isinstance(cell, str) and "," in cell


def _int(value: Any) -> int | None:
    if type(value) is int and -_MAX_INTEGER < value < _MAX_INTEGER:
        return value  # nearly every cell
    if isinstance(value, str):
        match = _INTEGER.fullmatch(value)
        value = int(match[1]) if match else None
    elif isinstance(value, float):
        value = int(value) if value.is_integer() else None
    if not isinstance(value, int) or abs(value) >= _MAX_INTEGER:
        return None
    return int(value)


def _switch(value: Any) -> bool | None:
    told = _code_and_text(value)[0]
    return None if told is None else told != 0


def _float(value: Any) -> float | None:
    if not isinstance(value, str | int | float) or (isinstance(value, str) and len(value) > MAX_NUMBER):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if abs(number) < _MAX_INTEGER else None


def _moment(value: Any) -> float | None:
    """Unix seconds, or None for what is no date; a clock that was never set tells 0."""
    number = _float(value)
    return number if number is not None and 0 < number < _MAX_MOMENT else None


def _count(entry: Members, name: str, default: int) -> int:
    value = _int(entry.get(name))
    return default if value is None else value


def _word(value: Any) -> str:
    """A short cell as text, without blanks and padding around it; numbers are taken as they are printed."""
    if isinstance(value, str):
        return _text(value).strip(" \t\r\n\0")
    return f"{value:d}" if isinstance(value, int) and abs(value) < _MAX_INTEGER else ""


def _text(value: Any) -> str:
    """A text as people wrote it, without the device's NUL padding, and always encodable."""
    if not isinstance(value, str):
        return _word(value)
    whole = value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return whole.rstrip("\0")


def _content(value: Any) -> str:
    """The text of a base64 cell; a cell that is no base64 is taken as the text itself."""
    cell = _word(value)
    padded = cell.rstrip("=")
    padded += "=" * (-len(padded) % 4)
    if not _BASE64.fullmatch(padded):
        return _text(value)
    return _text(base64.b64decode(padded).decode("utf-8", "replace"))


def _code_and_text(value: Any) -> tuple[int | None, str]:
    """The number and the wording of ``6 Timeout``, ``"6"`` or 6; a wording alone has no number."""
    if not isinstance(value, str):
        return _int(value), ""
    cell = _word(value)
    match = _CODE_AND_TEXT.fullmatch(cell)
    if match is None:
        return None, cell
    return int(match[1]), (match[2] or "").strip()


def _reason(told: Members) -> str:
    return _word(_first(told, "reason", "message"))


def _port(value: Any) -> Port | None:
    if isinstance(value, float):
        value = f"{value:.2f}"  # an unquoted 1.10 lost its last zero on the way
    if not isinstance(value, str | int):
        return None
    try:
        return ports.parse(value)
    except ValueError:
        return None


def _quota(value: Any) -> Quota | None:
    """A device's ``n/m``: used and allowed, where -1 allows any number."""
    match = _QUOTA.fullmatch(_word(value))
    if match is None:
        return None
    allowed = int(match[2])
    return int(match[1]), None if allowed < 0 else allowed
