"""Checks: whether users are in audiences, one by one, in batches, and all audiences of one user.

A calculated audience is answered from its published membership, which takes no lock. Users that are undecided
there, and all users of other audiences, are evaluated by the same plan that counts them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, cast

import msgspec
import numpy as np

from engine.audiences.live import Live
from engine.audiences.live.definitions import DEFINING
from engine.audiences.model import BatchCheck, Check, MembershipStatus, UserAudiences
from engine.audiences.templates import Templates
from engine.backends.base import (
    MEMBER,
    NOT_MEMBER,
    UNDECIDED,
    Contains,
    Flags,
    MembershipReader,
    PlanExecutor,
    Store,
)
from engine.errors import InvalidInput
from engine.limits import Limits
from engine.plan.compile import compile_audiences
from engine.plan.model import Plan
from engine.resources.audiences import AudienceRecords
from engine.resources.milestone_tree import Forest
from engine.resources.names import Resource, check_name
from engine.resources.records import Account, Audience, Milestone, account_of, journey_of
from engine.resources.repository import Repository
from engine.values import Micros

BATCH_PAIRS_MAX = 10_000

OPTIMISED_FROM_USERS = 64
"""Below this many users, optimising a plan takes longer than it saves."""

UTF8_BYTES_MAX = 4
"""Bytes of a character, at most."""

_STATUSES = {MEMBER: MembershipStatus.MEMBER, NOT_MEMBER: MembershipStatus.NOT_MEMBER}


class ChecksUsers(PlanExecutor, MembershipReader, Store, Protocol):
    """Executes plans, and reads stored memberships."""


class _Named(NamedTuple):
    """What the name of an audience, or of its milestone, stands for."""

    audience: str
    account: str
    journey: str


class _Answers(msgspec.Struct, frozen=True):
    """A flag for each user (row) and audience (column), all of them decided; the oldest instant and revision
    of the sources used.
    """

    flags: Flags
    as_of: Micros
    revision: int


class Checks:
    """Answers checks. `at_least` is a revision the data must have reached; `deadline` an instant of
    `time.monotonic()`. All raise RevisionNotReached, DeadlineExceeded, DataLoss.
    """

    def __init__(
        self,
        repository: Repository,
        forest: Forest,
        records: AudienceRecords,
        live: Live,
        backend: ChecksUsers,
        limits: Limits,
        clock: Callable[[], Micros],
    ) -> None:
        self._repository = repository
        self._forest = forest
        self._records = records
        self._live = live
        self._templates = Templates(repository, forest)
        self._backend = backend
        self._limits = limits
        self._clock = clock
        # Read and replaced as a whole: the generation of the records, and what names stand for in it.
        self._generation = repository.generation_of(*DEFINING)
        self._names: tuple[int, dict[str, _Named]] = (self._generation.value, {})
        self._short_id = limits.name_bytes_max // UTF8_BYTES_MAX
        """Characters that no limit of bytes excludes."""

    def check(
        self,
        audience: str,
        user_id: str,
        *,
        as_of: Micros | None = None,
        at_least: int = 0,
        deadline: Callable[[], float] | None = None,
    ) -> Check:
        """Whether a user is in an audience, or that of a milestone. An unknown user is in none. Without
        `as_of` stored memberships count, at their own instant. `deadline` is only asked for when the user has
        to be evaluated. Raises NotFound, InvalidInput.
        """
        name, account, journey = self._named(audience)
        if not 0 < len(user_id) <= self._short_id:
            self._check_user_id(user_id, "user_id")
        revision = self._backend.revision()
        if as_of is not None:
            now = as_of
        else:
            now = self._clock()
            if at_least <= revision:
                # Every write up to `revision` is in what is published now, or its users are undecided.
                usable = self._live.usable_one(account, journey, name, now)
                if usable is not None:
                    member = usable.published.contains(name, user_id)
                    if member is not None:
                        return Check(member, min(now, usable.as_of), revision)
        plan = self._plan(account, (name,), now, users=1)
        found = self._backend.execute(
            plan,
            Contains((user_id,)),
            min_revision=at_least,
            deadline=None if deadline is None else deadline(),
        )
        return Check(found.flags[0][0], now, found.revision)

    def _named(self, audience: str) -> _Named:
        """What a name stands for. Raises NotFound, InvalidInput."""
        generation, names = self._names
        latest = self._generation.value
        if generation == latest:
            named = names.get(audience)
            if named is not None:
                return named
        is_settled = self._generation.is_settled
        record = self._records.of(audience, "audience")
        named = _Named(record.name, account_of(record.name), journey_of(record.milestone))
        if is_settled and self._generation.value == latest:
            if generation != latest:
                self._names = latest, names = latest, {}
            names[audience] = named
        return named

    def batch_check(
        self,
        account: str,
        user_ids: Sequence[str],
        audiences: Sequence[str],
        *,
        as_of: Micros | None = None,
        at_least: int = 0,
        deadline: float | None = None,
    ) -> BatchCheck:
        """One status for each user and audience (or milestone), at most `BATCH_PAIRS_MAX` of them; see
        `check`. Raises NotFound (the account), InvalidInput.
        """
        check_name(account, "parent", Resource.ACCOUNT)
        self._repository.get(Account, account)
        if len(user_ids) * len(audiences) > BATCH_PAIRS_MAX:
            raise InvalidInput.one(
                "user_ids", f"at most {BATCH_PAIRS_MAX} pairs of a user and an audience are allowed"
            )
        self._check_user_ids(user_ids, "user_ids")
        asked = [self._audience_of(account, name) for name in audiences]
        known = [name for name in dict.fromkeys(asked) if name is not None]
        answers = self._answers(account, user_ids, known, as_of, at_least, deadline)
        columns = {name: column for column, name in enumerate(known)}
        places = [None if name is None else columns[name] for name in asked]
        return batch_of(answers.flags, user_ids, places, answers.as_of, answers.revision)

    def user_audiences(
        self,
        account: str,
        user_id: str,
        *,
        page_size: int = 0,
        page_token: str = "",
        as_of: Micros | None = None,
        at_least: int = 0,
        deadline: float | None = None,
    ) -> UserAudiences:
        """The audiences a user is in, in order of name. Raises NotFound (the account), InvalidInput."""
        check_name(account, "parent", Resource.ACCOUNT)
        self._repository.get(Account, account)
        self._check_user_id(user_id, "user_id")
        records = self._repository.scan(Audience, f"{account}/audiences/")
        names = [record.name for record in records]
        answers = self._answers(account, [user_id], names, as_of, at_least, deadline)
        page = self._repository.pages.by_name(
            [records[column] for column in np.flatnonzero(answers.flags[0] == MEMBER).tolist()],
            ("list_user_audiences", account, user_id, as_of),
            page_size=page_size,
            page_token=page_token,
        )
        return UserAudiences(page.items, page.next_page_token, answers.as_of, answers.revision)

    # --- answering ------------------------------------------------------------------------------------------

    def _answers(
        self,
        account: str,
        user_ids: Sequence[str],
        audiences: Sequence[str],
        asked_as_of: Micros | None,
        at_least: int,
        deadline: float | None,
    ) -> _Answers:
        """For each user either all published flags, or all of one plan: of both, one could be from before a
        write and the other from after it. With an instant given, one plan for all, at that instant.
        """
        now, revision = self._clock() if asked_as_of is None else asked_as_of, self._backend.revision()
        if not audiences:
            return _Answers(np.empty((len(user_ids), 0), np.int8), now, revision)
        as_of = now
        flags: Flags = np.full((len(user_ids), len(audiences)), UNDECIDED, np.int8)
        if asked_as_of is None and at_least <= revision:
            usable = self._live.usable(account, audiences, now)
            if len(usable.as_of) == len(audiences):
                flags = usable.published.contains_many(audiences, user_ids)
                as_of = min(now, *usable.as_of.values())
        rows = np.flatnonzero((flags == UNDECIDED).any(axis=1)).tolist()
        if rows:
            plan = self._plan(account, audiences, now, users=len(rows))
            ask = Contains(tuple(user_ids[row] for row in rows))
            found = self._backend.execute(plan, ask, min_revision=at_least, deadline=deadline)
            flags[rows] = np.where(np.array(found.flags, np.bool_), np.int8(MEMBER), np.int8(NOT_MEMBER))
            if len(rows) == len(user_ids):
                # Nothing is older than this plan.
                return _Answers(flags, now, found.revision)
        return _Answers(flags, as_of, revision)

    def _plan(self, account: str, audiences: Sequence[str], as_of: Micros, *, users: int) -> Plan:
        """A plan to evaluate some users by."""
        if users < OPTIMISED_FROM_USERS:
            return self._templates.of(account, audiences).at(as_of)
        with self._repository.reading():
            resolver = self._forest.resolver(account)
            return compile_audiences(self._forest.account(account), audiences, as_of, resolver)

    def _audience_of(self, account: str, name: str) -> str | None:
        """The audience with that name, or of the milestone with that name; None when the account has none."""
        if account_of(name) != account:
            return None
        milestone = self._repository.find(Milestone, name)
        if milestone is not None:
            return milestone.audience
        return None if self._repository.find(Audience, name) is None else name

    def _check_user_id(self, user_id: str, field: str) -> None:
        """Raises InvalidInput for an id of the wrong size."""
        if not 1 <= len(user_id.encode()) <= self._limits.name_bytes_max:
            raise InvalidInput.one(field, f"must have 1 to {self._limits.name_bytes_max} bytes")

    def _check_user_ids(self, user_ids: Sequence[str], field: str) -> None:
        """As `_check_user_id`, for a repeated field; faster than one by one."""
        sizes = [*map(len, user_ids)]
        if sizes and not 0 < min(sizes) <= max(sizes) <= self._short_id:
            for index, user_id in enumerate(user_ids):
                self._check_user_id(user_id, f"{field}[{index}]")


def batch_of(
    flags: Flags, user_ids: Sequence[str], places: Sequence[int | None], as_of: Micros, revision: int
) -> BatchCheck:
    """The answer that decided flags mean. `places` has for each requested audience its column, None for one
    that does not exist.
    """
    rows, patterns = _patterns(flags)
    statuses = tuple(tuple(_status(pattern, place) for place in places) for pattern in patterns)
    return BatchCheck(tuple(user_ids), rows, statuses, as_of, revision)


def _patterns(flags: Flags) -> tuple[list[int], list[list[int]]]:
    """The distinct rows of flags, and for each row which of them it is."""
    users, audiences = flags.shape
    if not audiences:
        return [0] * users, [[]]
    rows = cast(list[bytes], flags.view(np.dtype((np.void, audiences))).ravel().tolist())
    numbers = {row: number for number, row in enumerate(dict.fromkeys(rows))}
    return [*map(numbers.__getitem__, rows)], [np.frombuffer(row, np.int8).tolist() for row in numbers]


def _status(flags: Sequence[int], column: int | None) -> MembershipStatus:
    return MembershipStatus.UNKNOWN_AUDIENCE if column is None else _STATUSES[flags[column]]
