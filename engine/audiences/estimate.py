"""How many of a plan's users there are, as exactly as the time allows.

The same question has the same answer for as long as its account's data stand still: how large a sample is
read depends on the plan, the data and the budget, and on nothing else. It is reckoned before anything is read
(`Outlook.work`), from what the data are and not from what a clock says, so that neither a restart nor other
accounts, other questions, their budgets or the order of the criteria change it. The sample is a prefix of the
store's own order of partitions: the same users each time, and a larger sample contains every smaller one.

One thing a clock may do: where the reckoning lies near the budget and the sample was quick enough that
everything should fit, everything is read, and if it did fit, the question is answered exactly from then on
(`MeasuredTimes`).
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict
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
from engine.errors import DataLoss, DeadlineExceeded, InvalidInput, MilepostError
from engine.plan.model import Empty, Plan
from engine.values import PARTITION_COUNT

EXACT_BUDGET_DEFAULT_MS = 50
"""Without a precision, what is reckoned to take no longer is exact; for the rest the smallest sample is read.
Reckonings are about data in memory, and the same question reads the same sample also when they are not, which
takes several times as long: so the first answer after a start comes soon too.
"""

EXACT_AT_ONCE_USERS_MAX = 20_000
"""So few users are counted whatever the budget."""

LEVELS_PARTITIONS = (64, 128, 256, 512, PARTITION_COUNT)
"""Samples, each contained in the next."""

FIRST_LEVEL_PARTITIONS_MAX = 256
"""A first sample is a whole group of the backend's, if that is no more than this: sets that are kept from one
question to the next are a group's, so a part of one costs as much.
"""

RECKONING_ERROR_MAX = 2.0
"""A measured time is not believed where the reckoning says more than this many times the budget: sets that
were kept from the question before made it short, and the next write or another instant makes it long.
"""

RETRY_SECONDS = 60.0
"""After everything took too long it is not tried again for the same question for this time."""

TRIALS_REMEMBERED_MAX = 1_024

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sampled:
    """A size for each root but the last, which is the population."""

    sizes: tuple[Size, ...]
    population: int
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A plan whose last root is the journey's users, and what is known about the asking.

    `name` makes a name for the question that does not depend on its instant or on the order of its criteria,
    and is called when it is needed; `inputs` are the journey's.
    """

    plan: Plan
    inputs: tuple[str, ...]
    name: Callable[[], bytes]
    precision: Precision
    at_least: int
    deadline: float | None


class Samples(PlanExecutor, UserReader, DocumentKeeper, Protocol):
    """Executes plans over samples of users, and keeps what was measured of that."""


class Estimator:
    """Answers questions about sizes. Safe to call from several threads."""

    def __init__(self, backend: Samples, timer: Callable[[], float] = time.perf_counter) -> None:
        self._backend = backend
        self._timer = timer
        self._measured = MeasuredTimes(backend.documents)
        self._lock = threading.Lock()
        self._failed_trials: OrderedDict[bytes, float] = OrderedDict()
        first = next(
            level
            for level in LEVELS_PARTITIONS
            if level >= min(backend.smallest_sample(), FIRST_LEVEL_PARTITIONS_MAX)
        )
        self._levels = tuple(level for level in LEVELS_PARTITIONS if level >= first)

    def sizes(self, question: Question) -> Sampled:
        """The sizes of the roots, sampled or exact.

        A root whose stored data are corrupt is FAILED; the others are answered. Raises InvalidInput,
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
            # Nothing can be said from nobody.
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
        """Keeps how long an exact answer took; False when that cannot be made durable."""
        try:
            self._measured.keep(question.plan.account, question.name(), outlook.work, micros)
        except MilepostError as error:
            _log.warning("the time of an exact answer was not kept: %s", error.message)
            return False
        return True

    # --- within a time ------------------------------------------------------------------------------------

    def _largest_fitting(self, outlook: Outlook, budget: float) -> int:
        """The largest sample that is reckoned to fit a budget (microseconds). The smallest is the floor: it
        is what a budget gets that nothing fits.
        """
        fitting = [level for level in self._levels if outlook.work * level <= budget * PARTITION_COUNT]
        return max(fitting, default=self._levels[0])

    def _within(self, question: Question, outlook: Outlook, budget: float, level: int) -> Sampled:
        """Everything, if it is reckoned or known to fit a budget (microseconds), or else a sample."""
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
        """Everything, if it can be read in the time and that will be known after a restart."""
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
        with self._lock:
            return self._timer() >= self._failed_trials.get(name, -math.inf)

    def _note_failed_trial(self, name: bytes) -> None:
        with self._lock:
            self._failed_trials[name] = self._timer() + RETRY_SECONDS
            self._failed_trials.move_to_end(name)
            if len(self._failed_trials) > TRIALS_REMEMBERED_MAX:
                self._failed_trials.popitem(last=False)

    # --- as exact as asked --------------------------------------------------------------------------------

    def _until_precise(self, question: Question, outlook: Outlook, error_max: float) -> Sampled:
        """Larger and larger samples until every size is precise enough.

        The width of an interval falls with the square root of the sample, which tells the level to go to.
        Starts from the smallest sample each time, because what was enough an hour ago need not be enough now.
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
        """Every root in a plan of its own, so that what is corrupt fails by itself. All exact."""
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
    """Whether everything may take no longer than a budget (microseconds) although it is reckoned to."""
    return outlook.work <= budget * RECKONING_ERROR_MAX


def _stand_for(counts: Counts, plan: Plan, population: int) -> Sampled:
    """What the counts of a sample say about everyone. The last root is the sample's own size."""
    # Users may have come between counting everyone and reading the sample.
    population = max(population, counts.sizes[-1])
    sizes = coherent(tuple(_sizes(counts, plan, population)), plan)
    return Sampled(sizes, population, counts.revision)


def _sizes(counts: Counts, plan: Plan, population: int) -> Iterator[Size]:
    """A size for each root but the last. Of everyone and of nobody the number is known."""
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
    """A size's relative error; infinite while there is too little to estimate from."""
    return math.inf if size.state is SizeState.TOO_SMALL else relative_error(size)


def check_precision(precision: Precision) -> None:
    """Raises InvalidInput for a precision that cannot be."""
    match precision:
        case MaxRelativeError(value=value):
            if not (value > 0 and math.isfinite(value)):
                raise InvalidInput.one("max_relative_error", "must be greater than 0")
        case TimeBudget(micros=micros):
            if micros <= 0:
                raise InvalidInput.one("time_budget", "must be greater than 0")
        case _:
            return
