"""The judge against made-up histories: it must see each thing that it is there to see, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from dev.chaos import judge
from dev.chaos.judge import Asked, Came, Finding, Happened, History, Told, key_of_dead
from dev.chaos.plan import POLL_S, Arrival, Ask, Sms

TO = "+4915100000001"


def asked(
    key: str = "s1",
    *,
    confirmed: bool = True,
    kind: str = "single",
    sms: tuple[Sms, ...] | None = None,
    body: dict[str, Any] | None = None,
) -> Asked:
    ask = Ask(0.0, kind, key, "send.default", body or {}, (Sms(key, key, TO),) if sms is None else sms)
    return Asked(ask, 100.0, 100.1 if confirmed else None)


def told(
    kind: str,
    key: str = "s1",
    *,
    n: int = 1,
    at: float = 110.0,
    tid: int = 7,
    sequence: str | None = None,
    broken: str | None = None,
    **data: Any,
) -> Told:
    place = (
        {"gateway": "gw1", "tid": tid} if kind in {"sms.submitted", "sms.sent", "sms.delivered", "sms.unknown"} else {}
    )
    event = {"id": f"{key}/{n}/{kind}", "type": f"{kind}.v1", "subject": key, "data": {**place, **data}}
    return Told(at, {**event, "sequence": sequence} if sequence else event, broken)


def row(kind: str, key: str = "s1", *, tid: int = 7, at: float = 101.0, **more: Any) -> dict[str, Any]:
    place = {"gateway": "gw1", "port": 1, "iccid": "sim1", "tid": tid, "to": TO, "segments": 1}
    return {"kind": kind, "at": at, "text": f"[{key}] Hello.", "result": "sent", **place, **more}


def failed(reason: str, *, tid: int = 7, **more: Any) -> dict[str, Any]:
    return row("reported", tid=tid, result="failed", reason=reason, **more)


SENT = (row("handed_over"), row("on_air"), row("reported"))


def kinds(history: History) -> dict[str, list[str]]:
    """The verdicts that are not empty, with the keys they name."""
    verdict = judge.judge(history)
    found: dict[str, list[str]] = {}
    for name, finding in verdict.bad:
        found.setdefault(name, []).append(finding.key)
    return found


def test_a_request_that_was_sent_once_is_as_it_should_be():
    verdict = judge.judge(History([asked()], told=[told("sms.submitted"), told("sms.sent")], record=SENT))
    assert (verdict.bad, verdict.unknown, verdict.holds, verdict.requests) == ([], [], True, 1)
    assert verdict.ended == {"sms.sent": 1}


# --- lost and stuck --------------------------------------------------------------------------------------------------


def test_a_confirmed_request_without_an_end_is_lost():
    assert kinds(History([asked()], told=[told("sms.submitted")], record=SENT)) == {"lost": ["s1"]}


def test_one_that_somebody_still_holds_is_stuck():
    assert kinds(History([asked()], open_keys=frozenset({"s1"}))) == {"stuck": ["s1"]}


def test_one_in_the_dead_queue_is_neither():
    assert kinds(History([asked()], dead=["s1"])) == {}


def test_one_that_was_never_confirmed_is_no_promise():
    verdict = judge.judge(History([asked(confirmed=False)]))
    assert (verdict.bad, verdict.recovered) == ([], 0)


def test_one_that_was_never_confirmed_and_came_through_is_counted_as_recovered():
    verdict = judge.judge(History([asked(confirmed=False)], told=[told("sms.sent")], record=SENT))
    assert (verdict.bad, verdict.recovered) == ([], 1)


def test_a_repeat_that_has_no_end_is_named_once():
    assert kinds(History([asked(), asked(kind="repeat")])) == {"lost": ["s1"]}


def test_each_child_of_a_list_needs_its_own_end():
    several = asked("l1", kind="list", sms=(Sms("l1/0", "l1", TO), Sms("l1/1", "l1", "+492")))
    rows = [row(kind, "l1") for kind in ("handed_over", "on_air")]
    assert kinds(History([several], told=[told("sms.sent", "l1/0")], record=rows)) == {"lost": ["l1/1"]}


def test_the_end_of_a_list_as_a_whole_is_that_of_its_children():
    several = asked("l1", kind="list", sms=(Sms("l1/0", "l1", TO), Sms("l1/1", "l1", "+492")))
    assert kinds(History([several], told=[told("sms.expired", "l1")])) == {}


def test_the_children_of_a_list_that_a_queue_still_holds_are_stuck():
    several = asked("l1", kind="list", sms=(Sms("l1/0", "l1", TO),))
    assert kinds(History([several], open_keys=frozenset({"l1"}))) == {"stuck": ["l1/0"]}


def test_bad_input_needs_a_refusal():
    bad = asked("b1", kind="bad", sms=())
    assert kinds(History([bad])) == {"lost": ["b1"]}
    assert kinds(History([bad], told=[told("sms.rejected", "b1")])) == {}


def test_a_conflict_needs_its_own_word_and_is_no_end():
    both = [asked(), asked(kind="conflict", sms=())]
    assert kinds(History(both, told=[told("sms.sent")], record=SENT)) == {"lost": ["s1"]}
    conflict = told("sms.rejected", n=2, reason="id_conflict", of_sms=False)
    assert kinds(History(both, told=[told("sms.sent"), conflict], record=SENT)) == {}
    assert kinds(History([asked()], told=[conflict])) == {"lost": ["s1"]}


def test_what_is_still_missing_is_waited_for():
    assert not judge.is_settled(History([asked()]))
    assert judge.is_settled(History([asked()], told=[told("sms.unknown")]))
    assert not judge.is_settled(History([], came=[CAME]))


# --- duplicated ------------------------------------------------------------------------------------------------------


def test_two_tasks_of_one_key_on_air_are_a_duplicate():
    record = [*SENT[:2], failed("5 SIM Unregistered"), row("handed_over", tid=8), row("on_air", tid=8)]
    assert kinds(History([asked()], told=[told("sms.sent", tid=8)], record=record)) == {"duplicated": ["s1"]}


@pytest.mark.parametrize(
    ("first", "proven"),
    [
        pytest.param([failed("5 SIM Unregistered")], True, id="no SIM"),
        pytest.param([failed("2 Invalid Port", segments=3)], True, id="no port, whatever the length"),
        pytest.param([failed("7 Server Error", operator_code=21)], True, id="refused by the network"),
        pytest.param([failed("7 Server Error", operator_code=21, segments=2)], False, id="refused, of a long text"),
        pytest.param([failed("7 Server Error", operator_code=38)], False, id="no answer of the network"),
        pytest.param([failed("6 Timeout")], False, id="timeout"),
        pytest.param([row("reported")], False, id="sent"),
        pytest.param([], False, id="no word at all"),
    ],
)
def test_a_second_hand_over_needs_proof_that_the_first_failed(first: list[dict[str, Any]], *, proven: bool):
    record = [row("handed_over"), *first, row("handed_over", tid=8), row("on_air", tid=8)]
    found = kinds(History([asked()], told=[told("sms.sent", tid=8)], record=record))
    assert found == ({} if proven else {"duplicated": ["s1"]})


def test_a_proof_that_comes_after_the_second_hand_over_is_none():
    record = [row("handed_over"), row("handed_over", tid=8), failed("5 SIM Unregistered"), row("on_air", tid=8)]
    assert kinds(History([asked()], told=[told("sms.sent", tid=8)], record=record)) == {"duplicated": ["s1"]}


def test_one_sms_from_each_of_two_ports_is_none():
    each = asked("e1", kind="each", sms=(Sms("e1/0/1", "e1", TO, 1), Sms("e1/0/2", "e1", TO, 2)))
    record = [row(kind, "e1", port=port, tid=port) for kind in ("handed_over", "on_air") for port in (1, 2)]
    events = [told("sms.sent", "e1/0/1", tid=1), told("sms.sent", "e1/0/2", tid=2)]
    assert kinds(History([each], told=events, record=record)) == {}


# --- unexpected ------------------------------------------------------------------------------------------------------


def test_an_event_about_nobody_is_unexpected():
    assert kinds(History([], told=[told("sms.expired", "s9")])) == {"unexpected": ["s9"]}


def test_an_event_that_breaks_the_contract_is_unexpected():
    events = [told("sms.sent", broken="no such member")]
    assert kinds(History([asked()], told=events, record=SENT)) == {"unexpected": ["s1"]}


def test_a_task_that_nobody_asked_for_is_unexpected():
    assert kinds(History([], record=[row("handed_over", "s9")])) == {"unexpected": ["[s9] Hello."]}
    assert kinds(History([], record=[row("handed_over", tid=0, text="foreign")])) == {}


def test_two_ends_are_unexpected_unless_one_corrects_the_other():
    first = told("sms.unknown")
    assert kinds(History([asked()], told=[first, told("sms.sent")], record=SENT)) == {"unexpected": ["s1"]}
    corrected = told("sms.sent", corrects=first.event["id"])
    assert kinds(History([asked()], told=[first, corrected], record=SENT)) == {}


def test_the_same_event_again_is_a_repeat():
    assert kinds(History([asked()], told=[told("sms.sent"), told("sms.sent")], record=SENT)) == {}


def test_a_correction_of_what_was_never_told_is_unexpected():
    events = [told("sms.sent", corrects="s1/1/sms.unknown")]
    assert kinds(History([asked()], told=events, record=SENT)) == {"unexpected": ["s1"]}


@pytest.mark.parametrize(
    ("event", "record", "true"),
    [
        pytest.param(told("sms.sent"), SENT[:1], False, id="sent, and never on air"),
        pytest.param(told("sms.expired"), SENT, False, id="expired, and on air"),
        pytest.param(told("sms.failed", certain=True), SENT, False, id="certainly failed, and on air"),
        pytest.param(told("sms.failed", certain=False), SENT, True, id="perhaps failed, and on air"),
        pytest.param(told("sms.failed", certain=True), SENT[:1], True, id="certainly failed, and not on air"),
    ],
)
def test_an_end_that_the_record_refutes_is_unexpected(event: Told, record: tuple[Any, ...], *, true: bool):
    assert kinds(History([asked()], told=[event], record=record)) == ({} if true else {"unexpected": ["s1"]})


def test_a_delivery_that_the_network_never_told_is_unexpected():
    events = [told("sms.sent"), told("sms.delivered")]
    assert kinds(History([asked()], told=events, record=SENT)) == {"unexpected": ["s1"]}
    verdict = judge.judge(History([asked(body={"delivery_report": True})], told=events, record=SENT))
    assert (verdict.bad, verdict.delivery_reports) == ([], {"matched": 1, "told": 1})


def test_a_hand_over_that_the_record_does_not_know_is_unexpected():
    events = [told("sms.submitted", tid=9), told("sms.sent")]
    assert kinds(History([asked()], told=events, record=SENT)) == {"unexpected": ["s1"]}


def test_two_events_of_one_sms_have_different_places_in_its_sequence():
    same = [told("sms.submitted", sequence="01"), told("sms.sent", sequence="01")]
    assert kinds(History([asked()], told=same, record=SENT)) == {"unexpected": ["s1"]}
    apart = [told("sms.submitted", sequence="01"), told("sms.sent", sequence="02"), told("sms.sent", sequence="02")]
    assert kinds(History([asked()], told=apart, record=SENT)) == {}


# --- what comes in ---------------------------------------------------------------------------------------------------

CAME = Came(Arrival(0.0, "gw1", 1, "+49170", "[in1] Hello."), 100.0)


def received(n: int = 1, text: str = "[in1] Hello.", **data: Any) -> Told:
    return told("sms.received", "+49170", n=n, text=text, **data)


def test_an_incoming_sms_that_is_never_told_is_lost():
    assert kinds(History([], came=[CAME])) == {"lost": ["in1"]}
    assert kinds(History([], came=[CAME], told=[received()])) == {}


def test_one_that_a_reboot_may_have_lost_is_not():
    reboot = Happened("device_reboot", {"gateway": "gw1"}, 101.0, 101.0)
    assert kinds(History([], came=[CAME], faults=[reboot])) == {}
    elsewhere = Happened("device_reboot", {"gateway": "gw2"}, 101.0, 101.0)
    assert kinds(History([], came=[CAME], faults=[elsewhere])) == {"lost": ["in1"]}


def test_one_that_is_told_twice_is_unexpected_unless_it_says_so():
    assert kinds(History([], came=[CAME], told=[received(1), received(2)])) == {"unexpected": ["in1"]}
    assert kinds(History([], came=[CAME], told=[received(1), received(1)])) == {}
    assert kinds(History([], came=[CAME], told=[received(1), received(2, possible_repeat=True)])) == {}


def test_one_that_nobody_sent_is_unexpected():
    assert kinds(History([], told=[received()])) == {"unexpected": ["+49170"]}


# --- unknown ---------------------------------------------------------------------------------------------------------


def unknown(key: str = "s1", *, tid: int = 7, sim: str = "sim1", at: float = 130.0) -> Told:
    return told("sms.unknown", key, at=at, tid=tid, port=1, sim=sim, reason="report_lost")


def provable(
    *, more: tuple[Asked, ...] = (), events: tuple[Told, ...] = (), record: Any = SENT, faults: Any = ()
) -> Any:
    """What is provable where s1 ended unknown, together with others."""
    return judge.judge(
        History([asked(), *more], told=[unknown(), *events], record=record, faults=faults)
    ).unknown_provable


@pytest.mark.parametrize(
    ("record", "fate"),
    [
        pytest.param(SENT, "sent", id="sent"),
        pytest.param([row("handed_over"), row("on_air"), failed("6 Timeout")], "failed", id="failed by its own word"),
        pytest.param([], "never", id="never taken"),
    ],
)
def test_an_unknown_that_was_alone_in_doubt_is_provable(record: Any, fate: str):
    assert provable(record=record) == [Finding("s1", f"gw1 counted it as {fate}: 1 in doubt on sim1")]


def test_one_whose_task_the_device_forgot_is_not():
    assert provable(record=SENT[:2]) == []


def test_one_on_a_gateway_that_rebooted_meanwhile_is_not():
    assert provable(faults=[Happened("device_reboot", {"gateway": "gw1"}, 110.0, 110.0)]) == []
    just_before, long_before = SENT[0]["at"] - POLL_S, SENT[0]["at"] - POLL_S - 2
    assert provable(faults=[Happened("device_reboot", {"gateway": "gw1"}, just_before, just_before)]) == []
    assert len(provable(faults=[Happened("device_reboot", {"gateway": "gw1"}, long_before, long_before)])) == 1
    assert len(provable(faults=[Happened("device_reboot", {"gateway": "gw1"}, 140.0, 140.0)])) == 1
    assert len(provable(faults=[Happened("device_reboot", {"gateway": "gw2"}, 110.0, 110.0)])) == 1


def test_one_beside_another_submitter_is_not():
    here = {"gateway": "gw1", "port": 1}
    assert provable(faults=[Happened("foreign_sms", here, 110.0, 110.0)]) == []
    assert provable(faults=[Happened("foreign_sms", here, 95.0, 95.0)]) == []
    assert len(provable(faults=[Happened("foreign_sms", here, 140.0, 140.0)])) == 1
    assert len(provable(faults=[Happened("foreign_sms", {**here, "port": 2}, 110.0, 110.0)])) == 1


def test_several_on_one_sim_are_provable_where_all_fared_alike():
    other = (asked("s2"),)
    alike = [row(one["kind"], "s2", tid=8) for one in SENT]
    assert len(provable(more=other, events=(unknown("s2", tid=8),), record=[*SENT, *alike])) == 2
    apart = [row("handed_over", "s2", tid=8), row("reported", "s2", tid=8, result="failed", reason="6 Timeout")]
    assert provable(more=other, events=(unknown("s2", tid=8),), record=[*SENT, *apart]) == []


def test_one_is_not_where_another_report_with_another_word_got_lost():
    other = [row("handed_over", "s2", tid=8), row("reported", "s2", tid=8, result="failed", reason="6 Timeout")]
    delivered = told("sms.sent", "s2", at=110.0)
    assert provable(more=(asked("s2"),), events=(delivered,), record=[*SENT, *other]) == []
    heard = {**row("callback", "s2"), "http_status": 200, "tids": [8]}
    assert len(provable(more=(asked("s2"),), events=(delivered,), record=[*SENT, *other, heard])) == 1


@pytest.mark.parametrize(("before_s", "count"), [(2 * POLL_S - 1, 0), (2 * POLL_S + 1, 1)])
def test_nor_where_the_bridge_had_no_turn_to_look_between_the_two(before_s: float, count: int):
    handed_at = SENT[0]["at"] - before_s
    other = [
        row("handed_over", "s2", tid=8, at=handed_at),
        row("reported", "s2", tid=8, at=handed_at, result="failed", reason="6 Timeout"),
    ]
    delivered = told("sms.sent", "s2", at=110.0)
    assert len(provable(more=(asked("s2"),), events=(delivered,), record=[*other, *SENT])) == count


def test_one_that_was_in_doubt_on_another_sim_or_at_another_time_does_not_matter():
    other = (asked("s2"),)
    apart = [
        row("handed_over", "s2", tid=8, iccid="sim2"),
        row("reported", "s2", tid=8, iccid="sim2", result="failed", reason="6 Timeout"),
    ]
    found = provable(more=other, events=(unknown("s2", tid=8, sim="sim2"),), record=[*SENT, *apart])
    assert {one.key for one in found} == {"s1", "s2"}
    later = [
        row("handed_over", "s2", tid=8, at=140.0),
        row("reported", "s2", tid=8, at=141.0, result="failed", reason="6 Timeout"),
    ]
    found = provable(more=other, events=(unknown("s2", tid=8, at=170.0),), record=[*SENT, *later])
    assert {one.key for one in found} == {"s1", "s2"}


def test_an_unknown_that_was_corrected_is_none():
    corrected = told("sms.sent", at=140.0, corrects=unknown().event["id"])
    verdict = judge.judge(History([asked()], told=[unknown(), corrected], record=SENT))
    assert (verdict.unknown, verdict.bad) == ([], [])


def test_few_unknown_hold_and_more_do_not():
    forgotten = [row("handed_over")]
    rest = [asked(f"s{n}") for n in range(2, 51)]
    fine = [told("sms.expired", one.ask.key) for one in rest]
    enough = judge.judge(History([asked(), *rest], told=[unknown(), *fine], record=forgotten))
    assert (len(enough.unknown), enough.holds) == (1, True)
    few = judge.judge(History([asked(), *rest[:-1]], told=[unknown(), *fine[:-1]], record=forgotten))
    assert (few.bad, few.holds) == ([], False)


# --- dead letters ----------------------------------------------------------------------------------------------------


def test_a_dead_letter_is_known_by_its_body_and_by_the_event_that_told_of_it():
    assert "u1" in key_of_dead("chaos:u1/1/sms.rejected", None)
    assert key_of_dead(None, "u1") == ("u1",)
