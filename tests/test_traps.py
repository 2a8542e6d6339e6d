"""The page of known traps leads to tests that exist, and what the bridge leaves alone is left alone."""

from __future__ import annotations

import ast
import re

import pytest

from bridge.amqp.publisher import outgoing
from bridge.models import Publication
from bridge.settings import PREFETCH_MAX, Policy
from tests.pages import ROOT, missing, named, tables

PAGE = ROOT / "docs" / "traps.md"
MODULES = sorted((ROOT / "bridge").rglob("*.py"))
DAEMON = [path for path in MODULES if path.name != "cli.py"]
CONSUMER_TIMEOUT_S = 30 * 60
"""How long RabbitMQ waits for a settlement by default before it takes the channel away."""


def rows() -> list[list[str]]:
    return [row for rows in tables(PAGE).values() for row in rows]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:60])
def test_each_trap_of_the_page_is_met_by_tests_that_exist(row):
    trap, does, tests = row
    assert trap and does
    assert named(tests)
    assert missing(tests) == []


@pytest.mark.parametrize(
    "left_alone",
    [
        r"\.process\(",  # aio-pika's context manager rejects without requeue where its handler is cancelled
        r"connect_robust",  # resumes in half states
        r"QueueIterator|\.iterator\(",  # hands out what a lost connection had in its buffer
        r"basic_reject|\.reject\(",  # counts towards a delivery limit where a plain give-back does not
        r"\.redelivered\b",  # proves nothing; the gate of the ledger does
        r"consume\([^)]*exclusive",  # ignored by quorum queues; a queue of our own for answers may be exclusive
        r"global_\s*=",  # refused by quorum queues
        r"single-active-consumer",  # gives order, and no fence
        r"x-max-priority|priority\s*=",  # ignored by quorum queues before 4.x; urgency is a route
        r"x-delayed|delayed-retry",  # not in every version; tiers are
    ],
)
def test_what_does_not_do_what_it_promises_is_not_used(left_alone):
    assert [str(path) for path in DAEMON if re.search(left_alone, path.read_text(encoding="utf-8"))] == []


def test_no_publication_carries_a_priority_or_an_expiration():
    properties = outgoing(Publication("requests", "send.otp", b"{}"), "sms.requests", "send.otp").properties
    assert (properties.priority, properties.expiration, properties.delivery_mode) == (None, None, 2)


def test_nothing_is_held_as_long_as_the_broker_waits_for_a_settlement():
    with pytest.raises(ValueError, match="less than or equal to 900"):
        Policy(hold_s=901)
    assert Policy().hold_s <= 900 < CONSUMER_TIMEOUT_S


def test_no_prefetch_is_larger_than_a_quorum_queue_takes():
    assert PREFETCH_MAX <= 2_000


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_reads_the_environment_when_it_is_imported(module):
    def at_import(node: ast.AST):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            for child in ast.iter_child_nodes(node):
                yield from at_import(child)

    nodes = list(at_import(ast.parse(module.read_text(encoding="utf-8"))))
    words = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    words |= {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not words & {"environ", "getenv", "Settings"}
