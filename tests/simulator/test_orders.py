"""What clients send is read as leniently as the device does, and never fails."""

from __future__ import annotations

import pytest

from bridge.simulator import orders


def test_defaults_are_the_documents():
    order = orders.read_order({})
    assert (order.tid, order.ports, order.recipients, order.text, order.charset) == (None, "", (), None, "utf8")
    assert (order.coding, order.smsc, order.timeout_s) == (0, "", 30.0)
    assert (order.sent_details, order.failed_details, order.delivery_report) == (False, True, False)
    assert (order.report_count, order.report_period_s) == (10, 60.0)


def test_numbers_may_be_texts_and_unknown_keys_are_ignored():
    order = orders.read_order(
        {
            "tid": "12",
            "tmo": "45",
            "sdr": "1",
            "fdr": "0",
            "dr": 1,
            "sr_cnt": "3",
            "sr_prd": "0.5",
            "port": 4,
            "coding": "1",
        }
    )
    assert (order.tid, order.timeout_s, order.coding) == (12, 45.0, 1)
    assert (order.sent_details, order.failed_details, order.delivery_report) == (True, False, True)
    assert (order.report_count, order.report_period_s, order.ports) == (3, 0.5, "")


@pytest.mark.parametrize("nonsense", [None, [], {}, "x", "", float("nan"), float("inf"), True, -5, 10**400, "9" * 5000])
def test_nonsense_never_fails(nonsense):
    names = ("tid", "from", "to", "sms", "chs", "coding", "smsc", "tmo", "sdr", "fdr", "dr", "sr_cnt", "sr_prd")
    order = orders.read_order(dict.fromkeys(names, nonsense))
    assert order.report_count >= 1
    assert 0 <= order.timeout_s <= orders.LONGEST_S
    assert 0 <= order.report_period_s <= orders.LONGEST_S


@pytest.mark.parametrize(
    ("tid", "echoed"), [(1, 1), (2**31 - 1, 2**31 - 1), (2**31, -(2**31)), (2**32 + 3, 3), (1755697537123, -944086941)]
)
def test_task_ids_wrap_to_signed_32_bit(tid, echoed):
    assert orders.wrap(tid) == echoed


@pytest.mark.parametrize("body", [b"", b"[1]", b"\xff", "{“type”:“send-sms”}".encode(), b"[" * 100_000, b"7"])
def test_a_body_that_is_no_object_is_none(body):
    assert orders.read_body(body) is None


def test_a_body_that_is_an_object_is_read():
    assert orders.read_body(b'{"tasks": []}') == {"tasks": []}
