"""The record: what really happened in the simulated world, in order. It is the oracle of every test.

A row is written when the thing happens, never corrected and never taken back. ``handed_over``: a task was accepted,
at the moment its request had been read. ``on_air``: the radio sent it, whatever the device says of it; where another
submitter sent it, the result is ``foreign`` and there is no task id. ``reported``: the device's word about a task left
its caches, once; whether it arrived stands in the ``callback`` row that follows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

Kind = Literal["handed_over", "on_air", "reported", "callback"]


class Row(NamedTuple):
    """One line of the record; ``more`` holds what only its kind has (for a callback always ``http_status``)."""

    at: float
    kind: Kind
    gateway: str
    port: int | None
    iccid: str | None
    tid: int | None
    to: str | None
    text: str | None
    segments: int | None
    result: str | None
    more: dict[str, Any] | None = None


class Record:
    """All rows since the start, numbered from 1."""

    def __init__(self) -> None:
        self._rows: list[Row] = []

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"<Record {len(self._rows)} rows>"

    def add(self, row: Row) -> None:
        """Write one row."""
        self._rows.append(row)

    def rows(self, after: int = 0, up_to: int | None = None) -> Iterator[dict[str, Any]]:
        """The rows whose ``n`` is above ``after`` and not above ``up_to``, as the control face tells them."""
        last = len(self._rows) if up_to is None else min(up_to, len(self._rows))
        for index in range(max(0, after), last):
            row = self._rows[index]
            told = {"n": index + 1, **row._asdict()}
            told.update(told.pop("more") or {})
            yield told

    def lines(self, after: int = 0, up_to: int | None = None) -> str:
        """The same as JSON lines."""
        return "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in self.rows(after, up_to))
