"""What belongs together: numbers in different notations, incoming SMS told twice, delivery reports without an id.

Pure. A delivery report names neither task nor message (device API 4.1); it is matched by SIM, recipient and time, and
only where exactly one SMS fits: a guess would be a lie in somebody's books.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Literal, Protocol

from bridge.ejoin.facts import ReceivedSms
from bridge.models import Sms

SAME_SMS_S = 2.0
"""Device times of one incoming SMS told by two channels differ by no more (design 3.2)."""

TAIL = 7
"""Digits at the end of a number that national and international notation share."""

_NOT_A_DIGIT = re.compile(r"\D+")


def digits(number: str) -> str:
    """The digits of a number, without an international prefix (``+`` or ``00``)."""
    return _NOT_A_DIGIT.sub("", number).removeprefix("00")


def same_number(one: str, other: str) -> bool:
    """Whether two notations name the same number: equal, or one is the end of the other (national notation).

    A leading zero of the national form is not part of the international one; shorter than 7 digits must be equal.
    """
    a, b = digits(one), digits(other)
    if a == b:
        return bool(a)
    longer, shorter = (a, b) if len(a) > len(b) else (b, a)
    national = shorter.lstrip("0")
    return len(national) >= TAIL and longer.endswith(national)


def content_hash(text: str) -> bytes:
    """16 bytes that stand for a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]


def received_key(sim: str, sms: ReceivedSms, ordinal: int) -> str:
    """The dedupe key of an incoming SMS; ``ordinal`` counts equal rows of the same body from 0 (design 3.2)."""
    stamp = sms.scts or (f"{sms.at:.0f}" if sms.at is not None else "-")
    return f"{sim}/{sms.sender}/{stamp}/{content_hash(sms.text).hex()}/{ordinal}"


class Known(Protocol):
    """What is remembered of an incoming SMS with the same card, sender and text."""

    @property
    def key(self) -> str:
        """Its dedupe key."""

    @property
    def via(self) -> str:
        """The channel that told it first."""

    @property
    def device_at(self) -> float | None:
        """By the device's clock."""


def judge_received(key: str, sms: ReceivedSms, known: Sequence[Known]) -> Literal["new", "repeat", "possible_repeat"]:
    """Whether an incoming SMS is to be told: a repeat is not, a possible one is, and says so."""
    for other in known:
        if other.via != sms.via and (other.key == key or _same_moment(other.device_at, moment_of(sms))):
            return "repeat"
    return "possible_repeat" if any(other.key == key for other in known) else "new"


def moment_of(sms: ReceivedSms) -> float | None:
    """When it came, by the device's clock, else by the network's."""
    return sms.at if sms.at is not None else sms.scts_at


def _same_moment(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and abs(one - other) <= SAME_SMS_S


def match_report(recipient: str, candidates: Sequence[Sms]) -> tuple[Sms | None, list[Sms]]:
    """The one SMS that a delivery report is about, else None with all those that it could be about.

    ``candidates`` are SMS of that SIM with the same last digits, unreported, inside the time window.
    """
    fitting = [sms for sms in candidates if sms.asked.get("dr") and same_number(sms.recipient, recipient)]
    return (fitting[0], fitting) if len(fitting) == 1 else (None, fitting)
