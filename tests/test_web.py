"""The HTTP edge: who is let in, what is handed on, what is answered, and that a real server holds out."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import httpx
import prometheus_client
import pytest
import structlog
from prometheus_client import CollectorRegistry

from bridge import web as web_module
from bridge.errors import LedgerUnavailable, SettingsInvalid
from bridge.metrics import Metrics
from bridge.web import MAX_BODY_BYTES, Web

TOKENS = {"gw1": ["new-token", "old-token"], "gw2": ["other"]}


@dataclass
class Inbox:
    """Stands where the flows are: keeps what was handed on, or refuses as it is told."""

    taken: list[tuple[str, bytes, str, Mapping[str, str]]] = field(default_factory=list)
    error: Exception | None = None
    hold: asyncio.Event | None = None
    missing: list[str] = field(default_factory=list)

    async def __call__(self, gateway: str, body: bytes, content_type: str, query: Mapping[str, str]) -> str:
        if self.hold:
            await self.hold.wait()
        if self.error:
            raise self.error
        self.taken.append((gateway, body, content_type, query))
        return "dev-status"

    def ready(self) -> dict:
        return {"missing": self.missing, "ports_up": 3}


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


@pytest.fixture
def web(inbox, metrics) -> Web:
    return Web("127.0.0.1:0", gateways=TOKENS, on_callback=inbox, ready=inbox.ready, metrics=metrics)


@pytest.fixture
async def client(web):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(web.app), base_url="http://bridge") as client:
        yield client


def counted(metrics: Metrics, gateway: str, status: int, kind: str) -> float | None:
    labels = {"gateway": gateway, "status": str(status), "type": kind}
    return metrics.registry.get_sample_value("ejoin_callbacks_total", labels)


# --- who is let in ---------------------------------------------------------------------------------------------------

DOORS = {
    "the token in the path": ("/callback/gw1/new-token", 200),
    "the token that is being replaced": ("/callback/gw1/old-token", 200),
    "a slash at the end": ("/callback/gw1/new-token/", 200),
    "the device's own query behind it": ("/callback/gw1/new-token?version=1.1", 200),
    "the device's credentials behind it": ("/callback/gw1/new-token?username=root&password=root", 200),
    "the secret as the document's password": ("/callback/gw1?username=any&password=new-token", 200),
    "the secret with a second query behind it": ("/callback/gw1?username=any&password=old-token?version=1.1", 200),
    "the secret in capitals and in the second query": ("/callback/gw1?a=b&?Password=new-token", 200),
    "a wrong token": ("/callback/gw1/wrong", 403),
    "a part of a token": ("/callback/gw1/new", 403),
    "a token and more": ("/callback/gw1/new-token/x", 403),
    "another gateway's token": ("/callback/gw2/new-token", 403),
    "a token with letters that are no ASCII": ("/callback/gw1/n%C3%A9w", 403),
    "a token that is no UTF-8": ("/callback/gw1/%ff", 403),
    "no token": ("/callback/gw1", 403),
    "an empty token": ("/callback/gw1/", 403),
    "an empty password": ("/callback/gw1?password=", 403),
    "the user name instead of the password": ("/callback/gw1?username=new-token", 403),
    "an unknown gateway": ("/callback/gw9/new-token", 404),
    "no gateway": ("/callback", 404),
}


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("door", DOORS)
async def test_door(client, inbox, door, method):
    path, status = DOORS[door]
    answer = await client.request(method, path)
    assert answer.status_code == status
    assert len(inbox.taken) == (status == 200)


async def test_other_methods_are_not_allowed(client, inbox):
    assert (await client.put("/callback/gw1/new-token", content=b"{}")).status_code == 405
    assert not inbox.taken


async def test_an_empty_secret_opens_nothing(inbox, metrics):
    web = Web("127.0.0.1:0", gateways={"gw1": []}, on_callback=inbox, ready=inbox.ready, metrics=metrics)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(web.app), base_url="http://bridge") as client:
        assert (await client.post("/callback/gw1?password=")).status_code == 403


# --- what is handed on -----------------------------------------------------------------------------------------------


async def test_body_and_content_type_are_handed_on_as_they_came(client, inbox):
    body = b'{"type":"dev-status"}\xff\x00'
    answer = await client.post("/callback/gw1/new-token", content=body, headers={"content-type": "Application/JSON"})
    assert (answer.status_code, answer.text) == (200, "OK")
    assert inbox.taken == [("gw1", body, "Application/JSON", {})]


async def test_a_form_is_handed_on_unread(client, inbox):
    await client.post("/callback/gw1/new-token", data={"sender": "+49151", "content": "a b"})
    ((_, body, content_type, _),) = inbox.taken
    assert body == b"sender=%2B49151&content=a+b"
    assert content_type == "application/x-www-form-urlencoded"


async def test_no_content_type_is_an_empty_one(client, inbox):
    await client.post("/callback/gw1/new-token", content=b"x")
    assert inbox.taken[0][2] == ""


QUERIES = {
    "nothing": ("", {}),
    "the device's": ("?version=1.1", {"version": "1.1"}),
    "a text forward by GET": (
        "?username=root&password=root&port=4&sender=13510956503&content=%E4%BD%A0+%3F",
        {"port": "4", "sender": "13510956503", "content": "你 ?"},
    ),
    "two queries": ("?a=b?port=61A&sender=1", {"a": "b", "port": "61A", "sender": "1"}),
    "a query that begins twice": ("??port=3", {"port": "3"}),
    "a name with a question mark": ("?a=b&?port=3", {"a": "b", "port": "3"}),
    "a value with a question mark": ("?content=how are you? fine", {"content": "how are you? fine"}),
    "capitals": ("?Sender=1", {"sender": "1"}),
    "no value": ("?charset&port=", {"charset": "", "port": ""}),
    "bytes that are no UTF-8": ("?content=%ff", {"content": "\N{REPLACEMENT CHARACTER}"}),
}


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("label", QUERIES)
async def test_query(client, inbox, label, method):
    query, expected = QUERIES[label]
    await client.request(method, f"/callback/gw1/new-token{query}")
    assert inbox.taken[0][3] == expected


async def test_the_secret_is_not_handed_on(client, inbox):
    await client.get("/callback/gw1?username=any&password=new-token&port=3")
    assert inbox.taken[0][3] == {"port": "3"}


# --- what is answered ------------------------------------------------------------------------------------------------


async def test_the_largest_body_is_taken(client, inbox):
    answer = await client.post("/callback/gw1/new-token", content=b"x" * MAX_BODY_BYTES)
    assert answer.status_code == 200
    assert len(inbox.taken[0][1]) == MAX_BODY_BYTES


async def test_one_byte_more_is_too_much(client, inbox, metrics):
    answer = await client.post("/callback/gw1/new-token", content=b"x" * (MAX_BODY_BYTES + 1))
    assert answer.status_code == 413
    assert not inbox.taken
    assert counted(metrics, "gw1", 413, "-") == 1


async def test_a_body_without_a_length_is_counted_as_it_comes(client, inbox):
    async def endless():
        while True:
            yield b"x" * 65536

    answer = await client.post("/callback/gw1/new-token", content=endless())
    assert (answer.status_code, answer.headers["connection"]) == (413, "close")
    assert not inbox.taken


async def test_a_body_that_does_not_come_is_not_waited_for(client, inbox, metrics, monkeypatch):
    monkeypatch.setattr(web_module, "BODY_WITHIN_S", 0.05)

    async def stalling():
        yield b"{"
        await asyncio.Event().wait()

    answer = await client.post("/callback/gw1/new-token", content=stalling())
    assert answer.status_code == 408
    assert not inbox.taken
    assert counted(metrics, "gw1", 408, "-") == 1


async def test_what_the_ledger_cannot_store_is_not_acknowledged(client, inbox, metrics):
    inbox.error = LedgerUnavailable("disk full")
    assert (await client.post("/callback/gw1/new-token", content=b"{}")).status_code == 503
    assert counted(metrics, "gw1", 503, "-") == 1
    inbox.error = None
    assert (await client.post("/callback/gw1/new-token", content=b"{}")).status_code == 200


async def test_a_mistake_of_ours_is_not_acknowledged_and_harms_nothing_else(client, inbox, metrics):
    inbox.error = KeyError("oops")
    assert (await client.post("/callback/gw1/new-token", content=b"{}")).status_code == 500
    assert counted(metrics, "gw1", 500, "-") == 1
    assert (await client.get("/healthz")).status_code == 200


async def test_each_answer_is_counted_once(client, metrics):
    for path in ("/callback/gw1/new-token", "/callback/gw1/wrong", "/callback/anybody/x", "/callback/gw2/other"):
        await client.post(path, content=b"{}")
    assert counted(metrics, "gw1", 200, "dev-status") == 1
    assert counted(metrics, "gw1", 403, "-") == 1
    assert counted(metrics, "-", 404, "-") == 1
    assert counted(metrics, "gw2", 200, "dev-status") == 1
    assert counted(metrics, "anybody", 404, "-") is None


async def test_refusals_are_said_once_a_minute_and_without_secrets(client):
    with structlog.testing.capture_logs() as lines:
        for _ in range(5):
            await client.post("/callback/gw1/hush?password=hush&a=hush")
            await client.post("/callback/stranger/hush?a=hush")
    assert [(line["event"], line["gateway"], line["status"]) for line in lines] == [
        ("callback.refused", "gw1", 403),
        ("callback.refused", "stranger", 404),
    ]
    assert "hush" not in repr(lines)


async def test_a_mistake_of_ours_is_logged_without_secrets(client, inbox):
    inbox.error = KeyError("oops")
    with structlog.testing.capture_logs() as lines:
        await client.post("/callback/gw1/new-token?password=hush")
    assert [line["event"] for line in lines] == ["callback.failed", "callback.refused"]
    assert "hush" not in repr(lines)
    assert "new-token" not in repr(lines)


async def test_health_is_that_the_process_lives(client, inbox):
    inbox.missing = ["broker"]
    answer = await client.get("/healthz")
    assert (answer.status_code, answer.text) == (200, "OK")


async def test_readiness_names_what_is_missing(client, inbox):
    inbox.missing = ["no session with the broker"]
    answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json() == {"ready": False, "missing": ["no session with the broker"], "ports_up": 3}
    inbox.missing = []
    answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()["ready"]) == (200, True)


async def test_not_ready_does_not_mean_do_not_call_back(client, inbox):
    inbox.missing = ["broker"]
    assert (await client.post("/callback/gw1/new-token", content=b"{}")).status_code == 200


async def test_metrics_are_in_prometheus_own_format(client, metrics):
    metrics.start_at_zero({"gw1": [1]}, ["default"])
    answer = await client.get("/metrics")
    assert answer.headers["content-type"] == prometheus_client.CONTENT_TYPE_LATEST
    assert 'ejoin_sent_total{gateway="gw1",port="1"} 0.0' in answer.text
    assert "process_cpu_seconds_total" in answer.text


async def test_what_is_nowhere_is_not_found(client):
    assert (await client.get("/")).status_code == 404


# --- a real server ---------------------------------------------------------------------------------------------------


@pytest.fixture
async def served(web):
    await web.start()
    yield web
    await web.stop(1.0)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.01)


async def speak(address: str, raw: bytes) -> bytes:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    writer.write(raw)
    await writer.drain()
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_it_listens_where_it_says(served, inbox):
    assert not served.address.endswith(":0")
    async with httpx.AsyncClient(base_url=f"http://{served.address}") as client:
        answer = await client.post("/callback/gw1/new-token?a=b?c=d", content=b"x" * 200_000)
        assert answer.status_code == 200
        assert "server" not in answer.headers
        assert (await client.get("/metrics")).status_code == 200
        assert (await client.post("/callback/gw1/new-token", content=b"x" * 4_000_000)).status_code == 413
    assert [(len(body), query) for _, body, _, query in inbox.taken] == [(200_000, {"a": "b", "c": "d"})]


async def test_a_device_as_devices_are(served, inbox):
    raw = (
        b"POST /callback/gw1/new-token?username=root&password=root&port=4&sender=13510956503 HTTP/1.1\r\n"
        b"User-Agent: Ejoin SMSC/1.0\r\nHost: x\r\nContent-Type: application/octet-stream\r\n"
        b"Content-Length: 5\r\nConnection: Close\r\n\r\nhello"
    )
    answer = await speak(served.address, raw)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert inbox.taken == [("gw1", b"hello", "application/octet-stream", {"port": "4", "sender": "13510956503"})]


async def test_what_is_no_http_is_refused(served, inbox):
    assert (await speak(served.address, b"\x16\x03\x01hello\r\n\r\n")).startswith(b"HTTP/1.1 400")
    assert not inbox.taken


async def test_a_head_without_end_is_refused(served):
    assert (await speak(served.address, b"GET / HTTP/1.1\r\nx: " + b"y" * 100_000)).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("begin", [b"", b"GET /healthz HTT", b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nGET /heal"])
async def test_who_does_not_speak_on_is_hung_up_on(served, monkeypatch, begin):
    monkeypatch.setattr(web_module, "HEAD_WITHIN_S", 0.05)
    answer = await speak(served.address, begin)
    assert answer.startswith(b"HTTP/1.1 200") if b"\r\n\r\n" in begin else answer == b""


async def test_a_connection_is_used_again(served):
    request = b"GET /healthz HTTP/1.1\r\nhost: x\r\n"
    answer = await speak(served.address, (request + b"\r\n") * 3 + request + b"connection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200 OK") == 4


async def test_a_sender_that_hangs_up_midway_is_counted(served, metrics, inbox):
    host, _, port = served.address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /callback/gw1/new-token HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf")
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    await until(lambda: counted(metrics, "gw1", 408, "-") == 1)
    assert not inbox.taken


async def test_a_stop_finishes_what_is_being_answered(web, inbox):
    inbox.hold = asyncio.Event()
    await web.start()
    async with httpx.AsyncClient(base_url=f"http://{web.address}") as client:
        answering = asyncio.create_task(client.post("/callback/gw1/new-token", content=b"{}"))
        await until(lambda: web._server.server_state.tasks)
        stopping = asyncio.create_task(web.stop(5.0))
        await asyncio.sleep(0.3)
        assert not stopping.done()
        inbox.hold.set()
        assert (await answering).status_code == 200
        await stopping
        with pytest.raises(httpx.ConnectError):
            await client.get("/healthz")
    await web.stop(1.0)


async def test_a_stop_does_not_wait_beyond_its_grace(web, inbox):
    inbox.hold = asyncio.Event()
    await web.start()
    async with httpx.AsyncClient(base_url=f"http://{web.address}") as client:
        answering = asyncio.create_task(client.post("/callback/gw1/new-token", content=b"{}"))
        await until(lambda: web._server.server_state.tasks)
        async with asyncio.timeout(5):
            await web.stop(0.5)
        assert (await answering).status_code == 500
    assert not inbox.taken


async def test_signals_stay_ours(web):
    def hands() -> list[object]:
        return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    before = hands()
    await web.start()
    assert hands() == before
    await web.stop(1.0)
    assert hands() == before


async def test_an_address_that_is_taken_is_said_in_a_sentence(served, inbox, metrics):
    second = Web(served.address, gateways=TOKENS, on_callback=inbox, ready=inbox.ready, metrics=metrics)
    with pytest.raises(SettingsInvalid) as caught:
        await second.start()
    assert str(caught.value) == (
        f"web.listen: {served.address} cannot be had: Address already in use (name another address)"
    )
    await second.stop(1.0)


async def test_an_address_that_nobody_knows_is_said_in_a_sentence(inbox, metrics):
    web = Web("no.such.host.invalid:0", gateways=TOKENS, on_callback=inbox, ready=inbox.ready, metrics=metrics)
    with pytest.raises(SettingsInvalid, match=r"^web.listen: no.such.host.invalid:0 cannot be had: .+ \(name another"):
        await web.start()


async def test_it_listens_on_ipv6_too(inbox, metrics):
    web = Web("[::1]:0", gateways=TOKENS, on_callback=inbox, ready=inbox.ready, metrics=metrics)
    assert web.address == "[::1]:0"
    await web.start()
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"http://{web.address}/healthz")).status_code == 200
    await web.stop(1.0)
