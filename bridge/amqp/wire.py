"""The bytes under a broker connection: a socket that can be cut, and frames that aiormq can always read.

aiormq ends the whole connection over one message whose properties it cannot decode (text that is not UTF-8, a
timestamp past the year 9999), and the broker delivers that message again to the next connection, for ever. Here such
a frame is replaced by a readable one before aiormq sees it, so that the message can be put aside like any other.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiormq
import aiormq.connection
import aiormq.exceptions
from pamqp import commands, constants, frame, header
from yarl import URL

UNREADABLE = "x-unreadable-properties"
"""The only property of a delivery whose own could not be read: a header that says why."""

BROKEN = (aiormq.exceptions.AMQPError, RuntimeError, OSError)
"""What aiormq raises where a connection or channel is gone; a closed one says so by a RuntimeError."""

CONNECT_WITHIN_S = 10.0
CLOSE_WITHIN_S = 3.0
READ_BYTES = 256 * 1024
PREFIX_BYTES = constants.FRAME_HEADER_SIZE
DELIVER = struct.pack(">HH", 60, 60)


@asynccontextmanager
async def connection(url: str, purpose: str, *, heartbeat_s: int = 15) -> AsyncIterator[aiormq.Connection]:
    """An AMQP connection; on the way out it takes its leave where the peer still listens, and is cut where not.

    Raises one of BROKEN or TimeoutError where it cannot be made.
    """
    transport = Transport()
    amqp = _Connection(
        URL(url).update_query(heartbeat=str(heartbeat_s)),
        transport_factory=transport,  # type: ignore[arg-type]  # has the one method that is called
        client_properties={"connection_name": f"ejoin-bridge {purpose}"},
    )
    try:
        async with asyncio.timeout(CONNECT_WITHIN_S):
            await amqp.connect()
        yield amqp
    finally:
        try:
            async with asyncio.timeout(CLOSE_WITHIN_S):
                await amqp.close(aiormq.ConnectionClosed(200, "closed by us"))
        except TimeoutError:
            pass
        finally:
            transport.cut()


class _Connection(aiormq.Connection):
    """Ends with a reason: where aiormq has none, it raises a bare Exception in whoever waits, like no other error."""

    def _cancel_tasks(self, exc: Any = None) -> Any:
        return super()._cancel_tasks(exc or aiormq.ConnectionClosed(0, "it ended without a reason"))


class Transport:
    """Opens a connection's socket for aiormq and keeps hold of it, so that it can be cut without a farewell."""

    def __init__(self) -> None:
        self._writer: asyncio.StreamWriter | None = None

    async def create(self, url: URL, **options: Any) -> tuple[FrameReader, asyncio.StreamWriter]:
        """What aiormq asks of a transport factory."""
        secure = url.scheme == "amqps"
        factory = aiormq.connection.TLSTransportFactory() if secure else aiormq.connection.TCPTransportFactory()
        reader, self._writer = await factory.create(url, **options)
        return FrameReader(reader), self._writer

    def cut(self) -> None:
        """Drop the connection at once, unsent bytes included; aiormq would wait for them for minutes."""
        if self._writer is not None:
            self._writer.transport.abort()


class FrameReader:
    """The reading half of a stream, as far as aiormq uses it; hands out whole, readable frames only."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._frames = b""
        self._at = 0
        self._rest = b""

    def at_eof(self) -> bool:
        """No: `readexactly` tells the end, by an error that aiormq names a cause for."""
        return False

    async def readexactly(self, count: int) -> bytes:
        """The next bytes; raises IncompleteReadError where the stream ends before them."""
        while self._at + count > len(self._frames):
            received = await self._reader.read(READ_BYTES)
            if not received:
                raise asyncio.IncompleteReadError(self._frames[self._at :] + self._rest, count)
            whole, self._rest = readable_frames(self._rest + received)
            self._frames, self._at = self._frames[self._at :] + whole, 0
        start, self._at = self._at, self._at + count
        return self._frames[start : self._at]


def readable_frames(received: bytes) -> tuple[bytes, bytes]:
    """The whole frames that these bytes begin with, each made readable, and the bytes of the unfinished one."""
    frames: list[bytes] = []
    at, end = 0, len(received)
    while end - at >= PREFIX_BYTES:
        kind, channel, size = struct.unpack_from(">BHI", received, at)
        if kind > constants.FRAME_HEARTBEAT:  # the protocol header of a broker that refuses us: aiormq's to report
            return b"".join(frames) + received[at:], b""
        after = at + PREFIX_BYTES + size + 1
        if after > end:
            break
        whole = received[at:after]
        if kind == constants.FRAME_HEADER:
            whole = _readable_header(whole, channel)
        elif kind == constants.FRAME_METHOD and whole.startswith(DELIVER, PREFIX_BYTES):
            whole = _readable_deliver(whole)
        frames.append(whole)
        at = after
    return b"".join(frames), received[at:]


def _readable_header(whole: bytes, channel: int) -> bytes:
    """The content header itself, or one with the same body size that only says what is wrong with it."""
    try:
        header.ContentHeader().unmarshal(whole[PREFIX_BYTES:-1])
    except Exception as error:  # noqa: BLE001  - whatever it is, aiormq would end the connection over it
        (body_size,) = struct.unpack_from(">Q", whole, PREFIX_BYTES + 4)
        told = commands.Basic.Properties(headers={UNREADABLE: ascii(str(error))})
        return frame.marshal(header.ContentHeader(body_size=body_size, properties=told), channel)
    return whole


def _readable_deliver(whole: bytes) -> bytes:
    """The delivery with a routing key in UTF-8; what is not ASCII in a key that is no UTF-8 becomes a question mark."""
    exchange_at = PREFIX_BYTES + 4 + 1 + whole[PREFIX_BYTES + 4] + 9  # class, method, consumer tag, tag, redelivered
    key_at = exchange_at + 1 + whole[exchange_at]
    key = whole[key_at + 1 : -1]
    try:
        key.decode()
    except UnicodeDecodeError:
        return whole[: key_at + 1] + bytes(byte if byte < 0x80 else ord("?") for byte in key) + whole[-1:]
    return whole
