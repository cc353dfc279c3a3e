"""A caller that writes frames of HTTP/2 itself, for what no client library of gRPC does."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

HEADERS = 0x1
RST_STREAM = 0x3
SETTINGS = 0x4
PING = 0x6
GOAWAY = 0x7

ACK = 0x1
END_HEADERS = 0x4

CANCEL = 0x8
REFUSED_STREAM = 0x7
MAX_CONCURRENT_STREAMS = 0x3

WAIT_S = 30.0

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_FRAME_HEAD = 9


class Frame(NamedTuple):
    """A frame: its type, flags, stream and payload."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    def encoded(self) -> bytes:
        """The frame as it is sent."""
        length = struct.pack(">I", len(self.payload))[1:]
        return length + bytes((self.kind, self.flags)) + struct.pack(">I", self.stream) + self.payload


class RawCaller:
    """A connection. Its opening is over when the server's settings are there."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), WAIT_S)
        self._received = b""
        self._stream = 1
        self._socket.sendall(_PREFACE + Frame(SETTINGS, 0, 0, b"").encoded())
        self.settings = self._settings()
        """The server's settings, by their number."""
        self._socket.sendall(Frame(SETTINGS, ACK, 0, b"").encoded())
        self._refused_until_acknowledged()

    def reset_streams(self, method: str, count: int) -> None:
        """Opens this many calls of a method, and resets each at once."""
        headers = _headers(method)
        frames = []
        for stream in range(self._stream, self._stream + 2 * count, 2):
            frames.append(Frame(HEADERS, END_HEADERS, stream, headers).encoded())
            frames.append(Frame(RST_STREAM, 0, stream, struct.pack(">I", CANCEL)).encoded())
        self._stream += 2 * count
        self._socket.sendall(b"".join(frames))

    def count_refused(self) -> int:
        """Streams that the server has refused since the last count, once it has read all frames."""
        # Settings are acknowledged in order, and as often as one likes; pings are not.
        self._socket.sendall(Frame(SETTINGS, 0, 0, b"").encoded())
        return self._refused_until_acknowledged()

    def close(self) -> None:
        """Ends the connection."""
        self._socket.close()

    def _refused_until_acknowledged(self) -> int:
        refused = 0
        for frame in self._frames():
            if frame.kind == RST_STREAM:
                refused += struct.unpack(">I", frame.payload) == (REFUSED_STREAM,)
            elif frame.kind == GOAWAY:
                raise ConnectionResetError(frame.payload[8:].decode(errors="replace"))
            elif frame.kind == SETTINGS and frame.flags & ACK:
                return refused
            elif frame.kind == PING and not frame.flags & ACK:
                self._socket.sendall(Frame(PING, ACK, 0, frame.payload).encoded())
        raise AssertionError("unreachable")

    def _settings(self) -> dict[int, int]:
        for frame in self._frames():
            if frame.kind == SETTINGS and not frame.flags & ACK:
                return dict(struct.iter_unpack(">HI", frame.payload))
        raise AssertionError("unreachable")

    def _frames(self) -> Iterator[Frame]:
        while True:
            head = self._read(_FRAME_HEAD)
            length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
            yield Frame(kind, flags, int.from_bytes(head[5:], "big"), self._read(length))

    def _read(self, length: int) -> bytes:
        while len(self._received) < length:
            part = self._socket.recv(1 << 16)
            if not part:
                raise ConnectionResetError("the server has ended the connection")
            self._received += part
        read, self._received = self._received[:length], self._received[length:]
        return read


def _headers(method: str) -> bytes:
    """The headers of a call, without a table and without Huffman codes, as HPACK lets one write them."""
    indexed_post, indexed_http, new_name = b"\x83", b"\x86", b"\x00"
    path, authority, content_type = b"\x04", b"\x01", b"\x0f\x10"
    return b"".join(
        (
            *(indexed_post, indexed_http, path, _text(method), authority, _text("localhost")),
            *(new_name, _text("te"), _text("trailers"), content_type, _text("application/grpc")),
        )
    )


def _text(text: str) -> bytes:
    return bytes((len(text),)) + text.encode("ascii")
