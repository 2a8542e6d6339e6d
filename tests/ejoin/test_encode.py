"""What leaves for a device is exactly what the document and real boxes want, or nothing leaves."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest

from bridge.ejoin import (
    dialled,
    inbox_params,
    legacy_params,
    query,
    statistics_params,
    status_params,
    submit_body,
    tasks_params,
    to_json,
)
from bridge.ejoin.encode import Charset, command_params, get_params, set_body, task_ids_body, ussd_params
from bridge.ejoin.facts import SmsTask
from bridge.ejoin.ports import Port
from tests.ejoin.cases import ENVELOPE, SUBMITS, Submit

TASK = SmsTask(1, Port(3), "+4915112345678", "hi")


@pytest.mark.parametrize("case", SUBMITS, ids=lambda case: case.name)
def test_a_submit_is_written_as_devices_read_it(case: Submit) -> None:
    assert submit_body(case.tasks, case.envelope, dial=case.dial, credentials=case.credentials) == case.body


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        (replace(TASK, tid=0), "task id 0 is not between"),
        (replace(TASK, tid=2**31), "task id 2147483648 is not between"),
        (replace(TASK, to="+491,+492"), "one recipient"),
        (replace(TASK, to=""), "one recipient"),
        (replace(TASK, to="+"), "one recipient"),
        (replace(TASK, to="++49"), "one recipient"),
        (replace(TASK, to="+\u0664\u0669"), "one recipient"),
        (replace(TASK, text=""), "needs a text"),
    ],
)
def test_an_impossible_task_is_our_own_mistake(task: SmsTask, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        submit_body([TASK, task], ENVELOPE, dial="plus")


def test_an_empty_submit_is_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="at least one task"):
        submit_body([], ENVELOPE, dial="plus")


def test_a_task_without_a_port_leaves_it_to_the_device() -> None:
    (task,) = submit_body([replace(TASK, port=None)], ENVELOPE, dial="plus")["tasks"]
    assert "from" not in task
    assert "port" not in legacy_params(replace(TASK, port=None), dial="plus")


def test_a_device_that_is_told_nowhere_is_asked_for_no_reports() -> None:
    body = submit_body([TASK], replace(ENVELOPE, callback_url=None), dial="plus")
    assert body.keys() == {"type", "task_num", "tasks"}


def test_an_envelope_that_would_turn_off_json_sms_is_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="above 1"):
        submit_body([TASK], replace(ENVELOPE, sms_count=1), dial="plus")


@pytest.mark.parametrize(
    ("number", "plus", "digits"), [("+4915112345678", "+4915112345678", "4915112345678"), ("8080", "8080", "8080")]
)
def test_a_number_is_dialled_as_the_gateway_wants_it(number: str, plus: str, digits: str) -> None:
    assert (dialled(number, dial="plus"), dialled(number, dial="digits")) == (plus, digits)


def test_a_query_escapes_what_a_password_may_hold() -> None:
    assert query("root", "p#s &/+", url="http://b/x?y") == (
        "username=root&password=p%23s%20%26%2F%2B&url=http%3A%2F%2Fb%2Fx%3Fy"
    )


def test_the_parameters_of_questions() -> None:
    assert tasks_params(Port(3, 2), start=10, count=50) == {
        "version": "1.1",
        "port": 3,
        "pos": 10,
        "num": 50,
        "has_content": 0,
    }
    assert status_params("http://b/cb", 60) == {"url": "http://b/cb", "period": 60}
    assert status_params(None, None) == {}
    assert status_params(None, None, all_sims=True, ports="1") == {"all_sims": 1, "port": "1", "ports": "1"}
    assert statistics_params() == {"version": "1.1", "ports": "all", "type": 3}
    day = {"version": "1.1", "ports": "1-2", "type": 2, "slots": "all"}
    assert statistics_params("1-2", slots="all", span="day") == day
    asked = {"version": "1.1", "sms_id": 7, "sms_num": 50}
    assert inbox_params(start=7, count=50) == asked
    assert inbox_params(start=7, count=50, delete=True) == asked | {"sms_del": 1}


def test_a_period_that_no_device_keeps_is_our_own_mistake() -> None:
    assert status_params("http://b/cb", 0) == {"url": "http://b/cb", "period": 0}
    assert status_params("http://b/cb", 30)["period"] == 30
    with pytest.raises(ValueError, match="every 30 s at the most"):
        status_params("http://b/cb", 29)


def test_the_parameters_of_commands() -> None:
    ports = "1.01-64.01"
    assert command_params("switch", ports) == {"op": "switch", "port": ports, "ports": ports}
    assert command_params("reboot") == {"op": "reboot"}
    assert get_params(["sw_ver", "ttl"]) == {"op": "get", "par_name(0)": "sw_ver", "par_name(1)": "ttl"}
    assert set_body({"sim_imei(21)": "35", "Sms_url": "http://b/cb"}) == b"sim_imei(21)=35&Sms_url=http://b/cb"
    told = {"port": "1.02", "ussd": "*100#", "timeout": 60, "retries": 0}
    assert ussd_params(Port(1, 2), "*100#", timeout_s=60, retries=0) == told


def test_tasks_are_never_changed_without_their_ids() -> None:
    assert task_ids_body([2, 3]) == b'{"tids":[2,3]}'
    with pytest.raises(ValueError, match="no ids means all of them"):
        task_ids_body([])


def test_the_old_interface_gets_one_sms_in_the_query() -> None:
    task = SmsTask(9, Port(3, 1), "+4915112345678", "Grüße & mehr", timeout_s=45)
    told = {"port": "3.01", "recipients": "4915112345678", "sms": "Grüße & mehr", "charset": "UTF-8"}
    assert legacy_params(task, dial="digits") == told
    with pytest.raises(ValueError, match="one recipient"):
        legacy_params(replace(task, to="+49,+48"), dial="plus")


@pytest.mark.parametrize(
    ("charset", "text", "packed"),
    [
        ("utf8", "\U0001f600", False),
        ("base64", "hi", True),
        ("auto", "Grüße, 你好\n", False),
        ("auto", "\U0001f600", True),
        ("auto", "a\rb", True),
        ("auto", "\ud800", True),
    ],
)
def test_a_text_is_packed_where_it_must_be(charset: Charset, text: str, packed: bool) -> None:
    (task,) = submit_body([replace(TASK, text=text)], ENVELOPE, dial="plus", charset=charset)["tasks"]
    assert task["chs"] == ("base64" if packed else "utf8")
    told = base64.b64decode(task["sms"]).decode() if packed else task["sms"]
    assert told == text.replace("\ud800", "?")


def test_a_body_is_utf8_without_escapes_and_always_encodable() -> None:
    body = to_json(submit_body([replace(TASK, text='Grüße "\U0001f600"\n\ud800')], ENVELOPE, dial="plus"))
    assert '"sms":"Grüße \\"\U0001f600\\"\\n?"'.encode() in body
    assert json.loads(body)["tasks"][0]["sms"] == 'Grüße "\U0001f600"\n?'
