"""Who is in: single checks, batches, a user's audiences, lists and exports.

An audience that is calculated is answered from its stored membership, except for users that new data has
touched since; they, and all users of other audiences, are evaluated by the same plan that counts them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import msgspec

from engine.audiences.explain import Explainer, Explains
from engine.audiences.live import Live
from engine.audiences.model import (
    AudienceExplanation,
    BatchCheck,
    Check,
    MemberPage,
    MembershipExplanation,
    MembershipStatus,
    Target,
    UserAudiences,
    UserMemberships,
)
from engine.audiences.targets import Located, Targets
from engine.backends.base import Contains, MembershipReader, Store
from engine.backends.base import Members as AskMembers
from engine.errors import InvalidInput
from engine.limits import Limits
from engine.plan.compile import compile_audiences
from engine.plan.model import Plan
from engine.plan.passes import ALL_PASSES, Pass
from engine.resources.audiences import AudienceRecords
from engine.resources.milestone_tree import Forest
from engine.resources.names import Resource, check_name
from engine.resources.paging import decode_token, encode_token, page_by_name, page_size_of
from engine.resources.records import Account, Audience, account_of
from engine.resources.repository import Repository
from engine.values import Micros

BATCH_PAIRS_MAX = 10_000
EXPORT_PAGE_USERS = 5_000

OPTIMISED_FROM_USERS = 64
"""For fewer users, optimising a plan takes longer than it saves."""


class _Place(msgspec.Struct, frozen=True, array_like=True):
    """Where a walk through the members goes on, and the instant it is evaluated at."""

    after: str
    as_of: Micros


class Answers(msgspec.Struct, frozen=True):
    """For each user, one flag an audience; the oldest instant and revision among what they rest on."""

    flags: list[list[bool]]
    as_of: Micros
    revision: int


class Checks(Explains, MembershipReader, Store, Protocol):
    """Executes plans, and knows memberships that are stored."""


class Members:
    """Answers questions about who is in. `at_least` is a revision the data must have reached; `deadline` an
    instant of `time.monotonic()`. All raise RevisionNotReached, DeadlineExceeded, DataLoss.
    """

    def __init__(
        self,
        repository: Repository,
        forest: Forest,
        records: AudienceRecords,
        targets: Targets,
        live: Live,
        backend: Checks,
        limits: Limits,
        clock: Callable[[], Micros],
    ) -> None:
        self._repository = repository
        self._forest = forest
        self._records = records
        self._targets = targets
        self._live = live
        self._explainer = Explainer(targets, backend)
        self._backend = backend
        self._limits = limits
        self._clock = clock

    # --- checks ---------------------------------------------------------------------------------------------

    def check(
        self, audience: str, user_id: str, *, at_least: int = 0, deadline: float | None = None
    ) -> Check:
        """Whether a user is in an audience. A user never heard of is in none. Raises NotFound,
        InvalidInput.
        """
        record = self._records.get(audience, "audience")
        self._check_user_id(user_id, "user_id")
        answers = self._answers(account_of(record.name), [user_id], [record.name], at_least, deadline)
        return Check(answers.flags[0][0], answers.as_of, answers.revision)

    def batch_check(
        self,
        account: str,
        user_ids: Sequence[str],
        audiences: Sequence[str],
        *,
        at_least: int = 0,
        deadline: float | None = None,
    ) -> BatchCheck:
        """One status for each user and audience, at most `BATCH_PAIRS_MAX` of them. Raises NotFound (the
        account), InvalidInput.
        """
        check_name(account, "parent", Resource.ACCOUNT)
        self._repository.get(Account, account)
        if len(user_ids) * len(audiences) > BATCH_PAIRS_MAX:
            raise InvalidInput.one(
                "user_ids", f"at most {BATCH_PAIRS_MAX} pairs of a user and an audience are allowed"
            )
        for index, user_id in enumerate(user_ids):
            self._check_user_id(user_id, f"user_ids[{index}]")
        known = [name for name in dict.fromkeys(audiences) if self._is_audience_of(account, name)]
        answers = self._answers(account, user_ids, known, at_least, deadline)
        columns = {name: column for column, name in enumerate(known)}
        return BatchCheck(
            tuple(
                UserMemberships(user_id, tuple(_status(flags, columns.get(name)) for name in audiences))
                for user_id, flags in zip(user_ids, answers.flags, strict=True)
            ),
            answers.as_of,
            answers.revision,
        )

    def user_audiences(
        self,
        account: str,
        user_id: str,
        *,
        page_size: int = 0,
        page_token: str = "",
        at_least: int = 0,
        deadline: float | None = None,
    ) -> UserAudiences:
        """The audiences a user is in, in order of name. Raises NotFound (the account), InvalidInput."""
        check_name(account, "parent", Resource.ACCOUNT)
        self._repository.get(Account, account)
        self._check_user_id(user_id, "user_id")
        records = self._repository.scan(Audience, f"{account}/audiences/")
        names = [record.name for record in records]
        answers = self._answers(account, [user_id], names, at_least, deadline)
        page = page_by_name(
            [record for record, flag in zip(records, answers.flags[0], strict=True) if flag],
            ("list_user_audiences", account, user_id),
            page_size=page_size,
            page_token=page_token,
        )
        return UserAudiences(page.items, page.next_page_token, answers.as_of, answers.revision)

    def _answers(
        self,
        account: str,
        user_ids: Sequence[str],
        audiences: Sequence[str],
        at_least: int,
        deadline: float | None,
    ) -> Answers:
        """Stored flags where they may be answered from; one plan for all the others."""
        now, revision = self._clock(), self._backend.revision()
        as_of, is_stored = now, False
        flags: list[list[bool | None]] = [[None] * len(audiences) for _ in user_ids]
        if at_least <= revision:
            for column, audience in enumerate(audiences):
                current = self._live.current(audience)
                if current is not None:
                    as_of, is_stored = min(as_of, current.as_of), True
                    for row, flag in enumerate(self._backend.stored_contains(audience, user_ids)):
                        flags[row][column] = flag
        rows = [row for row, each in enumerate(flags) if None in each]
        columns = [c for c in range(len(audiences)) if any(flags[row][c] is None for row in rows)]
        if rows and columns:
            passes = ALL_PASSES if len(rows) >= OPTIMISED_FROM_USERS else ()
            plan = self._plan(account, [audiences[column] for column in columns], now, passes)
            ask = Contains(tuple(user_ids[row] for row in rows))
            found = self._backend.execute(plan, ask, min_revision=at_least, deadline=deadline)
            revision = revision if is_stored else found.revision
            for row, evaluated in zip(rows, found.flags, strict=True):
                for column, flag in zip(columns, evaluated, strict=True):
                    if flags[row][column] is None:
                        flags[row][column] = flag
        return Answers([[bool(flag) for flag in each] for each in flags], as_of, revision)

    def _plan(self, account: str, audiences: Sequence[str], as_of: Micros, passes: Sequence[Pass]) -> Plan:
        with self._repository.reading():
            resolver = self._forest.resolver(account)
            plan_account = self._forest.account(account)
            return compile_audiences(plan_account, audiences, as_of, resolver, passes=passes)

    def _is_audience_of(self, account: str, name: str) -> bool:
        return account_of(name) == account and self._repository.find(Audience, name) is not None

    def _check_user_id(self, user_id: str, field: str) -> None:
        if not 1 <= len(user_id.encode()) <= self._limits.name_bytes_max:
            raise InvalidInput.one(field, f"must have 1 to {self._limits.name_bytes_max} bytes")

    # --- lists ----------------------------------------------------------------------------------------------

    def list_members(
        self,
        name: str,
        *,
        page_size: int = 0,
        page_token: str = "",
        as_of: Micros | None = None,
        at_least: int = 0,
        deadline: float | None = None,
    ) -> MemberPage:
        """A page of the users of a milestone or audience. The pages of one walk are evaluated at the instant
        of its first page. Raises NotFound, InvalidInput.
        """
        located = self._targets.saved(name, "parent")
        question = ("list_members", name, as_of)
        place = _Place("", self._clock() if as_of is None else as_of)
        if page_token:
            place = decode_token(question, page_token, _Place)
        size = page_size_of(page_size)
        page = self._page(located, place, size, at_least, deadline)
        if not page.next_page_token:
            return page
        token = encode_token(question, _Place(page.next_page_token, place.as_of))
        return msgspec.structs.replace(page, next_page_token=token)

    def export(
        self,
        name: str,
        *,
        as_of: Micros | None = None,
        at_least: int = 0,
        deadline: float | None = None,
    ) -> Iterator[MemberPage]:
        """All users of a milestone or audience, in pages of one instant. There is always one page, perhaps
        empty. Raises NotFound and InvalidInput at the call, the others from the iterator.
        """
        located = self._targets.saved(name)
        instant = self._clock() if as_of is None else as_of
        return self._pages(located, instant, at_least, deadline)

    def _pages(
        self, located: Located, as_of: Micros, at_least: int, deadline: float | None
    ) -> Iterator[MemberPage]:
        place = _Place("", as_of)
        while True:
            page = self._page(located, place, EXPORT_PAGE_USERS, at_least, deadline)
            yield msgspec.structs.replace(page, next_page_token="")
            if not page.next_page_token:
                return
            place = _Place(page.next_page_token, as_of)

    def _page(
        self, located: Located, place: _Place, size: int, at_least: int, deadline: float | None
    ) -> MemberPage:
        """One page; its token is the bare `after` of the backend."""
        plan = located.compile(place.as_of, with_labels=False).plan
        ask = AskMembers(place.after, size)
        page = self._backend.execute(plan, ask, min_revision=at_least, deadline=deadline)
        return MemberPage(page.user_ids, page.next_after, place.as_of, page.revision)

    # --- explanations ---------------------------------------------------------------------------------------

    def explain_membership(
        self,
        name: str,
        user_id: str,
        *,
        as_of: Micros | None = None,
        at_least: int = 0,
        deadline: float | None = None,
    ) -> MembershipExplanation:
        """Which criteria let a user into a milestone or audience, or keep it out. Raises NotFound,
        InvalidInput.
        """
        self._check_user_id(user_id, "user_id")
        instant = self._clock() if as_of is None else as_of
        return self._explainer.membership(name, user_id, instant, at_least, deadline)

    def explain_audience(
        self,
        target: Target,
        *,
        as_of: Micros | None = None,
        at_least: int = 0,
        deadline: float | None = None,
    ) -> AudienceExplanation:
        """The compiled plan, with each step's users and time. Raises NotFound, InvalidInput,
        FailedPrecondition.
        """
        instant = self._clock() if as_of is None else as_of
        return self._explainer.audience(target, instant, at_least, deadline)


def _status(flags: Sequence[bool], column: int | None) -> MembershipStatus:
    if column is None:
        return MembershipStatus.UNKNOWN_AUDIENCE
    return MembershipStatus.MEMBER if flags[column] else MembershipStatus.NOT_MEMBER
