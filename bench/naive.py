"""The naive whole job, as a team would write it in an afternoon: one POST, one commit and one publish at a time.

It consumes, posts each message on its own, commits each step to SQLite, takes the callbacks and publishes the same
events as the bridge (sms.submitted, sms.sent), confirmed, one after the other. It has uvloop and sniffio. It keeps
none of the bridge's promises; it is here to be measured beside it.
"""

import asyncio
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
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.execute("CREATE TABLE sms (tid INTEGER PRIMARY KEY, id TEXT UNIQUE, gateway TEXT, request TEXT, state TEXT)")
    connection = await aio_pika.connect_robust(amqp)
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=prefetch)
    events = await channel.declare_exchange(f"{prefix}.events", "topic", durable=True)
    queue = await channel.declare_queue(f"{prefix}.requests", durable=True, arguments={"x-queue-type": "quorum"})
    client = httpx.AsyncClient(timeout=15)
    tids = itertools.count(1)

    async def tell(kind: str, request: dict, gateway: str, device_port: str) -> None:
        data = {"to": request["to"], "route": "default", "gateway": gateway, "port": device_port, "segments": 1}
        event = {"specversion": "1.0", "id": f"{request['id']}/{kind}", "type": f"{kind}.v1", "data": data}
        event |= {"source": f"/gateways/{gateway}/ports/{device_port}", "subject": request["id"]}
        message = aio_pika.Message(json.dumps(event).encode(), delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await events.publish(message, f"{kind}.default.{gateway}.{device_port}")

    async def send(message: aio_pika.abc.AbstractIncomingMessage) -> None:
        request = json.loads(message.body)
        tid = next(tids)
        url, device_port = urls[tid % len(urls)], str(tid // len(urls) % ports + 1)
        db.execute("INSERT INTO sms VALUES (?, ?, ?, ?, 'accepted')", (tid, request["id"], url, json.dumps(request)))
        db.commit()
        task = {
            "tid": tid,
            "from": device_port,
            "to": request["to"],
            "sms": request["text"],
            "sdr": 1,
            "fdr": 1,
            "dr": 0,
        }
        task |= {"sr_cnt": 1, "sr_prd": 5}
        body = {
            "type": "send-sms",
            "sr_url": f"http://127.0.0.1:{port}/callback",
            "sr_cnt": 20,
            "sr_prd": 3,
            "task_num": 1,
        }
        login = {"username": "root", "password": "root"}
        answer = await client.post(f"{url}/goip_post_sms.html", params=login, json=body | {"tasks": [task]})
        assert answer.json()["status"][0]["status"].startswith("0")
        db.execute("UPDATE sms SET state = 'submitted' WHERE tid = ? AND state = 'accepted'", (tid,))
        db.commit()
        await tell("sms.submitted", request, url, device_port)
        await message.ack()

    async def callback(request: Request) -> PlainTextResponse:
        for report in (await request.json())["rpts"]:
            row = db.execute("SELECT request, gateway FROM sms WHERE tid = ?", (report["tid"],)).fetchone()
            db.execute("UPDATE sms SET state = 'sent' WHERE tid = ?", (report["tid"],))
            db.commit()
            await tell("sms.sent", json.loads(row[0]), row[1], report["sdr"][0][2])
        return PlainTextResponse("OK")

    app = Starlette(routes=[Route("/callback", callback, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning", access_log=False))
    await queue.consume(send)
    await server.serve()


if __name__ == "__main__":
    amqp, prefix, port, prefetch, ports, database, *urls = sys.argv[1:]
    uvloop.run(main(amqp, prefix, int(port), int(prefetch), int(ports), database, urls))
