"""Estimates how many users a plan selects, as exactly as the time allows.

The same question has the same answer while the account's data stand still: the sample size depends on the
plan, the data and the budget only. It is computed from a cost estimate (`Outlook.work`) before anything is
read, not from a clock. Restarts, other accounts, other questions and their budgets, and the order of the
criteria do not change it. The sample is a prefix of the store's own partition order: the same users each
time, and a larger sample contains every smaller one.

A clock decides one case: when the estimate is near the budget and the sample was fast enough, everything is
read. If that fits the budget, the question is answered exactly from then on (`MeasuredTimes`).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import msgspec

from engine.audiences.measured import MeasuredTimes
from engine.audiences.model import Exact, MaxRelativeError, Precision, Size, SizeState, TimeBudget
from engine.audiences.sampling import (
    coherent,
    design_effects,
    estimated_size,
    exact_size,
    failed_size,
    relative_error,
)
from engine.backends.base import Count, Counts, DocumentKeeper, Outlook, PlanExecutor, UserReader
from engine.bounded_cache import BoundedCache
from engine.errors import DataLoss, DeadlineExceeded, InvalidInput, MilepostError
from engine.plan.model import Empty, Plan
from engine.values import PARTITION_COUNT

EXACT_BUDGET_DEFAULT_MS = 50
"""Without a precision, a question with at most this estimated time is answered exactly; any other reads the
smallest sample. Estimates assume data in memory. A cold read of the same sample takes several times as long,
so a low limit keeps the first answer after a start fast.
"""

EXACT_AT_ONCE_USERS_MAX = 20_000
"""Up to this many users are counted exactly, whatever the budget."""

LEVELS_PARTITIONS = (64, 128, 256, 512, PARTITION_COUNT)
"""Sample sizes; each sample is contained in the next."""

FIRST_LEVEL_PARTITIONS_MAX = 256
"""The first sample is a whole group of the backend when that has at most this many partitions: cached sets
cover a group, so reading part of one costs as much.
"""

RECKONING_ERROR_MAX = 2.0
"""A measured time is ignored when the estimate exceeds the budget by more than this factor: sets cached by an
earlier question made it short, and the next write or instant makes it long again.
"""

RETRY_SECONDS = 60.0
"""Delay before a question that exceeded its budget is counted exactly again."""

TRIAL_CACHE_BYTES_MAX = 512 << 10
"""Questions that exceeded their budget, in bytes of memory."""
TRIAL_BYTES = 300
"""Memory of one, with its name."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sampled:
    """A size for each root but the last, which is the population."""

    sizes: tuple[Size, ...]
    population: int
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A plan whose last root is the journey's users, with what is known about the question.

    `name` returns a name for the question that depends neither on its instant nor on the order of its
    criteria; it is called only when needed. `inputs` are the journey's.
    """

    plan: Plan
    inputs: tuple[str, ...]
    name: Callable[[], bytes]
    precision: Precision
    at_least: int
    deadline: float | None


class Samples(PlanExecutor, UserReader, DocumentKeeper, Protocol):
    """Executes plans over samples of users, and stores measured times."""


class Estimator:
    """Estimates sizes. Safe to call from several threads."""

    def __init__(self, backend: Samples, timer: Callable[[], float] = time.perf_counter) -> None:
        self._backend = backend
        self._timer = timer
        self._measured = MeasuredTimes(backend.documents)
        self._failed_trials: BoundedCache[bytes, float] = BoundedCache("trials", TRIAL_CACHE_BYTES_MAX)
        first = next(
            level
            for level in LEVELS_PARTITIONS
            if level >= min(backend.smallest_sample(), FIRST_LEVEL_PARTITIONS_MAX)
        )
        self._levels = tuple(level for level in LEVELS_PARTITIONS if level >= first)

    def sizes(self, question: Question) -> Sampled:
        """The sizes of the roots, sampled or exact.

        A root that reads corrupt data is FAILED; the others are answered. Raises InvalidInput,
        RevisionNotReached, DeadlineExceeded, and DataLoss when not even the population can be counted.
        """
        check_precision(question.precision)
        try:
            outlook = self._backend.outlook(
                question.plan, question.inputs, min_revision=question.at_least, deadline=question.deadline
            )
            return self._answer(question, outlook)
        except DataLoss:
            return self._root_by_root(question)

    def forget_account(self, account: str) -> None:
        """Forgets a deleted account."""
        self._measured.forget(account)

    def _answer(self, question: Question, outlook: Outlook) -> Sampled:
        if outlook.users <= EXACT_AT_ONCE_USERS_MAX:
            return self._everything(question)
        match question.precision:
            case Exact():
                return self._whatever_it_takes(question, outlook)
            case MaxRelativeError(value=error_max):
                return self._until_precise(question, outlook, error_max)
            case TimeBudget(micros=micros):
                return self._within(question, outlook, micros, self._largest_fitting(outlook, micros))
            case _:
                budget = EXACT_BUDGET_DEFAULT_MS * 1_000
                return self._within(question, outlook, budget, self._levels[0])

    def _everything(self, question: Question, deadline: float | None = None) -> Sampled:
        counts = self._read(question, PARTITION_COUNT, deadline)
        *sizes, population = counts.sizes
        return Sampled(tuple(map(exact_size, sizes)), population, counts.revision)

    def _sample(self, question: Question, outlook: Outlook, level: int) -> Sampled:
        counts = self._read(question, level)
        if not counts.sizes[-1]:
            # An empty sample supports no estimate.
            return self._everything(question)
        return _stand_for(counts, question.plan, outlook.users)

    # --- exact --------------------------------------------------------------------------------------------

    def _whatever_it_takes(self, question: Question, outlook: Outlook) -> Sampled:
        begun = self._timer()
        answer = self._everything(question)
        micros = (self._timer() - begun) * 1e6
        budget = EXACT_BUDGET_DEFAULT_MS * 1_000
        if micros <= budget < outlook.work and _may_fit(outlook, budget):
            self._keep(question, outlook, micros)
        return answer

    def _keep(self, question: Question, outlook: Outlook, micros: float) -> bool:
        """Stores the time of an exact answer; False when that cannot be made durable."""
        try:
            self._measured.keep(question.plan.account, question.name(), outlook.work, micros)
        except MilepostError as error:
            _log.warning("the time of an exact answer was not kept: %s", error.message)
            return False
        return True

    # --- within a budget ----------------------------------------------------------------------------------

    def _largest_fitting(self, outlook: Outlook, budget: float) -> int:
        """The largest sample whose estimated time fits a budget (microseconds), or else the smallest."""
        fitting = [level for level in self._levels if outlook.work * level <= budget * PARTITION_COUNT]
        return max(fitting, default=self._levels[0])

    def _within(self, question: Question, outlook: Outlook, budget: float, level: int) -> Sampled:
        """Everything if its estimated or measured time fits a budget (microseconds), otherwise a sample."""
        if outlook.work <= budget:
            return self._everything(question)
        if not _may_fit(outlook, budget):
            return self._sample(question, outlook, level)
        known = self._measured.find(question.plan.account, question.name, outlook.work)
        if known is not None and known <= budget:
            return self._everything(question)
        begun = self._timer()
        answer = self._sample(question, outlook, level)
        spent = (self._timer() - begun) * 1e6
        if spent + spent * PARTITION_COUNT / level <= budget and self._may_try(question.name()):
            return self._tried(question, outlook, budget - spent) or answer
        return answer

    def _tried(self, question: Question, outlook: Outlook, budget: float) -> Sampled | None:
        """Everything, read within the budget (microseconds). None when the reading takes longer, or when its
        time cannot be stored: after a restart the answer would be a sample again.
        """
        latest = time.monotonic() + budget / 1e6
        begun = self._timer()
        try:
            answer = self._everything(
                question, latest if question.deadline is None else min(latest, question.deadline)
            )
        except DeadlineExceeded:
            micros = math.inf
        else:
            micros = (self._timer() - begun) * 1e6
        if micros > budget:
            self._note_failed_trial(question.name())
            return None
        return answer if self._keep(question, outlook, micros) else None

    def _may_try(self, name: bytes) -> bool:
        again = self._failed_trials.get(name)
        return again is None or self._timer() >= again

    def _note_failed_trial(self, name: bytes) -> None:
        self._failed_trials.put(name, self._timer() + RETRY_SECONDS, TRIAL_BYTES)

    # --- to a precision -----------------------------------------------------------------------------------

    def _until_precise(self, question: Question, outlook: Outlook, error_max: float) -> Sampled:
        """Larger and larger samples until every size is precise enough.

        The width of an interval falls with the square root of the sample size, which gives the next size to
        try. Every call starts from the smallest sample: a size that was enough an hour ago may not be enough
        now.
        """
        level = self._levels[0]
        while level < PARTITION_COUNT:
            answer = self._sample(question, outlook, level)
            error = max(map(_error, answer.sizes))
            if error <= error_max:
                return answer
            needed = PARTITION_COUNT if math.isinf(error) else level * (error / error_max) ** 2
            level = next(
                (larger for larger in self._levels if larger > level and larger >= needed), PARTITION_COUNT
            )
        return self._everything(question)

    # --- reading ------------------------------------------------------------------------------------------

    def _read(self, question: Question, partition_count: int, deadline: float | None = None) -> Counts:
        everything = partition_count == PARTITION_COUNT
        return self._backend.execute(
            question.plan,
            Count(),
            partitions=None if everything else self._backend.sample_partitions(partition_count),
            min_revision=question.at_least,
            deadline=question.deadline if deadline is None else deadline,
        )

    def _root_by_root(self, question: Question) -> Sampled:
        """Executes each root as its own plan, so that corrupt data fails only the roots that read it. All
        exact.
        """
        *asked, universe = question.plan.roots
        plan = msgspec.structs.replace(question.plan, roots=(universe,))
        population = self._count_alone(question, plan)
        sizes = []
        for root in asked:
            plan = msgspec.structs.replace(question.plan, roots=(root,))
            try:
                sizes.append(exact_size(self._count_alone(question, plan).sizes[0]))
            except DataLoss as error:
                sizes.append(failed_size(error.message))
        return Sampled(tuple(sizes), population.sizes[0], population.revision)

    def _count_alone(self, question: Question, plan: Plan) -> Counts:
        return self._backend.execute(
            plan, Count(), min_revision=question.at_least, deadline=question.deadline
        )


def _may_fit(outlook: Outlook, budget: float) -> bool:
    """Whether everything may fit a budget (microseconds) that its estimated time exceeds."""
    return outlook.work <= budget * RECKONING_ERROR_MAX


def _stand_for(counts: Counts, plan: Plan, population: int) -> Sampled:
    """Sizes estimated from the counts of a sample. The last root is the sample's own size."""
    # Users may arrive between counting everyone and reading the sample.
    population = max(population, counts.sizes[-1])
    sizes = coherent(tuple(_sizes(counts, plan, population)), plan)
    return Sampled(sizes, population, counts.revision)


def _sizes(counts: Counts, plan: Plan, population: int) -> Iterator[Size]:
    """A size for each root but the last. The sizes of everyone and of the empty set are exact."""
    *hits, sampled = counts.sizes
    *roots, universe = plan.roots
    effects = design_effects(counts.blocks, len(roots))
    for root, found, design_effect in zip(roots, hits, effects, strict=True):
        if root == universe:
            yield exact_size(population)
        elif isinstance(plan.steps[root], Empty):
            yield exact_size(0)
        else:
            yield estimated_size(found, sampled, population, design_effect)


def _error(size: Size) -> float:
    """A size's relative error; infinite when the sample is too small to estimate from."""
    return math.inf if size.state is SizeState.TOO_SMALL else relative_error(size)


def counts_everyone(precision: Precision, outlook: Outlook) -> bool:
    """Whether a question is answered exactly whatever a clock says: its answer is the size itself."""
    match precision:
        case Exact():
            return True
        case MaxRelativeError():
            return outlook.users <= EXACT_AT_ONCE_USERS_MAX
        case TimeBudget(micros=micros):
            budget = micros
        case _:
            budget = EXACT_BUDGET_DEFAULT_MS * 1_000
    return outlook.users <= EXACT_AT_ONCE_USERS_MAX or outlook.work <= budget


def check_precision(precision: Precision) -> None:
    """Raises InvalidInput for a precision that is out of range."""
    match precision:
        case MaxRelativeError(value=value):
            if not (value > 0 and math.isfinite(value)):
                raise InvalidInput.one("max_relative_error", "must be greater than 0")
        case TimeBudget(micros=micros):
            if micros <= 0:
                raise InvalidInput.one("time_budget", "must be greater than 0")
        case _:
            return
