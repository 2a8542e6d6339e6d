"""How fast one SIM may send: a token bucket in segments that answers "when" and never sleeps.

In any window of W seconds at most max(burst, largest message) + rate x W segments are handed over, measured at the
device. The bridge only knows that a hand-over happens somewhere between ``spend`` (before the POST) and ``settle``
(the POST ended), so nothing is credited between the two: a late hand-over is never followed by an early one.
"""

from __future__ import annotations

from typing import NamedTuple

SLACK_S = 1e-6
"""A wait that is not worth one: ``now + wait(now)`` must be late enough in floating point, too."""


class Pace(NamedTuple):
    """What a SIM may send: ``rate_per_s`` segments (None: unlimited), ``burst`` of them at once after a pause."""

    rate_per_s: float | None
    burst: int


class Bucket:
    """The budget of one SIM. A new one is empty, or in debt where it is known how much was spent before.

    A message within ``burst`` needs its cost; a larger one needs a full bucket and is owed back (negative level).
    """

    __slots__ = ("_at", "_heir", "_level", "_open", "pace")

    def __init__(self, pace: Pace, level: float, at: float) -> None:
        self.pace = pace
        self._level = level
        self._at = at
        self._open = 0
        self._heir: Bucket | None = None

    def __repr__(self) -> str:
        return f"<Bucket {self._level:.2f} of {self.pace.burst} at {self._at:.2f}{', open' * (self._open > 0)}>"

    def level(self, now: float) -> float:
        """Segments in the bucket; it stands still while a hand-over is open."""
        rate, burst = self.pace
        if rate is None:
            return float(burst)
        if self._open or now < self._at:
            return self._level
        grown = self._level + rate * (now - self._at)
        return grown if grown < burst else float(burst)

    def wait(self, cost: int, now: float) -> float:
        """Seconds until ``cost`` segments may be spent, at the earliest; 0 is now.

        While a hand-over is open this counts as if it ended now: the answer moves along until it has.
        """
        rate, burst = self.pace
        if rate is None:
            return 0.0
        wait_s = (min(cost, burst) - self.level(now)) / rate
        return wait_s if wait_s > SLACK_S else 0.0

    def spend(self, cost: int, now: float) -> None:
        """A hand-over of ``cost`` segments begins; ``wait(cost, now)`` must have been 0."""
        self._level = self.level(now) - cost
        self._open += 1

    def settle(self, now: float) -> None:
        """The POST of one ``spend`` has ended, or will never be made: from here on time is credited again."""
        if self._heir is not None:
            self._heir.settle(now)
            return
        self._open -= 1
        self._at = now

    def refund(self, cost: int, now: float) -> None:
        """One ``spend`` provably handed nothing over: undo it. Only in place of ``settle``, never after.

        Later the bucket may have filled up meanwhile; what is given back then would exceed the window.
        """
        if self._heir is not None:
            self._heir.refund(cost, now)
            return
        self._level = min(self._level + cost, float(self.pace.burst))
        self.settle(now)

    def change_pace(self, pace: Pace, now: float) -> None:
        """The card is under other limits now, for instance in another port."""
        self._level = min(self.level(now), float(pace.burst))
        self._at = now
        self.pace = pace

    def absorb(self, other: Bucket, now: float) -> None:
        """Another bucket turned out to be the same card's: the poorer level counts, and what is open in either."""
        self._level = min(self.level(now), other.level(now))
        self._at = now
        self._open += other._open
        other._heir = self
