"""The one list of what devices say and what we tell them, read in both directions.

The bridge decodes every body here; the simulator writes the ``spoken`` ones in its default dialect (equal as JSON, or
byte by byte for a text forward, but for members that no fact carries: ``src_ip``, ``src_port`` and ``seq`` of a
``sent-sms``). Bodies that are not spoken are what other firmware, other documents and damaged devices say. Whole
captured bodies live in ``corpus/``.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bridge.ejoin.facts import (
    DeliveryReport,
    DeviceStatus,
    Envelope,
    Fact,
    FailedRow,
    ListedTask,
    PortStatus,
    ReceivedSms,
    SentRow,
    SentSms,
    SmsReport,
    SmsTask,
    SubmitAnswer,
    TaskAck,
)
from bridge.ejoin.ports import Port

JSON = "application/json;charset=utf-8"
OCTETS = "application/octet-stream; charset=utf-8"


@dataclass(frozen=True)
class Case:
    """One push: the body a device posts, and the facts in it."""

    name: str
    facts: tuple[Fact, ...]
    body: bytes
    content_type: str = JSON
    query: Mapping[str, str] = field(default_factory=dict)
    spoken: bool = False


@dataclass(frozen=True)
class Submit:
    """One submit: the tasks we hand over, and the JSON that leaves."""

    name: str
    tasks: tuple[SmsTask, ...]
    envelope: Envelope
    body: dict[str, Any]
    dial: str = "plus"
    credentials: tuple[str, str] | None = None


@dataclass(frozen=True)
class Answer:
    """One answer of a device to a request of ours."""

    name: str
    fact: Any
    body: bytes
    spoken: bool = False


def wire(told: Any) -> bytes:
    return json.dumps(told, ensure_ascii=False).encode()


def b64(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def headed(sender: str, receiver: str, smsc: str, scts: str, text: str) -> str:
    """The content of an incoming SMS with the header block of newer firmware."""
    return f"Sender: {sender}\r\nReceiver: {receiver}\r\nSMSC: {smsc}\r\nSCTS: {scts}\r\n\r\n{text}"


REGISTERED = {
    "port": "1.02",
    "sim": "",
    "seq": 11,
    "st": 3,
    "imei": "353689530707903",
    "iccid": "89860042191782899541",
    "imsi": "460000990123698",
    "sn": "",
    "opr": "46000 CHINA MOBILE",
    "bal": "0.00",
    "sig": 31,
    "tot_dur": "0/-1",
    "mon_dur": "0/-1",
    "day_dur": "0/-1",
}
REGISTERED_FACT = PortStatus(
    Port(1, 2),
    3,
    seq=11,
    iccid="89860042191782899541",
    imsi="460000990123698",
    imei="353689530707903",
    operator="46000 CHINA MOBILE",
    balance=0.0,
    signal=31,
)

SPOKEN: list[Case] = [
    Case(
        "one SMS was sent",
        (SmsReport(1223, 0, 1, 0, 0, (SentRow(0, "13686876620", Port(1, 1), 1466506477.0),)),),
        wire(
            {
                "type": "status-report",
                "rpt_num": 1,
                "rpts": [
                    {
                        "tid": 1223,
                        "sending": 0,
                        "sent": 1,
                        "failed": 0,
                        "unsent": 0,
                        "sdr": [[0, "13686876620", "1.01", 1466506477]],
                        "fdr": [],
                    }
                ],
            }
        ),
        spoken=True,
    ),
    Case(
        "two tasks in one report, one of them failed and one refused by the network",
        (
            SmsReport(
                7, 0, 0, 1, 0, (), (FailedRow(0, "+13686876621", Port(1, 2), 1466506480.0, 6, "Timeout", None, ""),)
            ),
            SmsReport(
                8,
                0,
                0,
                1,
                0,
                (),
                (
                    FailedRow(
                        0,
                        "+13686876622",
                        Port(2, 1),
                        1466506481.0,
                        7,
                        "Server Error",
                        21,
                        "Short message transfer rejected",
                    ),
                ),
            ),
        ),
        wire(
            {
                "type": "status-report",
                "rpt_num": 2,
                "rpts": [
                    {
                        "tid": 7,
                        "sending": 0,
                        "sent": 0,
                        "failed": 1,
                        "unsent": 0,
                        "sdr": [],
                        "fdr": [[0, "+13686876621", "1.02", 1466506480, "6 Timeout", ""]],
                    },
                    {
                        "tid": 8,
                        "sending": 0,
                        "sent": 0,
                        "failed": 1,
                        "unsent": 0,
                        "sdr": [],
                        "fdr": [
                            [
                                0,
                                "+13686876622",
                                "2.01",
                                1466506481,
                                "7 Server Error",
                                "21 Short message transfer rejected",
                            ]
                        ],
                    },
                ],
            }
        ),
        spoken=True,
    ),
    Case(
        "an incoming SMS",
        (
            ReceivedSms(
                Port(12, 1),
                1755697537.0,
                "12052700001",
                "16463910002",
                "Hello,\nworld \U0001f600",
                smsc="14054720003",
                scts="250820064536A8",
                scts_at=1755697536.0,
            ),
        ),
        wire(
            {
                "type": "recv-sms",
                "sim_src": 0,
                "sms_num": 1,
                "sms": [
                    [
                        0,
                        "12.01",
                        1755697537,
                        "12052700001",
                        "16463910002",
                        b64(
                            headed(
                                "12052700001",
                                '"12.01" 16463910002',
                                "14054720003",
                                "250820064536A8",
                                "Hello,\nworld \U0001f600",
                            )
                        ),
                    ]
                ],
            }
        ),
        spoken=True,
    ),
    Case(
        "a delivery report beside an incoming SMS",
        (
            DeliveryReport(Port(1, 2), 1548407412.0, "+13686876620", 0, "8613800755500", "14072322113832"),
            ReceivedSms(
                Port(1, 2),
                1548407413.0,
                "8613715266978",
                "",
                "ja",
                smsc="8613800755500",
                scts="19012517101232",
                scts_at=1548407412.0,
            ),
        ),
        wire(
            {
                "type": "recv-sms",
                "sim_src": 0,
                "sms_num": 2,
                "sms": [
                    [1, "1.02", 1548407412, "8613800755500", "+13686876620", "0 14072322113832"],
                    [
                        0,
                        "1.02",
                        1548407413,
                        "8613715266978",
                        "",
                        b64(headed("8613715266978", '"1.02" ', "8613800755500", "19012517101232", "ja")),
                    ],
                ],
            }
        ),
        spoken=True,
    ),
    Case(
        "a delivery report of an SMS that did not arrive",
        (DeliveryReport(Port(3, 1), 1548407412.0, "13686876620", 132, "8613800755500", "14072322113832"),),
        wire(
            {
                "type": "recv-sms",
                "sim_src": 0,
                "sms_num": 1,
                "sms": [[1, "3.01", 1548407412, "8613800755500", "13686876620", "132 14072322113832"]],
            }
        ),
        spoken=True,
    ),
    Case("a port registered", (REGISTERED_FACT,), wire({"type": "port-status", **REGISTERED}), spoken=True),
    Case(
        "a card was pulled out of a port",
        (PortStatus(Port(1, 2), 0, seq=12, imei="353689530707903", balance=0.0, signal=0),),
        wire(
            {
                "type": "port-status",
                **REGISTERED,
                "seq": 12,
                "st": 0,
                "iccid": "",
                "imsi": "",
                "opr": "",
                "sig": 0,
            }
        ),
        spoken=True,
    ),
    Case(
        "the whole box, with an empty port in its short form",
        (
            DeviceStatus(
                3,
                60,
                "00-30-f1-00-6c-55",
                "192.168.1.67",
                "532-604-924-041-100-000",
                32,
                4,
                (REGISTERED_FACT, PortStatus(Port(5, 1), 0, seq=11, imei="353689530707905")),
            ),
        ),
        wire(
            {
                "type": "dev-status",
                "seq": 3,
                "expires": 60,
                "mac": "00-30-f1-00-6c-55",
                "ip": "192.168.1.67",
                "ver": "532-604-924-041-100-000",
                "max-ports": 32,
                "max-slot": 4,
                "status": [REGISTERED, {"port": "5.01", "seq": 11, "st": 0, "imei": "353689530707905"}],
            }
        ),
        spoken=True,
    ),
    Case(
        "the device tells of an SMS it sent",
        (
            SentSms(
                Port(2, 1),
                2,
                0,
                "",
                "1212222222",
                1562235746.0,
                source=3,
                took_ms=330,
                smsc="",
                body="test sms",
            ),
        ),
        wire(
            {
                "type": "sent-sms",
                "port": "2.01",
                "seq": 18,
                "sms_tid": 2,
                "src_type": 3,
                "src_ip": "",
                "src_port": 0,
                "status": "0",
                "time": 1562235746,
                "dur": 330,
                "recver": "1212222222",
                "smc": "",
                "charset": "UTF-8",
                "data": "test sms",
            }
        ),
        spoken=True,
    ),
    Case(
        "an incoming SMS as text",
        (
            ReceivedSms(
                Port(61, 1),
                None,
                "12052700001",
                "16463910002",
                "Hello\r\n\r\nworld",
                smsc="14054720003",
                scts="250820064536A8",
                scts_at=1755697536.0,
                iccid="89860042191782899541",
                via="forward",
            ),
        ),
        headed("12052700001", '"61.01" 16463910002', "14054720003", "250820064536A8", "Hello\r\n\r\nworld").encode(),
        OCTETS,
        {"port": "61.01", "sender": "12052700001", "receiver": "16463910002", "iccid": "89860042191782899541"},
        spoken=True,
    ),
]

ENVELOPE = Envelope("http://10.0.0.1:8080/callback/gw1/secret")

SUBMITS: list[Submit] = [
    Submit(
        "one SMS from port 3",
        (SmsTask(1, Port(3), "+4915112345678", "Grüße \U0001f600"),),
        ENVELOPE,
        {
            "type": "send-sms",
            "sr_url": "http://10.0.0.1:8080/callback/gw1/secret",
            "sr_cnt": 20,
            "sr_prd": 3,
            "sms_url": "http://10.0.0.1:8080/callback/gw1/secret",
            "sms_cnt": 10,
            "sms_prd": 3,
            "task_num": 1,
            "tasks": [
                {
                    "tid": 1,
                    "from": "3",
                    "to": "+4915112345678",
                    "sms": "Grüße \U0001f600",
                    "chs": "utf8",
                    "coding": 0,
                    "tmo": 30,
                    "sdr": 1,
                    "fdr": 1,
                    "dr": 0,
                    "sr_cnt": 1,
                    "sr_prd": 5,
                }
            ],
        },
    ),
    Submit(
        "every member set, digits dialled, credentials in the body",
        (
            SmsTask(
                2147483647,
                Port(1, 2),
                "+4915112345678",
                "hi",
                coding=1,
                flash=True,
                smsc="+491710760000",
                timeout_s=45,
                delivery_report=True,
                report_count=2,
                report_period_s=7,
            ),
            SmsTask(5, Port(2), "8080", "STOP", coding=2),
        ),
        Envelope("http://b/cb", report_count=4, report_period_s=2, sms_count=5, sms_period_s=6),
        {
            "username": "root",
            "password": "s#cret",
            "type": "send-sms",
            "sr_url": "http://b/cb",
            "sr_cnt": 4,
            "sr_prd": 2,
            "sms_url": "http://b/cb",
            "sms_cnt": 5,
            "sms_prd": 6,
            "task_num": 2,
            "tasks": [
                {
                    "tid": 2147483647,
                    "from": "1.02",
                    "to": "4915112345678",
                    "sms": "hi",
                    "chs": "utf8",
                    "coding": 1,
                    "flash_sms": 1,
                    "smsc": "+491710760000",
                    "tmo": 45,
                    "sdr": 1,
                    "fdr": 1,
                    "dr": 1,
                    "sr_cnt": 2,
                    "sr_prd": 7,
                },
                {
                    "tid": 5,
                    "from": "2",
                    "to": "8080",
                    "sms": "STOP",
                    "chs": "utf8",
                    "coding": 2,
                    "tmo": 30,
                    "sdr": 1,
                    "fdr": 1,
                    "dr": 0,
                    "sr_cnt": 1,
                    "sr_prd": 5,
                },
            ],
        },
        dial="digits",
        credentials=("root", "s#cret"),
    ),
]

SUBMIT_ANSWERS: list[Answer] = [
    Answer(
        "both tasks, one of them refused",
        SubmitAnswer(200, "OK", (TaskAck(5011, 0, "OK"), TaskAck(5012, 5, "SIM Unregistered"))),
        b'{"code":200, "reason":"OK", "type":"task-status","status":[{"tid":5011,"status":"0 OK"},'
        b'{"tid":5012,"status":"5 SIM Unregistered"}]}',
        spoken=True,
    ),
    Answer(
        "a wrong password",
        SubmitAnswer(1, "Invalid User", ()),
        b'{"code":1, "reason":"Invalid User"}',
        spoken=True,
    ),
]

TASK_LISTS: list[Answer] = [
    Answer(
        "one waits, one is suspended",
        (ListedTask(2, "13686876620"), ListedTask(3, "+13686876621", suspended=True)),
        wire(
            {
                "code": 200,
                "reason": "OK",
                "total_num": 5,
                "task_num": 2,
                "tasks": [
                    {"tid": 2, "state": 0, "from": "", "to": "13686876620", "chs": "utf8", "coding": 0},
                    {"tid": 3, "state": 1, "from": "", "to": "+13686876621", "chs": "utf8", "coding": 0},
                ],
            }
        ),
        spoken=True,
    ),
    Answer(
        "nothing waits",
        (),
        wire({"code": 200, "reason": "OK", "total_num": 0, "task_num": 0, "tasks": []}),
        spoken=True,
    ),
]

STATUSES: list[Answer] = [
    Answer(f"the same snapshot, asked for: {case.name}", case.facts[0], case.body, spoken=True)
    for case in SPOKEN
    if isinstance(case.facts[0], DeviceStatus)
]

CASES: list[Case] = [*SPOKEN]
