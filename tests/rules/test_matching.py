"""Numbers in two notations, incoming SMS told twice, delivery reports without an id."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from bridge.ejoin.facts import ReceivedSms
from bridge.ejoin.ports import Port
from bridge.models import Sms, State
from bridge.rules import matching


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
    via: str
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
    ("known", "verdict"),
    [
        pytest.param([], "new", id="never seen"),
        pytest.param([Known("another", "push", 500.0)], "new", id="same words at another time"),
        pytest.param([Known(key(), "push", 1000.0)], "possible_repeat", id="same key in another body, same channel"),
        pytest.param([Known(key(), "inbox", None)], "repeat", id="same key by another channel"),
        pytest.param([Known("another", "inbox", 998.5)], "repeat", id="another channel within 2 s"),
        pytest.param([Known("another", "inbox", 990.0)], "new", id="another channel, another time"),
    ],
)
def test_judge_received(known: list[Known], verdict: str) -> None:
    assert matching.judge_received(key(), SMS, known) == verdict


def sent(sms_id: str, to: str = "+4915112345678", *, asked: bool = True) -> Sms:
    request = '{"dr":true}' if asked else "{}"
    return Sms("shop", sms_id, b"f", State.SENT, 0.0, request=request, recipient=to)


def test_a_delivery_report_matches_the_one_sms_that_fits() -> None:
    one = sent("a")
    assert matching.match_report("015112345678", [one, sent("b", "+4935112345678"), sent("c", asked=False)]) == (
        one,
        [one],
    )


def test_several_that_fit_are_candidates_and_none_is_guessed() -> None:
    both = [sent("a"), sent("b")]
    assert matching.match_report("+4915112345678", both) == (None, both)


def test_none_that_fits_has_no_candidates() -> None:
    assert matching.match_report("+4915112345678", []) == (None, [])
