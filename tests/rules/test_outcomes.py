"""The arrows of the state table: each verdict, report and deadline, and that only one final event comes out."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.ejoin import codes
from bridge.ejoin.facts import FailedRow, SentRow, SmsReport
from bridge.models import Key, Publication, Request, SendRequest, Sms, State
from bridge.rules import outcomes
from bridge.rules.outcomes import Outcome, Terms

NOW = 1_700_000_000.0
TERMS = Terms(max_attempts=3, timeout_s=30, report_margin_s=60, doubt_s=900)
TO = "+4915112345678"


def sms(state: State = State.SUBMITTING, **more: Any) -> Sms:
    row = Sms(
        app_id="shop",
        id="a",
        fingerprint=b"f",
        state=state,
        state_at=NOW - 1,
        request='{"body":"{\\"text\\":\\"hi\\"}","rk":"send.otp","cid":"c7","ts":5.0,"tp":"00-ab","meta":{"o":"7"}}',
        route="otp",
        recipient=TO,
        segments=1,
        encoding="gsm7",
        expires_at=NOW + 600,
        gateway="gw1",
        port=3,
        sim="8949",
        tid=77,
        begun_at=NOW - 1,
    )
    return replace(row, **more)


def event(outcome: Outcome | None) -> dict[str, Any]:
    assert outcome is not None
    told: dict[str, Any] = json.loads(outcome.publications[-1].body)
    return told


def sent_report(number: str = TO) -> SmsReport:
    return SmsReport(77, 0, 1, 0, 0, sent_rows=(SentRow(0, number, None, NOW - 0.5),))


def failed_report(code: int | None, operator: int | None = None, number: str = TO) -> SmsReport:
    row = FailedRow(0, number, None, NOW, code, "text", operator, "operator text" if operator else "")
    return SmsReport(77, 0, 0, 1, 0, failed_rows=(row,))


class TestAnswered:
    def answer(self, verdict: codes.Verdict, row: Sms | None = None, *, elsewhere: bool = True) -> Outcome | None:
        return outcomes.answered(row or sms(), verdict, NOW, TERMS, ahead=2, elsewhere=elsewhere)

    def test_taken_is_told_and_waits_for_its_report_as_long_as_the_tasks_ahead_need(self) -> None:
        outcome = self.answer(codes.Submitted())
        assert outcome is not None
        assert outcome.sms.state is State.SUBMITTED
        assert outcome.sms.deadline_at == NOW + 3 * 30 + 8 + 60
        told = event(outcome)
        assert (told["type"], told["id"], told["sequence"]) == (
            "sms.submitted.v1",
            "shop:a/1/sms.submitted",
            "0000000001",
        )
        assert told["source"] == "/gateways/gw1/ports/3" and told["subject"] == "a" and told["traceparent"] == "00-ab"
        assert told["data"]["metadata"] == {"o": "7"}
        assert outcome.publications[0].routing_key == "sms.submitted.otp.gw1.3"
        assert outcome.publications[0].correlation_id == "c7"

    def test_a_last_refusal_is_not_certain_where_an_earlier_attempt_may_be_on_air(self) -> None:
        row = sms()
        row = replace(row, request=json.dumps(row.asked | {"pd": True}))
        outcome = self.answer(codes.HandBack("elsewhere", "sim", 5, ""), row, elsewhere=False)
        assert outcome is not None and event(outcome)["data"]["certain"] is False

    def test_what_has_left_by_the_old_interface_is_sent(self) -> None:
        outcome = self.answer(codes.Sent())
        assert outcome is not None
        assert (outcome.sms.state, outcome.counted, event(outcome)["type"]) == (State.SENT, "ok", "sms.sent.v1")

    def test_what_it_tried_in_vain_may_be_on_air(self) -> None:
        outcome = self.answer(codes.Failed(6, "Timeout", certain=False))
        assert outcome is not None
        told = event(outcome)["data"]
        assert (outcome.counted, told["reason"], told["certain"], told["code"]) == ("failed", "not_sure", False, 6)

    def test_a_sim_that_cannot_goes_elsewhere_and_counts(self) -> None:
        outcome = self.answer(codes.HandBack("elsewhere", "sim", 5, "SIM Unregistered"))
        assert outcome is not None
        assert outcome.sms.state is State.HANDED_BACK and outcome.sms.tried == ("8949",)
        assert outcome.sms.tid == 77, "a late report still finds it"
        assert outcome.past is not None and (outcome.past.tid, outcome.past.code) == (77, 5)
        (back,) = outcome.publications
        assert (back.exchange, back.routing_key, back.body) == ("requests", "send.otp", b'{"text":"hi"}')
        assert back.headers == {
            "x-attempt": 2,
            "x-expires-at": NOW + 600,
            "x-tried": '["8949"]',
            "traceparent": "00-ab",
        }
        assert (back.message_id, back.app_id, back.timestamp) == ("a", "shop", 5.0)

    def test_a_gateway_that_refuses_gets_it_back_later_and_counts_nothing(self) -> None:
        outcome = self.answer(codes.HandBack("later", "gateway", 7, "Server Error"), sms(parent="list"))
        assert outcome is not None
        assert outcome.sms.tried == () and outcome.publications[0].exchange == "later.5"
        assert outcome.publications[0].headers["x-parent"] == "list"

    @pytest.mark.parametrize(
        ("row", "elsewhere"),
        [
            pytest.param(sms(tried=("1", "2")), True, id="the third SIM"),
            pytest.param(sms(), False, id="no other SIM"),
        ],
    )
    def test_when_no_sim_is_left_the_last_verdict_is_final(self, row: Sms, elsewhere: bool) -> None:
        outcome = self.answer(codes.HandBack("elsewhere", "sim", 5, "SIM Unregistered"), row, elsewhere=elsewhere)
        told = event(outcome)["data"]
        assert (told["reason"], told["code"], told["certain"]) == ("no_sim_left", 5, True)

    def test_refused_for_good_is_failed_for_certain(self) -> None:
        told = event(self.answer(codes.Failed(8, "SMS expected", certain=True)))
        assert told["type"] == "sms.failed.v1"
        assert told["data"]["reason"] == "not_taken" and told["data"]["text"] == "SMS expected"

    def test_a_lost_answer_is_in_doubt_and_tells_nothing(self) -> None:
        outcome = self.answer(codes.InDoubt("timeout"))
        assert outcome is not None
        assert (outcome.sms.state, outcome.sms.reason) == (State.IN_DOUBT, "answer_lost")
        assert outcome.sms.deadline_at == NOW + 900 and outcome.publications == ()

    @pytest.mark.parametrize(
        ("verdict", "state"),
        [
            (codes.Submitted(), State.SUBMITTED),
            (codes.HandBack("later", "gateway", None, "not reached"), State.HANDED_BACK),
        ],
    )
    def test_a_verdict_that_could_be_stored_only_after_the_deadline_still_counts(
        self, verdict: codes.Verdict, state: State
    ) -> None:
        outcome = self.answer(verdict, sms(State.IN_DOUBT, reason="answer_lost"))
        assert outcome is not None and (outcome.sms.state, outcome.sms.reason) == (state, None)
        assert self.answer(verdict, sms(State.IN_DOUBT, reason="restart")) is None

    def test_a_report_that_jumped_ahead_wins(self) -> None:
        assert self.answer(codes.Submitted(), sms(State.SENT)) is None


class TestReported:
    def report(self, report: SmsReport, row: Sms | None = None, *, elsewhere: bool = True) -> Outcome | None:
        return outcomes.reported(row or sms(State.SUBMITTED), report, NOW, TERMS, elsewhere=elsewhere)

    @pytest.mark.parametrize("state", [State.SUBMITTING, State.SUBMITTED, State.IN_DOUBT])
    def test_sent_implies_everything_before_it(self, state: State) -> None:
        outcome = self.report(sent_report("015112345678"), sms(state))
        assert outcome is not None and outcome.sms.state is State.SENT and outcome.sms.deadline_at is None
        assert "body" not in outcome.sms.asked, "the text is blanked at the final state"
        assert event(outcome)["data"]["sent_at"] == "2023-11-14T22:13:19.500000Z"

    def test_counters_alone_count_where_no_row_came_along(self) -> None:
        outcome = self.report(SmsReport(77, 0, 1, 0, 0))
        assert outcome is not None and outcome.sms.state is State.SENT
        outcome = self.report(SmsReport(77, 0, 0, 1, 0))
        assert outcome is not None and outcome.sms.certain is False

    def test_a_row_about_another_number_is_not_ours(self) -> None:
        assert self.report(sent_report("+4915199999999")) is None
        assert self.report(failed_report(5, number="+4915199999999")) is None

    def test_still_sending_changes_nothing(self) -> None:
        assert self.report(SmsReport(77, 1, 0, 0, 0)) is None

    def test_a_proven_failure_is_tried_on_another_sim(self) -> None:
        outcome = self.report(failed_report(5))
        assert outcome is not None and outcome.sms.state is State.HANDED_BACK and outcome.past is not None

    @pytest.mark.parametrize("row", [sms(State.SUBMITTED, sim=None), sms(State.SUBMITTED)])
    def test_a_proven_failure_without_another_sim_is_final(self, row: Sms) -> None:
        told = event(self.report(failed_report(5), row, elsewhere=False))["data"]
        assert (told["reason"], told["certain"]) == ("no_sim_left", True)

    def test_a_network_refusal_of_a_long_text_proves_nothing_about_its_first_segment(self) -> None:
        refused = failed_report(7, 21)
        outcome = self.report(refused, sms(State.SUBMITTED, segments=1))
        assert outcome is not None and outcome.sms.state is State.HANDED_BACK
        assert event(self.report(refused, sms(State.SUBMITTED, segments=2)))["data"]["certain"] is False

    def test_a_device_that_gave_up_waiting_is_a_failure_that_is_not_sure(self) -> None:
        told = event(self.report(failed_report(6, 332)))["data"]
        assert (told["reason"], told["certain"]) == ("not_sure", False)
        assert (told["operator_code"], told["operator_text"]) == (332, "operator text")

    @pytest.mark.parametrize("state", [State.SENT, State.EXPIRED, State.REJECTED, State.HANDED_BACK])
    def test_a_late_failure_changes_nothing_certain(self, state: State) -> None:
        assert self.report(failed_report(6), sms(state, code=0)) is None

    def test_sent_again_is_a_repeat(self) -> None:
        assert self.report(sent_report(), sms(State.SENT, code=0)) is None

    @pytest.mark.parametrize(
        "row",
        [
            pytest.param(sms(State.UNKNOWN, event_id="e"), id="unknown"),
            pytest.param(sms(State.FAILED, event_id="e", certain=False), id="not sure"),
        ],
    )
    def test_late_evidence_corrects_and_says_so(self, row: Sms) -> None:
        assert event(self.report(sent_report(), row))["data"]["corrects"] == "e"

    @pytest.mark.parametrize(("code", "reason", "certain"), [(5, "not_sent", True), (6, "not_sure", False)])
    def test_a_late_failure_corrects_an_unknown(self, code: int, reason: str, certain: bool) -> None:
        told = event(self.report(failed_report(code), sms(State.UNKNOWN, event_id="e")))["data"]
        assert (told["corrects"], told["reason"], told["certain"]) == ("e", reason, certain)

    def test_certain_failures_stay(self) -> None:
        assert self.report(sent_report(), sms(State.FAILED, certain=True)) is None

    def test_sent_by_an_attempt_that_was_handed_back_may_be_a_duplicate(self) -> None:
        outcome = outcomes.sent_as(sms(State.SUBMITTED, attempt=2), NOW, at=None, possible_duplicate=True)
        assert event(outcome)["data"]["possible_duplicate"] is True

    def test_the_row_of_a_past_attempt_is_found_by_its_number(self) -> None:
        assert outcomes.row_of_past(sent_report(), TO) is not None
        assert outcomes.row_of_past(sent_report("+4915199999999"), TO) is None


class TestDeadlines:
    def test_a_report_that_never_came_is_in_doubt_first(self) -> None:
        outcome = outcomes.overdue(sms(State.SUBMITTED), NOW, TERMS)
        assert outcome is not None and (outcome.sms.state, outcome.sms.reason) == (State.IN_DOUBT, "report_lost")

    def test_so_is_an_answer_that_never_came(self) -> None:
        outcome = outcomes.overdue(sms(State.SUBMITTING), NOW, TERMS)
        assert outcome is not None and outcome.sms.reason == "answer_lost"

    def test_doubt_without_evidence_ends_as_unknown_with_its_reason(self) -> None:
        outcome = outcomes.given_up(sms(State.IN_DOUBT, reason="restart"), NOW, TERMS, in_list=False)
        assert outcome is not None and outcome.sms.state is State.UNKNOWN
        assert event(outcome)["data"]["reason"] == "restart"

    def test_a_task_in_the_list_was_taken_and_keeps_the_doubts_deadline(self) -> None:
        outcome = outcomes.listed(sms(State.IN_DOUBT, reason="restart", deadline_at=5.0), NOW)
        assert outcome is not None
        assert (outcome.sms.state, outcome.sms.deadline_at) == (State.SUBMITTED, 5.0)
        assert outcomes.listed(sms(State.SUBMITTED), NOW) is None

    def test_a_task_in_the_list_that_was_told_as_submitted_is_not_told_again(self) -> None:
        outcome = outcomes.listed(sms(State.IN_DOUBT, reason="report_lost", event_type="sms.submitted"), NOW)
        assert outcome is not None and (outcome.sms.state, outcome.publications) == (State.SUBMITTED, ())

    def test_a_task_still_in_the_list_at_its_deadline_is_asked_about_every_minute_until_it_makes_no_sense(self) -> None:
        row = sms(State.SUBMITTED, reason="restart")
        outcome = outcomes.given_up(row, NOW, TERMS, in_list=True)
        assert outcome is not None and outcome.sms.deadline_at == NOW + 60 and outcome.publications == ()
        late = outcomes.given_up(row, NOW + 600 + 900, TERMS, in_list=True)
        assert late is not None and late.sms.state is State.UNKNOWN

    @pytest.mark.parametrize("row", [sms(State.SENT), sms(State.HANDED_BACK), sms(State.SUBMITTED)])
    def test_what_is_not_in_doubt_is_not_given_up(self, row: Sms) -> None:
        assert outcomes.given_up(row, NOW, TERMS, in_list=False) is None

    def test_doubt_concerns_only_what_a_device_may_hold(self) -> None:
        assert outcomes.doubted(sms(State.SENT), "restart", NOW, TERMS) is None


class TestCounters:
    """The SIM's own counters (evidence 3)."""

    def test_counted_as_sent_it_is_sent_and_says_why(self) -> None:
        outcome = outcomes.counted(sms(State.IN_DOUBT, reason="report_lost"), "sent", NOW, TERMS)
        assert outcome is not None and (outcome.sms.state, outcome.counted) == (State.SENT, "ok")
        assert event(outcome)["data"]["evidence"] == "statistics"

    def test_counted_as_failed_it_is_an_uncertain_failure(self) -> None:
        outcome = outcomes.counted(sms(State.IN_DOUBT, reason="report_lost"), "failed", NOW, TERMS)
        assert outcome is not None and outcome.counted == "failed"
        told = event(outcome)["data"]
        assert (told["reason"], told["certain"], told["evidence"]) == ("not_sure", False, "statistics")

    def test_they_correct_what_was_given_up_as_sent_only(self) -> None:
        given_up = sms(State.UNKNOWN, event_id="e", reason="report_lost")
        assert event(outcomes.counted(given_up, "sent", NOW, TERMS))["data"]["corrects"] == "e"
        assert outcomes.counted(given_up, "failed", NOW, TERMS) is None

    def test_what_never_came_goes_back_and_is_no_duplicate(self) -> None:
        outcome = outcomes.absent(sms(State.IN_DOUBT, reason="restart", tried=("x",)), NOW)
        assert outcome is not None and outcome.sms.state is State.HANDED_BACK and outcome.past is not None
        (back,) = outcome.publications
        assert (back.exchange, back.headers["x-attempt"]) == ("requests", 2)
        assert "x-possible-duplicate" not in back.headers and outcome.counted is None
        assert outcomes.absent(sms(State.UNKNOWN), NOW) is None


class TestAccounts:
    """What the SIM's account notes: each result that the device tells, once."""

    @pytest.mark.parametrize(
        ("row", "counted"),
        [
            (sms(State.SUBMITTED), "ok"),
            (sms(State.IN_DOUBT, reason="restart"), "ok"),
            (sms(State.UNKNOWN, event_id="e"), "ok"),
            (sms(State.FAILED, event_id="e", certain=False), None),
            (sms(State.HANDED_BACK), None),
        ],
    )
    def test_sent_is_counted_where_no_result_was_known(self, row: Sms, counted: str | None) -> None:
        outcome = outcomes.sent_as(row, NOW, at=None)
        assert outcome is not None and outcome.counted == counted

    @pytest.mark.parametrize(("code", "elsewhere"), [(5, True), (5, False), (6, True)])
    def test_every_failure_report_is_counted(self, code: int, elsewhere: bool) -> None:
        outcome = outcomes.reported(sms(State.SUBMITTED), failed_report(code), NOW, TERMS, elsewhere=elsewhere)
        assert outcome is not None and outcome.counted == "failed"

    def test_an_answer_is_not(self) -> None:
        verdict = codes.HandBack("elsewhere", "sim", 5, "SIM Unregistered")
        outcome = outcomes.answered(sms(), verdict, NOW, TERMS, ahead=0, elsewhere=True)
        assert outcome is not None and outcome.counted is None


class TestResend:
    """``on_doubt: resend``: what may be on air is sent again, and says so."""

    RESEND = replace(TERMS, resend=True)

    def resent(self, outcome: Outcome | None) -> Publication:
        assert outcome is not None and outcome.sms.state is State.HANDED_BACK and outcome.past is not None
        (back,) = outcome.publications
        assert back.headers["x-possible-duplicate"] is True
        return back

    def test_a_doubt_at_its_deadline_goes_out_again_marked_and_leaves_the_books(self) -> None:
        outcome = outcomes.given_up(sms(State.IN_DOUBT, reason="restart"), NOW, self.RESEND, in_list=False)
        assert self.resent(outcome).headers["x-attempt"] == 2
        assert outcome is not None and outcome.counted == "lost"

    def test_so_does_an_uncertain_failure(self) -> None:
        row = sms(State.SUBMITTED)
        self.resent(outcomes.reported(row, failed_report(6), NOW, self.RESEND, elsewhere=True))
        self.resent(outcomes.counted(row, "failed", NOW, self.RESEND))

    def test_the_mark_stays_on_every_later_attempt(self) -> None:
        request = '{"body":"{}","rk":"send.otp","pd":true}'
        outcome = outcomes.absent(sms(State.IN_DOUBT, reason="restart", request=request, attempt=2), NOW)
        self.resent(outcome)

    @pytest.mark.parametrize("row", [{"attempt": 3}, {"expires_at": NOW}], ids=["often enough", "too late"])
    def test_not_without_end(self, row: dict[str, Any]) -> None:
        outcome = outcomes.given_up(sms(State.IN_DOUBT, reason="restart", **row), NOW, self.RESEND, in_list=False)
        assert outcome is not None and outcome.sms.state is State.UNKNOWN


class TestDeliveryReports:
    @pytest.mark.parametrize(("code", "kind"), [(0, "sms.delivered.v1"), (134, "sms.undelivered.v1")])
    def test_they_follow_sent_and_change_no_state(self, code: int, kind: str) -> None:
        outcome = outcomes.delivery_reported(sms(State.SENT), code, NOW, NOW)
        assert outcome.sms.state is State.SENT
        assert event(outcome)["type"] == kind and event(outcome)["data"]["code"] == code

    def test_they_imply_sent_where_the_devices_report_is_still_cached(self) -> None:
        outcome = outcomes.delivery_reported(sms(State.SUBMITTED), 0, NOW, NOW)
        kinds = [json.loads(one.body)["type"] for one in outcome.publications]
        assert kinds == ["sms.sent.v1", "sms.delivered.v1"]
        assert outcome.counted is None and outcomes.owes_word(outcome.sms)

    @pytest.mark.parametrize(("report", "counted"), [(sent_report(), "ok"), (failed_report(6), "failed")])
    def test_what_the_device_says_after_that_is_for_its_sims_account_alone(
        self, report: SmsReport, counted: str
    ) -> None:
        implied = outcomes.delivery_reported(sms(State.SUBMITTED), 0, NOW, NOW).sms
        outcome = outcomes.reported(implied, report, NOW, TERMS, elsewhere=True)
        assert outcome is not None and (outcome.counted, outcome.publications) == (counted, ())
        assert outcomes.reported(outcome.sms, report, NOW, TERMS, elsewhere=True) is None

    @pytest.mark.parametrize(("fate", "counted"), [("sent", "ok"), ("failed", "failed")])
    def test_so_is_what_the_counters_say_of_it(self, fate: Any, counted: str) -> None:
        implied = outcomes.delivery_reported(sms(State.SUBMITTED), 0, NOW, NOW).sms
        outcome = outcomes.counted(implied, fate, NOW, TERMS)
        assert outcome is not None and (outcome.counted, outcome.publications) == (counted, ())


STEPS = st.sampled_from(["taken", "lost", "sent", "failed", "not_sure", "refused", "deadline", "listed"])


def step(row: Sms, name: str) -> Outcome | None:
    match name:
        case "taken":
            return outcomes.answered(row, codes.Submitted(), NOW, TERMS, ahead=0, elsewhere=False)
        case "lost":
            return outcomes.answered(row, codes.InDoubt("x"), NOW, TERMS, ahead=0, elsewhere=False)
        case "refused":
            return outcomes.answered(row, codes.Failed(8, "x", certain=True), NOW, TERMS, ahead=0, elsewhere=False)
        case "sent":
            return outcomes.reported(row, sent_report(), NOW, TERMS, elsewhere=False)
        case "failed":
            return outcomes.reported(row, failed_report(5), NOW, TERMS, elsewhere=False)
        case "not_sure":
            return outcomes.reported(row, failed_report(6), NOW, TERMS, elsewhere=False)
        case "listed":
            return outcomes.listed(row, NOW)
        case _:
            return outcomes.given_up(row, NOW, TERMS, in_list=False)


@given(st.lists(STEPS, max_size=12))
def test_any_order_of_words_gives_one_final_event_and_corrections_that_say_so(names: list[str]) -> None:
    row, told = sms(), list[Publication]()
    for name in names:
        if outcome := step(row, name):
            row = outcome.sms
            told += outcome.publications
    bodies = [json.loads(one.body) for one in told]
    final = [body for body in bodies if body["type"].split(".")[1] in {"sent", "failed", "unknown"}]
    assert [body for body in final[1:] if "corrects" not in body["data"]] == []
    assert bool(final) == row.state.final
    assert [body["sequence"] for body in bodies] == [f"{n:010d}" for n in range(1, len(bodies) + 1)]
    assert len({body["id"] for body in bodies}) == len(bodies)


class TestReplayed:
    """A rejected SMS whose request was found again."""

    REQUEST = Request(
        key=Key("shop", "a"),
        body=SendRequest(to=TO, text="hi", metadata={"o": "7"}),
        raw='{"to":"x","text":"hi"}',
        to=TO,
        routing_key="send.otp",
        fingerprint=b"f",
        segments=2,
        encoding="ucs2",
        expires_at=NOW + 600,
        route="otp",
        timestamp=5.0,
    )

    def rejected(self) -> Sms:
        row = replace(sms(State.REJECTED), gateway=None, port=None, sim=None, tid=None, request="{}", attempt=3)
        return replace(row, event_id="shop:a/3/sms.rejected", event_type="sms.rejected", sequence=4, reason="x")

    def test_it_goes_back_whole_as_the_next_attempt(self) -> None:
        outcome = outcomes.replayed(self.rejected(), self.REQUEST, NOW)
        back, (copy,) = outcome.sms, outcome.publications
        assert outcome.past is None, "no device had it"
        assert (back.state, back.state_at, back.attempt, back.sequence) == (State.HANDED_BACK, NOW, 3, 4)
        assert (back.deadline_at, back.expires_at) == (NOW + 600 + 3_600, NOW + 600)
        assert (back.recipient, back.segments, back.encoding, back.reason) == (TO, 2, "ucs2", None)
        assert back.asked["body"] == self.REQUEST.raw and back.asked["meta"] == {"o": "7"}
        assert (copy.exchange, copy.routing_key, copy.body) == ("requests", "send.otp", self.REQUEST.raw.encode())
        assert copy.headers == {"x-attempt": 4, "x-expires-at": NOW + 600, "x-corrects": "shop:a/3/sms.rejected"}

    def test_what_it_comes_to_names_the_rejection_and_what_comes_on_the_way_does_not(self) -> None:
        back = outcomes.replayed(self.rejected(), self.REQUEST, NOW).sms
        begun = replace(back, state=State.SUBMITTING, attempt=4, gateway="gw1", port=3, sim="8949", tid=78)
        submitted = outcomes.answered(begun, codes.Submitted(), NOW, TERMS, ahead=0, elsewhere=True)
        assert submitted is not None and "corrects" not in told(submitted)["data"]
        sent = outcomes.sent_as(submitted.sms, NOW, at=None)
        assert sent is not None and told(sent)["data"]["corrects"] == "shop:a/3/sms.rejected"
        delivered = outcomes.delivery_reported(sent.sms, 0, None, NOW)
        assert "corrects" not in told(delivered)["data"]

    def test_late_evidence_after_it_names_the_event_before_it(self) -> None:
        back = outcomes.replayed(self.rejected(), self.REQUEST, NOW).sms
        doubtful = replace(back, state=State.IN_DOUBT, attempt=4, gateway="gw1", port=3, tid=78, reason="answer_lost")
        unknown = outcomes.given_up(doubtful, NOW, TERMS, in_list=False)
        assert unknown is not None and told(unknown)["data"]["corrects"] == "shop:a/3/sms.rejected"
        sent = outcomes.sent_as(unknown.sms, NOW, at=None)
        assert sent is not None and told(sent)["data"]["corrects"] == "shop:a/4/sms.unknown"


def told(outcome: Outcome) -> dict[str, Any]:
    """The last event."""
    event: dict[str, Any] = json.loads(outcome.publications[-1].body)
    return event
