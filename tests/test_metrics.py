"""The metrics: page and code agree, every series exists from the start, names end as they should."""

from __future__ import annotations

import math
import re
from dataclasses import fields
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from bridge.metrics import PREFIX, Metrics

PAGE = Path(__file__).parent.parent / "docs" / "metrics.md"
GATEWAYS = {"gw1": [1, 2], "gw2": [7]}
ROUTES = ["default", "otp"]
TOLD = fields(Metrics)[1:]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


def series(metrics: Metrics) -> dict[tuple[str, frozenset], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name.startswith(PREFIX)
    }


def rows(heading: str) -> list[list[str]]:
    """The cells of the page's table under that first line."""
    table = PAGE.read_text(encoding="utf-8").partition(heading + "\n")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[1:]]


def test_the_page_lists_every_metric_with_its_type_labels_and_meaning():
    page = rows("| metric | type | labels | meaning |")
    code = [
        [
            f"`{PREFIX}{told.name}`",
            told.metadata["kind"].__name__.lower(),
            ", ".join(told.metadata["labels"]) or "-",
            told.metadata["meaning"],
        ]
        for told in TOLD
    ]
    assert page == code


def test_the_page_lists_the_words_of_every_label_that_has_some():
    page = {row[0].strip("`"): (row[1], re.findall(r"`(.+?)`", row[2])) for row in rows("| metric | label | words |")}
    for told in TOLD:
        if told.metadata["words"]:
            label, words = page.pop(PREFIX + told.name)
            assert label == told.metadata["labels"][-1]
            assert words == ([] if label == "type" else list(told.metadata["words"]))
    assert not page


def test_every_metric_of_the_registry_is_on_the_page(metrics):
    page = PAGE.read_text(encoding="utf-8")
    names = {family.name + ("_total" if family.type == "counter" else "") for family in metrics.registry.collect()}
    ours = {name for name in names if name.startswith(PREFIX)}
    assert len(ours) == len(TOLD)
    assert not [name for name in ours if f"`{name}`" not in page]


@pytest.mark.parametrize("told", TOLD, ids=lambda told: told.name)
def test_a_name_ends_as_prometheus_wants_it(told):
    kind, name = told.metadata["kind"], told.name
    assert name.endswith("_total") == (kind is Counter)
    if kind is Histogram:
        assert name.endswith("_seconds") or name == "tasks_per_post"
        assert "port" not in told.metadata["labels"]
    if kind is Gauge:
        assert "_ms" not in name
    assert set(told.metadata["labels"]) <= {"gateway", "port", "route", "reason", "outcome", "type", "status", "queue"}


def test_every_series_that_is_known_exists_from_the_start(metrics):
    metrics.start_at_zero(GATEWAYS, ROUTES)
    there = series(metrics)
    for told in TOLD:
        if told.name == "orphaned_messages":  # which queues these will be is not known
            continue
        name = PREFIX + told.name + ("_count" if told.metadata["kind"] is Histogram else "")
        assert [value for (found, _), value in there.items() if found == name], name


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("sent_total", {"gateway": "gw1", "port": "2"}, 0),
        ("failed_total", {"gateway": "gw2", "port": "7", "reason": "not_sure"}, 0),
        ("requests_total", {"route": "otp", "outcome": "repeat"}, 0),
        ("requests_total", {"route": "-", "outcome": "accepted"}, 0),
        ("posts_total", {"gateway": "gw2", "outcome": "silent"}, 0),
        ("events_total", {"type": "sms.unknown"}, 0),
        ("callbacks_total", {"gateway": "gw1", "status": "200", "type": "dev-status"}, 0),
        ("callbacks_total", {"gateway": "gw1", "status": "403", "type": "-"}, 0),
        ("callbacks_total", {"gateway": "-", "status": "404", "type": "-"}, 0),
        ("port_state", {"gateway": "gw1", "port": "1"}, -1),
        ("gateway_up", {"gateway": "gw2"}, 0),
        ("broker_connected", {}, 0),
        ("request_to_submit_seconds_count", {"route": "default"}, 0),
    ],
)
def test_it_starts_at(metrics, name, labels, value):
    metrics.start_at_zero(GATEWAYS, ROUTES)
    assert series(metrics)[PREFIX + name, frozenset(labels.items())] == value


def test_what_a_port_has_not_told_is_not_zero(metrics):
    metrics.start_at_zero(GATEWAYS, ROUTES)
    there = series(metrics)
    port = frozenset({"gateway": "gw1", "port": "1"}.items())
    assert math.isnan(there["ejoin_port_signal", port])
    assert math.isnan(there["ejoin_port_balance", port])


def test_a_port_makes_as_many_series_as_the_design_allows(metrics):
    metrics.start_at_zero({}, [])
    before = len(series(metrics))
    metrics.start_at_zero({"gw1": [1]}, [])
    with_one = len(series(metrics))
    metrics.start_at_zero({"gw1": [1, 2]}, [])
    assert len(series(metrics)) - with_one == 6 + 4 + 4 < with_one - before


def test_counting_twice_counts_in_one_place(metrics):
    metrics.sent_total.labels("gw1", 3).inc()
    metrics.sent_total.labels("gw1", "3").inc(2)
    metrics.outbox_pending.set(5)
    assert series(metrics)["ejoin_sent_total", frozenset({"gateway": "gw1", "port": "3"}.items())] == 3
    assert series(metrics)["ejoin_outbox_pending", frozenset()] == 5


def test_two_bridges_in_one_process_do_not_disturb_each_other(metrics):
    other = Metrics(CollectorRegistry())
    other.sessions_total.inc()
    assert series(metrics)["ejoin_sessions_total", frozenset()] == 0


def test_the_text_holds_the_process_and_no_creation_times(metrics):
    metrics.start_at_zero(GATEWAYS, ROUTES)
    text = generate_latest(metrics.registry).decode()
    assert "process_resident_memory_bytes" in text
    assert "_created" not in text
