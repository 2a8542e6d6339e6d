"""A bad key's story: everything about it, in order of time, and what stood beside it."""

from __future__ import annotations

from dev.chaos.judge import Asked, Came, Happened, History, Told
from dev.chaos.plan import Arrival, Ask, Sms
from dev.chaos.story import story

TO = "+4915100000001"


def row(kind: str, at: float, text: str, tid: int) -> dict[str, object]:
    place = {"gateway": "gw1", "port": 1, "iccid": "sim1", "tid": tid, "to": TO, "segments": 1}
    return {"kind": kind, "at": at, "text": text, "result": "0 OK", **place}


HISTORY = History(
    [Asked(Ask(0.0, "single", "s1", "send.otp", {"id": "s1"}, (Sms("s1", "s1", TO),)), 100.0, 100.1)],
    came=[Came(Arrival(0.0, "gw1", 1, "+49170", "[in1] Hello."), 90.0)],
    told=[Told(105.0, {"id": "x", "type": "sms.unknown.v1", "subject": "s1", "data": {"reason": "report_lost"}})],
    record=[
        row("handed_over", 101.0, "[s1] Hello.", 7),
        row("handed_over", 101.5, "[s2] Hello.", 8),
        {
            "kind": "callback",
            "at": 104.0,
            "gateway": "gw1",
            "type": "status-report",
            "tids": [7, 8],
            "delivers": [],
            "texts": [],
            "http_status": None,
            "result": "unanswered",
        },
        row("handed_over", 300.0, "[s3] Hello.", 9),
    ],
    faults=[Happened("callback_hole", {"gateway": "gw1"}, 103.0, 106.0), Happened("bridge_kill", {}, 50.0, 51.0)],
)
LOG = [
    {"timestamp": "1970-01-01T00:01:42Z", "request_id": "chaos:s1", "event": "sms.submitted"},
    {"timestamp": "1970-01-01T00:01:42Z", "request_id": "chaos:s9", "event": "sms.submitted"},
]


def test_a_story_has_all_sides_in_order_of_time():
    first, *lines = story("s1", HISTORY, LOG)
    assert first.startswith("s1, from ")
    assert [line.split()[:3] for line in lines] == [
        ["0.000", "published", "single"],
        ["0.100", "confirmed"],
        ["1.000", "device", "handed_over"],
        ["1.500", "beside", "handed_over"],
        ["2.000", "log", '{"event":'],
        ["3.000", "FAULT", "callback_hole"],
        ["4.000", "device", "callback"],
        ["5.000", "event", "sms.unknown"],
        ["6.000", "FAULT", "ENDS"],
    ]


def test_what_came_in_has_a_story_too():
    assert "came in     on gw1/1" in story("in1", HISTORY, [])[1]


def test_of_a_key_that_nobody_knows_nothing_is_told():
    assert story("s9", HISTORY, []) == ["s9: nothing is known"]
