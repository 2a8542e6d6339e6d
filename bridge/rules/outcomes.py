"""What a verdict, a report or a deadline makes of an SMS: the arrows of the state table (design 2.1).

Pure: each function takes the row as it is and answers with the row as it shall be, the events to tell and, where an
attempt ended without ending the SMS, that attempt. ``None`` means that nothing changes. Exactly one final event comes
out of any order and repetition; late evidence corrects an unknown or an uncertain failure, and says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, assert_never

from bridge.ejoin import codes
from bridge.ejoin.facts import FailedRow, SentRow, SmsReport
from bridge.models import (
    H_ATTEMPT,
    H_CORRECTS,
    H_DUPLICATE,
    H_EXPIRES_AT,
    H_PARENT,
    H_TRACEPARENT,
    H_TRIED,
    Publication,
    Request,
    Sms,
    State,
    stamp,
    tell,
)
from bridge.rules.matching import same_number

REPORT_CACHE_S = 8.0
"""Both levels of the device's report cache at our settings: 3 s in the envelope and 5 s in the task (design 2.2)."""

LATE_COPY_S = 3_600.0
"""A handed-back SMS whose copy has not come back this long after its age is ended by the patrol."""

ANSWER_LOST, REPORT_LOST, RESTART = "answer_lost", "report_lost", "restart"


STATISTICS = "statistics"
"""The evidence of an SMS whose report never came: its SIM's own counters."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The row as it shall be, what to publish, and the attempt that ended (to be kept for late reports).

    ``counted`` is what the SIM's account is to note (see ``evidence``): a result as the device counted it, or
    ``lost`` where the attempt leaves our books without one.
    """

    sms: Sms
    publications: tuple[Publication, ...] = ()
    past: Sms | None = None
    counted: Literal["ok", "failed", "lost"] | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """The numbers that decide deadlines and retries (design 2.2); ``resend`` is the route's ``on_doubt: resend``."""

    max_attempts: int
    timeout_s: float
    report_margin_s: float
    doubt_s: float
    resend: bool = False


def answered(
    sms: Sms, verdict: codes.Verdict, now: float, terms: Terms, *, ahead: int, elsewhere: bool
) -> Outcome | None:
    """The gateway's answer to the submit.

    ``ahead`` counts the tasks that wait before this one on its port, ``elsewhere`` says whether another SIM is left.
    None where a report has jumped ahead or another attempt is in hand. A verdict that could be stored only after the
    row's deadline still counts.
    """
    waited_in_vain = sms.state is State.IN_DOUBT and sms.reason == ANSWER_LOST
    if sms.state is not State.SUBMITTING and not waited_in_vain:
        return None
    match verdict:
        case codes.Submitted():
            wait_s = (ahead + 1) * terms.timeout_s + REPORT_CACHE_S + terms.report_margin_s
            return _told(sms, "sms.submitted", now, state=State.SUBMITTED, deadline_at=now + wait_s, reason=None)
        case codes.Sent():
            return sent_as(sms, now, at=None)
        case codes.HandBack():
            return hand_back(sms, verdict, now, terms, elsewhere=elsewhere)
        case codes.Failed(certain=False):  # the old interface: it has tried to send
            return _not_sure(sms, now, terms, verdict.code, verdict.text)
        case codes.Failed():
            return _failed(sms, now, reason="not_taken", code=verdict.code, text=verdict.text, certain=verdict.certain)
        case codes.InDoubt():
            return doubted(sms, ANSWER_LOST, now, terms)
        case _:
            assert_never(verdict)


def hand_back(sms: Sms, verdict: codes.HandBack, now: float, terms: Terms, *, elsewhere: bool) -> Outcome:
    """It provably did not go on air: back to the broker as the next attempt, or failed where no SIM is left."""
    tried = (*sms.tried, sms.sim) if verdict.scope == "sim" and sms.sim else sms.tried
    if verdict.scope == "sim" and (not elsewhere or len(tried) >= terms.max_attempts):
        return _failed(
            replace(sms, tried=tried),
            now,
            reason="no_sim_left",
            code=verdict.code,
            text=verdict.text,
            certain=not sms.asked.get("pd"),  # an earlier attempt may be on air
        )
    return _back(replace(sms, tried=tried), now, code=verdict.code, text=verdict.text, later=verdict.where == "later")


def _back(sms: Sms, now: float, *, code: int | None, text: str, later: bool = False, resent: bool = False) -> Outcome:
    ended = replace(sms, code=code, reason=text)
    deadline_at = (sms.expires_at or now) + LATE_COPY_S
    back = replace(sms, state=State.HANDED_BACK, state_at=now, deadline_at=deadline_at, code=None, reason=None)
    return Outcome(back, (again(back, later=later, resent=resent),), ended, counted="lost" if resent else None)


def again(sms: Sms, *, later: bool, resent: bool = False) -> Publication:
    """The request of a handed-back SMS, word for word, numbered as its next attempt; ``resent`` marks what may be on
    air already.
    """
    asked = sms.asked
    headers: dict[str, Any] = {H_ATTEMPT: sms.attempt + 1, H_EXPIRES_AT: sms.expires_at}
    optional: Mapping[str, Any] = {
        H_TRIED: json.dumps(sms.tried) if sms.tried else None,
        H_DUPLICATE: True if resent or asked.get("pd") else None,
        H_PARENT: sms.parent,
        H_TRACEPARENT: asked.get("tp"),
        H_CORRECTS: asked.get("corrects"),
    }
    headers |= {name: value for name, value in optional.items() if value is not None}
    return Publication(
        "later.5" if later else "requests",
        asked["rk"],
        asked["body"].encode(),
        message_id=sms.id,
        app_id=sms.app_id or None,
        correlation_id=asked.get("cid"),
        timestamp=asked.get("ts"),
        reply_to=asked.get("reply_to"),
        headers=headers,
    )


def replayed(sms: Sms, request: Request, now: float) -> Outcome:
    """A rejected SMS whose request was found again: back to the broker as its next attempt.

    The final event of that takes the place of the one that told the rejection.
    """
    back = replace(
        sms,
        state=State.HANDED_BACK,
        state_at=now,
        deadline_at=request.expires_at + LATE_COPY_S,
        expires_at=request.expires_at,
        request=replace(request, corrects=sms.event_id).stored(),
        route=request.route,
        recipient=request.to,
        segments=request.segments,
        encoding=request.encoding,
        reason=None,
    )
    return Outcome(back, (again(back, later=False),))


def reported(sms: Sms, report: SmsReport, now: float, terms: Terms, *, elsewhere: bool) -> Outcome | None:
    """The device's later word about the task; it implies everything before it.

    A row counts where its number is our recipient. Counters alone count where no row was sent along, since the task
    id is unique among ours. None where this is a repeat or about somebody else.
    """
    sent = [row for row in report.sent_rows if same_number(row.number, sms.recipient)]
    failed = [row for row in report.failed_rows if same_number(row.number, sms.recipient)]
    bare = not report.sent_rows and not report.failed_rows
    if sent or (bare and report.sent == 1):
        if owes_word(sms):
            return _own_word(sms, "ok")
        return sent_as(sms, now, at=sent[0].at if sent else None)
    if failed or (bare and report.failed == 1):
        if owes_word(sms):
            return _own_word(sms, "failed")
        row = failed[0] if failed else FailedRow(0, sms.recipient, None, None, None)
        return _failure_reported(sms, row, now, terms, elsewhere=elsewhere)
    return None


def owes_word(sms: Sms) -> bool:
    """Whether a delivery report has said ``sent`` before the device's own report, which may say otherwise."""
    return sms.state is State.SENT and sms.code is None


def _own_word(sms: Sms, word: Literal["ok", "failed"]) -> Outcome:
    """What the device counted of an SMS that is known to be sent: for its SIM's account alone."""
    return Outcome(replace(sms, code=0), counted=word)


def row_of_past(report: SmsReport, recipient: str) -> SentRow | None:
    """The success detail about this recipient, for an attempt that was already handed back."""
    return next((row for row in report.sent_rows if same_number(row.number, recipient)), None)


def sent_as(
    sms: Sms, now: float, *, at: float | None, possible_duplicate: bool = False, evidence: str | None = None
) -> Outcome | None:
    """The network took it. None where that was told, or where the SMS ended otherwise for certain."""
    detail = {"sent_at": stamp(at), "possible_duplicate": possible_duplicate or None, "evidence": evidence}
    if sms.state.final:
        if not _correctable(sms):
            return None
        detail["corrects"] = sms.event_id
    changes = {"state": State.SENT, "deadline_at": None, "code": 0, "reason": None, "certain": True}
    return replace(_told(sms, "sms.sent", now, detail, **changes), counted="ok" if _awaited(sms) else None)


def _failure_reported(sms: Sms, row: FailedRow, now: float, terms: Terms, *, elsewhere: bool) -> Outcome | None:
    """A later segment that the network refused says nothing about the first: of a long text only 2 and 5 are proven."""
    verdict = codes.of_failure(row)
    proven = isinstance(verdict, codes.HandBack) and (sms.segments <= 1 or row.code in {2, 5})
    told: dict[str, Any] = {
        "code": row.code,
        "text": row.text,
        "certain": proven,
        "operator_code": row.operator_code,
        "operator_text": row.operator_text or None,
    }
    if sms.state is State.UNKNOWN:
        reason = "not_sent" if proven else "not_sure"
        outcome = _failed(sms, now, reason=reason, **told, corrects=sms.event_id)
    elif not sms.state.open:
        return None
    elif proven and elsewhere and len(sms.tried) + 1 < terms.max_attempts and isinstance(verdict, codes.HandBack):
        outcome = hand_back(sms, verdict, now, terms, elsewhere=True)
    elif proven:
        tried = (*sms.tried, sms.sim) if sms.sim else sms.tried
        told["certain"] = not sms.asked.get("pd")  # an earlier attempt may be on air
        outcome = _failed(replace(sms, tried=tried), now, reason="no_sim_left", **told)
    else:
        outcome = _resent(sms, now, terms, row.code, row.text) or _failed(sms, now, reason="not_sure", **told)
    return replace(outcome, counted="failed")


def counted(sms: Sms, fate: Literal["sent", "failed"], now: float, terms: Terms) -> Outcome | None:
    """The SIM's own counters say how it ended, though no report came (evidence 3); why it failed they do not say."""
    if owes_word(sms):
        return _own_word(sms, "ok" if fate == "sent" else "failed")
    if fate == "sent":
        return sent_as(sms, now, at=None, evidence=STATISTICS)
    if not sms.state.open:
        return None
    text = "the device counted a failure, its report was lost"
    return _not_sure(sms, now, terms, None, text, evidence=STATISTICS)


def absent(sms: Sms, now: float) -> Outcome | None:
    """The SIM's own counters prove that it never reached the device (evidence 3): it may be handed over anew."""
    return _back(sms, now, code=None, text="it never reached the device") if sms.state is State.IN_DOUBT else None


def doubted(sms: Sms, reason: str, now: float, terms: Terms) -> Outcome | None:
    """The answer or the report was lost: only evidence settles it now, until the deadline that is set once."""
    if sms.state not in {State.SUBMITTING, State.SUBMITTED}:
        return None
    return Outcome(replace(sms, state=State.IN_DOUBT, state_at=now, deadline_at=now + terms.doubt_s, reason=reason))


def listed(sms: Sms, now: float) -> Outcome | None:
    """The device's task list shows it: taken for certain, the doubt's deadline stays (design 2.1)."""
    if sms.state is not State.IN_DOUBT:
        return None
    if sms.event_type == "sms.submitted":
        return Outcome(replace(sms, state=State.SUBMITTED, state_at=now))
    return _told(sms, "sms.submitted", now, state=State.SUBMITTED)


def overdue(sms: Sms, now: float, terms: Terms) -> Outcome | None:
    """The answer or the report did not come in time: in doubt from now on."""
    return doubted(sms, REPORT_LOST if sms.state is State.SUBMITTED else ANSWER_LOST, now, terms)


def given_up(sms: Sms, now: float, terms: Terms, *, in_list: bool) -> Outcome | None:
    """The deadline of a doubt has passed, and no evidence settles it.

    ``in_list`` says that the device's task list still shows it: asked again every minute while there is any sense.
    """
    if not sms.state.open or sms.reason is None:
        return None
    if in_list and now < (sms.expires_at or now) + terms.doubt_s:
        return Outcome(replace(sms, deadline_at=now + 60.0))
    if resent := _resent(sms, now, terms, None, f"in doubt: {sms.reason}"):
        return resent
    return _told(sms, "sms.unknown", now, {"reason": sms.reason}, state=State.UNKNOWN, deadline_at=None)


def delivery_reported(sms: Sms, code: int | None, at: float | None, now: float) -> Outcome:
    """A delivery report matched: it follows ``sent``, and implies it where the device's own is cached still or lost."""
    sent = (sent_as(sms, now, at=None) if sms.state is not State.SENT else None) or Outcome(sms)
    if sent.counted is not None:  # the network's word; what the device counted, it has yet to tell
        sent = replace(sent, sms=replace(sent.sms, code=None), counted=None)
    kind = "sms.delivered" if code == 0 else "sms.undelivered"
    told, event = tell(sent.sms, kind, now, **_some({"code": code, "reported_at": stamp(at)}))
    return replace(sent, sms=told, publications=(*sent.publications, event))


def _resent(sms: Sms, now: float, terms: Terms, code: int | None, text: str) -> Outcome | None:
    """What may be on air is sent again where its route wants that (``on_doubt: resend``), marked as such."""
    if not terms.resend or sms.attempt >= terms.max_attempts or now >= (sms.expires_at or now):
        return None
    return _back(sms, now, code=code, text=text, resent=True)


def _not_sure(sms: Sms, now: float, terms: Terms, code: int | None, text: str, **detail: Any) -> Outcome:
    """The device says that it failed, and it may be on air."""
    failed = _failed(sms, now, reason="not_sure", code=code, text=text, certain=False, **detail)
    return replace(_resent(sms, now, terms, code, text) or failed, counted="failed")


def _awaited(sms: Sms) -> bool:
    """Whether the device's word about it is still missing in its SIM's account."""
    return sms.state.open or sms.state is State.UNKNOWN


def _correctable(sms: Sms) -> bool:
    return sms.state is State.UNKNOWN or (sms.state is State.FAILED and sms.certain is False)


def _failed(sms: Sms, now: float, *, reason: str, code: int | None, text: str, certain: bool, **detail: Any) -> Outcome:
    told = {"reason": reason, "code": code, "text": text or None, "certain": certain, **detail}
    changes = {"state": State.FAILED, "deadline_at": None, "code": code, "reason": reason, "certain": certain}
    return _told(sms, "sms.failed", now, told, **changes)


def _told(sms: Sms, kind: str, now: float, detail: dict[str, Any] | None = None, **changes: Any) -> Outcome:
    """A change of state that is told."""
    told, publication = tell(sms, kind, now, changes={**changes, "state_at": now}, **_some(detail or {}))
    return Outcome(told, (publication,))


def _some(detail: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in detail.items() if value is not None}
