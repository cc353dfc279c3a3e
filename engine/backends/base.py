"""The boundary between the rule engine and whatever stores the users.

A backend takes records in, makes them durable, and executes plans over them. Dense ids, bitmaps, columns and
keys stay inside it: users cross this boundary as the caller's own user ids. The embedded backend is
`engine.backends.local`; a second one for stores that outgrow one machine must pass the same conformance suite
(`tests/conformance`).

Accounts, inputs, workspaces and audiences are named here by their resource names (`accounts/a`,
`accounts/a/workspaces/w/inputs/i`, …). All methods are safe to call from several threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias, overload

import msgspec

from engine.criteria.model import ConsentState, EventType
from engine.errors import MilepostError
from engine.event_columns import EventColumns
from engine.plan.model import Plan
from engine.upkeep import Finding, StoreFigures
from engine.user_columns import UserColumns
from engine.values import PARTITION_COUNT, Kind, Micros, Value

# --- what goes in -------------------------------------------------------------------------------------------


class EventRecord(msgspec.Struct, frozen=True, array_like=True, tag_field="record", tag="event", gc=False):
    """One event, already checked against the limits. `event_id` "" = no deduplication."""

    user_id: str
    input: str
    name: str
    type: EventType
    time: Micros
    attributes: dict[str, Value]
    event_id: str = ""


class UserRecord(msgspec.Struct, frozen=True, array_like=True, tag_field="record", tag="user"):
    """One user update, already checked. Each write carries `time`; per attribute, identity and consent the
    latest time wins, of equal times the later to arrive. None unsets; an unset is a write as well.
    """

    user_id: str
    input: str
    time: Micros
    attributes: dict[str, Value | None] = {}
    identities: dict[str, str | None] = {}
    consents: dict[tuple[str, str], ConsentState] = {}


Record: TypeAlias = EventRecord | UserRecord


class Appended(msgspec.Struct, frozen=True, array_like=True):
    """What became of a batch: the revision at which it is visible, and how many events had been seen
    before.
    """

    revision: int
    accepted: int
    duplicates: int
    repeated: bool = False
    """True when `request_id` had been seen: this is the first answer again and nothing was applied."""


# --- what is asked ------------------------------------------------------------------------------------------

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


# --- stored membership --------------------------------------------------------------------------------------


class Change(msgspec.Struct, frozen=True):
    """One user entered or exited an audience. Sequence numbers of an audience start at 1 and have no gaps."""

    sequence: int
    user_id: str
    entered: bool
    as_of: Micros


class ChangePage(msgspec.Struct, frozen=True):
    """Changes after a cursor, in order. `caught_up` when nothing newer was stored at the time of reading."""

    changes: tuple[Change, ...]
    caught_up: bool
    as_of: Micros
    """The membership's own `as_of` when read: a progress mark."""


class Membership(msgspec.Struct, frozen=True):
    """The state of one stored membership: size, the data and instant it reflects, and the reach of its change
    log.

    `first_sequence` is the oldest change still stored and `last_sequence` the newest; equal to last + 1 when
    there is none. `entered_total` and `exited_total` count changes since the membership was first calculated.
    """

    size: int
    as_of: Micros
    revision: int
    first_sequence: int
    last_sequence: int
    entered_total: int
    exited_total: int


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of a user, except the events. Times are microseconds."""

    user_id: str
    seen: Mapping[str, tuple[Micros, Micros]]
    """For each input the user belongs to: first and last time."""
    attributes: Mapping[str, Mapping[str, tuple[Micros, Value]]]
    """Workspace → key → (time of the write, value)."""
    identities: Mapping[str, tuple[Micros, str]]
    consents: Mapping[tuple[str, str], tuple[Micros, ConsentState]]


class SeenNames(msgspec.Struct, frozen=True):
    """Names seen in an account so far, for warnings about names that may be mistyped."""

    events: frozenset[str]
    user_attributes: frozenset[str]
    event_attributes: frozenset[str]


EventPlace: TypeAlias = tuple[str, str, int]
"""An event name's place in the catalog: name, input and number of the type."""
AttributePlace: TypeAlias = tuple[str, str]
"""A user attribute's place in the catalog: key and workspace."""


class EventNameFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The events of one name, input and type: how many, of how many users, first and last time."""

    name: str
    input: str
    type: EventType
    events: int
    users: int
    first_time: Micros
    last_time: Micros

    def place(self) -> EventPlace:
        """Its place in the catalog."""
        return self.name, self.input, int(self.type)


class AttributeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """An attribute of users (`workspace` and `users` are set) or of the events of a name (`event_name` is),
    and the kinds its values have, in order of number.

    First and last time are those of the events that carry it; of an attribute of users, those of the writes
    by which users have it now, one for each of them. What was overwritten, unset or erased does not count.
    """

    key: str
    kinds: tuple[Kind, ...]
    first_time: Micros
    last_time: Micros
    workspace: str = ""
    users: int = 0
    event_name: str = ""


class ValueCount(msgspec.Struct, frozen=True):
    """A value, and how many users have it or have it in their list. Never a list itself."""

    value: Value
    users: int


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """Figures about the store as a whole. Sizes in bytes."""

    store_id: str
    revision: int
    checkpointed_revision: int
    users: int
    events: int
    disk_bytes: int
    log_bytes: int


class Capabilities(msgspec.Struct, frozen=True):
    """What this backend can do beyond the boundary's minimum."""

    name: str
    backup: bool
    groups: int


class Documents(Protocol):
    """A small durable map for resource records (journeys, audiences, connections…), apart from users' data.

    `commit` is atomic and durable when it returns.
    """

    def get(self, key: str) -> bytes | None: ...

    def scan(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """Every pair whose key starts with `prefix`, in key order."""
        ...

    def commit(self, puts: Mapping[str, bytes], deletes: Sequence[str] = ()) -> None: ...


class Backend(Protocol):
    """What the engine needs of a store."""

    @property
    def documents(self) -> Documents: ...

    @property
    def store_id(self) -> str:
        """Random, fixed at creation: revisions of another store are told apart by it."""
        ...

    def revision(self) -> int:
        """The newest visible revision."""
        ...

    def newest_arrival(self) -> Micros:
        """When the newest write arrived, by the clock it was stamped with; 0 when there is none."""
        ...

    def append(self, account: str, records: Sequence[Record], *, request_id: str = "") -> Appended:
        """Makes the records durable, then visible, in order. Raises LimitExceeded when there is no room, with
        nothing applied.
        """
        ...

    def append_user_columns(self, account: str, columns: UserColumns, *, request_id: str = "") -> Appended:
        """As `append`, for user updates that come as columns: each row is a `UserRecord`."""
        ...

    def append_columns(self, account: str, columns: EventColumns, *, request_id: str = "") -> Appended:
        """As `append`, for events that come as columns, checked and trimmed. The outcome is that of the same
        events as records.
        """
        ...

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

    def sample_partitions(self, partition_count: int) -> tuple[int, ...]:
        """The first `partition_count` partitions in this backend's fixed sampling order, cheapest to read
        together.

        Fixed: the same users each time, and a smaller sample is contained in every larger one.
        """
        ...

    def outlook(
        self, plan: Plan, inputs: Sequence[str], *, min_revision: int = 0, deadline: float | None = None
    ) -> Outlook:
        """What counting the plan's roots over everyone would take; reads next to nothing. `min_revision` and
        `deadline` as for `execute`.
        """
        ...

    def universe_size(self, account: str, inputs: Sequence[str]) -> int:
        """How many users belong to at least one of the inputs."""
        ...

    def profile(self, account: str, user_id: str) -> Profile | None: ...

    def seen_names(self, account: str) -> SeenNames: ...

    # The catalog: what data came with, exact, and without what was erased. Pages are listed from just behind
    # a place, at most `limit` long; each entry is of one state, the entries of a page may be of several.
    # DeadlineExceeded is raised when the deadline passes.

    def event_names(
        self,
        account: str,
        *,
        input: str = "",
        prefix: str = "",
        after: EventPlace | None = None,
        limit: int,
        deadline: float | None = None,
    ) -> tuple[EventNameFacts, ...]:
        """Event names that start with `prefix`, through one input or ("") all, in order of `place()`."""
        ...

    def user_attributes(
        self,
        account: str,
        *,
        workspace: str = "",
        prefix: str = "",
        after: AttributePlace | None = None,
        limit: int,
        deadline: float | None = None,
    ) -> tuple[AttributeFacts, ...]:
        """Attributes of users whose keys start with `prefix`, in one workspace or ("") all, in order of key
        and workspace.
        """
        ...

    def event_attributes(
        self,
        account: str,
        event_name: str,
        *,
        input: str = "",
        prefix: str = "",
        after: str | None = None,
        limit: int,
        deadline: float | None = None,
    ) -> tuple[AttributeFacts, ...]:
        """Attributes of the events of a name whose keys start with `prefix`, as they came through one input
        or ("") all, in order of key; `after` is a key.
        """
        ...

    def attribute_values(
        self,
        account: str,
        workspace: str,
        key: str,
        *,
        prefix: str = "",
        after: ValueCount | None = None,
        limit: int,
        deadline: float | None = None,
    ) -> tuple[ValueCount, ...]:
        """The values of a user attribute, most users first, then in order of kind and value, all of one
        state. With a prefix, only strings that start with it. An element of a list is a string here.
        """
        ...

    def erase(self, account: str, user_ids: Sequence[str]) -> Appended:
        """Removes the users as if they had never been; stored memberships record their exits by id. Unknown
        ids are ignored.
        """
        ...

    def remove_events(self, account: str, before: Micros) -> int:
        """Removes all events before an instant that have come so far, for good, and answers the revision at
        which they are gone. Users stay, also those left without any event, and so do stored memberships: only
        what their plans count no more is to be removed. Events that come later count whatever their time.
        """
        ...

    def alias(self, account: str, from_user_id: str, to_user_id: str) -> int:
        """From now on `from` is `to`: all data moves as if it had been sent as `to`. Raises
        FailedPrecondition on a cycle.
        """
        ...

    # Stored membership. A scope is a set of audiences kept in step, in Milepost one journey: whoever is
    # touched by new data since the scope's last refresh is dirty in it.

    def refresh(
        self,
        account: str,
        scope: str,
        audiences: Sequence[str],
        plan: Plan,
        *,
        moved_by_time: Plan | None = None,
        whole: bool = False,
    ) -> tuple[Membership, ...]:
        """Brings the stored membership of `audiences` (root i of `plan` is audience i) to the plan's `as_of`
        and the newest revision.

        The plan runs over the scope's dirty users and those in the first root of `moved_by_time`, or over
        everyone with `whole` (and for an audience stored for the first time). Membership and change log are
        written in one transaction.
        """
        ...

    def pending(self, scope: str) -> int:
        """How many users are dirty in the scope."""
        ...

    def membership(self, audience: str) -> Membership | None:
        """The stored membership, or None when it is not stored."""
        ...

    def stored_members(self, audience: str, ask: Members) -> MemberPage:
        """Members of the stored membership, as `execute` would list them. Raises NotFound when it is not
        stored.
        """
        ...

    def stored_contains(self, audience: str, user_ids: Sequence[str]) -> tuple[bool | None, ...]:
        """For each user whether the stored membership has it; None for users dirty in the scope, who must be
        evaluated.
        """
        ...

    def changes(self, audience: str, after: int, limit: int) -> ChangePage:
        """Changes with a sequence above `after`. Raises CursorExpired when some of them are gone, NotFound
        when it is not stored.
        """
        ...

    def wait_for_changes(self, audience: str, after: int, deadline: float) -> bool:
        """Blocks until the audience has a change above `after` (True), it is dropped or the deadline passes
        (False).
        """
        ...

    def trim_changes(self, audience: str, through: int) -> None:
        """Forgets changes up to and including that sequence."""
        ...

    def erased_through(self, audience: str, before: Micros) -> int:
        """The last change of the audience that names a user who was erased before an instant of the server's
        clock; 0 when none does. Their ids are kept for as long as such changes are.
        """
        ...

    def exit_all(self, audience: str, as_of: Micros) -> Membership:
        """Empties the stored membership, recording every member's exit (before an audience is deleted)."""
        ...

    def drop_membership(self, audience: str) -> None:
        """Forgets the stored membership and its change log. Nothing happens when it is not stored."""
        ...

    def drop_scope(self, scope: str) -> None:
        """Stops tracking dirty users for a scope that has no stored membership left."""
        ...

    # The store as a whole.

    def checkpoint(self) -> int:
        """Writes all that is only in the log into the index, and answers the checkpointed revision."""
        ...

    def write_fault(self) -> MilepostError | None:
        """Why all writes are refused for now, for want of room or because of damage; None when they are
        not.
        """
        ...

    def snapshot(self, directory: Path) -> None:
        """Writes a consistent copy into an empty or missing directory, while reads and writes go on."""
        ...

    def stats(self) -> Stats:
        """The figures that cost nothing to ask for."""
        ...

    def figures(self, deadline: float | None = None) -> StoreFigures:
        """All figures. Reads every key, though no value, without holding up anybody. Raises
        DeadlineExceeded.
        """
        ...

    def verify(self) -> Iterator[Finding]:
        """Reads and cross-checks everything that is stored, in one state of the store, while reads and writes
        go on: faults as they are found, progress now and then, and a `StoreVerified` last. Whoever closes the
        iterator ends the work. Raises FailedPrecondition while another verification is under way.
        """
        ...

    def capabilities(self) -> Capabilities: ...

    def close(self) -> None: ...


ALL_PARTITIONS = tuple(range(PARTITION_COUNT))
