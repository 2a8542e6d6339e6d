"""The one list of what devices say and what we tell them, read in both directions.

The bridge decodes every body here; the simulator writes the ``spoken`` ones in its default dialect (equal as JSON, or
byte by byte for a text forward). Bodies that are not spoken are what other firmware, other documents and damaged
devices say. Whole captured bodies live in ``corpus/``.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from bridge.ejoin.facts import (
    CallRecord,
    DeliveryReport,
    DeviceStatus,
    Envelope,
    Fact,
    FailedRow,
    InboxPage,
    ListedTask,
    PortStatus,
    ReceivedSms,
    SentRow,
    SentSms,
    SimStatistics,
    SmsReport,
    SmsTask,
    SubmitAnswer,
    TaskAck,
    Unrecognised,
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
FREE: dict[str, Any] = {"minutes_total": (0, None), "minutes_month": (0, None), "minutes_day": (0, None)}
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
    **FREE,
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
        (PortStatus(Port(1, 2), 0, seq=12, imei="353689530707903", balance=0.0, signal=0, **FREE),),
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
                seq=18,
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


def report(**members: Any) -> bytes:
    """A status report with one entry, task 5 with nothing left to do."""
    return wire({"type": "status-report", "rpt_num": "1", "rpts": [{"tid": 5, "sending": 0, "unsent": 0, **members}]})


def row(*cells: Any) -> bytes:
    """A recv-sms push with one row."""
    return wire({"type": "recv-sms", "sms_num": 1, "sms": [list(cells)]})


def port_status(**members: Any) -> bytes:
    return wire({"type": "port-status", "port": "1.02", **members})


SENT_5 = SmsReport(5, 0, 1, 0, 0, (SentRow(0, "10086", Port(1, 1), 1466506477.0),))
TEXT_ROW = (0, "1.02", 1548407412, "+4915112345678", "")


def plain(text: str, **members: Any) -> ReceivedSms:
    """An incoming SMS without a header block, from TEXT_ROW's sender."""
    return ReceivedSms(Port(1, 2), 1548407412.0, "+4915112345678", "", text, **members)


REPORT_DIALECTS: list[Case] = [
    Case("numbers as strings", (SENT_5,), report(sent="1", failed="0", sdr=[["0", "10086", "1A", "1466506477"]])),
    Case(
        "the reports are one object",
        (SENT_5,),
        wire(
            {
                "type": "status-report",
                "rpts": {"tid": "5", "sent": 1, "sdr": [0, "10086", "1.01", 1466506477]},
            }
        ),
    ),
    Case(
        "names in another case, with blanks around them",
        (SENT_5,),
        wire(
            {
                "Type": "Status-Report",
                "RPTS": [{"Tid": 5, "Sent ": 1, " SDR": [[0, "10086", 1.01, 1466506477.0]]}],
            }
        ),
    ),
    Case("counters are missing", (SENT_5,), report(sdr=[[0, "10086", "1.01", 1466506477]])),
    Case("success without details", (SmsReport(5, 0, 1, 0, 0),), report(sent=1, failed=0)),
    Case(
        "a list of pushes in one body",
        (SENT_5, REGISTERED_FACT),
        b"[%s,%s]"
        % (
            report(sent=1, sdr=[[0, "10086", "1.01", 1466506477]]),
            wire({"type": "port-status", **REGISTERED}),
        ),
    ),
    Case(
        "padding after the JSON",
        (SENT_5,),
        b"\xef\xbb\xbf" + report(sent=1, sdr=[[0, "10086", "1.01", 1466506477]]) + b"\r\n\0\0",
    ),
    Case(
        "short and odd detail rows",
        (
            SmsReport(
                5,
                0,
                1,
                2,
                0,
                (SentRow(0, "10086", None, None),),
                (
                    FailedRow(0, "10087", None, None, 6, ""),
                    FailedRow(1, "10088", None, None, None, "no signal", None, "gone"),
                ),
            ),
        ),
        report(
            sdr=[["x", "10086"]], fdr=[[0, 10087, "somewhere", 0, 6], [1, "10088", None, "soon", "no signal", "gone"]]
        ),
    ),
    Case(
        "codes with other separators",
        (SmsReport(5, 0, 0, 1, 0, (), (FailedRow(0, "1", Port(4), 9.5, 7, "Server Error", 21, "rejected"),)),),
        report(fdr=[[0, "1", 4, "9.5", "7: Server Error", "21,rejected"]]),
    ),
    Case("an empty report is nothing new", (), wire({"type": "status-report", "rpt_num": 0, "rpts": []})),
    Case(
        "a report without task id, beside a good one",
        (SENT_5, Unrecognised("status-report", "a report without a readable tid")),
        wire(
            {
                "type": "status-report",
                "rpts": [
                    {"tid": None, "sent": 1},
                    "x",
                    {"tid": 5, "sent": 1, "sdr": [[0, "10086", "1.01", 1466506477]]},
                ],
            }
        ),
    ),
    Case(
        "a task id beyond every integer",
        (Unrecognised("status-report", "a report without a readable tid"),),
        wire({"type": "status-report", "rpts": [{"tid": 2**64, "sent": 1}]}),
    ),
    Case(
        "detail rows as objects",
        (
            SmsReport(
                5,
                0,
                1,
                1,
                0,
                (SentRow(2, "10086", Port(1, 1), 1466506477.0),),
                (FailedRow(3, "10087", Port(1, 2), None, 6, "Timeout", 21, ""),),
            ),
        ),
        report(
            sent=1,
            sdr=[{"index": 2, "num": "10086", "SMS_sending_port": "1A", "SMS_send_timestamp": "1466506477"}],
            fdr=[[{"index": 3, "number": 10087, "port": "1.02", "reason": "6 Timeout", "gsm_cause": 21}]],
        ),
    ),
    Case(
        "detail rows as lines",
        (
            SmsReport(
                5,
                0,
                2,
                1,
                0,
                (SentRow(0, "10086", Port(1, 1), 1466506477.0), SentRow(1, "10087", Port(1, 2), None)),
                (FailedRow(2, "10088", Port(1, 2), 9.0, 6, "Timeout", 38, "out of order, or so"),),
            ),
        ),
        report(
            sdr=["0,10086,1.01,1466506477", "1, 10087, 1B"],
            fdr="2,10088,1.02,9,6 Timeout,38 out of order, or so",
        ),
    ),
    Case(
        "several recipients of one task, told bit by bit",
        (
            SmsReport(5, 1, 1, 0, 2, (SentRow(0, "10086", Port(1, 1), 1466506477.0),)),
            SmsReport(5, 0, 3, 1, 0, (SentRow(3, "10089", Port(2, 1), 1466506479.0),)),
        ),
        wire(
            {
                "type": "status-report",
                "rpt_num": 2,
                "rpts": [
                    {
                        "tid": 5,
                        "sending": 1,
                        "sent": 1,
                        "failed": 0,
                        "unsent": 2,
                        "sdr": [[0, "10086", "1.01", 1466506477]],
                    },
                    {
                        "tid": 5,
                        "sending": 0,
                        "sent": 3,
                        "failed": 1,
                        "unsent": 0,
                        "sdr": [[3, "10089", "2.01", 1466506479]],
                    },
                ],
            }
        ),
    ),
    Case(
        "rows of a central manager: its box before the port, the card, every cell a text",
        (
            SmsReport(
                5,
                0,
                1,
                1,
                0,
                (SentRow(0, "10086", Port(3, 1), 1466506477.0),),
                (FailedRow(1, "10087", Port(4), 1466506478.0, 7, "Server Error", 21, ""),),
            ),
        ),
        report(
            sdr=[["0", "10086", "box-7.3A", "89860042191782899541", "1466506477"]],
            fdr=[["1", "10087", "box-7.4", "8986004219178289954F", "1466506478", "7 Server Error", "21"]],
        ),
    ),
    Case(
        "reports in lists of their own",
        (SENT_5,),
        wire({"type": "status-report", "rpts": [[{"tid": 5, "sent": 1, "sdr": [0, "10086", "1.01", 1466506477]}]]}),
    ),
    Case(
        "a detail row that is none",
        (SmsReport(5, 0, 1, 0, 0), Unrecognised("status-report", "a detail row that cannot be read")),
        report(sent=1, sdr=[{"colour": "red"}]),
    ),
    Case(
        "the newest firmware's report",
        (
            SmsReport(
                5,
                0,
                1,
                1,
                0,
                (SentRow(0, "10086", Port(1, 1), 1745994360.0),),
                (FailedRow(1, "10087", Port(2, 3), 1745994361.0, 7, "", 350, ""),),
            ),
        ),
        wire(
            {
                "type": "sms-sent-status",
                "statuses": [
                    {
                        "tid": 5,
                        "sent": 1,
                        "failed": 1,
                        "unsent": 0,
                        "sdr": [{"seq": 1, "port": 1, "slot": 1, "number": "10086", "ts": 1745994360, "cost": 1290}],
                        "fdr": [
                            {
                                "seq": 2,
                                "port": 2,
                                "slot": 3,
                                "number": "10087",
                                "ts": 1745994361,
                                "code": 7,
                                "gsm_cause": 350,
                            }
                        ],
                    }
                ],
            }
        ),
    ),
    Case("no reports at all", (Unrecognised("status-report", "no rpts"),), wire({"type": "status-report"})),
]

RECEIVED_DIALECTS: list[Case] = [
    Case("only the text", (plain("hello"),), row(*TEXT_ROW, b64("hello"))),
    Case(
        "the newest firmware's SMS and delivery report",
        (
            ReceivedSms(Port(3, 1), 1745994360.0, "+4917", "+4915", "h\u00e9", iccid="8986004219178289954"),
            DeliveryReport(Port(3), 1745994361.0, "+4917", 0, "4917107", "25043008260032", "8986004219178289954"),
            Unrecognised("received-sms", "a row that is neither an SMS nor a delivery report"),
        ),
        wire(
            {
                "type": "received-sms",
                "mac": "00-30-f1-00-6c-55",
                "smses": [
                    {
                        "is_report": False,
                        "port": 3,
                        "slot": 1,
                        "ts": 1745994360,
                        "from": "+4917",
                        "to": "+4915",
                        "iccid": "8986004219178289954",
                        "imsi": "1",
                        "imei": "2",
                        "sms": b64("h\u00e9"),
                        "status": 0,
                    },
                    {
                        "is_report": True,
                        "port": 3,
                        "ts": 1745994361,
                        "from": "4917107",
                        "to": "+4917",
                        "iccid": "8986004219178289954",
                        "sms": b64("0 25043008260032"),
                    },
                    {"is_report": True, "port": 3, "ts": 1745994362, "from": "+4917", "sms": b64("Kauf mich")},
                    7,
                ],
            }
        ),
    ),
    Case(
        "a row as an object",
        (ReceivedSms(Port(3, 1), 9.0, "+4917", "", "hi"),),
        wire({"type": "recv-sms", "sms": [{"port": "3A", "ts": 9, "from": "+4917", "sms": b64("hi")}]}),
    ),
    Case("only the text, ending in NULs", (plain("hello "),), row(*TEXT_ROW, b64(b"hello \0\0\0\0"))),
    Case(
        "a time stamp as text, a row of the SIM pool",
        (ReceivedSms(Port(12, 101, "sp256"), 1548407412.0, "INFO", "", "hi"),),
        row("0", "12.sp256.101", "1548407412", "INFO", "", b64("hi")),
    ),
    Case(
        "a header block of three lines, with LF",
        (plain("one\n\ntwo", smsc="8613800755500", scts="14072322113832", scts_at=1406124698.0),),
        row(*TEXT_ROW, b64("Sender: 4915112345678\nSMSC: 8613800755500\nSCTS: 14072322113832\n\none\n\ntwo\0")),
    ),
    Case(
        "a header block that starts with a line of its own",
        (ReceivedSms(Port(1, 4), None, "10086", "", "hi", smsc="1", scts="x", via="forward"),),
        b"1\r\nReceiver: 1.04\r\nSMSC: 1\r\nSCTS: x\r\n\r\nhi",
        OCTETS,
        {"sender": "10086"},
    ),
    Case(
        "a header block and no text",
        (plain("", smsc="1", scts="2"),),
        row(*TEXT_ROW, b64("Sender: +4915112345678\r\nSMSC: 1\r\nSCTS: 2\r\n")),
    ),
    Case(
        "sender, receiver and port only in the header block",
        (ReceivedSms(Port(12, 1), None, "10086", "+4915100", "hi", smsc="1", scts="2"),),
        row(0, "", 0, "", "", b64(headed("10086", '"12.01" <+4915100>', "1", "2", "hi"))),
    ),
    Case(
        "a receiver without port",
        (plain("hi", smsc="1", scts="2"),),
        row(0, "1.02", 1548407412, "+4915112345678", "", b64(headed("4915112345678", "", "1", "2", "hi"))),
    ),
    Case(
        "a receiver that is no port",
        (ReceivedSms(Port(1, 2), 1548407412.0, "+4915112345678", "me.too", "hi", smsc="1", scts="2"),),
        row(*TEXT_ROW, b64(headed("4915112345678", "me.too", "1", "2", "hi"))),
    ),
    Case(
        "somebody wrote a header block into the text",
        (plain("Sender: 1\nSMSC: 2\nSCTS: 14072322113832\n\nsend money"),),
        row(*TEXT_ROW, b64("Sender: 1\nSMSC: 2\nSCTS: 14072322113832\n\nsend money")),
    ),
    Case(
        "a text that starts like a header",
        (plain("Sender: me\r\n\r\nhi"),),
        row(*TEXT_ROW, b64("Sender: me\r\n\r\nhi")),
    ),
    Case(
        "three header lines that are not the device's",
        (plain("Sender: a\nSender: b\nSMSC: c\n\nhi"),),
        row(*TEXT_ROW, b64("Sender: a\nSender: b\nSMSC: c\n\nhi")),
    ),
    Case("a content that is no base64", (plain("not base64!"),), row(*TEXT_ROW, "not base64!")),
    Case("a content that lost its padding", (plain("hi"),), row(*TEXT_ROW, "aGk")),
    Case("a content of an impossible length", (plain("hello"),), row(*TEXT_ROW, "hello")),
    Case("a content that is no text", (plain("caf\ufffd"),), row(*TEXT_ROW, b64(b"caf\xe9"))),
    Case("an empty content", (plain(""),), row(*TEXT_ROW, "")),
    Case("half of a surrogate pair", (plain("a\ufffd!"),), row(*TEXT_ROW, "").replace(b'""]]', b'"a\\ud83d!"]]')),
    Case(
        "one row instead of a list of rows",
        (plain("hello"),),
        wire({"type": "recv-sms", "sms": [*TEXT_ROW, b64("hello")]}),
    ),
    Case(
        "a zone that is no zone",
        (plain("hi", smsc="1", scts="14072322113899x"),),
        row(*TEXT_ROW, b64(headed("4915112345678", "", "1", "14072322113899x", "hi"))),
    ),
    Case(
        "a stamp that is no date",
        (plain("hi", smsc="1", scts="14023022113832"),),
        row(*TEXT_ROW, b64(headed("4915112345678", "", "1", "14023022113832", "hi"))),
    ),
    Case(
        "a delivery report in base64",
        (DeliveryReport(Port(1, 2), 1548407412.0, "10086", 0, "49171", "140723"),),
        row(1, "1.02", 1548407412, "49171", "10086", b64("0 140723")),
    ),
    Case(
        "a delivery report nobody can read",
        (DeliveryReport(Port(1, 2), None, "10086", None, "49171", "?!"),),
        row(1, "1B", None, 49171, "10086", "?!"),
    ),
    Case(
        "rows of no known kind, beside a good one",
        (plain("hello"), Unrecognised("recv-sms", "a row that is neither an SMS nor a delivery report")),
        wire({"type": "recv-sms", "sms": [[2, 1, 2, 3, 4, 5], [0], {"a": 1}, [*TEXT_ROW, b64("hello")]]}),
    ),
    Case(
        "a first row that is none, before a good one",
        (plain("hello"), Unrecognised("recv-sms", "a row that is neither an SMS nor a delivery report")),
        wire({"type": "recv-sms", "sms": [None, [*TEXT_ROW, b64("hello")]]}),
    ),
    Case("no rows at all", (Unrecognised("recv-sms", "no sms"),), wire({"type": "recv-sms", "sms": "none"})),
]

FORWARDED = ReceivedSms(Port(4), None, "13510956503", "", "Hello, world!", via="forward")

FORWARD_DIALECTS: list[Case] = [
    Case("plain text", (FORWARDED,), b"Hello, world!\0", OCTETS, {"port": "4", "sender": "13510956503"}),
    Case(
        "names in another case, behind a second question mark",
        (FORWARDED,),
        b"Hello, world!",
        OCTETS,
        {"?Port": "4", "SENDER": "13510956503", "version": "1.1"},
    ),
    Case(
        "no query, all in the header block",
        (
            ReceivedSms(
                Port(61, 1),
                None,
                "1205",
                "1646",
                "hi",
                smsc="1405",
                scts="250820064536A8",
                scts_at=1755697536.0,
                via="forward",
            ),
        ),
        b"\xef\xbb\xbf" + headed("1205", '"61.01" 1646', "1405", "250820064536A8", "hi").encode(),
        OCTETS,
    ),
    Case(
        "a plus that arrived as a blank",
        (ReceivedSms(None, None, "+4915112345678", "+49171", "hi", via="forward"),),
        b"hi",
        "text/plain",
        {"sender": " 4915112345678", "receiver": " 49171"},
    ),
    Case(
        "another charset, named in the query",
        (ReceivedSms(None, None, "10086", "", "\u4f60\u597d", via="forward"),),
        "\u4f60\u597d".encode("gbk"),
        OCTETS,
        {"sender": "10086", "charset": "GB2312"},
    ),
    Case(
        "another charset, named in the content type",
        (ReceivedSms(None, None, "10086", "", "caf\u00e9", via="forward"),),
        b"caf\xe9",
        'application/octet-stream; charset="ISO-8859-1"',
        {"sender": "10086"},
    ),
    Case(
        "a charset nobody knows, and bytes of another",
        (ReceivedSms(None, None, "10086", "", "caf\ufffd", via="forward"),),
        b"caf\xe9",
        OCTETS,
        {"sender": "10086", "charset": "zlib"},
    ),
    Case(
        "fields of a form",
        (FORWARDED,),
        b"username=root&password=root&Sender=13510956503&port=4&content=Hello%2C+world%21&charset=Utf-8",
        "application/x-www-form-urlencoded",
    ),
    Case(
        "more fields than any form has, the rest in the query",
        (ReceivedSms(None, None, "10086", "", "a&" * 70, via="forward"),),
        b"a&" * 70,
        "application/x-www-form-urlencoded",
        {"sender": "10086"},
    ),
    Case(
        "everything in the query",
        (FORWARDED,),
        b"",
        "",
        {"sender": "13510956503", "port": "4", "content": "Hello, world!"},
    ),
    Case(
        "a text that looks like a push is a text",
        (ReceivedSms(None, None, "10086", "", '{"type":"status-report"}', via="forward"),),
        b'{"type":"status-report"}',
        OCTETS,
        {"sender": "10086"},
    ),
]

PORT_DIALECTS: list[Case] = [
    Case("st as text", (PortStatus(Port(1, 2), 3),), port_status(st="3")),
    Case("st with its wording", (PortStatus(Port(1, 2), 3),), port_status(st="3 OK")),
    Case("the state under its other name", (PortStatus(Port(1, 2), 3),), port_status(status="3 OK")),
    Case("a state that cannot be read", (PortStatus(Port(1, 2), None),), port_status(st="fine")),
    Case("no state", (PortStatus(Port(1, 2), None),), port_status()),
    Case("a port with a slot letter", (PortStatus(Port(32, 4), 3),), port_status(port="32D", st=3)),
    Case("a port of the SIM pool", (PortStatus(Port(1, 16, "sp128"), 3),), port_status(port="1.sp128.016", st=3)),
    Case("a port without quotes that lost a zero", (PortStatus(Port(1, 10), 3),), port_status(port=1.10, st=3)),
    Case(
        "a card that is not the active one",
        (PortStatus(Port(1, 2), 1, active=False),),
        port_status(st=1, active="0 Not currently card"),
    ),
    Case("the active card, as newer firmware tells", (PortStatus(Port(1, 2), 3),), port_status(st=3, active=1)),
    Case(
        "limits, numbers and balance of every type",
        (
            PortStatus(
                Port(1, 2),
                3,
                seq=4,
                iccid="8986",
                number="4915112345678",
                operator="0",
                balance=100.0,
                signal=15,
                sms_total=(7, None),
                sms_month=(5, 300),
                sms_day=None,
                minutes_month=(1, 60),
                calls_day=(2, 9),
                talks_total=(3, None),
                data_total_mb=12.5,
                data_day_mb=1.0,
                data_24h_mb=2.0,
                data_1h_mb=0.5,
                data_last_mb=0.25,
                data_last_url="http://a/b",
                sim_pool="sp128",
                inserted=True,
                slot_active=False,
                led=False,
                network=4,
            ),
        ),
        port_status(
            st=3,
            seq="4",
            iccid=8986,
            sn=4915112345678,
            opr="0 ",
            bal=100,
            sig="15",
            smsctl_tot="7/-1",
            smsctl_mon="5 / 300",
            smsctl_day="many",
            mon_dur="1/60",
            mcn_day="2/9",
            mtn_tot="3/-1",
            dataflow_tot="12.5",
            dataflow_day=1,
            dataflow_24hours="2.00",
            dataflow_1hour="0.5",
            dataflow_last=0.25,
            dataflow_url="http://a/b",
            sim="sp128",
            inserted=1,
            slot_active="0",
            led=0,
            network="4",
        ),
    ),
    Case(
        "values of no sense",
        (PortStatus(Port(1, 2), 3, operator="1"),),
        port_status(st=3, seq=None, bal="a lot", sig=[], imei={}, iccid=1.5, imsi=None, opr=True),
    ),
    Case(
        "numbers beyond every float",
        (PortStatus(Port(1, 2), 3),),
        port_status(st=3, bal=10**400, sig="9" * 70),
    ),
    Case(
        "numbers that are none",
        (PortStatus(Port(1, 2), 3),),
        b'{"type":"port-status","port":"1.02","st":3,"bal":NaN,"sig":1e999,"seq":1.5}',
    ),
    Case("a number too long to be one", (PortStatus(Port(1, 2), 3),), port_status(st=3, bal="1" * 65)),
    Case(
        "text in another encoding",
        (PortStatus(Port(1, 2), 3, operator="\ufffd\ufffd"),),
        b'{"type":"port-status","port":"1.02","st":3,"opr":"\xff\xfe"}',
    ),
    Case("a port nobody can find", (Unrecognised("port-status", "no readable port"),), port_status(port="A1", st=3)),
    Case("a port of no sense", (Unrecognised("port-status", "no readable port"),), port_status(port=None, st=3)),
    Case(
        "the box in its other spelling",
        (DeviceStatus(2124, None, "", "", "", 8, 32, (PortStatus(Port(5, 1), 0),)),),
        wire(
            {
                "type": "dev-Status",
                "seq": 2124,
                "expires": -1,
                "max-port": "8",
                "max-slots": "32",
                "status": {"port": "5.01", "st": 0},
            }
        ),
    ),
    Case(
        "a row without a port, beside a good one",
        (
            DeviceStatus(None, None, "", "", "", None, None, (PortStatus(Port(1), 3),)),
            Unrecognised("dev-status", "a row without a readable port"),
        ),
        wire({"type": "dev-status", "status": [{"st": 3}, {"port": 1, "st": 3}, "x"]}),
    ),
]

SENT_DIALECTS: list[Case] = [
    Case(
        "the table's names, text in base64",
        (SentSms(Port(2, 1), 2, 6, "Timeout", "1212", 1562235746.0, source=2, took_ms=None, smsc="", body="h\u00e9"),),
        wire(
            {
                "type": "reve-sms",
                "port": "2A",
                "tid": "2",
                "src_type": "2",
                "status": "6 Timeout",
                "sms_time": "1562235746",
                "receiver": "1212",
                "charset": "BASE64",
                "data": b64("h\u00e9"),
            }
        ),
    ),
    Case(
        "the table's name of the task id, the submitter's address",
        (SentSms(Port(2, 1), 2, 0, "", "1212", 9.0, source=4, source_ip="10.0.0.9", source_port=2775, seq=3),),
        wire(
            {
                "type": "sent-sms",
                "sim_src": 0,
                "port": "2.01",
                "seq": 3,
                "sms_time": 2,
                "src_type": 4,
                "time": 9,
                "src_ip": "10.0.0.9",
                "src_port": 2775,
                "status": "0",
                "receiver": "1212",
            }
        ),
    ),
    Case(
        "of another submitter, without a task",
        (SentSms(Port(2), None, 0, "", "1212", None, source=4),),
        wire({"type": "sent-sms", "port": 2, "src_type": 4, "status": 0, "recver": "1212"}),
    ),
    Case(
        "neither task nor recipient",
        (Unrecognised("sent-sms", "neither a task id nor a recipient"),),
        wire({"type": "sent-sms", "port": 2, "status": "0"}),
    ),
]

UNKNOWN: list[Case] = [
    Case("a type nobody documents", (Unrecognised("fax", "unknown type"),), wire({"type": "fax", "dur": 7})),
    Case("a call record under another name", (CallRecord(None),), wire({"type": "CDR-report", "dur": 7})),
    Case("a call record, whatever is in it", (CallRecord(Port(1, 2)),), wire({"type": "cdr", "port": "1B", "dur": 7})),
    Case("no type", (Unrecognised("", "no type"),), wire({"hello": 1})),
    Case("no object", (Unrecognised("", "not an object"),), b"5"),
    Case(
        "many things of no sense are one",
        (SENT_5, Unrecognised("", "not an object")),
        b"[1,2,%s,3]" % report(sdr=[[0, "10086", "1.01", 1466506477]]),
    ),
    Case("nothing at all, in a list", (), b"[]"),
    Case("nesting that is still read", (Unrecognised("", "no type"),), b'{"a":' * 31 + b"[]" + b"}" * 31),
    Case("brackets in a text are no nesting", (plain("[" * 60 + '"{\\'),), row(*TEXT_ROW, "[" * 60 + '"{\\')),
]

GARBLED: list[Case] = [
    Case("nothing", (), b""),
    Case("only padding", (), b"\0\0\r\n"),
    Case("half of a push", (), b'{"type":"recv-sms","sms":[[0,"1.02"'),
    Case("typographic quotes", (), "{\u201ctype\u201d:\u201crecv-sms\u201d}".encode()),
    Case("plain words", (), b"hello", "text/plain"),
    Case("a text forward without sender or header block", (), b"hello", OCTETS, {"port": "4"}),
    Case("a push in the wrong clothes", (), b'{"type":"status-report","rpts":[]}', OCTETS, {"port": "4"}),
    Case("a form without an SMS", (), b"a=b", "application/x-www-form-urlencoded"),
    Case("nested too deep", (), b'{"a":' * 32 + b"[]" + b"}" * 32),
    Case("nested far too deep", (), b"[" * 200_000),
    Case("nested too deep in turns", (), b'[{"a":' * 17 + b"1" + b"}]" * 17),
    Case("a number of a million digits", (), b'{"type":' + b"1" * 1_000_000 + b"}"),
]
"""Bodies that are neither JSON nor a text forward: GatewayGarbled."""


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

SUBMIT_ANSWERS += [
    Answer(
        "rows under the other names",
        SubmitAnswer(200, "OK", (TaskAck(2, 0, "OK"),)),
        wire({"code": "200", "message": " OK ", "results": {"tid": "2", "status": "0 OK"}}),
    ),
    Answer(
        "a code instead of a status",
        SubmitAnswer(None, "", (TaskAck(2, 2, "Port Unavailable"), TaskAck(3, 0, ""))),
        wire({"tasks": [{"tid": 2, "code": 2, "reason": "Port Unavailable"}, {"tid": 3, "status": 0}]}),
    ),
    Answer(
        "rows nobody can read",
        SubmitAnswer(200, "OK", (TaskAck(4, None, "accepted"), TaskAck(5, None, ""))),
        wire(
            {
                "code": 200,
                "reason": "OK",
                "status": [{"tid": "x", "status": "0 OK"}, "0 OK", {"tid": 4, "status": "accepted"}, {"tid": 5}],
            }
        ),
    ),
    Answer("no rows", SubmitAnswer(200, "OK", ()), wire({"code": 200, "reason": "OK", "status": "OK"})),
]

TASK_LISTS += [
    Answer(
        "under the other name, one of them unreadable",
        (ListedTask(2, "1"),),
        wire({"code": 0, "task": [{"tid": "2", "to": 1}, {"to": "2"}, 3]}),
    ),
    Answer("without a code", (ListedTask(2, ""),), wire({"tasks": {"tid": 2}})),
]

COUNTED = SimStatistics(
    Port(1, 1), received=5, sent=4, sent_ok=1, sent_failed=3, consecutive_failed=2, unsent=7, sending=1
)
COUNTERS = {
    "port": 1,
    "slot": 1,
    "received": 5,
    "sent": 4,
    "sent_ok": 1,
    "sent_failed": 3,
    "con_failed": 2,
    "unsent": 7,
    "sending": 1,
}


def counted(*rows: Any) -> bytes:
    """The answer to a statistics query with these rows."""
    return wire({"code": 200, "reason": "OK", "count": len(rows), "stats": rows})


STATISTICS: list[Answer] = [
    Answer(
        "two cards",
        (COUNTED, SimStatistics(Port(2, 1), 0, 0, 0, 0, 0, 0, 0)),
        counted(COUNTERS, dict.fromkeys(COUNTERS, 0) | {"port": 2, "slot": 1}),
        spoken=True,
    ),
    Answer("no card at all", (), counted(), spoken=True),
    Answer("numbers as text", (COUNTED,), counted({name: str(value) for name, value in COUNTERS.items()})),
    Answer(
        "port and slot in one", (replace(COUNTED, port=Port(2, 1)),), counted({**COUNTERS, "port": "2A", "slot": 9})
    ),
    Answer("a slot that is none", (replace(COUNTED, port=Port(1)),), counted({**COUNTERS, "slot": -1})),
    Answer(
        "counters that prove nothing are missing",
        (SimStatistics(Port(1), 0, 4, 1, 3, 0, 7, 1),),
        counted({"port": 1, "sent_ok": 1, "sent_failed": 3, "unsent": 7, "sending": 1}),
    ),
    *(
        Answer(
            f"no {name}, beside a good one",
            (COUNTED,),
            counted({key: value for key, value in COUNTERS.items() if key != name}, COUNTERS),
        )
        for name in ("port", "sent_ok", "sent_failed", "unsent", "sending")
    ),
    Answer("rows that are none, beside a good one", (COUNTED,), counted(None, 7, COUNTERS, [1])),
    Answer("a single row by itself, without a code", (COUNTED,), wire({"stats": COUNTERS})),
    Answer("the other code of success, and no rows", (), b'{"code":0,"reason":"OK"}'),
]

IN_THE_INBOX = (
    ReceivedSms(Port(1, 1), 1466506477.0, "10010", "13265825775", "Hello \U0001f600", via="inbox"),
    DeliveryReport(Port(1, 1), 1466506478.0, "+13686876620", 0, "8613800755500", "14072322113832"),
    ReceivedSms(
        Port(1, 1),
        1548407413.0,
        "8613715266978",
        "",
        "ja",
        smsc="8613800755500",
        scts="19012517101232",
        scts_at=1548407412.0,
        via="inbox",
    ),
)
INBOX_ROWS = [
    [0, "1.01", 1466506477, "10010", "13265825775", b64("Hello \U0001f600")],
    [1, "1.01", 1466506478, "8613800755500", "+13686876620", "0 14072322113832"],
    [
        0,
        "1.01",
        1548407413,
        "8613715266978",
        "",
        b64(headed("8613715266978", '"1.01" ', "8613800755500", "19012517101232", "ja")),
    ],
]


def inbox(*rows: Any, **members: Any) -> bytes:
    """The answer to an inbox query with these rows."""
    told = {"code": 0, "reason": "OK", "ssrc": "0123456789abcdef", "sms_num": len(rows), "next_sms": 9, "data": rows}
    return wire(told | members)


INBOXES: list[Answer] = [
    Answer(
        "SMS and a delivery report",
        InboxPage("0123456789abcdef", 9, IN_THE_INBOX),
        inbox(*INBOX_ROWS),
        spoken=True,
    ),
    Answer("nothing yet", InboxPage("0123456789abcdef", 1, ()), inbox(next_sms=1), spoken=True),
    Answer(
        "another dialect: numbers as text, a slot letter, NULs at the end",
        InboxPage("0123456789abcdef", 3, (replace(IN_THE_INBOX[0], text="hi"),)),
        inbox(["0", "1A", "1466506477", "10010", 13265825775, b64(b"hi\0\0")], next_sms="3"),
    ),
    Answer(
        "rows that cannot be read, beside a good one",
        InboxPage("0123456789abcdef", 9, IN_THE_INBOX[:1], "a row that is neither an SMS nor a delivery report"),
        inbox(None, [2, 1, 2, 3, 4, 5], INBOX_ROWS[0], [0]),
    ),
    Answer("a single row by itself", InboxPage("5", 0, IN_THE_INBOX[:1]), wire({"data": INBOX_ROWS[0], "ssrc": 5})),
    Answer("success and nothing else", InboxPage("", 0, ()), b'{"code":200}'),
]

NO_INBOXES = [b"", b"[]", b"{}", b'{"code":1,"reason":"Invalid User"}', b'{"code":1,"data":[]}', b'{"data":"none"}']
NO_STATISTICS = [b"", b"[]", b"{}", b'{"code":1,"reason":"Invalid User"}', b'{"code":2,"stats":[]}', b'{"stats":7}']
NO_TASK_LISTS = [b"", b"[]", b'{"code":1,"reason":"Invalid User"}', b'{"code":1,"tasks":[]}', b'{"code":200}']
NO_STATUSES = [b"", b"[]", b'{"code":1,"reason":"Invalid User"}', b"<html>"]
NO_ANSWERS = [b"", b"[]", b"OK", b'{"code":200,', b"5"]

CASES: list[Case] = [
    *SPOKEN,
    *REPORT_DIALECTS,
    *RECEIVED_DIALECTS,
    *FORWARD_DIALECTS,
    *PORT_DIALECTS,
    *SENT_DIALECTS,
    *UNKNOWN,
]
