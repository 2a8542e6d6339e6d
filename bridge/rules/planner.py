"""Which SIM sends which SMS, and when.

`plan(now)` answers with batches to hand over, with what expired or was held too long, and with the moment to ask again
if no news comes. It is plain code over beliefs (`health`), budgets (`limiter`) and ports (`routing`), and never sleeps.

Lines take turns, one SMS each. In a line the one goes first that has waited longest, and only heads are looked at. Of
the ports that can send now it gets the least spent one. A message too large for every bucket books the port that is
ready for it first: that port serves nobody else until it has saved up, and the line moves on. What got worse is found
out when it is met, what got better is told as news; so an SMS costs the logarithm of the ports, however many wait.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from bridge.models import Delivery, Key, Request
from bridge.rules.health import Fleet, PortBelief
from bridge.rules.lines import Assignment, Group, Line, Lines, Outlet, Waiting
from bridge.rules.ranking import Ranking
from bridge.rules.routing import Routing


@dataclass(frozen=True, slots=True)
class Batch:
    """What one POST shall hand over."""

    gateway: str
    assignments: tuple[Assignment, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now: hand over, tell as expired, give back to the broker.

    Before ``wake_at`` nothing more happens by time alone (None: ever); news may call for a plan at any moment.
    """

    batches: tuple[Batch, ...]
    expired: tuple[Waiting, ...]
    overdue: tuple[Waiting, ...]
    wake_at: float | None


@dataclass(frozen=True, slots=True)
class Booking:
    """A port that saves up for a message, with the card that was in it then."""

    waiting: Waiting
    sim: str


class Planner:
    """The waiting room: requests come in by ``offer`` and leave by a batch, as expired, as overdue or by ``drain``.

    ``capacity`` is the size of the room per lane (routing key): at most half of it may wait for one and the same card.
    """

    def __init__(self, fleet: Fleet, routing: Routing, *, capacity: Mapping[str, int] | None = None) -> None:
        self._fleet = fleet
        self._routing = routing
        self._capacity = dict(capacity or {})
        self._outlets = {name: Outlet(belief) for name, belief in fleet.gateways.items()}
        self._index: dict[tuple[Key, int, bytes], Waiting] = {}
        self._ends: list[tuple[float, int, Waiting]] = []
        self._waiting_of: Counter[str] = Counter()
        self._bookings: dict[PortBelief, Booking] = {}
        self._lines = Lines(routing, self._outlets, self._bookings)
        self._booked: Ranking[PortBelief] = Ranking(self._look_at_booked)
        self._turns: Ranking[Line] = Ranking(_look_at_line)
        self._turn = 0
        self._number = 0

    def __repr__(self) -> str:
        return f"<Planner {len(self._index)} waiting, {sum(len(o.flight) for o in self._outlets.values())} in flight>"

    # --- the waiting room -------------------------------------------------------------------------------------------

    def offer(
        self, request: Request, delivery: Delivery, *, now: float, expires_at: float, hold_s: float
    ) -> Delivery | Literal["later"] | None:
        """Let a request wait, for ``hold_s`` at most, and not after ``expires_at`` (monotonic).

        Answers with the older delivery where the same request (key, attempt, fingerprint) waits already: it is to be
        acked, the newer receipt stays. Answers ``later`` where too many wait for the same card. Raises RequestInvalid
        where it asks for what no configured port can meet.
        """
        if known := self._index.get((request.key, request.attempt, request.fingerprint)):
            older, known.delivery = known.delivery, delivery
            return older
        wish = self._routing.wish(request)
        line = self._lines.get(wish, self._turn, now)
        if self._lines.crowded(line, self._capacity.get(wish.lane, math.inf)):
            self._lines.drop_empty(line)
            return "later"
        self._number += 1
        waiting = Waiting(request, delivery, wish, self._number, now, hold_s, expires_at)
        self._index[waiting.same] = waiting
        self._waiting_of[wish.lane] += 1
        heapq.heappush(self._ends, (waiting.ends_at, waiting.number, waiting))
        self._enter(waiting, line, now)
        return None

    def waiting_of(self, lane: str) -> int:
        """How many wait that came by this routing key."""
        return self._waiting_of[lane]

    def in_flight_of(self, gateway: str) -> int:
        """How many are in the POST to this gateway that is begun or open."""
        return len(self._outlets[gateway].flight)

    def drain(self, lane: str | None = None) -> list[Waiting]:
        """Take all out that came by this routing key (None: by any), oldest first, to be given back."""
        drained = [waiting for waiting in self._index.values() if lane in (None, waiting.wish.lane)]
        for waiting in drained:
            self._leave(waiting)
        return drained

    # --- what the loops tell -----------------------------------------------------------------------------------------

    def posted(self, gateway: str, now: float) -> None:
        """The POST of the last batch has ended or was abandoned: time is credited again, the next batch may form."""
        outlet = self._outlets[gateway]
        outlet.busy = False
        for bucket in outlet.flight.values():
            bucket.settle(now)
        outlet.flight.clear()
        ports = outlet.belief.ports.values()
        for line in dict.fromkeys(line for port in ports for line in self._lines.of(port)):
            line.reopen(gateway, now)
            self._look_soon(line, now)
        for port in ports:
            self._booked.add(port, now)

    def refund(self, assignment: Assignment, now: float) -> None:
        """Free the budget and the place in the device of one that provably was not handed over.

        To be told before ``posted``: later the bucket may have filled up meanwhile, and only the place is freed.
        """
        self.refund_budget(assignment, now)
        self.reported(assignment.gateway, assignment.port)

    def refund_budget(self, assignment: Assignment, now: float) -> None:
        """The budget alone, where somebody else tells that the device is done with the task."""
        bucket = self._outlets[assignment.gateway].flight.pop(assignment, None)
        if bucket is not None:
            bucket.refund(assignment.waiting.cost, now)
            self._fleet.note_news(self._fleet.port(assignment.gateway, assignment.port))
            if holder := self._fleet.find_card(assignment.sim):  # the card may lie in another port by now
                self._fleet.note_news(holder)

    def reported(self, gateway: str, port: int) -> None:
        """The device is done with one task of the port; nothing to us where it is not configured any more."""
        belief = self._fleet.find_port(gateway, port)
        if belief is not None:
            belief.queued = max(0, belief.queued - 1)
            self._fleet.note_news(belief)

    def restore_queued(self, gateway: str, port: int, count: int) -> None:
        """At start: so many tasks were handed to the port and never reported."""
        belief = self._fleet.find_port(gateway, port)
        if belief is not None:
            belief.queued = count
            self._fleet.note_news(belief)

    # --- deciding ----------------------------------------------------------------------------------------------------

    def plan(self, now: float, *, begin: bool = True) -> Plan:
        """Decide what leaves now. Batches are begun by this: their gateways are busy until ``posted``.

        Without ``begin`` only those leave who must not or need not wait any longer.
        """
        expired, overdue = self._retire(now)
        if not begin:
            end = self._next_end()
            return Plan((), tuple(expired), tuple(overdue), None if end == math.inf else end)
        self._take_news(now)
        self._serve_booked(now)
        stuck = self._serve_lines(now)
        batches = tuple(self._close(outlet, now) for outlet in self._outlets.values() if outlet.batch)
        for line, groups in stuck.items():
            self._rest(line, groups, now)
        wake_at = min(self._next_end(), self._booked.first(now)[1], self._turns.first(now)[1])
        return Plan(batches, tuple(expired), tuple(overdue), None if wake_at == math.inf else wake_at)

    def next_moment(self, lane: str, now: float) -> float | None:
        """When a port of this routing key could send one segment; None where none can by time alone.

        An open POST, unreported tasks and bookings do not count: they end by themselves and soon.
        """
        moments = (
            max(now + port.bucket.wait(1, now), port.pause.until, self._outlets[port.gateway].belief.pause.until)
            for port in self._routing.ports_of(lane)
            if port.registered
        )
        earliest = min(moments, default=None)
        return None if earliest is None else max(now, earliest)

    def _retire(self, now: float) -> tuple[list[Waiting], list[Waiting]]:
        """Take out who must not or need not wait any longer: (expired, overdue)."""
        expired: list[Waiting] = []
        overdue: list[Waiting] = []
        while self._next_end() <= now:
            _, _, waiting = heapq.heappop(self._ends)
            (expired if waiting.expires_at <= now else overdue).append(waiting)
            self._leave(waiting)
        return expired, overdue

    def _next_end(self) -> float:
        """When the next one expires or is held too long; forgets on the way who has left, and who may stay longer."""
        while self._ends:
            at, number, waiting = self._ends[0]
            if waiting.place is None:
                heapq.heappop(self._ends)
            elif at < waiting.ends_at:
                heapq.heapreplace(self._ends, (waiting.ends_at, number, waiting))
            else:
                return at
        return math.inf

    def _take_news(self, now: float) -> None:
        """Look again at what changed; a card that came or went changes who may wait where."""
        for port, moved in self._fleet.take_news().items():
            for line in self._lines.sort_in(port, now) if moved else ():
                self._look_soon(line, now)
            booking = self._bookings.get(port)
            if booking and (port.sim != booking.sim or not self._fleet.usable(port, now)):
                del self._bookings[port]
                self._enter(booking.waiting, self._lines.get(booking.waiting.wish, self._turn, now), now)
            self._booked.add(port, now)
            for line in self._lines.of(port):
                line.add(port, now)
                self._look_soon(line, now)

    def _serve_booked(self, now: float) -> None:
        while True:
            port, moment = self._booked.first(now)
            if port is None or moment > now:
                return
            self._assign(self._bookings[port].waiting, port, now)

    def _serve_lines(self, now: float) -> dict[Line, list[Group]]:
        """Let the lines take turns until none can go on; answers who got stuck."""
        stuck: dict[Line, list[Group]] = {}
        while True:
            line, moment = self._turns.first(now)
            if line is None or moment > now:
                return stuck
            if self._serve(line, stuck.setdefault(line, []), now):
                self._turn += 1
                line.turn = self._turn
            else:
                line.due = math.inf

    def _serve(self, line: Line, stuck: list[Group], now: float) -> bool:
        """One turn: of those in the line the one goes that can and has waited longest. False where nobody can."""
        while (group := line.first()) is not None:
            waiting = group.head
            port, moment = self._find(group, now)
            if port is not None and moment <= now:
                self._assign(waiting, port, now)
                return True
            if port is not None and waiting.cost > 1:
                self._book(waiting, port, moment, now)
                continue
            group.stuck = True
            stuck.append(group)
            if line.board(1, now).first(now)[1] > now:
                return False
        return False

    def _find(self, group: Group, now: float) -> tuple[PortBelief | None, float]:
        """The port that can take a group's head first, and when; the SIMs that failed it are passed over."""
        board = group.line.board(group.head.cost, now)
        passed = []
        port, moment = board.first(now)
        while port is not None and port.sim in group.tried:
            board.remove(port)
            passed.append(port)
            port, moment = board.first(now)
        for one in passed:
            board.add(one, now)
        return port, moment

    def _rest(self, line: Line, stuck: list[Group], now: float) -> None:
        """Nobody of a line can go on: find out when somebody may, now that it is clear which gateways are busy."""
        moments = [self._find(group, now)[1] for group in stuck]
        if line.first() is not None:
            moments.append(line.board(1, now).first(now)[1])
        for group in stuck:
            line.unstick(group)
        line.due = min(moments, default=math.inf)
        self._turns.add(line, now)

    # --- moving ------------------------------------------------------------------------------------------------------

    def _assign(self, waiting: Waiting, port: PortBelief, now: float) -> None:
        outlet = self._outlets[port.gateway]
        assignment = Assignment(waiting, port.gateway, port.number, port.slot, port.sim)
        port.bucket.spend(waiting.cost, now)
        port.queued += 1
        port.spent += waiting.cost
        outlet.batch.append(assignment)
        outlet.flight[assignment] = port.bucket
        self._leave(waiting)

    def _close(self, outlet: Outlet, now: float) -> Batch:
        batch = Batch(outlet.belief.name, tuple(outlet.batch))
        outlet.batch.clear()
        outlet.busy = True
        outlet.free_at = now + outlet.belief.plan.post_interval_s
        return batch

    def _book(self, waiting: Waiting, port: PortBelief, ready_at: float, now: float) -> None:
        """Let a port save up for a message, which may wait for that, and no longer than usual beyond it."""
        self._quit(waiting, port)
        if self._fleet.usable(port, now):
            waiting.give_back_at = max(waiting.give_back_at, ready_at + waiting.hold_s)
        self._bookings[port] = Booking(waiting, port.sim)
        self._booked.add(port, now)

    def _leave(self, waiting: Waiting) -> None:
        """Out of the waiting room, for good."""
        self._quit(waiting, None)
        del self._index[waiting.same]
        self._waiting_of[waiting.wish.lane] -= 1
        if len(self._ends) > 2 * len(self._index) + 64:
            self._ends = [end for end in self._ends if end[2].place is not None]
            heapq.heapify(self._ends)

    def _quit(self, waiting: Waiting, place: PortBelief | None) -> None:
        """From where it waits to another place: a port that is booked for it, or none."""
        was, waiting.place = waiting.place, place
        if isinstance(was, Group):
            was.line.leave(was)
            self._lines.drop_empty(was.line)
        else:
            assert was is not None
            del self._bookings[was]
            self._fleet.note_news(was)

    def _enter(self, waiting: Waiting, line: Line, now: float) -> None:
        line.enter(waiting)
        self._look_soon(line, now)

    def _look_soon(self, line: Line, now: float) -> None:
        line.due = -math.inf
        self._turns.add(line, now)

    def _look_at_booked(self, port: PortBelief, now: float) -> tuple[float, int]:
        booking = self._bookings.get(port)
        if booking is None:
            return math.inf, 0
        outlet = self._outlets[port.gateway]
        return max(outlet.moment(), outlet.moment_of(port, booking.waiting.cost, now)), booking.waiting.number


def _look_at_line(line: Line, _now: float) -> tuple[float, int]:
    return line.due if line.size else math.inf, line.turn
