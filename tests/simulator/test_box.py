"""The box on a hand-turned clock: what it takes, sends and tells, and that the record holds the truth beside it."""

from __future__ import annotations

import pytest

from bridge.ejoin.facts import ReceivedSms
from bridge.ejoin.ports import Port
from bridge.simulator.parts import LIE, SENT, Fate, make_port
from tests.simulator.hand import RADIO_S, START, World


@pytest.fixture
def world():
    return World()


# --- the answer to a submit -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "code"),
    [
        pytest.param({}, 0, id="a plain task"),
        pytest.param({"from": "3"}, 2, id="a port the box does not have"),
        pytest.param({"from": "everywhere"}, 2, id="no port at all"),
        pytest.param({"from": "1.02"}, 2, id="a slot the box does not have"),
        pytest.param({"from": "1A"}, 0, id="port and slot in letters"),
        pytest.param({"from": "2.01"}, 0, id="port and slot with a dot"),
        pytest.param({"from": 2}, 0, id="a port as a number"),
        pytest.param({"from": None}, 0, id="the device chooses"),
        pytest.param({"sms": None}, 8, id="no text"),
        pytest.param({"sms": ""}, 8, id="an empty text"),
        pytest.param({"sms": "%%%", "chs": "base64"}, 8, id="a text that is no base64"),
        pytest.param({"sms": "aGk=", "chs": "base64"}, 0, id="a text in base64"),
        pytest.param({"to": ""}, 9, id="no recipient"),
        pytest.param({"tid": None}, 11, id="no task id"),
        pytest.param({"tid": "many"}, 11, id="a task id that is no number"),
        pytest.param({"tid": "77"}, 0, id="a task id as text"),
    ],
)
def test_each_task_is_answered_with_its_code(world, task, code):
    assert world.submit(task) == [code]
    assert len(world.rows("handed_over")) == (code == 0)


def test_a_card_that_is_not_registered_is_answered_with_5(world):
    world.box.remove_sim(world.port())
    assert world.submit({}, {"from": "1,2"}, {"from": None}) == [5, 0, 0]
    assert [row["port"] for row in world.rows("handed_over")] == [2, 2]


def test_a_live_task_id_is_a_duplicate_and_a_finished_one_is_forgotten(world):
    assert world.submit({"tid": 7}, {"tid": 7}) == [0, 13]
    world.turn(RADIO_S)
    assert world.submit({"tid": 7}) == [0]


def test_finished_task_ids_stay_duplicates_until_the_reboot_where_switched_on():
    world = World(remember_tids=True)
    world.submit({"tid": 7})
    world.turn(RADIO_S)
    assert world.submit({"tid": 7}) == [13]
    world.box.reboot()
    world.turn(60)
    assert world.submit({"tid": 7}) == [0]


def test_more_live_tasks_than_fit_are_answered_with_16():
    world = World(max_tasks=2)
    assert world.submit({}, {}, {}) == [0, 0, 16]
    world.turn(RADIO_S)
    assert world.submit({}) == [0]


def test_task_ids_are_echoed_as_signed_32_bit_and_duplicates_are_seen_after_that(world):
    answer = world.box.submit({"tasks": [world.task(tid=2**31 + 5), world.task(tid=5 - 2**31)]})
    assert [(ack.tid, ack.code) for ack in answer.acks] == [(5 - 2**31, 0), (5 - 2**31, 13)]


@pytest.mark.parametrize("body", [{}, {"tasks ": []}, {"tasks": {}}, {"type": "command", "tasks": []}])
def test_a_body_without_tasks_is_refused_as_a_whole(world, body):
    answer = world.box.submit(body)
    assert (answer.code, answer.acks) == (15, ())


def test_what_is_no_task_is_answered_for_itself(world):
    answer = world.box.submit({"tasks": ["x", world.task()]})
    assert [ack.code for ack in answer.acks] == [11, 0]


# --- sending --------------------------------------------------------------------------------------------------------


def test_a_port_sends_one_after_the_other_and_ports_side_by_side(world):
    world.submit({"tid": 1}, {"tid": 2}, {"tid": 3, "from": "2"}, {"tid": 4})
    world.turn(RADIO_S - 1)
    assert world.tids("on_air") == []
    world.turn(1)
    assert world.tids("on_air") == [1, 3]
    world.turn(2 * RADIO_S)
    assert [(row["tid"], row["at"] - START) for row in world.rows("on_air")] == [(1, 10), (3, 10), (2, 20), (4, 30)]


def test_the_record_says_who_sent_what_to_whom(world):
    world.turn(3)
    world.submit({"tid": 1, "sms": "a" * 161, "to": "+491511"})
    told = {"gateway": "gw1", "port": 1, "iccid": world.port().card.iccid, "tid": 1, "to": "+491511"}
    told |= {"text": "a" * 161, "segments": 2}
    assert world.rows("handed_over") == [
        {"n": 1, "at": START + 3, "kind": "handed_over", **told, "result": "0 OK"},
    ]
    world.turn(2 * RADIO_S)
    assert world.rows("on_air") == [{"n": 2, "at": START + 3 + 2 * RADIO_S, "kind": "on_air", **told, "result": "sent"}]


def test_the_text_of_the_record_is_the_one_on_air_not_the_encoded_one(world):
    world.submit({"sms": "R3LDvMOfZQ==", "chs": "base64"})
    assert world.rows("handed_over")[0]["text"] == "Grüße"


def test_one_recipient_and_several_ports_is_sent_once_from_each(world):
    world.submit({"tid": 1, "from": "1-2"})
    world.turn(RADIO_S)
    assert [(row["tid"], row["port"], row["to"]) for row in world.rows("on_air")] == [
        (1, 1, "+491511"),
        (1, 2, "+491511"),
    ]
    told = [entry for report in world.reports() for entry in report]
    assert [(entry["sent"], entry["sending"]) for entry in told] == [(1, 1), (2, 0)]
    assert [entry["sdr"][0][:3] for entry in told] == [[0, "+491511", "1.01"], [0, "+491511", "2.01"]]


def test_several_recipients_are_shared_out_over_the_ports(world):
    world.submit({"tid": 1, "from": "1-2", "to": "+491,+492, +493"})
    assert [(row["port"], row["to"]) for row in world.rows("handed_over")] == [(1, "+491"), (2, "+492"), (1, "+493")]
    world.turn(2 * RADIO_S)
    rows = [row for report in world.reports() for entry in report for row in entry["sdr"]]
    assert [(row[0], row[1]) for row in rows] == [(0, "+491"), (1, "+492"), (2, "+493")]


def test_without_a_port_the_device_takes_the_one_with_least_to_do(world):
    world.submit({"from": "1"}, {"from": None})
    assert [row["port"] for row in world.rows("handed_over")] == [1, 2]


def test_a_device_that_stops_waiting_says_timeout_though_it_went_on_air(world):
    world.submit({"tmo": 4})
    world.turn(4)
    assert world.rows("on_air")[0]["result"] == "sent"
    assert world.reports()[0][0]["fdr"][0][4] == "6 Timeout"


def test_waiting_tasks_are_listed_in_order_and_not_the_one_on_the_radio(world):
    world.submit({"tid": 1}, {"tid": 2, "to": "+492"}, {"tid": 3, "from": None}, {"tid": 4, "from": "1"})
    assert world.box.list_waiting(1, pos=0, num=10, has_content=False) == (
        2,
        [
            {"tid": 2, "state": 0, "from": "1", "to": "+492", "chs": "utf8", "coding": 0},
            {"tid": 4, "state": 0, "from": "1", "to": "+491511", "chs": "utf8", "coding": 0},
        ],
    )
    total, rows = world.box.list_waiting(1, pos=1, num=1, has_content=True)
    assert (total, [(row["tid"], row["sms"]) for row in rows]) == (2, [(4, "hi")])
    assert world.box.list_waiting(3, pos=0, num=10, has_content=False) is None


# --- the two caches -------------------------------------------------------------------------------------------------


def test_the_cache_of_all_tasks_is_flushed_by_count(world):
    world.submit(*[{"tid": n} for n in range(1, 6)], sr_cnt=2, sr_prd=1000)
    world.turn(5 * RADIO_S)
    assert [[entry["tid"] for entry in report] for report in world.reports()] == [[1, 2], [3, 4]]


def test_the_cache_of_all_tasks_is_flushed_by_time_and_its_timer_restarts(world):
    world.submit({"tid": 1}, {"tid": 2}, sr_cnt=20, sr_prd=3)
    world.turn(RADIO_S + 2.9)
    assert world.reports() == []
    world.turn(0.1)
    assert [[entry["tid"] for entry in report] for report in world.reports()] == [[1]]
    world.turn(RADIO_S - 0.1)
    assert world.reports() == []
    world.turn(0.1)
    assert [[entry["tid"] for entry in report] for report in world.reports()] == [[2]]


def test_a_flush_by_count_stops_the_timer(world):
    world.submit({"tid": 1}, {"tid": 2}, {"tid": 3}, sr_cnt=2, sr_prd=15)
    world.turn(2 * RADIO_S)
    assert len(world.reports()) == 1
    world.turn(24.9)  # the third came 10 s after the flush and waits 15 s of its own
    assert world.reports() == []
    world.turn(0.1)
    assert len(world.reports()) == 1


def test_results_wait_in_the_cache_of_their_task_first_and_then_in_that_of_all(world):
    world.submit({"sr_cnt": 10, "sr_prd": 5}, sr_cnt=20, sr_prd=3)
    world.turn(RADIO_S + 7.9)
    assert world.reports() == []
    world.turn(0.1)
    assert len(world.reports()) == 1


def test_the_cache_of_a_task_is_flushed_by_its_own_count(world):
    world.submit({"to": "+491,+492,+493", "sr_cnt": 2, "sr_prd": 1000})
    world.turn(2 * RADIO_S)
    assert [entry["sdr"][0][1] for report in world.reports() for entry in report] == ["+491", "+492"]
    world.turn(2 * RADIO_S)
    assert world.reports() == []


def test_a_finished_task_without_a_period_of_its_own_is_told_at_once(world):
    world.submit({"to": "+491,+492", "sr_cnt": 10, "sr_prd": 0})
    world.turn(RADIO_S)
    assert world.reports() == []
    world.turn(RADIO_S)
    assert len(world.reports()) == 2


def test_counters_are_cumulative_and_rows_only_those_since_the_last_report(world):
    world.submit({"tid": 9, "to": "+491,+492,+493"}, sr_cnt=2, sr_prd=4)
    world.turn(3 * RADIO_S + 4)
    told = [report[0] for report in world.reports()]
    assert [(e["sending"], e["sent"], e["unsent"]) for e in told] == [(0, 1, 2), (0, 2, 1), (0, 3, 0)]
    assert [[row[1] for row in e["sdr"]] for e in told] == [["+491"], ["+492"], ["+493"]]


def test_two_results_of_one_task_in_one_report_are_one_entry(world):
    world.submit({"tid": 9, "to": "+491,+492"}, sr_cnt=2)
    world.turn(2 * RADIO_S)
    [[entry]] = world.reports()
    assert (entry["sent"], [row[:2] for row in entry["sdr"]]) == (2, [[0, "+491"], [1, "+492"]])


def test_details_are_left_out_where_the_task_does_not_ask_for_them(world):
    world.port().fates.append(Fate(7, on_air=False))
    world.submit({"sdr": 0, "fdr": 0}, {"sdr": 0, "fdr": 0})
    world.turn(2 * RADIO_S)
    told = [entry for report in world.reports() for entry in report]
    assert [(e["sent"], e["failed"], e["sdr"], e["fdr"]) for e in told] == [(0, 1, [], []), (1, 0, [], [])]


def test_the_documents_defaults_hold_where_nothing_is_set(world):
    world.box.submit({"sr_url": "http://b/cb", "tasks": [{"tid": 1, "from": "1", "to": "+491", "sms": "hi"}]})
    world.turn(RADIO_S + 60 + 29)
    assert world.reports() == []
    world.turn(1)
    [[entry]] = world.reports()
    assert (entry["sent"], entry["sdr"]) == (1, [])  # sdr is 0 unless asked for


def test_without_an_address_nothing_is_told(world):
    world.submit({}, sr_url="", sms_url="")
    world.box.receive_sms(world.port(), "+499", "hi")
    world.turn(100)
    assert (world.posted, len(world.rows("on_air"))) == ([], 1)


def test_without_an_address_batched_sms_go_nowhere(world):
    world.submit({"dr": 1}, sms_url="", sms_cnt=2)
    world.turn(RADIO_S)
    world.box.receive_sms(world.port(), "+499", "hi")
    world.turn(5)  # the delivery report fills the batch of two
    assert [post.type for post in world.posted] == ["status-report"]


def test_the_last_submit_decides_where_reports_go(world):
    world.submit({})
    world.submit({"from": "2"}, sr_url="http://other/cb")
    world.turn(RADIO_S)
    assert {post.url for post in world.posted} == {"http://other/cb"}


# --- faults ---------------------------------------------------------------------------------------------------------


def test_a_send_that_fails_was_not_on_air_and_is_told_with_its_reasons(world):
    world.port().fates.append(Fate(7, on_air=False, operator_code=21))
    world.submit({"tid": 1, "dr": 1}, {"tid": 2})
    world.turn(2 * RADIO_S + 100)
    assert world.tids("on_air") == [2]
    [failed], [sent] = world.reports()
    assert failed["fdr"] == [
        [0, "+491511", "1.01", int(START + 10), "7 Server Error", "21 Short message transfer rejected"]
    ]
    assert (failed["failed"], failed["sent"], sent["sent"]) == (1, 0, 1)
    assert world.take("recv-sms") == []


def test_a_lie_is_on_air_and_told_as_timeout_and_delivered_all_the_same(world):
    world.port().fates.append(LIE)
    world.submit({"tid": 1, "dr": 1})
    world.turn(RADIO_S + 5)
    assert world.tids("on_air") == [1]
    [callback] = [post for post in world.posted if post.type == "status-report"]
    assert [(row.result, row.more["reason"]) for row in callback.reported] == [("failed", "6 Timeout")]
    [[told]] = world.reports()
    assert told["fdr"][0][4:] == ["6 Timeout", ""]
    world.turn(30)
    assert [row[:2] for body in world.take("recv-sms") for row in body["sms"]] == [[1, "1.01"]]


def test_the_share_of_failures_is_drawn_from_the_seed():
    def failed():
        world = World(failure_rate=0.5)
        world.submit(*[{"tid": n} for n in range(1, 41)])
        world.turn(40 * RADIO_S)
        return sorted(set(range(1, 41)) - set(world.tids("on_air")))

    assert failed() == failed()
    assert 5 < len(failed()) < 35


def test_the_share_of_lies_is_on_air_and_told_as_timeout_beside_the_failures():
    world = World(failure_rate=0.3, lie_rate=0.3)
    world.submit(*[{"tid": n} for n in range(1, 101)])
    world.turn(100 * RADIO_S)
    told = {n: set() for n in ("sent", "6 Timeout", "7 Server Error")}
    for entry in (entry for report in world.reports() for entry in report):
        told[entry["fdr"][0][4] if entry["fdr"] else "sent"].add(entry["tid"])
    assert min(map(len, told.values())) > 15
    assert set(world.tids("on_air")) == told["sent"] | told["6 Timeout"]


# --- another submitter ----------------------------------------------------------------------------------------------


def test_what_somebody_else_sends_takes_its_turn_and_has_no_task_id():
    world = World(sent_sms=True)
    world.box.subscribe("http://b/st", 600)
    world.submit({"tid": 1})
    world.box.send_foreign(world.port(), "+492", "an ad")
    world.submit({"tid": 2})
    world.turn(3 * RADIO_S)
    rows = world.rows("on_air")
    assert [(row["tid"], row["to"], row["text"], row["result"], row["at"] - START) for row in rows] == [
        (1, "+491511", "hi", "sent", 10),
        (None, "+492", "an ad", "foreign", 20),
        (2, "+491511", "hi", "sent", 30),
    ]
    assert (world.tids("handed_over"), world.tids("reported")) == ([1, 2], [])
    assert [post.tids for post in world.posted if post.type == "sent-sms"] == [(1,), (), (2,)]
    told = world.take("sent-sms")[1]
    assert (told["src_type"], told["recver"], told["data"]) == (2, "+492", "an ad")
    assert "sms_tid" not in told


def test_only_sent_sms_tells_of_what_somebody_else_sends(world):
    world.box.subscribe("http://b/st", 600)
    world.submit({"tid": 1})
    world.take()
    world.box.send_foreign(world.port(2), "+492", "an ad")
    world.box.send_foreign(world.port(2), "+493", "one more")
    assert world.box.list_waiting(2, pos=0, num=10, has_content=False) == (0, [])
    world.turn(2 * RADIO_S)
    assert [row["to"] for row in world.rows("on_air")] == ["+491511", "+492", "+493"]
    assert [entry["tid"] for report in world.reports() for entry in report] == [1]
    assert world.take() == []


def test_removing_the_card_fails_what_the_port_had_and_none_of_it_is_on_air(world):
    world.submit({"tid": 1}, {"tid": 2}, {"tid": 3, "from": "2"})
    world.turn(RADIO_S / 2)
    world.box.remove_sim(world.port())
    told = [entry for report in world.reports() for entry in report]
    assert [(entry["tid"], entry["fdr"][0][4]) for entry in told] == [
        (1, "5 SIM Unregistered"),
        (2, "5 SIM Unregistered"),
    ]
    world.turn(100)
    assert world.tids("on_air") == [3]
    assert world.submit({"tid": 1}) == [5]


def test_a_card_put_back_registers_and_sends_again(world):
    world.box.remove_sim(world.port())
    world.box.insert_sim(world.port())
    world.turn(59)
    assert world.submit({}) == [5]
    world.turn(1)
    assert world.submit({}) == [0]


def test_taking_out_an_absent_card_and_inserting_a_present_one_change_nothing(world):
    world.box.insert_sim(world.port())
    assert world.submit({}) == [0]
    world.box.remove_sim(world.port())
    seq = world.port().seq
    world.box.remove_sim(world.port())
    assert world.port().seq == seq


def test_removing_a_card_while_it_registers_ends_its_registration(world):
    world.box.remove_sim(world.port())
    world.box.insert_sim(world.port())
    world.box.remove_sim(world.port())
    world.turn(100)
    assert world.port().st == 0


# --- reboot ---------------------------------------------------------------------------------------------------------


def test_a_reboot_loses_what_waits_and_what_is_not_told_yet(world):
    world.submit({"tid": 1}, {"tid": 2}, {"tid": 3}, sr_cnt=20, sr_prd=30)
    world.turn(RADIO_S)
    assert world.tids("on_air") == [1]
    world.box.reboot()
    world.turn(1000)
    assert world.reports() == []
    assert world.tids("on_air") == [1, 2]  # 2 was in the radio's hands: it left, with nobody to tell
    assert world.box.list_waiting(1, pos=0, num=10, has_content=False) == (0, [])


def test_a_reboot_forgets_results_in_the_cache_of_a_task(world):
    world.submit({"tid": 1, "sr_cnt": 10, "sr_prd": 50})
    world.turn(RADIO_S)
    world.box.reboot()
    world.turn(1000)
    assert world.reports() == []


def test_after_a_reboot_sequences_begin_anew_and_every_card_registers_anew(world):
    ssrc = world.box.inbox.ssrc
    world.box.subscribe("http://b/st", 60)
    world.box.remove_sim(world.port(2))
    world.box.status()
    world.posted.clear()
    world.box.reboot()
    assert world.box.inbox.ssrc != ssrc
    told = world.take()
    assert [(body["port"], body["seq"], body["st"]) for body in told[:2]] == [("1.01", 1, 11), ("2.01", 1, 0)]
    assert (told[2]["type"], told[2]["seq"]) == ("dev-status", 1)
    assert world.submit({"from": "1"}) == [5]
    world.turn(59.5)
    assert [(body["port"], body["seq"], body["st"]) for body in world.take("port-status")] == [("1.01", 2, 2)]
    world.turn(0.5)
    assert [(body["port"], body["seq"], body["st"]) for body in world.take("port-status")] == [("1.01", 3, 3)]
    assert world.submit({"from": "1"}) == [0]


def test_a_reboot_while_a_card_registers_begins_its_registration_anew(world):
    world.box.remove_sim(world.port())
    world.box.insert_sim(world.port())
    world.turn(30)
    world.box.reboot()
    world.turn(59)
    assert world.port().st == 2
    world.turn(1)
    assert world.port().st == 3


# --- status ---------------------------------------------------------------------------------------------------------


def test_a_snapshot_names_every_port_and_an_empty_one_in_short(world):
    world.box.remove_sim(world.port(2))
    status = world.box.status()
    assert (status.seq, status.expires_s, status.max_ports, status.max_slots) == (1, None, 2, 1)
    first, second = status.ports
    card = world.port().card
    assert (first.st, first.iccid, first.number, first.signal) == (3, card.iccid, card.number, card.signal)
    assert (second.st, second.iccid, second.signal) == (0, "", None)
    assert [str(row.port) for row in world.box.status(frozenset({2})).ports] == ["2.01"]
    assert world.box.status().seq == 3


def test_a_subscriber_is_told_every_period_but_not_more_often_than_the_device_allows(world):
    world.box.subscribe("http://b/st", 5)
    world.turn(59)
    assert world.posted == []
    world.turn(1)
    assert [(post.type, post.url) for post in world.posted] == [("dev-status", "http://b/st")]
    world.turn(120)
    assert [body["expires"] for body in world.take("dev-status")] == [60, 60, 60]


def test_a_subscription_is_remembered_replaced_and_ended(world):
    world.box.subscribe("http://b/st", None)
    world.box.subscribe(None, None)
    world.turn(60)
    world.box.subscribe("http://b/other", 100)
    world.turn(100)
    assert [post.url for post in world.posted] == ["http://b/st", "http://b/other"]
    world.box.subscribe(None, 0)
    world.box.remove_sim(world.port())
    world.turn(1000)
    assert len(world.posted) == 2


def test_a_period_without_any_address_subscribes_nobody(world):
    world.box.subscribe(None, 60)
    world.box.remove_sim(world.port())
    world.turn(1000)
    assert world.posted == []


def test_every_change_of_a_port_is_pushed_at_once(world):
    world.box.subscribe("http://b/st", 600)
    world.box.remove_sim(world.port())
    world.box.insert_sim(world.port())
    world.turn(60)
    told = world.take("port-status")
    assert [(body["seq"], body["st"]) for body in told] == [(2, 0), (3, 11), (4, 2), (5, 3)]
    iccid = world.port().card.iccid
    assert [body["iccid"] for body in told] == ["", "", iccid, iccid]
    assert told[0]["sig"] == 0


def test_the_same_seed_and_place_give_the_same_card():
    one, again, other = make_port(1, "gw1", 3, 1), make_port(1, "gw1", 3, 2), make_port(2, "gw1", 3, 1)
    assert (one.card, one.imei) == (again.card, again.imei)
    assert one.card.iccid != other.card.iccid
    cards = [card for g in (1, 2) for n in range(1, 65) for card in make_port(1, f"gw{g}", n, 2).cards]
    assert len({card.iccid for card in cards}) == len({card.number for card in cards}) == 256


# --- what comes in --------------------------------------------------------------------------------------------------


def test_an_incoming_sms_is_forwarded_as_text_until_a_submit_asks_for_batches(world):
    world.submit({})
    world.box.receive_sms(world.port(), "+49 1", "Hello\nworld")
    [post] = world.posted
    card = world.port().card
    assert (post.type, post.texts) == ("text-forward", ("Hello\nworld",))
    assert post.query == f"port=1.01&sender=%2B49+1&receiver={card.number}&iccid={card.iccid}"
    assert post.body.endswith(b"\r\n\r\nHello\nworld")


def test_incoming_sms_are_batched_by_count_and_by_time(world):
    world.submit({}, sms_cnt=2, sms_prd=4)
    for n in range(3):
        world.box.receive_sms(world.port(2), "+491", f"n {n}")
    first = world.take("recv-sms")
    assert [len(body["sms"]) for body in first] == [2]
    assert [row[:2] for row in first[0]["sms"]] == [[0, "2.01"], [0, "2.01"]]
    world.turn(3.9)
    assert world.take("recv-sms") == []
    world.turn(0.1)
    assert [body["sms_num"] for body in world.take("recv-sms")] == [1]


def test_a_delivery_report_names_the_recipient_and_no_task(world):
    world.submit({"tid": 5, "dr": 1, "to": "+492"}, {"tid": 6}, sms_cnt=1)
    world.turn(RADIO_S + 5)
    [post] = [post for post in world.posted if post.type == "recv-sms"]
    assert (post.tids, post.delivers) == ((), (5,))
    [body] = world.take("recv-sms")
    [row] = body["sms"]
    assert row[:2] + row[4:5] == [1, "1.01", "+492"]
    assert row[5].startswith("0 7001")  # delivered, and the network's stamp
    world.turn(1000)
    assert world.take("recv-sms") == []


def test_the_network_keeps_what_is_for_a_card_without_coverage(world):
    world.submit({"dr": 1}, sms_cnt=2, sms_prd=1)
    world.turn(RADIO_S)
    world.box.remove_sim(world.port())
    world.box.receive_sms(world.port(), "+491", "late")
    world.turn(1000)
    assert world.take("recv-sms") == []
    world.box.insert_sim(world.port())
    world.turn(60)
    [body] = world.take("recv-sms")
    assert sorted(row[0] for row in body["sms"]) == [0, 1]


def test_sent_sms_is_pushed_for_every_send_where_switched_on():
    world = World(sent_sms=True)
    world.submit({"tid": 1})
    world.turn(RADIO_S)
    assert world.take("sent-sms") == []  # nobody said where to
    world.box.subscribe("http://b/st", 600)
    world.port().fates.append(LIE)
    world.submit({"tid": 2}, {"tid": 3})
    world.turn(2 * RADIO_S)
    told = world.take("sent-sms")
    assert [(b["sms_tid"], b["status"], b["recver"], b["seq"], b["src_type"]) for b in told] == [
        (2, "6 Timeout", "+491511", 1, 3),
        (3, "0", "+491511", 2, 3),
    ]
    assert told[0]["dur"] == RADIO_S * 1000


def test_no_sent_sms_is_pushed_unless_switched_on(world):
    world.box.subscribe("http://b/st", 600)
    world.submit({})
    world.turn(RADIO_S)
    assert world.take("sent-sms") == []


def test_the_state_counts_what_each_port_did(world):
    world.port().fates.append(Fate(5, on_air=False))
    world.submit({}, {}, {}, {})
    world.turn(2 * RADIO_S)
    world.box.receive_sms(world.port(), "+491", "hi")
    told = world.box.state()
    first = told["ports"][0]
    assert {
        name: first[name] for name in ("handed_over", "on_air", "sent", "failed", "received", "waiting", "sending")
    } == {
        "handed_over": 4,
        "on_air": 1,
        "sent": 1,
        "failed": 1,
        "received": 1,
        "waiting": 1,
        "sending": 1,
    }
    assert (told["live_tasks"], repr(world.box)) == (2, "<Box gw1 2/2 ports registered, 2 tasks live>")
    assert first["statistics"] == {
        "received": 1,
        "sent": 2,
        "sent_ok": 1,
        "sent_failed": 1,
        "consecutive_failed": 0,
        "unsent": 1,
        "sending": 1,
    }


# --- statistics -----------------------------------------------------------------------------------------------------


def counters(world, number=1):
    """What the box has counted for a port: sent, ok, failed, failed in a row, waiting, on the radio."""
    [one] = world.box.statistics(frozenset({number}))
    return (one.sent, one.sent_ok, one.sent_failed, one.consecutive_failed, one.unsent, one.sending)


def test_statistics_count_by_the_word_of_the_device(world):
    world.port().fates.extend([SENT, LIE, Fate(7, on_air=False), SENT])
    world.submit({}, {}, {}, {})
    assert counters(world) == (0, 0, 0, 0, 3, 1)
    told = []
    for _ in range(4):
        world.turn(RADIO_S)
        told.append(counters(world))
    assert told == [(1, 1, 0, 0, 2, 1), (2, 1, 1, 1, 1, 1), (3, 1, 2, 2, 0, 1), (4, 2, 2, 0, 0, 0)]
    assert len(world.rows("on_air")) == 3
    assert counters(world, 2) == (0, 0, 0, 0, 0, 0)


def test_statistics_count_incoming_sms_and_what_somebody_else_sends_but_no_delivery_report(world):
    world.submit({"dr": 1})
    world.box.send_foreign(world.port(), "+492", "an ad")
    world.box.receive_sms(world.port(), "+491", "hi")
    world.turn(2 * RADIO_S)
    [one] = world.box.statistics(frozenset({1}))
    assert (one.port, one.received, one.sent, one.sent_ok) == (Port(1, 1), 1, 2, 2)


def test_statistics_are_those_of_the_card_and_an_empty_port_has_none(world):
    world.submit({}, {})
    world.turn(RADIO_S)
    world.box.remove_sim(world.port())
    assert [one.port for one in world.box.statistics()] == [Port(2, 1)]
    world.box.insert_sim(world.port())
    assert counters(world) == (2, 1, 1, 1, 0, 0)


def test_statistics_begin_at_0_with_a_reboot_and_the_radios_last_sms_is_in_none(world):
    world.submit({}, {}, {})
    world.turn(RADIO_S)
    world.box.reboot()
    assert len(world.rows("on_air")) == 2
    assert counters(world) == (0, 0, 0, 0, 0, 0)
    world.turn(1000)
    assert counters(world) == (0, 0, 0, 0, 0, 0)


# --- the inbox ------------------------------------------------------------------------------------------------------


def kept(world):
    return [row.text if isinstance(row, ReceivedSms) else row.recipient for row in world.box.inbox.page(1, 0).rows]


def test_what_arrived_lies_in_the_inbox_whether_it_is_forwarded_batched_or_told_to_nobody(world):
    world.box.receive_sms(world.port(), "+491", "told to nobody")
    world.submit({"dr": 1, "to": "+492"})
    world.box.receive_sms(world.port(2), "+491", "forwarded")
    world.turn(RADIO_S + 5)
    world.submit(sms_cnt=9)
    world.box.receive_sms(world.port(), "+491", "batched")
    world.box.remove_sim(world.port())
    world.box.receive_sms(world.port(), "+491", "kept by the network")
    assert kept(world) == ["told to nobody", "forwarded", "+492", "batched"]
    assert {row.via for row in world.box.inbox.page(1, 0).rows if isinstance(row, ReceivedSms)} == {"inbox"}


def test_the_inbox_survives_a_reboot_under_another_name(world):
    world.submit(sms_cnt=9)
    for text in "ab":
        world.box.receive_sms(world.port(), "+491", text)
    world.box.inbox.page(1, 1, delete=True)
    before = world.box.inbox.page(1, 0)
    world.box.reboot()
    after = world.box.inbox.page(1, 0)
    assert (before.rows, before.next_sms) == (after.rows, 3)
    assert (after.next_sms, after.ssrc != before.ssrc) == (2, True)
    world.turn(1000)
    assert world.take("recv-sms") == []


# --- cards that the network or the device locks out -------------------------------------------------------------------


def test_a_card_that_has_sent_its_share_is_locked_by_the_device():
    world = World(day_cap=2)
    world.submit({}, {}, {}, {"from": "2"})
    world.turn(60)
    assert [world.port(n).st for n in (1, 2)] == [7, 3]
    assert [row.sms_day for row in world.box.status().ports] == [(2, 2), (1, 2)]
    assert len(world.port().waiting) == 1


def test_a_barred_card_fails_again_and_again_and_is_locked_by_its_operator(world):
    world.port().barred = True
    world.submit({}, {}, {}, {})
    world.turn(60)
    assert (world.port().st, world.port().statistics["consecutive_failed"]) == (8, 3)
    assert [row for row in world.record.rows() if row["kind"] == "on_air"] == []


def test_several_ports_share_the_recipients_out_or_each_sends_to_all():
    for multiply, count in ((False, 2), (True, 4)):
        world = World(multiply=multiply)
        world.submit({"from": "1,2", "to": "+491,+492"})
        assert sum(port.load for port in world.box.ports.values()) == count
