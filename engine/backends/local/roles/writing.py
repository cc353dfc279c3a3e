"""Writing (`engine.backends.base.DataWriter`)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence, Set, Sized

from engine.backends.base import Appended, NameKind, NameSpan, Record, UserRecord
from engine.backends.local.roles.checkpoints import Checkpoints
from engine.backends.local.storage.name_table import FieldKind, Space, field_name
from engine.backends.local.storage.write_ahead_log import (
    AliasEntry,
    AppendEntry,
    BatchEntry,
    EraseEntry,
    ExpireEntry,
    ForgetEntry,
    ImportEntry,
    UserImportEntry,
)
from engine.backends.local.write.state import FOUND_AT_ONCE, P
from engine.clock import Stamp
from engine.errors import LimitExceeded
from engine.event_columns import EventColumns
from engine.limits import USER_ALIASES_MAX
from engine.user_columns import UserColumns
from engine.values import Micros

ERASED_PER_ENTRY = 400
"""Users that an entry erases: some ten milliseconds, after which others' writes have their turn."""
USERS_PER_ENTRY = 1_000
"""Updates of users that an entry has, where a batch may be several entries: the same."""

_SPACES = {NameKind.EVENT: Space.EVENT, NameKind.EVENT_ATTRIBUTE: Space.EVENT_ATTRIBUTE}


def _field(kind: NameKind, scope: str, name: str) -> str:
    """The name under which user-level data is numbered."""
    match kind:
        case NameKind.IDENTITY:
            return field_name(FieldKind.IDENTITY, name)
        case NameKind.CONSENT:
            return field_name(FieldKind.CONSENT, scope, name)
        case _:
            return field_name(FieldKind.ATTRIBUTE, scope, name)


def _may_be_split(batch: Sequence[Record], request_id: str) -> bool:
    """Whether a batch may be several entries. Updates of users may be repeated after a failure that leaves
    some of them; events without ids would count twice. A request id has one answer, to the whole batch.
    """
    return not request_id and all(type(record) is UserRecord for record in batch)


def _batch(account: str, request_id: str, records: tuple[Record, ...], at: Stamp) -> AppendEntry:
    return AppendEntry(account, at.arrival, request_id, records, at.settled)


def _together(answers: Sequence[Appended]) -> Appended:
    """The answer to a call that was several entries."""
    if len(answers) == 1:
        return answers[0]
    return Appended(
        answers[-1].revision,
        sum(answer.accepted for answer in answers),
        sum(answer.duplicates for answer in answers),
    )


def _erasure(account: str, user_ids: tuple[str, ...], at: Stamp) -> EraseEntry:
    return EraseEntry(account, at.arrival, user_ids, at.settled)


class Writing(Checkpoints[P]):
    """Takes data in and removes it."""

    def append(self, account: str, records: Sequence[Record], *, request_id: str = "") -> Appended:
        """Makes the records durable, then visible, in order. A `request_id` seen before is answered without
        writing anything. Many updates of users without one may become visible piece by piece.
        """
        batch = tuple(records)
        pieces = [batch]
        if len(batch) > USERS_PER_ENTRY and _may_be_split(batch, request_id):
            starts = range(0, len(batch), USERS_PER_ENTRY)
            pieces = [batch[start : start + USERS_PER_ENTRY] for start in starts]
        entries = [functools.partial(_batch, account, request_id, piece) for piece in pieces]
        return self._append(batch, request_id, *entries)

    def append_columns(self, account: str, columns: EventColumns, *, request_id: str = "") -> Appended:
        """As `append`, for events in columns."""
        return self._append(
            columns, request_id, lambda at: ImportEntry(account, at.arrival, request_id, columns, at.settled)
        )

    def append_user_columns(self, account: str, columns: UserColumns, *, request_id: str = "") -> Appended:
        """As `append`, for user updates in columns."""
        return self._append(
            columns,
            request_id,
            lambda at: UserImportEntry(account, at.arrival, request_id, columns, at.settled),
        )

    def _append(self, rows: Sized, request_id: str, *entries_at: Callable[[Stamp], BatchEntry]) -> Appended:
        self._check_room()
        if not len(rows) and not request_id:
            return Appended(self.revision(), 0, 0)
        return _together(self._writer.write_all(entries_at))

    def unknown_names(self, account: str, kind: NameKind, scope: str, names: Set[str]) -> Set[str]:
        """The names that nothing stored in the account has come with. Takes no lock."""
        space = self._state.names.known(account, _SPACES.get(kind, Space.FIELD))
        if space is None:
            return names
        numbers = space.numbers
        if kind in _SPACES:
            return {name for name in names if name not in numbers}
        return {name for name in names if _field(kind, scope, name) not in numbers}

    def name_count(self, account: str) -> int:
        """Number of names, of all kinds, that data of the account came with. Takes no lock."""
        spaces = (self._state.names.known(account, space) for space in (*_SPACES.values(), Space.FIELD))
        return sum(len(space.numbers) for space in spaces if space is not None)

    def erase(self, account: str, user_ids: Sequence[str]) -> Appended:
        """Removes the users, their aliases and all their data, from the log and the index. An alias names the
        user it stands for. `accepted` counts users that existed.

        Many users are erased piece by piece, with others' writes in between: after an error some are gone.
        Erasing again goes on. Logs nothing when all ids are unknown.
        """
        self._check_room()
        gone = self._pieces(account, user_ids)
        erased = Appended(self.revision(), 0, 0)
        if gone:
            entries = [functools.partial(_erasure, account, some) for some in gone]
            erased = _together(self._writer.write_all(entries))
        # The log contains the erased data until it is trimmed, also that of an earlier call.
        self._checkpoint_through(self._writer.left_through)
        return erased

    def _pieces(self, account: str, user_ids: Sequence[str]) -> list[tuple[str, ...]]:
        """The ids that an erasure may change something for, in pieces to be erased at once."""
        # What is not applied yet may bring users whom nobody knows.
        may_skip = not self._writer.has_unapplied(account)
        ids = self._known(account, user_ids) if may_skip else user_ids
        if len(ids) <= ERASED_PER_ENTRY:
            return [tuple(ids)] if ids else []
        # Users of a group have tables of events of their own, and share pages.
        return [
            tuple(some[start : start + ERASED_PER_ENTRY])
            for some in self._store.partitions.by_group(ids).values()
            for start in range(0, len(some), ERASED_PER_ENTRY)
        ]

    def _known(self, account: str, user_ids: Sequence[str]) -> list[str]:
        """The ids that name a user, are aliases or have aliases."""
        known: list[str] = []
        for start in range(0, len(user_ids), FOUND_AT_ONCE):
            with self._locked():
                found = self._state.find_account(account)
                if found is not None:
                    known += found.directory.known(user_ids[start : start + FOUND_AT_ONCE])
        return known

    def events_before(self, account: str, before: Micros) -> Iterator[NameSpan | None]:
        """The names of stored events before an instant, in spans of which one can be removed in the time of a
        write. A single None: all names can.
        """
        raise NotImplementedError

    def remove_events(self, account: str, before: Micros, names: NameSpan | None = None) -> int:
        """Removes events before an instant, for good: all, or those of some names. Logs no entry for all when
        there are none.
        """
        if names is None and not any(True for _ in self.events_before(account, before)):
            return self.revision()
        revision = self._writer.write(
            lambda at: ExpireEntry(account, at.arrival, before, at.settled, names)
        ).revision
        self._removals.add()
        return revision

    def forget(self, account: str, name: str) -> int:
        """Removes what is left of an account, workspace or input without users; logs nothing when there is
        nothing. The next checkpoint frees the space.
        """
        self._check_room()
        with self._locked():
            if self._state.find_account(account) is None:
                return self.revision()
        return self._writer.write(lambda at: ForgetEntry(account, at.arrival, name, at.settled)).revision

    def _check_aliases(self, account: str, from_user_id: str, to_user_id: str) -> None:
        # Not when the entry is applied: one that was logged is never refused for this.
        with self._locked():
            found = self._state.find_account(account)
            count = 0 if found is None else found.directory.aliases_with(from_user_id, to_user_id)
        if count > USER_ALIASES_MAX:
            raise LimitExceeded(
                f"{to_user_id!r} would have {count} aliases; at most {USER_ALIASES_MAX} are allowed: send "
                "the data of others under the user's own id",
                metadata={"limit": str(USER_ALIASES_MAX), "count": str(count)},
            )

    def alias(self, account: str, from_user_id: str, to_user_id: str) -> int:
        """Makes `from` an alias of `to`, or of the user that `to` is an alias of. Repeating it changes
        nothing.

        Raises FailedPrecondition: ALIAS_CYCLE, or ALREADY_ALIASED when `from` is an alias of another user;
        LimitExceeded when the user would have more than `USER_ALIASES_MAX` aliases.
        """
        self._check_room()
        self._check_aliases(account, from_user_id, to_user_id)
        answer = self._writer.write(
            lambda at: AliasEntry(account, at.arrival, from_user_id, to_user_id, at.settled)
        )
        # Otherwise a round or a checkpoint records the exit.
        if self._index_lock.acquire(blocking=False):
            try:
                self._record_exits_if_there_is_room()
            finally:
                self._index_lock.release()
        return answer.revision
