"""Is this event what the contract says? For every test that sees one, wherever it came from.

Held against the schema of its type as checked in under ``docs/contract``, formats included, and read by the official
CloudEvents SDK.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from jsonschema import Draft202012Validator, FormatChecker, ValidationError

FOLDER = Path(__file__).parent.parent / "docs" / "contract"

FORMATS = FormatChecker(formats=())
"""jsonschema checks these two formats only where other packages are installed, and says nothing where they are not."""

_MOMENT = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:\d{2})")
_URI_CHARACTERS = re.compile(r"(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*")


@FORMATS.checks("date-time", raises=ValueError)
def _is_moment(value: object) -> bool:
    if not isinstance(value, str):
        return True
    return _MOMENT.fullmatch(value) is not None and datetime.fromisoformat(value) is not None


@FORMATS.checks("uri-reference")
def _is_uri_reference(value: object) -> bool:
    return not isinstance(value, str) or _URI_CHARACTERS.fullmatch(value) is not None


def validate(event: dict[str, Any]) -> None:
    """Raise ValidationError where an event is not what the schema of its type says, or the SDK cannot read it."""
    validator_of(f"{event.get('type')}.schema.json").validate(event)
    read = JSONFormat().read(CloudEvent, json.dumps(event))
    told = (read.get_id(), read.get_source(), read.get_type(), read.get_subject(), read.get_extension("sequence"))
    if told != tuple(event.get(name) for name in ("id", "source", "type", "subject", "sequence")):
        raise ValidationError(f"the CloudEvents SDK reads {told} from {event}")
    if read.get_data() != event["data"] or read.get_time() != datetime.fromisoformat(event["time"]):
        raise ValidationError(f"the CloudEvents SDK reads other data or another time from {event}")


@cache
def validator_of(schema: str) -> Draft202012Validator:
    """The validator of one schema, by its file name; ValidationError where there is none."""
    path = FOLDER / schema
    if not path.is_file():
        raise ValidationError(f"no schema {schema}: an event type that the contract does not know")
    return Draft202012Validator(json.loads(path.read_text(encoding="utf-8")), format_checker=FORMATS)
