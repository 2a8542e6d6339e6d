"""Numbers in two notations, incoming SMS told twice, delivery reports without an id."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.ejoin.facts import ReceivedSms
from bridge.ejoin.ports import Port
from bridge.models import Sms, State
from bridge.rules import matching
from bridge.rules.matching import Match


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("+4915112345678", "4915112345678", True),
        ("+4915112345678", "004915112345678", True),
        ("+4915112345678", "015112345678", True),
        ("+4915112345678", "15112345678", True),
        ("+4915112345678", "+4915112345679", False),
        ("+4915112345678", "345678", False),
        ("12345", "12345", True),
        ("12345", "112345", False),
        ("", "", False),
        ("BRAND", "OTHER", False),
    ],
)
def test_same_number(one: str, other: str, same: bool) -> None:
    assert matching.same_number(one, other) is same
    assert matching.same_number(other, one) is same


@dataclass(frozen=True)
class Known:
    key: str
    told: int
    seen: dict[str, int]
    device_at: float | None


SMS = ReceivedSms(Port(3, 1), 1000.0, "+4915112345678", "", "hello", scts="14072322113832")


def key(sms: ReceivedSms = SMS, ordinal: int = 0) -> str:
    return matching.received_key("8949", sms, ordinal)


def test_the_key_holds_card_sender_stamp_text_and_place_in_the_body() -> None:
    others = [
        matching.received_key("other", SMS, 0),
        key(replace(SMS, sender="+49")),
        key(replace(SMS, scts="")),
        key(replace(SMS, scts="", at=None)),
        key(replace(SMS, text="hello!")),
        key(ordinal=1),
    ]
    assert len({key(), *others}) == 7
    assert key(replace(SMS, at=1001.0)) == key(), "the network's stamp is the better one"


@pytest.mark.parametrize(
    ("known", "repeat"),
    [
        pytest.param([], None, id="never seen"),
        pytest.param([Known("another", 1, {"push": 1}, 500.0)], None, id="same words at another time"),
        pytest.param([Known(key(), 1, {"push": 1}, 1000.0)], None, id="same channel once more: another SMS"),
        pytest.param([Known(key(), 1, {"inbox/a": 1}, None)], 0, id="same key by another channel"),
        pytest.param([Known("another", 1, {"inbox/a": 1}, 998.5)], 0, id="another channel within 2 s"),
        pytest.param([Known("another", 1, {"inbox/a": 1}, 990.0)], None, id="another channel, another time"),
        pytest.param([Known("another", 1, {"push": 1}, 999.0)], None, id="same channel within 2 s: another SMS"),
        pytest.param([Known(key(), 2, {"inbox/a": 2, "push": 1}, 1000.0)], 0, id="the second of two that were told"),
        pytest.param([Known(key(), 2, {"push": 2}, 1000.0)], None, id="the third of two"),
        pytest.param(
            [Known("another", 1, {"inbox/a": 1}, 999.0), Known(key(), 1, {"inbox/a": 1}, 1000.0)],
            1,
            id="the very key before one of nearly the same moment",
        ),
    ],
)
def test_each_channel_may_bring_every_told_sms_once(known: list[Known], repeat: int | None) -> None:
    found = matching.known_as(key(), 1000.0, "push", known)
    assert found is (None if repeat is None else known[repeat])


@given(order=st.permutations([(n, channel) for n in range(4) for channel in ("push", "inbox/a", "inbox/b")]))
def test_alike_sms_are_told_as_often_as_they_came_whichever_way_they_come_first(order: list[tuple[int, str]]) -> None:
    """Four SMS with one text, two of them in the same second, each brought three times in any order."""
    stamps = [1000.0, 1000.0, 1001.0, 1500.0]
    told: list[Known] = []
    for n, channel in order:
        sms = replace(SMS, scts="", at=stamps[n])
        one = matching.known_as(key(sms), sms.at, channel, told)
        if one is None:
            one = next((k for k in told if k.key == key(sms)), None)
            if one is None:
                told.append(one := Known(key(sms), 0, {}, sms.at))
            told[told.index(one)] = one = replace(one, told=one.told + 1)
        seen = {**one.seen, channel: one.seen.get(channel, 0) + 1}
        told[told.index(one)] = replace(one, seen=seen)
    assert sum(one.told for one in told) == 4


def test_the_devices_clock_says_when_it_came_else_the_networks() -> None:
    assert matching.moment_of(replace(SMS, scts_at=5.0)) == 1000.0
    assert matching.moment_of(replace(SMS, at=None, scts_at=5.0)) == 5.0


def sent(sms_id: str, to: str = "+4915112345678", *, asked: bool = True, **more: Any) -> Sms:
    request = '{"dr":true}' if asked else "{}"
    row = Sms("shop", sms_id, b"f", State.SENT, 0.0, request=request, recipient=to)
    return replace(row, **more)


class TestDeliveryReport:
    def test_it_is_about_the_one_sms_that_fits(self) -> None:
        one = sent("a")
        others = [sent("b", "+4935112345678"), sent("c", asked=False)]
        assert matching.match_report("015112345678", None, [one, *others]) == Match(one, (one,))

    def test_one_that_is_on_its_way_fits_too(self) -> None:
        one = sent("a", state=State.SUBMITTED)
        assert matching.match_report("+4915112345678", None, [one]).sms is one

    def test_several_that_fit_are_candidates_and_none_is_guessed(self) -> None:
        both = (sent("a"), sent("b"))
        assert matching.match_report("+4915112345678", 5.0, both) == Match(None, both)

    def test_none_that_fits_has_no_candidates(self) -> None:
        assert matching.match_report("+4915112345678", None, []) == Match(None)

    @pytest.mark.parametrize(("at", "earlier"), [(1_000.0, True), (997.0, True), (1_600.0, False), (None, False)])
    def test_it_is_about_nothing_that_the_device_sent_after_it(self, at: float | None, earlier: bool) -> None:
        first, second = (
            sent(name, detail={"sent_at": moment.isoformat()})
            for name, moment in (
                ("a", datetime.fromtimestamp(990, UTC)),
                ("b", datetime.fromtimestamp(1_500, UTC)),
            )
        )
        match = matching.match_report("+4915112345678", at, [first, second])
        assert match.sms is (first if earlier else None)

    @pytest.mark.parametrize("state", [State.SUBMITTING, State.IN_DOUBT])
    def test_it_waits_where_one_of_those_it_may_be_about_is_in_doubt(self, state: State) -> None:
        both = (sent("a"), sent("b", state=state))
        assert matching.match_report("+4915112345678", None, both) == Match(None, both, wait=True)
