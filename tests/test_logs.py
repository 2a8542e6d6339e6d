"""What a log line looks like, and what can never stand in one."""

from __future__ import annotations

import json
import logging

import pytest
import structlog

from bridge import logs
from bridge.logs import mask


class Lines:
    """What was written to standard error so far."""

    def __init__(self, capsys):
        self._capsys = capsys
        self._told = ""

    @property
    def text(self) -> str:
        self._told += self._capsys.readouterr().err
        return self._told

    def read(self) -> list[dict]:
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture
def lines(capsys):
    """Standard error; logging and structlog are put back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in logs.LIBRARY_LEVELS}
    yield Lines(capsys)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)
    structlog.reset_defaults()


def test_json_is_one_object_per_line(lines):
    logs.configure("info", "json")
    structlog.get_logger().bind(gateway="gw1").info("sms.sent", request_id="otp:1", port=3, to="+4915112345678")
    (line,) = lines.read()
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "sms.sent",
        "level": "info",
        "gateway": "gw1",
        "request_id": "otp:1",
        "port": 3,
        "to": "+49151******78",
    }


def test_console_is_a_line_for_people(lines):
    logs.configure("info", "console")
    structlog.get_logger().info("sms.sent", gateway="gw1")
    assert "[info     ] sms.sent                 gateway=gw1" in lines.text
    assert "\x1b" not in lines.text


def test_below_the_level_nothing_is_said(lines):
    logs.configure("warning", "json")
    structlog.get_logger().info("sms.sent")
    logging.getLogger("some.library").info("hello")
    structlog.get_logger().warning("port.quarantined")
    assert [line["event"] for line in lines.read()] == ["port.quarantined"]


def test_the_last_configuration_counts(lines):
    logs.configure("error", "json")
    logger = structlog.get_logger()
    logger.info("one")
    logs.configure("debug", "json")
    logger.debug("two")
    logging.getLogger("some.library").debug("three")
    assert [line["event"] for line in lines.read()] == ["two", "three"]


@pytest.mark.parametrize("form", ["json", "console"])
def test_libraries_take_the_same_way_out(lines, form):
    logs.configure("info", form)
    logging.getLogger("some.library").warning("lost %s", "something")
    text = lines.text
    assert "lost something" in text
    assert "some.library" in text
    assert "warning" in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("httpx", "info"),
        ("httpcore.connection", "debug"),
        ("aiormq.channel", "critical"),
        ("aio_pika.robust_connection", "info"),
        ("alembic.runtime.migration", "info"),
        ("uvicorn.error", "info"),
        ("uvicorn.access", "critical"),
    ],
)
def test_chatty_libraries_are_quiet_even_at_debug(lines, name, level):
    logs.configure("debug", "json")
    logging.getLogger(name).log(logging.getLevelNamesMapping()[level.upper()], "GET /?password=hush")
    assert lines.text == ""


SECRETS = [
    "GET http://10.0.0.1/goip_get_status.html?username=root&password=hush failed",
    "http://10.0.0.1:80/cb?a=1?password=hush",
    "/callback/gw1?username=x&password=hush",
    "/callback/gw1/hush",
    "http://bridge:8080/callback/gw1/hush?a=b is the callback",
    "cannot reach amqp://user:hush@mq:5672/vhost",
    "amqps://hush@mq/",
]


def fail(text: str) -> None:
    raise RuntimeError(text)


@pytest.mark.parametrize("text", SECRETS)
@pytest.mark.parametrize("form", ["json", "console"])
def test_no_query_no_token_and_no_password_ever_stands_in_a_line(lines, text, form):
    logs.configure("debug", form)
    logger = structlog.get_logger()
    logger.warning(text)
    logger.warning("gateway.garbled", detail=text, error=ValueError(text))
    logging.getLogger("some.library").warning("said %s", text)
    for at in (logger, logging.getLogger("some.library")):
        try:
            fail(text)
        except RuntimeError:
            at.exception("loop.died")
    assert lines.text.count("***") >= 6
    assert "hush" not in lines.text


def test_what_is_no_secret_is_left_alone(lines):
    logs.configure("info", "json")
    structlog.get_logger().info("web.started", address="http://0.0.0.0:8080/callback", why="is it up? yes/no", n=3)
    (line,) = lines.read()
    assert (line["address"], line["why"]) == ("http://0.0.0.0:8080/callback", "is it up? yes/no")


@pytest.mark.parametrize("key", logs.NUMBER_KEYS)
def test_a_number_is_masked_even_where_the_caller_forgot(lines, key):
    logs.configure("info", "json")
    structlog.get_logger().info("sms.received", **{key: "+4915112345678"})
    assert lines.read()[0][key] == "+49151******78"


def test_what_json_does_not_know_is_told_as_text(lines):
    logs.configure("info", "json")
    structlog.get_logger().info("bridge.started", ports={3})
    assert lines.read()[0]["ports"] == "{3}"


MASKED = {
    "+4915112345678": "+49151******78",
    "004915112345678": "004915*******78",
    "0151123456": "********56",
    "12345": "***45",
    "1234": "****",
    "": "",
}


@pytest.mark.parametrize("number", MASKED)
def test_a_masked_number_can_be_found_but_not_called(number):
    assert mask(number) == MASKED[number]
    assert mask(mask(number)) == mask(number)
