"""What Prometheus sees of the bridge, as one object that is handed to whoever counts.

Labels are configured names and closed sets of words, never numbers of people, ids or texts; histograms have no port
label. Every series that can be known beforehand exists from the start, so that a rate needs no first event.
``docs/metrics.md`` lists all of them, and a test compares the page with this file.
"""

# ruff: noqa: RUF009  the fields are descriptions; each object makes its own metrics of them

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import product
from typing import Any, Generic, TypeVar

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from bridge.models import EVENT_TYPES

PREFIX = "ejoin_"
NONE = "-"
"""The label of what belongs to no route (pinned requests), no gateway (callbacks to a name nobody configured) ..."""

FAILED_REASONS = ("not_taken", "not_sent", "not_sure", "no_sim_left")
REQUEST_OUTCOMES = ("accepted", "repeat", "rejected", "expired", "unreadable")
HANDED_BACK_REASONS = ("sim", "gateway")
POST_OUTCOMES = ("answered", "not_reached", "silent", "garbled")
CALLBACK_TYPES = ("status-report", "recv-sms", "port-status", "dev-status", "sent-sms", "cdr", "unrecognised", "empty")
CALLBACK_REFUSALS = ("403", "408", "413", "500", "503")
DEAD_LETTER_REASONS = ("unreadable", "too_large", "invalid", "missing_id", "unroutable", "delivery_limit", "poison")
PUBLISH_FAILURES = ("timeout", "refused", "unroutable", "disconnected", "copy")

LATENCIES_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
COMMITS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
TASKS = (1, 2, 5, 10, 20, 30, 40, 50, 100)

Kind = TypeVar("Kind", Counter, Gauge, Histogram)


class Series(Generic[Kind]):
    """A metric with labels; looking a child up costs a third of what the library takes for it."""

    def __init__(self, metric: Kind) -> None:
        self._metric: Kind = metric
        self._children: dict[tuple[str | int, ...], Kind] = {}

    def labels(self, *values: str | int) -> Kind:
        """The child with these values, in the order of the metric's labels; new ones begin at zero."""
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = self._metric.labels(*values)
        return child


def _metric(
    kind: type[Counter | Gauge | Histogram],
    meaning: str,
    labels: Sequence[str] = (),
    *,
    words: Sequence[str] = (),
    buckets: Sequence[float] = (),
) -> Any:
    """A field that becomes this metric under its own name; ``words`` are the values of its last label."""
    extra = {"buckets": buckets} if buckets else {}
    return field(init=False, metadata={"kind": kind, "meaning": meaning, "labels": labels, "words": words, **extra})


def _counter(meaning: str, *labels: str, words: Sequence[str] = ()) -> Any:
    return _metric(Counter, meaning, labels, words=words)


def _gauge(meaning: str, *labels: str) -> Any:
    return _metric(Gauge, meaning, labels)


def _histogram(meaning: str, *labels: str, buckets: Sequence[float]) -> Any:
    return _metric(Histogram, meaning, labels, buckets=buckets)


@dataclass(frozen=True)
class Metrics:
    """Every metric of the bridge, registered where the constructor is told."""

    registry: CollectorRegistry

    # How much enters, and how it ends.
    requests_total: Series[Counter] = _counter(
        "Requests read from the broker, by what became of them.", "route", "outcome", words=REQUEST_OUTCOMES
    )
    submitted_total: Series[Counter] = _counter("SMS that the device took.", "gateway", "port")
    sent_total: Series[Counter] = _counter("SMS that the network took.", "gateway", "port")
    failed_total: Series[Counter] = _counter(
        "SMS that are not going out: not taken by the device, not sent for a proven reason, not sure, or no SIM left "
        "to try.",
        "gateway",
        "port",
        "reason",
        words=FAILED_REASONS,
    )
    delivered_total: Series[Counter] = _counter("SMS whose delivery report said delivered.", "gateway", "port")
    undelivered_total: Series[Counter] = _counter("SMS whose delivery report said anything else.", "gateway", "port")
    unknown_total: Series[Counter] = _counter("SMS whose fate could not be learnt.", "gateway", "port")
    received_total: Series[Counter] = _counter("SMS that came in.", "gateway", "port")
    handed_back_total: Series[Counter] = _counter(
        "Attempts that went back to the broker: because of the SIM or because of the gateway.",
        "gateway",
        "reason",
        words=HANDED_BACK_REASONS,
    )
    dead_lettered_total: Series[Counter] = _counter(
        "Messages kept in the dead queue.", "reason", words=DEAD_LETTER_REASONS
    )

    # How long it waits, and what is stuck.
    waiting: Series[Gauge] = _gauge("Deliveries held that wait for a port.", "route")
    in_flight: Series[Gauge] = _gauge("Tasks in POSTs that are not answered yet.", "gateway")
    in_doubt: Series[Gauge] = _gauge("SMS whose answer was lost and that no evidence has settled yet.", "gateway")
    outbox_pending: Gauge = _gauge("Events and hand-backs that are stored and not confirmed by the broker yet.")
    outbox_age_seconds: Gauge = _gauge("Age of the oldest of them.")
    route_paused: Series[Gauge] = _gauge("1 while no port of the route can send and its queue is left alone.", "route")
    orphaned_messages: Series[Gauge] = _gauge(
        "Messages in queues of routes and gateways that are no longer configured.", "queue"
    )
    request_to_submit_seconds: Series[Histogram] = _histogram(
        "From the request's timestamp to the device's yes.", "route", buckets=LATENCIES_S
    )
    submit_to_result_seconds: Series[Histogram] = _histogram(
        "From the hand-over to the device's word about sent or failed.", "gateway", buckets=LATENCIES_S
    )

    # The devices.
    port_state: Series[Gauge] = _gauge(
        "The device's own number for the port's state (3 can send); -1 until it has told one.", "gateway", "port"
    )
    port_signal: Series[Gauge] = _gauge("Signal, 0 to 31, 99 unknown; NaN until told.", "gateway", "port")
    port_balance: Series[Gauge] = _gauge("Balance of the SIM in its own currency; NaN until told.", "gateway", "port")
    port_queued: Series[Gauge] = _gauge("Tasks handed over to the port and not reported yet.", "gateway", "port")
    gateway_up: Series[Gauge] = _gauge("1 while the gateway answers.", "gateway")
    posts_total: Series[Counter] = _counter(
        "POSTs to the gateway, by how they ended.", "gateway", "outcome", words=POST_OUTCOMES
    )
    tasks_per_post: Histogram = _histogram("Tasks in one POST.", buckets=TASKS)
    callbacks_total: Series[Counter] = _counter(
        "Callbacks by the HTTP status they were answered with and, where that is 200, their type.",
        "gateway",
        "status",
        "type",
    )

    # The broker and the ledger.
    events_total: Series[Counter] = _counter(
        "Events that the broker confirmed, including those for which nobody listens.", "type", words=tuple(EVENT_TYPES)
    )
    events_unrouted_total: Series[Counter] = _counter(
        "Events that the broker took and had no queue for.", "type", words=tuple(EVENT_TYPES)
    )
    publish_failures_total: Series[Counter] = _counter(
        "Publishes that the broker did not confirm; all are tried again but copies for reply_to.",
        "reason",
        words=PUBLISH_FAILURES,
    )
    broker_connected: Gauge = _gauge("1 while the session with the broker stands.")
    sessions_total: Counter = _counter("Sessions with the broker that were built.")
    consumer_restarts_total: Counter = _counter("Consumers that were found dead and started anew.")
    ledger_commit_seconds: Histogram = _histogram("Time of one commit of the ledger.", buckets=COMMITS_S)
    ledger_failures_total: Counter = _counter("Transactions that the ledger could not store.")

    def __post_init__(self) -> None:
        # They would be a second series per counter, which nobody reads.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        for told in fields(self)[1:]:
            about, labels = told.metadata, told.metadata["labels"]
            extra = {"buckets": about["buckets"]} if "buckets" in about else {}
            made = about["kind"](PREFIX + told.name, about["meaning"], labels, registry=self.registry, **extra)
            object.__setattr__(self, told.name, Series(made) if labels else made)
        ProcessCollector(registry=self.registry)

    def start_at_zero(self, gateways: Mapping[str, Sequence[int]], routes: Iterable[str]) -> None:
        """Make every series exist that these gateways (name: port numbers) and routes can have."""
        names = list(routes)
        for told in fields(self)[1:]:
            series = getattr(self, told.name)
            for values in _known(told.metadata["labels"], told.metadata["words"], gateways, names):
                series.labels(*values)
        for gateway, ports in gateways.items():
            for port in ports:
                self.port_state.labels(gateway, port).set(-1)
                self.port_signal.labels(gateway, port).set(math.nan)
                self.port_balance.labels(gateway, port).set(math.nan)
            for kind in CALLBACK_TYPES:
                self.callbacks_total.labels(gateway, "200", kind)
            for status in CALLBACK_REFUSALS:
                self.callbacks_total.labels(gateway, status, NONE)
        self.callbacks_total.labels(NONE, "404", NONE)


def _known(
    labels: Sequence[str], words: Sequence[str], gateways: Mapping[str, Sequence[int]], routes: Sequence[str]
) -> Iterator[tuple[str | int, ...]]:
    """The label values that are known beforehand; none where one label's values are not."""
    last: Sequence[tuple[str, ...]] = [(word,) for word in words] if words else [()]
    match list(labels[: len(labels) - 1] if words else labels):
        case ["gateway", "port"]:
            first: Iterable[tuple[str | int, ...]] = [(name, port) for name in gateways for port in gateways[name]]
        case ["gateway"]:
            first = [(name,) for name in gateways]
        case ["route"]:
            first = [(route,) for route in (*routes, NONE)]
        case []:
            first = [()] if words else []
        case _:
            first = []
    return ((*head, *tail) for head, tail in product(first, last))
