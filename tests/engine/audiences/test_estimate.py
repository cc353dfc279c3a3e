"""Choice of the sample, and failed sizes."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from engine.audiences.estimate import (
    EXACT_BUDGET_DEFAULT_MS,
    RETRY_SECONDS,
    Estimator,
    Question,
    check_precision,
)
from engine.audiences.model import Default, Exact, MaxRelativeError, Precision, SizeState, TimeBudget
from engine.audiences.sampling import relative_error
from engine.backends.base import Count, Counts, EventRecord, Outlook
from engine.backends.local.backend import LocalBackend
from engine.backends.local.settings import LocalSettings
from engine.criteria.model import EventType
from engine.errors import DataLoss, DeadlineExceeded, InvalidInput, LimitExceeded
from engine.plan.canonical import canonical_digest
from engine.plan.model import BucketMatch, Empty, EventMatch, EventSelection, Interval, Plan, Universe
from engine.values import PARTITION_COUNT
from tests.engine.site import ACCOUNT, NOW, WEB

SEED = 20_261_128
USERS = 24_000
"""More users than are always counted."""

SELECTION = EventSelection(inputs=(WEB,), name="buy")
STEPS = (
    Universe(inputs=(WEB,)),
    EventMatch(selection=SELECTION, intervals=(Interval(low=1.0),)),
    Empty(),
)
PLAN = Plan(account=ACCOUNT, as_of=NOW, steps=STEPS, roots=(1, 2, 0))


class Watched:
    """A real backend that records what is read, with a clock driven by the cost of reading.

    `work_ms` is the backend's estimate for everything.
    """

    def __init__(self, backend: LocalBackend) -> None:
        self._backend = backend
        self.read: list[int] = []
        self.work_ms = 0.0
        self.milliseconds_for_all = 0.0
        self.seconds = 0.0
        self.corrupt: frozenset[int] = frozenset()
        self.too_slow_above = PARTITION_COUNT
        self.documents = Documents()

    def timer(self) -> float:
        return self.seconds

    def outlook(self, plan: Plan, inputs: Sequence[str], **more: object) -> Outlook:
        return Outlook(self._backend.universe_size(plan.account, inputs), self.work_ms * 1_000)

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
        self.seconds += self.milliseconds_for_all / 1_000 * count / PARTITION_COUNT
        return self._backend.execute(plan, ask, partitions=partitions)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


class Documents(dict[str, bytes]):
    """Documents that outlive an estimator; `is_full` = writes are refused."""

    is_full = False

    def commit(self, puts: Mapping[str, bytes], deletes: Sequence[str] = ()) -> None:
        if self.is_full:
            raise LimitExceeded("the store is full", reason="STORE_FULL")
        self.update(puts)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBackend]:
    with pytest.MonkeyPatch.context() as patch:
        # The same order of partitions each time, so that figures of samples can be told beforehand.
        patch.setattr(secrets, "randbits", lambda bits: SEED)
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


def asked(watched: Watched, precision: Precision, plan: Plan = PLAN) -> tuple[Estimator, Question]:
    estimator = Estimator(watched, watched.timer)  # type: ignore[arg-type]
    return estimator, Question(
        plan=plan,
        inputs=(WEB,),
        name=lambda: canonical_digest(plan),
        precision=precision,
        at_least=0,
        deadline=None,
    )


def rare(share: float) -> Plan:
    """A plan of two roots: that share of the users, and everyone."""
    steps = (BucketMatch(salt="rare", first=0, last=int(share * 2**64)), Universe(inputs=(WEB,)))
    return Plan(account=ACCOUNT, as_of=NOW, steps=steps, roots=(0, 1))


# --- within a budget ----------------------------------------------------------------------------------------


def test_exact_when_the_estimate_fits_the_budget(watched: Watched) -> None:
    watched.work_ms = EXACT_BUDGET_DEFAULT_MS
    estimator, question = asked(watched, Default())
    sampled = estimator.sizes(question)
    assert watched.read == [PARTITION_COUNT]
    assert [(size.state, size.users) for size in sampled.sizes] == [
        (SizeState.EXACT, USERS // 5),
        (SizeState.EXACT, 0),
    ]
    assert sampled.population == USERS


@pytest.mark.parametrize("work_ms", [51, 100, 10_000])
def test_otherwise_the_smallest_sample(watched: Watched, work_ms: float) -> None:
    watched.work_ms = watched.milliseconds_for_all = work_ms
    estimator, question = asked(watched, Default())
    size = estimator.sizes(question).sizes[0]
    assert watched.read == [64]
    assert size.state is SizeState.ESTIMATED
    assert size.lower < size.users < size.upper
    assert size.lower <= USERS // 5 <= size.upper
    assert abs(size.sampled_fraction - 64 / PARTITION_COUNT) < 0.02


@pytest.mark.parametrize(
    ("budget_ms", "read"),
    [(1_000, PARTITION_COUNT), (500, 512), (250, 256), (125, 128), (63, 64), (0.001, 64)],
)
def test_caller_budget_decides_the_sample(watched: Watched, budget_ms: float, read: int) -> None:
    watched.work_ms = watched.milliseconds_for_all = 1_000
    estimator, question = asked(watched, TimeBudget(round(budget_ms * 1_000)))
    estimator.sizes(question)
    assert watched.read == [read]


def test_the_smallest_sample_is_the_floor_of_every_budget(watched: Watched) -> None:
    watched.work_ms = watched.milliseconds_for_all = 1_000
    answers = []
    for micros in (1, 4_999, 62_000):
        estimator, question = asked(watched, TimeBudget(micros))
        answers.append(estimator.sizes(question))
    assert watched.read == [64, 64, 64]
    assert answers[0] == answers[1] == answers[2]


def test_one_callers_budget_does_not_change_the_default(watched: Watched) -> None:
    """Neither of the same question nor of a similar one, though the short budget read only a sample."""
    watched.work_ms = watched.milliseconds_for_all = 5
    for salt in ("asked", "another"):
        steps = (BucketMatch(salt=salt, first=0, last=2**62), Universe(inputs=(WEB,)))
        plan = Plan(account=ACCOUNT, as_of=NOW, steps=steps, roots=(0, 1))
        if salt == "asked":
            estimator, hurried = asked(watched, TimeBudget(1), plan)
            assert estimator.sizes(hurried).sizes[0].state is SizeState.ESTIMATED
        question = dataclasses.replace(hurried, plan=plan, name=lambda: b"", precision=Default())
        assert estimator.sizes(question).sizes[0].state is SizeState.EXACT


def test_slow_reading_does_not_change_what_is_read(watched: Watched) -> None:
    """With a cold cache or a busy machine the answer is late but the same."""
    watched.work_ms = 150
    answers = []
    for milliseconds in (150, 200, 100_000):
        watched.milliseconds_for_all = milliseconds
        estimator, question = asked(watched, Default())
        answers.append(estimator.sizes(question))
    assert answers[0] == answers[1] == answers[2]
    assert watched.read == [64, 64, 64]
    watched.work_ms = EXACT_BUDGET_DEFAULT_MS
    estimator, question = asked(watched, Default())
    assert estimator.sizes(question).sizes[0].state is SizeState.EXACT


def test_fast_sample_leads_to_exact_answers_from_then_on(watched: Watched) -> None:
    watched.work_ms, watched.milliseconds_for_all = 60, 30
    estimator, question = asked(watched, Default())
    assert estimator.sizes(question).sizes[0].state is SizeState.EXACT
    assert watched.read == [64, PARTITION_COUNT]
    watched.read.clear()
    watched.milliseconds_for_all = 100_000
    assert estimator.sizes(question).sizes[0].state is SizeState.EXACT
    # So it is after a restart.
    estimator, question = asked(watched, Default())
    assert estimator.sizes(question).sizes[0].state is SizeState.EXACT
    assert watched.read == [PARTITION_COUNT, PARTITION_COUNT]


def test_exact_answer_requires_a_stored_time(watched: Watched) -> None:
    watched.work_ms, watched.milliseconds_for_all = 60, 30
    watched.documents.is_full = True
    estimator, question = asked(watched, Default())
    first = estimator.sizes(question)
    assert first.sizes[0].state is SizeState.ESTIMATED
    assert estimator.sizes(question) == first


def test_measured_time_applies_to_its_question_and_larger_budgets(watched: Watched) -> None:
    watched.work_ms, watched.milliseconds_for_all = 60, 30
    estimator, question = asked(watched, Default())
    estimator.sizes(question)
    watched.milliseconds_for_all = 100_000
    for budget_ms, other, state in (
        (31, PLAN, SizeState.EXACT),
        (29, PLAN, SizeState.ESTIMATED),
        (1_000_000, PLAN, SizeState.EXACT),
        (50, rare(0.5), SizeState.ESTIMATED),
    ):
        estimator, question = asked(watched, TimeBudget(budget_ms * 1_000), other)
        assert estimator.sizes(question).sizes[0].state is state, budget_ms


@pytest.mark.parametrize(("work_ms", "state"), [(72, SizeState.EXACT), (78, SizeState.ESTIMATED)])
def test_measured_time_expires_when_the_data_grow(watched: Watched, work_ms: float, state: SizeState) -> None:
    watched.work_ms, watched.milliseconds_for_all = 60, 30
    estimator, question = asked(watched, Default())
    estimator.sizes(question)
    watched.work_ms, watched.milliseconds_for_all = work_ms, 100_000
    assert estimator.sizes(question).sizes[0].state is state


def test_fast_exact_answer_makes_the_default_exact(watched: Watched) -> None:
    watched.work_ms, watched.milliseconds_for_all = 60, 40
    estimator, question = asked(watched, Exact())
    estimator.sizes(question)
    watched.milliseconds_for_all = 100_000
    estimator, question = asked(watched, Default())
    assert estimator.sizes(question).sizes[0].state is SizeState.EXACT


def test_slow_exact_count_is_not_retried_for_a_while(watched: Watched) -> None:
    watched.work_ms, watched.milliseconds_for_all, watched.too_slow_above = 60, 30, 64
    estimator, question = asked(watched, Default())
    first = estimator.sizes(question)
    assert (first.sizes[0].state, watched.read) == (SizeState.ESTIMATED, [64])
    watched.too_slow_above = PARTITION_COUNT
    assert estimator.sizes(question) == first
    # Another question is not held up by it.
    other = dataclasses.replace(question, plan=rare(0.5), name=lambda: b"another")
    assert estimator.sizes(other).sizes[0].state is SizeState.EXACT
    watched.seconds += RETRY_SECONDS
    assert estimator.sizes(question).sizes[0].state is SizeState.EXACT


def test_cached_sets_do_not_make_a_slow_default_exact(watched: Watched) -> None:
    """A repeat at the same instant is cached; the next write or second computes it again."""
    for work_ms, state in ((101, SizeState.ESTIMATED), (99, SizeState.EXACT)):
        watched.work_ms, watched.milliseconds_for_all = work_ms, 1
        estimator, question = asked(watched, Exact())
        estimator.sizes(question)
        watched.milliseconds_for_all = 100_000
        estimator, question = asked(watched, Default())
        assert estimator.sizes(question).sizes[0].state is state


# --- to a precision -----------------------------------------------------------------------------------------


def test_exact_ignores_the_cost(watched: Watched) -> None:
    watched.work_ms = watched.milliseconds_for_all = 100_000
    estimator, question = asked(watched, Exact())
    assert estimator.sizes(question).sizes[0].users == USERS // 5
    assert watched.read == [PARTITION_COUNT]


def test_the_sample_grows_until_the_error_is_small_enough(watched: Watched) -> None:
    half = Plan(account=ACCOUNT, as_of=NOW, steps=STEPS, roots=(1, 0))
    estimator, question = asked(watched, MaxRelativeError(0.05), half)
    size = estimator.sizes(question).sizes[0]
    assert (size.upper - size.lower) / 2 <= 0.05 * size.users
    assert watched.read[0] == 64
    assert watched.read[-1] < PARTITION_COUNT
    watched.read.clear()
    estimator, question = asked(watched, MaxRelativeError(0.000001), half)
    assert estimator.sizes(question).sizes[0].state is SizeState.EXACT
    assert watched.read == [64, PARTITION_COUNT]


@pytest.mark.parametrize("error_max", [0.5, 0.2, 0.1, 0.05])
def test_requested_error_holds_for_every_size(watched: Watched, error_max: float) -> None:
    """A label of few users is as precise as the whole."""
    steps = (*rare(0.01).steps, BucketMatch(salt="half", first=0, last=2**63))
    plan = Plan(account=ACCOUNT, as_of=NOW, steps=steps, roots=(2, 1, 0, 1))
    estimator, question = asked(watched, MaxRelativeError(error_max), plan)
    sizes = estimator.sizes(question).sizes
    assert max(map(relative_error, sizes)) <= error_max
    assert SizeState.TOO_SMALL not in {size.state for size in sizes}


def test_error_is_checked_again_when_fewer_match(watched: Watched) -> None:
    """As windows move, a sample that was large enough a moment ago may be too small."""
    estimator, question = asked(watched, MaxRelativeError(0.1), rare(0.5))
    assert relative_error(estimator.sizes(question).sizes[0]) <= 0.1
    later = dataclasses.replace(question, plan=rare(0.02))
    assert relative_error(estimator.sizes(later).sizes[0]) <= 0.1
    assert watched.read == [64, 64, PARTITION_COUNT]


# --- sizes from samples -------------------------------------------------------------------------------------


def test_few_or_no_hits_are_too_small(watched: Watched) -> None:
    watched.work_ms = watched.milliseconds_for_all = 100_000
    for share, users_max in ((1 / 800, 30), (1e-9, 0)):
        estimator, question = asked(watched, Default(), rare(share))
        size = estimator.sizes(question).sizes[0]
        assert size.state is SizeState.TOO_SMALL
        assert users_max <= size.upper <= 250
    assert (size.users, size.lower) == (0, 0)
    assert 40 <= size.upper <= 62
    estimator, question = asked(watched, MaxRelativeError(100.0), rare(1 / 800))
    assert estimator.sizes(question).sizes[0].state is not SizeState.TOO_SMALL


def test_sizes_that_need_no_sample_are_exact(watched: Watched) -> None:
    """The journey's users and the empty set, beside an estimated size."""
    watched.work_ms = watched.milliseconds_for_all = 100_000
    plan = Plan(account=ACCOUNT, as_of=NOW, steps=STEPS, roots=(1, 0, 2, 0))
    estimator, question = asked(watched, Default(), plan)
    buyers, draw, nobody = estimator.sizes(question).sizes
    assert buyers.state is SizeState.ESTIMATED
    assert (draw.state, draw.users, draw.sampled_fraction) == (SizeState.EXACT, USERS, 1.0)
    assert (nobody.state, nobody.users, nobody.sampled_fraction) == (SizeState.EXACT, 0, 1.0)


def test_corrupt_criterion_fails_alone(watched: Watched) -> None:
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
def test_invalid_precisions_are_refused(precision: Precision, field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_precision(precision)
    assert [v.field for v in refused.value.violations] == [field]


def test_intervals_of_the_fixed_sample_hold_the_true_sizes(watched: Watched) -> None:
    """A thousand criteria of 0.1 % to 99.9 % of the users, each the same every time, from real partitions."""
    watched.work_ms = watched.milliseconds_for_all = 100_000
    inside = 0
    for batch in range(20):
        shares = [(batch * 50 + place + 1) / 1_001 for place in range(50)]
        buckets = [BucketMatch(salt=f"s{share}", first=0, last=int(share * 2**64)) for share in shares]
        plan = Plan(
            account=ACCOUNT, as_of=NOW, steps=(*buckets, Universe(inputs=(WEB,))), roots=tuple(range(51))
        )
        estimator, question = asked(watched, Default(), plan)
        sampled = estimator.sizes(question)
        exact = watched.execute(plan, Count()).sizes
        inside += sum(
            size.lower <= true <= size.upper for size, true in zip(sampled.sizes, exact[:-1], strict=True)
        )
    assert set(watched.read) == {64, PARTITION_COUNT}
    assert 940 <= inside <= 980
