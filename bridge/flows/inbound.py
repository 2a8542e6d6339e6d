"""The walk of a callback, from its body to the answer 200 (design 3.2).

Decode, drop repeats, fold into the SMS's state, match delivery reports, update what we believe of ports and gateways:
one ledger transaction with its outbox rows, then the answer. The broker is never waited for here, and no callback is
dropped: what nobody can read becomes ``gateway.unrecognised`` with its body.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from bridge import logs
from bridge.ejoin import codes, decode
from bridge.ejoin.facts import (
    CallRecord,
    DeliveryReport,
    DeviceStatus,
    Fact,
    InboxPage,
    PortStatus,
    ReceivedSms,
    SentSms,
    SmsReport,
    Unrecognised,
)
from bridge.errors import GatewayGarbled, LedgerUnavailable
from bridge.flows.changes import Changes
from bridge.metrics import Metrics
from bridge.models import (
    MAX_RAW_BYTES,
    CallRecorded,
    Clock,
    EventData,
    GatewayRestarted,
    GatewayStatus,
    GatewayUnrecognised,
    Key,
    PortChanged,
    PortUsage,
    Publication,
    Quota,
    Sms,
    SmsObserved,
    SmsReceived,
    SmsReportUnmatched,
    State,
    moment,
    publication_of,
)
from bridge.rules import matching, outcomes
from bridge.rules.health import Fleet, PortChange
from bridge.store.ledger import KnownSms, Ledger, Orphan, PastAttempt, Transaction

log = structlog.get_logger()

REPORT_WINDOW_S = 72 * 3600.0
"""A delivery report is matched to SMS begun within this time: as long as full rows are kept."""

MOST_ORPHANS = 10_000
"""Delivery reports that wait for an SMS in doubt; beyond it one is told as unmatched at once."""

ORPHANS_AT_ONCE = 200
"""How many of these are looked at again in one go: some 20 ms, in which the loop does nothing else."""

SUBMITTERS = {0: "etms", 1: "eims", 2: "web", 3: "http", 4: "smpp", 5: "sip"}


@dataclass(slots=True)
class Absorbed:
    """What one callback came to, once it is durable."""

    changes: list[tuple[Sms, outcomes.Outcome]] = field(default_factory=list)
    received: list[SmsReceived] = field(default_factory=list)
    unmatched: int = 0
    repeats: int = 0
    duplicates: list[Sms] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Known:
    """What folding a callback needs to know.

    ``terms_of(route)`` gives its deadlines and retries, ``has_elsewhere(sms)`` whether another SIM is left for it.
    The same body again within ``repeat_window_s`` is a repeat; incoming SMS are remembered for ``remembered_s``.
    """

    fleet: Fleet
    repeat_window_s: float
    remembered_s: float
    terms_of: Callable[[str | None], outcomes.Terms]
    has_elsewhere: Callable[[Sms], bool]


class Inbound:
    """Absorbs what gateways push; ``wake_planner`` says that a port is another than before."""

    def __init__(
        self,
        known: Known,
        *,
        ledger: Ledger,
        changes: Changes,
        metrics: Metrics,
        clock: Clock,
        wake_planner: Callable[[], None],
        heard: Callable[[str], None],
        wake_relay: Callable[[], None],
    ) -> None:
        self._known = known
        self._fleet = known.fleet
        self._ledger = ledger
        self._changes = changes
        self._metrics = metrics
        self._clock = clock
        self._wake_planner = wake_planner
        self._heard = heard
        self._wake_relay = wake_relay
        self._untold: dict[tuple[str, int], PortChange] = {}
        self._last_orphan = 0

    async def callback(self, gateway: str, body: bytes, content_type: str, query: Mapping[str, str]) -> str:
        """Absorb one push; answers with its type for the metrics, after the commit.

        Raises LedgerUnavailable where it could not be stored: then the device must not be told 200.
        """
        facts = _decode(body, content_type, query)
        self._heard(gateway)
        push = _Push(self._known, gateway, body, content_type, facts, self._clock.wall(), self._believe(gateway, facts))
        absorbed = await self._store(gateway, push)
        self._tell(gateway, absorbed, push.now)
        return _label(facts)

    async def absorb_status(self, gateway: str, status: DeviceStatus) -> None:
        """A snapshot that we asked for; it is told like a pushed one."""
        now = self._clock.wall()
        facts = [status]
        push = _Push(self._known, gateway, b"", "", facts, now, self._believe(gateway, facts))
        self._tell(gateway, await self._store(gateway, push), now)

    async def _store(self, gateway: str, push: _Push) -> Absorbed:
        """Store it whole; a port's change that could not be told is told with the next word about that port."""
        try:
            return await self._ledger.write(push.absorb)
        except LedgerUnavailable:
            self._untold |= {(gateway, number): change for number, change in push.port_changes.items()}
            raise

    async def absorb_inbox(self, gateway: str, page: InboxPage, *, last: bool) -> None:
        """A page of the device's inbox, with the cursor behind it: what no push has told is told now.

        Where the device began anew, or we did, its inbox up to the ``last`` page holds what was told long ago: there,
        what is older than we remember is passed over.
        """
        now, history = self._clock.wall(), f"inbox_history/{gateway}"

        def absorb(tx: Transaction) -> tuple[Absorbed, int]:
            ssrc, _ = tx.inbox_cursor(gateway)
            known_for_s = math.inf
            if page.ssrc != ssrc or tx.meta(history):
                known_for_s = self._known.repeat_window_s if ssrc is None else self._known.remembered_s
                known_for_s = float(tx.meta(history) or known_for_s)
                tx.set_meta(history, "" if last else str(known_for_s))
            rows = [row for row in page.rows if _came_after(row, now - known_for_s)]
            push = _Push(self._known, gateway, b"", "", rows, now, {}, inbox=page.ssrc)
            absorbed = push.absorb(tx)
            tx.set_inbox_cursor(gateway, page.ssrc, page.next_sms)
            return absorbed, len(page.rows) - len(rows)

        absorbed, passed_over = await self._ledger.write(absorb)
        if absorbed.received or passed_over:
            log.info("inbox.read", gateway=gateway, recovered=len(absorbed.received), too_old=passed_over)
        self._tell(gateway, absorbed, now)

    async def match_orphans(self) -> None:
        """Look again at delivery reports whose SMS was in doubt when they came: the next few, all of them in turn."""
        now = self._clock.wall()

        def match(tx: Transaction) -> list[tuple[Orphan, Absorbed]]:
            done = []
            for orphan in tx.orphans(self._last_orphan, ORPHANS_AT_ONCE):
                push = _Push(self._known, orphan.gateway, b"", "", [], now, {})
                done.append((orphan, push.absorb_orphan(tx, orphan)))
            return done

        matched = await self._ledger.write(match)
        self._last_orphan = matched[-1][0].n if len(matched) == ORPHANS_AT_ONCE else 0
        for orphan, absorbed in matched:
            self._tell(orphan.gateway, absorbed, now)

    def _believe(self, gateway: str, facts: Sequence[Fact]) -> dict[int, PortChange]:
        """Update the fleet's beliefs; answers with the ports that changed."""
        mono = self._clock.mono()
        changes: dict[int, PortChange] = {}
        for status in _port_statuses(facts):
            number = status.port.number
            change = self._fleet.note_status(gateway, status, mono)
            untold = self._untold.pop((gateway, number), None) if status.active else None
            if first := untold or change:
                changes[number] = first
            self._gauge(gateway, status)
        if changes:
            self._wake_planner()
        return changes

    def _gauge(self, gateway: str, status: PortStatus) -> None:
        if not status.active or status.port.number not in self._fleet.gateways[gateway].ports:
            return
        labels = (gateway, str(status.port.number))
        self._metrics.port_state.labels(*labels).set(-1 if status.st is None else status.st)
        if status.signal is not None:
            self._metrics.port_signal.labels(*labels).set(status.signal)
        if status.balance is not None:
            self._metrics.port_balance.labels(*labels).set(status.balance)

    def _tell(self, gateway: str, absorbed: Absorbed, now: float) -> None:
        self._changes.note(absorbed.changes, now)
        for came in absorbed.received:
            self._metrics.received_total.labels(gateway, str(came.port or "-")).inc()
            log.info("sms.received", gateway=gateway, port=came.port, sender=logs.mask(came.sender), via=came.via)
        for sms in absorbed.duplicates:
            log.error("sms.possible_duplicate", request_id=str(sms.key), gateway=gateway, attempt=sms.attempt)
        if absorbed.repeats or absorbed.unmatched:
            log.debug("callback.folded", gateway=gateway, repeats=absorbed.repeats, unmatched=absorbed.unmatched)
        self._wake_relay()


class _Push:
    """One callback on its way into the ledger; ``absorb`` runs inside the transaction."""

    def __init__(
        self,
        known: Known,
        gateway: str,
        body: bytes,
        content_type: str,
        facts: Sequence[Fact],
        now: float,
        changes: Mapping[int, PortChange],
        *,
        inbox: str | None = None,
    ) -> None:
        self._known = known
        self._fleet = known.fleet
        self._gateway = gateway
        self._body = body
        self._content_type = content_type
        self._facts = facts
        self.port_changes = changes
        self._inbox = inbox
        self._boot = 0
        self._settled: list[outcomes.Outcome] = []
        self._latest: dict[Key, Sms] = {}
        self.now = now

    def absorb(self, tx: Transaction) -> Absorbed:
        """Store the whole callback: states, dedupe keys and what is to be published."""
        done = Absorbed()
        body_hash = hashlib.sha256(self._body).digest()[:16] if self._inbox is None else b""
        repeated = self._inbox is None and tx.is_body_known(
            self._gateway, body_hash, self.now - self._known.repeat_window_s
        )
        ordinals: Counter[str] = Counter()
        for fact in self._facts:
            match fact:
                case SmsReport():
                    self._report(tx, done, fact)
                case ReceivedSms():
                    if repeated:
                        done.repeats += 1
                    else:
                        self._received(tx, done, fact, body_hash, ordinals)
                case DeliveryReport():
                    if repeated:
                        done.repeats += 1
                    else:
                        self._delivery_report(tx, done, fact, body_hash)
                case SentSms():
                    self._sent_sms(tx, done, fact)
                case PortStatus():
                    self._boot = tx.boots().get(self._gateway, 0)
                    self._port_changed(tx, fact)
                case DeviceStatus():
                    self._device_status(tx, done, fact)
                case CallRecord():
                    self._call_recorded(tx, fact, body_hash)
                case Unrecognised():
                    self._unrecognised(tx, fact, body_hash)
        tx.settle(self._settled, self.now)
        return done

    # --- about our own SMS ------------------------------------------------------------------------------------------

    def _sms_of_task(self, tx: Transaction, tid: int) -> Sms | None:
        """The SMS of a task as this very callback has left it."""
        sms = tx.sms_of_task(self._gateway, tid)
        return sms and self._latest.get(sms.key, sms)

    def _report(self, tx: Transaction, done: Absorbed, report: SmsReport) -> None:
        sms = self._sms_of_task(tx, report.tid)
        if sms is not None:
            terms = self._known.terms_of(sms.route)
            elsewhere = report.failed > 0 and self._known.has_elsewhere(sms)
            self._settle(done, sms, outcomes.reported(sms, report, self.now, terms, elsewhere=elsewhere))
            return
        past = tx.past_of_task(self._gateway, report.tid)
        row = outcomes.row_of_past(report, past.recipient) if past else None
        if past is not None and row is not None:
            self._sent_by_past(tx, done, past, report.tid, row.at)
            return
        done.unmatched += 1
        if past is None:
            for row in report.sent_rows:
                self._observed(tx, SentSms(row.port, report.tid, 0, "", row.number, row.at))
            for failed in report.failed_rows:
                self._observed(tx, SentSms(failed.port, report.tid, failed.code, failed.text, failed.number, failed.at))

    def _sent_by_past(self, tx: Transaction, done: Absorbed, past: PastAttempt, tid: int, at: float | None) -> None:
        """`sent` for an attempt that was handed back: told with that attempt's place.

        A handed-back SMS is sent by it, and its copy becomes a repeat. Where the next attempt was begun it may have
        gone out twice: told as such while there is anything to tell, and always an ERROR in the log.
        """
        found = tx.sms(past.app_id, past.id)
        if found is None:
            done.unmatched += 1
            return
        sms = self._latest.get(found.key, found)
        place: dict[str, Any] = {
            "gateway": self._gateway,
            "port": past.port,
            "slot": past.slot,
            "sim": past.sim,
            "tid": tid,
        }
        duplicate = sms.state is not State.HANDED_BACK
        outcome = outcomes.sent_as(replace(sms, **place), self.now, at=at, possible_duplicate=duplicate)
        if outcome is not None and duplicate:
            kept = {name: getattr(sms, name) for name in place}
            outcome = replace(outcome, sms=replace(outcome.sms, **kept), counted=outcome.counted and "lost")
        if duplicate:
            done.duplicates.append(sms)
        if outcome is not None:
            self._settle(done, sms, outcome)

    def _sent_sms(self, tx: Transaction, done: Absorbed, fact: SentSms) -> None:
        """A second, independent word about one of ours; else an SMS of another submitter, which used the SIM."""
        if fact.tid is not None and fact.source in {None, codes.SOURCE_HTTP}:
            sms = self._sms_of_task(tx, fact.tid)
            past = None if sms else tx.past_of_task(self._gateway, fact.tid)
            recipient = sms.recipient if sms else past.recipient if past else ""
            if matching.same_number(fact.recipient, recipient):
                if fact.code == 0 and sms:
                    self._settle(done, sms, outcomes.sent_as(sms, self.now, at=fact.at))
                elif fact.code == 0 and past:
                    self._sent_by_past(tx, done, past, fact.tid, fact.at)
                return
        self._observed(tx, fact)

    def _observed(self, tx: Transaction, fact: SentSms) -> None:
        """An SMS of another submitter."""
        if fact.port is not None and self._fleet.find_port(self._gateway, fact.port.number):
            tx.note_foreign(self._gateway, fact.port.number, self.now)  # its counters say nothing about ours
        port, sim = self._place(fact.port.number if fact.port else None)
        data = SmsObserved(
            gateway=self._gateway,
            port=port,
            sim=sim,
            recipient=fact.recipient,
            code=fact.code,
            text=fact.text or None,
            submitter=SUBMITTERS.get(fact.source) if fact.source is not None else None,
            submitter_ip=fact.source_ip or None,
            submitter_port=fact.source_port,
            tid=fact.tid,
            smsc=fact.smsc or None,
            took_ms=fact.took_ms,
            seq=fact.seq,
            sent_at=moment(fact.at),
        )
        stamp = f"{fact.at:.0f}" if fact.at is not None else "-"
        event_id = f"observed/{self._gateway}/{port or '-'}/{fact.tid or '-'}/{stamp}/{fact.recipient}"
        self._publish(tx, data, event_id, port)

    def _settle(self, done: Absorbed, sms: Sms, outcome: outcomes.Outcome | None) -> None:
        if outcome is None:
            done.repeats += 1
            return
        self._settled.append(outcome)
        self._latest[sms.key] = outcome.sms
        done.changes.append((sms, outcome))

    # --- what came in -----------------------------------------------------------------------------------------------

    def _received(
        self, tx: Transaction, done: Absorbed, sms: ReceivedSms, body_hash: bytes, ordinals: Counter[str]
    ) -> None:
        port, sim = self._place(sms.port.number if sms.port else None)
        sim = sms.iccid or sim or f"{self._gateway}/{sms.port or '-'}"
        first = matching.received_key(sim, sms, 0)
        key = matching.received_key(sim, sms, ordinals[first])
        ordinals[first] += 1
        at = matching.moment_of(sms)
        told = self._note(tx, done, key, sms.via, at, sim, port, sms.sender, matching.content_hash(sms.text), body_hash)
        if told is None:
            return
        data = SmsReceived(
            gateway=self._gateway,
            port=port,
            slot=sms.port.slot or None if sms.port else None,
            sim_pool=sms.port.pool or None if sms.port else None,
            sim=sim,
            receiver=sms.receiver or self._own_number(port) or None,
            sender=sms.sender,
            text=sms.text,
            smsc=sms.smsc or None,
            scts=sms.scts or None,
            received_at=moment(at),
            via=sms.via,
            possible_repeat=True if told > 1 and self._inbox is None else None,
        )
        self._publish(tx, data, key if told == 1 else f"{key}~{told - 1}", port, subject=sms.sender)
        done.received.append(data)

    def _note(
        self, tx: Transaction, done: Absorbed, key: str, via: str, at: float | None, sim: str, port: int | None,
        sender: str, content: bytes, body_hash: bytes,
    ) -> int | None:  # fmt: skip
        """Remember what came in; how often this key has been told with this time, None where it is a repeat."""
        channel = via if self._inbox is None else f"inbox/{self._inbox}"
        known = tx.same_content(content=content, sender=sender, sim=sim, gateway=self._gateway, port=port)
        repeat = matching.known_as(key, at, channel, known)
        one = repeat or next((one for one in known if one.key == key), KnownSms(key, 0, {}, at))
        tx.note_received(
            one.key,
            self.now,
            told=one.told + (repeat is None),
            seen={**one.seen, channel: one.seen.get(channel, 0) + 1},
            gateway=self._gateway,
            port=port,
            body=body_hash,
            sim=sim,
            sender=sender,
            content=content,
            device_at=at,
        )
        if repeat is not None:
            done.repeats += 1
            return None
        return one.told + 1

    def _delivery_report(self, tx: Transaction, done: Absorbed, report: DeliveryReport, body_hash: bytes) -> None:
        port, sim = self._place(report.port.number if report.port else None)
        sim = report.iccid or sim or f"{self._gateway}/{report.port or '-'}"
        key = f"report/{sim}/{report.recipient}/{report.code}/{report.stamp or report.at}"
        content = f"report {report.code}".encode()
        told = self._note(tx, done, key, "push", report.at, sim, port, report.recipient, content, body_hash)
        if told is not None:
            event_id = key if told == 1 else f"{key}~{told - 1}"
            self._match(
                tx, done, Orphan(0, self._gateway, port, sim, report.recipient, report.code, report.at, event_id)
            )

    def absorb_orphan(self, tx: Transaction, orphan: Orphan) -> Absorbed:
        """Look again at a delivery report that waits."""
        done = Absorbed()
        self._match(tx, done, orphan)
        tx.settle(self._settled, self.now)
        return done

    def _match(self, tx: Transaction, done: Absorbed, report: Orphan) -> None:
        """Match a delivery report, let it wait for an SMS in doubt, or tell that it fits none or several."""
        tail = matching.digits(report.recipient)[-matching.TAIL :]
        unreported = tx.sent_to(tail, report.sim, self.now - REPORT_WINDOW_S)
        candidates = [self._latest.get(one.key, one) for one in unreported]
        match = matching.match_report(report.recipient, report.device_at, candidates)
        if match.wait and (report.n or tx.count_orphans() < MOST_ORPHANS):
            if not report.n:
                tx.hold_orphan(report, self.now)
            return
        if report.n:
            tx.drop_orphan(report.n)
        if match.sms is not None:
            self._settle(
                done, match.sms, outcomes.delivery_reported(match.sms, report.code, report.device_at, self.now)
            )
            tx.note_report(match.sms, -1 if report.code is None else report.code)
            return
        done.unmatched += 1
        data = SmsReportUnmatched(
            gateway=self._gateway,
            port=report.port,
            sim=report.sim,
            recipient=report.recipient,
            code=report.code,
            reported_at=moment(report.device_at),
            candidates=[str(one.key) for one in match.candidates],
        )
        self._publish(tx, data, report.event_id, report.port)

    # --- about ports and gateways -----------------------------------------------------------------------------------

    def _device_status(self, tx: Transaction, done: Absorbed, status: DeviceStatus) -> None:
        previous: int | None = None
        if status.seq is not None:
            self._boot, previous = tx.boot_of(self._gateway, status.seq)
        if previous is not None and status.seq is not None:
            restarted = GatewayRestarted(gateway=self._gateway, seq=status.seq, previous_seq=previous)
            self._publish(tx, restarted, f"{self._gateway}/{self._boot}/restarted", None)
            self._doubt_all(tx, done)
        for port in status.ports:
            self._port_changed(tx, port)
        data = GatewayStatus(
            gateway=self._gateway,
            seq=status.seq,
            version=status.version or None,
            mac=status.mac or None,
            ip=status.ip or None,
            expires_s=status.expires_s,
            max_ports=status.max_ports,
            max_slots=status.max_slots,
            ports=[_port_data(self._gateway, port, self._sim(port)) for port in status.ports],
        )
        self._publish(tx, data, f"{self._gateway}/{self._boot}/{self._number(status.seq)}/status", None)

    def _doubt_all(self, tx: Transaction, done: Absorbed) -> None:
        """The device began anew and has forgotten its tasks: their reports may never come, their places are free."""
        for found in tx.open_at(self._gateway):
            sms = self._latest.get(found.key, found)
            if sms.state is State.SUBMITTED and sms.reason is None:
                terms = self._known.terms_of(sms.route)
                self._settle(done, sms, outcomes.doubted(sms, outcomes.REPORT_LOST, self.now, terms))

    def _port_changed(self, tx: Transaction, status: PortStatus) -> None:
        change = self.port_changes.get(status.port.number)
        if change is None or not status.active:
            return
        data = _port_data(self._gateway, status, self._sim(status)).model_copy(
            update={"previous": None if change.was_st is None else _state_name(change.was_st)}
        )
        event_id = f"{self._gateway}/{self._boot}/{self._number(status.seq)}/{status.port}/{status.st}"
        self._publish(tx, data, event_id, status.port.number)

    def _call_recorded(self, tx: Transaction, fact: CallRecord, body_hash: bytes) -> None:
        port = fact.port.number if fact.port else None
        self._publish(tx, CallRecorded(port=port, **self._raw()), self._raw_id(body_hash), port)

    def _unrecognised(self, tx: Transaction, fact: Unrecognised, body_hash: bytes) -> None:
        data = GatewayUnrecognised(type=fact.type or None, reason=fact.reason or None, **self._raw())
        self._publish(tx, data, self._raw_id(body_hash), None)

    def _raw_id(self, body_hash: bytes) -> str:
        return f"{self._gateway}/{body_hash.hex()}/{int(self.now // self._known.repeat_window_s)}"

    def _raw(self) -> dict[str, Any]:
        """The body as it came."""
        kept = self._body[:MAX_RAW_BYTES]
        try:
            text, is_base64 = kept.decode(), None
        except UnicodeDecodeError:
            text, is_base64 = base64.b64encode(kept).decode(), True
        return {
            "gateway": self._gateway,
            "content_type": self._content_type or None,
            "body": text,
            "base64": is_base64,
            "truncated": True if len(self._body) > MAX_RAW_BYTES else None,
        }

    def _number(self, seq: int | None) -> str:
        """The device's sequence number; of one that has none, the moment."""
        return str(seq) if seq is not None else f"{self.now:.3f}"

    # --- small words ------------------------------------------------------------------------------------------------

    def _place(self, port: int | None) -> tuple[int | None, str | None]:
        """(port, SIM) where we know the port; its SIM is what we believe sits there now."""
        belief = self._fleet.gateways[self._gateway].ports.get(port) if port is not None else None
        return port, belief.sim if belief else None

    def _own_number(self, port: int | None) -> str:
        """What the device's status says of the card's number: the push itself often has none."""
        belief = self._fleet.gateways[self._gateway].ports.get(port) if port is not None else None
        return belief.own_number if belief else ""

    def _sim(self, status: PortStatus) -> str | None:
        return status.iccid or self._place(status.port.number)[1]

    def _publish(
        self, tx: Transaction, data: EventData, event_id: str, port: int | None, *, subject: str | None = None
    ) -> None:
        publication: Publication = publication_of(
            data,
            event_id=event_id,
            at=self.now,
            subject=subject,
            gateway=self._gateway,
            port=port,
        )
        tx.publish([publication], self.now)


def _came_after(row: ReceivedSms | DeliveryReport, moment: float) -> bool:
    """Whether any clock says so: a device without the time must not make an SMS old that the network dates today."""
    clocks = [at for at in (row.at, row.scts_at if isinstance(row, ReceivedSms) else None) if at is not None]
    return not clocks or max(clocks) > moment


def _decode(body: bytes, content_type: str, query: Mapping[str, str]) -> list[Fact]:
    try:
        return decode.decode_push(body, content_type, query)
    except GatewayGarbled as error:
        return [Unrecognised("", str(error))]


def _port_statuses(facts: Sequence[Fact]) -> list[PortStatus]:
    return [
        status
        for fact in facts
        for status in (fact.ports if isinstance(fact, DeviceStatus) else [fact] if isinstance(fact, PortStatus) else [])
    ]


def _state_name(st: int | None) -> str:
    return "unknown" if st is None else codes.ST_NAMES.get(st, f"st_{st}")


def _port_data(gateway: str, status: PortStatus, sim: str | None) -> PortChanged:
    return PortChanged(
        gateway=gateway,
        port=status.port.number,
        slot=status.port.slot or None,
        state=_state_name(status.st),
        st=status.st,
        sim=sim,
        iccid=status.iccid or None,
        imsi=status.imsi or None,
        imei=status.imei or None,
        number=status.number or None,
        operator=status.operator or None,
        signal=status.signal,
        balance=status.balance,
        network=status.network,
        active=None if status.active else False,
        inserted=status.inserted,
        slot_active=status.slot_active,
        led=status.led,
        sim_pool=status.sim_pool or None,
        seq=status.seq,
        usage=_usage(status),
    )


def _usage(status: PortStatus) -> PortUsage | None:
    told: dict[str, Any] = {}
    for name in PortUsage.model_fields:
        value = getattr(status, name)
        if isinstance(value, tuple):
            used, allowed = value
            told[name] = Quota(used=used, allowed="unlimited" if allowed is None else allowed)
        elif value not in {None, ""}:
            told[name] = value
    return PortUsage(**told) if told else None


LABELS: dict[type[object], str] = {
    SmsReport: "status-report",
    ReceivedSms: "recv-sms",
    DeliveryReport: "recv-sms",
    PortStatus: "port-status",
    DeviceStatus: "dev-status",
    SentSms: "sent-sms",
    CallRecord: "cdr",
    Unrecognised: "unrecognised",
}


def _label(facts: Sequence[Fact]) -> str:
    """The push's type for the metrics: a closed set."""
    return LABELS[type(facts[0])] if facts else "empty"
