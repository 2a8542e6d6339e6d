"""Every knob of the bridge: its name, its default and its sentence.

A YAML file, environment variables (``EJOIN_AMQP__URL``; they win over the file, lists are JSON) and secret files
(``<name>_file``) become one frozen Settings object. Whatever is wrong is answered by a sentence that names the field
and the cure (SettingsInvalid, one line per mistake). What follows from the settings (policies, limits, prefetch,
graces, disk) is computed here and nowhere else.
"""

# ruff: noqa: TRY004  pydantic makes a mistake of the operator out of a ValueError, not out of a TypeError

from __future__ import annotations

import difflib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import SplitResult, urlsplit

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from bridge.ejoin import ports as port_notation
from bridge.errors import SettingsInvalid
from bridge.models import GATEWAY_COMMANDS, NAME_PATTERN

ENV_PREFIX = "EJOIN_"
ENV_CONFIG = "EJOIN_CONFIG"
DEFAULT_CONFIG = Path("config.yaml")
MAX_CALLBACK_TOKENS = 2
KEY_HORIZON_S = 48 * 3600
"""A key outlives max_age_s by this much, so that a late copy is still known (design 1.2)."""

EVIDENCE_MARGIN_S = 5.0
"""The two looks themselves, and the moment until the first."""

PREFETCH_MIN, PREFETCH_MAX, PREFETCH_WINDOW_S = 50, 1_000, 6

# The stop, step by step (design 3.6). Settings.grace_s adds them up: 5 + (submit_within_s + post_timeout_s) + 10 + 5
# + 5, with the defaults 45 s. The chart's terminationGracePeriodSeconds must exceed that sum.
GRACE_CONSUMERS_S = 5.0  # cancel the consumers, give back what was not begun
GRACE_RELAY_S = 10.0  # tell what is in the outbox; the rest is told after the next start
GRACE_WEB_S = 5.0  # finish the callbacks that are being answered
GRACE_CLOSE_S = 5.0  # close the broker's and the devices' connections and the ledger

LEGACY_BLOCKS_S = 30.0
"""How long a device waits for the network where nobody says otherwise (the document's tmo)."""

FULL_ROW_BYTES = 1_000  # a row with its indexes is 720 on average; the rest is the free space that pruning leaves
SLIM_ROW_BYTES = 500  # measured 380
OUTBOX_ROW_BYTES = 1_500


def _known_command(value: str) -> str:
    if value not in GATEWAY_COMMANDS:
        raise ValueError(f"{value!r} is no command (there are {', '.join(GATEWAY_COMMANDS)})")
    return value


def _named(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(NAME_PATTERN, value):
        raise ValueError(f"{value!r} is no name (write 1 to 40 of a-z, 0-9 and -: it stands in routing keys)")
    return value


def _not_a_number(value: Any) -> Any:
    """YAML reads 1.10 as 1.1, and 8 could be meant as a count: a port list is text."""
    if isinstance(value, bool | int | float):
        raise ValueError(f'YAML reads {value} as a number (put quotes around it: "1-8" is eight ports, "8" is port 8)')
    if isinstance(value, list):
        raise ValueError('is a list (write one text in quotes: "1-4,7")')
    return value


def _whole_ports(notation: str) -> str:
    try:
        ports = port_notation.parse_range(notation)
    except ValueError as error:
        raise ValueError(f'{error}; a list of ports is written "1-4,7"') from error
    if any(port.slot for port in ports):
        raise ValueError(f'{notation!r} names a slot (write whole ports: "1-4,7"; a limit goes with the active SIM)')
    return notation


def _text_keys(value: Any) -> Any:
    """A key like ``3:`` is an int in YAML and means port 3; ``1.10:`` is a float and means nothing."""
    if not isinstance(value, dict):
        return value
    for key in value:
        if isinstance(key, float):
            raise ValueError(f'YAML reads the key {key} as a number (put quotes around it: "1-4,7")')
    return {str(key) if isinstance(key, int) else key: entry for key, entry in value.items()}


def _route_ports(value: Any) -> Any:
    """YAML reads ``gw1: 1-8`` as a mapping; one text is meant."""
    if isinstance(value, dict) and len(value) == 1:
        gateway, notation = next(iter(value.items()))
        raise ValueError(f'has a space after the colon (write "{gateway}:{notation}", in quotes)')
    if not isinstance(value, str):
        raise ValueError('is not text (write "gw1:1-8", or "gw1" for all of its ports)')
    return value


def _split(url: str, *schemes: str) -> SplitResult:
    """The parts of a URL. Raises ValueError with a sentence that never repeats the URL: it may hold a password."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(
            f"is no URL: its host or port cannot be read (write {schemes[0]}://host:port; "
            "percent-encode :, /, #, ? and @ in a password)"
        ) from error
    if parts.scheme not in schemes:
        raise ValueError(f"is no {' or '.join(schemes)} URL (write {schemes[0]}://host:port)")
    if not parts.hostname or port == 0:
        raise ValueError(f"names no host (write {schemes[0]}://host:port)")
    if parts.fragment:
        raise ValueError("has a # in it (percent-encode :, /, #, ? and @ in a password: # is %23)")
    return parts


def _http_url(url: str) -> str:
    parts = _split(url, "http", "https")
    if parts.username is not None or parts.password is not None:
        raise ValueError("holds credentials (leave them out of the URL: they have fields of their own)")
    if parts.query:
        raise ValueError("has a query (write scheme, host, port and at most a path)")
    return url.rstrip("/")


def _public_url(url: str) -> str:
    url = _http_url(url)
    if urlsplit(url).hostname in {"0.0.0.0", "::"}:
        raise ValueError("is an address that nobody can call (write the address at which devices reach this bridge)")
    return url


def _plain(value: Any) -> Any:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def _broker_urls(value: Any) -> Any:
    """Check one URL or a list; anything else is said in one sentence instead of one per member of the union."""
    urls = value if isinstance(value, list) else [value]
    if not urls or not all(isinstance(_plain(url), str) for url in urls):
        raise ValueError("is neither a URL nor a list of URLs (write amqp://user:password@host:5672/)")
    for url in urls:
        if _split(_plain(url), "amqp", "amqps").query:
            raise ValueError("has a query (the bridge's own settings decide; percent-encode a ? in a password as %3F)")
    return value


def _listen(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or (":" in host and not host.startswith("[")):
        raise ValueError(f"{value!r} is no address (write host:port, 0.0.0.0:8080 or [::]:8080)")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{value!r} has no port from 0 to 65535 (write host:port; 0 takes any free one)")
    return value


def _token(value: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[A-Za-z0-9._~-]+", value.get_secret_value()):
        raise ValueError("is no token (use letters, digits and . _ ~ - only: it stands in a URL)")
    return value


def _some_tokens(tokens: list[SecretStr]) -> list[SecretStr]:
    if len(tokens) > MAX_CALLBACK_TOKENS:
        raise ValueError(f"has {len(tokens)} tokens (give at most two: the new one and the one being replaced)")
    if not tokens:
        raise ValueError("has no token (give one: without it nobody's callbacks can be told from the device's)")
    return tokens


def _recipient(value: str) -> str:
    if not re.fullmatch(r"(\+[1-9][0-9]{0,14}|[0-9]{1,8})\*?", value):
        raise ValueError(
            f'{value!r} is no number and no prefix (write "+491511234567", or "+4915*" for all that begin so)'
        )
    return value


def _only_zero(value: Any) -> Any:
    if value != 0:
        raise ValueError("keeping texts is not in this version, only 0 (the text is blanked at the final state)")
    return value


Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Name = Annotated[str, BeforeValidator(_named)]
PortRange = Annotated[str, AfterValidator(_whole_ports), BeforeValidator(_not_a_number)]
RoutePorts = Annotated[str, BeforeValidator(_route_ports)]
BrokerUrl = Annotated[SecretStr | list[SecretStr], BeforeValidator(_broker_urls)]
CommandName = Annotated[str, AfterValidator(_known_command)]
Token = Annotated[SecretStr, AfterValidator(_token)]
OnDoubt = Literal["unknown", "resend"]
Recipient = Annotated[str, AfterValidator(_recipient)]
OnlyTo = Annotated[list[Recipient], Field(min_length=1)]
MaxAge = Annotated[float, Field(gt=0, le=30 * 86_400, allow_inf_nan=False)]
MaxSegments = Annotated[int, Field(ge=1, le=255)]
MaxAttempts = Annotated[int, Field(ge=1, le=100)]
Timeout = Annotated[int, Field(ge=5, le=600)]
Hold = Annotated[float, Field(gt=0, le=900, allow_inf_nan=False)]


def _read_secret(data: Any, name: str) -> Any:
    """Put what ``<name>_file`` holds where ``<name>`` is expected."""
    if not isinstance(data, dict) or data.get(f"{name}_file") is None:
        return data
    field = f"{name}_file"
    if data.get(name) is not None:
        raise _at(field, f"is given beside {name} (keep one of the two)")
    try:
        content = Path(data[field]).read_text(encoding="utf-8").strip()
    except (OSError, TypeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is not text in UTF-8"
        raise _at(field, f"{data[field]} cannot be read: {reason} (check its path and permissions)") from error
    if not content:
        raise _at(field, f"{data[field]} is empty (write the secret into it)")
    return {**data, name: content}


def _at(field: str, sentence: str) -> PydanticCustomError:
    """A mistake of one field, found while the whole section was looked at."""
    return PydanticCustomError("at", "{sentence}", {"field": field, "sentence": sentence})


class _Section(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


Section = TypeVar("Section", bound=_Section)


class AmqpSettings(_Section):
    """The broker."""

    url: BrokerUrl = Field(
        SecretStr("amqp://guest:guest@127.0.0.1:5672/"),
        description="amqp:// or amqps:// URL with user and password; a list of them is a cluster.",
    )
    url_file: str | None = Field(None, description="A file that holds the URL, or one URL per line; instead of url.")
    prefix: str = Field(
        "sms",
        pattern=r"^[A-Za-z0-9._-]{1,40}$",
        description="First word of all exchanges and queues: letters, digits, . _ -, at most 40.",
    )
    declare: bool = Field(
        default=True, description="Declare exchanges and queues; false where the user may not configure."
    )
    heartbeat_s: int = Field(15, ge=1, le=600, description="Heartbeat to the broker, 1 to 600 s.")
    publish_timeout_s: Seconds = Field(10.0, description="A publish that is not confirmed by then has failed.")
    in_flight: int = Field(200, ge=1, le=10_000, description="Publishes that may wait for their confirm at once.")

    @model_validator(mode="before")
    @classmethod
    def _read_url_file(cls, data: Any) -> Any:
        data = _read_secret(data, "url")
        if isinstance(data, dict) and data.get("url_file") is not None:
            lines = data["url"].split()
            return {**data, "url": lines if len(lines) > 1 else lines[0]}
        return data

    @property
    def urls(self) -> tuple[str, ...]:
        """The plain URLs, for whoever connects."""
        return tuple(url.get_secret_value() for url in (self.url if isinstance(self.url, list) else [self.url]))


class WebSettings(_Section):
    """Callbacks, health and metrics."""

    listen: Annotated[str, AfterValidator(_listen)] = Field(
        "0.0.0.0:8080", description="Address of the HTTP server, host:port."
    )
    public_url: Annotated[str, AfterValidator(_public_url)] = Field(
        "http://127.0.0.1:8080", description="The address that devices are told to call back."
    )


class StoreSettings(_Section):
    """The ledger."""

    path: Path = Field(Path("ejoin-bridge.db"), strict=False, description="The ledger's file; on a local disk.")
    lock_wait_s: float = Field(
        30.0, ge=0, allow_inf_nan=False, description="Wait this long for another bridge to let go of the ledger."
    )
    text_ttl_h: Annotated[int, BeforeValidator(_only_zero)] = Field(
        0, description="Hours that texts are kept after the final state; only 0 in this version."
    )
    full_rows_h: float = Field(
        72.0, gt=0, allow_inf_nan=False, description="Hours that details are kept after the final state."
    )
    outbox_pause: int = Field(100_000, ge=1, description="No new hand-over while the outbox has more rows than this.")
    outbox_resume: int = Field(80_000, ge=0, description="Hand-overs go on when the outbox has shrunk to this.")


class LogSettings(_Section):
    """Logs, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least severe that is shown.")
    format: Literal["console", "json"] = Field("console", description="console for people, json for collectors.")


class Limits(_Section):
    """What one SIM may send."""

    segments_per_min: float | None = Field(
        6.0, gt=0, le=6_000, allow_inf_nan=False, description="Segments a minute per SIM; null is unlimited."
    )
    burst: int = Field(2, ge=1, le=1_000, description="Segments that may leave at once after a pause.")
    min_gap_s: float = Field(
        0.0,
        ge=0,
        le=3_600,
        allow_inf_nan=False,
        description="Seconds from the end of one hand-over of a SIM to its next, at most 3,600; burst or not.",
    )


class Policy(_Section):
    """How requests are treated; a route may say otherwise, pinned requests get this."""

    max_age_s: MaxAge = Field(86_400.0, description="Never sent later than this after its timestamp; at most 30 days.")
    max_segments: MaxSegments = Field(10, description="A longer text is refused.")
    max_attempts: MaxAttempts = Field(3, description="SIMs that may fail an SMS before it has failed.")
    allow_short_codes: bool = Field(default=False, description="Take recipients that are short codes.")
    on_doubt: OnDoubt = Field(
        "unknown",
        description="What becomes of an SMS that may be on air: unknown, or resend (it may then arrive twice).",
    )
    only_to: OnlyTo | None = Field(
        None, description='Numbers and prefixes ("+4915*") that may be texted, for staging; null is everybody.'
    )
    timeout_s: Timeout = Field(30, description="How long the device waits for the network, 5 to 600 s.")
    hold_s: Hold = Field(60.0, description="No delivery is held longer than this; at most 900 s.")


class TimingSettings(_Section):
    """Patience with the devices."""

    submit_within_s: Seconds = Field(5.0, description="A batch not on the wire by then is handed back.")
    connect_timeout_s: Seconds = Field(5.0, description="Time for the connection to a device.")
    post_timeout_s: Seconds = Field(15.0, description="Time for a whole POST, connecting included.")
    doubt_s: Seconds = Field(900.0, description="How long evidence is looked for when an answer was lost.")
    report_margin_s: Seconds = Field(60.0, description="Patience with a report beyond what the device needs.")
    repeat_window_s: Seconds = Field(600.0, description="The same callback again within this time is a repeat.")


class GatewaySettings(_Section):
    """One device."""

    name: Name = Field(description="Its name in routing keys, events and metrics: a-z, 0-9 and -, at most 40.")
    url: Annotated[str, AfterValidator(_http_url)] = Field(description="Its address, http://host:port.")
    username: str = Field("root", min_length=1, description="User of the device's HTTP API.")
    password: SecretStr = Field(description="Password of that user.")
    password_file: str | None = Field(None, description="A file that holds the password; instead of password.")
    callback_tokens: Annotated[list[Token], AfterValidator(_some_tokens)] = Field(
        description="Secrets in the callback URL: one, or two while exchanging them. The first is told to the device."
    )
    callback_tokens_file: str | None = Field(
        None, description="A file with one token per line; instead of callback_tokens."
    )
    ports: PortRange = Field(description='The ports that may be used, "1-8" or "1-4,7".')
    dial: Literal["plus", "digits"] = Field("plus", description="Numbers are dialled +49151... or 49151...")
    api_version: Literal["1.0", "1.1"] = Field(
        "1.1", description='"1.0": the old interface, one SMS a call that blocks until it has left; else tasks in JSON.'
    )
    credentials: Literal["query", "body", "both"] = Field(
        "both", description="Where a submit carries the login: the document says the body, devices want the query."
    )
    charset: Literal["auto", "utf8", "base64"] = Field(
        "auto", description="How texts are written: auto is UTF-8, and base64 where devices mangle it (emoji)."
    )
    public_url: Annotated[str, AfterValidator(_public_url)] | None = Field(
        None, description="The address this device is told to call back; null is web.public_url."
    )
    posts_per_s: float | None = Field(
        2.0, gt=0, le=100, allow_inf_nan=False, description="POSTs a second; null is unlimited."
    )
    batch: int = Field(50, ge=1, le=1_000, description="Tasks in one POST at most.")
    max_queued: int = Field(2, ge=1, le=1_000, description="Tasks of one port that may wait for their report.")
    limits: Limits | None = Field(None, description="Other limits for this device's SIMs; what is left out stays.")
    port_limits: Annotated[dict[PortRange, Limits], BeforeValidator(_text_keys)] = Field(
        default_factory=dict, description='Other limits for some ports: {"1-4": {burst: 1}}.'
    )
    callbacks: Literal["push", "poll", "both"] = Field(
        "both",
        description="push: only what the device calls back; poll: it is asked, for one that cannot reach us; both.",
    )
    status_period_s: int = Field(
        60,
        ge=30,
        le=3_600,
        description="How often the device reports its state: 60 or more by its API, 30 by its page.",
    )
    poll_s: Seconds = Field(60.0, description="How often inbox and counters are read, for what no callback told.")
    resubmit_within_s: Seconds | None = Field(
        None,
        description="Ask again with the same task id within this time (minutes): only where finished ids are refused.",
    )
    report_count: int = Field(20, ge=1, le=1_000, description="The device reports after so many results ...")
    report_period_s: int = Field(3, ge=1, le=600, description="... or after this time.")
    sms_count: int = Field(
        10, ge=2, le=1_000, description="Incoming SMS are pushed after so many (the document's sms_cnt) ..."
    )
    sms_period_s: int = Field(3, ge=1, le=600, description="... or after this time.")
    task_report_count: int = Field(1, ge=1, le=1_000, description="Rows of one task in a report.")
    task_report_period_s: int = Field(5, ge=1, le=600, description="How often one task is reported.")

    @model_validator(mode="before")
    @classmethod
    def _read_secret_files(cls, data: Any) -> Any:
        data = _read_secret(_read_secret(data, "password"), "callback_tokens")
        if isinstance(data, dict) and data.get("callback_tokens_file") is not None:
            return {**data, "callback_tokens": data["callback_tokens"].split()}
        return data

    @property
    def pushes(self) -> bool:
        """Whether it is told where to call back."""
        return self.callbacks != "poll"

    @property
    def asked_every_s(self) -> float | None:
        """How often it is asked for what no callback told; None: never."""
        return None if self.callbacks == "push" else self.poll_s

    @property
    def port_numbers(self) -> tuple[int, ...]:
        """Its ports, as numbers."""
        return tuple(port.number for port in port_notation.parse_range(self.ports))

    @property
    def tokens(self) -> tuple[str, ...]:
        """The plain callback tokens, the one to tell the device first."""
        return tuple(token.get_secret_value() for token in self.callback_tokens)


class RouteSettings(_Section):
    """A named set of ports with a policy; what is left out or null is the general policy's."""

    name: Name = Field(description="Its name in routing keys and queues: a-z, 0-9 and -, at most 40.")
    ports: list[RoutePorts] = Field(
        min_length=1, description='What may send: "gw1:1-8", or "gw1" for all of its ports.'
    )
    max_age_s: MaxAge | None = Field(None, description="See policy.")
    max_segments: MaxSegments | None = Field(None, description="See policy.")
    max_attempts: MaxAttempts | None = Field(None, description="See policy.")
    allow_short_codes: bool | None = Field(None, description="See policy.")
    on_doubt: OnDoubt | None = Field(None, description="See policy.")
    only_to: OnlyTo | None = Field(None, description="See policy.")
    timeout_s: Timeout | None = Field(None, description="See policy.")
    hold_s: Hold | None = Field(None, description="See policy.")


class CommandSettings(_Section):
    """What operators may ask of gateways over the broker."""

    allowed: list[CommandName] = Field(
        default_factory=lambda: list(GATEWAY_COMMANDS),
        description="The commands that are carried out; others are refused.",
    )


class Settings(BaseSettings):
    """The whole configuration, checked."""

    model_config = SettingsConfigDict(
        strict=True, extra="forbid", frozen=True, env_prefix=ENV_PREFIX, env_nested_delimiter="__"
    )

    amqp: AmqpSettings = Field(default_factory=AmqpSettings, description="The broker.")
    web: WebSettings = Field(default_factory=WebSettings, description="Callbacks, health and metrics.")
    store: StoreSettings = Field(default_factory=StoreSettings, description="The ledger.")
    logs: LogSettings = Field(default_factory=LogSettings, description="Logs.")
    limits: Limits = Field(default_factory=Limits, description="What one SIM may send.")
    policy: Policy = Field(default_factory=Policy, description="How requests are treated.")
    timing: TimingSettings = Field(default_factory=TimingSettings, description="Patience with the devices.")
    commands: CommandSettings = Field(
        default_factory=CommandSettings, description="What operators may ask of gateways."
    )
    gateways: list[GatewaySettings] = Field(min_length=1, description="The devices.")
    routes: list[RouteSettings] = Field(default_factory=list, description="Named sets of ports.")

    _policies: dict[str, Policy] = PrivateAttr(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over what was read from the file (or given by a test)."""
        del settings_cls, dotenv_settings, file_secret_settings
        return env_settings, init_settings

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Settings:
        if lines := list(_contradictions(self)):
            raise ValueError("\n".join(lines))
        self._policies.update((route.name, _overlay(self.policy, route)) for route in self.routes)
        return self

    def gateway(self, name: str) -> GatewaySettings:
        """The gateway of that name. Raises KeyError where none is configured."""
        for gateway in self.gateways:
            if gateway.name == name:
                return gateway
        raise KeyError(name)

    def post_timeout_of(self, gateway: str) -> float:
        """Time for a whole POST, in seconds; the old interface answers when the SMS has left, or the radio gave up."""
        legacy = self.gateway(gateway).api_version == "1.0"
        return self.timing.post_timeout_s + (LEGACY_BLOCKS_S if legacy else 0.0)

    def evidence_of(self, gateway: str) -> float:
        """How long it takes to learn from a SIM's counters that something never came, in seconds: two looks, so far
        apart.
        """
        return self.post_timeout_of(gateway) + EVIDENCE_MARGIN_S

    def policy_of(self, route: str | None) -> Policy:
        """How a request is treated: by its route's policy, else (pinned, or a removed route) by the general one."""
        return self.policy if route is None else self._policies.get(route, self.policy)

    def limits_of(self, gateway: str, port: int) -> Limits:
        """What the SIM in that port may send: the port's own limits over the gateway's over the general ones."""
        entry = self.gateway(gateway)
        limits = self.limits if entry.limits is None else _overlay(self.limits, entry.limits)
        for notation, own in entry.port_limits.items():
            if any(named.number == port for named in port_notation.parse_range(notation)):
                limits = _overlay(limits, own)
        return limits

    def route_ports(self, route: str) -> list[tuple[str, int]]:
        """The ports of a route as (gateway, number), each once, in the order written."""
        for entry in self.routes:
            if entry.name == route:
                return list(dict.fromkeys(pair for named in entry.ports for pair in self._ports_named(named)))
        raise KeyError(route)

    def _ports_named(self, named: str) -> list[tuple[str, int]]:
        gateway, _, notation = named.partition(":")
        ports = port_notation.parse_range(notation or self.gateway(gateway).ports)
        return [(gateway, port.number) for port in ports]

    def segments_per_min(self, ports: Iterable[tuple[str, int]]) -> float | None:
        """What these ports may send together; None where one of them is unlimited."""
        rates = [self.limits_of(gateway, port).segments_per_min for gateway, port in ports]
        return None if None in rates else math.fsum(rate for rate in rates if rate is not None)

    def prefetch_of(self, route: str) -> int:
        """Deliveries held for a route: twice what it may send in 6 s, from 50 to 1,000 (design 2.2)."""
        return _prefetch(self.segments_per_min(self.route_ports(route)))

    def prefetch_pinned(self, gateway: str) -> int:
        """Deliveries held for requests pinned to a gateway, by the same rule."""
        return _prefetch(self.segments_per_min((gateway, port) for port in self.gateway(gateway).port_numbers))

    def callback_url(self, gateway: str, token: str | None = None) -> str:
        """The address a device is told to call back, with the given or else its first token."""
        entry = self.gateway(gateway)
        return f"{entry.public_url or self.web.public_url}/callback/{entry.name}/{token or entry.tokens[0]}"

    @property
    def remembered_s(self) -> float:
        """How long an incoming SMS is remembered, so that it is told once whichever way it comes again."""
        return max(self.store.full_rows_h * 3600, self.timing.repeat_window_s)

    @property
    def grace_in_flight_s(self) -> float:
        """Time for the POSTs that are begun: to get on the wire, and to be answered."""
        return self.timing.submit_within_s + max(self.post_timeout_of(one.name) for one in self.gateways)

    def grace_s(self) -> float:
        """The longest that a stop may take: the sum of its graces."""
        return GRACE_CONSUMERS_S + self.grace_in_flight_s + GRACE_RELAY_S + GRACE_WEB_S + GRACE_CLOSE_S


def _overlay(general: Section, own: BaseModel) -> Section:
    """``general`` with what ``own`` says itself; for a Policy null says nothing, for Limits it says unlimited."""
    said = {
        name: getattr(own, name)
        for name in own.model_fields_set & set(type(general).model_fields)
        if isinstance(own, Limits) or getattr(own, name) is not None
    }
    return general.model_copy(update=said)


def _prefetch(segments_per_min: float | None) -> int:
    if segments_per_min is None:
        return PREFETCH_MAX
    return max(PREFETCH_MIN, min(PREFETCH_MAX, math.ceil(2 * segments_per_min * PREFETCH_WINDOW_S / 60)))


# --- what contradicts itself -----------------------------------------------------------------------------------------


def _contradictions(settings: Settings) -> Iterator[str]:
    """A sentence for each mistake that no field shows alone."""
    timing, store = settings.timing, settings.store
    if timing.post_timeout_s <= timing.connect_timeout_s:
        yield (
            f"timing.post_timeout_s: {timing.post_timeout_s:g} leaves no time after connecting "
            f"(make it longer than timing.connect_timeout_s, {timing.connect_timeout_s:g}: it includes connecting)"
        )
    if store.outbox_resume >= store.outbox_pause:
        yield (
            f"store.outbox_resume: {store.outbox_resume} is not below outbox_pause "
            f"(make it smaller than {store.outbox_pause}, or nothing ever resumes)"
        )
    yield from _repeats("gateways", "name", [gateway.name for gateway in settings.gateways])
    yield from _repeats("gateways", "url", [gateway.url for gateway in settings.gateways])
    yield from _repeats("routes", "name", [route.name for route in settings.routes])
    ports = {gateway.name: gateway for gateway in settings.gateways}
    for i, gateway in enumerate(settings.gateways):
        if gateway.api_version == "1.0" and gateway.resubmit_within_s is not None:
            yield (
                f"gateways[{i}].resubmit_within_s: the old interface has no task ids to ask about "
                f'(leave it out, or make api_version "1.1")'
            )
        for notation in gateway.port_limits:
            yield from _absent(f"gateways[{i}].port_limits.{notation}", gateway, notation)
    for i, route in enumerate(settings.routes):
        for j, named in enumerate(route.ports):
            yield from _misnamed(f"routes[{i}].ports[{j}]", named, ports)


def _repeats(section: str, field: str, values: Sequence[str]) -> Iterator[str]:
    for i, value in enumerate(values):
        if (first := values.index(value)) != i:
            yield (
                f"{section}[{i}].{field}: {value} is {section}[{first}]'s already "
                f"(give each {section[:-1]} its own {field})"
            )


def _misnamed(path: str, named: str, gateways: Mapping[str, GatewaySettings]) -> Iterator[str]:
    name, colon, notation = named.partition(":")
    if name not in gateways:
        yield f"{path}: there is no gateway {name!r} ({_suggest(name, gateways, 'the gateways are')})"
        return
    if not colon:
        return
    try:
        _whole_ports(notation)
    except ValueError as error:
        yield f"{path}: {error}"
        return
    yield from _absent(path, gateways[name], notation)


def _absent(path: str, gateway: GatewaySettings, notation: str) -> Iterator[str]:
    wanted = (port.number for port in port_notation.parse_range(notation))
    if missing := [str(number) for number in wanted if number not in gateway.port_numbers]:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        yield (
            f"{path}: {gateway.name} has no port {shown} "
            f"(its ports are {gateway.ports}: name some of those, or add to the gateway's ports)"
        )


# --- reading, and the sentences --------------------------------------------------------------------------------------


def find_config(named: Path | None) -> Path | None:
    """The configuration file to read: the one named, else $EJOIN_CONFIG, else ./config.yaml.

    None where the environment is to do alone: no file is named, none stands there, and EJOIN_GATEWAYS is given.
    """
    if named is not None:
        return named
    if told := os.environ.get(ENV_CONFIG):
        return Path(told)
    return None if "EJOIN_GATEWAYS" in os.environ and not DEFAULT_CONFIG.exists() else DEFAULT_CONFIG


def load(path: Path | None) -> Settings:
    """Read the file (None: none), let the environment win, read the secret files, check everything.

    Raises SettingsInvalid, whose message has one line per mistake: the field, what is wrong, and the cure.
    """
    data = {} if path is None else _read_yaml(path)
    mistakes = list(_unknown_variables())
    mistakes += [_unknown_key((key,)) for key in data if key.startswith("_")]  # pydantic-settings' own arguments
    if mistakes:
        raise SettingsInvalid("\n".join(mistakes))
    try:
        return Settings(**_without_overruled_secrets(data))
    except ValidationError as error:
        lines = [line for details in error.errors(include_url=False) for line in _sentences(details)]
    except SettingsError as error:
        lines = [_unreadable_variable(error)]
    raise SettingsInvalid("\n".join(lines))


def broker_at(url: str, prefix: str) -> AmqpSettings:
    """The broker's settings for a tool that knows no more than its URL. Raises SettingsInvalid like ``load``."""
    try:
        return AmqpSettings(url=SecretStr(url), prefix=prefix)
    except ValidationError as error:
        told = [{**details, "loc": ("amqp", *details["loc"])} for details in error.errors(include_url=False)]
    raise SettingsInvalid("\n".join(line for details in told for line in _sentences(details)))


class _Loader(yaml.SafeLoader):
    """YAML, but a key that stands twice is a mistake instead of a silent choice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                problem = f"the key {key.value!r} stands here a second time"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(getattr(key, "value", "") if isinstance(key, yaml.ScalarNode) else "")
        return super().construct_mapping(node, deep=deep)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a SafeLoader
    except FileNotFoundError:
        cure = "copy config.example.yaml, or name yours with --config or EJOIN_CONFIG"
        raise SettingsInvalid(f"{path}: no such file ({cure})") from None
    except OSError as error:
        raise SettingsInvalid(f"{path}: cannot be read: {error.strerror} (check its path and permissions)") from error
    except UnicodeDecodeError as error:
        raise SettingsInvalid(f"{path}: is not text in UTF-8 (save it as UTF-8)") from error
    except yaml.YAMLError as error:
        raise SettingsInvalid(f"{path}: {_yaml_problem(error)}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise SettingsInvalid(f"{path}: holds no settings (write sections: amqp, gateways, routes, ...)")
    return {str(key): value for key, value in data.items()}


def _yaml_problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return "is not YAML: it holds characters that YAML does not allow (save it as plain UTF-8 text)"
    place = f"line {mark.line + 1}, column {mark.column + 1}"
    problem = getattr(error, "problem", None) or "it cannot be read"
    return f'is not YAML at {place}: {problem} (check indentation and tabs; put quotes around texts with ": " or " #")'


def _without_overruled_secrets(data: dict[str, Any]) -> dict[str, Any]:
    """Where the environment gives the broker's URL, the file's url_file is overruled with it, and the reverse."""
    amqp = data.get("amqp")
    given = {name.upper() for name in os.environ}
    for name, other in (("url", "url_file"), ("url_file", "url")):
        if isinstance(amqp, dict) and f"{ENV_PREFIX}AMQP__{name.upper()}" in given:
            amqp = {key: value for key, value in amqp.items() if key != other}
    return data if amqp is None else {**data, "amqp": amqp}


def _unknown_variables() -> Iterator[str]:
    """EJOIN_ variables that would be ignored although somebody meant something by them.

    Others are let pass: Kubernetes gives every container EJOIN_BRIDGE_PORT and the like for services of that name.
    """
    sections = Settings.model_fields
    for variable in sorted(os.environ):
        name = variable.upper()
        if not name.startswith(ENV_PREFIX) or name == ENV_CONFIG:
            continue
        section, nested, _ = name.removeprefix(ENV_PREFIX).lower().partition("__")
        if section in sections:
            continue
        first, _, field = section.partition("_")
        if first in sections and field in _fields_at((first,)):
            yield f"{variable}: unknown variable (write two underscores: {ENV_PREFIX}{first.upper()}__{field.upper()})"
        elif nested or difflib.get_close_matches(section, sections, 1, 0.85):
            yield f"{variable}: unknown variable ({_suggest(section, sections, 'the sections are')})"


def _unreadable_variable(error: SettingsError) -> str:
    named = re.search(r'field "(\w+)"', str(error))
    variable = f"{ENV_PREFIX}{named[1].upper()}" if named else ENV_PREFIX
    return f"{variable}: is not JSON: {error.__cause__} (lists and sections are one JSON text in the environment)"


SECTIONS: Mapping[tuple[str, ...], type[BaseModel]] = {
    (): Settings,
    ("amqp",): AmqpSettings,
    ("web",): WebSettings,
    ("store",): StoreSettings,
    ("logs",): LogSettings,
    ("limits",): Limits,
    ("policy",): Policy,
    ("timing",): TimingSettings,
    ("gateways",): GatewaySettings,
    ("gateways", "limits"): Limits,
    ("gateways", "port_limits"): Limits,
    ("routes",): RouteSettings,
}
SECRETS = {"url", "password", "callback_tokens"}


def _fields_at(where: tuple[str | int, ...]) -> Mapping[str, Any]:
    """The fields of the section at that place; empty where there is no such section."""
    names = tuple(part for part in where if isinstance(part, str))
    section = SECTIONS.get(names[:2] if "port_limits" in names else names)
    return section.model_fields if section else {}


def _sentences(error: Mapping[str, Any]) -> list[str]:
    """One mistake as pydantic found it, in the operator's words."""
    where, context = error["loc"], error.get("ctx", {})
    if not where:
        return str(context.get("error", error["msg"])).splitlines()
    match error["type"]:
        case "at":
            return [f"{_path((*where, context['field']))}: {context['sentence']}"]
        case "extra_forbidden":
            return [_unknown_key(where)]
        case "missing":
            return [f"{_path(where)}: is missing ({_how_to_add(where)})"]
        case "value_error":
            return [f"{_path(where)}: {context['error']}"]
        case _:
            return [f"{_path(where)}: {_wrong_value(error)}{_from_environment(where)}"]


def _path(where: tuple[str | int, ...]) -> str:
    """``gateways[0].ports``; what pydantic adds for unions and keys is left out."""
    path = ""
    for part in where:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part != "[key]":
            path += f".{part}" if path else part
    return path


def _unknown_key(where: tuple[str | int, ...]) -> str:
    key, fields = str(where[-1]), _fields_at(where[:-1])
    homes = [".".join(names) for names, model in SECTIONS.items() if names and key in model.model_fields]
    if homes and not difflib.get_close_matches(key, fields, 1, 0.6):
        return f"{_path(where)}: unknown key (it belongs under {homes[0]})"
    return f"{_path(where)}: unknown key ({_suggest(key, fields, 'the keys here are')})"


def _suggest(word: str, known: Iterable[str], otherwise: str) -> str:
    known = list(known)
    near = difflib.get_close_matches(word.lower(), known, 1, 0.6)
    return f"did you mean {near[0]}?" if near else f"{otherwise} {', '.join(known)}"


def _how_to_add(where: tuple[str | int, ...]) -> str:
    fields, name = _fields_at(where[:-1]), str(where[-1])
    add = f"add it, or {name}_file" if f"{name}_file" in fields else "add it"
    return f"{add}: {fields[name].description}"


def _from_environment(where: tuple[str | int, ...]) -> str:
    variable = ENV_PREFIX + "__".join(str(part) for part in where).upper()
    return f" [from {variable}]" if variable in os.environ else ""


def _wrong_value(error: Mapping[str, Any]) -> str:
    """What is wrong with one value, and the cure; a secret is never repeated."""
    where, given, context = error["loc"], error["input"], error.get("ctx", {})
    names = [part for part in where if isinstance(part, str)]
    field = _fields_at(where[:-1]).get(names[-1])
    cure = field.description.rstrip(".") if field is not None else "see config.example.yaml"
    shown = "it" if SECRETS & set(names) and "ports" not in names else json.dumps(given, default=str)
    match error["type"]:
        case _ if given is None:
            return "is empty (give a value, or leave the key out)"
        case "string_type" if isinstance(given, bool | int | float):
            return f"{shown} is not text (put quotes around it)"
        case "int_type" | "float_type" | "int_from_float" | "float_parsing" | "int_parsing":
            return f"{shown} is not a {'whole ' if error['type'].startswith('int') else ''}number ({cure})"
        case "bool_type":
            return f"{shown} is not a switch (write true or false)"
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            bound = next(f"{words} {context[k]:.15g}" for k, words in BOUNDS.items() if k in context)
            return f"{shown} is out of range (it must be {bound}: {cure})"
        case "finite_number":
            return f"{given} is out of range (it must be finite; null is unlimited where that is possible)"
        case "literal_error":
            return f"{shown} is not known (write {context['expected']})"
        case "list_type":
            return 'is no list (begin each entry with "- "; in the environment a list is one JSON text)'
        case "model_type" | "model_attributes_type" | "dict_type":
            return "is no section (write its keys below it, indented)"
        case "too_short" | "string_too_short":
            return f"is empty (give at least one: {cure})"
        case _:
            return f"{shown} does not fit ({cure})"


BOUNDS = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}

# --- what check shows ------------------------------------------------------------------------------------------------


def effective(settings: Settings) -> dict[str, Any]:
    """The configuration in force, ready for JSON: secrets masked, each route with the policy it inherits."""
    told = settings.model_dump(mode="json")
    urls = [masked(url) for url in settings.amqp.urls]
    told["amqp"]["url"] = urls if isinstance(settings.amqp.url, list) else urls[0]
    for route in told["routes"]:
        route.update(settings.policy_of(route["name"]).model_dump(mode="json"))
    return told


def masked(url: str) -> str:
    """The URL without its password, for people."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    user = f"{parts.username or ''}:***@" if parts.password is not None else f"{parts.username}@"
    return parts._replace(netloc=f"{user}{host}" if "@" in parts.netloc else host).geturl()


def derived(settings: Settings) -> dict[str, Any]:
    """What follows from the configuration, ready for JSON; a rate of None is unlimited."""
    ports = [(gateway.name, number) for gateway in settings.gateways for number in gateway.port_numbers]
    return {
        "ports": len(ports),
        "segments_per_min": settings.segments_per_min(ports),
        "gateways": {
            gateway.name: {
                "ports": len(gateway.port_numbers),
                "segments_per_min": settings.segments_per_min((gateway.name, n) for n in gateway.port_numbers),
                "prefetch_pinned": settings.prefetch_pinned(gateway.name),
                "callback_url": settings.callback_url(gateway.name, "***"),
            }
            for gateway in settings.gateways
        },
        "routes": {
            route.name: {
                "ports": len(settings.route_ports(route.name)),
                "segments_per_min": settings.segments_per_min(settings.route_ports(route.name)),
                "prefetch": settings.prefetch_of(route.name),
            }
            for route in settings.routes
        },
        "ledger_bytes": _ledger_bytes(settings, settings.segments_per_min(ports)),
        "grace_s": settings.grace_s(),
    }


def _ledger_bytes(settings: Settings, segments_per_min: float | None) -> int | None:
    """Disk the ledger needs at most, if all ports send all the time; None where a rate is unlimited."""
    if segments_per_min is None:
        return None
    ages = [settings.policy.max_age_s, *(settings.policy_of(route.name).max_age_s for route in settings.routes)]
    full_s = settings.store.full_rows_h * 3600
    slim_s = max(0.0, max(ages) + KEY_HORIZON_S - full_s)
    rows = segments_per_min / 60 * (full_s * FULL_ROW_BYTES + slim_s * SLIM_ROW_BYTES)
    return math.ceil(rows + settings.store.outbox_pause * OUTBOX_ROW_BYTES)
