"""Stored memberships (`engine.backends.base.MembershipStore`)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress

from pyroaring import BitMap

from engine.backends.base import ChangePage, MemberPage, Members, Membership
from engine.backends.local.account.account import Account
from engine.backends.local.membership.change_log import GroupChanges
from engine.backends.local.membership.published import PublishedAccount
from engine.backends.local.membership.states import StoredState
from engine.backends.local.membership.store import Update
from engine.backends.local.query.evaluation import Evaluation
from engine.backends.local.query.executor import after_group, member_page
from engine.backends.local.roles.open_store import AccountForgotten, OpenStore
from engine.backends.local.storage.turns import Read
from engine.plan.model import Plan
from engine.plan.reads import Reads
from engine.values import Micros


class _Refresh:
    """What is to be refreshed, with the encodings that take long for long plans and need no lock."""

    def __init__(
        self, scope: str, audiences: Sequence[str], plan: Plan, moved: Plan | None, whole: bool
    ) -> None:
        self.scope = scope
        self.audiences = audiences
        self.plan = plan
        self.encoded = plan.encode()
        self.moved = moved
        self.moved_encoded = b"" if moved is None else moved.encode()
        self.whole = whole


class StoredMemberships(OpenStore):
    """Keeps stored memberships and their change logs."""

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
        """Brings stored memberships to the plan's `as_of` and the newest revision, in one transaction. Users
        are evaluated before the locks are taken; only the last ones to change are evaluated with them.
        """
        asked = _Refresh(scope, audiences, plan, moved_by_time, whole)
        memberships = self._state.memberships
        with ExitStack() as watched:
            evaluation = None
            with suppress(AccountForgotten), self._read(None, account) as (found, read):
                if found is not None:
                    evaluation = self._evaluated(asked, found, read, watched)
            with self._index_lock, self._read(None, account) as (found, read), read.keeping_lock():
                memberships.record_waiting()
                if found is None:
                    evaluation = None
                elif evaluation is None or not self._holds(evaluation, asked, found):
                    evaluation = self._evaluated(asked, found, read, watched)
                states = memberships.states(audiences, account, scope)
                changes: list[list[GroupChanges]] = [[] for _ in audiences]
                if evaluation is not None:
                    evaluation.settle(read)
                    changes = self._changes(tuple(states.values()), evaluation)
                updates = {
                    audience: Update(state, changed, plan.as_of, definition)
                    for (audience, state), changed, definition in zip(
                        states.items(), changes, definitions or [""] * len(audiences), strict=True
                    )
                }
                memberships.refreshed(account, scope, updates, self._state.position, reads)
                return tuple(memberships.get(audience).public() for audience in audiences)

    def _evaluated(self, asked: _Refresh, account: Account, read: Read, watched: ExitStack) -> Evaluation:
        """Evaluates who has to be, while others write unless the lock is kept. `watched` ends the watch over
        who changes.
        """
        changed = watched.enter_context(account.watches.watching())
        bind = self._executor.bind
        # Copies: others become dirty meanwhile.
        dirty = None if self._is_whole(asked) else [u.copy() for u in self._dirty(asked.scope)]
        evaluation = Evaluation(self._executor, bind(asked.plan, asked.encoded, account, read), changed)
        evaluation.is_whole = dirty is None
        moved = None if asked.moved is None else bind(asked.moved, asked.moved_encoded, account, read)
        for group in range(account.groups):
            base = None if dirty is None else dirty[group]
            if base is not None and moved is not None:
                base |= self._executor.roots(moved, group, lambda: None, read)[0]
            if base is None or base:
                evaluation.evaluate(group, base, read)
        evaluation.catch_up(read)
        return evaluation

    def _is_whole(self, asked: _Refresh) -> bool:
        """Whether everyone has to be evaluated."""
        memberships, account = self._state.memberships, asked.plan.account
        are_in_step = all(memberships.is_in_step(account, asked.scope, each) for each in asked.audiences)
        return asked.whole or not are_in_step or memberships.dirty(asked.scope) is None

    def _dirty(self, scope: str) -> Sequence[BitMap]:
        return self._state.memberships.dirty(scope) or ()

    def _holds(self, evaluation: Evaluation, asked: _Refresh, account: Account) -> bool:
        """Whether the evaluation is still of this account and of everyone it has to be of."""
        if evaluation.account is not account or evaluation.is_void:
            return False
        return evaluation.is_whole or not self._is_whole(asked)

    def _changes(self, states: Sequence[StoredState], evaluation: Evaluation) -> list[list[GroupChanges]]:
        """Entries and exits of each membership by group, among the users evaluated (None = all)."""
        changes: list[list[GroupChanges]] = [[] for _ in states]
        for group, base, sets in evaluation.groups():
            for at, (state, after) in enumerate(zip(states, sets, strict=True)):
                before = self._state.memberships.members(state, group)
                exited = before - after if base is None else (before & base) - after
                changes[at].append(GroupChanges(group, after - before, exited))
        return changes

    def pending(self, scope: str) -> int:
        """Number of dirty users in the scope. After a restart every user is dirty until the first refresh."""
        with self._locked():
            pending = self._state.memberships.pending(scope)
            if pending is not None:
                return pending
            account = self._state.find_account(self._state.memberships.scope_account(scope) or "")
            return 0 if account is None else account.directory.size()

    def membership(self, audience: str) -> Membership | None:
        """The stored membership, or None when it is not stored."""
        with self._locked():
            state = self._state.memberships.find(audience)
            return None if state is None else state.public()

    def stored_members(self, audience: str, ask: Members) -> MemberPage:
        """Members of the stored membership, in the order of `execute`."""
        memberships = self._state.memberships
        with self._locked():
            name = memberships.get(audience).account
        with self._read(None, name) as (account, read):
            state = memberships.get(audience)
            if account is None:
                return MemberPage((), "", state.revision)
            groups = (
                (group, memberships.members(state, group))
                for group in range(after_group(ask.after), account.groups)
            )
            return member_page(account, ask, groups, state.revision, read)

    def published(self, account: str) -> PublishedAccount:
        """The stored memberships of the account, as they are now. Takes no lock."""
        self._check()
        self._state.check_account(account)
        return self._state.memberships.published(account)

    def changes(self, audience: str, after: int, limit: int) -> ChangePage:
        """Changes with a sequence above `after`, at most `limit`."""
        with self._locked():
            account = self._state.find_account(self._state.memberships.get(audience).account)
            return self._state.memberships.changes(account, audience, after, limit)

    def sequence_at(self, audience: str, instant: Micros) -> int:
        """Sequence of the last change up to an instant; 0 when there is none."""
        with self._locked():
            return self._state.memberships.sequence_at(audience, instant)

    def wait_for_changes(self, audience: str, after: int, deadline: float) -> bool:
        """Blocks until the audience has a change above `after`, is dropped or the deadline passes."""
        self._check()
        return self._state.memberships.wait(audience, after, deadline)

    def wait_for_refresh(self, known: int, deadline: float) -> int:
        """Blocks until stored memberships changed more than `known` times, or the deadline passes."""
        self._check()
        return self._state.memberships.wait_for_refresh(known, deadline)

    def trim_changes(self, audience: str, through: int) -> None:
        """Deletes changes up to and including that sequence."""
        with self._index_lock, self._locked():
            self._state.memberships.trim(audience, through)

    def erased_through(self, audience: str, before: Micros) -> int:
        """The last change of the audience that names a user erased before an instant; 0: none."""
        with self._locked():
            return self._state.memberships.erased_through(audience, before)

    def exit_all(self, audience: str, as_of: Micros) -> Membership:
        """Empties the stored membership and records the exit of every member."""
        with self._index_lock, self._locked():
            return self._state.memberships.exit_all(audience, as_of, self._state.position)

    def drop_membership(self, audience: str) -> None:
        """Deletes the stored membership and its change log."""
        with self._index_lock, self._locked():
            self._state.memberships.drop(audience)

    def drop_scope(self, scope: str) -> None:
        """Stops tracking dirty users of a scope without stored memberships."""
        with self._locked():
            self._state.memberships.drop_scope(scope)
