"""Everything devices say is read, and nothing they say breaks the reader."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.decode import BODIES, steps
from bridge.ejoin import (
    DECODERS,
    decode_answer,
    decode_inbox,
    decode_legacy_answer,
    decode_push,
    decode_statistics,
    decode_status,
    decode_tasks,
)
from bridge.ejoin.decode import decode_call_statistics, decode_reply
from bridge.ejoin.facts import (
    CallRecord,
    CallStatistics,
    DeliveryReport,
    DeviceStatus,
    Fact,
    FailedRow,
    PortStatus,
    ReceivedSms,
    SentRow,
    SentSms,
    SmsReport,
    SubmitAnswer,
    TaskAck,
    Unrecognised,
)
from bridge.ejoin.ports import Port
from bridge.errors import GatewayGarbled
from tests.ejoin.cases import (
    CASES,
    FREE,
    GARBLED,
    INBOXES,
    JSON,
    NO_ANSWERS,
    NO_INBOXES,
    NO_STATISTICS,
    NO_STATUSES,
    NO_TASK_LISTS,
    OCTETS,
    SPOKEN,
    STATISTICS,
    STATUSES,
    SUBMIT_ANSWERS,
    TASK_LISTS,
    Answer,
    Case,
)

CORPUS = Path(__file__).parent / "corpus"


def named(case: Case | Answer) -> str:
    return case.name


@pytest.mark.parametrize("case", CASES, ids=named)
def test_a_push_becomes_its_facts(case: Case) -> None:
    assert tuple(decode_push(case.body, case.content_type, case.query)) == case.facts


@pytest.mark.parametrize("case", GARBLED, ids=named)
def test_what_is_no_push_is_garbled(case: Case) -> None:
    with pytest.raises(GatewayGarbled):
        decode_push(case.body, case.content_type, case.query)


@pytest.mark.parametrize("answer", SUBMIT_ANSWERS, ids=named)
def test_the_answer_to_a_submit(answer: Answer) -> None:
    assert decode_answer(answer.body) == answer.fact


@pytest.mark.parametrize("body", NO_ANSWERS)
def test_what_is_no_answer_is_garbled(body: bytes) -> None:
    with pytest.raises(GatewayGarbled):
        decode_answer(body)


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        (b'{"code":0, "reason":"OK"}', 0, "OK"),
        (b'{"code":200,"message":"sent"}', 0, "sent"),
        (b'{"code":"6 Timeout"}', 6, "Timeout"),
        (b'{"code":5,"reason":"SIM Unregistered"}', 5, "SIM Unregistered"),
        (b"ok\r\n", 0, "OK"),
        (b'{"hello":1}', None, ""),
    ],
)
def test_the_answer_of_the_old_interface(body: bytes, code: int | None, text: str) -> None:
    assert decode_legacy_answer(body, 7) == SubmitAnswer(200, "OK", (TaskAck(7, code, text, final=True),))


@pytest.mark.parametrize("body", [b"", b"<html>no</html>", b"[]", b"BROKEN"])
def test_what_is_no_answer_of_the_old_interface_is_garbled(body: bytes) -> None:
    with pytest.raises(GatewayGarbled):
        decode_legacy_answer(body, 7)


@pytest.mark.parametrize("answer", TASK_LISTS, ids=named)
def test_a_task_list(answer: Answer) -> None:
    assert decode_tasks(answer.body) == answer.fact


@pytest.mark.parametrize("body", NO_TASK_LISTS)
def test_a_refused_task_list_is_no_empty_list(body: bytes) -> None:
    with pytest.raises(GatewayGarbled):
        decode_tasks(body)


@pytest.mark.parametrize("answer", STATUSES, ids=named)
def test_a_status(answer: Answer) -> None:
    assert decode_status(answer.body) == answer.fact


@pytest.mark.parametrize("body", NO_STATUSES)
def test_a_refused_status_is_no_empty_box(body: bytes) -> None:
    with pytest.raises(GatewayGarbled):
        decode_status(body)


@pytest.mark.parametrize("answer", STATISTICS, ids=named)
def test_statistics(answer: Answer) -> None:
    assert decode_statistics(answer.body) == answer.fact


@pytest.mark.parametrize("body", NO_STATISTICS)
def test_refused_statistics_are_no_empty_ones(body: bytes) -> None:
    with pytest.raises(GatewayGarbled):
        decode_statistics(body)


@pytest.mark.parametrize("answer", INBOXES, ids=named)
def test_a_page_of_the_inbox(answer: Answer) -> None:
    assert decode_inbox(answer.body) == answer.fact


@pytest.mark.parametrize("body", NO_INBOXES)
def test_a_refused_inbox_is_no_empty_one(body: bytes) -> None:
    with pytest.raises(GatewayGarbled):
        decode_inbox(body)


@pytest.mark.parametrize(
    ("body", "code", "reason"),
    [
        (b'{"code":0, "reason":"OK"}', 0, "OK"),
        (b'{"code":200,"reason":" OK "}', 200, "OK"),
        (b'{"code":"4 Pending USSD"}', 4, "Pending USSD"),
        (b'{"reason":"no code"}', None, "no code"),
    ],
)
def test_the_answer_to_a_command(body: bytes, code: int | None, reason: str) -> None:
    reply = decode_reply(body)
    assert (reply.code, reply.reason) == (code, reason)
    assert decode_reply(b'{"code":0,"resp":"12.34 EUR"}').told["resp"] == "12.34 EUR"


def test_call_statistics() -> None:
    row = {"port": 1, "slot": 2, "calls": 9, "alerted": "8", "connected": 7, "con_failed": 1, "nc": "3/-1"}
    more = {"pdd": 2.5, "acd": "60", "asr": 77, "tcd": 5, "act_tcd": 300}
    body = json.dumps({"code": 200, "stats": [row | more, {"port": "2A"}, {"calls": 1}, 5]}).encode()
    assert decode_call_statistics(body) == (
        CallStatistics(Port(1, 2), 9, 8, 7, 1, (3, None), 2.5, 60.0, 77.0, 5, 300),
        CallStatistics(Port(2, 1), 0, 0, 0, 0, None, None, None, None, 0, 0),
    )


def test_a_refusal_tells_its_reason() -> None:
    for reader in (decode_statistics, decode_inbox):
        with pytest.raises(GatewayGarbled, match="1 Invalid User"):
            reader(b'{"code":1,"reason":"Invalid User"}')
    with pytest.raises(GatewayGarbled, match="1 Invalid User"):
        decode_status(b'{"code":1,"reason":"Invalid User"}')
    with pytest.raises(GatewayGarbled, match="1 Invalid User"):
        decode_tasks(b'{"code":1,"reason":"Invalid User"}')


def test_every_documented_type_has_its_cases() -> None:
    assert [kind for kind in DECODERS if not any(f'"{kind}"'.encode() in case.body for case in CASES)] == []


# --- bodies as documents print them and as real boxes posted them ----------------------------------------------------

CAUGHT: dict[str, tuple[Fact, ...]] = {
    "port-status.json": (
        PortStatus(
            Port(1, 2), 11, seq=1, imei="353689530707903", operator="0 CHINA MOBILE", balance=0.0, signal=0, **FREE
        ),
    ),
    "dev-status-one-slot.json": (
        DeviceStatus(
            3,
            60.0,
            "00-30-f1-00-6d-b1",
            "192.168.1.44",
            "532-600-999-041-100-000",
            32,
            4,
            (
                PortStatus(
                    Port(1, 2),
                    3,
                    seq=11,
                    iccid="89860042191782899541",
                    imsi="460000990123698",
                    imei="353689530707903",
                    operator="46000 CHINA MOBILE",
                    balance=0.0,
                    signal=31,
                    **(FREE | {"minutes_total": (1, None), "minutes_month": (1, None), "minutes_day": (1, None)}),
                ),
            ),
        ),
    ),
    "dev-status-empty-ports.json": (
        DeviceStatus(
            2124,
            None,
            "00-30-f1-00-6c-55",
            "192.168.1.67",
            "608-520-840-841-100-0F0",
            8,
            32,
            (
                PortStatus(
                    Port(4, 1),
                    6,
                    seq=2124,
                    iccid="89860042191782899541",
                    imsi="460000990123698",
                    imei="353689530707904",
                    operator="0",
                    balance=0.0,
                    signal=0,
                    **FREE,
                ),
                PortStatus(Port(5, 1), 0, seq=2124, imei="353689530707905"),
            ),
        ),
    ),
    "sent-sms.json": (
        SentSms(Port(2, 1), 2, 0, "", "1212222222", 1562235746.0, source=2, took_ms=330, body="test sms", seq=18),
    ),
    "status-report.json": (
        SmsReport(
            1223,
            0,
            5,
            1,
            0,
            (SentRow(0, "13686876620", Port(1, 1), 1466506477.0),),
            (FailedRow(1, "13686876621", Port(1, 2), 1466506480.0, 6, "Timeout"),),
        ),
    ),
    "recv-sms-sim-pool.json": (
        ReceivedSms(
            Port(12, 101, "sp256"),
            1755697537.0,
            "12052700001",
            "16463910002",
            "Jjjj",
            smsc="14054720003",
            scts="250820064536A8",
            scts_at=1755697536.0,
        ),
    ),
    "text-forward.txt": (
        ReceivedSms(
            Port(4),
            None,
            "13510956503",
            "",
            "Hello, world!",
            smsc="8613010888500",
            scts="14072322113832",
            scts_at=1406124698.0,
            via="forward",
        ),
    ),
}


@pytest.mark.parametrize("file", CAUGHT)
def test_a_caught_body_becomes_its_facts(file: str) -> None:
    content_type, query = (JSON, {}) if file.endswith(".json") else (OCTETS, {"port": "4", "sender": "13510956503"})
    assert tuple(decode_push((CORPUS / file).read_bytes(), content_type, query)) == CAUGHT[file]


def test_the_documents_damaged_sample_is_kept_as_an_sms() -> None:
    (sms,) = decode_push((CORPUS / "recv-sms-damaged.json").read_bytes(), JSON, {})
    assert isinstance(sms, ReceivedSms)
    assert (sms.port, sms.at, sms.sender) == (Port(1, 2), 1548407412.0, "8613715266978")
    assert sms.text.startswith("Sender: 8")


def test_every_caught_body_has_its_expectation() -> None:
    files = {path.name for path in CORPUS.iterdir()} - {"README.md", "recv-sms-damaged.json"}
    assert files == CAUGHT.keys()


# --- whatever comes ---------------------------------------------------------------------------------------------------

FACTS = (SmsReport, ReceivedSms, DeliveryReport, PortStatus, DeviceStatus, SentSms, CallRecord, Unrecognised)
CONTENT_TYPES = st.sampled_from(["", JSON, OCTETS, "text/plain; charset=gbk", "application/x-www-form-urlencoded"])
QUERIES = st.dictionaries(
    st.sampled_from(["port", "?sender", "receiver", "iccid", "charset", "content", "Sender"]), st.text(), max_size=4
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["1.02", "6 Timeout", "MSA="]),
    lambda inner: (
        st.lists(inner, max_size=7)
        | st.dictionaries(
            st.sampled_from(
                ["tid", "sdr", "fdr", "port", "st", "sms", "rpts", "status", "bal", "code", "data", "stats"]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=30,
)
PUSHES = st.builds(
    lambda kind, members: {"type": kind, **members},
    st.sampled_from([*DECODERS, "x"]),
    st.dictionaries(
        st.sampled_from(["rpts", "sms", "status", "port", "tid", "recver", "data", "time", "seq"]), VALUES, max_size=6
    ),
)


def read_all(body: bytes, content_type: str, query: dict[str, str]) -> None:
    """Every reader either gives facts that can be written down, or says that the body is garbled."""
    try:
        facts = decode_push(body, content_type, query)
    except GatewayGarbled:
        facts = []
    assert all(isinstance(fact, FACTS) for fact in facts)
    assert repr(facts).encode()
    for reader in (decode_answer, decode_tasks, decode_status, decode_statistics, decode_inbox):
        try:
            assert reader(body) is not None
        except GatewayGarbled:
            continue


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), CONTENT_TYPES, QUERIES)
def test_any_bytes_are_read_or_garbled(body: bytes, content_type: str, query: dict[str, str]) -> None:
    read_all(body, content_type, query)


@settings(max_examples=300, deadline=None)
@given(PUSHES | VALUES, st.sampled_from([JSON, ""]))
def test_any_json_is_read_or_garbled(told: object, content_type: str) -> None:
    read_all(json.dumps(told).encode(), content_type, {})


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SPOKEN), st.data())
def test_a_damaged_push_is_read_or_garbled(case: Case, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(case.body)))
    length = data.draw(st.integers(0, 20))
    damaged = case.body[:at] + data.draw(st.binary(max_size=5)) + case.body[at + length :]
    read_all(damaged, case.content_type, dict(case.query))


@pytest.mark.parametrize("body", BODIES)
def test_twice_the_size_takes_at_most_twice_the_steps(body: str) -> None:
    assert steps(body, 400) <= 2.1 * steps(body, 200)
