"""The command line: what it prints, for people and for programs, and how it says what is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aio_pika
import httpx
import pytest
import yaml

from bridge import cli
from bridge.models import Sms, SmsFailed, SmsReceived, SmsSent, SmsSubmitted, State, publication_of
from bridge.store.ledger import Ledger

EXAMPLE = Path(__file__).parent.parent / "config.example.yaml"
COMMAND = Path(sys.executable).with_name("ejoin-bridge")
WITHIN_S = 30


@pytest.fixture
def called(monkeypatch, capsys, tmp_path):
    """Calls the command line in this process: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EJOIN_CONFIG", raising=False)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ejoin-bridge", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        told = capsys.readouterr()
        return ended.value.code or 0, told.out, told.err

    return call


def config_with(tmp_path: Path, **sections) -> str:
    data = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8")) | sections
    path = tmp_path / "my.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return str(path)


# --- check -----------------------------------------------------------------------------------------------------------


def test_check_shows_the_configuration_in_force_and_what_follows(called):
    code, out, err = called("check", "--config", str(EXAMPLE))
    assert (code, err) == (0, "")
    assert yaml.safe_load(out.partition("\n\n")[0])["amqp"]["url"] == "amqp://guest:***@127.0.0.1:5672/"
    assert "default  8      48            50" in out
    assert "Disk that the ledger needs: at most 0.4 GB." in out
    assert out.endswith("A stop takes at most 45 s.\n")
    assert "change-me" not in out


def test_check_says_where_no_number_can_be_told(called, tmp_path):
    path = config_with(tmp_path, limits={"segments_per_min": None})
    code, out, _ = called("check", "--config", path)
    assert code == 0
    assert "8 ports, unlimited segments a minute together." in out
    assert "Disk that the ledger needs: cannot be told: a rate is unlimited." in out


def test_check_is_json_for_programs(called):
    code, out, _ = called("check", "--json", "--config", str(EXAMPLE))
    told = json.loads(out)
    assert code == 0
    assert told["effective"]["routes"][0]["max_age_s"] == 86400
    assert told["derived"]["routes"] == {"default": {"ports": 8, "segments_per_min": 48, "prefetch": 50}}


def test_check_says_every_mistake_and_ends_with_2(called, tmp_path):
    path = config_with(tmp_path, logs={"level": "loud"}, web={"listn": "x"})
    code, out, err = called("check", "--config", path)
    assert (code, out) == (2, "")
    assert [line.partition(":")[0] for line in err.splitlines()] == ["web.listn", "logs.level"]


def test_check_says_mistakes_in_json_too(called, tmp_path):
    code, out, err = called("check", "--json", "--config", config_with(tmp_path, web={"listn": "x"}))
    assert (code, err) == (2, "")
    assert json.loads(out) == {"mistakes": ["web.listn: unknown key (did you mean listen?)"]}


def test_the_configuration_is_looked_for_where_it_should_be(called, tmp_path, monkeypatch):
    code, _, err = called("check")
    assert code == 2
    assert err == "config.yaml: no such file (copy config.example.yaml, or name yours with --config or EJOIN_CONFIG)\n"
    (tmp_path / "config.yaml").write_text(EXAMPLE.read_text(encoding="utf-8"), encoding="utf-8")
    assert called("check")[0] == 0
    monkeypatch.setenv("EJOIN_CONFIG", str(tmp_path / "elsewhere.yaml"))
    assert called("check")[2].startswith(f"{tmp_path}/elsewhere.yaml: no such file")


# --- run -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 3])
def test_run_ends_with_what_the_daemon_says(called, monkeypatch, code):
    seen = []

    async def run(settings):
        seen.append(settings.gateways[0].name)
        return code

    monkeypatch.setattr("bridge.app.run", run)
    assert called("run", "--config", str(EXAMPLE))[0] == code
    assert seen == ["gw1"]


def test_run_refuses_a_wrong_configuration_before_anything_starts(called, tmp_path):
    code, _, err = called("run", "--config", config_with(tmp_path, routes=[{"name": "r", "ports": ["gw7"]}]))
    assert code == 2
    assert err == "routes[0].ports[0]: there is no gateway 'gw7' (did you mean gw1?)\n"


# --- topology --------------------------------------------------------------------------------------------------------


def test_topology_lists_everything_on_whole_lines(called):
    code, out, _ = called("topology", "--config", str(EXAMPLE))
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert ["sms.events", "topic"] in lines
    assert ["sms.requests", "sms.send.default", "send.default"] in lines
    assert ["producer", "^$", r"^sms\.requests$", "^$"] in lines
    assert any(line[:1] == ["sms.send.default"] and "x-delivery-limit=1000000" in line for line in lines)


def test_topology_writes_a_definitions_file(called):
    code, out, _ = called("topology", "--json", "--config", str(EXAMPLE))
    told = json.loads(out)
    assert code == 0
    assert set(told) == {"exchanges", "queues", "bindings"}
    assert "sms.gateway.gw1" in [queue["name"] for queue in told["queues"]]


# --- what is wrong with arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["send", "--to", "+49", "--text", "x", "--route", "a", "--gateway", "b"],
            "--route and --gateway exclude each other (name one of them)",
        ),
        (
            ["send", "--to", "+49", "--text", "x", "--prefix", "p"],
            "--prefix goes with --amqp-url only (a configuration has its own: amqp.prefix)",
        ),
        (["cancel"], "name one of ID, --parent and --metadata"),
        (["cancel", "--metadata", "spring"], "--metadata 'spring' is no pair (write name=value)"),
        (
            ["cancel", "x" * 161, "--amqp-url", "amqp://127.0.0.1:1/"],
            "cancel: id: String should have at most 160 characters",
        ),
        (
            ["events", "--amqp-url", "mq:5672"],
            "amqp.url: is no amqp or amqps URL (write amqp://host:port)",
        ),
        (
            ["simulate", "--ports", "0"],
            "ports: name 1 to 1024, not 0",
        ),
    ],
)
def test_arguments_that_make_no_sense_are_answered_by_a_sentence(called, arguments, sentence):
    assert called(*arguments) == (2, "", sentence + "\n")


def test_without_a_command_there_is_help(called):
    _, out, _ = called()
    for command in ("run", "check", "topology", "simulate", "send", "events"):
        assert f" {command} " in out


# --- lines for people ------------------------------------------------------------------------------------------------


def told(data, **more) -> dict:
    event = publication_of(data, event_id="e", at=1_700_000_000.0, gateway="gw1", port=3, **more)
    return json.loads(event.body)


def test_an_event_is_one_line_with_the_numbers_shown():
    line = str(cli._line(told(SmsSent(to="+4915112345678", gateway="gw1", port=3, segments=2), subject="otp-1")))
    assert line.partition(" ")[2] == "sms.sent              gw1.3  +4915112345678  otp-1  segments=2"


def test_an_incoming_sms_shows_both_sides():
    data = SmsReceived(gateway="gw1", port=3, sender="+4930", receiver="+4940", text="hello", via="push")
    assert str(cli._line(told(data))).endswith("sms.received          gw1.3  +4930 > +4940  text=hello")


def test_a_stranger_cannot_steer_the_terminal():
    data = SmsReceived(gateway="gw1", sender="[red]x", text="\x1b[2J\r\nmore\x9b", via="push")
    line = str(cli._line(told(data)))
    assert line.endswith("gw1  [red]x > ?  text=·[2J··more·")


@pytest.mark.parametrize("event", [{}, {"type": 5, "data": None, "time": "yesterday"}, {"data": {"ports": [1, 2]}}])
def test_an_event_of_another_kind_is_a_line_too(event):
    assert str(cli._line(event)).startswith("--:--:-- ")


# --- ledger ----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def ledger_config(tmp_path) -> str:
    """A configuration whose ledger is there, with one SMS at a device."""
    path = tmp_path / "ledger.db"
    ledger = await Ledger.open(path, ["gw1"], lock_wait_s=0)
    row = Sms("shop", "a", b"f", State.SUBMITTED, 1.0, request='{"body":"secret","rk":"send.x"}', recipient="+49151")
    await ledger.write(lambda tx: tx.save([replace(row, gateway="gw1", port=1, tid=7, deadline_at=2.0)]))
    await ledger.close()
    return config_with(tmp_path, store={"path": str(path)})


def test_ledger_check_counts_and_says_what_is_late(called, ledger_config):
    code, out, err = called("ledger", "check", "--config", ledger_config)
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert ["submitted", "1"] in lines and ["sms", "1"] in lines
    assert "Past its deadline: 1, the oldest for" in out
    assert out.endswith("Broken rules: none.\n")


def test_ledger_check_names_row_and_rule_and_ends_with_1(called, ledger_config, tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.db")) as raw:
        raw.execute("UPDATE sms SET deadline_at = NULL, tid = 0")
        raw.commit()
    code, out, _ = called("ledger", "check", "--config", ledger_config)
    assert code == 1
    assert "sms shop:a: placed: an SMS that a device may hold has gateway, port, task id and deadline\n" in out
    assert out.endswith("Broken rules: 3.\n")
    assert "secret" not in out and "+49151" not in out
    code, out, _ = called("ledger", "check", "--json", "--config", ledger_config)
    told = json.loads(out)
    assert code == 1
    assert [(one["row"], one["rule"]) for one in told["violations"]] == [
        ("sms shop:a", "placed"),
        ("sms shop:a", "deadline"),
        ("sms shop:a", "tid"),
    ]


def test_ledger_backup_makes_a_file_once(called, ledger_config, tmp_path):
    target = str(tmp_path / "copy.db")
    code, out, err = called("ledger", "backup", target, "--config", ledger_config)
    assert (code, err) == (0, "")
    assert out.startswith(f"{target}: ") and out.endswith(" bytes, complete and readable.\n")
    code, _, err = called("ledger", "backup", target, "--config", ledger_config)
    assert (code, err) == (1, f"{target} is there already: name another file, or replace it with --force\n")
    assert called("ledger", "backup", target, "--force", "--config", ledger_config)[0] == 0


@pytest.mark.parametrize("command", [("ledger", "check"), ("ledger", "backup", "copy.db")])
def test_a_ledger_that_is_damaged_or_not_there_is_one_sentence(called, ledger_config, tmp_path, command):
    (tmp_path / "ledger.db").write_bytes(b"no database" * 1_000)
    code, out, err = called(*command, "--config", ledger_config)
    assert (code, out) == (1, "")
    assert err.startswith(f"the ledger {tmp_path}/ledger.db is damaged: ") and err.count("\n") == 1
    (tmp_path / "ledger.db").unlink()
    code, _, err = called(*command, "--config", ledger_config)
    assert (code, err.partition(" (")[0]) == (1, f"there is no ledger {tmp_path}/ledger.db")


async def test_run_refuses_a_damaged_ledger_with_the_cure(ledger_config, tmp_path):
    (tmp_path / "ledger.db").write_bytes(b"no database" * 1_000)
    code, _, err = await finished("run", "--config", ledger_config)
    assert code == 1
    assert "is damaged" in err and "Put a backup in its place" in err and "Traceback" not in err


# --- through a real broker -------------------------------------------------------------------------------------------


@asynccontextmanager
async def spawned(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        COMMAND, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(WITHIN_S):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def finished(*arguments: str) -> tuple[int, str, str]:
    async with spawned(*arguments) as process:
        out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()


@pytest.fixture
async def config(amqp_url, prefix, tmp_path) -> str:
    """A configuration of this broker, with its topology declared."""
    path = config_with(tmp_path, amqp={"url": amqp_url, "prefix": prefix})
    code, out, err = await finished("topology", "--declare", "--config", path)
    assert (code, err) == (0, "")
    assert out.endswith("Declared.\n")
    return path


@pytest.fixture
async def channel(amqp_url) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
    connection = await aio_pika.connect(amqp_url)
    async with connection, connection.channel() as channel:
        yield channel


async def tell(channel, prefix: str, data, **more) -> None:
    event = publication_of(data, event_id="e", at=time.time(), gateway="gw1", port=3, **more)
    exchange = await channel.get_exchange(f"{prefix}.events", ensure=False)
    await exchange.publish(aio_pika.Message(event.body), event.routing_key, mandatory=False)


async def test_send_publishes_what_the_contract_asks_for(config, channel, prefix):
    code, out, err = await finished("send", "--to", "+49151", "--text", "Grüße", "--id", "my-1", "--config", config)
    assert (code, err) == (0, "")
    assert out.split() == [out.split()[0], "published", "my-1", "send.default"]
    message = await (await channel.get_queue(f"{prefix}.send.default", ensure=False)).get()
    assert json.loads(message.body) == {"to": "+49151", "text": "Grüße"}
    assert (message.message_id, message.app_id, message.content_type) == ("my-1", "ejoin-bridge", "application/json")
    assert abs(message.timestamp.timestamp() - time.time()) < WITHIN_S
    assert message.delivery_mode == aio_pika.DeliveryMode.PERSISTENT
    await message.ack()


async def test_send_can_pin_a_gateway_without_a_configuration(config, channel, amqp_url, prefix):
    arguments = ["--to", "+49", "--text", "x", "--gateway", "gw1", "--amqp-url", amqp_url, "--prefix", prefix]
    code, out, _ = await finished("send", *arguments, "--json")
    published = json.loads(out)
    assert (code, published["routing_key"], published["app_id"]) == (0, "gateway.gw1", "ejoin-bridge")
    message = await (await channel.get_queue(f"{prefix}.gateway.gw1", ensure=False)).get()
    assert message.message_id == published["id"]
    await message.ack()


async def test_send_waits_for_the_final_event_of_its_own_sms(config, channel, prefix):
    async with spawned("send", "--to", "+49", "--text", "x", "--id", "w", "--wait", "--json", "--config", config) as it:
        assert json.loads(await it.stdout.readline())["id"] == "w"
        ours = {"app_id": "ejoin-bridge", "gateway": "gw1", "port": 3}
        await tell(channel, prefix, SmsFailed(**ours), subject="another")
        await tell(channel, prefix, SmsFailed(**ours | {"app_id": "somebody"}), subject="w")
        await tell(channel, prefix, SmsSubmitted(**ours), subject="w")
        await tell(channel, prefix, SmsSent(**ours), subject="w")
        out, err = await it.communicate()
        assert [json.loads(line)["type"] for line in out.splitlines()] == ["sms.submitted.v1", "sms.sent.v1"]
        assert (it.returncode, err) == (0, b"")


async def test_send_that_waits_ends_with_1_where_it_was_not_sent(config, channel, prefix):
    async with spawned("send", "--to", "+49", "--text", "x", "--id", "w", "--wait", "--config", config) as it:
        assert b"published" in await it.stdout.readline()
        await tell(channel, prefix, SmsFailed(app_id="ejoin-bridge", reason="not_sent", code=5), subject="w")
        out, _ = await it.communicate()
        assert "sms.failed" in out.decode()
        assert "reason=not_sent  code=5" in out.decode()
        assert it.returncode == 1


async def test_events_are_printed_as_they_come_until_ctrl_c(config, channel, prefix):
    async with spawned("events", "--json", "--filter", "sms.received.#", "--config", config) as it:
        received = SmsReceived(gateway="gw1", sender="+4930", text="Grüße", via="push")
        line = asyncio.ensure_future(it.stdout.readline())
        while not line.done():  # nobody can see from outside when its queue is bound
            await tell(channel, prefix, SmsSent(app_id="a"), subject="not-this")
            await tell(channel, prefix, received)
            await asyncio.wait({line}, timeout=0.2)
        event = json.loads(line.result())
        assert (event["type"], event["data"]["text"]) == ("sms.received.v1", "Grüße")
        it.send_signal(signal.SIGINT)
        out, err = await it.communicate()
        assert (it.returncode, err) == (0, b"")
        assert b"not-this" not in out


async def test_what_is_no_event_is_passed_over(config, channel, prefix):
    async with spawned("events", "--config", config) as it:
        exchange = await channel.get_exchange(f"{prefix}.events", ensure=False)
        line = asyncio.ensure_future(it.stdout.readline())
        while not line.done():
            for body in (b"\xff", b"[]"):
                await exchange.publish(aio_pika.Message(body), "x", mandatory=False)
            await tell(channel, prefix, SmsSent(app_id="a"), subject="this")
            await asyncio.wait({line}, timeout=0.2)
        assert b"this" in line.result()


async def test_a_broker_without_the_topology_is_answered_by_a_sentence(amqp_url, prefix):
    arguments = ["--to", "+49", "--text", "x", "--amqp-url", amqp_url, "--prefix", prefix]
    code, out, err = await finished("send", *arguments)
    assert (code, out) == (1, "")
    assert f"no exchange '{prefix}.requests'" in err
    assert err.endswith("(start the bridge once, or run: ejoin-bridge topology --declare)\n")
    assert len(err.splitlines()) == 1


async def test_another_topology_is_answered_by_a_sentence(amqp_url, channel, prefix, tmp_path):
    await channel.declare_queue(f"{prefix}.dead", durable=True)
    path = config_with(tmp_path, amqp={"url": amqp_url, "prefix": prefix})
    code, _, err = await finished("topology", "--declare", "--config", path)
    assert code == 1
    assert f"{prefix}.dead" in err
    assert "Traceback" not in err


async def test_a_wrong_password_is_answered_by_a_sentence_without_it(amqp_url):
    wrong = amqp_url.partition("@")[2]
    code, _, err = await finished("events", "--amqp-url", f"amqp://guest:hush@{wrong}")
    assert code == 1
    assert err == f"amqp://guest:***@{wrong} refuses user or password (see amqp.url)\n"


async def test_a_broker_that_is_not_there_is_answered_by_a_sentence():
    code, _, err = await finished("events", "--amqp-url", "amqp://u:hush@127.0.0.1:1/")
    assert code == 1
    assert err.startswith("amqp://u:***@127.0.0.1:1/: ")
    assert err.endswith("(is the broker running, and is amqp.url right?)\n")
    assert "hush" not in err
    assert len(err.splitlines()) == 1


async def test_a_cluster_is_tried_member_by_member(config, amqp_url, prefix, tmp_path):
    urls = ["amqp://127.0.0.1:1/", amqp_url]
    path = config_with(tmp_path, amqp={"url": urls, "prefix": prefix})
    code, out, _ = await finished("send", "--to", "+49", "--text", "x", "--config", path)
    assert code == 0
    assert "published" in out


# --- the simulator ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_simulate_says_where_it_is_and_ends_when_told(number):
    arguments = ["--gateways", "1", "--ports", "2", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"]
    async with spawned("simulate", *arguments, "--radio-s", "0.01", "--seed", "7") as it:
        addresses = json.loads(await it.stdout.readline())
        assert [(one["name"], one["ports"]) for one in addresses["gateways"]] == [("gw1", 2)]
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"{addresses['control']}/record")).status_code == 200
        it.send_signal(number)
        out, err = await it.communicate()
        assert (it.returncode, out, err) == (0, b"", b"")


async def test_simulate_says_which_address_cannot_be_had(unused_tcp_port):
    server = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", unused_tcp_port)
    async with server:
        code, _, err = await finished("simulate", "--listen", f"127.0.0.1:{unused_tcp_port}")
    assert code == 2
    assert err.startswith(f"listen: 127.0.0.1:{unused_tcp_port} cannot be had")
