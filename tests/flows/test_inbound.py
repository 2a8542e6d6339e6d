"""The walk of a callback: reports, incoming SMS, delivery reports, states of ports and gateways, and garbage."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from bridge.errors import LedgerUnavailable
from bridge.models import State
from tests.flows.world import START, World

TO = "+4915112345678"


def report(tid: int, *, number: str = TO, failed: str = "", operator: str = "", port: str = "1.01") -> dict[str, Any]:
    row: list[Any] = [0, number, port, int(START) + 2]
    told = {"tid": tid, "sending": 0, "sent": int(not failed), "failed": int(bool(failed)), "unsent": 0}
    told |= {"fdr": [[*row, failed, operator]]} if failed else {"sdr": [row]}
    return {"type": "status-report", "rpt_num": 1, "rpts": [told]}


def received(
    *texts: str, at: int = int(START), kind: int = 0, port: str = "1.01", sender: str = "+15551"
) -> dict[str, Any]:
    rows = [[kind, port, at, sender, "", base64.b64encode(text.encode()).decode()] for text in texts]
    return {"type": "recv-sms", "sms_num": len(rows), "sms": rows}


def delivery_report(code: int = 0, number: str = TO, at: int = int(START), port: str = "1.01") -> dict[str, Any]:
    return {"type": "recv-sms", "sms_num": 1, "sms": [[1, port, at, "+491760000443", number, f"{code} 23111422132000"]]}


def port_status(st: int, port: str = "1.01", seq: int = 5, iccid: str = "sim1") -> dict[str, Any]:
    return {"type": "port-status", "port": port, "seq": seq, "st": st, "iccid": iccid, "sig": 20, "bal": "1.50"}


class TestReports:
    async def test_sent_is_told_once_however_often_it_is_reported(self, world: World) -> None:
        await world.accept()
        assert await world.push(report(world.tid)) == "status-report"
        await world.push(report(world.tid))
        assert await world.kinds() == ["sms.submitted", "sms.sent"]
        assert sum(port.queued for port in world.fleet.ports()) == 0
        sms = await world.sms()
        assert sms is not None and sms.state is State.SENT and "body" not in sms.asked

    async def test_it_belongs_to_an_sms_only_where_gateway_task_and_recipient_agree(self, world: World) -> None:
        await world.accept()
        await world.push(report(world.tid, number="+4915199999999"))
        assert await world.kinds() == ["sms.submitted"]

    async def test_a_task_of_another_submitter_is_observed_recipient_by_recipient(self, world: World) -> None:
        rows = {"sdr": [[0, "+491", "1.01", 1466506477]], "fdr": [[1, "+492", "2.01", 1466506480, "6 Timeout", ""]]}
        told = {"tid": 5, "sending": 0, "sent": 1, "failed": 1, "unsent": 0, **rows}
        body = {"type": "status-report", "rpt_num": 1, "rpts": [told]}
        await world.push(body)
        await world.push({**body, "rpt_num": "1"})
        events = {event["id"]: event["data"] for event in await world.told()}
        assert [(one["recipient"], one["port"], one["tid"], one["code"]) for one in events.values()] == [
            ("+491", 1, 5, 0),
            ("+492", 2, 5, 6),
        ]

    async def test_the_port_that_failed_it_is_no_elsewhere_though_its_card_is_gone(self, world: World) -> None:
        await world.accept({"ports": "1"}, key="gateway.gw1")
        await world.push(port_status(0, iccid=""))
        await world.push(report(world.tid, failed="5 SIM Unregistered"))
        assert (await world.told())[-1]["data"]["reason"] == "no_sim_left"
        assert await world.back() == []

    async def test_a_proven_failure_goes_to_another_sim(self, world: World) -> None:
        await world.accept()
        first = world.tid
        await world.push(report(first, failed="5 SIM Unregistered"))
        (back,) = await world.back()
        await world.accept(back.body, headers=dict(back.headers), message_id=back.message_id)
        assert world.tid != first
        await world.push(report(world.tid))
        assert await world.kinds() == ["sms.submitted", "sms.submitted", "sms.sent"]
        assert [event["sequence"] for event in await world.told()] == ["0000000001", "0000000002", "0000000003"]

    async def test_a_timeout_on_the_radio_is_final_and_not_sure(self, world: World) -> None:
        await world.accept()
        await world.push(report(world.tid, failed="6 Timeout"))
        told = (await world.told())[-1]
        assert (told["type"], told["data"]["certain"]) == ("sms.failed.v1", False)
        await world.push(report(world.tid))
        corrected = (await world.told())[-1]
        assert (corrected["type"], corrected["data"]["corrects"]) == ("sms.sent.v1", told["id"])

    async def test_sent_for_an_attempt_that_was_handed_back_ends_it_and_its_copy_is_a_repeat(
        self, world: World
    ) -> None:
        await world.accept()
        tid = world.tid
        await world.push(report(tid, failed="5 SIM Unregistered"))
        (back,) = await world.back()
        await world.push(report(tid))
        assert (await world.kinds())[-1] == "sms.sent"
        await world.accept(back.body, headers=dict(back.headers), message_id=back.message_id)
        assert len(world.device.posts) == 1

    async def test_sent_for_an_old_attempt_while_the_next_is_begun_may_be_a_duplicate_and_says_so(
        self, world: World
    ) -> None:
        await world.accept()
        tid = world.tid
        await world.push(report(tid, failed="5 SIM Unregistered"))
        (back,) = await world.back()
        await world.accept(back.body, headers=dict(back.headers), message_id=back.message_id)
        await world.push(report(tid))
        told = (await world.told())[-1]
        assert (told["type"], told["data"]["possible_duplicate"]) == ("sms.sent.v1", True)
        await world.push(report(world.tid))
        assert (await world.told())[-1] == told

    async def handed_back_twice(self, world: World) -> tuple[int, int]:
        """Two SIMs failed it, proven; the task ids."""
        tids = []
        await world.accept()
        for _ in range(2):
            tids.append(world.tid)
            await world.push(report(world.tid, failed="5 SIM Unregistered"))
            back = (await world.back())[-1]
            if len(tids) < 2:
                await world.accept(back.body, headers=dict(back.headers), message_id=back.message_id)
        return tids[0], tids[1]

    @pytest.mark.parametrize("push", ["report", "sent-sms"])
    async def test_sent_for_an_earlier_attempt_keeps_a_handed_back_sms_from_going_out_again(
        self, world: World, push: str
    ) -> None:
        first, _ = await self.handed_back_twice(world)
        told = {"type": "sent-sms", "port": "1.01", "seq": 1, "sms_tid": first, "src_type": 3, "status": "0 OK"}
        await world.push(report(first) if push == "report" else told | {"time": int(START), "recver": TO})
        assert (await world.kinds())[-1] == "sms.sent"
        assert "possible_duplicate" not in (await world.told())[-1]["data"]
        back = (await world.back())[-1]
        await world.accept(back.body, headers=dict(back.headers), message_id=back.message_id)
        assert len(world.device.posts) == 2

    async def test_a_possible_duplicate_names_the_port_that_sent_it(self, world: World) -> None:
        await world.accept()
        tid, port = world.tid, world.device.posts[-1][0].port.number
        await world.push(report(tid, failed="5 SIM Unregistered"))
        (back,) = await world.back()
        await world.accept(back.body, headers=dict(back.headers), message_id=back.message_id)
        await world.push(report(tid))
        data = (await world.told())[-1]["data"]
        assert (data["port"], data["tid"], data["possible_duplicate"]) == (port, tid, True)

    async def test_late_evidence_of_an_earlier_attempt_corrects_an_uncertain_end(self, world: World) -> None:
        await world.accept()
        tid = world.tid
        await world.push(report(tid, failed="5 SIM Unregistered"))
        (back,) = await world.back()
        await world.accept(back.body, headers=dict(back.headers), message_id=back.message_id)
        await world.push(report(world.tid, failed="6 Timeout"))
        failed = (await world.told())[-1]
        await world.push(report(tid))
        assert (await world.told())[-1]["data"]["corrects"] == failed["id"]

    async def test_a_report_of_a_port_that_is_no_longer_configured_settles_its_sms(self, world: World) -> None:
        await world.accept({"ports": "3"}, key="gateway.gw1")
        del world.fleet.gateways["gw1"].ports[3]
        await world.patrol.take_over()
        await world.push(report(world.tid, port="3.01"))
        assert (await world.kinds())[-1] == "sms.sent"

    async def test_a_sent_sms_push_settles_it_as_well(self, world: World) -> None:
        await world.accept()
        push = {"type": "sent-sms", "port": "1.01", "seq": 1, "sms_tid": world.tid, "src_type": 3, "status": "0 OK"}
        assert await world.push(push | {"time": int(START), "dur": 300, "recver": TO, "data": "hi"}) == "sent-sms"
        assert await world.kinds() == ["sms.submitted", "sms.sent"]

    async def test_an_sms_of_another_submitter_is_observed(self, world: World) -> None:
        push = {"type": "sent-sms", "port": "2.01", "seq": 1, "sms_tid": 9, "src_type": 2, "status": "0 OK"}
        await world.push(push | {"time": int(START), "dur": 300, "recver": "+15559", "data": "secret text"})
        (event,) = await world.told()
        data = event["data"]
        assert (event["type"], data["sim"], data["submitter"]) == ("sms.observed.v1", "sim2", "web")
        assert "secret" not in str(event)


class TestReceived:
    async def test_it_is_told_with_the_identity_of_its_sim(self, world: World) -> None:
        assert await world.push(received("Grüße 👋")) == "recv-sms"
        (event,) = await world.told()
        data = event["data"]
        assert (event["type"], data["text"], data["sender"]) == ("sms.received.v1", "Grüße 👋", "+15551")
        assert (data["sim"], data["receiver"], data["port"], data["via"]) == ("sim1", "+15551", 1, "push")

    async def test_the_same_body_again_is_a_repeat(self, world: World) -> None:
        await world.push(received("one", "two"))
        await world.push(received("one", "two"))
        assert await world.kinds() == ["sms.received", "sms.received"]

    async def test_equal_rows_of_one_body_are_different_sms(self, world: World) -> None:
        await world.push(received("ok", "ok"))
        assert len({event["id"] for event in await world.told()}) == 2

    async def test_the_same_key_in_another_body_is_told_as_a_possible_repeat(self, world: World) -> None:
        await world.push(received("ok"))
        await world.push(received("ok", "more"))
        first, again, _ = await world.told()
        assert again["data"]["possible_repeat"] is True and again["id"] == f"{first['id']}~1"

    async def test_the_same_sms_by_the_text_forward_is_a_repeat(self, world: World) -> None:
        stamp = "23111422132000"
        block = f"Sender: +15551\r\nSMSC: +1\r\nSCTS: {stamp}\r\n\r\nhello"
        await world.push(received(block))
        assert (
            await world.push(block.encode(), "application/octet-stream; charset=utf-8", port="1", sender="+15551")
            == "recv-sms"
        )
        (event,) = await world.told()
        assert event["data"]["text"] == "hello" and event["data"]["scts"] == stamp

    async def test_so_it_is_where_the_push_had_no_header_block(self, world: World) -> None:
        await world.push(received("hello", at=int(START)))
        block = "Sender: +15551\r\nSMSC: +1\r\nSCTS: 23111422132000\r\n\r\nhello"
        await world.push(block.encode(), "application/octet-stream; charset=utf-8", port="1", sender="+15551")
        assert await world.kinds() == ["sms.received"]

    async def test_a_text_forward_alone_is_told(self, world: World) -> None:
        body = b"Sender: 13510956503\r\nSMSC: 8613010888500\r\nSCTS: 14072322113832\r\n\r\nHello, world!"
        await world.push(body, "application/octet-stream; charset=utf-8", port="2", sender="13510956503")
        (event,) = await world.told()
        assert (event["data"]["text"], event["data"]["via"], event["data"]["sim"]) == (
            "Hello, world!",
            "forward",
            "sim2",
        )


class TestDeliveryReports:
    async def test_it_is_matched_by_sim_and_recipient(self, world: World) -> None:
        await world.accept({"delivery_report": True}, key="send.single")
        await world.push(report(world.tid))
        await world.push(delivery_report())
        event = (await world.told())[-1]
        assert (event["type"], event["subject"], event["data"]["code"]) == ("sms.delivered.v1", "a", 0)

    async def test_any_other_code_is_undelivered(self, world: World) -> None:
        await world.accept({"delivery_report": True}, key="send.single")
        await world.push(report(world.tid))
        await world.push(delivery_report(134))
        assert (await world.kinds())[-1] == "sms.undelivered"

    async def test_two_that_fit_are_candidates_and_none_is_guessed(self, world: World) -> None:
        for sms_id in ("a", "b"):
            await world.accept({"id": sms_id, "delivery_report": True}, key="send.single")
            await world.push(report(world.tid))
        await world.push(delivery_report())
        event = (await world.told())[-1]
        assert event["type"] == "sms.report_unmatched.v1"
        assert event["data"]["candidates"] == ["shop:a", "shop:b"]

    async def test_one_sms_is_matched_once(self, world: World) -> None:
        await world.accept({"delivery_report": True}, key="send.single")
        await world.push(report(world.tid))
        await world.push(delivery_report())
        await world.push(delivery_report(at=int(START) + 9))
        assert (await world.kinds())[-1] == "sms.report_unmatched"

    async def test_one_in_the_same_body_as_the_devices_report_follows_it(self, world: World) -> None:
        await world.accept({"delivery_report": True}, key="send.single")
        await world.push(json.dumps([report(world.tid), delivery_report()]).encode())
        assert await world.kinds() == ["sms.submitted", "sms.sent", "sms.delivered"]
        assert [event["sequence"][-1] for event in await world.told()] == ["1", "2", "3"]

    async def test_one_that_comes_before_the_devices_own_report_implies_sent(self, world: World) -> None:
        await world.accept({"delivery_report": True}, key="send.single")
        await world.push(delivery_report())
        assert await world.kinds() == ["sms.submitted", "sms.sent", "sms.delivered"]
        await world.push(report(world.tid))
        assert len(await world.told()) == 3


class TestStates:
    async def test_a_port_that_changed_is_told_with_what_it_was(self, world: World) -> None:
        assert await world.push(port_status(0, iccid="")) == "port-status"
        (event,) = await world.told()
        data = event["data"]
        assert (event["type"], data["state"], data["previous"], data["port"]) == (
            "port.changed.v1",
            "no_sim",
            "registered",
            1,
        )
        assert not world.fleet.can_send(world.fleet.port("gw1", 1), world.mono)
        await world.push(port_status(0, iccid="", seq=6))
        assert len(await world.told()) == 1, "nothing changed"

    async def test_a_change_that_could_not_be_stored_is_told_with_the_next_word_about_the_port(
        self, world: World
    ) -> None:
        with world.full_disk(), pytest.raises(LedgerUnavailable):
            await world.push(port_status(0, iccid=""))
        assert await world.told() == []
        await world.push(port_status(0, iccid="", seq=6))
        (event,) = await world.told()
        assert (event["data"]["state"], event["data"]["previous"]) == ("no_sim", "registered")

    async def test_a_snapshot_tells_the_whole_box_and_a_restart(self, world: World) -> None:
        status = {"type": "dev-status", "seq": 9, "expires": 60, "mac": "m", "ip": "i", "max-ports": 3, "max-slot": 1}
        rows = [{"port": f"{n}.01", "seq": 9, "st": 3, "iccid": f"sim{n}"} for n in (1, 2, 3)]
        assert await world.push(status | {"status": rows}) == "dev-status"
        assert await world.kinds() == ["gateway.status"]
        await world.push(status | {"seq": 1, "status": rows})
        restarted = next(event for event in await world.told() if event["type"] == "gateway.restarted.v1")
        assert restarted["data"] == {"gateway": "gw1", "seq": 1, "previous_seq": 9}

    async def test_what_the_device_counts_and_allows_is_told_in_numbers(self, world: World) -> None:
        more = {"smsctl_day": "3/100", "tot_dur": "7/-1", "dataflow_day": "1.5", "network": 4, "bal": "2.50"}
        await world.push(port_status(6) | more | {"imei": "35"})
        (event,) = await world.told()
        assert event["data"]["usage"] == {
            "minutes_total": {"used": 7, "allowed": "unlimited"},
            "sms_day": {"used": 3, "allowed": 100},
            "data_day_mb": 1.5,
        }
        assert (event["data"]["network"], event["data"]["imei"], event["data"]["balance"]) == (4, "35", 2.5)


async def test_a_call_record_is_kept_whole_beside_its_port(world: World) -> None:
    body = b'{"type":"CDR","port":"2.01","dur":5}'
    assert await world.push(body) == "cdr"
    (event,) = await world.told()
    assert (event["type"], event["source"]) == ("call.recorded.v1", "/gateways/gw1/ports/2")
    assert (event["data"]["port"], event["data"]["body"]) == (2, body.decode())


class TestGarbage:
    @pytest.mark.parametrize(
        ("body", "kind"),
        [
            pytest.param(b"\xff\x00 no JSON", None, id="bytes"),
            pytest.param(b'{"type": "smsctl", "dur": 5}', "smsctl", id="a type that nobody documents"),
            pytest.param(b"{" * 500, None, id="deep"),
        ],
    )
    async def test_it_is_kept_whole(self, world: World, body: bytes, kind: str | None) -> None:
        assert await world.push(body) == "unrecognised"
        (event,) = await world.told()
        data = event["data"]
        assert event["type"] == "gateway.unrecognised.v1" and data.get("type") == kind
        kept = base64.b64decode(data["body"]) if data.get("base64") else data["body"].encode()
        assert kept == body

    async def test_a_large_one_is_cut_and_says_so(self, world: World) -> None:
        await world.push(b"x" * 20_000)
        data = (await world.told())[0]["data"]
        assert data["truncated"] is True and len(data["body"]) == 16_384


async def test_a_ledger_that_cannot_store_is_never_told_as_stored(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(_work: object) -> None:
        raise LedgerUnavailable("disk full")

    monkeypatch.setattr(world.inbound._ledger, "write", full)
    with pytest.raises(LedgerUnavailable):
        await world.push(received("lost?"))


# --- the document's samples -------------------------------------------------------------------------------------------

CORPUS = Path(__file__).parent.parent / "ejoin" / "corpus"
FORWARD_QUERY = {"port": "4", "sender": "13510956503"}
"""What the device appends to the address, without what opens the door."""

SAMPLES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "status-report.json": [
        ("sms.observed", {"recipient": "13686876620", "port": 1, "tid": 1223, "code": 0}),
        ("sms.observed", {"recipient": "13686876621", "port": 1, "tid": 1223, "code": 6, "text": "Timeout"}),
    ],
    "text-forward.txt": [
        ("sms.received", {"sender": "13510956503", "text": "Hello, world!", "smsc": "8613010888500", "via": "forward"}),
    ],
    "port-status.json": [("port.changed", {"port": 1, "slot": 2, "state": "sim_detected", "previous": "registered"})],
    "dev-status-one-slot.json": [
        ("gateway.status", {"seq": 3, "expires_s": 60.0, "mac": "00-30-f1-00-6d-b1", "max_ports": 32, "max_slots": 4}),
        ("port.changed", {"port": 1, "slot": 2, "state": "registered", "iccid": "89860042191782899541"}),
    ],
    "dev-status-empty-ports.json": [("gateway.status", {"seq": 2124, "max_ports": 8, "max_slots": 32})],
    "recv-sms-damaged.json": [("sms.received", {"sender": "8613715266978", "port": 1, "slot": 2})],
    "recv-sms-sim-pool.json": [
        ("sms.received", {"sender": "12052700001", "text": "Jjjj", "port": 12, "slot": 101, "sim_pool": "sp256"}),
    ],
    "sent-sms.json": [
        ("sms.observed", {"recipient": "1212222222", "submitter": "web", "tid": 2, "took_ms": 330, "seq": 18}),
    ],
}
"""What the document says of its own samples, where it is damaged mended."""


def test_every_sample_has_its_events() -> None:
    assert SAMPLES.keys() == {path.name for path in CORPUS.iterdir() if path.suffix in {".json", ".txt"}}


@pytest.mark.parametrize("name", SAMPLES)
async def test_a_sample_of_the_document_comes_out_as_what_it_says(world: World, name: str) -> None:
    forward = name.endswith(".txt")
    kind, query = ("application/octet-stream; charset=utf-8", FORWARD_QUERY) if forward else ("application/json", {})
    await world.inbound.callback("gw1", (CORPUS / name).read_bytes(), kind, query)
    told = [(event["type"].removesuffix(".v1"), event["data"]) for event in await world.told()]
    expected = SAMPLES[name]
    assert sorted(kind for kind, _ in told) == sorted(kind for kind, _ in expected)
    for kind, data in expected:
        assert any(kind == one and data.items() <= all_of.items() for one, all_of in told), (kind, told)
