"""The naive whole job, as a team would write it in an afternoon: one POST, one commit and one publish at a time.

It keeps none of the bridge's promises; it is here to be measured beside it, publishing the same events.
"""

import itertools
import json
import sqlite3
import sys

import aio_pika
import httpx
import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route


async def main(amqp: str, prefix: str, port: int, prefetch: int, ports: int, database: str, urls: list[str]) -> None:
    db = sqlite3.connect(database)
    db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;")
    db.execute("CREATE TABLE sms (tid INTEGER PRIMARY KEY, id TEXT UNIQUE, gateway TEXT, request TEXT, state TEXT)")
    connection = await aio_pika.connect_robust(amqp)
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=prefetch)
    events = await channel.declare_exchange(f"{prefix}.events", "topic", durable=True)
    queue = await channel.declare_queue(f"{prefix}.requests", durable=True, arguments={"x-queue-type": "quorum"})
    client = httpx.AsyncClient(timeout=15, params={"username": "root", "password": "root"})
    tids = itertools.count(1)

    def store(statement: str, *values: object) -> None:
        db.execute(statement, values)
        db.commit()

    async def tell(kind: str, request: dict[str, str], gateway: str, modem: str) -> None:
        data = {"to": request["to"], "route": "default", "gateway": gateway, "port": modem, "segments": 1}
        event = {"specversion": "1.0", "id": f"{request['id']}/{kind}", "type": f"{kind}.v1", "data": data}
        event |= {"source": f"/gateways/{gateway}/ports/{modem}", "subject": request["id"]}
        message = aio_pika.Message(json.dumps(event).encode(), delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await events.publish(message, f"{kind}.default.gw.{modem}")

    async def send(message: aio_pika.abc.AbstractIncomingMessage) -> None:
        request, tid = json.loads(message.body), next(tids)
        url, modem = urls[tid % len(urls)], str(tid // len(urls) % ports + 1)
        store("INSERT INTO sms VALUES (?, ?, ?, ?, 'accepted')", tid, request["id"], url, json.dumps(request))
        task = {"tid": tid, "from": modem, "to": request["to"], "sms": request["text"], "sdr": 1, "fdr": 1, "sr_cnt": 1}
        body = {"type": "send-sms", "sr_url": f"http://127.0.0.1:{port}/callback", "sr_cnt": 20, "sr_prd": 3}
        answer = await client.post(f"{url}/goip_post_sms.html", json=body | {"task_num": 1, "tasks": [task]})
        if not answer.json()["status"][0]["status"].startswith("0"):
            raise RuntimeError(answer.text)
        store("UPDATE sms SET state = 'submitted' WHERE tid = ? AND state = 'accepted'", tid)
        await tell("sms.submitted", request, url, modem)
        await message.ack()

    async def callback(request: Request) -> PlainTextResponse:
        for report in (await request.json())["rpts"]:
            row = db.execute("SELECT request, gateway FROM sms WHERE tid = ?", (report["tid"],)).fetchone()
            store("UPDATE sms SET state = 'sent' WHERE tid = ?", report["tid"])
            await tell("sms.sent", json.loads(row[0]), row[1], report["sdr"][0][2])
        return PlainTextResponse("OK")

    app = Starlette(routes=[Route("/callback", callback, methods=["POST"])])
    await queue.consume(send)
    await uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning", access_log=False)).serve()


if __name__ == "__main__":
    amqp, prefix, port, prefetch, ports, database, *urls = sys.argv[1:]
    uvloop.run(main(amqp, prefix, int(port), int(prefetch), int(ports), database, urls))
