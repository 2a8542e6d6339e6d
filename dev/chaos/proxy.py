"""A TCP proxy that misbehaves on request: delays, resets, black-holes, truncates, refuses.

It knows bytes and connections, no protocol. In a black hole bytes are held while both ends stay, and nothing is told
of an end that closes: its connection loses what was held, as TCP does when the sender gives up, and the other end
learns of it when the hole is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from typing import cast

NOWHERE = ("127.0.0.1", 1)
"""An address at which nobody listens."""


class Proxy:
    """Listens on a loopback port of its own and carries to ``target``; the switches act at once."""

    def __init__(self, target: tuple[str, int] = NOWHERE) -> None:
        self.target = target
        self.delay_s = 0.0
        """Each piece of data arrives so much later, either way."""
        self.truncations = 0
        """So many of the next answers are cut in the middle, and their connections closed."""
        self.port = 0
        self._hole = False
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()

    def __repr__(self) -> str:
        return f"<Proxy {self.port} to {self.target}, {len(self._links)} connections>"

    async def open(self) -> None:
        """Listen: on a free port the first time, on the same one ever after."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Link(self).caller, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Nobody listens any more; what is connected stays."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def reset(self) -> None:
        """All connections end with a reset, on both sides."""
        for link in list(self._links):
            link.abort()

    @property
    def hole(self) -> bool:
        """Whether nothing passes."""
        return self._hole

    @hole.setter
    def hole(self, hole: bool) -> None:
        self._hole = hole
        if not hole:
            for link in list(self._links):
                link.resume()

    async def close(self) -> None:
        """End everything."""
        await self.refuse()
        self.reset()

    def note(self, link: _Link) -> None:
        """A connection has begun."""
        self._links.add(link)

    def forget(self, link: _Link) -> None:
        """A connection has ended on both sides."""
        self._links.discard(link)


class _Link:
    """One connection through the proxy: the caller's end and the target's."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.caller = _End(self)
        self.callee = _End(self)
        self._connecting: asyncio.Task[None] | None = None

    def began(self, end: _End) -> None:
        """An end is connected; the caller's makes us connect to the target."""
        if end is self.caller:
            self.proxy.note(self)
            self._connecting = asyncio.create_task(self._connect())
        self.resume()

    async def _connect(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: self.callee, *self.proxy.target)
        except OSError:
            self.abort()

    def other(self, end: _End) -> _End:
        """The opposite end."""
        return self.callee if end is self.caller else self.caller

    def resume(self) -> None:
        """Carry what was held, or end what one side has given up meanwhile."""
        for end in (self.caller, self.callee):
            self.carry(end)

    def carry(self, end: _End) -> None:
        """Write what came from this end and is due; close the other end behind it where this one has closed."""
        other = self.other(end)
        if self.proxy.hole or other.transport is None:
            return
        loop = asyncio.get_running_loop()
        while end.held and end.held[0][0] <= loop.time():
            data = end.held.popleft()[1]
            if end is self.callee and self.proxy.truncations > 0:
                self.proxy.truncations -= 1
                other.transport.write(data[: len(data) // 2])
                self.close()
                return
            other.transport.write(data)
        if end.held:
            loop.call_at(end.held[0][0], self.carry, end)
        elif end.gone:
            other.transport.abort() if end.lost else other.transport.close()

    def ended(self, end: _End) -> None:
        """An end has closed."""
        end.gone = True
        self.other(end).held.clear()  # nobody is left to read it
        if self.proxy.hole and end.held:
            end.held.clear()
            end.lost = True
        if self.other(end).gone:
            self.proxy.forget(self)
        elif self.other(end).transport is None and not self.proxy.hole:
            self.abort()
        else:
            self.carry(end)

    def close(self) -> None:
        """End both sides in good order."""
        for end in (self.caller, self.callee):
            if end.transport is not None:
                end.transport.close()

    def abort(self) -> None:
        """Reset both sides."""
        if self._connecting is not None:
            self._connecting.cancel()
        self.proxy.forget(self)
        for end in (self.caller, self.callee):
            end.reset()


class _End(asyncio.Protocol):
    """One side of a connection: what came from it and is not carried yet."""

    def __init__(self, link: _Link) -> None:
        self.link = link
        self.transport: asyncio.Transport | None = None
        self.held: deque[tuple[float, bytes]] = deque()
        self.gone = False
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.link.began(self)

    def data_received(self, data: bytes) -> None:
        due = asyncio.get_running_loop().time() + self.link.proxy.delay_s
        self.held.append((due, data))
        self.link.carry(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = exc is not None
        self.link.ended(self)

    def reset(self) -> None:
        """Close with a reset instead of an end."""
        if self.transport is None or self.transport.is_closing():
            return
        raw = self.transport.get_extra_info("socket")
        with contextlib.suppress(OSError), socket.socket(fileno=socket.dup(raw.fileno())) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close means RST, not FIN
        self.transport.abort()
