"""What the embedded store measures about itself (`engine.backends.base.Measured`)."""

from __future__ import annotations

from collections.abc import Iterator

from engine.backends.base import Stats
from engine.backends.local.roles.checkpoints import Checkpoints
from engine.backends.local.write.state import P
from engine.measures import Measure, counted, gauge, timed


class Measuring(Checkpoints[P]):
    """Hands out counts and times of the store's parts."""

    def stats(self) -> Stats:
        """Figures about the store as a whole."""
        with self._locked():
            accounts = self._state.accounts()
            log_bytes = self._store.log.disk_bytes()
            return Stats(
                store_id=self.store_id,
                revision=self._state.position,
                users=sum(account.directory.size() for account in accounts),
                events=sum(map(self._events_of, accounts)),
                disk_bytes=self._store.index.disk_bytes() + log_bytes,
                log_bytes=log_bytes,
            )

    def _events_of(self, account: P) -> int:
        """The number of events of an account. Call with the lock held, which others may take meanwhile."""
        raise NotImplementedError

    def measures(self) -> Iterator[Measure]:
        """All figures of this moment."""
        yield timed("checkpoint_seconds", "Duration of checkpoints.", self._checkpoints)
        yield counted("checkpoint_failures_total", "Checkpoints that failed.", self._checkpoint_failures)
        yield gauge(
            "log_unwritten_records",
            "Log records that the next start would replay.",
            self._writer.records_since_checkpoint,
        )
        yield gauge(
            "log_unwritten_bytes",
            "Bytes of log entries since the last checkpoint.",
            self._unwritten_log_bytes,
        )
        yield timed("log_commit_seconds", "Duration of commits to the log, with fsync.", self._log.commits)
        yield timed("lock_wait_seconds", "Waits for the lock of the store.", self._state.lock_waits)
        yield counted(
            "retention_removals_total",
            "Removals of events by the retention, each of the events of some names of an account.",
            self._removals,
        )
        for name, used, most in self._state.cache_bytes():
            yield gauge("cache_bytes", "Memory of a cache.", used, cache=name)
            yield gauge("cache_limit_bytes", "Budget of a cache.", most, cache=name)
        for file in (self._store.index.figures(), self._store.log.figures()):
            yield gauge("file_bytes", "Size of a file of the store.", file.file_bytes, file=file.name)
            yield gauge("file_free_bytes", "Free pages in a file.", file.free_bytes, file=file.name)
            yield gauge(
                "file_limit_bytes", "Limit of a file (--map-bytes).", file.limit_bytes, file=file.name
            )
