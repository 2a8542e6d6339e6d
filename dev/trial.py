"""A trial of the bridge: requests of every kind, lives that end where they should not, and a judge.

The simulator's record says what went on air, the events say what was told, the ledger and the broker what is left. A
trial holds where each request has exactly one final event (told again only under the same id), nothing was handed over
again before the first hand-over had provably failed, and nothing is left over. Broker and simulator are real.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import sqlite3
import tempfile
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from bridge.amqp.session import declare
from bridge.amqp.topology import Topology
from bridge.models import TIERS_S
from bridge.settings import AmqpSettings
from dev import lives
from dev.broker import free_ports
from dev.chaos.judge import proves_failure
from dev.lives import Life, Plan
from dev.stage import FINAL, Stage

PORTS = 6
RADIO_S = 0.5  # long enough that a bridge that has died is back before the gateway reports
TIER_MS = 400
"""What waits in a tier comes back after this; the bridge takes it for the five seconds that the tier's name says."""

OPEN = ("submitting", "in_doubt", "submitted")


class Trial(Stage):
    """A stage on which lives of the bridge are forked; it keeps every event that was told."""

    def __init__(self, folder: Path, amqp_url: str, config: Mapping[str, Any], simulator: Mapping[str, Any]) -> None:
        super().__init__(folder, amqp_url, config, simulator)
        self.expected: set[str] = set()
        self.told: list[dict[str, Any]] = []
        self.open_at_death: set[str] = set()

    async def begin_life(self, plan: Plan | None = None) -> Life:
        """Fork a life of the bridge; it is not waited for."""
        life = lives.bridge(self.config, self.log, plan or Plan())
        self.process = cast("asyncio.subprocess.Process", life)
        return life

    async def end_life(self, number: int = signal.SIGKILL) -> int:
        """Send a signal, wait for the end, and keep what was open then; the exit code."""
        code = await self.end_bridge(number)
        self.note_death()
        return code

    def note_death(self) -> None:
        """Keep which SMS a device may have held when the life ended."""
        self.open_at_death |= {str(row["id"]) for row in self.rows() if row["state"] in OPEN}

    async def ask(self, key: str, body: Mapping[str, Any], **properties: Any) -> None:
        """Publish one request, and expect a final event for each SMS of it."""
        to = body["to"]
        one = [body["id"]] if isinstance(to, str) else [f"{body['id']}/{n}" for n in range(len(to))]
        self.expected |= set(one)
        await self.publish(key, body, **properties)

    def said(self, word: str) -> bool:
        """Whether a life has written this into its log."""
        return self.log.exists() and word in self.log.read_text()

    # --- what came of it --------------------------------------------------------------------------------------------

    def finals(self) -> dict[str, list[dict[str, Any]]]:
        """The final events of each SMS, one per event id; what corrects another counts with it."""
        found: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        for event in self.told:
            if event["type"].removesuffix(".v1") in FINAL and "corrects" not in event["data"]:
                found[event["subject"]].setdefault(event["id"], event)
        return {subject: list(events.values()) for subject, events in found.items()}

    def outcome(self, sms_id: str) -> str:
        """How an SMS ended, by its newest final event."""
        kinds = [e["type"] for e in self.told if e.get("subject") == sms_id]
        return str(next((k for k in map(_plain, reversed(kinds)) if k in FINAL), "nothing"))

    def was_told(self, sms_id: str, kind: str) -> bool:
        """Whether an event of this type was told of an SMS."""
        return any(_plain(event["type"]) == kind and event.get("subject") == sms_id for event in self.told)

    async def until(self, true: Callable[[], bool], patience_s: float = 30.0) -> bool:
        """Wait until something holds; whether it did in time, and in the bridge's lifetime."""
        give_up_at = time.monotonic() + patience_s
        while not true():
            ended = self.process is not None and self.process.returncode is not None
            if ended or time.monotonic() > give_up_at:
                return False
            await asyncio.sleep(lives.POLL_S)
        return True

    def all_final(self) -> bool:
        """Whether every request has an end."""
        return self.expected <= self.finals().keys()

    def query(self, statement: str) -> list[sqlite3.Row]:
        """Ask the ledger's file; nothing where there is none yet."""
        path = Path(self.config["store"]["path"])
        if not path.exists():
            return []
        with contextlib.closing(sqlite3.connect(path, timeout=10)) as connection:
            connection.row_factory = sqlite3.Row
            return connection.execute(statement).fetchall()

    def rows(self) -> list[sqlite3.Row]:
        """The ledger's rows; none where a life died before it had made its tables."""
        try:
            return self.query("SELECT * FROM sms")
        except sqlite3.OperationalError:
            return []

    async def left_over(self) -> dict[str, int]:
        """The messages that still lie in the bridge's queues, by queue; dead letters are no left-overs."""
        channel = await self.channel()
        counts = {}
        for queue in topology_of(self.config).queues:
            told = await channel.declare_queue(queue.name, passive=True)
            counts[queue.name.removeprefix(f"{self.prefix}.")] = told.declaration_result.message_count or 0
        return {name: count for name, count in counts.items() if count and name != "dead"}

    async def dead_letters(self) -> dict[str, str]:
        """The requests that lie in ``sms.dead``, by the id of the event that tells of each."""
        queue = await (await self.channel()).get_queue(f"{self.prefix}.dead", ensure=False)
        letters = []
        while (letter := await queue.get(fail=False)) is not None:
            letters.append(letter)
        for letter in letters:
            await letter.nack(requeue=True)
        return {str(letter.message_id): str(json.loads(letter.body)["id"]) for letter in letters}

    async def left_at_last(self, expected: Mapping[str, int], patience_s: float = 10.0) -> dict[str, int]:
        """What lies in the bridge's queues as soon as it is what is expected, else after a while."""
        give_up_at = time.monotonic() + patience_s
        while (left := await self.left_over()) != expected and time.monotonic() < give_up_at:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        return left

    async def verdict(self) -> Verdict:
        """Judge what happened, once every request has had its time to end; the bridge is stopped for it."""
        if self.process is not None and self.process.returncode is None:
            await self.ready()
        left = await self.left_at_last({})
        code = await self.end_bridge()
        while not code and self.query(
            "SELECT n FROM outbox"
        ):  # what came while it stopped is told after the next start
            await self.begin_life()
            await self.ready()
            await self.until(lambda: not self.query("SELECT n FROM outbox"), 10.0)
            code = await self.end_bridge()
        evidence = Evidence(
            frozenset(self.expected),
            self.told,
            await self.record(),
            [dict(row) for row in self.rows()],
            frozenset(self.open_at_death),
            await self.dead_letters(),
        )
        found = judge(evidence)
        if code:
            found.wrong.append(f"the last life ended with {code}: {self.last_words()}")
        if left:
            found.wrong.append(f"left in the broker: {left}")
        if outbox := self.query("SELECT routing_key FROM outbox"):
            found.wrong.append(f"left in the outbox: {[row[0] for row in outbox]}")
        return found


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known after a trial: what was asked, told and recorded, the ledger, and what was open at a death.

    ``dead`` are the requests that lie in ``sms.dead``, by the id of the event that tells of each.
    """

    expected: frozenset[str]
    told: Sequence[Mapping[str, Any]]
    record: Sequence[Mapping[str, Any]]
    rows: Sequence[Mapping[str, Any]]
    open_at_death: frozenset[str]
    dead: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Verdict:
    """What does not hold, by kind; each text names the SMS."""

    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether every promise was kept; an `unknown` breaks none."""
        return not (self.lost or self.duplicated or self.unexpected or self.wrong)


def judge(evidence: Evidence) -> Verdict:
    """Hold what happened against the promises (design 2)."""
    found = Verdict()
    finals: dict[str, dict[str, str]] = defaultdict(dict)
    for event in evidence.told:
        kind, subject = _plain(event["type"]), event.get("subject")
        if not kind.startswith("sms.") or kind in {"sms.received", "sms.report_unmatched", "sms.observed"}:
            continue
        if event["id"] in evidence.dead and subject not in evidence.expected:
            continue  # refused unread, and so told under the id that its message had
        if subject not in evidence.expected:
            found.unexpected.append(f"{subject}: {kind}")
        elif kind in FINAL and "corrects" not in event["data"]:
            finals[subject][event["id"]] = kind
    without = {s for s in evidence.expected - finals.keys() if s.split("/")[0] not in evidence.dead.values()}
    found.lost += [f"{subject}: no final event" for subject in sorted(without)]
    found.unexpected += [
        f"{subject}: {len(ids)} final events: {sorted(ids)}" for subject, ids in finals.items() if len(ids) > 1
    ]
    found.unknown += sorted(subject for subject, ids in finals.items() if "sms.unknown" in ids.values())
    not_open = set(found.unknown) - evidence.open_at_death
    found.wrong += [f"{subject}: unknown, though no device could have had it" for subject in sorted(not_open)]
    found.duplicated += [*_twice_on_air(evidence.record), *_handed_over_too_early(evidence.record)]
    found.wrong += _ledger_disagrees(evidence.rows, evidence.told)
    return found


def _twice_on_air(record: Iterable[Mapping[str, Any]]) -> list[str]:
    times = Counter(row["to"] for row in record if row["kind"] == "on_air")
    return [f"{to}: {count} times on air" for to, count in times.items() if count > 1]


def _handed_over_too_early(record: Iterable[Mapping[str, Any]]) -> list[str]:
    """Hand-overs while one before them was not yet told as failed by a cause that proves it."""
    wrong = []
    open_by: dict[str, set[int]] = defaultdict(set)
    for row in record:
        if row["kind"] == "handed_over":
            if open_by[row["to"]]:
                wrong.append(f"{row['to']}: handed over again while {sorted(open_by[row['to']])} was open")
            open_by[row["to"]].add(row["tid"])
        elif row["kind"] == "reported" and proves_failure(row):
            open_by[row["to"]].discard(row["tid"])
    return wrong


def _ledger_disagrees(rows: Iterable[Mapping[str, Any]], told: Iterable[Mapping[str, Any]]) -> list[str]:
    """Rows that are not final, or whose last event was never told."""
    ids = {event["id"] for event in told}
    wrong = [f"{row['id']}: still {row['state']}" for row in rows if f"sms.{row['state']}" not in FINAL]
    return wrong + [f"{row['id']}: {row['event_id']} was not told" for row in rows if row["event_id"] not in ids]


def _plain(kind: str) -> str:
    return kind.removesuffix(".v1")


# --- setting it up ----------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def trial(
    amqp_url: str,
    *,
    radio_s: float = RADIO_S,
    config: Callable[[dict[str, Any]], None] = lambda _: None,
) -> AsyncIterator[Trial]:
    """One gateway of six ports, two routes, a ledger and queues of its own; no bridge lives yet."""
    with tempfile.TemporaryDirectory(prefix="ejoin-trial-", ignore_cleanup_errors=True) as folder:
        options = {
            "gateways": 1, "ports": PORTS, "listen": "127.0.0.1:0", "control": "127.0.0.1:0", "radio_s": radio_s,
            "register_s": 0.2, "delivery_s": 0.05,
        }  # fmt: skip
        machine, told = await lives.simulator(options, Path(folder, "simulator.log"))
        settings = _settings(amqp_url, told, folder)
        config(settings)
        play = Trial(Path(folder), amqp_url, settings, told)
        try:
            await declare(AmqpSettings(**settings["amqp"]), _hasty(topology_of(settings)))
            await play.watch(play.told.append, "#")
            yield play
        finally:
            if play.process is not None and play.process.returncode is None:
                play.process.kill()
            machine.kill()
            await _sweep(play)
            await play.close()


def _settings(url: str, simulator: Mapping[str, Any], folder: str) -> dict[str, Any]:
    (web,) = free_ports(1)
    (gateway,) = simulator["gateways"]
    return {
        "amqp": {"url": url, "prefix": f"trial-{uuid.uuid4().hex[:8]}", "declare": False},
        "web": {"listen": f"127.0.0.1:{web}", "public_url": f"http://127.0.0.1:{web}"},
        "logs": {"format": "json"},
        "store": {"path": f"{folder}/ledger.db"},
        "limits": {"segments_per_min": None},
        "policy": {"timeout_s": 5},
        "timing": {"doubt_s": 15, "report_margin_s": 0.5, "connect_timeout_s": 1, "post_timeout_s": 2},
        "gateways": [
            {
                "name": gateway["name"], "url": gateway["url"], "username": "root", "password": "root",
                "callback_tokens": ["trial-token"], "ports": f"1-{PORTS}", "posts_per_s": None, "report_count": 1,
                "report_period_s": 1, "task_report_period_s": 1,
            }
        ],
        "routes": [{"name": "default", "ports": ["gw1:1-4"]}, {"name": "weak", "ports": ["gw1:5-6"]}],
    }  # fmt: skip


def topology_of(settings: Mapping[str, Any]) -> Topology:
    """The queues of a trial."""
    routes = [each["name"] for each in settings["routes"]]
    gateways = [each["name"] for each in settings["gateways"]]
    return Topology(settings["amqp"]["prefix"], routes, gateways)


class _Hasty(Topology):
    """The same queues, with tiers that are over at once."""

    @property
    def queues(self) -> tuple[Any, ...]:
        found = super().queues
        tiers = {self.name(f"later.{seconds}") for seconds in TIERS_S}
        hasty = {"x-message-ttl": TIER_MS}
        return tuple(q._replace(arguments={**q.arguments, **hasty}) if q.name in tiers else q for q in found)


def _hasty(plain: Topology) -> Topology:
    return _Hasty(plain.prefix, plain.routes, plain.gateways)


async def _sweep(play: Trial) -> None:
    """Queues and exchanges of a trial are gone after it: a node that holds thousands of them is slow."""
    channel = await play.channel()
    topology = topology_of(play.config)
    for queue in topology.queues:
        await channel.queue_delete(queue.name)
    for exchange in topology.exchanges:
        await channel.exchange_delete(exchange.name)


# --- the mix ----------------------------------------------------------------------------------------------------------


async def publish_some(play: Trial, first: int, chance: random.Random) -> None:
    """A few requests of random kinds; ``first`` is the number that the first of them has, and no other before it."""
    for n in range(first, first + chance.randint(1, 8)):
        body: dict[str, Any] = {"id": f"r{n}", "to": f"+49151{n:07d}0", "text": "Your code is 123456."}
        if (kind := chance.randrange(8)) == 0:
            body["to"] = [f"+49151{n:07d}{m}" for m in range(chance.randint(2, 5))]
        else:
            odd: dict[int, dict[str, Any]] = {
                1: {"delivery_report": True},
                2: {"not_before": _written(time.time() + 1)},
                3: {"prio": 1},
            }
            body |= odd.get(kind, {})
        route = chance.choice(["default", "default", "weak"])
        if route == "weak":
            await play.do("fail_port", gateway="gw1", port=chance.choice([5, 6]), code=5)
        await play.ask(f"send.{route}", body)


async def publish_mix(play: Trial) -> None:
    """One request of each kind: a list, a delivery report, a hand-back, one that waits, and what is refused."""
    await play.do("fail_port", gateway="gw1", port=5, code=5)
    now = time.time()
    number = "+49151000000{:02d}".format
    text = {"text": "Your code is 123456."}
    await play.ask(
        "send.default", {"id": "list", "to": [number(1), number(2), number(3)], "delivery_report": True, **text}
    )
    await play.ask("send.default", {"id": "plain", "to": number(4), "delivery_report": True, **text})
    await play.ask("send.weak", {"id": "weak.a", "to": number(5), **text})
    await play.ask("send.weak", {"id": "weak.b", "to": number(6), **text})
    await play.ask("send.default", {"id": "waits", "to": number(7), "not_before": _written(now + 3.0), **text})
    await play.ask("send.default", {"id": "late", "to": number(8), "validity_s": 1, **text}, timestamp=now - 60)
    await play.ask("send.default", {"id": "bad", "to": number(9), "prio": 1, **text})
    await play.ask("send.nowhere", {"id": "stray", "to": number(10), **text})


def _written(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment + 0.999))
