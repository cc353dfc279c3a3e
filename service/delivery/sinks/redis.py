"""Redis streams: an entry for each event, with the fields `id` and `event`.

Entries are added in transactions, so a part of a batch is in the stream completely or not at all, and in
order. A batch whose answer is lost is added again; consumers recognise its entries by `id`.
"""

from __future__ import annotations

import functools
import select
import socket
import ssl
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.audiences.deliveries import Delivery
from engine.resources.targets import Redis
from service.delivery.guard import Guard, TargetRefused
from service.delivery.sinks.brokers import faulty, require, tls_context
from service.delivery.sinks.sink import NEVER, Event, SinkError, Surroundings

TRANSACTION_EVENTS_MAX = 1_000
"""A server does nothing else while it runs a transaction."""

FINAL_ERRORS = {
    "NOAUTH": ("url", "the server asks for a password"),
    "WRONGPASS": ("url", "the server refuses the user or the password"),
    "NOPERM": ("url", "the server does not let the user add to the stream"),
    "WRONGTYPE": ("stream", "the key holds something that is not a stream"),
    "MOVED": ("url", "the server is one of a cluster and does not have the stream; name the one that has it"),
}
"""Errors that no repetition mends, by their first word: the field that causes them, and why."""


class RedisSink:
    """Appends to one stream."""

    @classmethod
    def open(cls, delivery: Delivery, surroundings: Surroundings) -> RedisSink:
        """The sink of a delivery to an output of kind `redis`. Raises SinkError without the package."""
        target = delivery.output.target
        assert isinstance(target, Redis)
        return cls(target, surroundings.guard, surroundings.ca_file)

    def __init__(self, target: Redis, guard: Guard, ca_file: Path) -> None:
        require("redis", "redis")
        self._target = target
        self._guard = guard
        self._ca_file = ca_file
        self._link: Link | None = None

    @property
    def is_open(self) -> bool:
        """Whether it is connected."""
        return self._link is not None

    def deliver(self, events: Sequence[Event], deadline: float) -> None:
        """Adds the events, a transaction for each `TRANSACTION_EVENTS_MAX`. Raises SinkError."""
        from redis.exceptions import RedisError

        progressed = False
        try:
            link = self._connected(deadline)
            for start in range(0, len(events), TRANSACTION_EVENTS_MAX):
                self._add(link, events[start : start + TRANSACTION_EVENTS_MAX])
                progressed = True
        except SinkError:
            self.close()
            raise
        except (RedisError, OSError) as error:
            self.close()
            failure = self._failure(error)
            failure.progressed = progressed
            raise failure from error

    def tend(self) -> float:
        """Nothing is due without changes."""
        return NEVER

    def close(self) -> None:
        """Ends the connection."""
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def _connected(self, deadline: float) -> Link:
        if self._link is not None and self._link.has_ended():
            # What ended while nothing was sent is no failure of this batch.
            self.close()
        if self._link is None:
            target = self._target
            is_tls = target.server().scheme == "rediss"
            tls = tls_context(target.kind(), target.ca_certificates, self._ca_file) if is_tls else None
            self._link = Link(target, self._guard, tls)
        self._link.deadline = deadline
        return self._link

    def _add(self, link: Link, events: Sequence[Event]) -> None:
        target = self._target
        length = ("MAXLEN", "~", target.max_length) if target.max_length else ()
        commands: list[tuple[Any, ...]] = [("MULTI",)]
        add = ("XADD", target.stream, *length, "*", "id")
        commands += [(*add, each.id, "event", each.body) for each in events]
        commands.append(("EXEC",))
        for answer in link.ask(commands)[-1]:
            if isinstance(answer, Exception):
                raise answer

    def _failure(self, error: Exception) -> SinkError:
        """The error of a batch, with the field at fault when no repetition mends it."""
        from redis.exceptions import AskError, AuthenticationError, NoPermissionError

        text = str(error)
        word = text.partition(" ")[0]
        if isinstance(error, AskError):
            word = "MOVED"
        elif isinstance(error, NoPermissionError):
            word = "NOPERM"
        elif isinstance(error, AuthenticationError):
            word = "NOAUTH" if not self._target.server().password else "WRONGPASS"
        if word in FINAL_ERRORS:
            field, why = FINAL_ERRORS[word]
            return faulty("redis", field, f"{why} ({text})")
        if "DB index is out of range" in text:
            return faulty("redis", "url", f"the server has no such database ({text})")
        return SinkError(f"{self._target.server()}: {text or type(error).__name__}")


class Link:
    """A connection to a server, by the client's class for connections. Raises RedisError and OSError."""

    def __init__(self, target: Redis, guard: Guard, tls: ssl.SSLContext | None) -> None:
        server = target.server()
        self._guard = guard
        self._tls = tls
        self._socket: socket.socket | None = None
        self.deadline = 0.0
        """When what it does has to end, an instant of `time.monotonic()`."""
        # The class has few types.
        self._connection: Any = _connection_class()(
            self._connect,
            host=server.host,
            port=server.port,
            db=target.database(),
            username=server.user or None,
            password=server.password or None,
            # RESP 2, without introducing itself: servers of any age understand it.
            protocol=2,
            driver_info=None,
            socket_timeout=None,
        )

    def ask(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Sends commands together. Returns their answers; raises the error of the first that has one."""
        if self._socket is None:
            self._connection.connect()
        self._limit()
        connection = self._connection
        connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        answers: list[Any] = []
        failure: Exception | None = None
        for _ in commands:
            self._limit()
            try:
                answers.append(connection.read_response())
            except _response_error() as error:
                # The last answer only says that the transaction was given up.
                failure = failure or error
        if failure is not None:
            raise failure
        return answers

    def has_ended(self) -> bool:
        """Whether the server has closed it, as far as this side knows."""
        if self._socket is None:
            return False
        watched = select.poll()
        watched.register(self._socket, select.POLLIN)
        # A server says nothing without a question.
        return bool(watched.poll(0))

    def close(self) -> None:
        """Ends it; it connects again when it is used."""
        self._connection.disconnect()
        self._socket = None

    def _limit(self) -> None:
        """Lets the next step take the time that is left."""
        remaining_s = self.deadline - time.monotonic()
        if remaining_s <= 0:
            raise TimeoutError("no answer in time")
        if self._socket is not None:
            self._socket.settimeout(remaining_s)

    def _connect(self, host: str, port: int) -> socket.socket:
        try:
            plain = self._guard.connect(host, port, self.deadline)
        except TargetRefused as error:
            raise SinkError(str(error), final=True) from error
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            plain.settimeout(max(0.001, self.deadline - time.monotonic()))
            self._socket = plain if self._tls is None else self._tls.wrap_socket(plain, server_hostname=host)
        except BaseException:
            plain.close()
            raise
        return self._socket


def _response_error() -> type[Exception]:
    from redis.exceptions import ResponseError

    return ResponseError


@functools.cache
def _connection_class() -> Any:
    """The client's connection, over sockets that are connected already."""
    from redis.connection import Connection

    class GuardedConnection(Connection):
        def __init__(self, connect: Any, **settings: Any) -> None:
            self._connect_to = connect
            super().__init__(**settings)  # type: ignore[no-untyped-call]

        def _connect(self) -> socket.socket:
            connected: socket.socket = self._connect_to(self.host, self.port)
            return connected

    return GuardedConnection
