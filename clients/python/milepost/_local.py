"""The members of audiences in this process, as the changes of a watch leave them.

A state of an audience is one that the service had: changes are collected until a mark and then applied
together. A snapshot is collected apart, and replaces the state at its end.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from milepost._arguments import require_several
from milepost.errors import MilepostError, too_stale
from milepost.v1.audience_pb2 import MembershipChange
from milepost.v1.audience_service_pb2 import MembershipSnapshot, ProgressMark, SnapshotBegin, SnapshotEnd
from milepost.values import to_datetime

Update = SnapshotBegin | MembershipSnapshot | SnapshotEnd | MembershipChange | ProgressMark


@dataclass(frozen=True)
class LocalAnswer:
    """Whether a user is in an audience, and the state that says so."""

    member: bool
    as_of: datetime
    """Instant of the state: every change up to it is in."""
    cursor: int
    """The last change in the state."""


@dataclass(frozen=True)
class LocalStatus:
    """How far one audience has been followed."""

    users: int
    as_of: datetime | None
    """None before the first complete state."""
    staleness: timedelta | None
    """How far the state is behind at most, as far as the two clocks agree; None before the first one."""
    cursor: int | None
    epoch: str
    error: MilepostError | None
    """Why it is not followed at present; None while it is."""


class Followed:
    """One audience: its members at the last mark, and what came since. One thread or task writes."""

    def __init__(self, name: str, max_staleness: timedelta | None) -> None:
        self.name = name
        self.error: MilepostError | None = None
        self.failures = 0
        """Attempts in a row after which nothing came."""
        self.members: set[str] = set()
        self.usable_until = -math.inf
        """Time of the monotonic clock until which checks may use the state."""
        self._max_staleness = max_staleness
        self._collecting: set[str] | None = None
        self._changes: list[tuple[str, bool]] = []
        self._as_of: datetime | None = None
        self._lag = 0.0
        self._marked_at = 0.0
        self._marked_cursor = 0
        self._marked_epoch = ""

    # --- following ---

    def failed(self, error: MilepostError, *, is_temporary: bool) -> None:
        """Notes why the audience is not followed. Its state stays in use if the error is temporary."""
        self.error = error
        self.failures += 1
        if not is_temporary:
            self.usable_until = -math.inf

    def take(self, update: Update, epoch: str, lock: threading.Lock) -> bool:
        """Takes one update of the watch; the lock is held while the state changes. True at a new state."""
        self.failures = 0
        match update:
            case SnapshotBegin():
                self._collecting, self._changes = set(), []
            case MembershipSnapshot():
                if self._collecting is not None:
                    self._collecting.update(update.user_ids)
            case MembershipChange():
                self._changes.append((update.user_id, update.entered))
            case SnapshotEnd() | ProgressMark():
                self._mark(update, epoch, lock)
                return True
        return False

    def _mark(self, mark: SnapshotEnd | ProgressMark, epoch: str, lock: threading.Lock) -> None:
        changes, self._changes = self._changes, []
        if self._collecting is not None:
            apply(changes, self._collecting)
            changes = []
        with lock:
            if self._collecting is not None:
                self.members, self._collecting = self._collecting, None
            apply(changes, self.members)
            self._as_of = to_datetime(mark.as_of)
            self._lag = max(0.0, (datetime.now(UTC) - self._as_of).total_seconds())
            self._marked_at = time.monotonic()
            self._marked_cursor, self._marked_epoch = mark.cursor, epoch
            self.error = None
            self.usable_until = math.inf
            if self._max_staleness is not None:
                self.usable_until = self._marked_at + self._max_staleness.total_seconds() - self._lag

    # --- answering ---

    @property
    def is_ready(self) -> bool:
        """Whether there is a complete state."""
        return self._as_of is not None

    def staleness_seconds(self) -> float:
        """How far the state is behind; infinite before the first one."""
        return self._lag + time.monotonic() - self._marked_at if self.is_ready else math.inf

    def require_usable(self) -> None:
        """Raises why the state may not be used."""
        if self.usable_until >= time.monotonic():
            return
        if self.error is not None and self.usable_until == -math.inf:
            raise self.error
        allowed = math.inf if self._max_staleness is None else self._max_staleness.total_seconds()
        raise too_stale(self.name, self.staleness_seconds(), allowed)

    def answer(self, user_id: str) -> LocalAnswer:
        """The answer for a user, once there is a state. Hold the lock."""
        self.require_usable()
        assert self._as_of is not None
        return LocalAnswer(user_id in self.members, self._as_of, self._marked_cursor)

    def status(self) -> LocalStatus:
        """How far the audience has been followed. Hold the lock."""
        seconds = self.staleness_seconds()
        return LocalStatus(
            users=len(self.members),
            as_of=self._as_of,
            staleness=timedelta(seconds=seconds) if self.is_ready else None,
            cursor=self._marked_cursor if self.is_ready else None,
            epoch=self._marked_epoch,
            error=self.error,
        )


def apply(changes: Iterable[tuple[str, bool]], members: set[str]) -> None:
    """Brings members up to date, in place."""
    for user_id, entered in changes:
        if entered:
            members.add(user_id)
        else:
            members.discard(user_id)


class LocalAnswers:
    """What the followed audiences answer. Safe to ask from any thread."""

    def __init__(self, names: Mapping[str, str], max_staleness: timedelta | None) -> None:
        """`names`: what the caller calls each audience → its full name."""
        if not names:
            raise ValueError("expected at least one audience to follow")
        self._lock = threading.Lock()
        by_name = {name: Followed(name, max_staleness) for name in names.values()}
        self._followed = list(by_name.values())
        self._found = by_name | {given: by_name[name] for given, name in names.items()}

    def check(self, user_id: str, target: str) -> bool:
        """Whether the user is in the audience, which is called as in `local`, or by its full name. Makes no
        call. Raises TooStale, and the service's error when the audience cannot be followed.
        """
        followed = self._found.get(target) or self._find(target)
        if followed.usable_until < time.monotonic():
            followed.require_usable()
        return user_id in followed.members

    def answer(self, user_id: str, target: str) -> LocalAnswer:
        """As `check`, with instant and cursor of the state that the answer is from."""
        with self._lock:
            return self._find(target).answer(user_id)

    def check_many(self, user_ids: Sequence[str], targets: Sequence[str]) -> dict[str, set[str]]:
        """For each user the full names of those audiences that the user is in; each of them in one state."""
        require_several(user_ids=user_ids, targets=targets)
        with self._lock:
            asked = [self._find(target) for target in targets]
            for each in asked:
                each.require_usable()
            return {user: {each.name for each in asked if user in each.members} for user in user_ids}

    @property
    def as_of(self) -> datetime | None:
        """The instant up to which every audience is complete; None before each has a state."""
        instants = [each.as_of for each in self.status().values()]
        known = [each for each in instants if each is not None]
        return min(known) if len(known) == len(instants) else None

    @property
    def staleness(self) -> timedelta | None:
        """How far the audience that is furthest behind may be behind: the time since its last progress mark,
        and that mark's age by this machine's clock. None before each has a state.
        """
        lengths = [each.staleness for each in self.status().values()]
        known = [each for each in lengths if each is not None]
        return max(known) if len(known) == len(lengths) else None

    def status(self) -> dict[str, LocalStatus]:
        """How far each audience has been followed, by full name."""
        with self._lock:
            return {each.name: each.status() for each in self._followed}

    def _find(self, target: str) -> Followed:
        found = self._found.get(target)
        if found is None:
            raise ValueError(f"{target!r} is not followed; local() was called with {sorted(self._found)}")
        return found
