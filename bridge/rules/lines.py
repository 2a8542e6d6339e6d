"""Who stands where: requests in lines, ports in order, gateways as outlets.

The planner's furniture. Requests that wish for the same ports stand in one line; a line keeps those ports in order of
who can take a message first, and follows a card to where it lies. Nothing is decided here: see `planner`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush

from bridge.models import Delivery, Key, Request
from bridge.rules.health import GatewayBelief, PortBelief
from bridge.rules.limiter import Bucket
from bridge.rules.ranking import Ranking
from bridge.rules.routing import Routing, Wish


@dataclass(slots=True, eq=False)
class Waiting:
    """A request that waits for a port, with its receipt. Moments are monotonic seconds.

    ``place`` is where it waits: in a group, or at the port that is booked for it; None once it has left.
    """

    request: Request
    delivery: Delivery
    wish: Wish
    number: int
    offered_at: float
    hold_s: float
    expires_at: float
    give_back_at: float = field(init=False)
    place: Group | PortBelief | None = None

    def __post_init__(self) -> None:
        self.give_back_at = self.offered_at + self.hold_s

    @property
    def same(self) -> tuple[Key, int, bytes]:
        """What a second delivery of the same request has in common with it."""
        return self.request.key, self.request.attempt, self.request.fingerprint

    @property
    def cost(self) -> int:
        """Segments."""
        return self.request.segments

    @property
    def ends_at(self) -> float:
        """When it leaves at the latest, sent or not."""
        return min(self.expires_at, self.give_back_at)


@dataclass(frozen=True, slots=True, eq=False)
class Assignment:
    """A request and the port that shall send it, with the card that is in it."""

    waiting: Waiting
    gateway: str
    port: int
    slot: int
    sim: str


class Outlet:
    """A gateway as work leaves it: one batch at a time, and not too soon after the last.

    ``batch`` is being formed, ``flight`` (with the buckets spent from) is in the POST that is begun or open.
    """

    __slots__ = ("batch", "belief", "busy", "flight", "free_at")

    def __init__(self, belief: GatewayBelief) -> None:
        self.belief = belief
        self.busy = False
        self.free_at = -math.inf
        self.batch: list[Assignment] = []
        self.flight: dict[Assignment, Bucket] = {}

    def moment(self) -> float:
        """When another task may be put into a batch; infinite while a POST is open or the batch is full."""
        if self.busy or len(self.batch) >= self.belief.plan.batch:
            return math.inf
        return max(self.free_at, self.belief.pause.until)

    def moment_of(self, port: PortBelief, cost: int, now: float) -> float:
        """When a port by itself can take a message of this cost; infinite where only news can change that."""
        if not port.registered or port.queued >= self.belief.plan.max_queued:
            return math.inf
        return max(port.pause.until, now + port.bucket.wait(cost, now))


class Board:
    """The ports of a line by who can take a message of one cost first; among those ready, by least spent.

    A ranking of gateways over rankings of their ports, so that a gateway that is busy takes all of them out at once.
    """

    __slots__ = ("_booked", "_cost", "_gateways", "_outlets", "_ports")

    def __init__(self, cost: int, outlets: Mapping[str, Outlet], booked: Mapping[PortBelief, object]) -> None:
        self._cost = cost
        self._outlets = outlets
        self._booked = booked
        self._gateways: Ranking[str] = Ranking(self._look_at_gateway)
        self._ports: dict[str, Ranking[PortBelief]] = {}

    def first(self, now: float) -> tuple[PortBelief | None, float]:
        """The port that can take a message first, and when: ``now`` where it can. None where time alone frees none."""
        gateway, moment = self._gateways.first(now)
        return (None, moment) if gateway is None else (self._ports[gateway].first(now)[0], moment)

    def add(self, port: PortBelief, now: float) -> None:
        """Take a port in, or learn that it may be better off than it was."""
        if port.gateway not in self._ports:
            self._ports[port.gateway] = Ranking(self._look_at_port)
        self._ports[port.gateway].add(port, now)
        self._gateways.add(port.gateway, now)

    def remove(self, port: PortBelief) -> None:
        """Take a port out."""
        self._ports[port.gateway].remove(port)

    def reopen(self, gateway: str, now: float) -> None:
        """The gateway's POST has ended: its ports are to be had again."""
        if gateway in self._ports:
            self._gateways.add(gateway, now)

    def _look_at_gateway(self, gateway: str, now: float) -> tuple[float, int]:
        moment = self._outlets[gateway].moment()
        port, ready_at = self._ports[gateway].first(now) if moment < math.inf else (None, math.inf)
        return (math.inf, 0) if port is None else (max(moment, ready_at), port.spent)

    def _look_at_port(self, port: PortBelief, now: float) -> tuple[float, int]:
        if port in self._booked:
            return math.inf, 0
        return self._outlets[port.gateway].moment_of(port, self._cost, now), port.spent


class Group:
    """Those of a line whom the same SIMs have failed: first come, first served. ``stuck`` while a plan passes it by."""

    __slots__ = ("line", "size", "stuck", "tried", "waiting")

    def __init__(self, line: Line, tried: frozenset[str]) -> None:
        self.line = line
        self.tried = tried
        self.waiting: list[tuple[int, Waiting]] = []
        self.size = 0
        self.stuck = False

    @property
    def head(self) -> Waiting:
        """Who has waited longest; there is somebody while ``size`` is not 0."""
        while self.waiting[0][1].place is not self:
            heappop(self.waiting)
        return self.waiting[0][1]


class Line:
    """All who wish for the same ports, in groups; whoever has waited longest comes first.

    ``turn`` is when it was served last among the lines, ``due`` the moment from which it is worth looking at again,
    ``size`` counts who stands in it, ``ports`` are those that meet the wish as the cards lie now.
    """

    __slots__ = ("_boards", "_booked", "_groups", "_order", "_outlets", "due", "ports", "size", "turn", "wish")

    def __init__(
        self, wish: Wish, turn: int, outlets: Mapping[str, Outlet], booked: Mapping[PortBelief, object]
    ) -> None:
        self.wish = wish
        self.turn = turn
        self.due = math.inf
        self.size = 0
        self.ports: dict[PortBelief, None] = {}
        self._outlets = outlets
        self._booked = booked
        self._groups: dict[frozenset[str], Group] = {}
        self._order: Ranking[Group] = Ranking(_look_at_group)
        self._boards: dict[int, Board] = {}

    def enter(self, waiting: Waiting) -> None:
        """Stand in line, by the number that was drawn on coming."""
        tried = frozenset(waiting.request.tried)
        group = self._groups.get(tried)
        if group is None:
            group = self._groups[tried] = Group(self, tried)
        heappush(group.waiting, (waiting.number, waiting))
        waiting.place = group
        group.size += 1
        self.size += 1
        self._order.add(group, 0.0)

    def leave(self, group: Group) -> None:
        """One of a group has gone: its ``place`` is another already."""
        group.size -= 1
        self.size -= 1
        if not group.size:
            del self._groups[group.tried]

    def first(self) -> Group | None:
        """The group whose head has waited longest, of those that are not stuck."""
        return self._order.first(0.0)[0]

    def unstick(self, group: Group) -> None:
        """The next plan looks at the group again."""
        group.stuck = False
        self._order.add(group, 0.0)

    def board(self, cost: int, now: float) -> Board:
        """The ports in order for messages of this cost."""
        board = self._boards.get(cost)
        if board is None:
            board = self._boards[cost] = Board(cost, self._outlets, self._booked)
            for port in self.ports:
                board.add(port, now)
        return board

    def add(self, port: PortBelief, now: float) -> None:
        """A port meets the wish, or may be better off than it was."""
        self.ports[port] = None
        for board in self._boards.values():
            board.add(port, now)

    def remove(self, port: PortBelief) -> None:
        """A port meets the wish no longer."""
        del self.ports[port]
        for board in self._boards.values():
            board.remove(port)

    def reopen(self, gateway: str, now: float) -> None:
        """A gateway's POST has ended."""
        for board in self._boards.values():
            board.reopen(gateway, now)


class Lines:
    """All lines, by wish and by port."""

    __slots__ = ("_booked", "_by_wish", "_of", "_outlets", "_routing")

    def __init__(self, routing: Routing, outlets: Mapping[str, Outlet], booked: Mapping[PortBelief, object]) -> None:
        self._routing = routing
        self._outlets = outlets
        self._booked = booked
        self._by_wish: dict[Wish, Line] = {}
        self._of: dict[PortBelief, dict[Line, None]] = {
            port: {} for outlet in outlets.values() for port in outlet.belief.ports.values()
        }

    def of(self, port: PortBelief) -> Iterable[Line]:
        """The lines whose wish a port meets."""
        return self._of[port]

    def get(self, wish: Wish, turn: int, now: float) -> Line:
        """The line of a wish. A new one comes before the line that was served last (in ``turn``) and no other."""
        line = self._by_wish.get(wish)
        if line is None:
            line = self._by_wish[wish] = Line(wish, turn - 1, self._outlets, self._booked)
            for port in self._routing.reach(wish):
                self._of[port][line] = None
                line.add(port, now)
        return line

    def sort_in(self, port: PortBelief, now: float) -> list[Line]:
        """A card came to this port or went: answers with the lines that had the port, or have it now."""
        changed = []
        for line in [line for line in self._by_wish.values() if line.wish.narrow]:
            if self._routing.allows(line.wish, port):
                self._of[port][line] = None
                line.add(port, now)
                changed.append(line)
            elif port in line.ports:
                del self._of[port][line]
                line.remove(port)
                changed.append(line)
        return changed

    def drop_empty(self, line: Line) -> None:
        """Lines of a whole lane stay, there are few; those of a narrower wish go with their last request."""
        if line.wish.narrow and not line.size:
            del self._by_wish[line.wish]
            for port in line.ports:
                del self._of[port][line]

    def crowded(self, line: Line, room: float) -> bool:
        """Whether with one more in this line over half of its lane's room would wait for one and the same card."""
        if not line.wish.narrow or len(line.ports) > 1:
            return False
        others = (other for port in line.ports for other in self._of[port] if other is not line)
        alike = (other for other in others if other.wish.lane == line.wish.lane and len(other.ports) == 1)
        return 2 * (line.size + 1 + sum(other.size for other in alike if other.wish.narrow)) > room


def _look_at_group(group: Group, _now: float) -> tuple[float, int]:
    return (math.inf, 0) if group.stuck or not group.size else (-math.inf, group.head.number)
