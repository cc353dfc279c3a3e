"""Streams of requests that wait for their caller, and give way when their pool is full.

A call with one request holds no thread while its message is awaited (`service.first_message`); a stream of
requests does. Where no API key is asked for, no share limits how many streams one caller holds. So when a
pool is full and another caller comes, the stream that has waited longest for a request ends.
"""

from __future__ import annotations

import threading

SILENT_S_MIN = 1.0
"""A call gives way only after it has been silent for this long: one whose message is on its way does not."""


class WaitingStream:
    """A stream of requests of a caller without an API key."""

    def __init__(self, pool: str) -> None:
        self.pool = pool
        self.waited_s = 0.0
        """Since the last request, or the begin; 0 while a request is handled."""
        self.gives_way = False


class SilentStreams:
    """The open streams of requests of callers without an API key. Safe to call from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._streams: set[WaitingStream] = set()

    def opened(self, pool: str) -> WaitingStream:
        """A new stream. Tell `closed` when it ends."""
        stream = WaitingStream(pool)
        with self._lock:
            self._streams.add(stream)
        return stream

    def closed(self, stream: WaitingStream) -> None:
        """The stream has ended."""
        with self._lock:
            self._streams.discard(stream)

    def refuse_longest(self, pool: str) -> bool:
        """Has the stream give way that has waited longest. False: none has waited for long."""
        with self._lock:
            silent = [
                stream
                for stream in self._streams
                if stream.pool == pool and not stream.gives_way and stream.waited_s >= SILENT_S_MIN
            ]
            if not silent:
                return False
            max(silent, key=lambda stream: stream.waited_s).gives_way = True
            return True
