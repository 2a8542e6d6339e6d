"""The real process dies (SIGKILL) before and after every commit, publish, confirm, receipt and POST; nothing is broken.

Each case is a world of its own with one request of each kind. A first life dies at its point, the next one has to
bring everything to its end. All cases run in one event loop beside the tests, a few at once.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import pytest

from dev.lives import Plan
from dev.trial import Verdict, publish_mix, trial

pytestmark = [pytest.mark.system, pytest.mark.timeout(300), pytest.mark.xdist_group("crash")]
AT_ONCE = 4
DIES_WITHIN_S, ENDS_WITHIN_S = 30.0, 60.0
LAST_STEPS_S = 6.0  # delivery reports and the relay's last step come after the last final event

COMMITS = (
    "Inbound.absorb_inbox.absorb",
    "Inquiry._ask_for_counters.judge",
    "Inquiry._settle_closed.settle",
    "Outbound._begin.begin",
    "Outbound._conclude.conclude",
    "Outbound._end_cancelled_list",
    "Outbound._expire.<lambda>",
    "Outbound._reject.<lambda>",
    "Patrol._mark.<lambda>",
    "Patrol.take_over.take",
    "Relay._claim told",
    "Trial.begin.begin",
    "_Push.absorb DeliveryReport",
    "_Push.absorb DeviceStatus",
    "_Push.absorb SmsReport",
    "_retire",
)
QUIET = {
    "Inbound.match_orphans.match",
    "Inquiry._ask.<lambda>",
    "Inquiry._ask_for_counters.<lambda>",
    "Inquiry._give_up.<lambda>",
    "Inquiry._hold_back.<lambda>",
    "Inquiry._read_inbox.<lambda>",
    "Patrol._prune.<lambda>",
    "Patrol._reap.<lambda>",
    "Relay._claim nothing",
    "Transaction.debts",
    "Transaction.doubts",
    "Transaction.open_sms",
    "Trial.end.end",
}
"""Writes that change nothing in this mix, or come after everything: no death there could show anything."""

PUBLISHES = (
    "another event",
    "child",
    "dead letter",
    "hand-back",
    "sms.delivered",
    "sms.expired",
    "sms.rejected",
    "sms.sent",
    "sms.submitted",
    "tier",
)
REQUESTS = ("bad", "late", "list", "list/n", "plain", "stray", "waits", "weak", "weak again")

POINTS = [
    *(f"commit {name}: {stage}" for name in COMMITS for stage in ("before", "inside", "after")),
    *(f"publish {name}: {stage}" for name in PUBLISHES for stage in ("before", "after")),
    *(f"ack {name}: {stage}" for name in REQUESTS for stage in ("before", "written")),
    *(f"deliver {name}: before" for name in REQUESTS),
    *(f"POST: {stage}" for stage in ("before", "sent", "taken", "answered")),
]
HALF = "publish child: half"
LATER = [
    ("commit Outbound._begin.begin: inside", 2),
    ("commit Outbound._conclude.conclude: before", 2),
    ("commit _Push.absorb SmsReport: inside", 3),
    ("commit _Push.absorb SmsReport: after", 4),
    ("commit Relay._claim told: before", 3),
    ("POST: taken", 2),
    ("POST: answered", 3),
]
SECOND_LIVES = [
    *(("POST: answered", f"commit Patrol.take_over.take: {stage}") for stage in ("before", "inside", "after")),
    *(("POST: answered", f"commit Inquiry._ask_for_counters.judge: {stage}") for stage in ("inside", "after")),
    *(("POST: answered", f"commit Inquiry._settle_closed.settle: {stage}") for stage in ("before", "inside", "after")),
    *(("POST: before", f"publish hand-back: {stage}") for stage in ("before", "after")),
    ("commit Outbound._conclude.conclude: before", "commit _Push.absorb SmsReport: inside"),
    ("ack list/n: before", "ack list/n: before"),
    ("publish hand-back: after", "commit Outbound._begin.begin: after"),
]
"""A life that dies where the one before it has left something to do."""

CASES: list[tuple[Plan, ...]] = [
    *((Plan(point),) for point in (*POINTS, HALF)),
    *((Plan(point, nth),) for point, nth in LATER),
    *(tuple(map(Plan, points)) for points in SECOND_LIVES),
]


@dataclass(frozen=True)
class Suffered:
    """What came of a case: the point that was never passed, if any, and the judge's word."""

    never: str | None
    verdict: Verdict
    log: str


async def suffer(amqp_url: str, plans: Sequence[Plan]) -> Suffered:
    """One world, one life per plan that ends as planned, and one that brings everything to its end."""
    never = None
    async with trial(amqp_url) as play:
        await publish_mix(play)
        for plan in plans:
            life = await play.begin_life(plan)
            async with asyncio.timeout(DIES_WITHIN_S):
                while life.returncode is None and not play.all_final():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            await play.until(lambda: False, LAST_STEPS_S)
            if life.returncode != -signal.SIGKILL:
                never = plan.dies_at
                await play.end_bridge()
            play.note_death()
        await play.begin_life()
        await play.until(play.all_final, ENDS_WITHIN_S)
        return Suffered(never, await play.verdict(), play.log.read_text()[-6000:])


class Background:
    """Runs the chosen cases in an event loop of its own, a few at once, each answered by a future."""

    def __init__(self, amqp_url: str, cases: Sequence[tuple[Plan, ...]]) -> None:
        self.results: dict[tuple[Plan, ...], Future[Suffered]] = {case: Future() for case in cases}
        self._amqp_url = amqp_url
        self._stopping = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()

    async def _run(self) -> None:
        waiting = iter(list(self.results.items()))
        async with asyncio.TaskGroup() as workers:
            for _ in range(AT_ONCE):
                workers.create_task(self._work(waiting))

    async def _work(self, waiting: Iterator[tuple[tuple[Plan, ...], Future[Suffered]]]) -> None:
        for case, future in waiting:
            if self._stopping:
                return
            try:
                future.set_result(await suffer(self._amqp_url, case))
            except Exception as error:  # noqa: BLE001  the test that waits for it raises it
                future.set_exception(error)

    def stop(self) -> None:
        self._stopping = True
        self._thread.join()


@pytest.fixture(scope="module")
def background(request: pytest.FixtureRequest, amqp_url: str) -> Iterator[Background]:
    chosen = [getattr(item, "callspec", None) for item in request.session.items if item.path == request.path]
    running = Background(amqp_url, [spec.params["case"] for spec in chosen if spec and "case" in spec.params])
    yield running
    running.stop()


def _id(case: tuple[Plan, ...]) -> str:
    return " then ".join(f"{plan.dies_at}" + (f" #{plan.nth}" if plan.nth > 1 else "") for plan in case)


@pytest.mark.parametrize("case", CASES, ids=_id)
def test_a_death_there_loses_repeats_and_leaves_nothing(case: tuple[Plan, ...], background: Background) -> None:
    suffered = background.results[case].result()
    assert suffered.never is None, "the point was never passed"
    assert suffered.verdict.holds, f"{suffered.verdict}\n{suffered.log}"
    assert suffered.verdict.unknown == [], suffered.log


async def test_every_step_of_the_walks_is_listed(amqp_url: str, tmp_path: Path) -> None:
    async with trial(amqp_url) as play:
        await publish_mix(play)
        await play.begin_life(Plan(trace=str(tmp_path / "trace")))
        assert await play.until(lambda: play.all_final() and play.was_told("plain", "sms.delivered"))
        assert (await play.verdict()).holds
    passed = set((tmp_path / "trace").read_text().splitlines())
    quiet = {f"commit {name}: {stage}" for name, stage in itertools.product(QUIET, ("before", "inside", "after"))}
    assert passed - quiet == set(POINTS)
