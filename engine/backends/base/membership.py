"""Stored membership and its change log, and what checks of calculated audiences read without waiting.

After each change a backend publishes the stored memberships of an account as one immutable state. A reader
takes it once and asks it any number of times, so one answer never mixes two refreshes of a journey.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

import msgspec
import numpy as np
import numpy.typing as npt

from engine.backends.base.execute import MemberPage, Members
from engine.backends.base.store import Store
from engine.deadline import TimeShares
from engine.errors import MilepostError
from engine.plan.model import Plan
from engine.plan.reads import Reads
from engine.values import TIME_MIN_MICROS, Micros

EPOCH_BYTES = 8


class Change(msgspec.Struct, frozen=True):
    """One user entered or exited an audience, or is a member whose opted-in values have changed: `updated`.
    Sequence numbers of an audience start at 1 and have no gaps.

    With `last_of_instant` the changes so far make a state that the audience had at `as_of`.
    """

    sequence: int
    user_id: str
    entered: bool
    as_of: Micros
    last_of_instant: bool
    updated: bool = False


class OptedIn(msgspec.Struct, frozen=True, array_like=True):
    """User attributes and types of identity, sorted, whose changes are recorded for members of an audience.
    Of an attribute that several workspaces have, the value written last counts.
    """

    attributes: tuple[str, ...] = ()
    identities: tuple[str, ...] = ()


class ChangePage(msgspec.Struct, frozen=True):
    """Changes after a cursor, in order. `caught_up` when nothing newer was stored at the time of reading."""

    changes: tuple[Change, ...]
    caught_up: bool
    as_of: Micros
    """The membership's `as_of` at the time of reading: a progress mark."""


class Membership(msgspec.Struct, frozen=True):
    """One stored membership: its size, the data revision and instant it reflects, and the range of its change
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
    opted_in: OptedIn = OptedIn()
    calculation: int = 0
    """Random, new when the audience is stored for the first time, also after it was dropped: sequence numbers
    of another calculation mean other changes.
    """


def epoch_of(store_id: str, membership: Membership) -> str:
    """Names a calculation in a store: sequence numbers and cursors belong to one. Another one begins when the
    audience is calculated anew, and when the store is restored from a backup, which gives it a new id.
    """
    named = f"{store_id}/{membership.calculation}".encode()
    return hashlib.blake2b(named, digest_size=EPOCH_BYTES).hexdigest()


Flags: TypeAlias = npt.NDArray[np.int8]
"""MEMBER, NOT_MEMBER or UNDECIDED, by user (row) and audience (column)."""

MEMBER = 1
NOT_MEMBER = 0
UNDECIDED = -1
"""New data may have moved the user since the last refresh: it has to be evaluated."""


class PublishedMembership(msgspec.Struct, frozen=True):
    """A stored membership, and the digest of the definition that it was last refreshed by; "" while it was
    not refreshed since the store was opened.
    """

    membership: Membership
    definition: str


@runtime_checkable
class Published(Protocol):
    """The stored memberships of one account as of one moment. Safe to read from any thread.

    A write that was acknowledged before this state was taken is in the memberships, or its users are
    undecided. A user that is erased or renamed by an alias afterwards may be undecided as well.
    """

    def find(self, audience: str) -> PublishedMembership | None:
        """The membership of an audience; None when none is stored."""
        ...

    def reached(self, audience: str) -> Micros:
        """The instant of the last round that brought the audience's scope in step; 0 before the first one
        since the store was opened.
        """
        ...

    def refreshed(self, audience: str) -> tuple[str, Micros] | None:
        """The digest of the definition that the membership was last refreshed by, and `reached`; None when
        none is stored.
        """
        ...

    def contains(self, audience: str, user_id: str) -> bool | None:
        """Whether the user is a member; None when that is undecided. An unknown user is no member. Raises
        NotFound when the audience is not stored.
        """
        ...

    def contains_many(self, audiences: Sequence[str], user_ids: Sequence[str]) -> Flags:
        """`contains` of each user and audience. Raises NotFound when one of them is not stored."""
        ...


@runtime_checkable
class MembershipReader(Protocol):
    """Reads stored memberships and their change logs."""

    def membership(self, audience: str) -> Membership | None:
        """The stored membership; None when there is none."""
        ...

    def stored_members(self, audience: str, ask: Members) -> MemberPage:
        """Members of the stored membership, as `execute` would list them. Raises NotFound when it is not
        stored.
        """
        ...

    def published(self, account: str) -> Published:
        """The stored memberships of the account, as they are now. Takes no lock. Raises DataLoss when the
        account misses acknowledged writes.
        """
        ...

    def changes(self, audience: str, after: int, limit: int) -> ChangePage:
        """Changes with a sequence above `after`. Raises CursorExpired when some of them were trimmed,
        NotFound when it is not stored.
        """
        ...

    def sequence_at(self, audience: str, instant: Micros) -> int:
        """Sequence of the last change that holds for `instant` or earlier; 0 when there is none. Raises
        CursorExpired with the oldest instant when changes after it were trimmed, NotFound when it is not
        stored.
        """
        ...

    def listen(self, audience: str, changed: Callable[[], None]) -> Callable[[], None]:
        """Calls `changed` after each change of the audience's stored membership, when it is published, and
        after it is dropped, until the result is called. `changed` may run in any thread and under locks of
        the store: it must neither wait nor call the store.
        """
        ...


class Ahead(NamedTuple):
    """The horizons of a scope (`look_ahead`), as a refresh renews them for the users it looks at."""

    levels: int
    """How many there are."""
    may_move: Callable[[tuple[Micros, Micros] | None], bool]
    """Whether time may move users within one of the horizons of whom all new data are events of times between
    these two, both included; None: of whom there are other data.
    """
    plans: Callable[[], Sequence[Plan | None]]
    """Makes for each horizon the plan of those whom time may move from the instant of the refresh to its end;
    None: no one.
    """


class ScopeRefresh(msgspec.Struct, frozen=True, kw_only=True):
    """What a refresh is to do for one scope: bring the stored membership of `audiences` (root i of `plan` is
    audience i) to the plan's `as_of` and the newest revision.

    The plan runs over the scope's dirty users and those in the first root of `moved_by_time`, or over
    everyone with `whole`, and for an audience that is new or that the last refresh of the scope left out.
    `definitions`: the digest of each audience's definition. `reads`: from then on only these data make users
    dirty; None: any data.

    `moved_by_time` makes the plan of those whom time may have moved between `moved_since` and `as_of`. It is
    called when a horizon has someone, or there is none. Without `ahead` the horizons are forgotten.
    `of_template`: the plan is one of an `engine.plan.template.Template`, which later refreshes ask for again.
    """

    account: str
    scope: str
    audiences: Sequence[str]
    plan: Plan
    definitions: Sequence[str] = ()
    of_template: bool = False
    moved_by_time: Callable[[], Plan | None] | None = None
    moved_since: Micros = TIME_MIN_MICROS
    ahead: Ahead | None = None
    whole: bool = False
    reads: Reads | None = None


class MembershipSource(Store, MembershipReader, Protocol):
    """A store with memberships, whose identity tells epochs apart."""


@runtime_checkable
class MembershipStore(MembershipReader, Protocol):
    """Keeps stored memberships up to date.

    A scope is a set of audiences kept in step, in Milepost one journey. Users touched by new data that the
    scope reads are dirty in it until its next refresh.
    """

    def refresh(
        self,
        account: str,
        scope: str,
        audiences: Sequence[str],
        plan: Plan,
        *,
        definitions: Sequence[str] = (),
        moved_by_time: Plan | None = None,
        whole: bool = False,
        reads: Reads | None = None,
    ) -> tuple[Membership, ...]:
        """`refresh_scopes` for one scope (see `ScopeRefresh`). Raises its error."""
        ...

    def take_news(self) -> None:
        """The rounds that begin after this have all that `has_news` was about. Takes no lock."""
        ...

    def beginning(self, scopes: Iterable[str]) -> AbstractContextManager[None]:
        """Within the block a round over these scopes follows, to an instant after its beginning. Data that
        come from now on may be later than that instant; they may then wait for the next round.
        """
        ...

    def refresh_scopes(
        self,
        as_of: Micros,
        refreshes: Sequence[ScopeRefresh],
        still: Sequence[str] = (),
        shares: TimeShares | None = None,
    ) -> list[tuple[Membership, ...] | MilepostError]:
        """Refreshes scopes, whose plans are as of `as_of`: one round. Memberships and change logs of all are
        written in one transaction, or in none when nothing has changed, and then published at once for each
        account. `still` are other scopes in which time has moved no one up to `as_of`.

        Returns for each scope its memberships, or the error for which they are as they were; the other scopes
        are refreshed all the same. An account that uses up its share of the time (None: there is no limit)
        has DeadlineExceeded for all its scopes.
        """
        ...

    def look_ahead(
        self,
        account: str,
        scope: str,
        level: int,
        plan: Plan | None,
        since: Micros,
        until: Micros,
        deadline: float | None = None,
    ) -> None:
        """Sets a horizon of a scope: the first root of the plan has those whom time may move after `since`
        and up to `until`; None: no one. Horizon 0 is the farthest, and a nearer one has users of those before
        it. Horizons after `level` are forgotten, and all of them by a refresh of everyone. Within a horizon
        `moved_by_time` runs only over its users. Raises DeadlineExceeded.
        """
        ...

    def instant(self) -> Micros:
        """The instant of the last round; after a start a recent one, which was stored; 0: there is none."""
        ...

    def expected(self, scope: str, level: int = -1) -> int | None:
        """How many users time may move within the nearest horizon, or that of a level, given their data when
        they were last refreshed, those whom it has moved since included; None: there is no such horizon.
        Takes no lock.
        """
        ...

    def pending(self, scope: str) -> int:
        """How many users are dirty in the scope."""
        ...

    def has_news(self) -> bool:
        """Whether data that a membership depends on have come since the last round began, or what they have
        changed waits to be recorded. Takes no lock.
        """
        ...

    def opt_in(self, audience: str, opted_in: OptedIn) -> None:
        """Records from now on when these values of a member change. Does nothing when it is not stored."""
        ...

    def record_updates(self) -> None:
        """Writes the changes of opted-in values that wait into the change logs. Costs nothing when there are
        none.
        """
        ...

    def trim_changes(self, audience: str, through: int) -> None:
        """Trims changes up to and including that sequence."""
        ...

    def erased_through(self, audience: str, before: Micros) -> int:
        """The last change of the audience that names a user erased before an instant of the server's clock; 0
        when there is none. Ids of erased users are kept for as long as such changes.
        """
        ...

    def exit_all(self, audience: str, as_of: Micros) -> Membership:
        """Empties the stored membership and records every member's exit (before an audience is deleted)."""
        ...

    def copy_membership(self, audience: str, name: str, after: int) -> None:
        """Keeps the stored membership as it is now under another name, in place of one of that name: its
        members and its changes with sequences above `after`. Nothing refreshes the copy; erased users exit
        it, and `exit_all` and `drop_membership` take its name. It is of the same calculation, unless there
        are too many changes to copy: then it is of a new one, without changes. Raises NotFound.
        """
        ...

    def drop_membership(self, audience: str) -> None:
        """Drops the stored membership and its change log. Does nothing when it is not stored."""
        ...

    def drop_scope(self, scope: str) -> None:
        """Stops tracking dirty users for a scope that has no stored membership left."""
        ...


class MembershipKeeper(Store, MembershipStore, Protocol):
    """A store that keeps memberships, whose identity tells epochs apart."""
