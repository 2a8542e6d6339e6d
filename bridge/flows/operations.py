"""What operators ask of a gateway: orders to the device, and questions (document 3 and 4.5).

A device answers an order with "I will"; where it shows when that is done (a card that registers), it is looked at until
then. Nothing is asked twice by itself: a lost answer is said to be one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from bridge import models
from bridge.ejoin import codes, encode, ports
from bridge.ejoin.facts import (
    CallStatistics,
    DeviceStatus,
    InboxPage,
    ListedTask,
    ReceivedSms,
    Reply,
    SimStatistics,
    SubmitAnswer,
)
from bridge.ejoin.ports import Port
from bridge.errors import GatewayGarbled, GatewayNotReached, GatewaySilent, RequestInvalid
from bridge.models import GatewayCommand
from bridge.rules.health import Fleet

LOOK_EVERY_S = 5.0
REGISTERED_WITHIN_S = 180.0
"""A card needs about 60 s until it is registered after a switch."""

PUSHED_WITHIN_S = 90.0
"""A device reports its state every minute at the least, once it is told where."""

SMS_URL = "Sms_url"
"""The setting that says where incoming SMS are forwarded to (device API 2.10)."""

AT_ONCE = ("lock", "unlock")
"""Orders whose effect the device tells by itself, as a port that changed."""


class Device(Protocol):
    """What is asked of a gateway's client; each raises GatewayNotReached, GatewaySilent or GatewayGarbled."""

    async def command(self, op: Any, ports: str | None = None) -> Reply:
        """Tell it to do something."""

    async def get(self, names: Sequence[str]) -> Reply:
        """Ask for settings."""

    async def set(self, values: Mapping[str, str]) -> Reply:
        """Change settings."""

    async def ussd(self, port: Port, code: str, *, timeout_s: int, retries: int) -> Reply:
        """Call a USSD code."""

    async def status(self, *, all_sims: bool, ports: str | None) -> DeviceStatus:
        """The state of its cards."""

    async def statistics(self, ports: str, *, slots: str | None, span: encode.Span) -> tuple[SimStatistics, ...]:
        """What it has counted of SMS."""

    async def call_statistics(self, ports: str, *, slots: str | None, span: encode.Span) -> tuple[CallStatistics, ...]:
        """What it has counted of calls."""

    async def inbox(self, *, start: int, count: int, delete: bool) -> InboxPage:
        """A page of its inbox."""

    async def tasks(self, port: Port) -> tuple[ListedTask, ...]:
        """What waits for a port."""

    async def change_tasks(self, what: Any, tids: Sequence[int]) -> SubmitAnswer:
        """Pause, resume or remove what waits."""


class Done(NamedTuple):
    """What became of a command: a sentence for people, and what was asked for."""

    detail: str
    result: dict[str, Any] | None = None


class Operations:
    """Carries out what concerns one gateway. ``look(gateway)`` takes a fresh snapshot of it into what we believe."""

    def __init__(
        self,
        *,
        devices: Mapping[str, Device],
        fleet: Fleet,
        look: Callable[[str], Awaitable[object]],
        allowed: Sequence[str],
        callback_url: Callable[[str], str],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._callback_url = callback_url
        self._pushes: dict[str, asyncio.Event] = {gateway: asyncio.Event() for gateway in devices}
        self._devices = devices
        self._fleet = fleet
        self._look = look
        self._allowed = frozenset(allowed)
        self._sleep = sleep

    def note_push(self, gateway: str) -> None:
        """A gateway has called back."""
        if event := self._pushes.get(gateway):
            event.set()

    def check(self, gateway: str, command: GatewayCommand) -> None:
        """Raises RequestInvalid where it will not be carried out, whatever the device would say."""
        if gateway not in self._devices:
            known = ", ".join(self._devices)
            raise RequestInvalid("unknown_gateway", f"no gateway {gateway!r}: publish with the key of one of {known}")
        if command.command not in self._allowed:
            raise RequestInvalid("not_allowed", f"{command.command} is not in commands.allowed of the settings")
        if not getattr(command, "confirm", True):
            raise RequestInvalid("not_confirmed", f'{command.command} cannot be taken back: add "confirm": true to it')
        for name in ("ports", "port"):
            notation = getattr(command, name, None)
            if notation not in {None, "all"}:
                try:
                    ports.parse_range(str(notation))
                except ValueError as error:
                    raise RequestInvalid("invalid", f"{name}: {error}", field=name) from error

    async def carry_out(self, gateway: str, command: GatewayCommand) -> Done:
        """Ask the device, and wait until it is done. Raises RequestInvalid where it is not, with the reason."""
        try:
            return await self._ask(gateway, self._devices[gateway], command)
        except GatewayNotReached as error:
            raise RequestInvalid("not_reached", f"{error} (nothing was done)") from error
        except GatewaySilent as error:
            raise RequestInvalid(
                "no_answer", f"{error} (nobody knows whether it was done: look before you ask again)"
            ) from error
        except GatewayGarbled as error:
            raise RequestInvalid("refused", str(error)) from error

    async def _ask(self, gateway: str, device: Device, command: GatewayCommand) -> Done:
        match command:
            case models.Lock() | models.Unlock() | models.Switch() | models.Reset():
                _taken(await device.command(command.command, command.ports))
                ours = self._configured(gateway, command.ports)
                if command.command in AT_ONCE or not ours:
                    return Done(f"{gateway} took {command.command} for {command.ports}")
                await self._until_registered(gateway, ours)
                return Done(f"{command.ports} of {gateway} registered again")
            case models.Save() | models.Reboot():
                _taken(await device.command(command.command))
                return Done(f"{gateway} took {command.command}")
            case models.Probe():
                return await self._probe(gateway, device)
            case models.SetUp():
                return await self._set_up(gateway, device)
            case models.GetSettings(names=names):
                told = _taken(await device.get(names)).told
                return Done(f"{len(names)} settings of {gateway}", {"settings": self._without_secret(gateway, told)})
            case models.SetSettings(values=values):
                _taken(await device.set(values))
                return Done(f"{', '.join(values)} set on {gateway} until its next start: save keeps them")
            case models.Sims(ports=asked):
                status = await device.status(all_sims=True, ports=asked)
                return Done(f"{len(status.ports)} cards of {gateway}", {"sims": _sims(status)})
            case models.SmsStatistics():
                rows: Sequence[Any] = await device.statistics(command.ports, slots=command.slots, span=command.span)
                return Done(f"SMS counted by {gateway} for {len(rows)} cards", {"statistics": _rows(rows)})
            case models.CallStatistics():
                rows = await device.call_statistics(command.ports, slots=command.slots, span=command.span)
                return Done(f"calls counted by {gateway} for {len(rows)} cards", {"statistics": _rows(rows)})
            case models.Inbox() | models.DeleteInbox():
                delete = isinstance(command, models.DeleteInbox)
                page = await device.inbox(start=command.start, count=command.count, delete=delete)
                told = {"ssrc": page.ssrc, "next_sms": page.next_sms, "rows": _rows(page.rows)}
                return Done(f"{gateway}'s inbox: {len(page.rows)} SMS{' deleted' if delete else ''}", told)
            case models.Tasks(port=port):
                waiting = await device.tasks(Port(port))
                return Done(f"{len(waiting)} tasks wait on port {port} of {gateway}", {"tasks": _rows(waiting)})
            case models.PauseTasks() | models.ResumeTasks() | models.RemoveTasks():
                what = command.command.removesuffix("_tasks")
                answer = await device.change_tasks(what, command.tids)
                if answer.code not in codes.SUCCESS:
                    raise RequestInvalid("refused", f"{gateway} answered {answer.code} {answer.reason}".rstrip())
                rows = [{"tid": ack.tid, "code": ack.code, "text": ack.text} for ack in answer.acks]
                done = sum(ack.code == 0 for ack in answer.acks)
                return Done(f"{what}: {done} of {len(command.tids)} tasks of {gateway}", {"tasks": rows})
            case models.Ussd():
                reply = await device.ussd(
                    ports.parse(command.port), command.code, timeout_s=command.timeout_s, retries=command.retries
                )
                told = _taken(reply).told
                text = str(told.get("resp") or told.get("ussd") or "")
                return Done(f"{command.code} from port {command.port} of {gateway}: {text}", {"text": text})
            case _:
                raise AssertionError(f"nobody carries out {command.command}")

    async def _probe(self, gateway: str, device: Device) -> Done:
        """Ask every question once; one that is refused keeps the others from nothing."""
        status = await device.status(all_sims=False, ports=None)
        page: InboxPage | None = None

        async def read_inbox() -> None:
            nonlocal page
            page = await device.inbox(start=1, count=50, delete=False)

        questions: dict[str, Callable[[], Awaitable[object]]] = {
            "task list": lambda: device.tasks(Port(1)),
            "SMS statistics": lambda: device.statistics("all", slots=None, span="all"),
            "call statistics": lambda: device.call_statistics("all", slots=None, span="all"),
            "inbox": read_inbox,
            "settings": lambda: device.get([SMS_URL]),
        }
        answered = {name: await _answered(question) for name, question in questions.items()}
        told = {
            "version": status.version,
            "mac": status.mac,
            "ip": status.ip,
            "ports": status.max_ports or len(status.ports),
            "registered": sum(one.st == codes.CAN_SEND_ST for one in status.ports),
            "clock_ahead_s": _clock_ahead_s(page),
        }
        odd = [f"{name} ({said})" for name, said in answered.items() if said != "ok"]
        detail = f"{gateway} answers, {told['registered']} of {told['ports']} ports are registered"
        return Done(
            detail + (f"; not answered: {', '.join(odd)}" if odd else ""), {"gateway": told, "answered": answered}
        )

    async def _set_up(self, gateway: str, device: Device) -> Done:
        """Where incoming SMS and states go to, and the proof that they arrive."""
        ours = self._callback_url(gateway)
        warnings = []
        theirs = ""
        with contextlib.suppress(GatewayGarbled):  # a box without settings is set up on its page
            theirs = str((await device.get([SMS_URL])).told.get(SMS_URL.lower()) or "")
        if theirs and theirs != ours:
            host = urlsplit(theirs).netloc.rpartition("@")[2]
            warnings.append(f"its SMS went to another master at {host}: that one gets none any more")
        self._pushes[gateway].clear()
        code = None
        with contextlib.suppress(GatewayGarbled):
            code = (await device.set({SMS_URL: ours})).code
        if code not in codes.SUCCESS:
            warnings.append(f"it does not let {SMS_URL} be set: set it on its page")
        await self._look(gateway)  # subscribes to its states
        try:
            async with asyncio.timeout(PUSHED_WITHIN_S):
                await self._pushes[gateway].wait()
        except TimeoutError:
            raise RequestInvalid("no_push", _NO_PUSH.format(gateway=gateway, seconds=PUSHED_WITHIN_S)) from None
        told = {"warnings": warnings, "page": _PAGE}
        return Done("; ".join([f"{gateway} calls back", *warnings]), told)

    def _without_secret(self, gateway: str, told: Mapping[str, Any]) -> dict[str, Any]:
        """What the device told beside its code; our callback secret stays between it and us."""
        ours = self._callback_url(gateway)
        masked = f"{ours.rpartition('/')[0]}/***"
        said = {name: value for name, value in told.items() if name not in {"code", "reason", "type"}}
        return {name: str(value).replace(ours, masked) for name, value in said.items()}

    def _configured(self, gateway: str, notation: str) -> list[Port]:
        """Those of the named ports that we have; of others nothing is known."""
        ours = self._fleet.gateways[gateway].ports
        named = [Port(number) for number in ours] if notation == "all" else ports.parse_range(notation)
        return [port for port in named if port.number in ours]

    async def _until_registered(self, gateway: str, asked: Sequence[Port]) -> None:
        """Wait until each of these ports has its card registered, the one in the named slot where one is named."""
        belief = self._fleet.gateways[gateway]
        waited_s = 0.0
        while waited_s < REGISTERED_WITHIN_S:
            await self._sleep(LOOK_EVERY_S)
            waited_s += LOOK_EVERY_S
            await self._look(gateway)
            states = [(port, belief.ports[port.number]) for port in asked]
            if all(one.registered and port.slot in (0, one.slot) for port, one in states):
                return
        late = ", ".join(str(port) for port, one in states if not (one.registered and port.slot in (0, one.slot)))
        raise RequestInvalid(
            "not_in_time", f"{gateway} took it, and {late} had not registered after {REGISTERED_WITHIN_S:g} s"
        )


_NO_PUSH = (
    "{gateway} was told where to call back, and no push came in {seconds:g} s: can it reach web.public_url (or its own "
    "public_url)? Where it cannot, set callbacks: poll; else look at State Notification on its page"
)
_PAGE = [
    "State Notification: enabled, URL as above, interval 60 s",
    "Reporting Control: Receive SMS, Sent SMS and CDR enabled",
    "SMS Forwarding: HTTP, URL as above, charset UTF-8",
]
"""What the device's page has and its API cannot be relied on to set (document 3)."""


async def _answered(question: Callable[[], Awaitable[object]]) -> str:
    try:
        await question()
    except GatewayGarbled as error:
        return str(error)
    return "ok"


def _clock_ahead_s(page: InboxPage | None) -> float | None:
    """How far the device's clock is ahead of the network's, by its last SMS; None where there is none to tell."""
    rows = [row for row in page.rows if isinstance(row, ReceivedSms) and row.at and row.scts_at] if page else []
    return None if not rows else round((rows[-1].at or 0) - (rows[-1].scts_at or 0), 1)


def _taken(reply: Reply) -> Reply:
    if reply.code not in codes.SUCCESS:
        wording = reply.reason or codes.TEXTS.get(reply.code or 0, "")
        raise RequestInvalid("refused", f"the device answered {reply.code} {wording}".rstrip())
    return reply


def _rows(facts: Sequence[Any]) -> list[dict[str, Any]]:
    """Facts as JSON-ready rows: what was not told is left out, a port stands in the device's notation."""
    rows = []
    for fact in facts:
        told = {name: getattr(fact, name) for name in asdict(fact)}
        rows.append({name: _plain(value) for name, value in told.items() if value not in (None, "")})
    return rows


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Port) else list(value) if isinstance(value, tuple) else value


def _sims(status: DeviceStatus) -> list[dict[str, Any]]:
    return [
        row | {"state": codes.ST_NAMES.get(row.get("st", -1), "unknown")}
        for row in _rows(sorted(status.ports, key=lambda one: one.port))
    ]
