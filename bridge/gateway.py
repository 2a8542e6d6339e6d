"""The HTTP client of one device: hands over tasks, asks for task lists, statistics, the inbox and status.

One connection per request, since a pooled connection that the device closed would make doubt out of nothing. What
matters here is to tell "nothing left" (GatewayNotReached) from "it may have arrived" (GatewaySilent, GatewayGarbled):
the first may be tried again, the others never blindly. No exception of httpx crosses, no text ever holds credentials.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import httpx

from bridge.ejoin import decode, encode
from bridge.ejoin.facts import (
    CallStatistics,
    DeviceStatus,
    Envelope,
    InboxPage,
    ListedTask,
    Reply,
    SimStatistics,
    SmsTask,
    SubmitAnswer,
)
from bridge.ejoin.ports import Port
from bridge.errors import GatewayGarbled, GatewayNotReached, GatewaySilent

MAX_ANSWER_BYTES = 4 * 1024 * 1024
"""The largest answer that is read: a snapshot of 512 cards has a quarter of a mebibyte."""

TASKS_PER_PAGE = 100
MAX_PAGES = 20

_CONNECTION_NEVER_MADE = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)

Told = TypeVar("Told")


class Gateway:
    """One device at one address. Requests may overlap; each has a connection of its own."""

    def __init__(
        self,
        name: str,
        url: str,
        username: str,
        password: str,
        *,
        dial: encode.Dial,
        charset: encode.Charset,
        api_version: Literal["1.0", "1.1"],
        credentials: Literal["query", "body", "both"],
        envelope: Envelope,
        connect_timeout_s: float,
        post_timeout_s: float,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.name = name
        self._base = url.rstrip("/")
        self._credentials = (username, password)
        self._dial = dial
        self._charset = charset
        self._legacy = api_version == "1.0"
        self._in_body = None if credentials == "query" else self._credentials
        self._envelope = envelope
        self._post_timeout_s = post_timeout_s
        # The transport instead of a client around it: a client adds a log line with the credentials in it, cookies,
        # redirects and a fifth of the cost, and none of them is wanted.
        self._transport = transport or httpx.AsyncHTTPTransport(
            verify=self._base.startswith("https:"),  # loading the certificates costs 20 ms, for nothing on plain HTTP
            trust_env=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            socket_options=_ends_with_us(post_timeout_s),
        )
        self._timeouts = {"connect": connect_timeout_s, "read": None, "write": None, "pool": None}
        self._submit_url = self._url(encode.SUBMIT_PATH)
        if credentials == "body":
            self._submit_url = httpx.URL(self._base + encode.SUBMIT_PATH)

    def __repr__(self) -> str:
        return f"<Gateway {self.name} at {urlsplit(self._base).netloc.rpartition('@')[2]}>"

    async def submit(self, tasks: Sequence[SmsTask], *, ready: Callable[[], bool] = lambda: True) -> SubmitAnswer:
        """Hand tasks over in one POST and return the device's answer.

        Raises GatewayNotReached where no connection was made, also because ``ready`` said no right before it;
        GatewaySilent for anything after that; GatewayGarbled for an answer that is no JSON object. The last two leave
        every task in doubt. The old interface takes one task, and answers when it has left.
        """
        if self._legacy:
            (task,) = tasks
            url = self._url(encode.LEGACY_PATH, **encode.legacy_params(task, dial=self._dial))
            status, body = await self._ask("GET", url, ready=ready)
            reader: Callable[[bytes], SubmitAnswer] = partial(decode.decode_legacy_answer, tid=task.tid)
        else:
            status, body = await self._ask("POST", self._submit_url, content=self._members(tasks), ready=ready)
            reader = decode.decode_answer
        if status == httpx.codes.UNAUTHORIZED:
            return SubmitAnswer(1, "HTTP 401", ())
        return self._read(reader, status, body)

    def _members(self, tasks: Sequence[SmsTask]) -> bytes:
        members = encode.submit_body(
            tasks, self._envelope, dial=self._dial, charset=self._charset, credentials=self._in_body
        )
        return encode.to_json(members)

    async def tasks(self, port: Port) -> tuple[ListedTask, ...]:
        """The tasks that wait for the active card of a port. One that is missing may still be on air, sent or lost.

        Raises GatewayNotReached, GatewaySilent, GatewayGarbled (also where the device refuses to tell).
        """
        listed: list[ListedTask] = []
        for page in range(MAX_PAGES):
            params = encode.tasks_params(port, start=page * TASKS_PER_PAGE, count=TASKS_PER_PAGE)
            status, body = await self._ask("GET", self._url(encode.TASKS_PATH, **params))
            told = self._read(decode.decode_tasks, status, body)
            listed += told
            if len(told) < TASKS_PER_PAGE:
                break
        return tuple(listed)

    async def change_tasks(self, what: Literal["pause", "resume", "remove"], tids: Sequence[int]) -> SubmitAnswer:
        """Pause, resume or remove waiting tasks; the answer is row by row. Raises as ``tasks``, ValueError for none."""
        content = encode.task_ids_body(tids)
        url = self._url(encode.TASK_PATHS[what], version="1.1")
        status, body = await self._ask("POST", url, content=content)
        return self._read(decode.decode_answer, status, body)

    async def statistics(
        self, ports: str = "all", *, slots: str | None = None, span: encode.Span = "all"
    ) -> tuple[SimStatistics, ...]:
        """What the device has counted of SMS; else than by default not since its start, but for a span. Raises as
        ``tasks``.
        """
        params = encode.statistics_params(ports, slots=slots, span=span)
        status, body = await self._ask("GET", self._url(encode.STATISTICS_PATH, **params))
        return self._read(decode.decode_statistics, status, body)

    async def call_statistics(
        self, ports: str = "all", *, slots: str | None = None, span: encode.Span = "all"
    ) -> tuple[CallStatistics, ...]:
        """The same of calls."""
        params = encode.statistics_params(ports, slots=slots, span=span)
        status, body = await self._ask("GET", self._url(encode.CALL_STATISTICS_PATH, **params))
        return self._read(decode.decode_call_statistics, status, body)

    async def inbox(self, *, start: int, count: int, delete: bool = False) -> InboxPage:
        """At most ``count`` rows of the device's inbox from the id ``start`` on; they stay there, or are deleted.

        Raises as ``tasks``.
        """
        params = encode.inbox_params(start=start, count=count, delete=delete)
        status, body = await self._ask("GET", self._url(encode.INBOX_PATH, **params))
        return self._read(decode.decode_inbox, status, body)

    async def status(
        self,
        *,
        callback_url: str | None = None,
        period_s: int | None = None,
        all_sims: bool = False,
        ports: str | None = None,
    ) -> DeviceStatus:
        """The box as it is now; with a callback URL it also reports there every ``period_s`` from now on.

        Raises as ``tasks``.
        """
        params = encode.status_params(callback_url, period_s, all_sims=all_sims, ports=ports)
        status, body = await self._ask("GET", self._url(encode.STATUS_PATH, **params))
        return self._read(decode.decode_status, status, body)

    async def command(self, op: encode.PortOp | Literal["save", "reboot"], ports: str | None = None) -> Reply:
        """Tell it to do something (document 4.5); it answers that it will, not that it has. Raises as ``tasks``."""
        status, body = await self._ask("GET", self._url(encode.COMMAND_PATH, **encode.command_params(op, ports)))
        return self._read(decode.decode_reply, status, body)

    async def get(self, names: Sequence[str]) -> Reply:
        """Ask for settings by their names. Raises as ``tasks``."""
        status, body = await self._ask("GET", self._url(encode.COMMAND_PATH, **encode.get_params(names)))
        return self._read(decode.decode_reply, status, body)

    async def set(self, values: Mapping[str, str]) -> Reply:
        """Change settings until its next start, or for good with the command ``save``. Raises as ``tasks``."""
        url = self._url(encode.COMMAND_PATH, op="set")
        status, body = await self._ask("POST", url, content=encode.set_body(values), kind="text/plain")
        return self._read(decode.decode_reply, status, body)

    async def ussd(self, port: Port, code: str, *, timeout_s: int, retries: int) -> Reply:
        """Call a USSD code; waits for the network's answer, ``timeout_s`` and once more for each retry. Raises as
        ``tasks``.
        """
        url = self._url(encode.USSD_PATH, **encode.ussd_params(port, code, timeout_s=timeout_s, retries=retries))
        status, body = await self._ask("GET", url, more_s=timeout_s * (1 + retries))
        return self._read(decode.decode_reply, status, body)

    async def close(self) -> None:
        """Close what is still open; no request may follow."""
        await self._transport.aclose()

    def _url(self, path: str, **params: str | int) -> httpx.URL:
        return httpx.URL(f"{self._base}{path}?{encode.query(*self._credentials, **params)}")

    async def _ask(
        self,
        method: str,
        url: httpx.URL,
        *,
        content: bytes | None = None,
        kind: str = encode.CONTENT_TYPE,
        ready: Callable[[], bool] = lambda: True,
        more_s: float = 0.0,
    ) -> tuple[int, bytes]:
        """One request on a connection of its own: HTTP status and body, within ``post_timeout_s`` and what it says."""
        within_s = self._post_timeout_s + more_s
        connecting = False

        async def watch(event: str, _info: Any) -> None:
            nonlocal connecting
            if event.startswith("connection.connect_tcp."):
                connecting = not event.endswith(".complete")

        # Small devices refuse a GET that carries a Content-Type.
        headers = {"Connection": "close", "User-Agent": "ejoin-bridge", "Accept": "application/json"}
        if content is not None:
            headers["Content-Type"] = kind
        extensions = {"timeout": self._timeouts, "trace": watch}
        request = httpx.Request(method, url, headers=headers, content=content, extensions=extensions)
        if not ready():
            raise GatewayNotReached(f"{self.name}: its moment passed before a connection was made")
        try:
            async with asyncio.timeout(within_s):
                return await self._exchange(request)
        except (httpx.HTTPError, OSError, UnicodeError) as error:
            if connecting or isinstance(error, _CONNECTION_NEVER_MADE):
                raise GatewayNotReached(f"{self.name}: no connection ({_why(error, within_s)})") from None
            raise GatewaySilent(f"{self.name}: the answer was lost ({_why(error, within_s)})") from None

    async def _exchange(self, request: httpx.Request) -> tuple[int, bytes]:
        response = await self._transport.handle_async_request(request)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        body = bytearray()
        try:
            async for chunk in response.stream:
                body += chunk
                if len(body) > MAX_ANSWER_BYTES:
                    raise GatewayGarbled(f"{self.name}: an answer of more than {MAX_ANSWER_BYTES} bytes")
        finally:
            await response.aclose()
        return response.status_code, bytes(body)

    def _read(self, reader: Callable[[bytes], Told], status: int, body: bytes) -> Told:
        try:
            return reader(body)
        except GatewayGarbled as error:
            raise GatewayGarbled(f"{self.name}: HTTP {status}, {error}") from None


def _why(error: Exception, within_s: float) -> str:
    if isinstance(error, TimeoutError):
        return f"nothing in {within_s} s"
    # Only these texts are known to come from the system; others may quote what was sent.
    told = f": {error}" if isinstance(error, httpx.ConnectError) else ""
    return f"{type(error).__name__}{told}"


def _ends_with_us(post_timeout_s: float) -> list[tuple[int, int, int]]:
    """The socket options by which the kernel gives up a request when we do, where the platform has them."""
    if not hasattr(socket, "TCP_USER_TIMEOUT"):
        return []
    # After a close the kernel goes on sending what the device never acknowledged, for minutes: a request that we gave
    # up would arrive when its absence has been proven. So nothing is sent longer than this after its first try.
    return [(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, round(post_timeout_s * 1000)))]
