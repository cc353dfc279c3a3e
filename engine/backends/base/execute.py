"""Executing plans: what is asked, what is answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias, overload, runtime_checkable

import msgspec

from engine.plan.model import Plan
from engine.values import PARTITION_COUNT

ALL_PARTITIONS = tuple(range(PARTITION_COUNT))

PartitionSet: TypeAlias = Sequence[int] | None
"""Partitions to read, each 0 to 1,023; None = all of them."""


class Count(msgspec.Struct, frozen=True):
    """Ask for the size of every root."""


class Members(msgspec.Struct, frozen=True):
    """Ask for the user ids in the first root, in the backend's own stable order, from just after `after` (""
    = the start).
    """

    after: str = ""
    limit: int | None = None


class Contains(msgspec.Struct, frozen=True):
    """Ask, for each of these users, which of the roots contain it. Unknown users are in none."""

    user_ids: tuple[str, ...]


class Block(msgspec.Struct, frozen=True):
    """Some of the partitions read, halved in several independent ways: how many users of each root they have,
    and for each root how many of these lie in each half.

    Shows how much a root varies between partitions.
    """

    sizes: tuple[int, ...]
    halves: tuple[tuple[int, ...], ...]


class Counts(msgspec.Struct, frozen=True):
    """Sizes of the roots over the partitions read. `fraction` is the share of all partitions that were read,
    in (0, 1]; `blocks` are some of what was read when it was not everything.
    """

    sizes: tuple[int, ...]
    revision: int
    fraction: float
    blocks: tuple[Block, ...] = ()


class Outlook(msgspec.Struct, frozen=True):
    """What is known of a question before it is asked: how many users belong to its inputs, exactly, and about
    how many microseconds its plan takes over everyone.

    `work` is reckoned for data in memory, from the plan and the account's data alone. The clock, caches, the
    way the data are stored, other accounts and the order of operands do not change it, and so far as windows
    keep their length, neither does the plan's instant.
    """

    users: int
    work: float


class MemberPage(msgspec.Struct, frozen=True):
    """User ids, and the `after` to continue with ("" = that was all)."""

    user_ids: tuple[str, ...]
    next_after: str
    revision: int


class Containment(msgspec.Struct, frozen=True):
    """For each user asked for, in order, one flag a root."""

    flags: tuple[tuple[bool, ...], ...]
    revision: int


class StepTrace(msgspec.Struct, frozen=True):
    """What executing one step of a plan took: users in its set, time, how it was answered
    ("index", "column", "scan", "set", "stored", "cached"), and rows or values looked at."""

    users: int
    elapsed_us: float
    source: str
    looked_at: int


class Trace(msgspec.Struct, frozen=True):
    """One `StepTrace` for each step of the plan, in order."""

    steps: tuple[StepTrace, ...]
    revision: int


@runtime_checkable
class PlanExecutor(Protocol):
    """Executes plans over one consistent state of the data."""

    @overload
    def execute(
        self,
        plan: Plan,
        ask: Count,
        *,
        partitions: PartitionSet = None,
        min_revision: int = 0,
        deadline: float | None = None,
    ) -> Counts: ...

    @overload
    def execute(
        self,
        plan: Plan,
        ask: Members,
        *,
        partitions: PartitionSet = None,
        min_revision: int = 0,
        deadline: float | None = None,
    ) -> MemberPage: ...

    @overload
    def execute(
        self,
        plan: Plan,
        ask: Contains,
        *,
        partitions: PartitionSet = None,
        min_revision: int = 0,
        deadline: float | None = None,
    ) -> Containment: ...

    def execute(
        self,
        plan: Plan,
        ask: Count | Members | Contains,
        *,
        partitions: PartitionSet = None,
        min_revision: int = 0,
        deadline: float | None = None,
    ) -> Counts | MemberPage | Containment:
        """Answers `ask` over one consistent state at or after `min_revision`.

        `deadline` is a `time.monotonic()` instant. Raises RevisionNotReached or DeadlineExceeded when it
        passes, DataLoss when a value that the plan needs is corrupt: never a smaller number.
        """
        ...

    def trace(self, plan: Plan, *, min_revision: int = 0, deadline: float | None = None) -> Trace:
        """Executes the plan over every partition and reports each step."""
        ...

    def outlook(
        self, plan: Plan, inputs: Sequence[str], *, min_revision: int = 0, deadline: float | None = None
    ) -> Outlook:
        """What counting the plan's roots over everyone would take; reads next to nothing. `min_revision` and
        `deadline` as for `execute`.
        """
        ...
