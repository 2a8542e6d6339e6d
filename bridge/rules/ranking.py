"""Who comes next, among members whose moment and order change all the time.

Before its moment a member stands by that moment, from then on by preference. Both are looked up anew whenever a member
is met, so what got worse is found out by itself and costs nothing until then; what got better must be told (`add`).
Every answer costs the logarithm of the members.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from heapq import heappop, heappush
from typing import Generic, TypeVar

from bridge.rules.limiter import SLACK_S

Member = TypeVar("Member", bound=Hashable)
_Place = tuple[tuple[bool, float], int, Member]
"""A rank (whether it is later; its preference or its moment), a number that no other has, and the member."""


class Ranking(Generic[Member]):
    """Members by preference once their moment has come, until then by their moment.

    ``look(member, now)`` answers with both: the moment (infinite: not by time alone) and what sorts members that are
    ready, least first.
    """

    __slots__ = ("_later", "_look", "_number", "_places", "_ready")

    def __init__(self, look: Callable[[Member, float], tuple[float, int]]) -> None:
        self._look = look
        self._ready: list[_Place[Member]] = []
        self._later: list[_Place[Member]] = []
        self._places: dict[Member, _Place[Member]] = {}
        self._number = 0

    def add(self, member: Member, now: float) -> None:
        """Take a member in, or learn that it may be better off than it was."""
        self._put(member, self._look(member, now), now)

    def remove(self, member: Member) -> None:
        """Forget a member; what is not here need not be."""
        self._places.pop(member, None)

    def first(self, now: float) -> tuple[Member | None, float]:
        """Who comes next, and when: ``now`` where one is ready; None and infinity where nobody will by time alone."""
        while self._later and self._later[0][0][1] <= now + SLACK_S:
            self._look_again(heappop(self._later), now)
        for heap in (self._ready, self._later):
            while heap:
                place = heap[0]
                rank, _, member = place
                if self._places.get(member) is place and self._rank(*self._look(member, now), now) <= rank:
                    return member, now if heap is self._ready else rank[1]
                self._look_again(heappop(heap), now)
        return None, math.inf

    def _look_again(self, place: _Place[Member], now: float) -> None:
        """A place was given up: its member gets another, unless it has one."""
        member = place[2]
        if self._places.get(member) is place:
            del self._places[member]
            self._put(member, self._look(member, now), now)

    def _put(self, member: Member, seen: tuple[float, int], now: float) -> None:
        rank = self._rank(*seen, now)
        known = self._places.get(member)
        if rank[1] == math.inf or (known is not None and known[0] <= rank):
            return
        self._number += 1
        place = self._places[member] = (rank, self._number, member)
        heappush(self._later if rank[0] else self._ready, place)

    @staticmethod
    def _rank(moment: float, preference: int, now: float) -> tuple[bool, float]:
        return (False, preference) if moment <= now + SLACK_S else (True, moment)
