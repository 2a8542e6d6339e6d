"""A clock that tests turn by hand, and one simulated box on it with everything it pushed."""

from __future__ import annotations

import heapq
import itertools
import json
import random
from typing import Any

from bridge.simulator.callbacks import Callback
from bridge.simulator.clock import Clock
from bridge.simulator.device import Box
from bridge.simulator.options import SimulatorOptions
from bridge.simulator.record import Record

START = 1_000_000.0
RADIO_S = 10.0


class HandTimer:
    def __init__(self, call, args):
        self.call, self.args, self.cancelled = call, args, False

    def cancel(self):
        self.cancelled = True


class HandClock:
    """What an event loop offers of time; it stands still until it is turned."""

    def __init__(self):
        self.at = 0.0
        self._due = []
        self._order = itertools.count()

    def time(self):
        return self.at

    def call_later(self, delay, call, *args):
        timer = HandTimer(call, args)
        heapq.heappush(self._due, (self.at + delay, next(self._order), timer))
        return timer

    def turn(self, seconds):
        """Let so much time pass; whatever falls due happens in its order and at its moment."""
        until = self.at + seconds
        while self._due and self._due[0][0] <= until:
            self.at, _, timer = heapq.heappop(self._due)
            if not timer.cancelled:
                timer.call(*timer.args)
        self.at = until


class World:
    """One box of two ports on a hand-turned clock; ``posted`` is what left it and was not looked at yet."""

    def __init__(self, **options: Any):
        self.hand = HandClock()
        self.turn = self.hand.turn
        self.record = Record()
        self.posted: list[Callback] = []
        self.tid = 100
        chosen = {"ports": 2, "radio_s": RADIO_S, "delivery_s": 5.0, "register_s": 60.0, **options}
        self.box = Box(
            "gw1",
            SimulatorOptions(**chosen),
            clock=Clock(self.hand.time, self.hand.call_later, unix=START),
            record=self.record,
            chance=random.Random(1),
            post=self.posted.append,
            forget_posts=self.posted.clear,
        )

    def port(self, number=1):
        return self.box.ports[number]

    def submit(self, *tasks, **envelope):
        """Submit tasks (given as what differs from a plain one) and give back their codes."""
        whole = [self.task(**task) for task in tasks]
        told = {"type": "send-sms", "sr_url": "http://b/cb", "sr_cnt": 1, "sms_url": "http://b/cb", "tasks": whole}
        return [ack.code for ack in self.box.submit({**told, **envelope}).acks]

    def task(self, **given):
        self.tid += 1
        plain = {"tid": self.tid, "from": "1", "to": "+491511", "sms": "hi", "sdr": 1, "fdr": 1, "sr_cnt": 1}
        return {name: value for name, value in {**plain, **given}.items() if value is not None}

    def take(self, of_type=None):
        """The callbacks so far (of one type), each as its JSON, and forget them."""
        taken = [post for post in self.posted if of_type in (None, post.type)]
        self.posted[:] = [post for post in self.posted if post not in taken]
        return [json.loads(post.body) for post in taken]

    def reports(self):
        """The entries of all status reports so far, one list per callback."""
        return [body["rpts"] for body in self.take("status-report")]

    def rows(self, kind):
        return [row for row in self.record.rows() if row["kind"] == kind]

    def tids(self, kind):
        return [row["tid"] for row in self.rows(kind)]
