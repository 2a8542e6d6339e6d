"""What a seed stands for: what is asked of the bridge, what comes in, and which faults happen when.

Pure: the same seed and minutes give the same plan, to the byte. Moments are seconds from the beginning. Every text
carries its key in brackets, so that what the simulator records speaks of keys.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

GATEWAYS = ("gw1", "gw2", "gw3")
PORTS = 8
ROUTES: dict[str, list[str]] = {
    "default": ["gw1", "gw2", "gw3"],
    "otp": ["gw1:1-4", "gw2:1-4"],
    "bulk": ["gw2:5-8", "gw3"],
}
APP_ID = "chaos"
POLL_S = 10.0
"""The bridge reads a gateway's counters at least so often, where nothing is in doubt."""

DRAIN_S = 60.0
"""Of the minutes asked for, so much is kept for the end: no traffic, no faults, only what is left to settle."""

SETTLING_S = 15.0
"""Before it the faults of the traffic's last seconds have ended."""

ASKS_PER_S = 7.5
ARRIVALS_PER_S = 1.0
REBOOT_EVERY_S = 180.0
SHARED: dict[str, Any] = {"gateway": "gw3", "port": 8}
"""The one SIM that somebody else uses too: its counters prove nothing any more."""


@dataclass(frozen=True, slots=True)
class Sms:
    """One SMS that a request becomes: its key, and how it is known in the record."""

    key: str
    mark: str
    to: str
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """One publish. ``sms`` are the SMS that it becomes; none where it must be refused (then told under ``key``)."""

    at: float
    kind: str
    key: str
    routing_key: str
    body: Mapping[str, Any] | bytes
    sms: tuple[Sms, ...] = ()
    not_before_s: float | None = None


@dataclass(frozen=True, slots=True)
class Arrival:
    """One SMS that comes in."""

    at: float
    gateway: str
    port: int
    sender: str
    text: str


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong, and for how long."""

    at: float
    kind: str
    lasts_s: float
    what: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a run does, in order of time; traffic and faults end at ``traffic_s``."""

    seed: int
    traffic_s: float
    asks: tuple[Ask, ...]
    arrivals: tuple[Arrival, ...]
    faults: tuple[Fault, ...]


def make(seed: int, minutes: float) -> Plan:
    """The plan of a seed."""
    traffic_s = max(30.0, minutes * 60 - DRAIN_S)
    return Plan(
        seed,
        traffic_s,
        tuple(sorted(Traffic(random.Random(f"{seed}/asks")).asks(traffic_s), key=lambda ask: ask.at)),
        tuple(_arrivals(random.Random(f"{seed}/arrivals"), traffic_s)),
        tuple(sorted(_faults(seed, traffic_s), key=lambda fault: fault.at)),
    )


# --- what is asked ---------------------------------------------------------------------------------------------------


class Traffic:
    """The requests of a seed: mixed, steady, each with a key of its own unless it repeats one on purpose."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._count = 0
        self._numbers = 0
        self._kinds: dict[str, tuple[float, Callable[[float, str], Iterator[Ask]]]] = {
            "single": (55, self._single),
            "pinned": (8, self._pinned),
            "long": (8, self._long),
            "short_lived": (6, self._short_lived),
            "not_before": (4, self._not_before),
            "repeat": (4, self._repeat),
            "list": (3, self._list),
            "each": (1, self._each),
            "conflict": (1, self._conflict),
            "unroutable": (1, self._unroutable),
            "bad": (2, self._bad),
        }

    def asks(self, until: float) -> Iterator[Ask]:
        """Requests as they come, unordered where one is repeated later."""
        at, weights = 0.0, [weight for weight, _ in self._kinds.values()]
        while (at := at + self._chance.expovariate(ASKS_PER_S)) < until:
            (kind,) = self._chance.choices(list(self._kinds), weights)
            self._count += 1
            for ask in self._kinds[kind][1](at, f"{kind[0]}{self._count}"):
                if ask.at < until:
                    yield ask

    def _number(self) -> str:
        self._numbers += 1
        return f"+49151{self._numbers:08d}"

    def _body(self, key: str, to: str | list[str], words: str = "Hello.", **more: Any) -> dict[str, Any]:
        wants_report = {"delivery_report": True} if self._chance.random() < 1 / 3 else {}
        return {"id": key, "to": to, "text": f"[{key}] {words}", **wants_report, **more}

    def _one(self, at: float, kind: str, key: str, routing_key: str, words: str = "Hello.", **more: Any) -> Ask:
        to = self._number()
        return Ask(at, kind, key, routing_key, self._body(key, to, words, **more), (Sms(key, key, to),))

    def _route(self) -> str:
        return f"send.{self._chance.choice(list(ROUTES))}"

    def _single(self, at: float, key: str) -> Iterator[Ask]:
        yield self._one(at, "single", key, self._route())

    def _pinned(self, at: float, key: str) -> Iterator[Ask]:
        more: dict[str, Any] = {}
        if self._chance.random() < 0.5:
            first = self._chance.randint(1, PORTS - 2)
            more = {"ports": f"{first}-{first + 2}"}
        yield self._one(at, "pinned", key, f"gateway.{self._chance.choice(GATEWAYS)}", **more)

    def _long(self, at: float, key: str) -> Iterator[Ask]:
        words = self._chance.choice(["A long text. " * 20, "Ein längerer Text für Ωmega. " * 4])
        yield self._one(at, "long", key, self._route(), words)

    def _short_lived(self, at: float, key: str) -> Iterator[Ask]:
        yield self._one(at, "short_lived", key, self._route(), validity_s=self._chance.randint(2, 15))

    def _not_before(self, at: float, key: str) -> Iterator[Ask]:
        one = self._one(at, "not_before", key, self._route())
        yield Ask(at, one.kind, key, one.routing_key, one.body, one.sms, self._chance.uniform(2, 20))

    def _repeat(self, at: float, key: str) -> Iterator[Ask]:
        first = self._one(at, "single", key, self._route())
        yield first
        for _ in range(self._chance.randint(1, 3)):
            at += self._chance.choice([0.0, 0.5, 5.0, 20.0])
            yield Ask(at, "repeat", key, first.routing_key, first.body, first.sms)

    def _list(self, at: float, key: str) -> Iterator[Ask]:
        numbers = [self._number() for _ in range(self._chance.randint(2, 6))]
        sms = tuple(Sms(f"{key}/{i}", key, to) for i, to in enumerate(numbers))
        yield Ask(at, "list", key, self._route(), self._body(key, numbers), sms)

    def _each(self, at: float, key: str) -> Iterator[Ask]:
        to, first = self._number(), self._chance.randint(1, PORTS - 1)
        ports = (first, first + 1)
        sms = tuple(Sms(f"{key}/0/{port}", key, to, port) for port in ports)
        body = self._body(key, to, ports=f"{ports[0]}-{ports[1]}", spread="each")
        yield Ask(at, "each", key, f"gateway.{self._chance.choice(GATEWAYS)}", body, sms)

    def _conflict(self, at: float, key: str) -> Iterator[Ask]:
        first = self._one(at, "single", key, self._route())
        yield first
        assert isinstance(first.body, dict)
        other = {**first.body, "text": f"[{key}] Another text under the same id."}
        yield Ask(at + self._chance.uniform(3, 10), "conflict", key, first.routing_key, other)

    def _unroutable(self, at: float, key: str) -> Iterator[Ask]:
        where = self._chance.choice(["send.nowhere", "gateway.gw9", "neither.nor"])
        yield Ask(at, "unroutable", key, where, self._body(key, self._number()))

    def _bad(self, at: float, key: str) -> Iterator[Ask]:
        good = self._body(key, self._number())
        bad: list[Mapping[str, Any] | bytes] = [
            {**good, "prio": 9},
            {**good, "to": "0151"},
            {**good, "text": "x" * 2_000},
            f'{{"id": "{key}", "to": '.encode(),
            b'{"text": "\xfc"}',
            {**good, "id": "not an id"},
        ]
        yield Ask(at, "bad", key, self._route(), self._chance.choice(bad))


def to_bytes(body: Mapping[str, Any] | bytes) -> bytes:
    """The body as it is published."""
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def _arrivals(chance: random.Random, until: float) -> Iterator[Arrival]:
    at, count = 0.0, 0
    while (at := at + chance.expovariate(ARRIVALS_PER_S)) < until:
        count += 1
        sender = f"+49170{chance.randint(1, 40):07d}"
        yield Arrival(at, chance.choice(GATEWAYS), chance.randint(1, PORTS), sender, f"[in{count}] Hello, bridge.")


# --- what goes wrong -------------------------------------------------------------------------------------------------

Draw = Callable[[random.Random], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault: how long it lasts (s), and what about it is left to chance."""

    lasts: tuple[float, float] = (0.0, 0.0)
    draw: Draw = lambda _: {}


def _gateway(chance: random.Random) -> dict[str, Any]:
    return {"gateway": chance.choice(GATEWAYS)}


def _port(chance: random.Random) -> dict[str, Any]:
    return {**_gateway(chance), "port": chance.randint(1, PORTS)}


def _delay(chance: random.Random) -> dict[str, Any]:
    return {**_gateway(chance), "delay_s": round(chance.uniform(0.1, 1.0), 2)}


def _some(least: int, most: int, **more: Any) -> Draw:
    return lambda chance: {**_gateway(chance), "count": chance.randint(least, most), **more}


def _failure(chance: random.Random) -> dict[str, Any]:
    told = chance.choice([{"code": 5}, {"code": 2}, {"code": 7, "operator_code": 21}, {"code": 7, "operator_code": 38}])
    return {**_port(chance), "count": chance.randint(1, 3), **told}


TRACKS: dict[str, tuple[tuple[float, float], dict[str, Kind]]] = {
    "bridge": (
        (8.0, 16.0),
        {
            "bridge_kill": Kind((0.3, 3.0)),
            "bridge_term": Kind((0.3, 2.0)),
            "bridge_pause": Kind((1.0, 7.0)),
            "disk_full": Kind((2.0, 6.0)),
            "clock_step": Kind((5.0, 12.0), lambda chance: {"step_s": chance.choice([-120, -30, 30, 120])}),
        },
    ),
    "broker": (
        (8.0, 18.0),
        {
            "broker_kill": Kind((0.5, 3.0)),
            "broker_pause": Kind((2.0, 12.0)),
            "broker_alarm": Kind((2.0, 6.0)),
            "broker_reset": Kind(),
            "broker_hole": Kind((3.0, 15.0)),
            "broker_delay": Kind((3.0, 8.0), lambda chance: {"delay_s": round(chance.uniform(0.02, 0.3), 2)}),
            "broker_refuse": Kind((2.0, 6.0)),
        },
    ),
    "device": (
        (2.0, 6.0),
        {
            "device_pause": Kind((1.0, 5.0)),
            "device_reboot": Kind((0.0, 0.0), _gateway),
            "device_hole": Kind((2.0, 8.0), _gateway),
            "device_delay": Kind((2.0, 8.0), _delay),
            "device_reset": Kind((0.0, 0.0), _gateway),
            "device_truncate": Kind((0.0, 0.0), _some(1, 2)),
            "device_refuse": Kind((2.0, 6.0), _gateway),
            "answer_before": Kind((0.0, 0.0), _some(1, 2, when="before")),
            "answer_after": Kind((0.0, 0.0), _some(1, 2, when="after")),
            "answer_half": Kind((0.0, 0.0), _some(1, 1, when="half")),
            "answer_silent": Kind((0.0, 0.0), _some(1, 1, when="silent")),
            "sim_out": Kind((3.0, 8.0), _port),
            "port_fails": Kind((0.0, 0.0), _failure),
            "foreign_sms": Kind((0.0, 0.0), lambda _: {**SHARED, "to": "+4915799", "text": "foreign"}),
        },
    ),
    "callbacks": (
        (3.0, 8.0),
        {
            "callback_drop": Kind((0.0, 0.0), _some(1, 4)),
            "callback_late": Kind((0.0, 0.0), _some(1, 4, delay_s=5)),
            "callback_double": Kind((0.0, 0.0), _some(1, 4)),
            "callback_hole": Kind((3.0, 12.0), _gateway),
            "callback_reset": Kind((0.0, 0.0), _gateway),
            "callback_delay": Kind((2.0, 6.0), _delay),
            "callback_truncate": Kind((0.0, 0.0), _some(1, 3)),
            "callback_refuse": Kind((2.0, 6.0), _gateway),
        },
    ),
}
"""Per track the pause between two faults, and its kinds. Faults of one track never overlap, those of two may."""

KINDS = {kind: track for track, (_, kinds) in TRACKS.items() for kind in kinds}


def _faults(seed: int, until: float) -> Iterator[Fault]:
    """Each track deals its kinds like cards: every kind once before any comes again."""
    for track, (pause, kinds) in TRACKS.items():
        chance = random.Random(f"{seed}/{track}")
        at, deck, rebooted_at = chance.uniform(3.0, pause[1]), list[str](), -REBOOT_EVERY_S
        while at < until - SETTLING_S:
            if not deck:
                deck = chance.sample(list(kinds), len(kinds))
            kind = deck.pop()
            lasts_s, what = round(chance.uniform(*kinds[kind].lasts), 2), kinds[kind].draw(chance)
            if kind == "device_reboot":
                if at < rebooted_at + REBOOT_EVERY_S:
                    continue
                rebooted_at = at
            yield Fault(round(at, 2), kind, lasts_s, what)
            at += lasts_s + chance.uniform(*pause)
