"""What the simulator writes is what the shared list of cases says, and the bridge reads it back as the same facts."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import get_args, get_type_hints
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from bridge.errors import SettingsInvalid
from bridge.simulator import encode
from bridge.simulator.encode import Dialect
from tests.ejoin import cases

PLAIN = Dialect()


def written(facts, dialect=PLAIN):
    """The query, body and content type that the simulator posts for these facts."""
    match facts:
        case (SmsReport(), *_):
            return "", dialect.status_report(facts), encode.JSON_TYPE
        case (ReceivedSms(via="forward") as sms,):
            return dialect.text_forward(sms)
        case (ReceivedSms() | DeliveryReport(), *_):
            return "", dialect.recv_sms(facts), encode.JSON_TYPE
        case (PortStatus() as status,):
            return "", dialect.port_status(status), encode.JSON_TYPE
        case (DeviceStatus() as status,):
            return "", dialect.dev_status(status), encode.JSON_TYPE
        case (SentSms() as sms,):
            return "", dialect.sent_sms(sms), encode.JSON_TYPE
    raise AssertionError(f"nobody writes {facts!r}")


def read(facts, dialect=PLAIN):
    """What the bridge makes of what the simulator writes for these facts."""
    query, body, kind = written(facts, dialect)
    return tuple(decode.decode_push(body, kind, dict(parse_qsl(query))))


SPOKEN = [case for case in cases.CASES if case.spoken]


@pytest.mark.parametrize("case", SPOKEN, ids=lambda case: case.name)
def test_a_push_is_written_as_the_list_has_it(case):
    query, body, _ = written(case.facts)
    assert dict(parse_qsl(query)) == dict(case.query)
    if case.content_type == cases.OCTETS:
        assert body == case.body
        return
    told, listed = json.loads(body), json.loads(case.body)
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
    assert read(facts) == facts


# --- every dialect --------------------------------------------------------------------------------------------------

DIALECTS = st.builds(
    Dialect, **{name: st.sampled_from(get_args(hint)) for name, hint in get_type_hints(Dialect).items()}
)
PORTS = st.builds(Port, st.integers(1, 64), st.integers(1, 32))
MOMENTS = st.integers(1_000_000_000, 2_000_000_000).map(float)
NUMBERS = st.from_regex(r"\+?[1-9][0-9]{5,14}", fullmatch=True)
ICCIDS = st.from_regex(r"89[0-9]{17}", fullmatch=True)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(
    lambda text: not text.lower().startswith(("sender", "receiver", "smsc", "scts")) and text[0] not in "0123456789"
)
COUNTS = st.integers(0, 10_000)
QUOTAS = st.none() | st.tuples(COUNTS, st.none() | COUNTS)
WORDS = st.sampled_from(["", "Timeout", "Server Error"])

REPORTS = st.builds(
    SmsReport,
    st.integers(-(2**31), 2**31 - 1),
    COUNTS,
    COUNTS,
    COUNTS,
    COUNTS,
    st.lists(st.builds(SentRow, COUNTS, NUMBERS, PORTS, MOMENTS), max_size=3).map(tuple),
    st.lists(
        st.builds(FailedRow, COUNTS, NUMBERS, PORTS, MOMENTS, st.integers(1, 20), WORDS, st.integers(1, 500)),
        max_size=3,
    ).map(tuple),
)
RECEIVED = st.builds(
    ReceivedSms,
    PORTS,
    MOMENTS,
    NUMBERS,
    NUMBERS,
    TEXTS,
    smsc=NUMBERS,
    scts=st.just("250820064536A8"),
    scts_at=st.just(1755697536.0),
    iccid=ICCIDS,
)
DELIVERIES = st.builds(
    DeliveryReport, PORTS, MOMENTS, NUMBERS, st.integers(0, 255), NUMBERS, st.just("14072322113832"), ICCIDS
)
STATUSES = st.builds(
    PortStatus,
    PORTS,
    st.integers(0, 16),
    seq=COUNTS,
    active=st.booleans(),
    iccid=ICCIDS,
    imei=NUMBERS,
    operator=st.sampled_from(["", "26201 SIMULATED"]),
    balance=st.integers(0, 10_000).map(lambda cents: cents / 100),
    signal=st.integers(0, 99),
    inserted=st.none() | st.booleans(),
    led=st.none() | st.booleans(),
    network=st.none() | st.integers(2, 5),
    **dict.fromkeys(("minutes_total", "calls_month", "talks_day", "sms_total", "sms_month", "sms_day"), QUOTAS),
    **dict.fromkeys(("data_total_mb", "data_24h_mb"), st.none() | st.integers(0, 10_000).map(lambda kb: kb / 1000)),
)
BOXES = st.builds(
    DeviceStatus,
    COUNTS,
    st.none() | st.integers(1, 9_999).map(float),
    st.just("00-30-f1-00-6c-55"),
    st.just("10.0.0.1"),
    st.just("532-604"),
    st.integers(1, 64),
    st.integers(1, 32),
    st.lists(STATUSES, max_size=3).map(tuple),
)
SENT = st.builds(
    SentSms,
    PORTS,
    st.integers(1, 2**31 - 1),
    st.integers(0, 20),
    st.sampled_from(["", "Timeout"]),
    NUMBERS,
    MOMENTS,
    source=st.integers(0, 5),
    took_ms=COUNTS,
    smsc=NUMBERS,
    body=TEXTS,
    seq=COUNTS,
    source_ip=st.sampled_from(["", "10.0.0.9"]),
    source_port=st.none() | st.integers(1, 65535),
)
FACTS = (
    st.lists(REPORTS, min_size=1, max_size=3).map(tuple)
    | st.lists(RECEIVED | DELIVERIES, min_size=1, max_size=3).map(tuple)
    | st.tuples(RECEIVED.map(lambda sms: replace(sms, via="forward", at=None)))
    | st.tuples(STATUSES | BOXES | SENT)
)


def as_told(fact, dialect):
    """What is left of a fact where a dialect does not tell all of it."""
    if isinstance(fact, SmsReport):
        rows = {
            name: tuple(as_told(row, dialect) for row in getattr(fact, name)) for name in ("sent_rows", "failed_rows")
        }
        return replace(fact, **rows)
    if isinstance(fact, DeviceStatus):
        return replace(fact, ports=tuple(as_told(row, dialect) for row in fact.ports))
    pushed_v3 = dialect.pushes == "v3" and isinstance(fact, SentRow | FailedRow | ReceivedSms | DeliveryReport)
    pushed_v3 = pushed_v3 and getattr(fact, "via", "push") == "push"
    if dialect.ports == "number" and not pushed_v3 and fact.port:
        fact = replace(fact, port=Port(fact.port.number))
    in_pool = isinstance(fact, SentSms | DeliveryReport) or (isinstance(fact, ReceivedSms) and fact.via == "push")
    if dialect.sims == "pool" and in_pool and not pushed_v3 and fact.port.slot and dialect.ports != "number":
        fact = replace(fact, port=Port(fact.port.number, fact.port.slot, "sp128"))
    if isinstance(fact, FailedRow):
        text = "" if pushed_v3 else fact.text
        fact = replace(fact, text=text, operator_text="")
    if isinstance(fact, DeliveryReport) and not pushed_v3:
        fact = replace(fact, iccid="")
    if isinstance(fact, ReceivedSms):
        by_push = fact.via == "push"
        if pushed_v3 or dialect.header == "none":
            fact = replace(fact, smsc="", scts="", scts_at=None)
        if by_push and not pushed_v3:
            fact = replace(fact, iccid="")
    return fact


@given(facts=FACTS, dialect=DIALECTS)
def test_facts_are_read_back_in_every_dialect(facts, dialect):
    assert read(facts, dialect) == tuple(as_told(fact, dialect) for fact in facts)


def test_every_switch_can_be_named_and_a_wrong_one_is_told_the_right_ones():
    assert Dialect.of(["ports=letters", "success=200"]) == Dialect(ports="letters", success=200)
    assert Dialect.of(Dialect.switches()) != Dialect()
    for wrong in ("ports", "ports=roman", "colour=red", "success=1"):
        with pytest.raises(SettingsInvalid, match=r"write one of ports=dotted, ports=letters.*success=200"):
            Dialect.of([wrong])


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
    body = PLAIN.dev_status(answer.fact)
    assert json.loads(body) == json.loads(answer.body)
    assert decode.decode_status(body) == answer.fact


@pytest.mark.parametrize("answer", [one for one in cases.STATISTICS if one.spoken], ids=lambda one: one.name)
def test_statistics_are_written_as_the_list_has_them(answer):
    body = encode.statistics(answer.fact)
    assert json.loads(body) == json.loads(answer.body)
    assert decode.decode_statistics(body) == answer.fact


@pytest.mark.parametrize("answer", [one for one in cases.INBOXES if one.spoken], ids=lambda one: one.name)
def test_a_page_of_the_inbox_is_written_as_the_list_has_it(answer):
    body = PLAIN.inbox(answer.fact)
    assert json.loads(body) == json.loads(answer.body)
    assert decode.decode_inbox(body) == answer.fact
