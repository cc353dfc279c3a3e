"""Stored membership and its change log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import msgspec

from engine.backends.base.execute import MemberPage, Members
from engine.plan.model import Plan
from engine.values import Micros


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


@runtime_checkable
class MembershipReader(Protocol):
    """Reads stored memberships and their change logs."""

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


@runtime_checkable
class MembershipStore(MembershipReader, Protocol):
    """Keeps stored memberships up to date.

    A scope is a set of audiences kept in step, in Milepost one journey: whoever is touched by new data since
    the scope's last refresh is dirty in it.
    """

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
