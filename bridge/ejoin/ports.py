"""The port notations of the device: parsed and printed here and nowhere else.

A port is one modem position (1-based); a slot is the SIM position under it, local (``1.01``, ``1A``) or in a SIM pool
(``1.sp128.016``). Ranges (``1-4,7``) name whole ports. See the device's notations in the document 4.1, 4.3, 4.5.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

MAX_PORT = 1024
_ONE = re.compile(r'"?(\d{1,4})(?:([A-Za-z])|\.(\d{1,3})|\.([A-Za-z]+\d+)\.(\d{1,4}))?"?')
_RANGE = re.compile(r"(\d{1,4})(?:\.(\d{1,3}))?-(\d{1,4})(?:\.(\d{1,3}))?")


@dataclass(frozen=True, slots=True, order=True)
class Port:
    """A modem position, and the SIM position under it where it is known (slot 0: the active one)."""

    number: int
    slot: int = 0
    pool: str = ""

    def __str__(self) -> str:
        if self.pool:
            return f"{self.number}.{self.pool}.{self.slot:03d}"
        return f"{self.number}.{self.slot:02d}" if self.slot else str(self.number)


@lru_cache(maxsize=4096)  # every row of every report names one of a few ports
def parse(notation: str | int) -> Port:
    """Read one port in any notation: ``4``, ``1A``, ``1.01``, ``1.sp128.016``, also quoted.

    Raises ValueError for anything else, and for port numbers outside 1 to 1024.
    """
    match = _ONE.fullmatch(str(notation).strip())
    if match is None:
        raise ValueError(f"not a port: {notation!r} (write 4, 1A, 1.01 or 1.sp128.016)")
    number, letter, slot, pool, pool_slot = match.groups()
    if not 1 <= int(number) <= MAX_PORT:
        raise ValueError(f"port {number} is not between 1 and {MAX_PORT}")
    if letter:
        return Port(int(number), ord(letter.upper()) - ord("A") + 1)
    if pool:
        return Port(int(number), int(pool_slot), pool)
    return Port(int(number), int(slot or 0))


def parse_range(notation: str | int) -> tuple[Port, ...]:
    """Read a comma list of ports and ranges, ``1-4,7``, ``1.01,3`` or ``1.01-64.01``, in order and without repeats.

    Raises ValueError where a part cannot be read, a range runs backwards or from slot to slot, or nothing is named.
    """
    ports: dict[Port, None] = {}
    for part in (p.strip() for p in str(notation).split(",")):
        if match := _RANGE.fullmatch(part):
            first, last, slot = int(match[1]), int(match[3]), int(match[2] or 0)
            if not 1 <= first <= last <= MAX_PORT:
                raise ValueError(f"not a port range: {part!r} (write the smaller number first, from 1 to {MAX_PORT})")
            if slot != int(match[4] or 0):
                raise ValueError(f"not a port range: {part!r} (it goes from port to port, in one slot)")
            ports.update((Port(number, slot), None) for number in range(first, last + 1))
        else:
            ports[parse(part)] = None
    return tuple(ports)
