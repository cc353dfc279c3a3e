"""The figures of one scale of the growth table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Restart:
    """Seconds from the start of the process until it was SERVING, and until the first exact count was
    answered; and that count.
    """

    serving_seconds: float
    answered_seconds: float
    counted: int


@dataclass(frozen=True)
class Memory:
    """Memory of the process in bytes: resident, anonymous, and peak resident."""

    resident: int
    anonymous: int
    most_resident: int


@dataclass(frozen=True, kw_only=True)
class Growth:
    """Figures for one number of users. `log_bytes` is the log when the service was killed,
    `checkpoint_seconds` the duration of the stop that checkpointed it, and `disk_bytes` the size after that;
    `count_ms` is the median of exact counts.
    """

    users: int
    events: int
    import_seconds: float
    import_cpu_seconds: float
    memory_after_import: Memory
    log_bytes: int
    after_kill: Restart
    checkpoint_seconds: float
    disk_bytes: int
    after_stop: Restart
    count_ms: float
    memory_after_questions: Memory

    @property
    def events_per_second(self) -> float:
        return self.events / self.import_seconds

    @property
    def checkpointed_events_per_second(self) -> float:
        """Until everything is in the index: otherwise a scale whose events all fit into the log would look
        better than one that checkpoints meanwhile.
        """
        return self.events / (self.import_seconds + self.checkpoint_seconds)

    @property
    def disk_bytes_an_event(self) -> float:
        return self.disk_bytes / self.events
