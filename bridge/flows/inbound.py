"""The walk of a callback, from its body to the answer 200 (design 3.2).

Decode, drop repeats, fold into the SMS's state, match delivery reports, update what we believe of ports and gateways:
one ledger transaction with its outbox rows, then the answer. The broker is never waited for here, and no callback is
dropped: what nobody can read becomes ``gateway.unrecognised`` with its body.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from bridge import logs
from bridge.ejoin import codes, decode
from bridge.ejoin.facts import (
    DeliveryReport,
    DeviceStatus,
    Fact,
    PortStatus,
    ReceivedSms,
    SentSms,
    SmsReport,
    Unrecognised,
)
from bridge.errors import GatewayGarbled
from bridge.flows.changes import Changes
from bridge.metrics import Metrics
from bridge.models import (
    MAX_RAW_BYTES,
    Clock,
    EventData,
    GatewayRestarted,
    GatewayStatus,
    GatewayUnrecognised,
    Key,
    PortChanged,
    Publication,
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
from bridge.store.ledger import Ledger, PastAttempt, Transaction

log = structlog.get_logger()

REPORT_WINDOW_S = 72 * 3600.0
"""A delivery report is matched to SMS begun within this time: as long as full rows are kept."""

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
    """

    fleet: Fleet
    repeat_window_s: float
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

    async def callback(self, gateway: str, body: bytes, content_type: str, query: Mapping[str, str]) -> str:
        """Absorb one push; answers with its type for the metrics, after the commit.

        Raises LedgerUnavailable where it could not be stored: then the device must not be told 200.
        """
        facts = _decode(body, content_type, query)
        self._heard(gateway)
        push = _Push(self._known, gateway, body, content_type, facts, self._clock.wall(), self._believe(gateway, facts))
        absorbed = await self._ledger.write(push.absorb)
        self._tell(gateway, absorbed, push.now)
        return _label(facts)

    async def absorb_status(self, gateway: str, status: DeviceStatus) -> None:
        """A snapshot that we asked for; it is told like a pushed one."""
        now = self._clock.wall()
        facts = [status]
        push = _Push(self._known, gateway, b"", "", facts, now, self._believe(gateway, facts))
        await self._ledger.write(push.absorb)
        self._wake_relay()

    def _believe(self, gateway: str, facts: Sequence[Fact]) -> dict[int, PortChange]:
        """Update the fleet's beliefs; answers with the ports that changed."""
        mono = self._clock.mono()
        changes: dict[int, PortChange] = {}
        for status in _port_statuses(facts):
            change = self._fleet.note_status(gateway, status, mono)
            if change is not None:
                changes[status.port.number] = change
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
    ) -> None:
        self._known = known
        self._fleet = known.fleet
        self._gateway = gateway
        self._body = body
        self._content_type = content_type
        self._facts = facts
        self._port_changes = changes
        self._boot = 0
        self._settled: list[outcomes.Outcome] = []
        self._latest: dict[Key, Sms] = {}
        self.now = now

    def absorb(self, tx: Transaction) -> Absorbed:
        """Store the whole callback: states, dedupe keys and what is to be published."""
        done = Absorbed()
        body_hash = hashlib.sha256(self._body).digest()[:16]
        repeated = tx.is_body_known(self._gateway, body_hash, self.now - self._known.repeat_window_s)
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
                    self._device_status(tx, fact)
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
        if past is None or row is None:
            done.unmatched += 1
        else:
            self._sent_by_past(tx, done, past, report.tid, row.at)

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
            outcome = replace(outcome, sms=replace(outcome.sms, **kept))
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
        port, sim = self._place(fact.port.number if fact.port else None)
        data = SmsObserved(
            gateway=self._gateway,
            port=port,
            sim=sim,
            recipient=fact.recipient,
            code=fact.code,
            text=fact.text or None,
            submitter=SUBMITTERS.get(fact.source) if fact.source is not None else None,
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
        content = matching.content_hash(sms.text)
        known = tx.same_content(content=content, sender=sms.sender, sim=sim)
        verdict = matching.judge_received(key, sms, known)
        if verdict == "repeat":
            done.repeats += 1
            return
        told = next((other.told for other in known if other.key == key), 0)
        tx.note_received(
            key,
            self.now,
            gateway=self._gateway,
            body=body_hash,
            via=sms.via,
            sim=sim,
            sender=sms.sender,
            content=content,
            device_at=matching.moment_of(sms),
        )
        data = SmsReceived(
            gateway=self._gateway,
            port=port,
            slot=sms.port.slot or None if sms.port else None,
            sim=sim,
            receiver=sms.receiver or self._own_number(port) or None,
            sender=sms.sender,
            text=sms.text,
            smsc=sms.smsc or None,
            scts=sms.scts or None,
            received_at=moment(matching.moment_of(sms)),
            via=sms.via,
            possible_repeat=True if verdict == "possible_repeat" else None,
        )
        self._publish(tx, data, f"{key}~{told}" if verdict == "possible_repeat" else key, port, subject=sms.sender)
        done.received.append(data)

    def _delivery_report(self, tx: Transaction, done: Absorbed, report: DeliveryReport, body_hash: bytes) -> None:
        port, sim = self._place(report.port.number if report.port else None)
        sim = sim or f"{self._gateway}/{report.port or '-'}"
        tail = matching.digits(report.recipient)[-matching.TAIL :]
        unreported = tx.sent_to(tail, sim, self.now - REPORT_WINDOW_S)
        waiting = [self._latest.get(one.key, one) for one in unreported]
        sms, candidates = matching.match_report(report.recipient, waiting)
        key = f"report/{sim}/{report.recipient}/{report.code}/{report.stamp or report.at}"
        self._note_report(tx, key, report, sim, body_hash)
        if sms is not None:
            outcome = outcomes.delivery_reported(sms, report.code, report.at, self.now)
            self._settle(done, sms, outcome)
            tx.note_report(sms, -1 if report.code is None else report.code)
            return
        done.unmatched += 1
        data = SmsReportUnmatched(
            gateway=self._gateway,
            port=port,
            sim=sim,
            recipient=report.recipient,
            code=report.code,
            reported_at=moment(report.at),
            candidates=[str(one.key) for one in candidates],
        )
        self._publish(tx, data, key, port)

    def _note_report(self, tx: Transaction, key: str, report: DeliveryReport, sim: str, body_hash: bytes) -> None:
        """Remember it, so that the same body again is a repeat."""
        tx.note_received(
            key,
            self.now,
            gateway=self._gateway,
            body=body_hash,
            via="report",
            sim=sim,
            sender=report.recipient,
            content=b"",
            device_at=report.at,
        )

    # --- about ports and gateways -----------------------------------------------------------------------------------

    def _device_status(self, tx: Transaction, status: DeviceStatus) -> None:
        previous: int | None = None
        if status.seq is not None:
            self._boot, previous = tx.boot_of(self._gateway, status.seq)
        if previous is not None and status.seq is not None:
            restarted = GatewayRestarted(gateway=self._gateway, seq=status.seq, previous_seq=previous)
            self._publish(tx, restarted, f"{self._gateway}/{self._boot}/restarted", None)
        for port in status.ports:
            self._port_changed(tx, port)
        data = GatewayStatus(
            gateway=self._gateway,
            seq=status.seq,
            version=status.version or None,
            mac=status.mac or None,
            ports=[_port_data(self._gateway, port, self._sim(port)) for port in status.ports],
        )
        self._publish(tx, data, f"{self._gateway}/{self._boot}/{self._number(status.seq)}/status", None)

    def _port_changed(self, tx: Transaction, status: PortStatus) -> None:
        change = self._port_changes.get(status.port.number)
        if change is None or not status.active:
            return
        data = _port_data(self._gateway, status, self._sim(status)).model_copy(
            update={"previous": None if change.was_st is None else _state_name(change.was_st)}
        )
        event_id = f"{self._gateway}/{self._boot}/{self._number(status.seq)}/{status.port}/{status.st}"
        self._publish(tx, data, event_id, status.port.number)

    def _unrecognised(self, tx: Transaction, fact: Unrecognised, body_hash: bytes) -> None:
        kept = self._body[:MAX_RAW_BYTES]
        try:
            text, is_base64 = kept.decode(), None
        except UnicodeDecodeError:
            text, is_base64 = base64.b64encode(kept).decode(), True
        data = GatewayUnrecognised(
            gateway=self._gateway,
            type=fact.type or None,
            reason=fact.reason or None,
            content_type=self._content_type or None,
            body=text,
            base64=is_base64,
            truncated=True if len(self._body) > MAX_RAW_BYTES else None,
        )
        arrival = int(self.now // self._known.repeat_window_s)
        self._publish(tx, data, f"{self._gateway}/{body_hash.hex()}/{arrival}", None)

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
        number=status.number or None,
        operator=status.operator or None,
        signal=status.signal,
        balance=status.balance,
    )


LABELS: dict[type[object], str] = {
    SmsReport: "status-report",
    ReceivedSms: "recv-sms",
    DeliveryReport: "recv-sms",
    PortStatus: "port-status",
    DeviceStatus: "dev-status",
    SentSms: "sent-sms",
    Unrecognised: "unrecognised",
}


def _label(facts: Sequence[Fact]) -> str:
    """The push's type for the metrics: a closed set."""
    return LABELS[type(facts[0])] if facts else "empty"
