"""The dead letters on the command line, through a real broker; the bridge's side of a replay is a script here."""

from __future__ import annotations

import asyncio
import json
import pty
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aio_pika
import pytest

from bridge.models import CommandDone, CommandFailed, publication_of
from tests.system.plain_amqp import publish_without_properties
from tests.test_cli import COMMAND, WITHIN_S, channel, config, finished

__all__ = ["channel", "config"]

DEAD_AT = 1_767_268_800
BODY = json.dumps({"id": "order-7", "to": "+491511234567", "text": "Grüße \x1b[2J"}).encode()


@pytest.fixture
def put(config: str, channel, prefix: str) -> Callable[..., Awaitable[None]]:
    """Put a letter into `sms.dead` as the bridge does."""

    async def put(
        letter_id: str = "shop:order-7/1/sms.rejected",
        *,
        body: bytes = BODY,
        reason: str = "unroutable",
        key: str = "send.gone",
        headers: dict[str, Any] | None = None,
    ) -> None:
        told = {"x-reason": reason, "x-detail": "no queue takes it", "x-message-id": "m-7", "x-dead-at": DEAD_AT}
        message = aio_pika.Message(
            body,
            message_id=letter_id,
            app_id="shop",
            correlation_id="c",
            timestamp=DEAD_AT - 5,
            headers=told if headers is None else headers,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        )
        exchange = await channel.get_exchange(f"{prefix}.dead", ensure=False)
        await exchange.publish(message, key)

    return put


@pytest.fixture
def left(channel, prefix: str) -> Callable[[], Awaitable[list[str | None]]]:
    """Take what still lies in `sms.dead`."""

    async def left() -> list[str | None]:
        queue = await channel.get_queue(f"{prefix}.dead", ensure=False)
        found = []
        while (message := await queue.get(fail=False)) is not None:
            found.append(message.message_id)
            await message.ack()
        return found

    return left


@pytest.fixture
async def asked(config: str, channel, prefix: str) -> AsyncIterator[list[dict[str, Any]]]:
    """A bridge that answers each command: yes, but no to whatever names `send.gone`. What it was asked."""
    commands: list[dict[str, Any]] = []

    async def obey(message: aio_pika.abc.AbstractIncomingMessage) -> None:
        command = json.loads(message.body)
        commands.append(command)
        assert (message.app_id, message.message_id) == ("ejoin-bridge", message.correlation_id)
        told = (
            CommandFailed(command="replay", reason="unroutable", detail="there is still no route")
            if command["routing_key"] == "send.gone"
            else CommandDone(command="replay", detail="shop:order-7 goes to send.otp again")
        )
        event = publication_of(told, event_id="e", at=DEAD_AT)
        answer = aio_pika.Message(event.body, correlation_id=message.correlation_id)
        await channel.default_exchange.publish(answer, message.reply_to or "")

    queue = await channel.get_queue(f"{prefix}.command", ensure=False)
    tag = await queue.consume(obey, no_ack=True)
    yield commands
    await queue.cancel(tag)


# --- list and show ---------------------------------------------------------------------------------------------------


async def test_letters_are_listed_once_each_and_stay(config, put, left):
    await put()
    await put("nokey/77", body=b"\xff no json", reason="unreadable")
    await put()
    code, out, err = await finished("dead", "list", "--config", config)
    assert (code, err) == (0, "")
    heading, first, second, summary = out.splitlines()
    assert heading.split() == ["id", "reason", "since", "routing", "key", "app_id", "request", "detail"]
    assert first.split()[:2] == ["shop:order-7/1/sms.rejected", "unroutable"]
    assert first.split()[4:7] == ["send.gone", "shop", "order-7"]
    assert second.split()[:2] == ["nokey/77", "unreadable"]
    assert summary == "2 dead letters; each is kept for 14 days."
    assert "+491511234567" not in out
    assert await left() == ["shop:order-7/1/sms.rejected", "nokey/77", "shop:order-7/1/sms.rejected"]


async def test_letters_are_listed_for_programs(config, put):
    await put()
    await put()
    code, out, _ = await finished("dead", "list", "--json", "--config", config)
    assert code == 0
    assert json.loads(out) == {
        "letters": [
            {
                "id": "shop:order-7/1/sms.rejected",
                "reason": "unroutable",
                "since": "2026-01-01T12:00:00+00:00",
                "routing_key": "send.gone",
                "app_id": "shop",
                "request_id": "order-7",
                "correlation_id": "c",
                "timestamp": "2026-01-01T11:59:55+00:00",
                "bytes": len(BODY),
                "copies": 2,
                "detail": "no queue takes it",
            }
        ]
    }


async def test_no_letters_are_no_trouble(config):
    code, out, _ = await finished("dead", "list", "--config", config)
    assert (code, out) == (0, "No dead letters; each is kept for 14 days.\n")


async def test_letters_are_read_from_anywhere_that_reaches_the_broker(config, put, amqp_url, prefix):
    await put()
    code, out, _ = await finished("dead", "list", "--json", "--amqp-url", amqp_url, "--prefix", prefix)
    assert (code, len(json.loads(out)["letters"])) == (0, 1)


async def test_a_letter_that_the_broker_put_there_says_why(config, put):
    await put("m", headers={"x-death": [{"reason": "delivery_limit", "queue": "sms.returned"}]})
    _, out, _ = await finished("dead", "list", "--json", "--config", config)
    (letter,) = json.loads(out)["letters"]
    assert (letter["reason"], letter["since"]) == ("delivery_limit", None)


async def test_a_letter_without_any_property_can_be_named_too(config, amqp_url, prefix, left):
    await publish_without_properties(amqp_url, f"{prefix}.dead", "any", b"\xff")
    _, out, _ = await finished("dead", "list", "--json", "--config", config)
    (letter,) = json.loads(out)["letters"]
    assert (letter["reason"], letter["request_id"], letter["app_id"]) == ("unknown", None, "")
    assert (await finished("dead", "drop", letter["id"], "--yes", "--config", config))[0] == 0
    assert await left() == []


async def test_a_letter_is_shown_whole_and_steers_no_terminal(config, put, left):
    await put()
    code, out, err = await finished("dead", "show", "shop:order-7/1/sms.rejected", "--config", config)
    assert (code, err) == (0, "")
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert "Gr\\u00fc\\u00dfe" in lines["body"] and "x-dead-at" in lines["headers"]
    await put("raw", body="Grüße \x1b[2J".encode())
    _, out, _ = await finished("dead", "show", "raw", "--config", config)
    assert "Grüße ·[2J" in out and "\x1b" not in out
    assert len(await left()) == 2


async def test_a_body_that_is_no_text_is_shown_in_base64(config, put):
    await put("raw", body=b"\xff\x00")
    _, out, _ = await finished("dead", "show", "raw", "--json", "--config", config)
    assert json.loads(out)["body"] == "base64:/wA="


@pytest.mark.parametrize("command", [["show"], ["drop", "--yes"], ["replay"]])
async def test_an_id_that_no_letter_has_is_named(config, put, left, command):
    await put()
    code, _, err = await finished("dead", *command, "nobody", "--config", config)
    assert (code, err) == (1, "there is no dead letter nobody (see: ejoin-bridge dead list)\n")
    assert len(await left()) == 1


# --- drop ------------------------------------------------------------------------------------------------------------


async def test_letters_are_dropped_by_id_with_their_copies(config, put, left):
    for letter_id in ("a", "b", "a", "c"):
        await put(letter_id)
    code, out, err = await finished("dead", "drop", "a", "b", "--yes", "--config", config)
    assert (code, out, err) == (0, "2 letters were deleted.\n", "")
    assert await left() == ["c"]


@pytest.mark.parametrize(
    ("selection", "remain"),
    [(["--reason", "poison"], ["a"]), (["--all"], []), (["--all", "--reason", "unroutable"], ["b"])],
)
async def test_letters_are_dropped_by_reason_or_all(config, put, left, selection, remain):
    await put("a")
    await put("b", reason="poison")
    assert (await finished("dead", "drop", *selection, "--yes", "--config", config))[0] == 0
    assert await left() == remain


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["drop"], "name the letters by their ids, or by --reason, or say --all"),
        (["drop", "a", "--all"], "name the letters by their ids, or by --reason, or say --all"),
        (["drop", "a"], "dead drop asks before it deletes: say --yes where nobody can answer"),
        (["replay"], "name the letters by their ids, or by --reason"),
        (["replay", "a", "--reason", "poison"], "name the letters by their ids, or by --reason"),
    ],
)
async def test_what_is_not_clear_is_not_done(config, put, left, arguments, sentence):
    await put("a")
    code, out, err = await finished("dead", *arguments, "--config", config)
    assert (code, out, err) == (2, "", f"{sentence}\n")
    assert await left() == ["a"]


@pytest.mark.parametrize(("says", "remain"), [(b"n\n", ["a"]), (b"y\n", [])])
async def test_on_a_terminal_it_asks_first(config, put, left, says, remain):
    await put("a")
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        COMMAND, "dead", "drop", "--all", "--config", config, stdin=theirs, stdout=asyncio.subprocess.PIPE
    )
    with open(ours, "wb", buffering=0) as terminal, open(theirs, "rb"):  # noqa: ASYNC230, PTH123
        terminal.write(says)
        async with asyncio.timeout(WITHIN_S):
            out, _ = await process.communicate()
    assert b"Delete 1 letters for good?" in out
    assert process.returncode == 0
    assert await left() == remain


# --- replay ----------------------------------------------------------------------------------------------------------


async def test_what_the_bridge_takes_up_leaves_with_its_copies_and_the_rest_stays(config, put, left, asked):
    await put("good", key="send.otp")
    await put("bad")
    await put("good", key="send.otp")
    code, out, err = await finished("dead", "replay", "good", "bad", "--config", config)
    assert (code, err) == (1, "")
    assert out.splitlines() == [
        "good: done: shop:order-7 goes to send.otp again",
        "bad: refused: there is still no route",
    ]
    assert await left() == ["bad"]
    assert [command["routing_key"] for command in asked] == ["send.otp", "send.gone"]
    assert asked[0] == {
        "command": "replay",
        "reason": "unroutable",
        "routing_key": "send.otp",
        "body": BODY.decode(),
        "app_id": "shop",
        "message_id": "m-7",
        "correlation_id": "c",
        "timestamp": DEAD_AT - 5,
    }


async def test_all_of_one_reason_are_replayed(config, put, left, asked):
    await put("a", key="send.otp")
    await put("b", key="send.otp", reason="poison")
    await put("c", key="send.otp")
    code, out, _ = await finished("dead", "replay", "--reason", "unroutable", "--json", "--config", config)
    assert code == 0
    assert [(told["id"], told["outcome"]) for told in map(json.loads, out.splitlines())] == [
        ("a", "done"),
        ("c", "done"),
    ]
    assert await left() == ["b"]


async def test_a_reason_that_no_letter_has_is_said(config, put, left, asked):
    await put("a", key="send.otp")
    code, out, _ = await finished("dead", "replay", "--reason", "posion", "--config", config)
    assert (code, out) == (0, "There is no dead letter with the reason posion.\n")
    assert (asked, await left()) == ([], ["a"])


async def test_a_body_that_is_no_text_is_refused_here(config, put, left, asked):
    await put("raw", body=b"\xff", key="send.otp")
    code, out, _ = await finished("dead", "replay", "raw", "--config", config)
    assert code == 1
    assert out.startswith("raw: refused: its body is no text")
    assert (asked, await left()) == ([], ["raw"])


async def test_where_no_bridge_answers_the_letter_stays(config, put, left, amqp_url, prefix):
    await put("a", key="send.otp")
    code, _, err = await finished("dead", "replay", "a", "--config", config)
    assert code == 1
    assert err == "no bridge has answered within 10 s (is one running, and is its /readyz green?)\n"
    assert await left() == ["a"]


# --- trouble ---------------------------------------------------------------------------------------------------------


async def test_a_broker_without_the_queue_is_answered_by_a_sentence(amqp_url, prefix):
    code, _, err = await finished("dead", "list", "--amqp-url", amqp_url, "--prefix", prefix)
    assert code == 1
    assert f"no queue '{prefix}.dead'" in err and "ejoin-bridge topology --declare" in err and err.count("\n") == 1


async def test_a_broker_that_is_not_there_is_answered_by_a_sentence():
    code, _, err = await finished("dead", "list", "--amqp-url", "amqp://guest:secret@127.0.0.1:1/")
    assert code == 1
    assert "is the broker running" in err and "secret" not in err and err.count("\n") == 1


async def test_a_wrong_password_is_answered_by_a_sentence(amqp_url):
    code, _, err = await finished("dead", "list", "--amqp-url", amqp_url.replace("guest:guest@", "guest:wrong@"))
    assert code == 1
    assert "refuses user or password" in err and "wrong" not in err
