"""From a delivery to what is to be sent: the contract's rules, and the sentence for each that is broken."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import RequestInvalid
from bridge.models import Delivery, Key, Request, read_send_request
from bridge.rules import intake
from bridge.rules.intake import Expansion, IntakeRules

NOW = 1_700_000_000.0
RULES = IntakeRules(max_age_s=86_400, max_segments=10, allow_short_codes=False, ports=frozenset(range(1, 9)))
DAY = 86_400.0


def delivery(body: Any = None, key: str = "send.otp", **more: Any) -> Delivery:
    told = {"id": "a", "to": "+4915112345678", "text": "hi"} | body if isinstance(body, dict) else body
    raw = (
        told
        if isinstance(told, bytes)
        else json.dumps(told or {"id": "a", "to": "+4915112345678", "text": "hi"}).encode()
    )
    return Delivery(raw, key, ack=lambda: None, give_back=lambda: None, **({"app_id": "shop"} | more))


def read(body: Any = None, key: str = "send.otp", **more: Any) -> Request:
    taken = intake.read(delivery(body, key, **more), RULES, NOW)
    assert isinstance(taken, Request)
    return taken


def expand(body: Any, key: str = "gateway.gw1", **more: Any) -> Expansion:
    taken = intake.read(delivery(body, key, **more), RULES, NOW)
    assert isinstance(taken, Expansion)
    return taken


def test_a_plain_request_gets_its_key_age_encoding_and_place() -> None:
    request = read(correlation_id="c", reply_to="r", timestamp=NOW - 5, headers={"traceparent": "00-ab"})
    assert request.key == Key("shop", "a")
    assert (request.route, request.gateway) == ("otp", None)
    assert (request.segments, request.encoding, request.attempt, request.tried) == (1, "gsm7", 1, ())
    assert request.expires_at == NOW - 5 + DAY
    assert (request.correlation_id, request.reply_to, request.traceparent) == ("c", "r", "00-ab")


def test_a_handed_back_copy_knows_its_attempt_and_the_sims_that_failed_it() -> None:
    headers = {"x-attempt": 3, "x-tried": '["1", "2"]', "x-expires-at": NOW + 7, "x-parent": "p"}
    request = read(headers=headers)
    assert (request.attempt, request.tried, request.expires_at, request.parent) == (3, ("1", "2"), NOW + 7, "p")


@pytest.mark.parametrize("tried", ["no json", '{"a": 1}', 7, "[1, 2]", "[" * 20_000])
def test_headers_that_make_no_sense_are_no_headers(tried: Any) -> None:
    assert read(headers={"x-tried": tried, "x-attempt": "three"}).tried == ()


def test_the_message_id_serves_where_the_body_has_no_id() -> None:
    assert read(b'{"to": "+4915112345678", "text": "hi"}', message_id="m").key.id == "m"


def test_a_pinned_request_may_name_ports_and_their_slots() -> None:
    assert read({"ports": "1-3,7.02"}, "gateway.gw1").gateway == "gw1"
    assert read({"ports": 3.01}, "gateway.gw1").body.ports == 3.01


@pytest.mark.parametrize(
    ("body", "reason", "field", "words"),
    [
        pytest.param(b"{", "unreadable", None, "not JSON", id="half a JSON"),
        pytest.param(b"\xff\xfe{}", "unreadable", None, "not JSON", id="not UTF-8"),
        pytest.param(b'"text"', "invalid", None, "the body", id="no object"),
        pytest.param(b'{"to": "' + b"1" * 70_000 + b'"}', "too_large", None, "65536", id="too large"),
        pytest.param({"prio": 1}, "invalid", "prio", "unknown field 'prio'", id="unknown field"),
        pytest.param({"text": ""}, "invalid", "text", "text", id="no text"),
        pytest.param({"text": 5}, "invalid", "text", "string", id="wrong type"),
        pytest.param({"to": ""}, "invalid", "to", "to", id="empty to"),
        pytest.param({"to": []}, "invalid", "to", "1 to 1000", id="nobody"),
        pytest.param(
            {"to": [f"+49151{n:08d}" for n in range(1001)]}, "invalid", "to", "not 1001", id="1,001 recipients"
        ),
        pytest.param({"to": ["+4915112345678"] * 2}, "invalid", "to", "once", id="the same twice"),
        pytest.param({"to": ["+4915112345678", "0151"]}, "invalid", "to", "0151", id="one bad number"),
        pytest.param({"to": 49151}, "invalid", "to", "to", id="a number that is a number"),
        pytest.param({"text": "x" * 1540}, "invalid", "text", "11 segments", id="too many segments"),
        pytest.param({"text": "日", "encoding": "gsm7"}, "invalid", "encoding", "", id="not in GSM-7"),
        pytest.param({"id": "a/b"}, "invalid", "id", "a/b", id="a child's id without a parent"),
        pytest.param({"id": "x" * 129}, "invalid", "id", "1 to 128", id="a long id"),
        pytest.param({"ports": "1"}, "invalid", "ports", "gateway.<gateway>", id="ports on a route"),
        pytest.param({"spread": "each"}, "invalid", "spread", "gateway.<gateway>", id="spread on a route"),
        pytest.param({"metadata": {str(n): "" for n in range(17)}}, "invalid", "metadata", "16", id="17 metadata"),
        pytest.param({"not_before": "2024-06-01T00:00:00Z"}, "invalid", "not_before", "30 days", id="far ahead"),
        pytest.param({"expires_at": "2024-06-01T00:00:00"}, "invalid", "expires_at", "timezone", id="no zone"),
    ],
)
def test_what_breaks_the_contract_is_refused_by_name(body: Any, reason: str, field: str | None, words: str) -> None:
    with pytest.raises(RequestInvalid) as caught:
        read(body)
    assert (caught.value.reason, caught.value.field) == (reason, field)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"ports": "8-1"}, "smaller number first"),
        ({"ports": 3.1}, "as text"),
        ({"ports": "9"}, "no port 9"),
        ({"spread": "each"}, "needs ports"),
    ],
)
def test_ports_that_make_no_sense(body: Any, words: str) -> None:
    with pytest.raises(RequestInvalid, match=words) as caught:
        intake.read(delivery(body, "gateway.gw1"), RULES, NOW)
    assert caught.value.field == "ports"


def test_a_spread_over_many_ports_is_bounded_like_a_list() -> None:
    numbers = [f"+49151{n:08d}" for n in range(126)]
    with pytest.raises(RequestInvalid, match="1008 SMS") as caught:
        intake.read(delivery({"to": numbers, "ports": "1-8", "spread": "each"}, "gateway.gw1"), RULES, NOW)
    assert caught.value.field == "to"


ONLY = replace(RULES, only_to=("+4915*", "+441234567890"))


@pytest.mark.parametrize("to", ["+4915112345678", "+441234567890", ["+4915112345678", "+441234567890"]])
def test_whom_only_to_names_may_be_texted(to: str | list[str]) -> None:
    assert intake.read(delivery({"to": to}), ONLY, NOW)


@pytest.mark.parametrize("to", ["+4916112345678", "+4412345678901", ["+4915112345678", "+4916112345678"]])
def test_nobody_else_is_not_even_in_a_list(to: str | list[str]) -> None:
    with pytest.raises(RequestInvalid, match="only_to") as caught:
        intake.read(delivery({"to": to}), ONLY, NOW)
    assert (caught.value.reason, caught.value.field) == ("not_allowed", "to")


def test_ports_of_a_gateway_that_is_not_configured_are_not_judged() -> None:
    nowhere = IntakeRules(max_age_s=1, max_segments=1, allow_short_codes=False)
    assert isinstance(intake.read(delivery({"ports": "99"}, "gateway.gone"), nowhere, NOW), Request)


@pytest.mark.parametrize("end", [float("nan"), float("inf"), -1.0, NOW + 61 * DAY, "soon"])
def test_an_end_that_makes_no_sense_is_no_end(end: Any) -> None:
    assert read(headers={"x-expires-at": end}).expires_at == NOW + DAY


def test_properties_that_cannot_be_read() -> None:
    with pytest.raises(RequestInvalid, match="year 10000") as caught:
        read(unreadable="year 10000")
    assert caught.value.reason == "unreadable"


def test_no_id_at_all() -> None:
    with pytest.raises(RequestInvalid) as caught:
        read(b'{"to": "+4915112345678", "text": "hi"}')
    assert (caught.value.reason, caught.value.field) == ("missing_id", "id")


def test_a_list_becomes_one_request_per_recipient() -> None:
    body = {"to": ["+4915112345678", "+4915112345679"], "metadata": {"k": "v"}}
    taken = expand(body, "send.otp", timestamp=NOW, correlation_id="c", headers={"traceparent": "t"})
    first, second = taken.children
    assert (first.message_id, second.message_id) == ("a/0", "a/1")
    assert first.headers == {"x-parent": "a", "x-expires-at": NOW + DAY, "traceparent": "t"}
    assert (first.app_id, first.timestamp, first.correlation_id, first.routing_key) == ("shop", NOW, "c", "send.otp")
    child = read(second.body, headers=dict(second.headers))
    assert (child.key.id, child.to, child.parent, child.body.metadata) == ("a/1", "+4915112345679", "a", {"k": "v"})


def test_a_port_may_be_left_to_the_device() -> None:
    assert read({"ports": "device"}, "gateway.gw1").body.ports == "device"
    for wrong, field in (({"sim": "8949"}, "sim"), ({"spread": "each"}, "ports")):
        with pytest.raises(RequestInvalid) as caught:
            read({"ports": "device"} | wrong, "gateway.gw1")
        assert (caught.value.reason, caught.value.field) == ("invalid", field)
    with pytest.raises(RequestInvalid, match="only"):
        read({"ports": "device"}, "send.otp")


def test_each_port_sends_one() -> None:
    taken = expand({"ports": "1-2,3.02", "spread": "each"})
    assert [child.message_id for child in taken.children] == ["a/0/1", "a/0/2", "a/0/3.02"]
    bodies = [read_send_request(child.body) for child in taken.children]
    assert [(body.ports, body.spread) for body in bodies] == [("1", "any"), ("2", "any"), ("3.02", "any")]


class TestAge:
    def age(self, body: dict[str, Any], **more: Any) -> float:
        return read(body, **more).expires_at - NOW

    def test_the_earliest_moment_counts(self) -> None:
        soon = datetime.fromtimestamp(NOW + 50, UTC).isoformat()
        assert self.age({}) == DAY
        assert self.age({"validity_s": 60}) == 60
        assert self.age({"validity_s": 60, "expires_at": soon}) == 50
        assert self.age({"validity_s": 60, "expires_at": soon}, expiration_s=40.0) == 40

    def test_it_counts_from_the_timestamp_and_a_future_one_is_now(self) -> None:
        assert self.age({"validity_s": 60}, timestamp=NOW - 10) == 50
        assert self.age({"validity_s": 60}, timestamp=NOW + 1_000) == 60

    def test_it_counts_from_not_before_where_that_is_later(self) -> None:
        later = datetime.fromtimestamp(NOW + 500, UTC).isoformat()
        assert self.age({"validity_s": 60, "not_before": later}) == 560

    @given(st.floats(min_value=0, max_value=2 * DAY), st.integers(min_value=1, max_value=int(DAY)))
    def test_once_fixed_it_stays_however_often_it_is_read(self, waited_s: float, validity_s: int) -> None:
        fixed = intake.age(delivery({"validity_s": validity_s}), read({"validity_s": validity_s}).body, DAY, NOW)
        again = delivery({"validity_s": validity_s}, headers={"x-expires-at": fixed})
        assert intake.age(again, read({}).body, DAY, NOW + waited_s) == fixed


def test_the_fingerprint_tells_another_sms_from_a_repeat() -> None:
    same = read({"metadata": {"k": "v"}, "validity_s": 5}).fingerprint
    assert same == read().fingerprint
    others = [read({"text": "ho"}), read({"to": "+4915112345670"}), read({"sim": "8949"}), read(key="send.bulk")]
    assert len({same, *(one.fingerprint for one in others)}) == 5


@pytest.mark.parametrize(
    ("given_delivery", "key"),
    [
        (delivery(b"{", message_id="m"), Key("shop", "m")),
        (delivery(b'{"id": "a", "bad": 1}'), Key("shop", "a")),
        (delivery(b'{"id": 7}'), None),
        (delivery(b"[]"), None),
        (delivery(b"{", message_id="a/b"), None),
        (delivery(b"{", message_id="a/0", headers={"x-parent": "a"}), Key("shop", "a/0")),
    ],
)
def test_the_key_of_what_cannot_be_read(given_delivery: Delivery, key: Key | None) -> None:
    assert intake.key_of(given_delivery) == key


@pytest.mark.parametrize(
    ("routing_key", "place"),
    [("send.otp", ("otp", None)), ("gateway.gw1", (None, "gw1")), ("send", (None, None)), ("x.y", (None, None))],
)
def test_the_place_that_a_routing_key_names(routing_key: str, place: tuple[str | None, str | None]) -> None:
    assert intake.place_of(routing_key) == place
