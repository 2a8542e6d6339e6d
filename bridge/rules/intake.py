"""From a delivery to what is to be sent: one SMS, or the children of a list.

Pure: `now` (unix seconds) is an argument. Here a request gets its key, its absolute age, its encoding and its normal
number; whatever breaks the contract raises RequestInvalid with the reason and the field (design 1.2).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bridge.ejoin import ports as port_notation
from bridge.errors import RequestInvalid
from bridge.models import (
    BY_DEVICE,
    CHILD_ID_PATTERN,
    H_ATTEMPT,
    H_CORRECTS,
    H_DUPLICATE,
    H_EXPIRES_AT,
    H_PARENT,
    H_TRACEPARENT,
    H_TRIED,
    ID_PATTERN,
    MAX_RECIPIENTS,
    Delivery,
    Key,
    Publication,
    Request,
    SendRequest,
    read_send_request,
    salvage_id,
)
from bridge.rules import segments
from bridge.rules.routing import normalise

FARTHEST_AHEAD_S = 30 * 86_400.0
FARTHEST_END_S = 2 * FARTHEST_AHEAD_S
"""No age ends later: ``not_before`` is 30 days ahead at most, and so is an age."""


@dataclass(frozen=True, slots=True)
class IntakeRules:
    """What a route or a gateway allows (design 2.2); ``ports`` are a gateway's, empty where it is not configured.

    ``only_to``: the numbers and prefixes (``+4915*``) that may be texted; None: all.
    """

    max_age_s: float
    max_segments: int
    allow_short_codes: bool
    ports: frozenset[int] = frozenset()
    only_to: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Expansion:
    """A list, or a request for several ports: checked whole, to be published as children and then forgotten."""

    key: Key
    children: tuple[Publication, ...]
    expires_at: float


def key_of(delivery: Delivery) -> Key | None:
    """The key of a delivery that could not be read, where an id can still be found."""
    pattern = _id_pattern(delivery)
    found = salvage_id(delivery.body, pattern) or delivery.message_id
    return Key(delivery.app_id, found) if found and pattern.fullmatch(found) else None


def place_of(routing_key: str) -> tuple[str | None, str | None]:
    """(route, gateway) that a routing key names; neither where it is not of this contract."""
    kind, _, name = routing_key.partition(".")
    return (name or None, None) if kind == "send" else (None, name or None) if kind == "gateway" else (None, None)


def read(delivery: Delivery, rules: IntakeRules, now: float) -> Request | Expansion:
    """Read a delivery.

    Raises RequestInvalid: ``too_large``, ``unreadable``, ``missing_id``; with the field ``not_allowed`` or ``invalid``.
    """
    if delivery.unreadable:
        raise RequestInvalid("unreadable", f"the AMQP properties cannot be read: {delivery.unreadable}")
    body = read_send_request(delivery.body)
    key = _key(delivery, body)
    route, gateway = place_of(delivery.routing_key)
    if gateway is None and (body.ports is not None or body.spread == "each"):
        field = "ports" if body.ports is not None else "spread"
        raise _invalid(field, f"{field} goes with the routing key gateway.<gateway> only")
    if body.ports == BY_DEVICE and body.sim is not None:
        raise _invalid("sim", "sim: the device chooses the SIM; leave out sim, or ports")
    if body.ports is not None and body.ports != BY_DEVICE:
        _check_ports(body.ports, rules)
    recipients = body.to if isinstance(body.to, list) else [body.to]
    numbers = [normalise(one, allow_short_codes=rules.allow_short_codes) for one in recipients]
    _check_allowed(numbers, rules.only_to)
    if body.spread == "each":
        _check_spread(body, len(recipients))
    encoding, count = _measured(body, rules)
    expires_at = age(delivery, body, rules.max_age_s, now)
    if isinstance(body.to, list) or body.spread == "each":
        return Expansion(key, tuple(_children(delivery, body, key, expires_at)), expires_at)
    return Request(
        key=key,
        body=body,
        raw=delivery.body.decode(),
        to=numbers[0],
        routing_key=delivery.routing_key,
        fingerprint=body.fingerprint(delivery.routing_key),
        segments=count,
        encoding=encoding,
        expires_at=expires_at,
        route=route,
        gateway=gateway,
        attempt=attempt_of(delivery.headers),
        tried=_tried(delivery.headers),
        timestamp=delivery.timestamp,
        correlation_id=delivery.correlation_id,
        reply_to=delivery.reply_to,
        traceparent=_text(delivery.headers, H_TRACEPARENT),
        parent=_text(delivery.headers, H_PARENT),
        possible_duplicate=delivery.headers.get(H_DUPLICATE) is True,
        corrects=_text(delivery.headers, H_CORRECTS),
    )


def age(delivery: Delivery, body: SendRequest, max_age_s: float, now: float) -> float:
    """The one moment (unix seconds) after which this is never sent; fixed on first sight (design 1.2, Age).

    Raises RequestInvalid where ``not_before`` is more than 30 days ahead.
    """
    fixed = delivery.headers.get(H_EXPIRES_AT)
    if isinstance(fixed, int | float) and math.isfinite(fixed) and 0 <= fixed <= now + FARTHEST_END_S:
        return float(fixed)
    starts_at = now if delivery.timestamp is None else min(delivery.timestamp, now)
    if body.not_before is not None:
        not_before = body.not_before.timestamp()
        if not_before > now + FARTHEST_AHEAD_S:
            raise _invalid("not_before", "not_before is more than 30 days ahead")
        starts_at = max(starts_at, not_before)
    moments = [starts_at + max_age_s]
    if body.expires_at is not None:
        moments.append(body.expires_at.timestamp())
    if body.validity_s is not None:
        moments.append(starts_at + body.validity_s)
    if delivery.expiration_s is not None:
        moments.append(starts_at + delivery.expiration_s)
    return min(moments)


def _key(delivery: Delivery, body: SendRequest) -> Key:
    told = body.id or delivery.message_id
    if told is None:
        raise RequestInvalid("missing_id", "neither the body's id nor the AMQP message_id is there", field="id")
    if not _id_pattern(delivery).fullmatch(told):
        raise _invalid("id", f"id {told[:200]!r} is not 1 to 128 of A-Z a-z 0-9 . _ : -")
    return Key(delivery.app_id, told)


def _id_pattern(delivery: Delivery) -> re.Pattern[str]:
    """The slash is ours: only children have it."""
    return CHILD_ID_PATTERN if H_PARENT in delivery.headers else ID_PATTERN


def _check_allowed(numbers: list[str], only_to: tuple[str, ...] | None) -> None:
    if only_to is None:
        return
    prefixes = tuple(one[:-1] for one in only_to if one.endswith("*"))
    for number in numbers:
        if number not in only_to and not number.startswith(prefixes):
            raise RequestInvalid(
                "not_allowed", f"to: {number} is not among the recipients that only_to allows here", field="to"
            )


def _measured(body: SendRequest, rules: IntakeRules) -> tuple[Literal["gsm7", "ucs2"], int]:
    try:
        encoding, count = segments.measure(body.text, body.encoding)
    except ValueError as error:
        raise _invalid("encoding", str(error)) from error
    if count > rules.max_segments:
        raise _invalid("text", f"text has {count} segments in {encoding}; at most {rules.max_segments} are taken")
    return encoding, count


def _children(delivery: Delivery, body: SendRequest, key: Key, expires_at: float) -> Iterator[Publication]:
    headers = {H_PARENT: key.id, H_EXPIRES_AT: expires_at}
    if traceparent := _text(delivery.headers, H_TRACEPARENT):
        headers[H_TRACEPARENT] = traceparent
    for index, number in enumerate(body.to if isinstance(body.to, list) else [body.to]):
        for child_id, ports in _places(body, f"{key.id}/{index}"):
            told = body.model_copy(update={"id": child_id, "to": number, "ports": ports, "spread": "any"})
            yield Publication(
                "requests",
                delivery.routing_key,
                told.model_dump_json(exclude_defaults=True).encode(),
                message_id=child_id,
                app_id=key.app_id or None,
                correlation_id=delivery.correlation_id,
                timestamp=delivery.timestamp,
                reply_to=delivery.reply_to,
                headers=headers,
            )


def _places(body: SendRequest, child_id: str) -> Iterator[tuple[str, float | str | None]]:
    """(id, ports) of the children of one recipient: one, or one per named port."""
    if body.spread == "any" or body.ports is None:
        yield child_id, body.ports
        return
    for port in named_ports(body.ports):
        yield f"{child_id}/{port}", str(port)


def _check_spread(body: SendRequest, recipients: int) -> None:
    if body.ports is None or body.ports == BY_DEVICE:
        raise _invalid("ports", "spread 'each' needs ports: one SMS leaves from every named one")
    count = recipients * len(named_ports(body.ports))
    if count > MAX_RECIPIENTS:
        raise _invalid("to", f"to: {count} SMS, one from each port to each number; at most {MAX_RECIPIENTS} are taken")


def named_ports(ports: float | str) -> tuple[port_notation.Port, ...]:
    """The ports that a pinned request names. Raises RequestInvalid (field ``ports``)."""
    told = str(ports)
    if isinstance(ports, float) and len(told.partition(".")[2]) != 2:
        raise _invalid("ports", f"ports: JSON reads {told} as a number; write port and slot as text, like '3.01'")
    try:
        return port_notation.parse_range(told)
    except ValueError as error:
        raise _invalid("ports", f"ports: {error}") from error


def _check_ports(ports: float | str, rules: IntakeRules) -> None:
    named = named_ports(ports)
    if rules.ports and (unknown := [str(port) for port in named if port.number not in rules.ports]):
        raise _invalid("ports", f"ports: the gateway has no port {', '.join(unknown)} in the bridge's configuration")


def attempt_of(headers: Mapping[str, Any]) -> int:
    """The hand-over that this copy is for; the first where nothing sensible is said."""
    told = headers.get(H_ATTEMPT, 1)
    return told if isinstance(told, int) and told > 0 else 1


def _tried(headers: Mapping[str, Any]) -> tuple[str, ...]:
    try:
        told = json.loads(headers.get(H_TRIED) or "[]")
    except (ValueError, TypeError, RecursionError):
        return ()
    return tuple(one for one in told if isinstance(one, str)) if isinstance(told, list) else ()


def _text(headers: Mapping[str, Any], name: str) -> str | None:
    told = headers.get(name)
    return told if isinstance(told, str) else None


def _invalid(field: str, message: str) -> RequestInvalid:
    return RequestInvalid("invalid", message, field=field)
