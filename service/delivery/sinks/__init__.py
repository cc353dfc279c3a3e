"""Sinks: one file per kind of output, and one line per kind in `SINKS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

from engine.audiences.deliveries import Delivery
from engine.resources.targets import File, Target
from service.delivery.sinks.file import FileSink
from service.delivery.sinks.sink import Sink

OpenSink: TypeAlias = Callable[[Delivery, Path | None], Sink]
"""Makes the sink of a delivery; files go below the directory, if there is one. Raises SinkError."""

SINKS: Mapping[type[Target], OpenSink] = {
    File: FileSink.open,
}
"""Every kind of output that is built."""
