"""Executing plans: questions and answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Protocol, TypeAlias, TypeVar, runtime_checkable

import msgspec

from engine.plan.model import Plan
from engine.values import PARTITION_COUNT

ALL_PARTITIONS = tuple(range(PARTITION_COUNT))

PartitionSet: TypeAlias = Sequence[int] | None
"""Partitions to read, each 0 to 1,023; None = all of them."""


class Block(msgspec.Struct, frozen=True):
    """Some of the partitions read, halved in several independent ways: the number of users of each root, and
    for each root the number of these in each half.

    Shows how much a root varies between partitions.
    """

    sizes: tuple[int, ...]
    halves: tuple[tuple[int, ...], ...]


class Counts(msgspec.Struct, frozen=True):
    """Sizes of the roots over the partitions read. `fraction` is the share of all partitions that were read,
    in (0, 1]; `blocks` describe part of a partial read.
    """

    sizes: tuple[int, ...]
    revision: int
    fraction: float
    blocks: tuple[Block, ...] = ()


class Outlook(msgspec.Struct, frozen=True):
    """What is known before a question is executed: the exact number of users of its inputs, and the estimated
    microseconds of its plan over everyone.

    `work` assumes data in memory and follows from the plan and the account's data alone. The clock, caches,
    the storage layout, other accounts and the order of operands do not change it; nor does the plan's instant
    while windows keep their length.
    """

    users: int
    work: float


class MemberPage(msgspec.Struct, frozen=True):
    """User ids, and the `after` to continue with ("" = the end)."""

    user_ids: tuple[str, ...]
    next_after: str
    revision: int


class Containment(msgspec.Struct, frozen=True):
    """For each requested user, in order, one flag per root."""

    flags: tuple[tuple[bool, ...], ...]
    revision: int


Answer = TypeVar("Answer")


class Ask(msgspec.Struct, Generic[Answer], frozen=True):
    """A question about a plan: `Count`, `Members` or `Contains`. Its parameter is the type of the answer."""


class Count(Ask[Counts], frozen=True):
    """Asks for the size of every root."""


class Members(Ask[MemberPage], frozen=True):
    """Asks for the user ids in the first root, in the backend's own stable order, from just after `after` (""
    = the start).
    """

    after: str = ""
    limit: int | None = None


class Contains(Ask[Containment], frozen=True):
    """Asks for each of these users which roots contain it. Unknown users are in none."""

    user_ids: tuple[str, ...]


class StepTrace(msgspec.Struct, frozen=True):
    """The cost of one step of a plan: users in its set, time, how it was answered
    ("index", "column", "scan", "set", "stored", "cached"), and the rows or values examined.
    """

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
    """Executes plans. Each user is decided from one state, for all roots of a plan together."""

    def execute(
        self,
        plan: Plan,
        ask: Ask[Answer],
        *,
        partitions: PartitionSet = None,
        min_revision: int = 0,
        deadline: float | None = None,
    ) -> Answer:
        """Answers `ask`, each user from one state at or after the `revision` of the answer, which is at least
        `min_revision`. A batch that arrives meanwhile may already count for some of its users.

        `deadline` is a `time.monotonic()` instant, and may tell that the caller has given up
        (`engine.deadline`). Raises RevisionNotReached or DeadlineExceeded when it
        passes, and DataLoss when a value that the plan needs is corrupt: never a smaller number.
        """
        ...

    def trace(self, plan: Plan, *, min_revision: int = 0, deadline: float | None = None) -> Trace:
        """Executes the plan over every partition and reports each step."""
        ...

    def outlook(
        self, plan: Plan, inputs: Sequence[str], *, min_revision: int = 0, deadline: float | None = None
    ) -> Outlook:
        """Estimates counting the plan's roots over everyone; reads next to nothing. `min_revision` and
        `deadline` as for `execute`.
        """
        ...
