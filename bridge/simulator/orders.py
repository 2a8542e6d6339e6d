"""Reads what a client sends to the device, as leniently as the device does.

Numbers may be strings, unknown keys are ignored, task ids wrap to a signed 32-bit number. Reading never fails: what is
missing or unreadable is None or the document's default, and the box decides which code answers it.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SYSTEM_REPORT_COUNT, SYSTEM_REPORT_PERIOD_S = 100, 30.0
TASK_REPORT_COUNT, TASK_REPORT_PERIOD_S = 10, 60.0
SMS_COUNT, SMS_PERIOD_S = 1, 30.0
TIMEOUT_S = 30.0
LONGEST_S = 86_400.0
STATUS_PERIOD_S = 60.0


@dataclass(frozen=True, slots=True)
class Order:
    """One element of ``tasks`` (document 1.3.1.3); ``raw_sms`` as written, ``text`` as it goes on air (None: none)."""

    tid: int | None
    ports: str
    recipients: tuple[str, ...]
    raw_sms: str
    text: str | None
    charset: str
    coding: int
    smsc: str
    timeout_s: float
    sent_details: bool
    failed_details: bool
    delivery_report: bool
    report_count: int
    report_period_s: float


def read_body(body: bytes) -> dict[str, Any] | None:
    """The JSON object of a POST; None where it is none (curly quotes, another encoding, a list)."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None


def read_order(raw: Any) -> Order:
    """One task of a submit; never fails."""
    told: Mapping[str, Any] = raw if isinstance(raw, dict) else {}
    tid = number(told.get("tid"), None)
    raw_sms, charset = str(told.get("sms") or ""), str(told.get("chs") or "utf8").lower()
    report_count = int(number(told.get("sr_cnt"), TASK_REPORT_COUNT))
    return Order(
        tid=None if tid is None else wrap(int(tid)),
        ports=str(told.get("from") or ""),
        recipients=tuple(part.strip() for part in str(told.get("to") or "").split(",") if part.strip()),
        raw_sms=raw_sms,
        text=_text(raw_sms, charset),
        charset=charset,
        coding=int(number(told.get("coding"), 0)),
        smsc=str(told.get("smsc") or ""),
        timeout_s=seconds(told.get("tmo"), TIMEOUT_S),
        sent_details=number(told.get("sdr"), 0) > 0,
        failed_details=number(told.get("fdr"), 1) > 0,
        delivery_report=number(told.get("dr"), 0) > 0,
        report_count=report_count if report_count >= 1 else TASK_REPORT_COUNT,
        report_period_s=seconds(told.get("sr_prd"), TASK_REPORT_PERIOD_S),
    )


def read_legacy(query: Mapping[str, str]) -> Order:
    """One SMS of the old interface (document 1.2); never fails."""
    return read_order({"from": query.get("port"), "to": query.get("recipients"), "sms": query.get("sms")})


def number(value: Any, default: Any) -> Any:
    """A finite number, also where it is written as text; ``default`` for anything else."""
    if type(value) is int:
        return value
    for read in (_whole, _finite):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            return read(value)
    return default


def seconds(value: Any, default: float) -> float:
    """A duration from 0 to a day."""
    return float(min(max(number(value, default), 0), LONGEST_S))


def wrap(tid: int) -> int:
    """The task id as the device echoes it: signed 32 bit."""
    return (tid + 2**31) % 2**32 - 2**31


def _whole(value: Any) -> int:
    if not isinstance(value, (int, str)):
        raise TypeError(f"not a whole number: {value!r}")
    return int(value)


def _finite(value: Any) -> float:
    read = float(value)
    if not math.isfinite(read):
        raise ValueError(f"not a number: {value!r}")
    return read


def _text(raw_sms: str, charset: str) -> str | None:
    if charset != "base64":
        return raw_sms or None
    try:
        return base64.b64decode(raw_sms, validate=True).decode() or None
    except (binascii.Error, ValueError):
        return None
