"""Was anything lost, sent twice, stuck, or told wrongly? The ledger check over the history of a run.

Pure, and it trusts nobody but the simulator's record: what the bridge says is what is judged. In the manner of
RabbitMQ's Jepsen suite it compares what was confirmed to us with what came out in the end, key by key.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from bridge.ejoin.codes import PROVEN_OPERATOR_CAUSES
from bridge.models import SMS_EVENTS
from dev.chaos.plan import APP_ID, POLL_S, Arrival, Ask, Sms
from dev.stage import FINAL

FOREIGN = "foreign"
"""The text of SMS of another submitter."""

UNKNOWN = "sms.unknown"
PROVEN_CODES = frozenset({2, 5})
BEFORE_VERDICT_S = 50.0
"""An SMS that no device took was begun at most so long before its sms.unknown: POST, twice the doubt, a margin."""

REBOOT_LOSES_S = 30.0
"""An incoming SMS that is younger than this may be lost by a reboot: its card was not registered again yet."""

LOOKED_WITHIN_S = 2 * POLL_S
"""The counters of a SIM were looked at within this time: the bridge's first turn may find its port in use."""

MOST_UNKNOWN = 0.02
MARK = re.compile(r"\[([^\]]+)\]")


class Finding(NamedTuple):
    """Whom a verdict is about, and why."""

    key: str
    why: str


@dataclass(slots=True)
class Asked:
    """A request and what became of publishing it (unix seconds; None: never tried, never confirmed)."""

    ask: Ask
    published_at: float | None = None
    confirmed_at: float | None = None


@dataclass(slots=True)
class Came:
    """An SMS that came in, and when it was given to the simulator."""

    arrival: Arrival
    at: float | None = None


@dataclass(slots=True)
class Happened:
    """A fault, and when it was there."""

    kind: str
    what: Mapping[str, Any]
    began: float
    ended: float | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """An event as it arrived; ``broken`` says in what it breaks the contract."""

    at: float
    event: Mapping[str, Any]
    broken: str | None = None

    @property
    def kind(self) -> str:
        """Its type without the version."""
        return str(self.event["type"]).removesuffix(".v1")

    @property
    def subject(self) -> str:
        """Whom it is about."""
        return str(self.event.get("subject") or "")

    @property
    def data(self) -> Mapping[str, Any]:
        """What it says."""
        data: Mapping[str, Any] = self.event["data"]
        return data

    @property
    def final(self) -> bool:
        """Whether it ends an SMS."""
        return self.kind in FINAL and self.data.get("of_sms") is not False


@dataclass(frozen=True)
class History:
    """All that is known of a run, from every side."""

    asked: Sequence[Asked]
    came: Sequence[Came] = ()
    told: Sequence[Told] = ()
    record: Sequence[Mapping[str, Any]] = ()
    dead: Sequence[str] = ()
    """Keys and event ids that lie in the dead queue."""
    open_keys: frozenset[str] = frozenset()
    """Keys that the ledger or a queue still held in the end."""
    faults: Sequence[Happened] = ()

    @cached_property
    def sms(self) -> dict[str, Sms]:
        """Every SMS that was asked for, by key."""
        return {sms.key: sms for asked in self.asked for sms in asked.ask.sms}

    @cached_property
    def finals(self) -> dict[str, list[Told]]:
        """The final events of each subject, in order of arrival, each event id once."""
        found: dict[str, dict[str, Told]] = defaultdict(dict)
        for told in self.told:
            if told.final:
                found[told.subject].setdefault(str(told.event["id"]), told)
        return {subject: list(by_id.values()) for subject, by_id in found.items()}

    @cached_property
    def rows(self) -> dict[str, list[Mapping[str, Any]]]:
        """What the record says of each key: handed over, on air, reported."""
        found: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for row in self.record:
            if key := self.key_of(row):
                found[key].append(row)
        return found

    @cached_property
    def reports(self) -> set[tuple[str, int]]:
        """The tasks, by gateway and id, whose status report was answered 200."""
        heard = [row for row in self.record if row["kind"] == "callback" and row["http_status"] == 200]
        return {(row["gateway"], tid) for row in heard for tid in row["tids"]}

    @cached_property
    def conflicts(self) -> set[str]:
        """Subjects that were told of another request under the same key."""
        return {told.subject for told in self.told if told.data.get("reason") == "id_conflict"}

    @cached_property
    def delivered(self) -> set[tuple[str, int]]:
        """The tasks for which the network has a delivery report, by whatever way it comes."""
        wanted = {sms.key for asked in self.asked for sms in asked.ask.sms if _wants_report(asked.ask)}
        rows = (row for key in wanted for row in self.rows.get(key, []))
        return {(row["gateway"], row["tid"]) for row in rows if row["kind"] == "on_air"}

    @cached_property
    def _marked(self) -> dict[tuple[str, str], list[Sms]]:
        found: dict[tuple[str, str], list[Sms]] = defaultdict(list)
        for sms in self.sms.values():
            found[sms.mark, sms.to].append(sms)
        return found

    def key_of(self, row: Mapping[str, Any]) -> str | None:
        """The key of a row of the record, by the mark in its text, its recipient and, for one of several, its port."""
        mark = MARK.match(row.get("text") or "")
        if mark is None:
            return None
        fitting = self._marked.get((mark[1], str(row["to"])), [])
        return next((sms.key for sms in fitting if sms.port in (None, row["port"])), None)


@dataclass(slots=True)
class Verdict:
    """What the judge found; everything but ``unknown`` and ``recovered`` must be empty."""

    requests: int
    lost: list[Finding] = field(default_factory=list)
    duplicated: list[Finding] = field(default_factory=list)
    stuck: list[Finding] = field(default_factory=list)
    unexpected: list[Finding] = field(default_factory=list)
    unknown: list[Finding] = field(default_factory=list)
    unknown_provable: list[Finding] = field(default_factory=list)
    recovered: int = 0
    """Requests that were never confirmed to us and came through all the same."""
    ended: Counter[str] = field(default_factory=Counter)
    delivery_reports: dict[str, int] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether the promises were kept."""
        return not self.bad and len(self.unknown) <= MOST_UNKNOWN * self.requests

    @property
    def bad(self) -> list[tuple[str, Finding]]:
        """All findings that must not be, with the verdict's name."""
        names = ("lost", "duplicated", "stuck", "unexpected", "unknown_provable")
        return [(name, finding) for name in names for finding in getattr(self, name)]


def judge(history: History) -> Verdict:
    """The verdict over a whole run."""
    verdict = Verdict(len(history.sms) + sum(not asked.ask.sms for asked in history.asked))
    for name, finding in _unsettled(history):
        getattr(verdict, name).append(finding)
    verdict.lost += _lost_arrivals(history)
    verdict.duplicated += _duplicated(history)
    verdict.unexpected += [*_foreign_events(history), *_foreign_tasks(history), *_contradictions(history)]
    verdict.unexpected += [*_untrue_steps(history), *_repeated_arrivals(history)]
    verdict.unknown += [Finding(told.subject, str(told.data.get("reason"))) for told in _unknown(history)]
    verdict.unknown_provable += _provable(history)
    verdict.recovered = sum(asked.confirmed_at is None and _is_ended(history, asked.ask) for asked in history.asked)
    verdict.ended.update(told[-1].kind for told in history.finals.values())
    verdict.delivery_reports = _delivery_reports(history)
    return verdict


def is_settled(history: History) -> bool:
    """Whether nothing is left to wait for."""
    return not any(_unsettled(history)) and not any(_lost_arrivals(history))


# --- nothing lost, nothing stuck -------------------------------------------------------------------------------------


def _unsettled(history: History) -> Iterator[tuple[str, Finding]]:
    """Confirmed requests without an end: stuck where somebody still holds them, else lost."""
    reported: set[str] = set()
    for asked in history.asked:
        if asked.confirmed_at is None:
            continue
        for key in _open(history, asked.ask):
            if key in reported:
                continue
            reported.add(key)
            if key in history.open_keys or asked.ask.key in history.open_keys:
                yield "stuck", Finding(key, f"{asked.ask.kind}: not final, and still held")
            else:
                yield "lost", Finding(key, f"{asked.ask.kind}: confirmed, no final event, not in the dead queue")


def _open(history: History, ask: Ask) -> list[str]:
    """The keys of a request that have not ended."""
    if ask.kind == "conflict":
        return [] if ask.key in history.conflicts else [ask.key]
    if _has_ended(history, ask.key):
        return []  # the SMS itself, or a list that was refused or came too late as a whole
    if not ask.sms:
        return [ask.key]
    return [sms.key for sms in ask.sms if not _has_ended(history, sms.key)]


def _is_ended(history: History, ask: Ask) -> bool:
    return not _open(history, ask)


def _has_ended(history: History, key: str) -> bool:
    return key in history.finals or key in history.dead


def _lost_arrivals(history: History) -> Iterator[Finding]:
    told = {str(one.data["text"]) for one in history.told if one.kind == "sms.received"}
    for came in history.came:
        arrival = came.arrival
        if came.at is None or arrival.text in told:
            continue
        if not _rebooted(history, arrival.gateway, came.at, came.at + REBOOT_LOSES_S):
            yield Finding(_mark_of(arrival.text), f"came in on {arrival.gateway}/{arrival.port} and was never told")


# --- nothing twice ---------------------------------------------------------------------------------------------------


def _duplicated(history: History) -> Iterator[Finding]:
    for key, rows in history.rows.items():
        on_air = {(row["gateway"], row["tid"]) for row in rows if row["kind"] == "on_air"}
        if len(on_air) > 1:
            yield Finding(key, f"on air {len(on_air)} times: {_tasks(on_air)}")
        proven: set[tuple[str, int]] = set()
        handed: set[tuple[str, int]] = set()
        for row in rows:
            task = (row["gateway"], row["tid"])
            if row["kind"] == "reported" and proves_failure(row):
                proven.add(task)
            if row["kind"] == "handed_over":
                if handed - proven:
                    yield Finding(key, f"handed over again, though not proven failed: {_tasks(handed - proven)}")
                handed.add(task)


def proves_failure(row: Mapping[str, Any]) -> bool:
    """Whether the device's word rules out that it went on air; of a long text the first segment may have."""
    if row["result"] != "failed":
        return False
    code = int(str(row.get("reason") or "0").split()[0])
    single = (row["segments"] or 1) == 1
    return code in PROVEN_CODES or (single and row.get("operator_code") in PROVEN_OPERATOR_CAUSES)


def _tasks(tasks: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{gateway} task {tid}" for gateway, tid in sorted(tasks))


# --- nothing unexpected ----------------------------------------------------------------------------------------------


def _foreign_events(history: History) -> Iterator[Finding]:
    """Events about nobody, and events that break the contract."""
    known = {asked.ask.key for asked in history.asked} | set(history.sms)
    texts = {came.arrival.text for came in history.came}
    for told in history.told:
        if told.broken:
            yield Finding(told.subject or str(told.event["id"]), f"breaks the contract: {told.broken}")
        if told.kind == "sms.received":
            if told.data["text"] not in texts:
                yield Finding(told.subject, "sms.received, and nobody sent it")
        elif told.kind in SMS_EVENTS and told.subject not in known:
            yield Finding(told.subject, f"{told.kind}, and nobody asked for it")


def _foreign_tasks(history: History) -> Iterator[Finding]:
    for row in history.record:
        if row["kind"] == "handed_over" and row["text"] != FOREIGN and history.key_of(row) is None:
            yield Finding(str(row["text"])[:20], f"{row['gateway']} task {row['tid']}, and nobody asked for it")


def _contradictions(history: History) -> Iterator[Finding]:
    """Two ends, a correction of nothing, or an end that the record refutes."""
    for key, finals in history.finals.items():
        uncorrected = [told for told in finals if not told.data.get("corrects")]
        if len(uncorrected) > 1:
            yield Finding(key, f"ended {len(uncorrected)} times: {', '.join(told.kind for told in uncorrected)}")
        ids = {told.event["id"] for told in finals}
        for told in finals:
            if told.data.get("corrects") not in ids | {None}:
                yield Finding(key, f"{told.kind} corrects {told.data['corrects']}, which was never told")
        if key in history.sms and (untruth := _untruth(finals[-1], history.rows.get(key, []))):
            yield Finding(key, untruth)


def _untrue_steps(history: History) -> Iterator[Finding]:
    """Events on the way that the record refutes, and two events of one SMS in the same place of its sequence."""
    happened: dict[str, set[tuple[str, int]]] = {"sms.delivered": history.delivered, "sms.submitted": set()}
    happened["sms.submitted"] |= {(r["gateway"], r["tid"]) for r in history.record if r["kind"] == "handed_over"}
    places: dict[tuple[str, str], str] = {}
    for told in history.told:
        task = (told.data.get("gateway"), told.data.get("tid"))
        if told.kind in happened and task not in happened[told.kind]:
            yield Finding(told.subject, f"{told.kind} of {task[0]} task {task[1]}, and the record does not know it")
        if told.kind in SMS_EVENTS and (sequence := told.event.get("sequence")) is not None:
            event_id = str(told.event["id"])
            if places.setdefault((told.subject, sequence), event_id) != event_id:
                yield Finding(
                    told.subject, f"{event_id} and {places[told.subject, sequence]} are both number {sequence}"
                )


def _untruth(last: Told, rows: Sequence[Mapping[str, Any]]) -> str | None:
    on_air = any(row["kind"] == "on_air" for row in rows)
    task = (last.data.get("gateway"), last.data.get("tid"))
    if last.kind == "sms.sent" and not any(r["kind"] == "on_air" and (r["gateway"], r["tid"]) == task for r in rows):
        return f"told as sent by {task[0]} task {task[1]}, which was never on air"
    certain = last.kind in {"sms.expired", "sms.rejected"} or last.data.get("certain") is True
    if certain and last.kind != "sms.sent" and on_air:
        return f"told as {last.kind.removeprefix('sms.')} for certain, and it was on air"
    return None


def _repeated_arrivals(history: History) -> Iterator[Finding]:
    ids: dict[str, set[str]] = defaultdict(set)
    for told in history.told:
        if told.kind == "sms.received" and not told.data.get("possible_repeat"):
            ids[str(told.data["text"])].add(str(told.event["id"]))
    for text, told_as in ids.items():
        if len(told_as) > 1:
            yield Finding(_mark_of(text), f"came in once, told {len(told_as)} times: {', '.join(sorted(told_as))}")


# --- what need not be unknown ----------------------------------------------------------------------------------------


class _Doubt(NamedTuple):
    """An SMS that ended unknown: where, from when to when, and what really became of it."""

    key: str
    gateway: str
    port: int
    sim: str
    began: float
    ended: float
    fate: str | None


def _unknown(history: History) -> list[Told]:
    return [finals[-1] for finals in history.finals.values() if finals[-1].kind == UNKNOWN]


def _provable(history: History) -> Iterator[Finding]:
    """Unknown ones whose SIM's counters told: no reboot, no other submitter, and all that was in doubt there, or whose
    report got lost there meanwhile, fared alike.
    """
    doubts = [_doubt(history, told) for finals in history.finals.values() for told in finals if told.kind == UNKNOWN]
    unsettled = {told.subject for told in _unknown(history)}
    for doubt in doubts:
        beside = [
            other
            for other in doubts
            if (other.gateway, other.sim) == (doubt.gateway, doubt.sim)
            and other.began <= doubt.ended
            and other.ended >= doubt.began
        ]
        fates = {other.fate for other in beside} | _untold(history, doubt)
        if (
            doubt.key in unsettled
            and fates in ({"sent"}, {"failed"}, {"never"})
            # Its counters may have begun anew so shortly before that the bridge need not have looked since.
            and not _rebooted(history, doubt.gateway, doubt.began - POLL_S, doubt.ended)
            and not _shared(history, doubt)
        ):
            yield Finding(
                doubt.key, f"{doubt.gateway} counted it as {doubt.fate}: {len(beside)} in doubt on {doubt.sim}"
            )


def _doubt(history: History, told: Told) -> _Doubt:
    gateway, tid = str(told.data.get("gateway")), told.data.get("tid")
    rows = [row for row in history.rows.get(told.subject, []) if (row["gateway"], row["tid"]) == (gateway, tid)]
    handed = next((row["at"] for row in rows if row["kind"] == "handed_over"), None)
    began = told.at - BEFORE_VERDICT_S if handed is None else handed
    sim, port = str(told.data.get("sim")), int(told.data.get("port") or 0)
    return _Doubt(told.subject, gateway, port, sim, began, told.at, _fate(rows))


def _fate(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """As the SIM's counters have it: the device's own word; None where the task was forgotten."""
    if not any(row["kind"] == "handed_over" for row in rows):
        return "never"
    return next((str(row["result"]) for row in rows if row["kind"] == "reported"), None)


def _untold(history: History, doubt: _Doubt) -> set[str]:
    """What the device counted on that SIM meanwhile and could not tell, whatever a delivery report told of it.

    Or shortly before: nobody can say whose result was whose between two looks that found the port idle.
    """
    return {
        str(row["result"])
        for row in history.record
        if row["kind"] == "reported"
        and (row["gateway"], row["iccid"]) == (doubt.gateway, doubt.sim)
        and doubt.began - LOOKED_WITHIN_S <= row["at"] <= doubt.ended
        and (row["gateway"], row["tid"]) not in history.reports
    }


def _rebooted(history: History, gateway: str, began: float, ended: float) -> bool:
    return any(
        fault.kind == "device_reboot" and fault.what["gateway"] == gateway and began - 1 <= fault.began <= ended + 1
        for fault in history.faults
    )


def _shared(history: History, doubt: _Doubt) -> bool:
    """Whether somebody else had sent from its port: its counters prove nothing from then on."""
    return any(
        fault.kind == "foreign_sms"
        and (fault.what["gateway"], fault.what["port"]) == (doubt.gateway, doubt.port)
        and fault.began <= doubt.ended
        for fault in history.faults
    )


# --- figures ---------------------------------------------------------------------------------------------------------


def _delivery_reports(history: History) -> dict[str, int]:
    """How many the network had, and how many of them the bridge could assign."""
    matched = {one.event["id"] for one in history.told if one.kind in {"sms.delivered", "sms.undelivered"}}
    return {"matched": len(matched), "told": len(history.delivered)}


def _wants_report(ask: Ask) -> bool:
    return isinstance(ask.body, Mapping) and ask.body.get("delivery_report") is True


def _mark_of(text: str) -> str:
    found = MARK.match(text)
    return found[1] if found else text[:20]


def key_of_dead(message_id: str | None, body_id: str | None) -> tuple[str, ...]:
    """Under what a dead letter may be known: its request's key, and the event that told of it."""
    event = (message_id or "").removeprefix(f"{APP_ID}:").partition("/")[0]
    return tuple(one for one in (body_id, message_id, event) if one)
