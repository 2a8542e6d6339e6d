"""The table of crashes, row by row: what broker, ledger and device hold at the death, and how it must end."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bridge.ejoin import facts
from bridge.ejoin.ports import Port
from bridge.simulator.encode import Dialect
from dev.lives import Life, Plan
from dev.trial import Trial, trial

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]
NUMBER, TEXT = "+4915100000001", "Your code is 123456."
PLAIN = {"id": "plain", "to": NUMBER, "text": TEXT}
AIR_S = 1.0  # the second life is there before the gateway reports

COPY_PUBLISHED = Plan("publish hand-back: after", withheld="weak again")
"""A copy that is confirmed may reach the consumer before the confirm does: it is not to be begun before the death."""

BEGIN, CONCLUDE, ABSORB = "commit Outbound._begin.begin", "commit Outbound._conclude.conclude", "commit _Push.absorb"


async def die(play: Trial, plan: Plan) -> None:
    """A life that ends where it is to."""
    life = await play.begin_life(plan)
    async with asyncio.timeout(20):
        assert await life.wait() == -signal.SIGKILL, play.last_words()
    play.note_death()


async def live_on(play: Trial, patience_s: float = 40.0) -> None:
    """A life that brings everything to its end, and the judge's word on all of it."""
    await play.begin_life()
    await play.until(play.all_final, patience_s)
    verdict = await play.verdict()
    assert verdict.holds, f"{verdict}\n{play.last_words()}"


def state(play: Trial, sms_id: str = "plain") -> str:
    return next((str(row["state"]) for row in play.rows() if row["id"] == sms_id), "none")


def repeats(play: Trial) -> int:
    return sum(line["event"] == "request.repeated" for line in map(json.loads, play.log.read_text().splitlines()))


async def on_air(play: Trial) -> Counter[str]:
    return Counter(row["to"] for row in await play.record() if row["kind"] == "on_air")


async def handed_over(play: Trial) -> Counter[str]:
    return Counter(row["to"] for row in await play.record() if row["kind"] == "handed_over")


def times_told(play: Trial, kind: str, sms_id: str = "plain") -> list[str]:
    """The ids under which an event was told, one per telling."""
    return [e["id"] for e in play.told if e.get("subject") == sms_id and e["type"] == f"{kind}.v1"]


async def fail_one(play: Trial) -> None:
    """Two SMS over two ports, of which one fails its card for certain: that SMS is handed back."""
    await play.do("fail_port", gateway="gw1", port=5, code=5)
    await play.ask("send.weak", {**PLAIN, "id": "weak.a"})
    await play.ask("send.weak", {**PLAIN, "id": "weak.b", "to": "+4915100000002"})


def handed_back(play: Trial) -> Any:
    (row,) = [row for row in play.rows() if row["state"] == "handed_back"]
    return row


async def tell_sent(play: Trial, row: Any, times: int = 1) -> None:
    """What the device says when the network has taken this SMS."""
    sent = facts.SentRow(0, row["recipient"], Port(row["port"], 1), time.time())
    body = Dialect().status_report([facts.SmsReport(row["tid"], 0, 1, 0, 0, (sent,), ())])
    for _ in range(times):
        door = f"{play.web}/callback/gw1/trial-token?version=1.1"
        answer = await play.http.post(door, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 200


async def test_some_children_of_a_list_published(amqp_url: str) -> None:
    async with trial(amqp_url) as play:
        await play.ask("send.default", {**PLAIN, "id": "list", "to": [f"+491510000000{n}" for n in range(3)]})
        await die(play, Plan("publish child: half", hangs_at=f"{BEGIN}: before"))
        assert await play.left_at_last({"send.default": 3}) == {"send.default": 3}, "the parent and two of its children"
        await live_on(play)
        assert repeats(play) == 2
        assert set(map(play.outcome, play.expected)) == {"sms.sent"}


async def test_tier_publish_confirmed_and_ack_not_sent(amqp_url: str) -> None:
    async with trial(amqp_url) as play:
        after_the_start = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 6))  # of a life, however slow
        await play.ask("send.default", {**PLAIN, "not_before": after_the_start})
        await die(play, Plan("publish tier: after"))
        assert sum((await play.left_over()).values()) == 2
        await live_on(play)
        assert play.outcome("plain") == "sms.sent"
        assert await handed_over(play) == {NUMBER: 1}


async def test_accepted_and_not_begun(amqp_url: str) -> None:
    async with trial(amqp_url) as play:
        await play.ask("send.default", PLAIN)
        await die(play, Plan(f"{BEGIN}: before"))
        assert (await play.left_at_last({"send.default": 1}), state(play)) == ({"send.default": 1}, "none")
        await live_on(play)
        assert (repeats(play), play.outcome("plain")) == (0, "sms.sent")


async def test_begin_committed_and_ack_not_sent(amqp_url: str) -> None:
    async with trial(amqp_url) as play:
        await play.ask("send.default", PLAIN)
        await die(play, Plan(f"{BEGIN}: after"))
        assert (await play.left_at_last({"send.default": 1}), state(play)) == ({"send.default": 1}, "submitting")
        await live_on(play)
        assert repeats(play) == 1
        assert play.outcome("plain") == "sms.sent"


async def test_begun_and_the_post_never_left(amqp_url: str) -> None:
    async with trial(amqp_url) as play:
        await play.ask("send.default", PLAIN)
        await die(play, Plan("ack plain: written", hangs_at="POST: before"))
        assert (await play.left_over(), state(play), await on_air(play)) == ({}, "submitting", {})
        await live_on(play)
        assert play.outcome("plain") == "sms.sent"


@pytest.mark.parametrize("point", ["POST: taken", "POST: answered", f"{CONCLUDE}: before", f"{CONCLUDE}: inside"])
async def test_the_post_left_and_its_verdict_is_not_committed(point: str, amqp_url: str) -> None:
    async with trial(amqp_url, radio_s=AIR_S) as play:
        await play.ask("send.default", PLAIN)
        await die(play, Plan(point))
        assert state(play) == "submitting"
        await live_on(play)
        assert play.outcome("plain") == "sms.sent"
        assert await on_air(play) == {NUMBER: 1}


async def test_the_post_left_and_the_report_came_to_a_closed_door(amqp_url: str) -> None:
    async with trial(amqp_url, radio_s=0.01) as play:
        await play.ask("send.default", PLAIN)
        await die(play, Plan("POST: answered"))
        async with asyncio.timeout(10):
            while not any(row["kind"] == "reported" for row in await play.record()):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        await live_on(play)
        assert play.outcome("plain") == "sms.sent"
        assert await on_air(play) == {NUMBER: 1}


async def test_conclude_committed_and_event_not_published(amqp_url: str) -> None:
    async with trial(amqp_url, radio_s=AIR_S) as play:
        await play.ask("send.default", PLAIN)
        await die(play, Plan(f"{CONCLUDE}: after"))
        (waiting,) = play.query("SELECT body FROM outbox WHERE routing_key LIKE 'sms.submitted%'")
        assert state(play) == "submitted"
        assert times_told(play, "sms.submitted") == []
        await live_on(play)
        assert times_told(play, "sms.submitted") == [json.loads(waiting["body"])["id"]]
        assert play.outcome("plain") == "sms.sent"


async def test_event_confirmed_and_row_not_removed(amqp_url: str) -> None:
    async with trial(amqp_url, radio_s=AIR_S) as play:
        await play.ask("send.default", PLAIN)
        await die(play, Plan("publish sms.submitted: after"))
        await live_on(play)
        first, again = times_told(play, "sms.submitted")
        assert first == again


async def test_report_stored_and_200_not_sent(amqp_url: str) -> None:
    async with trial(amqp_url) as play:
        await play.ask("send.default", PLAIN)
        await die(play, Plan(f"{ABSORB} SmsReport: after"))
        assert state(play) == "sent"
        await play.begin_life()
        await play.ready()
        await tell_sent(play, play.rows()[0], times=2)
        assert await play.until(play.all_final)
        assert (await play.verdict()).holds
        assert len(times_told(play, "sms.sent")) == 1


async def test_report_received_and_not_stored(amqp_url: str) -> None:
    async with trial(amqp_url) as play:
        await play.ask("send.default", PLAIN)
        await die(play, Plan(f"{ABSORB} SmsReport: before"))
        assert state(play) == "submitted"
        await live_on(play)
        assert play.outcome("plain") == "sms.sent"
        assert await on_air(play) == {NUMBER: 1}


async def test_hand_back_committed_and_not_published(amqp_url: str) -> None:
    async with trial(amqp_url) as play:
        await fail_one(play)
        await die(play, Plan("publish hand-back: before"))
        back = handed_back(play)
        waiting = play.query("SELECT properties FROM outbox WHERE exchange = 'requests'")
        assert [json.loads(row["properties"])["mid"] for row in waiting] == [back["id"]]
        assert await play.left_over() == {}
        await live_on(play)
        assert play.outcome(back["id"]) == "sms.sent"
        assert attempt_of(play, back["id"]) == 2


async def test_refused_and_ack_not_sent(amqp_url: str) -> None:
    async with trial(amqp_url) as play:
        late = {**PLAIN, "validity_s": 1}
        await play.ask("send.default", late, timestamp=time.time() - 60)
        await die(play, Plan("ack plain: before"))
        assert (await play.left_at_last({"send.default": 1}), state(play)) == ({"send.default": 1}, "expired")
        await live_on(play)
        assert len(set(times_told(play, "sms.expired"))) == 1


async def test_ack_of_a_begun_request_lost_and_the_copy_expires_in_its_queue(amqp_url: str) -> None:
    async with trial(amqp_url, radio_s=4.5) as play:
        await play.ask("send.default", PLAIN, expiration=3.0)
        await die(play, Plan("POST: taken", hangs_at="ack plain: before"))
        assert await play.left_at_last({"returned": 1}) == {"returned": 1}
        assert state(play) == "submitting"
        await live_on(play)
        assert play.outcome("plain") == "sms.sent"


async def test_hand_back_confirmed_and_outbox_row_not_removed(amqp_url: str) -> None:
    async with trial(amqp_url) as play:
        await fail_one(play)
        await die(play, COPY_PUBLISHED)
        back = handed_back(play)
        assert await play.left_at_last({"send.weak": 1}) == {"send.weak": 1}
        assert len(play.query("SELECT n FROM outbox WHERE exchange = 'requests'")) == 1
        await live_on(play)
        assert (play.outcome(back["id"]), attempt_of(play, back["id"])) == ("sms.sent", 2)
        assert (await handed_over(play))[back["recipient"]] == 2


@pytest.mark.parametrize("stale_is", ["first", "second"])
async def test_a_stale_copy_and_the_next_attempt_are_both_held(stale_is: str, amqp_url: str) -> None:
    async with trial(amqp_url) as play:
        await fail_one(play)
        await die(play, Plan("publish hand-back: before") if stale_is == "first" else COPY_PUBLISHED)
        back = handed_back(play)
        asked = json.loads(back["request"])
        await play.publish(asked["rk"], asked["body"].encode(), timestamp=asked["ts"])
        await live_on(play)
        assert (play.outcome(back["id"]), attempt_of(play, back["id"])) == ("sms.sent", 2)
        assert (await handed_over(play))[back["recipient"]] == 2


async def test_a_report_says_sent_about_an_attempt_that_was_handed_back(amqp_url: str) -> None:
    async with trial(amqp_url) as play:
        await fail_one(play)
        await die(play, Plan("publish hand-back: before"))
        back = handed_back(play)
        await play.begin_life(Plan(hangs_at="publish hand-back: before"))
        await play.ready()
        await tell_sent(play, back)
        assert state(play, back["id"]) == "sent"
        await play.end_life()
        await live_on(play)
        assert (repeats(play), play.outcome(back["id"]), attempt_of(play, back["id"])) == (1, "sms.sent", 1)


async def test_begun_and_the_slot_missed(amqp_url: str) -> None:
    def hurried(settings: dict[str, Any]) -> None:
        settings["timing"]["submit_within_s"] = 0.2

    async with trial(amqp_url, config=hurried) as play:
        await play.ask("send.default", PLAIN)
        life = await play.begin_life(Plan(stops_at="POST: before"))
        assert await play.until(lambda: is_stopped(life))
        assert state(play) == "submitting"
        await asyncio.sleep(0.4)
        life.send_signal(signal.SIGCONT)
        assert await play.until(play.all_final)
        assert (await play.verdict()).holds
        (row,) = play.rows()
        assert (row["state"], row["attempt"], row["tried"]) == ("sent", 2, None)


async def test_dead_letter_confirmed_and_refuse_not_committed(amqp_url: str) -> None:
    async with trial(amqp_url) as play:
        await play.ask("send.nowhere", PLAIN)
        await die(play, Plan("publish dead letter: after"))
        assert (await play.left_at_last({"returned": 1}), state(play)) == ({"returned": 1}, "none")
        await live_on(play)
        queue = await (await play.channel()).get_queue(f"{play.prefix}.dead", ensure=False)
        letters = [await queue.get() for _ in range(2)]
        assert {letter.message_id for letter in letters if letter} == {times_told(play, "sms.rejected")[0]}
        assert await queue.get(fail=False) is None


def is_stopped(life: Life) -> bool:
    return Path(f"/proc/{life.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def attempt_of(play: Trial, sms_id: str) -> int:
    return next(int(row["attempt"]) for row in play.rows() if row["id"] == sms_id)
