"""Publishing with nothing added: aiormq gives every message an id of its own, other clients do not."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from pamqp import body, commands, frame, header


async def publish_without_properties(url: str, exchange: str, routing_key: str, content: bytes) -> None:
    """Publish one message without any AMQP property, and wait until the broker has read it."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 5672)
    received = b""

    async def expect(kind: type) -> None:
        nonlocal received
        while True:
            received += await reader.read(65536)
            while received:
                consumed, _, value = frame.unmarshal(received)
                if value is None:
                    break
                received = received[consumed:]
                if isinstance(value, kind):
                    return

    def send(*frames: object, channel: int = 0) -> None:
        for one in frames:
            writer.write(frame.marshal(one, channel))  # type: ignore[arg-type]

    send(header.ProtocolHeader())
    await expect(commands.Connection.Start)
    login = f"\0{parts.username or 'guest'}\0{parts.password or 'guest'}"
    send(commands.Connection.StartOk(client_properties={}, mechanism="PLAIN", response=login, locale="en_US"))
    await expect(commands.Connection.Tune)
    send(commands.Connection.TuneOk(channel_max=1, frame_max=131072, heartbeat=0))
    send(commands.Connection.Open(virtual_host=parts.path.lstrip("/") or "/"))
    await expect(commands.Connection.OpenOk)
    send(commands.Channel.Open(), channel=1)
    await expect(commands.Channel.OpenOk)
    send(
        commands.Basic.Publish(exchange=exchange, routing_key=routing_key),
        header.ContentHeader(body_size=len(content), properties=commands.Basic.Properties()),
        body.ContentBody(content),
        commands.Channel.Close(reply_code=200, reply_text="done", class_id=0, method_id=0),
        channel=1,
    )
    await expect(commands.Channel.CloseOk)
    writer.close()
    await writer.wait_closed()
