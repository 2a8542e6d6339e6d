"""The inquiry: asks a gateway about what is in doubt, and reads what no callback told (design 3.2, 3.3).

Evidence only, in this order: the task list of a port (a task that it shows was taken), then the SIM's own counters
(what they show beyond the account, and what they do not). Who is in doubt at the deadline is given up, but not before
the gateway had its say. The same round reads the device's inbox, so that no incoming SMS depends on a callback.
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple, Protocol

import structlog

from bridge.ejoin import codes
from bridge.ejoin.facts import InboxPage, ListedTask, SimStatistics
from bridge.ejoin.ports import Port
from bridge.errors import GatewayGarbled, GatewayNotReached, GatewaySilent, LedgerUnavailable
from bridge.flows.changes import Changes
from bridge.metrics import Metrics
from bridge.models import Clock, Key, Sms, State
from bridge.rules import evidence, matching, outcomes
from bridge.rules.evidence import Counters, Finding
from bridge.rules.health import Fleet, PortBelief
from bridge.settings import Settings
from bridge.store.ledger import Account, ClosedAccount, Ledger, Transaction

log = structlog.get_logger()

TICK_S = 1.0
ASK_EVERY_S, ASK_LATE_EVERY_S = 15.0, 5.0
OPEN_EVERY_S, OPEN_WITHIN_S = 2.0, 60.0
"""How often a quiet moment is looked for, and made, to open an account anew, and how long."""

INBOX_ROWS = 50
INBOX_PAGES = 100
KERNEL_LAG_S = 1.0
"""The kernel gives up what a device does not acknowledge that much later than we do, at the most."""

FOREIGN_FOR_S = 86_400.0
"""The counters of a SIM that another submitter used prove nothing for so long."""

Attempt = tuple[Key, int]
Pairs = list[tuple[Sms, outcomes.Outcome]]


class Device(Protocol):
    """What is asked of a gateway's client; each raises GatewayNotReached, GatewaySilent or GatewayGarbled."""

    async def tasks(self, port: Port) -> tuple[ListedTask, ...]:
        """The tasks that wait on a port."""

    async def statistics(self) -> tuple[SimStatistics, ...]:
        """The counters of the active SIM of each port."""

    async def inbox(self, *, start: int, count: int) -> InboxPage:
        """What came in, from this id on."""


class AbsorbInbox(Protocol):
    """Stores a page of a gateway's inbox, with the cursor behind it."""

    async def __call__(self, gateway: str, page: InboxPage, *, last: bool) -> None:
        """Raises LedgerUnavailable."""


@dataclass(slots=True)
class Questions:
    """What is remembered of asking one gateway; moments are monotonic.

    ``cards`` are those that could send when it was asked last; ``anew_at`` is when the card of a port was new, or the
    device began anew; ``unopened`` says that one has no account yet.
    ``seen`` since when each attempt is known to be in doubt, ``absent`` since when its SIM's counters do not show it,
    ``overdue`` since when its deadline has passed; ``later`` holds those about whom the next round may know more;
    ``not_understood`` each question's last error.
    """

    asked_at: float = float("-inf")
    asking: bool = False
    cards: frozenset[tuple[int, str]] = frozenset()
    anew_at: dict[int, float] = field(default_factory=dict)
    unopened: bool = False
    seen: dict[Attempt, float] = field(default_factory=dict)
    absent: dict[Attempt, float] = field(default_factory=dict)
    overdue: dict[Attempt, float] = field(default_factory=dict)
    listed: set[Attempt] = field(default_factory=set)
    later: set[Attempt] = field(default_factory=set)
    not_understood: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Look:
    """The books of one gateway at one moment, port by port: what is open or ended without its word, the accounts.

    ``begun`` counts its hand-overs so far: an order that no clock can change.
    """

    begun: int
    rows: Mapping[int, Sequence[Sms]]
    accounts: Mapping[int, Account]

    def of(self, port: int) -> object:
        """What must not have changed while the device was asked."""
        return [(sms.key, sms.attempt, sms.state) for sms in self.rows.get(port, ())], self.accounts.get(port)


class Company(NamedTuple):
    """All in an account that have no result by the device's word.

    ``sent`` by the network's word, ``taken`` by the device for certain, ``doubtful``: it may have them.
    """

    sent: Sequence[Sms]
    taken: Sequence[Sms]
    doubtful: Sequence[Sms]

    @property
    def all(self) -> Sequence[Sms]:
        """Everybody."""
        return [*self.sent, *self.taken, *self.doubtful]

    def weigh(self, expected: Counters, counted: Counters) -> Finding | evidence.Impossible:
        """What the counters say about them."""
        return evidence.weigh(
            expected, counted, taken=len(self.taken), doubtful=len(self.doubtful), sent=len(self.sent)
        )


def attempt_of(sms: Sms) -> Attempt:
    """The one hand-over of an SMS that is in hand."""
    return sms.key, sms.attempt


class Inquiry:
    """Settles doubts by evidence. ``resubmit(gateway, rows)`` asks with the same task ids (``resubmit_within_s``)."""

    def __init__(
        self,
        settings: Settings,
        *,
        devices: Mapping[str, Device],
        fleet: Fleet,
        ledger: Ledger,
        absorb_inbox: AbsorbInbox,
        match_orphans: Callable[[], Awaitable[None]],
        resubmit: Callable[[str, Sequence[Sms]], Awaitable[Mapping[int, codes.Verdict]]],
        changes: Changes,
        metrics: Metrics,
        clock: Clock,
        terms_of: Callable[[str | None], outcomes.Terms],
        wake_relay: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._devices = devices
        self._fleet = fleet
        self._ledger = ledger
        self._absorb_inbox = absorb_inbox
        self._match_orphans = match_orphans
        self._resubmit = resubmit
        self._changes = changes
        self._metrics = metrics
        self._clock = clock
        self._terms_of = terms_of
        self._wake_relay = wake_relay
        self._questions: dict[str, Questions] = defaultdict(Questions)
        self._ask_every_s = min(ASK_EVERY_S, settings.timing.doubt_s / 4)
        self._inherited: frozenset[Attempt] = frozenset()

    # --- when -------------------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """After a start: open the SIMs' accounts before anything is handed over.

        Reports of what an earlier life handed over may have met a closed door: the counters settle at once what was
        sent. Of a failure its report knows more, as long as it may come: another SIM may be left for it.
        """
        held = await self._ledger.write(Transaction.open_sms)
        self._inherited = frozenset(attempt_of(sms) for sms in held if sms.state is State.SUBMITTED)
        await asyncio.gather(*(self.ask(gateway) for gateway in self._devices))

    async def run(self) -> None:
        """Ask each gateway when it is its turn, until cancelled."""
        async with asyncio.TaskGroup() as rounds:
            while True:
                try:
                    for gateway in self._due(await self._ledger.write(Transaction.doubts)):
                        rounds.create_task(self.ask(gateway), name=f"ask {gateway}")
                    await self._match_orphans()
                except LedgerUnavailable as error:
                    log.error("ledger.unavailable", error=str(error))
                await asyncio.sleep(TICK_S)

    def _due(self, doubts: Mapping[str, tuple[int, float]]) -> list[str]:
        """Often where something is in doubt, at once where that is news or its moment has come, else now and then."""
        due = []
        mono, wall = self._clock.mono(), self._clock.wall()
        for gateway in {*self._devices, *doubts}:
            count, deadline_at = doubts.get(gateway, (0, 0.0))
            self._metrics.in_doubt.labels(gateway).set(count)
            asked, poll_s = self._questions[gateway], self._poll_s(gateway)
            late = count > 0 and deadline_at <= wall
            every_s = ASK_LATE_EVERY_S if late else self._ask_every_s if count else poll_s
            if every_s is not None and self._is_mute(gateway) and self._is_busy(gateway):
                every_s = min(every_s, ASK_LATE_EVERY_S)
            if asked.unopened and mono - max(asked.anew_at.values(), default=-math.inf) < OPEN_WITHIN_S:
                every_s = min(OPEN_EVERY_S, every_s or OPEN_EVERY_S)
            second_look_at = min(asked.absent.values(), default=math.inf) + self._gone_after_s(gateway)
            urgent = (
                count > len(asked.seen)
                or asked.asked_at < second_look_at <= mono
                or not self._cards(gateway) <= asked.cards
            )
            if not asked.asking and (urgent or (every_s is not None and mono - asked.asked_at >= every_s)):
                due.append(gateway)
        return due

    def _cards(self, gateway: str) -> frozenset[tuple[int, str]]:
        """The ports that can send, each with its card."""
        belief = self._fleet.gateways.get(gateway)
        return frozenset((p.number, p.sim) for p in belief.ports.values() if p.registered) if belief else frozenset()

    def _gone_after_s(self, gateway: str) -> float:
        """What was handed over and did not arrive within this time never will: the kernel has given it up."""
        known = gateway in self._devices
        patience_s = self._settings.post_timeout_of(gateway) if known else self._settings.timing.post_timeout_s
        return patience_s + KERNEL_LAG_S

    def _poll_s(self, gateway: str) -> float | None:
        return self._settings.gateway(gateway).asked_every_s if gateway in self._devices else None

    def _is_busy(self, gateway: str) -> bool:
        return any(port.queued for port in self._fleet.gateways[gateway].ports.values())

    def _is_mute(self, gateway: str) -> bool:
        """Whether no report of it can come: its counters are all that is ever told."""
        return gateway in self._devices and not self._settings.gateway(gateway).pushes

    async def ask(self, gateway: str) -> None:
        """One round: everything that this gateway can say of what is in doubt, then give up what that cannot save."""
        asked = self._questions[gateway]
        asked.asking, asked.unopened = True, False
        cards = self._cards(gateway)
        asked.anew_at |= dict.fromkeys((port for port, _ in cards - asked.cards), self._clock.mono())
        asked.cards = cards
        try:
            answered = await self._ask(gateway)
            await self._settle_closed(gateway)
            await self._give_up(gateway, answered=answered)
            await self._hold_back(gateway, answered=answered)
        except LedgerUnavailable as error:
            log.error("ledger.unavailable", error=str(error))
        finally:
            asked.asked_at = self._clock.mono()
            asked.asking = False

    async def _ask(self, gateway: str) -> bool:
        """Whether the gateway had its say; one that does not know a question has said what it can."""
        rows = await self._ledger.write(lambda tx: tx.open_at(gateway))
        doubts = [sms for sms in rows if sms.reason is not None]
        self._remember(gateway, doubts)
        if gateway not in self._devices:  # not configured any more: nobody can be asked
            return True
        questions = {
            "again": partial(self._ask_again, gateway, doubts),
            "lists": partial(self._ask_for_lists, gateway, doubts),
        }
        if self._poll_s(gateway) is not None:
            questions["counters"] = partial(self._ask_for_counters, gateway)
        try:
            for name, question in questions.items():
                await self._ask_one(gateway, name, question)
        except (GatewayNotReached, GatewaySilent) as error:
            log.debug("inquiry.not_answered", gateway=gateway, error=str(error))
            return False
        return True

    async def _ask_one(self, gateway: str, name: str, question: Callable[[], Awaitable[None]]) -> None:
        """One that the gateway does not understand keeps it from answering no other."""
        known = self._questions[gateway].not_understood
        try:
            await question()
        except GatewayGarbled as error:
            if known.get(name) != str(error):
                known[name] = str(error)
                log.warning("inquiry.not_understood", gateway=gateway, error=str(error))

    def _remember(self, gateway: str, doubts: Iterable[Sms]) -> None:
        """Since when, by the clock that nobody sets; what is settled is forgotten."""
        asked, now, wall = self._questions[gateway], self._clock.mono(), self._clock.wall()
        attempts = {attempt_of(sms): (sms.deadline_at or 0.0) <= wall for sms in doubts}
        asked.seen = {attempt: asked.seen.get(attempt, now) for attempt in attempts}
        asked.overdue = {attempt: asked.overdue.get(attempt, now) for attempt, late in attempts.items() if late}
        asked.absent = {attempt: since for attempt, since in asked.absent.items() if attempt in attempts}
        asked.listed.clear()
        asked.later.clear()

    # --- questions --------------------------------------------------------------------------------------------------

    async def _ask_again(self, gateway: str, doubts: Sequence[Sms]) -> None:
        """Where the operator knows that this device refuses finished task ids for a while: the same task once more.

        Taken now, or refused as known: either way the device has it, once. Not so late that it could arrive after that
        while; and what of it may be on its way has to be gone before an absence is believed.
        """
        within_s = self._settings.gateway(gateway).resubmit_within_s
        if within_s is None:
            return
        now, mono, seen = self._clock.wall(), self._clock.mono(), self._questions[gateway].seen
        fresh = [
            sms
            for sms in doubts
            if sms.state is State.IN_DOUBT
            and not _is_taken(sms)
            and max(now - (sms.begun_at or 0.0), mono - seen[attempt_of(sms)])
            < within_s - 2 * self._gone_after_s(gateway)
        ]
        for sms in fresh:
            self._questions[gateway].absent.pop(attempt_of(sms), None)
        verdicts = await self._resubmit(gateway, fresh) if fresh else {}
        known = [sms for sms in fresh if _has_it(verdicts.get(sms.tid or 0))]
        await self._settle(known, outcomes.listed)

    async def _ask_for_lists(self, gateway: str, doubts: Sequence[Sms]) -> None:
        """Evidence (2): the task list of the port shows the task with its recipient (absence proves nothing)."""
        by_port: dict[int, list[Sms]] = defaultdict(list)
        for sms in doubts:
            by_port[sms.port or 0].append(sms)
        found: list[Sms] = []
        for port, there in by_port.items():
            shown = {task.tid: task.to for task in await self._devices[gateway].tasks(Port(port))}
            found += [s for s in there if s.tid in shown and matching.same_number(shown[s.tid], s.recipient)]
        self._questions[gateway].listed.update(map(attempt_of, found))
        await self._settle(found, outcomes.listed)

    async def _ask_for_counters(self, gateway: str) -> None:
        """Evidence (3): the SIMs' counters, between two looks into the books; the inbox tells whether it began anew.

        Before the first look it has told what it knows: that changes the books.
        """
        told = await self._read_inbox(gateway)
        before = await self._ledger.write(lambda tx: _look(tx, gateway))
        counters = await self._devices[gateway].statistics()
        ssrc = await self._read_inbox(gateway)
        if ssrc != told:  # it began anew meanwhile: whose counters these are, nobody knows
            return
        now = self._clock.wall()

        def judge(tx: Transaction) -> Pairs:
            after = _look(tx, gateway)
            pairs = [pair for row in counters for pair in self._judge(tx, gateway, row, ssrc, before, after, now)]
            tx.settle([outcome for _, outcome in pairs], now)
            return pairs

        self._changes.note(await self._ledger.write(judge), now)
        self._wake_relay()

    async def _read_inbox(self, gateway: str) -> str:
        """Absorb what came in since the last look; which start of the device that inbox belongs to."""
        ssrc, start = await self._ledger.write(lambda tx: tx.inbox_cursor(gateway))
        for _ in range(INBOX_PAGES):
            page = await self._devices[gateway].inbox(start=start, count=INBOX_ROWS)
            if not page.ssrc:
                raise GatewayGarbled(f"{gateway}: the inbox does not say which start of the device it belongs to")
            if page.ssrc != ssrc:
                ports = self._fleet.gateways[gateway].ports
                self._questions[gateway].anew_at |= dict.fromkeys(ports, self._clock.mono())
                if start != 1:  # so do its ids
                    ssrc, start = page.ssrc, 1
                    continue
            if page.unreadable:
                log.warning("inbox.unreadable", gateway=gateway, start=start, reason=page.unreadable)
            ssrc, first = page.ssrc, start
            start = page.next_sms if page.next_sms > first else first + len(page.rows)
            last = start - first < INBOX_ROWS
            await self._absorb_inbox(gateway, replace(page, next_sms=start), last=last)
            if last:
                break
        return ssrc or ""

    # --- judging ----------------------------------------------------------------------------------------------------

    def _judge(
        self, tx: Transaction, gateway: str, row: SimStatistics, ssrc: str, before: Look, after: Look, now: float
    ) -> Pairs:
        """What the counters of one SIM tell; at a quiet moment its account is closed, to be settled by itself."""
        asked, port = self._questions[gateway], row.port.number
        belief = self._fleet.find_port(gateway, port)
        rows, account = after.rows.get(port, ()), after.accounts.get(port)
        if belief is None or not belief.registered or row.port.slot not in {0, belief.slot}:
            asked.later.update(map(attempt_of, rows))  # its card may come back
            return []
        opened = account is not None and (account.sim, account.ssrc) == (belief.sim, ssrc)
        if before.of(port) != after.of(port) or any(sms.state is State.SUBMITTING for sms in rows):
            asked.later.update(map(attempt_of, rows))
            asked.unopened |= not opened
            self._let_idle(gateway, port, rows)
            return []
        counted = Counters(row.sent_ok, row.sent_failed, row.unsent + row.sending)
        foreign_at = account.foreign_at if account else None
        fresh = Account(belief.sim, ssrc, counted.ok, counted.failed, before.begun, foreign_at)
        if account is None or not opened:
            self._open_account(tx, gateway, port, fresh, counted, rows)
            return []
        company = _company(rows, account.since)
        finding = company.weigh(Counters(account.ok, account.failed), counted)
        if finding == "missing" and (company.sent or any(sms.state.open for sms in company.taken)):
            return []  # not counted yet, or lost in the device: as long as its report may come, the account stands
        if not isinstance(finding, Finding):
            log.info("account.broken", gateway=gateway, port=port, reason=finding)
            if finding == "another_submitter":
                fresh = replace(fresh, foreign_at=now)
                tx.note_foreign(gateway, port, now)
            self._open_account(tx, gateway, port, fresh, counted, rows)
            return []
        if not any(company) or (account.foreign_at is not None and now - account.foreign_at < FOREIGN_FOR_S):
            self._use_again(belief)
            return []
        if not self._are_settled(gateway, finding, company) or counted.waiting:
            asked.later.update(map(attempt_of, company.all))
            self._let_idle(gateway, port, company.all)
            return self._arrived(finding, company, now)
        more_ok, more_failed = counted.ok - account.ok, counted.failed - account.failed
        tx.close_account(gateway, ClosedAccount(port, account.since, fresh.since, more_ok, more_failed))
        tx.open_account(gateway, port, fresh)
        self._use_again(belief)
        return []

    def _let_idle(self, gateway: str, port: int, covered: Sequence[Sms]) -> None:
        """Give a port in use nothing new while a look may settle a doubt there; not for ever."""
        seen = self._questions[gateway].seen
        since = [seen[attempt_of(sms)] for sms in covered if attempt_of(sms) in seen]
        if since:
            self._fleet.hold_port(gateway, port, max(since) + 2 * self._settings.evidence_of(gateway))

    def _use_again(self, port: PortBelief) -> None:
        mono = self._clock.mono()
        if port.pause.until > mono:
            self._fleet.hold_port(port.gateway, port.number, mono)

    def _are_settled(self, gateway: str, finding: Finding, company: Company) -> bool:
        """Whether nothing of it may still come to the device.

        That it never came is believed when seen twice: what lay in between on its way has come or is gone by then (the
        device may have been slow to look at it, the kernel no longer sends it after ``post_timeout_s``).
        """
        absent, mono = self._questions[gateway].absent, self._clock.mono()
        attempts = [attempt_of(sms) for sms in company.doubtful if sms.state is State.IN_DOUBT]
        if finding.arrived != "none":
            for attempt in attempts:
                absent.pop(attempt, None)
            return finding.arrived == "all" or not attempts
        since = [absent.setdefault(attempt, mono) for attempt in attempts]
        return mono - max(since, default=-math.inf) >= self._gone_after_s(gateway)

    def _open_account(
        self, tx: Transaction, gateway: str, port: int, account: Account, counted: Counters, rows: Sequence[Sms]
    ) -> None:
        """Begin an account when nothing older may still come to the device, and the counters hold nothing untold.

        That is so where nothing waits there; or where all that is on its way waits there, and nothing in doubt or given
        up was handed over after the first of it: then just these are in the account. Who is in a closed one was
        counted, so others wait in his place.
        """
        asked, mono = self._questions[gateway], self._clock.mono()
        coming = [
            sms
            for sms in rows
            if sms.state is State.IN_DOUBT
            and not _is_taken(sms)
            and mono - asked.seen.get(attempt_of(sms), mono) < self._gone_after_s(gateway)
        ]
        on_its_way = [sms.begun_n or 0 for sms in rows if sms.state is State.SUBMITTED and sms.reason is None]
        counted_until = max((closed.until for closed in tx.closed_accounts(gateway) if closed.port == port), default=0)
        waits_since = max(min(on_its_way, default=0) - 1, counted_until)
        since = waits_since if counted.waiting and on_its_way else account.since
        awaited = [sms for sms in rows if (sms.begun_n or 0) > since]
        if coming or counted.waiting not in {0, len(on_its_way)} or len(awaited) != counted.waiting:
            asked.unopened = True
            if (
                mono - asked.anew_at.get(port, -math.inf) < OPEN_WITHIN_S
            ):  # a port in use has no quiet moment of its own
                self._fleet.hold_port(gateway, port, mono + OPEN_EVERY_S + TICK_S)
            return
        tx.open_account(gateway, port, replace(account, since=since))

    async def _settle_closed(self, gateway: str) -> None:
        """Weigh what the counters showed at quiet moments with what was told since; no device is needed for it."""
        now = self._clock.wall()

        def settle(tx: Transaction) -> Pairs:
            closed = tx.closed_accounts(gateway)
            since = min((account.since for account in closed), default=0)
            rows = [*tx.open_at(gateway), *tx.untold_at(gateway, since)] if closed else []
            pairs: Pairs = []
            for account in closed:
                company = _company((s for s in rows if s.port == account.port), account.since, account.until)
                finding = company.weigh(Counters(0, 0), Counters(account.ok, account.failed))
                settled = self._settled(finding, company, now) if isinstance(finding, Finding) else []
                after = {attempt_of(sms): outcome.sms for sms, outcome in settled}
                if not any(after.get(attempt_of(sms), sms).state.open for sms in company.all):
                    tx.drop_closed_account(gateway, account)
                pairs += settled
            tx.settle([outcome for _, outcome in pairs], now)
            return pairs

        if pairs := await self._ledger.write(settle):
            self._changes.note(pairs, now)
            self._wake_relay()

    def _settled(self, finding: Finding, company: Company, now: float) -> Pairs:
        """Those that the device had, and those that never came."""
        never = company.doubtful if finding.arrived == "none" else ()
        absent = [(sms, outcome) for sms in never if (outcome := outcomes.absent(sms, now)) is not None]
        return [*self._arrived(finding, company, now), *absent]

    def _arrived(self, finding: Finding, company: Company, now: float) -> Pairs:
        """Those that the device had: how they ended, or at least that it took them."""
        pairs: Pairs = []
        for sms in (*company.sent, *company.taken, *(company.doubtful if finding.arrived == "all" else ())):
            if finding.fate is None:
                outcome = outcomes.listed(sms, now) if not _is_taken(sms) else None
            elif (
                sms.reason is not None
                or outcomes.owes_word(sms)
                or (finding.fate == "sent" and attempt_of(sms) in self._inherited)
                or self._is_mute(sms.gateway or "")
            ):
                outcome = outcomes.counted(sms, finding.fate, now, self._terms_of(sms.route))
            else:
                outcome = None  # its report is on its way, and knows more
            if outcome is not None:
                pairs.append((sms, outcome))
        return pairs

    # --- the end ----------------------------------------------------------------------------------------------------

    async def _give_up(self, gateway: str, *, answered: bool) -> None:
        """At the deadline, once the gateway had its say; ``doubt_s`` later where it has none, or may know more soon."""
        asked, mono = self._questions[gateway], self._clock.mono()
        rows = await self._ledger.write(lambda tx: tx.open_at(gateway))
        doubt_s = self._settings.timing.doubt_s
        hopeless = [
            sms
            for sms in rows
            if sms.reason is not None
            and (since := asked.overdue.get(attempt_of(sms))) is not None
            and ((answered and attempt_of(sms) not in asked.later) or mono - since >= doubt_s)
        ]
        await self._settle(
            hopeless,
            lambda sms, now: outcomes.given_up(
                sms, now, self._terms_of(sms.route), in_list=attempt_of(sms) in asked.listed
            ),
        )

    async def _hold_back(self, gateway: str, *, answered: bool) -> None:
        """Give no new tasks to a gateway that does not answer, nor for a while to one with SMS that may have arrived.

        They would follow into doubt, or blur what the counters show of those. Nothing but the time or their end lets go
        of it: a process that was paused meanwhile must not hand over before it has asked.
        """
        if gateway not in self._devices:
            return
        asked, mono = self._questions[gateway], self._clock.mono()
        if not answered:
            self._fleet.pause_gateway(gateway, mono, least_s=self._gone_after_s(gateway))
            return
        if self._poll_s(gateway) is None:
            return
        rows = await self._ledger.write(lambda tx: tx.open_at(gateway))
        seen = [asked.seen.get(attempt_of(sms), mono) for sms in rows if sms.reason is not None and not _is_taken(sms)]
        self._fleet.hold_gateway(gateway, max(seen) + 2 * self._settings.evidence_of(gateway) if seen else mono)

    async def _settle(self, rows: Sequence[Sms], decide: Callable[[Sms, float], outcomes.Outcome | None]) -> None:
        """Decide on the rows as they are by now, in one transaction."""
        if rows:
            now = self._clock.wall()
            self._changes.note(await self._ledger.write(lambda tx: tx.decide(rows, decide, now)), now)
            self._wake_relay()


def _look(tx: Transaction, gateway: str) -> Look:
    accounts, begun = tx.accounts(gateway), tx.begun(gateway)
    since = min((account.since for account in accounts.values()), default=begun)
    rows: dict[int, list[Sms]] = defaultdict(list)
    for sms in (*tx.open_at(gateway), *tx.untold_at(gateway, since)):
        rows[sms.port or 0].append(sms)
    return Look(begun, rows, accounts)


def _company(rows: Iterable[Sms], since: int, until: float = math.inf) -> Company:
    """Those that were handed over after number ``since``, up to ``until``."""
    covered = [sms for sms in rows if since < (sms.begun_n or 0) <= until]
    sent = [sms for sms in covered if outcomes.owes_word(sms)]
    taken = [sms for sms in covered if _is_taken(sms)]
    return Company(sent, taken, [sms for sms in covered if sms not in sent and sms not in taken])


def _is_taken(sms: Sms) -> bool:
    """Whether the device has, or had, it for certain."""
    return sms.state is State.SUBMITTED or sms.reason == outcomes.REPORT_LOST


def _has_it(verdict: codes.Verdict | None) -> bool:
    """Whether the answer to the same task id once more says that the device has it."""
    return isinstance(verdict, codes.Submitted) or (isinstance(verdict, codes.HandBack) and verdict.scope == "task")
