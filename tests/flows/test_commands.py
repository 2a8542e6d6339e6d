"""Commands: what is asked, what is answered, and a dead letter that is taken up again without any harm."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bridge.errors import GatewaySilent, LedgerUnavailable
from bridge.flows.commands import REPLAYABLE, Commands
from bridge.models import Clock, Delivery, Publication, State
from tests.contract import validate
from tests.flows.test_inbound import report
from tests.flows.world import START, World

TO = "+4915112345678"
KEY = "send.otp"
"""The route was missing when the request came; it is there by now."""


@pytest.fixture(name="commands")
def _commands(world: World) -> Commands:
    return Commands(
        ledger=world.ledger,
        publish=world._publish,
        rules_of=world.outbound.rules_of,
        operations=world.operations,
        clock=Clock(lambda: world.wall, lambda: world.mono),
        wake_relay=lambda: None,
    )


async def ask(world: World, commands: Commands, asked: Any, **more: Any) -> dict[str, Any]:
    """Give one command, and return the event that answers it."""
    body = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
    properties = {"message_id": "m1", "app_id": "ops", "correlation_id": "c1", "reply_to": "answers"} | more
    commands.accept(Delivery(body, "bridge", ack=lambda: None, give_back=lambda: None, **properties))
    await commands.finish()
    rows = await world.ledger.write(lambda tx: tx.read_outbox(0, 1_000))
    (told,) = [one for _, one in rows if one.routing_key.startswith("command.")][-1:]
    assert (told.copy_to, told.correlation_id) == (properties["reply_to"], properties["correlation_id"])
    event = json.loads(told.body)
    validate(event)
    return event


async def bury(world: World, body: Any = None, key: str = KEY, **more: Any) -> Publication:
    """A request that no queue took: it is told as rejected, and lies in `sms.dead`."""
    delivery, _ = world.delivery(body, key, **more)
    world.outbound.returned(delivery)
    await world.settle()
    return world.published[-1]


def of_letter(letter: Publication, **changes: Any) -> dict[str, Any]:
    """The command to replay it, as `dead replay` makes it."""
    told = {
        "command": "replay",
        "reason": letter.headers["x-reason"],
        "routing_key": letter.routing_key,
        "body": letter.body.decode(),
        "app_id": letter.app_id,
        "message_id": letter.headers["x-message-id"] or None,
        "correlation_id": letter.correlation_id,
        "timestamp": letter.timestamp,
    }
    return {name: value for name, value in (told | changes).items() if value is not None}


# --- any command ----------------------------------------------------------------------------------------------------

UNREAD = [
    (b"{", "unreadable", None),
    (b"[" * 100_000, "unreadable", None),
    (b"[]", "unknown_command", None),
    ({"command": "dance"}, "unknown_command", None),
    ({"command": ["replay"]}, "unknown_command", None),
    ({"command": "replay"}, "invalid", None),
    ({"command": "replay", "reason": "poison", "routing_key": "k", "body": "{}", "loud": True}, "invalid", None),
    ({"command": "replay", "reason": "poison", "routing_key": "k", "body": "{}", "timestamp": "now"}, "invalid", None),
]


@pytest.mark.parametrize(("asked", "reason", "command"), UNREAD)
async def test_a_command_that_cannot_be_read_is_answered(world, commands, asked, reason, command) -> None:
    event = await ask(world, commands, asked)
    assert (event["type"], event["data"]["reason"]) == ("command.failed.v1", reason)
    assert event["data"].get("command") == command
    assert event["data"]["detail"]


async def test_an_unknown_command_is_told_which_there_are(world, commands) -> None:
    event = await ask(world, commands, {"command": "dance"})
    assert event["data"]["detail"].startswith(
        "there is no command 'dance' (there is: call_statistics, cancel, delete_inbox, "
    )


async def test_the_answer_has_an_id_of_its_own_for_each_command(world, commands) -> None:
    first = await ask(world, commands, {"command": "dance"})
    again = await ask(world, commands, {"command": "dance"})
    other = await ask(world, commands, {"command": "dance"}, message_id="m2")
    assert first["id"] == again["id"] != other["id"]
    assert first["id"].endswith("/command.failed")


async def test_a_command_is_answered_where_the_ledger_cannot_store(world, commands, monkeypatch) -> None:
    letter = await bury(world)

    async def full(work: Any) -> Any:
        raise LedgerUnavailable("disk full")

    monkeypatch.setattr(world.ledger, "write", full)
    body = json.dumps(of_letter(letter)).encode()
    commands.accept(Delivery(body, "bridge", ack=lambda: None, give_back=lambda: None, reply_to="answers"))
    await commands.finish()
    answer = world.published[-1]
    assert answer.copy_to == "answers"
    assert json.loads(answer.body)["data"]["reason"] == "ledger"


async def test_a_mistake_of_ours_is_answered_and_ends_nothing(world, commands, monkeypatch) -> None:
    letter = await bury(world)
    monkeypatch.setattr("bridge.rules.outcomes.replayed", lambda *_: 1 / 0)
    event = await ask(world, commands, of_letter(letter))
    assert event["data"]["reason"] == "broken"
    sms = await world.sms()
    assert sms is not None and sms.state is State.REJECTED, "nothing has changed"


# --- replay ---------------------------------------------------------------------------------------------------------


async def test_a_letter_is_taken_up_again_and_its_end_corrects_the_rejection(world: World, commands: Commands) -> None:
    asked = {"metadata": {"order": "7"}, "delivery_report": True}
    letter = await bury(world, asked, correlation_id="c", reply_to="r", headers={"traceparent": "00-ab-cd-01"})
    rejected = (await world.told())[-1]
    answer = await ask(world, commands, of_letter(letter))
    assert answer["type"] == "command.done.v1"
    assert (answer["data"]["command"], answer["data"]["sms"], answer["data"]["app_id"]) == ("replay", "shop:a", "ops")
    (copy,) = await world.back()
    assert (copy.exchange, copy.routing_key, copy.body, copy.message_id) == ("requests", KEY, letter.body, "a")
    assert (copy.app_id, copy.correlation_id, copy.reply_to, copy.timestamp) == ("shop", "c", "r", START)
    assert copy.headers == {
        "x-attempt": 2,
        "x-expires-at": START + 86_400,
        "traceparent": "00-ab-cd-01",
        "x-corrects": rejected["id"],
    }


async def come_back(world: World) -> None:
    """The copy is delivered."""
    copy = (await world.back())[-1]
    await world.accept(
        copy.body,
        copy.routing_key,
        headers=dict(copy.headers),
        message_id=copy.message_id,
        timestamp=copy.timestamp,
    )


async def replayed(world: World, commands: Commands) -> str:
    """A letter that was replayed and begun; the id of its rejection."""
    letter = await bury(world)
    rejected: str = (await world.told())[-1]["id"]
    await ask(world, commands, of_letter(letter))
    await come_back(world)
    return rejected


async def test_a_replayed_sms_that_is_sent_names_the_rejection(world: World, commands: Commands) -> None:
    rejected = await replayed(world, commands)
    assert "corrects" not in (await world.told())[-1]["data"], "submitted is no end"
    await world.push(report(world.tid))
    sent = (await world.told())[-1]
    assert (sent["type"], sent["id"], sent["data"]["corrects"]) == ("sms.sent.v1", "shop:a/2/sms.sent", rejected)
    assert sent["sequence"] == "0000000003"
    validate(sent)


async def test_a_replayed_sms_that_is_handed_back_keeps_what_it_corrects(world: World, commands: Commands) -> None:
    world.device.codes[TO] = 5
    rejected = await replayed(world, commands)
    back = (await world.back())[-1]
    assert (back.headers["x-attempt"], back.headers["x-corrects"]) == (3, rejected)


async def test_a_replayed_sms_that_waits_in_a_tier_keeps_what_it_corrects(world: World, commands: Commands) -> None:
    letter = await bury(world, {"not_before": "2023-11-14T23:13:20+00:00"})
    rejected = (await world.told())[-1]["id"]
    await ask(world, commands, of_letter(letter))
    await come_back(world)
    assert world.published[-1].exchange == "later.900"
    assert world.published[-1].headers["x-corrects"] == rejected


async def test_a_replayed_sms_that_never_comes_back_is_ended_by_the_patrol(world: World, commands: Commands) -> None:
    letter = await bury(world)
    rejected = (await world.told())[-1]["id"]
    await ask(world, commands, of_letter(letter))
    world.wall += 86_400 + 3_600 + 1
    await world.patrol._reap()
    expired = (await world.told())[-1]
    assert (expired["type"], expired["data"]["corrects"]) == ("sms.expired.v1", rejected)
    validate(expired)


async def test_a_replay_that_is_rejected_again_can_be_replayed_again(world: World, commands: Commands) -> None:
    letter = await bury(world)
    first = (await world.told())[-1]["id"]
    await ask(world, commands, of_letter(letter))
    copy = (await world.back())[-1]
    again = await bury(world, copy.body, headers=dict(copy.headers), message_id=copy.message_id)
    second = (await world.told())[-1]
    assert (second["id"], second["data"]["corrects"]) == ("shop:a/2/sms.rejected", first)
    assert (await ask(world, commands, of_letter(again), message_id="m2"))["type"] == "command.done.v1"
    assert (await world.back())[-1].headers["x-corrects"] == second["id"]


async def test_a_letter_is_replayed_once(world: World, commands: Commands) -> None:
    letter = await bury(world)
    await ask(world, commands, of_letter(letter))
    event = await ask(world, commands, of_letter(letter), message_id="m2")
    assert (event["type"], event["data"]["reason"]) == ("command.failed.v1", "not_rejected")
    assert "is not rejected any more, it is handed_back" in event["data"]["detail"]
    assert len(await world.back()) == 1


async def test_where_the_route_is_still_missing_the_letter_stays(world: World, commands: Commands) -> None:
    letter = await bury(world, key="send.gone")
    event = await ask(world, commands, of_letter(letter))
    assert event["data"]["reason"] == "unroutable"
    assert "there is still no route and no gateway for 'send.gone'" in event["data"]["detail"]
    assert await world.back() == []


async def test_what_became_too_old_stays_dead(world: World, commands: Commands) -> None:
    letter = await bury(world)
    world.wall += 86_400
    event = await ask(world, commands, of_letter(letter))
    assert event["data"]["reason"] == "too_old"
    assert "its time was up at 2023-11-15T22:13:20+00:00: ask anew with a new id" in event["data"]["detail"]


async def test_a_replay_makes_nothing_younger(world: World, commands: Commands) -> None:
    letter = await bury(world, {"validity_s": 600}, timestamp=None)
    world.wall += 599
    await ask(world, commands, of_letter(letter))
    (copy,) = await world.back()
    assert copy.headers["x-expires-at"] == START + 600


async def test_what_the_ledger_has_forgotten_stays_dead(world: World, commands: Commands) -> None:
    letter = await bury(world)
    world.wall += 73 * 3_600
    await world.patrol._prune()
    event = await ask(world, commands, of_letter(letter))
    assert (event["data"]["reason"], event["data"]["sms"]) == ("forgotten", "shop:a")


async def test_a_body_that_was_changed_on_the_way_is_another_sms(world: World, commands: Commands) -> None:
    letter = await bury(world)
    event = await ask(world, commands, of_letter(letter, body=letter.body.decode().replace("hi", "ho")))
    assert event["data"]["reason"] == "id_conflict"


@pytest.mark.parametrize("reason", ["missing_id", "unreadable", "too_large", "invalid", "expired"])
async def test_a_request_that_is_wrong_itself_is_not_replayed(world: World, commands: Commands, reason: str) -> None:
    letter = await bury(world)
    event = await ask(world, commands, of_letter(letter, reason=reason))
    assert event["data"]["reason"] == "not_replayable"
    assert "ask anew with a mended request and a new id, then drop the letter" in event["data"]["detail"]


async def test_a_letter_that_lost_its_id_is_not_replayed(world: World, commands: Commands) -> None:
    asked = {"command": "replay", "reason": "unroutable", "routing_key": KEY, "body": json.dumps({"to": TO})}
    assert (await ask(world, commands, asked))["data"]["reason"] == "missing_id"


async def test_each_reason_that_can_be_replayed_is(world: World, commands: Commands) -> None:
    for n, reason in enumerate(REPLAYABLE):
        letter = await bury(world, {"id": f"r{n}"})
        event = await ask(world, commands, of_letter(letter, reason=reason), message_id=reason)
        assert event["type"] == "command.done.v1"


async def test_a_list_is_published_again_and_has_no_state_of_its_own(world: World, commands: Commands) -> None:
    letter = await bury(world, {"to": [TO, "+4915112345679"]}, correlation_id="c", reply_to="r")
    assert (await ask(world, commands, of_letter(letter)))["type"] == "command.done.v1"
    assert await world.sms() is None
    (copy,) = await world.back()
    assert (copy.exchange, copy.routing_key, copy.body, copy.reply_to) == ("requests", KEY, letter.body, "r")
    assert copy.headers == {"x-expires-at": START + 86_400}
    await world.accept(copy.body, KEY, headers=dict(copy.headers), message_id=copy.message_id)
    assert [one.message_id for one in world.published[-2:]] == ["a/0", "a/1"]


async def test_a_list_that_was_replayed_before_is_not_asked_anew_unseen(world: World, commands: Commands) -> None:
    letter = await bury(world, {"to": [TO, "+4915112345679"]})
    await ask(world, commands, of_letter(letter))
    event = await ask(world, commands, of_letter(letter))
    assert event["data"]["reason"] == "forgotten"
    assert "it is a list that was taken up again before" in event["data"]["detail"]
    assert len(await world.back()) == 1


async def test_a_child_of_a_list_is_replayed_as_one(world: World, commands: Commands) -> None:
    letter = await bury(world, {"id": "list/0"}, headers={"x-parent": "list"})
    event = await ask(world, commands, of_letter(letter))
    assert (event["type"], event["data"]["sms"]) == ("command.done.v1", "shop:list/0")
    (copy,) = await world.back()
    assert copy.headers["x-parent"] == "list"


async def test_a_letter_says_since_when_it_is_dead(world: World) -> None:
    assert (await bury(world)).headers["x-dead-at"] == START


# --- what a gateway carries out ---------------------------------------------------------------------------------------


async def ask_gateway(
    world: World, commands: Commands, asked: dict[str, Any], key: str = "gw1"
) -> list[dict[str, Any]]:
    """Give one command to a gateway, and return all that is told of it."""
    properties = {"message_id": "m1", "app_id": "ops", "correlation_id": "c1", "reply_to": "answers"}
    body = json.dumps(asked).encode()
    commands.accept(Delivery(body, key, ack=lambda: None, give_back=lambda: None, **properties))
    await commands.finish()
    rows = await world.ledger.write(lambda tx: tx.read_outbox(0, 1_000))
    told = [one for _, one in rows if one.routing_key.startswith("command.")]
    assert all(one.copy_to == "answers" for one in told)
    events = [json.loads(one.body) for one in told]
    for event in events:
        validate(event)
    return events


async def test_a_gateways_command_is_accepted_and_then_done(world: World, commands: Commands) -> None:
    accepted, done = await ask_gateway(world, commands, {"command": "lock", "ports": "2.01"})
    assert (accepted["type"], accepted["source"]) == ("command.accepted.v1", "/gateways/gw1")
    assert (done["type"], done["data"]["gateway"], done["data"]["app_id"]) == ("command.done.v1", "gw1", "ops")
    assert accepted["id"].rpartition("/")[0] == done["id"].rpartition("/")[0]
    assert world.device.commanded == [("lock", "2.01")]


async def test_one_that_will_not_be_carried_out_is_never_accepted(world: World, commands: Commands) -> None:
    (failed,) = await ask_gateway(world, commands, {"command": "reboot"})
    assert (failed["type"], failed["data"]["reason"]) == ("command.failed.v1", "not_confirmed")
    assert world.device.commanded == []


async def test_one_for_a_gateway_that_is_sent_to_nobody_is_told_where_to_send_it(world, commands) -> None:
    (failed,) = await ask_gateway(world, commands, {"command": "save"}, key="bridge")
    assert failed["data"]["reason"] == "unknown_gateway" and "key of one of gw1" in failed["data"]["detail"]


async def test_a_lost_answer_is_said_to_be_one(world: World, commands: Commands) -> None:
    world.device.deaf = GatewaySilent("gw1: the answer was lost (ReadError)")
    accepted, failed = await ask_gateway(world, commands, {"command": "save"})
    assert accepted["type"] == "command.accepted.v1"
    assert failed["data"]["reason"] == "no_answer"
    assert "nobody knows whether it was done" in failed["data"]["detail"]


async def test_a_stop_does_not_wait_for_a_card_to_register(world, commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.flows.commands.FINISH_WITHIN_S", 0.05)
    world.registered(1, st=6)
    accepted, failed = await ask_gateway(world, commands, {"command": "reset", "ports": "1"})
    assert (accepted["type"], failed["data"]["reason"]) == ("command.accepted.v1", "stopped")


# --- cancel ---------------------------------------------------------------------------------------------------------


def cancel(**told: Any) -> dict[str, Any]:
    return {"command": "cancel", "app_id": "shop"} | told


async def last(world: World) -> dict[str, Any]:
    return [event for event in await world.told() if not event["type"].startswith("command.")][-1]


@pytest.mark.parametrize("told", [{"id": "a"}, {"parent": "list"}, {"metadata": {"campaign": "spring"}}])
async def test_what_is_cancelled_in_time_is_told_when_it_is_its_turn_and_never_leaves(world, commands, told) -> None:
    assert (await ask(world, commands, cancel(**told)))["type"] == "command.done.v1"
    world.wall += 60
    body = {"id": "list/0" if "parent" in told else "a", "metadata": {"campaign": "spring", "n": "1"}}
    headers = {"x-parent": "list"} if "parent" in told else {}
    settled = await world.accept(body, timestamp=START, headers=headers)
    event = await last(world)
    validate(event)
    assert (event["type"], event["data"]["reason"]) == ("sms.rejected.v1", "cancelled")
    assert not {"gateway", "port", "sim", "tid"} & set(event["data"])
    assert (settled.acks, settled.given_back, world.device.posts) == (1, 0, [])
    assert [port.queued for port in world.fleet.ports()] == [0, 0, 0]
    sms = await world.sms(body["id"])
    assert sms is not None and (sms.state, sms.tid) == (State.REJECTED, None)
    again = await world.accept(body, timestamp=START, headers=headers)
    assert (again.acks, (await last(world))["id"], world.device.posts) == (1, event["id"], [])
    await world.accept({"id": "next"})
    assert len(world.device.posts) == 1


@pytest.mark.parametrize(
    ("told", "asked"),
    [
        pytest.param({"id": "a"}, {"app_id": "bank"}, id="another producer's"),
        pytest.param({"metadata": {"campaign": "spring"}}, {"timestamp": START + 1}, id="asked later"),
        pytest.param({"metadata": {"campaign": "spring"}}, {"timestamp": None}, id="nobody knows when it was asked"),
        pytest.param({"metadata": {"campaign": "autumn"}}, {}, id="another pair"),
        pytest.param({"parent": "list"}, {"headers": {"x-parent": "other"}}, id="of another list"),
    ],
)
async def test_what_is_not_meant_goes_its_way(world, commands, told, asked) -> None:
    await ask(world, commands, cancel(**told))
    world.wall += 60
    await world.accept({"metadata": {"campaign": "spring"}}, **({"timestamp": START} | asked))
    assert len(world.device.posts) == 1


async def test_one_without_a_timestamp_can_be_cancelled_by_its_id(world, commands) -> None:
    await ask(world, commands, cancel(id="a"))
    await world.accept(timestamp=None)
    assert world.device.posts == []


async def test_what_a_device_has_is_too_late_to_cancel(world, commands) -> None:
    await world.accept()
    event = await ask(world, commands, cancel(id="a"))
    assert (event["type"], event["data"]["reason"], event["data"]["sms"]) == ("command.failed.v1", "too_late", "shop:a")


async def test_what_came_back_from_a_device_is_not(world, commands) -> None:
    world.device.codes[TO] = 5
    await world.accept()
    (back,) = await world.back()
    assert (await ask(world, commands, cancel(id="a")))["type"] == "command.done.v1"
    await world.accept(back.body, headers=back.headers, message_id=back.message_id, timestamp=back.timestamp)
    event = await last(world)
    assert (event["data"]["reason"], event["data"]["attempt"], len(world.device.posts)) == ("cancelled", 2, 1)


@pytest.mark.parametrize("told", [{"id": "list"}, {"parent": "list"}, {"metadata": {"campaign": "spring"}}])
async def test_a_list_that_is_not_expanded_yet_ends_whole(world, commands, told) -> None:
    await ask(world, commands, cancel(**told))
    body = {"id": "list", "to": [TO, "+4915112345679"], "metadata": {"campaign": "spring"}}
    settled = await world.accept(body)
    event = await last(world)
    assert (event["type"], event["subject"], event["data"]["reason"]) == ("sms.rejected.v1", "list", "cancelled")
    assert (settled.acks, world.published) == (1, [])


async def test_without_an_app_id_it_is_the_commanders_own(world, commands) -> None:
    await ask(world, commands, {"command": "cancel", "id": "a"}, app_id="shop")
    await world.accept()
    assert world.device.posts == []


@pytest.mark.parametrize("told", [{}, {"id": "a", "parent": "b"}, {"metadata": {"a": "1", "b": "2"}}, {"id": ""}])
async def test_a_cancel_of_nothing_or_of_everything_is_refused(world, commands, told) -> None:
    event = await ask(world, commands, cancel(**told))
    assert (event["type"], event["data"]["reason"]) == ("command.failed.v1", "invalid")


async def test_a_tombstone_is_forgotten_when_nothing_can_be_waiting_any_more(world, commands) -> None:
    await ask(world, commands, cancel(id="a"))

    def left(tx: Any) -> int:
        return tx.connection.exec_driver_sql("SELECT count(*) FROM tombstone").scalar()

    counts = []
    for days in (59, 2):
        world.wall += days * 86_400
        await world.patrol._prune()
        counts.append(await world.ledger.write(left))
    assert counts == [1, 0]
