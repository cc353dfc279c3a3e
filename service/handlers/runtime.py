"""Dependencies shared by all handlers."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import grpc

from engine import Engine
from engine.values import Micros
from service.convert.revisions import revision_of, revision_token
from service.deadlines import Deadlines


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """The engine and what the service knows about itself. `stopping` is set when streams should end."""

    engine: Engine
    deadlines: Deadlines
    stopping: threading.Event
    import_batch_bytes_max: int
    backup_dir: Path
    start_time: Micros
    version: str

    @property
    def store_id(self) -> str:
        """The store that revision tokens name."""
        return self.engine.backend.store_id

    def revision(self) -> str:
        """Token of the newest revision, returned by writes to resources."""
        return self.token(self.engine.backend.revision())

    def token(self, revision: int) -> str:
        """Token of a revision."""
        return revision_token(self.store_id, revision)

    def at_least(self, token: str) -> int:
        """The revision requested by a read. Raises InvalidInput."""
        return revision_of(token, self.store_id)

    def deadline(self, context: grpc.ServicerContext) -> float:
        """Deadline of the call on `time.monotonic()`."""
        return self.deadlines.of(context)

    def stream_deadline(self, context: grpc.ServicerContext) -> float | None:
        """Deadline of a stream; None when the caller set none."""
        return self.deadlines.of_stream(context)
