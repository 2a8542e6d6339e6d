"""The running simulator over HTTP: its faces, its deeds, and callbacks that arrive once or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from contextlib import asynccontextmanager

import httpx
import pytest

from bridge.ejoin import decode_inbox
from bridge.errors import SettingsInvalid
from bridge.simulator.callbacks import Callback, Sender, send_once
from bridge.simulator.clock import Clock, clock_of
from bridge.simulator.main import SimulatorOptions, running, serve
from bridge.simulator.options import split_address
from bridge.simulator.record import Record
from tests.simulator.hand import HandClock

LOGIN = {"username": "root", "password": "root"}


def options(**given):
    quick = {"listen": "127.0.0.1:0", "control": "127.0.0.1:0", "ports": 2, "radio_s": 0.01, "delivery_s": 0.01}
    return SimulatorOptions(**{**quick, "register_s": 0.01, **given})


class Receiver:
    """A callback server of a few lines: keeps every request as it came, answers with ``answer``."""

    def __init__(self):
        self.requests = []
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nOK"
        self.news = asyncio.Condition()

    async def handle(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(head.lower().split("content-length: ")[1].split("\r\n")[0])
        body = await reader.readexactly(length)
        async with self.news:
            self.requests.append((head, body))
            self.news.notify_all()
        writer.write(self.answer)
        writer.close()

    async def wait_for(self, of_type, count=1):
        """The bodies of the first ``count`` callbacks of this type."""
        async with asyncio.timeout(10), self.news:
            await self.news.wait_for(lambda: len(self.of(of_type)) >= count)
        return self.of(of_type)

    def of(self, of_type):
        bodies = [json.loads(body) for head, body in self.requests if "application/json" in head]
        return [body for body in bodies if body["type"] == of_type]


@asynccontextmanager
async def receiving():
    receiver = Receiver()
    server = await asyncio.start_server(receiver.handle, "127.0.0.1", 0)
    async with server:
        receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/callback/gw1/secret"
        yield receiver


@pytest.fixture
async def receiver():
    async with receiving() as receiver:
        yield receiver


@pytest.fixture
async def simulator():
    async with running(options()) as simulator:
        yield simulator


@pytest.fixture
async def client():
    async with httpx.AsyncClient() as client:
        yield client


async def submit(client, simulator, receiver, *tids, gateway="gw1", task=(), **envelope):
    told = {"type": "send-sms", "sr_url": receiver.url, "sr_cnt": 1, "sms_url": receiver.url, "sms_cnt": 1}
    plain = {"from": "1", "to": "+491511", "sms": "hi", "sdr": 1, "fdr": 1, "sr_cnt": 1, **dict(task)}
    body = {**told, **envelope, "task_num": len(tids), "tasks": [{"tid": tid, **plain} for tid in tids]}
    return await client.post(f"{simulator.urls[gateway]}/goip_post_sms.html", params=LOGIN, json=body)


async def rows_of(client, simulator, kind, count):
    """The rows of one kind, once there are ``count`` of them in the record that the control face shows."""
    async with asyncio.timeout(10):
        while True:
            told = await client.get(f"{simulator.control}/record")
            rows = [row for row in map(json.loads, told.text.splitlines()) if row["kind"] == kind]
            if len(rows) >= count:
                return rows
            await asyncio.sleep(0.005)


# --- the gateway's face ---------------------------------------------------------------------------------------------


async def test_a_submit_is_sent_reported_and_recorded(simulator, client, receiver):
    answer = await submit(client, simulator, receiver, 7)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json;charset=utf-8"
    assert answer.content == b'{"code":200, "reason":"OK", "type":"task-status","status":[{"tid":7,"status":"0 OK"}]}'
    [report] = await receiver.wait_for("status-report")
    assert (report["rpt_num"], report["rpts"][0]["tid"], report["rpts"][0]["sent"]) == (1, 7, 1)
    await rows_of(client, simulator, "callback", 1)
    rows = simulator.rows()
    assert [row["kind"] for row in rows] == ["handed_over", "on_air", "reported", "callback"]
    assert [row["n"] for row in rows] == [1, 2, 3, 4]
    assert rows == sorted(rows, key=lambda row: row["at"])
    told = rows[3]
    assert (told["http_status"], told["type"], told["tids"]) == (200, "status-report", [7])


@pytest.mark.parametrize("page", ["goip_send_sms.html", "goip_post_sms.html"])
async def test_the_old_interface_answers_when_the_sms_has_left(simulator, client, page):
    asked = {**LOGIN, "port": "1A", "recipients": "+491511", "sms": "hi", "charset": "UTF-8"}
    url = f"{simulator.urls['gw1']}/{page}"
    assert (await client.get(url, params=asked)).content == b'{"code":0, "reason":"OK"}'
    assert [(row["kind"], row["tid"]) for row in simulator.rows()] == [("handed_over", None), ("on_air", None)]
    await client.post(f"{simulator.control}/do", json={"kind": "fail_port", "gateway": "gw1", "port": 1, "code": 7})
    assert (await client.get(url, params=asked | {"recipients": "+491,+492"})).json()["code"] == 7
    for wrong, code in (({"sms": ""}, 8), ({"recipients": ""}, 9), ({"port": "9"}, 2), ({"password": "x"}, 1)):
        assert (await client.get(url, params=asked | wrong)).json()["code"] == code
    lost = {"kind": "lose_answer", "gateway": "gw1", "when": "after"}
    await client.post(f"{simulator.control}/do", json=lost)
    with pytest.raises(httpx.HTTPError):
        await client.get(url, params=asked)
    assert len([row for row in simulator.rows() if row["kind"] == "on_air"]) == 3


async def test_commands_as_different_clients_write_them(simulator, client):
    url = f"{simulator.urls['gw1']}/goip_send_cmd.html"

    async def st(port):
        told = (await client.get(f"{simulator.urls['gw1']}/goip_get_status.html", params=LOGIN | {"port": port})).json()
        return told["status"][0]["st"]

    assert (await client.get(url, params=LOGIN | {"op": "lock", "port": "1A"})).content == b'{"code":0, "reason":"OK"}'
    assert await st(1) == 12
    several = {
        "type": "command",
        "op": "multiple",
        "ops": [{"op": "unlock", "ports": "1"}, {"op": "lock", "ports": "2"}],
    }
    assert (await client.post(url, params=LOGIN, json=several)).json()["code"] == 0
    assert await st(1) in {11, 2, 3} and await st(2) == 12
    old = {"Version": "1.1", "Username": "root", "Password": "root", "type": "command", "op": "reset", "ports": "2"}
    assert (await client.get(url, params=old)).json()["code"] == 0
    body = {"username": "root", "password": "root", "type": "command", "op": "ledon", "ports": "all"}
    assert (await client.post(url, json=body)).json()["code"] == 0
    told = await client.post(url, params=LOGIN | {"op": "set"}, content="sim_imei(0)=35&sim_imei(1)=36")
    assert told.json() == {"code": 0, "reason": "OK", "par_set": 2}
    told = await client.get(url, params=LOGIN | {"op": "get", "par_name(0)": "sim_imei(1)"})
    assert told.json() == {"code": 0, "reason": "OK", "sim_imei(1)": "36"}
    for wrong, code in (
        ({"op": "lock", "port": "9"}, 2),
        ({"op": "fly", "port": "1"}, 15),
        ({"op": "lock", "port": "x"}, 2),
    ):
        assert (await client.get(url, params=LOGIN | wrong)).json()["code"] == code
    assert (await client.get(url, params={"op": "save"})).json()["code"] == 1


async def test_at_commands_are_echoed(simulator, client):
    url = f"{simulator.urls['gw1']}/goip_send_at.html"
    told = await client.get(url, params=LOGIN | {"port": "1", "at": "ati"})
    assert told.json() == {"code": 0, "reason": "OK", "resp": "ati\r\nOK"}
    for wrong, code in (({"port": "1"}, 3), ({"port": "9", "at": "ati"}, 2), ({"port": "x", "at": "ati"}, 2)):
        assert (await client.get(url, params=LOGIN | wrong)).json()["code"] == code


async def test_a_submit_may_come_to_the_old_page(simulator, client, receiver):
    body = {
        "type": "send-sms",
        "sr_url": receiver.url,
        "task_num": "1",
        "tasks": [{"tid": 5, "to": "+491", "sms": "hi"}],
    }
    told = await client.post(f"{simulator.urls['gw1']}/goip_send_sms.html", params=LOGIN, json=body)
    assert told.json()["status"] == [{"tid": 5, "status": "0 OK"}]


async def test_a_callback_looks_like_the_documents(simulator, client, receiver):
    await submit(client, simulator, receiver, 7, sr_url=f"{receiver.url}?a=b")
    await receiver.wait_for("status-report")
    head, _ = receiver.requests[0]
    first, *fields = head.strip().split("\r\n")
    assert first == "POST /callback/gw1/secret?a=b?version=1.1 HTTP/1.1"
    assert {"User-Agent: Ejoin SMSC/1.0", "Connection: Close", "Content-Type: application/json;charset=utf-8"} <= set(
        fields
    )


@pytest.mark.parametrize(
    ("query", "body", "code"),
    [
        pytest.param(LOGIN, {}, 200, id="in the query"),
        pytest.param({"Username": "root", "PASSWORD": "root"}, {}, 200, id="names in any case"),
        pytest.param({}, {"Username": "root", "password": "root"}, 200, id="in the body"),
        pytest.param({}, {}, 1, id="nowhere"),
        pytest.param({"username": "root", "password": "toor"}, {}, 1, id="a wrong password"),
        pytest.param({"username": "root"}, {"password": "root"}, 1, id="half here and half there"),
    ],
)
async def test_credentials(simulator, client, query, body, code):
    url = f"{simulator.urls['gw1']}/goip_post_sms.html"
    answer = await client.post(url, params=query, json={"type": "send-sms", "tasks": [], **body})
    assert (answer.status_code, answer.json()["code"]) == (200, code)
    assert simulator.rows() == []


@pytest.mark.parametrize(
    "path", ["goip_get_tasks.html", "goip_get_status.html", "goip_get_sms_stat.html", "goip_get_sms.html"]
)
async def test_a_query_with_a_wrong_password_is_answered_with_1(simulator, client, path):
    answer = await client.get(
        f"{simulator.urls['gw1']}/{path}", params={"username": "root", "password": "x", "port": 1}
    )
    assert (answer.status_code, answer.content) == (200, b'{"code":1, "reason":"Invalid User"}')


async def test_what_is_no_json_gets_an_empty_answer(simulator, client):
    url = f"{simulator.urls['gw1']}/goip_post_sms.html"
    answer = await client.post(url, params=LOGIN, content="{“type”:“send-sms”}".encode())
    assert (answer.status_code, answer.content) == (200, b"")


async def test_waiting_tasks_are_listed():
    async with running(options(radio_s=60)) as simulator, httpx.AsyncClient() as client, receiving() as receiver:
        await submit(client, simulator, receiver, 1, 2, 3)
        url = f"{simulator.urls['gw1']}/goip_get_tasks.html"
        told = (await client.get(url, params={**LOGIN, "port": "1", "pos": "0", "has_content": "1"})).json()
        assert (told["code"], told["total_num"], [row["tid"] for row in told["tasks"]]) == (200, 2, [2, 3])
        assert told["tasks"][0]["sms"] == "hi"
        told = (await client.get(url, params={**LOGIN, "port": "1", "pos": "1", "num": "5"})).json()
        assert (told["task_num"], [row["tid"] for row in told["tasks"]]) == (1, [3])
        assert (await client.get(url, params={**LOGIN, "port": "9"})).json()["code"] == 2


async def test_a_status_query_answers_at_once_and_subscribes(simulator, client, receiver):
    url = f"{simulator.urls['gw2']}/goip_get_status.html"
    told = (await client.get(url, params={**LOGIN, "url": receiver.url, "period": "60", "all_sims": "1"})).json()
    assert (told["type"], told["expires"], told["max-ports"], len(told["status"])) == ("dev-status", 60, 2, 2)
    simulator.do("remove_sim", "gw2", port=2)
    [pushed] = await receiver.wait_for("port-status")
    assert (pushed["port"], pushed["st"]) == ("2.01", 0)
    told = (await client.get(url, params={**LOGIN, "port": "2"})).json()
    assert [row["port"] for row in told["status"]] == ["2.01"]
    told = (await client.get(url, params={**LOGIN, "port": "all", "period": "0"})).json()
    assert (told["expires"], len(told["status"])) == (-1, 2)
    assert (await client.get(url, params={**LOGIN, "port": "none"})).json()["code"] == 2


async def test_statistics_are_told_for_all_ports_or_some(simulator, client, receiver):
    await submit(client, simulator, receiver, 1, 2)
    await receiver.wait_for("status-report", 2)
    url = f"{simulator.urls['gw1']}/goip_get_sms_stat.html"
    told = (await client.get(url, params={**LOGIN, "type": "3", "ports": "all"})).json()
    assert (told["code"], told["count"], [(row["port"], row["sent"]) for row in told["stats"]]) == (
        200,
        2,
        [(1, 2), (2, 0)],
    )
    told = (await client.get(url, params={**LOGIN, "type": "3", "ports": "2"})).json()
    assert [row["port"] for row in told["stats"]] == [2]
    assert (await client.get(url, params={**LOGIN, "type": "3", "ports": "none"})).json()["code"] == 2
    assert (await client.get(url, params=LOGIN)).json()["code"] == 15  # nobody counts by the hour here


async def test_the_inbox_is_read_page_by_page_and_deleted_where_asked(simulator, client):
    for text in ("a", "b", "c"):
        simulator.do("receive_sms", "gw1", port=1, text=text)
    url = f"{simulator.urls['gw1']}/goip_get_sms.html"

    async def read(**params):
        page = decode_inbox((await client.get(url, params={**LOGIN, **params})).content)
        return "".join(row.text for row in page.rows), page.next_sms

    assert await read() == ("abc", 4)
    assert await read(sms_id=2, sms_num=1) == ("b", 3)
    assert await read(sms_num=2, sms_del=1) == ("ab", 3)
    assert await read(sms_id=1) == ("c", 4)


async def test_gateways_are_apart(simulator, client, receiver):
    await submit(client, simulator, receiver, 7, gateway="gw1")
    await submit(client, simulator, receiver, 7, gateway="gw2")
    rows = await rows_of(client, simulator, "on_air", 2)
    assert {row["gateway"] for row in rows} == {"gw1", "gw2"}


# --- the control face -----------------------------------------------------------------------------------------------


async def test_the_record_is_told_after_a_number(simulator, client, receiver):
    await submit(client, simulator, receiver, 1, 2, 3)
    await rows_of(client, simulator, "callback", 3)
    whole = (await client.get(f"{simulator.control}/record")).text.splitlines()
    part = (await client.get(f"{simulator.control}/record", params={"after": 9})).text.splitlines()
    assert part == whole[9:]
    assert [json.loads(line)["n"] for line in whole] == list(range(1, 13))
    assert (await client.get(f"{simulator.control}/record", params={"after": 12})).text == ""
    assert (await client.get(f"{simulator.control}/record", params={"after": "x"})).status_code == 400


async def test_every_row_has_the_keys_of_the_contract(simulator, client, receiver):
    await submit(client, simulator, receiver, 1)
    [callback] = await rows_of(client, simulator, "callback", 1)
    keys = ["n", "at", "kind", "gateway", "port", "iccid", "tid", "to", "text", "segments", "result"]
    assert [list(row)[:11] for row in simulator.rows()] == [keys] * 4
    assert list(callback)[11:] == ["http_status", "type", "tids", "delivers", "texts"]


@pytest.mark.parametrize(
    ("deed", "word"),
    [
        pytest.param([], "JSON object", id="no object"),
        pytest.param({}, "kind", id="nothing"),
        pytest.param({"kind": "explode", "gateway": "gw1"}, "explode", id="an unknown kind"),
        pytest.param({"kind": "reboot"}, "gw1, gw2", id="no gateway"),
        pytest.param({"kind": "reboot", "gateway": "gw3"}, "gateway", id="another gateway"),
        pytest.param({"kind": "remove_sim", "gateway": "gw1"}, "port", id="no port"),
        pytest.param({"kind": "remove_sim", "gateway": "gw1", "port": 3}, "port", id="another port"),
        pytest.param({"kind": "remove_sim", "gateway": "gw1", "port": "1"}, "port", id="a port as text"),
        pytest.param({"kind": "fail_port", "gateway": "gw1", "port": 1, "count": 0}, "count", id="no count"),
        pytest.param({"kind": "fail_port", "gateway": "gw1", "port": 1, "count": True}, "count", id="yes as count"),
        pytest.param({"kind": "fail_port", "gateway": "gw1", "port": 1, "code": 0}, "code", id="failing with success"),
        pytest.param({"kind": "lose_answer", "gateway": "gw1"}, "before, after, half, silent", id="no when"),
        pytest.param({"kind": "late_callback", "gateway": "gw1", "delay_s": "5"}, "delay_s", id="a time as text"),
        pytest.param({"kind": "late_callback", "gateway": "gw1", "delay_s": 1e9}, "delay_s", id="far too late"),
        pytest.param({"kind": "foreign_sms", "gateway": "gw1"}, "port", id="somebody else at no port"),
        pytest.param({"kind": "receive_sms", "gateway": "gw1", "port": 1, "text": 7}, "text", id="a text that is none"),
    ],
)
async def test_a_deed_that_cannot_be_read_is_refused_with_the_list(simulator, client, deed, word):
    answer = await client.post(f"{simulator.control}/do", json=deed)
    told = answer.json()
    assert answer.status_code == 400
    assert word in told["error"]
    assert set(told["kinds"]) == {
        "receive_sms",
        "remove_sim",
        "insert_sim",
        "ban_sim",
        "fail_port",
        "drop_callback",
        "late_callback",
        "double_callback",
        "lose_answer",
        "foreign_sms",
        "lie_timeout",
        "reboot",
    }


async def test_a_deed_in_process_that_cannot_be_read_raises(simulator):
    with pytest.raises(ValueError, match="port: name one from 1 to 2"):
        simulator.do("remove_sim", "gw1", port=3)


async def test_deeds_over_http_do_what_they_say(simulator, client, receiver):
    async def do(**deed):
        answer = await client.post(f"{simulator.control}/do", json={"gateway": "gw1", **deed})
        assert (answer.status_code, answer.json()["done"]) == (200, deed["kind"])

    await do(kind="fail_port", port=1, code=7, operator_code=38)
    await do(kind="lie_timeout", port=1)
    await submit(client, simulator, receiver, 1, 2, 3)
    told = await receiver.wait_for("status-report", 3)
    by_tid = {entry["tid"]: entry for body in told for entry in body["rpts"]}
    assert by_tid[1]["fdr"][0][4:] == ["7 Server Error", "38 Network out of order"]
    assert by_tid[2]["fdr"][0][4:] == ["6 Timeout", ""]
    assert [row["tid"] for row in await rows_of(client, simulator, "on_air", 2)] == [2, 3]
    await submit(client, simulator, receiver, sms_cnt=2)
    await do(kind="receive_sms", port=2, sender="+4917", text="Grüße", count=2)
    [incoming] = await receiver.wait_for("recv-sms")
    assert [row[3] for row in incoming["sms"]] == ["+4917", "+4917"]
    await do(kind="remove_sim", port=2)
    assert simulator.gateways["gw1"].box.ports[2].st == 0
    await do(kind="insert_sim", port=2)
    assert simulator.gateways["gw1"].box.ports[2].st != 0
    await rows_of(client, simulator, "callback", 4)
    await do(kind="reboot")
    state = (await client.get(f"{simulator.control}/state")).json()
    assert [one["boot"] for one in state["gateways"]] == [2, 1]
    assert state["gateways"][0]["callbacks"] == {"answered": 4, "unanswered": 0}


async def test_an_incoming_sms_is_forwarded_as_text(simulator, client, receiver):
    await submit(client, simulator, receiver)
    simulator.do("receive_sms", "gw1", port=1, sender="+4917", text="Hello,\r\n\r\nworld")
    [row] = await rows_of(client, simulator, "callback", 1)
    assert (row["type"], row["http_status"], row["texts"]) == ("text-forward", 200, ["Hello,\r\n\r\nworld"])
    head, body = receiver.requests[0]
    assert head.startswith("POST /callback/gw1/secret?port=1.01&sender=%2B4917&")
    assert "Content-Type: application/octet-stream; charset=utf-8\r\n" in head
    assert body.decode().endswith("\r\n\r\nHello,\r\n\r\nworld")


# --- lost answers and lost callbacks --------------------------------------------------------------------------------


async def test_an_answer_lost_before_the_tasks_were_taken(simulator, client, receiver):
    simulator.do("lose_answer", "gw1", when="before")
    with pytest.raises(httpx.TransportError):
        await submit(client, simulator, receiver, 1)
    assert simulator.rows() == []
    assert (await submit(client, simulator, receiver, 1)).json()["status"] == [{"tid": 1, "status": "0 OK"}]


async def test_an_answer_lost_after_the_tasks_were_taken(simulator, client, receiver):
    simulator.do("lose_answer", "gw1", when="after", count=2)
    for tid in (1, 2):
        with pytest.raises(httpx.TransportError):
            await submit(client, simulator, receiver, tid)
    assert [row["tid"] for row in simulator.rows("handed_over")] == [1, 2]
    assert [row["tid"] for row in await rows_of(client, simulator, "on_air", 2)] == [1, 2]
    assert (await submit(client, simulator, receiver, 3)).status_code == 200


async def test_a_lost_answer_is_a_reset_on_the_wire(simulator):
    simulator.do("lose_answer", "gw1", when="after")
    host, port = split_address(simulator.urls["gw1"].removeprefix("http://"))
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"POST /goip_post_sms.html HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()


async def test_half_an_answer_arrives_and_the_tasks_were_taken(simulator, receiver):
    simulator.do("lose_answer", "gw1", when="half")
    body = json.dumps({"type": "send-sms", "tasks": [{"tid": 7, "from": "1", "to": "+491", "sms": "hi"}]}).encode()
    host, port = split_address(simulator.urls["gw1"].removeprefix("http://"))
    reader, writer = await asyncio.open_connection(host, port)
    target = b"/goip_post_sms.html?username=root&password=root"
    writer.write(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (target, len(body), body))
    head, _, begun = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    whole = b'{"code":200, "reason":"OK", "type":"task-status","status":[{"tid":7,"status":"0 OK"}]}'
    assert b"content-length: %d" % len(whole) in head
    assert begun == whole[: len(whole) // 2]
    assert [row["tid"] for row in simulator.rows("handed_over")] == [7]


async def test_a_silent_gateway_has_taken_the_tasks_and_holds_the_line(simulator, client, receiver):
    simulator.do("lose_answer", "gw1", when="silent")
    asking = asyncio.create_task(submit(client, simulator, receiver, 1))
    await receiver.wait_for("status-report")  # the SMS went out and was told, and still no answer
    assert not asking.done()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert (await submit(client, simulator, receiver, 2)).status_code == 200


async def test_a_silent_gateway_does_not_hold_the_line_for_ever(simulator, client, receiver, monkeypatch):
    monkeypatch.setattr("bridge.simulator.server.SILENT_S", 0.01)
    simulator.do("lose_answer", "gw1", when="silent")
    with pytest.raises(httpx.TransportError):
        await submit(client, simulator, receiver, 1)


async def test_a_lost_answer_is_no_complaint_of_the_server(simulator, client, receiver, caplog):
    for when in ("silent", "half", "before", "after"):
        simulator.do("lose_answer", "gw1", when=when)
        with pytest.raises(httpx.TransportError):
            await client.post(f"{simulator.urls['gw1']}/goip_post_sms.html", params=LOGIN, json={}, timeout=0.1)
    assert [record.message for record in caplog.records if record.name.startswith("uvicorn")] == []


async def test_a_late_callback_is_overtaken(receiver):
    hand = HandClock()
    sender = Sender("gw1", Clock(hand.time, hand.call_later, unix=0.0), Record())
    sender.start()
    sender.delay_next(1, "status-report", 5.0)
    for n in range(3):
        sender.post(Callback(type="status-report", url=receiver.url, body=b'{"type":"told","n":%d}' % n))
    assert sorted(body["n"] for body in await receiver.wait_for("told", 2)) == [1, 2]
    hand.turn(5)
    assert (await receiver.wait_for("told", 3))[2]["n"] == 0
    await sender.stop()


async def test_a_late_callback_is_the_devices_word_only_when_it_leaves(simulator, client, receiver):
    simulator.do("late_callback", "gw1", delay_s=3600, type="status-report")
    await submit(client, simulator, receiver, 1, 2)
    [callback] = await rows_of(client, simulator, "callback", 1)
    assert callback["tids"] == [2]
    assert [row["tid"] for row in simulator.rows("reported")] == [2]


async def test_a_double_callback_arrives_twice_and_is_the_devices_word_once(simulator, client, receiver):
    simulator.do("double_callback", "gw1", type="recv-sms")
    simulator.do("double_callback", "gw1")
    await submit(client, simulator, receiver, 1)
    rows = await rows_of(client, simulator, "callback", 2)
    assert [(row["tids"], row["http_status"]) for row in rows] == [([1], 200), ([1], 200)]
    assert len(simulator.rows("reported")) == 1
    await submit(client, simulator, receiver, 2)
    rows = await rows_of(client, simulator, "callback", 3)
    assert rows[2]["tids"] == [2]
    assert [body["rpts"][0]["tid"] for body in receiver.of("status-report")] == [1, 1, 2]


async def test_a_reboot_loses_late_callbacks(receiver):
    hand = HandClock()
    sender = Sender("gw1", Clock(hand.time, hand.call_later, unix=0.0), Record())
    sender.start()
    sender.delay_next(2, None, 5.0)
    sender.post(Callback(type="status-report", url=receiver.url, body=b'{"type":"lost"}'))
    sender.forget()
    sender.post(Callback(type="status-report", url=receiver.url, body=b'{"type":"kept"}'))
    hand.turn(5)
    await receiver.wait_for("kept")
    await sender.stop()
    assert receiver.of("lost") == []


async def test_somebody_else_sends_from_a_port(simulator, client):
    simulator.do("foreign_sms", "gw1", port=2, to="+497", text="an ad", count=2)
    rows = await rows_of(client, simulator, "on_air", 2)
    assert [(row["port"], row["to"], row["text"], row["tid"], row["result"]) for row in rows] == [
        (2, "+497", "an ad", None, "foreign")
    ] * 2


async def test_a_dropped_callback_is_in_the_record_and_never_repeated(simulator, client, receiver):
    simulator.do("drop_callback", "gw1", type="recv-sms")
    simulator.do("drop_callback", "gw1")
    await submit(client, simulator, receiver, 1)
    await rows_of(client, simulator, "callback", 1)
    await submit(client, simulator, receiver, 2, task={"dr": 1})
    rows = await rows_of(client, simulator, "callback", 3)
    assert [(row["type"], row["tids"], row["delivers"], row["http_status"], row["result"]) for row in rows] == [
        ("status-report", [1], [], None, "dropped"),
        ("status-report", [2], [], 200, "answered"),
        ("recv-sms", [], [2], None, "dropped"),
    ]
    assert [body["rpts"][0]["tid"] for body in receiver.of("status-report")] == [2]
    assert receiver.of("recv-sms") == []


async def test_a_report_to_a_closed_door_is_recorded_without_a_status(simulator, client, receiver):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/cb"
    await submit(client, simulator, receiver, 5, sr_url=url)
    [row] = await rows_of(client, simulator, "callback", 1)
    assert (row["tids"], row["http_status"], row["result"]) == ([5], None, "unanswered")
    assert [row["kind"] for row in simulator.rows()] == ["handed_over", "on_air", "reported", "callback"]


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        pytest.param(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", 503, id="refused"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\nto the end", 200, id="a body without a length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\ncut", 200, id="a body that is cut off"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-", None, id="headers that are cut off"),
        pytest.param(b"220 ready\r\n\r\n", None, id="no HTTP"),
        pytest.param(b"", None, id="nothing"),
    ],
)
async def test_the_status_of_a_callback_is_what_the_receiver_said(receiver, answer, status):
    receiver.answer = answer
    assert await send_once(Callback(type="status-report", url=receiver.url, body=b"{}")) == status


@pytest.mark.parametrize(
    "url", ["", "nonsense", "http://127.0.0.1:notaport/", "http:///x", "http://127.0.0.1:1/a\x7fb"]
)
async def test_a_url_that_leads_nowhere_is_no_answer(url):
    assert await send_once(Callback(type="status-report", url=url, body=b"{}")) is None


async def test_a_receiver_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setattr("bridge.simulator.callbacks.ANSWER_WITHIN_S", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/cb"
        assert await send_once(Callback(type="status-report", url=url, body=b"{}")) is None


async def test_a_reboot_loses_the_callbacks_that_wait_to_be_sent(receiver):
    sender = Sender("gw1", clock_of(asyncio.get_running_loop(), unix=0.0), Record())
    for of_type in ("status-report", "dev-status"):
        sender.post(Callback(type=of_type, url=receiver.url, body=b'{"type":"lost"}'))
    assert repr(sender) == "<Sender gw1 2 waiting, 0 answered, 0 not>"
    sender.forget()
    for of_type in ("status-report", "dev-status"):
        sender.post(Callback(type=of_type, url=receiver.url, body=b'{"type":"kept"}'))
    sender.start()
    await receiver.wait_for("kept", 2)
    await sender.stop()
    assert receiver.of("lost") == []


async def test_status_pushes_arrive_in_the_order_they_left(simulator, client, receiver):
    url = f"{simulator.urls['gw1']}/goip_get_status.html"
    await client.get(url, params={**LOGIN, "url": receiver.url, "period": "60"})
    for _ in range(10):
        simulator.do("remove_sim", "gw1", port=1)
        simulator.do("insert_sim", "gw1", port=1)
    told = await receiver.wait_for("port-status", 22)
    assert [body["seq"] for body in told] == list(range(2, 24))


# --- running it -----------------------------------------------------------------------------------------------------


async def test_serve_tells_all_addresses_and_ends_when_asked(client):
    ready, stopping = asyncio.get_running_loop().create_future(), asyncio.Event()
    serving = asyncio.create_task(serve(options(gateways=3), ready.set_result, stopping))
    told = await ready
    assert [(one["name"], one["ports"]) for one in told["gateways"]] == [("gw1", 2), ("gw2", 2), ("gw3", 2)]
    assert len({told["control"], *(one["url"] for one in told["gateways"])}) == 4
    state = (await client.get(f"{told['control']}/state")).json()
    assert [one["name"] for one in state["gateways"]] == ["gw1", "gw2", "gw3"]
    stopping.set()
    await asyncio.wait_for(serving, 10)
    with pytest.raises(httpx.ConnectError):
        await client.get(f"{told['control']}/state")


def two_free_ports() -> int:
    """The first of two that follow each other."""
    for first in range(20_000, 30_000, 2):  # below the range from which the system gives
        with (
            contextlib.suppress(OSError),
            socket.create_server(("127.0.0.1", first)),
            socket.create_server(("127.0.0.1", first + 1)),
        ):
            return first
    raise AssertionError("no two ports are free")


async def test_gateways_listen_on_consecutive_ports():
    first = two_free_ports()
    async with running(options(listen=f"127.0.0.1:{first}")) as simulator:
        assert list(simulator.urls.values()) == [f"http://127.0.0.1:{first}", f"http://127.0.0.1:{first + 1}"]


async def test_a_taken_address_is_refused_with_a_sentence():
    with socket.create_server(("127.0.0.1", 0)) as one:
        address = f"127.0.0.1:{one.getsockname()[1]}"
        with pytest.raises(SettingsInvalid, match=f"control: {address} cannot be had"):
            async with running(options(control=address)):
                pass


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"gateways": 0}, "gateways"),
        ({"ports": 2000}, "ports"),
        ({"failure_rate": 2.0}, "failure_rate"),
        ({"lie_rate": -0.1}, "lie_rate"),
        ({"lie_rate": 0.6, "failure_rate": 0.5}, "lie_rate"),
        ({"max_tasks": 0}, "max_tasks"),
        ({"radio_s": -1}, "radio_s"),
        ({"listen": "9001"}, "listen"),
        ({"control": "127.0.0.1:99999"}, "control"),
    ],
)
def test_options_that_make_no_sense_are_refused(wrong, sentence):
    with pytest.raises(SettingsInvalid, match=f"^{sentence}: "):
        SimulatorOptions(**wrong)


def test_the_password_is_not_in_the_options_text():
    assert "s3cret" not in repr(SimulatorOptions(password="s3cret"))
