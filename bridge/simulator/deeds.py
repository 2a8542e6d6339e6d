"""What a person or a test can do to a simulated gateway: the kinds of ``POST /do``, checked and carried out.

A deed that cannot be read is refused with a sentence and changes nothing; ``NEEDS`` is the list that the refusal shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from bridge.simulator.callbacks import Sender
from bridge.simulator.device import Box
from bridge.simulator.parts import LIE, Fate, LostAnswer, SimPort

MAX_COUNT = 10_000
LONGEST_S = 3_600

NEEDS = {
    "receive_sms": "gateway, port; sender, text, count: so many SMS come in on this port",
    "remove_sim": "gateway, port: the card is taken out, what waits on the port fails with code 5",
    "insert_sim": "gateway, port: the card is put back and registers",
    "ban_sim": "gateway, port: the network refuses all that the card sends, and after three the device locks it (st 8)",
    "fail_port": "gateway, port; count, code (5), operator_code: the next sends fail and are not on air",
    "lie_timeout": "gateway, port; count: the next sends are on air, but told as failed with 6 Timeout",
    "drop_callback": "gateway; count, type: the next callbacks (of this type, else any) are not sent",
    "late_callback": "gateway; delay_s (5), count, type: the next callbacks leave so much later, others overtake them",
    "double_callback": "gateway; count, type: the next callbacks are posted twice",
    "lose_answer": "gateway, when; count: the next submits are reset before or after they are taken, answered by half, "
    "or silent, which is without an answer for at most 60 s",
    "foreign_sms": "gateway, port; to, text, count: somebody else sends from this port, by the box's web page",
    "reboot": "gateway: waiting tasks and unreported results are lost, ports register anew",
}


@dataclass(frozen=True, slots=True)
class Gateway:
    """A box and what sends its callbacks."""

    box: Box
    sender: Sender


def do(gateways: Mapping[str, Gateway], raw: Any) -> str:
    """Carry out one deed and return its kind. Raises ValueError with a sentence where it cannot be read."""
    if not isinstance(raw, dict):
        raise ValueError("write a JSON object with a kind")  # noqa: TRY004 - the caller answers every mistake alike
    deed = _DEEDS.get(str(raw.get("kind")))
    if deed is None:
        raise ValueError(f"kind: there is no {raw.get('kind')!r}")
    gateway = gateways.get(str(raw.get("gateway")))
    if gateway is None:
        raise ValueError(f"gateway: name one of {', '.join(gateways)}")
    deed(gateway, raw)
    return str(raw["kind"])


def _receive_sms(gateway: Gateway, raw: Mapping[str, Any]) -> None:
    port, count = _port(gateway, raw), _count(raw)
    sender, text = _text(raw, "sender", "+4915112345678"), _text(raw, "text", "Hello")
    for _ in range(count):
        gateway.box.receive_sms(port, sender, text)


def _remove_sim(gateway: Gateway, raw: Mapping[str, Any]) -> None:
    gateway.box.remove_sim(_port(gateway, raw))


def _insert_sim(gateway: Gateway, raw: Mapping[str, Any]) -> None:
    gateway.box.insert_sim(_port(gateway, raw))


def _ban_sim(gateway: Gateway, raw: Mapping[str, Any]) -> None:
    _port(gateway, raw).barred = True


def _fail_port(gateway: Gateway, raw: Mapping[str, Any]) -> None:
    port, count, code = _port(gateway, raw), _count(raw), _whole(raw, "code", 5)
    operator_code = _whole(raw, "operator_code", 0) or None
    if code < 1:
        raise ValueError("code: name a failure, from 1 up")
    port.fates.extend([Fate(code, on_air=False, operator_code=operator_code)] * count)


def _lie_timeout(gateway: Gateway, raw: Mapping[str, Any]) -> None:
    port, count = _port(gateway, raw), _count(raw)
    port.fates.extend([LIE] * count)


def _drop_callback(gateway: Gateway, raw: Mapping[str, Any]) -> None:
    gateway.sender.drop_next(_count(raw), _text(raw, "type", "") or None)


def _late_callback(gateway: Gateway, raw: Mapping[str, Any]) -> None:
    gateway.sender.delay_next(_count(raw), _text(raw, "type", "") or None, _seconds(raw, "delay_s", 5))


def _double_callback(gateway: Gateway, raw: Mapping[str, Any]) -> None:
    gateway.sender.double_next(_count(raw), _text(raw, "type", "") or None)


def _lose_answer(gateway: Gateway, raw: Mapping[str, Any]) -> None:
    when: Any = raw.get("when")
    count = _count(raw)
    if when not in get_args(LostAnswer):
        raise ValueError(f"when: write one of {', '.join(get_args(LostAnswer))}")
    gateway.box.lost_answers.extend([when] * count)


def _foreign_sms(gateway: Gateway, raw: Mapping[str, Any]) -> None:
    port, count = _port(gateway, raw), _count(raw)
    to, text = _text(raw, "to", "+4915187654321"), _text(raw, "text", "Hello")
    for _ in range(count):
        gateway.box.send_foreign(port, to, text)


def _reboot(gateway: Gateway, raw: Mapping[str, Any]) -> None:  # noqa: ARG001 - one signature for all deeds
    gateway.box.reboot()


_DEEDS: dict[str, Callable[[Gateway, Mapping[str, Any]], None]] = {
    "receive_sms": _receive_sms,
    "remove_sim": _remove_sim,
    "insert_sim": _insert_sim,
    "ban_sim": _ban_sim,
    "fail_port": _fail_port,
    "lie_timeout": _lie_timeout,
    "drop_callback": _drop_callback,
    "late_callback": _late_callback,
    "double_callback": _double_callback,
    "lose_answer": _lose_answer,
    "foreign_sms": _foreign_sms,
    "reboot": _reboot,
}


def _port(gateway: Gateway, raw: Mapping[str, Any]) -> SimPort:
    port = gateway.box.ports.get(_whole(raw, "port", 0))
    if port is None:
        raise ValueError(f"port: name one from 1 to {len(gateway.box.ports)}")
    return port


def _count(raw: Mapping[str, Any]) -> int:
    count = _whole(raw, "count", 1)
    if not 1 <= count <= MAX_COUNT:
        raise ValueError(f"count: name 1 to {MAX_COUNT}")
    return count


def _whole(raw: Mapping[str, Any], name: str, default: int) -> int:
    value = raw.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{name}: write a whole number")  # noqa: TRY004 - the caller answers every mistake alike
    return value


def _text(raw: Mapping[str, Any], name: str, default: str) -> str:
    value = raw.get(name, default)
    if not isinstance(value, str):
        raise ValueError(f"{name}: write a text")  # noqa: TRY004 - the caller answers every mistake alike
    return value


def _seconds(raw: Mapping[str, Any], name: str, default: float) -> float:
    value = raw.get(name, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= LONGEST_S:
        raise ValueError(f"{name}: write seconds from 0 to {LONGEST_S}")
    return value
