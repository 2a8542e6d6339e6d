"""The proxy between the processes: each way to misbehave, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from dev.chaos.proxy import NOWHERE, Proxy

PATIENCE_S = 10.0


@dataclass
class Echo:
    """A server that answers each piece of data with the same in capitals."""

    got: list[bytes] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1000):
                self.got.append(data)
                self.news.set()
                writer.write(data.upper())
        except ConnectionError:
            pass
        self.ended.set()
        writer.close()


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[Proxy]:
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    proxy = Proxy(server.sockets[0].getsockname()[:2])
    await proxy.open()
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield proxy
    finally:
        await proxy.close()
        server.close()


async def connect(proxy: Proxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", proxy.port)


async def test_both_directions_are_carried_and_an_end_is_passed_on(proxy: Proxy, echo: Echo):
    reader, writer = await connect(proxy)
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"HELLO"
    writer.close()
    await echo.ended.wait()


async def test_an_end_of_the_target_reaches_the_caller_after_its_last_words(proxy: Proxy):
    async def brief(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"bye")
        writer.close()

    server = await asyncio.start_server(brief, "127.0.0.1", 0)
    proxy.target = server.sockets[0].getsockname()[:2]
    proxy.delay_s = 0.02
    reader, writer = await connect(proxy)
    assert await reader.read() == b"bye"
    writer.close()
    server.close()


async def test_a_delay_keeps_the_order(proxy: Proxy, echo: Echo):
    proxy.delay_s = 0.02
    reader, writer = await connect(proxy)
    writer.write(b"one ")
    await writer.drain()
    writer.write(b"two")
    assert await reader.readexactly(7) == b"ONE TWO"
    assert b"".join(echo.got) == b"one two"
    writer.close()


async def test_a_refusing_proxy_takes_nobody_and_opens_again_on_the_same_port(proxy: Proxy):
    port = proxy.port
    await proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        await connect(proxy)
    await proxy.open()
    assert proxy.port == port
    reader, writer = await connect(proxy)
    writer.write(b"x")
    assert await reader.readexactly(1) == b"X"
    writer.close()


async def test_a_target_that_refuses_ends_the_connection(proxy: Proxy):
    proxy.target = NOWHERE
    reader, writer = await connect(proxy)
    with pytest.raises(ConnectionResetError):
        await reader.readexactly(1)
    writer.close()


async def test_a_reset_reaches_both_ends(proxy: Proxy, echo: Echo):
    reader, writer = await connect(proxy)
    writer.write(b"x")
    await reader.readexactly(1)
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        await reader.readexactly(1)
    await echo.ended.wait()
    writer.close()


async def test_a_truncated_answer_ends_in_the_middle(proxy: Proxy):
    proxy.truncations = 1
    reader, writer = await connect(proxy)
    writer.write(b"abcdef")
    assert await reader.read() == b"ABC"
    writer.close()


async def test_a_hole_holds_the_bytes_while_both_ends_stay(proxy: Proxy, echo: Echo):
    reader, writer = await connect(proxy)
    writer.write(b"a")
    await reader.readexactly(1)
    proxy.hole = True
    writer.write(b"b")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await reader.readexactly(1)
    assert echo.got == [b"a"]
    proxy.hole = False
    assert await reader.readexactly(1) == b"B"
    writer.close()


async def test_what_a_caller_sent_into_a_hole_is_lost_when_it_gives_up(proxy: Proxy, echo: Echo):
    reader, writer = await connect(proxy)
    writer.write(b"a")
    await reader.readexactly(1)
    proxy.hole = True
    writer.write(b"never")
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    while not any(link.caller.gone for link in proxy._links):  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert not echo.ended.is_set()  # nobody tells the other end while the hole is open
    proxy.hole = False
    await echo.ended.wait()
    assert echo.got == [b"a"]


async def test_a_hole_for_a_new_connection_says_nothing_until_it_is_closed(proxy: Proxy, echo: Echo):
    proxy.hole = True
    reader, writer = await connect(proxy)
    writer.write(b"late")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await reader.readexactly(4)
    proxy.hole = False
    assert await reader.readexactly(4) == b"LATE"
    writer.close()
