"""Everything that is known of one key, in order of time: what a person reads to understand a verdict."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from dev.chaos.judge import MARK, History

BESIDE_S = 2.0
"""Faults and what happened on the same SIM are shown this long before and after the story itself."""

Line = tuple[float, str]


def story(key: str, history: History, log: list[dict[str, Any]]) -> list[str]:
    """The lines of a key's story, with the seconds since its first one."""
    own = sorted([*_asked(key, history), *_told(key, history), *_recorded(key, history), *_logged(key, log)])
    if not own:
        return [f"{key}: nothing is known"]
    began, ended = own[0][0] - BESIDE_S, own[-1][0] + BESIDE_S
    lines = sorted([*own, *_faults(history, began, ended), *_beside(key, history, began, ended)])
    return [f"{key}, from {datetime.fromtimestamp(own[0][0]).astimezone():%H:%M:%S.%f}:"] + [
        f"{at - own[0][0]:9.3f}  {words}" for at, words in lines
    ]


def _asked(key: str, history: History) -> Iterator[Line]:
    for asked in history.asked:
        if key != asked.ask.key and all(key != sms.key for sms in asked.ask.sms):
            continue
        if asked.published_at is not None:
            body = asked.ask.body
            yield asked.published_at, f"published   {asked.ask.kind} {asked.ask.routing_key} {body!r}"
        if asked.confirmed_at is not None:
            yield asked.confirmed_at, "confirmed"
    for came in history.came:
        if came.at is not None and _mark(came.arrival.text) == key:
            yield came.at, f"came in     on {came.arrival.gateway}/{came.arrival.port} from {came.arrival.sender}"


def _told(key: str, history: History) -> Iterator[Line]:
    for told in history.told:
        if told.subject == key or _mark(str(told.data.get("text"))) == key:
            yield told.at, f"event       {told.kind} {json.dumps(dict(told.data))} id {told.event['id']}"


def _recorded(key: str, history: History) -> Iterator[Line]:
    tasks = {(row["gateway"], row["tid"]) for row in history.rows.get(key, [])}
    for row in history.rows.get(key, []):
        yield row["at"], f"device      {row['kind']} {_place(row)} {row['result']} {row.get('reason') or ''}"
    for row in history.record:
        if row["kind"] != "callback":
            continue
        about = [tid for tid in (*row["tids"], *row["delivers"]) if (row["gateway"], tid) in tasks]
        if about or any(_mark(text) == key for text in row["texts"]):
            yield row["at"], f"device      callback {row['type']} {row['result']} {row['http_status']} {about}"


def _logged(key: str, log: list[dict[str, Any]]) -> Iterator[Line]:
    for line in log:
        if str(line.get("request_id", "")).partition(":")[2] == key:
            shown = {name: value for name, value in line.items() if name not in {"timestamp", "request_id"}}
            yield datetime.fromisoformat(line["timestamp"]).timestamp(), f"log         {json.dumps(shown)}"


def _faults(history: History, began: float, ended: float) -> Iterator[Line]:
    for fault in history.faults:
        if fault.began <= ended and (fault.ended or fault.began) >= began:
            yield fault.began, f"FAULT       {fault.kind} {json.dumps(dict(fault.what))}"
            if fault.ended is not None and fault.ended - fault.began > 0.05:
                yield fault.ended, f"FAULT ENDS  {fault.kind}"


def _beside(key: str, history: History, began: float, ended: float) -> Iterator[Line]:
    """What else happened on its SIMs."""
    sims = {(row["gateway"], row["iccid"]) for row in history.rows.get(key, [])}
    for row in history.record:
        there = row["kind"] != "callback" and (row["gateway"], row["iccid"]) in sims and began <= row["at"] <= ended
        if there and history.key_of(row) != key:
            yield row["at"], f"  beside    {row['kind']} {_place(row)} {row['result']} {str(row['text'])[:12]}"


def _place(row: Mapping[str, Any]) -> str:
    return f"{row['gateway']}/{row['port']} task {row['tid']}"


def _mark(text: str) -> str | None:
    found = MARK.match(text)
    return found[1] if found else None
