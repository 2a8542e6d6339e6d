"""The device's own HTTP client: every callback goes out once, over a connection of its own.

None is ever repeated, late or lost by itself: that is what ``drop_next``, ``double_next`` and ``delay_next`` are for.

Two lanes per gateway keep their order of departure: status pushes one at a time, reports and SMS a few side by side.
What became of each stands in the record: the receiver's HTTP status, or null where nobody answered or it was dropped.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Literal, cast
from urllib.parse import urlsplit

import httptools

from bridge.simulator.clock import Clock
from bridge.simulator.encode import JSON_TYPE
from bridge.simulator.record import Record, Row

ANSWER_WITHIN_S = 10.0
SIDE_BY_SIDE = 4
STATUS_TYPES = frozenset({"port-status", "dev-status"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Callback:
    """One push, written and ready to go; the fields after ``query`` are for the record only.

    ``tids`` are the task ids that it tells, ``delivers`` those whose delivery reports it carries (the wire has no id
    there), ``texts`` the incoming SMS in it, ``reported`` the rows to record as it leaves.
    """

    type: str
    url: str
    body: bytes
    content_type: str = JSON_TYPE
    query: str = ""
    port: int | None = None
    iccid: str | None = None
    tids: tuple[int, ...] = ()
    delivers: tuple[int, ...] = ()
    texts: tuple[str, ...] = ()
    reported: tuple[Row, ...] = ()


@dataclass(frozen=True, slots=True)
class _Wish:
    """What shall happen to one of the next callbacks, of this type or (None) of any."""

    deed: Literal["drop", "double", "delay"]
    of_type: str | None
    delay_s: float = 0.0


class Sender:
    """Sends the callbacks of one gateway in order and records what became of each."""

    def __init__(self, gateway: str, clock: Clock, record: Record) -> None:
        self.answered = 0
        self.unanswered = 0
        self._gateway = gateway
        self._clock = clock
        self._record = record
        self._wishes: list[_Wish] = []
        self._boot = 1
        self._lanes = (_Lane(1), _Lane(SIDE_BY_SIDE))
        self._workers: list[asyncio.Task[None]] = []

    def __repr__(self) -> str:
        waiting = sum(len(lane.waiting) for lane in self._lanes)
        return f"<Sender {self._gateway} {waiting} waiting, {self.answered} answered, {self.unanswered} not>"

    def post(self, callback: Callback) -> None:
        """Put one callback at the end of its lane, at once or where it is to be late; returns at once."""
        wish = self._granted("delay", callback.type)
        if wish is None:
            self._line_up(callback, self._boot)
        else:
            self._clock.later(wish.delay_s, self._line_up, callback, self._boot)

    def drop_next(self, count: int, of_type: str | None = None) -> None:
        """Let the next ``count`` callbacks (of this type, else of any) vanish instead of sending them."""
        self._wishes.extend([_Wish("drop", of_type)] * count)

    def double_next(self, count: int, of_type: str | None = None) -> None:
        """Send the next ``count`` callbacks (of this type, else of any) twice, one right after the other."""
        self._wishes.extend([_Wish("double", of_type)] * count)

    def delay_next(self, count: int, of_type: str | None, delay_s: float) -> None:
        """Let the next ``count`` callbacks that come (of this type, else of any) line up so much later."""
        self._wishes.extend([_Wish("delay", of_type, delay_s)] * count)

    def forget(self) -> None:
        """Lose what waits to be sent, also what is late (a reboot)."""
        self._boot += 1
        for lane in self._lanes:
            lane.waiting.clear()

    def start(self) -> None:
        """Begin to send; needs a running event loop."""
        self._workers = [asyncio.create_task(self._work(lane)) for lane in self._lanes for _ in range(lane.width)]

    async def stop(self) -> None:
        """End without waiting for what is on its way; raises what broke a worker."""
        for worker in self._workers:
            worker.cancel()
        for ended in await asyncio.gather(*self._workers, return_exceptions=True):
            if not isinstance(ended, asyncio.CancelledError | None):
                raise ended

    def _line_up(self, callback: Callback, boot: int) -> None:
        if boot == self._boot:
            self._lanes[callback.type not in STATUS_TYPES].put(callback)

    async def _work(self, lane: _Lane) -> None:
        while True:
            await self._send(await lane.take())

    async def _send(self, callback: Callback) -> None:
        dropped = self._granted("drop", callback.type) is not None
        twice = not dropped and self._granted("double", callback.type) is not None
        now = self._clock.now()
        for row in callback.reported:
            self._record.add(row._replace(at=now))
        for _ in range(2 if twice else 1):
            self._note(callback, None if dropped else await send_once(callback), dropped=dropped)

    def _note(self, callback: Callback, status: int | None, *, dropped: bool) -> None:
        """Count and record what became of one callback."""
        if status is None:
            self.unanswered += 1
        else:
            self.answered += 1
        more = {
            "http_status": status,
            "type": callback.type,
            "tids": list(callback.tids),
            "delivers": list(callback.delivers),
            "texts": list(callback.texts),
        }
        result = "dropped" if dropped else "answered" if status is not None else "unanswered"
        now, where = self._clock.now(), (self._gateway, callback.port, callback.iccid)
        self._record.add(Row(now, "callback", *where, None, None, None, None, result, more))

    def _granted(self, deed: str, of_type: str) -> _Wish | None:
        """The first wish for such a deed, for this type before any: it is fulfilled with that."""
        for wanted in (of_type, None):
            for wish in self._wishes:
                if (wish.deed, wish.of_type) == (deed, wanted):
                    self._wishes.remove(wish)
                    return wish
        return None


class _Lane:
    """Callbacks of one kind in order of departure; ``width`` of them may be on their way at once."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.waiting: deque[Callback] = deque()
        self._news = asyncio.Event()

    def put(self, callback: Callback) -> None:
        self.waiting.append(callback)
        self._news.set()

    async def take(self) -> Callback:
        while not self.waiting:
            self._news.clear()
            await self._news.wait()
        return self.waiting.popleft()


async def send_once(callback: Callback) -> int | None:
    """Post one callback; the HTTP status of the answer, or None where none came in time."""
    loop = asyncio.get_running_loop()
    told = loop.create_future()
    transport: asyncio.BaseTransport | None = None
    try:
        url = urlsplit(callback.url)
        tls = url.scheme == "https"
        request = _write_request(callback, url.netloc.rpartition("@")[2], url.path or "/", url.query)
        async with asyncio.timeout(ANSWER_WITHIN_S):
            transport, _ = await loop.create_connection(
                lambda: _Exchange(request, told), url.hostname or "", url.port or (443 if tls else 80), ssl=tls or None
            )
            status: int | None = await told
    except (OSError, TimeoutError, ValueError):  # refused, reset, silent, or no URL that a device could reach
        return None
    finally:
        if transport is not None:
            transport.close()
    return status


def _write_request(callback: Callback, host: str, path: str, query: str) -> bytes:
    """The request as the document shows it (2.1.3); the device appends its query even behind a query of the URL."""
    target = path + (f"?{query}" if query else "") + (f"?{callback.query}" if callback.query else "")
    if not target.isprintable() or " " in target:
        raise ValueError("a URL that no request line can hold")
    head = (
        f"POST {target} HTTP/1.1\r\nAccept: */*\r\nAccept-Language: en\r\nUser-Agent: Ejoin SMSC/1.0\r\n"
        f"Host: {host}\r\nConnection: Close\r\n"
        f"Content-Type: {callback.content_type}\r\nContent-Length: {len(callback.body)}\r\n\r\n"
    )
    return head.encode() + callback.body


class _Exchange(asyncio.Protocol):
    """Writes the request as soon as it is connected and tells the status once the answer is whole (or cut off)."""

    def __init__(self, request: bytes, told: asyncio.Future[int | None]) -> None:
        self._request = request
        self._told = told
        self._parser = httptools.HttpResponseParser(self)
        self._status: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(self._request)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._tell()

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()

    def on_message_complete(self) -> None:
        self._tell()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        self._tell()

    def _tell(self) -> None:
        if not self._told.done():
            self._told.set_result(self._status)
