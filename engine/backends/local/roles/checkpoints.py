"""Checkpoints, and whether writes are accepted: what cannot be checkpointed must not grow without bound."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from engine.backends.local.roles.open_store import OpenStore
from engine.backends.local.settings import LocalSettings
from engine.backends.local.storage.rests import Rests
from engine.backends.local.storage.store import Store
from engine.backends.local.storage.transactions import WriteBuffer
from engine.backends.local.storage.write_ahead_log import LOG_IS_FULL
from engine.backends.local.write.state import P
from engine.clock import Stamp
from engine.errors import DataLoss, LimitExceeded, MilepostError, StoreUnavailable
from engine.measures import Counter, Durations
from engine.process_memory import give_back

CHECKPOINT_POLL_SECONDS = 0.2

CLOSING_CHECKPOINT_S_MAX = 10.0
"""Seconds for which a store that closes prepares its last checkpoint. Without it the next start replays the
log.
"""

FULL_RETRY_SECONDS = 5.0
"""How long after a checkpoint that found no room the next one tries."""

_log = logging.getLogger(__name__)


class CheckpointAbandoned(StoreUnavailable):
    """The store closes, and a checkpoint would take too long. The log keeps what was to be written."""


class Checkpoints(OpenStore[P]):
    """Writes to the index what is only in the log, on request and from time to time."""

    def __init__(self, store: Store, settings: LocalSettings, clock: Callable[[], Stamp]) -> None:
        super().__init__(store, settings, clock)
        self._checkpoint_lock = threading.RLock()
        self._closes_by = math.inf
        """When a store that closes gives up its checkpoint, in monotonic seconds."""
        self._is_full = False
        self._checkpoint_damage: DataLoss | None = None
        """The error that prevents checkpoints, or None."""
        self._checkpoints = Durations()
        self._checkpoint_failures = Counter()
        self._removals = Counter()
        """Removals of events by the retention."""
        self._checkpointed_bytes = 0
        """The log's `appended_bytes` of which everything is in the index."""
        self._purging, self._compaction_needed = self._is_purging(), self._needs_compaction()

    @property
    def _unwritten_log_bytes(self) -> int:
        return self._log.appended_bytes - self._checkpointed_bytes

    def _check_room(self) -> None:
        """Raises LimitExceeded, or DataLoss in case of damage, while acknowledged data cannot be
        checkpointed or replayed. It stays in memory and in the log, which must not grow without bound.
        """
        self._check()
        self._writer.check_writable()
        damage = self._checkpoint_damage
        if damage is not None:
            raise DataLoss(
                f"writes are refused: the log cannot be checkpointed: {damage.message}; reads go on, and"
                " what was acknowledged is kept in the log; restore a backup",
                metadata=dict(damage.metadata),
            )
        if self._is_full:
            raise LimitExceeded("the store is full: its log cannot be checkpointed", reason="STORE_FULL")

    def write_fault(self) -> MilepostError | None:
        """The error with which writes are refused; None when they are accepted."""
        try:
            self._check_room()
        except MilepostError as error:
            return error
        return LimitExceeded(LOG_IS_FULL, reason="STORE_FULL") if self._log.is_full else None

    def checkpoint(self) -> int:
        """Writes everything that is only in the log to the index, trims the log, and returns the checkpointed
        revision.

        Raises LimitExceeded when the disk is full. Nothing is lost and the next checkpoint tries again.
        """
        self._check()
        return self._checkpoint()

    def _checkpoint_through(self, revision: int) -> None:
        """Checkpoints unless the log has nothing up to a revision any more: concurrent callers share one."""
        with self._checkpoint_lock:
            if self._log.trimmed < revision:
                self._checkpoint()

    def _checkpoint(self) -> int:
        with self._checkpoint_lock:
            try:
                if (
                    self._purging
                    or self._compaction_needed
                    or self._state.has_unlogged_changes
                    or self._state.position > self._state.checkpointed.position
                ):
                    self._write_and_report()
                    self._purging, self._compaction_needed = self._is_purging(), self._needs_compaction()
                checkpointed = self._state.checkpointed.position
                self._log.trim(checkpointed)
            except LimitExceeded:
                self._is_full = True
                raise
            except DataLoss as damage:
                self._checkpoint_damage = damage
                raise
            self._is_full, self._checkpoint_damage = False, None
            with suppress(LimitExceeded):
                # Merging needs disk now to save time later: the next checkpoint tries again.
                self._merge_runs()
        return checkpointed

    @property
    def _has_to_checkpoint(self) -> bool:
        """Whether a checkpoint has work: unwritten data, a log to trim, or stored rows to rewrite."""
        is_to_be_written = self._state.position > min(self._state.checkpointed.position, self._log.trimmed)
        return is_to_be_written or self._purging or self._compaction_needed

    def _is_purging(self) -> bool:
        with self._state.locked():
            return any(account.is_purging for account in self._state.accounts())

    def _needs_compaction(self) -> bool:
        with self._state.locked():
            return any(account.needs_compaction for account in self._state.accounts())

    def purge(self) -> None:
        """Checkpoints until no erased row is stored."""
        self._check()
        self._checkpoint()
        while self._purging:
            self._checkpoint()

    def settle(self) -> None:
        """As `purge`, and until nothing is left to compact: further checkpoints rewrite nothing."""
        self._check()
        self._checkpoint()
        while self._purging or self._compaction_needed:
            self._checkpoint()

    def _write_and_report(self) -> None:
        records, began = self._writer.records_since_checkpoint, time.monotonic()
        try:
            log_bytes, index_bytes = self._write_state()
        except BaseException:
            self._checkpoint_failures.add()
            raise
        finally:
            seconds = time.monotonic() - began
            self._checkpoints.add(seconds)
        _log.info(
            "checkpoint",
            extra={
                "revision": self._state.checkpointed.position,
                "records": records,
                "log_bytes": log_bytes,
                "written_bytes": index_bytes,
                "seconds": round(seconds, 3),
            },
        )

    def _write_state(self) -> tuple[int, int]:
        """Fixes what is written while no entry is applied. Prepares and writes it while entries are applied
        and questions answered. Returns the bytes of log entries that are in the index now, and the bytes
        written for them.
        """
        changes, rest = WriteBuffer(), Rests()

        def pause() -> None:
            self._check_time()
            rest()

        try:
            with self._writer.paused(), self._index_lock:
                # While the writer pauses, no more come to wait.
                self._record_waiting()
                with self._state.locked():
                    appended_bytes = self._log.appended_bytes
                    self._state.prepare()
                    self._writer.records_since_checkpoint = 0
            self._state.stage(pause)
            self._state.write(changes, pause)
            with self._index_lock, self._store.index.writing() as txn:
                changes.write_to(txn, rest)
        except BaseException:
            with self._state.locked():
                self._state.rollback()
            raise
        self._state.commit(rest)
        log_bytes, self._checkpointed_bytes = appended_bytes - self._checkpointed_bytes, appended_bytes
        return log_bytes, changes.size_bytes

    def _check_time(self) -> None:
        """Raises CheckpointAbandoned when the store closes and this takes long."""
        if self._closing.is_set() and time.monotonic() > self._closes_by:
            raise CheckpointAbandoned(
                f"it took longer than {CLOSING_CHECKPOINT_S_MAX:g} s; the next start reads the log"
            )

    def _merge_runs(self) -> None:
        """Merges some runs of each kind. The next checkpoint continues."""
        event_ids = self._state.event_ids
        mergeable = [(event_ids.runs, some) for some in event_ids.mergeable()]
        with self._state.locked():
            users = [account.user_index.runs for account in self._state.accounts()]
        mergeable += [(runs, runs.mergeable()) for runs in users]
        for runs, some in mergeable:
            if some:
                try:
                    with self._index_lock:
                        merged = runs.merge(some)
                except DataLoss as damage:
                    # Unmerged runs stay as they are; nothing depends on the merge.
                    _log.warning("runs are not merged any more: %s", damage.message)
                    runs.give_up(some)
                    continue
                with self._state.locked():
                    runs.merged(some, merged)
                runs.discard(some)

    def _checkpoint_now_and_then(self) -> None:
        """The background thread: checkpoints after enough records, or some time after the first."""
        since: float | None = None
        while not self._closing.wait(min(CHECKPOINT_POLL_SECONDS, self._settings.checkpoint_s)):
            if not self._has_to_checkpoint:
                since = None
                continue
            since = time.monotonic() if since is None else since
            is_stuck = self._is_full or self._checkpoint_damage is not None
            wait = min(self._settings.checkpoint_s, FULL_RETRY_SECONDS if self._is_full else math.inf)
            if (
                self._writer.records_since_checkpoint < self._settings.checkpoint_records
                and time.monotonic() - since < wait
                and (is_stuck or not self._log.is_filling)
            ):
                continue
            try:
                self._checkpoint()
            except LimitExceeded as error:
                _log.warning("nothing can be checkpointed, writes are refused: %s", error.message)
            except DataLoss as damage:
                _log.error(
                    "no checkpoint can be made; writes are refused, reads go on: %s (%s); restore a backup",
                    damage.message,
                    damage.metadata.get("key_family", "unknown family"),
                )
            except CheckpointAbandoned:
                # The end of the store says so.
                return
            except Exception:
                # The log keeps everything. The next attempt follows after another interval.
                _log.exception("checkpointing failed")
            give_back()
            since = None
