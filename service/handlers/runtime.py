"""Dependencies shared by all handlers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import grpc

from engine import Engine
from engine.deadline import check_deadline
from engine.values import Micros
from service.auth.gate import Gate
from service.backups import Backups
from service.convert.revisions import Revisions
from service.deadlines import Deadlines
from service.delivery.testing import OutputTests
from service.stopping import Stopping


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """The engine and facts about the service. `stopping` is set when streams should end."""

    engine: Engine
    revisions: Revisions
    deadlines: Deadlines
    stopping: Stopping
    gate: Gate
    import_batch_bytes_max: int
    backups: Backups
    output_tests: OutputTests
    start_time: Micros
    version: str

    def revision(self) -> str:
        """Token of the latest revision, returned by writes to resources."""
        return self.token(self.engine.backend.revision())

    def token(self, revision: int) -> str:
        """Token of a revision."""
        return self.revisions.token(revision)

    def at_least(self, token: str) -> int:
        """The revision requested by a read. Raises InvalidInput."""
        return self.revisions.revision(token)

    def has_ended(self, context: grpc.ServicerContext) -> bool:
        """Whether a stream should end: the service stops, the caller left, or its key is not valid now."""
        return self.stopping.is_set() or not context.is_active() or not self.gate.admits_current()

    def deadline(self, context: grpc.ServicerContext) -> float:
        """Deadline of the call on `time.monotonic()`."""
        return self.deadlines.of(context)

    def stream_deadline(self, context: grpc.ServicerContext) -> float:
        """Deadline of a stream, also on `time.monotonic()`."""
        return self.deadlines.of_stream(context)

    def while_active(self, context: grpc.ServicerContext) -> Callable[[], None]:
        """What ends long work with its call, by raising: the caller cancelled it or its deadline passed
        (DeadlineExceeded), or the service stops and its grace period is over (StoreUnavailable).
        """
        deadline = self.stream_deadline(context)

        def may_go_on() -> None:
            self.stopping.refuse_late()
            check_deadline(deadline)

        return may_go_on
