"""The contract's data by itself: how keys and ids are written, what an event says, what a repeat of it says."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import RequestInvalid
from bridge.models import (
    CHILD_ID_PATTERN,
    EVENT_TYPES,
    FINAL,
    ID_PATTERN,
    MAX_BODY_BYTES,
    OPEN,
    SMS_EVENTS,
    EventData,
    GatewayDown,
    Key,
    Publication,
    SendRequest,
    Sms,
    SmsReceived,
    State,
    moment,
    publication_of,
    read_send_request,
    salvage_id,
    source_of,
    tell,
    tell_again,
)

AT = 1_700_000_000.0
ASKED = {"body": '{"text": "hi"}', "rk": "send.otp", "cid": "c7", "reply_to": "mine", "tp": "00-ab", "meta": {"k": "v"}}


def sms(**more: Any) -> Sms:
    """An SMS that a device took."""
    plain = Sms(
        app_id="shop", id="a", fingerprint=b"f" * 16, state=State.SUBMITTED, state_at=AT, request=json.dumps(ASKED),
        route="otp", recipient="+4915112345678", segments=2, encoding="ucs2", gateway="gw1", port=3, slot=1, sim="8949",
        tid=7,
    )  # fmt: skip
    return replace(plain, **more)


def event_of(publication: Publication) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(publication.body)
    return told


def words_of(publication: Publication) -> list[str]:
    return publication.routing_key.split(".")


# --- keys -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "written"),
    [
        (Key("shop", "a"), "shop:a"),
        (Key("", "a"), ":a"),
        (Key("shop", "a:b"), "shop:a:b"),
        (Key("sh:op", "a"), "sh%3Aop:a"),
        (Key("50%", "a"), "50%25:a"),
        (Key("50%3A", "a/0/3.01"), "50%253A:a/0/3.01"),
    ],
)
def test_a_key_is_written_with_what_would_be_ambiguous_escaped(key, written):
    assert str(key) == written


@given(st.text(), st.from_regex(ID_PATTERN, fullmatch=True))
def test_a_written_key_is_nobody_elses(app_id, sms_id):
    app, _, found = str(Key(app_id, sms_id)).partition(":")
    assert (app.replace("%3A", ":").replace("%25", "%"), found) == (app_id, sms_id)


def test_a_childs_id_is_no_id_that_a_producer_may_write():
    assert CHILD_ID_PATTERN.fullmatch("a/0/3.01")
    assert not ID_PATTERN.fullmatch("a/0")
    longest = "x" * 128 + "/999/1024.sp128.016"
    assert CHILD_ID_PATTERN.fullmatch(longest)


# --- reading a request ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "reason", "field"),
    [
        ({"to": 5}, "invalid", "to"),
        ({"to": ["+4915112345678", 5]}, "invalid", "to"),
        ({"ports": True}, "invalid", "ports"),
        ({"metadata": {"street": 5}}, "invalid", "metadata"),
        ({"validity_s": 10**400}, "invalid", "validity_s"),
        ({"str": 5}, "invalid", "str"),
        (b"[]", "invalid", None),
        (b"{", "unreadable", None),
        (b'{"text": "\\ud800"}', "unreadable", None),
        (b" " * (MAX_BODY_BYTES + 1), "too_large", None),
    ],
)
def test_a_request_is_refused_for_a_member_by_its_name(body, reason, field):
    raw = body if isinstance(body, bytes) else json.dumps({"to": "+4915112345678", "text": "hi"} | body).encode()
    with pytest.raises(RequestInvalid) as caught:
        read_send_request(raw)
    assert (caught.value.reason, caught.value.field) == (reason, field)


def test_a_body_of_64_kib_is_read():
    body = b'{"to": "+4915112345678", "text": "hi"}'
    assert read_send_request(body.ljust(MAX_BODY_BYTES)).text == "hi"


def test_the_fingerprint_is_of_what_the_sms_is_and_of_nothing_else():
    plain = {"to": "+4915112345678", "text": "hi"}
    one = SendRequest(**plain).fingerprint("send.otp")
    assert len(one) == 16
    assert SendRequest(**plain, id="b", validity_s=5, metadata={"k": "v"}, flash=True).fingerprint("send.otp") == one
    others = [
        SendRequest(**plain).fingerprint("send.bulk"),
        SendRequest(**plain | {"text": "ho"}).fingerprint("send.otp"),
        SendRequest(**plain | {"to": "+4915112345679"}).fingerprint("send.otp"),
        SendRequest(**plain, sim="8949").fingerprint("send.otp"),
        SendRequest(**plain, ports=1).fingerprint("send.otp"),
        SendRequest(**plain, ports="1").fingerprint("send.otp"),
    ]
    assert len({one, *others}) == 7


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"id": "a", "prio": 1}', "a"),
        (b'{"id": "a", "text": 5, "to": []}', "a"),
        (b'{"id": "a", "text": "' + b"x" * (2 * MAX_BODY_BYTES) + b'"}', "a"),
        (b'{"id": "a", "text": "' + b"x" * (16 * MAX_BODY_BYTES) + b'"}', None),
        (b'{"id": "' + b"x" * 128 + b'"}', "x" * 128),
        (b'{"id": "' + b"x" * 129 + b'"}', None),
        (b'{"id": "a/0"}', None),
        (b'{"id": ""}', None),
        (b'{"id": 7}', None),
        (b'{"id": "a"', None),
        (b'["id"]', None),
        (b'{"id": "a", "x": "\xff"}', None),
        (b"[" * 100_000, None),
        (b'{"id": "a", "n": ' + b"9" * 10_000 + b"}", None),
        (b"", None),
    ],
)
def test_an_id_is_salvaged_where_one_can_be_read(body, found):
    assert salvage_id(body) == found


# --- publications ---------------------------------------------------------------------------------------------------

TEXTS = st.none() | st.text()


@given(
    st.builds(
        Publication,
        exchange=st.sampled_from(["events", "requests", "later.5", "dead"]),
        content_type=st.sampled_from(["application/json", "application/cloudevents+json"]),
        message_id=TEXTS,
        app_id=TEXTS,
        correlation_id=TEXTS,
        timestamp=st.none() | st.floats(0, 4e9),
        reply_to=TEXTS,
        copy_to=TEXTS,
        headers=st.dictionaries(st.text(), st.text() | st.integers() | st.floats(0, 4e9), max_size=4),
    )
)
def test_a_publication_comes_out_of_the_outbox_as_it_went_in(publication):
    properties = publication.properties()
    again = Publication.load(publication.exchange, publication.routing_key, properties, publication.body)
    assert again == publication


# --- events ---------------------------------------------------------------------------------------------------------


def of_kind(kind: str, **place: Any) -> Publication:
    """An event of this type; only what names its place and its id is of interest."""
    return publication_of(EVENT_TYPES[kind].model_construct(), event_id="e", at=AT, **place)


PLACES = [
    pytest.param({}, ["-", "-", "-"], "/bridge", id="nowhere"),
    pytest.param({"route": "otp"}, ["otp", "-", "-"], "/routes/otp", id="a route"),
    pytest.param({"gateway": "gw1"}, ["-", "gw1", "-"], "/gateways/gw1", id="a gateway"),
    pytest.param({"gateway": "gw1", "port": 3}, ["-", "gw1", "3"], "/gateways/gw1/ports/3", id="a port"),
    pytest.param(
        {"route": "otp", "gateway": "gw1", "port": 3}, ["otp", "gw1", "3"], "/gateways/gw1/ports/3", id="all of them"
    ),
    pytest.param({"route": "no such.route"}, ["-", "-", "-"], "/bridge", id="a route that is no name"),
    pytest.param({"route": "x" * 250}, ["-", "-", "-"], "/bridge", id="a route that no key can hold"),
]


@pytest.mark.parametrize("kind", EVENT_TYPES)
@pytest.mark.parametrize(("place", "words", "source"), PLACES)
def test_every_routing_key_has_five_words(kind, place, words, source):
    publication = of_kind(kind, **place)
    assert words_of(publication) == [*kind.split("."), *words]
    assert event_of(publication)["source"] == source


def test_every_type_is_named_after_what_it_is_about():
    assert {kind: model.kind for kind, model in EVENT_TYPES.items()} == {kind: kind for kind in EVENT_TYPES}
    assert all(len(kind.split(".")) == 2 for kind in EVENT_TYPES)
    assert set(SMS_EVENTS) < set(EVENT_TYPES)


def test_an_event_is_a_cloud_event_with_an_id_that_the_message_has_too():
    publication = publication_of(
        GatewayDown(gateway="gw1", reason="silent"), event_id="gw1/down", at=AT + 0.25, gateway="gw1"
    )
    assert (publication.exchange, publication.content_type) == ("events", "application/cloudevents+json")
    assert (publication.message_id, publication.timestamp) == ("gw1/down", AT + 0.25)
    assert event_of(publication) == {
        "specversion": "1.0",
        "id": "gw1/down",
        "source": "/gateways/gw1",
        "type": "gateway.down.v1",
        "time": "2023-11-14T22:13:20.250000Z",
        "datacontenttype": "application/json",
        "data": {"gateway": "gw1", "reason": "silent"},
    }


def test_an_event_without_a_subject_has_none():
    came = SmsReceived(gateway="gw1", sender="", text="hi", via="push")
    assert "subject" not in event_of(publication_of(came, event_id="e", at=AT, subject=came.sender))


@pytest.mark.parametrize("sequence", [0, 9, 999_999_999])
def test_sequences_sort_as_text(sequence):
    told = event_of(of_kind("sms.sent", sequence=sequence))["sequence"]
    following = event_of(of_kind("sms.sent", sequence=sequence + 1))["sequence"]
    assert int(told) == sequence
    assert told < following


def test_no_event_holds_what_its_model_does_not_know():
    with pytest.raises(ValueError, match="price"):
        GatewayDown(gateway="gw1", reason="silent", price=1)  # type: ignore[call-arg]


def test_a_source_names_the_nearest_place():
    assert source_of("gw1", None, "otp") == "/gateways/gw1"
    assert source_of(None, 3, "otp") == "/routes/otp"


def test_a_moment_is_in_utc():
    assert moment(AT) == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert moment(None) is None


# --- the events of an SMS -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SMS_EVENTS)
def test_the_id_of_an_sms_event_is_its_key_attempt_and_type(kind):
    told, publication = tell(sms(app_id="sh:op", attempt=2, sequence=4), kind, AT)
    assert publication.message_id == told.event_id == f"sh%3Aop:a/2/{kind}"
    assert (told.sequence, told.event_type, told.event_at) == (5, kind, AT)
    assert event_of(publication)["sequence"] == "0000000005"


def test_an_sms_event_says_what_was_asked_and_where_it_went():
    _, publication = tell(sms(parent="p", attempt=2), "sms.failed", AT, reason="not_taken", code=8, certain=True)
    assert (publication.correlation_id, publication.copy_to) == ("c7", "mine")
    assert words_of(publication) == ["sms", "failed", "otp", "gw1", "3"]
    event = event_of(publication)
    assert (event["subject"], event["traceparent"]) == ("a", "00-ab")
    assert event["data"] == {
        "app_id": "shop", "route": "otp", "to": "+4915112345678", "segments": 2, "encoding": "ucs2", "parent": "p",
        "metadata": {"k": "v"}, "attempt": 2, "gateway": "gw1", "port": 3, "slot": 1, "sim": "8949", "tid": 7,
        "reason": "not_taken", "code": 8, "certain": True,
    }  # fmt: skip


def test_nothing_is_told_again_where_nothing_was_told():
    assert tell_again(sms()) is None


@pytest.mark.parametrize("kind", SMS_EVENTS)
def test_what_is_told_again_is_the_same_message(kind):
    detail = {"sms.sent": {"sent_at": AT - 2}, "sms.rejected": {"reason": "invalid", "field": "to"}}.get(kind, {})
    told, publication = tell(sms(), kind, AT, **detail)
    assert tell_again(told) == publication
    assert tell_again(told.without_text()) == publication


def test_a_row_whose_details_are_gone_tells_its_event_under_the_same_id_and_says_so():
    told, publication = tell(sms(), "sms.sent", AT, sent_at=AT - 2)
    gone = dict.fromkeys(("request", "gateway", "port", "slot", "sim", "tid", "code", "reason"))
    slim = replace(told, **gone, recipient="", detail={}, tried=())
    again = tell_again(slim)
    assert again is not None
    first, repeat = event_of(publication), event_of(again)
    same = ("id", "type", "subject", "time", "sequence")
    assert [repeat[name] for name in same] == [first[name] for name in same]
    assert repeat["data"] == {
        "app_id": "shop",
        "route": "otp",
        "segments": 2,
        "encoding": "ucs2",
        "attempt": 1,
        "slim": True,
    }
    assert (again.correlation_id, again.copy_to, words_of(again)) == (None, None, ["sms", "sent", "otp", "-", "-"])


def test_a_final_row_keeps_no_text_and_all_that_its_events_need():
    blank = sms().without_text()
    assert blank.asked == {name: value for name, value in ASKED.items() if name != "body"}
    assert blank.without_text() is blank


def test_what_no_device_has_keeps_all_but_its_place():
    held = replace(sms(), gateway="gw1", port=1, slot=2, sim="s", tid=7, begun_at=1.0, begun_n=3, deadline_at=9.0)
    free = held.without_place()
    assert {name for name in Sms.__slots__ if getattr(free, name) != getattr(held, name)} == {
        "gateway", "port", "slot", "sim", "tid", "begun_at", "begun_n", "deadline_at",
    }  # fmt: skip


# --- states ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", State)
def test_a_state_is_final_or_open_or_handed_back(state):
    assert [state.final, state.open, state is State.HANDED_BACK].count(True) == 1
    assert (state.final, state.open) == (state in FINAL, state in OPEN)


def test_a_final_state_is_told_by_the_event_of_its_name():
    assert {f"sms.{state}" for state in FINAL} < set(SMS_EVENTS)


def test_every_event_is_frozen():
    assert all(issubclass(model, EventData) and model.model_config["frozen"] for model in EVENT_TYPES.values())
