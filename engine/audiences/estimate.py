"""How many of a plan's users there are, as exactly as the time allows.

The sample is a prefix of the backend's fixed order of partitions, so that the same users are read each time
and a larger sample contains every smaller one. The first sample's own cost tells what the larger ones would
cost. What was decided for a question is remembered for as long as the data stay the same, so that asking
again does not answer from another sample.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from engine.audiences.model import Exact, MaxRelativeError, Precision, Size, SizeState, TimeBudget
from engine.audiences.sampling import estimated_size, exact_size, failed_size, relative_error
from engine.backend import Backend, Count, Counts
from engine.errors import DataLoss, DeadlineExceeded, InvalidInput
from engine.plan.model import Plan, Step
from engine.values import PARTITION_COUNT

EXACT_BUDGET_DEFAULT_MS = 50
"""Without a wish of the caller's an estimate is exact when that fits in this time."""

EXACT_AT_ONCE_USERS_MAX = 20_000
"""So few users are counted without taking a sample first."""

LEVELS_PARTITIONS = (64, 128, 256, 512, PARTITION_COUNT)
"""Samples, each contained in the next."""

FIRST_LEVEL_PARTITIONS_MAX = 256
"""A first sample is a whole group of the backend's, if that is no more than this: sets that are kept from one
question to the next are a group's, so a part of one costs as much.
"""

GIVEN_UP_SECONDS = 60.0
"""After a larger sample took too long none is tried for questions of the same shape for so long: what it
reads may not be in memory, which the cost of a smaller sample does not tell.
"""

DECISIONS_REMEMBERED_MAX = 1_024


_Shape: TypeAlias = tuple[str, tuple[type[Step], ...]]
"""An account, and the kinds of a plan's steps: what stays when an operand or the instant is another."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """A size for each root but the last, which is the population."""

    sizes: tuple[Size, ...]
    population: int
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A plan whose last root is the journey's users, and what is known about the asking.

    `key` names the question whatever its instant; `inputs` are the journey's; `spent` are the seconds that
    its compilation has taken of a time budget.
    """

    plan: Plan
    inputs: tuple[str, ...]
    key: bytes
    precision: Precision
    at_least: int
    deadline: float | None
    spent: float = 0.0


class Estimator:
    """Answers questions about sizes. Safe to call from several threads."""

    def __init__(self, backend: Backend, timer: Callable[[], float] = time.perf_counter) -> None:
        self._backend = backend
        self._timer = timer
        self._lock = threading.Lock()
        self._decided: OrderedDict[tuple[bytes, int], int] = OrderedDict()
        self._given_up: OrderedDict[_Shape, tuple[int, float]] = OrderedDict()
        group = PARTITION_COUNT // backend.capabilities().groups
        self._first_level = next(
            level for level in LEVELS_PARTITIONS if level >= min(group, FIRST_LEVEL_PARTITIONS_MAX)
        )

    def sizes(self, question: Question) -> Sampled:
        """The sizes of the roots, sampled or exact.

        A root whose stored data are corrupt is FAILED; the others are answered. Raises InvalidInput,
        RevisionNotReached, DeadlineExceeded, and DataLoss when not even the population can be counted.
        """
        check_precision(question.precision)
        population = self._backend.universe_size(question.plan.account, question.inputs)
        try:
            return self._sampled(question, population)
        except DataLoss:
            return self._root_by_root(question)

    def _sampled(self, question: Question, population: int) -> Sampled:
        if isinstance(question.precision, Exact) or population <= EXACT_AT_ONCE_USERS_MAX:
            return _stand_for(self._read(question, PARTITION_COUNT), population)
        remembered = (question.key, self._backend.revision())
        with self._lock:
            level = self._decided.get(remembered)
        if level is not None:
            return _stand_for(self._read(question, level), population)
        if isinstance(question.precision, MaxRelativeError):
            counts, level = self._until_precise(question, population, question.precision.value)
        else:
            counts, level = self._within_budget(
                question, _budget_seconds(question.precision) - question.spent
            )
        self._remember(remembered, level)
        return _stand_for(counts, population)

    def _within_budget(self, question: Question, budget: float) -> tuple[Counts, int]:
        """Larger samples for as long as the cost of the last one lets the next fit. One that takes longer
        after all is given up for the one before.
        """
        begun = self._timer()
        shape = _shape(question.plan)
        ceiling = self._ceiling(shape, begun)
        level = self._first_level
        counts = self._read(question, level)
        cost = spent = self._timer() - begun
        while True:
            fitting = [
                larger
                for larger in LEVELS_PARTITIONS
                if level < larger <= ceiling and spent + cost * larger / level <= budget
            ]
            if not fitting:
                return counts, level
            try:
                counts = self._read(question, fitting[-1], seconds_max=budget - spent)
            except DeadlineExceeded:
                self._give_up(shape, level)
                return counts, level
            level = fitting[-1]
            cost = self._timer() - begun - spent
            spent += cost

    def _ceiling(self, shape: _Shape, now: float) -> int:
        """The largest level to try."""
        with self._lock:
            level, until = self._given_up.get(shape, (PARTITION_COUNT, math.inf))
        return level if now < until else PARTITION_COUNT

    def _give_up(self, shape: _Shape, level: int) -> None:
        with self._lock:
            self._given_up[shape] = level, self._timer() + GIVEN_UP_SECONDS
            if len(self._given_up) > DECISIONS_REMEMBERED_MAX:
                self._given_up.popitem(last=False)

    def _until_precise(self, question: Question, population: int, error_max: float) -> tuple[Counts, int]:
        """Larger and larger samples until the first root's error is small enough.

        The width of an interval falls with the square root of the sample, which tells the level to go to.
        """
        level = self._first_level
        while True:
            counts = self._read(question, level)
            size = _stand_for(counts, population).sizes[0]
            error = relative_error(size)
            precise = error <= error_max and size.state is not SizeState.TOO_SMALL
            if precise or level == PARTITION_COUNT:
                return counts, level
            needed = PARTITION_COUNT if math.isinf(error) else level * (error / error_max) ** 2
            level = next(
                (larger for larger in LEVELS_PARTITIONS if larger > level and larger >= needed),
                PARTITION_COUNT,
            )

    def _read(self, question: Question, partition_count: int, seconds_max: float | None = None) -> Counts:
        everything = partition_count == PARTITION_COUNT
        deadline = question.deadline
        if seconds_max is not None:
            latest = time.monotonic() + seconds_max
            deadline = latest if deadline is None else min(deadline, latest)
        return self._backend.execute(
            question.plan,
            Count(),
            partitions=None if everything else self._backend.sample_partitions(partition_count),
            min_revision=question.at_least,
            deadline=deadline,
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

    def _remember(self, key: tuple[bytes, int], level: int) -> None:
        with self._lock:
            self._decided[key] = level
            if len(self._decided) > DECISIONS_REMEMBERED_MAX:
                self._decided.popitem(last=False)


def _shape(plan: Plan) -> _Shape:
    return plan.account, tuple([type(step) for step in plan.steps])


def _stand_for(counts: Counts, population: int) -> Sampled:
    """What the counts of a sample say about everyone. The last root is the sample's own size."""
    *hits, sampled = counts.sizes
    if counts.fraction == 1.0:
        return Sampled(tuple(map(exact_size, hits)), sampled, counts.revision)
    # Users may have come between counting everyone and reading the sample.
    population = max(population, sampled)
    sizes = tuple(estimated_size(each, sampled, population) for each in hits)
    return Sampled(sizes, population, counts.revision)


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


def _budget_seconds(precision: Precision) -> float:
    if isinstance(precision, TimeBudget):
        return precision.micros / 1e6
    return EXACT_BUDGET_DEFAULT_MS / 1_000
