"""What we believe of the gateways, their ports and the cards in them.

Beliefs come from what a device told (`note_status`) and from how it treated us (`pause_port`, `pause_gateway`,
`note_success`); nothing here asks or sends. A card's budget hangs on the card, not on the port: it moves along when
the card does. The ports that changed are collected as news, for the planner to look at again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from bridge.ejoin import codes, facts
from bridge.rules.limiter import Bucket, Pace
from bridge.rules.matching import digits

NO_CARD_ST = 0
PAUSE_S = (2.0, 60.0)
"""First and longest pause; each one is twice the last."""
STOP_S = (60.0, 900.0)
"""The same where the device refused us by name or right: it locks out who goes on asking."""
NO_PACE = Pace(0.0, 1)
"""Of a card that lies in no port yet: its debt is not paid by waiting."""


class Pause:
    """Leaves something alone that refused or did not answer: each time twice as long, until it works again.

    Apart from that it may be held: nothing failed, but it is left alone as well.
    """

    __slots__ = ("_failed_until", "_held_until", "_length_s")

    def __init__(self) -> None:
        self._failed_until = self._held_until = -math.inf
        self._length_s = 0.0

    @property
    def until(self) -> float:
        """Until when it is left alone."""
        return max(self._failed_until, self._held_until)

    def begin(self, now: float, *, stop: bool = False, least_s: float = 0.0) -> float:
        """It failed; answers until when to leave it alone. Failures during a pause are of the same trouble."""
        first, longest = (max(one, least_s) for one in (STOP_S if stop else PAUSE_S))
        if self._failed_until <= now or self._length_s < first:
            self._length_s = min(max(first, 2 * self._length_s), longest)
            self._failed_until = now + self._length_s
        return self.until

    def hold(self, until: float) -> None:
        """Hold it until then, instead of what was said before."""
        self._held_until = until

    def lift(self) -> bool:
        """It may be tried at once; should it fail again, the next pause is the longer one. True where that is news."""
        was, self._failed_until = self._failed_until, -math.inf
        return was > -math.inf

    def reset(self) -> bool:
        """It works. True where that is news."""
        self._length_s = 0.0
        return self.lift()


@dataclass(frozen=True, slots=True)
class GatewayPlan:
    """What the configuration says of one gateway: its ports with the pace of their cards, and how it is served."""

    ports: Mapping[int, Pace]
    max_queued: int = 2
    batch: int = 50
    post_interval_s: float = 0.0


@dataclass(slots=True, eq=False)
class PortBelief:
    """One modem position and the card that is active in it.

    ``st`` is the device's own state (None: never heard), ``own_number`` the card's; ``sim`` is what the card is known
    by: its ICCID, else its place. ``queued`` counts the tasks that the device has and has not reported, ``spent`` the
    segments given to this port.
    """

    gateway: str
    number: int
    bucket: Bucket
    slot: int = 0
    st: int | None = None
    iccid: str = ""
    sim: str = ""
    own_number: str = ""
    operator: str = ""
    signal: int | None = None
    balance: float | None = None
    queued: int = 0
    spent: int = 0
    pause: Pause = field(default_factory=Pause)

    @property
    def registered(self) -> bool:
        """Whether the device says that it can send."""
        return self.st == codes.CAN_SEND_ST


@dataclass(slots=True, eq=False)
class GatewayBelief:
    """One box: how it is served, its configured ports, and whether we leave it alone."""

    name: str
    plan: GatewayPlan
    ports: dict[int, PortBelief]
    pause: Pause = field(default_factory=Pause)


@dataclass(frozen=True, slots=True)
class PortChange:
    """A port's state, slot or card is another than before."""

    gateway: str
    number: int
    st: int | None
    slot: int
    sim: str
    was_st: int | None
    was_slot: int
    was_sim: str


class Fleet:
    """All we believe of all gateways. Every card's budget starts empty at ``now``."""

    def __init__(self, gateways: Mapping[str, GatewayPlan], now: float) -> None:
        self.gateways: dict[str, GatewayBelief] = {}
        self._news: dict[PortBelief, bool] = {}
        self._buckets: dict[str, Bucket] = {}
        self._cards: dict[str, PortBelief] = {}
        for name, plan in gateways.items():
            ports = {number: PortBelief(name, number, Bucket(pace, 0.0, now)) for number, pace in plan.ports.items()}
            self.gateways[name] = GatewayBelief(name, plan, ports)
        for port in self.ports():
            port.sim = _place(port.gateway, port.number, port.slot)
            self._buckets[port.sim] = port.bucket

    def __repr__(self) -> str:
        ports = list(self.ports())
        return f"<Fleet {len(self.gateways)} gateways, {sum(port.registered for port in ports)}/{len(ports)} ports up>"

    def ports(self) -> Iterator[PortBelief]:
        """All configured ports of all gateways."""
        return (port for gateway in self.gateways.values() for port in gateway.ports.values())

    def port(self, gateway: str, number: int) -> PortBelief:
        """A configured port; KeyError where there is none."""
        return self.gateways[gateway].ports[number]

    def find_port(self, gateway: str, number: int) -> PortBelief | None:
        """A port; None where it is not, or no longer, configured."""
        belief = self.gateways.get(gateway)
        return None if belief is None else belief.ports.get(number)

    def find_card(self, name: str) -> PortBelief | None:
        """The port that holds the card with this ICCID or own number; None where no port has told of it."""
        return self._cards.get(name) or self._cards.get(digits(name))

    def usable(self, port: PortBelief, now: float) -> bool:
        """Whether the port is registered and neither it nor its gateway is left alone."""
        return port.registered and port.pause.until <= now and self.gateways[port.gateway].pause.until <= now

    def can_send(self, port: PortBelief, now: float) -> bool:
        """Whether the port is usable and its device would take another task; its budget is not looked at."""
        return self.usable(port, now) and port.queued < self.gateways[port.gateway].plan.max_queued

    def restore_debt(self, sim: str, level: float, now: float) -> None:
        """What a card owed when the bridge stopped; a credit is not restored (design 3.7)."""
        owed = Bucket(NO_PACE, min(level, 0.0), now)
        if known := self._buckets.get(sim):
            known.absorb(owed, now)
        else:
            self._buckets[sim] = owed

    def note_status(self, gateway: str, status: facts.PortStatus, now: float) -> PortChange | None:
        """Believe a row of a status; answers what of st, slot and card is another than before, if anything.

        Rows of ports that we do not have and of cards that lie inactive under a port say nothing about our ports.
        """
        port = self.gateways[gateway].ports.get(status.port.number)
        if port is None or not status.active:
            return None
        was, names = (port.st, port.slot, port.sim), _names(port)
        self._believe(port, status, now)
        if port.registered and port.pause.lift():
            self.note_news(port)
        if _names(port) != names:
            self.note_news(port, moved=True)
        if (port.st, port.slot, port.sim) == was:
            return None
        self.note_news(port, moved=(port.slot, port.sim) != was[1:])
        return PortChange(gateway, port.number, port.st, port.slot, port.sim, *was)

    def pause_port(self, gateway: str, number: int, now: float) -> float:
        """The port's SIM failed a task; answers until when it is left alone, unless the device says it is well."""
        port = self.port(gateway, number)
        self.note_news(port)
        return port.pause.begin(now)

    def pause_gateway(self, gateway: str, now: float, *, stop: bool = False, least_s: float = 0.0) -> float:
        """The gateway refused or was not reached (``stop``: it refused us); answers until when it is left alone."""
        belief = self.gateways[gateway]
        for port in belief.ports.values():
            self.note_news(port)
        return belief.pause.begin(now, stop=stop, least_s=least_s)

    def hold_gateway(self, gateway: str, until: float) -> None:
        """Leave a gateway alone until then, and no longer; it is no failure of its own."""
        belief = self.gateways[gateway]
        for port in belief.ports.values():
            self.note_news(port)
        belief.pause.hold(until)

    def hold_port(self, gateway: str, number: int, until: float) -> None:
        """The same for one port, whatever its device says of it."""
        port = self.port(gateway, number)
        self.note_news(port)
        port.pause.hold(until)

    def note_success(self, gateway: str, number: int | None = None) -> None:
        """The gateway works, and the port where one is named: the next trouble begins with a short pause again."""
        belief = self.gateways[gateway]
        if belief.pause.reset():
            for port in belief.ports.values():
                self.note_news(port)
        if number is not None and belief.ports[number].pause.reset():
            self.note_news(belief.ports[number])

    def note_news(self, port: PortBelief, *, moved: bool = False) -> None:
        """The planner shall look at this port again; ``moved``: there is another card in it, or we know it better."""
        self._news[port] = moved or self._news.get(port, False)

    def take_news(self) -> dict[PortBelief, bool]:
        """The ports to look at again since the last call, each with whether a card moved."""
        news, self._news = self._news, {}
        return news

    def _believe(self, port: PortBelief, told: facts.PortStatus, now: float) -> None:
        slot = told.port.slot or port.slot
        same_card = (
            told.st != NO_CARD_ST
            and port.slot in (0, slot)
            and (not told.iccid or not port.iccid or told.iccid == port.iccid)
        )
        self._forget_card(port)
        if not same_card:
            port.st = port.signal = port.balance = None
            port.iccid = port.own_number = port.operator = ""
        port.slot = slot
        port.iccid = told.iccid or port.iccid
        port.own_number = told.number or port.own_number
        port.operator = told.operator or port.operator
        port.st = port.st if told.st is None else told.st
        port.signal = port.signal if told.signal is None else told.signal
        port.balance = port.balance if told.balance is None else told.balance
        self._assign_bucket(port, now, same_card=same_card)
        for name in _names(port):
            if name in self._cards:
                self.note_news(self._cards[name], moved=True)
            self._cards[name] = port

    def _forget_card(self, port: PortBelief) -> None:
        for name in _names(port):
            if self._cards.get(name) is port:
                del self._cards[name]

    def _assign_bucket(self, port: PortBelief, now: float, *, same_card: bool) -> None:
        """Give the port the budget of the card in it, which may have become known only now."""
        sim = port.iccid or _place(port.gateway, port.number, port.slot)
        if sim == port.sim:
            return
        bucket = self._buckets.get(sim)
        if same_card:
            old = self._buckets.pop(port.sim)
            if bucket is not None:
                bucket.absorb(old, now)
            bucket = bucket or old
        pace = self.gateways[port.gateway].plan.ports[port.number]
        bucket = bucket or Bucket(pace, 0.0, now)
        bucket.change_pace(pace, now)
        port.sim, port.bucket, self._buckets[sim] = sim, bucket, bucket


def _place(gateway: str, number: int, slot: int) -> str:
    """What a card is known by whose ICCID nobody told."""
    return f"{gateway}/{number}.{slot}"


def _names(port: PortBelief) -> list[str]:
    return [name for name in (port.iccid, digits(port.own_number)) if name]
