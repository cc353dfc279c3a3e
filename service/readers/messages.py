"""What the writer and a reader tell each other: one JSON line a message, on the reader's standard input and
output.

The first message has the settings. The end of the input means that the writer has ended, and ends the reader.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any, TypeAlias

import msgspec

from engine.measures import DurationCounts
from service.config import Config

READY = "ready"
"""The line that a reader writes to standard output once it serves."""


class Start(msgspec.Struct, frozen=True, kw_only=True, tag="start"):
    """The first message: the settings of the service, and what the writer has for its readers."""

    settings: Mapping[str, Any]
    port: int
    backend: str
    memory: int
    """Descriptor of the memory from which checks are answered."""
    running: int
    """Descriptor of the table of running calls."""
    number: int
    """That of the reader: 1 and up."""
    writer_socket: str
    store_id: str
    token_secret: bytes
    health: Mapping[str, int]
    """Status by name of service."""

    def config(self) -> Config:
        """The settings."""
        config = msgspec.convert(self.settings, Config, dec_hook=lambda kind, value: kind(value))
        return msgspec.structs.replace(config, port=self.port)


class Health(msgspec.Struct, frozen=True, tag="health"):
    """The health of a service has changed."""

    service: str
    status: int


class Reload(msgspec.Struct, frozen=True, tag="reload"):
    """Read the TLS files again."""


class Answered(msgspec.Struct, frozen=True):
    """What a reader writes to standard output from time to time: calls of a method that it answered with OK
    since the last time.
    """

    method: str
    calls: DurationCounts

    def line(self) -> bytes:
        """The message as a line."""
        return _encoder.encode(self) + b"\n"

    @classmethod
    def of(cls, line: bytes) -> Answered:
        """The message in a line. Raises msgspec.MsgspecError."""
        return msgspec.json.decode(line, type=cls)


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """The service stops: refuse new calls, finish running ones, end."""


Message: TypeAlias = Start | Health | Reload | Stop

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


def settings_of(config: Config) -> dict[str, Any]:
    """The settings as the first message has them."""
    counted = msgspec.structs.replace(config, readers=config.reader_count)
    settings: dict[str, Any] = msgspec.to_builtins(counted, enc_hook=str)
    return settings


def send(stream: IO[bytes], message: Message) -> None:
    """Writes a message. Raises OSError or ValueError when the reader has ended."""
    stream.write(_encoder.encode(message) + b"\n")
    stream.flush()


def receive(stream: IO[bytes]) -> Message | None:
    """The next message; None when the writer has ended."""
    line = stream.readline()
    return _decoder.decode(line) if line.endswith(b"\n") else None
