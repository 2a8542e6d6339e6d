"""Who stands where: requests in lines, ports in order, gateways as outlets.

The planner's furniture. Requests that wish for the same ports stand in one line; a line keeps those ports in order of
who can take a message first. Nothing is decided here: see `planner`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush

from bridge.models import Delivery, Key, Request
from bridge.rules.health import GatewayBelief, PortBelief
from bridge.rules.limiter import Bucket
from bridge.rules.ranking import Ranking
from bridge.rules.routing import Wish


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

    def __init__(self, wish: Wish, outlets: Mapping[str, Outlet], booked: Mapping[PortBelief, object]) -> None:
        self.wish = wish
        self.turn = 0
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


def _look_at_group(group: Group, _now: float) -> tuple[float, int]:
    return (math.inf, 0) if group.stuck or not group.size else (-math.inf, group.head.number)
