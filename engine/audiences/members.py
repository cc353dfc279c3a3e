"""Membership answers: checks, lists, exports and explanations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import msgspec

from engine.audiences.checks import Checks
from engine.audiences.explain import Explainer
from engine.audiences.live import Live
from engine.audiences.member_tokens import MemberTokens, Place
from engine.audiences.model import AudienceExplanation, MemberPage, MembershipExplanation, Target
from engine.audiences.observed import ObservesUsers
from engine.audiences.targets import Located, Targets
from engine.backends.base import Members as AskMembers
from engine.backends.base import MembershipReader, Store
from engine.limits import Limits
from engine.resources.audiences import AudienceRecords
from engine.resources.milestone_tree import Forest
from engine.resources.paging import page_size_of
from engine.resources.repository import Repository
from engine.values import Micros

EXPORT_PAGE_USERS = 5_000


class ReadsMembers(ObservesUsers, MembershipReader, Store, Protocol):
    """Executes plans, and reads stored memberships."""


class Members(Checks):
    """Answers membership questions. `at_least` is a revision the data must have reached; `deadline` an
    instant of `time.monotonic()`. All raise RevisionNotReached, DeadlineExceeded, DataLoss.
    """

    def __init__(
        self,
        repository: Repository,
        forest: Forest,
        records: AudienceRecords,
        targets: Targets,
        live: Live,
        backend: ReadsMembers,
        limits: Limits,
        clock: Callable[[], Micros],
    ) -> None:
        super().__init__(repository, forest, records, live, backend, limits, clock)
        self._targets = targets
        self._tokens = MemberTokens(repository.pages)
        self._explainer = Explainer(targets, backend)

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
        """A page of the users of a milestone or audience. All pages of one walk are evaluated at the instant
        of its first page. Raises NotFound, InvalidInput.
        """
        located = self._targets.saved(name, "parent")
        place = Place("", self._clock() if as_of is None else as_of)
        if page_token:
            place = self._tokens.place(name, as_of, page_token)
        size = page_size_of(page_size)
        page = self._page(located, place, size, at_least, deadline)
        token = self._tokens.token(name, as_of, Place(page.next_page_token, place.as_of))
        return msgspec.structs.replace(page, next_page_token=token)

    def export(
        self,
        name: str,
        *,
        as_of: Micros | None = None,
        at_least: int = 0,
        deadline: float | None = None,
    ) -> Iterator[MemberPage]:
        """All users of a milestone or audience, in pages evaluated at one instant; at least one page, which
        may be empty. Raises NotFound and InvalidInput at the call, the others from the iterator.
        """
        located = self._targets.saved(name)
        instant = self._clock() if as_of is None else as_of
        return self._pages(located, instant, at_least, deadline)

    def _pages(
        self, located: Located, as_of: Micros, at_least: int, deadline: float | None
    ) -> Iterator[MemberPage]:
        place = Place("", as_of)
        while True:
            page = self._page(located, place, EXPORT_PAGE_USERS, at_least, deadline)
            yield msgspec.structs.replace(page, next_page_token="")
            if not page.next_page_token:
                return
            place = Place(page.next_page_token, as_of)

    def _page(
        self, located: Located, place: Place, size: int, at_least: int, deadline: float | None
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
        """The criteria that admit a user to a milestone or audience, or exclude it. Raises NotFound,
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
