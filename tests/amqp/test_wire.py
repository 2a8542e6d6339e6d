"""Frames that aiormq can always read, and what becomes of a message that it could not have read."""

import asyncio
import struct

import pytest
from pamqp import body, commands, frame, header

from bridge.amqp import wire
from bridge.amqp.wire import UNREADABLE, FrameReader, readable_frames
from bridge.models import Publication

MESSAGE_ID, TIMESTAMP = 0x80, 0x40
BAD_TEXT = struct.pack(">H", MESSAGE_ID) + b"\x03a\xff\xfe"
BAD_TIME = struct.pack(">HQ", TIMESTAMP, 2**63)


def content_header(properties: bytes, body_size: int = 5) -> bytes:
    payload = struct.pack(">HxxQ", 60, body_size) + properties
    return struct.pack(">BHI", 2, 7, len(payload)) + payload + b"\xce"


def deliver(routing_key: bytes) -> bytes:
    payload = struct.pack(">HH", 60, 60) + b"\x04ctag" + struct.pack(">Q?", 2**33 + 200, False) + b"\x03sms"
    payload += bytes([len(routing_key)]) + routing_key
    return struct.pack(">BHI", 1, 7, len(payload)) + payload + b"\xce"


ORDINARY = b"".join(
    [
        deliver("send.ötp".encode()),
        frame.marshal(
            header.ContentHeader(properties=commands.Basic.Properties(message_id="ä", headers={"x": 1}), body_size=5), 7
        ),
        frame.marshal(body.ContentBody(b"\x01\x02\xce\xff\x00"), 7),
        frame.marshal(commands.Basic.Ack(3), 1),
    ]
)


def test_frames_that_are_in_order_pass_unchanged():
    assert readable_frames(ORDINARY) == (ORDINARY, b"")


@pytest.mark.parametrize("cut", range(1, len(ORDINARY), 7))
def test_an_unfinished_frame_waits_for_its_rest(cut):
    whole, rest = readable_frames(ORDINARY[:cut])
    assert whole + rest == ORDINARY[:cut]
    more, nothing = readable_frames(rest + ORDINARY[cut:])
    assert (whole + more, nothing) == (ORDINARY, b"")


@pytest.mark.parametrize("properties", [BAD_TEXT, BAD_TIME, b"\x80", b"\xff\xff"])
def test_properties_that_cannot_be_read_become_one_header_that_says_why(properties):
    whole, _ = readable_frames(content_header(properties, body_size=70_000))
    _, channel, readable = frame.unmarshal(whole)
    assert (channel, readable.body_size) == (7, 70_000)
    assert list(readable.properties.headers) == [UNREADABLE]
    assert readable.properties.message_id is None


def test_a_routing_key_that_is_no_utf8_keeps_what_can_be_read():
    whole, _ = readable_frames(deliver(b"send.\xff\xfeotp"))
    _, _, readable = frame.unmarshal(whole)
    assert (readable.routing_key, readable.exchange, readable.delivery_tag) == ("send.??otp", "sms", 2**33 + 200)


def test_the_protocol_header_of_a_broker_that_refuses_us_passes():
    assert readable_frames(b"AMQP\x00\x00\x09\x01") == (b"AMQP\x00\x00\x09\x01", b"")


async def test_the_reader_hands_out_bytes_until_the_stream_ends():
    source = asyncio.StreamReader()
    reader = FrameReader(source)
    source.feed_data(ORDINARY[:40])
    first = await reader.readexactly(7)
    source.feed_data(ORDINARY[40:] + b"\x01\x00")
    rest = await reader.readexactly(len(ORDINARY) - 7)
    assert first + rest == ORDINARY
    source.feed_eof()
    with pytest.raises(asyncio.IncompleteReadError) as told:
        await reader.readexactly(7)
    assert told.value.partial == b"\x01\x00"


@pytest.mark.parametrize("poison", [BAD_TEXT, BAD_TIME], ids=["text", "timestamp"])
async def test_a_poisoned_message_is_one_delivery_among_others(sessions, metrics, world, topology, until, poison):
    session = await sessions.start()
    await session.publish(Publication("requests", "send.otp", b"first"))
    await put_raw(world, f"{topology.prefix}.requests", "send.otp", poison, b"poisoned")
    await session.publish(Publication("requests", "send.otp", b"last", message_id="id"))
    taken = []
    session.consume("send.otp", 10, taken.append)
    await until(lambda: len(taken) == 3)
    assert [delivery.body for delivery in taken] == [b"first", b"poisoned", b"last"]
    assert [delivery.unreadable is None for delivery in taken] == [True, False, True]
    assert taken[1].message_id is None
    for delivery in taken:
        delivery.ack()
    assert metrics.sessions_total._value.get() == 1


async def test_a_connection_that_ends_without_a_reason_ends_with_one_of_the_known_errors(amqp_url):
    async with wire.connection(amqp_url, "tests") as connection:
        channel = await connection.channel(publisher_confirms=False)
        waits = channel.create_future()
        await connection._cancel_tasks()
        with pytest.raises(wire.BROKEN):
            await waits


async def put_raw(world, exchange: str, routing_key: str, properties: bytes, content: bytes):
    """Publish with properties that no client library would write."""
    told = commands.Basic.Properties(message_id="unused")
    told.marshal = lambda: properties
    channel = await world.get_underlay_channel()
    await channel.basic_publish(content, exchange=exchange, routing_key=routing_key, properties=told)
