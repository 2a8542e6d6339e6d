"""The few exceptions that cross rooms.

Expected outcomes are values (verdicts, outcomes); an exception here means that an edge is down, silent or garbled,
or that somebody handed in something impossible. A docstring is the class's default message. Edges translate foreign
exceptions into these: nothing of httpx, aio-pika or SQLAlchemy crosses into the flows.
"""

from __future__ import annotations


class BridgeError(Exception):
    """Something in the bridge went wrong."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").strip().splitlines()[0])


class RequestInvalid(BridgeError):
    """The send request breaks the contract.

    ``reason`` is the machine-readable word told in ``sms.rejected`` (``invalid``, ``unreadable``, ``too_large``,
    ``missing_id``, ...), ``field`` the member of the request that is wrong (None: the request as a whole).
    """

    def __init__(self, reason: str, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.field = field


class GatewayGarbled(BridgeError):
    """The device sent something that cannot be read; it is the device's fault, and the body is kept."""


class GatewayNotReached(BridgeError):
    """No connection to the gateway was made: nothing can have gone on air."""


class GatewaySilent(BridgeError):
    """The answer was lost after the request may have left: in doubt."""


class BrokerUnavailable(BridgeError):
    """The broker did not take it in time; nothing is known to be stored there."""


class Unroutable(BridgeError):
    """The broker took the message but had no queue for it."""


class LetterUnknown(BridgeError):
    """No dead letter has this id."""


class TopologyMismatch(BridgeError):
    """A queue or exchange exists with other arguments than the bridge needs."""


class LedgerUnavailable(BridgeError):
    """The ledger cannot store (disk full, locked, closed)."""


class LedgerLocked(BridgeError):
    """Another process holds the ledger's lock."""


class LedgerUnusable(BridgeError):
    """The ledger's file is damaged or of a future version."""


class SettingsInvalid(BridgeError):
    """The configuration has mistakes; each line names the field and the cure."""
