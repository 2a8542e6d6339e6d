"""What a device's numbers prove, written down once more by hand: a slip in this table sends an SMS twice or never."""

from __future__ import annotations

import pytest

from bridge.ejoin import codes
from bridge.ejoin.codes import Failed, HandBack, InDoubt, Sent, Submitted, of_ack, of_answer, of_failure
from bridge.ejoin.facts import FailedRow, SubmitAnswer, TaskAck

ELSEWHERE, LATER, STOP = ("elsewhere", "sim", False), ("later", "gateway", False), ("later", "gateway", True)
AGAIN = ("again", "task", False)


def failed_row(code: int | None, text: str = "", *, operator: int | None = None) -> FailedRow:
    return FailedRow(0, "10086", None, None, code, text, operator)


def test_an_accepted_task_is_submitted() -> None:
    assert of_ack(TaskAck(1, 0, "OK")) == Submitted()


@pytest.mark.parametrize(
    ("code", "expected"),
    [(2, ELSEWHERE), (5, ELSEWHERE), *((code, LATER) for code in (4, 7, 10, 16)), (1, STOP), (14, STOP), (13, AGAIN)],
)
def test_a_refusal_that_may_be_tried_again(code: int, expected: tuple[str, str, bool]) -> None:
    verdict = of_ack(TaskAck(1, code, "the device's words"))
    assert isinstance(verdict, HandBack)
    assert (verdict.where, verdict.scope, verdict.stop) == expected
    assert (verdict.code, verdict.text) == (code, "the device's words")


@pytest.mark.parametrize("code", [3, 8, 9, 11, 12, 15, 17, 18, 19, 20])
def test_a_refusal_for_good(code: int) -> None:
    assert of_ack(TaskAck(1, code, "")) == Failed(code, codes.TEXTS[code], certain=True)


@pytest.mark.parametrize(
    "ack", [None, TaskAck(1, None, "OK"), *(TaskAck(1, code, "x") for code in (6, 21, 99, 200, -1, 2**31))]
)
def test_what_proves_nothing_is_in_doubt(ack: TaskAck | None) -> None:
    assert isinstance(of_ack(ack), InDoubt)


def test_doubt_names_the_devices_words() -> None:
    assert of_ack(TaskAck(1, 21, "Busy")) == InDoubt("the device answered 21 Busy")
    assert of_ack(TaskAck(1, 21)) == InDoubt("the device answered 21")


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        (0, Sent()),
        (6, Failed(6, "Timeout", certain=False)),
        (7, Failed(7, "Server Error", certain=False)),
        (5, HandBack("elsewhere", "sim", 5, "SIM Unregistered")),
        (8, Failed(8, "SMS expected", certain=True)),
        (1, HandBack("later", "gateway", 1, "Invalid User", stop=True)),
    ],
)
def test_the_old_interface_answers_for_the_radio_too(code: int, verdict: codes.Verdict) -> None:
    assert of_ack(TaskAck(1, code, final=True)) == verdict


def test_every_code_of_the_document_has_both_verdicts() -> None:
    assert codes.CODES.keys() == set(range(21)) == codes.TEXTS.keys()
    assert set(codes.ST_NAMES) == set(range(17)) - {10}
    assert codes.ST_NAMES[codes.CAN_SEND_ST] == "registered"


# --- whole answers ----------------------------------------------------------------------------------------------------


def test_rows_are_matched_by_task_id_and_a_missing_one_is_in_doubt() -> None:
    answer = SubmitAnswer(200, "OK", (TaskAck(3, 5, "SIM Unregistered"), TaskAck(99, 0, "OK"), TaskAck(1, 0, "OK")))
    verdicts = of_answer(answer, [1, 2, 3])
    assert verdicts == {
        1: Submitted(),
        2: InDoubt("the answer has no row for the task"),
        3: HandBack("elsewhere", "sim", 5, "SIM Unregistered"),
    }


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (1, HandBack("later", "gateway", 1, "no", stop=True)),
        (16, HandBack("later", "gateway", 16, "no")),
        (8, Failed(8, "no", certain=True)),
        (6, InDoubt("the device answered 6 no")),
        (500, InDoubt("the device answered 500 no")),
        (200, InDoubt("the answer has no row for the task")),
        (0, InDoubt("the answer has no row for the task")),
        (None, InDoubt("the answer has no row for the task")),
    ],
)
def test_an_answer_without_rows_speaks_for_all_tasks(code: int | None, expected: object) -> None:
    assert of_answer(SubmitAnswer(code, "no", ()), [1, 2]) == {1: expected, 2: expected}


def test_rows_win_over_the_envelopes_code() -> None:
    verdicts = of_answer(SubmitAnswer(1, "Invalid User", (TaskAck(1, 0, "OK"),)), [1, 2])
    assert verdicts == {1: Submitted(), 2: InDoubt("the answer has no row for the task")}


def test_a_task_named_twice_counts_once_or_is_in_doubt() -> None:
    same = SubmitAnswer(200, "OK", (TaskAck(1, 0, "OK"), TaskAck(1, 0, "again")))
    torn = SubmitAnswer(200, "OK", (TaskAck(1, 5, "no"), TaskAck(1, 0, "OK")))
    assert of_answer(same, [1]) == {1: Submitted()}
    assert isinstance(of_answer(torn, [1])[1], InDoubt)


# --- failure reports --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [2, 5])
def test_a_port_that_could_not_send_is_proof(code: int) -> None:
    assert of_failure(failed_row(code)) == HandBack("elsewhere", "sim", code, codes.TEXTS[code])


@pytest.mark.parametrize("code", [*(set(range(21)) - {2, 5}), 99])
def test_any_other_failure_is_uncertain(code: int) -> None:
    assert of_failure(failed_row(code, "words")) == Failed(code, "words", certain=False)


def test_a_failure_without_number_is_uncertain() -> None:
    assert of_failure(failed_row(None, "no signal")) == Failed(None, "no signal", certain=False)
    assert of_failure(failed_row(6)) == Failed(6, "Timeout", certain=False)


@pytest.mark.parametrize("code", [7, None, 99])
@pytest.mark.parametrize("cause", sorted(codes.PROVEN_OPERATOR_CAUSES))
def test_a_refusal_by_the_network_is_proof_whatever_the_device_thinks(code: int | None, cause: int) -> None:
    assert of_failure(failed_row(code, "x", operator=cause)) == HandBack("elsewhere", "sim", code, "x")


@pytest.mark.parametrize("cause", [0, 27, 38, 41, 47, 81, 95, 98, 111, 127, 194, 197, 255, 331, 332, 350, 500, 512])
def test_a_lost_answer_behind_the_network_is_no_proof(cause: int) -> None:
    assert of_failure(failed_row(7, "x", operator=cause)) == Failed(7, "x", certain=False)
