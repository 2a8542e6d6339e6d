"""How the device writes: its pushes, and its answers to requests, in the key order and spacing of real boxes.

Takes the facts of ``bridge.ejoin`` and gives bytes; the decoder is tested with the same list of cases. Pure: no clock,
no I/O. Where a fact leaves something open (no signal, no balance), its key is left out.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from bridge.ejoin.facts import (
    DeliveryReport,
    DeviceStatus,
    FailedRow,
    InboxPage,
    ListedTask,
    PortStatus,
    ReceivedSms,
    SentRow,
    SentSms,
    SimStatistics,
    SmsReport,
    SubmitAnswer,
)
from bridge.ejoin.ports import Port

JSON_TYPE = "application/json;charset=utf-8"
_ENCODER = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":"))
TEXT_TYPE = "application/octet-stream; charset=utf-8"


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


def inbox(page: InboxPage) -> bytes:
    """The answer to a query for the inbox (device API 2.6); success is 0 there."""
    told = {"code": 0, "reason": "OK", "ssrc": page.ssrc, "sms_num": len(page.rows), "next_sms": page.next_sms}
    return _body(told | {"data": _sms_rows(page.rows)})


def status_report(reports: Sequence[SmsReport]) -> bytes:
    """A ``status-report`` push (document 1.3.2.3)."""
    return _body({"type": "status-report", "rpt_num": len(reports), "rpts": [_report(report) for report in reports]})


def recv_sms(rows: Iterable[ReceivedSms | DeliveryReport]) -> bytes:
    """A ``recv-sms`` push: incoming SMS and delivery reports, in order (document 4.3)."""
    written = _sms_rows(rows)
    return _body({"type": "recv-sms", "sim_src": 0, "sms_num": len(written), "sms": written})


def text_forward(sms: ReceivedSms) -> tuple[str, bytes]:
    """The old text forward (document 2.1.3): the query that the device appends, and the body."""
    told = {"port": _port(sms.port), "sender": sms.sender, "receiver": sms.receiver, "iccid": sms.iccid}
    query = urlencode({name: value for name, value in told.items() if value})
    return query, _with_headers(sms).encode("utf-8", "replace")


def port_status(status: PortStatus) -> bytes:
    """A ``port-status`` push (document 4.1)."""
    return _body({"type": "port-status", **_port_row(status)})


def dev_status(status: DeviceStatus) -> bytes:
    """A ``dev-status`` push, and the answer to a status query (document 4.2)."""
    told = {
        "type": "dev-status",
        "seq": status.seq,
        "expires": status.expires,
        "mac": status.mac,
        "ip": status.ip,
        "ver": status.version,
        "max-ports": status.max_ports,
        "max-slot": status.max_slots,
        "status": [_port_row(row) for row in status.ports],
    }
    return _body({name: value for name, value in told.items() if value is not None})


def sent_sms(sms: SentSms, *, seq: int) -> bytes:
    """A ``sent-sms`` push (document 4.4)."""
    told = {
        "type": "sent-sms",
        "port": _port(sms.port),
        "seq": seq,
        "sms_tid": sms.tid,
        "src_type": sms.source,
        "src_ip": "",
        "src_port": 0,
        "status": _words(sms.code, sms.text),
        "time": _seconds(sms.at),
        "dur": sms.took_ms,
        "recver": sms.recipient,
        "smc": sms.smsc,
        "charset": "UTF-8",
        "data": sms.body,
    }
    return _body({name: value for name, value in told.items() if value is not None})


def _report(report: SmsReport) -> dict[str, Any]:
    return {
        "tid": report.tid,
        "sending": report.sending,
        "sent": report.sent,
        "failed": report.failed,
        "unsent": report.unsent,
        "sdr": [_detail(row) for row in report.sent_rows],
        "fdr": [
            [*_detail(row), _words(row.code, row.text), _words(row.operator_code, row.operator_text)]
            for row in report.failed_rows
        ],
    }


def _detail(row: SentRow | FailedRow) -> list[Any]:
    return [row.index, row.number, _port(row.port), _seconds(row.at)]


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


def _sms_rows(rows: Iterable[ReceivedSms | DeliveryReport]) -> list[list[Any]]:
    return [_delivery_row(row) if isinstance(row, DeliveryReport) else _received_row(row) for row in rows]


def _received_row(sms: ReceivedSms) -> list[Any]:
    content = _with_headers(sms) if sms.scts or sms.smsc else sms.text
    packed = base64.b64encode(content.encode("utf-8", "replace")).decode()
    return [0, _port(sms.port), _seconds(sms.at), sms.sender, sms.receiver, packed]


def _delivery_row(report: DeliveryReport) -> list[Any]:
    content = _words(report.code, report.stamp)
    return [1, _port(report.port), _seconds(report.at), report.smsc, report.recipient, content]


def _with_headers(sms: ReceivedSms) -> str:
    head = f'Sender: {sms.sender}\r\nReceiver: "{_port(sms.port)}" {sms.receiver}\r\n'
    return f"{head}SMSC: {sms.smsc}\r\nSCTS: {sms.scts}\r\n\r\n{sms.text}"


def _port_row(status: PortStatus) -> dict[str, Any]:
    row: dict[str, Any] = {"port": _port(status.port), "seq": status.seq, "st": status.st, "imei": status.imei}
    if status.signal is not None or status.balance is not None:  # else the short form that real boxes have when empty
        row = {"port": row["port"], "sim": "", "seq": status.seq, "st": status.st}
        row |= {"active": None if status.active else 0}
        row |= {"imei": status.imei, "iccid": status.iccid, "imsi": status.imsi, "sn": status.number}
        row |= {"opr": status.operator, "bal": None if status.balance is None else f"{status.balance:.2f}"}
        row |= {"sig": status.signal, "tot_dur": "0/-1", "mon_dur": "0/-1", "day_dur": "0/-1"}
        row |= {"smsctl_tot": _used(status.sms_total), "smsctl_mon": _used(status.sms_month)}
        row |= {"smsctl_day": _used(status.sms_day)}
    return {name: value for name, value in row.items() if value is not None}


def _used(limit: tuple[int, int | None] | None) -> str | None:
    if limit is None:
        return None
    used, allowed = limit
    return f"{used}/{-1 if allowed is None else allowed}"


def _words(code: int | None, text: str) -> str:
    return text if code is None else f"{code} {text}".rstrip()


def _port(port: Port | None) -> str:
    return "" if port is None else str(port)


def _seconds(at: float | None) -> int:
    return int(at or 0)


def _dump(value: Any) -> str:
    return _ENCODER.encode(value)


def _body(value: Mapping[str, Any]) -> bytes:
    return _dump(value).encode("utf-8", "replace")
