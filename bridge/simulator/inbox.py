"""The inbox of a simulated box: what its cards have received, to be read again with ids (device API 2.6). Pure."""

from __future__ import annotations

from itertools import islice

from bridge.ejoin.facts import DeliveryReport, InboxPage, ReceivedSms


class Inbox:
    """Every incoming SMS and delivery report in the order of arrival, with ids from 1; ``ssrc`` names this numbering.

    An id is never given twice under one ``ssrc``, whatever is deleted.
    """

    def __init__(self, ssrc: str) -> None:
        self.ssrc = ssrc
        self._rows: dict[int, ReceivedSms | DeliveryReport] = {}
        self._next = 1

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: ReceivedSms | DeliveryReport) -> None:
        """Keep one row under the next id."""
        self._rows[self._next] = row
        self._next += 1

    def page(self, start: int, count: int, *, delete: bool = False) -> InboxPage:
        """``count`` rows (0: all) from the id ``start`` on, and the id behind them; ``delete`` takes them out."""
        ids = list(islice((sms_id for sms_id in self._rows if sms_id >= start), count if count > 0 else None))
        rows = tuple(self._rows[sms_id] for sms_id in ids)
        if delete:
            for sms_id in ids:
                del self._rows[sms_id]
        return InboxPage(self.ssrc, ids[-1] + 1 if ids else self._next, rows)

    def restart(self, ssrc: str) -> None:
        """Number what is still there from 1 again, under a new name."""
        self.ssrc = ssrc
        self._rows = dict(enumerate(self._rows.values(), 1))
        self._next = len(self._rows) + 1
