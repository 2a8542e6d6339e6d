"""Lives of the real bridge, forked from one warm parent, that end at a chosen step.

A life is ``app.run`` in a process of its own, as ``ejoin-bridge run`` is. Before it begins, wrappers are put around
the callables that ``app.py`` builds and hands out (the ledger's writes, the session's publishes and receipts, the
gateway's submit): each says where the work stands, and at the planned step the process kills itself or hangs. Nothing
of this is in the production code. Where forking begins, everything is imported: a life costs milliseconds.
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import json
import multiprocessing
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
import uvloop

from bridge import app
from bridge import settings as bridge_settings
from bridge.amqp import consumer
from bridge.amqp.session import Session
from bridge.ejoin.facts import SmsTask, SubmitAnswer
from bridge.errors import LedgerUnavailable
from bridge.flows import trial as poison
from bridge.gateway import Gateway
from bridge.models import H_ATTEMPT, Delivery, Publication
from bridge.rules import outcomes
from bridge.settings import Settings
from bridge.simulator.main import serve
from bridge.simulator.options import SimulatorOptions
from bridge.store.ledger import Ledger, Transaction

T = TypeVar("T")
POLL_S = 0.01
PR_SET_PDEATHSIG = 1
REPORT_CACHE_S = 1.0  # the simulated gateways of a trial report at once; waiting for a lost report is dear
REQUESTS = ("send.", "gateway.", "returned")
STEADY_S = 0.1  # the deaths are ours: a crash loop of a request's own making is another matter

forking = multiprocessing.get_context("forkserver")
forking.set_forkserver_preload(["dev.lives"])


@dataclass(frozen=True, slots=True)
class Plan:
    """What befalls a life: at the ``nth`` passage of ``dies_at`` it kills itself, at the first of the others it stays.

    ``hangs_at`` stops the work that passes there for ever, ``stops_at`` the whole process (SIGSTOP) until it is told
    to go on. Requests of the name ``withheld`` lie at the consumer, unacked. With ``trace`` every point that is passed
    is written down there, one a line. ``grace_s`` is what each step of a stop may take, instead of seconds that a test
    would have to wait for.
    """

    dies_at: str | None = None
    nth: int = 1
    hangs_at: str | None = None
    stops_at: str | None = None
    withheld: str | None = None
    trace: str | None = None
    grace_s: float | None = None


class Life:
    """A forked process, with the face of asyncio's own processes."""

    def __init__(self, work: Callable[..., None], *told: Any) -> None:
        self._process = forking.Process(target=work, args=told, daemon=True)
        self._process.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, minus the signal's number where one killed it; None while it lives."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal; nothing where it has ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        """Wait for its end; the exit code."""
        while self.returncode is None:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
        return self.returncode


def bridge(settings: Mapping[str, Any], log: Path, plan: Plan) -> Life:
    """A life of the bridge; what it says goes to the log."""
    return Life(_live, dict(settings), str(log), plan)


async def simulator(options: Mapping[str, Any], log: Path) -> tuple[Life, dict[str, Any]]:
    """Simulated gateways in a process of their own, and their addresses."""
    hears, tells = forking.Pipe(duplex=False)
    life = Life(_simulate, dict(options), str(log), tells)
    tells.close()
    addresses = {**json.loads(await asyncio.to_thread(hears.recv)), "pid": life.pid}
    hears.close()
    return life, addresses


# --- inside the forked process ----------------------------------------------------------------------------------------


def _live(settings: dict[str, Any], log: str, plan: Plan) -> None:
    _begin(log)
    install(Steps(plan))
    outcomes.REPORT_CACHE_S = REPORT_CACHE_S
    poison.STEADY_S = STEADY_S
    if plan.grace_s is not None:
        for room in (app, bridge_settings):
            vars(room).update((name, plan.grace_s) for name in list(vars(room)) if name.startswith("GRACE_"))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        code = runner.run(app.run(Settings(**settings)))
    os._exit(code)  # the tools of forking are not the bridge's to wind up


def _simulate(options: dict[str, Any], log: str, tells: Any) -> None:
    _begin(log)

    async def until_told() -> None:
        stopping = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
        await serve(SimulatorOptions(**options), lambda addresses: tells.send(json.dumps(addresses)), stopping)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(until_told())
    os._exit(0)


def _begin(log: str) -> None:
    """Die with the parent, and write to the log alone."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(output, standard)
    os.close(output)


class Steps:
    """Counts the passages of every point, and does the planned deed at its moment."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._passed: Counter[str] = Counter()
        self._trace = os.open(plan.trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if plan.trace else None

    def awaits(self, point: str) -> bool:
        """Whether this is where the life is to end."""
        return point == self._plan.dies_at

    def withholds(self, name: str) -> bool:
        """Whether a request of this name is not to reach the flows."""
        return name == self._plan.withheld

    def passed(self, point: str) -> None:
        """Work passes a point where it cannot wait: a hang there stops everything."""
        if self._note(point):
            time.sleep(1e6)

    async def reached(self, point: str) -> None:
        """Work passes a point where it can wait: a hang there stops this work alone."""
        if self._note(point):
            await asyncio.Event().wait()

    def _note(self, point: str) -> bool:
        """Count the passage; die or stop here where that is the plan, else whether to hang."""
        self._passed[point] += 1
        if self._trace is not None:
            os.write(self._trace, f"{point}\n".encode())
        if self.awaits(point) and self._passed[point] == self._plan.nth:
            os.kill(os.getpid(), signal.SIGKILL)
        if point == self._plan.stops_at and self._passed[point] == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        return point == self._plan.hangs_at and self._passed[point] == 1


def install(steps: Steps) -> None:
    """Put the wrappers where ``app.py`` and the consumers will find them."""
    vars(app).update(Ledger=_ledger(steps), Session=_session(steps), Gateway=_gateway(steps))
    vars(consumer)["Settler"] = _settler(steps)


def _ledger(steps: Steps) -> type[Ledger]:
    class Watched(Ledger):
        """Every write is a point: before it, inside its transaction, after its commit.

        SIGUSR1 fills the disk: the file may grow no more, and what room there is in it is used up,
        also what is freed meanwhile. SIGUSR2 empties it.
        """

        def __init__(self, *parts: Any) -> None:
            super().__init__(*parts)
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGUSR1, self._begin, self._fill)
            loop.add_signal_handler(signal.SIGUSR2, self._begin, self._empty)
            self._working: set[asyncio.Task[None]] = set()
            self._full = False
            self._fillers = itertools.count()

        def _begin(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
            working = asyncio.create_task(work())
            self._working.add(working)
            working.add_done_callback(self._working.discard)

        async def _fill(self) -> None:
            await super().write(partial(_execute, "PRAGMA max_page_count = 1"))  # SQLite keeps what there is
            self._full = True
            for size in itertools.cycle((2**16, 2**12, 2**8)):
                with suppress(LedgerUnavailable):
                    while self._full:
                        statement = (
                            f"INSERT INTO meta (name, value) VALUES ('filler {next(self._fillers)}', zeroblob({size}))"  # noqa: S608
                        )
                        await super().write(partial(_execute, statement))
                if not self._full:
                    return
                await asyncio.sleep(POLL_S)

        async def _empty(self) -> None:
            self._full = False
            with suppress(LedgerUnavailable):  # its neighbours in the transaction may still find the disk full
                await super().write(partial(_execute, f"PRAGMA max_page_count = {2**30}"))
            await super().write(partial(_execute, "DELETE FROM meta WHERE name LIKE 'filler%'"))

        async def write(self, work: Callable[[Transaction], T]) -> T:
            name = name_of(work)
            await steps.reached(f"commit {name}: before")

            def inside(tx: Transaction) -> T:
                result = work(tx)
                steps.passed(f"commit {name}: inside")
                return result

            result = await super().write(inside)
            await steps.reached(f"commit {name}: after")
            return result

    return Watched


def _execute(statement: str, tx: Transaction) -> None:
    tx.connection.exec_driver_sql(statement)


def name_of(work: Callable[..., Any]) -> str:
    """A write by the function that it runs: its flow, and what it is about where that says more."""
    plain = work.func if isinstance(work, partial) else work
    name = plain.__qualname__.replace(".<locals>", "")
    owner = getattr(plain, "__self__", None)
    if facts := getattr(owner, "_facts", None):
        return f"{name} {type(facts[0]).__name__}"
    if name == "Relay._claim":
        return f"{name} {'told' if getattr(owner, '_told', None) else 'nothing'}"
    return name


def _session(steps: Steps) -> type[Session]:
    class Watched(Session):
        """Every publish is a point, before it and after its confirm; so is every receipt."""

        async def publish_many(self, publications: Sequence[Publication]) -> list[Exception | None]:
            kinds = sorted({kind_of(each) for each in publications})
            for kind in kinds:
                await steps.reached(f"publish {kind}: before")
                if steps.awaits(f"publish {kind}: half"):
                    await super().publish_many(publications[: (len(publications) + 1) // 2])
                    await steps.reached(f"publish {kind}: half")
            answers = await super().publish_many(publications)
            for kind in kinds:
                await steps.reached(f"publish {kind}: after")
            return answers

        def consume(self, queue: str, prefetch: int, on_delivery: Callable[[Delivery], None]) -> None:
            wish = self._wishes.get(queue)
            if not queue.startswith(REQUESTS):
                super().consume(queue, prefetch, on_delivery)
            elif wish is not None and getattr(wish.on_delivery, "args", None) == (on_delivery,):
                super().consume(queue, prefetch, wish.on_delivery)  # another wrapper would look like another wish
            else:
                super().consume(queue, prefetch, partial(self._watch, on_delivery))

        def _watch(self, on_delivery: Callable[[Delivery], None], delivery: Delivery) -> None:
            name = name_of_request(delivery)
            steps.passed(f"deliver {name}: before")
            if steps.withholds(name):
                return
            ack = partial(_settle, f"ack {name}", delivery.ack)
            give_back = partial(_settle, f"give back {name}", delivery.give_back)
            on_delivery(replace(delivery, ack=ack, give_back=give_back))

    return Watched


def kind_of(publication: Publication) -> str:
    """What is published, as a closed set of words."""
    match publication.exchange:
        case "events":
            kind = ".".join(publication.routing_key.split(".")[:2])
            return kind if kind.startswith("sms.") else "another event"
        case "dead":
            return "dead letter"
        case _ if H_ATTEMPT in publication.headers:
            return "hand-back"
        case "requests":
            return "child"
        case _:
            return "tier"


def name_of_request(delivery: Delivery) -> str:
    """A request by what stands before the first dot of its id; the children of a list are alike."""
    told = str(json.loads(delivery.body)["id"])
    name = re.split(r"[./]", told, maxsplit=1)[0] + ("/n" if "/" in told else "")
    attempt = delivery.headers.get(H_ATTEMPT, 1)
    return name if attempt == 1 else f"{name} again"


_unwritten: dict[tuple[Any, int], str] = {}
"""Receipts that were given and are not on the wire yet, by settler and delivery tag."""


def _settle(name: str, settle: Any) -> None:
    _unwritten[settle.func.__self__.settler, settle.args[0]] = name
    settle()


def _settler(steps: Steps) -> type[consumer.Settler]:
    class Settler(consumer.Settler):
        """A receipt is two points: before it is written to the broker, and written."""

        async def _write(self, settlements: list[consumer.Settlement]) -> None:
            names = [_unwritten.pop((self, tag)) for tag in self._tags(settlements)]
            for name in names:
                await steps.reached(f"{name}: before")
            await super()._write(settlements)
            for name in names:
                await steps.reached(f"{name}: written")

        def _tags(self, settlements: list[consumer.Settlement]) -> list[int]:
            ours = sorted(tag for settler, tag in _unwritten if settler is self)
            up_to = max((each.tag for each in settlements if each.multiple), default=0)
            single = {each.tag for each in settlements}
            return [tag for tag in ours if tag <= up_to or tag in single]

    return Settler


def _gateway(steps: Steps) -> type[Gateway]:
    class Watched(Gateway):
        """A POST is four points: before connecting, sent, its answer coming in, its answer read."""

        async def submit(self, tasks: Sequence[SmsTask], *, ready: Callable[[], bool] = lambda: True) -> SubmitAnswer:
            await steps.reached("POST: before")
            answer = await super().submit(tasks, ready=ready)
            await steps.reached("POST: answered")
            return answer

        async def _exchange(self, request: httpx.Request) -> tuple[int, bytes]:
            if request.method == "POST":
                request.extensions["trace"] = partial(self._trace, request.extensions["trace"])
            return await super()._exchange(request)

        async def _trace(self, watch: Any, event: str, info: Any) -> None:
            await watch(event, info)
            if event == "http11.send_request_body.complete":
                await steps.reached("POST: sent")
            elif event == "http11.receive_response_headers.complete":
                await steps.reached("POST: taken")

    return Watched
