"""Sizes: estimates, counts, comparisons, funnels, the size an audience shows and its history."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from engine.audiences.estimate import Estimator, Question, Sampled, Samples, check_precision
from engine.audiences.funnel import Funnels
from engine.audiences.history import SizeHistory
from engine.audiences.live import Live
from engine.audiences.model import (
    Comparison,
    Count,
    Default,
    Estimate,
    Funnel,
    Intersection,
    LabelledSize,
    Precision,
    PreviewMilestone,
    SavedTarget,
    ShownSize,
    Size,
    SizeInterval,
    SizeKind,
    SizePoint,
    SizeState,
    Target,
)
from engine.audiences.outlooks import Outlooks
from engine.audiences.sampling import exact_size, failed_size
from engine.audiences.targets import Located, Targets
from engine.backends.base import Count as AskCount
from engine.backends.base import MembershipReader, Store
from engine.criteria.warnings import siblings_take_everyone
from engine.criteria.zones import load_zone
from engine.errors import InvalidInput
from engine.plan.compile import compile_intersections
from engine.plan.model import Plan
from engine.resources.audiences import AudienceRecords
from engine.resources.milestone_tree import Forest
from engine.resources.paging import Page, Pages
from engine.resources.records import account_of
from engine.values import MICROS_PER_SECOND, Micros

COMPARED_MIN = 2
COMPARED_MAX = 5


class Stopwatch:
    """Measures an answer's `elapsed`."""

    def __init__(self) -> None:
        self._begun = time.perf_counter()

    def elapsed(self) -> Micros:
        """Microseconds since creation."""
        return round((time.perf_counter() - self._begun) * MICROS_PER_SECOND)


class Sized(Samples, MembershipReader, Store, Protocol):
    """Executes plans over samples or over everyone, and reads stored sizes."""


class Sizes:
    """Answers questions about sizes. `as_of` None = now; `at_least` is a revision the data must have
    reached; `deadline` an instant of `time.monotonic()`.
    """

    def __init__(
        self,
        backend: Sized,
        forest: Forest,
        records: AudienceRecords,
        targets: Targets,
        live: Live,
        history: SizeHistory,
        funnels: Funnels,
        pages: Pages,
        clock: Callable[[], Micros],
    ) -> None:
        self._backend = backend
        self._forest = forest
        self._records = records
        self._targets = targets
        self._live = live
        self._history = history
        self._funnels = funnels
        self._pages = pages
        self._estimator = Estimator(backend)
        self.outlooks = Outlooks(targets, backend)
        """Of the estimates that are asked for."""
        self._clock = clock

    def forget_account(self, account: str) -> None:
        """Forgets a deleted account."""
        self._estimator.forget_account(account)

    def estimate(
        self,
        target: Target,
        *,
        precision: Precision | None = None,
        as_of: Micros | None = None,
        at_least: int = 0,
        deadline: float | None = None,
    ) -> Estimate:
        """The size of a milestone, saved or draft, and of each labelled criterion alone.

        Raises NotFound, InvalidInput, FailedPrecondition, RevisionNotReached, DeadlineExceeded.
        """
        watch = Stopwatch()
        precision = precision or Default()
        check_precision(precision)
        located = self._targets.locate(target, deadline)
        if as_of is None and isinstance(target, SavedTarget):
            self._note_asked(target.name, located.id)
        warnings = self._targets.warnings(located)
        instant = self._clock() if as_of is None else as_of

        def sampled_of(asked: Target, place: Located, plan: Plan) -> Sampled:
            return self._estimator.sizes(
                Question(
                    plan=plan,
                    inputs=place.tree.inputs,
                    name=lambda: self._targets.question_name(asked, place),
                    precision=precision,
                    at_least=at_least,
                    deadline=deadline,
                )
            )

        def users_above() -> int:
            if milestone.parent is None:
                return sampled.population
            above = self._targets.saved(milestone.parent)
            plan = above.compile(instant).plan
            return sampled_of(SavedTarget(milestone.parent), above, plan).sizes[0].users

        compiled = located.compile(instant)
        sampled = sampled_of(target, located, compiled.plan)
        milestone = located.milestone
        before = [sibling.id for sibling in located.tree.before(milestone)]
        if before and milestone.criterion and sampled.sizes[1] == exact_size(0) and users_above():
            warnings = (*warnings, siblings_take_everyone(located.criteria_field, before))
        return Estimate(
            size=sampled.sizes[0],
            labelled=tuple(
                LabelledSize(label.label, label.path, sampled.sizes[label.root]) for label in compiled.labels
            ),
            population=sampled.population,
            draw=sampled.sizes[1],
            as_of=instant,
            revision=sampled.revision,
            elapsed=watch.elapsed(),
            warnings=warnings,
        )

    def _note_asked(self, name: str, milestone: str) -> None:
        if self._live.calculated(self._records.of(name).name):
            self.outlooks.asked(milestone)

    def count(
        self,
        name: str,
        *,
        as_of: Micros | None = None,
        at_least: int = 0,
        deadline: float | None = None,
    ) -> Count:
        """The exact size of a milestone or audience. Raises NotFound, RevisionNotReached, DeadlineExceeded,
        DataLoss.
        """
        watch = Stopwatch()
        instant = self._clock() if as_of is None else as_of
        plan = self._targets.saved(name).compile(instant, with_labels=False).plan
        counts = self._backend.execute(plan, AskCount(), min_revision=at_least, deadline=deadline)
        return Count(
            users=counts.sizes[0],
            population=counts.sizes[-1],
            as_of=instant,
            revision=counts.revision,
            elapsed=watch.elapsed(),
        )

    def compare(
        self,
        names: Sequence[str],
        *,
        as_of: Micros | None = None,
        at_least: int = 0,
        deadline: float | None = None,
    ) -> Comparison:
        """The exact size of every intersection of 2-5 audiences of one account. Raises NotFound,
        InvalidInput, RevisionNotReached, DeadlineExceeded, DataLoss.
        """
        watch = Stopwatch()
        if not COMPARED_MIN <= len(names) <= COMPARED_MAX:
            raise InvalidInput.one(
                "audiences",
                f"must name {COMPARED_MIN} to {COMPARED_MAX} different audiences, not {len(names)}",
            )
        audiences = [self._records.of(name, f"audiences[{i}]").name for i, name in enumerate(names)]
        if len(set(audiences)) < len(audiences):
            raise InvalidInput.one("audiences", "names an audience twice")
        accounts = {account_of(name) for name in audiences}
        if len(accounts) > 1:
            raise InvalidInput.one("audiences", "must be of one account")
        instant = self._clock() if as_of is None else as_of
        account = accounts.pop()
        compiled = compile_intersections(
            self._forest.account(account), audiences, instant, self._forest.resolver(account)
        )
        counts = self._backend.execute(compiled.plan, AskCount(), min_revision=at_least, deadline=deadline)
        return Comparison(
            intersections=tuple(
                Intersection(tuple(audiences[index] for index in subset), users)
                for subset, users in zip(compiled.subsets, counts.sizes, strict=True)
            ),
            as_of=instant,
            revision=counts.revision,
            elapsed=watch.elapsed(),
        )

    def funnel(
        self,
        journey: str,
        *,
        as_of: Micros | None = None,
        at_least: int = 0,
        deadline: float | None = None,
    ) -> Funnel:
        """Each milestone's exact size and share of its parent. Raises NotFound, RevisionNotReached,
        DeadlineExceeded, DataLoss.
        """
        watch = Stopwatch()
        instant = self._clock() if as_of is None else as_of
        funnel = self._funnels.of_journey(journey, instant, at_least, deadline)
        return msgspec.structs.replace(funnel, elapsed=watch.elapsed())

    def preview(
        self,
        account: str,
        inputs: Sequence[str],
        milestones: Sequence[PreviewMilestone],
        *,
        as_of: Micros | None = None,
        at_least: int = 0,
        deadline: float | None = None,
    ) -> Funnel:
        """The funnel of an unsaved journey. Raises NotFound, InvalidInput, FailedPrecondition,
        RevisionNotReached, DeadlineExceeded, DataLoss.
        """
        watch = Stopwatch()
        instant = self._clock() if as_of is None else as_of
        funnel = self._funnels.of_preview(account, inputs, milestones, instant, at_least, deadline)
        return msgspec.structs.replace(funnel, elapsed=watch.elapsed())

    def shown(self, audience: str, *, deadline: float | None = None) -> ShownSize:
        """The size that an audience shows: an estimate until its membership is needed, then the real size
        once that is calculated. Raises NotFound, DeadlineExceeded.
        """
        record = self._records.get(audience)
        if not self._live.calculated(record.name):
            estimate = self.estimate(SavedTarget(record.name), deadline=deadline)
            return ShownSize(
                kind=SizeKind.ESTIMATE,
                size=estimate.size,
                population=estimate.population,
                as_of=estimate.as_of,
                revision=estimate.revision,
            )
        located = self._targets.saved(record.name)
        population = self._backend.universe_size(located.account.name, located.tree.inputs)
        current, failure = self._live.current(record.name), self._live.failure(record.name)
        if current is None or failure:
            return ShownSize(
                kind=SizeKind.CALCULATING,
                size=failed_size(failure) if failure else Size(state=SizeState.PENDING),
                population=population,
                as_of=self._clock(),
                revision=self._backend.revision(),
                progress=self._live.progress(record.name),
            )
        added, dropped = self._history.last_day(record.name, current.membership, self._clock())
        return ShownSize(
            kind=SizeKind.REAL,
            size=exact_size(current.membership.size),
            population=population,
            as_of=current.as_of,
            revision=current.membership.revision,
            added_last_day=added,
            dropped_last_day=dropped,
        )

    def history(
        self,
        audience: str,
        interval: SizeInterval = SizeInterval.DAY,
        *,
        page_size: int = 0,
        page_token: str = "",
    ) -> Page[SizePoint]:
        """History of a calculated audience's size, by hour (UTC) or day (of the account), latest first.
        Raises NotFound, InvalidInput.
        """
        record = self._records.get(audience, "parent")
        zone = load_zone(self._forest.account(account_of(record.name)).time_zone)
        points = self._history.points(
            record.name, interval, self._backend.membership(record.name), self._clock(), zone
        )
        return self._pages.of(
            points,
            lambda point: (point.start,),
            ("list_audience_sizes", audience, interval.value),
            page_size=page_size,
            page_token=page_token,
            descending=True,
        )
