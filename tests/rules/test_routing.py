"""Which ports a request may use, and which numbers are ones."""

from __future__ import annotations

import pytest

from bridge.errors import RequestInvalid
from bridge.rules.routing import Route, Routing, Wish, normalise
from tests.rules.room import fleet_of, request_of, row


@pytest.fixture
def fleet():
    return fleet_of(gw1=3, gw2=2)


@pytest.fixture
def routing(fleet):
    return Routing(fleet, [Route("main", (("gw2", 1), ("gw1", 2), ("gw1", 2))), Route("none", ())])


CANDIDATES = {
    "a route has its ports in its order, each once": ({}, ["gw2/1", "gw1/2"]),
    "a gateway has all of its ports": ({"lane": "gateway.gw1"}, ["gw1/1", "gw1/2", "gw1/3"]),
    "all of them where the device chooses": (
        {"lane": "gateway.gw1", "ports": "device"},
        ["gw1/1", "gw1/2", "gw1/3"],
    ),
    "a range of a gateway's ports": ({"lane": "gateway.gw1", "ports": "2-3"}, ["gw1/2", "gw1/3"]),
    "one port as a number": ({"lane": "gateway.gw1", "ports": 3}, ["gw1/3"]),
    "a slot that is the active one": ({"lane": "gateway.gw1", "ports": "3.01"}, ["gw1/3"]),
    "a slot that is another": ({"lane": "gateway.gw1", "ports": "3.02"}, []),
    "a card by its ICCID": ({"sim": "gw1-2"}, ["gw1/2"]),
    "a card by its own number": ({"sim": "+49 160 1"}, ["gw2/1"]),
    "a card outside of the route": ({"sim": "gw1-1"}, []),
    "a card that nobody has": ({"sim": "8949"}, []),
    "a card in another than the named port": ({"lane": "gateway.gw1", "ports": "1", "sim": "gw1-2"}, []),
    "without those that failed it": ({"tried": ("gw1-2", "8949")}, ["gw2/1"]),
    "none is left": ({"tried": ("gw1-2", "gw2-1")}, []),
    "a route without ports": ({"lane": "send.none"}, []),
}


@pytest.mark.parametrize(("asked", "found"), CANDIDATES.values(), ids=CANDIDATES)
def test_candidates(fleet, routing, asked, found):
    fleet.note_status("gw2", row("1.01", iccid="gw2-1", number="+491601"), 0.0)
    assert [f"{port.gateway}/{port.number}" for port in routing.candidates(request_of(**asked))] == found


def test_it_is_exhausted_where_every_port_is_known_to_hold_a_sim_that_failed_it(fleet, routing):
    tried = ("gw1-2", "gw2-1")
    assert routing.is_exhausted(request_of(tried=tried))
    assert not routing.is_exhausted(request_of(tried=tried[:1]))
    assert not routing.is_exhausted(request_of())
    assert not routing.is_exhausted(request_of(lane="send.none", tried=tried)), "nobody has failed it there"
    fleet.note_status("gw2", row("1.01", 0), 0.0)
    assert routing.is_exhausted(request_of(tried=tried[:1])), "an empty port is no other SIM"
    fleet.port("gw2", 1).st = None
    assert not routing.is_exhausted(request_of(tried=tried)), "after a start, before the first status"


def test_the_state_of_a_port_makes_it_no_less_a_candidate(fleet, routing):
    fleet.note_status("gw1", row("2.01", 6), 0.0)
    fleet.pause_gateway("gw1", 0.0)
    assert len(routing.candidates(request_of())) == 2


def test_a_card_that_moves_is_a_candidate_where_it_is_now(fleet, routing):
    fleet.note_status("gw1", row("1.01", 0), 0.0)
    fleet.note_status("gw1", row("2.01", iccid="gw1-1"), 0.0)
    assert routing.candidates(request_of(sim="gw1-1")) == (fleet.port("gw1", 2),)


REFUSALS = {
    "unknown route": ({"lane": "send.else"}, "unroutable", None, "no route or gateway is configured for 'send.else'"),
    "unknown gateway": ({"lane": "gateway.gw9"}, "unroutable", None, "no route or gateway is configured for"),
    "unknown ports": (
        {"lane": "gateway.gw1", "ports": "2-5"},
        "invalid",
        "ports",
        "^ports: gateway.gw1 has no port 4, 5$",
    ),
    "unreadable ports": (
        {"lane": "gateway.gw1", "ports": "4-2"},
        "invalid",
        "ports",
        "^ports: not a port range: '4-2'",
    ),
}


@pytest.mark.parametrize(("asked", "reason", "field", "sentence"), REFUSALS.values(), ids=REFUSALS)
def test_refusals(routing, asked, reason, field, sentence):
    with pytest.raises(RequestInvalid, match=sentence) as caught:
        routing.candidates(request_of(**asked))
    assert (caught.value.reason, caught.value.field) == (reason, field)


def test_equal_wishes_are_one(routing):
    first = routing.wish(request_of(1, "gateway.gw1", ports="1-2", sim="A"))
    assert first == routing.wish(request_of(2, "gateway.gw1", ports="1,2", sim="A"))
    assert first != routing.wish(request_of(3, "gateway.gw1", ports="1-2"))
    assert (first.narrow, Wish("send.main").narrow, Wish("send.main", sim="A").narrow) == (True, False, True)


def test_a_lane_that_is_not_configured_has_no_ports(fleet, routing):
    assert routing.ports_of("send.else") == ()
    assert routing.ports_of("send.main") == (fleet.port("gw2", 1), fleet.port("gw1", 2))


@pytest.mark.parametrize("to", ["+4915112345678", "+1234567", "+123456789012345"])
def test_numbers_in_e164_are_taken_as_they_are(to):
    assert normalise(to, allow_short_codes=False) == to


@pytest.mark.parametrize("to", ["22", "12345678", "00123"])
def test_short_codes_are_taken_where_they_are_allowed(to):
    assert normalise(to, allow_short_codes=True) == to


CURES = {
    "spaces": ("+49 151 1234567", "has more than a number in it; write it without spaces, dashes and brackets"),
    "dashes": ("+49-151-1234567", "without spaces, dashes and brackets"),
    "brackets": ("+49(0)1511234567", "without spaces, dashes and brackets"),
    "two zeros": ("00491511234567", "begins with 00; write"),
    "short code": ("80700", "is a short code, which this route does not allow"),
    "no plus": ("491511234567", "has no"),
    "too short": ("+123456", "is not a number like .491511234567 .7 to 15 digits.$"),
    "too long": ("+1234567890123456", "is not a number like"),
    "country code 0": ("+0151123456", "is not a number like"),
    "empty": ("", "is not a number like"),
    "words": ("mum", "is not a number like"),
    "digits of another script": ("+٤٩١٥١١٢٣٤٥٦٧", "is not a number like"),
    "bare digits of another script": ("٤٩١٥١١٢٣٤٥٦٧", "is not a number like"),
    "a line end": ("+491511234567\n", "has more than a number in it"),
}


@pytest.mark.parametrize(("to", "sentence"), CURES.values(), ids=CURES)
def test_what_is_no_number_is_refused_with_the_cure(to, sentence):
    with pytest.raises(RequestInvalid, match=sentence) as caught:
        normalise(to, allow_short_codes=False)
    assert (caught.value.reason, caught.value.field) == ("invalid", "to")


def test_the_cure_names_short_codes_where_they_are_allowed():
    with pytest.raises(RequestInvalid, match=r"or a short code of 2 to 8 digits$"):
        normalise("+12", allow_short_codes=True)
