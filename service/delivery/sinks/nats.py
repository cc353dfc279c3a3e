"""NATS JetStream: a message for each event, confirmed by the stream.

Messages are published without waiting, up to `IN_FLIGHT_MAX` at a time, and never two of one user: when one
is refused, a later one of its user is not in the stream before it. `Nats-Msg-Id` lets the stream drop what is
sent again within its window for duplicates.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from engine.audiences.deliveries import Delivery
from engine.resources.servers import Server
from engine.resources.targets import ContentMode, Nats
from service.delivery.guard import Guard, Peer
from service.delivery.sinks.brokers import faulty, peers_of, require, tls_context, too_large
from service.delivery.sinks.event_loop import LOOP
from service.delivery.sinks.sink import NEVER, Event, SinkError, Surroundings

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg

IN_FLIGHT_MAX = 1_000
"""Messages that wait for the stream. Servers refuse more than 10,000 of a stream by default."""
SEND_MESSAGES = 100
"""Messages that are written together."""
NO_STREAM_ATTEMPTS = 3
NO_STREAM_WAIT_S = 0.25
"""A stream has no leader for a moment when servers of a cluster change places."""
CLOSE_S_MAX = 0.5

MESSAGE_TOO_LARGE = 10_054
STREAM_SEALED = 10_109
"""Codes of errors that no repetition mends."""

_PLAIN = re.compile(r"[!#$&-~]*")
_SAFE = "!#$&'()*+,-./:;<=>?@[\\]^_`{|}~"


class _Error(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Answer(msgspec.Struct):
    error: _Error | None = None


def header_text(text: str) -> bytes:
    """A text as the value of a header: spaces, quotes, percent signs and what is no printable ASCII are
    percent-encoded, as CloudEvents does over HTTP.
    """
    return (text if _PLAIN.fullmatch(text) else quote(text, safe=_SAFE)).encode()


class NatsSink:
    """Publishes to one subject."""

    @classmethod
    def open(cls, delivery: Delivery, surroundings: Surroundings) -> NatsSink:
        """The sink of a delivery to an output of kind `nats`. Raises SinkError without the package."""
        target = delivery.output.target
        assert isinstance(target, Nats)
        return cls(target, delivery.connection.name, surroundings.guard, surroundings.ca_file)

    def __init__(self, target: Nats, connection: str, guard: Guard, ca_file: Path) -> None:
        require("nats", "nats")
        self._target = target
        self._connection_id = connection.rsplit("/", 1)[-1]
        self._guard = guard
        self._ca_file = ca_file
        self._link: Link | None = None
        self._confirmed: set[str] = set()
        """Ids of the batch that failed last which the stream has all the same."""

    @property
    def is_open(self) -> bool:
        """Whether it is connected."""
        return self._link is not None and not self._link.has_ended

    def deliver(self, events: Sequence[Event], deadline: float) -> None:
        """Publishes the events that are not confirmed yet, and waits for the stream. Raises SinkError."""
        confirmed, known = self._confirmed, len(self._confirmed)
        try:
            if not self.is_open:
                # What ended while nothing was sent is no failure of this batch.
                self.close()
            peers = [] if self.is_open else self._peers()
            LOOP.run(self._publish(events, peers, deadline), deadline)
        except SinkError as error:
            self.close()
            error.progressed = len(confirmed) > known
            raise
        except (TimeoutError, OSError) as error:
            self.close()
            failure = SinkError(f"{self._names()}: {str(error) or 'no answer in time'}")
            failure.progressed = len(confirmed) > known
            raise failure from error
        self._confirmed = set()

    def tend(self) -> float:
        """Nothing is due without changes."""
        return NEVER

    def close(self) -> None:
        """Ends the connection."""
        link, self._link = self._link, None
        if link is not None:
            # When it fails, the server notices by itself.
            with contextlib.suppress(TimeoutError, OSError):
                LOOP.run(link.close(), time.monotonic() + 2 * CLOSE_S_MAX)

    def _names(self) -> str:
        return ", ".join(map(str, self._target.server_list()))

    # --- connecting -----------------------------------------------------------------------------------------

    def _peers(self) -> list[tuple[Server, Peer]]:
        """The addresses of all servers. Raises SinkError when none may be connected to."""
        found: list[tuple[Server, Peer]] = []
        failure: SinkError | None = None
        for server in self._target.server_list():
            try:
                found += [(server, peer) for peer in peers_of(self._guard, server.host, server.port)]
            except SinkError as error:
                failure = failure or error
        if not found and failure is not None:
            raise failure
        return found

    async def _connected(self, peers: Sequence[tuple[Server, Peer]], deadline: float) -> Link:
        failure: SinkError | None = None
        for left, (server, peer) in zip(range(len(peers), 0, -1), peers, strict=True):
            link = Link(self._target, self._connection_id, server, self._ca_file)
            share_s = (deadline - time.monotonic()) / left
            try:
                await asyncio.wait_for(link.connect(peer), max(0.0, share_s))
            except BaseException as error:
                await link.close()
                if isinstance(error, SinkError) and error.final:
                    raise
                if not isinstance(error, SinkError | OSError | TimeoutError):
                    raise
                failure = SinkError(f"{server}: {str(error) or 'no answer in time'}")
            else:
                return link
        assert failure is not None, "an output has a server"
        raise failure

    # --- publishing -----------------------------------------------------------------------------------------

    async def _publish(
        self, events: Sequence[Event], peers: Sequence[tuple[Server, Peer]], deadline: float
    ) -> None:
        if self._link is None:
            self._link = await self._connected(peers, deadline)
        for attempt in range(1, NO_STREAM_ATTEMPTS + 1):
            try:
                await self._publish_all(self._link, events)
            except NoStream:
                if attempt == NO_STREAM_ATTEMPTS:
                    raise faulty(
                        "nats", "subject", f"no stream of the server takes {self._target.subject}"
                    ) from None
                await asyncio.sleep(NO_STREAM_WAIT_S)
            else:
                return

    async def _publish_all(self, link: Link, events: Sequence[Event]) -> None:
        confirmed, users = self._confirmed, set[str]()
        link.begin(events, confirmed)
        for index, event in enumerate(events):
            if event.id in confirmed:
                continue
            if event.subject in users or link.in_flight >= IN_FLIGHT_MAX:
                await link.confirmed()
                users.clear()
            users.add(event.subject)
            await link.send(index, event)
        await link.confirmed()


def _attributes(event: Event) -> bytes:
    """The attributes of an event as headers, by the NATS protocol binding of CloudEvents."""
    return (
        b"ce-specversion: 1.0\r\nce-id: %b\r\nce-source: %b\r\nce-type: %b\r\nce-subject: %b\r\n"
        b"ce-time: %b\r\ncontent-type: application/json\r\n"
    ) % (
        header_text(event.id),
        header_text(event.source),
        header_text(event.type),
        header_text(event.subject),
        header_text(event.time),
    )


class NoStream(Exception):
    """No stream takes messages of the subject."""


class Link:
    """A connection to one server. Used in the loop alone. When it fails it is closed, and the sink makes
    another one.
    """

    def __init__(self, target: Nats, connection_id: str, server: Server, ca_file: Path) -> None:
        self._target = target
        self._server = server
        self._binary = target.mode is ContentMode.BINARY
        self._suffix = f"#{connection_id}".encode()
        self._before_index = b""
        """The beginning of a command to publish, up to the index of the event."""
        self._commands: list[bytes] = []
        self._tls = tls_context(target.kind(), target.ca_certificates, ca_file)
        self._client: Client | None = None
        self._events: Sequence[Event] = ()
        self._confirmed: set[str] = set()
        self._failure: Exception | None = None
        self._settled = asyncio.Event()
        self.in_flight = 0

    async def connect(self, peer: Peer) -> None:
        """Connects to a checked address of the server. Raises SinkError, OSError, TimeoutError."""
        from nats.errors import Error

        server = self._server
        self._client = client = _client_class()(self._on_answer)
        try:
            await client.connect(
                servers=[f"nats://{Server('', str(peer.address), peer.port)}"],
                # A name is needed for certificates; it is not resolved.
                tls=self._tls,
                tls_hostname=server.host,
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                error_cb=self._on_error,
                closed_cb=self._on_end,
                disconnected_cb=self._on_end,
                **self._credentials(client),
            )
            self._check_tls(client)
            inbox = client.new_inbox()
            self._before_index = f"HPUB {self._target.subject} {inbox}.".encode()
            await client.subscribe(f"{inbox}.*", cb=ignored)
        except Error as error:
            raise self._refusal(error) from error

    def _credentials(self, client: Client) -> dict[str, Any]:
        from nats.aio.client import RawCredentials

        target, server = self._target, self._server

        def over_tls(secret: str) -> Callable[[], str]:
            def checked() -> str:
                self._check_tls(client)
                return secret

            return checked

        if target.credentials:
            require("nkeys", "nats")
            return {"user_credentials": RawCredentials(target.credentials)}
        if server.password:
            return {"user": over_tls(server.user), "password": over_tls(server.password)}
        return {"token": over_tls(server.user)} if server.user else {}

    def _check_tls(self, client: Client) -> None:
        """Raises SinkError when the URL asks for TLS and the server has none, before a secret is sent."""
        if self._server.scheme == "tls" and not client._server_info.get("tls_required"):
            raise faulty("nats", "servers", f"{self._server} does not offer TLS")

    def _refusal(self, error: Exception) -> SinkError:
        cause = self._failure or error
        text = str(cause).removeprefix("nats: ").strip("'")
        if "authorization violation" in text.lower() or "user authentication" in text.lower():
            field = "credentials" if self._target.credentials else "servers"
            return faulty("nats", field, f"{self._server} refuses the user ({text})")
        return SinkError(f"{self._server}: {text or type(cause).__name__}")

    @property
    def has_ended(self) -> bool:
        """Whether it cannot be used any more."""
        return self._failure is not None

    async def close(self) -> None:
        """Ends the connection."""
        if self._client is not None:
            # After a handshake of TLS that failed, it would wait for ever.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._client.close(), CLOSE_S_MAX)

    # --- publishing -----------------------------------------------------------------------------------------

    def begin(self, events: Sequence[Event], confirmed: set[str]) -> None:
        """Begins a batch. Ids of events that the stream has are added to `confirmed`."""
        self._events, self._confirmed = events, confirmed

    async def send(self, index: int, event: Event) -> None:
        """Publishes the event at `index` without waiting for the stream. Raises SinkError."""
        client = self._client
        assert client is not None
        payload = event.data if self._binary else event.body
        if len(payload) > client.max_payload:
            raise too_large(f"a change of {len(payload)} bytes", f"max_payload of {self._server}")
        header = b"NATS/1.0\r\nNats-Msg-Id: %b/%b%b\r\n%b\r\n" % (
            header_text(event.source),
            header_text(event.id),
            self._suffix,
            _attributes(event) if self._binary else b"",
        )
        self._commands.append(
            b"%b%d %d %d\r\n%b%b\r\n"
            % (self._before_index, index, len(header), len(header) + len(payload), header, payload)
        )
        self.in_flight += 1
        if len(self._commands) >= SEND_MESSAGES:
            await self._flush()

    async def _flush(self) -> None:
        """Writes what was published, in one go: the client's own way takes three times as long."""
        if self._commands:
            commands, self._commands = b"".join(self._commands), []
            client = self._client
            assert client is not None
            await client._send_command(commands)
            await client._flush_pending()
            # Lets the client write while more is rendered.
            await asyncio.sleep(0)

    async def confirmed(self) -> None:
        """Waits until the stream has all that was sent. Raises SinkError, NoStream."""
        await self._flush()
        while self.in_flight and self._failure is None:
            self._settled.clear()
            await self._settled.wait()
        failure = self._failure
        if isinstance(failure, NoStream):
            # All answers were the same; the next attempt begins with a clean slate.
            while self.in_flight:
                self._settled.clear()
                await self._settled.wait()
            self._failure = None
            raise failure
        if isinstance(failure, SinkError):
            raise failure
        if failure is not None:
            raise self._refusal(failure) from failure

    def _on_answer(self, subject: bytes, data: bytes) -> None:
        self.in_flight -= 1
        event = self._events[int(subject.rpartition(b".")[2])]
        if not data:
            self._failure = self._failure or NoStream()
        elif b'"error"' in data and (error := _error_in(data)) is not None:
            self._failure = self._failure or self._error(error, event)
        else:
            self._confirmed.add(event.id)
        if not self.in_flight or self._failure is not None:
            self._settled.set()

    def _error(self, error: _Error, event: Event) -> SinkError:
        if error.err_code == MESSAGE_TOO_LARGE:
            return too_large(f"a change of {len(event.body)} bytes", "max_msg_size of the stream")
        text = f"{error.description} (code {error.err_code or error.code})"
        if error.err_code == STREAM_SEALED:
            return faulty("nats", "subject", f"its stream takes no messages: {text}")
        return SinkError(f"{self._server}: {text}")

    async def _on_error(self, error: Exception) -> None:
        if "permissions violation" in str(error).lower():
            text = str(error).removeprefix("nats: ")
            self._failure = faulty("nats", "subject", f"the user may not publish to it ({text})")
        else:
            self._failure = self._failure or error
        self._settled.set()

    async def _on_end(self) -> None:
        self._failure = self._failure or ConnectionError("the connection ended")
        self._settled.set()


async def ignored(message: Msg) -> None:
    """Takes answers that the connection has handled before they become messages."""


@functools.cache
def _client_class() -> Any:
    """The client, with a short way for answers.

    Each event has an answer. The way of the client, a message in a queue for a task, takes longer than all
    else that is done for an event. This uses `_process_msg`, and above `_send_command` and `_flush_pending`,
    which are no public methods: `test_nats.py` fails with a release that has others.
    """
    from nats.aio.client import Client

    class Publisher(Client):
        def __init__(self, on_answer: Callable[[bytes, bytes], None]) -> None:
            super().__init__()
            self._on_answer = on_answer

        async def _process_msg(
            self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
        ) -> None:
            # There is one subscription, that to answers.
            self._on_answer(subject, data)

    return Publisher


def _error_in(data: bytes) -> _Error | None:
    try:
        return msgspec.json.decode(data, type=_Answer).error
    except msgspec.DecodeError:
        return _Error(description="an answer that is none of a stream")
