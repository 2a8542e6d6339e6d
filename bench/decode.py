"""What reading a push costs as it grows: steps (calls, counted and so the same every time) and CPU time, as ratios.

Each kind of body is read at a size and at twice that size; work that is linear in size doubles. Bodies that strangers
could make to hurt are among them. Progress goes to standard error; the last line of standard output is one JSON object.

    python bench/decode.py [--rows 2000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from bridge.ejoin.decode import decode_push
from bridge.errors import GatewayGarbled

JSON = "application/json;charset=utf-8"
OCTETS = "application/octet-stream; charset=utf-8"


def _rows(kind: str, name: str, row: Any) -> Callable[[int], bytes]:
    return lambda size: json.dumps({"type": kind, name: [row] * size}).encode()


_TEXT = base64.b64encode(
    b'Sender: 491\r\nReceiver: "1.01" 492\r\nSMSC: 493\r\nSCTS: 250820064536A8\r\n\r\nHello'
).decode()
_REPORT = {
    "tid": 7,
    "sent": 1,
    "failed": 1,
    "sdr": [[0, "491", "1.01", 9]],
    "fdr": [[1, "492", "1B", 9, "6 Timeout", ""]],
}
_PORT = {"port": "1.02", "st": "3 OK", "iccid": "8949", "bal": "0.00", "tot_dur": "0/-1", "smsctl_day": "3/100"}

BODIES: dict[str, tuple[Callable[[int], bytes], str]] = {
    "status-report": (_rows("status-report", "rpts", _REPORT), JSON),
    "recv-sms": (_rows("recv-sms", "sms", [0, "1.02", 1548407412, "491", "", _TEXT]), JSON),
    "dev-status": (_rows("dev-status", "status", _PORT), JSON),
    "rows as lines": (_rows("status-report", "rpts", {"tid": 7, "sdr": ["0,491,1.01,9"], "fdr": []}), JSON),
    "a long text": (lambda size: b"Sender: 1\nSMSC: 2\nSCTS: 250820064536A8\n\n" + b"x" * 50 * size, OCTETS),
    "header lines without end": (lambda size: b"Sender: 1\r\n" * 5 * size, OCTETS),
    "brackets": (lambda size: b"[" * 25 * size, JSON),
    "brackets in turns": (lambda size: b'[{"a":' * 5 * size, JSON),
    "backslashes": (lambda size: b'{"type":"' + b"\\\\" * 25 * size, JSON),
    "digits": (lambda size: b'{"type":' + b"1" * 50 * size + b"}", JSON),
    "a wide object": (lambda size: json.dumps({f"k{n}": n for n in range(5 * size)}).encode(), JSON),
}


def steps(name: str, size: int) -> int:
    """How many calls reading such a body takes."""
    make, kind = BODIES[name]
    body, count = make(size), 0

    def note(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    sys.setprofile(note)
    try:
        with contextlib.suppress(GatewayGarbled):
            decode_push(body, kind, {})
    finally:
        sys.setprofile(None)
    return count


def cpu_s(name: str, size: int, rounds: int) -> list[float]:
    """What it takes, round by round."""
    make, kind = BODIES[name]
    body, took = make(size), []
    for _ in range(rounds):
        began = time.process_time()
        with contextlib.suppress(GatewayGarbled):
            decode_push(body, kind, {})
        took.append(time.process_time() - began)
    return took


def main() -> None:
    """Measure every body at a size and at twice that size."""
    parser = argparse.ArgumentParser(description="What reading a push costs as it grows.")
    parser.add_argument("--rows", type=int, default=2_000, help="rows of the smaller body")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    told = {}
    for name in BODIES:
        ratio = steps(name, 2 * options.rows) / steps(name, options.rows)
        once, twice = (cpu_s(name, rows, options.rounds) for rows in (options.rows, 2 * options.rows))
        ratios = [two / one for one, two in zip(once, twice, strict=True) if one]
        told[name] = {
            "steps": round(ratio, 2),
            "cpu": round(statistics.median(ratios), 2) if ratios else None,
            "cpu_spread": [round(min(ratios), 2), round(max(ratios), 2)] if ratios else None,
        }
        print(f"{name}: twice the size, {told[name]}", file=sys.stderr, flush=True)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
