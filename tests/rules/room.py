"""What the rules' tests are furnished with: fleets, requests and deliveries in one line each."""

from __future__ import annotations

from bridge.ejoin.facts import PortStatus
from bridge.ejoin.ports import parse
from bridge.models import Delivery, Key, Request, SendRequest
from bridge.rules.health import Fleet, GatewayPlan
from bridge.rules.limiter import Pace

UNLIMITED = Pace(None, 2)
SLOW = Pace(0.1, 2)


def fleet_of(pace: Pace = UNLIMITED, *, now: float = 0.0, up: bool = True, **gateways: int) -> Fleet:
    """Gateways by their number of ports, all of them registered with cards ``<gateway>-<port>`` where ``up``."""
    plans = {name: GatewayPlan(dict.fromkeys(range(1, count + 1), pace)) for name, count in gateways.items()}
    return bring_up(Fleet(plans, now), now) if up else Fleet(plans, now)


def bring_up(fleet: Fleet, now: float) -> Fleet:
    for port in fleet.ports():
        fleet.note_status(port.gateway, row(f"{port.number}.01", iccid=f"{port.gateway}-{port.number}"), now)
    return fleet


def row(port: str | int = "1.01", st: int | None = 3, **said) -> PortStatus:
    return PortStatus(parse(port), st, **said)


def request_of(
    name: object = 1,
    lane: str = "send.main",
    *,
    segments: int = 1,
    attempt: int = 1,
    tried: tuple[str, ...] = (),
    fingerprint: bytes = b"same",
    **said,
) -> Request:
    return Request(
        key=Key("shop", str(name)),
        body=SendRequest(to="+491511234567", text="hello", **said),
        raw="",
        to="+491511234567",
        routing_key=lane,
        fingerprint=fingerprint,
        segments=segments,
        encoding="gsm7",
        expires_at=0.0,
        attempt=attempt,
        tried=tried,
    )


def delivery_of(name: object = 1) -> Delivery:
    return Delivery(str(name).encode(), "", ack=lambda: None, give_back=lambda: None)
