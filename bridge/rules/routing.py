"""Which ports may send a request, and what a number must look like.

A lane is a routing key of `requests`: a route or a gateway, with the ports behind it. A request may ask for less than
its lane has: certain ports, or one card. Whether a port can send now is not looked at here (see `health`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from bridge.ejoin.ports import Port, parse_range
from bridge.errors import RequestInvalid
from bridge.models import BY_DEVICE, Request
from bridge.rules.health import NO_CARD_ST, Fleet, PortBelief

_E164 = re.compile(r"\+[1-9][0-9]{6,14}")
_SHORT_CODE = re.compile(r"[0-9]{2,8}")
_PUNCTUATION = re.compile(r"[\s()\[\]./-]")


@dataclass(frozen=True, slots=True)
class Route:
    """A named set of ports, as (gateway, number)."""

    name: str
    ports: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request asks of its port: one of its lane, of these if any are named, with this card if one is."""

    lane: str
    ports: tuple[Port, ...] = ()
    sim: str | None = None

    @property
    def narrow(self) -> bool:
        """Whether it asks for less than its lane has."""
        return bool(self.ports or self.sim)


class Routing:
    """The lanes of a configuration: every route, and every gateway for the requests that are pinned to it."""

    def __init__(self, fleet: Fleet, routes: Iterable[Route]) -> None:
        self._fleet = fleet
        self._lanes = {f"gateway.{name}": dict.fromkeys(g.ports.values()) for name, g in fleet.gateways.items()}
        for route in routes:
            self._lanes[f"send.{route.name}"] = dict.fromkeys(fleet.port(*place) for place in route.ports)

    def ports_of(self, lane: str) -> tuple[PortBelief, ...]:
        """All ports behind a routing key; none where it is not configured."""
        return tuple(self._lanes.get(lane, ()))

    def wish(self, request: Request) -> Wish:
        """What a request asks for.

        Raises RequestInvalid: ``unroutable`` where its lane is not configured, ``invalid`` where it names ports that
        cannot be read or that its lane does not have.
        """
        lane = self._lanes.get(request.routing_key)
        if lane is None:
            raise RequestInvalid("unroutable", f"no route or gateway is configured for {request.routing_key!r}")
        told = request.body.ports
        if told is None or told == BY_DEVICE:
            return Wish(request.routing_key, sim=request.body.sim)
        try:
            ports = parse_range(told if isinstance(told, int) else str(told))
        except ValueError as error:
            raise RequestInvalid("invalid", f"ports: {error}", field="ports") from error
        numbers = {port.number for port in lane}
        if unknown := [str(port) for port in ports if port.number not in numbers]:
            raise RequestInvalid(
                "invalid", f"ports: {request.routing_key} has no port {', '.join(unknown)}", field="ports"
            )
        return Wish(request.routing_key, ports, request.body.sim)

    def reach(self, wish: Wish) -> tuple[PortBelief, ...]:
        """The ports that meet a wish as the cards lie now, in the lane's order."""
        if wish.sim is None:
            return tuple(port for port in self._lanes[wish.lane] if self.allows(wish, port))
        holder = self._fleet.find_card(wish.sim)
        return (holder,) if holder is not None and self.allows(wish, holder) else ()

    def allows(self, wish: Wish, port: PortBelief) -> bool:
        """Whether a port meets a wish as the cards lie now; a named slot must be the active one."""
        return (
            port in self._lanes[wish.lane]
            and (wish.sim is None or self._fleet.find_card(wish.sim) is port)
            and (not wish.ports or any(p.number == port.number and p.slot in (0, port.slot) for p in wish.ports))
        )

    def candidates(self, request: Request) -> tuple[PortBelief, ...]:
        """The ports that may send a request: what it asks for, without the SIMs that failed it. Raises as ``wish``.

        An empty port is no other SIM.
        """
        ports = self.reach(self.wish(request))
        return tuple(port for port in ports if port.st != NO_CARD_ST and port.sim not in request.tried)

    def is_exhausted(self, request: Request) -> bool:
        """Whether each port that it may leave by holds a SIM that failed it, or none. Raises as ``wish``.

        Not while one of them was never heard: who knows what lies there.
        """
        if not request.tried:  # nearly all of them, and a lane may have thousands of ports
            return False
        ports = self.reach(self.wish(request))
        heard = all(port.st is not None for port in ports)
        return heard and bool(ports) and not self.candidates(request)


def normalise(to: str, *, allow_short_codes: bool) -> str:
    """The number as we keep it: E.164 with +, or the digits of a short code where they are allowed.

    Raises RequestInvalid (field ``to``) with the cure; nothing is guessed.
    """
    if _E164.fullmatch(to) or (allow_short_codes and _SHORT_CODE.fullmatch(to)):
        return to
    raise RequestInvalid("invalid", f"to: {to[:40]!r} {_cure(to, allow_short_codes=allow_short_codes)}", field="to")


def _cure(to: str, *, allow_short_codes: bool) -> str:
    if _PUNCTUATION.search(to):
        return "has more than a number in it; write it without spaces, dashes and brackets, like +491511234567"
    if to.startswith("00"):
        return "begins with 00; write + instead, like +491511234567"
    if _SHORT_CODE.fullmatch(to):
        return "is a short code, which this route does not allow; write a number like +491511234567"
    if to.isascii() and to.isdigit():
        return "has no +; write + and the country's code before the number, like +491511234567"
    known = "a number like +491511234567 (7 to 15 digits)"
    return f"is not {known}{' or a short code of 2 to 8 digits' if allow_short_codes else ''}"
