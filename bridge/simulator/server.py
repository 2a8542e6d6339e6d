"""The HTTP faces: what the document lets a client ask a gateway, and the control face that tells and does.

Thin: reads the request, asks the box, writes the device's answer. A gateway answers HTTP 200 whatever it says, as real
ones do. A lost answer is a reset of the connection, before or after the tasks were taken, half an answer, or silence.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Generator, Mapping
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from uvicorn import Config, Server
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bridge.ejoin.ports import Port, parse, parse_range
from bridge.simulator import deeds, encode, orders
from bridge.simulator.device import Box
from bridge.simulator.parts import TEXTS, Fate, LostAnswer, SimPort
from bridge.simulator.record import Record

RESET = "ejoin.reset"
CUT = "ejoin.cut"
SILENT_S = 60.0
ROWS_AT_ONCE = 1_000
LIST_NUM = 10
CUMULATIVE = 3
USSD_TIMEOUT_S = 120.0
SMS_URL = "sms_url"


def gateway_app(box: Box, username: str, password: str) -> Starlette:
    """The face of one gateway."""
    face = _Face(box, username, password)
    return Starlette(
        routes=[
            Route("/goip_post_sms.html", face.submit, methods=["POST"]),
            Route("/goip_post_sms.html", face.send_now),
            Route("/goip_send_sms.html", face.send_now),
            Route("/goip_send_sms.html", face.submit, methods=["POST"]),  # as one document's examples do
            Route("/goip_get_tasks.html", face.list_waiting),
            Route("/goip_get_status.html", face.status),
            Route("/goip_get_sms_stat.html", face.statistics),
            Route("/goip_get_call_stat.html", face.call_statistics),
            Route("/goip_get_sms.html", face.inbox, methods=["GET", "POST"]),
            Route("/goip_send_cmd.html", face.command, methods=["GET", "POST"]),
            Route("/goip_send_ussd.html", face.ussd),
            Route("/goip_send_at.html", face.at),
            *(
                Route(f"/goip_{what}_sms.html", partial(face.change_tasks, what), methods=["POST"])
                for what in ("pause", "resume", "remove")
            ),
        ]
    )


class _Face:
    """What the document lets a client ask, for one box and one login."""

    def __init__(self, box: Box, username: str, password: str) -> None:
        self._box = box
        self._dialect = box.dialect
        self._login = (username, password)
        self._settings: dict[str, str] = {}

    async def submit(self, request: Request) -> Response:
        told = orders.read_body(await request.body())
        lost = self._box.lost_answers.popleft() if self._box.lost_answers else None
        response = Response() if lost == "before" else self._take(told, request)
        return response if lost is None else _Lost(response, lost)

    async def send_now(self, request: Request) -> Response:
        """The old interface: the answer comes when the SMS has left, and is that of the first that failed."""
        query = _query(request)
        if not self._may(query):
            return _refuse(1)
        lost = self._box.lost_answers.popleft() if self._box.lost_answers else None
        if lost == "before":
            return _Lost(Response(), lost)
        fates: asyncio.Queue[Fate] = asyncio.Queue()
        code, count = self._box.send_now(orders.read_legacy(query), fates.put_nowait)
        codes = [code, *[(await fates.get()).code for _ in range(count)]]
        worst = next((one for one in codes if one), 0)
        response = _json(encode.answer(worst, TEXTS[worst]))
        return response if lost is None else _Lost(response, lost)

    async def list_waiting(self, request: Request) -> Response:
        query = _query(request)
        if not self._may(query):
            return _refuse(1)
        port, pos = int(orders.number(query.get("port"), 0)), int(orders.number(query.get("pos"), 0))
        num = int(orders.number(query.get("num"), LIST_NUM))
        found = self._box.list_waiting(port, pos=pos, num=num, has_content=query.get("has_content") == "1")
        return _refuse(2) if found is None else _json(encode.task_list(*found))

    async def status(self, request: Request) -> Response:
        query = _query(request)
        if not self._may(query):
            return _refuse(1)
        try:
            only = _ports(query)
        except ValueError:
            return _refuse(2)
        self._box.subscribe(query.get("url"), orders.number(query.get("period"), None))
        all_sims = any(orders.number(query.get(name), 0) > 0 for name in ("all_sims", "all_slots"))
        return _json(self._dialect.dev_status(self._box.status(only, all_sims=all_sims)))

    async def statistics(self, request: Request) -> Response:
        query = _query(request)
        if not self._may(query):
            return _refuse(1)
        if orders.number(query.get("type"), 0) != CUMULATIVE:
            return _refuse(15)  # the box keeps no hours and days, and would have to make them up
        try:
            only = _ports(query)
        except ValueError:
            return _refuse(2)
        return _json(encode.statistics(self._box.statistics(only)))

    async def inbox(self, request: Request) -> Response:
        query = _query(request)
        if not self._may(query):
            return _refuse(1)
        start, count = int(orders.number(query.get("sms_id"), 1)), int(orders.number(query.get("sms_num"), 0))
        return _json(self._dialect.inbox(self._box.inbox.page(start, count, delete=query.get("sms_del") == "1")))

    async def call_statistics(self, request: Request) -> Response:
        query = _query(request)
        if not self._may(query):
            return _refuse(1)
        try:
            only = _ports(query)
        except ValueError:
            return _refuse(2)
        return _json(encode.call_statistics(self._box.call_statistics(only)))

    async def command(self, request: Request) -> Response:
        """One operation, or several in a body (device API 2.10); settings are kept until the next start."""
        query, body = _query(request), await request.body()
        told = orders.read_body(body) or {}
        if not self._may(query, _lowered(told)):
            return _refuse(1)
        asked = query | {name: value for name, value in told.items() if isinstance(value, str | int | list)}
        if asked.get("op") == "get":
            names = [str(value) for name, value in asked.items() if name.startswith("par_name")]
            told = self._settings | {SMS_URL: self._box.sms_url}
            return self._reply(0, **{name: told.get(name.lower(), "") for name in names})
        if asked.get("op") == "set":
            values = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
            self._settings |= {name.lower(): value for name, value in values.items()}
            self._box.sms_url = self._settings.pop(SMS_URL, self._box.sms_url)
            return self._reply(0, par_set=len(values)) if values else self._reply(15)
        several = asked.get("ops") if asked.get("op") == "multiple" else [asked]
        ops = [one for one in several if isinstance(one, dict)] if isinstance(several, list) else []
        return self._reply(next((code for one in ops if (code := self._carry_out(one))), 0 if ops else 15))

    def _carry_out(self, asked: Mapping[str, Any]) -> int:
        op = str(asked.get("op"))
        if op in {"save", "ledon", "ledoff"}:  # nothing of it can be seen here
            return 0
        if op == "reboot":
            self._settings.clear()
            self._box.reboot()
            return 0
        notation = str(asked.get("ports") or asked.get("port") or "")
        try:
            named = [Port(n) for n in self._box.ports] if notation in {"all", "*"} else parse_range(notation)
        except ValueError:
            return 2
        return self._box.order(op, named)

    async def ussd(self, request: Request) -> Response:
        """Blocks until the network has answered."""
        query = _query(request)
        if not self._may(query):
            return _refuse(1)
        if not query.get("ussd"):
            return self._reply(3)
        port = self._port_of(query)
        if port is None:
            return self._reply(2)
        answered: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        timeout_s = orders.seconds(query.get("timeout"), USSD_TIMEOUT_S)
        self._box.call_ussd(port, query["ussd"], timeout_s, lambda code, text: answered.set_result((code, text)))
        code, text = await answered
        return self._reply(code, resp=text) if code == 0 else self._reply(code)

    async def at(self, request: Request) -> Response:
        """A command to the radio module, which echoes it and agrees."""
        query = _query(request)
        if not self._may(query):
            return _refuse(1)
        if not query.get("at"):
            return self._reply(3)
        if self._port_of(query) is None:
            return self._reply(2)
        return self._reply(0, resp=f"{query['at']}\r\nOK")

    def _port_of(self, query: Mapping[str, str]) -> SimPort | None:
        try:
            return self._box.ports.get(parse(query.get("port", "")).number)
        except ValueError:
            return None

    async def change_tasks(self, what: str, request: Request) -> Response:
        """Where no ids are named it is about all of them."""
        told = orders.read_body(await request.body()) or {}
        if not self._may(_query(request), _lowered(told)):
            return _refuse(1)
        named = told.get("tids")
        tids = named if isinstance(named, list) else self._box.live_tids()
        acks = [self._box.change_task(what, int(orders.number(tid, 0))) for tid in tids]
        return _json(encode.task_results(acks if isinstance(named, list) else ()))

    def _reply(self, code: int, **more: Any) -> Response:
        return _json(self._dialect.reply(code, TEXTS[code], **more))

    def _take(self, told: dict[str, Any] | None, request: Request) -> Response:
        if told is None:
            return _json(b"")  # real boxes answer nothing to what they cannot read
        if not self._may(_query(request), _lowered(told)):
            return _refuse(1)
        return _json(encode.task_status(self._box.submit(told)))

    def _may(self, *told: Mapping[str, Any]) -> bool:
        """Whether one of the places where credentials may stand has the right ones."""
        return any((one.get("username"), one.get("password")) == self._login for one in told)


class _Lost(Response):
    """An answer that does not arrive, or half of it, and the end of the connection."""

    def __init__(self, whole: Response, how: LostAnswer) -> None:
        super().__init__(whole.body, headers=whole.headers)
        self._how = how

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        end = scope["extensions"][RESET]
        if self._how == "half":
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            half = self.body[: len(self.body) // 2]
            await send({"type": "http.response.body", "body": half, "more_body": True})
            end = scope["extensions"][CUT]
        elif self._how == "silent":
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SILENT_S):
                    await _gone(receive)
        end()
        await _gone(receive)  # the server complains of an answer that is not whole while somebody is there


def control_app(gateways: Mapping[str, deeds.Gateway], record: Record) -> Starlette:
    """The control face: the record, the state, and what one can do."""

    async def read_record(request: Request) -> Response:
        try:
            after = int(request.query_params.get("after", "0"))
        except ValueError:
            return JSONResponse({"error": "after: write a whole number"}, status_code=400)
        return StreamingResponse(_lines(record, after), media_type="application/jsonl")

    async def do(request: Request) -> Response:
        try:
            kind = deeds.do(gateways, orders.read_body(await request.body()))
        except ValueError as error:
            return JSONResponse({"error": str(error), "kinds": deeds.NEEDS}, status_code=400)
        return JSONResponse({"done": kind, "n": len(record)})

    async def state(request: Request) -> Response:  # noqa: ARG001 - a route's signature
        told = [
            {**one.box.state(), "callbacks": {"answered": one.sender.answered, "unanswered": one.sender.unanswered}}
            for one in gateways.values()
        ]
        return JSONResponse({"rows": len(record), "gateways": told})

    return Starlette(routes=[Route("/record", read_record), Route("/do", do, methods=["POST"]), Route("/state", state)])


class FaceServer(Server):
    """A uvicorn server inside somebody else's event loop: signals are none of its business."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals to the process."""
        yield


def face_server(app: Starlette) -> FaceServer:
    """A server for one face, to be served on a socket that is bound already."""
    return FaceServer(
        Config(
            app,
            http=_Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=1,
        )
    )


class _Connection(HttpToolsProtocol):
    """A connection that the app may reset or close early, under the ASGI extensions ``RESET`` and ``CUT``."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {RESET: self._reset, CUT: self._cut}  # type: ignore[dict-item]

    def _reset(self) -> None:
        raw = self.transport.get_extra_info("socket")
        with contextlib.suppress(OSError), socket.socket(fileno=socket.dup(raw.fileno())) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close means RST, not FIN
        self.transport.abort()

    def _cut(self) -> None:
        self.transport.close()  # what was written still leaves


async def _gone(receive: Receive) -> None:
    """Wait until the client has gone, or we have left it."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _lines(record: Record, after: int) -> AsyncIterator[str]:
    """The rows that exist now, in pieces, so that a long record does not hold up the gateways."""
    up_to = len(record)
    for first in range(max(0, after), up_to, ROWS_AT_ONCE):
        yield record.lines(first, min(first + ROWS_AT_ONCE, up_to))


def _json(content: bytes) -> Response:
    return Response(content, media_type=encode.JSON_TYPE)


def _refuse(code: int) -> Response:
    return _json(encode.answer(code, TEXTS[code]))


def _ports(query: Mapping[str, str]) -> frozenset[int] | None:
    """The ports that a query names, None for all. Raises ValueError where they cannot be read."""
    asked = query.get("port") or query.get("ports") or "all"
    return None if asked in ("all", "*") else frozenset(port.number for port in parse_range(asked))


def _query(request: Request) -> dict[str, str]:
    return {name.lower(): value for name, value in request.query_params.items()}


def _lowered(told: Mapping[str, Any]) -> dict[str, Any]:
    return {str(name).lower(): value for name, value in told.items() if name.lower() in ("username", "password")}
