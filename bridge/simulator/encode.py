"""How the device writes: its pushes, and its answers to requests, in the key order and spacing of real boxes.

Takes the facts of ``bridge.ejoin`` and gives bytes; the decoder is tested with the same list of cases. Pure: no clock,
no I/O. Where a fact leaves something open (no signal, no balance), its key is left out. What firmwares and documents
write differently is a switch of ``Dialect``; its defaults are the most common box.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_type_hints
from urllib.parse import urlencode

from bridge.ejoin.facts import (
    CallStatistics,
    DeliveryReport,
    DeviceStatus,
    FailedRow,
    InboxPage,
    ListedTask,
    PortStatus,
    Quota,
    ReceivedSms,
    SentRow,
    SentSms,
    SimStatistics,
    SmsReport,
    SubmitAnswer,
    TaskAck,
)
from bridge.ejoin.ports import Port
from bridge.errors import SettingsInvalid

JSON_TYPE = "application/json;charset=utf-8"
TEXT_TYPE = "application/octet-stream; charset=utf-8"
POOL = "sp128"
FORM_TYPE = "application/x-www-form-urlencoded"
_ENCODER = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":"))

_QUOTAS = {
    "tot_dur": "minutes_total", "mon_dur": "minutes_month", "day_dur": "minutes_day",
    "mcn_tot": "calls_total", "mcn_mon": "calls_month", "mcn_day": "calls_day",
    "mtn_tot": "talks_total", "mtn_mon": "talks_month", "mtn_day": "talks_day",
    "smsctl_tot": "sms_total", "smsctl_mon": "sms_month", "smsctl_day": "sms_day",
}  # fmt: skip
_VOLUMES = {
    "dataflow_tot": "data_total_mb", "dataflow_day": "data_day_mb", "dataflow_24hours": "data_24h_mb",
    "dataflow_1hour": "data_1h_mb", "dataflow_last": "data_last_mb",
}  # fmt: skip
"""The members of a port status (document 4.1), kept apart from the bridge's tables on purpose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What one firmware writes, and how (device API, 12): a switch for each thing that is known to differ."""

    ports: Literal["dotted", "letters", "number"] = "dotted"
    """``1.02``, ``1B``, or the number alone, which leaves the slot open."""
    sims: Literal["local", "pool"] = "local"
    """Where the cards lie: in the port, or in a SIM pool (``1.sp128.016``, ``sim_src`` 1)."""
    st: Literal["number", "text", "words"] = "number"
    """3, ``"3"``, or ``"3 OK"`` under the name ``status``."""
    numbers: Literal["number", "text"] = "number"
    """Counters and moments: as JSON numbers, or all as texts."""
    details: Literal["list", "line", "object"] = "list"
    """The rows of a status report."""
    header: Literal["four", "three", "none"] = "four"
    """Lines before the text of an incoming SMS; three leave out the receiver, none leave only the text."""
    padding: Literal["none", "nul"] = "none"
    """After the text of an incoming SMS."""
    spelling: Literal["sample", "table"] = "sample"
    """Names that the document spells in two ways: as its samples have them, or as its tables do."""
    charset: Literal["utf-8", "base64"] = "utf-8"
    """The text in a ``sent-sms``."""
    forward: Literal["text", "form"] = "text"
    """The old forward of incoming SMS: octets after a header block, or the fields of a form."""
    pushes: Literal["v2", "v3"] = "v2"
    """Reports and incoming SMS by the document, or by firmware 8.0d and later."""
    success: Literal[0, 200] = 0
    """The code of a command that was taken."""

    @classmethod
    def of(cls, switches: Iterable[str]) -> Dialect:
        """Read ``name=value`` switches. Raises SettingsInvalid with what can be said, for one that is none."""
        told: dict[str, Any] = {}
        for switch in switches:
            name, _, value = switch.partition("=")
            known = {str(one): one for one in get_args(get_type_hints(cls).get(name))}
            if value not in known:
                raise SettingsInvalid(f"dialect: no switch is {switch!r}; write one of {', '.join(cls.switches())}")
            told[name] = known[value]
        return cls(**told)

    @classmethod
    def switches(cls) -> list[str]:
        """Every switch in every position."""
        hints = get_type_hints(cls)
        return [f"{one.name}={value}" for one in fields(cls) for value in get_args(hints[one.name])]

    # --- pushes -----------------------------------------------------------------------------------------------------

    def status_report(self, reports: Sequence[SmsReport]) -> bytes:
        """A ``status-report`` push (document 1.3.2.3)."""
        if self.pushes == "v3":
            return _body({"type": "sms-sent-status", "statuses": [self._report(report) for report in reports]})
        rows = [self._report(report) for report in reports]
        return _body({"type": "status-report", "rpt_num": self._number(len(rows)), "rpts": rows})

    def recv_sms(self, rows: Iterable[ReceivedSms | DeliveryReport]) -> bytes:
        """A ``recv-sms`` push: incoming SMS and delivery reports, in order (document 4.3)."""
        if self.pushes == "v3":
            return _body({"type": "received-sms", "mac": "", "smses": [self._sms_object(row) for row in rows]})
        written = self._sms_rows(rows)
        count = self._number(len(written))
        return _body({"type": "recv-sms", "sim_src": self._sim_src, "sms_num": count, "sms": written})

    def text_forward(self, sms: ReceivedSms) -> tuple[str, bytes, str]:
        """The old forward of one SMS (document 2.1.3): the query that the device appends, the body and its type."""
        told = {"port": self._port(sms.port), "sender": sms.sender, "receiver": sms.receiver, "iccid": sms.iccid}
        told = {name: value for name, value in told.items() if value}
        if self.forward == "form":
            form = {"username": "", "password": "", **told, "content": self._content(sms), "charset": "UTF-8"}
            return "", urlencode(form).encode(), FORM_TYPE
        return urlencode(told), self._content(sms).encode("utf-8", "replace"), TEXT_TYPE

    def port_status(self, status: PortStatus) -> bytes:
        """A ``port-status`` push (document 4.1)."""
        return _body({"type": "port-status", **self._port_row(status)})

    def dev_status(self, status: DeviceStatus) -> bytes:
        """A ``dev-status`` push, and the answer to a status query (document 4.2)."""
        slots = "max-slot" if self.spelling == "sample" else "max-slots"
        told = {
            "type": "dev-status",
            "seq": status.seq,
            "expires": -1 if status.expires_s is None else int(status.expires_s),
            "mac": status.mac,
            "ip": status.ip,
            "ver": status.version,
            "max-ports": status.max_ports,
            slots: status.max_slots if self.spelling == "sample" else _text(status.max_slots),
            "status": [self._port_row(row) for row in status.ports],
        }
        return _body(_there(told))

    def sent_sms(self, sms: SentSms) -> bytes:
        """A ``sent-sms`` push (document 4.4)."""
        tid, recipient = ("sms_tid", "recver") if self.spelling == "sample" else ("sms_time", "receiver")
        packed = self.charset == "base64"
        told = {
            "type": "sent-sms",
            "sim_src": self._sim_src or None,
            "port": self._card(sms.port),
            "seq": sms.seq,
            tid: sms.tid,
            "src_type": sms.source,
            "src_ip": sms.source_ip,
            "src_port": sms.source_port or 0,
            "status": _words(sms.code, sms.text),
            "time": self._seconds(sms.at),
            "dur": sms.took_ms,
            recipient: sms.recipient,
            "smc": sms.smsc,
            "charset": "BASE64" if packed else "UTF-8",
            "data": _pack(sms.body) if packed else sms.body,
        }
        return _body(_there(told))

    # --- answers ----------------------------------------------------------------------------------------------------

    def inbox(self, page: InboxPage) -> bytes:
        """The answer to a query for the inbox (device API 2.6); success is 0 there."""
        told = {"code": 0, "reason": "OK", "ssrc": page.ssrc, "sms_num": len(page.rows), "next_sms": page.next_sms}
        return _body(told | {"data": self._sms_rows(page.rows)})

    def reply(self, code: int, reason: str, **more: Any) -> bytes:
        """The answer to a command or a USSD call (device API 2.10, 2.11)."""
        told = self.success if code == 0 else code
        return _body({"code": told, "reason": reason} | more) if more else answer(told, reason)

    # --- parts ------------------------------------------------------------------------------------------------------

    def _report(self, report: SmsReport) -> dict[str, Any]:
        counters = {"sending": report.sending, "sent": report.sent, "failed": report.failed, "unsent": report.unsent}
        return {
            "tid": report.tid,
            **{name: self._number(count) for name, count in counters.items()},
            "sdr": [self._detail(row) for row in report.sent_rows],
            "fdr": [self._detail(row) for row in report.failed_rows],
        }

    def _detail(self, row: SentRow | FailedRow) -> Any:
        if self.pushes == "v3":
            return _there(self._v3_detail(row))
        cells: dict[str, Any] = {
            "index": self._number(row.index),
            "number": row.number,
            "port": self._port(row.port),
            "time": self._seconds(row.at),
        }
        if isinstance(row, FailedRow):
            cells |= {
                "progress_reason": _words(row.code, row.text),
                "carrier_reason": _words(row.operator_code, row.operator_text),
            }
        if self.details == "object":
            return cells
        return ",".join(map(str, cells.values())) if self.details == "line" else [*cells.values()]

    def _v3_detail(self, row: SentRow | FailedRow) -> dict[str, Any]:
        place = row.port or Port(1)
        told = {"seq": row.index + 1, "port": place.number, "slot": place.slot, "number": row.number}
        told |= {"ts": int(row.at or 0)}
        failed = {"code": row.code, "gsm_cause": row.operator_code} if isinstance(row, FailedRow) else {}
        return told | failed

    def _sms_rows(self, rows: Iterable[ReceivedSms | DeliveryReport]) -> list[list[Any]]:
        return [self._delivery_row(row) if isinstance(row, DeliveryReport) else self._received_row(row) for row in rows]

    def _received_row(self, sms: ReceivedSms) -> list[Any]:
        packed = _pack(self._content(sms) if sms.scts or sms.smsc else self._padded(sms.text))
        return [0, self._card(sms.port), self._seconds(sms.at), sms.sender, sms.receiver, packed]

    def _delivery_row(self, report: DeliveryReport) -> list[Any]:
        content = _words(report.code, report.stamp)
        return [1, self._card(report.port), self._seconds(report.at), report.smsc, report.recipient, content]

    def _sms_object(self, row: ReceivedSms | DeliveryReport) -> dict[str, Any]:
        if isinstance(row, DeliveryReport):
            sender, receiver, content = row.smsc, row.recipient, _words(row.code, row.stamp)
        else:
            sender, receiver, content = row.sender, row.receiver, self._padded(row.text)
        place = row.port or Port(1)
        return {
            "is_report": isinstance(row, DeliveryReport),
            "port": place.number,
            "slot": place.slot,
            "ts": int(row.at or 0),
            "from": sender,
            "to": receiver,
            "iccid": row.iccid,
            "sms": _pack(content),
        }

    def _content(self, sms: ReceivedSms) -> str:
        """The text behind the header block."""
        if self.header == "none":
            return self._padded(sms.text)
        receiver = f'Receiver: "{self._port(sms.port)}" {sms.receiver}\r\n' if self.header == "four" else ""
        head = f"Sender: {sms.sender}\r\n{receiver}SMSC: {sms.smsc}\r\nSCTS: {sms.scts}\r\n"
        return self._padded(f"{head}\r\n{sms.text}")

    def _padded(self, text: str) -> str:
        return text + "\0" * 4 if self.padding == "nul" else text

    def _port_row(self, status: PortStatus) -> dict[str, Any]:
        st_name = "status" if self.st == "words" else "st"
        st = {"port": self._port(status.port), "seq": status.seq, st_name: self._st(status.st)}
        if status.signal is None and status.balance is None:  # the short form that real boxes have when empty
            return _there(st | {"imei": status.imei})
        row: dict[str, Any] = {
            "port": st["port"],
            "sim": status.sim_pool,
            "seq": status.seq,
            st_name: st[st_name],
            "active": None if status.active else 0,
            "imei": status.imei,
            "iccid": status.iccid,
            "imsi": status.imsi,
            "sn": status.number,
            "opr": status.operator,
            "bal": None if status.balance is None else f"{status.balance:.2f}",
            "sig": status.signal,
        }
        row |= {name: _used(getattr(status, fact)) for name, fact in _QUOTAS.items()}
        row |= {name: _text(getattr(status, fact)) for name, fact in _VOLUMES.items()}
        row |= {"dataflow_url": status.data_last_url or None, "inserted": _switched(status.inserted)}
        row |= {"slot_active": _switched(status.slot_active), "led": _switched(status.led), "network": status.network}
        return _there(row)

    def _st(self, st: int | None) -> int | str | None:
        if st is None or self.st == "number":
            return st
        return str(st) if self.st == "text" else f"{st} OK"

    def _port(self, port: Port | None) -> str:
        if port is None:
            return ""
        if self.ports == "number":
            return str(port.number)
        if self.ports == "letters" and 1 <= port.slot <= 26 and not port.pool:
            return f"{port.number}{chr(ord('A') + port.slot - 1)}"
        return str(port)

    def _card(self, port: Port | None) -> str:
        """Where a card lies, as the pushes about SMS have it."""
        if self.sims == "pool" and port is not None and port.slot:
            port = Port(port.number, port.slot, POOL)
        return self._port(port)

    @property
    def _sim_src(self) -> int:
        return int(self.sims == "pool")

    def _seconds(self, at: float | None) -> int | str:
        return self._number(int(at or 0))

    def _number(self, number: int) -> int | str:
        return str(number) if self.numbers == "text" else number


def answer(code: int, reason: str) -> bytes:
    """The answer that has nothing else to say; blanks after the first commas are the device's."""
    return f'{{"code":{code}, "reason":{_dump(reason)}}}'.encode()


def task_status(told: SubmitAnswer) -> bytes:
    """The answer to a submit (document 1.3.1.4)."""
    if told.code != 200:
        return answer(told.code or 0, told.reason)
    rows = [{"tid": ack.tid, "status": _words(ack.code, ack.text)} for ack in told.acks]
    return f'{{"code":200, "reason":{_dump(told.reason)}, "type":"task-status","status":{_dump(rows)}}}'.encode()


def task_list(total: int, rows: Sequence[Mapping[str, Any]]) -> bytes:
    """The answer to a query for the waiting tasks of a port; ``rows`` are made by ``listed``."""
    return _body({"code": 200, "reason": "OK", "total_num": total, "task_num": len(rows), "tasks": rows})


def listed(
    task: ListedTask, *, ports: str = "", charset: str = "utf8", coding: int = 0, sms: str | None = None
) -> dict[str, Any]:
    """One row of a task list; ``sms`` only where the query asked for content."""
    row = {
        "tid": task.tid,
        "state": int(task.suspended),
        "from": ports,
        "to": task.to,
        "chs": charset,
        "coding": coding,
    }
    return row if sms is None else row | {"sms": sms}


def statistics(rows: Sequence[SimStatistics]) -> bytes:
    """The answer to a query for the statistics of cards (device API 2.7)."""
    return _body({"code": 200, "reason": "OK", "count": len(rows), "stats": [_counted(row) for row in rows]})


def call_statistics(rows: Sequence[CallStatistics]) -> bytes:
    """The answer to a query for the call statistics of cards (device API 2.8)."""
    stats = [
        {
            "port": row.port.number,
            "slot": row.port.slot,
            "calls": row.calls,
            "alerted": row.alerted,
            "connected": row.connected,
            "con_failed": row.consecutive_failed,
            "nc": _used(row.numbers),
            "pdd": row.pdd,
            "acd": row.acd,
            "asr": row.asr,
            "tcd": row.minutes,
            "act_tcd": row.connected_s,
        }
        for row in rows
    ]
    return _body({"code": 200, "reason": "OK", "count": len(stats), "stats": [_there(row) for row in stats]})


def task_results(acks: Sequence[TaskAck]) -> bytes:
    """The answer to pausing, resuming or removing tasks (device API 2.3); one that named none has no rows."""
    rows = [{"tid": ack.tid, "status": _words(ack.code, ack.text)} for ack in acks]
    return _body({"code": 200, "reason": "OK"} | ({"results": rows} if rows else {}))


def _counted(row: SimStatistics) -> dict[str, int]:
    return {
        "port": row.port.number,
        "slot": row.port.slot,
        "received": row.received,
        "sent": row.sent,
        "sent_ok": row.sent_ok,
        "sent_failed": row.sent_failed,
        "con_failed": row.consecutive_failed,
        "unsent": row.unsent,
        "sending": row.sending,
    }


def _used(quota: Quota | None) -> str | None:
    if quota is None:
        return None
    used, allowed = quota
    return f"{used}/{-1 if allowed is None else allowed}"


def _switched(told: bool | None) -> int | None:
    return None if told is None else int(told)


def _text(value: float | None) -> str | None:
    return None if value is None else str(value)


def _words(code: int | None, text: str) -> str:
    return text if code is None else f"{code} {text}".rstrip()


def _pack(text: str) -> str:
    return base64.b64encode(text.encode("utf-8", "replace")).decode()


def _there(members: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def _dump(value: Any) -> str:
    return _ENCODER.encode(value)


def _body(value: Mapping[str, Any]) -> bytes:
    return _dump(value).encode("utf-8", "replace")
