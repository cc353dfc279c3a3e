"""Events that a receiver refused one by one: kept in a file for each connection, so that all others go on.

A line of `{output directory}/_refused/{account}/{connection}.ndjson` has the reason and the event. No account
can be named `_refused`. As in files of outputs, an event that is refused again after a crash is not written
twice.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from engine.resources.records import account_of
from engine.values import MICROS_PER_SECOND
from service.convert.times import rfc3339
from service.delivery.sinks.file import FileSink
from service.delivery.sinks.finished_files import SUFFIX
from service.delivery.sinks.sink import NEVER, Event, SinkError

FOLDER = "_refused"


class _Line(msgspec.Struct):
    """`id` identifies duplicates: it is the event's."""

    id: str
    reason: str
    refused_time: str
    event: msgspec.Raw


class RefusedEvents:
    """The files of all connections, each of about `bytes_max` bytes at most."""

    def __init__(self, output_dir: Path | None, bytes_max: int) -> None:
        self._output_dir = output_dir
        self._bytes_max = bytes_max

    def keep(self, connection: str, events: Sequence[Event], reasons: Mapping[str, str]) -> None:
        """Writes those of the events whose ids have a reason. They are durable on return.

        Raises SinkError when there is no directory for files, or no room: nothing is dropped.
        """
        file = self._file_of(connection)
        try:
            size_bytes = file.stat().st_size
        except FileNotFoundError:
            size_bytes = 0
        if size_bytes >= self._bytes_max:
            raise SinkError(
                f"the file of refused events, {file}, has {size_bytes} bytes: move it away, or raise "
                "--refused-bytes-max, then resume the connection",
                final=True,
            )
        now = rfc3339(int(time.time()) * MICROS_PER_SECOND)
        lines = [
            Event(
                event.id,
                msgspec.json.encode(_Line(event.id, reasons[event.id], now, msgspec.Raw(event.body))),
            )
            for event in events
            if event.id in reasons
        ]
        sink = FileSink(file)
        try:
            sink.deliver(lines, NEVER)
        finally:
            sink.close()

    def _file_of(self, connection: str) -> Path:
        if self._output_dir is None:
            raise SinkError(
                "the receiver refused events, and a service with a store in memory keeps them only in a "
                "directory that --output-dir names",
                final=True,
            )
        account = account_of(connection).rsplit("/", 1)[-1]
        return self._output_dir / FOLDER / account / (connection.rsplit("/", 1)[-1] + SUFFIX)
