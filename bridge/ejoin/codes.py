"""What the device's numbers mean: the document's wording, and what each code says about an SMS.

One table with two columns, because the same code proves different things in the answer to a submit and in a failure
report. A verdict says what to do with the SMS next; budgets, pauses and attempts are the rules' business. No JSON
here (see ``encode`` and ``decode``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from bridge.ejoin.facts import FailedRow, SubmitAnswer, TaskAck

CAN_SEND_ST = 3
"""The only ``st`` in which a port sends: registered."""

SOURCE_HTTP = 3
"""The ``src_type`` of a ``sent-sms`` that came over HTTP, as ours do (document 4.4)."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """The device took the task; a report follows."""


@dataclass(frozen=True, slots=True)
class Sent:
    """The device says that it has left; nothing follows."""


@dataclass(frozen=True, slots=True)
class HandBack:
    """It provably did not go on air and may be tried again.

    ``where``: ``elsewhere`` is another SIM, ``later`` the 5 s tier, ``again`` straight back. ``scope`` is what is to
    blame: the SIM (it counts as tried), the whole gateway (it pauses; with ``stop`` long, devices lock out), or the
    task id alone.
    """

    where: Literal["elsewhere", "later", "again"]
    scope: Literal["sim", "gateway", "task"]
    code: int | None
    text: str
    stop: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """It is not going out. ``certain`` is False where the device gave up waiting: it may have gone on air."""

    code: int | None
    text: str
    certain: bool


@dataclass(frozen=True, slots=True)
class InDoubt:
    """The device may have it or not; only evidence settles it."""

    reason: str


Verdict: TypeAlias = Submitted | Sent | HandBack | Failed | InDoubt


def _submitted(_code: int, _text: str) -> Verdict:
    return Submitted()


def _elsewhere(code: int, text: str) -> HandBack:
    return HandBack("elsewhere", "sim", code, text)


def _later(code: int, text: str) -> Verdict:
    return HandBack("later", "gateway", code, text)


def _stop(code: int, text: str) -> Verdict:
    return HandBack("later", "gateway", code, text, stop=True)


def _again(code: int, text: str) -> Verdict:
    return HandBack("again", "task", code, text)


def _refused(code: int, text: str) -> Verdict:
    return Failed(code, text, certain=True)


def _in_doubt(code: int, text: str) -> Verdict:
    return InDoubt(f"the device answered {code} {text}".rstrip())


def _not_sure(code: int | None, text: str) -> Failed:
    return Failed(code, text, certain=False)


@dataclass(frozen=True, slots=True)
class Code:
    """One row of the table: the wording, and the verdict of each column."""

    text: str
    answered: Callable[[int, str], Verdict]
    reported: Callable[[int, str], HandBack | Failed]


CODES: dict[int, Code] = {
    # the document's wording (1.3.1.4; from 13 on: later documents)   answer to a submit   failure report
    0: Code("OK", _submitted, _not_sure),
    1: Code("Invalid User", _stop, _not_sure),
    2: Code("Invalid Port", _elsewhere, _elsewhere),
    3: Code("USSD Expected", _refused, _not_sure),
    4: Code("Pending USSD", _later, _not_sure),
    5: Code("SIM Unregistered", _elsewhere, _elsewhere),
    6: Code("Timeout", _in_doubt, _not_sure),
    7: Code("Server Error", _later, _not_sure),
    8: Code("SMS expected", _refused, _not_sure),
    9: Code("TO expected", _refused, _not_sure),
    10: Code("Pending Transaction", _later, _not_sure),
    11: Code("TID Expected", _refused, _not_sure),
    12: Code("FROM Expected", _refused, _not_sure),
    13: Code("Duplicated TaskId", _again, _not_sure),
    14: Code("Unauthorized", _stop, _not_sure),
    15: Code("Invalid CMD", _refused, _not_sure),
    16: Code("Too Many Task", _later, _not_sure),
    17: Code("MMS Title expected", _refused, _not_sure),
    18: Code("Too Many MMS Attachments", _refused, _not_sure),
    19: Code("MMS Attachments expected", _refused, _not_sure),
    20: Code("MMS Attachments Cache Size Overlimit", _refused, _not_sure),
}

TEXTS: dict[int, str] = {number: code.text for number, code in CODES.items()}
"""The document's wording of each task status."""

ST_NAMES: dict[int, str] = {
    0: "no_sim",
    1: "idle",
    2: "registering",
    3: "registered",
    4: "call_connected",
    5: "no_balance_or_alarm",
    6: "register_failed",
    7: "locked_by_device",
    8: "locked_by_operator",
    9: "sim_error",
    11: "sim_detected",
    12: "user_locked",
    13: "inter_calling",
    14: "inter_calling_hold",
    15: "mobile_network",
    16: "module_timeout",
}
"""A word for each port status (document 4.1; 15 and 16: later documents)."""

PROVEN_OPERATOR_CAUSES: dict[int, str] = {
    # RP-ERROR from the network (3GPP TS 24.011, 8.2.5.4): the transfer was refused before the message centre had it.
    1: "Unassigned number",
    8: "Operator determined barring",
    10: "Call barred",
    21: "Short message transfer rejected",
    28: "Unidentified subscriber",
    29: "Facility rejected",
    30: "Unknown subscriber",
    42: "Congestion",
    50: "Requested facility not subscribed",
    69: "Requested facility not implemented",
    # TP-FCS of the message centre's own refusal (3GPP TS 23.040, 9.2.3.22).
    128: "Telematic interworking not supported",
    129: "Short message type 0 not supported",
    144: "Data coding scheme not supported",
    145: "Message class not supported",
    176: "TPDU not supported",
    192: "SC busy",
    193: "No SC subscription",
    195: "Invalid SME address",
    196: "Destination SME barred",
    198: "TP-VPF not supported",
    199: "TP-VP not supported",
}
"""Operator causes that prove a refusal by the network.

What a network also says when only an answer was lost is left out: 38, 41, 47, 111, 127 (a switch that waited in vain
for the message centre), 81 and 95 to 99 (a repeat that crossed its answer), 197 (the centre has it already), 332
(network timeout), 500 (unknown), and whatever only the modem says (300 and above).
"""

SENDING = frozenset({0, 6, 7})
"""What a device that answers after the send can only say when it has tried to send; else it refused the request."""

SUCCESS = frozenset({0, 200})
"""The envelope's ``code`` of a call that went well; which of the two depends on the call and on the firmware."""


def of_ack(ack: TaskAck | None) -> Verdict:
    """What the answer to one task of a submit means for its SMS; None: the answer had no row for it."""
    if ack is None:
        return InDoubt("the answer has no row for the task")
    if ack.code is None:
        return InDoubt("the task's status has no readable number")
    code = CODES.get(ack.code)
    if code is None:
        return _in_doubt(ack.code, ack.text)
    if ack.final and ack.code in SENDING:
        return Sent() if ack.code == 0 else code.reported(ack.code, ack.text or code.text)
    return code.answered(ack.code, ack.text or code.text)


def of_answer(answer: SubmitAnswer, tids: Iterable[int]) -> dict[int, Verdict]:
    """What the whole answer to a submit means for each of its tasks.

    Rows win. An answer without any row whose own code says no (a wrong password, a full queue) speaks for all tasks.
    """
    if not answer.acks and answer.code is not None and answer.code not in SUCCESS:
        whole = of_ack(TaskAck(0, answer.code, answer.reason))
        return dict.fromkeys(tids, whole)
    rows: dict[int, TaskAck] = {}
    twice: set[int] = set()
    for ack in answer.acks:
        if rows.setdefault(ack.tid, ack).code != ack.code:
            twice.add(ack.tid)
    contradicted = InDoubt("the answer names the task twice and contradicts itself")
    return {tid: contradicted if tid in twice else of_ack(rows.get(tid)) for tid in tids}


def of_failure(row: FailedRow) -> HandBack | Failed:
    """What a failure row means: a proven refusal may be tried on another SIM, all else is uncertain."""
    code = CODES.get(row.code) if row.code is not None else None
    text = row.text or (code.text if code else "")
    if row.operator_code in PROVEN_OPERATOR_CAUSES:
        return HandBack("elsewhere", "sim", row.code, text)
    if row.code is None or code is None:
        return _not_sure(row.code, text)
    return code.reported(row.code, text)
