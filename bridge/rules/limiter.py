"""How fast one SIM may send: a token bucket in segments that answers "when" and never sleeps.

In any window of W seconds at most max(burst, largest message) + rate x W segments are handed over, measured at the
device. The bridge only knows that a hand-over happens somewhere between ``spend`` (before the POST) and ``settle``
(the POST ended). So what is open takes up space in the bucket until its end, and only then does time make room again:
a late hand-over is never followed by more early ones than the window allows.
"""

from __future__ import annotations

from typing import NamedTuple

SLACK_S = 1e-6
"""A wait that is not worth one: ``now + wait(now)`` must be late enough in floating point, too."""


class Pace(NamedTuple):
    """What a SIM may send: ``rate_per_s`` segments (None: unlimited), ``burst`` of them at once after a pause.

    ``gap_s`` seconds lie between the end of one hand-over and the beginning of the next, whatever the bucket holds.
    """

    rate_per_s: float | None
    burst: int
    gap_s: float = 0.0


class Bucket:
    """The budget of one SIM. A new one is empty, or in debt where it is known how much was spent before.

    A message within ``burst`` needs its cost; a larger one needs a full bucket and is owed back (negative level).
    """

    __slots__ = ("_at", "_closed_at", "_earned", "_heir", "_open", "_out", "pace")

    def __init__(self, pace: Pace, level: float, at: float) -> None:
        self.pace = pace
        self._earned, self._at = level, at
        self._open = 0
        self._out, self._closed_at = 0, at
        self._heir: Bucket | None = None

    def __repr__(self) -> str:
        return f"<Bucket {self._earned:.2f} of {self.pace.burst} at {self._at:.2f}, {self._open} open>"

    def level(self, now: float) -> float:
        """Segments in the bucket: what time has earned, as far as it fits beside what went out last."""
        rate, burst, _ = self.pace
        if rate is None:
            return float(burst)
        earned = self._earned + rate * max(0.0, now - self._at)
        space = burst - self._out + (0.0 if self._open else rate * max(0.0, now - self._closed_at))
        return min(float(burst), earned, space)

    def wait(self, cost: int, now: float) -> float:
        """Seconds until ``cost`` segments may be spent, at the earliest; 0 is now.

        While a hand-over is open this counts as if it ended now: the answer may move along until it has.
        """
        rate, burst, gap_s = self.pace
        earn_s = 0.0 if rate is None else (min(cost, burst) - self.level(now)) / rate
        rest_s = gap_s if self._open else self._closed_at + gap_s - now
        wait_s = max(earn_s, rest_s if gap_s else 0.0)
        return wait_s if wait_s > SLACK_S else 0.0

    def spend(self, cost: int, now: float) -> None:
        """A hand-over of ``cost`` segments begins; ``wait(cost, now)`` must have been 0."""
        self._earned, self._at = self.level(now) - cost, now
        self._out = cost + (self._out if self._open else 0)
        self._open += 1

    def settle(self, now: float) -> None:
        """The POST of one ``spend`` has ended, or will never be made."""
        if self._heir is not None:
            self._heir.settle(now)
            return
        self._open -= 1
        self._closed_at = now

    def refund(self, cost: int, now: float) -> None:
        """One ``spend`` provably handed nothing over: undo it. Only in place of ``settle``, never after.

        Later the bucket may have filled up meanwhile; what is given back then would exceed the window.
        """
        if self._heir is not None:
            self._heir.refund(cost, now)
            return
        self._earned += cost
        self._out -= cost
        self.settle(now)

    def change_pace(self, pace: Pace, now: float) -> None:
        """The card is under other limits now, for instance in another port."""
        self._earned, self._at = self.level(now), now
        self._out = self._out if self._open else 0
        self.pace = pace

    def absorb(self, other: Bucket, now: float) -> None:
        """Another bucket turned out to be the same card's: the poorer level counts, and what is open in either."""
        self._earned, self._at = min(self.level(now), other.level(now)), now
        self._out = (self._out if self._open else 0) + (other._out if other._open else 0)
        self._open += other._open
        self._closed_at = max(self._closed_at, other._closed_at)
        other._heir = self
