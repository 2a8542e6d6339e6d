"""The contract for programs: nothing has drifted, every event that the flows tell is in it, and it is strict."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator, Draft202012Validator, ValidationError
from pydantic import BaseModel, JsonValue

from bridge.amqp.topology import Topology
from bridge.errors import GatewayNotReached, GatewaySilent, RequestInvalid
from bridge.flows.commands import Commands
from bridge.models import (
    EVENT_TYPES,
    SMS_EVENTS,
    Clock,
    Delivery,
    PortChanged,
    PortUsage,
    SendRequest,
    publication_of,
)
from bridge.rules import intake
from dev import contract as generator
from tests.contract import FOLDER, FORMATS, validate, validator_of
from tests.flows.test_inbound import delivery_report, port_status, received, report
from tests.flows.world import START, World, world

TO = "+4915112345678"
SCHEMAS = sorted(path.name for path in FOLDER.glob("*.schema.json"))
ASYNCAPI = yaml.safe_load((FOLDER / "asyncapi.yaml").read_text(encoding="utf-8"))
EXAMPLES = {kind: json.loads(told.body) for kind, told in generator.examples().items()}


# --- drift ----------------------------------------------------------------------------------------------------------


def test_what_is_checked_in_is_what_the_models_say():
    assert generator.drift(FOLDER) == [], "run python dev/contract.py"


def test_a_check_names_what_drifted_and_writing_mends_it(tmp_path, capsys):
    folder = tmp_path / "contract"
    assert generator.main([], folder) == 0
    assert generator.main(["--check"], folder) == 0
    capsys.readouterr()
    (folder / "sms.sent.v1.schema.json").write_text("{}")
    (folder / "asyncapi.yaml").unlink()
    (folder / "sms.forgotten.v1.schema.json").write_text("{}")
    assert generator.main(["--check"], folder) == 1
    named = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert named == ["asyncapi.yaml", "sms.forgotten.v1.schema.json", "sms.sent.v1.schema.json"]
    assert (folder / "sms.sent.v1.schema.json").read_text() == "{}", "a check writes nothing"
    assert generator.main([], folder) == 0
    assert generator.drift(folder) == []


def test_a_member_that_a_model_gains_is_drift(tmp_path, monkeypatch):
    shutil.copytree(FOLDER, tmp_path / "contract")

    class SmsSent(EVENT_TYPES["sms.sent"]):
        """The network took the SMS."""

        price: float | None = None

    monkeypatch.setitem(EVENT_TYPES, "sms.sent", SmsSent)
    assert generator.drift(tmp_path / "contract") == ["sms.sent.v1.schema.json"]


@pytest.mark.parametrize("name", SCHEMAS)
def test_each_schema_is_one_and_means_the_same_to_older_readers(name):
    schema = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    Draft7Validator.check_schema(schema)  # AsyncAPI's own dialect
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["title"] == name.removesuffix(".schema.json")
    assert schema["description"]


# --- what the flows tell --------------------------------------------------------------------------------------------


async def it_is_sent_and_delivered(world: World) -> None:
    asked = {"delivery_report": True, "metadata": {"tenant": "north"}}
    await world.accept(asked, key="send.single", correlation_id="c", headers={"traceparent": "00-ab-cd-01"})
    await world.push(report(world.tid))
    await world.push(delivery_report())
    await world.accept(asked, key="send.single")


async def it_is_undelivered(world: World) -> None:
    await world.accept({"delivery_report": True}, key="send.single")
    await world.push(report(world.tid))
    await world.push(delivery_report(134))


async def it_fails_and_is_corrected(world: World) -> None:
    await world.accept()
    await world.push(report(world.tid, failed="6 Timeout", operator="332 network timeout"))
    await world.push(report(world.tid))


async def it_is_refused_and_then_possibly_sent_twice(world: World) -> None:
    await world.accept()
    first = world.tid
    await world.push(report(first, failed="5 SIM Unregistered"))
    (back,) = await world.back()
    await world.accept({}, headers=dict(back.headers), message_id=back.message_id)
    await world.push(report(first))
    world.device.codes[TO] = 8
    await world.accept({"id": "b"})


async def nobody_knows(world: World) -> None:
    world.device.failure = GatewaySilent()
    await world.accept(key="send.single")
    await world.passes(901)
    await world.push(report(world.tid, failed="5 SIM Unregistered", operator="21 rejected"))


async def it_comes_too_late(world: World) -> None:
    await world.accept({"validity_s": 10}, timestamp=START - 20)
    await world.accept({"id": "list", "to": [TO], "validity_s": 1}, timestamp=START - 5)
    for number in (1, 2, 3):
        world.registered(number, st=0)
    await world.accept({"id": "waits", "validity_s": 10})
    world.mono += 11
    await world.settle()


async def producers_err(world: World) -> None:
    await world.accept(b"{", message_id="half")
    await world.accept({"id": "extra", "prio": 1}, correlation_id="c")
    await world.accept(b'{"to": "+4915112345678", "text": "hi"}')
    await world.accept({"id": "a b"})
    await world.accept({"id": "b" * 128}, app_id="sh:op/50%")
    await world.accept({"id": "b" * 128, "text": "ho"}, app_id="sh:op/50%")
    for n, key in enumerate(("send.nowhere", "send.too.many words", f"send.{'x' * 250}", "gateway.gw9", "elsewhere")):
        delivery, _ = world.delivery({"id": f"r{n}"}, key)
        world.outbound.returned(delivery)
        await world.settle()


async def it_is_told_again_when_its_details_are_gone(world: World) -> None:
    await world.accept({"metadata": {"k": "v"}}, correlation_id="c")
    await world.push(report(world.tid))
    world.wall += 7_200
    ages = {"full_rows_s": 3_600, "horizon_s": 86_400, "received_s": 3_600}
    await world.ledger.write(lambda tx: tx.prune(world.wall, limit=10, **ages))
    await world.accept({"metadata": {"k": "v"}}, headers={"x-expires-at": world.wall + 60})
    assert (await world.told())[-1]["data"]["slim"] is True


async def sms_come_in(world: World) -> None:
    await world.push(received("Grüße 👋", "two"))
    await world.push(received("Grüße 👋", "more"))
    await world.push(received("from nobody", sender=""))
    await world.push(received("from a port that nobody configured", port="77.01", sender="INFO"))
    body = b"Sender: 13510956503\r\nSMSC: 8613010888500\r\nSCTS: 14072322113832\r\n\r\nHello, world!"
    await world.push(body, "application/octet-stream; charset=utf-8", port="2", sender="13510956503")


async def reports_fit_nobody(world: World) -> None:
    for sms_id in ("a", "b"):
        await world.accept({"id": sms_id, "delivery_report": True}, key="send.single")
        await world.push(report(world.tid))
    await world.push(delivery_report())
    await world.push(delivery_report(number="+15550", port="9"))


async def somebody_else_sends(world: World) -> None:
    push = {"type": "sent-sms", "port": "2.01", "seq": 1, "sms_tid": 9, "src_type": 2, "status": "0 OK"}
    await world.push(push | {"time": int(START), "dur": 300, "recver": "+15559", "data": "text"})


async def ports_and_gateways_change(world: World) -> None:
    await world.push(port_status(0, iccid=""))
    await world.push(port_status(77, seq=6))
    status = {"type": "dev-status", "seq": 9, "expires": 60, "mac": "m", "ver": "1", "max-ports": 3, "max-slot": 1}
    rows = [{"port": "1.01", "seq": 9, "st": 3, "iccid": "sim1", "bal": "1.50", "sig": 20, "opr": "46001"}]
    rows[0] |= {"smsctl_day": "3/100", "tot_dur": "0/-1", "dataflow_day": "1.5", "active": 1, "led": 0}
    await world.push(status | {"status": [*rows, {"port": "2.01", "st": "0"}]})
    await world.push(status | {"seq": 1, "status": rows})
    await world.patrol.look("gw1")

    async def gone(*, callback_url: str | None, period_s: int) -> None:
        raise GatewayNotReached

    world.device.status = gone  # type: ignore[assignment,method-assign]
    await world.patrol.look("gw1")


async def operators_command(world: World) -> None:
    await world.accept({"id": "other"})
    delivery, _ = world.delivery({})
    world.outbound.returned(delivery)
    await world.settle()
    commands = Commands(
        ledger=world.ledger,
        publish=world._publish,
        rules_of=world.outbound.rules_of,
        operations=world.operations,
        clock=Clock(lambda: world.wall, lambda: world.mono),
        wake_relay=lambda: None,
    )
    letter = world.published[-1]
    asked = {"command": "replay", "reason": "unroutable", "routing_key": "send.otp", "body": letter.body.decode()}
    for body in (json.dumps(asked | {"app_id": "shop"}).encode(), b"{", b'{"command": "dance"}'):
        commands.accept(Delivery(body, "bridge", ack=lambda: None, give_back=lambda: None))
        await commands.finish()
    commands.accept(Delivery(b'{"command": "lock", "ports": "1"}', "gw1", ack=lambda: None, give_back=lambda: None))
    await commands.finish()
    world.wall += 2 * 86_400
    await world.patrol._reap()
    assert (await world.told())[-1]["data"]["corrects"]


async def garbage_comes_in(world: World) -> None:
    for body in (b"\xff\x00 no JSON", b'{"type": "fax", "dur": 5}', b"x" * 20_000):
        await world.push(body)


async def a_call_is_recorded(world: World) -> None:
    await world.push(b'{"type": "cdr", "port": "2B", "dur": 5}')


Scenario = Callable[[World], Awaitable[None]]

SCENARIOS: dict[Scenario, set[str]] = {
    it_is_sent_and_delivered: {"sms.submitted", "sms.sent", "sms.delivered"},
    it_is_undelivered: {"sms.undelivered"},
    it_fails_and_is_corrected: {"sms.failed", "sms.sent"},
    it_is_refused_and_then_possibly_sent_twice: {"sms.submitted", "sms.sent", "sms.failed"},
    nobody_knows: {"sms.unknown", "sms.failed"},
    it_comes_too_late: {"sms.expired"},
    producers_err: {"sms.rejected", "sms.submitted"},
    it_is_told_again_when_its_details_are_gone: {"sms.sent"},
    sms_come_in: {"sms.received"},
    reports_fit_nobody: {"sms.report_unmatched"},
    somebody_else_sends: {"sms.observed"},
    ports_and_gateways_change: {"port.changed", "gateway.status", "gateway.restarted", "gateway.up", "gateway.down"},
    operators_command: {"command.accepted", "command.done", "command.failed", "sms.expired"},
    garbage_comes_in: {"gateway.unrecognised"},
    a_call_is_recorded: {"call.recorded"},
}
"""What happens, and the types of event that it must have brought about."""


@pytest.mark.parametrize(("scenario", "kinds"), SCENARIOS.items(), ids=[one.__name__ for one in SCENARIOS])
async def test_each_event_that_the_flows_tell_is_in_the_contract(scenario, kinds, tmp_path):
    async with world(tmp_path) as made:
        await scenario(made)
        rows = await made.ledger.write(lambda tx: tx.read_outbox(0, 1_000))
    told = [(one, json.loads(one.body)) for _, one in rows if one.exchange == "events"]
    for publication, event in told:
        validate(event)
        kind = event["type"].removesuffix(".v1")
        assert publication.content_type == "application/cloudevents+json"
        assert publication.message_id == event["id"]
        assert publication.routing_key.count(".") == 4
        assert publication.routing_key.startswith(f"{kind}.")
    assert kinds <= {event["type"].removesuffix(".v1") for _, event in told}


def test_no_type_of_event_is_without_a_scenario():
    assert set().union(*SCENARIOS.values()) == EVENT_TYPES.keys()


def values(annotation: Any) -> st.SearchStrategy[Any]:
    """What a member of this type can hold, as far as JSON can say it."""
    if annotation is float:
        return st.floats(allow_nan=False, allow_infinity=False)
    if annotation is datetime:
        return st.datetimes(timezones=st.just(UTC))
    if annotation == list[PortChanged]:
        return st.lists(instances(PortChanged), max_size=2)
    if annotation is PortUsage:
        return instances(PortUsage)
    if annotation == dict[str, JsonValue]:
        return st.dictionaries(st.text(), st.integers() | st.text() | st.lists(st.booleans()), max_size=2)
    if type(None) in getattr(annotation, "__args__", ()):
        return st.one_of(*map(values, annotation.__args__))
    return st.from_type(annotation)


def instances(model: type[BaseModel]) -> st.SearchStrategy[Any]:
    return st.builds(model, **{name: values(field.annotation) for name, field in model.model_fields.items()})


@pytest.mark.parametrize("kind", EVENT_TYPES)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_whatever_a_model_can_hold_its_schema_allows(kind, data):
    told = publication_of(
        data.draw(instances(EVENT_TYPES[kind])),
        event_id=data.draw(st.text(min_size=1)),
        at=START,
        subject=data.draw(st.none() | st.text()),
        gateway=data.draw(st.sampled_from([None, "gw1"])),
        port=data.draw(st.sampled_from([None, 3])),
        route=data.draw(st.none() | st.text()),
        sequence=data.draw(st.none() | st.integers(0, 10**12)),
        traceparent=data.draw(st.none() | st.text()),
    )
    validate(json.loads(told.body))


# --- what is no event -----------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[str, dict[str, Any]]] = {
    "no id": ("sms.sent", {"id": None}),
    "an empty id": ("sms.sent", {"id": ""}),
    "another version": ("sms.sent", {"specversion": "0.3"}),
    "another type's data": ("sms.sent", {"type": "gateway.up.v1"}),
    "a type that nobody knows": ("sms.sent", {"type": "sms.sent.v2"}),
    "no type": ("sms.sent", {"type": None}),
    "a source with a blank": ("sms.sent", {"source": "/routes/two words"}),
    "a source that is half an escape": ("sms.sent", {"source": "/routes/%2"}),
    "an empty subject": ("sms.sent", {"subject": ""}),
    "a moment without a zone": ("sms.sent", {"time": "2026-01-01T12:00:00"}),
    "a moment that never was": ("sms.sent", {"time": "2026-02-30T12:00:00Z"}),
    "a moment in seconds": ("sms.sent", {"time": 1_767_268_800}),
    "a sequence that sorts wrongly": ("sms.sent", {"sequence": "3"}),
    "other content": ("sms.sent", {"datacontenttype": "text/plain"}),
    "no data": ("sms.sent", {"data": None}),
    "data that is a text": ("sms.sent", {"data": "sent"}),
    "a member that nobody knows": ("sms.sent", {"data.price": 1}),
    "a member that is null": ("sms.sent", {"data.gateway": ...}),
    "a port that is a text": ("sms.sent", {"data.port": "3"}),
    "an alphabet that nobody knows": ("sms.sent", {"data.encoding": "gsm8"}),
    "metadata that is no text": ("sms.sent", {"data.metadata": {"n": 1}}),
    "a moment in data that is none": ("sms.sent", {"data.sent_at": "yesterday"}),
    "no gateway": ("gateway.up", {"data.gateway": None}),
    "no list of candidates": ("sms.report_unmatched", {"data.candidates": None}),
    "a port without a state": ("gateway.status", {"data.ports": [{"gateway": "gw1", "port": 1}]}),
    "a channel that nobody knows": ("sms.received", {"data.via": "pigeon"}),
}
"""By name: a good event's type and what is changed; None takes the member away, ... makes it null."""


@pytest.mark.parametrize(("kind", "changes"), WRONG.values(), ids=WRONG)
def test_a_wrong_event_is_refused(kind, changes):
    event = json.loads(json.dumps(EXAMPLES[kind]))
    validate(event)
    for path, value in changes.items():
        *parents, name = path.split(".")
        place = event[parents[0]] if parents else event
        if value is None:
            del place[name]
        else:
            place[name] = None if value is ... else value
    with pytest.raises(ValidationError):
        validate(event)


def test_an_extension_that_others_add_on_the_way_is_no_mistake():
    validate({**EXAMPLES["sms.sent"], "partitionkey": "7"})


# --- requests -------------------------------------------------------------------------------------------------------

ASKED: list[tuple[str, dict[str, Any], bool]] = [
    ("plain", {}, True),
    ("everything", {
        "sim": "8949", "expires_at": "2023-11-15T00:00:00Z", "validity_s": 60, "encoding": "ucs2", "flash": True,
        "not_before": "2023-11-14T23:00:00+00:00", "smsc": "+4917", "timeout_s": 600, "delivery_report": True,
        "metadata": {str(n): "" for n in range(16)}, "ports": "1-4,7", "spread": "each",
    }, True),
    ("null where nothing is meant", {
        "ports": None, "sim": None, "expires_at": None, "validity_s": None, "not_before": None, "timeout_s": None,
    }, True),
    ("1,000 recipients", {"to": [f"+49151{n:08d}" for n in range(1_000)]}, True),
    ("1,001 recipients", {"to": [f"+49151{n:08d}" for n in range(1_001)]}, False),
    ("nobody", {"to": []}, False),
    ("the same twice", {"to": [TO, TO]}, False),
    ("a short code", {"to": "80888"}, True),
    ("no country code", {"to": "015112345678"}, False),
    ("two zeros", {"to": "004915112345678"}, False),
    ("blanks in a number", {"to": "+49 151 12345678"}, False),
    ("a number that is a number", {"to": 4915112345678}, False),
    ("no text", {"text": ""}, False),
    ("an unknown field", {"prio": 1}, False),
    ("a field that is not there yet", {"sticky": True}, False),
    ("an id of 128", {"id": "x" * 128}, True),
    ("an id of 129", {"id": "x" * 129}, False),
    ("a child's id", {"id": "a/0"}, False),
    ("no zone", {"expires_at": "2023-11-15T00:00:00"}, False),
    ("a moment in seconds", {"expires_at": 1_700_000_000}, False),
    ("no validity", {"validity_s": 0}, False),
    ("the longest validity", {"validity_s": 2**31 - 1}, True),
    ("a validity that no clock can add", {"validity_s": 10**400}, False),
    ("a validity that is a text", {"validity_s": "60"}, False),
    ("too little time", {"timeout_s": 4}, False),
    ("17 metadata", {"metadata": {str(n): "" for n in range(17)}}, False),
    ("metadata that is no text", {"metadata": {"street": 7}}, False),
    ("a port", {"ports": 3}, True),
    ("port and slot", {"ports": 3.01}, True),
    ("a truth for a port", {"ports": True}, False),
    ("an alphabet that nobody knows", {"encoding": "utf8"}, False),
    ("a word for a truth", {"flash": "yes"}, False),
]  # fmt: skip


@pytest.mark.parametrize(("change", "good"), [pytest.param(*row[1:], id=row[0]) for row in ASKED])
def test_the_bridge_takes_a_request_where_the_schema_does(change, good):
    body = {"id": "a", "to": TO, "text": "hi"} | change
    assert validator_of("send-request.schema.json").is_valid(body) is good
    assert refused_field(body) == (None if good else next(iter(change)))


def refused_field(body: dict[str, Any]) -> str | None:
    """The member that the bridge refuses a pinned request for; None where it takes it."""
    rules = intake.IntakeRules(86_400, 10, allow_short_codes=True, ports=frozenset(range(1, 9)))
    delivery = Delivery(json.dumps(body).encode(), "gateway.gw1", ack=lambda: None, give_back=lambda: None)
    try:
        intake.read(delivery, rules, START)
    except RequestInvalid as error:
        return error.field
    return None


def test_a_request_may_leave_its_id_to_the_message():
    assert validator_of("send-request.schema.json").is_valid({"to": TO, "text": "hi"})
    assert not validator_of("send-request.schema.json").is_valid({"id": "a", "to": TO})


# --- AsyncAPI -------------------------------------------------------------------------------------------------------

MESSAGES: dict[str, dict[str, Any]] = ASYNCAPI["components"]["messages"]


def resolve(reference: str) -> Any:
    """What a ``$ref`` of the document points to."""
    if reference.startswith("./"):
        return json.loads((FOLDER / reference).read_text(encoding="utf-8"))
    found: Any = ASYNCAPI
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def references(node: Any) -> list[str]:
    """Every ``$ref`` below."""
    if isinstance(node, list):
        return [reference for one in node for reference in references(one)]
    if not isinstance(node, dict):
        return []
    own = [node["$ref"]] if "$ref" in node else []
    return own + [
        reference for name, one in node.items() if name != "payload" or "$ref" in one for reference in references(one)
    ]


def test_every_reference_leads_somewhere():
    assert len(references(ASYNCAPI)) > len(EVENT_TYPES)
    for reference in references(ASYNCAPI):
        assert resolve(reference)


@pytest.mark.parametrize("name", MESSAGES)
def test_each_example_is_what_its_schema_says(name):
    message = MESSAGES[name]
    schema = resolve(message["payload"]["$ref"])
    assert message["examples"]
    for example in message["examples"]:
        Draft202012Validator(schema, format_checker=FORMATS).validate(example["payload"])
        Draft7Validator(schema, format_checker=FORMATS).validate(example["payload"])


def test_each_event_has_its_channel_and_an_operation_that_receives_it():
    received_by = {
        resolve(one["channel"]["$ref"])["address"]: one["messages"]
        for one in ASYNCAPI["operations"].values()
        if one["action"] == "receive"
    }
    assert received_by.keys() == {f"{kind}.{{route}}.{{gateway}}.{{port}}" for kind in EVENT_TYPES}
    for address, messages in received_by.items():
        (message,) = [resolve(resolve(each["$ref"])["$ref"]) for each in messages]
        assert address.startswith(message["name"].removesuffix("v1"))


def test_channels_name_exchanges_that_the_bridge_declares():
    declared = {each.name: each.type for each in Topology("sms", ["otp"], ["gw1"]).exchanges}
    for channel in ASYNCAPI["channels"].values():
        exchange = channel["bindings"]["amqp"]["exchange"]
        assert declared[exchange["name"]] == exchange["type"]
    assert [channel["address"] for channel in ASYNCAPI["channels"].values()][:2] == [
        "send.{route}",
        "gateway.{gateway}",
    ]


def test_the_examples_of_events_are_published_as_their_channels_say():
    for kind, told in generator.examples().items():
        words = told.routing_key.split(".")
        assert (".".join(words[:2]), len(words)) == (kind, 5)


# --- the page for people --------------------------------------------------------------------------------------------

PAGE = (FOLDER.parent / "contract.md").read_text(encoding="utf-8")


def first_cells(heading: str) -> list[str]:
    """The names in the first cells of the page's table under that first line."""
    table = PAGE.partition(heading + "\n")[2].partition("\n\n")[0]
    return [name for line in table.splitlines()[1:] for name in re.findall(r"`(.+?)`", line.split(" | ")[0])]


def test_the_page_lists_every_field_of_a_request():
    assert first_cells("| field | meaning |") == list(SendRequest.model_fields)


def test_the_page_lists_every_event_with_every_member_of_its_data():
    listed = first_cells("| event | when | data besides the common |") + first_cells("| event | when | data |")
    assert listed == list(EVENT_TYPES)
    common = PAGE.partition("Common data, as far as it is known:")[2].partition("\n\n")[0]
    for kind, model in EVENT_TYPES.items():
        row = re.search(rf"^\| `{re.escape(kind)}` \|.*$", PAGE, flags=re.MULTILINE)
        assert row
        told = set(re.findall(r"`(\w+)`", row[0] + (common if kind in SMS_EVENTS else "")))
        assert model.model_fields.keys() - told == set()


def test_the_pages_examples_are_what_the_schemas_say():
    request, event = (json.loads(text) for text in re.findall(r"^```json\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
    validator_of("send-request.schema.json").validate(request)
    validate(event)
