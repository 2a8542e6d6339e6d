"""What a simulated box is made of: cards, ports, tasks, and the fate of each send, with the device's own wording.

Plain data without behaviour; ``device`` moves it. Identities of cards and boxes come from the seed and their place
alone, so they are the same after every start.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from bridge.ejoin import facts
from bridge.ejoin.ports import Port
from bridge.simulator import orders
from bridge.simulator.clock import Cache, Timer
from bridge.simulator.record import Row

NO_SIM, IDLE, REGISTERING, REGISTERED, CAPPED, BANNED, DETECTED, LOCKED = 0, 1, 2, 3, 7, 8, 11, 12
SMSC = "491710760000"
OPERATOR = "26201 SIMULATED"
VERSION = "532-604-924-041-100-000"
SRC_WEB, SRC_HTTP = 2, 3

TEXTS = {
    0: "OK", 1: "Invalid User", 2: "Invalid Port", 3: "USSD Expected", 4: "Pending USSD", 5: "SIM Unregistered",
    6: "Timeout", 7: "Server Error", 8: "SMS expected", 9: "TO expected", 10: "Pending Transaction",
    11: "TID Expected", 12: "FROM Expected", 13: "Duplicated TaskId", 14: "Unauthorized", 15: "Invalid CMD",
    16: "Too Many Task", 17: "MMS Title expected", 18: "Too Many MMS Attachments", 19: "MMS Attachments expected",
    20: "MMS Attachments Cache Size Overlimit",
}  # fmt: skip
"""The device's own wording (document 1.3.1.4 and its successors), kept apart from the bridge's table on purpose."""

OPERATOR_TEXTS = {
    1: "Unassigned number", 8: "Operator determined barring", 10: "Call barred", 21: "Short message transfer rejected",
    27: "Destination out of service", 28: "Unidentified subscriber", 29: "Facility rejected", 30: "Unknown subscriber",
    38: "Network out of order", 41: "Temporary failure", 42: "Congestion", 47: "Resources unavailable",
    50: "Requested facility not subscribed", 69: "Requested facility not implemented", 332: "Network timeout",
    500: "Unknown error",
}  # fmt: skip


LostAnswer: TypeAlias = Literal["before", "after", "half", "silent"]
"""How an answer to a submit is lost: reset before or after the tasks were taken, cut off after half of it, or never
given, which leaves the client waiting."""


@dataclass(frozen=True, slots=True)
class Fate:
    """How one send ends: what the device says (``code`` 0 is sent), and whether it was on air."""

    code: int
    on_air: bool
    operator_code: int | None = None

    @property
    def words(self) -> str:
        """The device's reason, as its failure row has it."""
        return f"{self.code} {TEXTS.get(self.code, '')}".rstrip()


SENT = Fate(0, on_air=True)
LIE = Fate(6, on_air=True)
GONE = Fate(5, on_air=False)
REFUSED = Fate(7, on_air=False, operator_code=8)
"""What the network says to a card that it has barred."""

BANNED_AFTER = 3
"""So many refusals in a row, and the device takes the card for locked by its operator."""


@dataclass(frozen=True, slots=True)
class Card:
    """A SIM card; the same seed, gateway and port give the same card."""

    iccid: str
    imsi: str
    number: str
    balance: float
    signal: int


@dataclass(slots=True, eq=False)
class Task:
    """A task that the box has taken, and its cumulative counters (document 1.3.2.3).

    A ``foreign`` one came from another submitter: it has no task id, and no report tells of it. Nor does it of one
    that came by the old interface: ``done`` gets the fate of each of its sends instead.
    """

    order: orders.Order
    tid: int
    text: str
    segments: int
    boot: int
    unsent: int
    reports: Cache[Result] | None = None
    sending: int = 0
    sent: int = 0
    failed: int = 0
    foreign: bool = False
    suspended: bool = False
    done: Callable[[Fate], None] | None = None

    @property
    def known_as(self) -> int | None:
        """The task id, where there is one."""
        return self.tid if self.told else None

    @property
    def told(self) -> bool:
        """Whether it has a task id, and reports tell of it."""
        return not self.foreign and self.done is None


@dataclass(frozen=True, slots=True, eq=False)
class Send:
    """One recipient of a task on one port."""

    task: Task
    index: int
    to: str


@dataclass(slots=True, eq=False)
class OnRadio:
    """What a port is sending right now."""

    send: Send
    fate: Fate
    took_s: float
    timer: Timer


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """The device's word about one send, with the task's counters after it."""

    task: Task
    told: facts.SentRow | facts.FailedRow
    counters: tuple[int, int, int, int]
    row: Row


@dataclass(slots=True, eq=False)
class SimPort:
    """One modem position with its cards; ``held`` is what the network keeps for a card without coverage.

    ``counters`` are what really happened, ``counted`` the device's own word about it since its start, by slot.
    ``calling`` says that a USSD call is under way, ``barred`` that the network takes nothing from it any more.
    """

    number: int
    imei: str
    cards: tuple[Card, ...]
    slot: int = 1
    st: int = REGISTERED
    seq: int = 1
    waiting: deque[Send] = field(default_factory=deque)
    radio: OnRadio | None = None
    held: deque[Callable[[], None]] = field(default_factory=deque)
    registering: list[Timer] = field(default_factory=list)
    fates: deque[Fate] = field(default_factory=deque)
    counters: Counter[str] = field(default_factory=Counter)
    counted: dict[int, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    calling: bool = False
    barred: bool = False

    @property
    def card(self) -> Card:
        """The one in use."""
        return self.cards[self.slot - 1]

    @property
    def statistics(self) -> Counter[str]:
        """Of the card in use."""
        return self.counted[self.slot]

    @property
    def place(self) -> Port:
        """The port and slot, as reports name it."""
        return Port(self.number, self.slot)

    @property
    def load(self) -> int:
        """How many SMS are ahead of a new one."""
        return len(self.waiting) + (self.radio is not None)


def make_port(seed: int, gateway: str, number: int, slots: int) -> SimPort:
    """A port with its cards, the first registered; the same arguments give the same identity on every start."""
    draw = random.Random(f"{seed}/{gateway}/{number}")
    first = _make_card(draw)
    imei = f"86{draw.randrange(10**13):013d}"
    others = (_make_card(random.Random(f"{seed}/{gateway}/{number}/{slot}")) for slot in range(2, slots + 1))
    return SimPort(number, imei, (first, *others))


def _make_card(draw: random.Random) -> Card:
    return Card(
        iccid=f"894902{draw.randrange(10**13):013d}",
        imsi=f"26201{draw.randrange(10**10):010d}",
        number=f"49151{draw.randrange(10**8):08d}",
        balance=draw.randrange(500, 2_500) / 100,
        signal=draw.randrange(12, 32),
    )


def make_mac(seed: int, gateway: str) -> str:
    """The address of a box; the same arguments give the same one."""
    draw = random.Random(f"{seed}/{gateway}")
    return "00-30-f1-" + "-".join(f"{draw.randrange(256):02x}" for _ in range(3))
