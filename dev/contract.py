"""The contract for programs: JSON Schemas of the request, each command and each event, and an AsyncAPI document.

All of it is made from ``bridge.models``: the schemas from the models themselves, the examples by the functions that
make real events. ``python dev/contract.py`` writes ``docs/contract/``; with ``--check`` it writes nothing, names each
file that is not what the models say, and exits 1. The same input always gives the same bytes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from bridge.ejoin.codes import TEXTS
from bridge.models import (
    COMMANDS,
    EVENT_TYPES,
    GATEWAY_COMMANDS,
    ID_PATTERN,
    MAX_BODY_BYTES,
    MAX_RECIPIENTS,
    SMS_EVENTS,
    CallRecorded,
    CallStatistics,
    Cancel,
    CloudEvent,
    Command,
    CommandAccepted,
    CommandDone,
    CommandFailed,
    DeleteInbox,
    EventData,
    GatewayDown,
    GatewayRestarted,
    GatewayStatus,
    GatewayUnrecognised,
    GatewayUp,
    GetSettings,
    Inbox,
    Lock,
    PauseTasks,
    PortChanged,
    PortUsage,
    Probe,
    Publication,
    Quota,
    Reboot,
    RemoveTasks,
    Replay,
    Reset,
    ResumeTasks,
    Save,
    SendRequest,
    SetSettings,
    SetUp,
    Sims,
    Sms,
    SmsObserved,
    SmsReceived,
    SmsReportUnmatched,
    SmsStatistics,
    State,
    Switch,
    Tasks,
    Unlock,
    Ussd,
    moment,
    publication_of,
    tell,
)

FOLDER = Path(__file__).parent.parent / "docs" / "contract"
REQUEST_SCHEMA = "send-request.schema.json"
ASYNCAPI = "asyncapi.yaml"
DRAFT = "https://json-schema.org/draft/2020-12/schema"
BINDING_VERSION = "0.3.0"
NOON = 1_767_268_800.0

Members = dict[str, Any]


def main(arguments: list[str] | None = None, folder: Path = FOLDER) -> int:
    """Write the documents, or with ``--check`` name those that drifted; answers with the exit code."""
    parser = argparse.ArgumentParser(description="Write docs/contract/ from the models.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 and name what drifted")
    drifted = drift(folder)
    if parser.parse_args(arguments).check:
        for name in drifted:
            print(f"{name} is not what the models say: run python dev/contract.py")
        return 1 if drifted else 0
    told = documents()
    folder.mkdir(parents=True, exist_ok=True)
    for name in drifted:
        if name in told:
            (folder / name).write_text(told[name], encoding="utf-8")
        else:
            (folder / name).unlink()
    print(f"{len(told)} documents in {folder}, {len(drifted)} changed")
    return 0


def drift(folder: Path) -> list[str]:
    """The files that are missing, other than the models say, or of nothing that the models know."""
    told = documents()
    found = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*")} if folder.is_dir() else {}
    return sorted(name for name in told.keys() | found.keys() if told.get(name) != found.get(name))


def documents() -> dict[str, str]:
    """Every document: file name and text."""
    schemas = {REQUEST_SCHEMA: request_schema()} | {command_name(name): command_schema(name) for name in COMMANDS}
    schemas |= {schema_name(kind): event_schema(kind) for kind in EVENT_TYPES}
    texts = {name: json.dumps(schema, indent=2, ensure_ascii=False) + "\n" for name, schema in schemas.items()}
    return texts | {ASYNCAPI: _yaml(asyncapi())}


def schema_name(kind: str) -> str:
    """The file with the schema of an event: ``sms.sent.v1.schema.json``."""
    return f"{kind}.v1.schema.json"


def command_name(name: str) -> str:
    """The file with the schema of a command: ``command-replay.schema.json``."""
    return f"command-{name}.schema.json"


# --- schemas --------------------------------------------------------------------------------------------------------


def request_schema() -> Members:
    """What a producer may write, with the rules that the model leaves to the reader of requests."""
    schema = SendRequest.model_json_schema()
    members = {name: _plain(member) for name, member in schema["properties"].items()}
    number = {"type": "string", "pattern": r"^(\+[1-9][0-9]{6,14}|[0-9]{2,8})$"}
    recipients = {"type": "array", "items": number, "minItems": 1, "maxItems": MAX_RECIPIENTS, "uniqueItems": True}
    members["to"] = {"description": members["to"]["description"], "anyOf": [number, recipients]}
    members["id"]["anyOf"][0]["pattern"] = f"^{ID_PATTERN.pattern}$"
    return {
        "$schema": DRAFT,
        "title": "send-request",
        "description": (
            f"A request to send an SMS: JSON in UTF-8, at most {MAX_BODY_BYTES} bytes, to sms.requests with the "
            "routing key send.<route> or gateway.<gateway>. A short code passes only where the route allows it; "
            "'ports' and 'spread': 'each' only with gateway.<gateway>."
        ),
        "type": "object",
        "properties": members,
        "required": schema["required"],
        "additionalProperties": False,
    }


def command_schema(name: str) -> Members:
    """What an operator may write to have something done."""
    schema = COMMANDS[name].model_json_schema()
    return {
        "$schema": DRAFT,
        "title": f"command-{name}",
        "description": " ".join(schema["description"].split()),
        "type": "object",
        "properties": {member: _plain(told) for member, told in schema["properties"].items()},
        "required": ["command", *schema.get("required", ())],
        "additionalProperties": False,
    }


def event_schema(kind: str) -> Members:
    """The whole CloudEvents envelope of one event type, with its data."""
    model = EVENT_TYPES[kind]
    envelope = _as_told(CloudEvent.model_json_schema(mode="serialization"))
    data = model.model_json_schema(mode="serialization")
    definitions = {name: _as_told(nested) for name, nested in data.pop("$defs", {}).items()}
    members: Members = envelope["properties"]
    # What the functions that make events add to the model's types.
    members["id"]["minLength"] = 1
    members["source"]["format"] = "uri-reference"
    members["type"] = {"const": f"{kind}.v1", "type": "string"}
    members["subject"]["minLength"] = 1
    members["sequence"]["pattern"] = "^[0-9]{10,}$"
    members["data"] = _as_told(data)
    return {
        "$schema": DRAFT,
        "title": f"{kind}.v1",
        "description": members["data"].pop("description"),
        "type": "object",
        "properties": members,
        "required": envelope["required"],
        **({"$defs": definitions} if definitions else {}),
    }


def _as_told(schema: Mapping[str, Any]) -> Members:
    """An object as it is on the wire: members that are None are left out, all others are always there."""
    if "properties" not in schema:
        return dict(schema)
    told: Members = {"type": "object"}
    if description := schema.get("description"):
        told["description"] = description
    told["properties"] = {name: _present(member) for name, member in schema["properties"].items()}
    if required := [name for name, member in schema["properties"].items() if not _may_be_null(member)]:
        told["required"] = required
    if "additionalProperties" in schema:
        told["additionalProperties"] = schema["additionalProperties"]
    return told


def _may_be_null(member: Mapping[str, Any]) -> bool:
    return {"type": "null"} in member.get("anyOf", [])


def _present(member: Mapping[str, Any]) -> Members:
    """A member where it is there: not null, and without a default, since nobody has to fill one in."""
    told = _plain(member)
    told.pop("default", None)
    choices = [choice for choice in told.pop("anyOf", []) if choice != {"type": "null"}]
    if not choices:
        return told
    return choices[0] | told if len(choices) == 1 else {"anyOf": choices} | told


def _plain(member: Mapping[str, Any]) -> Members:
    """A member without what pydantic adds and nobody needs: a title that repeats the name, a default of null."""
    told = {name: value for name, value in member.items() if name != "title"}
    if told.get("default", "") is None:
        del told["default"]
    return told


# --- examples -------------------------------------------------------------------------------------------------------

REQUESTS: dict[str, Members] = {
    "plain": {
        "id": "order-7",
        "to": "+491511234567",
        "text": "Your order is on its way",
        "delivery_report": True,
        "validity_s": 3600,
        "metadata": {"tenant": "north"},
    },
    "list": {"id": "news-12", "to": ["+491511234567", "+491511234568"], "text": "We are closed on Monday"},
    "pinned": {"id": "check-3", "to": "+491511234567", "text": "ping", "ports": "1-4", "spread": "each"},
}
"""By name; ``pinned`` goes to a gateway, the others to a route."""


COMMANDED: dict[str, Command] = {
    "replay": Replay(
        reason="unroutable",
        routing_key="send.otp",
        body=json.dumps(REQUESTS["plain"]),
        app_id="shop",
        timestamp=NOON - 3_600,
    ),
    "cancel": Cancel(app_id="shop", id="order-7"),
    "lock": Lock(ports="1A,2.02"),
    "unlock": Unlock(ports="all"),
    "switch": Switch(ports="1.01-64.01"),
    "reset": Reset(ports="3"),
    "save": Save(),
    "reboot": Reboot(confirm=True),
    "probe": Probe(),
    "setup": SetUp(),
    "get": GetSettings(names=["sw_ver"]),
    "set": SetSettings(values={"sim_number(0)": "491511234567"}),
    "sims": Sims(),
    "sms_statistics": SmsStatistics(span="day"),
    "call_statistics": CallStatistics(slots="all"),
    "inbox": Inbox(start=1, count=50),
    "delete_inbox": DeleteInbox(start=1, count=50, confirm=True),
    "tasks": Tasks(port=3),
    "pause_tasks": PauseTasks(tids=[4711]),
    "resume_tasks": ResumeTasks(tids=[4711]),
    "remove_tasks": RemoveTasks(tids=[4711], confirm=True),
    "ussd": Ussd(port="3", code="*100#"),
}


def examples() -> dict[str, Publication]:
    """One event of each type, made as real ones are."""
    told = {kind: _sms_example(kind) for kind in SMS_EVENTS}
    for data, event_id, port in _other_examples():
        subject = data.sender if isinstance(data, SmsReceived) else None
        gateway = getattr(data, "gateway", None)
        told[data.kind] = publication_of(data, event_id=event_id, at=NOON, gateway=gateway, port=port, subject=subject)
    return told


def _sms_example(kind: str) -> Publication:
    asked = {"meta": {"tenant": "north"}, "dr": True, "cid": "c-81", "ts": NOON - 4}
    refused = kind in {"sms.expired", "sms.rejected"}
    sms = Sms(
        app_id="shop",
        id="order-7",
        fingerprint=b"",
        state=State.SUBMITTED,
        state_at=NOON,
        sequence=0 if refused or kind == "sms.submitted" else 2 if kind.endswith("delivered") else 1,
        request=json.dumps(asked),
        route="otp",
        recipient="+491511234567",
        segments=1,
        encoding="gsm7",
    )
    if not refused:
        sms = replace(sms, gateway="gw1", port=3, slot=1, sim="8949020000012345678", tid=4711)
    return tell(sms, kind, NOON, **_DETAILS.get(kind, {}))[1]


_DETAILS: dict[str, Members] = {
    "sms.sent": {"sent_at": NOON - 1},
    "sms.failed": {"reason": "not_sure", "code": 6, "text": TEXTS[6], "certain": False},
    "sms.expired": {"reason": "too_late", "expires_at": NOON - 1},
    "sms.rejected": {"reason": "invalid", "field": "prio", "detail": "unknown field 'prio'"},
    "sms.unknown": {"reason": "answer_lost"},
    "sms.delivered": {"code": 0, "reported_at": NOON - 1},
    "sms.undelivered": {"code": 134, "reported_at": NOON - 1},
}


def _other_examples() -> list[tuple[EventData, str, int | None]]:
    """(data, event id, port)."""
    at, sim, number = moment(NOON - 1), "8949020000012345678", "+491701234567"
    port = PortChanged(
        gateway="gw1", port=3, slot=1, state="registered", st=3, sim=sim, iccid=sim, signal=21,
        usage=PortUsage(sms_day=Quota(used=3, allowed=100), minutes_total=Quota(used=0, allowed="unlimited")),
    )  # fmt: skip
    return [
        (
            SmsReceived(
                gateway="gw1", port=3, slot=1, sim=sim, receiver=number, sender="+491511234567", text="Yes please",
                received_at=at, via="push",
            ),
            f"{sim}/+491511234567/{NOON - 1:.0f}/8f434346648f6b96df89dda901c5176b/0",
            3,
        ),
        (
            SmsReportUnmatched(
                gateway="gw1", port=3, sim=sim, recipient="+491511234567", code=0, reported_at=at,
                candidates=["shop:order-7", "shop:order-8"],
            ),
            f"report/{sim}/+491511234567/0/{NOON - 1:.0f}",
            3,
        ),
        (
            SmsObserved(
                gateway="gw1", port=3, sim=sim, recipient="+491511234567", code=0, text=TEXTS[0], submitter="web",
                sent_at=at,
            ),
            f"observed/gw1/3/12/{NOON - 1:.0f}/+491511234567",
            3,
        ),
        (port.model_copy(update={"previous": "registering"}), "gw1/0/8/3.01/3", 3),
        (GatewayUp(gateway="gw1", version="532-604-924-041-100-000", ports=8), f"gw1/gateway.up/{NOON:.3f}", None),
        (
            GatewayDown(gateway="gw1", reason="No connection to the gateway was made: nothing can have gone on air."),
            f"gw1/gateway.down/{NOON:.3f}",
            None,
        ),
        (GatewayRestarted(gateway="gw1", seq=1, previous_seq=2124), "gw1/1/restarted", None),
        (
            GatewayStatus(gateway="gw1", seq=17, version="532-604-924-041-100-000", ports=[port]),
            "gw1/0/17/status",
            None,
        ),
        (
            CommandAccepted(
                command="switch", gateway="gw1", app_id="ejoin-bridge", detail="gw1 is told: switch",
            ),
            "command/9f86d081884c7d659a2feaa0c55ad015/command.accepted",
            None,
        ),
        (
            CommandDone(
                command="replay", app_id="ejoin-bridge", sms="shop:order-7",
                detail="shop:order-7 goes to send.otp again",
            ),
            "command/9f86d081884c7d659a2feaa0c55ad015/command.done",
            None,
        ),
        (
            CommandFailed(
                command="replay", app_id="ejoin-bridge", sms="shop:order-7", reason="not_rejected",
                detail="shop:order-7 is not rejected any more, it is sent: drop the letter",
            ),
            "command/9f86d081884c7d659a2feaa0c55ad015/command.failed",
            None,
        ),
        (
            CallRecorded(
                gateway="gw1", port=3, content_type="application/json", body='{"type":"cdr","port":"3.01","dur":5}'
            ),
            "gw1/fcde2b2edba56bf408601fb721fe9b5c/2945448",
            3,
        ),
        (
            GatewayUnrecognised(
                gateway="gw1", type="fax", reason="unknown type", content_type="application/json",
                body='{"type":"fax","port":"3.01","dur":5}',
            ),
            "gw1/2c26b46b68ffc68ff99b453c1d304134/2945448",
            None,
        ),
    ]  # fmt: skip


# --- AsyncAPI -------------------------------------------------------------------------------------------------------


def asyncapi() -> Members:
    """The contract as a producer and a consumer see it: what they send, what they receive, and where."""
    told = examples()
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Ejoin Bridge",
            "version": "1",
            "description": (
                "The messages between your services and the bridge. Operations are yours: you send requests, you "
                "receive events. Names begin with the prefix 'sms' unless amqp.prefix says otherwise. contract.md "
                "says in words what this document cannot."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "broker": {
                "host": "127.0.0.1:5672",
                "protocol": "amqp",
                "protocolVersion": "0.9.1",
                "description": "Your RabbitMQ.",
            }
        },
        "channels": _request_channels()
        | _command_channel()
        | {_camel(kind): _event_channel(kind) for kind in EVENT_TYPES},
        "operations": _send_operations()
        | _command_operation()
        | {_on(kind): _receive_operation(kind) for kind in EVENT_TYPES},
        "components": {
            "messages": _request_messages()
            | {_to_do(name): _command_message(name) for name in COMMANDS}
            | {_camel(kind): _event_message(kind, told[kind]) for kind in EVENT_TYPES},
            "parameters": {
                "route": {"description": "A route of the configuration.", "examples": ["otp"]},
                "gateway": {"description": "A gateway of the configuration.", "examples": ["gw1"]},
                "eventRoute": {"description": "The route that the SMS was asked for by; - for none."},
                "eventGateway": {"description": "The gateway; - for none."},
                "eventPort": {"description": "The number of the port; - for none.", "examples": ["3", "-"]},
            },
        },
    }


def _request_channels() -> Members:
    def channel(target: str, description: str) -> Members:
        return {
            "address": ("send" if target == "route" else target) + f".{{{target}}}",
            "description": description,
            "messages": {"request": {"$ref": f"#/components/messages/{_to(target)}"}},
            "parameters": {target: {"$ref": f"#/components/parameters/{target}"}},
            "bindings": _exchange("sms.requests"),
        }

    return {
        "requestsToRoute": channel("route", "Any SIM of the route may send."),
        "requestsToGateway": channel("gateway", "Only this gateway may send; the request may name its ports."),
    }


def _send_operations() -> Members:
    def operation(target: str, summary: str) -> Members:
        channel = f"#/channels/requestsTo{target.capitalize()}"
        return {
            "action": "send",
            "channel": {"$ref": channel},
            "summary": summary,
            "messages": [{"$ref": f"{channel}/messages/request"}],
            "bindings": {"amqp": {"deliveryMode": 2, "bindingVersion": BINDING_VERSION}},
        }

    return {
        "sendToRoute": operation("route", "Ask for an SMS from any SIM of a route."),
        "sendToGateway": operation("gateway", "Ask for an SMS from one gateway, or from certain ports of it."),
    }


def _request_messages() -> Members:
    def message(title: str, *names: str) -> Members:
        return {
            "name": "send-request",
            "title": title,
            "contentType": "application/json",
            "headers": {
                "type": "object",
                "properties": {"traceparent": {"type": "string", "description": "Comes back in the SMS's events."}},
            },
            "payload": {"$ref": f"./{REQUEST_SCHEMA}"},
            "x-amqp-properties": _REQUEST_PROPERTIES,
            "examples": [{"name": name, "payload": REQUESTS[name]} for name in names],
        }

    return {
        _to("route"): message("A request to send, by any SIM of a route", "plain", "list"),
        _to("gateway"): message("A request to send, by one gateway", "pinned"),
    }


_REQUEST_PROPERTIES = {
    "app_id": "Who asks; with the id it is the idempotency key.",
    "message_id": "The id, where the body has none.",
    "timestamp": "When it was asked; the age counts from here.",
    "expiration": "Milliseconds after timestamp, like validity_s.",
    "correlation_id": "Comes back with the SMS's events.",
    "reply_to": "A queue that gets a copy of the SMS's events, once and without a promise.",
}


def _command_channel() -> Members:
    return {
        "commands": {
            "address": "bridge",
            "description": "Something to be done by the bridge itself.",
            "messages": _messages_to_do(name for name in COMMANDS if name not in GATEWAY_COMMANDS),
            "bindings": _exchange("sms.commands"),
        },
        "gatewayCommands": {
            "address": "{gateway}",
            "description": "Something to be done by a gateway.",
            "parameters": {"gateway": {"$ref": "#/components/parameters/gateway"}},
            "messages": _messages_to_do(GATEWAY_COMMANDS),
            "bindings": _exchange("sms.commands"),
        },
    }


def _messages_to_do(names: Iterable[str]) -> Members:
    return {name: {"$ref": f"#/components/messages/{_to_do(name)}"} for name in names}


def _command_operation() -> Members:
    return {
        "command": {
            "action": "send",
            "channel": {"$ref": "#/channels/commands"},
            "summary": "Have the bridge do something; command.done or command.failed is copied to reply_to.",
            "messages": [{"$ref": "#/channels/commands/messages/replay"}],
            "bindings": {"amqp": {"expiration": 60_000, "bindingVersion": BINDING_VERSION}},
        },
        "operate": {
            "action": "send",
            "channel": {"$ref": "#/channels/gatewayCommands"},
            "summary": "Have a gateway do something; command.accepted, then command.done or command.failed, "
            "is copied to reply_to.",
            "messages": [{"$ref": f"#/channels/gatewayCommands/messages/{name}"} for name in GATEWAY_COMMANDS],
            "bindings": {"amqp": {"expiration": 60_000, "bindingVersion": BINDING_VERSION}},
        },
    }


def _command_message(name: str) -> Members:
    return {
        "name": f"command-{name}",
        "title": f"The command {name}",
        "summary": (COMMANDS[name].__doc__ or "").splitlines()[0],
        "contentType": "application/json",
        "payload": {"$ref": f"./{command_name(name)}"},
        "x-amqp-properties": _COMMAND_PROPERTIES,
        "examples": [{"name": name, "payload": COMMANDED[name].model_dump(exclude_none=True)}],
    }


_COMMAND_PROPERTIES = {
    "reply_to": "The queue that gets the answer.",
    "correlation_id": "Comes back with the answer.",
    "message_id": "Names this command: the answer's id is made of it.",
    "app_id": "Who commands; told in the answer.",
    "expiration": "How long you wait for the answer, in milliseconds: later it is not done.",
}


def _event_channel(kind: str) -> Members:
    places = {"route": "eventRoute", "gateway": "eventGateway", "port": "eventPort"}
    return {
        "address": f"{kind}.{{route}}.{{gateway}}.{{port}}",
        "messages": {"event": {"$ref": f"#/components/messages/{_camel(kind)}"}},
        "parameters": {name: {"$ref": f"#/components/parameters/{place}"} for name, place in places.items()},
        "bindings": _exchange("sms.events"),
    }


def _receive_operation(kind: str) -> Members:
    channel = f"#/channels/{_camel(kind)}"
    return {
        "action": "receive",
        "channel": {"$ref": channel},
        "summary": _summary(kind),
        "messages": [{"$ref": f"{channel}/messages/event"}],
        "bindings": {"amqp": {"ack": True, "bindingVersion": BINDING_VERSION}},
    }


def _event_message(kind: str, example: Publication) -> Members:
    return {
        "name": f"{kind}.v1",
        "title": f"{kind}.v1",
        "summary": _summary(kind),
        "contentType": example.content_type,
        "payload": {"$ref": f"./{schema_name(kind)}"},
        "examples": [{"name": example.routing_key, "payload": json.loads(example.body)}],
    }


def _exchange(name: str) -> Members:
    exchange = {"name": name, "type": "topic", "durable": True, "autoDelete": False}
    return {"amqp": {"is": "routingKey", "exchange": exchange, "bindingVersion": BINDING_VERSION}}


def _summary(kind: str) -> str:
    return (EVENT_TYPES[kind].__doc__ or "").splitlines()[0]


def _camel(kind: str) -> str:
    first, *others = kind.replace("_", ".").split(".")
    return first + "".join(word.capitalize() for word in others)


def _on(kind: str) -> str:
    name = _camel(kind)
    return f"on{name[0].upper()}{name[1:]}"


def _to_do(name: str) -> str:
    return f"commandTo{name.capitalize()}"


def _to(target: str) -> str:
    return f"requestTo{target.capitalize()}"


class _Plain(yaml.SafeDumper):
    """Everything written out where it stands: anchors are hard to read and to compare."""

    def ignore_aliases(self, data: Any) -> bool:
        """Never refer back."""
        del data
        return True


def _yaml(told: Members) -> str:
    text: str = yaml.dump(told, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=110)
    return f"# Made by dev/contract.py from bridge/models.py.\n{text}"


if __name__ == "__main__":
    sys.exit(main())
