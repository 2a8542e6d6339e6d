"""What follows from a change of an SMS once it is durable: its line in the log, its metrics, its place on the port.

One line per SMS and state, numbers masked, text never. Whoever settles outcomes calls this after the commit, so that a
state is counted once, whoever brought it about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from bridge import logs
from bridge.metrics import Metrics
from bridge.models import Sms, State
from bridge.rules.outcomes import Outcome

log = structlog.get_logger()

ON_DEVICE = frozenset({State.SUBMITTING, State.SUBMITTED})


class Changes:
    """Tells the log, the metrics and the planner what has become of SMS.

    ``left_device(gateway, port)`` frees the task's place on its port.
    """

    def __init__(self, metrics: Metrics, left_device: Callable[[str, int], None]) -> None:
        self._metrics = metrics
        self._left_device = left_device

    def note(self, pairs: Sequence[tuple[Sms, Outcome]], now: float) -> None:
        """Each pair is the row as it was and what became of it."""
        for before, outcome in pairs:
            if outcome.sms.state is before.state and not outcome.publications:
                continue  # only something of its own books
            self._free(before, outcome.sms)
            self._count(before, outcome.sms, now)
            self._log(before, outcome.sms, now)

    def _free(self, before: Sms, after: Sms) -> None:
        """Free the task's place on its port, once.

        A task in doubt holds no place (nobody knows that it is there), so it cannot free one later either.
        """
        left = before.state in ON_DEVICE and after.state not in ON_DEVICE
        if left and before.reason is None and before.gateway and before.port:
            self._left_device(before.gateway, before.port)

    def _count(self, before: Sms, after: Sms, now: float) -> None:
        gateway, port = before.gateway or "-", str(before.port or "-")
        match after.state:
            case State.SUBMITTED if before.state is not State.SUBMITTED:
                self._metrics.submitted_total.labels(gateway, port).inc()
                if (asked_at := before.asked.get("ts")) is not None:
                    self._metrics.request_to_submit_seconds.labels(before.route or "-").observe(
                        max(0.0, now - asked_at)
                    )
            case State.SENT if before.state is not State.SENT:
                self._metrics.sent_total.labels(gateway, port).inc()
                self._observe_result(before, now)
            case State.FAILED if before.state is not State.FAILED:
                self._metrics.failed_total.labels(gateway, port, after.reason or "not_sure").inc()
                self._observe_result(before, now)
            case State.UNKNOWN:
                self._metrics.unknown_total.labels(gateway, port).inc()
            case State.HANDED_BACK:
                self._metrics.handed_back_total.labels(gateway, _word(before, after)).inc()
            case _:
                pass
        if after.event_type != before.event_type and after.event_type in {"sms.delivered", "sms.undelivered"}:
            counter = "delivered_total" if after.event_type == "sms.delivered" else "undelivered_total"
            getattr(self._metrics, counter).labels(gateway, port).inc()

    def _observe_result(self, before: Sms, now: float) -> None:
        if before.gateway and before.begun_at is not None:
            self._metrics.submit_to_result_seconds.labels(before.gateway).observe(max(0.0, now - before.begun_at))

    def _log(self, before: Sms, after: Sms, now: float) -> None:
        told = after.event_type if after.event_type != before.event_type else f"sms.{after.state}"
        log.info(
            told,
            request_id=str(after.key),
            route=after.route,
            gateway=before.gateway,
            port=before.port,
            tid=before.tid,
            to=logs.mask(after.recipient),
            segments=after.segments,
            attempt=after.attempt,
            took_s=round(now - before.begun_at, 3) if before.begun_at is not None else None,
            **({"code": after.code, "reason": after.reason} if after.code or after.reason else {}),
        )


def _word(before: Sms, after: Sms) -> str:
    """Why it went back, as a closed set of labels."""
    return "sim" if len(after.tried) > len(before.tried) else "gateway"
