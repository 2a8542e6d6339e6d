"""The client of one device: what leaves, and above all what is known when something goes wrong on the way."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from bridge.ejoin.facts import Envelope, ListedTask, SmsTask, SubmitAnswer, TaskAck
from bridge.ejoin.ports import Port
from bridge.errors import BridgeError, GatewayGarbled, GatewayNotReached, GatewaySilent
from bridge.gateway import MAX_ANSWER_BYTES, MAX_PAGES, TASKS_PER_PAGE, Gateway
from tests.ejoin.cases import INBOXES, STATISTICS, STATUSES, SUBMIT_ANSWERS

TASKS = [SmsTask(5011, Port(1), "+4915112345678", "hi"), SmsTask(5012, Port(2), "+4915112345679", "ho")]
ANSWER = SUBMIT_ANSWERS[0]
PASSWORD = "s#cr et&"
TIME_WAIT = "06"

Handler = Callable[[httpx.Request], Any]
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def gateway(url: str = "http://10.0.0.9/", handler: Handler | None = None, **options: Any) -> Gateway:
    told: dict[str, Any] = {
        "dial": "plus",
        "charset": "auto",
        "api_version": "1.1",
        "credentials": "both",
        "envelope": Envelope("http://bridge/cb"),
        "connect_timeout_s": 5.0,
        "post_timeout_s": 10.0,
        "transport": httpx.MockTransport(handler) if handler else None,
    }
    return Gateway("gw1", url, "root", PASSWORD, **told | options)


def answering(body: bytes, status: int = 200, seen: list[httpx.Request] | None = None) -> Handler:
    def handler(request: httpx.Request) -> httpx.Response:
        if seen is not None:
            seen.append(request)
        return httpx.Response(status, content=body)

    return handler


# --- what leaves, and what comes back ---------------------------------------------------------------------------------


async def test_a_submit_leaves_as_one_post() -> None:
    seen: list[httpx.Request] = []
    answer = await gateway(handler=answering(ANSWER.body, seen=seen)).submit(TASKS)
    assert answer == ANSWER.fact
    (request,) = seen
    assert request.method == "POST"
    assert str(request.url) == "http://10.0.0.9/goip_post_sms.html?username=root&password=s%23cr%20et%26"
    assert request.headers["Content-Type"] == "application/json;charset=utf-8"
    assert request.headers["Connection"] == "close"
    body = json.loads(request.content)
    assert (body["username"], body["password"], body["task_num"]) == ("root", PASSWORD, 2)
    assert [task["tid"] for task in body["tasks"]] == [5011, 5012]


@pytest.mark.parametrize(("where", "in_query", "in_body"), [("query", True, False), ("body", False, True)])
async def test_the_login_stands_where_the_device_reads_it(where: str, in_query: bool, in_body: bool) -> None:
    seen: list[httpx.Request] = []
    told = gateway(handler=answering(ANSWER.body, seen=seen), credentials=where)
    await told.submit(TASKS)
    assert ("password" in seen[0].url.params, "password" in json.loads(seen[0].content)) == (in_query, in_body)
    seen.clear()
    with suppress(GatewayGarbled):
        await told.tasks(Port(1))
    assert "password" in seen[0].url.params, "a question has no body"


async def test_the_old_interface_is_asked_by_get_and_its_answer_is_the_last_word() -> None:
    seen: list[httpx.Request] = []
    old = gateway(handler=answering(b'{"code":0,"reason":"OK"}', seen=seen), api_version="1.0")
    assert await old.submit(TASKS[:1]) == SubmitAnswer(200, "OK", (TaskAck(5011, 0, "OK", final=True),))
    (request,) = seen
    assert (request.method, request.url.path, request.content) == ("GET", "/goip_send_sms.html", b"")
    told = {"username": "root", "password": PASSWORD, "port": "1", "recipients": "+4915112345678", "sms": "hi"}
    assert dict(request.url.params) == told | {"charset": "UTF-8"}
    assert await gateway(handler=answering(b"", 401), api_version="1.0").submit(TASKS[:1]) == SubmitAnswer(
        1, "HTTP 401", ()
    )


async def test_a_wrong_password_is_an_answer() -> None:
    assert await gateway(handler=answering(b"<html>", 401)).submit(TASKS) == SubmitAnswer(1, "HTTP 401", ())
    refused = await gateway(handler=answering(b'{"code":1,"reason":"Invalid User"}')).submit(TASKS)
    assert refused == SubmitAnswer(1, "Invalid User", ())


async def test_a_readable_body_counts_whatever_the_http_status() -> None:
    body = b'{"code":200,"status":[{"tid":5011,"status":"0 OK"}]}'
    answer = await gateway(handler=answering(body, 500)).submit(TASKS)
    assert answer.acks == (TaskAck(5011, 0, "OK"),)


@pytest.mark.parametrize(("status", "body"), [(200, b""), (200, b"[]"), (200, b"OK"), (500, b""), (302, b"<html>")])
async def test_an_answer_that_is_no_object_is_garbled(status: int, body: bytes) -> None:
    with pytest.raises(GatewayGarbled, match=f"gw1: HTTP {status}, "):
        await gateway(handler=answering(body, status)).submit(TASKS)


async def test_an_endless_answer_is_garbled() -> None:
    with pytest.raises(GatewayGarbled, match="more than"):
        await gateway(handler=answering(b" " * (MAX_ANSWER_BYTES + 1))).submit(TASKS)


async def test_an_impossible_task_leaves_nothing() -> None:
    seen: list[httpx.Request] = []
    with pytest.raises(ValueError, match="one recipient"):
        await gateway(handler=answering(b"{}", seen=seen)).submit([SmsTask(1, Port(1), "+49,+50", "hi")])
    assert seen == []


async def test_a_moment_that_passed_leaves_nothing() -> None:
    seen: list[httpx.Request] = []
    with pytest.raises(GatewayNotReached, match="its moment passed"):
        await gateway(handler=answering(ANSWER.body, seen=seen)).submit(TASKS, ready=lambda: False)
    assert seen == []


async def test_a_task_list_is_read_page_by_page() -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        first = int(request.url.params["pos"])
        tids = range(first + 1, min(first + TASKS_PER_PAGE, 150) + 1)
        return httpx.Response(200, json={"code": 200, "tasks": [{"tid": tid, "to": "1"} for tid in tids]})

    listed = await gateway(handler=handler).tasks(Port(3, 1))
    assert listed == tuple(ListedTask(tid, "1") for tid in range(1, 151))
    assert [request.method for request in seen] == ["GET", "GET"]
    assert "Content-Type" not in seen[0].headers
    assert dict(seen[1].url.params) == {
        "username": "root",
        "password": PASSWORD,
        "version": "1.1",
        "port": "3",
        "pos": "100",
        "num": "100",
        "has_content": "0",
    }


async def test_a_task_list_without_end_is_left_alone() -> None:
    seen: list[httpx.Request] = []
    page = json.dumps({"tasks": [{"tid": 1, "to": "1"}] * TASKS_PER_PAGE}).encode()
    await gateway(handler=answering(page, seen=seen)).tasks(Port(3))
    assert len(seen) == MAX_PAGES


COMMANDS: dict[str, tuple[Callable[[Gateway], Awaitable[Any]], str, str, dict[str, str], bytes]] = {
    "lock": (
        lambda box: box.command("lock", "1A,2"),
        "GET",
        "/goip_send_cmd.html",
        {"op": "lock", "port": "1A,2"},
        b"",
    ),
    "reboot": (lambda box: box.command("reboot"), "GET", "/goip_send_cmd.html", {"op": "reboot"}, b""),
    "get": (lambda box: box.get(["sw_ver"]), "GET", "/goip_send_cmd.html", {"op": "get", "par_name(0)": "sw_ver"}, b""),
    "set": (lambda box: box.set({"a(0)": "b"}), "POST", "/goip_send_cmd.html", {"op": "set"}, b"a(0)=b"),
    "ussd": (
        lambda box: box.ussd(Port(3), "*100#", timeout_s=9, retries=1),
        "GET",
        "/goip_send_ussd.html",
        {"port": "3", "ussd": "*100#", "timeout": "9", "retries": "1"},
        b"",
    ),
    "pause": (lambda box: box.change_tasks("pause", [2]), "POST", "/goip_pause_sms.html", {}, b'{"tids":[2]}'),
    "remove": (lambda box: box.change_tasks("remove", [2]), "POST", "/goip_remove_sms.html", {}, b'{"tids":[2]}'),
    "calls": (lambda box: box.call_statistics("1"), "GET", "/goip_get_call_stat.html", {"ports": "1"}, b""),
}


@pytest.mark.parametrize("name", COMMANDS)
async def test_a_command_leaves_as_devices_read_it(name: str) -> None:
    ask, method, path, params, content = COMMANDS[name]
    seen: list[httpx.Request] = []
    await ask(gateway(handler=answering(b'{"code":0,"reason":"OK","stats":[]}', seen=seen)))
    (request,) = seen
    assert (request.method, request.url.path, request.content) == (method, path, content)
    assert request.url.params["username"] == "root"
    assert params.items() <= dict(request.url.params).items()


async def test_no_tasks_are_ever_changed_without_their_ids() -> None:
    seen: list[httpx.Request] = []
    with pytest.raises(ValueError, match="all of them"):
        await gateway(handler=answering(b"{}", seen=seen)).change_tasks("remove", [])
    assert seen == []


async def test_a_status_is_asked_with_and_without_a_callback() -> None:
    seen: list[httpx.Request] = []
    device = gateway(handler=answering(STATUSES[0].body, seen=seen))
    assert await device.status(callback_url="http://bridge/cb?x", period_s=60) == STATUSES[0].fact
    assert await device.status() == STATUSES[0].fact
    assert seen[0].url.path == "/goip_get_status.html"
    assert dict(seen[0].url.params) == {
        "username": "root",
        "password": PASSWORD,
        "url": "http://bridge/cb?x",
        "period": "60",
    }
    assert "Content-Type" not in seen[1].headers
    assert set(seen[1].url.params) == {"username", "password"}


async def test_statistics_are_asked_for_all_ports_since_the_start() -> None:
    seen: list[httpx.Request] = []
    device = gateway(handler=answering(STATISTICS[0].body, seen=seen))
    assert await device.statistics() == STATISTICS[0].fact
    (request,) = seen
    assert (request.method, request.url.path) == ("GET", "/goip_get_sms_stat.html")
    assert dict(request.url.params) == {
        "username": "root",
        "password": PASSWORD,
        "version": "1.1",
        "ports": "all",
        "type": "3",
    }


async def test_a_page_of_the_inbox_is_read_and_nothing_is_deleted() -> None:
    seen: list[httpx.Request] = []
    device = gateway(handler=answering(INBOXES[0].body, seen=seen))
    assert await device.inbox(start=7, count=50) == INBOXES[0].fact
    (request,) = seen
    assert (request.method, request.url.path) == ("GET", "/goip_get_sms.html")
    assert dict(request.url.params) == {
        "username": "root",
        "password": PASSWORD,
        "version": "1.1",
        "sms_id": "7",
        "sms_num": "50",
    }


async def test_a_refused_question_is_garbled() -> None:
    device = gateway(handler=answering(b'{"code":1,"reason":"Invalid User"}', 401))
    with pytest.raises(GatewayGarbled, match=r"HTTP 401, .*1 Invalid User"):
        await device.status()
    with pytest.raises(GatewayGarbled, match=r"HTTP 401, .*1 Invalid User"):
        await device.tasks(Port(1))
    with pytest.raises(GatewayGarbled, match=r"HTTP 401, .*1 Invalid User"):
        await device.statistics()
    with pytest.raises(GatewayGarbled, match=r"HTTP 401, .*1 Invalid User"):
        await device.inbox(start=1, count=50)


# --- what is known when it went wrong ---------------------------------------------------------------------------------


def raising(error: Exception) -> Handler:
    def handler(_request: httpx.Request) -> httpx.Response:
        raise error

    return handler


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (httpx.ConnectError("All connection attempts failed"), GatewayNotReached),
        (httpx.ConnectTimeout(""), GatewayNotReached),
        (httpx.PoolTimeout(""), GatewayNotReached),
        (httpx.ReadError(""), GatewaySilent),
        (httpx.ReadTimeout(""), GatewaySilent),
        (httpx.WriteError(""), GatewaySilent),
        (httpx.WriteTimeout(""), GatewaySilent),
        (httpx.RemoteProtocolError(""), GatewaySilent),
        (httpx.LocalProtocolError(""), GatewaySilent),
        (ConnectionResetError(104, "reset"), GatewaySilent),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value.__name__,
)
async def test_only_a_connection_never_made_is_not_reached(error: Exception, expected: type[BridgeError]) -> None:
    with pytest.raises(expected):
        await gateway(handler=raising(error)).submit(TASKS)


async def test_a_deadline_after_connecting_is_silence() -> None:
    async def never(_request: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(GatewaySilent, match=r"nothing in 0\.05 s"):
        await gateway(handler=never, post_timeout_s=0.05).submit(TASKS)


async def test_no_text_holds_credentials() -> None:
    texts = [repr(gateway("http://root:pw@10.0.0.9:80/x"))]
    for handler in (raising(httpx.ReadError("at http://h/?password=s%23cr")), answering(b"", 500)):
        with pytest.raises(BridgeError) as caught:
            await gateway(handler=handler).submit(TASKS)
        texts.append(str(caught.value))
    assert texts[0] == "<Gateway gw1 at 10.0.0.9:80>"
    assert not any("pw" in text or "s#cr" in text or "s%23cr" in text for text in texts)


# --- on a real wire ---------------------------------------------------------------------------------------------------


@asynccontextmanager
async def device(talk: Talk) -> AsyncIterator[str]:
    """A device that does what ``talk`` does with each connection; gives its address."""
    talks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        current = asyncio.current_task()
        assert current is not None
        talks.add(current)
        try:
            await talk(reader, writer)
        except asyncio.CancelledError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.close()
        for task in talks:
            task.cancel()
        await asyncio.gather(*talks)


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[Gateway]:
    client = gateway(url, **options)
    try:
        yield client
    finally:
        await client.close()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    return head + await reader.readexactly(length)


def http(body: bytes, *, length: int | None = None) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body) if length is None else length, body)


async def test_each_request_has_a_connection_of_its_own_and_closes_it() -> None:
    heads: list[bytes] = []
    closed: asyncio.Queue[bytes] = asyncio.Queue()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await read_request(reader))
        writer.write(http(ANSWER.body))
        await writer.drain()
        closed.put_nowait(await reader.read())

    async with device(talk) as url, opened(url) as client, asyncio.timeout(5):
        for _ in range(2):
            assert await client.submit(TASKS) == ANSWER.fact
            assert await closed.get() == b""
    assert [head.startswith(b"POST /goip_post_sms.html?username=root&") for head in heads] == [True, True]


async def test_an_answer_without_length_ends_with_the_connection() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + ANSWER.body)
        await writer.drain()

    async with device(talk) as url, opened(url) as client:
        assert await client.submit(TASKS) == ANSWER.fact


async def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(http(ANSWER.body))
        await writer.drain()

    async with device(talk) as url, opened(url) as client:
        assert await client.submit(TASKS) == ANSWER.fact


async def close_at_once(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """The device takes the connection and drops it."""


async def close_after_reading(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await read_request(reader)


async def reset_after_reading(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def half_an_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(http(ANSWER.body[:20], length=len(ANSWER.body)))
    await writer.drain()


async def half_a_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-")
    await writer.drain()


async def no_http_at_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(b"\0\1\2 hello\r\n\r\n")
    await writer.drain()


@pytest.mark.parametrize(
    "talk", [close_at_once, close_after_reading, reset_after_reading, half_an_answer, half_a_head, no_http_at_all]
)
async def test_anything_after_the_connection_is_silence(talk: Talk) -> None:
    async with device(talk) as url, opened(url) as client:
        with pytest.raises(GatewaySilent, match="gw1: the answer was lost"):
            await client.submit(TASKS)


async def test_half_an_answer_without_length_is_garbled() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + ANSWER.body[:20])
        await writer.drain()

    async with device(talk) as url, opened(url) as client:
        with pytest.raises(GatewayGarbled):
            await client.submit(TASKS)


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"])
async def test_a_device_that_stops_talking_is_silent_at_the_deadline(begun: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(begun)
        await asyncio.Event().wait()

    async with device(talk) as url, opened(url, post_timeout_s=0.2) as client:
        with pytest.raises(GatewaySilent, match=r"nothing in 0\.2 s"):
            await client.submit(TASKS)


async def test_a_closed_door_is_not_reached() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        async with opened(url) as client:
            with pytest.raises(GatewayNotReached, match="gw1: no connection"):
                await client.submit(TASKS)


async def test_a_name_that_no_resolver_takes_is_not_reached() -> None:
    async with opened(f"http://{'a' * 70}.invalid") as client:
        with pytest.raises(GatewayNotReached, match="gw1: no connection"):
            await client.submit(TASKS)


async def test_a_device_that_speaks_no_tls_is_not_reached() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    async with device(talk) as url, opened(url.replace("http", "https")) as client:
        with pytest.raises(GatewayNotReached, match="gw1: no connection"):
            await client.submit(TASKS)


@contextmanager
def full_house() -> Iterator[str]:
    """A listening socket that takes no more connections: the next one hangs while it is being made."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        guests = [socket.socket() for _ in range(8)]
        try:
            for guest in guests:
                guest.setblocking(False)
                guest.connect_ex(listener.getsockname())
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            for guest in guests:
                guest.close()


@pytest.mark.parametrize(("connect_timeout_s", "post_timeout_s"), [(0.1, 10.0), (10.0, 0.1), (0.1, 0.1)])
async def test_a_connection_that_hangs_is_not_reached(connect_timeout_s: float, post_timeout_s: float) -> None:
    with full_house() as url:
        async with opened(url, connect_timeout_s=connect_timeout_s, post_timeout_s=post_timeout_s) as client:
            with pytest.raises(GatewayNotReached, match="gw1: no connection"):
                await client.submit(TASKS)


def has_connection(url: str) -> bool:
    """Whether this machine's kernel still works on a connection to the address, open or closed by us.

    One in TIME_WAIT is over; it may be anybody's who had this port before.
    """
    remote = f":{urlsplit(url).port:04X}"
    connections = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(to.endswith(remote) and state != TIME_WAIT for _, _, to, state, *_ in connections)


async def kernel_gives_up(url: str) -> None:
    async with asyncio.timeout(10):
        while True:
            if not has_connection(url):
                return
            await asyncio.sleep(0.01)


def read_all(connection: socket.socket) -> bytes:
    """Everything up to the end of the connection, whichever it is."""
    arrived = b""
    with connection, suppress(ConnectionResetError):
        while chunk := connection.recv(65_536):
            arrived += chunk
    return arrived


async def test_what_was_given_up_does_not_arrive_later() -> None:
    # Given a device that reads nothing until the request was given up, and has room for a small part of it.
    tasks = [replace(TASKS[0], tid=tid, text="x" * 1_000) for tid in range(1, 50)]
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with opened(url, post_timeout_s=0.1) as client:
            with pytest.raises(GatewaySilent):
                await client.submit(tasks)
        # Then our kernel gives up too, and what the device reads at last is no whole request.
        await kernel_gives_up(url)
        assert 0 < len(read_all(listener.accept()[0])) < 10_000


async def test_requests_do_not_wait_for_each_other() -> None:
    # Given a device that answers nobody before two have asked.
    asked: list[bytes] = []
    both = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await read_request(reader))
        if len(asked) == 2:
            both.set()
        await both.wait()
        writer.write(http(ANSWER.body))
        await writer.drain()

    async with device(talk) as url, opened(url) as client:
        answers = await asyncio.gather(client.submit(TASKS), client.submit(TASKS))
    assert answers == [ANSWER.fact, ANSWER.fact]


async def test_a_cancelled_request_is_cancelled_and_closes_its_connection() -> None:
    asked, gone = asyncio.Event(), asyncio.Event()

    async def talk(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        asked.set()
        await reader.read()
        gone.set()

    async with device(talk) as url, opened(url) as client:
        submit = asyncio.create_task(client.submit(TASKS))
        await asked.wait()
        submit.cancel()
        with pytest.raises(asyncio.CancelledError):
            await submit
        async with asyncio.timeout(5):
            await gone.wait()
