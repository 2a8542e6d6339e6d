"""The HTTP edge: callbacks of the devices, /healthz, /readyz and /metrics, on one port of our own event loop.

A callback is authenticated before a byte of its body is read, capped, handed on whole, and answered 200 only after
the caller has stored it. What a push means is not known here. Devices do not call again, so nothing but the caller's
own refusal to store turns one away. No query string is ever logged: it may hold the secret.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import math
import os
import re
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

import prometheus_client
import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bridge.errors import LedgerUnavailable, SettingsInvalid
from bridge.metrics import NONE, Metrics

log = structlog.get_logger()

OnCallback = Callable[[str, bytes, str, Mapping[str, str]], Awaitable[str]]
"""Called with gateway, body, content type and query; answers with the push's type for the metrics, after the commit."""

MAX_BODY_BYTES = 1024 * 1024
MAX_DISCARDED_BYTES = 16 * MAX_BODY_BYTES
MAX_HEAD_BYTES = 64 * 1024
HEAD_WITHIN_S = 15.0
BODY_WITHIN_S = 30.0
REFUSALS_LOGGED_EVERY_S = 60.0
BACKLOG = 2048

# Devices append "?a=b" to a URL that has a query already.
_ANOTHER_QUERY = re.compile(r"^\?+|\?(?=[A-Za-z_][\w.-]*=)")

_REFUSALS = {
    403: "wrong token\n",
    404: "no such gateway\n",
    408: "the body did not come\n",
    413: f"more than {MAX_BODY_BYTES} bytes\n",
    500: "the bridge made a mistake\n",
    503: "cannot store it now\n",
}


class Web:
    """The HTTP server of the bridge.

    ``gateways`` are the accepted tokens by gateway. ``ready()`` tells what /readyz answers: under ``missing`` a list
    of what keeps the bridge from its work (empty: it is ready), beside it whatever details there are.
    """

    def __init__(
        self,
        listen: str,
        *,
        gateways: Mapping[str, Sequence[str]],
        on_callback: OnCallback,
        ready: Callable[[], dict[str, Any]],
        metrics: Metrics,
    ) -> None:
        self._listen = listen
        self._tokens = {name: tuple(token.encode() for token in tokens) for name, tokens in gateways.items()}
        self._on_callback = on_callback
        self._ready = ready
        self._metrics = metrics
        self._logged_at: dict[tuple[str, int], float] = {}
        self._socket: socket.socket | None = None
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self.app = Starlette(
            routes=[
                Route("/callback/{gateway}/{token:path}", self._callback, methods=["GET", "POST"]),
                Route("/callback/{gateway}", self._callback, methods=["GET", "POST"]),
                Route("/healthz", self._healthz),
                Route("/readyz", self._readyz),
                Route("/metrics", self._expose),
            ]
        )
        self.app.router.redirect_slashes = False

    # --- from first to last breath ----------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """Where it listens, ``host:port``, with the real port where 0 was asked for."""
        if self._socket is None:
            return self._listen
        host, port = self._socket.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def start(self) -> None:
        """Listen, and answer from now on. Raises SettingsInvalid where the address cannot be had."""
        self._socket = _bind(self._listen)
        self._server = _Server(
            uvicorn.Config(
                self.app,
                http=_Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
            )
        )
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._socket]), name="web")
        listening = asyncio.create_task(self._server.listening.wait())
        await asyncio.wait({self._serving, listening}, return_when=asyncio.FIRST_COMPLETED)
        listening.cancel()
        if self._serving.done():
            await self._serving
        log.info("web.started", address=self.address)

    async def stop(self, grace_s: float) -> None:
        """Take no more, finish what is being answered within the grace, then cancel it. Twice is as good as once."""
        if self._server is None or self._serving is None:
            return
        self._server.config.timeout_graceful_shutdown = math.ceil(grace_s)
        self._server.should_exit = True
        serving, self._serving = self._serving, None
        await serving
        log.info("web.stopped")

    # --- callbacks --------------------------------------------------------------------------------------------------

    async def _callback(self, request: Request) -> Response:
        gateway = request.path_params["gateway"]
        if gateway not in self._tokens:
            return self._refuse(request, gateway, 404)
        query = _read_query(request.scope["query_string"])
        said = (request.path_params.get("token", "").rstrip("/"), query.pop("password", ""))
        query.pop("username", None)
        if not self._known(gateway, said):
            return self._refuse(request, gateway, 403)
        try:
            async with asyncio.timeout(BODY_WITHIN_S):
                body = await _read_body(request)
        except (TimeoutError, ClientDisconnect):
            return self._refuse(request, gateway, 408)
        if body is None:
            return self._refuse(request, gateway, 413)
        try:
            kind = await self._on_callback(gateway, body, request.headers.get("content-type", ""), query)
        except LedgerUnavailable as error:
            return self._refuse(request, gateway, 503, why=str(error))
        except Exception:
            log.exception("callback.failed", gateway=gateway)
            return self._refuse(request, gateway, 500)
        self._metrics.callbacks_total.labels(gateway, "200", kind).inc()
        return PlainTextResponse("OK")

    def _known(self, gateway: str, said: Sequence[str]) -> bool:
        """Whether one of these is a token of that gateway; every pair is compared, in constant time."""
        told = [word.encode("utf-8", "surrogatepass") for word in said if word]
        return any([hmac.compare_digest(word, token) for word in told for token in self._tokens[gateway]])  # noqa: C419

    def _refuse(self, request: Request, gateway: str, status: int, *, why: str | None = None) -> Response:
        """Count it, and say it in the log now and then: a stranger must not fill it."""
        label = gateway if gateway in self._tokens else NONE
        self._metrics.callbacks_total.labels(label, str(status), NONE).inc()
        now = asyncio.get_running_loop().time()
        if now - self._logged_at.get((label, status), -math.inf) >= REFUSALS_LOGGED_EVERY_S:
            self._logged_at[label, status] = now
            client = request.client.host if request.client else None
            log.warning("callback.refused", gateway=gateway[:40], status=status, client=client, why=why)
        unread = status in {408, 413}
        return PlainTextResponse(_REFUSALS[status], status, headers={"connection": "close"} if unread else None)

    # --- for the cluster --------------------------------------------------------------------------------------------

    async def _healthz(self, _request: Request) -> Response:
        return PlainTextResponse("OK")

    async def _readyz(self, _request: Request) -> Response:
        told = self._ready()
        ready = not told["missing"]
        return JSONResponse({"ready": ready, **told}, 200 if ready else 503)

    async def _expose(self, _request: Request) -> Response:
        # Thousands of ports make a megabyte; another thread keeps the loop free meanwhile.
        text = await asyncio.to_thread(prometheus_client.generate_latest, self._metrics.registry)
        return Response(text, headers={"content-type": prometheus_client.CONTENT_TYPE_LATEST})


def _read_query(raw: bytes) -> dict[str, str]:
    """The parameters by their lower-case names; a ``?`` that begins a parameter separates like ``&``."""
    text = _ANOTHER_QUERY.sub(lambda found: "&" if found.start() else "", raw.decode("utf-8", "replace"))
    pairs = parse_qsl(text, keep_blank_values=True, encoding="utf-8", errors="replace")
    return {name.lstrip("?").lower(): value for name, value in pairs}


async def _read_body(request: Request) -> bytes | None:
    """The whole body; None where it is larger than allowed, whatever its length was said to be.

    Of a larger one nothing is kept, but a while longer it is read: who still sends would not hear the answer.
    """
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_DISCARDED_BYTES:
            return None
        if size > MAX_BODY_BYTES:
            chunks.clear()
        else:
            chunks.append(chunk)
    return b"".join(chunks) if size <= MAX_BODY_BYTES else None


def _bind(listen: str) -> socket.socket:
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    try:
        return socket.create_server(
            (host, int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=BACKLOG
        )
    except OSError as error:
        raise SettingsInvalid(f"web.listen: {listen} cannot be had: {_reason(error)} (name another address)") from error


def _reason(error: OSError) -> str:
    """The system's words; Python adds the address to them, a name that is not known has none."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror)


class _Server(uvicorn.Server):
    """uvicorn without its hands on our signals, and with a moment from which it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol with an end to heads: it has no limit of its own to their size or their time."""

    _head_bytes = 0
    _heading = True
    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._patience = self.loop.call_later(HEAD_WITHIN_S, transport.close)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._heading and self._patience is None and not self.transport.is_closing():
            self._patience = self.loop.call_later(HEAD_WITHIN_S, self.transport.close)
        self._head_bytes = self._head_bytes + len(data) if self._heading else 0
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The head of the request is too large.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._heading = True

    def on_headers_complete(self) -> None:
        self._heading = False
        self._calm_down()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._calm_down()
        super().connection_lost(exc)

    def _calm_down(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
