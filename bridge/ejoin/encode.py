"""What we say to a device: JSON-ready members and query parameters, spelled as devices read them.

Exact where decoding is liberal: lower-case names, every member whose published defaults contradict each other is
explicit. Something impossible is a ValueError: our own mistake, found before anything leaves.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import quote, urlencode

from bridge.ejoin.facts import Envelope, SmsTask
from bridge.ejoin.ports import Port

MAX_TID = 2**31 - 1
"""Task ids are signed 32-bit integers in the device; larger ones come back mangled."""

CONTENT_TYPE = "application/json;charset=utf-8"

SUBMIT_PATH = "/goip_post_sms.html"
LEGACY_PATH = "/goip_send_sms.html"
TASKS_PATH = "/goip_get_tasks.html"
STATUS_PATH = "/goip_get_status.html"
STATISTICS_PATH = "/goip_get_sms_stat.html"
INBOX_PATH = "/goip_get_sms.html"

COMMAND_PATH = "/goip_send_cmd.html"
USSD_PATH = "/goip_send_ussd.html"
CALL_STATISTICS_PATH = "/goip_get_call_stat.html"
TASK_PATHS = {
    "pause": "/goip_pause_sms.html",
    "resume": "/goip_resume_sms.html",
    "remove": "/goip_remove_sms.html",
}

Span = Literal["hour", "two_hours", "day", "all"]
SPANS: dict[Span, int] = {"hour": 0, "two_hours": 1, "day": 2, "all": 3}
"""The ``type`` of statistics; only ``all`` counts on, the others begin anew."""

LEAST_PERIOD_S = 30
"""The shortest period of status reports, by the device's page (document 3); its API takes 60."""

PortOp = Literal["lock", "unlock", "switch", "reset"]

Dial = Literal["plus", "digits"]
Charset = Literal["auto", "utf8", "base64"]

_MANGLED = re.compile("[\\0-\\x09\\x0b-\\x1f\\x7f\\ud800-\\udfff\\U00010000-\\U0010ffff]")
"""What small devices are said to lose from a JSON text: all that takes an escape or more than three bytes."""


def submit_body(
    tasks: Sequence[SmsTask],
    envelope: Envelope,
    *,
    dial: Dial,
    charset: Charset = "utf8",
    credentials: tuple[str, str] | None = None,
) -> dict[str, Any]:
    """The members of a send-sms request (document 1.3.1.3).

    ``credentials`` (username, password) are told in the body too where given: the document wants them there on a
    POST, devices read them from the query. ``charset`` is how texts are written, ``auto`` in base64 only where devices
    mangle them else. Raises ValueError for a task that no device could read.
    """
    if not tasks:
        raise ValueError("a submit needs at least one task")
    if envelope.sms_count <= 1:
        raise ValueError("sms_count must be above 1: that is what turns on the JSON recv-sms (remark on sms_cnt)")
    body: dict[str, Any] = {}
    if credentials:
        body["username"], body["password"] = credentials
    body["type"] = "send-sms"
    if envelope.callback_url is not None:
        body |= {
            "sr_url": envelope.callback_url,
            "sr_cnt": envelope.report_count,
            "sr_prd": envelope.report_period_s,
            "sms_url": envelope.callback_url,
            "sms_cnt": envelope.sms_count,
            "sms_prd": envelope.sms_period_s,
        }
    return body | {"task_num": len(tasks), "tasks": [_task(task, dial, charset) for task in tasks]}


def legacy_params(task: SmsTask, *, dial: Dial) -> dict[str, str | int]:
    """The parameters of the old GET interface (document 1.2), which knows neither task ids nor reports.

    Raises ValueError for a task that no device could read.
    """
    told = _task(task, dial, "utf8")
    place = {} if task.port is None else {"port": str(task.port)}
    return {**place, "recipients": told["to"], "sms": told["sms"], "charset": "UTF-8"}


def dialled(number: str, *, dial: Dial) -> str:
    """The recipient as the device is told it: ``plus`` keeps ``+49..``, ``digits`` strips the plus.

    A short code goes as it is. Raises ValueError for anything but one number.
    """
    digits = number.removeprefix("+")
    if not (digits.isascii() and digits.isdigit()):
        raise ValueError("a task has one recipient: digits, with or without a leading +")
    return number if dial == "plus" else digits


def query(username: str, password: str, /, **params: str | int) -> str:
    """The query string of a request: credentials first, every special character percent-encoded, blanks as %20."""
    return urlencode({"username": username, "password": password, **params}, quote_via=quote, safe="")


def tasks_params(port: Port, *, start: int, count: int) -> dict[str, str | int]:
    """The parameters of a task list: ``count`` waiting tasks of the port's active card from position ``start`` on."""
    return {"version": "1.1", "port": port.number, "pos": start, "num": count, "has_content": 0}


def command_params(op: PortOp | Literal["save", "reboot"], ports: str | None = None) -> dict[str, str | int]:
    """The parameters of a command (document 4.5), for ports in any of the device's notations.

    The document calls them ``port``, its successors ``ports``; a device passes over the one that it does not know.
    """
    return {"op": op} if ports is None else {"op": op, "port": ports, "ports": ports}


def get_params(names: Sequence[str]) -> dict[str, str | int]:
    """The parameters of a query for settings of the device (device API 2.10)."""
    return {"op": "get", **{f"par_name({n})": name for n, name in enumerate(names)}}


def set_body(values: Mapping[str, str]) -> bytes:
    """The body that sets settings of the device: ``name=value`` joined by ``&``, as text (device API 2.10)."""
    return "&".join(f"{name}={value}" for name, value in values.items()).encode()


def task_ids_body(tids: Sequence[int]) -> bytes:
    """The body that pauses, resumes or removes tasks (device API 2.3). Without ids it would be all of them.

    Raises ValueError for none.
    """
    if not tids:
        raise ValueError("name the tasks: no ids means all of them to the device")
    return to_json({"tids": list(tids)})


def ussd_params(port: Port, code: str, *, timeout_s: int, retries: int) -> dict[str, str | int]:
    """The parameters of a USSD call (device API 2.11); it blocks until the network answers."""
    return {"port": str(port), "ussd": code, "timeout": timeout_s, "retries": retries}


def status_params(
    callback_url: str | None, period_s: int | None, *, all_sims: bool = False, ports: str | None = None
) -> dict[str, str | int]:
    """The parameters of a status query (document 4.5), for some ports or all, the cards in use or all.

    With a callback URL the device also reports there every ``period_s``, 0 for never again. Raises ValueError for one
    that is shorter than any device's.
    """
    if period_s is not None and 0 < period_s < LEAST_PERIOD_S:
        raise ValueError(f"a device reports every {LEAST_PERIOD_S} s at the most, not every {period_s}")
    params: dict[str, str | int] = {}
    if all_sims:
        params["all_sims"] = 1
    if ports is not None:
        params |= {"port": ports, "ports": ports}
    if callback_url is not None:
        params["url"] = callback_url
    if period_s is not None:
        params["period"] = period_s
    return params


def statistics_params(ports: str = "all", *, slots: str | None = None, span: Span = "all") -> dict[str, str | int]:
    """The parameters of a statistics query: for the active card of each port, or for some slots or ``all``."""
    params: dict[str, str | int] = {"version": "1.1", "ports": ports, "type": SPANS[span]}
    return params if slots is None else params | {"slots": slots}


def inbox_params(*, start: int, count: int, delete: bool = False) -> dict[str, str | int]:
    """The parameters of an inbox query: ``count`` rows (0: all) from the id ``start`` on.

    The document's URL for deleting only reads: it lacks ``sms_del``.
    """
    params: dict[str, str | int] = {"version": "1.1", "sms_id": start, "sms_num": count}
    return params | {"sms_del": 1} if delete else params


def to_json(members: Mapping[str, Any]) -> bytes:
    """The body as it leaves: UTF-8 without escapes, since small devices do not join escaped surrogate pairs."""
    return json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _task(task: SmsTask, dial: Dial, charset: Charset) -> dict[str, Any]:
    if not 1 <= task.tid <= MAX_TID:
        raise ValueError(f"task id {task.tid} is not between 1 and {MAX_TID}")
    if not task.text:
        raise ValueError("a task needs a text")
    told: dict[str, Any] = {"tid": task.tid}
    if task.port is not None:
        told["from"] = str(task.port)
    told |= {
        "to": dialled(task.to, dial=dial),
        "sms": task.text,
        "chs": "utf8",
        "coding": task.coding,
    }
    if charset == "base64" or (charset == "auto" and _MANGLED.search(task.text)):
        packed = base64.b64encode(task.text.encode("utf-8", "replace")).decode()
        told |= {"sms": packed, "chs": "base64"}
    if task.flash:
        told["flash_sms"] = 1
    if task.smsc:
        told["smsc"] = task.smsc
    # Published defaults of sdr, fdr and the report cache contradict each other: never rely on one.
    told |= {
        "tmo": task.timeout_s,
        "sdr": 1,
        "fdr": 1,
        "dr": int(task.delivery_report),
        "sr_cnt": task.report_count,
        "sr_prd": task.report_period_s,
    }
    return told
