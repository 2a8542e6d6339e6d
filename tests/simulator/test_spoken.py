"""What the simulator writes is what the shared list of cases says, and the bridge reads it back as the same facts."""

from __future__ import annotations

import json
from urllib.parse import parse_qsl

import pytest

from bridge.ejoin import decode
from bridge.ejoin.facts import (
    DeliveryReport,
    DeviceStatus,
    FailedRow,
    PortStatus,
    ReceivedSms,
    SentRow,
    SentSms,
    SmsReport,
)
from bridge.ejoin.ports import Port
from bridge.simulator import encode
from tests.ejoin import cases

NO_FACT_CARRIES = {"src_ip", "src_port", "seq"}
"""Members of a sent-sms that the list leaves to the simulator."""


def written(facts):
    """The query and body that the simulator posts for these facts."""
    match facts:
        case (SmsReport(), *_):
            return "", encode.status_report(facts)
        case (ReceivedSms(via="forward") as sms,):
            return encode.text_forward(sms)
        case (ReceivedSms() | DeliveryReport(), *_):
            return "", encode.recv_sms(facts)
        case (PortStatus() as status,):
            return "", encode.port_status(status)
        case (DeviceStatus() as status,):
            return "", encode.dev_status(status)
        case (SentSms() as sms,):
            return "", encode.sent_sms(sms, seq=18)
    raise AssertionError(f"nobody writes {facts!r}")


SPOKEN = [case for case in cases.CASES if case.spoken]


@pytest.mark.parametrize("case", SPOKEN, ids=lambda case: case.name)
def test_a_push_is_written_as_the_list_has_it(case):
    query, body = written(case.facts)
    assert dict(parse_qsl(query)) == dict(case.query)
    if case.content_type == cases.OCTETS:
        assert body == case.body
        return
    told, listed = json.loads(body), json.loads(case.body)
    if isinstance(case.facts[0], SentSms):
        assert told.keys() == listed.keys()
        told, listed = ({k: v for k, v in one.items() if k not in NO_FACT_CARRIES} for one in (told, listed))
    assert told == listed
    assert list(told) == list(listed)  # the order of keys is the device's


MORE = [
    (SmsReport(1, 0, 2, 0, 3, (SentRow(2, "+491", Port(3, 1), 5.0), SentRow(3, "+492", Port(3, 1), 6.0))),),
    (SmsReport(-7, 1, 0, 1, 0, (), (FailedRow(0, "+491", Port(2, 1), 5.0, 99, "", 38, "Network out of order"),)),),
    (ReceivedSms(Port(1, 1), 9.0, "Bank", "", "no headers"),),
    (PortStatus(Port(4, 1), 3, 2, active=False, balance=1.5, signal=3, sms_day=(4, None), sms_total=(1, 100)),),
    (SentSms(Port(1, 1), 4, 6, "Timeout", "+491", 8.0, source=3, took_ms=12, body="Grüße"),),
    (DeliveryReport(Port(1, 1), 9.0, "+491", 134, "4917", "24010112000000"),),
]


@pytest.mark.parametrize("facts", [case.facts for case in SPOKEN] + MORE, ids=lambda facts: type(facts[0]).__name__)
def test_what_is_written_is_read_back_as_the_same_facts(facts):
    query, body = written(facts)
    kind = encode.TEXT_TYPE if isinstance(facts[0], ReceivedSms) and facts[0].via == "forward" else encode.JSON_TYPE
    assert tuple(decode.decode_push(body, kind, dict(parse_qsl(query)))) == facts


@pytest.mark.parametrize("answer", [one for one in cases.SUBMIT_ANSWERS if one.spoken], ids=lambda one: one.name)
def test_an_answer_to_a_submit_is_written_byte_by_byte(answer):
    assert encode.task_status(answer.fact) == answer.body
    assert decode.decode_answer(encode.task_status(answer.fact)) == answer.fact


@pytest.mark.parametrize("answer", [one for one in cases.TASK_LISTS if one.spoken], ids=lambda one: one.name)
def test_a_task_list_is_written_as_the_list_has_it(answer):
    listed = json.loads(answer.body)
    body = encode.task_list(listed["total_num"], [encode.listed(fact) for fact in answer.fact])
    assert json.loads(body) == listed
    assert decode.decode_tasks(body) == answer.fact


@pytest.mark.parametrize("answer", [one for one in cases.STATUSES if one.spoken], ids=lambda one: one.name)
def test_a_snapshot_is_written_as_the_list_has_it(answer):
    body = encode.dev_status(answer.fact)
    assert json.loads(body) == json.loads(answer.body)
    assert decode.decode_status(body) == answer.fact


@pytest.mark.parametrize("answer", [one for one in cases.STATISTICS if one.spoken], ids=lambda one: one.name)
def test_statistics_are_written_as_the_list_has_them(answer):
    body = encode.statistics(answer.fact)
    assert json.loads(body) == json.loads(answer.body)
    assert decode.decode_statistics(body) == answer.fact


@pytest.mark.parametrize("answer", [one for one in cases.INBOXES if one.spoken], ids=lambda one: one.name)
def test_a_page_of_the_inbox_is_written_as_the_list_has_it(answer):
    body = encode.inbox(answer.fact)
    assert json.loads(body) == json.loads(answer.body)
    assert decode.decode_inbox(body) == answer.fact
