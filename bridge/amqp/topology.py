"""The exchanges, queues and bindings of the contract (design 1.1): pure data for a prefix, routes and gateways.

Logical names (``requests``, ``later.5``, ``send.otp``) become the broker's names here and nowhere else. The same data
is declared over a connection, written as a RabbitMQ definitions file, and turned into the permissions that each kind
of user needs. Command queues are left out until somebody consumes them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import aiormq.abc
import aiormq.exceptions

from bridge.errors import TopologyMismatch
from bridge.models import TIERS_S

DECLARE_WITHIN_S = 30.0
DEAD_TTL_S = 14 * 86_400
COMMAND_TTL_S = 60

# Unset, RabbitMQ 3.x requeues to the back and 4.x drops after 20 deliveries; -1 drops at once on 3.10. This number
# keeps the place at the front and never decides: poison is our own judgement.
DELIVERY_LIMIT = 1_000_000


class Exchange(NamedTuple):
    """One exchange, durable, under the broker's own name."""

    name: str
    type: Literal["topic", "fanout"]
    arguments: Mapping[str, Any]


class Queue(NamedTuple):
    """One durable queue, under the broker's own name."""

    name: str
    arguments: Mapping[str, Any]


class Binding(NamedTuple):
    """One queue bound to one exchange, under the broker's own names."""

    exchange: str
    queue: str
    routing_key: str


class Permissions(NamedTuple):
    """The three patterns that RabbitMQ keeps per user."""

    configure: str
    write: str
    read: str


@dataclass(frozen=True, slots=True)
class Topology:
    """What the broker must hold for these routes and gateways.

    ``retired`` are logical queues (``send.old``) that were declared once and are no longer configured: they are
    unbound, so that new requests are told as unroutable, and their backlog is kept.
    """

    prefix: str
    routes: Sequence[str]
    gateways: Sequence[str]
    retired: Sequence[str] = ()
    tiers_s: Sequence[int] = TIERS_S

    def name(self, logical: str) -> str:
        """The broker's name of a logical exchange or queue."""
        return f"{self.prefix}.{logical}"

    def logical(self, name: str) -> str | None:
        """The logical name behind a broker's name, such as the queue in ``x-death``; None: it is not ours."""
        head, tail = name[: len(self.prefix) + 1], name[len(self.prefix) + 1 :]
        return tail if head == f"{self.prefix}." else None

    @property
    def request_queues(self) -> tuple[str, ...]:
        """The logical queues that hold requests, one per route and one per gateway; each is its own routing key."""
        return (*(f"send.{route}" for route in self.routes), *(f"gateway.{gateway}" for gateway in self.gateways))

    @property
    def command_queues(self) -> tuple[str, ...]:
        """The logical queues of commands: what concerns no gateway, and one per gateway."""
        return ("command", *(f"command.{gateway}" for gateway in self.gateways))

    @property
    def tiers(self) -> tuple[str, ...]:
        """The logical names of the tiers, which are an exchange and a queue each."""
        return tuple(f"later.{seconds}" for seconds in self.tiers_s)

    @property
    def exchanges(self) -> tuple[Exchange, ...]:
        """All exchanges. The alternate exchange keeps a mistyped or removed route from silence."""
        fanouts = ("returned", "dead", *self.tiers)
        return (
            *(Exchange(self.name(logical), "fanout", {}) for logical in fanouts),
            Exchange(self.name("requests"), "topic", {"alternate-exchange": self.name("returned")}),
            Exchange(self.name("events"), "topic", {}),
            Exchange(self.name("commands"), "topic", {}),
        )

    @property
    def queues(self) -> tuple[Queue, ...]:
        """All queues with their arguments."""
        return (
            *(Queue(self.name(logical), self._consumed("returned")) for logical in self.request_queues),
            Queue(self.name("returned"), self._consumed("dead")),
            *(
                Queue(
                    self.name(f"later.{seconds}"),
                    self._dead_lettering("requests") | {"x-message-ttl": seconds * 1000},
                )
                for seconds in self.tiers_s
            ),
            # People look at it again and again: no look may be counted towards a limit of the broker's own.
            Queue(
                self.name("dead"),
                {"x-queue-type": "quorum", "x-delivery-limit": DELIVERY_LIMIT, "x-message-ttl": DEAD_TTL_S * 1000},
            ),
            # Nobody waits longer for an answer: what nobody has taken by then must not happen later, unexpected.
            *(
                Queue(self.name(logical), {"x-queue-type": "classic", "x-message-ttl": COMMAND_TTL_S * 1000})
                for logical in self.command_queues
            ),
        )

    def _consumed(self, dead_letters_to: str) -> dict[str, Any]:
        return self._dead_lettering(dead_letters_to) | {"x-delivery-limit": DELIVERY_LIMIT}

    def _dead_lettering(self, exchange: str) -> dict[str, Any]:
        # Without reject-publish the broker silently falls back to at-most-once, which drops.
        return {
            "x-queue-type": "quorum",
            "x-dead-letter-exchange": self.name(exchange),
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }

    @property
    def bindings(self) -> tuple[Binding, ...]:
        """All bindings. A fanout ignores the routing key; the tiers need that to hand it back unchanged."""
        requests = self.name("requests")
        return (
            *(Binding(requests, self.name(logical), logical) for logical in self.request_queues),
            *(Binding(self.name(logical), self.name(logical), "") for logical in ("returned", "dead", *self.tiers)),
            *(
                Binding(self.name("commands"), self.name(logical), logical.partition(".")[2] or "bridge")
                for logical in self.command_queues
            ),
        )


async def declare(connection: aiormq.abc.AbstractConnection, topology: Topology) -> None:
    """Declare all of it, and unbind what is retired, on a channel that lives no longer than this.

    Raises TopologyMismatch, naming queue or exchange and argument, where one exists with other arguments; the
    broker closes the channel over it, which is why no other work may share it.
    """
    async with asyncio.timeout(DECLARE_WITHIN_S):
        channel = await connection.channel(publisher_confirms=False)
        try:
            await _declare_on(channel, topology)
        except aiormq.exceptions.ChannelPreconditionFailed as error:
            raise TopologyMismatch(_mismatch(str(error))) from error
        finally:
            await channel.close()


async def _declare_on(channel: aiormq.abc.AbstractChannel, topology: Topology) -> None:
    for exchange in topology.exchanges:
        await channel.exchange_declare(
            exchange.name, exchange_type=exchange.type, durable=True, arguments=dict(exchange.arguments)
        )
    for queue in topology.queues:
        await channel.queue_declare(queue.name, durable=True, arguments=dict(queue.arguments))
    for binding in topology.bindings:
        await channel.queue_bind(binding.queue, binding.exchange, binding.routing_key)
    for logical in topology.retired:
        await channel.queue_unbind(topology.name(logical), topology.name("requests"), logical)


def _mismatch(told: str) -> str:
    """RabbitMQ's sentence about inequivalent arguments as one that an operator can act on."""
    parts = re.search(r"inequivalent arg '(?P<argument>.+?)' for (?P<kind>\w+) '(?P<name>.+?)' in vhost", told)
    if parts is None:
        return told
    return (
        f"{parts['kind']} {parts['name']!r} exists with another {parts['argument']!r}: {told.split(': ', 1)[-1]} "
        f"(delete it once it is empty, or choose another amqp.prefix)"
    )


def definitions(topology: Topology, *, vhost: str = "/") -> dict[str, Any]:
    """The same as a RabbitMQ definitions file (JSON-ready), for brokers whose operators declare."""
    return {
        "exchanges": [
            {
                "name": exchange.name,
                "vhost": vhost,
                "type": exchange.type,
                "durable": True,
                "auto_delete": False,
                "internal": False,
                "arguments": dict(exchange.arguments),
            }
            for exchange in topology.exchanges
        ],
        "queues": [
            {
                "name": queue.name,
                "vhost": vhost,
                "durable": True,
                "auto_delete": False,
                "arguments": dict(queue.arguments),
            }
            for queue in topology.queues
        ],
        "bindings": [
            {
                "source": binding.exchange,
                "vhost": vhost,
                "destination": binding.queue,
                "destination_type": "queue",
                "routing_key": binding.routing_key,
                "arguments": {},
            }
            for binding in topology.bindings
        ],
    }


def permissions(topology: Topology) -> dict[str, Permissions]:
    """The patterns that each kind of user needs; a listener's own queues are to begin with its user's name."""
    ours = rf"^{re.escape(topology.prefix)}\."
    nothing = "^$"
    publishes = "|".join(re.escape(each) for each in ("requests", "events", "returned", "dead", *topology.tiers))
    # reply_to copies go through the default exchange, which permissions call amq.default.
    write = rf"{ours}({publishes})$|^amq\.default$"
    consumed = "|".join(
        re.escape(each) for each in (*topology.request_queues, *topology.retired, "returned", *topology.command_queues)
    )
    return {
        "bridge": Permissions(configure=ours, write=rf"{ours}|^amq\.default$", read=ours),
        "bridge (amqp.declare: false)": Permissions(configure=nothing, write=write, read=rf"{ours}({consumed})$"),
        "producer": Permissions(configure=nothing, write=rf"{ours}requests$", read=nothing),
        "listener": Permissions(configure=r"^<user>\.", write=r"^<user>\.", read=rf"^<user>\.|{ours}events$"),
        "operator": Permissions(
            configure=r"^<user>\.", write=rf"^<user>\.|{ours}commands$", read=rf"^<user>\.|{ours}(dead|events)$"
        ),
    }
