"""One simulated box: its cards and ports, the tasks it has taken, and everything it would tell about them.

Time comes from the clock alone and what is to be pushed is handed to ``post``, so a test can turn the clock by hand.
A port sends one SMS after the other. Each send has a fate that is fixed when the radio begins: what goes on air stands
in the record, and what the device then says of it may be something else (``Fate``). No HTTP here.
"""

from __future__ import annotations

import functools
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from bridge.ejoin import facts
from bridge.ejoin.ports import Port, parse_range
from bridge.simulator import encode, orders, segments
from bridge.simulator.callbacks import Callback
from bridge.simulator.clock import Cache, Clock, Timer
from bridge.simulator.inbox import Inbox
from bridge.simulator.options import SimulatorOptions
from bridge.simulator.parts import (
    BANNED,
    BANNED_AFTER,
    CAPPED,
    DETECTED,
    GONE,
    IDLE,
    LIE,
    LOCKED,
    NO_SIM,
    OPERATOR,
    OPERATOR_TEXTS,
    REFUSED,
    REGISTERED,
    REGISTERING,
    SENT,
    SMSC,
    SRC_HTTP,
    SRC_WEB,
    TEXTS,
    VERSION,
    Fate,
    LostAnswer,
    OnRadio,
    Result,
    Send,
    SimPort,
    Task,
    make_mac,
    make_port,
)
from bridge.simulator.record import Record, Row


class Box:
    """One gateway. ``post`` takes every callback; ``lost_answers`` says what happens to the next submits."""

    def __init__(
        self,
        name: str,
        options: SimulatorOptions,
        *,
        clock: Clock,
        record: Record,
        chance: random.Random,
        post: Callable[[Callback], None],
        forget_posts: Callable[[], None] = lambda: None,
        ip: str = "127.0.0.1",
    ) -> None:
        self.name = name
        self.ports = {n: make_port(options.seed, name, n, options.slots) for n in range(1, options.ports + 1)}
        self.lost_answers: deque[LostAnswer] = deque()
        self.inbox = Inbox(_ssrc(chance))
        self._options = options
        self.dialect = options.dialect
        self._clock = clock
        self._record = record
        self._chance = chance
        self._post = post
        self._forget_posts = forget_posts
        self._ip = ip
        self._mac = make_mac(options.seed, name)
        self._boot = 1
        self._seq = self._sent_seq = 0
        self._live: dict[int, Task] = {}
        self._finished: set[int] = set()
        self._report_url = self.sms_url = self._status_url = ""
        self._period_s: float | None = None
        self._period_timer: Timer | None = None
        self._reports: Cache[Result] = Cache(
            clock, self._push_reports, count=orders.SYSTEM_REPORT_COUNT, period_s=orders.SYSTEM_REPORT_PERIOD_S
        )
        self._arrivals: Cache[tuple[facts.ReceivedSms | facts.DeliveryReport, int | None]] = Cache(
            clock, self._push_sms, count=orders.SMS_COUNT, period_s=orders.SMS_PERIOD_S
        )

    def __repr__(self) -> str:
        able = sum(port.st == REGISTERED for port in self.ports.values())
        return f"<Box {self.name} {able}/{len(self.ports)} ports registered, {len(self._live)} tasks live>"

    # --- what a client asks -----------------------------------------------------------------------------------------

    def submit(self, body: Mapping[str, Any]) -> facts.SubmitAnswer:
        """Take the tasks of a send-sms body, each on its own (document 1.3.1); remembers its report addresses."""
        tasks = body.get("tasks")
        if not isinstance(tasks, list) or body.get("type", "send-sms") != "send-sms":
            return facts.SubmitAnswer(15, TEXTS[15], ())
        self._remember(body)
        now = self._clock.now()
        return facts.SubmitAnswer(200, TEXTS[0], tuple(self._take(orders.read_order(raw), now) for raw in tasks))

    def send_now(self, order: orders.Order, done: Callable[[Fate], None]) -> tuple[int, int]:
        """Send by the old interface (document 1.2): the code that refuses it (0: none), and how many sends it makes.

        ``done`` gets the fate of each of them.
        """
        if order.text is None or not order.recipients:
            return (8 if order.text is None else 9), 0
        code, places = self._place(order)
        parts = segments.count(order.text, order.coding)
        task = Task(order, 0, order.text, parts, self._boot, unsent=len(places), done=done)
        self._hand_to_ports(task, places, self._clock.now())
        return code, len(places)

    def list_waiting(
        self, port: int, *, pos: int, num: int, has_content: bool
    ) -> tuple[int, list[dict[str, Any]]] | None:
        """How many tasks wait on a port, and ``num`` of them from ``pos`` on in order; None: there is no such port."""
        if port not in self.ports:
            return None
        tasks = list(dict.fromkeys(send.task for send in self.ports[port].waiting if send.task.told))
        rows = []
        for task in tasks[max(pos, 0) : max(pos, 0) + max(num, 0)]:
            order = task.order
            fact = facts.ListedTask(task.tid, ",".join(order.recipients), suspended=task.suspended)
            sms = order.raw_sms if has_content else None
            rows.append(encode.listed(fact, ports=order.ports, charset=order.charset, coding=order.coding, sms=sms))
        return len(tasks), rows

    def subscribe(self, url: str | None, period_s: float | None) -> None:
        """Remember where status goes; a period of 0 ends the pushes, None leaves it (60 s for a new URL)."""
        if url:
            self._status_url = url
            period_s = orders.STATUS_PERIOD_S if period_s is None else period_s
        if period_s is None or not self._status_url:
            return
        self._period_s = max(period_s, self._options.min_period_s) if period_s > 0 else None
        self._start_period()

    def status(self, only: frozenset[int] | None = None, *, all_sims: bool = False) -> facts.DeviceStatus:
        """The snapshot of the whole box, or of some ports; every one made has the next sequence number.

        With ``all_sims`` also of the cards that are not in use.
        """
        self._seq += 1
        ports = [port for n, port in self.ports.items() if only is None or n in only]
        rows = [self._port_status(port) for port in ports]
        if all_sims:
            rows += [_idle(port, slot) for port in ports for slot in _other_slots(port)]
        slots = self._options.slots
        return facts.DeviceStatus(
            self._seq, self._period_s, self._mac, self._ip, VERSION, len(self.ports), slots, tuple(rows)
        )

    def statistics(self, only: frozenset[int] | None = None) -> tuple[facts.SimStatistics, ...]:
        """What the box has counted since its start for the card in each port, or in some; none for an empty port."""
        ports = [port for n, port in self.ports.items() if only is None or n in only]
        return tuple(_statistics(port) for port in ports if port.st != NO_SIM)

    # --- commands (document 4.5) ------------------------------------------------------------------------------------

    def order(self, op: str, named: Iterable[Port]) -> int:
        """Lock, unlock, switch or reset ports; the code that answers it. What it comes to is pushed as port-status."""
        asked = [(self.ports.get(port.number), port.slot) for port in named]
        if op not in {"lock", "unlock", "switch", "reset"}:
            return 15
        if not asked or any(port is None or slot > len(port.cards) for port, slot in asked):
            return 2
        for port, slot in asked:
            assert port is not None
            if op == "lock":
                self._interrupt(port, LOCKED)
            elif op == "switch" and slot not in {0, port.slot}:
                self._interrupt(port, DETECTED)
                port.slot = slot
                self._register(port)
            elif op == "reset" or (op == "unlock" and port.st == LOCKED):
                self._interrupt(port, DETECTED)
                self._register(port)
        return 0

    def change_task(self, what: str, tid: int) -> facts.TaskAck:
        """Pause, resume or remove one that the radio has not begun (device API 2.3); 11 where there is none."""
        task = self._live.get(tid)
        if task is None or not task.unsent:
            return facts.TaskAck(tid, 11, TEXTS[11])
        task.suspended = what == "pause"
        for port in self.ports.values():
            if what == "remove":
                gone = [send for send in port.waiting if send.task is task]
                for send in gone:
                    port.waiting.remove(send)
                task.unsent -= len(gone)
            self._begin(port)
        if what == "remove":
            self._finish(task)
        return facts.TaskAck(tid, 0, TEXTS[0])

    def live_tids(self) -> list[int]:
        """Which a change that names none is about."""
        return list(self._live)

    def call_ussd(self, port: SimPort, code: str, timeout_s: float, done: Callable[[int, str], None]) -> None:
        """Call a code (device API 2.11); ``done`` gets the code and the network's answer, once it is there."""
        if port.calling or port.st != REGISTERED:
            done(4 if port.calling else 5, "")
            return
        port.calling = True
        takes_s = self._options.radio_s

        def end() -> None:
            port.calling = False
            late = takes_s > timeout_s
            done(6 if late else 0, "" if late else f"{code}: {port.card.number} has {port.card.balance:.2f} EUR")

        self._clock.later(min(takes_s, timeout_s), end)

    def call_statistics(self, only: frozenset[int] | None = None) -> tuple[facts.CallStatistics, ...]:
        """Nobody ever calls."""
        ports = [port for n, port in self.ports.items() if only is None or n in only]
        return tuple(facts.CallStatistics(port.place, 0, 0, 0, 0, (0, None), 0, 0, 0, 0, 0) for port in ports)

    def state(self) -> dict[str, Any]:
        """What a person may want to see: each port with its card, what it holds and its counters.

        Beside the counters of what really happened stand the ``statistics`` that the device tells.
        """
        ports = [
            {
                "port": port.number,
                "st": port.st,
                "iccid": port.card.iccid,
                "number": port.card.number,
                "waiting": len(port.waiting),
                "sending": int(port.radio is not None),
                **{name: port.counters[name] for name in ("handed_over", "on_air", "sent", "failed", "received")},
                "statistics": {name: n for name, n in asdict(_statistics(port)).items() if name != "port"},
            }
            for port in self.ports.values()
        ]
        told = {"name": self.name, "boot": self._boot, "ssrc": self.inbox.ssrc, "inbox": len(self.inbox)}
        return {**told, "live_tasks": len(self._live), "ports": ports}

    # --- what the world does to it ----------------------------------------------------------------------------------

    def receive_sms(self, port: SimPort, sender: str, text: str) -> None:
        """An SMS for the card of this port; the network keeps it until the card is registered."""
        self._when_registered(port, lambda: self._receive(port, sender, text))

    def send_foreign(self, port: SimPort, to: str, text: str) -> None:
        """Somebody else sends from this port, by the box's web page: nobody is told but by ``sent-sms``."""
        order = orders.read_order({"sms": text, "to": to})
        parts = segments.count(text, order.coding)
        port.waiting.append(Send(Task(order, 0, text, parts, self._boot, unsent=1, foreign=True), 0, to))
        self._begin(port)

    def remove_sim(self, port: SimPort) -> None:
        """Take the card out: what the port had to send fails with code 5 and does not go on air."""
        if port.st == NO_SIM:
            return
        self._interrupt(port, NO_SIM)
        while port.waiting:
            send = port.waiting.popleft()
            self._on_radio(send)
            self._settle(port, send, GONE, 0.0)

    def _interrupt(self, port: SimPort, st: int) -> None:
        """It leaves the network: what is on its radio fails with code 5."""
        for timer in port.registering:
            timer.cancel()
        self._set_state(port, st)
        if port.radio is not None:
            port.radio.timer.cancel()
            self._settle(port, port.radio.send, GONE, 0.0)
            port.radio = None

    def insert_sim(self, port: SimPort) -> None:
        """Put the card back: detected (11), registering (2), registered (3)."""
        if port.st == NO_SIM:
            self._register(port)

    def reboot(self) -> None:
        """Start anew: waiting tasks and unreported results are lost, sequences begin at 1, every card registers anew.

        What the radio had in hand still goes on air, with nobody left to tell. Statistics begin at 0, the inbox is
        numbered anew. URLs and period are kept, as on flash.
        """
        self._boot += 1
        self.inbox.restart(_ssrc(self._chance))
        self._seq = self._sent_seq = 0
        self._live.clear()
        self._finished.clear()
        self._reports.forget()
        self._arrivals.forget()
        self._forget_posts()
        for port in self.ports.values():
            self._restart(port)
        if self._period_s is not None:
            self._push_status()

    # --- taking tasks -----------------------------------------------------------------------------------------------

    def _remember(self, body: Mapping[str, Any]) -> None:
        """The envelope's settings hold until the next submit that names them."""
        self._report_url = str(body.get("sr_url") or self._report_url)
        self.sms_url = str(body.get("sms_url") or self.sms_url)
        for name, cache, default in (
            ("sr_cnt", self._reports, orders.SYSTEM_REPORT_COUNT),
            ("sms_cnt", self._arrivals, orders.SMS_COUNT),
        ):
            if name in body:
                count = int(orders.number(body[name], default))
                cache.count = count if count >= 1 else default
        if "sr_prd" in body:
            self._reports.period_s = orders.seconds(body["sr_prd"], 0) or orders.SYSTEM_REPORT_PERIOD_S
        if "sms_prd" in body:
            self._arrivals.period_s = orders.seconds(body["sms_prd"], 0) or orders.SMS_PERIOD_S

    def _take(self, order: orders.Order, now: float) -> facts.TaskAck:
        code, places = self._judge(order)
        if code == 0:
            self._accept(order, places, now)
        return facts.TaskAck(order.tid or 0, code, TEXTS[code])

    def _judge(self, order: orders.Order) -> tuple[int, list[tuple[SimPort, str]]]:
        """The code that answers a task, and who would send to whom."""
        if order.tid is None:
            return 11, []
        if order.tid in self._live or order.tid in self._finished:
            return 13, []
        if order.text is None:
            return 8, []
        if not order.recipients:
            return 9, []
        if len(self._live) >= self._options.max_tasks:
            return 16, []
        return self._place(order)

    def _place(self, order: orders.Order) -> tuple[int, list[tuple[SimPort, str]]]:
        """Notes 1 to 3 of document 1.3.1.3: no port: the device chooses; one recipient: each port; else shared out."""
        if not order.ports:
            able = [port for port in self.ports.values() if port.st == REGISTERED]
            order_of_use = sorted(able, key=lambda port: port.load)
        else:
            try:
                asked = _read_ports(order.ports)
                named = [self.ports[one.number] for one in asked if one.slot in (0, self.ports[one.number].slot)]
            except (ValueError, KeyError):
                return 2, []
            if not named:
                return 2, []
            order_of_use = [port for port in dict.fromkeys(named) if port.st == REGISTERED]
        if not order_of_use:
            return 5, []
        if order.ports and self._options.multiply:
            return 0, [(port, to) for to in order.recipients for port in order_of_use]
        if order.ports and len(order.recipients) == 1:
            return 0, [(port, order.recipients[0]) for port in order_of_use]
        return 0, [(order_of_use[i % len(order_of_use)], to) for i, to in enumerate(order.recipients)]

    def _accept(self, order: orders.Order, places: list[tuple[SimPort, str]], now: float) -> None:
        assert order.tid is not None
        assert order.text is not None
        parts = segments.count(order.text, order.coding)
        task = Task(order, order.tid, order.text, parts, self._boot, unsent=len(places))
        if order.report_count > 1:
            count, period_s = order.report_count, order.report_period_s
            task.reports = Cache(self._clock, self._hand_up, count=count, period_s=period_s)
        self._live[task.tid] = task
        self._hand_to_ports(task, places, now)

    def _hand_to_ports(self, task: Task, places: list[tuple[SimPort, str]], now: float) -> None:
        for index, (port, to) in enumerate(places):
            port.counters["handed_over"] += 1
            whose = (task.known_as, to, task.text, task.segments, "0 OK")
            self._record.add(Row(now, "handed_over", self.name, port.number, port.card.iccid, *whose))
            port.waiting.append(Send(task, 0 if len(task.order.recipients) == 1 else index, to))
            self._begin(port)

    # --- sending ----------------------------------------------------------------------------------------------------

    def _begin(self, port: SimPort) -> None:
        """Give the radio the next SMS, if it is free and the card can send."""
        if port.radio is not None or port.st != REGISTERED:
            return
        send = next((send for send in port.waiting if not send.task.suspended), None)
        if send is None:
            return
        port.waiting.remove(send)
        self._on_radio(send)
        fate = self._fate(port)
        air_s = self._options.radio_s * send.task.segments
        took_s = min(air_s, send.task.order.timeout_s)
        if took_s < air_s and fate is SENT:
            fate = LIE  # the device stops waiting; the network takes it all the same
        port.radio = OnRadio(send, fate, took_s, self._clock.later(took_s, self._end, port))

    def _fate(self, port: SimPort) -> Fate:
        if port.barred:
            return REFUSED
        if port.fates:
            return port.fates.popleft()
        failing, lying = self._options.failure_rate, self._options.lie_rate
        drawn = self._chance.random() if failing or lying else 1.0
        if drawn < failing:
            return Fate(7, on_air=False, operator_code=21)
        return LIE if drawn < failing + lying else SENT

    def _on_radio(self, send: Send) -> None:
        send.task.unsent -= 1
        send.task.sending += 1

    def _end(self, port: SimPort) -> None:
        radio, port.radio = port.radio, None
        assert radio is not None
        self._settle(port, radio.send, radio.fate, radio.took_s)
        self._begin(port)

    def _settle(self, port: SimPort, send: Send, fate: Fate, took_s: float) -> None:
        """A send has ended: record the truth, then let the device have its word."""
        now, task = self._clock.now(), send.task
        if fate.on_air:
            self._go_on_air(port, send, now)
        task.sending -= 1
        if fate.code == 0:
            task.sent += 1
        else:
            task.failed += 1
        port.counters["failed" if fate.code else "sent"] += 1
        port.statistics["sent_failed" if fate.code else "sent_ok"] += 1
        port.statistics["consecutive_failed"] = port.statistics["consecutive_failed"] + 1 if fate.code else 0
        self._lock_out(port)
        if task.told:
            self._finish(task)
            self._keep_result(port, send, fate, now)
        elif task.done is not None:
            task.done(fate)
        if self._options.sent_sms:
            self._push_sent_sms(port, send, fate, now, took_s)

    def _lock_out(self, port: SimPort) -> None:
        """What the device does with a card that has sent its share, or that the network refuses again and again."""
        cap = self._options.day_cap
        if port.st == REGISTERED and cap is not None and port.statistics["sent_ok"] >= cap:
            self._set_state(port, CAPPED)
        elif port.st == REGISTERED and port.barred and port.statistics["consecutive_failed"] >= BANNED_AFTER:
            self._set_state(port, BANNED)

    def _finish(self, task: Task) -> None:
        """Forget a task that has nothing left to send; where switched on, its id stays taken."""
        if task.unsent or task.sending:
            return
        del self._live[task.tid]
        if self._options.remember_tids:
            self._finished.add(task.tid)

    def _go_on_air(self, port: SimPort, send: Send, now: float) -> None:
        task, iccid = send.task, port.card.iccid
        port.counters["on_air"] += 1
        whose = (task.known_as, send.to, task.text, task.segments, "foreign" if task.foreign else "sent")
        self._record.add(Row(now, "on_air", self.name, port.number, iccid, *whose))
        if task.order.delivery_report:
            self._clock.later(self._options.delivery_s, self._when_registered, port, lambda: self._deliver(port, send))

    # --- what it tells of sending -----------------------------------------------------------------------------------

    def _keep_result(self, port: SimPort, send: Send, fate: Fate, now: float) -> None:
        task, operator = send.task, fate.operator_code
        told: facts.SentRow | facts.FailedRow = facts.SentRow(send.index, send.to, port.place, now)
        more = None
        if fate.code:
            texts = TEXTS.get(fate.code, ""), OPERATOR_TEXTS.get(operator or 0, "")
            told = facts.FailedRow(send.index, send.to, port.place, now, fate.code, texts[0], operator, texts[1])
            more = {"reason": fate.words, "operator_code": operator}
        where = (self.name, port.number, port.card.iccid)
        result = "failed" if fate.code else "sent"
        row = Row(now, "reported", *where, task.tid, send.to, task.text, task.segments, result, more)
        kept = Result(task, told, (task.sending, task.sent, task.failed, task.unsent), row)
        if task.reports is None:
            self._reports.add(kept)
            return
        task.reports.add(kept)
        if task.order.report_period_s <= 0 and task.unsent == 0 and task.sending == 0:
            task.reports.flush()  # without a timer nothing else would ever tell the rest

    def _hand_up(self, results: list[Result]) -> None:
        """A task's own cache is due: its results go to the cache of all tasks."""
        for result in results:
            if result.task.boot == self._boot:
                self._reports.add(result)

    def _push_reports(self, results: list[Result]) -> None:
        if not self._report_url:
            return
        by_task: dict[Task, list[Result]] = {}
        for result in results:
            by_task.setdefault(result.task, []).append(result)
        self._post(
            Callback(
                type="status-report",
                url=self._report_url,
                query="version=1.1",
                body=self.dialect.status_report([_report(task, kept) for task, kept in by_task.items()]),
                tids=tuple(task.tid for task in by_task),
                reported=tuple(result.row for result in results),
            )
        )

    def _push_sent_sms(self, port: SimPort, send: Send, fate: Fate, now: float, took_s: float) -> None:
        if not self._status_url:
            return
        self._sent_seq += 1
        task = send.task
        told = facts.SentSms(
            port.place,
            task.known_as,
            fate.code,
            TEXTS.get(fate.code, "") if fate.code else "",
            send.to,
            now,
            source=SRC_WEB if task.foreign else SRC_HTTP,
            took_ms=int(took_s * 1000),
            smsc=task.order.smsc,
            body=task.text,
            seq=self._sent_seq,
        )
        self._post(
            Callback(
                type="sent-sms",
                url=self._status_url,
                body=self.dialect.sent_sms(told),
                port=port.number,
                iccid=port.card.iccid,
                tids=(task.tid,) if task.told else (),
            )
        )

    # --- what comes in ----------------------------------------------------------------------------------------------

    def _when_registered(self, port: SimPort, arrive: Callable[[], None]) -> None:
        if port.st == REGISTERED:
            arrive()
        else:
            port.held.append(arrive)

    def _receive(self, port: SimPort, sender: str, text: str) -> None:
        now, card = self._clock.now(), port.card
        port.counters["received"] += 1
        port.statistics["received"] += 1
        sms = facts.ReceivedSms(port.place, now, sender, card.number, text, SMSC, stamp(now))
        self.inbox.add(replace(sms, via="inbox"))
        if self._arrivals.count > 1:
            self._arrivals.add((sms, None))
        elif self.sms_url:
            query, body, content_type = self.dialect.text_forward(replace(sms, iccid=card.iccid, via="forward"))
            self._post(
                Callback(
                    type="text-forward",
                    url=self.sms_url,
                    query=query,
                    body=body,
                    content_type=content_type,
                    port=port.number,
                    iccid=card.iccid,
                    texts=(text,),
                )
            )

    def _deliver(self, port: SimPort, send: Send) -> None:
        """The network's delivery report: it names the recipient and no task."""
        now, task = self._clock.now(), send.task
        smsc = task.order.smsc or SMSC
        report = facts.DeliveryReport(port.place, now, send.to, 0, smsc, stamp(now))
        self.inbox.add(report)
        self._arrivals.add((report, task.tid))

    def _push_sms(self, arrived: list[tuple[facts.ReceivedSms | facts.DeliveryReport, int | None]]) -> None:
        if not self.sms_url:
            return
        self._post(
            Callback(
                type="recv-sms",
                url=self.sms_url,
                query="version=1.1",
                body=self.dialect.recv_sms(fact for fact, _ in arrived),
                delivers=tuple(tid for _, tid in arrived if tid is not None),
                texts=tuple(fact.text for fact, _ in arrived if isinstance(fact, facts.ReceivedSms)),
            )
        )

    # --- states of ports --------------------------------------------------------------------------------------------

    def _register(self, port: SimPort) -> None:
        half_s = self._options.register_s / 2
        self._set_state(port, DETECTED)
        port.registering = [
            self._clock.later(half_s, self._set_state, port, REGISTERING),
            self._clock.later(2 * half_s, self._registered, port),
        ]

    def _registered(self, port: SimPort) -> None:
        self._set_state(port, REGISTERED)
        self._begin(port)
        while port.held:
            port.held.popleft()()

    def _restart(self, port: SimPort) -> None:
        for timer in port.registering:
            timer.cancel()
        if port.radio is not None:
            port.radio.timer.cancel()
            if port.radio.fate.on_air:
                self._go_on_air(port, port.radio.send, self._clock.now())
            port.radio = None
        port.waiting.clear()
        port.counted.clear()
        port.seq = 0
        if port.st == NO_SIM:
            self._set_state(port, NO_SIM)
        else:
            self._register(port)

    def _set_state(self, port: SimPort, st: int) -> None:
        port.st = st
        port.seq += 1
        if self._period_s is not None:
            self._post(
                Callback(
                    type="port-status",
                    url=self._status_url,
                    body=self.dialect.port_status(self._port_status(port, whole=True)),
                    port=port.number,
                    iccid=port.card.iccid if st != NO_SIM else None,
                )
            )

    def _port_status(self, port: SimPort, *, whole: bool = False) -> facts.PortStatus:
        """A port as it is; an empty one in short, but ``whole`` where a change is told, as real boxes do."""
        if port.st == NO_SIM:
            zero = 0 if whole else None
            free = (0, None) if whole else None
            return facts.PortStatus(
                port.place, NO_SIM, port.seq, imei=port.imei, balance=zero, signal=zero,
                minutes_total=free, minutes_month=free, minutes_day=free,
            )  # fmt: skip
        card, read = port.card, port.st != DETECTED
        return facts.PortStatus(
            port.place,
            port.st,
            port.seq,
            iccid=card.iccid if read else "",
            imsi=card.imsi if read else "",
            imei=port.imei,
            number=card.number if read else "",
            operator=OPERATOR if port.st == REGISTERED else "0 ",
            balance=card.balance if read else 0.0,
            signal=card.signal if port.st == REGISTERED else 0,
            minutes_total=(0, None),
            minutes_month=(0, None),
            minutes_day=(0, None),
            sms_day=None if self._options.day_cap is None else (port.statistics["sent_ok"], self._options.day_cap),
        )

    def _push_status(self) -> None:
        self._start_period()
        self._post(Callback(type="dev-status", url=self._status_url, body=self.dialect.dev_status(self.status())))

    def _start_period(self) -> None:
        if self._period_timer is not None:
            self._period_timer.cancel()
            self._period_timer = None
        if self._period_s is not None:
            self._period_timer = self._clock.later(self._period_s, self._push_status)


@functools.lru_cache(maxsize=4096)
def _read_ports(notation: str) -> tuple[Port, ...]:
    return parse_range(notation)


def stamp(at: float) -> str:
    """A moment as the network writes it: yyMMddHHmmss and the zone in quarters of an hour, here UTC."""
    return f"{datetime.fromtimestamp(at, UTC):%y%m%d%H%M%S}00"


def _other_slots(port: SimPort) -> list[int]:
    return [slot for slot in range(1, len(port.cards) + 1) if slot != port.slot]


def _idle(port: SimPort, slot: int) -> facts.PortStatus:
    """A card that is not in use."""
    card = port.cards[slot - 1]
    place = Port(port.number, slot)
    return facts.PortStatus(
        place, IDLE, port.seq, active=False, iccid=card.iccid, imsi=card.imsi, imei=port.imei, balance=0.0, signal=0
    )


def _statistics(port: SimPort) -> facts.SimStatistics:
    told = port.statistics
    return facts.SimStatistics(
        port.place,
        received=told["received"],
        sent=told["sent_ok"] + told["sent_failed"],
        sent_ok=told["sent_ok"],
        sent_failed=told["sent_failed"],
        consecutive_failed=told["consecutive_failed"],
        unsent=len(port.waiting),
        sending=int(port.radio is not None),
    )


def _report(task: Task, results: list[Result]) -> facts.SmsReport:
    sending, sent, failed, unsent = results[-1].counters
    told = [result.told for result in results]
    return facts.SmsReport(
        task.tid,
        sending,
        sent,
        failed,
        unsent,
        tuple(row for row in told if isinstance(row, facts.SentRow)) if task.order.sent_details else (),
        tuple(row for row in told if isinstance(row, facts.FailedRow)) if task.order.failed_details else (),
    )


def _ssrc(chance: random.Random) -> str:
    return f"{chance.randrange(16**16):016x}"
