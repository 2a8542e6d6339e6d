"""What belongs together: numbers in different notations, incoming SMS told twice, delivery reports without an id.

Pure. A delivery report names neither task nor message (device API 4.1); it is matched by SIM, recipient and time, and
only where exactly one SMS fits: a guess would be a lie in somebody's books.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeVar

from bridge.ejoin.facts import ReceivedSms
from bridge.models import Sms, State

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
    """What is remembered of an incoming SMS with the same place, sender and text."""

    @property
    def key(self) -> str:
        """Its dedupe key."""

    @property
    def told(self) -> int:
        """How often it was told."""

    @property
    def seen(self) -> Mapping[str, int]:
        """How often each channel has brought it."""

    @property
    def device_at(self) -> float | None:
        """By the device's clock."""


Heard = TypeVar("Heard", bound=Known)


def known_as(key: str, at: float | None, channel: str, known: Sequence[Heard]) -> Heard | None:
    """The told one that this is a repeat of; None: it is to be told.

    Each channel (push, text forward, the inbox since one start of the device) may bring every told SMS once: what it
    brings beyond that is another SMS, however alike. By another channel the key may differ (no network stamp there),
    so the device's times decide.
    """
    alike = [one for one in known if one.key == key]
    alike += [one for one in known if one.key != key and _same_moment(one.device_at, at)]
    return next((one for one in alike if one.seen.get(channel, 0) < one.told), None)


def moment_of(sms: ReceivedSms) -> float | None:
    """When it came, by the device's clock, else by the network's."""
    return sms.at if sms.at is not None else sms.scts_at


def _same_moment(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and abs(one - other) <= SAME_SMS_S


@dataclass(frozen=True, slots=True)
class Match:
    """What a delivery report is about: exactly one SMS, or all those that it could be about.

    ``wait``: one of these is in doubt still, so that nothing can be said before it is settled.
    """

    sms: Sms | None
    candidates: tuple[Sms, ...] = ()
    wait: bool = False


def match_report(recipient: str, at: float | None, candidates: Sequence[Sms]) -> Match:
    """Whose delivery report this is (device API 4.1: it names neither task nor SMS).

    ``candidates`` are SMS of that SIM to a number with the same last digits, begun inside the time window and without
    a report so far. One fits where it asked for a report, its number is the report's, and the device did not send it
    after the report (``at``, both by the device's clock). Exactly one that fits and has left us: that one.
    """
    fitting = tuple(
        sms
        for sms in candidates
        if sms.asked.get("dr") and same_number(sms.recipient, recipient) and not _sent_after(sms, at)
    )
    if any(sms.state in {State.SUBMITTING, State.IN_DOUBT} for sms in fitting):
        return Match(None, fitting, wait=True)
    return Match(fitting[0] if len(fitting) == 1 else None, fitting)


def _sent_after(sms: Sms, at: float | None) -> bool:
    sent_at = sms.detail.get("sent_at")
    if at is None or not isinstance(sent_at, str):
        return False
    return datetime.fromisoformat(sent_at).timestamp() > at + SAME_SMS_S
