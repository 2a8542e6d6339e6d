"""The one clock of the simulator, and the cache that the device builds from it.

Everything that takes time in the simulated world asks this clock, so a test can hand in a clock that it turns by hand.
Unix time is anchored once, at the start: a step of the machine's clock does not reach into a running simulation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

T = TypeVar("T")


class Timer(Protocol):
    """What ``later`` gives back."""

    def cancel(self) -> None:
        """Forget the call."""


class Clock:
    """Unix seconds that run with a monotonic clock, and calls at a later moment.

    ``time`` and ``call_later`` are those of the event loop (or of a test's hand-turned clock), ``unix`` the moment now.
    """

    def __init__(self, time: Callable[[], float], call_later: Callable[..., Timer], *, unix: float) -> None:
        self._time = time
        self._offset = unix - time()
        self.later = call_later

    def now(self) -> float:
        """Unix seconds."""
        return self._offset + self._time()


def clock_of(loop: asyncio.AbstractEventLoop, *, unix: float) -> Clock:
    """The clock of a running event loop."""
    return Clock(loop.time, loop.call_later, unix=unix)


class Cache(Generic[T]):
    """The device's report cache (document 1.3.1.3): flushed at ``count`` items or ``period_s`` after the first one.

    A flush hands the items over in order and restarts count and timer. A period of 0 or less means no timer.
    """

    def __init__(self, clock: Clock, flushed: Callable[[list[T]], Any], *, count: int, period_s: float) -> None:
        self.count = count
        self.period_s = period_s
        self._clock = clock
        self._flushed = flushed
        self._items: list[T] = []
        self._timer: Timer | None = None

    def add(self, item: T) -> None:
        """Keep one item, and flush where it is the last that fits."""
        self._items.append(item)
        if len(self._items) >= self.count:
            self.flush()
        elif self._timer is None and self.period_s > 0:
            self._timer = self._clock.later(self.period_s, self.flush)

    def flush(self) -> None:
        """Hand over what is kept, if anything is."""
        items = self.forget()
        if items:
            self._flushed(items)

    def forget(self) -> list[T]:
        """Empty the cache without handing over (a reboot); gives back what was in it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        items, self._items = self._items, []
        return items
