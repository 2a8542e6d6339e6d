"""What can be set on the simulator: the switches of ``ejoin-bridge simulate``, with their defaults.

Pure data. Durations are seconds; addresses are ``host:port``, where port 0 asks for a free one. Mistakes are told as
one sentence each, naming the switch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bridge.ejoin.ports import MAX_PORT
from bridge.errors import SettingsInvalid
from bridge.simulator.encode import Dialect

MAX_GATEWAYS = 256
MAX_SLOTS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorOptions:
    """The simulator's settings; gateway *i* listens on the port of ``listen`` plus *i* - 1 and is named ``gw<i>``.

    Raises SettingsInvalid where one makes no sense, one line per mistake.
    """

    gateways: int = 2
    ports: int = 8
    slots: int = 1
    """Cards of each port; the first is in use."""
    listen: str = "127.0.0.1:9001"
    control: str = "127.0.0.1:9100"
    radio_s: float = 0.2
    """How long the radio takes for one segment."""
    seed: int = 1
    username: str = "root"
    password: str = field(default="root", repr=False)
    remember_tids: bool = False
    """Refuse finished task ids with code 13 until the next reboot; else only those of live tasks."""
    failure_rate: float = 0.0
    """The share of sends that the network refuses (they never go on air)."""
    lie_rate: float = 0.0
    """The share of sends that go on air and are told as failed with ``6 Timeout``."""
    delivery_s: float = 1.0
    """How long after going on air the network tells that a handset has it, where ``dr`` is 1."""
    register_s: float = 2.0
    """How long a card takes from inserted (st 11) over registering (2) to registered (3)."""
    sent_sms: bool = False
    """Push ``sent-sms`` to the status URL for every send, as the device's page 'State Notification' can switch on."""
    multiply: bool = False
    """Every named port sends to every recipient, as later documents say; else the ports share the recipients out."""
    day_cap: int | None = None
    """SMS that a card may send: told as ``smsctl_day``, and beyond it the device locks the card (st 7)."""
    dialect: Dialect = field(default_factory=Dialect)
    """How the boxes write."""
    max_tasks: int = 10_000
    """Live tasks beyond this are refused with code 16."""
    min_period_s: float = 60.0
    """The shortest period of ``dev-status`` that a subscriber gets."""

    def __post_init__(self) -> None:
        wrong = [sentence for fine, sentence in self._rules() if not fine]
        if wrong:
            raise SettingsInvalid("\n".join(wrong))

    def _rules(self) -> list[tuple[bool, str]]:
        durations = ("radio_s", "delivery_s", "register_s", "min_period_s")
        return [
            (1 <= self.gateways <= MAX_GATEWAYS, f"gateways: name 1 to {MAX_GATEWAYS}, not {self.gateways}"),
            (1 <= self.ports <= MAX_PORT, f"ports: name 1 to {MAX_PORT}, not {self.ports}"),
            (1 <= self.slots <= MAX_SLOTS, f"slots: name 1 to {MAX_SLOTS}, not {self.slots}"),
            (0 <= self.failure_rate <= 1, f"failure_rate: name a share from 0 to 1, not {self.failure_rate}"),
            (
                self.lie_rate >= 0 and self.failure_rate + self.lie_rate <= 1,
                f"lie_rate: name a share from 0 to 1, with failure_rate's, not {self.lie_rate}",
            ),
            (self.day_cap is None or self.day_cap >= 1, f"day_cap: name at least 1, not {self.day_cap}"),
            (self.max_tasks >= 1, f"max_tasks: name at least 1, not {self.max_tasks}"),
            *((getattr(self, name) >= 0, f"{name}: name seconds from 0 up") for name in durations),
            *((_is_address(getattr(self, name)), f"{name}: write host:port") for name in ("listen", "control")),
        ]


def split_address(address: str) -> tuple[str, int]:
    """``host:port`` as its two parts, ``[::1]:80`` without the brackets. Raises ValueError for anything else."""
    host, colon, number = address.rpartition(":")
    if not colon or not host or not number.isascii() or not number.isdigit() or int(number) > 65535:
        raise ValueError(f"not host:port: {address!r}")
    return host.strip("[]"), int(number)


def _is_address(address: str) -> bool:
    try:
        split_address(address)
    except ValueError:
        return False
    return True
