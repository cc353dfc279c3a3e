"""Which sample is read, and what is said when something cannot be."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from engine.audiences.estimate import GIVEN_UP_SECONDS, Estimator, Question, check_precision
from engine.audiences.model import Default, Exact, MaxRelativeError, Precision, SizeState, TimeBudget
from engine.backend import Count, Counts, EventRecord
from engine.criteria.model import EventType
from engine.errors import DataLoss, DeadlineExceeded, InvalidInput
from engine.local.backend import LocalBackend
from engine.local.settings import LocalSettings
from engine.plan.model import BucketMatch, EventMatch, EventSelection, Interval, Nobody, Plan, Universe
from engine.values import PARTITION_COUNT
from tests.engine.site import ACCOUNT, NOW, WEB

USERS = 24_000
"""More than are counted at once."""

SELECTION = EventSelection(inputs=(WEB,), name="buy")
STEPS = (
    Universe(inputs=(WEB,)),
    EventMatch(selection=SELECTION, intervals=(Interval(low=1.0),)),
    Nobody(),
)
PLAN = Plan(account=ACCOUNT, as_of=NOW, steps=STEPS, roots=(1, 2, 0))


class Watched:
    """A real backend that keeps note of what is read of it, with a clock that tells what reading costs."""

    def __init__(self, backend: LocalBackend) -> None:
        self._backend = backend
        self.read: list[int] = []
        self.seconds_per_partition = 0.0
        self.seconds = 0.0
        self.revisions_ahead = 0
        self.corrupt: frozenset[int] = frozenset()
        self.too_slow_above = PARTITION_COUNT

    def timer(self) -> float:
        return self.seconds

    def revision(self) -> int:
        return self._backend.revision() + self.revisions_ahead

    def execute(
        self,
        plan: Plan,
        ask: Count,
        *,
        partitions: Sequence[int] | None = None,
        min_revision: int = 0,
        deadline: float | None = None,
    ) -> Counts:
        if self.corrupt.intersection(plan.roots):
            raise DataLoss("a value is corrupt", metadata={"key_family": "COLUMN"})
        count = PARTITION_COUNT if partitions is None else len(partitions)
        if count > self.too_slow_above:
            raise DeadlineExceeded("too slow")
        self.read.append(count)
        self.seconds += count * self.seconds_per_partition
        return self._backend.execute(plan, ask, partitions=partitions)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBackend]:
    # A group has 64 partitions, the smallest sample.
    backend = LocalBackend.open(tmp_path_factory.mktemp("store"), settings=LocalSettings(groups=16))
    for first in range(0, USERS, 8_000):
        backend.append(ACCOUNT, [row(number) for number in range(first, first + 8_000)])
    yield backend
    backend.close()


def row(number: int) -> EventRecord:
    """Of five users one buys."""
    name = "look" if number % 5 else "buy"
    return EventRecord(f"user-{number}", WEB, name, EventType.CUSTOM, NOW, {})


@pytest.fixture
def watched(filled: LocalBackend) -> Watched:
    return Watched(filled)


def asked(watched: Watched, precision: Precision, key: bytes = b"q") -> Any:
    estimator = Estimator(watched, watched.timer)  # type: ignore[arg-type]
    return estimator, Question(
        plan=PLAN, inputs=(WEB,), key=key, precision=precision, at_least=0, deadline=None
    )


def test_exact_when_everything_fits_in_the_default_budget(watched: Watched) -> None:
    watched.seconds_per_partition = 0.045 / (PARTITION_COUNT + 64)
    estimator, question = asked(watched, Default())
    sampled = estimator.sizes(question)
    assert watched.read == [64, PARTITION_COUNT]
    assert [(size.state, size.users) for size in sampled.sizes] == [
        (SizeState.EXACT, USERS // 5),
        (SizeState.EXACT, 0),
    ]
    assert sampled.population == USERS


@pytest.mark.parametrize(
    ("milliseconds_for_all", "read"), [(60, [64, 512]), (150, [64, 256]), (500, [64]), (10_000, [64])]
)
def test_otherwise_the_largest_sample_that_fits(
    watched: Watched, milliseconds_for_all: float, read: list[int]
) -> None:
    watched.seconds_per_partition = milliseconds_for_all / 1_000 / PARTITION_COUNT
    estimator, question = asked(watched, Default())
    size = estimator.sizes(question).sizes[0]
    assert watched.read == read
    assert size.state is SizeState.ESTIMATED
    assert size.lower < size.users < size.upper
    assert size.lower <= USERS // 5 <= size.upper
    assert abs(size.sampled_fraction - read[-1] / PARTITION_COUNT) < 0.02


def test_the_same_question_reads_the_same_sample_until_data_change(watched: Watched) -> None:
    watched.seconds_per_partition = 0.5 / PARTITION_COUNT
    estimator, question = asked(watched, Default())
    first = estimator.sizes(question)
    watched.seconds_per_partition = 0.0
    assert estimator.sizes(question) == first
    assert watched.read == [64, 64]
    watched.revisions_ahead = 1
    assert estimator.sizes(question).sizes[0].state is SizeState.EXACT


def test_a_sample_that_takes_too_long_is_given_up_for_the_one_before(watched: Watched) -> None:
    watched.too_slow_above = 64
    estimator, question = asked(watched, TimeBudget(100_000))
    assert estimator.sizes(question).sizes[0].state is SizeState.ESTIMATED
    assert watched.read == [64]


def test_a_sample_given_up_is_not_tried_again_for_a_while(watched: Watched) -> None:
    watched.too_slow_above = 64
    estimator, question = asked(watched, Default())
    estimator.sizes(question)
    watched.too_slow_above = PARTITION_COUNT
    estimator.sizes(dataclasses.replace(question, key=b"another instant"))
    assert watched.read == [64, 64]
    watched.seconds += GIVEN_UP_SECONDS
    later = estimator.sizes(dataclasses.replace(question, key=b"later"))
    assert watched.read == [64, 64, 64, PARTITION_COUNT]
    assert later.sizes[0].state is SizeState.EXACT


def test_exact_whatever_it_takes(watched: Watched) -> None:
    watched.seconds_per_partition = 1.0
    estimator, question = asked(watched, Exact())
    assert estimator.sizes(question).sizes[0].users == USERS // 5
    assert watched.read == [PARTITION_COUNT]


def test_the_sample_grows_until_the_error_is_small_enough(watched: Watched) -> None:
    estimator, question = asked(watched, MaxRelativeError(0.05))
    size = estimator.sizes(question).sizes[0]
    assert (size.upper - size.lower) / 2 <= 0.05 * size.users
    assert watched.read[0] == 64
    assert watched.read[-1] < PARTITION_COUNT
    watched.read.clear()
    estimator, question = asked(watched, MaxRelativeError(0.000001))
    assert estimator.sizes(question).sizes[0].state is SizeState.EXACT
    assert watched.read == [64, PARTITION_COUNT]


def rare(question: Question) -> Question:
    """The question about some thirty users, a few of whom are in the smallest sample."""
    steps = (BucketMatch(salt="rare", first=0, last=2**64 // 800), Universe(inputs=(WEB,)))
    plan = Plan(account=ACCOUNT, as_of=NOW, steps=steps, roots=(0, 1))
    return dataclasses.replace(question, plan=plan)


def test_too_few_hits_are_an_answer_only_when_the_budget_is_gone(watched: Watched) -> None:
    watched.seconds_per_partition = 0.5 / PARTITION_COUNT
    estimator, question = asked(watched, Default())
    assert estimator.sizes(rare(question)).sizes[0].state is SizeState.TOO_SMALL
    assert watched.read == [64]
    watched.seconds_per_partition = 0.02 / PARTITION_COUNT
    estimator, question = asked(watched, Default())
    assert estimator.sizes(rare(question)).sizes[0].state is SizeState.EXACT
    estimator, question = asked(watched, MaxRelativeError(100.0))
    assert estimator.sizes(rare(question)).sizes[0].state is not SizeState.TOO_SMALL


def test_what_was_spent_before_counts_towards_the_budget(watched: Watched) -> None:
    watched.seconds_per_partition = 0.04 / PARTITION_COUNT
    estimator, question = asked(watched, Default())
    estimator.sizes(question)
    assert watched.read == [64, PARTITION_COUNT]
    watched.read.clear()
    estimator, question = asked(watched, Default())
    estimator.sizes(dataclasses.replace(question, spent=0.02))
    assert watched.read == [64, 512]


def test_a_corrupt_criterion_fails_by_itself(watched: Watched) -> None:
    watched.corrupt = frozenset({2})
    estimator, question = asked(watched, Default())
    good, bad = estimator.sizes(question).sizes
    assert (good.state, good.users) == (SizeState.EXACT, USERS // 5)
    assert (bad.state, bad.failure) == (SizeState.FAILED, "a value is corrupt")
    watched.corrupt = frozenset({0})
    with pytest.raises(DataLoss):
        estimator.sizes(question)


@pytest.mark.parametrize(
    ("precision", "field"),
    [
        (MaxRelativeError(0.0), "max_relative_error"),
        (MaxRelativeError(float("nan")), "max_relative_error"),
        (MaxRelativeError(float("inf")), "max_relative_error"),
        (TimeBudget(0), "time_budget"),
    ],
)
def test_precisions_that_cannot_be(precision: Precision, field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_precision(precision)
    assert [v.field for v in refused.value.violations] == [field]


def test_intervals_of_the_fixed_sample_hold_the_true_sizes(watched: Watched) -> None:
    """A thousand criteria of 0.1 % to 99.9 % of the users, each the same every time, from real partitions."""
    watched.seconds_per_partition = 1.0
    inside = 0
    for batch in range(20):
        shares = [(batch * 50 + place + 1) / 1_001 for place in range(50)]
        buckets = [BucketMatch(salt=f"s{share}", first=0, last=int(share * 2**64)) for share in shares]
        plan = Plan(
            account=ACCOUNT, as_of=NOW, steps=(*buckets, Universe(inputs=(WEB,))), roots=tuple(range(51))
        )
        estimator, question = asked(watched, Default())
        sampled = estimator.sizes(dataclasses.replace(question, plan=plan))
        exact = watched.execute(plan, Count()).sizes
        inside += sum(
            size.lower <= true <= size.upper for size, true in zip(sampled.sizes, exact[:-1], strict=True)
        )
    assert set(watched.read) == {64, PARTITION_COUNT}
    assert 940 <= inside <= 970
